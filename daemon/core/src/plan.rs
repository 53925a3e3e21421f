//! What a session will take from the host, in which order, and how each part ends.
//!
//! Pure: facts in, steps out. `--dry-run` prints the result, the engine carries it out, and the
//! ledger records each step before it is taken.

use crate::delve::Debugger;
use crate::dump::Dump;
use crate::grant::Grant;
use crate::words::{BooleanName, Cidr, Mode, Pid, Port, SessionId, StartAt, Ttl, UnitName};
use serde::{Deserialize, Serialize};

/// What the host is like, as far as a plan depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub unit: UnitName,
    pub pid: Pid,
    pub user: String,
    pub debugger: Debugger,
    pub firewall: Firewall,
    pub confinement: Confinement,
    /// The SELinux booleans that a session needs, that of the gateway the first.
    #[serde(default)]
    pub booleans: Vec<Boolean>,
    /// The target is started for the session.
    #[serde(default)]
    pub exec: Option<Exec>,
    /// There is no process: dlv reads this.
    #[serde(default)]
    pub dump: Option<Dump>,
    /// The host has hooks that take the service out of its pool, or put it back.
    pub drains: bool,
}

/// An SELinux boolean: what a session needs it to be, and what it is when no session is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boolean {
    pub name: BooleanName,
    pub value: bool,
    pub found: bool,
}

/// A target that is started for the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub at: StartAt,
    /// The unit ran before, and is restarted.
    pub was_running: bool,
}

/// What confines the processes of a session, besides systemd's sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Confinement {
    None,
    AppArmor,
    Selinux,
}

/// Who filters packets on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum Firewall {
    Firewalld {
        version: String,
        /// The zone that the traffic from each source goes through.
        zones: Vec<(Cidr, String)>,
    },
    /// No firewalld is running: the fence is all there is.
    Nftables,
}

/// What was asked for and allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub id: SessionId,
    pub mode: Mode,
    pub ttl: Ttl,
    pub port: Port,
    /// Without overlaps.
    pub sources: Vec<Cidr>,
}

/// When a step may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Before there was a session; the ledger knows of it from its first write on.
    Already,
    /// After every step before it has been taken, except those that overlap.
    InOrder,
    /// The next step need not wait for this one (dlv takes a second or more to attach).
    Overlapping,
    /// After every step before it has been taken.
    WhenAllTaken,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub grant: Grant,
    pub start: Start,
    /// What it does, for a person.
    pub does: String,
    /// How it is given back.
    pub undo: String,
    /// What ends it if nobody gives it back.
    pub ends_by_itself: String,
}

/// The steps of a session. The dead man is the first that is taken, the opening of the firewall the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub steps: Vec<Step>,
}

/// The plan for `wanted` on a host like `facts`.
pub fn plan(wanted: &Wanted, facts: &Facts) -> Plan {
    let remote = wanted.sources.iter().any(|source| !source.is_loopback());
    let mut steps = already(wanted, facts);
    steps.push(dead_man(&wanted.id));
    if let Some(dump) = &facts.dump {
        steps.push(reader(wanted, facts, dump));
    } else if wanted.mode == Mode::Observe {
        steps.extend([guard(&wanted.id), observer(wanted, facts)]);
    } else {
        // A service that does not stand need not leave its pool.
        if facts.drains && facts.exec.is_none() {
            steps.push(drained(facts));
        }
        steps.extend([debugger(wanted, facts), guard(&wanted.id)]);
    }
    if remote {
        steps.push(fence(wanted));
    }
    if facts.confinement == Confinement::AppArmor {
        steps.push(gateway_profile());
    }
    steps.extend(facts.booleans.iter().map(boolean));
    steps.push(gateway(wanted));
    if let Firewall::Firewalld { version, zones } = &facts.firewall {
        steps.extend(
            zones
                .iter()
                .filter(|(source, _)| !source.is_loopback())
                .map(|(source, zone)| firewalld_rule(wanted, version, *source, zone)),
        );
    }
    Plan { steps }
}

