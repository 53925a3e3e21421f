//! From the paths of the source here to those in the program, as clients are told them.
//!
//! With `-trimpath` a file of the program's own module begins with the module's name, one of another module with
//! `NAME@VERSION`, and one of Go's own packages with that of the package (cmd/go/internal/work/gc.go). Without, all are
//! those of the machine on which it was built.

use super::checkout::Checkout;
use godebug_api::documents::{BuildInfo, SourceModule};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What VS Code calls the folder that it has open.
const HERE: &str = "${workspaceFolder}";

/// One rule: what begins with `here` begins with `there` in the program. An empty `there` stands for all that is in no
/// folder, and comes last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) here: String,
    pub(crate) there: String,
}

/// All of them, and what a person should know of.
pub(crate) struct Paths {
    pub(crate) rules: Vec<Rule>,
    pub(crate) note: Option<String>,
}

impl Paths {
    /// `None` when nothing is known of where the program was built.
    pub(crate) fn of(checkout: &Checkout, target: &BuildInfo) -> Option<Self> {
        let go = Go::of(&checkout.folder);
        let module = target.module.as_deref()?;
        let mut rules = Vec::new();
        let sources = &target.sources;
        if target.trimpath {
            let mut own = checkout.modules_beside();
            own.push((checkout.folder.clone(), module.to_owned()));
            let cache = go.as_ref().map(|go| go.module_cache.as_path());
            let others = dependencies(&sources.modules, &checkout.folder, cache);
            rules = in_order(own.iter().map(|(folder, name)| Rule::new(folder, name)), others);
        } else {
            rules.push(whole(checkout, sources.module.as_deref()?));
            if let (Some(go), Some(there)) = (&go, sources.module_cache.as_deref()) {
                rules.push(Rule::new(&go.module_cache, there));
            }
            // One within another comes first.
            rules.sort_by_key(|rule| std::cmp::Reverse(rule.here.len()));
        }
        let mut note = None;
        let there = if target.trimpath { Some("") } else { sources.go.as_deref() };
        if let (Some(go), Some(there)) = (&go, there) {
            match go.root_of(&target.go_version) {
                Some(root) if target.trimpath => rules.push(Rule::new(&root.join("src"), there)),
                Some(root) => rules.push(Rule::new(&root, there)),
                None => note = Some(go.other(&target.go_version)),
            }
        }
        rules.retain(|rule| rule.here != rule.there && rule.is_harmless());
        Some(Self { rules, note })
    }

    /// As VS Code has them, in the folder that it has open.
    pub(crate) fn in_vscode(&self, workspace: &Path) -> Option<Value> {
        let workspace = workspace.to_string_lossy();
        let rules = self.rules.iter().map(|rule| {
            let below = rule.here.strip_prefix(&*workspace);
            let below = below.filter(|rest| rest.is_empty() || rest.starts_with('/'));
            let from = below.map_or_else(|| rule.here.clone(), |below| format!("{HERE}{below}"));
            json!({ "from": from, "to": rule.there })
        });
        let rules: Vec<Value> = rules.collect();
        (!rules.is_empty()).then_some(Value::Array(rules))
    }
}

impl Rule {
    fn new(here: &Path, there: &str) -> Self {
        Self { here: here.to_string_lossy().into_owned(), there: there.to_owned() }
    }

    fn is_below(&self, other: &Self) -> bool {
        Path::new(&self.here).starts_with(&other.here)
    }

    /// IDEs run commands that are named in `${…}`, and a program could be made to have such paths.
    fn is_harmless(&self) -> bool {
        let is_harmless = |text: &str| !text.contains("${") && !text.contains(char::is_control);
        is_harmless(&self.here) && is_harmless(&self.there)
    }
}

/// The module, and what is beside it in the repository if it lay in the same folders there.
fn whole(checkout: &Checkout, built_in: &str) -> Rule {
    let (mut here, mut there) = (checkout.folder.as_path(), Path::new(built_in));
    while here != checkout.top
        && here.file_name() == there.file_name()
        && let (Some(above), Some(above_there)) = (here.parent(), there.parent())
        && above_there.parent().is_some()
    {
        (here, there) = (above, above_there);
    }
    Rule::new(here, &there.to_string_lossy())
}

/// The first that fits is taken, one way and the other: what lies in a module's folder comes before it, and a host's name
/// after the modules of it that are the person's own.
fn in_order(own: impl Iterator<Item = Rule>, others: Vec<Rule>) -> Vec<Rule> {
    let mut own: Vec<Rule> = own.collect();
    own.sort_by_key(|rule| std::cmp::Reverse(rule.here.len()));
    let is_vendored = |rule: &Rule| own.iter().any(|own| rule.is_below(own));
    let (mut rules, others): (Vec<_>, Vec<_>) = others.into_iter().partition(is_vendored);
    rules.extend(own);
    rules.extend(others);
    rules
}

