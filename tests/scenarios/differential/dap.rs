//! The requests of the Debug Adapter Protocol.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Wire, dap::DapClient};
use serde_json::{Value, json};

use super::{
    Allowed::{self, Modify, Never, Step},
    Stand, all_are_known, in_dlv, is_refused, is_same, socket,
};
use crate::gateway::is_let_go;
use crate::support::{is_answered, leaves_nothing, line_of, order};

/// All that go-dap knows, which dlv decodes with, each with what it needs at least. An IDE that only
/// watches can do nothing: dlv stops the target when it attaches.
const REQUESTS: &[(&str, Allowed)] = &[
    ("attach", Step),
    ("breakpointLocations", Step),
    ("cancel", Step),
    ("completions", Step),
    ("configurationDone", Step),
    ("continue", Step),
    ("dataBreakpointInfo", Step),
    ("disassemble", Step),
    ("disconnect", Step),
    ("evaluate", Step),
    ("exceptionInfo", Step),
    ("goto", Never),
    ("gotoTargets", Never),
    ("initialize", Step),
    ("launch", Never),
    ("loadedSources", Step),
    ("modules", Step),
    ("next", Step),
    ("pause", Step),
    ("readMemory", Step),
    ("restart", Never),
    ("restartFrame", Never),
    ("reverseContinue", Never),
    ("runInTerminal", Never),
    ("scopes", Step),
    ("setBreakpoints", Step),
    ("setDataBreakpoints", Step),
    ("setExceptionBreakpoints", Step),
    ("setExpression", Modify),
    ("setFunctionBreakpoints", Step),
    ("setInstructionBreakpoints", Step),
    ("setVariable", Modify),
    ("source", Step),
    ("stackTrace", Step),
    ("startDebugging", Never),
    ("stepBack", Never),
    ("stepIn", Step),
    ("stepInTargets", Step),
    ("stepOut", Step),
    ("terminate", Never),
    ("terminateThreads", Never),
    ("threads", Step),
    ("variables", Step),
    ("writeMemory", Modify),
];

/// Those that let the target run, or end the connection.
const IN_THEIR_ORDER: [&str; 9] = [
    "initialize",
    "attach",
    "configurationDone",
    "continue",
    "next",
    "stepIn",
    "stepOut",
    "pause",
    "disconnect",
];

const SOURCE: &str = "/opt/samples/src/shop/main.go";

/// Where the one or the other client looks.
struct Place {
    thread: Value,
    frame: Value,
    /// The reference of the order among the locals.
    order: Value,
    address: Value,
}

impl Place {
    fn of<W: Wire>(ide: &mut DapClient<W>, thread: &Value, address: u64) -> Result<Self> {
        let stack = ide.request("stackTrace", json!({"threadId": thread, "levels": 5}))?;
        let frame = stack["stackFrames"][0]["id"].clone();
        let asked = json!({"expression": "o", "frameId": frame, "context": "watch"});
        let order = ide.request("evaluate", asked)?["variablesReference"].take();
        let address = format!("{address:#x}").into();
        Ok(Self { thread: thread.clone(), frame, order, address })
    }

    fn arguments(&self, command: &str) -> Value {
        let (thread, frame, address) = (&self.thread, &self.frame, &self.address);
        let line = line_of("return finish(label").unwrap_or_default();
        match command {
            "threads" | "loadedSources" | "modules" | "cancel" => json!({}),
            "stackTrace" => json!({"threadId": thread, "startFrame": 0, "levels": 20}),
            "scopes" => json!({ "frameId": frame }),
            "variables" => json!({ "variablesReference": self.order }),
            "evaluate" => {
                json!({"expression": "o.Items[1].Name", "frameId": frame, "context": "repl"})
            }
            "exceptionInfo" | "next" | "continue" => json!({ "threadId": thread }),
            "disassemble" => json!({"memoryReference": "0x1000", "instructionCount": 3}),
            "readMemory" => json!({"memoryReference": address, "offset": 0, "count": 16}),
            "writeMemory" => json!({"memoryReference": address, "data": "CQAAAAAAAAA="}),
            "source" => json!({"source": {"path": SOURCE}, "sourceReference": 0}),
            "completions" => json!({"text": "o.", "column": 3, "frameId": frame}),
            "breakpointLocations" => json!({"source": {"path": SOURCE}, "line": line}),
            "stepInTargets" | "restartFrame" => json!({ "frameId": frame }),
            "dataBreakpointInfo" => json!({"name": "ID", "variablesReference": self.order}),
            "setBreakpoints" => json!({"source": {"path": SOURCE},
                "breakpoints": [{"line": line, "condition": "total > 5"}, {"line": 1}]}),
            "setFunctionBreakpoints" => {
                json!({"breakpoints": [{"name": "main.finish"}, {"name": "main.nothing"}]})
            }
            "setInstructionBreakpoints" => {
                json!({"breakpoints": [{"instructionReference": "0x1"}]})
            }
            "setDataBreakpoints" => json!({"breakpoints": []}),
            "setExceptionBreakpoints" => json!({"filters": []}),
            "setVariable" => json!({"variablesReference": self.order, "name": "ID", "value": "9"}),
            "setExpression" => json!({"expression": "o.ID", "frameId": frame, "value": "9"}),
            "goto" => json!({"threadId": thread, "targetId": 1}),
            "gotoTargets" => json!({"source": {"path": SOURCE}, "line": 1}),
            "launch" => json!({"mode": "exec", "program": "/bin/true"}),
            "runInTerminal" => json!({"cwd": "/", "args": ["true"]}),
            "startDebugging" => json!({"request": "attach", "configuration": {}}),
            _ => json!({}),
        }
    }
}

