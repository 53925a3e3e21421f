//! The sessions' transcripts: godebugd makes the file, the gateway, which may open none, appends to it,
//! and at the end its last line goes into the audit record, so that both hang together.

use crate::paths;
use godebug_api::SessionId;
use godebug_api::documents::{TranscriptEnd, TranscriptPage};
use godebug_core::chain::Head;
use serde::Deserialize;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// No line is longer, in bytes: the longest subject of an operation with all escapes fits.
const LONGEST_LINE: u64 = 64 << 10;

/// What one answer has at most, in bytes of the file.
const LONGEST_PAGE: u64 = 256 << 10;

/// Where a session's transcript is.
pub fn path(id: &SessionId) -> PathBuf {
    Path::new(paths::TRANSCRIPTS).join(format!("{id}.jsonl"))
}

/// Makes the transcript of a new session, for appending, and readable by root alone.
///
/// # Errors
/// When the disk does not take it, or one of that name is there.
pub fn create(id: &SessionId) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(paths::TRANSCRIPTS)?;
    let mut options = File::options();
    options.append(true).create_new(true).mode(0o600);
    options.open(path(id))
}

/// What the last line of a session's transcript says; `None` when there is none that is whole.
pub fn end(id: &SessionId) -> Option<TranscriptEnd> {
    let mut file = File::open(path(id)).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST_LINE))).ok()?;
    let mut tail = Vec::new();
    file.take(LONGEST_LINE).read_to_end(&mut tail).ok()?;
    end_of(&tail)
}

/// The lines of a session's transcript from this byte on, as many as one answer may have. None when
/// there is no transcript.
///
/// # Errors
/// When it is there and cannot be read.
pub fn page(id: &SessionId, from: u64) -> io::Result<TranscriptPage> {
    let mut file = match File::open(path(id)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(TranscriptPage { lines: Vec::new(), next: from });
        }
        file => file?,
    };
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(LONGEST_PAGE).read_to_end(&mut text)?;
    Ok(page_of(&text, from))
}

fn page_of(text: &[u8], from: u64) -> TranscriptPage {
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let lines = String::from_utf8_lossy(&text[..whole]).lines().map(str::to_owned).collect();
    TranscriptPage { lines, next: from + whole as u64 }
}

fn end_of(tail: &[u8]) -> Option<TranscriptEnd> {
    // What a gateway that was killed has left of a line is no line.
    let whole = &tail[..tail.iter().rposition(|byte| *byte == b'\n')?];
    let line = whole.rsplit(|byte| *byte == b'\n').next()?;
    let head = Head::of(line)?;
    let last: Last = serde_json::from_slice(line).ok()?;
    let figures = (last.event == "ended").then_some(last);
    Some(TranscriptEnd {
        lines: head.seq,
        hash: head.hash.to_string(),
        stood_ms: figures.as_ref().and_then(|last| last.stood_ms),
        longest_stop_ms: figures.as_ref().and_then(|last| last.longest_stop_ms),
        let_go: figures.as_ref().and_then(|last| last.let_go),
    })
}

#[derive(Deserialize)]
struct Last {
    event: String,
    stood_ms: Option<u64>,
    longest_stop_ms: Option<u64>,
    let_go: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use godebug_api::Now;
    use godebug_core::chain::{Circumstances, Stamp};

    fn lines(documents: &[&str]) -> Vec<u8> {
        let now = Now { wall_ms: 1, boot_ms: 1 };
        let stamp = Stamp { host: "h".to_owned(), boot: "b".to_owned(), now };
        let mut head = Head::START;
        let mut text = Vec::new();
        for document in documents {
            let sealed = head.seal(document.as_bytes(), &stamp, Circumstances::default()).unwrap();
            text.extend(sealed.0);
            text.push(b'\n');
            head = sealed.1;
        }
        text
    }

    #[test]
    fn a_page_has_whole_lines_and_the_next_one_goes_on_there() {
        let page = page_of(b"{1}\n{2}\n{3", 10);
        assert_eq!((page.lines, page.next), (vec!["{1}".to_owned(), "{2}".to_owned()], 18));
        assert_eq!(page_of(b"", 7).next, 7);
    }

    #[test]
    fn the_last_whole_line_tells() {
        let ended = r#"{"event":"ended","why":"w","stood_ms":7,"longest_stop_ms":5,"let_go":1}"#;
        let text = lines(&[r#"{"event":"begun"}"#, ended]);
        let end = end_of(&text).unwrap();
        assert_eq!((end.lines, end.stood_ms, end.longest_stop_ms), (2, Some(7), Some(5)));
        // The gateway was killed while it wrote the last line.
        let end = end_of(&text[..text.len() - 5]).unwrap();
        assert_eq!((end.lines, end.stood_ms), (1, None));
        assert_eq!(end_of(b""), None);
        assert_eq!(end_of(b"{\"event\":\"ended\"}\n"), None, "it is of no chain");
    }
}
