//! Steps of the wall clock and sleep, which need a machine with a clock of its own: a session ends no later for
//! them, whichever way the clock goes.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, ensure};
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

/// The end comes while nothing on the machine runs: it is there as soon as the machine is awake, by godebugd and, where
/// that is gone, by systemd alone. An emulated machine's monotonic clock goes on in its sleep; a sleep in which that stands
/// is not tried.
fn sleep(vm: &Vm) -> Result<()> {
    const TTL: Duration = Duration::from_secs(120);
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        for godebugd_is_gone in [false, true] {
            let session = open(vm, &format!("{}s", TTL.as_secs()))?;
            let _debugging = Laptop::connect(vm, &session)?;
            if godebugd_is_gone {
                vm.ok(
                    "systemctl mask --runtime godebugd && systemctl kill --signal=KILL godebugd",
                )?;
            }
            vm.suspend(TTL)?;
            let awake = Instant::now();
            if godebugd_is_gone {
                session.is_gone_within(vm, IN_TIME)?;
            } else {
                session.ends(vm, "expired", IN_TIME)?;
            }
            let took = awake.elapsed();
            ensure!(took < TTL / 2, "it went on for {took:?}, godebugd gone: {godebugd_is_gone}");
            vm.ok("systemctl unmask --runtime godebugd && systemctl reset-failed")?;
            nothing_left_on(vm, &before)?;
        }
        Ok(())
    })
}

fn open(vm: &Vm, ttl: &str) -> Result<Session> {
    Session::open(vm, "ticker", &format!("--ttl {ttl} --yes --from {}", vm.laptop_address()))
}
