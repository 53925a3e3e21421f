//! Images of a real Go program under load, which checks every result that the kernel gives it and
//! counts its signals: nothing may be lost, nothing may die, nothing may be left.
//!
//! Needs root, and a folder with a Debian that has dlv (1.22.1 or newer) and Go, named by
//! GODEBUG_TEST_ROOT (`mmdebstrap --variant=apt --include=delve,golang-go trixie FOLDER`). Without it
//! the tests pass without having tried anything, and say so. With GODEBUG_TEST_BUILT the programs are
//! there already and Go is not needed. GODEBUG_TEST_IMAGES is how many images each takes, 20 unless told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use godebug_api::handover::ImageSocket;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const IMAGE: &str = env!("CARGO_BIN_EXE_godebug-image");
/// The machine that runs this may be busy with other things.
const SOON: Duration = Duration::from_secs(60);

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

    fn build(&self) {
        static BUILT: OnceLock<()> = OnceLock::new();
        if std::env::var_os("GODEBUG_TEST_BUILT").is_some() {
            return;
        }
        BUILT.get_or_init(|| {
            let folder = self.path("");
            std::fs::create_dir_all(&folder).unwrap();
            for file in ["main.go", "go.mod"] {
                let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/steady").join(file);
                std::fs::copy(from, folder.join(file)).unwrap();
            }
            for (name, mode) in [("steady", "exe"), ("steady-pie", "pie")] {
                let mut go = Command::new("unshare");
                let script = r#"mount -t proc proc "$0/proc" && exec chroot "$0" "$@""#;
                go.args(["--mount", "--", "sh", "-c", script]).arg(&self.0).arg("go");
                go.args(["build", "-C", "/tmp/steady", "-o"]).arg(name);
                go.arg(format!("-buildmode={mode}")).arg(".").env_clear();
                go.env("PATH", "/usr/sbin:/usr/bin:/bin").env("HOME", "/tmp/steady");
                go.env("GOTOOLCHAIN", "local").env("GOPROXY", "off").env("CGO_ENABLED", "0");
                let output = go.output().unwrap();
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        });
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join("tmp/steady").join(name)
    }
}

/// The running program. Its parent is a shell, which takes every child that it is given, as systemd
/// does.
struct Steady<'a> {
    root: &'a Root,
    shell: Child,
    /// One byte for each signal that has arrived.
    signals: ChildStdout,
    pid: u32,
    notices: PathBuf,
}

impl<'a> Steady<'a> {
    fn start(root: &'a Root, program: &str, megabytes: u32) -> Self {
        Self::start_with(root, program, &[&megabytes.to_string()])
    }

    fn start_with(root: &'a Root, program: &str, arguments: &[&str]) -> Self {
        let notices = root.path("notices");
        let _ = std::fs::remove_file(&notices);
        let pid_file = root.path("pid");
        let script = format!(
            r#"exec 3>"{}"; "$0" "$@" 3>&- & echo $! >&3; exec 3>&-; while kill -0 $! 2>/dev/null; do wait; done"#,
            pid_file.display()
        );
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(script).arg(root.path(program)).arg(&notices);
        // Go interrupts its own threads for its own ends; then not every EINTR would be ours.
        shell.args(arguments).env("GODEBUG", "asyncpreemptoff=1");
        let mut shell = shell.stdout(Stdio::piped()).spawn().unwrap();
        until("the program runs", || notices.exists());
        let pid = std::fs::read_to_string(&pid_file).unwrap().trim().parse().unwrap();
        let signals = shell.stdout.take().unwrap();
        Self { root, shell, signals, pid, notices }
    }

    fn noticed(&self) -> Value {
        serde_json::from_slice(&std::fs::read(&self.notices).unwrap()).unwrap()
    }

