//! Looking into a service that goes on: snapshots and goroutines from images of it.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Spawned, scenario::Scenario};
use serde_json::Value;
use std::time::Duration;

use crate::support::{
    SOON, Session, is_answered, is_proved, leaves_nothing, order, refused, start, text,
};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("snapshot_shows_a_service_that_goes_on", now).on_newest().shared(),
    Scenario::new("snapshot_at_a_line_shows_its_values", at_a_line).on_newest().shared(),
    Scenario::new("snapshot_at_a_hot_line_disturbs_nothing", hot_line).on_newest().shared(),
    Scenario::new("snapshot_of_every_kind_of_service", kinds).shared(),
    Scenario::new("goroutines_are_told_in_groups", goroutines).on_newest().shared(),
    Scenario::new("record_follows_values_at_several_lines", record).shared(),
    Scenario::new("goroutines_in_a_deadlock_are_named", deadlock).on_newest().shared(),
    Scenario::new("heap_tells_who_holds_the_memory", heap).on_newest().shared(),
    Scenario::new("snapshot_that_cannot_be_is_refused_with_a_remedy", cannot_be).shared(),
    Scenario::new("image_of_what_cannot_be_copied_is_read_while_it_stands", standing).shared(),
    Scenario::new("snapshot_of_a_stripped_program_has_its_symbols", stripped).shared(),
    Scenario::new("snapshot_is_not_for_everybody", not_for_everybody).main().shared(),
    Scenario::new("snapshot_whose_client_vanishes_leaves_nothing", client_vanishes).shared(),
    Scenario::new("hot_service_survives_an_image_that_is_killed", killed).on_newest().shared(),
];

/// The images of a host that is busy may stop a service for longer than people's own; the figures are
/// measured elsewhere.
const PATIENT: &str = "--max-pause 2s";

fn snapshot(host: &Host, words: &str) -> Result<Vec<Value>> {
    let line = format!("godebugctl --json snapshot {words} {PATIENT}");
    let output = host.run_within(&line, Duration::from_secs(200))?;
    let output = output.exits(0)?;
    output.stdout.lines().map(|line| serde_json::from_str(line).context("a line")).collect()
}

/// The last session in the records ended because it was done, and all of it is proved gone.
fn is_recorded(host: &Host, reason: &str) -> Result<()> {
    let list = host.run("godebugctl --json audit list --last 1")?.exits(0)?.json()?;
    let id = text(&list["sessions"][0], "id")?;
    let trail = host.run(&format!("godebugctl --json audit show {id}"))?.exits(0)?.json()?;
    let entries = trail["entries"].as_array().context("no entries")?;
    let events: Vec<&str> = entries.iter().filter_map(|entry| entry["event"].as_str()).collect();
    ensure!(events == ["opening", "active", "closed"], "{trail}");
    let closed = &entries[2]["details"];
    ensure!(closed["close_reason"] == reason && closed["mode"] == "observe", "{closed}");
    let proof = closed["proof"].to_string();
    for read in ["tracer", "breakpoints", "godebug-image@", "godebug-guard@", "godebug-deadman@"] {
        ensure!(proof.contains(read), "the proof says nothing of {read}: {closed}");
    }
    is_proved(closed)
}

fn now(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let lines = snapshot(host, "myapp --reason 'what is it doing'")?;
        let [hit] = lines.as_slice() else { anyhow::bail!("not one line: {lines:?}") };
        ensure!(hit["unit"] == "myapp.service" && hit["goroutine"].as_i64() > Some(0), "{hit}");
        let pause = hit["pause_ms"].as_f64().context("no pause")?;
        ensure!(pause > 0.0 && pause < 2000.0, "{hit}");
        ensure!(hit["stack"].to_string().contains("main.main"), "{hit}");
        is_recorded(host, "finished")?;
        let human = host.ok(&format!("godebugctl snapshot myapp {PATIENT}"))?;
        ensure!(human.contains("(stopped for ") && human.contains("main.main"), "{human}");
        let lines = snapshot(host, "myapp --stack 1 --expr 'http.DefaultServeMux.mu' --expr nope")?;
        let values = lines[0]["variables"].as_array().context("no variables")?;
        ensure!(values.len() == 2 && values[1]["unreadable"].is_string(), "{lines:?}");
        ensure!(lines[0]["stack"].as_array().is_some_and(|stack| stack.len() == 1), "{lines:?}");
        is_answered(order(host, 8080)?)
    })
}

