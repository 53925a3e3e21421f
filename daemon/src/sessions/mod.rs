//! The sessions that there are: opened, found, ended, and taken over from an earlier godebugd.

mod dumped;
mod images;
mod launch;
mod life;
mod orphans;
mod pending;
mod prepare;
mod recorded;

pub use dumped::Brought;
pub use images::{foretell as foretell_image, no_image};
pub use launch::Launched;
pub use orphans::{left_over, revoke_by_name};
pub use pending::Request;
pub use prepare::{Freeze, Prepared, Symbols, all_debuggers, fitting_debugger, new_id, prepare};

use crate::authority::{Authorized, Caller, Permitted, rules};
use crate::config::Config;
use crate::engine::End;
use crate::host::RealHost;
use crate::ledger::{Ledger, LedgerFileError};
use crate::paths::SessionPaths;
use crate::{audit, certificates, hooks, transcripts};
use godebug_api::documents::{OpenRequest, Opened as OpenedDocument, SessionInfo, ShareRequest};
use godebug_api::{CloseReason, GuestName, Refusal, SessionId, State, Ttl, UnitName};
use godebug_core::ledger::Opened;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use zbus::Connection;

/// How many ended sessions are remembered; older ones are in the audit log.
const REMEMBERED: usize = 32;

/// What a session can be told.
enum Command {
    Stop {
        detail: String,
    },
    Extend {
        ttl: Ttl,
        by: Actor,
        answer: oneshot::Sender<Result<SessionInfo, Refusal>>,
    },
    /// Whoever held it was away, and is there again.
    Hold {
        by: String,
        answer: oneshot::Sender<Result<SessionInfo, Refusal>>,
    },
    Share {
        guest: ShareRequest,
        by: Actor,
        answer: oneshot::Sender<Result<OpenedDocument, Refusal>>,
    },
    /// Whoever was let in by this name is shut out.
    Withdraw {
        name: GuestName,
        by: Actor,
        answer: oneshot::Sender<Result<SessionInfo, Refusal>>,
    },
}

/// Who does something to a session, for the record.
struct Actor {
    uid: u32,
    user: String,
}

/// What the bus is told about sessions, in the order it happened.
#[derive(Debug)]
pub enum News {
    Added {
        id: SessionId,
        info: watch::Receiver<SessionInfo>,
    },
    Moved {
        id: SessionId,
        old: State,
        new: State,
        reason: Option<CloseReason>,
    },
    Extended {
        id: SessionId,
        expires_at: String,
    },
    /// One more person has consented to a request.
    Approved {
        id: SessionId,
        given: u32,
        wanted: u32,
    },
    Removed {
        id: SessionId,
    },
}

/// What somebody else has done to the host's firewall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirewallChange {
    /// firewalld has started or reloaded, and with that lost its runtime rules.
    RulesLost,
    /// firewalld has written permanent settings, ours perhaps among them.
    RulesKept,
    /// A ruleset of nftables is not what it was.
    RulesetChanged,
}

struct Handle {
    commands: mpsc::Sender<Command>,
    info: watch::Receiver<SessionInfo>,
}

/// Everything the sessions share.
pub struct Shared {
    pub host: RealHost,
    pub connection: Connection,
    /// Names of units that systemd has just dropped.
    pub units_gone: broadcast::Sender<String>,
    pub firewall_changes: broadcast::Sender<FirewallChange>,
    news: mpsc::UnboundedSender<News>,
    live: Mutex<HashMap<SessionId, Handle>>,
    /// Those that wait for somebody's consent, and hold nothing.
    pending: Mutex<HashMap<SessionId, pending::Waiting>>,
    ended: Mutex<VecDeque<SessionInfo>>,
    /// Images that outlive their sessions for a while.
    recorded: Mutex<recorded::Recorded>,
    /// One session is prepared at a time up to its ledger, so that two do not choose one port.
    preparing: tokio::sync::Mutex<()>,
    /// One unit is started at a time, which may take as long as it takes to stop.
    launching: tokio::sync::Mutex<()>,
    reading: tokio::sync::Mutex<()>,
    group: u32,
}

/// A session that has a ledger and nothing else yet.
type Begun = (
    life::Life,
    watch::Receiver<SessionInfo>,
    oneshot::Receiver<Result<(), Refusal>>,
    certificates::SessionCertificates,
);

