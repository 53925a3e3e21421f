//! What was done in a session: the transcript's lines for a person, and whether their chain is whole.

use crate::manager::{answer, manager};
use crate::output::Output;
use crate::terminal::{BOLD, GREEN, RED, YELLOW, padded, painted, safe};
use godebug_api::bus::ManagerProxy;
use godebug_api::chain;
use godebug_api::documents::{SessionInfo, TranscriptEnd, TranscriptPage};
use godebug_api::forecast::seconds;
use godebug_api::{Refusal, SessionId};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

/// Between two looks at a session that is being watched.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest operation, so that subjects stand below each other.
const OPERATION_COLUMNS: usize = "breakpoints".len();

/// A session's transcript.
pub(crate) struct Transcript(Vec<String>);

impl Transcript {
    /// All of it.
    ///
    /// # Errors
    /// When the daemon does not give it.
    pub(crate) async fn read(manager: &ManagerProxy<'_>, id: &SessionId) -> Result<Self, Refusal> {
        let (mut lines, mut from) = (Vec::new(), 0);
        loop {
            let page: TranscriptPage = answer(manager.transcript(id.as_str(), from).await)?;
            lines.extend(page.lines);
            if page.next == from {
                return Ok(Self(lines));
            }
            from = page.next;
        }
    }

