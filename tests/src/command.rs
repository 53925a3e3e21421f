//! Running commands, on the test machine, inside a host or beside it: what they printed, how they ended,
//! and background ones that end with the test. Each runs in a cgroup of its own, so that ending it
//! ends its children too.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open},
};

use crate::files;

/// How a command ended and what it printed.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    /// The exit status as a shell gives it: 128 plus the signal if one ended the command.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// What it printed, or an error with everything.
    pub fn ok(self) -> Result<String> {
        ensure!(self.success(), "{self}");
        Ok(self.stdout)
    }

    /// Insists on one exit status.
    pub fn exits(self, status: i32) -> Result<Self> {
        ensure!(self.status == status, "wanted exit status {status}: {self}");
        Ok(self)
    }

    /// Standard output as one JSON document.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not one JSON document: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with status {}\n--- stdout\n{}\n--- stderr\n{}",
            self.command,
            self.status,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

/// Runs a tool of the test machine to its end; an error carries what it printed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {program}"))?;
    Output {
        command: format!("{program} {}", arguments.join(" ")),
        status: shell_status(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
    .ok()
}

fn shell_status(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// A command that was started and may still run. Dropping it kills it and its children.
pub struct Spawned {
    description: String,
    child: Child,
    cgroup: PathBuf,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Processes that only stand between the test and the command, and get no signals.
    wrapper: Option<u32>,
    _output: tempfile::TempDir,
}

/// What `Spawned::start` needs beside the command: where it runs, and how it is entered.
pub(crate) struct Place<'a> {
    pub(crate) description: &'a str,
    pub(crate) cgroup: PathBuf,
    /// The words before the command: nsenter and its options.
    pub(crate) enter: Vec<String>,
    /// Whether the entering program stays as the command's parent.
    pub(crate) wrapped: bool,
    pub(crate) clean_environment: bool,
}

impl Spawned {
    pub(crate) fn start(place: Place<'_>, shell_line: &str, stdin: Stdio) -> Result<Self> {
        files::create_folder(&place.cgroup)?;
        let output = tempfile::tempdir().context("making a folder for a command's output")?;
        let (stdout, stderr) = (output.path().join("stdout"), output.path().join("stderr"));
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo $$ >"$1/cgroup.procs"; shift; exec "$@""#, "join"])
            .arg(&place.cgroup)
            .args(&place.enter)
            .args(["/bin/sh", "-c", shell_line])
            .stdin(stdin)
            .stdout(File::create(&stdout).context("making a file for a command's output")?)
            .stderr(File::create(&stderr).context("making a file for a command's output")?);
        if place.clean_environment {
            command.env_clear().envs([
                ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
                ("HOME", "/root"),
                ("USER", "root"),
                ("LANG", "C.UTF-8"),
                ("TERM", "dumb"),
            ]);
        }
        let child = command.spawn().with_context(|| format!("starting `{shell_line}`"))?;
        Ok(Self {
            description: format!("{}: {shell_line}", place.description),
            wrapper: place.wrapped.then_some(child.id()),
            child,
            cgroup: place.cgroup,
            stdout,
            stderr,
            _output: output,
        })
    }

    /// What it has printed on standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has printed on standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Types one line on its standard input.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("its standard input is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("typing to {}", self.description))
    }

    /// Types keys on its standard input.
    pub fn type_text(&mut self, keys: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("its standard input is closed")?;
        stdin.write_all(keys.as_bytes()).with_context(|| format!("typing to {}", self.description))
    }

    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// The processes of this command, numbered as the test machine does.
    pub fn pids(&self) -> Vec<u32> {
        let listed = fs::read_to_string(self.cgroup.join("cgroup.procs")).unwrap_or_default();
        listed
            .lines()
            .filter_map(|line| line.parse().ok())
            .filter(|pid| Some(*pid) != self.wrapper)
            .collect()
    }

    /// Sends a signal to all its processes, as a terminal's keys do.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pids = self.pids();
        ensure!(!pids.is_empty(), "{} has ended already: {}", self.description, self.stderr());
        for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            match kill_process(pid, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("signalling {}", self.description));
                }
            }
        }
        Ok(())
    }

    /// Ctrl-C.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("waiting for a command")?.is_none())
    }

    /// Waits for a line that contains `text`, on standard output or error, and returns it.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            let ended = !self.is_running()?;
            let printed = self.stdout() + &self.stderr();
            if let Some(line) = printed.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if ended || Instant::now() > deadline {
                let how = if ended { "it ended" } else { "time is up" };
                bail!(
                    "{}: no line with {text:?} and {how}; it printed:\n{printed}",
                    self.description
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; when `limit` has passed, kills it and fails.
    pub fn wait(&mut self, limit: Duration) -> Result<Output> {
        if !ends_within(&mut self.child, limit)? {
            self.kill();
            bail!(
                "`{}` did not end within {limit:?}\n--- stdout\n{}\n--- stderr\n{}",
                self.description,
                self.stdout(),
                self.stderr()
            );
        }
        let status = self.child.wait().context("waiting for a command")?;
        Ok(Output {
            command: self.description.clone(),
            status: shell_status(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }

    /// Ends it and all its children at once.
    pub fn kill(&mut self) {
        // Errors here mean that it is gone, which is what is wanted.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.child.wait();
        remove_cgroup(&self.cgroup);
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // A command that has ended may have left a process behind on purpose: that one stays.
        match self.child.try_wait() {
            Ok(Some(_)) => remove_cgroup(&self.cgroup),
            _ => self.kill(),
        }
    }
}

/// The last process leaves its cgroup a moment after it was killed, so this may need a second try.
fn remove_cgroup(path: &Path) {
    for _ in 0..20 {
        let populated = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
        if fs::remove_dir(path).is_ok() || !populated.contains("populated 1") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a child process ends within `limit`; it is not reaped here.
pub(crate) fn ends_within(child: &mut Child, limit: Duration) -> Result<bool> {
    if child.try_wait().context("waiting for a process")?.is_some() {
        return Ok(true);
    }
    let pid = Pid::from_raw(child.id() as i32).context("a process without a number")?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).context("opening a pidfd")?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("a time limit too long")?;
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting on a pidfd"),
            Ok(ready) => return Ok(ready > 0),
        }
    }
}
