//! What each mode allows of the Debug Adapter Protocol, for every request that dlv has a handler for
//! (service/dap/server.go, `handleRequest`).

use super::{Meaning, Refused, Verdict, each_text, expressions, needs};
use crate::protocol::strict;
use godebug_api::Mode;
use serde_json::{Map, Value, json};

/// Arguments of `attach` that only shape what is shown. Everything else an IDE sends with its launch
/// configuration is left out: programs to run, processes to attach to, children to follow.
const ATTACH: &[&str] = &[
    "mode",
    "request",
    "name",
    "type",
    "stopOnEntry",
    "stackTraceDepth",
    "showGlobalVariables",
    "showRegisters",
    "showPprofLabels",
    "hideSystemGoroutines",
    "goroutineFilters",
    "substitutePath",
];

/// Capabilities that no session has, and those that only `modify` has.
const NEVER: &[&str] = &[
    "supportTerminateDebuggee",
    "supportSuspendDebuggee",
    "supportsTerminateRequest",
    "supportsRestartRequest",
    "supportsRestartFrame",
    "supportsStepBack",
    "supportsGotoTargetsRequest",
    "supportsTerminateThreadsRequest",
];
const MODIFY_ONLY: &[&str] =
    &["supportsSetVariable", "supportsSetExpression", "supportsWriteMemoryRequest"];

type Arguments = Map<String, Value>;

/// Decides on a request.
pub(crate) fn judge(mode: Mode, command: &str, arguments: &Arguments) -> Verdict {
    decide(mode, command, arguments).unwrap_or_else(Verdict::Refuse)
}

/// The same where there is a core and no process. dlv lets its program run when an IDE is configured, which
/// a core cannot, and takes the failure for its end (service/dap/server.go, `onConfigurationDoneRequest`).
pub(crate) fn on_core(verdict: Verdict, command: &str, arguments: &Arguments) -> Verdict {
    let mut arguments = match (&verdict, command) {
        (Verdict::Forward, "attach") => arguments.clone(),
        (Verdict::Rewrite(kept, _), "attach") => kept.clone(),
        (
            Verdict::Forward | Verdict::Rewrite(..),
            "continue" | "pause" | "restart" | "stepBack" | "reverseContinue",
        ) => {
            return Verdict::Refuse(Refused::never(
                "this is the core of a crash, which does not run",
            ));
        }
        _ => return verdict,
    };
    arguments.retain(|name, _| !name.eq_ignore_ascii_case("stopOnEntry"));
    arguments.insert("stopOnEntry".to_owned(), Value::Bool(true));
    Verdict::Rewrite(arguments, "a core stands where it is")
}

fn decide(mode: Mode, command: &str, arguments: &Arguments) -> Result<Verdict, Refused> {
    match command {
        "initialize"
        | "configurationDone"
        | "threads"
        | "stackTrace"
        | "scopes"
        | "variables"
        | "exceptionInfo"
        | "disassemble"
        | "readMemory"
        | "source"
        | "loadedSources"
        | "modules"
        | "cancel"
        | "completions"
        | "breakpointLocations"
        | "stepInTargets" => {}
        "attach" => return attach(arguments),
        "disconnect" => return disconnect(arguments),
        // To whom only images are shown, the next one is.
        "continue" | "pause" => {}
        "restart" if mode == Mode::Observe => {
            return Ok(Verdict::Rewrite(Arguments::new(), "the next image"));
        }
        "next" | "stepIn" | "stepOut" => needs(mode, Mode::Step, "a step")?,
        // Or one of each time that this line is reached.
        "setBreakpoints" | "setFunctionBreakpoints" => breakpoints(arguments)?,
        "setExceptionBreakpoints" => {}
        "setInstructionBreakpoints" | "setDataBreakpoints" => {
            needs(mode, Mode::Step, "a breakpoint of this kind")?;
            breakpoints(arguments)?;
        }
        "dataBreakpointInfo" => each_text(arguments, &[("name", expressions::location)])?,
        "evaluate" => {
            if let Some(text) = strict::text(arguments, "expression").map_err(Refused::never)? {
                expressions::evaluated(mode, text)?;
            }
        }
        "setVariable" | "setExpression" => needs(mode, Mode::Modify, "setting a variable")?,
        "writeMemory" => needs(mode, Mode::Modify, "writing memory")?,
        "launch" => {
            return Err(Refused::never(
                "a program cannot be launched; use a configuration with \"request\": \"attach\" and \
             \"mode\": \"remote\"",
            ));
        }
        "restart" | "terminate" | "terminateThreads" => {
            return Err(Refused::never(
                "the service belongs to systemd; use `systemctl restart` or `systemctl stop`",
            ));
        }
        // Of images those that were seen before are kept.
        "stepBack" | "reverseContinue" if mode == Mode::Observe => {}
        "stepBack" | "reverseContinue" | "restartFrame" | "goto" | "gotoTargets" => {
            return Err(Refused::never("a live process cannot go back"));
        }
        _ => return Err(Refused::never("the gateway does not know this request")),
    }
    Ok(Verdict::Forward)
}

