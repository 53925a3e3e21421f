//! The service outlives the debugger: hot breakpoints, a dlv that is killed, a watchdog that waits,
//! a systemd that reloads.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Spawned, jsonrpc::JsonRpcClient, scenario::Scenario};
use serde_json::json;
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, order, start};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("hot_service_survives_a_dlv_that_is_killed", killed_under_storm).main().shared(),
    Scenario::new("hot_service_survives_a_kill_of_all_of_godebug", all_killed_under_storm)
        .main()
        .shared(),
    Scenario::new("hot_service_survives_the_end_of_its_session", stopped_under_storm).shared(),
    Scenario::new("hot_service_survives_clients_that_vanish", vanished_under_storm).shared(),
    Scenario::new("watchdog_does_not_kill_a_service_that_stands", watchdog).main().shared(),
    Scenario::new("reload_of_systemd_leaves_the_session_alone", systemd_reloads).main().shared(),
];

/// How often each storm is gone through. Without the guard two of three services die.
const ROUNDS: usize = 8;

fn killed_under_storm(host: &Host) -> Result<()> {
    under_storm(host, |session| {
        host.ok(&format!("systemctl kill --signal=KILL {}", session.unit("dlv")))?;
        session.ends(host, "debugger-exited", SOON).map(drop)
    })
}

fn all_killed_under_storm(host: &Host) -> Result<()> {
    under_storm(host, |session| {
        host.ok("systemctl kill --signal=KILL godebug.slice")?;
        session.is_gone_within(host, SOON)?;
        host.wait_until("godebugd answers again", SOON, || {
            Ok(host.run("godebugctl list")?.status == 0)
        })
    })
}

fn stopped_under_storm(host: &Host) -> Result<()> {
    under_storm(host, |session| session.stop(host))
}

/// One session in which client after client sets the hot breakpoint and vanishes.
fn vanished_under_storm(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let _load = load(host)?;
        let session = Session::for_laptop(host, "myapp", "120s")?;
        let laptop = Laptop::connect(host, &session)?;
        for round in 1..=ROUNDS {
            drop(hot_breakpoint(&laptop)?);
            crate::gateway::is_let_go(host, &session, round)?;
            is_answered(order(host, 8080)?).with_context(|| format!("round {round}"))?;
        }
        session.stop(host)
    })
}

/// Ends session after session while the service runs into their breakpoints.
fn under_storm(host: &Host, end: impl Fn(&Session) -> Result<()>) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let _load = load(host)?;
        for round in 0..ROUNDS {
            let session = Session::for_laptop(host, "myapp", "60s")?;
            let laptop = Laptop::connect(host, &session)?;
            let _hot = hot_breakpoint(&laptop)?;
            end(&session).with_context(|| format!("round {round}"))?;
        }
        is_answered(order(host, 8080)?)
    })
}

/// Eight clients that keep the service in one small function.
fn load(host: &Host) -> Result<Spawned> {
    host.spawn(
        "for client in 1 2 3 4 5 6 7 8; do \
           while curl -s -m 20 -o /dev/null 'http://127.0.0.1:8080/hot?n=2000' || true; do :; done & \
         done; wait",
    )
}

/// A breakpoint in that function whose condition is never true: every call runs into it, and none
/// stops.
fn hot_breakpoint(laptop: &Laptop<'_>) -> Result<JsonRpcClient<TcpStream>> {
    let mut rpc = laptop.rpc()?;
    rpc.command("halt")?;
    let breakpoint = json!({ "functionName": "main.tiny", "line": -1, "Cond": "n == -1" });
    rpc.call("CreateBreakpoint", json!({ "Breakpoint": breakpoint }))?;
    rpc.send("Command", json!({ "name": "continue" }))?;
    // The hits have to be many, not to be waited for: no event tells of them.
    std::thread::sleep(Duration::from_millis(300));
    Ok(rpc)
}

fn watchdog(host: &Host) -> Result<()> {
    start(host, "watchdog")?;
    leaves_nothing(host, &["watchdog"], |_| {
        let options = format!("--ttl 60s --yes --from {}", host.laptop_address());
        let session = Session::open(host, "watchdog", &options)?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        // Three times as long as its WatchdogSec=2s; it must not have been killed meanwhile.
        std::thread::sleep(Duration::from_secs(6));
        ensure!(rpc.state()?["Running"] == false, "it does not stand");
        session.stop(host)
    })
}

fn systemd_reloads(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        for reload in ["daemon-reload", "daemon-reexec"] {
            host.ok(&format!("systemctl {reload}"))?;
            // godebugd has heard all of it when it answers this.
            ensure!(session.show(host)?["state"] == "active", "{reload} ended the session");
            ensure!(rpc.state()?["Running"] == true, "{reload} cut the connection");
        }
        session.stop(host)
    })
}
