//! The copy of a process: one of its own stopped threads is made to fork, and is then put back to
//! where it was, in the kernel, before its next instruction.

use super::stop::{Change, Stop};
use super::{Arch, Here, Thread, Threads, raw};
use godebug_api::Refusal;
use godebug_image::reached;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::process::{Signal, kill_process};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// A process that never runs: the memory of the target as it was, copy on write. Killed when this
/// value goes, and by the kernel if we are.
pub(crate) struct Copy {
    pub(crate) pid: Pid,
}

/// All signals; the kernel leaves out the two that cannot be blocked.
const ALL_SIGNALS: u64 = u64::MAX;
/// -ERESTARTNOINTR and its kin: the kernel wants the system call to be made again.
const RESTART: std::ops::RangeInclusive<i64> = -516..=-512;
/// A copying that something cuts in on is begun anew this often.
const TRIES: usize = 5;

/// A thread that has not come to its system call by then has no processor, or somebody has frozen it.
/// No order to end is heard meanwhile.
const COMES: Duration = Duration::from_secs(1);
/// Longer than the kernel copies any process for.
const LONGEST_COPYING: Duration = Duration::from_secs(600);

/// Why there is no copy.
enum NotCopied {
    /// Something came in between; nothing has changed.
    Disturbed,
    Refused(Errno),
    Failed(Refusal),
}

