//! TLS towards clients: what is asked for, and the handshake.

use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::{HandshakeKind, KeyLogFile, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, server};

use super::certificates::Served;
use super::{TlsError, TlsStream, chain, provider, subject};
use crate::net::wire::{Raw, Wire};

/// How TLS is spoken to the clients of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTlsSettings {
    /// The oldest version that is spoken.
    ///
    /// Default: TLS 1.2. Source: nginx, `ssl_protocols`; Apache httpd 2.4, `SSLProtocol`.
    pub min_version: MinVersion,

    /// Whether clients have to show a certificate, and PEM file of the authorities that it may be of.
    ///
    /// Default: none is asked for. Source: nginx, `ssl_verify_client`, `ssl_client_certificate`; Apache
    /// httpd 2.4, `SSLVerifyClient`, `SSLCACertificateFile`.
    pub client_auth: Option<(ClientAuth, PathBuf)>,

    /// Whether clients are given tickets to resume their sessions with. Their keys are made here, change
    /// every six hours, and are not shared with other machines.
    ///
    /// Default: on. Source: nginx, `ssl_session_tickets`; RFC 8446 §4.6.1, RFC 5077.
    pub tickets: bool,

    /// How long a handshake may take.
    ///
    /// Default: 10 s. Source: nginx, `client_header_timeout` (60 s); Apache httpd 2.4,
    /// `RequestReadTimeout handshake=` (unlimited).
    pub handshake_timeout: Duration,

    /// Whether HTTP/2 is offered (ALPN).
    pub http2: bool,

    /// Whether the keys of every connection are written to the file that the environment's `SSLKEYLOGFILE`
    /// names: whoever has it can read what was recorded of them.
    ///
    /// Default: off.
    pub key_log: bool,
}

impl Default for ServerTlsSettings {
    fn default() -> ServerTlsSettings {
        ServerTlsSettings {
            min_version: MinVersion::Tls12,
            client_auth: None,
            tickets: true,
            handshake_timeout: Duration::from_secs(10),
            http2: true,
            key_log: false,
        }
    }
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// Whether a client has to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It may; one that is shown has to be of a trusted authority.
    Optional,
    /// It has to.
    Required,
}

/// TLS to the clients of one listener. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    made_from: Arc<MadeFrom>,
}

#[derive(Debug)]
struct MadeFrom {
    settings: ServerTlsSettings,
    /// What was in the authorities' file.
    files: Vec<Vec<u8>>,
    served: Arc<Served>,
}

/// What came out of a handshake with a client.
#[derive(Clone, Debug)]
pub struct Greeted {
    /// The client chose HTTP/2.
    pub http2: bool,
    /// An earlier session was resumed.
    pub resumed: bool,
    /// The subject of the certificate that the client has shown, as a header.
    pub subject: Option<HeaderValue>,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeFault {
    /// It took too long.
    #[error("the TLS handshake did not come to its end in time")]
    Timeout,
    /// The client has gone.
    #[error("the client left during the TLS handshake")]
    Gone,
    /// What came is plain HTTP.
    #[error("the client speaks plain HTTP where TLS is spoken")]
    PlainHttp(Raw),
    /// Anything else.
    #[error("TLS handshake: {0}")]
    Other(io::Error),
}

impl ServerTls {
    /// Reads what `settings` name. Takes over `old` where it would be the same, so that its tickets stay
    /// good.
    ///
    /// # Errors
    /// [`TlsError`]: which file, and what is wrong with it.
    pub fn load(
        settings: &ServerTlsSettings,
        served: &Arc<Served>,
        old: Option<&ServerTls>,
    ) -> Result<ServerTls, TlsError> {
        let mut files = Vec::new();
        let provider = Arc::new(provider());
        let versions: &[&SupportedProtocolVersion] = match settings.min_version {
            MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            MinVersion::Tls13 => &[&rustls::version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .expect("the provider has suites for TLS 1.2 and 1.3");
        let builder = match &settings.client_auth {
            None => builder.with_no_client_auth(),
            Some((auth, path)) => {
                let mut roots = RootCertStore::empty();
                let (_, refused) = roots.add_parsable_certificates(chain(path, &mut files)?);
                if roots.is_empty() || refused > 0 {
                    return Err(TlsError::Empty {
                        path: path.clone(),
                        what: "usable certificate",
                    });
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = match auth {
                    ClientAuth::Optional => verifier.allow_unauthenticated(),
                    ClientAuth::Required => verifier,
                };
                builder.with_client_cert_verifier(verifier.build().map_err(|source| {
                    TlsError::Authorities {
                        path: path.clone(),
                        source,
                    }
                })?)
            }
        };
        if let Some(old) = old
            && old.made_from.settings == *settings
            && old.made_from.files == files
            && Arc::ptr_eq(&old.made_from.served, served)
        {
            return Ok(old.clone());
        }
        let mut config = builder.with_cert_resolver(Arc::clone(served) as _);
        // The order of `provider`.
        config.ignore_client_order = true;
        if settings.http2 {
            config.alpn_protocols.push(b"h2".to_vec());
        }
        config.alpn_protocols.push(b"http/1.1".to_vec());
        if settings.tickets {
            config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Tickets)?;
            // A ticket holds all that is needed.
            config.session_storage = Arc::new(NoServerSessionStorage {});
        } else {
            config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        }
        if settings.key_log {
            config.key_log = Arc::new(KeyLogFile::new());
        }
        Ok(ServerTls {
            config: Arc::new(config),
            made_from: Arc::new(MadeFrom {
                settings: settings.clone(),
                files,
                served: Arc::clone(served),
            }),
        })
    }

    /// Begins TLS with a client that has connected.
    ///
    /// # Errors
    /// [`HandshakeFault`].
    ///
    /// # Cancellation
    /// Closes the connection.
    pub async fn greet(&self, raw: Raw) -> Result<(Wire, Greeted), HandshakeFault> {
        // On the heap: it is large, and most of a connection's life it is over.
        let shaking = Box::pin(self.shake(raw));
        let shaken = timeout(self.made_from.settings.handshake_timeout, shaking).await;
        let stream = shaken.map_err(|_| HandshakeFault::Timeout)??;
        let session = stream.get_ref().1;
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let greeted = Greeted {
            http2: session.alpn_protocol() == Some(b"h2"),
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            subject: shown
                .and_then(subject::of)
                .and_then(|text| HeaderValue::from_maybe_shared(Bytes::from(text)).ok()),
        };
        Ok((Wire::Tls(Box::new(TlsStream::from(stream))), greeted))
    }

    async fn shake(&self, raw: Raw) -> Result<server::TlsStream<Raw>, HandshakeFault> {
        // TLS would answer plain HTTP with an alert, which such a client takes for nonsense.
        match poll_fn(|cx| raw.poll_first_byte(cx)).await {
            Ok(Some(first)) if first.is_ascii_uppercase() => Err(HandshakeFault::PlainHttp(raw)),
            Ok(Some(_)) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
                acceptor.accept(raw).await.map_err(HandshakeFault::of)
            }
            Ok(None) => Err(HandshakeFault::Gone),
            Err(error) => Err(HandshakeFault::of(error)),
        }
    }
}

/// How many sessions are kept where there are no tickets.
const SESSIONS: usize = 10_000;

impl HandshakeFault {
    fn of(error: io::Error) -> HandshakeFault {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "all but these two speak for themselves"
        )]
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => HandshakeFault::Gone,
            _ => HandshakeFault::Other(error),
        }
    }
}
