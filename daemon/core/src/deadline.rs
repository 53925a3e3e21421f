//! The end of a session, on two clocks at once, whichever comes first.
//!
//! The wall clock alone can be set back; CLOCK_BOOTTIME alone means nothing to a person or to a
//! certificate. CLOCK_MONOTONIC is not used, since it stands still while the host sleeps.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A moment as both clocks show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Milliseconds since 1970 (CLOCK_REALTIME).
    pub wall_ms: u64,
    /// Milliseconds since the kernel started, sleep included (CLOCK_BOOTTIME).
    pub boot_ms: u64,
}

/// The moment after which a session must not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// Milliseconds since 1970.
    pub wall_ms: u64,
    /// Milliseconds of CLOCK_BOOTTIME.
    pub boot_ms: u64,
}

impl Deadline {
    /// The deadline `after` this moment, on both clocks.
    pub fn after(now: Now, after: Duration) -> Self {
        let ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        Self { wall_ms: now.wall_ms.saturating_add(ms), boot_ms: now.boot_ms.saturating_add(ms) }
    }

    /// What is left: the shorter of what the two clocks say; zero when it has passed.
    pub fn remaining(&self, now: Now) -> Duration {
        let wall = self.wall_ms.saturating_sub(now.wall_ms);
        let boot = self.boot_ms.saturating_sub(now.boot_ms);
        Duration::from_millis(wall.min(boot))
    }

    pub fn has_passed(&self, now: Now) -> bool {
        self.remaining(now).is_zero()
    }

    /// The same deadline `by` later.
    pub fn plus(&self, by: Duration) -> Self {
        Self::after(Now { wall_ms: self.wall_ms, boot_ms: self.boot_ms }, by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_set_back_or_stopped_does_not_make_it_later() {
        let start = Now { wall_ms: 1_000_000, boot_ms: 5_000 };
        let deadline = Deadline::after(start, Duration::from_secs(10));
        let set_back = Now { wall_ms: 0, boot_ms: 15_000 };
        assert!(deadline.has_passed(set_back));
        let slept = Now { wall_ms: 1_010_000, boot_ms: 5_000 };
        assert!(deadline.has_passed(slept));
        let halfway = Now { wall_ms: 1_005_000, boot_ms: 9_000 };
        assert_eq!(deadline.remaining(halfway), Duration::from_secs(5));
    }
}
