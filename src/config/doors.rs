//! The settings of how clients come in, listed and read: TLS, its certificates, HTTP/2.

use std::path::PathBuf;

use toml::de::DeTable;

use super::address;
use super::file::several;
use super::keys::Table;
use super::read::{Reader, Section};
use super::report::Finding;
use super::setting::{Default, Setting, Takes};
use super::values::{list, set, switch, time};
use crate::net::{CertificateSource, ClientAuth, MinVersion, ServerTlsSettings};

/// `[[certificates]]`.
pub const CERTIFICATES: Table = Table {
    header: "[[certificates]]",
    key: "certificates",
    about: "A certificate for clients, on every listener with `tls`. Which one a client is shown goes by \
            the names in it: the first that is for the name it asks for (SNI), else the first of all. Its \
            files are looked at every 5 seconds, and read again when they have changed; no connection ends \
            for that.",
    settings: &[
        Setting {
            name: "certificate",
            alias: Some("SSLCertificateFile"),
            takes: Takes::File,
            default: Default::None("needed, unless `self_signed` is there"),
            meaning: "PEM file of the certificate, with its chain behind it.",
            apache: "`SSLCertificateFile`",
            nginx: "`ssl_certificate`",
        },
        Setting {
            name: "key",
            alias: Some("SSLCertificateKeyFile"),
            takes: Takes::File,
            default: Default::None("needed, unless `self_signed` is there"),
            meaning: "PEM file of its key.",
            apache: "`SSLCertificateKeyFile`",
            nginx: "`ssl_certificate_key`",
        },
        Setting {
            name: "ocsp",
            alias: None,
            takes: Takes::File,
            default: Default::None("none is sent"),
            meaning: "DER file of the authority's word that it is not revoked (OCSP), which is sent along. Who \
                      renews it is not this proxy.",
            apache: "`SSLUseStapling` (Off)",
            nginx: "`ssl_stapling_file`",
        },
        Setting {
            name: "self_signed",
            alias: None,
            takes: Takes::Hosts,
            default: Default::None("none is made"),
            meaning: "Instead of files: a certificate for these names that is made at the start and that \
                      nobody trusts. For trying things out.",
            apache: "none",
            nginx: "none",
        },
    ],
};

/// `tls`.
pub(super) const TLS: Setting = Setting {
    name: "tls",
    alias: Some("SSLEngine"),
    takes: Takes::Switch,
    default: Default::Is("false"),
    meaning: "Whether TLS is spoken with clients, with the certificates of `[[certificates]]`.",
    apache: "`SSLEngine` (off)",
    nginx: "`listen … ssl`",
};

/// `tls_min_version`.
pub(super) const MIN_VERSION: Setting = Setting {
    name: "tls_min_version",
    alias: None,
    takes: Takes::Word(&["1.2", "1.3"]),
    default: Default::Is("\"1.2\""),
    meaning: "The oldest version of TLS that is spoken.",
    apache: "`SSLProtocol` (all but SSLv3)",
    nginx: "`ssl_protocols` (TLSv1.2 TLSv1.3)",
};

/// `tls_handshake_timeout`.
pub(super) const HANDSHAKE_TIMEOUT: Setting = Setting {
    name: "tls_handshake_timeout",
    alias: None,
    takes: Takes::Time { zero: None },
    default: Default::Is("\"10s\""),
    meaning: "How long a handshake may take.",
    apache: "`RequestReadTimeout handshake=` (unlimited)",
    nginx: "`client_header_timeout` (60s)",
};

/// `tls_client_certificate`.
pub(super) const CLIENT_CERTIFICATE: Setting = Setting {
    name: "tls_client_certificate",
    alias: Some("SSLVerifyClient"),
    takes: Takes::Word(&["none", "optional", "require"]),
    default: Default::Is("\"none\""),
    meaning: "Whether clients are asked for a certificate, and have to show one. One that is shown has to be of \
              an authority in `tls_client_ca`.",
    apache: "`SSLVerifyClient` (none)",
    nginx: "`ssl_verify_client` (off)",
};

/// `tls_client_ca`.
pub(super) const CLIENT_CA: Setting = Setting {
    name: "tls_client_ca",
    alias: Some("SSLCACertificateFile"),
    takes: Takes::File,
    default: Default::None("needed where clients are asked for a certificate"),
    meaning: "PEM file of the authorities that clients' certificates are trusted by.",
    apache: "`SSLCACertificateFile`",
    nginx: "`ssl_client_certificate`",
};

