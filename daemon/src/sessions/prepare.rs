//! Everything that is found out and decided before the first change to the host.

use super::Sessions;
use super::images;
use super::launch::Launched;
use crate::authority::Caller;
use crate::config::Config;
use crate::freeze;
use crate::host::{confinement, nftables, routes, selinux, units};
use crate::paths;
use crate::target::executable::{DebugSize, GoExecutable, SymbolFile};
use crate::target::find::{self, Target};
use crate::target::{debuggers, process};
use godebug_api::documents::{DebugInformation, OpenRequest, PlanDocument, SessionInfo};
use godebug_api::image::PauseLimit;
use godebug_api::rules::engine::{Consent, Permit};
use godebug_api::{
    Approval, Cidr, Code, Copying, Deadline, Forecast, Mode, PauseBudget, Port, Refusal, SessionId,
    Ttl, UnitName, clock,
};
use godebug_core::delve::{self, Debugger, GoVersion};
use godebug_core::forecast::{self, Objection, Work, megabytes};
use godebug_core::ledger::Opened;
use godebug_core::plan::{self, Boolean, Confinement, Exec, Facts, Firewall, Plan, Wanted};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the request brings along for a target without debug information.
#[derive(Clone, Copy)]
pub enum Symbols<'a> {
    None,
    /// There will be a file; a plan does not look into it.
    Announced,
    InFile(&'a File),
}

/// A session that could be opened now.
pub struct Prepared {
    pub target: Target,
    pub wanted: Wanted,
    pub facts: Facts,
    pub plan: Plan,
    pub endpoint_host: String,
    /// `None` when it cannot be told: a plan does not look into a symbols file.
    pub freeze: Option<Freeze>,
    /// For how long attaching may really stop the target.
    pub stands_at_most: Option<Duration>,
    pub pause: PauseBudget,
    /// Of a session that takes images.
    pub observes: Option<Observes>,
}

/// What images will do to the target.
#[derive(Debug, Clone, Copy)]
pub struct Observes {
    pub max_pause: PauseLimit,
    pub copying: Copying,
    pub forecast: Forecast,
}

/// What attaching will do to the target.
#[derive(Debug, Clone, Copy)]
pub struct Freeze {
    pub work: Work,
    pub forecast: Forecast,
}

/// Looks at the request, the target and the host, and plans. Changes nothing.
///
/// # Errors
/// The first reason why it cannot work, with the remedy.
pub async fn prepare(
    sessions: &Sessions,
    config: &Config,
    unit: &UnitName,
    request: &OpenRequest,
    symbols: Symbols<'_>,
    (id, launched): (SessionId, Option<Launched>),
) -> Result<Prepared, Refusal> {
    within_the_rules(config, request)?;
    let host = &sessions.shared().host;
    let exec = exec(sessions, unit, request, launched).await?;
    let pid = request.pid.or(launched.map(|launched| launched.pid));
    let target = find::find(host.systemd()?, unit, request.part.as_ref(), pid).await?;
    is_still(unit, &target)?;
    not_twice(&sessions.list(), &target)?;
    find::traceable(&target)?;
    let confinement = confinement::of_this_host()?;
    confinement::lets_debug(target.process.pid, target.unit.as_str(), confinement)?;
    let debugger = fitting_debugger(&target).await?;
    let observes = match request.mode {
        Mode::Observe => {
            let way = images::way_of(host.systemd()?, &target).await?;
            let max_pause = request.max_pause;
            let forecast = images::forecast(&target, max_pause, &way)?;
            Some(Observes { max_pause, copying: way.copying(), forecast })
        }
        Mode::Step | Mode::Modify => None,
    };
    let symbols = has_symbols(&target, symbols)?;
    // Nothing attaches to a target of which images are taken, and one that is just starting serves
    // nobody who could miss it.
    let is_missed = observes.is_none() && exec.is_none();
    let work = target.work(symbols).filter(|_| is_missed);
    let freeze = work.map(|work| Freeze { work, forecast: freeze::forecast(work) });
    let foretold = freeze.map(|freeze| freeze.forecast);
    let stands_at_most = is_missed
        .then(|| forecast::stands_at_most(request.max_freeze, foretold, request.accept_freeze));
    let network = network(sessions, config, request).await?;
    let Network { port, sources, firewall, confinement, booleans } = network;
    let wanted = Wanted { id, mode: request.mode, ttl: request.ttl, port, sources };
    let facts = Facts {
        unit: target.unit.clone(),
        pid: target.process.pid,
        user: target.user.name(),
        debugger,
        firewall,
        confinement,
        booleans,
        exec,
        dump: None,
        drains: config.drains(&target.unit),
    };
    let plan = plan::plan(&wanted, &facts);
    let endpoint_host = endpoint_host(request, &wanted.sources);
    let pause = pause_budget(config, request);
    Ok(Prepared {
        target,
        wanted,
        facts,
        plan,
        endpoint_host,
        freeze,
        stands_at_most,
        pause,
        observes,
    })
}

