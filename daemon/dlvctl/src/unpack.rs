//! Makes of a core dump, as systemd-coredump has kept it, what dlv reads: unpacked, with holes where there
//! is nothing, no larger than was allowed, and beside it the program, which must be the one that crashed.
//!
//! What is in it comes from a program that crashed, perhaps on purpose, so this runs in dlv's unit: as
//! nobody, without network.

use godebug_api::handover;
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef, elf};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;

const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Written, or left out, at once.
const PIECE: usize = 64 << 10;
/// No list of mapped files and no program's notes are longer.
const LONGEST_NOTES: u64 = 16 << 20;

/// Why dlv gets no core.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCore {
    #[error("the dump is not handed over: {0}")]
    Handover(io::Error),
    #[error("the dump cannot be read: {0}")]
    Read(io::Error),
    #[error("the core cannot be written: {0}; is there room in /var/tmp?")]
    Write(io::Error),
    #[error("the core is larger than {0} bytes, which is what may be used of /var/tmp")]
    TooLarge(u64),
    #[error(
        "the dump is compressed in a way that is not known here (zstd is); unpack it by hand with \
         `coredumpctl dump`, and use `dlv core`"
    )]
    Compression,
    #[error("the dump is damaged or cut off: {0}")]
    Damaged(String),
    #[error(
        "the program on the disk is another build than the one that crashed ({crashed}, not {given}); \
         bring that one along with --executable FILE"
    )]
    OtherProgram { crashed: String, given: String },
    #[error(
        "the dump does not tell of which build the program was that crashed; say that you know with \
         --executable FILE"
    )]
    UnknownProgram,
}

/// What the program that is given must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// `gnu:HEX` and `go:TEXT`, with a comma between; empty for a program without.
    pub(crate) build: String,
    /// Somebody vouches for it, should the dump not tell.
    pub(crate) vouched_for: bool,
}

/// Makes `folder/core` and `folder/program`.
pub(crate) fn unpack(folder: &Path, limit: u64, expected: &Expected) -> Result<(), NoCore> {
    let [dump, program] = handover::receive_dump(io::stdin().as_fd()).map_err(NoCore::Handover)?;
    let path = folder.join("core");
    let mut core = File::create_new(&path).map_err(NoCore::Write)?;
    write(File::from(dump), &mut core, limit)?;
    let core = File::open(&path).map_err(NoCore::Read)?;
    is_of(&core, expected)?;
    let mut copy = File::create_new(folder.join("program")).map_err(NoCore::Write)?;
    let mut program = File::from(program);
    program.rewind().map_err(NoCore::Read)?;
    io::copy(&mut program, &mut copy).map_err(NoCore::Write)?;
    Ok(())
}

fn write(mut dump: File, core: &mut File, limit: u64) -> Result<(), NoCore> {
    let mut magic = [0; 4];
    dump.rewind().and_then(|()| dump.read_exact(&mut magic)).map_err(NoCore::Read)?;
    dump.rewind().map_err(NoCore::Read)?;
    match magic {
        ZSTD => {
            let damaged = |error: &dyn std::fmt::Display| NoCore::Damaged(error.to_string());
            let source = io::BufReader::with_capacity(1 << 20, dump);
            let decoder = ruzstd::decoding::StreamingDecoder::new(source);
            write_sparse(decoder.map_err(|error| damaged(&error))?, core, limit)
        }
        elf::ELFMAG => write_sparse(dump, core, limit),
        _ => Err(NoCore::Compression),
    }
}

fn write_sparse(mut source: impl Read, core: &mut File, limit: u64) -> Result<(), NoCore> {
    let mut piece = vec![0; PIECE];
    let mut length = 0_u64;
    loop {
        let count = fill(&mut source, &mut piece)?;
        if count == 0 {
            break;
        }
        length += count as u64;
        if length > limit {
            return Err(NoCore::TooLarge(limit));
        }
        let piece = &piece[..count];
        let wrote = if piece.iter().all(|byte| *byte == 0) {
            core.seek(SeekFrom::Current(count as i64)).map(drop)
        } else {
            core.write_all(piece)
        };
        wrote.map_err(NoCore::Write)?;
    }
    core.set_len(length).map_err(NoCore::Write)
}

