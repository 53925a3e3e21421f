//! What fills a program's memory, from one image: its objects by type and size, and which variables and
//! goroutines hold them.
//!
//! Whatever looks like an address of an object holds it, as for a conservative garbage collector: no type has
//! to be known for that, and a number that happens to look like one makes the answer a little too large. An
//! object is counted for the first that reaches it: the program's own variables first, then goroutines,
//! then the variables of Go's own packages.

mod gotypes;
mod spans;
mod typed;

use crate::core_memory::Memory;
use crate::delve::Delve;
use crate::goroutines;
use crate::layout::Layout;
use crate::places;
use crate::routines::Routines;
use crate::target::{Image, Target};
use godebug_api::image::{Heap, Holder, ObjectSize, TypeUse};
use godebug_api::{Refusal, UnitName};
use gotypes::{Program, Types};
use serde::Deserialize;
use serde_json::json;
use spans::{Object, Spans};
use std::collections::{BTreeMap, HashMap};
use typed::{Label, Typed};

/// The sizes that are named.
const SIZES: usize = 12;
/// Of each object a few bytes are kept, whether it is there or not; types of more than so many are not told.
const MOST_TYPED: u64 = 100_000_000;
/// dlv is asked for the names of functions among so many labels, since each takes it a moment.
const MOST_ASKED: usize = 500;

/// # Errors
/// When the runtime's own lists are not found.
pub(crate) fn summary(
    dlv: &mut Delve,
    target: &Target,
    image: &Image,
    unit: &UnitName,
    top: usize,
) -> Result<Heap, Refusal> {
    let memory = Memory::of(&image.core)
        .map_err(|error| Refusal::failed(format!("the image cannot be read: {error}"), ""))?;
    let spans = Spans::read(dlv, &memory)?;
    let sizes = spans.sizes();
    let in_use: u64 = sizes.iter().map(|(_, bytes, _)| bytes).sum();
    let objects: u64 = sizes.iter().map(|(_, _, objects)| objects).sum();
    let module = Layout::of(dlv, "runtime.firstmoduledata").ok();
    let (own, gos) = variables(dlv, module.as_ref());
    let routines = Routines::read(dlv, &memory);
    let mut reach = Reach::new(&spans, &memory);
    own.iter().for_each(|variable| reach.variable(variable));
    reach.goroutines(dlv, &routines);
    gos.iter().for_each(|variable| reach.variable(variable));
    let program = Program { core: &memory, file: target.program_file() };
    let types = match module.and_then(|module| Types::read(&program, &module)) {
        Some(types) if reach.keeps_holders() => {
            let mut typed = Typed::new(&types, &spans, &memory);
            tell_types(&mut typed, &reach, own.iter().chain(&gos), &routines);
            uses(dlv, &typed, &reach, top)
        }
        _ => Uses::default(),
    };
    let mut holders: Vec<Holder> =
        reach.holders.into_iter().filter(|holder| holder.objects > 0).collect();
    holders.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.name.cmp(&b.name)));
    let held: u64 = holders.iter().map(|holder| holder.bytes).sum();
    let held_objects: u64 = holders.iter().map(|holder| holder.objects).sum();
    let left_out = holders.len().saturating_sub(top);
    holders.truncate(top);
    Ok(Heap {
        time: image.time.clone(),
        unit: unit.clone(),
        pause_ms: crate::milliseconds(image.pause),
        in_use_bytes: in_use,
        objects,
        stack_bytes: spans.stacks,
        unheld_bytes: in_use.saturating_sub(held),
        unheld_objects: objects.saturating_sub(held_objects),
        holders,
        left_out,
        types: types.named,
        untyped_bytes: types.unknown_bytes,
        untyped_objects: types.unknown_objects,
        sizes: sizes
            .into_iter()
            .take(SIZES)
            .map(|(size, bytes, objects)| ObjectSize { size, bytes, objects })
            .collect(),
    })
}

/// A package's variable, and where the next one begins.
struct Variable {
    name: String,
    kind: String,
    from: u64,
    to: u64,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Variables")]
    variables: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    addr: u64,
}

