//! Which security module confines a session on this host, and whether it lets a target be debugged.

use super::{apparmor, selinux};
use godebug_api::{Pid, Refusal};
use godebug_core::plan::Confinement;

/// What confines the processes of a session, besides systemd's sandbox.
///
/// # Errors
/// A refusal, when the kernel does not tell.
pub fn of_this_host() -> Result<Confinement, Refusal> {
    if selinux::is_active() {
        return Ok(selinux::confinement());
    }
    apparmor::confinement().map_err(|error| {
        Refusal::host(
            format!("AppArmor is active but does not tell which profiles are loaded: {error}"),
            "see that securityfs is mounted at /sys/kernel/security",
        )
    })
}

/// Refuses a target that the host's security module does not let dlv trace and stop, or godebugd read.
///
/// # Errors
/// The refusal, with what the profile or the policy lacks.
pub fn lets_debug(pid: Pid, unit: &str, confinement: Confinement) -> Result<(), Refusal> {
    apparmor::target_lets_debug(pid, unit, confinement)?;
    selinux::target_lets_debug(pid, unit)
}
