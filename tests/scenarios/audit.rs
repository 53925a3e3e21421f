//! What an auditor reads: who debugged what, when and why, and the proof that it is gone; that nobody
//! else reads it; and that what somebody wrote into it does no harm.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::{Value, json};

use crate::support::{SOON, Session, leaves_nothing, refused, text};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("audit_shows_a_session_and_its_proof", shows_a_session).main().shared(),
    Scenario::new("audit_is_for_owners_and_auditors", only_for_auditors).shared(),
    Scenario::new("audit_makes_hostile_words_harmless", hostile_words),
    Scenario::new("audit_tells_of_damaged_lines", damaged_lines),
    Scenario::new("stuck_session_is_an_alert_and_audited_until_it_is_closed", stuck),
];

const LOG: &str = "/var/log/godebug/audit.jsonl";

fn shown(host: &Host, id: &str) -> Result<Value> {
    host.run(&format!("godebugctl --json audit show {id}"))?.exits(0)?.json()
}

fn events(trail: &Value) -> Vec<&str> {
    let entries = trail["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().filter_map(|entry| entry["event"].as_str()).collect()
}

fn shows_a_session(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s --reason 'orders are slow'")?;
        let running = host.run("godebugctl --json audit list --last 1")?.exits(0)?.json()?;
        ensure!(running["sessions"][0]["id"] == session.id.as_str(), "{running}");
        ensure!(running["sessions"][0]["outcome"] == "running", "{running}");
        host.ok(&format!("godebugctl extend {} --ttl 90s", session.id))?;
        session.stop(host)?;
        let trail = shown(host, &session.id)?;
        ensure!(events(&trail) == ["opening", "active", "extended", "closed"], "{trail}");
        ensure!(trail["damaged_lines"] == 0 && trail["left_out"].is_null(), "{trail}");
        is_as_in_the_log(host, &session, &trail)?;
        let proof = trail["entries"][3]["details"]["proof"].as_array().context("no proof")?;
        ensure!(proof.len() >= 6 && proof.iter().all(|one| one["gone"] == true), "{trail}");
        for read in ["tracer", "breakpoints", "godebug-dlv@", "godebug-deadman@", "port"] {
            let found = proof.iter().any(|one| text(one, "what").is_ok_and(|it| it.contains(read)));
            ensure!(found, "the proof says nothing of {read}: {trail}");
        }
        let human = host.ok(&format!("godebugctl audit show {}", session.id))?;
        let program = &trail["entries"][0]["details"]["program"];
        ensure!(program["executable"] == "/opt/samples/shop", "{program}");
        ensure!(program["build_id"].as_str().is_some_and(|id| id.len() >= 20), "{program}");
        for part in [
            "root (uid 0)",
            "/opt/samples/shop, build ID ",
            "orders are slow",
            "step",
            "because: stopped by root",
            "proved: all",
        ] {
            ensure!(human.contains(part), "no {part:?} in\n{human}");
        }
        is_listed(host, &session)
    })
}

/// The records are the log's lines, with nothing added and nothing left out.
fn is_as_in_the_log(host: &Host, session: &Session, trail: &Value) -> Result<()> {
    let log = host.read_file(LOG)?;
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own: Vec<Value> = lines.filter(|line| line["session"] == session.id.as_str()).collect();
    ensure!(trail["entries"] == json!(own), "other records than in the log: {trail}");
    Ok(())
}

fn is_listed(host: &Host, session: &Session) -> Result<()> {
    let list = |words: &str| -> Result<Value> {
        host.run(&format!("godebugctl --json audit list {words}"))?.exits(0)?.json()
    };
    for words in ["", "--last 1", "--unit myapp", "--unit myapp.service --last 5"] {
        let list = list(words)?;
        let last = list["sessions"].as_array().and_then(|all| all.last()).context("none")?;
        ensure!(last["id"] == session.id.as_str() && last["outcome"] == "proved", "{list}");
        ensure!(last["unit"] == "myapp.service" && last["mode"] == "step", "{list}");
        ensure!(last["opened_by"] == "root" && last["close_reason"] == "stopped", "{list}");
        ensure!(list["own_only"] == false, "{list}");
    }
    let other = list("--unit no-such-unit")?;
    ensure!(other["sessions"] == json!([]), "{other}");
    let human = host.ok("godebugctl audit list --last 1")?;
    ensure!(human.contains(&session.id) && human.contains("proved"), "{human}");
    Ok(())
}

