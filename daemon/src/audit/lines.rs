//! The audit log line by line: as much of it as there was when the reading began, in little memory
//! however long it is, with the lines counted that cannot be read.

use rustix::fs::{FlockOperation, OFlags};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use godebug_api::SessionId;
use godebug_api::audit::AuditRecord;

/// No record is longer: a proof for every source of the longest request stays below it.
pub(super) const LONGEST: usize = 4 << 20;

/// What of a line is looked at to know whether it is wanted. Every line has all of it.
#[derive(Deserialize)]
pub(super) struct Head<'a> {
    #[serde(borrow)]
    #[serde(rename = "time")]
    _time: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    pub(super) session: Option<SessionId>,
    #[serde(borrow)]
    pub(super) unit: Cow<'a, str>,
    #[serde(rename = "uid")]
    _uid: u32,
    #[serde(borrow, rename = "user")]
    _user: Cow<'a, str>,
    #[serde(borrow, rename = "message")]
    _message: Cow<'a, str>,
    #[serde(default, rename = "details")]
    _details: IgnoredAny,
}

/// A log that can be read from its beginning.
pub(super) struct Log<R>(BufReader<R>);

impl Log<io::Take<File>> {
    /// The log at `path`; `None` when nothing was ever recorded.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match rustix::fs::open(path, flags, rustix::fs::Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Where a record is just being written, the log does not end at the end of a line. Nobody
        // is held up for longer than it takes to look.
        for _ in 0..50 {
            if rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let length = file.metadata()?.len();
        let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
        Ok(Some(Self::new(file.take(length))))
    }
}

impl<R: Read> Log<R> {
    pub(super) fn new(reader: R) -> Self {
        Self(BufReader::with_capacity(64 * 1024, reader))
    }

    /// Shows each record that is `wanted` to `seen`, with the length of its line. Answers how many
    /// lines could not be read.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read(
        mut self,
        wanted: impl Fn(&Head<'_>) -> bool,
        mut seen: impl FnMut(AuditRecord, usize),
    ) -> io::Result<u64> {
        let (mut line, mut damaged) = (Vec::new(), 0);
        while let Some(whole) = self.next_line(&mut line)? {
            let head = if whole { serde_json::from_slice::<Head<'_>>(&line).ok() } else { None };
            let Some(head) = head else {
                damaged += 1;
                continue;
            };
            if !wanted(&head) {
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(record) => seen(record, line.len()),
                Err(_) => damaged += 1,
            }
        }
        Ok(damaged)
    }

    /// Shows each line that is `wanted`, for whatever that says, to `seen`, as it stands there.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn read_lines<T>(
        mut self,
        wanted: impl Fn(&Head<'_>) -> Option<T>,
        mut seen: impl FnMut(T, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut line = Vec::new();
        while let Some(whole) = self.next_line(&mut line)? {
            let head = if whole { serde_json::from_slice::<Head<'_>>(&line).ok() } else { None };
            if let Some(found) = head.and_then(|head| wanted(&head)) {
                seen(found, &line)?;
            }
        }
        Ok(())
    }

    /// Puts the next line into `line`, without its end. `Some(false)`: it was torn, or too long and
    /// passed over; `None`: there is none.
    fn next_line(&mut self, line: &mut Vec<u8>) -> io::Result<Option<bool>> {
        line.clear();
        let mut length = 0;
        loop {
            let chunk = match self.0.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                return Ok((length > 0).then_some(false));
            }
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            length += part.len();
            if length <= LONGEST {
                line.extend_from_slice(part);
            }
            let used = part.len() + usize::from(end.is_some());
            self.0.consume(used);
            if end.is_some() {
                return Ok(Some(length <= LONGEST));
            }
        }
    }
}

/// Puts the next line into `line`, however long it is and whether or not it is torn. `false`: there
/// is none.
pub(super) fn next_whole_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if reader.read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    line.pop_if(|byte| *byte == b'\n');
    Ok(true)
}
