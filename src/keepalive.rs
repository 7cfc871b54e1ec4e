//! The four settings, and the one verdict both sides are judged by.
//!
//! `KeepAlive`, `MaxKeepAliveRequests` and `KeepAliveTimeout` are Apache httpd's and mean here
//! exactly what they mean there, towards clients and towards backends alike. (The fourth,
//! `Timeout`, is a plain duration in each side's settings.) No socket, no clock: given the same
//! arguments these functions give the same answer.

use std::num::NonZeroU32;
use std::time::Duration;

/// Whether, how often and how long a connection is kept for further requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Off means one exchange a connection, and `Connection: close` on it.
    ///
    /// Default: on. Source: Apache httpd 2.4, `KeepAlive`.
    pub enabled: bool,

    /// How many exchanges may promise to keep the connection; `None` is unlimited.
    ///
    /// Apache counts the answers that *kept* the connection. With a limit of 100 the hundredth
    /// answer still keeps it and the next one ends it: a connection carries 101 exchanges.
    /// Written as 0 in the settings for "unlimited", as in Apache.
    ///
    /// Default: 100 towards clients, 1000 towards backends. Source: Apache httpd 2.4,
    /// `MaxKeepAliveRequests` (`ap_set_keepalive` in `http_protocol.c`).
    pub max_requests: Option<NonZeroU32>,

    /// The longest a kept connection may wait for its next request.
    ///
    /// Counted from the last byte of the previous exchange. A connection that has waited exactly
    /// this long is too old. Zero keeps none. Towards backends, set it below the backend's own
    /// timeout: a request written into a closing connection has to be sent again, and not every
    /// request may be.
    ///
    /// Default: 5 s towards clients, 60 s towards backends. Source: Apache httpd 2.4,
    /// `KeepAliveTimeout`.
    pub timeout: Duration,
}

/// What becomes of a connection once its exchange is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It may carry another exchange.
    Keep,
    /// It ends, for this reason.
    Close(CloseReason),
}

/// Why a connection was ended: one reason each, counted under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// Keep-alive is off: one exchange a connection, the short mode.
    KeepAliveOff,
    /// It carried as many exchanges as `max_keep_alive_requests`, or its backend's `max=`, allows.
    RequestLimit,
    /// It waited `keep_alive_timeout` for its next exchange.
    IdleTimeout,
    /// The peer asked for the end: `Connection: close`, HTTP/1.0, or a body that ends with the
    /// connection.
    PeerAsked,
    /// The peer closed it while it was idle.
    PeerClosedIdle,
    /// The peer closed or reset it in the middle of an exchange.
    PeerClosedBusy,
    /// The response came before the request was sent to its end.
    EarlyResponse,
    /// The client went away, or its request broke off, before the exchange was over.
    ClientGone,
    /// Nothing moved for the side's `timeout`.
    Timeout,
    /// What the peer sent was not HTTP, or came when nothing was asked for.
    Protocol,
    /// The pool it belonged to is being emptied: the proxy stops, or the server was taken out.
    Drain,
    /// It was older than `max_age`.
    MaxAge,
    /// It was idle, and one too many: `max_idle` was reached, or its place was needed for one that
    /// suits.
    Surplus,
    /// It left HTTP for another protocol (`101 Switching Protocols`), which both sides have ended.
    Upgraded,
}

impl CloseReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [CloseReason; 14] = [
        CloseReason::KeepAliveOff,
        CloseReason::RequestLimit,
        CloseReason::IdleTimeout,
        CloseReason::PeerAsked,
        CloseReason::PeerClosedIdle,
        CloseReason::PeerClosedBusy,
        CloseReason::EarlyResponse,
        CloseReason::ClientGone,
        CloseReason::Timeout,
        CloseReason::Protocol,
        CloseReason::Drain,
        CloseReason::MaxAge,
        CloseReason::Surplus,
        CloseReason::Upgraded,
    ];

    /// The reason as it stands in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            CloseReason::KeepAliveOff => "keep_alive_off",
            CloseReason::RequestLimit => "request_limit",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::PeerAsked => "peer_asked",
            CloseReason::PeerClosedIdle => "peer_closed_idle",
            CloseReason::PeerClosedBusy => "peer_closed_busy",
            CloseReason::EarlyResponse => "early_response",
            CloseReason::ClientGone => "client_gone",
            CloseReason::Timeout => "timeout",
            CloseReason::Protocol => "protocol",
            CloseReason::Drain => "drain",
            CloseReason::MaxAge => "max_age",
            CloseReason::Surplus => "surplus",
            CloseReason::Upgraded => "upgraded",
        }
    }
}

