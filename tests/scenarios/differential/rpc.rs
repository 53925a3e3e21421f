//! The methods of dlv's JSON-RPC.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Wire, jsonrpc::JsonRpcClient};
use serde_json::{Value, json};
use std::time::Duration;

use super::{
    Allowed::{self, Modify, Never, Step, Watching},
    Stand, all_are_known, in_dlv, is_refused, is_same, to_the_breakpoint,
};
use crate::support::{is_answered, leaves_nothing};

/// Of Delve 1.22.1 to 1.27.1 (service/rpccommon/suitablemethods.go), each with what it needs at least. Those
/// that run the target, or are about a breakpoint's life, are tried in their order further below.
const METHODS: &[(&str, Allowed)] = &[
    ("AmendBreakpoint", Step),
    ("Ancestors", Watching),
    ("AttachedToExistingProcess", Watching),
    ("BuildID", Watching),
    ("CancelDownloads", Never),
    ("CancelNext", Step),
    ("Checkpoint", Never),
    ("ClearBreakpoint", Step),
    ("ClearCheckpoint", Never),
    ("Command", Step),
    ("CreateBreakpoint", Step),
    ("CreateEBPFTracepoint", Never),
    ("CreateWatchpoint", Step),
    ("DebugInfoDirectories", Watching),
    ("Detach", Watching),
    ("Disassemble", Watching),
    ("DownloadLibraryDebugInfo", Never),
    ("DumpCancel", Never),
    ("DumpStart", Never),
    ("DumpWait", Watching),
    ("Eval", Watching),
    ("ExamineMemory", Watching),
    ("FindLocation", Watching),
    ("FollowExec", Never),
    ("FollowExecEnabled", Watching),
    ("FunctionReturnLocations", Watching),
    ("GetBreakpoint", Watching),
    ("GetBufferedTracepoints", Watching),
    ("GetEvents", Watching),
    ("GetThread", Watching),
    ("GetVersion", Watching),
    ("GuessSubstitutePath", Watching),
    ("IsMulticlient", Watching),
    ("LastModified", Watching),
    ("ListBreakpoints", Watching),
    ("ListCheckpoints", Watching),
    ("ListDynamicLibraries", Watching),
    ("ListFunctionArgs", Watching),
    ("ListFunctions", Watching),
    ("ListGoroutines", Watching),
    ("ListLocalVars", Watching),
    ("ListPackageVars", Watching),
    ("ListPackagesBuildInfo", Watching),
    ("ListRegisters", Watching),
    ("ListSources", Watching),
    ("ListTargets", Watching),
    ("ListThreads", Watching),
    ("ListTypes", Watching),
    ("ProcessPid", Watching),
    ("Recorded", Watching),
    ("Restart", Never),
    ("Set", Modify),
    ("SetApiVersion", Watching),
    ("Stacktrace", Watching),
    ("State", Watching),
    ("StopRecording", Never),
    ("ToggleBreakpoint", Step),
    ("TypeInfo", Watching),
];

/// What stays within a list of methods and is never allowed all the same.
fn never_in_any_mode() -> Vec<(&'static str, Value)> {
    let mut all = vec![
        ("Detach", json!({"Kill": true})),
        ("DebugInfoDirectories", json!({"Set": true, "List": ["/tmp"]})),
        ("Eval", json!({"Scope": scope(), "Expr": "call main.tiny(1)"})),
        ("Eval", json!({"Scope": scope(), "Expr": "main.outer{order: &o, ID: 9}"})),
        (
            "CreateBreakpoint",
            json!({"Breakpoint": {"functionName": "main.finish", "Cond": "call f()"}}),
        ),
        ("Command", json!({"name": "newCommand"})),
    ];
    let backwards = ["rewind", "reverseNext", "reverseStep", "reverseStepOut"];
    all.extend(backwards.map(|name| ("Command", json!({ "name": name }))));
    all
}

/// Only in mode modify.
fn changes() -> Vec<(&'static str, Value)> {
    vec![
        ("Set", json!({"Scope": scope(), "Symbol": "o.ID", "Value": "9"})),
        (
            "Command",
            json!({"name": "call", "expr": "main.tiny(3)", "ReturnInfoLoadConfig": load()}),
        ),
    ]
}

fn scope() -> Value {
    json!({"GoroutineID": -1, "Frame": 0})
}

fn load() -> Value {
    json!({"FollowPointers": true, "MaxVariableRecurse": 2, "MaxStringLen": 64,
           "MaxArrayValues": 64, "MaxStructFields": -1})
}

