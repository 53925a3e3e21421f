//! SELinux in enforcing mode: no debugger has a network but while a session is open, each part of a session
//! is in a domain that reaches nothing beside its work, and services with domains of their own are
//! debugged or refused with what the policy lacks.

use anyhow::{Context, Result, ensure};
use godebug_tests::{
    Machine, Vm,
    scenario::VmScenario,
    vm::{Lsm, VmSnapshot, nothing_left_on},
};

use crate::{
    on_vm::{
        IN_TIME, attempts, came_out, crashed, debugged, hooked, in_good_order, in_own_namespace,
        kept, nameless, observed, open, sent, start_ticker, started, told,
    },
    support::{Laptop, Session, refused, text},
};

pub(crate) const ALL: &[VmScenario] = &[
    VmScenario::new("session_turns_the_boolean_and_its_end_turns_it_back", Lsm::Selinux, whole),
    VmScenario::new("service_in_its_own_domain_is_debugged_or_refused", Lsm::Selinux, own_domain),
    VmScenario::new("image_is_taken_with_the_boolean_off", Lsm::Selinux, image),
    VmScenario::new("program_of_a_user_without_a_name_is_debugged", Lsm::Selinux, without_a_name),
    VmScenario::new("service_is_started_under_a_debugger", Lsm::Selinux, start),
    VmScenario::new("core_dump_of_a_real_crash_is_looked_into", Lsm::Selinux, core_dump),
    VmScenario::new("booleans_of_the_site_get_their_values_back", Lsm::Selinux, of_the_site),
    VmScenario::new("hooks_run_outside_of_the_domains_of_godebug", Lsm::Selinux, hooks),
    VmScenario::new("host_that_forbids_tracing_is_honoured", Lsm::Selinux, no_tracing),
    VmScenario::new("package_comes_and_goes_while_the_host_enforces", Lsm::Selinux, package),
    VmScenario::new("boolean_survives_neither_a_killed_daemon_nor_a_boot", Lsm::Selinux, lost),
    VmScenario::new(
        "boolean_is_given_back_wherever_its_session_is_broken",
        Lsm::Selinux,
        crate::boolean_faults::everywhere,
    ),
];

pub(crate) const GATE: &str = "debugger_can_network";

fn whole(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        ensure!(!is_on(vm, GATE)?, "the boolean is on before anybody asked");
        plan_and_doctor_tell(vm)?;

        let session = open(vm, "ticker", "10m")?;
        ensure!(is_on(vm, GATE)?, "a session is open, the boolean is off");
        domains(vm, &session)?;
        debugged(vm, &session)?;
        no_denials(vm)?;

        second_session_keeps_it_on(vm)?;
        ensure!(is_on(vm, GATE)?, "the end of one session has cut the other's gateway");
        negative_space(vm)?;
        survives_a_policy_reload(vm, &session)?;
        off_cuts_connections(vm, &session)?;
        session.stop(vm)?;
        let proof = session.show(vm)?["proof"].to_string();
        ensure!(proof.contains("SELinux boolean debugger_can_network"), "not proved: {proof}");
        ensure!(!is_on(vm, GATE)?, "no session is open, the boolean is on");
        nothing_left_on(vm, &before)
    })
}

/// The plan names it as a step, and doctor says which state it is in.
fn plan_and_doctor_tell(vm: &Vm) -> Result<()> {
    let from = vm.laptop_address();
    let plan = vm.ok(&format!("godebugctl attach ticker --dry-run --from {from}"))?;
    ensure!(plan.contains("turn debugger_can_network on"), "the plan does not tell: {plan}");
    let doctor = vm.run("godebugctl doctor")?.stdout;
    ensure!(doctor.contains("debugger_can_network is off"), "doctor does not tell: {doctor}");
    Ok(())
}

/// Every process of a session is in the domain that is its own.
fn domains(vm: &Vm, session: &Session) -> Result<()> {
    let expected = [
        (session.unit("dlv"), "godebug_dlv_t"),
        (session.unit("gateway"), "godebug_gateway_t"),
        (session.unit("guard"), "godebug_revoke_t"),
        ("godebugd.service".to_owned(), "godebugd_t"),
    ];
    for (unit, domain) in expected {
        let label = label_of(vm, &unit)?;
        ensure!(label.contains(&format!(":{domain}:")), "{unit} runs as {label}, not as {domain}");
    }
    Ok(())
}

/// The boolean is one for all sessions: who ends first must not take it from the other.
fn second_session_keeps_it_on(vm: &Vm) -> Result<()> {
    let second = open(vm, "myapp", "10m")?;
    second.stop(vm)
}

