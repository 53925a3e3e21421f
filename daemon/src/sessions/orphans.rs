//! Grants that no ledger knows, or whose ledger was damaged: found by the names and marks that
//! everything of a session carries, removed, and reported.

use crate::audit::{self, Entry, Kind};
use crate::host::{RealHost, id_of, nftables, units};
use crate::ledger::Ledger;
use crate::paths::{self, SessionPaths};
use godebug_api::SessionId;
use godebug_core::grant::Grant;
use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

/// Units of a session, in the order in which they are stopped: dlv after the gateway, its guard
/// after it, the dead man last.
const PATTERNS: [&str; 5] = [
    "godebug-gateway@*.service",
    "godebug-dlv@*.service",
    "godebug-guard@*.service",
    "godebug-repair@*.service",
    "godebug-deadman@*.timer",
];

/// Removes every unit and table of a session that is not among `known`.
pub(super) async fn sweep(host: &RealHost, known: &HashSet<SessionId>) {
    remove_by_name(host, |id| !known.contains(id)).await;
}

/// Gives back what one session took, when its ledger cannot be read. The ledger is kept in the log
/// directory, for whoever has to find out what happened to it.
///
/// # Errors
/// What could not be given back.
pub async fn revoke_by_name(host: &RealHost, id: &SessionId) -> Result<(), String> {
    let mut failures = remove_by_name(host, |found| found == id).await;
    failures.extend(sweep_rules(host).await);
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    let paths = SessionPaths::of(id);
    let kept = Path::new(paths::AUDIT_LOG).with_file_name(format!("{id}.ledger"));
    let why = format!("the ledger of session {id} was damaged");
    let message = match std::fs::copy(paths.ledger(), &kept) {
        Ok(_) => format!("{why}; it is kept as {}", kept.display()),
        Err(error) => format!("{why}, and cannot be kept as {}: {error}", kept.display()),
    };
    record(id.as_str(), message);
    std::fs::remove_dir_all(paths.root())
        .map_err(|error| format!("{}: {error}", paths.root().display()))
}

/// Returns what could not be removed.
async fn remove_by_name(host: &RealHost, is_orphan: impl Fn(&SessionId) -> bool) -> Vec<String> {
    let mut failures = Vec::new();
    for pattern in PATTERNS {
        match host.units_matching(pattern).await {
            Ok(listed) => {
                for unit in
                    listed.iter().filter(|unit| id_of(unit).is_some_and(|id| is_orphan(&id)))
                {
                    let patience = 2 * units::DETACH_TIMEOUT + Duration::from_secs(10);
                    failures.extend(report(unit, host.stop_unit(unit, patience).await));
                }
            }
            Err(error) => failures.push(format!("units {pattern} cannot be looked for: {error}")),
        }
    }
    match nftables::list().await {
        Ok(tables) => {
            for table in tables {
                let id = table.strip_prefix("godebug_").and_then(|id| id.parse().ok());
                if id.is_some_and(|id| is_orphan(&id)) {
                    let removed = nftables::remove(&table).await;
                    failures.extend(report(&table, removed.map_err(|error| error.to_string())));
                }
            }
        }
        // On a host without nft there is nothing of ours in it.
        Err(error) => tracing::debug!("left-over tables cannot be looked for: {error}"),
    }
    failures
}

/// Removes every rule of firewalld that carries our mark and stands in no ledger, from the runtime
/// and the permanent settings. Returns what could not be removed.
pub(super) async fn sweep_rules(host: &RealHost) -> Vec<String> {
    let firewalld = match host.firewalld().await {
        Ok(Some(firewalld)) => firewalld,
        Ok(None) => return Vec::new(),
        Err(why) => return vec![format!("firewalld's rules cannot be looked at: {why}")],
    };
    // Before the ledgers are read: a rule that is seen now was announced before.
    let ours = match firewalld.all_of_ours().await {
        Ok(ours) if ours.is_empty() => return Vec::new(),
        Ok(ours) => ours,
        Err(error) => return vec![format!("firewalld's rules cannot be looked at: {error}")],
    };
    let known = rules_in_ledgers();
    let mut failures = Vec::new();
    for (zone, rule) in ours {
        if !known.contains(&(zone.clone(), rule.clone())) {
            let removed = firewalld.remove(&zone, &rule).await.map_err(|error| error.to_string());
            failures.extend(report(&format!("firewalld {zone}: {rule}"), removed));
        }
    }
    failures
}

fn rules_in_ledgers() -> HashSet<(String, String)> {
    let ids = Ledger::sessions().unwrap_or_default();
    let ledgers = ids.iter().filter_map(|id| Ledger::open(id).ok().flatten());
    let replays = ledgers.filter_map(|ledger| ledger.without_lock().replay().ok().flatten());
    replays
        .flat_map(|replay| replay.outstanding)
        .filter_map(|(_, grant)| match grant {
            Grant::FirewalldRule { zone, rule } => Some((zone, rule)),
            _ => None,
        })
        .collect()
}

/// Tells what became of an orphan; a failure is returned too.
fn report(what: &str, removed: Result<(), String>) -> Option<String> {
    let (message, failure) = match removed {
        Ok(()) => (format!("{what} belonged to no session and was removed"), None),
        Err(why) => (
            format!("{what} belongs to no session and could not be removed: {why}"),
            Some(format!("{what}: {why}")),
        ),
    };
    record("", message);
    failure
}

fn record(session: &str, message: String) {
    let mut entry = Entry::new(Kind::Recovered, "", 0, "godebugd", message);
    if !session.is_empty() {
        entry = entry.session(session);
    }
    if let Err(error) = audit::record(&entry) {
        tracing::error!("not in the audit log ({error}): {}", entry.message);
    }
}
