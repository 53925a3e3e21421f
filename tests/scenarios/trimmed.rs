//! A program that was built with -trimpath, whose files an IDE shows all the same: its own in a repository of several
//! modules, another module's, Go's own.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Laptop, SOON, Session, leaves_nothing, start};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("every_file_of_a_trimmed_program_is_shown", shown).on_newest()];

/// The repository, in which the IDE has its folder; the program is in a module below it.
const REPOSITORY: &str = "/root/repo";
const SHOP: &str = "/root/repo/services/shop";
/// Of a module whose name the cache and an IDE's file system do not have as it is.
const NOTE: &str = "package note\n\n//go:noinline\nfunc Take(n int) int {\n\treturn n + 1\n}\n";
const TAKER: &str = "package main\n\nimport (\n\t\"time\"\n\n\t\"example.invalid/Note\"\n)\n\n\
    func takeNotes() {\n\tfor n := 0; ; time.Sleep(20 * time.Millisecond) {\n\t\tn = note.Take(n)\n\t}\n}\n\n\
    func init() { go takeNotes() }\n";

fn shown(host: &Host) -> Result<()> {
    build(host)?;
    host.write_file(
        "/etc/systemd/system/trimmed.service",
        "[Service]\nExecStart=/opt/samples/trimmed -listen 127.0.0.1:8290\n",
    )?;
    host.ok("systemctl daemon-reload")?;
    start(host, "trimmed")?;
    leaves_nothing(host, &["trimmed"], |_| {
        let attach = format!(
            "cd {SHOP} && godebugctl attach trimmed --ttl 90s --from {} --from {} --detach --ticket /root/t --ide vscode",
            host.laptop_address(),
            host.address()
        );
        let said = host.run(&attach)?.exits(0)?.stdout;
        ensure!(said.contains("/root/repo/.vscode/launch.json has"), "{said}");
        ensure!(!said.contains("Go's own packages are not shown"), "{said}");
        let list = host.run("godebugctl --json list")?.exits(0)?.json()?;
        let session = Session::of(list[0].clone())?;
        let ticket = std::fs::read_to_string(host.path("/root/t")).context("the ticket")?;
        let laptop = Laptop::with_ticket(host, &ticket)?;
        frames_are_here(host, &laptop)?;
        ticket_is_enough(host)?;
        session.stop(host)
    })?;
    host.ok(&format!("systemctl stop trimmed; rm -rf {REPOSITORY} /opt/samples/trimmed")).map(drop)
}

/// Whoever has the ticket and nothing else gets the same configuration: the gateway tells how the program was built.
fn ticket_is_enough(host: &Host) -> Result<()> {
    let launch = host.path(&format!("{REPOSITORY}/.vscode/launch.json"));
    let read =
        || -> Result<Value> { Ok(serde_json::from_str(&std::fs::read_to_string(&launch)?)?) };
    let rules = |launch: &Value| launch["configurations"][0]["substitutePath"].clone();
    let by_attach = rules(&read()?);
    std::fs::remove_file(&launch)?;
    let mut connect = host.spawn(&format!(
        "cd {SHOP} && exec env DBUS_SYSTEM_BUS_ADDRESS=unix:path=/nowhere godebugctl connect /root/t --ide vscode"
    ))?;
    connect.wait_for_line("/root/repo/.vscode/launch.json has", SOON)?;
    let by_ticket = rules(&read()?);
    ensure!(by_ticket.is_array() && by_ticket == by_attach, "{by_ticket} but {by_attach}");
    connect.signal(Signal::INT)?;
    connect.wait(SOON)?.exits(0).map(drop)
}

fn build(host: &Host) -> Result<()> {
    host.ok(&format!(
        "mkdir -p {REPOSITORY}/.vscode {REPOSITORY}/.git {SHOP} && cp /opt/samples/src/shop/*.go {SHOP}"
    ))?;
    host.write_file(
        &format!("{SHOP}/go.mod"),
        "module example.invalid/shop\n\ngo 1.18\n\nrequire example.invalid/Note v1.0.0\n",
    )?;
    host.write_file(&format!("{SHOP}/taker.go"), TAKER)?;
    // As `go mod vendor` makes it, which would ask a proxy.
    host.write_file(&format!("{SHOP}/vendor/example.invalid/Note/note.go"), NOTE)?;
    host.write_file(
        &format!("{SHOP}/vendor/modules.txt"),
        "# example.invalid/Note v1.0.0\n## explicit\nexample.invalid/Note\n",
    )?;
    host.run_within(
        &format!(
            "cd {SHOP} && HOME=/root go build -mod=vendor -trimpath -buildvcs=false -o /opt/samples/trimmed ."
        ),
        SOON * 20,
    )?
    .exits(0)
    .map(drop)
}

/// With what VS Code makes of the file, the lines of files here are found, and every frame is in a file that is here.
fn frames_are_here(host: &Host, laptop: &Laptop<'_>) -> Result<()> {
    let file = std::fs::read_to_string(host.path(&format!("{REPOSITORY}/.vscode/launch.json")))?;
    let file: Value = serde_json::from_str(&file.replace("${workspaceFolder}", REPOSITORY))?;
    let rules = &file["configurations"][0]["substitutePath"];
    let mut ide = laptop.dap()?;
    ide.attach_with(json!({ "substitutePath": rules }))?;
    let note = format!("{SHOP}/vendor/example.invalid/Note/note.go");
    for (path, line) in [(&note, 5), (&format!("{SHOP}/taker.go"), 11)] {
        let set = ide.set_breakpoints(path, &[line])?;
        ensure!(set[0]["verified"] == true, "{path}: {set:?} with {rules}");
    }
    ide.configuration_done()?;
    let (thread, _) = ide.wait_for_stop()?;
    let frames = ide.stack_trace(thread)?;
    let paths: Vec<&str> =
        frames.iter().filter_map(|frame| frame["source"]["path"].as_str()).collect();
    ensure!(paths.len() >= 2, "{frames:?}");
    for path in &paths {
        let is_here = path.starts_with('/') && host.path(path).exists();
        ensure!(is_here, "{path} is not here; of {paths:?}, with {rules}");
    }
    ensure!(paths.iter().any(|path| path.contains("/src/runtime/")), "none of Go's own: {paths:?}");
    ide.disconnect(false)
}
