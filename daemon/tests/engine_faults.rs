//! The engine on a host that fails in every way it can: random plans, random faults, a full disk under
//! the ledger, and an end of the process at any await point, after which another one goes on.
//!
//! What must hold is looked at after every effect on the host, not only at the end.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic too")]

mod example;

use example::opened;
use godebug::engine::{self, End, Host};
use godebug::ledger::Ledger;
use godebug::paths::SessionPaths;
use godebug_api::{Cidr, CloseReason, Deadline, Mode, Refusal, SessionId, StartAt};
use godebug_core::delve::{Debugger, DelveVersion};
use godebug_core::grant::Grant;
use godebug_core::ledger::{Opened, Record, Replay, VERSION};
use godebug_core::plan::{self, Confinement, Exec, Facts, Firewall, Plan, Start, Wanted};
use proptest::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashSet};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::task::Poll;
use std::time::Duration;

/// What a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Take,
    Undo,
    ReadBack,
}

/// How an act goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It fails and has no effect.
    Fails,
    /// It has its effect and yet reports a failure.
    FailsAfterItsEffect,
    /// It does what it should, so late that much can happen before and after.
    IsLate,
    /// It reports a success and has no effect.
    OnlySaysSo,
}

/// An order for the host to misbehave.
#[derive(Debug, Clone, Copy)]
struct Fault {
    act: Act,
    /// Which kind of grant; 6 is every kind.
    kind: u8,
    way: Way,
    /// How often; `u32::MAX` is for ever.
    times: u32,
}

/// A disk that is full from one call of the host on, for so many calls. What it still takes of a
/// line is what is torn off.
#[derive(Debug, Clone, Copy)]
struct FullDisk {
    from: usize,
    calls: usize,
    room: u64,
}

fn kind(grant: &Grant) -> u8 {
    match grant {
        Grant::DeadMan { .. } => 0,
        // The one or the other.
        Grant::Debugger { .. } | Grant::Image { .. } => 1,
        Grant::Guard { .. } => 2,
        Grant::Fence { .. } => 3,
        Grant::Gateway { .. } => 4,
        Grant::FirewalldRule { .. } => 5,
        Grant::GatewayProfile { .. } | Grant::Boolean { .. } => 6,
        Grant::Drained => 7,
        Grant::Launcher { .. } => 8,
        Grant::Started { .. } => 9,
    }
}

fn is_dead_man(grant: &Grant) -> bool {
    kind(grant) == 0
}

/// What is there before its ledger is.
fn already(plan: &Plan) -> impl Iterator<Item = &Grant> {
    plan.steps.iter().filter(|step| step.start == Start::Already).map(|step| &step.grant)
}

/// A host that is a set of grants, and looks after each effect whether what must hold does.
struct FaultyHost {
    run: PathBuf,
    fenced: bool,
    there: RefCell<HashSet<Grant>>,
    /// There has been a dead man.
    armed: Cell<bool>,
    /// Grants that were seen to be gone after their last change.
    proved: RefCell<HashSet<Grant>>,
    faults: RefCell<Vec<Fault>>,
    full: Cell<Option<FullDisk>>,
    calls: Cell<usize>,
    ends: RefCell<Vec<End>>,
    violations: RefCell<BTreeSet<&'static str>>,
}

impl FaultyHost {
    fn new(run: &Path, plan: &Plan, faults: &[Fault], full: Option<FullDisk>) -> Self {
        Self {
            run: run.to_owned(),
            fenced: plan.steps.iter().any(|step| kind(&step.grant) == 3),
            there: RefCell::new(already(plan).cloned().collect()),
            armed: Cell::new(false),
            proved: RefCell::default(),
            faults: RefCell::new(faults.to_vec()),
            full: Cell::new(full),
            calls: Cell::new(0),
            ends: RefCell::default(),
            violations: RefCell::default(),
        }
    }

    fn must(&self, holds: bool, what: &'static str) {
        if !holds {
            self.violations.borrow_mut().insert(what);
        }
    }

    fn no_more_faults(&self) {
        self.faults.borrow_mut().clear();
        self.full.set(None);
        self.disk();
    }

    /// Lets the disk be as full as it is ordered to be at this call.
    fn disk(&self) {
        let call = self.calls.get();
        let full =
            self.full.get().filter(|full| (full.from..full.from + full.calls).contains(&call));
        let length =
            std::fs::metadata(self.run.join("0000000a/ledger")).map_or(0, |file| file.len());
        limit_files(full.map(|full| length + full.room));
    }

