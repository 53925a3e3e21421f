//! `[[hook]]` in godebugd.toml: read strictly, since a hook that is misspelt is one that nobody hears.

use crate::kept;
use crate::target::debuggers::trust;
use godebug_api::UnitName;
use godebug_api::rules::engine::UnitPattern;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// What hooks are run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    Requested,
    Approved,
    Denied,
    Opened,
    Closed,
    BreakGlass,
    Stuck,
    /// Before a debugger is attached: take the service out of its pool.
    Drain,
    /// When it is gone again: put it back.
    Undrain,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Opened => "opened",
            Self::Closed => "closed",
            Self::BreakGlass => "break-glass",
            Self::Stuck => "stuck",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        })
    }
}

/// A hook as a file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookTable {
    events: Vec<Event>,
    units: Option<Vec<String>>,
    run: Option<Vec<String>>,
    unit: Option<String>,
    user: Option<String>,
    timeout: Option<String>,
    required: Option<bool>,
}

/// A hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    events: Vec<Event>,
    /// Empty: all.
    units: Vec<UnitPattern>,
    pub(super) what: What,
    pub(super) timeout: Duration,
    /// Its failure refuses a session (drain), or keeps one from being over (undrain).
    pub required: bool,
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Program and arguments; as nobody in particular where no user is named.
    Program { command: Vec<String>, user: Option<String> },
    /// A template of systemd's, started with an instance of its own.
    Template(String),
}

/// What is wrong with a hook.
#[derive(Debug, thiserror::Error)]
#[error("a [[hook]] {0}")]
pub struct HookError(String);

impl Hook {
    /// Whether it could be run, as far as that can be told before.
    ///
    /// # Errors
    /// Why not.
    pub fn usable(&self) -> Result<(), String> {
        match &self.what {
            What::Program { command, .. } => {
                let program = command.first().map(Path::new).unwrap_or(Path::new(""));
                trust::check(program, kept::ROOT).map(drop)
            }
            // systemd says whether there is such a unit when it is started.
            What::Template(_) => Ok(()),
        }
    }

    /// Whether it is run for this event of this unit.
    pub fn is_for(&self, event: Event, unit: Option<&UnitName>) -> bool {
        let fits = |unit: &UnitName| self.units.iter().any(|it| it.matches(unit.as_str()));
        self.events.contains(&event) && (self.units.is_empty() || unit.is_some_and(fits))
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Program { command, .. } => {
                f.write_str(command.first().map_or("", String::as_str))
            }
            What::Template(unit) => f.write_str(unit),
        }
    }
}

impl TryFrom<HookTable> for Hook {
    type Error = HookError;

    fn try_from(table: HookTable) -> Result<Self, HookError> {
        const PATIENCE: Duration = Duration::from_secs(10);
        let HookTable { events, units, run, unit, user, timeout, required } = table;
        let wrong = |why: &str| Err(HookError(why.to_owned()));
        if events.is_empty() {
            return wrong("has no events: it would never be run");
        }
        let what = match (run, unit) {
            (Some(command), None) => program(command, user)?,
            (None, Some(_)) if user.is_some() => {
                return wrong("with a unit has a user: the unit itself says as whom it runs");
            }
            (None, Some(unit)) => template(unit)?,
            _ => return wrong("needs either run = [\"/path\", …] or unit = \"NAME@.service\""),
        };
        let asked = events.iter().all(|event| matches!(event, Event::Drain | Event::Undrain));
        if required == Some(true) && !asked {
            return wrong("can be required for drain and undrain only");
        }
        let timeout = match timeout {
            None => PATIENCE,
            Some(text) => humantime::parse_duration(&text)
                .ok()
                .filter(|time| (1..=300).contains(&time.as_secs()))
                .ok_or_else(|| HookError("has a timeout that is not 1s to 5m".to_owned()))?,
        };
        let units = units.unwrap_or_default();
        let units = units.iter().map(|unit| unit.parse()).collect::<Result<_, _>>();
        let units = units.map_err(|error: godebug_api::WordError| HookError(error.to_string()))?;
        Ok(Self { events, units, what, timeout, required: required.unwrap_or(false) })
    }
}

fn program(command: Vec<String>, user: Option<String>) -> Result<What, HookError> {
    let path = command.first().map(String::as_str).unwrap_or_default();
    let harmless = |text: &String| !text.chars().any(char::is_control);
    if !path.starts_with('/') || !command.iter().chain(&user).all(harmless) {
        return Err(HookError(
            "runs no program with its whole path: run = [\"/path\", …]".to_owned(),
        ));
    }
    Ok(What::Program { command, user })
}

fn template(unit: String) -> Result<What, HookError> {
    let instance = unit.replace("@.service", "@0.service");
    if instance == unit || instance.parse::<UnitName>().is_err() {
        let why = format!("has the unit {unit:?}, which is no template such as NAME@.service");
        return Err(HookError(why));
    }
    Ok(What::Template(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(text: &str) -> Result<Hook, String> {
        let table: HookTable = toml::from_str(text).map_err(|error| error.to_string())?;
        table.try_into().map_err(|error: HookError| error.to_string())
    }

    #[test]
    fn a_hook_is_for_its_events_and_units() {
        let all = hook("events = [\"opened\"]\nrun = [\"/bin/true\"]").unwrap();
        let shop = hook(
            "events = [\"drain\", \"undrain\"]\nunits = [\"shop-*\"]\n\
                         unit = \"pool@.service\"\nrequired = true\ntimeout = \"30s\"",
        )
        .unwrap();
        let unit = |text: &str| -> UnitName { text.parse().unwrap() };
        assert!(all.is_for(Event::Opened, Some(&unit("shop"))) && all.is_for(Event::Opened, None));
        assert!(!all.is_for(Event::Closed, None));
        assert!(shop.is_for(Event::Drain, Some(&unit("shop-eu"))));
        assert!(!shop.is_for(Event::Drain, Some(&unit("web"))) && !shop.is_for(Event::Drain, None));
        assert_eq!((shop.timeout.as_secs(), shop.required), (30, true));
    }

    #[test]
    fn what_would_not_be_run_as_it_was_meant_is_refused() {
        for (text, part) in [
            ("events = []\nrun = [\"/x\"]", "no events"),
            ("events = [\"opend\"]\nrun = [\"/x\"]", "opend"),
            ("events = [\"opened\"]", "needs either"),
            ("events = [\"opened\"]\nrun = [\"/x\"]\nunit = \"a@.service\"", "needs either"),
            ("events = [\"opened\"]\nrun = [\"x\"]", "whole path"),
            ("events = [\"opened\"]\nrun = []", "whole path"),
            ("events = [\"opened\"]\nunit = \"a.service\"", "no template"),
            ("events = [\"opened\"]\nunit = \"../a@.service\"", "no template"),
            ("events = [\"opened\"]\nunit = \"a@.service\"\nuser = \"x\"", "as whom it runs"),
            ("events = [\"opened\"]\nrun = [\"/x\"]\nrequired = true", "drain and undrain only"),
            ("events = [\"opened\"]\nrun = [\"/x\"]\ntimeout = \"1h\"", "1s to 5m"),
            ("events = [\"opened\"]\nrun = [\"/x\"]\nunits = [\"a b\"]", "contains ' '"),
            ("events = [\"opened\"]\nrn = [\"/x\"]", "rn"),
        ] {
            let why = hook(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