/// What takes back what a request has set.
fn undone(command: &str) -> Option<Value> {
    match command {
        "setBreakpoints" => Some(json!({"source": {"path": SOURCE}, "breakpoints": []})),
        "setFunctionBreakpoints" | "setInstructionBreakpoints" => Some(json!({"breakpoints": []})),
        _ => None,
    }
}

/// What hides in a request that is allowed.
fn hidden(place: &Place) -> Vec<(&'static str, Value, Allowed)> {
    let evaluated =
        |text: &str| json!({"expression": text, "frameId": place.frame, "context": "repl"});
    let at = |name: &str, text: &str| json!({"source": {"path": SOURCE}, "breakpoints": [{"line": 1, name: text}]});
    vec![
        ("evaluate", evaluated("call main.tiny(3)"), Modify),
        ("evaluate", evaluated("call o.ID = 9"), Modify),
        ("evaluate", evaluated("dlv target follow-exec -on"), Never),
        ("evaluate", evaluated("main.outer{order: &o, ID: 9}"), Never),
        ("setBreakpoints", at("condition", "call main.tiny(1) == 1"), Never),
        ("setBreakpoints", at("hitCondition", "% 0"), Never),
        ("setBreakpoints", at("logMessage", "{call main.tiny(1)}"), Never),
        (
            "setFunctionBreakpoints",
            json!({"breakpoints": [{"name": "*main.outer{ID: 9}.ID"}]}),
            Never,
        ),
        (
            "setDataBreakpoints",
            json!({"breakpoints": [{"dataId": "1,0,main.outer{ID: 9}.ID"}]}),
            Never,
        ),
        ("newRequest", json!({}), Never),
    ]
}

pub(super) fn in_step(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let stand = Stand::open(host, "step")?;
        let types = r"go-dap\.\(\*[A-Z][A-Za-z]*Request\)\.GetRequest";
        let found = in_dlv(host, &stand.session, types, ["go-dap.(*", "Request)"])?;
        let found = found.iter().map(|name| lower_first(name)).collect();
        let known: Vec<&str> = REQUESTS.iter().map(|(name, _)| *name).collect();
        all_are_known(&found, 40, &known)?;
        in_mode(stand, Step)
    })
}

pub(super) fn in_modify(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| in_mode(Stand::open(host, "modify")?, Modify))
}

fn lower_first(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().into_iter().flat_map(char::to_lowercase);
    first.chain(letters).collect()
}

fn in_mode(mut stand: Stand<'_>, mode: Allowed) -> Result<()> {
    let thread = stand.direct.state()?["currentGoroutine"]["id"].clone();
    let mut direct = DapClient::new(socket(stand.host, &stand.session)?);
    let laptop = stand.laptop()?;
    let mut through = laptop.dap()?;
    let (of_dlv, told) = (direct.attach()?, through.attach()?);
    fewer_capabilities(&of_dlv, &told, mode)?;

    let id = json!({"Scope": {"GoroutineID": -1, "Frame": 0}, "Expr": "o.ID"});
    let address = stand.direct.call("Eval", id)?["Variable"]["addr"].as_u64();
    let address = address.context("o.ID has no address")?;
    let places =
        (Place::of(&mut direct, &thread, address)?, Place::of(&mut through, &thread, address)?);
    let before = stand.fingerprint()?;
    refusals(&mut through, &places.1, mode)?;
    stand.is_as_before(&before)?;
    for (command, least) in REQUESTS {
        if IN_THEIR_ORDER.contains(command) || *least > mode {
            continue;
        }
        let one = asked(&mut direct, &places.0, command)?;
        is_same(command, one, asked(&mut through, &places.1, command)?)?;
    }
    if mode >= Modify {
        changes(&mut stand, &mut direct, &places.0)?;
    }

    // The stop button of an IDE asks for the service's end.
    through.disconnect(true)?;
    drop((through, direct));
    // The gateway has cleared all breakpoints, this test's too.
    let Stand { host, session, direct, order, .. } = stand;
    order.map_or(Ok(()), is_answered)?;
    drop(direct);
    // Where nobody is there, as far as the gateway knows, it lets the target go after a second.
    let _attends = laptop.rpc()?;
    for (round, command) in ["next", "stepIn", "stepOut", "pause"].into_iter().enumerate() {
        // Past the gateway, nobody may begin before it has let go what the last one has left.
        is_let_go(host, &session, round + 1)?;
        let one = ran(host, &mut DapClient::new(socket(host, &session)?), command)?;
        let other = ran(host, &mut laptop.dap()?, command)?;
        ensure!(one == other, "{command} ends at {other} through the gateway, not at {one}");
    }
    session.stop(host)
}

