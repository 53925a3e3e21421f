//! What differed between the target's text and its files before dlv was there: a kernel's uprobe,
//! a text relocation. It is not ours to repair, and no sign of a breakpoint left.

use crate::paths::SessionPaths;
use crate::target::process::{self, Difference, TextComparison};
use godebug_api::{Pid, SessionId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What the comparison said before. Empty for almost every target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The addresses that differed.
    differing: BTreeSet<u64>,
    /// What could not be compared, and why.
    skipped: BTreeSet<String>,
}

impl Baseline {
    /// Looks at the target now and keeps the result with the session.
    ///
    /// # Errors
    /// When the target cannot be read, when it differs so much that a breakpoint would not be
    /// noticed, or when the result cannot be kept.
    pub fn take(id: &SessionId, pid: Pid) -> Result<Self, String> {
        #[cfg(feature = "fault-points")]
        let _around = crate::faults::Around::new("baseline", "take");
        let compared = process::text_differences(pid).map_err(|error| error.to_string())?;
        if compared.total > compared.first.len() as u64 {
            return Err(format!(
                "{} bytes of its program in memory differ from its file; a breakpoint left among them would not be noticed",
                compared.total
            ));
        }
        let baseline = Self {
            differing: compared.first.iter().map(|difference| difference.address).collect(),
            skipped: compared.skipped.iter().cloned().collect(),
        };
        let text = serde_json::to_vec(&baseline).map_err(|error| error.to_string())?;
        std::fs::write(SessionPaths::of(id).baseline(), text).map_err(|error| error.to_string())?;
        Ok(baseline)
    }

    /// What was kept with the session; empty when there is nothing.
    pub fn of(id: &SessionId) -> Self {
        let kept = std::fs::read(SessionPaths::of(id).baseline()).unwrap_or_default();
        serde_json::from_slice(&kept).unwrap_or_default()
    }

    /// The differences that were not there before.
    pub fn new_in(&self, compared: &TextComparison) -> Vec<Difference> {
        let is_new = |difference: &&Difference| !self.differing.contains(&difference.address);
        compared.first.iter().filter(is_new).copied().collect()
    }

    /// What could be compared before and cannot be now.
    pub fn newly_skipped<'a>(&self, compared: &'a TextComparison) -> Vec<&'a str> {
        let is_new = |why: &&String| !self.skipped.contains(*why);
        compared.skipped.iter().filter(is_new).map(String::as_str).collect()
    }
}