/// `tls_session_tickets`.
pub(super) const SESSION_TICKETS: Setting = Setting {
    name: "tls_session_tickets",
    alias: Some("SSLSessionTickets"),
    takes: Takes::Switch,
    default: Default::Is("true"),
    meaning: "Whether clients may resume a session with a ticket. The keys of tickets are made here and change \
              every six hours. Without tickets the last 10,000 sessions are kept instead.",
    apache: "`SSLSessionTickets` (on)",
    nginx: "`ssl_session_tickets` (on)",
};

/// `tls_key_log`.
pub(super) const KEY_LOG: Setting = Setting {
    name: "tls_key_log",
    alias: None,
    takes: Takes::Switch,
    default: Default::Is("false"),
    meaning: "Whether the keys of every connection are written to the file that `SSLKEYLOGFILE` in the \
              environment names, for programs that record traffic. Whoever has that file can read it all.",
    apache: "none",
    nginx: "`ssl_key_log` (1.27.2)",
};

/// `http2`.
pub(super) const HTTP2: Setting = Setting {
    name: "http2",
    alias: None,
    takes: Takes::Switch,
    default: Default::Is("true"),
    meaning: "Whether clients may speak HTTP/2: with TLS if they choose it, else if they begin with it. Of the \
              settings above `keep_alive_timeout` and `timeout` count there, `keep_alive` and \
              `max_keep_alive_requests` do not, as in Apache httpd.",
    apache: "`Protocols h2 h2c http/1.1` (http/1.1)",
    nginx: "`http2` (off)",
};

/// `http2_max_streams`.
pub(super) const MAX_STREAMS: Setting = Setting {
    name: "http2_max_streams",
    alias: Some("H2MaxSessionStreams"),
    takes: Takes::Whole {
        least: 1,
        most: 10_000,
        unit: "requests",
        zero: None,
    },
    default: Default::Is("100"),
    meaning: "The most requests at once on one HTTP/2 connection; more are refused.",
    apache: "`H2MaxSessionStreams` (100)",
    nginx: "`http2_max_concurrent_streams` (128)",
};

/// `http2_max_header_list`.
pub(super) const MAX_HEADER_LIST: Setting = Setting {
    name: "http2_max_header_list",
    alias: None,
    takes: Takes::Bytes {
        least: 1024,
        most: 1 << 20,
        zero: None,
    },
    default: Default::Is("\"64K\""),
    meaning: "The most bytes of a request's head over HTTP/2, decoded, with 32 for each header; more are \
              answered 431. Each of its headers has the limits of the others, too.",
    apache: "none",
    nginx: "`large_client_header_buffers`",
};

/// `tls_subject_header`.
pub(super) const SUBJECT_HEADER: Setting = Setting {
    name: "tls_subject_header",
    alias: None,
    takes: Takes::Header,
    default: Default::None("backends are not told"),
    meaning: "The header that tells backends the subject of a client's certificate (`CN=shop,O=Example`). \
              One of that name that a client sends is removed, on every listener.",
    apache: "`RequestHeader set … \"%{SSL_CLIENT_S_DN}s\"`",
    nginx: "`proxy_set_header … $ssl_client_s_dn`",
};

/// The settings that say how TLS is spoken, once it is.
const OF_TLS: [&str; 6] = [
    "tls_min_version",
    "tls_handshake_timeout",
    "tls_client_certificate",
    "tls_client_ca",
    "tls_session_tickets",
    "tls_key_log",
];