fn fill(source: &mut impl Read, piece: &mut [u8]) -> Result<usize, NoCore> {
    let mut filled = 0;
    while filled < piece.len() {
        match source.read(&mut piece[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(NoCore::Damaged(error.to_string())),
        }
    }
    Ok(filled)
}

fn is_of(core: &File, expected: &Expected) -> Result<(), NoCore> {
    let cache = ReadCache::new(core);
    let crashed = Memory::of(&cache)?.build().unwrap_or_default();
    match same_build(&crashed, &expected.build) {
        Some(true) => Ok(()),
        Some(false) => {
            Err(NoCore::OtherProgram { crashed: crashed.join(", "), given: expected.build.clone() })
        }
        None if expected.vouched_for => Ok(()),
        None => Err(NoCore::UnknownProgram),
    }
}

/// `None` when they have no kind of ID in common. Of a core only the first page of a program is sure to be
/// there, and GNU's may be on another.
fn same_build(crashed: &[String], given: &str) -> Option<bool> {
    let kind = |id: &str| id.split(':').next().map(str::to_owned);
    let pairs = given.split(',').filter_map(|id| {
        let other = crashed.iter().find(|other| kind(other) == kind(id))?;
        Some(other == id)
    });
    pairs.reduce(|all, same| all && same)
}

type Header = elf::FileHeader64<Endianness>;

/// A core as memory.
struct Memory<'a> {
    data: &'a ReadCache<&'a File>,
    endian: Endianness,
    segments: &'a [elf::ProgramHeader64<Endianness>],
}

impl<'a> Memory<'a> {
    fn of(data: &'a ReadCache<&'a File>) -> Result<Self, NoCore> {
        let damaged = |error: object::Error| NoCore::Damaged(error.to_string());
        let header = Header::parse(data).map_err(damaged)?;
        let endian = header.endian().map_err(damaged)?;
        if header.e_type(endian) != elf::ET_CORE {
            return Err(NoCore::Damaged("it is not the core of a process".to_owned()));
        }
        let segments = header.program_headers(endian, data).map_err(damaged)?;
        Ok(Self { data, endian, segments })
    }

    fn read(&self, address: u64, size: u64) -> Option<&'a [u8]> {
        let segment = self.segments.iter().find(|segment| {
            let from = segment.p_vaddr(self.endian);
            segment.p_type(self.endian) == elf::PT_LOAD
                && from <= address
                && address - from < segment.p_filesz(self.endian)
        })?;
        let within = address - segment.p_vaddr(self.endian);
        if size > segment.p_filesz(self.endian) - within {
            return None;
        }
        self.data.read_bytes_at(segment.p_offset(self.endian).checked_add(within)?, size).ok()
    }

    /// What the program that crashed says of its build: the first file that was mapped from its beginning
    /// is the program.
    fn build(&self) -> Option<Vec<String>> {
        let start = self.program()?;
        let head = self.read(start, 64)?;
        let header = object::pod::from_bytes::<Header>(head).ok()?.0;
        let count = u64::from(header.e_phnum(self.endian));
        let table = self.read(start.checked_add(header.e_phoff(self.endian))?, count * 56)?;
        let table =
            object::pod::slice_from_all_bytes::<elf::ProgramHeader64<Endianness>>(table).ok()?;
        let first = table.iter().find(|one| one.p_type(self.endian) == elf::PT_LOAD)?;
        // Where it was loaded, less where it says that it is.
        let moved = start.wrapping_sub(first.p_vaddr(self.endian));
        let mut ids = Vec::new();
        for one in table.iter().filter(|one| one.p_type(self.endian) == elf::PT_NOTE) {
            let size = one.p_filesz(self.endian).min(LONGEST_NOTES);
            if let Some(notes) = self.read(one.p_vaddr(self.endian).wrapping_add(moved), size) {
                ids.extend(build_ids(notes, self.endian));
            }
        }
        Some(ids)
    }

    /// The address at which the program begins: the first of the files that the kernel lists.
    fn program(&self) -> Option<u64> {
        let notes = self.segments.iter().find(|one| one.p_type(self.endian) == elf::PT_NOTE)?;
        let size = notes.p_filesz(self.endian).min(LONGEST_NOTES);
        let notes = self.data.read_bytes_at(notes.p_offset(self.endian), size).ok()?;
        let (_, _, list) =
            each_note(notes, self.endian).find(|(_, kind, _)| *kind == elf::NT_FILE.0)?;
        let word = |at: usize| number(list, at, self.endian);
        let count = usize::try_from(word(0)?).ok()?.min(list.len() / 24);
        // Count, size of a page, then from, to, and page in the file of each.
        (0..count)
            .find(|index| word(16 + index * 24 + 16) == Some(0))
            .and_then(|index| word(16 + index * 24))
    }
}

