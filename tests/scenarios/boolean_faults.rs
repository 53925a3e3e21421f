//! SELinux's boolean, whatever is broken around it: godebugd is killed or stopped at each place before and
//! after the boolean is written down, turned on, and turned back; godebug-revoke is killed while it turns it back
//! alone. As `faults` does on container hosts, which have no SELinux.

use anyhow::{Context, Result, ensure};
use godebug_tests::{
    Machine, Vm,
    fault_points::{self, FOLDER, built},
    vm::{VmSnapshot, nothing_left_on},
};

use crate::{
    on_vm::{IN_TIME, open, sent, start_ticker, told},
    selinux::{GATE, is_on, is_the_sites},
};

/// While a session opens.
const OPENING: [&str; 4] =
    ["ledger.after.intent", "host.before.take", "host.after.take", "ledger.after.done"];
/// While one ends.
const CLOSING: [&str; 3] = ["host.before.undo", "host.after.undo", "ledger.after.undone"];
/// How a session comes to a place, where something is done to the program.
type Way = fn(&Vm, &str, &str) -> Result<()>;
/// The programs in which there are such places.
const PROGRAMS: [&str; 2] = ["usr/lib/godebug/godebugd", "usr/lib/godebug/godebug-revoke"];

pub(crate) fn everywhere(vm: &Vm) -> Result<()> {
    fault_points::build()?;
    told(vm, || {
        start_ticker(vm)?;
        install(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        ensure!(!is_on(vm, GATE)?, "the boolean is on before anybody asked");
        let ways: [(&[&str], Way); 2] = [(&OPENING, while_opening), (&CLOSING, while_closing)];
        for (points, way) in ways {
            for (point, action) in
                points.iter().flat_map(|point| [(point, "kill"), (point, "stop")])
            {
                let name = format!("godebugd/{point}:boolean-{GATE}");
                way(vm, &name, action)
                    .and_then(|()| is_given_back(vm, &before))
                    .with_context(|| format!("{action} at {name}"))?;
            }
        }
        for point in CLOSING {
            let name = format!("godebug-revoke/{point}:boolean-{GATE}");
            with_the_dead_man(vm, &name)
                .and_then(|()| is_given_back(vm, &before))
                .with_context(|| format!("kill at {name}"))?;
        }
        Ok(())
    })
}

/// The two programs with fault points in the place of the package's. They leave a trace in a folder that
/// their domains know nothing of, so for this nothing is denied to them: what turns the boolean is the same.
fn install(vm: &Vm) -> Result<()> {
    let folder = tempfile::tempdir()?;
    vm.ok("systemctl stop godebugd")?;
    for program in PROGRAMS {
        let from = built(program);
        let stripped = folder.path().join(from.file_name().context("no name")?);
        let status =
            std::process::Command::new("strip").arg("-o").args([&stripped, &from]).status()?;
        ensure!(status.success(), "{} cannot be stripped", from.display());
        let there = sent(vm, &stripped)?;
        // Over the file that is there, which keeps its label.
        vm.ok(&format!("cp {there} /{program}"))?;
    }
    vm.ok(&format!(
        "mkdir -m 777 {FOLDER} && mkdir -p /run/systemd/system/godebugd.service.d && \
         printf '[Service]\\nReadWritePaths=-{FOLDER}\\n' >/run/systemd/system/godebugd.service.d/faults.conf && \
         systemctl daemon-reload && \
         printf '(typepermissive godebugd_t)(typepermissive godebug_revoke_t)' >/var/tmp/faults.cil && \
         semodule -i /var/tmp/faults.cil && systemctl start godebugd"
    ))?;
    is_the_sites(vm)
}

fn while_opening(vm: &Vm, point: &str, action: &str) -> Result<()> {
    arm(vm, point, action)?;
    let line = format!(
        "godebugctl attach ticker --ttl 5s --yes --max-freeze 1m --detach --from {} --endpoint {}",
        vm.laptop_address(),
        vm.address()
    );
    vm.begin(&line, "/run/harness/attach")?;
    fired(vm)
}

fn while_closing(vm: &Vm, point: &str, action: &str) -> Result<()> {
    // Where nobody goes on with it, the dead man ends it when its time is over.
    let session = open(vm, "ticker", "20s")?;
    ensure!(is_on(vm, GATE)?, "a session is open, the boolean is off");
    arm(vm, point, action)?;
    vm.begin(&format!("godebugctl stop {}", session.id), "/run/harness/stop")?;
    fired(vm)
}

/// godebugd does not come back. systemd tries again when the dead man is killed at his work.
fn with_the_dead_man(vm: &Vm, point: &str) -> Result<()> {
    open(vm, "ticker", "10s")?;
    arm(vm, point, "kill")?;
    vm.ok(
        "systemctl mask --runtime --now godebugd && systemctl kill --signal=KILL godebugd || true",
    )?;
    fired(vm)
}

fn arm(vm: &Vm, point: &str, action: &str) -> Result<()> {
    vm.ok(&format!(
        "cd {FOLDER} && rm -f fired trace && echo '{point} {action}' >new && mv new arm"
    ))
    .map(drop)
}

fn fired(vm: &Vm) -> Result<()> {
    vm.wait_until("the point is reached", IN_TIME, &mut || vm.exists(&format!("{FOLDER}/fired")))
}

/// Once the session is gone the boolean is off and nothing else is left.
fn is_given_back(vm: &Vm, before: &VmSnapshot) -> Result<()> {
    vm.wait_until("the session is gone", IN_TIME, &mut || {
        vm.ok("ls -d /run/godebug/*/ledger 2>&- | cat").map(|ledgers| ledgers.is_empty())
    })?;
    ensure!(!is_on(vm, GATE)?, "the session is gone, the boolean is on");
    // A stopped godebugd is no use to anybody; one that was masked may come back.
    vm.ok("systemctl unmask --runtime godebugd; systemctl kill --signal=KILL godebugd; \
         systemctl reset-failed; systemctl restart godebugd")?;
    nothing_left_on(vm, before)
}
