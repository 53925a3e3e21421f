//! One hook's run, as a unit: through `systemd-run` and `systemctl`, which godebug-revoke has without a bus
//! too. Blocks until the hook has ended.

use super::config::What;
use super::{Event, Hook};
use crate::{child, kept, paths};
use godebug_api::SessionId;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// What systemd itself may take, besides the hook.
const MARGIN: Duration = Duration::from_secs(10);
const WALL: &str = "/usr/bin/wall";
/// How the files begin that hooks read.
const PREFIX: &str = "hook-";

/// Runs a hook to its end, for no longer than its own time and `limit`.
///
/// # Errors
/// What went wrong, for the journal.
pub(super) fn run(
    hook: &Hook,
    (event, limit): (Event, Duration),
    session: &str,
    document: &[u8],
) -> Result<(), String> {
    let timeout = hook.timeout.min(limit);
    let name = name(session, &event.to_string());
    let input = Input::write(&name, document)?;
    match &hook.what {
        What::Program { command, user } => {
            hook.usable()?;
            let whom = match user {
                Some(user) => format!("User={user}"),
                None => "DynamicUser=yes".to_owned(),
            };
            let input = format!("StandardInput=file:{}", input.0.display());
            as_unit(&name, timeout, &[&whom, &input], command)
        }
        What::Template(template) => {
            let unit = template.replace("@.", &format!("@{name}."));
            started(&unit, timeout)
        }
    }
}

/// Tells everybody who is logged in.
///
/// # Errors
/// When there is no wall(1), or it fails.
pub(super) fn wall(session: &str, message: &str) -> Result<(), String> {
    if !Path::new(WALL).exists() {
        return Err(format!("this host has no {WALL}"));
    }
    let words = [WALL, &format!("godebug: {message}")].map(str::to_owned);
    as_unit(&name(session, "wall"), Duration::from_secs(10), &["StandardInput=null"], &words)
}

/// Stops every hook that runs for this event of a session, and waits until it has ended.
///
/// # Errors
/// When systemd does not do it.
pub(super) fn stop(session: &SessionId, event: Event) -> Result<(), String> {
    // By its instance, of which a template's name comes before.
    let units = format!("*@{session}-{event}-*.service");
    let mut command = Command::new("systemctl");
    command.args(["--quiet", "--no-ask-password", "stop", "--", &units]);
    ends_well(command, MARGIN, &units)
}

/// A name that no other run has, beginning with the session, by which its units are known.
fn name(session: &str, what: &str) -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let (process, run) = (std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed));
    format!("{session}-{what}-{process}-{run}")
}

/// The document, where the unit reads it and nobody else can; taken away afterwards.
struct Input(PathBuf);

impl Input {
    fn write(name: &str, document: &[u8]) -> Result<Self, String> {
        let path = Path::new(paths::RUN).join(format!("{PREFIX}{name}.json"));
        kept::write_private(&path, document)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Takes away what hooks of a godebugd that was killed have left.
pub(crate) fn clear_away() {
    for entry in std::fs::read_dir(paths::RUN).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn as_unit(
    name: &str,
    timeout: Duration,
    properties: &[&str],
    words: &[String],
) -> Result<(), String> {
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--collect", "--no-ask-password", "--slice=godebug.slice"]);
    command.arg(format!("--unit=godebug-hook@{name}.service"));
    // A oneshot unit's job is done when its program is.
    command.args(["--property=Type=oneshot", "--property=NoNewPrivileges=yes"]);
    command.arg(format!("--property=TimeoutStartSec={}", timeout.as_secs()));
    // One that is called off has no longer, or who waits for it would wait for more than a minute.
    command.arg("--property=TimeoutStopSec=5");
    command.args(properties.iter().map(|property| format!("--property={property}")));
    command.arg("--").args(words);
    let unit = format!("godebug-hook@{name}.service");
    ends_well(command, timeout + MARGIN, &unit)
}

fn started(unit: &str, timeout: Duration) -> Result<(), String> {
    let mut command = Command::new("systemctl");
    command.args(["--quiet", "--no-ask-password", "start", "--", unit]);
    let done = ends_well(command, timeout, unit);
    if done.is_err() {
        let mut stop = Command::new("systemctl");
        stop.args(["--quiet", "--no-ask-password", "--no-block", "stop", "--", unit]);
        let _ = ends_well(stop, MARGIN, unit);
    }
    done
}

fn ends_well(mut command: Command, timeout: Duration, unit: &str) -> Result<(), String> {
    let child = command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| format!("systemd cannot be asked: {error}"))?;
    let ended = child::ends_within(&mut child, timeout).map_err(|error| error.to_string())?;
    let status = ended.ok_or_else(|| format!("it took longer than {} s", timeout.as_secs()))?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let first = said.lines().next().unwrap_or("it failed");
    Err(format!("{first} (see `journalctl -u {unit}`)"))
}
