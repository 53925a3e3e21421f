//! Steps of the wall clock, which need a machine with a clock of its own: a session ends no later for
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
    support::Session,
};

pub(crate) const ALL: &[VmScenario] =
    &[VmScenario::new("clock_that_is_stepped_makes_no_session_longer", Lsm::AppArmor, steps)];

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

fn open(vm: &Vm, ttl: &str) -> Result<Session> {
    Session::open(vm, "ticker", &format!("--ttl {ttl} --yes --from {}", vm.laptop_address()))
}
