//! What scenarios have in common: a session as an administrator opens it, the laptop that uses its
//! ticket, and the frame that proves the end.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use godebug_tests::{
    Host, Machine, Output, Snapshot, Spawned, Suite, dap::DapClient, jsonrpc::JsonRpcClient,
    nothing_left, nothing_left_but_targets_ended, scenario::remark, tls::Identity,
};
use serde_json::Value;

/// How long anything may take that should take a moment; a loaded test machine is slow.
pub(crate) const SOON: Duration = Duration::from_secs(15);

/// Runs the steps of a scenario and proves that nothing is left, and that every process of `units` is
/// the one that it was. What a failure needs to be understood comes with it.
pub(crate) fn leaves_nothing(
    host: &Host,
    units: &[&str],
    steps: impl FnOnce(&Snapshot) -> Result<()>,
) -> Result<()> {
    told(host, || {
        let before = Snapshot::take(host, units)?;
        steps(&before)?;
        nothing_left(host, &before)
    })
}

/// The same for a scenario in which the units' processes end.
pub(crate) fn leaves_nothing_but_new_processes(
    host: &Host,
    units: &[&str],
    steps: impl FnOnce(&Snapshot) -> Result<()>,
) -> Result<()> {
    told(host, || {
        let before = Snapshot::take(host, units)?;
        steps(&before)?;
        nothing_left_but_targets_ended(host, &before)?;
        // Those that came after them carry no trace either.
        nothing_left(host, &Snapshot::take(host, units)?)
    })
}

/// Starts sample services.
pub(crate) fn start(host: &Host, units: &str) -> Result<()> {
    make_debuggable(host)?;
    host.ok(&format!("systemctl start {units}")).map(drop)
}

/// bookworm's Go 1.19 is too old for every Delve that can be used, so its services get programs that
/// were built with trixie's.
fn make_debuggable(host: &Host) -> Result<()> {
    const DONE: &str = "/run/samples-of-trixie";
    if host.suite() != Suite::Bookworm || host.path(DONE).exists() {
        return Ok(());
    }
    host.take_samples_of(Suite::Trixie)?;
    host.ok(&format!("systemctl restart myapp && touch {DONE}")).map(drop)
}

fn told(host: &Host, steps: impl FnOnce() -> Result<()>) -> Result<()> {
    make_debuggable(host)?;
    let began = host.ok("date +@%s.%N")?;
    steps().map_err(|error| {
        let state = host.run(&format!(
            "journalctl --no-pager --output=short-precise --since={} -t godebugd -t godebug-revoke \
             -t godebug-gateway -t godebug-dlvctl -t dlv; \
             systemctl list-units --all --no-legend --plain 'godebug*'; \
             find /run/godebug -printf '%M %u:%g %p\\n'; ss -ltnp; nft list ruleset | grep -A20 godebug",
            began.trim()
        ));
        let state = state.map_or_else(|error| format!("{error:#}"), |output| output.stdout);
        error.context(format!("the host afterwards:\n{state}\n"))
    })
}

/// An open, detached session.
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) port: u16,
    pub(crate) document: Value,
}

impl Session {
    /// As an administrator opens it for the laptop.
    pub(crate) fn for_laptop(host: &dyn Machine, unit: &str, ttl: &str) -> Result<Self> {
        Self::open(host, unit, &format!("--ttl {ttl} --from {}", host.laptop_address()))
    }

    /// With other options, detached. Test hosts are busy with each other, so a long freeze is put up
    /// with by everybody who does not ask for a short one; what is refused is for scenarios/forecast.rs.
    pub(crate) fn open(host: &dyn Machine, unit: &str, options: &str) -> Result<Self> {
        let patience = match options.contains("--max-freeze") {
            true => "",
            false => "--max-freeze 1m",
        };
        let ticket = format!("/tmp/ticket-{}", unit.replace(['@', ':', '/'], "-"));
        let output = host.run(&format!(
            "rm -f {ticket}; godebugctl --json attach '{unit}' {options} {patience} --detach --ticket {ticket} \
             --endpoint {}",
            host.address()
        ))?;
        let output = output.exits(0)?;
        let document = output.json()?;
        ensure!(document["state"] == "active", "an open session that is not active: {document}");
        Self::of(document)
    }

