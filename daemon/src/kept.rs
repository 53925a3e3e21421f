//! Small files below /run in which godebugd keeps what it has learned, so that it need not learn it
//! again.
//!
//! Decisions rest on them, so one is believed only if nobody but root can have written it, and it is
//! read whole or not at all.

use rustix::fs::{Mode, OFlags, open};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub const ROOT: u32 = 0;
const LARGEST: u64 = 256 * 1024;

/// The content; `None` if there is no file, or none that can be believed. `owner` is believed
/// besides root, so that tests need not be root.
pub fn read(path: &Path, owner: u32) -> Option<Vec<u8>> {
    // Not blocking, in case it is a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open(path, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    let ours = metadata.uid() == ROOT || metadata.uid() == owner;
    if !metadata.is_file() || !ours || metadata.mode() & 0o022 != 0 || metadata.len() > LARGEST {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// Puts a new file in the old one's place: a reader sees one or the other.
///
/// # Errors
/// When it cannot be written; the old one stays then.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    write_as(path, content, 0o644)
}

/// The same for what nobody but root may read.
///
/// # Errors
/// As [`write`].
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    write_as(path, content, 0o600)
}

fn write_as(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    // One that a killed process of the same number left.
    let _ = std::fs::remove_file(&new);
    let written = write_new(&new, content, mode).and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    // Not left to the umask.
    file.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn what_is_written_is_read_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        assert_eq!(read(&path, owner()), None);
        for content in [b"one".as_slice(), b"another"] {
            write(&path, content).unwrap();
            assert_eq!(read(&path, owner()).unwrap(), content);
        }
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn links_folders_and_files_of_others_are_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        write(&path, b"x").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read(&link, owner()), None);
        assert_eq!(read(folder.path(), owner()), None);
        std::fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert_eq!(read(&path, owner()), None);
    }

    #[test]
    fn a_huge_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept.json");
        write(&path, &vec![b' '; usize::try_from(LARGEST).unwrap() + 1]).unwrap();
        assert_eq!(read(&path, owner()), None);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_no_more() {
        assert!(write(Path::new("/nonexistent/kept.json"), &[]).is_err());
    }
}
