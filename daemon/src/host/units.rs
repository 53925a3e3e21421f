//! The transient units of a session: what each runs, as whom, and what it may do.
//!
//! Every property is here, so that a reader can hold them against docs/security.md in one place.

use super::systemd::Properties;
use super::{DumpMaterial, apparmor, selinux};
use crate::paths::{self, SessionPaths};
use godebug_api::{Cidr, Deadline, Now, Pid, Port, SessionId, StartAt, UnitName};
use godebug_core::ledger::Opened;
use godebug_core::plan::Confinement;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use zbus::{OwnedFd, Variant};

/// How long dlv may take to attach and answer.
pub const ATTACH_TIMEOUT: Duration = Duration::from_secs(60);
/// For a target to stop that did not run before its session: systemd's own default, and a moment.
pub const STOP_TARGET: Duration = Duration::from_secs(95);
/// How long a unit may take to stop and to begin to start again.
pub const LAUNCH_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a core dump may take to be unpacked.
pub const UNPACK_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an orderly detach may take before systemd sends signals.
pub const DETACH_TIMEOUT: Duration = Duration::from_secs(15);

/// dlv's place among those who want a processor: nine times the share of an ordinary process.
pub const DEBUGGER_NICE: i32 = -10;
/// Before dlv of another session too.
pub const DEAD_MANS_NICE: i32 = -15;

/// How long anything else may take to start. It takes a moment; a host can be slow.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);

const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_KILL: u64 = 1 << 5;
const CAP_SETGID: u64 = 1 << 6;
const CAP_SETUID: u64 = 1 << 7;
const CAP_SETPCAP: u64 = 1 << 8;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_NICE: u64 = 1 << 23;
const CAP_MAC_ADMIN: u64 = 1 << 33;
const SIGKILL: i32 = 9;
const EPERM: i32 = 1;
const IPPROTO_TCP: i32 = 6;

/// Whom dlv runs as: the target's own user, where systemd can start something as that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetUser {
    /// A user of the host.
    Known(String),
    /// Of a unit with `DynamicUser=yes`; a unit with the same two settings shares its user.
    Dynamic(String),
    /// One that the host does not know, as in a container. systemd starts nothing as such a user, so
    /// what is to run as it becomes it.
    Nameless { uid: u32, gid: u32 },
}

impl TargetUser {
    /// For people.
    pub fn name(&self) -> String {
        match self {
            Self::Known(name) | Self::Dynamic(name) => name.clone(),
            Self::Nameless { uid, .. } => uid.to_string(),
        }
    }

    /// What makes a unit's programs run as it, with CAP_SYS_PTRACE and no other capability.
    fn properties(&self) -> Properties {
        let mut properties = match self {
            Self::Nameless { .. } => {
                let becoming = CAP_SETUID | CAP_SETGID | CAP_SETPCAP;
                let calls = allow(&["@system-service", "@debug", "@setuid", "capset"]);
                return vec![
                    ("CapabilityBoundingSet", (CAP_SYS_PTRACE | becoming).into()),
                    ("SystemCallFilter", calls),
                ];
            }
            Self::Known(name) => vec![("User", name.clone().into())],
            Self::Dynamic(name) => {
                vec![("User", name.clone().into()), ("DynamicUser", true.into())]
            }
        };
        properties.extend([
            ("AmbientCapabilities", CAP_SYS_PTRACE.into()),
            ("CapabilityBoundingSet", CAP_SYS_PTRACE.into()),
            ("SystemCallFilter", allow(&["@system-service", "@debug"])),
        ]);
        properties
    }

    /// What stands before each of a unit's commands.
    fn becoming(&self) -> Vec<String> {
        match self {
            Self::Known(_) | Self::Dynamic(_) => Vec::new(),
            Self::Nameless { uid, gid } => {
                let attendant = paths::programs().join("godebug-dlvctl");
                let attendant = attendant.to_string_lossy().into_owned();
                vec![attendant, "as".to_owned(), uid.to_string(), gid.to_string()]
            }
        }
    }
}

