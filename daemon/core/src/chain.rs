//! A chain of lines, so that a log cannot be changed unseen: each line ends with its number, its
//! time, and the SHA-256 of the line before and of itself.
//!
//! A writer needs [`Head`] alone: where the chain ends, and the next line for a document. A reader
//! needs [`Verifier`]. Neither opens a file.
//!
//! ```text
//! {"any":"document","chain":{"seq":7,"host":"web1","boot":"…","wall_ms":…,"boot_ms":…,"prev":"…","hash":"…"}}
//! ```
//!
//! `hash` is taken of the line's bytes before `,"hash":`, so the next line's `prev` covers all of it.

mod bundle;
mod checkpoint;
mod hex;
mod tail;
#[cfg(test)]
mod tests;
mod verify;

pub use bundle::{BadBundle, Bundle, BundledSession, VERSION as BUNDLE_VERSION};
pub use checkpoint::{BadCheckpoint, Checkpoint, KeyError, PublicKey, Signature, SigningKey};
pub use tail::Tail;
pub use verify::{Checked, Fault, Kind, Verifier, Warning, verify};

use crate::deadline::Now;
use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

hex::as_text!(Hash, 32, "SHA-256");

impl Hash {
    /// What the first line of a chain has for the one before it.
    pub const NONE: Self = Self([0; 32]);

    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// A SHA-256 of what comes in pieces.
#[derive(Clone)]
pub struct Hasher(digest::Context);

impl Default for Hasher {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn finish(self) -> Hash {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Hash(bytes)
    }
}

/// Where and when a line is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The host's name, for whoever collects logs of several.
    pub host: String,
    /// The kernel's name for this boot.
    pub boot: String,
    pub now: Now,
}

/// Where a chain ends: all that is needed to make its next line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub seq: u64,
    pub hash: Hash,
}

/// What the next line tells of how it came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// The hash of what stands between it and the line before without being of the chain: a log
    /// from before there was a chain, or what a crash left of a line.
    pub gap: Option<Hash>,
    /// It was written without the lock, since whoever had it stood still: another line may come to
    /// stand beside it.
    pub unlocked: bool,
    /// It is the first of a file that was begun after another one: a file that begins with any
    /// other number was beheaded.
    pub continues: bool,
}

/// A document that cannot be a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is to be recorded is no JSON object on one line")]
pub struct NotALine;

const HASH_KEY: &[u8] = b",\"hash\":\"";
const CHAIN_KEY: &[u8] = b"\"chain\":{";
/// `,"hash":"`, 64 digits, `"}}`.
const ENDING: usize = HASH_KEY.len() + 64 + 3;
/// No chain's part of a line is longer, with the longest name of a host and all escapes.
const LONGEST_LINK: usize = 4096;

impl Head {
    /// Of a chain that has no line yet.
    pub const START: Self = Self { seq: 0, hash: Hash::NONE };

    /// Of a chain that ends with this line; `None` when it is no whole line of a chain.
    pub fn of(line: &[u8]) -> Option<Self> {
        match read(line) {
            Read::Whole(link) => Some(link.head()),
            Read::Foreign | Read::Altered => None,
        }
    }

    /// The next line for `document`, without a line break, and the chain's new end.
    ///
    /// # Errors
    /// When the document is no JSON object on one line.
    pub fn seal(
        &self,
        document: &[u8],
        stamp: &Stamp,
        circumstances: Circumstances,
    ) -> Result<(Vec<u8>, Self), NotALine> {
        let inside = document.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}"));
        let inside = inside.filter(|inside| !inside.contains(&b'\n')).ok_or(NotALine)?;
        let link = Link {
            seq: self.seq + 1,
            host: Cow::Borrowed(&stamp.host),
            boot: Cow::Borrowed(&stamp.boot),
            wall_ms: stamp.now.wall_ms,
            boot_ms: stamp.now.boot_ms,
            gap: circumstances.gap,
            unlocked: circumstances.unlocked,
            continues: circumstances.continues,
            prev: self.hash,
            hash: None,
        };
        let mut line = b"{".to_vec();
        line.extend_from_slice(inside);
        if !inside.is_empty() {
            line.push(b',');
        }
        line.extend_from_slice(&CHAIN_KEY[..CHAIN_KEY.len() - 1]);
        serde_json::to_writer(&mut line, &link).map_err(|_| NotALine)?;
        line.pop(); // the link's own brace, until the hash is in
        let hash = Hash::of(&line);
        line.extend_from_slice(HASH_KEY);
        line.extend_from_slice(hash.to_string().as_bytes());
        line.extend_from_slice(b"\"}}");
        Ok((line, Self { seq: link.seq, hash }))
    }
}

/// The chain's part of a line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Link<'a> {
    seq: u64,
    #[serde(borrow)]
    host: Cow<'a, str>,
    #[serde(borrow)]
    boot: Cow<'a, str>,
    wall_ms: u64,
    boot_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gap: Option<Hash>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unlocked: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    continues: bool,
    prev: Hash,
    /// Not there while the line is made, always there when it is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<Hash>,
}

impl Link<'_> {
    fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.unwrap_or(Hash::NONE) }
    }
}

/// What a line is to a chain.
enum Read<'a> {
    /// No line of any chain.
    Foreign,
    /// One whose hash is not its own.
    Altered,
    Whole(Link<'a>),
}

fn read(line: &[u8]) -> Read<'_> {
    let Some(link) = link(line) else { return Read::Foreign };
    match link.hash {
        Some(hash) if Hash::of(&line[..line.len() - ENDING]) == hash => Read::Whole(link),
        _ => Read::Altered,
    }
}

/// The chain's part of a line that has one at its end. It is looked for from the end, where no
/// document's text can imitate it: a quotation mark inside a string is escaped.
fn link(line: &[u8]) -> Option<Link<'_>> {
    let end = line.len().checked_sub(ENDING)?;
    if !line[end..].starts_with(HASH_KEY) || !line.ends_with(b"\"}}") {
        return None;
    }
    let from = end.saturating_sub(LONGEST_LINK);
    let key = line[from..end].windows(CHAIN_KEY.len()).rposition(|at| at == CHAIN_KEY)?;
    let start = from + key + CHAIN_KEY.len() - 1;
    serde_json::from_slice(&line[start..line.len() - 1]).ok()
}
