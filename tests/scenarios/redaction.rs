//! What a rule of the host hides is shown to nobody, whatever they ask with, and the record says what was.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::{Value, json};

use crate::support::{
    Laptop, SOON, Session, is_answered, leaves_nothing, order, refused as refused_by_host, text,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("ide_is_not_shown_what_a_rule_hides", in_an_ide).on_newest(),
    Scenario::new("dlv_connect_is_not_shown_what_a_rule_hides", in_dlv),
    Scenario::new("snapshot_does_not_show_what_a_rule_hides", in_a_snapshot).on_newest(),
];

const RULES: &str = "/etc/godebug/rules.d/10-hidden.toml";

const HIDDEN: &str = r#"
[[rule]]
name = "customers are nobody's business"
effect = "allow"
units = ["myapp"]
users = ["root"]
modes = ["observe", "step", "modify"]
transcript_values = "full"
redact = { names = ["customer", "label", "NUMBER"], patterns = ["450"] }
"#;

/// The order's customer, however it is written.
fn is_hidden(what: &str, shown: &str) -> Result<()> {
    ensure!(!shown.to_lowercase().contains("customer-3"), "{what} shows it: {shown}");
    Ok(())
}

fn refused(answer: Result<Value>) -> Result<()> {
    let said = answer.map_err(|error| format!("{error:#}"));
    ensure!(said.as_ref().is_err_and(|why| why.contains("a rule of this host hides")), "{said:?}");
    Ok(())
}

fn has_the_rule(host: &Host) -> Result<()> {
    host.ok("mkdir -p /etc/godebug/rules.d")?;
    host.write_file(RULES, HIDDEN)
}

fn in_an_ide(host: &Host) -> Result<()> {
    has_the_rule(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "90s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf", "main.finish"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        let (thread, _) = ide.wait_for_stop()?;
        let frame = ide.stack_trace(thread)?[0]["id"].as_i64().unwrap_or_default();
        // The order itself, as a line and field by field.
        let price = format!("{:?}", ide.locals(frame)?);
        is_hidden("the order on one line", &price)?;
        ensure!(price.contains("Items"), "the rest of the order is not shown: {price}");
        ensure!(!price.contains("450"), "what a pattern fits is shown: {price}");
        let whole = ide.request(
            "evaluate",
            json!({"expression": "o", "frameId": frame, "context": "watch"}),
        )?;
        is_hidden("the order as a watch", &whole.to_string())?;
        let fields = ide.variables(whole["variablesReference"].as_i64().unwrap_or_default())?;
        is_hidden("the order's fields", &format!("{fields:?}"))?;

        for expression in
            ["o.Customer", "o.customer == \"x\"", "o.Tags[\"number\"]", "*(*string)(0xc0)"]
        {
            let asked = json!({"expression": expression, "frameId": frame, "context": "repl"});
            refused(ide.request("evaluate", asked))?;
        }
        let logged = json!({"source": {"path": "/opt/samples/src/shop/main.go"},
            "breakpoints": [{"line": 1, "logMessage": "{o.Customer}"}]});
        refused(ide.request("setBreakpoints", logged))?;
        refused(ide.request("readMemory", json!({"memoryReference": "0xc000", "count": 8})))?;
        ensure!(ide.evaluate(frame, "o.ID")? == "3", "what is not hidden is not shown");
        ide.resume(thread)?;
        let (thread, _) = ide.wait_for_stop()?;
        let frame = ide.stack_trace(thread)?[0]["id"].as_i64().unwrap_or_default();
        let finish = format!("{:?}", ide.locals(frame)?);
        is_hidden("the callee's label", &finish)?;
        ensure!(
            finish.contains("hidden") && finish.contains("1297"),
            "too much or little: {finish}"
        );
        ide.resume(thread)?;
        is_answered(request)?;
        drop(ide);
        session.stop(host)?;

        let text = host.read_file(&format!("/var/log/godebug/sessions/{}.jsonl", session.id))?;
        is_hidden("the transcript", &text)?;
        ensure!(text.contains(r#"{"name":"o.ID","value":"3"}"#), "no value of o.ID:\n{text}");
        ensure!(text.contains("hidden by a rule"), "nothing was hidden:\n{text}");
        Ok(())
    })
}

fn in_dlv(host: &Host) -> Result<()> {
    has_the_rule(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "90s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        rpc.create_breakpoint("main.priceOf")?;
        rpc.create_breakpoint("main.finish")?;
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        let request = order(host, 8080)?;
        rpc.answer("Command", waiting)?;
        let eval = |expression: &str| {
            json!({"Scope": {"GoroutineID": -1, "Frame": 0}, "Expr": expression,
                "Cfg": {"FollowPointers": true, "MaxVariableRecurse": 3, "MaxStringLen": 64,
                        "MaxArrayValues": 64, "MaxStructFields": -1}})
        };
        let whole = rpc.call("Eval", eval("o"))?.to_string();
        is_hidden("the order", &whole)?;
        ensure!(whole.contains("channel") && whole.contains("web"), "the rest is gone: {whole}");
        refused(rpc.call("Eval", eval("o.Customer")))?;
        refused(rpc.call("ExamineMemory", json!({"Address": 4096, "Length": 8})))?;
        let watched = json!({"Breakpoint": {"functionName": "main.priceOf", "line": -1,
            "variables": ["o.Customer"]}});
        refused(rpc.call("CreateBreakpoint", watched))?;
        rpc.command("continue")?;
        let stack = rpc.stacktrace(-1)?.to_string();
        is_hidden("the stack with its variables", &stack)?;
        ensure!(stack.contains("hidden by a rule") && stack.contains("1297"), "{stack}");
        drop(rpc);
        is_answered(request)?;
        session.stop(host)
    })
}

