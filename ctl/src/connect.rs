//! `connect`: serves a local port through the gateway that a ticket names.

use crate::cli::{Connect, Ide, Via, via};
use crate::countdown::{Countdown, in_words};
use crate::far::Host;
use crate::ide::TerminalClient;
use crate::output::{Output, ended_early};
use crate::person::Person;
use crate::ports::{self, LocalPort};
use crate::signals::Signals;
use crate::terminal::{BOLD, painted, safe};
use crate::tunnel::{Credentials, Gateway, Trouble, Tunnel};
use crate::{countdown, ide, live, tickets};
use godebug_api::documents::BuildInfo;
use godebug_api::ticket::Ticket;
use godebug_api::{Refusal, clock};
use std::path::Path;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// How often the gateway is looked for while nobody is connected.
const LOOK: Duration = Duration::from_secs(15);
/// How often it is looked for again before it counts as gone, and how far apart.
const LOOKS: u32 = 3;
const BETWEEN: Duration = Duration::from_millis(2500);

pub(crate) async fn connect(output: &Output, arguments: &Connect) -> Result<(), Refusal> {
    let ticket = Ticket::read(&arguments.ticket, clock::now().wall_ms).map_err(tickets::refusal)?;
    let mut signals = Signals::catch()?;
    let credentials = Credentials {
        ca: &ticket.ca,
        certificate: &ticket.certificate,
        key: &ticket.key,
        server_name: &ticket.server_name,
    };
    let gateway = Gateway::new(&ticket.host, ticket.port.get(), &credentials)?;
    let far = Host::chosen();
    let gateway = match (via(arguments.via, far.is_some())?, far) {
        (Via::Ssh, Some(host)) => gateway.through(host),
        _ => gateway,
    };
    let port = match arguments.listen {
        Some(listen) => ports::bind_this(listen).await?,
        None => ports::bind_free().await?,
    };
    tokio::select! {
        answers = gateway.probe() => answers.map_err(Trouble::into_refusal)?,
        () = signals.next() => return Ok(()),
    }
    // It has only the gateway to ask how the program was built.
    let build = match arguments.ide {
        Some(_) => gateway.build_info().await,
        None => None,
    };
    let is_dlv_here = arguments.ide == Some(Ide::Dlv) && TerminalClient::is_possible(output);
    let rules = ide::rules(build.as_ref());
    let wanted = arguments.ide.filter(|_| !is_dlv_here);
    announce(output, (wanted, build), &ticket, &gateway, &port)?;
    output.note(match is_dlv_here {
        true => "\nThis is dlv; `exit -c` leaves it, and the service and the session go on.",
        false => "\nCtrl-C disconnects; the session goes on.",
    });
    let client = match is_dlv_here {
        true => Some(TerminalClient::start(output, port.address.port(), &rules)?),
        false => None,
    };
    let person = Person { signals: &mut signals, client };
    serve(output, &arguments.ticket, ticket, gateway, port, person).await
}

fn announce(
    output: &Output,
    (wanted, build): (Option<Ide>, Option<BuildInfo>),
    ticket: &Ticket,
    gateway: &Gateway,
    port: &LocalPort,
) -> Result<(), Refusal> {
    let listen = port.address;
    if output.is_json() {
        output.document(&serde_json::json!({
            "id": ticket.id,
            "unit": ticket.unit,
            "mode": ticket.mode,
            "endpoint": gateway.endpoint(),
            "expires_at": ticket.expires_at,
            "listen": listen.to_string(),
        }))?;
    } else {
        let moved = if port.moved {
            format!("   (port {} is taken)", ports::DEFAULT)
        } else {
            String::new()
        };
        output.text(&format!(
            "session {}: {}, mode {}, until {} ({} left)\n\
             \x20 gateway     {}\n\
             \x20 local port  {listen}{moved}\n\
             \n\
             \x20 dlv connect {listen}      leave it with: exit -c",
            painted(BOLD, ticket.id.as_str()),
            ticket.unit,
            ticket.mode,
            safe(&ticket.expires_at),
            countdown::left_until(Some(&ticket.expires_at)),
            safe(gateway.endpoint()),
        ));
    }
    if let Some(wanted) = wanted {
        let told = ide::set_up(wanted, build, &ticket.unit, listen.port());
        output.text(&format!("\n{told}"));
    }
    Ok(())
}

