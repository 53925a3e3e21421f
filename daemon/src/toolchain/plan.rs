//! What the services of this host need: each Go program that runs in a unit, and whether a dlv fits it.

use crate::paths;
use crate::sessions::all_debuggers;
use crate::target::executable::GoExecutable;
use crate::target::place::unit_of;
use crate::target::process::{Process, processes_in_cgroup};
use godebug_api::documents::DebugInformation;
use godebug_api::toolchain::Need;
use godebug_api::{Pid, UnitName};
use godebug_core::delve::{self, Debugger};
use std::collections::BTreeMap;
use std::path::Path;

/// Of each unit and version of Go one process, by unit.
pub async fn plan() -> Vec<Need> {
    let found = all_debuggers().await.found;
    let mut needs = BTreeMap::new();
    for (unit, pid, executable) in programs() {
        let key = (unit.to_string(), executable.go_version);
        needs.entry(key).or_insert_with(|| need(&found, unit, pid, &executable));
    }
    needs.into_values().collect()
}

fn need(found: &[Debugger], unit: UnitName, pid: Pid, executable: &GoExecutable) -> Need {
    let dwarf5 = executable.debug_information == DebugInformation::Dwarf5;
    let chosen = delve::choose(found, executable.go_version, dwarf5);
    let (dlv, why) = match &chosen {
        Ok(debugger) => (Some(format!("dlv {} ({})", debugger.version, debugger.path)), None),
        Err(unfit) => {
            let reasons: Vec<String> =
                unfit.iter().map(|(dlv, why)| format!("dlv {}: {why}", dlv.version)).collect();
            (None, Some(reasons.join("; ")))
        }
    };
    let add = dlv.is_none().then(|| delve::release_for(executable.go_version)).flatten();
    Need { unit, pid, go_version: executable.go_version_text.clone(), dlv, add, why }
}

/// The Go programs that run in units, as the control groups tell.
fn programs() -> Vec<(UnitName, Pid, GoExecutable)> {
    let mut found = Vec::new();
    for pid in processes_in_cgroup(Path::new(paths::CGROUP), "/system.slice")
        .unwrap_or_default()
        .into_iter()
        .chain(others())
    {
        let Ok(process) = Process::pin(pid) else { continue };
        let Some(unit) = process.cgroup().ok().and_then(|group| unit_of(&group)) else { continue };
        let Some(executable) = read(&process) else { continue };
        found.push((unit, pid, executable));
    }
    found
}

/// Those of other slices at the top: machine.slice, user.slice, the site's own.
fn others() -> Vec<Pid> {
    let entries = std::fs::read_dir(paths::CGROUP).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| {
            name.ends_with(".slice") && name != "system.slice" && name != "godebug.slice"
        })
        .flat_map(|name| processes_in_cgroup(Path::new(paths::CGROUP), &name).unwrap_or_default())
        .collect()
}

fn read(process: &Process) -> Option<GoExecutable> {
    let (file, path) = (process.open_exe().ok()?, process.exe_link().ok()?.0);
    GoExecutable::read(&file, &path).ok()
}
