//! Takes a plan's grants and gives them back: intent, act, done; and in reverse, network first.
//!
//! Generic over the host, so that every order of failures can be tried on a simulated one.

use crate::ledger::{Ledger, LedgerFileError, Locked};
use futures_util::stream::{FuturesUnordered, StreamExt};
use godebug_api::documents::Proof;
use godebug_api::{CloseReason, Deadline, Refusal};
use godebug_core::grant::Grant;
use godebug_core::ledger::{Opened, Record, Replay};
use godebug_core::plan::{Plan, Start};
use std::time::{Duration, Instant};

/// How long a revocation waits for another process that is at the same session, before it goes
/// ahead without the lock. Every undo is idempotent, and a stopped godebugd must not hold up the
/// dead man.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the engine does to a host. `Material` is what taking needs besides the grant, secrets
/// among it; undoing needs nothing that is not in the ledger.
pub trait Host {
    type Material;

    /// Takes a grant. Taking what is already there is a success.
    fn take(
        &self,
        grant: &Grant,
        material: &Self::Material,
    ) -> impl Future<Output = Result<(), Refusal>>;

    /// Cuts the session's connections at once, as far as that can be done in no time. Best effort:
    /// the undo of the gateway does it for sure.
    fn cut(&self, session: &Opened) -> impl Future<Output = ()>;

    /// Gives a grant back. Giving back what is not there is a success.
    fn undo(&self, session: &Opened, grant: &Grant) -> impl Future<Output = Result<(), String>>;

    /// Looks whether a grant is gone: what was looked at, and what was found if it is not.
    fn read_back(
        &self,
        session: &Opened,
        grant: &Grant,
    ) -> impl Future<Output = Vec<(String, Option<String>)>>;

    /// Keeps the end in the audit log. A failure must not hold up the revocation.
    fn record_end(&self, session: &Opened, end: &End);
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub reason: CloseReason,
    pub detail: String,
    pub proof: Vec<Proof>,
    /// What could not be given back, and why. Empty: the session is closed.
    pub stuck: Vec<String>,
    pub took: Duration,
    /// For how long the target was frozen by attaching, from the ledger.
    pub freeze_ms: Option<u64>,
}

impl End {
    pub fn is_clean(&self) -> bool {
        self.stuck.is_empty()
    }
}

/// Takes every grant of `plan`, each announced in the ledger first. On failure the caller closes
/// the session; what was taken is in the ledger.
///
/// # Errors
/// The first failure. No further step is begun after it.
pub async fn open<H: Host>(
    host: &H,
    ledger: &Locked<'_>,
    plan: &Plan,
    material: &H::Material,
) -> Result<(), Refusal> {
    let mut overlapping = FuturesUnordered::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        if step.start == Start::WhenAllTaken {
            while let Some((number, taken)) = overlapping.next().await {
                done(ledger, number, taken)?;
            }
        }
        append(ledger, &Record::Intent { step: number, grant: step.grant.clone() })?;
        let take = async move { (number, host.take(&step.grant, material).await) };
        if step.start == Start::Overlapping {
            overlapping.push(take);
            continue;
        }
        let mut take = std::pin::pin!(take);
        loop {
            // Both must be driven: the overlapping step has not even begun before it is polled.
            tokio::select! {
                biased;
                Some((number, taken)) = overlapping.next() => done(ledger, number, taken)?,
                (number, taken) = &mut take => break done(ledger, number, taken)?,
            }
        }
    }
    while let Some((number, taken)) = overlapping.next().await {
        done(ledger, number, taken)?;
    }
    Ok(())
}

fn done(ledger: &Locked<'_>, step: u32, taken: Result<(), Refusal>) -> Result<(), Refusal> {
    taken?;
    append(ledger, &Record::Done { step })
}

/// Appends, with the refusal that a person should see when the ledger cannot be written.
///
/// # Errors
/// When the ledger cannot be written: nothing may be taken then.
pub fn append(ledger: &Locked<'_>, record: &Record) -> Result<(), Refusal> {
    ledger.append(record).map_err(|error| {
        Refusal::host(
            format!("the session's ledger cannot be written: {error}"),
            "make room in /run, then try again; without a ledger nothing is opened",
        )
    })
}

