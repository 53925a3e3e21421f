//! An ELF file's headers, notes and bytes, for any class and byte order, read from a file that may
//! lie: no claim of the file's makes this read or allocate more than fixed bounds.

use object::elf::{FileHeader32, FileHeader64, FileType, Machine};
use object::read::elf::{CompressionHeader, Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, ReadCache, ReadRef, elf};
use std::cell::Cell;
use std::fs::File;
use std::ops::Range;

/// No table, section or string that is needed from an honest program is larger; the largest by far
/// is the list of modules in the build information.
pub(super) const LARGEST_READ: u64 = 4 * 1024 * 1024;
const MOST_READ: u64 = 48 * 1024 * 1024;
/// Go's longest section name has 23 bytes.
const LONGEST_NAME: u64 = 64;
const LARGEST_NOTES: u64 = 64 * 1024;
const MOST_NOTE_PARTS: usize = 32;
/// No compression format in ELF files expands more than this (zlib's bound is 1032).
const MOST_EXPANSION: u64 = 2048;

/// Reads through a cache, as long as the allowance lasts.
#[derive(Clone, Copy)]
struct Bounded<'a, 'f> {
    cache: &'a ReadCache<&'f File>,
    left: &'a Cell<u64>,
}

impl Bounded<'_, '_> {
    fn spend(self, size: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(size).ok_or(())?);
        Ok(())
    }
}

impl<'a> ReadRef<'a> for Bounded<'a, '_> {
    fn len(self) -> Result<u64, ()> {
        self.cache.len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        if size > LARGEST_READ {
            return Err(());
        }
        self.spend(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        self.spend(LONGEST_NAME)?;
        let end = range.end.min(range.start.saturating_add(LONGEST_NAME));
        self.cache.read_bytes_at_until(range.start..end, delimiter)
    }
}

/// What the reading of one file needs for as long as it lasts.
pub(super) struct Source<'f> {
    cache: ReadCache<&'f File>,
    left: Cell<u64>,
}

impl<'f> Source<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        Self { cache: ReadCache::new(file), left: Cell::new(MOST_READ) }
    }

    /// The first bytes of the file, at most `size`.
    pub(super) fn beginning(&self, size: u64) -> &[u8] {
        let size = size.min((&self.cache).len().unwrap_or(0));
        self.data().read_bytes_at(0, size).unwrap_or_default()
    }

    fn data(&self) -> Bounded<'_, 'f> {
        Bounded { cache: &self.cache, left: &self.left }
    }
}

pub(super) struct Section<'a> {
    pub(super) name: &'a [u8],
    /// Where its bytes are in the file; `None` when they are not (SHT_NOBITS).
    pub(super) in_file: Option<(u64, u64)>,
    /// Its size when uncompressed, if the section is compressed and says so.
    pub(super) expanded: Option<u64>,
    is_note: bool,
}

pub(super) struct Segment {
    kind: elf::ProgramType,
    address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    writable: bool,
}

/// The parts of an ELF file that matter here.
pub(super) struct Elf<'a, 'f> {
    data: Bounded<'a, 'f>,
    pub(super) machine: Machine,
    pub(super) little_endian: bool,
    pub(super) wide: bool,
    kind: FileType,
    marked_pie: bool,
    pub(super) sections: Vec<Section<'a>>,
    pub(super) segments: Vec<Segment>,
}

impl<'a, 'f> Elf<'a, 'f> {
    /// `None` when the headers are no ELF file's, or damaged.
    pub(super) fn parse(source: &'a Source<'f>) -> Option<Self> {
        let data = source.data();
        match source.beginning(5).get(4)? {
            1 => parse::<FileHeader32<Endianness>>(data),
            2 => parse::<FileHeader64<Endianness>>(data),
            _ => None,
        }
    }

    pub(super) fn section(&self, name: &str) -> Option<&Section<'a>> {
        self.sections.iter().find(|section| section.name == name.as_bytes())
    }

    pub(super) fn read(&self, offset: u64, size: u64) -> Option<&'a [u8]> {
        self.data.read_bytes_at(offset, size).ok()
    }

    /// What the loader puts at an address, as the file has it.
    pub(super) fn read_address(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        self.segments.iter().filter(|segment| segment.kind == elf::PT_LOAD).find_map(|segment| {
            let inside = address.checked_sub(segment.address)?;
            if inside.checked_add(size)? > segment.size {
                return None;
            }
            self.read(segment.offset.checked_add(inside)?, size)
        })
    }

    /// The loaded segments that hold data and not code.
    pub(super) fn data_segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().filter(|segment| segment.kind == elf::PT_LOAD && segment.writable)
    }

    /// Whether it is loaded at an address that nobody knows beforehand. A shared library is not
    /// meant: it has no interpreter, nor the mark.
    pub(super) fn is_pie(&self) -> bool {
        let has_interpreter = self.segments.iter().any(|part| part.kind == elf::PT_INTERP);
        self.kind == elf::ET_DYN && (has_interpreter || self.marked_pie)
    }

    /// The content of the note with this owner and type. Sections are asked first, for the file
    /// that `objcopy --only-keep-debug` makes has segments of no content.
    pub(super) fn note(&self, owner: &[u8], kind: u32) -> Option<&'a [u8]> {
        let sections = self.sections.iter().filter(|section| section.is_note);
        let sections = sections.filter_map(|section| section.in_file);
        let segments = self.segments.iter().filter(|segment| segment.kind == elf::PT_NOTE);
        let segments = segments.map(|segment| (segment.offset, segment.size));
        sections.chain(segments).take(MOST_NOTE_PARTS).find_map(|(offset, size)| {
            let notes = self.read(offset, size.min(LARGEST_NOTES))?;
            find_note(notes, self.little_endian, owner, kind)
        })
    }
}