    fn start_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        fields.split_whitespace().nth(19).unwrap().parse().unwrap()
    }

    fn image(&self, task: &Value) -> Imaging {
        let config = json!({
            "unit": "steady.service",
            "pid": self.pid,
            "start_ticks": self.start_ticks(),
            "debugger": self.root.0.join("usr/bin/dlv"),
            "guarded": false,
            "work": { "answer": { "task": task, "patience_s": 600, "max_pause_ms": 500 } },
            "record": { "client": "root", "host": "test", "boot": "1", "values": "full" },
        });
        let mut configuration = tempfile::tempfile().unwrap();
        configuration.write_all(config.to_string().as_bytes()).unwrap();
        configuration.rewind().unwrap();
        let transcript = tempfile::tempfile().unwrap();
        let socket = ImageSocket::new().unwrap();
        socket.hand_over(configuration.as_fd(), transcript.as_fd()).unwrap();
        let mut child = Command::new(IMAGE)
            .stdin(socket.theirs)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Imaging { child, lines }
    }

    /// All lines that such a task gives.
    fn lines(&self, task: &Value) -> Vec<Value> {
        let mut imaging = self.image(task);
        let lines = std::iter::from_fn(|| imaging.next()).collect();
        assert!(imaging.child.wait().unwrap().success());
        lines
    }

    /// Sends a signal and waits until the program has it, `times` times. Standard signals that wait at
    /// once become one, so each is waited for.
    fn count_signals(&mut self, times: usize, mut goes_on: impl FnMut() -> bool) -> usize {
        let pid = Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        let mut sent = 0;
        while sent < times && goes_on() {
            kill_process(pid, if sent % 2 == 0 { Signal::USR1 } else { Signal::USR2 }).unwrap();
            sent += 1;
            let mut byte = [0];
            // A signal that is lost shows as a test that does not end; the harness's limit tells.
            self.signals.read_exact(&mut byte).unwrap();
        }
        sent
    }

    /// It lives, nothing went wrong, nothing is left.
    fn check(&self) {
        let before = self.noticed()["ticks"].as_u64().unwrap();
        until("it goes on", || self.noticed()["ticks"].as_u64().unwrap() > before);
        let noticed = self.noticed();
        assert_eq!(noticed["wrong"], 0, "{noticed}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        assert!(status.contains("TracerPid:\t0\n"), "{status}");
        assert_eq!(self.family(), vec![self.pid], "a copy is left");
        assert!(self.text_is_clean(), "a breakpoint is left");
    }

    /// The children of its parent.
    fn family(&self) -> Vec<u32> {
        let shell = self.shell.id();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        children.unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Whether the memory of its text is what is in its file.
    fn text_is_clean(&self) -> bool {
        use std::os::unix::fs::FileExt;
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let text = maps.lines().find(|line| line.contains(" r-xp ") && line.contains("/steady"));
        let fields: Vec<&str> = text.unwrap().split_whitespace().collect();
        let (start, end) = fields[0].split_once('-').unwrap();
        let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
        let (start, end, offset) = (hex(start), hex(end), hex(fields[2]));
        let read = |path: String, at: u64| {
            let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
            std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).map(|()| bytes)
        };
        let memory = read(format!("/proc/{}/mem", self.pid), start).unwrap();
        let mut file = std::fs::read(format!("/proc/{}/exe", self.pid)).unwrap();
        let from = usize::try_from(offset).unwrap();
        file.resize(file.len().max(from + memory.len()), 0);
        memory == file[from..from + memory.len()]
    }
}

impl Drop for Steady<'_> {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        let _ = kill_process(pid, Signal::KILL);
        let _ = self.shell.wait();
    }
}

/// A running godebug-image.
struct Imaging {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Imaging {
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).unwrap() > 0).then(|| serde_json::from_str(&line).unwrap())
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "it took too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn images() -> u32 {
    let wanted = std::env::var("GODEBUG_TEST_IMAGES").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(20)
}

fn now() -> Value {
    json!({ "snapshot": { "count": 1, "stack": 10 } })
}

fn at(location: &str, count: u32) -> Value {
    json!({ "snapshot": { "at": location, "count": count, "stack": 3, "expressions": ["n", "who"] } })
}

