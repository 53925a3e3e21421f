//! Catches the process of a unit at the moment systemd executes it, and holds it until dlv does.
//!
//! Nothing of the unit is changed: no drop-in, no wrapper. The kernel asks whoever marked a file whether
//! it may be executed (fanotify(7), FAN_OPEN_EXEC_PERM), and whoever executes it waits for the answer.
//! By then systemd has done all that the unit says: user, capabilities, sandbox, sockets, environment.
//! The process is traced before the answer, so it stops as soon as it is the program (PTRACE_EVENT_EXEC),
//! before any instruction of it; there it gets a SIGSTOP and is let go, so that dlv can attach.
//!
//! When this process dies, the kernel answers yes for it and frees what it traces.

use crate::ledger::Ledger;
use crate::paths;
use crate::target::find::is_go;
use crate::target::process::{self, Process};
use godebug_api::{Pid, SessionId, UnitName};
use godebug_core::grant::Grant;
use godebug_core::ledger::Replay;
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// For the unit to stop and to begin to start again. Whoever asked gives up a little earlier.
const PATIENCE: Duration = Duration::from_secs(130);
/// Between two looks at what is traced; the kernel wakes nobody for both at once.
const LOOK: Duration = Duration::from_millis(5);
/// For a process to stop that was sent a SIGSTOP.
const STOPS_WITHIN: Duration = Duration::from_secs(2);
/// For godebugd to see to it that what stands is let go whatever becomes of godebugd. It takes less than
/// one; a godebugd that is stopped takes for ever.
const UNGUARDED: Duration = Duration::from_secs(15);

/// Waits until one of `programs` is executed as the main process of `unit`, and prints its PID when it
/// stands. Returns when somebody else traces it, or when nobody is left who would: the reader of what is
/// printed has it open for as long.
///
/// # Errors
/// What could not be done. The process runs on then.
pub fn catch(id: &SessionId, unit: &UnitName, programs: &[&str]) -> Result<(), String> {
    let executions = Executions::of(programs)?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let limit = Instant::now() + PATIENCE;
    let process = loop {
        if Instant::now() > limit {
            return Err(format!("no process of {unit} has executed {}", programs.join(" or ")));
        }
        if nobody_listens() {
            return Err(format!("godebugd has ended while it waited for {unit} to start"));
        }
        for execution in executions.wait(LOOK)? {
            if is_main(&execution, unit) {
                match ptrace::seize(execution.pid, ptrace::Options::PTRACE_O_TRACEEXEC) {
                    // What it is already traced by is we: a script that executes another one.
                    Ok(()) | Err(Errno::EPERM) => {}
                    Err(error) => {
                        return Err(format!("{} cannot be traced: {error}", execution.pid));
                    }
                }
            }
            execution.let_go_on()?;
        }
        if let Some(process) = next_program()? {
            break process;
        }
    };
    // Nobody has to wait for our answers any more.
    drop(executions);
    stand(&process)?;
    let mut output = std::io::stdout();
    writeln!(output, "{}", process.pid)
        .and_then(|()| output.flush())
        .map_err(|error| format!("nobody wants to know what was caught: {error}"))?;
    hold(id, &process)
}

/// Lets whatever is traced go on, until one of them has become a Go program: that one stands. Scripts and
/// env(1) are traced to the end, since they may execute one; the kernel lets them go with us.
fn next_program() -> Result<Option<Process>, String> {
    loop {
        let changed = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
        match changed {
            Ok(WaitStatus::PtraceEvent(pid, _, event)) if is_execution(event) => {
                let number = u32::try_from(pid.as_raw()).unwrap_or_default();
                let number = Pid::try_from(number).map_err(|error| error.to_string())?;
                if is_go(number) {
                    return Process::pin(number).map(Some).map_err(|error| error.to_string());
                }
                go_on(pid, None)?;
            }
            Ok(WaitStatus::Stopped(pid, signal)) => go_on(pid, Some(signal))?,
            Ok(WaitStatus::PtraceEvent(pid, ..)) => go_on(pid, None)?,
            // One has ended, and systemd may start it again.
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::EINTR) => {}
            Ok(_) | Err(Errno::ECHILD) => return Ok(None),
            Err(error) => return Err(format!("what was caught cannot be waited for: {error}")),
        }
    }
}