impl Threads<'_> {
    /// Copies the process, whose threads all stand.
    ///
    /// # Errors
    /// When the kernel refuses; everything is as before then.
    pub(crate) fn copy(&mut self) -> Result<Copy, Refusal> {
        let at = system_call(self.pid)?;
        for _ in 0..TRIES {
            let Some(tid) = self.best_to_copy_in() else {
                return Err(Refusal::target(
                    format!("every thread of process {} is stopped by a signal", self.pid),
                    "let it go on (systemctl kill --signal=SIGCONT UNIT), then try again",
                ));
            };
            match self.copy_in(tid, at) {
                Ok(copy) => return Ok(copy),
                Err(NotCopied::Disturbed) => {}
                Err(NotCopied::Refused(error)) => return Err(refused(error)),
                Err(NotCopied::Failed(refusal)) => return Err(refusal),
            }
        }
        Err(Refusal::target("the program is too busy with signals to be copied", "try again"))
    }

    /// A thread in a system call: it is in no sequence that must not be interrupted (rseq(2)).
    fn best_to_copy_in(&self) -> Option<Pid> {
        let standing = self.threads.iter().filter(|(_, t)| t.stop == Some(Stop::Interrupted));
        let mut any = None;
        for (tid, _) in standing {
            let tid = Pid::from_raw(*tid);
            match Here::registers(tid) {
                Ok(registers) if Here::is_in_system_call(&registers) => return Some(tid),
                Ok(_) => any = any.or(Some(tid)),
                Err(_) => {}
            }
        }
        any
    }

    fn copy_in(&mut self, tid: Pid, at: u64) -> Result<Copy, NotCopied> {
        let gone = |_| NotCopied::Failed(super::ended(tid));
        let registers = Here::registers(tid).map_err(gone)?;
        // A guard gives it back should we be killed in the middle.
        let kept = self.stash.keep(tid).map_err(|_| NotCopied::Failed(super::ended(tid)))?;
        // A signal in the middle would make the program's handler run on the wrong registers.
        raw::set_signal_mask(tid, ALL_SIGNALS).map_err(gone)?;
        let copied = Here::set_registers(tid, &Here::copying(&registers, at)).map_err(gone);
        reached("copying");
        let copied = copied.and_then(|()| self.run_system_call(tid));
        reached("copied");
        // Whatever came of it: where it stands now is in the kernel, on its way to the program, and
        // with these registers it arrives where it was, or makes its own system call again.
        let back = kept.give_back();
        self.stash.clear();
        match (copied, back) {
            (Ok(copy), Ok(())) => Ok(copy),
            (Err(why), _) => Err(why),
            (Ok(_), Err(_)) => Err(NotCopied::Failed(super::ended(tid))),
        }
    }

    /// Lets the thread make the system call, and stops it again before any instruction after it.
    fn run_system_call(&mut self, tid: Pid) -> Result<Copy, NotCopied> {
        let mut child = None;
        let mut entered = false;
        let result = loop {
            self.resume_to_system_call(tid).map_err(NotCopied::Failed)?;
            let stop = match entered {
                false => self.await_call(tid, &mut child),
                true => self.await_end_of_call(tid, &mut child),
            };
            match stop.map_err(NotCopied::Failed)? {
                Stop::Syscall if !entered => entered = true,
                Stop::Syscall => {
                    let registers = Here::registers(tid).map_err(NotCopied::Refused)?;
                    break Here::result(&registers);
                }
                Stop::Forked => {
                    let number = ptrace::getevent(tid).ok().and_then(|pid| i32::try_from(pid).ok());
                    if let (None, Some(number)) = (&child, number) {
                        child = Some(Copy { pid: Pid::from_raw(number) });
                    }
                }
                // SIGSTOP, which nobody can block, or the freezer: a stop in the kernel as well.
                Stop::Signal(_) | Stop::Group | Stop::Interrupted => {
                    return Err(NotCopied::Disturbed);
                }
                Stop::Cloned | Stop::Executed => return Err(NotCopied::Disturbed),
            }
        };
        // A system call ends behind the place where the kernel looks whether one is to be made
        // again; our own interrupt leads the thread back to it.
        self.bring_to_interrupt(tid, &mut child)?;
        match (child, result) {
            (Some(copy), _) => Ok(copy),
            (None, restart) if RESTART.contains(&restart) => Err(NotCopied::Disturbed),
            (None, error) => {
                let error = i32::try_from(-error).unwrap_or(0);
                Err(NotCopied::Refused(Errno::from_raw(error)))
            }
        }
    }

    fn resume_to_system_call(&mut self, tid: Pid) -> Result<(), Refusal> {
        self.runs(tid);
        ptrace::syscall(tid, None).map_err(|_| super::ended(self.pid))
    }

    fn bring_to_interrupt(&mut self, tid: Pid, child: &mut Option<Copy>) -> Result<(), NotCopied> {
        let gone = |_| NotCopied::Failed(super::ended(tid));
        ptrace::interrupt(tid).map_err(gone)?;
        self.runs(tid);
        raw::cont(tid, 0).map_err(gone)?;
        self.await_end_of_call(tid, child).map(drop).map_err(NotCopied::Failed)
    }

    fn runs(&mut self, tid: Pid) {
        if let Some(thread) = self.threads.get_mut(&tid.as_raw()) {
            (thread.stop, thread.signal) = (None, 0);
        }
    }

    /// Until the thread makes the system call. One that is frozen does not come to it, and would not
    /// before it is thawed: it is stopped again where it is, in the kernel.
    fn await_call(&mut self, tid: Pid, child: &mut Option<Copy>) -> Result<Stop, Refusal> {
        if let Some(stop) = self.await_stop_of(tid, child, Instant::now() + COMES)? {
            return Ok(stop);
        }
        ptrace::interrupt(tid).map_err(|_| super::ended(self.pid))?;
        match self.await_end_of_call(tid, child)? {
            Stop::Interrupted => Err(Refusal::target(
                format!(
                    "process {} does not come to copy itself: it is frozen, or gets no processor",
                    self.pid
                ),
                "let it go on (systemctl thaw UNIT), or try again",
            )),
            stop => Ok(stop),
        }
    }

    /// Once begun it has to be seen through: it cannot be taken back while the thread runs in the kernel.
    fn await_end_of_call(&mut self, tid: Pid, child: &mut Option<Copy>) -> Result<Stop, Refusal> {
        let stop = self.await_stop_of(tid, child, Instant::now() + LONGEST_COPYING)?;
        stop.ok_or_else(|| Refusal::failed("the kernel does not end the copying", "try again"))
    }

    /// Waits for a thread, until `by`. The copy may be seen before the thread that has made it; nothing
    /// else is to be let go here, so it is not taken for a child of the target.
    fn await_stop_of(
        &mut self,
        tid: Pid,
        child: &mut Option<Copy>,
        by: Instant,
    ) -> Result<Option<Stop>, Refusal> {
        loop {
            let Some((changed, change)) = self.wakeups.next_change(by) else { return Ok(None) };
            if changed == tid {
                self.note_copying(tid, change);
            } else if self.threads.contains_key(&changed.as_raw())
                || self.strangers.contains(&changed.as_raw())
            {
                self.note(changed, change);
            } else if child.is_none() {
                *child = Some(Copy { pid: changed });
            }
            match self.threads.get(&tid.as_raw()) {
                None => return Err(super::ended(self.pid)),
                Some(thread) => {
                    if let Some(stop) = thread.stop {
                        return Ok(Some(stop));
                    }
                }
            }
        }
    }
}

