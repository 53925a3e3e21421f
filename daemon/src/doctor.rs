//! `doctor`: every prerequisite of the host, and of a unit if one is named. Looks, changes nothing.

mod versions;

use crate::config::Config;
use crate::engine::Host;
use crate::host::apparmor::{self, Variant};
use crate::host::nftables;
use crate::host::selinux;
use crate::ledger::Ledger;
use crate::sessions::{self, Sessions, all_debuggers};
use crate::target::place::Place;
use crate::{paths, target};
use godebug_api::documents::{Check, Diagnosis, Inspection, Verdict};
use godebug_api::{BooleanName, FreezeLimit, SessionId, State};
use godebug_core::delve::{FIRST_WITH_UNIX_SOCKET, supported_go};
use godebug_core::forecast::{Objection, megabytes};
use godebug_core::grant::Grant;
use godebug_core::plan::Confinement;
use std::path::Path;
use std::time::Duration;

/// Looks at everything. A check that cannot be made is a bad one.
pub async fn diagnose(sessions: &Sessions, place: Option<&Place>) -> Diagnosis {
    let mut checks = vec![configuration(), rules()];
    checks.extend(versions::of_the_host());
    checks.extend([systemd(sessions).await, control_groups()]);
    checks.extend(debuggers().await);
    checks.push(fence().await);
    checks.push(firewall(sessions).await);
    checks.push(polkit(sessions).await);
    checks.push(ptrace());
    checks.extend(app_armor());
    checks.extend(selinux());
    checks.push(audit_log());
    checks.extend(hooks());
    checks.extend(stuck(sessions));
    checks.extend(grants_of_live_sessions(sessions).await);
    checks.push(left_over(sessions).await);
    if let Some(place) = place {
        checks.extend(of_target(sessions, place).await);
    }
    Diagnosis { good: checks.iter().all(|check| check.verdict != Verdict::Bad), checks }
}

fn check(
    name: &str,
    verdict: Verdict,
    found: impl Into<String>,
    remedy: impl Into<String>,
) -> Check {
    Check { name: name.to_owned(), verdict, found: found.into(), remedy: remedy.into() }
}

fn good(name: &str, found: impl Into<String>) -> Check {
    check(name, Verdict::Good, found, "")
}

fn configuration() -> Check {
    match Config::load() {
        Ok(config) => good(
            "configuration",
            format!(
                "ports {} to {}, sessions of {} at most",
                config.ports.start(),
                config.ports.end(),
                humantime::format_duration(config.max_ttl)
            ),
        ),
        Err(refusal) => check("configuration", Verdict::Bad, refusal.message, refusal.remedy),
    }
}

/// Those that the site has; each that could not be run is a warning, since it hears of nothing.
fn hooks() -> Vec<Check> {
    let Ok(config) = Config::load() else { return Vec::new() };
    let look = |hook: &crate::hooks::Hook| match hook.usable() {
        Ok(()) => good("hook", hook.to_string()),
        Err(why) => check(
            "hook",
            Verdict::Warning,
            format!("{hook} is not run: {why}"),
            "correct it, or take it out of /etc/godebug/godebugd.toml",
        ),
    };
    config.hooks.iter().map(look).collect()
}

fn rules() -> Check {
    match crate::authority::rules::current() {
        Ok(rules) if rules.is_empty() => check(
            "rules",
            Verdict::Bad,
            "there are none, so nothing is granted",
            "see /usr/lib/godebug/rules.d and /etc/godebug/rules.d",
        ),
        Ok(rules) => good("rules", format!("{} can be used", rules.len())),
        Err(refusal) => check("rules", Verdict::Bad, refusal.message, refusal.remedy),
    }
}

async fn systemd(sessions: &Sessions) -> Check {
    let systemd = match sessions.shared().host.systemd() {
        Ok(systemd) => systemd,
        Err(refusal) => return check("systemd", Verdict::Bad, refusal.message, refusal.remedy),
    };
    match systemd.manager().version().await {
        Ok(version) => versions::held_against_the_table("systemd", &version),
        Err(error) => {
            check("systemd", Verdict::Bad, error.to_string(), "godebug works through systemd alone")
        }
    }
}

