//! A session's ledger on /run: appended and synced before every act, locked while it is used.
//!
//! godebugd, godebug-revoke and the dead man may all be at one session. Whoever revokes holds the
//! lock for as long as that takes; whoever comes after finds nothing outstanding.

use crate::paths::{self, SessionPaths};
use godebug_api::SessionId;
pub use godebug_core::ledger::Replay;
use godebug_core::ledger::{LedgerError, Opened, Record, first_record, replay};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Debug, thiserror::Error)]
pub enum LedgerFileError {
    #[error("{path}: {error}")]
    Io { path: String, error: std::io::Error },
    #[error("{path}: {error}")]
    Content { path: String, error: LedgerError },
    #[error("the session was revoked by somebody else meanwhile")]
    Gone,
    #[error("another process has been at work on this session for {} s", .0.as_secs())]
    Busy(Duration),
}

/// An open ledger.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    paths: SessionPaths,
}

/// The lock on a ledger; it ends with this value, or with the process.
#[derive(Debug)]
pub struct Locked<'a>(&'a Ledger);

impl Ledger {
    /// Makes the session's directory, its parts and its ledger, and writes the first
    /// records, all at once.
    ///
    /// # Errors
    /// When any of it cannot be made; what was made is removed again.
    pub fn create(
        paths: &SessionPaths,
        first: &[Record],
        group: u32,
    ) -> Result<Self, LedgerFileError> {
        let made = Self::try_create(paths, first, group);
        if made.is_err() {
            let _ = std::fs::remove_dir_all(paths.root());
        }
        made
    }

    fn try_create(
        paths: &SessionPaths,
        first: &[Record],
        group: u32,
    ) -> Result<Self, LedgerFileError> {
        let root = paths.root();
        directory(root, 0o710, group)?;
        // Set-group-ID: what is made inside belongs to the session's group, so that gateway and
        // dlv, which have different users, can reach each other's sockets.
        directory(&paths.debugger_directory(), 0o2770, group)?;
        directory(&paths.gateway_directory(), 0o2770, group)?;
        let path = paths.ledger();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::APPEND | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .map_err(|error| io(&path, error.into()))?;
        let ledger = Self { file: File::from(file), paths: paths.clone() };
        ledger.write(first)?;
        // The directory entries too: a ledger that a crash can lose is none.
        for directory in std::iter::once(root).chain(root.parent()) {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| io(directory, error))?;
        }
        Ok(ledger)
    }

    /// Opens the ledger of a session; `None` when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub fn open(id: &SessionId) -> Result<Option<Self>, LedgerFileError> {
        Self::open_at(SessionPaths::of(id))
    }

    /// The same at these paths.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn open_at(paths: SessionPaths) -> Result<Option<Self>, LedgerFileError> {
        let path = paths.ledger();
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) => Ok(Some(Self { file: File::from(file), paths })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(io(&path, error.into())),
        }
    }

    /// The sessions that have a directory, whatever is in it.
    ///
    /// # Errors
    /// When /run/godebug cannot be read.
    pub fn sessions() -> Result<Vec<SessionId>, LedgerFileError> {
        let root = Path::new(paths::RUN);
        let entries = match std::fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io(root, error)),
        };
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
    }

    /// Takes the lock, waiting for whoever has it.
    ///
    /// # Errors
    /// [`LedgerFileError::Busy`] after `patience`.
    pub async fn lock(&self, patience: Duration) -> Result<Locked<'_>, LedgerFileError> {
        let start = Instant::now();
        loop {
            match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Locked(self)),
                Err(rustix::io::Errno::WOULDBLOCK) if start.elapsed() < patience => {
                    // flock has no other way to wait with an end to it.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LedgerFileError::Busy(start.elapsed()));
                }
                Err(error) => return Err(io(&self.paths.ledger(), error.into())),
            }
        }
    }

    /// The ledger as if it were locked, for a revocation that has waited long enough.
    pub fn without_lock(&self) -> Locked<'_> {
        Locked(self)
    }

    /// A full disk or a crash leaves the beginning of a line. Its act has not begun; but the next
    /// record behind it would make one line of both, and the ledger unreadable for ever.
    ///
    /// Returns the length that is left.
    fn drop_torn_end(&self) -> std::io::Result<u64> {
        let text = self.text()?;
        let whole = whole_lines(&text) as u64;
        let length = self.file.metadata()?.len();
        // One that has grown meanwhile is just being written, by somebody who goes without the lock.
        if whole < length && length == text.len() as u64 {
            self.file.set_len(whole)?;
        }
        Ok(whole)
    }

    fn text(&self) -> std::io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut text)?;
        Ok(text)
    }

    fn write(&self, records: &[Record]) -> Result<(), LedgerFileError> {
        let path = self.paths.ledger();
        let lines: Result<Vec<_>, _> = records.iter().map(Record::to_line).collect();
        let lines = lines.map_err(|error| io(&path, std::io::Error::other(error)))?.concat();
        let whole = self.drop_torn_end().map_err(|error| io(&path, error))?;
        #[cfg(feature = "fault-points")]
        let _around = records.first().map(|record| crate::faults::Around::write(self, record));
        // One write, so that another reader sees all of it or none.
        let mut file = &self.file;
        file.write_all(&lines).and_then(|()| file.sync_data()).map_err(|error| {
            // The act that it announces will not follow.
            let _ = self.file.set_len(whole);
            io(&path, error)
        })
    }
}

