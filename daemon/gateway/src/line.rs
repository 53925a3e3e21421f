//! One client's connection as the rest of the gateway sees it: what can be said to the client, asked of
//! dlv in its name, and kept back from it.

use crate::protocol::{Protocol, dap};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// A client that does not read what it is told hears no more of it.
const NOTICES: usize = 16;
/// For dlv to answer a request that was put between a client's own.
const PATIENCE: Duration = Duration::from_secs(2);
/// Numbers of such requests begin here; a client counts from one.
const FIRST_NUMBER: u64 = 1 << 30;

/// Whole messages for one of the two sides of a connection.
#[derive(Debug)]
pub(crate) enum Notice {
    ToClient(Vec<u8>),
    ToDebugger(Vec<u8>),
}

/// What the target does by a client's last request, as far as dlv has told that client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Course {
    #[default]
    Nothing,
    /// It runs since the request of this number.
    Runs(u64),
    /// The same, for a step.
    Steps(u64),
}

impl Course {
    pub(crate) fn is_under_way(self) -> bool {
        self != Self::Nothing
    }

    /// The request that dlv has not answered yet, for JSON-RPC.
    pub(crate) fn request(self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Runs(number) | Self::Steps(number) => Some(number),
        }
    }
}

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Line {
    protocol: Protocol,
    notices: mpsc::Sender<Notice>,
    /// An IDE that has attached and is through with its configuration.
    is_configured: AtomicBool,
    course: Mutex<Course>,
    /// How often the client itself has asked for the target to stop.
    halts: AtomicU64,
    /// The request that was put between the client's own and is not answered yet.
    pending: Mutex<Option<Pending>>,
    /// Where the next word of dlv goes that the target stands, instead of to the client.
    kept_back: Mutex<Option<oneshot::Sender<Vec<u8>>>>,
    /// What dlv's own client is told with its next answer.
    news: Mutex<Option<String>>,
    next_number: AtomicU64,
}

#[derive(Debug)]
struct Pending {
    number: u64,
    answered: oneshot::Sender<bool>,
}

impl Line {
    pub(crate) fn new(protocol: Protocol) -> (Self, mpsc::Receiver<Notice>) {
        let (notices, received) = mpsc::channel(NOTICES);
        let line = Self {
            protocol,
            notices,
            is_configured: AtomicBool::new(false),
            course: Mutex::default(),
            halts: AtomicU64::new(0),
            pending: Mutex::default(),
            kept_back: Mutex::default(),
            news: Mutex::default(),
            next_number: AtomicU64::new(FIRST_NUMBER),
        };
        (line, received)
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }
}

/// What the client does.
impl Line {
    pub(crate) fn is_configured(&self) -> bool {
        self.is_configured.load(Relaxed)
    }

    pub(crate) fn configured(&self) {
        self.is_configured.store(true, Relaxed);
    }

    pub(crate) fn course(&self) -> Course {
        *self.course_now()
    }

    /// The client's request of this number lets the target run, or step.
    pub(crate) fn sets_off(&self, number: u64, is_step: bool) {
        *self.course_now() = if is_step { Course::Steps(number) } else { Course::Runs(number) };
    }

    /// The client wants it to stand.
    pub(crate) fn wants_a_stop(&self) {
        self.halts.fetch_add(1, Relaxed);
    }

    pub(crate) fn halts(&self) -> u64 {
        self.halts.load(Relaxed)
    }

    /// dlv has told the client that the target stands, or has ended.
    pub(crate) fn stands(&self) {
        *self.course_now() = Course::Nothing;
    }

    fn course_now(&self) -> MutexGuard<'_, Course> {
        unpoisoned(&self.course)
    }
}

/// What is said to the client.
impl Line {
    /// A word: in an IDE's console, and for dlv's own client with its next answer.
    pub(crate) fn tell(&self, text: &str) {
        match self.protocol {
            Protocol::Dap => self.pass_on(dap::console(text)),
            Protocol::JsonRpc => *unpoisoned(&self.news) = Some(text.to_owned()),
        }
    }

    /// What dlv's own client has not been told yet.
    pub(crate) fn news(&self) -> Option<String> {
        unpoisoned(&self.news).take()
    }

    pub(crate) fn breakpoint_is_off(&self, number: i64, why: &str) {
        self.pass_on(dap::framed(&json!({
            "seq": 0, "type": "event", "event": "breakpoint",
            "body": {
                "reason": "changed",
                "breakpoint": { "id": number, "verified": false, "message": why },
            },
        })));
    }

