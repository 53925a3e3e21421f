//! The record of a session's grants, and how it is read after a crash.
//!
//! One JSON document a line, appended and synced before the act it announces. A torn last line is
//! what a crash while writing leaves, and means that its act has not begun; anything else that does
//! not parse means that the file was damaged, and nothing is guessed from it.

use crate::TargetName;
use crate::consent::{Approval, Login};
use crate::deadline::Deadline;
use crate::dump::Dump;
use crate::forecast::Forecast;
use crate::grant::{Grant, debugger_unit, image_unit};
use crate::pause::PauseBudget;
use crate::program::Program;
use crate::state::CloseReason;
use crate::words::{
    Absence, Cidr, InvocationId, Mode, Pid, Port, Reason, SessionId, StartAt, UnitName,
};
use serde::{Deserialize, Serialize};

/// What a session is about: the first record of its ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opened {
    pub id: SessionId,
    pub unit: UnitName,
    /// The container or the user's unit in it that is debugged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    pub invocation: Option<InvocationId>,
    pub pid: Pid,
    /// The target's start, in clock ticks since boot (field 22 of /proc/PID/stat): with the PID it
    /// names one process for ever.
    pub start_ticks: u64,
    pub mode: Mode,
    pub uid: u32,
    pub user: String,
    /// The bus name whose disappearance ends the session; `None` when it was detached.
    pub held_by: Option<String>,
    /// Seconds for which whoever holds it may be away, and hold it again.
    #[serde(default, skip_serializing_if = "Absence::is_none")]
    pub absence: Absence,
    pub reason: Option<Reason>,
    pub sources: Vec<Cidr>,
    /// `None` for a session that takes images and has no gateway.
    pub port: Option<Port>,
    pub endpoint_host: Option<String>,
    /// RFC 3339, for people.
    pub opened_at: String,
    /// Seconds.
    pub ttl_seconds: u64,
    /// No extension reaches beyond this.
    pub at_most_until: Deadline,
    pub debugger: String,
    pub go_version: String,
    /// `WatchdogSec=` of the target's unit in microseconds; `None` without one.
    pub watchdog_usec: Option<u64>,
    /// The target's unit had not finished its start.
    pub target_is_starting: bool,
    /// For how long attaching was expected to freeze the target.
    #[serde(default)]
    pub freeze_forecast_ms: Option<Forecast>,
    /// For how long the target may stand.
    #[serde(default)]
    pub pause: Option<PauseBudget>,
    /// The rule that allowed it, with its place.
    #[serde(default)]
    pub rule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    #[serde(default, skip_serializing_if = "Login::is_unknown")]
    pub login: Login,
    /// Whose consent the rule wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// The target was started for the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<StartAt>,
    /// There is no process: dlv reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<Dump>,
    /// It was opened without the consent that the rule wants.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
}

impl Opened {
    /// Whether the session has a live debugger, which a gateway lets clients reach. One without
    /// takes images, and answers through a pipe.
    pub fn has_gateway(&self) -> bool {
        self.port.is_some()
    }

    /// Whether the target is only ever copied: no dlv attaches to it.
    pub fn takes_images(&self) -> bool {
        self.mode == Mode::Observe && self.dump.is_none()
    }

    /// The user whose own manager runs the target, by number: that manager is the unit's instance.
    pub fn users_manager(&self) -> Option<u32> {
        self.target.as_ref()?.owner()?;
        self.unit.as_str().strip_prefix("user@")?.strip_suffix(".service")?.parse().ok()
    }

    /// The unit of whatever traces the target.
    pub fn tracer_unit(&self) -> String {
        if self.takes_images() { image_unit(&self.id) } else { debugger_unit(&self.id) }
    }
}

