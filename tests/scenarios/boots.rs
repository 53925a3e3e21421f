//! The power goes while a session is being opened, and while it is being taken back, on a machine that
//! enforces a security module: after the boot there is nothing of it.

use anyhow::{Result, ensure};
use godebug_tests::{
    Machine, Vm,
    scenario::VmScenario,
    vm::{Lsm, VmSnapshot, nothing_left_on},
};

use crate::on_vm::{IN_TIME, open, start_ticker, told};

pub(crate) const ALL: &[VmScenario] = &[
    VmScenario::new("power_goes_while_a_session_opens_or_closes", Lsm::AppArmor, power),
    VmScenario::new("power_goes_while_a_session_opens_or_closes", Lsm::Selinux, power),
];

fn power(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let from = vm.laptop_address();

        vm.begin(&format!("godebugctl attach ticker --detach --yes --from {from}"), "/run/attach")?;
        when(vm, "a session is being opened", "ls /run/godebug/*/ledger")?;
        let ledger = cut(vm)?;
        ensure!(!ledger.contains("\"active\""), "the power went too late: {ledger}");
        let before = before.with_processes_as_now(vm)?;
        nothing_left_on(vm, &before)?;

        let session = open(vm, "ticker", "10m")?;
        let ledger = format!("/run/godebug/{}/ledger", session.id);
        vm.begin(&format!("godebugctl stop {}", session.id), "/run/stop")?;
        when(vm, "the session is being taken back", &format!("grep closing {ledger}"))?;
        cut(vm)?;
        nothing_left_on(vm, &before.with_processes_as_now(vm)?)
    })
}

fn when(vm: &Vm, description: &str, line: &str) -> Result<()> {
    vm.wait_until(description, IN_TIME, &mut || Ok(vm.run(line)?.success()))
}

/// Cuts the power, and gives the ledger as it was right before.
fn cut(vm: &Vm) -> Result<String> {
    let ledger = vm.ok("cat /run/godebug/*/ledger")?;
    vm.cut_power()?;
    start_ticker(vm)?;
    Ok(ledger)
}
