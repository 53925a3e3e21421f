//! Grants that no ledger knows, or whose ledger was damaged: found by the names and marks that
//! everything of a session carries, removed, and reported.

use crate::audit::{self, Entry, Kind};
use crate::engine::Host;
use crate::host::apparmor::{self, Variant};
use crate::host::selinux;
use crate::host::{RealHost, id_of, nftables, units};
use crate::ledger::{Ledger, LedgerFileError};
use crate::paths::{self, SessionPaths};
use godebug_api::{BooleanName, SessionId};
use godebug_core::grant::Grant;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Units of a session, in the order in which they are stopped: dlv after the gateway, its guard
/// after it.
const PATTERNS: [&str; 7] = [
    "godebug-gateway@*.service",
    "godebug-dlv@*.service",
    "godebug-image@*.service",
    "godebug-exec@*.service",
    "godebug-guard@*.service",
    "godebug-repair@*.service",
    "godebug-deadman@*.timer",
];

/// Something of a session, on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Orphan {
    Unit(String),
    Table(String),
    Rule {
        zone: String,
        rule: String,
    },
    /// The open variant of the gateway's AppArmor profile.
    Profile,
    /// The SELinux boolean that lets gateways onto the network.
    Boolean,
}

impl Orphan {
    fn is_dead_man(&self) -> bool {
        matches!(self, Self::Unit(unit) if unit.ends_with(".timer"))
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unit(unit) => f.write_str(unit),
            Self::Table(table) => write!(f, "nftables table {table}"),
            Self::Rule { zone, rule } => write!(f, "firewalld {zone}: {rule}"),
            Self::Profile => write!(f, "AppArmor profile {}, open", apparmor::GATEWAY),
            Self::Boolean => write!(f, "SELinux boolean {} on", BooleanName::GATEWAY),
        }
    }
}

/// What was found, and what could not be looked at.
#[derive(Default)]
struct Found {
    orphans: Vec<Orphan>,
    failures: Vec<String>,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.orphans.extend(other.orphans);
        self.failures.extend(other.failures);
    }
}

/// Removes every unit and table of a session that is not among `known`.
pub(super) async fn sweep(host: &RealHost, known: &HashSet<SessionId>) {
    remove(host, by_name(host, |id| !known.contains(id)).await).await;
}

/// Removes every rule of firewalld that carries our mark and stands in no ledger, from the runtime
/// and the permanent settings.
pub(super) async fn sweep_rules(host: &RealHost) {
    remove(host, rules(host).await).await;
}

/// Removes whatever is there of one session that has no ledger any more. Returns what could not be
/// removed.
pub(super) async fn sweep_session(host: &RealHost, id: &SessionId) -> Vec<String> {
    let mut found = by_name(host, |of| of == id).await;
    found.add(rules(host).await);
    remove(host, found).await
}

/// Everything of sessions without a directory, and what could not be looked at, for `doctor`.
/// Changes nothing.
pub async fn left_over(host: &RealHost) -> Vec<String> {
    let known: HashSet<SessionId> = match Ledger::sessions() {
        Ok(known) => known.into_iter().collect(),
        Err(error) => return vec![error.to_string()],
    };
    let mut found = by_name(host, |id| !known.contains(id)).await;
    found.add(rules(host).await);
    found.orphans.iter().map(ToString::to_string).chain(found.failures).collect()
}

