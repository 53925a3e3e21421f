//! Sessions that take images: what is found out before, and the unit that then does it all and writes
//! to whoever asked. No byte of an answer passes through godebugd.

use super::life::{Beginning, Life, kernel_says};
use super::prepare::{has_symbols, is_still, new_id, not_twice};
use super::recorded::Origin;
use super::{Sessions, Symbols, fitting_debugger};
use crate::authority::rules::{self, Denied};
use crate::authority::{Authorized, Caller, Consented, Permitted};
use crate::config::Config;
use crate::host::systemd::{Systemd, UnitFacts};
use crate::host::{ImageMaterial, Material, confinement};
use crate::paths::SessionPaths;
use crate::target::find::{self, Target};
use crate::target::process::{self, Process};
use godebug_api::documents::{ImageForecast, SessionInfo};
use godebug_api::handover::ImageSocket;
use godebug_api::image::{
    ImageConfig, ImageRecord, ImageRequest, ImageTask, ImageWork, Keep, PauseLimit,
};
use godebug_api::redact::Redactor;
use godebug_api::rules::engine::{Consent, Permit};
use godebug_api::{
    Absence, Code, Copying, Deadline, Forecast, Mode, Pid, Refusal, SessionId, UnitName, clock,
};
use godebug_core::delve::Debugger;
use godebug_core::ledger::Opened;
use godebug_core::plan::{self, Confinement};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// Beside the waiting at a line: for dlv to read the debug information, and to answer. Where faults are injected many
/// sessions end by nothing but their time.
const WORK: Duration = Duration::from_secs(if cfg!(feature = "fault-points") { 20 } else { 180 });

/// What was found out about the target.
struct Prepared {
    target: Target,
    debugger: Debugger,
    way: Way,
    forecast: Forecast,
    confinement: Confinement,
    /// With the target's debug information, where it has none itself.
    symbols: Option<File>,
}

impl Sessions {
    /// Opens a session that takes images, and gives what it writes.
    ///
    /// # Errors
    /// The refusal; nothing is left of it by then.
    pub async fn take_images(
        &self,
        unit: &UnitName,
        allowed: Authorized<Permitted<ImageRequest>>,
        symbols: Option<File>,
    ) -> Result<(SessionInfo, OwnedFd), Denied> {
        let one_at_a_time = self.0.preparing.lock().await;
        let prepared = self.prepare_images(unit, &allowed.get().what, symbols).await?;
        let (Permitted { what: request, permit, consented }, caller) = allowed.into_inner();
        asks_for_nothing_hidden(&permit, &request)?;
        // Counted once more where no other session can begin in between.
        let running = rules::running(&self.list(), &prepared.target.unit, caller.uid);
        permit.room_for_one_more(running).map_err(Denied::from)?;
        let (reader, writer) = std::io::pipe()
            .map_err(|error| Refusal::failed(format!("no pipe can be made: {error}"), ""))?;
        let (id, approvals) = match consented {
            Some(Consented { id, approvals }) => self.waits(&id).map(|()| (id, approvals))?,
            None => (new_id()?, Vec::new()),
        };
        let opened = opened(&prepared, &request, (&caller, &permit), &id);
        let opened = Opened { approvals, ..opened };
        let keep = request.keep();
        let beginning =
            beginning(prepared, request, (opened, &Config::load()?.under(&permit)), writer.into())?;
        let kept = keep.map(|keep| to_be_kept(&beginning, keep)).transpose()?;
        let (life, info, active) = Life::begin_with(self, beginning)?;
        if let Some((origin, socket)) = kept {
            self.keep_images(origin, socket, info.clone());
        }
        self.taken_up(&id);
        drop(one_at_a_time);
        tokio::spawn(life.run());
        match active.await {
            Ok(Ok(())) => Ok((info.borrow().clone(), reader.into())),
            Ok(Err(refusal)) => Err(refusal.into()),
            Err(_) => Err(Refusal::failed(
                format!("session {id} was lost while it was prepared"),
                "see `journalctl -u godebugd`",
            )
            .into()),
        }
    }

