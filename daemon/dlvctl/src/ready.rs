//! Waits until dlv has attached and the target runs again.
//!
//! dlv prints that it listens, and makes its socket, before it attaches; it answers only after.
//! It is asked on one connection: dlv keeps a descriptor of every connection that says nothing.

use crate::account::account;
use crate::dlv::{Dlv, State};
use crate::process::{Watch, is_traced, let_run, threads};
use godebug_api::{Pid, StartAt};
use godebug_dlvctl::rpc::RpcError;
use godebug_dlvctl::text::printable;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two looks while dlv attaches, which takes its time and every processor.
const ATTACHING: Duration = Duration::from_millis(20);
/// How much of what dlv printed is repeated.
const LAST_WORDS: u64 = 2048;

/// What dlv is made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begins {
    /// A process that runs, and runs on. Meanwhile it stands, for as long at most if that is said.
    Attached { stands_at_most: Option<Duration> },
    /// A process that a SIGSTOP holds at its first instruction.
    Started(StartAt),
    /// A core: there is no process.
    Core,
}

/// How long to wait for what.
pub(crate) struct Patience {
    /// For everything: dlv reads the target's debug information, seconds for a large program.
    total: Duration,
    /// For the target to run once dlv answers, which is dlv's own `--continue`.
    running: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { total: Duration::from_secs(55), running: Duration::from_secs(10) }
    }
}

/// Why dlv is not ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("dlv ended before it had attached to process {0}")]
    Ended(Pid),
    #[error("dlv had not attached to process {0} after {1:?}")]
    Slow(Pid, Duration),
    /// Whoever reads this ends dlv, and with it the freeze.
    #[error("process {0} stood for more than {1:?} while dlv attached to it")]
    Froze(Pid, Duration),
    #[error(
        "dlv has attached to process {0}, but the process did not run again within {1:?}; dlv is \
         started with --continue for that"
    )]
    Stopped(Pid, Duration),
    #[error("process {0} was let go before dlv had it, and is past its beginning")]
    LetGo(Pid),
    #[error("the process cannot be let run: {0}")]
    Held(io::Error),
    #[error(
        "process {0} ended before it came to its main function; look at what it does before with \
         --stop-at entry"
    )]
    EndedBeforeMain(Pid),
    #[error(
        "process {0} did not come to its main function in time; look at what it does before with \
         --stop-at entry"
    )]
    SlowStart(Pid),
    #[error("process {0} has exited while dlv attached to it")]
    TargetExited(Pid),
    #[error("dlv's socket cannot be used: {0}")]
    Socket(io::Error),
    #[error(transparent)]
    Rpc(RpcError),
}

/// Returns when the dlv with PID `dlv`, listening on `socket`, has attached to `target` and the
/// target runs, or stands where it is to `start`.
pub(crate) fn wait(
    socket: &Path,
    target: Pid,
    dlv: Pid,
    begins: Begins,
    patience: &Patience,
) -> Result<(), NotReady> {
    let watch = Watch::over(dlv);
    let mut limits = Limits::new(target, begins, patience);
    let waited = attached(socket, target, begins, &watch, patience, &mut limits);
    if let Err(NotReady::Slow(..) | NotReady::Froze(..)) = waited {
        // It is about to be killed, and nobody can look any more.
        eprintln!("{}", account(dlv, target));
    }
    waited
}

fn attached(
    socket: &Path,
    target: Pid,
    begins: Begins,
    watch: &Watch,
    patience: &Patience,
    limits: &mut Limits,
) -> Result<(), NotReady> {
    let mut connection = loop {
        match Dlv::connect(socket) {
            Ok(connection) => break connection,
            // Not there yet, or there and not listening yet: neither reaches dlv.
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(NotReady::Socket(error)),
        }
        if watch.ends_within(PAUSE) {
            return Err(NotReady::Ended(target));
        }
        limits.hold()?;
    };
    let mut running_by = None;
    loop {
        match state(&mut connection, limits)? {
            Ok(state) if state.exited => return Err(NotReady::TargetExited(target)),
            Ok(state) if state.running => return Ok(()),
            Ok(_) => match begins {
                Begins::Attached { .. } => {}
                Begins::Started(start) => {
                    return begin(&mut connection, target, start, limits.by);
                }
                Begins::Core => return Ok(()),
            },
            Err(error) if error.target_has_exited() => return Err(NotReady::TargetExited(target)),
            // dlv's end closes its socket a little earlier than it can be seen.
            Err(_) if watch.ends_within(Duration::from_secs(1)) => {
                return Err(NotReady::Ended(target));
            }
            Err(error) => return Err(NotReady::Rpc(error)),
        }
        if Instant::now() >= *running_by.get_or_insert(Instant::now() + patience.running) {
            return Err(NotReady::Stopped(target, patience.running));
        }
        limits.hold()?;
        std::thread::sleep(PAUSE);
    }
}

