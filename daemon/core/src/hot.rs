//! When a breakpoint is hot: hit so often that the service mostly stands for it, although nobody is
//! looking. Pure: looks at the process and hits go in with their times, a verdict comes out.
//!
//! What an IDE is told of (a stop, a line of a log point) is counted for each breakpoint. A condition
//! that is false is tried inside dlv, which stops the process for it and tells nobody: there, the share
//! of looks that find the process standing tells.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// For how long it must be so: what begins a service's day, or one large request, is no reason.
const WINDOW: Duration = Duration::from_secs(2);
/// Fewer looks than this, on a machine that is busy with other things, tell nothing.
const FEWEST_LOOKS: usize = 30;
/// After a verdict: dlv has to be asked and told, and that takes stops as well.
const REST: Duration = Duration::from_secs(1);
/// Breakpoints whose hits are counted; no person sets more.
const MOST_COUNTED: usize = 256;

/// Where a breakpoint becomes hot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotLimit {
    /// Hits that a client is told of, of one breakpoint in one second.
    pub hits_per_second: u32,
    /// Of the time, while dlv says that the process runs.
    pub standing_percent: u8,
}

impl Default for HotLimit {
    fn default() -> Self {
        Self { hits_per_second: 100, standing_percent: 25 }
    }
}

/// A breakpoint, as a client is told of its hit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// By its number.
    Number(i64),
    /// By its place: a line of a log point.
    Line(String, u64),
}

/// That one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hot {
    /// Some breakpoint: the process stood for that share of the time.
    Standing { percent: u8 },
    /// This one.
    Hits { breakpoint: Hit, per_second: u32 },
}

/// Measures it, for one session.
#[derive(Debug)]
pub struct HotMeter {
    limit: HotLimit,
    /// The latest looks, and whether the process stood.
    looks: VecDeque<(Instant, bool)>,
    hits: BTreeMap<Hit, VecDeque<Instant>>,
    /// It stands because of a client, which knows: that is the pause budget's business.
    is_somebodys: bool,
    /// It stands for no breakpoint that could be turned off.
    is_given_up: bool,
    rests_until: Option<Instant>,
}

impl HotMeter {
    pub fn new(limit: HotLimit) -> Self {
        Self {
            limit,
            looks: VecDeque::new(),
            hits: BTreeMap::new(),
            is_somebodys: false,
            is_given_up: false,
            rests_until: None,
        }
    }

    /// A look at the process. A verdict is a suspicion: dlv knows whether it stands for somebody.
    pub fn look(&mut self, now: Instant, stands: bool) -> Option<Hot> {
        if !stands {
            self.is_somebodys = false;
        }
        if self.is_somebodys || self.is_given_up || self.rests(now) {
            self.looks.clear();
            return None;
        }
        let old = |at: &Instant| now.saturating_duration_since(*at) > WINDOW;
        let mut is_whole = false;
        while self.looks.front().is_some_and(|(at, _)| old(at)) {
            self.looks.pop_front();
            is_whole = true;
        }
        self.looks.push_back((now, stands));
        if !is_whole || self.looks.len() < FEWEST_LOOKS {
            return None;
        }
        let stood = self.looks.iter().filter(|(_, stood)| *stood).count();
        let percent = u8::try_from(stood * 100 / self.looks.len()).unwrap_or(100);
        (percent >= self.limit.standing_percent).then_some(Hot::Standing { percent })
    }

    /// A client was told that this breakpoint was hit.
    pub fn hit(&mut self, now: Instant, breakpoint: Hit) -> Option<Hot> {
        let is_one_more = !self.hits.contains_key(&breakpoint);
        if self.rests(now) || (is_one_more && self.hits.len() >= MOST_COUNTED) {
            return None;
        }
        let limit = self.limit.hits_per_second;
        let hits = self.hits.entry(breakpoint.clone()).or_default();
        hits.push_back(now);
        let old = |at: &Instant| now.saturating_duration_since(*at) > Duration::from_secs(1);
        while hits.front().is_some_and(old) {
            hits.pop_front();
        }
        let per_second = u32::try_from(hits.len()).unwrap_or(u32::MAX);
        (per_second > limit).then_some(Hot::Hits { breakpoint, per_second })
    }

