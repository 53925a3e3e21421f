//! What commands and the bus answer: documents with the fields that scripts rely on, and the interface
//! that is in the tree.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::Value;

use crate::support::{Session, leaves_nothing, text};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("documents_have_the_promised_fields", documents).main().shared(),
    Scenario::new("dry_run_tells_the_plan_and_does_nothing", dry_run).shared(),
    Scenario::new("completion_works_in_bash", completion).shared(),
    Scenario::new("bus_serves_the_interface_that_is_in_the_tree", introspection).shared(),
];

const SESSION: &[&str] = &[
    "id",
    "unit",
    "state",
    "mode",
    "pid",
    "endpoint",
    "expires_at",
    "opened_by",
    "reason",
    "ticket",
];

fn documents(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let session = Session::open(host, "myapp", "--ttl 60s --reason 'orders are slow'")?;
        let run = |words: &str| host.run(&format!("godebugctl --json {words}"))?.exits(0)?.json();
        let list = run("list")?;
        ensure!(list.as_array().is_some_and(|all| all.len() == 1), "{list}");
        let mut shown = run(&format!("show {}", session.id))?;
        for document in [&session.document, &list[0], &shown] {
            has_fields(document, SESSION)?;
            ensure!(document["unit"] == "myapp.service" && document["mode"] == "step");
            ensure!(document["reason"] == "orders are slow" && document["opened_by"] == "root");
            let end = text(document, "expires_at")?;
            ensure!(end.len() == 20 && end.ends_with('Z') && end.contains('T'), "not UTC: {end}");
        }
        let inspected = run("inspect myapp.service")?;
        has_fields(
            &inspected,
            &["go_version", "module", "vcs_revision", "build_settings", "debugger"],
        )?;
        ensure!(inspected["module"] == "example.invalid/shop", "{inspected}");
        ensure!(inspected["pid"] == before.processes()[0].inner_pid, "{inspected}");
        // It says who traces it, and that another attach would be refused.
        ensure!(
            !inspected["traced_by"].is_null() && !inspected["refusal"].is_null(),
            "{inspected}"
        );
        session.stop(host)?;
        shown = run(&format!("show {}", session.id))?;
        ensure!(shown["close_reason"] == "stopped" && shown["close_detail"] == "stopped by root");
        let diagnosis = run("doctor myapp")?;
        ensure!(diagnosis["good"] == true, "{diagnosis}");
        for check in diagnosis["checks"].as_array().context("no checks")? {
            has_fields(check, &["name", "verdict", "found", "remedy"])?;
            let good = check["verdict"] == "good";
            ensure!(good || check["remedy"] != "", "nothing to do about it: {check}");
        }
        is_recorded(host, &session)
    })
}

/// What all message IDs of godebug begin with.
const MESSAGES: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b";

fn has_fields(document: &Value, fields: &[&str]) -> Result<()> {
    for field in fields {
        ensure!(document.get(field).is_some(), "no {field} in {document}");
    }
    Ok(())
}

/// Every decision and end is in the audit log and in the journal.
fn is_recorded(host: &Host, session: &Session) -> Result<()> {
    let log = host.read_file("/var/log/godebug/audit.jsonl")?;
    let mut events = Vec::new();
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).context("a line of the audit log")?;
        if entry["session"] == session.id.as_str() {
            has_fields(&entry, &["time", "event", "unit", "uid", "user", "message", "details"])?;
            events.push(text(&entry, "event")?);
        }
    }
    ensure!(events == ["opening", "active", "closed"], "{events:?}");
    let journal = host.journal(&format!("-o json GODEBUG_SESSION={}", session.id))?;
    let id = |line: &str| -> Option<String> {
        serde_json::from_str::<Value>(line).ok()?["MESSAGE_ID"].as_str().map(str::to_owned)
    };
    // What systemd says about the session's units carries its number too.
    let ids: Vec<String> =
        journal.lines().filter_map(id).filter(|id| id.starts_with(MESSAGES)).collect();
    let expected = ["02", "03", "05"].map(|kind| format!("{MESSAGES}{kind}"));
    ensure!(ids == expected, "other journal entries: {ids:?}");
    Ok(())
}

