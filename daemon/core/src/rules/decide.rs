//! The decision: the first rule that is about a request, and what it says to it; and how it came to
//! that, for whoever wants it explained.

use super::words::{Command, Moment};
use super::{
    Approvals, Effect, Limits, Place, ReasonWanted, Rule, Selectors, SessionLimits, SessionPolicy,
    Share, Units, Who,
};
use crate::words::{Cidr, Mode, Reason, UnitName};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};
use std::time::Duration;

/// What somebody wants.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    pub user: &'a str,
    /// The names of all their groups.
    pub groups: &'a [String],
    pub command: Command,
    pub unit: &'a UnitName,
    /// The slice that the unit is in.
    pub slice: Option<&'a str>,
    /// The container in it that is meant.
    pub container: Option<&'a str>,
    /// Whose manager runs it, if it is not the system's.
    pub owner: Option<&'a str>,
    pub mode: Mode,
    pub ttl: Duration,
    /// How long the session has been there, for one that is to be extended.
    pub lasted: Duration,
    pub reason: Option<&'a Reason>,
    /// Where clients may come from besides the host itself.
    pub sources: &'a [Cidr],
    pub now: Moment,
    /// `None` for a session that runs already, and would count itself.
    pub running: Option<Running>,
    /// They want to go ahead without the consent of others.
    pub break_glass: bool,
}

/// How many sessions there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Running {
    pub on_unit: u32,
    pub on_host: u32,
    pub of_person: u32,
}

/// What the rules say to a question.
#[derive(Debug, Clone)]
pub struct Answer<'r> {
    /// The rules before the one that decided.
    pub passed_over: Vec<PassedOver<'r>>,
    pub decision: Result<Permit, Denial>,
}

/// A rule that is not about the question, with everything that does not fit.
#[derive(Debug, Clone)]
pub struct PassedOver<'r> {
    pub rule: &'r Rule,
    pub mismatches: Vec<Mismatch>,
}

/// One selector that a question is outside of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mismatch {
    /// The key in the rule.
    pub field: String,
    /// What the rule has.
    pub wanted: String,
    pub asked: String,
}

impl Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, not {}", self.field, self.wanted, self.asked)
    }
}

/// Leave to do it, from one rule and under its limits.
#[derive(Debug, Clone)]
pub struct Permit {
    pub rule: String,
    pub place: Place,
    pub limits: Limits,
    pub policy: SessionPolicy,
    pub consent: Consent,
}

/// Whether others have to agree before anything is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consent {
    NotNeeded,
    Needed(Approvals),
    /// It would be needed, and the rule lets this person go ahead without it.
    GlassBroken,
}

impl Permit {
    /// The rule, as it stands in the record.
    pub fn name(&self) -> String {
        named(&self.rule, &self.place)
    }

    /// Whether one more session may be begun beside those that there are.
    ///
    /// # Errors
    /// The denial.
    pub fn room_for_one_more(&self, running: Running) -> Result<(), Denial> {
        self.limits.sessions.check(running).map_err(|(message, remedy)| Denial {
            rule: Some(self.name()),
            message: format!("the rule {} allows {message}", self.name()),
            remedy,
        })
    }
}

/// Letting somebody into a session that there is.
impl Permit {
    /// Whether its owner may let somebody in, who only watches or who does what the session may.
    ///
    /// # Errors
    /// The denial.
    pub fn lets_in(&self, observes: bool) -> Result<(), Denial> {
        let wanted = if observes { Share::Observe } else { Share::Full };
        if self.policy.share >= wanted {
            return Ok(());
        }
        let (what, remedy) = match self.policy.share {
            Share::No => (
                "lets nobody else into a session",
                "ask an administrator of this host for a rule with share = \"observe\" or \"full\"",
            ),
            _ => ("lets others only watch a session", "share it with --observe"),
        };
        Err(Denial {
            rule: Some(self.name()),
            message: format!("the rule {} {what}", self.name()),
            remedy: remedy.to_owned(),
        })
    }
}

/// No, and what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The rule that says so, if it is one and not the lack of one.
    pub rule: Option<String>,
    pub message: String,
    pub remedy: String,
}

fn named(rule: &str, place: &Place) -> String {
    format!("\"{rule}\" ({place})")
}

/// Asks the rules, in their order.
pub fn decide<'r>(rules: &'r [Rule], question: &Question<'_>) -> Answer<'r> {
    let mut passed_over = Vec::new();
    for rule in rules {
        let mismatches = mismatches(rule, question);
        if mismatches.is_empty() {
            return Answer { passed_over, decision: said_by(rule, question) };
        }
        passed_over.push(PassedOver { rule, mismatches });
    }
    let decision = Err(no_rule(&passed_over, question));
    Answer { passed_over, decision }
}

