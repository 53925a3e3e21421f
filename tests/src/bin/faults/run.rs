//! Which cells are run, on which hosts, and what is told of them.

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use godebug_tests::{Host, fault_points};

use crate::{
    Wanted,
    cell::{self, Outcome},
    cycles,
    faults::{self, Fault},
    points::{self, IDLE, Point},
    results::{self, Results},
    setup, table,
};

/// The state of each group that `--quick` takes for all of it.
const QUICK: [&str; 4] = [
    "godebugd/ledger.after.done:debugger",
    IDLE,
    "godebugd/host.after.undo:gateway",
    "image: godebug-image/step.hit",
];

type Cell = (&'static Fault, Point);

/// Does what the command line asks for. `false` when a cell failed.
pub(crate) fn all(wanted: &Wanted) -> Result<bool> {
    fault_points::build()?;
    let host = setup::boot(true)?;
    let mut results = Results::open(&setup::version(&host)?)?;
    if results.points().is_empty() {
        results.add_points(&points::discover(&host).context("going through a session once")?)?;
    }
    if wanted.list {
        results
            .points()
            .iter()
            .for_each(|point| println!("{:10} {}", point.group.name(), point.name));
        faults::ALL.iter().for_each(|fault| println!("{:32} {}", fault.name, fault.says));
        return Ok(true);
    }
    let circumstances = table::circumstances(&host)?;
    let good = if wanted.cycles > 0 {
        let cycles = cycles::run(&host, wanted.cycles)?;
        println!("{cycles}");
        results.add_cycles(&cycles)?;
        cycles.is_good()
    } else {
        let cells = cells(wanted, &results)?;
        run(wanted, host, cells, &mut results)?
    };
    if wanted.write {
        table::write(&results, &circumstances)?;
    }
    Ok(good)
}

/// The cells to be run, in the order of the table.
fn cells(wanted: &Wanted, results: &Results) -> Result<VecDeque<Cell>> {
    for name in &wanted.faults {
        faults::named(name).with_context(|| format!("no such fault: {name}"))?;
    }
    let mut cells = VecDeque::new();
    for fault in faults::ALL {
        if !wanted.faults.is_empty() && !wanted.faults.iter().any(|name| name == fault.name) {
            continue;
        }
        for point in results.points() {
            let every = matches!(fault.name, "godebugd-killed" | "image-killed");
            let first_of_its_kind = point.is_new() && point.is_of_its_kind();
            let is_taken_for_all = QUICK.contains(&point.name.as_str());
            let wanted_here = (wanted.points.is_empty()
                || wanted.points.iter().any(|glob| matches(glob, &point.name)))
                && (!wanted.quick || every && first_of_its_kind || is_taken_for_all)
                && (!wanted.distinct || point.is_new());
            let is_known = results.cell(fault.name, &point.name).is_some();
            if wanted_here && fault.applies_to(point) && (wanted.again || !is_known) {
                cells.push_back((fault, point.clone()));
            }
        }
    }
    let once: Vec<Cell> = cells.iter().cloned().collect();
    (1..wanted.repeat).for_each(|_| cells.extend(once.iter().cloned()));
    Ok(cells)
}

/// `*` stands for anything.
fn matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What the threads share.
struct Shared<'a> {
    cells: VecDeque<Cell>,
    results: &'a mut Results,
    total: usize,
    done: usize,
    /// What was printed of those that failed, to be said again at the end.
    failed: Vec<String>,
    /// Those that were late while other hosts wanted the same processors.
    late: VecDeque<Cell>,
}

fn run(wanted: &Wanted, host: Host, cells: VecDeque<Cell>, results: &mut Results) -> Result<bool> {
    let (total, hosts) = (cells.len(), wanted.hosts.max(1));
    let failed = Vec::new();
    let late = VecDeque::new();
    let shared = Mutex::new(Shared { total, cells, results, done: 0, failed, late });
    let began = Instant::now();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut first = Some(host);
        for _ in 0..hosts {
            let (mut host, shared) = (first.take().map(|host| (true, host)), &shared);
            threads.push(scope.spawn(move || work(shared, &mut host, hosts == 1)));
        }
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    try_late_ones_alone(&shared)?;
    let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    shared.failed.iter().for_each(|line| println!("{line}"));
    println!(
        "{} cells, {} failed, in {:.0} s",
        shared.total,
        shared.failed.len(),
        began.elapsed().as_secs_f32()
    );
    Ok(shared.failed.is_empty())
}

