//! A service that fails at its start is started with a debugger on it from its first instruction on.

use crate::support::{
    Laptop, SOON, Session, leaves_nothing, leaves_nothing_but_new_processes, line_of, refused,
    start,
};
use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, process::Process, scenario::Scenario};
use std::time::Duration;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("service_is_started_and_stands_at_main_until_an_ide_comes", stands_at_main)
        .main(),
    Scenario::new("start_is_debugged_from_the_first_instruction", from_the_entry),
    Scenario::new("unit_that_did_not_run_is_stopped_again", stopped_again),
    Scenario::new("every_kind_of_service_is_started_under_a_debugger", every_kind),
    Scenario::new("start_has_its_sockets_and_credentials", sockets_and_credentials),
    Scenario::new("start_that_cannot_be_debugged_changes_nothing", refusals),
    Scenario::new("start_that_no_session_comes_of_is_let_go", let_go),
    Scenario::new("launcher_that_is_killed_lets_the_service_run", killed),
];

const SOURCE: &str = "/opt/samples/src/shop/main.go";

/// As `godebugctl exec` opens it for the laptop.
fn exec(host: &Host, unit: &str, options: &str) -> Result<Session> {
    let ticket = "/tmp/ticket-exec";
    let output = host.run(&format!(
        "rm -f {ticket}; godebugctl --json exec '{unit}' {options} --detach --ticket {ticket} \
         --from {} --endpoint {}",
        host.laptop_address(),
        host.address()
    ))?;
    let document = output.exits(0)?.json()?;
    ensure!(document["state"] == "active", "an open session that is not active: {document}");
    Session::of(document)
}

fn state_of(host: &Host, unit: &str) -> Result<String> {
    Ok(host.ok(&format!("systemctl show --value -p ActiveState {unit}"))?.trim().to_owned())
}

fn serves(host: &Host, port: u16) -> Result<()> {
    host.wait_until("it serves", SOON, || {
        Ok(host.http_from_host(&format!("http://127.0.0.1:{port}/healthz")).is_ok())
    })
}

/// What systemd has given a process: user, capabilities, filters, and the names of its environment.
fn given(host: &Host, process: &Process) -> Result<String> {
    let wanted = ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"];
    let status = host.ok(&format!("cat /proc/{}/status", process.inner_pid))?;
    let mut given: Vec<String> = status
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)))
        .map(str::to_owned)
        .collect();
    let environment = host.ok(&format!(
        "tr '\\0' '\\n' </proc/{}/environ | cut -d= -f1 | sort | tr '\\n' ' '",
        process.inner_pid
    ))?;
    given.push(environment);
    given.push(host.ok(&format!("readlink /proc/{}/cwd", process.inner_pid))?);
    Ok(given.join("\n"))
}

fn stands_at_main(host: &Host) -> Result<()> {
    leaves_nothing_but_new_processes(host, &["myapp"], |before| {
        let had = given(host, &before.processes()[0])?;
        // systemd is told to wait for as long as it stands.
        host.write_file(
            "/run/systemd/system/myapp.service.d/quick.conf",
            "[Service]\nTimeoutStartSec=2\n",
        )?;
        host.ok("systemctl daemon-reload")?;
        let session = exec(host, "myapp", "--ttl 60s --reason 'fails at its start'")?;
        let target = host.targets("myapp")?.remove(0);
        ensure!(session.document["pid"] == target.inner_pid, "{}", session.document);
        ensure!(session.document["exec"] == "main", "{}", session.document);
        ensure!(target.inner_pid != before.processes()[0].inner_pid, "it was not started again");
        // Type=notify: its start lasts until somebody lets it run. A service that nobody looks at
        // goes on after a second else.
        host.ok("sleep 5")?;
        ensure!(target.state()? == 't', "it stands as {}", target.state()?);
        ensure!(state_of(host, "myapp")? == "activating");
        ensure!(given(host, &target)? == had, "{}\n{had}", given(host, &target)?);

        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_breakpoints(SOURCE, &[line_of("flag.Parse()")?])?;
        ide.configuration_done()?;
        let (thread, reason) = ide.wait_for_stop()?;
        ensure!(reason == "breakpoint", "stopped for {reason}");
        let stack = ide.stack_trace(thread)?;
        ensure!(stack[0]["name"] == "main.main", "{stack:?}");
        let frame = stack[0]["id"].as_i64().context("no frame")?;
        ensure!(ide.evaluate(frame, "address")?.contains("127.0.0.1:8080"));
        ide.resume(thread)?;
        serves(host, 8080)?;
        ensure!(state_of(host, "myapp")? == "active");
        drop(ide);
        session.stop(host)?;
        let trail = host.ok(&format!("godebugctl audit show {}", session.id))?;
        ensure!(trail.contains("restarts myapp.service"), "{trail}");
        ensure!(target.is_alive(), "the service did not outlive its session");
        host.ok("rm -r /run/systemd/system/myapp.service.d && systemctl daemon-reload")?;
        serves(host, 8080)
    })
}

