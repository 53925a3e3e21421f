//! Sessions that need the consent of others: who gives it, who cannot, and what is looked at again when
//! it is given and when it is used.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Output, scenario::Scenario};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{SOON, Session, leaves_nothing, listen_address, refused, text};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("consent_of_two_and_of_nobody_to_what_they_want_themselves", two_consent).main(),
    Scenario::new("consent_is_judged_anew_when_it_is_given_and_when_it_is_used", judged_anew),
    Scenario::new("consent_requests_end_by_a_no_by_leaving_and_by_themselves", requests_end),
    Scenario::new("consent_is_used_once_however_often_it_is_taken_up", used_once),
    Scenario::new("consent_to_an_image_is_waited_for_where_it_was_asked", images),
    Scenario::new("consent_cannot_be_forged_nor_a_unit_exchanged", forged),
];

const RULES: &str = "/etc/godebug/rules.d/10-consent.toml";

fn rule(approvals: &str) -> String {
    format!(
        "[[rule]]\nname = \"on-call, by consent\"\neffect = \"allow\"\nunits = [\"myapp\"]\n\
         groups = [\"oncall\"]\nmax_ttl = \"30m\"\napprovals = {{ {approvals} }}\n"
    )
}

const POLKIT: &str = r#"
polkit.addRule(function(action, subject) {
    if (action.id == "org.godebug1.attach" && subject.isInGroup("oncall"))
        return polkit.Result.YES;
    if (action.id == "org.godebug1.approve" && subject.isInGroup("leads"))
        return polkit.Result.YES;
});
"#;

/// dev and dan are on call, lea and leo lead; dan does both.
fn has_people(host: &Host, approvals: &str) -> Result<()> {
    host.ok(
        "groupadd oncall && groupadd leads && \
         useradd --create-home --groups oncall dev && useradd --create-home --groups oncall,leads dan && \
         useradd --create-home --groups leads lea && useradd --create-home --groups leads leo",
    )?;
    host.write_file("/etc/polkit-1/rules.d/40-consent.rules", POLKIT)?;
    host.ok("mkdir -p /etc/godebug/rules.d && systemctl restart polkit")?;
    host.write_file(RULES, rule(approvals))?;
    // What a scenario changes, and puts back.
    let changed = "/etc/godebug/rules.d /etc/group /etc/group- /etc/gshadow /etc/gshadow-";
    host.ok(&format!("mkdir /root/kept && cp -a --parents {changed} /root/kept")).map(drop)
}

fn puts_back(host: &Host) -> Result<()> {
    host.ok("cp -a /root/kept/etc/. /etc").map(drop)
}

fn ctl(host: &Host, user: &str, words: &str) -> Result<Output> {
    host.run_as(user, &format!("godebugctl --json {words}"))
}

/// A request that dev leaves waiting.
fn asks(host: &Host, user: &str) -> Result<String> {
    let line = "attach myapp --ttl 5m --reason 'orders are slow' --detach";
    let request = ctl(host, user, line)?.exits(0)?.json()?;
    ensure!(request["state"] == "pending-approval", "{request}");
    text(&request, "id")
}

fn pending(host: &Host, user: &str) -> Result<Vec<Value>> {
    let list = ctl(host, user, "list --pending")?.exits(0)?.json()?;
    list.as_array().cloned().context("no list")
}

fn claim(host: &Host, user: &str, id: &str) -> Result<Output> {
    ctl(host, user, &format!("claim {id} --detach --ticket /home/{user}/t"))
}

fn holds_nothing(host: &Host, id: &str) -> Result<()> {
    ensure!(!host.path(&format!("/run/godebug/{id}")).exists(), "a request has a ledger");
    let units = host.ok(&format!("systemctl list-units --all --no-legend '*{id}*'"))?;
    ensure!(units.is_empty(), "a request has units: {units}");
    let modes = host.ok(&format!("stat -c '%a %U' /run/godebug/{id}.request"))?;
    ensure!(modes == "600 root\n", "others can read it: {modes}");
    Ok(())
}

