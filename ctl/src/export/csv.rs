//! The records as a table, one row each, for spreadsheets; the last row holds what it was made from.

use super::MAKER;
use super::story::{Operation, Story};
use crate::terminal::{safe, safe_json};
use godebug_api::audit::AuditRecord;
use godebug_api::chain::Bundle;
use serde_json::Error;

const HEADING: &str = "time,session,kind,event,unit,uid,user,text,details\r\n";
const BUNDLE: &str = "godebug-bundle";

pub(super) fn made(bundle: &Bundle) -> Result<String, Error> {
    let mut text = HEADING.to_owned();
    for session in &bundle.sessions {
        let story = Story::of(session);
        for record in &story.records {
            text.push_str(&of_record(&session.id, record));
        }
        for operation in &story.operations {
            text.push_str(&of_operation(&session.id, operation));
        }
    }
    let document = safe_json(&serde_json::to_string(bundle)?);
    text.push_str(&row([&bundle.exported_at, "", BUNDLE, MAKER, "", "", "", "", &document]));
    Ok(text)
}

fn of_record(id: &str, record: &AuditRecord) -> String {
    let (uid, details) = (record.uid.to_string(), record.details.to_string());
    let AuditRecord { time, event, unit, user, message, .. } = record;
    row([time, id, "record", event, unit, &uid, user, message, &details])
}

fn of_operation(id: &str, line: &Operation) -> String {
    let Operation { time, event, client, operation, subject, outcome, why, .. } = line;
    let shown = line.shown();
    let subject = if shown.is_empty() { subject } else { &shown };
    let event = if operation.is_empty() { event } else { operation };
    let outcome = if why.is_empty() { outcome.clone() } else { format!("{outcome}: {why}") };
    row([time, id, "operation", event, "", "", client, subject, &outcome])
}

fn row(cells: [&str; 9]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| quoted(cell)).collect();
    cells.join(",") + "\r\n"
}

/// As RFC 4180 has it, on one line. What a spreadsheet would take for a formula is made text.
fn quoted(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let mark = if formula { "'" } else { "" };
    format!("\"{mark}{}\"", safe(cell).replace('"', "\"\""))
}

pub(super) fn is_one(text: &str) -> bool {
    text.starts_with(HEADING)
}

pub(super) fn bundle_in(text: &str) -> Option<String> {
    let last = text.trim_end().lines().next_back()?;
    let (before, cell) = last.split_once(",\"{")?;
    let cell = cell.strip_suffix('"')?;
    before.contains(BUNDLE).then(|| format!("{{{}", cell.replace("\"\"", "\"")))
}
