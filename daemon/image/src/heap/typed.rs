//! Which type each object has, as far as an image tells. A Go program keeps no type with a small object;
//! whoever points to it has one, and so have an interface and every large object that has pointers.

use super::gotypes::{GoType, Shape, Types};
use super::spans::{Object, Spans};
use crate::core_memory::Memory;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Label {
    /// Nothing tells; of this size, and whether it has pointers.
    Unknown {
        size: u64,
        is_plain: bool,
    },
    One(u64),
    /// What a slice has, or an array.
    Many(u64),
    Text,
    /// A function's variables, by where the function begins.
    Closure(u64),
}

/// What is to be looked through.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    /// So many values of a known type.
    Values { at: u64, of: u64, count: u64 },
    /// A closure's variables, of which nothing tells the types.
    Variables { from: u64, to: u64 },
}

/// Read at once.
const PIECE: u64 = 64 << 10;
/// Values within other objects that are remembered, so that a circle of them ends.
const MOST_INNER: usize = 4_000_000;
/// A map with more tables than this is none.
const MOST_TABLES: u64 = 1 << 32;
/// No struct is larger; an array is gone through by its elements.
const LARGEST_VALUE: u64 = 16 << 20;
/// Structs in structs. A program's own types end long before.
const DEEPEST: u32 = 100;
/// Objects of up to this size say nothing of themselves (internal/runtime/gc, `MinSizeForMallocHeader`).
const LARGEST_WITHOUT_HEADER: u64 = 512;
const HEADER: u64 = 8;

pub(super) struct Typed<'a> {
    types: &'a Types<'a>,
    spans: &'a Spans,
    memory: &'a Memory<'a>,
    /// Of each object; 0 where nothing is known.
    labels: Vec<u32>,
    numbers: HashMap<Label, u32>,
    all: Vec<Label>,
    waiting: Vec<Waiting>,
    inner: HashSet<(u64, u64)>,
    tables: HashMap<u64, Option<u64>>,
}

impl<'a> Typed<'a> {
    pub(super) fn new(types: &'a Types<'a>, spans: &'a Spans, memory: &'a Memory<'a>) -> Self {
        let places = usize::try_from(spans.places()).unwrap_or(0);
        Self {
            types,
            spans,
            memory,
            labels: vec![0; places],
            numbers: HashMap::new(),
            all: Vec::new(),
            waiting: Vec::new(),
            inner: HashSet::new(),
            tables: HashMap::new(),
        }
    }

    pub(super) fn label(&self, object: &Object) -> Label {
        let number = self.place(object).and_then(|place| self.labels.get(place)).copied();
        let known = number
            .filter(|number| *number > 0)
            .and_then(|number| self.all.get(usize::try_from(number - 1).ok()?));
        known.copied().unwrap_or(Label::Unknown { size: object.size, is_plain: object.is_plain })
    }

    pub(super) fn name(&self, label: Label) -> String {
        let of = |at| self.types.of(at).map_or_else(|| "?".to_owned(), |of| of.name.clone());
        match label {
            Label::Unknown { size, is_plain: true } => {
                format!("unknown, {size} bytes without pointers")
            }
            Label::Unknown { size, .. } => format!("unknown, {size} bytes"),
            Label::One(at) => whole_map(&of(at)),
            Label::Many(at) => {
                let one = of(at);
                let map = whole_map(&one);
                if map == one { format!("[]{one}") } else { map }
            }
            Label::Text => "string".to_owned(),
            Label::Closure(_) => "variables of a func".to_owned(),
        }
    }

    /// A variable whose type has this name, if it is a type of the program's.
    pub(super) fn variable(&mut self, at: u64, kind: &str) -> bool {
        let Some(of) = self.types.named(kind) else { return false };
        self.waiting.push(Waiting::Values { at, of, count: 1 });
        self.follow_all();
        true
    }

