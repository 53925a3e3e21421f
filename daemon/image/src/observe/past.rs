//! The images that an IDE has been shown, to go back to: how a value came about. They are kept in memory, and go with
//! the IDE's connection.

use crate::target::Image;
use std::collections::VecDeque;
use std::sync::Arc;

/// So many are kept of one IDE.
const MOST: usize = 50;
/// All but the latest have no more than this together.
const MOST_BYTES: u64 = 1 << 30;

/// What was shown.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) image: Arc<Image>,
    /// The line was reached, and not just an image taken.
    pub(super) is_hit: bool,
    /// The breakpoints, and what a person calls their places.
    pub(super) stops: Vec<i64>,
    pub(super) places: Vec<String>,
}

#[derive(Default)]
pub(super) struct Past {
    all: VecDeque<Shown>,
    /// The one that the IDE looks at, or looked at last.
    at: usize,
}

impl Past {
    /// The latest, which is looked at now. The earliest go when there are too many.
    pub(super) fn add(&mut self, shown: Shown) {
        let kept = |all: &VecDeque<Shown>| all.iter().map(|one| one.image.bytes).sum::<u64>();
        while self.all.len() >= MOST || (!self.all.is_empty() && kept(&self.all) > MOST_BYTES) {
            self.all.pop_front();
        }
        self.all.push_back(shown);
        self.at = self.all.len() - 1;
    }

    /// The one before.
    pub(super) fn back(&mut self) -> Option<Shown> {
        self.at = self.at.checked_sub(1)?;
        self.all.get(self.at).cloned()
    }

    /// The one after; `None` at the latest.
    pub(super) fn forward(&mut self) -> Option<Shown> {
        let next = self.all.get(self.at + 1).cloned()?;
        self.at += 1;
        Some(next)
    }

    /// Which of how many is looked at.
    pub(super) fn place(&self) -> (usize, usize) {
        (self.at + 1, self.all.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: u64) -> Shown {
        let image = Arc::new(Image { bytes, ..Image::for_tests() });
        Shown { image, is_hit: true, stops: Vec::new(), places: Vec::new() }
    }

    fn sizes(past: &Past) -> Vec<u64> {
        past.all.iter().map(|one| one.image.bytes).collect()
    }

    #[test]
    fn one_goes_back_to_the_earliest_and_forward_to_the_latest() {
        let mut past = Past::default();
        assert!(past.back().is_none() && past.forward().is_none());
        (1..=3).for_each(|bytes| past.add(shown(bytes)));
        assert_eq!(past.back().map(|one| one.image.bytes), Some(2));
        assert_eq!(past.back().map(|one| one.image.bytes), Some(1));
        assert!(past.back().is_none());
        assert_eq!(past.place(), (1, 3));
        assert_eq!(past.forward().map(|one| one.image.bytes), Some(2));
        // A new one comes last, wherever somebody looks.
        past.add(shown(4));
        assert!(past.forward().is_none());
        assert_eq!((past.place(), sizes(&past)), ((4, 4), vec![1, 2, 3, 4]));
    }

    #[test]
    fn the_earliest_go_when_there_are_too_many_or_too_large_ones() {
        let mut past = Past::default();
        (0..60).for_each(|bytes| past.add(shown(bytes)));
        assert_eq!((past.all.len(), sizes(&past)[0]), (MOST, 10));
        past.add(shown(5 * MOST_BYTES));
        past.add(shown(MOST_BYTES / 2));
        assert_eq!(sizes(&past), [MOST_BYTES / 2]);
        past.add(shown(MOST_BYTES / 2));
        past.add(shown(MOST_BYTES));
        assert_eq!(past.all.len(), 3);
    }
}
