//! `--cycles N`: one service under load, debugged again and again, with a breakpoint that every call
//! runs into and none stops at, revoked each time at full speed.

use std::{
    fmt,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use godebug_tests::{
    Host, Snapshot, Spawned, fault_points, jsonrpc::JsonRpcClient, nothing_left, process::Process,
    ticket::Ticket, tls,
};
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::scene::TARGET;

/// How long one step of a cycle may take; more counts as a failure.
const LIMIT: Duration = Duration::from_secs(30);

/// What was counted and measured.
#[derive(Debug, Default)]
pub(crate) struct Cycles {
    pub(crate) done: usize,
    /// The service was another process, or gone.
    deaths: usize,
    unclean: usize,
    /// Traced or stopped afterwards.
    held: usize,
    /// Milliseconds from the request to stop to its answer, which says that all was read back.
    times: Vec<f64>,
    problems: Vec<String>,
}

impl Cycles {
    pub(crate) fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.times.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get((share * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "done": self.done, "deaths": self.deaths, "unclean": self.unclean, "held": self.held,
            "problems": self.problems, "median_ms": self.at(0.5).round(),
            "p99_ms": self.at(0.99).round(), "worst_ms": self.at(1.0).round(),
        })
    }
}

impl fmt::Display for Cycles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cycles: {} deaths or restarts, {} times text not clean, {} times held; from stop to \
             closed {:.0} ms at the median, {:.0} at p99, {:.0} at worst",
            self.done,
            self.deaths,
            self.unclean,
            self.held,
            self.at(0.5),
            self.at(0.99),
            self.at(1.0)
        )?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Goes through `wanted` cycles; one that leaves the service unfit for the next ends the run.
pub(crate) fn run(host: &Host, wanted: usize) -> Result<Cycles> {
    let before = Snapshot::take(host, &[TARGET])?;
    let target = before.processes().first().context("no target")?.clone();
    let _load = load(host)?;
    let mut cycles = Cycles::default();
    for number in 1..=wanted {
        let session = once(host, &mut cycles);
        let is_fit = look(&target, number, &mut cycles)?;
        cycles.done = number;
        if let Err(error) = session {
            cycles.problems.push(format!("cycle {number}: {error:#}"));
            keep_journal(host)?;
            break;
        }
        if !is_fit {
            keep_journal(host)?;
            break;
        }
        if number % 50 == 0 {
            eprintln!("* {cycles}");
        }
    }
    nothing_left(host, &before).or_else(|error| {
        cycles.problems.push(format!("at the end: {error:#}"));
        anyhow::Ok(())
    })?;
    Ok(cycles)
}

/// What the host says of the cycle that ended the run, before the host is gone.
fn keep_journal(host: &Host) -> Result<()> {
    host.write_diagnosis(&fault_points::output().join("journals").join("cycles.log"))
}

/// Clients that call the function all the time, about a thousand times a second and more.
fn load(host: &Host) -> Result<Spawned> {
    host.spawn(
        "for client in 1 2 3 4; do \
           while curl -s -m 20 -o /dev/null 'http://127.0.0.1:8080/hot?n=2000' || true; do :; done & \
         done; wait",
    )
}

fn once(host: &Host, cycles: &mut Cycles) -> Result<()> {
    host.ok(&format!(
        "rm -f /root/ticket; exec godebugctl attach {TARGET} --ttl 60s --detach --ticket /root/ticket"
    ))?;
    let ticket = Ticket::read(host.path("/root/ticket"))?;
    let gateway = ticket.gateway.context("the ticket has no address")?;
    let mut rpc =
        JsonRpcClient::new(tls::connect(host.connect_on_host(gateway)?, &ticket.identity)?);
    rpc.set_api_version()?;
    hot_breakpoint(&mut rpc)?;
    let began = Instant::now();
    let stopped = host.run_within(&format!("exec godebugctl --json stop {}", ticket.id), LIMIT)?;
    let took = began.elapsed();
    let ended = stopped.exits(0)?.json()?;
    ensure!(ended[0]["state"] == "closed", "stopped, but not closed: {ended}");
    cycles.times.push(took.as_secs_f64() * 1000.0);
    Ok(())
}

type Rpc = JsonRpcClient<StreamOwned<ClientConnection, TcpStream>>;

/// Sets it, and lets it be hit for a moment.
fn hot_breakpoint(rpc: &mut Rpc) -> Result<()> {
    rpc.command("halt")?;
    let breakpoint = json!({ "functionName": "main.tiny", "line": -1, "Cond": "n == -1" });
    rpc.call("CreateBreakpoint", json!({ "Breakpoint": breakpoint }))?;
    rpc.send("Command", json!({ "name": "continue" }))?;
    // The hits have to be many, not to be waited for: no event tells of them.
    std::thread::sleep(Duration::from_millis(150));
    Ok(())
}

/// Looks at the target from outside. `false` when it is not the one that it was.
fn look(target: &Process, number: usize, cycles: &mut Cycles) -> Result<bool> {
    if !target.is_alive() {
        cycles.deaths += 1;
        cycles
            .problems
            .push(format!("cycle {number}: the service is not the same process any more"));
        return Ok(false);
    }
    if target.tracer()? != 0 || matches!(target.state()?, 't' | 'T') {
        cycles.held += 1;
        cycles.problems.push(format!("cycle {number}: the service is held"));
    }
    let changed = target.changed_text()?;
    if !changed.is_empty() {
        cycles.unclean += 1;
        cycles.problems.push(format!("cycle {number}: {}", changed.join("; ")));
    }
    if cycles.problems.len() > 20 {
        bail!("too many problems:\n{}", cycles.problems.join("\n"));
    }
    Ok(true)
}