fn attach(arguments: &Arguments) -> Result<Verdict, Refused> {
    if strict::text(arguments, "mode").map_err(Refused::never)? != Some("remote") {
        return Err(Refused::never(
            "the debugger is attached already; use a configuration with \"mode\": \"remote\"",
        ));
    }
    let kept: Arguments = arguments
        .iter()
        .filter(|(name, _)| ATTACH.iter().any(|known| known.eq_ignore_ascii_case(name)))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    Ok(match kept.len() == arguments.len() {
        true => Verdict::Forward,
        false => {
            Verdict::Rewrite(kept, "arguments that do not belong to a remote session left out")
        }
    })
}

/// The service is never killed with its debugger; VS Code's stop button asks for that.
fn disconnect(arguments: &Arguments) -> Result<Verdict, Refused> {
    let unsafe_flag = |name| strict::flag(arguments, name).map_err(Refused::never);
    if !unsafe_flag("terminateDebuggee")?
        && !unsafe_flag("suspendDebuggee")?
        && !unsafe_flag("restart")?
    {
        return Ok(Verdict::Forward);
    }
    let only_leave = json!({ "terminateDebuggee": false });
    let arguments = only_leave.as_object().cloned().unwrap_or_default();
    Ok(Verdict::Rewrite(arguments, "the service lives on"))
}

fn breakpoints(arguments: &Arguments) -> Result<(), Refused> {
    for breakpoint in strict::objects(arguments, "breakpoints").map_err(Refused::never)? {
        each_text(
            breakpoint,
            &[
                ("condition", expressions::condition),
                ("hitCondition", expressions::hit_condition),
                ("logMessage", expressions::log_message),
                ("dataId", expressions::data_id),
                ("name", expressions::location),
            ],
        )?;
    }
    Ok(())
}

/// Takes out of dlv's capabilities what the mode would refuse, so that the IDE shows no button for
/// it. True when something was taken out.
pub(crate) fn cut_capabilities(mode: Mode, capabilities: &mut Map<String, Value>) -> bool {
    let before = capabilities.len();
    capabilities.retain(|name, _| {
        let of_images = ["supportsRestartRequest", "supportsStepBack"].contains(&name.as_str());
        ((mode == Mode::Observe && of_images) || !NEVER.contains(&name.as_str()))
            && (mode >= Mode::Modify || !MODIFY_ONLY.contains(&name.as_str()))
    });
    capabilities.len() != before
}

/// What a request means, for the record.
pub(crate) fn meaning(command: &str, arguments: &Arguments) -> Meaning {
    let get = |name| strict::field(arguments, name);
    let word = |name| get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match command {
        "evaluate" => Meaning::new("evaluate", word("expression")),
        "setVariable" => Meaning::new("set", word("name")),
        "setExpression" => Meaning::new("set", word("expression")),
        "setBreakpoints" => Meaning::new("breakpoints", lines(arguments)),
        "setFunctionBreakpoints" => Meaning::new("breakpoints", names(arguments, "name")),
        "setInstructionBreakpoints" => {
            Meaning::new("breakpoints", names(arguments, "instructionReference"))
        }
        "setDataBreakpoints" => Meaning::new("watchpoints", names(arguments, "dataId")),
        "readMemory" | "writeMemory" => Meaning::new(
            if command == "readMemory" { "read-memory" } else { "write-memory" },
            word("memoryReference"),
        ),
        "continue" | "next" | "stepIn" | "stepOut" | "pause" | "restart" | "stepBack"
        | "reverseContinue" => Meaning::new("run", command),
        "attach" | "disconnect" | "initialize" => Meaning::new("connection", command),
        "variables" => Meaning::new(
            "variables",
            get("variablesReference").map(Value::to_string).unwrap_or_default(),
        ),
        other => Meaning::new("request", other.chars().take(40).collect::<String>()),
    }
}

