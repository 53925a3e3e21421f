//! Which program a session was about: what an auditor needs to find just this build again.

use serde::{Deserialize, Serialize};

/// A target's program, as its file and its build tell. What a build does not record is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    pub executable: String,
    /// GNU's, or Go's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcs_revision: Option<String>,
    /// It was built from a working tree with changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcs_modified: Option<bool>,
}
