//! Turns a hot breakpoint off (`godebug_api::hot` says when one is) and lets the service go on, without
//! anybody taking the stop that this needs for one of theirs.
//!
//! dlv lists and changes breakpoints only while the target stands. A halt from another connection does
//! not hold against an IDE whose request is under way: dlv's DAP server lets the target go on by itself
//! (service/dap/server.go, `resumeOnceAndCheckStop`), in the middle of what is asked here. So the pause is
//! asked for on the IDE's own connection and what it is told of it is kept back; dlv's own client waits
//! for the answer to its command, which is kept back likewise. Breakpoints are never changed while
//! the target runs, never amended where they can be cleared, and the answer to each question is
//! awaited before the next one.

use crate::dlv::{Breakpoint, Dlv, DlvError, Threads};
use crate::gateway::Shared;
use crate::line::{Course, Line};
use crate::protocol::{Protocol, rpc};
use crate::transcript::Entry;
use godebug_api::hot::{Hit, Hot};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// From the pause to dlv's word that the target stands.
const PATIENCE: Duration = Duration::from_secs(2);

/// Turns off what is hot.
///
/// # Errors
/// When dlv does not do its part; whoever was to be kept out of it has then been told of the stop.
pub(crate) async fn cool(shared: &Shared, hot: &Hot) -> Result<(), DlvError> {
    // Nobody comes, and nobody lets the target go, meanwhile.
    let _turn = shared.release.turn().await;
    let mut dlv = Dlv::connect(&shared.debugger_socket).await?;
    let stop = match (dlv.is_running().await?, hot) {
        (true, _) => Some(Stop::bring_about(shared, &mut dlv).await?),
        (false, Hot::Hits { .. }) => None,
        (false, Hot::Standing { .. }) => {
            shared.keeper.hot().stands_for_somebody();
            return Ok(());
        }
    };
    let done = turn_off(&mut dlv, hot).await;
    let client = stop.as_ref().and_then(|stop| stop.line.clone());
    let goes_on = match (stop, &done) {
        (None, _) => false,
        (Some(stop), Ok(done)) if !done.is_somebodys && !stop.is_wanted() => {
            stop.undo(shared, &mut dlv, &done.told(hot, true)).await?
        }
        (Some(stop), _) => stop.hand_over(),
    };
    let done = done?;
    if done.off.is_empty() {
        tracing::warn!(?hot, "the service stands for no breakpoint that could be turned off");
        shared.keeper.hot().give_up();
        return Ok(());
    }
    tell(shared, &done, hot, (client.as_ref(), goes_on));
    Ok(())
}

fn tell(shared: &Shared, done: &Done, hot: &Hot, (client, goes_on): (Option<&Arc<Line>>, bool)) {
    let text = done.told(hot, goes_on);
    tracing::warn!("{text}");
    // dlv's own client, when it waited, has it as the answer.
    let knows = client.filter(|line| goes_on && line.protocol() == Protocol::JsonRpc);
    shared.clients.tell_all(&text, knows);
    let why = why(hot);
    for breakpoint in &done.off {
        shared.clients.breakpoint_is_off(breakpoint.id, &format!("godebug turned it off: {why}"));
        let place = breakpoint.place();
        shared.transcript.record(&Entry::TurnedOff { breakpoint: &place, why: &why });
    }
}

/// A stop that was asked for here, and whoever waits for the next one.
struct Stop {
    line: Option<Arc<Line>>,
    /// What the client would have been told of it.
    word: Vec<u8>,
    course: Course,
    halts: u64,
}

impl Stop {
    async fn bring_about(shared: &Shared, dlv: &mut Dlv) -> Result<Self, DlvError> {
        let Some(line) = shared.clients.runner() else {
            dlv.halt().await?;
            return Ok(Self { line: None, word: Vec::new(), course: Course::Nothing, halts: 0 });
        };
        let (course, halts) = (line.course(), line.halts());
        let kept = line.keep_back();
        let asked = match line.protocol() {
            Protocol::Dap => line.pause().await,
            Protocol::JsonRpc => dlv.halt().await.is_ok(),
        };
        match timeout(PATIENCE, kept).await {
            Ok(Ok(word)) => Ok(Self { line: Some(line), word, course, halts }),
            _ => {
                line.keep_back_no_more();
                Err(DlvError::Slow(if asked { "a pause that it has taken" } else { "a pause" }))
            }
        }
    }

    /// The client wants to see it: its step has ended here, or it has asked for a stop meanwhile.
    fn is_wanted(&self) -> bool {
        let halts = self.line.as_ref().map_or(self.halts, |line| line.halts());
        matches!(self.course, Course::Steps(_)) || halts != self.halts
    }

    /// The client is told of it as of any other. The target stays where it is.
    fn hand_over(self) -> bool {
        if let Some(line) = &self.line {
            line.pass_on(self.word);
        }
        false
    }