/// Those of the other modules, as far as they are here: one for all that the cache has under a name as it is.
fn dependencies(modules: &[SourceModule], folder: &Path, cache: Option<&Path>) -> Vec<Rule> {
    let mut by_host: BTreeMap<&str, Vec<(PathBuf, &str)>> = BTreeMap::new();
    for module in modules {
        let Some((path, _)) = module.name.split_once('@') else { continue };
        let host = path.split('/').next().unwrap_or(path);
        let here = [
            Some(folder.join("vendor").join(path)),
            module.replaced_by.as_deref().and_then(|by| replaced(by, folder, cache)),
            cache.map(|cache| cache.join(escaped(&module.name))),
        ];
        // With a folder of that name in `vendor` the go command uses no other.
        if let Some(here) = here.into_iter().flatten().find(|folder| folder.is_dir()) {
            by_host.entry(host).or_default().push((here, &module.name));
        }
    }
    let mut rules = Vec::new();
    for (host, found) in by_host {
        match cache {
            Some(cache) if found.iter().all(|(here, module)| *here == cache.join(module)) => {
                rules.push(Rule::new(&cache.join(host), host));
            }
            _ => rules.extend(found.iter().map(|(here, module)| Rule::new(here, module))),
        }
    }
    rules
}

/// Where that is which has taken a module's place: a folder beside it, or another module.
fn replaced(by: &str, folder: &Path, cache: Option<&Path>) -> Option<PathBuf> {
    match by.starts_with(['.', '/']) {
        true => folder.join(by).canonicalize().ok(),
        false => cache.map(|cache| cache.join(escaped(by))),
    }
}

/// As the cache has names, which must not differ by the size of their letters alone (golang.org/x/mod/module).
fn escaped(module: &str) -> String {
    let mut escaped = String::new();
    for letter in module.chars() {
        if letter.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(letter.to_ascii_lowercase());
    }
    escaped
}

/// Go on this machine.
#[derive(Deserialize)]
struct Go {
    #[serde(rename = "GOROOT")]
    root: PathBuf,
    #[serde(rename = "GOVERSION")]
    version: String,
    #[serde(rename = "GOMODCACHE")]
    module_cache: PathBuf,
}

impl Go {
    fn of(folder: &Path) -> Option<Self> {
        let mut go = Command::new("go");
        go.args(["env", "-json", "GOROOT", "GOVERSION", "GOMODCACHE"]).current_dir(folder);
        // It shall not fetch another Go to answer that.
        go.env("GOTOOLCHAIN", "local").stdin(Stdio::null()).stderr(Stdio::null());
        let told = go.output().ok().filter(|told| told.status.success())?;
        serde_json::from_slice(&told.stdout).ok()
    }

    /// The folder of the Go of this version, if it is here: of another one the lines would not be the same.
    fn root_of(&self, version: &str) -> Option<PathBuf> {
        let version = release(version);
        if release(&self.version) == version {
            return Some(self.root.clone());
        }
        // Where the go command puts those that it fetches: VERSION.SYSTEM-ARCHITECTURE.
        let start = format!("toolchain@v0.0.1-{version}.");
        let is_it = |name: &str| {
            let system = name.strip_prefix(&start);
            system.is_some_and(|system| system.starts_with(|first: char| first.is_alphabetic()))
        };
        let mut all = std::fs::read_dir(self.module_cache.join("golang.org")).ok()?.flatten();
        let found = all.find(|entry| entry.file_name().to_str().is_some_and(is_it))?;
        Some(found.path())
    }

    fn other(&self, version: &str) -> String {
        let (here, version) = (release(&self.version), release(version));
        let differ = format!(
            "Go's own packages are not shown: they are of {version} in the program, and of {here} here."
        );
        // What a program says of itself becomes no command for people to copy unless it is a version.
        match version.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '.') {
            true => format!(
                "{differ} `GOTOOLCHAIN={version} go version` fetches them; then attach again"
            ),
            false => differ,
        }
    }
}

