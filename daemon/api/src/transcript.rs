//! The lines of a session's transcript: what was done in it, one JSON document each, chained to the one
//! before ([`crate::chain`]). The gateway writes them, and for sessions without one what takes the images.

use crate::chain::{Circumstances, Hash, Head, Stamp};
use crate::rules::engine::TranscriptValues;
use crate::{GuestName, Mode, SessionId, clock};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

/// The most bytes that one session may write: a client must not be able to fill the disk.
const LONGEST: u64 = 256 << 20;
/// Variables in one line, and the most bytes that they take there: lines are read in pages.
const MOST_SHOWN: usize = 200;
const LONGEST_SHOWN: usize = 48 << 10;
/// Characters of a value or a name that are kept.
const LONGEST_VALUE: usize = 1000;

/// One line of it.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Entry<'a> {
    Begun {
        session: &'a SessionId,
        mode: Mode,
        per_stop_ms: u64,
        per_session_ms: u64,
    },
    /// A client has shown its certificate.
    Connected {
        client: &'a str,
        /// It can do nothing else.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        watches: bool,
    },
    /// Somebody else may come from now on.
    LetIn {
        name: &'a GuestName,
        watches: bool,
    },
    /// They may not any more.
    Withdrawn {
        name: &'a GuestName,
    },
    Disconnected {
        client: &'a str,
        ms: u64,
        why: &'a str,
    },
    /// A client has asked for something.
    Operation {
        client: &'a str,
        /// By which it came; empty when it is the session itself.
        #[serde(skip_serializing_if = "str::is_empty")]
        protocol: &'static str,
        operation: &'static str,
        subject: &'a str,
        outcome: Outcome,
        /// Why it was refused, or what was changed.
        #[serde(skip_serializing_if = "Option::is_none")]
        why: Option<&'a str>,
    },
    /// A client was shown these variables.
    Shown {
        client: &'a str,
        variables: &'a [Shown],
    },
    /// The target has stood, and runs again.
    Stood {
        ms: u64,
    },
    /// The target was copied, and stood for that.
    Image {
        pause_ms: f64,
        /// At the breakpoint, or empty when somebody wanted one at once.
        #[serde(skip_serializing_if = "str::is_empty")]
        place: &'a str,
    },
    /// Half of what a stop may last is over, and the IDE was told.
    Warned {
        left_ms: u64,
    },
    /// The gateway has let the target run.
    LetGo {
        why: &'a str,
        breakpoints_off: usize,
    },
    /// A breakpoint was hit too often.
    TurnedOff {
        breakpoint: &'a str,
        why: &'a str,
    },
    /// The last client that had a hand on it has gone.
    Released {
        breakpoints_cleared: usize,
    },
    Ended {
        why: &'a str,
        stood_ms: u64,
        longest_stop_ms: u64,
        let_go: u64,
    },
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Allowed,
    Changed,
    Refused,
}

/// A line as it is written: when, then what.
#[derive(Serialize)]
struct Line<'a, 'b> {
    time: String,
    #[serde(flatten)]
    entry: &'a Entry<'b>,
}

/// One variable that was shown.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

/// Variables by name and value, as much of them as one line takes, and how many more there were.
pub fn shown<'a>(
    all: impl ExactSizeIterator<Item = (&'a str, &'a str)>,
    keep: TranscriptValues,
) -> Vec<Shown> {
    let (count, mut room) = (all.len(), LONGEST_SHOWN);
    let mut line = Vec::new();
    for (at, (name, value)) in all.enumerate() {
        let one = Shown::of(name, value, keep);
        let length = serde_json::to_vec(&one).map_or(usize::MAX, |text| text.len());
        if at >= MOST_SHOWN || length > room {
            let name = format!("and {} more", count - at);
            line.push(Shown { name, value: None, sha256: None });
            break;
        }
        room -= length;
        line.push(one);
    }
    line
}

impl Shown {
    /// With as much of the value as the rule of the host wants to have kept.
    fn of(name: &str, value: &str, keep: TranscriptValues) -> Self {
        let cut = |text: &str| text.chars().take(LONGEST_VALUE).collect::<String>();
        let (value, sha256) = match keep {
            TranscriptValues::None => (None, None),
            TranscriptValues::Digest => (None, Some(Hash::of(value.as_bytes()).to_string())),
            TranscriptValues::Full => (Some(cut(value)), None),
        };
        Self { name: cut(name), value, sha256 }
    }
}

/// Appends lines to an open file. Each is one write: what a crash leaves is whole lines and at most one torn one.
#[derive(Debug)]
pub struct Writer {
    file: Arc<File>,
    head: Head,
    host: String,
    boot: String,
    written: u64,
}

impl Writer {
    /// One of a transcript without lines.
    pub fn new(file: File, host: String, boot: String) -> Self {
        Self { file: Arc::new(file), head: Head::START, host, boot, written: 0 }
    }

    /// What it appends to.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }

    /// # Errors
    /// When the file does not take it, or has too much already.
    pub fn append(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let now = clock::now();
        let document = serde_json::to_vec(&Line { time: clock::rfc3339_ms(now.wall_ms), entry })?;
        let stamp = Stamp { host: self.host.clone(), boot: self.boot.clone(), now };
        let sealed = self.head.seal(&document, &stamp, Circumstances::default());
        let (mut line, head) = sealed.map_err(|error| io::Error::other(error.to_string()))?;
        line.push(b'\n');
        self.written += line.len() as u64;
        if self.written > LONGEST {
            return Err(io::Error::other(format!("it is longer than {LONGEST} bytes")));
        }
        (&*self.file).write_all(&line)?;
        self.head = head;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_short_whatever_was_shown() {
        let long = "\u{1}".repeat(2000);
        let all = vec![(long.as_str(), long.as_str()); 300];
        for keep in [TranscriptValues::None, TranscriptValues::Digest, TranscriptValues::Full] {
            let variables = shown(all.iter().copied(), keep);
            let text = serde_json::to_string(&variables).unwrap();
            assert!(text.len() < 60 << 10, "{}", text.len());
            let left = 300 - (variables.len() - 1);
            assert_eq!(variables.last().unwrap().name, format!("and {left} more"));
        }
        let short = vec![("a", "1"); 300];
        assert_eq!(shown(short.iter().copied(), TranscriptValues::Full).len(), MOST_SHOWN + 1);
        assert_eq!(shown(short[..200].iter().copied(), TranscriptValues::Full).len(), 200);
    }
}
