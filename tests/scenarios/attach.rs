//! A person debugs a service: from the laptop with a ticket, on the host in the foreground, with an
//! IDE's protocol and with dlv itself.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Port, dap::DapClient, jsonrpc::JsonRpcClient, scenario::Scenario};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{
    Laptop, SOON, Session, is_answered, leaves_nothing, line_of, listen_address, order, refused,
    start, text,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("laptop_debugs_with_an_ide_until_the_time_is_over", ide_on_the_laptop)
        .main()
        .shared(),
    Scenario::new("laptop_debugs_with_dlv_connect", dlv_on_the_laptop).shared(),
    Scenario::new("time_ends_while_the_service_stands_at_a_breakpoint", ends_at_a_breakpoint)
        .shared(),
    Scenario::new("foreground_session_ends_with_ctrl_c", foreground_ctrl_c).main().shared(),
    Scenario::new("foreground_session_ends_when_godebugctl_is_killed", foreground_killed).shared(),
    Scenario::new("every_kind_of_service_is_debugged_and_let_go", every_kind_of_service).shared(),
    Scenario::new("stripped_service_is_debugged_with_its_symbols", stripped_with_symbols).shared(),
    Scenario::new("symbols_come_from_the_sites_debuginfod", debuginfod).with_engines(),
    Scenario::new("second_debugger_of_a_service_is_refused", not_twice).shared(),
    Scenario::new("program_in_a_scope_is_debugged_and_let_go", scope).shared(),
    Scenario::new("package_installed_on_a_running_host_works_at_once", package)
        .main()
        .without_product(),
    Scenario::new("host_without_firewalld_is_fenced_by_nftables_alone", without_firewalld).bare(),
];

const SOURCE: &str = "/opt/samples/src/shop/main.go";

fn ide_on_the_laptop(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        ensure!(host.port_scan_from_laptop(2345)? == Port::Filtered);
        let session = Session::for_laptop(host, "myapp", "8s")?;
        ensure!(session.document["pid"] == before.processes()[0].inner_pid);
        ensure!(host.port_scan_from_laptop(session.port)? == Port::Open);
        ensure!(host.port_scan_from_stranger(session.port)? == Port::Filtered);
        let mut laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        stops_in_price_of(host, &mut ide)?;

        // Nobody does anything more: the time ends it.
        let cut = ide.wait_for_event_within("never", SOON).map_err(|error| format!("{error:#}"));
        ensure!(
            cut.as_ref().is_err_and(|why| why.contains("closed")),
            "the IDE's connection was not closed: {cut:?}"
        );
        session.ends(host, "expired", SOON)?;
        laptop.tunnel.wait(SOON)?.exits(0)?;
        ensure!(host.port_scan_from_laptop(session.port)? == Port::Filtered);
        Ok(())
    })
}

/// What people attach a debugger for: a breakpoint, the stack, the values; then on.
fn stops_in_price_of(host: &Host, ide: &mut DapClient<TcpStream>) -> Result<()> {
    ide.attach()?;
    let first = line_of("discounts := map")?;
    let last = line_of("return finish(label, lines, total)")?;
    ide.set_breakpoints(SOURCE, &[first, last])?;
    ide.configuration_done()?;
    let request = order(host, 8080)?;
    let (thread, reason) = ide.wait_for_stop()?;
    ensure!(reason == "breakpoint", "stopped for {reason}");
    let stack = ide.stack_trace(thread)?;
    let names: Vec<&str> = stack.iter().filter_map(|frame| frame["name"].as_str()).collect();
    ensure!(
        names.starts_with(&["main.priceOf", "main.serveOrder", "http.HandlerFunc.ServeHTTP"]),
        "another stack: {names:?}"
    );
    ensure!(stack[0]["line"] == first && stack[0]["source"]["path"] == SOURCE, "{}", stack[0]);
    let frame = frame_number(&stack[0])?;
    shows(ide, frame, &[("o", "customer-3")])?;
    ensure!(ide.evaluate(frame, "o.Items[1].Name")?.contains("scone"));
    ide.resume(thread)?;

    let (thread, _) = ide.wait_for_stop()?;
    let stack = ide.stack_trace(thread)?;
    ensure!(stack[0]["line"] == last, "{}", stack[0]);
    // The program is optimised, so not everything can be seen everywhere.
    shows(ide, frame_number(&stack[0])?, &[("label", "CUSTOMER-3/3"), ("lines", "[450,640,275]")])?;
    ide.resume(thread)?;
    is_answered(request)
}

