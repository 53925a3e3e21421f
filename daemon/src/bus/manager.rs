//! `org.godebug1.Manager`. Each method: the caller, the authority, the work, the document.

use super::Activity;
use super::text::{
    brought, json, parse_document, parse_id, parse_request, parse_target, safe_endpoint, symbols,
};
use crate::audit::{self, Entry, Kind};
use crate::authority::rules::{self, Denied, Wish};
use crate::authority::{
    Action, Answer, Authorized, Caller, Permitted, authorize, authorize_approval, authorize_claim,
    authorize_denial, authorize_extension, authorize_for_records, authorize_for_session,
    authorize_review, authorize_session, authorize_sharing, consent,
};
use crate::config::Config;
use crate::dumps::{self, Which};
use crate::host::gateway;
use crate::paths::SessionPaths;
use crate::sessions::{Brought, Request, Sessions, Symbols, new_id, prepare};
use crate::target::place::{self, Place};
use crate::{target, transcripts};
use godebug_api::audit::{AuditFilter, AuditList, AuditRecord, AuditTrail, Outcome};
use godebug_api::bus::BusError;
use godebug_api::control;
use godebug_api::documents::{ClaimRequest, OpenAnswer, OpenRequest, SessionInfo, ShareRequest};
use godebug_api::image::ImageRequest;
use godebug_api::rules::Hypothesis;
use godebug_api::rules::engine::Command;
use godebug_api::{
    GuestName, Login, Mode, Part, Pid, Reason, Refusal, SessionId, Ttl, UnitName, clock,
};
use std::time::Duration;
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, ObjectPath, OwnedFd, interface};

pub struct Manager {
    sessions: Sessions,
    activity: Activity,
}

impl Manager {
    pub fn new(sessions: Sessions, activity: Activity) -> Self {
        Self { sessions, activity }
    }

    /// Where in which unit it is what somebody names.
    async fn place(&self, text: &str, caller: &Caller) -> Result<Place, Refusal> {
        let systemd = self.sessions.shared().host.systemd()?;
        place::find(systemd, &parse_target(text)?, caller.uid).await
    }

    /// Leave to look at a target: everybody has it for what their own manager runs.
    async fn may_read(
        &self,
        connection: &Connection,
        caller: Caller,
        place: &Place,
    ) -> Result<(), Refusal> {
        if place.name().owner() == Some(&caller.user) {
            return Ok(());
        }
        authorize(connection, caller, Action::Read, Some(&place.unit), &[], ()).await.map(drop)
    }

    /// Leave to do something to a session: its owner has it, others need polkit's.
    async fn for_session(
        &self,
        connection: &Connection,
        caller: Caller,
        action: Action,
        id: SessionId,
    ) -> Result<Authorized<SessionId>, Refusal> {
        let session = self.sessions.get(&id).await?;
        authorize_for_session(connection, caller, action, &session).await
    }

