//! `attach` in the foreground: serves the local port while the session lives, and ends it when the
//! person leaves.

use crate::cli::{Attach, Ide, Via};
use crate::far::Host;
use crate::held::{Ending, Held};
use crate::ide::TerminalClient;
use crate::keys::Key;
use crate::manager::{answer, manager};
use crate::output::{Output, ended_early};
use crate::person::Person;
use crate::ports::{self, LocalPort};
use crate::question::Question;
use crate::sessions::stuck;
use crate::signals::Signals;
use crate::terminal::{BOLD, painted};
use crate::tunnel::{Credentials, Event, Gateway, Trouble, Tunnel};
use crate::watch::{News, follow};
use crate::{countdown, ide, live, report};
use godebug_api::bus::{BusError, ManagerProxy};
use godebug_api::documents::{Opened, SessionInfo};
use godebug_api::{CloseReason, Refusal, SessionId, Ttl};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How long an orderly end may take: dlv's tear-down has deadlines that add up to less.
const STOPPING: Duration = Duration::from_secs(120);
/// How often the end is asked for when godebugd or the bus goes away meanwhile.
const ATTEMPTS: u32 = 5;

/// The local port in service, with what it tells.
struct Service {
    tunnel: Tunnel,
    events: UnboundedReceiver<Event>,
    port: LocalPort,
}

/// Serves the session until it ends, or a signal asks to end it.
pub(crate) async fn hold(
    output: &Output,
    arguments: &Attach,
    manager: ManagerProxy<'static>,
    mut signals: Signals,
    opened: Opened,
    key: &Key,
    port: Option<LocalPort>,
) -> Result<(), Refusal> {
    let began = Instant::now();
    let id = opened.session.id.clone();
    let mut service = match prepare(output, arguments, &manager, &opened, key, port).await {
        Ok(service) => service,
        Err(refusal) => {
            // Without a local port the session is of no use. It is held, so it would end anyway.
            let _ = stop(&manager, &id).await;
            return Err(refusal);
        }
    };
    let (sender, mut news) = unbounded_channel();
    let follower = tokio::spawn(follow(manager.inner().connection().clone(), id.clone(), sender));
    let client = match on_this_terminal(output, arguments, &manager, &opened, &service.port).await {
        Ok(client) => client,
        Err(refusal) => {
            let _ = stop(&manager, &id).await;
            return Err(refusal);
        }
    };
    let mut held = Held::new(output, opened.session);
    let more = More { manager: &manager, id: &id, ttl: arguments.ttl, asked: None };
    let mut person = Person { signals: &mut signals, client };
    let ending = serve(&mut held, &mut service, &mut person, (&mut news, more)).await;
    drop(person);
    follower.abort();
    output.clear();
    if let Some(ending) = ending {
        return account(output, &id, ending, began.elapsed());
    }
    output.note("ending the session…");
    let session = stop_unless_told_twice(&manager, &mut signals, &id).await?;
    output.text(&report::ending(&session, Some(began.elapsed())));
    stuck(&session).map_or(Ok(()), Err)
}

/// Makes the tunnel and the local port, and tells how to use them.
async fn prepare(
    output: &Output,
    arguments: &Attach,
    manager: &ManagerProxy<'_>,
    opened: &Opened,
    key: &Key,
    port: Option<LocalPort>,
) -> Result<Service, Refusal> {
    let credentials = Credentials {
        ca: &opened.ca,
        certificate: &opened.certificate,
        key: &key.private,
        server_name: &opened.server_name,
    };
    let far = Host::chosen();
    let gateway = match (arguments.way.via(far.is_some())?, far) {
        (Via::Tls, _) => Gateway::new(&opened.host, opened.port, &credentials)?,
        (Via::Ssh, Some(host)) => {
            Gateway::new("127.0.0.1", opened.port, &credentials)?.through(host)
        }
        _ => Gateway::new("127.0.0.1", opened.port, &credentials)?,
    };
    if arguments.way.via(far.is_some())? == Via::Ssh {
        // Not every sshd carries streams, and an IDE would be told nothing but that it is cut off.
        gateway.probe().await.map_err(Trouble::into_refusal)?;
    }
    let port = match port {
        Some(port) => port,
        None => ports::bind_free().await?,
    };
    announce(output, arguments, manager, &opened.session, &port).await?;
    let (tunnel, events) = Tunnel::new(gateway);
    Ok(Service { tunnel, events, port })
}

