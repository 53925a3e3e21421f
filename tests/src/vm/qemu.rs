//! QEMU as a process: how it is started, its monitor, and the serial port whose other end is a shell.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Lsm;
use crate::{command::Output, files};

/// Software emulation on a loaded machine takes its time.
const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// What runs the virtual processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    /// KVM can exist and still not run a stock kernel, where this machine is a virtual one itself.
    Software,
}

impl Accelerator {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Software => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// What a virtual machine is started with.
pub(super) struct Start<'a> {
    /// Where its sockets and its console's output go.
    pub(super) directory: &'a Path,
    pub(super) cgroup: &'a Path,
    /// The network namespace that has the other end of its wire.
    pub(super) namespace: &'a str,
    pub(super) boot: &'a Path,
    pub(super) disk: &'a Path,
    /// Whether what it writes reaches `disk`, or is forgotten at its end.
    pub(super) keep_disk: bool,
    /// The memory to go on with instead of booting.
    pub(super) memory: Option<&'a Path>,
    pub(super) lsm: Lsm,
    pub(super) accelerator: Accelerator,
}

pub(super) struct Qemu {
    child: Child,
    monitor: BufReader<UnixStream>,
    shell: BufReader<UnixStream>,
    console: PathBuf,
    commands: u64,
}

impl Qemu {
    /// Starts it, and connects to its monitor and shell.
    pub(super) fn start(start: &Start<'_>) -> Result<Self> {
        let at = |name: &str| start.directory.join(name);
        for socket in ["monitor", "shell"] {
            let _ = std::fs::remove_file(at(socket));
        }
        let console = at("console");
        let log = File::create(at("qemu.log")).context("making QEMU's log")?;
        let mut child = Command::new("/bin/sh")
            .args(["-c", r#"echo $$ >"$1/cgroup.procs"; shift; exec "$@""#, "join"])
            .arg(start.cgroup)
            .arg("nsenter")
            .arg(format!("--net=/run/netns/{}", start.namespace))
            .args(arguments(start, &console))
            .env("TMPDIR", start.directory)
            // Ctrl-C on the tests must not reach it; the cleaner ends it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("QEMU's log")?)
            .stderr(log)
            .spawn()
            .context("starting QEMU")?;
        let connected = connect(&mut child, &at("shell"))
            .and_then(|shell| Ok((shell, connect(&mut child, &at("monitor"))?)));
        match connected {
            Ok((shell, monitor)) => {
                let (shell, monitor) = (BufReader::new(shell), BufReader::new(monitor));
                let mut qemu = Self { child, monitor, shell, console, commands: 0 };
                qemu.greet()?;
                Ok(qemu)
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error).with_context(|| files::tail(&at("qemu.log"), 20))
            }
        }
    }

    fn greet(&mut self) -> Result<()> {
        self.monitor.get_ref().set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut greeting = String::new();
        self.monitor.read_line(&mut greeting).context("QEMU's monitor says nothing")?;
        self.monitor("qmp_capabilities", json!({})).map(drop)
    }

    /// One command of QEMU's monitor protocol, and its answer. Events in between are not wanted.
    pub(super) fn monitor(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.monitor.get_ref(), "{request}").context("writing to QEMU's monitor")?;
        loop {
            let mut line = String::new();
            let count = self.monitor.read_line(&mut line).context("reading QEMU's monitor")?;
            ensure!(count > 0, "QEMU has ended");
            let mut answer: Value = serde_json::from_str(&line).context("QEMU's answer")?;
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
            ensure!(answer.get("error").is_none(), "QEMU refused {command}: {answer}");
        }
    }

