//! godebug-revoke: gives back what one session took, from its ledger, with no godebugd and no bus
//! needed. Run by the dead man, by dlv's unit when dlv has ended, and by people in need.

use godebug::engine;
use godebug::host::RealHost;
use godebug::ledger::{Ledger, LedgerFileError};
use godebug::sessions::revoke_by_name;
use godebug::{hooks, launch, logging, rescue};
use godebug_api::{CloseReason, SessionId, UnitName, clock};
use std::process::ExitCode;

const USAGE: &str = "usage: godebug-revoke [--if-due | --guard | --dlv-ended] ID
       godebug-revoke --catch ID UNIT PROGRAM...
       godebug-revoke --let-go ID UNIT [stop]";

enum Task<'a> {
    /// Now, whatever the deadline.
    Revoke,
    /// Only when the session's end has come.
    IfDue,
    /// Stay until dlv has ended, and put its target right if it was killed.
    Guard,
    /// dlv has ended: look at what it left in the target.
    DlvEnded,
    /// Catch the process of a unit as it is executed.
    Catch { unit: &'a str, programs: &'a [&'a str] },
    /// That has ended: let go of what it held, and stop the unit if no session came of it.
    LetGo { unit: &'a str, stops: bool },
}

fn main() -> ExitCode {
    logging::start();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (task, id) = match arguments.as_slice() {
        ["--if-due", id] => (Task::IfDue, *id),
        ["--guard", id] => (Task::Guard, *id),
        ["--dlv-ended", id] => (Task::DlvEnded, *id),
        ["--catch", id, unit, programs @ ..] if !programs.is_empty() => {
            (Task::Catch { unit, programs }, *id)
        }
        ["--let-go", id, unit] => (Task::LetGo { unit, stops: false }, *id),
        ["--let-go", id, unit, "stop"] => (Task::LetGo { unit, stops: true }, *id),
        [id] if !id.starts_with('-') => (Task::Revoke, *id),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let id: SessionId = match id.parse() {
        Ok(id) => id,
        Err(error) => {
            eprintln!("godebug-revoke: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let done = match task {
        Task::Guard => rescue::guard(&id),
        Task::DlvEnded => rescue::after_debugger(&id),
        Task::Catch { unit, programs } => {
            named(unit).and_then(|unit| launch::catch(&id, &unit, programs))
        }
        Task::LetGo { unit, stops } => {
            named(unit).and_then(|unit| launch::let_go(&id, &unit, stops))
        }
        Task::Revoke => run(&id, false),
        Task::IfDue => {
            rescue::come_first();
            run(&id, true)
        }
    };
    hooks::wait_for_all();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            tracing::error!(godebug_session = id.as_str(), "session {id} is not revoked: {why}");
            eprintln!("godebug-revoke: session {id}: {why}");
            ExitCode::FAILURE
        }
    }
}

fn named(unit: &str) -> Result<UnitName, String> {
    unit.parse().map_err(|error| format!("{unit}: {error}"))
}

fn run(id: &SessionId, only_if_due: bool) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(revoke(id, only_if_due))
}

async fn revoke(id: &SessionId, only_if_due: bool) -> Result<(), String> {
    let Some(ledger) = Ledger::open(id).map_err(|error| error.to_string())? else {
        return Ok(()); // somebody was quicker
    };
    let due = is_due(&ledger);
    let host = RealHost::direct().await;
    match due {
        Err(error @ LedgerFileError::Content { .. }) => {
            tracing::error!("session {id} is revoked by its name: {error}");
            return revoke_by_name(&host, id).await;
        }
        Err(error) => return Err(error.to_string()),
        Ok(false) if only_if_due => return Ok(()),
        Ok(_) => {}
    }
    let reason = if only_if_due { CloseReason::Expired } else { CloseReason::Stopped };
    let end = engine::close(&host, &ledger, reason, "revoked without godebugd")
        .await
        .map_err(|error| error.to_string())?;
    match end {
        Some(end) if !end.is_clean() => Err(end.stuck.join("; ")),
        _ => Ok(()),
    }
}

/// Whether the end has come. An extended session has another dead man, for its later end.
fn is_due(ledger: &Ledger) -> Result<bool, LedgerFileError> {
    let replay = ledger.without_lock().replay()?;
    let deadline = replay.and_then(|replay| replay.deadline);
    Ok(deadline.is_none_or(|deadline| deadline.has_passed(clock::now())))
}