/// One line of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    Opened {
        version: u32,
        session: Box<Opened>,
    },
    /// The grant is about to be taken.
    Intent {
        step: u32,
        grant: Grant,
    },
    /// It was taken.
    Done {
        step: u32,
    },
    /// It was given back, or was not there any more.
    Undone {
        step: u32,
    },
    /// From now on this is the end of the session.
    Deadline {
        deadline: Deadline,
    },
    Active {
        endpoint: String,
        /// For how long attaching froze the target; `None` when it could not be measured.
        #[serde(default)]
        freeze_ms: Option<u64>,
    },
    /// An attaching that came to nothing has frozen the target for so long.
    Froze {
        freeze_ms: u64,
    },
    /// Whoever held it was away, and holds it by this bus name now.
    Held {
        by: String,
    },
    Closing {
        reason: CloseReason,
        detail: String,
    },
    /// An attempt to end it has left this.
    Stuck {
        what: Vec<String>,
    },
}

impl Record {
    /// The record as one line, line break included.
    ///
    /// # Errors
    /// None of the types in a record can fail to serialise; the error is passed on all the same.
    pub fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The version of the format that this program writes, and the only one it reads.
pub const VERSION: u32 = 1;

/// What a ledger says about its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub opened: Opened,
    /// Every grant with an intent and no undone record, in the order they were announced.
    pub outstanding: Vec<(u32, Grant)>,
    /// Every grant that was ever announced: what the proof reads back.
    pub announced: Vec<(u32, Grant)>,
    pub next_step: u32,
    pub deadline: Option<Deadline>,
    /// The endpoint, once the session was active.
    pub active: Option<String>,
    pub freeze_ms: Option<u64>,
    pub closing: Option<(CloseReason, String)>,
    /// What the last attempt to end it has left.
    pub stuck: Option<Vec<String>>,
}

/// Why a ledger could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    #[error("line {0} is damaged")]
    Damaged(usize),
    #[error("the ledger has version {0}, this program reads version {VERSION}")]
    Version(u32),
    #[error("line {0} does not follow from the lines before it")]
    Order(usize),
}

/// Reads a ledger back. `Ok(None)` when not even its first record was completed: then nothing was
/// ever taken.
pub fn replay(text: &[u8]) -> Result<Option<Replay>, LedgerError> {
    let mut replayed: Option<Replay> = None;
    for (index, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        let Some(line_text) = line.strip_suffix(b"\n") else {
            break; // torn: the act it announces has not begun
        };
        let record: Record =
            serde_json::from_slice(line_text).map_err(|_| LedgerError::Damaged(index + 1))?;
        match (&mut replayed, record) {
            (None, Record::Opened { version: VERSION, session }) => {
                replayed = Some(Replay {
                    opened: *session,
                    outstanding: Vec::new(),
                    announced: Vec::new(),
                    next_step: 0,
                    deadline: None,
                    active: None,
                    freeze_ms: None,
                    closing: None,
                    stuck: None,
                });
            }
            (None, Record::Opened { version, .. }) => return Err(LedgerError::Version(version)),
            (Some(replay), record) => {
                if !apply(replay, &record) {
                    return Err(LedgerError::Order(index + 1));
                }
            }
            (None, _) => return Err(LedgerError::Order(index + 1)),
        }
    }
    Ok(replayed)
}

/// What the session is about, from a ledger that need not be whole behind its first line.
pub fn first_record(text: &[u8]) -> Option<Opened> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    match serde_json::from_slice(&text[..end]) {
        Ok(Record::Opened { version: VERSION, session }) => Some(*session),
        _ => None,
    }
}

