//! What this process waits for: its tracees, an order to end, and its client: that one's end, or for who
//! serves many, a ring of their bell.

use super::stop::Change;
use super::stop::next_change;
use godebug_api::{Code, Refusal};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

pub(crate) struct Wakeups {
    signals: SignalFd,
    client: Client,
    /// The bell has been rung.
    is_called: bool,
    /// Somebody has ordered us to end, or nobody reads what we find.
    over: Option<&'static str>,
}

/// For whom all this is.
enum Client {
    Reads(Stdout),
    Rings(OwnedFd),
}

impl Wakeups {
    /// For who answers on standard output.
    pub(crate) fn new() -> Result<Self, Refusal> {
        Self::with(Client::Reads(io::stdout()))
    }

    /// For who is called by a bell, an eventfd.
    pub(crate) fn with_bell(bell: OwnedFd) -> Result<Self, Refusal> {
        Self::with(Client::Rings(bell))
    }

    /// Whether the bell has been rung since the last time.
    pub(crate) fn was_called(&mut self) -> bool {
        std::mem::take(&mut self.is_called)
    }

    /// The same, and it stays so.
    pub(crate) fn is_called(&self) -> bool {
        self.is_called
    }

    /// Takes the signals over. Blocked, so that not even a guard that traces us is woken by them.
    fn with(client: Client) -> Result<Self, Refusal> {
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
        Ok(Self { signals, client, is_called: false, over: None })
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
        let (client, asked_for) = match &self.client {
            Client::Reads(pipe) => (pipe.as_fd(), PollFlags::empty()),
            Client::Rings(bell) => (bell.as_fd(), PollFlags::IN),
        };
        let mut fds = [
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::from_borrowed_fd(client, asked_for),
        ];
        let _ = poll(&mut fds, Some(&left));
        let seen = fds[1].revents();
        match &self.client {
            Client::Reads(_) if seen.intersects(PollFlags::ERR | PollFlags::HUP) => {
                self.over = Some("nobody reads the answer any more");
            }
            Client::Rings(bell) if seen.contains(PollFlags::IN) => {
                let _ = rustix::io::read(bell, &mut [0; 8]);
                self.is_called = true;
            }
            _ => {}
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
