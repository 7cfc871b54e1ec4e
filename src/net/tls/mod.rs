//! TLS: towards backends, and towards clients. The only folder that knows rustls.

mod certificates;
mod client;
mod server;
mod subject;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::VerifierBuilderError;
use rustls::{CipherSuite, SupportedCipherSuite};
use x509_parser::error::X509Error;

pub use certificates::{CertificateSource, Prepared, Served, Shown};
pub use client::{Offer, Shaken, Tls, TlsSettings};
pub use server::{ClientAuth, Greeted, HandshakeFault, MinVersion, ServerTls, ServerTlsSettings};

pub(super) use tokio_rustls::TlsStream;

/// Why TLS cannot be spoken as asked for.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds no PEM.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds nothing of what it is named for.
    #[error("{} holds no {what}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// The system has no authorities.
    #[error(
        "this system trusts no authority: install its `ca-certificates`, or name a file with `tls_ca`"
    )]
    NoAuthorities,
    /// No certificate can be for this name.
    #[error("{0} is no name that a certificate can be for: set `tls_name`")]
    Name(String),
    /// The key does not fit the certificate, or either cannot be used.
    #[error("the certificate in {} cannot be used: {source}", path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The authorities in a file cannot be used.
    #[error("the authorities in {} cannot be used: {source}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: VerifierBuilderError,
    },
    /// What is in a file is no certificate.
    #[error("the certificate in {} cannot be read: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: X509Error,
    },
    /// A certificate could not be made.
    #[error("no certificate can be made for {names}: {source}")]
    Made {
        /// The names it was to be for.
        names: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// There is no randomness for the keys of tickets.
    #[error("the keys of session tickets cannot be made: {0}")]
    Tickets(rustls::Error),
}

/// What does the arithmetic, with the suites in the order in which we take them: AES-128 first. It is as good as
/// AES-256 for all that is known, and its SHA-256 has instructions of its own where SHA-384 has none, which is a
/// tenth of a handshake.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_later = |suite: &SupportedCipherSuite| {
        !matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(is_later);
    provider
}

/// Reads a file, once, and adds what is in it to `files`.
fn read<'a>(path: &Path, files: &'a mut Vec<Vec<u8>>) -> Result<&'a [u8], TlsError> {
    let content = fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    files.push(content);
    Ok(files.last().expect("it was just added"))
}

fn chain(path: &Path, files: &mut Vec<Vec<u8>>) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(read(path, files)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unreadable(path, error))?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(certificates)
}

fn private_key(path: &Path, files: &mut Vec<Vec<u8>>) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(read(path, files)?).map_err(|error| {
        if matches!(error, pem::Error::NoItemsFound) {
            return TlsError::Empty {
                path: path.to_owned(),
                what: "private key",
            };
        }
        unreadable(path, error)
    })
}

fn unreadable(path: &Path, error: pem::Error) -> TlsError {
    TlsError::Read {
        path: path.to_owned(),
        source: io::Error::other(error),
    }
}
