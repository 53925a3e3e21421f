//! For how long attaching freezes a service while other services want every processor: with bare dlv
//! and with godebug, in turns on one and the same target, on a quiet host and on a busy one. Measured
//! from outside, on the process.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use godebug_core::ProcessState;
use godebug_tests::{Host, process::Process};

use crate::figures::{Series, milliseconds, table};
use crate::opening::{Kind, Parts, once};
use crate::row;

/// Services that want a processor all the time.
const SERVICES: u32 = 10;
const ROUNDS: usize = 8;

#[derive(Default)]
pub(crate) struct Crowd {
    bare: Pair,
    godebug: Pair,
}

#[derive(Default)]
struct Pair {
    quiet: Series,
    busy: Series,
}

/// Measures each kind once a round, first quiet, then busy.
pub(crate) fn measure(host: &Host, target: &Process) -> Result<Crowd> {
    let mut crowd = Crowd::default();
    for kind in [Kind::Bare, Kind::Here] {
        freeze(host, target, kind)?;
    }
    for round in 0..ROUNDS {
        crowd.bare.quiet.add(freeze(host, target, Kind::Bare)?);
        crowd.godebug.quiet.add(freeze(host, target, Kind::Here)?);
        host.ok(&format!(
            "for n in $(seq {SERVICES}); do \
               systemd-run --quiet --collect --unit=crowd$n sh -c 'while :; do :; done'; done"
        ))?;
        crowd.bare.busy.add(freeze(host, target, Kind::Bare)?);
        crowd.godebug.busy.add(freeze(host, target, Kind::Here)?);
        host.ok("systemctl stop 'crowd*'")?;
        eprintln!("* a busy host: round {} of {ROUNDS}", round + 1);
    }
    Ok(crowd)
}

/// The longest time that the target stands while it is attached to and let go.
fn freeze(host: &Host, target: &Process, kind: Kind) -> Result<Duration> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| longest_stop(target.pid, &done));
        let opened = once(host, target.inner_pid, kind, &mut Parts::default());
        done.store(true, Ordering::Relaxed);
        let longest =
            watch.join().map_err(|_| anyhow::anyhow!("the watch on the target failed"))?;
        opened?;
        longest.context("the target never stood")
    })
}

fn longest_stop(pid: u32, done: &AtomicBool) -> Option<Duration> {
    let (mut longest, mut since) = (None, None);
    while !done.load(Ordering::Relaxed) {
        let status = fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
        match ProcessState::of(&status) {
            Some(ProcessState::Frozen) => {
                let stood = since.get_or_insert_with(Instant::now).elapsed();
                longest = longest.max(Some(stood));
            }
            _ => since = None,
        }
        // The kernel tells nobody when a tracer stops a process.
        std::thread::sleep(Duration::from_millis(1));
    }
    longest
}

impl Crowd {
    pub(crate) fn text(&self) -> String {
        let mut rows =
            vec![row(&["", "quiet, median", "busy, median", "busy, worst", "busy to quiet"])];
        for (name, pair) in
            [("bare `dlv attach`", &self.bare), ("`godebugctl attach`", &self.godebug)]
        {
            let (quiet, busy) = (pair.quiet.median(), pair.busy.median());
            rows.push(vec![
                name.to_owned(),
                milliseconds(quiet),
                milliseconds(busy),
                milliseconds(pair.busy.worst()),
                format!("{:.1}", busy / quiet),
            ]);
        }
        format!(
            "### For how long attaching freezes the service, alone and while {SERVICES} other services want \
             every processor\n\n{}\n{ROUNDS} runs each.\n",
            table(&rows)
        )
    }
}
