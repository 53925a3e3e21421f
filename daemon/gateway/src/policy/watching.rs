//! What a guest may ask who only watches a session: what the session's mode allows, and of that nothing
//! that stops the target, lets it go, sets a breakpoint or moves what others look at.

use super::{Meaning, Refused, Verdict};

/// Decides on what the session's mode allows.
pub(crate) fn judge(request: &str, meaning: &Meaning, verdict: Verdict) -> Verdict {
    let refused = |what: &str| {
        Verdict::Refuse(Refused::never(format!(
            "whoever has this ticket can only watch, and {what}; whoever has shared the session can \
             share it in full"
        )))
    };
    // dlv's DAP server stops the target for `attach` (service/dap/server.go, `onAttachRequest`), and
    // answers nothing before it.
    let is_rpc = request.starts_with("RPCServer.");
    if !is_rpc && !matches!(request, "initialize" | "disconnect") {
        return refused("not attach an IDE, which stops the service: use dlv connect");
    }
    match (meaning.operation, meaning.subject.as_str()) {
        // dlv's own client begins with it where the target runs, and waits for a stop then.
        ("run", "halt") => Verdict::Answer,
        ("run", _) => refused("not run or stop the service"),
        ("breakpoints" | "watchpoints", _) => refused("not set or clear a breakpoint"),
        ("set", _) => refused("not change the service"),
        _ => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{dap, rpc};
    use godebug_api::Mode;
    use serde_json::{Value, json};

    fn by_rpc(method: &str, parameters: &Value) -> Verdict {
        let (method, fields) = (format!("RPCServer.{method}"), parameters.as_object().unwrap());
        let verdict = rpc::judge(Mode::Modify, &method, fields);
        assert!(matches!(verdict, Verdict::Forward), "{method} is nothing to refuse");
        judge(&method, &rpc::meaning(&method, fields), verdict)
    }

    #[test]
    fn looking_is_allowed_and_a_hand_on_the_service_is_not() {
        for (method, parameters) in [
            ("State", json!({"NonBlocking": true})),
            ("Stacktrace", json!({"Id": 1, "Depth": 5})),
            ("Eval", json!({"Expr": "x"})),
            ("ListGoroutines", json!({})),
            ("ListBreakpoints", json!({})),
        ] {
            assert_eq!(by_rpc(method, &parameters), Verdict::Forward, "{method}");
        }
        for (method, parameters) in [
            ("Command", json!({"name": "continue"})),
            ("Command", json!({"name": "switchGoroutine", "goroutineID": 2})),
            ("Command", json!({"name": "call", "expr": "f()"})),
            ("CancelNext", json!({})),
            ("CreateBreakpoint", json!({"Breakpoint": {"functionName": "f"}})),
            ("ClearBreakpoint", json!({"Id": 1})),
            ("ToggleBreakpoint", json!({"Id": 1})),
            ("AmendBreakpoint", json!({"Breakpoint": {"id": 1}})),
            ("CreateWatchpoint", json!({"Expr": "x"})),
            ("Set", json!({"Symbol": "x", "Value": "1"})),
        ] {
            assert!(matches!(by_rpc(method, &parameters), Verdict::Refuse(_)), "{method}");
        }
        assert_eq!(by_rpc("Command", &json!({"name": "halt"})), Verdict::Answer);
    }

    #[test]
    fn an_ide_that_only_watches_cannot_attach() {
        let arguments = json!({"mode": "remote"});
        let arguments = arguments.as_object().unwrap();
        let verdict = dap::judge(Mode::Step, "attach", arguments);
        let verdict = judge("attach", &dap::meaning("attach", arguments), verdict);
        assert!(matches!(verdict, Verdict::Refuse(why) if why.why.contains("dlv connect")));
        let empty = serde_json::Map::new();
        for command in ["continue", "pause", "setBreakpoints", "configurationDone", "evaluate"] {
            let verdict = dap::judge(Mode::Modify, command, &empty);
            let verdict = judge(command, &dap::meaning(command, &empty), verdict);
            assert!(matches!(verdict, Verdict::Refuse(_)), "{command}: {verdict:?}");
        }
    }
}