    /// What a session would be about that takes these images, for those who have to consent to it.
    ///
    /// # Errors
    /// The first reason why it cannot be.
    pub(super) async fn foreseen(
        &self,
        unit: &UnitName,
        (request, symbols): (&ImageRequest, Option<File>),
        (caller, permit): (&Caller, &Permit),
    ) -> Result<Opened, Refusal> {
        let prepared = self.prepare_images(unit, request, symbols).await?;
        asks_for_nothing_hidden(permit, request)?;
        Ok(opened(&prepared, request, (caller, permit), &new_id()?))
    }

    async fn prepare_images(
        &self,
        unit: &UnitName,
        request: &ImageRequest,
        symbols: Option<File>,
    ) -> Result<Prepared, Refusal> {
        let systemd = self.shared().host.systemd()?;
        let target = find::find(systemd, unit, request.part.as_ref(), request.pid).await?;
        is_still(unit, &target)?;
        not_twice(&self.list(), &target)?;
        find::traceable(&target)?;
        can_be_kept(&target, request)?;
        let confinement = confinement::of_this_host()?;
        confinement::lets_debug(target.process.pid, target.unit.as_str(), confinement)?;
        let way = way_of(systemd, &target).await?;
        let debugger = fitting_debugger(&target).await?;
        has_symbols(&target, symbols.as_ref().map_or(Symbols::None, Symbols::InFile))?;
        let forecast = forecast(&target, request.max_pause, &way)?;
        Ok(Prepared { target, debugger, way, forecast, confinement, symbols })
    }
}

/// What the rule hides is hidden where values are read (`ImageConfig::redact`); that an expression would read it is said
/// before anything is done.
fn asks_for_nothing_hidden(permit: &Permit, request: &ImageRequest) -> Result<(), Refusal> {
    let ImageTask::Snapshot { expressions, condition, .. } = &request.task else { return Ok(()) };
    let Some(redactor) = Redactor::new(permit.policy.redact.clone()) else { return Ok(()) };
    expressions.iter().chain(condition).try_for_each(|expression| {
        redactor.check_text(expression.as_str()).map_err(|why| {
            Refusal::refused(
                format!("{expression} is not read: {why}"),
                format!("leave it out; the rule is {}", permit.name()),
            )
        })
    })
}

/// Who may open one is decided by its unit, which says nothing of a container in it.
fn can_be_kept(target: &Target, request: &ImageRequest) -> Result<(), Refusal> {
    match (&target.part, request.keep()) {
        (Some(part), Some(_)) => Err(Refusal::refused(
            format!("images of {part} cannot be kept: only those of a unit's own process can"),
            "leave --keep out; `attach --mode observe` keeps the last images for its own time",
        )),
        _ => Ok(()),
    }
}

/// They come back through the socket by which the unit gets its configuration.
fn to_be_kept(beginning: &Beginning, keep: Keep) -> Result<(Origin, OwnedFd), Refusal> {
    let failed = |why: String| Refusal::host(format!("images cannot be kept: {why}"), "try again");
    let missing = || failed("there is no process".to_owned());
    let process = beginning.target.as_ref().ok_or_else(missing)?;
    let origin = Origin::of(&beginning.session, process, keep)?;
    let image = beginning.material.image.as_ref().ok_or_else(missing)?;
    let socket = image.socket.as_ref().ok_or_else(missing)?;
    let ours = socket.ours().map_err(|error| failed(error.to_string()))?;
    Ok((origin, ours))
}

/// How an image of a target comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    Forked,
    /// It has to stand for longer, and why.
    Standing(String),
}

impl Way {
    pub(super) fn copying(&self) -> Copying {
        match self {
            Self::Forked => Copying::Forked,
            Self::Standing(_) => Copying::Standing,
        }
    }
}

/// How images of this target come about: by a fork where nothing speaks against it.
///
/// # Errors
/// When the target is just ending, or systemd does not answer.
pub(super) async fn way_of(systemd: &Systemd, target: &Target) -> Result<Way, Refusal> {
    let facts = systemd
        .properties(target.unit.as_str())
        .await
        .map_err(|error| Refusal::host(error.to_string(), "is systemd running here?"))?;
    let no_fork = match who_would_not_take_copies(target)? {
        Some(why) => Some(why),
        None => what_forbids_copies(target, &facts)?,
    };
    Ok(no_fork.map_or(Way::Forked, Way::Standing))
}

