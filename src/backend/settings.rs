//! What is asked for on the backend side.

use std::net::IpAddr;
use std::time::Duration;

use super::Closing;
use crate::keepalive::KeepAlive;
use crate::pool;

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

    /// The longest opening a connection may take, until the TCP handshake is over.
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

    /// Whether backends see the `Host` the client named, or their own address.
    ///
    /// Default: the client's. Source: Apache httpd 2.4, `ProxyPreserveHost` (there off).
    pub preserve_host: bool,

    /// How backends are told about the client.
    pub forwarded: Forwarded,

    /// This machine's addresses to connect from, in turn; those of the backend's family count.
    /// Empty: the kernel chooses. Each has its own ports towards a backend.
    ///
    /// Source: Apache httpd 2.4, `ProxySourceAddress`; nginx, `proxy_bind`.
    pub source_addresses: Vec<IpAddr>,

    /// How their connections are closed, hence who holds the `TIME_WAIT`.
    pub closing: Closing,
}

impl Settings {
    /// An upstream of these servers with every other setting at its default.
    pub fn new(name: impl Into<String>, servers: Vec<ServerSettings>) -> Settings {
        Settings {
            name: name.into(),
            servers,
            pool: pool::Settings::new(KeepAlive::BACKEND),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_mins(1),
            retry_body: 64 << 10,
            probe_idle: Some(Duration::from_millis(100)),
            preserve_host: true,
            forwarded: Forwarded::default(),
            source_addresses: Vec::new(),
            closing: Closing::default(),
        }
    }
}

/// One backend of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// `host:port`, as written: an IPv4 address, an IPv6 address in brackets, or a name. A name is
    /// looked up once, at the start, and stands for all addresses it has then.
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
    /// None; what the client sent of them is passed on as it is.
    Off,
}
