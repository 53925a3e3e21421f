//! A session's certificates: a CA that exists for a moment, one certificate for each side.
//!
//! The CA's key is made, signs twice and is dropped here; nobody can ever sign for the session
//! again. The gateway's key goes into its sealed configuration, the client's never left the client.

use godebug_api::{Refusal, SessionId, clock};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams,
    CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use std::time::Duration;

/// A CSR of a P-256 key is under 1 KiB.
const LONGEST_CSR: usize = 16 * 1024;

/// What a session's certificates are.
pub struct SessionCertificates {
    /// PEM, like all here.
    pub ca: String,
    pub client: String,
    pub gateway: String,
    pub gateway_key: String,
    pub server_name: String,
}

/// What a guest of a session gets: a CA of its own, which has signed this one certificate.
pub struct GuestCertificates {
    pub ca: String,
    pub client: String,
}

/// Makes them for somebody called `name`.
///
/// # Errors
/// As [`issue`].
pub fn issue_for_guest(
    id: &SessionId,
    csr: &str,
    name: &str,
    valid_for: Duration,
) -> Result<GuestCertificates, Refusal> {
    let made = || {
        let (ca, client) = (authority(&format!("godebug session {id}, guest"), valid_for)?, name);
        let client = client_certificate(&request_of(csr)?, client, &ca, valid_for)?;
        Ok(GuestCertificates { ca: ca.pem(), client: client.pem() })
    };
    made().map_err(CertificateError::into_refusal)
}

/// Makes them, good from a minute ago (clocks differ) until `valid_for` from now.
///
/// # Errors
/// A usage refusal when the client's request cannot be read; a failure when the cryptography fails.
pub fn issue(
    id: &SessionId,
    csr: &str,
    user: &str,
    valid_for: Duration,
) -> Result<SessionCertificates, Refusal> {
    make(id, csr, user, valid_for).map_err(CertificateError::into_refusal)
}

/// Why there are none.
enum CertificateError {
    Csr(String),
    Cryptography(rcgen::Error),
}

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        Self::Cryptography(error)
    }
}

impl CertificateError {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Csr(why) => bad_csr(&why),
            Self::Cryptography(error) => Refusal::failed(
                format!("the session's certificates cannot be made: {error}"),
                "try again",
            ),
        }
    }
}

fn request_of(csr: &str) -> Result<CertificateSigningRequestParams, CertificateError> {
    if csr.len() > LONGEST_CSR {
        return Err(CertificateError::Csr("it is too long".to_owned()));
    }
    // Reading it checks its signature: the asker has the key.
    CertificateSigningRequestParams::from_pem(csr)
        .map_err(|error| CertificateError::Csr(error.to_string()))
}

fn authority(
    name: &str,
    valid_for: Duration,
) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut ca = parameters(name, valid_for)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(ca, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?)
}

/// Only the public key of the request is used: what it asks for besides is not its to ask.
fn client_certificate(
    request: &CertificateSigningRequestParams,
    name: &str,
    ca: &CertifiedIssuer<'static, KeyPair>,
    valid_for: Duration,
) -> Result<Certificate, rcgen::Error> {
    let mut client = parameters(name, valid_for)?;
    client.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    client.signed_by(&request.public_key, ca)
}

fn make(
    id: &SessionId,
    csr: &str,
    user: &str,
    valid_for: Duration,
) -> Result<SessionCertificates, CertificateError> {
    let request = request_of(csr)?;
    let server_name = format!("{id}.godebug");
    let ca = authority(&format!("godebug session {id}"), valid_for)?;
    let gateway_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut gateway = parameters(&server_name, valid_for)?;
    gateway.subject_alt_names = vec![rcgen::SanType::DnsName(server_name.as_str().try_into()?)];
    gateway.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    gateway.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let gateway = gateway.signed_by(&gateway_key, &ca)?;

    let client = client_certificate(&request, user, &ca, valid_for)?;
    Ok(SessionCertificates {
        ca: ca.pem(),
        client: client.pem(),
        gateway: gateway.pem(),
        gateway_key: gateway_key.serialize_pem(),
        server_name,
    })
}

fn parameters(name: &str, valid_for: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = CertificateParams::new(Vec::<String>::new())?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    let now = i64::try_from(clock::now().wall_ms / 1000).unwrap_or(0);
    let seconds = i64::try_from(valid_for.as_secs()).unwrap_or(i64::MAX / 2);
    parameters.not_before = moment(now - 60);
    parameters.not_after = moment(now.saturating_add(seconds));
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

fn moment(unix: i64) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(unix).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

fn bad_csr(why: &str) -> Refusal {
    Refusal::usage(
        format!("the certificate signing request cannot be used: {why}"),
        "use godebugctl of the same version as godebugd",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_requests_are_refused() {
        let id: SessionId = "0000000a".parse().unwrap();
        for csr in [
            "",
            "nonsense",
            "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        ] {
            assert!(issue(&id, csr, "root", Duration::from_secs(60)).is_err());
        }
        assert!(issue(&id, &"A".repeat(1 << 20), "root", Duration::from_secs(60)).is_err());
    }

    #[test]
    fn what_the_request_asks_for_besides_its_key_is_ignored() {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut asked = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        asked.distinguished_name.push(DnType::CommonName, "somebody else");
        let csr = asked.serialize_request(&key).unwrap().pem().unwrap();
        let id: SessionId = "0000000a".parse().unwrap();
        let issued = issue(&id, &csr, "alice", Duration::from_secs(60)).unwrap();
        let der = rustls_pki_types::pem::PemObject::from_pem_slice(issued.client.as_bytes());
        let der: rustls_pki_types::CertificateDer<'_> = der.unwrap();
        let holds = |text: &str| der.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(holds("alice") && !holds("evil.example") && !holds("somebody else"));
    }
}
