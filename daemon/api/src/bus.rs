//! The D-Bus interface as a client calls it, and the errors on it.
//!
//! Documents travel as JSON text (see `documents`); what a shell script or a desktop would want,
//! IDs, states and times, are plain D-Bus values on the session objects.

use godebug_core::{Code, Refusal};
use zbus::OwnedFd;

/// `org.godebug1.Manager` at `/org/godebug1`.
#[zbus::proxy(
    interface = "org.godebug1.Manager",
    default_service = "org.godebug1",
    default_path = "/org/godebug1"
)]
pub trait Manager {
    /// Opens a session on `unit`; `request` is an `OpenRequest`, `files` holds the symbols file or
    /// nothing. Answers an `OpenAnswer`: when the session is active, or at once where others have to
    /// consent.
    #[zbus(allow_interactive_auth)]
    fn open(&self, unit: &str, request: &str, files: Vec<OwnedFd>) -> Result<String, BusError>;

    /// Takes up a request that others have consented to; `request` is a `ClaimRequest`, `files` as for
    /// `open`. Answers an `Opened` when the session is active.
    #[zbus(allow_interactive_auth)]
    fn claim(&self, id: &str, request: &str, files: Vec<OwnedFd>) -> Result<String, BusError>;

    /// Consents to a request; answers its `SessionInfo`.
    #[zbus(allow_interactive_auth)]
    fn approve(&self, id: &str) -> Result<String, BusError>;

    /// Refuses a request, and says why; answers its `SessionInfo`.
    #[zbus(allow_interactive_auth)]
    fn deny(&self, id: &str, reason: &str) -> Result<String, BusError>;

    /// Takes images of `unit`'s process; `request` is an `ImageRequest`, `files` holds the symbols file or
    /// nothing. Answers the `SessionInfo` and
    /// a pipe with the lines that are found (`image::Line`); the session ends when it is done, or when
    /// the asker leaves the bus. Where others have to consent, it is that of a request that waits, and the
    /// pipe is empty.
    #[zbus(allow_interactive_auth)]
    fn snapshot(
        &self,
        unit: &str,
        request: &str,
        files: Vec<OwnedFd>,
    ) -> Result<(String, OwnedFd), BusError>;

    /// Takes up a request for images that others have consented to, as `snapshot` would.
    #[zbus(allow_interactive_auth)]
    fn claim_images(&self, id: &str, files: Vec<OwnedFd>) -> Result<(String, OwnedFd), BusError>;

    /// The core dumps of a unit, or of the process that had a PID: an array of `KeptDump`.
    fn dumps(&self, which: &str) -> Result<String, BusError>;

    /// What `open` would do: a `PlanDocument`.
    fn plan(&self, unit: &str, request: &str) -> Result<String, BusError>;

    /// The caller's sessions, or all for those who may read all: an array of `SessionInfo`.
    fn list(&self) -> Result<String, BusError>;

    /// One session, running or ended: a `SessionInfo`.
    fn get(&self, id: &str) -> Result<String, BusError>;

    /// Moves the end of a session to `seconds` from now; answers its `SessionInfo`.
    #[zbus(allow_interactive_auth)]
    fn extend(&self, id: &str, seconds: u64) -> Result<String, BusError>;

    /// Holds a session again whose holder was away; answers its `SessionInfo`. For its owner.
    fn hold(&self, id: &str) -> Result<String, BusError>;

    /// Lets somebody into a session; `request` is a `ShareRequest`. Answers an `Opened`, with their
    /// certificate and the mode that they have.
    #[zbus(allow_interactive_auth)]
    fn share(&self, id: &str, request: &str) -> Result<String, BusError>;

    /// Shuts out whoever was let into a session by this name; answers its `SessionInfo` when their connections have
    /// ended.
    #[zbus(allow_interactive_auth)]
    fn withdraw(&self, id: &str, name: &str) -> Result<String, BusError>;

    /// Ends a session; answers its `SessionInfo` when everything is given back, or is stuck.
    #[zbus(allow_interactive_auth)]
    fn stop(&self, id: &str) -> Result<String, BusError>;

    /// The target in a unit: an `Inspection`. `pid` is 0 to let the daemon choose.
    fn inspect(&self, unit: &str, pid: u32) -> Result<String, BusError>;

    /// The host's prerequisites, and the unit's if one is named: a `Diagnosis`.
    fn doctor(&self, unit: &str) -> Result<String, BusError>;

    /// What the gateway of a session says of itself: a `control::Reply::Status`.
    fn traffic(&self, id: &str) -> Result<String, BusError>;

    /// What the rules would say: `hypothesis` is a `rules::Hypothesis`, the answer an `Explanation`.
    fn explain(&self, unit: &str, hypothesis: &str) -> Result<String, BusError>;

    /// The audit log's sessions: `filter` is an `AuditFilter`, the answer an `AuditList`. Others'
    /// sessions are in it for those who may read all.
    fn audit_list(&self, filter: &str) -> Result<String, BusError>;

