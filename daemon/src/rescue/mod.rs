//! The second line: what is done for the target when dlv has not detached in the orderly way. The
//! target is frozen, breakpoint bytes that dlv left are put back, threads that ran into one are
//! set back before it, and it goes on as if nothing had been.
//!
//! Reads and writes only the kernel's own files, so it works with no daemon and no bus.

mod baseline;
mod freezer;
mod guard;
mod priority;
mod threads;
mod watchdog;

pub use baseline::Baseline;
pub use guard::guard;
pub use priority::come_first;

use crate::ledger::Ledger;
use crate::paths::{self, SessionPaths};
use crate::target::process::{self, Process};
use freezer::Frozen;
use godebug_api::SessionId;
use godebug_core::grant::guard_unit;
use godebug_core::ledger::Opened;
use godebug_image::stash::Kept;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a repair has done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Bytes put back.
    pub restored: usize,
    /// Threads that had just executed a breakpoint and were set back before it.
    pub rewound: usize,
    /// Signal handlers that had been entered for a breakpoint and were left again.
    pub taken_back: usize,
    /// Pending trace signals that were thrown away.
    pub swallowed: usize,
    pub took: Duration,
}

/// Looks at the target of a session whose dlv has ended, and puts it right if need be. A target
/// that has ended too needs nothing. For `ExecStopPost=`, after the guard has had its turn.
///
/// # Errors
/// What could not be put right.
pub fn after_debugger(id: &SessionId) -> Result<(), String> {
    keep_result(id);
    let Some((session, target)) = target_of(id)? else { return Ok(()) };
    wake_guard(id, &target);
    let _turn = Turn::take(id)?;
    if needs_repair(id, &target) {
        held_by_nobody_else(id, &target)?;
        told(&session, &repair(id, &target)?);
    } else if SessionPaths::of(id).frozen_marker().exists() {
        // A guard that was killed left it frozen.
        drop(freeze(id, &target));
    }
    wake(&target)
}

/// systemd tells an `ExecStopPost=` how its unit has ended, and forgets it with the unit.
fn keep_result(id: &SessionId) {
    let Ok(result) = std::env::var("SERVICE_RESULT") else { return };
    let status = std::env::var("EXIT_STATUS").unwrap_or_default();
    // Without it the end is told as a failure of no known kind.
    let _ = std::fs::write(SessionPaths::of(id).result(), format!("{result} {status}"));
}

/// A program that another debugger holds cannot be repaired, and shall not be frozen for the attempt.
fn held_by_nobody_else(id: &SessionId, target: &Process) -> Result<(), String> {
    match target.status().ok().and_then(|status| status.tracer_pid) {
        Some(tracer) if !is_of_session(tracer, id) => {
            let tracer = process::tracer_description(tracer);
            Err(format!("process {} is traced by {tracer}, not of this session", target.pid))
        }
        _ => Ok(()),
    }
}

/// Whether a tracer is dlv, or whoever repairs after it: their units carry the session's ID. One that
/// has just gone counts as the session's.
pub fn is_of_session(tracer: u32, id: &SessionId) -> bool {
    let cgroup = std::fs::read_to_string(format!("/proc/{tracer}/cgroup")).unwrap_or_default();
    cgroup.is_empty() || cgroup.contains(id.as_str())
}

/// The session's record and its process, if both are there still.
fn target_of(id: &SessionId) -> Result<Option<(Opened, Process)>, String> {
    let Some(ledger) = Ledger::open(id).map_err(|error| error.to_string())? else {
        return Ok(None);
    };
    let opened = ledger.without_lock().opened().map_err(|error| error.to_string())?;
    let Some(session) = opened else { return Ok(None) };
    let target = Process::pin(session.pid).ok().filter(|p| p.start_ticks == session.start_ticks);
    Ok(target.map(|target| (session, target)))
}

fn told(session: &Opened, repair: &Repair) {
    tracing::warn!(
        godebug_session = session.id.as_str(),
        godebug_unit = session.unit.as_str(),
        "the debugger did not detach from process {} of {}: {} bytes put back, {} threads set back, {} handlers left, {} signals dropped, in {:.1} ms",
        session.pid,
        session.unit,
        repair.restored,
        repair.rewound,
        repair.taken_back,
        repair.swallowed,
        repair.took.as_secs_f64() * 1000.0
    );
}

/// Whether breakpoints are left in the target. When that cannot be told it counts as yes.
fn needs_repair(id: &SessionId, target: &Process) -> bool {
    let baseline = Baseline::of(id);
    process::text_differences(target.pid)
        .map_or(true, |compared| !baseline.new_in(&compared).is_empty())
}

/// Lets a stopped target run: a tracer that dies while it attaches can leave it stopped.
fn wake(target: &Process) -> Result<(), String> {
    if target.status().is_ok_and(|status| status.state == 'T') { go_on(target) } else { Ok(()) }
}