/// Who runs a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    System,
    /// The manager of the user with this number.
    OfUser(u32),
}

/// What dlv's unit needs to know.
#[derive(Debug, Clone)]
pub struct DebuggerUnit {
    pub id: SessionId,
    pub target: UnitName,
    pub pid: Pid,
    pub user: TargetUser,
    pub debugger: String,
    /// The target was started for the session, and is held by a SIGSTOP.
    pub exec: Option<StartAt>,
    /// When the target has stood for so long without an answer of dlv, the attaching is broken off. Nobody
    /// misses one that was started for the session, nor a core.
    pub stands_at_most: Option<Duration>,
    /// The target's unit is still starting.
    pub target_is_starting: bool,
    /// Who has to hear of the target while it stands: its unit has a watchdog, or is still starting.
    pub is_spoken_for_to: Option<Manager>,
    /// Until the latest moment that the session can be extended to.
    pub at_most: Duration,
    pub confinement: Confinement,
}

/// dlv, attached to the target, on a Unix socket.
pub fn debugger(unit: &DebuggerUnit) -> Properties {
    let files = SessionPaths::of(&unit.id);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let socket = text(&files.debugger_socket());
    let log = text(&files.debugger_log());
    let configuration = text(&files.debugger_configuration());
    let pid = unit.pid.to_string();
    let attendant = text(&paths::programs().join("godebug-dlvctl"));
    let revoke = revoke_program();
    let listen = format!("--listen=unix:{socket}");
    let mut attach = vec![
        unit.debugger.as_str(),
        "attach",
        pid.as_str(),
        "--headless",
        listen.as_str(),
        "--accept-multiclient",
        "--api-version=2",
    ];
    let stands_at_most = unit.stands_at_most.map(|limit| limit.as_millis().to_string());
    let mut ready = vec![attendant.as_str(), "ready", &socket, &pid, "$MAINPID", &log];
    match unit.exec {
        None => {
            attach.push("--continue");
            ready.extend(stands_at_most.as_deref());
        }
        // The attendant lets it go, as far as it shall.
        Some(at) => ready.push(at.as_str()),
    }
    let control = text(&files.control_socket());
    let detach = [attendant.as_str(), "detach", &socket, &pid, &control];
    let mut properties = common(&unit.id, format!("godebug {}: dlv on {}", unit.id, unit.target));
    properties.extend([
        ("Type", "exec".into()),
        ("ExecStart", commands_as(&unit.user, &attach)),
        ("ExecStartPost", commands_as(&unit.user, &ready)),
        ("ExecStop", commands_as(&unit.user, &detach)),
        ("ExecStopPostEx", privileged(&[&[&revoke, "--dlv-ended", unit.id.as_str()]])),
        ("TimeoutStartUSec", micros(ATTACH_TIMEOUT)),
        ("TimeoutStopUSec", micros(DETACH_TIMEOUT)),
        ("RuntimeMaxUSec", micros(unit.at_most)),
        // When the detaching has not ended it, SIGTERM would hang it or make it kill its target
        // (facts: 12 of 25); SIGKILL is caught by the guard, which repairs.
        ("KillSignal", SIGKILL.into()),
        ("PrivateNetwork", true.into()),
        ("RestrictAddressFamilies", allow(&["AF_UNIX"])),
        // dlv tries bpf(2) at start and must be told no, not killed.
        ("SystemCallErrorNumber", EPERM.into()),
        ("ReadWritePaths", strings(&[&text(&files.debugger_directory())])),
        ("UMask", 0o007_u32.into()),
        ("StandardInput", "null".into()),
        ("StandardOutputFileToAppend", log.clone().into()),
        ("StandardErrorFileToAppend", log.clone().into()),
        // Killing dlv can kill the target; the kernel shall take anything else first.
        ("OOMScoreAdjust", (-900_i32).into()),
        // The target stands while dlv attaches and at each breakpoint: on a busy host dlv comes
        // before what else wants the processors, though not before everything. Not CPUWeight=, which
        // would have the kernel share out the processors of the whole host another way. Its guard gives
        // its group the same place (rescue/priority.rs).
        ("Nice", DEBUGGER_NICE.into()),
        ("Environment", environment(&configuration)),
    ]);
    #[cfg(feature = "fault-points")]
    properties.push(("ReadWritePaths", strings(&[&format!("-{}", godebug_image::points::FOLDER)])));
    properties.extend(unit.user.properties());
    properties.extend(confined(unit.confinement, apparmor::DEBUGGER, selinux::DEBUGGER));
    if !unit.target_is_starting {
        // The target's end is the session's end, and the target is never stopped while dlv holds
        // it: with After= systemd stops dlv first. Requisite= keeps BindsTo= from starting it.
        // While the target is starting, After= would let dlv wait for what it is to look into.
        for name in ["BindsTo", "Requisite", "After"] {
            properties.push((name, strings(&[unit.target.as_str()])));
        }
    }
    properties
}

