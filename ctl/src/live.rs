//! The line that shows a foreground command at work, and the events that stand above it.

use crate::countdown::in_words;
use crate::output::Output;
use crate::terminal::{BOLD, painted, shortened};
use crate::tunnel::Event;
use godebug_api::{Pid, SessionId};
use std::time::Duration;

/// Longer names are cut, so that the line fits into 80 columns.
const UNIT_COLUMNS: usize = 24;

/// `0000000a shop.service · 29m 41s left · 2 clients · target running`.
pub(crate) fn line(
    id: &SessionId,
    unit: &str,
    left: Option<Duration>,
    clients: usize,
    target: Option<&str>,
) -> String {
    let clients = match clients {
        0 => "no client".to_owned(),
        1 => "1 client".to_owned(),
        many => format!("{many} clients"),
    };
    let unit = shortened(unit, UNIT_COLUMNS);
    let mut line = format!("{} {unit}", painted(BOLD, id.as_str()));
    if let Some(left) = left {
        line.push_str(&format!(" · {} left", in_words(left)));
    }
    line.push_str(&format!(" · {clients}"));
    if let Some(target) = target {
        line.push_str(&format!(" · target {target}"));
    }
    line
}

/// What the target is doing now, as its main thread shows: dlv stops all threads together.
pub(crate) fn target(pid: Pid) -> &'static str {
    // Where /proc hides other users' processes, nothing can be said.
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.ok().and_then(|status| state(&status)).unwrap_or("unknown")
}

/// The third field, after the name in parentheses, which may itself contain any character.
fn state(status: &str) -> Option<&'static str> {
    Some(match status.rsplit_once(')')?.1.trim_start().chars().next()? {
        't' => "stopped by the debugger",
        'T' => "stopped",
        'Z' | 'X' => "has exited",
        _ => "running",
    })
}

/// Says what happened on the local port. Clients that come and go are in the live line already.
pub(crate) fn tell(output: &Output, event: &Event) {
    match event {
        Event::Connected(_) | Event::Left(_) if output.is_lively() => {}
        Event::Connected(peer) => output.note(&format!("client {peer} connected")),
        Event::Left(peer) => output.note(&format!("client {peer} left")),
        Event::Stranger(peer) => output.note(&format!(
            "turned away {peer}: it is no connection of yours (only programs that run as you, on \
             this host, may use the local port)"
        )),
        Event::Failed(trouble) => {
            output.note(&format!(
                "a client could not be served: {trouble}\n  → {}",
                trouble.remedy()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_behind_a_hostile_name() {
        assert_eq!(state("42 (a) R (x) t 1 2 3"), Some("stopped by the debugger"));
        assert_eq!(state("42 (app) S 1 2 3"), Some("running"));
        assert_eq!(state("42 (app) Z 1 2 3"), Some("has exited"));
        assert_eq!(state("nonsense"), None);
        assert_eq!(state(""), None);
    }

    #[test]
    fn the_line_fits_a_terminal() {
        let unit = "x".repeat(200);
        let id: SessionId = "0000000a".parse().unwrap();
        let left = Some(Duration::from_secs(1799));
        let line = line(&id, &unit, left, 12, Some("stopped by the debugger"));
        let plain = crate::terminal::filtered(&line, false);
        assert!(crate::terminal::width(&plain) <= 100, "{plain}");
        assert!(plain.contains("29m 59s left · 12 clients · target stopped by the debugger"));
    }
}
