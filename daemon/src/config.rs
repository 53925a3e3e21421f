//! `godebugd.toml`: the vendor's defaults, then the site's file over them, then checked.

use crate::hooks::{Event, Hook, HookTable};
use crate::host::selinux;
use godebug_api::rules::engine::{Permit, RedactRules, TranscriptValues};
use godebug_api::{BooleanName, HotLimit, PORTS, Port, Refusal, UnitName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// What a file may say; every key is optional, and an unknown one is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fragment {
    max_ttl: Option<String>,
    max_total: Option<String>,
    first_port: Option<u16>,
    last_port: Option<u16>,
    pause_per_stop: Option<String>,
    max_pause_per_stop: Option<String>,
    pause_per_session: Option<String>,
    selinux_booleans: Option<BTreeMap<BooleanName, bool>>,
    hot_hits_per_second: Option<u32>,
    hot_standing_percent: Option<u32>,
    idle_exit: Option<String>,
    #[serde(default)]
    hook: Vec<HookTable>,
}

/// The settings in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The longest TTL that one request may ask for.
    pub max_ttl: Duration,
    /// The longest that a session may last with all its extensions.
    pub max_total: Duration,
    pub ports: std::ops::RangeInclusive<u16>,
    /// For how long a service may stand at one stop when nobody asks for anything else, the longest that
    /// may be asked for, and for how long in one session.
    pub pause_per_stop: Duration,
    pub max_pause_per_stop: Duration,
    pub pause_per_session: Duration,
    /// SELinux booleans that are turned for as long as a session is open, besides godebug's own.
    pub selinux_booleans: Vec<(BooleanName, bool)>,
    /// Where a breakpoint is hit too often, and turned off.
    pub hot: HotLimit,
    /// Whose values nobody is shown, and what the transcript keeps of the others: a rule says so.
    pub redact: RedactRules,
    pub transcript_values: TranscriptValues,
    /// How long godebugd stays with no session and no caller.
    pub idle_exit: Duration,
    /// The vendor's, then the site's.
    pub hooks: Vec<Hook>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_ttl: Duration::from_secs(8 * 3600),
            max_total: Duration::from_secs(24 * 3600),
            ports: PORTS.0..=PORTS.1,
            pause_per_stop: Duration::from_secs(30),
            max_pause_per_stop: Duration::from_secs(300),
            pause_per_session: Duration::from_secs(600),
            selinux_booleans: Vec::new(),
            hot: HotLimit::default(),
            redact: RedactRules::default(),
            transcript_values: TranscriptValues::None,
            idle_exit: Duration::from_secs(30),
            hooks: Vec::new(),
        }
    }
}

