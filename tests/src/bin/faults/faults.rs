//! The faults, as data: what each is called, what it does, where it can happen, and what may be
//! expected of a host that has suffered it.

use std::time::Duration;

use anyhow::Result;
use godebug_tests::Host;

use crate::{
    inject::{self, Effect},
    points::{Group, Point},
    scene::{Scene, Ttl},
};

/// How a fault comes about.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// The program does it to itself at the point: `kill` or `stop`.
    Itself(&'static str),
    /// The program is held at the point while this is done to the host.
    Outside(fn(&mut Scene) -> Result<Effect>),
}

/// What has become of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// It goes on, the same process as before.
    Lives,
    /// Its end is the fault.
    Ends,
}

#[derive(Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) says: &'static str,
    pub(crate) act: Act,
    pub(crate) groups: &'static [Group],
    pub(crate) target: Target,
    /// Nobody but the dead man can end the session after this.
    pub(crate) daemon_is_gone: bool,
    /// godebugd starts again, and may not know then that somebody had asked for the end.
    pub(crate) daemon_restarts: bool,
    /// How long after the session's end, or after the fault if that is later, all may be gone.
    limit: Duration,
    /// Whether the end must be in the audit log.
    pub(crate) is_recorded: bool,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) firewalld: bool,
    /// Before the session opens.
    pub(crate) prepare: fn(&Host) -> Result<()>,
    /// When all of the session is gone: the host becomes what it was. What only this takes away is
    /// found before it, by `Scene::traces`.
    pub(crate) mend: Option<fn(&mut Scene) -> Result<()>>,
    pub(crate) reboots: bool,
    /// Steps of taking an image at which the kernel leaves nobody who could save the service.
    pub(crate) may_kill_at: &'static [&'static str],
}

/// Where there is a debugger.
const LIVE: &[Group] =
    &[Group::Opening, Group::Active, Group::Closing, Group::DeadMan, Group::Exec];
const EVERYWHERE: &[Group] = &Group::ALL;
/// Where images are taken.
const IMAGE: &[Group] = &[Group::Image, Group::Standing, Group::Observe, Group::Observing];
/// Where the program at the point can be godebugd.
const IN_GODEBUGD: &[Group] = &[
    Group::Opening,
    Group::Active,
    Group::Closing,
    Group::Image,
    Group::Standing,
    Group::Exec,
    Group::Observe,
    Group::Observing,
];
/// Where there is a gateway.
const AT_PORT: &[Group] = &[
    Group::Opening,
    Group::Active,
    Group::Closing,
    Group::DeadMan,
    Group::Exec,
    Group::Observe,
    Group::Observing,
];
const EXEC: &[Group] = &[Group::Exec];
const WITH_CLIENT: &[Group] = &[Group::Active, Group::Closing, Group::DeadMan, Group::Observing];
const AT_BREAKPOINT: &[Group] = &[Group::Active, Group::Closing, Group::DeadMan];

impl Fault {
    const fn new(name: &'static str, says: &'static str, act: Act) -> Self {
        Self {
            name,
            says,
            act,
            groups: LIVE,
            target: Target::Lives,
            daemon_is_gone: false,
            daemon_restarts: false,
            limit: Duration::from_secs(5),
            is_recorded: true,
            ttl: None,
            firewalld: true,
            prepare: |_| Ok(()),
            mend: None,
            reboots: false,
            may_kill_at: &[],
        }
    }

    const fn outside(
        name: &'static str,
        says: &'static str,
        inject: fn(&mut Scene) -> Result<Effect>,
    ) -> Self {
        Self::new(name, says, Act::Outside(inject))
    }

    const fn at(mut self, groups: &'static [Group]) -> Self {
        self.groups = groups;
        self
    }

    const fn ends_target(mut self) -> Self {
        self.target = Target::Ends;
        self
    }

    /// The dead man has two seconds.
    const fn ends_godebugd(mut self) -> Self {
        self.daemon_is_gone = true;
        self.limit = Duration::from_secs(2);
        self
    }

    const fn restarts_godebugd(mut self) -> Self {
        self.daemon_restarts = true;
        self
    }

    const fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    const fn unrecorded(mut self) -> Self {
        self.is_recorded = false;
        self
    }

    const fn prepared(mut self, prepare: fn(&Host) -> Result<()>) -> Self {
        self.prepare = prepare;
        self
    }

    const fn mended(mut self, mend: fn(&mut Scene) -> Result<()>) -> Self {
        self.mend = Some(mend);
        self
    }

    const fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    const fn bare(mut self) -> Self {
        self.firewalld = false;
        self
    }

    const fn reboots(mut self) -> Self {
        self.reboots = true;
        self.is_recorded = false;
        self
    }

