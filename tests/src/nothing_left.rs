//! The proof that a session leaves no trace: what a host is like before, and one function that reads
//! back every kind of grant afterwards and names all that differs.

use std::{collections::HashMap, path::PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{host::Host, machine::Machine, process::Process};

const UNITS: &str = "'godebug-gateway@*' 'godebug-dlv@*' 'godebug-guard@*' 'godebug-repair@*' 'godebug-deadman@*' 'godebug-image@*' 'godebug-exec@*' 'godebug-revoke@*' 'godebug-hook@*'";
const PROGRAMS: &[&str] = &["dlv", "godebug-gateway", "godebug-image", "godebug-revoke"];
/// What the daemon itself keeps in /run/godebug, session or not.
const RUN_FILES: &[&str] = &["delve.json", "freeze.json", "lock", "policy.lock"];

/// What a host was like before anybody debugged on it.
pub struct Snapshot {
    firewall: Firewall,
    files: HashMap<PathBuf, String>,
    /// The processes of the watched units.
    processes: Vec<Process>,
}

/// Everything that the host's firewall says, in a form that can be compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Firewall {
    nftables: Value,
    runtime: String,
    permanent: String,
}

impl Snapshot {
    /// Records the firewall, the files that configure the host, and the processes of `units`.
    pub fn take(host: &Host, units: &[&str]) -> Result<Self> {
        let mut processes = Vec::new();
        for unit in units {
            let found = host.unit_processes(unit)?;
            if found.is_empty() {
                bail!("{unit} has no process to watch");
            }
            processes.extend(found);
        }
        Ok(Self { firewall: host.snapshot_firewall()?, files: host.changed_files(), processes })
    }

    /// The same, but for what the firewall says: after somebody else has rightly changed it.
    pub fn with_firewall_as_now(self, host: &Host) -> Result<Self> {
        Ok(Self { firewall: host.snapshot_firewall()?, ..self })
    }

    /// The watched processes, as they were.
    pub fn processes(&self) -> &[Process] {
        &self.processes
    }

    pub fn firewall(&self) -> &Firewall {
        &self.firewall
    }
}

/// Fails with a list of everything that a session has left on the host.
pub fn nothing_left(host: &Host, before: &Snapshot) -> Result<()> {
    check(host, before, Targets::MustLive)
}

/// The same after a session in which the targets themselves were to end.
pub fn nothing_left_but_targets_ended(host: &Host, before: &Snapshot) -> Result<()> {
    check(host, before, Targets::MayHaveEnded)
}

#[derive(Clone, Copy, PartialEq)]
enum Targets {
    MustLive,
    MayHaveEnded,
}

fn check(host: &Host, before: &Snapshot, targets: Targets) -> Result<()> {
    let mut left = Vec::new();
    left.extend(units(host)?);
    left.extend(programs(host));
    left.extend(run_files(host)?);
    left.extend(listeners(host)?);
    left.extend(firewall(host, &before.firewall)?);
    left.extend(files(host, &before.files));
    left.extend(watched(&before.processes, targets)?);
    left.extend(images(host)?);
    if left.is_empty() {
        return Ok(());
    }
    bail!("{} of a session are left on {}:\n  {}", left.len(), host.name(), left.join("\n  "))
}

pub(crate) fn units(host: &dyn Machine) -> Result<Vec<String>> {
    let lines = host.ok(&format!(
        "systemctl list-units --all --no-legend --plain {UNITS} && \
         systemctl list-timers --all --no-legend {UNITS} && \
         ls -d /run/systemd/transient/godebug-*@* 2>/dev/null || true"
    ))?;
    Ok(lines.lines().map(|line| format!("unit: {line}")).collect())
}

/// How many images godebugd holds, as the kernel tells.
pub fn kept_images(host: &dyn Machine) -> Result<usize> {
    let held = host
        .ok("for one in $(pgrep -x godebugd); do readlink /proc/$one/fd/* 2>/dev/null; done | \
         grep -c '^/memfd:image ' || true")?;
    held.trim().parse().context("a number of images")
}

pub(crate) fn images(host: &dyn Machine) -> Result<Option<String>> {
    let count = kept_images(host)?;
    Ok((count > 0).then(|| format!("{count} images, held by godebugd")))
}

fn programs(host: &Host) -> Vec<String> {
    let running = host.processes();
    let ours = running.iter().filter(|process| PROGRAMS.contains(&process.name.as_str()));
    ours.map(|process| format!("process {}: {}", process.inner_pid, process.name)).collect()
}

pub(crate) fn run_files(host: &dyn Machine) -> Result<Vec<String>> {
    let listed =
        host.ok("[ ! -d /run/godebug ] || find /run/godebug -mindepth 1 -printf '%y %P\\n'")?;
    let kept = |line: &&str| RUN_FILES.iter().any(|name| *line == format!("f {name}"));
    Ok(listed
        .lines()
        .filter(|line| !kept(line))
        .map(|line| format!("in /run/godebug: {line}"))
        .collect())
}