    pub(super) fn status(&mut self) -> Result<String> {
        let status = self.monitor("query-status", json!({}))?;
        Ok(status["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the shell inside has come up after a boot.
    pub(super) fn await_boot(&mut self) -> Result<()> {
        self.shell.get_ref().set_read_timeout(Some(Duration::from_secs(1)))?;
        let deadline = Instant::now() + BOOT_LIMIT;
        let mut seen = Vec::new();
        loop {
            match self.shell.read_until(b'\n', &mut seen) {
                Ok(0) => bail!("QEMU ended while it booted"),
                Ok(_) if seen.ends_with(b"READY\n") => return Ok(()),
                Ok(_) => seen.clear(),
                Err(error) if is_silence(&error) => {
                    let status = self.status()?;
                    ensure!(status == "running", "QEMU is {status} instead of running");
                    let console = files::tail(&self.console, 40);
                    ensure!(Instant::now() < deadline, "not up in {BOOT_LIMIT:?}:\n{console}");
                }
                Err(error) => return Err(error).context("reading the serial port"),
            }
        }
    }

    /// Stops it for good and writes its memory to `file`.
    pub(super) fn save(&mut self, file: &Path) -> Result<()> {
        self.monitor("stop", json!({}))?;
        self.monitor("migrate", json!({ "uri": format!("exec:cat >'{}'", file.display()) }))?;
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let state = self.monitor("query-migrate", json!({}))?["status"].take();
            match state.as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("the memory could not be saved: {state}"),
                _ => {
                    ensure!(Instant::now() < deadline, "saving the memory takes too long: {state}")
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the memory that it was started with has been read, and lets it run.
    pub(super) fn resume(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            match self.status()?.as_str() {
                "running" => return Ok(()),
                // It was stopped when its memory was saved.
                "paused" => drop(self.monitor("cont", json!({}))?),
                status => ensure!(Instant::now() < deadline, "QEMU is {status}, not running"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a shell line as root inside.
    pub(super) fn run(&mut self, line: &str, limit: Duration) -> Result<Output> {
        self.commands += 1;
        let number = self.commands;
        write!(self.shell.get_ref(), "{number} {}\n{line}", line.len())
            .context("typing on the serial port")?;
        self.shell.get_ref().set_read_timeout(Some(limit))?;
        loop {
            let mut answer = String::new();
            let read = self.shell.read_line(&mut answer);
            let count = read.with_context(|| format!("`{line}` did not end within {limit:?}"))?;
            ensure!(count > 0, "QEMU ended during `{line}`");
            let words: Vec<&str> = answer.split_whitespace().collect();
            let ["DONE", done, status, stdout, stderr] = words[..] else { continue };
            let (stdout, stderr) = (self.bytes(stdout)?, self.bytes(stderr)?);
            // The answer to a line that took too long comes late.
            if done == number.to_string() {
                let status = status.parse().context("an exit status")?;
                return Ok(Output { command: line.to_owned(), status, stdout, stderr });
            }
        }
    }

    fn bytes(&mut self, length: &str) -> Result<String> {
        let mut bytes = vec![0; length.parse().context("a length")?];
        self.shell.read_exact(&mut bytes).context("reading the serial port")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) fn console(&self) -> &Path {
        &self.console
    }

    pub(super) fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.end();
    }
}

fn arguments(start: &Start<'_>, console: &Path) -> Vec<String> {
    let at = |name: &str| start.directory.join(name).display().to_string();
    let mut words: Vec<String> = ["qemu-system-x86_64", "-nodefaults", "-display", "none"]
        .into_iter()
        .chain(start.accelerator.arguments())
        .chain(["-m", "1024", "-smp", "2"])
        .map(str::to_owned)
        .collect();
    let mut add = |option: &str, value: String| words.extend([format!("-{option}"), value]);
    add("kernel", start.boot.join("vmlinuz").display().to_string());
    add("initrd", start.boot.join("initrd.img").display().to_string());
    add("append", format!("root=/dev/vda rw console=ttyS0 net.ifnames=0 {}", start.lsm.kernel()));
    let forget = if start.keep_disk { "off" } else { "on" };
    add(
        "drive",
        format!(
            "file={},format=raw,if=virtio,cache=unsafe,file.locking=off,snapshot={forget}",
            start.disk.display()
        ),
    );
    add("netdev", "tap,id=wire,ifname=eth0,script=no,downscript=no".to_owned());
    add("device", "virtio-net-pci,netdev=wire,romfile=".to_owned());
    add("device", "virtio-rng-pci".to_owned());
    add("serial", format!("file:{}", console.display()));
    add("serial", format!("unix:{},server=on,wait=off", at("shell")));
    add("qmp", format!("unix:{},server=on,wait=off", at("monitor")));
    if let Some(memory) = start.memory {
        add("incoming", format!("exec:cat '{}'", memory.display()));
    }
    words
}

fn connect(child: &mut Child, socket: &Path) -> Result<UnixStream> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(stream) = UnixStream::connect(socket) {
            return Ok(stream);
        }
        if let Some(status) = child.try_wait().context("waiting for QEMU")? {
            bail!("QEMU ended: {status}");
        }
        ensure!(Instant::now() < deadline, "QEMU does not listen on {}", socket.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