fn control_groups() -> Check {
    if Path::new(paths::CGROUP).join("cgroup.controllers").exists() {
        good("control groups", "unified hierarchy (cgroup v2)")
    } else {
        check(
            "control groups",
            Verdict::Bad,
            "the unified hierarchy is not mounted at /sys/fs/cgroup",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    }
}

async fn debuggers() -> Vec<Check> {
    let search = all_debuggers().await;
    let mut checks: Vec<Check> = search
        .found
        .iter()
        .map(|debugger| {
            let name = format!("dlv {}", debugger.version);
            if debugger.version < FIRST_WITH_UNIX_SOCKET {
                return check(
                    &name,
                    Verdict::Warning,
                    format!("{}: too old, it cannot listen on a Unix socket", debugger.path),
                    format!("install dlv {FIRST_WITH_UNIX_SOCKET} or later beside it"),
                );
            }
            let range = supported_go(debugger.version)
                .map(|(oldest, newest)| format!("Go {oldest} to {newest}"))
                .unwrap_or_default();
            good(&name, format!("{}: {range}", debugger.path))
        })
        .collect();
    checks.extend(search.skipped.iter().map(|(path, why)| {
        check("dlv", Verdict::Warning, format!("{} is not used: {why}", path.display()), "")
    }));
    if !search.found.iter().any(|debugger| debugger.version >= FIRST_WITH_UNIX_SOCKET) {
        checks.push(check(
            "dlv",
            Verdict::Bad,
            "no dlv that can be used is on this host",
            format!("install delve, or put one at {}/delve/VERSION/dlv", paths::VENDOR),
        ));
    }
    checks
}

async fn fence() -> Check {
    match nftables::list().await {
        Ok(tables) => good("nftables", format!("usable, {} fences up", tables.len())),
        Err(error) => check(
            "nftables",
            Verdict::Bad,
            error.to_string(),
            "install nftables; without it only sessions from this host itself can be opened",
        ),
    }
}

async fn firewall(sessions: &Sessions) -> Check {
    match sessions.shared().host.firewalld().await {
        Ok(Some(firewalld))
            if !godebug_core::plan::firewalld_timeout_is_safe(&firewalld.version) =>
        {
            good(
                "firewalld",
                format!("{}, used without its timeouts (firewalld#1597)", firewalld.version),
            )
        }
        Ok(Some(firewalld)) => versions::held_against_the_table("firewalld", &firewalld.version),
        Ok(None) => good("firewalld", "not running: the nftables fence is used alone"),
        Err(why) => check("firewalld", Verdict::Bad, why, "see `systemctl status firewalld`"),
    }
}

async fn polkit(sessions: &Sessions) -> Check {
    let asked = async {
        let bus = zbus::fdo::DBusProxy::new(&sessions.shared().connection).await?;
        let name = zbus::names::BusName::try_from("org.freedesktop.PolicyKit1")?;
        let running = bus.name_has_owner(name.clone()).await?;
        let names = bus.list_activatable_names().await?;
        let there = running || names.iter().any(|known| known.as_str() == name.as_str());
        zbus::Result::Ok(there.then_some(bus))
    };
    match asked.await.map(|bus| bus.is_some()) {
        Ok(true) => match polkit_version(sessions).await {
            Some(version) => versions::held_against_the_table("polkit", &version),
            None => good("polkit", "there"),
        },
        Ok(false) => check("polkit", Verdict::Bad, "polkit is not installed", "install polkitd"),
        Err(error) => {
            check("polkit", Verdict::Bad, error.to_string(), "see `systemctl status polkit`")
        }
    }
}

async fn polkit_version(sessions: &Sessions) -> Option<String> {
    let connection = &sessions.shared().connection;
    let authority = zbus_polkit::policykit1::AuthorityProxy::new(connection).await.ok()?;
    authority.backend_version().await.ok()
}

/// Whether the kernel lets anybody trace.
fn ptrace() -> Check {
    if let Err(refusal) = selinux::lets_trace() {
        return check("ptrace", Verdict::Bad, refusal.message, refusal.remedy);
    }
    match std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Err(_) => good("ptrace", "no Yama"),
        Ok(scope) if scope.trim() == "3" => check(
            "ptrace",
            Verdict::Bad,
            "kernel.yama.ptrace_scope is 3: nobody may trace until the next boot",
            "set it to 0, 1 or 2 in sysctl.d and restart the host",
        ),
        Ok(scope) => good("ptrace", format!("kernel.yama.ptrace_scope is {}", scope.trim())),
    }
}

