//! Configurations that make an IDE connect to the local port.
//!
//! The `debugAdapter` of VS Code is named because without it the extension falls back to its old
//! protocol where no dlv is installed on the laptop (vscode-go, goDebugConfiguration.ts).

mod checkout;
mod launch;
mod terminal_client;

use crate::cli::Ide;
use crate::manager::answer;
use crate::terminal::{YELLOW, painted, safe};
use checkout::Checkout;
use godebug_api::UnitName;
use godebug_api::bus::ManagerProxy;
use godebug_api::documents::{Inspection, SessionInfo};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

pub(crate) use terminal_client::TerminalClient;

/// The paths that a client on this terminal needs, where this is a checkout of the program.
pub(crate) async fn paths(manager: &ManagerProxy<'_>, session: &SessionInfo) -> Vec<Value> {
    let name = session.target_name().to_string();
    let asked = manager.inspect(&name, session.pid.get()).await;
    let Ok(target) = answer::<Inspection>(asked) else { return Vec::new() };
    Checkout::of(&target).and_then(|checkout| checkout.paths(&target)).unwrap_or_default()
}

/// Puts the configuration where the IDE looks for it, when this is a checkout of the program; else tells what to
/// put where.
pub(crate) async fn set_up(
    ide: Ide,
    manager: &ManagerProxy<'_>,
    session: &SessionInfo,
    port: u16,
) -> String {
    let (unit, told) = (&session.unit, configuration(ide, &session.unit, port));
    if !matches!(ide, Ide::Vscode | Ide::Goland) {
        return told;
    }
    let asked = manager.inspect(&session.target_name().to_string(), session.pid.get()).await;
    // It tells of the source only; without it the words are for the person.
    let Ok(target) = answer::<Inspection>(asked) else { return told };
    let Some(checkout) = Checkout::of(&target) else {
        let module = target.module.as_ref().map(safe).unwrap_or_default();
        return format!("{told}\n(In a checkout of {module} it would be put in place.)");
    };
    let paths = checkout.paths(&target);
    let is_known = paths.is_some();
    let written = match ide {
        Ide::Goland => run_configuration(&checkout.folder, unit, port),
        _ => {
            let paths = paths.filter(|paths| !paths.is_empty());
            let entry = entry(&name_of(unit), port, paths.map(Value::Array));
            launch::update(&checkout.folder, &entry).map_err(|error| error.to_string())
        }
    };
    let differs = checkout.differs(&target);
    let differs = differs.map(|why| format!("\n{} {why}", painted(YELLOW, "warning:")));
    match written {
        Ok(path) => format!(
            "{} has {:?} now: F5. Stop and Disconnect both let the service go on.{}{}",
            path.display(),
            name_of(unit),
            if is_known { "" } else { BUILT_ELSEWHERE },
            differs.unwrap_or_default()
        ),
        Err(why) => format!("{told}\n{} {why}", painted(YELLOW, "not put in place:")),
    }
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
pub(crate) fn configuration(ide: Ide, unit: &UnitName, port: u16) -> String {
    let name = name_of(unit);
    match ide {
        Ide::Vscode => format!(
            "Put this into .vscode/launch.json:\n\n{}\n\n\
             If the program was built in another directory, add \"substitutePath\":\n\
             [{{\"from\": \"${{workspaceFolder}}\", \"to\": \"/where/it/was/built\"}}].\n\
             Stop and Disconnect both let the service go on.",
            vscode(&name, port)
        ),
        Ide::Goland => format!("Put this into .run/{}:\n\n{}", run_file(unit), goland(&name, port)),
        Ide::Nvim => format!(
            "Put this into your nvim-dap configuration:\n\n{}\n\n\
             Leave with :lua require(\"dap\").disconnect(); the service goes on.",
            nvim(&name, port)
        ),
        Ide::Emacs => format!(
            "Put this into your configuration of dape:\n\n{}\n\n\
             Then M-x dape RET godebug. Leave with M-x dape-disconnect-quit; the service goes on.",
            emacs(port)
        ),
        Ide::Dlv => dlv(port),
    }
}

/// A configuration for dape, which speaks DAP.
fn emacs(port: u16) -> String {
    format!(
        r#"(add-to-list 'dape-configs
             '(godebug modes (go-mode go-ts-mode)
                       host "127.0.0.1" port {port}
                       :type "go" :request "attach" :mode "remote"))"#
    )
}

/// A whole launch.json.
fn vscode(name: &str, port: u16) -> String {
    let document = json!({ "version": "0.2.0", "configurations": [entry(name, port, None)] });
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
fn nvim(name: &str, port: u16) -> String {
    let name = name.replace('\\', "\\\\");
    format!(
        r#"local dap = require("dap")
dap.adapters.godebug = {{ type = "server", host = "127.0.0.1", port = {port} }}
dap.configurations.go = dap.configurations.go or {{}}
table.insert(dap.configurations.go, {{
  type = "godebug",
  name = "{name}",
  request = "attach",
  mode = "remote",
}})"#
    )
}

fn dlv(port: u16) -> String {
    format!(
        "  dlv connect 127.0.0.1:{port}\n\n\
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
        let text = configuration(Ide::Vscode, &unit(), 2350);
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
            assert!(configuration(ide, &unit(), 2351).contains("2351"), "{ide:?}");
        }
        assert!(configuration(Ide::Goland, &unit(), 1).contains(r#"<disconnect value="LEAVE" />"#));
        assert!(configuration(Ide::Nvim, &unit(), 1).contains(r"app\\x2da@1"));
    }
}
