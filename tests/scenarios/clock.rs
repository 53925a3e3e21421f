//! Steps of the wall clock and sleep, which need a machine with a clock of its own: a session ends no later for
//! them, whichever way the clock goes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use godebug_tests::{
    Machine, Vm,
    scenario::VmScenario,
    vm::{Lsm, VmSnapshot, nothing_left_on},
};

use crate::{
    on_vm::{IN_TIME, start_ticker, told},
    support::{Laptop, Session},
};

pub(crate) const ALL: &[VmScenario] = &[
    VmScenario::new("clock_that_is_stepped_makes_no_session_longer", Lsm::AppArmor, steps),
    VmScenario::new("machine_that_sleeps_makes_no_session_longer", Lsm::AppArmor, sleep),
];

fn steps(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let hour = Duration::from_secs(3600);

        // Backward: by the wall clock there is an hour more; since boot there is not.
        let session = open(vm, "40s")?;
        let began = Instant::now();
        vm.set_clock(SystemTime::now() - hour)?;
        session.ends(vm, "expired", IN_TIME)?;
        let lasted = began.elapsed();
        // Generous: what an emulated machine takes for the end itself.
        ensure!(lasted < Duration::from_secs(100), "the session lasted {lasted:?}");
        nothing_left_on(vm, &before)?;

        // Forward: by the wall clock its end is over.
        vm.set_clock(SystemTime::now())?;
        let session = open(vm, "20m")?;
        vm.set_clock(SystemTime::now() + hour)?;
        session.ends(vm, "expired", IN_TIME)?;
        nothing_left_on(vm, &before)
    })
}

/// How a machine sleeps for some time.
type Sleep = fn(&Vm, Duration) -> Result<()>;

/// The end comes while nothing on the machine runs: it is there as soon as the machine is awake, by godebugd and, where
/// that is gone, by systemd alone. In the one sleep its monotonic clock goes on, in the other it stands.
fn sleep(vm: &Vm) -> Result<()> {
    const TTL: Duration = Duration::from_secs(120);
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let ways: [(&str, Sleep); 2] = [("idle", Vm::suspend), ("disk", Vm::hibernate)];
        for (way, asleep) in ways {
            for godebugd_is_gone in [false, true] {
                let case = format!("asleep ({way}), godebugd gone: {godebugd_is_gone}");
                ends_when_awake(vm, TTL, asleep, godebugd_is_gone).context(case)?;
                nothing_left_on(vm, &before)?;
            }
        }
        Ok(())
    })
}

fn ends_when_awake(vm: &Vm, ttl: Duration, asleep: Sleep, godebugd_is_gone: bool) -> Result<()> {
    let opened = Instant::now();
    let session = open(vm, &format!("{}s", ttl.as_secs()))?;
    let _debugging = Laptop::connect(vm, &session)?;
    if godebugd_is_gone {
        vm.ok("systemctl mask --runtime godebugd && systemctl kill --signal=KILL godebugd")?;
    }
    ensure!(opened.elapsed() < ttl / 2, "too slow a machine to be asleep when the time is over");
    asleep(vm, ttl)?;
    let awake = Instant::now();
    if godebugd_is_gone {
        session.is_gone_within(vm, IN_TIME)?;
    } else {
        session.ends(vm, "expired", IN_TIME)?;
    }
    let took = awake.elapsed();
    ensure!(took < ttl / 2, "it went on for {took:?}");
    vm.ok("systemctl unmask --runtime godebugd && systemctl reset-failed").map(drop)
}

fn open(vm: &Vm, ttl: &str) -> Result<Session> {
    Session::open(vm, "ticker", &format!("--ttl {ttl} --yes --from {}", vm.laptop_address()))
}