/// Gives back what one session took, when its ledger cannot be read. The ledger is kept in the log
/// directory, for whoever has to find out what happened to it.
///
/// # Errors
/// What could not be given back; the dead man stays then.
pub async fn revoke_by_name(host: &RealHost, id: &SessionId) -> Result<(), String> {
    let mut failures = Vec::new();
    // Its first line may be whole, and tells which process to look after.
    let ledger = Ledger::open(id).map_err(|error| error.to_string())?;
    let opened = ledger.as_ref().and_then(|ledger| ledger.without_lock().opened().ok().flatten());
    if let Some(opened) = &opened {
        let gateway = opened.port.map(|port| Grant::gateway(id, port));
        let tracer = match opened.takes_images() {
            false => Grant::debugger(id, opened.pid),
            true => Grant::image(id, opened.pid),
        };
        // Whether it was drained stands in what was lost; an undrain bears being run for nothing.
        let drained = (!opened.takes_images()).then_some(Grant::Drained);
        for grant in gateway.iter().chain([&tracer]).chain(&drained) {
            failures.extend(host.undo(opened, grant).await.err());
        }
        let read = host.read_back(opened, &tracer).await;
        failures.extend(
            read.into_iter()
                .filter_map(|(what, found)| found.map(|found| format!("{what}: {found}"))),
        );
    }
    let mut found = by_name(host, |of| of == id).await;
    found.add(rules(host).await);
    found.failures.extend(failures);
    let failures = remove(host, found).await;
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    keep_as_evidence(id)
}

fn keep_as_evidence(id: &SessionId) -> Result<(), String> {
    let paths = SessionPaths::of(id);
    let kept = Path::new(paths::AUDIT_LOG).with_file_name(format!("{id}.ledger"));
    let why = format!("the ledger of session {id} was damaged");
    let message = match std::fs::copy(paths.ledger(), &kept) {
        Ok(_) => format!("{why}; it is kept as {}", kept.display()),
        Err(error) => format!("{why}, and cannot be kept as {}: {error}", kept.display()),
    };
    record(Some(id), message);
    match std::fs::remove_dir_all(paths.root()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", paths.root().display()))
        }
        _ => Ok(()),
    }
}

/// Units and tables that carry the ID of such a session.
async fn by_name(host: &RealHost, is_orphan: impl Fn(&SessionId) -> bool) -> Found {
    let mut found = Found::default();
    for pattern in PATTERNS {
        match host.units_matching(pattern).await {
            Ok(mut units) => {
                units.retain(|unit| id_of(unit).is_some_and(|id| is_orphan(&id)));
                found.orphans.extend(units.into_iter().map(Orphan::Unit));
            }
            Err(error) => {
                found.failures.push(format!("units {pattern} cannot be looked for: {error}"));
            }
        }
    }
    match nftables::list().await {
        Ok(mut tables) => {
            let id = |table: &str| table.strip_prefix("godebug_")?.parse().ok();
            tables.retain(|table| id(table).is_some_and(|id| is_orphan(&id)));
            found.orphans.extend(tables.into_iter().map(Orphan::Table));
        }
        // On a host without nft there is nothing of ours in it.
        Err(error) => tracing::debug!("left-over tables cannot be looked for: {error}"),
    }
    found.add(profile());
    found.add(boolean());
    found
}

/// The open variant of the gateway's profile, when no ledger of a live session has it.
fn profile() -> Found {
    let open = match apparmor::gateway_variant() {
        Ok(variant) => variant == Some(Variant::Open),
        Err(error) => {
            let failure = format!("AppArmor's profiles cannot be looked at: {error}");
            return Found { orphans: Vec::new(), failures: vec![failure] };
        }
    };
    match apparmor::needed_by(None) {
        Ok(needed) if open && needed.is_empty() => {
            Found { orphans: vec![Orphan::Profile], failures: Vec::new() }
        }
        Ok(_) => Found::default(),
        Err(error) => Found { orphans: Vec::new(), failures: vec![error.to_string()] },
    }
}

/// The gateway's boolean, when it is on and no ledger of a live session has it.
fn boolean() -> Found {
    let name = BooleanName::gateways();
    let on = match selinux::value(&name) {
        Ok(value) => value == Some(true),
        Err(error) => {
            let failure = format!("SELinux's booleans cannot be looked at: {error}");
            return Found { orphans: Vec::new(), failures: vec![failure] };
        }
    };
    match selinux::needed_by(&name, None) {
        Ok(needed) if on && needed.is_empty() => {
            Found { orphans: vec![Orphan::Boolean], failures: Vec::new() }
        }
        Ok(_) => Found::default(),
        Err(error) => Found { orphans: Vec::new(), failures: vec![error.to_string()] },
    }
}

