//! Requests that wait for the consent of others: kept over restarts of godebugd, given up when their time
//! is over, when whoever made them leaves, takes them back or is refused, and taken up by nobody else.
//!
//! They hold nothing of the host. Each is a file below /run, which a reboot takes as it takes sessions.

use super::{News, Sessions, Symbols, new_id, prepare, unpoisoned};
use crate::audit::{self, Entry, Kind};
use crate::authority::{Authorized, Caller, Unconsented};
use crate::config::Config;
use crate::{kept, paths};
use futures_util::StreamExt;
use godebug_api::documents::{OpenRequest, SessionInfo, WaitsFor};
use godebug_api::image::ImageRequest;
use godebug_api::rules::engine::Approvals;
use godebug_api::{
    Absence, Approval, CloseReason, Deadline, FreezeLimit, Mode, Reason, Refusal, SessionId, State,
    Ttl, UnitName, clock,
};
use godebug_core::ledger::Opened;
use godebug_core::{Event, next};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use tokio::sync::watch;
use zbus::names::{BusName, UniqueName};

/// So many of one person may wait at one time, and so many of all.
const MOST_OF_ONE: usize = 8;
const MOST: usize = 64;
/// What the file of a request is called after its ID.
const SUFFIX: &str = "request";

/// A request, as it is kept in its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    pub request: OpenRequest,
    /// What it is really about, where it is about images: then `request` only has what rules look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ImageRequest>,
    pub info: SessionInfo,
    claim_by: Deadline,
    /// Whose leaving the bus takes it back.
    held_by: Option<String>,
    /// The connection that polkit has let make it. Not kept: names on the bus are given anew when the
    /// bus is.
    #[serde(skip)]
    pub vouched_for: Option<UniqueName<'static>>,
}

/// One that waits.
pub(super) struct Waiting {
    kept: Request,
    info: watch::Sender<SessionInfo>,
}

impl Sessions {
    /// Puts a request to those whose consent it needs, after everything was looked at that could
    /// refuse it.
    ///
    /// # Errors
    /// The refusal; nothing waits then.
    pub async fn ask(
        &self,
        unit: &UnitName,
        allowed: Authorized<Unconsented<OpenRequest>>,
        symbols: Option<File>,
    ) -> Result<SessionInfo, Refusal> {
        let Unconsented { what: request, permit, approvals } = allowed.get();
        let config = Config::load()?.under(permit);
        let caller = allowed.caller();
        let opened = match &request.dump {
            Some(dump) => {
                let dump = (dump.clone(), symbols);
                self.foreseen_on_dump(unit, (&config, request), dump, (caller, permit)).await?
            }
            None => {
                let brought = symbols.as_ref().map_or(Symbols::None, Symbols::InFile);
                let id = (new_id()?, None);
                let prepared = prepare(self, &config, unit, request, brought, id).await?;
                prepared.within_the_freeze_limit(request)?;
                prepared.opened(request, caller, &config, permit, Vec::new())
            }
        };
        let kept = kept_request(&opened, (request, None), (allowed.caller(), approvals));
        self.put(kept, (allowed.caller(), approvals))
    }

    /// The same for images.
    ///
    /// # Errors
    /// The refusal; nothing waits then.
    pub async fn ask_for_images(
        &self,
        unit: &UnitName,
        allowed: Authorized<Unconsented<ImageRequest>>,
        symbols: Option<File>,
    ) -> Result<SessionInfo, Refusal> {
        let Unconsented { what: images, permit, approvals } = allowed.get();
        let opened = self.foreseen(unit, (images, symbols), (allowed.caller(), permit)).await?;
        let request = OpenRequest {
            ttl: Ttl::try_from(images.patience.duration())
                .map_err(|error| Refusal::usage(error.to_string(), "give a longer --timeout"))?,
            mode: Mode::Observe,
            reason: images.reason.clone(),
            from: Vec::new(),
            csr: String::new(),
            pid: images.pid,
            hold: true,
            absence: Absence::default(),
            endpoint_host: None,
            symbols: images.symbols,
            max_freeze: FreezeLimit::default(),
            accept_freeze: false,
            pause: None,
            break_glass: false,
            exec: None,
            dump: None,
            max_pause: images.max_pause,
            part: images.part.clone(),
        };
        let asked = (&request, Some(images.clone()));
        let kept = kept_request(&opened, asked, (allowed.caller(), approvals));
        self.put(kept, (allowed.caller(), approvals))
    }

