//! The real host behind the engine: each kind of grant by its own driver.

pub mod apparmor;
pub mod confinement;
pub mod firewalld;
pub mod gateway;
pub mod nftables;
pub mod routes;
pub mod selinux;
pub mod shared;
pub mod systemctl;
pub mod systemd;
mod target;
pub mod units;

use crate::audit::{self, Entry, Kind};
use crate::engine::{End, Host};
use crate::paths::SessionPaths;
use crate::target::process;
use crate::{hooks, rescue, transcripts};
use apparmor::Variant;
use firewalld::Firewalld;
use godebug_api::control::GatewayConfig;
use godebug_api::handover::ImageSocket;
use godebug_api::image::{ImageWork, SYMBOLS};
use godebug_api::{Deadline, Port, Refusal, SessionId, clock, handover};
use godebug_core::grant::{Grant, guard_unit, repair_unit};
use godebug_core::ledger::Opened;
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;
use systemd::{Systemd, SystemdError};
use zbus::Connection;

/// What taking a grant needs besides the grant.
pub struct Material {
    /// The end that timers and timeouts are set to.
    pub deadline: Deadline,
    /// What only the opening of a session needs; an extension has none of it.
    pub session: Option<SessionMaterial>,
    /// The same for a session that takes images.
    pub image: Option<ImageMaterial>,
}

/// What the unit that takes images is made of.
pub struct ImageMaterial {
    pub id: godebug_api::SessionId,
    pub target: godebug_api::UnitName,
    pub user: units::TargetUser,
    pub at_most: Duration,
    pub target_is_starting: bool,
    pub confinement: godebug_core::plan::Confinement,
    pub config: godebug_api::image::ImageConfig,
    /// The end of the pipe that the unit writes to, if it answers through one.
    pub output: Option<std::os::fd::OwnedFd>,
    /// By which it gets the configuration and the transcript, if it answers, and images come back that are to be kept.
    pub socket: Option<ImageSocket>,
    /// A file with the target's debug information, where it has none itself.
    pub symbols: Option<std::fs::File>,
}

pub struct SessionMaterial {
    /// What hooks are told of the session.
    pub opened: Opened,
    pub debugger: units::DebuggerUnit,
    pub gateway: GatewayConfig,
    /// A file with the target's debug information, and the path of the program that it is for.
    pub symbols: Option<(std::fs::File, std::path::PathBuf)>,
    /// What dlv reads where there is no process.
    pub dump: Option<DumpMaterial>,
    /// What the gateway looks at, or why it cannot.
    pub target_status: Result<std::fs::File, process::ProcessError>,
    /// firewalld's timeouts do no harm on this host.
    pub timed_rules: bool,
}

/// A core dump, and the program that crashed.
pub struct DumpMaterial {
    pub file: std::fs::File,
    pub program: std::fs::File,
    /// What the program says of its build: `gnu:HEX`, `go:TEXT`, both with a comma between, or nothing.
    pub build: String,
    /// Somebody has brought the program along.
    pub vouched_for: bool,
    /// It is an image: in memory, as dlv reads it, and never to be on a disk.
    pub is_image: bool,
    /// In bytes, unpacked.
    pub largest: u64,
}

/// This host.
#[derive(Clone)]
pub struct RealHost {
    /// `None` for godebug-revoke, which must work with no bus.
    systemd: Option<Systemd>,
    /// `None` while the bus is gone; only firewalld is out of reach then.
    bus: Option<Connection>,
}

impl RealHost {
    /// For godebugd, which is on the bus.
    ///
    /// # Errors
    /// When systemd is not.
    pub async fn on_bus(connection: &Connection) -> Result<Self, SystemdError> {
        let systemd = Some(Systemd::on_bus(connection).await?);
        Ok(Self { systemd, bus: Some(connection.clone()) })
    }

