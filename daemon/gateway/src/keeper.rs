//! Nobody leaves the service standing: looks at the target all the time, and when it has stood for as
//! long as the session may let it, turns its breakpoints off and lets it run.

use crate::cooler::cool;
use crate::dlv::{Dlv, DlvError};
use crate::gateway::Shared;
use crate::target::Target;
use crate::transcript::Entry;
use godebug_api::hot::{Hit, Hot, HotMeter};
use godebug_api::pause::{Due, Meter, PauseBudget, Spent};
use godebug_api::{HotLimit, ProcessState};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Between two looks: the kernel tells nobody when a tracer stops a process. A look takes some ten
/// microseconds.
const PAUSE: Duration = Duration::from_millis(25);
/// Stops that are shorter are counted and not recorded one by one: what a condition needs to be
/// evaluated, a step.
const WORTH_A_RECORD: Duration = Duration::from_millis(100);
/// Attempts to let the target run, before the session ends for it.
const TRIES: u32 = 3;
/// How long a target that was started for the session stands for its first client. It serves nobody yet.
const FIRST_CLIENT: Duration = Duration::from_secs(300);

/// What is known of the target's stops.
pub(crate) struct Keeper {
    target: Target,
    budget: PauseBudget,
    meter: Mutex<Meter>,
    hot: Mutex<HotMeter>,
    /// A breakpoint that its clients were told of too often.
    suspect: Mutex<Option<Hot>>,
    /// Not before the session is active: until then dlv is attaching.
    has_begun: AtomicBool,
    /// The target was let go, and has not stopped since.
    is_let_go: AtomicBool,
    let_go: AtomicU64,
    /// There is a core in the target's place.
    is_of_core: bool,
    /// The goroutine that crashed, or that was at the line, once dlv has told.
    stands_in: OnceLock<i64>,
    /// Until when the target may stand where it was started, with nobody there yet.
    awaits_until: Option<Instant>,
    /// How long it stood for images: all of them, and the longest.
    images: Mutex<(Duration, Duration)>,
}

impl Keeper {
    pub(crate) fn new(target: Target, budget: PauseBudget, hot: HotLimit) -> Self {
        Self {
            target,
            budget,
            meter: Mutex::new(Meter::new(budget)),
            hot: Mutex::new(HotMeter::new(hot)),
            suspect: Mutex::default(),
            has_begun: AtomicBool::new(false),
            is_let_go: AtomicBool::new(false),
            let_go: AtomicU64::new(0),
            is_of_core: false,
            stands_in: OnceLock::new(),
            awaits_until: None,
            images: Mutex::default(),
        }
    }

    /// A target that was started for the session stands until its first client comes.
    pub(crate) fn awaiting_a_client(self, awaits: bool) -> Self {
        Self { awaits_until: awaits.then(|| Instant::now() + FIRST_CLIENT), ..self }
    }

    pub(crate) fn of_core(self, is_of_core: bool) -> Self {
        Self { is_of_core, ..self }
    }

    pub(crate) fn is_of_core(&self) -> bool {
        self.is_of_core
    }

    /// Asks dlv which goroutine a core is about. dlv itself tells IDEs that it is the first, whichever it is.
    pub(crate) async fn learn_where_it_stands(&self, socket: &Path) {
        if !self.is_of_core || self.stands_in.get().is_some() {
            return;
        }
        let asked = async { Dlv::connect(socket).await?.current_goroutine().await };
        match asked.await {
            Ok(Some(goroutine)) => drop(self.stands_in.set(goroutine)),
            Ok(None) => {}
            // The IDE begins with the first then.
            Err(error) => tracing::debug!(%error, "which goroutine the core is about"),
        }
    }

    /// What an IDE is to show first, where that is known.
    pub(crate) fn stands_in(&self) -> Option<i64> {
        self.stands_in.get().copied()
    }

    /// The session is active: from now on its stops count.
    pub(crate) fn begin(&self) {
        self.has_begun.store(true, Relaxed);
    }

    /// A client lets the target run.
    pub(crate) fn resumed(&self) {
        self.meter().resumed(Instant::now());
        self.hot().begins_anew();
    }