/// Parameters with which a method has something to say.
fn parameters(method: &str, stand: &Stand<'_>, state: &Value) -> Value {
    let thread = &state["currentThread"];
    match method {
        "SetApiVersion" => json!({"APIVersion": 2}),
        "State" => json!({"NonBlocking": true}),
        "Ancestors" => json!({"GoroutineID": thread["goroutineID"], "NumAncestors": 2, "Depth": 3}),
        "Stacktrace" => json!({"Id": -1, "Depth": 20, "Full": true, "Cfg": load()}),
        "GetThread" => json!({"Id": thread["id"]}),
        "GetBreakpoint" => json!({"Id": stand.breakpoint}),
        "ListBreakpoints" => json!({"All": true}),
        "ListFunctionArgs" | "ListLocalVars" => json!({"Scope": scope(), "Cfg": load()}),
        "ListFunctions" | "ListTypes" | "ListSources" => json!({"Filter": "main"}),
        "ListPackageVars" => json!({"Filter": "main", "Cfg": load()}),
        "ListGoroutines" => json!({"Start": 0, "Count": 100}),
        "ListRegisters" => json!({"ThreadID": thread["id"], "IncludeFp": true}),
        "TypeInfo" => json!({"Name": "main.order"}),
        "Disassemble" => {
            json!({"Scope": scope(), "StartPC": thread["pc"], "EndPC": 0, "Flavour": 1})
        }
        "ExamineMemory" => json!({"Address": thread["pc"], "Length": 32}),
        "FunctionReturnLocations" => json!({"FnName": "main.priceOf"}),
        "FindLocation" => json!({"Scope": scope(), "Loc": "main.finish"}),
        "Eval" => json!({"Scope": scope(), "Expr": "o.Items[1].Name + o.Customer", "Cfg": load()}),
        "DebugInfoDirectories" => json!({"Set": false, "List": []}),
        "Detach" => json!({"Kill": false}),
        "DumpStart" => json!({"Destination": "/tmp/a-core"}),
        "DumpWait" => json!({"Wait": 0}),
        "FollowExec" => json!({"Enable": true, "Regex": ""}),
        "CreateEBPFTracepoint" => json!({"FunctionName": "main.tiny"}),
        "Set" => json!({"Scope": scope(), "Symbol": "o.ID", "Value": "9"}),
        "Command" => json!({"name": "next"}),
        "ClearBreakpoint" | "ToggleBreakpoint" => json!({"Id": stand.breakpoint}),
        "AmendBreakpoint" => json!({"Breakpoint": {"id": stand.breakpoint, "Cond": "o.ID == 4"}}),
        "CreateBreakpoint" => json!({"Breakpoint": {"functionName": "main.finish", "line": -1}}),
        "CreateWatchpoint" => json!({"Scope": scope(), "Expr": "o.ID", "Type": 2}),
        _ => json!({}),
    }
}

pub(super) fn in_step(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut stand = Stand::open(host, "step")?;
        let functions = r"rpc2\.\(\*RPCServer\)\.[A-Z][A-Za-z]*";
        let found = in_dlv(host, &stand.session, functions, ["RPCServer).", " "])?;
        all_are_known(&found, 50, &METHODS.map_names())?;
        let laptop = stand.laptop()?;
        let mut through = laptop.rpc()?;
        compare(&mut stand, &mut through, Step)?;
        run(&mut stand, &mut through)?;
        end(stand, through)
    })
}

pub(super) fn in_modify(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut stand = Stand::open(host, "modify")?;
        let laptop = stand.laptop()?;
        let mut through = laptop.rpc()?;
        compare(&mut stand, &mut through, Modify)?;
        for (method, parameters) in changes() {
            let direct = stand.direct.ask(method, parameters.clone())?;
            is_same(method, direct, through.ask(method, parameters)?)?;
            let seen = stand.direct.call("Eval", json!({"Scope": scope(), "Expr": "o.ID"}))?;
            ensure!(seen["Variable"]["value"] == "9", "{method} has done something else: {seen}");
        }
        let back = json!({"Scope": scope(), "Symbol": "o.ID", "Value": "3"});
        stand.direct.call("Set", back)?;
        end(stand, through)
    })
}

pub(super) fn watching(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut stand = Stand::open(host, "modify")?;
        // A watcher alone holds nothing: after a second it would go on.
        let laptop = stand.laptop()?;
        let owner = laptop.rpc()?;
        let theirs = stand.watchers_laptop()?;
        let mut through = theirs.rpc()?;
        compare(&mut stand, &mut through, Watching)?;
        // It halts nothing, and dlv's own client can connect all the same.
        through.command("halt")?;
        drop(through);
        end(stand, owner)
    })
}

trait Names {
    fn map_names(&self) -> Vec<&'static str>;
}

impl Names for &[(&'static str, Allowed)] {
    fn map_names(&self) -> Vec<&'static str> {
        self.iter().map(|(name, _)| *name).collect()
    }
}

