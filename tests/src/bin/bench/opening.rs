//! How long it takes from the command to a debugger that answers: with godebug in its kinds, and
//! with bare dlv, in turns on one and the same target.

use std::{
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, jsonrpc::JsonRpcClient};

use crate::{figures::Series, journal::Entries, now};

const LIMIT: Duration = Duration::from_secs(60);
const SOCKET: &str = "/run/bare-dlv.sock";

/// What is measured in each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `dlv attach`, to its first State answer.
    Bare,
    /// For a laptop: with fence and firewalld.
    Laptop,
    /// The same, with godebugd started by the request.
    LaptopCold,
    /// For this host only: no firewall.
    Here,
    HereCold,
    /// `true`, entered in the same way: what the measuring itself costs.
    Nothing,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Bare, Self::Laptop, Self::Here, Self::LaptopCold, Self::HereCold, Self::Nothing];

    fn is_cold(self) -> bool {
        matches!(self, Self::LaptopCold | Self::HereCold)
    }
}

/// What the rounds gave.
#[derive(Default)]
pub(crate) struct Openings {
    times: [Series; Kind::ALL.len()],
    pub(crate) parts: Parts,
}

/// Where the time of an opening for a laptop with a warm godebugd goes.
#[derive(Default)]
pub(crate) struct Parts {
    pub(crate) to_allowed: Series,
    pub(crate) to_dlv_starting: Series,
    pub(crate) dlv: Series,
    pub(crate) to_active: Series,
    pub(crate) to_exit: Series,
}

impl Openings {
    pub(crate) fn of(&self, kind: Kind) -> &Series {
        &self.times[kind as usize]
    }
}

/// Measures each kind once a round, beginning with another in each.
pub(crate) fn measure(host: &Host, target: u32, rounds: usize) -> Result<Openings> {
    let mut openings = Openings::default();
    for kind in Kind::ALL {
        // Once for nothing: the page cache and godebugd's list of debuggers are warm after it.
        once(host, target, kind, &mut Parts::default())?;
    }
    for round in 0..rounds {
        for turn in 0..Kind::ALL.len() {
            let kind = Kind::ALL[(round + turn) % Kind::ALL.len()];
            let time = once(host, target, kind, &mut openings.parts)
                .with_context(|| format!("measuring {kind:?} in round {}", round + 1))?;
            openings.times[kind as usize].add(time);
        }
        eprintln!("* opening: round {} of {rounds}", round + 1);
    }
    Ok(openings)
}

/// Measures one kind.
pub(crate) fn once(host: &Host, target: u32, kind: Kind, parts: &mut Parts) -> Result<Duration> {
    let laptop = format!("--from {}", host.laptop_address());
    match kind {
        Kind::Bare => bare(host, target),
        Kind::Laptop => session(host, kind, &laptop, parts),
        Kind::LaptopCold => session(host, kind, &laptop, &mut Parts::default()),
        Kind::Here | Kind::HereCold => session(host, kind, "", &mut Parts::default()),
        Kind::Nothing => {
            let began = Instant::now();
            host.ok("exec true")?;
            Ok(began.elapsed())
        }
    }
}

/// From the command to its end, which is when the session is active and the ticket is written.
fn session(host: &Host, kind: Kind, options: &str, parts: &mut Parts) -> Result<Duration> {
    // Either a running godebugd, or none.
    host.ok(if kind.is_cold() { "systemctl stop godebugd" } else { "godebugctl list" })?;
    let command =
        format!("exec godebugctl --json attach myapp --detach --ticket /root/ticket {options}");
    let (began_at, began) = (now(), Instant::now());
    let mut attach = host.spawn(&command)?;
    let output = attach.wait(LIMIT)?;
    let (took, ended_at) = (began.elapsed(), now());
    ensure!(output.success(), "{output}");
    let session = output.json()?;
    let id = session["id"].as_str().context("a session without an ID")?;
    host.ok(&format!("godebugctl stop {id}"))?;
    parts.add(began_at, ended_at, &Entries::of(host, id)?)?;
    Ok(took)
}

impl Parts {
    fn add(&mut self, began: f64, ended: f64, entries: &Entries) -> Result<()> {
        let (allowed, active) = (entries.allowed()?, entries.active()?);
        let (starting, started) = (entries.dlv_starting()?, entries.dlv_started()?);
        self.to_allowed.add_milliseconds(allowed - began);
        self.to_dlv_starting.add_milliseconds(starting - allowed);
        self.dlv.add_milliseconds(started - starting);
        self.to_active.add_milliseconds(active - started);
        self.to_exit.add_milliseconds(ended - active);
        Ok(())
    }
}

/// The same with what there is without godebug, as root and without any bound.
fn bare(host: &Host, target: u32) -> Result<Duration> {
    let command = format!(
        "rm -f {SOCKET}; exec dlv attach {target} --headless --listen=unix:{SOCKET} \
         --accept-multiclient --continue --api-version=2"
    );
    let began = Instant::now();
    let mut dlv = host.spawn(&command)?;
    let path = host.path(SOCKET);
    let mut connection = None;
    // dlv makes its socket first and answers when it has attached, so this pause costs nothing.
    host.wait_until("dlv listens", LIMIT, || {
        connection = UnixStream::connect(&path).ok();
        Ok(connection.is_some())
    })?;
    let mut rpc = JsonRpcClient::new(connection.context("no connection to dlv")?);
    rpc.state()?;
    let took = began.elapsed();
    host.wait_until("the target goes on", LIMIT, || Ok(rpc.state()?["Running"] == true))?;
    rpc.command("halt")?;
    rpc.detach(false)?;
    dlv.wait(LIMIT)?;
    Ok(took)
}