    async fn try_open(
        &self,
        connection: &Connection,
        caller: Caller,
        unit: &str,
        request: &str,
        files: Vec<OwnedFd>,
    ) -> Result<String, Denied> {
        let Place { unit, part } = self.place(unit, &caller).await?;
        let request = OpenRequest { part, ..parse_request(request)? };
        let brought = brought(&request, files)?;
        let details = [
            ("mode", request.mode.to_string()),
            ("ttl", request.ttl.to_string()),
            ("reason", request.reason.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("pid", request.pid.map(|pid| pid.to_string()).unwrap_or_default()),
            ("break_glass", request.break_glass.to_string()),
            ("target", named(request.part.as_ref())),
        ];
        let wish = self.wish(&unit, &request).await?;
        let running = || self.sessions.list();
        let allowed =
            authorize_session(connection, caller, &wish, running, &details, request).await?;
        let answer = match allowed {
            Answer::Granted(allowed) => {
                let opened = self.sessions.open(&unit, allowed, brought).await?;
                OpenAnswer::Opened(Box::new(opened))
            }
            Answer::NeedsConsent(allowed) => {
                let waits = Box::new(self.sessions.ask(&unit, allowed, brought.symbols).await?);
                OpenAnswer::Waits { waits }
            }
        };
        Ok(json(&answer)?)
    }

    async fn try_claim(
        &self,
        connection: &Connection,
        caller: Caller,
        request: &Request,
        claim: &str,
        files: Vec<OwnedFd>,
    ) -> Result<String, Denied> {
        let claim: ClaimRequest = parse_document(claim, "request")?;
        let symbols = symbols(claim.symbols, files)?;
        let Request { request, images, info, vouched_for, .. } = request;
        if images.is_some() {
            let message = format!("request {} is about images", info.id);
            let remedy = "only the godebugctl that asked can take it up; ask again";
            return Err(Refusal::usage(message, remedy).into());
        }
        let wanted = safe_endpoint(claim.put_into(request.clone()))?;
        let wish = self.wish(&info.unit, &wanted).await?;
        let (running, asked) = (|| self.sessions.list(), (info, vouched_for.as_ref()));
        let allowed = authorize_claim(connection, caller, &wish, asked, running, wanted).await?;
        Ok(json(
            &self.sessions.open(&info.unit, allowed, Brought { symbols, executable: None }).await?,
        )?)
    }

    async fn try_approve(
        &self,
        connection: &Connection,
        caller: Caller,
        request: &Request,
    ) -> Result<SessionInfo, Denied> {
        let wish = self.wish_of_request(request).await?;
        let running = || self.sessions.list();
        let allowed = authorize_approval(connection, caller, &wish, &request.info, running).await?;
        Ok(self.sessions.approve(&allowed)?)
    }

    /// Whether somebody may see a request that is another's, because they may consent to it.
    async fn may_consent(&self, caller: &Caller, request: &Request) -> bool {
        match self.wish_of_request(request).await {
            Ok(wish) => consent::may_see(caller, &request.info, &wish).await,
            Err(_) => false,
        }
    }

    /// A request as the rules see it.
    async fn wish(&self, unit: &UnitName, request: &OpenRequest) -> Result<Wish, Refusal> {
        let systemd = self.sessions.shared().host.systemd()?;
        Ok(Wish {
            command: match (&request.exec, &request.dump) {
                (_, Some(_)) => Command::Core,
                (Some(_), None) => Command::Exec,
                (None, None) => Command::Attach,
            },
            unit: unit.clone(),
            target: request.part.as_ref().map(|part| part.name.clone()),
            slice: target::find::slice(systemd, unit).await,
            mode: request.mode,
            ttl: request.ttl,
            reason: request.reason.clone(),
            sources: request.from.clone(),
            lasted: None,
            break_glass: request.break_glass,
        })
    }

    /// A session that there is, as the rules see it.
    async fn wish_of(&self, session: &SessionInfo, ttl: Ttl) -> Result<Wish, Refusal> {
        let systemd = self.sessions.shared().host.systemd()?;
        Ok(Wish {
            command: match (&session.exec, &session.dump) {
                (_, Some(_)) => Command::Core,
                (Some(_), None) => Command::Exec,
                (None, None) => Command::Attach,
            },
            unit: session.unit.clone(),
            target: session.target.clone(),
            slice: target::find::slice(systemd, &session.unit).await,
            mode: session.mode,
            ttl,
            reason: session.reason.clone(),
            sources: session.sources.clone(),
            lasted: Some(lasted(session)),
            break_glass: session.break_glass,
        })
    }

    /// Leave to make a session longer, which is authority anew.
    async fn for_extension(
        &self,
        connection: &Connection,
        caller: Caller,
        id: SessionId,
        ttl: Ttl,
    ) -> Result<Authorized<Permitted<SessionId>>, Refusal> {
        let session = self.sessions.get(&id).await?;
        let wish = self.wish_of(&session, ttl).await?;
        let running = || self.sessions.list();
        Ok(authorize_extension(connection, caller, &wish, &session, running).await?)
    }

    /// Leave to let somebody into a session, and the letting in.
    async fn try_share(
        &self,
        connection: &Connection,
        caller: Caller,
        session: SessionInfo,
        request: ShareRequest,
    ) -> Result<String, Denied> {
        // It becomes no longer by that.
        let no_longer = Ttl::try_from(Duration::from_secs(1))
            .map_err(|error| Refusal::usage(error.to_string(), ""))?;
        let wish = self.wish_of(&session, no_longer).await?;
        let observes = request.observe;
        let running = || self.sessions.list();
        let there_is = (&session, running);
        let allowed = authorize_sharing(connection, caller, &wish, there_is, request).await?;
        allowed.get().permit.lets_in(observes)?;
        Ok(json(&self.sessions.share(&session.id, allowed).await?)?)
    }

    async fn try_snapshot(
        &self,
        connection: &Connection,
        caller: Caller,
        (unit, request): (&str, &str),
        files: Vec<OwnedFd>,
    ) -> Result<(String, OwnedFd), Denied> {
        let Place { unit, part } = self.place(unit, &caller).await?;
        let request = ImageRequest { part, ..parse_document(request, "request")? };
        let symbols = symbols(request.symbols, files)?;
        let details = [
            ("mode", Mode::Observe.to_string()),
            ("reason", request.reason.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("pid", request.pid.map(|pid| pid.to_string()).unwrap_or_default()),
            ("break_glass", request.break_glass.to_string()),
            ("target", named(request.part.as_ref())),
        ];
        let wish = self.wish_of_images(&unit, &request).await?;
        let running = || self.sessions.list();
        let allowed =
            authorize_session(connection, caller, &wish, running, &details, request).await?;
        let (session, answer) = match allowed {
            Answer::Granted(allowed) => self.sessions.take_images(&unit, allowed, symbols).await?,
            Answer::NeedsConsent(allowed) => {
                let waits = self.sessions.ask_for_images(&unit, allowed, symbols).await?;
                // Nothing comes: whoever asks takes it up when it is approved.
                let (nothing, _) = std::io::pipe().map_err(|error| {
                    Refusal::failed(format!("no pipe can be made: {error}"), "")
                })?;
                (waits, nothing.into())
            }
        };
        Ok((json(&session)?, answer.into()))
    }

    async fn try_claim_images(
        &self,
        connection: &Connection,
        caller: Caller,
        request: &Request,
        files: Vec<OwnedFd>,
    ) -> Result<(String, OwnedFd), Denied> {
        let Request { images, info, vouched_for, .. } = request;
        let Some(images) = images else {
            let message = format!("request {} is not about images", info.id);
            return Err(Refusal::usage(message, format!("godebugctl claim {}", info.id)).into());
        };
        let symbols = symbols(images.symbols, files)?;
        let wish = self.wish_of_images(&info.unit, images).await?;
        let (running, asked) = (|| self.sessions.list(), (info, vouched_for.as_ref()));
        let allowed =
            authorize_claim(connection, caller, &wish, asked, running, images.clone()).await?;
        let (session, answer) = self.sessions.take_images(&info.unit, allowed, symbols).await?;
        Ok((json(&session)?, answer.into()))
    }

    async fn wish_of_images(
        &self,
        unit: &UnitName,
        request: &ImageRequest,
    ) -> Result<Wish, Refusal> {
        let systemd = self.sessions.shared().host.systemd()?;
        Ok(Wish {
            command: Command::Snapshot,
            unit: unit.clone(),
            target: request.part.as_ref().map(|part| part.name.clone()),
            slice: target::find::slice(systemd, unit).await,
            mode: Mode::Observe,
            ttl: Ttl::try_from(request.patience.duration())
                .map_err(|error| Refusal::usage(error.to_string(), "give a longer --timeout"))?,
            reason: request.reason.clone(),
            sources: Vec::new(),
            lasted: None,
            break_glass: request.break_glass,
        })
    }

    /// What somebody has asked for, as the rules see it.
    async fn wish_of_request(&self, asked: &Request) -> Result<Wish, Refusal> {
        match &asked.images {
            Some(images) => self.wish_of_images(&asked.info.unit, images).await,
            None => self.wish(&asked.info.unit, &asked.request).await,
        }
    }

    /// The records of a session, for its owner and for those who may read others'.
    async fn trail(
        &self,
        connection: &Connection,
        caller: Caller,
        id: SessionId,
    ) -> Result<AuditTrail, Refusal> {
        let wanted = id.clone();
        let trail = self.sessions.ask_log(move || audit::trail(&wanted)).await?;
        let Some(first) = trail.entries.first() else { return Err(not_recorded(&trail)) };
        let (owner, unit) = (audit::owner(&trail.entries), first.unit.parse::<UnitName>().ok());
        let allowed =
            authorize_for_records(connection, caller, owner, unit.as_ref(), trail).await?;
        Ok(allowed.into_inner().0)
    }

    /// The recorded sessions, or the caller's own for those who may not read others'.
    async fn audited(
        &self,
        connection: &Connection,
        caller: Caller,
        mut filter: AuditFilter,
    ) -> Result<AuditList, Refusal> {
        if let Some(unit) = &filter.unit {
            // A unit that is not there any more has records still.
            let systemd = self.sessions.shared().host.systemd()?;
            filter.unit =
                Some(target::find::canonical(systemd, unit).await.unwrap_or_else(|_| unit.clone()));
        }
        let uid = caller.uid;
        let all = authorize(connection, caller, Action::Read, filter.unit.as_ref(), &[], ())
            .await
            .is_ok();
        let only_of = (!all).then_some(uid);
        let mut list = self.sessions.ask_log(move || audit::list(&filter, only_of)).await?;
        let running = self.sessions.list();
        for session in &mut list.sessions {
            if session.outcome == Outcome::NotRecorded
                && running.iter().any(|info| info.id == session.id)
            {
                session.outcome = Outcome::Running;
            }
        }
        Ok(list)
    }
}

/// What a session's review is recorded with.
fn reviewed(
    allowed: &Authorized<SessionId>,
    broken: &AuditRecord,
    note: &Reason,
) -> Result<(), Refusal> {
    let (id, caller) = (allowed.get(), allowed.caller());
    let message = format!("{} has reviewed session {id} of {}: {note}", caller.user, broken.user);
    let entry = Entry::new(Kind::Reviewed, &broken.unit, caller.uid, &caller.user, message)
        .session(id)
        .login(&caller.login)
        .details(serde_json::json!({ "note": note }));
    audit::record(&entry).map_err(|error| {
        Refusal::host(
            format!("the audit log cannot be written: {error}"),
            "make room in /var/log/godebug, then try again",
        )
    })
}

/// A part of a unit for polkit's rules and questions; empty for all of it.
fn named(part: Option<&Part>) -> String {
    part.map(|part| part.name.to_string()).unwrap_or_default()
}

fn no_dumps_of(part: &Part) -> Refusal {
    Refusal::usage(
        format!("core dumps are kept by unit and by process, not of {}", part.name),
        "name the process that crashed by its number; `coredumpctl list` shows it",
    )
}

/// Who was refused.
type Who = (u32, String, Login);

fn who(caller: &Caller) -> Who {
    (caller.uid, caller.user.clone(), caller.login.clone())
}

/// A denial is a decision too. The name may be hostile: only its safe form is kept.
fn record_refusal(unit: &str, (uid, user, login): Who, denied: Denied) -> Refusal {
    let unit = unit.parse::<UnitName>().map(|unit| unit.to_string()).unwrap_or_default();
    let entry = Entry::new(Kind::Refused, &unit, uid, &user, &denied.refusal.message)
        .login(&login)
        .details(serde_json::json!({"code": denied.refusal.code, "rule": denied.rule}));
    if let Err(error) = audit::record(&entry) {
        tracing::error!("a refusal is not in the audit log: {error}");
    }
    denied.refusal
}

fn not_recorded(trail: &AuditTrail) -> Refusal {
    let damaged = match trail.damaged_lines {
        0 => String::new(),
        lines => format!("; damaged lines in it, which may have been about it: {lines}"),
    };
    Refusal::usage(
        format!("the audit log has no session {}{damaged}", trail.session),
        "`godebugctl audit list` shows the latest; what was compressed is not read",
    )
}

#[interface(name = "org.godebug1.Manager")]
impl Manager {
    async fn open(
        &self,
        unit: &str,
        request: &str,
        files: Vec<OwnedFd>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let who = who(&caller);
        let opened = self.try_open(connection, caller, unit, request, files).await;
        Ok(opened.map_err(|denied| record_refusal(unit, who, denied))?)
    }

    async fn claim(
        &self,
        id: &str,
        request: &str,
        files: Vec<OwnedFd>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let who = who(&caller);
        let asked = self.sessions.request(&parse_id(id)?)?;
        let opened = self.try_claim(connection, caller, &asked, request, files).await;
        Ok(opened.map_err(|denied| record_refusal(asked.info.unit.as_str(), who, denied))?)
    }

    async fn approve(
        &self,
        id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let who = who(&caller);
        let asked = self.sessions.request(&parse_id(id)?)?;
        let approved = self.try_approve(connection, caller, &asked).await;
        let unit = asked.info.unit.as_str();
        Ok(json(&approved.map_err(|denied| record_refusal(unit, who, denied))?)?)
    }

    async fn deny(
        &self,
        id: &str,
        reason: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let reason: Reason = reason.parse().map_err(|error: godebug_api::WordError| {
            Refusal::usage(error.to_string(), "say why: --reason TEXT")
        })?;
        let asked = self.sessions.request(&parse_id(id)?)?;
        let wish = self.wish_of_request(&asked).await?;
        let running = self.sessions.list();
        let allowed = authorize_denial(connection, caller, &wish, &asked.info, &running).await?;
        Ok(json(&self.sessions.deny(&allowed, &reason)?)?)
    }

    async fn snapshot(
        &self,
        unit: &str,
        request: &str,
        files: Vec<OwnedFd>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(String, OwnedFd), BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let who = who(&caller);
        let taken = self.try_snapshot(connection, caller, (unit, request), files).await;
        Ok(taken.map_err(|denied| record_refusal(unit, who, denied))?)
    }

    async fn claim_images(
        &self,
        id: &str,
        files: Vec<OwnedFd>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<(String, OwnedFd), BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let who = who(&caller);
        let asked = self.sessions.request(&parse_id(id)?)?;
        let taken = self.try_claim_images(connection, caller, &asked, files).await;
        Ok(taken.map_err(|denied| record_refusal(asked.info.unit.as_str(), who, denied))?)
    }

    async fn dumps(
        &self,
        which: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let asker = caller.uid;
        let which = match which.parse::<Pid>() {
            Ok(pid) => Which::Of(pid),
            Err(_) => match self.place(which, &caller).await? {
                Place { unit, part: None } => Which::OfUnit(unit),
                Place { part: Some(part), .. } => return Err(no_dumps_of(&part).into()),
            },
        };
        let unit = match &which {
            Which::OfUnit(unit) => Some(unit.clone()),
            // Of whichever unit: that is known only when it is found.
            Which::Of(_) => None,
        };
        let allowed =
            authorize(connection, caller, Action::Read, unit.as_ref(), &[], which).await?;
        let (which, _) = allowed.into_inner();
        let kept = match &which {
            Which::OfUnit(unit) => self.sessions.kept_images(unit, asker),
            Which::Of(_) => Vec::new(),
        };
        let found = match self.sessions.ask_log(move || Ok(dumps::find(&which, asker))).await? {
            // Where nothing keeps dumps there are images all the same.
            Err(_) if !kept.is_empty() => Vec::new(),
            found => found?,
        };
        Ok(json(
            &kept.into_iter().chain(found.iter().map(dumps::Found::document)).collect::<Vec<_>>(),
        )?)
    }

    async fn plan(
        &self,
        unit: &str,
        request: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let Place { unit, part } = self.place(unit, &caller).await?;
        let request = OpenRequest { part, ..parse_request(request)? };
        let uid = caller.uid;
        let place = Place { unit: unit.clone(), part: request.part.clone() };
        self.may_read(connection, caller, &place).await?;
        let request = &request;
        let wish = self.wish(&unit, request).await?;
        let permit = rules::ask(uid, &wish, &self.sessions.list()).await.map_err(Refusal::from)?;
        let config = Config::load()?.under(&permit);
        let symbols = if request.symbols { Symbols::Announced } else { Symbols::None };
        let prepared =
            prepare(&self.sessions, &config, &unit, request, symbols, (new_id()?, None)).await?;
        Ok(json(&prepared.document(request, &permit))?)
    }

    async fn list(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let (uid, mut all) = (caller.uid, self.sessions.list());
        let pending = self.sessions.pending();
        let mut consents = Vec::new();
        for request in pending.iter().filter(|request| request.info.opened_by_uid != uid) {
            if self.may_consent(&caller, request).await {
                consents.push(request.info.id.clone());
            }
        }
        all.extend(pending.into_iter().map(|request| request.info));
        let others =
            |session: &SessionInfo| session.opened_by_uid != uid && !consents.contains(&session.id);
        if all.iter().any(others)
            && authorize(connection, caller, Action::Read, None, &[], ()).await.is_err()
        {
            all.retain(|session| !others(session));
        }
        Ok(json(&all)?)
    }

    async fn get(
        &self,
        id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let (caller, id) = (Caller::of(&header, connection).await?, parse_id(id)?);
        if let Ok(request) = self.sessions.request(&id)
            && self.may_consent(&caller, &request).await
        {
            return Ok(json(&request.info)?);
        }
        let id = self.for_session(connection, caller, Action::Read, id).await?;
        Ok(json(&self.sessions.get(id.get()).await?)?)
    }

    async fn extend(
        &self,
        id: &str,
        seconds: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let ttl = Ttl::try_from(Duration::from_secs(seconds))
            .map_err(|error| Refusal::usage(error.to_string(), "give a duration such as 30m"))?;
        let id = self.for_extension(connection, caller, parse_id(id)?, ttl).await?;
        Ok(json(&self.sessions.extend(&id, ttl).await?)?)
    }

    async fn hold(
        &self,
        id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        Ok(json(&self.sessions.hold(&parse_id(id)?, &caller).await?)?)
    }

    async fn share(
        &self,
        id: &str,
        request: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let who = who(&caller);
        let request = parse_document(request, "request")?;
        let session = self.sessions.get(&parse_id(id)?).await?;
        let unit = session.unit.to_string();
        let shared = self.try_share(connection, caller, session, request).await;
        Ok(shared.map_err(|denied| record_refusal(&unit, who, denied))?)
    }

    async fn withdraw(
        &self,
        id: &str,
        name: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let name: GuestName = name.parse().map_err(|error: godebug_api::WordError| {
            Refusal::usage(format!("that is nobody's name: {error}"), "give the one of `share`")
        })?;
        let id = self.for_session(connection, caller, Action::Stop, parse_id(id)?).await?;
        Ok(json(&self.sessions.withdraw(id, name).await?)?)
    }

    async fn stop(
        &self,
        id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let detail = format!("stopped by {}", caller.user);
        let id = self.for_session(connection, caller, Action::Stop, parse_id(id)?).await?;
        Ok(json(&self.sessions.stop(&id, detail).await?)?)
    }

    async fn inspect(
        &self,
        unit: &str,
        pid: u32,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let place = self.place(unit, &caller).await?;
        let pid = match pid {
            0 => None,
            pid => Some(Pid::try_from(pid).map_err(|error| Refusal::usage(error.to_string(), ""))?),
        };
        self.may_read(connection, caller, &place).await?;
        let systemd = self.sessions.shared().host.systemd()?;
        Ok(json(&target::inspect::inspect(systemd, &place, pid).await?)?)
    }

    async fn doctor(
        &self,
        unit: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        // For everybody: it tells nothing of others' sessions, and of a unit no more than the
        // caller may read.
        let caller = Caller::of(&header, connection).await?;
        let place = match unit {
            "" => None,
            unit => Some(self.place(unit, &caller).await?),
        };
        if let Some(place) = &place {
            self.may_read(connection, caller, place).await?;
        }
        Ok(json(&crate::doctor::diagnose(&self.sessions, place.as_ref()).await)?)
    }

    async fn traffic(
        &self,
        id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let id = self.for_session(connection, caller, Action::Read, parse_id(id)?).await?;
        let socket = SessionPaths::of(id.get()).control_socket();
        match gateway::ask(&socket, &control::Request::Status, Duration::from_secs(2)).await {
            Ok(reply) => Ok(json(&reply)?),
            Err(_) => Err(Refusal::new(
                godebug_api::Code::Ended,
                format!("the gateway of session {} does not answer", id.get()),
                "",
            )
            .into()),
        }
    }

    async fn explain(
        &self,
        unit: &str,
        hypothesis: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let place = self.place(unit, &caller).await?;
        let what: Hypothesis = parse_document(hypothesis, "question")?;
        self.may_read(connection, caller, &place).await?;
        let systemd = self.sessions.shared().host.systemd()?;
        let slice = target::find::slice(systemd, &place.unit).await;
        let target = place.part.map(|part| part.name);
        let about = (place.unit, target);
        Ok(json(&rules::explain(about, slice, what, &self.sessions.list()).await?)?)
    }

    async fn audit_list(
        &self,
        filter: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        Ok(json(&self.audited(connection, caller, parse_document(filter, "filter")?).await?)?)
    }

    async fn audit_show(
        &self,
        id: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        Ok(json(&self.trail(connection, caller, parse_id(id)?).await?)?)
    }

    async fn audit_export(
        &self,
        ids: Vec<String>,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<OwnedFd, BusError> {
        let _busy = self.activity.begin();
        let ids: Vec<SessionId> = ids.iter().map(|id| parse_id(id)).collect::<Result<_, _>>()?;
        if ids.is_empty() || ids.len() > audit::export::MOST_SESSIONS {
            let most = audit::export::MOST_SESSIONS;
            return Err(Refusal::usage(format!("1 to {most} sessions can be exported"), "").into());
        }
        let caller = Caller::of(&header, connection).await?;
        if authorize(connection, caller, Action::Read, None, &[], ()).await.is_err() {
            for id in &ids {
                let caller = Caller::of(&header, connection).await?;
                self.trail(connection, caller, id.clone()).await?;
            }
        }
        let caller = Caller::of(&header, connection).await?;
        let whom = audit::export::For { uid: caller.uid, user: caller.user };
        let bundle = self.sessions.ask_log(move || audit::export::bundle(&ids, &whom)).await?;
        if let Some(unknown) = bundle.sessions.iter().find(|session| session.records.is_empty()) {
            let message = format!("the audit log has no session {}", unknown.id);
            return Err(Refusal::usage(message, "`godebugctl audit list` shows the latest").into());
        }
        let file = gateway::sealed_configuration(&bundle).map_err(|error| {
            Refusal::host(format!("the records cannot be handed over: {error}"), "export fewer")
        })?;
        Ok(file.into())
    }

    async fn audit_reviews(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let uid = caller.uid;
        let all = authorize(connection, caller, Action::Read, None, &[], ()).await.is_ok();
        let mut reviews = self.sessions.ask_log(audit::unreviewed).await?;
        reviews.open.retain(|record| all || record.uid == uid);
        Ok(json(&reviews)?)
    }

    async fn audit_review(
        &self,
        id: &str,
        note: &str,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::with_login(&header, connection).await?;
        let id = parse_id(id)?;
        let note: Reason = note.parse().map_err(|error: godebug_api::WordError| {
            Refusal::usage(error.to_string(), "say what you found: --note TEXT")
        })?;
        let open = self.sessions.ask_log(audit::unreviewed).await?.open;
        let Some(broken) = open.into_iter().find(|record| record.session.as_ref() == Some(&id))
        else {
            let message = format!("session {id} needs no review");
            return Err(Refusal::usage(message, "`godebugctl audit review` lists what does").into());
        };
        if self.sessions.list().iter().any(|session| session.id == id) {
            let remedy =
                format!("watch it, or end it: godebugctl watch {id}; godebugctl stop {id}");
            return Err(Refusal::refused(format!("session {id} goes on"), remedy).into());
        }
        let (opener, unit) = ((broken.uid, &broken.login), broken.unit.parse().ok());
        let allowed =
            authorize_review(connection, caller, opener, unit.as_ref(), id.clone()).await?;
        reviewed(&allowed, &broken, &note)?;
        Ok(json(&self.sessions.ask_log(move || audit::trail(&id)).await?)?)
    }

    async fn transcript(
        &self,
        id: &str,
        from: u64,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
    ) -> Result<String, BusError> {
        let _busy = self.activity.begin();
        let caller = Caller::of(&header, connection).await?;
        let id = parse_id(id)?;
        let allowed = match self.sessions.get(&id).await {
            Ok(session) => {
                let allowed =
                    authorize_for_session(connection, caller, Action::Read, &session).await?;
                allowed.get().clone()
            }
            // Of one from before this godebugd, the records tell whose it was.
            Err(_) => self.trail(connection, caller, id).await?.session,
        };
        let page = transcripts::page(&allowed, from).map_err(|error| {
            Refusal::host(format!("the transcript cannot be read: {error}"), "is the disk well?")
        })?;
        Ok(json(&page)?)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    #[zbus(signal)]
    pub async fn session_added(
        emitter: &SignalEmitter<'_>,
        id: &str,
        session: ObjectPath<'_>,
    ) -> zbus::Result<()>;

    #[zbus(signal)]
    pub async fn session_removed(
        emitter: &SignalEmitter<'_>,
        id: &str,
        session: ObjectPath<'_>,
    ) -> zbus::Result<()>;
}

/// How long a session has been there.
fn lasted(session: &SessionInfo) -> Duration {
    let now = clock::now().wall_ms;
    let opened = clock::from_rfc3339(&session.opened_at).unwrap_or(now);
    Duration::from_millis(now.saturating_sub(opened))
}
