//! What the lines of a session tell, taken out of them once for every form of it. All of it is text: it was
//! checked when it was written, and is shown as it stands.

use crate::transcript::Variable;
use godebug_api::audit::{AuditRecord, Facts};
use godebug_api::chain::{BundledSession, Head};
use godebug_api::documents::TranscriptEnd;
use serde::Deserialize;

/// A session as its records tell it.
pub(super) struct Story {
    pub(super) records: Vec<AuditRecord>,
    pub(super) facts: Vec<Facts>,
    pub(super) operations: Vec<Operation>,
}

/// A line of the transcript.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Operation {
    pub(super) time: String,
    pub(super) event: String,
    pub(super) client: String,
    pub(super) operation: String,
    pub(super) subject: String,
    pub(super) outcome: String,
    pub(super) why: String,
    pub(super) mode: String,
    pub(super) ms: Option<u64>,
    pub(super) pause_ms: Option<f64>,
    pub(super) place: String,
    pub(super) stood_ms: Option<u64>,
    pub(super) longest_stop_ms: Option<u64>,
    pub(super) breakpoints_off: Option<u64>,
    pub(super) breakpoints_cleared: Option<u64>,
    /// What was shown, with as much as the host's rule lets the transcript keep.
    pub(super) variables: Vec<Variable>,
}

impl Operation {
    /// What was shown, one after the other.
    pub(super) fn shown(&self) -> String {
        self.variables.iter().map(Variable::told).collect::<Vec<_>>().join(", ")
    }
}

impl Story {
    pub(super) fn of(session: &BundledSession) -> Self {
        let records: Vec<AuditRecord> =
            session.records.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let facts = records.iter().map(AuditRecord::facts).collect();
        let lines = session.transcript.iter();
        let operations = lines.map(|line| serde_json::from_str(line).unwrap_or_default()).collect();
        Self { records, facts, operations }
    }

    /// What the first record that tells says.
    pub(super) fn first(
        &self,
        of: impl Fn(&AuditRecord, &Facts) -> Option<String>,
    ) -> Option<String> {
        self.records.iter().zip(&self.facts).find_map(|(record, facts)| of(record, facts))
    }

    /// The last record of this kind, with its facts.
    pub(super) fn last(&self, events: &[&str]) -> Option<(&AuditRecord, &Facts)> {
        let all = self.records.iter().zip(&self.facts);
        all.rev().find(|(record, _)| events.contains(&record.event.as_str()))
    }

    pub(super) fn all(&self, event: &str) -> impl Iterator<Item = (&AuditRecord, &Facts)> {
        let all = self.records.iter().zip(&self.facts);
        all.filter(move |(record, _)| record.event == event)
    }
}

/// Why a session's transcript is not all that its record names; nothing when it is.
pub(super) fn cut_transcript(session: &BundledSession) -> Option<String> {
    let story = Story::of(session);
    let (record, _) = story.last(&["closed", "stuck"])?;
    let end = TranscriptEnd::deserialize(record.details.get("transcript")?).ok()?;
    let last = session.transcript.last().and_then(|line| Head::of(line.as_bytes()));
    let same = last.is_some_and(|last| last.seq == end.lines && last.hash.to_string() == end.hash);
    (!same).then(|| {
        format!(
            "session {}: the transcript does not end with the line that the record names",
            session.id
        )
    })
}
