//! The attendant with a real dlv and a real Go program under the worst load: the program must
//! outlive every tear-down.
//!
//! Needs root, and a folder with a Debian that has dlv (1.22.1 or newer) and Go, named by
//! GODEBUG_TEST_ROOT (`mmdebstrap --variant=apt --include=delve,golang-go trixie FOLDER`). Without it
//! the tests pass without having tried anything, and say so. GODEBUG_TEST_RUNS is how often each
//! tear-down is repeated, 3 times unless told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const DLVCTL: &str = env!("CARGO_BIN_EXE_godebug-dlvctl");

/// One at a time: they are about load, and each makes its own.
static ONE: Mutex<()> = Mutex::new(());

struct Root(PathBuf);

impl Root {
    fn find() -> Option<(Self, MutexGuard<'static, ()>)> {
        let Some(root) = std::env::var_os("GODEBUG_TEST_ROOT") else {
            eprintln!("skipped: GODEBUG_TEST_ROOT names no folder with dlv and Go");
            return None;
        };
        let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let root = Self(PathBuf::from(root));
        root.build();
        Some((root, guard))
    }

    /// A command inside, with a /proc of its own mount namespace; it keeps the PID it is given.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = r#"mount -t proc proc "$0/proc" && exec chroot "$0" "$@""#;
        command.args(["--mount", "--", "sh", "-c", script]).arg(&self.0).arg(program);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/bin").env("HOME", "/tmp/storm");
        command.env("XDG_CONFIG_HOME", "/tmp/storm").env("LANG", "C.UTF-8");
        command
    }

    fn build(&self) {
        static BUILT: OnceLock<()> = OnceLock::new();
        BUILT.get_or_init(|| {
            let folder = self.0.join("tmp/storm");
            std::fs::create_dir_all(&folder).unwrap();
            for file in ["main.go", "go.mod"] {
                let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storm").join(file);
                std::fs::copy(from, folder.join(file)).unwrap();
            }
            let mut go = self.command("go");
            go.args(["build", "-C", "/tmp/storm", "-o", "/tmp/storm/storm", "."]);
            go.env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env("CGO_ENABLED", "0");
            let output = go.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join("tmp/storm").join(name)
    }
}

/// A running program with a dlv attached to it.
struct Session<'a> {
    root: &'a Root,
    target: Child,
    dlv: Child,
}

impl<'a> Session<'a> {
    fn start(root: &'a Root) -> Self {
        for name in ["count", "count.exit", "dlv.sock", "control.sock"] {
            let _ = std::fs::remove_file(root.path(name));
        }
        let mut target = root.command("/tmp/storm/storm");
        let errors = std::fs::File::create(root.path("storm.log")).unwrap();
        target.arg("/tmp/storm/count").stdout(Stdio::null()).stderr(errors);
        let target = target.spawn().unwrap();
        until("the program counts", || root.path("count").exists());

        let log = std::fs::File::create(root.path("dlv.log")).unwrap();
        let mut dlv = root.command("dlv");
        dlv.args(["attach", &target.id().to_string(), "--headless", "--api-version=2"]);
        dlv.args(["--accept-multiclient", "--continue", "--listen=unix:/tmp/storm/dlv.sock"]);
        dlv.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let dlv = dlv.spawn().unwrap();
        let session = Self { root, target, dlv };
        let ready = session.dlvctl("ready", &[&session.dlv.id().to_string(), "LOG"]);
        assert!(ready.status.success(), "{}", String::from_utf8_lossy(&ready.stderr));
        session
    }