/// dlv's client, where that is what is wanted and there is a terminal for it.
async fn on_this_terminal(
    output: &Output,
    arguments: &Attach,
    manager: &ManagerProxy<'_>,
    opened: &Opened,
    port: &LocalPort,
) -> Result<Option<TerminalClient>, Refusal> {
    if arguments.way.ide != Some(Ide::Dlv) || !TerminalClient::is_possible(output) {
        return Ok(None);
    }
    let rules = ide::rules(ide::build_info(manager, &opened.session).await.as_ref());
    TerminalClient::start(output, port.address.port(), &rules).map(Some)
}

/// The session's document with the local port.
#[derive(Serialize)]
struct Listening<'a> {
    #[serde(flatten)]
    session: &'a SessionInfo,
    listen: String,
}

/// The session and how to connect; the one document with `--json`.
async fn announce(
    output: &Output,
    arguments: &Attach,
    manager: &ManagerProxy<'_>,
    session: &SessionInfo,
    port: &LocalPort,
) -> Result<(), Refusal> {
    let listen = port.address;
    if output.is_json() {
        output.document(&Listening { session, listen: listen.to_string() })?;
    } else {
        output.text(&announcement(session, port));
    }
    if arguments.way.ide == Some(Ide::Dlv) && TerminalClient::is_possible(output) {
        output.note(
            "\nThis is dlv; the session ends when you leave it (exit -c lets the service go on).",
        );
        return Ok(());
    }
    if let Some(wanted) = arguments.way.ide {
        let build = ide::build_info(manager, session).await;
        let told = ide::set_up(wanted, build, &session.unit, listen.port());
        output.text(&format!("\n{told}"));
    }
    output.note("\nCtrl-C ends the session.");
    Ok(())
}

fn announcement(session: &SessionInfo, port: &LocalPort) -> String {
    let froze = report::frozen(session).map(|froze| format!("\n\x20 freeze      {froze}"));
    let stands = report::stands_at(session).map(|stands| format!("\n\x20 start       {stands}"));
    let moved =
        if port.moved { format!("   (port {} is taken)", ports::DEFAULT) } else { String::new() };
    format!(
        "session {} active: {}, {} {}, mode {}, until {} ({} left)\n\
         \x20 debugger    {}{}{}\n\
         \x20 gateway     {}, for clients from {}\n\
         \x20 local port  {}{moved}\n\
         \n\
         \x20 dlv connect {}      leave it with: exit -c",
        painted(BOLD, session.id.as_str()),
        session.target_name(),
        match &session.dump {
            None => "process",
            Some(dump) if dump.image.is_some() => "image of process",
            Some(_) => "core dump of process",
        },
        session.pid,
        session.mode,
        session.expires_at.as_deref().unwrap_or("-"),
        countdown::left_until(session.expires_at.as_deref()),
        crate::terminal::safe(&session.debugger),
        froze.unwrap_or_default(),
        stands.unwrap_or_default(),
        crate::terminal::safe(&session.endpoint),
        report::sources(&session.sources),
        port.address,
        port.address,
    )
}

/// More time, which a person is asked for when the end is near.
struct More<'a> {
    manager: &'a ManagerProxy<'static>,
    id: &'a SessionId,
    ttl: Ttl,
    /// One question is open at a time.
    asked: Option<oneshot::Receiver<bool>>,
}

impl More<'_> {
    fn ask(&mut self, output: &Output) {
        let Some(question) = Question::to_a_person(output) else { return };
        if self.asked.is_none() {
            self.asked = Some(question.beside(&format!("Give it {} more?", self.ttl)));
        }
    }

    /// Returns when there is an answer; never, without a question.
    async fn answered(&mut self) -> bool {
        let Some(asked) = &mut self.asked else { return std::future::pending().await };
        let yes = asked.await.unwrap_or(false);
        self.asked = None;
        yes
    }

    /// The new end is told by whoever watches the session.
    async fn extend(&self, output: &Output) {
        let seconds = self.ttl.get().as_secs();
        let mut extended = self.manager.extend(self.id.as_str(), seconds).await;
        if matches!(extended, Err(BusError::ZBus(_)))
            && let Ok(manager) = manager().await
        {
            extended = manager.extend(self.id.as_str(), seconds).await;
        }
        let extended: Result<SessionInfo, Refusal> = answer(extended);
        if let Err(refusal) = extended {
            output.note(&format!("it stays as it is: {}\n  → {}", refusal.message, refusal.remedy));
        }
    }
}

