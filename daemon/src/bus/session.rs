//! `org.godebug1.Session`: what anybody may see of a session on the bus, and its moves. Who opened
//! it and why is not here: that takes the right to read, at the manager.

use godebug_api::documents::SessionInfo;
use tokio::sync::watch;
use zbus::object_server::SignalEmitter;

pub(super) struct SessionObject {
    info: watch::Receiver<SessionInfo>,
}

impl SessionObject {
    pub(super) fn new(info: watch::Receiver<SessionInfo>) -> Self {
        Self { info }
    }
}

#[zbus::interface(name = "org.godebug1.Session")]
impl SessionObject {
    #[zbus(property(emits_changed_signal = "const"))]
    fn id(&self) -> String {
        self.info.borrow().id.to_string()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn unit(&self) -> String {
        self.info.borrow().unit.to_string()
    }

    #[zbus(property)]
    fn state(&self) -> String {
        self.info.borrow().state.to_string()
    }

    /// RFC 3339; empty before the session is active.
    #[zbus(property)]
    fn expires_at(&self) -> String {
        self.info.borrow().expires_at.clone().unwrap_or_default()
    }

    #[zbus(signal)]
    pub(super) async fn transition(
        emitter: &SignalEmitter<'_>,
        old: &str,
        new: &str,
        close_reason: &str,
    ) -> zbus::Result<()>;

    /// One more person has consented to the request: so many of so many.
    #[zbus(signal)]
    pub(super) async fn approved(
        emitter: &SignalEmitter<'_>,
        given: u32,
        wanted: u32,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub(super) async fn extended(emitter: &SignalEmitter<'_>, expires_at: &str)
    -> zbus::Result<()>;
}
