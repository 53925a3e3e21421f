//! Nobody leaves the service standing: when the last client has gone, in whatever way, its
//! breakpoints are cleared and the target runs. dlv itself leaves it as it was
//! (service/dap/server.go, `onDisconnectRequest`, with more than one client allowed).

use crate::dlv::{Dlv, DlvError};
use crate::gateway::Shared;
use std::io;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// Between the client's connection to dlv being closed and our first question: dlv may still be at
/// the client's last request (facts on tear-down).
const SETTLE: Duration = Duration::from_millis(50);
/// How often it is tried. A halt just after a resume can be lost, and comes through the next time.
const TRIES: u32 = 3;

/// Who is talking to dlv. Held while somebody comes or goes, so that nobody comes while the last
/// one's traces are cleared.
#[derive(Default)]
pub(crate) struct Release(Mutex<Talks>);

#[derive(Default)]
struct Talks {
    clients: usize,
    /// One of those that came since nobody was there may have left something behind.
    disturbed: bool,
}

impl Release {
    /// A connection to dlv for a client.
    ///
    /// # Errors
    /// When dlv takes none.
    pub(crate) async fn begin(&self, shared: &Shared) -> io::Result<UnixStream> {
        let mut talks = self.0.lock().await;
        let dialed = UnixStream::connect(&shared.debugger_socket);
        let stream = timeout(shared.limits.dial, dialed)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        talks.clients += 1;
        Ok(stream)
    }

    /// A client's connection to dlv is closed. After the last one's, the target is let go.
    pub(crate) async fn end(&self, shared: &Shared, disturbed: bool) {
        let mut talks = self.0.lock().await;
        talks.clients -= 1;
        talks.disturbed |= disturbed;
        if talks.clients > 0 || !talks.disturbed {
            return;
        }
        talks.disturbed = false;
        let mut tries = 0;
        loop {
            sleep(SETTLE).await;
            tries += 1;
            let done = timeout(shared.limits.release, let_go(shared)).await;
            match done.unwrap_or(Err(DlvError::Slow("it all"))) {
                Ok(0) => return tracing::info!("the last client has gone; the service runs"),
                Ok(cleared) => {
                    return tracing::info!(
                        cleared,
                        "the last client has gone; its breakpoints are cleared and the service runs"
                    );
                }
                Err(error) if error.means_the_end() => return,
                Err(error) if tries < TRIES => tracing::warn!(%error, "letting the service run"),
                Err(error) => {
                    tracing::error!(%error, "the service cannot be let go; the session ends");
                    return shared.stuck.cancel();
                }
            }
        }
    }
}

/// Clears every breakpoint and lets the target run; how many there were.
async fn let_go(shared: &Shared) -> Result<usize, DlvError> {
    let mut dlv = Dlv::connect(&shared.debugger_socket).await?;
    if dlv.is_running().await? {
        // Breakpoints can be listed only while it stands.
        dlv.halt().await?;
    }
    // A halt keeps the breakpoints of a step that was under way; it would stop the target at its end.
    dlv.cancel_step().await?;
    let cleared = dlv.clear_breakpoints().await?;
    dlv.resume().await?;
    Ok(cleared)
}