/// The sessions of this host.
#[derive(Clone)]
pub struct Sessions(Arc<Shared>);

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sessions {
    pub fn new(
        host: RealHost,
        connection: Connection,
        group: u32,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        Self(Arc::new(Shared {
            host,
            connection,
            units_gone: broadcast::channel(64).0,
            firewall_changes: broadcast::channel(16).0,
            news,
            live: Mutex::default(),
            pending: Mutex::default(),
            ended: Mutex::default(),
            recorded: Mutex::default(),
            preparing: tokio::sync::Mutex::default(),
            launching: tokio::sync::Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            group,
        }))
    }

    pub fn shared(&self) -> &Shared {
        &self.0
    }

    /// Opens a session and returns when it is active.
    ///
    /// # Errors
    /// The refusal; whatever was taken is given back by then, or the session is stuck and shown.
    pub async fn open(
        &self,
        unit: &UnitName,
        allowed: Authorized<Permitted<OpenRequest>>,
        brought: Brought,
    ) -> Result<OpenedDocument, Refusal> {
        let config = Config::load()?.under(&allowed.get().permit);
        let consented = allowed.get().consented.as_ref().map(|consented| consented.id.clone());
        let id = match &consented {
            Some(id) => self.waits(id).map(|()| id.clone())?,
            None => new_id()?,
        };
        // Kept until dlv has the process, or nothing comes of it.
        let (launched, _tether) = match allowed.get().what.exec {
            None => (None, None),
            Some(_) => {
                let _one_at_a_time = self.0.launching.lock().await;
                // Before a service is restarted for nothing.
                let running = rules::running(&self.list(), unit, allowed.caller().uid);
                let permit = &allowed.get().permit;
                permit.room_for_one_more(running).map_err(rules::Denied::from)?;
                let request = &allowed.get().what;
                let launch = self.launch_of(unit, request).await?;
                let (launched, tether) =
                    self.launch(launch, &id, (request, allowed.caller())).await?;
                (Some(launched), Some(tether))
            }
        };
        let one_at_a_time = self.0.preparing.lock().await;
        // Once more where nobody else can take it up: what was consented to once is opened once.
        let waits = consented.as_ref().map_or(Ok(()), |id| self.waits(id));
        let begun = match (waits, allowed.get().what.dump.clone()) {
            (Err(refusal), _) => Err(refusal),
            (Ok(()), Some(dump)) => {
                self.begin_on_dump(unit, allowed, (config, dump), brought, id.clone()).await
            }
            (Ok(()), None) => {
                let with = (config, brought.symbols);
                self.begin(unit, allowed, with, (id.clone(), launched)).await
            }
        };
        if begun.is_err() && launched.is_some() {
            self.let_go(&id).await;
        }
        let (life, info, active, certificates) = begun?;
        launch::taken_over(&id);
        self.taken_up(&id);
        drop(one_at_a_time);
        tokio::spawn(life.run());
        match active.await {
            Ok(Ok(())) => {
                let session = info.borrow().clone();
                let (host, port) = session.endpoint.rsplit_once(':').unwrap_or(("", "0"));
                Ok(OpenedDocument {
                    host: host.trim_matches(['[', ']']).to_owned(),
                    port: port.parse().unwrap_or(0),
                    ca: certificates.ca,
                    certificate: certificates.client,
                    server_name: certificates.server_name,
                    session,
                })
            }
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::failed(
                format!("session {id} was lost while it was prepared"),
                "see `journalctl -u godebugd`",
            )),
        }
    }

    /// Looks at everything, and makes the session's ledger. Nothing else is changed.
    async fn begin(
        &self,
        unit: &UnitName,
        allowed: Authorized<Permitted<OpenRequest>>,
        (config, symbols): (Config, Option<File>),
        (id, launched): (SessionId, Option<launch::Launched>),
    ) -> Result<Begun, Refusal> {
        let brought = symbols.as_ref().map_or(Symbols::None, Symbols::InFile);
        let request = &allowed.get().what;
        let prepared = prepare(self, &config, unit, request, brought, (id, launched)).await?;
        prepared.within_the_freeze_limit(request)?;
        let (Permitted { what: request, permit, consented }, caller) = allowed.into_inner();
        let approvals = consented.map(|consented| consented.approvals).unwrap_or_default();
        // Counted once more where no other session can begin in between.
        let running = rules::running(&self.list(), &prepared.target.unit, caller.uid);
        permit.room_for_one_more(running).map_err(rules::Denied::from)?;
        let certificates = certificates::issue(
            &prepared.wanted.id,
            &request.csr,
            &caller.user,
            config.max_total + crate::host::units::ATTACH_TIMEOUT,
        )?;
        let opened = prepared.opened(&request, &caller, &config, &permit, approvals);
        let (life, info, active) =
            life::Life::begin(self, prepared, opened, &config, &certificates, symbols)?;
        Ok((life, info, active, certificates))
    }

    /// The live sessions, oldest first.
    pub fn list(&self) -> Vec<SessionInfo> {
        let mut all: Vec<SessionInfo> =
            unpoisoned(&self.0.live).values().map(|handle| handle.info.borrow().clone()).collect();
        all.sort_by(|a, b| (&a.opened_at, &a.id).cmp(&(&b.opened_at, &b.id)));
        all
    }

    /// A session, live or ended.
    ///
    /// # Errors
    /// When there never was one of that ID, as far as memory and the audit log tell.
    pub async fn get(&self, id: &SessionId) -> Result<SessionInfo, Refusal> {
        if let Some(handle) = unpoisoned(&self.0.live).get(id) {
            return Ok(handle.info.borrow().clone());
        }
        if let Ok(request) = self.request(id) {
            return Ok(request.info);
        }
        if let Some(info) = unpoisoned(&self.0.ended).iter().find(|info| info.id == *id) {
            return Ok(info.clone());
        }
        let wanted = id.clone();
        self.ask_log(move || audit::last_end(&wanted))
            .await?
            .and_then(|entry| serde_json::from_value(entry.details).ok())
            .ok_or_else(|| no_such(id))
    }

    /// Reads the audit log. It may be long, so that happens beside everything else; one reader at a
    /// time, whoever asks how often.
    ///
    /// # Errors
    /// When the log is there and cannot be read.
    pub async fn ask_log<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let failed = |why: String| {
            Refusal::host(
                format!("the audit log cannot be read: {why}"),
                format!("see what {} is", crate::paths::AUDIT_LOG),
            )
        };
        let _one_at_a_time = self.0.reading.lock().await;
        let answer = tokio::task::spawn_blocking(question).await;
        answer
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))
    }

    /// Ends a session and waits until it is closed or stuck. What one that has ended has kept is gone then.
    ///
    /// # Errors
    /// When there is none of that ID. A session that has ended already is a success.
    pub async fn stop(
        &self,
        id: &Authorized<SessionId>,
        detail: String,
    ) -> Result<SessionInfo, Refusal> {
        let id = id.get();
        if let Some(request) = self.take_back(id, &detail) {
            return Ok(request);
        }
        let found = unpoisoned(&self.0.live)
            .get(id)
            .map(|handle| (handle.commands.clone(), handle.info.clone()));
        let Some((commands, mut info)) = found else {
            self.drop_images(id, &detail);
            return self.get(id).await;
        };
        // A session that is just ending takes no command, and needs none.
        let _ = commands.send(Command::Stop { detail }).await;
        let over = |info: &SessionInfo| matches!(info.state, State::Closed | State::Stuck);
        info.mark_unchanged();
        // The states of before do not count: a stuck session is tried again first.
        loop {
            if info.changed().await.is_err() {
                break;
            }
            if over(&info.borrow()) {
                break;
            }
        }
        let last = info.borrow().clone();
        Ok(last)
    }

    /// Moves the end of a session.
    ///
    /// # Errors
    /// When there is none, when it is not active, or when the rules do not allow it.
    pub async fn extend(
        &self,
        id: &Authorized<Permitted<SessionId>>,
        ttl: Ttl,
    ) -> Result<SessionInfo, Refusal> {
        let by = Actor { uid: id.caller().uid, user: id.caller().user.clone() };
        let id = &id.get().what;
        let commands = unpoisoned(&self.0.live).get(id).map(|handle| handle.commands.clone());
        let Some(commands) = commands else { return Err(no_such(id)) };
        let (answer, answered) = oneshot::channel();
        let ended = || Refusal::refused(format!("session {id} is ending"), "open a new one");
        commands.send(Command::Extend { ttl, by, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Lets its owner hold a session again, by the bus name that they have now.
    ///
    /// # Errors
    /// When there is none, when it is ending, or when nobody has ever held it.
    pub async fn hold(&self, id: &SessionId, caller: &Caller) -> Result<SessionInfo, Refusal> {
        let session = self.get(id).await?;
        if session.opened_by_uid != caller.uid {
            let message = format!("session {id} is held by {}", session.opened_by);
            return Err(Refusal::refused(message, "only who has opened a session can hold it"));
        }
        let commands = unpoisoned(&self.0.live).get(id).map(|handle| handle.commands.clone());
        let Some(commands) = commands else { return Err(no_such(id)) };
        let (answer, answered) = oneshot::channel();
        let ended = || Refusal::refused(format!("session {id} is ending"), "open a new one");
        commands
            .send(Command::Hold { by: caller.name.to_string(), answer })
            .await
            .map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Lets somebody into a session.
    ///
    /// # Errors
    /// When there is none, when it is not active, or has no gateway.
    pub async fn share(
        &self,
        id: &SessionId,
        allowed: Authorized<Permitted<ShareRequest>>,
    ) -> Result<OpenedDocument, Refusal> {
        let (Permitted { what: guest, .. }, caller) = allowed.into_inner();
        let by = Actor { uid: caller.uid, user: caller.user };
        let commands = unpoisoned(&self.0.live).get(id).map(|handle| handle.commands.clone());
        let Some(commands) = commands else { return Err(no_such(id)) };
        let (answer, answered) = oneshot::channel();
        let ended = || Refusal::refused(format!("session {id} is ending"), "open a new one");
        commands.send(Command::Share { guest, by, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Shuts somebody out who was let into a session.
    ///
    /// # Errors
    /// When there is none, when it is not active, or nobody was let in by that name.
    pub async fn withdraw(
        &self,
        allowed: Authorized<SessionId>,
        name: GuestName,
    ) -> Result<SessionInfo, Refusal> {
        let (id, caller) = allowed.into_inner();
        let by = Actor { uid: caller.uid, user: caller.user };
        let commands = unpoisoned(&self.0.live).get(&id).map(|handle| handle.commands.clone());
        let Some(commands) = commands else { return Err(no_such(&id)) };
        let (answer, answered) = oneshot::channel();
        let ended = || Refusal::refused(format!("session {id} is ending"), "nobody is let in then");
        commands.send(Command::Withdraw { name, by, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }

    /// Ends every session's watch on the bus name of its holder and so on: nothing to do here but
    /// to say how many there are.
    pub fn is_empty(&self) -> bool {
        unpoisoned(&self.0.live).is_empty()
            && unpoisoned(&self.0.pending).is_empty()
            && !self.keeps_images()
    }

    /// Takes over what an earlier godebugd has left: a session that lives is adopted, one that was
    /// half opened or half closed is ended.
    pub async fn recover(&self) {
        self.recover_launches().await;
        let ids = match Ledger::sessions() {
            Ok(ids) => ids,
            Err(error) => {
                tracing::error!("the sessions of an earlier godebugd cannot be read: {error}");
                return;
            }
        };
        let (mut known, mut empty) = (HashSet::new(), Vec::new());
        for id in ids {
            match life::Life::adopt(self, &id).await {
                Ok(Some(life)) => {
                    known.insert(id);
                    tokio::spawn(life.run());
                }
                Ok(None) => empty.push(id),
                // What it took is found by name.
                Err(error @ LedgerFileError::Content { .. }) => {
                    tracing::error!("session {id} cannot be taken over: {error}");
                    if let Err(why) = orphans::revoke_by_name(&self.0.host, &id).await {
                        tracing::error!("session {id} is not all gone: {why}");
                    }
                }
                // Its grants are known and must not be swept; the dead man can try.
                Err(error) => {
                    tracing::error!("session {id} cannot be taken over: {error}");
                    known.insert(id);
                }
            }
        }
        self.recover_requests(&known);
        hooks::clear_away();
        orphans::sweep(&self.0.host, &known).await;
        // Takes firewalld too long to wait for, and is safe beside sessions that open.
        let host = self.0.host.clone();
        tokio::spawn(async move { orphans::sweep_rules(&host).await });
        for id in empty {
            // Only now: dlv is detached through its socket in there.
            let root = SessionPaths::of(&id);
            if let Err(error) = std::fs::remove_dir_all(root.root())
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::error!("{} cannot be removed: {error}", root.root().display());
            }
        }
    }

    fn insert(&self, id: &SessionId, handle: Handle) {
        let info = handle.info.clone();
        unpoisoned(&self.0.live).insert(id.clone(), handle);
        let _ = self.0.news.send(News::Added { id: id.clone(), info });
    }

    fn remove(&self, id: &SessionId, last: SessionInfo) {
        unpoisoned(&self.0.live).remove(id);
        self.remember(last);
    }

    /// Keeps what became of a session or a request, and takes it off the bus.
    fn remember(&self, last: SessionInfo) {
        let id = last.id.clone();
        let mut ended = unpoisoned(&self.0.ended);
        ended.push_front(last);
        ended.truncate(REMEMBERED);
        let _ = self.0.news.send(News::Removed { id });
    }
}

fn no_such(id: &SessionId) -> Refusal {
    Refusal::usage(format!("there is no session {id}"), "`godebugctl list` shows the sessions")
}

/// The document of a session that has ended, or is stuck.
pub fn info_of(session: &Opened, end: &End) -> SessionInfo {
    let mut info = life::info(session);
    info.state = if end.is_clean() { State::Closed } else { State::Stuck };
    info.close_reason = Some(end.reason);
    info.close_detail = (!end.detail.is_empty()).then(|| end.detail.clone());
    info.proof.clone_from(&end.proof);
    info.stuck.clone_from(&end.stuck);
    info.freeze_ms = end.freeze_ms;
    info.transcript = transcripts::end(&session.id);
    info
}
