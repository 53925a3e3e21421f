//! The site's rules on a real host: who is let in, to what and how, and what a broken file does.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Output, scenario::Scenario};
use serde_json::Value;

use crate::support::{Session, leaves_nothing, refused};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("on_call_may_debug_one_unit_and_no_other", on_call),
    Scenario::new("broken_rules_grant_nothing_and_end_nothing", broken),
];

const RULES: &str = "/etc/godebug/rules.d/10-on-call.toml";

const ON_CALL: &str = r#"
[[rule]]
name = "on-call looks at myapp"
effect = "allow"
units = ["myapp"]
groups = ["oncall"]
max_ttl = "40m"
max_total = "2h"
reason_pattern = "OPS-[0-9]+"
sessions = { per_person = 1 }
"#;

/// polkit lets the group attach to everything: what is left to the rules is all of it.
const POLKIT: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id == "org.godebug1.attach" && subject.isInGroup("oncall"))
        return polkit.Result.YES;
});
"#;

fn has_people_and_rules(host: &Host) -> Result<()> {
    host.ok("groupadd oncall && useradd --create-home --shell /bin/bash --groups oncall dev")?;
    host.write_file("/etc/polkit-1/rules.d/40-on-call.rules", POLKIT)?;
    host.ok("mkdir -p /etc/godebug/rules.d && systemctl restart polkit")?;
    host.write_file(RULES, ON_CALL)?;
    host.ok(&format!("mkdir /root/kept && cp -a --parents {CHANGED} /root/kept")).map(drop)
}

/// What the scenario itself changes, and puts back.
const CHANGED: &str = "/etc/godebug/rules.d /etc/group /etc/group- /etc/gshadow /etc/gshadow-";

fn attach(host: &Host, user: &str, words: &str) -> Result<Output> {
    host.run_as(user, &format!("godebugctl --json attach {words} --detach"))
}

fn on_call(host: &Host) -> Result<()> {
    has_people_and_rules(host)?;
    leaves_nothing(host, &["myapp"], |_| {
        for (words, part) in [
            ("ticker --reason OPS-1", "no rule allows dev to attach ticker.service"),
            ("myapp --reason OPS-1 --mode modify", "no rule allows dev to attach myapp.service"),
            ("myapp --reason OPS-1 --ttl 41m", "allows 40m at most (max_ttl)"),
            ("myapp", "wants a reason"),
            ("myapp --reason because", "OPS-[0-9]+"),
        ] {
            let why = refused(attach(host, "dev", words)?, 3, "refused")
                .with_context(|| format!("dev: attach {words}"))?;
            ensure!(why.contains(part), "{words}: it does not say {part:?}: {why}");
        }
        let why = refused(attach(host, "alice", "myapp --reason OPS-1")?, 3, "refused")?;
        ensure!(why.contains("no rule allows alice"), "{why}");

        let opened = attach(host, "dev", "myapp --reason OPS-1 --ttl 5m --ticket /home/dev/t")?;
        let session = Session::of(opened.exits(0)?.json()?)?;
        ensure!(session.document["opened_by"] == "dev", "{}", session.document);
        let rule = session.document["rule"].as_str().unwrap_or_default();
        ensure!(rule == format!("\"on-call looks at myapp\" ({RULES}:2)"), "{rule}");
        is_recorded(host, &session, rule)?;

        // One session of one person at a time, whatever the unit.
        host.write_file(RULES, ON_CALL.replace("[\"myapp\"]", "[\"myapp\", \"ticker\"]"))?;
        let why = refused(attach(host, "dev", "ticker --reason OPS-1")?, 3, "refused")?;
        ensure!(why.contains("1 session of one person at a time"), "{why}");

        // Making it longer is asked anew: of the rules of now, for who is in the group now.
        let extend = |ttl| {
            let line = format!("godebugctl --json extend {} --ttl {ttl}", session.id);
            host.run_as("dev", &line)
        };
        extend("9m")?.exits(0)?;
        refused(extend("41m")?, 3, "refused").context("beyond max_ttl")?;
        host.ok("gpasswd --delete dev oncall")?;
        let why = refused(extend("9m")?, 3, "refused").context("after losing the group")?;
        ensure!(why.contains("no rule allows dev"), "{why}");
        // It goes on all the same, and is still dev's own to end.
        ensure!(session.show(host)?["state"] == "active");
        let stop = host.run_as("dev", &format!("godebugctl --json stop {}", session.id))?;
        ensure!(stop.exits(0)?.json()?[0]["state"] == "closed");
        host.ok("cp -a /root/kept/etc/. /etc").map(drop)
    })?;
    is_explained(host)
}

