//! What is spoken to the backends of an upstream: the protocol, TLS, the PROXY header.

use std::num::NonZeroU32;
use std::path::PathBuf;

use super::read::{Reader, Section};
use super::report::Finding;
use super::values::{number, set, switch};
use crate::backend::{self, Protocol};
use crate::net::{ProxyProtocol, TlsSettings};

/// The settings that say how TLS is spoken, once it is.
const OF_TLS: [&str; 4] = ["tls_name", "tls_ca", "tls_certificate", "tls_key"];

/// Reads what is spoken into `settings`, whose limits have been read.
pub(super) fn transport(
    settings: &mut backend::Settings,
    section: &Section<'_>,
    reader: &mut Reader<'_>,
) {
    settings.tls = tls(section, reader);
    let protocol = reader.read(section, "protocol", |scalar| match scalar.text.as_str() {
        "http/1.1" => Ok(Protocol::Http1),
        "h2" => Ok(Protocol::Http2),
        "auto" => Ok(Protocol::Either),
        _ => Err("unknown word"),
    });
    set(&mut settings.protocol, protocol);
    let streams = number(reader, section, "max_streams");
    set(&mut settings.max_streams, streams.and_then(NonZeroU32::new));
    let proxy = reader.read(section, "proxy_protocol", |scalar| {
        match scalar.text.as_str() {
            "off" => Ok(None),
            "v1" => Ok(Some(ProxyProtocol::V1)),
            "v2" => Ok(Some(ProxyProtocol::V2)),
            _ => Err("unknown word"),
        }
    });
    set(&mut settings.proxy_protocol, proxy);
    if settings.protocol == Protocol::Http2 && section.get("max_connecting").is_none() {
        // The first one carries what waits for it: the others would be opened for nothing.
        settings.pool.max_connecting = NonZeroU32::new(1);
    }
    check(settings, section, reader);
}

fn tls(section: &Section<'_>, reader: &mut Reader<'_>) -> Option<TlsSettings> {
    let wanted = switch(reader, section, "tls").unwrap_or(false);
    let mut tls = TlsSettings::default();
    let text = |reader: &mut Reader<'_>, name| {
        reader.read(section, name, |scalar| match scalar.text.as_str() {
            "" => Err("nothing"),
            text => Ok(text.to_owned()),
        })
    };
    tls.name = text(reader, "tls_name");
    tls.ca = text(reader, "tls_ca").map(PathBuf::from);
    let certificate = text(reader, "tls_certificate").map(PathBuf::from);
    let key = text(reader, "tls_key").map(PathBuf::from);
    set(&mut tls.verify, switch(reader, section, "tls_verify"));
    for (one, other, there, missing) in [
        ("tls_certificate", "tls_key", &certificate, &key),
        ("tls_key", "tls_certificate", &key, &certificate),
    ] {
        if there.is_some() && missing.is_none() {
            fault(
                reader,
                section,
                one,
                format!(
                    "`{one}` of {} is there without its `{other}`",
                    section.header
                ),
                &format!("add `{other}`: one is of no use without the other"),
            );
        }
    }
    tls.certificate = certificate.zip(key);
    if !wanted && let Some(name) = OF_TLS.into_iter().find(|name| section.get(name).is_some()) {
        fault(
            reader,
            section,
            name,
            format!("{} has `{name}` and speaks no TLS", section.header),
            "add `tls = true`, or remove it",
        );
    }
    wanted.then_some(tls)
}

/// What does not go together.
fn check(settings: &backend::Settings, section: &Section<'_>, reader: &mut Reader<'_>) {
    if settings.protocol == Protocol::Either && settings.tls.is_none() {
        fault(
            reader,
            section,
            "protocol",
            format!(
                "without TLS the backends of {} cannot choose a protocol",
                section.header
            ),
            "add `tls = true`, or say which: \"http/1.1\" or \"h2\"",
        );
    }
    if settings.proxy_protocol.is_some() && settings.pool.min_idle > 0 {
        fault(
            reader,
            section,
            "min_idle",
            format!(
                "{} cannot keep connections ready: each is opened for one client",
                section.header
            ),
            "remove `min_idle`, or `proxy_protocol`",
        );
    }
}

fn fault(reader: &mut Reader<'_>, section: &Section<'_>, name: &str, message: String, help: &str) {
    let span = section.value_span(name);
    reader.note(
        Finding::fault(message)
            .at(span.unwrap_or_else(|| section.span.clone()), "here")
            .help(help),
    );
}