    /// The target was let go, and runs.
    pub(crate) fn was_let_go(&self) {
        self.is_let_go.store(true, Relaxed);
    }

    /// A client was told that this breakpoint was hit.
    pub(crate) fn hit(&self, breakpoint: Hit) {
        if let Some(hot) = self.hot().hit(Instant::now(), breakpoint) {
            *unpoisoned(&self.suspect) = Some(hot);
        }
    }

    pub(crate) fn hot(&self) -> MutexGuard<'_, HotMeter> {
        unpoisoned(&self.hot)
    }

    /// The target runs because it was let go, and not because a client said so.
    pub(crate) fn runs_by_itself(&self) -> bool {
        self.is_let_go.load(Relaxed) && self.target.look() != Some(ProcessState::Frozen)
    }

    /// dlv answers an IDE's `continue` before it lets the target run, and a question for its state that
    /// comes in between waits for the next stop: so the process is looked at.
    pub(crate) async fn runs_soon(&self) -> bool {
        let runs = async {
            while self.target.look() == Some(ProcessState::Frozen) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(1), runs).await.is_ok()
    }

    /// All the time that the target may stand is over.
    pub(crate) fn is_used_up(&self) -> bool {
        self.meter().is_used_up()
    }

    /// All the time that the target may stand, for a person.
    pub(crate) fn whole_time(&self) -> String {
        seconds(self.budget.per_session())
    }

    /// For how long the target has stood, the longest stop, and how often it was let go.
    pub(crate) fn figures(&self) -> (Duration, Duration, u64) {
        let meter = self.meter();
        let (images, longest) = *unpoisoned(&self.images);
        let let_go = self.let_go.load(Relaxed);
        (meter.total() + images.max(longest), meter.longest().max(longest), let_go)
    }

    /// The target stood for an image.
    pub(crate) fn imaged(&self, pause: Duration) {
        let mut images = unpoisoned(&self.images);
        // In whole milliseconds, as they are told: none that was taken shall look as if it took nothing.
        let longest = Duration::from_millis(milliseconds(images.1.max(pause)).max(1));
        *images = (images.0 + pause, longest);
    }

    /// The session ends: the stop in which the last look found the target, if it is worth a record.
    pub(crate) fn last_stop(&self) -> Option<Duration> {
        self.meter().end().filter(|stood| *stood >= WORTH_A_RECORD)
    }

    /// What is due now; `None` when there is nothing to look at any more.
    fn look(&self, attended: bool) -> Option<Look> {
        let stands = match self.target.look()? {
            ProcessState::Frozen => true,
            ProcessState::Runs | ProcessState::Stands => false,
            ProcessState::Ended => return None,
        };
        let now = Instant::now();
        let (due, over) = self.meter().look(now, stands, attended);
        if stands {
            self.is_let_go.store(false, Relaxed);
        }
        let standing = self.hot().look(now, stands);
        let hot = unpoisoned(&self.suspect).take().or(standing).filter(|_| attended);
        Some(Look { due, over, hot })
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        unpoisoned(&self.meter)
    }
}

/// What one look has found.
struct Look {
    due: Due,
    /// The length of a stop that is over.
    over: Option<Duration>,
    hot: Option<Hot>,
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while one of them is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks after the target for as long as it is polled.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut looks = interval(PAUSE);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut failures, mut came) = (0, false);
    loop {
        looks.tick().await;
        let attended = shared.clients.is_anybody_there();
        if attended {
            shared.keeper.begin();
        }
        came |= attended;
        let may_wait = !came && shared.keeper.awaits_until.is_some_and(|it| Instant::now() < it);
        if may_wait || !shared.keeper.has_begun.load(Relaxed) {
            continue;
        }
        let Some(Look { due, over, hot }) = shared.keeper.look(attended) else { return };
        if let Some(stood) = over.filter(|stood| *stood >= WORTH_A_RECORD) {
            shared.transcript.record(&Entry::Stood { ms: milliseconds(stood) });
        }
        if let Some(hot) = hot {
            match cool(&shared, &hot).await {
                Err(error) if error.means_the_end() => return,
                Err(error) => tracing::warn!(%error, ?hot, "turning a hot breakpoint off"),
                Ok(()) => {}
            }
            shared.keeper.hot().rest(Instant::now());
        }
        match due {
            Due::Nothing => {}
            Due::Warning { stood, left } => warn(&shared, stood, left),
            Due::LetGo(spent) => match let_go(&shared, spent).await {
                Ok(()) => failures = 0,
                Err(error) if error.means_the_end() => return,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "letting the service run");
                    if failures >= TRIES {
                        tracing::error!("the service cannot be let go; the session ends");
                        return shared.stuck.cancel();
                    }
                }
            },
        }
    }
}

