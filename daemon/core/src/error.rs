//! How godebug says no: a code that decides the exit status, what happened and why, and what to do.

use serde::{Deserialize, Serialize};

/// The kinds of refusal and failure. Each has a fixed exit status (DESIGN section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// Exit status 2: the request itself makes no sense.
    Usage,
    /// Exit status 3: not authorised, no rule, denied.
    Refused,
    /// Exit status 4: the target cannot be debugged.
    Target,
    /// Exit status 4 too: it can be, after a freeze that nobody has accepted.
    Freeze,
    /// Exit status 5: the host cannot do it.
    Host,
    /// Exit status 6: the session ended early.
    Ended,
    /// Exit status 1: anything else.
    Failed,
}

impl Code {
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Target | Self::Freeze => 4,
            Self::Host => 5,
            Self::Ended => 6,
            Self::Failed => 1,
        }
    }
}

/// A refusal or failure as a person is told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: Code,
    /// What went wrong and why, in one or two sentences.
    pub message: String,
    /// What the person can do about it; empty only where there is nothing to do.
    pub remedy: String,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { code, message: message.into(), remedy: remedy.into() }
    }

    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::Usage, message, remedy)
    }

    pub fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::Refused, message, remedy)
    }

    pub fn target(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::Target, message, remedy)
    }

    pub fn host(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::Host, message, remedy)
    }

    pub fn failed(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Code::Failed, message, remedy)
    }
}
