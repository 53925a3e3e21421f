//! Whether a process's program text is what its files say: the proof that no breakpoint is left.
//!
//! A debugger that writes into text gives the process a private copy of that page. Every other
//! page is the page cache's, which is the file, so only the private ones are compared; the kernel
//! tells which they are in /proc/PID/pagemap. That takes microseconds instead of the time to read
//! the whole program, and does not fault pages into the target that it does not use itself. Where
//! there is no pagemap, everything is compared.

use super::{Process, ProcessError, read_at_most};
use godebug_core::Pid;
use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// As many differing bytes are kept; a breakpoint is one byte on amd64 and four on arm64.
const MOST_KEPT: usize = 64;
const CHUNK: usize = 256 * 1024;
/// The kernel's usual bound is 65530 mappings of about a hundred bytes.
const LONGEST_MAPS: u64 = 64 * 1024 * 1024;
/// A target may map what it likes as often as it likes. What is not looked at within these is
/// reported as not compared.
const LONGEST_TIME: Duration = Duration::from_secs(5);
const MOST_SKIPPED: usize = 64;

/// One byte of text that is not what the file has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    pub address: u64,
    /// What the file has.
    pub expected: u8,
    /// What the process has.
    pub found: u8,
}

/// What came out of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextComparison {
    /// How many bytes of text are accounted for: compared, or the page cache's own.
    pub checked: u64,
    /// How many bytes differ.
    pub total: u64,
    /// The first of them, in order of address.
    pub first: Vec<Difference>,
    /// What could not be compared, and why, one entry for a mapping. Not proven clean.
    pub skipped: Vec<String>,
}

impl TextComparison {
    /// Text was looked at, nothing differs, and nothing was left out.
    pub fn is_clean(&self) -> bool {
        self.checked > 0 && self.total == 0 && self.skipped.is_empty()
    }
}

/// Compares all file-backed, executable, unwritable memory of a process with the files.
pub fn text_differences(pid: Pid) -> Result<TextComparison, ProcessError> {
    compare(pid, true)
}

fn compare(pid: Pid, use_pagemap: bool) -> Result<TextComparison, ProcessError> {
    let process = Process::pin(pid)?;
    let memory = File::open(process.path("mem")).map_err(|error| process.error("mem", error))?;
    let maps = read_at_most(Path::new(&process.path("maps")), LONGEST_MAPS)
        .map_err(|error| process.error("maps", error))?;
    let pages = use_pagemap.then(|| PageMap::open(&process)).flatten();
    let mut comparison = Comparison {
        process: &process,
        memory,
        pages,
        deadline: Instant::now() + LONGEST_TIME,
        buffers: [vec![0; CHUNK], vec![0; CHUNK]],
        result: TextComparison::default(),
    };
    for mapping in maps.split(|byte| *byte == b'\n').filter_map(Mapping::parse) {
        if mapping.is_text() {
            comparison.mapping(&mapping);
        }
    }
    let result = comparison.result;
    process.check_alive()?;
    Ok(result)
}

/// One line of /proc/PID/maps.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    range: Range<u64>,
    permissions: &'a [u8],
    offset: u64,
    device: (u32, u32),
    inode: u64,
    path: &'a [u8],
}

impl<'a> Mapping<'a> {
    /// Parses `7f00-7f80 r-xp 00001000 fe:01 1234   /usr/bin/app`. Only line breaks in the path are
    /// escaped, and such a path is simply not found later.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let (start, end) = text()?.split_once('-')?;
        let range = hex(start)?..hex(end)?;
        let permissions = text()?.as_bytes();
        let offset = hex(text()?)?;
        let (major, minor) = text()?.split_once(':')?;
        let device = (hex(major)?.try_into().ok()?, hex(minor)?.try_into().ok()?);
        let inode = text()?.parse().ok()?;
        let path = fields.next().unwrap_or(b"").trim_ascii_start();
        (range.start < range.end).then_some(Self {
            range,
            permissions,
            offset,
            device,
            inode,
            path,
        })
    }

    /// Text that only a debugger changes: of a file (not [vdso] and its like), and not writable,
    /// since what is may rightly differ.
    fn is_text(&self) -> bool {
        self.inode != 0 && matches!(self.permissions, [_, b'-', b'x', ..])
    }

    fn describe(&self) -> String {
        let path = super::printable(&String::from_utf8_lossy(self.path));
        format!("{path} at {:#x}", self.range.start)
    }
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// A comparison under way.
struct Comparison<'a> {
    process: &'a Process,
    memory: File,
    pages: Option<PageMap>,
    deadline: Instant,
    buffers: [Vec<u8>; 2],
    result: TextComparison,
}