impl Prepared {
    /// Refuses a session whose beginning would freeze the target for longer than whoever asks has
    /// allowed.
    ///
    /// # Errors
    /// A refusal of its own code, so that a client can ask a person and repeat the request.
    pub fn within_the_freeze_limit(&self, request: &OpenRequest) -> Result<(), Refusal> {
        let Some((freeze, objection)) = self.objection(request) else { return Ok(()) };
        let message = format!(
            "attaching will freeze {} for about {} ({} of debug information), {objection}",
            self.target.unit,
            freeze.forecast,
            megabytes(freeze.work.debug_bytes),
        );
        Err(Refusal::new(Code::Freeze, message, objection.remedy()))
    }

    fn objection(&self, request: &OpenRequest) -> Option<(Freeze, Objection)> {
        let freeze = self.freeze.filter(|_| !request.accept_freeze)?;
        let watchdog = self.target.watchdog();
        Some((freeze, Objection::to(freeze.forecast, request.max_freeze, watchdog)?))
    }

    /// For how long attaching, or one image, stops the target.
    fn stands_for(&self) -> Option<Forecast> {
        let of_image = self.observes.map(|observes| observes.forecast);
        of_image.or(self.freeze.map(|freeze| freeze.forecast))
    }

    /// Nobody holds a target of which images are taken.
    fn may_stand(&self) -> Option<PauseBudget> {
        Some(self.pause).filter(|_| self.observes.is_none())
    }

    /// The first record of the session's ledger.
    pub fn opened(
        &self,
        request: &OpenRequest,
        caller: &Caller,
        config: &Config,
        permit: &Permit,
        approvals: Vec<Approval>,
    ) -> Opened {
        let now = clock::now();
        Opened {
            id: self.wanted.id.clone(),
            unit: self.target.unit.clone(),
            target: self.target.part.clone(),
            invocation: self.target.invocation,
            pid: self.target.process.pid,
            start_ticks: self.target.process.start_ticks,
            mode: self.wanted.mode,
            uid: caller.uid,
            user: caller.user.clone(),
            held_by: request.hold.then(|| caller.name.to_string()),
            absence: request.absence,
            reason: request.reason.clone(),
            sources: self.wanted.sources.clone(),
            port: Some(self.wanted.port),
            endpoint_host: Some(self.endpoint_host.clone()),
            opened_at: clock::rfc3339(now.wall_ms),
            ttl_seconds: self.wanted.ttl.get().as_secs(),
            at_most_until: Deadline::after(now, config.max_total + units::ATTACH_TIMEOUT),
            debugger: self.facts.debugger.path.clone(),
            go_version: self.target.executable.go_version_text.clone(),
            watchdog_usec: self.target.watchdog_usec,
            target_is_starting: self.target.starting,
            freeze_forecast_ms: self.stands_for(),
            pause: self.may_stand(),
            rule: Some(permit.name()),
            program: Some(self.target.program()),
            login: caller.login.clone(),
            approvals,
            exec: self.facts.exec.map(|exec| exec.at),
            dump: None,
            break_glass: permit.consent == Consent::GlassBroken,
        }
    }