fn locked<'a, 'b>(shared: &'a Mutex<Shared<'b>>) -> MutexGuard<'a, Shared<'b>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time that is promised is promised for a host, not for one that shares its processors with others under
/// torture. Whoever was late there has to be in time with nobody beside it.
fn try_late_ones_alone(shared: &Mutex<Shared<'_>>) -> Result<()> {
    let mut state = locked(shared);
    if state.late.is_empty() {
        return Ok(());
    }
    println!("{} were late beside others, and are tried alone", state.late.len());
    state.total += state.late.len();
    state.cells = std::mem::take(&mut state.late);
    drop(state);
    work(shared, &mut None, true)
}

/// Runs cells until there are no more, on a host that is used again as long as nothing fails.
fn work(shared: &Mutex<Shared<'_>>, host: &mut Option<(bool, Host)>, is_alone: bool) -> Result<()> {
    loop {
        let Some((fault, point)) = locked(shared).cells.pop_front() else { return Ok(()) };
        let fits = host.take().filter(|(firewalld, _)| *firewalld == fault.firewalld);
        let (firewalld, this) = match fits {
            Some(fits) => fits,
            None => (fault.firewalld, setup::boot(fault.firewalld)?),
        };
        let began = Instant::now();
        let outcome = match cell::run(&this, fault, &point) {
            Outcome::Late(why) if is_alone => Outcome::Failed(why),
            outcome => outcome,
        };
        let mut shared = locked(shared);
        shared.done += 1;
        let number = shared.done;
        let line = line(number, &shared, fault, &point, &outcome, began);
        println!("{line}");
        if matches!(outcome, Outcome::Late(_)) {
            shared.late.push_back((fault, point));
            *host = Some((firewalld, this));
            continue;
        }
        shared.results.add_cell(fault.name, &point, &outcome)?;
        if outcome == Outcome::Died {
            // Its host has no service any more.
        } else if matches!(outcome, Outcome::Failed(_)) {
            shared.failed.push(line);
            // Others go on meanwhile: a host that does not answer takes minutes.
            drop(shared);
            let path = cell::journal(fault, &point);
            fs::create_dir_all(fault_points::output().join("journals"))?;
            match this.write_diagnosis(&path) {
                Ok(()) => println!("{}", last_words(&path)?),
                Err(error) => eprintln!("the host does not answer: {error:#}"),
            }
        } else {
            *host = Some((firewalld, this));
        }
    }
}

/// The end of a failed cell's journal, for those who have nothing but what was printed.
fn last_words(path: &Path) -> Result<String> {
    const LINES: usize = 60;
    let all = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let journal: Vec<&str> = all.lines().take_while(|line| *line != "--- threads").collect();
    let last = journal.iter().skip(journal.len().saturating_sub(LINES));
    Ok(last.map(|line| format!("    | {line}")).collect::<Vec<_>>().join("\n"))
}

fn line(
    number: usize,
    shared: &Shared,
    fault: &Fault,
    point: &Point,
    outcome: &Outcome,
    began: Instant,
) -> String {
    let what = match outcome {
        Outcome::Passed { milliseconds, since } => format!("{milliseconds:.0} ms after {since}"),
        Outcome::Died => "the service died, where nobody could have saved it".to_owned(),
        Outcome::FolderStayed => "its folder, until a godebugd runs again".to_owned(),
        Outcome::NotApplicable(why) | Outcome::Late(why) => why.clone(),
        Outcome::Failed(why) => why.lines().take(12).collect::<Vec<_>>().join("\n    "),
    };
    format!(
        "{number}/{} {:.1} s  {}  {}  {}: {what}",
        shared.total,
        began.elapsed().as_secs_f32(),
        results::name(outcome),
        fault.name,
        point.name
    )
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("*undo:gate*", "godebugd/host.after.undo:gateway"));
        assert!(matches("a", "a") && !matches("a", "ab") && !matches("*a", "ab"));
        assert!(matches("a*", "ab") && matches("*", "") && !matches("a*a", "a"));
    }
}
