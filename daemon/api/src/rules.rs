//! The rules' files of a host, read as one list; and the document that explains a decision.
//!
//! godebugd reads them at every decision, `godebugctl rules check` without it.

use godebug_core::rules::{Command, Mismatch, Place, Problem, Rule, Severity, parse};
use godebug_core::{Cidr, Mode, Reason, Ttl};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub use godebug_core::rules::{self as engine, check};

/// Where rules are: the vendor's, then the site's. A file of the site stands in for the vendor's of
/// the same name.
pub const DIRECTORIES: [&str; 2] = ["/usr/lib/godebug/rules.d", "/etc/godebug/rules.d"];

/// The rules of this host.
///
/// # Errors
/// Everything that is wrong; then none of them is used.
pub fn load() -> Result<Vec<Rule>, Vec<Problem>> {
    load_from(&DIRECTORIES.map(Path::new))
}

fn load_from(directories: &[&Path]) -> Result<Vec<Rule>, Vec<Problem>> {
    let files = files_in(directories).map_err(|problem| vec![problem])?;
    read(&files, Trust::RootOnly)
}

/// Whose files are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Those that nobody but root can have written.
    RootOnly,
    /// Any, to be checked before they are installed.
    Any,
}

/// The files of this host that `load` reads, in the order in which their rules are asked.
///
/// # Errors
/// When a directory cannot be read. One that is not there has no files.
pub fn files() -> Result<Vec<PathBuf>, Problem> {
    files_in(&DIRECTORIES.map(Path::new))
}

fn files_in(directories: &[&Path]) -> Result<Vec<PathBuf>, Problem> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for directory in directories {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(directory, &error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(directory, &error))?;
            let name = entry.file_name();
            let hidden = name.as_encoded_bytes().starts_with(b".");
            if !hidden && Path::new(&name).extension().is_some_and(|it| it == "toml") {
                files.insert(name, entry.path());
            }
        }
    }
    Ok(files.into_values().collect())
}

/// The rules of these files, as one list.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn read(files: &[PathBuf], trust: Trust) -> Result<Vec<Rule>, Vec<Problem>> {
    let (mut rules, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        match text(file, trust) {
            Ok(text) => match parse(&file.to_string_lossy(), &text) {
                Ok(more) => rules.extend(more),
                Err(more) => problems.extend(more),
            },
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn text(file: &Path, trust: Trust) -> Result<String, Problem> {
    // A file that is longer than any set of rules is complained of by the parser.
    const MOST: u64 = 1 << 20;
    let open = std::fs::File::open(file).map_err(|error| unreadable(file, &error))?;
    let metadata = open.metadata().map_err(|error| unreadable(file, &error))?;
    if trust == Trust::RootOnly && (metadata.uid() != 0 || metadata.mode() & 0o022 != 0) {
        return Err(Problem {
            help: "chown root: and chmod go-w it: whoever can write it can let anybody in"
                .to_owned(),
            ..about(file, "others than root can write this file")
        });
    }
    if !metadata.is_file() {
        return Err(about(file, "is no regular file"));
    }
    io::read_to_string(io::Read::take(open, MOST)).map_err(|error| unreadable(file, &error))
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    about(path, &format!("cannot be read: {error}"))
}

fn about(path: &Path, message: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        place: Place { file: path.to_string_lossy().into_owned(), line: 0 },
        message: message.to_owned(),
        help: String::new(),
    }
}

/// What `rules explain` asks. The unit is an argument of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hypothesis {
    pub user: String,
    pub command: Command,
    pub mode: Mode,
    pub ttl: Ttl,
    #[serde(default)]
    pub reason: Option<Reason>,
    #[serde(default)]
    pub from: Vec<Cidr>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
}

/// What `rules explain` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub allowed: bool,
    /// The rule that decides, with its place; `None` when none does.
    pub rule: Option<String>,
    /// Who was asked about, as the host knows them.
    pub user: String,
    pub groups: Vec<String>,
    /// The slice that the unit is in.
    pub slice: Option<String>,
    /// The host's own time, as rules see it.
    pub now: String,
    /// Why, in a sentence.
    pub message: String,
    pub remedy: String,
    /// The rules before it, with everything that did not fit.
    pub passed_over: Vec<PassedOver>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    pub rule: String,
    #[serde(flatten)]
    pub place: Place,
    pub mismatches: Vec<Mismatch>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn rule(name: &str) -> String {
        format!("[[rule]]\nname = \"{name}\"\neffect = \"deny\"\n")
    }

    fn names(rules: &[Rule]) -> Vec<&str> {
        rules.iter().map(|rule| rule.name.as_str()).collect()
    }

    #[test]
    fn a_sites_file_stands_in_for_the_vendors_and_names_give_the_order() {
        let (vendor, site) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |folder: &tempfile::TempDir, name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
        };
        write(&vendor, "50-vendor.toml", &rule("vendor's"));
        write(&vendor, "90-default.toml", &rule("default"));
        write(&site, "10-first.toml", &(rule("first") + &rule("second")));
        write(&site, "50-vendor.toml", &rule("site's"));
        write(&site, "60-readme.txt", "no rule");
        write(&site, ".hidden.toml", "no rule");
        let directories = [vendor.path(), site.path()];
        let files = files_in(&directories).unwrap();
        let rules = read(&files, Trust::Any).unwrap();
        assert_eq!(names(&rules), ["first", "second", "site's", "default"]);
        // An empty one takes the vendor's away.
        write(&site, "90-default.toml", "");
        let rules = read(&files_in(&directories).unwrap(), Trust::Any).unwrap();
        assert_eq!(names(&rules), ["first", "second", "site's"]);
        assert!(files_in(&[Path::new("/nonexistent")]).unwrap().is_empty());
    }

    #[test]
    fn one_broken_file_closes_all_and_others_problems_are_told_too() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("a.toml", rule("good")), ("b.toml", "x = 1".to_owned())] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        std::fs::create_dir(folder.path().join("c.toml")).unwrap();
        let problems = read(&files_in(&[folder.path()]).unwrap(), Trust::Any).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].to_string().contains("b.toml:1: \"x\" is no key here"), "{problems:?}");
    }

    #[test]
    fn a_file_that_others_can_write_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        std::fs::write(&file, rule("a")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o664)).unwrap();
        let problems = load_from(&[folder.path()]).unwrap_err();
        assert!(problems[0].message.contains("others than root"), "{problems:?}");
    }
}
