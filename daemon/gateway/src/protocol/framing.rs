//! Cuts messages out of a byte stream, whatever the pieces it comes in. Strict: what dlv would read
//! in another way than we do must not pass, so anything unusual is an error.

use super::Protocol;

/// The longest message from a client, in bytes. The largest real ones are lists of breakpoints.
pub(crate) const LONGEST_REQUEST: usize = 1 << 20;
/// The longest message from dlv, in bytes: the functions or types of a large program.
pub(crate) const LONGEST_ANSWER: usize = 32 << 20;

const HEADER: &[u8] = b"Content-Length: ";
const HEADER_END: &[u8] = b"\r\n\r\n";
/// More digits than the longest message needs.
const MOST_DIGITS: usize = 8;

/// What is wrong with a stream. Nothing after it can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FramingError {
    #[error("a message does not begin with `Content-Length: NUMBER` and an empty line")]
    Header,
    #[error("a message is longer than {0} bytes")]
    TooLong(usize),
    #[error("a message is no JSON object")]
    NotAnObject,
}

/// The state of one stream.
#[derive(Debug)]
pub(crate) struct Framing {
    protocol: Protocol,
    longest: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were taken out already.
    taken: usize,
    scan: Scan,
    passing: Option<Passing>,
}

/// A message that is handed on in pieces, before its end is there.
#[derive(Debug, Clone, Copy)]
struct Passing {
    /// What was handed on of it.
    passed: usize,
    /// What is still to come, where a header has told.
    left: Option<usize>,
}

/// A part of such a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) is_last: bool,
}

/// How far a JSON-RPC message, which nothing announces the length of, was looked through.
#[derive(Debug, Default, Clone, Copy)]
struct Scan {
    at: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Framing {
    pub(crate) fn new(protocol: Protocol, longest: usize) -> Self {
        Self {
            protocol,
            longest,
            buffer: Vec::new(),
            taken: 0,
            scan: Scan::default(),
            passing: None,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // One long message must not keep its memory for the rest of the session.
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(64 << 10);
        } else if self.taken > 0 {
            self.buffer.drain(..self.taken);
        }
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message: as it came, and where its JSON begins in it.
    ///
    /// # Errors
    /// When the stream is not what the protocol allows; it stays so.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, FramingError> {
        let found = match self.protocol {
            Protocol::Dap => self.next_dap()?,
            Protocol::JsonRpc => self.next_rpc()?,
        };
        Ok(found.map(|(start, body, end)| Frame {
            whole: &self.buffer[start..end],
            body: &self.buffer[body..end],
        }))
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.passing.is_some()
    }

    /// What is there of a message that is not whole, without its header.
    pub(crate) fn beginning(&self) -> &[u8] {
        let rest = &self.buffer[self.taken..];
        match (self.protocol, dap_header(rest)) {
            (Protocol::Dap, Ok(Some((header, _)))) => &rest[header..],
            (Protocol::Dap, _) => &[],
            (Protocol::JsonRpc, _) => rest,
        }
    }

    /// Hands on what is there of the message that is not whole, as it came; the rest of it comes out of
    /// [`Self::passing`]. To be called when there is no whole one.
    pub(crate) fn begin_to_pass(&mut self) -> &[u8] {
        let start = self.taken;
        let there = self.buffer.len() - start;
        let left = match (self.protocol, dap_header(&self.buffer[start..])) {
            (Protocol::Dap, Ok(Some((header, length)))) => Some(header + length - there),
            // It has no header yet.
            (Protocol::Dap, _) => return &[],
            // All of it was looked through.
            (Protocol::JsonRpc, _) => None,
        };
        self.scan = Scan::default();
        self.taken = self.buffer.len();
        self.passing = Some(Passing { passed: there, left });
        &self.buffer[start..]
    }

    /// Whether all of these bytes, which come next in the stream, are within a message that is handed
    /// on in pieces, and not its end: then they count as taken, and nothing has to copy them.
    ///
    /// # Errors
    /// When the message is longer than one may be.
    pub(crate) fn passes(&mut self, bytes: &[u8]) -> Result<bool, FramingError> {
        let Some(passing) = &mut self.passing else { return Ok(false) };
        if self.taken < self.buffer.len() {
            return Ok(false);
        }
        let ends = match passing.left {
            Some(left) => left <= bytes.len(),
            None => end_of_line(bytes).is_some(),
        };
        if ends {
            return Ok(false);
        }
        passing.passed += bytes.len();
        passing.left = passing.left.map(|left| left - bytes.len());
        match passing.passed > self.longest {
            true => Err(FramingError::TooLong(self.longest)),
            false => Ok(true),
        }
    }

    /// The next part of a message that is handed on in pieces; `None` when there is no such.
    ///
    /// # Errors
    /// When it is longer than a message may be.
    pub(crate) fn passing(&mut self) -> Result<Option<Piece<'_>>, FramingError> {
        let Some(mut passing) = self.passing else { return Ok(None) };
        let start = self.taken;
        let rest = &self.buffer[start..];
        let end = match passing.left {
            Some(left) => (left <= rest.len()).then_some(left),
            None => end_of_line(rest),
        };
        let length = end.unwrap_or(rest.len());
        passing.passed += length;
        passing.left = passing.left.map(|left| left - length);
        if passing.passed > self.longest {
            return Err(FramingError::TooLong(self.longest));
        }
        self.taken = start + length;
        self.passing = end.is_none().then_some(passing);
        Ok(Some(Piece { bytes: &self.buffer[start..start + length], is_last: end.is_some() }))
    }

