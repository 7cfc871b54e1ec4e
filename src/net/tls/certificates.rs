//! The certificates that are shown to clients: read from files, found by the name that a client asks for,
//! and read again when a file has changed.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

use super::subject;
use super::{TlsError, chain, private_key};

/// Where a certificate for clients comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// PEM files. They are read again when one of them has changed.
    ///
    /// Source: nginx, `ssl_certificate`, `ssl_certificate_key`, `ssl_stapling_file`; Apache httpd 2.4,
    /// `SSLCertificateFile`, `SSLCertificateKeyFile`.
    Files {
        /// The certificate, and behind it its chain.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// The authority's word that it is not revoked, in DER, sent along with it (OCSP, RFC 6961).
        staple: Option<PathBuf>,
    },
    /// One that is made here, for these names, and that nobody trusts: for trying things out.
    SelfSigned(Vec<String>),
}

/// The certificates of the listeners that speak TLS, in whatever state their files have now.
///
/// All workers have the same one. A handshake takes its read lock for a look-up in a table; the write lock
/// is taken when a file has changed.
#[derive(Debug, Default)]
pub struct Served {
    set: RwLock<Arc<Set>>,
}

/// Certificates that were read, and are not shown yet.
#[derive(Debug)]
pub struct Prepared(Set);

/// What a change of files has come to.
#[derive(Debug, Default)]
struct Set {
    sources: Vec<CertificateSource>,
    /// For each source, in their order.
    keys: Vec<Entry>,
    /// Whole names → places in `keys`, in the order of the sources.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// What follows the `*.` of a wildcard → the same.
    wildcards: HashMap<Box<str>, Vec<usize>>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    /// In seconds since 1970.
    expires: i64,
    stamps: Vec<Stamp>,
}

/// What tells one state of a file from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    changed: Option<SystemTime>,
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Stamp> {
        let meta = fs::metadata(path)?;
        Ok(Stamp {
            length: meta.len(),
            changed: meta.modified().ok(),
        })
    }
}

/// One certificate as operators want to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its first name.
    pub name: String,
    /// Until when it is valid, in seconds since 1970.
    pub expires: i64,
}

impl Served {
    /// Reads what `sources` name, to be put in the place of what there is. What was made here is taken over,
    /// where the same is asked for.
    ///
    /// # Errors
    /// [`TlsError`]: which file, and what is wrong with it.
    pub fn prepare(&self, sources: &[CertificateSource]) -> Result<Prepared, TlsError> {
        let now = self.now();
        let keep = |source: &CertificateSource| {
            let place = now.sources.iter().position(|one| one == source)?;
            matches!(source, CertificateSource::SelfSigned(_)).then(|| now.keys[place].clone())
        };
        let entries = sources.iter().map(|source| match keep(source) {
            Some(entry) => Ok(entry),
            None => Entry::load(source),
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        Ok(Prepared(Set::of(sources.to_vec(), entries)))
    }

    /// Puts it in the place of what there is: for handshakes from now on.
    pub fn put(&self, Prepared(next): Prepared) {
        let mut set = self.set.write().unwrap_or_else(PoisonError::into_inner);
        *set = Arc::new(next);
    }

    /// Looks at the files, and reads those again that have changed. What cannot be used is said in the log,
    /// once, and what was there before stays in use.
    pub fn refresh(&self) {
        let now = self.now();
        let mut entries = now.keys.clone();
        let mut has_changed = false;
        for (source, entry) in now.sources.iter().zip(&mut entries) {
            let stamps = source.stamps();
            if stamps.is_empty() || stamps == entry.stamps {
                continue;
            }
            has_changed = true;
            match Entry::load(source) {
                Ok(read) => {
                    info!(certificate = %read.title(), "its files have changed: read again");
                    *entry = read;
                }
                Err(error) => {
                    warn!(certificate = %entry.title(), %error, "its files have changed and cannot be used: the old one stays");
                    entry.stamps = stamps;
                }
            }
        }
        if has_changed {
            self.put(Prepared(Set::of(now.sources.clone(), entries)));
        }
    }

    /// Every certificate, in the order of the settings.
    pub fn shown(&self) -> Vec<Shown> {
        let now = self.now();
        let shown = now.keys.iter().map(|entry| Shown {
            name: entry.title().to_owned(),
            expires: entry.expires,
        });
        shown.collect()
    }

    fn now(&self) -> Arc<Set> {
        let set = self.set.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&set)
    }
}

impl CertificateSource {
    /// Its files as they are; without those that cannot be looked at.
    fn stamps(&self) -> Vec<Stamp> {
        match self {
            CertificateSource::Files {
                certificate,
                key,
                staple,
            } => {
                let files = [certificate, key].into_iter().chain(staple);
                files.filter_map(|path| Stamp::of(path).ok()).collect()
            }
            CertificateSource::SelfSigned(_) => Vec::new(),
        }
    }
}

impl Entry {
    fn load(source: &CertificateSource) -> Result<Entry, TlsError> {
        let stamps = source.stamps();
        let (path, key) = match source {
            CertificateSource::Files {
                certificate,
                key,
                staple,
            } => {
                let mut files = Vec::new();
                let chain = chain(certificate, &mut files)?;
                let mut certified = certified(chain, &private_key(key, &mut files)?, certificate)?;
                certified.ocsp = staple.as_deref().map(read_staple).transpose()?;
                (certificate.clone(), certified)
            }
            CertificateSource::SelfSigned(names) => {
                let path = PathBuf::from("self_signed");
                let (chain, key) = self_signed(names).map_err(|source| TlsError::Made {
                    names: names.join(", "),
                    source,
                })?;
                (path.clone(), certified(vec![chain], &key, &path)?)
            }
        };
        let facts = subject::facts(&key.cert[0]).map_err(|source| TlsError::Unusable {
            path: path.clone(),
            source,
        })?;
        if facts.names.is_empty() {
            return Err(TlsError::Empty {
                path,
                what: "name that it is for (a subject alternative name)",
            });
        }
        Ok(Entry {
            key: Arc::new(key),
            names: facts.names,
            expires: facts.expires,
            stamps,
        })
    }

