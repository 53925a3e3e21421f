//! One cell: one fault at one point of one session's life, and what is left after it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use godebug_tests::{Host, Snapshot, fault_points, nothing_left, nothing_left_but_targets_ended};
use rustix::process::Signal;

use crate::{
    faults::{Act, Fault, Target},
    inject::Effect,
    points::{Group, Point},
    scene::{MYAPP, SCRIPTED, Scene, TARGETS, Ttl, now},
};

/// What came of a cell.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Nothing was left, so many milliseconds after what made it due.
    Passed {
        milliseconds: f64,
        since: &'static str,
    },
    /// Nothing had been taken and nobody was left to clear away: the session's folder stayed until a
    /// godebugd ran again, and nothing else.
    FolderStayed,
    /// The service died, where nobody could have saved it.
    Died,
    NotApplicable(String),
    /// Nothing was left, but later than it must be.
    Late(String),
    /// What was left, or went wrong.
    Failed(String),
}

/// When nothing of the session was to be seen any more, in milliseconds since the epoch.
enum End {
    InTime(f64),
    /// By so many seconds.
    Late(f64),
    /// Nothing but its folder is there, and nobody who would take it away.
    FolderStayed,
}

/// Runs one. The host can be used again unless it failed.
pub(crate) fn run(host: &Host, fault: &Fault, point: &Point) -> Outcome {
    attempt(host, fault, point).unwrap_or_else(|error| {
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        let why = causes.join("\n  because: ");
        // A script's child takes the script with it.
        let is_target =
            |line: &str| ["(shop) is gone", "(sh) is gone"].iter().any(|end| line.ends_with(end));
        let target_only = why.contains("(shop) is gone") && why.lines().skip(1).all(is_target);
        match fault.may_kill(point) && target_only {
            true => Outcome::Died,
            false => Outcome::Failed(why),
        }
    })
}

fn attempt(host: &Host, fault: &Fault, point: &Point) -> Result<Outcome> {
    // While a unit's file is away, systemd does not hear that its service has started, and ends it later. Only that is
    // mended: a service in any other state is a fault that was not seen.
    for unit in TARGETS {
        host.ok(&format!(
            "[ \"$(systemctl is-active {unit})\" != activating ] || systemctl restart {unit}"
        ))?;
    }
    (fault.prepare)(host)?;
    let mut scene = Scene::new(host)?;
    let effect = play(&mut scene, fault, point)?;
    let released = now();
    if let Effect::NotApplicable(why) = effect {
        let mended = settle(&mut scene, fault, point);
        mended.context("after a fault that could not happen")?;
        return Ok(Outcome::NotApplicable(why));
    }
    let end = match fault.reboots {
        true => End::InTime(now()),
        false => await_end(&mut scene, fault, point, released)?,
    };
    if let Some(mend) = fault.mend {
        traces_of_session(&scene)?;
        mend(&mut scene).context("mending the host")?;
    }
    if point.group == Group::DeadMan && !fault.reboots {
        scene.let_godebugd_come_back()?;
    }
    prove(&scene, fault, point)?;
    if fault.is_recorded {
        scene.all_are_closed()?;
    }
    if fault.reboots {
        return Ok(Outcome::Passed { milliseconds: 0.0, since: "the next boot" });
    }
    Ok(match end {
        End::InTime(end) => measured(&scene, point, released, end),
        End::Late(seconds) => {
            Outcome::Late(format!("nothing was left {seconds:.1} s after it was due"))
        }
        End::FolderStayed => Outcome::FolderStayed,
    })
}

/// Opens a session, brings it to the point and breaks what is to be broken there.
fn play(scene: &mut Scene, fault: &Fault, point: &Point) -> Result<Effect> {
    let action = match fault.act {
        Act::Itself(action) => action,
        Act::Outside(_) => "wait",
    };
    match point.group {
        Group::Opening => {
            scene.arm(point, action)?;
            scene.open(fault.ttl.unwrap_or(Ttl::Short))?;
        }
        Group::Active | Group::Closing => {
            scene.open_and_connect(fault.ttl.unwrap_or(Ttl::Middle))?;
            if point.is_idle() {
                return strike_idle(scene, fault);
            }
            scene.arm(point, action)?;
            let command =
                if point.group == Group::Active { scene.extend()? } else { scene.stop()? };
            scene.running.push(command);
        }
        Group::Image | Group::Standing => {
            scene.arm(point, action)?;
            scene.look(if point.group == Group::Image { MYAPP } else { SCRIPTED })?;
        }
        Group::Exec => {
            scene.arm(point, action)?;
            scene.exec(fault.ttl.unwrap_or(Ttl::Middle))?;
        }
        Group::Observe => {
            scene.arm(point, action)?;
            scene.observe(fault.ttl.unwrap_or(Ttl::Short))?;
        }
        Group::Observing => {
            scene.observe_and_connect(fault.ttl.unwrap_or(Ttl::Middle))?;
            scene.arm(point, action)?;
            scene.watch_its_line()?;
        }
        Group::DeadMan => {
            scene.arm(point, action)?;
            scene.open_and_connect(fault.ttl.unwrap_or(Ttl::Middle))?;
            scene.end_godebugd()?;
        }
    }
    if !scene.has_fired(Duration::from_secs(20))? {
        bail!("the point was not reached; what ran said: {}", said(scene));
    }
    scene.note_deadline();
    let Act::Outside(inject) = fault.act else { return Ok(Effect::Done) };
    let effect = inject(scene).with_context(|| format!("bringing about {}", fault.name));
    if !fault.reboots {
        scene.release()?;
    }
    effect
}

fn said(scene: &Scene) -> String {
    scene.running.iter().map(|command| command.stdout() + &command.stderr()).collect()
}

