//! Calls to godebugd: the connection, and its answers as documents.

use godebug_api::Refusal;
use godebug_api::bus::{BusError, ManagerProxy};
use serde::de::DeserializeOwned;
use zbus::Connection;

/// The manager on the system bus.
///
/// # Errors
/// When there is no bus.
pub(crate) async fn manager() -> Result<ManagerProxy<'static>, Refusal> {
    let connect = async { ManagerProxy::new(&Connection::system().await?).await };
    connect.await.map_err(|error| Refusal::from(BusError::from(error)))
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
