//! Tickets on this side: where one may be written, how one is made, and why one is refused.

use crate::keys::Key;
use godebug_api::documents::Opened;
use godebug_api::ticket::{Ticket, TicketError, VERSION};
use godebug_api::{Port, Refusal, SessionId};
use rustix::fs::{Access, AtFlags, CWD, FileType};
use std::path::Path;

/// What every ticket begins with.
const MARK: &[u8] = b"# godebug ticket";

/// The ticket for a session that was just opened.
///
/// # Errors
/// When the daemon's answer does not make one.
pub(crate) fn ticket(opened: &Opened, key: &Key) -> Result<Ticket, Refusal> {
    let incomplete = |what: &str| {
        Refusal::failed(format!("godebugd's answer makes no ticket: {what}"), "open a new session")
    };
    let session = &opened.session;
    Ok(Ticket {
        version: VERSION,
        id: session.id.clone(),
        unit: session.unit.clone(),
        host: opened.host.clone(),
        port: Port::try_from(opened.port).map_err(|error| incomplete(&error.to_string()))?,
        server_name: opened.server_name.clone(),
        mode: session.mode,
        expires_at: session.expires_at.clone().ok_or_else(|| incomplete("it has no end"))?,
        ca: opened.ca.clone(),
        certificate: opened.certificate.clone(),
        key: key.private.clone(),
    })
}

/// Sees whether a ticket can be written to `path`, before anything is opened.
///
/// # Errors
/// When its directory cannot be written to, or something that is no ticket stands there.
pub(crate) fn check_place(path: &Path) -> Result<(), Refusal> {
    let refuse = |why: String| {
        Err(Refusal::usage(
            format!("no ticket can be written to {}: {why}", path.display()),
            "name a file in a directory of your own with --ticket",
        ))
    };
    if path.file_name().is_none() {
        return refuse("it names no file".to_owned());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    if !directory.is_dir() {
        return refuse(format!("there is no directory {}", directory.display()));
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    if let Err(error) = rustix::fs::accessat(CWD, directory, access, AtFlags::EACCESS) {
        return refuse(format!("{}: {error}", directory.display()));
    }
    match std::fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(status) if status.is_file() && is_ticket(path) => Ok(()),
        Ok(_) => refuse("something else stands there".to_owned()),
    }
}

/// Whether an old ticket, or nothing yet, is in the file, which may then be replaced.
fn is_ticket(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|content| content.is_empty() || content.starts_with(MARK))
}

/// The ticket at `path`, of session `id`, to be rewritten with another end. It may have expired.
///
/// # Errors
/// When it is of another session, or no ticket that could be used.
pub(crate) fn to_extend(path: &Path, id: &SessionId) -> Result<Ticket, Refusal> {
    let ticket = Ticket::read(path, 0).map_err(refusal)?;
    if ticket.id != *id {
        return Err(Refusal::usage(
            format!("{} is the ticket of session {}, not of {id}", path.display(), ticket.id),
            "name the ticket of this session",
        ));
    }
    Ok(ticket)
}

pub(crate) fn extended(ticket: Ticket, end: &str) -> Ticket {
    Ticket { expires_at: end.to_owned(), ..ticket }
}

/// A ticket's fault with its exit status.
pub(crate) fn refusal(error: TicketError) -> Refusal {
    const NEW: &str = "`godebugctl attach UNIT --detach --ticket FILE` on the host makes a new one";
    let message = error.to_string();
    match error {
        TicketError::Io { .. } => Refusal::failed(message, ""),
        TicketError::Expired { .. } => Refusal::refused(message, ""),
        TicketError::Readable { .. } => Refusal::usage(message, ""),
        TicketError::NotYours { .. }
        | TicketError::NotAFile { .. }
        | TicketError::Malformed { .. }
        | TicketError::Version { .. } => Refusal::usage(message, NEW),
    }
}

/// Whether standard output is a file that others can read, so that a ticket printed there is no
/// secret.
pub(crate) fn output_is_readable_by_others() -> bool {
    rustix::fs::fstat(std::io::stdout()).is_ok_and(|status| {
        FileType::from_raw_mode(status.st_mode) == FileType::RegularFile
            && status.st_mode & 0o077 != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_replaces_a_ticket_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ticket");
        assert!(check_place(&path).is_ok());
        std::fs::write(&path, "# godebug ticket: old").unwrap();
        assert!(check_place(&path).is_ok());
        std::fs::write(&path, "alias ls=ls").unwrap();
        assert!(check_place(&path).is_err());
        assert!(check_place(directory.path()).is_err());
        assert!(check_place(Path::new("/nonexistent/ticket")).is_err());
        assert!(check_place(Path::new("/dev/null")).is_err());
        assert!(check_place(Path::new("")).is_err());
    }
}