impl KeepAlive {
    /// The defaults towards clients: on, 100, 5 s, as in Apache.
    pub const CLIENT: KeepAlive = KeepAlive {
        enabled: true,
        max_requests: NonZeroU32::new(100),
        timeout: Duration::from_secs(5),
    };

    /// The defaults towards backends: on, 1000, 60 s.
    pub const BACKEND: KeepAlive = KeepAlive {
        enabled: true,
        max_requests: NonZeroU32::new(1000),
        timeout: Duration::from_mins(1),
    };

    /// Judges a connection for its `served`-th exchange; the first is 1.
    ///
    /// Apache decides when it builds the response headers, so the verdict is known before the
    /// exchange is over and can be announced in its `Connection` header.
    pub fn after_exchange(&self, served: u32) -> Verdict {
        if !self.enabled || self.timeout.is_zero() {
            return Verdict::Close(CloseReason::KeepAliveOff);
        }
        match self.max_requests {
            Some(limit) if served > limit.get() => Verdict::Close(CloseReason::RequestLimit),
            _ => Verdict::Keep,
        }
    }

    /// How many further exchanges the `served`-th answer may promise: the `max=` of the
    /// `Keep-Alive` header. `None` when there is no limit.
    ///
    /// With a limit of 100 the first answer says `max=100` and the hundredth `max=1`.
    pub fn left(&self, served: u32) -> Option<u32> {
        self.max_requests
            .map(|limit| limit.get().saturating_sub(served.saturating_sub(1)))
    }
}

/// Whether a client's connection ends after a response with this status, also one that is a backend's.
///
/// Source: Apache httpd 2.4, `ap_status_drops_connection` in `httpd.h`.
pub fn drops_connection(status: u16) -> bool {
    matches!(status, 400 | 408 | 411 | 413 | 414 | 500 | 501 | 503)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(n: u32) -> KeepAlive {
        KeepAlive {
            max_requests: NonZeroU32::new(n),
            ..KeepAlive::CLIENT
        }
    }

    #[test]
    fn a_limit_of_n_answers_n_plus_one_requests() {
        for (n, served, verdict) in [
            (1, 1, Verdict::Keep),
            (1, 2, Verdict::Close(CloseReason::RequestLimit)),
            (3, 3, Verdict::Keep),
            (3, 4, Verdict::Close(CloseReason::RequestLimit)),
            (0, u32::MAX, Verdict::Keep),
        ] {
            assert_eq!(
                limit(n).after_exchange(served),
                verdict,
                "limit {n}, exchange {served}"
            );
        }
    }

    #[test]
    fn max_counts_down_from_n_to_one() {
        let left: Vec<_> = (1..=4).map(|served| limit(3).left(served)).collect();
        assert_eq!(left, [Some(3), Some(2), Some(1), Some(0)]);
        assert_eq!(limit(0).left(7), None);
    }

    #[test]
    fn off_or_a_zero_timeout_keeps_nothing() {
        let off = KeepAlive {
            enabled: false,
            ..KeepAlive::CLIENT
        };
        let zero = KeepAlive {
            timeout: Duration::ZERO,
            ..KeepAlive::CLIENT
        };
        for settings in [off, zero] {
            assert_eq!(
                settings.after_exchange(1),
                Verdict::Close(CloseReason::KeepAliveOff)
            );
        }
    }

    #[test]
    fn every_reason_has_its_number_and_its_own_label() {
        for (number, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        let mut labels: Vec<_> = CloseReason::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), CloseReason::ALL.len());
    }
}
