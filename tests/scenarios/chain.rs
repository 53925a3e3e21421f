//! The audit log as one chain: whoever writes it, and whatever is done to it afterwards, which is found.

use anyhow::{Context, Result, ensure};
use godebug_core::{
    Now,
    chain::{Circumstances, Head, Stamp},
};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::Value;

use crate::support::{Session, leaves_nothing};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("tampering_with_the_audit_log_is_found", tampering).on_newest(),
    Scenario::new("audit_log_stays_one_chain_over_rotation_and_writers", one_chain),
];

const LOG: &str = "/var/log/godebug/audit.jsonl";
const STATE: &str = "/var/lib/godebug";
/// The message ID of checkpoints.
const CHECKPOINT: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b09";

fn verified(host: &Host, words: &str) -> Result<Value> {
    let output = host.run(&format!("godebugctl --json audit verify {words}"))?;
    output.exits(0).with_context(|| format!("audit verify {words}"))?.json()
}

fn recorded_session(host: &Host) -> Result<()> {
    Session::open(host, "myapp", "--ttl 60s --reason 'orders are slow'")?.stop(host)
}

fn tampering(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        recorded_session(host)?;
        recorded_session(host)?;
        host.ok("systemctl stop godebugd")?;
        let intact = verified(host, "")?;
        ensure!(intact["intact"] == true && intact["checked"]["lines"] == 6, "{intact}");
        ensure!(intact["checked"]["checkpoints"] == 2, "a closed session has one each: {intact}");
        let key = host.ok("godebugctl audit key")?;
        ensure!(intact["keys"][0] == key.trim(), "{intact}");
        host.ok(&format!("journalctl -o json MESSAGE_ID={CHECKPOINT} >/root/elsewhere"))?;
        verified(host, &format!("--checkpoint /root/elsewhere --key {}", key.trim()))?;
        let modes = host.ok(&format!("stat -c %a {STATE} {STATE}/audit.key*"))?;
        ensure!(modes == "700\n600\n", "{modes}");
        ensure!(!host.run_as("alice", "godebugctl audit verify")?.success());

        let log = host.read_file(LOG)?;
        let lines: Vec<&str> = log.lines().collect();
        for (what, changed, line, kind) in cases(&lines)? {
            host.write_file(LOG, changed.join("\n") + "\n")?;
            let found = host.run("godebugctl --json audit verify")?;
            ensure!(found.status == 1, "{what}: {found}");
            let fault = &found.json()?["fault"];
            ensure!(fault["line"] == line && fault["kind"] == kind, "{what}: {fault}");
            let human = host.run("godebugctl audit verify")?;
            ensure!(human.stderr.contains(&format!("line {line}")), "{what}: {human}");
        }
        sealed_anew(host, &lines)?;
        host.write_file(LOG, &log)
    })
}

type Case = (&'static str, Vec<String>, u64, &'static str);

/// What is done, the lines then, and the line and kind that are named.
fn cases(lines: &[&str]) -> Result<Vec<Case>> {
    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut all: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        change(&mut all);
        all
    };
    let flip = |all: &mut Vec<String>| all[2] = all[2].replace("root", "rook");
    let added = r#"{"event":"closed","session":"0000000a"}"#;
    let beside = beside(lines[2])?;
    Ok(vec![
        ("a byte is changed", changed(&flip), 3, "altered"),
        ("a line is removed", changed(&|all| drop(all.remove(3))), 4, "removed"),
        ("the first is removed", changed(&|all| drop(all.remove(0))), 1, "beheaded"),
        ("a line is added", changed(&|all| all.insert(2, added.to_owned())), 3, "added"),
        ("a line is copied", changed(&|all| all.insert(4, all[1].clone())), 5, "added"),
        ("lines are swapped", changed(&|all| all.swap(1, 2)), 2, "swapped"),
        ("the tail is cut off", changed(&|all| all.truncate(4)), 4, "tail-cut"),
        (
            "two programs have written",
            changed(&|all| all.insert(4, beside.clone())),
            5,
            "two-writers",
        ),
    ])
}

/// A whole line that follows the same line as the next one does.
fn beside(line: &str) -> Result<String> {
    let head = Head::of(line.as_bytes()).context("no line of a chain")?;
    Ok(sealed(head, r#"{"event":"closed"}"#)?.0)
}

fn sealed(head: Head, document: &str) -> Result<(String, Head)> {
    let now = Now { wall_ms: 1, boot_ms: 1 };
    let stamp = Stamp { host: "testhost".to_owned(), boot: "0".repeat(32), now };
    let (line, head) = head.seal(document.as_bytes(), &stamp, Circumstances::default())?;
    Ok((String::from_utf8(line)?, head))
}

/// root has everything but the journal of another host: the whole log is written anew, with what the
/// daemon remembers and without the checkpoints that it kept.
fn sealed_anew(host: &Host, lines: &[&str]) -> Result<()> {
    let (mut head, mut anew) = (Head::START, Vec::new());
    for line in lines {
        let (document, _) = line.split_once(",\"chain\":").context("a line without a chain")?;
        let document = document.replace("\"uid\":0", "\"uid\":1000") + "}";
        let (line, next) = sealed(head, &document)?;
        anew.push(line);
        head = next;
    }
    host.write_file(LOG, anew.join("\n") + "\n")?;
    host.ok(&format!("cp -a {STATE} /root/state && rm {STATE}/checkpoints.jsonl"))?;
    host.write_file(&format!("{STATE}/audit.head"), serde_json::to_string(&head)?)?;
    verified(host, "").context("nothing here tells any more")?;
    let found = host.run("godebugctl --json audit verify --checkpoint /root/elsewhere")?;
    ensure!(found.status == 1 && found.json()?["fault"]["kind"] == "resealed", "{found}");
    host.ok(&format!("rm -r {STATE} && mv /root/state {STATE}")).map(drop)
}

fn one_chain(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        // A log from before there was a chain.
        let old = r#"{"time":"2026-01-01T00:00:00Z","event":"closed","session":"00000a1c","unit":"myapp.service","uid":0,"user":"root","message":"m","details":null}"#;
        host.write_file(LOG, format!("{old}\n"))?;
        recorded_session(host)?;
        // godebug-revoke writes the end of a session that godebugd cannot.
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        host.ok("systemctl mask --runtime --now godebugd")?;
        host.ok(&format!("/usr/lib/godebug/godebug-revoke {}", session.id))?;
        host.ok("systemctl unmask --runtime godebugd")?;
        let intact = verified(host, "")?;
        ensure!(intact["checked"]["lines"] == 6, "{intact}");
        ensure!(intact["checked"]["before_the_chain"] == 1, "{intact}");
        ensure!(intact["checked"]["warnings"] == serde_json::json!([]), "{intact}");

        host.ok(&format!("mv {LOG} {LOG}.1"))?;
        recorded_session(host)?;
        let intact = verified(host, "")?;
        ensure!(intact["checked"]["lines"] == 9 && intact["files"][1] == LOG, "{intact}");
        let human = host.ok(&format!("godebugctl audit verify {LOG}"))?;
        ensure!(human.contains("begins with record 7"), "{human}");
        // Without a place for what it remembers, the log is written and sessions end all the same.
        host.ok(&format!("systemctl stop godebugd; mount -t tmpfs -o ro tmpfs {STATE}"))?;
        let recorded = recorded_session(host);
        host.ok(&format!("systemctl stop godebugd; umount {STATE}"))?;
        recorded?;
        verified(host, "").map(drop)
    })
}
