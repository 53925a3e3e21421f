//! The record: every decision and every end, in the journal with fixed message IDs and as a line of
//! `/var/log/godebug/audit.jsonl`, where each line is chained to the one before. No record, no grant;
//! but a failing record stops no revocation.

mod answers;
mod checkpoints;
pub mod export;
mod kernel;
mod keyring;
mod lines;
mod log;

pub use answers::{last_end, list, owner, trail, unreviewed};

use crate::{hooks, logging};
use godebug_api::{Login, clock};
use log::Places;
use serde::{Deserialize, Serialize};

/// What happened. Each kind has a message ID that never changes, for `journalctl MESSAGE_ID=…`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A request was refused; nothing was changed.
    Refused,
    /// A request was allowed; grants are about to be taken.
    Opening,
    /// A unit is about to be started for a session.
    Launching,
    Active,
    Extended,
    /// Somebody was let into a session.
    Shared,
    /// They were shut out again.
    Withdrawn,
    /// Everything was given back and read back.
    Closed,
    /// Something could not be given back.
    Stuck,
    /// A starting godebugd took over, or cleaned up after, an earlier one.
    Recovered,
    /// Somebody changed a grant of a live session from outside; it is as it was.
    Mended,
    /// A request waits for the consent of others.
    Requested,
    /// Somebody has consented to it.
    Approved,
    /// Somebody has refused it.
    Denied,
    /// A request is over that was not taken up.
    Dropped,
    /// A session goes ahead without the consent that its rule wants.
    BreakGlass,
    /// Somebody else has looked at such a session afterwards.
    Reviewed,
    /// A session has ended, and its images are there for a while.
    ImagesKept,
    /// They are not any more.
    ImagesGone,
}

impl Kind {
    /// As it stands in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Opening => "opening",
            Self::Launching => "launching",
            Self::Active => "active",
            Self::Extended => "extended",
            Self::Shared => "shared",
            Self::Withdrawn => "withdrawn",
            Self::Closed => "closed",
            Self::Stuck => "stuck",
            Self::Recovered => "recovered",
            Self::Mended => "mended",
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Dropped => "dropped",
            Self::BreakGlass => "break-glass",
            Self::Reviewed => "reviewed",
            Self::ImagesKept => "images-kept",
            Self::ImagesGone => "images-gone",
        }
    }

    pub fn message_id(self) -> &'static str {
        match self {
            Self::Refused => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b01",
            Self::Opening => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b02",
            Self::Launching => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b21",
            Self::Active => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b03",
            Self::Extended => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b04",
            Self::Shared => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b20",
            Self::Withdrawn => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b24",
            Self::Closed => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b05",
            Self::Stuck => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b06",
            Self::Recovered => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b07",
            Self::Mended => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b08",
            // 09 are checkpoints.
            Self::Requested => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b0a",
            Self::Approved => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b0b",
            Self::Denied => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b0c",
            Self::Dropped => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b0d",
            Self::BreakGlass => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b0e",
            Self::Reviewed => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b0f",
            Self::ImagesKept => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b22",
            Self::ImagesGone => "5d9d1a52b7f94c1a9b3e1f0a6c3e5b23",
        }
    }
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// RFC 3339 in UTC.
    pub time: String,
    pub event: Kind,
    pub session: Option<String>,
    pub unit: String,
    pub uid: u32,
    pub user: String,
    /// How they came to be on the host, where that is known.
    #[serde(default, skip_serializing_if = "Login::is_unknown")]
    pub login: Login,
    /// A sentence.
    pub message: String,
    /// The documents that belong to it: the request, the session, the proof.
    pub details: serde_json::Value,
}

impl Entry {
    pub fn new(event: Kind, unit: &str, uid: u32, user: &str, message: impl Into<String>) -> Self {
        Self {
            time: clock::rfc3339(clock::now().wall_ms),
            event,
            session: None,
            unit: unit.to_owned(),
            uid,
            user: user.to_owned(),
            login: Login::default(),
            message: message.into(),
            details: serde_json::Value::Null,
        }
    }

    #[must_use]
    pub fn session(mut self, id: impl ToString) -> Self {
        self.session = Some(id.to_string());
        self
    }

    #[must_use]
    pub fn login(mut self, login: &Login) -> Self {
        self.login = login.clone();
        self
    }

    #[must_use]
    pub fn details(mut self, details: serde_json::Value) -> Self {
        self.details = details;
        self
    }
}

/// Writes an entry to the journal and to the log, synced.
///
/// # Errors
/// When the log cannot be written. Before a grant that refuses it; after, it is only told.
pub fn record(entry: &Entry) -> std::io::Result<()> {
    to_journal(entry);
    let places = Places::of_this_host();
    let document = serde_json::to_vec(entry)?;
    log::append(&places, &document, |head| {
        if entry.event == Kind::Closed || checkpoints::is_due(head.seq) {
            checkpoints::make(&places, head);
        }
    })?;
    kernel::tell(entry);
    hooks::tell(entry);
    Ok(())
}

fn to_journal(entry: &Entry) {
    let session = entry.session.as_deref().unwrap_or_default();
    // With the journal's layer these become fields: GODEBUG_SESSION=, MESSAGE_ID= and so on.
    macro_rules! event {
        ($($how:tt)*) => {
            tracing::event!(
                $($how)*,
                message_id = entry.event.message_id(),
                godebug_session = session,
                godebug_unit = entry.unit,
                godebug_actor_uid = entry.uid,
                godebug_actor = entry.user,
                "{}",
                entry.message
            )
        };
    }
    match entry.event {
        // Somebody has to come and look.
        Kind::Stuck | Kind::BreakGlass => event!(target: logging::ALERT, tracing::Level::ERROR),
        Kind::Refused | Kind::Mended => event!(tracing::Level::WARN),
        _ => event!(tracing::Level::INFO),
    }
}
