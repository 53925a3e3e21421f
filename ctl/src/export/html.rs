//! The records as a page for an auditor who has never seen this program: what happened, in words, then how it
//! was recorded, then how to see that nobody has changed it. One file, without scripts, to be printed too.

mod style;
mod words;

use super::MAKER;
use super::story::{Operation, Story};
use crate::terminal::safe_json;
use godebug_api::audit::{AuditRecord, Facts};
use godebug_api::chain::{Bundle, BundledSession};
use godebug_api::documents::{Proof, TranscriptEnd};
use godebug_api::forecast::seconds;
use godebug_api::{Cidr, Mode};
use serde::Deserialize;
use serde_json::Error;
use std::fmt::Write;

const BEGINNING: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
                         <meta name=\"generator\" content=\"godebug audit export\">\n";
const BUNDLE: &str = "<script type=\"application/json\" id=\"godebug-bundle\">";
const BUNDLE_END: &str = "</script>";

pub(super) fn made(bundle: &Bundle) -> Result<String, Error> {
    let mut page = format!(
        "{BEGINNING}<title>Debugging on {host}: the records</title>\n<style>{style}</style></head><body>\n",
        host = text(&bundle.host),
        style = style::SHEET,
    );
    page.push_str(&introduction(bundle));
    page.push_str(&overview(bundle));
    for session in &bundle.sessions {
        page.push_str(&of_session(session));
    }
    page.push_str(&integrity(bundle));
    // In a script a browser looks for nothing but its end.
    let document = safe_json(&serde_json::to_string(bundle)?).replace('<', "\\u003c");
    let _ = write!(page, "{BUNDLE}{document}{BUNDLE_END}\n</body></html>\n");
    Ok(page)
}

pub(super) fn is_one(page: &str) -> bool {
    page.starts_with(BEGINNING)
}

pub(super) fn bundle_in(page: &str) -> Option<String> {
    let (_, rest) = page.split_once(BUNDLE)?;
    Some(rest.split_once(BUNDLE_END)?.0.to_owned())
}

