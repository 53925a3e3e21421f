//! The transcript: what was done in the session, one JSON document a line, each chained to the one
//! before (`godebug_api::chain`). It was opened by godebugd and is appended to here. A session whose
//! transcript cannot be written ends.

use crate::protocol::Protocol;
use crate::shown::Shown;
use godebug_api::chain::{Circumstances, Head, Stamp};
use godebug_api::{GuestName, Mode, SessionId, clock};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Between two times that what was written is put on the disk.
const SYNC: Duration = Duration::from_secs(1);
/// The most bytes that one session may write: a client must not be able to fill the disk.
const LONGEST: u64 = 256 << 20;

/// One line of it.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Entry<'a> {
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
    Disconnected {
        client: &'a str,
        ms: u64,
        why: &'a str,
    },
    /// A client has asked for something.
    Operation {
        client: &'a str,
        protocol: Protocol,
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
pub(crate) enum Outcome {
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

pub(crate) struct Transcript {
    writer: Mutex<Writer>,
    /// There is something that is not on the disk yet.
    is_dirty: AtomicBool,
    /// Cancelled once, when it cannot be written.
    failed: CancellationToken,
}

struct Writer {
    file: Arc<File>,
    head: Head,
    host: String,
    boot: String,
    written: u64,
}

impl Transcript {
    pub(crate) fn new(file: File, host: String, boot: String) -> Self {
        let writer = Writer { file: Arc::new(file), head: Head::START, host, boot, written: 0 };
        Self {
            writer: Mutex::new(writer),
            is_dirty: AtomicBool::new(false),
            failed: CancellationToken::new(),
        }
    }

    /// Writes one line. When that fails the session is over, see [`Self::has_failed`].
    pub(crate) fn record(&self, entry: &Entry<'_>) {
        if self.failed.is_cancelled() {
            return;
        }
        self.is_dirty.store(true, Relaxed);
        if let Err(error) = self.writer().append(entry) {
            self.fail(&error);
        }
    }

    /// Returns when it cannot be written any more.
    pub(crate) async fn has_failed(&self) {
        self.failed.cancelled().await;
    }

    /// Puts on the disk what was written, now and then, for as long as it is polled.
    pub(crate) async fn keep_synced(&self) {
        let mut ticks = interval(SYNC);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.is_dirty.swap(false, Relaxed) {
                let file = Arc::clone(&self.writer().file);
                // It may take the disk long, and nobody is to wait for that.
                let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
                if let Ok(Err(error)) = synced {
                    self.fail(&error);
                }
            }
        }
    }

    /// The last lines, on the disk before this returns.
    pub(crate) fn end(&self, entry: &Entry<'_>) {
        self.record(entry);
        if let Err(error) = self.writer().file.sync_data() {
            self.fail(&error);
        }
    }

    fn fail(&self, error: &io::Error) {
        if !self.failed.is_cancelled() {
            tracing::error!(%error, "the transcript cannot be written; the session ends");
            self.failed.cancel();
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // Nothing can panic while it is held.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    fn append(&mut self, entry: &Entry<'_>) -> io::Result<()> {
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
        // One write for one line: what a crash leaves is whole lines and at most one torn one.
        (&*self.file).write_all(&line)?;
        self.head = head;
        Ok(())
    }
}

#[cfg(test)]
impl Transcript {
    /// One that nobody reads.
    pub(crate) fn nowhere() -> Self {
        let file = File::options().write(true).open("/dev/null").unwrap();
        Self::new(file, "host".to_owned(), "boot".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use godebug_api::chain;

    #[test]
    fn what_was_written_is_an_unbroken_chain() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        let file = File::options().append(true).create(true).open(&path).unwrap();
        let transcript = Transcript::new(file, "web1".to_owned(), "b".to_owned());
        let subject = "x\n\u{1b}[2J";
        let entry = Entry::Operation {
            client: "alice 10.0.0.1:5",
            protocol: Protocol::Dap,
            operation: "evaluate",
            subject,
            outcome: Outcome::Refused,
            why: Some("no"),
        };
        for _ in 0..3 {
            transcript.record(&entry);
        }
        transcript.end(&Entry::Stood { ms: 7 });
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let read: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(
            (read["event"].as_str(), read["subject"].as_str()),
            (Some("operation"), Some(subject))
        );
        assert_eq!(read["protocol"], "dap");
        let verify = |text: &str| chain::verify(text.lines().map(str::as_bytes), &[], None);
        assert!(verify(&text).is_ok());
        assert!(verify(&text.replacen("evaluate", "Evaluate", 1)).is_err());
    }

    #[tokio::test]
    async fn a_full_disk_ends_the_session() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let transcript = Transcript::new(full, String::new(), String::new());
        transcript.record(&Entry::Stood { ms: 1 });
        transcript.has_failed().await;
    }
}
