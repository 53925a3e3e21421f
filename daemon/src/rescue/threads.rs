//! The threads of a target, held for a moment by ptrace to take back what a breakpoint did to them.
//!
//! A thread that has executed an int3 stands one byte behind it with a SIGTRAP that is pending, or
//! delivered, in which case the kernel has already built the frame of the program's signal handler.
//! Each of the three would kill the program, or make it go on in the middle of an instruction.

use super::Repair;
use godebug_api::Pid;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Bit of SIGTRAP in the signal sets of /proc/PID/status.
const SIGTRAP_BIT: u64 = 1 << 4;
const PATIENCE: Duration = Duration::from_secs(1);

/// All threads of a process, stopped by us.
pub(super) struct Held {
    pid: Pid,
    threads: Vec<nix::unistd::Pid>,
    /// Signals that threads were stopped by meanwhile, and get when they are let go.
    kept: HashMap<nix::unistd::Pid, Signal>,
}

impl Held {
    /// Seizes and stops every thread; threads that appear meanwhile too.
    pub(super) fn seize(pid: Pid) -> Result<Self, String> {
        let mut held = Self { pid, threads: Vec::new(), kept: HashMap::new() };
        let mut seen = HashSet::new();
        loop {
            let new: Vec<i32> = tasks(pid)?.into_iter().filter(|tid| seen.insert(*tid)).collect();
            if new.is_empty() {
                return Ok(held);
            }
            for tid in new {
                let tid = nix::unistd::Pid::from_raw(tid);
                // A thread that has just ended is none to hold.
                let seized = ptrace::seize(tid, ptrace::Options::empty())
                    .and_then(|()| ptrace::interrupt(tid));
                if seized.is_ok() && await_stop(tid).is_some() {
                    held.threads.push(tid);
                }
            }
        }
    }

    /// Sets every thread that has just executed one of the restored bytes back before it, and
    /// leaves a handler that was entered for it.
    pub(super) fn set_back(&self, restored: &[u64], repair: &mut Repair) {
        for tid in &self.threads {
            if let Err(error) = arch::set_back(*tid, restored, repair) {
                tracing::warn!("thread {tid} of process {} cannot be set back: {error}", self.pid);
            }
        }
    }

    /// Takes pending SIGTRAPs away. The threads must not be frozen; they stay where they are.
    pub(super) fn swallow_traps(&mut self, repair: &mut Repair) {
        for tid in &self.threads {
            // Each round takes one signal; there are few, and a storm must not hold us.
            for _ in 0..8 {
                if !has_pending_trap(self.pid, *tid) {
                    break;
                }
                // Its signal stop comes before any instruction of the program.
                if ptrace::cont(*tid, None).is_err() {
                    break;
                }
                match await_stop(*tid) {
                    Some(Signal::SIGTRAP) => repair.swallowed += 1,
                    Some(other) => drop(self.kept.insert(*tid, other)),
                    None => break,
                }
            }
        }
    }

    /// Lets every thread go, with what it was to be told besides.
    pub(super) fn release(self) {
        for tid in &self.threads {
            // A thread that has ended meanwhile needs no letting go.
            let _ = ptrace::detach(*tid, self.kept.get(tid).copied());
        }
    }
}

/// Waits until a thread has stopped; the signal it stopped for, SIGSTOP for our own interrupt.
fn await_stop(tid: nix::unistd::Pid) -> Option<Signal> {
    let limit = Instant::now() + PATIENCE;
    loop {
        match waitpid(tid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) if Instant::now() < limit => std::thread::yield_now(),
            Ok(WaitStatus::Stopped(_, signal)) => return Some(signal),
            Ok(WaitStatus::PtraceEvent(..)) => return Some(Signal::SIGSTOP),
            Ok(WaitStatus::StillAlive) => return None,
            _ => return None,
        }
    }
}

fn tasks(pid: Pid) -> Result<Vec<i32>, String> {
    let directory = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&directory).map_err(|error| format!("{directory}: {error}"))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect())
}

/// Whether a SIGTRAP waits for this thread, or for any, and is not blocked by it.
fn has_pending_trap(pid: Pid, tid: nix::unistd::Pid) -> bool {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
    let set = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key))
            .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
            .unwrap_or(0)
    };
    let pending = set("SigPnd:") | set("ShdPnd:");
    pending & SIGTRAP_BIT != 0 && set("SigBlk:") & SIGTRAP_BIT == 0
}

#[cfg(target_arch = "x86_64")]
mod arch {
    //! amd64: int3 is one byte, and the program counter stands behind it.

    use super::*;

    /// In the kernel's signal frame: the saved program counter and flags, from the ucontext.
    const SAVED_RIP: u64 = 168;
    const SAVED_FLAGS: u64 = 176;
    /// The flag that makes the processor stop after one instruction.
    const SINGLE_STEP: u64 = 0x100;