/// Relays until the ticket expires, a signal comes, or the gateway is gone for good.
async fn serve(
    output: &Output,
    path: &Path,
    mut ticket: Ticket,
    gateway: Gateway,
    port: LocalPort,
    mut person: Person<'_>,
) -> Result<(), Refusal> {
    let mut countdown = countdown(&ticket)?;
    let (tunnel, mut events) = Tunnel::new(gateway);
    let mut relaying = std::pin::pin!(tunnel.serve(&port.listener));
    let mut gone = std::pin::pin!(gone(output, &tunnel));
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let ended = loop {
        tokio::select! {
            () = &mut relaying => {}
            () = person.leaves() => break Ok(()),
            trouble = &mut gone => break Err(trouble),
            Some(event) = events.recv() => live::tell(output, &event),
            _ = tick.tick() => {
                if countdown.left().is_zero() {
                    let Some(renewed) = renewed(path, &ticket) else { break Ok(()) };
                    countdown = self::countdown(&renewed)?;
                    ticket = renewed;
                }
                if let Some(left) = countdown.reminder() {
                    remind(output, path, &ticket, left);
                }
                let (left, clients) = (countdown.left(), tunnel.clients());
                output.live(&live::line(&ticket.id, ticket.unit.as_str(), Some(left), clients, None));
            }
        }
    };
    drop(person);
    output.clear();
    let over = countdown.left().is_zero();
    ended.map_err(|trouble| {
        let message = format!("session {} is gone: {trouble}", ticket.id);
        ended_early(message, trouble.remedy())
    })?;
    let why = if over { "its time is over" } else { "disconnected" };
    output.text(&format!("session {}: {why}", ticket.id));
    Ok(())
}

fn countdown(ticket: &Ticket) -> Result<Countdown, Refusal> {
    Countdown::until(&ticket.expires_at)
        .ok_or_else(|| Refusal::usage("the ticket's expires_at is no time", "open a new session"))
}

fn remind(output: &Output, path: &Path, ticket: &Ticket, left: Duration) {
    output.note(&format!(
        "the session ends in {}; on the host, `godebugctl extend {} --ttl 30m` gives it more time \
         (then put the new expires_at into {})",
        in_words(left),
        ticket.id,
        path.display()
    ));
}

/// The ticket again, if somebody has extended it meanwhile.
fn renewed(path: &Path, old: &Ticket) -> Option<Ticket> {
    let ticket = Ticket::read(path, clock::now().wall_ms).ok()?;
    // Only the time may differ: the tunnel goes on with the old keys.
    let same = Ticket { expires_at: old.expires_at.clone(), ..ticket.clone() };
    (same == *old).then_some(ticket)
}

/// Waits until the gateway is gone for good. A connection that is through shows that it is there;
/// a network that is down for a while, as on a train, is no reason to give up.
async fn gone(output: &Output, tunnel: &Tunnel) -> Trouble {
    let mut unreachable = false;
    loop {
        sleep(LOOK).await;
        if tunnel.clients() > 0 {
            continue;
        }
        let mut found = tunnel.gateway().probe().await;
        for _ in 1..LOOKS {
            if !matches!(&found, Err(trouble) if is_final(trouble)) {
                break;
            }
            sleep(BETWEEN).await;
            found = tunnel.gateway().probe().await;
        }
        match found {
            Err(trouble) if is_final(&trouble) => return trouble,
            Err(trouble) if !unreachable => {
                unreachable = true;
                output.note(&format!("{trouble}; trying on"));
            }
            Err(_) => {}
            Ok(()) => {
                if std::mem::replace(&mut unreachable, false) {
                    output.note("the gateway answers again");
                }
            }
        }
    }
}

/// Whether the session itself, and not the way to it, is the trouble.
fn is_final(trouble: &Trouble) -> bool {
    match trouble {
        Trouble::Refused(_) | Trouble::Denied(..) | Trouble::Impostor(..) => true,
        Trouble::TurnedAway(_) | Trouble::NotCarried(_) => true,
        Trouble::Silent(_) | Trouble::Unreachable(..) => false,
    }
}
