//! The threads of the target, held by ptrace for about a millisecond.
//!
//! What must never happen: a thread that is not let go, a signal that is lost, a system call that
//! fails since we were there. A thread that stops to be given a signal is let go with it, which the
//! kernel then gives it as if nothing had been; a thread that was in a system call is let go in the
//! kernel, with its own registers, from where the kernel restarts it.

mod arch;
mod breakpoints;
mod copy;
mod stop;
mod wakeups;

pub(crate) use arch::{Arch, Here};
pub(crate) use breakpoints::Places;
pub(crate) use wakeups::Wakeups;

use godebug_api::{Code, Refusal};
use godebug_image::stash::Stash;
use godebug_image::{raw, reached};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};
use stop::{Change, Stop};

/// How long a thread that cannot be stopped, since it waits for a disk, is waited for before all of
/// this ends: it would stop some time later with nobody there to let it go.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The exit status then.
const CANNOT_LET_GO: i32 = 4;

/// How one thread stands.
#[derive(Debug, Clone, Copy)]
struct Thread {
    /// `None` while it runs.
    stop: Option<Stop>,
    /// The signal that it is to be let go with; 0 for none.
    signal: i32,
}

/// All threads of a process, traced by us. They are let go when this value goes.
pub(crate) struct Threads<'a> {
    pid: Pid,
    threads: BTreeMap<i32, Thread>,
    wakeups: &'a mut Wakeups,
    stash: Stash,
    /// When the first of them was stopped.
    stopped_at: Option<Instant>,
    /// A line that is armed in them.
    armed: Option<Places>,
    /// Its breakpoints are in the text.
    is_planted: bool,
    executed: bool,
    /// Children of the target's own that have not been let go yet, and those that have.
    strangers: HashSet<i32>,
    freed: HashSet<i32>,
}

/// What a core says of a thread.
pub(crate) struct ThreadState {
    pub(crate) tid: i32,
    pub(crate) general: Vec<u8>,
    pub(crate) floating: Vec<u8>,
    pub(crate) more: Vec<(i32, Vec<u8>)>,
}

impl<'a> Threads<'a> {
    /// Traces every thread; those that appear later too. None is stopped by it.
    pub(crate) fn seize(pid: Pid, wakeups: &'a mut Wakeups) -> Result<Self, Refusal> {
        let mut threads = Self {
            pid,
            threads: BTreeMap::new(),
            wakeups,
            stash: Stash::new().map_err(|error| {
                Refusal::host(format!("there is no memory for a thread's registers: {error}"), "")
            })?,
            stopped_at: None,
            armed: None,
            is_planted: false,
            executed: false,
            strangers: HashSet::new(),
            freed: HashSet::new(),
        };
        loop {
            let all = tasks(pid)?;
            let new: Vec<i32> =
                all.into_iter().filter(|tid| !threads.threads.contains_key(tid)).collect();
            let mut taken = 0;
            for tid in new {
                if threads.seize_one(Pid::from_raw(tid))? {
                    threads.threads.insert(tid, Thread { stop: None, signal: 0 });
                    taken += 1;
                }
            }
            if taken == 0 {
                reached("seized");
                return Ok(threads);
            }
        }
    }

    fn seize_one(&self, tid: Pid) -> Result<bool, Refusal> {
        let options = ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_TRACEFORK
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_TRACESYSGOOD;
        match ptrace::seize(tid, options) {
            Ok(()) => Ok(true),
            // It has just ended.
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => match Status::of(self.pid, tid) {
                None => Ok(false),
                Some(status) if status.ended => Ok(false),
                // The kernel did it for us when a traced thread made it.
                Some(status) if status.tracer == nix::unistd::gettid().as_raw() => Ok(true),
                Some(status) if status.tracer != 0 => Err(Refusal::target(
                    format!("process {} is already traced by process {}", self.pid, status.tracer),
                    "a process can have one debugger; end that one first",
                )),
                Some(_) => Err(Refusal::target(
                    format!("thread {tid} of process {} cannot be traced: {error}", self.pid),
                    "see that the kernel allows it: sysctl kernel.yama.ptrace_scope",
                )),
            },
        }
    }

    /// Stops every thread, until `by` at the latest.
    ///
    /// # Errors
    /// When one cannot be stopped in time, or the process has ended. The threads are let go when
    /// this value goes.
    pub(crate) fn stop_all(&mut self, by: Instant) -> Result<(), Refusal> {
        self.stopped_at.get_or_insert_with(Instant::now);
        let running: Vec<i32> = self.running().collect();
        for tid in running {
            // One that has ended, or stopped by itself meanwhile, says so in a moment.
            let _ = ptrace::interrupt(Pid::from_raw(tid));
        }
        while self.running().next().is_some() || !self.strangers.is_empty() {
            self.wait(by)?;
        }
        reached("stopped");
        self.is_there()
    }

