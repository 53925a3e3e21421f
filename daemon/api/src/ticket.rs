//! The ticket: the one file that a client needs to reach a gateway.
//!
//! It holds the client's private key, so it is written with mode 0600 and refused when anybody else
//! could have read it.

use crate::clock;
use godebug_core::{Mode, Port, SessionId, UnitName};
use rustix::fs::{Mode as FileMode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The version that this program writes and reads.
pub const VERSION: u32 = 1;
/// A ticket is about 2 KiB; nothing longer is read.
const LONGEST: u64 = 64 * 1024;

/// What a ticket says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    pub version: u32,
    pub id: SessionId,
    pub unit: UnitName,
    pub host: String,
    pub port: Port,
    pub server_name: String,
    pub mode: Mode,
    /// RFC 3339 in UTC.
    pub expires_at: String,
    /// PEM.
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why a ticket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    #[error("{path}: {error}")]
    Io { path: PathBuf, error: std::io::Error },
    #[error(
        "{path} can be read by others (mode {mode:03o}), so its key is no secret; chmod 600 it, or better open a new session"
    )]
    Readable { path: PathBuf, mode: u32 },
    #[error("{path} belongs to user {owner}, not to you")]
    NotYours { path: PathBuf, owner: u32 },
    #[error("{path} is no regular file")]
    NotAFile { path: PathBuf },
    #[error("{path} is not a whole ticket: {why}")]
    Malformed { path: PathBuf, why: String },
    #[error("{path} has version {found}; this godebugctl reads version {VERSION}")]
    Version { path: PathBuf, found: u32 },
    #[error(
        "the ticket for session {id} expired at {expires_at}; open a new session, or write the ticket again with `godebugctl extend {id} --ttl D --ticket FILE` if it is still running"
    )]
    Expired { id: SessionId, expires_at: String },
}

impl Ticket {
    /// The ticket as it stands in a file.
    ///
    /// # Errors
    /// When TOML cannot hold it, which no ticket of ours can cause.
    pub fn to_text(&self) -> Result<String, toml::ser::Error> {
        Ok(format!(
            "# godebug ticket: whoever has this file can debug {} until it expires. Keep it secret.\n{}",
            self.unit,
            toml::to_string(self)?
        ))
    }

    /// Writes it to `path` with mode 0600, replacing what was there in one step.
    ///
    /// # Errors
    /// [`TicketError::Io`] with the path.
    pub fn write(&self, path: &Path) -> Result<(), TicketError> {
        let io = |error| TicketError::Io { path: path.to_owned(), error };
        let text = self.to_text().map_err(|error| io(std::io::Error::other(error)))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let temporary = path.with_file_name(name);
        let written = (|| {
            // O_EXCL: not through a symbolic link or into a file that somebody else put there.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&temporary, flags, FileMode::from_raw_mode(0o600))?;
            let mut file = File::from(fd);
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        })();
        written.map_err(|error: std::io::Error| {
            let _ = std::fs::remove_file(&temporary);
            io(error)
        })
    }

    /// Reads a ticket and checks that nobody else could have, that it is whole and that it is
    /// still good at `now_ms` (milliseconds since 1970).
    ///
    /// # Errors
    /// Each with the path, and a sentence that says what to do.
    pub fn read(path: &Path, now_ms: u64) -> Result<Self, TicketError> {
        let text = read_private(path)?;
        let malformed = |why: String| TicketError::Malformed { path: path.to_owned(), why };
        let table: toml::Table =
            text.parse().map_err(|_| malformed("it is not valid TOML".to_owned()))?;
        let version = table.get("version").and_then(toml::Value::as_integer);
        match version.and_then(|version| u32::try_from(version).ok()) {
            Some(VERSION) => {}
            Some(found) => return Err(TicketError::Version { path: path.to_owned(), found }),
            None => return Err(malformed("it has no version".to_owned())),
        }
        // toml's own message would quote the line, which may be the key.
        let ticket: Self = table
            .try_into()
            .map_err(|error: toml::de::Error| malformed(error.message().to_owned()))?;
        let expires = clock::from_rfc3339(&ticket.expires_at)
            .ok_or_else(|| malformed("expires_at is no time".to_owned()))?;
        if expires <= now_ms {
            return Err(TicketError::Expired { id: ticket.id, expires_at: ticket.expires_at });
        }
        Ok(ticket)
    }
}

/// The text of a file that only its owner, who must be the caller, can read.
fn read_private(path: &Path) -> Result<String, TicketError> {
    let io = |error| TicketError::Io { path: path.to_owned(), error };
    // Checked on the open file, so that nothing can be exchanged in between. NONBLOCK: a FIFO must
    // not hang the client.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::open(path, flags, FileMode::empty()).map_err(|e| io(e.into()))?;
    let status = rustix::fs::fstat(&fd).map_err(|error| io(error.into()))?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(TicketError::NotAFile { path: path.to_owned() });
    }
    let mode = status.st_mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(TicketError::Readable { path: path.to_owned(), mode });
    }
    let me = rustix::process::geteuid();
    if status.st_uid != me.as_raw() && !me.is_root() {
        return Err(TicketError::NotYours { path: path.to_owned(), owner: status.st_uid });
    }
    let mut text = String::new();
    File::from(fd).take(LONGEST).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn ticket() -> Ticket {
        Ticket {
            version: VERSION,
            id: "0000000a".parse().unwrap(),
            unit: "shop".parse().unwrap(),
            host: "192.0.2.1".to_owned(),
            port: 2345.try_into().unwrap(),
            server_name: "0000000a.godebug".to_owned(),
            mode: Mode::Modify,
            expires_at: "2030-01-01T00:00:00Z".to_owned(),
            ca: "ca\n".to_owned(),
            certificate: "cert\n".to_owned(),
            key: "key\n".to_owned(),
        }
    }

    #[test]
    fn a_ticket_reads_back_and_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ticket");
        ticket().write(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Ticket::read(&path, 0).unwrap(), ticket());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_ticket_that_others_can_read_or_that_is_cut_or_old_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ticket");
        ticket().write(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Ticket::read(&path, 0), Err(TicketError::Readable { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Ticket::read(&path, u64::MAX), Err(TicketError::Expired { .. })));
        let text = std::fs::read_to_string(&path).unwrap();
        for cut in [0, 10, text.len() / 2, text.len() - 3] {
            std::fs::write(&path, &text[..cut]).unwrap();
            let error = Ticket::read(&path, 0).unwrap_err();
            assert!(matches!(error, TicketError::Malformed { .. }), "{cut}: {error}");
        }
        assert!(matches!(Ticket::read(directory.path(), 0), Err(TicketError::NotAFile { .. })));
    }

    #[test]
    fn neither_debug_output_nor_an_error_shows_the_key() {
        assert!(!format!("{:?}", ticket()).contains("key\\n"));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ticket");
        ticket().write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap().replace("key = \"", "key = SECRET \"");
        std::fs::write(&path, text).unwrap();
        assert!(!Ticket::read(&path, 0).unwrap_err().to_string().contains("SECRET"));
    }
}
