//! A line at which an image is to be taken: its breakpoints, and what they do to threads.
//!
//! They are there only while all threads are traced. When one is reached all threads are stopped, and every
//! thread that has executed one is put back before it: the signal that it was about to get, or that
//! waits for it, is taken from it before it executes anything. Only then the breakpoints go. Should we be killed
//! before, whoever repairs finds them in the text, and knows by them which threads are to be put back.

use super::stop::{SIGTRAP, Stop};
use super::{Arch, Here, Status, Thread, Threads, raw};
use godebug_api::Refusal;
use godebug_image::reached;
use nix::sys::ptrace;
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Bit of SIGTRAP in the signal sets of /proc.
const SIGTRAP_BIT: u64 = 1 << (SIGTRAP - 1);
/// si_code of a signal that the kernel sends for an int3, and the one of other processors.
const BY_BREAKPOINT: [i32; 2] = [nix::libc::SI_KERNEL, nix::libc::TRAP_BRKPT];
/// Signals of one thread that are handed on in a row, to get at the SIGTRAP behind them.
const MOST_SIGNALS: usize = 8;
/// How often somebody who may have an order is listened to.
const ORDERS: Duration = Duration::from_millis(100);
/// What they are given to stand all at once before the breakpoints go that nobody has reached.
const STANDS_WITHIN: Duration = Duration::from_millis(50);
/// What the threads are given to be stopped and put back when all is over.
const PATIENCE: Duration = Duration::from_secs(5);

/// Places in the text, with what stands there.
pub(crate) struct Places {
    memory: File,
    places: Vec<(u64, Vec<u8>)>,
}

impl Places {
    fn read(pid: Pid, addresses: &[u64]) -> std::io::Result<Self> {
        let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
        let mut places = Vec::new();
        for address in addresses {
            let mut original = vec![0; Here::BREAKPOINT.len()];
            memory.read_exact_at(&mut original, *address)?;
            if original == Here::BREAKPOINT {
                return Err(std::io::Error::other("a breakpoint stands there already"));
            }
            places.push((*address, original));
        }
        Ok(Self { memory, places })
    }

    fn put_in(&self) -> std::io::Result<()> {
        self.places.iter().try_for_each(|(at, _)| self.memory.write_all_at(Here::BREAKPOINT, *at))
    }

    fn take_out(&self) -> std::io::Result<()> {
        self.places.iter().try_for_each(|(at, original)| self.memory.write_all_at(original, *at))
    }

    /// A process that was copied from the target while it was armed.
    pub(super) fn take_out_of(&self, child: Pid) {
        let Ok(memory) = File::options().write(true).open(format!("/proc/{child}/mem")) else {
            return; // it has ended
        };
        for (at, original) in &self.places {
            let _ = memory.write_all_at(original, *at);
        }
    }

    fn has(&self, address: u64) -> bool {
        self.places.iter().any(|(at, _)| *at == address)
    }
}

