//! One image that a client looks at: the dlv that reads it, asked by us in JSON-RPC, and spoken to by the
//! client in its own protocol.

use super::Office;
use super::wire;
use crate::delve::Delve;
use crate::snapshot::{state, worth_seeing};
use crate::target::Image;
use godebug_api::Refusal;
use serde_json::{Value, json};
use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// For dlv to begin, after it has read everything.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct View {
    pub(super) dlv: Delve,
    /// Whoever reached the line, or is worth seeing.
    pub(super) goroutine: i64,
}

impl View {
    /// # Errors
    /// When dlv does not read it.
    pub(super) fn open(office: &Office, folder: &Path, image: &Image) -> Result<Self, Refusal> {
        let mut dlv = office.start(folder).on(&office.target.executable, &image.core)?;
        let current = state(&mut dlv)?.current.map_or(0, |current| current.id);
        let goroutine = if current > 0 { current } else { worth_seeing(&mut dlv)? };
        Ok(Self { dlv, goroutine })
    }

    /// The client's own connection to dlv, where it is past the beginning: what the client has said
    /// to begin with is said again.
    ///
    /// # Errors
    /// When dlv does not go along.
    pub(super) fn join(&self, initialize: &Value, attach: &Value) -> io::Result<Joined> {
        let stream = UnixStream::connect(self.dlv.socket())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut joined = Joined { reader: BufReader::new(stream.try_clone()?), stream, seq: 0 };
        let mut attach = attach.clone();
        // Else dlv would let the core run.
        attach["stopOnEntry"] = true.into();
        joined.ask("initialize", initialize)?;
        joined.ask("attach", &attach)?;
        joined.ask("configurationDone", &json!({}))?;
        joined.stream.set_read_timeout(None)?;
        Ok(joined)
    }
}

/// A connection to dlv in the Debug Adapter Protocol.
pub(super) struct Joined {
    pub(super) reader: BufReader<UnixStream>,
    pub(super) stream: UnixStream,
    /// Of the last request.
    pub(super) seq: u64,
}

impl Joined {
    /// Asks and waits for the answer; events in between are of no interest to the client.
    fn ask(&mut self, command: &str, arguments: &Value) -> io::Result<()> {
        self.seq += 1;
        let request = json!({ "seq": self.seq, "type": "request", "command": command, "arguments": arguments });
        wire::write(&mut self.stream, &request)?;
        loop {
            let message = wire::read(&mut self.reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if message["type"] != "response" || message["request_seq"] != self.seq {
                continue;
            }
            return match message["success"] == true {
                true => Ok(()),
                false => Err(io::Error::other(format!("dlv refuses {command}: {message}"))),
            };
        }
    }
}
