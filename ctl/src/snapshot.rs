//! `snapshot` and `goroutines`: asks for images, and shows what is found as it comes.
//!
//! The lines come from a process that has the rights of the service, not from godebugd: each is read
//! with bounds, understood whole or not at all, and shown by us.

mod flame;
mod heap;
mod render;

use crate::cli::{Goroutines, Heap, Image, Record, Snapshot};
use crate::manager::{answer, manager};
use crate::output::{Output, ended_early};
use crate::sessions::stuck;
use crate::signals::Signals;
use crate::symbols;
use crate::waiting::{self, Interrupted::TakesItBack};
use godebug_api::bus::ManagerProxy;
use godebug_api::documents::{KeptDump, SessionInfo};
use godebug_api::image::{Count, Every, ImageRequest, ImageTask, LONGEST_LINE, Line, Patience};
use godebug_api::{CloseReason, Refusal, SessionId, State, TargetName};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the end may take, once everything has been said.
const END: Duration = Duration::from_secs(20);
/// Whether it is over.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

pub(crate) async fn snapshot(output: &Output, arguments: &Snapshot) -> Result<(), Refusal> {
    let task = ImageTask::Snapshot {
        at: arguments.at.clone(),
        expressions: arguments.expressions.clone(),
        condition: arguments.condition.clone(),
        count: arguments.count,
        stack: arguments.stack,
        every: Every::default(),
        keep: arguments.keep,
    };
    let request = request(task, &arguments.image, arguments.timeout);
    take(output, (&arguments.unit, &arguments.image), &request, Look::default()).await
}

pub(crate) async fn record(output: &Output, arguments: &Record) -> Result<(), Refusal> {
    let task = ImageTask::Snapshot {
        at: arguments.at.clone(),
        expressions: arguments.expressions.clone(),
        condition: arguments.condition.clone(),
        count: Count::MOST,
        stack: arguments.stack,
        every: arguments.every,
        keep: arguments.keep,
    };
    let request = request(task, &arguments.image, arguments.time);
    let look = Look { until_time_is_over: true, ..Look::default() };
    take(output, (&arguments.unit, &arguments.image), &request, look).await
}

pub(crate) async fn goroutines(output: &Output, arguments: &Goroutines) -> Result<(), Refusal> {
    let request = request(ImageTask::Goroutines, &arguments.image, Patience::default());
    let flame = arguments.flame.as_deref();
    let look = Look { full: arguments.full, flame, ..Look::default() };
    take(output, (&arguments.unit, &arguments.image), &request, look).await
}

pub(crate) async fn heap(output: &Output, arguments: &Heap) -> Result<(), Refusal> {
    let task = ImageTask::Heap { top: arguments.top };
    let request = request(task, &arguments.image, Patience::default());
    take(output, (&arguments.unit, &arguments.image), &request, Look::default()).await
}

/// How what is found is looked at.
#[derive(Clone, Copy, Default)]
struct Look<'a> {
    full: bool,
    flame: Option<&'a Path>,
    /// That no more came in time is as it should be, if something came.
    until_time_is_over: bool,
}

fn request(task: ImageTask, image: &Image, patience: Patience) -> ImageRequest {
    ImageRequest {
        task,
        reason: image.reason.clone(),
        pid: image.pid,
        max_pause: image.max_pause,
        patience,
        break_glass: image.break_glass,
        symbols: image.symbols.is_some(),
        part: None,
    }
}

