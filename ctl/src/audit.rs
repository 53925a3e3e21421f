//! `audit`: the records of sessions, as an auditor reads them.

use crate::cli;
use crate::manager::{answer, manager};
use crate::output::Output;
use crate::report;
use crate::terminal::{BOLD, GREEN, RED, YELLOW, padded, painted, safe, table};
use crate::transcript::Transcript;
use godebug_api::audit::{
    AuditFilter, AuditList, AuditRecord, AuditTrail, AuditedSession, Facts, LeftOut, Outcome,
};
use godebug_api::documents::TranscriptEnd;
use godebug_api::{CloseReason, Mode, Program, Refusal, SessionId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// The longest event, so that the sentences stand below each other.
const EVENT_COLUMNS: usize = "break-glass".len();

pub(crate) async fn list(output: &Output, wanted: &cli::AuditList) -> Result<(), Refusal> {
    let filter = AuditFilter {
        unit: wanted.unit.clone(),
        last: wanted.last,
        user: wanted.by.clone(),
        since: wanted.since,
        until: wanted.until,
        refused: wanted.refused,
    };
    let filter = serde_json::to_string(&filter)
        .map_err(|error| Refusal::failed(format!("the filter cannot be written: {error}"), ""))?;
    let list: AuditList = answer(manager().await?.audit_list(&filter).await)?;
    let text = if wanted.refused { refusals(&list) } else { sessions(&list) };
    output.result(&list, &text)
}

pub(crate) async fn show(output: &Output, id: &SessionId) -> Result<(), Refusal> {
    let manager = manager().await?;
    let trail_of: AuditTrail = answer(manager.audit_show(id.as_str()).await)?;
    let transcript = Transcript::read(&manager, id).await?;
    let text = trail(&trail_of) + &transcript.shown(recorded_end(&trail_of).as_ref());
    output.result(&Shown { trail: trail_of, transcript: transcript.documents() }, &text)
}

/// What `--json` prints: the records, and what was done.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    trail: AuditTrail,
    transcript: Vec<Value>,
}

/// What the last record says of the transcript's end.
fn recorded_end(trail: &AuditTrail) -> Option<TranscriptEnd> {
    let last = trail.entries.iter().rev().find(|entry| is_end(entry))?;
    TranscriptEnd::deserialize(last.details.get("transcript")?).ok()
}

