//! Who somebody was before su and sudo, and where they came from: for the record, and so that nobody
//! consents to what they want themselves.
//!
//! The kernel keeps who logged in (`loginuid`), whatever they become; logind the rest. What cannot be
//! found out is left open: not every host has either.

use godebug_api::Login;
use std::time::Duration;
use zbus::names::BusName;
use zbus::{Connection, OwnedObjectPath};

/// A logind that hangs must not hold up whoever asks.
const PATIENCE: Duration = Duration::from_millis(500);
/// What the kernel says of a process that nobody has logged in for.
const NOBODY: u32 = u32::MAX;

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Logind {
    #[zbus(name = "GetSessionByPID")]
    fn get_session_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.login1.Session",
    default_service = "org.freedesktop.login1"
)]
trait LoginSession {
    #[zbus(property)]
    fn id(&self) -> zbus::Result<String>;
    #[zbus(property, name = "TTY")]
    fn tty(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn remote_host(&self) -> zbus::Result<String>;
}

/// Of whoever has this name on the bus.
pub(super) async fn of(connection: &Connection, name: BusName<'_>) -> Login {
    let pid = async {
        let bus = zbus::fdo::DBusProxy::new(connection).await.ok()?;
        bus.get_connection_unix_process_id(name).await.ok()
    };
    let Some(pid) = pid.await else { return Login::default() };
    let uid = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok();
    let uid = uid.and_then(|text| text.trim().parse().ok()).filter(|uid| *uid != NOBODY);
    let session = tokio::time::timeout(PATIENCE, session(connection, pid)).await;
    let login = session.ok().and_then(Result::ok).unwrap_or_default();
    Login { uid, ..login }
}

async fn session(connection: &Connection, pid: u32) -> zbus::Result<Login> {
    let path = LogindProxy::new(connection).await?.get_session_by_pid(pid).await?;
    let session = LoginSessionProxy::builder(connection)
        .path(path)
        .cache_properties(zbus::proxy::CacheProperties::No)
        .build()
        .await?;
    let told = |text: zbus::Result<String>| text.ok().filter(|text| !text.is_empty());
    Ok(Login {
        uid: None,
        session: told(session.id().await),
        tty: told(session.tty().await),
        peer: told(session.remote_host().await),
    })
}