    fn put(
        &self,
        kept: Request,
        (caller, approvals): (&Caller, &Approvals),
    ) -> Result<SessionInfo, Refusal> {
        self.room_for_one_more(caller.uid)?;
        keep(&kept)?;
        let (info, wanted) = (&kept.info, approvals);
        let message =
            format!("{} asks for a session on {}, which needs {wanted}", info.opened_by, info.unit);
        if let Err(refusal) = record(Kind::Requested, caller, info, message) {
            forget(&info.id);
            return Err(refusal);
        }
        let info = kept.info.clone();
        self.wait(kept);
        Ok(info)
    }

    /// Those that wait, oldest first.
    pub fn pending(&self) -> Vec<Request> {
        let mut all: Vec<Request> =
            unpoisoned(&self.0.pending).values().map(|waiting| waiting.kept.clone()).collect();
        all.sort_by(|a, b| (&a.info.opened_at, &a.info.id).cmp(&(&b.info.opened_at, &b.info.id)));
        all
    }

    /// One that waits.
    ///
    /// # Errors
    /// When it does not wait.
    pub fn request(&self, id: &SessionId) -> Result<Request, Refusal> {
        let pending = unpoisoned(&self.0.pending);
        pending.get(id).map(|waiting| waiting.kept.clone()).ok_or_else(|| {
            Refusal::usage(
                format!("no request {id} waits for anything"),
                format!("`godebugctl list --pending` shows those that do, `godebugctl show {id}` what became of it"),
            )
        })
    }

    pub(super) fn waits(&self, id: &SessionId) -> Result<(), Refusal> {
        self.request(id).map(drop)
    }

    /// Adds a person's consent.
    ///
    /// # Errors
    /// When it does not wait, when it cannot be recorded, or when this person has given it already.
    pub fn approve(&self, id: &Authorized<SessionId>) -> Result<SessionInfo, Refusal> {
        let (id, caller) = (id.get(), id.caller());
        let mut request = self.request(id)?;
        let given = &mut request.info.approvals;
        let by = (caller.uid, &caller.login);
        if given.iter().any(|other| godebug_api::same_person(by, (other.uid, &other.login))) {
            let refusal = Refusal::usage("you have approved it already", "it waits for others");
            return Err(refusal);
        }
        given.push(Approval {
            uid: caller.uid,
            user: caller.user.clone(),
            login: caller.login.clone(),
            at: clock::rfc3339(clock::now().wall_ms),
        });
        let info = request.info.clone();
        let given = u32::try_from(info.approvals.len()).unwrap_or(u32::MAX);
        let wanted = info.waits_for.as_ref().map_or(0, |wanted| wanted.approvals);
        let message = format!(
            "{} approves what {} wants on {}: {given} of {wanted}",
            caller.user, info.opened_by, info.unit
        );
        // No record, no consent.
        record(Kind::Approved, caller, &info, message)?;
        keep(&request)?;
        if let Some(waiting) = unpoisoned(&self.0.pending).get_mut(id) {
            waiting.kept = request;
            waiting.info.send_replace(info.clone());
        }
        let _ = self.0.news.send(News::Approved { id: id.clone(), given, wanted });
        Ok(info)
    }

    /// Ends the waiting with a no.
    ///
    /// # Errors
    /// When it does not wait.
    pub fn deny(&self, id: &Authorized<SessionId>, why: &Reason) -> Result<SessionInfo, Refusal> {
        let (id, caller) = (id.get(), id.caller());
        self.waits(id)?;
        let message = format!("{} refuses it: {why}", caller.user);
        let end = (CloseReason::Denied, format!("by {}: {why}", caller.user));
        let ended = self.end_waiting(id, end, |info| record(Kind::Denied, caller, info, message));
        ended.ok_or_else(|| Refusal::usage(format!("no request {id} waits any more"), ""))
    }

    /// Ends the waiting of a request that is not wanted any more; `None` when it does not wait.
    pub(super) fn take_back(&self, id: &SessionId, detail: &str) -> Option<SessionInfo> {
        self.drop_request(id, CloseReason::Stopped, detail)
    }