    /// For godebug-revoke. A bus that does not answer counts as none.
    pub async fn direct() -> Self {
        let connected = tokio::time::timeout(Duration::from_secs(2), Connection::system()).await;
        Self { systemd: None, bus: connected.ok().and_then(Result::ok) }
    }

    /// systemd as only godebugd has it.
    ///
    /// # Errors
    /// When this is godebug-revoke, which starts no units.
    pub fn systemd(&self) -> Result<&Systemd, Refusal> {
        self.systemd.as_ref().ok_or_else(|| {
            Refusal::failed("only godebugd starts units", "open the session with godebugctl")
        })
    }

    /// The state of a unit, `None` when systemd has no unit of that name in memory.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn unit_state(&self, unit: &str) -> Result<Option<String>, SystemdError> {
        match &self.systemd {
            Some(systemd) => systemd.active_state(unit).await,
            None => systemctl::active_state(unit).await,
        }
    }

    /// The names of all units that match.
    ///
    /// # Errors
    /// When systemd does not answer.
    pub async fn units_matching(&self, pattern: &str) -> Result<Vec<String>, SystemdError> {
        match &self.systemd {
            Some(systemd) => systemd.matching(pattern).await,
            None => systemctl::matching(pattern).await,
        }
    }

    /// Stops a unit and waits for it. A unit that is not there is a success.
    ///
    /// # Errors
    /// When systemd refuses, or after `timeout`.
    pub async fn stop_unit(&self, unit: &str, timeout: Duration) -> Result<(), String> {
        let stopped = match &self.systemd {
            Some(systemd) => systemd.stop(unit, timeout).await,
            None => systemctl::stop(unit, timeout).await,
        };
        stopped.map_err(|error| error.to_string())
    }

    /// What a dead man's timer starts, if that is to end with it: one that was killed at its work is
    /// started again by systemd seconds later. `None` in godebug-revoke, which may be that very service.
    fn service_of_dead_man(&self, timer: &str) -> Option<String> {
        self.systemd.as_ref()?;
        Some(format!("{}.service", timer.trim_end_matches(".timer")))
    }

    /// Lets a unit's processes go on that somebody has stopped. A unit that is not there, or has
    /// none, needs nothing.
    pub async fn continue_unit(&self, unit: &str) {
        match &self.systemd {
            Some(systemd) => systemd.continue_unit(unit).await,
            None => systemctl::continue_unit(unit).await,
        }
    }

    /// What dlv's unit and its guard should have done when they ended, and could not if they were
    /// killed together.
    async fn repair_target(&self, session: &Opened) -> Result<(), String> {
        if target::is_as_before(session) {
            return Ok(());
        }
        let id = session.id.clone();
        let Some(systemd) = &self.systemd else {
            let repaired = tokio::task::spawn_blocking(move || rescue::after_debugger(&id)).await;
            return repaired.map_err(|error| error.to_string())?;
        };
        // godebugd's own sandbox lets it neither write the memory of others nor freeze them.
        let unit = repair_unit(&id);
        systemd
            .start_transient(&unit, units::repair(session), Vec::new(), Duration::from_secs(20))
            .await
            .map_err(|error| format!("the program cannot be put right: {error}"))
    }

    /// firewalld, if it runs.
    ///
    /// # Errors
    /// When the bus is gone or firewalld does not answer.
    pub async fn firewalld(&self) -> Result<Option<Firewalld>, String> {
        let bus = self.bus.as_ref().ok_or("the system bus cannot be reached")?;
        Firewalld::running(bus).await.map_err(|error| error.to_string())
    }

    async fn take_dead_man(&self, unit: &str, deadline: &Deadline) -> Result<(), Refusal> {
        let Some(id) = id_of(unit) else {
            return Err(Refusal::failed(format!("{unit} is no unit of a session"), ""));
        };
        let systemd = self.systemd()?;
        let startup = systemd
            .manager()
            .userspace_timestamp_monotonic()
            .await
            .map_err(|error| systemd_failed(&SystemdError::Unreachable(error)))?;
        let (timer, service) =
            units::dead_man(&id, deadline, clock::now(), startup, monotonic_usec());
        let service_name = unit.replace(".timer", ".service");
        systemd
            .start_transient(unit, timer, vec![(&service_name, service)], units::START_TIMEOUT)
            .await
            .map_err(|error| systemd_failed(&error))
    }

    async fn take_guard(&self, unit: &str, material: &Material) -> Result<(), Refusal> {
        let properties = match (&material.image, &material.session) {
            // Nothing stands for so long that it would have to be told of.
            (Some(image), _) => units::guard(&image.id, &image.target, None),
            (None, Some(SessionMaterial { debugger, .. })) => {
                units::guard(&debugger.id, &debugger.target, debugger.is_spoken_for_to)
            }
            (None, None) => return Err(only_when_opening(unit)),
        };
        self.systemd()?
            .start_transient(unit, properties, Vec::new(), units::START_TIMEOUT)
            .await
            .map_err(|error| systemd_failed(&error))
    }

    /// What was caught is held until dlv has it.
    async fn still_holds(&self, unit: &str) -> Result<(), Refusal> {
        match self.unit_state(unit).await {
            Ok(Some(state)) if state == "active" => Ok(()),
            Ok(_) => Err(let_go_before_dlv()),
            Err(error) => Err(systemd_failed(&error)),
        }
    }

    async fn take_debugger(&self, unit: &str, session: &SessionMaterial) -> Result<(), Refusal> {
        prepare_debugger_files(session).map_err(|error| {
            Refusal::host(
                format!("the files that dlv needs cannot be made below /run/godebug: {error}"),
                "make room in /run, then try again",
            )
        })?;
        let properties = match &session.dump {
            None => units::debugger(&session.debugger),
            Some(dump) => {
                let given = handover::hand_over_dump(dump.file.as_fd(), dump.program.as_fd());
                let given = given.map_err(|error| {
                    Refusal::host(format!("dlv cannot be given the dump: {error}"), "try again")
                })?;
                units::dump_reader(&session.debugger, dump, given.into())
            }
        };
        let takes = match &session.dump {
            None => units::ATTACH_TIMEOUT,
            Some(_) => units::UNPACK_TIMEOUT + units::ATTACH_TIMEOUT,
        };
        let timeout = takes + Duration::from_secs(5);
        let started = self.systemd()?.start_transient(unit, properties, Vec::new(), timeout).await;
        started.map_err(|error| match error {
            SystemdError::Job { .. } | SystemdError::TimedOut { .. } => {
                debugger_failed(session, &error)
            }
            other => systemd_failed(&other),
        })
    }

    async fn take_image(&self, unit: &str, image: &ImageMaterial) -> Result<(), Refusal> {
        let failed = |error: std::io::Error| {
            Refusal::host(format!("what is to be done cannot be handed over: {error}"), "")
        };
        if let Some(file) = &image.symbols {
            place_symbols(&SessionPaths::of(&image.id), file, SYMBOLS.as_ref()).map_err(failed)?;
        }
        let configuration = gateway::sealed_configuration(&image.config).map_err(failed)?;
        let input = match &image.socket {
            None => configuration,
            Some(socket) => {
                let transcript = new_transcript(&image.id)?;
                let handed = socket.hand_over(configuration.as_fd(), transcript.as_fd());
                handed.and_then(|()| socket.theirs.try_clone()).map_err(failed)?
            }
        };
        let properties = units::image(units::ImageUnit {
            id: &image.id,
            target: &image.target,
            user: &image.user,
            at_most: image.at_most,
            target_is_starting: image.target_is_starting,
            confinement: image.confinement,
            input: input.into(),
            output: match &image.output {
                Some(pipe) => Some(pipe.try_clone().map_err(failed)?.into()),
                None => None,
            },
        });
        let timeout = Duration::from_secs(15);
        let started = self.systemd()?.start_transient(unit, properties, Vec::new(), timeout).await;
        started.map_err(|error| systemd_failed(&error))?;
        if let ImageWork::Serve { socket, .. } = &image.config.work {
            self.await_socket(unit, socket).await?;
            let link = SessionPaths::of(&image.id).debugger_socket_link();
            std::os::unix::fs::symlink("dlv/socket", link).map_err(failed)?;
        }
        Ok(())
    }

    /// It is there, by its name, when debuggers are served.
    async fn await_socket(&self, unit: &str, socket: &Path) -> Result<(), Refusal> {
        let limit = tokio::time::Instant::now() + units::START_TIMEOUT;
        while !socket.exists() {
            let state = self.unit_state(unit).await.ok().flatten();
            let is_ending = !matches!(state.as_deref(), Some("active" | "activating"));
            if is_ending || tokio::time::Instant::now() > limit {
                return Err(Refusal::target(
                    format!("{unit} did not get to where it takes images"),
                    format!("see why with `journalctl -u {unit}`"),
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn take_gateway(
        &self,
        unit: &str,
        port: Port,
        session: &SessionMaterial,
    ) -> Result<(), Refusal> {
        let transcript = new_transcript(&session.gateway.id)?;
        let status = session.target_status.as_ref().map_err(|error| {
            Refusal::target(format!("the target cannot be looked at: {error}"), "try again")
        })?;
        let handover =
            gateway::handover(&session.gateway, status, transcript).map_err(|error| {
                Refusal::host(
                    format!("the gateway cannot be given what it needs: {error}"),
                    "try again",
                )
            })?;
        let properties = units::gateway(units::GatewayUnit {
            id: &session.gateway.id,
            port,
            sources: &session.gateway.sources,
            tracer: &session.opened.tracer_unit(),
            at_most: session.debugger.at_most,
            confinement: session.debugger.confinement,
            handover: handover.into(),
        });
        let timeout = units::START_TIMEOUT + Duration::from_secs(5);
        let started = self.systemd()?.start_transient(unit, properties, Vec::new(), timeout).await;
        started.map_err(|error| match error {
            SystemdError::Job { .. } | SystemdError::TimedOut { .. } => Refusal::host(
                format!("the gateway did not start on port {port}: {error}"),
                format!("see why with `journalctl -u {unit}`; is the port in use?"),
            ),
            other => systemd_failed(&other),
        })
    }

    async fn take_firewalld_rule(
        &self,
        zone: &str,
        rule: &str,
        deadline: &Deadline,
        timed: bool,
    ) -> Result<(), Refusal> {
        let failed = |why: String| {
            Refusal::host(
                format!("firewalld did not open the port: {why}"),
                "see `systemctl status firewalld`",
            )
        };
        let Some(firewalld) = self.firewalld().await.map_err(&failed)? else {
            return Err(failed("it has just gone away".to_owned()));
        };
        // One second more than the session: firewalld counts whole seconds, and the orderly
        // removal comes first.
        let timeout = deadline.remaining(clock::now()) + Duration::from_secs(1);
        firewalld
            .add(zone, rule, timed.then_some(timeout))
            .await
            .map_err(|error| failed(error.to_string()))
    }

    async fn read_back_unit(&self, unit: &str) -> Option<String> {
        match self.unit_state(unit).await {
            Ok(None) => None,
            Ok(Some(state)) if state == "inactive" => None,
            Ok(Some(state)) => Some(format!("it is {state}")),
            Err(error) => Some(error.to_string()),
        }
    }

    async fn read_back_rule(&self, zone: &str, rule: &str) -> Option<String> {
        match self.firewalld().await {
            // Its runtime configuration went with it; the kernel is asked for itself.
            Ok(None) => None,
            Ok(Some(firewalld)) => match firewalld.find(zone, rule).await {
                Ok(None) => None,
                Ok(Some(place)) => Some(format!("it is in {place}")),
                Err(error) => Some(error.to_string()),
            },
            Err(why) => Some(why),
        }
    }
}

impl Host for RealHost {
    type Material = Material;

    async fn take(&self, grant: &Grant, material: &Material) -> Result<(), Refusal> {
        let session = || material.session.as_ref().ok_or_else(|| only_when_opening(grant));
        match grant {
            Grant::DeadMan { unit } => self.take_dead_man(unit, &material.deadline).await,
            Grant::Guard { unit } => self.take_guard(unit, material).await,
            // It was there before the session could be planned.
            Grant::Launcher { unit } => self.still_holds(unit).await,
            Grant::Started { .. } => Ok(()),
            Grant::Image { unit, .. } => {
                let image = material.image.as_ref().ok_or_else(|| only_when_opening(grant))?;
                self.take_image(unit, image).await
            }
            Grant::Debugger { unit, .. } => self.take_debugger(unit, session()?).await,
            Grant::GatewayProfile { .. } => self.open_gateway_profile().await,
            Grant::Boolean { name, value, .. } => self.turn_boolean(name, *value).await,
            Grant::Drained => hooks::drain(&session()?.opened).await,
            Grant::Gateway { unit, port } => self.take_gateway(unit, *port, session()?).await,
            Grant::Fence { table } => {
                let gateway = &session()?.gateway;
                let ends_in = material.deadline.remaining(clock::now());
                nftables::raise(table, gateway.port, &gateway.sources, ends_in)
                    .await
                    .map_err(|error| nft_failed(&error))
            }
            Grant::FirewalldRule { zone, rule } => {
                let timed = session()?.timed_rules;
                self.take_firewalld_rule(zone, rule, &material.deadline, timed).await
            }
        }
    }

    async fn cut(&self, session: &Opened) {
        let control = SessionPaths::of(&session.id).control_socket();
        // A gateway that does not answer is stopped in a moment anyway.
        let request = godebug_api::control::Request::Cut;
        let _ = gateway::ask(&control, &request, Duration::from_millis(500)).await;
    }

    async fn undo(&self, session: &Opened, grant: &Grant) -> Result<(), String> {
        const STOP: Duration = Duration::from_secs(10);
        match grant {
            Grant::DeadMan { unit } => {
                self.stop_unit(unit, STOP).await?;
                match self.service_of_dead_man(unit) {
                    Some(service) => self.stop_unit(&service, STOP).await,
                    None => Ok(()),
                }
            }
            Grant::Gateway { unit, .. } | Grant::Guard { unit } => self.stop_unit(unit, STOP).await,
            Grant::Launcher { unit } => {
                self.stop_unit(unit, STOP).await?;
                // Which it does itself when it ends; whoever kills all of a unit can kill that too.
                if target::is_held(session) {
                    self.continue_unit(session.unit.as_str()).await;
                }
                Ok(())
            }
            Grant::Started { unit } => self.stop_unit(unit.as_str(), units::STOP_TARGET).await,
            Grant::GatewayProfile { .. } => self.lock_gateway_profile(Some(&session.id)).await,
            Grant::Boolean { name, found, .. } => {
                self.restore_boolean(name, *found, Some(&session.id)).await
            }
            Grant::Debugger { unit, .. } | Grant::Image { unit, .. } => {
                // dlv cannot be asked to detach, nor end under a guard, while they are stopped.
                self.continue_unit(&guard_unit(&session.id)).await;
                self.continue_unit(unit).await;
                let patience = 2 * units::DETACH_TIMEOUT + STOP;
                self.stop_unit(unit, patience).await?;
                if session.dump.is_some() {
                    return Ok(());
                }
                self.repair_target(session).await
            }
            Grant::Drained => undrain(session).await,
            Grant::Fence { table } => {
                nftables::remove(table).await.map_err(|error| error.to_string())
            }
            Grant::FirewalldRule { zone, rule } => match self.firewalld().await? {
                Some(firewalld) => {
                    firewalld.remove(zone, rule).await.map_err(|error| error.to_string())
                }
                None => match session.port {
                    Some(port) => remove_from_kernel(port).await,
                    None => Ok(()),
                },
            },
        }
    }

    async fn read_back(&self, session: &Opened, grant: &Grant) -> Vec<(String, Option<String>)> {
        match grant {
            Grant::Guard { unit } => vec![(unit.clone(), self.read_back_unit(unit).await)],
            Grant::DeadMan { unit } => {
                let mut read = vec![(unit.clone(), self.read_back_unit(unit).await)];
                if let Some(service) = self.service_of_dead_man(unit) {
                    let left = self.read_back_unit(&service).await;
                    read.push((service, left));
                }
                read
            }
            Grant::Launcher { unit } => {
                let held = target::is_held(session).then(|| "it stands there".to_owned());
                vec![
                    (unit.clone(), self.read_back_unit(unit).await),
                    (format!("process {} held at its start", session.pid), held),
                ]
            }
            Grant::Started { unit } => {
                let state = match self.unit_state(unit.as_str()).await {
                    Ok(Some(state)) if !matches!(state.as_str(), "inactive" | "failed") => {
                        Some(format!("it is {state}"))
                    }
                    Ok(_) => None,
                    Err(error) => Some(error.to_string()),
                };
                vec![(format!("{unit}, which did not run before"), state)]
            }
            Grant::Debugger { unit, .. } | Grant::Image { unit, .. } => {
                let mut read = vec![(unit.clone(), self.read_back_unit(unit).await)];
                if session.dump.is_none() {
                    read.extend(target::read_back(session));
                }
                read
            }
            Grant::Drained => {
                let back = SessionPaths::of(&session.id).undrained_marker().exists();
                let found = (!back).then(|| "the undrain hook has not succeeded".to_owned());
                vec![(format!("{} out of its pool", session.unit), found)]
            }
            Grant::GatewayProfile { profile } => vec![read_back_profile(profile, &session.id)],
            Grant::Boolean { name, value, found } => {
                vec![selinux::read_back(name, *value, *found, &session.id)]
            }
            Grant::Gateway { unit, port } => vec![
                (unit.clone(), self.read_back_unit(unit).await),
                (format!("listener on port {port}"), read_back_listener(*port)),
            ],
            Grant::Fence { table } => {
                let found = match nftables::list().await {
                    Ok(tables) => tables.contains(table).then(|| "it is there".to_owned()),
                    Err(error) => Some(error.to_string()),
                };
                vec![(format!("nftables table {table}"), found)]
            }
            Grant::FirewalldRule { zone, rule } => {
                let mut read = vec![(
                    format!("firewalld {zone}: {rule}"),
                    self.read_back_rule(zone, rule).await,
                )];
                if let Some(port) = session.port {
                    let kernel = match nftables::left_by_firewalld(port).await {
                        Ok(left) => (!left.is_empty()).then(|| "it is let in".to_owned()),
                        Err(error) => Some(error.to_string()),
                    };
                    read.push((format!("port {port} in firewalld's nftables"), kernel));
                }
                read
            }
        }
    }

    fn record_end(&self, session: &Opened, end: &End) {
        let (kind, message) = if end.is_clean() {
            (
                Kind::Closed,
                format!("session {} on {} is closed: {}", session.id, session.unit, end.reason),
            )
        } else {
            let stuck = end.stuck.join("; ");
            (Kind::Stuck, format!("session {} on {} is stuck: {stuck}", session.id, session.unit))
        };
        let info = crate::sessions::info_of(session, end);
        let entry = Entry::new(kind, session.unit.as_str(), session.uid, &session.user, message)
            .session(&session.id)
            .details(serde_json::to_value(&info).unwrap_or_default());
        if let Err(error) = audit::record(&entry) {
            tracing::error!("the end of session {} is not in the audit log: {error}", session.id);
        }
    }
}

fn only_when_opening(what: impl std::fmt::Display) -> Refusal {
    Refusal::failed(format!("{what} can only be taken when a session opens"), "")
}

/// The session that a unit belongs to: what stands between `@` and the suffix, less a generation.
pub fn id_of(unit: &str) -> Option<godebug_api::SessionId> {
    let (_, rest) = unit.strip_prefix("godebug-")?.split_once('@')?;
    rest.split(['.', '-']).next()?.parse().ok()
}

/// firewalld has gone; when it was killed, its rules are still in force.
async fn remove_from_kernel(port: Port) -> Result<(), String> {
    let left = nftables::left_by_firewalld(port).await.map_err(|error| error.to_string())?;
    for rule in left {
        nftables::remove_left(&rule).await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Puts the service back into its pool, once: a site's hook need not bear being run again.
async fn undrain(session: &Opened) -> Result<(), String> {
    let marker = SessionPaths::of(&session.id).undrained_marker();
    if marker.exists() {
        return Ok(());
    }
    hooks::undrain(session).await?;
    std::fs::write(&marker, "").map_err(|error| format!("{}: {error}", marker.display()))
}

/// Whether the profile is locked, or open for somebody else.
/// The launcher is gone, and with it the hold on what was started.
pub fn let_go_before_dlv() -> Refusal {
    Refusal::host(
        "the process that was caught at its start has been let go before dlv could take it",
        "try again",
    )
}

/// What is done in a session is written there; without it nothing is opened.
fn new_transcript(id: &SessionId) -> Result<std::fs::File, Refusal> {
    transcripts::create(id).map_err(|error| {
        Refusal::host(
            format!("the transcript cannot be written, so nothing is opened: {error}"),
            "make room in /var/log/godebug, then try again",
        )
    })
}

fn read_back_profile(profile: &str, id: &SessionId) -> (String, Option<String>) {
    let what = format!("AppArmor profile {profile}, open");
    match (apparmor::gateway_variant(), apparmor::needed_by(Some(id))) {
        (Err(error), _) => (what, Some(error.to_string())),
        (Ok(None | Some(Variant::Locked)), _) => (what, None),
        (Ok(Some(Variant::Open)), Ok(others)) => match others.first() {
            Some(other) => (format!("{what} (now for session {other})"), None),
            None => (what, Some("it is loaded".to_owned())),
        },
        (Ok(Some(Variant::Open)), Err(error)) => (what, Some(error.to_string())),
    }
}

fn read_back_listener(port: Port) -> Option<String> {
    match process::tcp_listening_ports() {
        Ok(ports) => ports.contains(&port.get()).then(|| "somebody listens there".to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// What dlv finds when it starts: an empty configuration of its own, telemetry off, and the
/// symbols if there are any.
fn prepare_debugger_files(session: &SessionMaterial) -> std::io::Result<()> {
    let id = &session.debugger.id;
    let paths = SessionPaths::of(id);
    let configuration = paths.debugger_configuration();
    let telemetry = configuration.join("go/telemetry");
    let dlv = configuration.join("dlv");
    std::fs::create_dir_all(&telemetry)?;
    std::fs::create_dir_all(&dlv)?;
    std::fs::write(telemetry.join("mode"), "off 1970-01-01\n")?;
    let mut settings = String::from("debug-info-directories: []\n");
    if let Some((file, program)) = &session.symbols {
        // In a directory whose name has no "build-id" in it dlv looks for NAME.debug, which works
        // for programs without GNU's build ID too (pkg/proc/bininfo.go, openSeparateDebugInfo).
        let mut name = program.file_name().unwrap_or_default().to_owned();
        name.push(".debug");
        place_symbols(&paths, file, &name)?;
        settings = format!("debug-info-directories: [\"{}\"]\n", paths.symbols().display());
    }
    std::fs::write(dlv.join("config.yml"), settings)?;
    for path in [configuration.clone(), configuration.join("go"), telemetry, dlv] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o2770))?;
    }
    // systemd would make it root's alone, and who waits for dlv could not repeat its last words.
    let log = std::fs::File::create_new(paths.debugger_log())?;
    let group = std::fs::metadata(paths.debugger_directory())?.gid();
    std::os::unix::fs::fchown(&log, None, Some(group))?;
    log.set_permissions(std::fs::Permissions::from_mode(0o640))?;
    std::os::unix::fs::symlink("dlv/socket", paths.debugger_socket_link())
}

/// Puts debug information where only this session's debugger looks for it.
fn place_symbols(
    paths: &SessionPaths,
    mut file: &std::fs::File,
    name: &std::ffi::OsStr,
) -> std::io::Result<()> {
    std::fs::create_dir(paths.symbols())?;
    let mut copy = std::fs::File::create(paths.symbols().join(name))?;
    // Whoever compared the build IDs has moved the position that we share with them.
    file.seek(SeekFrom::Start(0))?;
    std::io::copy(&mut file, &mut copy)?;
    copy.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    std::fs::set_permissions(paths.symbols(), std::fs::Permissions::from_mode(0o755))
}

/// What godebug-dlvctl says of a target that stood for too long.
const FROZE: &str = " stood for more than ";

/// The end of what dlv and its attendant printed, each line once, without what says nothing to a person.
fn last_words(printed: &str) -> String {
    const LONGEST: usize = 600;
    let mut lines: Vec<&str> = Vec::new();
    for line in printed.lines().map(|line| line.strip_prefix("dlv: ").unwrap_or(line)) {
        let says_nothing = ["API server listening", "threads of "].iter();
        if !lines.contains(&line) && !says_nothing.into_iter().any(|it| line.contains(it)) {
            lines.push(line);
        }
    }
    let words = lines.join(" / ");
    let from = words.len().saturating_sub(LONGEST);
    let from = (from..words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(from);
    words[from..].to_owned()
}

fn debugger_failed(session: &SessionMaterial, error: &SystemdError) -> Refusal {
    let id = &session.debugger.id;
    let printed = std::fs::read(SessionPaths::of(id).debugger_log()).unwrap_or_default();
    let printed = String::from_utf8_lossy(&printed[printed.len().saturating_sub(8192)..]);
    let printed: String = printed.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    // The file goes with the session.
    tracing::warn!(godebug_session = id.as_str(), "godebug-dlv@{id} did not start: {printed}");
    if let Some(froze) = printed.lines().find(|line| line.contains(FROZE)) {
        return Refusal::target(
            format!("{froze}, so the attaching was broken off"),
            "look at images of it instead, with --mode observe, which stop it for about a millisecond; \
             or allow more with --max-freeze",
        );
    }
    let tail = last_words(&printed);
    let said = if tail.is_empty() { String::new() } else { format!(" dlv said: {tail}") };
    let of = session.debugger.pid;
    let message = match &session.dump {
        None => format!("dlv did not get hold of process {of}: {error}.{said}"),
        Some(DumpMaterial { is_image: true, .. }) => {
            format!("dlv did not get to read the image of process {of}: {error}.{said}")
        }
        Some(_) => format!("dlv did not get to read the core dump of process {of}: {error}.{said}"),
    };
    Refusal::target(
        message,
        format!(
            "`journalctl GODEBUG_SESSION={id}` has more; `godebugctl doctor {}` looks at the unit",
            session.debugger.target
        ),
    )
}

fn systemd_failed(error: &SystemdError) -> Refusal {
    Refusal::host(error.to_string(), "see `systemctl status` and `journalctl -u godebugd`")
}

fn nft_failed(error: &nftables::NftError) -> Refusal {
    Refusal::host(
        format!("the fence around the port cannot be put up: {error}"),
        "install nftables, and see that the kernel has it: nft list tables",
    )
}

fn monotonic_usec() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}
