//! The few of dlv's methods that an attendant needs, and only the fields of their answers that it
//! looks at. Facts about each are in Delve's `service/rpc2/server.go`.

use godebug_dlvctl::rpc::{Asked, Connection, RpcError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::io;
use std::path::Path;
use std::time::Instant;

/// What dlv says of its target.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct State {
    #[serde(rename = "Running", default)]
    pub(crate) running: bool,
    #[serde(default)]
    pub(crate) exited: bool,
}

#[derive(Deserialize)]
struct WithState {
    #[serde(rename = "State")]
    state: State,
}

#[derive(Deserialize)]
struct Breakpoints {
    #[serde(rename = "Breakpoints")]
    breakpoints: Option<Vec<Breakpoint>>,
}

#[derive(Deserialize)]
struct Breakpoint {
    id: i64,
}

#[derive(Deserialize)]
struct MadeBreakpoint {
    #[serde(rename = "Breakpoint")]
    breakpoint: Breakpoint,
}

#[derive(Deserialize)]
struct Anything {}

#[derive(Serialize)]
struct NonBlocking {
    #[serde(rename = "NonBlocking")]
    non_blocking: bool,
}

const AT_ONCE: NonBlocking = NonBlocking { non_blocking: true };

/// One connection to dlv.
pub(crate) struct Dlv(Connection);

impl Dlv {
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        Connection::open(socket).map(Self)
    }

    /// What the target does now; does not wait for it to stop.
    pub(crate) fn state(&mut self, by: Instant) -> Result<State, RpcError> {
        let asked = self.ask_state(by)?;
        self.told_state(asked, by)
    }

    /// Asks for it only. dlv, which listens before it attaches, answers after.
    pub(crate) fn ask_state(&mut self, by: Instant) -> Result<Asked, RpcError> {
        self.0.ask("RPCServer.State", AT_ONCE, by)
    }

    /// The answer; one that has not come by then may be waited for again.
    pub(crate) fn told_state(&mut self, asked: Asked, by: Instant) -> Result<State, RpcError> {
        Ok(self.0.answer::<WithState>(asked, by)?.state)
    }

    /// Stops the target. When it is stopped already, this returns at once.
    pub(crate) fn halt(&mut self, by: Instant) -> Result<State, RpcError> {
        let answer: WithState = self.0.call("RPCServer.Command", json!({ "name": "halt" }), by)?;
        Ok(answer.state)
    }

    /// Lets the target run, and returns once it does: the answer to the second question comes only
    /// after the resumption, and that to the first only at the next stop, which nobody awaits.
    pub(crate) fn resume(&mut self, by: Instant) -> Result<(), RpcError> {
        self.0.ask("RPCServer.Command", json!({ "name": "continue" }), by)?;
        self.state(by).map(drop)
    }

    /// Lets the target run to the beginning of this function, and returns when it stands there or has
    /// ended. It must be stopped.
    pub(crate) fn run_to(&mut self, function: &str, by: Instant) -> Result<State, RpcError> {
        let breakpoint = json!({ "Breakpoint": { "functionName": function, "line": -1 } });
        let made: MadeBreakpoint = self.0.call("RPCServer.CreateBreakpoint", breakpoint, by)?;
        let ran: WithState = self.0.call("RPCServer.Command", json!({ "name": "continue" }), by)?;
        if !ran.state.exited {
            let id = json!({ "Id": made.breakpoint.id });
            self.0.call::<Anything>("RPCServer.ClearBreakpoint", id, by)?;
        }
        Ok(ran.state)
    }

    /// Removes every breakpoint that somebody has set, and returns how many there were. dlv's own
    /// (numbers below zero) go when it detaches. The target must be stopped.
    pub(crate) fn clear_breakpoints(&mut self, by: Instant) -> Result<usize, RpcError> {
        let all: Breakpoints =
            self.0.call("RPCServer.ListBreakpoints", json!({ "All": false }), by)?;
        let set: Vec<Breakpoint> =
            all.breakpoints.unwrap_or_default().into_iter().filter(|it| it.id > 0).collect();
        for breakpoint in &set {
            let id = json!({ "Id": breakpoint.id });
            self.0.call::<Anything>("RPCServer.ClearBreakpoint", id, by)?;
        }
        Ok(set.len())
    }

    /// Detaches and waits for dlv to close its socket, which it does when it ends. The target must
    /// be stopped, or dlv waits until it is.
    pub(crate) fn detach(mut self, by: Instant) -> Result<(), RpcError> {
        match self.0.call::<Anything>("RPCServer.Detach", json!({ "Kill": false }), by) {
            // It may end before its answer is out.
            Ok(Anything {}) | Err(RpcError::Closed) => {}
            Err(error) => return Err(error),
        }
        if self.0.closes(by) { Ok(()) } else { Err(RpcError::Timeout("the end of its server")) }
    }
}
