//! How sessions end, wanted or not: later, sooner, because the service or the debugger ended, because
//! a part of godebug was killed, because a step failed. Whatever happens, nothing is left.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use godebug_tests::{
    Host, Output, Port, Snapshot, jsonrpc::JsonRpcClient, nothing_left, scenario::Scenario, tls,
};
use serde_json::Value;

use crate::support::{
    Laptop, SOON, Session, is_answered, leaves_nothing, leaves_nothing_but_new_processes, order,
    refused, start, text,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("extended_session_outlives_its_first_end_and_ends_at_the_new", extended).shared(),
    Scenario::new("stop_all_ends_every_session", stop_all).shared(),
    Scenario::new("restart_of_the_service_ends_the_session_and_is_not_held_up", service_restarts)
        .main()
        .shared(),
    Scenario::new("crash_of_the_service_ends_the_session", service_crashes).shared(),
    Scenario::new("stop_of_dlv_ends_the_session", debugger_stops).shared(),
    Scenario::new("killed_dlv_leaves_the_service_whole", debugger_killed).shared(),
    Scenario::new("killed_gateway_ends_the_session", gateway_killed).shared(),
    Scenario::new("killed_godebugd_takes_its_session_over", daemon_killed).main().shared(),
    Scenario::new("dead_man_ends_the_session_without_godebugd", dead_man).main().shared(),
    Scenario::new("reload_of_firewalld_leaves_the_session_usable", firewalld_reloads)
        .main()
        .shared(),
    Scenario::new("ctrl_c_while_attaching_leaves_nothing", interrupted_while_attaching).shared(),
    Scenario::new("failed_step_is_told_and_undone", failed_steps).shared(),
    Scenario::new("unusable_nft_is_refused_before_anything_is_changed", nft_is_missing).shared(),
    Scenario::new("unwritable_audit_log_opens_nothing", no_record_no_grant).shared(),
    Scenario::new("every_move_of_a_session_is_a_signal", signals).shared(),
];

fn extended(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "3s")?;
        // Without godebugctl, which leaves when its ticket says so.
        let wire = tls::connect(host.connect_from_laptop(session.port)?, &session.identity(host)?)?;
        let mut rpc = JsonRpcClient::new(wire);
        let extend = format!(
            "godebugctl --json extend {} --ttl 7s --ticket {}",
            session.id,
            text(&session.document, "ticket")?
        );
        let extended = host.run(&extend)?.exits(0)?.json()?;
        let (old, new) = (text(&session.document, "expires_at")?, text(&extended, "expires_at")?);
        ensure!(new > old, "the end was not moved: {old} to {new}");
        // The first end passes, by the host's own clock.
        host.ok(&format!("while [ $(date +%s) -le $(date -d {old} +%s) ]; do sleep 0.1; done"))?;
        ensure!(session.show(host)?["state"] == "active", "it ended at its first end");
        ensure!(rpc.state()?["Running"] == true, "the gateway does not serve any more");
        // The ticket was written again, so a new connection is let in too.
        ensure!(Laptop::connect(host, &session)?.rpc()?.state()?["Running"] == true);
        session.ends(host, "expired", SOON)?;
        let passed = host.ok(&format!("echo $(( $(date +%s) - $(date -d {new} +%s) ))"))?;
        let passed: i64 = passed.trim().parse().context("seconds since the end")?;
        ensure!((0..=3).contains(&passed), "ended {passed} s after its new end");
        Ok(())
    })
}

fn stop_all(host: &Host) -> Result<()> {
    start(host, "app@1 pie")?;
    leaves_nothing(host, &["myapp", "app@1", "pie"], |_| {
        let sessions = [
            Session::for_laptop(host, "myapp", "60s")?,
            Session::for_laptop(host, "app@1", "60s")?,
            Session::open(host, "pie", "--ttl 60s")?,
        ];
        let ports: BTreeSet<u16> = sessions.iter().map(|session| session.port).collect();
        ensure!(ports.len() == 3, "two sessions on one port: {ports:?}");
        ensure!(ports.iter().all(|port| (2345..=2364).contains(port)), "{ports:?}");
        // One that goes takes nothing from the others.
        sessions[1].stop(host)?;
        ensure!(Laptop::connect(host, &sessions[0])?.rpc()?.state()?["Running"] == true);
        let ended = host.run("godebugctl --json stop --all")?.exits(0)?.json()?;
        ensure!(ended.as_array().is_some_and(|all| all.len() == 2), "{ended}");
        ensure!(
            host.run("godebugctl --json list")?
                .exits(0)?
                .json()?
                .as_array()
                .is_some_and(Vec::is_empty)
        );
        Ok(())
    })?;
    host.ok("systemctl stop app@1 pie").map(drop)
}