    /// Nothing has happened, but for what `text` tells. Whether the target goes on.
    async fn undo(self, shared: &Shared, dlv: &mut Dlv, text: &str) -> Result<bool, DlvError> {
        let Some(line) = &self.line else { return dlv.resume().await.map(|()| true) };
        let goes_on = match line.protocol() {
            Protocol::Dap => line.go_on().await && shared.keeper.runs_soon().await,
            Protocol::JsonRpc => dlv.resume().await.is_ok(),
        };
        if !goes_on {
            return Ok(self.hand_over());
        }
        if let Some(number) = self.course.request().filter(|_| line.protocol() != Protocol::Dap) {
            // As after the pause budget: it runs, and `continue` waits for its next stop.
            shared.keeper.was_let_go();
            line.pass_on(rpc::failed(number, text));
        }
        Ok(true)
    }
}

/// What was turned off.
struct Done {
    off: Vec<Breakpoint>,
    /// The target stands at another breakpoint as well, and somebody waits for that.
    is_somebodys: bool,
}

async fn turn_off(dlv: &mut Dlv, hot: &Hot) -> Result<Done, DlvError> {
    let threads = dlv.threads().await?;
    let off = suspects(hot, dlv.breakpoints().await?, &threads);
    for breakpoint in &off {
        dlv.turn_off(breakpoint).await?;
    }
    let others = |id: &i64| *id > 0 && off.iter().all(|breakpoint| breakpoint.id != *id);
    let is_somebodys = threads.stopped_at.iter().any(others);
    Ok(Done { off, is_somebodys })
}

/// The breakpoints that it can be. Those at which a thread has just stopped, if there are any: when the
/// service mostly stands for one, it does now.
fn suspects(hot: &Hot, all: Vec<Breakpoint>, threads: &Threads) -> Vec<Breakpoint> {
    let on = all.into_iter().filter(|breakpoint| breakpoint.is_on());
    match hot {
        Hot::Hits { breakpoint, .. } => on
            .filter(|known| match breakpoint {
                Hit::Number(number) => known.id == *number,
                Hit::Line(file, line) => known.file == *file && known.line == *line,
            })
            .collect(),
        Hot::Standing { .. } => {
            let (here, elsewhere): (Vec<_>, Vec<_>) = on
                .filter(Breakpoint::may_go_on_unseen)
                .partition(|breakpoint| breakpoint.is_at(&threads.at));
            if here.is_empty() { elsewhere } else { here }
        }
    }
}

impl Done {
    fn told(&self, hot: &Hot, goes_on: bool) -> String {
        let places: Vec<String> = self.off.iter().map(Breakpoint::place).collect();
        let (which, is) = match places.len() {
            1 => ("the breakpoint at", "is off"),
            _ => ("the breakpoints at", "are off"),
        };
        let now = if goes_on { "goes on" } else { "stands" };
        let (places, why) = (places.join(", "), why(hot));
        format!("godebug: {which} {places} {is} until it is set again: {why}. The service {now}")
    }
}

fn why(hot: &Hot) -> String {
    match hot {
        Hot::Standing { percent } => {
            format!("for trying its condition the service stood {percent} % of the time")
        }
        Hot::Hits { per_second, .. } => format!("it was hit {per_second} times in one second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn breakpoints() -> Vec<Breakpoint> {
        serde_json::from_value(json!([
            {"id": -1, "addrs": [1], "Cond": "x"},
            {"id": 1, "addrs": [10], "file": "/a.go", "line": 7},
            {"id": 2, "addrs": [20, 21], "file": "/a.go", "line": 8, "Cond": "n == -1"},
            {"id": 3, "addrs": [30], "continue": true, "file": "/b.go", "line": 9},
            {"id": 4, "addrs": null, "Cond": "n == -1", "disabled": true},
            {"id": 5, "addrs": [21], "Cond": "n == -1", "disabled": true},
        ]))
        .unwrap()
    }

    fn numbers(hot: &Hot, at: &[u64]) -> Vec<i64> {
        let threads = Threads { at: at.to_vec(), stopped_at: Vec::new() };
        suspects(hot, breakpoints(), &threads).iter().map(|one| one.id).collect()
    }

    #[test]
    fn it_is_the_one_where_a_thread_stands_else_all_that_may_go_on_unseen() {
        let standing = Hot::Standing { percent: 90 };
        assert_eq!(numbers(&standing, &[5, 21]), [2]);
        assert_eq!(numbers(&standing, &[10]), [2, 3], "one that stops is nothing unseen");
        assert_eq!(numbers(&standing, &[]), [2, 3]);
    }

    #[test]
    fn hits_name_theirs() {
        let hits = |breakpoint| Hot::Hits { breakpoint, per_second: 200 };
        assert_eq!(numbers(&hits(Hit::Number(1)), &[20]), [1]);
        assert_eq!(numbers(&hits(Hit::Line("/b.go".to_owned(), 9)), &[]), [3]);
        assert_eq!(numbers(&hits(Hit::Line("/b.go".to_owned(), 1)), &[]), [0; 0]);
    }
}
