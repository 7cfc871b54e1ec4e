//! What is asked for on the client side.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;

use super::trust::Trust;
use crate::keepalive::KeepAlive;
use crate::net::Networks;

/// How clients are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether, how often and how long client connections are kept.
    pub keep_alive: KeepAlive,

    /// The longest one read from or write to a client may make no progress.
    ///
    /// A timer per wait, restarted by any progress: waiting for the rest of a request's head, for
    /// more of its body, or for the client to take more of the response. Not a limit on the whole.
    /// In the idle time between requests `keep_alive_timeout` counts instead.
    ///
    /// Default: 60 s. Source: Apache httpd 2.4, `Timeout`.
    pub timeout: Duration,

    /// How long a whole head or body may take to come, beside `timeout`.
    pub read_timeout: ReadTimeout,

    /// What a request may measure.
    pub limits: Limits,

    /// Whether a client that closes its side while it waits for a response has given it up: the
    /// exchange is ended, and its backend connection closed. Else the response is sent, since the
    /// client may only have said that it sends nothing more; a reset always ends the exchange.
    ///
    /// Default: off, as Apache httpd answers. Source: `HAProxy`, `option abortonclose`; nginx,
    /// `proxy_ignore_client_abort off`.
    pub abort_on_close: bool,

    /// Whose connections begin with a PROXY header, of version 1 or 2, that names the client they were
    /// opened for. Without it they are closed. From all others it is no part of HTTP, and answered as what is not.
    ///
    /// Default: nobody's. Source: `HAProxy`, `doc/proxy-protocol.txt`, `tcp-request connection expect-proxy layer4`;
    /// nginx, `listen … proxy_protocol` (there everybody's); Apache httpd 2.4, `RemoteIPProxyProtocol` and
    /// `RemoteIPProxyProtocolExceptions` (everybody's but).
    pub introduced_by: Networks,

    /// Which proxies are believed when they say in a header for whom a request is.
    ///
    /// Default: none. Source: Apache httpd 2.4, `mod_remoteip`; nginx, `set_real_ip_from`, `real_ip_header`.
    pub trust: Trust,

    /// Whether and how HTTP/2 is spoken.
    pub http2: Http2,

    /// The header that tells backends the subject of a client's certificate; from clients none of that name
    /// is taken. `None`: they are not told.
    ///
    /// Source: nginx, `proxy_set_header … $ssl_client_s_dn`.
    pub subject_header: Option<HeaderName>,
}

/// HTTP/2 with clients: where TLS is spoken if they choose it (ALPN), else if they begin with it (prior
/// knowledge).
///
/// Source: RFC 9113; nginx, `http2`; Apache httpd 2.4, `Protocols h2 h2c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// Whether it is spoken.
    ///
    /// Default: on.
    pub enabled: bool,

    /// How many requests there may be at once on one connection; more are refused
    /// (`REFUSED_STREAM`), which proves to the client that it may send them again.
    ///
    /// Default: 100. Source: nginx, `http2_max_concurrent_streams` (128); Apache httpd 2.4,
    /// `H2MaxSessionStreams` (100).
    pub max_streams: u32,

    /// Bytes of one request's header list, decoded, with 32 more for each field (RFC 9113 §6.5.2). A
    /// request with more is answered 431.
    ///
    /// Default: 64 KiB.
    pub max_header_list: u32,
}

impl Default for Http2 {
    fn default() -> Http2 {
        Http2 {
            enabled: true,
            max_streams: 100,
            max_header_list: 64 * 1024,
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            keep_alive: KeepAlive::CLIENT,
            timeout: Duration::from_mins(1),
            read_timeout: ReadTimeout::default(),
            limits: Limits::default(),
            abort_on_close: false,
            http2: Http2::default(),
            subject_header: None,
            introduced_by: Networks::default(),
            trust: Trust::default(),
        }
    }
}