    fn dlvctl(&self, task: &str, more: &[&str]) -> Output {
        let mut command = Command::new(DLVCTL);
        command.arg(task).arg(self.root.path("dlv.sock")).arg(self.target.id().to_string());
        for word in more {
            match *word {
                "LOG" => command.arg(self.root.path("dlv.log")),
                "CONTROL" => command.arg(self.root.path("control.sock")),
                word => command.arg(word),
            };
        }
        command.output().unwrap()
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.root.path("dlv.sock")).unwrap()
    }

    /// Detaches and checks everything that must hold after; returns how long it took.
    fn detach_and_check(mut self) -> Duration {
        let start = Instant::now();
        let output = self.dlvctl("detach", &["CONTROL"]);
        let took = start.elapsed();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        assert!(said.contains("\"outcome\":\"detached\""), "{said}");
        let mut status = None;
        until("dlv ends by itself", || {
            status = self.dlv.try_wait().unwrap();
            status.is_some()
        });
        assert_eq!(status.unwrap().code(), Some(0), "{said}");
        self.check_alive(&said);
        let again = self.dlvctl("detach", &["CONTROL"]);
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        eprintln!("{} {}", took.as_millis(), said.trim());
        took
    }

    /// It runs, and goes on for long enough to run into whatever was left in it.
    fn check_alive(&mut self, said: &str) {
        let root = self.root;
        // Empty when it is read just as the program writes it.
        let count = || std::fs::read_to_string(root.path("count")).unwrap_or_default();
        let before = count();
        until("the target counts on", || !count().is_empty() && count() != before);
        std::thread::sleep(Duration::from_millis(300));
        let ended = self.target.try_wait().unwrap();
        let log = std::fs::read_to_string(root.path("storm.log")).unwrap_or_default();
        assert!(ended.is_none(), "the target died: {ended:?}\n{said}\n{log}");
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        for child in [&mut self.dlv, &mut self.target] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "it took too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A client of dlv's JSON-RPC.
struct Rpc(BufReader<UnixStream>, u64);

impl Rpc {
    fn new(stream: UnixStream) -> Self {
        Self(BufReader::new(stream), 0)
    }

    fn tell(&mut self, method: &str, params: &Value) {
        self.1 += 1;
        let question =
            json!({ "method": format!("RPCServer.{method}"), "params": [params], "id": self.1 });
        writeln!(self.0.get_mut(), "{question}").unwrap();
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.tell(method, params);
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let answer: Value = serde_json::from_str(&line).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer
    }

    /// Sets a breakpoint in `tick` and lets the program run into it.
    fn set_breakpoint(&mut self, condition: &str) {
        self.ask("Command", &json!({ "name": "halt" }));
        let breakpoint = json!({ "functionName": "main.tick", "line": -1, "Cond": condition });
        self.ask("CreateBreakpoint", &json!({ "Breakpoint": breakpoint }));
        self.tell("Command", &json!({ "name": "continue" }));
    }
}

/// A client of dlv's DAP, as an IDE is one.
struct Dap(BufReader<UnixStream>, u64);

impl Dap {
    fn send(&mut self, command: &str, arguments: &Value) {
        self.1 += 1;
        let text = json!({ "seq": self.1, "type": "request", "command": command,
            "arguments": arguments })
        .to_string();
        write!(self.0.get_mut(), "Content-Length: {}\r\n\r\n{text}", text.len()).unwrap();
    }

    fn await_message(&mut self, wanted: impl Fn(&Value) -> bool) {
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                assert_ne!(self.0.read_line(&mut line).unwrap(), 0, "dlv closed");
                match line.trim().split_once(": ") {
                    Some(("Content-Length", value)) => length = value.parse().unwrap(),
                    _ => break,
                }
            }
            let mut text = vec![0; length];
            self.0.read_exact(&mut text).unwrap();
            let message: Value = serde_json::from_slice(&text).unwrap();
            assert_ne!(message["success"], json!(false), "{message}");
            if wanted(&message) {
                return;
            }
        }
    }

    fn ask(&mut self, command: &str, arguments: &Value) {
        self.send(command, arguments);
        self.await_message(|it| it["type"] == "response" && it["command"] == command);
    }

    /// Attaches, sets the breakpoint and lets the program run.
    fn set_breakpoint(stream: UnixStream, condition: &str) -> Self {
        let mut dap = Self(BufReader::new(stream), 0);
        dap.ask("initialize", &json!({ "adapterID": "go", "pathFormat": "path" }));
        dap.send("attach", &json!({ "mode": "remote" }));
        dap.await_message(|it| it["event"] == "initialized");
        let breakpoints = json!([{ "name": "main.tick", "condition": condition }]);
        dap.ask("setFunctionBreakpoints", &json!({ "breakpoints": breakpoints }));
        dap.ask("configurationDone", &json!({}));
        dap
    }
}

/// Stands for the gateway: on Cut it closes the client's connection to dlv.
fn gateway(root: &Root, client: UnixStream) {
    let listener = UnixListener::bind(root.path("control.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut client = Some(client);
        let reader = BufReader::new(stream.try_clone().unwrap());
        for line in reader.lines().map_while(Result::ok) {
            let reply = if line.contains("cut") {
                if let Some(client) = client.take() {
                    client.shutdown(std::net::Shutdown::Both).unwrap();
                }
                json!({ "reply": "done" })
            } else {
                json!({ "reply": "status", "clients": [], "accepted": 1, "refused": 0,
                    "bytes_in": 0, "bytes_out": 0, "cut": true })
            };
            let _ = writeln!(stream, "{reply}");
        }
    });
}

