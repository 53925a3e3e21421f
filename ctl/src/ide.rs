//! Configurations that make an IDE connect to the local port.
//!
//! The `debugAdapter` of VS Code is named because without it the extension falls back to its old
//! protocol where no dlv is installed on the laptop (vscode-go, goDebugConfiguration.ts).

mod checkout;
mod launch;
mod paths;
mod terminal_client;

use crate::cli::Ide;
use crate::manager::answer;
use crate::terminal::{YELLOW, painted, safe};
use checkout::Checkout;
use godebug_api::UnitName;
use godebug_api::bus::ManagerProxy;
use godebug_api::documents::{BuildInfo, Inspection, SessionInfo};
use paths::{Paths, Rule};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) use terminal_client::TerminalClient;

/// How the program was built, as godebugd sees it. It tells of the source only; without it the words are for the person.
pub(crate) async fn build_info(
    manager: &ManagerProxy<'_>,
    session: &SessionInfo,
) -> Option<BuildInfo> {
    let name = session.target_name().to_string();
    let told = answer::<Inspection>(manager.inspect(&name, session.pid.get()).await);
    told.ok().map(BuildInfo::from)
}

/// The paths that a client on this terminal needs, where this is a checkout of the program.
pub(crate) fn rules(build: Option<&BuildInfo>) -> Vec<Rule> {
    let Some(target) = build else { return Vec::new() };
    let paths = Checkout::of(target).and_then(|checkout| Paths::of(&checkout, target));
    paths.map(|paths| paths.rules).unwrap_or_default()
}

/// Puts the configuration where the IDE looks for it, when this is a checkout of the program; else tells what to
/// put where.
pub(crate) fn set_up(ide: Ide, build: Option<BuildInfo>, unit: &UnitName, port: u16) -> String {
    let Some(target) = build else { return configuration(ide, unit, port, &[]) };
    let Some(checkout) = Checkout::of(&target) else {
        let module = target.module.as_ref().map(safe).unwrap_or_default();
        let elsewhere = match ide {
            Ide::Vscode | Ide::Goland => {
                format!("\n(In a checkout of {module} it would be put in place.)")
            }
            _ => String::new(),
        };
        return configuration(ide, unit, port, &[]) + &elsewhere;
    };
    let paths = Paths::of(&checkout, &target);
    let notes = notes(&checkout, &target, paths.as_ref());
    let written = match ide {
        Ide::Vscode => {
            let workspace = checkout.workspace(".vscode");
            let rules = paths.as_ref().and_then(|paths| paths.in_vscode(workspace));
            let entry = entry(&name_of(unit), port, rules);
            launch::update(workspace, &entry).map_err(|error| error.to_string())
        }
        Ide::Goland => run_configuration(checkout.workspace(".idea"), unit, port),
        Ide::Nvim | Ide::Emacs | Ide::Dlv => {
            let rules = paths.map(|paths| paths.rules).unwrap_or_default();
            return configuration(ide, unit, port, &rules) + &notes;
        }
    };
    match written {
        Ok(path) => format!(
            "{} has {:?} now: F5. Stop and Disconnect both let the service go on.{notes}",
            path.display(),
            name_of(unit),
        ),
        Err(why) => {
            let rules = paths.map(|paths| paths.rules).unwrap_or_default();
            let told = configuration(ide, unit, port, &rules);
            format!("{told}\n{} {why}", painted(YELLOW, "not put in place:"))
        }
    }
}

/// What a person should know of, a line each.
fn notes(checkout: &Checkout, target: &BuildInfo, paths: Option<&Paths>) -> String {
    let mut notes = String::new();
    if paths.is_none() {
        notes += BUILT_ELSEWHERE;
    }
    if let Some(note) = paths.and_then(|paths| paths.note.as_deref()) {
        notes += &format!("\n{} {}", painted(YELLOW, "note:"), safe(note));
    }
    if let Some(why) = checkout.differs(target) {
        notes += &format!("\n{} {why}", painted(YELLOW, "warning:"));
    }
    notes
}