/// How long the parts of a request may take to come. `None` is no bound on the whole.
///
/// Source: Apache httpd 2.4, `RequestReadTimeout` (`mod_reqtimeout`), whose defaults these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTimeout {
    /// Request line and header lines, from the first byte; on a new connection from its accept. Of the
    /// bytes that prolong it those of complete lines count.
    ///
    /// Default: 20 s, and a second more for each 500 bytes, up to 40 s.
    pub header: Option<Stage>,

    /// The body, from the end of the head. The time in which it is the backend that takes no more
    /// does not count.
    ///
    /// Default: 20 s, and a second more for each 500 bytes.
    pub body: Option<Stage>,
}

impl Default for ReadTimeout {
    fn default() -> ReadTimeout {
        let stage = Stage {
            time: Duration::from_secs(20),
            most: None,
            min_rate: NonZeroU32::new(500),
        };
        ReadTimeout {
            header: Some(Stage {
                most: Some(Duration::from_secs(40)),
                ..stage
            }),
            body: Some(stage),
        }
    }
}

impl ReadTimeout {
    /// No bounds.
    pub const OFF: ReadTimeout = ReadTimeout {
        header: None,
        body: None,
    };
}

/// How long one part of a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// If nothing comes.
    pub time: Duration,
    /// The most, however much comes.
    pub most: Option<Duration>,
    /// In bytes a second: for so many that have come it may take a second more.
    pub min_rate: Option<NonZeroU32>,
}

impl Stage {
    /// How long it may take altogether if `bytes` of it have come.
    pub fn allowed(&self, bytes: u64) -> Duration {
        let more = self.min_rate.map_or(Duration::ZERO, |rate| {
            // A body of any size: what does not fit lasts for ever.
            let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
        let time = self.time.saturating_add(more);
        self.most.map_or(time, |most| time.min(most))
    }
}

/// What a request may measure, in bytes and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request line; longer is answered 414.
    ///
    /// As in Apache one byte more than it says is let through: the room for a line's end counts.
    ///
    /// Default: 8190. Source: Apache httpd 2.4, `LimitRequestLine` (`ap_rgetline_core`).
    pub request_line: usize,

    /// Header lines; more are answered 431. `None` is [`MOST_FIELDS`](Limits::MOST_FIELDS), written as
    /// 0.
    ///
    /// Default: 100. Source: Apache httpd 2.4, `LimitRequestFields` (there 400).
    pub fields: Option<usize>,

    /// Bytes of one header line, `Name: value`, with one more let through as above, and of the values
    /// of one that is repeated, joined; longer is answered 431.
    ///
    /// Default: 8190. Source: Apache httpd 2.4, `LimitRequestFieldSize` (there 400).
    pub field_size: usize,

    /// Bytes of a request body; more is answered 413. `None` is unlimited, written as 0.
    ///
    /// Default: unlimited, as Apache has it for proxied requests. Source: Apache httpd 2.4,
    /// `LimitRequestBody`.
    pub body: Option<u64>,
}

impl Limits {
    /// The most header lines where there is no limit: the HTTP library makes room for all of them each
    /// time, 64 bytes for each.
    pub const MOST_FIELDS: usize = 4_096;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            request_line: 8190,
            fields: Some(100),
            field_size: 8190,
            body: None,
        }
    }
}

