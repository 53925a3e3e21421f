//! What all goroutines of an image are doing: grouped by their stacks, those that wait longest first.

use crate::core_memory::Memory;
use crate::delve::Delve;
use crate::target::Image;
use crate::values::{LOAD, Location, StackFrame, Variable};
use godebug_api::Refusal;
use godebug_api::UnitName;
use godebug_api::image::{Frame, Goroutines, Group};
use godebug_api::redact::Redactor;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;

/// How many goroutines dlv is asked for at once.
const PAGE: usize = 1000;
/// Of so many the stacks are read.
const MOST: usize = 10_000;
const DEPTH: usize = 50;
/// How many of a group are named.
const NAMED: usize = 10;
/// What dlv calls goroutines that run, wait to run, or are in a system call (runtime2.go).
const STATUS: [(u64, &str); 3] = [(1, "ready to run"), (2, "running"), (3, "in a system call")];

#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
pub(crate) struct Goroutine {
    pub(crate) id: i64,
    status: u64,
    wait_since: i64,
    wait_reason: i64,
    go_statement_loc: Location,
    start_loc: Location,
}

impl Goroutine {
    /// The function that it began with.
    pub(crate) fn begun_in(&self) -> String {
        self.start_loc.place().function
    }
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Goroutines")]
    goroutines: Option<Vec<Goroutine>>,
    #[serde(rename = "Nextg", default)]
    next: i64,
}

#[derive(Deserialize)]
struct Stack {
    #[serde(rename = "Locations")]
    locations: Option<Vec<StackFrame>>,
}

#[derive(Deserialize)]
struct Evaluated {
    #[serde(rename = "Variable")]
    variable: Option<Variable>,
}

/// # Errors
/// When dlv gives no answer.
pub(crate) fn summary(
    dlv: &mut Delve,
    image: &Image,
    unit: &UnitName,
) -> Result<Goroutines, Refusal> {
    let all = list(dlv)?;
    let reasons = wait_reasons(dlv);
    let mut groups: HashMap<(String, Vec<Frame>), Group> = HashMap::new();
    for goroutine in all.iter().take(MOST) {
        let stack: Vec<Frame> =
            stack(dlv, goroutine.id, DEPTH)?.iter().map(StackFrame::frame).collect();
        let doing = doing(goroutine, &reasons);
        let waiting_s = waiting(goroutine, image.monotonic_ns);
        let group = groups.entry((doing.clone(), stack.clone())).or_insert_with(|| Group {
            count: 0,
            doing,
            waiting_s: None,
            ids: Vec::new(),
            stack,
            started_at: (goroutine.go_statement_loc.line != 0)
                .then(|| goroutine.go_statement_loc.place()),
            system: is_gos_own(goroutine),
        });
        group.count += 1;
        group.waiting_s = group.waiting_s.into_iter().chain(waiting_s).reduce(f64::max);
        if group.ids.len() < NAMED {
            group.ids.push(goroutine.id);
        }
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by(|a, b| {
        let by_time = b.waiting_s.unwrap_or(0.0).total_cmp(&a.waiting_s.unwrap_or(0.0));
        a.system.cmp(&b.system).then(by_time).then(b.count.cmp(&a.count)).then(a.ids.cmp(&b.ids))
    });
    // Of a core that cannot be read by address nothing is told of locks, and all else is.
    let memory = Memory::of(&image.core).ok();
    let (waits, deadlocks) =
        memory.map(|memory| crate::waits::find(dlv, &memory)).unwrap_or_default();
    Ok(Goroutines {
        waits,
        deadlocks,
        time: image.time.clone(),
        unit: unit.clone(),
        pause_ms: crate::milliseconds(image.pause),
        goroutines: all.len(),
        left_out: all.len().saturating_sub(MOST),
        groups,
    })
}

/// All goroutines; a number that grows without end is cut.
pub(crate) fn list(dlv: &mut Delve) -> Result<Vec<Goroutine>, Refusal> {
    let mut all = Vec::new();
    let mut start = 0;
    loop {
        let question = json!({ "Start": start, "Count": PAGE });
        let listed: Listed = dlv.ask("RPCServer.ListGoroutines", &question)?;
        all.extend(listed.goroutines.unwrap_or_default());
        if listed.next <= start || all.len() > 1_000_000 {
            return Ok(all);
        }
        start = listed.next;
    }
}

/// One goroutine's stack, without values, as far as dlv can follow it.
pub(crate) fn stack(dlv: &mut Delve, id: i64, depth: usize) -> Result<Vec<StackFrame>, Refusal> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Question {
        id: i64,
        depth: usize,
        full: bool,
    }
    let stack: Stack = dlv.ask("RPCServer.Stacktrace", Question { id, depth, full: false })?;
    let mut frames = stack.locations.unwrap_or_default();
    if let Some(at) = frames.windows(2).position(|two| two[0].is_again(&two[1])) {
        frames.truncate(at + 1);
    }
    Ok(frames)
}

