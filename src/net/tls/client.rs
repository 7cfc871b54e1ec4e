//! TLS towards backends: the certificates that are asked for, and the handshake.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::{TlsError, TlsStream, chain, private_key, provider};
use crate::net::wire::Raw;

/// How TLS is spoken to the backends of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The name that is asked for (SNI) and that the certificate has to be for; `None`: the
    /// server's host as written.
    ///
    /// Source: nginx, `proxy_ssl_name`.
    pub name: Option<String>,

    /// PEM file of the authorities that are trusted; `None`: the system's.
    ///
    /// Source: nginx, `proxy_ssl_trusted_certificate`; Apache httpd 2.4,
    /// `SSLProxyCACertificateFile`.
    pub ca: Option<PathBuf>,

    /// PEM files of the certificate, with its chain, and the key to show to backends that ask.
    ///
    /// Source: nginx, `proxy_ssl_certificate`; Apache httpd 2.4, `SSLProxyMachineCertificateFile`.
    pub certificate: Option<(PathBuf, PathBuf)>,

    /// Whether the backend has to show a certificate of a trusted authority for its name. Off:
    /// anybody who answers at its address is believed.
    ///
    /// Default: on. Source: Apache httpd 2.4, `SSLProxyVerify` (there off); nginx,
    /// `proxy_ssl_verify` (off).
    pub verify: bool,
}

impl Default for TlsSettings {
    fn default() -> TlsSettings {
        TlsSettings {
            name: None,
            ca: None,
            certificate: None,
            verify: true,
        }
    }
}

/// Which protocols are offered within TLS (ALPN, RFC 7301), the preferred first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// HTTP/2.
    pub http2: bool,
    /// HTTP/1.1.
    pub http1: bool,
}

/// TLS to the backends of one upstream. Cheap to clone; all clones resume each other's sessions.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    made_from: Arc<MadeFrom>,
}

/// What it was made from: with the same of all, it is the same.
#[derive(Debug, PartialEq, Eq)]
struct MadeFrom {
    settings: TlsSettings,
    offer: Offer,
    /// What was in the files, or the system's certificates.
    files: Vec<Vec<u8>>,
}

/// The same if they were made from the same.
impl PartialEq for Tls {
    fn eq(&self, other: &Tls) -> bool {
        self.made_from == other.made_from
    }
}

impl Eq for Tls {}

/// What came out of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shaken {
    /// The backend chose HTTP/2.
    pub http2: bool,
    /// An earlier session was resumed: no certificate, and a fraction of the CPU.
    pub resumed: bool,
}

impl Tls {
    /// Reads the files that `settings` name.
    ///
    /// # Errors
    /// [`TlsError`]: which file, and what is wrong with it.
    pub fn load(settings: &TlsSettings, offer: Offer) -> Result<Tls, TlsError> {
        let mut files = Vec::new();
        let provider = Arc::new(provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let builder = if settings.verify {
            let (roots, path) = authorities(settings.ca.as_deref(), &mut files)?;
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|source| TlsError::Authorities { path, source })?;
            builder.with_webpki_verifier(verifier)
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        };
        let mut config = match &settings.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    chain(certificate, &mut files)?,
                    private_key(key, &mut files)?,
                )
                .map_err(|source| TlsError::Certificate {
                    path: certificate.clone(),
                    source,
                })?,
        };
        for (offered, protocol) in [(offer.http2, &b"h2"[..]), (offer.http1, b"http/1.1")] {
            if offered {
                config.alpn_protocols.push(protocol.to_vec());
            }
        }
        let name = settings.name.as_deref().map(server_name).transpose()?;
        Ok(Tls {
            config: Arc::new(config),
            name,
            made_from: Arc::new(MadeFrom {
                settings: settings.clone(),
                offer,
                files,
            }),
        })
    }

    /// Checks that a server can be asked for by its host as written.
    ///
    /// # Errors
    /// [`TlsError::Name`].
    pub fn check_host(&self, host: &str) -> Result<(), TlsError> {
        match self.name {
            Some(_) => Ok(()),
            None => server_name(host).map(drop),
        }
    }

    /// Begins TLS over an open connection to a server written as `host`.
    ///
    /// # Errors
    /// The connection's, or what is wrong with the other side's certificate.
    ///
    /// # Cancellation
    /// Closes the connection.
    pub(in crate::net) async fn handshake(
        &self,
        host: &str,
        raw: Raw,
    ) -> io::Result<(Box<TlsStream<Raw>>, Shaken)> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(io::Error::other)?,
        };
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, raw).await?;
        let session = stream.get_ref().1;
        let shaken = Shaken {
            http2: session.alpn_protocol() == Some(b"h2"),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        };
        Ok((Box::new(stream.into()), shaken))
    }
}

fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))
}

/// The authorities of a file, or the system's; and where they were looked for. What was read is added
/// to `files`.
fn authorities(
    ca: Option<&Path>,
    files: &mut Vec<Vec<u8>>,
) -> Result<(RootCertStore, PathBuf), TlsError> {
    let mut roots = RootCertStore::empty();
    let certificates = if let Some(path) = ca {
        chain(path, files)?
    } else {
        let certificates = rustls_native_certs::load_native_certs().certs;
        files.extend(certificates.iter().map(|one| one.to_vec()));
        certificates
    };
    // Of the system's some may be too old for today's rules; of a file, that is worth a word.
    let (_, refused) = roots.add_parsable_certificates(certificates);
    match ca {
        Some(path) if roots.is_empty() || refused > 0 => Err(TlsError::Empty {
            path: path.to_owned(),
            what: "usable certificate",
        }),
        None if roots.is_empty() => Err(TlsError::NoAuthorities),
        _ => Ok((roots, ca.unwrap_or(Path::new("the system")).to_owned())),
    }
}

/// Believes anybody, who has only to hold the key of the certificate they show.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
