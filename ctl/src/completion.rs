//! Completion in shells: clap's scripts for what is known when this is built, and a hidden command that
//! they ask for what is not, the names of units and sessions, also of another host.

use crate::cli::Cli;
use crate::far::Host;
use crate::manager::{answer, bus, manager};
use crate::output::Output;
use clap::{Arg, Command, CommandFactory};
use clap_complete::Shell;
use godebug_api::documents::SessionInfo;
use godebug_api::{Refusal, State};
use std::time::Duration;
use tokio::time::timeout;

/// Whoever presses a key does not wait for longer.
const PATIENCE: Duration = Duration::from_secs(2);

const BASH: &str = r#"
_godebugctl_with_names() {
    _godebugctl "$@"
    case "$2" in -*) return ;; esac
    local names
    names=$(command godebugctl complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null) || return
    if [[ -n $names ]]; then COMPREPLY=($(compgen -W "$names" -- "$2")); fi
}
complete -F _godebugctl_with_names -o bashdefault -o default godebugctl
"#;

const ZSH: &str = r#"
_godebugctl_names() {
    # $words has lost what stood before a command by now.
    local -a names typed
    typed=(${(z)LBUFFER})
    [[ $LBUFFER == *' ' ]] || typed[-1]=()
    names=(${(f)"$(command godebugctl complete -- ${typed[2,-1]} 2>/dev/null)"})
    compadd -a names
}
"#;

const FISH: &str = r#"
complete -c godebugctl -f -n 'not string match -q -- "-*" (commandline -ct)' -a '(command godebugctl complete -- (commandline -opc)[2..] 2>/dev/null)'
"#;

/// The script for a shell.
pub(crate) fn script(output: &Output, shell: Shell) -> Result<(), Refusal> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "godebugctl", &mut script);
    let script = with_names(shell, String::from_utf8_lossy(&script).into_owned());
    if output.is_json() {
        let shell = shell.to_string();
        return output.document(&serde_json::json!({ "shell": shell, "script": script }));
    }
    output.raw(&script)
}

fn with_names(shell: Shell, script: String) -> String {
    match shell {
        Shell::Bash => script + BASH,
        Shell::Fish => script + FISH,
        Shell::Zsh => {
            // Where clap says what stands there, and knows no more of it.
            let line = |line: &str| {
                let named = ["':unit ", "'::unit ", "':id ", "'::id ", "'*::ids ", "':which "];
                match named.iter().any(|begin| line.starts_with(begin)) {
                    true => line.replace(":_default'", ":_godebugctl_names'"),
                    false => line.to_owned(),
                }
            };
            let lines: Vec<String> = script.lines().map(line).collect();
            let (first, rest) = lines.split_first().map_or(("", [].as_slice()), |(f, r)| (f, r));
            format!("{first}\n{ZSH}{}\n", rest.join("\n"))
        }
        _ => script,
    }
}

/// What stands at a place of the command line, as far as somebody else knows its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Units,
    Sessions,
    /// Requests that wait.
    Requests,
}

/// Prints what may come after these words, one on a line. Whatever goes wrong, there is just nothing to
/// choose from.
pub(crate) async fn names(words: &[String]) {
    let (place, host) = place(words);
    let Some(place) = place else { return };
    if let Some(host) = host {
        // Nobody is asked for a password while they type.
        match host.parse::<Host>() {
            Ok(host) => host.unasked().choose(),
            Err(_) => return,
        }
    }
    let found = timeout(PATIENCE, async {
        match place {
            Names::Units => units().await,
            Names::Sessions => sessions(|state| state != State::PendingApproval).await,
            Names::Requests => sessions(|state| state == State::PendingApproval).await,
        }
    });
    for name in found.await.ok().flatten().unwrap_or_default() {
        println!("{name}");
    }
}

