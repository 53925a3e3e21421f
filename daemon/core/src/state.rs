//! The life of a session. [`next`] holds every legal move; whatever it does not list is an error.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a session is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Waits for somebody's consent; nothing is granted.
    PendingApproval,
    /// Grants are being taken.
    Preparing,
    /// dlv has answered; the time to live is running.
    Active,
    /// Grants are being given back.
    Closing,
    /// Everything was given back, proved by reading back.
    Closed,
    /// Something could not be given back; it is retried, and shown until it succeeds.
    Stuck,
}

impl State {
    /// Whether the session holds, or may hold, a grant.
    pub fn is_live(self) -> bool {
        !matches!(self, Self::Closed | Self::PendingApproval)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PendingApproval => "pending-approval",
            Self::Preparing => "preparing",
            Self::Active => "active",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Stuck => "stuck",
        })
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// Its time to live was over.
    Expired,
    /// Somebody asked for it.
    Stopped,
    /// The `godebugctl attach` that held it in the foreground is gone.
    ClientGone,
    TargetExited,
    DebuggerExited,
    /// What was asked for has been done.
    Finished,
    /// Somebody whose consent it needed said no.
    Denied,
    /// A grant could not be taken, or one was lost while the session was active.
    Failed,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::Stopped => "stopped",
            Self::ClientGone => "client-gone",
            Self::TargetExited => "target-exited",
            Self::DebuggerExited => "debugger-exited",
            Self::Finished => "finished",
            Self::Denied => "denied",
            Self::Failed => "failed",
        })
    }
}

/// What can happen to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    Approved,
    /// Denied, or its claim-by time passed, or the requester took it back.
    Dropped,
    /// Every grant of the plan is taken and dlv has answered.
    Ready,
    /// Any of the reasons to end, planned or not.
    End,
    /// All undone and read back.
    Proved,
    /// An undo or its proof failed.
    UndoFailed,
}

/// A move that the life of a session does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session that is {state} cannot take {event:?}")]
pub struct IllegalMove {
    pub state: State,
    pub event: Event,
}

/// The state after `event`.
///
/// # Errors
/// [`IllegalMove`] for every pair that is not listed here.
pub fn next(state: State, event: Event) -> Result<State, IllegalMove> {
    use Event::*;
    match (state, event) {
        (State::PendingApproval, Approved) => Ok(State::Preparing),
        (State::PendingApproval, Dropped) => Ok(State::Closed),
        (State::Preparing, Ready) => Ok(State::Active),
        (State::Preparing | State::Active, End) => Ok(State::Closing),
        // A retry starts from `Stuck`, a second request to end finds it `Closing`: both are the
        // same work again.
        (State::Closing | State::Stuck, End) => Ok(State::Closing),
        (State::Closing, Proved) => Ok(State::Closed),
        (State::Closing, UndoFailed) => Ok(State::Stuck),
        (state, event) => Err(IllegalMove { state, event }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 6] = [
        State::PendingApproval,
        State::Preparing,
        State::Active,
        State::Closing,
        State::Closed,
        State::Stuck,
    ];
    const EVENTS: [Event; 6] = [
        Event::Approved,
        Event::Dropped,
        Event::Ready,
        Event::End,
        Event::Proved,
        Event::UndoFailed,
    ];

    #[test]
    fn closed_is_final_and_only_proof_leads_there_from_a_live_state() {
        for event in EVENTS {
            assert!(next(State::Closed, event).is_err());
        }
        for state in STATES {
            for event in EVENTS {
                if next(state, event) == Ok(State::Closed) && state != State::PendingApproval {
                    assert_eq!((state, event), (State::Closing, Event::Proved));
                }
            }
        }
    }

    #[test]
    fn every_live_state_can_end() {
        for state in STATES.into_iter().filter(|state| state.is_live()) {
            assert_eq!(next(state, Event::End), Ok(State::Closing));
        }
    }
}