fn from_the_entry(host: &Host) -> Result<()> {
    leaves_nothing_but_new_processes(host, &["myapp"], |_| {
        let session = exec(host, "myapp", "--ttl 60s --stop-at entry")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        // Which calls what packages do at their start, and then main.main.
        ide.set_function_breakpoints(&["runtime.main"])?;
        ide.configuration_done()?;
        let (thread, _) = ide.wait_for_stop()?;
        let stack = ide.stack_trace(thread)?;
        ensure!(stack[0]["name"] == "runtime.main", "{stack:?}");
        ide.resume(thread)?;
        serves(host, 8080)?;
        session.stop(host)
    })
}

fn stopped_again(host: &Host) -> Result<()> {
    start(host, "app@1")?;
    host.ok("systemctl stop app@1")?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = exec(host, "app@1", "--ttl 60s --continue")?;
        ensure!(session.document["exec"] == "nowhere", "{}", session.document);
        serves(host, 9091)?;
        session.stop(host)?;
        ensure!(state_of(host, "app@1")? == "inactive", "it runs on");
        // When its time is over, at main, and with no godebugd.
        let session = exec(host, "app@1", "--ttl 3s")?;
        host.ok("systemctl mask --runtime --now godebugd")?;
        session.is_gone_within(host, Duration::from_secs(30))?;
        host.ok("systemctl unmask --runtime godebugd")?;
        let ended = session.ends(host, "expired", SOON)?;
        let proof = ended["proof"].to_string();
        ensure!(proof.contains("app@1.service, which did not run before"), "{proof}");
        ensure!(state_of(host, "app@1")? == "inactive", "it runs on");
        Ok(())
    })
}

fn every_kind(host: &Host) -> Result<()> {
    // The unit, its port.
    const KINDS: &[(&str, u16)] = &[
        ("wrapped", 8084),
        ("pie", 8090),
        ("rootapp", 8088),
        ("dynapp", 8089),
        ("watchdog", 8092),
    ];
    for (unit, port) in KINDS {
        start(host, unit)?;
        let debugged = leaves_nothing_but_new_processes(host, &[unit], |_| {
            let session = exec(host, unit, "--ttl 60s")?;
            let target = host.targets(unit)?;
            ensure!(session.document["pid"] == target[0].inner_pid, "{}", session.document);
            ensure!(target[0].state()? == 't', "it stands as {}", target[0].state()?);
            // Longer than the watchdog of two seconds.
            host.ok("sleep 3")?;
            ensure!(target[0].is_alive(), "it was killed at its start");
            session.stop(host)?;
            serves(host, *port)
        });
        debugged.with_context(|| format!("starting {unit}"))?;
        host.ok(&format!("systemctl stop {unit}"))?;
    }
    Ok(())
}

/// Both are given to the process itself, by its number and its open files.
fn sockets_and_credentials(host: &Host) -> Result<()> {
    host.write_file("/run/systemd/system/given.socket", "[Socket]\nListenStream=127.0.0.1:8077\n")?;
    host.write_file(
        "/run/systemd/system/given.service",
        "[Service]\nType=notify\nDynamicUser=yes\nSetCredential=token:of-the-night\n\
         ExecStart=/opt/samples/shop -listen 127.0.0.1:8094\n",
    )?;
    host.ok("systemctl daemon-reload && systemctl start given.socket")?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = exec(host, "given", "--ttl 60s")?;
        let pid = session.document["pid"].to_string();
        let environment = host.ok(&format!("tr '\\0' '\\n' </proc/{pid}/environ"))?;
        for given in [format!("LISTEN_PID={pid}"), "LISTEN_FDS=1".to_owned()] {
            ensure!(environment.lines().any(|line| line == given), "{given}: {environment}");
        }
        let folder =
            environment.lines().find_map(|line| line.strip_prefix("CREDENTIALS_DIRECTORY="));
        let folder = folder.context("no credentials")?;
        let token =
            host.ok(&format!("cat /proc/{pid}/root{folder}/token; readlink /proc/{pid}/fd/3"))?;
        ensure!(token.contains("of-the-night") && token.contains("socket:"), "{token}");
        session.stop(host)?;
        ensure!(state_of(host, "given")? == "inactive", "it did not run before");
        host.ok("systemctl stop given.socket").map(drop)
    })
}