fn only_for_auditors(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        for ended in [false, true] {
            if ended {
                session.stop(host)?;
            }
            let line = format!("godebugctl --json audit show {}", session.id);
            let output = host.run_as("alice", &line)?;
            ensure!(!output.stdout.contains("myapp\""), "alice sees {output}");
            let why = refused(output, 3, "refused").with_context(|| format!("ended: {ended}"))?;
            ensure!(why.contains("org.godebug1.read"), "{why}");
            let seen = host.run_as("alice", "godebugctl --json audit list")?.exits(0)?.json()?;
            ensure!(seen["sessions"] == json!([]) && seen["own_only"] == true, "{seen}");
        }
        let unknown = host.run("godebugctl --json audit show zzzzzzzz")?;
        refused(unknown, 2, "usage").context("an unknown session")?;
        let call = "busctl call org.godebug1 /org/godebug1 org.godebug1.Manager";
        for words in ["AuditList s ''", "AuditList s '{\"last\":0}'", "AuditShow s ../../etc"] {
            let output = host.run(&format!("{call} {words}"))?;
            ensure!(!output.success() && !output.stderr.contains("NoReply"), "{output}");
        }
        owners_see_their_own(host, &session)
    })
}

/// Whoever opened a session reads its records; whoever only extended it does not.
fn owners_see_their_own(host: &Host, others: &Session) -> Result<()> {
    let uid: u32 = host.ok("id -u alice")?.trim().parse().context("alice's number")?;
    let opening = line("opening", "00000a1c", uid, json!({"opened_at": "2026-01-01T00:00:00Z"}));
    let extended = line("extended", &others.id, uid, json!({"opened_by_uid": 0}));
    let log = host.read_file(LOG)?;
    host.write_file(LOG, format!("{log}{opening}{extended}"))?;
    let own = host.run_as("alice", "godebugctl --json audit show 00000a1c");
    let list = host.run_as("alice", "godebugctl --json audit list");
    let other = host.run_as("alice", &format!("godebugctl --json audit show {}", others.id));
    host.write_file(LOG, log)?;
    ensure!(events(&own?.exits(0)?.json()?) == ["opening"]);
    let list = list?.exits(0)?.json()?;
    ensure!(list["sessions"].as_array().is_some_and(|all| all.len() == 1), "{list}");
    ensure!(list["sessions"][0]["outcome"] == "not-recorded", "{list}");
    refused(other?, 3, "refused").map(drop)
}

fn line(event: &str, id: &str, uid: u32, details: Value) -> String {
    let record = json!({
        "time": "2026-01-01T00:00:00Z", "event": event, "session": id, "unit": "myapp.service",
        "uid": uid, "user": "somebody", "message": "a sentence", "details": details,
    });
    format!("{record}\n")
}

fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}')
}

fn hostile_words(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        // What could be taken for something else is not even accepted.
        for reason in [r"a\033[2Jb", r"a\nclosed by root", r"a\302\233b", r"a\342\200\256b"] {
            let attach = format!(
                "godebugctl --json attach myapp --detach --ticket /tmp/t --reason \"$(printf '{reason}')\""
            );
            refused(host.run(&attach)?, 2, "usage").with_context(|| reason.to_owned())?;
        }
        // Quotes are; they stay quotes.
        let reason = r#"it "says" \u001b[2J {"event":"closed"} <b>"#;
        let options = format!("--ttl 60s --reason '{reason}'");
        let session = Session::open(host, "myapp", &options)?;
        session.stop(host)?;
        let trail = shown(host, &session.id)?;
        ensure!(trail["entries"][0]["details"]["reason"] == reason, "{trail}");
        ensure!(events(&trail) == ["opening", "active", "closed"], "{trail}");
        // What is in the log in spite of that.
        let hostile = "a\u{1b}[2J\u{9b}31m\r\nclosed \u{202e}b\u{7}";
        let details = json!({"reason": hostile, "close_detail": hostile, "stuck": [hostile],
            "opened_at": hostile, "proof": [{"what": hostile, "gone": false, "after_ms": 1}]});
        let log = host.read_file(LOG)?;
        host.write_file(LOG, format!("{log}{}", line("stuck", "00000bad", 0, details)))?;
        for words in ["show 00000bad", "list", "--json show 00000bad", "--json list"] {
            let output = host.run(&format!("godebugctl audit {words}"))?.exits(0)?;
            ensure!(
                is_harmless(&output.stdout) && is_harmless(&output.stderr),
                "{words}: {output}"
            );
        }
        Ok(())
    })
}

