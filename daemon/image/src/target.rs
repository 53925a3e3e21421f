//! The process of which images are taken, and the taking of one: stop, copy, go on, write the core.

use crate::core;
use crate::core_memory::Memory;
use crate::headroom;
use crate::memory::{self, PAGE, mappings};
use crate::standing::Room;
use crate::trace::{Threads, Wakeups, ended};
use godebug_api::image::{ImageConfig, PauseLimit};
use godebug_api::{Code, Copying, Refusal, clock};
use godebug_image::reached;
use nix::unistd::Pid;
use std::fs::File;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// The process, pinned by its start time.
pub(crate) struct Target {
    pid: Pid,
    start_ticks: u64,
    max_pause: PauseLimit,
    copying: Copying,
    /// The program, whatever has become of its name.
    pub(crate) executable: File,
    auxv: Vec<u8>,
    program: String,
}

/// A core, and what it took.
struct Written {
    core: File,
    bytes: u64,
    pause: Duration,
    written_in: Duration,
}

/// The process as it was at one moment.
pub(crate) struct Image {
    pub(crate) core: File,
    /// Of memory, in it.
    pub(crate) bytes: u64,
    pub(crate) pause: Duration,
    /// RFC 3339.
    pub(crate) time: String,
    /// The target's clock at that moment, CLOCK_MONOTONIC in nanoseconds.
    pub(crate) monotonic_ns: i64,
}

#[cfg(test)]
impl Image {
    /// One of nothing.
    pub(crate) fn for_tests() -> Self {
        let core = File::open("/dev/null").expect("it is there");
        Self { core, bytes: 0, pause: Duration::ZERO, time: String::new(), monotonic_ns: 0 }
    }
}

impl Target {
    pub(crate) fn open(config: &ImageConfig) -> Result<Self, Refusal> {
        let number = i32::try_from(config.pid.get()).unwrap_or(0);
        let pid = Pid::from_raw(number);
        let path = |name: &str| format!("/proc/{pid}/{name}");
        let unreadable = |error: std::io::Error| {
            Refusal::target(format!("process {pid} cannot be read: {error}"), "try again")
        };
        let executable = File::open(path("exe")).map_err(unreadable)?;
        let auxv = std::fs::read(path("auxv")).map_err(unreadable)?;
        let program = memory::program(number, &executable).map_err(unreadable)?;
        let (start_ticks, max_pause) = (config.start_ticks, config.work.max_pause());
        let copying = config.copying;
        let target = Self { pid, start_ticks, max_pause, copying, executable, auxv, program };
        target.is_same()?;
        Ok(target)
    }

    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    pub(crate) fn longest_stop(&self) -> Duration {
        self.max_pause.duration()
    }

    /// Whether the number still is that of the process that was meant, and an image can be taken.
    pub(crate) fn is_ready(&self) -> Result<(), Refusal> {
        self.is_same()?;
        headroom::check(self.pid.as_raw(), self.max_pause, self.copying)
    }

