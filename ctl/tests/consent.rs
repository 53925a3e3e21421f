//! What needs the approval of others, as whoever asks and whoever approves see it.
#![allow(clippy::unwrap_used)]

mod fake;
mod pki;

use fake::{Host, ID};
use godebug_api::State;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::timeout;

const ATTACH: [&str; 5] = ["--json", "attach", "guarded", "--listen", "127.0.0.1:0"];

/// A `godebugctl attach` that waits for somebody's approval.
struct Waiting {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<ChildStderr>,
    told: String,
}

impl Waiting {
    async fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut child = host.godebugctl(arguments).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let err = BufReader::new(child.stderr.take().unwrap());
        let mut waiting = Self { child, out, err, told: String::new() };
        waiting.is_told("Ctrl-C").await;
        waiting
    }

    async fn is_told(&mut self, part: &str) {
        let all = async {
            while !self.told.contains(part) {
                assert_ne!(self.err.read_line(&mut self.told).await.unwrap(), 0, "{}", self.told);
            }
        };
        timeout(Duration::from_secs(20), all).await.unwrap();
    }

    fn interrupt(&self) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
    }

    async fn end(mut self) -> (i32, String, String) {
        let mut out = String::new();
        let all = async {
            self.out.read_to_string(&mut out).await.unwrap();
            self.err.read_to_string(&mut self.told).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = timeout(Duration::from_secs(20), all).await.unwrap();
        (status.code().unwrap(), out, self.told)
    }
}

fn is_harmless(text: &str) -> bool {
    !text.chars().any(|c| c != '\n' && c.is_control())
}

#[tokio::test]
async fn attach_waits_says_who_can_approve_it_and_goes_on_then() {
    let host = Host::start().await;
    let mut waiting = Waiting::start(&host, &ATTACH).await;
    let command = format!("godebugctl approve {ID}");
    assert!(waiting.told.contains("waits for 1 approval by"), "{}", waiting.told);
    assert!(waiting.told.contains(&command) && is_harmless(&waiting.told), "{}", waiting.told);
    host.book.lock().unwrap().approve();
    host.tell().await;
    let mut document = String::new();
    timeout(Duration::from_secs(20), waiting.out.read_line(&mut document)).await.unwrap().unwrap();
    let document: Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["state"], "active");
    waiting.interrupt();
    let (status, out, err) = waiting.end().await;
    assert_eq!((status, out.as_str()), (0, ""), "{err}");
    assert!(err.contains("approved by") && err.contains("(1 of 1)"), "{err}");
    assert!(host.book.lock().unwrap().request.as_ref().unwrap().hold);
}

#[tokio::test]
async fn a_no_is_told_with_its_reason_and_is_a_refusal() {
    let host = Host::start().await;
    let waiting = Waiting::start(&host, &ATTACH).await;
    host.book.lock().unwrap().refuse("not on a Friday");
    host.tell().await;
    let (status, out, err) = waiting.end().await;
    assert_eq!(status, 3, "{err}");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["error"]["code"], "refused");
    assert!(err.contains("refused by lea: not on a Friday"), "{err}");
}

#[tokio::test]
async fn leaving_takes_the_request_back_unless_it_was_left_waiting_before() {
    let host = Host::start().await;
    let waiting = Waiting::start(&host, &ATTACH).await;
    waiting.interrupt();
    let (status, _, err) = waiting.end().await;
    assert_eq!(status, 1, "{err}");
    assert!(err.contains("taken back; nothing was changed"), "{err}");
    assert_eq!(host.book.lock().unwrap().stops, 1);

    let (status, out, err) = host.run(&["--json", "attach", "guarded", "--detach"]).await;
    assert_eq!(status, 0, "{err}");
    let left: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&left["id"], &left["state"]), (&ID.into(), &"pending-approval".into()));
    let claim = ["claim", ID, "--listen", "127.0.0.1:0"];
    let waiting = Waiting::start(&host, &claim).await;
    assert!(waiting.told.contains("Ctrl-C leaves it waiting"), "{}", waiting.told);
    waiting.interrupt();
    let (status, _, err) = waiting.end().await;
    assert_eq!(status, 1);
    assert!(err.contains(&format!("godebugctl claim {ID}")), "{err}");
    assert_eq!(host.book.lock().unwrap().stops, 1, "nobody took it back");
}

#[tokio::test]
async fn a_detached_request_says_how_to_go_on_and_is_claimed_when_it_is_approved() {
    let host = Host::start().await;
    let (status, out, err) = host.run(&["attach", "guarded", "--detach"]).await;
    assert_eq!(status, 0, "{err}");
    for part in [format!("approve {ID}"), format!("claim {ID}"), format!("stop {ID}")] {
        assert!(out.contains(&part), "no {part}: {out}");
    }
    assert!(is_harmless(&out), "{out}");
    let ticket = host.directory.path().join("ticket");
    let claim = ["claim", ID, "--detach", "--ticket", ticket.to_str().unwrap()];
    let (status, _, err) = host.run(&claim).await;
    assert_eq!(status, 3, "{err}");
    assert!(err.contains("0 of 1 approvals"), "{err}");
    let (status, out, _) = host.run(&["list", "--pending"]).await;
    assert_eq!((status, out.lines().count()), (0, 2), "{out}");
    assert!(out.contains("0 of 1") && is_harmless(&out), "{out}");
    let (status, out, err) = host.run(&["approve", ID]).await;
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with("approved (1 of 1)") && is_harmless(&out), "{out}");
    let (status, out, err) = host.run(&claim).await;
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("godebugctl connect") && ticket.exists(), "{out}");
    assert_eq!(host.book.lock().unwrap().session.as_ref().unwrap().state, State::Active);
    let (status, _, err) = host.run(&claim).await;
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("taken up already"), "{err}");
}

#[tokio::test]
async fn whoever_approves_at_a_terminal_sees_what_it_is_and_is_asked() {
    for (answer, expected, given) in [("y\n", 0, 1), ("n\n", 1, 0)] {
        let host = Host::start().await;
        let reason = "--reason=orders-are-slow";
        host.run(&["attach", "guarded", "--detach", reason]).await;
        let (status, shown) = host.on_a_terminal(&["approve", ID], "[y/N]", answer).await;
        assert_eq!(status, expected, "{shown}");
        for part in ["guarded.service", "orders-are-slow", "30m", "step", "recorded as approved"] {
            assert!(shown.contains(part), "no {part}: {shown}");
        }
        let book = host.book.lock().unwrap();
        assert_eq!(book.session.as_ref().unwrap().approvals.len(), given);
    }
}

#[tokio::test]
async fn a_refusal_needs_a_reason() {
    let host = Host::start().await;
    host.run(&["attach", "guarded", "--detach"]).await;
    assert_eq!(host.run(&["deny", ID]).await.0, 2);
    let (status, out, err) = host.run(&["deny", ID, "--reason", "not now"]).await;
    assert_eq!(status, 0, "{err}");
    assert!(out.starts_with("refused; ") && is_harmless(&out), "{out}");
    let (status, _, err) = host.run(&["claim", ID, "--detach"]).await;
    assert_eq!(status, 3, "{err}");
    assert!(err.contains("refused by lea: not now"), "{err}");
}
