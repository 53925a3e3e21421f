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
const WITHOUT: &str = "dlv does not come before other services while its target stands";

/// Gives the group of dlv's thread `tracer` its place, in a thread: nothing waits for it, and without it
/// the target only stands longer.
pub(super) fn prefer(tracer: i32) {
    // Opened while the thread is surely dlv's: a file of /proc stays with its process.
    let group = OpenOptions::new().write(true).open(format!("/proc/{tracer}/autogroup"));
    let begun = group.and_then(|group| {
        std::thread::Builder::new().spawn(move || {
            if let Err(error) = set_patiently(group, DEBUGGER_NICE) {
                tracing::warn!("{WITHOUT}: {error}");
            }
        })
    });
    match begun {
        Ok(_) => {}
        // A kernel without such groups.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!("{WITHOUT}: {error}"),
    }
}

/// Gives this process's own group its place, if systemd has made it one: a person's command shares
/// that person's. What it is to give back is given back later on a busy host where this fails.
pub fn come_first() {
    if getsid(None).ok() != Some(getpid()) {
        return;
    }
    let group = OpenOptions::new().write(true).open("/proc/self/autogroup");
    match group.and_then(|group| set_patiently(group, DEAD_MANS_NICE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("the dead man does not come before other services: {error}");
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
