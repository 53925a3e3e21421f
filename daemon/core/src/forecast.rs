//! How long attaching will freeze a target: estimated from what dlv has to read and from the freezes
//! that were measured on this host, and whether that is too long.
//!
//! dlv stops the process first and reads its debug information then. It inflates every `.debug_*`
//! section and walks through them, so their uncompressed size tells most; each thread is attached
//! to by itself.
//!
//! The constants were found with dlv 1.24.0 on a virtual machine with two processors, by looking at
//! the target's state every half millisecond, five to twelve times each. Megabytes of debug
//! information (Go 1.24), and milliseconds of freeze:
//!
//! | program | MB | threads | fastest | usual | slowest |
//! |---|---|---|---|---|---|
//! | samples/ticker | 1.9 | 4 | 65 | 81 | 283 |
//! | samples/shop | 7.9 | 4 | 197 | 273 | 581 |
//! | generated, 1 200 types | 12.7 | 4 | 249 | 302 | 471 |
//! | cmd/go | 18.4 | 4 | 416 | 600 | 965 |
//! | cmd/compile | 30.1 | 4 | 531 | 770 | 1 140 |
//! | generated, 7 200 types | 38.0 | 4 | 603 | 680 | 952 |
//! | like samples/shop | 7.6 | 2 004 | 579 | 706 | 870 |
//!
//! The fastest follow 30 ms + 20 ms/MB + 0.2 ms/thread, and so does dlv's processor time. The
//! slowest of the small ones are those in which dlv slept: when its main thread has not stopped at
//! the first look, dlv sleeps 200 ms before the second (`pkg/proc/native/proc_linux.go`, `wait`),
//! which happens in about half of all attachments. Half as much again covers what other
//! processes take of a busy host. dlv 1.27.1 takes as long as 1.24.0.

use crate::words::{WordError, shown};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What attaching takes at least, on the host of the table above.
const BASE_US: u64 = 30_000;
const US_PER_MB: u64 = 20_000;
const US_PER_THREAD: u64 = 200;
/// dlv's sleep, which it may or may not take.
const SLEEP_MS: u64 = 200;
/// Of the working time, in percent: for a host that is busy with other things as well.
const MARGIN_PERCENT: u64 = 150;
/// No forecast is longer: what an ELF file claims about its sections is not checked.
const LONGEST_MS: u64 = 3_600_000;
/// How many measured freezes count, the latest ones.
const REMEMBERED: usize = 16;
const MB: u64 = 1_000_000;
/// Reading a process's memory while it stands, in milliseconds: for each GB, and beside that.
const READING_MS_PER_GB: u64 = 800;
const READING_BASE_MS: u64 = 5;

/// What dlv has to go through while the target stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The debug information, uncompressed.
    pub debug_bytes: u64,
    pub threads: u32,
}

impl Work {
    /// Microseconds on the host of the table, without sleep. Never 0.
    fn reference_us(self) -> u64 {
        let kilobytes = self.debug_bytes / 1000;
        let reading = kilobytes.saturating_mul(US_PER_MB / 1000);
        let stopping = u64::from(self.threads) * US_PER_THREAD;
        reading.saturating_add(stopping).saturating_add(BASE_US)
    }
}

/// How slow a host is, in thousandths of the host of the table: 2000 takes twice as long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Pace(u64);

impl Pace {
    const FASTEST: u64 = 50;
    const SLOWEST: u64 = 50_000;
    /// That of the host of the table.
    pub const REFERENCE: Self = Self(1000);

    /// From the time that something took here, and that it took on the host of the table.
    pub fn of(here: Duration, reference: Duration) -> Self {
        ratio(micros(here), micros(reference).max(1)).into()
    }
}

/// Whatever was read or measured: one thousand times slower is no host but a suspended one.
impl From<u64> for Pace {
    fn from(thousandths: u64) -> Self {
        Self(thousandths.clamp(Self::FASTEST, Self::SLOWEST))
    }
}

impl From<Pace> for u64 {
    fn from(pace: Pace) -> Self {
        pace.0
    }
}

/// One freeze as it was measured on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    #[serde(flatten)]
    pub work: Work,
    pub freeze_ms: u64,
}

impl Measured {
    /// The host's pace if dlv did not sleep, which is the highest that it can be.
    fn without_sleep(&self) -> Pace {
        ratio(self.freeze_ms.saturating_mul(1000), self.work.reference_us()).into()
    }

