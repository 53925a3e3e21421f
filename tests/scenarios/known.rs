//! Well-known services as Debian packages them, under their own units, built from Debian's sources by
//! `tests/known`, unchanged but for stripping. None where that has not been run.

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, scenario::Scenario};
use std::path::PathBuf;

use crate::support::{Laptop, SOON, Session, leaves_nothing};

/// Set by tests/known: the folder with the packages.
const FOLDER: &str = "GODEBUG_KNOWN";

pub(crate) fn all() -> Vec<Scenario> {
    match std::env::var_os(FOLDER) {
        Some(_) => vec![
            Scenario::new("known::nats_server", |host| debugged(host, &NATS)),
            Scenario::new("known::etcd", |host| debugged(host, &ETCD)),
            Scenario::new("known::syncthing", |host| debugged(host, &SYNCTHING)),
        ],
        None => Vec::new(),
    }
}

struct Service {
    package: &'static str,
    unit: &'static str,
    /// More options of `attach`.
    options: &'static str,
    /// Says that it serves.
    ready: &'static str,
    /// What somebody asks of it, and a part of the answer.
    ask: &'static str,
    answer: &'static str,
    /// Where that stops.
    function: &'static str,
    /// What is seen there.
    expression: &'static str,
    value: &'static str,
}

const NATS: Service = Service {
    package: "nats-server",
    unit: "nats-server",
    options: "",
    ready: "ss -ltn | grep -q :4222",
    ask: "bash -c 'exec 3<>/dev/tcp/127.0.0.1/4222; printf \"CONNECT {}\\r\\nPING\\r\\n\" >&3; grep -m 1 PONG <&3'",
    answer: "PONG",
    function: "github.com/nats-io/nats-server/server.(*client).processPing",
    expression: "c.kind",
    value: "0",
};

const ETCD: Service = Service {
    package: "etcd-server",
    unit: "etcd",
    options: "",
    ready: "curl --silent --fail http://127.0.0.1:2379/health",
    ask: "curl --silent --max-time 60 http://127.0.0.1:2379/version",
    answer: "etcdserver",
    function: "net/http.serverHandler.ServeHTTP",
    expression: "req.URL.Path",
    value: "/version",
};

const SYNCTHING: Service = Service {
    package: "syncthing",
    unit: "syncthing@alice",
    // Its main process watches over the one that works.
    options: "--pid $(pgrep -P $(systemctl show --value -p MainPID syncthing@alice))",
    ready: "curl --silent --fail http://127.0.0.1:8384/rest/noauth/health",
    ask: "curl --silent --max-time 60 http://127.0.0.1:8384/rest/noauth/health",
    answer: "OK",
    function: "net/http.serverHandler.ServeHTTP",
    expression: "req.URL.Path",
    value: "health",
};

fn debugged(host: &Host, service: &Service) -> Result<()> {
    let package = PathBuf::from(std::env::var_os(FOLDER).context("no packages")?)
        .join(format!("{}.deb", service.package));
    host.write_file("/root/known.deb", std::fs::read(&package).context("reading the package")?)?;
    // Of what it depends on nothing is needed for its own process.
    host.ok("mkdir -p /var/lib/dpkg/info && dpkg --install --force-depends /root/known.deb")?;
    let unit = service.unit;
    host.ok(&format!("systemctl daemon-reload; systemctl restart {unit}"))?;
    host.wait_until("it serves", SOON * 2, || Ok(host.run(service.ready)?.success()))?;
    let inspected = host.run(&format!("godebugctl --json inspect {unit}"))?.exits(0)?.json()?;
    ensure!(inspected["others"].is_array() != service.options.is_empty(), "{inspected}");
    leaves_nothing(host, &[unit], |_| {
        let options =
            format!("--ttl 2m --yes --from {} {}", host.laptop_address(), service.options);
        let session = Session::open(host, unit, &options)?;
        eprintln!("     {unit} froze for {} ms", session.document["freeze_ms"]);
        let laptop = Laptop::connect(host, &session)?;
        let mut ide = laptop.dap()?;
        ide.attach()?;
        ide.set_function_breakpoints(&[service.function])?;
        ide.configuration_done()?;
        let mut asked = host.spawn(service.ask)?;
        let (thread, reason) = ide.wait_for_stop()?;
        ensure!(reason.contains("breakpoint"), "stopped for {reason}");
        let stack = ide.stack_trace(thread)?;
        let frame = stack[0]["id"].as_i64().context("a frame without a number")?;
        let value = ide.evaluate(frame, service.expression)?;
        ensure!(value.contains(service.value), "{}: {value}", service.expression);
        ide.set_function_breakpoints(&[])?;
        ide.resume(thread)?;
        let answer = asked.wait(SOON)?.exits(0)?;
        ensure!(answer.stdout.contains(service.answer), "{answer}");
        ide.disconnect(false)?;
        session.stop(host)
    })?;
    host.ok(service.ready).map(drop)
}
