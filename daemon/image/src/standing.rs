//! The memory of a process that stands, read while somebody waits for it to go on: by system calls that take many
//! pages at once, on all processors, into memory that was made ready before the process was stopped.

use crate::memory::{OwnMemory, PAGE, mappings};
use godebug_api::{Code, Refusal};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use std::io::{self, IoSliceMut};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

/// Read at once. A small one keeps to the time that there is, and leaves no hand without work at the end.
const CHUNK: usize = 256 << 10;
/// More than there was before, for what is allocated until the process stands.
const MORE: usize = 4 << 20;

/// Where the memory goes, and who reads it: a thread of its own that is ready before the process stands. Whoever stopped
/// the process only waits, and lets it go in time though a page should hang on a disk.
pub(crate) struct Room(Ready<Result<Contents, Refusal>>);

/// What was read.
pub(crate) struct Contents {
    pub(crate) own: OwnMemory,
    /// Everything that there is of it, without what lies between.
    pub(crate) bytes: Vec<u8>,
}

/// A part of the process's memory, and where it goes.
type Piece<'a> = (u64, &'a mut [u8]);

/// Work that another thread does when it is told until when.
struct Ready<T> {
    begin: SyncSender<Instant>,
    done: Receiver<T>,
}

impl Room {
    /// For what the process has now, and a little more.
    ///
    /// # Errors
    /// When it cannot be looked at, or there is no thread for it.
    pub(crate) fn for_memory_of(pid: Pid) -> io::Result<Self> {
        let bytes = usize::try_from(OwnMemory::of(pid.as_raw())?.bytes()).unwrap_or(0);
        // Of zeros there would be none before the first use of each page, which is when somebody waits.
        let bytes = vec![0xff; bytes + MORE];
        Ready::to(move |until| read_into(bytes, pid, until)).map(Self)
    }

    /// Reads what the process has, which stands, until then at the latest.
    ///
    /// # Errors
    /// When it takes longer, or the process has ended.
    pub(crate) fn read(self, pid: Pid, until: Instant) -> Result<Contents, Refusal> {
        self.0.result(until).unwrap_or_else(|| Err(late(pid)))
    }
}

impl<T: Send + 'static> Ready<T> {
    fn to(work: impl FnOnce(Instant) -> T + Send + 'static) -> io::Result<Self> {
        let (begin, told) = sync_channel(1);
        let (finished, done) = sync_channel(1);
        std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
            // Of one that is never told, or is not waited for any more, nobody wants anything.
            let Ok(until) = told.recv() else { return };
            let _ = finished.send(work(until));
        })?;
        Ok(Self { begin, done })
    }

    /// `None` when it is not done by then; it is left to itself.
    fn result(self, until: Instant) -> Option<T> {
        self.begin.send(until).ok()?;
        self.done.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
    }
}

fn late(pid: Pid) -> Refusal {
    Refusal::new(
        Code::Freeze,
        format!("reading the memory of process {pid} took longer than it may stand"),
        "it runs on; try again, or allow a longer stop with --max-pause",
    )
}

fn read_into(mut bytes: Vec<u8>, pid: Pid, until: Instant) -> Result<Contents, Refusal> {
    let own = OwnMemory::of(pid.as_raw()).map_err(|_| crate::trace::ended(pid))?;
    bytes.resize(usize::try_from(own.bytes()).unwrap_or(0), 0);
    read_all(pid, pieces(&own, &mut bytes), until).then_some(()).ok_or_else(|| late(pid))?;
    // Of one that was killed meanwhile there is nothing to be read, which is no image of it.
    match mappings(pid.as_raw()) {
        Ok(still) if !still.is_empty() => Ok(Contents { own, bytes }),
        _ => Err(crate::trace::ended(pid)),
    }
}

fn pieces<'a>(own: &OwnMemory, bytes: &'a mut [u8]) -> Vec<Piece<'a>> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    for range in own.ranges() {
        let length = usize::try_from(range.end - range.start).unwrap_or(0).min(rest.len());
        let (part, others) = rest.split_at_mut(length);
        rest = others;
        let addresses = (range.start..).step_by(CHUNK);
        pieces.extend(addresses.zip(part.chunks_mut(CHUNK)));
    }
    pieces
}

