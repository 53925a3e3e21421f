//! Documents as a person reads them.
//!
//! Every value that comes from the host goes through `safe`; what the output does besides is a
//! second gate, not the first.

use crate::countdown::{in_words, left_until};
use crate::terminal::{BOLD, GREEN, RED, YELLOW, padded, painted, safe, shortened, table, width};
use godebug_api::documents::{
    Check, DebugInformation, Diagnosis, Inspection, PlanDocument, Proof, SessionInfo, Verdict,
};
use godebug_api::forecast::{megabytes, seconds};
use godebug_api::{
    Cidr, Dump, Forecast, Mode, PauseBudget, Refusal, StartAt, State, TargetName, UnitName,
};
use std::time::Duration;

/// Reasons in `list` are cut to this; `show` has them whole.
const REASON_COLUMNS: usize = 50;

/// `list --pending`.
pub(crate) fn requests(requests: &[SessionInfo]) -> String {
    if requests.is_empty() {
        return "nothing waits for approval".to_owned();
    }
    let heading = ["ID", "ASKED BY", "UNIT", "MODE", "FOR", "APPROVED", "LEFT", "REASON"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(requests.iter().map(|request| {
        let reason = request.reason.as_ref().map(safe).unwrap_or_default();
        vec![
            request.id.to_string(),
            safe(&request.opened_by),
            request.target_name().to_string(),
            request.mode.to_string(),
            request.ttl.map_or("-".to_owned(), |ttl| ttl.to_string()),
            approved(request),
            left(request),
            shortened(&reason, REASON_COLUMNS),
        ]
    }));
    table(&rows)
}

/// How many have approved a request, of how many.
pub(crate) fn approved(request: &SessionInfo) -> String {
    let given = request.approvals.len();
    let wanted = request.waits_for.as_ref().map_or(given, |wanted| wanted.approvals as usize);
    format!("{given} of {wanted}")
}

/// How long a session has, or a request before it is dropped.
fn left(session: &SessionInfo) -> String {
    let claim_by = session.waits_for.as_ref().map(|wanted| wanted.claim_by.as_str());
    let end = session.expires_at.as_deref().filter(|_| session.state.is_live());
    left_until(end.or(claim_by.filter(|_| session.state == State::PendingApproval)))
}

/// A request, as whoever may approve it looks at it.
pub(crate) fn request(request: &SessionInfo) -> String {
    let ttl = request.ttl.map_or("-".to_owned(), |ttl| format!("{ttl}, from when it is active"));
    let mut rows = vec![
        ("request", request.id.to_string()),
        ("asked by", format!("{} (uid {})", safe(&request.opened_by), request.opened_by_uid)),
        ("at", safe(&request.opened_at)),
        ("to debug", format!("{}, process {}", request.target_name(), request.pid)),
        ("why", request.reason.as_ref().map_or("no reason was given".to_owned(), safe)),
        ("mode", request.mode.to_string()),
        ("for", ttl),
        ("clients from", sources(&request.sources)),
    ];
    if let Some(forecast) = request.freeze_forecast_ms {
        rows.push(match request.mode {
            Mode::Observe => ("freeze", each_image(forecast)),
            Mode::Step | Mode::Modify => {
                ("freeze", format!("{} while dlv attaches", about(forecast)))
            }
        });
    }
    rows.extend(consent(request));
    pairs(&rows)
}

/// Whose consent a session has, and whose it waits for.
fn consent(session: &SessionInfo) -> Vec<(&'static str, String)> {
    let mut rows: Vec<(&str, String)> = session
        .approvals
        .iter()
        .map(|given| ("approved by", format!("{} at {}", safe(&given.user), safe(&given.at))))
        .collect();
    if let Some(wanted) = &session.waits_for {
        let waits = format!("{} by {}", approved(session), safe(&wanted.by));
        rows.push(("approvals", waits));
        let claim_by = &wanted.claim_by;
        rows.push(("waits until", format!("{} ({} left)", safe(claim_by), left(session))));
    }
    if session.break_glass {
        let glass = painted(RED, "BROKEN:");
        rows.push(("glass", format!("{glass} opened without the approval that its rule wants")));
    }
    rows
}

/// `list`.
pub(crate) fn sessions(sessions: &[SessionInfo]) -> String {
    if sessions.is_empty() {
        return "no sessions".to_owned();
    }
    let mut rows = vec![SESSION_COLUMNS.map(str::to_owned).to_vec()];
    rows.extend(sessions.iter().map(row));
    table(&rows)
}

/// The same of several hosts.
pub(crate) fn sessions_of_hosts(sessions: &[(&str, SessionInfo)]) -> String {
    if sessions.is_empty() {
        return "no sessions\n".to_owned();
    }
    let with = |host: &str, cells: Vec<String>| [vec![safe(host)], cells].concat();
    let mut rows = vec![with("HOST", SESSION_COLUMNS.map(str::to_owned).to_vec())];
    rows.extend(sessions.iter().map(|(host, session)| with(host, row(session))));
    table(&rows)
}

const SESSION_COLUMNS: [&str; 9] =
    ["ID", "UNIT", "STATE", "MODE", "PID", "ENDPOINT", "LEFT", "OPENED BY", "REASON"];

fn row(session: &SessionInfo) -> Vec<String> {
    let reason = session.reason.as_ref().map(safe).unwrap_or_default();
    vec![
        session.id.to_string(),
        session.target_name().to_string(),
        session.state.to_string(),
        session.mode.to_string(),
        session.pid.to_string(),
        or_dash(&safe(&session.endpoint)),
        left(session),
        safe(&session.opened_by),
        shortened(&reason, REASON_COLUMNS),
    ]
}

/// `show`.
pub(crate) fn session(session: &SessionInfo) -> String {
    let expires = session.expires_at.as_ref().map_or("-".to_owned(), |moment| {
        let left = if session.state.is_live() {
            format!(" ({} left)", left_until(Some(moment)))
        } else {
            String::new()
        };
        format!("{}{left}", safe(moment))
    });
    let mut rows = vec![
        ("session", session.id.to_string()),
        ("unit", unit_and_part(&session.unit, session.target.as_ref())),
        ("state", session.state.to_string()),
        ("mode", session.mode.to_string()),
        ("process", process(session)),
        ("endpoint", or_dash(&safe(&session.endpoint))),
        ("clients from", sources(&session.sources)),
        ("opened at", safe(&session.opened_at)),
        ("expires at", expires),
        ("opened by", format!("{} (uid {})", safe(&session.opened_by), session.opened_by_uid)),
        ("reason", session.reason.as_ref().map_or("-".to_owned(), safe)),
        ("debugger", safe(&session.debugger)),
        ("go version", safe(&session.go_version)),
        ("freeze", freeze(session)),
    ];
    rows.extend(consent(session));
    rows.extend(session.pause.map(|budget| ("may stand", pauses(budget))));
    rows.extend(stood(session).map(|stood| ("stood", stood)));
    if session.close_reason.is_some() {
        rows.push(("ended", why_ended(session)));
    }
    let mut text = pairs(&rows);
    text.push_str(&evidence(session));
    text
}

/// For how long attaching froze the target, and for how long it was expected to.
fn freeze(session: &SessionInfo) -> String {
    if session.dump.is_some() {
        return "none: there is no process".to_owned();
    }
    if session.mode == Mode::Observe {
        return session.freeze_forecast_ms.map_or("not known".to_owned(), each_image);
    }
    if session.exec.is_some() {
        return "none: it was started for the session".to_owned();
    }
    let forecast = session.freeze_forecast_ms;
    let forecast = forecast.map(|forecast| format!(" (forecast: {forecast})")).unwrap_or_default();
    frozen(session).unwrap_or_else(|| "not measured".to_owned()) + &forecast
}

/// What each image of a session of mode `observe` costs.
fn each_image(forecast: Forecast) -> String {
    format!("none but for images, each about {} ms", forecast.as_millis())
}

/// For how long the target may stand.
fn pauses(budget: PauseBudget) -> String {
    let per_stop = in_words(budget.per_stop());
    format!("{per_stop} at one stop, {} in all", in_words(budget.per_session()))
}

/// For how long it did, once the session has ended.
fn stood(session: &SessionInfo) -> Option<String> {
    let end = session.transcript.as_ref()?;
    let (stood, longest) = (end.stood_ms?, end.longest_stop_ms?);
    let let_go = match end.let_go? {
        0 => String::new(),
        1 => ", let go once because its time was up".to_owned(),
        more => format!(", let go {more} times because its time was up"),
    };
    if session.dump.is_some() {
        return None;
    }
    if session.mode == Mode::Observe {
        return Some(format!("{stood} ms in all, {longest} ms at most for one image"));
    }
    Some(format!("{} in all, {} at the longest stop{let_go}", seconds(stood), seconds(longest)))
}

/// The same for whoever has just attached; nothing where nothing was measured.
pub(crate) fn frozen(session: &SessionInfo) -> Option<String> {
    session.freeze_ms.map(|measured| format!("{} while dlv attached", seconds(measured)))
}

/// The process, or what is kept of it.
fn process(session: &SessionInfo) -> String {
    match &session.dump {
        None => session.pid.to_string(),
        Some(Dump { pid, time, image: Some(image), .. }) => {
            format!("{pid}, in image {} of {}, at {}", image.name, safe(time), safe(&image.place))
        }
        Some(dump) => format!("{}, which {} ended at {}", dump.pid, safe(&dump.signal), dump.time),
    }
}

/// Where a service stands that was started for a session.
pub(crate) fn stands_at(session: &SessionInfo) -> Option<&'static str> {
    match session.exec? {
        StartAt::Entry => {
            Some("the service stands at its first instruction until a debugger lets it run")
        }
        StartAt::Main => Some("the service stands at main until a debugger lets it run"),
        StartAt::Nowhere => None,
    }
}

