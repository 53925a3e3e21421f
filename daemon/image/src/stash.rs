//! Where a thread's own registers are kept while it is made to copy its process: in unnamed memory that
//! a guard finds among the descriptors of whoever traces the thread, for as long as the kernel holds
//! a process that is about to die.

use crate::raw;
use nix::unistd::Pid;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const NAME: &str = "godebug-registers";
/// NT_PRSTATUS.
const GENERAL: i32 = 1;
/// The thread's number and its signal mask come before the registers.
const HEAD: usize = 16;

/// The place, empty most of the time.
pub struct Stash(File);

/// What was kept of one thread.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    pub tid: i32,
    mask: u64,
    registers: Vec<u8>,
}

impl Stash {
    /// # Errors
    /// When the kernel has no memory for it.
    pub fn new() -> io::Result<Self> {
        Ok(Self(File::from(rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC)?)))
    }

    /// Keeps what a thread has, before any of it is changed.
    ///
    /// # Errors
    /// When it cannot be read or kept; nothing may be changed then.
    pub fn keep(&self, tid: Pid) -> io::Result<Kept> {
        let kept = Kept {
            tid: tid.as_raw(),
            mask: raw::signal_mask(tid)?,
            registers: raw::register_set(tid, GENERAL)?,
        };
        self.0.write_all_at(&kept.to_bytes(), 0)?;
        Ok(kept)
    }

    /// The thread has all of it back.
    pub fn clear(&self) {
        // What was given back once can be given back twice, as long as the thread has not run.
        let _ = self.0.set_len(0);
    }
}

impl Kept {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = u64::from(self.tid.unsigned_abs()).to_ne_bytes().to_vec();
        bytes.extend(self.mask.to_ne_bytes());
        bytes.extend(&self.registers);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (head, registers) = bytes.split_at_checked(HEAD)?;
        let [tid, mask] = head.as_chunks::<8>().0 else { return None };
        let tid = i32::try_from(u64::from_ne_bytes(*tid)).ok().filter(|tid| *tid > 0)?;
        let mask = u64::from_ne_bytes(*mask);
        (!registers.is_empty()).then(|| Self { tid, mask, registers: registers.to_vec() })
    }

    /// What was being done when `tracer` was stopped on its way out.
    pub fn of(tracer: i32) -> Option<Self> {
        let descriptors = std::fs::read_dir(format!("/proc/{tracer}/fd")).ok()?;
        let mut paths = descriptors.filter_map(|entry| Some(entry.ok()?.path()));
        let path = paths.find(|path| {
            std::fs::read_link(path).is_ok_and(|link| link.to_string_lossy().contains(NAME))
        })?;
        Self::from_bytes(&std::fs::read(path).ok()?)
    }

    /// Gives all of it back to the thread, which stands in the kernel.
    ///
    /// # Errors
    /// When it has ended.
    pub fn give_back(&self) -> nix::Result<()> {
        let tid = Pid::from_raw(self.tid);
        raw::set_register_set(tid, GENERAL, &self.registers)?;
        raw::set_signal_mask(tid, self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_by_the_process_that_holds_it() {
        let own = i32::try_from(std::process::id()).unwrap();
        let stash = Stash::new().unwrap();
        assert_eq!(Kept::of(own), None);
        let kept = Kept { tid: 77, mask: 5, registers: vec![1; 216] };
        stash.0.write_all_at(&kept.to_bytes(), 0).unwrap();
        assert_eq!(Kept::of(own), Some(kept));
        stash.clear();
        assert_eq!(Kept::of(own), None);
    }
}