/// dlv's answer, however long it takes within the limits.
fn state(dlv: &mut Dlv, limits: &mut Limits) -> Result<Result<State, RpcError>, NotReady> {
    let asked = match dlv.ask_state(limits.by) {
        Ok(asked) => asked,
        Err(RpcError::Timeout(_)) => return Err(limits.slow()),
        Err(error) => return Ok(Err(error)),
    };
    loop {
        match dlv.told_state(asked, Instant::now() + ATTACHING) {
            Err(RpcError::Timeout(_)) => limits.hold()?,
            told => return Ok(told),
        }
    }
}

/// What must not last longer.
struct Limits {
    target: Pid,
    total: Duration,
    by: Instant,
    stands_at_most: Option<Duration>,
    stands_since: Option<Instant>,
}

impl Limits {
    fn new(target: Pid, begins: Begins, patience: &Patience) -> Self {
        let stands_at_most = match begins {
            Begins::Attached { stands_at_most } => stands_at_most,
            Begins::Started(_) | Begins::Core => None,
        };
        let by = Instant::now() + patience.total;
        Self { target, total: patience.total, by, stands_at_most, stands_since: None }
    }

    fn slow(&self) -> NotReady {
        NotReady::Slow(self.target, self.total)
    }

    /// Fails when one is exceeded.
    fn hold(&mut self) -> Result<(), NotReady> {
        let now = Instant::now();
        if now >= self.by {
            return Err(self.slow());
        }
        let Some(limit) = self.stands_at_most else { return Ok(()) };
        // What dlv traces and has not said to run stands: it lets go of it only when it has all.
        if self.stands_since.is_none() && is_traced(self.target) {
            self.stands_since = Some(now);
        }
        match self.stands_since {
            Some(since) if now.saturating_duration_since(since) >= limit => {
                Err(NotReady::Froze(self.target, limit))
            }
            _ => Ok(()),
        }
    }
}

