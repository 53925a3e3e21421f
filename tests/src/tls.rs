//! TLS as a gateway's client speaks it, with the right certificate, a wrong one or none, to see what
//! the gateway lets in.

use std::{net::TcpStream, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::aws_lc_rs,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};

/// What a ticket holds for TLS, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    pub ca: String,
    pub server_name: String,
    /// Certificate and key, or none to come without.
    pub client: Option<(String, String)>,
}

/// Makes the handshake. In TLS 1.3 a server refuses a client's certificate only after the client is
/// done: whether it was let in shows at the first read.
pub fn connect(
    stream: TcpStream,
    identity: &Identity,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let config = config(identity)?;
    let name = ServerName::try_from(identity.server_name.clone()).context("the server's name")?;
    let mut connection = ClientConnection::new(Arc::new(config), name).context("starting TLS")?;
    let mut stream = stream;
    stream.set_read_timeout(Some(Duration::from_secs(10))).context("setting a time limit")?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).context("in the TLS handshake")?;
    }
    Ok(StreamOwned::new(connection, stream))
}

fn config(identity: &Identity) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&identity.ca)? {
        roots.add(certificate).context("the CA's certificate")?;
    }
    let mut provider = aws_lc_rs::default_provider();
    // As godebugctl does, and every client in Go. Measured beside servers that choose it themselves.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .context("choosing TLS 1.3")?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &identity.client else {
        return Ok(builder.with_no_client_auth());
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("the client's key")?;
    builder
        .with_client_auth_cert(certificates(certificate)?, key)
        .context("the client's certificate")
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .context("a certificate that is not PEM")
}
