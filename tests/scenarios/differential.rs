//! Every request of both protocols, through the gateway in each mode and on dlv's own socket: what is
//! allowed has the same answer, and what is refused leaves the process as it was. The lists of requests are
//! ours; they are compared with those that the host's dlv has in it, so that a new one shows.

mod dap;
mod rpc;

use std::{
    collections::BTreeSet,
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{Read, Seek, SeekFrom},
    os::unix::net::UnixStream,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Spawned, Wire, jsonrpc::JsonRpcClient, scenario::Scenario};
use serde_json::{Value, json};

use crate::support::{Laptop, Session, is_answered, order};

pub(crate) const ALL: &[Scenario] = &[
    Scenario::new("differential_json_rpc_in_a_step_session", rpc::in_step).on_newest().shared(),
    Scenario::new("differential_json_rpc_in_a_modify_session", rpc::in_modify).on_newest().shared(),
    Scenario::new("differential_json_rpc_of_who_watches", rpc::watching).on_newest().shared(),
    Scenario::new("differential_dap_in_a_step_session", dap::in_step).on_newest().shared(),
    Scenario::new("differential_dap_in_a_modify_session", dap::in_modify).on_newest().shared(),
    Scenario::new("differential_dap_of_who_watches", dap::watching).on_newest().shared(),
];

/// What becomes of a request, by the least that allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Allowed {
    /// Whoever only watches.
    Watching,
    Step,
    Modify,
    Never,
}

/// Words of every refusal.
const REFUSED: &str = "godebug refused this";

/// A service that stands in `priceOf`, with somebody's order waiting there.
struct Stand<'a> {
    host: &'a Host,
    session: Session,
    /// On dlv's own socket.
    direct: JsonRpcClient<UnixStream>,
    breakpoint: i64,
    order: Option<Spawned>,
    pid: u32,
}

impl<'a> Stand<'a> {
    fn open(host: &'a Host, mode: &str) -> Result<Self> {
        let options = format!(
            "--ttl 300s --mode {mode} --pause-budget 200s --from {}",
            host.laptop_address()
        );
        let session = Session::open(host, "myapp", &options)?;
        let mut direct = JsonRpcClient::new(socket(host, &session)?);
        direct.set_api_version()?;
        direct.command("halt")?;
        let breakpoint = direct.create_breakpoint("main.priceOf")?;
        let order = Some(to_the_breakpoint(host, &mut direct, None)?);
        let pid = host.targets("myapp")?.first().context("myapp has no process")?.pid;
        Ok(Self { host, session, direct, breakpoint, order, pid })
    }

    /// Lets the order that stands go, and has the next one stand where it did.
    fn again(&mut self) -> Result<()> {
        let before = self.order.take();
        self.order = Some(to_the_breakpoint(self.host, &mut self.direct, before)?);
        Ok(())
    }

    fn laptop(&self) -> Result<Laptop<'a>> {
        Laptop::connect(self.host, &self.session)
    }

    /// The laptop of somebody who was let in and may watch.
    fn watchers_laptop(&self) -> Result<Laptop<'a>> {
        let share = "--name watcher --observe --ticket /tmp/watcher";
        self.host.ok(&format!("godebugctl share {} {share}", self.session.id))?;
        Laptop::with_ticket(self.host, &self.host.read_file("/tmp/watcher")?)
    }

    /// All that a refused request must leave as it is.
    fn fingerprint(&mut self) -> Result<Vec<(String, String)>> {
        let mut all = vec![("memory".to_owned(), memory(self.pid)?)];
        let mut breakpoints = self.direct.call("ListBreakpoints", json!({"All": true}))?;
        sort(&mut breakpoints);
        all.push(("breakpoints".to_owned(), breakpoints.to_string()));
        let threads = self.direct.call("ListThreads", json!({}))?;
        let threads = threads["Threads"].as_array().context("no threads")?;
        let mut threads: Vec<&Value> = threads.iter().collect();
        threads.sort_by_key(|thread| thread["id"].as_i64());
        for thread in threads {
            let asked = json!({"ThreadID": thread["id"], "IncludeFp": true});
            let registers = self.direct.call("ListRegisters", asked)?["Regs"].to_string();
            all.push((format!("registers of {}", thread["id"]), registers));
        }
        let mut state = self.direct.state()?;
        sort(&mut state);
        all.push(("state".to_owned(), state.to_string()));
        let files =
            self.host.ok("find /tmp /var/tmp -newer /run/godebug/freeze.json -name '*core*'")?;
        all.push(("files".to_owned(), files));
        Ok(all)
    }

    fn is_as_before(&mut self, before: &[(String, String)]) -> Result<()> {
        for (was, is) in before.iter().zip(self.fingerprint()?) {
            ensure!(*was == is, "{} has changed from\n{}\nto\n{}", was.0, was.1, is.1);
        }
        Ok(())
    }
}

