//! Who may do what: other users of the host get nothing, and change nothing by trying.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

use crate::support::{Session, leaves_nothing, refused};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("others_may_not_attach_and_see_only_their_own", others_may_not).main().shared(),
    Scenario::new("people_of_a_directory_are_known_by_their_groups", of_a_directory),
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

/// In no file of the host: they come by the name service switch, as from LDAP, here from systemd's own
/// directory of records.
fn of_a_directory(host: &Host) -> Result<()> {
    let record = |name: &str, uid: u32| {
        format!(
            "{{\"userName\":\"{name}\",\"uid\":{uid},\"gid\":{uid},\"homeDirectory\":\"/tmp\",\"shell\":\"/bin/bash\"}}\n"
        )
    };
    let group = |name: &str, gid: u32| format!("{{\"groupName\":\"{name}\",\"gid\":{gid}}}\n");
    for (name, id) in [("ada", 70001), ("ben", 70002)] {
        host.write_file(&format!("/run/userdb/{name}.user"), record(name, id))?;
        host.write_file(&format!("/run/userdb/{name}.group"), group(name, id))?;
        let links = format!("ln -s {name}.user {id}.user && ln -s {name}.group {id}.group");
        host.ok(&format!("cd /run/userdb && {links}"))?;
    }
    host.write_file("/run/userdb/night-shift.group", group("night-shift", 70003))?;
    host.ok(
        "cd /run/userdb && ln -s night-shift.group 70003.group && echo {} >ada:night-shift.membership",
    )?;
    let known = host.ok("id ada; getent passwd ben")?;
    ensure!(known.contains("night-shift") && known.contains("70002"), "{known}");
    ensure!(!host.read_file("/etc/passwd")?.contains("ada"));
    host.write_file(
        "/etc/polkit-1/rules.d/40-directory.rules",
        "polkit.addRule(function(action, subject) { if (action.id == 'org.godebug1.attach') return \
         polkit.Result.YES; });\n",
    )?;
    host.ok("mkdir -p /etc/godebug/rules.d && systemctl restart polkit")?;
    host.write_file(
        "/etc/godebug/rules.d/10-directory.toml",
        "[[rule]]\nname = \"night shift\"\neffect = \"allow\"\nunits = [\"myapp\"]\n\
         groups = [\"night-shift\"]\n\n[[rule]]\nname = \"ben\"\neffect = \"allow\"\n\
         units = [\"ticker\"]\nusers = [\"ben\"]\n",
    )?;
    host.ok("systemctl start ticker")?;
    leaves_nothing(host, &["myapp", "ticker"], |_| {
        let attach = |user: &str, unit: &str| {
            host.run_as(
                user,
                &format!("cd /tmp && godebugctl --json attach {unit} --ttl 60s --detach"),
            )
        };
        let why = refused(attach("ben", "myapp")?, 3, "refused")?;
        ensure!(why.contains("no rule allows ben"), "{why}");
        refused(attach("ada", "ticker")?, 3, "refused")?;
        for (user, unit) in [("ada", "myapp"), ("ben", "ticker")] {
            let session = Session::of(attach(user, unit)?.exits(0)?.json()?)?;
            ensure!(session.document["opened_by"] == user, "{}", session.document);
            session.stop(host)?;
        }
        let told = host.ok("godebugctl rules explain --as ada attach myapp")?;
        ensure!(told.contains("night shift"), "{told}");
        // Out of the group, out of the rule.
        host.ok("rm /run/userdb/ada:night-shift.membership")?;
        refused(attach("ada", "myapp")?, 3, "refused").map(drop)
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
