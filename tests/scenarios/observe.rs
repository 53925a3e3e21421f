//! Mode observe: an IDE that looks at images of a service, which nobody stops.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Spawned, dap::DapClient, jsonrpc::JsonRpcClient, scenario::Scenario};
use serde_json::{Value, json};
use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::ides::vscode_is_here;
use crate::museum::same_values;
use crate::support::{
    Laptop, SOON, Session, is_answered, leaves_nothing, line_of, order, refused, start,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("observer_looks_at_images_of_a_service_that_runs", ide).main().shared(),
    Scenario::new("observer_has_conditions_counts_and_log_messages", conditions).shared(),
    Scenario::new("observer_by_dlv_connect_has_the_next_image", json_rpc).on_newest().shared(),
    Scenario::new("image_shows_the_values_that_the_live_process_has", museum).on_newest(),
    Scenario::new("observer_by_vscode_sees_a_busy_service_at_its_lines", vscode)
        .on_newest()
        .shared(),
    Scenario::new("observer_by_dlvs_own_client_goes_from_hit_to_hit", dlv_connect).shared(),
    Scenario::new("observer_of_a_hot_line_disturbs_nothing", hot).on_newest().shared(),
    Scenario::new("observer_changes_and_stops_nothing", changes_nothing).shared(),
    Scenario::new("observer_whose_images_are_ended_by_force_harms_nobody", killed)
        .on_newest()
        .shared(),
];

const SOURCE: &str = "/opt/samples/src/shop/main.go";

/// The images of a host that is busy may stop a service for longer than people's own.
fn open(host: &Host) -> Result<Session> {
    let options =
        format!("--mode observe --ttl 120s --max-pause 2s --from {}", host.laptop_address());
    Session::open(host, "myapp", &options)
}

type Ide = DapClient<TcpStream>;

/// The next image that the IDE is shown: its goroutine, and the event.
fn next(ide: &mut Ide) -> Result<(i64, Value)> {
    let event = ide.wait_for_event("stopped")?;
    let goroutine = event["threadId"].as_i64().context("a stop of nobody")?;
    Ok((goroutine, event))
}

/// Values of the top frame, by their names.
fn value(ide: &mut Ide, goroutine: i64, expression: &str) -> Result<String> {
    let stack = ide.stack_trace(goroutine)?;
    let frame = stack[0]["id"].as_i64().context("a frame without a number")?;
    ide.evaluate(frame, expression)
}

fn ide(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let session = open(host)?;
        ensure!(session.document["mode"] == "observe", "{}", session.document);
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        let can = ide.attach()?;
        ensure!(can["supportsRestartRequest"] == true && can["supportsLogPoints"] == true, "{can}");
        ensure!(can["supportsStepBack"] == true, "one cannot go back: {can}");
        ensure!(can["supportsSetVariable"].is_null(), "there is nothing to set: {can}");
        // Without a breakpoint the newest image is what there is to see.
        ide.configuration_done()?;
        let (goroutine, event) = next(&mut ide)?;
        ensure!(event["reason"] == "pause", "{event}");
        ensure!(ide.threads()?.len() > 1, "an image has all goroutines");
        ensure!(!ide.stack_trace(goroutine)?.is_empty(), "no stack");
        // The service answers while somebody looks.
        is_answered(order(host, 8080)?)?;
        ensure!(
            before.processes()[0].tracer()? == 0,
            "the service is traced while an image is looked at"
        );

        let line = line_of("discounts := map")?;
        let set = ide.set_breakpoints(SOURCE, &[line])?;
        ensure!(set[0]["verified"] == true && set[0]["line"] == line, "{set:?}");
        ide.resume(goroutine)?;
        for _ in 0..3 {
            let request = armed(host, before)?;
            let (goroutine, event) = next(&mut ide)?;
            ensure!(event["reason"] == "breakpoint", "{event}");
            ensure!(event["hitBreakpointIds"] == json!([set[0]["id"]]), "{event}");
            // It was not held for that.
            is_answered(request)?;
            let stack = ide.stack_trace(goroutine)?;
            ensure!(stack[0]["name"] == "main.priceOf" && stack[0]["line"] == line, "{stack:?}");
            ensure!(stack[0]["source"]["path"] == SOURCE, "{stack:?}");
            let frame = stack[0]["id"].as_i64().unwrap_or_default();
            let locals = ide.locals(frame)?;
            ensure!(locals.iter().any(|(name, _)| name == "o"), "no variables: {locals:?}");
            ensure!(ide.evaluate(frame, "o.Items[1].Name")? == "\"scone\"", "a nested value");
            ide.resume(goroutine)?;
        }
        // An image now, in the middle of waiting for one at the line; then the line again.
        ide.pause(1)?;
        let (goroutine, event) = next(&mut ide)?;
        ensure!(event["reason"] == "pause", "{event}");
        ide.resume(goroutine)?;
        let request = armed(host, before)?;
        ensure!(next(&mut ide)?.1["reason"] == "breakpoint");
        is_answered(request)?;
        goes_back(&mut ide)?;
        ide.disconnect(true)?;
        host.wait_until("nobody traces the service", SOON, || {
            Ok(before.processes()[0].tracer()? == 0)
        })?;
        session.stop(host)?;
        is_recorded(host, &session)
    })
}

