//! What fills a program's memory, from one image: its objects by size, and which variables and goroutines
//! hold them.
//!
//! Whatever looks like an address of an object holds it, as for a conservative garbage collector: no type has
//! to be known for that, and a number that happens to look like one makes the answer a little too large. An
//! object is counted for the first that reaches it: the program's own variables first, then goroutines,
//! then the variables of Go's own packages.

mod spans;

use crate::core_memory::Memory;
use crate::delve::Delve;
use crate::goroutines;
use crate::layout::Layout;
use crate::routines::Routines;
use crate::target::Image;
use godebug_api::image::{Heap, Holder, ObjectSize};
use godebug_api::{Refusal, UnitName};
use serde::Deserialize;
use serde_json::json;
use spans::{Object, Spans};
use std::collections::{BTreeMap, HashMap};

/// The sizes that are named.
const SIZES: usize = 12;

/// # Errors
/// When the runtime's own lists are not found.
pub(crate) fn summary(
    dlv: &mut Delve,
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
    let mut reach = Reach::new(&spans, &memory);
    let mut holders = Vec::new();
    let (own, gos) = variables(dlv);
    holders.extend(own.iter().filter_map(|variable| reach.variable(variable)));
    holders.extend(reach.goroutines(dlv));
    holders.extend(gos.iter().filter_map(|variable| reach.variable(variable)));
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
fn variables(dlv: &mut Delve) -> (Vec<Variable>, Vec<Variable>) {
    let module = Layout::of(dlv, "runtime.firstmoduledata");
    let areas: Vec<(u64, u64)> = module
        .iter()
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

/// What has been reached so far.
struct Reach<'a> {
    spans: &'a Spans,
    memory: &'a Memory<'a>,
    /// A bit for each object.
    seen: Vec<u64>,
    waiting: Vec<Object>,
}

impl<'a> Reach<'a> {
    fn new(spans: &'a Spans, memory: &'a Memory<'a>) -> Self {
        let words = usize::try_from(spans.places().div_ceil(64)).unwrap_or(0);
        Self { spans, memory, seen: vec![0; words], waiting: Vec::new() }
    }

    fn variable(&mut self, variable: &Variable) -> Option<Holder> {
        let (bytes, objects) = self.from(variable.from, variable.to);
        (objects > 0).then(|| Holder {
            name: variable.name.clone(),
            kind: variable.kind.clone(),
            bytes,
            objects,
            goroutines: 0,
        })
    }

    /// The goroutines, together with those that began in the same function.
    fn goroutines(&mut self, dlv: &mut Delve) -> Vec<Holder> {
        let begun: HashMap<i64, String> = goroutines::list(dlv)
            .unwrap_or_default()
            .iter()
            .map(|goroutine| (goroutine.id, goroutine.begun_in()))
            .collect();
        let mut holders: BTreeMap<String, Holder> = BTreeMap::new();
        for routine in Routines::read(dlv, self.memory).live() {
            let id = routine.id;
            let (from, high) = routine.stack();
            let (bytes, objects) = self.from(from, high);
            let name = begun.get(&id).cloned();
            let name = name.unwrap_or_else(|| "of Go's runtime".to_owned());
            let holder = holders.entry(name.clone()).or_insert(Holder {
                name,
                kind: String::new(),
                bytes: 0,
                objects: 0,
                goroutines: 0,
            });
            holder.bytes += bytes;
            holder.objects += objects;
            holder.goroutines += 1;
        }
        holders.into_values().filter(|holder| holder.objects > 0).collect()
    }

    /// What is reached from this stretch of memory and from nothing before.
    fn from(&mut self, from: u64, to: u64) -> (u64, u64) {
        let (mut bytes, mut objects) = (0, 0);
        self.look(from, to);
        while let Some(object) = self.waiting.pop() {
            bytes += object.size;
            objects += 1;
            if !object.is_plain {
                self.look(object.from, object.from + object.size);
            }
        }
        (bytes, objects)
    }

    fn look(&mut self, from: u64, to: u64) {
        let Self { spans, memory, seen, waiting } = self;
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
