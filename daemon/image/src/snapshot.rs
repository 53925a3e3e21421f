//! One goroutine's stack and values in an image, now or whenever a line is reached.

use crate::delve::{Answerless, Delve, Start};
use crate::goroutines::{evaluate, stack};
use crate::keeper::Keeper;
use crate::places;
use crate::report::Report;
use crate::target::{Image, Target};
use crate::trace::Wakeups;
use crate::values::{LOAD, StackFrame, Variable};
use godebug_api::image::{Armed, Count, Depth, Done, Every, Hit, Line, Patience, Phrase, Value};
use godebug_api::redact::Redactor;
use godebug_api::{Refusal, UnitName};
use serde::Deserialize;
use serde_json::json;
use std::time::{Duration, Instant};

/// After an image at one line others come first for so long, as for debuggers (`crate::observe`).
const OTHERS_FIRST: Duration = Duration::from_secs(1);
/// So many frames are searched for the program's own code.
const LOOK_FOR_OWN: usize = 50;
/// The goroutine that runs main.main.
const MAIN: i64 = 1;

/// What a person wants to see.
pub(crate) struct Wanted<'a> {
    pub(crate) unit: &'a UnitName,
    pub(crate) at: &'a [Phrase],
    pub(crate) expressions: &'a [Phrase],
    pub(crate) condition: Option<&'a Phrase>,
    pub(crate) count: Count,
    pub(crate) stack: Depth,
    pub(crate) patience: Patience,
    pub(crate) every: Every,
    /// What is not shown.
    pub(crate) redactor: Option<&'a Redactor>,
}

#[derive(Deserialize)]
struct StateAnswer {
    #[serde(rename = "State")]
    state: State,
}

#[derive(Deserialize)]
pub(crate) struct State {
    #[serde(rename = "currentGoroutine")]
    pub(crate) current: Option<Id>,
    #[serde(rename = "Threads")]
    threads: Option<Vec<OnThread>>,
}

#[derive(Deserialize)]
pub(crate) struct Id {
    pub(crate) id: i64,
}

#[derive(Deserialize)]
struct OnThread {
    #[serde(rename = "goroutineID", default)]
    goroutine: i64,
}

#[derive(Deserialize)]
struct Variables {
    #[serde(alias = "Variables", alias = "Args", default)]
    all: Option<Vec<Variable>>,
}

/// Where what is found goes.
pub(crate) struct Found<'a> {
    pub(crate) report: &'a mut Report,
    /// Who keeps the images, if somebody does.
    pub(crate) keeper: Option<&'a mut Keeper>,
}

impl Found<'_> {
    fn hit(&mut self, image: &Image, mut hit: Hit) -> Result<(), Refusal> {
        hit.image = self.keeper.as_mut().and_then(|keeper| keeper.keep(image, &hit));
        self.report.line(&Line::Hit(Box::new(hit)))
    }
}

/// # Errors
/// Why there is nothing, or no more, to see.
pub(crate) fn run(
    wanted: &Wanted<'_>,
    target: &Target,
    wakeups: &mut Wakeups,
    start: &Start<'_>,
    found: Found<'_>,
) -> Result<(), Refusal> {
    match wanted.at {
        [] => now(wanted, target, wakeups, start, found),
        _ => at_lines(wanted, target, wakeups, start, found),
    }
}

fn now(
    wanted: &Wanted<'_>,
    target: &Target,
    wakeups: &mut Wakeups,
    start: &Start<'_>,
    mut found: Found<'_>,
) -> Result<(), Refusal> {
    target.is_ready()?;
    let image = target.image(wakeups)?;
    found.report.image(&image, "")?;
    let mut dlv = start.on(&target.executable, &image.core)?;
    let goroutine = worth_seeing(&mut dlv)?;
    if let Some(hit) = look(&mut dlv, &image, wanted, goroutine)? {
        found.hit(&image, hit)?;
    }
    Ok(())
}

