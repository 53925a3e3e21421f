//! What whoever asked is told: a line of JSON each, on standard output, which is the pipe to the
//! client. What is shown to them is in the record before.

use crate::record::Record;
use crate::target::Image;
use godebug_api::image::{ImageTask, LONGEST_LINE, Line};
use godebug_api::{Code, Refusal};
use std::io::{self, Write};

pub(crate) struct Report {
    out: io::Stdout,
    record: Option<Record>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { out: io::stdout(), record: None }
    }

    /// From now on what is shown is written down.
    ///
    /// # Errors
    /// When it cannot be.
    pub(crate) fn begin(&mut self, mut record: Record, task: &ImageTask) -> Result<(), Refusal> {
        record.asked(task)?;
        self.record = Some(record);
        Ok(())
    }

    /// An image was taken, at this place or just now.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(crate) fn image(&mut self, image: &Image, place: &str) -> Result<(), Refusal> {
        self.record.as_mut().map_or(Ok(()), |record| record.image(image, place))
    }

    /// # Errors
    /// When that cannot be written down.
    pub(crate) fn end(&mut self, why: &str) -> Result<(), Refusal> {
        self.record.take().map_or(Ok(()), |mut record| record.end(why))
    }

    /// # Errors
    /// When nobody reads it, or it cannot be written down.
    pub(crate) fn line(&mut self, line: &Line) -> Result<(), Refusal> {
        if let (Line::Hit(hit), Some(record)) = (line, self.record.as_mut()) {
            record.hit(hit)?;
        }
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
