//! Going ahead without the approval that a rule wants: who may, who is alarmed, and who looks at it after.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::Value;

use crate::support::{SOON, Session, leaves_nothing, refused};

pub(crate) const ALL: &[Scenario] =
    &[Scenario::new("broken_glass_is_an_alarm_and_reviewed_by_somebody_else", broken_glass).main()];

const RULES: &str = r#"
[[rule]]
name = "by consent"
effect = "allow"
units = ["myapp"]
groups = ["oncall"]
approvals = { groups = ["leads"], break_glass = true }

[[rule]]
name = "by consent alone"
effect = "allow"
units = ["ticker"]
groups = ["oncall"]
approvals = { groups = ["leads"] }
"#;

const POLKIT: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id == "org.godebug1.attach" && subject.isInGroup("oncall"))
        return polkit.Result.YES;
    if (subject.isInGroup("leads"))
        return polkit.Result.YES;
});
"#;

/// The message ID of broken glass.
const BROKEN: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b0e";

const HOOKS: &str = r#"
[[hook]]
events = ["break-glass"]
run = ["/bin/sh", "-c", "cat >/root/paged"]
user = "root"
"#;

fn has_people(host: &Host) -> Result<()> {
    host.ok(
        "groupadd oncall && groupadd leads && useradd --create-home --groups oncall,leads dev && \
         useradd --create-home --groups leads lea && systemctl start ticker",
    )?;
    host.write_file("/etc/polkit-1/rules.d/40-glass.rules", POLKIT)?;
    host.ok("mkdir -p /etc/godebug/rules.d && systemctl restart polkit")?;
    host.write_file("/etc/godebug/rules.d/10-glass.toml", RULES)?;
    host.write_file("/etc/godebug/godebugd.toml", HOOKS)?;
    host.write_file("/root/wall", "#!/bin/sh\necho \"$*\" >>/root/walled\n")?;
    // Newer hosts have none, until somebody installs it.
    host.ok("install -m 755 /root/wall /usr/bin/wall").map(drop)
}

fn reviews(host: &Host, user: &str) -> Result<Vec<Value>> {
    let open = host.run_as(user, "godebugctl --json audit review")?.exits(0)?.json()?;
    open["open"].as_array().cloned().context("no list")
}

fn broken_glass(host: &Host) -> Result<()> {
    has_people(host)?;
    leaves_nothing(host, &["myapp", "ticker"], |_| {
        let attach =
            |words: &str| host.run_as("dev", &format!("godebugctl --json attach {words} --detach"));
        let glass = "--break-glass --reason 'OPS-1: orders are lost'";
        refused(attach("myapp --break-glass")?, 2, "usage").context("without a reason")?;
        let why = refused(attach(&format!("ticker {glass}"))?, 3, "refused")?;
        ensure!(why.contains("lets nobody go ahead without 1 approval by group leads"), "{why}");
        let why = refused(
            host.run(&format!("godebugctl --json attach myapp --detach {glass}"))?,
            3,
            "refused",
        )?;
        ensure!(why.contains("no glass to break"), "{why}");
        ensure!(!host.path("/root/walled").exists() && reviews(host, "root")?.is_empty());

        let opened = attach(&format!("myapp --ttl 60s {glass} --ticket /home/dev/t"))?;
        let session = Session::of(opened.exits(0)?.json()?)?;
        ensure!(session.document["break_glass"] == true, "{}", session.document);
        is_an_alarm(host, &session)?;
        let human = host.ok(&format!("godebugctl show {}", session.id))?;
        ensure!(human.contains("BROKEN:"), "{human}");

        let list = host.ok("godebugctl audit list")?;
        ensure!(list.contains("GLASS BROKEN"), "{list}");

        // An image is no less of an alarm.
        let line = format!("godebugctl --json goroutines myapp {glass}");
        refused(host.run_as("dev", &line)?, 4, "target").context("beside a debugger")?;

        // It is a matter for somebody else, and for afterwards.
        let review = format!("godebugctl --json audit review {} --note 'it was right'", session.id);
        refused(host.run_as("lea", &review)?, 3, "refused").context("while it goes on")?;
        let extend = format!("godebugctl --json extend {} --ttl 90s", session.id);
        host.run_as("dev", &extend)?.exits(0)?;
        session.stop(host)?;
        ensure!(reviews(host, "lea")?.len() == 1 && reviews(host, "alice")?.is_empty());
        let why = refused(host.run_as("dev", &review)?, 3, "refused")?;
        ensure!(why.contains("nobody reviews what they did themselves"), "{why}");
        refused(host.run_as("alice", &review)?, 3, "refused").context("alice reviews")?;
        // Whatever becomes of the log.
        host.ok("mv /var/log/godebug/audit.jsonl /var/log/godebug/audit.jsonl.1")?;
        ensure!(reviews(host, "lea")?.len() == 1, "rotated away");
        let human = host.run_as("lea", "godebugctl audit review")?.ok()?;
        ensure!(human.contains("OPS-1: orders are lost") && human.contains(&session.id), "{human}");
        host.run_as("lea", &review)?.exits(0)?;
        ensure!(reviews(host, "lea")?.is_empty());
        host.run_as("dev", &line)?.exits(0)?;
        let open = reviews(host, "lea")?;
        ensure!(open.len() == 1 && open[0]["details"]["mode"] == "observe", "an image: {open:?}");
        refused(host.run_as("lea", &review)?, 2, "usage").context("twice")?;
        host.ok("godebugctl audit verify").map(drop)
    })
}

fn is_an_alarm(host: &Host, session: &Session) -> Result<()> {
    let journal = host.journal(&format!("-o json -p alert MESSAGE_ID={BROKEN}"))?;
    let alerts: Vec<Value> = journal
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context(journal.clone())?;
    let [alert] = alerts.as_slice() else { anyhow::bail!("{journal}") };
    ensure!(alert["PRIORITY"] == "1" && alert["GODEBUG_SESSION"] == session.id.as_str(), "{alert}");
    host.wait_until("everybody was told", SOON, || {
        Ok(host.path("/root/walled").exists() && host.path("/root/paged").exists())
    })?;
    let walled = host.read_file("/root/walled")?;
    ensure!(walled.contains("dev breaks the glass on myapp.service"), "{walled}");
    let paged: Value = serde_json::from_str(&host.read_file("/root/paged")?)?;
    ensure!(
        paged["event"] == "break-glass" && paged["details"]["reason"] == "OPS-1: orders are lost",
        "{paged}"
    );
    Ok(())
}