impl Comparison<'_> {
    fn mapping(&mut self, mapping: &Mapping) {
        let compared = self.private_ranges(mapping).and_then(|ranges| {
            if ranges.is_empty() {
                return Ok(());
            }
            let file = open_mapped(self.process, mapping)?;
            ranges.into_iter().try_for_each(|range| self.range(mapping, &file, range))
        });
        match compared {
            Ok(()) => self.result.checked += mapping.range.end - mapping.range.start,
            Err(why) if self.result.skipped.len() < MOST_SKIPPED => {
                self.result.skipped.push(format!("{}: {why}", mapping.describe()));
            }
            Err(_) => {}
        }
    }

    fn private_ranges(&self, mapping: &Mapping) -> io::Result<Vec<Range<u64>>> {
        match &self.pages {
            Some(pages) => pages.private(mapping.range.clone(), self.deadline),
            None => Ok(vec![mapping.range.clone()]),
        }
    }

    fn range(&mut self, mapping: &Mapping, file: &File, range: Range<u64>) -> io::Result<()> {
        let mut at = range.start;
        while at < range.end {
            check_time(self.deadline)?;
            let want = usize::try_from(range.end - at).map_or(CHUNK, |left| left.min(CHUNK));
            let [found, expected] = &mut self.buffers;
            let (found, expected) = (&mut found[..want], &mut expected[..want]);
            let position = mapping.offset.saturating_add(at - mapping.range.start);
            let in_file = read_up_to(file, expected, position)?;
            if in_file == 0 {
                // Pages behind the end of the file cannot be executed, nor read.
                return Ok(());
            }
            // The rest of a file's last page is zeros in memory.
            expected[in_file..].fill(0);
            let in_memory = read_up_to(&self.memory, found, at)?;
            if in_memory == 0 {
                return Err(io::Error::other("the memory is gone"));
            }
            if found[..in_memory] != expected[..in_memory] {
                self.result.note(at, &expected[..in_memory], &found[..in_memory]);
            }
            at += in_memory as u64;
        }
        Ok(())
    }
}

impl TextComparison {
    fn note(&mut self, start: u64, expected: &[u8], found: &[u8]) {
        for (address, (expected, found)) in (start..).zip(expected.iter().zip(found)) {
            if expected == found {
                continue;
            }
            self.total += 1;
            if self.first.len() < MOST_KEPT {
                self.first.push(Difference { address, expected: *expected, found: *found });
            }
        }
    }
}