/// The goroutine of a thread that is in the program's own code, else the main one.
pub(crate) fn worth_seeing(dlv: &mut Delve) -> Result<i64, Refusal> {
    let state = state(dlv)?;
    for thread in state.threads.unwrap_or_default() {
        if thread.goroutine > 0 && is_in_own_code(dlv, thread.goroutine) {
            return Ok(thread.goroutine);
        }
    }
    Ok(MAIN)
}

fn is_in_own_code(dlv: &mut Delve, goroutine: i64) -> bool {
    stack(dlv, goroutine, LOOK_FOR_OWN).is_ok_and(|stack| stack.iter().any(StackFrame::is_own))
}

pub(crate) fn state(dlv: &mut Delve) -> Result<State, Refusal> {
    let answer: StateAnswer = dlv.ask("RPCServer.State", json!({ "NonBlocking": true }))?;
    Ok(answer.state)
}

/// The lines that are armed: each with the addresses that it has.
struct Lines<'a>(Vec<(&'a Phrase, Vec<u64>)>);

impl Lines<'_> {
    fn all(&self) -> Vec<u64> {
        self.0.iter().flat_map(|(_, addresses)| addresses).copied().collect()
    }

    /// As whoever asked calls it.
    fn name_of(&self, address: Option<u64>) -> &str {
        let mut lines = self.0.iter();
        let line = lines.find(|(_, all)| address.is_some_and(|address| all.contains(&address)));
        line.map_or("", |(name, _)| name.as_str())
    }

    /// Those but the one that has this address; `None` when there are no others.
    fn others_than(&self, address: u64) -> Option<Vec<u64>> {
        let others = self.0.iter().filter(|(_, line)| !line.contains(&address));
        let others: Vec<u64> = others.flat_map(|(_, line)| line).copied().collect();
        (!others.is_empty()).then_some(others)
    }
}

fn at_lines(
    wanted: &Wanted<'_>,
    target: &Target,
    wakeups: &mut Wakeups,
    start: &Start<'_>,
    mut found: Found<'_>,
) -> Result<(), Refusal> {
    target.is_ready()?;
    let mut lines = Lines(Vec::new());
    for at in wanted.at {
        let at_line = places::find(target, start, at)?;
        let armed = Armed { location: at.to_string(), places: at_line.places };
        found.report.line(&Line::Armed { armed })?;
        lines.0.push((at, at_line.addresses));
    }
    let until = Instant::now() + wanted.patience.duration();
    let mut done = Done { hits: 0, dropped: 0, because: None };
    let mut last = None;
    while done.hits < wanted.count.get() {
        wakeups.go_on()?;
        let next = Instant::now() + wanted.every.duration();
        let Some((image, address)) = next_image(&lines, last.take(), target, wakeups, until)?
        else {
            done.because = Some(format!("no more in {}", wanted.patience));
            break;
        };
        last = address;
        found.report.image(&image, lines.name_of(address))?;
        let mut dlv = start.on(&target.executable, &image.core)?;
        godebug_image::reached("read");
        let goroutine = state(&mut dlv)?.current.map_or(-1, |current| current.id);
        match look(&mut dlv, &image, wanted, goroutine)? {
            Some(hit) => {
                done.hits += 1;
                found.hit(&image, hit)?;
            }
            None => done.dropped += 1,
        }
        drop(dlv);
        while Instant::now() < next.min(until) {
            wakeups.go_on()?;
            wakeups.sleep(next);
        }
    }
    found.report.line(&Line::Done { done })
}

fn next_image(
    lines: &Lines<'_>,
    last: Option<u64>,
    target: &Target,
    wakeups: &mut Wakeups,
    until: Instant,
) -> Result<Option<(Image, Option<u64>)>, Refusal> {
    if let Some(others) = last.and_then(|last| lines.others_than(last)) {
        let soon = until.min(Instant::now() + OTHERS_FIRST);
        if let Some(image) = target.image_at(wakeups, &others, soon)? {
            return Ok(Some(image));
        }
    }
    target.image_at(wakeups, &lines.all(), until)
}

