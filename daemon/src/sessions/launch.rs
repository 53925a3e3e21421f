//! What `exec` does before there is a session: the unit is started, or started again, and its process
//! caught at its first instruction by a unit of its own, which lets go of it by itself when no session
//! comes of it.

use super::Sessions;
use super::prepare::fitting;
use crate::audit::{self, Entry, Kind};
use crate::authority::Caller;
use crate::host::systemd::{Systemd, UnitFacts};
use crate::host::units::{self, LauncherUnit};
use crate::launch;
use crate::paths::{self, SessionPaths};
use crate::target::executable::GoExecutable;
use crate::target::find;
use godebug_api::documents::OpenRequest;
use godebug_api::{Mode, Pid, Refusal, SessionId, UnitName};
use godebug_core::grant::launcher_unit;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;

/// For what has started to be caught: by then it has executed its program.
const CAUGHT_WITHIN: Duration = Duration::from_secs(3);
/// Where systemd looks for a program that is named without its directory.
const DIRECTORIES: [&str; 4] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];

/// What is kept of a launch until its session has a ledger: whoever comes after a godebugd that died
/// finds by it what may stand.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Marker {
    unit: UnitName,
    was_running: bool,
}

/// What a start is to catch.
#[derive(Debug)]
pub(super) struct Launch {
    unit: UnitName,
    /// Files of which one is executed then.
    programs: Vec<String>,
    pub(super) was_running: bool,
}

/// What the launcher holds its process for: it lets go when this is dropped, as the kernel does for a
/// godebugd that dies.
#[derive(Debug)]
pub(super) struct Tether {
    _reader: BufReader<pipe::Receiver>,
}

/// A process that stands at its first instruction.
#[derive(Debug, Clone, Copy)]
pub struct Launched {
    pub(super) pid: Pid,
    pub(super) was_running: bool,
}

impl Sessions {
    /// What starting `unit` would catch. Changes nothing.
    ///
    /// # Errors
    /// Why it cannot be started for a debugger, with the remedy.
    pub(super) async fn launch_of(
        &self,
        unit: &UnitName,
        request: &OpenRequest,
    ) -> Result<Launch, Refusal> {
        if request.mode == Mode::Observe {
            return Err(Refusal::usage(
                "mode observe works on images of what runs already, and exec starts it",
                "use --mode step, or `godebugctl attach --mode observe`",
            ));
        }
        if let Some(part) = &request.part {
            return Err(Refusal::usage(
                format!("exec has systemd start a unit of the system, and {} is none", part.name),
                "use `godebugctl attach`; or exec the unit that starts the container, if it is one",
            ));
        }
        if request.pid.is_some() {
            return Err(Refusal::usage("exec starts a process, and none can be chosen", ""));
        }
        if let Some(session) = self.list().into_iter().find(|session| session.unit == *unit) {
            return Err(Refusal::target(
                format!(
                    "session {} of {} debugs {unit}, and a restart would end it",
                    session.id, session.opened_by
                ),
                format!("wait for its end, or end it: godebugctl stop {}", session.id),
            ));
        }
        let systemd = self.shared().host.systemd()?;
        let facts = find::properties(systemd, unit).await?;
        if facts.text("Id") != unit.as_str() {
            return Err(Refusal::refused(
                format!("{unit} has just become another name for {}", facts.text("Id")),
                "ask again, by that name",
            ));
        }
        startable(unit, &facts)?;
        let was_running = find::running(unit, &facts).is_ok();
        let program = program(unit, &facts)?;
        let mut programs = vec![program.display().to_string()];
        if was_running {
            let target = find::find(systemd, unit, None, None).await?;
            find::traceable(&target)?;
            // What runs may be another file than what is on the disk, or run by a script.
            programs.push(format!("/proc/{}/exe", target.process.pid));
        }
        // A script is no Go program, and what it runs is seen when it does.
        if let Ok(file) = File::open(&program)
            && let Ok(executable) = GoExecutable::read(&file, &program)
        {
            fitting(&executable).await?;
        }
        Ok(Launch { unit: unit.clone(), programs, was_running })
    }

