//! What differed between the target's text and its files before dlv was there: a kernel's uprobe,
//! a text relocation. It is not ours to repair, and no sign of a breakpoint left.

use crate::paths::SessionPaths;
use crate::target::process::{self, Difference, TextComparison};
use godebug_api::{Pid, SessionId};
use std::collections::BTreeSet;

/// The addresses that differed before. Empty for almost every target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Baseline(BTreeSet<u64>);

impl Baseline {
    /// Looks at the target now and keeps the result with the session.
    ///
    /// # Errors
    /// When the target cannot be read, when it differs so much that a breakpoint would not be
    /// noticed, or when the result cannot be kept.
    pub fn take(id: &SessionId, pid: Pid) -> Result<Self, String> {
        let compared = process::text_differences(pid).map_err(|error| error.to_string())?;
        if compared.total > compared.first.len() as u64 {
            return Err(format!(
                "{} bytes of its program in memory differ from its file; a breakpoint left among them would not be noticed",
                compared.total
            ));
        }
        let baseline = Self(compared.first.iter().map(|difference| difference.address).collect());
        let text = serde_json::to_vec(&baseline.0).map_err(|error| error.to_string())?;
        std::fs::write(SessionPaths::of(id).baseline(), text).map_err(|error| error.to_string())?;
        Ok(baseline)
    }

    /// What was kept with the session; empty when there is nothing.
    pub fn of(id: &SessionId) -> Self {
        let kept = std::fs::read(SessionPaths::of(id).baseline()).unwrap_or_default();
        Self(serde_json::from_slice(&kept).unwrap_or_default())
    }

    /// The differences that were not there before.
    pub fn new_in(&self, compared: &TextComparison) -> Vec<Difference> {
        let is_new = |difference: &&Difference| !self.0.contains(&difference.address);
        compared.first.iter().filter(is_new).copied().collect()
    }
}
