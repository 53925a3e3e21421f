//! The D-Bus interface: who asks, whether they may, what they get. No decision is made here.

mod manager;
mod session;
mod text;

pub use manager::Manager;

use crate::sessions::News;
use godebug_api::{MANAGER_PATH, SessionId, session_path};
use session::SessionObject;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use zbus::Connection;

/// When somebody last asked for something, for the idle exit.
#[derive(Clone)]
pub struct Activity {
    started: Instant,
    last_ms: Arc<AtomicU64>,
    in_flight: Arc<AtomicU64>,
}

impl Activity {
    pub fn new() -> Self {
        Self { started: Instant::now(), last_ms: Arc::default(), in_flight: Arc::default() }
    }

    /// A request is being served until the guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        InFlight(self.clone())
    }

    fn touch(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::SeqCst);
    }

    pub fn idle_for(&self) -> Duration {
        if self.in_flight.load(Ordering::SeqCst) > 0 {
            return Duration::ZERO;
        }
        let last = Duration::from_millis(self.last_ms.load(Ordering::SeqCst));
        self.started.elapsed().saturating_sub(last)
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new()
    }
}

pub struct InFlight(Activity);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.touch();
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Puts every session on the bus, and tells of every move, in the order things happened.
pub async fn publish(connection: Connection, mut news: mpsc::UnboundedReceiver<News>) {
    while let Some(item) = news.recv().await {
        if let Err(error) = tell(&connection, item).await {
            tracing::warn!("the bus did not take a signal: {error}");
        }
    }
}

async fn tell(connection: &Connection, news: News) -> zbus::Result<()> {
    let server = connection.object_server();
    let path = |id: &SessionId| zbus::OwnedObjectPath::try_from(session_path(id));
    let manager = || server.interface::<_, Manager>(MANAGER_PATH);
    match news {
        News::Added { id, info } => {
            let path = path(&id)?;
            // A request that has become a session is another object at the same place.
            if server.remove::<SessionObject, _>(&path).await.unwrap_or(false) {
                server.at(&path, SessionObject::new(info)).await?;
                return Ok(());
            }
            server.at(&path, SessionObject::new(info)).await?;
            Manager::session_added(manager().await?.signal_emitter(), id.as_str(), path.into())
                .await
        }
        News::Moved { id, old, new, reason } => {
            let object = server.interface::<_, SessionObject>(path(&id)?).await?;
            let reason = reason.map(|reason| reason.to_string()).unwrap_or_default();
            let emitter = object.signal_emitter();
            object.get().await.state_changed(emitter).await?;
            SessionObject::transition(emitter, &old.to_string(), &new.to_string(), &reason).await
        }
        News::Approved { id, given, wanted } => {
            let object = server.interface::<_, SessionObject>(path(&id)?).await?;
            SessionObject::approved(object.signal_emitter(), given, wanted).await
        }
        News::Extended { id, expires_at } => {
            let object = server.interface::<_, SessionObject>(path(&id)?).await?;
            let emitter = object.signal_emitter();
            object.get().await.expires_at_changed(emitter).await?;
            SessionObject::extended(emitter, &expires_at).await
        }
        News::Removed { id } => {
            let path = path(&id)?;
            server.remove::<SessionObject, _>(&path).await?;
            Manager::session_removed(manager().await?.signal_emitter(), id.as_str(), path.into())
                .await
        }
    }
}