/// The end of a launcher, whatever it was: what it holds and no debugger does is let go. `stops`: the
/// unit did not run before; when no session has come of it, it is stopped.
///
/// # Errors
/// What could not be let go.
pub fn let_go(id: &SessionId, unit: &UnitName, stops: bool) -> Result<(), String> {
    for process in held_in(&show(unit.as_str(), "ControlGroup")?)? {
        rustix::process::pidfd_send_signal(process.pidfd(), rustix::process::Signal::CONT)
            .map_err(|error| format!("process {} cannot be continued: {error}", process.pid))?;
    }
    if stops && !stops_with_its_session(id)? {
        systemctl(&["stop", "--no-block", "--", unit.as_str()])?;
    }
    Ok(())
}

/// Whether the session has taken it upon itself to stop the unit.
fn stops_with_its_session(id: &SessionId) -> Result<bool, String> {
    let announced = replay(id)?.map(|replay| replay.announced).unwrap_or_default();
    Ok(announced.iter().any(|(_, grant)| matches!(grant, Grant::Started { .. })))
}

/// Whether somebody ends the session when its time is over, godebugd or not.
fn has_dead_man(id: &SessionId) -> Result<bool, String> {
    let outstanding = replay(id)?.map(|replay| replay.outstanding).unwrap_or_default();
    for (_, grant) in outstanding {
        // It was announced, and may not have come to be.
        if let Grant::DeadMan { unit } = grant
            && show(&unit, "ActiveState")? == "active"
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn replay(id: &SessionId) -> Result<Option<Replay>, String> {
    let ledger = Ledger::open(id).map_err(|error| error.to_string())?;
    let replay = ledger.map(|ledger| ledger.without_lock().replay()).transpose();
    Ok(replay.map_err(|error| error.to_string())?.flatten())
}

/// The processes of a control group that are held, or are just about to stop for it.
///
/// # Errors
/// When the group cannot be read.
pub fn held_in(group: &str) -> Result<Vec<Process>, String> {
    if group.is_empty() {
        return Ok(Vec::new());
    }
    let members = match process::processes_in_cgroup(Path::new(paths::CGROUP), group) {
        Ok(members) => members,
        // The unit has just ended.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("the processes of {group} cannot be read: {error}")),
    };
    let pinned = members.into_iter().filter_map(|pid| Process::pin(pid).ok());
    Ok(pinned.filter(|process| is_held(process) || will_stand(process)).collect())
}

/// Files of which every execution is waited for.
struct Executions(Fanotify);

impl Executions {
    fn of(programs: &[&str]) -> Result<Self, String> {
        let failed = |error: Errno| match error {
            Errno::ENOSYS | Errno::EINVAL => {
                "this kernel does not tell of executions (CONFIG_FANOTIFY_ACCESS_PERMISSIONS)"
                    .to_owned()
            }
            error => format!("the kernel does not tell of executions: {error}"),
        };
        let flags = InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC);
        let group = group.map_err(failed)?;
        let mut marked = 0;
        let mut why = String::new();
        for program in programs {
            let exec = MaskFlags::FAN_OPEN_EXEC_PERM;
            match group.mark(MarkFlags::FAN_MARK_ADD, exec, AT_FDCWD, Some(*program)) {
                Ok(()) => marked += 1,
                Err(error) => why = format!("{program}: {}", failed(error)),
            }
        }
        // Of the program that runs and the one that is on the disk only one may be there.
        if marked == 0 { Err(why) } else { Ok(Self(group)) }
    }

    fn wait(&self, patience: Duration) -> Result<Vec<Execution<'_>>, String> {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        let limit = Timespec::try_from(patience).map_err(|error| error.to_string())?;
        match poll(&mut fds, Some(&limit)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
        let events = match self.0.read_events() {
            Ok(events) => events,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(format!("executions cannot be read: {error}")),
        };
        let of_event = |event: nix::sys::fanotify::FanotifyEvent| Execution {
            pid: nix::unistd::Pid::from_raw(event.pid()),
            event,
            group: &self.0,
        };
        Ok(events.into_iter().map(of_event).collect())
    }
}

/// Somebody who executes one of the files, and waits until they may.
struct Execution<'a> {
    pid: nix::unistd::Pid,
    event: nix::sys::fanotify::FanotifyEvent,
    group: &'a Fanotify,
}

