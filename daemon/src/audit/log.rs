//! The file of the audit log: each record is sealed into the chain under a lock that godebugd and
//! godebug-revoke share, written, synced, and then remembered as the chain's end.
//!
//! Whatever of that fails beside the writing itself fails without a consequence for the caller: a
//! record that stands in the log is a record.

use super::lines::next_whole_line;
use crate::paths;
use godebug_api::chain::{Circumstances, Hash, Head, Stamp, Tail};
use godebug_api::clock;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{self, BufReader, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a writer waits for the others. A stopped godebugd that has the lock must not hold up a
/// revocation; without it the line says so, and O_APPEND keeps it whole.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the log is, and what is kept beside it.
pub(super) struct Places {
    pub(super) log: PathBuf,
    /// Of root alone; on another file system than the log, perhaps, and perhaps not there.
    pub(super) state: PathBuf,
    pub(super) patience: Duration,
}

impl Places {
    pub(super) fn of_this_host() -> Self {
        Self { log: paths::AUDIT_LOG.into(), state: paths::STATE.into(), patience: PATIENCE }
    }

    fn lock(&self) -> PathBuf {
        self.state.join("audit.lock")
    }

    /// The end of the chain as it was last written: what tells that a tail was cut off, and what
    /// the first line of a new file goes on from.
    pub(super) fn head(&self) -> PathBuf {
        self.state.join("audit.head")
    }
}

/// Writes a document as the log's next line, synced, and answers the chain's new end. `then` is run
/// with the lock still held, if it is.
///
/// # Errors
/// When it cannot be written.
pub(super) fn append(
    places: &Places,
    document: &[u8],
    then: impl FnOnce(Head),
) -> io::Result<Head> {
    let until = Instant::now() + places.patience;
    let lock = open(&places.lock(), OFlags::RDWR | OFlags::CREATE, 0o600);
    let mut locked = lock.as_ref().is_ok_and(|lock| flock(lock, until));
    let (mut log, at_log) = open_log(&places.log, until)?;
    // Readers take this one too, so that they see whole lines.
    locked = if lock.is_ok() { locked } else { at_log };
    let (from, circumstances, torn) = end_of(&log, remembered(&places.head()), !locked)?;
    let (mut line, head) = from
        .seal(document, &stamp(), circumstances)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    line.push(b'\n');
    if torn {
        line.insert(0, b'\n');
    }
    log.write_all(&line)?;
    log.sync_data()?;
    if let Err(error) = remember(&places.head(), head) {
        tracing::warn!("the end of the audit log cannot be remembered: {error}");
    }
    if locked {
        then(head);
    }
    Ok(head)
}

fn open(path: &Path, flags: OFlags, mode: u32) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(mode))?))
}

/// The log, locked if that can be had. A file that was renamed while its lock was waited for is the
/// old one of a rotation.
fn open_log(path: &Path, until: Instant) -> io::Result<(File, bool)> {
    loop {
        let log = open(path, OFlags::RDWR | OFlags::APPEND | OFlags::CREATE, 0o640)?;
        let locked = flock(&log, until);
        let (own, named) = (log.metadata()?, std::fs::metadata(path));
        let same = named.is_ok_and(|named| (named.dev(), named.ino()) == (own.dev(), own.ino()));
        if same || Instant::now() >= until {
            return Ok((log, locked));
        }
    }
}

fn flock(file: &File, until: Instant) -> bool {
    loop {
        if rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        // flock has no other way to wait with an end to it.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the next line goes on from, what it has to tell of that, and whether the last line is torn.
fn end_of(
    log: &File,
    remembered: Option<Head>,
    unlocked: bool,
) -> io::Result<(Head, Circumstances, bool)> {
    let length = log.metadata()?.len();
    let torn = ends_torn(log, length)?;
    let (last, gap) = match last_line(log, length)? {
        Some(line) if !torn => match Head::of(&line) {
            Some(head) => (Some(head), None),
            None => read_all(log)?,
        },
        Some(_) => read_all(log)?,
        None => (None, None),
    };
    // The later of the two: a log that ends before what is remembered was cut, and the gap in the
    // numbers will show it. Of two with one number the remembered one, for the same reason.
    let from = [last, remembered].into_iter().flatten().max_by_key(|head| head.seq);
    let from = from.unwrap_or(Head::START);
    let continues = length == 0 && from != Head::START;
    Ok((from, Circumstances { gap, unlocked, continues }, torn))
}

/// Whether the last line has no end, as a full disk or a crash leaves it: the next one would be
/// lost with it.
fn ends_torn(log: &File, length: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if length > 0 {
        log.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last != *b"\n")
}

/// The last line of a file that ends with a line break; `None` for an empty file.
fn last_line(log: &File, length: u64) -> io::Result<Option<Vec<u8>>> {
    let mut window = 16 * 1024;
    loop {
        let from = length.saturating_sub(window);
        let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
        log.read_exact_at(&mut bytes, from)?;
        bytes.pop();
        if let Some(before) = bytes.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(bytes.split_off(before + 1)));
        }
        if from == 0 {
            return Ok((length > 0).then_some(bytes));
        }
        window *= 4;
    }
}

/// The last line of the chain and the hash of what stands after it, for a log that does not end
/// with one: it is older than the chain, or was torn.
fn read_all(log: &File) -> io::Result<(Option<Head>, Option<Hash>)> {
    let mut reader = BufReader::with_capacity(64 * 1024, log);
    reader.rewind()?;
    let (mut tail, mut line) = (Tail::default(), Vec::new());
    while next_whole_line(&mut reader, &mut line)? {
        tail.line(&line);
    }
    Ok(tail.end())
}