/// The runtime's own words for what goroutines wait for, which are others with every version of Go.
fn wait_reasons(dlv: &mut Delve) -> Vec<String> {
    let question = json!({
        "Scope": { "GoroutineID": -1 },
        "Expr": "runtime.waitReasonStrings",
        "Cfg": { "MaxArrayValues": 200, "MaxStringLen": 100, "MaxVariableRecurse": 1 },
    });
    let answer: Result<Evaluated, _> = dlv.ask("RPCServer.Eval", &question);
    let words = answer.ok().and_then(|answer| answer.variable);
    words.map(|words| words.texts()).unwrap_or_default()
}

fn doing(goroutine: &Goroutine, reasons: &[String]) -> String {
    if let Some((_, word)) = STATUS.iter().find(|(status, _)| *status == goroutine.status) {
        return (*word).to_owned();
    }
    let reason = usize::try_from(goroutine.wait_reason).ok().and_then(|at| reasons.get(at));
    match reason {
        Some(reason) if !reason.is_empty() => reason.clone(),
        _ => "waiting".to_owned(),
    }
}

/// Seconds, where the garbage collector has looked since it began to wait: it notes the time.
fn waiting(goroutine: &Goroutine, now_ns: i64) -> Option<f64> {
    let since = goroutine.wait_since;
    #[expect(clippy::cast_precision_loss, reason = "a time in seconds for a person")]
    (since > 0 && since <= now_ns).then(|| (now_ns - since) as f64 / 1e9)
}

/// Goroutines that Go's runtime has started for itself.
fn is_gos_own(goroutine: &Goroutine) -> bool {
    let start = goroutine.start_loc.place().function;
    start.starts_with("runtime.") && start != "runtime.main"
}

/// What values are read with, for those who ask for one goroutine.
pub(crate) fn evaluate(
    dlv: &mut Delve,
    goroutine: i64,
    frame: usize,
    expression: &str,
    redactor: Option<&Redactor>,
) -> Result<Variable, crate::delve::Answerless> {
    let question = json!({
        "Scope": { "GoroutineID": goroutine, "Frame": frame },
        "Expr": expression,
        "Cfg": LOAD,
    });
    let answer: Evaluated = dlv.ask_to_show("RPCServer.Eval", &question, redactor)?;
    Ok(answer.variable.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_goroutine_does_is_said_in_gos_own_words() {
        let reasons = ["", "chan receive", "select"].map(str::to_owned);
        let waits = Goroutine { status: 4, wait_reason: 1, ..Goroutine::default() };
        assert_eq!(doing(&waits, &reasons), "chan receive");
        assert_eq!(doing(&waits, &[]), "waiting");
        let runs = Goroutine { status: 2, ..Goroutine::default() };
        assert_eq!(doing(&runs, &reasons), "running");
    }

    #[test]
    fn times_are_only_told_where_they_are_known() {
        let since = |wait_since| Goroutine { wait_since, ..Goroutine::default() };
        assert_eq!(waiting(&since(0), 9_000_000_000), None);
        assert_eq!(waiting(&since(2_000_000_000), 9_000_000_000), Some(7.0));
        assert_eq!(waiting(&since(9_000_000_001), 9_000_000_000), None);
    }
}