impl Execution<'_> {
    fn let_go_on(self) -> Result<(), String> {
        let Some(fd) = self.event.fd() else { return Ok(()) };
        let answer = FanotifyResponse::new(fd.as_fd(), Response::FAN_ALLOW);
        match self.group.write_response(answer) {
            // It was killed while it waited.
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(format!("process {} cannot be let go on: {error}", self.pid)),
        }
    }
}

/// Whether it is the main process of the unit or a child of that, and not what the unit runs before or
/// after it. Others execute the same file too.
fn is_main(execution: &Execution<'_>, unit: &UnitName) -> bool {
    let pid = execution.pid.as_raw();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if !groups.trim_end().split('/').any(|part| part == unit.as_str()) {
        return false;
    }
    // systemd answers when it has made the process, and knows what for.
    let Ok(main) = show(unit.as_str(), "MainPID") else { return false };
    let parent = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = parent.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
    main == pid.to_string() || (main != "0" && parent == Some(main.as_str()))
}

fn is_execution(event: i32) -> bool {
    event == ptrace::Event::PTRACE_EVENT_EXEC as i32
}

fn go_on(pid: nix::unistd::Pid, signal: Option<Signal>) -> Result<(), String> {
    match ptrace::cont(pid, signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(format!("process {pid} cannot be continued: {error}")),
    }
}

/// Exchanges our stop for one by a signal, which leaves room for another tracer.
fn stand(process: &Process) -> Result<(), String> {
    let pid = nix::unistd::Pid::from_raw(process.pid.get().cast_signed());
    // Where a process stands for an event, a signal is not given to it with the detaching (ptrace(2)).
    rustix::process::pidfd_send_signal(process.pidfd(), rustix::process::Signal::STOP)
        .map_err(|error| format!("process {pid} cannot be stopped: {error}"))?;
    ptrace::detach(pid, None).map_err(|error| format!("process {pid} is not let go: {error}"))?;
    let limit = Instant::now() + STOPS_WITHIN;
    while !is_held(process) {
        if Instant::now() > limit || !process.is_alive() {
            return Err(format!("process {pid} does not stand at its start"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Until another one traces it, or it goes on.
///
/// # Errors
/// When it would stand for nobody: it is let go with the end of this process's unit.
fn hold(id: &SessionId, process: &Process) -> Result<(), String> {
    let begun = Instant::now();
    let mut guarded = false;
    while process.is_alive() && is_held(process) {
        if nobody_listens() {
            return Err("godebugd has ended, so no debugger comes".to_owned());
        }
        if !guarded && begun.elapsed() > UNGUARDED {
            guarded = has_dead_man(id)?;
            if !guarded {
                return Err(format!("godebugd has done nothing for {UNGUARDED:?}"));
            }
        }
        if let Err(error) = next_program() {
            tracing::warn!("{error}");
        }
        // The kernel tells nobody that a process is traced now.
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Whether godebugd has closed its end of the pipe that is our output, as it does by ending.
fn nobody_listens() -> bool {
    let output = std::io::stdout();
    let mut fds = [PollFd::new(&output, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&at_once)).is_ok() && fds[0].revents().contains(PollFlags::ERR)
}

/// Whether a signal has stopped it and nobody traces it.
pub fn is_held(process: &Process) -> bool {
    process.status().is_ok_and(|status| status.state == 'T' && status.tracer_pid.is_none())
}

/// Whether no debugger has it.
pub fn is_untraced(process: &Process) -> bool {
    process.status().is_ok_and(|status| status.tracer_pid.is_none())
}

/// Whether it has our signal and has not come to stopping yet, as when we die between the two.
fn will_stand(process: &Process) -> bool {
    let stop = 1 << (Signal::SIGSTOP as u32 - 1);
    process.status().is_ok_and(|status| status.shd_pnd & stop != 0 && status.tracer_pid.is_none())
}

fn show(unit: &str, property: &str) -> Result<String, String> {
    let property = format!("--property={property}");
    Ok(systemctl(&["show", "--value", &property, "--", unit])?.trim().to_owned())
}

/// Over systemd's private socket, which needs no bus.
fn systemctl(arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new("systemctl");
    command.arg("--no-ask-password").args(arguments);
    let output = command.env_clear().env("PATH", "/usr/bin:/bin").output();
    let output = output.map_err(|error| format!("systemctl: {error}"))?;
    if !output.status.success() {
        return Err(format!("systemctl: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