fn damaged_lines(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let first = Session::open(host, "myapp", "--ttl 60s")?;
        first.stop(host)?;
        // A line that is not text, one of another program, and a torn one, as a full disk leaves it.
        host.ok(&format!("printf '\\377\\376\\033[2J\\n{{\"a\":1}}\\n{{\"time\":\"2026' >>{LOG}"))?;
        let second = Session::open(host, "myapp", "--ttl 60s")?;
        second.stop(host)?;
        for session in [&first, &second] {
            let trail = shown(host, &session.id)?;
            ensure!(events(&trail) == ["opening", "active", "closed"], "{trail}");
            ensure!(trail["damaged_lines"] == 3, "{trail}");
            let human = host.ok(&format!("godebugctl audit show {}", session.id))?;
            ensure!(human.contains("damaged lines in the log, passed over: 3"), "{human}");
        }
        let human = host.ok("godebugctl audit list")?;
        ensure!(human.contains("damaged lines in the log, passed over: 3"), "{human}");
        ensure!(human.contains(&first.id) && human.contains(&second.id), "{human}");
        // A restarted godebugd has only the log to tell of an ended session.
        host.ok("systemctl stop godebugd")?;
        ensure!(first.show(host)?["state"] == "closed");
        Ok(())
    })
}

/// The message ID of a session that is stuck.
const STUCK: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b06";

fn stuck(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let nft = host.ok("command -v nft")?;
        let nft = nft.trim();
        host.ok(&format!("mount --bind /bin/false {nft}"))?;
        let stop = host.run(&format!("godebugctl --json stop {}", session.id));
        let alert = is_an_alert(host, &session);
        let listed = host.run("godebugctl --json audit list --last 1");
        host.ok(&format!("umount {nft}"))?;
        ensure!(stop?.status == 5, "it was not stuck");
        alert?;
        let listed = listed?.exits(0)?.json()?;
        ensure!(listed["sessions"][0]["outcome"] == "stuck", "{listed}");
        session.ends(host, "stopped", SOON)?;
        let trail = shown(host, &session.id)?;
        let events = events(&trail);
        ensure!(events[..3] == ["opening", "active", "stuck"], "{trail}");
        ensure!(events.last() == Some(&"closed"), "{trail}");
        let human = host.ok(&format!("godebugctl audit show {}", session.id))?;
        ensure!(human.contains("NOT PROVED") && human.contains("proved: all"), "{human}");
        Ok(())
    })
}

/// Each record of a stuck session is one entry of the journal, with all its fields and the priority
/// that wakes people.
fn is_an_alert(host: &Host, session: &Session) -> Result<()> {
    let count = |arguments: &str| -> Result<Vec<Value>> {
        let journal = host.journal(&format!("-o json {arguments} MESSAGE_ID={STUCK}"))?;
        journal.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let (alerts, all) = (count("-p alert")?, count("")?);
    ensure!(!alerts.is_empty() && alerts.len() == all.len(), "{alerts:?}\n{all:?}");
    let trail = shown(host, &session.id)?;
    let recorded = events(&trail).iter().filter(|event| **event == "stuck").count();
    ensure!(recorded >= alerts.len() && alerts.len() + 1 >= recorded, "{trail}\n{alerts:?}");
    for alert in alerts {
        ensure!(alert["PRIORITY"] == "1", "{alert}");
        ensure!(alert["GODEBUG_SESSION"] == session.id.as_str(), "{alert}");
        ensure!(alert["GODEBUG_UNIT"] == "myapp.service" && alert["GODEBUG_ACTOR"] == "root");
        ensure!(alert["GODEBUG_ACTOR_UID"] == "0" && alert["_COMM"] == "godebugd", "{alert}");
    }
    Ok(())
}
