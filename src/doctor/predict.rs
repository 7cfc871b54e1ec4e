//! How many `TIME_WAIT`s the settings make at a rate of requests, and on which side.

use crate::backend::{self, ShortMode};
use crate::headroom::{RECYCLED_AFTER, TIME_WAIT};
use crate::net::CloseMode;
use crate::quantity::whole;

/// Who is left with the TIME_WAIT of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// This side, and it costs a port.
    Here,
    /// The backend's side.
    Backend,
    /// Neither.
    Nobody,
}

impl Holder {
    pub(super) fn of(mode: CloseMode) -> Holder {
        match mode {
            CloseMode::Fin => Holder::Here,
            CloseMode::Peer => Holder::Backend,
            CloseMode::Rst | CloseMode::FinRst | CloseMode::PeerRst => Holder::Nobody,
        }
    }

    /// Of a connection that has carried its last request, as the settings have it.
    pub(super) fn of_last(upstream: &backend::Settings) -> Holder {
        if upstream.pool.keeps() {
            return Holder::of(upstream.closing.last);
        }
        match upstream.closing.short {
            ShortMode::CloseByHeader => Holder::Backend,
            ShortMode::ProxyCloses => Holder::Here,
            ShortMode::Rst => Holder::Nobody,
        }
    }
}

/// What the settings make of a rate of requests to one backend.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Connections that end in a second for having carried all they may.
    pub closes_per_second: f64,
    /// `TIME_WAIT`s on this side at a time.
    pub here: u64,
    /// `TIME_WAIT`s on the backend's side at a time.
    pub there: u64,
}

/// Connections that end in a second at this rate, for having carried all that they may.
pub(super) fn closes(upstream: &backend::Settings, rate: f64) -> f64 {
    if !upstream.pool.keeps() {
        return rate;
    }
    upstream
        .pool
        .keep_alive
        .max_requests
        .map_or(0.0, |most| rate / (f64::from(most.get()) + 1.0))
}

/// What comes of `rate` requests a second to one backend. Connections that end by age or for being idle
/// are left out: how many there are of them, no rate says. `recycled`: ports in TIME_WAIT are taken again
/// after a second.
pub fn expected(upstream: &backend::Settings, rate: f64, recycled: bool) -> Expected {
    let closes_per_second = closes(upstream, rate);
    let at_a_time = |length: f64| whole((closes_per_second * length).round());
    let (mut here, mut there) = (0, 0);
    match Holder::of_last(upstream) {
        Holder::Here => {
            let held = if recycled { RECYCLED_AFTER } else { TIME_WAIT };
            here = at_a_time(held.as_secs_f64());
        }
        Holder::Backend => there = at_a_time(TIME_WAIT.as_secs_f64()),
        Holder::Nobody => {}
    }
    Expected {
        closes_per_second,
        here,
        there,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Case;
    use super::*;

    #[test]
    fn the_side_that_closes_first_holds_what_the_rate_makes() {
        for (settings, here, there) in [
            ("", 0, 61),
            ("max_keep_alive_requests = 0", 0, 0),
            ("max_keep_alive_requests = 9", 0, 6_106),
            (
                "max_keep_alive_requests = 9\nclose_last = \"fin\"",
                6_106,
                0,
            ),
            (
                "max_keep_alive_requests = 9\nclose_last = \"peer+rst\"",
                0,
                0,
            ),
            ("keep_alive = false", 0, 61_061),
            ("keep_alive_timeout = 0", 0, 61_061),
            (
                "keep_alive = false\nshort_mode = \"proxy-closes\"",
                61_061,
                0,
            ),
            ("keep_alive = false\nshort_mode = \"rst\"", 0, 0),
        ] {
            let case = Case::new(settings);
            let expected = expected(&case.settings.upstreams[0], 1001.0, false);
            assert_eq!((expected.here, expected.there), (here, there), "{settings}");
        }
        let case = Case::new("keep_alive = false\nshort_mode = \"proxy-closes\"");
        assert_eq!(expected(&case.settings.upstreams[0], 300.0, true).here, 300);
    }
}
