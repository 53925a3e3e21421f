//! One session from its first grant to its proof: a task that owns its ledger, and the only one
//! that moves its state.

use super::{Actor, Command, FirewallChange, Handle, News, Prepared, Sessions, prepare};
use crate::audit::{self, Entry, Kind};
use crate::certificates::{self, SessionCertificates};
use crate::config::Config;
use crate::engine::{self, End};
use crate::freeze;
use crate::host::firewalld::Firewalld;
use crate::host::{self, ImageMaterial, Material, SessionMaterial, gateway, nftables, units};
use crate::launch;
use crate::ledger::{Ledger, LedgerFileError, Locked};
use crate::paths::SessionPaths;
use crate::rescue::Baseline;
use crate::target::executable::GoExecutable;
use crate::target::process::Process;
use futures_util::StreamExt;
use godebug_api::control::{GatewayConfig, Reply, Request};
use godebug_api::documents::{Opened as OpenedDocument, SessionInfo, ShareRequest};
use godebug_api::image::{ImageConfig, ImageWork};
use godebug_api::rules::engine::RedactRules;
use godebug_api::{
    CloseReason, Deadline, GuestName, Mode, PauseBudget, Port, Refusal, SessionId, StartAt, State,
    Ttl, clock,
};
use godebug_core::forecast::{Measured, Work};
use godebug_core::grant::Grant;
use godebug_core::ledger::{Opened, Record, VERSION};
use godebug_core::plan::{self, Plan};
use godebug_core::{Event, next};
use std::fs::File;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// How long a ledger may be held by somebody else before an opening or an extension gives up.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// A gateway answers at once; one that somebody has stopped must not keep the ledger locked.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(2);
/// A unit that has begun to end is waited for, for this long in all.
const UNIT_END_LOOK: Duration = Duration::from_millis(50);
const UNIT_END_LOOKS: u32 = 100;
/// The bounds of one gateway.
const MAX_CONNECTIONS: usize = 8;
const MAX_HANDSHAKES: usize = 16;

/// What is only there while a session is being opened.
struct Opening {
    plan: Plan,
    material: Material,
    /// What dlv has to go through, if that is known.
    work: Option<Work>,
    active: oneshot::Sender<Result<(), Refusal>>,
}

/// What a session begins with.
pub(super) struct Beginning {
    pub(super) session: Opened,
    /// `None` where there is no process.
    pub(super) target: Option<Process>,
    pub(super) plan: Plan,
    pub(super) material: Material,
    pub(super) work: Option<Work>,
}

pub(super) struct Life {
    sessions: Sessions,
    session: Opened,
    ledger: Ledger,
    /// `None` when the target had ended before it could be pinned.
    target: Option<Process>,
    commands: mpsc::Receiver<Command>,
    info: watch::Sender<SessionInfo>,
    opening: Option<Opening>,
    deadline: Deadline,
    /// Set from the start for a session that is only there to be ended.
    ending: Option<(CloseReason, String)>,
    /// Whoever holds it is away, and has until then to come back.
    away_until: Option<Instant>,
}

/// The document of a session as its first ledger record describes it.
pub(super) fn info(session: &Opened) -> SessionInfo {
    let host = session.endpoint_host.as_deref().unwrap_or("127.0.0.1");
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let endpoint = session.port.map(|port| format!("{host}:{port}")).unwrap_or_default();
    SessionInfo {
        id: session.id.clone(),
        unit: session.unit.clone(),
        target: session.target.clone(),
        state: State::Preparing,
        mode: session.mode,
        pid: session.pid,
        endpoint,
        opened_at: session.opened_at.clone(),
        expires_at: None,
        opened_by: session.user.clone(),
        opened_by_uid: session.uid,
        reason: session.reason.clone(),
        sources: session.sources.clone(),
        debugger: session.debugger.clone(),
        go_version: session.go_version.clone(),
        freeze_forecast_ms: session.freeze_forecast_ms,
        freeze_ms: None,
        pause: session.pause,
        transcript: None,
        rule: session.rule.clone(),
        ttl: Ttl::try_from(Duration::from_secs(session.ttl_seconds)).ok(),
        login: session.login.clone(),
        approvals: session.approvals.clone(),
        waits_for: None,
        exec: session.exec,
        dump: session.dump.clone(),
        break_glass: session.break_glass,
        close_reason: None,
        close_detail: None,
        stuck: Vec::new(),
        proof: Vec::new(),
        ticket: None,
    }
}

type Begun = (Life, watch::Receiver<SessionInfo>, oneshot::Receiver<Result<(), Refusal>>);

impl Life {
    /// Makes the ledger of a new session and records that it is allowed. Nothing else is changed
    /// before it runs.
    pub(super) fn begin(
        sessions: &Sessions,
        prepared: Prepared,
        session: Opened,
        config: &Config,
        certificates: &SessionCertificates,
        symbols: Option<File>,
    ) -> Result<Begun, Refusal> {
        // Until dlv has answered the end is far enough away for it to attach.
        let deadline = Deadline::after(
            clock::now(),
            units::ATTACH_TIMEOUT + Duration::from_secs(session.ttl_seconds),
        );
        let material = material(&prepared, &session, (config, deadline), certificates, symbols);
        let beginning = Beginning {
            work: prepared.freeze.map(|freeze| freeze.work),
            target: Some(prepared.target.process),
            plan: prepared.plan,
            session,
            material,
        };
        Self::begin_with(sessions, beginning)
    }

    /// The same for whatever kind of session.
    pub(super) fn begin_with(sessions: &Sessions, beginning: Beginning) -> Result<Begun, Refusal> {
        let group = sessions.shared().group;
        let Beginning { session, target, plan, material, work } = beginning;
        let record = Record::Opened { version: VERSION, session: Box::new(session.clone()) };
        let records = engine::first_records(record, &plan);
        let ledger = Ledger::create(&SessionPaths::of(&session.id), &records, group).map_err(|error| {
            Refusal::host(
                format!("the session's ledger cannot be made: {error}"),
                "see that /run/godebug is there and has room; without a ledger nothing is opened",
            )
        })?;
        // After the ledger, so that there is no record of a beginning that nothing would end.
        if let Err(refusal) = record_opening(&session) {
            let _ = ledger.without_lock().remove();
            return Err(refusal);
        }
        let deadline = material.deadline;
        let (active, activated) = oneshot::channel();
        let opening = Opening { plan, material, work, active };
        let (life, info) = Self::new(sessions, session, ledger, target, deadline, Some(opening));
        Ok((life, info, activated))
    }