    /// The host's pace if dlv slept.
    fn with_sleep(&self) -> Pace {
        let worked_ms = self.freeze_ms.saturating_sub(SLEEP_MS);
        ratio(worked_ms.saturating_mul(1000), self.work.reference_us()).into()
    }
}

/// What is known of this host: a guess of its pace, and the latest freezes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    guess: Pace,
    freezes: Vec<Measured>,
}

impl History {
    pub fn new(guess: Pace) -> Self {
        Self { guess, freezes: Vec::new() }
    }

    pub fn add(&mut self, freeze: Measured) {
        self.freezes.push(freeze);
        let surplus = self.freezes.len().saturating_sub(REMEMBERED);
        self.freezes.drain(..surplus);
    }

    /// For how long attaching will freeze a target at most, as far as can be told.
    pub fn forecast(&self, work: Work) -> Forecast {
        let worked_us = scaled(work.reference_us(), self.pace().0, 1000);
        let worked_ms = scaled(worked_us, MARGIN_PERCENT, 100).div_ceil(1000);
        Forecast(worked_ms.saturating_add(SLEEP_MS).min(LONGEST_MS))
    }

    /// The pace that explains most freezes. Nobody can tell whether dlv slept in one, so it lies
    /// between what most took besides the sleep, and what the quick ones, which had none, took. The
    /// guess counts as one of them: it decides alone before there are any, and hardly later.
    ///
    /// The slowest of them all never decides: one attaching while the host was busy with something
    /// else, or had to read the program from its disk, would have the next ones refused.
    fn pace(&self) -> Pace {
        let skipped = self.freezes.len().saturating_sub(REMEMBERED);
        let latest = &self.freezes[skipped..];
        let paces = |of: fn(&Measured) -> Pace| {
            let mut paces: Vec<Pace> = latest.iter().map(of).chain([self.guess]).collect();
            paces.sort_unstable();
            if paces.len() > 1 {
                paces.pop();
            }
            paces
        };
        let most = quantile(&paces(Measured::with_sleep), 85);
        let quick = quantile(&paces(Measured::without_sleep), 25);
        most.max(quick).unwrap_or(self.guess)
    }
}

/// The smallest of the sorted `values` that `percent` of them do not exceed.
fn quantile(values: &[Pace], percent: usize) -> Option<Pace> {
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied()
}

fn scaled(value: u64, by: u64, per: u64) -> u64 {
    let product = u128::from(value) * u128::from(by) / u128::from(per.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}

/// In thousandths.
fn ratio(part: u64, whole: u64) -> u64 {
    scaled(part, 1000, whole)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// How long attaching will freeze a target, in milliseconds; on the cautious side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Forecast(u64);

impl Forecast {
    /// For how long an image will stop a process with so many bytes of its own memory.
    pub fn of_image(bytes: u64, copying: Copying) -> Self {
        Self(image_pause_ms(bytes, copying).min(LONGEST_MS))
    }

    pub fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&seconds(self.0))
    }
}

/// How an image of a process comes about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Copying {
    /// The process is made to fork, and its copy is read while it runs on.
    #[default]
    Forked,
    /// Its memory is read while it stands. Nothing is done in it, so this works where a fork is forbidden, or nobody
    /// would take the ended copy.
    Standing,
}

/// For how many milliseconds an image will stop a process with so many bytes of its own memory.
/// Of a fork all of it is the kernel's copying of page tables: 23 ms for each GB of 4 KiB pages.
pub fn image_pause_ms(bytes: u64, copying: Copying) -> u64 {
    let (each_gigabyte, each_time) = match copying {
        Copying::Forked => (25, 1),
        Copying::Standing => (READING_MS_PER_GB, READING_BASE_MS),
    };
    bytes.saturating_mul(each_gigabyte).div_ceil(1000 * MB).saturating_add(each_time)
}

/// A freeze for a person, rounded up: `0.4 s`, `12 s`.
pub fn seconds(milliseconds: u64) -> String {
    let tenths = milliseconds.div_ceil(100);
    if tenths < 100 {
        return format!("{}.{} s", tenths / 10, tenths % 10);
    }
    format!("{} s", milliseconds.div_ceil(1000))
}

