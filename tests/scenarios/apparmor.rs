//! AppArmor in enforce mode: debuggers have a network while a session is open and at no other time,
//! dlv and gateway reach nothing beside their work, and services with profiles of their own are debugged
//! or refused with the lines that they lack.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

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
    VmScenario::new("session_opens_the_profile_and_its_end_locks_it", Lsm::AppArmor, whole_session),
    VmScenario::new("observer_is_shown_images", Lsm::AppArmor, images),
    VmScenario::new("program_of_a_user_without_a_name_is_debugged", Lsm::AppArmor, without_a_name),
    VmScenario::new("service_is_started_under_a_debugger", Lsm::AppArmor, start),
    VmScenario::new("login_by_ssh_is_in_the_record", Lsm::AppArmor, by_ssh),
    VmScenario::new("core_dump_of_a_real_crash_is_looked_into", Lsm::AppArmor, core_dump),
    VmScenario::new("confined_service_is_refused_or_debugged", Lsm::AppArmor, confined_service),
    VmScenario::new("service_with_an_image_for_its_root_is_debugged", Lsm::AppArmor, root_image),
    VmScenario::new("hooks_run_outside_of_the_profiles_of_godebug", Lsm::AppArmor, hooks),
    VmScenario::new("nothing_survives_a_boot_or_a_killed_daemon", Lsm::AppArmor, lost),
];

fn images(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        observed(vm)?;
        kept(vm)?;
        ensure!(!is_open(vm)?, "no session is open, the profile is");
        no_denials(vm)?;
        nothing_left_on(vm, &before)
    })
}

fn hooks(vm: &Vm) -> Result<()> {
    start_ticker(vm)?;
    in_good_order(vm, &["ticker"], no_denials, || hooked(vm))
}

/// A service whose root is a file system in a file (`RootImage=`), which needs a kernel with loop devices. The
/// host has no program at the path that the process names.
fn root_image(vm: &Vm) -> Result<()> {
    const UNIT: &str = "imaged";
    told(vm, || {
        let folder = tempfile::tempdir()?;
        let image = sent(vm, &root_with(vm, "/opt/samples/ticker", folder.path())?)?;
        vm.ok(&format!(
            "systemd-run --quiet --unit={UNIT} --property=User=nobody --property=RootImage={image} \
             --property=MountAPIVFS=yes /srv/inside"
        ))?;
        vm.wait_until("it runs in its own root", IN_TIME, &mut || {
            Ok(vm.run("test \"$(readlink /proc/$(pgrep -x inside)/exe)\" = /srv/inside")?.success())
        })?;
        ensure!(!vm.exists("/srv/inside")?, "the host has such a program too");
        let before = VmSnapshot::take(vm, &[UNIT])?;
        let session = open(vm, UNIT, "10m")?;
        debugged(vm, &session)?;
        session.stop(vm)?;
        let shown = vm.ok(&format!(
            "godebugctl snapshot {UNIT} --at main.tick --expr main.ticks --timeout 60s --max-pause 10s"
        ))?;
        ensure!(shown.contains("main.tick"), "nothing is shown: {shown}");
        no_denials(vm)?;
        nothing_left_on(vm, &before)?;
        vm.ok(&format!("systemctl stop {UNIT} && rm {image}")).map(drop)
    })
}

/// A file system whose only program is that one, as /srv/inside; made below `folder`.
fn root_with(vm: &Vm, program: &str, folder: &Path) -> Result<PathBuf> {
    let tree = folder.join("tree");
    for name in ["proc", "sys", "dev", "run", "tmp", "var", "etc", "usr", "root", "srv"] {
        std::fs::create_dir_all(tree.join(name))?;
    }
    for name in ["resolv.conf", "os-release"] {
        std::fs::write(tree.join("etc").join(name), "")?;
    }
    std::fs::copy(vm.program(program), tree.join("srv/inside"))?;
    let image = folder.join("root.img");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-d"])
        .args([&tree, &image])
        .arg("32M")
        .status()
        .context("running mke2fs")?;
    ensure!(made.success(), "mke2fs: {made}");
    Ok(image)
}

