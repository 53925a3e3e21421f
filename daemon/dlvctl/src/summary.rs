//! The one line that a tear-down leaves in the journal: how it ended, and how long each step took.

use crate::detach::Failure;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// How a tear-down ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// The target runs, without tracer and without breakpoints.
    Detached,
    /// The target had ended; dlv has nothing to detach from.
    TargetExited,
    /// dlv had ended before, and nothing traces the target.
    AlreadyGone,
    Failed,
}

#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    outcome: Outcome,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed_step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    /// What went wrong on the way and stopped nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    breakpoints: usize,
    /// Times that the target was resumed and halted to get a pending SIGTRAP out of it.
    rounds: u32,
    ms: Steps,
}

/// Milliseconds; a step that was not reached is absent.
#[derive(Debug, Default, Serialize)]
struct Steps(std::collections::BTreeMap<&'static str, f64>);

impl Summary {
    pub(crate) fn new(pid: u32) -> Self {
        Self {
            outcome: Outcome::Failed,
            pid,
            failed_step: None,
            why: None,
            notes: Vec::new(),
            breakpoints: 0,
            rounds: 0,
            ms: Steps::default(),
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.outcome != Outcome::Failed
    }

    #[cfg(test)]
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome
    }

    pub(crate) fn took(&mut self, step: &'static str, time: Duration) {
        // Tenths are precise enough, and readable.
        self.ms.0.insert(step, (time.as_secs_f64() * 10_000.0).round() / 10.0);
    }

    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub(crate) fn cleared(&mut self, breakpoints: usize) {
        self.breakpoints += breakpoints;
    }

    pub(crate) fn round(&mut self) {
        self.rounds += 1;
    }

    pub(crate) fn failed_at(&mut self, step: &'static str) {
        self.failed_step = Some(step);
    }

    pub(crate) fn end(mut self, result: Result<Outcome, Failure>, total: Duration) -> Self {
        match result {
            Ok(outcome) => {
                self.outcome = outcome;
                self.failed_step = None;
            }
            Err(failure) => {
                self.outcome = Outcome::Failed;
                self.why = Some(failure.to_string());
            }
        }
        self.took("total", total);
        self
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match serde_json::to_string(self) {
            Ok(line) => write!(f, "detach: {line}"),
            Err(error) => write!(f, "detach: {:?} ({error})", self.outcome),
        }
    }
}
