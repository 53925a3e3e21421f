//! Hooks: what a site has run when something happens to a session. Each is a unit of its own, outside of
//! godebugd's sandbox, with the document of the event on its standard input, a bound on its time, and its
//! failure in the journal.
//!
//! What is recorded is what is told, so hooks are started where records are written, by godebugd and by
//! godebug-revoke alike. `drain` and `undrain` are not told but asked, around the whole session: those are
//! a grant of it.

mod config;
mod pool;
mod run;

pub use config::{Event, Hook, HookError, HookTable};
pub use pool::{drain, undrain};
pub(crate) use run::clear_away;

use crate::audit::{Entry, Kind};
use crate::config::Config;
use godebug_api::UnitName;
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// What a hook reads.
#[derive(Serialize)]
struct Document<'a> {
    event: Event,
    host: &'a str,
    #[serde(flatten)]
    entry: &'a serde_json::Value,
}

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
