//! The two clocks that deadlines are kept on, and the way to wait for one.

use godebug_core::{Deadline, Now};
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// This moment on both clocks.
pub fn now() -> Now {
    Now { wall_ms: milliseconds(ClockId::Realtime), boot_ms: milliseconds(ClockId::Boottime) }
}

/// How long to sleep before looking again whether `deadline` has passed; zero when it has.
///
/// Never more than a second: a wall clock that is stepped and a host that slept are noticed within
/// one, without a kernel timer for each of the two clocks.
pub fn next_look(deadline: &Deadline) -> Duration {
    deadline.remaining(now()).min(Duration::from_secs(1))
}

/// A moment as RFC 3339 in UTC, whole seconds.
pub fn rfc3339(wall_ms: u64) -> String {
    let seconds = i64::try_from(wall_ms / 1000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// A moment as RFC 3339 in UTC, with milliseconds.
pub fn rfc3339_ms(wall_ms: u64) -> String {
    let ms = i64::try_from(wall_ms).unwrap_or(i64::MAX);
    let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX);
    format!("{timestamp:.3}")
}

/// The milliseconds since 1970 that an RFC 3339 text names.
pub fn from_rfc3339(text: &str) -> Option<u64> {
    let timestamp: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_millisecond()).ok()
}

fn milliseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}