fn said_by(rule: &Rule, question: &Question<'_>) -> Result<Permit, Denial> {
    let name = named(&rule.name, &rule.place);
    let denied = |message: String, remedy: String| {
        let message = format!("the rule {name} {message}");
        Err(Denial { rule: Some(name.clone()), message, remedy })
    };
    if rule.effect == Effect::Deny {
        let remedy =
            "ask an administrator of this host; the rule says who, what and when".to_owned();
        return denied(format!("denies {}", question.in_words()), remedy);
    }
    if let Some(longest) = rule.limits.max_ttl.filter(|longest| question.ttl > *longest) {
        let (asked, longest) = (in_words(question.ttl), in_words(longest));
        return denied(
            format!("allows {longest} at most (max_ttl), not {asked}"),
            format!(
                "ask for --ttl {}, and extend it when you need longer",
                longest.replace(' ', "")
            ),
        );
    }
    let total = question.lasted.saturating_add(question.ttl);
    if let Some(longest) = rule.limits.max_total.filter(|longest| total > *longest) {
        return denied(
            format!("allows a session of {} in all (max_total)", in_words(longest)),
            "extend by less, or open a new session".to_owned(),
        );
    }
    match (&rule.limits.reason, question.reason.map(Reason::to_string)) {
        (ReasonWanted::No, _) | (ReasonWanted::Yes, Some(_)) => {}
        (ReasonWanted::Yes, None) => {
            return denied("wants a reason".to_owned(), "give one: --reason TEXT".to_owned());
        }
        (ReasonWanted::With(pattern), Some(reason)) if pattern.is_in(&reason) => {}
        (ReasonWanted::With(pattern), _) => {
            return denied(
                format!("wants a reason in which the pattern {pattern} is found"),
                "give one: --reason TEXT, with a ticket's number or what the pattern says"
                    .to_owned(),
            );
        }
    }
    let consent = match consent(rule.limits.approvals.as_ref(), question) {
        Ok(consent) => consent,
        Err((message, remedy)) => return denied(message, remedy),
    };
    let permit = Permit {
        rule: rule.name.clone(),
        place: rule.place.clone(),
        limits: rule.limits.clone(),
        policy: rule.policy.clone(),
        consent,
    };
    question.running.map_or(Ok(()), |running| permit.room_for_one_more(running))?;
    Ok(permit)
}

fn consent(
    wanted: Option<&Approvals>,
    question: &Question<'_>,
) -> Result<Consent, (String, String)> {
    let no = |message: &str, remedy: &str| Err((message.to_owned(), remedy.to_owned()));
    match wanted {
        None if question.break_glass => {
            no("needs nobody's approval, so there is no glass to break", "leave --break-glass out")
        }
        None => Ok(Consent::NotNeeded),
        Some(wanted) if !question.break_glass => Ok(Consent::Needed(wanted.clone())),
        Some(wanted) if !wanted.break_glass => {
            let message = format!("lets nobody go ahead without {wanted}");
            Err((message, "leave --break-glass out, and somebody is asked".to_owned()))
        }
        Some(_) if question.reason.is_none() => no(
            "wants to know why the glass is broken",
            "give a reason: --break-glass --reason TEXT",
        ),
        Some(_) => Ok(Consent::GlassBroken),
    }
}

fn in_words(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

impl SessionLimits {
    fn check(&self, running: Running) -> Result<(), (String, String)> {
        for (most, count, what) in [
            (self.per_unit, running.on_unit, "on one unit"),
            (self.per_person, running.of_person, "of one person"),
            (self.per_host, running.on_host, "on one host"),
        ] {
            if let Some(most) = most.filter(|most| count >= *most) {
                let sessions = if most == 1 { "session" } else { "sessions" };
                return Err((
                    format!("{most} {sessions} {what} at a time, and there are {count}"),
                    "wait for the end of one, or end it: `godebugctl list` shows them".to_owned(),
                ));
            }
        }
        Ok(())
    }
}

impl Question<'_> {
    fn in_words(&self) -> String {
        let Self { user, command, mode, .. } = self;
        let part = self.part_in_words();
        format!("{user} to {command} {}{part} in mode {mode}", self.unit)
    }

    fn target_in_words(&self) -> String {
        let slice = self.slice.map(|slice| format!(" in {slice}")).unwrap_or_default();
        format!("{}{slice}{}", self.unit, self.part_in_words())
    }

    fn part_in_words(&self) -> String {
        match (self.container, self.owner) {
            (Some(container), _) => format!(" (container {container})"),
            (None, Some(owner)) => format!(" (a unit of {owner}'s own)"),
            (None, None) => String::new(),
        }
    }
}