fn at_a_line(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let words = "--at main.priceOf --expr o.ID --expr o.Customer --expr o.Items --timeout 60s";
        let mut waiting =
            host.spawn(&format!("exec godebugctl --json snapshot myapp {words} {PATIENT}"))?;
        is_armed(host, &waiting)?;
        let answer = order(host, 8080)?;
        let output = waiting.wait(SOON * 4)?.exits(0)?;
        let hit: Value = serde_json::from_str(output.stdout.trim()).context("not one line")?;
        ensure!(hit["location"]["function"] == "main.priceOf", "{hit}");
        ensure!(hit["stack"].to_string().contains("main.serveOrder"), "{hit}");
        let value = |index: usize| hit["variables"][index]["value"].as_str().unwrap_or_default();
        ensure!(value(0) == "3" && value(1) == "\"customer-3\"", "{hit}");
        ensure!(value(2).contains("scone") && value(2).starts_with("[]main.item len: 3"), "{hit}");
        // The request that was imaged got its answer as always.
        is_answered(answer)?;
        is_recorded(host, "finished")
    })
}

/// Waits until the line is said to be armed, and is.
fn stripped(host: &Host) -> Result<()> {
    start(host, "stripped")?;
    leaves_nothing(host, &["stripped"], |_| {
        let bare = host.run("godebugctl --json snapshot stripped")?;
        let why = refused(bare, 4, "target")?;
        ensure!(why.contains("--symbols FILE"), "{why}");
        let other =
            host.run("godebugctl --json goroutines stripped --symbols /opt/samples/shop")?;
        let why = refused(other, 4, "target")?;
        ensure!(why.contains("another build"), "{why}");

        let symbols = "--symbols /opt/samples/shop-stripped.debug-full";
        let words = format!("stripped {symbols} --at main.priceOf --expr o.Customer --timeout 60s");
        let mut waiting =
            host.spawn(&format!("exec godebugctl --json snapshot {words} {PATIENT}"))?;
        is_armed_in(host, "stripped", &waiting)?;
        is_answered(order(host, 8083)?)?;
        let output = waiting.wait(SOON * 4)?.exits(0)?;
        let hit: Value = serde_json::from_str(output.stdout.trim()).context("not one line")?;
        ensure!(hit["variables"][0]["value"] == "\"customer-3\"", "{hit}");
        let all =
            host.run(&format!("godebugctl --json goroutines stripped {symbols} {PATIENT}"))?;
        let all = all.exits(0)?.json()?;
        ensure!(all["groups"].to_string().contains("main.main"), "{all}");
        Ok(())
    })?;
    host.ok("systemctl stop stripped").map(drop)
}

pub(crate) fn is_armed(host: &Host, waiting: &Spawned) -> Result<()> {
    is_armed_in(host, "myapp", waiting)
}

fn is_armed_in(host: &Host, unit: &str, waiting: &Spawned) -> Result<()> {
    host.wait_until("the line is waited at", SOON * 2, || {
        Ok(waiting.stderr().contains("waiting at ") && is_traced(host, unit)?)
    })
}

fn is_traced(host: &Host, unit: &str) -> Result<bool> {
    let service = host.unit_processes(unit)?;
    Ok(service.first().context("no process")?.tracer()? != 0)
}

/// Eight clients that keep the service in one small function.
fn load(host: &Host) -> Result<Spawned> {
    host.spawn(
        "for client in 1 2 3 4 5 6 7 8; do \
           while curl -s -m 20 -o /dev/null 'http://127.0.0.1:8080/hot?n=20000000' || true; do :; done & \
         done; wait",
    )
}