fn two_consent(host: &Host) -> Result<()> {
    has_people(host, "count = 2, groups = [\"leads\"]")?;
    leaves_nothing(host, &["myapp"], |_| {
        let id = asks(host, "dan")?;
        holds_nothing(host, &id)?;
        let seen = pending(host, "lea")?;
        ensure!(seen.len() == 1 && seen[0]["reason"] == "orders are slow", "{seen:?}");
        ensure!(seen[0]["waits_for"]["by"] == "group leads" && seen[0]["ttl"] == "5m", "{seen:?}");
        ensure!(pending(host, "alice")?.is_empty() && pending(host, "dev")?.is_empty());
        ensure!(pending(host, "dan")?.len() == 1 && pending(host, "root")?.len() == 1);
        refused(ctl(host, "alice", &format!("show {id}"))?, 3, "refused")?;
        let human = host.run_as("lea", "godebugctl list --pending")?.ok()?;
        ensure!(human.contains("0 of 2") && human.contains("dan"), "{human}");

        let approve = format!("approve {id}");
        let why = refused(ctl(host, "dan", &approve)?, 3, "refused")?;
        ensure!(why.contains("nobody approves what they asked for themselves"), "{why}");
        let why = refused(ctl(host, "dev", &approve)?, 3, "refused")?;
        ensure!(why.contains("dev is none of them"), "{why}");
        // root may everything but be somebody else.
        refused(host.run(&format!("godebugctl --json {approve}"))?, 3, "refused")?;
        let why = refused(claim(host, "dan", &id)?, 3, "refused")?;
        ensure!(why.contains("0 of 2 approvals by group leads"), "{why}");
        ctl(host, "lea", &approve)?.exits(0)?;
        refused(ctl(host, "lea", &approve)?, 2, "usage").context("lea approves twice")?;
        refused(claim(host, "dan", &id)?, 3, "refused").context("one of two")?;

        // A godebugd that is killed keeps it, with the consent that was given.
        host.ok("systemctl kill --signal=KILL godebugd")?;
        ensure!(pending(host, "dan")?[0]["approvals"][0]["user"] == "lea");
        ctl(host, "leo", &approve)?.exits(0)?;
        holds_nothing(host, &id)?;
        let why = refused(claim(host, "lea", &id)?, 3, "refused")?;
        ensure!(why.contains("not yours"), "{why}");
        let opened = claim(host, "dan", &id)?.exits(0)?.json()?;
        let session = Session::of(opened)?;
        ensure!(session.id == id && session.document["state"] == "active");
        ensure!(session.document["approvals"][1]["user"] == "leo", "{}", session.document);
        ensure!(pending(host, "root")?.is_empty());
        refused(claim(host, "dan", &id)?, 2, "usage").context("claimed twice")?;
        let longer = format!("extend {id} --ttl 6m");
        let why = refused(ctl(host, "dan", &longer)?, 3, "refused").context("dan extends")?;
        ensure!(why.contains("2 approvals"), "{why}");
        refused(ctl(host, "lea", &longer)?, 3, "refused").context("one alone extends")?;
        session.stop(host)?;
        is_recorded(host, &id)
    })
}

fn is_recorded(host: &Host, id: &str) -> Result<()> {
    let trail = host.run(&format!("godebugctl --json audit show {id}"))?.exits(0)?.json()?;
    let entries = trail["entries"].as_array().context("no entries")?;
    let events: Vec<&str> = entries.iter().filter_map(|entry| entry["event"].as_str()).collect();
    let expected = ["requested", "approved", "approved", "opening", "active", "closed"];
    ensure!(events == expected, "{events:?}");
    ensure!(entries[1]["user"] == "lea" && entries[2]["user"] == "leo", "{trail}");
    let human = host.ok(&format!("godebugctl audit show {id}"))?;
    ensure!(human.contains("approved by   lea, leo"), "{human}");
    let refusals = host.run("godebugctl --json audit list --refused")?.exits(0)?.json()?;
    let refusals = refusals["refusals"].to_string();
    ensure!(refusals.contains("nobody approves what they asked for"), "{refusals}");
    Ok(())
}