    /// Starts the unit and catches its process, which is held for as long as the tether is kept, or until
    /// a debugger has it.
    ///
    /// # Errors
    /// What failed; the unit runs on, or is stopped again if it did not run before.
    pub(super) async fn launch(
        &self,
        launch: Launch,
        id: &SessionId,
        (request, caller): (&OpenRequest, &Caller),
    ) -> Result<(Launched, Tether), Refusal> {
        let marker = Marker { unit: launch.unit.clone(), was_running: launch.was_running };
        let systemd = self.shared().host.systemd()?;
        marker.leave(id)?;
        // Nothing has begun, and a later godebugd must not find that something had.
        record(&launch, id, request, caller).inspect_err(|_| taken_over(id))?;
        let name = launcher_unit(id);
        let caught = start_and_catch(systemd, &name, &launch, id).await;
        if caught.is_err() {
            self.let_go(id).await;
        }
        let (pid, tether) = caught?;
        Ok((Launched { pid, was_running: launch.was_running }, tether))
    }

    /// Ends the launcher of a session that is not to be, and lets go of what it holds.
    pub(super) async fn let_go(&self, id: &SessionId) {
        let gone = match Marker::of(id) {
            Ok(Some(marker)) => self.give_back(id, &marker).await,
            Ok(None) => Ok(()),
            Err(why) => Err(why),
        };
        match gone {
            Ok(()) => taken_over(id),
            Err(why) => tracing::error!("{} is left to its own end: {why}", launcher_unit(id)),
        }
    }

    /// What a godebugd has left that died between a start and its session's ledger, or right behind.
    pub(super) async fn recover_launches(&self) {
        let entries = std::fs::read_dir(paths::RUN).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let ids = names.filter_map(|name| name.strip_suffix(".launch")?.parse::<SessionId>().ok());
        for id in ids {
            tracing::warn!(
                "session {id} was being launched when godebugd ended; its unit is let go"
            );
            self.let_go(&id).await;
        }
    }

    /// The launcher's unit does all this when it ends. Whoever kills all of a unit can kill that too,
    /// and a service that stands at its first instruction would stand for ever.
    async fn give_back(&self, id: &SessionId, marker: &Marker) -> Result<(), String> {
        let host = &self.shared().host;
        host.stop_unit(&launcher_unit(id), Duration::from_secs(10)).await?;
        let systemd = host.systemd().map_err(|refusal| refusal.message)?;
        let unit = &marker.unit;
        let facts = find::properties(systemd, unit).await.map_err(|refusal| refusal.message)?;
        if !launch::held_in(&facts.text("ControlGroup"))?.is_empty() {
            tracing::warn!("{unit} still stood at its first instruction, and is continued");
            host.continue_unit(unit.as_str()).await;
        }
        if !marker.was_running {
            host.stop_unit(unit.as_str(), units::STOP_TARGET).await?;
        }
        Ok(())
    }
}

/// The session's ledger says from now on what there is to give back.
pub(super) fn taken_over(id: &SessionId) {
    let path = SessionPaths::of(id).launch_marker();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::error!("{} cannot be removed: {error}", path.display());
        }
        _ => {}
    }
}

impl Marker {
    fn leave(&self, id: &SessionId) -> Result<(), Refusal> {
        let path = SessionPaths::of(id).launch_marker();
        let text = serde_json::to_vec(self).map_err(std::io::Error::other);
        text.and_then(|text| std::fs::write(&path, text)).map_err(|error| {
            // Half of it would be in the way of the next one.
            taken_over(id);
            Refusal::host(
                format!("{} cannot be written, so nothing is started: {error}", path.display()),
                "make room in /run, then try again",
            )
        })
    }

    fn of(id: &SessionId) -> Result<Option<Self>, String> {
        let path = SessionPaths::of(id).launch_marker();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            format!("{} does not say which unit was started: {error}", path.display())
        })
    }
}

/// Written before anything is started: a restart is a change to the host too.
fn record(
    launch: &Launch,
    id: &SessionId,
    request: &OpenRequest,
    caller: &Caller,
) -> Result<(), Refusal> {
    let does = if launch.was_running { "restarts" } else { "starts" };
    let message =
        format!("{} {does} {} for session {id}, under a debugger", caller.user, launch.unit);
    let entry =
        Entry::new(Kind::Launching, launch.unit.as_str(), caller.uid, &caller.user, message)
            .session(id)
            .login(&caller.login)
            .details(serde_json::json!({ "reason": request.reason, "programs": launch.programs }));
    audit::record(&entry).map_err(|error| {
        Refusal::host(
            format!("the audit log cannot be written, so nothing is started: {error}"),
            "make room in /var/log/godebug, then try again",
        )
    })
}

