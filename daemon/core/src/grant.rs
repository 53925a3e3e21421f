//! What a session takes from the host, each with everything that is needed to give it back.
//!
//! A grant is data, so that it can be written to the ledger before it is taken and undone by a
//! process that knows nothing else. Secrets are never part of it.

use crate::words::{BooleanName, Pid, Port, SessionId, UnitName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One change to the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Grant {
    /// The timer that revokes the session with no godebugd alive. An extension adds a timer with the
    /// next generation before it drops the old one, so there is never none.
    DeadMan { unit: String },
    /// The nftables table that lets only the session's sources reach its port.
    Fence { table: String },
    /// The process that catches dlv's death before the kernel lets go of the target.
    Guard { unit: String },
    /// dlv, attached to the target.
    Debugger { unit: String, pid: Pid },
    /// The process that caught the target as it was executed, and holds it until dlv does.
    Launcher { unit: String },
    /// The target's unit, which did not run before the session.
    Started { unit: UnitName },
    /// The process that takes images of the target.
    Image { unit: String, pid: Pid },
    /// The variant of the gateway's AppArmor profile that lets it onto the network. It is one for the
    /// whole host: sessions that are open at the same time share it.
    GatewayProfile { profile: String },
    /// A value of an SELinux boolean, in the kernel only. Booleans are the whole host's too: sessions
    /// that are open at the same time share it, and the last one puts `found` back.
    Boolean { name: BooleanName, value: bool, found: bool },
    /// The process that listens on the session's port.
    Gateway { unit: String, port: Port },
    /// A rich rule in firewalld's runtime configuration.
    FirewalldRule { zone: String, rule: String },
    /// The service was taken out of its pool by the host's drain hooks.
    Drained,
}

impl Grant {
    /// The dead man's timer of this generation (0 for the first).
    pub fn dead_man(id: &SessionId, generation: u32) -> Self {
        let unit = match generation {
            0 => format!("godebug-deadman@{id}.timer"),
            later => format!("godebug-deadman@{id}-{later}.timer"),
        };
        Self::DeadMan { unit }
    }

    pub fn fence(id: &SessionId) -> Self {
        Self::Fence { table: fence_table(id) }
    }

    pub fn guard(id: &SessionId) -> Self {
        Self::Guard { unit: guard_unit(id) }
    }

    pub fn debugger(id: &SessionId, pid: Pid) -> Self {
        Self::Debugger { unit: debugger_unit(id), pid }
    }

    pub fn launcher(id: &SessionId) -> Self {
        Self::Launcher { unit: launcher_unit(id) }
    }

    pub fn image(id: &SessionId, pid: Pid) -> Self {
        Self::Image { unit: image_unit(id), pid }
    }

    pub fn gateway(id: &SessionId, port: Port) -> Self {
        Self::Gateway { unit: gateway_unit(id), port }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeadMan { unit }
            | Self::Guard { unit }
            | Self::Launcher { unit }
            | Self::Debugger { unit, .. }
            | Self::Image { unit, .. } => f.write_str(unit),
            Self::Gateway { unit, port } => write!(f, "{unit} on port {port}"),
            Self::Fence { table } => write!(f, "nftables table inet {table}"),
            Self::GatewayProfile { profile } => write!(f, "AppArmor profile {profile}, open"),
            Self::Boolean { name, value, .. } => {
                write!(f, "SELinux boolean {name} {}", if *value { "on" } else { "off" })
            }
            Self::FirewalldRule { zone, rule } => write!(f, "firewalld zone {zone}: {rule}"),
            Self::Started { unit } => write!(f, "{unit}, which did not run before"),
            Self::Drained => f.write_str("taken out of its pool, by the drain hook"),
        }
    }
}

pub fn debugger_unit(id: &SessionId) -> String {
    format!("godebug-dlv@{id}.service")
}

pub fn image_unit(id: &SessionId) -> String {
    format!("godebug-image@{id}.service")
}

pub fn launcher_unit(id: &SessionId) -> String {
    format!("godebug-exec@{id}.service")
}

pub fn guard_unit(id: &SessionId) -> String {
    format!("godebug-guard@{id}.service")
}

/// The unit that puts a target right when dlv and its guard have both failed to.
pub fn repair_unit(id: &SessionId) -> String {
    format!("godebug-repair@{id}.service")
}

pub fn gateway_unit(id: &SessionId) -> String {
    format!("godebug-gateway@{id}.service")
}

/// The name of a session's table. A table of its own can be removed whole, whatever else lives.
pub fn fence_table(id: &SessionId) -> String {
    format!("godebug_{id}")
}
