//! Asks the session's gateway to close every client's connection, which dlv needs before anything
//! else: with a DAP client connected and the target running, it never gets to a halt.

use godebug_api::control::{LONGEST_LINE, Reply, Request};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

/// What became of the clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Clients {
    /// All are cut off; this many connections there had been in the whole session.
    Cut { ever: u64 },
    /// There is no gateway: it has ended and its connections with it, or was never told of.
    NoGateway,
    /// It is there and did not do it.
    NotCut(String),
}

/// Cuts the clients off. Returns when the gateway has closed its last connection to dlv.
pub(crate) fn cut(control: Option<&Path>, by: Instant) -> Clients {
    let Some(control) = control else { return Clients::NoGateway };
    match ask(control, by) {
        Ok(ever) => Clients::Cut { ever },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Clients::NoGateway,
            _ => Clients::NotCut(error.to_string()),
        },
    }
}

fn ask(control: &Path, by: Instant) -> io::Result<u64> {
    let stream = UnixStream::connect(control)?;
    let mut talk = Talk { reader: BufReader::new(stream.try_clone()?), writer: stream, by };
    talk.ask(&Request::Cut)?;
    // After the cut: a client that came before it is counted now.
    match talk.ask(&Request::Status)? {
        Reply::Status { accepted, .. } => Ok(accepted),
        _ => Ok(u64::MAX),
    }
}

struct Talk {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    by: Instant,
}

impl Talk {
    fn ask(&mut self, request: &Request) -> io::Result<Reply> {
        let left = self.by.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.writer.set_write_timeout(Some(left))?;
        self.writer.set_read_timeout(Some(left))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.writer.write_all(&line)?;
        let mut answer = String::new();
        let bound = u64::try_from(LONGEST_LINE).unwrap_or(u64::MAX);
        self.reader.by_ref().take(bound).read_line(&mut answer)?;
        match serde_json::from_str(&answer)? {
            Reply::Refused { why } => Err(io::Error::other(why)),
            reply => Ok(reply),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    #[test]
    fn a_gateway_that_is_gone_has_no_clients() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        assert_eq!(cut(None, soon()), Clients::NoGateway);
        assert_eq!(cut(Some(&path), soon()), Clients::NoGateway);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(cut(Some(&path), soon()), Clients::NoGateway);
    }

    #[test]
    fn a_gateway_that_is_silent_is_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(matches!(cut(Some(&path), soon()), Clients::NotCut(_)));
    }

    #[test]
    fn a_gateway_that_answers_has_cut_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "{\"request\":\"cut\"}");
            stream.write_all(b"{\"reply\":\"done\"}\n").unwrap();
            lines.next().unwrap().unwrap();
            let status = b"{\"reply\":\"status\",\"clients\":[],\"accepted\":3,\"refused\":0,\
                \"bytes_in\":0,\"bytes_out\":0,\"cut\":true}\n";
            stream.write_all(status).unwrap();
        });
        assert_eq!(cut(Some(&path), soon()), Clients::Cut { ever: 3 });
        server.join().unwrap();
    }
}
