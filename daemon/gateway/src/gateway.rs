//! One session's gateway as a whole: what its parts share, and the end that it always comes to.

use crate::accept::accept_until_cut;
use crate::configuration::wipe;
use crate::limits::Limits;
use crate::listen::{self, ListenError};
use crate::refusals::Refusals;
use crate::release::Release;
use crate::tls::{self, TlsError};
use crate::traffic::Totals;
use crate::{control, notify};
use godebug_api::control::{GatewayConfig, Reply};
use godebug_api::{Cidr, Deadline, Mode, clock};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Clients named in a status; more would not fit the line.
const CLIENTS_SHOWN: usize = 60;

/// Why a gateway did not come up.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the control socket {path} cannot be made: {error}")]
    Control { path: PathBuf, error: std::io::Error },
}

impl OpenError {
    /// The system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Listen(error) => error.errno(),
            Self::Control { error, .. } => error.raw_os_error(),
            Self::Tls(_) => None,
        }
    }
}

/// Why a gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The session's deadline has passed.
    Deadline,
    /// Somebody asked it to stop.
    Stopped,
    /// dlv does not let go of what a client has left behind; only its end frees the target.
    Stuck,
}

/// A gateway whose sockets exist, and which serves when it is run.
pub struct Gateway {
    shared: Arc<Shared>,
    listeners: Vec<TcpListener>,
    control: UnixListener,
    control_path: PathBuf,
}

impl Gateway {
    /// Makes the sockets, the network's last. Must be called inside a tokio runtime.
    pub fn open(config: GatewayConfig, limits: Limits) -> Result<Self, OpenError> {
        let acceptor = TlsAcceptor::from(tls::server(&config)?);
        wipe(config.key.into_bytes());
        let control_path = PathBuf::from(config.control_socket);
        let control = control::bind(&control_path)
            .map_err(|error| OpenError::Control { path: control_path.clone(), error })?;
        let listeners = listen::listen(&config.sources, config.port)?;
        let shared = Arc::new(Shared {
            sources: config.sources,
            debugger_socket: config.debugger_socket.into(),
            mode: config.mode,
            release: Release::default(),
            stuck: CancellationToken::new(),
            limits,
            acceptor,
            handshakes: Arc::new(Semaphore::new(config.max_handshakes)),
            connections: Arc::new(Semaphore::new(config.max_connections)),
            totals: Arc::default(),
            refusals: Refusals::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            deadline: watch::Sender::new(config.deadline),
            clients: Mutex::default(),
            next_client: AtomicU64::new(0),
        });
        Ok(Self { shared, listeners, control, control_path })
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Serves until the deadline, or until `stop`; when it returns every socket is closed.
    pub async fn run(self, stop: impl Future<Output = ()>) -> End {
        let Self { shared, listeners, control, control_path } = self;
        shared.tasks.spawn(accept_until_cut(Arc::clone(&shared), listeners));
        let end = tokio::select! {
            biased;
            () = shared.deadline_passed() => End::Deadline,
            () = stop => End::Stopped,
            () = shared.stuck.cancelled() => End::Stuck,
            never = control::serve(Arc::clone(&shared), control) => match never {},
        };
        shared.cut_all().await;
        // Its folder may not be ours to change; whoever made it removes it then.
        let _ = std::fs::remove_file(control_path);
        end
    }
}

/// What the parts of a gateway share.
pub(crate) struct Shared {
    pub(crate) sources: Vec<Cidr>,
    pub(crate) debugger_socket: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) release: Release,
    /// Cancelled once, when the target cannot be released in another way than by the session's end.
    pub(crate) stuck: CancellationToken,
    pub(crate) limits: Limits,
    pub(crate) acceptor: TlsAcceptor,
    /// Places for connections that are not verified yet, and for those that are.
    pub(crate) handshakes: Arc<Semaphore>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) totals: Arc<Totals>,
    /// Cancelled once, when every connection is to end and none may begin.
    pub(crate) cut: CancellationToken,
    /// The accepting task and every connection's.
    pub(crate) tasks: TaskTracker,
    refusals: Refusals,
    deadline: watch::Sender<Deadline>,
    clients: Mutex<BTreeMap<u64, SocketAddr>>,
    next_client: AtomicU64,
}

impl Shared {
    /// Ends every connection and the accepting; returns when all their sockets are closed.
    pub(crate) async fn cut_all(&self) {
        self.cut.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(crate) fn set_deadline(&self, deadline: Deadline) {
        self.deadline.send_replace(deadline);
    }

    #[cfg(test)]
    pub(crate) fn deadline(&self) -> Deadline {
        *self.deadline.borrow()
    }

    /// Counts and logs a connection that was turned away.
    pub(crate) fn refuse(&self, peer: SocketAddr, why: &dyn Display) {
        self.totals.refused.fetch_add(1, Relaxed);
        self.refusals.log(peer, why);
    }

    /// Shows this client in the status for as long as the returned value lives.
    pub(crate) fn list(&self, peer: SocketAddr) -> Listed<'_> {
        let number = self.next_client.fetch_add(1, Relaxed);
        self.clients().insert(number, peer);
        Listed { shared: self, number }
    }

    pub(crate) fn status(&self) -> Reply {
        let clients = self.clients();
        Reply::Status {
            clients: clients.values().take(CLIENTS_SHOWN).map(ToString::to_string).collect(),
            accepted: self.totals.accepted.load(Relaxed),
            refused: self.totals.refused.load(Relaxed),
            bytes_in: self.totals.bytes.inward.load(Relaxed),
            bytes_out: self.totals.bytes.outward.load(Relaxed),
            cut: self.cut.is_cancelled(),
        }
    }

    /// Returns when the deadline, wherever it has been moved to, has passed.
    async fn deadline_passed(&self) {
        let mut moves = self.deadline.subscribe();
        loop {
            let deadline = *moves.borrow_and_update();
            if deadline.has_passed(clock::now()) {
                notify::status("The session's time is over.");
                return;
            }
            self.refusals.settle();
            tokio::select! {
                () = tokio::time::sleep(clock::next_look(&deadline)) => {}
                // Cannot fail: the sender is `self`.
                _ = moves.changed() => {}
            }
        }
    }

    fn clients(&self) -> MutexGuard<'_, BTreeMap<u64, SocketAddr>> {
        // Nothing can panic while it is held.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's entry in the status.
pub(crate) struct Listed<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.shared.clients().remove(&self.number);
    }
}
