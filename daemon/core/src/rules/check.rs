//! What is strange about rules that can be read: those that no request ever reaches, names that are
//! there twice, suffixes that are misspelt.

use super::suggest::nearest;
use super::{Effect, Problem, Rule, Selectors, Severity, Units, Who};

/// All warnings about the rules, in their order.
pub fn check(rules: &[Rule]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let mut warn = |message: String, help: String| {
            let (severity, place) = (Severity::Warning, rule.place.clone());
            problems.push(Problem { severity, place, message, help });
        };
        let earlier = &rules[..index];
        if let Some(other) = earlier.iter().find(|other| takes_all_of(other, rule)) {
            let effect = match other.effect {
                Effect::Allow => "allows",
                Effect::Deny => "denies",
            };
            warn(
                format!(
                    "the rule \"{}\" is never reached: \"{}\" at {} {effect} all of it before",
                    rule.name, other.name, other.place
                ),
                "put the narrower rule first, or take it out".to_owned(),
            );
        }
        if let Some(other) = earlier.iter().find(|other| other.name == rule.name) {
            warn(
                format!("a rule \"{}\" is at {} already", rule.name, other.place),
                "in a refusal nobody can tell them apart; give it another name".to_owned(),
            );
        }
        for (pattern, meant) in misspelt(rule) {
            warn(format!("units has {pattern}"), format!("did you mean `.{meant}`?"));
        }
    }
    problems
}

/// Names that end in something like a suffix, and got one for that reason.
fn misspelt(rule: &Rule) -> Vec<(String, &'static str)> {
    let names = rule.selectors.units.iter().flat_map(|units| &units.names);
    names
        .filter_map(|pattern| {
            let text = pattern.to_string();
            let (_, suffix) = text.strip_suffix(".service")?.rsplit_once('.')?;
            Some((text.clone(), nearest(suffix, ["service", "scope", "slice"])?))
        })
        .collect()
}

/// Whether every request that `rule` is about meets `earlier` first. Says no where it cannot tell.
fn takes_all_of(earlier: &Rule, rule: &Rule) -> bool {
    let (wide, narrow) = (&earlier.selectors, &rule.selectors);
    let Selectors { units, who, commands, modes, sources, times } = wide;
    covers(units.as_ref(), narrow.units.as_ref(), Units::cover)
        && covers(who.as_ref(), narrow.who.as_ref(), Who::cover)
        && covers(commands.as_ref(), narrow.commands.as_ref(), |a, b| contains_all(a, b))
        && covers(modes.as_ref(), narrow.modes.as_ref(), |a, b| contains_all(a, b))
        && covers(sources.as_ref(), narrow.sources.as_ref(), |a, b| {
            // To deny, one network that is met is enough, so holding them tells nothing.
            earlier.effect == Effect::Allow
                && rule.effect == Effect::Allow
                && b.iter().all(|network| a.iter().any(|wider| wider.holds(network)))
        })
        && covers(times.as_ref(), narrow.times.as_ref(), super::Times::cover)
}

fn covers<T>(wide: Option<&T>, narrow: Option<&T>, cover: impl Fn(&T, &T) -> bool) -> bool {
    match (wide, narrow) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => cover(wide, narrow),
    }
}

fn contains_all<T: PartialEq>(wide: &[T], narrow: &[T]) -> bool {
    narrow.iter().all(|one| wide.contains(one))
}

impl Units {
    fn cover(&self, other: &Self) -> bool {
        let all = |pattern: &super::UnitPattern| pattern.to_string() == "*";
        self.names.iter().any(all)
            || (other.names.iter().all(|name| self.names.iter().any(|it| it.covers(name)))
                && other
                    .slices
                    .iter()
                    .all(|slice| self.slices.iter().any(|it| it.holds(&slice.to_string())))
                && other
                    .containers
                    .iter()
                    .all(|name| self.containers.iter().any(|it| it.covers(name)))
                && (self.own || !other.own))
    }
}

impl Who {
    fn cover(&self, other: &Self) -> bool {
        contains_all(&self.users, &other.users) && contains_all(&self.groups, &other.groups)
    }
}
