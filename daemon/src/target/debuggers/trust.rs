//! Whether root may run a file: nobody else can have written it, nor put it where it is.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The file's real path, if it and every folder that leads to it are root's (or `owner`'s) and not
/// writable by others; else why not.
///
/// The folders on the way to a symbolic link count too: who can replace the link chooses the file.
pub(crate) fn check(candidate: &Path, owner: u32) -> Result<PathBuf, String> {
    let real = std::fs::canonicalize(candidate)
        .map_err(|error| format!("it cannot be followed to a file: {error}"))?;
    let metadata = metadata(&real)?;
    if !metadata.is_file() {
        return Err("it is no regular file".to_owned());
    }
    if metadata.mode() & 0o111 == 0 {
        return Err("it is not executable".to_owned());
    }
    entry(&metadata, &real, owner)?;
    folders(&real, owner)?;
    let link_folder = candidate.parent().and_then(|folder| folder.canonicalize().ok());
    if let Some(folder) = link_folder.filter(|folder| real.parent() != Some(folder)) {
        folders(&folder.join("dlv"), owner)?;
    }
    Ok(real)
}

fn folders(path: &Path, owner: u32) -> Result<(), String> {
    path.ancestors().skip(1).try_for_each(|folder| {
        let metadata = metadata(folder)?;
        // In a sticky folder others can add entries, but not move ours away; the one that the
        // file itself lies in must not be open even so.
        let is_own_folder = path.parent() == Some(folder);
        if !is_own_folder && metadata.mode() & STICKY != 0 && is_trusted(metadata.uid(), owner) {
            return Ok(());
        }
        entry(&metadata, folder, owner)
    })
}

fn entry(metadata: &Metadata, path: &Path, owner: u32) -> Result<(), String> {
    if !is_trusted(metadata.uid(), owner) {
        let uid = metadata.uid();
        return Err(format!("{} belongs to user {uid} and not to root", path.display()));
    }
    if metadata.mode() & OTHERS_MAY_WRITE != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(format!("{} is writable by others than root ({mode:04o})", path.display()));
    }
    Ok(())
}

fn is_trusted(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

fn metadata(path: &Path) -> Result<Metadata, String> {
    std::fs::symlink_metadata(path).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn every_folder_on_the_way_counts() {
        let owner = rustix::process::geteuid().as_raw();
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let folder = root.join("a/b");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("dlv");
        std::fs::write(&file, "").unwrap();
        let why = |what: &str| {
            let why = check(&file, owner).unwrap_err();
            assert!(why.contains(what), "{why}");
        };
        why("not executable");
        set_mode(&file, 0o755);
        assert_eq!(check(&file, owner), Ok(file.clone()));
        set_mode(&root.join("a"), 0o770);
        why("writable by others");
        // Sticky is enough above, as in /tmp, but not for the folder itself.
        set_mode(&root.join("a"), 0o1777);
        assert!(check(&file, owner).is_ok());
        set_mode(&folder, 0o1777);
        why("writable by others");
        set_mode(&folder, 0o755);

        let links = root.join("links");
        std::fs::create_dir(&links).unwrap();
        symlink(&file, links.join("dlv")).unwrap();
        assert_eq!(check(&links.join("dlv"), owner), Ok(file.clone()));
        set_mode(&links, 0o777);
        assert!(check(&links.join("dlv"), owner).is_err());
    }

    #[test]
    fn a_dangling_link_or_a_folder_is_no_program() {
        let owner = rustix::process::geteuid().as_raw();
        let root = tempfile::tempdir().unwrap();
        symlink("/nowhere", root.path().join("dlv")).unwrap();
        assert!(check(&root.path().join("dlv"), owner).is_err());
        assert!(check(root.path(), owner).unwrap_err().contains("no regular file"));
    }

    #[test]
    fn somebody_elses_file_is_not_trusted() {
        assert!(is_trusted(0, 0) && !is_trusted(1000, 0) && is_trusted(1000, 1000));
    }
}