/// A copy is a child of the target's parent, which has to take its end. systemd takes everybody's; the first process
/// of a container gets no sibling from the kernel.
fn who_would_not_take_copies(target: &Target) -> Result<Option<String>, Refusal> {
    let is_systemd = |pid: u32| {
        pid == 1
            || Pid::try_from(pid)
                .ok()
                .and_then(|pid| Process::pin(pid).ok()?.comm().ok())
                .is_some_and(|comm| comm == "systemd")
    };
    let ending = |error: process::ProcessError| {
        Refusal::target(format!("{} is just ending: {error}", target.unit), "try again")
    };
    if target.process.is_first_of_namespace().map_err(ending)? {
        let why = "it is the first process of its namespace, of which the kernel makes no copy";
        return Ok(Some(why.to_owned()));
    }
    let parent = target.process.parent().map_err(ending)?;
    Ok((!is_systemd(parent)).then(|| {
        let name = Pid::try_from(parent).ok().and_then(|pid| Process::pin(pid).ok()?.comm().ok());
        let name = name.map_or_else(String::new, |name| format!(" ({name})"));
        format!("process {parent}{name}, which started it, expects no child that is a copy of it")
    }))
}

/// Some filters kill a program for a system call that it is made to make. Those of the unit can be
/// read; one that the program or its container's engine has set up cannot.
fn what_forbids_copies(target: &Target, facts: &UnitFacts) -> Result<Option<String>, Refusal> {
    const MAKE_FILTERS: [&str; 9] = [
        "RestrictRealtime",
        "RestrictSUIDSGID",
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectClock",
        "ProtectHostname",
    ];
    let status = target.process.status().map_err(|error| {
        Refusal::target(format!("{} is just ending: {error}", target.unit), "try again")
    })?;
    // A container's filter is that of systemd in it too, which makes processes all the time.
    let of_all = process::filters_of_all();
    if status.seccomp == 0 || (of_all.is_some() && status.seccomp_filters == of_all) {
        return Ok(None);
    }
    let (is_allow_list, calls) = facts.list("SystemCallFilter");
    if !calls.is_empty() {
        // systemd writes CALL or CALL:ERROR.
        let named = calls.iter().any(|call| call.split(':').next() == Some("clone"));
        let forbidden = "its SystemCallFilter= forbids clone(2), by which it would be copied";
        return Ok((named != is_allow_list).then(|| forbidden.to_owned()));
    }
    let listed = ["RestrictAddressFamilies", "SystemCallArchitectures", "SystemCallLog"];
    let by_unit = MAKE_FILTERS.iter().any(|name| facts.flag(name))
        || listed.iter().any(|name| facts.is_set(name))
        || facts.number("RestrictNamespaces").is_some_and(|allowed| allowed != u64::MAX);
    let unknown = "a filter of its system calls that is not its unit's might kill it for a fork";
    Ok((!by_unit).then(|| unknown.to_owned()))
}

/// What an image would do to this target; for `inspect` and `doctor`.
pub async fn foretell(systemd: &Systemd, target: &Target) -> ImageForecast {
    match way_of(systemd, target).await {
        Ok(way) => {
            let refusal = forecast(target, PauseLimit::default(), &way).err();
            ImageForecast { refusal, ..foretold(target, way) }
        }
        Err(refusal) => no_image(target, refusal),
    }
}

/// What it would be, were it not for `refusal`.
pub fn no_image(target: &Target, refusal: Refusal) -> ImageForecast {
    ImageForecast { refusal: Some(refusal), ..foretold(target, Way::Forked) }
}

fn foretold(target: &Target, way: Way) -> ImageForecast {
    let bytes = resident(target);
    let pause_ms = Forecast::of_image(bytes, way.copying());
    let standing = match way {
        Way::Forked => None,
        Way::Standing(why) => Some(why),
    };
    ImageForecast { pause_ms, bytes, standing, refusal: None }
}

fn resident(target: &Target) -> u64 {
    target.process.status().ok().and_then(|status| status.vm_rss_kb).unwrap_or(0) * 1024
}

