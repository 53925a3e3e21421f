//! The guard of a session: a small process that is there from before dlv attaches until it is gone,
//! and catches dlv's death before the kernel lets go of the target. Of what takes images as well:
//! it waits to be traced itself before it touches the target.
//!
//! When a tracer is killed, the kernel frees its tracees at once, with all breakpoints in place, and
//! a hot one kills the service within microseconds. So the guard traces dlv's tracing thread, with
//! nothing but PTRACE_O_TRACEEXIT: the kernel stops that thread on its way out, SIGKILL or not,
//! while the target is still held. Then the target is frozen, dlv let go, and the target repaired.

use super::priority::prefer;
use super::watchdog::{self, Demands};
use super::{Turn, freeze, needs_repair, repair, repair_frozen, target_of, told};
use crate::paths;
use crate::target::process::Process;
use godebug_api::SessionId;
use godebug_core::grant::image_unit;
use godebug_core::ledger::Opened;
use godebug_image::stash::Kept;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long dlv may take to begin to attach.
const PATIENCE: Duration = Duration::from_secs(70);

/// Guards a session until its dlv is gone.
///
/// # Errors
/// What could not be done; the unit is restarted then, and guards again.
pub fn guard(id: &SessionId) -> Result<(), String> {
    let Some((session, target)) = target_of(id)? else { return Ok(()) };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    // For an image nothing stands for so long that systemd would have to be told.
    if !session.takes_images() {
        keep_alive(&session)?;
    }
    repair_what_an_earlier_guard_could_not(id, &session, &target)?;
    let awaited = match session.takes_images() {
        false => await_tracer(id, &target)?,
        true => await_imager(id, &target)?,
    };
    let Some(tracer) = awaited else { return Ok(()) };
    ptrace::seize(tracer, ptrace::Options::PTRACE_O_TRACEEXIT)
        .map_err(|error| format!("dlv's thread {tracer} cannot be watched: {error}"))?;
    if !session.takes_images() {
        prefer(tracer.as_raw());
    }
    if !await_exit(tracer)? {
        return Ok(()); // it was gone before it could be caught; dlv's unit looks after the target
    }
    let begun = Instant::now();
    let _turn = Turn::take(id)?;
    if session.takes_images() {
        // Also when it has let the service go: they go last.
        end_copies(&target, tracer);
    }
    let is_held = target.status().is_ok_and(|status| status.tracer_pid.is_some());
    if !is_held && !needs_repair(id, &target) {
        return Ok(()); // it has detached in the orderly way
    }
    let frozen = freeze(id, &target);
    let copying = Kept::of(tracer.as_raw());
    // Now the kernel may free the target: it does not run.
    ptrace::detach(tracer, None).map_err(|error| format!("dlv cannot be let go: {error}"))?;
    told(&session, &repair_frozen(id, &target, frozen, copying, begun)?);
    Ok(())
}

/// A guard that was killed together with dlv has left the target as it was then; systemd starts
/// another one, this one. Before dlv has attached there is nothing to find.
fn repair_what_an_earlier_guard_could_not(
    id: &SessionId,
    session: &Opened,
    target: &Process,
) -> Result<(), String> {
    let is_free = || target.status().is_ok_and(|status| status.tracer_pid.is_none());
    if !is_free() || !needs_repair(id, target) {
        return Ok(());
    }
    let _turn = Turn::take(id)?;
    // Somebody else may have been quicker, dlv to attach or dlv's unit to repair.
    if is_free() && needs_repair(id, target) {
        told(session, &repair(id, target)?);
    }
    Ok(())
}

/// Looks after the target's watchdog, in a thread that ends with this process.
fn keep_alive(session: &Opened) -> Result<(), String> {
    let demands = Demands {
        manager: session.users_manager(),
        watchdog_usec: session.watchdog_usec,
        starting: session.target_is_starting,
    };
    let target = Process::pin(session.pid).map_err(|error| error.to_string())?;
    std::thread::spawn(move || watchdog::keep_alive(&target, demands));
    Ok(())
}