/// Not every program tells.
const BUILT_ELSEWHERE: &str = "\nIf the program was built in another folder, breakpoints need its path in the \
                               configuration (\"substitutePath\").";

fn run_configuration(folder: &Path, unit: &UnitName, port: u16) -> Result<PathBuf, String> {
    let folder = folder.join(".run");
    let path = folder.join(run_file(unit));
    if folder.is_symlink() || path.is_symlink() {
        return Err(format!("{} is a link", path.display()));
    }
    // Its name is ours, so what is there is of an earlier session.
    std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&path, goland(&name_of(unit), port) + "\n"))
        .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
    Ok(path)
}

fn name_of(unit: &UnitName) -> String {
    format!("godebug: {}", unit.stem())
}

fn run_file(unit: &UnitName) -> String {
    format!("{}.run.xml", name_of(unit).replace([':', ' ', '\\', '@', '/'], "-"))
}

/// What to paste where, for the local port `port`.
fn configuration(ide: Ide, unit: &UnitName, port: u16, rules: &[Rule]) -> String {
    let name = name_of(unit);
    match ide {
        Ide::Vscode => {
            let elsewhere = match rules {
                [] => {
                    "If the program was built in another directory, add \"substitutePath\":\n\
                     [{\"from\": \"${workspaceFolder}\", \"to\": \"/where/it/was/built\"}].\n"
                }
                _ => "",
            };
            format!(
                "Put this into .vscode/launch.json:\n\n{}\n\n{elsewhere}\
                 Stop and Disconnect both let the service go on.",
                vscode(&name, port, rules)
            )
        }
        Ide::Goland => format!("Put this into .run/{}:\n\n{}", run_file(unit), goland(&name, port)),
        Ide::Nvim => format!(
            "Put this into your nvim-dap configuration:\n\n{}\n\n\
             Leave with :lua require(\"dap\").disconnect(); the service goes on.",
            nvim(&name, port, rules)
        ),
        Ide::Emacs => format!(
            "Put this into your configuration of dape:\n\n{}\n\n\
             Then M-x dape RET godebug. Leave with M-x dape-disconnect-quit; the service goes on.",
            emacs(port, rules)
        ),
        Ide::Dlv => dlv(port, rules),
    }
}

/// A configuration for dape, which speaks DAP.
fn emacs(port: u16, rules: &[Rule]) -> String {
    let rule = |rule: &Rule| format!("(:from {} :to {})", quoted(&rule.here), quoted(&rule.there));
    let rules = match rules {
        [] => String::new(),
        rules => {
            let rules: Vec<String> = rules.iter().map(rule).collect();
            let between = format!("\n{:42}", "");
            format!("\n{:23}:substitutePath [{}]", "", rules.join(&between))
        }
    };
    format!(
        r#"(add-to-list 'dape-configs
             '(godebug modes (go-mode go-ts-mode)
                       host "127.0.0.1" port {port}
                       :type "go" :request "attach" :mode "remote"{rules}))"#
    )
}

/// As Lua and Emacs Lisp have strings, of one without control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A whole launch.json.
fn vscode(name: &str, port: u16, rules: &[Rule]) -> String {
    let rule = |rule: &Rule| json!({ "from": rule.here, "to": rule.there });
    let paths = (!rules.is_empty()).then(|| rules.iter().map(rule).collect());
    let document = json!({ "version": "0.2.0", "configurations": [entry(name, port, paths)] });
    format!("{document:#}")
}

fn entry(name: &str, port: u16, paths: Option<Value>) -> Value {
    let mut entry = json!({
        "name": name,
        "type": "go",
        "request": "attach",
        "mode": "remote",
        "debugAdapter": "dlv-dap",
        "host": "127.0.0.1",
        "port": port,
        "stopOnEntry": false,
    });
    if let Some(paths) = paths {
        entry["substitutePath"] = paths;
    }
    entry
}

