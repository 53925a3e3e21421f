//! Services of every make, built with every version of Go that `tests/matrix` has built some with: a scenario
//! for each version, and none where it has not been run.

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

use crate::kinds::{KINDS, MORE_PROGRAMS, debugged};
use crate::museum::same_values;
use crate::snapshot::heap_of;

/// Set by tests/matrix: a folder with a folder for each version.
const FOLDER: &str = "GODEBUG_MATRIX";

/// A scenario has no argument but its host, so each version has a number.
const SCENARIOS: [fn(&Host) -> Result<()>; 10] = [
    nth::<0>, nth::<1>, nth::<2>, nth::<3>, nth::<4>, nth::<5>, nth::<6>, nth::<7>, nth::<8>,
    nth::<9>,
];

pub(crate) fn all() -> Vec<Scenario> {
    let named = |(programs, run): (PathBuf, fn(&Host) -> Result<()>)| {
        let version = programs.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // There are few, and they are wanted until the program ends.
        Scenario::new(Box::leak(format!("matrix::go_{version}").into_boxed_str()), run)
    };
    versions().into_iter().zip(SCENARIOS).map(named).collect()
}

fn versions() -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os(FOLDER) else { return Vec::new() };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut versions: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    versions.sort();
    versions
}

fn nth<const N: usize>(host: &Host) -> Result<()> {
    let programs = versions().into_iter().nth(N).context("the programs are gone")?;
    let version = programs.file_name().unwrap_or_default().to_string_lossy().into_owned();
    version_of_go(host, &programs, &version)
}

fn version_of_go(host: &Host, programs: &Path, version: &str) -> Result<()> {
    const PLACE: &str = "/opt/go";
    for program in std::fs::read_dir(programs).context("listing the programs")?.flatten() {
        let name = program.file_name().to_string_lossy().into_owned();
        let place = format!("{PLACE}/{name}");
        host.write_file(&place, std::fs::read(program.path()).context("reading a program")?)?;
        host.ok(&format!("chmod 755 {place}"))?;
    }
    let dlv = chosen(host, PLACE)?;
    let mut results = std::fs::File::create(programs.with_file_name(format!("{version}.tsv")))
        .context("making the file for results")?;
    let mut failed = Vec::new();
    let mut tell = |name: &str, attempt: &dyn Fn() -> Result<()>| -> Result<()> {
        let began = Instant::now();
        let outcome = attempt();
        let cell = match &outcome {
            Ok(()) => began.elapsed().as_millis().to_string(),
            Err(error) => format!("{error}").lines().next().unwrap_or("failed").to_owned(),
        };
        writeln!(results, "{version}\t{name}\t{dlv}\t{cell}").context("writing a result")?;
        if let Err(error) = outcome {
            failed.push(format!("{name}: {error:#}"));
            clean_up(host, name)?;
        }
        Ok(())
    };
    let kinds = KINDS.iter().chain(MORE_PROGRAMS);
    for (number, kind) in (0_u16..).zip(kinds) {
        tell(kind.name, &|| debugged(host, kind, PLACE, 8400 + number))?;
    }
    let of_c = ["called by C", "called C", "in C", "main._Ctype_struct_thing"];
    tell("every kind of value", &|| same_values(host, &format!("{PLACE}/museum-cgo"), &of_c))?;
    tell("what fills the memory", &|| heap_of(host, &format!("{PLACE}/shop")))?;
    ensure!(failed.is_empty(), "Go {version}:\n{}", failed.join("\n"));
    Ok(())
}

/// The version of the dlv that godebug takes for these programs.
fn chosen(host: &Host, place: &str) -> Result<String> {
    host.ok(&format!(
        "systemd-run --quiet --unit=which --uid=shop {place}/shop -listen 127.0.0.1:8399"
    ))?;
    let inspected = host.run("godebugctl --json inspect which")?.exits(0)?.json()?;
    host.ok("systemctl stop which")?;
    let debugger = inspected["debugger"].as_str().context("no dlv fits")?;
    Ok(debugger.split(' ').nth(1).unwrap_or("?").to_owned())
}

fn clean_up(host: &Host, name: &str) -> Result<()> {
    host.run(&format!("godebugctl stop --all; systemctl stop 'kind-{name}.service' museum keeper"))
        .map(drop)
}