/// How a session ended, and what was read back after it.
pub(crate) fn ending(session: &SessionInfo, lasted: Option<Duration>) -> String {
    let lasted = lasted.map(|time| format!(" after {}", in_words(time))).unwrap_or_default();
    let mut text = format!(
        "session {} is {}: {}{lasted}\n",
        painted(BOLD, session.id.as_str()),
        session.state,
        why_ended(session),
    );
    if let Some(stood) = stood(session) {
        text.push_str(&format!("  the service stood still for {stood}\n"));
    }
    text.push_str(&evidence(session));
    text
}

/// The reason for the end, with the sentence that goes with it.
pub(crate) fn why_ended(session: &SessionInfo) -> String {
    let reason =
        session.close_reason.map_or_else(|| session.state.to_string(), |reason| reason.to_string());
    match &session.close_detail {
        Some(detail) => format!("{reason} ({})", safe(detail)),
        None => reason,
    }
}

/// The proof, and in capitals whatever could not be given back.
fn evidence(session: &SessionInfo) -> String {
    let mut text: String = proof(&session.proof);
    for item in &session.stuck {
        text.push_str(&format!("  {} {}\n", painted(RED, "STUCK:"), safe(item)));
    }
    if !session.stuck.is_empty() {
        text.push_str(
            "    → godebugd goes on trying; `journalctl -u godebugd` says what is in the way\n",
        );
    }
    text
}

