//! A core dump that the host has kept of a program that crashed.

use crate::words::Pid;
use serde::{Deserialize, Serialize};

/// What systemd-coredump has noted of a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    /// Of the process that crashed.
    pub pid: Pid,
    /// When; RFC 3339 in UTC.
    pub time: String,
    /// The signal that ended it, such as `SIGABRT`.
    pub signal: String,
    /// Where its program was.
    pub executable: String,
    /// The size of the file, which is compressed as a rule; 0 where there is none any more.
    pub stored_bytes: u64,
}
