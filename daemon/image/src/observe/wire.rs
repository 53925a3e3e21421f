//! Messages of the Debug Adapter Protocol, to and from whoever is at the other end of a Unix socket.

use serde_json::{Value, json};
use std::io::{self, BufRead, Write};

/// The gateway and dlv write no longer ones.
const LONGEST_MESSAGE: usize = 64 << 20;
const LONGEST_HEADER: u64 = 4096;

/// The next message; `None` when the other end has closed.
pub(crate) fn read(from: &mut impl BufRead) -> io::Result<Option<Value>> {
    let malformed = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut length = None;
    loop {
        let mut line = String::new();
        if io::Read::take(&mut *from, LONGEST_HEADER).read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let length = length.ok_or_else(|| malformed("a message has no length"))?;
    if length > LONGEST_MESSAGE {
        return Err(malformed("a message is too long"));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let message = serde_json::from_slice(&body).map_err(|error| malformed(&error.to_string()))?;
    Ok(Some(message))
}

pub(crate) fn write(to: &mut impl Write, message: &Value) -> io::Result<()> {
    let body = message.to_string();
    to.write_all(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

/// A client's request, with nothing of it missing.
pub(crate) struct Request {
    pub(crate) seq: u64,
    pub(crate) command: String,
    pub(crate) arguments: Value,
}

impl Request {
    pub(crate) fn of(mut message: Value) -> Option<Self> {
        if message["type"] != "request" {
            return None;
        }
        let seq = message["seq"].as_u64()?;
        let command = message["command"].as_str()?.to_owned();
        Some(Self { seq, command, arguments: message["arguments"].take() })
    }

    pub(crate) fn done(&self, body: Value) -> Value {
        json!({
            "seq": 0, "type": "response", "request_seq": self.seq, "success": true,
            "command": self.command, "body": body,
        })
    }

    pub(crate) fn refused(&self, why: &str) -> Value {
        // The IDE shows what was typed with its error; hovering must not open a dialog.
        let show = self.command != "evaluate" && self.command != "variables";
        let error = json!({ "id": 9500, "format": why, "showUser": show });
        json!({
            "seq": 0, "type": "response", "request_seq": self.seq, "success": false,
            "command": self.command, "message": why, "body": { "error": error },
        })
    }
}

pub(crate) fn event(name: &str, body: Value) -> Value {
    json!({ "seq": 0, "type": "event", "event": name, "body": body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_an_end_is_an_end() {
        let mut bytes = Vec::new();
        let message = event("output", json!({ "output": "ä" }));
        write(&mut bytes, &message).unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).unwrap(), Some(message));
        assert_eq!(read(&mut from).unwrap(), None);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bad in ["\r\n", "Content-Length: x\r\n\r\n", "Content-Length: 99999999999\r\n\r\n"] {
            assert!(read(&mut bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