/// The plan for a session that takes images of process `pid` of `unit`: no port, no firewall.
pub fn image_plan(id: &SessionId, unit: &UnitName, pid: Pid) -> Plan {
    let image = Step {
        grant: Grant::image(id, pid),
        start: Start::InOrder,
        does: format!("take images of process {pid} of {unit}, without network"),
        undo: "stop it, check the program's text".to_owned(),
        ends_by_itself: "when it is done; systemd's RuntimeMaxSec at the latest".to_owned(),
    };
    // The guard first: it has to be there before the program is touched.
    Plan { steps: vec![dead_man(id), guard(id), image] }
}

fn dead_man(id: &SessionId) -> Step {
    Step {
        grant: Grant::dead_man(id, 0),
        start: Start::InOrder,
        does: "arm the timer that revokes the session even with no godebugd alive".to_owned(),
        undo: "stop the timer".to_owned(),
        ends_by_itself: "it fires once, at the end of the session".to_owned(),
    }
}

/// What was done so that there is a process to debug.
fn already(wanted: &Wanted, facts: &Facts) -> Vec<Step> {
    let Some(exec) = facts.exec else { return Vec::new() };
    let started = (!exec.was_running).then(|| started(facts));
    started.into_iter().chain([launcher(wanted, facts, exec)]).collect()
}

fn started(facts: &Facts) -> Step {
    Step {
        grant: Grant::Started { unit: facts.unit.clone() },
        start: Start::Already,
        does: format!("start {}, which does not run", facts.unit),
        undo: "stop it again".to_owned(),
        ends_by_itself: "the dead man stops it".to_owned(),
    }
}

fn launcher(wanted: &Wanted, facts: &Facts, exec: Exec) -> Step {
    let first =
        if exec.was_running { format!("restart {}, and ", facts.unit) } else { String::new() };
    Step {
        grant: Grant::launcher(&wanted.id),
        start: Start::Already,
        does: format!("{first}catch its process as systemd executes it, and hold it for dlv"),
        undo: "let it go; the service runs on as systemd has started it".to_owned(),
        ends_by_itself: "it lets go when dlv does not come within a minute".to_owned(),
    }
}

fn drained(facts: &Facts) -> Step {
    Step {
        grant: Grant::Drained,
        start: Start::InOrder,
        does: format!("take {} out of its pool, by the host's drain hook", facts.unit),
        undo: "put it back, by the undrain hook, when the debugger is gone".to_owned(),
        ends_by_itself: "the dead man puts it back".to_owned(),
    }
}

fn guard(id: &SessionId) -> Step {
    Step {
        grant: Grant::guard(id),
        start: Start::Overlapping,
        does: "stand by to repair the program if its debugger is killed".to_owned(),
        undo: "stop it, after the debugger".to_owned(),
        ends_by_itself: "it ends when the debugger has".to_owned(),
    }
}

fn debugger(wanted: &Wanted, facts: &Facts) -> Step {
    Step {
        grant: Grant::debugger(&wanted.id, facts.pid),
        start: Start::Overlapping,
        does: format!(
            "attach dlv {} ({}) to process {} of {} as user {}, on a Unix socket, without network",
            facts.debugger.version, facts.debugger.path, facts.pid, facts.unit, facts.user
        ),
        undo: "cut its clients, halt, clear breakpoints, detach, check the program's text"
            .to_owned(),
        ends_by_itself: "systemd's RuntimeMaxSec, by the same orderly way".to_owned(),
    }
}

fn reader(wanted: &Wanted, facts: &Facts, dump: &Dump) -> Step {
    Step {
        grant: Grant::debugger(&wanted.id, dump.pid),
        start: Start::Overlapping,
        does: match &dump.image {
            None => format!(
                "unpack the core dump of process {} of {}, and let dlv {} ({}) read it, as nobody, on a Unix \
                 socket, without network",
                dump.pid, facts.unit, facts.debugger.version, facts.debugger.path
            ),
            Some(image) => format!(
                "let dlv {} ({}) read image {} of process {} of {}, as nobody, on a Unix socket, without network",
                facts.debugger.version, facts.debugger.path, image.name, dump.pid, facts.unit
            ),
        },
        undo: "end it; what was unpacked goes with it".to_owned(),
        ends_by_itself: "systemd's RuntimeMaxSec".to_owned(),
    }
}

