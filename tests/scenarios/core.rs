//! A service has crashed: what systemd-coredump has kept of it is looked into, and nothing that runs is
//! touched.

use crate::support::{Laptop, SOON, Session, leaves_nothing, refused, start};
use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("core_dump_of_a_crash_is_looked_into", looked_into).main(),
    Scenario::new("core_dump_of_another_build_is_refused", another_build),
    Scenario::new("core_dump_is_looked_into_with_somebodys_consent", by_consent),
    Scenario::new("core_dump_that_somebody_only_says_is_there_is_not_read", forged),
];

/// A service of its own, from the sample's twin.
const PROGRAM: &str = "/opt/crasher";
const FOLDER: &str = "/opt/crash";

/// A crash with a core, handed to systemd-coredump as the kernel does where it runs on the host itself: a
/// container has no say in where cores go, so its own go into the folder that it crashes in.
/// `false` where this machine sends cores somewhere else.
fn crash(host: &Host) -> Result<bool> {
    let pattern = host.read_file("/proc/sys/kernel/core_pattern")?;
    if pattern.trim() != "core" {
        eprintln!("cores go to {} here: seen on the virtual machines only", pattern.trim());
        return Ok(false);
    }
    // Only then has every host a program that some dlv of it can read.
    start(host, "myapp")?;
    host.ok(&format!(
        "cp /opt/samples/shop {PROGRAM} && mkdir -p {FOLDER} && chown shop {FOLDER}"
    ))?;
    run(host)?;
    // Nobody answers: a goroutine has panicked, and there is no program any more.
    host.run("curl -s -m 20 http://127.0.0.1:8097/crash")?;
    host.wait_until("it has crashed", SOON, || {
        Ok(host.ok("systemctl show --value -p ActiveState crasher")?.trim() != "active")
    })?;
    host.run("systemctl reset-failed crasher")?;
    // Another process of the same takes its place: systemd-coredump looks at the one that crashes.
    let pid = run(host)?;
    host.ok(&format!(
        "line=$(sed -n 's/^kernel.core_pattern=.*systemd-coredump //p' \
           /usr/lib/sysctl.d/50-coredump.conf) && \
         line=$(echo \"$line\" | sed 's/%P/{pid}/; s/%u/'$(id -u shop)'/; s/%g/'$(id -g shop)'/; \
           s/%s/6/; s/%t/'$(date +%s)'/; s/%c/18446744073709551615/; s/%h/testhost/; s/%d/1/; s/%F//; s/%I//') && \
         /usr/lib/systemd/systemd-coredump $line <{FOLDER}/core"
    ))?;
    host.wait_until("systemd-coredump has kept it", SOON, || {
        Ok(host
            .run("coredumpctl --no-pager list COREDUMP_UNIT=crasher.service")?
            .stdout
            .contains("present"))
    })?;
    host.ok("systemctl stop crasher")?;
    Ok(true)
}

fn run(host: &Host) -> Result<String> {
    host.ok(&format!(
        "systemd-run --quiet --unit=crasher -p User=shop -p WorkingDirectory={FOLDER} \
         -p LimitCORE=infinity -E GOTRACEBACK=crash {PROGRAM} -listen 127.0.0.1:8097 -cache 7"
    ))?;
    host.wait_until("it serves", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8097/healthz").is_ok())
    })?;
    Ok(host.ok("systemctl show --value -p MainPID crasher")?.trim().to_owned())
}

fn clean(host: &Host) -> Result<()> {
    host.ok(&format!("rm -rf {PROGRAM} {FOLDER} /var/lib/systemd/coredump/*")).map(drop)
}

fn open(host: &Host, which: &str, options: &str) -> Result<Session> {
    let line = format!(
        "rm -f /tmp/ticket-core; godebugctl --json core {which} {options} --ttl 60s --detach \
         --ticket /tmp/ticket-core --from {} --endpoint {}",
        host.laptop_address(),
        host.address()
    );
    Session::of(host.run(&line)?.exits(0)?.json()?)
}