    const fn may_kill_at(mut self, steps: &'static [&'static str]) -> Self {
        self.may_kill_at = steps;
        self
    }

    /// Whether the service's death is the one that docs/guarantees.md names.
    pub(crate) fn may_kill(&self, point: &Point) -> bool {
        let step = point.traced().strip_prefix("godebug-image/step.");
        step.is_some_and(|step| self.may_kill_at.contains(&step))
    }

    /// With images too.
    const fn everywhere(self) -> Self {
        self.at(EVERYWHERE)
    }

    /// How long after it is due all may be gone that was there at the point.
    pub(crate) fn limit_at(&self, point: &Point) -> Duration {
        // For so long the launcher lets a godebugd do nothing, and the service stand.
        const UNGUARDED: Duration = Duration::from_secs(15);
        // After that systemd starts a godebug-revoke again that was killed.
        const AGAIN: Duration = Duration::from_secs(5);
        match (point.group, self.name) {
            (Group::Exec, "godebugd-stopped") => self.limit + UNGUARDED,
            (Group::DeadMan, "slice-killed") => self.limit + AGAIN,
            _ => self.limit,
        }
    }

    /// Whether it can happen there, as far as that can be told before.
    pub(crate) fn applies_to(&self, point: &Point) -> bool {
        // What a program does to itself at a point is done by the one that the fault is about.
        let itself = match self.act {
            Act::Outside(_) => true,
            Act::Itself(_) if self.name.starts_with("image-") => point.is_in("godebug-image"),
            Act::Itself(_) => !point.is_in("godebug-image"),
        };
        itself
            && self.groups.contains(&point.group)
            && (self.firewalld || !point.name.ends_with(":firewalld-rule"))
    }
}

pub(crate) fn named(name: &str) -> Option<&'static Fault> {
    ALL.iter().find(|fault| fault.name == name)
}