/// The thread that traces the target, once it does; `None` when the target or dlv's time is over.
fn await_tracer(id: &SessionId, target: &Process) -> Result<Option<nix::unistd::Pid>, String> {
    let limit = Instant::now() + PATIENCE;
    let unit = godebug_core::grant::debugger_unit(id);
    while Instant::now() < limit {
        let Ok(status) = target.status() else { return Ok(None) };
        // TracerPid names the thread, not its process (fs/proc/array.c, task_state).
        if let Some(tracer) = status.tracer_pid {
            let cgroup =
                std::fs::read_to_string(format!("/proc/{tracer}/cgroup")).unwrap_or_default();
            if !cgroup.trim_end().ends_with(&unit) {
                return Err(format!("the target is traced by {tracer}, which is not of {unit}"));
            }
            let tracer = i32::try_from(tracer).map_err(|error| error.to_string())?;
            return Ok(Some(nix::unistd::Pid::from_raw(tracer)));
        }
        // The kernel tells nobody that a process is traced now. No breakpoint is planted before
        // dlv has read the symbols, which takes a hundred times as long.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(None)
}

/// The process that takes images, once it runs; `None` when the target or its time is over.
fn await_imager(id: &SessionId, target: &Process) -> Result<Option<nix::unistd::Pid>, String> {
    const NAME: &str = "godebug-image";
    let limit = Instant::now() + PATIENCE;
    let group = Path::new(paths::CGROUP).join("godebug.slice").join(image_unit(id));
    while Instant::now() < limit && target.is_alive() {
        let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let named = |pid: &str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm.trim() == NAME)
        };
        // dlv is a child of it, and systemd's own process has another name until it runs it.
        if let Some(pid) = members.lines().find(|pid| named(pid)) {
            let pid = pid.parse().map_err(|error| format!("{pid}: {error}"))?;
            return Ok(Some(nix::unistd::Pid::from_raw(pid)));
        }
        // The kernel tells nobody that a process has begun.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(None)
}

/// Copies of the target that the tracer holds would run when it is let go.
fn end_copies(target: &Process, tracer: nix::unistd::Pid) {
    let group = target.cgroup().map(|group| group.trim_start_matches('/').to_owned());
    let Ok(group) = group else { return };
    let members = Path::new(paths::CGROUP).join(group).join("cgroup.procs");
    for pid in std::fs::read_to_string(members).unwrap_or_default().lines() {
        let Ok(pid) = pid.parse::<godebug_api::Pid>() else { continue };
        if pid == target.pid {
            continue;
        }
        let copy = Process::pin(pid).ok().filter(|process| {
            let traced_by = process.status().ok().and_then(|status| status.tracer_pid);
            traced_by.and_then(|tid| i32::try_from(tid).ok()) == Some(tracer.as_raw())
        });
        if let Some(copy) = copy {
            let killed =
                rustix::process::pidfd_send_signal(copy.pidfd(), rustix::process::Signal::KILL);
            if let Err(error) = killed {
                tracing::error!(
                    "the copy {pid} of process {} cannot be ended: {error}",
                    target.pid
                );
            }
        }
    }
}

/// Passes every signal on until the thread is about to exit. `false` when it was gone already.
fn await_exit(tracer: nix::unistd::Pid) -> Result<bool, String> {
    loop {
        let continued = match waitpid(tracer, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceEvent(_, _, event))
                if event == ptrace::Event::PTRACE_EVENT_EXIT as i32 =>
            {
                return Ok(true);
            }
            // A signal on its way to the thread.
            Ok(WaitStatus::Stopped(_, signal)) => ptrace::cont(tracer, signal),
            Ok(WaitStatus::PtraceEvent(..)) => ptrace::cont(tracer, None),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return Ok(false),
            Ok(_) => Ok(()),
            Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(nix::errno::Errno::ECHILD) => return Ok(false),
            Err(error) => return Err(format!("dlv's thread cannot be waited for: {error}")),
        };
        match continued {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => return Err(format!("dlv's thread cannot be continued: {error}")),
        }
    }
}