/// Nobody is held there: the fault comes from outside in any case.
fn strike_idle(scene: &mut Scene, fault: &Fault) -> Result<Effect> {
    match fault.act {
        Act::Outside(inject) => inject(scene),
        Act::Itself("kill") => scene.signal("godebugd", Signal::KILL).map(|_| Effect::Done),
        Act::Itself(_) => scene.signal("godebugd", Signal::STOP).map(|_| Effect::Done),
    }
}

/// Ends a session that nothing has happened to.
fn settle(scene: &mut Scene, fault: &Fault, point: &Point) -> Result<()> {
    for mut command in std::mem::take(&mut scene.running) {
        command.wait(Duration::from_secs(30))?;
    }
    if scene.host.run("systemctl is-enabled godebugd")?.stdout.contains("masked") {
        scene.host.wait_until("the dead man has come", Duration::from_secs(30), || {
            Ok(scene.sessions().is_empty())
        })?;
        scene.let_godebugd_come_back()?;
    } else {
        scene.stop()?.wait(Duration::from_secs(30))?;
    }
    if let Some(mend) = fault.mend {
        mend(scene)?;
    }
    prove(scene, fault, point)
}

/// Waits until nothing of the session can be seen.
fn await_end(scene: &mut Scene, fault: &Fault, point: &Point, released: f64) -> Result<End> {
    // What is late by so much does not come.
    const NEVER: Duration = Duration::from_secs(20);
    let mut bare_since = None;
    loop {
        scene.note_deadline();
        let quiet = seen(scene, point)?;
        let now = now();
        let seconds = (now - due(scene, fault, point, released)) / 1000.0;
        let limit = fault.limit_at(point).as_secs_f64();
        let Some(what) = quiet else {
            return Ok(if seconds > limit { End::Late(seconds) } else { End::InTime(now) });
        };
        // The dead man leaves it so too, for the moment before he takes the folder.
        bare_since = match fault.daemon_is_gone && scene.has_only_a_folder()? {
            true => bare_since.or(Some(now)),
            false => None,
        };
        if bare_since.is_some_and(|since| now > since + 1500.0) {
            return Ok(End::FolderStayed);
        }
        if seconds > limit + NEVER.as_secs_f64() {
            let left = nothing_left(scene.host, &scene.before).err();
            let left = left.map_or(what, |error| format!("{error:#}"));
            bail!("{seconds:.1} s after it was due: {left}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// From when on the time is counted in which everything has to be gone.
fn due(scene: &Scene, fault: &Fault, point: &Point, released: f64) -> f64 {
    match scene.deadline {
        // It was asked for, and godebugd is there to do it.
        _ if point.group == Group::Closing && !fault.daemon_is_gone && !fault.daemon_restarts => {
            released
        }
        Some(deadline) => deadline.max(released),
        None => released,
    }
}

/// What is still to be seen of a session, as far as a look tells that costs nothing.
fn seen(scene: &Scene, point: &Point) -> Result<Option<String>> {
    if let Some(id) = scene.sessions().pop() {
        return Ok(Some(format!("the folder of session {id} is there")));
    }
    const PROGRAMS: [&str; 5] =
        ["dlv", "godebug-gateway", "godebug-image", "godebug-launch", "godebug-revoke"];
    let running = scene.host.processes();
    if let Some(one) = running.iter().find(|one| PROGRAMS.contains(&one.name.as_str())) {
        return Ok(Some(format!("{} is running", one.name)));
    }
    Ok(scene.is_held(point.group == Group::Exec)?.then(|| "the target is held".to_owned()))
}

/// What only mending the host would take away.
fn traces_of_session(scene: &Scene) -> Result<()> {
    let found = scene.host.run(
        "{ nft list ruleset; \
           if systemctl --quiet is-active firewalld; then \
             firewall-cmd --list-all-zones; firewall-cmd --permanent --list-all-zones; fi; } \
         | grep -e godebug_ -e 23[46][0-9]",
    )?;
    if found.success() {
        bail!("left in the firewall:\n{}", found.stdout);
    }
    Ok(())
}

/// Everything is as it was, and the target does its work.
fn prove(scene: &Scene, fault: &Fault, point: &Point) -> Result<()> {
    let host = scene.host;
    let limit = Instant::now() + Duration::from_secs(3);
    loop {
        // Whoever starts a service under a debugger ends the process that it was.
        let target = if point.group == Group::Exec { Target::Ends } else { fault.target };
        let left = match target {
            Target::Lives => nothing_left(host, &scene.before),
            Target::Ends => nothing_left_but_targets_ended(host, &scene.before)
                .and_then(|()| nothing_left(host, &Snapshot::take(host, &TARGETS)?)),
        };
        match left {
            Ok(()) => break,
            // systemd drops a unit a moment after it has ended.
            Err(error) if Instant::now() > limit => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    scene.is_in_its_pool()?;
    if point.group != Group::Exec {
        return scene.target_answers();
    }
    // It may have been let go of at main a moment ago.
    loop {
        match scene.target_answers() {
            Err(_) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(50)),
            answered => return answered,
        }
    }
}

fn measured(scene: &Scene, point: &Point, released: f64, end: f64) -> Outcome {
    let (since, from) = match scene.deadline {
        Some(deadline) if end >= deadline && deadline >= released => {
            ("the end of its time", deadline)
        }
        _ if point.group == Group::Closing => ("the fault, while it was being stopped", released),
        _ => ("the fault", released),
    };
    Outcome::Passed { milliseconds: (end - from).max(0.0), since }
}

/// Where a failed cell's journal goes.
pub(crate) fn journal(fault: &Fault, point: &Point) -> PathBuf {
    let name = point.name.replace(['/', ':', ' ', ','], "-");
    fault_points::output().join("journals").join(format!("{}-{name}.log", fault.name))
}
