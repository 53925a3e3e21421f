//! A small client for the Debug Adapter Protocol, as an IDE speaks it to Delve: one request at a time,
//! events kept until somebody waits for them.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::wire::{Buffered, Wire};

pub struct DapClient<W: Wire> {
    wire: Buffered<W>,
    sequence: u64,
    events: VecDeque<Value>,
    /// How long one answer may take; attaching can stop the target for seconds.
    pub limit: Duration,
}

impl<W: Wire> DapClient<W> {
    pub fn new(wire: W) -> Self {
        let limit = Duration::from_secs(20);
        Self { wire: Buffered::new(wire), sequence: 0, events: VecDeque::new(), limit }
    }

    /// What an IDE does first: initialize, attach to the running server, wait for `initialized`.
    /// Gives the capabilities. The target is stopped until `configuration_done`.
    pub fn attach(&mut self) -> Result<Value> {
        self.attach_with(json!({}))
    }

    /// The same, with more fields in the attach request (`stopOnEntry`, `substitutePath`).
    pub fn attach_with(&mut self, more: Value) -> Result<Value> {
        let capabilities = self.initialize()?;
        let mut arguments = json!({"request": "attach", "mode": "remote"});
        if let (Some(fields), Value::Object(more)) = (arguments.as_object_mut(), more) {
            fields.extend(more);
        }
        // Delve answers the attach request only around `initialized`, in either order.
        let attach = self.send("attach", arguments)?;
        self.answer("attach", attach)?;
        self.wait_for_event("initialized")?;
        Ok(capabilities)
    }

    pub fn initialize(&mut self) -> Result<Value> {
        self.request(
            "initialize",
            json!({
                "clientID": "godebug-tests", "adapterID": "go", "pathFormat": "path",
                "linesStartAt1": true, "columnsStartAt1": true, "supportsVariableType": true,
            }),
        )
    }

    /// Breakpoints at lines of one file, instead of those it had. Gives Delve's view of them.
    pub fn set_breakpoints(&mut self, file: &str, lines: &[u32]) -> Result<Vec<Value>> {
        let breakpoints: Vec<Value> = lines.iter().map(|line| json!({"line": line})).collect();
        let arguments = json!({"source": {"path": file}, "breakpoints": breakpoints});
        self.verified("setBreakpoints", arguments)
    }

    /// Breakpoints at functions, instead of those there were.
    pub fn set_function_breakpoints(&mut self, functions: &[&str]) -> Result<Vec<Value>> {
        let breakpoints: Vec<Value> = functions.iter().map(|name| json!({"name": name})).collect();
        self.verified("setFunctionBreakpoints", json!({"breakpoints": breakpoints}))
    }

    fn verified(&mut self, command: &str, arguments: Value) -> Result<Vec<Value>> {
        let breakpoints = list(self.request(command, arguments)?, "breakpoints")?;
        for breakpoint in &breakpoints {
            ensure!(breakpoint["verified"] == true, "a breakpoint was not accepted: {breakpoint}");
        }
        Ok(breakpoints)
    }

    pub fn configuration_done(&mut self) -> Result<()> {
        self.request("configurationDone", json!({})).map(drop)
    }

    pub fn threads(&mut self) -> Result<Vec<Value>> {
        list(self.request("threads", json!({}))?, "threads")
    }

    pub fn stack_trace(&mut self, thread: i64) -> Result<Vec<Value>> {
        list(self.request("stackTrace", json!({"threadId": thread, "levels": 50}))?, "stackFrames")
    }

    pub fn scopes(&mut self, frame: i64) -> Result<Vec<Value>> {
        list(self.request("scopes", json!({"frameId": frame}))?, "scopes")
    }

    pub fn variables(&mut self, reference: i64) -> Result<Vec<Value>> {
        list(self.request("variables", json!({"variablesReference": reference}))?, "variables")
    }

