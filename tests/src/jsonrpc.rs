//! A small client for Delve's JSON-RPC, as `dlv connect` and GoLand speak it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::wire::{Buffered, Wire};

pub struct JsonRpcClient<W: Wire> {
    wire: Buffered<W>,
    number: u64,
    /// Delve may answer some calls out of order.
    early: HashMap<u64, Value>,
    pub limit: Duration,
}

impl<W: Wire> JsonRpcClient<W> {
    pub fn new(wire: W) -> Self {
        let limit = Duration::from_secs(20);
        Self { wire: Buffered::new(wire), number: 0, early: HashMap::new(), limit }
    }

    /// What `dlv connect` sends first.
    pub fn set_api_version(&mut self) -> Result<()> {
        self.call("SetApiVersion", json!({"APIVersion": 2})).map(drop)
    }

    pub fn version(&mut self) -> Result<Value> {
        self.call("GetVersion", json!({}))
    }

    pub fn process_pid(&mut self) -> Result<i64> {
        self.call("ProcessPid", json!({}))?["Pid"].as_i64().context("no process number")
    }

    /// The target's state now, running or not.
    pub fn state(&mut self) -> Result<Value> {
        Ok(self.call("State", json!({"NonBlocking": true}))?["State"].take())
    }

    /// The target's state once it stops.
    pub fn state_when_stopped(&mut self) -> Result<Value> {
        Ok(self.call("State", json!({"NonBlocking": false}))?["State"].take())
    }

    /// A breakpoint at a function's first line; gives its number.
    pub fn create_breakpoint(&mut self, function: &str) -> Result<i64> {
        let breakpoint = json!({"Breakpoint": {"functionName": function, "line": -1}});
        let created = self.call("CreateBreakpoint", breakpoint)?;
        created["Breakpoint"]["id"].as_i64().context("a breakpoint without a number")
    }

    pub fn clear_breakpoint(&mut self, id: i64) -> Result<()> {
        self.call("ClearBreakpoint", json!({"Id": id})).map(drop)
    }

    pub fn list_breakpoints(&mut self) -> Result<Value> {
        Ok(self.call("ListBreakpoints", json!({"All": false}))?["Breakpoints"].take())
    }

    /// `continue`, `next`, `halt` and so on; answers when the target has stopped again.
    pub fn command(&mut self, name: &str) -> Result<Value> {
        Ok(self.call("Command", json!({"name": name}))?["State"].take())
    }

    pub fn list_goroutines(&mut self) -> Result<Value> {
        Ok(self.call("ListGoroutines", json!({"Start": 0, "Count": 1000}))?["Goroutines"].take())
    }

    /// The stack of a goroutine, -1 for the selected one, with arguments and locals.
    pub fn stacktrace(&mut self, goroutine: i64) -> Result<Value> {
        let load = json!({
            "FollowPointers": true, "MaxVariableRecurse": 2, "MaxStringLen": 200,
            "MaxArrayValues": 64, "MaxStructFields": -1,
        });
        let arguments = json!({"Id": goroutine, "Depth": 50, "Full": true, "Cfg": load});
        Ok(self.call("Stacktrace", arguments)?["Locations"].take())
    }

    pub fn detach(&mut self, kill: bool) -> Result<()> {
        self.call("Detach", json!({"Kill": kill})).map(drop)
    }

    /// One call and its result; Delve's error is an error.
    pub fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        let number = self.send(method, parameters)?;
        self.answer(method, number)
    }

    /// Sends without waiting for the answer; gives the number to wait for.
    pub fn send(&mut self, method: &str, parameters: Value) -> Result<u64> {
        self.number += 1;
        let method = format!("RPCServer.{method}");
        let message = json!({"method": method, "params": [parameters], "id": self.number});
        self.wire.send(format!("{message}\n").as_bytes())?;
        Ok(self.number)
    }

    pub fn answer(&mut self, method: &str, number: u64) -> Result<Value> {
        let mut message = self.response(method, number)?;
        if !message["error"].is_null() {
            bail!("{method} was refused: {}", message["error"]);
        }
        Ok(message["result"].take())
    }

    /// One call and all of its answer, whether it was refused or not.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Result<Value> {
        let number = self.send(method, parameters)?;
        self.response(method, number)
    }

    fn response(&mut self, method: &str, number: u64) -> Result<Value> {
        let deadline = Instant::now() + self.limit;
        loop {
            if let Some(message) = self.early.remove(&number) {
                return Ok(message);
            }
            // Go's encoder ends each message with a line feed, and writes none inside.
            let line = self.wire.take_until(b"\n", deadline);
            let line = line.with_context(|| format!("waiting for the answer to {method}"))?;
            let message: Value =
                serde_json::from_slice(&line).context("an answer that is not JSON")?;
            let id = message["id"].as_u64().context("an answer without a number")?;
            self.early.insert(id, message);
        }
    }
}