    /// The lines that can be read, for `--json`.
    pub(crate) fn documents(&self) -> Vec<Value> {
        self.0.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// For a person: what was done, and whether that is all that was written. `end` is what the audit
    /// record says of it.
    pub(crate) fn shown(&self, end: Option<&TranscriptEnd>) -> String {
        if self.0.is_empty() {
            return match end {
                Some(_) => format!(
                    "{} the transcript is gone (they are kept for as long as tmpfiles.d says)\n",
                    painted(RED, "MISSING:")
                ),
                None => String::new(),
            };
        }
        let mut text = format!("\n{}\n", painted(BOLD, "what was done"));
        text.extend(self.0.iter().map(|line| shown(line)));
        text.push_str(&self.verdict(end));
        text
    }

    /// It is checked here and not believed: the chain, and that it ends where the audit record says.
    fn verdict(&self, end: Option<&TranscriptEnd>) -> String {
        let checked = chain::verify(self.0.iter().map(String::as_bytes), &[], None);
        if let Err(fault) = checked {
            return format!("  {} the transcript: {fault}\n", painted(RED, "NOT WHOLE:"));
        }
        let count = self.0.len();
        let last = self.0.last().and_then(|line| chain::Head::of(line.as_bytes()));
        match (end, last) {
            (None, _) => format!("  {count} lines, their chain is whole\n"),
            (Some(end), Some(last))
                if last.seq == end.lines && last.hash.to_string() == end.hash =>
            {
                let whole = painted(GREEN, "whole:");
                format!("  {whole} {count} lines, and the last is the one that the record names\n")
            }
            (Some(_), _) => format!(
                "  {} the transcript does not end with the line that the record names\n",
                painted(RED, "NOT WHOLE:")
            ),
        }
    }
}

/// `watch`: the lines as they come, until the session is over.
///
/// # Errors
/// When the daemon does not give them.
pub(crate) async fn watch(output: &Output, id: &SessionId) -> Result<(), Refusal> {
    let manager = manager().await?;
    let mut from = 0;
    loop {
        // Asked before the lines are: those that it ends with come after.
        let session: SessionInfo = answer(manager.get(id.as_str()).await)?;
        loop {
            let page: TranscriptPage = answer(manager.transcript(id.as_str(), from).await)?;
            for line in &page.lines {
                if output.is_json() {
                    output.raw(&format!("{line}\n"))?;
                } else {
                    output.raw(&shown(line))?;
                }
            }
            if page.next == from {
                break;
            }
            from = page.next;
        }
        if !session.state.is_live() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a line says that is shown. What a later version adds is passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Line {
    time: String,
    event: String,
    client: String,
    name: String,
    watches: bool,
    operation: String,
    subject: String,
    outcome: String,
    why: String,
    mode: String,
    ms: u64,
    left_ms: u64,
    stood_ms: u64,
    longest_stop_ms: u64,
    pause_ms: f64,
    place: String,
    breakpoint: String,
    breakpoints_off: u64,
    breakpoints_cleared: u64,
    variables: Vec<Variable>,
}

/// A variable that somebody was shown, with as much of its value as the host's rule has kept.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Variable {
    name: String,
    value: Option<String>,
    sha256: Option<String>,
}

impl Variable {
    /// As it stands there: not safe for a terminal.
    pub(crate) fn told(&self) -> String {
        let Self { name, value, sha256 } = self;
        match (value, sha256) {
            (Some(value), _) => format!("{name} = {value}"),
            (None, Some(hash)) => format!("{name} (SHA-256 {hash})"),
            (None, None) => name.clone(),
        }
    }
}

/// One line for a person.
fn shown(line: &str) -> String {
    let Ok(line) = serde_json::from_str::<Line>(line) else {
        return format!("  {} a line that cannot be read\n", painted(RED, "DAMAGED:"));
    };
    format!("  {}  {}\n", safe(&line.time), said(&line))
}

fn said(line: &Line) -> String {
    let client = safe(&line.client);
    match line.event.as_str() {
        "begun" => format!("the gateway takes clients, mode {}", safe(&line.mode)),
        "connected" if line.watches => format!("{client} connected, to watch"),
        "connected" => format!("{client} connected"),
        "let-in" if line.watches => format!("{} may come and watch", safe(&line.name)),
        "let-in" => format!("{} may come", safe(&line.name)),
        "withdrawn" => format!("{} may not come any more", safe(&line.name)),
        "disconnected" => {
            format!("{client} left after {}: {}", seconds(line.ms), safe(&line.why))
        }
        "operation" => operation(line),
        "shown" => format!("{client} was shown {}", shown_variables(&line.variables)),
        "stood" => format!("the service stood for {}", seconds(line.ms)),
        "image" if line.place.is_empty() => {
            format!("an image was taken; the service stood for {} ms", line.pause_ms)
        }
        "image" => format!(
            "an image was taken at {}; the service stood for {} ms",
            safe(&line.place),
            line.pause_ms
        ),
        "warned" => format!("the IDE was told that {} are left", seconds(line.left_ms)),
        "let-go" => format!(
            "{} {}; breakpoints turned off: {}",
            painted(YELLOW, "the service was let go:"),
            safe(&line.why),
            line.breakpoints_off
        ),
        "turned-off" => format!(
            "{} {}: {}",
            painted(YELLOW, "a hot breakpoint was turned off:"),
            safe(&line.breakpoint),
            safe(&line.why)
        ),
        "released" => format!(
            "the last client has gone; breakpoints cleared: {}, the service runs",
            line.breakpoints_cleared
        ),
        "ended" => format!(
            "the end: {}; it stood for {} in all, {} at the longest stop",
            safe(&line.why),
            span(line.stood_ms),
            span(line.longest_stop_ms)
        ),
        other => safe(other),
    }
}

/// An image is a matter of milliseconds, a stop of seconds.
fn span(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { seconds(ms) }
}

/// As many as stand on a line.
fn shown_variables(all: &[Variable]) -> String {
    const LONGEST: usize = 300;
    let all: Vec<String> = all.iter().map(Variable::told).collect();
    let text = safe(all.join(", "));
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn operation(line: &Line) -> String {
    let operation = padded(&safe(&line.operation), OPERATION_COLUMNS);
    let subject = safe(&line.subject);
    match line.outcome.as_str() {
        "refused" => {
            let refused = painted(RED, "refused:");
            format!("{operation}  {subject}  {refused} {}", safe(&line.why))
        }
        "changed" => format!("{operation}  {subject}  ({})", safe(&line.why)),
        _ => format!("{operation}  {subject}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::filtered;
    use godebug_api::Now;
    use godebug_api::chain::{Circumstances, Head, Stamp};
    use serde_json::json;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\n\u{202e}b";

    fn transcript(documents: &[Value]) -> (Transcript, TranscriptEnd) {
        let now = Now { wall_ms: 1, boot_ms: 1 };
        let stamp = Stamp { host: "h".to_owned(), boot: "b".to_owned(), now };
        let (mut head, mut lines) = (Head::START, Vec::new());
        for document in documents {
            let text = document.to_string();
            let sealed = head.seal(text.as_bytes(), &stamp, Circumstances::default()).unwrap();
            lines.push(String::from_utf8(sealed.0).unwrap());
            head = sealed.1;
        }
        let (lines_count, hash) = (head.seq, head.hash.to_string());
        let end = TranscriptEnd {
            lines: lines_count,
            hash,
            stood_ms: None,
            longest_stop_ms: None,
            let_go: None,
        };
        (Transcript(lines), end)
    }

    fn all() -> Vec<Value> {
        vec![
            json!({"event": "begun", "mode": "step"}),
            json!({"event": "operation", "operation": "evaluate", "subject": HOSTILE, "outcome": "allowed"}),
            json!({"event": "operation", "operation": "set", "subject": "x", "outcome": "refused", "why": "no"}),
            json!({"event": "shown", "client": "ann", "variables": [{"name": "a", "value": "1"},
                {"name": "b", "sha256": "ba78"}, {"name": HOSTILE}]}),
            json!({"event": "let-go", "why": "it has stood for 30 s", "breakpoints_off": 2}),
            json!({"event": "ended", "why": "over", "stood_ms": 30_000, "longest_stop_ms": 30_000}),
        ]
    }

    #[test]
    fn what_was_done_is_told_one_line_each() {
        let (transcript, end) = transcript(&all());
        let text = filtered(&transcript.shown(Some(&end)), false);
        for part in [
            "refused: no",
            "ann was shown a = 1, b (SHA-256 ba78), a",
            "let go: it has stood for 30 s",
            "30 s in all",
            "whole: 6 lines",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert_eq!(text.lines().count(), 1 + 1 + 6 + 1, "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }

    #[test]
    fn what_was_changed_or_cut_off_is_not_called_whole() {
        let (whole, end) = transcript(&all());
        let mut cut = Transcript(whole.0.clone());
        cut.0.pop();
        assert!(cut.shown(Some(&end)).contains("does not end with"));
        let mut changed = Transcript(whole.0.clone());
        changed.0[2] = changed.0[2].replace("refused", "allowed");
        assert!(changed.shown(Some(&end)).contains("NOT WHOLE"));
        assert!(Transcript(Vec::new()).shown(Some(&end)).contains("MISSING"));
        assert_eq!(Transcript(Vec::new()).shown(None), "");
    }
}