/// The process that catches dlv's death. Root, since it holds dlv, writes the target's memory and
/// freezes its control group; it speaks to nobody.
pub fn guard(id: &SessionId, target: &UnitName, speaks: Option<Manager>) -> Properties {
    // SYS_ADMIN is what the kernel wants of a process that speaks to systemd for another one, for
    // services with a watchdog; it is not given where there is nothing to say.
    let speaking = if speaks.is_some() { CAP_SYS_ADMIN } else { 0 };
    let description = format!("godebug {id}: guard of {target}");
    // SYS_NICE for dlv's place among those who want a processor.
    let mut properties = rescuer(id, description, CAP_SYS_NICE | speaking);
    // Whoever kills all of godebug.slice shall not kill what keeps the target alive then.
    properties.retain(|(name, _)| *name != "Slice");
    if let Some(Manager::OfUser(uid)) = speaks {
        // Of all that is the user's, it sees the socket of that user's manager.
        let socket = paths::notify_socket(Some(uid));
        properties.retain(|(name, _)| *name != "ProtectHome");
        properties.extend([
            ("ProtectHome", "tmpfs".into()),
            // Source, place, whether it may be missing, no other mounts below it.
            ("BindReadOnlyPaths", Variant::from(vec![(socket.clone(), socket, true, 0_u64)])),
        ]);
    }
    let revoke = revoke_program();
    properties.extend([
        ("Type", "exec".into()),
        ("ExecStart", commands(&[&[&revoke, "--guard", id.as_str()]])),
        ("Restart", "on-failure".into()),
        ("RestartUSec", micros(Duration::from_millis(100))),
        ("TimeoutStopUSec", micros(Duration::from_secs(5))),
        ("OOMScoreAdjust", (-1000_i32).into()),
        ("Nice", (-20_i32).into()),
    ]);
    properties
}

/// The repair of a target after dlv and its guard were killed together. Ends when it is done.
pub fn repair(session: &Opened) -> Properties {
    let description = format!("godebug {}: repair of {}", session.id, session.unit);
    let mut properties = rescuer(&session.id, description, 0);
    let revoke = revoke_program();
    properties.extend([
        ("Type", "oneshot".into()),
        ("ExecStart", commands(&[&[&revoke, "--dlv-ended", session.id.as_str()]])),
        ("TimeoutStartUSec", micros(Duration::from_secs(15))),
    ]);
    properties
}

/// What writes the target's memory and freezes its control group may do.
fn rescuer(id: &SessionId, description: String, more_capabilities: u64) -> Properties {
    let capabilities = CAP_SYS_PTRACE | CAP_KILL | CAP_DAC_OVERRIDE | more_capabilities;
    let mut properties = common(id, description);
    // Its work is in the control groups, which `common` protects.
    properties.retain(|(name, _)| *name != "ProtectControlGroups");
    properties.extend([
        ("CapabilityBoundingSet", capabilities.into()),
        ("PrivateNetwork", true.into()),
        ("RestrictAddressFamilies", allow(&["AF_UNIX"])),
        ("SystemCallFilter", allow(&["@system-service", "@debug"])),
        ("SystemCallErrorNumber", EPERM.into()),
        (
            "ReadWritePaths",
            strings(&[&SessionPaths::of(id).root().to_string_lossy(), paths::CGROUP]),
        ),
    ]);
    properties
}

