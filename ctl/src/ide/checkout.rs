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

    /// From the paths here to those in the program, where they are known to differ: with -trimpath they begin with the
    /// module's name.
    pub(crate) fn paths(&self, target: &Inspection) -> Option<Value> {
        let module = target.module.as_deref().filter(|_| target.trimpath)?;
        Some(json!([{ "from": "${workspaceFolder}", "to": module }]))
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
