//! What the gateway understands: a person is told no in the debugger's own words, and nobody leaves
//! the service standing.

use anyhow::{Result, ensure};
use godebug_tests::{Host, dap::DapClient, scenario::Scenario};
use serde_json::{Value, json};
use std::{net::TcpStream, time::Duration};

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, order, start};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("step_session_changes_nothing_and_the_ide_goes_on", step_in_an_ide)
        .on_newest()
        .shared(),
    Scenario::new("step_session_changes_nothing_and_dlv_connect_goes_on", step_in_dlv)
        .on_newest()
        .shared(),
    Scenario::new("step_session_changes_nothing_by_json_rpc", step_by_json_rpc).shared(),
    Scenario::new("modify_session_sets_a_variable", modify).shared(),
    Scenario::new("client_that_vanishes_at_a_breakpoint_lets_the_service_go_on", vanished)
        .on_newest()
        .shared(),
    Scenario::new("client_that_vanishes_within_a_step_lets_the_service_go_on", within_a_step)
        .shared(),
    Scenario::new("stop_button_of_an_ide_ends_neither_service_nor_session", stop_button).shared(),
    Scenario::new("last_of_the_clients_that_stopped_it_lets_the_service_go_on", two_clients)
        .shared(),
];

/// At the breakpoint in `priceOf`, with somebody's order waiting there.
fn stands(host: &Host, ide: &mut DapClient<TcpStream>) -> Result<(godebug_tests::Spawned, i64)> {
    ide.attach()?;
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done()?;
    let request = order(host, 8080)?;
    let (thread, _) = ide.wait_for_stop()?;
    Ok((request, thread))
}

fn is_refused(answer: Result<Value>, word: &str) -> Result<()> {
    let said = answer.map_err(|error| format!("{error:#}"));
    ensure!(
        said.as_ref().is_err_and(|why| why.contains("godebug refused this") && why.contains(word)),
        "not refused with {word:?}: {said:?}"
    );
    Ok(())
}

fn step_in_an_ide(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut first = laptop.dap()?;
        let capabilities = first.initialize()?.to_string();
        ensure!(capabilities.contains("supportsConfigurationDoneRequest"), "{capabilities}");
        for hidden in ["supportsSetVariable", "supportsStepBack", "supportTerminateDebuggee"] {
            ensure!(!capabilities.contains(hidden), "the IDE is offered {hidden}");
        }
        drop(first);

        let mut ide = laptop.dap()?;
        let (request, thread) = stands(host, &mut ide)?;
        let frame = ide.stack_trace(thread)?[0]["id"].as_i64().unwrap_or_default();
        let customer = ide.evaluate(frame, "o.Customer")?;
        let scopes = ide.scopes(frame)?;
        let set = json!({
            "variablesReference": scopes[0]["variablesReference"], "name": "o", "value": "nil",
        });
        is_refused(ide.request("setVariable", set), "--mode modify")?;
        let call = |text: &str| json!({"expression": text, "frameId": frame, "context": "repl"});
        is_refused(
            ide.request("evaluate", call("call main.finish(\"\", nil, 0)")),
            "--mode modify",
        )?;
        is_refused(ide.request("evaluate", call("dlv target follow-exec -on")), "beyond")?;
        is_refused(ide.request("restart", json!({})), "systemctl")?;
        // From dlv 1.24.2 on a literal like this writes to what `o` points to, without any `call`.
        let literal = "main.outer{order: o, Customer: \"x\"}";
        is_refused(ide.request("evaluate", call(literal)), "composite literal")?;
        let at = |name: &str, text: String| json!({"breakpoints": [{name: text}]});
        let logged = json!({
            "source": {"path": "/opt/samples/src/shop/main.go"},
            "breakpoints": [{"line": 1, "logMessage": format!("{{{literal}}}")}],
        });
        is_refused(ide.request("setBreakpoints", logged), "composite literal")?;
        let by_name = at("name", format!("*{literal}.Customer"));
        is_refused(ide.request("setFunctionBreakpoints", by_name), "brace")?;
        let watched = at("dataId", format!("1,0,{literal}.Customer"));
        is_refused(ide.request("setDataBreakpoints", watched), "composite literal")?;
        is_refused(ide.request("writeMemory", json!({"memoryReference": "0x0"})), "--mode modify")?;
        ensure!(ide.evaluate(frame, "o.Customer")? == customer, "the variable has changed");
        ide.resume(thread)?;
        is_answered(request)?;
        let journal = host.ok(&format!("journalctl -u {} -o cat", session.unit("gateway")))?;
        ensure!(journal.contains("o.Customer") && journal.contains("refused:"), "{journal}");
        session.stop(host)
    })
}

/// dlv's own client, of the version that the host has.
fn step_in_dlv(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let lines = "break main.finish\ncontinue\nset total = 1\ncall main.finish(label, lines, 0)\n\
                     print main.T{P: p, F: 1}\ndump /tmp/core\nrestart\nprint label\nclearall\nexit -c\n";
        let mut client = laptop.dlv_connect(lines)?;
        client.dlv.wait_for_line("main.finish", SOON)?;
        let request = order(host, 8080)?;
        let printed = client.dlv.wait(SOON)?.exits(0)?.stdout;
        ensure!(printed.matches("godebug refused this").count() == 5, "{printed}");
        for part in ["--mode modify", "composite literal", "systemctl", "\"CUSTOMER-3/3\""] {
            ensure!(printed.contains(part), "dlv did not print {part}:\n{printed}");
        }
        is_answered(request)?;
        session.stop(host)
    })
}

