//! The place of dlv and of the dead man among the groups that want a processor.
//!
//! Where the kernel makes a group of each session (`CONFIG_SCHED_AUTOGROUP`, as Debian's does; not where
//! control groups share out the processors), a process's nice value counts within its group only, and
//! every service is a group of its own. That group has a nice value too, which systemd leaves at 0: while ten
//! services wanted two processors, dlv took six times as long to attach (docs/measurements.md).

use crate::host::units::{DEAD_MANS_NICE, DEBUGGER_NICE};
use rustix::io::Errno;
use rustix::process::{getpid, getsid};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::time::Duration;

/// The kernel changes one group in 100 ms, for all who have no CAP_SYS_ADMIN.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_millis(10);

/// Gives the group of dlv's thread `tracer` its place: without it the target only stands longer.
pub(super) fn prefer(tracer: i32) {
    place(&format!("/proc/{tracer}/autogroup"), DEBUGGER_NICE, "dlv");
}

/// Gives this process's own group its place, if systemd has made it one: a person's command shares
/// that person's. Without it what is to be given back is given back later on a busy host.
pub fn come_first() {
    if getsid(None).ok() == Some(getpid()) {
        place("/proc/self/autogroup", DEAD_MANS_NICE, "the dead man");
    }
}

/// In a thread, since nothing waits for it.
fn place(group: &str, nice: i32, whose: &'static str) {
    // Opened while the process is surely there: a file of /proc stays with its process.
    let group = OpenOptions::new().write(true).open(group);
    let begun = group.and_then(|group| {
        std::thread::Builder::new().spawn(move || {
            if let Err(error) = set_patiently(group, nice) {
                tracing::warn!("{whose} does not come before other services: {error}");
            }
        })
    });
    match begun {
        // A kernel without such groups.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("{whose} does not come before other services: {error}");
        }
        _ => {}
    }
}

fn set_patiently(mut group: File, nice: i32) -> io::Result<()> {
    for tried in 1.. {
        match group.write_all(nice.to_string().as_bytes()) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::AGAIN) && tried < TRIES => {
                std::thread::sleep(PAUSE);
            }
            // dlv has gone meanwhile; or it is in no group of its own (noautogroup at boot).
            Err(error)
                if matches!(Errno::from_io_error(&error), Some(Errno::SRCH | Errno::INVAL)) =>
            {
                break;
            }
            done => return done,
        }
    }
    Ok(())
}
