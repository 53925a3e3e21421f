//! What is handed out of the records, signed: the lines of some sessions, from the log and from what was
//! rotated away, with their transcripts.

use super::answers::all_logs;
use super::checkpoints;
use super::log::{Places, remembered, stamp};
use crate::transcripts;
use godebug_api::chain::{BUNDLE_VERSION, Bundle, BundledSession, Checkpoint, Signature};
use godebug_api::{SessionId, clock};
use std::collections::HashMap;
use std::io;

/// So much is handed out at most, in bytes: it is held in memory.
const MOST: usize = 64 << 20;
/// How many sessions at most.
pub const MOST_SESSIONS: usize = 200;

/// Who asks for it.
pub struct For {
    pub uid: u32,
    pub user: String,
}

/// The signed bundle of these sessions.
///
/// # Errors
/// When a log or the key cannot be read, or when it would be too much.
pub fn bundle(ids: &[SessionId], exported_for: &For) -> io::Result<Bundle> {
    let places = Places::of_this_host();
    let key = checkpoints::key(&places.state)?;
    let sessions = sessions(ids)?;
    let (stamp, log_end) = (stamp(), remembered(&places.head()));
    let checkpoints = latest_checkpoints(&checkpoints::kept(&places)?, &sessions);
    let bundle = Bundle {
        godebug_export: BUNDLE_VERSION,
        host: stamp.host,
        exported_at: clock::rfc3339(stamp.now.wall_ms),
        exported_by: exported_for.user.clone(),
        exported_by_uid: exported_for.uid,
        log_end,
        sessions,
        checkpoints,
        key: key.public(),
        signature: Signature::NONE,
    };
    Ok(bundle.signed(&key))
}

fn sessions(ids: &[SessionId]) -> io::Result<Vec<BundledSession>> {
    let too_much = || io::Error::other(format!("it is more than {} MB", MOST >> 20));
    let mut left = MOST;
    let mut take = |length: usize| {
        left = left.checked_sub(length).ok_or_else(too_much)?;
        Ok::<(), io::Error>(())
    };
    let places: HashMap<&SessionId, usize> =
        ids.iter().enumerate().map(|(at, id)| (id, at)).collect();
    let mut found: Vec<BundledSession> = ids
        .iter()
        .map(|id| BundledSession { id: id.to_string(), ..BundledSession::default() })
        .collect();
    for log in all_logs()? {
        log.read_lines(
            |head| places.get(head.session.as_ref()?).copied(),
            |place, line| {
                take(line.len())?;
                found[place].records.push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            },
        )?;
    }
    for (session, id) in found.iter_mut().zip(ids) {
        let mut from = 0;
        loop {
            let page = transcripts::page(id, from)?;
            if page.next == from {
                break;
            }
            take(usize::try_from(page.next - from).unwrap_or(MOST))?;
            session.transcript.extend(page.lines);
            from = page.next;
        }
    }
    Ok(found)
}

/// The first checkpoint at or after each session's last record: what binds it to what others may hold.
fn latest_checkpoints(kept: &[Checkpoint], sessions: &[BundledSession]) -> Vec<Checkpoint> {
    let last = |session: &BundledSession| {
        let last = session.records.last()?;
        godebug_api::chain::Head::of(last.as_bytes()).map(|head| head.seq)
    };
    let mut chosen: Vec<Checkpoint> = Vec::new();
    for seq in sessions.iter().filter_map(last) {
        let after = kept.iter().filter(|checkpoint| checkpoint.seq >= seq);
        if let Some(checkpoint) = after.min_by_key(|checkpoint| checkpoint.seq)
            && !chosen.contains(checkpoint)
        {
            chosen.push(checkpoint.clone());
        }
    }
    chosen
}