/// What was read back, one thing a line.
pub(crate) fn proof(proof: &[Proof]) -> String {
    let whats: Vec<String> = proof.iter().map(|item| safe(&item.what)).collect();
    let widest = whats.iter().map(|what| width(what)).max().unwrap_or(0);
    let line = |(item, what): (&Proof, &String)| {
        let what = padded(what, widest);
        if item.gone {
            return format!("  {} {what}  {:>6} ms\n", painted(GREEN, "✓"), item.after_ms);
        }
        let found = item.found.as_ref().map(|found| format!(": {}", safe(found)));
        let found = found.unwrap_or_default();
        let mark = painted(RED, "✗");
        format!("  {mark} {what}  {:>6} ms  STILL THERE{found}\n", item.after_ms)
    };
    proof.iter().zip(&whats).map(line).collect()
}

/// `attach --dry-run`.
pub(crate) fn plan(plan: &PlanDocument) -> String {
    let mut rows = vec![
        ("unit", plan.unit.to_string()),
        ("process", format!("{} of user {}", plan.pid, safe(&plan.user))),
        ("go version", safe(&plan.go_version)),
        ("debugger", safe(&plan.debugger)),
        ("mode", plan.mode.to_string()),
        ("time to live", plan.ttl.to_string()),
        ("port", plan.port.to_string()),
        ("clients from", sources(&plan.sources)),
        ("firewall", safe(&plan.firewall)),
        ("allowed by", plan.rule.as_ref().map_or("-".to_owned(), safe)),
    ];
    rows.extend(match plan.mode {
        Mode::Observe => [
            ("freeze", plan.freeze_forecast_ms.map_or("not known".to_owned(), each_image)),
            ("may stand", "never: debuggers are shown images".to_owned()),
        ],
        Mode::Step | Mode::Modify => [
            ("freeze", plan.freeze_forecast_ms.map_or("not known".to_owned(), about)),
            ("may stand", plan.pause.map_or("not known".to_owned(), pauses)),
        ],
    });
    let mut text = pairs(&rows);
    text.push('\n');
    for (number, step) in plan.plan.steps.iter().enumerate() {
        text.push_str(&format!(
            "{:>2}. {}\n      undo: {}\n      ends by itself: {}\n",
            number + 1,
            safe(&step.does),
            safe(&step.undo),
            safe(&step.ends_by_itself)
        ));
    }
    for warning in &plan.warnings {
        text.push_str(&format!("{} {}\n", painted(YELLOW, "warning:"), safe(warning)));
    }
    text.push_str("\nNothing was changed.\n");
    text
}

