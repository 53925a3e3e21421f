//! Where things are. Everything of a session is below one directory in /run, so that a reboot
//! takes it and one removal ends it.

use godebug_api::SessionId;
use std::path::{Path, PathBuf};

/// Vendor's defaults and our private programs.
pub const VENDOR: &str = "/usr/lib/godebug";
/// The site's configuration.
pub const CONFIGURATION: &str = "/etc/godebug";
/// Everything that lives no longer than the kernel.
pub const RUN: &str = "/run/godebug";
pub const AUDIT_LOG: &str = "/var/log/godebug/audit.jsonl";
/// A transcript for each session.
pub const TRANSCRIPTS: &str = "/var/log/godebug/sessions";
/// What is kept of the audit log outside of it: the key, the checkpoints, its end.
pub const STATE: &str = "/var/lib/godebug";
pub const CGROUP: &str = "/sys/fs/cgroup";

/// Where systemd hears from its services, or a user's own manager does: their `$NOTIFY_SOCKET`.
pub fn notify_socket(user: Option<u32>) -> String {
    match user {
        None => "/run/systemd/notify".to_owned(),
        Some(uid) => format!("/run/user/{uid}/systemd/notify"),
    }
}

/// The group of gateways and debuggers, and of nobody else: it lets a session's two halves meet.
pub const SESSION_GROUP: &str = "godebug-session";

/// The directory that our own programs were installed in: that of the running one.
pub fn programs() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.to_owned()))
        .unwrap_or_else(|| PathBuf::from(VENDOR))
}

/// The paths of one session.
#[derive(Debug, Clone)]
pub struct SessionPaths {
    root: PathBuf,
}

impl SessionPaths {
    pub fn of(id: &SessionId) -> Self {
        Self::below(Path::new(RUN), id)
    }

    /// The same below another directory.
    pub fn below(run: &Path, id: &SessionId) -> Self {
        Self { root: run.join(id.as_str()) }
    }

    /// There while a unit is started for a session that has no ledger yet.
    pub fn launch_marker(&self) -> PathBuf {
        self.root.with_extension("launch")
    }

    /// Of root; the session's group may pass through it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn ledger(&self) -> PathBuf {
        self.root.join("ledger")
    }

    /// What dlv printed. A file, since a pipe that nobody reads, or a journal that restarts, would
    /// stop or kill dlv and with it the target (facts: Traps 4).
    pub fn debugger_log(&self) -> PathBuf {
        self.root.join("dlv.log")
    }

    /// Where dlv may write: its socket and its configuration.
    pub fn debugger_directory(&self) -> PathBuf {
        self.root.join("dlv")
    }

    pub fn debugger_socket(&self) -> PathBuf {
        self.debugger_directory().join("socket")
    }

    /// `dlv.sock` as people know it: a link to the socket, which needs a directory that dlv may
    /// write while this one is root's.
    pub fn debugger_socket_link(&self) -> PathBuf {
        self.root.join("dlv.sock")
    }

    pub fn debugger_configuration(&self) -> PathBuf {
        self.debugger_directory().join("config")
    }

    /// Where the program's text differed from its file before dlv came.
    pub fn baseline(&self) -> PathBuf {
        self.root.join("baseline")
    }

    /// There while a repair keeps the target frozen.
    pub fn frozen_marker(&self) -> PathBuf {
        self.root.join("frozen")
    }

    /// There as soon as the service was put back into its pool.
    pub fn undrained_marker(&self) -> PathBuf {
        self.root.join("undrained")
    }

    /// Kept from everybody else as long as the service is out of its pool.
    pub fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    pub fn repair_lock(&self) -> PathBuf {
        self.root.join("repair.lock")
    }

    /// How the image's unit has ended, in systemd's words.
    pub fn result(&self) -> PathBuf {
        self.root.join("result")
    }

    pub fn symbols(&self) -> PathBuf {
        self.root.join("symbols")
    }

    /// Where the gateway may write: its control socket.
    pub fn gateway_directory(&self) -> PathBuf {
        self.root.join("gateway")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.gateway_directory().join("control")
    }
}
