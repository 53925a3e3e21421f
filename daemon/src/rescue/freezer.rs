//! The control group freezer: the target stands still, whoever wants it to run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A frozen control group. Thawed when dropped, so that no error path leaves a service frozen.
pub(super) struct Frozen {
    switch: PathBuf,
    /// There while it is frozen by us, so that whoever comes after a killed guard thaws it.
    marker: PathBuf,
    /// It was frozen before, by somebody else, and stays so.
    was_frozen: bool,
}

impl Frozen {
    /// Freezes a group and waits until the kernel says that it is, a second at most.
    ///
    /// # Errors
    /// When the group has no freezer or does not get frozen.
    pub(super) fn freeze(group: &Path, marker: &Path) -> std::io::Result<Self> {
        let switch = group.join("cgroup.freeze");
        let was_frozen = !marker.exists() && std::fs::read_to_string(&switch)?.trim() == "1";
        if !was_frozen {
            std::fs::write(marker, "")?;
        }
        let frozen = Self { switch, marker: marker.to_owned(), was_frozen };
        std::fs::write(&frozen.switch, "1")?;
        let limit = Instant::now() + Duration::from_secs(1);
        let events = group.join("cgroup.events");
        loop {
            if std::fs::read_to_string(&events)?.contains("frozen 1") {
                return Ok(frozen);
            }
            if Instant::now() > limit {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            // Freezing takes microseconds; the kernel's own event would take longer to be read.
            std::thread::yield_now();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.was_frozen {
            return;
        }
        if let Err(error) = std::fs::write(&self.switch, "0") {
            tracing::error!("{} cannot be thawed: {error}", self.switch.display());
            return;
        }
        // Last: a marker too many is thawed once more, one too few leaves a service frozen.
        let _ = std::fs::remove_file(&self.marker);
    }
}