impl Threads<'_> {
    /// Puts breakpoints at these addresses. The threads are to be let run then.
    ///
    /// # Errors
    /// When one cannot be written; then there is none.
    pub(crate) fn arm(&mut self, addresses: &[u64]) -> Result<(), Refusal> {
        let refused = |error: std::io::Error| {
            Refusal::target(
                format!("the line cannot be armed in process {}: {error}", self.pid),
                "does the kernel forbid writing text (proc_mem.force_override)? without --at \
                 nothing is written",
            )
        };
        let places = Places::read(self.pid, addresses).map_err(refused)?;
        if let Err(error) = places.put_in() {
            let _ = places.take_out();
            return Err(refused(error));
        }
        self.armed = Some(places);
        self.is_planted = true;
        reached("armed");
        Ok(())
    }

    /// Lets the program run until a thread reaches the line, and stops all others. The line is not
    /// armed any more then. `None` when nobody has reached it by `until`, or the bell has been rung;
    /// the program runs then.
    pub(crate) fn await_hit(
        &mut self,
        until: Instant,
        longest_stop: Duration,
    ) -> Result<Option<Pid>, Refusal> {
        let mut looked = Instant::now();
        let hit = loop {
            if let Some(hit) = self.resume_or_hit()? {
                break hit;
            }
            // Threads that have changes without end must not keep us from an order.
            if looked.elapsed() > ORDERS {
                self.wakeups.sleep(Instant::now());
                looked = Instant::now();
            }
            self.wakeups.go_on()?;
            if Instant::now() >= until || self.wakeups.is_called() {
                return Ok(None);
            }
            let look = (Instant::now() + ORDERS).min(until);
            if let Some((tid, change)) = self.wakeups.next_change(look) {
                self.note(tid, change);
            }
            self.is_there()?;
        };
        let begun = Instant::now();
        self.stopped_at = Some(begun);
        reached("hit");
        self.stop_all(begun + longest_stop)?;
        self.put_back();
        reached("put-back");
        if let Some(places) = &self.armed {
            places.take_out().map_err(|_| super::ended(self.pid))?;
            self.is_planted = false;
        }
        reached("disarmed");
        // It may have ended just then.
        Ok(Some(hit).filter(|hit| self.threads.contains_key(&hit.as_raw())))
    }

    /// Where a thread stands that has hit the line, and was put back before it.
    pub(crate) fn address_of(&self, hit: Pid) -> Option<u64> {
        let places = self.armed.as_ref()?;
        let at = Here::counter(&Here::registers(hit).ok()?);
        places.has(at).then_some(at)
    }

    /// Lets every thread run that has stopped, but one that has reached the line.
    fn resume_or_hit(&mut self) -> Result<Option<Pid>, Refusal> {
        let stopped: Vec<(Pid, Thread)> = self
            .threads
            .iter()
            .filter(|(_, thread)| thread.stop.is_some())
            .map(|(tid, thread)| (Pid::from_raw(*tid), *thread))
            .collect();
        for (tid, thread) in stopped {
            if self.has_hit(tid, thread) {
                return Ok(Some(tid));
            }
            let resumed = match thread.stop {
                Some(Stop::Group) => raw::listen(tid),
                Some(Stop::Executed) => return self.is_there().map(|()| None),
                _ => raw::cont(tid, thread.signal),
            };
            // One that was killed meanwhile says so.
            let _ = resumed;
            self.threads.insert(tid.as_raw(), Thread { stop: None, signal: 0 });
        }
        Ok(None)
    }

    fn has_hit(&self, tid: Pid, thread: Thread) -> bool {
        let Some(places) = &self.armed else { return false };
        thread.stop == Some(Stop::Signal(SIGTRAP))
            && ptrace::getsiginfo(tid).is_ok_and(|info| BY_BREAKPOINT.contains(&info.si_code))
            && Here::registers(tid).is_ok_and(|registers| places.has(Here::executed(&registers)))
    }

    /// Takes away from every thread that stands what the line has done to it.
    fn put_back(&mut self) {
        let standing = self.threads.iter().filter(|(_, thread)| thread.stop.is_some());
        let standing: Vec<(Pid, Thread)> =
            standing.map(|(tid, thread)| (Pid::from_raw(*tid), *thread)).collect();
        for (tid, thread) in standing {
            if self.has_hit(tid, thread) {
                self.set_back(tid);
                self.threads.insert(tid.as_raw(), Thread { signal: 0, ..thread });
            } else if self.will_be_told_of_hit(tid) {
                self.set_back(tid);
                self.swallow(tid);
            }
        }
    }

    /// Whether it has executed a breakpoint, and was stopped by us before its SIGTRAP.
    fn will_be_told_of_hit(&self, tid: Pid) -> bool {
        let Some(places) = &self.armed else { return false };
        Here::registers(tid).is_ok_and(|registers| places.has(Here::executed(&registers)))
            && self.has_pending_trap(tid)
    }

    fn has_pending_trap(&self, tid: Pid) -> bool {
        Status::of(self.pid, tid).is_some_and(|status| status.pending & SIGTRAP_BIT != 0)
    }

    fn set_back(&self, tid: Pid) {
        let Ok(registers) = Here::registers(tid) else { return };
        let _ = Here::set_registers(tid, &Here::at(&registers, Here::executed(&registers)));
    }

    /// Lets the thread go as far as to its pending SIGTRAP, which comes before any instruction of the
    /// program, and keeps the signal from it.
    fn swallow(&mut self, tid: Pid) {
        for _ in 0..MOST_SIGNALS {
            if !self.has_pending_trap(tid) {
                return;
            }
            let Some(thread) = self.threads.get_mut(&tid.as_raw()) else { return };
            let signal = std::mem::take(&mut thread.signal);
            thread.stop = None;
            let _ = raw::cont(tid, signal);
            let limit = Instant::now() + PATIENCE;
            while self.threads.get(&tid.as_raw()).is_some_and(|thread| thread.stop.is_none()) {
                if self.wait(limit).is_err() {
                    return;
                }
            }
            if let Some(thread) = self.threads.get_mut(&tid.as_raw())
                && thread.signal == SIGTRAP
            {
                thread.signal = 0;
            }
        }
    }

    /// While there are breakpoints, every thread stands and is put back before they go, if that is possible in
    /// a moment: it is not for a thread that waits for a disk.
    pub(super) fn put_back_all(&mut self) {
        if !self.is_planted {
            return;
        }
        for tid in self.running().collect::<Vec<_>>() {
            let _ = ptrace::interrupt(Pid::from_raw(tid));
        }
        let limit = Instant::now() + STANDS_WITHIN;
        while self.running().next().is_some() && self.wait(limit).is_ok() {}
        self.put_back();
        reached("put-back-all");
    }

    /// The breakpoints go, whatever becomes of the threads. Not a second time: what stands there when nothing is
    /// traced any more is not ours, and kernels with proc_mem.force_override=ptrace do not let it be written.
    pub(super) fn disarm(&mut self) {
        let is_planted = std::mem::take(&mut self.is_planted);
        if let Some(places) = self.armed.as_ref().filter(|_| is_planted)
            && let Err(error) = places.take_out()
        {
            eprintln!("a breakpoint of process {} cannot be taken out: {error}", self.pid);
        }
    }

    /// Puts back whoever stands.
    pub(super) fn put_back_standing(&mut self) {
        if self.armed.is_some() {
            self.put_back();
        }
    }
}
