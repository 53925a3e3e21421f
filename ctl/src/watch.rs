//! What becomes of a session, told as it happens, through restarts of godebugd and of the bus.

use crate::manager::bus_again;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, select_all};
use godebug_api::bus::{BusError, ManagerProxy, SessionProxy};
use godebug_api::documents::SessionInfo;
use godebug_api::{Refusal, SessionId, session_path};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use zbus::Connection;

/// How often a daemon or a bus that is away is looked for.
const AWAY: Duration = Duration::from_secs(1);
/// How often a session is looked at when nothing was announced, should a signal have been lost.
const QUIET: Duration = Duration::from_secs(30);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the session now.
#[derive(Debug)]
pub(crate) enum News {
    Session(Box<SessionInfo>),
    /// godebugd does not answer for it any more.
    Unknown(Refusal),
    /// godebugd or the bus is away. The session does not need either.
    Away,
    /// The session is held again, on another connection to the bus.
    HeldAgain,
}

/// Tells everything about session `id` until the receiver is gone.
pub(crate) async fn follow(
    mut connection: Connection,
    id: SessionId,
    news: mpsc::UnboundedSender<News>,
) {
    while !news.is_closed() {
        // Its only error is that the bus is gone, which is also what its return means.
        let _ = follow_on(&connection, &id, &news).await;
        let _ = news.send(News::Away);
        loop {
            sleep(AWAY).await;
            if let Ok(fresh) = bus_again().await {
                connection = fresh;
                if holds_again(&connection, &id).await {
                    let _ = news.send(News::HeldAgain);
                }
                break;
            }
        }
    }
}

/// Holds the session by the name that the new connection has. Whether it was let; if not, a look at the
/// session tells why.
async fn holds_again(connection: &Connection, id: &SessionId) -> bool {
    let Ok(manager) = ManagerProxy::new(connection).await else { return false };
    matches!(timeout(PATIENCE, manager.hold(id.as_str())).await, Ok(Ok(_)))
}

/// The same on one connection, until that is closed.
async fn follow_on(
    connection: &Connection,
    id: &SessionId,
    news: &mpsc::UnboundedSender<News>,
) -> zbus::Result<()> {
    let manager = ManagerProxy::new(connection).await?;
    // Listening first and looking after: whatever happens in between is seen twice, not never.
    let mut hints = hints(connection, id).await?;
    let mut away = false;
    loop {
        match timeout(PATIENCE, look(&manager, id)).await {
            Ok(Ok(info)) => {
                away = false;
                let _ = news.send(News::Session(Box::new(info)));
            }
            Ok(Err(Some(refusal))) => {
                let _ = news.send(News::Unknown(refusal));
            }
            Ok(Err(None)) | Err(_) => {
                if !std::mem::replace(&mut away, true) {
                    let _ = news.send(News::Away);
                }
            }
        }
        if connection.is_closed() || news.is_closed() {
            return Ok(());
        }
        tokio::select! {
            hint = hints.next() => if hint.is_none() { return Ok(()) },
            () = sleep(if away { AWAY } else { QUIET }) => {}
        }
    }
}

/// Everything that makes another look worth while: a signal of the session, and godebugd coming or
/// going. What the signals say is not used, so that there is one source of truth.
async fn hints(
    connection: &Connection,
    id: &SessionId,
) -> zbus::Result<futures_util::stream::SelectAll<BoxStream<'static, ()>>> {
    let session = SessionProxy::builder(connection).path(session_path(id)).build().await?;
    let transitions = session.receive_transition().await?.map(|_| ()).boxed();
    let extensions = session.receive_extended().await?.map(|_| ()).boxed();
    let approvals = session.receive_approved().await?.map(|_| ()).boxed();
    let owners = session.inner().receive_owner_changed().await?.map(|_| ()).boxed();
    Ok(select_all([transitions, extensions, approvals, owners]))
}

/// The session, or what the daemon says against it, or nothing if it could not be asked.
async fn look(manager: &ManagerProxy<'_>, id: &SessionId) -> Result<SessionInfo, Option<Refusal>> {
    match manager.get(id.as_str()).await {
        Err(BusError::ZBus(_)) => Err(None),
        other => crate::manager::answer(other).map_err(Some),
    }
}
