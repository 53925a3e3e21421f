//! A breakpoint on a line that is run thousands of times a second is turned off before it takes the
//! service's time, the person is told in the debugger, and nothing else that they set is lost.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Spawned, dap::DapClient, scenario::Scenario};
use serde_json::{Value, json};
use std::{net::TcpStream, time::Duration};

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, line_of, order};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("hot_breakpoint_is_turned_off_and_the_ide_is_told", in_an_ide)
        .on_newest()
        .shared(),
    Scenario::new("hot_breakpoint_is_turned_off_and_dlv_connect_is_told", in_dlv)
        .on_newest()
        .shared(),
    Scenario::new("hot_log_point_is_turned_off", log_point).shared(),
    Scenario::new("hot_is_what_a_rule_says", by_rule),
    Scenario::new("hot_breakpoints_again_and_again_and_the_service_lives", again_and_again)
        .shared(),
];

const SOURCE: &str = "/opt/samples/src/shop/main.go";
/// With a breakpoint there, this many calls would take the shop ten minutes.
const CALLS: &str = "2000000";

fn in_a_loop(host: &Host) -> Result<Spawned> {
    host.spawn(&format!("exec curl --silent --max-time 60 'http://127.0.0.1:8080/hot?n={CALLS}'"))
}

fn loop_ends(mut request: Spawned) -> Result<()> {
    request.wait(Duration::from_secs(30))?.ok().context("the loop's answer")?;
    Ok(())
}

/// At the line that the loop runs.
fn set(ide: &mut DapClient<TcpStream>, field: &str, text: &str) -> Result<i64> {
    let line = line_of("n*31 + 7")?;
    let one = json!({"line": line, field: text});
    let body =
        ide.request("setBreakpoints", json!({"source": {"path": SOURCE}, "breakpoints": [one]}))?;
    let breakpoint = &body["breakpoints"][0];
    ensure!(breakpoint["verified"] == true, "it was not set: {body}");
    breakpoint["id"].as_i64().context("a breakpoint without a number")
}

fn is_told_off(ide: &mut DapClient<TcpStream>, number: i64, why: &str) -> Result<()> {
    let said = loop {
        let event = ide.wait_for_event("output")?;
        let said = event["output"].as_str().unwrap_or_default().to_owned();
        if said.contains("godebug") {
            break said;
        }
    };
    for part in ["is off until it is set again", "main.go:", why, "goes on"] {
        ensure!(said.contains(part), "the IDE was not told {part:?}: {said}");
    }
    let shown = ide.wait_for_event("breakpoint")?;
    ensure!(shown["breakpoint"]["id"] == number, "another breakpoint: {shown}");
    ensure!(shown["breakpoint"]["verified"] == false, "it is shown as set: {shown}");
    Ok(())
}

fn in_an_ide(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "90s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        let number = set(&mut ide, "condition", "n == -1")?;
        ide.configuration_done()?;
        let request = in_a_loop(host)?;
        is_told_off(&mut ide, number, "% of the time")?;
        loop_ends(request)?;
        // It never looked to the IDE as if the service stood; the other breakpoint is as it was.
        let threads = ide.threads()?;
        ensure!(threads.len() == 1, "the IDE takes it for standing: {threads:?}");
        let request = order(host, 8080)?;
        let (thread, reason) = ide.wait_for_stop()?;
        ensure!(reason == "function breakpoint", "it stopped because of {reason}");
        ensure!(!ide.stack_trace(thread)?.is_empty(), "no stack");

        // Set again, with a condition that comes true, it stops there.
        set(&mut ide, "condition", "n == 8")?;
        ide.resume(thread)?;
        is_answered(request)?;
        let mut few = host.spawn("exec curl --silent 'http://127.0.0.1:8080/hot?n=2'")?;
        let (thread, reason) = ide.wait_for_stop()?;
        ensure!(reason == "breakpoint", "it stopped because of {reason}");
        ide.resume(thread)?;
        few.wait(SOON)?.ok()?;
        drop(ide);
        session.stop(host)?;
        let page = host.ok(&format!("godebugctl audit show {}", session.id))?;
        ensure!(page.contains("hot breakpoint was turned off"), "not in the transcript:\n{page}");
        Ok(())
    })
}