/// The certificates for clients.
pub(super) fn certificates(root: &DeTable<'_>, reader: &mut Reader<'_>) -> Vec<CertificateSource> {
    let mut certificates = Vec::new();
    for section in several(root, &CERTIFICATES, reader) {
        let mut file = |name| file(reader, &section, name);
        let (certificate, key, staple) = (file("certificate"), file("key"), file("ocsp"));
        let names = list(reader, &section, "self_signed", address::route_host);
        let has_names = section.get("self_signed").is_some();
        let has_files = ["certificate", "key", "ocsp"]
            .into_iter()
            .find(|name| section.get(name).is_some());
        let finding = match (has_names, has_files) {
            (true, None) => {
                if !names.is_empty() {
                    certificates.push(CertificateSource::SelfSigned(names));
                }
                continue;
            }
            (true, Some(name)) => {
                Finding::fault("a certificate is both read from files and made here")
                    .at(
                        section
                            .value_span(name)
                            .unwrap_or_else(|| section.span.clone()),
                        "this is a file",
                    )
                    .help(format!("remove `self_signed`, or `{name}`"))
            }
            (false, _) => {
                let missing = ["certificate", "key"]
                    .into_iter()
                    .find(|name| section.get(name).is_none());
                if let Some(name) = missing {
                    Finding::fault(format!("a certificate is there without its `{name}`"))
                        .at(section.span.clone(), "not whole")
                        .help("it takes both: certificate = \"shop.pem\" and key = \"shop.key\"; to try things out: self_signed = [\"localhost\"]")
                } else {
                    if let (Some(certificate), Some(key)) = (certificate, key) {
                        certificates.push(CertificateSource::Files {
                            certificate,
                            key,
                            staple,
                        });
                    }
                    continue;
                }
            }
        };
        reader.note(finding);
    }
    certificates
}

fn file(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<PathBuf> {
    reader.read(section, name, |scalar| match scalar.text.as_str() {
        "" => Err("nothing"),
        text => Ok(PathBuf::from(text)),
    })
}

/// How TLS is spoken with the clients of a listener, if it is. `has_certificates` if there are any.
pub(super) fn tls(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    has_certificates: bool,
) -> Option<ServerTlsSettings> {
    let wanted = switch(reader, section, "tls").unwrap_or(false);
    let mut tls = ServerTlsSettings::default();
    let version = reader.read(section, "tls_min_version", |scalar| {
        match scalar.text.as_str() {
            "1.2" => Ok(MinVersion::Tls12),
            "1.3" => Ok(MinVersion::Tls13),
            _ => Err("unknown word"),
        }
    });
    set(&mut tls.min_version, version);
    set(
        &mut tls.handshake_timeout,
        time(reader, section, "tls_handshake_timeout"),
    );
    set(
        &mut tls.tickets,
        switch(reader, section, "tls_session_tickets"),
    );
    set(&mut tls.key_log, switch(reader, section, "tls_key_log"));
    let auth = reader.read(section, "tls_client_certificate", |scalar| {
        match scalar.text.as_str() {
            "none" => Ok(None),
            "optional" => Ok(Some(ClientAuth::Optional)),
            "require" => Ok(Some(ClientAuth::Required)),
            _ => Err("unknown word"),
        }
    });
    let ca = file(reader, section, "tls_client_ca");
    match (auth.flatten(), ca) {
        (Some(auth), Some(ca)) => {
            tls.client_auth = Some((auth, ca));
        }
        (Some(_), None) if section.get("tls_client_ca").is_none() => fault(
            reader,
            section,
            "tls_client_certificate",
            "clients are asked for a certificate, and none would be trusted",
            "add `tls_client_ca`, a PEM file of the authorities that may have issued it",
        ),
        (None, Some(_)) if auth.is_none() && section.get("tls_client_certificate").is_none() => {
            fault(
                reader,
                section,
                "tls_client_ca",
                "`tls_client_ca` is there, and no client is asked for a certificate",
                "add `tls_client_certificate = \"require\"` (or \"optional\"), or remove it",
            );
        }
        (Some(_) | None, _) => {}
    }
    if !wanted && let Some(name) = OF_TLS.into_iter().find(|name| section.get(name).is_some()) {
        fault(
            reader,
            section,
            name,
            &format!("a listener has `{name}` and speaks no TLS"),
            "add `tls = true`, or remove it",
        );
    }
    if wanted && !has_certificates {
        fault(
            reader,
            section,
            "tls",
            "a listener speaks TLS, and there is no certificate",
            "add one:\n[[certificates]]\ncertificate = \"shop.pem\"\nkey = \"shop.key\"\nor, to try things out:\n\
             [[certificates]]\nself_signed = [\"localhost\"]",
        );
    }
    wanted.then_some(tls)
}

fn fault(reader: &mut Reader<'_>, section: &Section<'_>, name: &str, message: &str, help: &str) {
    let span = section.value_span(name);
    reader.note(
        Finding::fault(message)
            .at(span.unwrap_or_else(|| section.span.clone()), "here")
            .help(help),
    );
}
