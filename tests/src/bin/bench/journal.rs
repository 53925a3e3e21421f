//! When a session's steps were, from the host's journal.

use anyhow::{Context, Result};
use godebug_tests::Host;
use serde_json::Value;

/// `MESSAGE_ID`s of systemd: a unit's start has begun, is done.
const STARTING: &str = "7d4958e842da4a758f6c1cdc7b36dcc5";
const STARTED: &str = "39f53479d3a045ac8e11786248231fbf";
/// Of godebugd: the session is allowed, is active, has ended and all was read back.
const ALLOWED: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b02";
const ACTIVE: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b03";
pub(crate) const CLOSED: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b05";

/// The journal entries of one session. Times are milliseconds since the epoch.
pub(crate) struct Entries(Vec<Value>);

impl Entries {
    pub(crate) fn of(host: &Host, id: &str) -> Result<Self> {
        let text = host
            .journal(&format!("-b -o json GODEBUG_SESSION={id} + UNIT=godebug-dlv@{id}.service"))?;
        let entries = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        Ok(Self(entries.context("the journal is not JSON")?))
    }

    pub(crate) fn allowed(&self) -> Result<f64> {
        self.moment("allowed", |entry| entry["MESSAGE_ID"] == ALLOWED)
    }

    pub(crate) fn active(&self) -> Result<f64> {
        self.moment("active", |entry| entry["MESSAGE_ID"] == ACTIVE)
    }

    pub(crate) fn closed(&self) -> Result<f64> {
        self.moment("closed", |entry| entry["MESSAGE_ID"] == CLOSED)
    }

    pub(crate) fn dlv_starting(&self) -> Result<f64> {
        self.moment("dlv starting", |entry| is_dlv(entry) && entry["MESSAGE_ID"] == STARTING)
    }

    pub(crate) fn dlv_started(&self) -> Result<f64> {
        self.moment("dlv started", |entry| is_dlv(entry) && entry["MESSAGE_ID"] == STARTED)
    }

    fn moment(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<f64> {
        let entry = self.0.iter().find(|entry| wanted(entry));
        let entry = entry.with_context(|| format!("the journal does not tell of {what}"))?;
        let field = ["_SOURCE_REALTIME_TIMESTAMP", "__REALTIME_TIMESTAMP"]
            .iter()
            .find_map(|name| entry[name].as_str());
        let microseconds: f64 = field.context("an entry without a time")?.parse()?;
        Ok(microseconds / 1000.0)
    }
}

fn is_dlv(entry: &Value) -> bool {
    entry["UNIT"].as_str().is_some_and(|unit| unit.starts_with("godebug-dlv@"))
}