    /// What a large object with pointers says of itself.
    pub(super) fn header(&mut self, object: &Object) {
        let (of, at) = match self.spans.large_type(object) {
            Some(of) => (Some(of), object.from),
            None if self.spans.has_headers() && object.size > LARGEST_WITHOUT_HEADER => {
                (self.memory.number(object.from, 8), object.from + HEADER)
            }
            None => return,
        };
        let Some((of, kind)) = of.and_then(|of| Some((of, self.types.of(of)?))) else { return };
        let count = (object.from + object.size - at).checked_div(kind.size).unwrap_or(0);
        if kind.pointers > 0 && count > 0 {
            let label = if count > 1 { Label::Many(of) } else { Label::One(of) };
            self.arrive(at, of, count, label);
            self.follow_all();
        }
    }

    /// Memory of which no type is known: an interface in it is still known by its first word.
    pub(super) fn look_for_interfaces(&mut self, from: u64, to: u64) {
        self.interfaces_in(from, to);
        self.follow_all();
    }

    fn interfaces_in(&mut self, from: u64, to: u64) {
        let (types, memory) = (self.types, self.memory);
        let (mut before, mut found) = (0, Vec::new());
        memory.words(from, to, |word| {
            if types.may_be_table(before) {
                found.push((before, word));
            }
            before = word;
        });
        for (first, second) in found {
            if let Some(of) = self.dynamic(first, true).or_else(|| self.dynamic(first, false)) {
                self.interface(&of, second);
            }
        }
    }

    pub(super) fn is_known(&self, object: &Object) -> bool {
        !matches!(self.label(object), Label::Unknown { .. })
    }

    fn follow_all(&mut self) {
        while let Some(next) = self.waiting.pop() {
            match next {
                Waiting::Values { at, of, count } => self.follow_values(at, of, count),
                Waiting::Variables { from, to } => self.interfaces_in(from, to),
            }
        }
    }

    fn follow_values(&mut self, at: u64, type_at: u64, count: u64) {
        let Some((type_at, of, count)) = self.elements(type_at, count) else { return };
        let Ok(size) = usize::try_from(of.size) else { return };
        if of.pointers == 0 || size == 0 {
            return;
        }
        if of.size > LARGEST_VALUE {
            return;
        }
        let is_bucket = of.name.contains("map.bucket[");
        let at_once = (PIECE / of.size).clamp(1, count.max(1));
        let mut buffer = vec![0; usize::try_from(at_once).unwrap_or(1).saturating_mul(size)];
        let mut index = 0;
        while index < count {
            let many = at_once.min(count - index);
            let length = usize::try_from(many).unwrap_or(0).saturating_mul(size);
            let Some(piece) = buffer.get_mut(..length) else { return };
            if self.types.program.read(at.wrapping_add(index * of.size), piece).is_none() {
                return;
            }
            for one in piece.chunks_exact(size) {
                self.follow(&of, type_at, one, 0);
                if is_bucket {
                    self.overflow(type_at, one);
                }
            }
            index += many;
        }
    }

    /// What arrays consist of, and how many there are. Arrays in arrays, as deep as structs in structs.
    fn elements(&self, mut at: u64, mut count: u64) -> Option<(u64, Rc<GoType>, u64)> {
        for _ in 0..DEEPEST {
            let of = self.types.of(at)?;
            let Shape::Array { of: element, count: each } = of.shape else {
                return Some((at, of, count));
            };
            let room = count.saturating_mul(of.size);
            let fit = room.checked_div(self.types.of(element)?.size)?;
            (at, count) = (element, count.saturating_mul(each).min(fit));
        }
        None
    }

