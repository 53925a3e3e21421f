//! The time that a session has left: counted, written for people, and announced before it is over.

use godebug_api::clock;
use godebug_api::{Deadline, Now};
use std::time::Duration;

/// When a person is told that the end is near.
const REMINDERS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(300)];

/// A deadline, and the reminders that are still to come.
#[derive(Debug, Clone)]
pub(crate) struct Countdown {
    deadline: Deadline,
    /// The shortest first.
    reminders: Vec<Duration>,
}

impl Countdown {
    /// Towards `expires_at` (RFC 3339); `None` if that is no time.
    pub(crate) fn until(expires_at: &str) -> Option<Self> {
        Some(Self::from(clock::now(), clock::from_rfc3339(expires_at)?))
    }

    fn from(now: Now, expires_ms: u64) -> Self {
        let left = Duration::from_millis(expires_ms.saturating_sub(now.wall_ms));
        // Nobody needs to be told of a minute left who has just asked for thirty seconds.
        let reminders = REMINDERS.into_iter().filter(|reminder| *reminder < left).collect();
        Self { deadline: Deadline::after(now, left), reminders }
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.remaining(clock::now())
    }

    /// Whether a reminder is due; each is given once.
    pub(crate) fn reminder(&mut self) -> Option<Duration> {
        self.reminder_at(self.left())
    }

    fn reminder_at(&mut self, left: Duration) -> Option<Duration> {
        let mut due = None;
        while self.reminders.last().is_some_and(|reminder| left <= *reminder) {
            due = self.reminders.pop();
        }
        due.map(|_| left)
    }
}

/// A duration in two units at most: `2d 3h`, `1h 05m`, `29m 41s`, `41s`.
pub(crate) fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes:02}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// The time from now to a moment given as RFC 3339, or a dash.
pub(crate) fn left_until(expires_at: Option<&str>) -> String {
    let moment = expires_at.and_then(clock::from_rfc3339);
    moment.map_or("-".to_owned(), |moment| {
        in_words(Duration::from_millis(moment.saturating_sub(clock::now().wall_ms)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let words = |seconds| in_words(Duration::from_secs(seconds));
        assert_eq!(words(0), "0s");
        assert_eq!(words(59), "59s");
        assert_eq!(words(1781), "29m 41s");
        assert_eq!(words(3600), "1h 00m");
        assert_eq!(words(86_400 * 2 + 3 * 3600 + 59), "2d 3h");
    }

    #[test]
    fn each_reminder_comes_once_and_only_in_longer_sessions() {
        let now = Now { wall_ms: 0, boot_ms: 0 };
        let seconds = Duration::from_secs;
        let mut long = Countdown::from(now, 1_800_000);
        assert_eq!(long.reminder_at(seconds(301)), None);
        assert_eq!(long.reminder_at(seconds(299)), Some(seconds(299)));
        assert_eq!(long.reminder_at(seconds(298)), None);
        assert_eq!(long.reminder_at(seconds(60)), Some(seconds(60)));
        assert_eq!(long.reminder_at(seconds(1)), None);
        let mut short = Countdown::from(now, 300_000);
        assert_eq!(short.reminder_at(seconds(299)), None);
        assert_eq!(short.reminder_at(seconds(59)), Some(seconds(59)));
    }

    #[test]
    fn a_laptop_that_slept_through_both_is_reminded_once() {
        let mut countdown = Countdown::from(Now { wall_ms: 0, boot_ms: 0 }, 1_800_000);
        assert!(countdown.reminder_at(Duration::from_secs(10)).is_some());
        assert!(countdown.reminder_at(Duration::from_secs(9)).is_none());
    }
}
