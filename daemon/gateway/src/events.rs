//! dlv's events in JSON-RPC, from Delve 1.25.1 on: beside a `Command` its client asks `GetEvents` again and
//! again, on the same connection, until one of them says that the command is over. dlv answers
//! `GetEvents` when there is an event, and for a refused command there is none: so that the client
//! does not wait for ever, and no question stays with dlv and takes the next command's events, such
//! questions are answered here.
//!
//! Source: `callWhileDrainingEvents` of service/rpc2/client.go, `GetEvents` of service/rpc2/server.go.

use crate::protocol::rpc::Request;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// `EventStopped` of service/api/types.go.
pub(crate) const STOPPED: u8 = 1;
/// A client has one question open at a time; more than this are none that dlv's client asks.
const MOST_HELD: usize = 8;
/// An answer to `GetEvents` is short; longer ones are not looked into.
const LONGEST_ANSWER: usize = 64 << 10;

/// What one connection's two directions know of its events.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// dlv has a command whose end it has not told yet.
    is_under_way: bool,
    /// Numbers of the questions that dlv has.
    asked: BTreeSet<u64>,
    /// Questions that came before the command that they are about.
    held: Vec<Request>,
    /// A command was refused, and the question about its events is still to come.
    owes_an_end: bool,
}

/// What is done with a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Question {
    ForDlv,
    /// The command is over: it was refused.
    Over,
    /// Until the command is here.
    Held,
    TooMany,
}

impl Events {
    /// A `GetEvents` has come.
    pub(crate) fn asked(&self, request: &Request) -> Question {
        let mut state = self.state();
        if state.is_under_way && state.asked.len() < MOST_HELD {
            state.asked.extend(request.id.as_u64());
            Question::ForDlv
        } else if state.is_under_way {
            Question::TooMany
        } else if std::mem::take(&mut state.owes_an_end) {
            Question::Over
        } else if state.held.len() < MOST_HELD {
            state.held.push(request.clone());
            Question::Held
        } else {
            Question::TooMany
        }
    }

    /// A command with events goes to dlv; these questions go after it.
    pub(crate) fn begins(&self) -> Vec<Request> {
        let mut state = self.state();
        state.is_under_way = true;
        let held = std::mem::take(&mut state.held);
        state.asked.extend(held.iter().filter_map(|request| request.id.as_u64()));
        held
    }

    /// A command with events was refused; these questions learn that it is over.
    pub(crate) fn refused(&self) -> Vec<Request> {
        let mut state = self.state();
        let held = std::mem::take(&mut state.held);
        state.owes_an_end = held.is_empty();
        held
    }

    /// dlv has said this.
    pub(crate) fn heard(&self, body: &[u8]) {
        let mut state = self.state();
        if state.asked.is_empty() || body.len() > LONGEST_ANSWER {
            return;
        }
        let Ok(answer) = serde_json::from_slice::<Answer>(body) else { return };
        if state.asked.remove(&answer.id) {
            let events = answer.result.map(|result| result.events).unwrap_or_default();
            if events.iter().any(|event| event.kind == STOPPED) {
                state.is_under_way = false;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
struct Answer {
    id: u64,
    result: Option<Told>,
}

#[derive(Deserialize)]
struct Told {
    #[serde(rename = "Events", default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "Kind")]
    kind: u8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(id: u64) -> Request {
        crate::protocol::rpc::request(
            format!(r#"{{"method":"RPCServer.GetEvents","params":[{{}}],"id":{id}}}"#).as_bytes(),
        )
        .unwrap()
    }

    fn told(id: u64, kind: u8) -> Vec<u8> {
        format!(r#"{{"id":{id},"result":{{"Events":[{{"Kind":{kind}}}]}},"error":null}}"#).into()
    }

    #[test]
    fn a_question_about_a_refused_command_is_answered_whichever_came_first() {
        let events = Events::default();
        assert_eq!(events.asked(&question(1)), Question::Held);
        let held = events.refused();
        assert_eq!(held.len(), 1);
        assert!(events.refused().is_empty());
        assert_eq!(events.asked(&question(2)), Question::Over);
        assert_eq!(events.asked(&question(3)), Question::Held);
    }

    #[test]
    fn dlv_is_asked_until_it_says_that_the_command_is_over() {
        let events = Events::default();
        assert_eq!(events.asked(&question(1)), Question::Held);
        assert_eq!(events.begins().len(), 1);
        events.heard(br#"{"id":7,"result":{"State":{}},"error":null}"#);
        events.heard(&told(1, 0));
        assert_eq!(events.asked(&question(2)), Question::ForDlv);
        events.heard(&told(2, STOPPED));
        // Of the next command, which is not here yet.
        assert_eq!(events.asked(&question(3)), Question::Held);
    }

    #[test]
    fn what_dlvs_client_never_asks_is_bounded() {
        let events = Events::default();
        for id in 0..MOST_HELD {
            assert_eq!(events.asked(&question(id as u64)), Question::Held);
        }
        assert_eq!(events.asked(&question(99)), Question::TooMany);
        // The same when they are dlv's, until it has answered one.
        assert_eq!(events.begins().len(), MOST_HELD);
        assert_eq!(events.asked(&question(99)), Question::TooMany);
        events.heard(&told(3, 0));
        assert_eq!(events.asked(&question(99)), Question::ForDlv);
    }
}
