//! The types that a Go program carries with it (internal/abi, `Type`): what its garbage collector and its
//! interfaces go by. They are read from the image, and where nobody has changed them from the program's file.
//!
//! Nothing says where each of them begins, in a way that all versions of Go have; whatever between
//! `moduledata.types` and `etypes` reads as one, name and kind agreeing, is one.

use crate::core_memory::Memory;
use crate::layout::Layout;
use crate::memory::PAGE;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

/// Of `abi.Type`, before what a kind adds. Its fields have not moved since Go 1.14.
const HEAD: u64 = 48;
/// `TFlagExtraStar`: the name begins with a star that does not belong to it.
const EXTRA_STAR: u8 = 2;
/// `TFlagNamed`.
const NAMED: u8 = 4;
/// `TFlagUncommon`.
const UNCOMMON: u8 = 1;
/// Of maps of slices of pointers, and so on.
const DEEPEST_NAME: u32 = 16;
/// Longer ones are cut by people too.
const LONGEST_NAME: u64 = 4096;
const MOST_FIELDS: u64 = 10_000;
const LARGEST: u64 = 1 << 40;
/// Of a large program; what says that it has more is not believed.
const LARGEST_SECTION: u64 = 512 << 20;

/// Memory as the program sees it, its unchanged parts among it.
pub(super) struct Program<'a> {
    pub(super) core: &'a Memory<'a>,
    /// Its file, and how far from its addresses it was loaded.
    pub(super) file: Option<(Memory<'a>, u64)>,
}

impl Program<'_> {
    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> Option<()> {
        if self.core.read(address, buffer).is_some() {
            return Some(());
        }
        // Changed pages are in the image and others in the file, so neither may have all of it.
        let (mut at, mut rest) = (address, buffer);
        while !rest.is_empty() {
            let in_page = usize::try_from(PAGE - at % PAGE).unwrap_or(1).min(rest.len());
            let (part, more) = rest.split_at_mut(in_page);
            self.core.read(at, part).or_else(|| {
                let (file, moved) = self.file.as_ref()?;
                file.read(at.checked_sub(*moved)?, part)
            })?;
            at = at.checked_add(in_page as u64)?;
            rest = more;
        }
        Some(())
    }

    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Some(u64::from_le_bytes(word))
    }
}

/// What of a type matters to whoever follows its pointers. Other types are named by their addresses.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing in it leads anywhere.
    Plain,
    /// `unsafe.Pointer`.
    Opaque,
    Pointer(u64),
    Slice(u64),
    Text,
    Array {
        of: u64,
        count: u64,
    },
    /// Where the fields are, and of which types.
    Struct(Vec<(u64, u64)>),
    /// The type of a bucket or a group, and whether it is a group (Go 1.24).
    Map {
        part: u64,
        is_grouped: bool,
    },
    Channel(u64),
    /// Whether it begins with a type, and not with a table of methods.
    Interface {
        is_empty: bool,
    },
    Function,
}

#[derive(Debug)]
pub(super) struct GoType {
    pub(super) name: String,
    pub(super) size: u64,
    /// How many of its bytes may have pointers.
    pub(super) pointers: u64,
    pub(super) shape: Shape,
}

/// The types of a program.
pub(super) struct Types<'a> {
    pub(super) program: &'a Program<'a>,
    all: Range<u64>,
    /// Where tables of methods are, but for those that were made later.
    tables: Range<u64>,
    section: Vec<u8>,
    known: RefCell<HashMap<u64, Option<Rc<GoType>>>>,
    by_name: HashMap<String, Option<u64>>,
}

impl<'a> Types<'a> {
    /// `None` where this program has none that can be understood.
    pub(super) fn read(program: &'a Program<'a>, module: &Layout) -> Option<Self> {
        let all = module.number("types")?..module.number("etypes")?;
        let length = all.end.checked_sub(all.start).filter(|length| *length <= LARGEST_SECTION)?;
        let mut section = vec![0; usize::try_from(length).ok()?];
        program.read(all.start, &mut section)?;
        let named = |name| module.number(name).filter(|at| *at > 0);
        let tables = all.start.min(named("text")?)..all.end.max(named("end")?);
        let known = RefCell::default();
        let mut types = Self { program, all, tables, section, known, by_name: HashMap::new() };
        types.find_names();
        (!types.by_name.is_empty()).then_some(types)
    }

    #[cfg(test)]
    pub(super) fn for_tests(program: &'a Program<'a>, all: Range<u64>) -> Self {
        let mut section = vec![0; usize::try_from(all.end - all.start).unwrap()];
        program.read(all.start, &mut section).unwrap();
        let (known, by_name) = (RefCell::default(), HashMap::new());
        let mut types = Self { program, tables: all.clone(), all, section, known, by_name };
        types.find_names();
        types
    }

