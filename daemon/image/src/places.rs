//! From what a person calls a place to the addresses that it has in the program: dlv's own way of
//! finding it, on a core with no memory in it, so that nothing is stopped for it.

use crate::delve::{Answerless, Delve, Start};
use crate::target::Target;
use crate::values::Location;
use godebug_api::Refusal;
use godebug_api::image::{Phrase, Place};
use serde::Deserialize;
use serde_json::json;

/// Where to stop at, in every copy of it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) addresses: Vec<u64>,
    pub(crate) places: Vec<Place>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Locations {
    #[serde(default)]
    locations: Option<Vec<Location>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Functions {
    #[serde(default)]
    funcs: Option<Vec<String>>,
}

/// More copies than this of one line are refused.
const MOST: usize = 64;
/// How many names are offered for one that is not there.
const SUGGESTED: usize = 4;
/// Code that also runs where no breakpoint may be: between fork and exec, where the child has the
/// program's memory, and in the runtime's own signal handling.
const GOS_INSIDE: [&str; 4] = ["runtime.", "runtime/", "syscall.", "internal/runtime/"];

/// # Errors
/// A usage refusal with names that are meant perhaps.
pub(crate) fn find(target: &Target, start: &Start<'_>, name: &Phrase) -> Result<Found, Refusal> {
    find_with(&mut start.on(&target.executable, &target.thin_core()?)?, name)
}

/// The same by a dlv that is there.
pub(crate) fn find_with(dlv: &mut Delve, name: &Phrase) -> Result<Found, Refusal> {
    let found = match locations(dlv, name.as_str()) {
        Ok(found) => found,
        Err(Answerless::Refused(why)) => return Err(not_found(dlv, name, &why)),
        Err(broken) => return Err(broken.into()),
    };
    let found = usable(name, &found)?;
    // Other ways to name a place give the beginnings of statements; an address can be any.
    if name.as_str().starts_with('*') {
        found.places.iter().try_for_each(|place| begins(dlv, place, &found.addresses))?;
    }
    Ok(found)
}

/// The function that an address is in.
pub(crate) fn function_at(dlv: &mut Delve, address: u64) -> Option<String> {
    let found = locations(dlv, &format!("*{address:#x}")).ok()?;
    found.into_iter().find_map(|location| Some(location.function?.name))
}

fn locations(dlv: &mut Delve, name: &str) -> Result<Vec<Location>, Answerless> {
    let question = json!({
        "Scope": { "GoroutineID": -1, "Frame": 0 },
        "Loc": name,
        "IncludeNonExecutableLines": false,
    });
    let found: Locations = dlv.ask("RPCServer.FindLocation", &question)?;
    Ok(found.locations.unwrap_or_default())
}

/// A breakpoint in the middle of an instruction would change what the program does.
fn begins(dlv: &mut Delve, place: &Place, addresses: &[u64]) -> Result<(), Refusal> {
    let line = format!("{}:{}", place.file, place.line);
    let known: Vec<u64> =
        locations(dlv, &line).unwrap_or_default().iter().flat_map(Location::counters).collect();
    if addresses.iter().all(|address| known.contains(address)) {
        return Ok(());
    }
    Err(Refusal::usage(
        format!("an image can be taken where a statement begins, not within {line}"),
        format!("name the line: {line}"),
    ))
}

fn usable(name: &Phrase, found: &[Location]) -> Result<Found, Refusal> {
    let mut addresses: Vec<u64> = found.iter().flat_map(Location::counters).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let mut places: Vec<Place> = found.iter().map(Location::place).collect();
    places.sort();
    places.dedup();
    if addresses.is_empty() {
        return Err(Refusal::usage(
            format!("{name} is no place in the program that is executed"),
            "name a line with a statement, or a function",
        ));
    }
    if addresses.len() > MOST {
        return Err(Refusal::usage(
            format!("{name} stands at {} places of the program", addresses.len()),
            "name a single line or function",
        ));
    }
    let inside =
        places.iter().find(|place| GOS_INSIDE.iter().any(|it| place.function.starts_with(it)));
    if let Some(place) = inside {
        return Err(Refusal::usage(
            format!("{} belongs to Go's runtime, where no breakpoint may stand", place.function),
            "choose a line of the program or of another package",
        ));
    }
    Ok(Found { addresses, places })
}

/// dlv's own word, with names that are like the one that is not there.
fn not_found(dlv: &mut Delve, name: &Phrase, why: &str) -> Refusal {
    let why = why.trim_start_matches("command failed: ");
    let similar = similar(dlv, name.as_str());
    let remedy = if similar.is_empty() {
        "name a place as file.go:123, package.Function or package.(*Type).Method".to_owned()
    } else {
        format!("did you mean {}?", similar.join(", "))
    };
    Refusal::usage(format!("{name} is not found in the program: {why}"), remedy)
}

fn similar(dlv: &mut Delve, name: &str) -> Vec<String> {
    if let Some((file, line)) = name.rsplit_once(':') {
        let names = |sources: Sources| sources.sources.unwrap_or_default();
        let sources = dlv.ask("RPCServer.ListSources", json!({ "Filter": "" })).map(names);
        let last = file.rsplit('/').next().unwrap_or(file);
        return closest(last, sources.unwrap_or_default(), |path| {
            path.rsplit('/').next().unwrap_or(path)
        })
        .into_iter()
        .map(|path| format!("{path}:{line}"))
        .collect();
    }
    let names = |functions: Functions| functions.funcs.unwrap_or_default();
    let functions = dlv.ask("RPCServer.ListFunctions", json!({ "Filter": "" })).map(names);
    closest(last_part(name), functions.unwrap_or_default(), last_part)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sources {
    #[serde(default)]
    sources: Option<Vec<String>>,
}

/// `Method` of `package.(*Type).Method`.
fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// The names that are nearest by their last part, those of the program itself first.
fn closest(wanted: &str, names: Vec<String>, part: fn(&str) -> &str) -> Vec<String> {
    let wanted = wanted.to_lowercase();
    let mut near: Vec<(usize, bool, String)> = names
        .into_iter()
        .filter_map(|name| {
            let distance = distance(&wanted, &part(&name).to_lowercase());
            let close = distance <= wanted.chars().count().div_ceil(3).min(4);
            close.then(|| (distance, !name.starts_with("main."), name))
        })
        .collect();
    near.sort();
    near.into_iter().take(SUGGESTED).map(|(_, _, name)| name).collect()
}

/// How many letters have to be changed, added, left out or swapped with the next (Damerau's, optimal string
/// alignment): swapping two is one slip of the fingers.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.chars().take(64).collect::<Vec<char>>();
    let (a, b) = (letters(a), letters(b));
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let changed = last[j] + usize::from(from != to);
            let least = changed.min(row[j] + 1).min(last[j + 1] + 1);
            let is_swapped = i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to;
            row.push(if is_swapped { least.min(before[j - 1] + 1) } else { least });
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_finds_the_name() {
        let names = ["main.priceOf", "main.finish", "fmt.Fprintln", "sort.priceOff"];
        let names = names.map(str::to_owned).to_vec();
        let found = closest("priceof", names.clone(), last_part);
        assert_eq!(found, ["main.priceOf", "sort.priceOff"]);
        assert_eq!(closest("nothinglikeit", names, last_part), Vec::<String>::new());
        assert_eq!((distance("kitten", "sitting"), distance("mian.go", "main.go")), (3, 1));
        assert_eq!((distance("", "ab"), distance("ab", ""), distance("ba", "ab")), (2, 2, 1));
    }

    fn location(function: &str, pcs: &[u64]) -> Location {
        let function = json!({ "name": function });
        serde_json::from_value(
            json!({ "pc": pcs[0], "file": "/a.go", "line": 1, "pcs": pcs, "function": function }),
        )
        .unwrap()
    }

    #[test]
    fn all_copies_are_armed_and_none_twice() {
        let name: Phrase = "a.go:1".parse().unwrap();
        let found = usable(&name, &[location("main.f", &[2, 1, 2]), location("main.g", &[1])]);
        assert_eq!(found.unwrap().addresses, [1, 2]);
        for inside in ["runtime.gopark", "syscall.forkAndExecInChild1"] {
            let refusal = usable(&name, &[location(inside, &[1])]).unwrap_err();
            assert!(refusal.message.contains("runtime"), "{refusal}");
        }
        assert!(usable(&name, &[]).is_err());
    }
}