    /// What `--dry-run` shows.
    pub fn document(&self, request: &OpenRequest, permit: &Permit) -> PlanDocument {
        let firewall = match &self.facts.firewall {
            _ if self.wanted.sources.iter().all(Cidr::is_loopback) => {
                "not touched: clients on this host only".to_owned()
            }
            Firewall::Firewalld { version, .. } => {
                format!("firewalld {version} and an nftables fence")
            }
            Firewall::Nftables => "an nftables fence alone (firewalld is not running)".to_owned(),
        };
        PlanDocument {
            unit: self.target.unit.clone(),
            pid: self.target.process.pid,
            user: self.target.user.name(),
            mode: self.wanted.mode,
            ttl: self.wanted.ttl,
            port: self.wanted.port.get(),
            sources: self.wanted.sources.clone(),
            go_version: self.target.executable.go_version_text.clone(),
            debugger: format!("dlv {} ({})", self.facts.debugger.version, self.facts.debugger.path),
            firewall,
            freeze_forecast_ms: self.stands_for(),
            pause: self.may_stand(),
            rule: Some(permit.name()),
            plan: self.plan.clone(),
            warnings: self.warnings(request, permit),
        }
    }

    fn warnings(&self, request: &OpenRequest, permit: &Permit) -> Vec<String> {
        let mut warnings = Vec::new();
        match &permit.consent {
            Consent::NotNeeded => {}
            Consent::Needed(wanted) => warnings.push(format!("the rule wants {wanted} first")),
            Consent::GlassBroken => warnings.push("it goes ahead as an alarm".to_owned()),
        }
        if let Some((freeze, objection)) = self.objection(request) {
            warnings.push(format!(
                "without --yes attach will refuse a freeze of about {}: {objection}",
                freeze.forecast
            ));
        }
        if let Some(watchdog) = self.target.watchdog() {
            let watchdog = humantime::format_duration(watchdog);
            warnings.push(format!(
                "{} has WatchdogSec={watchdog}: systemd is told that it is alive while the debugger holds it",
                self.target.part.as_ref().map_or_else(|| self.target.unit.to_string(), ToString::to_string)
            ));
        }
        if !self.target.executable.optimised() {
            return warnings;
        }
        warnings.push(
            "the program is optimised: some variables cannot be seen and lines may jump".to_owned(),
        );
        warnings
    }
}

/// Where a gateway will be, and what has to be opened for it.
pub(super) struct Network {
    pub(super) port: Port,
    pub(super) sources: Vec<Cidr>,
    pub(super) firewall: Firewall,
    pub(super) confinement: Confinement,
    pub(super) booleans: Vec<Boolean>,
}

/// The same for every session with a gateway. Changes nothing.
pub(super) async fn network(
    sessions: &Sessions,
    config: &Config,
    request: &OpenRequest,
) -> Result<Network, Refusal> {
    let confinement = confinement::of_this_host()?;
    let booleans = selinux::needed_booleans(&config.selinux_booleans)?;
    let sources = match request.from.as_slice() {
        [] => vec![Cidr::LOOPBACK_4],
        from => Cidr::without_overlaps(from),
    };
    let port = free_port(config, &sessions.list())?;
    let firewall = firewall(sessions, &sources, port).await?;
    Ok(Network { port, sources, firewall, confinement, booleans })
}

/// Whether firewalld's timeouts do no harm on this host.
pub(super) fn timed_rules(firewall: &Firewall) -> bool {
    match firewall {
        Firewall::Firewalld { version, .. } => plan::firewalld_timeout_is_safe(version),
        Firewall::Nftables => false,
    }
}

/// How the target is, or would be, started for the session.
async fn exec(
    sessions: &Sessions,
    unit: &UnitName,
    request: &OpenRequest,
    launched: Option<Launched>,
) -> Result<Option<Exec>, Refusal> {
    let Some(at) = request.exec else { return Ok(None) };
    let was_running = match launched {
        Some(launched) => launched.was_running,
        // For a plan, or for whoever has to consent: of what runs now.
        None => sessions.launch_of(unit, request).await?.was_running,
    };
    if launched.is_none() && !was_running {
        return Err(Refusal::target(
            format!("{unit} does not run, so there is no process to plan for or to consent to"),
            "start it first, or use exec where no approval is needed",
        ));
    }
    Ok(Some(Exec { at, was_running }))
}

