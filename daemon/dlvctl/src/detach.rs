//! The orderly tear-down: cut the clients, halt, clear, drain, detach, verify.
//!
//! dlv halts its target by sending it a SIGTRAP. When a breakpoint stops it first, the signal stays
//! pending, and a target that is detached with it dies of it. So before detaching, the target is
//! resumed and halted again, without breakpoints, until no SIGTRAP is pending. A plain SIGTERM to
//! dlv kills or hangs one busy service in three; this way none in sixty died.
//!
//! All of it has to fit systemd's stop timeout, and when dlv hangs, it has to be known early enough
//! for the last resort: each step has its own end and the whole has one.

use crate::dlv::Dlv;
use crate::gateway::{self, Clients};
use crate::process::{self, Target};
use crate::summary::{Outcome, Summary};
use godebug_api::Pid;
use godebug_dlvctl::rpc::RpcError;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// For everything.
const TOTAL: Duration = Duration::from_millis(7500);
/// For the gateway to cut its clients.
const CUT: Duration = Duration::from_secs(1);
/// dlv needs this to notice that they have gone, before it can be halted.
const SETTLE: Duration = Duration::from_millis(60);
/// For one halt: one that follows a resumption at once may be lost, and is tried again.
const HALT: Duration = Duration::from_secs(2);
const CLEAR: Duration = Duration::from_secs(1);
const RESUME: Duration = Duration::from_secs(1);
const DETACH: Duration = Duration::from_secs(2);
const VERIFY: Duration = Duration::from_secs(1);
/// Between two looks at the target.
const PAUSE: Duration = Duration::from_millis(5);

/// Why the target is not detached cleanly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("dlv has gone, and its socket with it")]
    DlvGone,
    #[error("dlv has died without detaching; its breakpoints may still be in the target")]
    DlvDied,
    #[error("the target has exited")]
    TargetExited,
    #[error("dlv's socket cannot be used: {0}")]
    Socket(io::Error),
    #[error(transparent)]
    Rpc(RpcError),
    #[error("the target is still running after it was halted")]
    StillRunning,
    #[error("a SIGTRAP is still pending for the target; detached now it would die of it")]
    StillPending,
    #[error("something still traces the target")]
    StillTraced,
    #[error("the target is still stopped after SIGCONT")]
    StillStopped,
    #[error("the target ended as dlv detached from it")]
    Died,
    #[error("the target's state cannot be read from /proc: {0}")]
    Proc(io::Error),
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        if error.target_has_exited() { Self::TargetExited } else { Self::Rpc(error) }
    }
}

/// Detaches the dlv that listens on `socket` from `target`, which runs on. Harmless when it has
/// been done before.
pub(crate) fn detach(socket: &Path, target: Pid, control: Option<&Path>) -> Summary {
    let start = Instant::now();
    let summary = Summary::new(target.get());
    let mut teardown = TearDown { socket, target, by: start + TOTAL, summary };
    let result = match teardown.steps(control) {
        Ok(()) => Ok(Outcome::Detached),
        Err(Failure::TargetExited) => Ok(Outcome::TargetExited),
        Err(Failure::DlvGone) => teardown.after_dlv(),
        Err(Failure::DlvDied) => teardown.after_dlvs_death(),
        Err(failure) => Err(failure),
    };
    teardown.summary.end(result, start.elapsed())
}

struct TearDown<'a> {
    socket: &'a Path,
    target: Pid,
    by: Instant,
    summary: Summary,
}

