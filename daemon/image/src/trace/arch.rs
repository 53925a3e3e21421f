//! What differs between processors: the system call that copies the process, and the breakpoint.

use nix::sys::ptrace;
use nix::unistd::Pid;

/// What a processor's threads are like.
pub(crate) trait Arch {
    type Registers: Clone + PartialEq;
    /// What stands in the text of an armed place.
    const BREAKPOINT: &'static [u8];
    /// The instruction of a system call.
    const SYSTEM_CALL: &'static [u8];
    const ELF_MACHINE: u16;
    /// How many bytes of the registers an ELF note has.
    const REGISTER_BYTES: usize;
    /// More kinds of registers that a core has, beside those of NT_PRSTATUS and NT_PRFPREG.
    const MORE_REGISTERS: &'static [i32];

    fn registers(tid: Pid) -> nix::Result<Self::Registers>;
    fn set_registers(tid: Pid, registers: &Self::Registers) -> nix::Result<()>;
    /// Registers that make the thread copy its process by the instruction at `at`.
    fn copying(registers: &Self::Registers, at: u64) -> Self::Registers;
    /// What the copying gave: the copy's number, or a negative error.
    fn result(registers: &Self::Registers) -> i64;
    /// Whether the kernel will have the thread begin its system call anew.
    fn is_in_system_call(registers: &Self::Registers) -> bool;
    /// The instruction that the thread executes next.
    fn counter(registers: &Self::Registers) -> u64;
    /// Where a breakpoint stands that the thread has just executed.
    fn executed(registers: &Self::Registers) -> u64;
    /// The registers of a thread that shall execute what stood at `at`.
    fn at(registers: &Self::Registers, at: u64) -> Self::Registers;
}

/// Nobody hears of the copy's end but the parent of the process, which is systemd and takes it.
const FLAGS: u64 = (nix::libc::CLONE_PARENT | nix::libc::SIGCHLD) as u64;
/// No memory is there. The copy never runs; should we be killed before the kernel knows that it is
/// to be killed with us, it gets no further than to its first use of the stack. Nor may any other register lead
/// it back: the vDSO's code finds its stack again by the frame pointer, and then the copy would run on as the
/// program, and take its connections.
const NO_STACK: u64 = 16;

#[cfg(target_arch = "x86_64")]
pub(crate) struct Here;

#[cfg(target_arch = "x86_64")]
impl Arch for Here {
    type Registers = nix::libc::user_regs_struct;
    const BREAKPOINT: &'static [u8] = &[0xcc];
    const SYSTEM_CALL: &'static [u8] = &[0x0f, 0x05];
    const ELF_MACHINE: u16 = 62;
    const REGISTER_BYTES: usize = 27 * 8;
    /// NT_X86_XSTATE, where dlv looks for floating point.
    const MORE_REGISTERS: &'static [i32] = &[0x202];

    fn registers(tid: Pid) -> nix::Result<Self::Registers> {
        ptrace::getregs(tid)
    }

    fn set_registers(tid: Pid, registers: &Self::Registers) -> nix::Result<()> {
        ptrace::setregs(tid, *registers)
    }

    fn copying(registers: &Self::Registers, at: u64) -> Self::Registers {
        let mut registers = *registers;
        registers.rip = at;
        registers.rax = nix::libc::SYS_clone.cast_unsigned();
        registers.rdi = FLAGS;
        registers.rsi = NO_STACK;
        (registers.rdx, registers.r10, registers.r8) = (0, 0, 0);
        (registers.rbp, registers.rbx) = (NO_STACK, NO_STACK);
        (registers.r12, registers.r13) = (NO_STACK, NO_STACK);
        (registers.r14, registers.r15) = (NO_STACK, NO_STACK);
        // Else the kernel would first put the thread back before the system call that it is in.
        registers.orig_rax = u64::MAX;
        registers
    }

    fn result(registers: &Self::Registers) -> i64 {
        registers.rax.cast_signed()
    }

    fn is_in_system_call(registers: &Self::Registers) -> bool {
        registers.orig_rax.cast_signed() >= 0
    }

    fn counter(registers: &Self::Registers) -> u64 {
        registers.rip
    }

    fn executed(registers: &Self::Registers) -> u64 {
        registers.rip.wrapping_sub(1)
    }

    fn at(registers: &Self::Registers, at: u64) -> Self::Registers {
        let mut registers = *registers;
        registers.rip = at;
        registers
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) struct Here;

#[cfg(target_arch = "aarch64")]
impl Arch for Here {
    type Registers = nix::libc::user_regs_struct;
    const BREAKPOINT: &'static [u8] = &[0x00, 0x00, 0x20, 0xd4];
    const SYSTEM_CALL: &'static [u8] = &[0x01, 0x00, 0x00, 0xd4];
    const ELF_MACHINE: u16 = 183;
    const REGISTER_BYTES: usize = 34 * 8;
    /// NT_ARM_TLS, where dlv finds the current goroutine of programs with cgo.
    const MORE_REGISTERS: &'static [i32] = &[0x401];

    fn registers(tid: Pid) -> nix::Result<Self::Registers> {
        ptrace::getregset::<ptrace::regset::NT_PRSTATUS>(tid)
    }

    fn set_registers(tid: Pid, registers: &Self::Registers) -> nix::Result<()> {
        ptrace::setregset::<ptrace::regset::NT_PRSTATUS>(tid, *registers)
    }

    fn copying(registers: &Self::Registers, at: u64) -> Self::Registers {
        let mut registers = *registers;
        registers.pc = at;
        registers.regs[8] = nix::libc::SYS_clone.cast_unsigned();
        registers.regs[0] = FLAGS;
        registers.regs[1] = NO_STACK;
        (registers.regs[2], registers.regs[3], registers.regs[4]) = (0, 0, 0);
        // From the first that a function keeps for its caller to the one with the way back.
        registers.regs[19..=30].fill(NO_STACK);
        registers
    }

    fn result(registers: &Self::Registers) -> i64 {
        registers.regs[0].cast_signed()
    }

    /// The kernel has wound the thread back to its system call before it stops it.
    fn is_in_system_call(_: &Self::Registers) -> bool {
        false
    }

    fn counter(registers: &Self::Registers) -> u64 {
        registers.pc
    }

    fn executed(registers: &Self::Registers) -> u64 {
        registers.pc
    }

    fn at(registers: &Self::Registers, at: u64) -> Self::Registers {
        let mut registers = *registers;
        registers.pc = at;
        registers
    }
}