    /// Takes over a session that an earlier godebugd has left, if there is anything to take over.
    pub(super) async fn adopt(
        sessions: &Sessions,
        id: &SessionId,
    ) -> Result<Option<Self>, LedgerFileError> {
        let Some(ledger) = Ledger::open(id)? else { return Ok(None) };
        let locked = ledger.lock(LOCK_PATIENCE).await?;
        let Some(replay) = locked.replay()? else {
            locked.remove()?;
            return Ok(None);
        };
        drop(locked);
        let session = replay.opened;
        let target =
            Process::pin(session.pid).ok().filter(|p| p.start_ticks == session.start_ticks);
        let deadline = replay.deadline.unwrap_or(Deadline { wall_ms: 0, boot_ms: 0 });
        let ending = match (&replay.active, replay.closing) {
            (_, Some(closing)) => Some(closing),
            (None, None) => {
                Some((CloseReason::Failed, "godebugd ended while it was opening".to_owned()))
            }
            (Some(_), None) => None,
        };
        let message = match &ending {
            None => {
                format!("session {id} on {} is taken over from an earlier godebugd", session.unit)
            }
            Some((_, why)) => format!("session {id} on {} is ended: {why}", session.unit),
        };
        let entry =
            Entry::new(Kind::Recovered, session.unit.as_str(), session.uid, &session.user, message);
        // The log may have been rotated since it was opened: who, when and why stand here again.
        let details = serde_json::to_value(info(&session)).unwrap_or_default();
        if let Err(error) = audit::record(&entry.session(id).details(details)) {
            tracing::error!("the recovery of session {id} is not in the audit log: {error}");
        }
        let (mut life, _) = Self::new(sessions, session, ledger, target, deadline, None);
        life.info.send_modify(|info| info.freeze_ms = replay.freeze_ms);
        if ending.is_none() {
            life.info.send_modify(|info| {
                info.state = State::Active;
                info.expires_at = Some(clock::rfc3339(deadline.wall_ms));
            });
        }
        life.ending = ending;
        Ok(Some(life))
    }

    fn new(
        sessions: &Sessions,
        session: Opened,
        ledger: Ledger,
        target: Option<Process>,
        deadline: Deadline,
        opening: Option<Opening>,
    ) -> (Self, watch::Receiver<SessionInfo>) {
        let (info, seen) = watch::channel(info(&session));
        let (send, commands) = mpsc::channel(8);
        let handle = Handle { commands: send, info: seen.clone() };
        sessions.insert(&session.id, handle);
        let life = Self {
            sessions: sessions.clone(),
            session,
            ledger,
            target,
            commands,
            info,
            opening,
            deadline,
            ending: None,
            away_until: None,
        };
        (life, seen)
    }

    /// The whole life, from the first grant to the last proof.
    pub(super) async fn run(mut self) {
        let (reason, detail) = match self.ending.take() {
            Some(ending) => ending,
            None => self.live().await,
        };
        self.end(reason, detail).await;
    }