fn hot_line(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let _load = load(host)?;
        let lines = snapshot(
            host,
            "myapp --at main.tiny --expr n --if 'n > 100' --count 3 --stack 3 --timeout 3m",
        )?;
        ensure!(lines.len() == 3, "{lines:?}");
        for hit in &lines {
            ensure!(hit["location"]["function"] == "main.tiny", "{hit}");
            let n = hit["variables"][0]["value"].as_str().and_then(|n| n.parse::<i64>().ok());
            ensure!(n > Some(100), "{hit}");
        }
        is_recorded(host, "finished")?;
        is_answered(order(host, 8080)?)?;
        // A condition that is never true is no hit, and the waiting has an end.
        let output = host.run_within(
            &format!("godebugctl --json snapshot myapp --at main.tiny --if 'n == -1' --timeout 3s {PATIENT}"),
            SOON * 4,
        )?;
        let output = output.exits(6)?;
        ensure!(output.stderr.contains("condition is false"), "{output}");
        is_recorded(host, "finished")
    })
}

fn kinds(host: &Host) -> Result<()> {
    let units = ["dynapp", "pie", "rootapp"];
    start(host, &units.join(" "))?;
    leaves_nothing(host, &units, |_| {
        for unit in units {
            let lines = snapshot(host, unit).with_context(|| unit.to_owned())?;
            ensure!(lines[0]["stack"].to_string().contains("main.main"), "{unit}: {lines:?}");
        }
        Ok(())
    })?;
    host.ok(&format!("systemctl stop {}", units.join(" "))).map(drop)
}

/// Becomes a program with a filter of its own for its system calls, which allows them all (seccomp(2)).
const FILTERED: &str = r#"
import ctypes, os, struct, sys
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000), 8)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(allow)), 16)
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0 and prctl(22, 2, ctypes.c_void_p(ctypes.addressof(program)), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"#;

/// A script's child, of whose copies nobody would hear; the first process of a namespace, which cannot be copied; and
/// one with a filter of which nobody knows whether it would kill it for a fork.
fn standing(host: &Host) -> Result<()> {
    host.write_file("/root/filtered.py", FILTERED)?;
    for (unit, start, port) in [
        ("scripted", "/bin/sh -c '/opt/samples/shop -listen 127.0.0.1:8281; exit 0'", 8281),
        (
            "first",
            "unshare --pid --fork --kill-child /opt/samples/shop -listen 127.0.0.1:8282",
            8282,
        ),
        ("filtered", "python3 /root/filtered.py /opt/samples/shop -listen 127.0.0.1:8283", 8283),
    ] {
        host.ok(&format!("systemd-run --quiet --unit={unit} --property=User=root {start}"))?;
        let url = format!("http://127.0.0.1:{port}/healthz");
        host.wait_until("it serves", SOON, || Ok(host.http_from_host(&url).is_ok()))?;
        leaves_nothing(host, &[unit], |_| read_while_it_stands(host, unit, port))
            .with_context(|| unit.to_owned())?;
        host.ok(&format!("systemctl stop {unit}"))?;
    }
    host.ok("rm /root/filtered.py").map(drop)
}

/// Everything that images do for others; of a container too.
pub(crate) fn read_while_it_stands(host: &Host, named: &str, port: u16) -> Result<()> {
    let all = host.run(&format!("godebugctl --json inspect {named}"))?.exits(0)?.json()?;
    let image = &all["image"];
    ensure!(image["standing"].is_string() && image["refusal"].is_null(), "{image}");
    let words = host.ok(&format!("godebugctl inspect {named}"))?;
    ensure!(words.contains("read while it stands: "), "{words}");
    let why = refused(
        host.run(&format!("godebugctl --json snapshot {named} --max-pause 1ms"))?,
        4,
        "freeze",
    )?;
    ensure!(why.contains("while it stands, since "), "{why}");

    let lines = snapshot(host, named)?;
    ensure!(lines[0]["stack"].to_string().contains("main.main"), "{lines:?}");
    let all = host.run(&format!("godebugctl --json goroutines {named} {PATIENT}"))?;
    ensure!(all.exits(0)?.json()?["groups"].to_string().contains("main.main"));
    let words = format!("{named} --at main.priceOf --expr o.Customer --count 2 --timeout 60s");
    let mut waiting = host.spawn(&format!("exec godebugctl --json snapshot {words} {PATIENT}"))?;
    host.wait_until("the line is waited at", SOON * 2, || {
        Ok(waiting.stderr().contains("waiting at "))
    })?;
    // Passed until both are taken: the first times it may not be armed yet.
    while waiting.is_running()? {
        is_answered(order(host, port)?)?;
    }
    let output = waiting.wait(SOON * 4)?.exits(0)?;
    ensure!(output.stdout.matches("customer-3").count() == 2, "{output}");
    Ok(())
}

fn goroutines(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let all = host.run(&format!("godebugctl --json goroutines myapp {PATIENT}"))?;
        let all = all.exits(0)?.json()?;
        let groups = all["groups"].as_array().context("no groups")?;
        let serving = groups.iter().find(|group| group["stack"].to_string().contains("main.main"));
        let serving = serving.with_context(|| format!("main is not there: {all}"))?;
        ensure!(serving["doing"] == "IO wait" && serving["system"] == false, "{serving}");
        let counted: u64 = groups.iter().filter_map(|group| group["count"].as_u64()).sum();
        ensure!(all["goroutines"] == counted, "{all}");
        is_recorded(host, "finished")?;
        let human = host.ok(&format!("godebugctl goroutines myapp {PATIENT}"))?;
        ensure!(human.contains("1 × IO wait") && human.contains("net/http"), "{human}");
        ensure!(!human.contains("runtime.gopark") && human.contains("--full"), "{human}");
        let human = host.ok(&format!("godebugctl goroutines myapp --full {PATIENT}"))?;
        ensure!(human.contains("runtime.gopark"), "{human}");
        host.ok(&format!(
            "rm -f /tmp/flame.svg; godebugctl goroutines myapp --flame /tmp/flame.svg {PATIENT}"
        ))?;
        let drawn = host.read_file("/tmp/flame.svg")?;
        ensure!(drawn.starts_with("<svg ") && drawn.contains("<title>main.main: 1 ("), "{drawn}");
        let again = host
            .run(&format!("godebugctl --json goroutines myapp --flame /tmp/flame.svg {PATIENT}"))?;
        ensure!(again.status == 2, "a file that is there was overwritten: {again}");
        host.ok("rm /tmp/flame.svg").map(drop)
    })
}