fn frame_number(frame: &Value) -> Result<i64> {
    frame["id"].as_i64().context("a frame without a number")
}

fn shows(ide: &mut DapClient<TcpStream>, frame: i64, expected: &[(&str, &str)]) -> Result<()> {
    let values = ide.locals(frame)?;
    for (name, part) in expected {
        let value = values.iter().find(|(found, _)| found == name);
        ensure!(
            value.is_some_and(|(_, value)| value.contains(part)),
            "{name} is not {part}: {values:?}"
        );
    }
    Ok(())
}

fn dlv_on_the_laptop(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        // Who waits for dlv repeats its last words, as the target's user.
        let log = format!("stat -c '%G %a' /run/godebug/{}/dlv.log", session.id);
        let log = host.run(&log)?.exits(0)?.stdout;
        ensure!(log.trim() == "godebug-session 640", "{log}");
        let laptop = Laptop::connect(host, &session)?;
        let lines =
            "break main.finish\ncontinue\nstack\nprint label\nprint total\nclearall\nexit -c\n";
        let mut client = laptop.dlv_connect(lines)?;
        client.dlv.wait_for_line("main.finish", SOON)?;
        let request = order(host, 8080)?;
        let printed = client.dlv.wait(SOON)?.exits(0)?.stdout;
        for part in ["main.priceOf", "main.serveOrder", "\"CUSTOMER-3/3\"", "1297"] {
            ensure!(printed.contains(part), "dlv did not print {part}:\n{printed}");
        }
        is_answered(request)?;
        session.stop(host)
    })
}

fn ends_at_a_breakpoint(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "5s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        ide.wait_for_stop()?;
        session.ends(host, "expired", SOON)?;
        is_answered(request)
    })
}

fn foreground_ctrl_c(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut attach = host.spawn("exec godebugctl --json attach myapp --ttl 60s")?;
        let line = attach.wait_for_line("\"listen\"", SOON)?;
        let document: Value = serde_json::from_str(&line)?;
        let mut rpc = JsonRpcClient::new(host.connect_on_host(listen_address(&line)?)?);
        rpc.set_api_version()?;
        ensure!(rpc.state()?["Running"] == true, "the service stands still");
        attach.interrupt()?;
        let ended = attach.wait(SOON)?.exits(0)?;
        ensure!(ended.json()? == document, "more than one document: {ended}");
        ensure!(ended.stderr.contains("stopped"), "no word about the end: {ended}");
        let id = text(&document, "id")?;
        let closed = host.run(&format!("godebugctl --json show {id}"))?.exits(0)?.json()?;
        ensure!(closed["close_reason"] == "stopped", "{closed}");
        Ok(())
    })
}

fn foreground_killed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut attach = host.spawn("exec godebugctl --json attach myapp --ttl 60s")?;
        let line = attach.wait_for_line("\"listen\"", SOON)?;
        let session = Session::of(serde_json::from_str(&line)?)?;
        attach.signal(Signal::KILL)?;
        let ended = session.ends(host, "client-gone", SOON)?;
        ensure!(ended["pid"] == session.document["pid"]);
        Ok(())
    })
}

fn every_kind_of_service(host: &Host) -> Result<()> {
    // Unit, its port, what it says on standard error that a person should know.
    const KINDS: &[(&str, u16)] = &[
        ("app@1", 9091),
        ("wrapped", 8084),
        ("pie", 8090),
        ("rootapp", 8088),
        ("dynapp", 8089),
        ("watchdog", 8092),
    ];
    for (unit, port) in KINDS {
        start(host, unit)?;
        let debugged = leaves_nothing(host, &[unit], |_| {
            host.wait_until("it serves", SOON, || {
                Ok(host.http_from_host(&format!("http://127.0.0.1:{port}/healthz")).is_ok())
            })?;
            // A busy machine may foretell more than half of the watchdog's two seconds.
            let session = Session::open(host, unit, "--ttl 60s --yes")?;
            let target = host.targets(unit)?;
            ensure!(session.document["pid"] == target[0].inner_pid, "{}", session.document);
            session.stop(host)?;
            host.http_from_host(&format!("http://127.0.0.1:{port}/healthz")).map(drop)
        });
        debugged.with_context(|| format!("debugging {unit}"))?;
        host.ok(&format!("systemctl stop {unit}"))?;
    }
    Ok(())
}