async fn start_and_catch(
    systemd: &Systemd,
    name: &str,
    launch: &Launch,
    id: &SessionId,
) -> Result<(Pid, Tether), Refusal> {
    let unit = &launch.unit;
    let failed = |why: String| {
        let remedy = format!("see `journalctl -u {name}` and `systemctl status {unit}`");
        Refusal::host(why, remedy)
    };
    let (reader, writer) =
        std::io::pipe().map_err(|error| failed(format!("no pipe can be made: {error}")))?;
    let properties = units::launcher(LauncherUnit {
        id,
        target: unit,
        programs: &launch.programs,
        stops: !launch.was_running,
        output: std::os::fd::OwnedFd::from(writer).into(),
    });
    systemd
        .start_transient(name, properties, Vec::new(), units::START_TIMEOUT)
        .await
        .map_err(|error| failed(format!("the start of {unit} cannot be watched: {error}")))?;
    let reader = pipe::Receiver::from_owned_fd(reader.into())
        .map_err(|error| failed(format!("no pipe can be read: {error}")))?;
    let mut lines = BufReader::new(reader).lines();
    let started = systemd.restart(unit.as_str()).await;
    let started = started.map_err(|error| failed(error.to_string()))?;
    let mut started = std::pin::pin!(started);
    let limit = tokio::time::sleep(units::LAUNCH_TIMEOUT);
    let mut limit = std::pin::pin!(limit);
    let mut is_started = false;
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let line = line.ok().flatten().unwrap_or_default();
                let caught = line.parse().map_err(|_| failed(format!("the process of {unit} could not be caught")));
                return caught.map(|pid| (pid, Tether { _reader: lines.into_inner() }));
            }
            result = &mut started, if !is_started => match result.as_deref() {
                // It may be told before what has been caught is.
                Some("done") => {
                    is_started = true;
                    limit.as_mut().reset(tokio::time::Instant::now() + CAUGHT_WITHIN);
                }
                other => {
                    let how = other.unwrap_or("lost");
                    return Err(failed(format!("{unit} did not start: its job ended as \"{how}\"")));
                }
            },
            () = &mut limit => return Err(failed(format!(
                "{unit} was started, but was not seen to execute {} as its main process",
                launch.programs.join(" or ")
            ))),
        }
    }
}

/// Whether what systemd starts for this unit is what it then looks after.
fn startable(unit: &UnitName, facts: &UnitFacts) -> Result<(), Refusal> {
    let load = facts.text("LoadState");
    if load != "loaded" {
        return Err(Refusal::target(
            format!("{unit} cannot be started: systemd says that it is {load}"),
            format!("see `systemctl status {unit}`"),
        ));
    }
    if !unit.as_str().ends_with(".service") {
        return Err(Refusal::target(
            format!("{unit} is no service, and is not started by systemd"),
            "start it yourself, and use `godebugctl attach`",
        ));
    }
    if facts.text("Type") == "forking" {
        return Err(Refusal::target(
            format!("{unit} has Type=forking: what systemd starts is not what then runs"),
            "use `godebugctl attach`",
        ));
    }
    Ok(())
}

/// The file that systemd executes for the unit.
fn program(unit: &UnitName, facts: &UnitFacts) -> Result<PathBuf, Refusal> {
    if !facts.text("RootImage").is_empty() {
        return Err(Refusal::target(
            format!("{unit} has RootImage=, and its program is not to be seen before it runs"),
            "use `godebugctl attach`",
        ));
    }
    let Some(first) = facts.programs("ExecStart").into_iter().next() else {
        return Err(Refusal::target(
            format!("{unit} has no ExecStart="),
            format!("see `systemctl cat {unit}`"),
        ));
    };
    let root = facts.text("RootDirectory");
    let root = Path::new(if root.is_empty() { "/" } else { root.as_str() });
    let within = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    if first.starts_with('/') {
        return Ok(within(Path::new(&first)));
    }
    let named = DIRECTORIES.iter().map(|directory| within(&Path::new(directory).join(&first)));
    named.into_iter().find(|path| path.exists()).ok_or_else(|| {
        Refusal::target(
            format!("{first}, which {unit} executes, is not there"),
            format!("see `systemctl cat {unit}`"),
        )
    })
}
