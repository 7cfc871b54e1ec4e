//! The settings of what is spoken to the backends of an upstream, listed and read: the protocol, TLS,
//! the PROXY header.

use std::num::NonZeroU32;
use std::path::PathBuf;

use super::read::{Reader, Section};
use super::report::Finding;
use super::setting::{Default, Setting, Takes};
use super::values::{list, number, set, switch, time};
use crate::backend::{self, Protocol, Upgrades};
use crate::net::{ProxyProtocol, TlsSettings};

/// `protocol`.
pub(super) const PROTOCOL: Setting = Setting {
    name: "protocol",
    alias: None,
    takes: Takes::Word(&["http/1.1", "h2", "auto"]),
    default: Default::Is("\"http/1.1\""),
    meaning: "What is spoken on connections to backends. `h2` is HTTP/2, with TLS or at \
              once; `auto` is what the backend chooses within TLS.",
    apache: "`h2:`, `h2c:` (mod_proxy_http2)",
    nginx: "`proxy_http_version` (1.0; 2 since 1.29.4)",
};

/// `max_streams`.
pub(super) const MAX_STREAMS: Setting = Setting {
    name: "max_streams",
    alias: None,
    takes: Takes::Whole {
        least: 1,
        most: u32::MAX as u64,
        unit: "requests",
        zero: None,
    },
    default: Default::Is("100"),
    meaning: "The most requests at once on one HTTP/2 connection; fewer where the backend \
              takes fewer.",
    apache: "none",
    nginx: "none",
};

/// `upgrade`.
pub(super) const UPGRADE: Setting = Setting {
    name: "upgrade",
    alias: None,
    takes: Takes::Upgrades,
    default: Default::Is("[\"websocket\"]"),
    meaning: "The protocols that a client may leave HTTP/1.1 for (`Upgrade`); `h2c` never.",
    apache: "`ProxyPass … upgrade=` (none)",
    nginx: "`proxy_set_header Upgrade $http_upgrade` (not set)",
};

/// `tunnel_timeout`.
pub(super) const TUNNEL_TIMEOUT: Setting = Setting {
    name: "tunnel_timeout",
    alias: None,
    takes: Takes::Time { zero: None },
    default: Default::Is("\"1h\""),
    meaning: "The longest that nothing may pass on an upgraded connection, either way. Once one side has ended, \
              `timeout` holds if it is shorter.",
    apache: "`ProxyWebsocketIdleTimeout` (none)",
    nginx: "`proxy_read_timeout`, `proxy_send_timeout` (60s)",
};

/// `proxy_protocol`.
pub(super) const PROXY_PROTOCOL: Setting = Setting {
    name: "proxy_protocol",
    alias: None,
    takes: Takes::Word(&["off", "v1", "v2"]),
    default: Default::Is("\"off\""),
    meaning: "Whether a connection begins with a PROXY header that names its client. It \
              then carries requests of that client's connection only.",
    apache: "none",
    nginx: "`proxy_protocol` (stream only)",
};

/// `tls`.
pub(super) const TLS: Setting = Setting {
    name: "tls",
    alias: None,
    takes: Takes::Switch,
    default: Default::Is("false"),
    meaning: "Whether TLS (1.2 or 1.3) is spoken to backends. Port 443 unless given.",
    apache: "`https://` in the address, `SSLProxyEngine`",
    nginx: "`https://` in `proxy_pass`",
};

/// `tls_name`.
pub(super) const TLS_NAME: Setting = Setting {
    name: "tls_name",
    alias: None,
    takes: Takes::Name,
    default: Default::None("the server's host as written"),
    meaning: "The name asked for (SNI), which the certificate has to be for.",
    apache: "the `Host` with `ProxyPreserveHost`, else the address",
    nginx: "`proxy_ssl_name`, `proxy_ssl_server_name` (off)",
};

/// `tls_ca`.
pub(super) const TLS_CA: Setting = Setting {
    name: "tls_ca",
    alias: None,
    takes: Takes::File,
    default: Default::None("the system's authorities"),
    meaning: "PEM file of the authorities that backends' certificates are trusted by.",
    apache: "`SSLProxyCACertificateFile`",
    nginx: "`proxy_ssl_trusted_certificate`",
};

/// `tls_certificate`.
pub(super) const TLS_CERTIFICATE: Setting = Setting {
    name: "tls_certificate",
    alias: None,
    takes: Takes::File,
    default: Default::None("none is shown"),
    meaning: "PEM file of the certificate, with its chain, for backends that ask for one.",
    apache: "`SSLProxyMachineCertificateFile`",
    nginx: "`proxy_ssl_certificate`",
};

/// `tls_key`.
pub(super) const TLS_KEY: Setting = Setting {
    name: "tls_key",
    alias: None,
    takes: Takes::File,
    default: Default::None("none"),
    meaning: "PEM file of that certificate's key.",
    apache: "`SSLProxyMachineCertificateFile`, the same file",
    nginx: "`proxy_ssl_certificate_key`",
};

/// `tls_verify`.
pub(super) const TLS_VERIFY: Setting = Setting {
    name: "tls_verify",
    alias: None,
    takes: Takes::Switch,
    default: Default::Is("true"),
    meaning: "Whether a backend's certificate has to be of a trusted authority and for its \
              name. Off believes anybody who answers.",
    apache: "`SSLProxyVerify` (none)",
    nginx: "`proxy_ssl_verify` (off)",
};

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
    if section.get("upgrade").is_some() {
        settings.upgrade = Upgrades::of(list(reader, section, "upgrade", Upgrades::read));
    }
    set(
        &mut settings.tunnel_timeout,
        time(reader, section, "tunnel_timeout"),
    );
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
    if settings.sockets.fast_open && settings.tls.is_none() {
        fault(
            reader,
            section,
            "tcp_fastopen",
            format!("{} has `tcp_fastopen` and speaks no TLS", section.header),
            "without TLS a request could arrive twice: add `tls = true`, or remove it",
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