/// What code inside each domain cannot do, whatever it is. The boolean is on.
fn negative_space(vm: &Vm) -> Result<()> {
    let dlv = attempts(vm, "domain:godebug_dlv_t", "ticker")?;
    came_out(
        &dlv,
        "godebug_dlv_t",
        &[
            ("tcp socket", false),
            ("udp socket", false),
            ("tcp6 socket", false),
            ("netlink socket", false),
            ("unix socket", true),
            // Below /var/tmp, with a label of its own: its unit has a private one, where it reads images.
            ("write a file", true),
            ("write in /etc", false),
            ("read the target's maps", true),
            ("read the target's program", true),
        ],
    )?;
    let daemon = attempts(vm, "domain:godebugd_t", "ticker")?;
    came_out(
        &daemon,
        "godebugd_t",
        &[
            ("tcp socket", false),
            ("tcp6 socket", false),
            ("udp socket", false),
            ("unix socket", true),
            ("write a file", false),
            ("write in /etc", false),
            ("read the target's maps", true),
        ],
    )?;
    let gateway = attempts(vm, "domain:godebug_gateway_t", "ticker")?;
    came_out(
        &gateway,
        "godebug_gateway_t, on",
        &[
            ("tcp socket", true),
            ("udp socket", false),
            ("netlink socket", false),
            ("unix socket", true),
            ("listen on port 2350", true),
            // Only the ports with the label.
            ("listen on port 3000", false),
            ("write a file", false),
            ("write in /etc", false),
            ("run a program", false),
            ("read the target's maps", false),
            ("read the target's program", false),
            ("trace the target", false),
        ],
    )
}

/// An update of the host's policy in the middle of a session takes nothing from it, and gives nothing.
fn survives_a_policy_reload(vm: &Vm, session: &Session) -> Result<()> {
    vm.ok("load_policy")?;
    ensure!(is_on(vm, GATE)?, "the session's boolean is off after the policy was loaded again");
    debugged(vm, session)
}

/// An administrator turns the boolean off: connections that were made before carry nothing more.
fn off_cuts_connections(vm: &Vm, session: &Session) -> Result<()> {
    let laptop = Laptop::connect(vm, session)?;
    let mut rpc = laptop.rpc()?;
    ensure!(rpc.state()?["Running"] == true, "it does not run");
    vm.ok(&format!("setsebool {GATE} off"))?;
    ensure!(rpc.state().is_err(), "an answer came through while the boolean was off");
    let doctor = vm.run("godebugctl doctor")?.stdout;
    ensure!(doctor.contains("not there: SELinux boolean"), "doctor does not tell: {doctor}");
    let tried = attempts(vm, "domain:godebug_gateway_t", "ticker")?;
    came_out(&tried, "godebug_gateway_t, off", &[("tcp socket", false), ("unix socket", true)])
}

/// A service in a domain that its site's policy made.
fn own_domain(vm: &Vm) -> Result<()> {
    told(vm, || {
        // No rule about domains in general is about this one.
        run_ticker_as(vm, "outsider_t")?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let refusal = vm.run("godebugctl --json attach ticker --detach --yes")?;
        let remedy = text(&refusal.json()?["error"], "remedy")?;
        refused(refusal, 4, "target")?;
        ensure!(remedy.contains("godebug_target(outsider_t)"), "no remedy: {remedy}");
        nothing_left_on(vm, &before)?;

        run_ticker_as(vm, "shop_t")?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let session = open(vm, "ticker", "10m")?;
        debugged(vm, &session)?;
        session.stop(vm)?;
        no_denials(vm)?;
        // Its label too is compared.
        nothing_left_on(vm, &before)
    })
}

fn run_ticker_as(vm: &Vm, domain: &str) -> Result<()> {
    vm.ok(&format!(
        "mkdir -p /run/systemd/system/ticker.service.d && \
         printf '[Service]\\nSELinuxContext=system_u:system_r:{domain}:s0\\n' \
         >/run/systemd/system/ticker.service.d/mac.conf && \
         systemctl daemon-reload && systemctl restart ticker"
    ))?;
    let label = label_of(vm, "ticker")?;
    ensure!(label.contains(domain), "the service runs as {label}");
    Ok(())
}

/// A look into the process opens no port, so it turns no boolean.
fn image(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let shown = vm.ok("godebugctl snapshot ticker --at main.tick --expr main.ticks --timeout 60s --max-pause 10s")?;
        ensure!(shown.contains("main.tick"), "nothing is shown: {shown}");
        let commits = vm.run("grep -c 'bool=debugger_can_network' /var/log/audit/audit.log")?;
        ensure!(commits.stdout.trim() == "0", "the boolean was turned for an image");
        // Had it been, the kernel would have said so in these words.
        vm.ok(&format!("setsebool {GATE} on; setsebool {GATE} off"))?;
        vm.ok("grep -q 'bool=debugger_can_network' /var/log/audit/audit.log")?;
        observed(vm)?;
        kept(vm)?;
        no_denials(vm)?;
        nothing_left_on(vm, &before)
    })
}

