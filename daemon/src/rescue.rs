//! What is done for the target when dlv is gone: its text is compared with its file, breakpoint
//! bytes that dlv left are put back while the target is frozen, and it is let run.
//!
//! Reads and writes only the kernel's own files, so it works with no daemon and no bus.

use crate::ledger::Ledger;
use crate::paths;
use crate::target::process::{self, Process};
use godebug_api::SessionId;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Puts the target of a session right after its dlv has ended. A target that has ended too needs
/// nothing.
///
/// # Errors
/// What could not be put right.
pub fn after_debugger(id: &SessionId) -> Result<(), String> {
    let Some(ledger) = Ledger::open(id).map_err(|error| error.to_string())? else {
        return Ok(());
    };
    let replay = ledger.without_lock().replay().map_err(|error| error.to_string())?;
    let Some(session) = replay.map(|replay| replay.opened) else { return Ok(()) };
    let target = Process::pin(session.pid).ok().filter(|p| p.start_ticks == session.start_ticks);
    let Some(target) = target else { return Ok(()) };
    let clean = process::text_differences(session.pid).is_ok_and(|compared| compared.total == 0);
    if !clean {
        let restored = restore_text(&target)?;
        tracing::warn!(
            godebug_session = id.as_str(),
            "dlv left {restored} breakpoint bytes in process {} of {}; they were put back",
            session.pid,
            session.unit
        );
    }
    let stopped = target.status().is_ok_and(|status| status.state == 'T');
    if stopped {
        rustix::process::pidfd_send_signal(target.pidfd(), rustix::process::Signal::CONT)
            .map_err(|error| format!("process {} cannot be continued: {error}", session.pid))?;
    }
    Ok(())
}

/// Writes the file's bytes back wherever the text differs, with the target's control group frozen.
fn restore_text(target: &Process) -> Result<usize, String> {
    let cgroup = target.cgroup().map_err(|error| error.to_string())?;
    let frozen = Frozen::freeze(&Path::new(paths::CGROUP).join(cgroup.trim_start_matches('/')));
    if let Err(error) = &frozen {
        // Better unfrozen than not at all: the bytes kill whoever runs into them.
        tracing::warn!("the target's control group cannot be frozen: {error}");
    }
    let memory = File::options()
        .write(true)
        .open(format!("/proc/{}/mem", target.pid))
        .map_err(|error| format!("the memory of process {} cannot be written: {error}", target.pid))?;
    let mut restored = 0;
    loop {
        // Each comparison names the first differences only.
        let compared = process::text_differences(target.pid).map_err(|error| error.to_string())?;
        if compared.first.is_empty() {
            return Ok(restored);
        }
        for difference in &compared.first {
            memory
                .write_all_at(&[difference.expected], difference.address)
                .map_err(|error| format!("{:#x} cannot be written: {error}", difference.address))?;
        }
        restored += compared.first.len();
    }
}

/// A frozen control group; thawed when dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn freeze(group: &Path) -> std::io::Result<Self> {
        let frozen = Self(group.join("cgroup.freeze"));
        std::fs::write(&frozen.0, "1")?;
        let limit = Instant::now() + Duration::from_secs(1);
        let events = group.join("cgroup.events");
        while Instant::now() < limit {
            if std::fs::read_to_string(&events)?.contains("frozen 1") {
                return Ok(frozen);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Err(std::io::ErrorKind::TimedOut.into())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.0, "0") {
            tracing::error!("{} cannot be thawed: {error}", self.0.display());
        }
    }
}
