//! One process as /proc shows it, pinned by a pidfd, so that what was read is known to be of that
//! process and not of a later one with the same number.
//!
//! Everything here comes from a process that may be hostile (its name, its mappings, its links):
//! reads are bounded, parsers take bytes and never panic, and text is made fit for a terminal.

mod cgroup;
mod ports;
mod text;

pub use cgroup::processes_in_cgroup;
pub use ports::tcp_listening_ports;
pub use text::{Difference, TextComparison, text_differences};

use godebug_core::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest /proc file of one process that is read here; `status` and `cgroup` have a few
/// kilobytes, a cgroup's path has at most 4096 bytes for each hierarchy.
const LONGEST: u64 = 256 * 1024;

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("process {0} has ended")]
    Gone(Pid),
    #[error("{0} is not the number of a process, perhaps that of a thread")]
    NotAProcess(Pid),
    #[error("{path} cannot be read: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("{path} has no readable {what}")]
    Malformed { path: String, what: &'static str },
    #[error("process {0} is in no unified control group; godebug needs cgroup v2")]
    NoUnifiedCgroup(Pid),
}

/// A process that cannot be mistaken for another one.
#[derive(Debug)]
pub struct Process {
    pub pid: Pid,
    pidfd: OwnedFd,
    /// When it started, in clock ticks since boot: with the PID, its name for a ledger.
    pub start_ticks: u64,
}

/// Real, effective and saved ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
}

/// What /proc/PID/status says that matters for debugging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// `R`, `S`, `D`, `T` (stopped), `t` (stopped by a tracer), `Z`, `X`, …
    pub state: char,
    pub uid: Ids,
    pub gid: Ids,
    pub tracer_pid: Option<u32>,
    pub threads: u32,
    /// `None` for a process without memory: a zombie or a kernel thread.
    pub vm_rss_kb: Option<u64>,
    /// Signals pending for the process as a whole; bit N-1 is signal N.
    pub shd_pnd: u64,
    /// 0 off, 1 strict, 2 filter.
    pub seccomp: u8,
    /// How many filters it has; `None` on kernels before 5.9.
    pub seccomp_filters: Option<u32>,
    pub no_new_privs: bool,
    /// The capabilities that it may have; bit N is capability N.
    pub capabilities: u64,
}

impl Status {
    /// Whether it has the rights of this user and no others, so that whoever debugs it gets none that the
    /// user does not have.
    pub fn is_plainly(&self, uid: u32) -> bool {
        let same = |ids: Ids| ids.real == ids.effective && ids.real == ids.saved;
        self.uid.real == uid && same(self.uid) && same(self.gid) && self.capabilities == 0
    }
}

impl Process {
    /// Takes hold of the process that has this number now.
    ///
    /// The number cannot pass to another process while the one behind the pidfd is alive, so a
    /// process that is found alive after a read was the one that was read.
    pub fn pin(pid: Pid) -> Result<Self, ProcessError> {
        let raw = i32::try_from(pid.get()).ok().and_then(rustix::process::Pid::from_raw);
        let raw = raw.ok_or(ProcessError::NotAProcess(pid))?;
        let pidfd = pidfd_open(raw, PidfdFlags::empty()).map_err(|error| match error {
            Errno::SRCH => ProcessError::Gone(pid),
            // What kernels answer for a thread: EINVAL, newer ones ENOENT.
            Errno::INVAL | Errno::NOENT => ProcessError::NotAProcess(pid),
            error => ProcessError::Unreadable {
                path: format!("process {pid}'s descriptor"),
                source: error.into(),
            },
        })?;
        let mut process = Self { pid, pidfd, start_ticks: 0 };
        let stat = process.read("stat")?;
        process.start_ticks = parse_start_ticks(&stat)
            .ok_or_else(|| process.malformed("stat", "start time (field 22)"))?;
        Ok(process)
    }

    /// Whether the process has not ended yet. A zombie has ended.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // A pidfd becomes readable when its process ends. A failing poll proves no life.
        matches!(poll(&mut fds, Some(&at_once)), Ok(0))
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Its `status`, to be read again and again by somebody who may not open it.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn status_file(&self) -> Result<File, ProcessError> {
        let path = format!("/proc/{}/status", self.pid);
        let opened = File::open(&path);
        if !self.is_alive() {
            return Err(ProcessError::Gone(self.pid));
        }
        opened.map_err(|source| ProcessError::Unreadable { path, source })
    }

