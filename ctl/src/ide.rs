//! Configurations that make an IDE connect to the local port.
//!
//! The `debugAdapter` of VS Code is named because without it the extension falls back to its old
//! protocol where no dlv is installed on the laptop (vscode-go, goDebugConfiguration.ts).

use crate::cli::Ide;
use godebug_api::UnitName;
use serde_json::json;

/// What to paste where, for the local port `port`.
pub(crate) fn configuration(ide: Ide, unit: &UnitName, port: u16) -> String {
    let name = format!("godebug: {}", unit.stem());
    match ide {
        Ide::Vscode => format!(
            "Put this into .vscode/launch.json:\n\n{}\n\n\
             If the program was built in another directory, add \"substitutePath\":\n\
             [{{\"from\": \"${{workspaceFolder}}\", \"to\": \"/where/it/was/built\"}}].\n\
             Leave with Disconnect; Stop ends the service.",
            vscode(&name, port)
        ),
        Ide::Goland => format!(
            "Put this into .run/{}.run.xml:\n\n{}",
            name.replace([':', ' ', '\\', '@'], "-"),
            goland(&name, port)
        ),
        Ide::Nvim => format!(
            "Put this into your nvim-dap configuration:\n\n{}\n\n\
             Leave with :lua require(\"dap\").disconnect(); terminate() ends the service.",
            nvim(&name, port)
        ),
        Ide::Dlv => dlv(port),
    }
}

/// A whole launch.json.
fn vscode(name: &str, port: u16) -> String {
    let document = json!({
        "version": "0.2.0",
        "configurations": [{
            "name": name,
            "type": "go",
            "request": "attach",
            "mode": "remote",
            "debugAdapter": "dlv-dap",
            "host": "127.0.0.1",
            "port": port,
            "stopOnEntry": false,
        }],
    });
    format!("{document:#}")
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
         Leave with `exit -c`: the program goes on. A plain `exit` asks whether to kill the\n\
         process, and Enter alone means yes."
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
        for ide in [Ide::Vscode, Ide::Goland, Ide::Nvim, Ide::Dlv] {
            assert!(configuration(ide, &unit(), 2351).contains("2351"), "{ide:?}");
        }
        assert!(configuration(Ide::Goland, &unit(), 1).contains(r#"<disconnect value="LEAVE" />"#));
        assert!(configuration(Ide::Nvim, &unit(), 1).contains(r"app\\x2da@1"));
    }
}
