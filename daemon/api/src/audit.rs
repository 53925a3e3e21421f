//! The audit log as clients read it: the question, the records, and what is answered from them.

use crate::clock;
use crate::documents::Proof;
use godebug_core::{Approval, Cidr, CloseReason, Login, Mode, Pid, Program, SessionId, UnitName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// Which sessions `audit list` is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditFilter {
    /// Those on this unit; on every unit without it.
    #[serde(default)]
    pub unit: Option<UnitName>,
    #[serde(default)]
    pub last: Last,
    /// Those that this person opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Moment>,
    /// What was refused, instead of the sessions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

impl AuditFilter {
    /// Whether something that this person did at this time is wanted.
    pub fn wants(&self, user: &str, time: &str) -> bool {
        let at = clock::from_rfc3339(time);
        let after = |since: Moment| at.is_some_and(|at| at >= since.0);
        let before = |until: Moment| at.is_some_and(|at| at <= until.0);
        self.user.as_ref().is_none_or(|wanted| wanted == user)
            && self.since.is_none_or(after)
            && self.until.is_none_or(before)
    }
}

/// A moment, as RFC 3339 or as a day, which is its first moment in UTC. Milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(u64);

/// A text that is no moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a moment such as 2026-01-31 or 2026-01-31T08:00:00Z")]
pub struct NoMoment;

impl FromStr for Moment {
    type Err = NoMoment;

    fn from_str(text: &str) -> Result<Self, NoMoment> {
        let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
        clock::from_rfc3339(&whole).map(Self).ok_or(NoMoment)
    }
}

impl TryFrom<String> for Moment {
    type Error = NoMoment;

    fn try_from(text: String) -> Result<Self, NoMoment> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> Self {
        clock::rfc3339(moment.0)
    }
}

/// How many sessions are wanted at most, the latest: 1 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Last(u32);

/// A number of sessions that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be a number from 1 to {}", Last::MOST)]
pub struct OutOfBounds;

impl Last {
    const MOST: u32 = 1000;

    pub fn get(self) -> usize {
        self.0 as usize
    }
}

impl Default for Last {
    fn default() -> Self {
        Self(20)
    }
}

impl TryFrom<u32> for Last {
    type Error = OutOfBounds;

    fn try_from(value: u32) -> Result<Self, OutOfBounds> {
        if (1..=Self::MOST).contains(&value) { Ok(Self(value)) } else { Err(OutOfBounds) }
    }
}

impl From<Last> for u32 {
    fn from(last: Last) -> u32 {
        last.0
    }
}

impl FromStr for Last {
    type Err = OutOfBounds;

    fn from_str(text: &str) -> Result<Self, OutOfBounds> {
        text.parse::<u32>().map_err(|_| OutOfBounds)?.try_into()
    }
}

impl fmt::Display for Last {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One line of the log. Kept whole, also what a later version has added to it: an auditor is shown
/// what is there, not what this program knows of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// RFC 3339 in UTC.
    pub time: String,
    /// `opening`, `active`, `extended`, `closed`, `stuck`, `recovered`, `refused`, `requested`,
    /// `approved`, `denied`, `dropped`, `break-glass`, `reviewed`.
    pub event: String,
    pub session: Option<SessionId>,
    pub unit: String,
    pub uid: u32,
    pub user: String,
    /// A sentence.
    pub message: String,
    #[serde(default)]
    pub details: Value,
    #[serde(default, skip_serializing_if = "Login::is_unknown")]
    pub login: Login,
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl AuditRecord {
    /// What the details say; nothing where they are of a kind that this program does not know.
    pub fn facts(&self) -> Facts {
        Facts::deserialize(&self.details).unwrap_or_default()
    }
}

/// What a record's details say of its session, whichever document they are. Words are text here:
/// they were parsed when they were written, and are shown as they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Facts {
    pub opened_at: Option<String>,
    pub opened_by: Option<String>,
    pub opened_by_uid: Option<u32>,
    pub expires_at: Option<String>,
    pub pid: Option<Pid>,
    pub mode: Option<Mode>,
    pub reason: Option<String>,
    pub ttl_seconds: Option<u64>,
    pub sources: Option<Vec<Cidr>>,
    pub port: Option<u16>,
    pub endpoint: Option<String>,
    pub debugger: Option<String>,
    pub go_version: Option<String>,
    pub rule: Option<String>,
    pub program: Option<Program>,
    pub approvals: Vec<Approval>,
    pub break_glass: bool,
    /// What whoever has reviewed it says.
    pub note: Option<String>,
    pub close_reason: Option<CloseReason>,
    pub close_detail: Option<String>,
    pub stuck: Vec<String>,
    pub proof: Vec<Proof>,
}

/// What `audit show` answers: all records of one session, in the log's order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditTrail {
    pub session: SessionId,
    pub entries: Vec<AuditRecord>,
    /// Set when there are more than fit into an answer.
    #[serde(default)]
    pub left_out: Option<LeftOut>,
    /// Lines of the log that could not be read, whose session is therefore not known.
    pub damaged_lines: u64,
}