pub(super) fn within_the_rules(config: &Config, request: &OpenRequest) -> Result<(), Refusal> {
    if request.ttl.get() > config.max_ttl {
        return Err(Refusal::refused(
            format!(
                "{} is longer than this host allows ({})",
                request.ttl,
                humantime::format_duration(config.max_ttl)
            ),
            "ask for less and extend it, or let the administrator raise max_ttl in godebugd.toml",
        ));
    }
    let image = request.max_pause.duration();
    if request.mode == Mode::Observe && image > config.max_pause_per_stop {
        return Err(Refusal::refused(
            format!(
                "one image may stop the service for {} on this host, not for {}",
                humantime::format_duration(config.max_pause_per_stop),
                request.max_pause
            ),
            "ask for less, or let the administrator raise max_pause_per_stop in godebugd.toml",
        ));
    }
    if let Some(pause) = request.pause.filter(|pause| pause.get() > config.max_pause_per_stop) {
        return Err(Refusal::refused(
            format!(
                "the service may stand for {} at one stop on this host, not for {pause}",
                humantime::format_duration(config.max_pause_per_stop)
            ),
            "ask for less, or let the administrator raise max_pause_per_stop in godebugd.toml",
        ));
    }
    Ok(())
}

fn pause_budget(config: &Config, request: &OpenRequest) -> PauseBudget {
    let per_stop = request.pause.map_or(config.pause_per_stop, Ttl::get);
    PauseBudget::new(per_stop, config.pause_per_session)
}

/// Authority was asked for by the name that the unit had then. One that has become the alias of another
/// meanwhile is another unit.
pub(super) fn is_still(unit: &UnitName, target: &Target) -> Result<(), Refusal> {
    if target.unit == *unit {
        return Ok(());
    }
    Err(Refusal::refused(
        format!("{unit} has just become another name for {}", target.unit),
        "ask again, by that name",
    ))
}

pub(super) fn not_twice(live: &[SessionInfo], target: &Target) -> Result<(), Refusal> {
    match live.iter().find(|session| session.pid == target.process.pid) {
        None => Ok(()),
        Some(session) => Err(Refusal::target(
            format!(
                "process {} of {} is already traced: session {} of {} is {}",
                session.pid, target.unit, session.id, session.opened_by, session.state
            ),
            format!("wait for its end, or end it: godebugctl stop {}", session.id),
        )),
    }
}

/// The newest dlv on this host that can debug the target.
pub async fn fitting_debugger(target: &Target) -> Result<Debugger, Refusal> {
    fitting(&target.executable).await
}

/// The same for a program that does not run yet.
pub(super) async fn fitting(executable: &GoExecutable) -> Result<Debugger, Refusal> {
    let found = all_debuggers().await;
    let go = executable.go_version;
    let dwarf5 = executable.debug_information == DebugInformation::Dwarf5;
    match delve::choose(&found.found, go, dwarf5) {
        Ok(debugger) => Ok(debugger.clone()),
        Err(unfit) => {
            let reasons: Vec<String> = unfit
                .iter()
                .map(|(debugger, why)| {
                    format!("dlv {} ({}): {why}", debugger.version, debugger.path)
                })
                .chain(found.skipped.iter().map(|(path, why)| format!("{}: {why}", path.display())))
                .collect();
            let reasons =
                if reasons.is_empty() { "there is none".to_owned() } else { reasons.join("; ") };
            Err(Refusal::target(
                format!("no dlv on this host can debug a program built with Go {go}: {reasons}"),
                remedy_without_debugger(go),
            ))
        }
    }
}

fn remedy_without_debugger(go: GoVersion) -> String {
    let by_hand = format!("one by hand at {}/delve/VERSION/dlv, owned by root", paths::VENDOR);
    match delve::release_for(go) {
        Some(version) => format!("godebugctl toolchain add {version}; or put {by_hand}"),
        None => format!("no Delve that godebug knows of supports Go {go}; put {by_hand}"),
    }
}

/// Every dlv of this host, and those that were left out.
pub async fn all_debuggers() -> debuggers::Search {
    let directories =
        ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from);
    let vendor = Path::new(paths::VENDOR).join("delve");
    let cache = Path::new(paths::RUN).join("delve.json");
    debuggers::find(&vendor, &directories, &cache).await
}

