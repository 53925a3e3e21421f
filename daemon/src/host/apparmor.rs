//! AppArmor: which variant of the gateway's profile is in force, how it is exchanged, and what a
//! target's own profile lets a debugger do.
//!
//! Only whole profiles are loaded, never removed: a process whose profile is removed runs unconfined.
//! The kernel exchanges the profile of running processes too and checks each call on a socket against
//! it, so locking cuts connections that were made before.

use super::{RealHost, shared, units};
use crate::ledger::LedgerFileError;
use crate::paths;
use godebug_api::{Pid, Refusal, SessionId};
use godebug_core::grant::Grant;
use godebug_core::plan::Confinement;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// The profile of the process that listens, and that of dlv, by their names in the kernel.
pub const GATEWAY: &str = "godebug-gateway";
pub const DEBUGGER: &str = "godebug-dlv";

const KERNEL: &str = "/sys/kernel/security/apparmor";
/// The locked variant is where everybody loads profiles from; the open one is not.
const LOCKED: &str = "/etc/apparmor.d/godebug-gateway";
const OPEN: &str = "apparmor/godebug-gateway";
const PARSER: &str = "/usr/sbin/apparmor_parser";
/// Compiling takes a tenth of a second; a host can be slow.
const LOAD_TIMEOUT: Duration = Duration::from_secs(30);
/// What may be loaded as the gateway's profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Without any network.
    Locked,
    /// With TCP.
    Open,
}

#[derive(Debug, thiserror::Error)]
pub enum AppArmorError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("apparmor_parser did not load {file}: {why}")]
    Load { file: String, why: String },
    #[error("{0}")]
    Ledger(#[from] LedgerFileError),
}

fn io(path: &Path, error: std::io::Error) -> AppArmorError {
    AppArmorError::Io { path: path.display().to_string(), error }
}

/// Whether the kernel enforces AppArmor profiles.
pub fn is_active() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    enabled.is_ok_and(|enabled| enabled.trim() == "Y")
}

/// What confines the processes of a session on this host: AppArmor when it is active and has our
/// profiles.
///
/// # Errors
/// When the kernel does not tell.
pub fn confinement() -> Result<Confinement, AppArmorError> {
    let confined = is_active() && gateway_variant()?.is_some() && find(DEBUGGER)?.is_some();
    Ok(if confined { Confinement::AppArmor } else { Confinement::None })
}

/// The variant of the gateway's profile that is in force; `None` when the profile is not loaded.
///
/// # Errors
/// When the kernel does not tell.
pub fn gateway_variant() -> Result<Option<Variant>, AppArmorError> {
    let Some(profile) = find(GATEWAY)? else { return Ok(None) };
    let path = profile.join("attach");
    // The kernel shows a profile's own name where it is attached to no path, as the locked one is.
    let attached_to = std::fs::read_to_string(&path).map_err(|error| io(&path, error))?;
    Ok(Some(if attached_to.trim() == GATEWAY { Variant::Locked } else { Variant::Open }))
}