fn refusals(host: &Host) -> Result<()> {
    host.write_file(
        "/run/systemd/system/forks.service",
        "[Service]\nType=forking\nExecStart=/bin/sh -c '/opt/samples/shop -listen 127.0.0.1:8093 &'\n",
    )?;
    host.ok("systemctl daemon-reload")?;
    start(host, "python")?;
    leaves_nothing(host, &["myapp", "python"], |_| {
        let refused = |words: &str, code: &str, status: i32, why: &str| {
            let told =
                refused(host.run(&format!("godebugctl --json exec {words}"))?, status, code)?;
            ensure!(told.contains(why), "{words}: {told}");
            anyhow::Ok(())
        };
        refused("nosuch", "target", 4, "not-found")?;
        refused("python", "target", 4, "not a Go program")?;
        refused("forks", "target", 4, "Type=forking")?;
        refused("myapp --mode observe", "usage", 2, "images")?;
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        refused("myapp", "target", 4, "would end it")?;
        session.stop(host)
    })?;
    host.ok("systemctl stop python").map(drop)
}

/// All ports are taken, which is found out when the service has been started.
fn let_go(host: &Host) -> Result<()> {
    start(host, "app@1")?;
    host.ok("systemctl stop app@1")?;
    leaves_nothing_but_new_processes(host, &["myapp"], |_| {
        host.write_file("/etc/godebug/godebugd.toml", "first_port = 2345\nlast_port = 2345\n")?;
        host.ok("systemd-run --quiet --unit=taken /opt/samples/shop -listen 127.0.0.1:2345")?;
        host.wait_until("the port is taken", SOON, || {
            Ok(host.ok("ss --no-header -ltn")?.contains(":2345"))
        })?;
        for unit in ["myapp", "app@1"] {
            let output = host.run(&format!("godebugctl --json exec {unit}"))?;
            let told = refused(output, 5, "host")?;
            ensure!(told.contains("in use"), "{told}");
        }
        serves(host, 8080)?;
        host.wait_until("what did not run is stopped", SOON, || {
            Ok(state_of(host, "app@1")? == "inactive")
        })?;
        host.ok("systemctl stop taken; rm /etc/godebug/godebugd.toml").map(drop)
    })
}

/// A dlv that never attaches leaves the service with the launcher.
fn killed(host: &Host) -> Result<()> {
    const LAUNCHER: &str = "systemctl kill --signal=KILL 'godebug-exec@*'";
    // With what its unit runs at its end, which is what lets go.
    const UNIT: &str = "cd /sys/fs/cgroup/godebug.slice/godebug-exec@*; \
         while echo 1 >cgroup.kill; do :; done 2>/dev/null";
    const GODEBUGD: &str = "systemctl kill --signal=KILL godebugd";
    leaves_nothing_but_new_processes(host, &["myapp"], |_| {
        host.write_file(
            "/opt/slow-dlv",
            "#!/bin/sh\n[ \"$1\" = version ] && exec /opt/dlv \"$@\"\nexec /usr/bin/sleep 600\n",
        )?;
        host.ok("chmod 755 /opt/slow-dlv && cp /usr/bin/dlv /opt/dlv && \
             mount --bind /opt/slow-dlv /usr/bin/dlv")?;
        for killing in [
            LAUNCHER.to_owned(),
            format!("{LAUNCHER}; {GODEBUGD}"),
            UNIT.to_owned(),
            format!("{GODEBUGD}; {UNIT}"),
            format!("{UNIT}; {GODEBUGD}"),
            // Nobody comes back: the launcher sees that by itself.
            format!("systemctl mask --runtime godebugd; {GODEBUGD}"),
        ] {
            killed_while_it_holds(host, &killing).context(killing)?;
        }
        host.ok("umount /usr/bin/dlv && rm /opt/dlv /opt/slow-dlv")?;
        Ok(())
    })
}

fn killed_while_it_holds(host: &Host, killing: &str) -> Result<()> {
    // Not so often in ten seconds that systemd refuses.
    host.ok("systemctl reset-failed myapp")?;
    let mut asking = host.spawn("exec godebugctl --json exec myapp --ttl 60s")?;
    let held = || -> Result<bool> {
        let targets = host.targets("myapp").unwrap_or_default();
        Ok(targets.first().is_some_and(|target| target.state().is_ok_and(|it| it == 'T')))
    };
    host.wait_until("the service is held at its first instruction", SOON, held)?;
    host.run(killing)?;
    serves(host, 8080)?;
    ensure!(asking.wait(SOON)?.status != 0, "exec says that a session is open");
    // It takes the rest back.
    host.run("systemctl unmask --runtime godebugd; systemctl reset-failed; godebugctl list")?
        .exits(0)?;
    host.wait_until("the session is gone", Duration::from_secs(60), || {
        let left = host.ok("ls /run/godebug")?;
        let is_left = |name: &str| name.ends_with(".launch") || !name.contains('.');
        Ok(!left.split_whitespace().any(|name| name != "lock" && is_left(name)))
    })
}
