//! The few requests that nix and rustix have no safe form of. Of ptrace: nix knows no real-time signals, which C
//! libraries send their threads, no signal masks and no listening. Of namespaces: whose they are.
#![expect(unsafe_code, reason = "nix and rustix have no safe form of these requests")]

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Lets a thread go, with the signal that it stopped for, or 0.
///
/// # Errors
/// When the thread does not stand, or has ended.
pub fn detach(tid: Pid, signal: i32) -> nix::Result<()> {
    with_number(libc::PTRACE_DETACH, tid, signal)
}

/// Lets a thread run, with the signal that it stopped for, or 0.
///
/// # Errors
/// When the thread does not stand, or has ended.
pub fn cont(tid: Pid, signal: i32) -> nix::Result<()> {
    with_number(libc::PTRACE_CONT, tid, signal)
}

/// Leaves a thread in the stop that a signal such as SIGSTOP has put the whole process into.
///
/// # Errors
/// When the thread does not stand, or has ended.
pub fn listen(tid: Pid) -> nix::Result<()> {
    with_number(libc::PTRACE_LISTEN, tid, 0)
}

/// Requests whose last argument is a number, and which write nothing here.
fn with_number(request: libc::c_uint, tid: Pid, number: i32) -> nix::Result<()> {
    let no_address = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel takes both arguments of these requests as numbers; no memory is touched.
    let done =
        unsafe { libc::ptrace(request, tid.as_raw(), no_address, libc::c_long::from(number)) };
    Errno::result(done).map(drop)
}

/// The signals that a thread has blocked.
///
/// # Errors
/// When the thread does not stand, or has ended.
pub fn signal_mask(tid: Pid) -> nix::Result<u64> {
    let mut mask = 0_u64;
    // SAFETY: the kernel writes as many bytes as the third argument says, which is what there is.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_GETSIGMASK, tid.as_raw(), size_of::<u64>(), &raw mut mask)
    };
    Errno::result(done).map(|_| mask)
}

/// Makes a thread block these signals and no other.
///
/// # Errors
/// When the thread does not stand, or has ended.
pub fn set_signal_mask(tid: Pid, mask: u64) -> nix::Result<()> {
    // SAFETY: the kernel reads as many bytes as the third argument says, which is what there is.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_SETSIGMASK, tid.as_raw(), size_of::<u64>(), &raw const mask)
    };
    Errno::result(done).map(drop)
}

/// Gives a thread registers of one kind.
///
/// # Errors
/// When the thread does not stand, or the kernel does not take them.
pub fn set_register_set(tid: Pid, kind: i32, registers: &[u8]) -> nix::Result<()> {
    let mut registers = registers.to_vec();
    let mut vector =
        libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: registers.len() };
    // SAFETY: the kernel reads at most iov_len bytes from iov_base, both of which are the vector's.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_SETREGSET, tid.as_raw(), kind as usize, &raw mut vector)
    };
    Errno::result(done).map(drop)
}

/// A thread's registers of one kind, as an ELF note has them.
///
/// # Errors
/// When the thread does not stand, or has ended.
pub fn register_set(tid: Pid, kind: i32) -> nix::Result<Vec<u8>> {
    // The largest kind, amd64's with AMX, has 11 KiB.
    let mut registers = vec![0_u8; 16 * 1024];
    let mut vector =
        libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: registers.len() };
    // SAFETY: the kernel writes at most iov_len bytes to iov_base, both of which are the vector's,
    // and sets iov_len to how many it were.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_GETREGSET, tid.as_raw(), kind as usize, &raw mut vector)
    };
    Errno::result(done)?;
    registers.truncate(vector.iov_len);
    Ok(registers)
}

/// `_IO(0xb7, 2)` and `_IO(0xb7, 4)`: ioctl_nsfs(2).
const NS_GET_PARENT: libc::Ioctl = 0xb702;
const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;

/// The user namespace in which this one was made.
///
/// # Errors
/// EPERM when it lies outside of this process's own, or there is none.
pub fn parent_of_namespace(namespace: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    // SAFETY: the request takes no argument, and what it gives is a new descriptor of nobody else's.
    unsafe {
        let parent = Errno::result(libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT))?;
        Ok(OwnedFd::from_raw_fd(parent))
    }
}

/// The user who made this user namespace, as this process's own namespace numbers users.
///
/// # Errors
/// When it is no user namespace.
pub fn owner_of_namespace(namespace: BorrowedFd<'_>) -> nix::Result<u32> {
    let mut owner: libc::uid_t = u32::MAX;
    // SAFETY: the kernel writes one uid_t, which is what there is.
    let done = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut owner) };
    Errno::result(done).map(|_| owner)
}