/// It waits for its guard before it touches the target.
fn observer(wanted: &Wanted, facts: &Facts) -> Step {
    Step {
        grant: Grant::image(&wanted.id, facts.pid),
        start: Start::InOrder,
        does: format!(
            "take images of process {} of {} when a debugger wants one, as user {}, and let dlv {} ({}) \
             read them; the process stands about a millisecond for each",
            facts.pid, facts.unit, facts.user, facts.debugger.version, facts.debugger.path
        ),
        undo: "stop it, check the program's text".to_owned(),
        ends_by_itself: "systemd's RuntimeMaxSec, by the same orderly way".to_owned(),
    }
}

fn fence(wanted: &Wanted) -> Step {
    Step {
        grant: Grant::fence(&wanted.id),
        start: Start::InOrder,
        does: format!(
            "drop every packet to port {} that does not come from {}",
            wanted.port,
            list(&wanted.sources)
        ),
        undo: "remove the table".to_owned(),
        ends_by_itself: "the kernel forgets the sources at the end; the port stays dropped"
            .to_owned(),
    }
}

fn gateway_profile() -> Step {
    Step {
        grant: Grant::GatewayProfile { profile: "godebug-gateway".to_owned() },
        start: Start::InOrder,
        does: "let the gateway onto the network in AppArmor: exchange its locked profile for the open one"
            .to_owned(),
        undo: "exchange it back, unless another session is open; connections stop with it".to_owned(),
        ends_by_itself: "whatever loads profiles from /etc/apparmor.d locks it, a boot too".to_owned(),
    }
}

fn boolean(boolean: &Boolean) -> Step {
    let Boolean { name, value, found } = boolean;
    let word = |value: bool| if value { "on" } else { "off" };
    let does = if name.is_gateways() {
        format!("let the gateway onto the network in SELinux: turn {name} on, in the kernel only")
    } else {
        format!("turn SELinux boolean {name} {}, in the kernel only", word(*value))
    };
    Step {
        grant: Grant::Boolean { name: name.clone(), value: *value, found: *found },
        start: Start::InOrder,
        does,
        undo: format!(
            "turn it {}, unless another session is open{}",
            word(*found),
            if name.is_gateways() { "; connections stop with it" } else { "" }
        ),
        ends_by_itself: "a boot reads the policy's own value".to_owned(),
    }
}

fn gateway(wanted: &Wanted) -> Step {
    Step {
        grant: Grant::gateway(&wanted.id, wanted.port),
        start: Start::InOrder,
        does: format!(
            "listen on TCP port {} for {}, TLS 1.3 with certificates on both sides",
            wanted.port,
            list(&wanted.sources)
        ),
        undo: "stop it; its connections go with it".to_owned(),
        ends_by_itself: "its own deadline, and systemd's RuntimeMaxSec".to_owned(),
    }
}

/// How every rich rule of ours begins, as firewalld prints it. It has no name or comment to tell it
/// by, but a priority (firewalld.richlanguage(5)), which nobody else has a reason to choose. A
/// positive one comes after what others deny.
const RULE_MARK: &str = "rule priority=\"2345\"";

/// Whether a rich rule, as firewalld prints it, is one of a session.
pub fn is_ours(rule: &str) -> bool {
    rule.starts_with(RULE_MARK) && rule.ends_with("protocol=\"tcp\" accept")
}

fn firewalld_rule(wanted: &Wanted, version: &str, source: Cidr, zone: &str) -> Step {
    let family = if source.is_ipv4() { "ipv4" } else { "ipv6" };
    let rule = format!(
        "{RULE_MARK} family=\"{family}\" source address=\"{source}\" port port=\"{}\" protocol=\"tcp\" accept",
        wanted.port
    );
    let ends_by_itself = if firewalld_timeout_is_safe(version) {
        "firewalld's own timeout"
    } else {
        "the fence keeps the port shut (this firewalld breaks when it reloads with a timed rule)"
    };
    Step {
        does: format!("let {source} reach port {} through firewalld's zone {zone}", wanted.port),
        grant: Grant::FirewalldRule { zone: zone.to_owned(), rule },
        start: Start::WhenAllTaken,
        undo: "remove the rule".to_owned(),
        ends_by_itself: ends_by_itself.to_owned(),
    }
}