/// The services that run, by systemd's own word, which everybody may ask for.
async fn units() -> Option<Vec<String>> {
    type Listed = (
        String,
        String,
        String,
        String,
        String,
        String,
        zbus::OwnedObjectPath,
        u32,
        String,
        zbus::OwnedObjectPath,
    );
    let (patterns, states) = (["*.service", "*.scope"], ["active", "activating", "failed"]);
    let reply = bus()
        .await
        .ok()?
        .call_method(
            Some("org.freedesktop.systemd1"),
            "/org/freedesktop/systemd1",
            Some("org.freedesktop.systemd1.Manager"),
            "ListUnitsByPatterns",
            &(states.as_slice(), patterns.as_slice()),
        )
        .await
        .ok()?;
    let listed: Vec<Listed> = reply.body().deserialize().ok()?;
    let ours = |name: &str| name.starts_with("godebug-") || name.starts_with("systemd-");
    let names = listed.into_iter().map(|unit| unit.0).filter(|name| !ours(name));
    Some(names.map(|name| name.strip_suffix(".service").unwrap_or(&name).to_owned()).collect())
}

async fn sessions(wanted: impl Fn(State) -> bool) -> Option<Vec<String>> {
    let all: Vec<SessionInfo> = answer(manager().await.ok()?.list().await).ok()?;
    let those = all.into_iter().filter(|session| wanted(session.state));
    Some(those.map(|session| session.id.to_string()).collect())
}

/// What the word after these is, and the host that is named in them.
fn place(words: &[String]) -> (Option<Names>, Option<String>) {
    let mut command = Cli::command();
    // Global options become those of every command.
    command.build();
    let (mut at, mut host, mut positional) = (&command, None, 0);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        if let Some(named) = word.strip_prefix("-H").filter(|named| !named.is_empty()) {
            host = Some(named.to_owned());
        } else if word.starts_with('-') && word.len() > 1 {
            let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
            let Some(option) = option(at, name) else { continue };
            let takes = option.get_action().takes_values();
            let value = if takes { value.or_else(|| words.next()) } else { None };
            // Its value is what comes next.
            if takes && value.is_none() {
                return (None, host);
            }
            if option.get_id() == "host" {
                host = value.map(str::to_owned);
            }
        } else if let Some(next) = at.find_subcommand(word) {
            (at, positional) = (next, 0);
        } else {
            positional += 1;
        }
    }
    let several = |arg: &Arg| matches!(arg.get_action(), clap::ArgAction::Append);
    let all: Vec<&Arg> = at.get_positionals().collect();
    let arg = all.get(positional).or_else(|| all.last().filter(|arg| several(arg)));
    let names = arg.and_then(|arg| match (arg.get_id().as_str(), at.get_name()) {
        ("unit" | "which", _) => Some(Names::Units),
        ("id", "approve" | "deny" | "claim") => Some(Names::Requests),
        ("id" | "ids", _) => Some(Names::Sessions),
        _ => None,
    });
    (names, host)
}

fn option<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_opts().chain(command.get_arguments()).find(|arg| {
        let long = arg.get_long().is_some_and(|long| name.strip_prefix("--") == Some(long));
        let short =
            arg.get_short().is_some_and(|short| name.strip_prefix('-') == Some(&short.to_string()));
        long || short
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(line: &str) -> (Option<Names>, Option<String>) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        place(&words)
    }

    #[test]
    fn what_comes_next_is_known_from_what_stands_there() {
        for (line, names) in [
            ("attach", Some(Names::Units)),
            ("attach --ttl 5m --detach", Some(Names::Units)),
            ("attach --ttl", None),
            ("attach myapp", None),
            ("core", Some(Names::Units)),
            ("rules explain --as ada attach", Some(Names::Units)),
            ("stop", Some(Names::Sessions)),
            ("stop 0000000a", Some(Names::Sessions)),
            ("audit show", Some(Names::Sessions)),
            ("approve", Some(Names::Requests)),
            ("connect", None),
            ("", None),
        ] {
            assert_eq!(after(line), (names, None), "{line}");
        }
    }

    #[test]
    fn another_host_is_asked_where_one_is_named() {
        for line in ["-H root@web1 attach", "-Hroot@web1 attach", "attach --host=root@web1"] {
            assert_eq!(after(line), (Some(Names::Units), Some("root@web1".to_owned())), "{line}");
        }
    }

    #[test]
    fn every_shell_has_a_script_and_those_that_can_ask_do() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "godebugctl", &mut script);
            let script = with_names(shell, String::from_utf8(script).unwrap());
            assert!(script.contains("godebugctl complete --"), "{shell}");
        }
    }
}
