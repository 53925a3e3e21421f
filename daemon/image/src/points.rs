//! Fault points, in a test build only (feature `fault-points`): named places where a test has the program
//! killed, stopped, or held while it breaks something else. godebugd's own are named in its `faults`.
//!
//! Nothing happens on a host without [`FOLDER`]. In it every point that is reached is added to
//! `trace`; the one that `arm` names (`PROGRAM/POINT ACTION`) fires once.

use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

pub const FOLDER: &str = "/run/godebug-faults";

/// The program is at this point now. Returns when it may go on.
pub fn reach(point: &str) {
    let folder = Path::new(FOLDER);
    if !folder.exists() {
        return;
    }
    let program = std::env::args_os().next().unwrap_or_default();
    let program = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{program}/{point}");
    trace(folder, &name);
    let Ok(armed) = std::fs::read_to_string(folder.join("arm")) else { return };
    let Some((wanted, action)) = armed.trim_end().rsplit_once(' ') else { return };
    // Whoever renames it is the one that it fires for.
    if wanted != name || std::fs::rename(folder.join("arm"), folder.join("fired")).is_err() {
        return;
    }
    match action {
        "kill" => signal(Signal::KILL),
        "stop" => signal(Signal::STOP),
        _ => hold(&folder.join("go")),
    }
}

fn trace(folder: &Path, name: &str) {
    let now = clock_gettime(ClockId::Realtime);
    let line = format!("{name} {}{:09}\n", now.tv_sec, now.tv_nsec);
    let file = std::fs::File::options().create(true).append(true).open(folder.join("trace"));
    // A trace that cannot be written shows in the test, which misses the point.
    let _ = file.and_then(|mut file| {
        // Programs of other users add to it; only its owner can say so.
        let _ = file.set_permissions(Permissions::from_mode(0o666));
        file.write_all(line.as_bytes())
    });
}

fn signal(signal: Signal) {
    let _ = kill_process(getpid(), signal);
}

/// Blocks the whole program, runtime and all: what is outside changes, what is inside does not.
fn hold(go: &Path) {
    while std::fs::remove_file(go).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}