    fn title(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
    path: &Path,
) -> Result<CertifiedKey, TlsError> {
    let unusable = |source| TlsError::Certificate {
        path: path.to_owned(),
        source,
    };
    let key = any_supported_type(key).map_err(unusable)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // Some keys do not tell their public half.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(certified)
        }
        Err(error) => Err(unusable(error)),
    }
}

fn read_staple(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    // A sequence, as every answer of OCSP is; PEM begins with dashes.
    if read.first() == Some(&0x30) {
        Ok(read)
    } else {
        Err(TlsError::Empty {
            path: path.to_owned(),
            what: "OCSP response in DER",
        })
    }
}

/// A certificate that nobody has signed but itself.
fn self_signed(
    names: &[String],
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), rcgen::Error> {
    let made = rcgen::generate_simple_self_signed(names)?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((made.cert.der().clone(), key.into()))
}

impl Set {
    fn of(sources: Vec<CertificateSource>, keys: Vec<Entry>) -> Set {
        let mut set = Set {
            sources,
            ..Set::default()
        };
        for (place, entry) in keys.iter().enumerate() {
            for name in &entry.names {
                let (table, name) = match name.strip_prefix("*.") {
                    Some(rest) => (&mut set.wildcards, rest),
                    None => (&mut set.exact, name.as_str()),
                };
                table.entry(name.into()).or_default().push(place);
            }
        }
        set.keys = keys;
        set
    }

    /// The certificates for a name: those that name it before those with a wildcard, which stands for one
    /// label. Source: RFC 9525 §6.3.
    fn for_name(&self, name: &str) -> Option<&[usize]> {
        let found = self.exact.get(name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.wildcards.get(parent)
        });
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Served {
    /// The first certificate for the name that the client asks for whose key it can use; for any other name,
    /// and for none, the first of all.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let set = self.now();
        let usable = |place: &usize| {
            let key = &set.keys[*place].key;
            let scheme = key.key.choose_scheme(hello.signature_schemes());
            scheme.map(|_| Arc::clone(key))
        };
        let named = hello.server_name().and_then(|name| {
            // rustls hands names on in lower case.
            let places = set.for_name(name)?;
            places.iter().find_map(usable)
        });
        named.or_else(|| (0..set.keys.len()).find_map(|place| usable(&place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&[&str]]) -> Set {
        let entries = names.iter().map(|names| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            Entry::load(&CertificateSource::SelfSigned(names)).unwrap()
        });
        Set::of(Vec::new(), entries.collect())
    }

    #[test]
    fn a_name_finds_its_certificate_and_a_wildcard_stands_for_one_label() {
        let set = set(&[
            &["shop.example", "www.shop.example"],
            &["*.shop.example"],
            &["shop.example"],
        ]);
        for (name, found) in [
            ("shop.example", Some(&[0, 2][..])),
            ("www.shop.example", Some(&[0])),
            ("api.shop.example", Some(&[1])),
            ("a.b.shop.example", None),
            ("example", None),
            ("other", None),
        ] {
            assert_eq!(set.for_name(name), found, "{name}");
        }
    }

    #[test]
    fn what_was_made_here_stays_through_a_reload() {
        let sources = [CertificateSource::SelfSigned(vec!["localhost".to_owned()])];
        let served = Served::default();
        served.put(served.prepare(&sources).unwrap());
        let first = served.now();
        served.put(served.prepare(&sources).unwrap());
        assert!(Arc::ptr_eq(&first.keys[0].key, &served.now().keys[0].key));
    }

    #[test]
    fn files_that_have_changed_are_read_again_and_what_cannot_be_used_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let write = |name: &str| {
            let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
            fs::write(file("pem"), made.cert.pem()).unwrap();
            fs::write(file("key"), made.signing_key.serialize_pem()).unwrap();
        };
        write("a.example");
        let source = CertificateSource::Files {
            certificate: file("pem"),
            key: file("key"),
            staple: None,
        };
        let served = Served::default();
        served.put(served.prepare(&[source]).unwrap());
        let first = served.now();
        served.refresh();
        assert!(Arc::ptr_eq(&first, &served.now()), "nothing has changed");
        fs::write(file("pem"), "no certificate").unwrap();
        served.refresh();
        assert_eq!(served.shown()[0].name, "a.example");
        // The key of another, as it is between two writes.
        write("longer.example");
        let key = fs::read(file("key")).unwrap();
        write("other.example");
        fs::write(file("key"), key).unwrap();
        served.refresh();
        assert_eq!(served.shown()[0].name, "a.example");
        write("the-last.example");
        served.refresh();
        assert_eq!(served.shown()[0].name, "the-last.example");
        fs::remove_file(file("key")).unwrap();
        served.refresh();
        assert_eq!(served.shown()[0].name, "the-last.example");
    }
}
