//! The control group freezer: the target stands still, whoever wants it to run.

use super::lock_within;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// For another session's repair in the same group, some tens of milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// A frozen control group. As it was found when dropped, so that no error path leaves a service frozen.
pub(super) struct Frozen {
    switch: PathBuf,
    /// There while it is frozen by us, so that whoever comes after a killed guard thaws it.
    marker: PathBuf,
    /// It was frozen before, by somebody else, and stays so.
    was_frozen: bool,
    /// A unit can have several programs with a session each. Without this one of two repairs would take
    /// the other's freeze for somebody else's, and leave the unit frozen. Dropped after the thaw.
    _turn: File,
}

impl Frozen {
    /// Freezes a group and waits until the kernel says that it is, a second at most.
    ///
    /// # Errors
    /// When the group has no freezer or does not get frozen.
    pub(super) fn freeze(group: &Path, marker: &Path) -> std::io::Result<Self> {
        // Whoever holds the group's folder locked may freeze it.
        let turn = File::open(group)?;
        lock_within(&turn, PATIENCE)?;
        let switch = group.join("cgroup.freeze");
        let was_frozen = !marker.exists() && std::fs::read_to_string(&switch)?.trim() == "1";
        if !was_frozen {
            std::fs::write(marker, "")?;
        }
        let frozen = Self { switch, marker: marker.to_owned(), was_frozen, _turn: turn };
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

    /// Thaws the group, whoever froze it, while the program's threads are held: a frozen thread does not take
    /// its signals, and a SIGTRAP that is left to it would kill the program later. Other programs of the
    /// group run until this is dropped, some milliseconds.
    pub(super) fn thaw(&self) {
        if let Err(error) = std::fs::write(&self.switch, "0") {
            tracing::error!("{} cannot be thawed: {error}", self.switch.display());
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let as_found = if self.was_frozen { "1" } else { "0" };
        if let Err(error) = std::fs::write(&self.switch, as_found) {
            tracing::error!("{} cannot be set to {as_found}: {error}", self.switch.display());
            return;
        }
        if !self.was_frozen {
            // Last: a marker too many is thawed once more, one too few leaves a service frozen.
            let _ = std::fs::remove_file(&self.marker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel makes of a group that is frozen at once.
    fn group(folder: &Path) -> PathBuf {
        std::fs::write(folder.join("cgroup.freeze"), "0").unwrap();
        std::fs::write(folder.join("cgroup.events"), "populated 1\nfrozen 1\n").unwrap();
        folder.to_owned()
    }

    fn switch(group: &Path) -> String {
        std::fs::read_to_string(group.join("cgroup.freeze")).unwrap()
    }

    #[test]
    fn of_two_repairs_in_one_group_the_second_waits_and_neither_leaves_it_frozen() {
        let folder = tempfile::tempdir().unwrap();
        let group = group(folder.path());
        let first = Frozen::freeze(&group, &group.join("marker-1")).unwrap();
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| Frozen::freeze(&group, &group.join("marker-2")).unwrap());
            // It cannot be seen to wait, only that it has not gone on.
            std::thread::sleep(Duration::from_millis(50));
            assert!(!group.join("marker-2").exists() && switch(&group) == "1");
            drop(first);
            second.join().unwrap()
        });
        assert!(!second.was_frozen && switch(&group) == "1");
        drop(second);
        assert_eq!(switch(&group), "0");
        assert!(!group.join("marker-1").exists() && !group.join("marker-2").exists());
    }

    #[test]
    fn what_somebody_else_has_frozen_stays_frozen() {
        let folder = tempfile::tempdir().unwrap();
        let group = group(folder.path());
        std::fs::write(group.join("cgroup.freeze"), "1").unwrap();
        let frozen = Frozen::freeze(&group, &group.join("marker")).unwrap();
        frozen.thaw();
        assert_eq!(switch(&group), "0");
        drop(frozen);
        assert_eq!(switch(&group), "1");
        // What an earlier repair has left is thawed.
        std::fs::write(group.join("marker"), "").unwrap();
        drop(Frozen::freeze(&group, &group.join("marker")).unwrap());
        assert_eq!(switch(&group), "0");
    }
}