/// Lets a program that stands at its first instruction run as far as it shall.
fn begin(dlv: &mut Dlv, target: Pid, start: StartAt, by: Instant) -> Result<(), NotReady> {
    // A program that has not begun has one thread, and Go's runtime has several before it calls main.
    if threads(target) > 1 {
        return Err(NotReady::LetGo(target));
    }
    // dlv holds every thread by now: it is the only one that can let them run.
    let_run(target).map_err(NotReady::Held)?;
    let began = match start {
        StartAt::Entry => Ok(()),
        StartAt::Nowhere => dlv.resume(by),
        StartAt::Main => match dlv.run_to("main.main", by) {
            Ok(state) if state.exited => return Err(NotReady::EndedBeforeMain(target)),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        },
    };
    began.map_err(|error| match error {
        error if error.target_has_exited() => NotReady::EndedBeforeMain(target),
        RpcError::Timeout(_) => NotReady::SlowStart(target),
        error => NotReady::Rpc(error),
    })
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// The end of what dlv printed to `log`, each line marked as dlv's; nothing if there is nothing.
pub(crate) fn last_words(log: Option<&Path>) -> String {
    let Some(log) = log else { return String::new() };
    match tail(log) {
        Ok(text) => printable(&text).lines().map(|line| format!("dlv: {line}\n")).collect(),
        Err(error) => format!("what dlv printed cannot be read: {}: {error}\n", log.display()),
    }
}

fn tail(log: &Path) -> io::Result<Vec<u8>> {
    // Should it be a pipe, opening it must not wait for a writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(log)?;
    let start = file.metadata()?.len().saturating_sub(LAST_WORDS);
    file.seek(SeekFrom::Start(start))?;
    let mut text = Vec::new();
    file.take(LAST_WORDS).read_to_end(&mut text)?;
    if start > 0 {
        // It starts in the middle of a line, perhaps in the middle of a character.
        let first_end = text.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        text.drain(..first_end);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;
    use std::process::{Child, Command};

    const QUICK: Patience =
        Patience { total: Duration::from_millis(400), running: Duration::from_millis(100) };

    struct Bench {
        folder: tempfile::TempDir,
        /// Stands for dlv where only its being alive counts.
        dlv: Child,
    }

    impl Bench {
        fn new() -> Self {
            let dlv = Command::new("sleep").arg("60").spawn().unwrap();
            Self { folder: tempfile::tempdir().unwrap(), dlv }
        }

        fn socket(&self) -> PathBuf {
            self.folder.path().join("dlv.sock")
        }

        fn wait(&self) -> Result<(), NotReady> {
            self.wait_for(Begins::Attached { stands_at_most: None })
        }

        fn wait_for(&self, begins: Begins) -> Result<(), NotReady> {
            let target = Pid::try_from(std::process::id()).unwrap();
            wait(&self.socket(), target, Pid::try_from(self.dlv.id()).unwrap(), begins, &QUICK)
        }

        /// Answers each State with the next of `states`, the last again and again.
        fn serve(&self, states: &'static [&'static str]) {
            let listener = UnixListener::bind(self.socket()).unwrap();
            std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                for (index, line) in lines.map_while(Result::ok).enumerate() {
                    assert!(line.contains("RPCServer.State"), "{line}");
                    let state = states[index.min(states.len() - 1)];
                    let id = index + 1;
                    let _ = writeln!(stream, "{{\"id\":{id},{state}}}");
                }
            });
        }
    }

    impl Drop for Bench {
        fn drop(&mut self) {
            self.dlv.kill().unwrap();
            self.dlv.wait().unwrap();
        }
    }

    const STOPPED: &str = r#""result":{"State":{"Running":false,"Threads":null}},"error":null"#;
    const RUNNING: &str = r#""result":{"State":{"Running":true,"new":[1]}},"error":null"#;

    #[test]
    fn it_is_ready_when_the_target_runs() {
        let bench = Bench::new();
        bench.serve(&[STOPPED, STOPPED, RUNNING]);
        bench.wait().unwrap();
    }

    #[test]
    fn a_socket_that_comes_later_is_waited_for() {
        let bench = Bench::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                bench.serve(&[RUNNING]);
            });
            bench.wait().unwrap();
        });
    }

    #[test]
    fn a_program_that_was_let_go_before_is_not_waited_for() {
        let bench = Bench::new();
        bench.serve(&[STOPPED]);
        // The target is this program, which has several threads.
        let waited = bench.wait_for(Begins::Started(StartAt::Main));
        assert!(matches!(waited, Err(NotReady::LetGo(_))), "{waited:?}");
    }

    #[test]
    fn what_goes_wrong_is_told_apart() {
        let bench = Bench::new();
        assert!(matches!(bench.wait(), Err(NotReady::Slow(..))));

        bench.serve(&[STOPPED]);
        assert!(matches!(bench.wait(), Err(NotReady::Stopped(..))));

        let bench = Bench::new();
        bench.serve(&[r#""result":null,"error":"Process 9 has exited with status 2""#]);
        assert!(matches!(bench.wait(), Err(NotReady::TargetExited(_))));

        let mut bench = Bench::new();
        bench.dlv.kill().unwrap();
        assert!(matches!(bench.wait(), Err(NotReady::Ended(_))));
    }

    #[test]
    fn dlvs_last_words_are_short_and_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, "could not attach\u{1b}[2J\n").unwrap();
        assert_eq!(last_words(Some(&log)), "dlv: could not attach\\u{1b}[2J\n");
        std::fs::write(&log, "ü long line\n".repeat(10_000)).unwrap();
        let words = last_words(Some(&log));
        assert!(words.len() < 4096 && words.starts_with("dlv: ü long"), "{words}");
        assert_eq!(last_words(None), "");
        assert!(last_words(Some(Path::new("/nowhere"))).contains("cannot be read"));
    }
}
