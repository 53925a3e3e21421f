//! Who may do what: other users of the host get nothing, and change nothing by trying.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

use crate::support::{Session, leaves_nothing, refused};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("others_may_not_attach_and_see_only_their_own", others_may_not).main().shared(),
    Scenario::new("others_reach_nothing_of_a_session", others_reach_nothing).shared(),
    Scenario::new("bus_calls_by_others_are_refused", direct_calls).shared(),
];

fn others_may_not(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        for user in ["alice", "carol"] {
            let attach = host.run_as(user, "godebugctl --json attach myapp --ttl 60s --detach")?;
            let why = refused(attach, 3, "refused").with_context(|| format!("{user} attaches"))?;
            ensure!(why.contains(user) && why.contains("org.godebug1.attach"), "{why}");
            ensure!(why.contains("sudo") || why.contains("administrator"), "no remedy: {why}");
        }
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let seen = host.run_as("alice", "godebugctl --json list")?.exits(0)?.json()?;
        ensure!(seen.as_array().is_some_and(Vec::is_empty), "alice sees {seen}");
        for command in ["show ID", "stop ID", "extend ID --ttl 5m", "inspect myapp", "doctor myapp"]
        {
            let line = format!("godebugctl --json {}", command.replace("ID", &session.id));
            refused(host.run_as("alice", &line)?, 3, "refused")
                .with_context(|| format!("alice: {line}"))?;
        }
        host.run_as("alice", "godebugctl --json doctor")?.exits(0)?;
        // Nothing of that touched the session.
        let now = session.show(host)?;
        ensure!(now["state"] == "active", "{now}");
        ensure!(now["expires_at"] == session.document["expires_at"], "{now}");
        session.stop(host)?;
        let line = format!("godebugctl --json show {}", session.id);
        refused(host.run_as("alice", &line)?, 3, "refused").context("alice shows an ended one")?;
        Ok(())
    })
}

fn others_reach_nothing(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let folder = format!("/run/godebug/{}", session.id);
        // Not even the debugged service's own user.
        for user in ["alice", "carol", "shop"] {
            for line in [
                format!("ls {folder}"),
                format!("cat {folder}/ledger"),
                format!("cat {folder}/dlv.log"),
                format!(
                    "python3 -c 'import socket; socket.socket(1).connect(\"{folder}/dlv.sock\")'"
                ),
                format!(
                    "python3 -c 'import socket; socket.socket(1).connect(\"{folder}/gateway/control\")'"
                ),
                "cat /tmp/ticket-myapp".to_owned(),
                "cat /var/log/godebug/audit.jsonl".to_owned(),
                format!("/usr/lib/godebug/godebug-revoke {}", session.id),
                format!("systemctl --no-ask-password stop {}", session.unit("dlv")),
            ] {
                let output = host.run_as(user, &line)?;
                ensure!(!output.success(), "{user} may: {output}");
            }
        }
        ensure!(session.traffic(host)?.at_debugger == 0);
        ensure!(session.show(host)?["state"] == "active");
        session.stop(host)
    })
}

fn direct_calls(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let request = r#"{"ttl":"60s","mode":"step","from":["10.0.0.0/8"],"csr":"x"}"#;
        let call = |method: &str| {
            format!("busctl call org.godebug1 /org/godebug1 org.godebug1.Manager {method}")
        };
        let open = format!("{} myapp \"$REQUEST\" 0", call("Open ssah"));
        for (user, status) in [("alice", 1), ("carol", 1)] {
            let output =
                host.run_as(user, &format!("REQUEST=\\'{request}\\'; {open}").replace("\\'", "'"))?;
            ensure!(output.status == status, "{user}: {output}");
            ensure!(output.stderr.contains("polkit"), "{user}: {output}");
        }
        // Nonsense from root is refused as nonsense, by the daemon itself.
        for words in ["myapp '' 0", "myapp '{}' 0", "'../x' '{}' 0", "myapp 'null' 0"] {
            let output = host.run(&format!("{} {words}", call("Open ssah")))?;
            ensure!(!output.success(), "{output}");
        }
        let bomb = "python3 -c 'print(\"[\" * 60000)'";
        let output = host.run(&format!("{} myapp \"$({bomb})\" 0", call("Open ssah")))?;
        ensure!(!output.success(), "{output}");
        for method in [
            "Get s x",
            "Stop s ../../etc",
            "Extend st x 5",
            "Traffic s zzzzzzzz",
            "Inspect su a/b 0",
        ] {
            let output = host.run(&call(method))?;
            ensure!(!output.success() && !output.stderr.contains("NoReply"), "{output}");
        }
        ensure!(
            host.run("godebugctl --json list")?
                .exits(0)?
                .json()?
                .as_array()
                .is_some_and(Vec::is_empty)
        );
        Ok(())
    })
}
