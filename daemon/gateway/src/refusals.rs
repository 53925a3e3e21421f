//! Logs connections that were turned away: ten a second in full, the rest as a number, so that a
//! flood neither fills the journal nor goes unnoticed.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Refusals(Mutex<Window>);

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    unsaid: u64,
}

impl Refusals {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Window { since: Instant::now(), lines: 0, unsaid: 0 }))
    }

    /// Says that `peer` was turned away, if this second has a line left.
    pub(crate) fn log(&self, peer: SocketAddr, why: &dyn Display) {
        if self.take_line(Instant::now()) {
            tracing::warn!(%peer, %why, "refused");
        }
    }

    /// Says how many were passed over, once their second is over. To be called now and then, or
    /// the last of a flood would be mentioned only by the next.
    pub(crate) fn settle(&self) {
        self.roll(&mut self.window(), Instant::now());
    }

    fn take_line(&self, now: Instant) -> bool {
        let mut window = self.window();
        self.roll(&mut window, now);
        if window.lines < LINES {
            window.lines += 1;
            return true;
        }
        window.unsaid += 1;
        false
    }

    fn roll(&self, window: &mut Window, now: Instant) {
        if now.saturating_duration_since(window.since) < WINDOW {
            return;
        }
        if window.unsaid > 0 {
            tracing::warn!(connections = window.unsaid, "refused more, not logged one by one");
        }
        *window = Window { since: now, lines: 0, unsaid: 0 };
    }

    fn window(&self) -> std::sync::MutexGuard<'_, Window> {
        // Nothing can panic while it is held, and a count is no reason to end a session.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_ten_lines_a_second_and_is_counted() {
        let refusals = Refusals::new();
        let start = Instant::now();
        let said = (0..1000).filter(|_| refusals.take_line(start)).count();
        assert_eq!(said, 10);
        assert_eq!(refusals.window().unsaid, 990);
        let later = start + Duration::from_millis(1100);
        assert!(refusals.take_line(later));
        assert_eq!(refusals.window().unsaid, 0);
    }
}
