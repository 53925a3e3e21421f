//! The Debug Adapter Protocol's messages, as far as the gateway reads and writes them.

use super::strict;
use serde_json::{Map, Value, json};

/// A client's request.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) seq: Value,
    pub(crate) command: String,
    pub(crate) arguments: Map<String, Value>,
}

/// Reads a client's message.
///
/// # Errors
/// When it is no request, or can be read in more than one way.
pub(crate) fn request(body: &[u8]) -> Result<Request, String> {
    let fields = strict::object(body)?;
    if strict::text(&fields, "type")? != Some("request") {
        return Err("it is no request".to_owned());
    }
    let seq = match strict::field(&fields, "seq") {
        Some(seq) if seq.is_u64() => seq.clone(),
        _ => return Err("its `seq` is no number".to_owned()),
    };
    let command = strict::text(&fields, "command")?.ok_or("it has no `command`")?.to_owned();
    let arguments = match strict::field(&fields, "arguments") {
        None | Some(Value::Null) => Map::new(),
        // Lua's encoder writes an empty table so (nvim-dap); nothing can hide in it.
        Some(Value::Array(list)) if list.is_empty() => Map::new(),
        Some(Value::Object(arguments)) => arguments.clone(),
        Some(_) => return Err("its `arguments` are no object".to_owned()),
    };
    Ok(Request { seq, command, arguments })
}

/// A message with its header.
pub(crate) fn framed(message: &Value) -> Vec<u8> {
    with_header(message.to_string().as_bytes())
}

/// The same for one that is text already.
pub(crate) fn with_header(body: &[u8]) -> Vec<u8> {
    let mut message = format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    message.extend_from_slice(body);
    message
}

impl Request {
    /// The request with other arguments.
    pub(crate) fn with(&self, arguments: Map<String, Value>) -> Vec<u8> {
        framed(&json!({
            "seq": self.seq, "type": "request", "command": self.command, "arguments": arguments,
        }))
    }

    /// The error that the IDE shows for it. dlv, too, numbers none of its messages.
    pub(crate) fn refused(&self, text: &str) -> Vec<u8> {
        // The IDE shows what was typed with its error; hovering must not open a dialog.
        let show = self.command != "evaluate";
        framed(&json!({
            "seq": 0, "type": "response", "request_seq": self.seq, "success": false,
            "command": self.command, "message": text,
            "body": { "error": { "id": 9001, "format": text, "showUser": show } },
        }))
    }
}

/// A line in the IDE's console.
pub(crate) fn console(text: &str) -> Vec<u8> {
    framed(&json!({
        "seq": 0, "type": "event", "event": "output",
        "body": { "category": "important", "output": format!("{text}\n") },
    }))
}

/// Of dlv's message, where its capabilities are: in the answer to `initialize` and in its event.
pub(crate) fn capabilities(body: &[u8]) -> Option<(Value, &'static [&'static str])> {
    // Only these two say it, and parsing every long answer would cost more than all else.
    const LONGEST: usize = 64 << 10;
    let is_one = |name: &str| body.windows(name.len()).any(|part| part == name.as_bytes());
    if body.len() > LONGEST || !(is_one("\"initialize\"") || is_one("\"capabilities\"")) {
        return None;
    }
    let message: Value = serde_json::from_slice(body).ok()?;
    if message["type"] == "response" && message["command"] == "initialize" {
        return Some((message, &["body"]));
    }
    if message["type"] == "event" && message["event"] == "capabilities" {
        return Some((message, &["body", "capabilities"]));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clear_requests_are_read() {
        let read = request(br#"{"seq":3,"type":"request","command":"threads"}"#).unwrap();
        assert_eq!((read.seq, read.command.as_str()), (3.into(), "threads"));
        let empty = br#"{"seq":4,"type":"request","command":"threads","arguments":[]}"#;
        assert!(request(empty).unwrap().arguments.is_empty());
        for text in [
            r#"{"seq":3,"type":"response","command":"threads"}"#,
            r#"{"seq":"3","type":"request","command":"threads"}"#,
            r#"{"seq":3,"type":"request"}"#,
            r#"{"seq":3,"type":"request","command":"threads","arguments":[{}]}"#,
            r#"{"seq":3,"type":"request","command":"threads","Command":"launch"}"#,
            r#"{"type":"request","command":"threads"}"#,
        ] {
            assert!(request(text.as_bytes()).is_err(), "{text}");
        }
    }
}
