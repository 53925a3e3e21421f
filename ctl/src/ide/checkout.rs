//! The source that the person has here: whether it is that of the program, and how its paths differ.

use godebug_api::documents::Inspection;
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders above the current one that are looked into.
const MOST_FOLDERS: usize = 30;
const LONGEST: u64 = 1 << 20;

/// A checkout of the program's own module.
pub(crate) struct Checkout {
    pub(crate) folder: PathBuf,
}

impl Checkout {
    /// The one that the current folder is in, if it is of this program, and the person's own.
    pub(crate) fn of(target: &Inspection) -> Option<Self> {
        let here = std::env::current_dir().ok()?;
        let module = target.module.as_deref()?;
        let folder = here.ancestors().take(MOST_FOLDERS).find(|it| it.join("go.mod").is_file())?;
        // Root puts nothing into somebody else's folder: it could become another one meanwhile.
        let own = folder.metadata().is_ok_and(|it| it.uid() == rustix::process::geteuid().as_raw());
        (own && module_of(folder).as_deref() == Some(module))
            .then(|| Self { folder: folder.to_owned() })
    }

    /// From the paths here to those in the program, where they differ: with -trimpath they begin with the
    /// module's name, else they are those of the machine on which it was built. `None` when nothing is known
    /// of that.
    pub(crate) fn paths(&self, target: &Inspection) -> Option<Vec<Value>> {
        const HERE: &str = "${workspaceFolder}";
        let pair = |from: &str, to: &str| json!({ "from": from, "to": to });
        let module = target.module.as_deref()?;
        if target.trimpath {
            return Some(vec![pair(HERE, module)]);
        }
        let sources = &target.sources;
        let built_in = sources.module.as_deref()?;
        let mut paths = Vec::new();
        if Path::new(built_in) != self.folder {
            paths.push(pair(HERE, built_in));
        }
        for (name, there) in [("GOROOT", &sources.go), ("GOMODCACHE", &sources.module_cache)] {
            let Some(there) = there.as_deref() else { continue };
            // Without Go here there are no such files either.
            if let Some(here) = self.go_says(name).filter(|here| here != there) {
                paths.push(pair(&here, there));
            }
        }
        Some(paths)
    }

    fn go_says(&self, name: &str) -> Option<String> {
        let mut go = Command::new("go");
        go.args(["env", name]).current_dir(&self.folder);
        // It shall not fetch another Go to answer that.
        go.env("GOTOOLCHAIN", "local").stdin(Stdio::null()).stderr(Stdio::null());
        let told = go.output().ok().filter(|told| told.status.success())?;
        let text = String::from_utf8(told.stdout).ok()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    /// What a person should know of before they trust the lines they see.
    pub(crate) fn differs(&self, target: &Inspection) -> Option<String> {
        let revision = target.vcs_revision.as_deref()?;
        let here = self.git(&["rev-parse", "HEAD"])?;
        let short = |revision: &str| revision.chars().take(12).collect::<String>();
        if here.trim() != revision {
            let (program, here) = (short(revision), short(here.trim()));
            return Some(format!(
                "the program was built from revision {program}, and this checkout is at {here}: lines may differ"
            ));
        }
        if target.vcs_modified == Some(true) {
            return Some(
                "the program was built from a changed checkout: lines may differ".to_owned(),
            );
        }
        let changed = self.git(&["status", "--porcelain", "--untracked-files=no"])?;
        (!changed.trim().is_empty())
            .then(|| "this checkout was changed since its commit: lines may differ".to_owned())
    }

    fn git(&self, words: &[&str]) -> Option<String> {
        let mut git = Command::new("git");
        git.arg("-C").arg(&self.folder).args(words).stdin(Stdio::null()).stderr(Stdio::null());
        let told = git.output().ok().filter(|told| told.status.success())?;
        String::from_utf8(told.stdout).ok()
    }
}

fn module_of(folder: &Path) -> Option<String> {
    let file = std::fs::File::open(folder.join("go.mod")).ok()?;
    let text = std::io::read_to_string(std::io::Read::take(file, LONGEST)).ok()?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("module"))?;
    let name = line.split("//").next()?.trim().trim_matches('"');
    (!name.is_empty()).then(|| name.to_owned())
}