/// One request and what takes it back; its answer.
fn asked<W: Wire>(ide: &mut DapClient<W>, place: &Place, command: &str) -> Result<Value> {
    let answer = ide.ask(command, place.arguments(command))?;
    if let Some(back) = undone(command) {
        ide.ask(command, back)?;
    }
    Ok(answer)
}

fn refusals<W: Wire>(ide: &mut DapClient<W>, place: &Place, mode: Allowed) -> Result<()> {
    for (command, least) in REQUESTS.iter().filter(|(_, least)| *least > mode) {
        is_refused(command, &ide.ask(command, place.arguments(command))?)
            .with_context(|| format!("it needs {least:?}"))?;
    }
    for (command, arguments, least) in hidden(place) {
        if least > mode {
            is_refused(command, &ide.ask(command, arguments)?)?;
        }
    }
    let local = json!({"request": "attach", "mode": "local", "processId": 1});
    is_refused("attach", &ide.ask("attach", local)?)
}

/// What was changed through the gateway is changed in the process.
fn changes<W: Wire>(stand: &mut Stand<'_>, direct: &mut DapClient<W>, place: &Place) -> Result<()> {
    let eval = json!({"Scope": {"GoroutineID": -1, "Frame": 0}, "Expr": "o.ID"});
    let seen = stand.direct.call("Eval", eval)?;
    ensure!(seen["Variable"]["value"] == "9", "nothing was changed: {seen}");
    let back = json!({"variablesReference": place.order, "name": "ID", "value": "3"});
    direct.request("setVariable", back).map(drop)
}

/// Those of dlv without what the mode refuses, and none besides.
fn fewer_capabilities(of_dlv: &Value, told: &Value, mode: Allowed) -> Result<()> {
    let told = told.as_object().context("no capabilities")?;
    for (name, value) in told {
        ensure!(of_dlv[name] == *value, "dlv says {} for {name}, not {value}", of_dlv[name]);
    }
    for hidden in ["supportTerminateDebuggee", "supportsStepBack", "supportsRestartRequest"] {
        ensure!(!told.contains_key(hidden), "the IDE is offered {hidden}");
    }
    let sets = told.contains_key("supportsSetVariable");
    ensure!(sets == (mode >= Modify), "the IDE is offered to set variables: {sets}");
    Ok(())
}

/// From the beginning of a session to where this command ends.
fn ran<W: Wire>(host: &Host, ide: &mut DapClient<W>, command: &str) -> Result<String> {
    ide.attach()?;
    if command == "pause" {
        ide.configuration_done()?;
        ide.request("pause", json!({"threadId": 1}))?;
        // No goroutine need run at that moment, so it may name none.
        let reason = ide.wait_for_event("stopped")?["reason"].to_string();
        leave(ide)?;
        return Ok(reason);
    }
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done()?;
    let order = order(host, 8080)?;
    let (thread, _) = ide.wait_for_stop()?;
    ide.request(command, json!({ "threadId": thread }))?;
    let (thread, reason) = ide.wait_for_stop()?;
    let stack = ide.stack_trace(thread)?;
    leave(ide)?;
    is_answered(order)?;
    Ok(format!("{} {} ({reason})", stack[0]["name"], stack[0]["line"]))
}

fn leave<W: Wire>(ide: &mut DapClient<W>) -> Result<()> {
    ide.set_function_breakpoints(&[])?;
    ide.resume(1)?;
    ide.disconnect(false)
}

pub(super) fn watching(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut stand = Stand::open(host, "modify")?;
        // A watcher alone holds nothing: after a second it would go on.
        let laptop = stand.laptop()?;
        let mut owner = laptop.rpc()?;
        let theirs = stand.watchers_laptop()?;
        let mut ide = theirs.dap()?;
        ide.initialize()?;
        let before = stand.fingerprint()?;
        let nowhere = Place {
            thread: 1.into(),
            frame: 1000.into(),
            order: 1.into(),
            address: "0x1000".into(),
        };
        for (command, _) in REQUESTS {
            if !matches!(*command, "initialize" | "disconnect") {
                is_refused(command, &ide.ask(command, nowhere.arguments(command))?)?;
            }
        }
        stand.is_as_before(&before)?;
        ide.disconnect(true)?;
        drop(ide);
        owner.command("halt")?;
        drop(owner);
        stand.order.map_or(Ok(()), is_answered)?;
        drop(stand.direct);
        stand.session.stop(stand.host)
    })
}