fn parse<'a, 'f, H>(data: Bounded<'a, 'f>) -> Option<Elf<'a, 'f>>
where
    H: FileHeader<Endian = Endianness>,
{
    let header = H::parse(data).ok()?;
    let endian = header.endian().ok()?;
    // A program without section headers runs all the same; so broken ones are none.
    let table = header.sections(endian, data).unwrap_or_default();
    let sections = table.iter().map(|section| Section {
        name: table.section_name(endian, section).unwrap_or_default(),
        in_file: section.file_range(endian),
        expanded: expanded_size(section, endian, data),
        is_note: section.sh_type(endian) == elf::SHT_NOTE,
    });
    let programs = header.program_headers(endian, data).ok()?;
    let segments = programs.iter().map(|segment| Segment {
        kind: segment.p_type(endian),
        address: segment.p_vaddr(endian).into(),
        offset: segment.p_offset(endian).into(),
        size: segment.p_filesz(endian).into(),
        writable: segment.p_flags(endian).contains(elf::PF_W),
    });
    let dynamic = programs.iter().find_map(|segment| segment.dynamic(endian, data).ok()?);
    let marked_pie = dynamic.unwrap_or_default().iter().any(|entry| {
        entry.d_tag(endian) == elf::DT_FLAGS_1 && entry.val(endian) & elf::DF_1_PIE.0 != 0
    });
    Some(Elf {
        data,
        machine: header.e_machine(endian),
        little_endian: header.is_little_endian(),
        wide: header.is_type_64(),
        kind: header.e_type(endian),
        marked_pie,
        sections: sections.collect(),
        segments: segments.collect(),
    })
}

/// What a compressed section says it expands to, no more than could be true.
fn expanded_size<S: SectionHeader<Endian = Endianness>>(
    section: &S,
    endian: Endianness,
    data: Bounded<'_, '_>,
) -> Option<u64> {
    if !section.sh_flags(endian).contains(elf::SHF_COMPRESSED) {
        return None;
    }
    let (offset, size) = section.file_range(endian)?;
    let header: &<S::Elf as FileHeader>::CompressionHeader = data.read_at(offset).ok()?;
    Some(header.ch_size(endian).into().min(size.saturating_mul(MOST_EXPANSION)))
}

/// Finds a note among several. The parts of a note are padded to four bytes in all notes that are
/// looked for here, whatever the alignment of their section.
fn find_note<'a>(
    mut notes: &'a [u8],
    little_endian: bool,
    owner: &[u8],
    kind: u32,
) -> Option<&'a [u8]> {
    let number = |notes: &mut &'a [u8]| -> Option<u32> {
        let (bytes, rest) = notes.split_first_chunk::<4>()?;
        *notes = rest;
        Some(if little_endian { u32::from_le_bytes(*bytes) } else { u32::from_be_bytes(*bytes) })
    };
    let padded = |notes: &mut &'a [u8], length: usize| -> Option<&'a [u8]> {
        let (bytes, _) = notes.split_at_checked(length)?;
        *notes = notes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(bytes)
    };
    // Every round takes at least the twelve bytes of the header.
    loop {
        let name_length = usize::try_from(number(&mut notes)?).ok()?;
        let content_length = usize::try_from(number(&mut notes)?).ok()?;
        let found_kind = number(&mut notes)?;
        let name = padded(&mut notes, name_length)?;
        let content = padded(&mut notes, content_length)?;
        // Go pads its name with zeros and counts them.
        let name_end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        if found_kind == kind && &name[..name_end] == owner {
            return Some(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note(owner: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [owner.len() as u32, content.len() as u32, kind] {
            bytes.extend(number.to_le_bytes());
        }
        for part in [owner, content] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn a_note_is_found_behind_another() {
        let mut notes = note(b"GNU\0", 5, b"abcde");
        notes.extend(note(b"Go\0\0", 4, b"build id"));
        assert_eq!(find_note(&notes, true, b"Go", 4), Some(&b"build id"[..]));
        assert_eq!(find_note(&notes, true, b"Go", 3), None);
        assert_eq!(find_note(&notes[..notes.len() - 1], true, b"Go", 4), None);
    }

    proptest! {
        #[test]
        fn no_notes_make_it_panic(notes: Vec<u8>, little: bool) {
            find_note(&notes, little, b"GNU", 3);
        }
    }
}
