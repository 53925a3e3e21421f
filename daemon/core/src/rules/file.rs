//! One file of rules, from text to rules. All that is wrong with it is told at once, and then none of
//! it is used.

use super::table::{Section, Source};
use super::words::{Command, Glob, Slice, Times, Weekday};
use super::{
    Approvals, Effect, Limits, Problem, ReasonWanted, RedactRules, Rule, Selectors, SessionLimits,
    SessionPolicy, Share, TranscriptValues, Units, Who,
};
use crate::words::{Mode, WordError, shown};
use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// No file is longer, in bytes.
const LONGEST: usize = 256 * 1024;

const RULE: &[&str] = &[
    "name",
    "effect",
    "units",
    "slices",
    "containers",
    "own",
    "users",
    "groups",
    "commands",
    "modes",
    "sources",
    "days",
    "hours",
    "max_ttl",
    "max_total",
    "reason_required",
    "reason_pattern",
    "approvals",
    "sessions",
    "pause",
    "hot",
    "share",
    "transcript_values",
    "redact",
];

const MODES: [(&str, Mode); 3] =
    [("observe", Mode::Observe), ("step", Mode::Step), ("modify", Mode::Modify)];
const COMMANDS: [(&str, Command); 4] = [
    ("attach", Command::Attach),
    ("exec", Command::Exec),
    ("core", Command::Core),
    ("snapshot", Command::Snapshot),
];
const EFFECTS: [(&str, Effect); 2] = [("allow", Effect::Allow), ("deny", Effect::Deny)];
const SHARES: [(&str, Share); 3] =
    [("no", Share::No), ("observe", Share::Observe), ("full", Share::Full)];
const VALUES: [(&str, TranscriptValues); 3] = [
    ("none", TranscriptValues::None),
    ("digest", TranscriptValues::Digest),
    ("full", TranscriptValues::Full),
];

/// The rules of the file named `file`, in its order.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, text: &str) -> Result<Vec<Rule>, Vec<Problem>> {
    let source = Source::new(file, text);
    let rules = rules(&source, text);
    let problems = source.problems();
    if problems.is_empty() { Ok(rules) } else { Err(problems) }
}

fn rules<'i>(source: &Source<'i>, text: &'i str) -> Vec<Rule> {
    if text.len() > LONGEST {
        source.wrong(&(0..0), format!("it is longer than {LONGEST} bytes"), "");
        return Vec::new();
    }
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let message = error.message().replace('\n', " ");
            source.wrong(&error.span().unwrap_or_default(), message, "");
            return Vec::new();
        }
    };
    let mut top = Section::new(source, table.span(), table.into_inner(), &["rule"]);
    let mut rules = Vec::new();
    if let Some(value) = top.take("rule") {
        let at = value.span();
        let tables = match value.into_inner() {
            DeValue::Array(array) => array.into_iter().collect(),
            _ => {
                source.wrong(&at, "rules are written as [[rule]], with two brackets", "");
                Vec::new()
            }
        };
        for value in tables {
            let at = value.span();
            match value.into_inner() {
                DeValue::Table(table) => {
                    rules.extend(rule(source, Section::new(source, at, table, RULE)));
                }
                _ => source.wrong(&at, "a rule is a table: [[rule]]", ""),
            }
        }
    }
    top.finish();
    rules
}

/// One rule; `None` when it lacks what every rule has. What else is wrong is told to `source`.
fn rule(source: &Source<'_>, mut section: Section<'_, '_>) -> Option<Rule> {
    let at = section.at().clone();
    for (key, help) in [
        ("name", "name = \"on-call may look at the shop\""),
        ("effect", "effect = \"allow\" or effect = \"deny\""),
    ] {
        if !section.has(key) {
            source.wrong(&at, format!("the rule has no {key}"), help);
        }
    }
    let name: Option<RuleName> = section.word("name");
    let effect = section.choice("effect", &EFFECTS).unwrap_or(Effect::Deny);
    let selectors = selectors(source, &mut section, effect);
    let limits = limits(source, &mut section);
    let policy = policy(&mut section);
    if effect == Effect::Deny && (limits.is_some() || policy != SessionPolicy::default()) {
        source.wrong(&at, "a rule that denies has limits", "they belong into one that allows");
    }
    section.finish();
    Some(Rule {
        name: name?.0,
        place: source.place(&at),
        effect,
        selectors,
        limits: limits.unwrap_or_default(),
        policy,
    })
}

fn selectors(source: &Source<'_>, section: &mut Section<'_, '_>, effect: Effect) -> Selectors {
    let units = units(section);
    let who = who(section);
    let commands = section.choices("commands", &COMMANDS);
    // What changes a service must be allowed by its name.
    let default = (effect == Effect::Allow).then(|| vec![Mode::Observe, Mode::Step]);
    let modes = section.choices("modes", &MODES).or(default);
    Selectors {
        units,
        who,
        commands,
        modes,
        sources: section.words("sources"),
        times: times(source, section),
    }
}

/// What the keys `units`, `slices`, `containers` and `own` are about, if one of them is there.
fn units(section: &mut Section<'_, '_>) -> Option<Units> {
    let (names, slices) = (section.words("units"), section.words::<Slice>("slices"));
    let containers = section.words::<Glob>("containers");
    let own = section.flag("own");
    let any = names.is_some() || slices.is_some() || containers.is_some() || own.is_some();
    any.then(|| Units {
        names: names.unwrap_or_default(),
        slices: slices.unwrap_or_default(),
        containers: containers.unwrap_or_default(),
        // Alone it is about nothing, which is safer than about everything.
        own: own.unwrap_or(false),
    })
}