pub(crate) fn listeners(host: &dyn Machine) -> Result<Vec<String>> {
    let sockets = host.ok("ss --no-header --listening --tcp --numeric")?;
    let port = |line: &str| -> Option<u16> {
        line.split_whitespace().nth(3)?.rsplit_once(':')?.1.parse().ok()
    };
    let ours =
        sockets.lines().filter(|line| port(line).is_some_and(|port| (2345..=2364).contains(&port)));
    Ok(ours.map(|line| format!("listener: {line}")).collect())
}

pub(crate) fn firewall(host: &dyn Machine, before: &Firewall) -> Result<Vec<String>> {
    let now = Firewall::of(host)?;
    let mut left = Vec::new();
    if now.nftables.to_string().contains(r#""name":"godebug""#) {
        left.push("nftables: the table inet godebug".to_owned());
    }
    let lines = |value: &Value| -> String {
        let rules = value.as_array().map(Vec::as_slice).unwrap_or_default();
        rules.iter().map(|rule| rule.to_string() + "\n").collect()
    };
    left.extend(differences("nftables", &lines(&before.nftables), &lines(&now.nftables)));
    left.extend(differences("firewalld", &before.runtime, &now.runtime));
    left.extend(differences("firewalld", &before.permanent, &now.permanent));
    Ok(left)
}

pub(crate) fn differences(what: &str, before: &str, now: &str) -> Vec<String> {
    if before == now {
        return Vec::new();
    }
    let only_in = |one: &str, other: &str, sign: char| -> Vec<String> {
        let others: Vec<&str> = other.lines().collect();
        one.lines()
            .filter(|line| !others.contains(line))
            .map(|line| format!("{what}: {sign} {}", line.trim()))
            .collect()
    };
    let mut found = only_in(before, now, '-');
    found.extend(only_in(now, before, '+'));
    if found.is_empty() {
        found.push(format!("{what}: the same lines in another order or number"));
    }
    found
}

fn files(host: &Host, before: &HashMap<PathBuf, String>) -> Vec<String> {
    let now = host.changed_files();
    let mut left: Vec<String> = now
        .iter()
        .filter(|(path, state)| before.get(*path) != Some(state))
        .map(|(path, state)| format!("file written: {} ({state})", path.display()))
        .collect();
    left.extend(
        before
            .keys()
            .filter(|path| !now.contains_key(*path))
            .map(|path| format!("file gone: {}", path.display())),
    );
    left.sort();
    left
}

fn watched(processes: &[Process], targets: Targets) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for process in processes {
        if !process.is_alive() {
            if targets == Targets::MustLive {
                left.push(format!("process {} ({}) is gone", process.inner_pid, process.name));
            }
            continue;
        }
        let traces = process.traces_of_debugging();
        left.extend(traces.with_context(|| format!("looking at process {}", process.inner_pid))?);
    }
    Ok(left)
}

impl Firewall {
    /// What nftables and firewalld say, without counters, handles and times left.
    pub(crate) fn of(host: &dyn Machine) -> Result<Self> {
        let ruleset = host.run("nft --json list ruleset")?;
        let mut nftables = ruleset.json()?["nftables"].take();
        normalise(&mut nftables);
        let script = include_str!("../host/firewalld-settings.py").replace('\'', r"'\''");
        let line = format!("! systemctl --quiet is-active firewalld || python3 -c '{script}'");
        // On a host that has just booted the bus may still be reading its rules, and keeps firewalld from
        // asking polkit for a moment. What is found is not changed by asking again.
        let mut settings = host.ok(&line);
        for _ in 0..5 {
            match &settings {
                Err(error) if format!("{error:#}").contains("AccessDenied") => {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                    settings = host.ok(&line);
                }
                _ => break,
            }
        }
        let settings = settings?;
        let (runtime, permanent): (Vec<&str>, Vec<&str>) =
            settings.lines().partition(|line| line.starts_with("runtime"));
        Ok(Self { nftables, runtime: runtime.join("\n"), permanent: permanent.join("\n") })
    }
}

impl Host {
    pub fn snapshot_firewall(&self) -> Result<Firewall> {
        Firewall::of(self)
    }
}

/// Drops what changes by itself; the order in which a set lists its elements means nothing.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for name in ["handle", "packets", "bytes", "expires", "metainfo"] {
                fields.remove(name);
            }
            fields.values_mut().for_each(normalise);
            if let Some(Value::Array(elements)) = fields.get_mut("elem") {
                elements.sort_by_key(Value::to_string);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(normalise),
        _ => {}
    }
}
