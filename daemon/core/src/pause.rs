//! How long a session may hold its target, and the meter that tells when that is used up. Pure: looks
//! at the process go in with their times, what is due comes out.

use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// A target that nobody is there to look at stands no longer than this.
const UNATTENDED: Duration = Duration::from_secs(1);

/// For how long a session may let its target stand, in milliseconds: at one stop, and in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseBudget {
    pub per_stop_ms: u64,
    pub per_session_ms: u64,
}

impl PauseBudget {
    pub fn new(per_stop: Duration, per_session: Duration) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self { per_stop_ms: ms(per_stop), per_session_ms: ms(per_session) }
    }

    pub fn per_stop(&self) -> Duration {
        Duration::from_millis(self.per_stop_ms)
    }

    pub fn per_session(&self) -> Duration {
        Duration::from_millis(self.per_session_ms)
    }
}

/// What has to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    Nothing,
    /// Half of what this stop may last is over. Said once a stop.
    Warning {
        stood: Duration,
        left: Duration,
    },
    /// The target must run, now. Said at every look until it does.
    LetGo(Spent),
}

/// Which bound was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// What one stop may last.
    Stop,
    /// What all of them together may last. No later stop has any time.
    Session,
    /// There is no client that could let it run.
    Unattended,
}

/// One stop, from the first look that found the target standing.
#[derive(Debug, Clone, Copy)]
struct Stop {
    since: Instant,
    last_look: Instant,
    /// Since when this stop counts against its own bound: a step begins it anew.
    counts_from: Instant,
    warned: bool,
}

/// Adds up the stops of one session.
#[derive(Debug)]
pub struct Meter {
    budget: PauseBudget,
    total: Duration,
    longest: Duration,
    stop: Option<Stop>,
}

impl Meter {
    pub fn new(budget: PauseBudget) -> Self {
        Self { budget, total: Duration::ZERO, longest: Duration::ZERO, stop: None }
    }

    /// For how long the target has stood in all.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// The longest stop, the one that lasts included.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    pub fn is_used_up(&self) -> bool {
        self.total >= self.budget.per_session()
    }

    /// A look at the target. `attended`: a client is there. Gives what is due, and the length of the
    /// stop that this look has found to be over.
    pub fn look(&mut self, now: Instant, stands: bool, attended: bool) -> (Due, Option<Duration>) {
        if !stands {
            let over = self.stop.take().map(|stop| now.saturating_duration_since(stop.since));
            return (Due::Nothing, over);
        }
        let begins = Stop { since: now, last_look: now, counts_from: now, warned: false };
        let stop = self.stop.get_or_insert(begins);
        self.total += now.saturating_duration_since(stop.last_look);
        stop.last_look = now;
        self.longest = self.longest.max(now.saturating_duration_since(stop.since));
        (self.due(now, attended), None)
    }

    /// There are no more looks: for how long the stop has lasted in which the last one found the target.
    pub fn end(&mut self) -> Option<Duration> {
        self.stop.take().map(|stop| stop.last_look.saturating_duration_since(stop.since))
    }

    /// A client has let the target run, or step: what follows is another stop, although no look may
    /// have seen it run.
    pub fn resumed(&mut self, now: Instant) {
        if let Some(stop) = &mut self.stop {
            stop.counts_from = now;
            stop.warned = false;
        }
    }

    fn due(&mut self, now: Instant, attended: bool) -> Due {
        let Some(stop) = &mut self.stop else { return Due::Nothing };
        let stood = now.saturating_duration_since(stop.counts_from);
        if !attended {
            return if stood >= UNATTENDED { Due::LetGo(Spent::Unattended) } else { Due::Nothing };
        }
        if self.total >= self.budget.per_session() {
            return Due::LetGo(Spent::Session);
        }
        let per_stop = self.budget.per_stop();
        if stood >= per_stop {
            return Due::LetGo(Spent::Stop);
        }
        // Whichever bound comes first is the one to warn of.
        let left = (per_stop - stood).min(self.budget.per_session() - self.total);
        if !stop.warned && (left <= per_stop / 2) {
            stop.warned = true;
            return Due::Warning { stood, left };
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn meter(per_stop: u32, per_session: u32) -> (Meter, Instant) {
        let budget = PauseBudget::new(SECOND * per_stop, SECOND * per_session);
        (Meter::new(budget), Instant::now())
    }

    /// A look every second, from this second on up to that one.
    fn stands(meter: &mut Meter, begun: Instant, from: u32, to: u32) -> Vec<Due> {
        (from..=to).map(|second| meter.look(begun + SECOND * second, true, true).0).collect()
    }

    #[test]
    fn half_of_a_stop_is_told_once_and_its_end_until_it_runs() {
        let (mut meter, begun) = meter(4, 100);
        let due = stands(&mut meter, begun, 0, 5);
        let warning = Due::Warning { stood: SECOND * 2, left: SECOND * 2 };
        let spent = Due::LetGo(Spent::Stop);
        assert_eq!(due, [Due::Nothing, Due::Nothing, warning, Due::Nothing, spent, spent]);
        let over = meter.look(begun + SECOND * 6, false, true);
        assert_eq!(over, (Due::Nothing, Some(SECOND * 6)));
        assert_eq!(meter.look(begun + SECOND * 7, true, true).0, Due::Nothing);
    }

    #[test]
    fn a_stop_that_no_look_has_seen_end_is_told_at_the_end() {
        let (mut meter, begun) = meter(10, 100);
        assert_eq!(meter.end(), None);
        stands(&mut meter, begun, 0, 3);
        assert_eq!((meter.end(), meter.end()), (Some(SECOND * 3), None));
    }

    #[test]
    fn a_step_begins_a_stop_anew_but_not_the_sessions_time() {
        let (mut meter, begun) = meter(4, 6);
        stands(&mut meter, begun, 0, 3);
        meter.resumed(begun + SECOND * 3);
        let due = stands(&mut meter, begun, 4, 6);
        assert_eq!(due[0], Due::Warning { stood: SECOND, left: SECOND * 2 });
        assert_eq!(due[2], Due::LetGo(Spent::Session));
        assert!(meter.is_used_up());
        // Every later stop is over as soon as it is seen.
        meter.look(begun + SECOND * 7, false, true);
        assert_eq!(meter.look(begun + SECOND * 8, true, true).0, Due::LetGo(Spent::Session));
        assert_eq!(meter.total(), SECOND * 6);
    }

    #[test]
    fn a_target_that_nobody_looks_at_is_let_go_soon() {
        let (mut meter, begun) = meter(60, 100);
        assert_eq!(meter.look(begun, true, false).0, Due::Nothing);
        assert_eq!(meter.look(begun + SECOND, true, false).0, Due::LetGo(Spent::Unattended));
    }

    proptest! {
        #[test]
        fn no_looks_make_the_total_more_than_the_time_that_passed(
            looks in prop::collection::vec((0u64..5000, any::<bool>(), any::<bool>(), any::<bool>()), 1..200)
        ) {
            let (mut meter, begun) = meter(3, 20);
            let mut now = begun;
            let mut stood = Duration::ZERO;
            let mut stood_before = false;
            for (pause, stands, attended, resumed) in looks {
                let pause = Duration::from_millis(pause);
                now += pause;
                if stands && stood_before { stood += pause; }
                stood_before = stands;
                let used_up = meter.is_used_up();
                let (due, _) = meter.look(now, stands, attended);
                prop_assert_eq!(meter.total(), stood);
                if used_up && stands && attended {
                    prop_assert_eq!(due, Due::LetGo(Spent::Session));
                }
                if resumed { meter.resumed(now); }
            }
        }
    }
}
