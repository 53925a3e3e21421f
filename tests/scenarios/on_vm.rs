//! What scenarios on virtual machines have in common, whichever security module is enforced there.

use std::{net::TcpStream, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use godebug_tests::{
    Machine, Output, Vm,
    dap::DapClient,
    vm::{VmSnapshot, nothing_left_on},
};
use serde_json::Value;

use crate::support::{Laptop, Session};

/// An emulated machine is ten times slower than a container.
pub(crate) const IN_TIME: Duration = Duration::from_secs(120);

/// Does that on a machine where nothing of it may be left afterwards, and where nothing was denied that the
/// machine's own `no_denials` looks for.
pub(crate) fn in_good_order(
    vm: &Vm,
    units: &[&str],
    no_denials: fn(&Vm) -> Result<()>,
    steps: impl FnOnce() -> Result<()>,
) -> Result<()> {
    told(vm, || {
        let before = VmSnapshot::take(vm, units)?;
        steps()?;
        no_denials(vm)?;
        nothing_left_on(vm, &before)
    })
}

pub(crate) fn open(vm: &Vm, unit: &str, ttl: &str) -> Result<Session> {
    Session::open(vm, unit, &format!("--ttl {ttl} --yes --from {}", vm.laptop_address()))
}

/// Starts the smallest sample: for an emulated machine dlv has enough to read in it.
pub(crate) fn start_ticker(vm: &Vm) -> Result<()> {
    vm.ok("systemctl start ticker").map(drop)
}

/// A breakpoint, the stack, a value, on; all from the laptop.
pub(crate) fn debugged(vm: &Vm, session: &Session) -> Result<()> {
    debugged_after(vm, session, 1)
}

/// `ticks`: as many at least there have been.
fn debugged_after(vm: &Vm, session: &Session, least: u64) -> Result<()> {
    let laptop = Laptop::connect(vm, session)?;
    let mut ide = laptop.dap()?;
    ide.attach()?;
    ide.set_function_breakpoints(&["main.tick"])?;
    ide.configuration_done()?;
    let stop = ide.wait_for_event_within("stopped", IN_TIME)?;
    let thread = stop["threadId"].as_i64().context("no goroutine stopped")?;
    let stack = ide.stack_trace(thread)?;
    ensure!(stack[0]["name"] == "main.tick" && stack[1]["name"] == "main.main", "{stack:?}");
    let frame = stack[0]["id"].as_i64().context("a frame without a number")?;
    let ticks = ide.evaluate(frame, "main.ticks")?;
    // dlv shows it in two notations.
    let count = ticks.split(' ').next().and_then(|count| count.parse::<u64>().ok());
    ensure!(count.is_some_and(|count| count >= least), "no count of ticks: {ticks}");
    ide.set_function_breakpoints(&[])?;
    ide.resume(thread)
}

/// A program whose user the host has no name for, as in a container: dlv's unit becomes that user.
pub(crate) fn nameless(vm: &Vm) -> Result<()> {
    vm.ok(
        "systemd-run --quiet --unit=nameless /usr/sbin/chroot --userspec=+65532:+65532 --groups= / \
         /opt/samples/ticker",
    )?;
    vm.wait_until("it runs as that user", IN_TIME, &mut || {
        Ok(vm.run("test \"$(ps -o uid= -C ticker | tail -n 1 | tr -d ' ')\" = 65532")?.success())
    })?;
    let session = open(vm, "nameless", "10m")?;
    let status = vm.ok("cat /proc/$(pgrep -x dlv)/status")?;
    ensure!(status.contains("65532\t65532\t65532\t65532"), "{status}");
    // CAP_SYS_PTRACE and no other, in each of the sets.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(status.contains(&format!("{set}:\t0000000000080000")), "{status}");
    }
    debugged(vm, &session)?;
    session.stop(vm)?;
    vm.ok("systemctl stop nameless").map(drop)
}

