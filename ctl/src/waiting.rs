//! A request that waits for the approval of others: what is said about it, and the waiting in the
//! foreground.

use crate::countdown::left_until;
use crate::foreground;
use crate::output::Output;
use crate::report;
use crate::signals::Signals;
use crate::terminal::{BOLD, painted, safe};
use crate::watch::{News, follow};
use godebug_api::bus::ManagerProxy;
use godebug_api::documents::SessionInfo;
use godebug_api::{CloseReason, Refusal, SessionId, State};
use std::time::Duration;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{MissedTickBehavior, interval};

/// What becomes of a request whose waiting is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// It was made to be waited for here.
    TakesItBack,
    /// It was made before, and waits on.
    LeavesIt,
}

/// Says how to go on with a request that nobody waits for here.
pub(crate) fn leave(output: &Output, request: &SessionInfo) -> Result<(), Refusal> {
    let id = &request.id;
    let text = format!(
        "{}\n\x20 then you run         godebugctl claim {id} --detach --ticket FILE   (or without --detach)\n\
         \x20 or take it back      godebugctl stop {id}",
        announcement(request)
    );
    output.result(request, &text)
}

/// Returns when a request is approved.
///
/// # Errors
/// When it is refused, when its time is over, or when the person does not wait.
pub(crate) async fn until_approved(
    output: &Output,
    manager: &ManagerProxy<'static>,
    signals: &mut Signals,
    request: SessionInfo,
    interrupted: Interrupted,
) -> Result<(), Refusal> {
    if request.is_approved() {
        return Ok(());
    }
    output.note(&format!("{}\n\x20 Ctrl-C {}", announcement(&request), interrupted.in_words()));
    let (sender, mut news) = unbounded_channel();
    let connection = manager.inner().connection().clone();
    let follower = tokio::spawn(follow(connection, request.id.clone(), sender));
    let mut waiting = Waiting { output, request, away: false };
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let decided = loop {
        tokio::select! {
            () = signals.next() => break None,
            Some(news) = news.recv() => if let Some(decided) = waiting.hear(news) {
                break Some(decided);
            },
            _ = tick.tick() => waiting.tick(),
        }
    };
    follower.abort();
    output.clear();
    match decided {
        Some(decided) => decided,
        None => Err(interrupted.done(manager, &waiting.request.id).await),
    }
}

fn announcement(request: &SessionInfo) -> String {
    let id = &request.id;
    let Some(wanted) = &request.waits_for else { return format!("request {id} waits") };
    let approvals = if wanted.approvals == 1 { "approval" } else { "approvals" };
    format!(
        "request {} waits for {} {approvals} by {}, until {} ({} left)\n\
         \x20 one of them runs     godebugctl approve {id}",
        painted(BOLD, id.as_str()),
        wanted.approvals,
        safe(&wanted.by),
        safe(&wanted.claim_by),
        left_until(Some(&wanted.claim_by)),
    )
}

struct Waiting<'a> {
    output: &'a Output,
    request: SessionInfo,
    away: bool,
}

impl Waiting<'_> {
    /// Takes in what became of the request; something when that is the end of the waiting.
    fn hear(&mut self, news: News) -> Option<Result<(), Refusal>> {
        let now = match news {
            News::Session(now) => *now,
            News::Unknown(refusal) => return Some(Err(refusal)),
            News::HeldAgain => return None,
            News::Away => {
                if !std::mem::replace(&mut self.away, true) {
                    self.output.note("godebugd is away; it keeps the request, and so do we");
                }
                return None;
            }
        };
        self.away = false;
        for given in now.approvals.iter().skip(self.request.approvals.len()) {
            let approved = report::approved(&now);
            self.output.note(&format!("approved by {} ({approved})", safe(&given.user)));
        }
        self.request = now;
        match self.request.state {
            State::PendingApproval if self.request.is_approved() => Some(Ok(())),
            State::PendingApproval => None,
            State::Closed => Some(Err(refused(&self.request))),
            other => {
                let message = format!("request {} was taken up elsewhere", self.request.id);
                Some(Err(Refusal::failed(message, format!("its session is {other}"))))
            }
        }
    }

    fn tick(&self) {
        let claim_by = self.request.waits_for.as_ref().map(|wanted| wanted.claim_by.as_str());
        let approved = report::approved(&self.request);
        let left = left_until(claim_by);
        self.output.live(&format!("waiting for approval: {approved}, {left} left"));
    }
}

/// Why a request came to nothing.
pub(crate) fn refused(request: &SessionInfo) -> Refusal {
    let detail = request.close_detail.as_ref().map(safe).unwrap_or_default();
    let (message, remedy) = match request.close_reason {
        Some(CloseReason::Denied) => (format!("refused {detail}"), "talk to them"),
        Some(CloseReason::Expired) => (
            format!("request {} is over: {detail}", request.id),
            "ask again, and tell whoever can approve it",
        ),
        _ => (format!("request {} is over: {detail}", request.id), "ask again"),
    };
    Refusal::refused(message, remedy)
}

impl Interrupted {
    fn in_words(self) -> &'static str {
        match self {
            Self::TakesItBack => "takes it back",
            Self::LeavesIt => "leaves it waiting",
        }
    }

    async fn done(self, manager: &ManagerProxy<'_>, id: &SessionId) -> Refusal {
        if self == Self::LeavesIt {
            let again = format!("`godebugctl claim {id}` waits for it again");
            return Refusal::failed(format!("interrupted; request {id} waits on"), again);
        }
        match foreground::stop(manager, id).await {
            Ok(_) => Refusal::failed("the request was taken back; nothing was changed", ""),
            // It is held by us, and goes with us.
            Err(refusal) => Refusal::failed(
                format!(
                    "the request is taken back as soon as godebugd is there: {}",
                    refusal.message
                ),
                "",
            ),
        }
    }
}
