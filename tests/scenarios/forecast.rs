//! Attaching freezes the service for a moment: how long is told before, measured after, and refused
//! when it is too long to be begun unasked.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::{Value, json};

use crate::support::{Laptop, SOON, Session, leaves_nothing, refused, start, text};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("forecast_of_the_freeze_is_told_and_holds", foretold).main().shared(),
    Scenario::new("forecast_above_the_limit_is_refused_unless_accepted", above_the_limit)
        .main()
        .shared(),
    Scenario::new(
        "forecast_above_half_the_watchdog_is_refused_unless_accepted",
        above_the_watchdog,
    )
    .shared(),
    Scenario::new("forecast_counts_the_symbols_file", with_symbols).shared(),
    Scenario::new("attaching_that_freezes_for_too_long_is_broken_off", broken_off).main().shared(),
    Scenario::new("frozen_service_is_refused_at_once", frozen).main().shared(),
    Scenario::new("service_frozen_by_others_is_let_go_and_stays_frozen", frozen_meanwhile).shared(),
    Scenario::new("dlv_comes_before_other_services_for_as_long_as_it_is_there", comes_first)
        .main()
        .shared(),
    Scenario::new("forecast_survives_a_damaged_history", damaged_history).shared(),
];

const HISTORY: &str = "/run/godebug/freeze.json";
/// A test machine does other things as well, which the forecast cannot know: no freeze is longer than
/// this many forecasts, and most are no longer than one.
const BUSY: u64 = 4;

fn told(host: &Host, words: &str) -> Result<Value> {
    host.run(&format!("godebugctl --json {words}"))?.exits(0)?.json()
}

fn number(document: &Value, field: &str) -> Result<u64> {
    document[field].as_u64().with_context(|| format!("no {field} in {document}"))
}

fn foretold(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        told_beforehand(host)?;
        let mut within = 0;
        for _ in 0..3 {
            let forecast = number(&told(host, "inspect myapp")?, "freeze_forecast_ms")?;
            let session = Session::open(host, "myapp", "--ttl 60s")?;
            let freeze = number(&session.document, "freeze_ms")?;
            ensure!(session.document["freeze_forecast_ms"] == forecast, "{}", session.document);
            ensure!((1..=forecast * BUSY).contains(&freeze), "{freeze} ms, forecast {forecast}");
            within += u32::from(freeze <= forecast);
            session.stop(host)?;
            is_kept(host, &session, forecast, freeze)?;
        }
        ensure!(within >= 2, "only {within} of 3 freezes were within their forecast");
        let history: Value = serde_json::from_str(&host.read_file(HISTORY)?)?;
        let freezes = history["history"]["freezes"].as_array().context("no freezes")?;
        ensure!((3..=16).contains(&freezes.len()), "{history}");
        Ok(())
    })
}

/// By inspect, by doctor and by the plan.
fn told_beforehand(host: &Host) -> Result<()> {
    let inspected = told(host, "inspect myapp")?;
    let forecast = number(&inspected, "freeze_forecast_ms")?;
    ensure!(number(&inspected, "debug_bytes")? > 1_000_000, "{inspected}");
    ensure!(told(host, "attach myapp --dry-run")?["freeze_forecast_ms"] == forecast);
    let image = &inspected["image"];
    ensure!(number(image, "pause_ms")? > 0 && number(image, "bytes")? > 1_000_000, "{inspected}");
    ensure!(image["refusal"].is_null(), "{inspected}");
    for words in ["inspect myapp", "doctor myapp"] {
        let human = host.run(&format!("godebugctl {words}"))?.exits(0)?.stdout;
        ensure!(human.contains("attaching freezes it for about "), "{words}: {human}");
        ensure!(human.contains("MB of debug information)"), "{words}: {human}");
        ensure!(human.contains("stops it for about "), "no word of images: {words}: {human}");
    }
    let plan = host.run("godebugctl attach myapp --dry-run --max-freeze 1ms")?.exits(0)?.stdout;
    ensure!(plan.contains("freeze") && plan.contains("without --yes"), "{plan}");
    Ok(())
}

/// In the audit log, beside the forecast, and in `show` after the end.
fn is_kept(host: &Host, session: &Session, forecast: u64, freeze: u64) -> Result<()> {
    let shown = session.show(host)?;
    ensure!(shown["freeze_ms"] == freeze && shown["freeze_forecast_ms"] == forecast, "{shown}");
    let log = host.read_file("/var/log/godebug/audit.jsonl")?;
    let entries = log.lines().map(serde_json::from_str::<Value>);
    for entry in entries {
        let entry = entry.context("a line of the audit log")?;
        let about_it = entry["session"] == session.id.as_str();
        if about_it && (entry["event"] == "active" || entry["event"] == "closed") {
            let details = &entry["details"];
            ensure!(details["freeze_ms"] == freeze, "{entry}");
            ensure!(details["freeze_forecast_ms"] == forecast, "{entry}");
        }
    }
    Ok(())
}