/// What a symbols file has, if there is one to look into.
pub(super) fn has_symbols(
    target: &Target,
    symbols: Symbols<'_>,
) -> Result<Option<DebugSize>, Refusal> {
    match symbols {
        Symbols::InFile(file) => return fitting_symbols(target, file).map(Some),
        Symbols::Announced => return Ok(None),
        Symbols::None => {}
    }
    if target.executable.debug_information != DebugInformation::None {
        return Ok(None);
    }
    Err(Refusal::target(
        format!(
            "the program of {} was built without debug information (-ldflags=-s or -w): no lines, no variables",
            target.unit
        ),
        "build it without those flags, or give the unstripped file of the same build with --symbols FILE",
    ))
}

/// dlv does not compare: with the symbols of another build it would show wrong lines and values.
fn fitting_symbols(target: &Target, file: &File) -> Result<DebugSize, Refusal> {
    const REMEDY: &str = "give the unstripped file of exactly this build";
    let executable = &target.executable;
    let symbols = SymbolFile::read(file, executable.go_version).map_err(|error| {
        Refusal::target(format!("the symbols file cannot be used: {error}"), REMEDY)
    })?;
    if symbols.debug_information == DebugInformation::None {
        return Err(Refusal::target("the symbols file has no debug information either", REMEDY));
    }
    match executable.build_ids.same_build(&symbols.build_ids) {
        Some(true) => Ok(symbols.debug_size),
        Some(false) => Err(Refusal::target(
            format!("the symbols file is of another build than the program of {}", target.unit),
            REMEDY,
        )),
        None => Err(Refusal::target(
            "the symbols file and the program have no build ID in common, so nothing tells whether they belong together",
            "build with a Go that writes build IDs, and without -ldflags=-buildid=",
        )),
    }
}

async fn firewall(sessions: &Sessions, sources: &[Cidr], port: Port) -> Result<Firewall, Refusal> {
    if sources.iter().all(Cidr::is_loopback) {
        return Ok(Firewall::Nftables);
    }
    let failed = |why: String| {
        Refusal::host(
            format!("firewalld is there but cannot be asked: {why}"),
            "see `systemctl status firewalld`; without an answer no port is opened",
        )
    };
    // Undoing needs nft as well, so it is tried before anything is taken.
    let (firewalld, fence, before) = tokio::join!(
        sessions.shared().host.firewalld(),
        nftables::list(),
        nftables::left_by_firewalld(port)
    );
    let unusable = |error: nftables::NftError| {
        Refusal::host(
            format!("the fence around the port cannot be put up: {error}"),
            "install nftables, or open a session for this host itself (without --from)",
        )
    };
    fence.map_err(unusable)?;
    if !before.map_err(unusable)?.is_empty() {
        return Err(Refusal::host(
            format!(
                "firewalld lets port {port} in already, by a rule with a priority that is none of ours; the end of a session could not be proved"
            ),
            "remove that rule, or set other ports in godebugd.toml",
        ));
    }
    let Some(firewalld) = firewalld.map_err(failed)? else {
        return Ok(Firewall::Nftables);
    };
    let zones = firewalld
        .zones_for(sources, routes::interface_towards)
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(Firewall::Firewalld { version: firewalld.version, zones })
}

fn free_port(config: &Config, live: &[SessionInfo]) -> Result<Port, Refusal> {
    let mut used = process::tcp_listening_ports().map_err(|error| {
        Refusal::host(format!("the ports in use cannot be read: {error}"), "is /proc mounted?")
    })?;
    used.extend(live.iter().filter_map(|session| {
        session.endpoint.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok())
    }));
    config
        .ports
        .clone()
        .find(|port| !used.contains(port))
        .and_then(|port| Port::try_from(port).ok())
        .ok_or_else(|| {
            Refusal::host(
                format!(
                    "every port from {} to {} is in use",
                    config.ports.start(),
                    config.ports.end()
                ),
                "end a session (godebugctl list), or set other ports in godebugd.toml",
            )
        })
}

pub(super) fn endpoint_host(request: &OpenRequest, sources: &[Cidr]) -> String {
    if let Some(host) = &request.endpoint_host {
        return host.clone();
    }
    if sources.iter().all(Cidr::is_loopback) {
        return "127.0.0.1".to_owned();
    }
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

pub fn new_id() -> Result<SessionId, Refusal> {
    let mut bytes = [0_u8; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| {
                    Refusal::host(format!("the kernel gives no random bytes: {error}"), "")
                })?;
    }
    Ok(SessionId::from_random(bytes))
}