fn looked_into(host: &Host) -> Result<()> {
    if !crash(host)? {
        return Ok(());
    }
    leaves_nothing(host, &["myapp"], |_| {
        let kept = host.run("godebugctl --json core crasher --list")?.exits(0)?.json()?;
        ensure!(kept[0]["signal"] == "SIGABRT" && kept[0]["executable"] == PROGRAM, "{kept}");
        ensure!(kept[0].get("missing").is_none(), "{kept}");
        let pid = kept[0]["pid"].to_string();
        let session = open(host, "crasher", "--reason 'why it crashed'")?;
        ensure!(session.document["dump"]["pid"] == kept[0]["pid"], "{}", session.document);
        // Nobody's, without capabilities and without the dump's folder.
        let unit = session.unit("dlv");
        let of_dlv = host.ok(&format!(
            "grep -E '^(Uid|CapEff):' /proc/$(systemctl show --value -p MainPID {unit})/status"
        ))?;
        let uid = of_dlv.split_whitespace().nth(1).and_then(|uid| uid.parse::<u32>().ok());
        ensure!(uid.is_some_and(|uid| (61184..=65519).contains(&uid)), "{of_dlv}");
        ensure!(of_dlv.contains("CapEff:\t0000000000000000"), "{of_dlv}");

        let laptop = Laptop::connect(host, &session)?;
        let said =
            laptop.dlv_connect("goroutines\ngoroutine 1 bt\np len(main.cache)\nexit -c\n")?;
        let mut dlv = said.dlv;
        let said = dlv.wait(SOON)?.stdout;
        ensure!(said.contains("main.main") && said.contains("\n7\n"), "dlv shows: {said}");

        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.configuration_done()?;
        // It begins with the goroutine that panicked, not with the main one.
        let (crashed, _) = ide.wait_for_stop()?;
        let stack = ide.stack_trace(crashed)?;
        ensure!(
            stack.iter().any(|frame| frame["name"] == "main.settle"),
            "not in goroutine {crashed}: {stack:?}"
        );
        let threads = ide.threads()?;
        ensure!(
            threads.iter().any(|one| one["name"].to_string().contains("main.serveCrash")),
            "{threads:?}"
        );
        drop(ide);
        let shown = host.ok(&format!("godebugctl show {}", session.id))?;
        ensure!(shown.contains("SIGABRT"), "{shown}");
        session.stop(host)?;
        let trail = host.ok(&format!("godebugctl audit show {}", session.id))?;
        ensure!(trail.contains("len(main.cache)"), "the transcript lacks what was read: {trail}");

        // By its PID, until its time is over.
        let session = open(host, &pid, "")?;
        host.ok("find /var/tmp -name core -path '*godebug-dlv*' | grep -q .")?;
        session.stop(host)?;
        host.ok("! find /var/tmp -name core | grep -q .")?;
        clean(host)
    })
}

fn another_build(host: &Host) -> Result<()> {
    if !crash(host)? {
        return Ok(());
    }
    leaves_nothing(host, &["myapp"], |_| {
        // Deployed anew since.
        host.ok(&format!("cp {PROGRAM} /opt/old && cp /opt/samples/ticker {PROGRAM}"))?;
        let told = refused(host.run("godebugctl --json core crasher")?, 4, "target")?;
        ensure!(told.contains("another build") && told.contains("--executable"), "{told}");
        open(host, "crasher", "--executable /opt/old")?.stop(host)?;
        let none = refused(host.run("godebugctl --json core myapp")?, 4, "target")?;
        ensure!(none.contains("no dump"), "{none}");
        // The file was tidied away.
        host.ok("rm /var/lib/systemd/coredump/*")?;
        let gone = refused(host.run("godebugctl --json core crasher")?, 4, "target")?;
        ensure!(gone.contains("removed"), "{gone}");
        host.ok("rm /opt/old")?;
        clean(host)
    })
}

