//! Reads a chain and finds the first line that is not as it was written, and what kind of tampering
//! that looks like.

use super::tail::add_foreign;
use super::{Checkpoint, Hash, Hasher, Head, Link, Read, read};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What was done to a log, as far as its lines tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// Bytes of the line were changed.
    Altered,
    /// Lines that stood before this one are gone.
    Removed { missing: u64 },
    /// The line was put in: the chain goes on without it.
    Added,
    /// The line stands before one that was written earlier.
    Swapped,
    /// The line was replaced, and its own hash made anew; the next one still names the old.
    Rewritten,
    /// Two lines follow the same line.
    TwoWriters,
    /// The log ended later than it does.
    TailCut { missing: u64 },
    /// The log hangs together, and is not the one that a checkpoint or the writer has seen.
    Resealed { seq: u64 },
    /// The file begins in the middle of the chain.
    Beheaded,
    /// What stands before the chain's first line is not what stood there when it was begun.
    BeforeTheChain,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered => f.write_str("its bytes were changed"),
            Self::Removed { missing: 0 } => f.write_str("a torn line before it was removed"),
            Self::Removed { missing: 1 } => f.write_str("the line before it was removed"),
            Self::Removed { missing } => write!(f, "{missing} lines before it were removed"),
            Self::Added => f.write_str("it was added: the chain goes on without it"),
            Self::Swapped => f.write_str("lines were swapped: it was written after the next one"),
            Self::Rewritten => f.write_str(
                "it was replaced and given a new hash: the next line names the one that was there",
            ),
            Self::TwoWriters => f.write_str(
                "it and another line follow the same line: two programs wrote without each other's \
                 lock, or one of the two was added",
            ),
            Self::TailCut { missing: 1 } => f.write_str("the line after it was cut off"),
            Self::TailCut { missing } => write!(f, "{missing} lines after it were cut off"),
            Self::Resealed { seq } => write!(
                f,
                "it is whole, but not what record {seq} was: the log was written and sealed anew"
            ),
            Self::Beheaded => {
                f.write_str("the lines before it, the first of the file, were removed")
            }
            Self::BeforeTheChain => {
                f.write_str("the lines before the chain are not those that it was begun after")
            }
        }
    }
}

/// The first bad line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("line {line}: {kind}")]
pub struct Fault {
    /// Counted from 1, in the file that was read last.
    pub line: u64,
    #[serde(flatten)]
    pub kind: Kind,
}

/// What is no break of the chain, and what an auditor wants to know all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Warning {
    /// A crash or a full disk has left a part of a line.
    Torn { line: u64 },
    /// Written without the lock: whoever had it stood still.
    Unlocked { line: u64 },
    /// The wall clock was set back before this line was written.
    ClockSteppedBack { line: u64, by_ms: u64 },
    /// The chain begins in an earlier file.
    BeginsLater { seq: u64 },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { line } => write!(f, "line {line} is torn, as a crash leaves a line"),
            Self::Unlocked { line } => {
                write!(f, "line {line} was written while another writer stood still with the lock")
            }
            Self::ClockSteppedBack { line, by_ms } => write!(
                f,
                "before line {line} the clock was stepped back by {}.{:03} s: the times around it \
                 cannot be relied on",
                by_ms / 1000,
                by_ms % 1000
            ),
            Self::BeginsLater { seq } => {
                write!(f, "it begins with record {seq}; those before are in an earlier file")
            }
        }
    }
}

/// What was read of a chain that holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Lines of the chain.
    pub lines: u64,
    /// Lines from before it was begun: what they said then, they say now, and no more is known.
    pub before_the_chain: u64,
    pub last: Option<Head>,
    /// Checkpoints whose record was read and is the same.
    pub checkpoints: u64,
    /// The first of them.
    pub warnings: Vec<Warning>,
    pub more_warnings: u64,
}

/// As many warnings are kept.
const WARNINGS: usize = 100;

/// Reads a chain line by line, over one file or several that follow each other.
#[derive(Default)]
pub struct Verifier {
    /// What is known of the chain from elsewhere: number and hash.
    known: BTreeMap<u64, Hash>,
    checked: Checked,
    line: u64,
    before: Option<Head>,
    last: Option<Last>,
    foreign: Option<Foreign>,
    jumped: Option<Jump>,
}

/// The last line of the chain that was read.
struct Last {
    line: u64,
    head: Head,
    unlocked: bool,
    boot: String,
    wall_ms: u64,
    boot_ms: u64,
}

