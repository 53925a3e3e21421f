//! An ELF core of a copied process, in memory that has no name and goes with its last holder.
//!
//! A core holds every secret of the process, so it is never on a disk. Pages that do not exist are
//! holes; unchanged text is left out, since dlv reads it from the program.

use crate::memory::{Mapping, OwnMemory, PAGE, mappings};
use crate::standing::Contents;
use crate::trace::{Arch, Here, ThreadState};
use godebug_api::Refusal;
use rustix::fs::MemfdFlags;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const NT_PRSTATUS: u32 = 1;
const NT_PRFPREG: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_FILE: u32 = 0x4649_4c45;
const ET_CORE: u16 = 4;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// e_phnum has 16 bits, and its last value means something else.
const MOST_SEGMENTS: usize = 65_000;
/// Reserved without an end, as some tools do, a mapping has only what exists in it.
const LARGEST_WHOLE: u64 = 64 << 30;
/// Read and written at once.
const CHUNK: u64 = 4 << 20;

/// What a core is made of, besides memory.
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// The one that dlv takes for the current one comes first.
    pub(crate) threads: Vec<ThreadState>,
    pub(crate) auxv: Vec<u8>,
    /// The path of the program, as the mappings have it.
    pub(crate) program: String,
}

/// One PT_LOAD.
struct Segment {
    range: Range<u64>,
    flags: u32,
    /// Where it is in the file.
    offset: u64,
}

/// A part of the memory that is copied at once.
#[derive(Debug, PartialEq, Eq)]
struct Piece {
    address: u64,
    length: usize,
    /// Where it goes.
    offset: u64,
    /// How much of what there is comes before it.
    from: usize,
}

/// Writes the core of `copy`, and tells how many bytes of memory are in it.
pub(crate) fn write(copy: i32, process: &Process) -> Result<(File, u64), Refusal> {
    let written = OwnMemory::of(copy).and_then(|own| {
        let (file, segments) = begin(process, &own)?;
        copy_memory(copy, &pieces(&segments, own.ranges()), &file).map(|bytes| (file, bytes))
    });
    written.map_err(not_kept)
}

/// The same with memory that was read before.
pub(crate) fn write_read(contents: &Contents, process: &Process) -> Result<(File, u64), Refusal> {
    let written = begin(process, &contents.own).and_then(|(file, segments)| {
        let pieces = pieces(&segments, contents.own.ranges());
        let bytes = by_all_hands(&pieces, |piece, _| {
            let part = contents.bytes.get(piece.from..piece.from + piece.length);
            file.write_all_at(part.unwrap_or_default(), piece.offset)
        })?;
        Ok((file, bytes))
    });
    written.map_err(not_kept)
}

fn not_kept(error: io::Error) -> Refusal {
    Refusal::host(format!("the image cannot be kept: {error}"), "is the memory full?")
}

/// A core with all but the memory, and where that goes.
fn begin(process: &Process, own: &OwnMemory) -> io::Result<(File, Vec<Segment>)> {
    let parts = own.parts.iter();
    let segments = parts.flat_map(|(index, existing)| segments_of(&own.mappings[*index], existing));
    let mut segments: Vec<Segment> = segments.take(MOST_SEGMENTS).collect();
    let file = write_without_memory(process, &own.mappings, &mut segments)?;
    Ok((file, segments))
}

/// A core with nothing in it but where the program is: enough for dlv to find places in the source.
pub(crate) fn write_thin(process: &Process) -> Result<File, Refusal> {
    mappings(process.pid)
        .and_then(|mappings| write_without_memory(process, &mappings, &mut Vec::new()))
        .map_err(|error| Refusal::host(format!("the places cannot be looked up: {error}"), ""))
}

/// A mapping with no file behind it is there as a whole, since untouched memory reads as zeros. Of a
/// file only the changed pages are.
fn segments_of(mapping: &Mapping, existing: &[Range<u64>]) -> Vec<Segment> {
    let flags = 4 | u32::from(mapping.writable) << 1 | u32::from(mapping.executable);
    let whole = mapping.inode == 0 && mapping.range.end - mapping.range.start <= LARGEST_WHOLE;
    let whole = whole.then(|| mapping.range.clone());
    let ranges = whole.as_ref().map_or(existing, std::slice::from_ref);
    ranges.iter().map(|range| Segment { range: range.clone(), flags, offset: 0 }).collect()
}

