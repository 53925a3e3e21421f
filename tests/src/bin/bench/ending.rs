//! How long after its time a session is really over, seen from outside: when its client is cut off,
//! when dlv has let the target go, and when godebugd has read back that nothing is left.

use std::{
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use godebug_tests::{Host, Wire, dap::DapClient, ticket::Ticket, tls};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::Value;

use crate::{
    figures::Series,
    journal::{CLOSED, Entries},
    now,
};

const TTL: &str = "3s";
const LIMIT: Duration = Duration::from_secs(30);

/// From the deadline to each.
#[derive(Default)]
pub(crate) struct Endings {
    pub(crate) cut: Series,
    pub(crate) detached: Series,
    pub(crate) proved: Series,
}

pub(crate) fn measure(host: &Host, sessions: usize) -> Result<Endings> {
    let mut endings = Endings::default();
    for number in 1..=sessions {
        once(host, &mut endings)
            .with_context(|| format!("measuring the end of session {number}"))?;
        eprintln!("* ending: session {number} of {sessions}");
    }
    Ok(endings)
}

/// A session whose client is connected with a breakpoint set, and which nobody ends.
fn once(host: &Host, endings: &mut Endings) -> Result<()> {
    let mut journal =
        host.spawn(&format!("exec journalctl --follow --lines=0 MESSAGE_ID={CLOSED}"))?;
    host.ok(&format!(
        "godebugctl attach myapp --ttl {TTL} --from {} --endpoint {} --detach --ticket /root/ticket",
        host.laptop_address(),
        host.address()
    ))?;
    let ticket = Ticket::read(host.path("/root/ticket"))?;
    let deadline = deadline(host, &ticket.id)?;
    let dlv_ended = end_of_dlv(host)?;
    let port = ticket.gateway.context("the ticket has no address")?.port();
    let mut client =
        DapClient::new(tls::connect(host.connect_from_laptop(port)?, &ticket.identity)?);
    client.attach()?;
    client.set_function_breakpoints(&["main.priceOf"])?;
    client.configuration_done()?;
    ensure!(now() < deadline, "the session's time was over before its client was ready");
    let cut = cut_off(&mut client);
    journal.wait_for_line(&ticket.id, LIMIT)?;
    let detached = dlv_ended.recv_timeout(LIMIT).context("dlv goes on")??;
    endings.cut.add_milliseconds(cut - deadline);
    endings.detached.add_milliseconds(detached - deadline);
    endings.proved.add_milliseconds(Entries::of(host, &ticket.id)?.closed()? - deadline);
    Ok(())
}

/// The session's end to the millisecond, from its ledger.
fn deadline(host: &Host, id: &str) -> Result<f64> {
    let ledger = host.read_file(&format!("/run/godebug/{id}/ledger"))?;
    let records = ledger.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut ends = records.filter_map(|record| record["deadline"]["wall_ms"].as_f64());
    ends.next_back().context("the ledger has no deadline")
}

/// When the connection ended.
fn cut_off<W: Wire>(client: &mut DapClient<W>) -> f64 {
    // No such event comes: what ends this is the end of the connection.
    let _ = client.wait_for_event_within("never", LIMIT);
    now()
}

/// Tells when the only dlv on the host has ended, which it does once it has let the target go.
fn end_of_dlv(host: &Host) -> Result<Receiver<Result<f64>>> {
    let running = host.processes();
    let dlv = running.iter().find(|process| process.name == "dlv").context("no dlv is running")?;
    let pid = Pid::from_raw(i32::try_from(dlv.pid)?).context("a process without a number")?;
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).context("opening a pidfd")?;
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let ended = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], None).map(|_| now());
        let _ = sender.send(ended.context("waiting for dlv's end"));
    });
    Ok(receiver)
}