impl TearDown<'_> {
    fn steps(&mut self, control: Option<&Path>) -> Result<(), Failure> {
        // A dlv that somebody has stopped answers nothing. The rest shows whether it helped.
        let _ = process::let_tracer_run(self.target);
        self.timed("cut", |it| {
            it.cut(control);
            Ok(())
        })?;
        self.timed("halt", |it| {
            it.look()?;
            it.halt()
        })?;
        self.timed("clear", |it| {
            let count = it.connect()?.clear_breakpoints(it.within(CLEAR))?;
            it.summary.cleared(count);
            Ok(())
        })?;
        self.timed("drain", Self::drain)?;
        self.timed("detach", |it| Ok(it.connect()?.detach(it.within(DETACH))?))?;
        self.timed("verify", Self::verify)
    }

    fn timed(
        &mut self,
        name: &'static str,
        step: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let result = step(self);
        self.summary.took(name, start.elapsed());
        if result.is_err() {
            self.summary.failed_at(name);
        }
        result
    }

    /// The earlier of the step's end and that of the whole.
    fn within(&self, limit: Duration) -> Instant {
        self.by.min(Instant::now() + limit)
    }

    /// A new connection for each concern: dlv serves those of one connection one by one.
    fn connect(&self) -> Result<Dlv, Failure> {
        Dlv::connect(self.socket).map_err(|error| match error.kind() {
            // Only a dlv that ends in order removes its socket.
            io::ErrorKind::NotFound => Failure::DlvGone,
            io::ErrorKind::ConnectionRefused => Failure::DlvDied,
            _ => Failure::Socket(error),
        })
    }

    fn look(&self) -> Result<Target, Failure> {
        Target::read(self.target).map_err(Failure::Proc)?.ok_or(Failure::TargetExited)
    }

    fn cut(&mut self, control: Option<&Path>) {
        let clients = gateway::cut(control, self.within(CUT));
        if let Clients::NotCut(why) = &clients {
            // Not the end: where no client is connected, dlv obeys all the same.
            self.summary.note(format!("the gateway did not cut its clients: {why}"));
        }
        if clients != (Clients::Cut { ever: 0 }) {
            std::thread::sleep(SETTLE);
        }
    }

    fn halt(&self) -> Result<(), Failure> {
        let mut failure = Failure::StillRunning;
        for _ in 0..2 {
            match self.connect()?.halt(self.within(HALT)) {
                Ok(state) if state.exited => return Err(Failure::TargetExited),
                Ok(state) if !state.running => return Ok(()),
                Ok(_) => failure = Failure::StillRunning,
                Err(error @ RpcError::Timeout(_)) => failure = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(failure)
    }

    /// Gets a SIGTRAP out of the target that a halt has left pending. At least one round: what one
    /// thread is about to do is not in /proc yet.
    fn drain(&mut self) -> Result<(), Failure> {
        loop {
            self.connect()?.resume(self.within(RESUME))?;
            self.halt()?;
            self.summary.round();
            if !self.look()?.sigtrap_pending {
                return Ok(());
            }
            if Instant::now() >= self.by {
                return Err(Failure::StillPending);
            }
        }
    }

    /// The target runs, and nothing traces it.
    fn verify(&mut self) -> Result<(), Failure> {
        let by = self.within(VERIFY);
        let mut continued = false;
        loop {
            let target = self.look().map_err(|failure| match failure {
                Failure::TargetExited => Failure::Died,
                other => other,
            })?;
            let failure = match target {
                Target { traced: true, .. } => Failure::StillTraced,
                Target { stopped: true, .. } => Failure::StillStopped,
                Target { .. } => return Ok(()),
            };
            if matches!(failure, Failure::StillStopped) && !continued {
                self.summary.note("the target was stopped by a signal; it got SIGCONT".to_owned());
                process::let_run(self.target).map_err(Failure::Proc)?;
                continued = true;
            }
            if Instant::now() >= by {
                return Err(failure);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// dlv has ended in order: this was done before, or somebody else had it end. What counts is
    /// the target.
    fn after_dlv(&mut self) -> Result<Outcome, Failure> {
        match self.timed("verify", Self::verify) {
            Ok(()) => Ok(Outcome::AlreadyGone),
            Err(Failure::Died) => Ok(Outcome::TargetExited),
            Err(failure) => Err(failure),
        }
    }

    /// Nothing is left to be put right where the target has ended too.
    fn after_dlvs_death(&mut self) -> Result<Outcome, Failure> {
        match self.look() {
            Err(Failure::TargetExited) => Ok(Outcome::TargetExited),
            _ => Err(Failure::DlvDied),
        }
    }
}

#[cfg(test)]
mod tests;
