//! The tear-down against a fake dlv: which questions it asks in which order, and what it does when
//! the answers do not come. The real dlv is in `tests/real.rs`.

use super::*;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

/// Answers a question; `None` is silence.
type Answers = fn(&Fake, &str, &Value) -> Option<Value>;

struct Fake {
    answers: Answers,
    asked: Mutex<Vec<String>>,
}

struct Bench {
    folder: tempfile::TempDir,
    target: Child,
    fake: Arc<Fake>,
}

impl Bench {
    fn new(answers: Answers) -> Self {
        let target = Command::new("sleep").arg("60").spawn().unwrap();
        let fake = Arc::new(Fake { answers, asked: Mutex::default() });
        Self { folder: tempfile::tempdir().unwrap(), target, fake }
    }

    /// Serves until it is asked to detach, then ends as dlv does: without its socket.
    fn serving(answers: Answers) -> Self {
        let bench = Self::new(answers);
        let listener = UnixListener::bind(bench.socket()).unwrap();
        let (fake, socket) = (Arc::clone(&bench.fake), bench.socket());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (fake, socket) = (Arc::clone(&fake), socket.clone());
                std::thread::spawn(move || fake.talk(stream, &socket));
            }
        });
        bench
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("dlv.sock")
    }

    fn detach(&self) -> Summary {
        detach(&self.socket(), Pid::try_from(self.target.id()).unwrap(), None)
    }

    fn asked(&self) -> Vec<String> {
        self.fake.asked.lock().unwrap().clone()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.target.kill().unwrap();
        self.target.wait().unwrap();
    }
}

impl Fake {
    fn talk(&self, stream: UnixStream, socket: &Path) {
        let mut writer = stream.try_clone().unwrap();
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let question: Value = serde_json::from_str(&line).unwrap();
            let method = question["method"].as_str().unwrap().trim_start_matches("RPCServer.");
            let params = &question["params"][0];
            let name = params["name"].as_str().unwrap_or(method);
            self.asked.lock().unwrap().push(name.to_owned());
            let Some(mut answer) = (self.answers)(self, name, params) else { continue };
            answer["id"] = question["id"].clone();
            let _ = writeln!(writer, "{answer}");
            if name == "Detach" {
                std::fs::remove_file(socket).unwrap();
                return;
            }
        }
    }
}

fn good(_: &Fake, name: &str, _: &Value) -> Option<Value> {
    let result = match name {
        "halt" => json!({ "State": { "Running": false } }),
        "State" => json!({ "State": { "Running": true } }),
        "continue" => return None,
        "ListBreakpoints" => json!({ "Breakpoints": [{ "id": -1 }, { "id": 2 }, { "id": 7 }] }),
        _ => json!({}),
    };
    Some(json!({ "result": result, "error": null }))
}

#[test]
fn the_steps_come_in_their_order_and_once_more_does_no_harm() {
    let bench = Bench::serving(good);
    let summary = bench.detach();
    assert_eq!(summary.outcome(), Outcome::Detached, "{summary}");
    let expected =
        "halt ListBreakpoints ClearBreakpoint ClearBreakpoint continue State halt Detach";
    assert_eq!(bench.asked().join(" "), expected);
    assert!(summary.to_string().contains("\"breakpoints\":2,\"rounds\":1"), "{summary}");
    assert_eq!(bench.detach().outcome(), Outcome::AlreadyGone);
}

#[test]
fn a_lost_halt_is_sent_again_on_another_connection() {
    let bench = Bench::serving(|fake, name, params| {
        let first = fake.asked.lock().unwrap().len() == 1;
        if first { None } else { good(fake, name, params) }
    });
    assert_eq!(bench.detach().outcome(), Outcome::Detached);
    assert_eq!(bench.asked()[..2], ["halt", "halt"]);
}

#[test]
fn a_dlv_that_hangs_is_given_up_in_time_for_the_last_resort() {
    let bench = Bench::serving(|_, _, _| None);
    let start = Instant::now();
    let summary = bench.detach();
    assert!(!summary.is_clean());
    assert!(start.elapsed() < TOTAL, "{:?}", start.elapsed());
    assert!(summary.to_string().contains("\"failed_step\":\"halt\""), "{summary}");
}

#[test]
fn a_dlv_that_hangs_in_its_last_step_is_not_called_clean() {
    let bench = Bench::serving(
        |fake, name, params| {
            if name == "Detach" { None } else { good(fake, name, params) }
        },
    );
    let summary = bench.detach();
    assert!(!summary.is_clean() && summary.to_string().contains("\"failed_step\":\"detach\""));
}

#[test]
fn a_target_that_has_exited_needs_no_detach() {
    let exited = |_: &Fake, _: &str, _: &Value| {
        let error = "Process 7 has exited with status 0";
        Some(json!({ "result": null, "error": error }))
    };
    let mut bench = Bench::serving(exited);
    assert_eq!(bench.detach().outcome(), Outcome::TargetExited);
    bench.target.kill().unwrap();
    bench.target.wait().unwrap();
    assert_eq!(bench.detach().outcome(), Outcome::TargetExited);
    assert_eq!(bench.asked(), ["halt"], "a dead target's dlv is not asked");
}

#[test]
fn a_dlv_that_died_is_not_called_detached() {
    let mut bench = Bench::new(good);
    drop(UnixListener::bind(bench.socket()).unwrap());
    let summary = bench.detach();
    assert!(!summary.is_clean() && summary.to_string().contains("died"), "{summary}");
    bench.target.kill().unwrap();
    assert_eq!(bench.detach().outcome(), Outcome::TargetExited);
}