/// A size for a person, rounded: `0.6 MB`, `21 MB`.
pub fn megabytes(bytes: u64) -> String {
    let tenths = bytes.saturating_add(MB / 20) / (MB / 10);
    if tenths < 100 {
        return format!("{}.{} MB", tenths / 10, tenths % 10);
    }
    format!("{} MB", bytes.saturating_add(MB / 2) / MB)
}

/// How long a freeze a person puts up with, unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct FreezeLimit(u64);

impl FreezeLimit {
    /// So that it can be left out of a document.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// For how long the target may really stand while dlv attaches; when that is over, the attaching is broken
/// off and the target goes on. Of whoever accepts a freeze however long it is foretold, not for ever either.
pub fn stands_at_most(limit: FreezeLimit, foretold: Option<Forecast>, accepted: bool) -> Duration {
    /// Forecasts: one that is missed by so much is not one of a busy host any more.
    const MISSED_BY: u64 = 4;
    let foretold = foretold.map_or(0, |forecast| forecast.0.saturating_mul(MISSED_BY));
    let milliseconds = match accepted {
        true => limit.max(FreezeLimit::default()).0.max(foretold),
        false => limit.0,
    };
    Duration::from_millis(milliseconds)
}

/// Five seconds: what health checks usually wait.
impl Default for FreezeLimit {
    fn default() -> Self {
        Self(5000)
    }
}

impl TryFrom<u64> for FreezeLimit {
    type Error = WordError;

    fn try_from(milliseconds: u64) -> Result<Self, WordError> {
        match milliseconds {
            0 => Err(WordError::new("no attaching goes without a freeze: allow 1ms at least")),
            1..=LONGEST_MS => Ok(Self(milliseconds)),
            _ => Err(WordError::new("a freeze of more than an hour is no limit")),
        }
    }
}

impl From<FreezeLimit> for u64 {
    fn from(limit: FreezeLimit) -> Self {
        limit.0
    }
}

impl FromStr for FreezeLimit {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let duration = humantime::parse_duration(text).map_err(|error| {
            WordError::new(format!("{} is no duration such as 5s or 800ms: {error}", shown(text)))
        })?;
        let milliseconds = duration.as_nanos().div_ceil(1_000_000);
        u64::try_from(milliseconds).unwrap_or(u64::MAX).try_into()
    }
}

impl fmt::Display for FreezeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_millis(self.0)).fmt(f)
    }
}

/// Why a freeze is too long to be begun without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objection {
    /// Longer than the person allows.
    Limit(FreezeLimit),
    /// Longer than half of the unit's `WatchdogSec=`. systemd is told that the service is alive;
    /// whatever else watches it expects a sign of life about as often, and is not.
    Watchdog(Duration),
}

impl Objection {
    /// What speaks against a freeze of this length, if anything does.
    pub fn to(forecast: Forecast, limit: FreezeLimit, watchdog: Option<Duration>) -> Option<Self> {
        let forecast = Duration::from_millis(forecast.0);
        let watchdog = watchdog.filter(|watchdog| forecast > *watchdog / 2);
        match watchdog {
            // Nothing but the acceptance of it lifts this one, so it is the one to be told.
            Some(watchdog) => Some(Self::Watchdog(watchdog)),
            None => (forecast > Duration::from_millis(limit.0)).then_some(Self::Limit(limit)),
        }
    }