/// How much of `text` is whole lines.
fn whole_lines(text: &[u8]) -> usize {
    text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1)
}

impl Locked<'_> {
    /// Whether somebody else has ended the session and removed its ledger.
    pub fn is_gone(&self) -> bool {
        rustix::fs::fstat(&self.0.file).is_ok_and(|status| status.st_nlink == 0)
    }

    /// Adds a record and syncs it.
    ///
    /// # Errors
    /// [`LedgerFileError::Gone`] when the session was revoked and its ledger removed meanwhile: the
    /// act must not follow then.
    pub fn append(&self, record: &Record) -> Result<(), LedgerFileError> {
        if self.is_gone() {
            return Err(LedgerFileError::Gone);
        }
        self.0.write(std::slice::from_ref(record))
    }

    /// What the session is about, even when what follows was damaged.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn opened(&self) -> Result<Option<Opened>, LedgerFileError> {
        let text = self.0.text().map_err(|error| io(&self.0.paths.ledger(), error))?;
        Ok(first_record(&text))
    }

    /// Reads it all back.
    ///
    /// # Errors
    /// When it cannot be read or was damaged. `Ok(None)`: nothing was ever taken.
    pub fn replay(&self) -> Result<Option<Replay>, LedgerFileError> {
        let path = self.0.paths.ledger();
        let text = self.0.text().map_err(|error| io(&path, error))?;
        replay(&text)
            .map_err(|error| LedgerFileError::Content { path: path.display().to_string(), error })
    }

    /// Removes the session's directory with all in it. To be called last.
    ///
    /// # Errors
    /// When something in it cannot be removed.
    pub fn remove(self) -> Result<(), LedgerFileError> {
        let root = self.0.paths.root();
        match std::fs::remove_dir_all(root) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io(root, error)),
            _ => Ok(()),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.0.file, FlockOperation::Unlock);
    }
}

/// Makes a directory of our own with this group and mode, and fails if it is there.
fn directory(path: &Path, mode: u32, group: u32) -> Result<(), LedgerFileError> {
    let made = std::fs::create_dir(path)
        .and_then(|()| std::os::unix::fs::chown(path, None, Some(group)))
        // After chown, which clears the set-group-ID bit; and not subject to the umask.
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)));
    made.map_err(|error| io(path, error))
}

fn io(path: &Path, error: std::io::Error) -> LedgerFileError {
    LedgerFileError::Io { path: path.display().to_string(), error }
}
