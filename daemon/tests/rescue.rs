//! dlv is killed at a breakpoint of a real Go program under load, again and again, and the guard puts the program
//! right: it lives, answers and notices nothing.
//!
//! Needs root, a control group file system at /sys/fs/cgroup that it may change, and a folder with dlv and the
//! program `steady` (daemon/image/tests/real.rs), named by GODEBUG_TEST_ROOT. Scenarios try all this and
//! more on amd64, with systemd; here it is for a processor that no booted host has (tests/arm64).
//! GODEBUG_TEST_KILLS is how many times each test kills, 20 unless told.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod example;

use godebug::ledger::Ledger;
use godebug::paths::{CGROUP, SessionPaths};
use godebug::rescue::Baseline;
use godebug::target::process::{self, Process};
use godebug_core::grant::debugger_unit;
use godebug_core::ledger::{Opened, Record, VERSION};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const REVOKE: &str = env!("CARGO_BIN_EXE_godebug-revoke");
/// An emulated processor is slow.
const SOON: Duration = Duration::from_secs(120);
/// The service's own control group.
const GROUP: &str = "steady.service";

#[test]
#[ignore = "needs a disposable machine, with dlv and steady in GODEBUG_TEST_ROOT"]
fn dlv_is_killed_while_the_service_stands_at_a_breakpoint() {
    let steady = Steady::start();
    for number in 0..kills() {
        let session = Session::open(&steady, number);
        let (mut guard, mut dlv) = (session.guard(), session.dlv("break main.tick\ncontinue\n"));
        until("the service stands at the breakpoint", || {
            steady.has_breakpoints() && steady.stands()
        });
        dlv.kill().unwrap();
        assert!(guard.wait().unwrap().success());
        steady.check();
    }
}

#[test]
#[ignore = "needs a disposable machine, with dlv and steady in GODEBUG_TEST_ROOT"]
fn dlv_is_killed_in_a_storm_of_hits() {
    let steady = Steady::start();
    for number in 0..kills() {
        let session = Session::open(&steady, number);
        // Each hit stops the program, dlv looks at the condition and steps over the breakpoint.
        let commands = "break main.tick\ncondition 1 n < 0\ncontinue\n";
        let (mut guard, mut dlv) = (session.guard(), session.dlv(commands));
        until("there is a breakpoint", || steady.has_breakpoints());
        // At another moment of the storm each time.
        let ticks = steady.ticks();
        until("it has been hit", || steady.ticks() > ticks + u64::from(number % 5));
        dlv.kill().unwrap();
        assert!(guard.wait().unwrap().success());
        steady.check();
    }
}

#[test]
#[ignore = "needs a disposable machine, with dlv and steady in GODEBUG_TEST_ROOT"]
fn without_a_guard_a_frozen_service_is_put_right_after_dlv_has_been_killed() {
    let steady = Steady::start();
    for number in 0..kills() {
        let session = Session::open(&steady, number);
        let mut dlv = session.dlv("break main.tick\ncontinue\n");
        until("the service stands at the breakpoint", || {
            steady.has_breakpoints() && steady.stands()
        });
        let switch = Path::new(CGROUP).join(GROUP).join("cgroup.freeze");
        std::fs::write(&switch, "1").unwrap();
        dlv.kill().unwrap();
        dlv.wait().unwrap();
        assert!(session.revoke("--dlv-ended", "").wait().unwrap().success());
        // Somebody else had frozen it, so it stays frozen.
        assert_eq!(std::fs::read_to_string(&switch).unwrap().trim(), "1");
        assert!(!steady.has_breakpoints());
        std::fs::write(&switch, "0").unwrap();
        steady.check();
    }
}

/// A program that checks everything that the kernel gives it, in a control group of its own.
struct Steady {
    child: Child,
    notices: PathBuf,
    root: PathBuf,
}

impl Steady {
    fn start() -> Self {
        let root = PathBuf::from(std::env::var_os("GODEBUG_TEST_ROOT").expect("GODEBUG_TEST_ROOT"));
        let notices = root.join("tmp/steady/notices");
        let _ = std::fs::remove_file(&notices);
        let mut child = in_group(GROUP);
        child.arg(root.join("tmp/steady/steady")).arg(&notices).args(["1", "quiet"]);
        child.env("GODEBUG", "asyncpreemptoff=1").stdout(Stdio::null());
        let child = child.spawn().unwrap();
        until("the program runs", || notices.exists());
        Self { child, notices, root }
    }