    /// Where the pointers in a value of this type lead.
    fn follow(&mut self, of: &GoType, at: u64, value: &[u8], depth: u32) {
        if depth > DEEPEST {
            return;
        }
        let word = |index: usize| word_of(value, index);
        match &of.shape {
            Shape::Plain | Shape::Opaque => {}
            Shape::Pointer(to) => self.arrive(word(0), *to, 1, Label::One(*to)),
            Shape::Slice(to) => self.arrive(word(0), *to, word(2), Label::Many(*to)),
            Shape::Text => {
                self.mark(word(0), Label::Text);
            }
            Shape::Array { of: element, count } => {
                let Some(of) = self.types.of(*element).filter(|of| of.pointers > 0) else { return };
                let size = usize::try_from(of.size).unwrap_or(usize::MAX);
                for one in value.chunks_exact(size).take(usize::try_from(*count).unwrap_or(0)) {
                    self.follow(&of, *element, one, depth + 1);
                }
            }
            Shape::Struct(fields) => {
                for (offset, field) in fields {
                    let Some(of) = self.types.of(*field).filter(|of| of.pointers > 0) else {
                        continue;
                    };
                    let from = usize::try_from(*offset).unwrap_or(usize::MAX);
                    if let Some(value) = value.get(from..) {
                        self.follow(&of, *field, value, depth + 1);
                    }
                }
            }
            Shape::Map { part, is_grouped: true } => self.grouped_map(word(0), at, *part),
            Shape::Map { part, is_grouped: false } => self.bucket_map(word(0), at, *part),
            Shape::Channel(element) => self.channel(word(0), at, *element),
            Shape::Interface { is_empty } => {
                if let Some(of) = self.dynamic(word(0), *is_empty) {
                    self.interface(&of, word(1));
                }
            }
            Shape::Function => self.function(word(0)),
        }
    }

    /// runtime/chan.go, `hchan`: how many it has room for, and where.
    fn channel(&mut self, at: u64, of: u64, element: u64) {
        if !self.mark(at, Label::One(of)) {
            return;
        }
        let (Some(room), Some(buffer)) =
            (self.memory.number(at.wrapping_add(8), 8), self.memory.number(at.wrapping_add(16), 8))
        else {
            return;
        };
        if room > 0 {
            let label = Label::One(of);
            self.arrive(buffer, element, room, label);
        }
    }

    /// internal/runtime/maps, `Map`: one group, or a directory of tables of groups.
    fn grouped_map(&mut self, at: u64, of: u64, group: u64) {
        let label = Label::One(of);
        if at == 0 || !self.mark(at, label) {
            return;
        }
        let (Some(directory), Some(tables)) = (
            self.memory.number(at.wrapping_add(16), 8),
            self.memory.number(at.wrapping_add(24), 8),
        ) else {
            return;
        };
        if tables == 0 {
            return self.arrive(directory, group, 1, label);
        }
        self.mark(directory, label);
        for index in 0..tables.min(MOST_TABLES) {
            let Some(table) = self.memory.number(directory.wrapping_add(index * 8), 8) else {
                return;
            };
            if !self.mark(table, label) {
                continue;
            }
            let (Some(groups), Some(mask)) = (
                self.memory.number(table.wrapping_add(16), 8),
                self.memory.number(table.wrapping_add(24), 8),
            ) else {
                continue;
            };
            self.arrive(groups, group, mask.saturating_add(1), label);
        }
    }

    /// runtime/map.go before Go 1.24, `hmap`: buckets, and those from before it grew.
    fn bucket_map(&mut self, at: u64, of: u64, bucket: u64) {
        let label = Label::One(of);
        if at == 0 || !self.mark(at, label) {
            return;
        }
        let Some(power) = self.memory.number(at.wrapping_add(9), 1).filter(|power| *power < 40)
        else {
            return;
        };
        for (offset, power) in [(16, power), (24, power.saturating_sub(1))] {
            if let Some(buckets) = self.memory.number(at.wrapping_add(offset), 8) {
                self.arrive(buckets, bucket, 1 << power, label);
            }
        }
    }

    /// The bucket that follows a full one, of which only its last word knows.
    fn overflow(&mut self, bucket: u64, value: &[u8]) {
        let last = (value.len() / 8).saturating_sub(1);
        self.arrive(word_of(value, last), bucket, 1, Label::One(bucket));
    }

    fn function(&mut self, at: u64) {
        let Some(object) = self.spans.find(at).filter(|object| object.from == at) else { return };
        let Some(code) = self.memory.number(at, 8) else { return };
        if self.mark_object(&object, Label::Closure(code)) && !object.is_plain {
            self.waiting.push(Waiting::Variables { from: at + 8, to: at + object.size });
        }
    }

