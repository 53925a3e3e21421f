//! What this process waits for: its tracees, an order to end, and the client's end.

use super::stop::Change;
use super::stop::next_change;
use godebug_api::{Code, Refusal};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Stdout};
use std::time::{Duration, Instant};

pub(crate) struct Wakeups {
    signals: SignalFd,
    client: Stdout,
    /// Somebody has ordered us to end, or nobody reads what we find.
    over: Option<&'static str>,
}

impl Wakeups {
    /// Takes the signals over. Blocked, so that not even a guard that traces us is woken by them.
    pub(crate) fn new() -> Result<Self, Refusal> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            set.add(signal);
        }
        let signals = set.thread_block().and_then(|()| {
            SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        });
        let signals = signals.map_err(|error| {
            Refusal::failed(format!("signals cannot be waited for: {error}"), "")
        })?;
        Ok(Self { signals, client: io::stdout(), over: None })
    }

    /// The next change of a tracee, or `None` at `by`.
    pub(crate) fn next_change(&mut self, by: Instant) -> Option<(Pid, Change)> {
        // The usual wait is a few microseconds, less than a sleep costs.
        for _ in 0..20 {
            if let Some(change) = next_change() {
                return Some(change);
            }
            std::thread::yield_now();
        }
        loop {
            self.sleep(by);
            if let Some(change) = next_change() {
                return Some(change);
            }
            if Instant::now() >= by {
                return None;
            }
        }
    }

    /// Sleeps until something happens, at most until `by`.
    pub(crate) fn sleep(&mut self, by: Instant) {
        let left = by.saturating_duration_since(Instant::now()).min(Duration::from_millis(100));
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        // A client that is gone shows as an error on its pipe, which needs no asking for.
        let mut fds = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.client, PollFlags::empty()),
        ];
        let _ = poll(&mut fds, Some(&left));
        if fds[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            self.over = Some("nobody reads the answer any more");
        }
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if i32::try_from(signal.ssi_signo) != Ok(Signal::SIGCHLD as i32) {
                self.over = Some("it was told to end");
            }
        }
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// Why not, as a refusal.
    pub(crate) fn go_on(&self) -> Result<(), Refusal> {
        match self.over {
            None => Ok(()),
            Some(why) => Err(Refusal::new(Code::Ended, format!("stopped: {why}"), "")),
        }
    }
}
