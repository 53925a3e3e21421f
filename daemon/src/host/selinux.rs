//! SELinux: the boolean without which no gateway has a network, other booleans that a site wants turned
//! for a session, and what the policy lets a debugger do to a target.
//!
//! All of it through selinuxfs, so in the running kernel only: nothing here survives a boot.

use super::{RealHost, shared};
use crate::ledger::LedgerFileError;
use godebug_api::{BooleanName, Pid, Refusal, SessionId};
use godebug_core::grant::Grant;
use godebug_core::plan::{Boolean, Confinement};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const KERNEL: &str = "/sys/fs/selinux";
/// The domain of dlv and of what takes images, and that of the process that listens.
pub const DEBUGGER: &str = "godebug_dlv_t";
pub const GATEWAY: &str = "godebug_gateway_t";
/// Booleans of distributions that decide about SELinux itself. They are the host's decisions: honoured,
/// explained, never turned.
const HOSTS_OWN: [&str; 6] = [
    "deny_ptrace",
    "secure_mode",
    "secure_mode_insmod",
    "secure_mode_policyload",
    "secure_mode_setbool",
    "allow_ptrace",
];

#[derive(Debug, thiserror::Error)]
pub enum SelinuxError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{path} says something in another form than known: {text}")]
    Form { path: String, text: String },
    #[error("the policy has no boolean {0}")]
    Unknown(BooleanName),
    #[error("boolean {name} is still {} after it was turned", on_off(!*.value))]
    NotTurned { name: BooleanName, value: bool },
    #[error("{0}")]
    Ledger(#[from] LedgerFileError),
}

impl SelinuxError {
    fn is_denied(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

fn io(path: &Path, error: std::io::Error) -> SelinuxError {
    SelinuxError::Io { path: path.display().to_string(), error }
}

fn on_off(value: bool) -> &'static str {
    if value { "on" } else { "off" }
}

/// Whether the kernel has a policy, enforced or not.
pub fn is_active() -> bool {
    Path::new(KERNEL).join("enforce").exists()
}

/// Whether the policy is enforced, where there is one.
pub fn is_enforcing() -> bool {
    std::fs::read_to_string(Path::new(KERNEL).join("enforce")).is_ok_and(|text| text.trim() == "1")
}

/// What confines the processes of a session: SELinux where its policy has our module.
pub fn confinement() -> Confinement {
    let gate = Path::new(KERNEL).join("booleans").join(BooleanName::GATEWAY);
    if gate.exists() { Confinement::Selinux } else { Confinement::None }
}

/// The value in force; `None` when the policy has no such boolean.
///
/// # Errors
/// When the kernel does not tell.
pub fn value(name: &BooleanName) -> Result<Option<bool>, SelinuxError> {
    let path = Path::new(KERNEL).join("booleans").join(name.as_str());
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(&path, error)),
    };
    // The value in force, then the one that the next commit sets.
    match text.split_whitespace().next() {
        Some("0") => Ok(Some(false)),
        Some("1") => Ok(Some(true)),
        _ => Err(SelinuxError::Form { path: path.display().to_string(), text }),
    }
}

/// Turns it in the running kernel. The commit is one for all booleans: a change that somebody else has
/// prepared and not committed yet comes into force with it, as with every tool.
fn turn(name: &BooleanName, wanted: bool) -> Result<(), SelinuxError> {
    match value(name)? {
        None => return Err(SelinuxError::Unknown(name.clone())),
        Some(found) if found == wanted => return Ok(()),
        Some(_) => {}
    }
    write(&Path::new(KERNEL).join("booleans").join(name.as_str()), if wanted { "1" } else { "0" })?;
    write(&Path::new(KERNEL).join("commit_pending_bools"), "1")?;
    if value(name)? == Some(wanted) {
        Ok(())
    } else {
        Err(SelinuxError::NotTurned { name: name.clone(), value: wanted })
    }
}

fn write(path: &PathBuf, text: &str) -> Result<(), SelinuxError> {
    let written = File::options().write(true).open(path);
    written.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| io(path, error))
}

/// The booleans that a session with a gateway needs: that of the gateway, and those of the site's
/// configuration.
///
/// # Errors
/// A refusal, when the host lets nobody turn booleans, or has no such boolean.
pub fn needed_booleans(site: &[(BooleanName, bool)]) -> Result<Vec<Boolean>, Refusal> {
    if !is_active() {
        return Ok(Vec::new());
    }
    let gateway = match confinement() {
        Confinement::Selinux => vec![(BooleanName::gateways(), true)],
        Confinement::None | Confinement::AppArmor => Vec::new(),
    };
    let needed: Result<Vec<_>, _> = gateway.iter().chain(site).map(as_found).collect();
    let needed = needed?;
    if needed.is_empty() {
        return Ok(needed);
    }
    may_turn_booleans().map(|()| needed)
}

