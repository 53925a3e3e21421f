//! The engine on a simulated host: random plans, and a failure or a crash at every point.
//!
//! After each run: nothing that was taken is left, or the ledger still knows it and the next
//! attempt removes it.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic too")]

mod example;

use example::opened;
use godebug::engine::{self, End, Host};
use godebug::ledger::Ledger;
use godebug::paths::SessionPaths;
use godebug_api::{CloseReason, Deadline, Refusal};
use godebug_core::grant::Grant;
use godebug_core::ledger::{Opened, Record, VERSION};
use godebug_core::plan::{Plan, Start, Step};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::path::Path;

/// A host that is a set of grants, with faults to order.
#[derive(Default)]
struct SimulatedHost {
    taken: RefCell<HashSet<Grant>>,
    /// Fails the take of this number; with `after`, when it has already had its effect.
    fail_take: Cell<Option<(usize, bool)>>,
    takes: Cell<usize>,
    /// How many of the next undos fail, from this one on.
    fail_undo: Cell<Option<(usize, usize)>>,
    undos: Cell<usize>,
    order: RefCell<Vec<Grant>>,
    ends: RefCell<Vec<End>>,
}

impl Host for SimulatedHost {
    type Material = ();

    async fn take(&self, grant: &Grant, (): &()) -> Result<(), Refusal> {
        let number = self.takes.replace(self.takes.get() + 1);
        // Takes of the real host wait for others; let overlapping ones interleave.
        tokio::task::yield_now().await;
        let fails = self.fail_take.get().filter(|(at, _)| *at == number);
        if fails.is_none_or(|(_, after)| after) {
            self.taken.borrow_mut().insert(grant.clone());
        }
        match fails {
            Some(_) => Err(Refusal::host("ordered to fail", "")),
            None => Ok(()),
        }
    }

    async fn cut(&self, _: &Opened) {}

    async fn undo(&self, _: &Opened, grant: &Grant) -> Result<(), String> {
        let number = self.undos.replace(self.undos.get() + 1);
        if self.fail_undo.get().is_some_and(|(from, many)| (from..from + many).contains(&number)) {
            return Err("ordered to fail".to_owned());
        }
        self.order.borrow_mut().push(grant.clone());
        self.taken.borrow_mut().remove(grant);
        Ok(())
    }

    async fn read_back(&self, _: &Opened, grant: &Grant) -> Vec<(String, Option<String>)> {
        let there = self.taken.borrow().contains(grant);
        vec![(grant.to_string(), there.then(|| "there".to_owned()))]
    }

    fn record_end(&self, _: &Opened, end: &End) {
        self.ends.borrow_mut().push(end.clone());
    }
}

/// A plan with a dead man, dlv, and this many rules, with or without a fence.
fn a_plan(rules: usize, fence: bool) -> Plan {
    let id = "0000000a".parse().unwrap();
    let mut grants = vec![
        (Grant::dead_man(&id, 0), Start::InOrder),
        (Grant::debugger(&id, 77.try_into().unwrap()), Start::Overlapping),
        (Grant::guard(&id), Start::Overlapping),
    ];
    if fence {
        grants.push((Grant::fence(&id), Start::InOrder));
    }
    grants.push((Grant::gateway(&id, 2345.try_into().unwrap()), Start::InOrder));
    for number in 0..rules {
        let rule =
            Grant::FirewalldRule { zone: "public".to_owned(), rule: format!("rule {number}") };
        grants.push((rule, Start::WhenAllTaken));
    }
    let step = |(grant, start)| Step {
        grant,
        start,
        does: String::new(),
        undo: String::new(),
        ends_by_itself: String::new(),
    };
    Plan { steps: grants.into_iter().map(step).collect() }
}

fn new_ledger(run: &Path) -> Ledger {
    let session = opened();
    let paths = SessionPaths::below(run, &session.id);
    let record = Record::Opened { version: VERSION, session: Box::new(session) };
    Ledger::create(&paths, &[record], rustix::process::getegid().as_raw()).unwrap()
}

fn reopened(run: &Path) -> Option<Ledger> {
    Ledger::open_at(SessionPaths::below(run, &opened().id)).unwrap()
}

fn simulate<T>(test: impl AsyncFnOnce(&Path) -> T) -> T {
    let run = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test(run.path()))
}

async fn open(host: &SimulatedHost, ledger: &Ledger, plan: &Plan) -> Result<(), Refusal> {
    let locked = ledger.lock(std::time::Duration::ZERO).await.unwrap();
    engine::open(host, &locked, plan, &()).await
}

async fn close(host: &SimulatedHost, ledger: &Ledger) -> Option<End> {
    engine::close(host, ledger, CloseReason::Stopped, "").await.unwrap()
}

#[test]
fn the_network_goes_first_and_the_dead_man_last() {
    simulate(async |run| {
        let (host, ledger, plan) = (SimulatedHost::default(), new_ledger(run), a_plan(2, true));
        open(&host, &ledger, &plan).await.unwrap();
        assert_eq!(host.taken.borrow().len(), plan.steps.len());
        assert!(close(&host, &ledger).await.unwrap().is_clean());
        let order = host.order.borrow();
        assert!(matches!(order[0], Grant::FirewalldRule { .. }));
        let place = |wanted: fn(&Grant) -> bool| order.iter().position(wanted).unwrap();
        assert!(
            place(|grant| matches!(grant, Grant::Guard { .. }))
                > place(|grant| matches!(grant, Grant::Debugger { .. })),
            "the guard outlives dlv"
        );
        assert!(matches!(order.last().unwrap(), Grant::DeadMan { .. }));
        assert!(reopened(run).is_none(), "the directory is removed");
    });
}