pub(crate) const ALL: &[Fault] = &[
    // godebugd and the dead man.
    Fault::new(
        "godebugd-killed",
        "godebugd is killed; systemd starts it again",
        Act::Itself("kill"),
    )
    .at(IN_GODEBUGD)
    .restarts_godebugd(),
    // A stopped godebugd may hold the ledger's lock, for which the dead man waits two seconds.
    Fault::new(
        "godebugd-stopped",
        "godebugd is stopped (SIGSTOP) and stays so",
        Act::Itself("stop"),
    )
    .at(IN_GODEBUGD)
    .ends_godebugd()
    .within(5)
    .mended(inject::kill_godebugd),
    Fault::outside(
        "godebugd-masked",
        "godebugd is killed and cannot start again",
        inject::godebugd_masked,
    )
    .at(IN_GODEBUGD)
    .ends_godebugd()
    .mended(inject::godebugd_unmasked),
    // systemd tries again after five seconds.
    Fault::new("revoke-killed", "godebug-revoke is killed at its work", Act::Itself("kill"))
        .at(&[Group::DeadMan])
        .ends_godebugd()
        .within(8),
    // The parts of a session.
    Fault::outside("gateway-killed", "the gateway is killed", |s| {
        inject::part(s, "gateway", "KILL")
    })
    .at(AT_PORT),
    Fault::outside("gateway-stopped", "the gateway is stopped (SIGSTOP)", |s| {
        inject::part(s, "gateway", "STOP")
    })
    .at(AT_PORT)
    .within(8),
    Fault::outside("dlv-killed", "dlv is killed", |s| inject::part(s, "dlv", "KILL")),
    Fault::outside("dlv-stopped", "dlv is stopped (SIGSTOP)", |s| inject::part(s, "dlv", "STOP"))
        .within(8),
    Fault::new("image-killed", "godebug-image is killed at its work", Act::Itself("kill"))
        .at(IMAGE),
    Fault::new("image-stopped", "godebug-image is stopped (SIGSTOP)", Act::Itself("stop"))
        .at(IMAGE)
        .within(8),
    Fault::outside(
        "image-and-guard-killed",
        "godebug-image and its guard are killed together",
        |s| inject::both(s, "guard", "image"),
    )
    .at(IMAGE)
    .may_kill_at(&["armed", "hit", "stopped", "put-back", "copying", "copied"]),
    Fault::outside("launcher-killed", "the launcher of the service is killed", |s| {
        inject::part(s, "exec", "KILL")
    })
    .at(EXEC),
    Fault::outside("launcher-stopped", "the launcher is stopped (SIGSTOP)", |s| {
        inject::part(s, "exec", "STOP")
    })
    .at(EXEC)
    .within(8),
    Fault::outside("guard-killed", "the guard is killed", |s| inject::part(s, "guard", "KILL"))
        .everywhere(),
    Fault::outside("guard-stopped", "the guard is stopped (SIGSTOP)", |s| {
        inject::part(s, "guard", "STOP")
    })
    .everywhere()
    .within(8),
    Fault::outside("guard-and-dlv-killed", "the guard and dlv are killed together", |s| {
        inject::both(s, "guard", "dlv")
    }),
    Fault::outside(
        "units-killed",
        "the guard's and dlv's units are killed by systemctl",
        inject::units,
    ),
    Fault::outside(
        "slice-killed",
        "everything of godebug is killed together, godebugd too",
        inject::slice,
    )
    .everywhere()
    .restarts_godebugd(),
    // The target.
    Fault::outside("target-stops", "the service is stopped", inject::target_stops)
        .everywhere()
        .ends_target()
        .mended(inject::start_target),
    Fault::outside("target-killed", "the service is killed", |s| {
        inject::target_signalled(s, "KILL")
    })
    .everywhere()
    .ends_target()
    .mended(inject::start_target),
    Fault::outside("target-crashes", "the service crashes (SIGSEGV)", |s| {
        inject::target_signalled(s, "SEGV")
    })
    .everywhere()
    .ends_target()
    .mended(inject::start_target),
    Fault::outside("target-frozen", "the service is frozen by systemctl", inject::target_frozen)
        .everywhere()
        .mended(inject::target_thawed),
    Fault::outside("target-restarts", "the service is restarted", inject::target_restarts)
        .everywhere()
        .ends_target()
        .mended(inject::start_target),
    Fault::outside(
        "target-redeployed",
        "the service's program is replaced, the service restarted",
        inject::target_redeployed,
    )
    .ends_target()
    .mended(inject::start_target),
    Fault::outside(
        "target-replaced",
        "the service's program is replaced, the old one runs on",
        inject::target_replaced,
    ),
    Fault::outside(
        "target-unit-removed",
        "the service's unit file is removed, systemd reloaded",
        inject::unit_removed,
    )
    .mended(inject::unit_restored),
    // The firewall.
    Fault::outside("firewalld-reload", "firewall-cmd --reload", |s| {
        inject::host(s, "firewall-cmd --reload")
    })
    .at(AT_PORT)
    .mended(inject::firewall_restored),
    Fault::outside("firewalld-complete-reload", "firewall-cmd --complete-reload", |s| {
        inject::host(s, "firewall-cmd --complete-reload")
    })
    .at(AT_PORT)
    .mended(inject::firewall_restored),
    Fault::outside("firewalld-runtime-to-permanent", "firewall-cmd --runtime-to-permanent", |s| {
        inject::host(s, "firewall-cmd --runtime-to-permanent")
    })
    .at(AT_PORT)
    .mended(inject::firewall_restored),
    Fault::outside("firewalld-killed", "firewalld is killed", |s| {
        inject::host(s, "systemctl kill --signal=KILL firewalld")
    })
    .at(AT_PORT)
    .mended(inject::firewall_restored),
    Fault::outside("firewalld-stops", "firewalld is stopped", |s| {
        inject::host(s, "systemctl stop firewalld")
    })
    .at(AT_PORT)
    .mended(inject::firewall_restored),
    Fault::outside("nft-flushed", "nft flush ruleset", |s| inject::host(s, "nft flush ruleset"))
        .at(AT_PORT)
        .mended(inject::firewall_restored),
    Fault::new(
        "no-firewalld",
        "godebugd is killed on a host without firewalld",
        Act::Itself("kill"),
    )
    .at(IN_GODEBUGD)
    .restarts_godebugd()
    .bare(),
    // What the host runs on.
    Fault::outside("dbus-restarts", "the message bus is restarted", |s| {
        inject::host(s, "systemctl restart dbus")
    })
    .everywhere()
    .restarts_godebugd()
    .mended(inject::bus_restored),
    Fault::outside("dbus-killed", "the message bus is killed", |s| {
        inject::host(s, "systemctl kill --signal=KILL dbus")
    })
    .everywhere()
    .restarts_godebugd()
    .mended(inject::bus_restored),
    Fault::outside("polkit-masked", "polkit is stopped and masked", |s| {
        inject::host(s, "systemctl mask --runtime --now polkit")
    })
    .mended(|s| inject::host(s, "systemctl unmask --runtime polkit").map(drop)),
    Fault::outside("systemd-reload", "systemctl daemon-reload", |s| {
        inject::host(s, "systemctl daemon-reload")
    })
    .everywhere(),
    Fault::outside("systemd-reexec", "systemctl daemon-reexec", |s| {
        inject::host(s, "systemctl daemon-reexec")
    })
    .everywhere(),
    Fault::outside("log-full", "the file system of the audit log is full", inject::log_full)
        .everywhere()
        .prepared(inject::small_log)
        .unrecorded()
        .mended(inject::log_restored),
    Fault::outside("run-full", "/run is full", inject::run_full)
        .everywhere()
        .mended(inject::run_emptied),
    // Time.
    Fault::outside("late", "a session of one second is held for three", inject::three_seconds)
        .ttl(Ttl::Least),
    // The client.
    Fault::outside("client-reset", "the client resets its connection", inject::client_resets)
        .at(WITH_CLIENT),
    Fault::outside("client-half-open", "the client's network is gone", inject::client_vanishes)
        .at(WITH_CLIENT)
        .mended(inject::client_network_back),
    Fault::outside(
        "client-silent-at-breakpoint",
        "the client is silent while the service stands at a breakpoint",
        inject::halted,
    )
    .at(AT_BREAKPOINT),
    // The host.
    Fault::outside("reboot", "the host is rebooted", inject::reboot)
        .everywhere()
        .ends_target()
        .reboots(),
    Fault::outside("power-cut", "the host loses its power", inject::power_cut)
        .everywhere()
        .ends_target()
        .reboots(),
];