/// `path:line, path:line`, as an auditor would write them.
fn lines(arguments: &Arguments) -> String {
    let source = strict::field(arguments, "source").and_then(Value::as_object);
    let path = source.and_then(|s| strict::field(s, "path")).and_then(Value::as_str);
    let path = path.unwrap_or("?");
    let list = strict::objects(arguments, "breakpoints").unwrap_or_default();
    if list.is_empty() {
        return format!("none in {path}");
    }
    let each = list.iter().map(|breakpoint| {
        let line = strict::field(breakpoint, "line").map(Value::to_string).unwrap_or_default();
        let condition = strict::text(breakpoint, "condition").ok().flatten();
        let condition = condition.map(|text| format!(" if {text}")).unwrap_or_default();
        format!("{path}:{line}{condition}")
    });
    each.collect::<Vec<_>>().join(", ")
}

fn names(arguments: &Arguments, name: &str) -> String {
    let list = strict::objects(arguments, "breakpoints").unwrap_or_default();
    let each = list.iter().filter_map(|one| strict::text(one, name).ok().flatten());
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(mode: Mode, command: &str, arguments: &Value) -> Verdict {
        judge(mode, command, arguments.as_object().unwrap())
    }

    #[test]
    fn a_step_session_changes_nothing() {
        for (command, arguments) in [
            ("setVariable", json!({"name": "x", "value": "1"})),
            ("setExpression", json!({"expression": "x", "value": "1"})),
            ("writeMemory", json!({})),
            ("evaluate", json!({"expression": "call f()", "context": "repl"})),
            ("evaluate", json!({"Expression": " call f()"})),
        ] {
            let refused = verdict(Mode::Step, command, &arguments);
            let Verdict::Refuse(refused) = refused else { panic!("{command}: {refused:?}") };
            assert!(refused.text(Mode::Step).contains("--mode modify"), "{refused:?}");
            assert_eq!(verdict(Mode::Modify, command, &arguments), Verdict::Forward, "{command}");
        }
    }

    #[test]
    fn no_session_ends_or_rewinds_the_service_and_the_unknown_is_refused() {
        for command in ["restart", "terminate", "launch", "stepBack", "goto", "newThing", ""] {
            let verdict = verdict(Mode::Modify, command, &json!({}));
            assert!(matches!(&verdict, Verdict::Refuse(r) if r.allowed_in.is_none()), "{command}");
        }
        let stop = verdict(Mode::Modify, "disconnect", &json!({"TerminateDebuggee": true}));
        let Verdict::Rewrite(arguments, _) = stop else { panic!("{stop:?}") };
        assert_eq!(Value::Object(arguments), json!({"terminateDebuggee": false}));
        let odd = verdict(Mode::Modify, "disconnect", &json!({"terminateDebuggee": 1}));
        assert!(matches!(odd, Verdict::Refuse(_)));
    }

    #[test]
    fn every_text_of_a_breakpoint_is_looked_into() {
        let writes = "main.T{P: p, F: 1}.F";
        let hidden = [
            ("setBreakpoints", "condition", writes.to_owned()),
            ("setBreakpoints", "Condition", "call f()".to_owned()),
            ("setBreakpoints", "hitCondition", "% 0".to_owned()),
            ("setBreakpoints", "logMessage", format!("x is {{ {writes} }}")),
            ("setFunctionBreakpoints", "name", format!("*{writes}")),
            ("setDataBreakpoints", "dataId", format!("1,0,{writes}")),
        ];
        for (command, name, text) in hidden {
            let hidden = json!({"breakpoints": [{"line": 1}, {"line": 2, name: text}]});
            let verdict = verdict(Mode::Modify, command, &hidden);
            assert!(matches!(verdict, Verdict::Refuse(_)), "{command} {name}: {verdict:?}");
        }
        let info = verdict(Mode::Step, "dataBreakpointInfo", &json!({"name": writes}));
        assert!(matches!(info, Verdict::Refuse(_)));
        let plain = json!({"breakpoints": [{"line": 2, "condition": "o.Id == 3"}]});
        assert_eq!(verdict(Mode::Step, "setBreakpoints", &plain), Verdict::Forward);
    }

    #[test]
    fn a_core_stands_and_is_not_let_run() {
        let on = |command: &str, arguments: Value| {
            let judged = verdict(Mode::Observe, command, &arguments);
            on_core(judged, command, arguments.as_object().unwrap())
        };
        let attach = json!({"mode": "remote", "stoponentry": false, "program": "/bin/sh"});
        let Verdict::Rewrite(arguments, _) = on("attach", attach) else { panic!("forwarded") };
        assert_eq!(Value::Object(arguments), json!({"mode": "remote", "stopOnEntry": true}));
        for command in ["continue", "pause", "restart", "next", "reverseContinue"] {
            assert!(matches!(on(command, json!({})), Verdict::Refuse(_)), "{command}");
        }
        assert_eq!(on("threads", json!({})), Verdict::Forward);
        assert!(matches!(on("attach", json!({"mode": "local"})), Verdict::Refuse(_)));
    }

    #[test]
    fn who_observes_has_lines_and_images_and_no_step() {
        let line = json!({"breakpoints": [{"line": 2, "condition": "o.Id == 3"}]});
        for (command, arguments) in [
            ("attach", json!({"mode": "remote"})),
            ("setBreakpoints", line.clone()),
            ("setFunctionBreakpoints", json!({"breakpoints": [{"name": "main.f"}]})),
            ("continue", json!({})),
            ("pause", json!({})),
        ] {
            assert_eq!(verdict(Mode::Observe, command, &arguments), Verdict::Forward, "{command}");
        }
        for command in ["next", "stepIn", "stepOut", "setDataBreakpoints", "setVariable"] {
            let refused = verdict(Mode::Observe, command, &line);
            assert!(
                matches!(&refused, Verdict::Refuse(why) if why.allowed_in.is_some()),
                "{command}"
            );
        }
        let restart =
            verdict(Mode::Observe, "restart", &json!({"arguments": {"program": "/bin/sh"}}));
        assert!(matches!(restart, Verdict::Rewrite(kept, _) if kept.is_empty()));
        let mut shown = json!({"supportsRestartRequest": true, "supportsSetVariable": true});
        cut_capabilities(Mode::Observe, shown.as_object_mut().unwrap());
        assert_eq!(shown, json!({"supportsRestartRequest": true}));
    }

    #[test]
    fn attaching_is_remote_and_keeps_what_shapes_the_view() {
        let local = verdict(Mode::Modify, "attach", &json!({"mode": "local", "processId": 1}));
        assert!(matches!(local, Verdict::Refuse(_)), "{local:?}");
        let remote = json!({"mode": "remote", "stopOnEntry": true, "followExec": true, "env": {}});
        let Verdict::Rewrite(kept, _) = verdict(Mode::Step, "attach", &remote) else { panic!() };
        assert_eq!(Value::Object(kept), json!({"mode": "remote", "stopOnEntry": true}));
    }

    #[test]
    fn capabilities_are_those_of_the_mode() {
        let all = json!({"supportsSetVariable": true, "supportTerminateDebuggee": true, "a": 1});
        let mut step = all.as_object().unwrap().clone();
        assert!(cut_capabilities(Mode::Step, &mut step));
        assert_eq!(Value::Object(step), json!({"a": 1}));
        let mut modify = all.as_object().unwrap().clone();
        cut_capabilities(Mode::Modify, &mut modify);
        assert_eq!(Value::Object(modify), json!({"a": 1, "supportsSetVariable": true}));
    }

    #[test]
    fn the_record_says_what_was_meant() {
        let arguments = json!({"source": {"path": "/s/main.go"},
            "breakpoints": [{"line": 7}, {"line": 9, "condition": "x > 1"}]});
        let meaning = meaning("setBreakpoints", arguments.as_object().unwrap());
        assert_eq!(meaning.subject, "/s/main.go:7, /s/main.go:9 if x > 1");
    }
}
