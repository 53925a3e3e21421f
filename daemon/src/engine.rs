//! Takes a plan's grants and gives them back: intent, act, done; and in reverse, network first.
//!
//! Generic over the host, so that every order of failures can be tried on a simulated one.

use crate::ledger::{Ledger, LedgerFileError, Locked};
use futures_util::stream::{FuturesUnordered, StreamExt};
use godebug_api::documents::Proof;
use godebug_api::{CloseReason, Deadline, Refusal};
use godebug_core::grant::Grant;
use godebug_core::ledger::{Opened, Record, Replay};
use godebug_core::plan::{Plan, Start, Step};
use std::time::{Duration, Instant};

/// How long a revocation waits for another process that is at the same session, before it goes
/// ahead without the lock. Every undo is idempotent, so two at once do no harm, and a godebugd that
/// somebody has stopped must not hold up the dead man.
const PATIENCE: Duration = Duration::from_secs(2);

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

/// What the ledger of a session with this plan says from its first write on.
pub fn first_records(opened: Record, plan: &Plan) -> Vec<Record> {
    let steps = (0..).zip(&plan.steps);
    let already = steps.filter(|(_, step)| step.start == Start::Already);
    let intent = |(step, at): (u32, &Step)| Record::Intent { step, grant: at.grant.clone() };
    [opened].into_iter().chain(already.map(intent)).collect()
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
    #[cfg(feature = "fault-points")]
    let host = &crate::faults::Watched(host);
    let mut overlapping = FuturesUnordered::new();
    for (index, step) in plan.steps.iter().enumerate() {
        let number = u32::try_from(index).unwrap_or(u32::MAX);
        if step.start == Start::WhenAllTaken {
            while let Some((number, taken)) = overlapping.next().await {
                done(ledger, number, taken)?;
            }
        }
        if step.start != Start::Already {
            append(ledger, &Record::Intent { step: number, grant: step.grant.clone() })?;
        }
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
    #[cfg(feature = "fault-points")]
    let host = &crate::faults::Watched(host);
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
    let mut proof = Vec::new();
    let (dead_men, others): (Vec<&Grant>, Vec<&Grant>) =
        replay.announced.iter().rev().map(|(_, grant)| grant).partition(|grant| is_dead_man(grant));
    stuck.extend(read_back_all(host, &replay.opened, &others, begun, &mut proof).await);
    // The dead man goes last, and only when it is proved that there is nothing left for it to do.
    if stuck.is_empty() {
        stuck.extend(undo_dead_men(host, &locked, &replay).await);
        stuck.extend(read_back_all(host, &replay.opened, &dead_men, begun, &mut proof).await);
    }
    if locked.is_gone() {
        return Ok(None); // another process was at it too, and has told and removed it
    }
    let freeze_ms = replay.freeze_ms;
    let end = End { reason, detail, proof, stuck, took: begun.elapsed(), freeze_ms };
    // What was told once is not told again with every retry.
    let is_told = replay.stuck.as_ref() == Some(&end.stuck);
    if !is_told {
        host.record_end(&replay.opened, &end);
    }
    if end.is_clean() {
        locked.remove()?;
    } else if let Err(error) = locked.append(&Record::Stuck { what: end.stuck.clone() }) {
        tracing::warn!("the ledger cannot be written during a revocation: {error}");
        // It does not remember what was told last then: rather once too often.
        if is_told {
            host.record_end(&replay.opened, &end);
        }
    }
    Ok(Some(end))
}

fn is_dead_man(grant: &Grant) -> bool {
    matches!(grant, Grant::DeadMan { .. })
}

/// Undoes all that was ever announced, last first, but the dead men: an undo may have said that it
/// was done when it was not, and undoing what is gone is a success. Returns what could not be undone.
async fn undo_all<H: Host>(host: &H, ledger: &Locked<'_>, replay: &Replay) -> Vec<String> {
    let mut stuck = Vec::new();
    let mut network_is_shut = true;
    let mut in_order: Vec<_> =
        replay.announced.iter().rev().filter(|(_, grant)| !is_dead_man(grant)).collect();
    // Last first; the guard watches over dlv and goes after it, whenever it was taken.
    in_order.sort_by_key(|(_, grant)| matches!(grant, Grant::Guard { .. }));
    for (step, grant) in in_order {
        // The fence is what still shuts the port when firewalld's rule cannot be removed.
        let undone = if matches!(grant, Grant::Fence { .. }) && !network_is_shut {
            Err("kept while the network is not shut".to_owned())
        } else {
            host.undo(&replay.opened, grant).await
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

async fn undo_dead_men<H: Host>(host: &H, ledger: &Locked<'_>, replay: &Replay) -> Vec<String> {
    let mut stuck = Vec::new();
    for (step, grant) in replay.announced.iter().filter(|(_, grant)| is_dead_man(grant)) {
        match host.undo(&replay.opened, grant).await {
            Ok(()) => note(ledger, &Record::Undone { step: *step }),
            Err(why) => stuck.push(format!("{grant}: {why}")),
        }
    }
    stuck
}

/// Looks whether all of `grants` are gone, and adds what was seen to the proof. Returns what is
/// not gone.
async fn read_back_all<H: Host>(
    host: &H,
    session: &Opened,
    grants: &[&Grant],
    begun: Instant,
    proof: &mut Vec<Proof>,
) -> Vec<String> {
    let mut there = Vec::new();
    for grant in grants {
        for (what, found) in host.read_back(session, grant).await {
            if let Some(found) = &found {
                there.push(format!("{what}: {found}"));
            }
            let after_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            proof.push(Proof { what, gone: found.is_none(), found, after_ms });
        }
    }
    there
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
    #[cfg(feature = "fault-points")]
    let host = &crate::faults::Watched(host);
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
    let generation = replay.announced.iter().filter(|(_, grant)| is_dead_man(grant)).count();
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