/// The variables of the program's own packages, and of Go's: all that may have pointers.
fn variables(dlv: &mut Delve, module: Option<&Layout>) -> (Vec<Variable>, Vec<Variable>) {
    let areas: Vec<(u64, u64)> = module
        .into_iter()
        .flat_map(|module| {
            [("data", "edata"), ("bss", "ebss")]
                .map(|(from, to)| Some((module.number(from)?, module.number(to)?)))
        })
        .flatten()
        .collect();
    let none = json!({
        "FollowPointers": false, "MaxVariableRecurse": 0, "MaxStringLen": 0, "MaxArrayValues": 0,
        "MaxStructFields": 0,
    });
    let listed: Result<Listed, _> =
        dlv.ask("RPCServer.ListPackageVars", json!({ "Filter": "", "Cfg": none }));
    let mut named = listed.ok().and_then(|listed| listed.variables).unwrap_or_default();
    named.retain(|variable| variable.addr != 0);
    named.sort_by_key(|variable| variable.addr);
    let mut all = Vec::new();
    for (from, to) in areas {
        let mut here: Vec<&Named> =
            named.iter().filter(|it| (from..to).contains(&it.addr)).collect();
        here.dedup_by_key(|variable| variable.addr);
        // What comes before the first has no name; what a program without such a list has, neither.
        let first = here.first().map_or(to, |variable| variable.addr);
        all.push(Variable {
            name: "unnamed data".to_owned(),
            kind: String::new(),
            from,
            to: first,
        });
        for (index, variable) in here.iter().enumerate() {
            let to = here.get(index + 1).map_or(to, |next| next.addr);
            let (name, kind) = (variable.name.clone(), variable.kind.clone());
            all.push(Variable { name, kind, from: variable.addr, to });
        }
    }
    all.into_iter().partition(|variable| is_own(&variable.name))
}

/// Paths of the standard library have no dot in their first part (cmd/go, `IsStandardImportPath`).
fn is_own(name: &str) -> bool {
    let first = name.split('/').next().unwrap_or_default();
    name.starts_with("main.") || (name.contains('/') && first.contains('.'))
}

/// What has been reached so far, and from where.
struct Reach<'a> {
    spans: &'a Spans,
    memory: &'a Memory<'a>,
    /// A bit for each object.
    seen: Vec<u64>,
    waiting: Vec<Object>,
    holders: Vec<Holder>,
    /// Of each object the number of its holder, if there are not too many.
    held_by: Vec<u32>,
}

impl<'a> Reach<'a> {
    fn new(spans: &'a Spans, memory: &'a Memory<'a>) -> Self {
        let words = usize::try_from(spans.places().div_ceil(64)).unwrap_or(0);
        let places = if spans.places() <= MOST_TYPED { spans.places() } else { 0 };
        Self {
            spans,
            memory,
            seen: vec![0; words],
            waiting: Vec::new(),
            holders: Vec::new(),
            held_by: vec![0; usize::try_from(places).unwrap_or(0)],
        }
    }

    fn keeps_holders(&self) -> bool {
        !self.held_by.is_empty()
    }

    fn variable(&mut self, variable: &Variable) {
        let (name, kind) = (variable.name.clone(), variable.kind.clone());
        let holder = self.holder(Holder { name, kind, bytes: 0, objects: 0, goroutines: 0 });
        self.from(variable.from, variable.to, holder);
    }

    /// The goroutines, together with those that began in the same function.
    fn goroutines(&mut self, dlv: &mut Delve, routines: &Routines) {
        let begun: HashMap<i64, String> = goroutines::list(dlv)
            .unwrap_or_default()
            .iter()
            .map(|goroutine| (goroutine.id, goroutine.begun_in()))
            .collect();
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for routine in routines.live() {
            let name = begun.get(&routine.id).cloned();
            let name = name.unwrap_or_else(|| "of Go's runtime".to_owned());
            let holder = *numbers.entry(name.clone()).or_insert_with(|| {
                let kind = String::new();
                self.holder(Holder { name, kind, bytes: 0, objects: 0, goroutines: 0 })
            });
            let (from, high) = routine.stack();
            self.from(from, high, holder);
            self.holders[holder].goroutines += 1;
        }
    }

    fn holder(&mut self, holder: Holder) -> usize {
        self.holders.push(holder);
        self.holders.len() - 1
    }

    /// What is reached from this stretch of memory and from nothing before.
    fn from(&mut self, from: u64, to: u64, holder: usize) {
        self.look(from, to);
        while let Some(object) = self.waiting.pop() {
            let of = &mut self.holders[holder];
            of.bytes += object.size;
            of.objects += 1;
            let place = usize::try_from(object.number).ok();
            if let Some(held_by) = place.and_then(|place| self.held_by.get_mut(place)) {
                *held_by = u32::try_from(holder).unwrap_or(u32::MAX);
            }
            if !object.is_plain {
                self.look(object.from, object.from + object.size);
            }
        }
    }

    fn look(&mut self, from: u64, to: u64) {
        let Self { spans, memory, seen, waiting, .. } = self;
        memory.words(from, to, |word| {
            let Some(object) = spans.find(word) else { return };
            let Ok(index) = usize::try_from(object.number / 64) else { return };
            let bit = 1_u64 << (object.number % 64);
            if let Some(bits) = seen.get_mut(index)
                && *bits & bit == 0
            {
                *bits |= bit;
                waiting.push(object);
            }
        });
    }