fn start(vm: &Vm) -> Result<()> {
    in_good_order(vm, &[], no_denials, || started(vm))
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

/// Only a kernel of its own tells who logged in, whatever they have become since.
fn by_ssh(vm: &Vm) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("key");
    vm.laptop_spawn(&format!("exec ssh-keygen -q -t ed25519 -N '' -f {}", key.display()))?
        .wait(IN_TIME)?
        .exits(0)?;
    let public = std::fs::read_to_string(key.with_extension("pub"))?;
    told(vm, || {
        vm.ok(&format!(
            "useradd --create-home ada && install -d -m 700 -o ada -g ada /home/ada/.ssh && \
             echo '{}' >/home/ada/.ssh/authorized_keys && chown ada /home/ada/.ssh/authorized_keys && \
             echo \"polkit.addRule(function(action, subject) {{ if (subject.user == 'ada') return \
             polkit.Result.YES; }});\" >/etc/polkit-1/rules.d/40-ada.rules && systemctl restart polkit && \
             mkdir -p /etc/godebug/rules.d && printf '[[rule]]\\nname = \"ada\"\\neffect = \"allow\"\\n\
             units = [\"ticker\"]\\nusers = [\"ada\"]\\n' >/etc/godebug/rules.d/10-ada.toml && \
             systemctl start ssh",
            public.trim()
        ))?;
        start_ticker(vm)?;
        // What was written for the scenario is none of a session.
        vm.ok("touch /run/harness/booted")?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let line = format!(
            "exec ssh -F none -i {} -o BatchMode=yes -o StrictHostKeyChecking=no \
             -o UserKnownHostsFile=/dev/null ada@{} \
             godebugctl --json attach ticker --ttl 10m --yes --detach --ticket t",
            key.display(),
            vm.address()
        );
        let opened = vm.laptop_spawn(&line)?.wait(IN_TIME)?.exits(0)?.json()?;
        let session = Session::of(opened)?;
        let login = &session.document["login"];
        let uid = vm.ok("id -u ada")?;
        ensure!(
            login["uid"].as_u64() == uid.trim().parse().ok(),
            "who logged in: {}",
            session.document
        );
        ensure!(login["peer"] == vm.laptop_address().to_string().as_str(), "from where: {login}");
        ensure!(login["session"].is_string(), "which session: {login}");
        let sources = session.document["sources"].to_string();
        ensure!(sources.contains(&vm.laptop_address().to_string()), "for whom: {sources}");
        session.stop(vm)?;
        let trail = vm.ok(&format!("godebugctl --json audit show {}", session.id))?;
        ensure!(trail.contains(&format!("\"peer\":\"{}\"", vm.laptop_address())), "{trail}");
        nothing_left_on(vm, &before)
    })
}

const LOCK: &str = "apparmor_parser --replace --skip-cache /etc/apparmor.d/godebug-gateway";

fn whole_session(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        ensure!(!is_open(vm)?, "the profile is open before anybody asked");
        plan_and_doctor_tell(vm)?;

        let session = open(vm, "ticker", "10m")?;
        ensure!(is_open(vm)?, "a session is open, the profile is locked");
        let label = |kind| label_of(vm, &session.unit(kind));
        ensure!(label("dlv")? == "godebug-dlv (enforce)", "{}", label("dlv")?);
        ensure!(label("gateway")? == "godebug-gateway (enforce)", "{}", label("gateway")?);
        ensure!(label_of(vm, "godebugd")? == "godebugd (enforce)", "{}", label_of(vm, "godebugd")?);
        debugged(vm, &session)?;
        no_denials(vm)?;

        second_session_keeps_it_open(vm)?;
        ensure!(is_open(vm)?, "the end of one session has locked the other's gateway");
        negative_space(vm)?;
        locking_cuts_connections(vm, &session)?;
        session.stop(vm)?;
        let proof = session.show(vm)?["proof"].to_string();
        ensure!(proof.contains("AppArmor profile godebug-gateway"), "not proved: {proof}");
        ensure!(!is_open(vm)?, "no session is open, the profile is");
        nothing_left_on(vm, &before)
    })
}