fn record(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let _busy = host.spawn(
            "while curl -s -m 20 -o /dev/null 'http://127.0.0.1:8080/order?id=3' || true; do sleep 0.02; done",
        )?;
        let words = "--at main.priceOf --at main.finish --expr total --for 8s --every 200ms";
        let line = format!("godebugctl --json record myapp {words} {PATIENT}");
        let output = host.run_within(&line, SOON * 4)?.exits(0)?;
        let hits: Vec<Value> =
            output.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let at = |name: &str| hits.iter().filter(|hit| hit["location"]["function"] == name).count();
        ensure!(at("main.priceOf") > 0 && at("main.finish") > 0, "{hits:?}");
        let mut times: Vec<&str> = hits.iter().filter_map(|hit| hit["time"].as_str()).collect();
        ensure!(times.is_sorted() && times.len() == hits.len(), "{times:?}");
        times.dedup();
        let finish = hits.iter().find(|hit| hit["location"]["function"] == "main.finish");
        ensure!(finish.is_some_and(|hit| hit["variables"][0]["value"] == "1297"), "{hits:?}");
        is_recorded(host, "finished")?;
        // A line that nobody comes by is told.
        let quiet = format!("godebugctl --json record myapp --at main.tiny --for 2s {PATIENT}");
        host.run_within(&quiet, SOON * 4)?.exits(6)?;
        refused(host.run("godebugctl --json record myapp")?, 2, "usage").map(drop)
    })
}

