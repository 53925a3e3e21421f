//! What the gateway asks of a peer before it reads a byte: TLS 1.3 and a certificate of this
//! session's CA, or a guest's. Nothing is resumed, so every connection is verified anew.

use godebug_api::control::GatewayConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, version::TLS13};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

/// Why the certificates of a configuration cannot be served with.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the session's CA, certificate or key is not PEM: {0}")]
    Pem(#[from] pem::Error),
    #[error("TLS cannot be set up with this session's certificates: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("clients cannot be verified with this session's CA: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What every handshake needs, whoever is let in.
pub(crate) struct Doors {
    /// The session's own CA, PEM.
    pub(crate) ca: String,
    provider: Arc<CryptoProvider>,
    /// Shows the gateway's certificate and signs with its key.
    own: Arc<SingleCertAndKey>,
}

impl Doors {
    pub(crate) fn new(config: &GatewayConfig) -> Result<Self, TlsError> {
        // The provider is passed as a value: a process default could be another's choice. With the
        // feature prefer-post-quantum its first key exchange is X25519MLKEM768.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = CertificateDer::pem_slice_iter(config.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(config.key.as_bytes())?;
        let own = CertifiedKey::from_der(chain, key, &provider)?;
        Ok(Self { ca: config.ca.clone(), provider, own: Arc::new(SingleCertAndKey::from(own)) })
    }

    /// The server's side of a handshake that certificates of the session's own CA and of these are
    /// good for.
    pub(crate) fn server(
        &self,
        others: &[CertificateDer<'static>],
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes())?)?;
        for other in others {
            roots.add(other.clone())?;
        }
        let provider = Arc::clone(&self.provider);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&self.own) as Arc<dyn ResolvesServerCert>);
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.max_early_data_size = 0;
        Ok(Arc::new(server))
    }
}