fn dry_run(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let words = format!("attach myapp --dry-run --from {}", host.laptop_address());
        let plan = host.run(&format!("godebugctl --json {words}"))?.exits(0)?.json()?;
        let steps = plan["plan"]["steps"].as_array().context("no steps")?;
        ensure!(steps.len() >= 5, "{plan}");
        for step in steps {
            has_fields(step, &["grant", "does", "undo", "ends_by_itself"])?;
        }
        ensure!(steps[0]["does"].as_str().is_some_and(|does| does.contains("timer")), "{plan}");
        let human = host.run(&format!("godebugctl {words}"))?.exits(0)?.stdout;
        ensure!(human.contains("firewalld") && human.contains("2345"), "{human}");
        let list = host.run("godebugctl --json list")?.exits(0)?.json()?;
        ensure!(list.as_array().is_some_and(Vec::is_empty), "{list}");
        Ok(())
    })
}

fn completion(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let complete = |words: &str| -> Result<String> {
            host.ok(&format!(
                "bash -c 'eval \"$(godebugctl completion bash)\"; COMP_WORDS=(godebugctl {words}); \
                 COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
                 _godebugctl_with_names godebugctl \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; \
                 echo \"${{COMPREPLY[@]}}\"'"
            ))
        };
        ensure!(complete("att")?.trim() == "attach", "{}", complete("att")?);
        ensure!(complete("attach --tt")?.trim() == "--ttl", "{}", complete("attach --tt")?);
        // Of units and sessions, which only this host knows.
        ensure!(complete("attach mya")?.trim() == "myapp", "{}", complete("attach mya")?);
        ensure!(complete("snapshot --count 3 mya")?.trim() == "myapp");
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let begun = session.id.get(..3).context("a short ID")?;
        ensure!(complete(&format!("stop {begun}"))?.trim() == session.id, "of a session");
        session.stop(host)?;
        for shell in ["zsh", "fish"] {
            host.run(&format!("godebugctl completion {shell}"))?.exits(0)?;
        }
        Ok(())
    })
}

fn introspection(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let manager = compare(host, "org.godebug1.Manager", "/org/godebug1");
        let object = format!("/org/godebug1/session/{}", session.id);
        let session_interface = compare(host, "org.godebug1.Session", &object);
        session.stop(host)?;
        manager.and(session_interface)
    })
}

/// Compares what an object serves with the file in the tree; GODEBUG_BLESS=1 writes the file instead.
fn compare(host: &Host, interface: &str, object: &str) -> Result<()> {
    let served = host.ok(&format!("busctl introspect --xml-interface org.godebug1 {object}"))?;
    let served = interface_of(&served, interface)
        .with_context(|| format!("{object} has no {interface}:\n{served}"))?;
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../daemon/api/introspection")
        .join(format!("{interface}.xml"));
    if std::env::var("GODEBUG_BLESS").is_ok_and(|value| value == "1") {
        return std::fs::write(&file, document(&served)).context("writing the interface's file");
    }
    let kept = std::fs::read_to_string(&file)
        .with_context(|| format!("{} is not there; GODEBUG_BLESS=1 writes it", file.display()))?;
    let kept = interface_of(&kept, interface).context("the file lacks the interface")?;
    ensure!(
        essence(&kept) == essence(&served),
        "{} differs from what is served (GODEBUG_BLESS=1 rewrites it):\n{served}",
        file.display()
    );
    Ok(())
}

/// One interface of an introspection document, whatever else the object has.
fn interface_of(xml: &str, interface: &str) -> Option<String> {
    let start = xml.find(&format!("<interface name=\"{interface}\">"))?;
    let length = xml[start..].find("</interface>")? + "</interface>".len();
    Some(xml[start..start + length].to_owned())
}

/// Without comments and indentation.
fn essence(xml: &str) -> Vec<String> {
    let mut kept = String::new();
    for (index, part) in xml.split("<!--").enumerate() {
        let rest =
            if index == 0 { part } else { part.split_once("-->").map_or("", |(_, rest)| rest) };
        kept.push_str(rest);
    }
    kept.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

fn document(interface: &str) -> String {
    format!(
        "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
         \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n\
         <node>\n  {interface}\n</node>\n"
    )
}
