//! `drain` and `undrain`: a site's hooks take a service out of its pool before a debugger is attached, and put it back
//! when that is gone.
//!
//! A session can be over while its drain still runs, since the service has ended or somebody has stopped the session.
//! The drain is called off then, and has ended before the undrain begins: whichever were last would hold.

use super::{Event, Hook, document, run};
use crate::audit::{Entry, Kind};
use crate::config::Config;
use crate::paths::SessionPaths;
use godebug_api::{Refusal, SessionId};
use godebug_core::ledger::Opened;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What all hooks together may take that a session waits for. A dead man has two minutes for all of its
/// work (`host::units::dead_man`), and hooks are the last of it.
const DRAIN: Duration = Duration::from_secs(600);
const UNDRAIN: Duration = Duration::from_secs(60);
/// Of that minute, the most that a drain which still runs may take to end: the rest is the hooks'.
const END_DRAIN: Duration = Duration::from_secs(30);
/// Of /run, for an undrain: what it reads, and what systemd writes down about its units.
const RESERVE: usize = 256 * 1024;
/// How soon a drain is called off once more that has just begun another hook.
const AGAIN: Duration = Duration::from_millis(500);

/// The drains that run in this process.
static DRAINS: Mutex<BTreeMap<SessionId, Running>> = Mutex::new(BTreeMap::new());

struct Running {
    called_off: Arc<AtomicBool>,
    /// Closed when it has ended.
    ended: watch::Receiver<()>,
}

/// Has the host take a service out of its pool.
///
/// # Errors
/// When a hook that is required says no.
pub async fn drain(session: &Opened) -> Result<(), Refusal> {
    keep_room(&SessionPaths::of(&session.id)).map_err(|error| {
        Refusal::host(
            format!("{} is not taken out of its pool: {error}", session.unit),
            "make room in /run, by which it could be put back; then try again",
        )
    })?;
    let (running, ended) = watch::channel(());
    let called_off = Arc::new(AtomicBool::new(false));
    let drain = Running { called_off: Arc::clone(&called_off), ended };
    drains(|all| all.insert(session.id.clone(), drain));
    let folder = SessionPaths::of(&session.id).root().to_owned();
    // Whoever has begun this may have been stopped for a while, and all of it revoked meanwhile.
    let goes_on = move || !called_off.load(Ordering::SeqCst) && folder.exists();
    let asked = ask(Event::Drain, session, DRAIN, move || {
        let _ = &running;
        goes_on()
    });
    asked.await.map_err(|why| {
        Refusal::host(
            format!("{} was not taken out of its pool: {why}", session.unit),
            "see `journalctl -t godebugd`; the host's godebugd.toml says that this refuses sessions",
        )
    })
}

/// Has the host put it back.
///
/// # Errors
/// When a hook that is required fails, or the drain does not end; it is to be tried again.
pub async fn undrain(session: &Opened) -> Result<(), String> {
    let until = Instant::now() + UNDRAIN;
    end_drain(&session.id, Instant::now() + END_DRAIN).await?;
    // Nobody says that it was there.
    let _ = std::fs::remove_file(SessionPaths::of(&session.id).reserve());
    ask(Event::Undrain, session, until.saturating_duration_since(Instant::now()), || true).await
}

/// A hook cannot be run while /run is full, and the service would stay out of its pool.
fn keep_room(paths: &SessionPaths) -> std::io::Result<()> {
    std::fs::write(paths.reserve(), vec![0; RESERVE]).inspect_err(|_| {
        let _ = std::fs::remove_file(paths.reserve());
        // No hook was begun, so there is nothing to put back.
        let _ = std::fs::write(paths.undrained_marker(), "");
    })
}

/// Ends a drain of this process, and what one of a process that is gone has left running.
async fn end_drain(session: &SessionId, until: Instant) -> Result<(), String> {
    let mine = drains(|all| {
        let drain = all.get(session)?;
        drain.called_off.store(true, Ordering::SeqCst);
        Some(drain.ended.clone())
    });
    loop {
        let (id, event) = (session.clone(), Event::Drain);
        let stopped = tokio::task::spawn_blocking(move || run::stop(&id, event)).await;
        stopped.map_err(|error| error.to_string())??;
        let Some(mut ended) = mine.clone() else { return Ok(()) };
        // Nobody sends: it changes by being closed.
        if tokio::time::timeout(AGAIN, ended.changed()).await.is_ok() {
            return Ok(());
        }
        if Instant::now() > until {
            return Err("the drain hook does not end".to_owned());
        }
    }
}

fn drains<T>(with: impl FnOnce(&mut BTreeMap<SessionId, Running>) -> T) -> T {
    let mut all = DRAINS.lock().unwrap_or_else(PoisonError::into_inner);
    // One that has ended cannot be called off any more.
    all.retain(|_, drain| drain.ended.has_changed().is_ok());
    with(&mut all)
}

/// Asks the hooks for `event` about a session, one after the other, for `at_most` in all and as long as it `goes_on`.
///
/// # Errors
/// The first that failed and is required.
async fn ask(
    event: Event,
    session: &Opened,
    at_most: Duration,
    goes_on: impl Fn() -> bool + Send + 'static,
) -> Result<(), String> {
    let hooks = Config::load().map_err(|refusal| refusal.message)?.hooks;
    let hooks: Vec<Hook> =
        hooks.into_iter().filter(|hook| hook.is_for(event, Some(&session.unit))).collect();
    let details = serde_json::to_value(session).unwrap_or_default();
    let message = format!("{event} of {} for session {}", session.unit, session.id);
    let entry =
        Entry::new(Kind::Opening, session.unit.as_str(), session.uid, &session.user, message)
            .session(&session.id)
            .details(details);
    let (text, id) = (document(event, &entry), session.id.clone());
    let until = Instant::now() + at_most;
    let asked = tokio::task::spawn_blocking(move || {
        for hook in &hooks {
            if !goes_on() {
                return Err("the session was over before".to_owned());
            }
            let left = until.saturating_duration_since(Instant::now());
            let done = match left.as_secs() {
                0 => Err(format!("all hooks together may take {} s", at_most.as_secs())),
                _ => run::run(hook, (event, left), id.as_str(), &text),
            };
            let Err(why) = done else { continue };
            let why = format!("the hook {hook} for {event} failed: {why}");
            tracing::error!(godebug_session = id.as_str(), "session {id}: {why}");
            if hook.required {
                return Err(why);
            }
        }
        Ok(())
    });
    asked.await.map_err(|error| error.to_string())?
}
