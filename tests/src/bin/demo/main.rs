//! `make demo`: one debugging session as people have it, from a healthy service to the proof that
//! nothing is left of it. What is typed here is really run; whatever goes wrong fails the demonstration.

mod story;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use godebug_tests::{
    Host, Port, Snapshot, Spawned, Suite, Wire, dap::DapClient, nothing_left, ticket::Ticket, tls,
};
use serde_json::Value;
use story::{Place, Story};

const TTL: Duration = Duration::from_secs(15);
/// What may take a moment, on a loaded machine.
const SOON: Duration = Duration::from_secs(15);
const SOURCE: &str = "/opt/samples/src/shop/main.go";
/// The statements to stop at: the optimised program still has the order at the first, and has the
/// sum at the second.
const STATEMENTS: [&str; 2] = ["discounts := map", "total -= total *"];
const ORDER: &str = "http://127.0.0.1:8080/order?id=3";
const LOCAL_PORT: u16 = 2345;
/// `MESSAGE_ID` of the journal entry that says a session has ended and all was read back.
const CLOSED: &str = "5d9d1a52b7f94c1a9b3e1f0a6c3e5b05";

fn main() -> ExitCode {
    let mut story = Story::begin();
    match tell(&mut story) {
        Ok(()) => {
            story.ends();
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!();
            story.bad(&format!("the demonstration failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn tell(story: &mut Story) -> Result<()> {
    let host = a_host(story)?;
    on_it(story, &host).inspect_err(|_| {
        let path = Path::new("target/test-hosts/demo.log");
        if host.write_diagnosis(path).is_ok() {
            eprintln!("the host's journal is in {}", path.display());
        }
    })
}

fn on_it(story: &mut Story, host: &Host) -> Result<()> {
    a_service(story, host)?;
    let before = Snapshot::take(host, &["myapp"])?;
    let laptop = Laptop::new(host)?;
    let ended = host.spawn(&format!("exec journalctl --follow --lines=0 MESSAGE_ID={CLOSED}"))?;
    let id = attached(story, host, &laptop)?;
    let connect = connected(story, host, &laptop)?;
    let ide = DapClient::new(host.connect_on_laptop(local_port())?);
    let ide = debugged(story, host, ide)?;
    let ticket = kept_out(story, host, &laptop)?;
    time_is_up(story, &id, connect, ended, ide)?;
    proved(story, host, &id)?;
    shut_again(story, host, &ticket)?;
    looked_over(story, host, &before)
}

fn a_host(story: &mut Story) -> Result<Host> {
    story.chapter("A server");
    let host = Host::boot(Suite::Trixie)?;
    story.good(&format!(
        "Debian {} with systemd, firewalld and this godebug, booted in {:.1} s",
        host.suite().name(),
        host.boot_time().as_secs_f32()
    ));
    story.good(&format!(
        "addresses: the server {}, the laptop {}, a stranger {}",
        host.address(),
        host.laptop_address(),
        host.network().stranger()
    ));
    Ok(host)
}

fn a_service(story: &mut Story, host: &Host) -> Result<()> {
    story.chapter("A Go service on it, with a question: why does order 3 cost what it costs?");
    run(story, host, "systemctl start myapp")?;
    run(story, host, "systemctl status --no-pager --lines=0 myapp | head -n 3")?;
    run(story, host, &format!("curl -s '{ORDER}'"))?;
    run(story, host, "godebugctl doctor myapp")?;
    let port = host.port_scan_from_laptop(LOCAL_PORT)?;
    ensure!(port == Port::Filtered, "port {LOCAL_PORT} is {port:?} before anything was opened");
    story.good(&format!("from the laptop, port {LOCAL_PORT} of the server is filtered"));
    Ok(())
}

/// What is on the laptop: godebugctl, and the ticket.
struct Laptop {
    folder: tempfile::TempDir,
}

impl Laptop {
    fn new(host: &Host) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for the laptop")?;
        let program = folder.path().join("godebugctl");
        std::fs::copy(host.path("/usr/bin/godebugctl"), program)
            .context("copying godebugctl to the laptop")?;
        Ok(Self { folder })
    }

    fn ticket(&self) -> std::path::PathBuf {
        self.folder.path().join("ticket")
    }

    fn spawn(&self, host: &Host, command: &str) -> Result<Spawned> {
        let at = self.folder.path().display();
        host.laptop_spawn(&format!("cd {at} && export PATH={at}:$PATH && exec {command}"))
    }
}

/// Gives the session's ID.
fn attached(story: &mut Story, host: &Host, laptop: &Laptop) -> Result<String> {
    story.chapter("A session");
    let command = format!(
        "godebugctl attach myapp --ttl {}s --reason 'price of order 3' --from {} --endpoint {} \
         --detach --ticket /root/ticket",
        TTL.as_secs(),
        host.laptop_address(),
        host.address()
    );
    run(story, host, &command)?;
    // The copy keeps the mode, which godebugctl insists on.
    std::fs::copy(host.path("/root/ticket"), laptop.ticket()).context("copying the ticket")?;
    story.says("the ticket goes to the laptop; nothing else on the network opens the gateway");
    Ok(Ticket::read(laptop.ticket())?.id)
}

fn connected(story: &Story, host: &Host, laptop: &Laptop) -> Result<Spawned> {
    let command = format!("godebugctl connect ticket --listen {}", local_port());
    story.typed(Place::Laptop, &command);
    let mut connect = laptop.spawn(host, &command)?;
    connect.wait_for_line("dlv connect", SOON)?;
    story.printed(&connect.stdout());
    Ok(connect)
}

/// The session of an IDE, which stays connected with its breakpoint set. Gives what hears of its end.
fn debugged<W: Wire + Send + 'static>(
    story: &mut Story,
    host: &Host,
    mut ide: DapClient<W>,
) -> Result<Receiver<()>> {
    story.chapter("A breakpoint, by the Debug Adapter Protocol as any IDE speaks it");
    let [first, second] = STATEMENTS.map(|statement| line_of(host, statement));
    let (first, second) = (first?, second?);
    ide.attach()?;
    let attach =
        format!("attach to {}, breakpoints at main.go:{first} and :{second}", local_port());
    story.typed(Place::Ide, &attach);
    ide.set_breakpoints(SOURCE, &[first, second])?;
    ide.configuration_done()?;
    let command = format!("curl -s '{ORDER}'");
    story.typed(Place::Host, &command);
    let mut order = host.spawn(&command)?;

    let goroutine = stopped(story, host, &mut ide, first)?;
    let frame = show_stack(story, &mut ide, goroutine)?;
    show_variables(story, &mut ide, frame, ("o", "customer-3"))?;
    story.typed(Place::Ide, "continue");
    ide.resume(goroutine)?;

    let goroutine = stopped(story, host, &mut ide, second)?;
    let frame = innermost(&ide.stack_trace(goroutine)?)?;
    show_variables(story, &mut ide, frame, ("total", "1365"))?;
    story.typed(Place::Ide, "continue");
    ide.resume(goroutine)?;

    let answer = order.wait(SOON)?.ok()?;
    story.printed(&answer);
    ensure!(answer.contains("cents"), "an order without a price: {answer}");
    story.good("the customer has an answer; the IDE stays connected, its breakpoints stay set");
    Ok(end_of(ide))
}

/// Waits for a stop at `line`; gives the goroutine.
fn stopped<W: Wire>(story: &Story, host: &Host, ide: &mut DapClient<W>, line: u32) -> Result<i64> {
    let (goroutine, reason) = ide.wait_for_stop()?;
    story.good(&format!("goroutine {goroutine} stands still: {reason}"));
    show_source(story, host, line)?;
    Ok(goroutine)
}

fn line_of(host: &Host, statement: &str) -> Result<u32> {
    let source = host.read_file(SOURCE)?;
    let found = source.lines().position(|line| line.trim_start().starts_with(statement));
    let found = found.with_context(|| format!("no line of {SOURCE} starts with {statement:?}"))?;
    u32::try_from(found + 1).context("a file with very many lines")
}

fn show_source(story: &Story, host: &Host, at: u32) -> Result<()> {
    let source = host.read_file(SOURCE)?;
    let numbered = (1_u32..).zip(source.lines());
    let near = numbered.filter(|(number, _)| number.abs_diff(at) <= 2);
    for (number, text) in near {
        let mark = if number == at { "▶" } else { " " };
        story.printed(&format!("{mark}{number:>4}  {}", text.replace('\t', "    ")));
    }
    Ok(())
}

/// Gives the innermost frame.
fn show_stack<W: Wire>(story: &Story, ide: &mut DapClient<W>, goroutine: i64) -> Result<i64> {
    story.says("stack");
    let stack = ide.stack_trace(goroutine)?;
    for frame in stack.iter().take(4) {
        let file = frame["source"]["name"].as_str().unwrap_or("?");
        story
            .fact(&format!("{file}:{}", frame["line"]), frame["name"].as_str().unwrap_or_default());
    }
    if stack.len() > 4 {
        story.fact("", &format!("and {} more", stack.len() - 4));
    }
    innermost(&stack)
}

fn innermost(stack: &[Value]) -> Result<i64> {
    let frame = stack.first().context("a stack without a frame")?;
    ensure!(frame["name"] == "main.priceOf", "it stopped elsewhere: {frame}");
    frame["id"].as_i64().context("a frame without a number")
}

/// Shows what the optimised program still has, and insists on one value.
fn show_variables<W: Wire>(
    story: &Story,
    ide: &mut DapClient<W>,
    frame: i64,
    (wanted, value): (&str, &str),
) -> Result<()> {
    story.says("variables");
    let variables = ide.locals(frame)?;
    for (name, value) in &variables {
        if !value.starts_with("(unreadable") && !name.starts_with('~') {
            story.fact(name, value);
        }
    }
    let found = variables.iter().find(|(name, _)| name == wanted);
    ensure!(
        found.is_some_and(|(_, found)| found.contains(value)),
        "{wanted} is not {value} among the variables: {variables:?}"
    );
    Ok(())
}

/// Reads on in the background until the connection ends.
fn end_of<W: Wire + Send + 'static>(mut ide: DapClient<W>) -> Receiver<()> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        // No such event comes: what ends this is the end of the connection.
        let _ = ide.wait_for_event_within("never", 4 * TTL);
        let _ = sender.send(());
    });
    receiver
}

