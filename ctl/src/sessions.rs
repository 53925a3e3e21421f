//! The commands that ask the daemon one thing and show its answer: list, show, extend, stop,
//! inspect, doctor.

use crate::cli::{Extend, Stop};
use crate::countdown::in_words;
use crate::manager::{answer, manager};
use crate::output::Output;
use crate::{report, tickets};
use godebug_api::documents::{Diagnosis, Inspection, SessionInfo, Verdict};
use godebug_api::{Pid, Refusal, SessionId, State, TargetName};

pub(crate) async fn list(output: &Output, pending: bool) -> Result<(), Refusal> {
    let mut sessions: Vec<SessionInfo> = answer(manager().await?.list().await)?;
    if pending {
        sessions.retain(|session| session.state == State::PendingApproval);
        return output.result(&sessions, &report::requests(&sessions));
    }
    output.result(&sessions, &report::sessions(&sessions))
}

pub(crate) async fn show(output: &Output, id: &SessionId) -> Result<(), Refusal> {
    let session: SessionInfo = answer(manager().await?.get(id.as_str()).await)?;
    output.result(&session, &report::session(&session))
}

pub(crate) async fn extend(output: &Output, arguments: &Extend) -> Result<(), Refusal> {
    let Extend { id, ttl, ticket } = arguments;
    // A ticket that cannot be rewritten is found before anything is changed.
    let rewrite = ticket.as_ref().map(|path| tickets::to_extend(path, id)).transpose()?;
    let manager = manager().await?;
    let mut session: SessionInfo = answer(manager.extend(id.as_str(), ttl.get().as_secs()).await)?;
    if let (Some(path), Some(ticket), Some(end)) = (ticket, rewrite, &session.expires_at) {
        tickets::extended(ticket, end).write(path).map_err(tickets::refusal)?;
        session.ticket = Some(path.display().to_string());
    }
    let end = session.expires_at.clone().unwrap_or_default();
    let human = format!("session {id} now ends at {end}, in {}", in_words(ttl.get()));
    output.result(&session, &human)
}

/// Ends sessions. All are tried; the first that failed or is stuck gives the exit status. The
/// document is an array, also for one session, so that a script need not count.
pub(crate) async fn stop(output: &Output, arguments: &Stop) -> Result<(), Refusal> {
    let manager = manager().await?;
    let ids = if arguments.all {
        let sessions: Vec<SessionInfo> = answer(manager.list().await)?;
        let open = |session: &SessionInfo| session.state != State::Closed;
        sessions.into_iter().filter(open).map(|session| session.id).collect()
    } else {
        arguments.ids.clone()
    };
    let (mut ended, mut refusals) = (Vec::new(), Vec::new());
    for id in &ids {
        match answer::<SessionInfo>(manager.stop(id.as_str()).await) {
            Ok(session) => {
                refusals.extend(stuck(&session));
                ended.push(session);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    let mut refusals = refusals.into_iter();
    let first = refusals.next();
    for other in refusals {
        output.note(&format!("error: {}\n  → {}", other.message, other.remedy));
    }
    if ended.is_empty()
        && let Some(refusal) = first
    {
        return Err(refusal);
    }
    let human: String = ended.iter().map(|session| report::ending(session, None)).collect();
    let human = if ended.is_empty() { "no sessions".to_owned() } else { human };
    output.result(&ended, &human)?;
    first.map_or(Ok(()), Err)
}

/// The refusal for a session that could not be given back whole.
pub(crate) fn stuck(session: &SessionInfo) -> Option<Refusal> {
    (session.state == State::Stuck || !session.stuck.is_empty()).then(|| {
        Refusal::host(
            format!("session {} is stuck: {}", session.id, session.stuck.join("; ")),
            format!(
                "godebugd goes on trying; watch it with `godebugctl show {}`, and see \
                 `journalctl -u godebugd` for what is in the way",
                session.id
            ),
        )
    })
}

pub(crate) async fn inspect(
    output: &Output,
    unit: &TargetName,
    pid: Option<Pid>,
) -> Result<(), Refusal> {
    let pid = pid.map_or(0, Pid::get);
    let target: Inspection = answer(manager().await?.inspect(&unit.to_string(), pid).await)?;
    output.result(&target, &report::inspection(&target))
}

pub(crate) async fn doctor(output: &Output, unit: Option<&TargetName>) -> Result<(), Refusal> {
    let unit = unit.map(ToString::to_string).unwrap_or_default();
    let diagnosis: Diagnosis = answer(manager().await?.doctor(&unit).await)?;
    output.result(&diagnosis, &report::diagnosis(&diagnosis))?;
    let bad = diagnosis.checks.iter().filter(|check| check.verdict == Verdict::Bad).count();
    if bad == 0 && diagnosis.good {
        return Ok(());
    }
    Err(Refusal::host(
        format!("attach would be refused: {bad} of {} checks failed", diagnosis.checks.len()),
        "do what stands beside each ✗",
    ))
}