/// A value that somebody else chose, as text and nothing but text.
fn text(value: impl std::fmt::Display) -> String {
    let mut safe = String::new();
    for c in crate::terminal::safe(value).chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn introduction(bundle: &Bundle) -> String {
    let sessions = match bundle.sessions.len() {
        1 => "one debugging session".to_owned(),
        count => format!("{count} debugging sessions"),
    };
    format!(
        "<header><h1>Who debugged what on {host}</h1>\n\
         <p>This page is the complete record of {sessions} on the computer <b>{host}</b>. A debugger lets a \
         person look into a running service, and depending on its mode also change it. The program \
         <i>godebug</i> decides who may do that, grants it for a limited time, takes everything back at the \
         end, and writes down each step at the moment it happens. The host handed this record out at \
         <b>{at}</b> to <b>{by}</b>, and signed it. <a href=\"#integrity\">How to check that nobody has \
         changed it</a> stands at the end. All times are UTC.</p></header>\n",
        host = text(&bundle.host),
        at = time(&bundle.exported_at),
        by = text(&bundle.exported_by),
    )
}

/// One line each, where there are several.
fn overview(bundle: &Bundle) -> String {
    if bundle.sessions.len() < 2 {
        return String::new();
    }
    let row = |session: &BundledSession| {
        let story = Story::of(session);
        let first = |of: fn(&AuditRecord, &Facts) -> Option<String>| {
            story.first(of).map_or("not recorded".to_owned(), text)
        };
        let id = text(&session.id);
        let (class, end) = outcome(&story);
        format!(
            "<tr><td><a href=\"#{id}\">{id}</a></td><td class=\"t\">{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td class=\"{class}\">{end}</td></tr>\n",
            story.first(|record, _| Some(record.time.clone())).map_or("-".to_owned(), time),
            first(|record, facts| Some(
                facts.opened_by.clone().unwrap_or_else(|| record.user.clone())
            )),
            first(|record, _| Some(record.unit.clone())),
            first(|_, facts| facts.reason.clone()),
        )
    };
    format!(
        "<table><tr><th>Session</th><th>Begun</th><th>By</th><th>Service</th><th>Why</th><th>End</th></tr>\n\
         {}</table>\n",
        bundle.sessions.iter().map(row).collect::<String>()
    )
}

/// How it ended, in a word, and whether that is as it should be.
fn outcome(story: &Story) -> (&'static str, &'static str) {
    let unreviewed =
        story.all("break-glass").next().is_some() && story.last(&["reviewed"]).is_none();
    match story.last(&["closed", "stuck", "denied", "dropped"]) {
        _ if unreviewed => ("no", "emergency, not reviewed"),
        None => ("no", "no end recorded"),
        Some((record, _)) if record.event == "denied" || record.event == "dropped" => {
            ("", "never opened")
        }
        Some((_, facts)) if is_proved(facts) => ("yes", "all taken back, checked"),
        Some(_) => ("no", "not proved"),
    }
}

fn is_proved(facts: &Facts) -> bool {
    !facts.proof.is_empty() && facts.stuck.is_empty() && facts.proof.iter().all(|item| item.gone)
}

/// A moment as people write it.
fn time(moment: impl std::fmt::Display) -> String {
    text(moment).replacen('T', " ", 1).trim_end_matches('Z').to_owned()
}

fn of_session(session: &BundledSession) -> String {
    let story = Story::of(session);
    let unit = story.first(|record, _| Some(record.unit.clone())).unwrap_or_default();
    let mut page = format!(
        "<section id=\"{id}\"><h2>Session {id} on {unit}</h2>\n",
        id = text(&session.id),
        unit = text(&unit)
    );
    page.push_str(&verdict(&story));
    page.push_str(&summary(&story));
    page.push_str(&granted(&story));
    page.push_str(&done(session, &story));
    page.push_str(&timeline(&story));
    page.push_str("</section>\n");
    page
}

/// What an auditor looks for first.
fn verdict(story: &Story) -> String {
    let glass = story.all("break-glass").next().is_some();
    let reviewed = story.last(&["reviewed"]);
    let mut page = String::new();
    if glass {
        let review = match reviewed {
            Some((record, facts)) => format!(
                "Reviewed by <b>{}</b> at {}: \u{201c}{}\u{201d}",
                text(&record.user),
                time(&record.time),
                text(facts.note.as_deref().unwrap_or_default())
            ),
            None => "<b>Nobody else has reviewed it yet.</b>".to_owned(),
        };
        let _ = writeln!(
            page,
            "<p class=\"bad\"><b>Opened in an emergency without the approval that its rule asks for.</b> {review}</p>"
        );
    }
    page.push_str(&match story.last(&["closed", "stuck", "denied", "dropped"]) {
        Some((record, facts)) if record.event == "denied" || record.event == "dropped" => format!(
            "<p class=\"plain\"><b>It was never opened.</b> {}</p>\n",
            text(facts.close_detail.as_deref().unwrap_or(&record.message))
        ),
        Some((_, facts)) => end_in_words(facts),
        None => "<p class=\"bad\"><b>No end is recorded.</b> The session was still running when this was \
                 handed out, or the host went down with it, which ends every session.</p>\n"
            .to_owned(),
    });
    page
}

/// The proof counts, not the word of the record.
fn end_in_words(facts: &Facts) -> String {
    let all = facts.proof.len();
    let left = facts.proof.iter().filter(|item| !item.gone).count();
    if !is_proved(facts) {
        let stuck: Vec<String> = facts.stuck.iter().map(text).collect();
        return format!(
            "<p class=\"bad\"><b>It is not proved that everything was taken back:</b> of {all} things that \
             were looked at afterwards {left} were still there. {}</p>\n",
            stuck.join("; ")
        );
    }
    let last = facts.proof.iter().map(|item| item.after_ms).max().unwrap_or(0);
    format!(
        "<p class=\"good\"><b>Everything was taken back, and that was checked:</b> {all} things were looked at \
         after the end, and all were gone within {}.</p>\n",
        seconds(last)
    )
}

fn summary(story: &Story) -> String {
    let first = |of: fn(&AuditRecord, &Facts) -> Option<String>| {
        story.first(of).map_or("not recorded".to_owned(), text)
    };
    let end = story.last(&["closed", "stuck"]);
    let rows = [
        ("Who asked", who(story)),
        ("Why", first(|_, facts| facts.reason.clone())),
        ("Which rule of the host allowed it", first(|_, facts| facts.rule.clone())),
        ("Who approved it", approved(story)),
        ("Which service", first(|record, _| Some(record.unit.clone()))),
        ("Which process of it", process(story)),
        ("What was allowed", story.first(|_, facts| facts.mode.map(allowed)).unwrap_or_default()),
        ("For how long at most", first(|_, facts| facts.ttl_seconds.map(in_words))),
        ("From which computers", sources(story)),
        (
            "Asked for at",
            story.first(|_, facts| facts.opened_at.clone()).map_or("-".to_owned(), time),
        ),
        (
            "Debugger there from",
            story.all("active").next().map_or("-".to_owned(), |(it, _)| time(&it.time)),
        ),
        ("Until", end.map_or("-".to_owned(), |(record, _)| time(&record.time))),
        ("How it ended", end.map_or("-".to_owned(), |(_, facts)| why_ended(facts))),
        ("How long the service stood still", stood(end.map(|(record, _)| record))),
    ];
    let rows: String = rows
        .iter()
        .map(|(name, value)| format!("<tr><th>{name}</th><td>{value}</td></tr>\n"))
        .collect();
    format!("<table class=\"facts\">{rows}</table>\n")
}

fn who(story: &Story) -> String {
    let Some((record, facts)) = story.records.iter().zip(&story.facts).next() else {
        return "not recorded".to_owned();
    };
    let user = facts.opened_by.as_ref().unwrap_or(&record.user);
    let uid = facts.opened_by_uid.unwrap_or(record.uid);
    let mut words = format!("<b>{}</b> (user number {uid})", text(user));
    let login = &record.login;
    if let Some(peer) = &login.peer {
        let _ = write!(words, ", from {}", text(peer));
    }
    if let Some(tty) = &login.tty {
        let _ = write!(words, ", at {}", text(tty));
    }
    if let Some(logged_in) = login.uid.filter(|logged_in| *logged_in != uid) {
        let _ = write!(words, ", who had logged in as user number {logged_in}");
    }
    words
}

fn approved(story: &Story) -> String {
    if story.all("break-glass").next().is_some() {
        return "nobody: opened in an emergency".to_owned();
    }
    let given = story.facts.iter().rev().map(|facts| &facts.approvals).find(|all| !all.is_empty());
    let all: Vec<String> = given
        .into_iter()
        .flatten()
        .map(|one| {
            format!("<b>{}</b> (user number {}) at {}", text(&one.user), one.uid, time(&one.at))
        })
        .collect();
    if all.is_empty() {
        "the rule asks for nobody\u{2019}s approval".to_owned()
    } else {
        all.join("<br>")
    }
}

fn process(story: &Story) -> String {
    let pid = story.first(|_, facts| facts.pid.map(|pid| pid.to_string()));
    let go = story.first(|_, facts| facts.go_version.clone());
    let debugger = story.first(|_, facts| facts.debugger.clone());
    let known = |value: Option<String>| value.map_or("not recorded".to_owned(), text);
    let program = story.first(|_, facts| facts.program.as_ref().map(crate::audit::program));
    format!(
        "{} of {}; built with {}, debugged with {}",
        known(pid),
        known(program),
        known(go),
        known(debugger)
    )
}

fn allowed(mode: Mode) -> String {
    match mode {
        Mode::Observe => {
            "<b>observe</b>: look at copies of the program\u{2019}s memory; the program goes on"
        }
        Mode::Step => {
            "<b>step</b>: look into the program, stop it and go on step by step; not change it"
        }
        Mode::Modify => "<b>modify</b>: look into the program, stop it, and change its values",
    }
    .to_owned()
}

fn sources(story: &Story) -> String {
    let sources = story.facts.iter().find_map(|facts| facts.sources.clone());
    match sources {
        None => "not recorded".to_owned(),
        Some(sources) if sources.iter().all(Cidr::is_loopback) => "this host only".to_owned(),
        Some(sources) => sources.iter().map(text).collect::<Vec<_>>().join(", "),
    }
}

fn why_ended(facts: &Facts) -> String {
    let reason = facts.close_reason.map_or("not recorded".to_owned(), |reason| reason.to_string());
    let detail = facts.close_detail.as_ref().map(|detail| format!(": {}", text(detail)));
    format!("{reason}{}", detail.unwrap_or_default())
}

fn stood(end: Option<&AuditRecord>) -> String {
    let transcript = end.and_then(|record| record.details.get("transcript"));
    let told = transcript.and_then(|end| TranscriptEnd::deserialize(end).ok());
    let attaching = end.and_then(|record| record.details.get("freeze_ms")?.as_u64());
    let mut words = Vec::new();
    if let Some(ms) = attaching {
        words.push(format!("{} while the debugger was attached", seconds(ms)));
    }
    if let Some((all, longest)) = told.and_then(|end| Some((end.stood_ms?, end.longest_stop_ms?))) {
        words.push(format!(
            "{} in all at stops, {} at the longest",
            seconds(all),
            seconds(longest)
        ));
    }
    if words.is_empty() { "not measured".to_owned() } else { words.join("; ") }
}

fn in_words(seconds: u64) -> String {
    crate::countdown::in_words(std::time::Duration::from_secs(seconds))
}

fn granted(story: &Story) -> String {
    let Some((_, facts)) = story.last(&["closed", "stuck"]) else { return String::new() };
    if facts.proof.is_empty() {
        return String::new();
    }
    let row = |item: &Proof| {
        let (class, word) = if item.gone { ("yes", "gone") } else { ("no", "STILL THERE") };
        let found =
            item.found.as_ref().map(|found| format!(": {}", text(found))).unwrap_or_default();
        format!(
            "<tr><td>{}</td><td><code>{}</code></td><td class=\"{class}\">{word}{found}</td>\
             <td class=\"n\">{} ms</td></tr>\n",
            words::of_thing(&item.what),
            text(&item.what),
            item.after_ms
        )
    };
    format!(
        "<h3>What was given, and looked for after the end</h3>\n<table><tr><th>What it is</th>\
         <th>What was looked at</th>\
         <th>Found</th><th>After</th></tr>\n{}</table>\n",
        facts.proof.iter().map(row).collect::<String>()
    )
}

fn done(session: &BundledSession, story: &Story) -> String {
    if session.transcript.is_empty() {
        return "<h3>What was done</h3>\n<p>No transcript was kept: none is for a session that was never opened.</p>\n"
            .to_owned();
    }
    let rows: String = story.operations.iter().map(operation).collect();
    let mut known: Vec<&str> =
        story.operations.iter().map(|line| line.operation.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let legend: Vec<String> = known
        .into_iter()
        .filter(|operation| !words::of_operation(operation).is_empty())
        .map(|operation| format!("<b>{}</b>: {}", text(operation), words::of_operation(operation)))
        .collect();
    let legend = legend.join("; ");
    format!(
        "<h3>What was done</h3>\n<table class=\"done\"><tr><th>When</th><th>What</th><th>On what</th><th>Outcome</th></tr>\n\
         {rows}</table>\n<p class=\"legend\">{legend}</p>\n"
    )
}

fn operation(line: &Operation) -> String {
    let (what, subject, outcome) = match line.event.as_str() {
        "operation" => {
            let outcome = match line.outcome.as_str() {
                "refused" => format!("<span class=\"no\">refused</span>: {}", text(&line.why)),
                "changed" => format!("allowed, {}", text(&line.why)),
                other => text(other),
            };
            (text(&line.operation), text(&line.subject), outcome)
        }
        "begun" => (
            "the debugger is open to clients".to_owned(),
            String::new(),
            format!("mode {}", text(&line.mode)),
        ),
        "connected" => ("a client connected".to_owned(), text(&line.client), String::new()),
        "disconnected" => ("a client left".to_owned(), text(&line.client), text(&line.why)),
        "shown" => (
            "values were shown".to_owned(),
            format!("<code>{}</code>", text(line.shown())),
            format!("to {}", text(&line.client)),
        ),
        "stood" => (
            "the service stood still".to_owned(),
            String::new(),
            line.ms.map(seconds).unwrap_or_default(),
        ),
        "image" => (
            "an image was taken".to_owned(),
            text(&line.place),
            line.pause_ms.map(|ms| format!("the service stood for {ms} ms")).unwrap_or_default(),
        ),
        "let-go" => (
            "the service was let go".to_owned(),
            text(&line.why),
            line.breakpoints_off
                .map(|off| format!("breakpoints turned off: {off}"))
                .unwrap_or_default(),
        ),
        "released" => (
            "the last client has gone; the service runs".to_owned(),
            String::new(),
            line.breakpoints_cleared
                .map(|off| format!("breakpoints cleared: {off}"))
                .unwrap_or_default(),
        ),
        "ended" => (
            "the debugger was closed".to_owned(),
            text(&line.why),
            line.stood_ms
                .zip(line.longest_stop_ms)
                .map(|(all, longest)| {
                    format!(
                        "stood {} in all, {} at the longest stop",
                        seconds(all),
                        seconds(longest)
                    )
                })
                .unwrap_or_default(),
        ),
        other => (text(other), text(&line.subject), text(&line.why)),
    };
    format!(
        "<tr><td class=\"t\">{}</td><td>{what}</td><td>{subject}</td><td>{outcome}</td></tr>\n",
        time(&line.time)
    )
}

fn timeline(story: &Story) -> String {
    let row = |record: &AuditRecord| {
        let seq = record.others.get("chain").and_then(|chain| chain.get("seq")?.as_u64());
        format!(
            "<tr><td class=\"n\">{}</td><td class=\"t\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            seq.map_or("-".to_owned(), |seq| seq.to_string()),
            time(&record.time),
            text(&record.event),
            text(&record.user),
            text(&record.message),
        )
    };
    format!(
        "<h3>Every record, in order</h3>\n<table><tr><th>No.</th><th>When</th><th>Event</th><th>By</th>\
         <th>As it was written</th></tr>\n{}</table>\n",
        story.records.iter().map(row).collect::<String>()
    )
}

fn integrity(bundle: &Bundle) -> String {
    let end = bundle.log_end.map_or("not known".to_owned(), |head| format!("record {}", head.seq));
    let checkpoints: String = bundle
        .checkpoints
        .iter()
        .map(|it| format!("<li>record {}: <code>{}</code></li>\n", it.seq, it.hash))
        .collect();
    format!(
        "<section id=\"integrity\"><h2>How to check that nobody has changed this</h2>\n\
         <p>Each record carries a number and the SHA-256 of the record before it and of itself, so that none can \
         be changed, removed or added unseen. This file holds the records as they stand in the host\u{2019}s log, \
         and a signature (Ed25519) of the host over all of them. On any computer with godebugctl:</p>\n\
         <pre>godebugctl audit verify THIS-FILE --key {key}</pre>\n\
         <p>That reads the records in this file, makes this page from them again, and says whether the page says \
         what the records say. <b>Get the key from the host itself</b>, with <code>godebugctl audit key</code>, or \
         from whoever noted it when the host was set up; the one above is only this file\u{2019}s own word.</p>\n\
         <p>What the signature cannot tell is whether somebody with full power over the host had the log written \
         anew before it was signed. Copies of the host\u{2019}s journal on another computer tell that: they hold \
         checkpoints such as these, which must be the same there \
         (<code>godebugctl audit verify THIS-FILE --checkpoint FILE</code>):</p>\n<ul>\n{checkpoints}</ul>\n\
         <p>The log ended at {end} when this was handed out. Made by {maker}.</p></section>\n",
        key = bundle.key,
        maker = text(MAKER),
    )
}

#[cfg(test)]
mod tests;
