//! What is read from a certificate: whom it is for, until when, and its subject as text.

use std::fmt::Write as _;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::GeneralName;
use x509_parser::nom;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

/// What is to be known of a certificate that is shown to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The DNS names it is for, in lower case.
    pub(super) names: Vec<String>,
    /// Until when it is valid, in seconds since 1970.
    pub(super) expires: i64,
}

/// Reads them.
///
/// # Errors
/// When it is no certificate.
pub(super) fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, X509Error> {
    let parsed = parse(certificate)?;
    let names = parsed.subject_alternative_name()?;
    let names = names.map(|extension| &extension.value.general_names);
    let name = |name: &GeneralName<'_>| {
        if let GeneralName::DNSName(name) = name {
            return Some(name.to_ascii_lowercase());
        }
        // Nobody asks for an address by SNI, but a certificate may be for nothing else.
        if let GeneralName::IPAddress(bytes) = name {
            return address(bytes);
        }
        None
    };
    let names = names.into_iter().flatten().filter_map(name);
    Ok(Facts {
        names: names.collect(),
        expires: parsed.validity().not_after.timestamp(),
    })
}

/// The subject as text, the most specific part first: `CN=shop,O=Example`.
///
/// Source: RFC 4514; Apache httpd 2.4, `SSL_CLIENT_S_DN`; nginx, `$ssl_client_s_dn`.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<String> {
    parse(certificate).ok().map(|parsed| text(parsed.subject()))
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, X509Error> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(error),
        Err(nom::Err::Incomplete(_)) => Err(X509Error::InvalidCertificate),
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from);
    v4.or_else(|_| v6()).ok().map(|address| address.to_string())
}

/// The attribute types with a short name. Source: RFC 4514 §3.
const SHORT: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.6", "C"),
    ("2.5.4.9", "STREET"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.5", "serialNumber"),
];

fn text(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for part in parts.into_iter().rev() {
        for (place, attribute) in part.iter().enumerate() {
            if !text.is_empty() {
                text.push(if place == 0 { ',' } else { '+' });
            }
            let kind = attribute.attr_type().to_id_string();
            let short = SHORT.iter().find(|(id, _)| *id == kind);
            text.push_str(short.map_or(kind.as_str(), |(_, short)| short));
            text.push('=');
            if let Ok(value) = attribute.as_str() {
                escape(value, &mut text);
            } else {
                text.push('#');
                for byte in attribute.as_slice() {
                    let written = write!(text, "{byte:02x}");
                    debug_assert!(written.is_ok(), "writing to a string does not fail");
                }
            }
        }
    }
    text
}

/// Source: RFC 4514 §2.4. What is not visible ASCII is written as its bytes, so that it can stand in a
/// header.
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (place, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' | b'#' if place == 0 => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' ' if place == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let written = write!(text, "\\{byte:02X}");
                debug_assert!(written.is_ok(), "writing to a string does not fail");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_subject_is_written_as_apache_and_nginx_write_it() {
        let mut params = CertificateParams::new(["A.Example".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Nuts, Bolts + Co"),
            (DnType::CommonName, " J\u{fc}rgen"),
        ] {
            params.distinguished_name.push(kind, value);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let der = certificate.der();
        let subject = of(der).unwrap();
        assert_eq!(subject, r"CN=\ J\C3\BCrgen,O=Nuts\, Bolts \+ Co,C=DE");
        let facts = facts(der).unwrap();
        assert_eq!(facts.names, ["a.example"]);
        assert!(facts.expires > 1_700_000_000);
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        let nonsense = CertificateDer::from(vec![0x30, 3, 1, 2, 3]);
        assert!(facts(&nonsense).is_err());
        assert_eq!(of(&nonsense), None);
    }
}
