//! What was learned about each dlv, kept in a file so that it is not run for every session.
//!
//! The file decides which debugger is chosen, so it is believed only if nobody but root can have
//! written it, and it is read whole or not at all.

use godebug_core::delve::Debugger;
use rustix::fs::{Mode, OFlags, open};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Raised whenever what is kept changes its meaning.
const FORMAT: u32 = 1;
const LARGEST: u64 = 256 * 1024;

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
    let Some(bytes) = read_trusted(path, owner) else { return Vec::new() };
    match serde_json::from_slice::<Kept>(&bytes) {
        Ok(kept) if kept.format == FORMAT => kept.debuggers,
        _ => Vec::new(),
    }
}

fn read_trusted(path: &Path, owner: u32) -> Option<Vec<u8>> {
    // Not blocking, in case it is a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    let ours = metadata.uid() == 0 || metadata.uid() == owner;
    if !metadata.is_file() || !ours || metadata.mode() & 0o022 != 0 || metadata.len() > LARGEST {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Puts a new file in the old one's place: a reader sees one or the other.
pub(super) fn write(path: &Path, debuggers: &[(Identity, Debugger)]) -> io::Result<()> {
    let kept = Kept { format: FORMAT, debuggers: debuggers.to_vec() };
    let text = serde_json::to_vec(&kept)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    // One that a killed process of the same number left.
    let _ = std::fs::remove_file(&new);
    let written = write_new(&new, &text).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    // Not left to the umask.
    file.set_permissions(Permissions::from_mode(0o644))
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
    fn what_is_written_is_read_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, owner) = (folder.path().join("delve.json"), rustix::process::geteuid().as_raw());
        assert_eq!(read(&path, owner), []);
        let kept = [entry(Path::new("/bin/true"))];
        write(&path, &kept).unwrap();
        assert_eq!(read(&path, owner), kept);
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_pipes_other_formats_and_huge_files_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, owner) = (folder.path().join("delve.json"), rustix::process::geteuid().as_raw());
        write(&path, &[entry(Path::new("/bin/true"))]).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read(&link, owner), []);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"format\":1", "\"format\":2")).unwrap();
        assert_eq!(read(&path, owner), []);
        let mut spaces = text.clone().into_bytes();
        spaces.resize(usize::try_from(LARGEST).unwrap() + 1, b' ');
        std::fs::write(&path, spaces).unwrap();
        assert_eq!(read(&path, owner), []);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_no_more() {
        assert!(write(Path::new("/nonexistent/delve.json"), &[]).is_err());
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(bytes: Vec<u8>) {
            let _ = serde_json::from_slice::<Kept>(&bytes);
        }
    }
}