    /// The fault that is ordered for this act, if there is one left.
    fn fault(&self, act: Act, grant: &Grant) -> Option<Way> {
        self.calls.set(self.calls.get() + 1);
        self.disk();
        let mut faults = self.faults.borrow_mut();
        let hit = |fault: &&mut Fault| {
            fault.act == act && (fault.kind == 6 || fault.kind == kind(grant)) && fault.times > 0
        };
        let fault = faults.iter_mut().find(hit)?;
        fault.times = if fault.times == u32::MAX { u32::MAX } else { fault.times - 1 };
        Some(fault.way)
    }

    fn replay(&self) -> Option<Replay> {
        reopened(&self.run)?.without_lock().replay().ok().flatten()
    }

    /// What must hold whenever something has changed.
    fn look(&self) {
        let there = self.there.borrow();
        let any = |wanted: u8| there.iter().any(|grant| kind(grant) == wanted);
        self.armed.set(self.armed.get() || any(0));
        // What was started for the session lets go by itself, and was there before.
        let may_be_alone = |grant: &Grant| !self.armed.get() && kind(grant) >= 8;
        let others = there.iter().any(|grant| !is_dead_man(grant) && !may_be_alone(grant));
        self.must(any(0) || !others, "something is there without a dead man");
        self.must(any(0) || !any(5), "the firewall is open without a dead man");
        self.must(!self.fenced || any(3) || !any(5), "the firewall is open without its fence");
        self.must(there.is_empty() || reopened(&self.run).is_some(), "grants without a ledger");
    }

    fn change(&self, grant: &Grant, change: impl FnOnce(&mut HashSet<Grant>) -> bool) {
        self.proved.borrow_mut().remove(grant);
        change(&mut self.there.borrow_mut());
        self.look();
    }

    /// Before the last dead man goes: nothing else is there, and that was seen.
    fn may_the_dead_man_go(&self, grant: &Grant) {
        let there = self.there.borrow();
        let last = is_dead_man(grant)
            && there.contains(grant)
            && there.iter().filter(|grant| is_dead_man(grant)).count() == 1;
        if !last {
            return;
        }
        let proved = self.proved.borrow();
        let announced = self.replay().map(|replay| replay.announced).unwrap_or_default();
        let unproved =
            announced.iter().any(|(_, grant)| !is_dead_man(grant) && !proved.contains(grant));
        self.must(!unproved, "the dead man goes before all else is proved gone");
    }
}