impl Threads<'_> {
    /// As `note`, for a thread whose fork is ours.
    fn note_copying(&mut self, tid: Pid, change: Change) {
        match change {
            Change::Stopped(Stop::Forked) => {
                let stop = Some(Stop::Forked);
                self.threads.insert(tid.as_raw(), Thread { stop, signal: 0 });
            }
            other => self.note(tid, other),
        }
    }
}

impl Copy {
    /// Makes the kernel kill the copy should we end. It can be told so once the copy has stopped,
    /// which it does before its first instruction.
    pub(crate) fn settle(&self) -> Result<(), Refusal> {
        let limit = Instant::now() + Duration::from_secs(5);
        loop {
            match ptrace::setoptions(self.pid, ptrace::Options::PTRACE_O_EXITKILL) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > limit => {
                    return Err(Refusal::failed(format!("the copy does not stand: {error}"), ""));
                }
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Kills the copy, and waits until its parent has taken it.
    ///
    /// # Errors
    /// When it is still there after a second: its parent does not take what it has not made.
    pub(crate) fn end(self) -> Result<(), Refusal> {
        let pid = self.pid;
        drop(self);
        let limit = Instant::now() + Duration::from_secs(1);
        while std::fs::exists(format!("/proc/{pid}")).unwrap_or(false) {
            if Instant::now() > limit {
                return Err(Refusal::target(
                    format!("the parent of the program does not take the ended copy {pid}"),
                    "no further image is taken; the entry goes when that parent ends",
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // We trace it and have not taken its end, so the number is still its own.
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid.as_raw()) {
            let _ = kill_process(pid, Signal::KILL);
            let everything = rustix::process::WaitOptions::from_bits_retain(0x4000_0000);
            // Until its end: it may have stops to tell of first.
            while let Ok(Some((_, status))) = rustix::process::waitpid(Some(pid), everything) {
                if !status.stopped() {
                    break;
                }
            }
        }
    }
}

/// Where the process has an instruction that makes a system call: in the vDSO, which every one has.
fn system_call(pid: Pid) -> Result<u64, Refusal> {
    let find = || {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        let line = maps.lines().find(|line| line.ends_with("[vdso]"))?;
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let mut code = vec![0; usize::try_from(end.checked_sub(start)?.min(64 * 1024)).ok()?];
        File::open(format!("/proc/{pid}/mem")).ok()?.read_exact_at(&mut code, start).ok()?;
        let call = Here::SYSTEM_CALL;
        Some(
            start
                + u64::try_from(code.windows(call.len()).position(|found| found == call)?).ok()?,
        )
    };
    find().ok_or_else(|| {
        Refusal::target(
            "the process has no vDSO, from which it could be made to copy itself",
            "boot without vdso=0; `godebugctl attach` works all the same",
        )
    })
}

fn refused(error: Errno) -> Refusal {
    match error {
        Errno::EAGAIN => Refusal::target(
            "the unit may have no more processes, and an image is one for a moment",
            "raise TasksMax= or LimitNPROC= of the unit by one, or end some",
        ),
        Errno::ENOMEM => Refusal::host(
            "the kernel promises no memory for a copy of the process",
            "is vm.overcommit_memory 2, or the memory full? `godebugctl attach` needs no copy",
        ),
        Errno::EPERM | Errno::ENOSYS | Errno::EACCES => Refusal::target(
            format!("a filter of the program's system calls forbids it to fork: {error}"),
            "allow clone(2) in its SystemCallFilter=; `godebugctl attach` needs no fork",
        ),
        other => Refusal::target(format!("the program cannot be copied: {other}"), "try again"),
    }
}
