//! Other people's clients: Visual Studio Code's own for testing debug adapters, in each mode.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use std::{path::Path, process::Command};

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, line_of, order};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("vscode_works_in_a_step_session", |host| vscode(host, "step")).main().shared(),
    Scenario::new("vscode_works_in_a_modify_session", |host| vscode(host, "modify"))
        .main()
        .shared(),
];

const SOURCE: &str = "/opt/samples/src/shop/main.go";

fn vscode(host: &Host, mode: &str) -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("ide");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ide");
    let ready = Command::new(here.join("ready")).arg(&folder).status();
    ensure!(ready.context("installing the client")?.success(), "the client cannot be installed");
    leaves_nothing(host, &["myapp"], |_| {
        let options = format!("--ttl 90s --mode {mode} --from {}", host.laptop_address());
        let session = Session::open(host, "myapp", &options)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut code = host.laptop_spawn(&format!(
            "NODE_PATH={}/node_modules exec node {}/vscode.js {} {mode} {SOURCE} {}",
            folder.display(),
            here.display(),
            laptop.address.port(),
            line_of("discounts := map")?,
        ))?;
        code.wait_for_line("READY", SOON)?;
        let request = order(host, 8080)?;
        let said = code.wait(SOON)?.ok()?;
        ensure!(said.contains("OK"), "it did not come to its end: {said}");
        is_answered(request)?;
        ensure!(session.show(host)?["state"] == "active", "its stop button has ended the session");
        session.stop(host)
    })
}