    /// What the person can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Limit(_) => {
                "look at images of it instead, with --mode observe, which stop it for about a millisecond; \
                 or accept the freeze with --yes, or allow more with --max-freeze"
            }
            Self::Watchdog(_) => {
                "look at images of it instead, with --mode observe. Or accept it with --yes (--max-freeze \
                 does not lift this bound): systemd is told that the service is alive meanwhile, but load \
                 balancers, health checks and leases are not"
            }
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit(limit) => write!(f, "more than the {limit} of --max-freeze"),
            Self::Watchdog(watchdog) => {
                write!(f, "more than half of WatchdogSec={}", humantime::format_duration(*watchdog))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn work(debug_bytes: u64) -> Work {
        Work { debug_bytes, threads: 4 }
    }

    fn after(freezes: &[(u64, u64)]) -> History {
        let mut history = History::new(Pace::REFERENCE);
        for (debug_bytes, freeze_ms) in freezes {
            history.add(Measured { work: work(*debug_bytes), freeze_ms: *freeze_ms });
        }
        history
    }

    /// Size, threads, and the usual and the slowest freeze of the table above.
    const TABLE: [(u64, u32, u64, u64); 7] = [
        (1_920_000, 4, 81, 283),
        (7_930_000, 4, 273, 581),
        (12_660_000, 4, 302, 471),
        (18_400_000, 4, 600, 965),
        (30_050_000, 4, 770, 1140),
        (37_960_000, 4, 680, 952),
        (7_590_000, 2004, 706, 870),
    ];

    #[test]
    fn an_image_stops_a_process_by_its_memory() {
        let [forked, standing] =
            [Copying::Forked, Copying::Standing].map(|way| move |bytes| image_pause_ms(bytes, way));
        assert_eq!([0, 10 * MB, 1000 * MB].map(forked), [1, 2, 26]);
        assert_eq!([0, 10 * MB, 1000 * MB].map(standing), [5, 13, 805]);
        assert_eq!(Forecast::of_image(u64::MAX, Copying::Standing).as_millis(), LONGEST_MS);
    }

    #[test]
    fn what_was_measured_is_foretold_and_not_by_much_more() {
        let history = History::new(Pace::REFERENCE);
        for (debug_bytes, threads, usual, slowest) in TABLE {
            let forecast = history.forecast(Work { debug_bytes, threads }).as_millis();
            assert!(forecast * 5 >= slowest * 4, "{forecast} for {slowest} at worst");
            assert!(forecast <= usual * 2 + SLEEP_MS, "{forecast} for {usual} usually");
        }
    }

    #[test]
    fn freezes_that_were_measured_move_the_forecast() {
        let guess = after(&[]).forecast(work(8_000_000));
        let slow = after(&[(8_000_000, 2000); 6]).forecast(work(8_000_000));
        assert!(slow.as_millis() >= 2000 && slow.as_millis() <= 4000, "{slow}");
        let quick = after(&[(80_000_000, 300); 16]).forecast(work(8_000_000));
        assert!(quick < guess, "{quick} {guess}");
    }

    #[test]
    fn one_freeze_that_took_for_ever_is_outvoted() {
        let mut freezes = [(8_000_000, 200); 8];
        freezes[3].1 = 3_000_000;
        assert!(after(&freezes).forecast(work(8_000_000)).as_millis() <= 500);
    }

    #[test]
    fn one_slow_freeze_does_not_have_the_next_session_refused() {
        // However few there were before it, and wherever among them it was.
        for others in 0..6 {
            for at in 0..=others {
                let mut freezes = vec![(5_700_000, 190); others];
                freezes.insert(at, (5_700_000, 5700));
                let forecast = after(&freezes).forecast(work(5_700_000));
                assert_eq!(
                    Objection::to(forecast, FreezeLimit::default(), None),
                    None,
                    "{freezes:?}"
                );
            }
        }
        // Two are no accident.
        let slow = after(&[(5_700_000, 5700); 2]).forecast(work(5_700_000));
        assert!(Objection::to(slow, FreezeLimit::default(), None).is_some());
    }

    #[test]
    fn a_sleep_of_dlv_does_not_count_as_work() {
        // Half of these slept; a program ten times as large is not foretold ten sleeps.
        let freezes: Vec<_> = (0..16).map(|n| (8_000_000, 190 + 200 * (n % 2))).collect();
        let forecast = after(&freezes).forecast(work(80_000_000)).as_millis();
        assert!((2000..3200).contains(&forecast), "{forecast}");
    }

    #[test]
    fn only_the_latest_freezes_count() {
        let mut history = after(&[(1_000_000, 60_000); 100]);
        assert_eq!(history.freezes.len(), REMEMBERED);
        for _ in 0..REMEMBERED {
            history.add(Measured { work: work(8_000_000), freeze_ms: 190 });
        }
        let forecast = history.forecast(work(8_000_000));
        assert_eq!(forecast, after(&[(8_000_000, 190); REMEMBERED]).forecast(work(8_000_000)));
    }

    #[test]
    fn limits_are_durations_with_bounds() {
        let parse = |text: &str| text.parse::<FreezeLimit>();
        assert_eq!(parse("5s").unwrap(), FreezeLimit::default());
        assert_eq!(u64::from(parse("1ms").unwrap()), 1);
        assert_eq!(u64::from(parse("1us").unwrap()), 1);
        assert_eq!(parse("1m 30s").unwrap().to_string(), "1m 30s");
        for bad in ["", "0", "0s", "5", "-1s", "2h", "1000y", "x\u{1b}[2J"] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(!error.chars().any(char::is_control), "{error}");
        }
        assert!(serde_json::from_str::<FreezeLimit>("0").is_err());
        assert!(serde_json::from_str::<FreezeLimit>("-5").is_err());
    }

    #[test]
    fn the_watchdog_and_the_limit_object() {
        let to = |forecast, limit: &str, watchdog: Option<u64>| {
            let watchdog = watchdog.map(Duration::from_millis);
            Objection::to(Forecast(forecast), limit.parse().unwrap(), watchdog)
        };
        assert_eq!(to(5000, "5s", None), None);
        assert_eq!(to(5001, "5s", None), Some(Objection::Limit(FreezeLimit::default())));
        assert_eq!(to(1000, "5s", Some(2000)), None);
        let watchdog = to(1001, "1ms", Some(2000)).unwrap();
        assert_eq!(watchdog, Objection::Watchdog(Duration::from_secs(2)));
        assert_eq!(watchdog.to_string(), "more than half of WatchdogSec=2s");
        assert!(watchdog.remedy().contains("--yes"));
    }

    #[test]
    fn figures_are_rounded_up_for_a_person() {
        assert_eq!(
            [0, 1, 400, 401, 9900].map(seconds),
            ["0.0 s", "0.1 s", "0.4 s", "0.5 s", "9.9 s"]
        );
        assert_eq!([9901, 12_001].map(seconds), ["10 s", "13 s"]);
        assert_eq!(
            [0, 40_000, 7_930_000, 37_960_000].map(megabytes),
            ["0.0 MB", "0.0 MB", "7.9 MB", "38 MB"]
        );
        assert!(!seconds(u64::MAX).is_empty() && !megabytes(u64::MAX).is_empty());
    }

    prop_compose! {
        fn anything()(
            guess: u64,
            freezes in prop::collection::vec((any::<u64>(), any::<u32>(), any::<u64>()), 0..40),
        ) -> History {
            let mut history = History::new(guess.into());
            for (debug_bytes, threads, freeze_ms) in freezes {
                history.add(Measured { work: Work { debug_bytes, threads }, freeze_ms });
            }
            history
        }
    }

    #[test]
    fn the_target_stands_for_what_was_allowed_and_after_a_yes_not_for_ever_either() {
        let limit = |text: &str| text.parse::<FreezeLimit>().unwrap();
        let most = |limit, foretold: Option<u64>, accepted| {
            stands_at_most(limit, foretold.map(Forecast), accepted).as_millis()
        };
        assert_eq!(most(limit("2s"), Some(9000), false), 2000);
        assert_eq!(most(limit("2s"), Some(9000), true), 36_000);
        assert_eq!(most(limit("1ms"), Some(400), true), 5000);
        assert_eq!(most(limit("1m"), None, true), 60_000);
        assert_eq!(most(limit("1ms"), Some(u64::MAX), true), u128::from(u64::MAX));
    }

    proptest! {
        #[test]
        fn a_forecast_is_bounded_and_grows_with_the_work(
            history in anything(), a: u64, b: u64, threads: u32, more: u32,
        ) {
            let of = |debug_bytes, threads| history.forecast(Work { debug_bytes, threads });
            let (small, large) = (of(a.min(b), threads), of(a.max(b), threads));
            prop_assert!(small <= large);
            prop_assert!(large <= of(a.max(b), threads.saturating_add(more)));
            prop_assert!((SLEEP_MS..=LONGEST_MS).contains(&small.as_millis()));
            prop_assert!(large.as_millis() <= LONGEST_MS);
        }

        #[test]
        fn a_history_survives_being_written(history in anything()) {
            let text = serde_json::to_string(&history).unwrap();
            prop_assert_eq!(serde_json::from_str::<History>(&text).unwrap(), history);
        }

        #[test]
        fn whatever_was_written_can_be_reckoned_with(
            guess: u64, sizes in prop::collection::vec(any::<u64>(), 0..40), freeze_ms: u64,
        ) {
            let freezes: Vec<_> = sizes.iter().map(|debug_bytes| {
                serde_json::json!({"debug_bytes": debug_bytes, "threads": 1, "freeze_ms": freeze_ms})
            }).collect();
            let text = serde_json::json!({"guess": guess, "freezes": freezes}).to_string();
            let history: History = serde_json::from_str(&text).unwrap();
            prop_assert!(history.forecast(work(8_000_000)).as_millis() <= LONGEST_MS);
        }
    }
}
