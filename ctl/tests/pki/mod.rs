//! A session's certificates, and a gateway that has them: for tests of the unit and of the binary.
#![allow(clippy::unwrap_used, dead_code)]

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) const SERVER_NAME: &str = "0000000a.godebug";

/// A certificate with its key, PEM.
pub(crate) struct Leaf {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A session's own authority.
pub(crate) struct Authority {
    pub(crate) ca: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca = parameters.self_signed(&key).unwrap().pem();
        Self { ca, issuer: Issuer::new(parameters, key) }
    }

    /// A certificate that is good until the first day of `year`.
    pub(crate) fn leaf(&self, year: i32) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::new([SERVER_NAME.to_owned()]).unwrap();
        parameters.not_before = date_time_ymd(2020, 1, 1);
        parameters.not_after = date_time_ymd(year, 1, 1);
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Leaf { certificate, key: key.serialize_pem() }
    }

    /// The certificate that a client's request asks for.
    pub(crate) fn sign(&self, csr: &str) -> String {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// A gateway with `leaf`. It answers each connection, when the client has said all, with what
    /// it heard in capitals.
    pub(crate) async fn gateway(&self, leaf: &Leaf) -> SocketAddr {
        let acceptor = TlsAcceptor::from(Arc::new(self.server_config(leaf)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut heard = String::new();
                    if stream.read_to_string(&mut heard).await.is_ok() {
                        let _ = stream.write_all(heard.to_uppercase().as_bytes()).await;
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        address
    }

    fn server_config(&self, leaf: &Leaf) -> rustls::ServerConfig {
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.ca)).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
        rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![der(&leaf.certificate)], key)
            .unwrap()
    }
}