    /// It is a session now.
    pub(super) fn taken_up(&self, id: &SessionId) {
        if unpoisoned(&self.0.pending).remove(id).is_some() {
            forget(id);
            let (old, new) = (State::PendingApproval, State::Preparing);
            let _ = self.0.news.send(News::Moved { id: id.clone(), old, new, reason: None });
        }
    }

    /// Takes over the requests that an earlier godebugd has left. One that has become a session is
    /// none any more.
    pub(super) fn recover_requests(&self, sessions: &HashSet<SessionId>) {
        for (path, request) in kept_requests() {
            match request {
                Some(request) if !sessions.contains(&request.info.id) => self.wait(request),
                Some(_) => forget_at(&path),
                None => {
                    tracing::error!("{} is no request and is dropped", path.display());
                    forget_at(&path);
                }
            }
        }
    }

    fn room_for_one_more(&self, uid: u32) -> Result<(), Refusal> {
        let pending = self.pending();
        let own = pending.iter().filter(|request| request.info.opened_by_uid == uid).count();
        if own < MOST_OF_ONE && pending.len() < MOST {
            return Ok(());
        }
        Err(Refusal::refused(
            format!("too many requests wait already: {own} of yours, {} in all", pending.len()),
            "take one back: godebugctl list --pending, then godebugctl stop ID",
        ))
    }

    fn wait(&self, kept: Request) {
        let (id, until, held_by) = (kept.info.id.clone(), kept.claim_by, kept.held_by.clone());
        let (info, seen) = watch::channel(kept.info.clone());
        unpoisoned(&self.0.pending).insert(id.clone(), Waiting { kept, info });
        let _ = self.0.news.send(News::Added { id: id.clone(), info: seen.clone() });
        let sessions = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = no_more(seen) => {}
                () = passed(until) => {
                    let detail = "nobody took it up in time";
                    sessions.drop_request(&id, CloseReason::Expired, detail);
                }
                () = sessions.leaves(held_by) => {
                    let detail = "whoever asked did not wait for it";
                    sessions.drop_request(&id, CloseReason::ClientGone, detail);
                }
            }
        });
    }

    /// Returns when the holder is gone from the bus; never, without one.
    async fn leaves(&self, holder: Option<String>) {
        let gone = async {
            let name = BusName::try_from(holder?).ok()?;
            let bus = zbus::fdo::DBusProxy::new(&self.0.connection).await.ok()?;
            let left = [(0, name.as_str()), (2, "")];
            let mut gone = bus.receive_name_owner_changed_with_args(&left).await.ok()?;
            // Watched first, then asked: it may have gone in between.
            if bus.name_has_owner(name.clone()).await.unwrap_or(false) {
                gone.next().await;
            }
            Some(())
        };
        if gone.await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    fn drop_request(
        &self,
        id: &SessionId,
        reason: CloseReason,
        detail: &str,
    ) -> Option<SessionInfo> {
        let end = (reason, detail.to_owned());
        self.end_waiting(id, end, |info| {
            let message = format!("the request of {} on {} is over", info.opened_by, info.unit);
            let entry = Entry::new(
                Kind::Dropped,
                info.unit.as_str(),
                info.opened_by_uid,
                &info.opened_by,
                format!("{message}: {reason} ({detail})"),
            );
            written(entry.session(id).details(serde_json::to_value(info).unwrap_or_default()))
        })
    }

    /// Its end cannot be held up by a record that cannot be written: nothing is granted by it.
    fn end_waiting(
        &self,
        id: &SessionId,
        (reason, detail): (CloseReason, String),
        record: impl FnOnce(&SessionInfo) -> Result<(), Refusal>,
    ) -> Option<SessionInfo> {
        let mut info = unpoisoned(&self.0.pending).remove(id)?.kept.info;
        let old = info.state;
        info.state = next(old, Event::Dropped).unwrap_or(State::Closed);
        (info.close_reason, info.close_detail) = (Some(reason), Some(detail));
        if let Err(refusal) = record(&info) {
            tracing::error!("{}", refusal.message);
        }
        forget(id);
        let moved = News::Moved { id: id.clone(), old, new: info.state, reason: Some(reason) };
        let _ = self.0.news.send(moved);
        self.remember(info.clone());
        Some(info)
    }
}

