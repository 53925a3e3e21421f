//! systemd without the bus: through `systemctl`, which as root speaks to systemd's private socket.
//!
//! What godebug-revoke needs and no more. zbus cannot use that socket itself: systemd signs its
//! messages there with a well-known name, where zbus wants a unique one.

use super::systemd::SystemdError;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;

/// `systemctl stop` of a unit that systemd does not know (systemctl(1), exit status, LSB).
const NOT_LOADED: i32 = 5;

/// Stops a unit and waits until its job is done. A unit that is not there is a success. One that has
/// failed goes by itself: all of a session's have `CollectMode=inactive-or-failed`.
///
/// # Errors
/// When systemd refuses, or after `timeout`.
pub async fn stop(unit: &str, timeout: Duration) -> Result<(), SystemdError> {
    let output = run(&["stop", "--", unit], unit, timeout).await?;
    match output.status.code() {
        Some(0 | NOT_LOADED) => Ok(()),
        _ => Err(refused("to stop", unit, &output)),
    }
}

/// Lets a unit's processes go on that somebody has stopped; best effort.
pub async fn continue_unit(unit: &str) {
    let _ = run(&["kill", "--signal=CONT", "--", unit], unit, Duration::from_secs(5)).await;
}

/// The names of all units that match.
///
/// # Errors
/// When systemd does not answer.
pub async fn matching(pattern: &str) -> Result<Vec<String>, SystemdError> {
    let arguments = ["list-units", "--all", "--plain", "--no-legend", "--", pattern];
    let output = run(&arguments, pattern, Duration::from_secs(10)).await?;
    if !output.status.success() {
        return Err(refused("to list", pattern, &output));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
}

/// The state of a unit, `None` when systemd has no unit of that name in memory.
///
/// # Errors
/// When systemd does not answer.
pub async fn active_state(unit: &str) -> Result<Option<String>, SystemdError> {
    let arguments = ["show", "--property=LoadState", "--property=ActiveState", "--", unit];
    let output = run(&arguments, unit, Duration::from_secs(10)).await?;
    if !output.status.success() {
        return Err(refused("to show", unit, &output));
    }
    Ok(parse_state(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_state(text: &str) -> Option<String> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    match value("LoadState=") {
        Some("not-found") | None => None,
        Some(_) => value("ActiveState=").map(str::to_owned),
    }
}

async fn run(arguments: &[&str], unit: &str, timeout: Duration) -> Result<Output, SystemdError> {
    let child = Command::new("systemctl")
        .args(["--no-ask-password", "--quiet"])
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(timeout, child).await {
        Ok(output) => output.map_err(|error| SystemdError::Unreachable(error.into())),
        Err(_) => Err(SystemdError::TimedOut { unit: unit.to_owned(), after: timeout }),
    }
}

fn refused(what: &str, unit: &str, output: &Output) -> SystemdError {
    let text = String::from_utf8_lossy(&output.stderr);
    SystemdError::Refused {
        what: format!("{what} {unit}"),
        why: text.lines().next().unwrap_or("no reason given").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_is_not_there_has_no_state() {
        assert_eq!(parse_state("LoadState=not-found\nActiveState=inactive\n"), None);
        assert_eq!(parse_state(""), None);
        let there = parse_state("LoadState=loaded\nActiveState=active\n");
        assert_eq!(there.as_deref(), Some("active"));
    }
}
