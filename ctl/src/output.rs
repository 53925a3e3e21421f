//! What godebugctl prints and where: documents and results on standard output, everything else on
//! standard error.
//!
//! Nothing here panics when a terminal or a pipe is gone: a session has to be ended in order even
//! when nobody can read about it any more.

use crate::terminal::{self, filtered, painted, safe_json};
use godebug_api::{Code, Refusal};
use serde::Serialize;
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

/// The two streams, and how they are to be used.
pub(crate) struct Output {
    json: bool,
    /// Whether the one JSON document has been printed.
    documented: Cell<bool>,
    colours_out: bool,
    colours_err: bool,
    /// Whether a live line can be redrawn on standard error.
    lively: Cell<bool>,
    /// Whether one stands there now.
    live: Cell<bool>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let colours = !dumb && !set("NO_COLOR");
        Self {
            json,
            documented: Cell::new(false),
            colours_out: colours && io::stdout().is_terminal(),
            colours_err: colours && io::stderr().is_terminal(),
            lively: Cell::new(!dumb && io::stderr().is_terminal()),
            live: Cell::new(false),
        }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether somebody watches standard error as it happens.
    pub(crate) fn is_lively(&self) -> bool {
        self.lively.get()
    }

    /// The terminal is another program's from now on: no live line.
    pub(crate) fn hush(&self) {
        self.clear();
        self.lively.set(false);
    }

    /// A result: `human` as text, or `document` as JSON.
    pub(crate) fn result<T: Serialize>(&self, document: &T, human: &str) -> Result<(), Refusal> {
        if self.json {
            return self.document(document);
        }
        self.text(human);
        Ok(())
    }

    /// The one JSON document.
    pub(crate) fn document<T: Serialize>(&self, document: &T) -> Result<(), Refusal> {
        let text = serde_json::to_string(document).map_err(|error| {
            Refusal::failed(
                format!("the answer cannot be written as JSON: {error}"),
                "report this as a bug",
            )
        })?;
        self.documented.set(true);
        self.raw(&format!("{}\n", safe_json(&text)))
    }

    /// Text that a program will read from standard output, exactly as it is.
    ///
    /// # Errors
    /// When it did not get there whole.
    pub(crate) fn raw(&self, text: &str) -> Result<(), Refusal> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            Refusal::failed(format!("standard output cannot be written: {error}"), "")
        })
    }

    /// Text for a person: on standard output, or beside it when a document stands there.
    ///
    /// A reader who has gone away (`| head`) is no failure of what was done.
    pub(crate) fn text(&self, text: &str) {
        if self.json {
            return self.note(text);
        }
        self.clear();
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{}", filtered(text.trim_end(), self.colours_out));
        let _ = out.flush();
    }

    /// Text for a person on standard error.
    pub(crate) fn note(&self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr().lock(), "{}", filtered(text.trim_end(), self.colours_err));
    }

    /// Text for a person on standard error, who goes on writing in the same line.
    pub(crate) fn question(&self, text: &str) {
        self.clear();
        let mut err = io::stderr().lock();
        let _ = write!(err, "{}", filtered(text, self.colours_err));
        let _ = err.flush();
    }

    /// Redraws the live line, if there can be one.
    pub(crate) fn live(&self, line: &str) {
        if !self.lively.get() {
            return;
        }
        self.live.set(true);
        // Without automatic margins, a line that is too long is cut and does not scroll the screen.
        let line = filtered(line, self.colours_err);
        let mut err = io::stderr().lock();
        let _ = write!(err, "\r\u{1b}[K\u{1b}[?7l{line}\u{1b}[?7h");
        let _ = err.flush();
    }

    /// Takes the live line away.
    pub(crate) fn clear(&self) {
        if self.live.replace(false) {
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r\u{1b}[K");
            let _ = err.flush();
        }
    }

    /// Tells a refusal, and gives its exit status.
    pub(crate) fn refusal(&self, refusal: &Refusal) -> u8 {
        self.note(&in_words(refusal));
        if self.json && !self.documented.get() {
            // The exit status tells of the failure even if this cannot be written.
            let _ = self.document(&serde_json::json!({ "error": refusal }));
        }
        refusal.code.exit_status()
    }
}

/// A refusal as a person reads it.
fn in_words(refusal: &Refusal) -> String {
    let mut text = format!("{} {}", painted(terminal::RED, "error:"), refusal.message);
    for line in refusal.remedy.lines() {
        text.push_str("\n  → ");
        text.push_str(line);
    }
    text
}

/// The end of a session that nobody here asked for.
pub(crate) fn ended_early(message: impl Into<String>, remedy: impl Into<String>) -> Refusal {
    Refusal::new(Code::Ended, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_what_and_what_to_do() {
        let text = in_words(&Refusal::host("No.", "do this\nor that"));
        assert_eq!(filtered(&text, false), "error: No.\n  → do this\n  → or that");
    }

    #[test]
    fn a_refusal_in_json_has_code_message_and_remedy() {
        let document = serde_json::json!({ "error": Refusal::target("No.", "") });
        let expected = r#"{"error":{"code":"target","message":"No.","remedy":""}}"#;
        assert_eq!(document.to_string(), expected);
    }
}