fn judged_anew(host: &Host) -> Result<()> {
    has_people(host, "groups = [\"leads\"]")?;
    leaves_nothing(host, &["myapp"], |_| {
        // Whoever asked has lost the group.
        let id = asks(host, "dev")?;
        host.ok("gpasswd --delete dev oncall")?;
        let why = refused(ctl(host, "lea", &format!("approve {id}"))?, 3, "refused")?;
        ensure!(why.contains("no rule allows dev"), "{why}");
        host.ok("gpasswd --add dev oncall")?;
        ctl(host, "lea", &format!("approve {id}"))?.exits(0)?;
        host.ok("gpasswd --delete dev oncall")?;
        refused(claim(host, "dev", &id)?, 3, "refused").context("claimed without the group")?;
        host.ok("gpasswd --add dev oncall")?;

        // Whoever approved does not count any more.
        host.ok("gpasswd --delete lea leads")?;
        let why = refused(claim(host, "dev", &id)?, 3, "refused")?;
        ensure!(why.contains("none of them any more"), "{why}");
        host.ok("gpasswd --add lea leads")?;

        // The rule wants something else now.
        host.write_file(RULES, rule("count = 2, groups = [\"leads\"]"))?;
        refused(claim(host, "dev", &id)?, 3, "refused").context("two are wanted now")?;
        host.write_file(RULES, rule("groups = [\"leads\"]").replace("30m", "1m"))?;
        let why = refused(claim(host, "dev", &id)?, 3, "refused")?;
        ensure!(why.contains("1m at most"), "{why}");
        host.write_file(RULES, "broken")?;
        refused(claim(host, "dev", &id)?, 3, "refused").context("a broken file")?;
        refused(ctl(host, "leo", &format!("approve {id}"))?, 3, "refused")?;
        host.write_file(RULES, rule("groups = [\"leads\"]"))?;
        ensure!(pending(host, "dev")?.len() == 1, "all that has ended the request");

        let session = Session::of(claim(host, "dev", &id)?.exits(0)?.json()?)?;
        // One who could approve it may make it longer, and its owner may not.
        let longer = format!("extend {id} --ttl 9m");
        refused(ctl(host, "dev", &longer)?, 3, "refused").context("dev extends")?;
        ctl(host, "leo", &longer)?.exits(0)?;
        session.stop(host)?;
        puts_back(host)
    })
}

/// All at the same moment.
fn used_once(host: &Host) -> Result<()> {
    has_people(host, "groups = [\"leads\"]")?;
    leaves_nothing(host, &["myapp"], |_| {
        let id = asks(host, "dev")?;
        ctl(host, "lea", &format!("approve {id}"))?.exits(0)?;
        let claim = |n: u32| {
            let line =
                format!("exec godebugctl --json claim {id} --detach --ticket /home/dev/t{n}");
            host.spawn_as("dev", &line)
        };
        let mut claims = (0..4).map(claim).collect::<Result<Vec<_>>>()?;
        let mut opened = Vec::new();
        for claim in &mut claims {
            let output = claim.wait(SOON)?;
            if output.success() {
                let session = Session::of(output.json()?)?;
                // At once: whoever is behind shall find nothing in the way.
                session.stop(host)?;
                opened.push(session.id);
            }
        }
        ensure!(opened == [id.clone()], "opened: {opened:?}");
        puts_back(host)
    })
}

/// Its answer goes through a pipe, so it waits in the foreground.
fn images(host: &Host) -> Result<()> {
    has_people(host, "groups = [\"leads\"]")?;
    leaves_nothing(host, &["myapp"], |_| {
        let line = "exec godebugctl --json goroutines myapp --reason 'all stand'";
        let mut looking = host.spawn_as("dev", line)?;
        let id = wait_for_request(host)?;
        holds_nothing(host, &id)?;
        let seen = pending(host, "lea")?;
        ensure!(seen[0]["mode"] == "observe" && seen[0]["reason"] == "all stand", "{seen:?}");
        let why = refused(claim(host, "dev", &id)?, 2, "usage").context("taken up as a session")?;
        ensure!(why.contains("about images"), "{why}");
        let other = "busctl call org.godebug1 /org/godebug1 org.godebug1.Manager ClaimImages sah";
        ensure!(!host.run_as("lea", &format!("{other} {id} 0"))?.success(), "taken up by another");
        ensure!(!host.run_as("dev", &format!("{other} {id} 0"))?.success(), "taken up unapproved");
        refused(ctl(host, "dev", &format!("approve {id}"))?, 3, "refused")?;
        ctl(host, "lea", &format!("approve {id}"))?.exits(0)?;
        let shown = looking.wait(SOON)?.exits(0)?.json()?;
        ensure!(shown["groups"].as_array().is_some_and(|it| !it.is_empty()), "{shown}");
        is_approved_by(host, &id, "lea")?;

        // A no, and somebody who does not wait.
        let mut looking =
            host.spawn_as("dev", "exec godebugctl --json snapshot myapp --reason x")?;
        let id = wait_for_request(host)?;
        ctl(host, "lea", &format!("deny {id} --reason later"))?.exits(0)?;
        let why = refused(looking.wait(SOON)?, 3, "refused")?;
        ensure!(why.contains("later"), "{why}");
        let mut looking =
            host.spawn_as("dev", "exec godebugctl --json snapshot myapp --reason x")?;
        wait_for_request(host)?;
        looking.interrupt()?;
        looking.wait(SOON)?.exits(1)?;
        host.wait_until("the request is over", SOON, || Ok(pending(host, "root")?.is_empty()))?;
        puts_back(host)
    })
}