fn in_dlv(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "90s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        rpc.create_breakpoint("main.priceOf")?;
        let hot =
            json!({"Breakpoint": {"functionName": "main.tiny", "line": -1, "Cond": "n == -1"}});
        let hot = rpc.call("CreateBreakpoint", hot)?["Breakpoint"]["id"].take();
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        let request = in_a_loop(host)?;
        let told = rpc.answer("Command", waiting).map_err(|error| format!("{error:#}"));
        let is_told = |why: &String| why.contains("is off until") && why.contains("goes on");
        ensure!(told.as_ref().is_err_and(is_told), "the person is not told: {told:?}");
        loop_ends(request)?;

        // `continue` waits for the next stop, which the other breakpoint brings about.
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        let request = order(host, 8080)?;
        let state = rpc.answer("Command", waiting)?;
        ensure!(state["State"]["Running"] == false, "it did not stop: {state}");
        let list = rpc.list_breakpoints()?;
        let off = |one: &Value| one["id"] == hot && one["disabled"] == true;
        let on = |one: &Value| one["id"] != hot && one["disabled"] == false;
        let all = list.as_array().context("no breakpoints")?;
        ensure!(all.iter().any(off) && all.iter().any(on), "another one is off: {list}");
        drop(rpc);
        is_answered(request)?;
        ensure!(session.show(host)?["state"] == "active", "the session has ended with its client");
        session.stop(host)
    })
}

fn log_point(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "90s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        let number = set(&mut ide, "logMessage", "n is {n}")?;
        ide.configuration_done()?;
        let request = in_a_loop(host)?;
        is_told_off(&mut ide, number, "")?;
        loop_ends(request)?;
        drop(ide);
        session.stop(host)
    })
}

fn by_rule(host: &Host) -> Result<()> {
    host.ok("mkdir -p /etc/godebug/rules.d")?;
    let rule = "[[rule]]\nname = \"rarely\"\neffect = \"allow\"\nunits = [\"ticker\"]\n\
                hot = { hits_per_second = 3, standing_percent = 90 }\n";
    host.write_file("/etc/godebug/rules.d/10-hot.toml", rule)?;
    crate::support::start(host, "ticker")?;
    leaves_nothing(host, &["ticker"], |_| {
        let session = Session::for_laptop(host, "ticker", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        // Ten times a second, by an IDE that goes on by itself.
        ide.set_function_breakpoints(&["main.tick"])?;
        ide.configuration_done()?;
        let mut stops = 0;
        while let Ok(event) = ide.wait_for_event_within("stopped", Duration::from_secs(3)) {
            stops += 1;
            ensure!(stops < 50, "it is not turned off");
            ide.resume(event["threadId"].as_i64().unwrap_or_default())?;
        }
        ensure!(stops >= 4, "it is off after {stops} hits");
        let text = host.read_file(&format!("/var/log/godebug/sessions/{}.jsonl", session.id))?;
        ensure!(text.contains("it was hit 4 times in one second"), "{text}");
        session.stop(host)
    })
}

/// dlv has races when breakpoints of running code are changed (an amended one has killed a service).
fn again_and_again(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "300s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        let mut number = set(&mut ide, "condition", "n == -1")?;
        ide.configuration_done()?;
        let requests: Vec<_> = (0..4)
            .map(|_| host.spawn("exec curl --silent 'http://127.0.0.1:8080/hot?n=2000000000'"))
            .collect::<Result<_>>()?;
        for round in 1..=8 {
            is_told_off(&mut ide, number, "").with_context(|| format!("in round {round}"))?;
            number = set(&mut ide, "condition", "n == -1")?;
        }
        drop(ide);
        for mut request in requests {
            request.wait(Duration::from_secs(120))?.ok()?;
        }
        session.stop(host)
    })
}
