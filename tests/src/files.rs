//! Small file-system helpers: reads and writes whose errors name the file, and a stable content hash.

use std::{
    fs,
    hash::Hasher,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// The workspace that these tests belong to.
pub(crate) fn workspace() -> PathBuf {
    tests_folder().parent().map(Path::to_owned).unwrap_or_default()
}

/// This crate's folder, with the recipes and samples.
pub(crate) fn tests_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The last part of a log, for an error message.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

pub(crate) fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
    let path = path.as_ref();
    fs::write(path, content).with_context(|| format!("writing {}", path.display()))
}

pub(crate) fn create_folder(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    fs::create_dir_all(path).with_context(|| format!("making the folder {}", path.display()))
}

/// A key for the cache: equal for equal parts. It need not withstand an adversary, only change with
/// the recipe; a Rust release with another hash merely rebuilds.
#[derive(Default)]
pub(crate) struct Key(std::hash::DefaultHasher);

impl Key {
    pub(crate) fn text(mut self, part: &str) -> Self {
        self.0.write(part.as_bytes());
        self.0.write_u8(0xff);
        self
    }

    /// Adds every file below `path`, with its name, in a fixed order.
    pub(crate) fn files(mut self, path: &Path) -> Result<Self> {
        if path.is_dir() {
            let mut entries = fs::read_dir(path)
                .with_context(|| format!("listing {}", path.display()))?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<_>>>()?;
            entries.sort();
            for entry in entries {
                self = self.files(&entry)?;
            }
            return Ok(self);
        }
        let content = if path.is_symlink() {
            fs::read_link(path).map(|to| to.as_os_str().as_encoded_bytes().to_vec())
        } else {
            fs::read(path)
        };
        self.0.write(&content.with_context(|| format!("reading {}", path.display()))?);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(self.text(&name))
    }

    pub(crate) fn finish(self) -> String {
        format!("{:016x}", self.0.finish())
    }
}
