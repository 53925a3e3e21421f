//! Grants that no ledger knows: what is left when a ledger was lost or damaged. Removed when
//! godebugd starts, and reported.
//!
//! Only what carries a session's ID in its name can be told to be ours. A rich rule of firewalld
//! cannot, and is not touched; without its gateway nobody listens behind it.

use crate::audit::{self, Entry, Kind};
use crate::host::{RealHost, id_of, nftables, units};
use godebug_api::SessionId;
use std::collections::HashSet;
use std::time::Duration;

/// Units of a session. dlv after the gateway, its guard after it.
const PATTERNS: [&str; 4] = [
    "godebug-gateway@*.service",
    "godebug-dlv@*.service",
    "godebug-guard@*.service",
    "godebug-deadman@*.timer",
];

/// Removes every unit and table of a session that is not among `known`.
pub(super) async fn sweep(host: &RealHost, known: &HashSet<SessionId>) {
    let Ok(systemd) = host.systemd() else { return };
    for pattern in PATTERNS {
        let listed = match systemd.matching(&[pattern]).await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::error!("left-over units cannot be looked for: {error}");
                return;
            }
        };
        for (unit, _) in listed {
            if id_of(&unit).is_some_and(|id| !known.contains(&id)) {
                let patience = 2 * units::DETACH_TIMEOUT + Duration::from_secs(10);
                let stopped = systemd.stop(&unit, patience).await;
                report(&unit, stopped.map_err(|error| error.to_string()));
            }
        }
    }
    match nftables::list().await {
        Ok(tables) => {
            for table in tables {
                let id = table.strip_prefix("godebug_").and_then(|id| id.parse().ok());
                if id.is_some_and(|id: SessionId| !known.contains(&id)) {
                    let removed = nftables::remove(&table).await;
                    report(&table, removed.map_err(|error| error.to_string()));
                }
            }
        }
        // On a host without nft there is nothing of ours in it.
        Err(error) => tracing::debug!("left-over tables cannot be looked for: {error}"),
    }
}

fn report(what: &str, removed: Result<(), String>) {
    let message = match removed {
        Ok(()) => format!("{what} belonged to no session and was removed"),
        Err(why) => format!("{what} belongs to no session and could not be removed: {why}"),
    };
    if let Err(error) = audit::record(&Entry::new(Kind::Recovered, "", 0, "godebugd", message)) {
        tracing::error!("the removal of {what} is not in the audit log: {error}");
    }
}