fn as_found((name, wanted): &(BooleanName, bool)) -> Result<Boolean, Refusal> {
    let failed = |error: SelinuxError| {
        Refusal::host(
            format!("SELinux does not tell what boolean {name} is: {error}"),
            "see that selinuxfs is mounted at /sys/fs/selinux",
        )
    };
    let now = value(name).map_err(failed)?.ok_or_else(|| {
        Refusal::host(
            format!("the SELinux policy of this host has no boolean {name}, which godebugd.toml wants turned {}", on_off(*wanted)),
            "correct selinux_booleans in /etc/godebug/godebugd.toml; `getsebool -a` lists those that there are",
        )
    })?;
    // Where another session has turned it already, what that one found counts.
    let of_other = shared::first_of(|grant| match grant {
        Grant::Boolean { name: other, found, .. } if other == name => Some(*found),
        _ => None,
    });
    let of_other = of_other.map_err(|error| failed(error.into()))?;
    // With no session open the gateway has no network, whatever the boolean is at the moment.
    let found = !name.is_gateways() && of_other.unwrap_or(now);
    Ok(Boolean { name: name.clone(), value: *wanted, found })
}

/// Hosts can forbid everybody to turn booleans; then there is no use in trying.
fn may_turn_booleans() -> Result<(), Refusal> {
    for name in ["secure_mode_setbool", "secure_mode_policyload"] {
        let Ok(name) = name.parse() else { continue };
        if let Ok(Some(true)) = value(&name) {
            return Err(Refusal::host(
                format!(
                    "SELinux boolean {name} is on: nobody may turn a boolean on this host, so no gateway can have a network"
                ),
                format!(
                    "{name} is the host's own decision and stays; snapshot and goroutines need no network, or ask whoever decides about it"
                ),
            ));
        }
    }
    Ok(())
}

/// A boolean that the site's configuration may name.
///
/// # Errors
/// Why not, for those that decide about SELinux itself or are godebug's own.
pub fn configurable(name: &BooleanName) -> Result<(), String> {
    if name.is_gateways() {
        return Err(format!("{name} is turned by every session, and only by sessions"));
    }
    if HOSTS_OWN.contains(&name.as_str()) {
        return Err(format!("{name} decides about SELinux itself and is never turned"));
    }
    Ok(())
}

impl RealHost {
    /// Turns a boolean for a session. It may be turned already, for another one.
    pub(super) async fn turn_boolean(
        &self,
        name: &BooleanName,
        value: bool,
    ) -> Result<(), Refusal> {
        let _lock = shared::lock().await;
        turn(name, value).map_err(|error| {
            let remedy = if !name.is_gateways() && error.is_denied() {
                "let godebugd turn other booleans than its own: setsebool -P godebugd_turns_booleans on"
            } else {
                "see why with `ausearch -m avc,mac_config_change -ts recent`"
            };
            Refusal::host(
                format!("SELinux boolean {name} cannot be turned {}: {error}", on_off(value)),
                remedy,
            )
        })
    }

