//! What is asked for on the backend side.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::{Closing, Upgrades};
use crate::account::Arm;
use crate::keepalive::{KeepAlive, Verdict};
use crate::lookup;
use crate::net::SocketOptions;
use crate::net::{Offer, ProxyProtocol, TlsSettings};
use crate::pool;
use crate::split;

/// An upstream: a named set of backends, and how they are spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name routes use for it.
    pub name: String,

    /// The backends, at least one.
    pub servers: Vec<ServerSettings>,

    /// How connections are kept, limited and waited for, and whether they are kept at all: with
    /// `keep_alive.enabled` off it is the short mode, one connection a request.
    pub pool: pool::Settings,

    /// What is spoken on their connections.
    ///
    /// Default: HTTP/1.1. Source: nginx, `proxy_http_version`; Apache httpd 2.4, `h2:` and `h2c:`
    /// of `mod_proxy_http2`.
    pub protocol: Protocol,

    /// The most exchanges at once on one HTTP/2 connection; fewer where the backend takes fewer
    /// (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    ///
    /// Default: 100. Source: Envoy, `max_concurrent_streams`.
    pub max_streams: NonZeroU32,

    /// Whether TLS is spoken to them, and how.
    ///
    /// Default: no.
    pub tls: Option<TlsSettings>,

    /// Whether a connection begins with a PROXY header that names the client it was opened for. It
    /// then carries requests of that client's connection only.
    ///
    /// Default: no. Source: `HAProxy`, `send-proxy` and `send-proxy-v2`; nginx (stream),
    /// `proxy_protocol`.
    pub proxy_protocol: Option<ProxyProtocol>,

    /// The longest opening a connection may take, until HTTP can begin: TCP, the PROXY header, TLS,
    /// and HTTP/2's first settings.
    ///
    /// Default: 5 s. Source: Apache httpd 2.4, `mod_proxy`'s `connectiontimeout`.
    pub connect_timeout: Duration,

    /// The longest one read from or write to a backend may make no progress.
    ///
    /// A timer per wait, restarted by any progress. Waiting for the response head ends with 504,
    /// waiting inside a response body ends the response. Not a limit on the whole.
    ///
    /// Default: 60 s. Source: Apache httpd 2.4, `Timeout` and `ProxyTimeout`.
    pub timeout: Duration,

    /// How much of a request's body is kept while it passes, so that the request can be sent again,
    /// in bytes; 0 keeps none. What is longer, or of unknown length, is treated as a request that
    /// cannot be sent twice.
    ///
    /// Default: 64 KiB, the most that one request holds beyond what it needs. Source: nginx sends
    /// again what it has buffered (`proxy_request_buffering`); Envoy, `per_request_buffer_limit_bytes`.
    pub retry_body: u64,

    /// How long a connection has to have been idle to be asked by a system call whether its backend
    /// has closed it; `None` never asks. One that was idle for less is used if the event loop has
    /// seen nothing come in so far.
    ///
    /// Default: 100 ms. The call takes 0.2 µs. Zero always asks.
    pub probe_idle: Option<Duration>,

    /// What a client may leave HTTP/1.1 for: its `Upgrade` is passed on for these protocols, and what
    /// follows a `101 Switching Protocols` is passed on both ways as it is. What is asked for beside
    /// them is taken out of the request, which goes on as if it had not been there.
    ///
    /// Default: `websocket`. A browser's WebSocket is an ordinary request until the backend agrees, so
    /// nothing is opened by it that the backend does not offer.
    /// Source: Apache httpd 2.4, `ProxyPass … upgrade=`; nginx, `proxy_set_header Upgrade`.
    pub upgrade: Upgrades,

    /// The longest a tunnel, which is what an upgraded connection is, may move nothing either way.
    /// Once one side has ended, the other has `timeout`, if that is shorter.
    ///
    /// Default: 1 h. Much longer than `timeout`, as silence is what such a connection is made for, and
    /// not without end, as a peer that vanished without a word would never be noticed.
    /// Source: `HAProxy`, `timeout tunnel` (1h in its manual); nginx has `proxy_read_timeout` (60 s).
    pub tunnel_timeout: Duration,

    /// Whether backends see the `Host` the client named, or their own address.
    ///
    /// Default: the client's. Source: Apache httpd 2.4, `ProxyPreserveHost` (there off).
    pub preserve_host: bool,

    /// How backends are told about the client.
    pub forwarded: Forwarded,

    /// This machine's addresses to connect from; those of the backend's family count. Of several the
    /// one with the most ports left towards the backend is taken: each has its own. Empty: the kernel
    /// chooses.
    ///
    /// Default: none.
    /// Source: Apache httpd 2.4, `ProxySourceAddress`; nginx, `proxy_bind`.
    pub source_addresses: Vec<IpAddr>,

    /// The ports that a NAT between the proxy and the backends has towards each of their addresses, to be
    /// counted down like local ports. 0: there is none, or it has enough. Only figures follow from it.
    ///
    /// Default: 0.
    pub snat_ports: u32,

    /// Which share of the requests goes over connections that carry one each, to compare both ways.
    ///
    /// Default: none.
    pub split: Option<split::Settings>,

    /// What is set on their sockets.
    pub sockets: SocketOptions,

    /// How their connections are closed, hence who holds the `TIME_WAIT`.
    pub closing: Closing,

    /// Whether and how often the names among the servers are looked up again.
    pub resolve: lookup::Settings,
}