/// What is asked for otherwise on one listener or for one virtual host; `None` is as it is on what it
/// inherits from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// [`KeepAlive::enabled`].
    pub keep_alive: Option<bool>,
    /// [`KeepAlive::max_requests`]; the inner `None` is unlimited. In the file -1 inherits too.
    pub max_keep_alive_requests: Option<Option<NonZeroU32>>,
    /// [`KeepAlive::timeout`]; never zero, which in the file inherits too.
    pub keep_alive_timeout: Option<Duration>,
    /// [`Settings::timeout`].
    pub timeout: Option<Duration>,
    /// [`Settings::read_timeout`].
    pub read_timeout: Option<ReadTimeout>,
    /// [`Limits::request_line`].
    pub request_line: Option<usize>,
    /// [`Limits::fields`].
    pub fields: Option<Option<usize>>,
    /// [`Limits::field_size`].
    pub field_size: Option<usize>,
    /// [`Limits::body`].
    pub body: Option<Option<u64>>,
    /// [`Settings::abort_on_close`].
    pub abort_on_close: Option<bool>,
    /// [`Http2::enabled`].
    pub http2: Option<bool>,
    /// [`Http2::max_streams`].
    pub http2_max_streams: Option<u32>,
    /// [`Http2::max_header_list`].
    pub http2_max_header_list: Option<u32>,
    /// [`Settings::introduced_by`].
    pub introduced_by: Option<Networks>,
    /// [`Trust::proxies`].
    pub trusted_proxies: Option<Networks>,
    /// [`Trust::header`].
    pub trusted_header: Option<HeaderName>,
}

impl Overrides {
    /// `base` with what is asked for otherwise.
    pub fn over(&self, base: &Settings) -> Settings {
        let limits = &base.limits;
        Settings {
            keep_alive: KeepAlive {
                enabled: self.keep_alive.unwrap_or(base.keep_alive.enabled),
                max_requests: self
                    .max_keep_alive_requests
                    .unwrap_or(base.keep_alive.max_requests),
                timeout: self.keep_alive_timeout.unwrap_or(base.keep_alive.timeout),
            },
            timeout: self.timeout.unwrap_or(base.timeout),
            read_timeout: self.read_timeout.unwrap_or(base.read_timeout),
            limits: Limits {
                request_line: self.request_line.unwrap_or(limits.request_line),
                fields: self.fields.unwrap_or(limits.fields),
                field_size: self.field_size.unwrap_or(limits.field_size),
                body: self.body.unwrap_or(limits.body),
            },
            abort_on_close: self.abort_on_close.unwrap_or(base.abort_on_close),
            http2: Http2 {
                enabled: self.http2.unwrap_or(base.http2.enabled),
                max_streams: self.http2_max_streams.unwrap_or(base.http2.max_streams),
                max_header_list: self
                    .http2_max_header_list
                    .unwrap_or(base.http2.max_header_list),
            },
            subject_header: base.subject_header.clone(),
            introduced_by: self
                .introduced_by
                .clone()
                .unwrap_or_else(|| base.introduced_by.clone()),
            trust: Trust {
                proxies: self
                    .trusted_proxies
                    .clone()
                    .unwrap_or_else(|| base.trust.proxies.clone()),
                header: self
                    .trusted_header
                    .clone()
                    .unwrap_or_else(|| base.trust.header.clone()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_prolonged_by_what_comes_up_to_its_most() {
        let ReadTimeout { header, body } = ReadTimeout::default();
        let (header, body) = (header.unwrap(), body.unwrap());
        for (stage, bytes, seconds) in [
            (header, 0, 20),
            (header, 500, 21),
            (header, 10_000, 40),
            (header, 1 << 40, 40),
            (body, 1_000, 22),
            (body, 500_000, 1020),
        ] {
            assert_eq!(
                stage.allowed(bytes),
                Duration::from_secs(seconds),
                "{bytes}"
            );
        }
        assert!(body.allowed(u64::MAX) > Duration::from_secs(1 << 30));
    }

    #[test]
    fn what_is_not_asked_for_otherwise_is_inherited() {
        let base = Settings::default();
        assert_eq!(Overrides::default().over(&base), base);
        let other = Overrides {
            max_keep_alive_requests: Some(None),
            timeout: Some(Duration::from_secs(7)),
            ..Overrides::default()
        };
        let other = other.over(&base);
        assert_eq!(other.keep_alive.max_requests, None);
        assert_eq!(other.keep_alive.timeout, base.keep_alive.timeout);
        assert_eq!(other.timeout, Duration::from_secs(7));
    }
}
