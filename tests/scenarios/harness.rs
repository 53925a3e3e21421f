//! The harness itself: a host boots, is what scenarios take it for, and the proof that nothing is left
//! finds each kind of thing that could be.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail, ensure};
use godebug_tests::{
    Host, Port, Snapshot, dap::DapClient, jsonrpc::JsonRpcClient, nothing_left, scenario::Scenario,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("harness_boots_and_leaves_nothing", boots_and_leaves_nothing)
        .without_product()
        .main(),
    Scenario::new("harness_debugs_a_sample_with_plain_dlv", debugs_with_plain_dlv)
        .without_product()
        .main(),
    Scenario::new("harness_finds_what_is_left", finds_what_is_left).without_product(),
    Scenario::new("harness_reboots", reboots).without_product(),
];

const SAMPLES: &[&str] = &[
    "app@1", "stripped", "wrapped", "two", "python", "rootapp", "dynapp", "pie", "watchdog",
    "ticker",
];

fn boots_and_leaves_nothing(host: &Host) -> Result<()> {
    for unit in SAMPLES {
        host.ok(&format!("systemctl start {unit}.service"))?;
    }
    host.wait_until("the units with two programs have both", Duration::from_secs(30), || {
        Ok(host.targets("two")?.len() == 2 && host.targets("wrapped")?.len() == 1)
    })?;
    let before = Snapshot::take(host, &["myapp", "two", "wrapped", "pie", "python", "stripped"])?;
    for port in [8080, 8083, 8084, 8085, 8086, 8087, 8088, 8089, 8090, 8092, 9091] {
        host.http_from_host(&format!("http://127.0.0.1:{port}/healthz"))?;
    }
    ensure!(host.http_from_host("http://127.0.0.1:8080/order?id=3")?.contains("cents"));
    ensure!(host.targets("python")?.is_empty(), "a Python service counts as Go");
    ensure!(host.run("systemctl is-active idle")?.stdout.trim() == "inactive");
    ensure!(host.run("ls /usr/lib/godebug/delve/*/dlv")?.stdout.lines().count() == 2);
    let who = host.run_as("alice", "id -un; echo it\\'s $HOME")?.ok()?;
    ensure!(who.starts_with("alice\nit's "), "{who}");
    ensure!(host.run("exit 7")?.status == 7);
    ensure!(host.laptop(&format!("ping -c1 -W2 {} || true", host.address()))?.success());
    ensure!(host.port_scan_from_laptop(2345)? == Port::Filtered);
    ensure!(host.port_scan_from_laptop_v6(2345)? == Port::Filtered);
    ensure!(
        host.port_scan_from_stranger(22)? == Port::Closed,
        "ssh is the one port that zone public has"
    );
    nothing_left(host, &before)
}

/// What godebug replaces, done by hand: it shows that the clients work with each suite's own dlv.
fn debugs_with_plain_dlv(host: &Host) -> Result<()> {
    let before = Snapshot::take(host, &["myapp"])?;
    let target = before.processes()[0].inner_pid;
    let mut dlv = host.spawn(&format!(
        "exec dlv attach {target} --headless --continue --accept-multiclient --api-version=2 --listen 127.0.0.1:2400"
    ))?;
    dlv.wait_for_line("listening at", Duration::from_secs(10))?;
    let at = SocketAddr::from(([127, 0, 0, 1], 2400));

    // The line comes before dlv has attached, and --continue acts later still.
    let mut rpc = JsonRpcClient::new(host.connect_on_host(at)?);
    rpc.set_api_version()?;
    host.wait_until("dlv has let the target go on", Duration::from_secs(10), || {
        Ok(rpc.state()?["Running"] == true)
    })?;
    let mut dap = DapClient::new(host.connect_on_host(at)?);
    dap.attach()?;
    dap.set_function_breakpoints(&["main.priceOf"])?;
    dap.configuration_done()?;
    let mut order = host.spawn("curl --silent --max-time 20 'http://127.0.0.1:8080/order?id=3'")?;
    let (thread, reason) = dap.wait_for_stop()?;
    let stack = dap.stack_trace(thread)?;
    ensure!(stack[0]["name"] == "main.priceOf", "stopped elsewhere ({reason}): {}", stack[0]);
    let frame = stack[0]["id"].as_i64().unwrap_or_default();
    let locals = dap.locals(frame)?;
    ensure!(
        locals.iter().any(|(name, value)| name == "o" && value.contains("customer-3")),
        "{locals:?}"
    );
    ensure!(dap.evaluate(frame, "o.ID")? == "3");
    dap.set_function_breakpoints(&[])?;
    dap.resume(thread)?;
    ensure!(order.wait(Duration::from_secs(10))?.ok()?.contains("cents"));
    dap.disconnect(false)?;

    rpc.command("halt")?;
    ensure!(rpc.process_pid()? == i64::from(target));
    ensure!(!rpc.list_goroutines()?.as_array().is_none_or(Vec::is_empty));
    ensure!(nothing_left(host, &before).is_err(), "a debugger at work was not noticed");
    rpc.detach(false)?;
    dlv.wait(Duration::from_secs(10))?;
    nothing_left(host, &before)
}