/// A Go Remote run configuration that leaves the program running. A unit's name has no character
/// that XML gives a meaning.
fn goland(name: &str, port: u16) -> String {
    format!(
        r#"<component name="ProjectRunConfigurationManager">
  <configuration default="false" name="{name}" type="GoRemoteDebugConfigurationType" factoryName="Go Remote" host="127.0.0.1" port="{port}">
    <option name="disconnectOption" value="LEAVE" />
    <disconnect value="LEAVE" />
    <method v="2" />
  </configuration>
</component>"#
    )
}

/// An adapter and a configuration for nvim-dap. A unit's name can have backslashes.
fn nvim(name: &str, port: u16, rules: &[Rule]) -> String {
    let rule = |rule: &Rule| {
        format!("    {{ from = {}, to = {} }},\n", quoted(&rule.here), quoted(&rule.there))
    };
    let rules = match rules {
        [] => String::new(),
        rules => {
            let rules: String = rules.iter().map(rule).collect();
            format!("\n  substitutePath = {{\n{rules}  }},")
        }
    };
    format!(
        r#"local dap = require("dap")
dap.adapters.godebug = {{ type = "server", host = "127.0.0.1", port = {port} }}
dap.configurations.go = dap.configurations.go or {{}}
table.insert(dap.configurations.go, {{
  type = "godebug",
  name = {},
  request = "attach",
  mode = "remote",{rules}
}})"#,
        quoted(name)
    )
}

fn dlv(port: u16, rules: &[Rule]) -> String {
    let paths = match terminal_client::substitutions(rules).as_str() {
        "" => String::new(),
        lines => format!("and there, so that it finds the source:\n\n{lines}\n"),
    };
    format!(
        "  dlv connect 127.0.0.1:{port}\n\n{paths}\
         Leave with `exit -c`: the program goes on. No answer to a plain `exit` ends it either."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> UnitName {
        r"app\x2da@1.service".parse().unwrap()
    }

    #[test]
    fn the_launch_configuration_is_valid_json() {
        let text = configuration(Ide::Vscode, &unit(), 2350, &[]);
        let (start, end) = (text.find("{\n").unwrap(), text.find("\n}\n").unwrap() + 2);
        let document: serde_json::Value = serde_json::from_str(&text[start..end]).unwrap();
        let entry = &document["configurations"][0];
        assert_eq!(entry["port"], 2350);
        assert_eq!(entry["mode"], "remote");
        assert_eq!(entry["debugAdapter"], "dlv-dap");
        assert_eq!(entry["name"], r"godebug: app\x2da@1");
    }

    #[test]
    fn every_configuration_names_the_port_and_none_kills() {
        for ide in [Ide::Vscode, Ide::Goland, Ide::Nvim, Ide::Emacs, Ide::Dlv] {
            assert!(configuration(ide, &unit(), 2351, &[]).contains("2351"), "{ide:?}");
        }
        assert!(
            configuration(Ide::Goland, &unit(), 1, &[]).contains(r#"<disconnect value="LEAVE" />"#)
        );
        assert!(configuration(Ide::Nvim, &unit(), 1, &[]).contains(r"app\\x2da@1"));
    }

    #[test]
    fn editors_that_nothing_is_written_for_are_told_the_paths() {
        let rules = [
            Rule { here: "/home/me/\"shop\"".to_owned(), there: "example.com/shop".to_owned() },
            Rule { here: "/usr/lib/go/src".to_owned(), there: String::new() },
        ];
        let nvim = configuration(Ide::Nvim, &unit(), 1, &rules);
        let lines = r#"{ from = "/home/me/\"shop\"", to = "example.com/shop" },"#;
        assert!(nvim.contains(lines) && nvim.contains(r#"to = "" },"#), "{nvim}");
        let emacs = configuration(Ide::Emacs, &unit(), 1, &rules);
        assert!(emacs.contains(r#":substitutePath [(:from "/home/me/\"shop\"" :to "#), "{emacs}");
        assert!(emacs.contains(r#"(:from "/usr/lib/go/src" :to "")]))"#), "{emacs}");
        let dlv = configuration(Ide::Dlv, &unit(), 1, &rules);
        assert!(dlv.contains("config substitute-path \"\" \"/usr/lib/go/src\"\n"), "{dlv}");
    }
}
