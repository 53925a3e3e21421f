//! What cannot work is refused with a clear word and the right exit status, and nothing on the host is
//! changed, not even for a moment that somebody could notice afterwards.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Snapshot, nothing_left, scenario::Scenario};

use crate::support::{SOON, Session, TicketFile, connect_line, leaves_nothing, refused, start};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("bad_requests_are_refused_and_change_nothing", requests).main().shared(),
    Scenario::new("full_port_range_is_refused", full_port_range).shared(),
    Scenario::new("bad_tickets_are_refused", tickets).main().shared(),
    Scenario::new("service_under_another_debugger_is_refused", already_traced).shared(),
    Scenario::new("ambiguous_unit_is_refused_until_a_process_is_named", ambiguous).shared(),
];

/// What is typed after `attach`, the exit status, the code, and a word that the error must have.
type Case<'a> = (&'a str, i32, &'a str, &'a str);

const REQUESTS: &[Case<'_>] = &[
    ("nosuch", 4, "target", "nosuch.service"),
    ("idle", 4, "target", "not running"),
    ("python", 4, "target", "Go"),
    ("stripped", 4, "target", "debug information"),
    ("stripped --symbols /opt/samples/shop", 4, "target", "another build"),
    ("stripped --symbols /opt/samples/web.py", 4, "target", "symbols"),
    ("stripped --symbols /nonexistent", 2, "usage", "symbols"),
    ("two", 4, "target", "--pid"),
    ("two --pid 1", 2, "usage", "--pid"),
    ("two --pid $(systemctl show --value -p MainPID myapp)", 4, "target", ""),
    ("myapp --pid 0", 2, "usage", "--pid"),
    ("dbus.socket", 2, "usage", "service"),
    ("app@", 2, "usage", "template"),
    ("app@7", 4, "target", "not running"),
    ("myapp --ttl 0", 2, "usage", "--ttl"),
    ("myapp --ttl 400d", 2, "usage", "--ttl"),
    ("myapp --ttl 9h", 3, "refused", "max_ttl"),
    ("myapp --ttl -5m", 2, "usage", ""),
    ("myapp --from nonsense", 2, "usage", "--from"),
    ("myapp --from 0.0.0.0/0", 2, "usage", "internet"),
    ("myapp --from 10.1.2.3/8", 2, "usage", "--from"),
    ("myapp --mode everything", 2, "usage", "--mode"),
    ("../../etc/passwd", 2, "usage", "unit name"),
    ("a/b", 2, "usage", "unit name"),
    ("a..b", 2, "usage", "unit name"),
    ("\"$(printf 'my\\napp')\"", 2, "usage", "unit name"),
    ("\"$(printf 'my\\033[2Japp')\"", 2, "usage", "unit name"),
    ("\"$(head -c 10000 /dev/zero | tr '\\0' x)\"", 2, "usage", "unit name"),
    ("''", 2, "usage", "empty"),
    ("'myapp;reboot'", 2, "usage", "unit name"),
    ("myapp --reason \"$(printf 'a\\nb')\"", 2, "usage", "--reason"),
    ("myapp --ticket /nonexistent/t", 2, "usage", "/nonexistent"),
    ("myapp --ticket /etc/passwd", 2, "usage", "/etc/passwd"),
    ("myapp --endpoint 'a b'", 2, "usage", "--endpoint"),
];

fn requests(host: &Host) -> Result<()> {
    const UNITS: &[&str] = &["myapp", "stripped", "two", "python"];
    start(host, "stripped two python")?;
    leaves_nothing(host, UNITS, |before| {
        host.wait_until("both programs run", SOON, || Ok(host.targets("two")?.len() == 2))?;
        let services = Services::of(host)?;
        for (words, status, code, part) in REQUESTS {
            let attach = host.run(&format!("exec godebugctl --json attach --detach {words}"));
            let attach = attach?;
            ensure!(
                !attach.stderr.contains('\u{1b}'),
                "an escape sequence got through: {attach:?}"
            );
            let case = refused(attach, *status, code).and_then(|why| {
                ensure!(why.contains(part), "it does not speak of {part:?}: {why}");
                ensure!(services == Services::of(host)?, "units or the firewall changed");
                Ok(())
            });
            case.with_context(|| format!("attach {words}"))?;
        }
        nothing_left(host, before)
    })?;
    host.ok("systemctl stop stripped two python").map(drop)
}

/// What a refused request might have touched, quick to read after each.
#[derive(PartialEq, Eq)]
struct Services(String);

