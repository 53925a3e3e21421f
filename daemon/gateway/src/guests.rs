//! Who may come besides the session's own certificate: guests, each with a certificate and a CA of
//! their own that godebugd tells the gateway of. A guest may be one who only watches.

use crate::tls::{Doors, TlsError};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_rustls::TlsAcceptor;

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
}

struct Guest {
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    part: Part,
}

impl Guests {
    pub(crate) fn new(doors: Doors) -> Result<Self, TlsError> {
        let acceptor = TlsAcceptor::from(doors.server(&[])?);
        Ok(Self(Mutex::new(Known { doors, acceptor, guests: Vec::new() })))
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
    pub(crate) fn let_in(&self, certificate: &str, ca: &str, part: Part) -> Result<(), NotLetIn> {
        let read =
            |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).map_err(TlsError::from);
        let guest = Guest { certificate: read(certificate)?, ca: read(ca)?, part };
        let mut known = self.known();
        if known.guests.len() >= MOST {
            return Err(NotLetIn::TooMany);
        }
        let mut cas: Vec<_> = known.guests.iter().map(|guest| guest.ca.clone()).collect();
        cas.push(guest.ca.clone());
        known.acceptor = TlsAcceptor::from(known.doors.server(&cas)?);
        known.guests.push(guest);
        Ok(())
    }

    /// What the holder of this certificate, which was verified, may do.
    pub(crate) fn part_of(&self, certificate: &CertificateDer<'_>) -> Part {
        let known = self.known();
        let guest = known.guests.iter().find(|guest| guest.certificate == *certificate);
        // Each guest's CA has signed one certificate, and the session's own none of theirs.
        guest.map_or(Part::Takes, |guest| guest.part)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing can panic while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