impl Settings {
    /// Whether its connections are kept.
    pub fn arm(&self) -> Arm {
        match self.pool.keep_alive.after_exchange(1) {
            Verdict::Keep => Arm::Pooled,
            Verdict::Close(_) => Arm::Short,
        }
    }

    /// An upstream of these servers with every other setting at its default.
    pub fn new(name: impl Into<String>, servers: Vec<ServerSettings>) -> Settings {
        Settings {
            name: name.into(),
            servers,
            pool: pool::Settings::new(KeepAlive::BACKEND),
            protocol: Protocol::default(),
            max_streams: NonZeroU32::new(100).expect("it is not zero"),
            tls: None,
            proxy_protocol: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_mins(1),
            retry_body: 64 << 10,
            probe_idle: Some(Duration::from_millis(100)),
            upgrade: Upgrades::default(),
            tunnel_timeout: Duration::from_hours(1),
            preserve_host: true,
            forwarded: Forwarded::default(),
            source_addresses: Vec::new(),
            snat_ports: 0,
            split: None,
            sockets: SocketOptions::default(),
            closing: Closing::default(),
            resolve: lookup::Settings::default(),
        }
    }

    /// The upstream that has the short share of this one's requests, if there is one.
    pub fn short_arm(&self) -> Option<Settings> {
        self.split.as_ref()?;
        let mut short = Settings {
            name: split::twin_name(&self.name),
            split: None,
            ..self.clone()
        };
        short.pool.keep_alive.enabled = false;
        short.pool.min_idle = 0;
        Some(short)
    }

    /// Whether connections that were made under `other` can be used under these settings: what
    /// differs, if anything, is asked of requests or of the set of servers alone.
    pub fn can_use_connections_of(&self, other: &Settings) -> bool {
        let alike = Settings {
            servers: self.servers.clone(),
            timeout: self.timeout,
            retry_body: self.retry_body,
            upgrade: self.upgrade.clone(),
            tunnel_timeout: self.tunnel_timeout,
            preserve_host: self.preserve_host,
            forwarded: self.forwarded,
            resolve: self.resolve.clone(),
            snat_ports: self.snat_ports,
            split: self.split.clone(),
            ..other.clone()
        };
        *self == alike
    }
}

