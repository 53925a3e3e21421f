//! The signals by which a person, or the end of their terminal, asks a foreground command to end.

use godebug_api::Refusal;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, caught from the moment this is made.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self, Refusal> {
        let catch = || {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: signal(SignalKind::hangup())?,
            })
        };
        catch().map_err(|error: std::io::Error| {
            Refusal::failed(format!("signals cannot be caught: {error}"), "")
        })
    }

    /// Waits for the next that is not the terminal's Ctrl-C, which another program there is asked to heed.
    pub(crate) async fn next_from_outside(&mut self) {
        loop {
            tokio::select! {
                // Taken and dropped, so that it does not count later.
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => return,
                _ = self.hang_up.recv() => return,
            }
        }
    }

    /// Waits for the next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