fn above_the_limit(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let attach = "godebugctl --json attach myapp --detach";
        let why = refused(host.run(&format!("{attach} --max-freeze 1ms"))?, 4, "freeze")?;
        ensure!(why.contains("for about ") && why.contains("1ms"), "no figures: {why}");
        ensure!(why.contains("--yes") && why.contains("--max-freeze"), "no remedy: {why}");
        is_untouched(host, before)?;
        // Whoever asks without a terminal gets the same, in words.
        let human = host.run("godebugctl attach myapp --detach --max-freeze 1ms </dev/null")?;
        ensure!(human.exits(4)?.stderr.contains("error: attaching will freeze myapp.service"));
        is_untouched(host, before)?;

        for accepted in ["--max-freeze 1ms --yes", "--max-freeze 1m"] {
            let session = Session::open(host, "myapp", &format!("--ttl 60s {accepted}"))?;
            session.stop(host)?;
        }
        Ok(())
    })
}

fn is_untouched(host: &Host, before: &godebug_tests::Snapshot) -> Result<()> {
    godebug_tests::nothing_left(host, before).context("a refusal that changed something")?;
    let list = told(host, "list")?;
    ensure!(list.as_array().is_some_and(Vec::is_empty), "{list}");
    Ok(())
}

fn above_the_watchdog(host: &Host) -> Result<()> {
    const FOLDER: &str = "/run/systemd/system/watchdog.service.d";
    // dlv's sleep alone, which every forecast holds, is most of a half of it.
    host.ok(&format!(
        "mkdir -p {FOLDER} && printf '[Service]\\nWatchdogSec=500ms\\n' > {FOLDER}/short.conf && \
         systemctl daemon-reload && systemctl stop watchdog"
    ))?;
    start(host, "watchdog")?;
    let steps = leaves_nothing(host, &["watchdog"], |before| {
        let attach = "godebugctl --json attach watchdog --detach --max-freeze 1m";
        let why = refused(host.run(attach)?, 4, "freeze")?;
        ensure!(why.contains("WatchdogSec=500ms") && why.contains("--yes"), "{why}");
        is_untouched(host, before)?;
        let diagnosis = told(host, "doctor watchdog")?;
        let checks = diagnosis["checks"].as_array().context("no checks")?;
        let check = checks.iter().find(|check| {
            check["found"].as_str().is_some_and(|found| found.contains("half of WatchdogSec"))
        });
        let check = check.with_context(|| format!("doctor says nothing: {diagnosis}"))?;
        ensure!(check["verdict"] == "warning" && text(check, "remedy")?.contains("--yes"));
        ensure!(diagnosis["good"] == true, "a warning is no obstacle: {diagnosis}");

        let session = Session::open(host, "watchdog", "--ttl 60s --yes")?;
        session.stop(host)
    });
    host.ok(&format!("systemctl stop watchdog; rm -r {FOLDER}; systemctl daemon-reload"))?;
    steps
}

fn with_symbols(host: &Host) -> Result<()> {
    start(host, "stripped")?;
    leaves_nothing(host, &["stripped"], |_| {
        ensure!(told(host, "inspect stripped")?["freeze_forecast_ms"].is_null());
        let symbols = "--symbols /opt/samples/shop-stripped.debug-full";
        let attach = format!("godebugctl --json attach stripped --detach {symbols}");
        let why = refused(host.run(&format!("{attach} --max-freeze 1ms"))?, 4, "freeze")?;
        ensure!(why.contains("MB of debug information"), "{why}");
        let session = Session::open(host, "stripped", &format!("--ttl 60s {symbols}"))?;
        ensure!(number(&session.document, "freeze_forecast_ms")? > 0, "{}", session.document);
        ensure!(number(&session.document, "freeze_ms")? > 0, "{}", session.document);
        session.stop(host)
    })?;
    host.ok("systemctl stop stripped").map(drop)
}

