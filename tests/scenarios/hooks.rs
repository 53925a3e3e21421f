//! What a site has run when something happens: told of everything, never in the way, but where it is asked.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use serde_json::Value;

use crate::support::{SOON, Session, leaves_nothing, leaves_nothing_but_new_processes, refused};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("hooks_hear_of_everything_and_hold_up_nothing", hear),
    Scenario::new("hooks_drain_before_and_undrain_after_whatever_happens", drain).main(),
];

const CONFIGURATION: &str = "/etc/godebug/godebugd.toml";

/// Keeps what it reads, and how it was run.
const KEEP: &str = r#"#!/bin/sh
cat >>"$1"
printf '\n' >>"$1"
id -u >"$1.uid"
touch /etc/written-by-a-hook && rm /etc/written-by-a-hook && echo yes >"$1.outside"
"#;

/// Answers one request, and keeps its body.
const SERVER: &str = r#"
import socket
server = socket.create_server(("127.0.0.1", 8999))
print("listens", flush=True)
client, _ = server.accept()
data = b""
while b"\r\n\r\n" not in data:
    data += client.recv(65536)
head, body = data.split(b"\r\n\r\n", 1)
length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
while len(body) < length:
    body += client.recv(65536)
client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
print(body.decode(), flush=True)
"#;

fn script(host: &Host, path: &str, text: &str) -> Result<()> {
    host.write_file(path, text)?;
    host.ok(&format!("chmod 755 {path}")).map(drop)
}

fn configure(host: &Host, text: &str) -> Result<()> {
    host.ok("mkdir -p /etc/godebug")?;
    host.write_file(CONFIGURATION, text)
}

fn put_back(host: &Host) -> Result<()> {
    host.ok(&format!("rm {CONFIGURATION} && rmdir /etc/godebug")).map(drop)
}

fn told(host: &Host, path: &str) -> Result<Vec<Value>> {
    let text = host.run(&format!("cat {path} 2>/dev/null"))?.stdout;
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(serde_json::from_str).collect::<Result<_, _>>().with_context(|| text.clone())
}

fn hear(host: &Host) -> Result<()> {
    script(host, "/usr/local/bin/keep", KEEP)?;
    script(host, "/usr/local/bin/fail", "#!/bin/sh\nexit 3\n")?;
    script(host, "/usr/local/bin/hang", "#!/bin/sh\nexec sleep 600\n")?;
    script(host, "/usr/local/bin/others", "#!/bin/sh\ntouch /root/others\n")?;
    host.ok("chmod 777 /usr/local/bin/others")?;
    host.write_file(
        "/etc/systemd/system/page@.service",
        "[Service]\nType=oneshot\nStandardInput=file:/run/godebug/hook-%i.json\n\
         ExecStart=/bin/sh -c 'cat >/root/paged'\n",
    )?;
    host.ok("systemctl daemon-reload")?;
    leaves_nothing(host, &["myapp"], |_| {
        configure(
            host,
            r#"
[[hook]]
events = ["opened", "closed"]
run = ["/usr/local/bin/keep", "/root/told"]
user = "root"
[[hook]]
events = ["opened"]
run = ["/usr/lib/godebug/hooks/webhook", "http://127.0.0.1:8999/"]
[[hook]]
events = ["opened"]
unit = "page@.service"
[[hook]]
events = ["opened"]
run = ["/usr/local/bin/fail"]
[[hook]]
events = ["opened"]
run = ["/usr/local/bin/hang"]
timeout = "1s"
[[hook]]
events = ["opened"]
run = ["/usr/local/bin/others"]
user = "root"
[[hook]]
events = ["opened"]
units = ["ticker"]
run = ["/usr/local/bin/keep", "/root/not-for-this-unit"]
user = "root"
"#,
        )?;
        script(host, "/root/server.py", SERVER)?;
        let mut server = host.spawn("exec python3 /root/server.py")?;
        server.wait_for_line("listens", SOON)?;
        let session = Session::open(host, "myapp", "--ttl 60s --reason 'orders are slow'")?;
        let posted = server.wait_for_line("orders are slow", SOON)?;
        let posted: Value = serde_json::from_str(&posted)?;
        ensure!(posted["event"] == "opened" && posted["host"] == "testhost", "{posted}");
        ensure!(posted["session"] == session.id.as_str() && posted["user"] == "root", "{posted}");
        session.stop(host)?;
        host.wait_until("the hooks have run", SOON, || Ok(told(host, "/root/told")?.len() == 2))?;
        let told = told(host, "/root/told")?;
        let proof = &told[1]["details"]["proof"];
        ensure!(told[1]["event"] == "closed" && proof[0]["gone"] == true, "{told:?}");
        // Root was asked for, and godebugd's own sandbox could write no /etc.
        host.wait_until("all have ended", SOON, || {
            Ok(host.ok("cat /root/told.uid /root/told.outside")? == "0\nyes\n"
                && host.ok("systemctl list-units --all --no-legend 'godebug-hook@*'")?.is_empty())
        })?;
        ensure!(
            host.ok("cat /root/paged")?.contains(&session.id),
            "the unit has read something else"
        );
        ensure!(!host.path("/root/not-for-this-unit").exists());
        // What fails is in the journal, by its name; what others can write is not run.
        host.wait_until("the failures are told", SOON, || {
            let journal = host.journal(&format!("-t godebugd GODEBUG_SESSION={}", session.id))?;
            Ok(["/usr/local/bin/fail", "/usr/local/bin/hang", "writable by others than root"]
                .iter()
                .all(|part| journal.contains(part)))
        })?;
        ensure!(!host.path("/root/others").exists(), "a program that others can write was run");
        let doctor = host.run("godebugctl doctor")?.stdout;
        ensure!(doctor.contains("/usr/local/bin/others is not run"), "{doctor}");
        // A mistake in the file closes.
        configure(host, "[[hook]]\nevents = [\"opend\"]\nrun = [\"/bin/true\"]\n")?;
        let why = refused(host.run("godebugctl --json attach myapp --detach")?, 5, "host")?;
        ensure!(why.contains("opend"), "{why}");
        put_back(host)
    })
}

