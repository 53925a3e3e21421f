//! Where the audit log is, and what was rotated away from it, in the order of the records. Read by godebugd
//! and, without it, by `audit verify`.

use godebug_core::chain::Head;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

pub const LOGS: &str = "/var/log/godebug";
pub const LOG: &str = "audit.jsonl";
/// What a rotated file may have at its end that cannot be read as it is.
const COMPRESSED: [&str; 4] = ["gz", "xz", "zst", "bz2"];

/// A file or folder that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read: {error}", .path.display())]
pub struct Unreadable {
    pub path: PathBuf,
    pub error: io::Error,
}

/// The log in this folder and what was rotated away, the oldest first; compressed files are left out.
///
/// # Errors
/// When the folder, or the beginning of a file in it, cannot be read.
pub fn in_order(folder: &Path) -> Result<Vec<PathBuf>, Unreadable> {
    let unreadable = |path: &Path, error| Unreadable { path: path.to_owned(), error };
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, error))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let packed = COMPRESSED.iter().any(|suffix| name.ends_with(suffix));
        if name.starts_with(LOG) && !packed {
            let first = first_record(&path).map_err(|error| unreadable(&path, error))?;
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// The number of a file's first record; a file without any is older than the chain, unless it is
/// empty, which the newest may be.
fn first_record(path: &Path) -> io::Result<u64> {
    let (mut first, mut empty) = (None, true);
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        empty = false;
        first = Head::of(&line?).map(|head| head.seq);
        if first.is_some() {
            break;
        }
    }
    Ok(first.unwrap_or(if empty { u64::MAX } else { 0 }))
}
