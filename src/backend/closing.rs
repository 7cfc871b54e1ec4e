//! How a backend connection is closed, hence who holds its `TIME_WAIT`, by the reason why.

use crate::keepalive::CloseReason;
use crate::net::CloseMode;

/// How backend connections are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// Those that we end while they are idle: idle timeout, surplus, drain.
    ///
    /// Default: `fin+rst`. Nothing is under way on an idle connection, so nothing can be lost, and
    /// it leaves no `TIME_WAIT` and spends no port. The backend sees an ordinary end.
    pub idle: CloseMode,

    /// After their last exchange, which has told the backend so: request limit, age, drain, or the
    /// backend's own wish.
    ///
    /// Default: `peer`. The backend closes first, as HTTP has it, and the `TIME_WAIT` costs no
    /// port where it lies. Across a NAT choose `peer+rst`: there a backend's `TIME_WAIT` meets
    /// connections from other hosts.
    pub last: CloseMode,

    /// In the middle of an exchange: a timeout, a client that has gone, a response that cannot be
    /// read.
    ///
    /// Default: `rst`. The backend is to stop working on what nobody will read.
    pub error: CloseMode,

    /// How connections are closed with keep-alive off.
    pub short: ShortMode,
}

impl Default for Closing {
    fn default() -> Closing {
        Closing {
            idle: CloseMode::FinRst,
            last: CloseMode::Peer,
            error: CloseMode::Rst,
            short: ShortMode::default(),
        }
    }
}

/// What the short mode is exactly. The three differ by an order of magnitude in what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortMode {
    /// The request says `Connection: close`, the backend closes first: `TIME_WAIT` there. The
    /// default.
    #[default]
    CloseByHeader,
    /// Nothing is said; the proxy closes after the last byte: `TIME_WAIT`, and a port, here. What
    /// nginx does with a `Content-Length`.
    ProxyCloses,
    /// Nothing is said; the proxy resets after the last byte: no `TIME_WAIT`. What `HAProxy` does.
    Rst,
}

impl Closing {
    /// How a connection is closed that ends for `reason`. `announced`: its last request or response
    /// said that it is the last.
    pub fn mode(&self, reason: CloseReason, announced: bool) -> CloseMode {
        match reason {
            CloseReason::KeepAliveOff => match self.short {
                ShortMode::CloseByHeader => CloseMode::Peer,
                ShortMode::ProxyCloses => CloseMode::Fin,
                ShortMode::Rst => CloseMode::Rst,
            },
            // It closes in any case: closing at the same moment would leave a TIME_WAIT on both sides.
            CloseReason::PeerAsked if self.last == CloseMode::PeerRst => CloseMode::PeerRst,
            CloseReason::PeerAsked => CloseMode::Peer,
            CloseReason::RequestLimit | CloseReason::MaxAge => self.last,
            CloseReason::Drain if announced => self.last,
            // Nobody has told the backend, so it would not close: waiting for it would be in vain.
            CloseReason::Drain | CloseReason::IdleTimeout | CloseReason::Surplus => self.idle,
            // Its FIN is here: the TIME_WAIT is the backend's already. Of a tunnel both are, in the order that
            // its two ends chose.
            CloseReason::PeerClosedIdle | CloseReason::Upgraded => CloseMode::Fin,
            CloseReason::PeerClosedBusy
            | CloseReason::EarlyResponse
            | CloseReason::ClientGone
            | CloseReason::Timeout
            | CloseReason::Protocol => self.error,
        }
    }

    /// Whether the request before the end for `reason` says `Connection: close`.
    pub fn announces(&self, reason: CloseReason) -> bool {
        if reason == CloseReason::KeepAliveOff {
            return self.short == ShortMode::CloseByHeader;
        }
        // Told so, the backend would close as well, at the same moment.
        matches!(self.last, CloseMode::Peer | CloseMode::PeerRst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_waited_for_only_if_it_was_told() {
        let closing = Closing::default();
        for reason in CloseReason::ALL {
            let mode = closing.mode(reason, false);
            let waits = matches!(mode, CloseMode::Peer | CloseMode::PeerRst);
            let told = closing.announces(reason) && reason != CloseReason::Drain;
            assert!(!waits || told, "{reason:?}");
        }
        for reason in [CloseReason::RequestLimit, CloseReason::Drain] {
            assert_eq!(closing.mode(reason, true), CloseMode::Peer);
        }
        let fin = Closing {
            last: CloseMode::Fin,
            ..closing
        };
        assert!(!fin.announces(CloseReason::RequestLimit));
        assert_eq!(fin.mode(CloseReason::PeerAsked, true), CloseMode::Peer);
    }

    #[test]
    fn only_the_first_short_mode_tells_the_backend() {
        for (short, mode, announces) in [
            (ShortMode::CloseByHeader, CloseMode::Peer, true),
            (ShortMode::ProxyCloses, CloseMode::Fin, false),
            (ShortMode::Rst, CloseMode::Rst, false),
        ] {
            let closing = Closing {
                short,
                ..Closing::default()
            };
            assert_eq!(closing.mode(CloseReason::KeepAliveOff, announces), mode);
            assert_eq!(closing.announces(CloseReason::KeepAliveOff), announces);
            assert!(closing.announces(CloseReason::Drain));
        }
    }
}
