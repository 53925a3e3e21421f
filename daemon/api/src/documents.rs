//! The documents on the bus: JSON, the same that `--json` prints and the audit log keeps, so that
//! there is one description of a session and not three.

use crate::image::PauseLimit;
use godebug_core::plan::Plan;
use godebug_core::{
    Absence, Approval, Cidr, CloseReason, Dump, Forecast, FreezeLimit, GuestName, ImageName, Login,
    Mode, Part, PauseBudget, Pid, Reason, Refusal, SessionId, StartAt, State, TargetName, Ttl,
    UnitName,
};
use serde::{Deserialize, Serialize};

/// What a person asks for. The unit is an argument of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    pub ttl: Ttl,
    pub mode: Mode,
    #[serde(default)]
    pub reason: Option<Reason>,
    /// Where clients may come from; empty means from this host only.
    #[serde(default)]
    pub from: Vec<Cidr>,
    /// The certificate signing request of the client's key, PEM. Only its public key is used.
    /// Empty for a plan, which issues nothing.
    #[serde(default)]
    pub csr: String,
    /// Which process, for a unit that has several.
    #[serde(default)]
    pub pid: Option<Pid>,
    /// End the session when the asker leaves the bus.
    #[serde(default)]
    pub hold: bool,
    /// Seconds for which the asker may be away from the bus before that, and come back.
    #[serde(default, rename = "absence_s", skip_serializing_if = "Absence::is_none")]
    pub absence: Absence,
    /// The name or address by which clients reach this host, if the asker knows it.
    #[serde(default)]
    pub endpoint_host: Option<String>,
    /// A file with the target's debug information comes along as a file descriptor.
    #[serde(default)]
    pub symbols: bool,
    /// The longest freeze, in milliseconds, that attaching may be expected to take.
    #[serde(default, rename = "max_freeze_ms", skip_serializing_if = "FreezeLimit::is_default")]
    pub max_freeze: FreezeLimit,
    /// Whatever the forecast says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_freeze: bool,
    /// For how long the target may stand at one stop; what the host says without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Ttl>,
    /// Without the consent of others that the rule wants, as an alarm.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    /// Start the unit for it, or start it again, and catch its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<StartAt>,
    /// Not the unit's process, but what is kept of one that crashed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<DumpRequest>,
    /// For how long one image may stop the target, in mode observe.
    #[serde(default, rename = "max_pause_ms", skip_serializing_if = "PauseLimit::is_default")]
    pub max_pause: PauseLimit,
    /// Where in the unit the target is. Filled in by godebugd; whatever a client says is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
}

/// A session on a core dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpRequest {
    /// Of the process that had this number; without it the latest.
    #[serde(default)]
    pub pid: Option<Pid>,
    /// Not a dump, but an image that a session has kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// The program that crashed comes along as a file descriptor, after the symbols if there are any.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// A core dump as `core --list` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptDump {
    pub unit: UnitName,
    #[serde(flatten)]
    pub dump: Dump,
    /// Whose process it was.
    pub uid: u32,
    /// Why it cannot be read; `None` when it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// Until when it is kept, where that is known: RFC 3339 in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<String>,
}

/// What whoever has asked brings along when the session is opened that others have consented to. Of
/// the request all else stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    pub csr: String,
    #[serde(default)]
    pub hold: bool,
    #[serde(default, rename = "absence_s", skip_serializing_if = "Absence::is_none")]
    pub absence: Absence,
    #[serde(default)]
    pub endpoint_host: Option<String>,
    #[serde(default)]
    pub symbols: bool,
    #[serde(default, rename = "max_freeze_ms", skip_serializing_if = "FreezeLimit::is_default")]
    pub max_freeze: FreezeLimit,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accept_freeze: bool,
}

