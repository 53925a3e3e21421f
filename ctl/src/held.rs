//! What a foreground `attach` knows of its session, and when that is a reason to leave.

use crate::countdown::{Countdown, in_words};
use crate::far::Host;
use crate::live;
use crate::output::Output;
use crate::watch::News;
use godebug_api::documents::SessionInfo;
use godebug_api::{Refusal, State};
use std::time::{Duration, Instant};

/// How long the daemon may take to give everything back before we stop waiting for its account.
const LAST_WORD: Duration = Duration::from_secs(60);
/// How long after its time a session may still be called active, or the daemon be silent.
const GRACE: Duration = Duration::from_secs(30);

/// How a session ends that nobody here asked to end.
pub(crate) enum Ending {
    /// The session has ended, and this is the account of it.
    Told(Box<SessionInfo>),
    /// The daemon does not know the session any more.
    Unknown(Refusal),
    /// The session is ending, and the daemon has not finished in time.
    Unfinished(Box<SessionInfo>),
    /// The time is over, and the daemon does not say how it ended.
    TimeOver,
}

/// A session that is held.
pub(crate) struct Held<'a> {
    output: &'a Output,
    session: SessionInfo,
    countdown: Option<Countdown>,
    /// When we were told that the session is ending.
    ending_since: Option<Instant>,
    /// When the countdown was first seen at zero.
    over_since: Option<Instant>,
    /// godebugd or the bus cannot be reached.
    away: bool,
    /// The end has just come near.
    reminded: bool,
    /// For how long this machine had slept, the last time that was looked at.
    slept: Duration,
}

impl<'a> Held<'a> {
    pub(crate) fn new(output: &'a Output, session: SessionInfo) -> Self {
        let countdown = session.expires_at.as_deref().and_then(Countdown::until);
        Self {
            output,
            session,
            countdown,
            ending_since: None,
            over_since: None,
            away: false,
            reminded: false,
            slept: slept(),
        }
    }

    pub(crate) fn output(&self) -> &'a Output {
        self.output
    }

    /// Whether the person was told since this was last asked that the end is near.
    pub(crate) fn was_reminded(&mut self) -> bool {
        std::mem::take(&mut self.reminded)
    }

    /// Takes in what became of the session.
    pub(crate) fn hear(&mut self, news: News) -> Option<Ending> {
        let session = match news {
            News::Session(session) => session,
            News::Unknown(refusal) => return Some(Ending::Unknown(refusal)),
            News::HeldAgain => {
                self.away = false;
                self.output.note(match Host::chosen() {
                    None => "the session is held again",
                    Some(_) => {
                        "connected again; the session goes on. Its clients were let go of meanwhile: start \
                         debugging again in your IDE"
                    }
                });
                return None;
            }
            News::Away => {
                if !std::mem::replace(&mut self.away, true) {
                    self.output.note(&match Host::chosen() {
                        None => "godebugd is away. The session goes on, and ends at its time; \
                                 looking for godebugd meanwhile"
                            .to_owned(),
                        Some(host) => format!(
                            "the connection to {} has broken off. The service runs on, and the session waits for \
                             you for a while (--reconnect); trying again",
                            host.as_str()
                        ),
                    });
                }
                return None;
            }
        };
        if std::mem::replace(&mut self.away, false) {
            self.output.note("godebugd is back");
        }
        if matches!(session.state, State::Closed | State::Stuck) {
            return Some(Ending::Told(session));
        }
        self.take_over(*session);
        None
    }

    /// Replaces what was known of a session that goes on.
    fn take_over(&mut self, session: SessionInfo) {
        if session.expires_at != self.session.expires_at {
            self.countdown = session.expires_at.as_deref().and_then(Countdown::until);
            self.over_since = None;
            let left = self.countdown.as_ref().map_or(Duration::ZERO, Countdown::left);
            self.output.note(&format!("the session has a new end, in {}", in_words(left)));
        }
        if session.state == State::Closing && self.ending_since.is_none() {
            self.ending_since = Some(Instant::now());
            let why = crate::report::why_ended(&session);
            self.output.note(&format!("the session is ending: {why}"));
        }
        self.session = session;
    }

    /// A laptop whose lid was closed: whoever comes back to it has forgotten.
    fn notice_sleep(&mut self, left: Option<Duration>) {
        const WORTH_A_WORD: Duration = Duration::from_secs(5);
        let before = std::mem::replace(&mut self.slept, slept());
        let now = self.slept.saturating_sub(before);
        if now < WORTH_A_WORD {
            return;
        }
        let slept = in_words(now);
        self.output.note(&match left {
            Some(left) if !left.is_zero() => format!(
                "this machine has slept for {slept}. The service did not wait for you; the session has {} left",
                in_words(left)
            ),
            _ => format!("this machine has slept for {slept}, and the session's time is over"),
        });
    }

    /// Every second: the live line, the reminders, and patience.
    pub(crate) fn tick(&mut self, clients: usize) -> Option<Ending> {
        let left = self.countdown.as_ref().map(Countdown::left);
        self.notice_sleep(left);
        if self.ending_since.is_some_and(|since| since.elapsed() > LAST_WORD) {
            return Some(Ending::Unfinished(Box::new(self.session.clone())));
        }
        if left == Some(Duration::ZERO) && self.ending_since.is_none() {
            let since = *self.over_since.get_or_insert_with(Instant::now);
            if since.elapsed() > GRACE {
                return Some(Ending::TimeOver);
            }
        }
        if let Some(left) = self.countdown.as_mut().and_then(Countdown::reminder) {
            self.output.note(&format!(
                "the session ends in {}; `godebugctl extend {} --ttl 30m` gives it more time",
                in_words(left),
                self.session.id
            ));
            self.reminded = true;
        }
        // Another host's processes cannot be seen from here.
        let target = match Host::chosen() {
            _ if let Some(dump) = &self.session.dump => match dump.image {
                Some(_) => "image",
                None => "core dump",
            },
            None => live::target(self.session.pid),
            Some(host) => host.as_str(),
        };
        let state = if self.ending_since.is_some() { "ending" } else { target };
        let (id, unit) = (&self.session.id, self.session.target_name().to_string());
        self.output.live(&live::line(id, &unit, left, clients, Some(state)));
        None
    }
}

/// For how long this machine has slept since it was started: what the clock that goes on then is ahead of
/// the other.
fn slept() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let since = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    since(ClockId::Boottime).saturating_sub(since(ClockId::Monotonic))
}
