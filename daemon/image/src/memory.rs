//! What a copied process has in its memory: its mappings, and which pages of them exist.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

pub(crate) const PAGE: u64 = 4096;
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;

/// One line of /proc/PID/maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) range: Range<u64>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) executable: bool,
    pub(crate) shared: bool,
    pub(crate) offset: u64,
    pub(crate) inode: u64,
    pub(crate) path: String,
}

impl Mapping {
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let range = hex(start)?..hex(end)?;
        let permissions = fields.next()?.as_bytes();
        let [r, w, x, shared] = permissions.first_chunk::<4>()?;
        let offset = hex(fields.next()?)?;
        let inode = fields.nth(1)?.parse().ok()?;
        let path = fields.next().unwrap_or("").trim_start().to_owned();
        (range.start < range.end).then_some(Self {
            range,
            readable: *r == b'r',
            writable: *w == b'w',
            executable: *x == b'x',
            shared: *shared == b's',
            offset,
            inode,
            path,
        })
    }

    /// Whether a core has it: what the program has made or changed. A mapping of a file that others
    /// share is the file's, and [vvar] is the kernel's.
    pub(crate) fn belongs_in_core(&self) -> bool {
        self.readable
            && !(self.shared && self.inode != 0)
            && !self.path.starts_with("[vvar")
            && self.path != "[vsyscall]"
    }
}

/// All mappings of a process.
pub(crate) fn mappings(pid: i32) -> io::Result<Vec<Mapping>> {
    // A path may hold any byte.
    let maps = std::fs::read(format!("/proc/{pid}/maps"))?;
    Ok(String::from_utf8_lossy(&maps).lines().filter_map(Mapping::parse).collect())
}

/// The path of a process's program as its mappings have it, which need not be a path of ours.
pub(crate) fn program(pid: i32, executable: &File) -> io::Result<String> {
    let inode = executable.metadata()?.ino();
    let of_program = |mapping: &Mapping| mapping.inode == inode;
    let found = mappings(pid)?.into_iter().find(of_program);
    found.map(|mapping| mapping.path).ok_or_else(|| io::Error::other("its program is not mapped"))
}

/// Which pages exist (Documentation/admin-guide/mm/pagemap.rst).
pub(crate) struct Pages(File);

impl Pages {
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        File::open(format!("/proc/{pid}/pagemap")).map(Self)
    }

    /// The parts of a mapping that are the process's own. Pages of a file that nobody has changed
    /// are left out, as are those that nobody has touched.
    pub(crate) fn own(&self, mapping: &Mapping) -> io::Result<Vec<Range<u64>>> {
        let mut own: Vec<Range<u64>> = Vec::new();
        let mut entries = vec![0; 256 * 1024];
        let mut at = mapping.range.start;
        while at < mapping.range.end {
            let left = (mapping.range.end - at) / PAGE * 8;
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(entries.len());
            self.0.read_exact_at(&mut entries[..want], at / PAGE * 8)?;
            for entry in entries[..want].as_chunks::<8>().0 {
                if is_own(u64::from_ne_bytes(*entry), mapping) {
                    match own.last_mut() {
                        Some(last) if last.end == at => last.end += PAGE,
                        _ => own.push(at..at + PAGE),
                    }
                }
                at += PAGE;
            }
            if want == 0 {
                return Err(io::Error::other("a mapping does not end at the end of a page"));
            }
        }
        Ok(own)
    }
}

/// What a process has of its own at one moment.
pub(crate) struct OwnMemory {
    pub(crate) mappings: Vec<Mapping>,
    /// The parts that exist of those that belong in a core, which are named by their place in the list.
    pub(crate) parts: Vec<(usize, Vec<Range<u64>>)>,
}

impl OwnMemory {
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        let mappings = mappings(pid)?;
        let pages = Pages::of(pid)?;
        let in_core = mappings.iter().enumerate().filter(|(_, mapping)| mapping.belongs_in_core());
        let parts = in_core.map(|(index, mapping)| Ok((index, pages.own(mapping)?)));
        let parts = parts.collect::<io::Result<_>>()?;
        Ok(Self { mappings, parts })
    }

    /// In the order of their addresses.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        self.parts.iter().flat_map(|(_, existing)| existing)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.ranges().map(|range| range.end - range.start).sum()
    }
}

fn is_own(entry: u64, mapping: &Mapping) -> bool {
    let exists = entry & (PRESENT | SWAPPED) != 0;
    // Memory that is shared, with no file of its own, counts as a file's page here.
    let unchanged = entry & PRESENT != 0 && entry & OF_FILE != 0 && mapping.inode != 0;
    exists && !unchanged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(line: &str) -> Mapping {
        Mapping::parse(line).unwrap()
    }

    #[test]
    fn a_core_has_what_the_program_made() {
        let heap = parsed("c000000000-c000400000 rw-p 00000000 00:00 0 ");
        assert!(heap.belongs_in_core() && heap.writable && !heap.shared);
        let text = parsed("00400000-00500000 r-xp 00001000 fe:00 77    /opt/a b");
        assert_eq!((text.path.as_str(), text.offset, text.inode), ("/opt/a b", 0x1000, 77));
        for line in [
            "c000400000-c004000000 ---p 00000000 00:00 0",
            "7f00-8f00 rw-s 00000000 fe:00 78 /var/lib/big.db",
            "7ff0000-7ff4000 r--p 00000000 00:00 0   [vvar]",
        ] {
            assert!(!parsed(line).belongs_in_core(), "{line}");
        }
        assert_eq!(Mapping::parse("garbage"), None);
    }

    #[test]
    fn unchanged_pages_of_files_are_left_to_the_file() {
        let data = parsed("00400000-00500000 rw-p 00001000 fe:00 77 /opt/a");
        let heap = parsed("c000000000-c000400000 rw-p 00000000 00:00 0");
        assert!(!is_own(0, &heap) && is_own(PRESENT, &heap) && is_own(SWAPPED, &heap));
        assert!(!is_own(PRESENT | OF_FILE, &data) && is_own(PRESENT, &data));
        assert!(is_own(PRESENT | OF_FILE, &heap));
    }

    #[test]
    fn the_pages_of_this_very_process_are_told_apart() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let touched = vec![7_u8; 1 << 20];
        let address = touched.as_ptr().addr() as u64;
        let all = mappings(pid).unwrap();
        let mapping = all.iter().find(|mapping| mapping.range.contains(&address)).unwrap();
        let own = Pages::of(pid).unwrap().own(mapping).unwrap();
        assert!(own.iter().any(|range| range.contains(&(address + 4096))), "{own:x?}");
        let nothing = all.iter().find(|mapping| mapping.executable && mapping.inode != 0).unwrap();
        let own = Pages::of(pid).unwrap().own(nothing).unwrap();
        assert!(own.is_empty(), "unchanged text: {own:x?}");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line: String) {
            Mapping::parse(&line);
        }
    }
}