pub(super) fn remembered(path: &Path) -> Option<Head> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn remember(path: &Path, head: Head) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = open(&new, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC, 0o600)?;
    file.write_all(&serde_json::to_vec(&head)?)?;
    std::fs::rename(&new, path)
}

/// Where and when.
pub(super) fn stamp() -> Stamp {
    static BOOT: OnceLock<String> = OnceLock::new();
    let boot = BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().replace('-', "")
    });
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Stamp { host, boot: boot.clone(), now: clock::now() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godebug_api::chain::{Checked, Fault, Kind, Warning, verify};

    struct Host {
        places: Places,
        _folder: tempfile::TempDir,
    }

    fn host() -> Host {
        let folder = tempfile::tempdir().unwrap();
        let (log, state) = (folder.path().join("audit.jsonl"), folder.path().to_owned());
        // A loaded machine takes its time over a hundred syncs.
        let places = Places { log, state, patience: Duration::from_secs(300) };
        Host { places, _folder: folder }
    }

    impl Host {
        fn write(&self, count: u64) {
            for number in 0..count {
                let document = format!(r#"{{"event":"refused","number":{number}}}"#);
                append(&self.places, document.as_bytes(), |_| ()).unwrap();
            }
        }

        fn text(&self) -> Vec<u8> {
            std::fs::read(&self.places.log).unwrap()
        }

        fn set(&self, text: &[u8]) {
            std::fs::write(&self.places.log, text).unwrap();
        }

        fn verified(&self) -> Result<Checked, Fault> {
            let text = self.text();
            let text = text.strip_suffix(b"\n").unwrap_or(&text);
            let head = remembered(&self.places.head());
            verify(text.split(|byte| *byte == b'\n'), &[], head)
        }
    }

    #[test]
    fn records_are_one_chain_whoever_writes_them() {
        let host = host();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| host.write(25));
            }
        });
        let checked = host.verified().unwrap();
        assert_eq!((checked.lines, checked.warnings), (100, vec![]));
    }

    #[test]
    fn a_torn_line_costs_only_itself() {
        let host = host();
        host.write(2);
        let mut text = host.text();
        text.extend_from_slice(br#"{"time":"2026"#);
        host.set(&text);
        host.write(2);
        let checked = host.verified().unwrap();
        assert_eq!((checked.lines, checked.warnings), (4, vec![Warning::Torn { line: 3 }]));
    }

    #[test]
    fn a_log_from_before_the_chain_goes_on_with_it() {
        let host = host();
        host.set(b"{\"old\":1}\n{\"old\":2}\n");
        host.write(3);
        let checked = host.verified().unwrap();
        assert_eq!((checked.before_the_chain, checked.lines), (2, 3));
        let text = host.text();
        host.set(&[b"{\"old\":7}", &text[b"{\"old\":1}".len()..]].concat());
        assert_eq!(host.verified().unwrap_err().kind, Kind::BeforeTheChain);
    }

    #[test]
    fn a_new_file_names_the_end_of_the_old_one() {
        let host = host();
        host.write(3);
        let rotated = host.places.log.with_extension("jsonl.1");
        std::fs::rename(&host.places.log, &rotated).unwrap();
        host.write(2);
        let old = std::fs::read(&rotated).unwrap();
        let last = old.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap();
        let prev = format!("\"prev\":\"{}\"", Head::of(last).unwrap().hash);
        assert!(String::from_utf8(host.text()).unwrap().lines().next().unwrap().contains(&prev));
        assert_eq!(host.verified().unwrap().warnings, [Warning::BeginsLater { seq: 4 }]);
        // The same where the file is emptied, and not renamed.
        host.set(b"");
        host.write(1);
        assert_eq!(host.verified().unwrap().warnings, [Warning::BeginsLater { seq: 6 }]);
    }

    #[test]
    fn a_cut_tail_shows_also_when_the_log_has_gone_on() {
        let host = host();
        host.write(5);
        let text = host.text();
        let cut = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(2).unwrap().0;
        host.set(&text[..=cut]);
        assert_eq!(host.verified().unwrap_err().kind, Kind::TailCut { missing: 2 });
        host.write(2);
        let fault = host.verified().unwrap_err();
        assert_eq!(fault, Fault { line: 4, kind: Kind::Removed { missing: 2 } });
    }

    #[test]
    fn a_writer_that_stands_still_with_the_lock_holds_up_nobody_and_is_told_of() {
        let mut host = host();
        host.places.patience = Duration::from_millis(100);
        host.write(2);
        let lock = open(&host.places.lock(), OFlags::RDWR, 0).unwrap();
        assert!(flock(&lock, Instant::now()));
        host.write(1);
        drop(lock);
        host.write(1);
        let checked = host.verified().unwrap();
        assert_eq!((checked.lines, checked.warnings), (4, vec![Warning::Unlocked { line: 3 }]));
    }

    #[test]
    fn without_its_state_the_log_is_written_all_the_same() {
        let mut host = host();
        host.places.state = "/nonexistent".into();
        host.write(3);
        assert_eq!(host.verified().unwrap().lines, 3);
    }

    #[test]
    fn a_log_that_cannot_be_written_is_an_error() {
        let mut host = host();
        host.places.log = "/nonexistent/audit.jsonl".into();
        assert!(append(&host.places, b"{}", |_| ()).is_err());
    }

    #[test]
    fn a_long_last_line_is_found() {
        let host = host();
        host.write(1);
        let document = format!(r#"{{"long":"{}"}}"#, "x".repeat(200_000));
        append(&host.places, document.as_bytes(), |_| ()).unwrap();
        host.write(1);
        assert_eq!(host.verified().unwrap().lines, 3);
    }
}