    /// The arguments and locals of a frame, by name.
    pub fn locals(&mut self, frame: i64) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for scope in self.scopes(frame)? {
            let reference =
                scope["variablesReference"].as_i64().context("a scope without variables")?;
            for variable in self.variables(reference)? {
                let text = |field: &str| variable[field].as_str().unwrap_or_default().to_owned();
                found.push((text("name"), text("value")));
            }
        }
        Ok(found)
    }

    /// What an expression is worth, in a frame.
    pub fn evaluate(&mut self, frame: i64, expression: &str) -> Result<String> {
        let arguments = json!({"expression": expression, "frameId": frame, "context": "repl"});
        let body = self.request("evaluate", arguments)?;
        body["result"].as_str().map(str::to_owned).context("evaluate gave no result")
    }

    pub fn resume(&mut self, thread: i64) -> Result<()> {
        self.request("continue", json!({"threadId": thread})).map(drop)
    }

    pub fn pause(&mut self, thread: i64) -> Result<()> {
        self.request("pause", json!({"threadId": thread})).map(drop)
    }

    pub fn disconnect(&mut self, terminate: bool) -> Result<()> {
        self.request("disconnect", json!({"terminateDebuggee": terminate})).map(drop)
    }

    /// Waits until the target stops; gives the thread (goroutine) that did and why.
    pub fn wait_for_stop(&mut self) -> Result<(i64, String)> {
        let body = self.wait_for_event("stopped")?;
        let thread = body["threadId"].as_i64().context("a stop without a thread")?;
        Ok((thread, body["reason"].as_str().unwrap_or_default().to_owned()))
    }

    pub fn wait_for_event(&mut self, name: &str) -> Result<Value> {
        self.wait_for_event_within(name, self.limit)
    }

    /// The body of the next event of that name; those before it are dropped.
    pub fn wait_for_event_within(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            while let Some(mut event) = self.events.pop_front() {
                if event["event"] == name {
                    return Ok(event["body"].take());
                }
            }
            let message =
                self.receive(deadline).with_context(|| format!("waiting for the event {name}"))?;
            if message["type"] == "event" {
                self.events.push_back(message);
            }
        }
    }

    /// One request and its answer's body; a refusal is an error with Delve's words.
    pub fn request(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let sequence = self.send(command, arguments)?;
        self.answer(command, sequence)
    }

    /// Sends without waiting for the answer; gives the number to wait for.
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<u64> {
        self.sequence += 1;
        let message = json!({
            "seq": self.sequence, "type": "request", "command": command, "arguments": arguments,
        })
        .to_string();
        self.wire.send(format!("Content-Length: {}\r\n\r\n{message}", message.len()).as_bytes())?;
        Ok(self.sequence)
    }

    pub fn answer(&mut self, command: &str, sequence: u64) -> Result<Value> {
        let mut message = self.response(command, sequence)?;
        ensure!(message["success"] == true, "{command} was refused: {message}");
        Ok(message["body"].take())
    }

    /// One request and all of its answer, whether it was refused or not.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let sequence = self.send(command, arguments)?;
        self.response(command, sequence)
    }

    fn response(&mut self, command: &str, sequence: u64) -> Result<Value> {
        let deadline = Instant::now() + self.limit;
        loop {
            let message = self
                .receive(deadline)
                .with_context(|| format!("waiting for the answer to {command}"))?;
            if message["type"] == "event" {
                self.events.push_back(message);
            } else if message["request_seq"] == sequence {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Result<Value> {
        let head = self.wire.take_until(b"\r\n\r\n", deadline)?;
        let head = String::from_utf8_lossy(&head);
        let length =
            head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let Some(length) = length else { bail!("a DAP message without a length: {head:?}") };
        let body = self.wire.take(length, deadline)?;
        serde_json::from_slice(&body).context("a DAP message that is not JSON")
    }
}

fn list(mut body: Value, field: &str) -> Result<Vec<Value>> {
    match body[field].take() {
        Value::Array(items) => Ok(items),
        _ => bail!("an answer without {field}: {body}"),
    }
}
