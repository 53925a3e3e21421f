//! What others do to the host while a session is open: kill and stop its parts, change the firewall,
//! take the bus or polkit away, fill /run, damage a ledger. The session ends as it should all the same.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Port, Snapshot, nothing_left, scenario::Scenario};

use crate::support::{Laptop, SOON, Session, is_answered, is_proved, leaves_nothing, order, start};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("dlv_and_guard_killed_together_leave_the_service_whole", both_killed)
        .main()
        .shared(),
    Scenario::new("stopped_parts_hold_up_no_end", parts_stopped).shared(),
    Scenario::new("killed_firewalld_leaves_no_rule_in_the_kernel", firewalld_killed)
        .main()
        .shared(),
    Scenario::new("permanent_copy_of_a_rule_is_taken_out_at_once", made_permanent).shared(),
    Scenario::new("flushed_ruleset_gets_its_fence_back", flushed).shared(),
    Scenario::new("timeout_that_a_reload_left_behind_shuts_no_port", timeout_left_behind).shared(),
    Scenario::new("rule_that_no_ledger_knows_is_removed", orphaned_rule).shared(),
    Scenario::new("damaged_ledger_is_revoked_by_name", ledger_damaged).shared(),
    Scenario::new("what_cannot_be_undone_is_shown_and_tried_again", stuck).shared(),
    Scenario::new("full_run_holds_up_no_end_and_opens_nothing", run_is_full).shared(),
    Scenario::new("restarted_bus_leaves_the_session_alone", bus_restarts),
    Scenario::new("session_ends_without_polkit", polkit_is_gone).shared(),
];

fn both_killed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        breakpoint_that_nobody_hits(host, &session)?;
        // What systemd runs after dlv is killed too: nobody is left to repair but godebugd.
        let (dlv, guard) = (session.unit("dlv"), session.unit("guard"));
        host.ok(&format!(
            "systemctl kill --signal=KILL {guard} {dlv}; \
             for again in 1 2 3 4 5 6 7 8; do systemctl kill --signal=KILL {dlv} || true; done"
        ))?;
        session.ends(host, "debugger-exited", SOON)?;
        is_answered(order(host, 8080)?)
    })
}

/// Its byte is in the text until it is cleared.
fn breakpoint_that_nobody_hits(host: &Host, session: &Session) -> Result<()> {
    let laptop = Laptop::connect(host, session)?;
    let mut ide = laptop.dap()?;
    ide.attach()?;
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done().map(drop)
}

fn parts_stopped(host: &Host) -> Result<()> {
    for part in ["dlv", "guard", "gateway"] {
        let case = leaves_nothing(host, &["myapp"], |_| {
            let session = Session::for_laptop(host, "myapp", "60s")?;
            breakpoint_that_nobody_hits(host, &session)?;
            host.ok(&format!("systemctl kill --signal=STOP {}", session.unit(part)))?;
            session.stop(host)?;
            is_answered(order(host, 8080)?)
        });
        case.with_context(|| format!("when {part} is stopped"))?;
    }
    Ok(())
}

fn firewalld_killed(host: &Host) -> Result<()> {
    start(host, "myapp")?;
    let before = Snapshot::take(host, &["myapp"])?;
    let session = Session::for_laptop(host, "myapp", "60s")?;
    host.ok("systemctl kill --signal=KILL firewalld")?;
    host.wait_until("firewalld is gone", SOON, || {
        Ok(host.run("systemctl is-active --quiet firewalld")?.status != 0)
    })?;
    session.stop(host)?;
    let ruleset = host.ok("nft list ruleset")?;
    ensure!(!ruleset.contains(&format!("dport {}", session.port)), "left: {ruleset}");
    host.ok("systemctl start firewalld")?;
    host.wait_until("firewalld is back", SOON, || {
        Ok(host.run("firewall-cmd --state")?.status == 0)
    })?;
    ensure!(host.ok("firewall-cmd --list-rich-rules")?.trim().is_empty());
    // A firewalld that starts anew puts some of its rules in another order.
    nothing_left(host, &before.with_firewall_as_now(host)?)
}

fn made_permanent(host: &Host) -> Result<()> {
    host.ok("touch /tmp/before")?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let port = format!("port=\"{}\"", session.port);
        host.ok("firewall-cmd --runtime-to-permanent")?;
        host.wait_until("the permanent settings are without it", SOON, || {
            Ok(!host.ok("firewall-cmd --permanent --list-rich-rules")?.contains(&port))
        })?;
        ensure!(host.ok("firewall-cmd --list-rich-rules")?.contains(&port), "the rule itself went");
        session.stop(host)?;
        // With no godebugd to see it at once: the end takes it out.
        let session = Session::for_laptop(host, "myapp", "3s")?;
        host.ok("systemctl mask --runtime godebugd && systemctl kill --signal=KILL godebugd")?;
        let kept = host.ok("firewall-cmd --runtime-to-permanent");
        let gone = session.is_gone_within(host, SOON);
        host.ok("systemctl unmask --runtime godebugd && systemctl reset-failed godebugd")?;
        kept.and(gone)?;
        // The zones' files that the command wrote are its own.
        host.ok("find /etc/firewalld -name '*.xml*' -newer /tmp/before -delete && firewall-cmd --reload")
            .map(drop)
    })
}

