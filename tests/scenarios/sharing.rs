//! Several people in one session: each with a ticket and a name of their own, where a rule allows it, and
//! some who can only watch.

use anyhow::{Result, ensure};
use godebug_tests::{Host, Output, scenario::Scenario, tls};
use serde_json::{Value, json};
use std::time::Duration;

use crate::support::{
    Laptop, SOON, Session, is_answered, leaves_nothing, order, read_to_end, refused,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("shared_session_has_a_name_for_each_of_its_people", guest).on_newest().shared(),
    Scenario::new("shared_session_can_be_watched_and_no_more", watcher).on_newest().shared(),
    Scenario::new("shared_ticket_is_taken_back_before_the_end", withdrawn).shared(),
    Scenario::new("shared_session_needs_a_rule_and_a_right", denied),
];

/// The ticket for somebody else.
fn ticket_of(host: &Host, session: &Session, options: &str) -> Result<String> {
    let share = format!("godebugctl share {} {options} --ticket /tmp/guest", session.id);
    host.ok(&format!("rm -f /tmp/guest; {share}"))?;
    host.read_file("/tmp/guest")
}

/// What the laptop says to the ticket that was made last.
fn connects(host: &Host) -> Result<Output> {
    host.laptop(&format!(
        "{} connect {}",
        host.path("/usr/bin/godebugctl").display(),
        host.path("/tmp/guest").display()
    ))
}

fn guest(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let ticket = ticket_of(host, &session, "--name bob")?;
        ensure!(ticket.contains("mode = \"step\""), "another mode:\n{ticket}");
        let mine = Laptop::connect(host, &session)?;
        let mut watching = mine.rpc()?;
        let theirs = Laptop::with_ticket(host, &ticket)?;
        let mut ide = theirs.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        let (thread, _) = ide.wait_for_stop()?;
        ensure!(watching.state()?["Running"] == false, "it does not stand for the other");
        ide.resume(thread)?;
        is_answered(request)?;
        drop(ide);
        session.stop(host)?;

        // With the session the ticket is over.
        let late = connects(host)?;
        ensure!(!late.success(), "a guest connects to a session that is over: {late}");
        let page = host.ok(&format!("godebugctl audit show {}", session.id))?;
        for part in ["root lets bob in", "bob may come", "bob (guest of root) "] {
            ensure!(page.contains(part), "the record does not say {part:?}:\n{page}");
        }
        Ok(())
    })
}

fn watcher(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "90s")?;
        let ticket = ticket_of(host, &session, "--name carol --observe")?;
        ensure!(ticket.contains("mode = \"observe\""), "another mode:\n{ticket}");
        let theirs = Laptop::with_ticket(host, &ticket)?;
        // dlv's own client halts a service that runs when it connects; this one waits for a stop.
        let mut carol = theirs
            .dlv_connect("stack\nprint o.ID\ncontinue\nclearall\nbreak main.finish\nexit\n")?;
        let mine = Laptop::connect(host, &session)?;
        let mut ide = mine.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        let (thread, _) = ide.wait_for_stop()?;
        let printed = carol.dlv.wait(SOON)?.stdout;
        ensure!(printed.contains("main.priceOf"), "no stack for who watches:\n{printed}");
        ensure!(printed.matches("can only watch").count() >= 3, "not refused:\n{printed}");

        let mut rpc = theirs.rpc()?;
        ensure!(rpc.state()?["Running"] == false, "it runs");
        let scope = json!({"GoroutineID": -1, "Frame": 0});
        let eval = json!({"Scope": scope, "Expr": "o.ID", "Cfg": {}});
        ensure!(rpc.call("Eval", eval)?["Variable"]["value"] == "3", "nothing is shown");
        for (method, parameters) in [
            ("Command", json!({"name": "continue"})),
            ("Command", json!({"name": "switchGoroutine", "goroutineID": 1})),
            ("ClearBreakpoint", json!({"Id": 1})),
            ("CancelNext", json!({})),
        ] {
            may_not(rpc.call(method, parameters))?;
        }
        let mut other = theirs.dap()?;
        other.initialize()?;
        may_not(other.request("attach", json!({"request": "attach", "mode": "remote"})))?;
        ensure!(!ide.stack_trace(thread)?.is_empty(), "somebody has let it go");
        // Who watches does not keep it standing: with its last debugger gone it goes on.
        drop(ide);
        is_answered(request)?;
        is_answered(order(host, 8080)?)?;
        session.stop(host)
    })
}

