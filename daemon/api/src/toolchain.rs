//! What `godebug-toolchain` tells of the dlv's of a host, and of what its services need.

use godebug_core::delve::{DelveVersion, GoVersion};
use godebug_core::{Pid, Refusal, UnitName};
use serde::{Deserialize, Serialize};

/// One dlv.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dlv {
    pub path: String,
    /// `None` for one that is not used.
    pub version: Option<DelveVersion>,
    /// The oldest and the newest Go whose programs it debugs.
    pub go: Option<(GoVersion, GoVersion)>,
    pub built_with: Option<GoVersion>,
    pub state: DlvState,
    /// How it came here, for one that `toolchain add` has put here.
    pub pin: Option<Pin>,
    /// Why it is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Whether it is what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DlvState {
    /// It is what was added.
    Pinned,
    /// Somebody else looks after it, such as the distribution's package manager.
    NotPinned,
    /// It is not what was added, and is not used.
    Changed,
    /// It cannot be used.
    Unusable,
}

/// What was added, from where and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub version: DelveVersion,
    /// Of the file, in hexadecimal.
    pub sha256: String,
    /// In words.
    pub source: String,
    /// RFC 3339 in UTC.
    pub added_at: String,
}

/// A service with a Go program, and whether a dlv fits it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    pub unit: UnitName,
    pub pid: Pid,
    pub go_version: String,
    /// The one that would be taken.
    pub dlv: Option<String>,
    /// The version that would fit, where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add: Option<DelveVersion>,
    /// Why none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What the program prints, one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Dlvs(Vec<Dlv>),
    Needs(Vec<Need>),
    Added(Dlv),
    Removed { path: String },
    Error(Refusal),
}
