//! Watches the host for what others do to a session's grants: units that go, a firewalld that loses
//! its rules or keeps them for ever, a ruleset that somebody has changed.

use crate::host::{firewalld, nftables};
use crate::sessions::{FirewallChange, Sessions};
use futures_util::StreamExt;
use std::time::Duration;
use tokio::sync::broadcast::Sender;
use tokio::sync::oneshot;
use zbus::{Connection, MatchRule, MessageStream};

/// A ruleset is changed by many messages, and on some hosts all the time; what comes within this is
/// looked at as one change.
const SETTLE: Duration = Duration::from_millis(100);

/// Begins to watch, before it returns. The future it returns is done when the bus is gone.
///
/// # Errors
/// When the bus fails. A kernel that tells nothing about its rulesets is only reported.
pub async fn start(
    connection: &Connection,
    sessions: &Sessions,
) -> zbus::Result<impl Future<Output = ()> + use<>> {
    let shared = sessions.shared();
    watch_firewalld(connection, shared.firewall_changes.clone()).await?;
    watch_rulesets(shared.firewall_changes.clone());
    watch_units(sessions).await
}

async fn watch_units(sessions: &Sessions) -> zbus::Result<impl Future<Output = ()> + use<>> {
    let shared = sessions.shared();
    let systemd = shared.host.systemd().map_err(|refusal| zbus::Error::Failure(refusal.message))?;
    let mut removed = systemd.manager().receive_unit_removed().await?;
    let units_gone = shared.units_gone.clone();
    let (gone, told) = oneshot::channel::<()>();
    tokio::spawn(async move {
        while let Some(signal) = removed.next().await {
            if let Ok(arguments) = signal.args()
                && arguments.id.starts_with("godebug-")
            {
                let _ = units_gone.send(arguments.id.to_string());
            }
        }
        drop(gone);
    });
    Ok(async move { drop(told.await) })
}

async fn watch_firewalld(
    connection: &Connection,
    changes: Sender<FirewallChange>,
) -> zbus::Result<()> {
    let main = firewalld::MainProxy::builder(connection)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    let mut reloaded = main.receive_reloaded().await?;
    let bus = zbus::fdo::DBusProxy::new(connection).await?;
    let mut started = bus.receive_name_owner_changed_with_args(&[(0, firewalld::BUS_NAME)]).await?;
    // One object for each zone; told after --runtime-to-permanent, among others.
    let zone_updated = MatchRule::builder()
        .msg_type(zbus::message::Type::Signal)
        .interface(firewalld::ZONE_SETTINGS)
        .member("Updated")
        .build()?;
    let mut updated = MessageStream::for_match_rule(zone_updated, connection, None).await?;
    tokio::spawn(async move {
        loop {
            let change = tokio::select! {
                Some(_) = reloaded.next() => FirewallChange::RulesLost,
                Some(_) = started.next() => FirewallChange::RulesLost,
                Some(_) = updated.next() => FirewallChange::RulesKept,
                else => return,
            };
            let _ = changes.send(change);
        }
    });
    Ok(())
}

fn watch_rulesets(changes: Sender<FirewallChange>) {
    let mut rulesets = match nftables::Changes::watch() {
        Ok(rulesets) => rulesets,
        Err(error) => {
            tracing::warn!("the kernel does not tell of changed rulesets: {error}");
            return;
        }
    };
    tokio::spawn(async move {
        loop {
            if let Err(error) = rulesets.next().await {
                tracing::warn!("the kernel does not tell of changed rulesets any more: {error}");
                return;
            }
            tokio::time::sleep(SETTLE).await;
            let _ = changes.send(FirewallChange::RulesetChanged);
        }
    });
}