/// Lines that are of no chain, after the last one that is.
struct Foreign {
    line: u64,
    count: u64,
    hash: Option<Hasher>,
    /// One of them is a document, which no crash leaves.
    document: bool,
}

/// A number came too early; the next line tells whether the missing ones are gone or come later.
struct Jump {
    line: u64,
    after: u64,
    seq: u64,
}

impl Verifier {
    /// One that compares with these checkpoints, whose signatures were looked at.
    pub fn new<'a>(checkpoints: impl IntoIterator<Item = &'a Checkpoint>) -> Self {
        let known = checkpoints.into_iter().map(|checkpoint| (checkpoint.seq, checkpoint.hash));
        Self { known: known.collect(), ..Self::default() }
    }

    /// The next line, without its line break.
    ///
    /// # Errors
    /// The first fault; nothing after it is looked at.
    pub fn line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.line += 1;
        let read = read(line);
        if let Some(jump) = self.jumped.take() {
            return Err(jump.explained_by(&read));
        }
        match read {
            Read::Whole(link) => self.link(&link),
            Read::Altered => Err(self.fault(Kind::Altered)),
            Read::Foreign => {
                self.foreign(line);
                Ok(())
            }
        }
    }

    /// The file ends; the next line is the first of the one that was begun after it.
    ///
    /// # Errors
    /// A fault at its end.
    pub fn next_file(&mut self) -> Result<(), Fault> {
        self.end_of_file()?;
        self.line = 0;
        Ok(())
    }

    /// All was read. `head` is where the writer remembers to have ended.
    ///
    /// # Errors
    /// A fault at the end.
    pub fn end(mut self, head: Option<Head>) -> Result<Checked, Fault> {
        if let (Some(head), Some(foreign)) = (head, &self.foreign)
            && self.last.as_ref().map_or(0, |last| last.head.seq) + foreign.count == head.seq
        {
            // As many lines were written as there are, and these are not lines any more.
            return Err(Fault { line: foreign.line, kind: Kind::Altered });
        }
        self.end_of_file()?;
        let (seq, line) = self.last.as_ref().map_or((0, 0), |last| (last.head.seq, last.line));
        if let Some(head) = head
            && head.seq == seq
            && self.last.as_ref().is_some_and(|last| last.head.hash != head.hash)
        {
            return Err(Fault { line, kind: Kind::Resealed { seq } });
        }
        let later = self.known.last_key_value().map(|(seq, _)| *seq);
        let longest = later.max(head.map(|head| head.seq)).unwrap_or(0);
        if longest > seq {
            return Err(Fault { line, kind: Kind::TailCut { missing: longest - seq } });
        }
        self.checked.last = self.last.map(|last| last.head);
        Ok(self.checked)
    }

    fn fault(&self, kind: Kind) -> Fault {
        Fault { line: self.line, kind }
    }

    fn warn(&mut self, warning: Warning) {
        if self.checked.warnings.len() < WARNINGS {
            self.checked.warnings.push(warning);
        } else {
            self.checked.more_warnings += 1;
        }
    }

    fn foreign(&mut self, line: &[u8]) {
        let foreign = self.foreign.get_or_insert(Foreign {
            line: self.line,
            count: 0,
            hash: None,
            document: false,
        });
        foreign.count += 1;
        foreign.document |= serde_json::from_slice::<IgnoredAny>(line).is_ok();
        add_foreign(&mut foreign.hash, line);
    }

    fn end_of_file(&mut self) -> Result<(), Fault> {
        if let Some(jump) = self.jumped.take() {
            return Err(jump.explained_by(&Read::Foreign));
        }
        match self.foreign.take() {
            // A log that has no chain at all.
            Some(foreign) if self.last.is_none() => self.checked.before_the_chain += foreign.count,
            Some(foreign) if foreign.document => {
                return Err(Fault { line: foreign.line, kind: Kind::Added });
            }
            Some(foreign) => self.warn(Warning::Torn { line: foreign.line }),
            None => {}
        }
        Ok(())
    }

    fn link(&mut self, link: &Link<'_>) -> Result<(), Fault> {
        let head = link.head();
        self.gap(link)?;
        if self.jumped.is_some() {
            return Ok(());
        }
        if let Some(last) = &self.last {
            let beside = last.head.seq == head.seq;
            if beside && last.head == head {
                return Err(self.fault(Kind::Added));
            }
            if beside && self.before.is_some_and(|before| before.hash == link.prev) {
                if !last.unlocked && !link.unlocked {
                    return Err(self.fault(Kind::TwoWriters));
                }
            } else if head.seq <= last.head.seq {
                return Err(self.fault(Kind::Added));
            } else if head.seq > last.head.seq + 1 {
                let (line, after) = (self.line, last.head.seq);
                self.jumped = Some(Jump { line, after, seq: head.seq });
                return Ok(());
            } else if last.head.hash != link.prev {
                return Err(Fault { line: last.line, kind: Kind::Rewritten });
            } else {
                self.before = Some(last.head);
            }
        } else if head.seq > 1 && !link.continues {
            return Err(self.fault(Kind::Beheaded));
        } else if head.seq > 1 {
            self.warn(Warning::BeginsLater { seq: head.seq });
        } else if link.prev != Hash::NONE {
            return Err(self.fault(Kind::BeforeTheChain));
        }
        self.known(head)?;
        self.remember(link, head);
        Ok(())
    }

    /// What stands between the last line and this one.
    fn gap(&mut self, link: &Link<'_>) -> Result<(), Fault> {
        let Some(mut foreign) = self.foreign.take() else {
            return match (link.gap, &self.last) {
                (None, _) => Ok(()),
                (Some(_), None) if link.seq == 1 => Err(self.fault(Kind::BeforeTheChain)),
                (Some(_), _) => Err(self.fault(Kind::Removed { missing: 0 })),
            };
        };
        let told = link.gap.is_some() && link.gap == foreign.hash.take().map(Hasher::finish);
        if told && self.last.is_none() {
            self.checked.before_the_chain += foreign.count;
            return Ok(());
        }
        if told && !foreign.document {
            self.warn(Warning::Torn { line: foreign.line });
            return Ok(());
        }
        let last = self.last.as_ref().map_or(0, |last| last.head.seq);
        let kind = match &self.last {
            // As many numbers are missing as there are lines that are none: these were they.
            _ if link.seq == last + 1 + foreign.count => Kind::Altered,
            Some(_) => Kind::Added,
            None => Kind::BeforeTheChain,
        };
        Err(Fault { line: foreign.line, kind })
    }

    fn known(&mut self, head: Head) -> Result<(), Fault> {
        match self.known.get(&head.seq) {
            Some(hash) if *hash != head.hash => {
                return Err(self.fault(Kind::Resealed { seq: head.seq }));
            }
            Some(_) => self.checked.checkpoints += 1,
            None => {}
        }
        Ok(())
    }

    fn remember(&mut self, link: &Link<'_>, head: Head) {
        self.checked.lines += 1;
        if link.unlocked {
            self.warn(Warning::Unlocked { line: self.line });
        }
        if let Some(by_ms) = self.last.as_ref().and_then(|last| last.stepped_back(link)) {
            self.warn(Warning::ClockSteppedBack { line: self.line, by_ms });
        }
        let mut boot = self.last.take().map(|last| last.boot).unwrap_or_default();
        if boot != link.boot {
            link.boot.as_ref().clone_into(&mut boot);
        }
        self.last = Some(Last {
            line: self.line,
            head,
            unlocked: link.unlocked,
            boot,
            wall_ms: link.wall_ms,
            boot_ms: link.boot_ms,
        });
    }
}