/// From the sixth image of a session to the first and forward again, with the values of then.
fn goes_back(ide: &mut Ide) -> Result<()> {
    const KINDS: [&str; 6] =
        ["pause", "breakpoint", "breakpoint", "breakpoint", "pause", "breakpoint"];
    let mut kinds = Vec::new();
    for _ in 0..5 {
        ide.request("reverseContinue", json!({"threadId": 1}))?;
        let (goroutine, event) = next(ide)?;
        kinds.push(event["reason"].as_str().unwrap_or_default().to_owned());
        if event["reason"] == "breakpoint" {
            ensure!(value(ide, goroutine, "o.ID")? == "3");
        }
    }
    ensure!(kinds.iter().rev().eq(&KINDS[..5]), "going back: {kinds:?}");
    ide.request("stepBack", json!({"threadId": 1}))?;
    let (goroutine, event) = next(ide)?;
    ensure!(event["reason"] == "entry", "before the first: {event}");
    ensure!(!ide.stack_trace(goroutine)?.is_empty(), "the first is not there any more");
    for kind in &KINDS[1..] {
        ide.resume(1)?;
        let (_, event) = next(ide)?;
        ensure!(event["reason"] == *kind, "going on: {event}");
    }
    Ok(())
}

/// A request to the service, once the line is armed: every thread is traced for that.
fn armed(host: &Host, before: &godebug_tests::Snapshot) -> Result<Spawned> {
    host.wait_until("the line is armed", SOON, || Ok(before.processes()[0].tracer()? != 0))?;
    order(host, 8080)
}

fn is_recorded(host: &Host, session: &Session) -> Result<()> {
    let shown = host.ok(&format!("godebugctl audit show {}", session.id))?;
    for word in
        ["mode observe", "an image was taken at ", "an image was taken;", "main.go:", "breakpoints"]
    {
        ensure!(shown.contains(word), "the record does not tell {word:?}:\n{shown}");
    }
    is_within_the_bound(host, session)?;
    let end = session.show(host)?;
    ensure!(end["pause"].is_null() && end["freeze_ms"].is_null(), "nobody held it: {end}");
    Ok(())
}

fn conditions(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let session = open(host)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        let (line, later) = (line_of("discounts := map")?, line_of("return finish(")?);
        let breakpoints = json!({"source": {"path": SOURCE}, "breakpoints": [
            {"line": line, "condition": "o.ID == 5"},
            {"line": later, "logMessage": "an order costs {total}"},
            {"line": 1},
        ]});
        let set = ide.request("setBreakpoints", breakpoints)?;
        let verified: Vec<bool> = set["breakpoints"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| one["verified"] == true)
            .collect();
        ensure!(verified == [true, true, false], "{set}");
        ide.configuration_done()?;
        // Nobody is shown an image whose condition is false, and the line with the message gets its turn.
        let mut said = String::new();
        let limit = Instant::now() + Duration::from_secs(40);
        while !said.contains("> [Go ") {
            ensure!(
                Instant::now() < limit,
                "the message of the second line never came; last: {said}"
            );
            is_answered(order(host, 8080)?)?;
            while let Ok(event) = ide.wait_for_event_within("output", Duration::from_millis(300)) {
                event["output"].as_str().unwrap_or_default().clone_into(&mut said);
            }
        }
        ensure!(said.contains("an order costs 1365"), "the log message: {said}");
        // A function that is not there is told with one that may be meant.
        let functions = json!({"breakpoints": [{"name": "main.pirceOf"}, {"name": "*0x401001"}]});
        let set = ide.request("setFunctionBreakpoints", functions)?;
        ensure!(
            set["breakpoints"][0]["message"].as_str().is_some_and(|it| it.contains("main.priceOf")),
            "{set}"
        );
        ensure!(
            set["breakpoints"][1]["verified"] == false,
            "an address within an instruction: {set}"
        );
        // With a count, on another condition.
        let breakpoints = json!({"source": {"path": SOURCE}, "breakpoints": [
            {"line": line, "condition": "o.ID == 3", "hitCondition": "2"},
        ]});
        ide.request("setBreakpoints", breakpoints)?;
        let mut requests = 0;
        let limit = Instant::now() + Duration::from_secs(60);
        let event = loop {
            ensure!(Instant::now() < limit, "no image after {requests} requests");
            is_answered(armed(host, before)?)?;
            requests += 1;
            match ide.wait_for_event_within("stopped", Duration::from_secs(3)) {
                Ok(event) => break event,
                Err(_) => continue,
            }
        };
        ensure!(requests >= 2, "the first of two was shown: {event}");
        let goroutine = event["threadId"].as_i64().unwrap_or_default();
        ensure!(value(&mut ide, goroutine, "o.ID")? == "3");
        drop(ide);
        session.stop(host)
    })
}