fn sessions(list: &AuditList) -> String {
    let mut text = if list.sessions.is_empty() {
        "no sessions\n".to_owned()
    } else {
        let heading = ["OPENED AT", "ID", "USER", "UNIT", "MODE", "ENDED", "PROOF"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(list.sessions.iter().map(row));
        table(&rows)
    };
    text.push_str(&own_only(list));
    text.push_str(&damage(list.damaged_lines));
    text
}

fn refusals(list: &AuditList) -> String {
    let mut text = if list.refusals.is_empty() {
        "nothing was refused\n".to_owned()
    } else {
        let mut rows = vec![["TIME", "USER", "UNIT", "WHY"].map(str::to_owned).to_vec()];
        rows.extend(list.refusals.iter().map(|record| {
            let unit = if record.unit.is_empty() { "-".to_owned() } else { safe(&record.unit) };
            vec![safe(&record.time), safe(&record.user), unit, safe(&record.message)]
        }));
        table(&rows)
    };
    text.push_str(&own_only(list));
    text.push_str(&damage(list.damaged_lines));
    text
}

fn own_only(list: &AuditList) -> String {
    let mut text = String::new();
    if list.own_only {
        text.push_str(
            "Only your own sessions: the polkit action org.godebug1.read lets you see others'.\n",
        );
    }
    text
}

fn row(session: &AuditedSession) -> Vec<String> {
    vec![
        safe(&session.opened_at),
        session.id.to_string(),
        safe(&session.opened_by),
        session.unit.to_string(),
        session.mode.as_ref().map_or("-".to_owned(), Mode::to_string)
            + if session.break_glass { ", GLASS BROKEN" } else { "" },
        session.close_reason.as_ref().map_or("-".to_owned(), CloseReason::to_string),
        match session.outcome {
            Outcome::Stuck => "STUCK".to_owned(),
            Outcome::NotRecorded => "NO END RECORDED".to_owned(),
            Outcome::Running | Outcome::Proved | Outcome::NotOpened => session.outcome.to_string(),
        },
    ]
}

fn trail(trail: &AuditTrail) -> String {
    let mut text = heading(trail);
    text.push('\n');
    for (index, entry) in trail.entries.iter().enumerate() {
        if let Some(gap) = trail.left_out.filter(|gap| gap.after == index) {
            text.push_str(&left_out(gap));
        }
        text.push_str(&record(entry));
    }
    if !trail.entries.iter().any(|entry| is_end(entry) || was_not_opened(entry)) {
        let nothing = "no end is recorded: it is running, or the host went down with it";
        text.push_str(&format!("{} {nothing}\n", painted(YELLOW, "!")));
    }
    text.push_str(&damage(trail.damaged_lines));
    text
}

/// Who asked for what, from the first record that tells.
fn heading(trail: &AuditTrail) -> String {
    let all: Vec<(&AuditRecord, Facts)> =
        trail.entries.iter().map(|entry| (entry, entry.facts())).collect();
    let known = |of: fn(&AuditRecord, &Facts) -> Option<String>| {
        let told = all.iter().find_map(|(entry, facts)| of(entry, facts));
        told.map_or("-".to_owned(), safe)
    };
    let rows = [
        ("session", trail.session.to_string()),
        ("unit", known(|entry, _| Some(entry.unit.clone()))),
        ("process", known(|_, facts| facts.pid.map(|pid| pid.to_string()))),
        ("program", known(|_, facts| facts.program.as_ref().map(program))),
        ("asked by", known(asked_by)),
        ("at", known(|_, facts| facts.opened_at.clone())),
        ("allowed by", known(|_, facts| facts.rule.clone())),
        ("approved by", approvers(&all)),
        ("reason", known(|_, facts| facts.reason.clone())),
        ("mode", known(|_, facts| facts.mode.map(|mode| mode.to_string()))),
        ("time to live", known(|_, facts| facts.ttl_seconds.map(in_words))),
        ("clients from", known(|_, facts| facts.sources.as_deref().map(report::sources))),
        ("port", known(|_, facts| facts.port.map(|port| port.to_string()))),
        ("debugger", known(|_, facts| facts.debugger.clone())),
        ("go version", known(|_, facts| facts.go_version.clone())),
    ];
    report::pairs(&rows)
}

/// Whose consent counted when it was opened, or was given to a request that was not.
fn approvers(all: &[(&AuditRecord, Facts)]) -> String {
    if all.iter().any(|(_, facts)| facts.break_glass) {
        return painted(RED, "nobody: the glass was broken");
    }
    let given = all.iter().rev().map(|(_, facts)| &facts.approvals).find(|given| !given.is_empty());
    let names = given.into_iter().flatten().map(|approval| safe(&approval.user));
    let names: Vec<String> = names.collect();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn asked_by(entry: &AuditRecord, facts: &Facts) -> Option<String> {
    let (user, uid) = match (&facts.opened_by, facts.opened_by_uid) {
        (Some(user), Some(uid)) => (user, uid),
        _ if entry.event == "opening" => (&entry.user, entry.uid),
        _ => return None,
    };
    let login = &entry.login;
    let from = login.peer.as_ref().map(|peer| format!(", from {peer}")).unwrap_or_default();
    let at = login.tty.as_ref().map(|tty| format!(", at {tty}")).unwrap_or_default();
    Some(format!("{user} (uid {uid}){from}{at}"))
}

/// The program's file, and what tells its build.
pub(crate) fn program(program: &Program) -> String {
    let mut text = program.executable.clone();
    for (what, value) in [
        ("build ID", &program.build_id),
        ("module", &program.module),
        ("revision", &program.vcs_revision),
    ] {
        if let Some(value) = value {
            text.push_str(&format!(", {what} {value}"));
        }
    }
    if program.vcs_modified == Some(true) {
        text.push_str(" with local changes");
    }
    text
}

fn in_words(seconds: u64) -> String {
    crate::countdown::in_words(Duration::from_secs(seconds))
}

/// One record: its line, and for an end why, what was read back, and what is stuck.
fn record(entry: &AuditRecord) -> String {
    let event = painted(BOLD, &padded(&safe(&entry.event), EVENT_COLUMNS));
    let mut text = format!("{}  {event}  {}\n", safe(&entry.time), safe(&entry.message));
    if entry.event == "extended" {
        text.push_str(&format!("  by {} (uid {})\n", safe(&entry.user), entry.uid));
    }
    let facts = entry.facts();
    if let (true, Some(detail)) = (is_end(entry), &facts.close_detail) {
        text.push_str(&format!("  because: {}\n", safe(detail)));
    }
    text.push_str(&report::proof(&facts.proof));
    for item in &facts.stuck {
        text.push_str(&format!("  {} {}\n", painted(RED, "STUCK:"), safe(item)));
    }
    if is_end(entry) {
        text.push_str(&verdict(&facts));
    }
    text
}

fn is_end(entry: &AuditRecord) -> bool {
    matches!(entry.event.as_str(), "closed" | "stuck")
}

/// A request that came to nothing.
fn was_not_opened(entry: &AuditRecord) -> bool {
    matches!(entry.event.as_str(), "denied" | "dropped")
}

/// The proof in one sentence. It counts for itself: the word of the event is not believed.
fn verdict(facts: &Facts) -> String {
    let all = facts.proof.len();
    let left = facts.proof.iter().filter(|item| !item.gone).count();
    if all == 0 {
        return format!("  {} nothing was read back\n", painted(RED, "NOT PROVED:"));
    }
    if left > 0 || !facts.stuck.is_empty() {
        let stuck = facts.stuck.len();
        return format!(
            "  {} {left} of {all} things were still there, {stuck} stuck\n",
            painted(RED, "NOT PROVED:")
        );
    }
    let last = facts.proof.iter().map(|item| item.after_ms).max().unwrap_or(0);
    let proved = painted(GREEN, "proved:");
    format!("  {proved} all {all} things were read back and are gone, after {last} ms\n")
}

fn left_out(gap: LeftOut) -> String {
    format!(
        "{} {} records in between are not shown; the log has them\n",
        painted(YELLOW, "!"),
        gap.entries
    )
}

/// An auditor must know that something may be missing.
fn damage(lines: u64) -> String {
    if lines == 0 {
        return String::new();
    }
    format!(
        "{} damaged lines in the log, passed over: {lines}; records may be missing here\n",
        painted(YELLOW, "warning:")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::filtered;
    use serde_json::json;

    const HOSTILE: &str = "a\u{1b}[2J\u{9b}31m\n\u{202e}b\"";

    fn entry(event: &str, details: Value) -> AuditRecord {
        serde_json::from_value(json!({
            "time": "2026-01-01T00:00:00Z", "event": event, "session": "0000000a",
            "unit": "shop.service", "uid": 7, "user": "alice", "message": HOSTILE,
            "details": details,
        }))
        .unwrap()
    }

    fn told(entries: Vec<AuditRecord>, left_out: Option<LeftOut>) -> String {
        let session = "0000000a".parse().unwrap();
        filtered(&trail(&AuditTrail { session, entries, left_out, damaged_lines: 3 }), false)
    }

    #[test]
    fn a_trail_tells_who_why_and_the_proof() {
        let proof = json!([{"what": "no tracer", "gone": true, "after_ms": 12}]);
        let text = told(
            vec![
                entry("opening", json!({"reason": "slow", "pid": 77, "ttl_seconds": 1800})),
                entry("extended", json!({"opened_by": "bob", "opened_by_uid": 8})),
                entry("closed", json!({"proof": proof, "close_detail": "stopped by carol"})),
            ],
            None,
        );
        for part in [
            "asked by      alice (uid 7)",
            "reason        slow",
            "process       77",
            "time to live  30m 00s",
            "  by alice (uid 7)",
            "because: stopped by carol",
            "✓ no tracer      12 ms",
            "proved: all 1 things",
            "damaged lines in the log, passed over: 3",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn a_closed_without_a_proof_is_not_believed() {
        assert!(told(vec![entry("closed", Value::Null)], None).contains("NOT PROVED"));
        let there = json!({"proof": [{"what": "x", "gone": false, "after_ms": 1}], "stuck": ["x"]});
        let text = told(vec![entry("stuck", there)], None);
        assert!(text.contains("STILL THERE") && text.contains("NOT PROVED"), "{text}");
        assert!(told(vec![entry("active", Value::Null)], None).contains("no end is recorded"));
    }

    #[test]
    fn a_gap_stands_where_it_is() {
        let entries = vec![entry("opening", Value::Null), entry("closed", Value::Null)];
        let text = told(entries, Some(LeftOut { after: 1, entries: 9 }));
        let place = |what: &str| text.find(what).unwrap();
        assert!(place("opening") < place("9 records") && place("9 records") < place("closed"));
    }

    #[test]
    fn nothing_hostile_gets_through_and_no_field_makes_a_line() {
        let details = json!({
            "reason": HOSTILE, "opened_by": HOSTILE, "opened_by_uid": 7, "debugger": HOSTILE,
            "go_version": HOSTILE, "close_detail": HOSTILE, "stuck": [HOSTILE],
            "opened_at": HOSTILE, "proof": [{"what": HOSTILE, "gone": false, "found": HOSTILE, "after_ms": 1}],
        });
        let mut hostile = entry("closed", details);
        for field in [&mut hostile.event, &mut hostile.time, &mut hostile.unit, &mut hostile.user] {
            field.push_str(HOSTILE);
        }
        let lines = told(vec![hostile.clone()], None).lines().count();
        let harmless = told(
            vec![entry(
                "closed",
                json!({"stuck": ["x"],
            "close_detail": "x", "proof": [{"what": "x", "gone": false, "after_ms": 1}]}),
            )],
            None,
        );
        assert!(told(vec![hostile], None).chars().all(|c| c == '\n' || !c.is_control()));
        // Its event is no longer "closed", so its reason and its verdict are not told, but that no
        // end is recorded is.
        assert_eq!(lines, harmless.lines().count() - 1);
    }

    #[test]
    fn the_list_says_what_is_missing() {
        let session = AuditedSession {
            opened_at: "2026-01-01T00:00:00Z".to_owned(),
            id: "0000000a".parse().unwrap(),
            unit: "shop".parse().unwrap(),
            opened_by: HOSTILE.to_owned(),
            opened_by_uid: 7,
            mode: None,
            ended_at: None,
            close_reason: None,
            break_glass: true,
            outcome: Outcome::NotRecorded,
        };
        let list = AuditList {
            sessions: vec![session],
            refusals: Vec::new(),
            own_only: true,
            damaged_lines: 1,
        };
        let text = filtered(&sessions(&list), false);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(
            text.contains("GLASS BROKEN")
                && text.contains("NO END RECORDED")
                && text.contains("org.godebug1.read"),
            "{text}"
        );
    }
}
