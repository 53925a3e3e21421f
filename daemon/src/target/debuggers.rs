//! Finds the dlv's of this host and what each is: its version and the Go it was built with.
//!
//! The version is asked of the program itself, which root then runs. So only a program that nobody
//! but root can have put there or changed is run; every other is reported with the reason. Answers
//! are kept in a cache under /run, keyed by what identifies the file.

mod cache;
pub(crate) mod trust;
pub(crate) mod version;

use super::executable::GoExecutable;
use crate::toolchain as pins;
use cache::Identity;
use godebug_core::delve::{Debugger, DelveVersion};
use std::fs::File;
use std::path::{Path, PathBuf};

/// More than this many folders of extra debuggers are not looked at.
const MOST_CANDIDATES: usize = 64;
const ROOT: u32 = 0;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Those in the vendor's folder first, then the one in the path.
    pub found: Vec<Debugger>,
    /// What is there and is not used, with the reason.
    pub skipped: Vec<(PathBuf, String)>,
}

/// Looks for `VENDOR/*/dlv`, and for the first usable `dlv` in the folders of the path.
///
/// `cache` is a file that need not exist; not being able to write it only costs the next search
/// some time.
pub async fn find(vendor: &Path, path_dirs: &[PathBuf], cache: &Path) -> Search {
    find_as(ROOT, vendor, path_dirs, cache).await
}

/// `find`, trusting the files of `owner` besides root's, so that tests need not be root.
async fn find_as(owner: u32, vendor: &Path, path_dirs: &[PathBuf], cache: &Path) -> Search {
    let known = cache::read(cache, owner);
    let mut hunt = Hunt { owner, known, seen: Vec::new(), search: Search::default() };
    for candidate in vendored(vendor) {
        hunt.consider(&candidate).await;
    }
    for folder in path_dirs {
        if hunt.consider(&folder.join("dlv")).await {
            break;
        }
    }
    if hunt.seen != hunt.known
        && let Err(error) = cache::write(cache, &hunt.seen)
    {
        tracing::debug!("what dlv's there are cannot be kept in {}: {error}", cache.display());
    }
    hunt.search
}

/// The extra debuggers, in a fixed order. The folder's name is for people; the version is asked.
fn vendored(vendor: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(vendor) else { return Vec::new() };
    let folders = entries.take(MOST_CANDIDATES).filter_map(Result::ok);
    let mut candidates: Vec<PathBuf> = folders.map(|entry| entry.path().join("dlv")).collect();
    candidates.sort();
    candidates
}

/// A search under way.
struct Hunt {
    owner: u32,
    known: Vec<(Identity, Debugger)>,
    seen: Vec<(Identity, Debugger)>,
    search: Search,
}

impl Hunt {
    /// Adds a candidate to those found or to those skipped; whether it can be used.
    async fn consider(&mut self, candidate: &Path) -> bool {
        if std::fs::symlink_metadata(candidate).is_err() {
            return false;
        }
        match self.identify(candidate).await {
            Ok((identity, debugger)) => {
                // One file may be reached by several links.
                if !self.seen.iter().any(|(seen, _)| *seen == identity) {
                    self.search.found.push(debugger.clone());
                    self.seen.push((identity, debugger));
                }
                true
            }
            Err(why) => {
                self.search.skipped.push((candidate.to_owned(), why));
                false
            }
        }
    }

    async fn identify(&self, candidate: &Path) -> Result<(Identity, Debugger), String> {
        let path = trust::check(candidate, self.owner)?;
        let identity =
            Identity::of(&path).map_err(|error| format!("it cannot be read: {error}"))?;
        if let Some((_, debugger)) = self.known.iter().find(|(known, _)| *known == identity) {
            return Ok((identity, debugger.clone()));
        }
        // Before it is run; whatever is known has not changed since it was looked at.
        pins::check(&path)?;
        let version = version::ask(&path).await?;
        Ok((identity, describe(&path, version)?))
    }
}

