//! From the name of a unit to the one process in it that can be debugged, and why not if not.

use super::executable::{DebugSize, ExecutableError, GoExecutable};
use super::namespace;
use super::process::{self, Process};
use crate::host::confinement;
use crate::host::systemd::{Systemd, SystemdError, UnitFacts};
use crate::host::units::TargetUser;
use crate::paths;
use godebug_api::documents::DebugInformation;
use godebug_api::{Part, Pid, Refusal, TargetName, UnitName};
use godebug_core::forecast::Work;
use godebug_core::{InvocationId, Program};
use std::path::Path;
use std::time::Duration;

/// The process, pinned, with what its unit and its executable say.
pub struct Target {
    pub unit: UnitName,
    /// The container or the user's unit in it that is meant.
    pub part: Option<TargetName>,
    pub invocation: Option<InvocationId>,
    pub process: Process,
    pub executable: GoExecutable,
    pub user: TargetUser,
    /// Other Go programs beside it: a program that watches over itself is two.
    pub others: Vec<Pid>,
    /// The unit's own start job is not finished (`Type=notify` without its word yet).
    pub starting: bool,
    /// Microseconds; `None` when the unit has no watchdog.
    pub watchdog_usec: Option<u64>,
}

impl Target {
    /// For the record.
    pub fn program(&self) -> Program {
        let executable = &self.executable;
        let path = self.process.exe_link().map(|(path, _)| path.display().to_string());
        let ids = &executable.build_ids;
        Program {
            executable: path.unwrap_or_default(),
            build_id: ids.gnu.clone().or_else(|| ids.go.clone()),
            module: executable.module.clone(),
            vcs_revision: executable.vcs_revision().map(str::to_owned),
            vcs_modified: executable.vcs_modified(),
        }
    }

    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog_usec.map(Duration::from_micros)
    }

    /// What dlv has to go through while the target stands; `symbols` is what a symbols file has,
    /// which dlv reads only where the program has nothing. `None` when neither is there.
    pub fn work(&self, symbols: Option<DebugSize>) -> Option<Work> {
        let size = match self.executable.debug_information {
            DebugInformation::None => symbols?,
            DebugInformation::Dwarf4 | DebugInformation::Dwarf5 => self.executable.debug_size,
        };
        let threads = self.process.status().map_or(1, |status| status.threads);
        Some(Work { debug_bytes: size.expanded, threads })
    }
}

/// The name that a unit has in systemd. Authority is asked for this one, so that a rule about a unit
/// cannot be passed by under its alias.
///
/// # Errors
/// When systemd does not answer.
pub async fn canonical(systemd: &Systemd, name: &UnitName) -> Result<UnitName, Refusal> {
    let facts = properties(systemd, name).await?;
    Ok(facts.text("Id").parse().unwrap_or_else(|_| name.clone()))
}

/// The slice that a unit is in; `None` when systemd does not tell.
pub async fn slice(systemd: &Systemd, unit: &UnitName) -> Option<String> {
    let slice = properties(systemd, unit).await.ok()?.text("Slice");
    (!slice.is_empty()).then_some(slice)
}

pub(crate) async fn properties(systemd: &Systemd, name: &UnitName) -> Result<UnitFacts, Refusal> {
    systemd.properties(name.as_str()).await.map_err(|error| match error {
        SystemdError::Refused { why, .. } => Refusal::target(
            format!("systemd does not load {name}: {why}"),
            "list the units with `systemctl list-units --type=service`",
        ),
        other => Refusal::host(other.to_string(), "is systemd running here?"),
    })
}