    fn running(&self) -> impl Iterator<Item = i32> + '_ {
        self.threads.iter().filter(|(_, thread)| thread.stop.is_none()).map(|(tid, _)| *tid)
    }

    fn is_there(&self) -> Result<(), Refusal> {
        if self.executed {
            return Err(Refusal::target(
                "the process has just become another program",
                "try again",
            ));
        }
        if self.threads.is_empty() {
            return Err(ended(self.pid));
        }
        Ok(())
    }

    /// Waits for one change and notes it.
    fn wait(&mut self, by: Instant) -> Result<Pid, Refusal> {
        let Some((tid, change)) = self.wakeups.next_change(by) else {
            return Err(Refusal::new(
                Code::Freeze,
                format!(
                    "process {} did not stand still in time: a thread waits in the kernel",
                    self.pid
                ),
                "try again, or allow a longer stop with --max-pause",
            ));
        };
        self.note(tid, change);
        Ok(tid)
    }

    fn note(&mut self, tid: Pid, change: Change) {
        let Change::Stopped(stop) = change else {
            self.threads.remove(&tid.as_raw());
            self.strangers.remove(&tid.as_raw());
            return;
        };
        if !self.threads.contains_key(&tid.as_raw()) && !is_thread_of(self.pid, tid) {
            return self.free_child(tid);
        }
        match stop {
            Stop::Cloned => {
                if let Ok(child) = ptrace::getevent(tid)
                    && let Ok(child) = i32::try_from(child)
                {
                    self.threads.entry(child).or_insert(Thread { stop: None, signal: 0 });
                }
            }
            Stop::Forked => {
                if let Ok(child) = ptrace::getevent(tid)
                    && let Ok(child) = i32::try_from(child)
                    && !self.freed.contains(&child)
                {
                    self.strangers.insert(child);
                }
            }
            Stop::Executed => self.executed = true,
            _ => {}
        }
        let signal = if let Stop::Signal(signal) = stop { signal } else { 0 };
        self.threads.insert(tid.as_raw(), Thread { stop: Some(stop), signal });
    }

    /// A process that the target has made by itself: none of ours. It has a copy of our breakpoint.
    fn free_child(&mut self, child: Pid) {
        if let Some(places) = &self.armed {
            places.take_out_of(child);
        }
        let _ = raw::detach(child, 0);
        self.strangers.remove(&child.as_raw());
        self.freed.insert(child.as_raw());
    }

    /// What the threads stand at, for a core; `first` comes first.
    pub(crate) fn states(&self, first: Option<Pid>) -> Vec<ThreadState> {
        let first = first.map(Pid::as_raw);
        let others = self.threads.keys().copied().filter(|tid| Some(*tid) != first);
        let all = first.into_iter().chain(others);
        all.filter_map(|tid| ThreadState::of(Pid::from_raw(tid)).ok()).collect()
    }

    /// When the first of them was stopped.
    pub(crate) fn stand_since(&self) -> Instant {
        self.stopped_at.unwrap_or_else(Instant::now)
    }

    /// Lets every thread go, and tells for how long they stood.
    pub(crate) fn release(mut self) -> Duration {
        self.let_go();
        reached("released");
        self.stopped_at.map(|at| at.elapsed()).unwrap_or_default()
    }

    fn let_go(&mut self) {
        self.put_back_all();
        self.disarm();
        self.put_back_standing();
        self.detach_stopped();
        reached("releasing");
        let limit = Instant::now() + LONGEST_WAIT;
        let running: Vec<i32> = self.running().collect();
        for tid in running {
            let _ = ptrace::interrupt(Pid::from_raw(tid));
        }
        // A thread can be let go only while it stands.
        while self.running().next().is_some() && self.wait(limit).is_ok() {
            self.put_back_standing();
            self.detach_stopped();
        }
        if let Some(tid) = self.running().next() {
            eprintln!(
                "thread {tid} of process {} does not stop; it is left to the kernel",
                self.pid
            );
            // Which lets go of all that we trace.
            std::process::exit(CANNOT_LET_GO);
        }
    }

    fn detach_stopped(&mut self) {
        self.threads.retain(|tid, thread| {
            if thread.stop.is_none() {
                return true;
            }
            // One that has been killed meanwhile needs no letting go.
            let _ = raw::detach(Pid::from_raw(*tid), thread.signal);
            false
        });
    }
}

impl Drop for Threads<'_> {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl ThreadState {
    /// A thread of which nothing is known but its number.
    pub(crate) fn none(tid: Pid) -> Self {
        let general = vec![0; Here::REGISTER_BYTES];
        Self { tid: tid.as_raw(), general, floating: Vec::new(), more: Vec::new() }
    }

    fn of(tid: Pid) -> nix::Result<Self> {
        let more = Here::MORE_REGISTERS.iter();
        Ok(Self {
            tid: tid.as_raw(),
            general: raw::register_set(tid, 1)?,
            floating: raw::register_set(tid, 2).unwrap_or_default(),
            // A processor without this kind has none.
            more: more
                .filter_map(|kind| Some((*kind, raw::register_set(tid, *kind).ok()?)))
                .collect(),
        })
    }
}

pub(crate) fn ended(pid: Pid) -> Refusal {
    Refusal::new(Code::Ended, format!("process {pid} has ended"), "")
}

fn tasks(pid: Pid) -> Result<Vec<i32>, Refusal> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| ended(pid))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

fn is_thread_of(pid: Pid, tid: Pid) -> bool {
    std::fs::exists(format!("/proc/{pid}/task/{tid}")).unwrap_or(false)
}

/// What /proc says of one thread.
struct Status {
    ended: bool,
    tracer: i32,
    /// The signals that wait for it alone; bit N-1 is signal N.
    pending: u64,
}

impl Status {
    fn of(pid: Pid, tid: Pid) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).ok()?;
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        Some(Self {
            ended: field("State")?.starts_with(['Z', 'X']),
            tracer: field("TracerPid")?.parse().ok()?,
            pending: u64::from_str_radix(field("SigPnd")?, 16).ok()?,
        })
    }
}
