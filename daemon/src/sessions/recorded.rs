//! Images that a session has kept, for `core SESSION#NUMBER`: held in memory by nobody but godebugd, and gone with
//! their time, with `stop SESSION`, and with godebugd itself.
//!
//! They come from a process that has the rights of the service, so what it says of them is believed only
//! for what is shown; how large they are, and that nobody can change them, the kernel is asked.

use super::{Sessions, unpoisoned};
use crate::audit::{self, Entry, Kind};
use godebug_api::documents::{KeptDump, SessionInfo};
use godebug_api::handover;
use godebug_api::image::{ImageNote, Keep};
use godebug_api::{Deadline, Dump, ImageName, KeptImage, Pid, Refusal, SessionId, UnitName, clock};
use godebug_core::ledger::Opened;
use rustix::fs::SealFlags;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// So many of one session; the earliest go first.
const MOST: usize = 50;
/// So many of all of them: each is an open file of godebugd's.
const MOST_IN_ALL: usize = 200;
/// All that are held have no more than this together, beside the latest.
const MOST_BYTES: u64 = 1 << 30;
/// A clock can be set, and a host be suspended: the end is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Whose images they are.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) session: SessionId,
    pub(super) unit: UnitName,
    pub(super) pid: Pid,
    /// Who has had them taken, and may open them.
    pub(super) uid: u32,
    pub(super) user: String,
    /// The program that ran, whatever lies there by now, and where that is.
    pub(super) program: File,
    pub(super) executable: PathBuf,
    pub(super) keep: Keep,
    /// The latest moment at which one can be taken.
    pub(super) ends: Deadline,
}

impl Origin {
    /// # Errors
    /// When the program cannot be opened.
    pub(super) fn of(
        session: &Opened,
        process: &crate::target::process::Process,
        keep: Keep,
    ) -> Result<Self, Refusal> {
        let failed = |error: &dyn std::fmt::Display| {
            Refusal::target(
                format!("the program of {} cannot be opened: {error}", session.unit),
                "try again",
            )
        };
        Ok(Self {
            session: session.id.clone(),
            unit: session.unit.clone(),
            pid: session.pid,
            uid: session.uid,
            user: session.user.clone(),
            program: process.open_exe().map_err(|error| failed(&error))?,
            executable: process.exe_link().map_err(|error| failed(&error))?.0,
            keep,
            ends: session.at_most_until,
        })
    }
}

struct Held {
    note: ImageNote,
    file: File,
    bytes: u64,
}

struct Record {
    origin: Origin,
    images: VecDeque<Held>,
    until: Deadline,
}

/// All that are kept on this host, those of the earliest session first.
#[derive(Default)]
pub(super) struct Recorded(VecDeque<Record>);

/// One of them, opened.
#[derive(Debug)]
pub(super) struct OneImage {
    pub(super) dump: Dump,
    pub(super) file: File,
    pub(super) program: File,
}

impl Recorded {
    /// Those that somebody may see: root all, others their own.
    fn seen_by(&self, uid: u32) -> impl Iterator<Item = &Record> {
        self.0.iter().filter(move |record| uid == 0 || record.origin.uid == uid)
    }

    fn add(&mut self, id: &SessionId, held: Held) {
        let Some(record) = self.0.iter_mut().find(|record| record.origin.session == *id) else {
            return;
        };
        record.until = Deadline::after(clock::now(), record.origin.keep.duration());
        while record.images.len() >= MOST {
            record.images.pop_front();
        }
        record.images.push_back(held);
        self.make_room(id);
    }

    /// The earliest go of the person who has most, but never the latest of all, which this session has just kept.
    fn make_room(&mut self, latest_of: &SessionId) {
        while let Some(uid) = self.who_has_too_much(latest_of) {
            let images_but_the_latest = |record: &Record| {
                record.images.len() - usize::from(record.origin.session == *latest_of)
            };
            let theirs = self
                .0
                .iter_mut()
                .find(|record| record.origin.uid == uid && images_but_the_latest(record) > 0);
            let Some(theirs) = theirs else { return };
            theirs.images.pop_front();
        }
    }

