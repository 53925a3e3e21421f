//! What a page says, that nothing in a record can make it say more, and that a changed file is found.

use super::super::{BundleVerdict, bundle_in, in_words, verdict};
use crate::cli::ExportFormat;
use crate::terminal::filtered;
use godebug_api::Now;
use godebug_api::chain::{
    BUNDLE_VERSION, Bundle, BundledSession, Circumstances, Head, Signature, SigningKey, Stamp,
};
use serde_json::{Value, json};
use std::path::Path;

const HOSTILE: &str =
    "</script><script>alert(1)</script> \u{1b}[2J\u{202e} ' onload=\"x\" =1+1 & <b>";

fn lines(documents: &[Value]) -> Vec<String> {
    let stamp = Stamp {
        host: "web1".to_owned(),
        boot: "b".repeat(32),
        now: Now { wall_ms: 1, boot_ms: 1 },
    };
    let mut head = Head::START;
    documents
        .iter()
        .map(|document| {
            let text = document.to_string();
            let (line, next) =
                head.seal(text.as_bytes(), &stamp, Circumstances::default()).unwrap();
            head = next;
            String::from_utf8(line).unwrap()
        })
        .collect()
}

fn record(event: &str, user: &str, details: Value) -> Value {
    json!({"time": "2026-01-31T03:04:05Z", "event": event, "session": "0000000a", "unit": "shop.service",
           "uid": 1001, "user": user, "message": format!("{user} {event}"), "details": details,
           "login": {"uid": 1001, "tty": "pts/3", "peer": "10.1.2.3"}})
}

fn key() -> SigningKey {
    SigningKey::from_pkcs8(&SigningKey::generate().unwrap()).unwrap()
}

fn signed(records: &[Value], transcript: &[Value]) -> Bundle {
    let key = key();
    let session = BundledSession {
        id: "0000000a".to_owned(),
        records: lines(records),
        transcript: lines(transcript),
    };
    Bundle {
        godebug_export: BUNDLE_VERSION,
        host: "web1".to_owned(),
        exported_at: "2026-02-01T00:00:00Z".to_owned(),
        exported_by: "lea".to_owned(),
        exported_by_uid: 1002,
        log_end: None,
        sessions: vec![session],
        checkpoints: Vec::new(),
        key: key.public(),
        signature: Signature::NONE,
    }
    .signed(&key)
}

fn whole() -> Bundle {
    let transcript = [
        json!({"time": "t", "event": "begun", "mode": "step"}),
        json!({"time": "t", "event": "operation", "operation": "evaluate", "subject": "order.Total", "outcome": "allowed"}),
        json!({"time": "t", "event": "operation", "operation": "set", "subject": "x", "outcome": "refused", "why": "mode step changes nothing"}),
        json!({"time": "t", "event": "ended", "why": "stopped", "stood_ms": 1500, "longest_stop_ms": 900}),
    ];
    let last = lines(&transcript).pop().unwrap();
    let end = Head::of(last.as_bytes()).unwrap();
    let approvals = json!([{"uid": 1002, "user": "lea", "at": "2026-01-31T03:04:00Z"}]);
    let proof = json!([{"what": "tracer of process 77", "gone": true, "after_ms": 120}]);
    let opened = json!({"reason": "OPS-17: orders are slow", "pid": 77, "mode": "step", "ttl_seconds": 1800,
        "rule": "\"on-call\" (10-site.toml:3)", "sources": ["127.0.0.1/32"], "debugger": "dlv", "go_version": "go1.24",
        "approvals": approvals, "opened_at": "2026-01-31T03:04:01Z"});
    let closed = json!({"opened_by": "dev", "opened_by_uid": 1001, "close_reason": "stopped", "close_detail": "stopped by dev",
        "proof": proof, "freeze_ms": 210, "transcript": {"lines": end.seq, "hash": end.hash.to_string(),
        "stood_ms": 1500, "longest_stop_ms": 900, "let_go": 0}});
    signed(
        &[
            record("opening", "dev", opened),
            record("active", "dev", json!({})),
            record("closed", "dev", closed),
        ],
        &transcript,
    )
}

fn looked_at(text: &str) -> BundleVerdict {
    let found = bundle_in(text).expect("no export");
    verdict(Path::new("file"), text, found, &[], None)
}

fn made(bundle: &Bundle, format: ExportFormat) -> String {
    super::super::made(bundle, format).unwrap()
}