/// All that leaves the target where it is: the same answers, or a refusal that leaves it as it is.
fn compare<W: Wire>(
    stand: &mut Stand<'_>,
    through: &mut JsonRpcClient<W>,
    mode: Allowed,
) -> Result<()> {
    let state = stand.direct.state()?;
    let before = stand.fingerprint()?;
    for (method, least) in METHODS {
        let parameters = parameters(method, stand, &state);
        match (*method, *least <= mode) {
            // dlv would answer with the next event, whoever that is for.
            ("GetEvents", _) => {
                through.send(method, parameters)?;
                through.limit = Duration::from_millis(300);
                ensure!(through.ask("State", json!({"NonBlocking": true})).is_ok(), "it blocks");
                through.limit = Duration::from_secs(20);
            }
            // Leaving is answered here; dlv would end.
            ("Detach", _) => {
                let answer = through.ask(method, parameters)?;
                ensure!(answer["error"].is_null(), "leaving is refused: {answer}");
            }
            (_, true) if *least == Watching => {
                let direct = stand.direct.ask(method, parameters.clone())?;
                is_same(method, direct, through.ask(method, parameters)?)?;
            }
            // What changes something is compared by itself.
            (_, true) => {}
            (_, false) => is_refused(method, &through.ask(method, parameters)?)?,
        }
    }
    for (method, parameters) in never_in_any_mode() {
        is_refused(method, &through.ask(method, parameters)?)?;
    }
    if mode < Modify {
        for (method, parameters) in changes() {
            is_refused(method, &through.ask(method, parameters)?)?;
        }
    }
    stand.is_as_before(&before)
}

/// What is done to a breakpoint, and each way to run, from one and the same place.
fn run<W: Wire>(stand: &mut Stand<'_>, through: &mut JsonRpcClient<W>) -> Result<()> {
    let direct = breakpoints_life(&mut stand.direct)?;
    for (direct, other) in direct.into_iter().zip(breakpoints_life(through)?) {
        is_same("a breakpoint's life", direct, other)?;
    }
    for name in ["next", "step", "stepOut", "nextInstruction", "stepInstruction"] {
        let command = json!({ "name": name });
        let direct = place(stand.direct.ask("Command", command.clone())?)?;
        stand.again()?;
        let other = place(through.ask("Command", command)?)?;
        ensure!(direct == other, "{name} ends at {other} through the gateway, not at {direct}");
        stand.again()?;
    }
    // A halt is for a target that runs; dlv keeps one of a target that stands for its next `continue`.
    let waiting = stand.direct.send("Command", json!({"name": "continue"}))?;
    stand.order.take().map_or(Ok(()), is_answered)?;
    let halted = through.command("halt")?;
    ensure!(halted["Running"] == false, "it was not halted: {halted}");
    stand.direct.answer("Command", waiting)?;
    stand.again()?;
    // `continue` goes on to the next order, whose answer would be another than that of `again`.
    let before = stand.order.take();
    stand.order = Some(to_the_breakpoint(stand.host, through, before)?);
    Ok(())
}

/// Where the target stands after a command.
fn place(answer: Value) -> Result<String> {
    let thread = &answer["result"]["State"]["currentThread"];
    let name = thread["function"]["name"].as_str();
    let name = name.with_context(|| format!("it stands nowhere: {answer}"))?;
    Ok(format!("{name} {} +{}", thread["line"], thread["pc"]))
}

fn breakpoints_life<W: Wire>(rpc: &mut JsonRpcClient<W>) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    let at =
        json!({"Breakpoint": {"functionName": "main.finish", "line": -1, "Cond": "total > 5"}});
    let created = rpc.ask("CreateBreakpoint", at)?;
    let id = created["result"]["Breakpoint"]["id"].clone();
    all.push(created);
    let amended = json!({"Breakpoint": {"id": id, "Cond": "total > 7", "HitCond": "> 1"}});
    for (method, parameters) in [
        ("AmendBreakpoint", amended),
        ("GetBreakpoint", json!({ "Id": id })),
        ("ToggleBreakpoint", json!({ "Id": id })),
        ("ListBreakpoints", json!({"All": false})),
        ("ToggleBreakpoint", json!({ "Id": id })),
        ("ClearBreakpoint", json!({ "Id": id })),
        ("ClearBreakpoint", json!({ "Id": id })),
        ("CancelNext", json!({})),
    ] {
        all.push(rpc.ask(method, parameters)?);
    }
    let watched =
        rpc.ask("CreateWatchpoint", json!({"Scope": scope(), "Expr": "o.ID", "Type": 2}))?;
    if let Some(id) = watched["result"]["Breakpoint"]["id"].as_i64() {
        rpc.ask("ClearBreakpoint", json!({ "Id": id }))?;
    }
    all.push(watched);
    Ok(all)
}

/// The last client goes, and the order that stood is answered.
fn end<W: Wire>(mut stand: Stand<'_>, mut through: JsonRpcClient<W>) -> Result<()> {
    // What was asked past the gateway is none of its business; this is.
    through.call("ClearBreakpoint", json!({"Id": stand.breakpoint}))?;
    drop(through);
    stand.order.map_or(Ok(()), is_answered)?;
    stand.direct.set_api_version()?;
    drop(stand.direct);
    stand.session.stop(stand.host)
}
