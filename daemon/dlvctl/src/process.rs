//! What /proc says about the target: who traces it, whether it is stopped, which signals wait for
//! it; and about dlv: whether it still lives.

use godebug_api::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{PidfdFlags, Signal, kill_process, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// SIGTRAP is signal 5, whose bit is the fifth.
const SIGTRAP_BIT: u64 = 0x10;

/// The target as it stands at one moment, all of its threads together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) traced: bool,
    /// By a signal (`T`), not by a tracer (`t`).
    pub(crate) stopped: bool,
    /// For one thread or for the process.
    pub(crate) sigtrap_pending: bool,
}

impl Target {
    /// `None` when the process has ended: it is gone, or waits to be reaped.
    pub(crate) fn read(pid: Pid) -> io::Result<Option<Self>> {
        let Some(leader) = Thread::read(&format!("/proc/{pid}/status"))? else { return Ok(None) };
        if leader.ended {
            return Ok(None);
        }
        let mut target = Self::default();
        target.add(&leader);
        for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path().join("status");
            // A thread may end between the listing and the reading.
            if let Some(thread) = Thread::read(&path.to_string_lossy())? {
                target.add(&thread);
            }
        }
        Ok(Some(target))
    }

    fn add(&mut self, thread: &Thread) {
        self.traced |= thread.traced;
        self.stopped |= thread.stopped;
        self.sigtrap_pending |= thread.pending & SIGTRAP_BIT != 0;
    }
}

/// One thread's status file.
#[derive(Debug, Default)]
struct Thread {
    ended: bool,
    traced: bool,
    stopped: bool,
    pending: u64,
}

impl Thread {
    /// `None` when the thread has gone.
    fn read(path: &str) -> io::Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(Self::parse(&text))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(status: &str) -> Self {
        let mut thread = Self::default();
        for line in status.lines() {
            let Some((field, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match field {
                "State" => {
                    thread.ended = value.starts_with(['Z', 'X']);
                    thread.stopped = value.starts_with('T');
                }
                "TracerPid" => thread.traced = value != "0",
                // Every thread's file shows the process's as well.
                "SigPnd" | "ShdPnd" => {
                    thread.pending |= u64::from_str_radix(value, 16).unwrap_or(0);
                }
                _ => {}
            }
        }
        thread
    }
}

fn is_gone(error: &io::Error) -> bool {
    // ESRCH: the file was opened in time and read too late.
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Whether a tracer holds its first thread, which dlv takes first.
pub(crate) fn is_traced(pid: Pid) -> bool {
    let leader = Thread::read(&format!("/proc/{pid}/status"));
    leader.is_ok_and(|leader| leader.is_some_and(|leader| leader.traced))
}

/// How many threads a process has; none when it is gone.
pub(crate) fn threads(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// Lets a process run on that a signal has stopped.
pub(crate) fn let_run(pid: Pid) -> io::Result<()> {
    Ok(kill_process(raw(pid)?, Signal::CONT)?)
}

/// Lets the tracer of a process run on, if it has one that a signal has stopped. Any other takes no
/// notice of it.
pub(crate) fn let_tracer_run(pid: Pid) -> io::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    match tracer.and_then(|tracer| tracer.trim().parse::<Pid>().ok()) {
        Some(tracer) => let_run(tracer),
        None => Ok(()),
    }
}

/// Sees when a process ends.
pub(crate) enum Watch {
    Pidfd(OwnedFd),
    /// Where a pidfd cannot be had.
    Proc(Pid),
    /// It had ended before.
    Ended,
}

impl Watch {
    pub(crate) fn over(pid: Pid) -> Self {
        match raw(pid).and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?)) {
            Ok(fd) => Self::Pidfd(fd),
            Err(error) if is_gone(&error) => Self::Ended,
            Err(_) => Self::Proc(pid),
        }
    }

    /// Waits no longer than `patience`; tells whether the process has ended.
    pub(crate) fn ends_within(&self, patience: Duration) -> bool {
        match self {
            Self::Ended => true,
            Self::Pidfd(fd) => {
                let timeout = patience.try_into().ok();
                let mut fds = [PollFd::new(fd, PollFlags::IN)];
                poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
            }
            Self::Proc(pid) => {
                std::thread::sleep(patience);
                let thread = Thread::read(&format!("/proc/{pid}/status"));
                thread.is_ok_and(|thread| thread.is_none_or(|thread| thread.ended))
            }
        }
    }
}

fn raw(pid: Pid) -> io::Result<rustix::process::Pid> {
    let number = i32::try_from(pid.get()).ok().and_then(rustix::process::Pid::from_raw);
    number.ok_or_else(|| io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_status_file_is_read() {
        let text =
            "Name:\tshop\nState:\tt (tracing stop)\nTracerPid:\t77\nSigPnd:\t0\nShdPnd:\t10\n";
        let thread = Thread::parse(text);
        assert!(thread.traced && !thread.stopped && !thread.ended);
        assert_eq!(thread.pending, 0x10);
        assert!(Thread::parse("State:\tT (stopped)\nTracerPid:\t0\n").stopped);
        assert!(Thread::parse("State:\tZ (zombie)\n").ended);
        // SIGCHLD does not count.
        let mut target = Target::default();
        target.add(&Thread::parse("SigPnd:\t0000000000010000\n"));
        assert_eq!(target, Target::default());
    }

    #[test]
    fn a_process_is_seen_to_stop_go_on_and_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let state = |wanted: bool| {
            (0..500).any(|_| {
                std::thread::sleep(Duration::from_millis(2));
                Target::read(pid).unwrap().unwrap().stopped == wanted
            })
        };
        kill_process(raw(pid).unwrap(), Signal::STOP).unwrap();
        assert!(state(true));
        let_run(pid).unwrap();
        assert!(state(false));
        assert_eq!(threads(pid), 1);
        let watches = [Watch::over(pid), Watch::Proc(pid)];
        assert!(watches.iter().all(|watch| !watch.ends_within(Duration::from_millis(1))));
        child.kill().unwrap();
        // Not reaped yet: dead all the same.
        assert!(watches[0].ends_within(Duration::from_secs(5)));
        assert!(watches[1].ends_within(Duration::from_millis(1)));
        assert_eq!(Target::read(pid).unwrap(), None);
        child.wait().unwrap();
        assert!(matches!(Watch::over(pid), Watch::Ended));
        assert_eq!(Target::read(pid).unwrap(), None);
    }
}