fn is_approved_by(host: &Host, id: &str, user: &str) -> Result<()> {
    let trail = host.run(&format!("godebugctl --json audit show {id}"))?.exits(0)?.json()?;
    let entries = trail["entries"].as_array().context("no entries")?;
    let opening = entries.iter().find(|entry| entry["event"] == "opening").context("not opened")?;
    ensure!(opening["details"]["approvals"][0]["user"] == user, "{opening}");
    Ok(())
}

fn requests_end(host: &Host) -> Result<()> {
    has_people(host, "groups = [\"leads\"]")?;
    leaves_nothing(host, &["myapp"], |_| {
        let ended = |id: &str| ctl(host, "dev", &format!("show {id}"))?.exits(0)?.json();
        let id = asks(host, "dev")?;
        refused(ctl(host, "alice", &format!("deny {id} --reason no"))?, 3, "refused")?;
        let why = refused(ctl(host, "dev", &format!("deny {id} --reason no"))?, 3, "refused")?;
        ensure!(why.contains("your own"), "{why}");
        ctl(host, "lea", &format!("deny {id} --reason 'not on a Friday'"))?.exits(0)?;
        let now = ended(&id)?;
        ensure!(now["state"] == "closed" && now["close_reason"] == "denied", "{now}");
        ensure!(now["close_detail"] == "by lea: not on a Friday", "{now}");
        refused(claim(host, "dev", &id)?, 3, "refused").context("a denied one")?;

        let id = asks(host, "dev")?;
        refused(ctl(host, "alice", &format!("stop {id}"))?, 3, "refused")?;
        ctl(host, "dev", &format!("stop {id}"))?.exits(0)?;
        ensure!(ended(&id)?["close_reason"] == "stopped");

        // In the foreground: it goes on by itself when it is approved.
        let mut attach = host.spawn_as("dev", "exec godebugctl --json attach myapp --ttl 60s")?;
        let id = wait_for_request(host)?;
        host.ok("systemctl restart godebugd")?;
        ctl(host, "lea", &format!("approve {id}"))?.exits(0)?;
        // polkit has forgotten nothing, and neither has godebugd: it is asked of polkit again.
        attach.wait_for_line("\"listen\"", SOON)?;
        attach.interrupt()?;
        attach.wait(SOON)?.exits(0)?;

        // Left waiting, for a laptop; and taken up in the foreground all the same.
        let line = format!("attach myapp --ttl 60s --detach --from {}", host.laptop_address());
        let id = text(&ctl(host, "dev", &line)?.exits(0)?.json()?, "id")?;
        ctl(host, "lea", &format!("approve {id}"))?.exits(0)?;
        let mut claimed = host.spawn_as("dev", &format!("exec godebugctl --json claim {id}"))?;
        let listening = claimed.wait_for_line("\"listen\"", SOON)?;
        let answer = asked_by_dev(host, listen_address(&listening)?.port())?;
        ensure!(answer.contains("\"id\":1"), "dlv says {answer}: {}", claimed.stderr());
        claimed.interrupt()?;
        claimed.wait(SOON)?.exits(0)?;

        // Whoever does not wait for it does not want it.
        let mut attach = host.spawn_as("dev", "exec godebugctl attach myapp --ttl 60s")?;
        let id = wait_for_request(host)?;
        attach.signal(Signal::KILL)?;
        attach.wait(SOON)?;
        host.wait_until("the request is over", SOON, || Ok(pending(host, "root")?.is_empty()))?;
        ensure!(ended(&id)?["close_reason"] == "client-gone");

        host.write_file(RULES, rule("groups = [\"leads\"], within = \"2s\""))?;
        let id = asks(host, "dev")?;
        host.wait_until("the request is over", SOON, || Ok(pending(host, "root")?.is_empty()))?;
        ensure!(ended(&id)?["close_reason"] == "expired");
        let list = host.run("godebugctl --json audit list --last 1")?.exits(0)?.json()?;
        ensure!(list["sessions"][0]["outcome"] == "not-opened", "{list}");
        // A restarted godebugd has only the log to tell of it.
        host.ok("systemctl restart godebugd")?;
        ensure!(ended(&id)?["state"] == "closed");
        puts_back(host)
    })
}