/// A program in a user namespace that a user has made, as those of rootless containers are: that user's own.
pub(crate) fn in_own_namespace(vm: &Vm) -> Result<()> {
    // Through a pipe: what a bus hands over may not be what this machine's commands write to.
    let alice = |line: &str| {
        let own = "runuser --user alice -- env XDG_RUNTIME_DIR=/run/user/$(id -u alice)";
        vm.run(&format!("{own} {line} | cat"))
    };
    vm.ok("loginctl enable-linger alice && systemctl start user@$(id -u alice)")?;
    alice(
        "systemd-run --user --quiet --unit=inner unshare --user --map-root-user /opt/samples/ticker",
    )?;
    vm.wait_until("it runs in a namespace of its own", IN_TIME, &mut || {
        let other = "test $(readlink /proc/$(pgrep -u alice -x ticker)/ns/user) != $(readlink /proc/1/ns/user)";
        Ok(vm.run(other)?.success())
    })?;
    let opened = alice(
        "godebugctl --json --user attach inner --yes --max-freeze 1m --ttl 10m --detach --ticket \
         /home/alice/ticket",
    )?;
    let session = opened.json().with_context(|| opened.to_string())?;
    ensure!(session["target"] == "user:alice/inner.service", "{session}");
    alice("godebugctl stop --all")?;
    alice("systemctl --user stop inner")?;
    with_a_watchdog(vm, &alice)?;
    vm.ok("rm /home/alice/ticket; loginctl disable-linger alice").map(drop)
}

/// Her manager is told that the service is alive while it stands.
fn with_a_watchdog(vm: &Vm, alice: &dyn Fn(&str) -> Result<Output>) -> Result<()> {
    alice(
        "systemd-run --user --quiet --unit=watched -p NotifyAccess=main -p WatchdogSec=8 \
         /opt/samples/shop -listen 127.0.0.1:8292",
    )?;
    vm.wait_until("it serves", IN_TIME, &mut || {
        Ok(vm.run("curl --silent --fail http://127.0.0.1:8292/healthz")?.success())
    })?;
    let pid = vm.ok("pgrep -u alice -x shop")?;
    let session = open(vm, "user:alice/watched", "10m --max-freeze 2m")?;
    let laptop = Laptop::connect(vm, &session)?;
    let mut rpc = laptop.rpc()?;
    rpc.command("halt")?;
    // Three times as long as its WatchdogSec=; it must not have been killed meanwhile.
    std::thread::sleep(Duration::from_secs(24));
    ensure!(rpc.state()?["Running"] == false, "it does not stand");
    session.stop(vm)?;
    ensure!(vm.ok("pgrep -u alice -x shop")? == pid, "it is another process than before");
    alice("systemctl --user stop watched").map(drop)
}

/// Brings a file over the wire from the laptop; where it is there.
pub(crate) fn sent(vm: &Vm, file: &Path) -> Result<String> {
    let (folder, name) = (file.parent().context("no folder")?, file.file_name());
    let name = name.context("no name")?.to_string_lossy().into_owned();
    let address = vm.laptop_address();
    let _server = vm.laptop_spawn(&format!(
        "exec python3 -m http.server 8080 --bind {address} --directory {}",
        folder.display()
    ))?;
    let there = format!("/var/tmp/{name}");
    vm.ok(&format!(
        "curl --silent --show-error --fail --retry 20 --retry-connrefused --retry-delay 1 \
         --output {there} http://{address}:8080/{name}"
    ))?;
    Ok(there)
}