/// Adds one record to what is known; `false` when it cannot follow.
fn apply(replay: &mut Replay, record: &Record) -> bool {
    match record {
        Record::Opened { .. } => return false,
        Record::Intent { step, grant } => {
            if *step < replay.next_step {
                return false;
            }
            replay.next_step = step + 1;
            replay.outstanding.push((*step, grant.clone()));
            replay.announced.push((*step, grant.clone()));
        }
        Record::Done { step } => return *step < replay.next_step,
        Record::Undone { step } => replay.outstanding.retain(|(known, _)| known != step),
        Record::Deadline { deadline } => replay.deadline = Some(*deadline),
        Record::Active { endpoint, freeze_ms } => {
            replay.active = Some(endpoint.clone());
            replay.freeze_ms = *freeze_ms;
        }
        Record::Froze { freeze_ms } => replay.freeze_ms = Some(*freeze_ms),
        Record::Held { by } => replay.opened.held_by = Some(by.clone()),
        Record::Closing { reason, detail } => {
            // The first reason is the true one; a retry must not overwrite it.
            replay.closing.get_or_insert_with(|| (*reason, detail.clone()));
        }
        Record::Stuck { what } => replay.stuck = Some(what.clone()),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn opened() -> Record {
        let session = Opened {
            id: "0000000a".parse().unwrap(),
            unit: "shop".parse().unwrap(),
            target: None,
            invocation: None,
            pid: 77.try_into().unwrap(),
            start_ticks: 5,
            mode: Mode::Modify,
            uid: 0,
            user: "root".to_owned(),
            held_by: None,
            absence: Absence::default(),
            reason: None,
            sources: vec![Cidr::LOOPBACK_4],
            port: Some(2345.try_into().unwrap()),
            endpoint_host: None,
            opened_at: "2026-01-01T00:00:00Z".to_owned(),
            ttl_seconds: 60,
            at_most_until: Deadline { wall_ms: 9, boot_ms: 9 },
            debugger: "/usr/bin/dlv".to_owned(),
            go_version: "go1.24".to_owned(),
            watchdog_usec: None,
            target_is_starting: false,
            freeze_forecast_ms: None,
            pause: None,
            rule: None,
            program: None,
            login: Login::default(),
            approvals: Vec::new(),
            exec: None,
            dump: None,
            break_glass: false,
        };
        Record::Opened { version: VERSION, session: Box::new(session) }
    }

    fn timer() -> Grant {
        Grant::DeadMan { unit: "t.timer".to_owned() }
    }

    fn text(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(|record| record.to_line().unwrap()).collect()
    }

    #[test]
    fn an_intent_is_outstanding_until_it_is_undone() {
        let mut records = vec![opened(), Record::Intent { step: 0, grant: timer() }];
        let read = replay(&text(&records)).unwrap().unwrap();
        assert_eq!(read.outstanding, [(0, timer())]);
        records.push(Record::Done { step: 0 });
        records.push(Record::Undone { step: 0 });
        records.push(Record::Undone { step: 0 });
        let read = replay(&text(&records)).unwrap().unwrap();
        assert!(read.outstanding.is_empty());
        assert_eq!(read.next_step, 1);
    }

    #[test]
    fn damage_is_an_error_but_a_torn_end_is_not() {
        let whole = text(&[opened(), Record::Intent { step: 0, grant: timer() }]);
        let torn = &whole[..whole.len() - 4];
        assert!(replay(torn).unwrap().unwrap().outstanding.is_empty());
        let mut damaged = whole.clone();
        damaged[3] = b'#';
        assert_eq!(replay(&damaged), Err(LedgerError::Damaged(1)));
        assert_eq!(first_record(&damaged), None);
        assert_eq!(first_record(torn).unwrap().pid, 77.try_into().unwrap());
        assert_eq!(replay(b""), Ok(None));
    }

    #[test]
    fn steps_cannot_repeat_and_nothing_comes_before_the_first_record() {
        let intent = Record::Intent { step: 0, grant: timer() };
        assert_eq!(replay(&text(std::slice::from_ref(&intent))), Err(LedgerError::Order(1)));
        assert_eq!(replay(&text(&[opened(), intent.clone(), intent])), Err(LedgerError::Order(3)));
    }

    #[test]
    fn a_ledger_of_before_freezes_were_measured_is_read() {
        let line = b"{\"record\":\"active\",\"endpoint\":\"h:1\"}\n";
        let read = replay(&[text(&[opened()]).as_slice(), line].concat()).unwrap().unwrap();
        assert_eq!((read.active.as_deref(), read.freeze_ms), (Some("h:1"), None));
    }

    proptest! {
        #[test]
        fn no_cut_of_a_ledger_forgets_an_announced_grant(steps in 1u32..20, cut: prop::sample::Index) {
            let mut records = vec![opened()];
            for step in 0..steps {
                records.push(Record::Intent { step, grant: timer() });
            }
            let whole = text(&records);
            let cut = cut.index(whole.len());
            let complete = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
            let read = replay(&whole[..cut]).unwrap();
            prop_assert_eq!(read.map_or(0, |read| read.outstanding.len() + 1), complete);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = replay(&bytes);
        }
    }
}