#[test]
fn the_dead_man_of_an_extension_goes_last_too() {
    simulate(async |run| {
        let (host, ledger, plan) = (SimulatedHost::default(), new_ledger(run), a_plan(1, true));
        open(&host, &ledger, &plan).await.unwrap();
        let locked = ledger.lock(std::time::Duration::ZERO).await.unwrap();
        let deadline = Deadline { wall_ms: 10, boot_ms: 10 };
        engine::move_deadline(&host, &locked, &opened().id, deadline, &()).await.unwrap();
        drop(locked);
        let dead_men = |set: &HashSet<Grant>| {
            set.iter().filter(|grant| matches!(grant, Grant::DeadMan { .. })).count()
        };
        assert_eq!(dead_men(&host.taken.borrow()), 1, "one at a time");
        host.order.borrow_mut().clear();
        assert!(close(&host, &ledger).await.unwrap().is_clean());
        assert!(matches!(host.order.borrow().last().unwrap(), Grant::DeadMan { .. }));
        assert!(host.taken.borrow().is_empty());
    });
}

#[test]
fn a_rule_that_stays_keeps_the_fence_and_the_dead_man() {
    simulate(async |run| {
        let (host, ledger, plan) = (SimulatedHost::default(), new_ledger(run), a_plan(1, true));
        open(&host, &ledger, &plan).await.unwrap();
        host.fail_undo.set(Some((0, 1)));
        let end = close(&host, &ledger).await.unwrap();
        assert!(!end.is_clean());
        let left = host.taken.borrow().clone();
        assert!(left.iter().any(|grant| matches!(grant, Grant::Fence { .. })), "{left:?}");
        assert!(left.iter().any(|grant| matches!(grant, Grant::DeadMan { .. })), "{left:?}");
        assert!(!left.iter().any(|grant| matches!(grant, Grant::Debugger { .. })), "{left:?}");
        assert!(close(&host, &ledger).await.unwrap().is_clean());
        assert!(host.taken.borrow().is_empty());
    });
}

#[test]
fn what_somebody_else_revoked_is_not_revoked_again() {
    simulate(async |run| {
        let (host, ledger, plan) = (SimulatedHost::default(), new_ledger(run), a_plan(0, false));
        open(&host, &ledger, &plan).await.unwrap();
        let dead_man = reopened(run).unwrap();
        assert!(close(&host, &dead_man).await.is_some());
        assert!(close(&host, &ledger).await.is_none());
        assert_eq!(host.ends.borrow().len(), 1, "one end, one record");
    });
}

#[test]
fn nothing_is_taken_once_the_ledger_is_gone() {
    simulate(async |run| {
        let (host, ledger, plan) = (SimulatedHost::default(), new_ledger(run), a_plan(0, false));
        close(&host, &reopened(run).unwrap()).await;
        assert!(open(&host, &ledger, &plan).await.is_err());
        assert!(host.taken.borrow().is_empty());
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A take that fails, with or without effect; then undos that fail; then none: all is gone, and
    /// until it is, the ledger is there.
    #[test]
    fn whatever_fails_all_is_given_back(
        rules in 0usize..4,
        fence: bool,
        fail_take in prop::option::of((0usize..8, any::<bool>())),
        fail_undo in prop::option::of((0usize..8, 1usize..6)),
    ) {
        simulate(async |run| {
            let host = SimulatedHost::default();
            host.fail_take.set(fail_take);
            host.fail_undo.set(fail_undo);
            let ledger = new_ledger(run);
            let _ = open(&host, &ledger, &a_plan(rules, fence)).await;
            for _ in 0..20 {
                match close(&host, &ledger).await {
                    Some(end) if end.is_clean() => break,
                    Some(_) => assert!(reopened(run).is_some()),
                    None => break,
                }
            }
            assert!(host.taken.borrow().is_empty(), "{:?}", host.taken.borrow());
            assert!(reopened(run).is_none());
        });
    }

    /// godebugd dies after any number of polls of an opening; another process closes from the
    /// ledger alone.
    #[test]
    fn a_crash_at_any_point_of_opening_leaves_nothing(rules in 0usize..4, polls in 0usize..20) {
        simulate(async |run| {
            let host = SimulatedHost::default();
            let plan = a_plan(rules, true);
            {
                let ledger = new_ledger(run);
                let opening = open(&host, &ledger, &plan);
                let mut opening = std::pin::pin!(opening);
                for _ in 0..polls {
                    let polled = futures_util::poll!(&mut opening);
                    if polled.is_ready() {
                        break;
                    }
                }
            }
            let ledger = reopened(run).unwrap();
            assert!(close(&host, &ledger).await.unwrap().is_clean());
            assert!(host.taken.borrow().is_empty());
        });
    }
}
