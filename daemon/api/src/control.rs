//! How the gateway is told what to do: its configuration, which [`crate::handover`] brings, and the
//! requests that it takes on its control socket, one JSON document a line each way.

use crate::documents::BuildInfo;
use godebug_core::rules::{RedactRules, TranscriptValues};
use godebug_core::{Cidr, Deadline, GuestName, HotLimit, Mode, PauseBudget, Port, SessionId};
use serde::{Deserialize, Serialize};

/// No line on a control socket is longer than this, in bytes.
pub const LONGEST_LINE: usize = 4096;
/// No configuration is longer than this, in bytes.
pub const LONGEST_CONFIG: usize = 256 * 1024;

/// What a client says, in place of the first words to a debugger, to be told a [`BuildInfo`] by the gateway itself:
/// whoever has a ticket and the source, but no way to godebugd, learns by it which file is which. A call in JSON-RPC, so that a
/// gateway that knows nothing of it says so.
pub const BUILD_INFO_CALL: &str = "{\"method\":\"Godebug.BuildInfo\",\"params\":[],\"id\":1}\n";
/// No longer than this in JSON is what is told then, in bytes.
pub const LONGEST_BUILD_INFO: usize = 128 * 1024;

/// The answer to [`BUILD_INFO_CALL`].
#[derive(Debug, Serialize, Deserialize)]
pub struct BuildInfoAnswer {
    pub id: u32,
    /// `None` when it is not known.
    pub result: Option<BuildInfo>,
    pub error: Option<String>,
}

/// All that a gateway knows. Holds its private key: never logged, never written to a file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    pub id: SessionId,
    pub mode: Mode,
    pub port: Port,
    /// Where clients may come from.
    pub sources: Vec<Cidr>,
    pub deadline: Deadline,
    /// For how long the target may stand.
    pub pause: PauseBudget,
    /// The target was started for the session, and stands where it was caught until somebody comes.
    #[serde(default)]
    pub awaits_client: bool,
    /// There is no target but a core: nothing stands, and there are no news of images.
    #[serde(default)]
    pub of_core: bool,
    /// Where a breakpoint is hit too often.
    pub hot: HotLimit,
    /// Whose values nobody is shown.
    pub redact: RedactRules,
    /// What the transcript keeps of those that are shown.
    pub transcript_values: TranscriptValues,
    /// The name that the gateway's certificate is for.
    pub server_name: String,
    /// PEM: the session's CA, the gateway's certificate, the gateway's key.
    pub ca: String,
    pub certificate: String,
    pub key: String,
    /// dlv's Unix socket.
    pub debugger_socket: String,
    /// How the program was built.
    #[serde(default)]
    pub build: Option<BuildInfo>,
    /// Where the gateway makes its control socket.
    pub control_socket: String,
    /// Bounds.
    pub max_connections: usize,
    pub max_handshakes: usize,
    /// This host's name and the kernel's name for this boot, for the transcript's lines.
    pub host: String,
    pub boot: String,
}

impl std::fmt::Debug for GatewayConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key must not reach a log by way of a derive.
        f.debug_struct("GatewayConfig").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What the gateway can be asked. Anybody who reaches the control socket (root, and dlv's own
/// attendant) may make the session smaller; only root may move its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Close every connection, both sides, and accept none any more. Answered when it is done.
    Cut,
    /// Let in whoever has this certificate, of this CA, besides the session's own. Root only.
    Admit {
        /// PEM.
        ca: String,
        certificate: String,
        name: GuestName,
        /// They may only watch.
        observes: bool,
    },
    /// Whoever was let in by this name is no longer, and their connections end. Answered when they have. Root only.
    Withdraw {
        name: GuestName,
    },
    /// The end of the session is now here. Root only.
    SetDeadline {
        deadline: Deadline,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    Status {
        /// Addresses of the clients that are connected, `ADDRESS:PORT`.
        clients: Vec<String>,
        /// Connections that passed TLS since the start.
        accepted: u64,
        /// Connections that were turned away: by source, by TLS, by a bound.
        refused: u64,
        bytes_in: u64,
        bytes_out: u64,
        cut: bool,
        /// For how long the target has stood in all, and at the longest stop, in milliseconds.
        #[serde(default)]
        stood_ms: u64,
        #[serde(default)]
        longest_stop_ms: u64,
        /// How often it was let go because its time was up.
        #[serde(default)]
        let_go: u64,
    },
    Done,
    /// The guest is let in, and knows the gateway by this CA.
    Admitted {
        ca: String,
    },
    Refused {
        why: String,
    },
}
