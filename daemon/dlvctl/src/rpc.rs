//! JSON-RPC 1.0 as dlv speaks it on a Unix socket: one document a line each way, answers matched by
//! number. Every wait has an end, and no answer may grow without bound.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A State with thousands of threads takes a few megabytes.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("dlv did not answer {0} in time")]
    Timeout(&'static str),
    #[error("dlv closed the connection")]
    Closed,
    #[error("the connection to dlv failed: {0}")]
    Io(io::Error),
    #[error("dlv refused {method}: {text}")]
    Refused { method: &'static str, text: String },
    #[error("dlv's answer to {0} is longer than {LONGEST_ANSWER} bytes")]
    TooLong(&'static str),
    #[error("dlv's answer to {0} is not understood: {1}")]
    Malformed(&'static str, serde_json::Error),
}

impl RpcError {
    /// Whether dlv says that its target has ended.
    pub fn target_has_exited(&self) -> bool {
        // "Process 12 has exited with status 0"
        matches!(self, Self::Refused { text, .. } if text.contains("has exited with status"))
    }
}

/// One connection; dlv serves most methods of a connection one after the other.
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    last_number: u64,
}

/// A question that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    number: u64,
    method: &'static str,
}

#[derive(Serialize)]
struct Request<P> {
    method: &'static str,
    params: [P; 1],
    id: u64,
}

#[derive(Deserialize)]
struct Number {
    id: Option<u64>,
    #[serde(rename = "result")]
    _result: IgnoredAny,
}

#[derive(Deserialize)]
struct Answer<T> {
    // Not `default`: an absent result would need T to have one too.
    result: Option<T>,
    error: Option<serde_json::Value>,
}

impl Connection {
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        Ok(Self { stream, received: Vec::new(), last_number: 0 })
    }

    /// Asks and waits for the answer, until `by`.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        method: &'static str,
        params: impl Serialize,
        by: Instant,
    ) -> Result<T, RpcError> {
        let asked = self.ask(method, params, by)?;
        self.answer(asked, by)
    }

    /// Asks; the answer may be waited for later, or never.
    pub fn ask(
        &mut self,
        method: &'static str,
        params: impl Serialize,
        by: Instant,
    ) -> Result<Asked, RpcError> {
        self.last_number += 1;
        let number = self.last_number;
        let request = Request { method, params: [params], id: number };
        let mut line =
            serde_json::to_vec(&request).map_err(|error| RpcError::Malformed(method, error))?;
        line.push(b'\n');
        let timeout = Some(until(by)).filter(|left| !left.is_zero());
        self.stream
            .set_write_timeout(Some(timeout.ok_or(RpcError::Timeout(method))?))
            .and_then(|()| self.stream.write_all(&line))
            .map_err(|error| broken(error, method))?;
        Ok(Asked { number, method })
    }

    /// The answer to `asked`; answers to other questions that come before it are dropped.
    pub fn answer<T: DeserializeOwned>(
        &mut self,
        asked: Asked,
        by: Instant,
    ) -> Result<T, RpcError> {
        let method = asked.method;
        let malformed = |error| RpcError::Malformed(method, error);
        loop {
            let line = self.next_line(method, by)?;
            let number: Number = serde_json::from_slice(&line).map_err(malformed)?;
            if number.id != Some(asked.number) {
                continue;
            }
            let answer: Answer<T> = serde_json::from_slice(&line).map_err(malformed)?;
            return match (answer.error, answer.result) {
                (None, Some(result)) => Ok(result),
                (None, None) => Err(RpcError::Refused { method, text: "no result".to_owned() }),
                (Some(error), _) => {
                    let text = error.as_str().map_or_else(|| error.to_string(), str::to_owned);
                    let text = crate::text::printable(text.as_bytes());
                    Err(RpcError::Refused { method, text })
                }
            };
        }
    }

    /// Waits until dlv closes the connection; `false` if it had not by then.
    pub fn closes(&mut self, by: Instant) -> bool {
        loop {
            match self.next_line("Detach", by) {
                Ok(_) => {}
                Err(RpcError::Closed | RpcError::Io(_)) => return true,
                Err(_) => return false,
            }
        }
    }

    fn next_line(&mut self, method: &'static str, by: Instant) -> Result<Vec<u8>, RpcError> {
        let mut searched = 0;
        loop {
            let found = self.received[searched..].iter().position(|byte| *byte == b'\n');
            if let Some(at) = found {
                let rest = self.received.split_off(searched + at + 1);
                return Ok(std::mem::replace(&mut self.received, rest));
            }
            searched = self.received.len();
            if searched > LONGEST_ANSWER {
                return Err(RpcError::TooLong(method));
            }
            self.receive(method, by)?;
        }
    }

    fn receive(&mut self, method: &'static str, by: Instant) -> Result<(), RpcError> {
        let mut chunk = [0; 16 * 1024];
        let left = until(by);
        if left.is_zero() {
            return Err(RpcError::Timeout(method));
        }
        let read = self.stream.set_read_timeout(Some(left));
        match read.and_then(|()| self.stream.read(&mut chunk)) {
            Ok(0) => Err(RpcError::Closed),
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(broken(error, method)),
        }
    }
}

