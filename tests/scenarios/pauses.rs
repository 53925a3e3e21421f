//! Nobody is left frozen: a service that has stood for as long as it may goes on, whoever is there, and
//! the person is told.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, dap::DapClient, scenario::Scenario};
use serde_json::{Value, json};
use std::{net::TcpStream, time::Duration};

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, order};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("service_goes_on_after_its_pause_budget_and_the_ide_is_told", ide_at_lunch)
        .on_newest()
        .shared(),
    Scenario::new("service_goes_on_after_its_pause_budget_and_dlv_connect_is_told", dlv_at_lunch)
        .shared(),
    Scenario::new("service_that_stood_for_its_whole_budget_is_stopped_no_more", used_up).shared(),
    Scenario::new("transcript_tells_what_was_done_and_that_it_stood", transcript)
        .on_newest()
        .shared(),
];

fn open(host: &Host, unit: &str, options: &str) -> Result<Session> {
    Session::open(host, unit, &format!("--ttl 90s --from {} {options}", host.laptop_address()))
}

/// Words in the console of the IDE that hold all of these.
fn is_told(ide: &mut DapClient<TcpStream>, words: &[&str]) -> Result<()> {
    loop {
        let event = ide.wait_for_event("output")?;
        let said = event["output"].as_str().unwrap_or_default();
        if words.iter().all(|word| said.contains(word)) {
            return Ok(());
        }
    }
}

fn ide_at_lunch(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = open(host, "myapp", "--pause-budget 3s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        ide.wait_for_stop()?;
        is_told(&mut ide, &["has been standing", "goes on by itself"])?;
        let event = ide.wait_for_event("continued")?;
        ensure!(event["allThreadsContinued"] == true, "{event}");
        is_told(&mut ide, &["the service goes on", "until you set them again"])?;
        is_answered(request)?;
        // The breakpoint is off: nobody else runs into it.
        is_answered(order(host, 8080)?)?;

        // The IDE knows that it runs; set again, the breakpoint works as before.
        let threads = ide.threads()?;
        ensure!(threads.len() == 1, "the IDE was told of threads of a running target: {threads:?}");
        ide.set_function_breakpoints(&["main.priceOf"])?;
        let request = order(host, 8080)?;
        let (thread, reason) = ide.wait_for_stop()?;
        ensure!(reason == "function breakpoint", "it stopped because of {reason}");
        ensure!(!ide.stack_trace(thread)?.is_empty(), "no stack at the second stop");
        ide.resume(thread)?;
        is_answered(request)?;
        drop(ide);
        session.stop(host)?;

        let end = session.show(host)?["transcript"].take();
        ensure!(end["let_go"] == 1, "let go another number of times: {end}");
        let longest = end["longest_stop_ms"].as_u64().unwrap_or_default();
        ensure!((2500..10_000).contains(&longest), "the longest stop is not its budget: {end}");
        Ok(())
    })
}

fn dlv_at_lunch(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = open(host, "myapp", "--pause-budget 2s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        let breakpoint = rpc.create_breakpoint("main.priceOf")?;
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        let request = order(host, 8080)?;
        rpc.answer("Command", waiting)?;
        // It goes on although nobody has said so.
        is_answered(request)?;

        // Where dlv would wait, and with it whoever asked, there is an answer.
        let eval = json!({"Scope": {"GoroutineID": -1}, "Expr": "1 + 1", "Cfg": {}});
        let refused = rpc.call("Eval", eval.clone()).map_err(|error| format!("{error:#}"));
        ensure!(refused.as_ref().is_err_and(|why| why.contains("was let go")), "{refused:?}");
        // `continue` waits for the next stop, and Ctrl-C brings it about.
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        rpc.command("halt")?;
        let state = rpc.answer("Command", waiting)?;
        ensure!(state["State"]["Running"] == false, "it did not stop: {state}");
        ensure!(rpc.call("Eval", eval)?["Variable"]["value"] == "2", "it stands and answers");
        let list = rpc.list_breakpoints()?;
        ensure!(list.to_string().contains("\"disabled\":true"), "no breakpoint is off: {list}");

        // Turned on again, it works as before.
        rpc.call("ToggleBreakpoint", json!({"Id": breakpoint}))?;
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        let request = order(host, 8080)?;
        let state = rpc.answer("Command", waiting)?;
        let at = &state["State"]["currentThread"]["breakPoint"]["id"];
        ensure!(*at == breakpoint, "it stopped somewhere else: {state}");
        drop(rpc);
        is_answered(request)?;
        session.stop(host)
    })
}

