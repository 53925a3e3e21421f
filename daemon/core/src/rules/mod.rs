//! Who may debug what, how and for how long: the site's rules, read strictly, and the first that fits
//! decides. No rule, no grant.
//!
//! A rule has *selectors* (unit, person, command, mode, source, time), which say whether it is about a
//! request, and *limits* (time to live, reason, concurrent sessions), which a request that it is about
//! must keep. A request outside a selector goes on to the next rule; one outside a limit is refused.

mod check;
mod decide;
mod file;
#[cfg(test)]
mod hostile;
mod suggest;
mod table;
#[cfg(test)]
mod tests;
mod words;

pub use check::check;
pub use decide::{
    Answer, Consent, Denial, Mismatch, PassedOver, Permit, Question, Running, decide,
};
pub use file::parse;
pub use words::{Command, Glob, Moment, Pattern, Slice, Times, UnitPattern, Weekday};

use crate::words::{Cidr, Mode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Where something stands in the rules' files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub file: String,
    /// From 1; 0 when it is about the file as a whole.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file cannot be used, and with it no rule.
    Error,
    /// It can, but means something else than somebody thought.
    Warning,
}

/// Something wrong with the rules' files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub severity: Severity,
    #[serde(flatten)]
    pub place: Place,
    pub message: String,
    /// What to do; empty where the message says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, " ({})", self.help) }
    }
}

/// What a rule does to the requests that it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    Allow,
    Deny,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    pub name: String,
    pub place: Place,
    pub effect: Effect,
    pub selectors: Selectors,
    pub limits: Limits,
    pub policy: SessionPolicy,
}

/// Which requests a rule is about. `None` is every one.
#[derive(Debug, Clone, Default)]
pub struct Selectors {
    pub units: Option<Units>,
    pub who: Option<Who>,
    pub commands: Option<Vec<Command>>,
    pub modes: Option<Vec<Mode>>,
    pub sources: Option<Vec<Cidr>>,
    pub times: Option<Times>,
}

/// Units by name, by the slice that they are in or by the container; one that fits is enough.
#[derive(Debug, Clone, Default)]
pub struct Units {
    pub names: Vec<UnitPattern>,
    pub slices: Vec<Slice>,
    pub containers: Vec<Glob>,
    /// Those of whoever asks, which their own manager runs.
    pub own: bool,
}

/// People by name or by group; one that fits is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Who {
    pub users: Vec<String>,
    pub groups: Vec<String>,
}

/// What a request must keep to that a rule allows.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub max_ttl: Option<Duration>,
    pub max_total: Option<Duration>,
    pub reason: ReasonWanted,
    pub sessions: SessionLimits,
    /// `None`: nobody else has to consent.
    pub approvals: Option<Approvals>,
}

/// Whose consent a request needs before anything is granted. Never that of whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approvals {
    /// Of how many people.
    pub count: u32,
    pub by: Who,
    /// For how long a request waits: to be approved, and then to be taken up.
    pub within: Duration,
    /// Whoever asks may go ahead without, and then it is an alarm.
    pub break_glass: bool,
}

impl fmt::Display for Approvals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let approvals = if self.count == 1 { "approval" } else { "approvals" };
        write!(f, "{} {approvals} by {}", self.count, self.by)
    }
}

/// Whether a reason must be given.
#[derive(Debug, Clone, Default)]
pub enum ReasonWanted {
    #[default]
    No,
    Yes,
    /// One in which this is found.
    With(Pattern),
}

/// How many sessions there may be at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionLimits {
    pub per_unit: Option<u32>,
    pub per_host: Option<u32>,
    pub per_person: Option<u32>,
}

/// What the gateway holds a session to. Everything at its default is what it does without a rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPolicy {
    /// How long one stop may last.
    pub pause_per_stop: Option<Duration>,
    /// How long all stops of a session may last together.
    pub pause_per_session: Option<Duration>,
    /// Where a breakpoint is hit too often.
    pub hot_hits_per_second: Option<u32>,
    pub hot_standing_percent: Option<u8>,
    /// Whom its owner may let in besides.
    pub share: Share,
    pub transcript_values: Option<TranscriptValues>,
    pub redact: RedactRules,
}

/// What those may do at most whom a session's owner lets in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Nobody is let in.
    #[default]
    No,
    /// Only watch.
    Observe,
    /// All that the session's mode allows.
    Full,
}

/// What the transcript keeps of the values that were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TranscriptValues {
    None,
    /// Their SHA-256.
    Digest,
    Full,
}

/// The variables whose values nobody is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedactRules {
    pub names: Vec<Glob>,
    pub types: Vec<Glob>,
    /// Looked for in the values themselves.
    pub patterns: Vec<Pattern>,
}