fn list(sources: &[Cidr]) -> String {
    sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether a rule with a timeout survives, or at least does no harm, when this firewalld reloads.
///
/// firewalld#1597: 2.3.3, 2.3.4 and 2.4.1 to 2.5.1 change a table while walking it and are left
/// without zones. Later versions count as unsafe until somebody has looked.
pub fn firewalld_timeout_is_safe(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(u32::MAX));
    let mut part = || parts.next().unwrap_or(0);
    let version = (part(), part(), part());
    version <= (2, 3, 2) || version == (2, 4, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delve::DelveVersion;
    use proptest::prelude::*;

    fn facts(firewall: Firewall) -> Facts {
        Facts {
            unit: "shop".parse().unwrap(),
            pid: 99.try_into().unwrap(),
            user: "shop".to_owned(),
            debugger: Debugger {
                path: "/usr/bin/dlv".to_owned(),
                version: DelveVersion::new(1, 24, 0),
                built_with: None,
            },
            firewall,
            confinement: Confinement::None,
            booleans: Vec::new(),
            exec: None,
            dump: None,
            drains: false,
        }
    }

    fn wanted(sources: &[&str]) -> Wanted {
        Wanted {
            id: "0000000a".parse().unwrap(),
            mode: Mode::Modify,
            ttl: "30m".parse().unwrap(),
            port: 2345.try_into().unwrap(),
            sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_session_for_this_host_alone_touches_no_firewall() {
        let firewall = Firewall::Firewalld {
            version: "2.3.1".to_owned(),
            zones: vec![(Cidr::LOOPBACK_4, "public".to_owned())],
        };
        let plan = plan(&wanted(&["127.0.0.1"]), &facts(firewall));
        assert!(plan.steps.iter().all(|step| {
            !matches!(step.grant, Grant::Fence { .. } | Grant::FirewalldRule { .. })
        }));
    }

    #[test]
    fn images_come_after_their_dead_man_and_their_guard_and_open_nothing() {
        let plan = image_plan(
            &"0000000a".parse().unwrap(),
            &"shop".parse().unwrap(),
            99.try_into().unwrap(),
        );
        let grants: Vec<&Grant> = plan.steps.iter().map(|step| &step.grant).collect();
        let [Grant::DeadMan { .. }, Grant::Guard { .. }, Grant::Image { .. }] = grants.as_slice()
        else {
            panic!("{grants:?}");
        };
    }

    #[test]
    fn an_observer_comes_after_its_guard_and_nothing_attaches_or_drains() {
        let wanted = Wanted { mode: Mode::Observe, ..wanted(&["10.0.0.1"]) };
        let plan = plan(&wanted, &Facts { drains: true, ..facts(Firewall::Nftables) });
        let grants: Vec<&Grant> = plan.steps.iter().map(|step| &step.grant).collect();
        let [
            Grant::DeadMan { .. },
            Grant::Guard { .. },
            Grant::Image { .. },
            Grant::Fence { .. },
            Grant::Gateway { .. },
        ] = grants.as_slice()
        else {
            panic!("{grants:?}");
        };
    }

    #[test]
    fn a_unit_that_did_not_run_is_stopped_after_whoever_debugs_it_has_gone() {
        let exec = |was_running| Some(Exec { at: StartAt::Main, was_running });
        let facts = Facts { exec: exec(false), drains: true, ..facts(Firewall::Nftables) };
        let stopped = plan(&wanted(&["127.0.0.1"]), &facts);
        let grants: Vec<&Grant> = stopped.steps.iter().map(|step| &step.grant).collect();
        let [
            Grant::Started { .. },
            Grant::Launcher { .. },
            Grant::DeadMan { .. },
            Grant::Debugger { .. },
            Grant::Guard { .. },
            Grant::Gateway { .. },
        ] = grants.as_slice()
        else {
            panic!("{grants:?}");
        };
        let ran = plan(&wanted(&["127.0.0.1"]), &Facts { exec: exec(true), ..facts });
        assert!(!ran.steps.iter().any(|step| matches!(step.grant, Grant::Started { .. })));
    }

    #[test]
    fn the_profile_opens_before_the_gateway_starts_and_locks_after_it_has_ended() {
        let facts = Facts { confinement: Confinement::AppArmor, ..facts(Firewall::Nftables) };
        let plan = plan(&wanted(&["10.0.0.1"]), &facts);
        let at = |is: fn(&Grant) -> bool| plan.steps.iter().position(|step| is(&step.grant));
        let profile = at(|grant| matches!(grant, Grant::GatewayProfile { .. }));
        assert!(profile.is_some());
        // What is given back is given back in reverse.
        assert!(profile < at(|grant| matches!(grant, Grant::Gateway { .. })));
    }

    #[test]
    fn booleans_are_turned_before_the_gateway_starts_and_back_after_it_has_ended() {
        let turned =
            |name: &str| Boolean { name: name.parse().expect("a name"), value: true, found: false };
        let booleans = vec![turned(BooleanName::GATEWAY), turned("site_wants_it")];
        let facts =
            Facts { confinement: Confinement::Selinux, booleans, ..facts(Firewall::Nftables) };
        let plan = plan(&wanted(&["10.0.0.1"]), &facts);
        let names: Vec<_> = plan
            .steps
            .iter()
            .take_while(|step| !matches!(step.grant, Grant::Gateway { .. }))
            .filter_map(|step| match &step.grant {
                Grant::Boolean { name, value: true, found: false } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["debugger_can_network", "site_wants_it"]);
    }

    #[test]
    fn a_service_leaves_its_pool_before_the_debugger_and_comes_back_after_it() {
        let plan =
            plan(&wanted(&["127.0.0.1"]), &Facts { drains: true, ..facts(Firewall::Nftables) });
        let [first, second, third, ..] = plan.steps.as_slice() else { panic!("{plan:?}") };
        // What is given back is given back in reverse, by the dead man if nobody else does.
        assert!(matches!(first.grant, Grant::DeadMan { .. }));
        assert!(matches!((&second.grant, &third.grant), (Grant::Drained, Grant::Debugger { .. })));
        assert_eq!(second.start, Start::InOrder);
    }

    #[test]
    fn the_timeout_is_used_where_a_reload_survives_it() {
        for safe in ["1.3.3", "2.3.1", "2.3.2", "2.4.0"] {
            assert!(firewalld_timeout_is_safe(safe), "{safe}");
        }
        for unsafe_one in ["2.3.3", "2.3.4", "2.4.1", "2.5.0", "2.5.1", "3.0.0"] {
            assert!(!firewalld_timeout_is_safe(unsafe_one), "{unsafe_one}");
        }
    }

    proptest! {
        #[test]
        fn the_dead_man_is_first_and_the_firewall_opens_last(hosts in prop::collection::vec(any::<u32>(), 1..5)) {
            let sources: Vec<Cidr> =
                hosts.iter().map(|host| Cidr::host(std::net::Ipv4Addr::from(*host).into())).collect();
            let zones = sources.iter().map(|source| (*source, "public".to_owned())).collect();
            let mut wanted = wanted(&[]);
            wanted.sources = sources;
            let firewall = Firewall::Firewalld { version: "2.3.1".to_owned(), zones };
            let plan = plan(&wanted, &facts(firewall));
            let first_is_dead_man = matches!(plan.steps[0].grant, Grant::DeadMan { .. });
            prop_assert!(first_is_dead_man);
            let rules: Vec<bool> = plan.steps.iter()
                .map(|step| matches!(step.grant, Grant::FirewalldRule { .. })).collect();
            prop_assert!(rules.is_sorted());
        }
    }
}
