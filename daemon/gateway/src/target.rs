//! The target as the gateway sees it: whether it stands, from the one file of /proc that it was
//! handed, and nothing else of it.

use godebug_api::ProcessState;
use rustix::io::pread;
use std::os::fd::OwnedFd;

/// The target's /proc/PID/status. A file of /proc stays with its process, whoever gets the number.
#[derive(Debug)]
pub(crate) struct Target(OwnedFd);

impl Target {
    pub(crate) fn new(status: OwnedFd) -> Self {
        Self(status)
    }

    /// `None` when the process is gone.
    pub(crate) fn look(&self) -> Option<ProcessState> {
        let mut beginning = [0; ProcessState::BYTES];
        let count = pread(&self.0, &mut beginning, 0).ok()?;
        ProcessState::of(&beginning[..count])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_looked_at_until_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let status = std::fs::File::open(format!("/proc/{}/status", child.id())).unwrap();
        let target = Target::new(status.into());
        assert_eq!(target.look(), Some(ProcessState::Runs));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(target.look(), None);
    }
}
