//! `toolchain`: the dlv's of this host. What looks at the host and changes it is a program of its own, beside
//! godebugd; here its answer is shown.

use crate::cli::{Toolchain, ToolchainAdd};
use crate::output::Output;
use crate::terminal::{GREEN, RED, YELLOW, painted, safe, table};
use godebug_api::Refusal;
use godebug_api::toolchain::{Answer, Dlv, DlvState, Need};
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(crate) fn toolchain(output: &Output, wanted: &Toolchain) -> Result<(), Refusal> {
    match wanted {
        Toolchain::List => match ask(&["list".to_owned()])? {
            Answer::Dlvs(all) => output.result(&all, &listed(&all)),
            other => Err(strange(&other)),
        },
        Toolchain::Verify => match ask(&["list".to_owned()])? {
            Answer::Dlvs(all) => verified(output, &all),
            other => Err(strange(&other)),
        },
        Toolchain::Plan => match ask(&["plan".to_owned()])? {
            Answer::Needs(all) => planned(output, &all),
            other => Err(strange(&other)),
        },
        Toolchain::Remove { version } => match ask(&["remove".to_owned(), version.to_string()])? {
            Answer::Removed { path } => {
                let text = format!("removed {}; sessions that use it go on", safe(&path));
                output.result(&serde_json::json!({ "removed": path }), &text)
            }
            other => Err(strange(&other)),
        },
        Toolchain::Add(arguments) => add(output, arguments),
    }
}

fn add(output: &Output, arguments: &ToolchainAdd) -> Result<(), Refusal> {
    let mut words = vec!["add".to_owned(), arguments.version.to_string()];
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    match (&arguments.from, &arguments.package) {
        (Some(path), _) => words.extend(["file".to_owned(), absolute(path).display().to_string()]),
        (None, Some(path)) => {
            words.extend(["package".to_owned(), absolute(path).display().to_string()]);
        }
        (None, None) => {
            output.live("building; a minute or two");
            let proxy = arguments.proxy.clone();
            words.push("proxy".to_owned());
            words.extend(proxy.or_else(|| arguments.no_sumdb.then(String::new)));
            words.extend(arguments.no_sumdb.then(|| "nosum".to_owned()));
        }
    }
    let answer = ask(&words);
    output.clear();
    match answer? {
        Answer::Added(dlv) => output.result(&dlv, &added(&dlv)),
        other => Err(strange(&other)),
    }
}

/// Runs the program and reads its answer.
fn ask(words: &[String]) -> Result<Answer, Refusal> {
    let program = beside_the_daemon();
    let mut run = Command::new(&program);
    let ended = run.args(words).stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(
        |error| {
            Refusal::host(
                format!("{} cannot be run: {error}", program.display()),
                "is godebug installed on this host? `-H HOST` looks at another",
            )
        },
    )?;
    match serde_json::from_slice(&ended.stdout) {
        Ok(Answer::Error(refusal)) => Err(refusal),
        Ok(answer) => Ok(answer),
        Err(error) => Err(Refusal::failed(
            format!("the answer of {} cannot be read: {error}", program.display()),
            "are both of the same version?",
        )),
    }
}

/// `PREFIX/lib/godebug/godebug-toolchain` for a `PREFIX/bin/godebugctl`.
fn beside_the_daemon() -> PathBuf {
    let own = std::env::current_exe().ok();
    let prefix = own.as_deref().and_then(|own| own.parent()?.parent());
    let prefix = prefix.map_or_else(|| PathBuf::from("/usr"), PathBuf::from);
    prefix.join("lib/godebug/godebug-toolchain")
}

fn strange(answer: &Answer) -> Refusal {
    Refusal::failed(format!("another answer than to what was asked: {answer:?}"), "report this")
}

fn listed(all: &[Dlv]) -> String {
    if all.is_empty() {
        return "no dlv on this host; `godebugctl toolchain plan` says which ones its services need"
            .to_owned();
    }
    let mut rows =
        vec![["version", "for go", "built with", "state", "path"].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|dlv| {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        vec![
            text(dlv.version.map(|it| it.to_string())),
            text(dlv.go.map(|(oldest, newest)| format!("{oldest} to {newest}"))),
            text(dlv.built_with.map(|it| it.to_string())),
            state(dlv.state),
            match &dlv.why {
                Some(why) => format!("{}: {}", safe(&dlv.path), safe(why)),
                None => safe(&dlv.path),
            },
        ]
    }));
    table(&rows)
}

fn state(state: DlvState) -> String {
    match state {
        DlvState::Pinned => painted(GREEN, "pinned"),
        DlvState::NotPinned => "not pinned".to_owned(),
        DlvState::Changed => painted(RED, "changed"),
        DlvState::Unusable => painted(YELLOW, "not used"),
    }
}

fn verified(output: &Output, all: &[Dlv]) -> Result<(), Refusal> {
    let pinned: Vec<Dlv> = all
        .iter()
        .filter(|dlv| dlv.pin.is_some() || dlv.state == DlvState::Changed)
        .cloned()
        .collect();
    let text = if pinned.is_empty() {
        "no dlv was added by `godebugctl toolchain add`, so there is nothing to verify".to_owned()
    } else {
        listed(&pinned)
    };
    output.result(&pinned, &text)?;
    match pinned.iter().filter(|dlv| dlv.state == DlvState::Changed).count() {
        0 => Ok(()),
        count => Err(Refusal::host(
            format!(
                "{count} of {} do not fit their pins any more; none whose program was changed is run",
                pinned.len()
            ),
            "find out who changed them; then `godebugctl toolchain remove VERSION` and add them again",
        )),
    }
}

fn planned(output: &Output, all: &[Need]) -> Result<(), Refusal> {
    let mut rows = vec![["unit", "go", "dlv"].map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|need| {
        let dlv = match (&need.dlv, need.add) {
            (Some(dlv), _) => painted(GREEN, &safe(dlv)),
            (None, Some(add)) => painted(RED, &format!("none: godebugctl toolchain add {add}")),
            (None, None) => painted(RED, "none, and no Delve that godebug can use supports it"),
        };
        vec![need.unit.to_string(), safe(&need.go_version), dlv]
    }));
    let text = if all.is_empty() {
        "no Go program runs in a unit of this host, as far as you may see (be root to see all)"
            .to_owned()
    } else {
        table(&rows)
    };
    output.result(&all, &text)?;
    match all.iter().filter(|need| need.dlv.is_none()).count() {
        0 => Ok(()),
        count => Err(Refusal::target(
            format!("no dlv on this host fits {count} of {} programs", all.len()),
            "add those that are named above",
        )),
    }
}

fn added(dlv: &Dlv) -> String {
    let go =
        dlv.go.map(|(oldest, newest)| format!("for Go {oldest} to {newest}")).unwrap_or_default();
    let hash = dlv.pin.as_ref().map(|pin| pin.sha256.as_str()).unwrap_or_default();
    let built = dlv.built_with.map(|go| go.to_string()).unwrap_or_default();
    format!(
        "added {} {go}\n  built with  Go {built}\n  SHA-256     {hash}\n  from        {}",
        safe(&dlv.path),
        dlv.pin.as_ref().map(|pin| safe(&pin.source)).unwrap_or_default()
    )
}