/// A connection to dlv itself, past the gateway.
fn socket(host: &Host, session: &Session) -> Result<UnixStream> {
    let path = host.path(&format!("/run/godebug/{}/dlv/socket", session.id));
    UnixStream::connect(path).context("connecting to dlv's own socket")
}

/// From a standing service to the next order, which stands in `priceOf`. The one before is answered first:
/// both together would stand.
fn to_the_breakpoint<W: Wire>(
    host: &Host,
    rpc: &mut JsonRpcClient<W>,
    before: Option<Spawned>,
) -> Result<Spawned> {
    let waiting = rpc.send("Command", json!({"name": "continue"}))?;
    before.map_or(Ok(()), is_answered)?;
    let order = order(host, 8080)?;
    let state = rpc.answer("Command", waiting)?["State"].take();
    ensure!(state["currentThread"]["function"]["name"] == "main.priceOf", "elsewhere: {state}");
    Ok(order)
}

/// Of all memory that the process has, what it can write and what it runs.
fn memory(pid: u32) -> Result<String> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).context("reading its maps")?;
    let mut memory = File::open(format!("/proc/{pid}/mem")).context("opening its memory")?;
    let mut hasher = DefaultHasher::new();
    let mut bytes = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let is_of_kernel = line.contains("[v");
        if is_of_kernel || !(access.starts_with("rw") || access.starts_with("r-x")) {
            continue;
        }
        let (from, to) = range.split_once('-').context("a line of maps")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        memory.seek(SeekFrom::Start(from))?;
        bytes.resize(usize::try_from(to - from)?, 0);
        memory.read_exact(&mut bytes).with_context(|| format!("reading {range}"))?;
        (from, &bytes).hash(&mut hasher);
    }
    let maps: Vec<&str> = maps.lines().collect();
    Ok(format!("{:x} in {} maps", hasher.finish(), maps.len()))
}

/// What dlv's own program names, by a pattern for its functions: the last word of each.
fn in_dlv(
    host: &Host,
    session: &Session,
    pattern: &str,
    cut: [&str; 2],
) -> Result<BTreeSet<String>> {
    let debugger = session.document["debugger"].as_str().context("no debugger")?;
    let found = Command::new("grep")
        .args(["--text", "--only-matching", "--extended-regexp", pattern])
        .arg(host.path(debugger))
        .output()
        .context("looking into dlv")?;
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_once(cut[0]));
    let names = names.map(|(_, name)| name.split(cut[1]).next().unwrap_or_default().to_owned());
    Ok(names.filter(|name| !name.is_empty()).collect())
}

/// Every name that dlv has is in the list.
fn all_are_known(found: &BTreeSet<String>, at_least: usize, known: &[&str]) -> Result<()> {
    ensure!(found.len() >= at_least, "dlv's requests are not found in it: {found:?}");
    let new: Vec<_> = found.iter().filter(|name| !known.contains(&name.as_str())).collect();
    ensure!(new.is_empty(), "dlv has requests that nobody has thought of: {new:?}");
    Ok(())
}

/// An answer without the numbers that are another's each time.
fn without_numbers(mut answer: Value) -> Value {
    blank(&mut answer);
    sort(&mut answer);
    answer
}

fn blank(value: &mut Value) {
    const NUMBERS: [&str; 7] =
        ["id", "seq", "request_seq", "hitCount", "totalHitCount", "VerboseDescr", "addrpid"];
    match value {
        Value::Object(fields) => {
            // dlv shows any of a breakpoint's places for all.
            if fields.get("addrs").and_then(Value::as_array).is_some_and(|all| all.len() > 1) {
                fields.retain(|name, _| {
                    !matches!(name.as_str(), "addr" | "functionName" | "file" | "line")
                });
            }
            for (name, field) in fields {
                match NUMBERS.contains(&name.as_str()) {
                    true => *field = Value::Null,
                    false => blank(field),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(blank),
        // dlv quotes a request's and a breakpoint's number in some of its errors.
        Value::String(text) if text.contains("Seq:") || text.contains("no breakpoint with") => {
            text.retain(|c| !c.is_ascii_digit());
        }
        _ => {}
    }
}

/// The same in every list, whose order is that of Go's maps for some.
fn sort(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(_, field)| sort(field)),
        Value::Array(all) => {
            all.iter_mut().for_each(sort);
            all.sort_by_cached_key(Value::to_string);
        }
        _ => {}
    }
}

fn is_same(what: &str, direct: Value, through: Value) -> Result<()> {
    let (direct, through) = (without_numbers(direct), without_numbers(through));
    ensure!(
        direct == through,
        "{what} has another answer through the gateway:\n{through}\nthan from dlv:\n{direct}"
    );
    Ok(())
}

fn is_refused(what: &str, answer: &Value) -> Result<()> {
    ensure!(answer.to_string().contains(REFUSED), "{what} is not refused: {answer}");
    Ok(())
}