/// Relays, watches and counts down until the session ends; `None` when the person leaves first.
async fn serve(
    held: &mut Held<'_>,
    service: &mut Service,
    person: &mut Person<'_>,
    (news, mut more): (&mut UnboundedReceiver<News>, More<'_>),
) -> Option<Ending> {
    let Service { tunnel, events, port } = service;
    let mut relaying = std::pin::pin!(tunnel.serve(&port.listener));
    let mut tick = interval(Duration::from_secs(1));
    // After a sleep of the machine one look is enough.
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let ending = tokio::select! {
            () = &mut relaying => None,
            () = person.leaves() => return None,
            Some(news) = news.recv() => held.hear(news),
            Some(event) = events.recv() => { live::tell(held.output(), &event); None }
            yes = more.answered() => { if yes { more.extend(held.output()).await; } None }
            _ = tick.tick() => held.tick(tunnel.clients()),
        };
        // Where a client has the terminal, nobody else can be answered there.
        if held.was_reminded() && person.client.is_none() {
            more.ask(held.output());
        }
        if ending.is_some() {
            return ending;
        }
    }
}

/// Tells of an end that nobody here asked for, and whether that is what was to be expected.
fn account(
    output: &Output,
    id: &SessionId,
    ending: Ending,
    lasted: Duration,
) -> Result<(), Refusal> {
    let look = format!("`godebugctl show {id}` tells how it ended");
    match ending {
        Ending::Told(session) => {
            output.text(&report::ending(&session, Some(lasted)));
            if let Some(refusal) = stuck(&session) {
                return Err(refusal);
            }
            if session.close_reason == Some(CloseReason::Expired) {
                return Ok(());
            }
            let why = report::why_ended(&session);
            Err(ended_early(format!("session {id} ended before its time: {why}"), ""))
        }
        Ending::Unknown(refusal) => Err(ended_early(
            format!("godebugd does not know session {id} any more: {}", refusal.message),
            refusal.remedy,
        )),
        Ending::Unfinished(session) => {
            let why = report::why_ended(&session);
            Err(ended_early(format!("session {id} is still being ended: {why}"), look))
        }
        Ending::TimeOver => {
            output.text(&format!("session {id} is over: its time has come; {look}"));
            Ok(())
        }
    }
}

/// Ends the session; a second signal leaves the rest to the daemon.
async fn stop_unless_told_twice(
    manager: &ManagerProxy<'_>,
    signals: &mut Signals,
    id: &SessionId,
) -> Result<SessionInfo, Refusal> {
    let left = |why: &str| {
        Err(Refusal::failed(
            format!("session {id} is being ended, {why}"),
            format!("godebugd goes on without you; `godebugctl show {id}` tells how far it is"),
        ))
    };
    tokio::select! {
        stopped = timeout(STOPPING, stop(manager, id)) => {
            stopped.unwrap_or_else(|_| left("which takes longer than it should"))
        }
        () = signals.next() => left("but you did not wait for it"),
    }
}

/// Ends session `id` and gives the account of it, through restarts of godebugd and of the bus.
///
/// # Errors
/// When the daemon refuses, or cannot be reached.
pub(crate) async fn stop(first: &ManagerProxy<'_>, id: &SessionId) -> Result<SessionInfo, Refusal> {
    let mut stopped = first.stop(id.as_str()).await;
    for _ in 1..ATTEMPTS {
        if !matches!(stopped, Err(BusError::ZBus(_))) {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        if let Ok(manager) = manager().await {
            stopped = manager.stop(id.as_str()).await;
        }
    }
    answer(stopped).map_err(|refusal| {
        let remedy = format!(
            "{}\nthe session ends by itself at the end of its time; until then \
             `godebugctl stop {id}` ends it",
            refusal.remedy
        );
        Refusal { remedy: remedy.trim_start().to_owned(), ..refusal }
    })
}