/// The unit, and what of it is meant.
fn unit_and_part(unit: &UnitName, part: Option<&TargetName>) -> String {
    part.map_or_else(|| unit.to_string(), |part| format!("{part}, in {unit}"))
}

/// `inspect`.
pub(crate) fn inspection(target: &Inspection) -> String {
    let deleted = if target.deleted { " (removed or replaced since the start)" } else { "" };
    let mut rows = vec![
        ("unit", unit_and_part(&target.unit, target.target.as_ref())),
        ("process", format!("{} of user {}", target.pid, safe(&target.user))),
        ("executable", format!("{}{deleted}", safe(&target.executable))),
        ("go version", safe(&target.go_version)),
        ("module", module(target)),
        ("revision", revision(target)),
        ("build", flags(target)),
        ("debug info", debug_information(target.debug_information).to_owned()),
        ("build ID", target.build_id.as_ref().map_or("-".to_owned(), safe)),
    ];
    if let Some(forecast) = target.freeze_forecast_ms {
        let size = megabytes(target.debug_bytes);
        let text =
            format!("attaching freezes it for {} ({size} of debug information)", about(forecast));
        rows.push(("freeze", text));
    }
    rows.extend(target.image.as_ref().map(|image| {
        let pause = image.pause_ms.as_millis();
        let text = match &image.refusal {
            None => {
                let why = image.standing.as_ref();
                let why = why.map(|why| format!(", read while it stands: {}", safe(why)));
                format!(
                    "each stops it for about {pause} ms ({} in memory{})",
                    megabytes(image.bytes),
                    why.unwrap_or_default()
                )
            }
            Some(refusal) => format!("none: {}; {}", safe(&refusal.message), safe(&refusal.remedy)),
        };
        ("images", text)
    }));
    rows.push(match (&target.debugger, &target.debugger_refusal) {
        (Some(debugger), _) => ("debugger", safe(debugger)),
        (None, why) => {
            ("debugger", format!("none fits: {}", why.as_ref().map(safe).unwrap_or_default()))
        }
    });
    if !target.others.is_empty() {
        let others = safe(target.others.join(", "));
        rows.push(("beside it", format!("{others}; --pid chooses another Go process")));
    }
    if let Some(tracer) = &target.traced_by {
        rows.push(("traced by", safe(tracer)));
    }
    if let Some(milliseconds) = target.watchdog_ms {
        rows.push(("watchdog", in_words(Duration::from_millis(milliseconds))));
    }
    rows.extend(target.build_settings.iter().map(|(key, value)| {
        // The build's own words, one to a line under one heading.
        ("", format!("{}={}", safe(key), safe(value)))
    }));
    let mut text = pairs(&rows);
    if let Some(refusal) = &target.refusal {
        text.push_str(&would_refuse(refusal));
    }
    text
}

