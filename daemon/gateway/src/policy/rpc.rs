//! What each mode allows of dlv's JSON-RPC, for every method of its API version 2
//! (service/rpccommon/suitablemethods.go, 1.27.1).

use super::{Meaning, Refused, Verdict, each_text, expressions, needs};
use crate::protocol::strict;
use godebug_api::Mode;
use serde_json::{Map, Value};

type Parameters = Map<String, Value>;

/// Decides on a call.
pub(crate) fn judge(mode: Mode, method: &str, parameters: &Parameters) -> Verdict {
    decide(mode, method, parameters).unwrap_or_else(Verdict::Refuse)
}

fn decide(mode: Mode, method: &str, parameters: &Parameters) -> Result<Verdict, Refused> {
    let flag = |name| strict::flag(parameters, name).map_err(Refused::never);
    match method.strip_prefix("RPCServer.").unwrap_or_default() {
        "SetApiVersion"
        | "GetVersion"
        | "IsMulticlient"
        | "AttachedToExistingProcess"
        | "LastModified"
        | "ProcessPid"
        | "BuildID"
        | "Recorded"
        | "State"
        | "Stacktrace"
        | "Ancestors"
        | "GetThread"
        | "GetBreakpoint"
        | "GetBufferedTracepoints"
        | "GetEvents"
        | "ListBreakpoints"
        | "ListCheckpoints"
        | "ListDynamicLibraries"
        | "ListFunctionArgs"
        | "ListFunctions"
        | "ListGoroutines"
        | "ListLocalVars"
        | "ListPackageVars"
        | "ListPackagesBuildInfo"
        | "ListRegisters"
        | "ListSources"
        | "ListTargets"
        | "ListThreads"
        | "ListTypes"
        | "TypeInfo"
        | "Disassemble"
        | "ExamineMemory"
        | "FunctionReturnLocations"
        | "FollowExecEnabled"
        | "GuessSubstitutePath"
        | "DumpWait" => {}
        "FindLocation" => each_text(parameters, &[("Loc", expressions::location)])?,
        "Eval" => each_text(parameters, &[("Expr", expressions::read)])?,
        "Command" => command(mode, parameters)?,
        "CancelNext" => {}
        // To whom only images are shown, one is of each time that this line is reached.
        "CreateBreakpoint" | "AmendBreakpoint" => {
            each_text(parameters, &[("LocExpr", expressions::location)])?;
            breakpoint(parameters)?;
        }
        "ClearBreakpoint" | "ToggleBreakpoint" => {}
        "CreateWatchpoint" => {
            needs(mode, Mode::Step, "a watchpoint")?;
            each_text(parameters, &[("Expr", expressions::read)])?;
        }
        "Set" => needs(mode, Mode::Modify, "setting a variable")?,
        // dlv's own ends the server for everybody; the person only wants to leave.
        "Detach" if !flag("Kill")? => return Ok(Verdict::Answer),
        "Detach" | "Restart" => {
            return Err(Refused::never(
                "the service belongs to systemd; use `systemctl restart` or `systemctl stop`",
            ));
        }
        "DumpStart" | "DumpCancel" => {
            return Err(Refused::never("dlv would write a file on the host and stop the process"));
        }
        "DebugInfoDirectories" if flag("Set")? => {
            return Err(Refused::never("where dlv looks for symbols is given with --symbols"));
        }
        "DebugInfoDirectories" => {}
        "DownloadLibraryDebugInfo" | "CancelDownloads" => {
            return Err(Refused::never("dlv must not use the network"));
        }
        "FollowExec" => {
            return Err(Refused::never("the session is for one process, not for its children"));
        }
        "CreateEBPFTracepoint" => {
            return Err(Refused::never("dlv may not load programs into the kernel"));
        }
        "Checkpoint" | "ClearCheckpoint" | "StopRecording" => {
            return Err(Refused::never("a live process cannot go back"));
        }
        _ => return Err(Refused::never("the gateway does not know this method")),
    }
    Ok(Verdict::Forward)
}

fn command(mode: Mode, parameters: &Parameters) -> Result<(), Refused> {
    match text(parameters, "name")?.unwrap_or_default() {
        // To whom only images are shown, the next one is.
        "continue" | "directionCongruentContinue" | "halt" | "switchThread" | "switchGoroutine" => {
            Ok(())
        }
        "next" | "step" | "stepOut" | "stepInstruction" | "nextInstruction" => {
            needs(mode, Mode::Step, "a step")
        }
        "call" => needs(mode, Mode::Modify, "calling a function"),
        "rewind"
        | "reverseNext"
        | "reverseStep"
        | "reverseStepOut"
        | "reverseStepInstruction"
        | "reverseNextInstruction" => Err(Refused::never("a live process cannot go back")),
        _ => Err(Refused::never("the gateway does not know this command")),
    }
}