type Rpc = JsonRpcClient<TcpStream>;

fn json_rpc(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let session = open(host)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc: Rpc = laptop.rpc()?;
        let state = rpc.state()?;
        ensure!(state["Running"] == false, "there is no image to begin with: {state}");
        let all = rpc.list_goroutines()?;
        ensure!(
            all.as_array().is_some_and(|all| all.len() > 1),
            "an image has all goroutines: {all}"
        );
        let breakpoint = rpc.create_breakpoint("main.priceOf")?;
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        let request = armed(host, before)?;
        let state = rpc.answer("Command", waiting)?;
        let thread = &state["State"]["currentThread"];
        ensure!(thread["breakPoint"]["id"] == breakpoint, "{state}");
        ensure!(thread["function"]["name"] == "main.priceOf", "{state}");
        is_answered(request)?;
        let scope = json!({"GoroutineID": -1, "Frame": 0});
        let seen = rpc.call("Eval", json!({"Scope": scope, "Expr": "o.ID", "Cfg": {}}))?;
        ensure!(seen["Variable"]["value"] == "3", "{seen}");
        for step in ["next", "step", "stepOut"] {
            let refused = rpc.command(step).map_err(|error| format!("{error:#}"));
            ensure!(refused.as_ref().is_err_and(|why| why.contains("--mode step")), "{refused:?}");
        }
        // Without a breakpoint the next image is the one of now; one in the middle of an instruction
        // would change what the program does.
        let within = rpc.call("FindLocation", json!({"Scope": scope, "Loc": "main.priceOf"}))?;
        let address = within["Locations"][0]["pc"].as_u64().context("no address")? + 1;
        let bad = json!({"Breakpoint": {"addrs": [address]}});
        ensure!(rpc.call("CreateBreakpoint", bad).is_err(), "a breakpoint within an instruction");
        rpc.clear_breakpoint(breakpoint)?;
        let state = rpc.command("continue")?;
        ensure!(state["Running"] == false, "{state}");
        // Ctrl-C while it waits for the line.
        rpc.create_breakpoint("main.priceOf")?;
        let waiting = rpc.send("Command", json!({"name": "continue"}))?;
        rpc.command("halt")?;
        ensure!(rpc.answer("Command", waiting)?["State"]["Running"] == false);
        drop(rpc);
        session.stop(host)
    })
}

fn museum(host: &Host) -> Result<()> {
    // Samples that can be debugged are there from then on.
    start(host, "myapp")?;
    same_values(host, "/opt/samples/museum", &[])
}

/// Four clients that order all the time.
fn busy(host: &Host) -> Result<Spawned> {
    host.spawn(
        "for client in 1 2 3 4; do \
           while curl -s -m 20 -o /dev/null -w '%{time_total}\\n' 'http://127.0.0.1:8080/order?id=3' || true; do sleep 0.02; done & \
         done; wait",
    )
}