/// # Errors
/// When an image would take longer than this.
pub(super) fn forecast(
    target: &Target,
    max_pause: PauseLimit,
    way: &Way,
) -> Result<Forecast, Refusal> {
    let resident = resident(target);
    let forecast = Forecast::of_image(resident, way.copying());
    if forecast.as_millis() <= u64::from(max_pause.get()) {
        return Ok(forecast);
    }
    let why = match way {
        Way::Forked => String::new(),
        Way::Standing(why) => format!(", read while it stands, since {why}"),
    };
    Err(Refusal::new(
        Code::Freeze,
        format!(
            "an image would stop {} for about {} ms ({} in memory{why}), more than the {} of --max-pause",
            target.unit,
            forecast.as_millis(),
            godebug_api::forecast::megabytes(resident),
            max_pause
        ),
        format!("allow it with --max-pause {}ms", forecast.as_millis()),
    ))
}

/// How long it may take.
fn lasts(request: &ImageRequest) -> Duration {
    let waits = match &request.task {
        ImageTask::Snapshot { at, .. } if !at.is_empty() => request.patience.duration(),
        _ => Duration::ZERO,
    };
    waits + WORK
}

fn opened(
    prepared: &Prepared,
    request: &ImageRequest,
    (caller, permit): (&Caller, &Permit),
    id: &SessionId,
) -> Opened {
    let Prepared { target, debugger, forecast, .. } = prepared;
    let lasts = lasts(request);
    Opened {
        id: id.clone(),
        unit: target.unit.clone(),
        target: target.part.clone(),
        invocation: target.invocation,
        pid: target.process.pid,
        start_ticks: target.process.start_ticks,
        mode: Mode::Observe,
        uid: caller.uid,
        user: caller.user.clone(),
        held_by: Some(caller.name.to_string()),
        absence: Absence::default(),
        reason: request.reason.clone(),
        sources: Vec::new(),
        port: None,
        endpoint_host: None,
        opened_at: clock::rfc3339(clock::now().wall_ms),
        ttl_seconds: lasts.as_secs(),
        at_most_until: Deadline::after(clock::now(), lasts),
        debugger: debugger.path.clone(),
        go_version: target.executable.go_version_text.clone(),
        watchdog_usec: target.watchdog_usec,
        target_is_starting: target.starting,
        freeze_forecast_ms: Some(*forecast),
        pause: None,
        rule: Some(permit.name()),
        program: Some(target.program()),
        login: caller.login.clone(),
        approvals: Vec::new(),
        exec: None,
        dump: None,
        break_glass: permit.consent == Consent::GlassBroken,
    }
}

fn beginning(
    prepared: Prepared,
    request: ImageRequest,
    (session, config): (Opened, &Config),
    output: OwnedFd,
) -> Result<Beginning, Refusal> {
    let socket = ImageSocket::new()
        .map_err(|error| Refusal::host(format!("no socket can be made: {error}"), "try again"))?;
    let record = ImageRecord {
        client: session.user.clone(),
        host: kernel_says("hostname"),
        boot: kernel_says("random/boot_id"),
        values: config.transcript_values,
    };
    let Prepared { target, debugger, way, confinement, symbols, .. } = prepared;
    let (id, deadline, lasts) = (&session.id, session.at_most_until, lasts(&request));
    let image = ImageMaterial {
        id: id.clone(),
        target: target.unit.clone(),
        user: target.user.clone(),
        at_most: lasts,
        target_is_starting: target.starting,
        confinement,
        config: ImageConfig {
            unit: target.unit.clone(),
            pid: target.process.pid,
            start_ticks: target.process.start_ticks,
            debugger: debugger.path,
            symbols: symbols.as_ref().map(|_| SessionPaths::of(id).symbols()),
            copying: way.copying(),
            guarded: true,
            work: ImageWork::Answer(request),
            redact: config.redact.clone(),
            record: Some(record),
        },
        output: Some(output),
        socket: Some(socket),
        symbols,
    };
    let plan = plan::image_plan(id, &session.unit, session.pid);
    let material = Material { deadline, session: None, image: Some(image) };
    Ok(Beginning { session, target: Some(target.process), plan, material, work: None })
}