/// As somebody starts it by hand: systemd knows no main process.
fn scope(host: &Host) -> Result<()> {
    let mut shop = host.spawn(
        "exec systemd-run --quiet --scope --unit=byhand /opt/samples/shop -listen 127.0.0.1:8098",
    )?;
    shop.wait_for_line("listens", SOON)?;
    leaves_nothing(host, &["byhand.scope"], |before| {
        let session = Session::open(host, "byhand.scope", "--ttl 60s")?;
        ensure!(session.document["pid"] == before.processes()[0].inner_pid, "{}", session.document);
        session.stop(host)?;
        host.http_from_host("http://127.0.0.1:8098/healthz").map(drop)
    })?;
    host.ok("systemctl stop byhand.scope").map(drop)
}

/// No step between installing it and using it.
fn package(host: &Host) -> Result<()> {
    if std::env::var("GODEBUG_DEV_INSTALL").is_ok_and(|value| value == "1") {
        eprintln!("     GODEBUG_DEV_INSTALL=1: there is no package to install");
        return Ok(());
    }
    host.install_package()?;
    // firewalld watches the folder of its services, and sees what the package put there when it comes to it.
    host.wait_until("firewalld knows the package's service", SOON, || {
        Ok(host.ok("firewall-cmd --permanent --get-services")?.contains("godebug"))
    })?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        ensure!(laptop.rpc()?.state()?["Running"] == true);
        session.stop(host)
    })
}

fn stripped_with_symbols(host: &Host) -> Result<()> {
    start(host, "stripped")?;
    leaves_nothing(host, &["stripped"], |_| {
        let symbols = "/opt/samples/shop-stripped.debug-full";
        let options = format!("--ttl 60s --from {} --symbols {symbols}", host.laptop_address());
        let session = Session::open(host, "stripped", &options)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8083)?;
        let stop = ide.wait_for_event("stopped")?;
        let thread = stop["threadId"].as_i64();
        let thread = thread.with_context(|| format!("no goroutine stopped: {stop}"))?;
        let stack = ide.stack_trace(thread)?;
        ensure!(stack[0]["name"] == "main.priceOf", "{}", stack[0]);
        let frame = frame_number(&stack[0])?;
        ensure!(ide.evaluate(frame, "o.Customer")?.contains("customer-3"));
        ide.resume(thread)?;
        is_answered(request)?;
        session.stop(host)?;
        image_of_stripped(host, symbols)?;
        symbols_by_build_id(host)
    })?;
    host.ok("systemctl stop stripped").map(drop)
}

/// The same on images: places are found by the symbols, and so are values, also in the image after that.
fn image_of_stripped(host: &Host, symbols: &str) -> Result<()> {
    let options = format!(
        "--mode observe --max-pause 2s --ttl 60s --from {} --symbols {symbols}",
        host.laptop_address()
    );
    let session = Session::open(host, "stripped", &options)?;
    let laptop = Laptop::connect(host, &session)?;
    let mut ide = laptop.dap()?;
    ide.attach()?;
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done()?;
    for _ in 0..2 {
        session.is_armed(host)?;
        let request = order(host, 8083)?;
        let stop = ide.wait_for_event("stopped")?;
        let thread = stop["threadId"].as_i64().context("no goroutine")?;
        let stack = ide.stack_trace(thread)?;
        ensure!(stack[0]["name"] == "main.priceOf", "{}", stack[0]);
        ensure!(ide.evaluate(frame_number(&stack[0])?, "o.Customer")?.contains("customer-3"));
        is_answered(request)?;
        ide.resume(thread)?;
    }
    session.stop(host)
}