    pub(crate) fn tell_it_runs(&self) {
        self.pass_on(continued());
    }

    /// This message, to the client.
    pub(crate) fn pass_on(&self, message: Vec<u8>) {
        let _ = self.notices.try_send(Notice::ToClient(message));
    }
}

/// What is asked of dlv in the client's name.
impl Line {
    /// Lets the target run by a request of this client's own, as if it had asked for it. Whether dlv
    /// did it.
    pub(crate) async fn resume(&self) -> bool {
        let done = self.go_on().await;
        if done {
            self.tell_it_runs();
        }
        done
    }

    /// The same for one that does not know that the target stood.
    pub(crate) async fn go_on(&self) -> bool {
        let done = self.ask("continue", &json!({ "threadId": 1 })).await;
        if done {
            self.sets_off(0, false);
        }
        done
    }

    /// Stops the target as if the IDE had asked for it. Whether dlv did it.
    pub(crate) async fn pause(&self) -> bool {
        self.ask("pause", &json!({ "threadId": 1 })).await
    }

    async fn ask(&self, command: &str, arguments: &Value) -> bool {
        let number = self.next_number.fetch_add(1, Relaxed);
        let (answered, answer) = oneshot::channel();
        *unpoisoned(&self.pending) = Some(Pending { number, answered });
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
        let mut pending = unpoisoned(&self.pending);
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

    /// From now on the next word that the target stands comes here instead of to the client.
    pub(crate) fn keep_back(&self) -> oneshot::Receiver<Vec<u8>> {
        let (sender, receiver) = oneshot::channel();
        *unpoisoned(&self.kept_back) = Some(sender);
        receiver
    }

    pub(crate) fn keep_back_no_more(&self) {
        *unpoisoned(&self.kept_back) = None;
    }

    /// The client's message `word`, which says that the target stands; given back when the client is
    /// to have it.
    pub(crate) fn kept_back(&self, word: Vec<u8>) -> Option<Vec<u8>> {
        let Some(sender) = unpoisoned(&self.kept_back).take() else { return Some(word) };
        // Whoever wanted it may have lost patience.
        sender.send(word).err()
    }
}

fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing can panic while one of them is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn continued() -> Vec<u8> {
    dap::framed(&json!({
        "seq": 0, "type": "event", "event": "continued",
        "body": { "threadId": 1, "allThreadsContinued": true },
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn text(notice: Option<Notice>) -> String {
        let Some(Notice::ToClient(bytes) | Notice::ToDebugger(bytes)) = notice else { panic!() };
        String::from_utf8(bytes).unwrap()
    }

    fn answer(number: u64, success: bool) -> Vec<u8> {
        let answer = json!({"type": "response", "request_seq": number, "success": success});
        answer.to_string().into_bytes()
    }

    #[tokio::test]
    async fn an_answer_to_our_own_question_is_taken_and_no_other() {
        let (line, mut notices) = Line::new(Protocol::Dap);
        assert!(!line.takes(&answer(FIRST_NUMBER, true)), "nothing was asked");
        let (done, ()) = tokio::join!(line.resume(), async {
            assert!(text(notices.recv().await).contains("\"command\":\"continue\""));
            assert!(!line.takes(&answer(7, true)));
            assert!(line.takes(&answer(FIRST_NUMBER, true)));
        });
        assert!(done && line.course().is_under_way());
        assert!(text(notices.recv().await).contains("allThreadsContinued"));
        let (done, ()) = tokio::join!(line.pause(), async {
            notices.recv().await;
            assert!(line.takes(&answer(FIRST_NUMBER + 1, false)));
        });
        assert!(!done);
    }

    #[tokio::test]
    async fn the_word_of_a_stop_is_kept_back_once_and_only_for_who_still_wants_it() {
        let (line, _notices) = Line::new(Protocol::Dap);
        assert_eq!(line.kept_back(vec![1]), Some(vec![1]));
        let kept = line.keep_back();
        assert_eq!(line.kept_back(vec![2]), None);
        assert_eq!(kept.await, Ok(vec![2]));
        assert_eq!(line.kept_back(vec![3]), Some(vec![3]));
        drop(line.keep_back());
        assert_eq!(line.kept_back(vec![4]), Some(vec![4]));
        let _kept = line.keep_back();
        line.keep_back_no_more();
        assert_eq!(line.kept_back(vec![5]), Some(vec![5]));
    }
}
