//! godebug-image: takes images of a running Go process, each in about a millisecond, and has dlv read
//! them. Run in a unit of its own, as the target's user, with CAP_SYS_PTRACE and little else.
//!
//! What it is to do comes as a document on standard input (`image::ImageConfig`), or in a file that a socket there
//! holds, through which images go back that are to be kept. Either what it finds goes
//! to standard output, a line each (`image::Line`), refusals too; exit status: 0 when all was told, 3
//! when nobody reads it any more. Or it serves debuggers on a socket, as dlv would.

mod core;
mod core_memory;
mod delve;
mod goroutines;
mod headroom;
mod heap;
mod keeper;
mod layout;
mod memory;
mod observe;
mod places;
mod report;
mod routines;
mod snapshot;
mod target;
mod trace;
mod values;
mod waits;

use delve::Start;
use godebug_api::image::{ImageConfig, ImageRequest, ImageTask, ImageWork, Line};
use godebug_api::{Code, Refusal, handover};
use keeper::Keeper;
use report::Report;
use rustix::fs::FileType;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use target::Target;
use trace::Wakeups;

/// godebugd knows it (sessions::life).
const NOBODY_READS: u8 = 3;
/// How long the guard may take to be there.
const GUARD_PATIENCE: Duration = Duration::from_secs(20);
/// The configuration is ours; a longer one is not.
const LONGEST_CONFIGURATION: u64 = 256 * 1024;

fn main() -> ExitCode {
    let config = match configuration() {
        Ok(config) => config,
        Err(error) => return tell(&mut Report::new(), error),
    };
    match &config.work {
        ImageWork::Answer(request) => {
            let mut report = Report::new();
            match answer(&config, request, &mut report) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => tell(&mut report, error),
            }
        }
        ImageWork::Serve { socket, .. } => match observe::serve(&config, socket) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.code == Code::Ended => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Why there is no answer, to whoever asked and to the journal.
fn tell(report: &mut Report, error: Refusal) -> ExitCode {
    eprintln!("{error}");
    match report.line(&Line::Refused { error }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(NOBODY_READS),
    }
}

fn answer(
    config: &ImageConfig,
    request: &ImageRequest,
    report: &mut Report,
) -> Result<(), Refusal> {
    let mut wakeups = Wakeups::new()?;
    if config.guarded {
        await_guard(&mut wakeups)?;
    }
    let target = Target::open(config)?;
    let folder = folder()?;
    let start = Start {
        program: &config.debugger,
        symbols: config.symbols.as_deref(),
        folder: &folder,
        by_this_thread: false,
    };
    let done = match &request.task {
        ImageTask::Goroutines => {
            target.is_ready()?;
            let image = target.image(&mut wakeups)?;
            let mut dlv = start.on(&target.executable, &image.core)?;
            let all = goroutines::summary(&mut dlv, &image, &config.unit)?;
            report.line(&Line::Goroutines(Box::new(all)))
        }
        ImageTask::Heap { top } => {
            target.is_ready()?;
            let image = target.image(&mut wakeups)?;
            let mut dlv = start.on(&target.executable, &image.core)?;
            let top = usize::try_from(top.get()).unwrap_or(0);
            let all = heap::summary(&mut dlv, &target, &image, &config.unit, top)?;
            report.line(&Line::Heap(Box::new(all)))
        }
        ImageTask::Snapshot { at, expressions, condition, count, stack, every, keep } => {
            let wanted = snapshot::Wanted {
                unit: &config.unit,
                at,
                expressions,
                condition: condition.as_ref(),
                count: *count,
                stack: *stack,
                every: *every,
                patience: request.patience,
            };
            let mut keeper = match keep {
                Some(_) => Some(Keeper::new().map_err(|error| {
                    Refusal::host(format!("images cannot be kept: {error}"), "")
                })?),
                None => None,
            };
            let report = snapshot::Found { report, keeper: keeper.as_mut() };
            snapshot::run(&wanted, &target, &mut wakeups, &start, report)
        }
    };
    let _ = std::fs::remove_dir_all(&folder);
    done
}

fn configuration() -> Result<ImageConfig, Refusal> {
    let mut text = Vec::new();
    given()
        .and_then(|file| file.take(LONGEST_CONFIGURATION).read_to_end(&mut text))
        .map_err(serde_json::Error::io)
        .and_then(|_| serde_json::from_slice(&text))
        .map_err(|error| {
            Refusal::usage(format!("the configuration is not understood: {error}"), "")
        })
}

/// The file on standard input, or that in the socket there.
fn given() -> std::io::Result<File> {
    let input = std::io::stdin();
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&input)?.st_mode);
    match kind {
        FileType::Socket => Ok(File::from(handover::receive_for_images(input.as_fd())?)),
        _ => Ok(File::from(input.as_fd().try_clone_to_owned()?)),
    }
}

/// Waits until the guard traces us: from then on our death, whoever causes it, is seen before the
/// kernel lets go of the target.
fn await_guard(wakeups: &mut Wakeups) -> Result<(), Refusal> {
    let limit = Instant::now() + GUARD_PATIENCE;
    loop {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        if tracer.is_some_and(|tracer| tracer.trim() != "0") {
            return Ok(());
        }
        wakeups.go_on()?;
        if Instant::now() > limit {
            return Err(Refusal::host(
                "the guard is not there",
                "see `journalctl -u 'godebug-guard@*'`",
            ));
        }
        // The kernel tells nobody that it is traced now.
        wakeups.sleep(Instant::now() + Duration::from_millis(2));
    }
}

/// A folder for dlv's socket and settings. In the unit, /tmp is nobody else's.
fn folder() -> Result<PathBuf, Refusal> {
    use std::os::unix::fs::DirBuilderExt;
    let path = std::env::temp_dir().join(format!("godebug-image-{}", std::process::id()));
    let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
    made.map(|()| path)
        .map_err(|error| Refusal::host(format!("a folder for dlv cannot be made: {error}"), ""))
}

/// The unit comes first for as long as the target stands. What is done when it runs again comes after
/// the services.
fn after_services(task: rustix::process::Pid) {
    // Nobody is refused this.
    let _ = rustix::process::setpriority_process(Some(task), 5);
}

/// With two decimals, as people read it.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}
