//! The end of a log that is not just the last line: what a writer reads when that line is not of the
//! chain, because the log is older than the chain or a crash has torn it.

use super::{Hash, Hasher, Head};

/// A log read from its beginning, line by line.
#[derive(Default)]
pub struct Tail {
    head: Option<Head>,
    foreign: Option<Hasher>,
}

impl Tail {
    /// The next line, without its line break.
    pub fn line(&mut self, line: &[u8]) {
        match Head::of(line) {
            Some(head) => *self = Self { head: Some(head), foreign: None },
            None => add_foreign(&mut self.foreign, line),
        }
    }

    /// The last line of the chain, if it has any, and the hash of what stands after it.
    pub fn end(self) -> (Option<Head>, Option<Hash>) {
        (self.head, self.foreign.map(Hasher::finish))
    }
}

/// Adds a line that is of no chain to a gap.
pub(super) fn add_foreign(gap: &mut Option<Hasher>, line: &[u8]) {
    let hasher = gap.get_or_insert_default();
    hasher.update(line);
    hasher.update(b"\n");
}
