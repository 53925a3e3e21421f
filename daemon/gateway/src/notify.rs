//! What systemd is told: ready, the status line, a later end. Silent where systemd did not start us.

use godebug_api::{Deadline, clock};
use sd_notify::NotifyState;
use std::time::Duration;

/// How much longer than the deadline systemd is asked to wait before it stops the unit itself: the
/// gateway's own end comes first and is the orderly one.
const MARGIN: Duration = Duration::from_secs(5);

/// The listener and the control socket exist.
pub fn ready(text: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(text)]);
}

/// One line for `systemctl status`.
pub fn status(text: &str) {
    send(&[NotifyState::Status(text)]);
}

/// Why the gateway ends before it was ready, with the system's error number where there is one:
/// the daemon reads both from the unit (`StatusText`, `StatusErrno`).
pub fn failed(text: &str, errno: Option<i32>) {
    let errno = errno.and_then(|errno| u32::try_from(errno).ok());
    match errno {
        Some(errno) => send(&[NotifyState::Status(text), NotifyState::Errno(errno)]),
        None => status(text),
    }
}

/// The session ends at `deadline` now. systemd only ever moves RuntimeMaxSec's end later for this.
pub fn extended(deadline: &Deadline) {
    let micros = (deadline.remaining(clock::now()) + MARGIN).as_micros();
    // sd-notify's own variant is 32 bits wide, which is 71 minutes.
    let text = format!("EXTEND_TIMEOUT_USEC={micros}");
    send(&[NotifyState::Custom(&text)]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