    pub(super) fn set_back(
        tid: nix::unistd::Pid,
        restored: &[u64],
        repair: &mut Repair,
    ) -> nix::Result<()> {
        let mut registers = ptrace::getregs(tid)?;
        let before = registers;
        if is_entering_trap_handler(tid, &registers) {
            let saved = read(tid, registers.rdx + SAVED_RIP)?;
            if restored.contains(&saved.wrapping_sub(1)) {
                write(tid, registers.rdx + SAVED_RIP, saved - 1)?;
                repair.rewound += 1;
            }
            let flags = read(tid, registers.rdx + SAVED_FLAGS)?;
            write(tid, registers.rdx + SAVED_FLAGS, flags & !SINGLE_STEP)?;
            // As if the handler had returned: the word on the stack is the kernel's way back, and
            // rt_sigreturn restores all the rest.
            registers.rip = read(tid, registers.rsp)?;
            registers.rsp += 8;
            repair.taken_back += 1;
        } else if restored.contains(&registers.rip.wrapping_sub(1)) {
            registers.rip -= 1;
            // Not in a system call that could be restarted at a wrong place.
            registers.orig_rax = u64::MAX;
            repair.rewound += 1;
        }
        registers.eflags &= !SINGLE_STEP;
        if registers != before { ptrace::setregs(tid, registers) } else { Ok(()) }
    }

    /// Whether the thread is at the first instruction of a handler for SIGTRAP: its arguments are
    /// then exactly where the kernel puts them (arch/x86/kernel/signal_64.c, x64_setup_rt_frame).
    fn is_entering_trap_handler(tid: nix::unistd::Pid, registers: &libc_registers) -> bool {
        let info_holds_trap = || {
            read(tid, registers.rsi).is_ok_and(|word| word & 0xffff_ffff == Signal::SIGTRAP as u64)
        };
        registers.rdi == Signal::SIGTRAP as u64
            && registers.rdx == registers.rsp + 8
            && registers.rsi > registers.rdx
            && registers.rsi - registers.rdx < 4096
            && info_holds_trap()
    }

    #[expect(non_camel_case_types, reason = "the kernel's name, by way of nix")]
    type libc_registers = <ptrace::regset::NT_PRSTATUS as ptrace::RegisterSet>::Regs;

    fn read(tid: nix::unistd::Pid, address: u64) -> nix::Result<u64> {
        ptrace::read(tid, address as ptrace::AddressType).map(i64::cast_unsigned)
    }

    fn write(tid: nix::unistd::Pid, address: u64, value: u64) -> nix::Result<()> {
        ptrace::write(tid, address as ptrace::AddressType, value.cast_signed())
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    //! arm64: a BRK leaves the program counter where it is, so the bytes that are put back are executed next.
    //! Only a handler that was entered must be left.

    use super::*;

    /// In the kernel's signal frame: the siginfo is first, the ucontext follows it
    /// (arch/arm64/kernel/signal.c, struct rt_sigframe).
    const CONTEXT: u64 = 128;
    /// What a processor that checks branches expects at the next instruction (PSTATE.BTYPE). It is set for
    /// the handler's first, and the way back has no landing pad.
    const BRANCH_TYPE: u64 = 0b11 << 10;

    pub(super) fn set_back(
        tid: nix::unistd::Pid,
        _restored: &[u64],
        repair: &mut Repair,
    ) -> nix::Result<()> {
        let mut registers = ptrace::getregs(tid)?;
        if !is_entering_trap_handler(tid, &registers) {
            return Ok(());
        }
        // As if the handler had returned: the link register is the kernel's way back, and rt_sigreturn
        // restores all the rest.
        registers.pc = registers.regs[30];
        registers.pstate &= !BRANCH_TYPE;
        ptrace::setregs(tid, registers)?;
        repair.taken_back += 1;
        Ok(())
    }

    /// Whether the thread is at the first instruction of a handler for SIGTRAP: its arguments are
    /// then exactly where the kernel puts them (arch/arm64/kernel/signal.c, setup_rt_frame), for a handler
    /// that takes three, as all of Go's do.
    fn is_entering_trap_handler(
        tid: nix::unistd::Pid,
        registers: &<ptrace::regset::NT_PRSTATUS as ptrace::RegisterSet>::Regs,
    ) -> bool {
        let info_holds_trap = || {
            ptrace::read(tid, registers.sp as ptrace::AddressType)
                .is_ok_and(|word| word.cast_unsigned() & 0xffff_ffff == Signal::SIGTRAP as u64)
        };
        registers.regs[0] == Signal::SIGTRAP as u64
            && registers.regs[1] == registers.sp
            && registers.regs[2] == registers.sp + CONTEXT
            && info_holds_trap()
    }
}