/// Nothing where SELinux has its place.
fn app_armor() -> Option<Check> {
    const NAME: &str = "AppArmor";
    match (apparmor::is_active(), selinux::is_active()) {
        (true, _) => Some(active_app_armor(NAME)),
        (false, true) => None,
        (false, false) => {
            Some(good(NAME, "not active: sessions are confined by systemd's sandbox alone"))
        }
    }
}

fn active_app_armor(name: &str) -> Check {
    let failed = |why: String| check(name, Verdict::Bad, why, "is securityfs mounted?");
    let variant = match (apparmor::confinement(), apparmor::gateway_variant()) {
        (Ok(Confinement::AppArmor), Ok(Some(variant))) => variant,
        (Err(error), _) | (_, Err(error)) => return failed(error.to_string()),
        _ => {
            return check(
                name,
                Verdict::Warning,
                "active, but without godebug's profiles: systemd's sandbox alone confines sessions",
                "load them: apparmor_parser --replace /etc/apparmor.d/godebug-*",
            );
        }
    };
    let sessions = match apparmor::needed_by(None) {
        Ok(sessions) => sessions,
        Err(error) => return failed(error.to_string()),
    };
    match variant {
        Variant::Locked => good(name, "dlv and gateway confined; locked: no gateway has a network"),
        Variant::Open => {
            let sessions: Vec<String> = sessions.iter().map(ToString::to_string).collect();
            good(name, format!("dlv and gateway confined; open for {}", sessions.join(", ")))
        }
    }
}

/// Nothing where SELinux is not active.
fn selinux() -> Option<Check> {
    const NAME: &str = "SELinux";
    if !selinux::is_active() {
        return None;
    }
    let state = if selinux::is_enforcing() { "enforcing" } else { "permissive" };
    let gate = BooleanName::gateways();
    let failed = |why: String| {
        check(NAME, Verdict::Bad, why, "see that selinuxfs is mounted at /sys/fs/selinux")
    };
    Some(match (selinux::value(&gate), selinux::needed_by(&gate, None)) {
        (Err(error), _) => failed(error.to_string()),
        (_, Err(error)) => failed(error.to_string()),
        (Ok(None), _) => check(
            NAME,
            Verdict::Warning,
            format!(
                "{state}, without godebug's policy: its processes run in the domains that systemd gives them"
            ),
            "load it: /usr/lib/godebug/selinux-policy load",
        ),
        (Ok(Some(false)), _) => {
            good(NAME, format!("{state}; {gate} is off: no gateway has a network"))
        }
        (Ok(Some(true)), Ok(sessions)) if sessions.is_empty() => check(
            NAME,
            Verdict::Bad,
            format!("{gate} is on, and no session is open"),
            format!("setsebool {gate} off; where it was made permanent: setsebool -P {gate} off"),
        ),
        (Ok(Some(true)), Ok(sessions)) => {
            let sessions: Vec<String> = sessions.iter().map(ToString::to_string).collect();
            good(NAME, format!("{state}; {gate} is on for {}", sessions.join(", ")))
        }
    })
}

fn audit_log() -> Check {
    let path = Path::new(paths::AUDIT_LOG);
    let directory = path.parent().unwrap_or(path);
    match rustix::fs::access(directory, rustix::fs::Access::WRITE_OK) {
        Ok(()) => good("audit log", path.display().to_string()),
        Err(error) => check(
            "audit log",
            Verdict::Bad,
            format!("{} cannot be written: {error}", directory.display()),
            "systemd-tmpfiles --create godebug.conf; without a record nothing is opened",
        ),
    }
}

fn stuck(sessions: &Sessions) -> Vec<Check> {
    sessions
        .list()
        .iter()
        .flat_map(|session| {
            session.stuck.iter().map(|what| {
                check(
                    &format!("session {}", session.id),
                    Verdict::Bad,
                    format!("stuck: {what}"),
                    "it is tried again; see `journalctl -u godebugd`",
                )
            })
        })
        .collect()
}

/// A live session whose grants are not all there is not what it says it is.
async fn grants_of_live_sessions(sessions: &Sessions) -> Vec<Check> {
    let mut checks = Vec::new();
    for session in sessions.list().into_iter().filter(|session| session.state == State::Active) {
        let name = format!("session {}", session.id);
        let missing = match missing_grants(sessions, &session.id).await {
            Ok(missing) => missing,
            Err(why) => vec![why],
        };
        checks.push(if missing.is_empty() {
            good(&name, format!("on {}, every grant is there", session.unit))
        } else {
            check(
                &name,
                Verdict::Bad,
                format!("not there: {}", missing.join("; ")),
                format!("end it: godebugctl stop {}", session.id),
            )
        });
    }
    checks
}

