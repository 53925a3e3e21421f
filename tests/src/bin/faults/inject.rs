//! How each fault is brought about, and how the host is mended after it.

use std::{fs, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use godebug_tests::Host;
use rustix::{
    net::sockopt::set_socket_linger,
    process::{Pid, Signal, kill_process},
};

use crate::{
    scene::{SOON, Scene, send},
    setup::restore,
};

/// Whether a fault could happen at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    Done,
    /// What it needs was not there, for this reason.
    NotApplicable(String),
}

fn signal(name: &str) -> Result<Signal> {
    match name {
        "KILL" => Ok(Signal::KILL),
        "STOP" => Ok(Signal::STOP),
        "SEGV" => Ok(Signal::SEGV),
        _ => bail!("no such signal: {name}"),
    }
}

/// A command on the host. It may be held up by what is held at the point, and then goes on alone.
pub(crate) fn host(scene: &mut Scene, line: &str) -> Result<Effect> {
    let mut command = scene.host.spawn(line)?;
    let limit = std::time::Instant::now() + Duration::from_secs(10);
    while command.is_running()? {
        if std::time::Instant::now() > limit {
            scene.running.push(command);
            return Ok(Effect::Done);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    command.wait(Duration::from_secs(1))?.ok()?;
    Ok(Effect::Done)
}

fn must(scene: &Scene, line: &str) -> Result<()> {
    scene.host.ok(line).map(drop)
}

// godebugd.

pub(crate) fn godebugd_masked(scene: &mut Scene) -> Result<Effect> {
    must(scene, "systemctl mask --runtime godebugd")?;
    scene.signal("godebugd", Signal::KILL)?;
    Ok(Effect::Done)
}

pub(crate) fn godebugd_unmasked(scene: &mut Scene) -> Result<()> {
    scene.let_godebugd_come_back()?;
    must(scene, "systemctl start godebugd")
}

pub(crate) fn kill_godebugd(scene: &mut Scene) -> Result<()> {
    scene.signal("godebugd", Signal::KILL).map(drop)
}

// The parts of a session.

pub(crate) fn part(scene: &mut Scene, part: &str, name: &str) -> Result<Effect> {
    if scene.signal(part, signal(name)?)? {
        return Ok(Effect::Done);
    }
    Ok(Effect::NotApplicable(format!("there is no {part}")))
}

pub(crate) fn both(scene: &mut Scene, one: &str, other: &str) -> Result<Effect> {
    let (one, other) = (scene.part(one), scene.part(other));
    if one.is_empty() || other.is_empty() {
        return Ok(Effect::NotApplicable("there are not both".to_owned()));
    }
    for process in one.iter().chain(&other) {
        send(process, Signal::KILL)?;
    }
    Ok(Effect::Done)
}

/// Other than a plain signal, this has the kernel kill the control groups.
pub(crate) fn units(scene: &mut Scene) -> Result<Effect> {
    if scene.part("guard").is_empty() || scene.part("dlv").is_empty() {
        return Ok(Effect::NotApplicable("there are not both".to_owned()));
    }
    host(scene, "systemctl kill --signal=KILL 'godebug-guard@*' 'godebug-dlv@*' || true")
}

pub(crate) fn slice(scene: &mut Scene) -> Result<Effect> {
    host(scene, "systemctl kill --signal=KILL godebug.slice")
}

// The target.

pub(crate) fn target_stops(scene: &mut Scene) -> Result<Effect> {
    host(scene, &format!("systemctl stop {}", scene.service.unit))
}

pub(crate) fn target_restarts(scene: &mut Scene) -> Result<Effect> {
    host(scene, &format!("systemctl restart {}", scene.service.unit))
}

/// As an administrator does.
pub(crate) fn target_frozen(scene: &mut Scene) -> Result<Effect> {
    let frozen = scene.host.run(&format!("systemctl freeze {}", scene.service.unit))?;
    if frozen.stderr.contains("pending job") {
        return Ok(Effect::NotApplicable("the service is just being started".to_owned()));
    }
    frozen.ok()?;
    scene.is_frozen = true;
    Ok(Effect::Done)
}

/// Who has frozen it thaws it, and nobody else.
pub(crate) fn target_thawed(scene: &mut Scene) -> Result<()> {
    if std::mem::take(&mut scene.is_frozen) {
        for process in scene.host.targets(scene.service.unit)? {
            ensure!(process.is_frozen()?, "{} was thawed, which was not ours to do", process.name);
        }
    }
    must(scene, &format!("systemctl thaw {}", scene.service.unit))
}

pub(crate) fn target_signalled(scene: &mut Scene, name: &str) -> Result<Effect> {
    // Where it was started for the session it is another process than before.
    let running = scene.host.targets(scene.service.unit)?;
    let target = running.first().context("the service does not run")?;
    let pid = Pid::from_raw(i32::try_from(target.pid)?).context("a process without a number")?;
    kill_process(pid, signal(name)?).context("signalling the target")?;
    Ok(Effect::Done)
}

/// A new file in the old one's place, as a package manager leaves it.
const REPLACE: &str =
    "cp -p /opt/samples/shop /opt/samples/new && mv /opt/samples/new /opt/samples/shop";

pub(crate) fn target_replaced(scene: &mut Scene) -> Result<Effect> {
    host(scene, REPLACE)
}

pub(crate) fn target_redeployed(scene: &mut Scene) -> Result<Effect> {
    host(scene, &format!("{REPLACE} && systemctl restart {}", scene.service.unit))
}

pub(crate) fn start_target(scene: &mut Scene) -> Result<()> {
    let unit = scene.service.unit;
    must(scene, &format!("systemctl reset-failed {unit}; systemctl start {unit}"))
}

const UNIT: &str = "/etc/systemd/system/myapp.service";

pub(crate) fn unit_removed(scene: &mut Scene) -> Result<Effect> {
    host(scene, &format!("rm {UNIT} && systemctl daemon-reload"))
}

pub(crate) fn unit_restored(scene: &mut Scene) -> Result<()> {
    must(scene, &format!("{} && systemctl daemon-reload", restore(UNIT)))
}

// The firewall.

pub(crate) fn firewall_restored(scene: &mut Scene) -> Result<()> {
    must(
        scene,
        &format!(
            "systemctl stop firewalld; systemctl reset-failed firewalld; {} && nft flush ruleset && \
             systemctl start firewalld",
            restore("/etc/firewalld")
        ),
    )?;
    // Since firewalld 2.5 its unit counts as started before the service answers.
    scene.host.wait_until("firewalld answers", SOON, || {
        Ok(scene.host.run("firewall-cmd --state")?.success())
    })
}

// What the host runs on.

pub(crate) fn bus_restored(scene: &mut Scene) -> Result<()> {
    must(
        scene,
        "systemctl start dbus && systemctl reset-failed; \
         systemctl restart systemd-logind polkit",
    )?;
    firewall_restored(scene)
}

pub(crate) fn small_log(host: &Host) -> Result<()> {
    // Before godebugd starts: its mounts are its own.
    host.ok("systemctl stop godebugd; mount -t tmpfs -o size=256k,mode=0750 tmpfs /var/log/godebug")
        .map(drop)
}

pub(crate) fn log_full(scene: &mut Scene) -> Result<Effect> {
    must(scene, "head -c 1M /dev/zero >/var/log/godebug/full || true")?;
    Ok(Effect::Done)
}

pub(crate) fn log_restored(scene: &mut Scene) -> Result<()> {
    must(scene, "systemctl stop godebugd; umount /var/log/godebug")
}

pub(crate) fn run_full(scene: &mut Scene) -> Result<Effect> {
    must(scene, "cat /dev/zero >/run/fill 2>/dev/null || true")?;
    Ok(Effect::Done)
}

pub(crate) fn run_emptied(scene: &mut Scene) -> Result<()> {
    fs::remove_file(scene.host.path("/run/fill")).context("emptying /run")
}

// Time.

pub(crate) fn three_seconds(_: &mut Scene) -> Result<Effect> {
    std::thread::sleep(Duration::from_secs(3));
    Ok(Effect::Done)
}

// The client.

pub(crate) fn client_resets(scene: &mut Scene) -> Result<Effect> {
    let Some(client) = scene.client.take() else {
        return Ok(Effect::NotApplicable("there is no client".to_owned()));
    };
    // What is not sent is thrown away, and the other side gets a reset when the last owner closes.
    set_socket_linger(&client.socket, Some(Duration::ZERO)).context("making it linger")?;
    Ok(Effect::Done)
}

pub(crate) fn client_vanishes(scene: &mut Scene) -> Result<Effect> {
    let route = format!("ip route add blackhole {}/32", scene.host.address());
    scene.host.laptop(&route)?.ok()?;
    Ok(Effect::Done)
}

pub(crate) fn client_network_back(scene: &mut Scene) -> Result<()> {
    let route = format!("ip route del blackhole {}/32", scene.host.address());
    scene.host.laptop(&route)?.ok().map(drop)
}

pub(crate) fn halted(scene: &mut Scene) -> Result<Effect> {
    let order =
        scene.host.spawn("exec curl --silent --max-time 60 'http://127.0.0.1:8080/order?id=3'")?;
    scene.running.push(order);
    let Some(client) = &mut scene.client else {
        return Ok(Effect::NotApplicable("there is no client".to_owned()));
    };
    client.dap.limit = Duration::from_secs(3);
    match client.dap.wait_for_stop() {
        Ok(_) => Ok(Effect::Done),
        // Its connection is cut by then, and the breakpoint taken away.
        Err(_) => Ok(Effect::NotApplicable("no breakpoint is hit any more".to_owned())),
    }
}

// The host.

pub(crate) fn reboot(scene: &mut Scene) -> Result<Effect> {
    // systemd would wait for a program that is held.
    scene.release()?;
    scene.host.reboot()?;
    scene.is_up_again()?;
    Ok(Effect::Done)
}

pub(crate) fn power_cut(scene: &mut Scene) -> Result<Effect> {
    scene.host.cut_power()?;
    scene.is_up_again()?;
    Ok(Effect::Done)
}