/// The launcher asks the kernel to tell it of executions, and holds the service in its own domain's start.
fn start(vm: &Vm) -> Result<()> {
    in_good_order(vm, &[], no_denials, || started(vm))
}

fn hooks(vm: &Vm) -> Result<()> {
    start_ticker(vm)?;
    in_good_order(vm, &["ticker"], no_denials, || hooked(vm))
}

/// Red Hat's and Fedora's policies have a boolean by which a host forbids all tracing. Debian's has none, so
/// the host gets one of that name: what is seen here is that godebug asks for it, says so, and leaves it.
fn no_tracing(vm: &Vm) -> Result<()> {
    const FORBIDDEN: &str = "deny_ptrace";
    told(vm, || {
        start_ticker(vm)?;
        vm.ok(&format!(
            "echo '(boolean {FORBIDDEN} true)' >/tmp/site.cil && semodule -i /tmp/site.cil"
        ))?;
        ensure!(is_on(vm, FORBIDDEN)?, "the host forbids nothing");
        is_the_sites(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        for command in ["attach ticker --detach --yes", "goroutines ticker --max-pause 10s"] {
            let refusal = vm.run(&format!("godebugctl --json {command}"))?;
            let why = refusal.json()?["error"].to_string();
            ensure!(why.contains(FORBIDDEN) && why.contains("the host's own decision"), "{why}");
        }
        let doctor = vm.run("godebugctl doctor ticker")?.stdout;
        ensure!(doctor.contains(FORBIDDEN), "doctor does not tell: {doctor}");
        ensure!(is_on(vm, FORBIDDEN)? && !is_on(vm, GATE)?, "a boolean was turned all the same");
        nothing_left_on(vm, &before)?;

        vm.ok(&format!("setsebool {FORBIDDEN} off"))?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let session = open(vm, "ticker", "10m")?;
        debugged(vm, &session)?;
        session.stop(vm)?;
        no_denials(vm)?;
        nothing_left_on(vm, &before)
    })
}

/// What the package's scripts do on a host whose policy is enforced, by dpkg as an administrator runs it.
fn package(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let package = godebug_tests::image::newest_package()?.context("no package: make deb")?;
        let package = sent(vm, &package)?;
        // A site's own module uses the policy's types, as one that lets dlv at a service does.
        let session = open(vm, "ticker", "10m")?;
        // What was open ends first. semodule may not write to where this machine's commands write.
        let removed = vm.ok("dpkg --remove godebug 2>&1 | cat")?;
        ensure!(
            removed.contains("its SELinux policy stays loaded: another module uses it"),
            "{removed}"
        );
        ensure!(!vm.exists(&format!("/run/godebug/{}", session.id))?, "the session is still there");
        ensure!(!is_on(vm, GATE)?, "the boolean is on without godebug");
        let ticker = vm.ok("systemctl is-active ticker && cat /proc/$(pgrep -x ticker)/status")?;
        ensure!(ticker.contains("TracerPid:\t0"), "{ticker}");

        vm.ok("semodule -X 300 -r domains 2>&1 | cat")?;
        vm.ok(&format!("dpkg --install {package} 2>&1 | cat"))?;
        ensure!(!is_on(vm, GATE)?, "the boolean is on right after the installation");
        for (path, label) in [
            ("/usr/lib/godebug/godebugd", "godebugd_exec_t"),
            ("/usr/lib/godebug/godebug-gateway", "godebug_gateway_exec_t"),
            ("/var/log/godebug", "godebug_log_t"),
        ] {
            let found = vm.ok(&format!("stat -c %C {path}"))?;
            ensure!(found.contains(label), "{path} is {found}");
        }
        is_the_sites(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let session = open(vm, "ticker", "10m")?;
        domains(vm, &session)?;
        debugged(vm, &session)?;
        session.stop(vm)?;
        no_denials(vm)?;
        nothing_left_on(vm, &before)?;

        let removed = vm.ok("dpkg --remove godebug 2>&1 | cat")?;
        ensure!(!removed.contains("stays loaded"), "{removed}");
        ensure!(
            !vm.exists(&format!("/sys/fs/selinux/booleans/{GATE}"))?,
            "the policy is still there"
        );
        let label = vm.ok("stat -c %C /var/log/godebug")?;
        ensure!(label.contains("var_log_t"), "the log has no label that is known: {label}");
        let listed = vm.ok("semodule -l 2>&1 | cat")?;
        ensure!(!listed.contains("godebug"), "{listed}");
        Ok(())
    })
}

/// What has been written to the host until now is its administrator's, and not of a session.
pub(crate) fn is_the_sites(vm: &Vm) -> Result<()> {
    vm.ok("touch /run/harness/booted").map(drop)
}