fn until(by: Instant) -> Duration {
    by.saturating_duration_since(Instant::now())
}

fn broken(error: io::Error, method: &'static str) -> RpcError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, WouldBlock};
    match error.kind() {
        // What a Unix socket's timeout looks like.
        WouldBlock | TimedOut => RpcError::Timeout(method),
        BrokenPipe | ConnectionReset => RpcError::Closed,
        _ => RpcError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection whose other end has already said `text`.
    fn hearing(text: &[u8]) -> (Connection, UnixStream) {
        let (stream, mut other) = UnixStream::pair().unwrap();
        other.write_all(text).unwrap();
        (Connection { stream, received: Vec::new(), last_number: 0 }, other)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[test]
    fn answers_may_come_out_of_order_and_with_more_than_is_needed() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Wanted {
            b: u32,
        }
        let text = b"{\"id\":2,\"result\":[1,{}],\"error\":null}\n{\"id\":1,\"result\":{\"a\":[],\"b\":3},\"error\":null}\n";
        let (mut connection, _other) = hearing(text);
        assert_eq!(connection.call::<Wanted>("X", (), soon()).unwrap(), Wanted { b: 3 });
    }

    #[test]
    fn every_kind_of_failure_is_told_apart() {
        let call = |text: &[u8]| {
            let (mut connection, _other) = hearing(text);
            connection.call::<u32>("X", (), soon()).unwrap_err()
        };
        assert!(matches!(call(b""), RpcError::Timeout("X")));
        assert!(matches!(call(b"{\"id\":1"), RpcError::Timeout("X")));
        assert!(matches!(call(b"nonsense\n"), RpcError::Malformed(..)));
        let gone = call(
            b"{\"id\":1,\"result\":null,\"error\":\"Process 7 has exited with status 0\\u001b[2J\"}\n",
        );
        assert!(gone.target_has_exited() && !gone.to_string().contains('\u{1b}'), "{gone}");
        let (mut connection, other) = hearing(b"");
        drop(other);
        assert!(matches!(connection.call::<u32>("X", (), soon()), Err(RpcError::Closed)));
    }

    #[test]
    fn an_answer_without_end_is_given_up() {
        let (mut connection, mut other) = hearing(b"");
        let writer = std::thread::spawn(move || {
            let chunk = vec![b' '; 1 << 20];
            while other.write_all(&chunk).is_ok() {}
        });
        let by = Instant::now() + Duration::from_secs(20);
        assert!(matches!(connection.call::<u32>("X", (), by), Err(RpcError::TooLong("X"))));
        drop(connection);
        writer.join().unwrap();
    }
}