impl ClaimRequest {
    /// What is asked for in a request, with what is brought along for it.
    pub fn of(request: &OpenRequest) -> Self {
        Self {
            csr: request.csr.clone(),
            hold: request.hold,
            absence: request.absence,
            endpoint_host: request.endpoint_host.clone(),
            symbols: request.symbols,
            max_freeze: request.max_freeze,
            accept_freeze: request.accept_freeze,
        }
    }

    /// The request as it was consented to, to be opened with what is brought along.
    pub fn put_into(self, consented: OpenRequest) -> OpenRequest {
        let Self { csr, hold, absence, endpoint_host, symbols, max_freeze, accept_freeze } = self;
        let endpoint_host = endpoint_host.or_else(|| consented.endpoint_host.clone());
        let mut from = consented.from.clone();
        // Whoever holds it in the foreground is a client on the host itself, which every rule lets in.
        if hold && !from.is_empty() {
            from.push(Cidr::LOOPBACK_4);
        }
        let from = Cidr::without_overlaps(&from);
        OpenRequest {
            csr,
            hold,
            absence,
            endpoint_host,
            symbols,
            max_freeze,
            accept_freeze,
            from,
            ..consented
        }
    }
}

/// Somebody is to be let into a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareRequest {
    pub name: GuestName,
    /// They may only watch.
    pub observe: bool,
    /// The certificate signing request of their key, PEM.
    pub csr: String,
    /// The name or address by which they reach this host, where it is another than the owner's.
    #[serde(default)]
    pub endpoint_host: Option<String>,
}

/// A session as `list`, `show` and `attach` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    pub id: SessionId,
    pub unit: UnitName,
    /// The container or the user's unit in it that is debugged, as it can be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    pub state: State,
    pub mode: Mode,
    pub pid: Pid,
    /// `HOST:PORT` of the gateway; empty before the session is active.
    pub endpoint: String,
    /// RFC 3339 in UTC.
    pub opened_at: String,
    /// RFC 3339 in UTC; `None` before the session is active, since its time has not begun.
    pub expires_at: Option<String>,
    pub opened_by: String,
    pub opened_by_uid: u32,
    pub reason: Option<Reason>,
    pub sources: Vec<Cidr>,
    pub debugger: String,
    pub go_version: String,
    /// For how long attaching was expected to freeze the target, at most.
    #[serde(default)]
    pub freeze_forecast_ms: Option<Forecast>,
    /// For how long it did; `None` before, and when it could not be measured.
    #[serde(default)]
    pub freeze_ms: Option<u64>,
    /// For how long the target may stand.
    #[serde(default)]
    pub pause: Option<PauseBudget>,
    /// How the transcript ends, once the session has.
    #[serde(default)]
    pub transcript: Option<TranscriptEnd>,
    /// The rule that allowed it, with its place; `None` of a session from before there were rules.
    #[serde(default)]
    pub rule: Option<String>,
    /// The time to live that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    #[serde(default, skip_serializing_if = "Login::is_unknown")]
    pub login: Login,
    /// Who has consented to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// What it waits for, while it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<WaitsFor>,
    /// The unit was started for it, and its process caught there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<StartAt>,
    /// It is about this, and not about a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<Dump>,
    /// It was opened without the consent that the rule wants.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub break_glass: bool,
    pub close_reason: Option<CloseReason>,
    /// A sentence about the end, where the reason alone does not tell.
    pub close_detail: Option<String>,
    /// What could not be given back, with the reason; empty unless the session is stuck.
    #[serde(default)]
    pub stuck: Vec<String>,
    /// What was read back at the end, with times.
    #[serde(default)]
    pub proof: Vec<Proof>,
    /// Filled in by godebugctl only: the ticket's file, or its text when it was not written to one.
    #[serde(default)]
    pub ticket: Option<String>,
}

/// Whose consent a request waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitsFor {
    /// Of how many people.
    pub approvals: u32,
    /// Of whom, in words.
    pub by: String,
    /// RFC 3339 in UTC: until then it must be approved, and taken up by whoever has asked.
    pub claim_by: String,
}