    /// Where there are some.
    #[cfg(test)]
    pub(super) fn all(&self) -> Vec<u64> {
        let places = (self.all.start..self.all.end).step_by(8);
        places.filter(|at| self.of(*at).is_some()).collect()
    }

    fn find_names(&mut self) {
        let mut at = self.all.start.next_multiple_of(8);
        let mut by_name = HashMap::new();
        while at + HEAD <= self.all.end {
            if let Some(name) = self.whole_name_of(at, 0) {
                // Those of functions have no names of their own: nobody can tell which is meant.
                by_name.entry(name).and_modify(|known| *known = None).or_insert(Some(at));
            }
            at += 8;
        }
        self.by_name = by_name;
    }

    /// The type that dlv calls so, with whole paths, if the program has just one.
    pub(super) fn named(&self, name: &str) -> Option<u64> {
        *self.by_name.get(&unescaped(name))?
    }

    /// Whether an interface may begin with this.
    pub(super) fn may_be_table(&self, address: u64) -> bool {
        address.is_multiple_of(8) && (self.tables.contains(&address) || self.all.contains(&address))
    }

    /// The type at this address, if there is one.
    pub(super) fn of(&self, address: u64) -> Option<Rc<GoType>> {
        if !self.all.contains(&address) || !address.is_multiple_of(8) {
            return None;
        }
        if let Some(known) = self.known.borrow().get(&address) {
            return known.clone();
        }
        let found = self.decode(address).map(Rc::new);
        self.known.borrow_mut().insert(address, found.clone());
        found
    }

    /// Whether a value of this type stands in an interface itself, and not a pointer to it.
    pub(super) fn is_pointer(&self, of: &GoType) -> bool {
        self.is_pointer_within(of, 0)
    }

    fn is_pointer_within(&self, of: &GoType, depth: u32) -> bool {
        match &of.shape {
            _ if of.size != 8 || depth > DEEPEST_NAME => false,
            Shape::Pointer(_) | Shape::Opaque | Shape::Function | Shape::Channel(_) => true,
            Shape::Map { .. } => true,
            Shape::Array { of, count: 1 } => {
                self.of(*of).is_some_and(|of| self.is_pointer_within(&of, depth + 1))
            }
            Shape::Struct(fields) => fields.iter().any(|(_, field)| {
                self.of(*field).is_some_and(|field| self.is_pointer_within(&field, depth + 1))
            }),
            _ => false,
        }
    }

    fn bytes<const N: usize>(&self, address: u64) -> Option<[u8; N]> {
        let from = usize::try_from(address.checked_sub(self.all.start)?).ok()?;
        self.section.get(from..from.checked_add(N)?)?.try_into().ok()
    }

    fn word(&self, address: u64) -> Option<u64> {
        self.bytes(address).map(u64::from_le_bytes)
    }

    /// A name, if what stands here can be a type: all of this is so of every type, and of hardly anything else.
    fn name_of(&self, at: u64) -> Option<String> {
        let (size, pointers) = (self.word(at)?, self.word(at + 8)?);
        let [flags, alignment, field_alignment, kind] = self.bytes(at + 20)?;
        let is_sound = size <= LARGEST
            && pointers <= size
            && pointers.is_multiple_of(8)
            && alignment.is_power_of_two()
            && alignment <= 16
            && field_alignment == alignment
            && size.is_multiple_of(u64::from(alignment))
            && (1..=26).contains(&(kind & 31));
        if !is_sound {
            return None;
        }
        let name = self.text(u32::from_le_bytes(self.bytes(at + 40)?))?;
        let name = if flags & EXTRA_STAR == 0 { name } else { name.strip_prefix('*')?.to_owned() };
        let fits = flags & NAMED != 0 || is_called_so(kind & 31, &name);
        fits.then_some(name)
    }

    /// The name with the paths of packages in it, where `main.T` and `b.T` are short of them.
    fn whole_name_of(&self, at: u64, depth: u32) -> Option<String> {
        let name = self.name_of(at)?;
        let [flags, _, _, kind] = self.bytes(at + 20)?;
        if flags & NAMED != 0 {
            let path = self.path_of(at, flags, kind & 31);
            return Some(match (path, name.split_once('.')) {
                (Some(path), Some((_, own))) => format!("{path}.{own}"),
                _ => name,
            });
        }
        if depth > DEEPEST_NAME {
            return Some(name);
        }
        let part = |index: u64| {
            self.word(at + HEAD + 8 * index).and_then(|of| self.whole_name_of(of, depth + 1))
        };
        Some(match kind & 31 {
            17 => format!("[{}]{}", self.word(at + HEAD + 16)?, part(0)?),
            18 => format!("{}{}", name.get(..name.find("chan")? + 5)?, part(0)?),
            21 => format!("map[{}]{}", part(0)?, part(1)?),
            22 => format!("*{}", part(0)?),
            23 => format!("[]{}", part(0)?),
            _ => name,
        })
    }