/// The people of the keys `users` and `groups`, if one of them is there.
fn who(section: &mut Section<'_, '_>) -> Option<Who> {
    let (users, groups) =
        (section.words::<Principal>("users"), section.words::<Principal>("groups"));
    if users.is_none() && groups.is_none() {
        return None;
    }
    let plain = |names: Option<Vec<Principal>>| -> Vec<String> {
        names.unwrap_or_default().into_iter().map(|name| name.0).collect()
    };
    Some(Who { users: plain(users), groups: plain(groups) })
}

fn approvals(source: &Source<'_>, section: &mut Section<'_, '_>) -> Option<Approvals> {
    const KEYS: &[&str] = &["count", "users", "groups", "within", "break_glass"];
    const UNATTENDED: Duration = Duration::from_secs(3600);
    let mut section = section.section("approvals", KEYS)?;
    let at = section.at().clone();
    let count = section.number("count").unwrap_or(1);
    let by = who(&mut section);
    let (within, break_glass) = (section.duration("within"), section.flag("break_glass"));
    section.finish();
    let Some(by) = by else {
        let help = "approvals = { groups = [\"leads\"] }, or users = […]";
        source.wrong(&at, "approvals does not say by whom", help);
        return None;
    };
    let named: BTreeSet<&String> = by.users.iter().collect();
    if by.groups.is_empty() && named.len() < count as usize {
        let message = format!("approvals wants {count} people, and names {}", named.len());
        source.wrong(&at, message, "no request could ever be approved");
    }
    let (within, break_glass) = (within.unwrap_or(UNATTENDED), break_glass.unwrap_or(false));
    Some(Approvals { count, by, within, break_glass })
}

fn times(source: &Source<'_>, section: &mut Section<'_, '_>) -> Option<Times> {
    let at = section.at().clone();
    let (days, hours) = (section.words::<String>("days"), section.words::<String>("hours"));
    if days.is_none() && hours.is_none() {
        return None;
    }
    let (days, hours) = (days.unwrap_or_default(), hours.unwrap_or_default());
    match Times::parse(&days, &hours) {
        Ok(times) => Some(times),
        Err(error) => {
            let known = Weekday::ALL.map(Weekday::name).join(", ");
            source.wrong(&at, error, format!("days are {known}; hours are those of this host"));
            None
        }
    }
}

fn limits(source: &Source<'_>, section: &mut Section<'_, '_>) -> Option<Limits> {
    let at = section.at().clone();
    let (max_ttl, max_total) = (section.duration("max_ttl"), section.duration("max_total"));
    if max_ttl.zip(max_total).is_some_and(|(ttl, total)| total < ttl) {
        source.wrong(&at, "max_total is shorter than max_ttl", "");
    }
    let required = section.flag("reason_required");
    let pattern = section.word("reason_pattern");
    if required == Some(false) && pattern.is_some() {
        source.wrong(&at, "reason_required = false with a reason_pattern", "leave one of them out");
    }
    let reason = match (pattern, required) {
        (Some(pattern), _) => ReasonWanted::With(pattern),
        (None, Some(true)) => ReasonWanted::Yes,
        (None, _) => ReasonWanted::No,
    };
    let sessions = section.section("sessions", &["per_unit", "per_host", "per_person"]);
    let sessions = sessions.map(|mut section| {
        let limits = SessionLimits {
            per_unit: section.number("per_unit"),
            per_host: section.number("per_host"),
            per_person: section.number("per_person"),
        };
        section.finish();
        limits
    });
    let approvals = approvals(source, section);
    let any = max_ttl.is_some()
        || max_total.is_some()
        || !matches!(reason, ReasonWanted::No)
        || sessions.is_some()
        || approvals.is_some();
    let sessions = sessions.unwrap_or_default();
    any.then(|| Limits { max_ttl, max_total, reason, sessions, approvals })
}

fn policy(section: &mut Section<'_, '_>) -> SessionPolicy {
    let mut policy = SessionPolicy {
        share: section.choice("share", &SHARES).unwrap_or_default(),
        transcript_values: section.choice("transcript_values", &VALUES),
        ..SessionPolicy::default()
    };
    if let Some(mut pause) = section.section("pause", &["per_stop", "per_session"]) {
        policy.pause_per_stop = pause.duration("per_stop");
        policy.pause_per_session = pause.duration("per_session");
        pause.finish();
    }
    if let Some(mut hot) = section.section("hot", &["hits_per_second", "standing_percent"]) {
        policy.hot_hits_per_second = hot.number("hits_per_second");
        policy.hot_standing_percent = hot.percent("standing_percent");
        hot.finish();
    }
    if let Some(mut redact) = section.section("redact", &["names", "types", "patterns"]) {
        policy.redact = RedactRules {
            names: redact.words::<Glob>("names").unwrap_or_default(),
            types: redact.words::<Glob>("types").unwrap_or_default(),
            patterns: redact.words("patterns").unwrap_or_default(),
        };
        redact.finish();
    }
    policy
}

/// What a rule is called in refusals and in the record.
struct RuleName(String);

impl FromStr for RuleName {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > 100 || text.chars().any(char::is_control) {
            return Err(WordError::new(format!("{} is no name of a rule", shown(text))));
        }
        Ok(Self(text.to_owned()))
    }
}

/// The name of a user or a group, as NSS has it.
struct Principal(String);

impl FromStr for Principal {
    type Err = WordError;

    fn from_str(text: &str) -> Result<Self, WordError> {
        // Names of other directories have a space, a backslash or an @ in them.
        if text.is_empty() || text.len() > 256 || text.chars().any(|c| c.is_control() || c == ':') {
            return Err(WordError::new(format!("{} is no name of a user or a group", shown(text))));
        }
        Ok(Self(text.to_owned()))
    }
}