/// What the site has run at a session: told of it, and asked before and after; in no domain and under no
/// profile of godebug's, so it can do what godebugd could not.
pub(crate) fn hooked(vm: &Vm) -> Result<()> {
    const KEEP: &str = "#!/bin/sh\ncat >>/root/told\necho \"$1 $(cat /proc/self/attr/current)\" >>/root/asked\n\
                        touch /etc/by-a-hook && rm /etc/by-a-hook\n";
    let hook = |events: &str, more: &str| {
        format!(
            "[[hook]]\nevents = [{events}]\nunits = [\"ticker\"]\nuser = \"root\"\n\
             run = [\"/usr/local/bin/keep\", \"asked\"]\n{more}\n"
        )
    };
    let configuration = hook("\"opened\", \"closed\"", "")
        + &hook("\"drain\", \"undrain\"", "required = true\ntimeout = \"60s\"");
    vm.ok(&format!(
        "printf '%s' '{KEEP}' >/usr/local/bin/keep && chmod 755 /usr/local/bin/keep && \
         mkdir -p /etc/godebug && printf '%s' '{configuration}' >/etc/godebug/godebugd.toml && \
         {{ ! command -v restorecon >/dev/null || restorecon -R /etc/godebug /usr/local/bin; }}"
    ))?;
    let session = open(vm, "ticker", "10m")?;
    session.stop(vm)?;
    vm.wait_until("all hooks have run", IN_TIME, &mut || {
        let told = vm.run("cat /root/told")?.stdout;
        Ok(["drain", "opened", "closed", "undrain"]
            .iter()
            .all(|event| told.contains(&format!("\"event\":\"{event}\""))))
    })?;
    let asked = vm.ok("cat /root/asked")?;
    ensure!(asked.lines().count() == 4 && !asked.contains("godebug"), "{asked}");
    vm.ok("rm -r /etc/godebug /usr/local/bin/keep /root/told /root/asked").map(drop)
}

/// The same in mode observe: the IDE stops at the line, on an image, and then at one of now.
pub(crate) fn observed(vm: &Vm) -> Result<()> {
    let options =
        format!("--mode observe --ttl 10m --max-pause 10s --from {}", vm.laptop_address());
    let session = Session::open(vm, "ticker", &options)?;
    let laptop = Laptop::connect(vm, &session)?;
    let mut ide = laptop.dap()?;
    ide.limit = IN_TIME;
    ide.attach()?;
    ide.set_function_breakpoints(&["main.tick"])?;
    ide.configuration_done()?;
    let stop = ide.wait_for_event_within("stopped", IN_TIME)?;
    let thread = stop["threadId"].as_i64().context("no goroutine stopped")?;
    let stack = ide.stack_trace(thread)?;
    ensure!(stack[0]["name"] == "main.tick" && stack[1]["name"] == "main.main", "{stack:?}");
    ide.set_function_breakpoints(&[])?;
    ide.resume(thread)?;
    let stop = ide.wait_for_event_within("stopped", IN_TIME)?;
    ensure!(stop["reason"] == "pause", "{stop}");
    drop(ide);
    session.stop(vm)
}

/// A session for the laptop, with time for a machine that is emulated.
fn opened(vm: &Vm, words: &str) -> Result<Session> {
    let line = format!(
        "rm -f /tmp/ticket; godebugctl --json {words} --ttl 10m --detach --ticket /tmp/ticket \
         --from {} --endpoint {}",
        vm.laptop_address(),
        vm.address()
    );
    Session::of(vm.run(&line)?.exits(0)?.json()?)
}

/// An IDE at what has crashed, or was kept.
fn looking<'a>(vm: &'a Vm, session: &Session) -> Result<(Laptop<'a>, DapClient<TcpStream>)> {
    let laptop = Laptop::connect(vm, session)?;
    let mut ide = laptop.dap()?;
    ide.limit = IN_TIME;
    ide.attach()?;
    ide.configuration_done()?;
    ide.wait_for_event_within("stopped", IN_TIME)?;
    Ok((laptop, ide))
}