fn about(forecast: Forecast) -> String {
    format!("about {forecast}")
}

fn would_refuse(refusal: &Refusal) -> String {
    let mark = painted(RED, "✗");
    let mut text = format!("\n{mark} attach would refuse: {}\n", safe(&refusal.message));
    for line in refusal.remedy.lines() {
        text.push_str(&format!("  → {}\n", safe(line)));
    }
    text
}

fn module(target: &Inspection) -> String {
    let parts = [&target.module, &target.module_version];
    or_dash(&parts.into_iter().flatten().map(safe).collect::<Vec<_>>().join(" "))
}

fn revision(target: &Inspection) -> String {
    let mut parts: Vec<String> =
        [&target.vcs_revision, &target.vcs_time].into_iter().flatten().map(safe).collect();
    if target.vcs_modified == Some(true) {
        parts.push("(with local changes)".to_owned());
    }
    or_dash(&parts.join(" "))
}

fn flags(target: &Inspection) -> String {
    let flag = |set: bool, name: &'static str| set.then_some(name);
    let optimised = if target.optimised { "optimised" } else { "not optimised" };
    let others =
        [flag(target.pie, "PIE"), flag(target.cgo, "cgo"), flag(target.trimpath, "trimpath")];
    let all: Vec<&str> = [Some(optimised)].into_iter().chain(others).flatten().collect();
    all.join(", ")
}

fn debug_information(information: DebugInformation) -> &'static str {
    match information {
        DebugInformation::None => "none (the program was stripped)",
        DebugInformation::Dwarf4 => "DWARF 4",
        DebugInformation::Dwarf5 => "DWARF 5",
    }
}

/// `doctor`.
pub(crate) fn diagnosis(diagnosis: &Diagnosis) -> String {
    let widest = diagnosis.checks.iter().map(|check| width(&safe(&check.name))).max().unwrap_or(0);
    diagnosis.checks.iter().map(|check| check_line(check, widest)).collect()
}

fn check_line(check: &Check, widest: usize) -> String {
    let mark = match check.verdict {
        Verdict::Good => painted(GREEN, "✓"),
        Verdict::Warning => painted(YELLOW, "!"),
        Verdict::Bad => painted(RED, "✗"),
    };
    let name = padded(&safe(&check.name), widest);
    let mut text = format!("{mark} {name}  {}\n", safe(&check.found));
    for line in check.remedy.lines() {
        text.push_str(&format!("  {}→ {}\n", " ".repeat(widest + 2), safe(line)));
    }
    text
}

/// Two columns; a row without a heading goes on under the one before it.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let widest = rows.iter().map(|(heading, _)| width(heading)).max().unwrap_or(0);
    rows.iter().map(|(heading, value)| format!("{}  {value}\n", padded(heading, widest))).collect()
}

pub(crate) fn sources(sources: &[Cidr]) -> String {
    if sources.iter().all(Cidr::is_loopback) {
        return "this host only".to_owned();
    }
    sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}