fn kept_out(story: &mut Story, host: &Host, laptop: &Laptop) -> Result<Ticket> {
    story.chapter("Meanwhile, everybody else");
    let ticket = Ticket::read(laptop.ticket())?;
    let gateway = ticket.gateway.context("the ticket has no address")?;
    let port = host.port_scan_from_stranger(gateway.port())?;
    ensure!(port == Port::Filtered, "for a stranger, the port is {port:?}");
    story.good(&format!(
        "a stranger, {}: port {} is filtered",
        host.network().stranger(),
        gateway.port()
    ));
    let without = tls::Identity { client: None, ..ticket.identity.clone() };
    let refusal = refusal(host, gateway.port(), &without)?;
    story.good(&format!("the laptop without the ticket's certificate: {refusal}"));
    Ok(ticket)
}

/// How the gateway turns a client away.
fn refusal(host: &Host, port: u16, identity: &tls::Identity) -> Result<String> {
    let mut stream = match tls::connect(host.connect_from_laptop(port)?, identity) {
        Ok(stream) => stream,
        Err(error) => return Ok(error.root_cause().to_string()),
    };
    match std::io::Read::read(&mut stream, &mut [0; 1]) {
        Err(error) => Ok(error.to_string()),
        Ok(count) => bail!("the gateway let a client without a certificate in ({count} bytes)"),
    }
}

