//! The scenarios' runner: what a scenario is, on which suites it runs, which host it gets, and what is
//! kept when it fails.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context, Result};
use libtest_mimic::{Arguments, Failed, Trial};

use crate::{
    files,
    host::{Host, HostOptions},
    image::{Product, Suite},
    vm::{Lsm, Vm},
};

/// What a person does on a host, and what must hold after.
#[derive(Clone, Copy)]
pub struct Scenario {
    name: &'static str,
    suites: Suites,
    host: Wanted,
    run: fn(&Host) -> Result<()>,
}

#[derive(Clone, Copy)]
enum Suites {
    Trixie,
    Newest,
    All,
}

#[derive(Clone, Copy)]
enum Wanted {
    Fresh { firewalld: bool, product: Product, engines: bool },
    Shared,
}

impl Scenario {
    /// On trixie, with a fresh host that has firewalld and the product.
    pub const fn new(name: &'static str, run: fn(&Host) -> Result<()>) -> Self {
        let host = Wanted::Fresh { firewalld: true, product: Product::Installed, engines: false };
        Self { name, suites: Suites::Trixie, host, run }
    }

    /// One of those that all suites must pass.
    pub const fn main(mut self) -> Self {
        self.suites = Suites::All;
        self
    }

    /// On trixie and on the newest suite, for what depends on the versions of Go and dlv more than on the host's own:
    /// bookworm's hosts have trixie's programs.
    pub const fn on_newest(mut self) -> Self {
        self.suites = Suites::Newest;
        self
    }

    /// It leaves its host as it found it, so that the next such scenario can have the same one.
    pub const fn shared(mut self) -> Self {
        self.host = Wanted::Shared;
        self
    }

    /// On a host without firewalld.
    pub const fn bare(mut self) -> Self {
        self.host = Wanted::Fresh { firewalld: false, product: Product::Installed, engines: false };
        self
    }

    /// On a host where the product was never installed.
    pub const fn without_product(mut self) -> Self {
        self.host = Wanted::Fresh { firewalld: true, product: Product::None, engines: false };
        self
    }

    /// On a host with Podman, Docker and containerd.
    pub const fn with_engines(mut self) -> Self {
        self.host = Wanted::Fresh { firewalld: true, product: Product::Installed, engines: true };
        self
    }

    fn suites(self) -> &'static [Suite] {
        match self.suites {
            Suites::Trixie => &[Suite::Trixie],
            Suites::Newest => &[Suite::Trixie, Suite::Forky],
            Suites::All => &Suite::ALL,
        }
    }
}

/// The same on a virtual machine, each on one as it was right after its boot.
#[derive(Clone, Copy)]
pub struct VmScenario {
    name: &'static str,
    lsm: Lsm,
    run: fn(&Vm) -> Result<()>,
}

impl VmScenario {
    pub const fn new(name: &'static str, lsm: Lsm, run: fn(&Vm) -> Result<()>) -> Self {
        Self { name, lsm, run }
    }
}

/// Runs the scenarios that the command line asks for, as `cargo test` does, and ends the program.
/// Their names are SUITE::NAME and LSM::NAME.
pub fn main(scenarios: &[Scenario], on_vms: &[VmScenario]) -> ! {
    let arguments = Arguments::from_args();
    let vm_trials = on_vms.iter().map(|scenario| {
        let scenario = *scenario;
        Trial::test(format!("{}::{}", scenario.lsm.name(), scenario.name), move || {
            run_on_vm(scenario).map_err(|error| Failed::from(causes(&error)))
        })
    });
    let trials = scenarios.iter().flat_map(|scenario| {
        scenario.suites().iter().map(|suite| {
            let (scenario, suite) = (*scenario, *suite);
            Trial::test(full_name(scenario, suite), move || {
                run(scenario, suite).map_err(|error| Failed::from(causes(&error)))
            })
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.chain(vm_trials).collect());
    end_shared_hosts();
    conclusion.exit()
}

/// An error and its causes, without the backtrace of the runner itself.
fn causes(error: &anyhow::Error) -> String {
    let lines: Vec<String> = error.chain().map(ToString::to_string).collect();
    lines.join("\n  because: ")
}

fn full_name(scenario: Scenario, suite: Suite) -> String {
    format!("{}::{}", suite.name(), scenario.name)
}

fn run(scenario: Scenario, suite: Suite) -> Result<()> {
    match scenario.host {
        Wanted::Shared => {
            let slot = shared_slot(suite);
            // A scenario that failed may have left anything: the next one gets a new host.
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let host = match slot.take() {
                Some(host) => host,
                None => Host::boot(suite).context("booting a shared host")?,
            };
            run_on(&host, scenario)?;
            *slot = Some(host);
            Ok(())
        }
        Wanted::Fresh { firewalld, product, engines } => {
            let host = HostOptions { suite, product, firewalld, engines }.boot()?;
            run_on(&host, scenario)
        }
    }
}

fn run_on(host: &Host, scenario: Scenario) -> Result<()> {
    let began = Instant::now();
    let result = (scenario.run)(host);
    let name = full_name(scenario, host.suite());
    let took = began.elapsed().as_secs_f32();
    eprintln!("     {name}: {took:.1} s, after {:.1} s of booting", host.boot_time().as_secs_f32());
    explained(result, &name, "host", |path| host.write_diagnosis(path))
}

/// Emulated machines slow each other down: one at a time.
static ONE_VM: Mutex<()> = Mutex::new(());

fn run_on_vm(scenario: VmScenario) -> Result<()> {
    let _alone = ONE_VM.lock().unwrap_or_else(PoisonError::into_inner);
    let vm = Vm::start(scenario.lsm)?;
    let began = Instant::now();
    let result = (scenario.run)(&vm);
    let name = format!("{}::{}", scenario.lsm.name(), scenario.name);
    let (took, start) = (began.elapsed().as_secs_f32(), vm.start_time().as_secs_f32());
    eprintln!("     {name}: {took:.1} s, after {start:.1} s of starting");
    explained(result, &name, "machine", |path| vm.write_diagnosis(path))
}

/// A failure with what was remarked on the way to it, and where the diagnosis of its place is.
fn explained(
    result: Result<()>,
    name: &str,
    place: &str,
    write_diagnosis: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let remarks = REMARKS.take();
    let Err(error) = result else { return Ok(()) };
    let error = if remarks.is_empty() { error } else { error.context(remarks.join("\n")) };
    let path = diagnosis_path(name);
    Err(error.context(match write_diagnosis(&path) {
        Ok(()) => format!("{name} failed; the {place}'s journal is in {}", path.display()),
        Err(error) => format!("{name} failed; its {place} does not answer: {error:#}"),
    }))
}

thread_local! {
    /// Of the scenario that this thread runs.
    static REMARKS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps `remark` for the case that this thread's scenario fails.
pub fn remark(remark: String) {
    REMARKS.with_borrow_mut(|remarks| remarks.push(remark));
}

fn diagnosis_path(name: &str) -> PathBuf {
    let file = format!("{}.log", name.replace("::", "-"));
    files::workspace().join("target/test-hosts").join(file)
}

type Slot = Arc<Mutex<Option<Host>>>;

static SHARED: Mutex<Option<HashMap<Suite, Slot>>> = Mutex::new(None);

fn shared_slot(suite: Suite) -> Slot {
    let mut all = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().entry(suite).or_default().clone()
}

fn end_shared_hosts() {
    drop(SHARED.lock().unwrap_or_else(PoisonError::into_inner).take());
}