fn service_restarts(host: &Host) -> Result<()> {
    leaves_nothing_but_new_processes(host, &["myapp"], |before| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        ensure!(laptop.rpc()?.state()?["Running"] == true);
        let restart = host.run_within("systemctl restart myapp", Duration::from_secs(30))?;
        restart.exits(0).context("the restart was held up by the session")?;
        session.ends(host, "target-exited", SOON)?;
        let new = host.targets("myapp")?;
        ensure!(new[0].inner_pid != before.processes()[0].inner_pid, "it did not restart");
        host.http_from_host("http://127.0.0.1:8080/healthz").map(drop)
    })
}

fn service_crashes(host: &Host) -> Result<()> {
    start(host, "app@2")?;
    leaves_nothing_but_targets_gone(host, "app@2", |before| {
        let session = Session::for_laptop(host, "app@2", "60s")?;
        host.ok(&format!("kill -KILL {}", before.processes()[0].inner_pid))?;
        session.ends(host, "target-exited", SOON)?;
        let unit = host.ok("systemctl show --value -p Result app@2")?;
        ensure!(unit.trim() == "signal", "systemd did not see the crash: {unit}");
        Ok(())
    })?;
    host.ok("systemctl reset-failed app@2").map(drop)
}

fn leaves_nothing_but_targets_gone(
    host: &Host,
    unit: &str,
    steps: impl FnOnce(&Snapshot) -> Result<()>,
) -> Result<()> {
    let others = Snapshot::take(host, &["myapp"])?;
    steps(&Snapshot::take(host, &[unit])?)?;
    nothing_left(host, &others)
}

fn debugger_stops(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        host.ok(&format!("systemctl stop {}", session.unit("dlv")))?;
        session.ends(host, "debugger-exited", SOON).map(drop)
    })
}

fn debugger_killed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        {
            // A breakpoint that nobody hits: its byte is in the text when dlv is killed.
            let laptop = Laptop::connect(host, &session)?;
            let mut ide = laptop.dap()?;
            ide.attach()?;
            ide.set_function_breakpoints(&["main.priceOf"])?;
            ide.configuration_done()?;
        }
        host.ok(&format!("systemctl kill --signal=KILL {}", session.unit("dlv")))?;
        session.ends(host, "debugger-exited", SOON)?;
        // The place where the breakpoint was is passed unharmed.
        is_answered(order(host, 8080)?)
    })
}

fn gateway_killed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        host.ok(&format!("systemctl kill --signal=KILL {}", session.unit("gateway")))?;
        session.ends(host, "failed", SOON).map(drop)
    })
}

fn daemon_killed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "8s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        let killed = main_pid(host)?;
        host.ok("systemctl kill --signal=KILL godebugd")?;
        host.wait_until("systemd has restarted godebugd", SOON, || {
            let pid = main_pid(host)?;
            Ok(pid != "0" && pid != killed)
        })?;
        ensure!(rpc.state()?["Running"] == true, "the session did not outlive godebugd");
        let adopted = session.show(host)?;
        ensure!(adopted["state"] == "active", "not adopted: {adopted}");
        ensure!(adopted["expires_at"] == session.document["expires_at"], "another end: {adopted}");
        session.ends(host, "expired", SOON).map(drop)
    })
}

fn main_pid(host: &Host) -> Result<String> {
    Ok(host.ok("systemctl show --value -p MainPID godebugd")?.trim().to_owned())
}

fn dead_man(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "4s")?;
        host.ok("systemctl mask --runtime godebugd && systemctl kill --signal=KILL godebugd")?;
        let gone = session.is_gone_within(host, SOON);
        let late = host.ok(&format!(
            "echo $(( $(date +%s) - $(date -d {} +%s) ))",
            text(&session.document, "expires_at")?
        ))?;
        host.ok("systemctl unmask --runtime godebugd && systemctl reset-failed godebugd")?;
        gone?;
        let late: i64 = late.trim().parse().context("seconds since the end")?;
        ensure!((0..=5).contains(&late), "revoked {late} s after the end");
        let ended = session.show(host)?;
        ensure!(ended["close_reason"] == "expired", "{ended}");
        crate::support::is_proved(&ended)
    })
}

fn firewalld_reloads(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let rules = "firewall-cmd --list-rich-rules";
        let port = format!("port=\"{}\"", session.port);
        ensure!(host.ok(rules)?.contains(&port), "no rule for the session's port");
        host.ok("firewall-cmd --reload")?;
        host.wait_until("the rule is back", SOON, || Ok(host.ok(rules)?.contains(&port)))?;
        let laptop = Laptop::connect(host, &session)?;
        ensure!(laptop.rpc()?.state()?["Running"] == true);
        ensure!(host.port_scan_from_stranger(session.port)? == Port::Filtered);
        session.stop(host)
    })
}