fn drain(host: &Host) -> Result<()> {
    script(
        host,
        "/usr/local/bin/pool",
        "#!/bin/sh\ncat >/dev/null\n\
         if test $1 = drain -a -e /root/slow; then touch /root/begun; sleep 20; fi\n\
         echo $1 >>/root/pool\ntest ! -e /root/fail-$1\n",
    )?;
    let pool = || -> Result<String> { Ok(host.run("cat /root/pool")?.stdout.replace('\n', " ")) };
    let hooks = |required: &str| {
        format!(
            "[[hook]]\nevents = [\"drain\"]\nunits = [\"myapp\"]\nrun = [\"/usr/local/bin/pool\", \"drain\"]\n\
             user = \"root\"\n{required}\n[[hook]]\nevents = [\"undrain\"]\nunits = [\"myapp\"]\n\
             run = [\"/usr/local/bin/pool\", \"undrain\"]\nuser = \"root\"\n{required}\n"
        )
    };
    leaves_nothing(host, &["myapp"], |_| {
        configure(host, &hooks("required = true"))?;
        let plan = host.ok("godebugctl attach myapp --dry-run")?;
        ensure!(plan.contains("out of its pool"), "{plan}");
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        ensure!(pool()? == "drain ", "{}", pool()?);
        session.stop(host)?;
        ensure!(pool()? == "drain undrain ", "{}", pool()?);

        // It says no: nothing is attached, and whatever it has half done is undone.
        host.ok("rm /root/pool; touch /root/fail-drain")?;
        let line = "godebugctl --json attach myapp --detach --ticket /tmp/t";
        let why = refused(host.run(line)?, 5, "host")?;
        ensure!(why.contains("was not taken out of its pool"), "{why}");
        ensure!(pool()? == "drain undrain ", "{}", pool()?);
        // One that is not required is only told of.
        configure(host, &hooks(""))?;
        Session::open(host, "myapp", "--ttl 60s")?.stop(host)?;
        host.ok("rm /root/pool /root/fail-drain")?;

        // Nothing is over before the service is back in its pool.
        configure(host, &hooks("required = true"))?;
        host.ok("touch /root/fail-undrain")?;
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        let stopped = host.run(&format!("godebugctl --json stop {}", session.id))?;
        ensure!(stopped.status == 5 && stopped.stdout.contains("undrain"), "{stopped}");
        host.ok("rm /root/fail-undrain")?;
        session.ends(host, "stopped", 2 * SOON)?;

        // Nor without godebugd.
        host.ok("rm /root/pool")?;
        let session = Session::open(host, "myapp", "--ttl 60s")?;
        host.ok("systemctl mask --runtime --now godebugd")?;
        let revoked = host.run(&format!("/usr/lib/godebug/godebug-revoke {}", session.id));
        host.ok("systemctl unmask --runtime godebugd")?;
        ensure!(revoked?.success());
        ensure!(pool()? == "drain undrain ", "{}", pool()?);
        put_back(host)
    })?;
    leaves_nothing_but_new_processes(host, &["myapp"], |_| {
        configure(host, &hooks("required = true"))?;
        ends_while_it_is_drained(host, &pool)?;
        put_back(host)
    })
}

/// The service ends before its drain does: what is last is the undrain.
fn ends_while_it_is_drained(host: &Host, pool: &dyn Fn() -> Result<String>) -> Result<()> {
    host.ok("rm /root/pool; touch /root/slow")?;
    let line = "exec godebugctl --json attach myapp --detach --ticket /tmp/t";
    let mut attach = host.spawn(line)?;
    host.wait_until("the drain has begun", SOON, || Ok(host.path("/root/begun").exists()))?;
    host.ok("systemctl restart myapp")?;
    let why = refused(attach.wait(SOON)?, 4, "target")?;
    ensure!(why.contains("ended"), "{why}");
    host.wait_until("it is back in its pool", SOON, || Ok(pool()? == "undrain "))?;
    let left = host.ok("systemctl list-units --all --no-legend 'godebug-hook@*'")?;
    ensure!(left.is_empty(), "the drain still runs: {left}");
    host.ok("rm /root/pool /root/slow /root/begun").map(drop)
}