impl SessionInfo {
    /// What is debugged, as people name it.
    pub fn target_name(&self) -> TargetName {
        self.target.clone().unwrap_or_else(|| TargetName::Unit(self.unit.clone()))
    }

    /// Whether it waits for nobody but whoever has asked.
    pub fn is_approved(&self) -> bool {
        let given = u32::try_from(self.approvals.len()).unwrap_or(u32::MAX);
        self.waits_for.as_ref().is_some_and(|wanted| given >= wanted.approvals)
    }
}

/// The end of a session's transcript, which makes it and the audit record hang together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptEnd {
    pub lines: u64,
    /// Of the last line, in the chain.
    pub hash: String,
    /// For how long the target stood in all, and at the longest stop; `None` when the gateway had no
    /// time to say so.
    pub stood_ms: Option<u64>,
    pub longest_stop_ms: Option<u64>,
    /// How often the target was let go because its time was up.
    pub let_go: Option<u64>,
}

/// A part of a session's transcript.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptPage {
    /// As they stand in the file, so that their chain can be checked.
    pub lines: Vec<String>,
    /// Where the next part begins; no further when there is none yet.
    pub next: u64,
}

/// One grant that was read back after it was given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What was looked at.
    pub what: String,
    pub gone: bool,
    /// What was found, when it was not gone.
    #[serde(default)]
    pub found: Option<String>,
    /// Milliseconds from the beginning of the end to this reading.
    pub after_ms: u64,
}

/// What `open` answers: an open session, or a request that waits for the consent of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OpenAnswer {
    Opened(Box<Opened>),
    Waits { waits: Box<SessionInfo> },
}

/// What `open` answers when the session is open: the session, and what the client needs besides its own key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    pub session: SessionInfo,
    /// PEM.
    pub ca: String,
    /// PEM.
    pub certificate: String,
    pub server_name: String,
    pub host: String,
    pub port: u16,
}

/// What `attach --dry-run` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDocument {
    pub unit: UnitName,
    pub pid: Pid,
    pub user: String,
    pub mode: Mode,
    pub ttl: Ttl,
    pub port: u16,
    pub sources: Vec<Cidr>,
    pub go_version: String,
    pub debugger: String,
    pub firewall: String,
    /// For how long attaching will freeze the target at most; `None` when that cannot be told: a
    /// plan does not look into a symbols file.
    #[serde(default)]
    pub freeze_forecast_ms: Option<Forecast>,
    /// For how long the target may stand.
    #[serde(default)]
    pub pause: Option<PauseBudget>,
    /// The rule that allows it, with its place.
    #[serde(default)]
    pub rule: Option<String>,
    pub plan: Plan,
    pub warnings: Vec<String>,
}

/// What `inspect` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    pub unit: UnitName,
    /// The container or the user's unit in it, as it can be named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetName>,
    pub pid: Pid,
    /// Other Go programs in it, as `PID (NAME)`, where nobody has chosen one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<String>,
    pub user: String,
    pub executable: String,
    /// The file on disk was replaced or removed since the process started.
    pub deleted: bool,
    pub go_version: String,
    pub module: Option<String>,
    pub module_version: Option<String>,
    pub vcs_revision: Option<String>,
    pub vcs_time: Option<String>,
    pub vcs_modified: Option<bool>,
    /// `-ldflags`, `-gcflags`, `CGO_ENABLED`, `GOARCH` and so on, as the build recorded them.
    pub build_settings: Vec<(String, String)>,
    pub trimpath: bool,
    #[serde(default)]
    pub sources: Sources,
    pub optimised: bool,
    pub pie: bool,
    pub cgo: bool,
    pub debug_information: DebugInformation,
    /// Its size after decompression.
    #[serde(default)]
    pub debug_bytes: u64,
    /// For how long attaching will freeze the target at most; `None` without debug information.
    #[serde(default)]
    pub freeze_forecast_ms: Option<Forecast>,
    pub build_id: Option<String>,
    /// The dlv that fits, or why none does.
    pub debugger: Option<String>,
    pub debugger_refusal: Option<String>,
    pub traced_by: Option<String>,
    /// `WatchdogSec=` of the unit in milliseconds; `None` when it has none.
    pub watchdog_ms: Option<u64>,
    /// What would make `attach` refuse, if anything.
    pub refusal: Option<Refusal>,
    /// What an image would do to it.
    #[serde(default)]
    pub image: Option<ImageForecast>,
}

