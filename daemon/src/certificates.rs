//! A session's certificates: a CA that exists for a moment, one certificate for each side.
//!
//! The CA's key is made, signs twice and is dropped here; nobody can ever sign for the session
//! again. The gateway's key goes into its sealed configuration, the client's never left the client.

use godebug_api::{Refusal, SessionId, clock};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
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
    if csr.len() > LONGEST_CSR {
        return Err(bad_csr("it is too long"));
    }
    // Reading it checks its signature: the asker has the key.
    let request = CertificateSigningRequestParams::from_pem(csr)
        .map_err(|error| bad_csr(&error.to_string()))?;
    make(id, &request, user, valid_for).map_err(|error| {
        Refusal::failed(format!("the session's certificates cannot be made: {error}"), "try again")
    })
}

fn make(
    id: &SessionId,
    request: &CertificateSigningRequestParams,
    user: &str,
    valid_for: Duration,
) -> Result<SessionCertificates, rcgen::Error> {
    let server_name = format!("{id}.godebug");
    let mut ca = parameters(&format!("godebug session {id}"), valid_for)?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca = CertifiedIssuer::self_signed(ca, ca_key)?;

    let gateway_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut gateway = parameters(&server_name, valid_for)?;
    gateway.subject_alt_names = vec![rcgen::SanType::DnsName(server_name.as_str().try_into()?)];
    gateway.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    gateway.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let gateway = gateway.signed_by(&gateway_key, &ca)?;

    // Only the public key of the request is used: what it asks for besides is not its to ask.
    let mut client = parameters(user, valid_for)?;
    client.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = client.signed_by(&request.public_key, &ca)?;

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
