//! Who may come besides the session's own certificate: guests, each with a certificate and a CA of
//! their own that godebugd tells the gateway of. A guest may be one who only watches.

use crate::tls::{Doors, TlsError};
use godebug_api::GuestName;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long it is waited for the end of a guest's connections. Shorter than godebugd waits for an answer.
const LEAVING: Duration = Duration::from_secs(1);
/// More than this are no few colleagues.
const MOST: usize = 16;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Part {
    /// All that the session's mode allows.
    #[default]
    Takes,
    /// Look at what is there, and neither stop the target nor let it go.
    Watches,
}

/// Why a guest is not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLetIn {
    #[error("{MOST} guests are let in already")]
    TooMany,
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The door, and who is let in by it.
pub(crate) struct Guests(Mutex<Known>);

struct Known {
    doors: Doors,
    acceptor: TlsAcceptor,
    guests: Vec<Guest>,
    /// Of those who were let in and are no longer: one may be in the middle of a handshake.
    withdrawn: Vec<CertificateDer<'static>>,
}

struct Guest {
    name: GuestName,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    part: Part,
    /// Cancelled when they are to leave.
    leave: CancellationToken,
    connections: TaskTracker,
}

/// What a client has who was verified, for as long as it is connected.
#[derive(Default)]
pub(crate) struct Standing {
    pub(crate) part: Part,
    /// Cancelled when it is to leave before the session's end.
    pub(crate) leave: CancellationToken,
    counted: Option<TaskTrackerToken>,
}

impl Standing {
    /// Nothing of the client's is carried any more, whatever is still to be cleared up after it.
    pub(crate) fn has_left(&mut self) {
        self.counted = None;
    }
}

impl Guests {
    pub(crate) fn new(doors: Doors) -> Result<Self, TlsError> {
        let acceptor = TlsAcceptor::from(doors.server(&[])?);
        Ok(Self(Mutex::new(Known { doors, acceptor, guests: Vec::new(), withdrawn: Vec::new() })))
    }

    /// For the next handshake.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.known().acceptor.clone()
    }

    /// The session's own CA, PEM.
    pub(crate) fn own_ca(&self) -> String {
        self.known().doors.ca.clone()
    }

    /// From now on whoever has this certificate, of this CA (both PEM), may come.
    ///
    /// # Errors
    /// When one of them cannot be used; nobody is let in then.
    pub(crate) fn let_in(
        &self,
        name: GuestName,
        (certificate, ca): (&str, &str),
        part: Part,
    ) -> Result<(), NotLetIn> {
        let read =
            |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(TlsError::from);
        let (leave, connections) = (CancellationToken::new(), TaskTracker::new());
        let (certificate, ca) = (read(certificate)?, read(ca)?);
        let guest = Guest { name, certificate, ca, part, leave, connections };
        let mut known = self.known();
        if known.guests.len() >= MOST {
            return Err(NotLetIn::TooMany);
        }
        known.guests.push(guest);
        if let Err(error) = known.open_for_all() {
            known.guests.pop();
            return Err(error.into());
        }
        Ok(())
    }

    /// Whoever was let in by this name may not come any more, and those who are there leave: when this returns they
    /// have. How many certificates that were.
    ///
    /// # Errors
    /// When the door cannot be changed; nobody leaves then.
    pub(crate) async fn withdraw(&self, name: &GuestName) -> Result<usize, NotLetIn> {
        let leaving = self.known().shut_out(name)?;
        for guest in &leaving {
            guest.leave.cancel();
            guest.connections.close();
        }
        // The door is shut and the relays are dropped when they are next looked at, which is now.
        for guest in &leaving {
            if timeout(LEAVING, guest.connections.wait()).await.is_err() {
                tracing::warn!(%name, "a connection of theirs is still being closed");
            }
        }
        Ok(leaving.len())
    }

    /// What the holder of this certificate, which was verified, may do; `None` when it is nothing any more.
    pub(crate) fn standing_of(&self, certificate: &CertificateDer<'_>) -> Option<Standing> {
        let known = self.known();
        if known.withdrawn.iter().any(|withdrawn| withdrawn == certificate) {
            return None;
        }
        let guest = known.guests.iter().find(|guest| guest.certificate == *certificate);
        // Each guest's CA has signed one certificate, and the session's own none of theirs.
        Some(guest.map_or_else(Standing::default, |guest| Standing {
            part: guest.part,
            leave: guest.leave.clone(),
            counted: Some(guest.connections.token()),
        }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// The next handshake knows the CAs of all guests.
    fn open_for_all(&mut self) -> Result<(), TlsError> {
        let cas: Vec<_> = self.guests.iter().map(|guest| guest.ca.clone()).collect();
        self.acceptor = TlsAcceptor::from(self.doors.server(&cas)?);
        Ok(())
    }

    fn shut_out(&mut self, name: &GuestName) -> Result<Vec<Guest>, TlsError> {
        let (leaving, staying) =
            std::mem::take(&mut self.guests).into_iter().partition(|guest| guest.name == *name);
        self.guests = staying;
        let leaving: Vec<Guest> = leaving;
        if let Err(error) = self.open_for_all() {
            self.guests.extend(leaving);
            return Err(error);
        }
        self.withdrawn.extend(leaving.iter().map(|guest| guest.certificate.clone()));
        Ok(leaving)
    }
}