/// dlv on a core dump, as nobody, on a copy in its unit's own /var/tmp, which goes with the unit. Of an image only the
/// program is copied there: what was in the process's memory stays in memory.
pub fn dump_reader(unit: &DebuggerUnit, dump: &DumpMaterial, given: OwnedFd) -> Properties {
    let files = SessionPaths::of(&unit.id);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let socket = text(&files.debugger_socket());
    let (log, pid) = (text(&files.debugger_log()), unit.pid.to_string());
    let configuration = text(&files.debugger_configuration());
    let attendant = text(&paths::programs().join("godebug-dlvctl"));
    let listen = format!("--listen=unix:{socket}");
    let largest = dump.largest.to_string();
    let mut unpack = vec![attendant.as_str(), "unpack", "/var/tmp", &largest, dump.build.as_str()];
    if dump.vouched_for {
        unpack.push("vouched-for");
    }
    let read = [
        unit.debugger.as_str(),
        "core",
        "/var/tmp/program",
        "/var/tmp/core",
        "--headless",
        listen.as_str(),
        "--accept-multiclient",
        "--api-version=2",
    ];
    let ready = [attendant.as_str(), "ready", &socket, &pid, "$MAINPID", &log, "core"];
    let what = if dump.is_image { "an image" } else { "a core dump" };
    let description = format!("godebug {}: dlv on {what} of {}", unit.id, unit.target);
    let mut properties = common(&unit.id, description);
    let read_image = [
        attendant.as_str(),
        "read-image",
        unit.debugger.as_str(),
        "/var/tmp/program",
        listen.as_str(),
    ];
    match dump.is_image {
        true => properties.push(("ExecStart", commands(&[&read_image]))),
        false => properties
            .extend([("ExecStartPre", commands(&[&unpack])), ("ExecStart", commands(&[&read]))]),
    }
    properties.extend([
        ("Type", "exec".into()),
        ("ExecStartPost", commands(&[&ready])),
        ("TimeoutStartUSec", micros(UNPACK_TIMEOUT)),
        ("TimeoutStopUSec", micros(Duration::from_secs(5))),
        ("RuntimeMaxUSec", micros(unit.at_most)),
        ("KillSignal", SIGKILL.into()),
        ("DynamicUser", true.into()),
        ("CapabilityBoundingSet", 0_u64.into()),
        ("PrivateNetwork", true.into()),
        ("RestrictAddressFamilies", allow(&["AF_UNIX"])),
        ("SystemCallFilter", allow(&["@system-service"])),
        ("SystemCallErrorNumber", EPERM.into()),
        ("ProcSubset", "pid".into()),
        ("ReadWritePaths", strings(&[&text(&files.debugger_directory())])),
        ("UMask", 0o007_u32.into()),
        ("LimitCORE", 0_u64.into()),
        ("StandardInputFileDescriptor", Variant::Fd(given.into())),
        ("StandardOutputFileToAppend", log.clone().into()),
        ("StandardErrorFileToAppend", log.clone().into()),
        ("Environment", environment(&configuration)),
    ]);
    properties.extend(confined(unit.confinement, apparmor::DEBUGGER, selinux::DEBUGGER));
    properties
}

/// dlv's own settings, and nothing of anybody's.
fn environment(configuration: &str) -> Variant<'static> {
    strings(&[
        &format!("XDG_CONFIG_HOME={configuration}"),
        &format!("HOME={configuration}"),
        // No debuginfod-find in the path: it would fetch while the target stands still.
        "PATH=/nonexistent",
        "DEBUGINFOD_URLS=",
    ])
}

