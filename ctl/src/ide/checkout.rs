//! The source that the person has here: whether it is that of the program, and in which folder an IDE opens it.

use godebug_api::documents::BuildInfo;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders above the current one that are looked into.
const MOST_FOLDERS: usize = 30;
const LONGEST: u64 = 1 << 20;
const WORK_FILE: &str = "go.work";

/// A checkout of the program's own module.
pub(crate) struct Checkout {
    /// The module's folder.
    pub(crate) folder: PathBuf,
    /// The top of the repository that it is in; the module's folder where there is none.
    pub(crate) top: PathBuf,
}

impl Checkout {
    /// The one that the current folder is in, or that the Go workspace has that it is in, if it is of this program, and
    /// the person's own.
    pub(crate) fn of(target: &BuildInfo) -> Option<Self> {
        let here = std::env::current_dir().ok()?;
        Self::above(&here, target.module.as_deref()?)
    }

    fn above(here: &Path, module: &str) -> Option<Self> {
        let folders = || here.ancestors().take(MOST_FOLDERS);
        let is_of_module = |folder: &PathBuf| module_of(folder).as_deref() == Some(module);
        let nearest = folders().find(|it| it.join("go.mod").is_file()).map(Path::to_owned);
        let folder = nearest
            .filter(is_of_module)
            .or_else(|| folders().flat_map(modules_used).find(is_of_module))?;
        let top = folder.ancestors().take(MOST_FOLDERS).find(|it| it.join(".git").exists());
        let top = top.filter(|top| is_own(top)).unwrap_or(&folder).to_owned();
        is_own(&folder).then_some(Self { folder, top })
    }

    /// The folder that an IDE opens, which it knows by a folder of its own in there: `.vscode`, `.idea`. Where there is none
    /// yet it is the Go workspace, or the module.
    pub(crate) fn workspace(&self, mark: &str) -> &Path {
        // Everybody has one at home, which is no workspace.
        let home = std::env::home_dir();
        let ends_at = self.top.parent();
        let folders = || {
            let up_to_top = self.folder.ancestors().take_while(|it| Some(*it) != ends_at);
            up_to_top.filter(|it| is_own(it) && Some(*it) != home.as_deref())
        };
        let marked = folders().find(|it| it.join(mark).is_dir());
        let go_work = || folders().find(|it| it.join(WORK_FILE).is_file());
        marked.or_else(go_work).unwrap_or(&self.folder)
    }

    /// The folders of all modules of the Go workspace that it is in, with their names.
    pub(crate) fn modules_beside(&self) -> Vec<(PathBuf, String)> {
        let folders = self.folder.ancestors().take(MOST_FOLDERS).find_map(|it| {
            let used = modules_used(it);
            used.contains(&self.folder).then_some(used)
        });
        let others = folders.into_iter().flatten().filter(|it| *it != self.folder);
        others.filter_map(|folder| module_of(&folder).map(|name| (folder, name))).collect()
    }

    /// What a person should know of before they trust the lines they see.
    pub(crate) fn differs(&self, target: &BuildInfo) -> Option<String> {
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

/// Root puts nothing into somebody else's folder: it could become another one meanwhile.
fn is_own(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|it| it.uid() == rustix::process::geteuid().as_raw())
}

fn module_of(folder: &Path) -> Option<String> {
    let text = read(&folder.join("go.mod"))?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("module"))?;
    let name = line.split("//").next()?.trim().trim_matches('"');
    (!name.is_empty()).then(|| name.to_owned())
}

/// The folders of the modules that a Go workspace has, if this folder is one.
fn modules_used(folder: &Path) -> Vec<PathBuf> {
    let text = read(&folder.join(WORK_FILE)).unwrap_or_default();
    let folders = used_in(&text).into_iter().filter_map(|it| folder.join(it).canonicalize().ok());
    folders.collect()
}

/// What `use` names, alone or in brackets (go.dev/ref/mod#workspaces).
fn used_in(text: &str) -> Vec<&str> {
    let (mut used, mut in_brackets) = (Vec::new(), false);
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        let named = match line.strip_prefix("use") {
            _ if in_brackets && line == ")" => {
                in_brackets = false;
                continue;
            }
            _ if in_brackets => line,
            Some(rest) if rest.trim() == "(" => {
                in_brackets = true;
                continue;
            }
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim(),
            _ => continue,
        };
        let named = named.trim_matches(['"', '`']);
        if !named.is_empty() {
            used.push(named);
        }
    }
    used
}

fn read(path: &Path) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    std::io::read_to_string(std::io::Read::take(file, LONGEST)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A repository with two modules, a Go workspace in it and a folder of VS Code's where that is wanted.
    fn repository(go_work: bool) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (name, module) in [("services/shop", "example.com/shop"), ("lib", "example.com/lib")] {
            std::fs::create_dir_all(root.join(name).join("cmd")).unwrap();
            std::fs::write(root.join(name).join("go.mod"), format!("module {module}\n")).unwrap();
        }
        std::fs::create_dir(root.join(".git")).unwrap();
        if go_work {
            let text = "go 1.24\n\nuse (\n\t./services/shop // ours\n\t\"./lib\"\n)\nuse ./gone\n";
            std::fs::write(root.join("go.work"), text).unwrap();
        }
        folder
    }

    fn found(root: &Path, here: &str) -> Option<Checkout> {
        Checkout::above(&root.join(here).canonicalize().unwrap(), "example.com/shop")
    }

    #[test]
    fn the_module_is_found_from_below_and_through_the_workspace() {
        let repository = repository(true);
        let root = repository.path().canonicalize().unwrap();
        for here in ["services/shop/cmd", "services/shop", "services", "", "lib/cmd"] {
            let checkout = found(&root, here).unwrap();
            assert_eq!(checkout.folder, root.join("services/shop"), "{here}");
            assert_eq!(checkout.top, root);
            assert_eq!(
                checkout.modules_beside(),
                [(root.join("lib"), "example.com/lib".to_owned())]
            );
        }
        std::fs::remove_file(root.join("go.work")).unwrap();
        assert!(found(&root, "services/shop/cmd").is_some());
        assert!(found(&root, "services").is_none() && found(&root, "lib").is_none());
    }

    #[test]
    fn an_ide_opens_the_nearest_folder_that_it_knows() {
        let repository = repository(false);
        let root = repository.path().canonicalize().unwrap();
        let checkout = found(&root, "services/shop").unwrap();
        assert_eq!(checkout.workspace(".vscode"), root.join("services/shop"));
        std::fs::write(root.join("go.work"), "use ./services/shop").unwrap();
        assert_eq!(checkout.workspace(".vscode"), root);
        std::fs::create_dir(root.join("services/.vscode")).unwrap();
        assert_eq!(checkout.workspace(".vscode"), root.join("services"));
        assert_eq!(checkout.workspace(".idea"), root);
        // What is above the repository is none of it.
        std::fs::create_dir(root.join("services/shop/.git")).unwrap();
        let checkout = found(&root, "services/shop").unwrap();
        assert_eq!(checkout.workspace(".vscode"), root.join("services/shop"));
    }

    #[test]
    fn a_workspace_names_its_modules() {
        let text = "go 1.24\nuse ./a // x\nuse(\n./b\n)\nuse (\n \"./c d\"\n\n // none\n)\nreplace x => ./y\nused ./z\n";
        assert_eq!(used_in(text), ["./a", "./b", "./c d"]);
    }
}
