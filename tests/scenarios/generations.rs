//! What is different on the other Debian generations: which dlv there is, and for which programs.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Suite, scenario::Scenario};
use serde_json::Value;

use crate::support::{Session, leaves_nothing, refused, text};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("the_dlv_that_fits_is_chosen_and_an_unfit_one_is_told", fitting_dlv).main().shared()];

fn fitting_dlv(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let diagnosis = host.run("godebugctl --json doctor")?.exits(0)?.json()?;
        // All suites' dlv are on every host; the oldest one is of no use anywhere.
        let old = check(&diagnosis, "dlv 1.20.2")?;
        ensure!(old["verdict"] == "warning", "{old}");
        ensure!(text(old, "found")?.contains("too old"), "{old}");
        ensure!(text(old, "remedy")?.contains("1.22.1"), "{old}");
        for usable in ["dlv 1.24.0", "dlv 1.27.1"] {
            ensure!(check(&diagnosis, usable)?["verdict"] == "good", "{diagnosis}");
        }
        match host.suite() {
            // Go 1.24: the host's own.
            Suite::Trixie => attaches_with(host, "/usr/bin/dlv"),
            // Go 1.27: the host's own, too.
            Suite::Forky => attaches_with(host, "/usr/bin/dlv"),
            // Go 1.19: its own dlv is too old, the others' Delve supports Go 1.21 and later.
            Suite::Bookworm => nothing_fits(host),
        }
    })
}

fn check<'a>(diagnosis: &'a Value, name: &str) -> Result<&'a Value> {
    let checks = diagnosis["checks"].as_array().context("no checks")?;
    let found = checks.iter().find(|check| check["name"] == name);
    found.with_context(|| format!("no check of {name}: {diagnosis}"))
}

fn attaches_with(host: &Host, debugger: &str) -> Result<()> {
    let session = Session::open(host, "myapp", "--ttl 60s")?;
    ensure!(session.document["debugger"] == debugger, "{}", session.document);
    session.stop(host)
}

fn nothing_fits(host: &Host) -> Result<()> {
    let why = refused(host.run("godebugctl --json attach myapp --detach")?, 4, "target")?;
    for part in ["Go 1.19", "dlv 1.20.2", "Unix socket", "dlv 1.24.0", "Go 1.21 to 1.24", "/delve/"] {
        ensure!(why.contains(part), "it does not say {part:?}: {why}");
    }
    let inspected = host.run("godebugctl --json inspect myapp")?.exits(0)?.json()?;
    ensure!(inspected["debugger"].is_null(), "{inspected}");
    ensure!(inspected["debugger_refusal"].is_string(), "{inspected}");
    Ok(())
}