fn time_is_up(
    story: &mut Story,
    id: &str,
    mut connect: Spawned,
    mut ended: Spawned,
    ide: Receiver<()>,
) -> Result<()> {
    story.chapter("Nobody ends it, and it ends");
    let waiting = "until the session's time is over; nobody disconnects, nobody cleans up";
    ensure!(story.waits(waiting, 2 * TTL, &ide), "the IDE is still connected");
    story.good("the IDE's connection was cut");
    let line = ended.wait_for_line(id, SOON)?;
    story.good(line.split_once("]: ").map_or(line.as_str(), |(_, message)| message));
    let said = connect.wait(SOON)?.ok()?;
    story.typed(Place::Laptop, "godebugctl connect ticket …");
    story.printed(said.lines().last().unwrap_or_default());
    Ok(())
}

fn proved(story: &mut Story, host: &Host, id: &str) -> Result<()> {
    story.chapter("The proof that godebug keeps");
    run(story, host, &format!("godebugctl show {id}"))?;
    let session = host.run(&format!("godebugctl --json show {id}"))?.json()?;
    ensure!(session["state"] == "closed", "the session is not closed: {session}");
    ensure!(session["close_reason"] == "expired", "it did not end by its time: {session}");
    let proof = session["proof"].as_array().map(Vec::as_slice).unwrap_or_default();
    let gone = |item: &Value| item["gone"] == true;
    ensure!(!proof.is_empty() && proof.iter().all(gone), "no proof: {session}");
    let kept = host.ok(&format!("grep -c '{id}' /var/log/godebug/audit.jsonl"))?;
    story.good(&format!("{} records of it in /var/log/godebug/audit.jsonl", kept.trim()));
    Ok(())
}

fn shut_again(story: &Story, host: &Host, ticket: &Ticket) -> Result<()> {
    let port = ticket.gateway.map_or(LOCAL_PORT, |gateway| gateway.port());
    let seen = host.port_scan_from_laptop(port)?;
    ensure!(seen == Port::Filtered, "from the laptop, port {port} is still {seen:?}");
    story.good(&format!("from the laptop, port {port} of the server is filtered again"));
    Ok(())
}

/// The tests' own reading, which trusts nothing that godebug says.
fn looked_over(story: &mut Story, host: &Host, before: &Snapshot) -> Result<()> {
    story.chapter("And what the tests read back themselves, against how the server was before");
    nothing_left(host, before)?;
    let process = before.processes().first().context("no process was watched")?;
    for looked_at in [
        "no unit or timer of a session, loaded, failed or transient",
        "no dlv, no gateway, no helper among the processes",
        "nothing of a session in /run/godebug, no listener on ports 2345 to 2364",
        "nftables: the same rules, line by line",
        "firewalld: the same runtime and the same permanent settings",
        "no file written or changed below /etc and /usr",
    ] {
        story.good(looked_at);
    }
    story.good(&format!(
        "myapp: still process {}, not stopped, not traced, its text byte for byte its file's",
        process.inner_pid
    ));
    run(story, host, &format!("curl -s '{ORDER}'"))
}

/// Runs a command on the host that must succeed, and shows both.
fn run(story: &Story, host: &Host, command: &str) -> Result<()> {
    story.typed(Place::Host, command);
    story.printed(&host.ok(command)?);
    Ok(())
}

fn local_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, LOCAL_PORT))
}
