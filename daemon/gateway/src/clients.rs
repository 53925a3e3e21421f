//! The clients that are connected, and what can be said to them, or to dlv in their name, from
//! elsewhere in the gateway.

use crate::guests::Part;
use crate::line::{Line, Notice};
use crate::protocol::Protocol;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;

/// Clients named in a status; more would not fit the line.
const CLIENTS_SHOWN: usize = 60;

/// Everybody who is connected.
#[derive(Default)]
pub(crate) struct Clients {
    all: Mutex<BTreeMap<u64, Client>>,
    next: AtomicU64,
}

struct Client {
    peer: SocketAddr,
    part: Part,
    /// Once its first byte has told its protocol.
    line: Option<Arc<Line>>,
}

impl Clients {
    /// Shows this client in the status for as long as the returned value lives.
    pub(crate) fn list(&self, peer: SocketAddr, part: Part) -> Listed<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        self.all().insert(number, Client { peer, part, line: None });
        Listed { clients: self, number, part }
    }

    /// The addresses, for the status.
    pub(crate) fn peers(&self) -> Vec<String> {
        self.all().values().take(CLIENTS_SHOWN).map(|client| client.peer.to_string()).collect()
    }

    /// Somebody who can let the target go on.
    pub(crate) fn is_anybody_there(&self) -> bool {
        self.all().values().any(|client| client.part == Part::Takes)
    }

    /// A line in the console of every IDE. dlv's own client has no place for one.
    pub(crate) fn tell(&self, text: &str) {
        self.ides().iter().for_each(|line| line.tell(text));
    }

    /// The same, and dlv's own clients, all but this one, hear it when they next ask for something.
    pub(crate) fn tell_all(&self, text: &str, but: Option<&Arc<Line>>) {
        let others = self.lines().into_iter();
        let others = others.filter(|line| but.is_none_or(|known| !Arc::ptr_eq(known, line)));
        others.for_each(|line| line.tell(text));
    }

    /// The IDEs show that this breakpoint is off, and why.
    pub(crate) fn breakpoint_is_off(&self, number: i64, why: &str) {
        self.ides().iter().for_each(|line| line.breakpoint_is_off(number, why));
    }

    /// An IDE that thinks that the target stands because of it, the latest first: when it runs again
    /// by this one's connection, dlv will tell this one of the next stop.
    pub(crate) fn who_can_resume(&self) -> Option<Arc<Line>> {
        self.ides().into_iter().rev().find(|line| line.is_configured())
    }

    /// The client by whose request the target runs, and whom dlv will tell of its next stop.
    pub(crate) fn runner(&self) -> Option<Arc<Line>> {
        self.lines().into_iter().rev().find(|line| line.course().is_under_way())
    }

    /// Tells every IDE but this one that the target runs.
    pub(crate) fn tell_it_runs(&self, but: Option<&Arc<Line>>) {
        for line in self.ides() {
            if but.is_none_or(|known| !Arc::ptr_eq(known, &line)) {
                line.tell_it_runs();
            }
        }
    }

    fn ides(&self) -> Vec<Arc<Line>> {
        let ides = self.lines().into_iter();
        ides.filter(|line| line.protocol() == Protocol::Dap).collect()
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        self.all().values().filter_map(|client| client.line.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Client>> {
        // Nothing can panic while it is held.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's entry. Dropping it takes it out.
pub(crate) struct Listed<'a> {
    clients: &'a Clients,
    number: u64,
    part: Part,
}

impl Listed<'_> {
    pub(crate) fn part(&self) -> Part {
        self.part
    }

    /// The client speaks this protocol; what is said to it from now on comes out of the receiver.
    pub(crate) fn speaks(&self, protocol: Protocol) -> (Arc<Line>, mpsc::Receiver<Notice>) {
        let (line, received) = Line::new(protocol);
        let line = Arc::new(line);
        if let Some(client) = self.clients.all().get_mut(&self.number) {
            client.line = Some(Arc::clone(&line));
        }
        (line, received)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.clients.all().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::tests::text;

    #[test]
    fn ides_are_told_at_once_and_dlvs_client_with_its_next_answer() {
        let clients = Clients::default();
        let listed = clients.list("127.0.0.1:1".parse().unwrap(), Part::Takes);
        let (line, mut notices) = listed.speaks(Protocol::JsonRpc);
        let other = clients.list("127.0.0.1:2".parse().unwrap(), Part::Takes);
        let (_other_line, mut other_notices) = other.speaks(Protocol::Dap);
        clients.tell("word");
        assert!(notices.try_recv().is_err() && line.news().is_none());
        assert!(text(other_notices.try_recv().ok()).contains("word"));
        clients.tell_all("more", None);
        assert_eq!(line.news().as_deref(), Some("more"));
        assert_eq!(line.news(), None, "it was told");
        assert_eq!(clients.peers(), ["127.0.0.1:1", "127.0.0.1:2"]);
        drop((listed, other));
        let watcher = clients.list("127.0.0.1:3".parse().unwrap(), Part::Watches);
        assert!(!clients.is_anybody_there(), "who watches lets nothing go");
        assert_eq!(clients.peers().len(), 1);
        drop(watcher);
    }

    #[test]
    fn the_runner_is_who_waits_for_the_next_stop() {
        let clients = Clients::default();
        let listed = clients.list("127.0.0.1:1".parse().unwrap(), Part::Takes);
        let (line, _notices) = listed.speaks(Protocol::Dap);
        assert!(clients.runner().is_none());
        line.sets_off(7, false);
        assert!(Arc::ptr_eq(&clients.runner().unwrap(), &line));
        assert!(clients.who_can_resume().is_none(), "it was not configured");
    }
}
