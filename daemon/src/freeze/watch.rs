//! Measures on the process itself for how long attaching freezes it.

use crate::target::process::Process;
use godebug_core::{Pid, ProcessState as State};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Between two looks; the kernel tells nobody when a tracer stops a process.
const PAUSE: Duration = Duration::from_millis(1);
/// How long the last look may be late once dlv has answered, which it does when the target runs.
const LATE: Duration = Duration::from_millis(100);

/// A freeze that is being waited for. Dropping this ends the watch.
pub struct Watch(Option<oneshot::Receiver<Option<Duration>>>);

impl Watch {
    /// For how long the target stood. `None` when that could not be measured.
    pub async fn measured(self) -> Option<Duration> {
        tokio::time::timeout(LATE, self.0?).await.ok()?.ok()?
    }
}

/// Watches `target` from now on, in a thread that ends when the freeze is over, when nobody waits for
/// it any more, or after `limit`.
pub fn watch(target: Option<&Process>, limit: Duration) -> Watch {
    let Some(target) = target else { return Watch(None) };
    let (pid, start_ticks) = (target.pid, target.start_ticks);
    let (answer, answered) = oneshot::channel();
    let thread = std::thread::Builder::new().name("freeze".to_owned());
    let started = thread.spawn(move || look_on(pid, start_ticks, Instant::now() + limit, answer));
    match started {
        Ok(_) => Watch(Some(answered)),
        Err(error) => {
            tracing::warn!("the freeze of process {pid} cannot be measured: {error}");
            Watch(None)
        }
    }
}

fn look_on(pid: Pid, start_ticks: u64, until: Instant, answer: oneshot::Sender<Option<Duration>>) {
    let Some(target) = Looker::at(pid, start_ticks) else { return };
    let mut stage = Stage::Before { stood: false };
    while !answer.is_closed() && Instant::now() < until {
        let Some(state) = target.look() else { return };
        stage = stage.then(Instant::now(), state);
        if let Stage::Over(freeze) = stage {
            let _ = answer.send(freeze);
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Looks at one process a thousand times a second, on a host where dlv needs every processor: the
/// file is opened once, and no more of it is read than counts.
struct Looker(File);

impl Looker {
    /// `None` when it is another process by now, or none.
    fn at(pid: Pid, start_ticks: u64) -> Option<Self> {
        let process =
            Process::pin(pid).ok().filter(|process| process.start_ticks == start_ticks)?;
        // A file of /proc stays with its process, whoever gets the number.
        let file = File::open(format!("/proc/{pid}/status")).ok()?;
        process.is_alive().then_some(Self(file))
    }

    /// `None` when the process is gone.
    fn look(&self) -> Option<State> {
        let mut beginning = [0; State::BYTES];
        let count = self.0.read_at(&mut beginning, 0).ok()?;
        State::of(&beginning[..count])
    }
}

/// How far the freeze is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// `stood`: somebody had stopped the process already, so that its freeze is not only dlv's.
    Before {
        stood: bool,
    },
    Since(Instant),
    /// `None`: not to be measured.
    Over(Option<Duration>),
}

impl Stage {
    fn then(self, now: Instant, state: State) -> Self {
        match (self, state) {
            (Self::Over(_), _) => self,
            (_, State::Ended) => Self::Over(None),
            (Self::Before { stood: true }, State::Frozen) => Self::Over(None),
            (Self::Before { .. }, State::Frozen) => Self::Since(now),
            (Self::Before { .. }, State::Stands) => Self::Before { stood: true },
            (Self::Before { .. }, State::Runs) => Self::Before { stood: false },
            // A dlv that was killed while it attached has left signals that stop the process, until
            // whoever repairs lets it go on: that is the same freeze.
            (Self::Since(_), State::Frozen | State::Stands) => self,
            (Self::Since(begun), State::Runs) => {
                Self::Over(Some(now.saturating_duration_since(begun)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::{Ended, Frozen, Runs, Stands};

    /// What comes of looks ten milliseconds apart.
    fn after(states: &[State]) -> Option<Option<u128>> {
        let begun = Instant::now();
        let mut stage = Stage::Before { stood: false };
        for (number, state) in states.iter().enumerate() {
            let at = Duration::from_millis(10 * number as u64);
            stage = stage.then(begun + at, *state);
        }
        match stage {
            Stage::Over(freeze) => Some(freeze.map(|freeze| freeze.as_millis())),
            _ => None,
        }
    }

    #[test]
    fn the_time_from_the_stop_to_the_first_run_counts() {
        assert_eq!(after(&[Runs, Runs, Frozen, Frozen, Frozen, Runs]), Some(Some(30)));
        assert_eq!(after(&[Frozen, Runs, Frozen, Frozen]), Some(Some(10)));
        assert_eq!(after(&[Runs, Frozen, Frozen]), None);
        assert_eq!(after(&[Runs, Runs]), None);
    }

    #[test]
    fn a_target_that_stood_already_or_ends_gives_no_figure() {
        assert_eq!(after(&[Stands, Frozen, Frozen, Runs]), Some(None));
        assert_eq!(after(&[Runs, Stands, Stands, Frozen]), Some(None));
        assert_eq!(after(&[Stands, Runs, Frozen, Runs]), Some(Some(10)));
        assert_eq!(after(&[Runs, Frozen, Stands]), None);
        assert_eq!(after(&[Runs, Frozen, Stands, Runs]), Some(Some(20)));
        assert_eq!(after(&[Runs, Frozen, Ended]), Some(None));
        assert_eq!(after(&[Ended]), Some(None));
    }

    #[test]
    fn a_process_is_looked_at_again_and_again_until_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().try_into().unwrap();
        let ticks = Process::pin(pid).unwrap().start_ticks;
        assert!(Looker::at(pid, ticks + 1).is_none(), "it is another process");
        let looker = Looker::at(pid, ticks).unwrap();
        assert_eq!((looker.look(), looker.look()), (Some(Runs), Some(Runs)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(looker.look(), None);
    }

    #[tokio::test]
    async fn what_is_never_frozen_is_not_waited_for() {
        let me = Process::pin(std::process::id().try_into().unwrap()).unwrap();
        let begun = Instant::now();
        assert_eq!(watch(Some(&me), Duration::from_secs(60)).measured().await, None);
        assert_eq!(watch(Some(&me), Duration::ZERO).measured().await, None);
        assert_eq!(watch(None, Duration::from_secs(60)).measured().await, None);
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