    /// The type that an interface holds: its first word is one, or a table of methods that has one.
    fn dynamic(&mut self, first: u64, is_empty: bool) -> Option<(u64, Rc<GoType>)> {
        let at = if is_empty { first } else { self.of_table(first)? };
        self.types.of(at).map(|of| (at, of))
    }

    /// `abi.ITab`: the interface's type, and the type of what it holds.
    fn of_table(&mut self, table: u64) -> Option<u64> {
        if table == 0 || !table.is_multiple_of(8) {
            return None;
        }
        if let Some(known) = self.tables.get(&table) {
            return *known;
        }
        let is_interface = |of: u64| {
            self.types.of(of).is_some_and(|of| matches!(of.shape, Shape::Interface { .. }))
        };
        let program = self.types.program;
        let found = program
            .word(table)
            .filter(|of| is_interface(*of))
            .and_then(|_| program.word(table.wrapping_add(8)))
            .filter(|of| self.types.of(*of).is_some());
        self.tables.insert(table, found);
        found
    }

    fn interface(&mut self, (at, of): &(u64, Rc<GoType>), second: u64) {
        if self.types.is_pointer(of) {
            self.follow(of, *at, &second.to_le_bytes(), 0);
        } else {
            self.arrive(second, *at, 1, Label::One(*at));
        }
    }

    /// A pointer to so many values of this type.
    fn arrive(&mut self, at: u64, of: u64, count: u64, label: Label) {
        let Some(object) = self.spans.find(at) else { return };
        let Some(size) = self.types.of(of).map(|of| of.size) else { return };
        // What a slice or a map says of its room is no more than its object has.
        let count = count.min((object.from + object.size - at).checked_div(size).unwrap_or(0));
        if count == 0 {
            return;
        }
        let begins = at == object.from || (at == object.from + HEADER && self.spans.has_headers());
        let is_new = if begins {
            self.mark_object(&object, label)
        } else {
            self.inner.len() < MOST_INNER && self.inner.insert((at, of))
        };
        if is_new {
            self.waiting.push(Waiting::Values { at, of, count });
        }
    }

    /// Whether the object at this address was not known to be this before.
    fn mark(&mut self, at: u64, label: Label) -> bool {
        self.spans.find(at).is_some_and(|object| self.mark_object(&object, label))
    }

    /// The first word on what an object is holds, but for one that turns out to be the first of many.
    fn mark_object(&mut self, object: &Object, label: Label) -> bool {
        let number = self.number(label);
        let before = self.label(object);
        let Some(place) = self.place(object).and_then(|place| self.labels.get_mut(place)) else {
            return false;
        };
        let is_better = match (before, label) {
            (Label::Unknown { .. }, _) => true,
            (Label::One(one), Label::Many(many)) => one == many,
            _ => false,
        };
        if is_better {
            *place = number;
        }
        is_better
    }

    fn number(&mut self, label: Label) -> u32 {
        if let Some(number) = self.numbers.get(&label) {
            return *number;
        }
        self.all.push(label);
        let number = u32::try_from(self.all.len()).unwrap_or(0);
        self.numbers.insert(label, number);
        number
    }

    fn place(&self, object: &Object) -> Option<usize> {
        usize::try_from(object.number).ok().filter(|place| *place < self.labels.len())
    }
}

fn word_of(value: &[u8], index: usize) -> u64 {
    let bytes = value.get(index * 8..index * 8 + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_le_bytes).unwrap_or_default()
}

/// The parts of a map count as the map.
fn whole_map(name: &str) -> String {
    let own = name.strip_prefix("noalg.").unwrap_or(name);
    ["map.bucket[", "map.group[", "map.hdr["]
        .iter()
        .find_map(|part| own.strip_prefix(part))
        .map_or_else(|| name.to_owned(), |rest| format!("map[{rest}"))
}

#[cfg(test)]
mod tests {
    use super::super::gotypes::Program;
    use super::*;
    use proptest::prelude::*;