/// Returns after being polled so many times.
async fn polls(mut count: usize) {
    poll_fn(|context| {
        if count == 0 {
            return Poll::Ready(());
        }
        count -= 1;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn lateness(way: Option<Way>) -> usize {
    if way == Some(Way::IsLate) { 7 } else { 1 }
}

impl Host for FaultyHost {
    type Material = ();

    async fn take(&self, grant: &Grant, (): &()) -> Result<(), Refusal> {
        let announced = self.replay().is_some_and(|replay| {
            replay.outstanding.iter().any(|(_, outstanding)| outstanding == grant)
        });
        self.must(announced, "something is taken that the ledger does not know");
        let way = self.fault(Act::Take, grant);
        polls(lateness(way)).await;
        if way != Some(Way::Fails) {
            self.change(grant, |there| there.insert(grant.clone()));
        }
        polls(lateness(way)).await;
        match way {
            None | Some(Way::IsLate) => Ok(()),
            Some(_) => Err(Refusal::host("ordered to fail", "")),
        }
    }

    async fn cut(&self, _: &Opened) {
        polls(1).await;
    }

    async fn undo(&self, _: &Opened, grant: &Grant) -> Result<(), String> {
        let way = self.fault(Act::Undo, grant);
        polls(lateness(way)).await;
        if !matches!(way, Some(Way::Fails | Way::OnlySaysSo)) {
            self.may_the_dead_man_go(grant);
            self.change(grant, |there| there.remove(grant));
        }
        polls(lateness(way)).await;
        match way {
            None | Some(Way::IsLate | Way::OnlySaysSo) => Ok(()),
            Some(_) => Err("ordered to fail".to_owned()),
        }
    }

    async fn read_back(&self, _: &Opened, grant: &Grant) -> Vec<(String, Option<String>)> {
        let way = self.fault(Act::ReadBack, grant);
        polls(lateness(way)).await;
        let found = match way {
            None | Some(Way::IsLate) => {
                self.there.borrow().contains(grant).then(|| "there".to_owned())
            }
            Some(_) => Some("ordered to fail".to_owned()),
        };
        if found.is_none() {
            self.proved.borrow_mut().insert(grant.clone());
        }
        vec![(grant.to_string(), found)]
    }

    fn record_end(&self, _: &Opened, end: &End) {
        let proved = self.proved.borrow();
        let announced = self.replay().map(|replay| replay.announced).unwrap_or_default();
        let clean = announced.iter().all(|(_, grant)| proved.contains(grant));
        self.must(!end.is_clean() || clean, "a clean end is recorded that was not proved");
        self.must(
            !end.is_clean() || self.there.borrow().is_empty(),
            "a clean end is recorded while something is there",
        );
        self.ends.borrow_mut().push(end.clone());
    }
}

/// What happens to a session, each until it is done or until its process is killed after so many
/// polls.
#[derive(Debug, Clone, Copy)]
enum Event {
    Extend { killed_after: Option<usize> },
    Close { killed_after: Option<usize> },
}

/// Runs `future` to its end, or kills it.
async fn until_killed<F: Future>(future: F, killed_after: Option<usize>) -> Option<F::Output> {
    let mut future = pin!(future);
    let Some(times) = killed_after else { return Some(future.await) };
    for _ in 0..times {
        if let Poll::Ready(output) = futures_util::poll!(&mut future) {
            return Some(output);
        }
    }
    None
}

#[derive(Debug, Clone)]
struct Case {
    rules: usize,
    remote: bool,
    faults: Vec<Fault>,
    full: Option<FullDisk>,
    open_killed_after: Option<usize>,
    events: Vec<Event>,
}

impl Case {
    fn plan(&self) -> Plan {
        let mut sources = vec![Cidr::LOOPBACK_4];
        if self.remote {
            sources =
                (0..self.rules.max(1)).map(|n| format!("10.0.{n}.0/24").parse().unwrap()).collect();
        }
        let zones = sources.iter().map(|source| (*source, "public".to_owned())).collect();
        let firewall = match self.rules {
            0 => Firewall::Nftables,
            _ => Firewall::Firewalld { version: "2.3.1".to_owned(), zones },
        };
        let wanted = Wanted {
            id: id(),
            mode: Mode::Modify,
            ttl: "30m".parse().unwrap(),
            port: 2345.try_into().unwrap(),
            sources,
        };
        let debugger = Debugger {
            path: "/usr/bin/dlv".to_owned(),
            version: DelveVersion::new(1, 24, 0),
            built_with: None,
        };
        let facts = Facts {
            unit: "shop".parse().unwrap(),
            pid: 77.try_into().unwrap(),
            user: "shop".to_owned(),
            debugger,
            firewall,
            confinement: Confinement::None,
            booleans: Vec::new(),
            // A start is not drained before.
            exec: (!self.remote).then_some(Exec { at: StartAt::Main, was_running: self.rules > 0 }),
            dump: None,
            drains: true,
        };
        plan::plan(&wanted, &facts)
    }

    /// Lives through it, and tells what did not hold.
    fn run(&self) -> BTreeSet<&'static str> {
        // Every record is synced, which costs nothing where there is no disk.
        let memory = Path::new("/dev/shm");
        let run = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let run = run.unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let plan = self.plan();
        let host = FaultyHost::new(run.path(), &plan, &self.faults, self.full);
        runtime.block_on(self.live(&host, &plan));
        host.violations.into_inner()
    }

    async fn live(&self, host: &FaultyHost, plan: &Plan) {
        let mut active = false;
        {
            let ledger = new_ledger(&host.run, plan);
            host.disk();
            let opening = async {
                let locked = ledger.lock(Duration::ZERO).await.unwrap();
                engine::open(host, &locked, plan, &()).await
            };
            if let Some(Ok(())) = until_killed(opening, self.open_killed_after).await {
                active = true;
                let there = host.there.borrow();
                let all = plan.steps.iter().all(|step| there.contains(&step.grant));
                host.must(all, "it was opened with something missing");
            }
        }
        for event in &self.events {
            match event {
                Event::Extend { killed_after } if active => extend(host, *killed_after).await,
                Event::Extend { .. } => {}
                Event::Close { killed_after } => {
                    active = false;
                    close(host, *killed_after).await;
                }
            }
        }
        host.no_more_faults();
        close(host, None).await;
        host.must(host.there.borrow().is_empty(), "something is left for ever");
        host.must(reopened(&host.run).is_none(), "the ledger is left for ever");
        let clean = host.ends.borrow().iter().filter(|end| end.is_clean()).count();
        host.must(clean == 1, "there is not one clean end on record");
    }
}

async fn extend(host: &FaultyHost, killed_after: Option<usize>) {
    let ledger = reopened(&host.run).unwrap();
    let deadline = Deadline { wall_ms: 10, boot_ms: 10 };
    let extending = async {
        let locked = ledger.lock(Duration::ZERO).await.unwrap();
        engine::move_deadline(host, &locked, &id(), deadline, &()).await
    };
    let _ = until_killed(extending, killed_after).await;
}

/// As godebugd, its successor or godebug-revoke would.
async fn close(host: &FaultyHost, killed_after: Option<usize>) {
    let Some(ledger) = reopened(&host.run) else { return };
    let closing = engine::close(host, &ledger, CloseReason::Stopped, "");
    match until_killed(closing, killed_after).await {
        None => {}
        Some(Ok(Some(end))) => {
            let gone = reopened(&host.run).is_none();
            host.must(end.is_clean() == gone, "the ledger goes with a clean end, and only then");
            // A retry that leaves the same is not told again.
            let told = host.ends.borrow().last().is_some_and(|told| told.stuck == end.stuck);
            host.must(told, "an end is not on record");
        }
        Some(Ok(None)) => host.must(false, "a session that was there was nothing to close"),
        Some(Err(_)) => host.must(false, "the ledger cannot be read any more"),
    }
}

fn id() -> SessionId {
    "0000000a".parse().unwrap()
}

fn new_ledger(run: &Path, plan: &Plan) -> Ledger {
    let record = Record::Opened { version: VERSION, session: Box::new(opened()) };
    let group = rustix::process::getegid().as_raw();
    let first = engine::first_records(record, plan);
    Ledger::create(&SessionPaths::below(run, &id()), &first, group).unwrap()
}

fn reopened(run: &Path) -> Option<Ledger> {
    Ledger::open_at(SessionPaths::below(run, &id())).unwrap()
}

/// No file grows beyond this. A write that reaches it is cut short, the next one fails, just as on
/// a full disk.
fn limit_files(most: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: most.or(maximum), maximum }).unwrap();
}

