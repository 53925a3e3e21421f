//! People who come by ssh: nobody brings them an agent of polkit, and the record says how they came.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};

use crate::support::{SOON, Session, leaves_nothing, refused};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("without_an_agent_godebugctl_asks_for_the_password_itself", own_agent),
    Scenario::new("person_is_asked_when_the_end_comes_near", more_time),
    Scenario::new("key_of_the_checkpoints_is_encrypted_where_the_host_can", encrypted_key),
    Scenario::new("logrotate_keeps_the_chain", rotation),
];

/// A login of hers, with a terminal, as sshd makes one. Without a session polkit asks nobody.
const LOGIN: &str = "systemd-run --quiet --pty --wait --collect --property=PAMName=su-l \
                     --property=User=carol --property=WorkingDirectory=/home/carol";

fn own_agent(host: &Host) -> Result<()> {
    host.ok("echo carol:the-password-of-carol | chpasswd")?;
    leaves_nothing(host, &["myapp"], |_| {
        let line = "godebugctl attach myapp --ttl 60s --detach --ticket /home/carol/t";
        let login =
            format!("exec script --quiet --return --flush --command '{LOGIN} {line}' /dev/null");
        let mut terminal = host.spawn(&login)?;
        // The prompt has no end of a line.
        host.wait_until("the password is asked for", SOON, || {
            Ok(terminal.stdout().contains("assword"))
        })
        .with_context(|| terminal.stdout())?;
        terminal.type_line("the-password-of-carol")?;
        let opened = terminal.wait(SOON)?.exits(0)?;
        ensure!(opened.stdout.contains("active: myapp.service"), "{opened}");
        ensure!(!opened.stdout.contains("the-password"), "it was shown: {opened}");
        let list = host.run("godebugctl --json list")?.exits(0)?.json()?;
        let session = Session::of(list[0].clone())?;
        ensure!(session.document["opened_by"] == "carol", "{list}");
        // How she came to be here is in the record.
        let login = &session.document["login"];
        let tty = login["tty"].as_str().unwrap_or_default();
        ensure!(tty.starts_with("pts/") && login["session"].is_string(), "{list}");
        session.stop(host)?;
        let trail =
            host.run(&format!("godebugctl --json audit show {}", session.id))?.exits(0)?.json()?;
        ensure!(trail["entries"][0]["login"]["tty"] == tty, "{trail}");
        ensure!(host.ok("pgrep -c pkttyagent || true")? == "0\n", "the agent stays");
        // Without a terminal there is nobody to ask, and that is said.
        let line = line.replace("godebugctl", "godebugctl --json");
        let why = refused(host.run_as("carol", &line)?, 3, "refused")?;
        ensure!(why.contains("there was nobody to ask") && why.contains("terminal"), "{why}");
        Ok(())
    })
}

fn more_time(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let line = "godebugctl attach myapp --ttl 62s";
        let mut terminal = host
            .spawn(&format!("exec script --quiet --return --flush --command '{line}' /dev/null"))?;
        let shows = |terminal: &godebug_tests::Spawned, what: &str| {
            host.wait_until(what, SOON, || Ok(terminal.stdout().contains(what)))
                .with_context(|| terminal.stdout())
        };
        shows(&terminal, "Give it 1m 2s more? [y/N]")?;
        let before = host.run("godebugctl --json list")?.exits(0)?.json()?;
        terminal.type_line("y")?;
        shows(&terminal, "the session has a new end")?;
        let after = host.run("godebugctl --json list")?.exits(0)?.json()?;
        ensure!(after[0]["expires_at"].as_str() > before[0]["expires_at"].as_str(), "{after}");
        let session = Session::of(after[0].clone())?;
        session.stop(host)?;
        terminal.wait(SOON)?.exits(6).map(drop)
    })
}

fn encrypted_key(host: &Host) -> Result<()> {
    host.ok("systemd-creds setup && rm -rf /var/lib/godebug/*")?;
    leaves_nothing(host, &["myapp"], |_| {
        Session::open(host, "myapp", "--ttl 60s")?.stop(host)?;
        let files = host.ok("ls /var/lib/godebug")?;
        ensure!(files.contains("audit.key.cred") && !files.contains("audit.key\n"), "{files}");
        let key = host.ok("godebugctl audit key")?;
        // Another process, and one without a bus, sign with the same.
        host.ok("systemctl restart godebugd")?;
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        host.ok("systemctl mask --runtime --now godebugd")?;
        let revoked = host.run(&format!("/usr/lib/godebug/godebug-revoke {}", session.id));
        host.ok("systemctl unmask --runtime godebugd")?;
        ensure!(revoked?.success());
        let verdict = host.run("godebugctl --json audit verify")?.exits(0)?.json()?;
        ensure!(verdict["checked"]["checkpoints"] == 2, "{verdict}");
        ensure!(
            verdict["keys"].as_array().is_some_and(|keys| keys.len() == 1 && keys[0] == key.trim()),
            "{verdict}"
        );
        Ok(())
    })
}

/// As logrotate would do it, and the file itself where there is a logrotate to read it.
fn rotation(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let first = Session::open(host, "myapp", "--ttl 60s")?;
        first.stop(host)?;
        let session = Session::open(host, "myapp", "--ttl 60s --reason 'over a rotation'")?;
        let settings = host.ok("cat /etc/logrotate.d/godebug")?;
        for word in ["nocompress", "nocreate", "rotate 120"] {
            ensure!(settings.contains(word), "{settings}");
        }
        if host.run("command -v logrotate")?.success() {
            host.ok("logrotate --force /etc/logrotate.d/godebug")?;
        } else {
            host.ok("mv /var/log/godebug/audit.jsonl /var/log/godebug/audit.jsonl-20260101-7")?;
        }
        session.stop(host)?;
        let verdict = host.run("godebugctl --json audit verify")?.exits(0)?.json()?;
        ensure!(verdict["files"].as_array().is_some_and(|files| files.len() == 2), "{verdict}");
        ensure!(
            verdict["checked"]["lines"] == 6
                && verdict["checked"]["warnings"] == serde_json::json!([]),
            "{verdict}"
        );
        let shown = host.ok(&format!("godebugctl audit show {}", session.id))?;
        ensure!(shown.contains("over a rotation") && shown.contains("proved: all"), "{shown}");
        Ok(())
    })
}