fn flushed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        host.ok("nft flush ruleset")?;
        let fence = format!("godebug_{}", session.id);
        host.wait_until("the fence is back", SOON, || {
            Ok(host.ok("nft list tables")?.contains(&fence))
        })?;
        ensure!(host.port_scan_from_stranger(session.port)? == Port::Filtered);
        ensure!(Laptop::connect(host, &session)?.rpc()?.state()?["Running"] == true);
        session.stop(host)?;
        let records = host.ok("cat /var/log/godebug/audit.jsonl")?;
        let record = format!("the fence of session {} was removed by somebody", session.id);
        ensure!(records.contains(&record), "it is not in the record");
        host.ok("firewall-cmd --reload").map(drop)
    })
}

/// firewalld forgets rules when it reloads, but not their timeouts: one of an earlier session would take away the rule of
/// the next, which reads the same.
fn timeout_left_behind(host: &Host) -> Result<()> {
    const ZONES: &str = "org.fedoraproject.FirewallD1 /org/fedoraproject/FirewallD1 org.fedoraproject.FirewallD1.zone";
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let rule = host.ok("firewall-cmd --list-rich-rules")?.trim().to_owned();
        ensure!(rule.lines().count() == 1 && rule.contains("accept"), "{rule}");
        session.stop(host)?;
        let zone = host.ok("firewall-cmd --get-default-zone")?.trim().to_owned();
        host.ok(&format!("busctl call {ZONES} addRichRule ssi {zone} '{rule}' 7"))?;
        host.ok("firewall-cmd --reload")?;
        ensure!(host.ok("firewall-cmd --list-rich-rules")?.trim().is_empty(), "a reload keeps it");
        let later = rule.replace(&format!("port=\"{}\"", session.port), "port=\"9\"");
        host.ok(&format!("busctl call {ZONES} addRichRule ssi {zone} '{later}' 8"))?;
        let session = Session::for_laptop(host, "myapp", "60s")?;
        host.wait_until("both times are over", SOON, || {
            Ok(!host.ok("firewall-cmd --list-rich-rules")?.contains(&later))
        })?;
        let rules = host.ok("firewall-cmd --list-rich-rules")?;
        ensure!(rules.contains(&rule), "the session's own rule is gone: {rules}");
        ensure!(Laptop::connect(host, &session)?.rpc()?.state()?["Running"] == true);
        session.stop(host)
    })
}

fn orphaned_rule(host: &Host) -> Result<()> {
    host.ok("touch /tmp/before")?;
    leaves_nothing(host, &["myapp"], |_| {
        let rule = |port: u16| {
            format!(
                "--add-rich-rule='rule priority=2345 family=ipv4 source address=10.9.9.9 port port={port} protocol=tcp accept'"
            )
        };
        // One of a live session stays, those that nobody knows go.
        let session = Session::for_laptop(host, "myapp", "60s")?;
        host.ok(&format!(
            "firewall-cmd {} && firewall-cmd --permanent {}",
            rule(2350),
            rule(2351)
        ))?;
        let doctor = host.run("godebugctl doctor")?;
        ensure!(doctor.status != 0, "doctor sees nothing: {doctor}");
        ensure!(
            doctor.stdout.matches("10.9.9.9").count() == 2,
            "doctor does not see both: {doctor}"
        );
        ensure!(doctor.stdout.contains("every grant is there"), "{doctor}");
        host.ok("systemctl stop godebug-guard@*")?;
        let doctor = host.run("godebugctl doctor")?;
        ensure!(doctor.stdout.contains("not there: godebug-guard@"), "{doctor}");
        host.ok("systemctl restart godebugd")?;
        host.wait_until("both are gone", SOON, || {
            let rules = host
                .ok("firewall-cmd --list-rich-rules; firewall-cmd --permanent --list-rich-rules")?;
            Ok(!rules.contains("10.9.9.9"))
        })?;
        ensure!(Laptop::connect(host, &session)?.rpc()?.state()?["Running"] == true);
        session.stop(host)?;
        host.ok("find /etc/firewalld -name '*.xml*' -newer /tmp/before -delete && firewall-cmd --reload")
            .map(drop)
    })
}