/// Without what experiments a program was built with.
fn release(version: &str) -> &str {
    version.split_whitespace().next().unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(here: &Path, there: &str) -> Rule {
        Rule::new(here, there)
    }

    #[test]
    fn modules_are_mapped_together_where_their_names_are_as_they_are() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (cache, shop) = (root.join("mod"), root.join("shop"));
        for there in [
            "mod/github.com/a/b@v1",
            "mod/github.com/a/c@v2",
            "mod/go.uber.org/zap@v1",
            "mod/go.uber.org/!fx@v1",
            "mod/example.com/fork@v3",
            "shop/vendor/gopkg.in/yaml.v3",
            "net",
        ] {
            std::fs::create_dir_all(root.join(there)).unwrap();
        }
        let module = |name: &str, replaced_by: Option<&str>| SourceModule {
            name: name.to_owned(),
            replaced_by: replaced_by.map(str::to_owned),
        };
        let modules = [
            module("github.com/a/b@v1", None),
            module("github.com/a/c@v2", None),
            module("github.com/gone/d@v1", None),
            module("go.uber.org/Fx@v1", None),
            module("go.uber.org/zap@v1", None),
            module("gopkg.in/yaml.v3@v3.0.1", None),
            module("golang.org/x/net@v1", Some("../net")),
            module("k8s.io/x@v1", Some("example.com/fork@v3")),
            module("odd", None),
        ];
        assert_eq!(
            dependencies(&modules, &shop, Some(&cache)),
            [
                rule(&cache.join("github.com"), "github.com"),
                rule(&cache.join("go.uber.org/!fx@v1"), "go.uber.org/Fx@v1"),
                rule(&cache.join("go.uber.org/zap@v1"), "go.uber.org/zap@v1"),
                rule(&root.join("net"), "golang.org/x/net@v1"),
                rule(&shop.join("vendor/gopkg.in/yaml.v3"), "gopkg.in/yaml.v3@v3.0.1"),
                rule(&cache.join("example.com/fork@v3"), "k8s.io/x@v1"),
            ]
        );
        assert_eq!(dependencies(&modules[..5], &shop, None), []);
    }

    #[test]
    fn what_is_special_comes_before_what_holds_it() {
        let all = |all: &[(&str, &str)]| -> Vec<Rule> {
            all.iter().map(|(here, there)| rule(Path::new(here), there)).collect()
        };
        let own = all(&[("/w", "example.com/w"), ("/w/tools", "example.com/w/tools")]);
        let others = all(&[("/c/example.com", "example.com"), ("/w/vendor/x.org/y", "x.org/y@v1")]);
        let ordered = all(&[
            ("/w/vendor/x.org/y", "x.org/y@v1"),
            ("/w/tools", "example.com/w/tools"),
            ("/w", "example.com/w"),
            ("/c/example.com", "example.com"),
        ]);
        assert_eq!(in_order(own.into_iter(), others), ordered);
    }

    #[test]
    fn what_lies_beside_the_module_is_mapped_with_it() {
        let checkout =
            |folder: &str, top: &str| Checkout { folder: folder.into(), top: top.into() };
        let monorepo = checkout("/home/me/repo/services/shop", "/home/me/repo");
        let whole = |checkout: &Checkout, built| super::whole(checkout, built);
        assert_eq!(
            whole(&monorepo, "/src/repo/services/shop"),
            rule(Path::new("/home/me/repo"), "/src/repo")
        );
        assert_eq!(
            whole(&monorepo, "/build/services/shop"),
            rule(Path::new("/home/me/repo"), "/build")
        );
        assert_eq!(
            whole(&monorepo, "/build/shop"),
            rule(Path::new("/home/me/repo/services"), "/build")
        );
        assert_eq!(whole(&monorepo, "/shop"), rule(&monorepo.folder, "/shop"));
        let alone = checkout("/home/me/shop", "/home/me/shop");
        assert_eq!(whole(&alone, "/src/shop"), rule(&alone.folder, "/src/shop"));
    }

    #[test]
    fn a_program_cannot_make_an_ide_run_a_command() {
        let is_harmless = |there| rule(Path::new("/home/me/shop"), there).is_harmless();
        assert!(is_harmless("/src/shop") && is_harmless("") && is_harmless("/src/$x"));
        assert!(!is_harmless("/${command:workbench.action.terminal.new}/shop"));
        assert!(!is_harmless("/src\n/shop"));
    }

    #[test]
    fn vs_code_is_told_by_the_folder_that_it_has_open() {
        let all = [("/w", "m"), ("/w/a", "n"), ("/wide", "o")];
        let rules = all.map(|(here, there)| rule(Path::new(here), there)).into();
        let paths = Paths { rules, note: None };
        assert_eq!(
            paths.in_vscode(Path::new("/w")).unwrap(),
            json!([
                { "from": "${workspaceFolder}", "to": "m" },
                { "from": "${workspaceFolder}/a", "to": "n" },
                { "from": "/wide", "to": "o" },
            ])
        );
    }

    #[test]
    fn go_of_the_same_version_is_found_also_where_the_go_command_puts_others() {
        let folder = tempfile::tempdir().unwrap();
        let fetched = folder.path().join("golang.org/toolchain@v0.0.1-go1.23.4.linux-amd64");
        std::fs::create_dir_all(&fetched).unwrap();
        let go = Go {
            root: "/usr/lib/go".into(),
            version: "go1.24.1".to_owned(),
            module_cache: folder.path().to_owned(),
        };
        assert_eq!(go.root_of("go1.24.1 X:loopvar"), Some("/usr/lib/go".into()));
        assert_eq!(go.root_of("go1.23.4"), Some(fetched));
        assert_eq!(go.root_of("go1.23"), None);
        assert!(go.other("go1.23").contains("GOTOOLCHAIN=go1.23 go version"));
        assert!(!go.other("go1.23;reboot").contains("GOTOOLCHAIN"));
    }
}