    fn next_dap(&mut self) -> Result<Option<(usize, usize, usize)>, FramingError> {
        let Some((header, length)) = dap_header(&self.buffer[self.taken..])? else {
            return Ok(None);
        };
        if length > self.longest {
            return Err(FramingError::TooLong(self.longest));
        }
        let start = self.taken;
        let end = start + header + length;
        if self.buffer.len() < end {
            return Ok(None);
        }
        self.taken = end;
        Ok(Some((start, start + header, end)))
    }

    fn next_rpc(&mut self) -> Result<Option<(usize, usize, usize)>, FramingError> {
        if self.scan.depth == 0 {
            let rest = &self.buffer[self.taken..];
            self.taken += rest.iter().take_while(|byte| is_json_space(**byte)).count();
            match self.buffer.get(self.taken) {
                None => return Ok(None),
                Some(b'{') => {}
                Some(_) => return Err(FramingError::NotAnObject),
            }
        }
        let start = self.taken;
        match self.scan.end_of_object(&self.buffer[start..]) {
            Some(length) if length > self.longest => Err(FramingError::TooLong(self.longest)),
            Some(length) => {
                self.scan = Scan::default();
                self.taken = start + length;
                Ok(Some((start, start, start + length)))
            }
            None if self.buffer.len() - start > self.longest => {
                Err(FramingError::TooLong(self.longest))
            }
            None => Ok(None),
        }
    }
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) whole: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Scan {
    /// Goes on where it has stopped; the length of the object when its end is there. Only braces
    /// and strings are looked at: what is between them is for the JSON parser.
    fn end_of_object(&mut self, bytes: &[u8]) -> Option<usize> {
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match (self.in_string, byte) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (true, b'"') => self.in_string = false,
                (false, b'"') => self.in_string = true,
                (false, b'{' | b'[') => self.depth += 1,
                (false, b'}' | b']') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.at);
                    }
                }
                _ => self.at += self.dull(&bytes[self.at..]),
            }
        }
        None
    }
}

impl Scan {
    /// How many of these bytes can be passed over: most are, and most of those are within strings.
    fn dull(&self, bytes: &[u8]) -> usize {
        let next = match self.in_string {
            true => memchr::memchr2(b'"', b'\\', bytes),
            false => bytes.iter().position(|byte| matches!(byte, b'"' | b'{' | b'[' | b'}' | b']')),
        };
        next.unwrap_or(bytes.len())
    }
}