/// A gap in a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many of the trail's entries stand before the gap.
    pub after: usize,
    pub entries: u64,
}

/// What `audit list` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditList {
    /// By the time they were opened, the latest last.
    pub sessions: Vec<AuditedSession>,
    /// The refusals, where those were asked for, the latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<AuditRecord>,
    /// Only the sessions of whoever asked are in it, since they may not read others'.
    pub own_only: bool,
    /// Lines of the log that could not be read.
    pub damaged_lines: u64,
}

/// What `audit review` answers: the records of sessions that were opened without the consent that their
/// rule wants, and that nobody else has looked at afterwards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditReviews {
    pub open: Vec<AuditRecord>,
    /// Lines of the logs that could not be read.
    pub damaged_lines: u64,
}

/// A session in one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditedSession {
    /// RFC 3339 in UTC.
    pub opened_at: String,
    pub id: SessionId,
    pub unit: UnitName,
    pub opened_by: String,
    pub opened_by_uid: u32,
    /// `None` when the log does not tell.
    pub mode: Option<Mode>,
    /// RFC 3339 in UTC.
    pub ended_at: Option<String>,
    pub close_reason: Option<CloseReason>,
    /// It was opened without the consent that its rule wants.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    pub outcome: Outcome,
}

/// What is known of the end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It has not ended.
    Running,
    /// Everything was given back, and read back.
    Proved,
    /// Something could not be given back, at the last attempt that was recorded.
    Stuck,
    /// It was asked for, and refused or not taken up.
    NotOpened,
    /// It is not there any more and no end was recorded: the host went down, or the log could not
    /// be written.
    NotRecorded,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Proved => "proved",
            Self::Stuck => "stuck",
            Self::NotOpened => "not opened",
            Self::NotRecorded => "not recorded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_has_bounds() {
        assert_eq!("1000".parse::<Last>().unwrap().get(), 1000);
        for bad in ["0", "1001", "-1", "", "many", "99999999999999999999"] {
            assert!(bad.parse::<Last>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<AuditFilter>(r#"{"last":0}"#).is_err());
        assert!(serde_json::from_str::<AuditFilter>(r#"{"lst":5}"#).is_err());
        assert_eq!(serde_json::from_str::<AuditFilter>("{}").unwrap().last.get(), 20);
    }

    #[test]
    fn a_filter_is_about_people_and_times() {
        let filter = |text: &str| serde_json::from_str::<AuditFilter>(text).unwrap();
        let from = filter(r#"{"user":"dev","since":"2026-01-02","until":"2026-01-02T12:00:00Z"}"#);
        assert!(from.wants("dev", "2026-01-02T00:00:00Z"));
        assert!(from.wants("dev", "2026-01-02T12:00:00Z"));
        assert!(!from.wants("dev", "2026-01-02T12:00:01Z"));
        assert!(!from.wants("dev", "2026-01-01T23:59:59Z"));
        assert!(!from.wants("root", "2026-01-02T06:00:00Z"));
        assert!(!from.wants("dev", "no time"));
        assert!(filter("{}").wants("anybody", "no time"));
        assert!(serde_json::from_str::<AuditFilter>(r#"{"since":"yesterday"}"#).is_err());
        let text = serde_json::to_string(&AuditFilter::default()).unwrap();
        assert_eq!(text, r#"{"unit":null,"last":20}"#);
    }

    #[test]
    fn a_record_keeps_what_it_does_not_know() {
        let line = serde_json::json!({
            "time": "2026-01-01T00:00:00Z", "event": "approved", "session": "0000000a",
            "unit": "shop.service", "uid": 0, "user": "root", "message": "m",
            "details": {"mode": "modify", "stuck": [], "new": [1]}, "host": {"name": "a"},
        });
        let record: AuditRecord = serde_json::from_value(line.clone()).unwrap();
        assert_eq!(record.facts().mode, Some(Mode::Modify));
        assert_eq!(serde_json::to_value(&record).unwrap(), line);
    }

    #[test]
    fn details_of_another_kind_say_nothing() {
        let line = serde_json::json!({
            "time": "t", "event": "closed", "session": null, "unit": "", "uid": 0, "user": "",
            "message": "", "details": {"mode": 7},
        });
        let record: AuditRecord = serde_json::from_value(line).unwrap();
        assert_eq!(record.facts(), Facts::default());
    }
}