/// A loaded profile's directory, whose name is the profile's with a number that changes.
fn find(name: &str) -> Result<Option<PathBuf>, AppArmorError> {
    let root = Path::new(KERNEL).join("policy/profiles");
    let entries = match std::fs::read_dir(&root) {
        Ok(entries) => entries,
        // Inside a container the host's AppArmor is out of sight, and with it all profiles.
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(io(&root, error)),
    };
    for entry in entries {
        let path = entry.map_err(|error| io(&root, error))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if stem == Some(name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The other live sessions that need the open variant.
///
/// # Errors
/// When the ledgers cannot be read.
pub fn needed_by(except: Option<&SessionId>) -> Result<Vec<SessionId>, LedgerFileError> {
    shared::needed_by(except, |grant| matches!(grant, Grant::GatewayProfile { .. }))
}

impl RealHost {
    /// Loads the open variant. It may be there already, for another session.
    pub(super) async fn open_gateway_profile(&self) -> Result<(), Refusal> {
        let open = paths::programs().join(OPEN);
        let _lock = shared::lock().await;
        let loaded = match gateway_variant() {
            Ok(Some(Variant::Open)) => return Ok(()),
            Ok(_) => self.load_profile(&open).await,
            Err(error) => Err(error),
        };
        loaded.map_err(|error| {
            Refusal::host(
                format!("AppArmor keeps the gateway off the network: {error}"),
                format!(
                    "try it by hand: apparmor_parser --replace --skip-cache {}",
                    open.display()
                ),
            )
        })
    }

    /// Loads the locked variant, unless another live session than `session` needs the open one.
    /// Looked at under the same lock under which it is opened, and after that session's intent is in
    /// its ledger: so none is missed.
    pub(crate) async fn lock_gateway_profile(
        &self,
        session: Option<&SessionId>,
    ) -> Result<(), String> {
        let _lock = shared::lock().await;
        let locked = match gateway_variant() {
            Ok(Some(Variant::Open)) => match needed_by(session) {
                Ok(others) if others.is_empty() => self.load_profile(Path::new(LOCKED)).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error.into()),
            },
            // Not loaded: AppArmor was taken away meanwhile, and nothing of ours is in it.
            Ok(Some(Variant::Locked) | None) => Ok(()),
            Err(error) => Err(error),
        };
        locked.map_err(|error| error.to_string())
    }

    async fn load_profile(&self, file: &Path) -> Result<(), AppArmorError> {
        let path = file.display().to_string();
        let failed = |why: String| AppArmorError::Load { file: path.clone(), why };
        let arguments = ["--replace", "--skip-cache", path.as_str()];
        if let Some(systemd) = &self.systemd {
            // godebugd's own sandbox lets it change nothing in the kernel's security modules.
            let properties = units::profile_loader(PARSER, &arguments);
            let unit = "godebug-profile.service";
            let loaded = systemd.start_transient(unit, properties, Vec::new(), LOAD_TIMEOUT).await;
            return loaded.map_err(|error| failed(format!("{error}; see `journalctl -u {unit}`")));
        }
        let child = tokio::process::Command::new(PARSER)
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        match tokio::time::timeout(LOAD_TIMEOUT, child).await {
            Ok(Ok(output)) if output.status.success() => Ok(()),
            Ok(Ok(output)) => {
                let text = String::from_utf8_lossy(&output.stderr);
                Err(failed(text.lines().next().unwrap_or("no reason given").to_owned()))
            }
            Ok(Err(error)) => Err(io(Path::new(PARSER), error)),
            Err(_) => Err(failed(format!("no answer within {} s", LOAD_TIMEOUT.as_secs()))),
        }
    }
}

/// Refuses a target whose own profile would let dlv attach and then not halt, or not attach at all.
///
/// # Errors
/// The refusal, with the lines that the profile lacks.
pub fn target_lets_debug(pid: Pid, unit: &str, dlv: Confinement) -> Result<(), Refusal> {
    if !is_active() {
        return Ok(());
    }
    let Some(label) = enforced_label(pid) else { return Ok(()) };
    let peer = match dlv {
        Confinement::AppArmor => DEBUGGER,
        Confinement::None | Confinement::Selinux => "unconfined",
    };
    let missing = missing_rules(&label, peer).map_err(|error| {
        Refusal::host(
            format!("the kernel does not tell what AppArmor profile {label} allows: {error}"),
            "see that securityfs is mounted at /sys/kernel/security",
        )
    })?;
    if missing.is_empty() {
        return Ok(());
    }
    // Signals are judged by the profile that is loaded, tracing by the one that a thread of the target
    // has last met with: one that sleeps keeps the old one until the service is restarted.
    let restart = if missing.iter().any(|rule| rule.starts_with("ptrace")) {
        format!(", then restart {unit}")
    } else {
        String::new()
    };
    Err(Refusal::target(
        format!(
            "process {pid} of {unit} is confined by AppArmor profile {label}, which does not let a debugger trace it and halt it"
        ),
        format!(
            "add to that profile (or to the file in /etc/apparmor.d/local that it includes), and load it with apparmor_parser --replace{restart}:  {}",
            missing.join("  ")
        ),
    ))
}

/// godebugd's own profile; godebug-revoke has none.
fn own_profile() -> Option<String> {
    let own = Pid::try_from(std::process::id()).ok()?;
    enforced_label(own)
}

/// The profile that confines a process; `None` when nothing is enforced on it.
fn enforced_label(pid: Pid) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/attr/apparmor/current")).ok()?;
    let (label, mode) = text.trim_end_matches(['\n', '\0']).rsplit_once(" (")?;
    let harmless = matches!(mode.trim_end_matches(')'), "complain" | "unconfined");
    (!harmless).then(|| label.to_owned())
}

// Of the kernel's security/apparmor: the classes of rules, and the permissions in them.
const CLASS_PTRACE: u8 = 9;
const CLASS_SIGNAL: u8 = 10;
const MAY_BE_TRACED: u32 = 1 << 3;
const MAY_BE_READ: u32 = 1 << 4;
const MAY_RECEIVE: u32 = 1 << 2;
/// What dlv halts a process with and lets it go on with.
const SIGNALS: [u8; 3] = [5, 18, 19];

/// The rules that `label` lacks to be debugged by `peer`. The kernel is asked about what is loaded,
/// which is what counts; the source of a profile may say something else.
fn missing_rules(label: &str, peer: &str) -> std::io::Result<Vec<String>> {
    let mut missing = Vec::new();
    if let Some(own) = own_profile()
        && allowed(label, &[&[CLASS_PTRACE], own.as_bytes()].concat())? & MAY_BE_TRACED == 0
    {
        missing.push(format!("ptrace (readby, tracedby) peer={own},"));
    }
    // Outside of dlv's unit the guard reads and traces too, when it has to repair.
    let tracers = if peer == "unconfined" { vec![peer] } else { vec![peer, "unconfined"] };
    for tracer in tracers {
        let allowed = allowed(label, &[&[CLASS_PTRACE], tracer.as_bytes()].concat())?;
        if allowed & (MAY_BE_TRACED | MAY_BE_READ) != MAY_BE_TRACED | MAY_BE_READ {
            missing.push(format!("ptrace (readby, tracedby) peer={tracer},"));
        }
    }
    for signal in SIGNALS {
        let allowed = allowed(label, &[&[CLASS_SIGNAL, signal], peer.as_bytes()].concat())?;
        if allowed & MAY_RECEIVE == 0 {
            missing.push(format!("signal (receive) set=(stop, cont, trap) peer={peer},"));
            break;
        }
    }
    Ok(missing)
}

/// Asks the kernel what the loaded `label` allows for one rule's subject.
fn allowed(label: &str, subject: &[u8]) -> std::io::Result<u32> {
    let mut file = File::options().read(true).write(true).open(format!("{KERNEL}/.access"))?;
    file.write_all(&[b"label\0", label.as_bytes(), b"\0", subject].concat())?;
    let mut answer = String::new();
    file.read_to_string(&mut answer)?;
    parse_access(&answer).ok_or_else(|| std::io::Error::other("an answer in another form"))
}

/// `allow 0x00000018`, then `deny`, `audit` and `quiet` in lines of their own.
fn parse_access(answer: &str) -> Option<u32> {
    let number = |name: &str| {
        let value = answer.lines().find_map(|line| line.strip_prefix(name))?;
        u32::from_str_radix(value.trim().strip_prefix("0x")?, 16).ok()
    };
    Some(number("allow ")? & !number("deny ")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_denied_is_not_allowed() {
        let answer = "allow 0x00000018\ndeny 0x00000008\naudit 0x00000000\nquiet 0x00000000\n";
        assert_eq!(parse_access(answer), Some(MAY_BE_READ));
        assert_eq!(parse_access("allow 24"), None);
        assert_eq!(parse_access(""), None);
    }
}