fn no_rule(passed_over: &[PassedOver<'_>], question: &Question<'_>) -> Denial {
    let near = passed_over.iter().find_map(|passed| {
        let help: Option<Vec<String>> = passed.mismatches.iter().map(would_help).collect();
        let help = help.filter(|_| passed.rule.effect == Effect::Allow)?.join(", ");
        Some(format!("the rule {} allows it {help}", named(&passed.rule.name, &passed.rule.place)))
    });
    Denial {
        rule: None,
        message: format!("no rule allows {}", question.in_words()),
        remedy: near.unwrap_or_else(|| {
            "ask an administrator of this host for a rule in /etc/godebug/rules.d; \
             `godebugctl rules explain` tells what each rule wants"
                .to_owned()
        }),
    }
}

/// What the person who asks can change.
fn would_help(mismatch: &Mismatch) -> Option<String> {
    match mismatch.field.as_str() {
        "modes" => Some(format!("with --mode {}", mismatch.wanted.replace(", ", " or "))),
        "sources" => Some(format!("with --from inside {}", mismatch.wanted)),
        "days and hours" => Some(format!("at {}", mismatch.wanted)),
        _ => None,
    }
}

fn mismatches(rule: &Rule, question: &Question<'_>) -> Vec<Mismatch> {
    let Selectors { units, who, commands, modes, sources, times } = &rule.selectors;
    let mut found = Vec::new();
    let mut mismatch = |field: &str, wanted: String, asked: String| {
        found.push(Mismatch { field: field.to_owned(), wanted, asked });
    };
    if let Some(units) = units.as_ref().filter(|units| !units.hold(question)) {
        mismatch("units", units.to_string(), question.target_in_words());
    }
    if let Some(who) = who.as_ref().filter(|who| !who.includes(question.user, question.groups)) {
        mismatch("users", who.to_string(), question.user.to_owned());
    }
    if let Some(commands) = commands.as_ref().filter(|all| !all.contains(&question.command)) {
        mismatch("commands", listed(commands), question.command.to_string());
    }
    if let Some(modes) = modes.as_ref().filter(|all| !all.contains(&question.mode)) {
        mismatch("modes", listed(modes), question.mode.to_string());
    }
    if let Some(networks) = sources
        && let Some(outside) = outside(networks, rule.effect, question.sources)
    {
        mismatch("sources", listed(networks), outside);
    }
    if let Some(times) = times.as_ref().filter(|times| !times.hold(question.now)) {
        mismatch("days and hours", times.to_string(), question.now.to_string());
    }
    found
}

/// What of the sources makes a rule be about something else; `None` when it is about these. A rule
/// that allows must hold all of them, the host itself aside, where the person is already; one that
/// denies is about every request that reaches into its networks.
fn outside(networks: &[Cidr], effect: Effect, sources: &[Cidr]) -> Option<String> {
    match effect {
        Effect::Allow => {
            let held = |source: &Cidr| networks.iter().any(|network| network.holds(source));
            let mut others = sources.iter().filter(|source| !source.is_loopback());
            others.find(|source| !held(source)).map(Cidr::to_string)
        }
        Effect::Deny => {
            let meet = |source: &Cidr| {
                networks.iter().any(|network| network.holds(source) || source.holds(network))
            };
            let none = || if sources.is_empty() { "this host".to_owned() } else { listed(sources) };
            (!sources.iter().any(meet)).then(none)
        }
    }
}

impl Units {
    fn hold(&self, question: &Question<'_>) -> bool {
        self.names.iter().any(|pattern| pattern.matches(question.unit.as_str()))
            || question.slice.is_some_and(|slice| self.slices.iter().any(|it| it.holds(slice)))
            || question
                .container
                .is_some_and(|name| self.containers.iter().any(|it| it.matches(name)))
            || (self.own && question.owner == Some(question.user))
    }
}

impl Who {
    /// Whether somebody of this name and these groups is meant.
    pub fn includes(&self, user: &str, groups: &[String]) -> bool {
        self.users.iter().any(|known| known == user)
            || self.groups.iter().any(|group| groups.contains(group))
    }
}

impl Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.iter().map(ToString::to_string);
        let slices = self.slices.iter().map(ToString::to_string);
        let containers = self.containers.iter().map(|name| format!("container {name}"));
        let own = self.own.then(|| "units of one's own".to_owned());
        let all: Vec<String> = names.chain(slices).chain(containers).chain(own).collect();
        f.write_str(&all.join(", "))
    }
}

impl Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.groups.iter().map(|group| format!("group {group}"));
        let all: Vec<String> = self.users.iter().cloned().chain(groups).collect();
        f.write_str(&all.join(", "))
    }
}

pub(super) fn listed<T: Display>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