fn deadlock(host: &Host) -> Result<()> {
    start(host, "myapp")?;
    host.ok(
        "systemd-run --collect --unit=tangled -p User=shop /opt/samples/shop -listen 127.0.0.1:8098 -tangled",
    )?;
    host.wait_until("it listens", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8098/healthz").is_ok())
    })?;
    leaves_nothing(host, &["tangled"], |_| {
        let all = host.run(&format!("godebugctl --json goroutines tangled {PATIENT}"))?;
        let all = all.exits(0)?.json()?;
        let of = |name: &str| -> Vec<i64> {
            let groups = all["groups"].as_array().into_iter().flatten();
            let here = groups.filter(|group| group["stack"].to_string().contains(name));
            here.flat_map(|group| group["ids"].as_array().cloned().unwrap_or_default())
                .filter_map(|id| id.as_i64())
                .collect()
        };
        let (mut carry, count) = (of("main.carry"), of("main.(*shelf).count"));
        carry.sort_unstable();
        ensure!(carry.len() == 2 && count.len() == 3, "{all}");
        let mut circle: Vec<i64> = all["deadlocks"][0]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_i64)
            .collect();
        circle.sort_unstable();
        ensure!(
            circle == carry,
            "another circle than {carry:?}: {} {}",
            all["deadlocks"],
            all["waits"]
        );
        // One waits there in the circle, and three behind it.
        let lock = &all["waits"][0];
        ensure!(lock["kind"] == "lock" && lock["count"] == 4, "{all}");
        ensure!(lock["held_by"].as_array().is_some_and(|by| by.len() == 1), "{all}");
        let human = host.ok(&format!("godebugctl goroutines tangled {PATIENT}"))?;
        ensure!(
            human.contains("deadlock, probably:") && human.contains("4 wait at the lock"),
            "{human}"
        );
        Ok(())
    })?;
    host.ok("systemctl stop tangled").map(drop)
}

fn heap(host: &Host) -> Result<()> {
    start(host, "myapp")?;
    heap_of(host, "/opt/samples/shop")
}

/// `program` is a build of the shop.
pub(crate) fn heap_of(host: &Host, program: &str) -> Result<()> {
    const ENTRIES: u64 = 50_000;
    const SHORTEST: u64 = 100;
    host.ok(&format!(
        "systemd-run --collect --unit=keeper -p User=shop {program} -listen 127.0.0.1:8099 -cache {ENTRIES}"
    ))?;
    host.wait_until("it listens", SOON, || {
        Ok(host.http_from_host("http://127.0.0.1:8099/healthz").is_ok())
    })?;
    leaves_nothing(host, &["keeper"], |_| {
        let all = host.run(&format!("godebugctl --json heap keeper --top 3 {PATIENT}"))?;
        let all = all.exits(0)?.json()?;
        let first = &all["holders"][0];
        ensure!(
            first["name"] == "main.cache" && first["type"] == "map[string]*main.order",
            "{all}"
        );
        // An order, its customer and its key each; two of the shortest keys are one object.
        let objects = first["objects"].as_u64().context("no number")?;
        ensure!((3 * ENTRIES - SHORTEST..3 * ENTRIES + 20_000).contains(&objects), "{all}");
        let (held, used) = (first["bytes"].as_u64(), all["in_use_bytes"].as_u64());
        ensure!(held > Some(ENTRIES * 200) && held <= used, "{all}");
        ensure!(all["holders"].as_array().is_some_and(|all| all.len() == 3), "{all}");
        let of = |kind: &str| {
            let mut types = all["types"].as_array().into_iter().flatten();
            types
                .find(|of| of["type"] == kind)
                .cloned()
                .with_context(|| format!("no {kind}: {all}"))
        };
        let orders = of("main.order")?;
        ensure!(orders["objects"] == ENTRIES && orders["held_by"] == "main.cache", "{orders}");
        // The customer and the key; the map itself is some tables.
        ensure!(of("string")?["objects"].as_u64() >= Some(2 * ENTRIES - SHORTEST), "{all}");
        let map = of("map[string]*main.order")?;
        ensure!(
            map["held_bytes"] == map["bytes"] && map["bytes"].as_u64() > Some(ENTRIES * 16),
            "{map}"
        );
        ensure!(all["untyped_bytes"].as_u64() < Some(held.unwrap_or(0) / 20), "{all}");
        is_recorded(host, "finished")?;
        let human = host.ok(&format!("godebugctl heap keeper {PATIENT}"))?;
        ensure!(
            human.contains("main.cache")
                && human.contains("goroutine that began in")
                && human.contains("MOSTLY HELD BY"),
            "{human}"
        );
        Ok(())
    })?;
    host.ok("systemctl stop keeper").map(drop)
}