fn step_by_json_rpc(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        let set = json!({"Scope": {"GoroutineID": -1}, "Symbol": "x", "Value": "1"});
        is_refused(rpc.call("Set", set), "--mode modify")?;
        let literal = json!({"Scope": {"GoroutineID": -1}, "Expr": "main.T{P: p, F: 1}"});
        is_refused(rpc.call("Eval", literal), "composite literal")?;
        is_refused(rpc.call("Command", json!({"name": "call", "expr": "f()"})), "--mode modify")?;
        is_refused(rpc.call("DumpStart", json!({"Destination": "/tmp/core"})), "file")?;
        is_refused(rpc.call("Detach", json!({"Kill": true})), "systemctl")?;
        is_refused(rpc.call("Restart", json!({})), "systemctl")?;
        is_refused(rpc.call("FollowExec", json!({"Enable": true})), "children")?;
        ensure!(rpc.state()?["Running"] == true, "the service stands still");
        // Leaving is not ending: dlv and the session go on.
        rpc.detach(false)?;
        drop(laptop.rpc()?);
        is_answered(order(host, 8080)?)?;
        session.stop(host)
    })
}

fn modify(host: &Host) -> Result<()> {
    start(host, "ticker")?;
    leaves_nothing(host, &["ticker"], |_| {
        let options = format!("--ttl 60s --mode modify --from {}", host.laptop_address());
        let session = Session::open(host, "ticker", &options)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        let scope = json!({"GoroutineID": -1});
        let set = json!({"Scope": scope, "Symbol": "main.ticks", "Value": "1234567"});
        rpc.call("Set", set)?;
        let eval = json!({"Scope": scope, "Expr": "main.ticks", "Cfg": {}});
        let after = rpc.call("Eval", eval)?;
        ensure!(after["Variable"]["value"] == "1234567", "{after}");
        drop(rpc);
        session.stop(host)
    })
}

fn vanished(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        let (request, _) = stands(host, &mut ide)?;
        drop(ide);
        is_answered(request)?;
        // And nobody else runs into the breakpoint that it had set.
        is_answered(order(host, 8080)?)?;

        // The same for one that had only halted it.
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        drop(rpc);
        is_answered(order(host, 8080)?)?;

        // The session goes on, and the next client finds a clean slate.
        let mut ide = laptop.dap()?;
        let (request, thread) = stands(host, &mut ide)?;
        ide.resume(thread)?;
        is_answered(request)?;
        session.stop(host)
    })
}

fn within_a_step(host: &Host) -> Result<()> {
    start(host, "ticker")?;
    leaves_nothing(host, &["ticker"], |_| {
        let session = Session::for_laptop(host, "ticker", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        // The loop waits for up to 100 ms; the client goes while dlv waits with it.
        for round in 1..=6 {
            let mut ide = laptop.dap()?;
            ide.attach()?;
            ide.set_function_breakpoints(&["main.tick"])?;
            ide.configuration_done()?;
            let (thread, _) = ide.wait_for_stop()?;
            ide.request("stepOut", json!({"threadId": thread}))?;
            let (thread, _) = ide.wait_for_stop()?;
            ide.request("next", json!({"threadId": thread}))?;
            drop(ide);
            is_let_go(host, &session, round)?;

            let mut watcher = laptop.rpc()?;
            watcher.limit = Duration::from_millis(400);
            let stopped = watcher.state_when_stopped();
            ensure!(stopped.is_err(), "it stopped with nobody there: {stopped:?}");
        }
        session.stop(host)
    })
}

fn stop_button(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        let (request, _) = stands(host, &mut ide)?;
        ide.disconnect(true)?;
        drop(ide);
        is_answered(request)?;
        ensure!(session.show(host)?["state"] == "active", "the session has ended");
        session.stop(host)
    })
}

fn two_clients(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        // One who only looks keeps nobody waiting.
        let mut watcher = laptop.rpc()?;
        let mut ide = laptop.dap()?;
        let (request, _) = stands(host, &mut ide)?;
        ensure!(watcher.state()?["Running"] == false, "it does not stand");
        drop(ide);
        is_answered(request)?;

        // One who has stopped it too is not robbed of it when the other goes.
        let mut ide = laptop.dap()?;
        let (request, _) = stands(host, &mut ide)?;
        let mut second = laptop.rpc()?;
        second.command("halt")?;
        let before = gone(host, &session)?;
        drop(ide);
        host.wait_until("the IDE has gone", SOON, || Ok(gone(host, &session)? > before))?;
        ensure!(second.list_breakpoints().is_ok(), "it runs under the other's eyes");
        ensure!(watcher.state()?["Running"] == false, "it runs under the other's eyes");
        drop(second);
        is_answered(request)?;
        session.stop(host)
    })
}

/// How many clients have gone, with all that the gateway does then done.
fn gone(host: &Host, session: &Session) -> Result<usize> {
    let journal = host.ok(&format!("journalctl -u {} -o cat", session.unit("gateway")))?;
    Ok(journal.lines().filter(|line| line.contains(" closed peer=")).count())
}

/// The gateway has said for the n-th time that it has let the service go.
pub(crate) fn is_let_go(host: &Host, session: &Session, times: usize) -> Result<()> {
    let words = format!("journalctl -u {} -o cat", session.unit("gateway"));
    host.wait_until("the service is let go", SOON, || {
        Ok(host.ok(&words)?.matches("the service runs").count() >= times)
    })
}