fn may_not(answer: Result<Value>) -> Result<()> {
    let said = answer.map_err(|error| format!("{error:#}"));
    ensure!(said.as_ref().is_err_and(|why| why.contains("can only watch")), "{said:?}");
    Ok(())
}

fn withdrawn(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "90s")?;
        let ticket = ticket_of(host, &session, "--name bob")?;
        let mine = Laptop::connect(host, &session)?;
        let mut own = mine.rpc()?;
        let theirs = Laptop::with_ticket(host, &ticket)?;
        let mut ide = theirs.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&["main.priceOf"])?;
        ide.configuration_done()?;
        let request = order(host, 8080)?;
        ide.wait_for_stop()?;

        let withdraw = |name: &str| {
            host.run(&format!("godebugctl --json share {} --name {name} --withdraw", session.id))
        };
        refused(withdraw("nobody")?, 2, "usage")?;
        let line = format!("godebugctl --json share {} --name bob --withdraw", session.id);
        refused(host.run_as("shop", &line)?, 3, "refused")?;
        ensure!(ide.threads().is_ok(), "they were cut off by another's name");
        withdraw("bob")?.exits(0)?;
        ensure!(ide.threads().is_err(), "they are still there");
        ensure!(own.state().is_ok(), "its owner was cut off too");
        let late = connects(host)?;
        ensure!(!late.success(), "they come again: {late}");
        refused(withdraw("bob")?, 2, "usage")?;
        // It was theirs that the service stood. The owner lets in somebody else of the same name.
        is_answered(request)?;
        let again = Laptop::with_ticket(host, &ticket_of(host, &session, "--name bob --observe")?)?;
        ensure!(again.rpc()?.state()?["Running"].is_boolean(), "a new ticket lets nobody in");
        drop(own);
        session.stop(host)?;
        let page = host.ok(&format!("godebugctl audit show {}", session.id))?;
        for part in ["root shuts bob out", "bob may not come any more", "its ticket was withdrawn"]
        {
            ensure!(page.contains(part), "the record does not say {part:?}:\n{page}");
        }
        Ok(())
    })
}

const RULES: &str = r#"
[[rule]]
name = "alone"
effect = "allow"
units = ["myapp"]
users = ["root"]

[[rule]]
name = "look"
effect = "allow"
units = ["idle"]
users = ["root"]
share = "observe"
"#;

fn denied(host: &Host) -> Result<()> {
    host.ok("mkdir -p /etc/godebug/rules.d")?;
    host.write_file("/etc/godebug/rules.d/10-share.toml", RULES)?;
    crate::support::start(host, "idle")?;
    leaves_nothing(host, &["myapp", "idle"], |_| {
        let share = |id: &str, options: &str| {
            host.run(&format!("godebugctl --json share {id} {options} --ticket /tmp/guest"))
        };
        let alone = Session::for_laptop(host, "myapp", "60s")?;
        let why = refused(share(&alone.id, "--name bob --observe")?, 3, "refused")?;
        ensure!(why.contains("alone") && why.contains("share = "), "no rule, no remedy: {why}");
        let look = Session::for_laptop(host, "idle", "60s")?;
        let why = refused(share(&look.id, "--name bob")?, 3, "refused")?;
        ensure!(why.contains("--observe"), "no remedy: {why}");
        let good = share(&look.id, "--name bob --observe")?.exits(0)?.json()?;
        ensure!(good["mode"] == "observe", "{good}");
        // Nobody else lets anybody into root's session.
        let eve = format!("godebugctl --json share {} --name eve", alone.id);
        refused(host.run_as("alice", &eve)?, 3, "refused")?;
        let name = share(&look.id, "--name 'a b'")?.exits(2)?;
        ensure!(name.stderr.contains("no name for a guest"), "{name}");

        // A certificate of one session is none of the other.
        let guest: toml::Table = host.read_file("/tmp/guest")?.parse()?;
        let text = |field: &str| guest[field].as_str().unwrap_or_default().to_owned();
        let mut identity = alone.identity(host)?;
        identity.client = Some((text("certificate"), text("key")));
        let stream = host.connect_from_laptop(alone.port)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        if let Ok(connected) = tls::connect(stream, &identity) {
            ensure!(read_to_end(connected)?.is_empty(), "it is let in");
        }
        look.stop(host)?;
        alone.stop(host)?;
        let listed = host.ok("godebugctl audit list --refused")?;
        ensure!(listed.contains("lets nobody"), "not recorded: {listed}");
        Ok(())
    })
}
