//! `attach` in the foreground: serves the local port while the session lives, and ends it when the
//! person leaves.

use crate::cli::Attach;
use crate::countdown::{Countdown, in_words};
use crate::keys::Key;
use crate::manager::{answer, manager};
use crate::output::{Output, ended_early};
use crate::ports::{self, LocalPort};
use crate::sessions::stuck;
use crate::signals::Signals;
use crate::terminal::{BOLD, painted};
use crate::tunnel::{Credentials, Event, Gateway, Tunnel};
use crate::watch::{News, follow};
use crate::{ide, live, report};
use godebug_api::bus::{BusError, ManagerProxy};
use godebug_api::documents::{Opened, SessionInfo};
use godebug_api::{CloseReason, Refusal, SessionId, State};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How long after the end the daemon's account of it is waited for.
const LAST_WORD: Duration = Duration::from_secs(60);
/// The same when the daemon cannot be asked.
const NO_WORD: Duration = Duration::from_secs(15);
/// How long an orderly end may take: dlv's tear-down has deadlines that add up to less.
const STOPPING: Duration = Duration::from_secs(120);

/// Why the foreground is left.
enum Ending {
    /// The person asked for it.
    Asked,
    /// The session has ended, and this is the account of it.
    Told(Box<SessionInfo>),
    /// The daemon does not know the session any more.
    Unknown(Refusal),
    /// The time is over, and nobody could be asked how it ended.
    TimeOver,
    /// The session is ending, and the daemon has not finished in time.
    Unfinished(Box<SessionInfo>),
}

/// A session in the foreground.
struct Held<'a> {
    output: &'a Output,
    session: SessionInfo,
    countdown: Option<Countdown>,
    tunnel: Tunnel,
    port: LocalPort,
    /// When the session began to end, as far as we were told.
    ending_since: Option<Instant>,
    /// The daemon or the bus cannot be reached.
    away: bool,
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
    let (mut held, events) = match prepare(output, arguments, opened, key, port).await {
        Ok(prepared) => prepared,
        Err(refusal) => {
            // Without a local port the session is of no use. It is held, so it would end anyway.
            let _ = stop(&manager, &id).await;
            return Err(refusal);
        }
    };
    let (sender, news) = unbounded_channel();
    let follower = tokio::spawn(follow(manager.inner().connection().clone(), id.clone(), sender));
    let ending = held.serve(&mut signals, news, events).await;
    follower.abort();
    output.clear();
    finish(output, ending, &manager, &mut signals, &id, began).await
}

/// Makes the tunnel and the local port, and tells how to use them.
async fn prepare<'a>(
    output: &'a Output,
    arguments: &Attach,
    opened: Opened,
    key: &Key,
    port: Option<LocalPort>,
) -> Result<(Held<'a>, UnboundedReceiver<Event>), Refusal> {
    let credentials = Credentials {
        ca: &opened.ca,
        certificate: &opened.certificate,
        key: &key.private,
        server_name: &opened.server_name,
    };
    let gateway = Gateway::new("127.0.0.1", opened.port, &credentials)?;
    let port = match port {
        Some(port) => port,
        None => ports::bind_free().await?,
    };
    let (tunnel, events) = Tunnel::new(gateway);
    let session = opened.session;
    let countdown = session.expires_at.as_deref().and_then(Countdown::until);
    let held =
        Held { output, session, countdown, tunnel, port, ending_since: None, away: false };
    held.announce(arguments)?;
    Ok((held, events))
}

impl Held<'_> {
    /// The session and how to connect; the one document with `--json`.
    fn announce(&self, arguments: &Attach) -> Result<(), Refusal> {
        let (output, session, address) = (self.output, &self.session, self.port.address);
        if output.is_json() {
            output.document(&Listening { session, listen: address.to_string() })?;
        } else {
            output.text(&announcement(session, &self.port));
        }
        if let Some(wanted) = arguments.ide {
            output.text(&format!("\n{}", ide::configuration(wanted, &session.unit, address.port())));
        }
        output.note("\nCtrl-C ends the session.");
        Ok(())
    }

    /// Relays, watches and counts down.
    async fn serve(
        &mut self,
        signals: &mut Signals,
        mut news: UnboundedReceiver<News>,
        mut events: UnboundedReceiver<Event>,
    ) -> Ending {
        let mut tick = interval(Duration::from_secs(1));
        // After a sleep of the laptop one look is enough.
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let ending = {
                let serving = self.tunnel.serve(&self.port.listener);
                tokio::pin!(serving);
                // The relays live as long as `serving`, so this inner loop does all that needs no
                // change of `self`.
                loop {
                    let what = tokio::select! {
                        () = &mut serving => continue,
                        () = signals.next() => What::Signal,
                        Some(news) = news.recv() => What::News(news),
                        Some(event) = events.recv() => What::Event(event),
                        _ = tick.tick() => What::Tick,
                    };
                    let _ = what;
                }
            };
            return ending;
        }
    }
}
