//! What the gateway adds to each request and to bulk, beside programs that only copy bytes through TLS,
//! and what it takes itself. All of them stand before one and the same replayed dlv, on this machine, in
//! one run, by turns.

mod peers;
mod replay;
mod report;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, dap::DapClient, tls};
use peers::{Kind, Peer};
use replay::{Recording, Replay};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::{Value, json};

pub(crate) use report::text;

/// Of the recorded stop, and of the cheapest call, for each peer.
const CYCLES: usize = 300;
const CALLS: usize = 4000;
const ROUNDS: usize = 10;
const BULKS: usize = 24;
/// Connections that say nothing.
const HALF_OPEN: usize = 10_000;

/// Microseconds, one for each request.
pub(crate) type Times = Vec<f64>;

#[derive(Default)]
pub(crate) struct Measured {
    /// By what was sent, then by who stands before dlv.
    pub(crate) requests: BTreeMap<&'static str, BTreeMap<Kind, Times>>,
    /// Megabytes a second.
    pub(crate) bulk: BTreeMap<&'static str, BTreeMap<Kind, Vec<f64>>>,
    pub(crate) memory_kib: u64,
    pub(crate) memory_after_bulk_kib: u64,
    pub(crate) flooded: Times,
    pub(crate) not_measured: Vec<String>,
}

/// Any of the connections, bare or inside TLS.
trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

pub(crate) fn measure(host: &Host) -> Result<Measured> {
    let recording = record(host)?;
    let replay = Replay::start(recording)?;
    let (peers, not_measured) = peers::start(replay.path())?;
    let mut measured = Measured { not_measured, ..Measured::default() };
    for round in 1..=ROUNDS {
        for peer in &peers {
            stop_cycles(peer, &replay, &mut measured)?;
            calls(peer, &mut measured)?;
        }
        eprintln!("* gateway: round {round} of {ROUNDS}");
    }
    let gateway = peers.iter().find(|peer| peer.kind == Kind::Gateway).context("no gateway")?;
    measured.memory_kib = memory(gateway)?;
    for _ in 0..BULKS {
        for peer in &peers {
            bulk(peer, &mut measured)?;
        }
    }
    measured.memory_after_bulk_kib = memory(gateway)?;
    measured.flooded = flooded(gateway)?;
    Ok(measured)
}

/// What dlv answers to an IDE that stops at a breakpoint and shows all that it can.
fn record(host: &Host) -> Result<Recording> {
    let opened = host.run(&format!(
        "godebugctl --json attach myapp --ttl 60s --from {} --detach --ticket /root/ticket",
        host.laptop_address()
    ))?;
    let id = opened.exits(0)?.json()?["id"].as_str().context("no session")?.to_owned();
    let path = host.path(&format!("/run/godebug/{id}/dlv/socket"));
    let mut ide = DapClient::new(UnixStream::connect(path).context("connecting to dlv")?);
    ide.attach()?;
    ide.set_function_breakpoints(&["main.priceOf"])?;
    ide.configuration_done()?;
    let order = host.spawn("exec curl --silent 'http://127.0.0.1:8080/order?id=3'")?;
    let (thread, _) = ide.wait_for_stop()?;
    let mut recording = Recording::default();
    let threads = ide.ask("threads", json!({}))?;
    recording.add("threads", json!({}), threads);
    let asked = json!({"threadId": thread, "startFrame": 0, "levels": 20});
    let stack = ide.ask("stackTrace", asked.clone())?;
    let frame = stack["body"]["stackFrames"][0]["id"].clone();
    recording.add("stackTrace", asked, stack);
    let asked = json!({ "frameId": frame });
    let scopes = ide.ask("scopes", asked.clone())?;
    let locals = scopes["body"]["scopes"][0]["variablesReference"].clone();
    recording.add("scopes", asked, scopes);
    let asked = json!({ "variablesReference": locals });
    recording.add("variables", asked.clone(), ide.ask("variables", asked)?);
    let asked = json!({"expression": "o.Items[1].Name", "frameId": frame, "context": "hover"});
    recording.add("evaluate", asked.clone(), ide.ask("evaluate", asked)?);
    ide.resume(thread)?;
    drop((ide, order));
    host.run(&format!("godebugctl stop {id}"))?.exits(0)?;
    Ok(recording)
}

