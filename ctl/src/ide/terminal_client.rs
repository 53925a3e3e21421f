//! `--ide dlv`: dlv's own client on this terminal, with the paths of this checkout.

use super::paths::Rule;
use super::quoted;
use crate::output::Output;
use godebug_api::Refusal;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// A client that runs. The session ends when it does.
pub(crate) struct TerminalClient {
    child: Child,
    /// How the terminal was before: one that is killed at its prompt leaves it without echo.
    terminal: Option<Termios>,
    /// What it reads at its start.
    _script: tempfile::NamedTempFile,
}

impl TerminalClient {
    /// Whether there is a terminal for it, and the program itself.
    pub(crate) fn is_possible(output: &Output) -> bool {
        let terminal =
            io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal();
        terminal && !output.is_json() && program().is_some()
    }

    /// Starts it for the local port. From then on the terminal is its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(output: &Output, port: u16, paths: &[Rule]) -> Result<Self, Refusal> {
        let failed = |error: io::Error| {
            Refusal::failed(format!("dlv cannot be started: {error}"), "leave --ide dlv out")
        };
        let mut script = tempfile::NamedTempFile::new().map_err(failed)?;
        script.write_all(substitutions(paths).as_bytes()).map_err(failed)?;
        let mut dlv = Command::new(program().unwrap_or_else(|| PathBuf::from("dlv")));
        dlv.args(["connect", &format!("127.0.0.1:{port}"), "--init"]).arg(script.path());
        // With no terminal of its own it would not be asked.
        dlv.stdin(Stdio::inherit()).kill_on_drop(true);
        output.hush();
        let terminal = tcgetattr(io::stdin()).ok();
        Ok(Self { child: dlv.spawn().map_err(failed)?, terminal, _script: script })
    }

    /// Returns when it has ended.
    pub(crate) async fn ended(&mut self) {
        let _ = self.child.wait().await;
    }
}

impl Drop for TerminalClient {
    fn drop(&mut self) {
        // An error is that it has ended, which is what is wanted.
        let _ = self.child.start_kill();
        if let Some(terminal) = &self.terminal {
            let _ = tcsetattr(io::stdin(), OptionalActions::Drain, terminal);
        }
    }
}

/// The first in the path.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("dlv")).find(|dlv| dlv.is_file())
}

/// dlv goes from the program's paths to ours, editors the other way.
pub(super) fn substitutions(paths: &[Rule]) -> String {
    let rule = |Rule { here, there }: &Rule| {
        format!("config substitute-path {} {}\n", quoted(there), quoted(here))
    };
    paths.iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_go_from_the_program_to_this_checkout() {
        let rule =
            |here: &str, there: &str| Rule { here: here.to_owned(), there: there.to_owned() };
        let paths = [
            rule("/home/me/shop", "example.invalid/shop"),
            rule("/usr/lib/go", "/opt/a \"go\""),
            rule("/usr/lib/go/src", ""),
        ];
        assert_eq!(
            substitutions(&paths),
            "config substitute-path \"example.invalid/shop\" \"/home/me/shop\"\n\
             config substitute-path \"/opt/a \\\"go\\\"\" \"/usr/lib/go\"\n\
             config substitute-path \"\" \"/usr/lib/go/src\"\n"
        );
    }
}