/// In a folder as distributions have it, and by debuginfod's client, which here is a script.
fn symbols_by_build_id(host: &Host) -> Result<()> {
    let inspected = host.run("godebugctl --json inspect stripped")?.exits(0)?.json()?;
    let id = text(&inspected, "build_id")?;
    let place = format!("/srv/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]);
    host.ok(&format!(
        "mkdir -p $(dirname {place}) /srv/bin && cp /opt/samples/shop-stripped.debug-full {place} && \
         printf '#!/bin/sh\n[ \"$*\" = \"debuginfo {id}\" ] && echo {place}\n' >/srv/bin/debuginfod-find && \
         chmod 755 /srv/bin/debuginfod-find"
    ))?;
    let attach =
        "godebugctl --json attach stripped --ttl 60s --detach --ticket /root/by-id --symbols";
    for symbols in ["/srv/debug", "debuginfod"] {
        let opened =
            host.run(&format!("PATH=/srv/bin:$PATH {attach} {symbols}; rm -f /root/by-id"))?;
        Session::of(opened.json()?)?.stop(host)?;
    }
    let why = refused(host.run(&format!("{attach} /srv"))?, 2, "usage")?;
    ensure!(why.contains(&format!("nothing for the build ID {id}")), "{why}");
    host.ok("rm -r /srv/debug /srv/bin").map(drop)
}

/// elfutils' own server, which finds the file by itself, and its own client.
fn debuginfod(host: &Host) -> Result<()> {
    start(host, "stripped")?;
    leaves_nothing(host, &["stripped"], |_| {
        let inspected = host.run("godebugctl --json inspect stripped")?.exits(0)?.json()?;
        let id = text(&inspected, "build_id")?;
        let attach = "DEBUGINFOD_URLS=http://127.0.0.1:8002 DEBUGINFOD_CACHE_PATH=/srv/asked godebugctl --json attach stripped --ttl 60s \
                      --detach --ticket /root/by-id --symbols debuginfod";
        host.ok(
            "mkdir /srv/files && systemd-run --quiet --unit=debuginfod-here --property=DynamicUser=yes \
             debuginfod -F -p 8002 -d :memory: /srv/files",
        )?;
        host.wait_until("the server answers", SOON, || {
            Ok(host.run("curl -s http://127.0.0.1:8002/metrics")?.success())
        })?;
        let none = host.run(attach)?;
        let why = refused(none, 5, "host")?;
        ensure!(why.contains(&format!("nothing for the build ID {id}")), "{why}");
        host.ok("cp /opt/samples/shop-stripped.debug-full /srv/files/shop && \
             systemctl kill --signal=USR1 debuginfod-here")?;
        let url = format!("http://127.0.0.1:8002/buildid/{id}/debuginfo");
        host.wait_until("the server has found it", SOON, || {
            Ok(host.run(&format!("curl -s -f -o /dev/null {url}"))?.success())
        })?;
        // What the client was told before it remembers for a while.
        host.ok("rm -r /srv/asked")?;
        let session = Session::of(host.run(attach)?.exits(0)?.json()?)?;
        let shown = session.show(host)?;
        ensure!(shown["state"] == "active", "{shown}");
        session.stop(host)
    })?;
    host.ok("systemctl stop stripped debuginfod-here; rm -r /srv/files /srv/asked /root/by-id")
        .map(drop)
}

fn not_twice(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let again = host.run("godebugctl --json attach myapp --detach")?;
        let why = crate::support::refused(again, 4, "target")?;
        ensure!(why.contains(&session.id), "it does not say by which session: {why}");
        ensure!(session.show(host)?["state"] == "active");
        session.stop(host)
    })
}

fn without_firewalld(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        ensure!(host.port_scan_from_stranger(session.port)? == Port::Filtered);
        let laptop = Laptop::connect(host, &session)?;
        ensure!(laptop.rpc()?.state()?["Running"] == true);
        session.stop(host)?;
        ensure!(host.port_scan_from_laptop(session.port)? == Port::Closed, "nothing listens");
        Ok(())
    })
}
