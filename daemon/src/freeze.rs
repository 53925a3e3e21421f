//! How long attaching freezes a target on this host: what is known of its speed, kept in a file
//! below /run that every measured freeze makes better, and the forecast from it.

mod watch;

pub use watch::{Watch, watch};

use crate::{kept, paths};
use godebug_core::Forecast;
use godebug_core::forecast::{History, Measured, Pace, Work};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Raised whenever what is kept changes its meaning.
const FORMAT: u32 = 1;
/// How long `taste` takes on the host on which the constants of `forecast` were found.
const TASTE_THERE: Duration = Duration::from_micros(2550);

#[derive(Serialize, Deserialize)]
struct Kept {
    format: u32,
    history: History,
}

/// For how long attaching will freeze a target, from what is known of this host by now.
pub fn forecast(work: Work) -> Forecast {
    history(&file(), kept::ROOT).forecast(work)
}

/// A freeze that was measured makes the next forecasts better.
pub fn remember(measured: Measured) {
    if let Err(error) = remember_in(&file(), kept::ROOT, measured) {
        tracing::debug!("a measured freeze cannot be kept: {error}");
    }
}

fn file() -> PathBuf {
    Path::new(paths::RUN).join("freeze.json")
}

fn remember_in(path: &Path, owner: u32, measured: Measured) -> std::io::Result<()> {
    // Two sessions may be opened at once.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut history = history(path, owner);
    history.add(measured);
    write(path, history).map(drop)
}

/// What is known of this host. The first look measures its speed, some milliseconds long.
fn history(path: &Path, owner: u32) -> History {
    read(path, owner).unwrap_or_else(|| {
        let history = History::new(speed());
        if let Err(error) = write(path, history.clone()) {
            // It is measured again then.
            tracing::debug!("this host's speed cannot be kept in {}: {error}", path.display());
        }
        history
    })
}

fn read(path: &Path, owner: u32) -> Option<History> {
    let kept: Kept = serde_json::from_slice(&kept::read(path, owner)?).ok()?;
    (kept.format == FORMAT).then_some(kept.history)
}

fn write(path: &Path, history: History) -> std::io::Result<()> {
    kept::write(path, &serde_json::to_vec(&Kept { format: FORMAT, history })?)
}

/// This host's speed at work like dlv's; the middle of five tries.
fn speed() -> Pace {
    let mut tries = [(); 5].map(|()| taste());
    tries.sort_unstable();
    Pace::of(tries[2], TASTE_THERE)
}

/// Takes fresh memory, fills it and walks through it byte by byte, as one does who inflates and
/// parses DWARF. The work is done by the standard library, which is always optimised, so that a
/// debug build finds the same speed. Measured is this thread's own time: what others take of the
/// processors just now says nothing about the host, and the forecast has a margin for it.
fn taste() -> Duration {
    const SIZE: usize = 4 << 20;
    const PIECE: &str = "a\u{e9}\u{20ac}\u{1d11e}b";
    let begun = worked();
    let text = PIECE.repeat(SIZE / PIECE.len());
    black_box(std::str::from_utf8(black_box(text.as_bytes())).is_ok());
    worked().saturating_sub(begun)
}

/// The processor time of this thread.
fn worked() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const WORK: Work = Work { debug_bytes: 8_000_000, threads: 4 };

    fn owner() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn the_speed_is_measured_once_and_freezes_are_added_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("freeze.json");
        let first = history(&path, owner());
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(history(&path, owner()), first);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), written);
        for _ in 0..9 {
            remember_in(&path, owner(), Measured { work: WORK, freeze_ms: 3000 }).unwrap();
        }
        assert!(history(&path, owner()).forecast(WORK).as_millis() >= 3000);
    }

    /// By the clock on the wall a host with many busy threads was nine to eighteen times as slow.
    #[test]
    fn a_host_that_is_busy_is_not_taken_for_a_slow_one() {
        let busy = AtomicBool::new(true);
        let (tasted, spent) = std::thread::scope(|scope| {
            for _ in 0..16 * std::thread::available_parallelism().map_or(2, usize::from) {
                scope.spawn(|| {
                    while busy.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let before = worked();
            let tasted = [(); 5].map(|()| taste());
            let spent = worked().checked_sub(before);
            busy.store(false, Ordering::Relaxed);
            (tasted.iter().sum::<Duration>(), spent.unwrap())
        });
        // What the others took of the processors is in neither.
        assert!(Duration::ZERO < tasted && tasted <= spent, "{tasted:?} of {spent:?}");
    }

    #[test]
    fn who_waits_does_not_work() {
        const WORK: Duration = Duration::from_millis(50);
        let works = || {
            let begun = worked();
            while worked().saturating_sub(begun) < WORK {
                std::hint::spin_loop();
            }
        };
        let before = worked();
        std::thread::scope(|scope| drop(scope.spawn(works).join()));
        let spent = worked().checked_sub(before).unwrap();
        assert!(spent < WORK / 2, "{spent:?}");
    }

    #[test]
    fn a_file_that_cannot_be_believed_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("freeze.json");
        for hostile in ["", "{", "[]", "{\"format\":1}", "{\"format\":2,\"history\":{}}"] {
            std::fs::write(&path, hostile).unwrap();
            let found = history(&path, owner());
            assert_eq!(read(&path, owner()), Some(found), "{hostile:?}");
        }
    }

    #[test]
    fn without_a_place_to_keep_it_there_is_a_forecast_all_the_same() {
        let path = Path::new("/nonexistent/freeze.json");
        assert!(history(path, owner()).forecast(WORK).as_millis() > 0);
        assert!(remember_in(path, owner(), Measured { work: WORK, freeze_ms: 1 }).is_err());
    }

    #[test]
    fn a_negative_or_broken_figure_is_ignored_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("freeze.json");
        for figure in ["-1", "1e300", "null", "\"x\"", "0.5", "18446744073709551616"] {
            let text = format!(
                "{{\"format\":1,\"history\":{{\"guess\":1000,\"freezes\":\
                 [{{\"debug_bytes\":1,\"threads\":1,\"freeze_ms\":{figure}}}]}}}}"
            );
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path, owner()), None, "{figure}");
        }
    }

    proptest! {
        #[test]
        fn no_content_makes_it_panic(bytes: Vec<u8>) {
            let _ = serde_json::from_slice::<Kept>(&bytes);
        }
    }
}
