//! Signed checkpoints of the audit log: beside it, and in the journal, from where they reach other
//! hosts wherever the journal is shipped. With one of those nobody on this host, root included, can
//! write the log anew without being found out.

use super::keyring;
use super::log::{Places, stamp};
use godebug_api::chain::{Checkpoint, Head, SigningKey};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// For `journalctl MESSAGE_ID=…`.
const MESSAGE_ID: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b09";
/// A checkpoint at the latest after as many records.
const EVERY: u64 = 100;

/// Whether a record with this number needs one of its own.
pub(super) fn is_due(seq: u64) -> bool {
    seq.is_multiple_of(EVERY)
}

/// Signs the end of the chain. To be called under the log's lock: two writers that need a key at
/// the same time would make two.
pub(super) fn make(places: &Places, head: Head) {
    if let Err(error) = try_make(places, head) {
        tracing::warn!("record {} of the audit log has no checkpoint: {error}", head.seq);
    }
}

fn try_make(places: &Places, head: Head) -> io::Result<()> {
    let key = key(&places.state)?;
    let stamp = stamp();
    let checkpoint = key.checkpoint("audit", &stamp.host, head, stamp.now.wall_ms);
    let line = serde_json::to_string(&checkpoint)?;
    // First there, where it may already be out of reach.
    to_journal(&checkpoint, &line);
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let mut file = open(&places.state.join("checkpoints.jsonl"), flags)?;
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_data()
}

fn to_journal(checkpoint: &Checkpoint, line: &str) {
    tracing::info!(
        message_id = MESSAGE_ID,
        godebug_checkpoint = line,
        "checkpoint of the audit log: record {} is {}",
        checkpoint.seq,
        checkpoint.hash
    );
}

/// Those that were kept here; none where none were.
pub(super) fn kept(places: &Places) -> io::Result<Vec<Checkpoint>> {
    let text = match std::fs::read_to_string(places.state.join("checkpoints.jsonl")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    // A torn line is none.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// This host's key, made when it is first needed.
pub(super) fn key(state: &Path) -> io::Result<SigningKey> {
    let wrong = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{state:?}: {error}"));
    match keyring::kept(state)? {
        Some(bytes) => SigningKey::from_pkcs8(&bytes).map_err(wrong),
        None => {
            let bytes = SigningKey::generate().map_err(wrong)?;
            let key = SigningKey::from_pkcs8(&bytes).map_err(wrong)?;
            keyring::keep(state, &bytes)?;
            std::fs::write(state.join("audit.pub"), format!("{}\n", key.public()))?;
            Ok(key)
        }
    }
}

pub(super) fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use godebug_api::chain::Hash;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_is_roots_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_owned();
        let (log, patience) = (state.join("audit.jsonl"), std::time::Duration::from_secs(1));
        let places = Places { log, state, patience };
        for seq in [1, 2] {
            try_make(&places, Head { seq, hash: Hash::of(b"a line") }).unwrap();
        }
        let text = std::fs::read_to_string(places.state.join("checkpoints.jsonl")).unwrap();
        let all: Vec<Checkpoint> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((all[0].seq, all[1].seq, all[0].key), (1, 2, all[1].key));
        all.iter().for_each(|checkpoint| checkpoint.check().unwrap());
        let public = std::fs::read_to_string(places.state.join("audit.pub")).unwrap();
        assert_eq!(public.trim(), all[0].key.to_string());
        let mode = std::fs::metadata(places.state.join("audit.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_that_is_none_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("audit.key"), "x").unwrap();
        assert!(key(folder.path()).is_err());
        assert_eq!(std::fs::read(folder.path().join("audit.key")).unwrap(), b"x");
    }
}