/// A dlv that hangs, here one that is stopped as soon as it holds the service.
fn broken_off(host: &Host) -> Result<()> {
    const LIMIT: u64 = 2000;
    leaves_nothing(host, &["myapp"], |before| {
        let target = before.processes()[0].inner_pid;
        let hangs = format!(
            "while :; do dlv=$(sed -n 's/^TracerPid:\\t//p' /proc/{target}/status);              [ \"$dlv\" = 0 ] || {{ kill -STOP $dlv; exit; }}; done"
        );
        let attach = format!(
            "godebugctl --json attach myapp --detach --ticket /tmp/broken-off --max-freeze {LIMIT}ms"
        );
        let refusal = host.run(&format!("({hangs}) & {attach}; status=$?; wait; exit $status"))?;
        let why = refused(refusal, 4, "target")?;
        ensure!(why.contains(&format!("process {target} stood for more than 2s")), "{why}");
        ensure!(why.contains("--max-freeze") && why.contains("--mode observe"), "{why}");
        host.http_from_host("http://127.0.0.1:8080/healthz")?;
        // How long it really stood is in the record.
        let log = host.read_file("/var/log/godebug/audit.jsonl")?;
        let last = log.lines().rev().find(|line| line.contains(r#""event":"closed""#));
        let last: Value = serde_json::from_str(last.context("nothing was closed")?)?;
        ensure!(number(&last["details"], "freeze_ms")? >= LIMIT, "{last}");
        // What dlv was at when it hung is in the journal.
        let told =
            host.ok(&format!("journalctl --no-pager GODEBUG_SESSION={}", text(&last, "session")?))?;
        ensure!(told.contains("threads of dlv: ") && told.contains(" T traced by "), "{told}");
        Ok(())
    })
}

/// dlv would wait for threads that cannot stop until somebody thaws them.
fn frozen(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        host.ok("systemctl freeze myapp")?;
        for command in
            ["attach myapp --detach", "snapshot myapp", "attach myapp --detach --mode observe"]
        {
            let why = refused(host.run(&format!("godebugctl --json {command}"))?, 4, "target")?;
            ensure!(
                why.contains("is frozen") && why.contains("systemctl thaw myapp.service"),
                "{why}"
            );
        }
        let doctor = host.run("godebugctl doctor myapp")?.exits(5)?.stdout;
        ensure!(doctor.contains("✗ myapp.service   myapp.service is frozen"), "{doctor}");
        host.ok("systemctl thaw myapp").map(drop)
    })
}

/// dlv cannot halt it, so it cannot detach in its own way either.
fn frozen_meanwhile(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let laptop = Laptop::connect(host, &session)?;
        let mut rpc = laptop.rpc()?;
        rpc.command("halt")?;
        rpc.create_breakpoint("main.priceOf")?;
        rpc.send("Command", json!({ "name": "continue" }))?;
        host.wait_until("it runs", SOON, || Ok(laptop.rpc()?.state()?["Running"] == true))?;
        host.ok("systemctl freeze myapp")?;
        session.stop(host)?;
        ensure!(before.processes()[0].is_frozen()?, "it was thawed, which was not ours to do");
        host.ok("systemctl thaw myapp")?;
        host.http_from_host("http://127.0.0.1:8080/healthz").map(drop)
    })
}

/// The target stands while dlv works, so other services wait for the processors and not dlv: as a process, and as
/// one of the groups that the kernel makes of sessions.
fn comes_first(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let unit = session.unit("dlv");
        let dlv = host.ok(&format!("systemctl show --value -p MainPID {unit}"))?;
        let dlv = dlv.trim();
        let nice = host.ok(&format!("cut -d' ' -f19 /proc/{dlv}/stat"))?;
        ensure!(nice.trim() == "-10", "dlv has nice {nice}");
        if host.path("/proc/1/autogroup").exists() {
            host.wait_until("dlv's group comes before others", SOON, || {
                let group = host.ok(&format!("cat /proc/{dlv}/autogroup"))?;
                // Nothing where the kernel was told to make none.
                Ok(group.trim().is_empty() || group.trim().ends_with(" nice -10"))
            })?;
        }
        session.stop(host)
    })
}

fn damaged_history(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        for content in ["{", "[[[[", r#"{"format":1,"history":{"guess":-5,"freezes":[]}}"#] {
            host.ok(&format!("printf '%s' '{content}' > {HISTORY}"))?;
            let forecast = number(&told(host, "inspect myapp")?, "freeze_forecast_ms")?;
            ensure!((200..60_000).contains(&forecast), "{content}: {forecast}");
            ensure!(host.read_file(HISTORY)?.contains(r#""freezes":[]"#), "it was not begun anew");
        }
        // Nobody but root can have a say.
        host.ok(&format!("rm {HISTORY} && ln -s /etc/passwd {HISTORY}"))?;
        number(&told(host, "inspect myapp")?, "freeze_forecast_ms")?;
        ensure!(host.ok("cat /etc/passwd")?.contains("root:"), "the link was followed");
        ensure!(!host.path(HISTORY).is_symlink(), "the link is still there");
        Ok(())
    })
}
