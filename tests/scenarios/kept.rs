//! Images that a recording has kept are opened later, one by one, when the service has long gone on, or is gone.

use crate::support::{Laptop, SOON, Session, is_answered, leaves_nothing, order, refused, start};
use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, nothing_left::kept_images, scenario::Scenario};
use serde_json::Value;
use std::time::Duration;

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("recorded_images_are_opened_when_the_service_is_gone", opened_later).main(),
    Scenario::new("images_are_kept_for_their_time_and_for_nobody_else", for_a_time),
    Scenario::new("images_go_in_time_whoever_holds_the_socket_they_came_by", held_open),
];

/// The images of a host that is busy may stop a service for longer than people's own.
const PATIENT: &str = "--max-pause 2s";

/// The images of a unit that are kept, the latest first.
fn listed(host: &Host, unit: &str) -> Result<Vec<Value>> {
    let all = host.run(&format!("godebugctl --json core {unit} --list"))?.exits(0)?.json()?;
    let all = all.as_array().context("no list")?.iter();
    Ok(all.filter(|one| one["image"].is_object()).cloned().collect())
}

fn name(image: &Value) -> Result<String> {
    image["image"]["name"].as_str().map(str::to_owned).context("an image without a name")
}

fn open(host: &Host, name: &str) -> Result<Session> {
    let line = format!(
        "rm -f /tmp/ticket-kept; godebugctl --json core '{name}' --ttl 60s --detach \
         --ticket /tmp/ticket-kept --from {} --endpoint {}",
        host.laptop_address(),
        host.address()
    );
    Session::of(host.run(&line)?.exits(0)?.json()?)
}

/// A service beside the sample, which can end without harm to anybody.
fn start_another(host: &Host) -> Result<()> {
    start(host, "myapp")?;
    host.ok(
        "systemd-run --quiet --collect --unit=another -p User=shop /opt/samples/shop -listen 127.0.0.1:8097",
    )?;
    host.wait_until("it serves", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8097/healthz").is_ok())
    })
}

fn opened_later(host: &Host) -> Result<()> {
    start_another(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        let busy = host.spawn(
            "n=1; while curl -s -m 20 -o /dev/null http://127.0.0.1:8097/order?id=$n || true; do \
               n=$((n + 1)); sleep 0.02; done",
        )?;
        let line = format!(
            "godebugctl --json record another --at main.finish --expr label --for 6s --every 200ms --keep 5m {PATIENT}"
        );
        let output = host.run_within(&line, SOON * 4)?.exits(0)?;
        drop(busy);
        let hits: Vec<Value> =
            output.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(hits.len() > 2, "{hits:?}");
        for (hit, number) in hits.iter().zip(1_u64..) {
            ensure!(hit["image"] == number, "not image {number}: {hit}");
        }
        // The service ends, as one does when something is wrong with it.
        host.ok("systemctl stop another")?;
        let kept = listed(host, "another")?;
        ensure!(kept.len() == hits.len(), "{} of {} are kept: {kept:?}", kept.len(), hits.len());
        ensure!(kept[0]["kept_until"].is_string() && kept[0]["uid"] == 0, "{:?}", kept[0]);
        ensure!(kept_images(host)? == hits.len(), "godebugd holds {}", kept_images(host)?);
        let recording = name(&kept[0])?.split('#').next().unwrap_or_default().to_owned();
        let shown = host.ok(&format!("godebugctl show {recording}"))?;
        ensure!(shown.contains("closed"), "{shown}");
        let human = host.ok("godebugctl core another --list")?;
        ensure!(human.contains(&format!("image {recording}#1 at main.finish")), "{human}");

        // Two of them, not the latest: each shows the values of its time.
        for index in [0, 1] {
            looks_like(host, &format!("{recording}#{}", index + 1), &hits[index])?;
        }
        refused(host.run(&format!("godebugctl --json core '{recording}#999'"))?, 4, "target")?;
        refused(host.run(&format!("godebugctl --json core '{recording}#0'"))?, 2, "usage")?;

        host.ok(&format!("godebugctl stop {recording}"))?;
        ensure!(listed(host, "another")?.is_empty() && kept_images(host)? == 0, "they stayed");
        let trail = host.run(&format!("godebugctl --json audit show {recording}"))?.exits(0)?;
        for event in ["images-kept", "images-gone"] {
            ensure!(trail.stdout.contains(event), "the record lacks {event}: {}", trail.stdout);
        }
        Ok(())
    })
}

