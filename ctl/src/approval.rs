//! `approve` and `deny`: what somebody else has asked for is shown, and decided about.

use crate::manager::{answer, manager};
use crate::output::Output;
use crate::question::Question;
use crate::report;
use crate::signals::Signals;
use crate::terminal::safe;
use godebug_api::documents::SessionInfo;
use godebug_api::{Reason, Refusal, SessionId, State};

/// Shows the request and approves it; a person at a terminal is asked whether that is meant.
///
/// # Errors
/// When there is none, or this is not the person.
pub(crate) async fn approve(output: &Output, id: &SessionId, yes: bool) -> Result<(), Refusal> {
    let manager = manager().await?;
    // Whoever may not even see it is told by the approval itself whose it is to give.
    let request = answer::<SessionInfo>(manager.get(id.as_str()).await).ok();
    request.as_ref().map_or(Ok(()), still_waits)?;
    let question = Question::to_a_person(output).filter(|_| !yes);
    if let (Some(question), Some(request)) = (question, &request) {
        output.text(&report::request(request));
        let mut signals = Signals::catch()?;
        if !question.go_on(&mut signals, "this will be recorded as approved by you").await? {
            return Err(Refusal::failed("not approved; the request waits on", ""));
        }
    }
    let approved: SessionInfo = answer(manager.approve(id.as_str()).await)?;
    output.result(&approved, &said(&approved))
}

/// Refuses the request.
///
/// # Errors
/// When there is none, or this is not the person.
pub(crate) async fn deny(output: &Output, id: &SessionId, reason: &Reason) -> Result<(), Refusal> {
    let denied: SessionInfo =
        answer(manager().await?.deny(id.as_str(), &reason.to_string()).await)?;
    let human = format!("refused; {} is told why", safe(&denied.opened_by));
    output.result(&denied, &human)
}

fn still_waits(request: &SessionInfo) -> Result<(), Refusal> {
    if request.state == State::PendingApproval {
        return Ok(());
    }
    let message = format!("{} does not wait for approval: it is {}", request.id, request.state);
    Err(Refusal::usage(message, "`godebugctl list --pending` shows what does"))
}

fn said(request: &SessionInfo) -> String {
    let by = safe(&request.opened_by);
    let approved = report::approved(request);
    if request.is_approved() {
        return format!("approved ({approved}); {by} can go on, and the time counts from then");
    }
    format!("approved ({approved}); it waits for somebody else's approval too")
}