fn faults(most: usize) -> impl Strategy<Value = Vec<Fault>> {
    let act = prop_oneof![Just(Act::Take), Just(Act::Undo), Just(Act::ReadBack)];
    let way = prop_oneof![Just(Way::Fails), Just(Way::FailsAfterItsEffect), Just(Way::IsLate)];
    let times = prop_oneof![Just(1), 2u32..5, Just(u32::MAX)];
    let fault = (act, 0u8..=6, way, times).prop_map(|(act, kind, way, times)| Fault {
        act,
        kind,
        way,
        times,
    });
    prop::collection::vec(fault, 0..=most)
}

fn full_disk() -> impl Strategy<Value = FullDisk> {
    (0usize..30, prop_oneof![1usize..4, Just(10_000)], prop_oneof![Just(0), 1u64..60])
        .prop_map(|(from, calls, room)| FullDisk { from, calls, room })
}

fn killed_after() -> impl Strategy<Value = Option<usize>> {
    prop::option::of(0usize..60)
}

fn case(full: impl Strategy<Value = Option<FullDisk>>) -> impl Strategy<Value = Case> {
    let event = prop_oneof![
        killed_after().prop_map(|killed_after| Event::Extend { killed_after }),
        killed_after().prop_map(|killed_after| Event::Close { killed_after }),
    ];
    let events = prop::collection::vec(event, 0..5);
    (0usize..4, any::<bool>(), faults(4), full, killed_after(), events).prop_map(
        |(rules, remote, faults, full, open_killed_after, events)| Case {
            rules,
            remote,
            faults,
            full,
            open_killed_after,
            events,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_fails_and_whoever_dies_all_is_given_back(case in case(Just(None))) {
        let violations = case.run();
        prop_assert!(violations.is_empty(), "{:?}", violations);
    }

    /// What the proof finds after an undo that reported a success is undone again.
    #[test]
    fn an_undo_that_only_says_so_is_done_again(
        mut case in case(Just(None)),
        kind in 0u8..=6,
        times in 1u32..4,
    ) {
        case.faults = vec![Fault { act: Act::Undo, kind, way: Way::OnlySaysSo, times }];
        let mut violations = case.run();
        // Until the proof shows it, nobody knows that the rule is there; its listener is gone.
        violations.remove("the firewall is open without its fence");
        prop_assert!(violations.is_empty(), "{:?}", violations);
    }

    /// The limit holds for the whole process, and what reaches it gets a signal: so this is run by
    /// the test below, alone and with the signal ignored.
    #[test]
    #[ignore = "run by a_full_disk_under_the_ledger_loses_nothing"]
    fn full_disk_in_a_process_of_its_own(case in case(full_disk().prop_map(Some))) {
        let violations = case.run();
        prop_assert!(violations.is_empty(), "{:?}", violations);
    }
}

#[test]
fn a_full_disk_under_the_ledger_loses_nothing() {
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "full_disk_in_a_process_of_its_own"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}");
}