fn write_without_memory(
    process: &Process,
    mappings: &[Mapping],
    segments: &mut [Segment],
) -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create(
        "image",
        MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
    )?);
    let notes = notes(process, mappings);
    let headers = 64 + 56 * (segments.len() as u64 + 1);
    let mut offset = (headers + notes.len() as u64).next_multiple_of(PAGE);
    for segment in segments.iter_mut() {
        segment.offset = offset;
        offset += segment.range.end - segment.range.start;
    }
    file.set_len(offset)?;
    file.write_all_at(&header(segments, headers, notes.len() as u64), 0)?;
    file.write_all_at(&notes, headers)?;
    Ok(file)
}

/// Copies all pages that exist.
fn copy_memory(copy: i32, pieces: &[Piece], file: &File) -> io::Result<u64> {
    let memory = File::open(format!("/proc/{copy}/mem"))?;
    by_all_hands(pieces, |piece, buffer| {
        let buffer = &mut buffer[..piece.length];
        // A page that cannot be read (a device's, a poisoned one) stays a hole.
        match memory.read_exact_at(buffer, piece.address) {
            Ok(()) => file.write_all_at(buffer, piece.offset),
            Err(_) => Ok(()),
        }
    })
}

/// Several threads at once, each with a buffer that has room for any piece. Tells how many bytes they were.
fn by_all_hands(
    pieces: &[Piece],
    copy: impl Fn(&Piece, &mut [u8]) -> io::Result<()> + Sync,
) -> io::Result<u64> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        crate::after_services(rustix::thread::gettid());
        let mut buffer = vec![0; usize::try_from(CHUNK).unwrap_or(1 << 22)];
        while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = copy(piece, &mut buffer)
                && let Ok(mut failure) = failure.lock()
            {
                *failure = Some(error);
            }
        }
    };
    let hands = std::thread::available_parallelism().map_or(1, |count| count.get().min(4));
    std::thread::scope(|scope| {
        for _ in 0..hands {
            scope.spawn(work);
        }
    });
    match failure.into_inner() {
        Ok(Some(error)) => Err(error),
        _ => Ok(pieces.iter().map(|piece| piece.length as u64).sum()),
    }
}

/// Everything that is to be copied.
fn pieces<'a>(segments: &[Segment], own: impl Iterator<Item = &'a Range<u64>>) -> Vec<Piece> {
    let (mut pieces, mut from) = (Vec::new(), 0);
    let mut segments = segments.iter();
    let mut current = segments.next();
    for range in own {
        while let Some(segment) = current
            && segment.range.end <= range.start
        {
            current = segments.next();
        }
        let Some(segment) = current else { break };
        let mut at = range.start;
        while at < range.end {
            let length = usize::try_from((range.end - at).min(CHUNK)).unwrap_or(0);
            let offset = segment.offset + (at - segment.range.start);
            pieces.push(Piece { address: at, length, offset, from });
            at += length as u64;
            from += length;
        }
    }
    pieces
}

