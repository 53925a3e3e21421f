//! Calls to godebugd: the connection, and its answers as documents.

use crate::far::Host;
use crate::request::Ssh;
use godebug_api::Refusal;
use godebug_api::bus::{BusError, ManagerProxy};
use serde::de::DeserializeOwned;
use zbus::Connection;

/// The manager on the system bus, of the host that the command is about.
///
/// # Errors
/// When there is no bus.
pub(crate) async fn manager() -> Result<ManagerProxy<'static>, Refusal> {
    manager_and_way().await.map(|(manager, _)| manager)
}

/// The same, with the ssh connection by which the person has come to that host.
///
/// # Errors
/// When there is no bus.
pub(crate) async fn manager_and_way() -> Result<(ManagerProxy<'static>, Ssh), Refusal> {
    let unreachable = |error: zbus::Error| Refusal::from(BusError::from(error));
    let (bus, ssh) = match Host::chosen() {
        Some(host) => host.bus().await?,
        None => (Connection::system().await.map_err(unreachable)?, Ssh::from_environment()),
    };
    Ok((ManagerProxy::new(&bus).await.map_err(unreachable)?, ssh))
}

/// The system bus itself, of the host that the command is about.
///
/// # Errors
/// When there is none.
pub(crate) async fn bus() -> Result<Connection, Refusal> {
    match Host::chosen() {
        Some(host) => host.bus().await.map(|(bus, _)| bus),
        None => Connection::system().await.map_err(|error| BusError::from(error).into()),
    }
}

/// The bus once more, after a connection to it has ended. Nobody is asked for anything.
///
/// # Errors
/// When there is none yet.
pub(crate) async fn bus_again() -> Result<Connection, Refusal> {
    match Host::chosen() {
        Some(host) => host.repeated().bus().await.map(|(bus, _)| bus),
        None => Connection::system().await.map_err(|error| BusError::from(error).into()),
    }
}

/// The document in an answer.
///
/// # Errors
/// What the daemon refused, or that its answer is none that this program knows.
pub(crate) fn answer<T: DeserializeOwned>(answer: Result<String, BusError>) -> Result<T, Refusal> {
    serde_json::from_str(&answer?).map_err(|error| {
        Refusal::failed(
            format!("godebugd's answer cannot be read: {error}"),
            "are godebugctl and godebugd of the same version? \
             `systemctl restart godebugd` runs the installed one; sessions go on",
        )
    })
}
