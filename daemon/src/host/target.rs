//! The target after its debugger: what may be left of it in the process.

use crate::launch;
use crate::paths::SessionPaths;
use crate::rescue::{Baseline, is_of_session};
use crate::target::process::{self, Process, Status};
use godebug_core::ledger::Opened;

/// What was looked at, and what was found if it is not as before. A target that has ended holds
/// nothing.
pub(super) fn read_back(session: &Opened) -> Vec<(String, Option<String>)> {
    let pid = session.pid;
    let same = Process::pin(pid).ok().filter(|p| p.start_ticks == session.start_ticks);
    let Some(target) = same else {
        return vec![(format!("process {pid} (it has ended)"), None)];
    };
    let mut seen = match target.status() {
        Ok(status) => tracing_and_stop(session, &status),
        Err(error) => vec![(format!("tracer of process {pid}"), Some(error.to_string()))],
    };
    let frozen = SessionPaths::of(&session.id).frozen_marker().exists();
    seen.push((
        format!("process {pid} frozen"),
        frozen.then(|| "a repair that did not end has frozen it".to_owned()),
    ));
    seen.push(text(session));
    seen
}

/// Whether the target stands for a signal, traced by nobody.
pub(super) fn is_held(session: &Opened) -> bool {
    let same = Process::pin(session.pid).ok().filter(|p| p.start_ticks == session.start_ticks);
    same.is_some_and(|process| launch::is_held(&process))
}

/// Whether nothing of the debugger is left in the target.
pub(super) fn is_as_before(session: &Opened) -> bool {
    read_back(session).iter().all(|(_, found)| found.is_none())
}

fn tracing_and_stop(session: &Opened, status: &Status) -> Vec<(String, Option<String>)> {
    let pid = session.pid;
    let tracer = status.tracer_pid;
    // Somebody may trace it for themselves now, and hold it; that is none of this session's.
    let foreign = tracer.filter(|tracer| !is_of_session(*tracer, &session.id));
    if let Some(tracer) = foreign {
        let who = process::tracer_description(tracer);
        return vec![(format!("tracer of process {pid} (now {who}, not of this session)"), None)];
    }
    let stopped = matches!(status.state, 't' | 'T').then(|| "it is stopped".to_owned());
    vec![
        (
            format!("tracer of process {pid}"),
            tracer.map(|tracer| format!("it is traced by process {tracer}")),
        ),
        (format!("process {pid} stopped"), stopped),
    ]
}

fn text(session: &Opened) -> (String, Option<String>) {
    let pid = session.pid;
    let baseline = Baseline::of(&session.id);
    let mut what = format!("breakpoints in the text of process {pid}");
    let compared = match process::text_differences(pid) {
        Ok(compared) => compared,
        Err(error) => return (what, Some(error.to_string())),
    };
    let left = baseline.new_in(&compared).len();
    let unseen = baseline.newly_skipped(&compared);
    let found = if left > 0 {
        Some(format!("{left} bytes differ from the file"))
    } else {
        unseen.first().map(|why| format!("it cannot be compared any more: {why}"))
    };
    let never = compared.skipped.len() - unseen.len();
    if never > 0 {
        // The reader shall know that the proof does not reach there.
        what.push_str(&format!(" ({never} mappings could not be compared before either)"));
    }
    (what, found)
}