fn without_a_name(vm: &Vm) -> Result<()> {
    in_good_order(vm, &[], no_denials, || {
        nameless(vm)?;
        in_own_namespace(vm)
    })
}

fn core_dump(vm: &Vm) -> Result<()> {
    in_good_order(vm, &[], no_denials, || crashed(vm))
}

/// What a site lists besides: refused while the policy does not let godebugd turn it, turned for the session
/// where it does, with the value that was found put back.
fn of_the_site(vm: &Vm) -> Result<()> {
    const THEIRS: &str = "user_ping";
    const FILE: &str = "/etc/godebug/godebugd.toml";
    told(vm, || {
        start_ticker(vm)?;
        vm.ok(&format!(
            "mkdir -p /etc/godebug && echo 'selinux_booleans = {{ {THEIRS} = true }}' >{FILE} && \
             restorecon -R /etc/godebug && setsebool {THEIRS} off; systemctl stop godebugd"
        ))?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let refusal = vm.run("godebugctl --json attach ticker --detach --yes")?;
        let remedy = text(&refusal.json()?["error"], "remedy")?;
        ensure!(remedy.contains("godebugd_turns_booleans"), "no remedy: {remedy}");
        refused(refusal, 5, "host")?;
        ensure!(!is_on(vm, GATE)? && !is_on(vm, THEIRS)?, "a boolean was turned all the same");

        vm.ok("setsebool godebugd_turns_booleans on")?;
        let first = open(vm, "ticker", "10m")?;
        ensure!(is_on(vm, THEIRS)?, "the site's boolean was not turned");
        // The second one finds it turned; what the first one found counts.
        let second = open(vm, "myapp", "10m")?;
        first.stop(vm)?;
        ensure!(is_on(vm, THEIRS)?, "the first one's end has taken it from the second");
        second.stop(vm)?;
        ensure!(!is_on(vm, THEIRS)?, "the site's boolean has not got its value back");
        vm.ok(&format!("setsebool godebugd_turns_booleans off; rm {FILE}"))?;
        nothing_left_on(vm, &before)
    })
}

/// In the middle of a session: godebugd is killed and stays away; the power goes; the host is rebooted.
fn lost(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let session = open(vm, "ticker", "40s")?;
        // It does not come back: the dead man has to do it.
        vm.ok("systemctl mask --runtime --now godebugd && systemctl kill --signal=KILL godebugd || true")?;
        session.is_gone_within(vm, IN_TIME)?;
        ensure!(!is_on(vm, GATE)?, "the dead man has not turned the boolean back");
        no_denials(vm)?;
        vm.ok("systemctl unmask --runtime godebugd")?;
        nothing_left_on(vm, &before)?;

        // Killed in the same moment in which it has turned it; it comes back and takes over.
        let session = open(vm, "ticker", "10m")?;
        vm.ok("systemctl kill --signal=KILL godebugd")?;
        session.stop(vm)?;
        ensure!(!is_on(vm, GATE)?, "the new godebugd has not turned the boolean back");
        nothing_left_on(vm, &before)?;

        open(vm, "ticker", "10m")?;
        vm.reboot()?;
        ensure!(!is_on(vm, GATE)?, "the boolean is on after a reboot");
        start_ticker(vm)?;
        let before = before.with_processes_as_now(vm)?;
        nothing_left_on(vm, &before)?;

        open(vm, "ticker", "10m")?;
        vm.ok("sync")?;
        vm.cut_power()?;
        ensure!(!is_on(vm, GATE)?, "the boolean is on after a power loss");
        start_ticker(vm)?;
        nothing_left_on(vm, &before.with_processes_as_now(vm)?)
    })
}

pub(crate) fn is_on(vm: &Vm, boolean: &str) -> Result<bool> {
    let value = vm.ok(&format!("cat /sys/fs/selinux/booleans/{boolean}"))?;
    Ok(value.split_whitespace().next().context("an empty file")? == "1")
}

fn label_of(vm: &Vm, unit: &str) -> Result<String> {
    let label =
        vm.ok(&format!("cat /proc/$(systemctl show --value -p MainPID {unit})/attr/current"))?;
    Ok(label.trim_end_matches(['\n', '\0']).to_owned())
}

/// Nothing that our own programs did was denied, nor anything that somebody did to them. What a test
/// tried from inside a domain has another name.
fn no_denials(vm: &Vm) -> Result<()> {
    let denied = vm.run(
        "grep -h 'avc:  denied' /var/log/audit/audit.log | grep godebug | grep -v 'comm=\"python3\"' | tail -n 20",
    )?;
    ensure!(denied.stdout.is_empty(), "SELinux denied:\n{}", denied.stdout);
    Ok(())
}