fn interrupted_while_attaching(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut attach = host.spawn("exec godebugctl --json attach myapp --ttl 60s")?;
        let run = host.path("/run/godebug");
        let opening = || -> Option<String> {
            let folders = std::fs::read_dir(&run).ok()?.flatten();
            let mut names = folders.filter(|entry| entry.path().is_dir());
            Some(names.next()?.file_name().to_string_lossy().into_owned())
        };
        host.wait_until("the session has a ledger", SOON, || Ok(opening().is_some()))?;
        attach.interrupt()?;
        let ended = attach.wait(SOON)?;
        ensure!(ended.status != 0, "interrupted, and yet a success: {ended}");
        host.wait_until("the session is gone", SOON, || Ok(opening().is_none()))
    })
}

fn failed_steps(host: &Host) -> Result<()> {
    let cases = [
        (
            "the gateway cannot start",
            "mount --bind /bin/false /usr/lib/godebug/godebug-gateway",
            "umount /usr/lib/godebug/godebug-gateway",
        ),
        ("dlv cannot attach", "mount --bind /bin/false /usr/bin/dlv", "umount /usr/bin/dlv"),
        (
            "dlv is never ready",
            "mount --bind /bin/false /usr/lib/godebug/godebug-dlvctl",
            "umount /usr/lib/godebug/godebug-dlvctl",
        ),
    ];
    for (what, breaking, mending) in cases {
        let case = leaves_nothing(host, &["myapp"], |_| {
            let failed = attach_while(host, breaking, mending)?;
            ensure!([4, 5].contains(&failed.status), "another exit status: {failed}");
            let message = text(&failed.json()?["error"], "message")?;
            ensure!(!message.contains("given back:"), "not all was undone: {message}");
            ensure!(host.port_scan_from_laptop(2345)? == Port::Filtered);
            Ok(())
        });
        case.with_context(|| format!("when {what}"))?;
    }
    Ok(())
}

/// Attaches while something is broken, and mends it again whatever came of that.
fn attach_while(host: &Host, breaking: &str, mending: &str) -> Result<Output> {
    host.ok(breaking)?;
    let attach = host.run(&format!(
        "godebugctl --json attach myapp --ttl 60s --from {} --detach",
        host.laptop_address()
    ));
    host.ok(mending)?;
    attach
}

fn nft_is_missing(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let nft = host.ok("command -v nft")?;
        let nft = nft.trim();
        let breaking = format!("mount --bind /etc/hostname {nft}");
        let why = refused(attach_while(host, &breaking, &format!("umount {nft}"))?, 5, "host")?;
        ensure!(why.contains("nft"), "it does not say what is missing: {why}");
        Ok(())
    })
}

fn no_record_no_grant(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        // A full file system where the log is.
        host.ok(
            "systemctl stop godebugd; mount -t tmpfs -o size=4k,mode=0750 tmpfs /var/log/godebug && \
             head -c 4096 /dev/zero >/var/log/godebug/full",
        )?;
        let attach = host.run("godebugctl --json attach myapp --ttl 60s --detach");
        host.ok("systemctl stop godebugd; umount /var/log/godebug")?;
        let why = refused(attach?, 5, "host")?;
        ensure!(why.contains("audit"), "it does not say why: {why}");
        Ok(())
    })?;
    log_fills_up_during_a_session(host)
}

/// A log that cannot be written holds up no revocation.
fn log_fills_up_during_a_session(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        host.ok(
            "systemctl stop godebugd; mount -t tmpfs -o size=64k,mode=0750 tmpfs /var/log/godebug",
        )?;
        let steps = || -> Result<()> {
            let session = Session::for_laptop(host, "myapp", "60s")?;
            host.run("head -c 65536 /dev/zero >/var/log/godebug/full")?;
            session.stop(host)
        };
        let ended = steps();
        host.ok("systemctl stop godebugd; umount /var/log/godebug")?;
        ended
    })
}

fn signals(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut monitor = host.spawn(
            "exec busctl --json=short --match=\"type='signal',path_namespace='/org/godebug1'\" monitor",
        )?;
        host.wait_until("the monitor listens", SOON, || {
            host.ok("busctl emit /org/godebug1 test.Test Heard")?;
            Ok(monitor.stdout().contains("Heard"))
        })?;
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        session.stop(host)?;
        monitor.wait_for_line("SessionRemoved", SOON)?;
        let moves: Vec<Value> = monitor
            .stdout()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["member"] == "Transition")
            .map(|mut message| message["payload"]["data"].take())
            .collect();
        let expected = serde_json::json!([
            ["preparing", "active", ""],
            ["active", "closing", ""],
            ["closing", "closed", "stopped"]
        ]);
        ensure!(serde_json::json!(moves) == expected, "other moves: {moves:?}");
        Ok(())
    })
}
