//! Nobody leaves the service standing: when the last client that had a hand on it has gone, in
//! whatever way, its breakpoints are cleared and the target runs. dlv itself leaves it as it was
//! (service/dap/server.go, `onDisconnectRequest`, with more than one client allowed).

use crate::dlv::{Dlv, DlvError};
use crate::gateway::Shared;
use crate::transcript::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{sleep, timeout};

/// Between the client's connection to dlv being closed and our first question: dlv may still be at
/// the client's last request (facts on tear-down).
const SETTLE: Duration = Duration::from_millis(50);
/// How often it is tried. A halt just after a resume can be lost, and comes through the next time.
const TRIES: u32 = 3;

/// Who has a hand on the target.
#[derive(Default)]
pub(crate) struct Release {
    /// Held while somebody comes or the target is let go, so that nobody comes in between.
    turn: Mutex<()>,
    /// Clients that are there and have asked for something that may leave the target standing, or a
    /// breakpoint behind. Those that only look do not count.
    hands: Arc<AtomicUsize>,
}

impl Release {
    /// A connection to dlv for a client.
    ///
    /// # Errors
    /// When dlv takes none.
    pub(crate) async fn begin(&self, shared: &Shared) -> io::Result<UnixStream> {
        let _turn = self.turn.lock().await;
        let dialed = UnixStream::connect(&shared.debugger_socket);
        timeout(shared.limits.dial, dialed)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Held by whoever lets the target go, so that nobody comes meanwhile.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// What a client counts with.
    pub(crate) fn hand(&self) -> Hand {
        Hand { hands: Arc::clone(&self.hands), is_on: false }
    }

    /// A client's connection to dlv is closed. After the last hand is gone, the target is let go.
    pub(crate) async fn end(&self, shared: &Shared, hand: Hand) {
        let was_on = hand.is_on;
        let _turn = self.turn.lock().await;
        drop(hand);
        if !was_on || self.hands.load(Relaxed) > 0 {
            return;
        }
        let mut tries = 0;
        loop {
            sleep(SETTLE).await;
            tries += 1;
            let done = timeout(shared.limits.release, let_go(shared)).await;
            match done.unwrap_or(Err(DlvError::Slow("it all"))) {
                Ok(cleared) => {
                    tracing::info!(
                        cleared,
                        "the last client has gone; its breakpoints are cleared and the service runs"
                    );
                    return shared
                        .transcript
                        .record(&Entry::Released { breakpoints_cleared: cleared });
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

/// One client's hand on the target, or not yet.
pub(crate) struct Hand {
    hands: Arc<AtomicUsize>,
    is_on: bool,
}

impl Hand {
    #[cfg(test)]
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    pub(crate) fn put_on(&mut self) {
        if !self.is_on {
            self.is_on = true;
            self.hands.fetch_add(1, Relaxed);
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        if self.is_on {
            self.hands.fetch_sub(1, Relaxed);
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