impl Config {
    /// The settings of this host. A file that is not there says nothing.
    ///
    /// # Errors
    /// The file, the line and what is wrong with it: a daemon with half a configuration grants
    /// nothing.
    pub fn load() -> Result<Self, Refusal> {
        let mut config = Self::default();
        for directory in [crate::paths::VENDOR, crate::paths::CONFIGURATION] {
            let path = Path::new(directory).join("godebugd.toml");
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(unusable(&path, &error.to_string())),
            };
            config.apply(&text).map_err(|why| unusable(&path, &why))?;
        }
        Ok(config)
    }

    /// The same where a rule allows less, and what it wants of the gateway.
    #[must_use]
    pub fn under(self, permit: &Permit) -> Self {
        let shorter =
            |own: Duration, rule: Option<Duration>| rule.map_or(own, |rule| rule.min(own));
        let (limits, policy) = (&permit.limits, &permit.policy);
        Self {
            max_ttl: shorter(self.max_ttl, limits.max_ttl),
            max_total: shorter(self.max_total, limits.max_total),
            pause_per_stop: shorter(self.pause_per_stop, policy.pause_per_stop),
            // A rule may let people ask for more than the host does, as well as for less.
            max_pause_per_stop: policy.pause_per_stop.unwrap_or(self.max_pause_per_stop),
            pause_per_session: policy.pause_per_session.unwrap_or(self.pause_per_session),
            hot: HotLimit {
                hits_per_second: policy.hot_hits_per_second.unwrap_or(self.hot.hits_per_second),
                standing_percent: policy.hot_standing_percent.unwrap_or(self.hot.standing_percent),
            },
            redact: policy.redact.clone(),
            transcript_values: policy.transcript_values.unwrap_or(self.transcript_values),
            ..self
        }
    }

    /// Whether there is a hook that takes this unit out of its pool, or puts it back.
    pub fn drains(&self, unit: &UnitName) -> bool {
        let asks = |event| self.hooks.iter().any(|hook| hook.is_for(event, Some(unit)));
        asks(Event::Drain) || asks(Event::Undrain)
    }

    fn apply(&mut self, text: &str) -> Result<(), String> {
        let fragment: Fragment = toml::from_str(text).map_err(|error| error.to_string())?;
        let duration = |key: &str, text: Option<String>, current: Duration| match text {
            None => Ok(current),
            Some(text) => humantime::parse_duration(&text)
                .map_err(|error| format!("{key} = \"{text}\": {error}")),
        };
        self.max_ttl = duration("max_ttl", fragment.max_ttl, self.max_ttl)?;
        self.max_total = duration("max_total", fragment.max_total, self.max_total)?;
        let pauses = (fragment.pause_per_stop, fragment.max_pause_per_stop);
        self.pause_per_stop = duration("pause_per_stop", pauses.0, self.pause_per_stop)?;
        self.max_pause_per_stop =
            duration("max_pause_per_stop", pauses.1, self.max_pause_per_stop)?;
        self.pause_per_session =
            duration("pause_per_session", fragment.pause_per_session, self.pause_per_session)?;
        if let Some(booleans) = fragment.selinux_booleans {
            for name in booleans.keys() {
                selinux::configurable(name).map_err(|why| format!("selinux_booleans: {why}"))?;
            }
            self.selinux_booleans = booleans.into_iter().collect();
        }
        if let Some(hits) = fragment.hot_hits_per_second {
            self.hot.hits_per_second = hits;
        }
        if let Some(percent) = fragment.hot_standing_percent {
            let good = u8::try_from(percent).ok().filter(|percent| (1..=100).contains(percent));
            self.hot.standing_percent =
                good.ok_or_else(|| format!("hot_standing_percent = {percent} is not 1 to 100"))?;
        }
        self.idle_exit = duration("idle_exit", fragment.idle_exit, self.idle_exit)?;
        for hook in fragment.hook {
            self.hooks.push(Hook::try_from(hook).map_err(|error| error.to_string())?);
        }
        let first = fragment.first_port.unwrap_or(*self.ports.start());
        let last = fragment.last_port.unwrap_or(*self.ports.end());
        Port::try_from(first).map_err(|error| format!("first_port: {error}"))?;
        if last < first {
            return Err(format!("last_port = {last} is below first_port = {first}"));
        }
        self.ports = first..=last;
        if self.max_total < self.max_ttl {
            return Err("max_total is shorter than max_ttl".to_owned());
        }
        if self.max_pause_per_stop < self.pause_per_stop {
            return Err("max_pause_per_stop is shorter than pause_per_stop".to_owned());
        }
        Ok(())
    }
}

fn unusable(path: &Path, why: &str) -> Refusal {
    Refusal::host(
        format!("{} cannot be used: {}", path.display(), why.trim().replace('\n', " ")),
        "correct the file; nothing is granted until then",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_overrides_and_a_typo_is_an_error() {
        let mut config = Config::default();
        config.apply("max_ttl = \"2h\"\nfirst_port = 4000\nlast_port = 4001").unwrap();
        assert_eq!(config.max_ttl, Duration::from_secs(7200));
        assert_eq!(config.ports, 4000..=4001);
        for bad in [
            "max_tll = \"2h\"",
            "max_ttl = 2",
            "first_port = 80",
            "first_port = 5000\nlast_port = 4000",
            "max_total = \"1s\"",
            "pause_per_stop = \"1h\"",
            "hot_standing_percent = 0",
            "hot_standing_percent = 101",
            "nonsense",
        ] {
            assert!(Config::default().apply(bad).is_err(), "{bad}");
        }
    }
}
