//! What whoever asked is told: a line of JSON each, on standard output, which is the pipe to the
//! client.

use godebug_api::image::{LONGEST_LINE, Line};
use godebug_api::{Code, Refusal};
use std::io::{self, Write};

pub(crate) struct Report {
    out: io::Stdout,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { out: io::stdout() }
    }

    /// # Errors
    /// When nobody reads it.
    pub(crate) fn line(&mut self, line: &Line) -> Result<(), Refusal> {
        let gone =
            |error: io::Error| Refusal::new(Code::Ended, format!("nobody reads: {error}"), "");
        let mut text = serde_json::to_vec(line).map_err(|error| gone(error.into()))?;
        if text.len() >= LONGEST_LINE {
            return Err(Refusal::failed("the answer is longer than anybody reads", "ask for less"));
        }
        text.push(b'\n');
        self.out.write_all(&text).and_then(|()| self.out.flush()).map_err(gone)
    }
}