    pub fn status(&self) -> Result<Status, ProcessError> {
        let text = self.read("status")?;
        parse_status(&String::from_utf8_lossy(&text)).map_err(|what| self.malformed("status", what))
    }

    /// The process that made it, or that has taken its place.
    pub fn parent(&self) -> Result<u32, ProcessError> {
        let text = self.read("status")?;
        let text = String::from_utf8_lossy(&text);
        let parent = text.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent
            .and_then(|parent| parent.trim().parse().ok())
            .ok_or_else(|| self.malformed("status", "PPid"))
    }

    /// Whether it is the first process of a namespace of its own, as in a container.
    pub fn is_first_of_namespace(&self) -> Result<bool, ProcessError> {
        let text = self.text("status")?;
        // One for each namespace that it is in, its own last.
        let numbers = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let numbers = numbers.ok_or_else(|| self.malformed("status", "NSpid"))?;
        Ok(numbers.split_whitespace().skip(1).last() == Some("1"))
    }

    /// The process's name as it chose it, at most 15 bytes, made fit for a terminal.
    pub fn comm(&self) -> Result<String, ProcessError> {
        let bytes = self.read("comm")?;
        Ok(printable(String::from_utf8_lossy(&bytes).trim_end_matches('\n')))
    }

    /// A number that its environment had when it was executed. The process may have changed it since.
    pub fn number_in_environment(&self, name: &str) -> Option<u64> {
        // The kernel takes at most a quarter of the stack's limit, which is mostly 8 MiB.
        const MOST: u64 = 2 * 1024 * 1024;
        let all = read_at_most(Path::new(&self.path("environ")), MOST).ok()?;
        self.check_alive().ok()?;
        let mut all = all.split(|byte| *byte == 0);
        let value = all.find_map(|one| one.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// The path of its control group below the cgroup v2 mount, as systemd writes it too.
    pub fn cgroup(&self) -> Result<String, ProcessError> {
        let bytes = self.read("cgroup")?;
        let path = parse_unified_cgroup(&String::from_utf8_lossy(&bytes)).map(str::to_owned);
        path.ok_or(ProcessError::NoUnifiedCgroup(self.pid))
    }

    /// The path of its executable, and whether that file has been removed or replaced since.
    pub fn exe_link(&self) -> Result<(PathBuf, bool), ProcessError> {
        let link = self.path("exe");
        let target = std::fs::read_link(&link).map_err(|error| self.error("exe", error))?;
        self.check_alive()?;
        let bytes = target.as_os_str().as_bytes();
        let Some(stem) = bytes.strip_suffix(b" (deleted)") else { return Ok((target, false)) };
        // A file may really be called so: then it is there, and it is what the process runs.
        if self.runs_the_file_at(&target) {
            return Ok((target, false));
        }
        Ok((PathBuf::from(std::ffi::OsString::from_vec(stem.to_vec())), true))
    }

    /// The executable itself, even when its path leads elsewhere by now.
    pub fn open_exe(&self) -> Result<File, ProcessError> {
        self.open("exe")
    }

    /// # Errors
    /// When the process is gone, or may not be looked at.
    pub(super) fn open(&self, name: &str) -> Result<File, ProcessError> {
        let file = File::open(self.path(name)).map_err(|error| self.error(name, error))?;
        self.check_alive()?;
        Ok(file)
    }

    /// A file below /proc/PID whose text is the kernel's own.
    ///
    /// # Errors
    /// When the process is gone, or may not be looked at.
    pub(super) fn text(&self, name: &str) -> Result<String, ProcessError> {
        self.read(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    fn runs_the_file_at(&self, path: &Path) -> bool {
        let Ok(inside) = path.strip_prefix("/") else { return false };
        let there = std::fs::symlink_metadata(Path::new(&self.path("root")).join(inside));
        let running = std::fs::metadata(self.path("exe"));
        matches!((there, running), (Ok(a), Ok(b)) if a.dev() == b.dev() && a.ino() == b.ino())
    }

    /// The path of one of the process's files in /proc.
    fn path(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.pid)
    }

    /// One of the process's small files, known to be this process's.
    fn read(&self, name: &str) -> Result<Vec<u8>, ProcessError> {
        let bytes = read_at_most(Path::new(&self.path(name)), LONGEST);
        let bytes = bytes.map_err(|error| self.error(name, error))?;
        self.check_alive()?;
        Ok(bytes)
    }

    fn check_alive(&self) -> Result<(), ProcessError> {
        if self.is_alive() { Ok(()) } else { Err(ProcessError::Gone(self.pid)) }
    }

    fn error(&self, name: &str, source: io::Error) -> ProcessError {
        if self.is_alive() {
            ProcessError::Unreadable { path: self.path(name), source }
        } else {
            ProcessError::Gone(self.pid)
        }
    }

    fn malformed(&self, name: &str, what: &'static str) -> ProcessError {
        ProcessError::Malformed { path: self.path(name), what }
    }
}

/// How many system call filters everything on this host has, as in a container; `None` when the
/// kernel does not tell.
pub fn filters_of_all() -> Option<u32> {
    let text = read_at_most(Path::new("/proc/1/status"), LONGEST).ok()?;
    parse_status(&String::from_utf8_lossy(&text)).ok()?.seccomp_filters
}

/// Who traces a process, for a person: `gdb (process 123)`.
pub fn tracer_description(pid: u32) -> String {
    let comm = read_at_most(Path::new(&format!("/proc/{pid}/comm")), LONGEST).unwrap_or_default();
    let comm = printable(String::from_utf8_lossy(&comm).trim_end_matches('\n'));
    if comm.is_empty() { format!("process {pid}") } else { format!("{comm} (process {pid})") }
}

/// `text` with everything that could move a terminal's cursor replaced.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A whole file, refused when it is longer than `limit`. Files in /proc do not tell their length.
fn read_at_most(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(bytes)
}

/// Field 22 of /proc/PID/stat. The name in field 2 is the process's own and may contain spaces and
/// parentheses, so the fields are counted from the last closing one.
fn parse_start_ticks(stat: &[u8]) -> Option<u64> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(&stat[end_of_name + 1..]).ok()?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// The fields of /proc/PID/status, or the name of one that is missing or wrong. The kernel escapes
/// line breaks in the process's name, so a line's beginning is the kernel's word.
fn parse_status(text: &str) -> Result<Status, &'static str> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let number = |name: &'static str| -> Result<u64, &'static str> {
        field(name).and_then(|value| value.parse().ok()).ok_or(name)
    };
    let tracer_pid = u32::try_from(number("TracerPid")?).map_err(|_| "TracerPid")?;
    Ok(Status {
        state: field("State").and_then(|value| value.chars().next()).ok_or("State")?,
        uid: field("Uid").and_then(parse_ids).ok_or("Uid")?,
        gid: field("Gid").and_then(parse_ids).ok_or("Gid")?,
        tracer_pid: (tracer_pid != 0).then_some(tracer_pid),
        threads: u32::try_from(number("Threads")?).map_err(|_| "Threads")?,
        vm_rss_kb: field("VmRSS").and_then(|value| value.strip_suffix("kB")?.trim().parse().ok()),
        shd_pnd: field("ShdPnd")
            .and_then(|value| u64::from_str_radix(value, 16).ok())
            .ok_or("ShdPnd")?,
        // Kernels without seccomp have no such line.
        seccomp: number("Seccomp").ok().and_then(|value| u8::try_from(value).ok()).unwrap_or(0),
        seccomp_filters: number("Seccomp_filters").ok().and_then(|count| u32::try_from(count).ok()),
        no_new_privs: number("NoNewPrivs")? != 0,
        capabilities: field("CapPrm")
            .and_then(|value| u64::from_str_radix(value, 16).ok())
            .ok_or("CapPrm")?,
    })
}

fn parse_ids(value: &str) -> Option<Ids> {
    let mut ids = value.split_ascii_whitespace().map(|id| id.parse().ok());
    Some(Ids { real: ids.next()??, effective: ids.next()??, saved: ids.next()?? })
}

fn parse_unified_cgroup(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| path.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::{Child, Command};

    const STATUS: &str = "Name:\ta\\nUid:\t9\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\nPid:\t7\n\
        TracerPid:\t12\nUid:\t1000\t1001\t1002\t1003\nGid:\t5\t6\t7\t8\nVmRSS:\t  6708 kB\n\
        Threads:\t9\nShdPnd:\t0000000000000010\nCapPrm:\t00000000a80425fb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t3\n";

    pub(super) struct Sleeper(Child);

    impl Sleeper {
        pub(super) fn new() -> Self {
            Self(Command::new("sleep").arg("60").spawn().unwrap())
        }

        pub(super) fn pid(&self) -> Pid {
            self.0.id().try_into().unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn status_is_read_with_its_ids_and_pending_signals() {
        let status = parse_status(STATUS).unwrap();
        assert_eq!(status.state, 'S');
        assert_eq!(status.uid, Ids { real: 1000, effective: 1001, saved: 1002 });
        assert_eq!(status.gid, Ids { real: 5, effective: 6, saved: 7 });
        assert_eq!(status.tracer_pid, Some(12));
        assert_eq!((status.threads, status.vm_rss_kb), (9, Some(6708)));
        assert_eq!(status.capabilities, 0xa804_25fb);
        assert_eq!(status.seccomp_filters, Some(3));
        assert_eq!((status.shd_pnd, status.seccomp, status.no_new_privs), (0x10, 2, true));
    }

    #[test]
    fn a_missing_line_of_status_is_named() {
        let without = STATUS.replace("TracerPid", "Tracer");
        assert_eq!(parse_status(&without), Err("TracerPid"));
    }

    #[test]
    fn a_name_with_parentheses_does_not_move_the_start_time() {
        let mut stat = b"7 (a) R 1 (b c) S 1".to_vec();
        stat.extend((5..22).flat_map(|field| format!(" {field}").into_bytes()));
        stat.extend(b" 4711 23 24");
        assert_eq!(parse_start_ticks(&stat), Some(4711));
        assert_eq!(parse_start_ticks(b"7 (a"), None);
    }

    #[test]
    fn the_unified_cgroup_is_found_among_the_old_ones() {
        let text = "1:name=systemd:/x\n0::/system.slice/shop.service\n";
        assert_eq!(parse_unified_cgroup(text), Some("/system.slice/shop.service"));
        assert_eq!(parse_unified_cgroup("1:name=systemd:/x\n"), None);
    }

    #[test]
    fn a_live_process_is_pinned_and_its_end_is_seen() {
        let sleeper = Sleeper::new();
        let process = Process::pin(sleeper.pid()).unwrap();
        assert!(process.is_alive() && process.start_ticks > 0);
        assert_eq!(process.status().unwrap().tracer_pid, None);
        let (exe, deleted) = process.exe_link().unwrap();
        assert!(exe.is_absolute() && !deleted);
        assert!(process.open_exe().unwrap().metadata().unwrap().is_file());
        drop(sleeper);
        assert!(!process.is_alive());
        assert!(matches!(process.status(), Err(ProcessError::Gone(_))));
        assert!(matches!(Process::pin(process.pid), Err(ProcessError::Gone(_))));
    }

    #[test]
    fn a_replaced_executable_is_told_from_one_with_an_odd_name() {
        let folder = tempfile::tempdir().unwrap();
        for (name, remove) in [("odd (deleted)", false), ("gone", true)] {
            let program = folder.path().join(name);
            std::fs::copy("/bin/sleep", &program).unwrap();
            let sleeper = Sleeper(Command::new(&program).arg("60").spawn().unwrap());
            let process = Process::pin(sleeper.pid()).unwrap();
            // The child may not have reached exec yet: wait until it is the program.
            let ours = std::fs::canonicalize(&program).unwrap();
            while std::fs::read_link(process.path("exe")).unwrap() != ours {
                std::thread::yield_now();
            }
            if remove {
                std::fs::remove_file(&program).unwrap();
            }
            assert_eq!(process.exe_link().unwrap(), (ours, remove));
        }
    }

    #[test]
    fn a_thread_is_no_process() {
        let (send, tid) = std::sync::mpsc::channel();
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            send.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            wait.recv().ok();
        });
        let own_folder = tid.recv().unwrap();
        let tid = own_folder.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let pinned = Process::pin(tid);
        assert!(matches!(pinned, Err(ProcessError::NotAProcess(_))), "{pinned:?}");
        drop(stop);
        thread.join().unwrap();
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
        assert_eq!(tracer_description(0), "process 0");
        let own = tracer_description(std::process::id());
        assert!(own.ends_with(&format!("(process {})", std::process::id())), "{own}");
    }

    proptest! {
        #[test]
        fn no_parser_panics(bytes: Vec<u8>, text: String) {
            parse_start_ticks(&bytes);
            let _ = parse_status(&text);
            parse_unified_cgroup(&text);
        }

        #[test]
        fn status_with_any_value_does_not_panic(line in 0usize..12, value: String) {
            let mut lines: Vec<String> = STATUS.lines().map(str::to_owned).collect();
            let name = lines[line].split(':').next().unwrap_or("").to_owned();
            lines[line] = format!("{name}:\t{value}");
            let _ = parse_status(&lines.join("\n"));
        }
    }
}