/// The recorded requests, one after the other, as an IDE sends them at a stop.
fn stop_cycles(peer: &Peer, replay: &Replay, measured: &mut Measured) -> Result<()> {
    let mut connection = connect(peer)?;
    let mut times = Times::new();
    let mut answer = vec![0; 1 << 20];
    for cycle in 0..CYCLES / ROUNDS {
        for (number, request) in replay.recording().requests().iter().enumerate() {
            let seq = cycle * 100 + number + 1;
            let mut request: Value = request.clone();
            request["seq"] = seq.into();
            let body = request.to_string();
            let message = format!("Content-Length: {}\r\n\r\n{body}", body.len());
            let begun = Instant::now();
            connection.write_all(message.as_bytes())?;
            connection.flush()?;
            read_dap(&mut connection, &mut answer)?;
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
    }
    let of = measured.requests.entry("DAP, a recorded stop of an IDE").or_default();
    of.entry(peer.kind).or_default().extend(times);
    Ok(())
}

/// The shortest call of JSON-RPC, and its answer.
fn calls(peer: &Peer, measured: &mut Measured) -> Result<()> {
    let mut connection = connect(peer)?;
    let times = timed_calls(&mut connection, CALLS / ROUNDS)?;
    let of = measured.requests.entry("JSON-RPC, `State`").or_default();
    of.entry(peer.kind).or_default().extend(times);
    Ok(())
}

fn timed_calls(connection: &mut Box<dyn Connection>, count: usize) -> Result<Times> {
    let mut answer = vec![0; 1 << 16];
    let mut times = Times::new();
    for number in 1..=count {
        let call = format!(
            "{{\"method\":\"RPCServer.State\",\"params\":[{{\"NonBlocking\":true}}],\"id\":{number}}}\n"
        );
        let begun = Instant::now();
        connection.write_all(call.as_bytes())?;
        connection.flush()?;
        read_line(connection, &mut answer)?;
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(times)
}

/// One answer of many megabytes.
fn bulk(peer: &Peer, measured: &mut Measured) -> Result<()> {
    let mut connection = connect(peer)?;
    let mut buffer = vec![0; 1 << 18];
    let call = r#"{"method":"RPCServer.ListTypes","params":[{"Filter":""}],"id":1}"#;
    let begun = Instant::now();
    connection.write_all(format!("{call}\n").as_bytes())?;
    connection.flush()?;
    let mut total = 0;
    while total < replay::BULK {
        let count = connection.read(&mut buffer).context("reading bulk")?;
        ensure!(count > 0, "{} closed after {total} bytes", peer.kind.name());
        total += count;
    }
    let rate = total as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let of = measured.bulk.entry("JSON-RPC, one answer of 24 MB").or_default();
    of.entry(peer.kind).or_default().push(rate);
    Ok(())
}

/// The client that works, while so many others hold a connection open and say nothing.
fn flooded(gateway: &Peer) -> Result<Times> {
    let most = Some(HALF_OPEN as u64 + 1000);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })
        .context("asking for more file descriptors")?;
    let mut works = connect(gateway)?;
    timed_calls(&mut works, 100)?;
    let address = gateway.address.context("the gateway has no address")?;
    let mut idle = Vec::with_capacity(HALF_OPEN);
    for _ in 0..HALF_OPEN {
        idle.push(peers::begin_to_connect(address)?);
    }
    let times = timed_calls(&mut works, 2000)?;
    eprintln!("* gateway: {} connections that say nothing", idle.len());
    drop(idle);
    Ok(times)
}

fn connect(peer: &Peer) -> Result<Box<dyn Connection>> {
    let Some(address) = peer.address else {
        return Ok(Box::new(UnixStream::connect(&peer.socket).context("connecting to dlv")?));
    };
    let stream = TcpStream::connect(address).context("connecting")?;
    stream.set_nodelay(true).context("setting TCP_NODELAY")?;
    let stream = tls::connect(stream, &peer.identity)
        .with_context(|| format!("TLS with {}", peer.kind.name()))?;
    stream.sock.set_read_timeout(Some(Duration::from_secs(30))).context("a time limit")?;
    Ok(Box::new(stream))
}

fn memory(peer: &Peer) -> Result<u64> {
    let _client = connect(peer)?;
    let pid = peer.pid().context("it does not run")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("its status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

fn read_line(connection: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    loop {
        let count = connection.read(&mut buffer[filled..])?;
        ensure!(count > 0, "the connection was closed");
        filled += count;
        if buffer[filled - 1] == b'\n' {
            return Ok(());
        }
    }
}

fn read_dap(connection: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    let mut filled = 0;
    loop {
        let count = connection.read(&mut buffer[filled..])?;
        ensure!(count > 0, "the connection was closed");
        filled += count;
        let Some(end) = buffer[..filled].windows(4).position(|part| part == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&buffer[16..end]).into_owned();
        if filled >= end + 4 + head.trim().parse::<usize>().context("a length")? {
            return Ok(());
        }
    }
}
