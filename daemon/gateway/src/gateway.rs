//! One session's gateway as a whole: what its parts share, and the end that it always comes to.

use crate::accept::accept_until_cut;
use crate::clients::Clients;
use crate::configuration::{Given, wipe};
use crate::guests::Guests;
use crate::keeper::{Keeper, keep, milliseconds};
use crate::limits::Limits;
use crate::listen::{self, ListenError};
use crate::refusals::Refusals;
use crate::release::Release;
use crate::screen::Values;
use crate::target::Target;
use crate::tls::{Doors, TlsError};
use crate::traffic::Totals;
use crate::transcript::{Entry, Transcript};
use crate::{control, images, notify};
use godebug_api::control::{BuildInfoAnswer, Reply};
use godebug_api::documents::BuildInfo;
use godebug_api::redact::Redactor;
use godebug_api::{Cidr, Deadline, Mode, clock};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

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
    /// The transcript cannot be written.
    Unrecorded,
}

impl End {
    fn text(self) -> &'static str {
        match self {
            Self::Deadline => "the session's time is over",
            Self::Stopped => "it was stopped",
            Self::Stuck => "dlv does not let the service go on",
            Self::Unrecorded => "the transcript cannot be written",
        }
    }
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
    pub fn open(given: Given, limits: Limits) -> Result<Self, OpenError> {
        let Given { config, target_status, transcript } = given;
        let guests = Guests::new(Doors::new(&config)?)?;
        wipe(config.key.into_bytes());
        let control_path = PathBuf::from(config.control_socket);
        let control = control::bind(&control_path)
            .map_err(|error| OpenError::Control { path: control_path.clone(), error })?;
        let listeners = listen::listen(&config.sources, config.port)?;
        let transcript = Transcript::new(transcript, config.host, config.boot);
        transcript.record(&Entry::Begun {
            session: &config.id,
            mode: config.mode,
            per_stop_ms: config.pause.per_stop_ms,
            per_session_ms: config.pause.per_session_ms,
        });
        let shared = Arc::new(Shared {
            values: Arc::new(Values {
                redactor: Redactor::new(config.redact),
                kept: config.transcript_values,
            }),
            keeper: Arc::new(
                Keeper::new(Target::new(target_status), config.pause, config.hot)
                    .awaiting_a_client(config.awaits_client)
                    .of_core(config.of_core),
            ),
            transcript: Arc::new(transcript),
            clients: Clients::default(),
            sources: config.sources,
            debugger_socket: config.debugger_socket.into(),
            build: answer_of(config.build),
            mode: config.mode,
            release: Release::default(),
            stuck: CancellationToken::new(),
            limits,
            guests,
            handshakes: Arc::new(Semaphore::new(config.max_handshakes)),
            connections: Arc::new(Semaphore::new(config.max_connections)),
            totals: Arc::default(),
            refusals: Refusals::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            deadline: watch::Sender::new(config.deadline),
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
        let (cut, kept) = (shared.cut.clone(), Arc::clone(&shared));
        shared.tasks.spawn(async move {
            match kept.mode {
                _ if kept.keeper.is_of_core() => None,
                Mode::Observe => cut.run_until_cancelled(images::record(kept)).await,
                Mode::Step | Mode::Modify => cut.run_until_cancelled(keep(kept)).await,
            }
        });
        let end = tokio::select! {
            biased;
            () = shared.deadline_passed() => End::Deadline,
            () = stop => End::Stopped,
            () = shared.stuck.cancelled() => End::Stuck,
            () = shared.transcript.has_failed() => End::Unrecorded,
            () = shared.transcript.keep_synced() => End::Unrecorded,
            never = control::serve(Arc::clone(&shared), control) => match never {},
        };
        shared.cut_all().await;
        shared.record_end(end);
        // Its folder may not be ours to change; whoever made it removes it then.
        let _ = std::fs::remove_file(control_path);
        end
    }
}

fn answer_of(build: Option<BuildInfo>) -> Vec<u8> {
    let answer = BuildInfoAnswer { id: 1, result: build, error: None };
    // Text and lists of text cannot fail to be written.
    let mut line = serde_json::to_vec(&answer).unwrap_or_default();
    line.push(b'\n');
    line
}

/// What the parts of a gateway share.
pub(crate) struct Shared {
    pub(crate) sources: Vec<Cidr>,
    pub(crate) values: Arc<Values>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) transcript: Arc<Transcript>,
    pub(crate) clients: Clients,
    pub(crate) debugger_socket: PathBuf,
    /// What whoever asks how the program was built is told.
    pub(crate) build: Vec<u8>,
    pub(crate) mode: Mode,
    pub(crate) release: Release,
    /// Cancelled once, when the target cannot be released in another way than by the session's end.
    pub(crate) stuck: CancellationToken,
    pub(crate) limits: Limits,
    pub(crate) guests: Guests,
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

    pub(crate) fn status(&self) -> Reply {
        let (stood, longest_stop, let_go) = self.keeper.figures();
        Reply::Status {
            clients: self.clients.peers(),
            accepted: self.totals.accepted.load(Relaxed),
            refused: self.totals.refused.load(Relaxed),
            bytes_in: self.totals.bytes.inward.load(Relaxed),
            bytes_out: self.totals.bytes.outward.load(Relaxed),
            cut: self.cut.is_cancelled(),
            stood_ms: milliseconds(stood),
            longest_stop_ms: milliseconds(longest_stop),
            let_go,
        }
    }

    fn record_end(&self, end: End) {
        if let Some(stood) = self.keeper.last_stop() {
            self.transcript.record(&Entry::Stood { ms: milliseconds(stood) });
        }
        let (stood, longest_stop, let_go) = self.keeper.figures();
        self.transcript.end(&Entry::Ended {
            why: end.text(),
            stood_ms: milliseconds(stood),
            longest_stop_ms: milliseconds(longest_stop),
            let_go,
        });
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
}