/// Whether it was done in time.
fn read_all(pid: Pid, pieces: Vec<Piece<'_>>, until: Instant) -> bool {
    let hands = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
    let mut shares: Vec<Vec<Piece<'_>>> = (0..hands).map(|_| Vec::new()).collect();
    for (index, piece) in pieces.into_iter().enumerate() {
        shares[index % hands].push(piece);
    }
    let work = move |share: Vec<Piece<'_>>| {
        share.into_iter().all(|(address, part)| {
            read(pid, address, part);
            Instant::now() < until
        })
    };
    std::thread::scope(|scope| {
        let own_share = shares.pop().unwrap_or_default();
        let others: Vec<_> =
            shares.into_iter().map(|share| scope.spawn(move || work(share))).collect();
        let in_time = work(own_share);
        others.into_iter().all(|other| other.join().unwrap_or(false)) && in_time
    })
}

/// A page that cannot be read (a device's, a poisoned one) is one of zeros.
fn read(pid: Pid, address: u64, part: &mut [u8]) {
    let mut done = 0;
    while done < part.len() {
        let base = usize::try_from(address).unwrap_or(0) + done;
        let remote = [RemoteIoVec { base, len: part.len() - done }];
        let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut part[done..])], &remote);
        let page = usize::try_from(PAGE).unwrap_or(4096).min(part.len() - done);
        done += match read {
            Ok(bytes) if bytes > 0 => bytes,
            _ => {
                part[done..done + page].fill(0);
                page
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A process that stands, with something in its memory.
    struct Standing(std::process::Child);

    impl Standing {
        fn new() -> Self {
            let script = "word=$(printf 'marma%s' lade); read line; echo $word";
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script]).stdin(std::process::Stdio::piped());
            let process = Self(command.spawn().unwrap());
            let has_word = || {
                let room = Room::for_memory_of(process.pid()).ok()?;
                let contents = room.read(process.pid(), soon()).ok()?;
                contents.bytes.windows(9).any(|part| part == b"marmalade").then_some(())
            };
            while has_word().is_none() {
                std::thread::yield_now();
            }
            process
        }

        fn pid(&self) -> Pid {
            Pid::from_raw(i32::try_from(self.0.id()).unwrap())
        }
    }

    impl Drop for Standing {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_a_process_has_is_read() {
        let process = Standing::new();
        let contents = Room::for_memory_of(process.pid()).unwrap().read(process.pid(), soon());
        let contents = contents.unwrap();
        assert_eq!(contents.own.bytes(), contents.bytes.len() as u64);
        // The stack ends with the name of the program, which the kernel has put there.
        let at_stack = |(index, _): &(usize, _)| contents.own.mappings[*index].path == "[stack]";
        let stack = contents.own.parts.iter().position(at_stack).unwrap();
        let up_to_its_end = contents.own.parts[..=stack].iter().flat_map(|(_, ranges)| ranges);
        let end: u64 = up_to_its_end.map(|range| range.end - range.start).sum();
        let end = usize::try_from(end).unwrap();
        let last = &contents.bytes[end - 64..end];
        assert!(last.windows(3).any(|part| part == b"/sh"), "{last:?}");
    }

    #[test]
    fn no_longer_than_it_may_stand() {
        let process = Standing::new();
        let room = Room::for_memory_of(process.pid()).unwrap();
        let read = room.read(process.pid(), Instant::now());
        assert_eq!(read.err().map(|why| why.code), Some(Code::Freeze));
    }

    #[test]
    fn whoever_stopped_it_does_not_wait_for_a_page_that_hangs() {
        let (let_it_end, hangs) = sync_channel::<()>(0);
        let reader = Ready::to(move |_| hangs.recv()).unwrap();
        let until = Instant::now() + Duration::from_millis(5);
        assert!(reader.result(until).is_none());
        assert!(Instant::now() >= until);
        drop(let_it_end);
    }

    #[test]
    fn what_cannot_be_read_is_zeros() {
        let mut part = vec![7; 10_000];
        read(nix::unistd::getpid(), 4096, &mut part);
        assert!(part.iter().all(|byte| *byte == 0));
    }
}