impl Last {
    /// By how much the wall clock was set back between this line and the next, if that cannot be
    /// the slow correction that every host does.
    fn stepped_back(&self, next: &Link<'_>) -> Option<u64> {
        const TOLERATED_MS: u64 = 1000;
        if self.boot != next.boot {
            return self.wall_ms.checked_sub(next.wall_ms).filter(|by| *by > TOLERATED_MS);
        }
        let passed = next.boot_ms.saturating_sub(self.boot_ms);
        let expected = self.wall_ms.saturating_add(passed);
        // The kernel slews a clock by at most 500 millionths.
        expected.checked_sub(next.wall_ms).filter(|by| *by > TOLERATED_MS + passed / 1000)
    }
}

impl Jump {
    fn explained_by(&self, next: &Read<'_>) -> Fault {
        let kind = match next {
            Read::Whole(link) if link.seq > self.after && link.seq < self.seq => Kind::Swapped,
            _ => Kind::Removed { missing: self.seq - self.after - 1 },
        };
        Fault { line: self.line, kind }
    }
}

/// Reads a whole chain.
///
/// # Errors
/// The first fault.
pub fn verify<'a>(
    lines: impl IntoIterator<Item = &'a [u8]>,
    checkpoints: &[Checkpoint],
    head: Option<Head>,
) -> Result<Checked, Fault> {
    let mut verifier = Verifier::new(checkpoints);
    for line in lines {
        verifier.line(line)?;
    }
    verifier.end(head)
}
