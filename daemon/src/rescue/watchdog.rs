//! Keeps systemd from killing a service that stands at a breakpoint.
//!
//! A service with `WatchdogSec=` has to say `WATCHDOG=1` in time, and cannot while the debugger holds
//! it. It is said for the target's PID while, and only while, its tracer has stopped it. Nothing of
//! the unit is changed, so there is nothing to restore: when the session ends, or this process dies,
//! the service's own watchdog counts as before. A service that is still starting has its start
//! time-out extended in the same way.

use crate::paths;
use crate::target::process::Process;
use rustix::fs::FileType;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, UCred, sendmsg_addr, socket_with,
};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// What the unit of a target demands of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demands {
    /// The user whose manager runs it; `None` for the system's.
    pub(super) manager: Option<u32>,
    /// Microseconds; `None` without a watchdog.
    pub(super) watchdog_usec: Option<u64>,
    /// The unit is starting, and `TimeoutStartSec=` is running.
    pub(super) starting: bool,
}

/// Speaks for the target until it has ended. To be run in a thread of its own.
pub(super) fn keep_alive(target: &Process, demands: Demands) {
    let interval = match demands {
        Demands { watchdog_usec: Some(usec), .. } => Duration::from_micros(usec / 4),
        // A start may be given no more than a second or two.
        Demands { starting: true, .. } => Duration::from_millis(250),
        Demands { .. } => return,
    };
    // The kernel does not tell when a tracer stops a process; the state is looked at often enough.
    let interval = interval.clamp(Duration::from_millis(10), Duration::from_secs(2));
    let mut is_told = false;
    while let Ok(status) = target.status() {
        if status.state == 't' {
            let said = speak_for(target, demands);
            // Once: how often it is tried a user's own service decides.
            if let Err(error) = said
                && !std::mem::replace(&mut is_told, true)
            {
                tracing::warn!(
                    "systemd cannot be told that process {} is alive: {error}",
                    target.pid
                );
            }
        }
        std::thread::sleep(interval);
    }
}

/// One message to systemd, in the name of the target: root may name another process as the sender
/// (unix(7), SCM_CREDENTIALS), and systemd accepts it as the service's own.
fn speak_for(target: &Process, demands: Demands) -> rustix::io::Result<()> {
    let mut message = String::new();
    if demands.watchdog_usec.is_some() {
        message.push_str("WATCHDOG=1\n");
    }
    if demands.starting {
        message.push_str("EXTEND_TIMEOUT_USEC=10000000\n");
    }
    let path = paths::notify_socket(demands.manager);
    if let Some(user) = demands.manager {
        // The path is the user's to change, and what systemd found there may be another's.
        let there = rustix::fs::stat(&path)?;
        let is_socket = FileType::from_raw_mode(there.st_mode) == FileType::Socket;
        if !is_socket || there.st_uid != user {
            return Err(rustix::io::Errno::PERM);
        }
    }
    let socket = notify_socket()?;
    let address = SocketAddrUnix::new(path)?;
    let pid = i32::try_from(target.pid.get()).ok().and_then(rustix::process::Pid::from_raw);
    let credentials = UCred {
        pid: pid.ok_or(rustix::io::Errno::SRCH)?,
        uid: rustix::process::getuid(),
        gid: rustix::process::getgid(),
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmCredentials(credentials));
    let text = [IoSlice::new(message.as_bytes())];
    // A manager that does not read any more, which its user can stop, is not waited for.
    sendmsg_addr(&socket, &address, &text, &mut control, SendFlags::DONTWAIT).map(drop)
}

fn notify_socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}