/// Finds the Go process of `name`, or of a part of it; `wanted` chooses among several.
///
/// # Errors
/// A target refusal with what to do, for everything that cannot be debugged.
pub async fn find(
    systemd: &Systemd,
    name: &UnitName,
    part: Option<&Part>,
    wanted: Option<Pid>,
) -> Result<Target, Refusal> {
    let facts = properties(systemd, name).await?;
    // The name it has in systemd: an alias would make two sessions of one target.
    let unit: UnitName = facts.text("Id").parse().unwrap_or_else(|_| name.clone());
    running(&unit, &facts)?;
    let group = group_of(&unit, &facts, part)?;
    let processes =
        process::processes_in_cgroup(Path::new(paths::CGROUP), &group).map_err(|error| {
            Refusal::host(
                format!("the processes of {unit} cannot be read: {error}"),
                "godebug needs the unified control group hierarchy (cgroup v2)",
            )
        })?;
    let main = facts.number("MainPID").and_then(|pid| Pid::try_from(u32::try_from(pid).ok()?).ok());
    // The unit's own process is not one of a part of it, such as what watches over a container.
    let main = main.filter(|main| processes.contains(main));
    let pid = choose(&unit, &processes, main, wanted)?;
    let process = pin(&unit, pid)?;
    let executable = read_executable(&unit, &process)?;
    let user = user_of(&unit, (&facts, part), &process)?;
    if let Some(part) = part.filter(|part| part.name.owner().is_some()) {
        no_more_than_its_owner(&unit, part, &process)?;
    }
    // Pinned first, then looked whether it is still in the unit: a PID that was given to somebody
    // else in between is not debugged.
    let still = process::processes_in_cgroup(Path::new(paths::CGROUP), &group).unwrap_or_default();
    if !still.contains(&pid) {
        return Err(Refusal::target(format!("{unit} is just ending or restarting"), "try again"));
    }
    let others = if wanted.is_some() { Vec::new() } else { others(&processes, pid) };
    Ok(Target {
        others,
        invocation: InvocationId::from_bytes(&facts.bytes("InvocationID")),
        starting: facts.text("ActiveState") == "activating",
        watchdog_usec: watchdog_of(&facts, part, &process)
            .filter(|usec| *usec > 0 && *usec < u64::MAX),
        unit,
        part: part.map(|part| part.name.clone()),
        process,
        executable,
        user,
    })
}

/// A user's manager is not asked: it tells its services.
fn watchdog_of(facts: &UnitFacts, part: Option<&Part>, process: &Process) -> Option<u64> {
    let Some(part) = part else { return facts.number("WatchdogUSec") };
    part.name.owner()?;
    // A service's children have it too, and are not meant (sd_watchdog_enabled(3)).
    let meant = process.number_in_environment("WATCHDOG_PID")?;
    (meant == u64::from(process.pid.get()))
        .then(|| process.number_in_environment("WATCHDOG_USEC"))
        .flatten()
}

/// The control group to look in.
fn group_of(unit: &UnitName, facts: &UnitFacts, part: Option<&Part>) -> Result<String, Refusal> {
    let whole = facts.text("ControlGroup");
    let Some(part) = part else { return Ok(whole) };
    let inside = part
        .group
        .strip_prefix(&whole)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let folder = Path::new(paths::CGROUP).join(part.group.trim_start_matches('/'));
    if inside && !whole.is_empty() && folder.exists() {
        return Ok(part.group.clone());
    }
    Err(Refusal::target(format!("{} is not in {unit} any more", part.name), "ask again"))
}

pub(crate) fn running(unit: &UnitName, facts: &UnitFacts) -> Result<(), Refusal> {
    let load = facts.text("LoadState");
    let active = facts.text("ActiveState");
    match (load.as_str(), active.as_str()) {
        ("not-found", _) => Err(Refusal::target(
            format!("there is no unit {unit} on this host"),
            "list the units with `systemctl list-units --type=service`",
        )),
        ("masked", "inactive") => {
            Err(Refusal::target(format!("{unit} is masked and not running"), "unmask and start it"))
        }
        ("bad-setting" | "error", "inactive") => Err(Refusal::target(
            format!("systemd cannot load {unit} ({load})"),
            format!("see `systemctl status {unit}`"),
        )),
        // activating: a Type=notify service that is still starting has a process all the same.
        (_, "active" | "reloading" | "activating" | "refreshing") => Ok(()),
        _ => Err(Refusal::target(
            format!("{unit} is not running (it is {active})"),
            format!("start it: systemctl start {unit}"),
        )),
    }
}

