//! What images of a service cost it: how long it stands for one, what those who use it notice, and whether
//! thousands of them harm it.

pub(crate) mod many;
pub(crate) mod pauses;

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, jsonrpc::JsonRpcClient};
use serde_json::Value;

use crate::load::{self, CALM, Load, Phases};

const LIMIT: Duration = Duration::from_secs(30);
/// How often somebody looks, one way and the other.
const LOOKS: usize = 100;
const SOCKET: &str = "/run/bench-dlv.sock";

/// One that notices what is done to it (samples/burden).
pub(crate) struct Burden<'a> {
    host: &'a Host,
    pub(crate) unit: String,
    port: u16,
}

impl<'a> Burden<'a> {
    /// Starts one, with these properties of its unit, and waits until it answers.
    pub(crate) fn start(
        host: &'a Host,
        name: &str,
        port: u16,
        properties: &str,
        options: &str,
    ) -> Result<Self> {
        let unit = format!("{name}.service");
        host.ok(&format!(
            "systemd-run --quiet --collect --unit={unit} --property=User=shop {properties} \
             --setenv=GODEBUG=asyncpreemptoff=1 \
             /opt/samples/burden -listen 127.0.0.1:{port} {options}"
        ))?;
        let burden = Self { host, unit, port };
        host.wait_until("it answers", LIMIT * 4, || Ok(burden.counts().is_ok()))?;
        Ok(burden)
    }

    /// What it has counted; its longest stop is counted anew from here on.
    pub(crate) fn counts(&self) -> Result<Value> {
        let answer = self.host.http_from_host(&format!("http://127.0.0.1:{}/counts", self.port))?;
        serde_json::from_str(&answer).with_context(|| format!("not its counts: {answer}"))
    }

    /// The longest time for which it has stood since this was last asked, in milliseconds.
    pub(crate) fn stood(&self) -> Result<f64> {
        self.counts()?["stood_ms"].as_f64().context("no stop was measured")
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.host.ok(&format!("systemctl stop {}", self.unit)).map(drop)
    }
}

/// Takes images of `unit` and gives the pauses that were told of, in milliseconds.
pub(crate) fn snapshots(host: &Host, unit: &str, words: &str, limit: Duration) -> Result<Vec<f64>> {
    let line = format!("godebugctl --json snapshot {unit} {words} --max-pause 2s --stack 1");
    let output = host.run_within(&line, limit)?.exits(0)?;
    let lines = output.stdout.lines().map(|line| serde_json::from_str(line).context("a line"));
    lines
        .map(|line: Result<Value>| line?["pause_ms"].as_f64().context("an image without its pause"))
        .collect()
}

/// Those who use a service of which a hundred images are taken, and where dlv stops at the same line as often.
pub(crate) fn busy(host: &Host) -> Result<Busy> {
    let steady = load::during(host, 0, looked_at)?;
    let full = load::during(host, CROWD, looked_at)?;
    Ok(Busy { steady, full })
}

fn looked_at(host: &Host, begun: Instant) -> Result<Phases> {
    let mut phases = Phases::new();
    let mut enter = |name: &'static str| phases.push((name, begun.elapsed().as_secs_f64()));
    enter("before");
    std::thread::sleep(CALM);
    enter("100 images at a line");
    let words = format!("--at main.priceOf --expr o --count {LOOKS} --timeout 5m");
    let pauses = snapshots(host, "myapp", &words, 10 * LIMIT)?;
    ensure!(pauses.len() == LOOKS, "{} images instead of {LOOKS}", pauses.len());
    enter("between");
    std::thread::sleep(CALM);
    enter("dlv attaches");
    let mut dlv = Dlv::attach(host, "myapp")?;
    enter("100 stops of dlv at it");
    dlv.looks("main.priceOf", "o")?;
    enter("dlv detaches");
    dlv.detach()?;
    enter("after");
    std::thread::sleep(CALM);
    Ok(phases)
}

/// They keep all cores of any machine of ours busy.
const CROWD: usize = 8;

pub(crate) struct Busy {
    /// When there is little to do but what is timed.
    steady: Load,
    full: Load,
}

impl Busy {
    pub(crate) fn text(&self) -> String {
        format!(
            "### Those who use a service that is looked at\n\n\
             The same line and the same variable, {LOOKS} times by `godebugctl snapshot --at` and {LOOKS} times by a \
             breakpoint of bare dlv,\nwhose client asks for the variable and goes on as fast as it can.\n\n{}\n\
             The same at full load: {CROWD} more ask for orders as fast as they are answered.\n\n{}\n\
             ![latency while images are taken, and while dlv stops](images.svg)\n",
            self.steady.table(),
            self.full.table()
        )
    }

    pub(crate) fn svg(&self) -> String {
        self.steady.svg()
    }
}

/// dlv as it is without godebug, as root.
pub(crate) struct Dlv<'a> {
    host: &'a Host,
    process: godebug_tests::Spawned,
    rpc: JsonRpcClient<UnixStream>,
}

impl<'a> Dlv<'a> {
    /// Attaches, and lets the service go on.
    pub(crate) fn attach(host: &'a Host, unit: &str) -> Result<Self> {
        // Its number on the host, whatever namespace it is in.
        let pid = host.ok(&format!("systemctl show --property=MainPID --value {unit}"))?;
        let pid = pid.trim();
        ensure!(pid != "0", "{unit} has no process");
        let process = host.spawn(&format!(
            "rm -f {SOCKET}; exec dlv attach {pid} --headless --listen=unix:{SOCKET} \
             --accept-multiclient --continue --api-version=2"
        ))?;
        let path = host.path(SOCKET);
        let mut connection = None;
        host.wait_until("dlv listens", LIMIT, || {
            connection = UnixStream::connect(&path).ok();
            Ok(connection.is_some())
        })?;
        let mut rpc = JsonRpcClient::new(connection.context("no connection to dlv")?);
        host.wait_until("the target goes on", LIMIT, || Ok(rpc.state()?["Running"] == true))?;
        Ok(Self { host, process, rpc })
    }

    /// Stops at a function so often, and asks for a variable each time.
    fn looks(&mut self, function: &str, variable: &str) -> Result<()> {
        self.rpc.command("halt")?;
        let breakpoint = self.rpc.create_breakpoint(function)?;
        for _ in 0..LOOKS {
            self.rpc.command("continue")?;
            self.rpc.call(
                "Eval",
                serde_json::json!({
                    "Scope": { "GoroutineID": -1, "Frame": 0 },
                    "Expr": variable,
                    "Cfg": { "FollowPointers": true, "MaxVariableRecurse": 1, "MaxStringLen": 64,
                             "MaxArrayValues": 64, "MaxStructFields": -1 },
                }),
            )?;
        }
        self.rpc.clear_breakpoint(breakpoint)
    }

    /// Leaves it running.
    pub(crate) fn detach(mut self) -> Result<()> {
        if self.rpc.state()?["Running"] == true {
            self.rpc.command("halt")?;
        }
        self.rpc.detach(false)?;
        self.process.wait(LIMIT)?;
        self.host.ok(&format!("rm -f {SOCKET}")).map(drop)
    }
}