/// Ends a session: everything in its ledger is given back, read back and recorded, and its
/// directory removed. `None` when there was nothing to end, since somebody else has ended it.
///
/// Tries all and tells all: one failed undo stops no other. What failed stays in the ledger, so a
/// later call tries it again.
///
/// # Errors
/// When the ledger cannot be read: then nothing can be said about what it granted.
pub async fn close<H: Host>(
    host: &H,
    ledger: &Ledger,
    reason: CloseReason,
    detail: &str,
) -> Result<Option<End>, LedgerFileError> {
    let begun = Instant::now();
    let locked = match ledger.lock(PATIENCE).await {
        Ok(locked) => locked,
        Err(LedgerFileError::Busy(_)) => ledger.without_lock(),
        Err(error) => return Err(error),
    };
    if locked.is_gone() {
        return Ok(None);
    }
    let Some(replay) = locked.replay()? else {
        locked.remove()?;
        return Ok(None);
    };
    host.cut(&replay.opened).await;
    let (reason, detail) = replay.closing.clone().unwrap_or_else(|| (reason, detail.to_owned()));
    note(&locked, &Record::Closing { reason, detail: detail.clone() });
    let mut stuck = undo_all(host, &locked, &replay).await;
    let proof = read_back_all(host, &replay, begun).await;
    let unproved = proof.iter().filter(|proof| !proof.gone).map(|proof| {
        format!("{}: {}", proof.what, proof.found.as_deref().unwrap_or("still there"))
    });
    stuck.extend(unproved);
    let freeze_ms = replay.freeze_ms;
    let end = End { reason, detail, proof, stuck, took: begun.elapsed(), freeze_ms };
    host.record_end(&replay.opened, &end);
    if end.is_clean() {
        locked.remove()?;
    }
    Ok(Some(end))
}

/// Undoes what is outstanding, last first. Returns what could not be undone.
async fn undo_all<H: Host>(host: &H, ledger: &Locked<'_>, replay: &Replay) -> Vec<String> {
    let mut stuck = Vec::new();
    let mut network_is_shut = true;
    // Last first; what watches over the rest goes after it, whenever it was taken.
    let mut in_order: Vec<_> = replay.outstanding.iter().rev().collect();
    in_order.sort_by_key(|(_, grant)| match grant {
        Grant::DeadMan { .. } => 2,
        Grant::Guard { .. } => 1,
        _ => 0,
    });
    for (step, grant) in in_order {
        let reason_to_keep = match grant {
            // The fence is what still shuts the port when firewalld's rule cannot be removed.
            Grant::Fence { .. } if !network_is_shut => Some("kept while the network is not shut"),
            // The dead man goes last, and only when there is nothing left for it to do.
            Grant::DeadMan { .. } if !stuck.is_empty() => continue,
            _ => None,
        };
        let undone = match reason_to_keep {
            Some(why) => Err(why.to_owned()),
            None => host.undo(&replay.opened, grant).await,
        };
        match undone {
            Ok(()) => note(ledger, &Record::Undone { step: *step }),
            Err(why) => {
                network_is_shut &=
                    !matches!(grant, Grant::FirewalldRule { .. } | Grant::Gateway { .. });
                stuck.push(format!("{grant}: {why}"));
            }
        }
    }
    stuck
}

async fn read_back_all<H: Host>(host: &H, replay: &Replay, begun: Instant) -> Vec<Proof> {
    let mut proof = Vec::new();
    for grant in replay.announced.iter().rev() {
        for (what, found) in host.read_back(&replay.opened, grant).await {
            let after_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            proof.push(Proof { what, gone: found.is_none(), found, after_ms });
        }
    }
    proof
}

/// A record that is nice to have: during a revocation a ledger on a full /run must stop nothing.
fn note(ledger: &Locked<'_>, record: &Record) {
    if let Err(error) = ledger.append(record) {
        tracing::warn!("the ledger cannot be written during a revocation: {error}");
    }
}

/// Makes `deadline` the end of the session: a new dead man before the old one goes, then the
/// ledger. The caller moves the other ends (gateway, fence, firewall).
///
/// # Errors
/// When the new timer cannot be armed; the old end holds then.
pub async fn move_deadline<H: Host>(
    host: &H,
    ledger: &Locked<'_>,
    id: &godebug_api::SessionId,
    deadline: Deadline,
    material: &H::Material,
) -> Result<(), Refusal> {
    let replay = ledger
        .replay()
        .map_err(|error| Refusal::failed(error.to_string(), "stop the session"))?
        .ok_or_else(|| Refusal::failed("the session has no ledger any more", ""))?;
    let dead_men: Vec<(u32, Grant)> = replay
        .outstanding
        .iter()
        .filter(|(_, grant)| matches!(grant, Grant::DeadMan { .. }))
        .cloned()
        .collect();
    let generation =
        replay.announced.iter().filter(|grant| matches!(grant, Grant::DeadMan { .. })).count();
    let grant = Grant::dead_man(id, u32::try_from(generation).unwrap_or(u32::MAX));
    append(ledger, &Record::Intent { step: replay.next_step, grant: grant.clone() })?;
    host.take(&grant, material).await?;
    append(ledger, &Record::Done { step: replay.next_step })?;
    append(ledger, &Record::Deadline { deadline })?;
    for (step, old) in dead_men {
        // One that stays finds a later deadline in the ledger and does nothing.
        if host.undo(&replay.opened, &old).await.is_ok() {
            append(ledger, &Record::Undone { step })?;
        }
    }
    Ok(())
}
