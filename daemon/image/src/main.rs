//! godebug-image: takes images of a running Go process, each in about a millisecond, and has dlv read
//! them. Run in a unit of its own, as the target's user, with CAP_SYS_PTRACE and little else.
//!
//! What it is to do is a document (`image::ImageConfig`). To answer one request it comes through a socket on
//! standard input, with the transcript; images that are to be kept go back through that socket, and what is found
//! goes to standard output, a line each (`image::Line`), refusals too; exit status: 0 when all was told, 3
//! when nobody reads it any more. To serve debuggers on a socket, as dlv would, it is standard input itself.

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
mod record;
mod report;
mod routines;
mod snapshot;
mod standing;
mod target;
mod trace;
mod values;
mod waits;

use delve::{Delve, Start};
use godebug_api::image::{ImageConfig, ImageRequest, ImageTask, ImageWork, Line};
use godebug_api::redact::Redactor;
use godebug_api::{Code, Refusal, handover};
use keeper::Keeper;
use record::Record;
use report::Report;
use rustix::fs::FileType;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use target::{Image, Target};
use trace::Wakeups;

/// godebugd knows it (sessions::life).
const NOBODY_READS: u8 = 3;
/// How long the guard may take to be there.
const GUARD_PATIENCE: Duration = Duration::from_secs(20);
/// The configuration is ours; a longer one is not.
const LONGEST_CONFIGURATION: u64 = 256 * 1024;

fn main() -> ExitCode {
    let Given { config, transcript } = match given() {
        Ok(given) => given,
        Err(error) => return tell(&mut Report::new(), error),
    };
    match &config.work {
        ImageWork::Answer(request) => {
            let mut report = Report::new();
            match recorded(&config, transcript, request, &mut report) {
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

/// Answers, and writes down what was asked and shown.
fn recorded(
    config: &ImageConfig,
    transcript: Option<File>,
    request: &ImageRequest,
    report: &mut Report,
) -> Result<(), Refusal> {
    let (Some(transcript), Some(of)) = (transcript, &config.record) else {
        return Err(Refusal::usage("there is nothing to write down what is shown", ""));
    };
    report.begin(Record::new(transcript, of), &request.task)?;
    let answered = answer(config, request, report);
    let why =
        answered.as_ref().map_or_else(|refusal| refusal.message.as_str(), |()| "all was shown");
    let ended = report.end(why);
    answered.and(ended)
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
            let (mut dlv, image) = now(&target, &start, &mut wakeups, report)?;
            let all = goroutines::summary(&mut dlv, &image, &config.unit)?;
            report.line(&Line::Goroutines(Box::new(all)))
        }
        ImageTask::Heap { top } => {
            let (mut dlv, image) = now(&target, &start, &mut wakeups, report)?;
            let top = usize::try_from(top.get()).unwrap_or(0);
            let all = heap::summary(&mut dlv, &target, &image, &config.unit, top)?;
            report.line(&Line::Heap(Box::new(all)))
        }
        ImageTask::Snapshot { at, expressions, condition, count, stack, every, keep: _ } => {
            let redactor = Redactor::new(config.redact.clone());
            let wanted = snapshot::Wanted {
                unit: &config.unit,
                at,
                expressions,
                condition: condition.as_ref(),
                count: *count,
                stack: *stack,
                every: *every,
                patience: request.patience,
                redactor: redactor.as_ref(),
            };
            let mut keeper = keeper(request)?;
            let found = snapshot::Found { report, keeper: keeper.as_mut() };
            snapshot::run(&wanted, &target, &mut wakeups, &start, found)
        }
    };
    let _ = std::fs::remove_dir_all(&folder);
    done
}

/// An image of the target as it is now, and a dlv that has it.
fn now(
    target: &Target,
    start: &Start<'_>,
    wakeups: &mut Wakeups,
    report: &mut Report,
) -> Result<(Delve, Image), Refusal> {
    target.is_ready()?;
    let image = target.image(wakeups)?;
    report.image(&image, "")?;
    let dlv = start.on(&target.executable, &image.core)?;
    Ok((dlv, image))
}

fn keeper(request: &ImageRequest) -> Result<Option<Keeper>, Refusal> {
    let keeper = request.keep().map(|_| Keeper::new()).transpose();
    keeper.map_err(|error| Refusal::host(format!("images cannot be kept: {error}"), ""))
}

/// What godebugd gives.
struct Given {
    config: ImageConfig,
    /// Open for appending; none where the gateway writes it.
    transcript: Option<File>,
}

fn given() -> Result<Given, Refusal> {
    let mut text = Vec::new();
    let read = files().and_then(|(file, transcript)| {
        file.take(LONGEST_CONFIGURATION).read_to_end(&mut text)?;
        Ok((serde_json::from_slice(&text)?, transcript))
    });
    let given = read.map(|(config, transcript)| Given { config, transcript });
    given.map_err(|error| {
        Refusal::usage(format!("the configuration is not understood: {error}"), "")
    })
}

/// The file on standard input, or those in the socket there.
fn files() -> std::io::Result<(File, Option<File>)> {
    let input = std::io::stdin();
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&input)?.st_mode);
    match kind {
        FileType::Socket => {
            let [configuration, transcript] = handover::receive_for_images(input.as_fd())?;
            Ok((File::from(configuration), Some(File::from(transcript))))
        }
        _ => Ok((File::from(input.as_fd().try_clone_to_owned()?), None)),
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
