//! The gateway's own questions to dlv, on a connection of its own: is the target running, halt it,
//! clear the breakpoints, let it run.

use crate::protocol::Protocol;
use crate::protocol::framing::{Framing, LONGEST_ANSWER};
use serde_json::{Value, json};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// For one answer. dlv takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why dlv did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DlvError {
    #[error("dlv's socket: {0}")]
    Socket(#[from] io::Error),
    #[error("dlv has not answered {0} within {PATIENCE:?}")]
    Slow(&'static str),
    #[error("dlv cannot do {0}: {1}")]
    Refused(&'static str, String),
    #[error("dlv's answer to {0} does not say what it should")]
    Unclear(&'static str),
    #[error("dlv was told to let the process run, and it stands")]
    StillStands,
}

impl DlvError {
    /// There is nothing left to let go of: dlv has ended, or its target has. A connection that only
    /// broke is no such end; the next attempt tells.
    pub(crate) fn means_the_end(&self) -> bool {
        match self {
            Self::Socket(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
            }
            Self::Refused(_, why) => why.contains("has exited"),
            Self::Slow(_) | Self::Unclear(_) | Self::StillStands => false,
        }
    }
}

/// A breakpoint's number; dlv's own have numbers below one.
fn number_of_a_persons(breakpoint: &Value) -> Option<i64> {
    breakpoint["id"].as_i64().filter(|id| *id > 0)
}

/// One connection to dlv. Never without a question: dlv keeps silent ones for ever.
pub(crate) struct Dlv {
    stream: UnixStream,
    framing: Framing,
    last_id: u64,
}

impl Dlv {
    pub(crate) async fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        Ok(Self { stream, framing: Framing::new(Protocol::JsonRpc, LONGEST_ANSWER), last_id: 0 })
    }

    pub(crate) async fn is_running(&mut self) -> Result<bool, DlvError> {
        let answer = self.call("State", json!({ "NonBlocking": true })).await?;
        let state = &answer["State"];
        if state["exited"] == true {
            return Err(DlvError::Refused("State", "the process has exited".to_owned()));
        }
        state["Running"].as_bool().ok_or(DlvError::Unclear("State"))
    }

    pub(crate) async fn halt(&mut self) -> Result<(), DlvError> {
        self.call("Command", json!({ "name": "halt" })).await.map(drop)
    }

    pub(crate) async fn cancel_step(&mut self) -> Result<(), DlvError> {
        self.call("CancelNext", json!({})).await.map(drop)
    }

    /// Clears all that people have set.
    pub(crate) async fn clear_breakpoints(&mut self) -> Result<usize, DlvError> {
        let all = self.breakpoints().await?;
        let numbers: Vec<i64> = all.iter().filter_map(number_of_a_persons).collect();
        for id in &numbers {
            self.call("ClearBreakpoint", json!({ "Id": id })).await?;
        }
        Ok(numbers.len())
    }

    /// Turns all off that people have set; how many there were. To be called while the target stands.
    ///
    /// dlv's own client can turn them on again. An IDE's are cleared: dlv cannot toggle them, since their
    /// names have characters that it allows to its own DAP server alone (`ValidBreakpointName` of
    /// service/api/types.go), and the IDE's next list of them sets them anew in either case.
    pub(crate) async fn disable_breakpoints(&mut self) -> Result<usize, DlvError> {
        let all = self.breakpoints().await?;
        let mut off = 0;
        for one in all.iter().filter(|one| one["disabled"] != true) {
            let Some(id) = number_of_a_persons(one) else { continue };
            let name = one["name"].as_str().unwrap_or_default();
            let method = match name.chars().all(char::is_alphanumeric) {
                true => "ToggleBreakpoint",
                false => "ClearBreakpoint",
            };
            self.call(method, json!({ "Id": id })).await?;
            off += 1;
        }
        Ok(off)
    }

    /// Lets the target run. `continue` is answered when the target stops again, so another question
    /// follows on the same connection, which dlv answers after it has let it run.
    pub(crate) async fn resume(&mut self) -> Result<(), DlvError> {
        self.ask("Command", json!({ "name": "continue" })).await?;
        if self.is_running().await? { Ok(()) } else { Err(DlvError::StillStands) }
    }

    async fn breakpoints(&mut self) -> Result<Vec<Value>, DlvError> {
        let mut answer = self.call("ListBreakpoints", json!({ "All": false })).await?;
        match answer["Breakpoints"].take() {
            Value::Null => Ok(Vec::new()),
            Value::Array(all) => Ok(all),
            _ => Err(DlvError::Unclear("ListBreakpoints")),
        }
    }

    async fn call(&mut self, method: &'static str, parameters: Value) -> Result<Value, DlvError> {
        let asked = async {
            let id = self.ask(method, parameters).await?;
            self.answer(method, id).await
        };
        timeout(PATIENCE, asked).await.map_err(|_| DlvError::Slow(method))?
    }

    async fn ask(&mut self, method: &str, parameters: Value) -> Result<u64, DlvError> {
        self.last_id += 1;
        let method = format!("RPCServer.{method}");
        let params = [parameters];
        let line = json!({ "method": method, "params": params, "id": self.last_id });
        self.stream.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(self.last_id)
    }

    async fn answer(&mut self, method: &'static str, id: u64) -> Result<Value, DlvError> {
        let unclear = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut buffer = vec![0; 16 << 10];
        loop {
            let next = self.framing.next().map_err(|error| unclear(error.to_string()))?;
            if let Some(frame) = next {
                let mut answer: Value = serde_json::from_slice(frame.body)
                    .map_err(|error| unclear(error.to_string()))?;
                if answer["id"] != id {
                    continue;
                }
                if let Some(why) = answer["error"].as_str() {
                    return Err(DlvError::Refused(method, why.to_owned()));
                }
                return Ok(answer["result"].take());
            }
            let count = self.stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.framing.push(&buffer[..count]);
        }
    }
}