#[test]
fn a_page_tells_the_whole_story() {
    let page = made(&whole(), ExportFormat::Html);
    for part in [
        "<b>dev</b> (user number 1001), from 10.1.2.3, at pts/3",
        "OPS-17: orders are slow",
        "<b>lea</b> (user number 1002) at 2026-01-31 03:04:00",
        "Everything was taken back, and that was checked",
        "order.Total",
        "refused</span>: mode step changes nothing",
        "stopped: stopped by dev",
        "30m 00s",
        "this host only",
        "audit verify THIS-FILE --key",
    ] {
        assert!(page.contains(part), "no {part:?} in\n{page}");
    }
}

#[test]
fn every_form_is_verified_and_every_change_to_it_is_found() {
    let bundle = whole();
    for format in [ExportFormat::Json, ExportFormat::Csv, ExportFormat::Html] {
        let text = made(&bundle, format);
        let good = looked_at(&text);
        assert!(good.intact, "{format:?}: {:?}", good.fault);
        assert_eq!((good.records, good.transcript_lines), (3, 4));
        let told = filtered(&in_words(&good), false);
        assert!(told.contains("compare it with what `godebugctl audit key` prints"), "{told}");
        for (from, to) in
            [("orders are slow", "orders are fast"), ("order.Total", "order.total"), ("lea", "leo")]
        {
            let changed = looked_at(&text.replace(from, to));
            assert!(!changed.intact, "{format:?}: {from} became {to}");
        }
        // Only what is shown, and only what it was made from.
        if format != ExportFormat::Json {
            let once = looked_at(&text.replacen("OPS-17", "OPS-18", 1));
            assert!(!once.intact, "{format:?}: the page alone was changed");
        }
        let other = key().public();
        let found = bundle_in(&text).unwrap();
        let wrong = verdict(Path::new("file"), &text, found, &[], Some(other));
        assert!(wrong.fault.is_some_and(|why| why.contains("not with")), "{format:?}");
    }
}

#[test]
fn a_transcript_that_was_cut_before_it_was_signed_is_found() {
    let mut cut = whole();
    cut.sessions[0].transcript.pop();
    let text = made(&cut.signed(&key()), ExportFormat::Json);
    let fault = looked_at(&text).fault.unwrap();
    assert!(fault.contains("does not end with the line"), "{fault}");
}

#[test]
fn an_auditor_reads_which_values_were_shown() {
    let shown = json!({"time": "2026-01-31T00:00:00Z", "event": "shown", "client": "ann", "variables": [
        {"name": "o.ID", "value": "3"}, {"name": "card", "sha256": "ba78"}, {"name": "label"}]});
    let bundle = signed(&[record("closed", "ann", json!({}))], &[shown]);
    for format in [ExportFormat::Html, ExportFormat::Csv] {
        let text = made(&bundle, format);
        let told = "o.ID = 3, card (SHA-256 ba78), label";
        assert!(text.contains(told), "{format:?}: {text}");
    }
}

#[test]
fn nothing_hostile_becomes_more_than_text() {
    let details = json!({"reason": HOSTILE, "rule": HOSTILE, "close_detail": HOSTILE, "debugger": HOSTILE,
        "opened_by": HOSTILE, "opened_by_uid": 7, "stuck": [HOSTILE], "note": HOSTILE,
        "proof": [{"what": HOSTILE, "gone": false, "found": HOSTILE, "after_ms": 1}]});
    let mut records: Vec<Value> = ["break-glass", "opening", "closed", "reviewed"]
        .map(|event| record(event, HOSTILE, details.clone()))
        .to_vec();
    records[0]["unit"] = HOSTILE.into();
    let transcript = [
        json!({"time": HOSTILE, "event": "operation", "operation": HOSTILE, "subject": HOSTILE,
        "outcome": "refused", "why": HOSTILE, "client": HOSTILE}),
        json!({"event": "shown", "client": HOSTILE, "variables": [{"name": HOSTILE, "value": HOSTILE}]}),
    ];
    let bundle = signed(&records, &transcript);
    let page = made(&bundle, ExportFormat::Html);
    let harmless = made(&whole(), ExportFormat::Html);
    let count = |page: &str, what: &str| page.matches(what).count();
    assert_eq!(count(&page, "<script"), count(&harmless, "<script"));
    assert_eq!(count(&page, "</script"), 1);
    assert!(!page.contains("onload=\"") && !page.contains('\u{1b}') && !page.contains('\u{202e}'));
    assert!(looked_at(&page).intact);
    let table = made(&bundle, ExportFormat::Csv);
    assert!(!table.contains('\u{1b}') && table.lines().count() == 1 + 4 + 2 + 1, "{table}");
    assert!(looked_at(&table).intact);
}