/// What is to be seen of one goroutine; `None` when the condition is not true.
fn look(
    dlv: &mut Delve,
    image: &Image,
    wanted: &Wanted<'_>,
    goroutine: i64,
) -> Result<Option<Hit>, Refusal> {
    let depth = usize::try_from(wanted.stack.get()).unwrap_or(20);
    // The program's own code may stand below more frames of Go's than are to be shown.
    let frames = stack(dlv, goroutine, depth.max(LOOK_FOR_OWN) - 1)?;
    // At a line that is the frame; now, whatever the program's own code waits in.
    let frame = match wanted.at {
        [] => frames.iter().position(StackFrame::is_own).unwrap_or(0),
        _ => 0,
    };
    if let Some(condition) = wanted.condition
        && !is_true(dlv, goroutine, frame, condition, wanted.redactor)?
    {
        return Ok(None);
    }
    let variables = values(dlv, goroutine, frame, wanted)?;
    let location = frames.get(frame).map(|frame| frame.location.place()).unwrap_or_default();
    Ok(Some(Hit {
        time: image.time.clone(),
        unit: wanted.unit.clone(),
        location,
        goroutine,
        pause_ms: crate::milliseconds(image.pause),
        image: None,
        stack: frames.iter().take(depth).map(StackFrame::frame).collect(),
        variables,
    }))
}

fn is_true(
    dlv: &mut Delve,
    goroutine: i64,
    frame: usize,
    condition: &Phrase,
    redactor: Option<&Redactor>,
) -> Result<bool, Refusal> {
    let refused = |why: String| {
        Refusal::usage(
            format!("the condition {condition} cannot be decided: {why}"),
            "use what is known at that line: arguments, locals, package variables",
        )
    };
    let value = evaluate(dlv, goroutine, frame, condition.as_str(), redactor);
    let value = value.map_err(|why| match why {
        Answerless::Refused(why) => refused(why),
        broken @ Answerless::Broken(_) => broken.into(),
    })?;
    match value.value.as_str() {
        _ if !value.unreadable.is_empty() => Err(refused(value.unreadable)),
        "true" if value.is_bool() => Ok(true),
        "false" if value.is_bool() => Ok(false),
        _ => Err(refused(format!("it is no bool but {}", value.kind_name))),
    }
}

/// The expressions, else the arguments and the locals of the frame.
fn values(
    dlv: &mut Delve,
    goroutine: i64,
    frame: usize,
    wanted: &Wanted<'_>,
) -> Result<Vec<Value>, Refusal> {
    let mut values = Vec::new();
    for expression in wanted.expressions {
        let value = match evaluate(dlv, goroutine, frame, expression.as_str(), wanted.redactor) {
            Ok(value) => value.shown(),
            Err(Answerless::Refused(why)) => Value::unreadable(why),
            Err(broken) => return Err(broken.into()),
        };
        values.push(Value { name: expression.to_string(), ..value });
    }
    if !wanted.expressions.is_empty() {
        return Ok(values);
    }
    for method in ["RPCServer.ListFunctionArgs", "RPCServer.ListLocalVars"] {
        let scope = json!({ "GoroutineID": goroutine, "Frame": frame });
        let question = json!({ "Scope": scope, "Cfg": LOAD });
        match dlv.ask_to_show::<Variables>(method, question, wanted.redactor) {
            // Results without a name are nothing that a person would look for.
            Ok(found) => values.extend(
                found
                    .all
                    .unwrap_or_default()
                    .iter()
                    .filter(|one| !one.name.starts_with('~'))
                    .map(Variable::shown),
            ),
            // Not every frame has some: one of assembly has none.
            Err(Answerless::Refused(_)) => {}
            Err(broken) => return Err(broken.into()),
        }
    }
    Ok(values)
}
