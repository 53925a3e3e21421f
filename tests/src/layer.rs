//! The cache of file trees that hosts are stacked from. Each is made once, under a lock, beside its
//! final name; users hold a shared lock, so that clearing out old ones never takes one in use.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};

use crate::{command::tool, files};

const KEEP_IMAGES: Duration = Duration::from_secs(3 * 24 * 3600);
/// Every build of the product makes a new one of these.
const KEEP_PRODUCTS: Duration = Duration::from_secs(3600);

/// A finished tree. It stays in the cache at least as long as this value lives.
pub(crate) struct Layer {
    path: PathBuf,
    _in_use: File,
}

impl Layer {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where images and running hosts are kept, outside the source tree.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("GODEBUG_TEST_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/godebug-tests"), PathBuf::from)
}

/// The tree `name-key`, made by `make` in an empty folder if nobody has made it before.
pub(crate) fn layer(
    name: &str,
    key: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<Layer> {
    let folder = cache().join("layers");
    files::create_folder(&folder)?;
    let path = folder.join(format!("{name}-{key}"));
    let lock = open_lock(&path)?;
    flock(&lock, FlockOperation::LockShared).context("locking an image")?;
    if !path.exists() {
        flock(&lock, FlockOperation::LockExclusive).context("locking an image")?;
        if !path.exists() {
            build(&path, make)?;
            prune(&folder, name);
        }
        flock(&lock, FlockOperation::LockShared).context("locking an image")?;
    }
    // The time of last use, which `prune` reads.
    lock.set_modified(SystemTime::now()).context("touching an image's lock")?;
    Ok(Layer { path, _in_use: lock })
}

fn open_lock(path: &Path) -> Result<File> {
    let path = path.with_extension("lock");
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))
}

fn build(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let new = path.with_extension("new");
    remove_tree(&new)?;
    files::create_folder(&new)?;
    if let Err(error) = make(&new) {
        remove_tree(&new)?;
        return Err(error).with_context(|| format!("making {}", path.display()));
    }
    fs::rename(&new, path).with_context(|| format!("renaming {} to its final name", new.display()))
}

/// Removes trees of the same name that nobody uses and nobody used of late. Failing to is no error.
fn prune(folder: &Path, name: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let keep = if name.starts_with("product-") { KEEP_PRODUCTS } else { KEEP_IMAGES };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(file_name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let is_sibling = file_name.rsplit_once('-').is_some_and(|(stem, _)| stem == name);
        if !is_sibling || path.extension().is_some() {
            continue;
        }
        let Ok(lock) = open_lock(&path) else { continue };
        let unused =
            lock.metadata().and_then(|meta| meta.modified()).ok().and_then(|at| at.elapsed().ok());
        if unused.is_some_and(|unused| unused > keep)
            && flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = remove_tree(&path);
        }
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    let path = path.to_str().context("a cache folder whose name is not text")?;
    tool("rm", &["-rf", "--one-file-system", path]).map(drop)
}

/// Runs `script` (a path below `input`, which is mounted at /mnt) inside the stacked `lower` layers.
/// What it changes lands in `upper`.
pub(crate) fn run_in_layers(
    lower: &[&Layer],
    upper: &Path,
    input: &Path,
    script: &str,
) -> Result<()> {
    let beside = |what: &str| upper.with_extension(what);
    for what in ["work", "root"] {
        remove_tree(&beside(what))?;
        files::create_folder(beside(what))?;
    }
    let recipe = files::tests_folder().join("image/build-layer.sh");
    let paths = [
        recipe,
        PathBuf::from(stack(lower)),
        upper.to_owned(),
        beside("work"),
        beside("root"),
        input.to_owned(),
    ];
    let words: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut arguments = vec!["--mount", "--net", "--pid", "--fork", "--kill-child", "/bin/sh"];
    arguments.extend(words.iter().map(String::as_str));
    arguments.push(script);
    let done = tool("unshare", &arguments);
    for what in ["work", "root"] {
        remove_tree(&beside(what))?;
    }
    done.map(drop)
}

/// Layers as overlayfs wants its lower directories: the topmost first.
pub(crate) fn stack(layers: &[&Layer]) -> String {
    let paths: Vec<String> = layers.iter().map(|layer| layer.path.display().to_string()).collect();
    paths.join(":")
}