    /// Whoever has most beside the latest image, where all together have more than they may.
    fn who_has_too_much(&self, latest_of: &SessionId) -> Option<u32> {
        let (mut count, mut bytes) = (0, 0_u64);
        let mut of_each: BTreeMap<u32, (u64, usize)> = BTreeMap::new();
        for record in &self.0 {
            let is_latest = record.origin.session == *latest_of;
            let all = record.images.len();
            for held in record.images.iter().take(all - usize::from(is_latest && all > 0)) {
                let theirs = of_each.entry(record.origin.uid).or_default();
                *theirs = (theirs.0 + held.bytes, theirs.1 + 1);
                (count, bytes) = (count + 1, bytes + held.bytes);
            }
        }
        // With the latest there is one more.
        let most = match (bytes > MOST_BYTES, count >= MOST_IN_ALL) {
            (true, _) => of_each.iter().max_by_key(|(_, (bytes, _))| *bytes),
            (_, true) => of_each.iter().max_by_key(|(_, (_, count))| *count),
            _ => None,
        };
        most.map(|(uid, _)| *uid)
    }
}

impl Record {
    fn documents(&self) -> impl Iterator<Item = KeptDump> {
        self.images.iter().rev().map(|held| KeptDump {
            unit: self.origin.unit.clone(),
            dump: self.dump(held),
            uid: self.origin.uid,
            missing: None,
            kept_until: Some(clock::rfc3339(self.until.wall_ms)),
        })
    }

    fn dump(&self, held: &Held) -> Dump {
        let name = ImageName { session: self.origin.session.clone(), number: held.note.number };
        Dump {
            pid: self.origin.pid,
            time: held.note.time.clone(),
            signal: String::new(),
            executable: self.origin.executable.display().to_string(),
            stored_bytes: held.bytes,
            image: Some(KeptImage { name, place: held.note.place.clone() }),
        }
    }
}

impl Sessions {
    /// Keeps what comes through the socket, from now on until the session has ended.
    pub(super) fn keep_images(
        &self,
        origin: Origin,
        socket: OwnedFd,
        mut session: watch::Receiver<SessionInfo>,
    ) {
        let (id, ends) = (origin.session.clone(), origin.ends.remaining(clock::now()));
        let until = Deadline::after(clock::now(), origin.keep.duration());
        unpoisoned(&self.0.recorded).0.push_back(Record { origin, images: VecDeque::new(), until });
        let sessions = self.clone();
        let (socket, done) = (Arc::new(socket), tokio::sync::oneshot::channel());
        // A thread of its own, which ends with the unit that sends: recvmsg(2) with files is not for a runtime.
        std::thread::spawn({
            let (sessions, id, socket) = (sessions.clone(), id.clone(), Arc::clone(&socket));
            move || {
                sessions.take_in(&id, &socket);
                let _ = done.0.send(());
            }
        });
        tokio::spawn(async move {
            // Whoever tells of it is gone, or tells that it has ended: the unit is gone by then, and what it has sent is
            // in the socket, from which it is read all the same. Its end of the socket may be somebody else's now.
            // Its time is the latest in any case.
            let ended = session.wait_for(|info| !info.state.is_live());
            let _ = tokio::time::timeout(ends, ended).await;
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
            let _ = done.1.await;
            sessions.let_images_go(&id).await;
        });
    }

