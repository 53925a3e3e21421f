//! Hooks: what a site has run when something happens to a session. Each is a unit of its own, outside of
//! godebugd's sandbox, with the document of the event on its standard input, a bound on its time, and its
//! failure in the journal.
//!
//! What is recorded is what is told, so hooks are started where records are written, by godebugd and by
//! godebug-revoke alike. `drain` and `undrain` are not told but asked, around the whole session: those are
//! a grant of it.

mod config;
mod run;

pub use config::{Event, Hook, HookError, HookTable};
pub(crate) use run::clear_away;

use crate::audit::{Entry, Kind};
use crate::config::Config;
use godebug_api::Refusal;
use godebug_api::UnitName;
use godebug_core::ledger::Opened;
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a hook reads.
#[derive(Serialize)]
struct Document<'a> {
    event: Event,
    host: &'a str,
    #[serde(flatten)]
    entry: &'a serde_json::Value,
}

/// What all hooks together may take that a session waits for. A dead man has two minutes for all of its
/// work (`host::units::dead_man`), and hooks are the last of it.
const DRAIN: Duration = Duration::from_secs(600);
const UNDRAIN: Duration = Duration::from_secs(60);

/// Those that are running.
static RUNNING: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Tells the hooks of what was recorded. Returns at once.
pub fn tell(entry: &Entry) {
    let Some(event) = event_of(entry.event) else { return };
    let hooks = match Config::load() {
        Ok(config) => config.hooks,
        Err(refusal) => {
            tracing::error!("hooks cannot be run: {}", refusal.message);
            Vec::new()
        }
    };
    let unit = entry.unit.parse::<UnitName>().ok();
    let hooks = hooks.into_iter().filter(|hook| hook.is_for(event, unit.as_ref()));
    let mut tasks: Vec<Task> = hooks.map(|hook| Task::Hook(Box::new(hook))).collect();
    if event == Event::BreakGlass {
        tasks.push(Task::Wall(entry.message.clone()));
    }
    if tasks.is_empty() {
        return;
    }
    let (text, session) = (document(event, entry), entry.session.clone().unwrap_or_default());
    // Threads: what records may run on no other, and must not wait.
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.retain(|thread| !thread.is_finished());
    for task in tasks {
        let (text, session) = (text.clone(), session.clone());
        running.push(std::thread::spawn(move || task.run(event, &session, &text)));
    }
}

/// Waits for those that run still, each of which has a bound.
pub fn wait_for_all() {
    let running = std::mem::take(&mut *RUNNING.lock().unwrap_or_else(PoisonError::into_inner));
    for thread in running {
        let _ = thread.join();
    }
}

enum Task {
    Hook(Box<Hook>),
    /// Everybody who is logged in shall see it.
    Wall(String),
}

impl Task {
    fn run(&self, event: Event, session: &str, document: &[u8]) {
        let (name, done) = match self {
            Self::Hook(hook) => {
                (hook.to_string(), run::run(hook, (event, hook.timeout), session, document))
            }
            Self::Wall(message) => ("wall".to_owned(), run::wall(session, message)),
        };
        if let Err(why) = done {
            tracing::error!(
                godebug_session = session,
                "the hook {name} for {event} of session {session} failed: {why}"
            );
        }
    }
}

/// Asks the hooks for `event` about a session, one after the other, for `at_most` in all.
///
/// # Errors
/// The first that failed and is required.
async fn ask(event: Event, session: &Opened, at_most: Duration) -> Result<(), String> {
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

/// Has the host take a service out of its pool.
///
/// # Errors
/// When a hook that is required says no.
pub async fn drain(session: &Opened) -> Result<(), Refusal> {
    ask(Event::Drain, session, DRAIN).await.map_err(|why| {
        Refusal::host(
            format!("{} was not taken out of its pool: {why}", session.unit),
            "see `journalctl -t godebugd`; the host's godebugd.toml says that this refuses sessions",
        )
    })
}

/// Has the host put it back.
///
/// # Errors
/// When a hook that is required fails; it is to be tried again.
pub async fn undrain(session: &Opened) -> Result<(), String> {
    ask(Event::Undrain, session, UNDRAIN).await
}

fn document(event: Event, entry: &Entry) -> Vec<u8> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut value = serde_json::to_value(entry).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("event");
    }
    let document = Document { event, host: &host, entry: &value };
    serde_json::to_vec(&document).unwrap_or_default()
}

fn event_of(kind: Kind) -> Option<Event> {
    match kind {
        Kind::Requested => Some(Event::Requested),
        Kind::Approved => Some(Event::Approved),
        Kind::Denied => Some(Event::Denied),
        Kind::Active => Some(Event::Opened),
        Kind::Closed => Some(Event::Closed),
        Kind::Stuck => Some(Event::Stuck),
        Kind::BreakGlass => Some(Event::BreakGlass),
        Kind::Refused
        | Kind::Shared
        | Kind::Withdrawn
        | Kind::Opening
        | Kind::Launching
        | Kind::Extended
        | Kind::Recovered
        | Kind::Mended
        | Kind::Dropped
        | Kind::Reviewed
        | Kind::ImagesKept
        | Kind::ImagesGone => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_the_record_with_the_hooks_word_for_it() {
        let entry = Entry::new(Kind::Active, "shop.service", 7, "dev", "it is active")
            .session("0000000a")
            .details(serde_json::json!({"reason": "slow"}));
        let text = document(Event::Opened, &entry);
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((&read["event"], &read["user"]), (&"opened".into(), &"dev".into()));
        assert_eq!(read["details"]["reason"], "slow");
        assert!(read["host"].as_str().is_some_and(|host| !host.is_empty()));
    }
}