/// Whether dlv's client waits for events of this call (service/debugger/debugger.go, `Command`).
pub(crate) fn has_events(method: &str, parameters: &Parameters) -> bool {
    let name = strict::text(parameters, "name").ok().flatten().unwrap_or_default();
    method == "RPCServer.Command"
        && strict::flag(parameters, "WithEvents") == Ok(true)
        && !matches!(name, "halt" | "switchThread" | "switchGoroutine")
}

/// Whether dlv answers while the target runs; everything else waits for its next stop
/// (service/debugger/debugger.go, `targetMutex`).
pub(crate) fn needs_no_stop(method: &str, meaning: &Meaning) -> bool {
    let answered = [
        "SetApiVersion",
        "GetVersion",
        "IsMulticlient",
        "AttachedToExistingProcess",
        "Recorded",
        "State",
        "GetEvents",
        "Detach",
    ];
    let name = method.strip_prefix("RPCServer.").unwrap_or_default();
    answered.contains(&name) || (meaning.operation == "run" && meaning.subject == "halt")
}

/// The conditions, and the expressions that dlv evaluates at each hit.
fn breakpoint(parameters: &Parameters) -> Result<(), Refused> {
    let Some(breakpoint) = strict::field(parameters, "Breakpoint") else { return Ok(()) };
    let malformed = || Refused::never("`Breakpoint` must be an object");
    let breakpoint = breakpoint.as_object().ok_or_else(malformed)?;
    each_text(
        breakpoint,
        &[
            ("Cond", expressions::condition),
            ("HitCond", expressions::hit_condition),
            ("functionName", expressions::location),
        ],
    )?;
    match strict::field(breakpoint, "variables") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Array(list)) => list.iter().try_for_each(|each| match each.as_str() {
            Some(expression) => expressions::read(expression),
            None => Err(Refused::never("`variables` must hold text")),
        }),
        Some(_) => Err(Refused::never("`variables` must be a list")),
    }
}

fn text<'a>(parameters: &'a Parameters, name: &str) -> Result<Option<&'a str>, Refused> {
    strict::text(parameters, name).map_err(Refused::never)
}