    pub(crate) fn of(document: Value) -> Result<Self> {
        let id = text(&document, "id")?;
        let endpoint = text(&document, "endpoint")?;
        let port = endpoint.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        Ok(Self { id, port: port.context("an endpoint without a port")?, document })
    }

    /// The text of its ticket.
    pub(crate) fn ticket(&self, host: &dyn Machine) -> Result<String> {
        host.read_file(&text(&self.document, "ticket")?)
    }

    /// What TLS needs from its ticket.
    pub(crate) fn identity(&self, host: &dyn Machine) -> Result<Identity> {
        let ticket: toml::Table = self.ticket(host)?.parse().context("the ticket is not TOML")?;
        let field = |name: &str| {
            let value = ticket.get(name).and_then(toml::Value::as_str).map(str::to_owned);
            value.with_context(|| format!("the ticket has no {name}"))
        };
        Ok(Identity {
            ca: field("ca")?,
            server_name: field("server_name")?,
            client: Some((field("certificate")?, field("key")?)),
        })
    }

    pub(crate) fn show(&self, host: &dyn Machine) -> Result<Value> {
        host.run(&format!("godebugctl --json show {}", self.id))?.exits(0)?.json()
    }

    /// Waits until an image would be taken at its lines: every thread is traced for that, and for a moment
    /// after each image none is.
    pub(crate) fn is_armed(&self, host: &Host) -> Result<()> {
        let traced =
            format!("grep -q '^TracerPid:[[:space:]]*[1-9]' /proc/{}/status", self.document["pid"]);
        host.wait_until("the line is armed", SOON, || Ok(host.run(&traced)?.status == 0))
    }

    pub(crate) fn stop(&self, host: &dyn Machine) -> Result<()> {
        let ended = host.run(&format!("godebugctl --json stop {}", self.id))?.exits(0)?.json()?;
        ensure!(ended[0]["state"] == "closed", "stopped, but not closed: {ended}");
        is_proved(&ended[0])
    }

    /// Waits until everything of it is gone, then checks why it ended and that this was proved.
    pub(crate) fn ends(&self, host: &dyn Machine, reason: &str, limit: Duration) -> Result<Value> {
        self.is_gone_within(host, limit)?;
        let ended = self.show(host)?;
        ensure!(ended["state"] == "closed", "gone, but not closed: {ended}");
        ensure!(ended["close_reason"] == reason, "wanted the end {reason}: {ended}");
        is_proved(&ended)?;
        Ok(ended)
    }

    /// Waits for the last thing that an end takes away, which is its folder, and then its units.
    pub(crate) fn is_gone_within(&self, host: &dyn Machine, limit: Duration) -> Result<()> {
        let folder = format!("/run/godebug/{}", self.id);
        host.wait_until("the session's folder is gone", limit, &mut || Ok(!host.exists(&folder)?))?;
        let units =
            format!("systemctl list-units --all --no-legend --plain 'godebug-*@{}*'", self.id);
        host.wait_until("the session's units are gone", SOON, &mut || {
            Ok(host.ok(&units)?.is_empty())
        })
    }

    /// What the gateway has let through so far.
    pub(crate) fn traffic(&self, host: &Host) -> Result<Traffic> {
        let answer = host
            .run(&format!(
                "busctl --json=short call org.godebug1 /org/godebug1 org.godebug1.Manager Traffic s {}",
                self.id
            ))?
            .exits(0)?
            .json()?;
        let document = answer["data"][0].as_str().context("no traffic document")?;
        let status: Value = serde_json::from_str(document).context("the traffic document")?;
        let number = |name: &str| status[name].as_u64().with_context(|| format!("no {name}"));
        Ok(Traffic {
            clients: status["clients"].as_array().map_or(0, Vec::len),
            accepted: number("accepted")?,
            refused: number("refused")?,
            bytes: number("bytes_in")? + number("bytes_out")?,
            at_debugger: connections_to_debugger(host, &self.id)?,
        })
    }

