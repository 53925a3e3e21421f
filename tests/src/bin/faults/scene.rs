//! One session on one host while something is being broken: opened from the laptop, with a client and
//! its breakpoint, held at a point, let go.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use godebug_tests::{
    Host, Snapshot, Spawned, dap::DapClient, fault_points::FOLDER, process::Process,
    ticket::Ticket, tls,
};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{ClientConnection, StreamOwned};
use serde_json::{Value, json};

use crate::{
    points::Point,
    setup::{POOL, ready},
};

/// The service that is debugged, but where an image is taken of the other.
pub(crate) const TARGET: &str = "myapp";
/// What a script has started, so that no copy of it can be made.
pub(crate) const SCRIPTED: Service = Service { unit: "scripted", port: 8281 };
pub(crate) const MYAPP: Service = Service { unit: TARGET, port: 8080 };
pub(crate) const TARGETS: [&str; 2] = [TARGET, SCRIPTED.unit];

/// A service of the host's, and where it serves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    pub(crate) unit: &'static str,
    pub(crate) port: u16,
}
/// How long anything may take that should take a moment, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
const AUDIT: &str = "/var/log/godebug/audit.jsonl";

/// How long a session may live: long enough for what is done in it and no longer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ttl {
    /// One second.
    Least,
    /// Nothing is done in it.
    Short,
    /// A client connects.
    Middle,
    Long,
}

impl Ttl {
    fn text(self) -> &'static str {
        match self {
            Self::Least => "1s",
            Self::Short => "3s",
            Self::Middle => "6s",
            Self::Long => "60s",
        }
    }
}

type Dap = DapClient<StreamOwned<ClientConnection, TcpStream>>;

/// A debugger's client at work: connected, with a breakpoint set, the target running.
pub(crate) struct Client {
    pub(crate) dap: Dap,
    pub(crate) socket: TcpStream,
}

pub(crate) struct Scene<'a> {
    pub(crate) host: &'a Host,
    pub(crate) before: Snapshot,
    /// The one that is debugged or looked at, and that faults of the service strike.
    pub(crate) service: Service,
    pub(crate) client: Option<Client>,
    /// By an administrator, who has not thawed it yet.
    pub(crate) is_frozen: bool,
    /// Commands that need not have ended: `attach`, `stop` and the like.
    pub(crate) running: Vec<Spawned>,
    /// Those who use the service meanwhile.
    load: Option<Spawned>,
    /// The end of the session as its ledger last said, in milliseconds since the epoch.
    pub(crate) deadline: Option<f64>,
    /// How long the audit log was before.
    audit: u64,
}

/// Milliseconds since the epoch, on the clock that the host has too.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64() * 1000.0
}

impl<'a> Scene<'a> {
    pub(crate) fn new(host: &'a Host) -> Result<Self> {
        // What systemd has counted of earlier cells must not keep godebugd from starting.
        host.ok(&format!(
            "systemctl reset-failed; cd {FOLDER} && rm -f arm fired go trace; rm -f /root/ticket"
        ))?;
        let before = Snapshot::take(host, &TARGETS)?;
        let audit = fs::metadata(host.path(AUDIT)).map_or(0, |file| file.len());
        Ok(Self {
            host,
            before,
            service: MYAPP,
            client: None,
            is_frozen: false,
            running: Vec::new(),
            load: None,
            deadline: None,
            audit,
        })
    }

    /// Has `point` fire when it is reached next.
    pub(crate) fn arm(&self, point: &Point, action: &str) -> Result<()> {
        let folder = self.host.path(FOLDER);
        // Renamed, so that nobody reads half of it.
        fs::write(folder.join("new"), format!("{} {action}\n", point.traced()))?;
        fs::rename(folder.join("new"), folder.join("arm")).context("arming a point")
    }