/// What catches the process of a unit as systemd executes it, and holds it until dlv does. Root, since it
/// asks the kernel to tell it of executions, and traces what is caught; it speaks to nobody.
pub fn launcher(launcher: LauncherUnit<'_>) -> Properties {
    let LauncherUnit { id, target, programs, stops, output } = launcher;
    let capabilities = CAP_SYS_PTRACE | CAP_KILL | CAP_DAC_OVERRIDE | CAP_SYS_ADMIN;
    let revoke = revoke_program();
    let mut catch = vec![revoke.as_str(), "--catch", id.as_str(), target.as_str()];
    catch.extend(programs.iter().map(String::as_str));
    let mut let_go = vec![revoke.as_str(), "--let-go", id.as_str(), target.as_str()];
    if stops {
        let_go.push("stop");
    }
    let mut properties = common(id, format!("godebug {id}: start of {target}"));
    // Programs of services are there too.
    properties
        .retain(|(name, _)| !matches!(*name, "ProtectHome" | "PrivateTmp" | "SupplementaryGroups"));
    properties.extend([
        ("ProtectHome", "read-only".into()),
        ("Type", "notify".into()),
        ("NotifyAccess", "main".into()),
        ("ExecStart", commands(&[&catch])),
        ("ExecStopPostEx", privileged(&[&let_go])),
        ("TimeoutStartUSec", micros(Duration::from_secs(10))),
        ("TimeoutStopUSec", micros(Duration::from_secs(5))),
        ("RuntimeMaxUSec", micros(LAUNCH_TIMEOUT + ATTACH_TIMEOUT)),
        ("CapabilityBoundingSet", capabilities.into()),
        ("PrivateNetwork", true.into()),
        ("RestrictAddressFamilies", allow(&["AF_UNIX"])),
        (
            "SystemCallFilter",
            allow(&["@system-service", "@debug", "fanotify_init", "fanotify_mark"]),
        ),
        ("SystemCallErrorNumber", EPERM.into()),
        ("OOMScoreAdjust", (-1000_i32).into()),
        ("StandardInput", "null".into()),
        ("StandardOutput", "null".into()),
        ("StandardError", "journal".into()),
        ("StandardOutputFileDescriptor", Variant::Fd(output.into())),
    ]);
    properties
}

/// What the unit that catches a starting process needs to know.
#[derive(Debug)]
pub struct LauncherUnit<'a> {
    pub id: &'a SessionId,
    pub target: &'a UnitName,
    /// Files whose execution is waited for.
    pub programs: &'a [String],
    /// The target did not run before, and is stopped if it never becomes a session's.
    pub stops: bool,
    /// The pipe on which it says what it has caught.
    pub output: OwnedFd,
}

fn revoke_program() -> String {
    paths::programs().join("godebug-revoke").to_string_lossy().into_owned()
}

/// What the unit that takes images needs to know.
#[derive(Debug)]
pub struct ImageUnit<'a> {
    pub id: &'a SessionId,
    pub target: &'a UnitName,
    pub user: &'a TargetUser,
    pub at_most: Duration,
    pub target_is_starting: bool,
    pub confinement: Confinement,
    /// The sealed memfd with what it is to do, or the socket that holds it.
    pub input: OwnedFd,
    /// The pipe to whoever asked; `None` for one that serves debuggers on a socket.
    pub output: Option<OwnedFd>,
}

