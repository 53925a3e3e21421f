//! The client's key pair. The private key stays in this process, or goes into the ticket.

use godebug_api::Refusal;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};

/// A new key, and the request to certify it.
pub(crate) struct Key {
    /// PEM, PKCS #8.
    pub(crate) private: String,
    /// PEM, PKCS #10.
    pub(crate) csr: String,
}

impl Key {
    /// Makes an ECDSA P-256 key pair.
    ///
    /// # Errors
    /// When the library cannot, which means that the machine has no randomness.
    pub(crate) fn generate() -> Result<Self, Refusal> {
        let make = || {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut parameters = CertificateParams::default();
            // The daemon uses the public key alone and names the certificate itself.
            parameters.distinguished_name = DistinguishedName::new();
            let csr = parameters.serialize_request(&pair)?.pem()?;
            Ok(Self { private: pair.serialize_pem(), csr })
        };
        make().map_err(|error: rcgen::Error| {
            Refusal::failed(format!("no key pair could be made: {error}"), "report this as a bug")
        })
    }
}

/// Keeps the private key out of core dumps, and other processes of the same user out of this one.
pub(crate) fn keep_memory_private() {
    // Where the kernel refuses, the session is no worse than any other program's secrets.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_new_and_the_request_does_not_hold_it() {
        let (one, two) = (Key::generate().unwrap(), Key::generate().unwrap());
        assert_ne!(one.private, two.private);
        assert!(one.private.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert!(one.csr.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
        assert!(!one.csr.contains("PRIVATE"));
    }
}