impl Services {
    fn of(host: &Host) -> Result<Self> {
        // godebugd itself may come and go.
        let seen = host.ok(
            "systemctl list-units --all --no-legend --plain 'godebug-*@*' '*.timer'; \
             find /run/godebug -mindepth 1 ! -name delve.json; \
             nft --stateless list ruleset | cksum; cat /proc/*/status 2>/dev/null | grep TracerPid | sort -u",
        )?;
        Ok(Self(seen))
    }
}

fn full_port_range(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let mut holder = host.spawn(
            "exec python3 -c 'import socket, sys\n\
             held = [socket.create_server((\"127.0.0.1\", port)) for port in range(2345, 2365)]\n\
             print(\"held\", flush=True)\n\
             sys.stdin.read()'",
        )?;
        holder.wait_for_line("held", SOON)?;
        let why = refused(host.run("godebugctl --json attach myapp --detach")?, 5, "host")?;
        ensure!(why.contains("2345") && why.contains("2364"), "it does not name the ports: {why}");
        holder.close_stdin();
        holder.wait(SOON)?;
        Ok(())
    })
}

fn tickets(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |_| {
        let session = Session::for_laptop(host, "myapp", "60s")?;
        let ticket = session.ticket(host)?;
        let expired = ticket.lines().map(|line| {
            let line = if line.starts_with("expires_at") {
                "expires_at = \"2020-01-01T00:00:00Z\""
            } else {
                line
            };
            line.to_owned() + "\n"
        });
        let cases: [(&str, String, u32, i32, &str); 7] = [
            ("is truncated", ticket[..ticket.len() / 2].to_owned(), 0o600, 2, "usage"),
            (
                "lacks its last line",
                ticket.replace("-----END PRIVATE KEY-----\n\"\"\"\n", ""),
                0o600,
                2,
                "usage",
            ),
            ("is empty", String::new(), 0o600, 2, "usage"),
            ("is no ticket", "root:x:0:0\n".to_owned(), 0o600, 2, "usage"),
            ("can be read by others", ticket.clone(), 0o644, 2, "usage"),
            ("can be read by a group", ticket.clone(), 0o640, 2, "usage"),
            ("has expired", expired.collect(), 0o600, 3, "refused"),
        ];
        for (what, content, mode, status, code) in cases {
            let file = TicketFile::new(&content, mode)?;
            let output = host.laptop(&connect_line(host, &file))?;
            refused(output, status, code).with_context(|| format!("a ticket that {what}"))?;
        }
        let traffic = session.traffic(host)?;
        ensure!(
            (traffic.accepted, traffic.refused) == (0, 0),
            "a bad ticket was tried: {traffic:?}"
        );
        session.stop(host)
    })
}

fn already_traced(host: &Host) -> Result<()> {
    leaves_nothing(host, &["myapp"], |before| {
        let target = before.processes()[0].inner_pid;
        let mut dlv = host.spawn(&format!(
            "exec dlv attach {target} --headless --continue --accept-multiclient --listen 127.0.0.1:2400"
        ))?;
        dlv.wait_for_line("listening at", SOON)?;
        host.wait_until("dlv has attached", SOON, || Ok(before.processes()[0].tracer()? != 0))?;
        let why = refused(host.run("godebugctl --json attach myapp --detach")?, 4, "target")?;
        ensure!(why.contains("dlv"), "it does not say by whom: {why}");
        host.wait_until("the service goes on", SOON, || {
            Ok(host.http_from_host("http://127.0.0.1:8080/healthz").is_ok())
        })?;
        dlv.interrupt()?;
        dlv.wait(SOON)?;
        // A dlv by itself, none of ours, now and then leaves threads stopped behind it.
        host.ok("systemctl kill --signal=CONT myapp").map(drop)
    })
}

fn ambiguous(host: &Host) -> Result<()> {
    start(host, "two")?;
    host.wait_until("both programs run", SOON, || Ok(host.targets("two")?.len() == 2))?;
    let both = Snapshot::take(host, &["two"])?;
    leaves_nothing(host, &["two"], |_| {
        let why = refused(host.run("godebugctl --json attach two --detach")?, 4, "target")?;
        let targets = host.targets("two")?;
        for target in &targets {
            ensure!(
                why.contains(&target.inner_pid.to_string()),
                "it does not list {target:?}: {why}"
            );
            let options = format!("--ttl 60s --pid {}", target.inner_pid);
            let session = Session::open(host, "two", &options)?;
            ensure!(session.document["pid"] == target.inner_pid, "{}", session.document);
            session.stop(host)?;
        }
        Ok(())
    })?;
    ensure!(both.processes().len() >= 2);
    host.ok("systemctl stop two").map(drop)
}