/// The process that takes images of the target, and the dlv that reads them.
pub fn image(unit: ImageUnit<'_>) -> Properties {
    let program = paths::programs().join("godebug-image").to_string_lossy().into_owned();
    let revoke = revoke_program();
    let mut properties = common(unit.id, format!("godebug {}: images of {}", unit.id, unit.target));
    // It sees the target's limits there, and writes nothing: /sys is read-only for it all the same.
    properties.extend([
        ("Type", "exec".into()),
        ("ExecStart", commands_as(unit.user, &[&program])),
        ("ExecStopPostEx", privileged(&[&[&revoke, "--dlv-ended", unit.id.as_str()]])),
        ("TimeoutStartUSec", micros(Duration::from_secs(10))),
        // SIGTERM lets it take its breakpoints out; the guard repairs after a SIGKILL.
        ("TimeoutStopUSec", micros(DETACH_TIMEOUT)),
        ("KillMode", "mixed".into()),
        ("RuntimeMaxUSec", micros(unit.at_most)),
        ("PrivateNetwork", true.into()),
        ("RestrictAddressFamilies", allow(&["AF_UNIX"])),
        ("SystemCallErrorNumber", EPERM.into()),
        ("UMask", 0o077_u32.into()),
        // A core of what holds the core of the target would be one of the target.
        ("LimitCORE", 0_u64.into()),
        ("StandardInputFileDescriptor", Variant::Fd(unit.input.into())),
        // Else what it says of itself would go to the client too: systemd compares the two settings
        // and duplicates the descriptor when they are the same (exec-invoke.c, setup_output).
        ("StandardOutput", "null".into()),
        ("StandardError", "journal".into()),
        // Killing it can kill the target; the kernel shall take anything else first.
        ("OOMScoreAdjust", (-900_i32).into()),
        // The target stands while it works; whatever does not hold the target it makes last. Where the
        // kernel makes groups of sessions (rescue/priority.rs) neither counts; its group is left as it is,
        // since no pause was shorter with a better place: it is the target's own thread that waits then.
        ("Nice", (-20_i32).into()),
    ]);
    match unit.output {
        Some(pipe) => {
            properties.push(("StandardOutputFileDescriptor", Variant::Fd(pipe.into())));
        }
        None => {
            let folder = SessionPaths::of(unit.id).debugger_directory();
            properties.push(("ReadWritePaths", strings(&[&folder.to_string_lossy()])));
        }
    }
    properties.extend(unit.user.properties());
    properties.extend(confined(unit.confinement, apparmor::DEBUGGER, selinux::DEBUGGER));
    if !unit.target_is_starting {
        for name in ["BindsTo", "Requisite", "After"] {
            properties.push((name, strings(&[unit.target.as_str()])));
        }
    }
    properties
}

/// What the gateway's unit needs to know.
#[derive(Debug)]
pub struct GatewayUnit<'a> {
    pub id: &'a SessionId,
    pub port: Port,
    pub sources: &'a [Cidr],
    /// The unit without which it has nothing to serve.
    pub tracer: &'a str,
    pub at_most: Duration,
    pub confinement: Confinement,
    /// The socket that holds what it is given.
    pub handover: OwnedFd,
}

/// The process that listens on the session's port.
pub fn gateway(unit: GatewayUnit<'_>) -> Properties {
    let files = SessionPaths::of(unit.id);
    let program = paths::programs().join("godebug-gateway").to_string_lossy().into_owned();
    let writable = files.gateway_directory().to_string_lossy().into_owned();
    let mut properties = common(unit.id, format!("godebug {}: gateway", unit.id));
    properties.extend([
        ("Type", "notify".into()),
        ("NotifyAccess", "main".into()),
        ("ExecStart", commands(&[&[&program]])),
        ("TimeoutStartUSec", micros(START_TIMEOUT)),
        ("TimeoutStopUSec", micros(Duration::from_secs(5))),
        ("RuntimeMaxUSec", micros(unit.at_most)),
        // No After=: it starts while dlv attaches.
        ("BindsTo", strings(&[unit.tracer])),
        ("DynamicUser", true.into()),
        ("CapabilityBoundingSet", 0_u64.into()),
        ("RestrictAddressFamilies", allow(&["AF_INET", "AF_INET6", "AF_UNIX"])),
        ("SystemCallFilter", allow(&["@system-service"])),
        ("SystemCallErrorNumber", EPERM.into()),
        ("ProcSubset", "pid".into()),
        ("IPAddressDeny", addresses(&EVERYWHERE)),
        ("IPAddressAllow", addresses(&networks(unit.sources))),
        ("SocketBindDeny", sockets(0, 0, 0)),
        ("SocketBindAllow", sockets(IPPROTO_TCP, 1, unit.port.get())),
        ("ReadWritePaths", strings(&[&writable])),
        ("UMask", 0o007_u32.into()),
        ("StandardInputFileDescriptor", Variant::Fd(unit.handover.into())),
        ("MemoryMax", (128_u64 << 20).into()),
        ("TasksMax", 16_u64.into()),
    ]);
    properties.extend(confined(unit.confinement, apparmor::GATEWAY, selinux::GATEWAY));
    properties
}