    /// Waits until the point has fired. `false` when it is clear that it will not be reached.
    pub(crate) fn has_fired(&mut self, limit: Duration) -> Result<bool> {
        let fired = self.host.path(FOLDER).join("fired");
        let deadline = Instant::now() + limit;
        while !fired.exists() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    /// Lets a program go on that is held at a point.
    pub(crate) fn release(&self) -> Result<()> {
        fs::write(self.host.path(FOLDER).join("go"), "").context("releasing a point")
    }

    /// Begins to open a session for the laptop.
    pub(crate) fn open(&mut self, ttl: Ttl) -> Result<()> {
        self.ask_for("attach", ttl)
    }

    /// Begins to open one of mode observe.
    pub(crate) fn observe(&mut self, ttl: Ttl) -> Result<()> {
        self.ask_for("attach --mode observe --max-pause 2s", ttl)
    }

    /// Begins to start the service again, under a debugger that holds it at main.
    pub(crate) fn exec(&mut self, ttl: Ttl) -> Result<()> {
        self.ask_for("exec", ttl)
    }

    fn ask_for(&mut self, command: &str, ttl: Ttl) -> Result<()> {
        let host = self.host;
        let asking = host.spawn(&format!(
            "exec godebugctl --json {command} {TARGET} --ttl {} --max-freeze 1m --from {} --endpoint {} --detach --ticket /root/ticket",
            ttl.text(), host.laptop_address(), host.address()
        ))?;
        self.running.push(asking);
        Ok(())
    }

    /// Begins to look at a service that is used: one image at a line.
    pub(crate) fn look(&mut self, service: Service) -> Result<()> {
        self.service = service;
        self.is_used(service)?;
        self.running.push(self.host.spawn(&format!(
            "exec godebugctl --json snapshot {} --at main.priceOf --expr o.Customer --timeout 4s \
             --max-pause 2s",
            service.unit
        ))?);
        Ok(())
    }

    /// From now on somebody uses the service.
    pub(crate) fn is_used(&mut self, service: Service) -> Result<()> {
        let order =
            format!("curl -s -m 20 -o /dev/null 'http://127.0.0.1:{}/order?id=3'", service.port);
        self.load = Some(self.host.spawn(&format!("while {order} || true; do sleep 0.05; done"))?);
        Ok(())
    }

    /// Opens one, connects a client to it and sets a breakpoint in a function that is called.
    pub(crate) fn open_and_connect(&mut self, ttl: Ttl) -> Result<()> {
        self.open(ttl)?;
        self.connect()?;
        self.client()?.configuration_done()
    }

    /// The same with one of mode observe, in which nothing waits at the line yet.
    pub(crate) fn observe_and_connect(&mut self, ttl: Ttl) -> Result<()> {
        self.observe(ttl)?;
        self.connect()
    }

    /// From now on images are taken at its line, and somebody uses the service. Not waited for: what takes them may
    /// be killed meanwhile.
    pub(crate) fn watch_its_line(&mut self) -> Result<()> {
        self.client()?.send("configurationDone", json!({}))?;
        self.is_used(MYAPP)
    }

    pub(crate) fn client(&mut self) -> Result<&mut Dap> {
        self.client.as_mut().map(|client| &mut client.dap).context("there is no client")
    }

    fn connect(&mut self) -> Result<()> {
        let mut attach = self.running.pop().context("nothing was opened")?;
        attach.wait(SOON)?.ok()?;
        self.note_deadline();
        let ticket = Ticket::read(self.host.path("/root/ticket"))?;
        let port = ticket.gateway.context("the ticket has no address")?.port();
        let socket = self.host.connect_from_laptop(port)?;
        let other = socket.try_clone().context("doubling a socket")?;
        let mut dap = DapClient::new(tls::connect(socket, &ticket.identity)?);
        dap.attach()?;
        dap.set_function_breakpoints(&["main.priceOf"])?;
        self.client = Some(Client { dap, socket: other });
        Ok(())
    }

    /// Begins to extend it.
    pub(crate) fn extend(&self) -> Result<Spawned> {
        let id = self.sessions().pop().context("there is no session to extend")?;
        self.host.spawn(&format!("exec godebugctl --json extend {id} --ttl {}", Ttl::Middle.text()))
    }

    /// Begins to stop it.
    pub(crate) fn stop(&self) -> Result<Spawned> {
        self.host.spawn("exec godebugctl --json stop --all")
    }

    /// Leaves the session to the dead man.
    pub(crate) fn end_godebugd(&self) -> Result<()> {
        self.host
            .ok("systemctl mask --runtime godebugd && systemctl kill --signal=KILL godebugd")
            .map(drop)
    }

    pub(crate) fn let_godebugd_come_back(&self) -> Result<()> {
        self.host.ok("systemctl unmask --runtime godebugd && systemctl reset-failed").map(drop)
    }

    /// The sessions that have a folder.
    pub(crate) fn sessions(&self) -> Vec<String> {
        let entries = fs::read_dir(self.host.path("/run/godebug")).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }

    /// Keeps what the ledger says now about the end.
    pub(crate) fn note_deadline(&mut self) {
        for id in self.sessions() {
            let path = self.host.path(&format!("/run/godebug/{id}/ledger"));
            let ledger = fs::read_to_string(path).unwrap_or_default();
            let records =
                ledger.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let last =
                records.filter_map(|record| record["deadline"]["wall_ms"].as_f64()).next_back();
            self.deadline = last.or(self.deadline);
        }
    }

    /// Whether a session has nothing, not yet or no more: no unit, no rule, and a ledger that says so.
    pub(crate) fn has_only_a_folder(&self) -> Result<bool> {
        let Some(id) = self.sessions().pop() else { return Ok(false) };
        let path = self.host.path(&format!("/run/godebug/{id}/ledger"));
        // Without a ledger, or with half a first line, nothing has begun.
        let ledger = fs::read_to_string(path).unwrap_or_default();
        if has_taken(&ledger) {
            return Ok(false);
        }
        let units =
            self.host.ok(&format!("systemctl list-units --all --plain --no-legend '*{id}*'"))?;
        let rules = self.host.run("nft list ruleset | grep -e godebug_ -e 'dport 23[46]'")?;
        Ok(units.trim().is_empty() && !rules.success())
    }

    /// The processes of a part of the session: `dlv`, `gateway`, `guard`; or of `godebugd`.
    pub(crate) fn part(&self, part: &str) -> Vec<Process> {
        let unit = match part {
            "godebugd" => "/godebugd.service".to_owned(),
            part => format!("/godebug-{part}@"),
        };
        let is_of = |process: &Process| {
            let path = format!("/proc/{}/cgroup", process.pid);
            fs::read_to_string(path).is_ok_and(|cgroup| cgroup.contains(&unit))
        };
        self.host.processes().into_iter().filter(is_of).collect()
    }

    /// Signals every process of a part. `false` when there is none.
    pub(crate) fn signal(&self, part: &str, signal: Signal) -> Result<bool> {
        // What systemd has just started is no process of ours before it executes its program: systemd itself waits for that
        // (vfork), and all of the host would stand with it.
        let is_systemds = |process: &Process| {
            process.name.starts_with('(') || process.name.starts_with("systemd")
        };
        self.host.wait_until("what is being started runs its program", SOON, || {
            Ok(!self.part(part).iter().any(is_systemds))
        })?;
        let processes = self.part(part);
        for process in &processes {
            send(process, signal)?;
        }
        Ok(!processes.is_empty())
    }

    /// Whether somebody holds the service: as it was before, or whichever process it is by now.
    pub(crate) fn is_held(&self, may_be_new: bool) -> Result<bool> {
        // One that does not run is not held.
        let new = may_be_new.then(|| self.host.targets(TARGET).unwrap_or_default());
        let now = match &new {
            Some(new) => new.as_slice(),
            None => self.before.processes(),
        };
        for process in now.iter().filter(|process| process.is_alive()) {
            if process.tracer()? != 0 || matches!(process.state()?, 't' | 'T') {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the host's log has about the sessions since this scene began.
    pub(crate) fn audit(&self) -> Result<Vec<Value>> {
        let log = fs::read(self.host.path(AUDIT)).unwrap_or_default();
        let new = log.get(usize::try_from(self.audit)?..).unwrap_or_default();
        let lines = String::from_utf8_lossy(new);
        Ok(lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Every session that was allowed must have an end in the log, and be closed.
    pub(crate) fn all_are_closed(&self) -> Result<()> {
        let entries = self.audit()?;
        for opening in entries.iter().filter(|entry| entry["event"] == "opening") {
            let ends = entries.iter().filter(|entry| entry["session"] == opening["session"]);
            let mut last =
                ends.filter(|entry| entry["event"] == "closed" || entry["event"] == "stuck");
            match last.next_back() {
                Some(end) if end["event"] == "closed" => {}
                Some(end) => bail!("the audit log's last word is: {}", end["message"]),
                None => bail!("the audit log does not say that {} ended", opening["session"]),
            }
        }
        Ok(())
    }

    /// Somebody's request is answered as without a debugger.
    pub(crate) fn target_answers(&self) -> Result<()> {
        for Service { unit, port } in [MYAPP, SCRIPTED] {
            let url = format!("http://127.0.0.1:{port}/order?id=3");
            let answer = self.host.http_from_host(&url)?;
            ensure!(answer.contains(r#""cents":1297"#), "another answer of {unit}: {answer}");
        }
        Ok(())
    }

    /// Every undrain hook has been run that had to be.
    pub(crate) fn is_in_its_pool(&self) -> Result<()> {
        let out = fs::read_dir(self.host.path(POOL)).map_or(0, Iterator::count);
        ensure!(out == 0, "{} is left out of its pool", TARGET);
        Ok(())
    }

    /// After a reboot.
    pub(crate) fn is_up_again(&mut self) -> Result<()> {
        self.client = None;
        self.load = None;
        self.running.clear();
        self.deadline = None;
        ready(self.host)
    }
}

pub(crate) fn send(process: &Process, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(process.pid)?).context("a process without a number")?;
    match kill_process(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("signalling {}", process.name)),
    }
}

/// Whether a step was taken that is not said to be undone, beside dead men and launchers, who are units that
/// can be seen, and end by themselves.
fn has_taken(ledger: &str) -> bool {
    const BY_THEMSELVES: [Option<&str>; 2] = [Some("dead-man"), Some("launcher")];
    let (mut taken, mut own) = (BTreeSet::new(), BTreeSet::new());
    for record in ledger.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let step = record["step"].as_u64();
        let _ = match record["record"].as_str() {
            Some("intent") if BY_THEMSELVES.contains(&record["grant"]["kind"].as_str()) => {
                own.insert(step)
            }
            Some("done") => !own.contains(&step) && taken.insert(step),
            Some("undone") => taken.remove(&record["step"].as_u64()),
            _ => false,
        };
    }
    !taken.is_empty()
}
