//! What is different on the other Debian generations: which dlv there is, and for which programs.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Suite, scenario::Scenario};
use serde_json::Value;

use crate::support::{Session, leaves_nothing, refused, text};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("the_dlv_that_fits_is_chosen_and_an_unfit_one_is_told", fitting_dlv)
        .main()
        .shared()];

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
        // What it runs on is what the table says was tried.
        for part in ["distribution", "kernel", "glibc", "systemd", "polkit", "firewalld"] {
            let row = check(&diagnosis, part)?;
            ensure!(row["verdict"] == "good", "the table of what was tried lacks this: {row}");
        }
        // The newest that supports Go 1.24, which the programs are built with, or forky's 1.27.
        let debugger = match host.suite() {
            Suite::Trixie | Suite::Forky => "/usr/bin/dlv",
            Suite::Bookworm => "/usr/lib/godebug/delve/1.24.0/dlv",
        };
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        ensure!(session.document["debugger"] == debugger, "{}", session.document);
        session.stop(host)?;
        if host.suite() == Suite::Bookworm { nothing_fits_its_own_go(host) } else { Ok(()) }
    })
}

fn check<'a>(diagnosis: &'a Value, name: &str) -> Result<&'a Value> {
    let checks = diagnosis["checks"].as_array().context("no checks")?;
    let found = checks.iter().find(|check| check["name"] == name);
    found.with_context(|| format!("no check of {name}: {diagnosis}"))
}

/// A program built with bookworm's Go 1.19: its own dlv is too old, the others' support Go 1.21 on.
fn nothing_fits_its_own_go(host: &Host) -> Result<()> {
    host.ok("systemd-run --quiet --unit=old --uid=shop /opt/samples/shop.bookworm -listen 127.0.0.1:8099")?;
    let why = refused(host.run("godebugctl --json attach old --detach")?, 4, "target")?;
    for part in ["Go 1.19", "dlv 1.20.2", "Unix socket", "dlv 1.24.0", "Go 1.21 to 1.24", "/delve/"]
    {
        ensure!(why.contains(part), "it does not say {part:?}: {why}");
    }
    let inspected = host.run("godebugctl --json inspect old")?.exits(0)?.json()?;
    ensure!(inspected["debugger"].is_null(), "{inspected}");
    ensure!(inspected["debugger_refusal"].is_string(), "{inspected}");
    host.ok("systemctl stop old").map(drop)
}