    fn take_in(&self, id: &SessionId, socket: &OwnedFd) {
        loop {
            let held = match handover::receive_image(socket.as_fd()) {
                Ok(None) => return,
                Ok(Some((note, file))) => held(note, file.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            match held {
                Ok(held) => unpoisoned(&self.0.recorded).add(id, held),
                // Whoever sends one such may send more.
                Err(error) => {
                    tracing::warn!("what session {id} gives to be kept is no image: {error}");
                    return;
                }
            }
        }
    }

    /// Waits for the end of their time, and lets them go.
    async fn let_images_go(&self, id: &SessionId) {
        if let Err(error) = self.record_kept(id) {
            tracing::error!("the audit log does not take that images are kept: {error}");
            self.drop_images(id, "the audit log does not take that they are kept");
            return;
        }
        loop {
            let left = {
                let recorded = unpoisoned(&self.0.recorded);
                let Some(record) = recorded.0.iter().find(|record| record.origin.session == *id)
                else {
                    return;
                };
                match record.images.is_empty() {
                    true => Duration::ZERO,
                    false => record.until.remaining(clock::now()),
                }
            };
            if left.is_zero() {
                self.drop_images(id, "their time is over");
                return;
            }
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    /// Lets the images of a session go that has ended. Whether there were any.
    pub(super) fn drop_images(&self, id: &SessionId, why: &str) -> bool {
        let gone = {
            let mut recorded = unpoisoned(&self.0.recorded);
            let at = recorded.0.iter().position(|record| record.origin.session == *id);
            at.and_then(|at| recorded.0.remove(at))
        };
        match gone {
            Some(record) if !record.images.is_empty() => {
                let count = record.images.len();
                let message =
                    format!("the {count} images that session {id} has kept are gone: {why}");
                tracing::info!("{message}");
                if let Err(error) = audit::record(&entry(&record.origin, Kind::ImagesGone, message))
                {
                    tracing::error!("the audit log does not take that images are gone: {error}");
                }
                true
            }
            _ => false,
        }
    }

    /// # Errors
    /// When the audit log does not take it.
    fn record_kept(&self, id: &SessionId) -> io::Result<()> {
        let entry = {
            let recorded = unpoisoned(&self.0.recorded);
            let record = recorded.0.iter().find(|record| record.origin.session == *id);
            let Some(record) = record.filter(|record| !record.images.is_empty()) else {
                return Ok(());
            };
            let (count, until) = (record.images.len(), clock::rfc3339(record.until.wall_ms));
            let message = format!("{count} images of session {id} are kept until {until}");
            entry(&record.origin, Kind::ImagesKept, message)
        };
        tracing::info!("{}", entry.message);
        audit::record(&entry)
    }

    /// Whether any are kept.
    pub(super) fn keeps_images(&self) -> bool {
        !unpoisoned(&self.0.recorded).0.is_empty()
    }

    /// The images of a unit that somebody may open, the latest first.
    pub fn kept_images(&self, unit: &UnitName, uid: u32) -> Vec<KeptDump> {
        let recorded = unpoisoned(&self.0.recorded);
        let mut all: Vec<KeptDump> = recorded
            .seen_by(uid)
            .filter(|record| record.origin.unit == *unit)
            .flat_map(Record::documents)
            .collect();
        all.sort_by(|a, b| b.dump.time.cmp(&a.dump.time));
        all
    }

    /// One image, for whoever may open it.
    ///
    /// # Errors
    /// When it is not, or no longer, there for them.
    pub(super) fn kept_image(
        &self,
        name: &ImageName,
        (unit, uid): (&UnitName, u32),
    ) -> Result<OneImage, Refusal> {
        let gone = || {
            Refusal::target(
                format!("no image {name} of {unit} is kept"),
                format!(
                    "`godebugctl core {unit} --list` shows those that are; `record` and `snapshot` keep them with --keep"
                ),
            )
        };
        let recorded = unpoisoned(&self.0.recorded);
        let record = recorded
            .seen_by(uid)
            .find(|record| record.origin.session == name.session && record.origin.unit == *unit)
            .ok_or_else(gone)?;
        let held =
            record.images.iter().find(|held| held.note.number == name.number).ok_or_else(gone)?;
        let again = |file: &File| {
            opened_again(file).map_err(|error| {
                Refusal::host(format!("image {name} cannot be opened: {error}"), "try again")
            })
        };
        Ok(OneImage {
            dump: record.dump(held),
            file: again(&held.file)?,
            program: again(&record.origin.program)?,
        })
    }
}

/// To be read only, and with a place of its own to read on from: several may look at one image at a time.
fn opened_again(file: &File) -> io::Result<File> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn held(note: ImageNote, file: File) -> io::Result<Held> {
    let wanted = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    if !rustix::fs::fcntl_get_seals(&file)?.contains(wanted) {
        return Err(io::Error::other("it could still be changed"));
    }
    let bytes = file.metadata()?.blocks() * 512;
    // Terminals and records show both.
    let is_plain = |text: &str| text.len() <= 1024 && !text.chars().any(char::is_control);
    if note.number == 0 || !is_plain(&note.time) || !is_plain(&note.place) {
        return Err(io::Error::other("what is said of it cannot be shown"));
    }
    Ok(Held { note, file, bytes })
}

fn entry(origin: &Origin, kind: Kind, message: String) -> Entry {
    let mut entry = Entry::new(kind, origin.unit.as_str(), origin.uid, &origin.user, message);
    entry.session = Some(origin.session.to_string());
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    fn sealed(bytes: usize) -> File {
        let file = memory(bytes);
        rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)
            .unwrap();
        file
    }

    fn memory(bytes: usize) -> File {
        use std::io::Write;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(rustix::fs::memfd_create("image", flags).unwrap());
        file.write_all(&vec![1; bytes]).unwrap();
        file
    }

    fn said(number: u32) -> ImageNote {
        ImageNote {
            number,
            time: format!("2026-01-31T00:00:{number:02}Z"),
            place: "main.f (a.go:1)".to_owned(),
        }
    }

    fn record(id: &str, uid: u32, keep: u32) -> Record {
        let origin = Origin {
            session: id.parse().unwrap(),
            unit: "a.service".parse().unwrap(),
            pid: Pid::try_from(77).unwrap(),
            uid,
            user: "ann".to_owned(),
            program: memory(1),
            executable: PathBuf::from("/a"),
            keep: Keep::try_from(keep).unwrap(),
            ends: Deadline::after(clock::now(), Duration::from_secs(60)),
        };
        let until = Deadline::after(clock::now(), origin.keep.duration());
        Record { origin, images: VecDeque::new(), until }
    }

    fn numbers(recorded: &Recorded, id: &str) -> Vec<u32> {
        let record = recorded.0.iter().find(|record| record.origin.session.as_str() == id).unwrap();
        record.images.iter().map(|held| held.note.number).collect()
    }

    #[test]
    fn what_could_still_be_changed_or_not_be_shown_is_no_image() {
        assert!(held(said(1), sealed(10)).is_ok());
        assert!(held(said(1), memory(10)).is_err());
        assert!(held(said(1), File::open("/dev/null").unwrap()).is_err());
        assert!(held(said(1), tempfile::tempfile().unwrap()).is_err());
        assert!(held(said(0), sealed(10)).is_err());
        let hostile = ImageNote { place: "\u{1b}[2J".to_owned(), ..said(1) };
        assert!(held(hostile, sealed(10)).is_err());
    }

    #[test]
    fn the_earliest_go_when_there_are_too_many_or_too_large_ones() {
        let (first, second) = ("aaaaaaaa", "bbbbbbbb");
        let mut recorded = Recorded(VecDeque::from([record(first, 0, 60), record(second, 0, 60)]));
        for number in 1..=60 {
            recorded.add(&first.parse().unwrap(), held(said(number), sealed(1)).unwrap());
        }
        assert_eq!((numbers(&recorded, first).len(), numbers(&recorded, first)[0]), (MOST, 11));
        let large = |number| Held { bytes: 3 << 29, ..held(said(number), sealed(1)).unwrap() };
        recorded.add(&second.parse().unwrap(), large(1));
        assert_eq!(numbers(&recorded, first).len(), MOST);
        recorded.add(&second.parse().unwrap(), large(2));
        assert_eq!((numbers(&recorded, first), numbers(&recorded, second)), (vec![], vec![2]));
        for id in ["cccccccc", "dddddddd", "eeeeeeee", "ffffffff", "gggggggg"] {
            recorded.0.push_back(record(id, 0, 60));
            for number in 1..=50 {
                recorded.add(&id.parse().unwrap(), held(said(number), sealed(1)).unwrap());
            }
        }
        assert_eq!(
            (numbers(&recorded, "cccccccc").len(), numbers(&recorded, "dddddddd").len()),
            (0, 50)
        );
        // Somebody who has few keeps them.
        recorded.0.push_front(record("hhhhhhhh", 1000, 60));
        for number in 1..=3 {
            recorded.add(&"hhhhhhhh".parse().unwrap(), held(said(number), sealed(1)).unwrap());
        }
        assert_eq!(numbers(&recorded, "hhhhhhhh"), [1, 2, 3]);
        assert_eq!(numbers(&recorded, "dddddddd").len(), 47);
        recorded.0.push_front(record("jjjjjjjj", 1001, 60));
        recorded.add(&"jjjjjjjj".parse().unwrap(), large(1));
        recorded.add(&"dddddddd".parse().unwrap(), held(said(1), sealed(1)).unwrap());
        assert!(
            numbers(&recorded, "jjjjjjjj").is_empty(),
            "it has most, and is no longer the latest"
        );
        assert_eq!(numbers(&recorded, "hhhhhhhh"), [1, 2, 3]);
    }

    #[test]
    fn images_are_seen_by_root_and_by_who_has_had_them_taken() {
        let recorded = Recorded(VecDeque::from([record("aaaaaaaa", 1000, 60)]));
        let seen = |uid| recorded.seen_by(uid).count();
        assert_eq!((seen(0), seen(1000), seen(1001)), (1, 1, 0));
    }
}