/// Has the images taken, and shows every line as it comes. Done when the session is closed.
async fn take(
    output: &Output,
    (unit, image): (&TargetName, &Image),
    request: &ImageRequest,
    look: Look<'_>,
) -> Result<(), Refusal> {
    let symbols = symbols::open(image.symbols.as_deref(), unit, image.pid).await?;
    let keeps = request.keep().is_some();
    let request = serde_json::to_string(request).map_err(|error| {
        Refusal::failed(format!("the request cannot be written: {error}"), "report this as a bug")
    })?;
    let (mut signals, unit) = (Signals::catch()?, unit.to_string());
    let manager = manager().await?;
    output.live("looking…");
    let opened = tokio::select! {
        opened = manager.snapshot(&unit, &request, files(symbols.as_ref())?) => opened,
        () = signals.next() => return Err(interrupted()),
    };
    output.clear();
    let (session, pipe) = opened?;
    let mut session: SessionInfo = answer(Ok(session))?;
    let mut pipe = pipe;
    if session.state == State::PendingApproval {
        let id = session.id.clone();
        waiting::until_approved(output, &manager, &mut signals, session, TakesItBack).await?;
        let (taken, answers) = manager.claim_images(id.as_str(), files(symbols.as_ref())?).await?;
        (session, pipe) = (answer(Ok(taken))?, answers);
    }
    let mut lines = lines(pipe.into());
    let mut told = Told::default();
    let shown = loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            () = signals.next() => break Err(interrupted()),
        };
        match line {
            Some(Ok(line)) => {
                if let Err(refusal) = told.show(output, line, look) {
                    break Err(refusal);
                }
            }
            Some(Err(refusal)) => break Err(refusal),
            None => break told.outcome(),
        }
    };
    let closed = match keeps {
        false => end(&manager, &session.id).await,
        true => end_and_keep(output, &manager, &session, shown.is_err()).await,
    };
    shown.and(closed)
}

/// The same where images are kept: to stop a session that has ended would let them go.
async fn end_and_keep(
    output: &Output,
    manager: &ManagerProxy<'static>,
    session: &SessionInfo,
    is_cut_short: bool,
) -> Result<(), Refusal> {
    let limit = tokio::time::Instant::now() + END;
    let mut ended = session.clone();
    while !is_cut_short
        && !matches!(ended.state, State::Closed | State::Stuck)
        && tokio::time::Instant::now() < limit
    {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        ended = answer(manager.get(session.id.as_str()).await)?;
    }
    let closed = match ended.state {
        State::Closed | State::Stuck => how_it_ended(ended),
        _ => end(manager, &session.id).await,
    };
    let all: Vec<KeptDump> = answer(manager.dumps(session.unit.as_str()).await)?;
    let is_ours = |kept: &&KeptDump| {
        kept.dump.image.as_ref().is_some_and(|image| image.name.session == session.id)
    };
    let kept: Vec<&KeptDump> = all.iter().filter(is_ours).collect();
    output.note(&render::kept(&session.id, &kept));
    closed
}

/// A file for one call; it may be needed for a second one.
fn files(symbols: Option<&OwnedFd>) -> Result<Vec<zbus::OwnedFd>, Refusal> {
    let copy = symbols.map(|file| file.try_clone()).transpose().map_err(|error| {
        Refusal::failed(format!("the symbols file cannot be handed over: {error}"), "try again")
    })?;
    Ok(copy.into_iter().map(zbus::OwnedFd::from).collect())
}

fn interrupted() -> Refusal {
    ended_early("interrupted", "nothing is left to do: whatever was taken is given back")
}

/// The lines of the pipe, read beside everything else: it is no socket.
fn lines(pipe: OwnedFd) -> mpsc::Receiver<Result<Line, Refusal>> {
    let (send, lines) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(File::from(pipe));
        while let Some(line) = next_line(&mut pipe) {
            let is_last = line.is_err();
            if send.blocking_send(line).is_err() || is_last {
                return;
            }
        }
    });
    lines
}

fn next_line(pipe: &mut impl BufRead) -> Option<Result<Line, Refusal>> {
    let broken = |why: String| {
        Refusal::failed(
            format!("the answer is not understood: {why}"),
            "use godebugctl of the same version as godebugd",
        )
    };
    let mut text = Vec::new();
    match pipe.take(LONGEST_LINE as u64).read_until(b'\n', &mut text) {
        Ok(0) => None,
        Ok(_) if !text.ends_with(b"\n") => Some(Err(broken("a line has no end".to_owned()))),
        Ok(_) => Some(serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))),
        Err(error) => Some(Err(broken(error.to_string()))),
    }
}