    pub(crate) fn unit(&self, kind: &str) -> String {
        format!("godebug-{kind}@{}.service", self.id)
    }
}

/// A gateway's counters, and what the kernel says about dlv's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) clients: usize,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) bytes: u64,
    pub(crate) at_debugger: usize,
}

/// How many connections dlv has taken, as the kernel says.
fn connections_to_debugger(host: &Host, id: &str) -> Result<usize> {
    let socket = format!("/run/godebug/{id}/dlv/socket");
    let here = |sockets: &str, state: &str| {
        sockets.lines().filter(|line| line.contains(&socket) && line.contains(state)).count()
    };
    // A listening socket is listed where it was made, in the empty network of dlv's unit; a connection
    // where its client is, which is the gateway.
    let inside = host.ok(&format!(
        "exec nsenter --net=/proc/$(systemctl show --value -p MainPID godebug-dlv@{id})/ns/net \
         ss --no-header --unix --all"
    ))?;
    ensure!(here(&inside, "LISTEN") == 1, "dlv does not listen on {socket}:\n{inside}");
    let outside = host.ok("ss --no-header --unix --all")?;
    Ok(here(&inside, "ESTAB") + here(&outside, "ESTAB"))
}

/// A closed session tells what was read back; everything of it is gone.
pub(crate) fn is_proved(session: &Value) -> Result<()> {
    let proof = session["proof"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(!proof.is_empty(), "closed without a proof: {session}");
    ensure!(proof.iter().all(|one| one["gone"] == true), "closed, but not all is gone: {session}");
    ensure!(session["stuck"].as_array().is_some_and(Vec::is_empty), "closed and stuck: {session}");
    Ok(())
}

/// Who sits at the laptop, with a ticket in use.
pub(crate) struct Laptop<'a> {
    host: &'a dyn Machine,
    pub(crate) tunnel: Spawned,
    pub(crate) address: SocketAddr,
    _folder: TicketFile,
}

/// dlv's client, and the files that it reads.
pub(crate) struct DlvConnect {
    pub(crate) dlv: Spawned,
    _script: tempfile::NamedTempFile,
    _settings: tempfile::TempDir,
}

impl<'a> Laptop<'a> {
    pub(crate) fn connect(host: &'a dyn Machine, session: &Session) -> Result<Self> {
        Self::with_ticket(host, &session.ticket(host)?)
    }

    pub(crate) fn with_ticket(host: &'a dyn Machine, ticket: &str) -> Result<Self> {
        let file = TicketFile::new(ticket, 0o600)?;
        let mut tunnel = host.laptop_spawn(&connect_line(host, &file))?;
        let line = tunnel.wait_for_line("\"listen\"", SOON)?;
        let address = listen_address(&line)?;
        Ok(Self { host, tunnel, address, _folder: file })
    }

    pub(crate) fn wire(&self) -> Result<TcpStream> {
        self.host.connect_on_laptop(self.address)
    }

    pub(crate) fn dap(&self) -> Result<DapClient<TcpStream>> {
        Ok(DapClient::new(self.wire()?))
    }

    /// dlv's own client, of the version that the host has, with these commands.
    pub(crate) fn dlv_connect(&self, commands: &str) -> Result<DlvConnect> {
        let script = tempfile::NamedTempFile::new().context("making dlv's script")?;
        std::fs::write(script.path(), commands).context("writing dlv's script")?;
        let settings = tempfile::tempdir().context("making a folder for dlv's settings")?;
        let dlv = self.host.laptop_spawn(&format!(
            "XDG_CONFIG_HOME={settings} exec {dlv} connect {address} --init {script} \
             </dev/null 2>&1",
            settings = settings.path().display(),
            dlv = self.host.program("/usr/bin/dlv").display(),
            address = self.address,
            script = script.path().display(),
        ))?;
        Ok(DlvConnect { dlv, _script: script, _settings: settings })
    }