fn is_recorded(host: &Host, session: &Session, rule: &str) -> Result<()> {
    let lines = host.read_file("/var/log/godebug/audit.jsonl")?;
    let lines: Vec<Value> =
        lines.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("the log")?;
    let opening = lines
        .iter()
        .find(|line| line["session"] == session.id.as_str() && line["event"] == "opening")
        .context("no record of the opening")?;
    ensure!(opening["details"]["rule"] == rule, "{opening}");
    let refused = lines.iter().find(|line| {
        line["event"] == "refused"
            && line["user"] == "dev"
            && line["details"]["rule"].as_str().is_some_and(|rule| rule.contains("on-call looks"))
    });
    ensure!(refused.is_some(), "no refusal with its rule: {lines:?}");
    let list = |words: &str| -> Result<Value> {
        host.run(&format!("godebugctl --json audit list {words}"))?.exits(0)?.json()
    };
    let refusals = list("--refused --by dev --unit ticker --since 2026-01-01")?;
    let messages = refusals["refusals"].as_array().context("no refusals")?;
    ensure!(messages.len() == 1 && messages[0]["unit"] == "ticker.service", "{refusals}");
    ensure!(list("--by dev")?["sessions"][0]["id"] == session.id.as_str());
    ensure!(list("--by root")?["sessions"] == serde_json::json!([]));
    ensure!(list("--until 2020-01-01")?["sessions"] == serde_json::json!([]));
    let human = host.ok(&format!("godebugctl audit show {}", session.id))?;
    ensure!(human.contains("on-call looks at myapp"), "{human}");
    Ok(())
}

fn is_explained(host: &Host) -> Result<()> {
    let explain = |words: &str| -> Result<Value> {
        host.run(&format!("godebugctl --json rules explain --as {words}"))?.exits(0)?.json()
    };
    let allowed = explain("dev attach myapp --reason OPS-9 --ttl 40m")?;
    ensure!(allowed["allowed"] == true, "{allowed}");
    let no = explain("dev attach ticker --reason OPS-9")?;
    ensure!(no["allowed"] == false && no["rule"].is_null(), "{no}");
    ensure!(no["passed_over"][0]["mismatches"][0]["field"] == "units", "{no}");
    ensure!(no["slice"] == "system.slice", "{no}");
    let no = explain("alice attach myapp --reason OPS-9")?;
    ensure!(no["passed_over"][0]["mismatches"][0]["field"] == "users", "{no}");
    let yes = explain("carol attach myapp --ttl 1h")?;
    ensure!(yes["rule"].as_str().is_some_and(|it| it.contains("administrators")), "{yes}");
    let no = explain("carol attach myapp --ttl 2h")?;
    ensure!(no["message"].as_str().is_some_and(|it| it.contains("1h at most")), "{no}");
    let human = host.ok("godebugctl rules explain --as dev attach ticker --mode modify")?;
    ensure!(human.contains("passed over") && human.contains("modes is observe, step"), "{human}");
    let plan = host.run("godebugctl --json attach myapp --dry-run")?.exits(0)?.json()?;
    ensure!(plan["rule"].as_str().is_some_and(|it| it.contains("\"root\"")), "{plan}");
    // Others' rights are for those who may read others' sessions.
    let line = "godebugctl --json rules explain --as root attach myapp";
    refused(host.run_as("alice", line)?, 3, "refused").map(drop)
}

fn broken(host: &Host) -> Result<()> {
    host.ok("mkdir -p /etc/godebug/rules.d")?;
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 5m")?;
        for (text, place, part) in [
            (ON_CALL.replace("max_ttl", "max_tll"), ":7", "did you mean `max_ttl`?"),
            (ON_CALL.replace("[\"oncall\"]", "oncall"), ":6", ""),
            (format!("{ON_CALL}approvals = {{ count = 1 }}\n"), ":11", "does not say by whom"),
        ] {
            host.write_file(RULES, &text)?;
            for words in ["attach myapp --detach", &format!("extend {} --ttl 6m", session.id)] {
                let output = host.run(&format!("godebugctl --json {words}"))?;
                let why = refused(output, 3, "refused").with_context(|| words.to_owned())?;
                ensure!(why.contains(&format!("{RULES}{place}: ")), "no place in: {why}");
                ensure!(why.contains(part) && why.contains("rules check"), "{why}");
            }
            let check = host.run("godebugctl rules check")?;
            ensure!(check.status == 1 && check.stdout.contains(part), "{check}");
            let doctor = host.run("godebugctl --json doctor")?;
            ensure!(doctor.stdout.contains(&format!("{RULES}{place}")), "{doctor}");
            ensure!(session.show(host)?["state"] == "active", "a broken file ended a session");
        }
        // Nobody but root may have written it.
        host.write_file(RULES, ON_CALL)?;
        host.ok(&format!("chmod 666 {RULES}"))?;
        let why = refused(host.run("godebugctl --json attach myapp --detach")?, 3, "refused")?;
        ensure!(why.contains("others than root can write"), "{why}");
        // It counts as soon as it is right.
        host.ok(&format!("chmod 644 {RULES}"))?;
        host.ok(&format!("godebugctl extend {} --ttl 6m", session.id))?;
        let check = host.ok("godebugctl rules check")?;
        ensure!(check.contains("good:"), "{check}");
        session.stop(host)?;
        host.ok(&format!("rm {RULES}; rmdir /etc/godebug/rules.d /etc/godebug")).map(drop)
    })
}