/// What has been shown so far.
#[derive(Default)]
struct Told {
    something: bool,
    refusal: Option<Refusal>,
    /// Why a line was not reached as often as was asked for.
    missed: Option<String>,
}

impl Told {
    fn show(&mut self, output: &Output, line: Line, look: Look<'_>) -> Result<(), Refusal> {
        match line {
            Line::Refused { error } => self.refusal = Some(error),
            Line::Armed { armed } => output.note(&render::armed(&armed)),
            Line::Done { done } => {
                let is_enough = look.until_time_is_over && done.hits > 0;
                let missed = done.because.is_some() && !is_enough;
                self.missed = missed.then(|| render::missed(&done));
            }
            Line::Hit(hit) => {
                self.something = true;
                output.result(&hit, &render::hit(&hit))?;
            }
            Line::Goroutines(all) => {
                self.something = true;
                output.result(&all, &render::goroutines(&all, look.full))?;
                if let Some(path) = look.flame {
                    flame::write(&all, look.full, path)?;
                    output.note(&format!("they are drawn in {}", path.display()));
                }
            }
            Line::Heap(heap) => {
                self.something = true;
                output.result(&heap, &heap::heap(&heap))?;
            }
        }
        Ok(())
    }

    /// What it comes to when there are no more lines.
    fn outcome(self) -> Result<(), Refusal> {
        match (self.refusal, self.missed) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(why)) => {
                Err(ended_early(why, "wait longer with --timeout, or choose a busier line"))
            }
            (None, None) if self.something => Ok(()),
            (None, None) => Err(ended_early(
                "what takes the images has ended without an answer",
                "see `journalctl -u 'godebug-image@*'`",
            )),
        }
    }
}

/// Waits until nothing is left of the session; it ends by itself, or is ended here.
async fn end(manager: &ManagerProxy<'static>, id: &SessionId) -> Result<(), Refusal> {
    let stopped = tokio::time::timeout(END, manager.stop(id.as_str())).await;
    let Ok(stopped) = stopped else {
        return Err(Refusal::host(
            format!("session {id} does not end"),
            format!("see `godebugctl show {id}`"),
        ));
    };
    how_it_ended(answer(stopped)?)
}

fn how_it_ended(session: SessionInfo) -> Result<(), Refusal> {
    if let Some(refusal) = stuck(&session) {
        return Err(refusal);
    }
    match session.close_reason {
        Some(CloseReason::TargetExited) => Err(ended_early("the service has ended meanwhile", "")),
        Some(CloseReason::Failed) => Err(Refusal::failed(
            session.close_detail.unwrap_or_else(|| "the session failed".to_owned()),
            "see `journalctl -u 'godebug-image@*'`",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<Result<Line, Refusal>> {
        let mut pipe = text;
        std::iter::from_fn(|| next_line(&mut pipe)).collect()
    }

    #[test]
    fn lines_are_understood_whole_or_not_at_all() {
        let good = b"{\"done\":{\"hits\":1,\"dropped\":0}}\n";
        assert!(matches!(read(good).as_slice(), [Ok(Line::Done { .. })]));
        for bad in [&b"{\"done\":1}\n"[..], b"nonsense\n", b"{\"done\":{\"hits\":1"] {
            assert!(matches!(read(bad).first(), Some(Err(_))), "{bad:?}");
        }
        assert!(read(b"").is_empty());
    }

    #[test]
    fn a_refusal_is_the_outcome_and_so_is_silence() {
        let output = Output::new(true);
        let error = Refusal::usage("no", "yes");
        let mut told = Told::default();
        told.show(&output, Line::Refused { error: error.clone() }, Look::default()).unwrap();
        assert_eq!(told.outcome(), Err(error));
        assert!(Told::default().outcome().is_err());
    }
}