/// The plan names it as a step, and doctor says which state it is in.
fn plan_and_doctor_tell(vm: &Vm) -> Result<()> {
    let from = vm.laptop_address();
    let plan = vm.ok(&format!("godebugctl attach ticker --dry-run --from {from}"))?;
    ensure!(plan.contains("AppArmor"), "the plan does not tell: {plan}");
    let doctor = vm.run("godebugctl doctor")?.stdout;
    ensure!(doctor.contains("locked: no gateway has a network"), "doctor does not tell: {doctor}");
    Ok(())
}

/// The profile is one for all sessions: who ends first must not take it from the other.
fn second_session_keeps_it_open(vm: &Vm) -> Result<()> {
    let second = open(vm, "myapp", "10m")?;
    second.stop(vm)
}

/// What godebugd may do, of what is tried.
const DAEMON: [(&str, bool); 8] = [
    ("tcp socket", false),
    ("tcp6 socket", false),
    ("udp socket", false),
    ("unix socket", true),
    ("write a file", false),
    ("write in /etc", false),
    ("run a program", false),
    ("read the target's maps", true),
];

/// What code inside each profile cannot do, whatever it is.
fn negative_space(vm: &Vm) -> Result<()> {
    let dlv = attempts(vm, "profile:godebug-dlv", "ticker")?;
    came_out(
        &dlv,
        "godebug-dlv",
        &[
            ("tcp socket", false),
            ("udp socket", false),
            ("tcp6 socket", false),
            ("netlink socket", false),
            ("unix socket", true),
            ("write a file", false),
            ("write in /etc", false),
            ("run a program", false),
            ("read the target's maps", true),
        ],
    )?;
    let daemon = attempts(vm, "profile:godebugd", "ticker")?;
    came_out(&daemon, "godebugd", &DAEMON)?;
    let gateway = attempts(vm, "profile:godebug-gateway", "ticker")?;
    came_out(
        &gateway,
        "godebug-gateway, open",
        &[
            ("tcp socket", true),
            ("udp socket", false),
            ("netlink socket", false),
            ("unix socket", true),
            ("write a file", false),
            ("run a program", false),
            ("read the target's maps", false),
            ("read the target's program", false),
            ("trace the target", false),
        ],
    )
}

/// An administrator reloads the profiles from disk: that locks, and connections that were made before
/// carry nothing more.
fn locking_cuts_connections(vm: &Vm, session: &Session) -> Result<()> {
    let laptop = Laptop::connect(vm, session)?;
    let mut rpc = laptop.rpc()?;
    ensure!(rpc.state()?["Running"] == true, "it does not run");
    vm.ok(LOCK)?;
    ensure!(rpc.state().is_err(), "an answer came through a locked gateway");
    let doctor = vm.run("godebugctl doctor")?.stdout;
    ensure!(doctor.contains("not there: AppArmor profile"), "doctor does not tell: {doctor}");
    let tried = attempts(vm, "profile:godebug-gateway", "ticker")?;
    came_out(&tried, "godebug-gateway, locked", &[("tcp socket", false)])?;
    Ok(())
}

