//! How a thread stands, from the words of wait(2) and ptrace(2).

use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus, wait};

/// PTRACE_EVENT_STOP.
const EVENT_STOP: i32 = 128;
const EVENT_FORK: i32 = nix::libc::PTRACE_EVENT_FORK;
const EVENT_CLONE: i32 = nix::libc::PTRACE_EVENT_CLONE;
const EVENT_EXEC: i32 = nix::libc::PTRACE_EVENT_EXEC;
/// __WALL: threads too.
const WALL: u32 = 0x4000_0000;
/// __WNOTHREAD: not the children of other threads, which wait for theirs themselves.
const NOT_OTHERS: u32 = 0x2000_0000;
pub(crate) const SIGTRAP: i32 = nix::libc::SIGTRAP;
/// What PTRACE_O_TRACESYSGOOD makes of a stop at a system call.
const SYSCALL_STOP: i32 = SIGTRAP | 0x80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// For our interrupt, or just born: inside the kernel, before its next instruction.
    Interrupted,
    /// With the whole process, by this signal.
    Group,
    /// It is about to be given this signal.
    Signal(i32),
    /// At the beginning or the end of a system call.
    Syscall,
    /// It has forked.
    Forked,
    /// It has made a thread.
    Cloned,
    /// It runs another program now.
    Executed,
}

/// What has happened to a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Stopped(Stop),
    Ended,
}

/// The next thing that has happened to any thread that we trace, if there is one.
pub(crate) fn next_change() -> Option<(Pid, Change)> {
    let options = WaitOptions::NOHANG | WaitOptions::from_bits_retain(WALL | NOT_OTHERS);
    loop {
        match wait(options) {
            Ok(Some((pid, status))) => {
                return Some((Pid::from_raw(pid.as_raw_nonzero().get()), Change::of(status)));
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

impl Change {
    fn of(status: WaitStatus) -> Self {
        let raw = status.as_raw();
        if !status.stopped() {
            return Self::Ended;
        }
        let (signal, event) = (raw >> 8 & 0xff, raw >> 16);
        Self::Stopped(match (event, signal) {
            (0, SYSCALL_STOP) => Stop::Syscall,
            (0, signal) => Stop::Signal(signal),
            (EVENT_STOP, SIGTRAP) => Stop::Interrupted,
            (EVENT_STOP, _) => Stop::Group,
            (EVENT_FORK, _) => Stop::Forked,
            (EVENT_CLONE, _) => Stop::Cloned,
            (EVENT_EXEC, _) => Stop::Executed,
            // No other event was asked for.
            _ => Stop::Interrupted,
        })
    }
}