    /// All that somebody holds, each with its holder.
    fn reached(&self) -> impl Iterator<Item = (Object, usize)> {
        self.spans.objects().filter_map(|object| {
            let word = *self.seen.get(usize::try_from(object.number / 64).ok()?)?;
            let holder = *self.held_by.get(usize::try_from(object.number).ok()?)?;
            (word >> (object.number % 64) & 1 == 1)
                .then_some((object, usize::try_from(holder).ok()?))
        })
    }
}

/// Those who know most come first, since the first word on an object holds: variables, then objects that
/// have their type with them, then whatever an interface is found in.
fn tell_types<'v>(
    typed: &mut Typed<'_>,
    reach: &Reach<'_>,
    variables: impl Iterator<Item = &'v Variable>,
    routines: &Routines,
) {
    let mut untyped = Vec::new();
    for variable in variables {
        if !typed.variable(variable.from, &variable.kind) {
            untyped.push((variable.from, variable.to));
        }
    }
    for (object, _) in reach.reached().filter(|(object, _)| !object.is_plain) {
        typed.header(&object);
    }
    let stacks = routines.live().map(|routine| routine.stack());
    for (from, to) in untyped.into_iter().chain(stacks) {
        typed.look_for_interfaces(from, to);
    }
    for (object, _) in reach.reached().filter(|(object, _)| !object.is_plain) {
        if !typed.is_known(&object) {
            typed.look_for_interfaces(object.from, object.from + object.size);
        }
    }
}

#[derive(Default)]
struct Uses {
    named: Vec<TypeUse>,
    unknown_bytes: u64,
    unknown_objects: u64,
}

/// Of each type: how much there is, and who holds most of it.
fn uses(dlv: &mut Delve, typed: &Typed<'_>, reach: &Reach<'_>, top: usize) -> Uses {
    let mut by_label: HashMap<Label, HashMap<usize, (u64, u64)>> = HashMap::new();
    for (object, holder) in reach.reached() {
        let of = by_label.entry(typed.label(&object)).or_default().entry(holder).or_default();
        *of = (of.0 + object.size, of.1 + 1);
    }
    let mut uses = Uses::default();
    let mut by_name: HashMap<String, HashMap<usize, (u64, u64)>> = HashMap::new();
    let size = |holders: &HashMap<usize, (u64, u64)>| holders.values().map(|of| of.0).sum::<u64>();
    let mut by_label: Vec<_> = by_label.into_iter().collect();
    by_label.sort_by_key(|(_, holders)| std::cmp::Reverse(size(holders)));
    for (rank, (label, holders)) in by_label.into_iter().enumerate() {
        let name = match label {
            Label::Closure(code) if rank < MOST_ASKED => places::function_at(dlv, code),
            _ => None,
        };
        let name = name.map_or_else(|| typed.name(label), |name| format!("variables of {name}"));
        if matches!(label, Label::Unknown { .. }) {
            uses.unknown_bytes += size(&holders);
            uses.unknown_objects += holders.values().map(|(_, objects)| objects).sum::<u64>();
        }
        let all = by_name.entry(name).or_default();
        for (holder, (bytes, objects)) in holders {
            let of = all.entry(holder).or_default();
            *of = (of.0 + bytes, of.1 + objects);
        }
    }
    uses.named = by_name.into_iter().map(|(name, holders)| use_of(name, &holders, reach)).collect();
    uses.named.sort_by(|a, b| b.bytes.cmp(&a.bytes).then(a.kind.cmp(&b.kind)));
    uses.named.truncate(top);
    uses
}

fn use_of(kind: String, holders: &HashMap<usize, (u64, u64)>, reach: &Reach<'_>) -> TypeUse {
    let most =
        holders.iter().max_by_key(|(holder, (bytes, _))| (*bytes, std::cmp::Reverse(**holder)));
    let holder = most.and_then(|(holder, _)| reach.holders.get(*holder));
    TypeUse {
        kind,
        bytes: holders.values().map(|(bytes, _)| bytes).sum(),
        objects: holders.values().map(|(_, objects)| objects).sum(),
        held_by: holder.map(|holder| holder.name.clone()).unwrap_or_default(),
        goroutines: holder.map_or(0, |holder| holder.goroutines),
        held_bytes: most.map_or(0, |(_, (bytes, _))| *bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_variables_are_told_from_gos() {
        assert!(is_own("main.cache") && is_own("github.com/a/b.All"));
        assert!(!is_own("net/http.DefaultClient") && !is_own("runtime.allgs"));
    }
}