/// A service under a profile of its own, as an administrator writes one.
fn confined_service(vm: &Vm) -> Result<()> {
    told(vm, || {
        let profile = |rules: &str| -> Result<()> {
            vm.ok(&format!(
                "printf '%s\\n' 'abi <abi/3.0>,' 'include <tunables/global>' \
                 'profile shop flags=(attach_disconnected) {{' \
                 'file, network, capability, unix, dbus, signal peer=shop, {rules}' '}}' >/run/shop-profile && \
                 apparmor_parser --replace --skip-cache /run/shop-profile"
            ))
            .map(drop)
        };
        profile("signal (receive) peer=unconfined,")?;
        vm.ok("mkdir -p /run/systemd/system/ticker.service.d && \
               printf '[Service]\\nAppArmorProfile=shop\\n' >/run/systemd/system/ticker.service.d/mac.conf && \
               systemctl daemon-reload && systemctl restart ticker")?;
        ensure!(label_of(vm, "ticker")? == "shop (enforce)", "{}", label_of(vm, "ticker")?);

        let before = VmSnapshot::take(vm, &["ticker"])?;
        let refusal = vm.run("godebugctl --json attach ticker --detach --yes")?;
        let remedy = text(&refusal.json()?["error"], "remedy")?;
        refused(refusal, 4, "target")?;
        for line in [
            "ptrace (readby, tracedby) peer=godebugd,",
            "ptrace (readby, tracedby) peer=godebug-dlv,",
            "signal (receive) set=(stop, cont, trap) peer=godebug-dlv,",
        ] {
            ensure!(remedy.contains(line), "the remedy lacks {line:?}: {remedy}");
        }
        nothing_left_on(vm, &before)?;

        // With just the lines that it was told to add.
        let lines: Vec<&str> = remedy.split("  ").filter(|part| part.ends_with(',')).collect();
        ensure!(remedy.contains("then restart ticker.service"), "no word about that: {remedy}");
        profile(&format!("signal (receive) peer=unconfined, {}", lines.join(" ")))?;
        vm.ok("systemctl restart ticker")?;
        debugged_and_confined_as_before(vm)?;

        // A profile with abstractions/base needs no line of its own.
        profile("include <abstractions/base>")?;
        vm.ok("systemctl restart ticker")?;
        debugged_and_confined_as_before(vm)
    })
}

fn debugged_and_confined_as_before(vm: &Vm) -> Result<()> {
    let before = VmSnapshot::take(vm, &["ticker"])?;
    let session = open(vm, "ticker", "10m")?;
    debugged(vm, &session)?;
    session.stop(vm)?;
    no_denials(vm)?;
    nothing_left_on(vm, &before)
}

/// In the middle of a session: godebugd is killed and stays away; the power goes.
fn lost(vm: &Vm) -> Result<()> {
    told(vm, || {
        start_ticker(vm)?;
        let before = VmSnapshot::take(vm, &["ticker"])?;
        let session = open(vm, "ticker", "40s")?;
        // It does not come back: the dead man has to do it.
        vm.ok("systemctl mask --runtime --now godebugd && systemctl kill --signal=KILL godebugd || true")?;
        session.is_gone_within(vm, IN_TIME)?;
        ensure!(!is_open(vm)?, "the dead man has not locked the profile");
        vm.ok("systemctl unmask --runtime godebugd")?;
        nothing_left_on(vm, &before)?;

        open(vm, "ticker", "10m")?;
        vm.reboot()?;
        ensure!(!is_open(vm)?, "the profile is open after a reboot");
        start_ticker(vm)?;
        let before = before.with_processes_as_now(vm)?;
        nothing_left_on(vm, &before)?;

        open(vm, "ticker", "10m")?;
        vm.ok("sync")?;
        vm.cut_power()?;
        ensure!(!is_open(vm)?, "the profile is open after a power loss");
        start_ticker(vm)?;
        let before = before.with_processes_as_now(vm)?;
        nothing_left_on(vm, &before)
    })
}

fn is_open(vm: &Vm) -> Result<bool> {
    let attach =
        vm.ok("cat /sys/kernel/security/apparmor/policy/profiles/godebug-gateway.*/attach")?;
    Ok(attach.trim() != "godebug-gateway")
}

fn label_of(vm: &Vm, unit: &str) -> Result<String> {
    let label = vm.ok(&format!(
        "cat /proc/$(systemctl show --value -p MainPID {unit})/attr/apparmor/current"
    ))?;
    Ok(label.trim_end_matches(['\n', '\0']).to_owned())
}

/// Nothing that our own programs did was denied.
/// By our own profiles, nor by others to dlv and gateway. A profile that does not let godebugd look is why a
/// target is refused.
fn no_denials(vm: &Vm) -> Result<()> {
    let denied = vm.run(
        "{ journalctl --no-pager -b; cat /var/log/audit/audit.log; } | \
         grep 'apparmor=\"DENIED\"' | grep -e 'profile=\"godebug' -e 'peer=\"godebug-'",
    )?;
    ensure!(denied.stdout.is_empty(), "denied in a session in which all went well:\n{denied}");
    Ok(())
}