fn by_consent(host: &Host) -> Result<()> {
    if !crash(host)? {
        return Ok(());
    }
    host.ok("useradd --create-home dev && useradd --create-home lea")?;
    host.write_file(
        "/etc/polkit-1/rules.d/40-core.rules",
        "polkit.addRule(function(action, subject) {\n\
         if (subject.user == 'dev' && action.id == 'org.godebug1.core' ||\n\
         subject.user == 'lea' && action.id == 'org.godebug1.approve') return polkit.Result.YES; });\n",
    )?;
    host.ok("mkdir -p /etc/godebug/rules.d && systemctl restart polkit")?;
    host.write_file(
        "/etc/godebug/rules.d/10-core.toml",
        "[[rule]]\nname = \"crashes\"\neffect = \"allow\"\nunits = [\"crasher\"]\nusers = [\"dev\"]\n\
         commands = [\"core\"]\nmodes = [\"observe\"]\napprovals = { users = [\"lea\"] }\n",
    )?;
    leaves_nothing(host, &["myapp"], |_| {
        let run =
            |user: &str, words: &str| host.run_as(user, &format!("godebugctl --json {words}"));
        refused(run("dev", "attach crasher --detach --mode observe")?, 3, "refused")?;
        let brought = run("dev", "core crasher --ttl 60s --detach --executable /opt/samples/shop")?;
        let why = refused(brought, 3, "refused")?;
        ensure!(why.contains("cannot wait"), "{why}");
        let asked = run("dev", "core crasher --ttl 60s --detach")?.exits(0)?.json()?;
        ensure!(asked["state"] == "pending-approval", "{asked}");
        ensure!(asked["dump"]["signal"] == "SIGABRT", "{asked}");
        let id = asked["id"].as_str().context("no ID")?;
        let claim = format!("claim {id} --detach --ticket /home/dev/t");
        refused(run("dev", &claim)?, 3, "refused")?;
        run("lea", &format!("approve {id}"))?.exits(0)?;
        let session = Session::of(run("dev", &claim)?.exits(0)?.json()?)?;
        ensure!(session.document["approvals"][0]["user"] == "lea", "{}", session.document);
        session.stop(host)?;
        clean(host)
    })
}

/// Says to the journal what is on standard input, and stays until /tmp/forged is gone.
const FORGE: &str = "\
import os, socket, sys, time
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.sendto(sys.stdin.buffer.read(), '/run/systemd/journal/socket')
while os.path.exists('/tmp/forged'):
    time.sleep(0.02)
";

/// Whoever can write to the journal can say anything, but not from systemd-coredump's slice.
fn forged(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let fields = "MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1\nMESSAGE=crashed\n\
            COREDUMP_UNIT=myapp.service\nCOREDUMP_PID=4242\nCOREDUMP_UID=0\n\
            COREDUMP_TIMESTAMP=1700000000000000\nCOREDUMP_SIGNAL_NAME=SIGABRT\n\
            COREDUMP_EXE=/opt/samples/shop\nCOREDUMP_FILENAME=/etc/shadow\n\
            _SYSTEMD_SLICE=system-systemd\\x2dcoredump.slice\n";
        host.write_file("/tmp/forged", fields)?;
        host.write_file("/tmp/forge.py", FORGE)?;
        // Whoever writes is there until journald has looked where it comes from: of one that is gone before a busy
        // journald has, nobody knows that, and root is shown it as what it is.
        let mut writer = host.spawn_as("alice", "python3 /tmp/forge.py </tmp/forged")?;
        host.wait_until("it is in the journal", SOON, || {
            let found = host.run("journalctl --sync && journalctl COREDUMP_PID=4242")?;
            Ok(found.stdout.contains("crashed"))
        })?;
        host.ok("rm /tmp/forged")?;
        writer.wait(SOON)?.exits(0)?;
        host.ok("rm /tmp/forge.py")?;
        let kept = host.run("godebugctl --json core myapp --list")?.exits(0)?.json()?;
        ensure!(kept.as_array().is_some_and(Vec::is_empty), "believed: {kept}");
        let told = refused(host.run("godebugctl --json core 4242")?, 4, "target")?;
        ensure!(told.contains("no dump"), "{told}");
        // Somebody else's dumps are not anybody's to see.
        let output = host.run_as("alice", "godebugctl --json core myapp --list")?;
        refused(output, 3, "refused").map(drop)
    })
}