/// What a call means, for the record.
pub(crate) fn meaning(method: &str, parameters: &Parameters) -> Meaning {
    let word = |fields: &Parameters, name| {
        strict::field(fields, name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    match method.strip_prefix("RPCServer.").unwrap_or_default() {
        "Eval" => Meaning::new("evaluate", word(parameters, "Expr")),
        "Set" => Meaning::new("set", word(parameters, "Symbol")),
        "Command" => Meaning::new("run", word(parameters, "name")),
        "CreateBreakpoint" | "AmendBreakpoint" => {
            let empty = Map::new();
            let found = strict::field(parameters, "Breakpoint").and_then(Value::as_object);
            let breakpoint = found.unwrap_or(&empty);
            let number =
                |name| strict::field(breakpoint, name).map(Value::to_string).unwrap_or_default();
            // What the person typed, where dlv's client sends it, else what it made of it.
            let named = [word(parameters, "LocExpr"), word(breakpoint, "functionName")];
            let place = named.into_iter().find(|name| !name.is_empty());
            let place = place.unwrap_or_else(|| match word(breakpoint, "file") {
                file if file.is_empty() => format!("address {}", number("addr")),
                file => format!("{file}:{}", number("line")),
            });
            let condition = match word(breakpoint, "Cond") {
                text if text.is_empty() => text,
                text => format!(" if {text}"),
            };
            Meaning::new("breakpoints", place + &condition)
        }
        "ClearBreakpoint" => Meaning::new("breakpoints", format!("clear {}", which(parameters))),
        "ToggleBreakpoint" => {
            Meaning::new("breakpoints", format!("on or off {}", which(parameters)))
        }
        "CreateWatchpoint" => Meaning::new("watchpoints", word(parameters, "Expr")),
        "CancelNext" => Meaning::new("run", "cancel the step"),
        "Detach" => Meaning::new("connection", "detach"),
        "ExamineMemory" => {
            let address = strict::field(parameters, "Address").map(Value::to_string);
            Meaning::new("read-memory", address.unwrap_or_default())
        }
        "ListLocalVars" => Meaning::new("variables", "local"),
        "ListFunctionArgs" => Meaning::new("variables", "arguments"),
        "ListPackageVars" => {
            Meaning::new("variables", format!("of packages {}", word(parameters, "Filter")))
        }
        // With the variables of each frame, where its client asks for them.
        "Stacktrace" if strict::flag(parameters, "Full") == Ok(true) => {
            let number = strict::field(parameters, "Id").map(Value::to_string).unwrap_or_default();
            Meaning::new("stack", format!("of goroutine {number}, with its variables"))
        }
        "FindLocation" => Meaning::new("find", word(parameters, "Loc")),
        _ => Meaning::new("request", method.chars().take(60).collect::<String>()),
    }
}

/// The breakpoint that a call names, by its name or number.
fn which(parameters: &Parameters) -> String {
    let name = strict::field(parameters, "Name").and_then(Value::as_str).unwrap_or_default();
    match strict::field(parameters, "Id") {
        Some(id) if name.is_empty() => id.to_string(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(mode: Mode, method: &str, parameters: &Value) -> Verdict {
        judge(mode, &format!("RPCServer.{method}"), parameters.as_object().unwrap())
    }

    #[test]
    fn a_step_session_changes_nothing() {
        for (method, parameters) in [
            ("Set", json!({"Symbol": "x", "Value": "1"})),
            ("Command", json!({"name": "call", "expr": "f()"})),
            ("Command", json!({"Name": "call"})),
        ] {
            let refused = verdict(Mode::Step, method, &parameters);
            assert!(matches!(&refused, Verdict::Refuse(r) if r.allowed_in == Some(Mode::Modify)));
            assert_eq!(verdict(Mode::Modify, method, &parameters), Verdict::Forward, "{method}");
        }
    }

    #[test]
    fn what_reaches_beyond_the_process_is_refused_in_every_mode() {
        for (method, parameters) in [
            ("DumpStart", json!({"Destination": "/tmp/x"})),
            ("Detach", json!({"kill": true})),
            ("Restart", json!({})),
            ("DebugInfoDirectories", json!({"Set": true, "List": []})),
            ("FollowExec", json!({"Enable": true})),
            ("CreateEBPFTracepoint", json!({})),
            ("Command", json!({"name": "rewind"})),
            ("Command", json!({"name": "newCommand"})),
            ("Command", json!({})),
            ("CreateBreakpoint", json!({"Breakpoint": {"Cond": "call f()"}})),
            ("CreateBreakpoint", json!({"breakpoint": {"Variables": ["x", "call f()"]}})),
            ("Eval", json!({"Expr": "call f()"})),
            ("Eval", json!({"Expr": "main.T{P: p, F: 1}"})),
            ("FindLocation", json!({"Loc": "*main.T{P: p, F: 1}.F"})),
            ("CreateWatchpoint", json!({"Expr": "main.T{P: p, F: 1}.F"})),
            ("CreateBreakpoint", json!({"LocExpr": "*main.T{P: p, F: 1}.F", "Breakpoint": {}})),
            ("AmendBreakpoint", json!({"Breakpoint": {"HitCond": "% 0"}})),
            ("NewMethod", json!({})),
        ] {
            let verdict = verdict(Mode::Modify, method, &parameters);
            assert!(matches!(verdict, Verdict::Refuse(_)), "{method} {parameters}: {verdict:?}");
        }
        let other = judge(Mode::Modify, "Other.State", &Map::new());
        assert!(matches!(other, Verdict::Refuse(_)));
    }

    #[test]
    fn the_record_says_where_a_breakpoint_is() {
        let subject = |parameters: Value| {
            let parameters = parameters.as_object().unwrap();
            meaning("RPCServer.CreateBreakpoint", parameters).subject
        };
        let typed = json!({"LocExpr": "main.f", "Breakpoint": {"addr": 7, "Cond": "x > 1"}});
        assert_eq!(subject(typed), "main.f if x > 1");
        assert_eq!(subject(json!({"Breakpoint": {"file": "/a.go", "line": 3}})), "/a.go:3");
        assert_eq!(subject(json!({"Breakpoint": {"addr": 7}})), "address 7");
    }

    #[test]
    fn the_record_says_what_was_read_and_what_became_of_a_breakpoint() {
        let meaning = |method: &str, parameters: Value| {
            let meant = meaning(&format!("RPCServer.{method}"), parameters.as_object().unwrap());
            format!("{} {}", meant.operation, meant.subject)
        };
        assert_eq!(meaning("ClearBreakpoint", json!({"Id": 3, "Name": ""})), "breakpoints clear 3");
        assert_eq!(meaning("ToggleBreakpoint", json!({"Name": "b"})), "breakpoints on or off b");
        assert_eq!(meaning("ExamineMemory", json!({"Address": 16})), "read-memory 16");
        assert_eq!(meaning("ListLocalVars", json!({})), "variables local");
        assert_eq!(meaning("State", json!({})), "request RPCServer.State");
    }

    #[test]
    fn leaving_does_not_end_the_server() {
        assert_eq!(verdict(Mode::Step, "Detach", &json!({"Kill": false})), Verdict::Answer);
        assert_eq!(verdict(Mode::Step, "Detach", &json!({})), Verdict::Answer);
    }
}