fn repeat(name: &str, prepare: impl Fn(&Session<'_>)) {
    let Some((root, _guard)) = Root::find() else { return };
    let runs = std::env::var("GODEBUG_TEST_RUNS").ok().and_then(|text| text.parse().ok());
    let runs = runs.unwrap_or(3);
    let mut times = Vec::new();
    for run in 0..runs {
        let session = Session::start(&root);
        prepare(&session);
        eprint!("{name} {}: ", run + 1);
        times.push(session.detach_and_check());
    }
    times.sort();
    eprintln!(
        "{name}: {runs} of {runs} lived, median {:?}, longest {:?}",
        times[runs / 2],
        times[runs - 1]
    );
}

/// Long enough for the storm to be at its height.
const STORM: Duration = Duration::from_millis(200);

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn a_storm_of_hits_with_a_json_rpc_client() {
    repeat("storm, JSON-RPC", |session| {
        let mut client = Rpc::new(session.connect());
        client.set_breakpoint("n < 0");
        std::thread::sleep(STORM);
        gateway(session.root, client.0.into_inner());
    });
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn a_storm_of_hits_with_a_dap_client() {
    repeat("storm, DAP", |session| {
        let client = Dap::set_breakpoint(session.connect(), "n < 0");
        std::thread::sleep(STORM);
        gateway(session.root, client.0.into_inner());
    });
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn halted_at_a_breakpoint() {
    repeat("halted, JSON-RPC", |session| {
        let mut client = Rpc::new(session.connect());
        client.set_breakpoint("");
        std::thread::sleep(STORM);
        let state = client.ask("State", &json!({ "NonBlocking": true }));
        assert!(!state.to_string().contains("\"Running\":true"), "{state}");
        gateway(session.root, client.0.into_inner());
    });
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn halted_at_a_breakpoint_with_a_dap_client() {
    repeat("halted, DAP", |session| {
        let mut client = Dap::set_breakpoint(session.connect(), "");
        client.await_message(|it| it["event"] == "stopped");
        gateway(session.root, client.0.into_inner());
    });
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn nobody_ever_connected() {
    repeat("idle", |_| {});
}

/// Not a promise of ours: shows that the load above is one that a plain SIGTERM to dlv does not
/// survive, so that the tests above mean something.
#[test]
#[ignore = "measures dlv, not the attendant; run it by name"]
fn what_a_plain_sigterm_does_under_the_storm() {
    let Some((root, _guard)) = Root::find() else { return };
    let (runs, mut died, mut hung) = (20, 0, 0);
    for _ in 0..runs {
        let mut session = Session::start(&root);
        let mut client = Rpc::new(session.connect());
        client.set_breakpoint("n < 0");
        std::thread::sleep(STORM);
        drop(client);
        std::thread::sleep(Duration::from_millis(60));
        let pid = rustix::process::Pid::from_child(&session.dlv);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let start = Instant::now();
        while session.dlv.try_wait().unwrap().is_none() && start.elapsed().as_secs() < 5 {
            std::thread::sleep(Duration::from_millis(5));
        }
        hung += i32::from(session.dlv.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(300));
        died += i32::from(session.target.try_wait().unwrap().is_some());
    }
    eprintln!("plain SIGTERM: of {runs} targets {died} died, {hung} dlv hung");
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn a_target_that_has_exited_leaves_a_dlv_that_sigterm_ends() {
    let Some((root, _guard)) = Root::find() else { return };
    let mut session = Session::start(&root);
    std::fs::write(root.path("count.exit"), "").unwrap();
    until("the target ends", || session.target.try_wait().unwrap().is_some());
    assert!(session.dlv.try_wait().unwrap().is_none());
    let output = session.dlvctl("detach", &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("target-exited"), "{said}");
    let pid = rustix::process::Pid::from_child(&session.dlv);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let start = Instant::now();
    until("dlv ends", || session.dlv.try_wait().unwrap().is_some());
    eprintln!("after SIGTERM dlv took {:?}: {:?}", start.elapsed(), session.dlv.try_wait());
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn a_dlv_that_cannot_attach_is_not_ready_and_its_words_are_passed_on() {
    let Some((root, _guard)) = Root::find() else { return };
    let session = Session::start(&root);
    let log_path = root.path("second.log");
    let log = std::fs::File::create(&log_path).unwrap();
    let mut second = root.command("dlv");
    second.args(["attach", &session.target.id().to_string(), "--headless", "--api-version=2"]);
    second.args(["--accept-multiclient", "--continue", "--listen=unix:/tmp/storm/second.sock"]);
    let _ = std::fs::remove_file(root.path("second.sock"));
    second.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut second = second.spawn().unwrap();
    let output = Command::new(DLVCTL)
        .arg("ready")
        .arg(root.path("second.sock"))
        .args([session.target.id().to_string(), second.id().to_string()])
        .arg(&log_path)
        .output()
        .unwrap();
    second.wait().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("ended before") && said.contains("dlv: "), "{said}");
    eprintln!("{said}");
    session.detach_and_check();
}