    /// Gives a boolean the value that it had, unless another live session than `session` needs the
    /// other one. Looked at under the lock under which it is turned, and after that session's intent is
    /// in its ledger: so none is missed.
    pub(crate) async fn restore_boolean(
        &self,
        name: &BooleanName,
        found: bool,
        session: Option<&SessionId>,
    ) -> Result<(), String> {
        let _lock = shared::lock().await;
        let needed = needed_by(name, session).map_err(|error| error.to_string())?;
        if !needed.is_empty() {
            return Ok(());
        }
        match turn(name, found) {
            // The policy was taken away, and the boolean with it.
            Ok(()) | Err(SelinuxError::Unknown(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// The other live sessions that need a boolean turned.
///
/// # Errors
/// When the ledgers cannot be read.
pub fn needed_by(
    name: &BooleanName,
    except: Option<&SessionId>,
) -> Result<Vec<SessionId>, LedgerFileError> {
    shared::needed_by(
        except,
        |grant| matches!(grant, Grant::Boolean { name: other, .. } if other == name),
    )
}

/// Whether a boolean is as it was before the session, or turned for somebody else.
pub(super) fn read_back(
    name: &BooleanName,
    turned: bool,
    found: bool,
    id: &SessionId,
) -> (String, Option<String>) {
    let what = format!("SELinux boolean {name} {}", on_off(turned));
    if turned == found {
        return (what, None);
    }
    match (value(name), needed_by(name, Some(id))) {
        (Err(error), _) => (what, Some(error.to_string())),
        (Ok(now), _) if now != Some(turned) => (what, None),
        (Ok(_), Ok(others)) => match others.first() {
            Some(other) => (format!("{what} (now for session {other})"), None),
            None => (what, Some(format!("it is {}", on_off(turned)))),
        },
        (Ok(_), Err(error)) => (what, Some(error.to_string())),
    }
}

/// The label of a domain for a process that systemd starts: as godebugd's own, but for the type.
pub fn label_of(domain: &str) -> String {
    let own = std::fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let own = own.trim_end_matches(['\n', '\0']);
    let mut parts: Vec<&str> = own.splitn(4, ':').collect();
    match parts.get_mut(2) {
        Some(kind) => *kind = domain,
        None => parts = vec!["system_u", "system_r", domain, "s0"],
    }
    parts.join(":")
}

/// Refuses everything on a host that forbids tracing altogether.
///
/// # Errors
/// The refusal.
pub fn lets_trace() -> Result<(), Refusal> {
    let deny_ptrace: Result<BooleanName, _> = "deny_ptrace".parse();
    if is_enforcing() && deny_ptrace.is_ok_and(|name| matches!(value(&name), Ok(Some(true)))) {
        return Err(Refusal::host(
            "SELinux boolean deny_ptrace is on: nobody may trace a process on this host",
            "deny_ptrace is the host's own decision and stays; ask whoever decides about it",
        ));
    }
    Ok(())
}

/// Refuses a target that the policy does not let dlv trace and halt.
///
/// # Errors
/// The refusal, with the host's decision that it comes from or the rule that lacks.
pub fn target_lets_debug(pid: Pid, unit: &str) -> Result<(), Refusal> {
    if !is_active() {
        return Ok(());
    }
    lets_trace()?;
    if confinement() != Confinement::Selinux || !is_enforcing() {
        return Ok(());
    }
    let path = format!("/proc/{pid}/attr/current");
    let Ok(label) = std::fs::read_to_string(&path) else { return Ok(()) };
    let label = label.trim_end_matches(['\n', '\0']);
    let missing = missing_permissions(&label_of(DEBUGGER), label).map_err(|error| {
        Refusal::host(
            format!("SELinux does not tell whether {label} may be traced: {error}"),
            "see why with `ausearch -m avc -ts recent`",
        )
    })?;
    if missing.is_empty() {
        return Ok(());
    }
    let domain = label.split(':').nth(2).unwrap_or(label);
    Err(Refusal::target(
        format!(
            "process {pid} of {unit} runs as {label}, which the SELinux policy does not let {DEBUGGER} {}",
            missing.join(", ")
        ),
        format!("load a module with godebug_target({domain}), an interface of godebug.if"),
    ))
}

/// Of what dlv needs on a process, what `tracer` may not do to `target`. The kernel is asked, so that its
/// constraints and booleans count too.
fn missing_permissions(tracer: &str, target: &str) -> Result<Vec<&'static str>, SelinuxError> {
    const NEEDED: [&str; 4] = ["ptrace", "signal", "sigstop", "sigkill"];
    let class = Path::new(KERNEL).join("class/process");
    let number = |path: PathBuf| -> Result<u32, SelinuxError> {
        let text = std::fs::read_to_string(&path).map_err(|error| io(&path, error))?;
        let parsed = text.trim().parse();
        parsed.map_err(|_| SelinuxError::Form { path: path.display().to_string(), text })
    };
    let index = number(class.join("index"))?;
    let allowed = allowed(&format!("{tracer} {target} {index}"))?;
    let mut missing = Vec::new();
    for name in NEEDED {
        let bit = number(class.join("perms").join(name))?;
        if allowed.checked_shr(bit.saturating_sub(1)).unwrap_or(0) & 1 == 0 {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Asks the kernel what is allowed; the first of the numbers that it answers.
fn allowed(question: &str) -> Result<u32, SelinuxError> {
    let path = Path::new(KERNEL).join("access");
    let failed = |error| io(&path, error);
    let mut file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    file.write_all(question.as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    file.read_to_string(&mut answer).map_err(failed)?;
    let first = answer.split_whitespace().next();
    first.and_then(|word| u32::from_str_radix(word, 16).ok()).ok_or_else(|| SelinuxError::Form {
        path: path.display().to_string(),
        text: answer.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_about_selinux_itself_is_not_turned() {
        let configured = |name: &str| configurable(&name.parse().expect("a name"));
        assert!(configured("container_connect_any").is_ok());
        for name in HOSTS_OWN.into_iter().chain([BooleanName::GATEWAY]) {
            assert!(configured(name).is_err(), "{name}");
        }
    }
}