    /// A client lets the process run or step, so that what stood before was for that client, or sets
    /// its breakpoints.
    pub fn begins_anew(&mut self) {
        self.looks.clear();
        self.is_somebodys = false;
        self.is_given_up = false;
    }

    /// Nothing can be done about it, until a client does something else.
    pub fn give_up(&mut self) {
        self.looks.clear();
        self.is_given_up = true;
    }

    /// dlv says that the process stands for somebody.
    pub fn stands_for_somebody(&mut self) {
        self.looks.clear();
        self.is_somebodys = true;
    }

    /// Something was done about it.
    pub fn rest(&mut self, now: Instant) {
        self.looks.clear();
        self.hits.clear();
        self.rests_until = Some(now + REST);
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOOK: Duration = Duration::from_millis(25);

    fn meter() -> (HotMeter, Instant) {
        (HotMeter::new(HotLimit::default()), Instant::now())
    }

    /// Looks for this long, of which so many in a hundred find it standing; the first verdict.
    fn looks(meter: &mut HotMeter, begun: Instant, seconds: u32, percent: u32) -> Option<Hot> {
        (0..seconds * 40)
            .find_map(|look| meter.look(begun + LOOK * look, look * 37 % 100 < percent))
    }

    #[test]
    fn a_service_that_stands_for_a_third_of_the_time_is_told_within_seconds() {
        let (mut meter, begun) = meter();
        let hot = looks(&mut meter, begun, 3, 35);
        assert!(matches!(hot, Some(Hot::Standing { percent: 30..=40 })), "{hot:?}");
    }

    #[test]
    fn now_and_then_a_stop_is_nothing() {
        let (mut meter, begun) = meter();
        assert_eq!(looks(&mut meter, begun, 60, 15), None);
    }

    #[test]
    fn a_stop_for_somebody_is_no_hot_breakpoint_and_neither_is_what_comes_after() {
        let (mut meter, begun) = meter();
        assert!(looks(&mut meter, begun, 5, 100).is_some());
        meter.stands_for_somebody();
        assert_eq!(looks(&mut meter, begun + Duration::from_secs(5), 60, 100), None);
        meter.begins_anew();
        assert_eq!(looks(&mut meter, begun + Duration::from_secs(65), 10, 5), None);
        meter.give_up();
        assert_eq!(looks(&mut meter, begun + Duration::from_secs(75), 10, 50), None);
    }

    #[test]
    fn hits_are_counted_for_each_breakpoint_and_each_second() {
        let (mut meter, begun) = meter();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        for number in 0..100 {
            assert_eq!(meter.hit(at(number), Hit::Number(1)), None);
            assert_eq!(meter.hit(at(number), Hit::Number(2)), None);
        }
        let hot = meter.hit(at(100), Hit::Number(1));
        assert_eq!(hot, Some(Hot::Hits { breakpoint: Hit::Number(1), per_second: 101 }));
        meter.rest(at(100));
        assert_eq!(meter.hit(at(200), Hit::Number(2)), None, "it was seen to already");
        // As many in ten seconds are nothing.
        for number in 0..1000 {
            assert_eq!(meter.hit(at(5000 + number * 100), Hit::Number(1)), None);
        }
    }

    proptest! {
        #[test]
        fn a_verdict_is_at_least_the_limit_and_memory_is_bounded(
            looks in prop::collection::vec((0u64..60, any::<bool>(), -5i64..500), 0..2000)
        ) {
            let (mut meter, mut now) = meter();
            for (pause, stands, breakpoint) in looks {
                now += Duration::from_millis(pause);
                if let Some(Hot::Standing { percent }) = meter.look(now, stands) {
                    prop_assert!((25..=100).contains(&percent));
                }
                if let Some(Hot::Hits { per_second, .. }) = meter.hit(now, Hit::Number(breakpoint)) {
                    prop_assert!(per_second > 100);
                    meter.rest(now);
                }
                prop_assert!(meter.hits.len() <= MOST_COUNTED);
            }
        }
    }
}