/// An image that was kept is opened when its session is over, and dropped.
pub(crate) fn kept(vm: &Vm) -> Result<()> {
    let line =
        "godebugctl --json snapshot ticker --at main.tick --timeout 60s --max-pause 10s --keep";
    let hit = vm.run(line)?.exits(0)?.json()?;
    ensure!(hit["image"] == 1, "it is not kept: {hit}");
    let list = vm.run("godebugctl --json core ticker --list")?.exits(0)?.json()?;
    let image = list[0]["image"]["name"].as_str().context("it is not listed")?.to_owned();
    let session = opened(vm, &format!("core '{image}'"))?;
    let (_laptop, mut ide) = looking(vm, &session)?;
    let goroutine = hit["goroutine"].as_i64().context("no goroutine")?;
    let stack = ide.stack_trace(goroutine)?;
    ensure!(stack[0]["name"] == "main.tick", "{stack:?}");
    drop(ide);
    session.stop(vm)?;
    let recording = image.split('#').next().unwrap_or_default();
    vm.ok(&format!("godebugctl stop {recording}"))?;
    vm.ok("! readlink /proc/$(pgrep -x godebugd)/fd/* | grep -q memfd:image").map(drop)
}

/// A service that is started with a debugger on it, from its main function on.
pub(crate) fn started(vm: &Vm) -> Result<()> {
    start_ticker(vm)?;
    let session = opened(vm, "exec ticker")?;
    // It stood at main: this is its first.
    debugged_after(vm, &session, 0)?;
    session.stop(vm)?;
    ensure!(vm.ok("systemctl is-active ticker")?.trim() == "active");
    Ok(())
}

/// A service crashes, the kernel hands its memory to systemd-coredump, and dlv reads what was kept.
pub(crate) fn crashed(vm: &Vm) -> Result<()> {
    vm.ok(
        "systemd-run --quiet --unit=crasher -p User=shop -p LimitCORE=infinity -E GOTRACEBACK=crash \
         /opt/samples/ticker",
    )?;
    vm.ok("sleep 2; systemctl kill --kill-whom=main --signal=ABRT crasher")?;
    vm.wait_until("systemd-coredump has kept it", IN_TIME, &mut || {
        let listed = vm.run("coredumpctl --no-pager list COREDUMP_UNIT=crasher.service")?;
        Ok(listed.stdout.contains("present"))
    })?;
    let session = opened(vm, "core crasher")?;
    let (_laptop, mut ide) = looking(vm, &session)?;
    let threads = ide.threads()?;
    ensure!(
        threads.iter().any(|thread| thread["name"].to_string().contains("main.main")),
        "{threads:?}"
    );
    drop(ide);
    session.stop(vm)?;
    vm.ok("! find /var/tmp -name core | grep -q . && rm /var/lib/systemd/coredump/*").map(drop)
}

/// What code inside a profile or a domain can do, tried by a process that goes there by itself.
pub(crate) fn attempts(vm: &Vm, inside: &str, unit: &str) -> Result<Value> {
    let script = include_str!("../vm/attempts.py").replace('\'', r"'\''");
    let pid = format!("$(systemctl show --value -p MainPID {unit})");
    vm.run(&format!("python3 -c '{script}' {inside} {pid}"))?.exits(0)?.json()
}

/// Compares what was tried with what must be.
pub(crate) fn came_out(tried: &Value, inside: &str, expected: &[(&str, bool)]) -> Result<()> {
    for (attempt, allowed) in expected {
        ensure!(tried[*attempt] == *allowed, "{inside}, {attempt}: {tried}");
    }
    Ok(())
}

/// What a failure needs to be understood comes with it.
pub(crate) fn told(vm: &Vm, steps: impl FnOnce() -> Result<()>) -> Result<()> {
    steps().map_err(|error| {
        let state = vm.run(
            "journalctl --no-pager -b -n 60 -t godebugd -t godebug-revoke -t godebug-gateway \
             -t godebug-dlvctl -t apparmor_parser; cat /proc/loadavg; \
             grep -h -e 'apparmor=\"DENIED\"' -e 'avc:  denied' /var/log/audit/audit.log | tail -n 20",
        );
        let state = state.map_or_else(|error| format!("{error:#}"), |output| output.stdout);
        error.context(format!("the machine afterwards:\n{state}\n"))
    })
}