    /// `abi.UncommonType`, which comes after what the kind has.
    fn path_of(&self, at: u64, flags: u8, kind: u8) -> Option<String> {
        if flags & UNCOMMON == 0 {
            return None;
        }
        let more = match kind {
            17 => 24,
            18 => 16,
            19 | 22 | 23 => 8,
            20 | 25 => 32,
            21 if matches!(self.map(self.word(at + HEAD + 16)?)?, Shape::Map { is_grouped, .. } if is_grouped) => {
                64
            }
            21 => 40,
            _ => 0,
        };
        self.text(u32::from_le_bytes(self.bytes(at + HEAD + more)?))
    }

    /// `abi.Name`: flags, the length in sevens of bits, the text.
    fn text(&self, offset: u32) -> Option<String> {
        let mut at = self.all.start + u64::from(offset) + 1;
        let mut length = 0;
        for shift in [0, 7] {
            let [byte] = self.bytes(at)?;
            at += 1;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if offset == 0 || length == 0 || length > LONGEST_NAME {
            return None;
        }
        let from = usize::try_from(at - self.all.start).ok()?;
        let text = self.section.get(from..from + usize::try_from(length).ok()?)?;
        let text = std::str::from_utf8(text).ok()?;
        (!text.contains(char::is_control)).then(|| text.to_owned())
    }

    fn decode(&self, at: u64) -> Option<GoType> {
        let name = self.name_of(at)?;
        let (size, pointers) = (self.word(at)?, self.word(at + 8)?);
        let [kind] = self.bytes(at + 23)?;
        let more = |index: u64| self.word(at + HEAD + 8 * index);
        let shape = match kind & 31 {
            _ if pointers == 0 => Shape::Plain,
            17 => Shape::Array { of: more(0)?, count: more(2)? },
            18 => Shape::Channel(more(0)?),
            19 => Shape::Function,
            20 => Shape::Interface { is_empty: more(2)? == 0 },
            21 => self.map(more(2)?)?,
            22 => Shape::Pointer(more(0)?),
            23 => Shape::Slice(more(0)?),
            24 => Shape::Text,
            25 => self.structure(&name, more(1)?, more(2)?)?,
            26 => Shape::Opaque,
            _ => Shape::Plain,
        };
        Some(GoType { name, size, pointers, shape })
    }

    /// The part of a map is a struct of the compiler's own, whose first field tells which kind it is.
    fn map(&self, part: u64) -> Option<Shape> {
        let fields = self.program.word(part.wrapping_add(HEAD + 8))?;
        let first = self.program.word(fields)?;
        let mut name = [0; 6];
        self.program.read(first, &mut name)?;
        Some(Shape::Map { part, is_grouped: &name[2..] == b"ctrl" })
    }

    fn structure(&self, name: &str, fields: u64, count: u64) -> Option<Shape> {
        let mut all = Vec::new();
        for index in 0..count.min(MOST_FIELDS) {
            let field = |word: u64| self.program.word(fields.wrapping_add(index * 24 + word * 8));
            all.push((field(2)?, field(1)?));
        }
        // sync/atomic's Pointer: a `[0]*T` that is there for the type, and what is one.
        if name.starts_with("atomic.Pointer[")
            && let Some(&(0, none)) = all.first()
            && let Some(Shape::Pointer(of)) = self.element_of_none(none)
        {
            return Some(Shape::Pointer(of));
        }
        Some(Shape::Struct(all))
    }

    fn element_of_none(&self, array: u64) -> Option<Shape> {
        let element = self.word(array + HEAD)?;
        self.name_of(element)?;
        let [kind] = self.bytes(element + 23)?;
        (kind & 31 == 22).then(|| self.word(element.wrapping_add(HEAD)).map(Shape::Pointer))?
    }
}

/// Whether a type without a name of its own may be called so.
fn is_called_so(kind: u8, name: &str) -> bool {
    match kind {
        17 => name.starts_with('[') && !name.starts_with("[]"),
        18 => name.contains("chan"),
        19 => name.starts_with("func("),
        20 => name.starts_with("interface"),
        21 => name.starts_with("map["),
        22 => name.starts_with('*'),
        23 => name.starts_with("[]"),
        25 => name.starts_with("struct") || is_of_the_compiler(name),
        26 => name == "unsafe.Pointer",
        _ => false,
    }
}

/// Parts of maps have names that no person has given them.
fn is_of_the_compiler(name: &str) -> bool {
    name.starts_with("map.") || name.starts_with("noalg.") || name.starts_with("hash<")
}

/// dlv has names as they are in the debug information, where dots in the last part of a path are escaped.
fn unescaped(name: &str) -> String {
    name.replace("%2e", ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_and_its_name_agree() {
        assert!(is_called_so(21, "map[int]bool") && !is_called_so(21, "*int"));
        assert!(is_called_so(23, "[]uint8") && !is_called_so(17, "[]uint8"));
        assert!(!is_called_so(2, "main.T"));
    }
}