/// The main process if it is a Go program, else the only Go program in the unit.
fn choose(
    unit: &UnitName,
    processes: &[Pid],
    main: Option<Pid>,
    wanted: Option<Pid>,
) -> Result<Pid, Refusal> {
    if let Some(wanted) = wanted {
        return if processes.contains(&wanted) {
            Ok(wanted)
        } else {
            Err(Refusal::target(
                format!("process {wanted} is not in {unit}"),
                format!("its processes are: {}", list(processes)),
            ))
        };
    }
    if let Some(main) = main.filter(|main| is_go(*main)) {
        return Ok(main);
    }
    let go: Vec<Pid> = processes.iter().copied().filter(|pid| is_go(*pid)).collect();
    match go.as_slice() {
        [only] => Ok(*only),
        [] => match main.or_else(|| processes.first().copied()) {
            // Its own error is better than a general one: it says what the program is.
            Some(pid) => Ok(pid),
            None => Err(Refusal::target(
                format!("{unit} has no process"),
                format!("see `systemctl status {unit}`"),
            )),
        },
        several => Err(Refusal::target(
            format!("{unit} has {} Go processes: {}", several.len(), list(several)),
            "choose one with --pid",
        )),
    }
}

/// The other Go programs, of at most a few processes: each is looked into.
fn others(processes: &[Pid], chosen: Pid) -> Vec<Pid> {
    const MOST: usize = 16;
    let rest = processes.iter().copied().filter(|pid| *pid != chosen);
    rest.take(MOST).filter(|pid| is_go(*pid)).collect()
}

pub(crate) fn is_go(pid: Pid) -> bool {
    Process::pin(pid)
        .ok()
        .and_then(|process| Some((process.open_exe().ok()?, process.exe_link().ok()?.0)))
        .is_some_and(|(file, path)| GoExecutable::read(&file, &path).is_ok())
}

/// The processes with their names, at most ten.
fn list(processes: &[Pid]) -> String {
    let mut names: Vec<String> = processes.iter().take(10).map(|pid| described(*pid)).collect();
    if processes.len() > names.len() {
        names.push(format!("and {} more", processes.len() - names.len()));
    }
    names.join(", ")
}

/// `123 (shop)`.
pub(crate) fn described(pid: Pid) -> String {
    let name = Process::pin(pid).and_then(|process| process.comm()).unwrap_or_default();
    format!("{pid} ({name})")
}

fn pin(unit: &UnitName, pid: Pid) -> Result<Process, Refusal> {
    let process = Process::pin(pid).map_err(|error| {
        Refusal::target(format!("process {pid} of {unit} cannot be read: {error}"), "try again")
    })?;
    Ok(process)
}

fn read_executable(unit: &UnitName, process: &Process) -> Result<GoExecutable, Refusal> {
    let pid = process.pid;
    let file = process.open_exe().map_err(|error| {
        // What keeps others from reading it keeps them from debugging it, and knows better why.
        let policy = confinement::of_this_host()
            .and_then(|module| confinement::lets_debug(pid, unit.as_str(), module));
        policy.err().unwrap_or_else(|| {
            Refusal::target(
                format!("the program of process {pid} cannot be opened: {error}"),
                "try again",
            )
        })
    })?;
    let path = process.exe_link().map(|(path, _)| path).unwrap_or_default();
    GoExecutable::read(&file, &path).map_err(|error| {
        let remedy = match error {
            ExecutableError::NotElf(_) | ExecutableError::NotGo(_) => {
                "dlv debugs Go programs; for others there are gdb, py-spy and their like"
            }
            _ => "build the service with a released Go and an unmodified linker",
        };
        Refusal::target(
            format!(
                "{unit} cannot be debugged with dlv: process {pid} runs {}; {error}",
                path.display()
            ),
            remedy,
        )
    })
}

