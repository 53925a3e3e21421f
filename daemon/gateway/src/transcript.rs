//! The transcript of a session with a gateway. It was opened by godebugd and is appended to here, by everything
//! that serves the clients. A session whose transcript cannot be written ends.

use godebug_api::transcript::Writer;
pub(crate) use godebug_api::transcript::{Entry, Outcome};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Between two times that what was written is put on the disk.
const SYNC: Duration = Duration::from_secs(1);
pub(crate) struct Transcript {
    writer: Mutex<Writer>,
    /// There is something that is not on the disk yet.
    is_dirty: AtomicBool,
    /// Cancelled once, when it cannot be written.
    failed: CancellationToken,
}

impl Transcript {
    pub(crate) fn new(file: File, host: String, boot: String) -> Self {
        Self {
            writer: Mutex::new(Writer::new(file, host, boot)),
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
                let file = self.writer().file();
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
        if let Err(error) = self.writer().file().sync_data() {
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
            protocol: "dap",
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
