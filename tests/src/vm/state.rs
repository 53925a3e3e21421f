//! The proof that a session leaves no trace on a virtual machine: the same as on a container host, read
//! from inside, and the security module's state.

use anyhow::{Result, bail};

use super::{Lsm, Vm};
use crate::{
    machine::Machine,
    nothing_left::{Firewall, differences, firewall, images, listeners, run_files, units},
};

/// What a machine was like before anybody debugged on it.
pub struct VmSnapshot {
    firewall: Firewall,
    policy: String,
    units: Vec<String>,
    targets: String,
}

impl VmSnapshot {
    /// Records the firewall, the security module's policy, and the processes of `units`.
    pub fn take(vm: &Vm, units: &[&str]) -> Result<Self> {
        let units: Vec<String> = units.iter().map(|unit| (*unit).to_owned()).collect();
        Ok(Self {
            firewall: Firewall::of(vm)?,
            policy: policy(vm)?,
            targets: targets(vm, &units)?,
            units,
        })
    }

    /// The same after a boot, which gives the units new processes.
    pub fn with_processes_as_now(self, vm: &Vm) -> Result<Self> {
        Ok(Self { targets: targets(vm, &self.units)?, ..self })
    }
}

/// Fails with a list of everything that a session has left on the machine.
pub fn nothing_left_on(vm: &Vm, before: &VmSnapshot) -> Result<()> {
    let mut left = units(vm)?;
    left.extend(run_files(vm)?);
    left.extend(listeners(vm)?);
    left.extend(images(vm)?);
    left.extend(firewall(vm, &before.firewall)?);
    let programs = vm.run("pgrep -a '^(dlv|godebug-gateway|godebug-revoke)'")?.stdout;
    left.extend(programs.lines().map(|line| format!("process {line}")));
    let written = vm.ok("find /etc /usr -xdev -type f -newer /run/harness/booted")?;
    left.extend(written.lines().map(|path| format!("file written: {path}")));
    left.extend(differences("policy", &before.policy, &policy(vm)?));
    left.extend(differences("target", &before.targets, &targets(vm, &before.units)?));
    if left.is_empty() {
        return Ok(());
    }
    bail!("{} of a session are left:\n  {}", left.len(), left.join("\n  "))
}

/// Every loaded profile with its mode and its attachment, which tells the gateway's variants apart; or
/// every boolean with its value. No hashes: a profile from the cache has another one.
fn policy(vm: &Vm) -> Result<String> {
    vm.ok(match vm.lsm() {
        Lsm::AppArmor => {
            "cd /sys/kernel/security/apparmor/policy/profiles && \
             for profile in *; do echo \"${profile%.*}\" $(cat $profile/mode $profile/attach); done | sort"
        }
        Lsm::Selinux => {
            "cd /sys/fs/selinux/booleans && for boolean in *; do echo \"$boolean $(cat $boolean)\"; done"
        }
    })
}

/// The processes of the units, each with its start, its confinement, who traces it, whether it stands, and
/// whether its text is that of its file.
fn targets(vm: &Vm, units: &[String]) -> Result<String> {
    let script = include_str!("../../vm/target.py").replace('\'', r"'\''");
    vm.ok(&format!(
        "python3 -c '{script}' $(for unit in {}; do \
         cat /sys/fs/cgroup$(systemctl show --value -p ControlGroup $unit)/cgroup.procs; done)",
        units.join(" ")
    ))
}
