//! The gateway's own questions to dlv, on a connection of its own: is the target running, halt it,
//! clear the breakpoints, let it run.

use crate::protocol::Protocol;
use crate::protocol::framing::{Framing, LONGEST_ANSWER};
use serde::Deserialize;
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

/// A breakpoint as dlv lists it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Breakpoint {
    /// Those of dlv's own have numbers below one.
    pub(crate) id: i64,
    name: String,
    pub(crate) file: String,
    pub(crate) line: u64,
    /// Null of one that is off, or waits for a library.
    addrs: Option<Vec<u64>>,
    disabled: bool,
    /// A log point.
    #[serde(rename = "continue")]
    is_trace_point: bool,
    #[serde(rename = "Cond")]
    condition: String,
    #[serde(rename = "HitCond")]
    hit_condition: String,
    #[serde(rename = "WatchExpr")]
    watched: String,
}

impl Breakpoint {
    /// A person has set it, and it stops the target.
    pub(crate) fn is_on(&self) -> bool {
        self.id > 0 && !self.disabled
    }

    pub(crate) fn is_at(&self, counters: &[u64]) -> bool {
        self.addrs.iter().flatten().any(|at| counters.contains(at))
    }

    /// dlv may stop the target for it and let it go on, and tell nobody.
    pub(crate) fn may_go_on_unseen(&self) -> bool {
        self.is_trace_point || !self.condition.is_empty() || !self.hit_condition.is_empty()
    }

    /// For a person.
    pub(crate) fn place(&self) -> String {
        match (self.watched.as_str(), self.file.as_str()) {
            ("", "") => format!("number {}", self.id),
            ("", file) => format!("{file}:{}", self.line),
            (watched, _) => watched.to_owned(),
        }
    }

    /// dlv's own client can turn one off and on again. An IDE's is cleared: dlv cannot toggle it, since
    /// its name has characters that it allows to its own DAP server alone (`ValidBreakpointName` of
    /// service/api/types.go), and the IDE's next list of them sets it anew in either case. Nor can dlv
    /// turn off what watches a variable.
    fn off(&self) -> &'static str {
        match self.name.chars().all(char::is_alphanumeric) && self.watched.is_empty() {
            true => "ToggleBreakpoint",
            false => "ClearBreakpoint",
        }
    }
}

/// Where the target's threads stand.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    /// Their program counters.
    pub(crate) at: Vec<u64>,
    /// The numbers of the breakpoints that stopped them, but those that only log.
    pub(crate) stopped_at: Vec<i64>,
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

    /// The goroutine that dlv takes for the one that it is about, if there is one.
    pub(crate) async fn current_goroutine(&mut self) -> Result<Option<i64>, DlvError> {
        let answer = self.call("State", json!({ "NonBlocking": true })).await?;
        Ok(answer["State"]["currentGoroutine"]["id"].as_i64().filter(|id| *id > 0))
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
        let numbers: Vec<i64> = all.iter().map(|one| one.id).filter(|id| *id > 0).collect();
        for id in &numbers {
            self.call("ClearBreakpoint", json!({ "Id": id })).await?;
        }
        Ok(numbers.len())
    }

    /// Turns all off that people have set; how many there were. To be called while the target stands.
    pub(crate) async fn disable_breakpoints(&mut self) -> Result<usize, DlvError> {
        let all = self.breakpoints().await?;
        let mut off = 0;
        for one in all.iter().filter(|one| one.is_on()) {
            self.turn_off(one).await?;
            off += 1;
        }
        Ok(off)
    }

    /// The same for one of them.
    pub(crate) async fn turn_off(&mut self, breakpoint: &Breakpoint) -> Result<(), DlvError> {
        self.call(breakpoint.off(), json!({ "Id": breakpoint.id })).await.map(drop)
    }

    /// Where the threads of a target stand, which must do so.
    pub(crate) async fn threads(&mut self) -> Result<Threads, DlvError> {
        let answer = self.call("State", json!({ "NonBlocking": true })).await?;
        let state = &answer["State"];
        if state["Running"] == true {
            return Err(DlvError::Unclear("State"));
        }
        let mut threads = Threads::default();
        for thread in state["Threads"].as_array().into_iter().flatten() {
            threads.at.extend(thread["pc"].as_u64());
            let breakpoint = &thread["breakPoint"];
            if breakpoint["continue"] != true {
                threads.stopped_at.extend(breakpoint["id"].as_i64());
            }
        }
        Ok(threads)
    }

    /// Lets the target run. `continue` is answered when the target stops again, so another question
    /// follows on the same connection, which dlv answers after it has let it run.
    pub(crate) async fn resume(&mut self) -> Result<(), DlvError> {
        self.ask("Command", json!({ "name": "continue" })).await?;
        if self.is_running().await? { Ok(()) } else { Err(DlvError::StillStands) }
    }

    pub(crate) async fn breakpoints(&mut self) -> Result<Vec<Breakpoint>, DlvError> {
        let mut answer = self.call("ListBreakpoints", json!({ "All": false })).await?;
        let all: Option<Vec<Breakpoint>> = serde_json::from_value(answer["Breakpoints"].take())
            .map_err(|_| DlvError::Unclear("ListBreakpoints"))?;
        Ok(all.unwrap_or_default())
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
