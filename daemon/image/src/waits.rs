//! Who holds others up: the locks and channels of an image at which goroutines wait, and who has them, as far as
//! the memory tells.
//!
//! The runtime keeps those that wait at a lock in a table of trees (runtime/sema.go, `semTable`), and those
//! at a channel in a list of each goroutine. It does not keep who has a lock. Whoever has its address on
//! the stack and does not wait there probably does: a deferred unlock is kept so.

use crate::core_memory::Memory;
use crate::delve::Delve;
use crate::layout::Layout;
use crate::routines::{Routine, Routines};
use godebug_api::image::{Wait, WaitKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// More places than this are not named, and of each no more goroutines.
const MOST_PLACES: usize = 50;
const NAMED: usize = 10;
/// A tree that is larger is none, but a circle in memory that was being changed.
const MOST_SUDOGS: usize = 1_000_000;
/// As far before its semaphore a lock can begin (sync.RWMutex: a Mutex and another semaphore).
const LOCK_BEFORE: u64 = 12;
/// What is said of more is no hint any more.
const MOST_HOLDERS: usize = 3;

/// The places at which goroutines wait, those where most do first, and circles among them.
pub(crate) fn find(dlv: &mut Delve, memory: &Memory<'_>) -> (Vec<Wait>, Vec<Vec<i64>>) {
    let routines = Routines::read(dlv, memory);
    let ids: HashMap<u64, i64> = routines.live().map(|routine| (routine.at, routine.id)).collect();
    let Some(table) = Table::of(dlv) else { return (Vec::new(), Vec::new()) };
    let locks = table.locks(memory, &ids);
    let mut holders = holders(&locks, &routines, memory);
    let circles = circles(&locks, &holders);
    prefer_circles(&mut holders, &locks, &circles);
    let lock = |(at, waiting): (&u64, &BTreeSet<i64>)| Wait {
        kind: WaitKind::Lock,
        address: *at,
        count: waiting.len(),
        goroutines: waiting.iter().copied().take(NAMED).collect(),
        held_by: holders.get(at).cloned().unwrap_or_default(),
    };
    let channel = |(at, waiting): (u64, BTreeSet<i64>)| Wait {
        kind: WaitKind::Channel,
        address: at,
        count: waiting.len(),
        goroutines: waiting.into_iter().take(NAMED).collect(),
        held_by: Vec::new(),
    };
    // One goroutine at a channel of its own is what most goroutines are, and tells nobody anything.
    let channels = table.channels(memory, &routines).into_iter().filter(|(_, all)| all.len() > 1);
    let mut waits: Vec<Wait> = locks.iter().map(lock).chain(channels.map(channel)).collect();
    waits.sort_by(|a, b| (a.kind, b.count, a.address).cmp(&(b.kind, a.count, b.address)));
    waits.truncate(MOST_PLACES);
    (waits, circles)
}

/// Where the runtime keeps those that wait.
struct Table {
    first: u64,
    stride: u64,
    length: u64,
    /// Of the tree in an entry.
    treap: u64,
    sudog: Sudog,
}

/// How far into a `sudog` its fields are.
struct Sudog {
    g: u64,
    next: u64,
    prev: u64,
    elem: u64,
    waitlink: u64,
    channel: u64,
}

impl Table {
    fn of(dlv: &mut Delve) -> Option<Self> {
        let whole = Layout::of(dlv, "runtime.semtable").ok()?;
        let first = Layout::of(dlv, "runtime.semtable[0]").ok()?;
        let second = Layout::of(dlv, "runtime.semtable[1]").ok()?;
        // Where it lies does not matter: only how far apart its fields are.
        let place = format!("*(*runtime.sudog)({:#x})", first.address);
        let sudog = Layout::of(dlv, &place).ok()?;
        let field = |name: &str| sudog.field(name).map(|(offset, _)| offset);
        Some(Self {
            first: first.address,
            stride: second.address.checked_sub(first.address)?,
            length: whole.length.min(10_000),
            treap: first.field("root.treap")?.0,
            sudog: Sudog {
                g: field("g")?,
                next: field("next")?,
                prev: field("prev")?,
                elem: field("elem")?,
                waitlink: field("waitlink")?,
                channel: field("c")?,
            },
        })
    }

    /// The semaphores of locks, with the goroutines that wait at each.
    fn locks(&self, memory: &Memory<'_>, ids: &HashMap<u64, i64>) -> BTreeMap<u64, BTreeSet<i64>> {
        let mut locks: BTreeMap<u64, BTreeSet<i64>> = BTreeMap::new();
        let word = |at: u64, offset: u64| memory.number(at.checked_add(offset)?, 8);
        let mut seen = BTreeSet::new();
        for index in 0..self.length {
            let mut waiting: Vec<u64> =
                word(self.first + index * self.stride, self.treap).into_iter().collect();
            while let Some(at) = waiting.pop() {
                if at == 0 || seen.len() >= MOST_SUDOGS || !seen.insert(at) {
                    continue;
                }
                let Sudog { g, next, prev, elem, waitlink, .. } = self.sudog;
                waiting.extend([next, prev, waitlink].iter().filter_map(|field| word(at, *field)));
                if let (Some(lock), Some(id)) =
                    (word(at, elem), word(at, g).and_then(|g| ids.get(&g)))
                {
                    locks.entry(lock).or_default().insert(*id);
                }
            }
        }
        locks
    }

    fn channels(&self, memory: &Memory<'_>, routines: &Routines) -> BTreeMap<u64, BTreeSet<i64>> {
        let mut channels: BTreeMap<u64, BTreeSet<i64>> = BTreeMap::new();
        let word = |at: u64, offset: u64| memory.number(at.checked_add(offset)?, 8);
        for routine in routines.live() {
            let (mut at, mut links) = (routine.waiting, 0);
            while at != 0 && links < 1000 {
                match word(at, self.sudog.channel) {
                    Some(channel) if channel != 0 => {
                        channels.entry(channel).or_default().insert(routine.id);
                    }
                    _ => {}
                }
                at = word(at, self.sudog.waitlink).unwrap_or(0);
                links += 1;
            }
        }
        channels
    }
}

/// For each lock, who has its address on the stack and does not wait there; nobody where they are many.
fn holders(
    locks: &BTreeMap<u64, BTreeSet<i64>>,
    routines: &Routines,
    memory: &Memory<'_>,
) -> HashMap<u64, Vec<i64>> {
    let mut holders: HashMap<u64, BTreeSet<i64>> = HashMap::new();
    for routine in routines.live() {
        let Routine { id, .. } = *routine;
        let (from, to) = routine.stack();
        memory.words(from, to, |word| {
            let meant = locks.range(word..=word.saturating_add(LOCK_BEFORE));
            for (at, _) in meant.filter(|(_, waiting)| !waiting.contains(&id)) {
                holders.entry(*at).or_default().insert(id);
            }
        });
    }
    let few = holders.into_iter().filter(|(_, ids)| ids.len() <= MOST_HOLDERS);
    few.map(|(at, ids)| (at, ids.into_iter().collect())).collect()
}

/// Goroutines each of which waits for a lock that the next one probably has, and the last for one of
/// the first.
fn circles(
    locks: &BTreeMap<u64, BTreeSet<i64>>,
    holders: &HashMap<u64, Vec<i64>>,
) -> Vec<Vec<i64>> {
    let mut waits_for: BTreeMap<i64, &[i64]> = BTreeMap::new();
    for (lock, waiting) in locks {
        let Some(of_lock) = holders.get(lock) else { continue };
        waits_for.extend(waiting.iter().map(|id| (*id, of_lock.as_slice())));
    }
    let (mut circles, mut done) = (Vec::new(), BTreeSet::new());
    for start in waits_for.keys() {
        if let Some(circle) = circle_from(*start, &waits_for, &mut done) {
            circles.push(circle);
        }
    }
    circles
}

/// The first circle that is met on the ways from here; what was seen is not gone through again.
fn circle_from(
    start: i64,
    waits_for: &BTreeMap<i64, &[i64]>,
    done: &mut BTreeSet<i64>,
) -> Option<Vec<i64>> {
    // Each on the way, with how many of those it waits for were followed.
    let mut way: Vec<(i64, usize)> = Vec::new();
    if done.insert(start) {
        way.push((start, 0));
    }
    while let Some((id, followed)) = way.last_mut() {
        let next = waits_for.get(id).and_then(|all| all.get(*followed)).copied();
        *followed += 1;
        let Some(next) = next else {
            way.pop();
            continue;
        };
        if let Some(begins) = way.iter().position(|(id, _)| *id == next) {
            return Some(way[begins..].iter().map(|(id, _)| *id).collect());
        }
        if waits_for.contains_key(&next) && done.insert(next) {
            way.push((next, 0));
        }
    }
    None
}

/// What stands on a stack may be older than the call that is there now; one in a circle is the likelier.
fn prefer_circles(
    holders: &mut HashMap<u64, Vec<i64>>,
    locks: &BTreeMap<u64, BTreeSet<i64>>,
    circles: &[Vec<i64>],
) {
    for circle in circles {
        let next = circle.iter().cycle().skip(1);
        for (id, next) in circle.iter().zip(next) {
            for (lock, _) in locks.iter().filter(|(_, waiting)| waiting.contains(id)) {
                if holders.get(lock).is_some_and(|of_lock| of_lock.contains(next)) {
                    holders.insert(*lock, vec![*next]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_is_found_once_and_whoever_waits_beside_it_is_not_in_it() {
        let waiting = |ids: &[i64]| ids.iter().copied().collect::<BTreeSet<i64>>();
        let locks = BTreeMap::from([(1, waiting(&[7])), (2, waiting(&[8, 3])), (5, waiting(&[9]))]);
        let mut holders = HashMap::from([(1, vec![4, 8]), (2, vec![7]), (5, vec![4])]);
        let found = circles(&locks, &holders);
        assert_eq!(found, [[7, 8]]);
        prefer_circles(&mut holders, &locks, &found);
        assert_eq!((&holders[&1], &holders[&2], &holders[&5]), (&vec![8], &vec![7], &vec![4]));
        assert!(circles(&locks, &HashMap::new()).is_empty());
    }
}