/// Leaves one of each kind behind, on purpose.
fn finds_what_is_left(host: &Host) -> Result<()> {
    let cases = [
        (
            "systemd-run --quiet --unit=godebug-dlv@x sleep infinity",
            "systemctl stop godebug-dlv@x",
            "godebug-dlv@x",
        ),
        (
            "systemd-run --quiet --unit=godebug-deadman@x --on-active=1h true",
            "systemctl stop godebug-deadman@x.timer",
            "godebug-deadman@x.timer",
        ),
        ("mkdir -p /run/godebug/x && touch /run/godebug/lock", "rm -r /run/godebug", "d x"),
        ("nft add table inet godebug", "nft delete table inet godebug", "table inet godebug"),
        ("firewall-cmd --add-port=2345/tcp", "firewall-cmd --remove-port=2345/tcp", "2345"),
        (
            "firewall-cmd --permanent --add-port=2345/tcp",
            "firewall-cmd --permanent --remove-port=2345/tcp && rm -f /etc/firewalld/zones/public.xml*",
            "permanent zone public",
        ),
        ("mkdir -p /etc/godebug && echo x >/etc/godebug/x", "rm -r /etc/godebug", "/etc/godebug/x"),
        (
            "kill -STOP $(systemctl show --value -p MainPID myapp)",
            "kill -CONT $(systemctl show --value -p MainPID myapp)",
            "stopped (T)",
        ),
    ];
    let before = Snapshot::take(host, &["myapp"])?;
    for (leave, undo, shown) in cases {
        host.ok(leave)?;
        match nothing_left(host, &before) {
            Err(error) if format!("{error:#}").contains(shown) => {}
            Err(error) => return Err(error.context(format!("`{leave}` did not show as {shown:?}"))),
            Ok(()) => bail!("`{leave}` was not noticed"),
        }
        host.ok(undo)?;
        nothing_left(host, &before)?;
    }
    changed_text_is_found(host, &before)
}

fn changed_text_is_found(host: &Host, before: &Snapshot) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let target = &before.processes()[0];
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid))?;
    let text = maps.lines().find(|line| line.contains("r-xp") && line.contains("shop"));
    let start = text.and_then(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
    let Some(start) = start else { bail!("no text mapping:\n{maps}") };
    let memory = std::fs::File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/mem", target.pid))?;
    let mut byte = [0];
    memory.read_exact_at(&mut byte, start)?;
    memory.write_all_at(&[0xcc], start)?;
    let found = nothing_left(host, before);
    memory.write_all_at(&byte, start)?;
    ensure!(
        found.is_err_and(|error| error.to_string().contains("0xcc")),
        "a breakpoint byte was not noticed"
    );
    nothing_left(host, before)
}

fn reboots(host: &Host) -> Result<()> {
    host.write_file("/var/lib/stays", "here")?;
    host.write_file("/run/goes", "here")?;
    host.ok("firewall-cmd --add-port=2345/tcp && nft add table inet godebug")?;
    ensure!(host.port_scan_from_laptop(2345)? == Port::Closed);
    for how in [Host::reboot, Host::cut_power] {
        how(host)?;
        ensure!(host.read_file("/var/lib/stays")? == "here");
        ensure!(!host.path("/run/goes").exists());
        ensure!(host.port_scan_from_laptop(2345)? == Port::Filtered);
        nothing_left(host, &Snapshot::take(host, &["myapp"])?)?;
    }
    Ok(())
}
