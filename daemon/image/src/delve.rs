//! dlv, reading one core: a child of ours without capabilities, on a socket that only our unit sees.

use godebug_api::Refusal;
use godebug_api::image::PROGRAM;
use godebug_api::redact::Redactor;
use godebug_dlvctl::rpc::{Connection, RpcError};
use godebug_dlvctl::text::printable;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Until it listens; then it reads the debug information, a second for each 50 MB.
const START: Duration = Duration::from_secs(10);
/// Until it has answered, the first answer after it has read everything.
const ANSWER: Duration = Duration::from_secs(60);

/// A dlv with a core loaded. It ends with this value.
pub(crate) struct Delve {
    child: Child,
    socket: PathBuf,
    connection: Connection,
    output: File,
}

/// How dlv is started; the folder is ours alone.
pub(crate) struct Start<'a> {
    pub(crate) program: &'a str,
    /// Where the debug information of the program is, if it has none itself.
    pub(crate) symbols: Option<&'a Path>,
    pub(crate) folder: &'a Path,
    /// Whoever starts it lives as long as it does, and has given up what it must not have.
    pub(crate) by_this_thread: bool,
}

impl Start<'_> {
    /// Starts dlv on `core`, which is of the program in `executable`.
    pub(crate) fn on(&self, executable: &File, core: &File) -> Result<Delve, Refusal> {
        let socket = self.folder.join("socket");
        let _ = std::fs::remove_file(&socket);
        let output = self.configure().map_err(|error| {
            Refusal::host(format!("dlv's files cannot be made: {error}"), "is /tmp full?")
        })?;
        let mut child = self.spawn(executable, core, &socket, &output).map_err(|error| {
            Refusal::host(format!("{} cannot be run: {error}", self.program), "")
        })?;
        match connect(&socket, &mut child) {
            Ok(connection) => Ok(Delve { child, socket, connection, output }),
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                let said = last_words(&output);
                Err(Refusal::failed(format!("dlv does not read the image: {why}{said}"), ""))
            }
        }
    }

    /// Telemetry off, and no folder of debug information but what was given.
    fn configure(&self) -> std::io::Result<File> {
        let telemetry = self.folder.join("go/telemetry");
        std::fs::create_dir_all(&telemetry)?;
        std::fs::create_dir_all(self.folder.join("dlv"))?;
        std::fs::write(telemetry.join("mode"), "off 1970-01-01\n")?;
        let symbols = self.symbols.map(|folder| format!("\"{}\"", folder.display()));
        let settings = format!("debug-info-directories: [{}]\n", symbols.unwrap_or_default());
        std::fs::write(self.folder.join("dlv/config.yml"), settings)?;
        let path = self.folder.join("output");
        let _ = std::fs::remove_file(&path);
        File::options().read(true).append(true).create_new(true).open(path)
    }

    fn spawn(
        &self,
        executable: &File,
        core: &File,
        socket: &Path,
        output: &File,
    ) -> std::io::Result<Child> {
        // dlv opens the files by the descriptors that it inherits; both have no name it could use.
        let (executable, core) = (inherited(executable.as_fd())?, inherited(core.as_fd())?);
        let mut command = Command::new(self.program);
        command
            .arg("core")
            .arg(self.named(&executable)?)
            .arg(by_number(core.as_fd()))
            // Several connections: the client's own beside ours.
            .args(["--headless", "--api-version=2", "--accept-multiclient"])
            .arg(format!("--listen=unix:{}", socket.display()))
            .env_clear()
            .env("XDG_CONFIG_HOME", self.folder)
            .env("HOME", self.folder)
            // No debuginfod-find: it would look for what is not there.
            .env("PATH", "/nonexistent")
            .current_dir(self.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?);
        // A thread's own ambient capabilities and priority are what its child gets; reading a core
        // needs none of the first and is in no hurry.
        let child = if self.by_this_thread {
            command.spawn()?
        } else {
            let spawned = std::thread::scope(|scope| {
                scope
                    .spawn(|| {
                        give_up_privilege();
                        command.spawn()
                    })
                    .join()
            });
            spawned.map_err(|_| std::io::Error::other("the thread that starts it ended"))??
        };
        // When memory is short, the answer goes and not what holds the target.
        let _ = rank_for_memory(child.id());
        Ok(child)
    }
}

