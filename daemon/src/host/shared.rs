//! What all sessions of a host share, such as a switch of its security module: which of them need it,
//! and the lock under which it is looked at and changed.

use crate::ledger::{Ledger, LedgerFileError, Replay};
use crate::paths;
use godebug_api::SessionId;
use godebug_core::grant::Grant;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long to wait for somebody else who is at it. One that was stopped must not hold up a revocation.
const PATIENCE: Duration = Duration::from_secs(5);

/// The other live sessions with such a grant. One that is closing needs it no more: two that end at once
/// must not leave it for each other.
///
/// # Errors
/// When the ledgers cannot be read. A damaged one names nothing; its session is revoked by name.
pub fn needed_by(
    except: Option<&SessionId>,
    is_it: impl Fn(&Grant) -> bool,
) -> Result<Vec<SessionId>, LedgerFileError> {
    let mut needed = Vec::new();
    for (id, replay) in replays()? {
        let holds = replay.outstanding.iter().any(|(_, grant)| is_it(grant));
        if except != Some(&id) && replay.closing.is_none() && holds {
            needed.push(id);
        }
    }
    Ok(needed)
}

/// What the sessions' grants say to `of`, those of closing sessions too.
///
/// # Errors
/// When the ledgers cannot be read.
pub fn first_of<T>(of: impl Fn(&Grant) -> Option<T>) -> Result<Option<T>, LedgerFileError> {
    let replays = replays()?;
    let mut grants = replays.iter().flat_map(|(_, replay)| &replay.outstanding);
    Ok(grants.find_map(|(_, grant)| of(grant)))
}

fn replays() -> Result<Vec<(SessionId, Replay)>, LedgerFileError> {
    let mut replays = Vec::new();
    for id in Ledger::sessions()? {
        let Some(ledger) = Ledger::open(&id)? else { continue };
        match ledger.without_lock().replay() {
            Ok(Some(replay)) => replays.push((id, replay)),
            Ok(None) | Err(LedgerFileError::Content { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(replays)
}

/// The lock under which the host's security module is looked at and changed; `None` when it cannot be had
/// in time.
pub async fn lock() -> Option<File> {
    let path = Path::new(paths::RUN).join("policy.lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    let start = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if start.elapsed() > PATIENCE {
            tracing::warn!(
                "somebody has been changing the security module's state for {PATIENCE:?}"
            );
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Some(file)
}