/// What is older is removed by systemd, and this one is not.
fn is_kept_for_a_year(host: &Host, path: &str) -> Result<()> {
    let old = "/var/log/godebug/sessions/00000000.jsonl";
    host.ok(&format!("touch -d '366 days ago' {old}; touch -d '364 days ago' {old}.younger"))?;
    host.ok("systemd-tmpfiles --clean /usr/lib/tmpfiles.d/godebug.conf")?;
    ensure!(!host.path(old).exists(), "a transcript of more than a year ago is there still");
    ensure!(host.path(&format!("{old}.younger")).exists(), "a younger one is gone");
    ensure!(host.path(path).exists(), "today's is gone");
    host.ok(&format!("rm {old}.younger")).map(drop)
}

fn used_up(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        host.ok(
            "mkdir -p /etc/godebug; echo 'pause_per_session = \"2s\"' > /etc/godebug/godebugd.toml",
        )?;
        let session = open(host, "myapp", "")?;
        host.ok("rm -r /etc/godebug")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        let (thread, _) = ide.wait_for_stop()?;
        is_told(&mut ide, &["cannot stop it any more", "open another"])?;
        is_answered(request)?;
        let refused = |answer: Result<Value>| {
            let said = answer.map_err(|error| format!("{error:#}"));
            ensure!(said.as_ref().is_err_and(|why| why.contains("used up")), "{said:?}");
            Ok(())
        };
        refused(ide.request("pause", json!({"threadId": thread})))?;
        let again = json!({"breakpoints": [{"name": "main.priceOf"}]});
        refused(ide.request("setFunctionBreakpoints", again))?;
        // Taking them back is no way to hold it.
        ide.set_function_breakpoints(&[])?;
        let mut second = laptop.dap()?;
        second.initialize()?;
        refused(second.request("attach", json!({"request": "attach", "mode": "remote"})))?;
        is_answered(order(host, 8080)?)?;
        session.stop(host)
    })
}

fn transcript(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = open(host, "myapp", "")?;
        let mut watcher = host.spawn(&format!("exec godebugctl watch {}", session.id))?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        watcher.wait_for_line("breakpoints  main.priceOf", SOON)?;
        let (thread, _) = ide.wait_for_stop()?;
        let frame = ide.stack_trace(thread)?[0]["id"].as_i64().unwrap_or_default();
        ide.evaluate(frame, "o.Customer")?;
        ensure!(ide.request("restart", json!({})).is_err(), "the service was restarted");
        std::thread::sleep(Duration::from_millis(300)); // to be seen standing
        drop(ide);
        is_answered(request)?;
        session.stop(host)?;

        let path = format!("/var/log/godebug/sessions/{}.jsonl", session.id);
        let text = host.read_file(&path)?;
        ensure!(host.ok(&format!("stat -c '%a %U' {path}"))?.trim() == "600 root", "its mode");
        let lines: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()
            .context("its lines")?;
        let holds = |event: &str, field: &str, part: &str| {
            lines.iter().any(|line| {
                line["event"] == event && line[field].as_str().is_some_and(|v| v.contains(part))
            })
        };
        ensure!(holds("begun", "session", &session.id), "no beginning:\n{text}");
        ensure!(holds("connected", "client", "root"), "nobody came:\n{text}");
        ensure!(holds("operation", "subject", "main.priceOf"), "no breakpoint:\n{text}");
        ensure!(holds("operation", "subject", "o.Customer"), "no expression:\n{text}");
        ensure!(holds("operation", "outcome", "refused"), "no refusal:\n{text}");
        ensure!(lines.iter().any(|line| line["event"] == "stood"), "it never stood:\n{text}");
        ensure!(lines.iter().any(|line| line["event"] == "released"), "no release:\n{text}");
        ensure!(!text.contains("customer-3"), "a value is in it:\n{text}");
        let last = lines.last().context("it is empty")?;
        ensure!(last["event"] == "ended", "no end:\n{text}");
        let end = session.show(host)?["transcript"].take();
        ensure!(end["hash"] == last["chain"]["hash"], "the record names another end: {end}");
        ensure!(end["lines"] == lines.len(), "the record counts other lines: {end}");
        watcher.wait(SOON)?.exits(0)?;
        is_kept_for_a_year(host, &path)?;
        let page = host.ok(&format!("godebugctl audit show {}", session.id))?;
        for part in ["evaluate     o.Customer", "refused:", "whole:"] {
            ensure!(page.contains(part), "no {part:?} on the auditor's page:\n{page}");
        }
        Ok(())
    })
}