fn header(segments: &[Segment], headers: u64, notes: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes.extend(ET_CORE.to_le_bytes());
    bytes.extend(Here::ELF_MACHINE.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    // Entry, program headers, section headers, flags.
    bytes.extend([0_u64, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(0_u32.to_le_bytes());
    let count = u16::try_from(segments.len() + 1).unwrap_or(u16::MAX - 1);
    bytes.extend([64, 56, count, 0, 0, 0_u16].iter().flat_map(|word| word.to_le_bytes()));
    program_header(&mut bytes, PT_NOTE, 0, headers, 0..notes, 4);
    for segment in segments {
        let Segment { range, flags, offset } = segment;
        program_header(&mut bytes, PT_LOAD, *flags, *offset, range.clone(), PAGE);
    }
    bytes
}

fn program_header(
    bytes: &mut Vec<u8>,
    kind: u32,
    flags: u32,
    offset: u64,
    range: Range<u64>,
    alignment: u64,
) {
    let size = range.end - range.start;
    bytes.extend(kind.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    let words = [offset, range.start, 0, size, size, alignment];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

fn notes(process: &Process, mappings: &[Mapping]) -> Vec<u8> {
    let mut notes = Vec::new();
    for (index, thread) in process.threads.iter().enumerate() {
        note(&mut notes, b"CORE\0", NT_PRSTATUS, &status(thread, process.pid));
        if index == 0 {
            note(&mut notes, b"CORE\0", NT_PRPSINFO, &process_info(process));
            note(&mut notes, b"CORE\0", NT_AUXV, &process.auxv);
            note(&mut notes, b"CORE\0", NT_FILE, &files(mappings, &process.program));
        }
        if !thread.floating.is_empty() {
            note(&mut notes, b"CORE\0", NT_PRFPREG, &thread.floating);
        }
        for (kind, registers) in &thread.more {
            note(&mut notes, b"LINUX\0", kind.cast_unsigned(), registers);
        }
    }
    notes
}

fn note(notes: &mut Vec<u8>, name: &[u8], kind: u32, content: &[u8]) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    notes.extend(length(name));
    notes.extend(length(content));
    notes.extend(kind.to_le_bytes());
    for part in [name, content] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}

/// struct elf_prstatus: nothing in it but who, and the registers.
fn status(thread: &ThreadState, pid: i32) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    let parent_group_session = [thread.tid, 0, pid, pid];
    bytes.extend(parent_group_session.iter().flat_map(|number| number.to_le_bytes()));
    bytes.resize(112, 0);
    let mut registers = thread.general.clone();
    registers.resize(Here::REGISTER_BYTES, 0);
    bytes.extend(registers);
    // Whether there is floating point, and padding.
    bytes.extend(u64::from(!thread.floating.is_empty()).to_le_bytes());
    bytes
}

/// struct elf_prpsinfo: the process's number, which is all that dlv takes from it.
fn process_info(process: &Process) -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes.extend([process.pid, 0, 0, 0].iter().flat_map(|number| number.to_le_bytes()));
    let name = process.program.rsplit('/').next().unwrap_or_default().as_bytes();
    let mut text = name[..name.len().min(15)].to_vec();
    text.resize(16 + 80, 0);
    bytes.extend(text);
    bytes
}

/// Where the program's file is mapped. Not those of libraries: dlv takes every file for the program
/// (pkg/proc/core/linux_core.go, buildMemory).
fn files(mappings: &[Mapping], program: &str) -> Vec<u8> {
    let of_program: Vec<&Mapping> =
        mappings.iter().filter(|mapping| mapping.inode != 0 && mapping.path == program).collect();
    let mut bytes = Vec::new();
    let words = [of_program.len() as u64, PAGE];
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    for mapping in &of_program {
        let words = [mapping.range.start, mapping.range.end, mapping.offset / PAGE];
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }
    for mapping in &of_program {
        bytes.extend(mapping.path.as_bytes());
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_in_their_segments_and_are_no_longer_than_a_chunk() {
        let segment = |range, offset| Segment { range, flags: 4, offset };
        let segments = [segment(0x1000..0x9000, 100), segment(0x10000..0x2000_0000, 40_000)];
        let own = [0x2000..0x3000, 0x4000..0x6000, 0x10000..0x10000 + CHUNK + PAGE];
        let chunk = usize::try_from(CHUNK).unwrap();
        let piece = |address, length, offset, from| Piece { address, length, offset, from };
        assert_eq!(
            pieces(&segments, own.iter()),
            [
                piece(0x2000, 0x1000, 100 + 0x1000, 0),
                piece(0x4000, 0x2000, 100 + 0x3000, 0x1000),
                piece(0x10000, chunk, 40_000, 0x3000),
                piece(0x10000 + CHUNK, 0x1000, 40_000 + CHUNK, 0x3000 + chunk),
            ]
        );
    }

    #[test]
    fn notes_have_the_sizes_that_the_kernel_gives_them() {
        let thread = ThreadState { tid: 7, general: vec![1; 216], floating: vec![], more: vec![] };
        let of_status = if cfg!(target_arch = "aarch64") { 392 } else { 336 };
        assert_eq!(status(&thread, 7).len(), of_status);
        let process =
            Process { pid: 7, threads: vec![], auxv: vec![], program: "/opt/shop".to_owned() };
        assert_eq!(process_info(&process).len(), 136);
        let mut notes = Vec::new();
        note(&mut notes, b"CORE\0", 1, &[1, 2, 3]);
        assert_eq!(notes.len(), 12 + 8 + 4);
    }
}