/// Rules of firewalld that carry our mark and stand in no ledger.
async fn rules(host: &RealHost) -> Found {
    let failed = |why: String| Found {
        orphans: Vec::new(),
        failures: vec![format!("firewalld's rules cannot be looked at: {why}")],
    };
    let firewalld = match host.firewalld().await {
        Ok(Some(firewalld)) => firewalld,
        Ok(None) => return Found::default(),
        Err(why) => return failed(why),
    };
    // Before the ledgers are read: a rule that is seen now was announced before.
    let ours = match firewalld.all_of_ours().await {
        Ok(ours) if ours.is_empty() => return Found::default(),
        Ok(ours) => ours,
        Err(error) => return failed(error.to_string()),
    };
    let known = match rules_in_ledgers() {
        Ok(known) => known,
        // Without all ledgers a rule that is needed would look like an orphan.
        Err(error) => return failed(error.to_string()),
    };
    let orphans = ours
        .into_iter()
        .filter(|rule| !known.contains(rule))
        .map(|(zone, rule)| Orphan::Rule { zone, rule })
        .collect();
    Found { orphans, failures: Vec::new() }
}

/// Removes what was found and tells of each: dead men last, and only when there is nothing left for
/// them to do. Returns what could not be removed, nor looked at.
async fn remove(host: &RealHost, found: Found) -> Vec<String> {
    let mut failures = found.failures;
    for failure in &failures {
        tracing::error!("{failure}");
    }
    let (dead_men, others): (Vec<_>, Vec<_>) =
        found.orphans.iter().partition(|orphan| orphan.is_dead_man());
    for orphan in others.into_iter().chain(dead_men) {
        if orphan.is_dead_man() && !failures.is_empty() {
            continue;
        }
        let message = match remove_one(host, orphan).await {
            Ok(()) => format!("{orphan} belonged to no session and was removed"),
            Err(why) => {
                failures.push(format!("{orphan}: {why}"));
                format!("{orphan} belongs to no session and could not be removed: {why}")
            }
        };
        record(None, message);
    }
    failures
}

async fn remove_one(host: &RealHost, orphan: &Orphan) -> Result<(), String> {
    match orphan {
        Orphan::Unit(unit) => {
            let patience = 2 * units::DETACH_TIMEOUT + Duration::from_secs(10);
            host.stop_unit(unit, patience).await
        }
        Orphan::Table(table) => nftables::remove(table).await.map_err(|error| error.to_string()),
        Orphan::Profile => host.lock_gateway_profile(None).await,
        Orphan::Boolean => host.restore_boolean(&BooleanName::gateways(), false, None).await,
        Orphan::Rule { zone, rule } => match host.firewalld().await? {
            Some(firewalld) => {
                firewalld.remove(zone, rule).await.map_err(|error| error.to_string())
            }
            None => Ok(()),
        },
    }
}

/// A damaged ledger names no rules; that of its session are orphans.
fn rules_in_ledgers() -> Result<HashSet<(String, String)>, LedgerFileError> {
    let mut rules = HashSet::new();
    for id in Ledger::sessions()? {
        let Some(ledger) = Ledger::open(&id)? else { continue };
        let replay = match ledger.without_lock().replay() {
            Ok(replay) => replay,
            Err(LedgerFileError::Content { .. }) => continue,
            Err(error) => return Err(error),
        };
        let outstanding = replay.into_iter().flat_map(|replay| replay.outstanding);
        rules.extend(outstanding.filter_map(|(_, grant)| match grant {
            Grant::FirewalldRule { zone, rule } => Some((zone, rule)),
            _ => None,
        }));
    }
    Ok(rules)
}

fn record(session: Option<&SessionId>, message: String) {
    let mut entry = Entry::new(Kind::Recovered, "", 0, "godebugd", message);
    if let Some(id) = session {
        entry = entry.session(id);
    }
    if let Err(error) = audit::record(&entry) {
        tracing::error!("not in the audit log ({error}): {}", entry.message);
    }
}