/// Reads until the buffer is full or nothing more comes. An unreadable page ends a read early, and
/// is an error only at its beginning.
fn read_up_to(file: &File, buffer: &mut [u8], start: u64) -> io::Result<usize> {
    let mut have = 0;
    while have < buffer.len() {
        match file.read_at(&mut buffer[have..], start.saturating_add(have as u64)) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if have > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

fn check_time(deadline: Instant) -> io::Result<()> {
    if Instant::now() < deadline { Ok(()) } else { Err(io::Error::other("there was no time left")) }
}

/// The file behind a mapping, by the first of three ways that is open to us.
fn open_mapped(process: &Process, mapping: &Mapping) -> io::Result<File> {
    // Always right, deleted files included, but needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.
    let range = &mapping.range;
    let entry = process.path(&format!("map_files/{:x}-{:x}", range.start, range.end));
    let by_address = open(entry, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if let Ok(file) = by_address {
        return open_regular(file);
    }
    let exe = open(process.path("exe"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if let Some(file) = exe.ok().and_then(|exe| open_regular(exe).ok()) {
        let metadata = file.metadata()?;
        // Some file systems (btrfs) show another device here than in maps; the path, which the
        // kernel writes in both places, settles it.
        let link = std::fs::read_link(process.path("exe"))?;
        let same_path = link.as_os_str().as_bytes() == mapping.path;
        if metadata.ino() == mapping.inode && (same_path || is_on(&metadata, mapping.device)) {
            return Ok(file);
        }
    }
    open_by_path(process, mapping)
}

fn open_by_path(process: &Process, mapping: &Mapping) -> io::Result<File> {
    let root = open(process.path("root"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    // A symbolic link of the target's must not lead out of the target's root.
    let file = openat2(root, mapping.path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let file = open_regular(file)?;
    let metadata = file.metadata()?;
    if metadata.ino() == mapping.inode && is_on(&metadata, mapping.device) {
        Ok(file)
    } else {
        Err(io::Error::other("the file was replaced or removed since it was mapped"))
    }
}

fn is_on(metadata: &std::fs::Metadata, (major, minor): (u32, u32)) -> bool {
    let device = metadata.dev();
    rustix::fs::major(device) == major && rustix::fs::minor(device) == minor
}

/// Opens for reading what a path-only descriptor stands for. Opening a device or a pipe that the
/// target put there could block or do something.
fn open_regular(path_only: OwnedFd) -> io::Result<File> {
    let file = File::from(path_only);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// What the kernel tells about each page of a process (Documentation/admin-guide/mm/pagemap.rst).
struct PageMap {
    file: File,
    page: u64,
}

impl PageMap {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;

    fn open(process: &Process) -> Option<Self> {
        let file = File::open(process.path("pagemap")).ok()?;
        Some(Self { file, page: page_size()? })
    }

    /// The parts of `range` that may not be the page cache's.
    fn private(&self, range: Range<u64>, deadline: Instant) -> io::Result<Vec<Range<u64>>> {
        let mut private: Vec<Range<u64>> = Vec::new();
        let mut entries = vec![0; 64 * 1024];
        let mut at = range.start;
        while at < range.end {
            check_time(deadline)?;
            let want = usize::try_from((range.end - at) / self.page * 8).unwrap_or(usize::MAX);
            let want = want.min(entries.len());
            self.file.read_exact_at(&mut entries[..want], at / self.page * 8)?;
            for entry in entries[..want].as_chunks::<8>().0 {
                if Self::may_differ(u64::from_ne_bytes(*entry)) {
                    match private.last_mut() {
                        Some(last) if last.end == at => last.end += self.page,
                        _ => private.push(at..at + self.page),
                    }
                }
                at += self.page;
            }
            if want == 0 {
                return Err(io::Error::other("it does not end at the end of a page"));
            }
        }
        Ok(private)
    }

    /// A page that is nowhere yet would come from the file.
    fn may_differ(entry: u64) -> bool {
        let of_file = entry & Self::PRESENT != 0 && entry & Self::OF_FILE != 0;
        entry & (Self::PRESENT | Self::SWAPPED) != 0 && !of_file
    }
}

/// The kernel's page size, from our own auxiliary vector (AT_PAGESZ is 6).
fn page_size() -> Option<u64> {
    let vector = read_at_most(Path::new("/proc/self/auxv"), 64 * 1024).ok()?;
    let words = vector.as_chunks::<{ size_of::<usize>() }>().0;
    let pair = words.as_chunks::<2>().0.iter().find(|pair| usize::from_ne_bytes(pair[0]) == 6)?;
    let size = u64::try_from(usize::from_ne_bytes(pair[1])).ok()?;
    size.is_power_of_two().then_some(size)
}

#[cfg(test)]
mod tests {
    use super::super::tests::Sleeper;
    use super::*;
    use proptest::prelude::*;
    use std::fs::OpenOptions;

    #[test]
    fn lines_of_maps_are_read_and_text_is_told_from_the_rest() {
        let parse = |line: &'static str| Mapping::parse(line.as_bytes());
        let text = parse("55d0-55e0 r-xp 00001000 fe:01 1234    /usr/bin/a b").unwrap();
        assert_eq!((text.range.clone(), text.offset, text.inode), (0x55d0..0x55e0, 0x1000, 1234));
        assert_eq!((text.device, text.path), ((0xfe, 1), &b"/usr/bin/a b"[..]));
        assert!(text.is_text());
        for other in [
            "55d0-55e0 r--p 00001000 fe:01 1234 /usr/bin/a",
            "55d0-55e0 rwxp 00001000 fe:01 1234 /usr/bin/a",
            "7ff0-7ff8 r-xp 00000000 00:00 0    [vdso]",
        ] {
            assert!(!parse(other).unwrap().is_text(), "{other}");
        }
        assert_eq!(parse("55e0-55d0 r-xp 00001000 fe:01 1234 /usr/bin/a"), None);
        assert_eq!(parse("garbage"), None);
    }

    #[test]
    fn only_private_pages_are_looked_at() {
        let (present, swapped, of_file) = (PageMap::PRESENT, PageMap::SWAPPED, PageMap::OF_FILE);
        for (entry, looked_at) in
            [(0, false), (present | of_file, false), (present, true), (swapped, true)]
        {
            assert_eq!(PageMap::may_differ(entry), looked_at, "{entry:#x}");
        }
    }

    /// An address in the sleeping program's text, once it has reached its main loop.
    fn text_address(pid: Pid) -> u64 {
        loop {
            let process = Process::pin(pid).unwrap();
            let (exe, _) = process.exe_link().unwrap();
            let maps = std::fs::read(process.path("maps")).unwrap();
            let mut mappings = maps.split(|byte| *byte == b'\n').filter_map(Mapping::parse);
            let path = exe.as_os_str().as_bytes();
            let text = mappings.find(|mapping| mapping.is_text() && mapping.path == path);
            // It waits for nothing before: while it is being loaded libraries are still to be mapped.
            let stat = std::fs::read_to_string(process.path("stat")).unwrap();
            let sleeps = stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" S"));
            if let (Some(text), true, true) = (text, exe.ends_with("sleep"), sleeps) {
                return text.range.start + 0x123;
            }
        }
    }

    #[test]
    fn a_byte_written_into_text_is_found_and_gone_when_it_is_put_back() {
        let sleeper = Sleeper::new();
        let address = text_address(sleeper.pid());
        let process = Process::pin(sleeper.pid()).unwrap();
        let clean = text_differences(sleeper.pid()).unwrap();
        assert!(clean.is_clean() && clean.checked > 0, "{clean:?}");
        let full = compare(sleeper.pid(), false).unwrap();
        assert_eq!(full, clean);

        let memory = OpenOptions::new().read(true).write(true).open(process.path("mem"));
        let Ok(memory) = memory else { return println!("skipped: this host forbids ptrace") };
        let mut original = [0];
        memory.read_exact_at(&mut original, address).unwrap();
        if let Err(error) = memory.write_all_at(&[!original[0]], address) {
            return println!("skipped: this kernel forbids writing text: {error}");
        }
        for use_pagemap in [true, false] {
            let changed = compare(sleeper.pid(), use_pagemap).unwrap();
            let difference = Difference { address, expected: original[0], found: !original[0] };
            assert_eq!((changed.total, changed.first), (1, vec![difference]));
            assert_eq!(changed.skipped, Vec::<String>::new());
        }
        memory.write_all_at(&original, address).unwrap();
        assert!(text_differences(sleeper.pid()).unwrap().is_clean());
    }

    #[test]
    fn the_file_is_found_without_map_files_too() {
        let sleeper = Sleeper::new();
        text_address(sleeper.pid());
        let process = Process::pin(sleeper.pid()).unwrap();
        let maps = std::fs::read(process.path("maps")).unwrap();
        let lines = maps.split(|byte| *byte == b'\n').filter_map(Mapping::parse);
        for mapping in lines.filter(Mapping::is_text) {
            let metadata = open_by_path(&process, &mapping).unwrap().metadata().unwrap();
            assert_eq!(metadata.ino(), mapping.inode);
        }
    }

    #[test]
    fn many_differences_are_counted_and_few_are_kept() {
        let mut result = TextComparison::default();
        result.note(0x1000, &[0; 500], &[1; 500]);
        assert_eq!((result.total, result.first.len()), (500, MOST_KEPT));
        assert_eq!(result.first[1], Difference { address: 0x1001, expected: 0, found: 1 });
        assert!(!result.is_clean());
    }

    proptest! {
        #[test]
        fn no_line_of_maps_makes_it_panic(line: Vec<u8>, text in "[0-9a-f]{0,20}-[0-9a-f]{0,20} r-xp [0-9a-f ]{0,9} [0-9:]{0,9} [0-9]{0,25}.*") {
            Mapping::parse(&line);
            if let Some(mapping) = Mapping::parse(text.as_bytes()) {
                mapping.describe();
            }
        }
    }
}