/// What dlv answers to a program of dev's own: nobody else's may use dev's local port.
fn asked_by_dev(host: &Host, port: u16) -> Result<String> {
    const PROGRAM: &str = r#"
import socket, sys
stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
stream.sendall(b'{"method":"RPCServer.SetApiVersion","params":[{"APIVersion":2}],"id":1}\n')
print(stream.recv(4096).decode())
"#;
    host.write_file("/tmp/asks.py", PROGRAM)?;
    host.run_as("dev", &format!("python3 /tmp/asks.py {port}"))?.ok()
}

fn wait_for_request(host: &Host) -> Result<String> {
    host.wait_until("a request waits", SOON, || Ok(pending(host, "root")?.len() == 1))?;
    text(&pending(host, "root")?[0], "id")
}

/// Whoever is on the bus can say what they like; whose word it is, the bus knows. And a unit that becomes
/// another one between the question and the answer is another one.
fn forged(host: &Host) -> Result<()> {
    has_people(host, "groups = [\"leads\"]")?;
    host.write_file(
        "/run/systemd/system/spare.service",
        "[Service]\nExecStart=/opt/samples/shop -listen 127.0.0.1:8097\n",
    )?;
    host.ok("systemctl daemon-reload && systemctl start spare ticker")?;
    leaves_nothing(host, &["myapp", "ticker"], |_| {
        host.write_file(RULES, rule("groups = [\"leads\"]").replace("myapp", "spare"))?;
        let ask = "attach spare --ttl 60s";
        let mut attach = host.spawn_as("dev", &format!("exec godebugctl --json {ask}"))?;
        let id = wait_for_request(host)?;
        let (object, session) = (format!("/org/godebug1/session/{id}"), "org.godebug1.Session");
        let call = "busctl call org.godebug1 /org/godebug1 org.godebug1.Manager";
        for forged in [
            format!("busctl emit {object} {session} Approved uu 1 1"),
            format!("busctl emit {object} {session} Transition sss pending-approval active ''"),
            "busctl call org.freedesktop.DBus / org.freedesktop.DBus RequestName su org.godebug1 4"
                .to_owned(),
            format!("{call} Approve s {id}"),
            format!("{call} Claim ssah {id} '{{\"csr\":\"x\"}}' 0"),
            format!("cat /run/godebug/{id}.request"),
            format!("rm /run/godebug/{id}.request"),
        ] {
            // The one who asks may not either, by going around the program.
            for user in ["alice", "dev"] {
                let output = host.run_as(user, &forged)?;
                ensure!(!output.success() || forged.contains("emit"), "{user} may: {output}");
            }
        }
        ensure!(pending(host, "root")?[0]["approvals"].is_null(), "somebody has approved it");
        ensure!(attach.is_running()? && attach.stdout().is_empty(), "a signal was believed");
        attach.interrupt()?;
        attach.wait(SOON)?.exits(1)?;

        let request = ctl(host, "dev", &format!("{ask} --detach"))?.exits(0)?.json()?;
        let id = text(&request, "id")?;
        ctl(host, "lea", &format!("approve {id}"))?.exits(0)?;
        host.ok("systemctl stop spare && rm /run/systemd/system/spare.service && \
             ln -s /etc/systemd/system/ticker.service /run/systemd/system/spare.service && systemctl daemon-reload")?;
        let why = refused(claim(host, "dev", &id)?, 3, "refused")?;
        ensure!(why.contains("another name for ticker.service"), "{why}");
        let why = refused(ctl(host, "dev", &format!("{ask} --detach"))?, 3, "refused")?;
        ensure!(why.contains("no rule allows dev to attach ticker.service"), "{why}");
        ctl(host, "dev", &format!("stop {id}"))?.exits(0)?;
        others_read_nothing(host)?;
        host.ok("rm /run/systemd/system/spare.service && systemctl daemon-reload")?;
        puts_back(host)
    })
}

/// Neither a ticket nor a transcript of somebody else.
fn others_read_nothing(host: &Host) -> Result<()> {
    host.write_file(RULES, rule("groups = [\"leads\"]"))?;
    let id = asks(host, "dev")?;
    ctl(host, "lea", &format!("approve {id}"))?.exits(0)?;
    let session = Session::of(claim(host, "dev", &id)?.exits(0)?.json()?)?;
    for user in ["dan", "alice", "lea"] {
        for words in ["watch", "audit show", "audit export"] {
            refused(ctl(host, user, &format!("{words} {id}"))?, 3, "refused")
                .with_context(|| format!("{user}: {words}"))?;
        }
        for file in [format!("/var/log/godebug/sessions/{id}.jsonl"), "/home/dev/t".to_owned()] {
            ensure!(
                !host.run_as(user, &format!("cat {file}"))?.success(),
                "{user} may read {file}"
            );
        }
    }
    session.stop(host)
}
