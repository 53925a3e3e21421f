//! `--many-images N`: thousands of images at hot lines of several services, each of which notices what is
//! done to it: dead processes, zombies, lost signals, interrupted system calls, timers, changed text.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Snapshot, nothing_left};
use serde_json::Value;

use super::{Burden, LIMIT, snapshots};
use crate::figures::{Series, milliseconds};

/// So many with one command.
const BATCH: usize = 100;
/// Two at a time, which is what the cores of the machine that this is made for bear.
const WORKERS: usize = 2;

/// What is looked at: a name, properties of the unit, options of the program.
const SERVICES: [(&str, &str, &str); 6] = [
    ("burden-plain", "", ""),
    ("burden-signals", "", "-signals"),
    ("burden-threads", "", "-threads 40 -signals"),
    // The first process of a PID namespace, as in a container: it is read while it stands.
    ("burden-first", "-p PrivatePIDs=yes", "-signals"),
    ("burden-first-threads", "-p PrivatePIDs=yes", "-threads 40 -signals"),
    (
        "burden-closed",
        "-p NoNewPrivileges=yes -p SystemCallFilter=@system-service -p ProtectSystem=strict \
         -p MemoryDenyWriteExecute=yes -p PrivateTmp=yes -p RestrictAddressFamilies=AF_INET \
         -p CapabilityBoundingSet= -p PrivateDevices=yes",
        "-resident 50",
    ),
];

pub(crate) struct Many {
    pauses: Series,
    problems: Vec<String>,
    counts: Vec<(String, Value)>,
}

impl Many {
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} images at a hot line of {} services: pause {:.1} ms at the median, {} at p90, {} at worst; {} problems.\n",
            self.pauses.count(),
            SERVICES.len(),
            self.pauses.median(),
            milliseconds(self.pauses.p90()),
            milliseconds(self.pauses.worst()),
            self.problems.len(),
        )?;
        for (name, counts) in &self.counts {
            let number = |what: &str| counts[what].as_u64().unwrap_or_default();
            let wrong = counts["wrong"].as_array().map_or(0, Vec::len);
            writeln!(
                f,
                "* {name}, the same process as before: {} turns of the hot function, {} system calls checked, {wrong} \
                 wrong or interrupted; {} timers right; {} signals, {} lost",
                number("turns"),
                number("calls"),
                number("timers"),
                number("signals"),
                number("lost"),
            )?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "* **{problem}**"))
    }
}

pub(crate) fn take(host: &Host, count: usize) -> Result<Many> {
    let burdens: Vec<Burden<'_>> = (8110..)
        .zip(SERVICES)
        .map(|(port, (name, properties, options))| {
            Burden::start(host, name, port, properties, options)
        })
        .collect::<Result<_>>()?;
    let names: Vec<&str> = SERVICES.iter().map(|(name, ..)| *name).collect();
    let before = Snapshot::take(host, &names)?;
    let (next, taken) = (AtomicUsize::new(0), Mutex::new((Series::default(), Vec::new())));
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (burdens, next, taken) = (&burdens, &next, &taken);
            // Each has services of its own, since one process has one tracer.
            let own: Vec<_> = burdens.iter().skip(worker).step_by(WORKERS).collect();
            scope.spawn(move || {
                for burden in own.iter().cycle() {
                    if next.fetch_add(BATCH, Relaxed) >= count {
                        return;
                    }
                    let batch = batch(host, burden);
                    let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                    match batch {
                        Ok(pauses) => {
                            pauses.iter().for_each(|pause| taken.0.add_milliseconds(*pause))
                        }
                        Err(error) => taken.1.push(format!("{}: {error:#}", burden.unit)),
                    }
                    eprintln!("* {} images, {} problems", taken.0.count(), taken.1.len());
                    if taken.1.len() > 5 {
                        return;
                    }
                }
            });
        }
    });
    let (pauses, mut problems) = taken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut counts = Vec::new();
    for burden in &burdens {
        let seen = burden.counts().with_context(|| format!("{} is silent", burden.unit))?;
        let is_harmed =
            seen["wrong"].as_array().is_some_and(|wrong| !wrong.is_empty()) || seen["lost"] != 0;
        if is_harmed {
            problems.push(format!("{}: {seen}", burden.unit));
        }
        counts.push((burden.unit.clone(), seen));
    }
    // The same processes, their text, no zombie, no tracer, and no grant of any kind.
    if let Err(error) = nothing_left(host, &before) {
        problems.push(format!("{error:#}"));
    }
    let zombies = host.run("ps -A -o stat=,comm= | grep '^Z' | grep burden")?.stdout;
    if !zombies.is_empty() {
        problems.push(format!("zombies: {zombies}"));
    }
    burdens.into_iter().try_for_each(Burden::stop)?;
    Ok(Many { pauses, problems, counts })
}

fn batch(host: &Host, burden: &Burden<'_>) -> Result<Vec<f64>> {
    let words = format!("--at main.turn --expr n --count {BATCH} --timeout 5m");
    let pauses = snapshots(host, &burden.unit, &words, 12 * LIMIT)?;
    ensure!(pauses.len() == BATCH, "{} images instead of {BATCH}", pauses.len());
    Ok(pauses)
}