/// How a program was built, as far as whoever has its source needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInfo {
    pub go_version: String,
    pub module: Option<String>,
    pub vcs_revision: Option<String>,
    pub vcs_modified: Option<bool>,
    pub trimpath: bool,
    pub sources: Sources,
}

impl From<Inspection> for BuildInfo {
    fn from(inspection: Inspection) -> Self {
        Self {
            go_version: inspection.go_version,
            module: inspection.module,
            vcs_revision: inspection.vcs_revision,
            vcs_modified: inspection.vcs_modified,
            trimpath: inspection.trimpath,
            sources: inspection.sources,
        }
    }
}

/// Where a program's sources were when it was built. What is not known is left out; with `-trimpath` there are no
/// folders but the names of modules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// The folder of the main module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// GOROOT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub go: Option<String>,
    /// GOMODCACHE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_cache: Option<String>,
    /// With `-trimpath`, the other modules that the program's files are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<SourceModule>,
}

/// A module that a program was built from, besides its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceModule {
    /// `PATH@VERSION`, with which the paths of its files begin.
    pub name: String,
    /// What `replace` in go.mod has put in its place: `PATH@VERSION`, or a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
}

/// What taking an image does to a target, as far as can be told before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageForecast {
    /// For how long it stops the target.
    pub pause_ms: Forecast,
    /// Of the target's memory, of which the image is a copy.
    pub bytes: u64,
    /// Why it stands for as long as its memory is read; nothing where it is made to fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
    /// Why none would be taken, unless more is allowed.
    pub refusal: Option<Refusal>,
}

/// What the executable holds for a debugger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DebugInformation {
    None,
    Dwarf4,
    Dwarf5,
}

/// What `doctor` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    pub good: bool,
    pub checks: Vec<Check>,
}

/// One thing that doctor looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when it is good.
    #[serde(default)]
    pub remedy: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Good,
    /// It works, but somebody should know.
    Warning,
    /// `attach` will refuse.
    Bad,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_changes_what_is_brought_along_and_nothing_that_was_consented_to() {
        let asked: OpenRequest = serde_json::from_str(
            r#"{"ttl":"5m","mode":"step","reason":"slow","from":["10.0.0.1"],"pid":77,"pause":"1m"}"#,
        )
        .unwrap();
        let claim: ClaimRequest =
            serde_json::from_str(r#"{"csr":"c","hold":true,"accept_freeze":true}"#).unwrap();
        let opened = claim.put_into(asked.clone());
        let sources: Vec<String> = opened.from.iter().map(ToString::to_string).collect();
        assert_eq!(sources, ["10.0.0.1/32", "127.0.0.1/32"]);
        assert!(opened.hold && opened.accept_freeze && opened.csr == "c");
        let same = OpenRequest { csr: String::new(), hold: false, accept_freeze: false, ..opened };
        assert_eq!(OpenRequest { from: asked.from.clone(), ..same }, asked);
        // Else it would reach further than was asked: an empty list is this host alone.
        let claim = ClaimRequest::of(&asked);
        assert_eq!(claim.put_into(asked.clone()), asked);
        assert!(serde_json::from_str::<ClaimRequest>(r#"{"csr":"","ttl":"9h"}"#).is_err());
    }
}
