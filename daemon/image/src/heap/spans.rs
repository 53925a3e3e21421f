//! Go's heap as its runtime keeps it: spans of objects of one size (runtime/mheap.go, `mspan`). Where the
//! fields are, dlv tells from the program's debug information, so no version of Go is written down here.

use crate::core_memory::Memory;
use crate::delve::{Answerless, Delve};
use crate::layout::Layout;
use godebug_api::Refusal;

/// Of a page of the heap (runtime/internal/sys, `PageShift`).
const PAGE: u64 = 8192;
/// `mSpanInUse` and `mSpanManual`.
const IN_USE: u64 = 1;
const MANUAL: u64 = 2;
/// Programs have millions; more than this is no list of spans.
const MOST: u64 = 5_000_000;

/// A bit is kept for each.
const MOST_OBJECTS: u64 = 4_000_000_000;

/// Objects of one size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    from: u64,
    to: u64,
    pub(super) size: u64,
    objects: u64,
    allocated: u64,
    /// No pointers in them.
    pub(super) is_plain: bool,
    /// Of its one object, where Go keeps it; else 0.
    large_type: u64,
    /// The number of its first object among those of all spans.
    first: u64,
}

pub(super) struct Spans {
    /// By address.
    all: Vec<Span>,
    objects: u64,
    /// Whether large objects begin with their type (Go 1.22).
    has_headers: bool,
    /// Bytes of spans that hold stacks.
    pub(super) stacks: u64,
}

/// One object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) number: u64,
    pub(super) from: u64,
    pub(super) size: u64,
    pub(super) is_plain: bool,
}

impl Spans {
    /// # Errors
    /// When the runtime's lists are not where they should be.
    pub(super) fn read(dlv: &mut Delve, memory: &Memory<'_>) -> Result<Self, Refusal> {
        let list = Layout::of(dlv, "runtime.mheap_.allspans").map_err(no_heap)?;
        let span = Layout::of(dlv, "*runtime.mheap_.allspans[0]").map_err(no_heap)?;
        let field = |name: &str| span.field(name).ok_or_else(|| unknown(name));
        let fields = [
            field("startAddr")?,
            field("npages")?,
            field("nelems")?,
            field("elemsize")?,
            field("allocCount")?,
            field("spanclass")?,
            field("state")?,
        ];
        let large_type = span.field("largeType");
        let mut spans =
            Self { all: Vec::new(), objects: 0, has_headers: large_type.is_some(), stacks: 0 };
        for index in 0..list.length.min(MOST) {
            let Some(at) = memory.number(list.base + index * 8, 8) else { continue };
            let value = |which: usize| {
                let (offset, bytes) = fields[which];
                memory.number(at + offset, bytes)
            };
            let values: Option<Vec<u64>> = (0..fields.len()).map(value).collect();
            if let Some(values) = values {
                let large =
                    large_type.and_then(|(offset, bytes)| memory.number(at + offset, bytes));
                spans.add(&values, large.unwrap_or(0));
            }
        }
        spans.all.sort_unstable_by_key(|span| span.from);
        for span in &mut spans.all {
            span.first = spans.objects;
            spans.objects = spans.objects.saturating_add(span.objects);
        }
        if spans.objects > MOST_OBJECTS {
            return Err(Refusal::target(
                format!("the heap has room for {} objects, too many to go through", spans.objects),
                "use `godebugctl snapshot` with expressions, or a heap profile of the program's own",
            ));
        }
        Ok(spans)
    }

    /// One span of objects of this size.
    #[cfg(test)]
    pub(super) fn for_tests(from: u64, bytes: u64, size: u64) -> Self {
        let mut spans = Self { all: Vec::new(), objects: 0, has_headers: true, stacks: 0 };
        spans.add(&[from, bytes / PAGE, bytes / size, size, bytes / size, 2, IN_USE], from);
        spans.objects = bytes / size;
        spans
    }