/// A debugger opens the image, sees what was recorded of it, and cannot go on from there.
fn looks_like(host: &Host, image: &str, hit: &Value) -> Result<()> {
    let session = open(host, image)?;
    ensure!(session.document["dump"]["image"]["name"] == image, "{}", session.document);
    let laptop = Laptop::connect(host, &session)?;
    let mut ide = laptop.dap()?;
    ide.attach()?;
    ide.configuration_done()?;
    let (goroutine, _) = ide.wait_for_stop()?;
    ensure!(hit["goroutine"] == goroutine, "goroutine {goroutine} and not that of {hit}");
    let stack = ide.stack_trace(goroutine)?;
    ensure!(stack[0]["name"] == "main.finish", "{stack:?}");
    let frame = stack[0]["id"].as_i64().context("a frame without a number")?;
    let (label, recorded) = (ide.evaluate(frame, "label")?, &hit["variables"][0]["value"]);
    let recorded = recorded.as_str().unwrap_or_default();
    ensure!(label.trim_matches('"') == recorded.trim_matches('"'), "{label} is not {recorded}");
    ensure!(ide.resume(goroutine).is_err(), "it went on");
    drop(ide);
    // What was in its memory is on no disk.
    host.ok("find /var/tmp -name program -path '*godebug-dlv*' | grep -q .")?;
    host.ok("! find /var/tmp /tmp -name core | grep -q .")?;
    session.stop(host)?;
    Ok(())
}

fn for_a_time(host: &Host) -> Result<()> {
    start(host, "myapp")?;
    // Somebody whom the host lets look at everything of it.
    host.ok("useradd --create-home dev")?;
    host.write_file(
        "/etc/polkit-1/rules.d/40-dev.rules",
        "polkit.addRule(function(action, subject) {\n\
         if (subject.user == 'dev' && action.id.indexOf('org.godebug1.') == 0) return polkit.Result.YES; });\n",
    )?;
    host.ok("mkdir -p /etc/godebug/rules.d && systemctl restart polkit")?;
    host.write_file(
        "/etc/godebug/rules.d/10-dev.toml",
        "[[rule]]\nname = \"dev\"\neffect = \"allow\"\nunits = [\"myapp\"]\nusers = [\"dev\"]\n\
         modes = [\"observe\"]\n",
    )?;
    leaves_nothing(host, &["myapp"], |_| {
        let line = format!("godebugctl snapshot myapp --keep 8s {PATIENT}");
        let said = host.run_within(&line, SOON * 4)?.exits(0)?;
        ensure!(said.stderr.contains("1 image is kept until"), "{}", said.stderr);
        let image = name(listed(host, "myapp")?.first().context("it is not kept")?)?;
        let run = |words: &str| host.run_as("dev", &format!("godebugctl --json {words}"));
        let theirs = run("core myapp --list")?.exits(0)?.json()?;
        ensure!(theirs.as_array().is_some_and(Vec::is_empty), "another sees it: {theirs}");
        let opened = run(&format!("core '{image}' --ttl 60s --detach"))?;
        let why = refused(opened, 4, "target")?;
        ensure!(why.contains("is kept"), "{why}");
        host.wait_until("its time is over", Duration::from_secs(30), || {
            Ok(kept_images(host)? == 0)
        })?;
        ensure!(listed(host, "myapp")?.is_empty(), "it is still listed");
        let recording = image.split('#').next().unwrap_or_default();
        let trail = host.ok(&format!("godebugctl audit show {recording}"))?;
        ensure!(trail.contains("their time is over"), "{trail}");
        Ok(())
    })
}

/// Takes standard input of the process that takes images, keeps it, and says so.
const GRAB: &str = r#"
import ctypes, time, glob
call = ctypes.CDLL(None, use_errno=True).syscall
for path in glob.glob("/proc/[0-9]*/comm"):
    if open(path).read() == "godebug-image\n":
        pid = int(path.split("/")[2])
        process = call(434, pid, 0)
        mine = call(438, process, 0, 0)
        print("held" if mine >= 0 else "errno %d" % ctypes.get_errno(), flush=True)
        time.sleep(600)
print("no process")
"#;

fn held_open(host: &Host) -> Result<()> {
    start(host, "myapp")?;
    leaves_nothing(host, &["myapp"], |_| {
        let line = format!(
            "exec godebugctl --json snapshot myapp --at main.priceOf --timeout 60s --keep 8s {PATIENT}"
        );
        let mut waiting = host.spawn(&line)?;
        crate::snapshot::is_armed(host, &waiting)?;
        // Root can do this; the service cannot, which has not the rights of the process that takes images.
        let grab = format!("exec python3 -c '{GRAB}'");
        let as_service =
            host.run_as("shop", &grab.replace("time.sleep(600)", "raise SystemExit"))?;
        ensure!(as_service.stdout.contains("errno 1"), "{as_service}");
        let holder = host.spawn(&grab)?;
        host.wait_until("the socket is held", SOON, || Ok(holder.stdout().contains("held")))?;
        is_answered(order(host, 8080)?)?;
        waiting.wait(SOON * 4)?.exits(0)?;
        ensure!(kept_images(host)? == 1, "it is not kept");
        host.wait_until("its time is over", Duration::from_secs(30), || {
            Ok(kept_images(host)? == 0)
        })?;
        drop(holder);
        Ok(())
    })
}
