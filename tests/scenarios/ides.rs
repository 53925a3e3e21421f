//! Other people's clients, in each mode: Visual Studio Code's own for testing debug adapters; and nvim-dap in
//! a headless Neovim, which no package registry has, so that somebody has to say where they are:
//! `GODEBUG_NVIM="PROGRAM" NVIM_DAP=FOLDER cargo test -p godebug-tests --test scenarios -- nvim`. The program
//! may be one that lies in another root, with its arguments; the shop's source must be at its place there.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, line_of, order};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("vscode_works_in_a_step_session", |host| vscode(host, "step"))
        .on_newest()
        .shared(),
    Scenario::new("vscode_works_in_a_modify_session", |host| vscode(host, "modify"))
        .on_newest()
        .shared(),
    Scenario::new("dlv_itself_works_on_the_terminal_of_attach", dlv_on_the_terminal).shared(),
    Scenario::new("dlv_itself_works_on_the_terminal_of_a_ticket", dlv_with_a_ticket).shared(),
];

/// Those that need what nobody installs here.
pub(crate) fn with_nvim() -> Vec<Scenario> {
    match std::env::var_os("GODEBUG_NVIM") {
        Some(_) => vec![
            Scenario::new("nvim_dap_works_in_a_step_session", |host| nvim(host, "step")).main(),
            Scenario::new("nvim_dap_works_in_a_modify_session", |host| nvim(host, "modify")).main(),
        ],
        None => Vec::new(),
    }
}

const SOURCE: &str = "/opt/samples/src/shop/main.go";

/// Installs Visual Studio Code's client; gives its folder, and that of our scripts.
pub(crate) fn vscode_is_here() -> Result<(PathBuf, PathBuf)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("ide");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ide");
    let ready = Command::new(here.join("ready")).arg(&folder).status();
    ensure!(ready.context("installing the client")?.success(), "the client cannot be installed");
    Ok((folder, here))
}

fn vscode(host: &Host, mode: &str) -> Result<()> {
    let (folder, here) = vscode_is_here()?;
    client(host, mode, |port, line| {
        let (folder, here) = (folder.display(), here.display());
        format!(
            "NODE_PATH={folder}/node_modules exec node {here}/vscode.js {port} {mode} {SOURCE} {line}"
        )
    })
}

fn nvim(host: &Host, mode: &str) -> Result<()> {
    let of = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (program, plugin) = (of("GODEBUG_NVIM")?, of("NVIM_DAP")?);
    let script = format!("{plugin}/godebug.lua");
    let file = of("NVIM_SCRIPT").unwrap_or_else(|_| script.clone());
    std::fs::write(&file, include_str!("../ide/nvim.lua")).context("writing the script")?;
    client(host, mode, |port, line| {
        format!(
            "PORT={port} MODE={mode} SOURCE={SOURCE} LINE={line} NVIM_DAP={plugin} \
             exec {program} --headless -u NONE -l {script}"
        )
    })
}

/// A client that says READY when it has set a breakpoint, and OK when all was as it should be.
fn client(host: &Host, mode: &str, command: impl Fn(u16, u32) -> String) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let options = format!("--ttl 90s --mode {mode} --from {}", host.laptop_address());
        let session = Session::open(host, "myapp", &options)?;
        let laptop = Laptop::connect(host, &session)?;
        let line = line_of("discounts := map")?;
        let mut code = host.laptop_spawn(&command(laptop.address.port(), line))?;
        code.wait_for_line("READY", SOON)?;
        let request = order(host, 8080)?;
        let said = code.wait(SOON)?.ok()?;
        ensure!(said.contains("OK"), "it did not come to its end: {said}");
        is_answered(request)?;
        ensure!(session.show(host)?["state"] == "active", "its stop button has ended the session");
        session.stop(host)
    })
}

/// The same with a ticket: the session goes on when it is left, and so does the service.
fn dlv_with_a_ticket(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let from = host.address();
        let session = Session::open(host, "myapp", &format!("--ttl 90s --from {from}"))?;
        let mut terminal = host.spawn(
            "exec script --quiet --flush --return \
             --command 'cd /opt/samples/src/shop && exec godebugctl connect /tmp/ticket-myapp --ide dlv' /dev/null",
        )?;
        terminal.wait_for_line("(dlv)", SOON)?;
        terminal.type_line("break main.priceOf")?;
        terminal.wait_for_line("Breakpoint 1 set at", SOON)?;
        terminal.type_line("clearall")?;
        terminal.type_line("exit -c")?;
        terminal.wait(SOON)?.exits(0)?;
        ensure!(session.show(host)?["state"] == "active", "the session has ended");
        is_answered(order(host, 8080)?)?;
        session.stop(host)
    })
}

/// `--ide dlv`: the terminal is dlv's, its Ctrl-C too, and leaving it ends the session.
fn dlv_on_the_terminal(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut terminal = host.spawn(
            "exec script --quiet --flush --return \
             --command 'cd /opt/samples/src/shop && exec godebugctl attach myapp --ttl 90s --ide dlv' /dev/null",
        )?;
        terminal.wait_for_line("(dlv)", SOON)?;
        let list = host.run("godebugctl --json list")?.exits(0)?.json()?;
        let session = Session::of(list[0].clone())?;
        terminal.type_line("break main.priceOf")?;
        terminal.wait_for_line("Breakpoint 1 set at", SOON)?;
        terminal.type_line("continue")?;
        // Nobody orders anything: Ctrl-C is for dlv, which asks what is meant.
        let pid = session.document["pid"].as_u64().context("no pid")?;
        host.wait_until("it goes on", SOON, || {
            Ok(!host.ok(&format!("cat /proc/{pid}/status"))?.contains("(tracing stop)"))
        })?;
        terminal.type_text("\u{3}")?;
        terminal.wait_for_line("ause the target", SOON)?;
        ensure!(session.show(host)?["state"] == "active", "Ctrl-C has ended the session");
        terminal.type_line("p")?;
        terminal.type_line("continue")?;
        let request = order(host, 8080)?;
        terminal.wait_for_line("> [Breakpoint 1] main.priceOf()", SOON)?;
        terminal.type_line("print o.Customer")?;
        terminal.wait_for_line("customer-3", SOON)?;
        terminal.type_line("clearall")?;
        terminal.type_line("exit -c")?;
        let output = terminal.wait(SOON)?.exits(0)?;
        ensure!(output.stdout.contains("is closed: stopped"), "{output}");
        is_answered(request)?;
        session.ends(host, "stopped", SOON).map(drop)
    })
}