    const AT: u64 = 0x1_0000;
    const NAME: u64 = 8;

    #[test]
    fn parts_of_maps_are_the_map() {
        assert_eq!(whole_map("map.bucket[string]*main.order"), "map[string]*main.order");
        assert_eq!(whole_map("noalg.map.group[int]bool"), "map[int]bool");
        assert_eq!(whole_map("main.order"), "main.order");
    }

    /// A struct that says of its first field that it is the same struct.
    #[test]
    fn a_struct_that_is_in_itself_ends() {
        let mut words = vec![0_u64; 1024];
        words[1] = u64::from_le_bytes(*b"\0\x06main.T");
        let (own, fields) = (AT + 32 * 8, AT + 64 * 8);
        (words[32], words[33], words[37]) = (64, 64, NAME);
        words[34] = 25 << 56 | 0x0008_0804_0000_0000;
        (words[39], words[40]) = (fields, 1);
        words[65] = own;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let core = crate::core_memory::tests::core(AT, &bytes);
        let memory = Memory::of(&core).unwrap();
        let program = Program { core: &memory, file: None };
        let types = Types::for_tests(&program, AT..AT + 8192);
        assert_eq!(types.of(own).unwrap().shape, Shape::Struct(vec![(0, own)]));
        let spans = Spans::for_tests(AT, 8192, 64);
        let mut typed = Typed::new(&types, &spans, &memory);
        typed.waiting.push(Waiting::Values { at: AT, of: own, count: 1 });
        typed.follow_all();
    }

    /// An array that says of its element that it is the same array.
    #[test]
    fn an_array_that_is_in_itself_ends() {
        let mut words = vec![0_u64; 1024];
        words[1] = u64::from_le_bytes(*b"\0\x06main.T");
        let own = AT + 32 * 8;
        (words[32], words[33], words[37]) = (64, 64, NAME);
        words[34] = 17 << 56 | 0x0008_0804_0000_0000;
        (words[38], words[40]) = (own, 1);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let core = crate::core_memory::tests::core(AT, &bytes);
        let memory = Memory::of(&core).unwrap();
        let program = Program { core: &memory, file: None };
        let types = Types::for_tests(&program, AT..AT + 8192);
        assert_eq!(types.of(own).unwrap().shape, Shape::Array { of: own, count: 1 });
        let spans = Spans::for_tests(AT, 8192, 64);
        let mut typed = Typed::new(&types, &spans, &memory);
        typed.waiting.push(Waiting::Values { at: AT, of: own, count: 1 });
        typed.follow_all();
    }

    /// Words as a program could have them, most of them addresses in this memory.
    fn words() -> impl Strategy<Value = Vec<u64>> {
        let word = prop_oneof![
            4 => (0_u64..1024).prop_map(|index| AT + index * 8),
            4 => (0_u64..40).prop_map(|size| size * 8),
            1 => any::<u64>(),
            // Alignments, a name of its own, and each of the kinds; and where the name is.
            4 => (0_u64..27).prop_map(|kind| kind << 56 | 0x0008_0804_0000_0000),
            3 => Just(NAME),
        ];
        proptest::collection::vec(word, 1024)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What a program says of its types is no more to be trusted than the program.
        #[test]
        fn no_memory_makes_it_panic_or_go_round_in_circles(mut words in words()) {
            words[1] = u64::from_le_bytes(*b"\0\x06main.T");
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let core = crate::core_memory::tests::core(AT, &bytes);
            let memory = Memory::of(&core).unwrap();
            let program = Program { core: &memory, file: None };
            let types = Types::for_tests(&program, AT..AT + 8192);
            let spans = Spans::for_tests(AT, 8192, 48);
            let mut typed = Typed::new(&types, &spans, &memory);
            for at in types.all() {
                typed.waiting.push(Waiting::Values { at: AT, of: at, count: 3 });
                typed.follow_all();
            }
            typed.look_for_interfaces(AT, AT + 8192);
            for object in spans.objects() {
                typed.header(&object);
                let label = typed.label(&object);
                typed.name(label);
            }
        }
    }
}