/// Whom dlv has to run as to be let at the process with no more than CAP_SYS_PTRACE.
fn user_of(
    unit: &UnitName,
    (facts, part): (&UnitFacts, Option<&Part>),
    process: &Process,
) -> Result<TargetUser, Refusal> {
    let status = process
        .status()
        .map_err(|error| Refusal::target(format!("{unit} is just ending: {error}"), "try again"))?;
    let uid = status.uid.effective;
    let named = facts.text("User");
    if facts.flag("DynamicUser") && !named.is_empty() && part.is_none() {
        // The same name with DynamicUser=yes shares the user; its number may resolve nowhere.
        return Ok(TargetUser::Dynamic(named));
    }
    // Images of containers have users that the host does not know.
    Ok(match crate::authority::known_user_name(uid) {
        Some(name) => TargetUser::Known(name),
        None => TargetUser::Nameless { uid, gid: status.gid.effective },
    })
}

/// polkit is not asked about what a user's own manager runs. So it must be a process that the user could
/// debug in any case: not one that sudo or a file's capabilities have given more. In a user namespace of theirs,
/// as a rootless container is in, it has more in there only.
fn no_more_than_its_owner(unit: &UnitName, part: &Part, process: &Process) -> Result<(), Refusal> {
    let uid = unit.as_str().strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service"));
    let status = process.status().map_err(|error| {
        Refusal::target(format!("{} is just ending: {error}", part.name), "try again")
    })?;
    let uid: Option<u32> = uid.and_then(|uid| uid.parse().ok());
    let in_their_own = |uid| {
        namespace::belongs_to(process, uid).unwrap_or_else(|error| {
            tracing::warn!(
                "whose the namespace of process {} is cannot be told: {error}",
                process.pid
            );
            false
        })
    };
    if uid.is_some_and(|uid| status.is_plainly(uid) || in_their_own(uid)) {
        return Ok(());
    }
    let pid = process.pid;
    Err(Refusal::refused(
        format!("process {pid} of {} has rights that its user does not have", part.name),
        format!(
            "debug it as a part of the system's unit, which polkit is asked about: {unit} --pid {pid}"
        ),
    ))
}

/// Why `target` cannot be attached to right now, if so: somebody else traces it, the kernel forbids.
///
/// # Errors
/// The refusal.
pub fn traceable(target: &Target) -> Result<(), Refusal> {
    let pid = target.process.pid;
    let status = target.process.status().map_err(|error| {
        Refusal::target(format!("{} is just ending: {error}", target.unit), "try again")
    })?;
    if let Some(tracer) = status.tracer_pid {
        let tracer = process::tracer_description(tracer);
        return Err(Refusal::target(
            format!("process {pid} of {} is already traced by {tracer}", target.unit),
            "a process can have one debugger; end that one first",
        ));
    }
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    if scope.trim() == "3" {
        return Err(Refusal::host(
            "this kernel allows nobody to trace anything (kernel.yama.ptrace_scope is 3), until it is restarted",
            "set kernel.yama.ptrace_scope to 0, 1 or 2 in sysctl.d and restart the host",
        ));
    }
    is_not_frozen(target)
}

/// A frozen thread takes no notice of the signal by which a debugger stops it, nor would it fork: both
/// would wait until somebody thaws it.
fn is_not_frozen(target: &Target) -> Result<(), Refusal> {
    // One without a control group of its own cannot be frozen.
    let Ok(group) = target.process.cgroup() else { return Ok(()) };
    let events = Path::new(paths::CGROUP).join(group.trim_start_matches('/')).join("cgroup.events");
    let events = std::fs::read_to_string(events).unwrap_or_default();
    if events.lines().all(|line| line != "frozen 1") {
        return Ok(());
    }
    Err(Refusal::target(
        format!(
            "{} is frozen (by systemctl freeze, or by whoever pauses its container), so nobody can stop its \
             threads where they are",
            target.unit
        ),
        format!("let it go on, with systemctl thaw {} or by whatever has frozen it", target.unit),
    ))
}