    fn is_same(&self) -> Result<(), Refusal> {
        let stat = std::fs::read(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name in field 2 may hold anything; the fields are counted from its end.
        let fields = stat.iter().rposition(|byte| *byte == b')').map(|end| &stat[end + 1..]);
        let start = fields
            .and_then(|fields| std::str::from_utf8(fields).ok())
            .and_then(|fields| fields.split_ascii_whitespace().nth(22 - 3)?.parse::<u64>().ok());
        if start == Some(self.start_ticks) { Ok(()) } else { Err(ended(self.pid)) }
    }

    /// A core with no memory in it.
    pub(crate) fn thin_core(&self) -> Result<File, Refusal> {
        core::write_thin(&self.described(vec![crate::trace::ThreadState::none(self.pid)]))
    }

    /// The memory that the program began with, and how far from its file's addresses it is.
    pub(crate) fn program_file(&self) -> Option<(Memory<'_>, u64)> {
        let memory = Memory::of(&self.executable).ok()?;
        let mappings = mappings(self.pid.as_raw()).ok()?;
        let first =
            mappings.iter().find(|mapping| mapping.inode != 0 && mapping.path == self.program)?;
        let moved = first.range.start.checked_sub(memory.first()? & !(PAGE - 1))?;
        Some((memory, moved))
    }

    fn described(&self, threads: Vec<crate::trace::ThreadState>) -> core::Process {
        core::Process {
            pid: self.pid.as_raw(),
            threads,
            auxv: self.auxv.clone(),
            program: self.program.clone(),
        }
    }

    /// An image of the process as it is now.
    pub(crate) fn image(&self, wakeups: &mut Wakeups) -> Result<Image, Refusal> {
        again(|| {
            let room = self.room()?;
            let mut threads = Threads::seize(self.pid, wakeups)?;
            threads.stop_all(Instant::now() + self.longest_stop())?;
            Ok(self.image_of(threads, None, room))
        })?
    }

    /// Arms these places for one image, and tells at which of them it was taken. `None` when nobody comes
    /// by in time, or the bell has been rung.
    pub(crate) fn image_at(
        &self,
        wakeups: &mut Wakeups,
        addresses: &[u64],
        until: Instant,
    ) -> Result<Option<(Image, Option<u64>)>, Refusal> {
        self.is_ready()?;
        again(|| {
            let room = self.room()?;
            let mut threads = Threads::seize(self.pid, wakeups)?;
            threads.arm(addresses)?;
            match threads.await_hit(until, self.longest_stop())? {
                None => Ok(Ok(None)),
                Some(hit) => {
                    let address = threads.address_of(hit);
                    Ok(self.image_of(threads, Some(hit), room).map(|image| Some((image, address))))
                }
            }
        })?
    }

    /// Where its memory is read to while it stands, if it is.
    fn room(&self) -> Result<Option<Room>, Refusal> {
        let room = (self.copying == Copying::Standing).then(|| Room::for_memory_of(self.pid));
        room.transpose().map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => Refusal::host(
                format!("there is no thread to read the memory of process {} with", self.pid),
                "does the host have too many processes?",
            ),
            _ => ended(self.pid),
        })
    }

    /// An image of the process, whose threads all stand. They go on here.
    fn image_of(
        &self,
        threads: Threads<'_>,
        hit: Option<Pid>,
        room: Option<Room>,
    ) -> Result<Image, Refusal> {
        let time = clock::rfc3339(clock::now().wall_ms);
        let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let Written { core, bytes, pause, written_in } = match room {
            None => self.written_from_copy(threads, hit)?,
            Some(room) => self.written_from_room(threads, hit, room)?,
        };
        // For the journal: nothing of the target's own.
        eprintln!(
            "an image in {:.2} ms, {bytes} bytes written in {:.0} ms",
            crate::milliseconds(pause),
            crate::milliseconds(written_in)
        );
        let monotonic_ns = monotonic.tv_sec * 1_000_000_000 + monotonic.tv_nsec;
        Ok(Image { core, bytes, pause, time, monotonic_ns })
    }

    fn written_from_copy(
        &self,
        mut threads: Threads<'_>,
        hit: Option<Pid>,
    ) -> Result<Written, Refusal> {
        let copy = threads.copy()?;
        let states = threads.states(hit);
        let pause = threads.release();
        copy.settle()?;
        reached("settled");
        let begun = Instant::now();
        let written = core::write(copy.pid.as_raw(), &self.described(states));
        let written_in = begun.elapsed();
        reached("written");
        copy.end()?;
        reached("ended");
        let (core, bytes) = written?;
        Ok(Written { core, bytes, pause, written_in })
    }

    /// Nothing happens in the process but that it stands.
    fn written_from_room(
        &self,
        threads: Threads<'_>,
        hit: Option<Pid>,
        room: Room,
    ) -> Result<Written, Refusal> {
        let until = threads.stand_since() + self.longest_stop();
        reached("standing");
        let read = room.read(self.pid, until);
        let states = threads.states(hit);
        reached("read-standing");
        let pause = threads.release();
        let begun = Instant::now();
        let (core, bytes) = core::write_read(&read?, &self.described(states))?;
        Ok(Written { core, bytes, pause, written_in: begun.elapsed() })
    }
}

/// A thread can be in the kernel just then, where it cannot be stopped: one that waits for a disk, or
/// for a child to have another program. All were let go then, and the next try usually does it.
fn again<T>(mut take: impl FnMut() -> Result<T, Refusal>) -> Result<T, Refusal> {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        match take() {
            Err(refusal) if refusal.code == Code::Freeze => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
    take()
}
