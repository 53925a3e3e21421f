//! What was learned about each dlv, kept in a file so that it is not run for every session.

use crate::kept;
use godebug_core::delve::Debugger;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Raised whenever what is kept changes its meaning.
const FORMAT: u32 = 1;

/// What tells one file, and one state of it, from every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    path: String,
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_string_lossy().into_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    debuggers: Vec<(Identity, Debugger)>,
}

/// What is kept; nothing if there is no file, or none that can be believed.
pub(super) fn read(path: &Path, owner: u32) -> Vec<(Identity, Debugger)> {
    let Some(bytes) = kept::read(path, owner) else { return Vec::new() };
    match serde_json::from_slice::<Kept>(&bytes) {
        Ok(kept) if kept.format == FORMAT => kept.debuggers,
        _ => Vec::new(),
    }
}

pub(super) fn write(path: &Path, debuggers: &[(Identity, Debugger)]) -> io::Result<()> {
    let kept = Kept { format: FORMAT, debuggers: debuggers.to_vec() };
    kept::write(path, &serde_json::to_vec(&kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(path: &Path) -> (Identity, Debugger) {
        let debugger = Debugger {
            path: path.to_str().unwrap().to_owned(),
            version: "1.24.0".parse().unwrap(),
            built_with: "go1.24".parse().ok(),
        };
        (Identity::of(path).unwrap(), debugger)
    }

    #[test]
    fn what_is_written_is_read_and_another_format_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, owner) = (folder.path().join("delve.json"), rustix::process::geteuid().as_raw());
        assert_eq!(read(&path, owner), []);
        let kept = [entry(Path::new("/bin/true"))];
        write(&path, &kept).unwrap();
        assert_eq!(read(&path, owner), kept);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"format\":1", "\"format\":2")).unwrap();
        assert_eq!(read(&path, owner), []);
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(bytes: Vec<u8>) {
            let _ = serde_json::from_slice::<Kept>(&bytes);
        }
    }
}