    fn process(&self) -> Process {
        Process::pin(self.child.id().try_into().unwrap()).unwrap()
    }

    fn noticed(&self) -> Value {
        // It is replaced ten times a second.
        serde_json::from_slice(&std::fs::read(&self.notices).unwrap()).unwrap()
    }

    fn ticks(&self) -> u64 {
        self.noticed()["ticks"].as_u64().unwrap()
    }

    fn has_breakpoints(&self) -> bool {
        let compared = process::text_differences(self.process().pid);
        compared.is_ok_and(|compared| compared.total > 0)
    }

    /// Whether a tracer has every thread stopped.
    fn stands(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.filter_map(Result::ok).all(|thread| {
            std::fs::read_to_string(thread.path().join("status"))
                .is_ok_and(|status| status.contains("State:\tt"))
        })
    }

    /// It lives, nothing went wrong, nothing is left.
    fn check(&self) {
        assert_eq!(self.process().status().unwrap().tracer_pid, None);
        assert!(!self.has_breakpoints(), "a breakpoint is left");
        let before = self.ticks();
        until("it goes on", || self.ticks() > before);
        let noticed = self.noticed();
        assert_eq!(noticed["wrong"], 0, "{noticed}");
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        let _ = std::fs::write(Path::new(CGROUP).join(GROUP).join("cgroup.freeze"), "0");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A session as godebugd writes it down, with nothing taken but dlv and its guard.
struct Session<'a> {
    steady: &'a Steady,
    opened: Opened,
    ledger: Ledger,
}

impl<'a> Session<'a> {
    fn open(steady: &'a Steady, number: u32) -> Self {
        let target = steady.process();
        let opened = Opened {
            id: format!("{number:08x}").parse().unwrap(),
            pid: target.pid,
            start_ticks: target.start_ticks,
            ..example::opened()
        };
        let paths = SessionPaths::of(&opened.id);
        std::fs::create_dir_all(paths.root().parent().unwrap()).unwrap();
        let record = Record::Opened { version: VERSION, session: Box::new(opened.clone()) };
        let ledger = Ledger::create(&paths, &[record], rustix::process::getegid().as_raw());
        Baseline::take(&opened.id, target.pid).unwrap();
        Self { steady, opened, ledger: ledger.unwrap() }
    }

    fn guard(&self) -> Child {
        self.revoke("--guard", "godebug-guard")
    }

    fn revoke(&self, task: &str, group: &str) -> Child {
        let mut revoke = in_group(group);
        revoke
            .args([REVOKE, task, self.opened.id.as_str()])
            .stdout(Stdio::inherit())
            .spawn()
            .unwrap()
    }

    /// dlv, attached, at its user's commands.
    fn dlv(&self, commands: &str) -> Child {
        let mut dlv = in_group(&debugger_unit(&self.opened.id));
        dlv.arg(self.steady.root.join("usr/bin/dlv")).arg("attach");
        dlv.arg(self.opened.pid.to_string()).arg("--allow-non-terminal-interactive=true");
        dlv.env("HOME", "/root").env("TERM", "dumb").stdin(Stdio::piped()).stdout(Stdio::null());
        let mut dlv = dlv.spawn().unwrap();
        dlv.stdin.as_mut().unwrap().write_all(commands.as_bytes()).unwrap();
        dlv
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let _ = self.ledger.without_lock().remove();
    }
}

/// A command whose process is in this group from its first instruction.
fn in_group(name: &str) -> Command {
    let group = Path::new(CGROUP).join(name);
    std::fs::create_dir_all(&group).unwrap();
    let mut command = Command::new("sh");
    command.arg("-c").arg(r#"echo $$ >"$0/cgroup.procs" && exec "$@""#).arg(group);
    command
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < SOON, "it took too long until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kills() -> u32 {
    let wanted = std::env::var("GODEBUG_TEST_KILLS").ok().and_then(|text| text.parse().ok());
    wanted.unwrap_or(20)
}