    /// What the audit log says of one session: an `AuditTrail`.
    fn audit_show(&self, id: &str) -> Result<String, BusError>;

    /// The records and transcripts of these sessions, signed: a file with a `chain::Bundle`.
    fn audit_export(&self, ids: &[&str]) -> Result<OwnedFd, BusError>;

    /// The sessions that still need a review: an `AuditReviews`.
    fn audit_reviews(&self) -> Result<String, BusError>;

    /// Closes the review of a session, with what there is to say of it; answers its `AuditTrail`.
    #[zbus(allow_interactive_auth)]
    fn audit_review(&self, id: &str, note: &str) -> Result<String, BusError>;

    /// What was done in a session, from this byte of its transcript on: a `TranscriptPage`.
    fn transcript(&self, id: &str, from: u64) -> Result<String, BusError>;

    #[zbus(property(emits_changed_signal = "const"))]
    fn version(&self) -> zbus::Result<String>;

    #[zbus(signal)]
    fn session_added(&self, id: &str, session: zbus::ObjectPath<'_>) -> zbus::Result<()>;

    #[zbus(signal)]
    fn session_removed(&self, id: &str, session: zbus::ObjectPath<'_>) -> zbus::Result<()>;
}

/// `org.godebug1.Session` at `/org/godebug1/session/ID`.
#[zbus::proxy(interface = "org.godebug1.Session", default_service = "org.godebug1")]
pub trait Session {
    #[zbus(property)]
    fn id(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn unit(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn state(&self) -> zbus::Result<String>;
    #[zbus(property)]
    fn expires_at(&self) -> zbus::Result<String>;

    /// Every move in the life of the session; `close_reason` is empty before the session ends.
    #[zbus(signal)]
    fn transition(&self, old: &str, new: &str, close_reason: &str) -> zbus::Result<()>;

    /// One more person has consented to the request: so many of so many.
    #[zbus(signal)]
    fn approved(&self, given: u32, wanted: u32) -> zbus::Result<()>;

    /// The session has a new end (RFC 3339).
    #[zbus(signal)]
    fn extended(&self, expires_at: &str) -> zbus::Result<()>;
}

/// The errors of the interface. The text is the message, a line break, and the remedy.
#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.godebug1.Error")]
pub enum BusError {
    #[zbus(error)]
    ZBus(zbus::Error),
    Usage(String),
    Refused(String),
    Target(String),
    Freeze(String),
    Host(String),
    Ended(String),
    Failed(String),
}

impl From<Refusal> for BusError {
    fn from(refusal: Refusal) -> Self {
        let text = format!("{}\n{}", refusal.message.replace('\n', " "), refusal.remedy);
        match refusal.code {
            Code::Usage => Self::Usage(text),
            Code::Refused => Self::Refused(text),
            Code::Target => Self::Target(text),
            Code::Freeze => Self::Freeze(text),
            Code::Host => Self::Host(text),
            Code::Ended => Self::Ended(text),
            Code::Failed => Self::Failed(text),
        }
    }
}

impl From<BusError> for Refusal {
    fn from(error: BusError) -> Self {
        let (code, text) = match error {
            BusError::ZBus(error) => return from_transport(&error),
            BusError::Usage(text) => (Code::Usage, text),
            BusError::Refused(text) => (Code::Refused, text),
            BusError::Target(text) => (Code::Target, text),
            BusError::Freeze(text) => (Code::Freeze, text),
            BusError::Host(text) => (Code::Host, text),
            BusError::Ended(text) => (Code::Ended, text),
            BusError::Failed(text) => (Code::Failed, text),
        };
        let (message, remedy) = text.split_once('\n').unwrap_or((&text, ""));
        Self::new(code, message, remedy)
    }
}

/// A failure of the bus itself, or an error that is not of our interface.
fn from_transport(error: &zbus::Error) -> Refusal {
    const LOOK: &str = "look at `systemctl status godebugd` and `journalctl -u godebugd`";
    if let zbus::Error::MethodError(name, text, _) = error {
        let text = text.as_deref().unwrap_or_default();
        return match name.as_str() {
            "org.freedesktop.DBus.Error.ServiceUnknown" => Refusal::host(
                "no godebugd is installed on this host: the bus knows no org.godebug1",
                "install the godebug package, or run `systemctl reload dbus` if it just was",
            ),
            "org.freedesktop.DBus.Error.AccessDenied" => Refusal::refused(
                format!("the system bus does not let you talk to godebugd: {text}"),
                "ask the administrator of this host",
            ),
            "org.freedesktop.DBus.Error.NoReply" => Refusal::failed(
                "godebugd went away without an answer; what it had taken is being given back",
                LOOK,
            ),
            name => Refusal::host(format!("godebugd cannot be reached: {name}: {text}"), LOOK),
        };
    }
    Refusal::host(format!("the system bus cannot be used: {error}"), "is dbus running here?")
}