/// What runs under an AppArmor profile or in an SELinux domain: the unit fails if it cannot.
fn confined(confinement: Confinement, profile: &str, domain: &str) -> Properties {
    match confinement {
        Confinement::None => Vec::new(),
        Confinement::AppArmor => {
            vec![("AppArmorProfile", Variant::from((false, profile.to_owned())))]
        }
        Confinement::Selinux => vec![("SELinuxContext", selinux::label_of(domain).into())],
    }
}

/// What exchanges an AppArmor profile, and ends. One at a time: whoever starts it holds a lock.
pub fn profile_loader(parser: &str, arguments: &[&str]) -> Properties {
    let command: Vec<&str> = std::iter::once(parser).chain(arguments.iter().copied()).collect();
    vec![
        ("Description", "godebug: exchange of an AppArmor profile".into()),
        ("Slice", "godebug.slice".into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("Type", "oneshot".into()),
        ("ExecStart", commands(&[&command])),
        ("TimeoutStartUSec", micros(START_TIMEOUT)),
        ("NoNewPrivileges", true.into()),
        ("CapabilityBoundingSet", CAP_MAC_ADMIN.into()),
        ("ProtectSystem", "strict".into()),
        ("ProtectHome", "yes".into()),
        ("PrivateTmp", true.into()),
        ("PrivateNetwork", true.into()),
        ("RestrictAddressFamilies", allow(&["AF_UNIX"])),
        ("ReadWritePaths", strings(&["/sys/kernel/security"])),
    ]
}

/// How long after a session's end its dead man comes: the orderly way, which takes some 400 ms to its
/// last step, is to come first, and what is left to the dead man takes up to a second on a busy host
/// and shall be done two seconds after the end.
const DEAD_MANS_GRACE: Duration = Duration::from_millis(500);

/// The dead man's timer and the service that it starts, as `(timer, service)`.
pub fn dead_man(
    id: &SessionId,
    deadline: &Deadline,
    now: Now,
    startup_usec: u64,
    monotonic_usec: u64,
) -> (Properties, Properties) {
    let late = deadline.plus(DEAD_MANS_GRACE);
    let calendar =
        godebug_api::clock::rfc3339(late.wall_ms + 999).replace('T', " ").replace('Z', " UTC");
    // Counted from systemd's own start: this base survives daemon-reload and daemon-reexec, which
    // start OnActiveSec= anew (systemd#31914).
    let on_startup =
        monotonic_usec.saturating_sub(startup_usec).saturating_add(micros_of(late.remaining(now)));
    let timer = vec![
        ("Description", format!("godebug {id}: dead man").into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("TimersCalendar", Variant::from(vec![("OnCalendar".to_owned(), calendar)])),
        ("TimersMonotonic", Variant::from(vec![("OnStartupSec".to_owned(), on_startup)])),
        ("AccuracyUSec", micros(Duration::from_millis(1))),
        ("RemainAfterElapse", false.into()),
    ];
    let revoke = revoke_program();
    let service = vec![
        ("Description", format!("godebug {id}: revocation by the dead man").into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("Slice", "godebug.slice".into()),
        ("Type", "oneshot".into()),
        ("ExecStart", commands(&[&[&revoke, "--if-due", id.as_str()]])),
        ("TimeoutStartUSec", micros(Duration::from_secs(120))),
        // On a busy host too it is to be in time; its group it places itself (rescue/priority.rs).
        ("Nice", DEAD_MANS_NICE.into()),
        // What could not be undone is tried again, for as long as it takes.
        ("Restart", "on-failure".into()),
        ("RestartUSec", micros(Duration::from_secs(5))),
        ("StartLimitIntervalUSec", 0_u64.into()),
    ];
    (timer, service)
}

/// What every unit of a session has.
fn common(id: &SessionId, description: String) -> Properties {
    vec![
        ("Description", description.into()),
        ("Slice", "godebug.slice".into()),
        ("CollectMode", "inactive-or-failed".into()),
        ("SupplementaryGroups", strings(&[paths::SESSION_GROUP])),
        ("NoNewPrivileges", true.into()),
        ("ProtectSystem", "strict".into()),
        ("ProtectHome", "yes".into()),
        ("PrivateTmp", true.into()),
        ("PrivateDevices", true.into()),
        ("ProtectKernelTunables", true.into()),
        ("ProtectKernelModules", true.into()),
        ("ProtectKernelLogs", true.into()),
        ("ProtectControlGroups", true.into()),
        ("ProtectClock", true.into()),
        ("ProtectHostname", true.into()),
        ("ProtectProc", "invisible".into()),
        ("RestrictNamespaces", 0_u64.into()),
        ("RestrictRealtime", true.into()),
        ("RestrictSUIDSGID", true.into()),
        ("LockPersonality", true.into()),
        ("MemoryDenyWriteExecute", true.into()),
        ("SystemCallArchitectures", strings(&["native"])),
        ("LogExtraFields", Variant::from(vec![format!("GODEBUG_SESSION={id}").into_bytes()])),
    ]
}

/// `ExecStart=` and its kin: a(sasb), path, arguments with the path again, ignore failure.
fn commands(list: &[&[&str]]) -> Variant<'static> {
    let all: Vec<(String, Vec<String>, bool)> =
        list.iter().map(|command| (command[0].to_owned(), owned(command), false)).collect();
    Variant::from(all)
}

/// One command, run as the target's user.
fn commands_as(user: &TargetUser, command: &[&str]) -> Variant<'static> {
    let becoming = user.becoming();
    let words: Vec<&str> =
        becoming.iter().map(String::as_str).chain(command.iter().copied()).collect();
    commands(&[&words])
}

/// The same with `+`: full privileges, outside the unit's sandbox.
fn privileged(list: &[&[&str]]) -> Variant<'static> {
    let all: Vec<(String, Vec<String>, Vec<String>)> = list
        .iter()
        .map(|command| (command[0].to_owned(), owned(command), vec!["privileged".to_owned()]))
        .collect();
    Variant::from(all)
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn strings(list: &[&str]) -> Variant<'static> {
    Variant::from(owned(list))
}