    fn add(&mut self, values: &[u64], large_type: u64) {
        let &[from, pages, objects, size, allocated, class, state] = values else { return };
        let Some((bytes, to)) =
            pages.checked_mul(PAGE).and_then(|bytes| Some((bytes, from.checked_add(bytes)?)))
        else {
            return;
        };
        match state & 0xff {
            IN_USE if size > 0 && objects.saturating_mul(size) <= bytes => self.all.push(Span {
                from,
                to,
                size,
                objects,
                allocated: allocated.min(objects),
                is_plain: class & 1 == 1,
                large_type: if objects == 1 { large_type } else { 0 },
                first: 0,
            }),
            MANUAL => self.stacks += bytes,
            _ => {}
        }
    }

    /// How many objects there could be.
    pub(super) fn places(&self) -> u64 {
        self.objects
    }

    /// The object that an address lies in.
    pub(super) fn find(&self, address: u64) -> Option<Object> {
        let index = self.all.partition_point(|span| span.from <= address);
        let span = self.all.get(index.checked_sub(1)?).filter(|span| address < span.to)?;
        let index = (address - span.from) / span.size;
        (index < span.objects).then(|| Object {
            number: span.first + index,
            from: span.from + index * span.size,
            size: span.size,
            is_plain: span.is_plain,
        })
    }

    /// The type that an object of many pages has been made for.
    pub(super) fn large_type(&self, object: &Object) -> Option<u64> {
        let index = self.all.partition_point(|span| span.from <= object.from);
        let span = self.all.get(index.checked_sub(1)?)?;
        (span.large_type > 0).then_some(span.large_type)
    }

    pub(super) fn has_headers(&self) -> bool {
        self.has_headers
    }

    /// All of them, free ones too, in the order of their numbers.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object> {
        self.all.iter().flat_map(|span| {
            (0..span.objects).map(|index| Object {
                number: span.first + index,
                from: span.from + index * span.size,
                size: span.size,
                is_plain: span.is_plain,
            })
        })
    }

    /// Of each size: bytes and objects that are allocated, those that take most first.
    pub(super) fn sizes(&self) -> Vec<(u64, u64, u64)> {
        let mut by_size = std::collections::BTreeMap::new();
        for span in self.all.iter().filter(|span| span.allocated > 0) {
            let (bytes, objects) = by_size.entry(span.size).or_insert((0, 0));
            *bytes += span.allocated * span.size;
            *objects += span.allocated;
        }
        let mut sizes: Vec<_> =
            by_size.into_iter().map(|(size, (bytes, objects))| (size, bytes, objects)).collect();
        sizes.sort_by_key(|(size, bytes, _)| (std::cmp::Reverse(*bytes), *size));
        sizes
    }
}

fn no_heap(why: Answerless) -> Refusal {
    let why = match why {
        Answerless::Refused(why) | Answerless::Broken(why) => why,
    };
    Refusal::target(
        format!("the heap of this program cannot be found: {why}"),
        "is the debug information of Go's runtime in it? `godebugctl inspect UNIT` tells",
    )
}

fn unknown(name: &str) -> Refusal {
    Refusal::target(
        format!("this version of Go keeps its heap in another way (no {name} in mspan)"),
        "use `godebugctl snapshot` with expressions, or a heap profile of the program's own",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_within_an_object_finds_it_and_no_other() {
        let mut spans = Spans { all: Vec::new(), objects: 0, has_headers: false, stacks: 0 };
        spans.add(&[0x4000, 1, 100, 80, 60, 9, 1], 0);
        spans.add(&[0x8000, 2, 1, 16384, 1, 2, 1], 0);
        spans.add(&[0xc000, 4, 0, 0, 0, 0, 2], 0);
        spans.all[1].first = 100;
        let object = spans.find(0x4000 + 81).unwrap();
        assert_eq!((object.number, object.from, object.is_plain), (1, 0x4000 + 80, true));
        assert_eq!(spans.find(0x8000 + 9000).unwrap().number, 100);
        // The tail of a span holds no object.
        assert_eq!(spans.find(0x4000 + 8001), None);
        assert_eq!((spans.find(0x3fff), spans.find(0xc001)), (None, None));
        assert_eq!(spans.sizes(), [(16384, 16384, 1), (80, 4800, 60)]);
        assert_eq!(spans.stacks, 4 * PAGE);
    }
}