/// Returns when the request does not wait any more.
async fn no_more(mut seen: watch::Receiver<SessionInfo>) {
    while seen.changed().await.is_ok() {}
}

async fn passed(until: Deadline) {
    while !until.has_passed(clock::now()) {
        tokio::time::sleep(clock::next_look(&until)).await;
    }
}

fn kept_request(
    opened: &Opened,
    (request, images): (&OpenRequest, Option<ImageRequest>),
    (caller, approvals): (&Caller, &Approvals),
) -> Request {
    let claim_by = Deadline::after(clock::now(), approvals.within);
    let waits_for = WaitsFor {
        approvals: approvals.count,
        by: approvals.by.to_string(),
        claim_by: clock::rfc3339(claim_by.wall_ms),
    };
    let info = SessionInfo {
        state: State::PendingApproval,
        // There is no gateway yet, and which port it will have is not known.
        endpoint: String::new(),
        waits_for: Some(waits_for),
        ..super::life::info(opened)
    };
    Request {
        images,
        // Whoever takes it up brings a key along then.
        request: OpenRequest { csr: String::new(), ..request.clone() },
        info,
        claim_by,
        held_by: opened.held_by.clone(),
        vouched_for: Some(caller.name.clone()),
    }
}

fn record(kind: Kind, by: &Caller, info: &SessionInfo, message: String) -> Result<(), Refusal> {
    let entry = Entry::new(kind, info.unit.as_str(), by.uid, &by.user, message)
        .session(&info.id)
        .login(&by.login)
        .details(serde_json::to_value(info).unwrap_or_default());
    written(entry)
}

fn written(entry: Entry) -> Result<(), Refusal> {
    audit::record(&entry).map_err(|error| {
        Refusal::host(
            format!("the audit log cannot be written, so nothing is granted: {error}"),
            "make room in /var/log/godebug, then try again",
        )
    })
}

fn place(id: &SessionId) -> PathBuf {
    Path::new(paths::RUN).join(format!("{id}.{SUFFIX}"))
}

fn keep(request: &Request) -> Result<(), Refusal> {
    let unwritable = |why: String| {
        Refusal::host(
            format!("the request cannot be kept: {why}"),
            "make room in /run, then try again",
        )
    };
    let text = serde_json::to_vec(request).map_err(|error| unwritable(error.to_string()))?;
    kept::write_private(&place(&request.info.id), &text)
        .map_err(|error| unwritable(error.to_string()))
}

fn forget(id: &SessionId) {
    forget_at(&place(id));
}

fn forget_at(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::error!("{} cannot be removed: {error}", path.display());
    }
}

/// All that are kept, and the files that hold none.
fn kept_requests() -> Vec<(PathBuf, Option<Request>)> {
    let entries = std::fs::read_dir(paths::RUN).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == SUFFIX))
        .map(|path| {
            let text = kept::read(&path, kept::ROOT);
            let request = text.and_then(|text| serde_json::from_slice(&text).ok());
            (path, request)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_kept_without_whom_polkit_vouched_for() {
        let opened = serde_json::json!({
            "id": "0000000a", "unit": "shop", "pid": 77, "start_ticks": 5, "mode": "step",
            "uid": 7, "user": "dev", "sources": [], "opened_at": "2026-01-01T00:00:00Z",
            "ttl_seconds": 60, "at_most_until": {"wall_ms": 9, "boot_ms": 9}, "debugger": "dlv",
            "go_version": "go1.24", "target_is_starting": false,
        });
        let info = super::super::life::info(&serde_json::from_value(opened).unwrap());
        let request: OpenRequest =
            serde_json::from_value(serde_json::json!({"ttl": "60s", "mode": "step"})).unwrap();
        let kept = Request {
            request,
            images: None,
            info,
            claim_by: Deadline { wall_ms: 7, boot_ms: 7 },
            held_by: Some(":1.7".to_owned()),
            vouched_for: Some(UniqueName::try_from(":1.7").unwrap()),
        };
        let text = serde_json::to_string(&kept).unwrap();
        let read: Request = serde_json::from_str(&text).unwrap();
        assert_eq!((read.info, read.vouched_for), (kept.info, None));
    }
}