fn warn(shared: &Shared, stood: Duration, left: Duration) {
    shared.clients.tell(&format!(
        "godebug: the service has been standing for {}; in {} it goes on by itself, and its \
         breakpoints are off then",
        seconds(stood),
        seconds(left)
    ));
    shared.transcript.record(&Entry::Warned { left_ms: milliseconds(left) });
}

/// Turns the breakpoints off and lets the target run.
async fn let_go(shared: &Shared, spent: Spent) -> Result<(), DlvError> {
    // Nobody comes, and nobody else lets it go, meanwhile.
    let _turn = shared.release.turn().await;
    let mut off = None;
    let attempt = timeout(shared.limits.release, let_run(shared, &mut off)).await;
    match attempt.unwrap_or(Err(DlvError::Slow("it all"))) {
        Ok(()) => {}
        // Its answer may have come too late, and the target runs all the same: that is to be told.
        Err(error) if off.is_some() && shared.keeper.runs_soon().await => {
            tracing::warn!(%error, "the service was let go, later than it should");
        }
        Err(error) => return Err(error),
    }
    // Empty where it ran already.
    let Some(off) = off else { return Ok(()) };
    let keeper = &shared.keeper;
    // Whatever stops it before the next look, as a breakpoint that is set does for a moment, is another stop.
    keeper.resumed();
    keeper.was_let_go();
    keeper.let_go.fetch_add(1, Relaxed);
    let why = match spent {
        Spent::Stop => format!("it has stood for {}", seconds(keeper.budget.per_stop())),
        Spent::Session => {
            format!("the {} that this session may hold it are used up", keeper.whole_time())
        }
        Spent::Unattended => "nobody was there to look at it".to_owned(),
    };
    tracing::warn!(breakpoints_off = off, "the service goes on: {why}");
    shared.clients.tell(&match spent {
        Spent::Session => format!(
            "godebug: the service goes on: {why}. Its breakpoints are off, and this session cannot \
             stop it any more; open another one"
        ),
        _ => format!(
            "godebug: the service goes on: {why}. Its breakpoints are off until you set them again"
        ),
    });
    shared.transcript.record(&Entry::LetGo { why: &why, breakpoints_off: off });
    Ok(())
}

/// `off` stays empty when it runs already; else it is how many breakpoints were turned off.
async fn let_run(shared: &Shared, off: &mut Option<usize>) -> Result<(), DlvError> {
    let mut dlv = Dlv::connect(&shared.debugger_socket).await?;
    if dlv.is_running().await? {
        return Ok(());
    }
    dlv.cancel_step().await?;
    *off = Some(dlv.disable_breakpoints().await?);
    let ide = shared.clients.who_can_resume();
    let by_ide = match &ide {
        Some(line) => line.resume().await && shared.keeper.runs_soon().await,
        None => false,
    };
    if !by_ide {
        dlv.resume().await?;
    }
    shared.clients.tell_it_runs(ide.as_ref().filter(|_| by_ide));
    Ok(())
}

/// For a person: `30 s`, `1m 30s`.
fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        short @ 1..60 => format!("{short} s"),
        long if long % 60 == 0 => format!("{} min", long / 60),
        long => format!("{} min {} s", long / 60, long % 60),
    }
}

pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        let said = |ms| seconds(Duration::from_millis(ms));
        assert_eq!((said(250), said(30_000)), ("250 ms".to_owned(), "30 s".to_owned()));
        assert_eq!((said(600_000), said(90_000)), ("10 min".to_owned(), "1 min 30 s".to_owned()));
    }
}