/// An allow list in systemd's form: (true, entries).
fn allow(list: &[&str]) -> Variant<'static> {
    Variant::from((true, owned(list)))
}

fn micros_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> Variant<'static> {
    micros_of(duration).into()
}

const EVERYWHERE: [(IpAddr, u8); 2] = [
    (IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0),
    (IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0),
];

fn networks(sources: &[Cidr]) -> Vec<(IpAddr, u8)> {
    sources.iter().map(|source| (source.address(), source.length())).collect()
}

/// a(iayu): address family, address, prefix length.
fn addresses(list: &[(IpAddr, u8)]) -> Variant<'static> {
    const AF_INET: i32 = 2;
    const AF_INET6: i32 = 10;
    let all: Vec<(i32, Vec<u8>, u32)> = list
        .iter()
        .map(|(address, length)| match address {
            IpAddr::V4(address) => (AF_INET, address.octets().to_vec(), u32::from(*length)),
            IpAddr::V6(address) => (AF_INET6, address.octets().to_vec(), u32::from(*length)),
        })
        .collect();
    Variant::from(all)
}

/// a(iiqq): family (0 is any), protocol, number of ports, first port (0 ports is any).
fn sockets(protocol: i32, ports: u16, first: u16) -> Variant<'static> {
    Variant::from(vec![(0_i32, protocol, ports, first)])
}