fn vscode(host: &Host) -> Result<()> {
    let (folder, here) = vscode_is_here()?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = open(host)?;
        let laptop = Laptop::connect(host, &session)?;
        let busy = busy(host)?;
        let (line, later) = (line_of("discounts := map")?, line_of("return finish(")?);
        let (folder, here, port) = (folder.display(), here.display(), laptop.address.port());
        let mut code = host.laptop_spawn(&format!(
            "NODE_PATH={folder}/node_modules exec node {here}/vscode_observe.js {port} {SOURCE} {line} {later}"
        ))?;
        let said = code.wait(SOON * 4)?.ok()?;
        ensure!(said.contains("OK"), "it did not come to its end: {said}");
        let answers = busy.stdout();
        drop(busy);
        let waits: Vec<f64> = answers.lines().filter_map(|line| line.parse().ok()).collect();
        let longest = waits.iter().copied().fold(0.0, f64::max);
        // The person has looked at one for three seconds.
        ensure!(waits.len() > 50 && longest < 2.0, "{} answers, {longest} s", waits.len());
        is_answered(order(host, 8080)?)?;
        session.stop(host)?;
        is_within_the_bound(host, &session)
    })
}

/// No image has stopped the service for longer than it may.
fn is_within_the_bound(host: &Host, session: &Session) -> Result<()> {
    let end = session.show(host)?;
    let longest = end["transcript"]["longest_stop_ms"].as_u64().context("no longest stop")?;
    ensure!(longest < 2000, "an image took longer than its bound: {end}");
    Ok(())
}

fn dlv_connect(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = open(host)?;
        let laptop = Laptop::connect(host, &session)?;
        let _busy = busy(host)?;
        let lines = "break main.finish\ncontinue\nprint label\ncontinue\nprint total\nnext\nclearall\nexit -c\n";
        let mut client = laptop.dlv_connect(lines)?;
        let printed = client.dlv.wait(SOON * 2)?.exits(0)?.stdout;
        for part in ["> [Breakpoint 1] main.finish", "\"CUSTOMER-3/3\"", "1297", "--mode step"] {
            ensure!(printed.contains(part), "dlv did not print {part}:\n{printed}");
        }
        is_answered(order(host, 8080)?)?;
        session.stop(host)
    })
}

fn hot(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = open(host)?;
        let laptop = Laptop::connect(host, &session)?;
        let _load = host.spawn(
            "for client in 1 2 3 4 5 6 7 8; do \
               while curl -s -m 20 -o /dev/null 'http://127.0.0.1:8080/hot?n=20000000' || true; do :; done & \
             done; wait",
        )?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.tiny"])?;
        ide.configuration_done()?;
        for _ in 0..5 {
            let (goroutine, event) = next(&mut ide)?;
            ensure!(event["reason"] == "breakpoint", "{event}");
            ensure!(ide.stack_trace(goroutine)?[0]["name"] == "main.tiny");
            ide.resume(goroutine)?;
        }
        // In the middle of waiting for the next one.
        drop(ide);
        is_answered(order(host, 8080)?)?;
        session.stop(host)?;
        is_within_the_bound(host, &session)
    })
}

fn changes_nothing(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let plan = host.ok("godebugctl attach myapp --mode observe --dry-run")?;
        ensure!(plan.contains("take images of process"), "{plan}");
        ensure!(!plan.contains("attach dlv"), "{plan}");
        let tight =
            host.run("godebugctl --json attach myapp --mode observe --max-pause 11s --detach")?;
        refused(tight, 2, "usage")?;
        let session = open(host)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach_with(json!({"stopOnEntry": true}))?;
        ide.configuration_done()?;
        let (goroutine, _) = next(&mut ide)?;
        for (command, arguments) in [
            ("setVariable", json!({"variablesReference": 1000, "name": "o", "value": "1"})),
            ("next", json!({"threadId": goroutine})),
            ("writeMemory", json!({"memoryReference": "0x401000", "data": "AA=="})),
            ("evaluate", json!({"expression": "call main.tiny(1)", "context": "repl"})),
        ] {
            let answer = ide.ask(command, arguments)?;
            ensure!(answer["success"] == false, "{command} was allowed: {answer}");
        }
        // The next image by the button that restarts.
        ide.request("restart", json!({}))?;
        next(&mut ide)?;
        is_answered(order(host, 8080)?)?;
        drop(ide);
        session.stop(host)
    })
}

fn killed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let session = open(host)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.tiny"])?;
        ide.configuration_done()?;
        host.wait_until("the line is armed", SOON, || Ok(before.processes()[0].tracer()? != 0))?;
        host.ok(&format!("systemctl kill --signal=KILL godebug-image@{}", session.id))?;
        session.ends(host, "debugger-exited", SOON)?;
        is_answered(order(host, 8080)?)
    })
}