fn ledger_damaged(host: &Host) -> Result<()> {
    let kept = |session: &Session| format!("/var/log/godebug/{}.ledger", session.id);
    let damage =
        |session: &Session| host.ok(&format!("echo garbage >>/run/godebug/{}/ledger", session.id));
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        breakpoint_that_nobody_hits(host, &session)?;
        damage(&session)?;
        host.ok("systemctl kill --signal=KILL godebugd")?;
        session.is_gone_within(host, SOON)?;
        host.ok(&format!("rm {}", kept(&session))).context("it is not kept")?;
        is_answered(order(host, 8080)?)
    })?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "3s")?;
        breakpoint_that_nobody_hits(host, &session)?;
        host.ok("systemctl mask --runtime godebugd && systemctl kill --signal=KILL godebugd")?;
        let gone = damage(&session).and_then(|_| session.is_gone_within(host, SOON));
        host.ok("systemctl unmask --runtime godebugd && systemctl reset-failed godebugd")?;
        gone.context("the dead man did not manage")?;
        host.ok(&format!("rm {}", kept(&session))).context("it is not kept")?;
        is_answered(order(host, 8080)?)
    })
}

fn stuck(host: &Host) -> Result<()> {
    start(host, "pie")?;
    leaves_nothing(host, &["myapp", "pie"], |_| {
        let nft = host.ok("command -v nft")?.trim().to_owned();
        let session = Session::for_laptop(host, "myapp", "60s")?;
        host.ok(&format!("mount --bind /bin/false {nft}"))?;
        let while_broken = || -> Result<()> {
            let ended = host.run(&format!("godebugctl --json stop {}", session.id))?;
            ensure!(ended.status == 5, "not undone, and yet a success: {ended}");
            let shown = session.show(host)?;
            ensure!(shown["state"] == "stuck", "{shown}");
            let what = shown["stuck"].to_string();
            ensure!(
                what.contains(&format!("godebug_{}", session.id)),
                "it does not say what: {what}"
            );
            ensure!(host.ok("godebugctl list")?.contains("stuck"), "list does not show it");
            let doctor = host.run("godebugctl doctor")?;
            ensure!(doctor.status != 0 && doctor.stdout.contains("stuck"), "{doctor}");
            // Everything else is gone, what watches over it is not.
            ensure!(host.port_scan_from_laptop(session.port)? == Port::Filtered);
            let units = host.ok("systemctl list-units --all --plain --no-legend 'godebug-*@*'")?;
            ensure!(units.lines().all(|unit| unit.contains("deadman")), "{units}");
            ensure!(units.contains(".timer"), "the dead man is gone: {units}");
            // It is in the way of nothing but another session on the same process.
            let other = Session::open(host, "pie", "--ttl 60s")?;
            ensure!(other.port != session.port);
            other.stop(host)
        };
        let seen = while_broken();
        host.ok(&format!("umount {nft}"))?;
        seen?;
        session.ends(host, "stopped", SOON)?;
        let records = host.ok(&format!(
            "grep -c '\"stuck\",\"session\":\"{}' /var/log/godebug/audit.jsonl",
            session.id
        ))?;
        ensure!(records.trim() == "1", "told {records} times that it is stuck");
        Ok(())
    })
}

fn run_is_full(host: &Host) -> Result<()> {
    // As small as what is in it, a page more or less.
    const FILL: &str = "mount -o remount,size=$(df --output=used -B1 /run | tail -1) /run; \
                        dd if=/dev/zero of=/run/fill bs=4k status=none";
    for ending in ["stop", "kill"] {
        let case = leaves_nothing(host, &["myapp"], |_| {
            let session = Session::for_laptop(host, "myapp", "60s")?;
            breakpoint_that_nobody_hits(host, &session)?;
            host.run(FILL)?;
            let ended = if ending == "stop" {
                session.stop(host)
            } else {
                host.ok(&format!("systemctl kill --signal=KILL {}", session.unit("dlv")))
                    .and_then(|_| session.is_gone_within(host, SOON))
            };
            let refused = host.run("godebugctl attach myapp --ttl 60s --detach");
            host.ok("rm /run/fill; mount -o remount,size=20% /run")?;
            ended?;
            ensure!(refused?.status == 5, "a session was opened without a ledger");
            is_answered(order(host, 8080)?)
        });
        case.with_context(|| format!("when it ends by {ending}"))?;
    }
    Ok(())
}

fn bus_restarts(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        host.ok("systemctl restart dbus")?;
        host.wait_until("godebugd has taken the session over", SOON, || {
            Ok(session.show(host).is_ok_and(|shown| shown["state"] == "active"))
        })?;
        ensure!(rpc.state()?["Running"] == true, "the session did not outlive the bus");
        // firewalld ends with its bus, and is not started again by itself.
        host.ok("systemctl restart firewalld")?;
        session.stop(host)
    })
}

fn polkit_is_gone(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        host.ok("systemctl mask --runtime --now polkit")?;
        let refused =
            host.run_within("godebugctl attach pie --ttl 60s --detach", Duration::from_secs(30));
        let stopped = session.stop(host);
        host.ok("systemctl unmask --runtime polkit")?;
        ensure!(refused?.status != 0, "nobody was asked, and yet it was allowed");
        stopped?;
        is_proved(&session.show(host)?)
    })
}