/// The debugger as the rest of godebug knows it. Which Go it was built with is in its own file.
fn describe(path: &Path, version: DelveVersion) -> Result<Debugger, String> {
    let text = path.to_str().ok_or("its path is not UTF-8")?;
    let built_with = File::open(path)
        .ok()
        .and_then(|file| GoExecutable::read(&file, path).ok())
        .map(|executable| executable.go_version);
    Ok(Debugger { path: text.to_owned(), version, built_with })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;

    struct Host {
        folder: tempfile::TempDir,
        owner: u32,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self { folder, owner: rustix::process::geteuid().as_raw() }
        }

        fn path(&self, name: &str) -> PathBuf {
            // Canonical, as the paths of what is found are.
            self.folder.path().canonicalize().unwrap().join(name)
        }

        /// A script that counts how often it is run and says what dlv says.
        fn put(&self, name: &str, version: &str) -> PathBuf {
            let path = self.path(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let runs = self.path("runs");
            let script = format!(
                "#!/bin/sh\necho x >> {}\necho Delve Debugger\necho Version: {version}\necho Build: 1\n",
                runs.display()
            );
            std::fs::write(&path, script).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path
        }

        fn runs(&self) -> usize {
            std::fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
        }

        async fn search(&self) -> Search {
            let path = ["bin1", "bin2", "bin3"].map(|name| self.path(name));
            find_as(self.owner, &self.path("vendor"), &path, &self.path("delve.json")).await
        }
    }

    fn versions(search: &Search) -> Vec<String> {
        search.found.iter().map(|debugger| debugger.version.to_string()).collect()
    }

    #[tokio::test]
    async fn the_vendors_and_the_first_in_the_path_are_found_and_remembered() {
        let host = Host::new();
        host.put("vendor/b/dlv", "1.27.1");
        host.put("vendor/a/dlv", "1.20.2");
        host.put("bin2/dlv", "1.24.0");
        host.put("bin3/dlv", "1.23.0");
        let first = host.search().await;
        assert_eq!(versions(&first), ["1.20.2", "1.27.1", "1.24.0"], "{first:?}");
        assert_eq!((first.skipped.len(), host.runs()), (0, 3));
        assert_eq!(host.search().await, first);
        assert_eq!(host.runs(), 3);
        // A replaced one is asked again, and only that.
        std::fs::remove_file(host.path("bin2/dlv")).unwrap();
        host.put("bin2/dlv", "1.25.1");
        assert_eq!(versions(&host.search().await), ["1.20.2", "1.27.1", "1.25.1"]);
        assert_eq!(host.runs(), 4);
    }

    #[tokio::test]
    async fn what_others_could_have_changed_is_not_run() {
        let host = Host::new();
        let writable = host.put("bin1/dlv", "1.24.0");
        std::fs::set_permissions(&writable, PermissionsExt::from_mode(0o775)).unwrap();
        host.put("bin2/dlv", "1.25.1");
        std::fs::set_permissions(host.path("bin2"), PermissionsExt::from_mode(0o777)).unwrap();
        host.put("bin3/dlv", "1.26.0");
        let search = host.search().await;
        assert_eq!(versions(&search), ["1.26.0"]);
        assert_eq!(search.skipped.len(), 2, "{search:?}");
        assert_eq!(host.runs(), 1);
    }

    #[tokio::test]
    async fn one_file_under_two_names_is_one_debugger() {
        let host = Host::new();
        let real = host.put("bin1/dlv", "1.24.0");
        std::fs::create_dir_all(host.path("vendor/x")).unwrap();
        symlink(&real, host.path("vendor/x/dlv")).unwrap();
        let search = host.search().await;
        assert_eq!(versions(&search), ["1.24.0"]);
        assert_eq!(search.found[0].path, real.to_str().unwrap());
    }

    #[tokio::test]
    async fn a_cache_that_cannot_be_trusted_or_read_is_not_used() {
        let host = Host::new();
        host.put("bin1/dlv", "1.24.0");
        host.search().await;
        let cache = host.path("delve.json");
        let good = std::fs::read_to_string(&cache).unwrap();
        std::fs::write(&cache, good.replace("1.24.0", "1.99.0")).unwrap();
        assert_eq!(versions(&host.search().await), ["1.99.0"]);
        std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o666)).unwrap();
        assert_eq!(versions(&host.search().await), ["1.24.0"]);
        std::fs::write(&cache, "{").unwrap();
        assert_eq!(versions(&host.search().await), ["1.24.0"]);
    }

    #[tokio::test]
    async fn nothing_there_is_nothing_found() {
        assert_eq!(Host::new().search().await, Search::default());
    }
}
