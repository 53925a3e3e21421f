//! Reads the common name out of a certificate, for the log line that says who connected.
//!
//! Only certificates that passed verification come here, so that this walk over their DER is no
//! judgement; whatever it does not understand has no name. What it returns is safe for a terminal.

use rustls_pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `[0]`, the version.
const CONTEXT_0: u8 = 0xa0;
/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const LONGEST: usize = 64;

/// The subject's common name, `-` where there is none.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> String {
    let name = find(certificate.as_ref()).unwrap_or(b"-");
    String::from_utf8_lossy(name).chars().take(LONGEST).flat_map(char::escape_default).collect()
}

fn find(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut fields, _) = expect(certificate, SEQUENCE)?;
    if fields.first() == Some(&CONTEXT_0) {
        fields = element(fields)?.2;
    }
    // Serial number, signature algorithm, issuer, validity; then the subject.
    for _ in 0..4 {
        fields = element(fields)?.2;
    }
    let (mut names, _) = expect(fields, SEQUENCE)?;
    while !names.is_empty() {
        let (name, rest) = expect(names, SET)?;
        let (pair, _) = expect(name, SEQUENCE)?;
        let (kind, value) = expect(pair, OBJECT_IDENTIFIER)?;
        if kind == COMMON_NAME {
            return Some(element(value)?.1);
        }
        names = rest;
    }
    None
}

/// The contents of the element that `der` starts with, if it has this tag, and what follows it.
fn expect(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, contents, rest) = element(der)?;
    (found == tag).then_some((contents, rest))
}

/// Tag, contents and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, der) = der.split_first()?;
    let (&first, der) = der.split_first()?;
    let (length, der) = if first < 0x80 {
        (usize::from(first), der)
    } else {
        // No certificate that rustls takes is longer than two bytes can tell.
        let count = usize::from(first & 0x7f);
        let digits = der.get(..count).filter(|_| (1..=2).contains(&count))?;
        let length = digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit));
        (length, &der[count..])
    };
    Some((tag, der.get(..length)?, &der[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(name: Option<&str>) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "o".repeat(200));
        if let Some(name) = name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn the_common_name_is_found_and_made_harmless() {
        assert_eq!(common_name(&certificate(Some("alice"))), "alice");
        assert_eq!(common_name(&certificate(None)), "-");
        assert_eq!(common_name(&certificate(Some("a\u{1b}[2J\nb"))), "a\\u{1b}[2J\\nb");
        assert_eq!(common_name(&certificate(Some(&"x".repeat(500)))).len(), LONGEST);
    }

    #[test]
    fn no_prefix_of_a_certificate_upsets_it() {
        let whole = certificate(Some("alice"));
        for end in 0..whole.len() {
            common_name(&CertificateDer::from(whole[..end].to_vec()));
        }
    }
}