/// Where a message of dlv's that is handed on in pieces ends. Go's encoder writes each in one line
/// (encoding/json, `Encoder.Encode`), in which strings have their line feeds escaped; nobody reads
/// what is handed on so, and to look for braces took half of the gateway's time for a large answer.
fn end_of_line(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

fn is_json_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The header's length and the body's, when the header is whole. go-dap takes nothing else
/// (base_message.go, `readContentLengthHeader`).
fn dap_header(bytes: &[u8]) -> Result<Option<(usize, usize)>, FramingError> {
    let known = bytes.len().min(HEADER.len());
    if bytes[..known] != HEADER[..known] {
        return Err(FramingError::Header);
    }
    let digits: Vec<u8> = bytes
        .iter()
        .skip(HEADER.len())
        .take(MOST_DIGITS + 1)
        .copied()
        .take_while(u8::is_ascii_digit)
        .collect();
    let after = bytes.get(HEADER.len() + digits.len()..).unwrap_or_default();
    let known = after.len().min(HEADER_END.len());
    if digits.len() > MOST_DIGITS || after[..known] != HEADER_END[..known] {
        return Err(FramingError::Header);
    }
    if known < HEADER_END.len() {
        return Ok(None);
    }
    let length = digits.iter().fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'));
    if digits.is_empty() {
        return Err(FramingError::Header);
    }
    Ok(Some((HEADER.len() + digits.len() + HEADER_END.len(), length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All messages of a stream that comes in pieces of this size, or the error it ends in.
    fn read(protocol: Protocol, bytes: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, FramingError> {
        let mut framing = Framing::new(protocol, 100);
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            framing.push(piece);
            while let Some(frame) = framing.next()? {
                all.push(frame.body.to_vec());
            }
        }
        Ok(all)
    }

    #[test]
    fn messages_are_whole_however_the_stream_is_split() {
        let dap = b"Content-Length: 2\r\n\r\n{}Content-Length: 11\r\n\r\n{\"a\":\"\\\"}\"}";
        let rpc = b"{\"a\":[{\"b\":\"}\\\"{\"}]}\n {} \t{\"c\":1}";
        for piece in 1..=dap.len() {
            let dap = read(Protocol::Dap, dap, piece).unwrap();
            assert_eq!(dap, [&b"{}"[..], b"{\"a\":\"\\\"}\"}"], "in pieces of {piece}");
            let rpc = read(Protocol::JsonRpc, rpc, piece).unwrap();
            assert_eq!(rpc, [&b"{\"a\":[{\"b\":\"}\\\"{\"}]}"[..], b"{}", b"{\"c\":1}"]);
        }
    }

    #[test]
    fn what_dlv_could_read_in_another_way_is_an_error() {
        for bytes in [
            "content-length: 2\r\n\r\n{}",
            "Content-Length:2\r\n\r\n{}",
            "Content-Length: +2\r\n\r\n{}",
            "Content-Length: 2\n\n{}",
            "Content-Length: 2\r\nContent-Type: x\r\n\r\n{}",
            "Content-Length: \r\n\r\n",
            "Content-Length: 000000002\r\n\r\n{}",
            "Content-Length: 2\r\n\r\n{}{}",
            "CCCCCCCC",
        ] {
            let read = read(Protocol::Dap, bytes.as_bytes(), 3);
            assert_eq!(read, Err(FramingError::Header), "{bytes:?}");
        }
        for bytes in ["[]", "1", "\"\"", "null", "{}x", "\u{b}{}", "\0{}"] {
            let read = read(Protocol::JsonRpc, bytes.as_bytes(), 3);
            assert_eq!(read, Err(FramingError::NotAnObject), "{bytes:?}");
        }
    }

    #[test]
    fn a_message_that_is_handed_on_in_pieces_is_the_same_and_so_is_what_follows() {
        let dap = b"Content-Length: 11\r\n\r\n{\"a\":\"\\\"}\"}Content-Length: 2\r\n\r\n{}";
        let rpc = b"{\"a\":[{\"b\":\"}\\\"{\"}]}\n{\"c\":1}";
        for (protocol, stream, first) in
            [(Protocol::Dap, &dap[..], 33), (Protocol::JsonRpc, &rpc[..], 20)]
        {
            for piece in 1..stream.len() {
                let mut framing = Framing::new(protocol, 100);
                let (mut passed, mut others, mut begun) = (Vec::new(), 0, false);
                for bytes in stream.chunks(piece) {
                    if framing.passes(bytes).unwrap() {
                        passed.extend_from_slice(bytes);
                        continue;
                    }
                    framing.push(bytes);
                    while let Some(part) = framing.passing().unwrap() {
                        passed.extend_from_slice(part.bytes);
                        if !part.is_last {
                            break;
                        }
                    }
                    while framing.passing.is_none() && framing.next().unwrap().is_some() {
                        others += 1;
                    }
                    if !begun && others == 0 && framing.passing.is_none() {
                        passed.extend_from_slice(framing.begin_to_pass());
                        begun = framing.passing.is_some();
                    }
                }
                let whole = if begun { first } else { 0 };
                assert_eq!(passed, stream[..whole], "in pieces of {piece}");
                assert_eq!(others + usize::from(begun), 2, "in pieces of {piece}");
            }
        }
    }

    #[test]
    fn long_messages_end_the_stream_before_they_fill_the_memory() {
        let long = FramingError::TooLong(100);
        assert_eq!(read(Protocol::Dap, b"Content-Length: 101\r\n\r\n", 5), Err(long));
        let endless = [&b"{\""[..], &[b'a'; 200]].concat();
        assert_eq!(read(Protocol::JsonRpc, &endless, 7), Err(long));
        let mut framing = Framing::new(Protocol::JsonRpc, 100);
        framing.push(&endless[..50]);
        assert_eq!(framing.next().unwrap().map(|_| ()), None);
        assert_eq!(framing.begin_to_pass().len(), 50);
        assert_eq!(framing.passes(&endless[50..100]), Ok(true));
        assert_eq!(framing.passes(&endless[100..101]), Err(long));
        let whole = [&b"{\""[..], &[b'a'; 100], b"\":1}"].concat();
        assert_eq!(read(Protocol::JsonRpc, &whole, 500), Err(long));
    }
}