/// A guard that somebody has stopped holds a dlv that was killed, and dlv the target.
fn wake_guard(id: &SessionId, target: &Process) {
    let tracer_of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let pid = text.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
        pid.trim().parse::<u32>().ok().filter(|pid| *pid != 0)
    };
    let dlv = target.status().ok().and_then(|status| status.tracer_pid);
    let Some(guard) = dlv.and_then(tracer_of) else { return };
    let cgroup = std::fs::read_to_string(format!("/proc/{guard}/cgroup")).unwrap_or_default();
    let pid = i32::try_from(guard).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid.filter(|_| cgroup.contains(&guard_unit(id))) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::CONT);
    }
}

/// SIGCONT, which also takes away every SIGSTOP that waits for a thread: dlv stops threads by those,
/// and one that it sent just before it died would stop the whole service later.
fn go_on(target: &Process) -> Result<(), String> {
    rustix::process::pidfd_send_signal(target.pidfd(), rustix::process::Signal::CONT)
        .map_err(|error| format!("process {} cannot be continued: {error}", target.pid))
}

/// Freezes the target, if it has a control group to freeze.
fn freeze(id: &SessionId, target: &Process) -> Option<Frozen> {
    let cgroup = target.cgroup().ok()?;
    let group = Path::new(paths::CGROUP).join(cgroup.trim_start_matches('/'));
    match Frozen::freeze(&group, &SessionPaths::of(id).frozen_marker()) {
        Ok(frozen) => Some(frozen),
        Err(error) => {
            // Better unfrozen than not at all: the bytes kill whoever runs into them.
            tracing::warn!("{} cannot be frozen: {error}", group.display());
            None
        }
    }
}

/// Puts a target right that no tracer holds any more.
///
/// # Errors
/// What could not be done. The target is thawed in any case.
fn repair(id: &SessionId, target: &Process) -> Result<Repair, String> {
    repair_frozen(id, target, freeze(id, target), None, Instant::now())
}

fn repair_frozen(
    id: &SessionId,
    target: &Process,
    frozen: Option<Frozen>,
    copying: Option<Kept>,
    begun: Instant,
) -> Result<Repair, String> {
    await_no_tracer(target)?;
    let mut repair = Repair::default();
    let mut threads = threads::Held::seize(target.pid)?;
    if let Some(kept) = &copying {
        // It was made to copy its process, and goes on with what it was at.
        match kept.give_back() {
            Ok(()) => repair.rewound += 1,
            Err(error) => tracing::error!("thread {} is not as it was: {error}", kept.tid),
        }
    }
    let restored = restore_text(id, target)?;
    repair.restored = restored.len();
    threads.set_back(&restored, &mut repair);
    // They stay in their ptrace stops when the group thaws, and only there can a pending signal be
    // taken from them before they execute anything.
    if let Some(frozen) = &frozen {
        frozen.thaw();
    }
    threads.swallow_traps(&mut repair);
    // What somebody else had frozen is frozen again before it is let go.
    drop(frozen);
    threads.release();
    go_on(target)?;
    repair.took = begun.elapsed();
    Ok(repair)
}

/// Waits until every thread is rid of a tracer that has been killed.
fn await_no_tracer(target: &Process) -> Result<(), String> {
    let limit = Instant::now() + Duration::from_secs(2);
    loop {
        let status = target.status().map_err(|error| error.to_string())?;
        match status.tracer_pid {
            None => return Ok(()),
            Some(tracer) if Instant::now() > limit => {
                let tracer = process::tracer_description(tracer);
                return Err(format!("process {} is still traced by {tracer}", target.pid));
            }
            Some(_) => std::thread::yield_now(),
        }
    }
}

/// Writes the file's bytes back wherever the text differs from it and did not before. Returns
/// their addresses.
fn restore_text(id: &SessionId, target: &Process) -> Result<Vec<u64>, String> {
    let baseline = Baseline::of(id);
    let path = PathBuf::from(format!("/proc/{}/mem", target.pid));
    let memory = File::options()
        .write(true)
        .open(&path)
        .map_err(|error| format!("{} cannot be opened: {error}", path.display()))?;
    let mut restored = Vec::new();
    // A comparison names the first differences only; a write that does not stick ends it.
    for _ in 0..64 {
        let compared = process::text_differences(target.pid).map_err(|error| error.to_string())?;
        let left = baseline.new_in(&compared);
        if left.is_empty() {
            return Ok(restored);
        }
        for difference in left {
            memory
                .write_all_at(&[difference.expected], difference.address)
                .map_err(|error| format!("{:#x} cannot be written: {error}", difference.address))?;
            restored.push(difference.address);
        }
    }
    Err("the text of the program does not stay as it is written".to_owned())
}

/// One repairer at a time: the guard, or whoever comes after it.
struct Turn(File);

impl Turn {
    fn take(id: &SessionId) -> Result<Self, String> {
        let path = SessionPaths::of(id).repair_lock();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let error = |error: rustix::io::Errno| format!("{}: {error}", path.display());
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(error)?;
        match lock_within(&file, Duration::from_secs(5)) {
            Ok(()) => Ok(Self(File::from(file))),
            Err(why) => Err(error(why)),
        }
    }
}

/// The lock of an open file or folder, if it is to be had in time; who holds it has it for milliseconds.
fn lock_within(file: impl AsFd, patience: Duration) -> rustix::io::Result<()> {
    let limit = Instant::now() + patience;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < limit => {
                std::thread::sleep(Duration::from_millis(1));
            }
            locked => return locked,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}