fn cannot_be(host: &Host) -> Result<()> {
    start(host, "stripped python")?;
    leaves_nothing(host, &["myapp"], |before| {
        let snapshot = |words: &str| host.run(&format!("godebugctl --json snapshot {words}"));
        let why = refused(snapshot("myapp --at main.pirceOf")?, 2, "usage")?;
        ensure!(why.contains("main.priceOf"), "no suggestion: {why}");
        let why = refused(snapshot("myapp --at mian.go:56")?, 2, "usage")?;
        ensure!(why.contains("main.go:56"), "no suggestion: {why}");
        let why = refused(snapshot("myapp --at runtime.gopark")?, 2, "usage")?;
        ensure!(why.contains("runtime"), "{why}");
        let why = refused(snapshot("python")?, 4, "target")?;
        ensure!(why.contains("Go"), "{why}");
        let why = refused(snapshot("stripped")?, 4, "target")?;
        ensure!(why.contains("debug information"), "{why}");
        refused(snapshot("nosuchunit")?, 4, "target")?;
        for words in ["--count 2", "--if true", "--at ''", "--max-pause 0", "--stack 0"] {
            refused(snapshot(&format!("myapp {words}"))?, 2, "usage")
                .with_context(|| words.to_owned())?;
        }
        godebug_tests::nothing_left(host, before)?;
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let why = refused(snapshot("myapp")?, 4, "target")?;
        ensure!(why.contains("already traced") && why.contains(&session.id), "{why}");
        session.stop(host)
    })?;
    host.ok("systemctl stop stripped python").map(drop)
}

fn not_for_everybody(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        for user in ["alice", "carol", "shop"] {
            for command in ["snapshot myapp", "goroutines myapp", "snapshot myapp --at main.tiny"] {
                let output = host.run_as(user, &format!("godebugctl --json {command}"))?;
                let why =
                    refused(output, 3, "refused").with_context(|| format!("{user}: {command}"))?;
                ensure!(why.contains("org.godebug1.attach"), "{why}");
            }
        }
        Ok(())
    })
}

fn client_vanishes(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        for signal in ["KILL", "INT"] {
            let mut waiting = host.spawn(&format!(
                "exec godebugctl snapshot myapp --at main.priceOf --timeout 5m {PATIENT}"
            ))?;
            is_armed(host, &waiting)?;
            host.ok(&format!("kill -{signal} $(pidof godebugctl)"))?;
            waiting.wait(SOON)?;
            host.wait_until("nobody traces the service", SOON, || Ok(!is_traced(host, "myapp")?))?;
            all_gone(host)?;
            is_answered(order(host, 8080)?)?;
        }
        Ok(())
    })
}

fn all_gone(host: &Host) -> Result<()> {
    host.wait_until("the session is gone", SOON * 2, || {
        let list = host.run("godebugctl --json list")?.exits(0)?.json()?;
        let units = host.ok("systemctl list-units --all --no-legend --plain 'godebug-*@*'")?;
        Ok(list.as_array().is_some_and(Vec::is_empty) && units.is_empty())
    })
}

/// Killed at some moment of what it does over and over, under load: the guard repairs.
fn killed(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let _load = load(host)?;
        for round in 0..8_u32 {
            let mut waiting = host.spawn(&format!(
                "exec godebugctl snapshot myapp --at main.tiny --count 1000 --timeout 5m {PATIENT}"
            ))?;
            host.wait_until("the line is waited at", SOON * 2, || {
                Ok(waiting.stderr().contains("waiting at "))
            })?;
            // Any moment will do, and each time another one.
            std::thread::sleep(Duration::from_millis(u64::from(round) * 83));
            host.ok("systemctl kill --signal=KILL 'godebug-image@*.service'")?;
            let output = waiting.wait(SOON * 2)?;
            ensure!(output.status != 0, "{output}");
            all_gone(host)?;
            is_answered(order(host, 8080)?).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })
}