    /// Opens, if it is to be opened, and stays until there is a reason to end.
    async fn live(&mut self) -> (CloseReason, String) {
        let mut watched =
            match Watched::new(&self.sessions, &self.session, self.target.as_ref()).await {
                Ok(watched) => watched,
                Err(error) => return (CloseReason::Failed, error),
            };
        if self.opening.is_none()
            && let Some(unit) = self.missing_unit(&watched.units).await
            && let Some(ending) = self.judge(Seen::UnitGone(unit)).await
        {
            return ending;
        }
        if let Some(opening) = self.opening.take() {
            let active = opening.active;
            let debugger = opening.material.session.as_ref().map(|session| &session.debugger);
            let stands_at_most = debugger.and_then(|debugger| debugger.stands_at_most);
            match self.open(opening.plan, opening.material, &mut watched).await {
                Ok(freeze) => {
                    self.remember(freeze, opening.work);
                    let _ = active.send(Ok(()));
                }
                Err((reason, refusal)) => {
                    // One that ended early for another reason says nothing about the next ones.
                    let stood = self.info.borrow().freeze_ms.map(Duration::from_millis);
                    self.remember(stood.filter(|_| stood >= stands_at_most), opening.work);
                    let detail = refusal.message.clone();
                    self.end_of_opening(reason, &detail, refusal, active).await;
                    return (reason, detail);
                }
            }
            // What takes images may be done before the session is active; that it was gone then was
            // not heard.
            if !self.session.has_gateway()
                && let Some(unit) = self.missing_unit(&watched.units).await
                && let Some(ending) = self.judge(Seen::UnitGone(unit)).await
            {
                return ending;
            }
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(clock::next_look(&self.deadline)) => {
                    if self.deadline.has_passed(clock::now()) {
                        return (CloseReason::Expired, String::new());
                    }
                }
                command = self.commands.recv() => match command {
                    Some(Command::Extend { ttl, by, answer }) => {
                        let extended = self.extend(ttl, &by).await;
                        let _ = answer.send(extended);
                    }
                    Some(Command::Share { guest, by, answer }) => {
                        let _ = answer.send(self.share(guest, &by).await);
                    }
                    Some(Command::Withdraw { name, by, answer }) => {
                        let _ = answer.send(self.withdraw(name, &by).await);
                    }
                    Some(Command::Hold { by, answer }) => {
                        let _ = answer.send(self.hold_again(by, &mut watched).await);
                    }
                    Some(Command::Stop { detail }) => {
                        let stopped = (CloseReason::Stopped, detail);
                        return self.images_ended_before().await.unwrap_or(stopped);
                    }
                    None => return (CloseReason::Stopped, "godebugd is ending".to_owned()),
                },
                () = sleep_until(self.away_until) => {
                    let away = humantime::format_duration(self.session.absence.duration());
                    let detail = format!("the godebugctl that held the session was away for {away}");
                    return (CloseReason::ClientGone, detail);
                }
                reason = watched.next() => {
                    if matches!(reason, Seen::HolderGone) && !self.session.absence.is_none() {
                        self.wait_for_the_holder();
                    } else if let Some(ending) = self.judge(reason).await {
                        return ending;
                    }
                }
            }
        }
    }

    /// A network that blinks ends nothing: the clients are let go of by the gateway, and whoever holds the
    /// session may come back.
    fn wait_for_the_holder(&mut self) {
        let absence = self.session.absence.duration();
        tracing::warn!(
            "whoever holds session {} is away; it ends unless they are back within {}",
            self.session.id,
            humantime::format_duration(absence)
        );
        self.away_until = Some(Instant::now() + absence);
    }

    /// In the ledger first: a later godebugd must not wait for a name that never comes back.
    async fn hold_again(
        &mut self,
        by: String,
        watched: &mut Watched,
    ) -> Result<SessionInfo, Refusal> {
        if self.session.held_by.is_none() {
            return Err(Refusal::usage(
                format!("session {} is held by nobody: it was detached", self.session.id),
                "it ends at its time, or by `godebugctl stop`",
            ));
        }
        let failed = |why: String| Refusal::host(format!("it cannot be held again: {why}"), "");
        let locked = self.ledger.lock(LOCK_PATIENCE).await;
        let written = locked.and_then(|locked| locked.append(&Record::Held { by: by.clone() }));
        written.map_err(|error| failed(error.to_string()))?;
        self.session.held_by = Some(by);
        watched.hold(&self.sessions, &self.session).await.map_err(failed)?;
        self.away_until = None;
        tracing::info!("session {} is held again by {}", self.session.id, self.session.user);
        Ok(self.info.borrow().clone())
    }

    /// What something that was seen means for the session; `None` when it goes on.
    async fn judge(&self, seen: Seen) -> Option<(CloseReason, String)> {
        let target_has_ended =
            self.session.dump.is_none() && !self.target.as_ref().is_some_and(Process::is_alive);
        match seen {
            // Whoever is done may leave before the unit is gone.
            Seen::HolderGone | Seen::UnitGone(_) if self.images_ended().is_some() => {
                self.images_ended()
            }
            // systemd drops and makes every unit anew, with a signal for each, when it reloads.
            Seen::UnitGone(unit) if self.is_there(&unit).await => None,
            // At its end the gateway may be quicker than our own clock.
            Seen::UnitGone(_) if self.deadline.remaining(clock::now()) < Duration::from_secs(1) => {
                Some((CloseReason::Expired, String::new()))
            }
            Seen::TargetExited => Some((CloseReason::TargetExited, String::new())),
            // dlv's unit is bound to the target's and goes with it.
            Seen::UnitGone(_) if target_has_ended => {
                Some((CloseReason::TargetExited, String::new()))
            }
            // It has ended without a word of how.
            Seen::UnitGone(unit) if !self.session.has_gateway() => {
                Some((CloseReason::Failed, format!("{unit} has ended")))
            }
            // The gateway's unit is bound to dlv's, and may be seen to go first.
            Seen::UnitGone(unit) => {
                if self.is_there(&self.session.tracer_unit()).await {
                    Some((CloseReason::Failed, format!("{unit} has ended")))
                } else if self.target_is_stopping().await {
                    // systemd stops dlv, and with it the gateway, before the target, whose end is
                    // what is seen next. A stop that is taken back leaves dlv's unit to be seen gone.
                    None
                } else {
                    let what = if self.session.takes_images() { "godebug-image" } else { "dlv" };
                    Some((CloseReason::DebuggerExited, format!("{what} has ended")))
                }
            }
            Seen::HolderGone => Some((
                CloseReason::ClientGone,
                "the godebugctl that held the session is gone".to_owned(),
            )),
            Seen::LauncherGone => None,
            Seen::Firewall(change) => {
                match change {
                    FirewallChange::RulesLost => self.open_firewall_again().await,
                    FirewallChange::RulesKept => self.forget_kept_rules().await,
                    FirewallChange::RulesetChanged => self.mend_fence().await,
                }
                None
            }
        }
    }

    /// How the unit that takes images has ended, if this session has one and it has.
    fn images_ended(&self) -> Option<(CloseReason, String)> {
        if self.session.has_gateway() {
            return None;
        }
        let result = std::fs::read_to_string(SessionPaths::of(&self.session.id).result()).ok()?;
        Some(match result.as_str() {
            "success 0" => (CloseReason::Finished, String::new()),
            // Its own word for a client that does not read any more.
            "exit-code 3" => (CloseReason::ClientGone, "nobody reads the answer".to_owned()),
            result if result.starts_with("timeout") => (CloseReason::Expired, String::new()),
            _ if !self.target.as_ref().is_some_and(Process::is_alive) => {
                (CloseReason::TargetExited, String::new())
            }
            result => (CloseReason::Failed, format!("godebug-image has ended: {result}")),
        })
    }

    /// The same for a session that is stopped, since its client goes, and says so, as soon as the answer
    /// breaks off: a unit that is ending by itself is waited for. `None` when it was at work.
    async fn images_ended_before(&self) -> Option<(CloseReason, String)> {
        if self.session.has_gateway() {
            return None;
        }
        let unit = self.session.tracer_unit();
        for _ in 0..UNIT_END_LOOKS {
            match self.sessions.shared().host.unit_state(&unit).await {
                Ok(Some(state)) if matches!(state.as_str(), "active" | "activating") => {
                    return self.images_ended();
                }
                Ok(Some(state)) if state == "deactivating" => {}
                Ok(_) => break,
                Err(error) => tracing::debug!(%error, unit, "how it has ended"),
            }
            tokio::time::sleep(UNIT_END_LOOK).await;
        }
        // A kill of the whole unit takes what would have written its result, too.
        let killed = || (CloseReason::Failed, "godebug-image was killed".to_owned());
        Some(self.images_ended().unwrap_or_else(killed))
    }

    async fn target_is_stopping(&self) -> bool {
        if self.session.dump.is_some() {
            return false;
        }
        let host = &self.sessions.shared().host;
        let Ok(systemd) = host.systemd() else { return false };
        systemd.is_stopping(self.session.unit.as_str()).await.unwrap_or(false)
    }

    /// A unit of a session that was taken over, which has gone while nobody watched.
    async fn missing_unit(&self, units: &[String]) -> Option<String> {
        for unit in units {
            if !self.is_there(unit).await {
                return Some(unit.clone());
            }
        }
        None
    }

    async fn is_there(&self, unit: &str) -> bool {
        let host = &self.sessions.shared().host;
        // systemd answers nobody while it re-executes itself, which is no reason to end anything.
        for _ in 0..50 {
            match host.unit_state(unit).await {
                Ok(state) => return state.is_some_and(|state| state == "active"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        true
    }

    /// Takes the plan, unless something ends the session before it is active. Gives the time for
    /// which that froze the target, if it could be measured.
    async fn open(
        &mut self,
        plan: Plan,
        material: Material,
        watched: &mut Watched,
    ) -> Result<Option<Duration>, (CloseReason, Refusal)> {
        let failed = |refusal| (CloseReason::Failed, refusal);
        let host = self.sessions.shared().host.clone();
        let locked = self.ledger.lock(LOCK_PATIENCE).await.map_err(|error| {
            failed(Refusal::host(
                format!("the session's ledger cannot be locked: {error}"),
                "try again",
            ))
        })?;
        engine::append(&locked, &Record::Deadline { deadline: self.deadline }).map_err(failed)?;
        // Before anybody has touched the target.
        if self.session.dump.is_none() {
            Baseline::take(&self.session.id, self.session.pid).map_err(|why| {
                let pid = self.session.pid;
                failed(Refusal::target(
                    format!("the text of process {pid} cannot be vouched for: {why}"),
                    "is something else patching it (a profiler, uprobes)? end that first",
                ))
            })?;
        }
        let freeze = freeze::watch(self.target.as_ref(), units::ATTACH_TIMEOUT);
        let mut opening = Box::pin(engine::open(&host, &locked, &plan, &material));
        loop {
            tokio::select! {
                opened = &mut opening => match opened {
                    Ok(opened) => break opened,
                    Err(refusal) => {
                        self.froze_for_nothing(&locked, freeze.measured().await);
                        return Err(failed(refusal));
                    }
                },
                command = self.commands.recv() => match command {
                    Some(Command::Extend { answer, .. }) => {
                        let _ = answer.send(Err(Refusal::refused("the session is not active yet", "wait for it")));
                    }
                    Some(Command::Share { answer, .. }) => {
                        let _ = answer.send(Err(Refusal::refused("the session is not active yet", "wait for it")));
                    }
                    Some(Command::Withdraw { answer, .. }) => {
                        let _ = answer.send(Err(Refusal::refused("the session is not active yet", "wait for it")));
                    }
                    Some(Command::Hold { answer, .. }) => {
                        let _ = answer.send(Err(Refusal::refused("the session is not active yet", "wait for it")));
                    }
                    _ => return Err((
                        CloseReason::Stopped,
                        Refusal::new(godebug_api::Code::Ended, "the session was stopped before it was active", ""),
                    )),
                },
                seen = watched.next() => match seen {
                    Seen::HolderGone => return Err((
                        CloseReason::ClientGone,
                        Refusal::new(godebug_api::Code::Ended, "whoever asked is gone", ""),
                    )),
                    Seen::TargetExited => return Err((
                        CloseReason::TargetExited,
                        Refusal::target("the target ended while the session was being opened", "see its log, then try again"),
                    )),
                    // It goes when dlv has the target. One that was killed has let it run, or left it
                    // standing; dlv would wait a minute for it to come to its start.
                    Seen::LauncherGone if self.target.as_ref().is_some_and(launch::is_untraced) => {
                        return Err(failed(host::let_go_before_dlv()));
                    }
                    // A unit that fails to start is reported by its own job, with a better word.
                    Seen::UnitGone(_) | Seen::LauncherGone | Seen::Firewall(_) => {}
                },
            }
        }
        drop(opening);
        drop(locked);
        self.activate(freeze).await.map_err(failed)
    }

    /// An attaching that failed has stopped the target all the same.
    fn froze_for_nothing(&self, locked: &Locked<'_>, freeze: Option<Duration>) {
        // What stopped it for an image is no attaching.
        let freeze = freeze.filter(|_| !self.session.takes_images());
        let Some(freeze_ms) = freeze.map(milliseconds) else { return };
        self.info.send_modify(|info| info.freeze_ms = Some(freeze_ms));
        // It ends as it is to; only its record is not whole.
        if let Err(refusal) = engine::append(locked, &Record::Froze { freeze_ms }) {
            tracing::error!("the freeze of session {} is not recorded: {refusal}", self.session.id);
        }
    }

    /// What this freeze tells about the next ones.
    fn remember(&self, freeze: Option<Duration>, work: Option<Work>) {
        if let (Some(freeze), Some(work)) = (freeze, work) {
            freeze::remember(Measured { work, freeze_ms: milliseconds(freeze) });
        }
    }

    /// dlv has answered: the time to live begins.
    async fn activate(&mut self, freeze: freeze::Watch) -> Result<Option<Duration>, Refusal> {
        if self.session.has_gateway() {
            let ttl = Duration::from_secs(self.session.ttl_seconds);
            self.move_end(Deadline::after(clock::now(), ttl)).await?;
        } else {
            let expires_at = clock::rfc3339(self.deadline.wall_ms);
            self.info.send_modify(|info| info.expires_at = Some(expires_at));
        }
        let locked = self.ledger.lock(LOCK_PATIENCE).await.map_err(|error| {
            Refusal::host(format!("the session's ledger cannot be locked: {error}"), "try again")
        })?;
        // What an image takes is measured where it is taken, each time, and told to whoever asked.
        let freeze = if self.session.takes_images() { None } else { freeze.measured().await };
        let freeze_ms = freeze.map(milliseconds);
        self.info.send_modify(|info| info.freeze_ms = freeze_ms);
        let endpoint = self.info.borrow().endpoint.clone();
        engine::append(&locked, &Record::Active { endpoint: endpoint.clone(), freeze_ms })?;
        drop(locked);
        let at = if endpoint.is_empty() { String::new() } else { format!(", at {endpoint}") };
        let message = format!(
            "session {} on {} is active for {} until {}{at}",
            self.session.id,
            self.session.unit,
            self.session.user,
            clock::rfc3339(self.deadline.wall_ms)
        );
        self.record(Kind::Active, message)?;
        self.moved(Event::Ready, |_| {});
        Ok(freeze)
    }

    /// Makes `deadline` the end everywhere: dead man, gateway, fence. Firewalld's own timeout, where
    /// it has one, follows.
    async fn move_end(&mut self, deadline: Deadline) -> Result<(), Refusal> {
        let locked = self.ledger.lock(LOCK_PATIENCE).await.map_err(|error| {
            Refusal::host(format!("the session's ledger cannot be locked: {error}"), "try again")
        })?;
        let host = &self.sessions.shared().host;
        let material = Material { deadline, session: None, image: None };
        let control = SessionPaths::of(&self.session.id).control_socket();
        let request = Request::SetDeadline { deadline };
        let (dead_man, gateway, fence) = tokio::join!(
            engine::move_deadline(host, &locked, &self.session.id, deadline, &material),
            gateway::ask(&control, &request, GATEWAY_PATIENCE),
            self.raise_fence(deadline),
        );
        dead_man?;
        gateway.map_err(|error| {
            Refusal::failed(
                format!("the gateway does not take a new end: {error}"),
                "open a new session",
            )
        })?;
        fence?;
        drop(locked);
        self.deadline = deadline;
        self.info.send_modify(|info| info.expires_at = Some(clock::rfc3339(deadline.wall_ms)));
        Ok(())
    }

    async fn raise_fence(&self, deadline: Deadline) -> Result<(), Refusal> {
        if self.session.sources.iter().all(godebug_api::Cidr::is_loopback) {
            return Ok(());
        }
        let Some(port) = self.session.port else { return Ok(()) };
        let table = godebug_core::grant::fence_table(&self.session.id);
        let ends_in = deadline.remaining(clock::now());
        nftables::raise(&table, port, &self.session.sources, ends_in)
            .await
            .map_err(|error| Refusal::host(format!("the fence cannot be moved: {error}"), ""))
    }

    async fn extend(&mut self, ttl: Ttl, by: &Actor) -> Result<SessionInfo, Refusal> {
        let config = Config::load()?;
        if !self.session.has_gateway() {
            return Err(Refusal::usage("a session that takes images ends when it is done", ""));
        }
        if ttl.get() > config.max_ttl {
            let longest = humantime::format_duration(config.max_ttl);
            return Err(Refusal::refused(
                format!("{ttl} is longer than this host allows ({longest})"),
                "ask for less",
            ));
        }
        let now = clock::now();
        let deadline = Deadline::after(now, ttl.get());
        let latest = self.session.at_most_until;
        if deadline.wall_ms > latest.wall_ms || deadline.boot_ms > latest.boot_ms {
            return Err(Refusal::refused(
                format!("a session may last until {} at most", clock::rfc3339(latest.wall_ms)),
                "extend by less, or open a new session",
            ));
        }
        self.move_end(deadline).await?;
        self.open_firewall_again().await;
        let expires_at = clock::rfc3339(deadline.wall_ms);
        let message = format!(
            "session {} on {} now ends at {expires_at}, extended by {}",
            self.session.id, self.session.unit, by.user
        );
        self.record_of(Kind::Extended, by, message)?;
        let news = News::Extended { id: self.session.id.clone(), expires_at };
        let _ = self.sessions.shared().news.send(news);
        Ok(self.info.borrow().clone())
    }

    /// Lets somebody in, by a certificate of their own that the gateway is told of. Recorded first.
    async fn share(&self, guest: ShareRequest, by: &Actor) -> Result<OpenedDocument, Refusal> {
        let id = &self.session.id;
        let Some(port) = self.session.port else {
            return Err(Refusal::usage("a session that takes images has no clients", ""));
        };
        let ShareRequest { name, observe: observes, csr, endpoint_host } = guest;
        let left = self.session.at_most_until.remaining(clock::now());
        let called = format!("{name} (guest of {})", by.user);
        let certificates = certificates::issue_for_guest(id, &csr, &called, left)?;
        let may = if observes { "may only watch" } else { "may do what the session may" };
        let message =
            format!("session {id} on {}: {} lets {name} in, who {may}", self.session.unit, by.user);
        self.record_of(Kind::Shared, by, message)?;
        let certificate = certificates.client.clone();
        let request = Request::Admit { ca: certificates.ca, certificate, name, observes };
        let control = SessionPaths::of(id).control_socket();
        let failed = |why: String| {
            Refusal::failed(format!("the gateway does not let anybody in: {why}"), "try again")
        };
        let ca = match gateway::ask(&control, &request, GATEWAY_PATIENCE).await {
            Ok(Reply::Admitted { ca }) => ca,
            Ok(Reply::Refused { why }) => return Err(failed(why)),
            Ok(_) => return Err(failed("it answers something else".to_owned())),
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut session = self.info.borrow().clone();
        if observes {
            session.mode = Mode::Observe;
        }
        let host = endpoint_host.or_else(|| self.session.endpoint_host.clone());
        Ok(OpenedDocument {
            session,
            ca,
            certificate: certificates.client,
            server_name: format!("{id}.godebug"),
            host: host.unwrap_or_else(|| "127.0.0.1".to_owned()),
            port: port.get(),
        })
    }

    /// Shuts out whoever was let in by this name. Recorded afterwards: it takes nothing but what was given.
    async fn withdraw(&self, name: GuestName, by: &Actor) -> Result<SessionInfo, Refusal> {
        let id = &self.session.id;
        let failed = |why: String| {
            Refusal::failed(
                format!("{name} may still come: {why}"),
                format!("`godebugctl stop {id}` ends the session for everybody"),
            )
        };
        let control = SessionPaths::of(id).control_socket();
        let request = Request::Withdraw { name: name.clone() };
        match gateway::ask(&control, &request, GATEWAY_PATIENCE).await {
            Ok(Reply::Done) => {}
            Ok(Reply::Refused { why }) => {
                return Err(Refusal::usage(why, format!("see `godebugctl audit show {id}`")));
            }
            Ok(_) => return Err(failed("the gateway answers something else".to_owned())),
            Err(error) => return Err(failed(error.to_string())),
        }
        let message =
            format!("session {id} on {}: {} shuts {name} out", self.session.unit, by.user);
        if let Err(refusal) = self.record_of(Kind::Withdrawn, by, message) {
            tracing::error!("that {name} was shut out is not recorded: {refusal}");
        }
        Ok(self.info.borrow().clone())
    }

    /// Puts firewalld's rules back with the time that remains, after a reload or an extension.
    async fn open_firewall_again(&self) {
        self.mend_fence().await;
        let Some(ours) = self.rules().await else { return };
        let remaining = self.deadline.remaining(clock::now()) + Duration::from_secs(1);
        let timeout = plan::firewalld_timeout_is_safe(&ours.firewalld.version).then_some(remaining);
        for (zone, rule) in &ours.rules {
            // Taken away first: firewalld keeps the old timeout of a rule that is there already.
            let again = async {
                ours.firewalld.remove(zone, rule).await?;
                ours.firewalld.add(zone, rule, timeout).await
            };
            if let Err(error) = again.await {
                tracing::warn!(
                    "firewalld does not take the rule of session {} again: {error}",
                    self.session.id
                );
            }
        }
    }

    /// `firewall-cmd --runtime-to-permanent` would keep the session's rules over a restart of the
    /// host, which takes the ledger away.
    async fn forget_kept_rules(&self) {
        let Some(ours) = self.rules().await else { return };
        for (zone, rule) in &ours.rules {
            let message = match ours.firewalld.forget_permanent(zone, rule).await {
                Ok(false) => continue,
                Ok(true) => format!(
                    "somebody made a firewalld rule of session {} permanent; it was taken out of the permanent settings",
                    self.session.id
                ),
                Err(error) => format!(
                    "firewalld's permanent settings may hold a rule of session {}: {error}",
                    self.session.id
                ),
            };
            self.record_mended(message);
        }
    }

    /// firewalld and the session's rules in it; the ledger is locked, so that nobody ends the
    /// session meanwhile.
    async fn rules(&self) -> Option<Rules<'_>> {
        let locked = self.ledger.lock(LOCK_PATIENCE).await.ok()?;
        let replay = locked.replay().ok()??;
        let rules: Vec<_> = replay
            .outstanding
            .into_iter()
            .filter_map(|(_, grant)| match grant {
                Grant::FirewalldRule { zone, rule } => Some((zone, rule)),
                _ => None,
            })
            .collect();
        if rules.is_empty() {
            return None;
        }
        let firewalld = self.sessions.shared().host.firewalld().await.ok()??;
        Some(Rules { firewalld, rules, _locked: locked })
    }

    fn record_mended(&self, message: String) {
        if let Err(refusal) = self.record(Kind::Mended, message) {
            tracing::error!("{}", refusal.message);
        }
    }

    /// Puts the fence up again when somebody has removed it, as `nft flush ruleset` does.
    async fn mend_fence(&self) {
        if self.session.sources.iter().all(godebug_api::Cidr::is_loopback) {
            return;
        }
        // Not while, nor after, somebody else ends the session.
        let Ok(locked) = self.ledger.lock(LOCK_PATIENCE).await else { return };
        let Ok(Some(replay)) = locked.replay() else { return };
        if locked.is_gone() || replay.closing.is_some() {
            return;
        }
        let table = godebug_core::grant::fence_table(&self.session.id);
        // Where nft gives no answer, nothing is known, and nothing could be done.
        if nftables::list().await.is_ok_and(|tables| !tables.contains(&table)) {
            self.raise_fence_again().await;
        }
    }

    async fn raise_fence_again(&self) {
        let mended = self.raise_fence(self.deadline).await;
        let message = match &mended {
            Ok(()) => format!(
                "the fence of session {} was removed by somebody, and is up again",
                self.session.id
            ),
            Err(refusal) => format!(
                "the fence of session {} was removed by somebody, and cannot be put up again: {}",
                self.session.id, refusal.message
            ),
        };
        self.record_mended(message);
    }

    /// Ends the session whose opening failed, and answers whoever asked when that is done, so that
    /// a refusal is only told when nothing of it is left.
    async fn end_of_opening(
        &mut self,
        reason: CloseReason,
        detail: &str,
        refusal: Refusal,
        active: oneshot::Sender<Result<(), Refusal>>,
    ) {
        self.moved(Event::End, |_| {});
        let refusal = match self.close(reason, detail).await {
            Some(end) if !end.is_clean() => Refusal::new(
                refusal.code,
                format!(
                    "{} Not everything could be given back: {}",
                    refusal.message,
                    end.stuck.join("; ")
                ),
                format!("see `godebugctl show {}`", self.session.id),
            ),
            _ => refusal,
        };
        let _ = active.send(Err(refusal));
    }

    /// Gives everything back, again and again until it is done.
    async fn end(&mut self, reason: CloseReason, detail: String) {
        let mut pause = Duration::from_secs(1);
        loop {
            if self.info.borrow().state == State::Closed {
                break;
            }
            self.moved(Event::End, |_| {});
            let end = self.close(reason, &detail).await;
            if end.is_none_or(|end| end.is_clean()) {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // Somebody asks for it: now rather than later.
                _ = self.commands.recv() => {}
            }
            pause = (pause * 2).min(Duration::from_secs(60));
        }
        let last = self.info.borrow().clone();
        self.sessions.remove(&self.session.id, last);
    }

    /// One attempt. `None` when the dead man was quicker.
    async fn close(&self, reason: CloseReason, detail: &str) -> Option<End> {
        let host = self.sessions.shared().host.clone();
        let end = match engine::close(&host, &self.ledger, reason, detail).await {
            Ok(Some(end)) => end,
            Ok(None) => {
                // It may have been revoked in the middle of a step of ours, which no ledger knows.
                for failure in super::orphans::sweep_session(&host, &self.session.id).await {
                    tracing::error!("left of session {}: {failure}", self.session.id);
                }
                self.moved(Event::Proved, |info| {
                    info.close_reason = Some(reason);
                    info.close_detail = Some("revoked by the dead man".to_owned());
                });
                return None;
            }
            Err(error) => {
                // What it took is found by name.
                let damaged = matches!(error, LedgerFileError::Content { .. });
                let left = match damaged {
                    true => super::revoke_by_name(&host, &self.session.id).await.err(),
                    false => Some(format!("the ledger: {error}")),
                };
                End {
                    reason,
                    detail: detail.to_owned(),
                    proof: Vec::new(),
                    stuck: left.into_iter().collect(),
                    took: Duration::ZERO,
                    freeze_ms: self.info.borrow().freeze_ms,
                }
            }
        };
        let event = if end.is_clean() { Event::Proved } else { Event::UndoFailed };
        let told = super::info_of(&self.session, &end);
        self.moved(event, |info| {
            let expires_at = info.expires_at.take();
            *info = SessionInfo { state: info.state, expires_at, ..told };
        });
        Some(end)
    }

    /// Moves the state and tells everybody.
    fn moved(&self, event: Event, change: impl FnOnce(&mut SessionInfo)) {
        let old = self.info.borrow().state;
        let new = match next(old, event) {
            Ok(new) => new,
            Err(illegal) => {
                tracing::error!("session {}: {illegal}", self.session.id);
                return;
            }
        };
        self.info.send_modify(|info| {
            info.state = new;
            change(info);
        });
        if old != new {
            let reason = self.info.borrow().close_reason;
            let news = News::Moved { id: self.session.id.clone(), old, new, reason };
            let _ = self.sessions.shared().news.send(news);
        }
    }

    fn record(&self, kind: Kind, message: String) -> Result<(), Refusal> {
        let opener = Actor { uid: self.session.uid, user: self.session.user.clone() };
        self.record_of(kind, &opener, message)
    }

    fn record_of(&self, kind: Kind, by: &Actor, message: String) -> Result<(), Refusal> {
        let entry = Entry::new(kind, self.session.unit.as_str(), by.uid, &by.user, message)
            .session(&self.session.id)
            .details(serde_json::to_value(&*self.info.borrow()).unwrap_or_default());
        audit::record(&entry).map_err(|error| {
            Refusal::host(
                format!("the audit log cannot be written: {error}"),
                "make room in /var/log/godebug",
            )
        })
    }
}

/// Rounded up: a freeze that was seen took some time.
fn milliseconds(freeze: Duration) -> u64 {
    u64::try_from(freeze.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}

fn record_opening(session: &Opened) -> Result<(), Refusal> {
    let Opened { id, unit, user, .. } = session;
    let approved = match session.approvals.as_slice() {
        [] => String::new(),
        all => {
            let names: Vec<&str> = all.iter().map(|approval| approval.user.as_str()).collect();
            format!(", approved by {}", names.join(", "))
        }
    };
    if session.break_glass {
        let reason = session.reason.as_ref().map(ToString::to_string).unwrap_or_default();
        let message =
            format!("{user} breaks the glass on {unit}, without the approval it needs: {reason}");
        record_before_grant(Kind::BreakGlass, session, message)?;
    }
    let message = format!("session {id} on {unit} is allowed for {user}{approved}");
    record_before_grant(Kind::Opening, session, message)
}

/// Who has to hear of the target while it stands, if anybody.
fn spoken_for_to(session: &Opened) -> Option<units::Manager> {
    let has_demands = session.watchdog_usec.is_some() || session.target_is_starting;
    let manager = session.users_manager().map_or(units::Manager::System, units::Manager::OfUser);
    has_demands.then_some(manager)
}

fn record_before_grant(kind: Kind, session: &Opened, message: String) -> Result<(), Refusal> {
    let entry = Entry::new(kind, session.unit.as_str(), session.uid, &session.user, message)
        .session(&session.id)
        .login(&session.login)
        .details(serde_json::to_value(session).unwrap_or_default());
    audit::record(&entry).map_err(|error| {
        Refusal::host(
            format!("the audit log cannot be written, so nothing is opened: {error}"),
            "make room in /var/log/godebug, then try again",
        )
    })
}

fn material(
    prepared: &Prepared,
    session: &Opened,
    (config, deadline): (&Config, Deadline),
    certificates: &SessionCertificates,
    symbols: Option<File>,
) -> Material {
    let paths = SessionPaths::of(&session.id);
    let program = prepared.target.process.exe_link().map(|(path, _)| path).unwrap_or_default();
    let (of_images, symbols) = match prepared.observes {
        Some(_) => (symbols, None),
        None => (None, symbols),
    };
    Material {
        deadline,
        image: prepared.observes.map(|observes| ImageMaterial {
            id: session.id.clone(),
            target: session.unit.clone(),
            user: prepared.target.user.clone(),
            at_most: session.at_most_until.remaining(clock::now()),
            target_is_starting: prepared.target.starting,
            confinement: prepared.facts.confinement,
            config: ImageConfig {
                unit: session.unit.clone(),
                pid: session.pid,
                start_ticks: session.start_ticks,
                debugger: session.debugger.clone(),
                symbols: of_images.as_ref().map(|_| paths.symbols()),
                copying: observes.copying,
                guarded: true,
                work: ImageWork::Serve {
                    socket: paths.debugger_socket(),
                    max_pause: observes.max_pause,
                },
                // The gateway's.
                redact: RedactRules::default(),
                record: None,
            },
            output: None,
            socket: None,
            symbols: of_images,
        }),
        session: Some(SessionMaterial {
            opened: session.clone(),
            debugger: units::DebuggerUnit {
                id: session.id.clone(),
                target: session.unit.clone(),
                pid: session.pid,
                user: prepared.target.user.clone(),
                debugger: session.debugger.clone(),
                exec: session.exec,
                stands_at_most: prepared.stands_at_most,
                target_is_starting: prepared.target.starting,
                is_spoken_for_to: spoken_for_to(session),
                at_most: session.at_most_until.remaining(clock::now()),
                confinement: prepared.facts.confinement,
            },
            gateway: gateway_config(
                (session, &prepared.target.executable),
                (prepared.wanted.port, prepared.pause),
                (config, deadline),
                certificates,
            ),
            symbols: symbols.map(|file| (file, program)),
            target_status: prepared.target.process.status_file(),
            dump: None,
            timed_rules: prepare::timed_rules(&prepared.facts.firewall),
        }),
    }
}

/// What a session's gateway is told.
pub(super) fn gateway_config(
    (session, executable): (&Opened, &GoExecutable),
    (port, pause): (Port, PauseBudget),
    (config, deadline): (&Config, Deadline),
    certificates: &SessionCertificates,
) -> GatewayConfig {
    let paths = SessionPaths::of(&session.id);
    let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
    GatewayConfig {
        id: session.id.clone(),
        mode: session.mode,
        port,
        sources: session.sources.clone(),
        deadline,
        pause,
        awaits_client: session.exec.is_some_and(|at| at != StartAt::Nowhere),
        of_core: session.dump.is_some(),
        hot: config.hot,
        redact: config.redact.clone(),
        transcript_values: config.transcript_values,
        server_name: certificates.server_name.clone(),
        ca: certificates.ca.clone(),
        certificate: certificates.gateway.clone(),
        key: certificates.gateway_key.clone(),
        debugger_socket: text(paths.debugger_socket()),
        build: executable.build_info(),
        control_socket: text(paths.control_socket()),
        max_connections: MAX_CONNECTIONS,
        max_handshakes: MAX_HANDSHAKES,
        host: kernel_says("hostname"),
        boot: kernel_says("random/boot_id"),
    }
}

/// A name that the kernel gives; empty when it gives none, since it only helps to tell hosts apart.
pub(super) fn kernel_says(what: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{what}")).unwrap_or_default();
    text.trim_end().to_owned()
}

/// A session's rules in firewalld, safe from an end of the session.
struct Rules<'a> {
    firewalld: Firewalld,
    rules: Vec<(String, String)>,
    _locked: Locked<'a>,
}

/// What can happen to a session from outside.
enum Seen {
    TargetExited,
    UnitGone(String),
    LauncherGone,
    HolderGone,
    Firewall(FirewallChange),
}

/// Never, without a moment.
async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// The places where it shows.
struct Watched {
    units: Vec<String>,
    /// Of a session whose target was started for it.
    launcher: Option<String>,
    target: Option<AsyncFd<std::os::fd::OwnedFd>>,
    /// There is no process that could end.
    is_of_dump: bool,
    units_gone: broadcast::Receiver<String>,
    firewall_changes: broadcast::Receiver<FirewallChange>,
    holder: Option<zbus::fdo::NameOwnerChangedStream>,
    holder_is_gone: bool,
}

impl Watched {
    async fn new(
        sessions: &Sessions,
        session: &Opened,
        target: Option<&Process>,
    ) -> Result<Self, String> {
        let shared = sessions.shared();
        let target = match target {
            None => None,
            Some(process) => {
                let fd = process.pidfd().try_clone_to_owned().map_err(|error| error.to_string())?;
                #[expect(deprecated, reason = "an OwnedFd is the file descriptor's only owner")]
                let fd = AsyncFd::new(fd);
                Some(fd.map_err(|error| error.to_string())?)
            }
        };
        let mut watched = Self {
            units: match session.has_gateway() {
                true => {
                    vec![session.tracer_unit(), godebug_core::grant::gateway_unit(&session.id)]
                }
                false => vec![session.tracer_unit()],
            },
            launcher: session.exec.map(|_| godebug_core::grant::launcher_unit(&session.id)),
            target,
            is_of_dump: session.dump.is_some(),
            units_gone: shared.units_gone.subscribe(),
            firewall_changes: shared.firewall_changes.subscribe(),
            holder: None,
            holder_is_gone: false,
        };
        watched.hold(sessions, session).await?;
        Ok(watched)
    }

    /// Watches whoever holds the session by now, if somebody does.
    async fn hold(&mut self, sessions: &Sessions, session: &Opened) -> Result<(), String> {
        let Some(name) = &session.held_by else { return Ok(()) };
        let connection = &sessions.shared().connection;
        let bus = zbus::fdo::DBusProxy::new(connection).await.map_err(|e| e.to_string())?;
        let stream = bus
            .receive_name_owner_changed_with_args(&[(0, name.as_str()), (2, "")])
            .await
            .map_err(|error| error.to_string())?;
        // Watched first, then asked: it may have gone in between.
        let name = zbus::names::BusName::try_from(name.as_str()).map_err(|e| e.to_string())?;
        self.holder_is_gone = !bus.name_has_owner(name).await.unwrap_or(false);
        self.holder = Some(stream);
        Ok(())
    }

    /// The next thing that matters. Safe to drop and call again.
    async fn next(&mut self) -> Seen {
        if std::mem::take(&mut self.holder_is_gone) {
            return Seen::HolderGone;
        }
        let target = &self.target;
        let exited = async {
            // A pidfd becomes readable when its process ends (pidfd_open(2)).
            match target {
                Some(fd) => drop(fd.readable().await),
                None if self.is_of_dump => std::future::pending().await,
                // It had ended before it could be watched.
                None => {}
            }
        };
        let holder = &mut self.holder;
        let gone = async {
            match holder {
                Some(stream) => drop(stream.next().await),
                None => std::future::pending().await,
            }
        };
        let (units, launcher) = (&self.units, &self.launcher);
        let units_gone = &mut self.units_gone;
        let unit = async {
            loop {
                match units_gone.recv().await {
                    Ok(unit) if launcher.as_ref() == Some(&unit) => return Seen::LauncherGone,
                    Ok(unit) if units.contains(&unit) => return Seen::UnitGone(unit),
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            () = exited => Seen::TargetExited,
            () = gone => Seen::HolderGone,
            seen = unit => seen,
            // Of more changes than are remembered, the worst is assumed: all is looked at again.
            change = self.firewall_changes.recv() =>
                Seen::Firewall(change.unwrap_or(FirewallChange::RulesLost)),
        }
    }
}
