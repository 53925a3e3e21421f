//! The clients that are connected, and what can be said to them, or to dlv in their name, from
//! elsewhere in the gateway.

use crate::protocol::{Protocol, dap};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// Clients named in a status; more would not fit the line.
const CLIENTS_SHOWN: usize = 60;
/// A client that does not read what it is told hears no more of it.
const NOTICES: usize = 16;
/// For dlv to answer a request that was put between a client's own.
const PATIENCE: Duration = Duration::from_secs(2);
/// Numbers of such requests begin here; a client counts from one.
const FIRST_NUMBER: u64 = 1 << 30;

/// Everybody who is connected.
#[derive(Default)]
pub(crate) struct Clients {
    all: Mutex<BTreeMap<u64, Client>>,
    next: AtomicU64,
}

struct Client {
    peer: SocketAddr,
    line: Option<Arc<Line>>,
}

impl Clients {
    /// Shows this client in the status for as long as the returned value lives.
    pub(crate) fn list(&self, peer: SocketAddr) -> Listed<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        self.all().insert(number, Client { peer, line: None });
        Listed { clients: self, number }
    }

    /// The addresses, for the status.
    pub(crate) fn peers(&self) -> Vec<String> {
        self.all().values().take(CLIENTS_SHOWN).map(|client| client.peer.to_string()).collect()
    }

    pub(crate) fn is_anybody_there(&self) -> bool {
        !self.all().is_empty()
    }

    /// A line in the console of every IDE. dlv's own client has no place for one.
    pub(crate) fn tell(&self, text: &str) {
        for line in self.lines() {
            let _ = line.notices.try_send(Notice::ToClient(dap::console(text)));
        }
    }

    /// An IDE that thinks that the target stands because of it, the latest first: when it runs again
    /// by this one's connection, dlv will tell this one of the next stop.
    pub(crate) fn who_can_resume(&self) -> Option<Arc<Line>> {
        self.lines().into_iter().rev().find(|line| line.is_configured.load(Relaxed))
    }

    /// Tells every IDE but this one that the target runs.
    pub(crate) fn tell_it_runs(&self, but: Option<&Arc<Line>>) {
        for line in self.lines() {
            if but.is_none_or(|known| !Arc::ptr_eq(known, &line)) {
                let _ = line.notices.try_send(Notice::ToClient(continued()));
            }
        }
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        self.all().values().filter_map(|client| client.line.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Client>> {
        // Nothing can panic while it is held.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's entry. Dropping it takes it out.
pub(crate) struct Listed<'a> {
    clients: &'a Clients,
    number: u64,
}

impl Listed<'_> {
    /// The client speaks this protocol; what is said to it from now on comes out of the receiver.
    pub(crate) fn speaks(&self, protocol: Protocol) -> (Arc<Line>, mpsc::Receiver<Notice>) {
        let (notices, received) = mpsc::channel(NOTICES);
        let line = Arc::new(Line {
            notices,
            is_configured: AtomicBool::new(false),
            pending: Mutex::default(),
            next_number: AtomicU64::new(FIRST_NUMBER),
        });
        if protocol == Protocol::Dap
            && let Some(client) = self.clients.all().get_mut(&self.number)
        {
            client.line = Some(Arc::clone(&line));
        }
        (line, received)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.clients.all().remove(&self.number);
    }
}

/// Whole messages for one of the two sides of a connection.
#[derive(Debug)]
pub(crate) enum Notice {
    ToClient(Vec<u8>),
    ToDebugger(Vec<u8>),
}

/// One client's connection, as others see it.
#[derive(Debug)]
pub(crate) struct Line {
    notices: mpsc::Sender<Notice>,
    /// An IDE that has attached and is through with its configuration.
    is_configured: AtomicBool,
    /// The request that was put between the client's own and is not answered yet.
    pending: Mutex<Option<Pending>>,
    next_number: AtomicU64,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    answered: oneshot::Sender<bool>,
}

impl Line {
    pub(crate) fn is_configured(&self) {
        self.is_configured.store(true, Relaxed);
    }

    /// Lets the target run by a request of this client's own, as if it had asked for it. Whether dlv
    /// did it.
    pub(crate) async fn resume(&self) -> bool {
        let done = self.ask("continue", &json!({ "threadId": 1 })).await;
        if done {
            let _ = self.notices.try_send(Notice::ToClient(continued()));
        }
        done
    }

    async fn ask(&self, command: &str, arguments: &Value) -> bool {
        let number = self.next_number.fetch_add(1, Relaxed);
        let (answered, answer) = oneshot::channel();
        *self.pending() = Some(Pending { number, answered });
        let request = dap::framed(
            &json!({ "seq": number, "type": "request", "command": command, "arguments": arguments }),
        );
        if self.notices.try_send(Notice::ToDebugger(request)).is_err() {
            return false;
        }
        matches!(timeout(PATIENCE, answer).await, Ok(Ok(true)))
    }

    /// Whether this message of dlv's answers a request of ours, so that the client must not get it.
    pub(crate) fn takes(&self, body: &[u8]) -> bool {
        // Such an answer is short, and there is one only after a question.
        const LONGEST: usize = 4096;
        let mut pending = self.pending();
        let Some(number) = pending.as_ref().map(|pending| pending.number) else { return false };
        if body.len() > LONGEST {
            return false;
        }
        let Ok(message) = serde_json::from_slice::<Value>(body) else { return false };
        if message["type"] != "response" || message["request_seq"] != number {
            return false;
        }
        if let Some(pending) = pending.take() {
            let _ = pending.answered.send(message["success"] == true);
        }
        true
    }

    fn pending(&self) -> MutexGuard<'_, Option<Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn continued() -> Vec<u8> {
    dap::framed(&json!({
        "seq": 0, "type": "event", "event": "continued",
        "body": { "threadId": 1, "allThreadsContinued": true },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(notice: Option<Notice>) -> String {
        let Some(Notice::ToClient(bytes) | Notice::ToDebugger(bytes)) = notice else { panic!() };
        String::from_utf8(bytes).unwrap()
    }

    fn answer(number: u64, success: bool) -> Vec<u8> {
        let answer = json!({"type": "response", "request_seq": number, "success": success});
        answer.to_string().into_bytes()
    }

    #[tokio::test]
    async fn an_answer_to_our_own_question_is_taken_and_no_other() {
        let clients = Clients::default();
        let listed = clients.list("127.0.0.1:1".parse().unwrap());
        let (line, mut notices) = listed.speaks(Protocol::Dap);
        assert!(clients.who_can_resume().is_none());
        line.is_configured();
        let line = clients.who_can_resume().unwrap();
        assert!(!line.takes(&answer(FIRST_NUMBER, true)), "nothing was asked");
        let (done, ()) = tokio::join!(line.resume(), async {
            assert!(text(notices.recv().await).contains("\"command\":\"continue\""));
            assert!(!line.takes(&answer(7, true)));
            assert!(line.takes(&answer(FIRST_NUMBER, true)));
        });
        assert!(done);
        assert!(text(notices.recv().await).contains("allThreadsContinued"));
        let (done, ()) = tokio::join!(line.resume(), async {
            notices.recv().await;
            assert!(line.takes(&answer(FIRST_NUMBER + 1, false)));
        });
        assert!(!done);
    }

    #[test]
    fn only_ides_are_told_and_only_while_they_are_there() {
        let clients = Clients::default();
        let listed = clients.list("127.0.0.1:1".parse().unwrap());
        let (_line, mut notices) = listed.speaks(Protocol::JsonRpc);
        let other = clients.list("127.0.0.1:2".parse().unwrap());
        let (_other_line, mut other_notices) = other.speaks(Protocol::Dap);
        clients.tell("word");
        assert!(notices.try_recv().is_err());
        assert!(text(other_notices.try_recv().ok()).contains("word"));
        assert_eq!(clients.peers(), ["127.0.0.1:1", "127.0.0.1:2"]);
        drop((listed, other));
        assert!(!clients.is_anybody_there());
    }
}
