//! Whose consent a request needs, and who may give it: never whoever made it, whatever they have become
//! since by su or sudo. Rules and groups are those of the moment at which it is asked.

use super::Caller;
use super::rules::{self, Denied, Wish};
use godebug_api::documents::SessionInfo;
use godebug_api::rules::engine::{Approvals, Consent, Permit};
use godebug_api::{Approval, Login, Refusal, same_person};

/// Whether `caller` may consent to `request`, which its rule must still allow.
///
/// # Errors
/// Why not.
pub(super) async fn may_be_given(
    caller: &Caller,
    request: &SessionInfo,
    wish: &Wish,
    running: &[SessionInfo],
) -> Result<(), Denied> {
    let permit = rules::ask(request.opened_by_uid, wish, running).await?;
    let Consent::Needed(wanted) = &permit.consent else {
        let remedy =
            format!("{} can go on with it: godebugctl claim {}", request.opened_by, request.id);
        return Err(Refusal::usage("it needs nobody's approval any more", remedy).into());
    };
    counts((caller.uid, &caller.user, &caller.login), request, wanted, &permit).await
}

/// Whether somebody may see a request because they may consent to it.
pub async fn may_see(caller: &Caller, request: &SessionInfo, wish: &Wish) -> bool {
    may_be_given(caller, request, wish, &[]).await.is_ok()
}

async fn counts(
    (uid, user, login): (u32, &str, &Login),
    request: &SessionInfo,
    wanted: &Approvals,
    permit: &Permit,
) -> Result<(), Denied> {
    let by_rule = |message: String, remedy: String| Denied {
        refusal: Refusal::refused(message, remedy),
        rule: Some(permit.name()),
    };
    if same_person((uid, login), (request.opened_by_uid, &request.login)) {
        return Err(by_rule(
            "nobody approves what they asked for themselves".to_owned(),
            format!("ask for it: {wanted}"),
        ));
    }
    if rules::is_one_of(uid, &wanted.by).await? {
        return Ok(());
    }
    Err(by_rule(
        format!("the rule {} wants {wanted}, and {user} is none of them", permit.name()),
        format!("one of them runs: godebugctl approve {}", request.id),
    ))
}

/// Those whose consent still counts, if there are enough of them.
///
/// # Errors
/// Who is missing.
pub(super) async fn enough(
    request: &SessionInfo,
    wanted: &Approvals,
    permit: &Permit,
) -> Result<Vec<Approval>, Denied> {
    let mut counted = Vec::new();
    for approval in &request.approvals {
        let by = (approval.uid, approval.user.as_str(), &approval.login);
        if counts(by, request, wanted, permit).await.is_ok() {
            counted.push(approval.clone());
        }
    }
    if counted.len() >= wanted.count as usize {
        return Ok(counted);
    }
    let lapsed = match request.approvals.len() - counted.len() {
        0 => String::new(),
        1 => "; one was given by somebody who is none of them any more".to_owned(),
        more => format!("; {more} were given by people who are none of them any more"),
    };
    let message = format!(
        "request {} has {} of {wanted}, as the rule {} wants{lapsed}",
        request.id,
        counted.len(),
        permit.name()
    );
    let remedy = format!("one of them runs: godebugctl approve {}", request.id);
    Err(Denied { refusal: Refusal::refused(message, remedy), rule: Some(permit.name()) })
}

/// Whether one person's consent is all that a rule wants.
///
/// # Errors
/// When it wants more.
pub(super) fn alone(permit: &Permit) -> Result<(), Denied> {
    match &permit.consent {
        Consent::Needed(wanted) if wanted.count > 1 => {
            let message = format!("the rule {} wants {wanted}", permit.name());
            let refusal = Refusal::refused(message, "a new session can be asked for");
            Err(Denied { refusal, rule: Some(permit.name()) })
        }
        _ => Ok(()),
    }
}

/// What polkit's rules and its question get to know of a request.
pub(super) fn details(request: &SessionInfo) -> Vec<(&'static str, String)> {
    vec![
        ("requester", request.opened_by.clone()),
        ("mode", request.mode.to_string()),
        ("ttl", request.ttl.map(|ttl| ttl.to_string()).unwrap_or_default()),
        ("reason", request.reason.as_ref().map(ToString::to_string).unwrap_or_default()),
    ]
}