/// One image at a line of an order that is asked for meanwhile.
fn snapshot(host: &Host, words: &str) -> Result<Value> {
    let line = format!(
        "exec godebugctl --json snapshot myapp --max-pause 2s --timeout 60s --reason why {words}"
    );
    let mut waiting = host.spawn(&line)?;
    crate::snapshot::is_armed(host, &waiting)?;
    let answer = order(host, 8080)?;
    let output = waiting.wait(SOON * 4)?.exits(0)?;
    is_answered(answer)?;
    serde_json::from_str(output.stdout.trim()).context("not one line")
}

fn in_a_snapshot(host: &Host) -> Result<()> {
    has_the_rule(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        let price = snapshot(host, "--at main.priceOf")?["variables"].to_string();
        is_hidden("the order", &price)?;
        ensure!(price.contains("Items") && price.contains("hidden by a rule"), "{price}");
        ensure!(!price.contains("450"), "what a pattern fits is shown: {price}");
        let finish = snapshot(host, "--at main.finish --if 'total > 0'")?["variables"].to_string();
        is_hidden("the label", &finish)?;
        ensure!(finish.contains("hidden by a rule") && finish.contains("1297"), "{finish}");
        for words in
            ["--expr o.Customer", "--if 'o.Customer == \"x\"'", "--expr '*(*string)(0xc0)'"]
        {
            let asked = host.run(&format!(
                "godebugctl --json snapshot myapp --at main.priceOf --reason why {words}"
            ))?;
            let why = refused_by_host(asked, 3, "refused")?;
            ensure!(why.contains("a rule of this host hides"), "{why}");
        }
        let shown = snapshot(host, "--at main.priceOf --expr o.ID --expr o.Tags")?;
        let values = shown["variables"].to_string();
        is_hidden("an expression", &values)?;
        ensure!(values.contains(r#""value":"3""#) && values.contains("channel"), "{values}");

        // What was looked at is written down, without what nobody is shown.
        let list = host.run("godebugctl --json audit list --last 1")?.exits(0)?.json()?;
        let id = text(&list["sessions"][0], "id")?;
        let transcript = host.read_file(&format!("/var/log/godebug/sessions/{id}.jsonl"))?;
        is_hidden("the transcript", &transcript)?;
        for part in [
            r#""operation":"snapshot","subject":"at main.priceOf""#,
            r#""operation":"evaluate","subject":"o.Tags""#,
            r#""event":"image","pause_ms":"#,
            r#"{"name":"o.ID","value":"3"}"#,
            r#""event":"ended","why":"all was shown""#,
        ] {
            ensure!(transcript.contains(part), "no {part} in:\n{transcript}");
        }
        let told = host.ok(&format!("godebugctl audit show {id}"))?;
        ensure!(
            told.contains("whole:") && told.contains("an image was taken at main.priceOf"),
            "{told}"
        );
        Ok(())
    })
}
