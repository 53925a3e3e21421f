//! Fault points of a session's life, in a test build only (feature `fault-points`): before and after each
//! write of a ledger and each thing that is done to the host.

use crate::engine::{End, Host};
use crate::ledger::Ledger;
use godebug_api::Refusal;
use godebug_core::grant::Grant;
use godebug_core::ledger::{Opened, Record, Replay};
use godebug_image::points::reach;

/// The points before and after something that is done by the time this is dropped.
pub struct Around {
    layer: &'static str,
    what: String,
}

impl Around {
    pub fn new(layer: &'static str, what: impl Into<String>) -> Self {
        let what = what.into();
        reach(&format!("{layer}.before.{what}"));
        Self { layer, what }
    }

    /// Around one write of a ledger.
    pub fn write(ledger: &Ledger, record: &Record) -> Self {
        // Dropping it would give up the lock that the writer holds.
        let ledger = std::mem::ManuallyDrop::new(ledger.without_lock());
        let replay = ledger.replay().ok().flatten();
        Self::new("ledger", record_name(record, replay.as_ref()))
    }
}

impl Drop for Around {
    fn drop(&mut self) {
        reach(&format!("{}.after.{}", self.layer, self.what));
    }
}

/// What is written, told from what is written of the same kind at other times.
fn record_name(record: &Record, replay: Option<&Replay>) -> String {
    let grant_of = |step: u32| {
        let outstanding = replay.map(|replay| replay.outstanding.as_slice()).unwrap_or_default();
        outstanding.iter().find(|(known, _)| *known == step).map(|(_, grant)| grant_name(grant))
    };
    let of_step = |step: &u32| grant_of(*step).unwrap_or_else(|| format!("step-{step}"));
    match record {
        Record::Opened { .. } => "opened".to_owned(),
        Record::Intent { grant, .. } => format!("intent:{}", grant_name(grant)),
        Record::Done { step } => format!("done:{}", of_step(step)),
        Record::Undone { step } => format!("undone:{}", of_step(step)),
        Record::Deadline { .. } => match replay {
            Some(Replay { active: Some(_), .. }) => "deadline:extended",
            Some(Replay { deadline: Some(_), .. }) => "deadline:final",
            _ => "deadline:opening",
        }
        .to_owned(),
        Record::Active { .. } => "active".to_owned(),
        Record::Froze { .. } => "froze".to_owned(),
        Record::Held { .. } => "held".to_owned(),
        Record::Closing { .. } => "closing".to_owned(),
        Record::Stuck { .. } => "stuck".to_owned(),
    }
}

/// The kind of a grant, and for a dead man its generation.
fn grant_name(grant: &Grant) -> String {
    match grant {
        Grant::DeadMan { unit } => {
            let rest = unit.trim_end_matches(".timer").rsplit_once('@').map_or("", |(_, id)| id);
            let generation = rest.split_once('-').map_or("0", |(_, generation)| generation);
            format!("dead-man-{generation}")
        }
        Grant::Fence { .. } => "fence".to_owned(),
        Grant::Guard { .. } => "guard".to_owned(),
        Grant::Launcher { .. } => "launcher".to_owned(),
        Grant::Started { .. } => "started".to_owned(),
        Grant::Debugger { .. } => "debugger".to_owned(),
        Grant::Image { .. } => "image".to_owned(),
        Grant::GatewayProfile { .. } => "gateway-profile".to_owned(),
        Grant::Boolean { name, .. } => format!("boolean-{name}"),
        Grant::Gateway { .. } => "gateway".to_owned(),
        Grant::FirewalldRule { .. } => "firewalld-rule".to_owned(),
        Grant::Drained => "drained".to_owned(),
    }
}

/// A host with a point before and after everything that is done to it.
pub struct Watched<'a, H>(pub &'a H);

impl<H: Host> Host for Watched<'_, H> {
    type Material = H::Material;

    async fn take(&self, grant: &Grant, material: &H::Material) -> Result<(), Refusal> {
        let point = format!("take:{}", grant_name(grant));
        around(&point, self.0.take(grant, material)).await
    }

    async fn cut(&self, session: &Opened) {
        around("cut", self.0.cut(session)).await;
    }

    async fn undo(&self, session: &Opened, grant: &Grant) -> Result<(), String> {
        let point = format!("undo:{}", grant_name(grant));
        around(&point, self.0.undo(session, grant)).await
    }

    async fn read_back(&self, session: &Opened, grant: &Grant) -> Vec<(String, Option<String>)> {
        let point = format!("read-back:{}", grant_name(grant));
        around(&point, self.0.read_back(session, grant)).await
    }

    fn record_end(&self, session: &Opened, end: &End) {
        let _around = Around::new("host", "record-end");
        self.0.record_end(session, end);
    }
}

/// An act that is given up half-way never reaches the point after it.
async fn around<T>(what: &str, act: impl Future<Output = T>) -> T {
    reach(&format!("host.before.{what}"));
    let done = act.await;
    reach(&format!("host.after.{what}"));
    done
}