impl Start<'_> {
    /// The program under the name by which dlv looks for its debug information; without any it needs none.
    fn named(&self, executable: &OwnedFd) -> std::io::Result<PathBuf> {
        let path = PathBuf::from(by_number(executable.as_fd()));
        if self.symbols.is_none() {
            return Ok(path);
        }
        let name = self.folder.join(PROGRAM);
        // Of the dlv before: this one has its own number of it.
        let _ = std::fs::remove_file(&name);
        std::os::unix::fs::symlink(path, &name)?;
        Ok(name)
    }
}

fn rank_for_memory(pid: u32) -> std::io::Result<()> {
    // Opened and not created: security modules judge those differently.
    let mut file = File::options().write(true).open(format!("/proc/{pid}/oom_score_adj"))?;
    std::io::Write::write_all(&mut file, b"800")
}

/// What this thread's children must not have, and need not be: as privileged, as urgent.
pub(crate) fn give_up_privilege() {
    let _ = rustix::thread::clear_ambient_capability_set();
    crate::after_services(rustix::thread::gettid());
}

/// A descriptor that a child inherits, for as long as this value is there.
fn inherited(file: BorrowedFd<'_>) -> std::io::Result<OwnedFd> {
    let copy = file.try_clone_to_owned()?;
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
    Ok(copy)
}

fn by_number(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn connect(socket: &Path, child: &mut Child) -> Result<Connection, String> {
    let limit = Instant::now() + START;
    loop {
        if let Ok(connection) = Connection::open(socket) {
            return Ok(connection);
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it ended ({status})"));
        }
        if Instant::now() > limit {
            return Err("it does not listen".to_owned());
        }
        // A socket that is about to be made cannot be waited for.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The end of what dlv has printed, made safe.
fn last_words(output: &File) -> String {
    let mut text = Vec::new();
    let mut output = output;
    let _ =
        output.seek(SeekFrom::Start(0)).and_then(|_| output.take(64 * 1024).read_to_end(&mut text));
    let text = printable(&text[text.len().saturating_sub(400)..]);
    let lines: Vec<&str> = text.lines().filter(|line| !line.contains("listening at")).collect();
    if lines.is_empty() { String::new() } else { format!("; it said: {}", lines.join(" / ")) }
}

impl Delve {
    /// Where it listens, for more connections.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// One question.
    ///
    /// # Errors
    /// dlv's own word when it refuses; else what went wrong.
    pub(crate) fn ask<T: DeserializeOwned>(
        &mut self,
        method: &'static str,
        question: impl Serialize,
    ) -> Result<T, Answerless> {
        let answer = self.connection.call(method, question, Instant::now() + ANSWER);
        answer.map_err(|error| match error {
            RpcError::Refused { text, .. } => Answerless::Refused(text),
            other => Answerless::Broken(format!("{other}{}", last_words(&self.output))),
        })
    }

    /// One question whose answer is shown to somebody, without what is hidden from them.
    ///
    /// # Errors
    /// As with `ask`.
    pub(crate) fn ask_to_show<T: DeserializeOwned>(
        &mut self,
        method: &'static str,
        question: impl Serialize,
        redactor: Option<&Redactor>,
    ) -> Result<T, Answerless> {
        let Some(redactor) = redactor else { return self.ask(method, question) };
        let mut answer: serde_json::Value =
            self.ask(method, question).map_err(|why| match why {
                Answerless::Refused(text) => Answerless::Refused(redactor.without_patterns(text)),
                broken @ Answerless::Broken(_) => broken,
            })?;
        redactor.hide_in_rpc(&mut answer);
        serde_json::from_value(answer).map_err(|error| Answerless::Broken(error.to_string()))
    }
}

/// Why dlv gave no answer.
#[derive(Debug)]
pub(crate) enum Answerless {
    /// It says why itself.
    Refused(String),
    Broken(String),
}

impl From<Answerless> for Refusal {
    fn from(why: Answerless) -> Self {
        let (Answerless::Refused(why) | Answerless::Broken(why)) = why;
        Self::failed(format!("dlv cannot read the image: {why}"), "")
    }
}

impl Drop for Delve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