fn number(bytes: &[u8], at: usize, endian: Endianness) -> Option<u64> {
    let word: [u8; 8] = bytes.get(at..at + 8)?.try_into().ok()?;
    Some(match endian {
        Endianness::Little => u64::from_le_bytes(word),
        Endianness::Big => u64::from_be_bytes(word),
    })
}

/// Name, kind and content of each note.
fn each_note(notes: &[u8], endian: Endianness) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    let mut rest = notes;
    std::iter::from_fn(move || {
        let word = |at: usize| {
            let word: [u8; 4] = rest.get(at..at + 4)?.try_into().ok()?;
            Some(match endian {
                Endianness::Little => u32::from_le_bytes(word),
                Endianness::Big => u32::from_be_bytes(word),
            })
        };
        let (name, size, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let begin = 12 + name.next_multiple_of(4);
        let found = (rest.get(12..12 + name)?, kind, rest.get(begin..begin.checked_add(size)?)?);
        rest = rest.get(begin + size.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

/// GNU's and Go's, as godebugd writes them.
fn build_ids(notes: &[u8], endian: Endianness) -> Vec<String> {
    const OF_GO: u32 = 4;
    each_note(notes, endian)
        .filter_map(|(name, kind, content)| match (name, elf::NoteType(kind)) {
            (b"GNU\0", elf::NT_GNU_BUILD_ID) => Some(
                content.iter().fold("gnu:".to_owned(), |text, byte| format!("{text}{byte:02x}")),
            ),
            (b"Go\0\0", elf::NoteType(OF_GO)) => {
                Some(format!("go:{}", String::from_utf8_lossy(content)))
            }
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for word in [name.len() as u32, content.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        note.extend(name);
        note.resize(note.len().next_multiple_of(4), 0);
        note.extend(content);
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    #[test]
    fn both_kinds_of_build_are_found_among_notes() {
        let mut notes = note(b"CORE\0", 1, b"whatever");
        notes.extend(note(b"Go\0\0", 4, b"abc/def"));
        notes.extend(note(b"GNU\0", 3, &[0xab, 0x01]));
        assert_eq!(build_ids(&notes, Endianness::Little), ["go:abc/def", "gnu:ab01"]);
        // Cut anywhere, what is whole is found and nothing else happens.
        for length in 0..notes.len() {
            let found = build_ids(&notes[..length], Endianness::Little);
            assert!(build_ids(&notes, Endianness::Little).starts_with(&found), "{length}");
        }
    }

    #[test]
    fn what_is_nothing_is_left_out_and_what_is_too_much_refused() {
        let mut core = tempfile::tempfile().unwrap();
        let mut data = vec![0_u8; 3 * PIECE + 5];
        data[PIECE + 1] = 7;
        write_sparse(data.as_slice(), &mut core, u64::MAX).unwrap();
        let mut back = Vec::new();
        core.rewind().unwrap();
        core.read_to_end(&mut back).unwrap();
        assert!(back == data);
        let refused = write_sparse(data.as_slice(), &mut core, PIECE as u64);
        assert!(matches!(refused, Err(NoCore::TooLarge(_))));
    }

    #[test]
    fn builds_are_the_same_by_the_kinds_that_both_have() {
        let crashed = ["go:a".to_owned()];
        assert_eq!(same_build(&crashed, "gnu:1,go:a"), Some(true));
        assert_eq!(same_build(&crashed, "gnu:1,go:b"), Some(false));
        assert_eq!(same_build(&crashed, "gnu:1"), None);
        assert_eq!(same_build(&crashed, ""), None);
        assert_eq!(same_build(&[], "go:a"), None);
    }

    #[test]
    fn what_is_no_core_is_damaged() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0]).unwrap();
        let expected = Expected { build: String::new(), vouched_for: true };
        assert!(matches!(is_of(&file, &expected), Err(NoCore::Damaged(_))));
    }
}
