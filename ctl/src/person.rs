//! Whoever is at the terminal: by signals, or by the client that has it.

use crate::ide::TerminalClient;
use crate::signals::Signals;

pub(crate) struct Person<'a> {
    pub(crate) signals: &'a mut Signals,
    pub(crate) client: Option<TerminalClient>,
}

impl Person<'_> {
    /// Returns when they are done. A client on the terminal has its Ctrl-C for itself.
    pub(crate) async fn leaves(&mut self) {
        match &mut self.client {
            None => self.signals.next().await,
            Some(client) => tokio::select! {
                () = client.ended() => {}
                () = self.signals.next_from_outside() => {}
            },
        }
    }
}
