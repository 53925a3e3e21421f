//! The memory of an image, read from its core by address.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PT_LOAD: u32 = 1;

/// Where a stretch of memory is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    from: u64,
    to: u64,
    offset: u64,
}

pub(crate) struct Memory<'a> {
    core: &'a File,
    /// By address.
    segments: Vec<Segment>,
}

impl<'a> Memory<'a> {
    /// Of a core that we have written (`crate::core`), or of a program's file as its linker meant it.
    pub(crate) fn of(core: &'a File) -> io::Result<Self> {
        let mut header = [0; HEADER];
        core.read_exact_at(&mut header, 0)?;
        let count = usize::from(u16::from_le_bytes([header[56], header[57]]));
        let mut table = vec![0; count * PROGRAM_HEADER];
        core.read_exact_at(&mut table, number(&header, 32))?;
        let loaded = table.chunks_exact(PROGRAM_HEADER).filter(|one| word32(one, 0) == PT_LOAD);
        let mut segments: Vec<Segment> = loaded
            .map(|one| {
                let (offset, from, size) = (number(one, 8), number(one, 16), number(one, 32));
                Segment { from, to: from.saturating_add(size), offset }
            })
            .collect();
        segments.sort_unstable_by_key(|segment| segment.from);
        Ok(Self { core, segments })
    }

    /// Where the first stretch begins.
    pub(crate) fn first(&self) -> Option<u64> {
        self.segments.first().map(|segment| segment.from)
    }

    /// Fills `buffer`, if all of it is in the image.
    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        let index = self.segments.partition_point(|segment| segment.from <= address);
        let segment = self.segments.get(index.checked_sub(1)?)?;
        let end = address.checked_add(buffer.len() as u64)?;
        if end > segment.to {
            return None;
        }
        self.core.read_exact_at(buffer, segment.offset + (address - segment.from)).ok()
    }

    /// A number of this many bytes.
    pub(crate) fn number(&self, address: u64, bytes: usize) -> Option<u64> {
        let mut word = [0; 8];
        self.read(address, word.get_mut(..bytes)?)?;
        Some(u64::from_le_bytes(word))
    }

    /// Every aligned word from here to there, in order; what is not in the image is left out.
    pub(crate) fn words(&self, from: u64, to: u64, mut take: impl FnMut(u64)) {
        const PIECE: u64 = 64 << 10;
        let mut buffer = vec![0; PIECE as usize];
        let mut at = from.next_multiple_of(8);
        while at < to {
            let length = (to - at).min(PIECE) & !7;
            let Some(piece) =
                usize::try_from(length).ok().and_then(|length| buffer.get_mut(..length))
            else {
                return;
            };
            if piece.is_empty() {
                return;
            }
            if self.read(at, piece).is_some() {
                piece.chunks_exact(8).map(|word| number(word, 0)).for_each(&mut take);
            }
            at += length;
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..at + 8).and_then(|word| word.try_into().ok());
    word.map(u64::from_le_bytes).unwrap_or_default()
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_le_bytes).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A core with one stretch of memory.
    pub(crate) fn core(from: u64, bytes: &[u8]) -> File {
        let mut file = vec![0_u8; HEADER + PROGRAM_HEADER];
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[56] = 1;
        file[HEADER..HEADER + 4].copy_from_slice(&PT_LOAD.to_le_bytes());
        let numbers = [(8, file.len() as u64), (16, from), (32, bytes.len() as u64)];
        for (at, number) in numbers {
            file[HEADER + at..HEADER + at + 8].copy_from_slice(&number.to_le_bytes());
        }
        file.extend(bytes);
        let core = tempfile::tempfile().unwrap();
        core.write_all_at(&file, 0).unwrap();
        core
    }

    #[test]
    fn memory_is_found_by_address_and_nothing_beside_it() {
        let mut file = vec![0_u8; HEADER + 2 * PROGRAM_HEADER];
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[56] = 2;
        for (index, (from, offset)) in
            [(0x2000_u64, 176_u64 + 16), (0x1000, 176)].iter().enumerate()
        {
            let at = HEADER + index * PROGRAM_HEADER;
            file[at..at + 4].copy_from_slice(&PT_LOAD.to_le_bytes());
            file[at + 8..at + 16].copy_from_slice(&offset.to_le_bytes());
            file[at + 16..at + 24].copy_from_slice(&from.to_le_bytes());
            file[at + 32..at + 40].copy_from_slice(&16_u64.to_le_bytes());
        }
        file.extend((1..=4_u64).flat_map(u64::to_le_bytes));
        let core = tempfile::tempfile().unwrap();
        core.write_all_at(&file, 0).unwrap();
        let memory = Memory::of(&core).unwrap();
        assert_eq!(memory.number(0x1008, 8), Some(2));
        assert_eq!(memory.number(0x2000, 1), Some(3));
        assert_eq!((memory.number(0x100c, 8), memory.number(0xfff, 8)), (None, None));
        let mut words = Vec::new();
        memory.words(0x1001, 0x1010, |word| words.push(word));
        memory.words(0x2000, 0x2010, |word| words.push(word));
        assert_eq!(words, [2, 3, 4]);
    }
}
