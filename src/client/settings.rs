//! What is asked for on the client side.

use std::time::Duration;

use crate::keepalive::KeepAlive;

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

    /// What a request may measure.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            keep_alive: KeepAlive::CLIENT,
            timeout: Duration::from_mins(1),
            limits: Limits::default(),
        }
    }
}

/// What a request may measure, in bytes and lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the request target; longer is answered 414.
    ///
    /// Default: 8190. Source: Apache httpd 2.4, `LimitRequestLine` (which counts the method and
    /// the version too).
    pub request_line: usize,

    /// Header lines; more are answered 431.
    ///
    /// Default: 100. Source: Apache httpd 2.4, `LimitRequestFields`.
    pub fields: usize,

    /// Bytes of one header line, `Name: value`; longer is answered 431.
    ///
    /// Default: 8190. Source: Apache httpd 2.4, `LimitRequestFieldSize`.
    pub field_size: usize,

    /// Bytes of a request body; more is answered 413. `None` is unlimited, written as 0.
    ///
    /// Default: unlimited, as Apache has it for proxied requests. Source: Apache httpd 2.4,
    /// `LimitRequestBody`.
    pub body: Option<u64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            request_line: 8190,
            fields: 100,
            field_size: 8190,
            body: None,
        }
    }
}