    pub(crate) fn rpc(&self) -> Result<JsonRpcClient<TcpStream>> {
        let mut rpc = JsonRpcClient::new(self.wire()?);
        rpc.set_api_version()?;
        Ok(rpc)
    }
}

/// A client whose connection the tunnel gives up sees a reset, whatever the reason is; the tunnel says it.
impl Drop for Laptop<'_> {
    fn drop(&mut self) {
        remark(format!("the tunnel at {} says: {}", self.address, self.tunnel.stderr().trim()));
    }
}

/// `godebugctl connect`, run on the laptop with the host's own build of it.
pub(crate) fn connect_line(host: &dyn Machine, ticket: &TicketFile) -> String {
    let program = host.program("/usr/bin/godebugctl");
    format!("exec {} --json connect {}", program.display(), ticket.path.display())
}

/// The local port in the document of `attach` or `connect`.
pub(crate) fn listen_address(line: &str) -> Result<SocketAddr> {
    let document: Value = serde_json::from_str(line).context("not one JSON document")?;
    text(&document, "listen")?.parse().context("the local port's address")
}

/// A ticket as copied to the laptop.
pub(crate) struct TicketFile {
    pub(crate) path: PathBuf,
    _folder: tempfile::TempDir,
}

impl TicketFile {
    pub(crate) fn new(content: &str, mode: u32) -> Result<Self> {
        use std::io::Write;
        let folder = tempfile::tempdir().context("making a folder on the laptop")?;
        let path = folder.path().join("ticket");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&path)?;
        file.write_all(content.as_bytes()).context("writing a ticket on the laptop")?;
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        Ok(Self { path, _folder: folder })
    }
}

/// Somebody's request to the shop, which stops at a breakpoint in `priceOf`.
pub(crate) fn order(host: &Host, port: u16) -> Result<Spawned> {
    host.spawn(&format!("exec curl --silent --max-time 30 'http://127.0.0.1:{port}/order?id=3'"))
}

pub(crate) fn is_answered(mut order: Spawned) -> Result<()> {
    let answer = order.wait(SOON)?.ok()?;
    ensure!(answer.contains(r#""cents":1297"#), "another answer than without a debugger: {answer}");
    Ok(())
}

/// A line of the shop's source, by what it holds.
pub(crate) fn line_of(code: &str) -> Result<u32> {
    let source = include_str!("../samples/shop/main.go");
    let index = source.lines().position(|line| line.contains(code));
    let index = index.with_context(|| format!("shop has no line with {code:?}"))?;
    u32::try_from(index + 1).context("a long source")
}

/// Reads until the other side ends it; gives what came. Staying silent is an error.
pub(crate) fn read_to_end(mut stream: impl Read) -> Result<Vec<u8>> {
    let (mut all, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(all),
            Ok(count) => all.extend_from_slice(&chunk[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                bail!("the connection was left open and silent")
            }
            // A reset, a TLS alert, an end without close_notify: all are ends.
            Err(_) => return Ok(all),
        }
    }
}

pub(crate) fn text(document: &Value, field: &str) -> Result<String> {
    let value = document[field].as_str().map(str::to_owned);
    value.with_context(|| format!("no {field} in {document}"))
}

/// A refused command: its exit status, and an error document whose message and remedy can be read.
pub(crate) fn refused(output: Output, status: i32, code: &str) -> Result<String> {
    let output = output.exits(status)?;
    let document = output.json()?;
    let error = &document["error"];
    ensure!(error["code"] == code, "wanted the code {code}: {output}");
    let message = text(error, "message")?;
    ensure!(!message.is_empty() && message.len() < 2000, "a message of no use: {output}");
    ensure!(output.stderr.contains("error:"), "nothing for a person: {output}");
    Ok(message + "\n" + &text(error, "remedy")?)
}