/// Median and longest, for whoever reads the output.
fn told(what: &str, lines: &[Value]) {
    let mut pauses: Vec<f64> = lines.iter().filter_map(|line| line["pause_ms"].as_f64()).collect();
    pauses.sort_by(f64::total_cmp);
    let (count, middle) = (pauses.len(), pauses.len() / 2);
    eprintln!(
        "{what}: {count} images, median {} ms, longest {} ms",
        pauses[middle],
        pauses[count - 1]
    );
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn images_of_now_disturb_nothing() {
    let Some((root, _guard)) = Root::find() else { return };
    let steady = Steady::start_with(&root, "steady", &["1", "quiet"]);
    let lines: Vec<Value> = (0..images()).flat_map(|_| steady.lines(&now())).collect();
    assert!(lines.iter().all(|line| line["stack"].as_array().is_some_and(|it| !it.is_empty())));
    steady.check();
    let noticed = steady.noticed();
    assert_eq!(noticed["interrupted"], 0, "a system call was interrupted: {noticed}");
    told("now", &lines);
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn images_at_a_hot_line_disturb_nothing_and_lose_no_signal() {
    let Some((root, _guard)) = Root::find() else { return };
    for program in ["steady", "steady-pie"] {
        let mut steady = Steady::start(&root, program, 1);
        let mut imaging = steady.image(&at("main.tick", images()));
        assert!(imaging.next().unwrap()["armed"].is_object());
        let (send, lines) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            while let Some(line) = imaging.next() {
                send.send(line).unwrap();
            }
            imaging.child.wait().unwrap()
        });
        let sent = steady.count_signals(usize::MAX, || !reader.is_finished());
        assert!(reader.join().unwrap().success());
        let lines: Vec<Value> = lines.iter().collect();
        assert_eq!(lines.last().unwrap()["done"], json!({ "hits": images(), "dropped": 0 }));
        for hit in &lines[..lines.len() - 1] {
            assert_eq!(hit["location"]["function"], "main.tick", "{hit}");
            let who = hit["variables"][1]["value"].as_str().unwrap();
            assert!(who.starts_with("\"runner-"), "{hit}");
        }
        until("all signals are counted", || {
            steady.noticed()["signals"].as_u64() == Some(sent as u64)
        });
        steady.check();
        told(&format!("{program} at a hot line, {sent} signals"), &lines);
    }
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn only_what_meets_the_condition_is_shown() {
    let Some((root, _guard)) = Root::find() else { return };
    let steady = Steady::start(&root, "steady", 1);
    let lines = steady.lines(&json!({ "snapshot": {
        "at": "main.tick", "count": 2, "stack": 1, "condition": "who == \"runner-3\"",
        "expressions": ["who", "answer", "n.x"] } }));
    let done = &lines.last().unwrap()["done"];
    assert_eq!(done["hits"], 2, "{lines:?}");
    for hit in &lines[1..3] {
        assert_eq!(hit["variables"][0]["value"], "\"runner-3\"");
        assert_eq!(hit["variables"][1]["value"], "42");
        assert!(hit["variables"][2]["unreadable"].is_string(), "{hit}");
    }
    let lines = steady.lines(&json!({ "snapshot": {
        "at": "main.tick", "count": 1, "stack": 1, "condition": "n" } }));
    assert_eq!(lines.last().unwrap()["error"]["code"], "usage", "{lines:?}");
    steady.check();
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn a_place_that_is_not_there_is_refused_with_one_that_is_meant() {
    let Some((root, _guard)) = Root::find() else { return };
    let steady = Steady::start(&root, "steady", 1);
    for (location, meant) in [("main.tikc", "main.tick"), ("mian.go:41", "main.go:41")] {
        let lines = steady.lines(&at(location, 1));
        let error = &lines[0]["error"];
        assert_eq!(error["code"], "usage", "{lines:?}");
        assert!(error["remedy"].as_str().unwrap().contains(meant), "{error}");
    }
    let lines = steady.lines(&at("runtime.mallocgc", 1));
    assert!(lines[0]["error"]["message"].as_str().unwrap().contains("runtime"), "{lines:?}");
    steady.check();
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn all_goroutines_are_told_with_what_they_wait_for() {
    let Some((root, _guard)) = Root::find() else { return };
    let steady = Steady::start(&root, "steady", 1);
    let lines = steady.lines(&json!("goroutines"));
    let groups = lines[0]["groups"].as_array().unwrap();
    let is_in = |group: &Value, function: &str| {
        group["stack"].as_array().unwrap().iter().any(|frame| frame["function"] == function)
    };
    let runner = groups.iter().find(|group| is_in(group, "main.run")).unwrap();
    let runners = groups.iter().filter(|group| group["started_at"] == runner["started_at"]);
    let count = |group: &Value| group["count"].as_u64().unwrap();
    assert_eq!(runners.clone().map(count).sum::<u64>(), 8, "{groups:?}");
    // One that changes stacks just then is not followed further by dlv.
    for group in runners.filter(|group| group["doing"] != "running") {
        assert!(is_in(group, "main.run"), "{group}");
    }
    for group in groups {
        let stack = group["stack"].as_array().unwrap();
        assert!(stack.windows(2).all(|two| two[0] != two[1]), "a caller of itself: {group}");
    }
    let counts = groups.iter().find(|group| is_in(group, "main.counts")).unwrap();
    assert_eq!(counts["doing"], "chan receive");
    steady.check();
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn a_large_process_stops_for_no_longer_than_its_page_tables_take() {
    let Some((root, _guard)) = Root::find() else { return };
    let steady = Steady::start(&root, "steady", 1000);
    let lines: Vec<Value> = (0..5).flat_map(|_| steady.lines(&now())).collect();
    told("1 GB", &lines);
    let ballast = steady.lines(&json!({ "snapshot": {
        "count": 1, "stack": 1, "expressions": ["main.ballast[4096*76]", "len(ballast)"] } }));
    assert_eq!(ballast[0]["variables"][0]["value"], "77", "{ballast:?}");
    assert_eq!(ballast[0]["variables"][1]["value"], (1000_u64 << 20).to_string());
    let hits = steady.lines(&at("main.tick", 3));
    assert_eq!(hits.last().unwrap()["done"]["hits"], 3, "{hits:?}");
    told("1 GB at a hot line", &hits);
    steady.check();
}

#[test]
#[ignore = "needs a root with dlv and Go in GODEBUG_TEST_ROOT"]
fn told_to_end_it_takes_its_breakpoints_out() {
    let Some((root, _guard)) = Root::find() else { return };
    let steady = Steady::start(&root, "steady", 1);
    for round in 0..images() {
        let mut imaging = steady.image(&at("main.tick", 1000));
        assert!(imaging.next().unwrap()["armed"].is_object());
        // At another moment of what it does each time.
        std::thread::sleep(Duration::from_millis(u64::from(round * 37 % 200)));
        let pid = Pid::from_child(&imaging.child);
        kill_process(pid, Signal::TERM).unwrap();
        while imaging.next().is_some() {}
        imaging.child.wait().unwrap();
        steady.check();
    }
}