/// What is spoken on the connections to backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: one exchange at a time on a connection. The default.
    #[default]
    Http1,
    /// HTTP/2: many at a time. With TLS it has to be chosen by the backend (ALPN); without, it is
    /// spoken at once ("prior knowledge").
    Http2,
    /// Whichever the backend chooses within TLS, HTTP/2 preferred.
    Either,
}

impl Protocol {
    /// What is offered within TLS.
    pub fn offer(self) -> Offer {
        Offer {
            http2: self != Protocol::Http1,
            http1: self != Protocol::Http2,
        }
    }
}

/// One backend of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `host:port`, as written: an IPv4 address, an IPv6 address in brackets, or a name, which stands
    /// for all addresses it has at the time. Or `srv+` and the name of a service, whose SRV records
    /// have the names, the ports and the weights. Or `unix:` and the path of a Unix socket.
    pub address: String,

    /// Its share of the requests, beside the others' weights. 0 takes it out of the rotation.
    ///
    /// Default: 1. Source: nginx, `server … weight=`.
    pub weight: u32,
}

impl ServerSettings {
    /// A backend at `address` with weight 1.
    pub fn new(address: impl Into<String>) -> ServerSettings {
        ServerSettings {
            address: address.into(),
            weight: 1,
        }
    }

    /// The path of its Unix socket, if it is at one.
    pub fn unix(&self) -> Option<&str> {
        self.address.strip_prefix("unix:")
    }

    /// Its host as written, without port and brackets: of a service, the name without what says
    /// which service.
    pub fn host(&self) -> &str {
        if self.unix().is_some() {
            return "localhost";
        }
        if let Some(mut name) = self.address.strip_prefix(lookup::SERVICE) {
            while name.starts_with('_')
                && let Some((_, rest)) = name.split_once('.')
            {
                name = rest;
            }
            return name;
        }
        let host = self
            .address
            .rsplit_once(':')
            .map_or(&*self.address, |(host, _)| host);
        host.trim_matches(['[', ']'])
    }
}

/// Which headers tell a backend who the client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host`: the default.
    #[default]
    XForwarded,
    /// `Forwarded`, RFC 7239.
    Rfc7239,
    /// Both of them.
    Both,
    /// None. What the client sent of them is passed on as it is, unless there is a list of others who are
    /// trusted.
    Off,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_of_requests_leaves_the_connections_as_they_are() {
        let old = Settings::new("app", vec![ServerSettings::new("a:80")]);
        let keeps = |change: fn(&mut Settings)| {
            let mut new = old.clone();
            change(&mut new);
            assert_ne!(new, old);
            new.can_use_connections_of(&old)
        };
        assert!(old.can_use_connections_of(&old));
        assert!(keeps(|new| new.timeout *= 2));
        assert!(keeps(|new| new.retry_body = 0));
        assert!(keeps(|new| new.preserve_host = false));
        assert!(keeps(|new| new.upgrade = Upgrades::Any));
        assert!(keeps(|new| new.tunnel_timeout *= 2));
        assert!(keeps(|new| new.forwarded = Forwarded::Off));
        assert!(keeps(|new| new.resolve.again = false));
        assert!(keeps(|new| new.snat_ports = 1024));
        assert!(keeps(|new| {
            new.split = Some(split::Settings {
                share: split::Share::NONE,
                by: split::By::Client,
            });
        }));
        assert!(keeps(|new| new.servers[0].weight = 7));
        assert!(keeps(|new| new.servers.push(ServerSettings::new("b:80"))));
        assert!(!keeps(|new| new.connect_timeout *= 2));
        assert!(!keeps(|new| new.probe_idle = None));
        assert!(!keeps(|new| new.pool.min_idle = 1));
        assert!(!keeps(|new| new.pool.keep_alive.enabled = false));
        assert!(!keeps(|new| new
            .source_addresses
            .push([127, 0, 0, 2].into())));
        assert!(!keeps(
            |new| new.closing.short = super::super::ShortMode::Rst
        ));
    }
}