async fn missing_grants(sessions: &Sessions, id: &SessionId) -> Result<Vec<String>, String> {
    let Some(ledger) = Ledger::open(id).map_err(|error| error.to_string())? else {
        return Ok(Vec::new()); // it has just ended
    };
    let replay = ledger.without_lock().replay().map_err(|error| error.to_string())?;
    let Some(replay) = replay else { return Ok(Vec::new()) };
    let mut missing = Vec::new();
    for (_, grant) in &replay.outstanding {
        if matches!(grant, Grant::GatewayProfile { .. }) {
            // One for all sessions: to be read back it counts as gone when another one needs it too.
            if !matches!(apparmor::gateway_variant(), Ok(Some(Variant::Open))) {
                missing.push(grant.to_string());
            }
            continue;
        }
        if let Grant::Boolean { name, value, .. } = grant {
            if !matches!(selinux::value(name), Ok(Some(now)) if now == *value) {
                missing.push(grant.to_string());
            }
            continue;
        }
        // The first of what is looked at is the grant itself, the others are what it causes.
        let read = sessions.shared().host.read_back(&replay.opened, grant).await;
        if let Some((what, None)) = read.first() {
            missing.push(what.clone());
        }
    }
    Ok(missing)
}

/// The proof of a session's end, for the host as a whole.
async fn left_over(sessions: &Sessions) -> Check {
    let left = sessions::left_over(&sessions.shared().host).await;
    if left.is_empty() {
        return good("left over", "no unit, table or rule of a session that has ended");
    }
    check(
        "left over",
        Verdict::Bad,
        left.join("; "),
        "systemctl restart godebugd removes what belongs to no session; see its journal",
    )
}

async fn of_target(sessions: &Sessions, place: &Place) -> Vec<Check> {
    let name = place.name().to_string();
    let inspected =
        async { target::inspect::inspect(sessions.shared().host.systemd()?, place, None).await };
    let inspection = match inspected.await {
        Ok(inspection) => inspection,
        Err(refusal) => return vec![check(&name, Verdict::Bad, refusal.message, refusal.remedy)],
    };
    let mut checks = vec![match &inspection.refusal {
        None => good(
            &name,
            format!(
                "process {}, {}, {}",
                inspection.pid,
                inspection.go_version,
                inspection.debugger.as_deref().unwrap_or("no dlv")
            ),
        ),
        Some(refusal) => {
            check(&name, Verdict::Bad, refusal.message.clone(), refusal.remedy.clone())
        }
    }];
    if let Some(watchdog) = inspection.watchdog_ms {
        checks.push(check(
            &name,
            Verdict::Warning,
            format!(
                "WatchdogSec={} s: systemd is told that it is alive while the debugger holds it",
                watchdog / 1000
            ),
            "other watchers (load balancers, leases) are not told; keep breakpoints short",
        ));
    }
    checks.extend(freeze(&name, &inspection));
    checks.extend(image(&name, &inspection));
    checks
}

/// What an image would do to it; nothing where there is no debug information to read one with.
fn image(name: &str, inspection: &Inspection) -> Option<Check> {
    let image = inspection.image.as_ref()?;
    inspection.freeze_forecast_ms?;
    Some(match &image.refusal {
        None => good(
            name,
            format!(
                "an image stops it for about {} ms ({} in memory{})",
                image.pause_ms.as_millis(),
                megabytes(image.bytes),
                if image.standing.is_some() { ", read while it stands" } else { "" }
            ),
        ),
        Some(refusal) => {
            check(name, Verdict::Warning, refusal.message.clone(), refusal.remedy.clone())
        }
    })
}

/// For how long attaching will freeze the unit; nothing where nobody can attach for want of debug
/// information, which is a check of its own.
fn freeze(name: &str, inspection: &Inspection) -> Option<Check> {
    let forecast = inspection.freeze_forecast_ms?;
    let found = format!(
        "attaching freezes it for about {forecast} ({} of debug information)",
        megabytes(inspection.debug_bytes)
    );
    let watchdog = inspection.watchdog_ms.map(Duration::from_millis);
    Some(match Objection::to(forecast, FreezeLimit::default(), watchdog) {
        None => good(name, found),
        Some(objection) => {
            check(name, Verdict::Warning, format!("{found}, {objection}"), objection.remedy())
        }
    })
}
