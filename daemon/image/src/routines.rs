//! All goroutines of an image as the runtime keeps them (runtime2.go, `g`): where their stacks are, and what
//! they wait for.

use crate::core_memory::Memory;
use crate::delve::Delve;
use crate::layout::Layout;

/// `_Gdead`, and those that run or are in a system call.
const DEAD: u64 = 6;
const RUNNING: [u64; 2] = [2, 3];
/// The bit that the garbage collector adds while it scans a stack.
const SCANNED: u64 = 0x1000;
/// No stack is larger (runtime.maxstackceiling on 64 bits).
const LARGEST_STACK: u64 = 2 << 30;
const MOST: u64 = 1_000_000;

/// One goroutine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routine {
    /// Where its `g` is.
    pub(crate) at: u64,
    pub(crate) id: i64,
    /// The first of the `sudog`s by which it waits at channels; 0 for none.
    pub(crate) waiting: u64,
    low: u64,
    high: u64,
    pointer: u64,
    status: u64,
}

impl Routine {
    /// From the end of its stack that is in use to its beginning.
    pub(crate) fn stack(&self) -> (u64, u64) {
        // Of one that runs the runtime does not know where its stack ends now.
        let is_running = RUNNING.contains(&self.status);
        let from = if is_running { self.low } else { self.pointer.clamp(self.low, self.high) };
        (from, self.high)
    }

    fn is_live(&self) -> bool {
        let is_stack = self.high > self.low && self.high - self.low <= LARGEST_STACK;
        self.status != DEAD && is_stack
    }
}

pub(crate) struct Routines(Vec<Routine>);

impl Routines {
    /// None where this version of Go keeps them in another way.
    pub(crate) fn read(dlv: &mut Delve, memory: &Memory<'_>) -> Self {
        Self(read(dlv, memory).unwrap_or_default())
    }

    /// Those that have not ended.
    pub(crate) fn live(&self) -> impl Iterator<Item = &Routine> {
        self.0.iter().filter(|routine| routine.is_live())
    }
}

fn read(dlv: &mut Delve, memory: &Memory<'_>) -> Option<Vec<Routine>> {
    let list = Layout::of(dlv, "runtime.allgs").ok()?;
    let one = Layout::of(dlv, "*runtime.allgs[0]").ok()?;
    let names = ["stack.lo", "stack.hi", "sched.sp", "atomicstatus", "goid", "waiting"];
    let fields: Vec<(u64, usize)> =
        names.iter().map(|name| one.field(name)).collect::<Option<_>>()?;
    let routine = |index| {
        let at = memory.number(list.base + index * 8, 8)?;
        let value = |which: usize| {
            let (offset, bytes) = fields[which];
            memory.number(at + offset, bytes)
        };
        Some(Routine {
            at,
            low: value(0)?,
            high: value(1)?,
            pointer: value(2)?,
            status: value(3)? & !SCANNED,
            id: i64::try_from(value(4)?).ok()?,
            waiting: value(5)?,
        })
    };
    Some((0..list.length.min(MOST)).filter_map(routine).collect())
}
