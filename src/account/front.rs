//! What is counted on the way in, whatever the backend: connections, handshakes, exchanges under way.

use std::sync::atomic::{AtomicU64, Ordering};

use super::traffic::{Over, Traffic, TrafficTally, more};

/// What became of a TLS handshake with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Handshake {
    /// It was made, from the beginning.
    Full,
    /// An earlier session was resumed.
    Resumed,
    /// It took longer than `tls_handshake_timeout`.
    Timeout,
    /// The client left.
    Gone,
    /// The client spoke plain HTTP.
    PlainHttp,
    /// Anything else: no version, cipher or certificate that both take.
    Failed,
}

impl Handshake {
    /// All of them, in the order of their numbers.
    pub const ALL: [Handshake; 6] = [
        Handshake::Full,
        Handshake::Resumed,
        Handshake::Timeout,
        Handshake::Gone,
        Handshake::PlainHttp,
        Handshake::Failed,
    ];

    /// As it stands in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Handshake::Full => "full",
            Handshake::Resumed => "resumed",
            Handshake::Timeout => "timeout",
            Handshake::Gone => "client_gone",
            Handshake::PlainHttp => "plain_http",
            Handshake::Failed => "failed",
        }
    }
}

/// Of what an HTTP/2 client sent too much, so that its connection was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Flood {
    /// Requests that are reset (`RST_STREAM`).
    Resets,
    /// Pings, settings, priorities, empty data: frames that have to be read and answered, and carry
    /// nothing.
    Idle,
    /// A head that goes on and on (`CONTINUATION`), or anything else that the HTTP library has had enough
    /// of.
    Library,
}

impl Flood {
    /// All of them, in the order of their numbers.
    pub const ALL: [Flood; 3] = [Flood::Resets, Flood::Idle, Flood::Library];

    /// As it stands in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Flood::Resets => "resets",
            Flood::Idle => "idle_frames",
            Flood::Library => "library",
        }
    }
}

/// What one worker counts of exchanges that no backend had a part in, of those under way, and of
/// connections with clients.
#[derive(Debug, Default)]
pub struct FrontTally {
    /// Those that no backend had a part in.
    traffic: TrafficTally,
    begun: AtomicU64,
    over: AtomicU64,
    handshakes: [AtomicU64; Handshake::ALL.len()],
    http2: AtomicU64,
    floods: [AtomicU64; Flood::ALL.len()],
    not_introduced: AtomicU64,
}

impl FrontTally {
    /// Counts an exchange that begins.
    pub(crate) fn begins(&self) {
        more(&self.begun, 1);
    }

    /// Counts the end of one that has begun.
    pub(crate) fn ends(&self) {
        more(&self.over, 1);
    }

    /// Counts an exchange that no backend had a part in.
    pub(crate) fn note(&self, over: &Over) {
        self.traffic.note(over);
    }

    /// Counts a connection of one who has to introduce its client, and has not.
    pub(crate) fn not_introduced(&self) {
        more(&self.not_introduced, 1);
    }

    /// Counts a TLS handshake.
    pub(crate) fn shakes(&self, handshake: Handshake) {
        more(&self.handshakes[handshake as usize], 1);
    }

    /// Counts a connection with HTTP/2.
    pub(crate) fn carries(&self) {
        more(&self.http2, 1);
    }

    /// Counts a client that was sent away.
    pub(crate) fn floods(&self, flood: Flood) {
        more(&self.floods[flood as usize], 1);
    }

    /// Adds these to `sum`.
    pub fn add_to(&self, sum: &mut FrontFigures) {
        self.traffic.add_to(&mut sum.alone);
        // The ends first: one more that has begun is better than one that never did.
        let over = self.over.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Relaxed);
        sum.under_way += begun.saturating_sub(over);
        sum.not_introduced += self.not_introduced.load(Ordering::Relaxed);
        let counts = self.handshakes.iter().zip(&mut sum.handshakes);
        for (cell, sum) in counts.chain(self.floods.iter().zip(&mut sum.floods)) {
            *sum += cell.load(Ordering::Relaxed);
        }
        sum.http2 += self.http2.load(Ordering::Relaxed);
    }
}

/// What the workers count on the way in, whatever the backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrontFigures {
    /// Exchanges that no backend had a part in: refused before one was chosen.
    pub alone: Traffic,
    /// Exchanges that have begun, and are not over.
    pub under_way: u64,
    /// TLS handshakes, by [`Handshake`].
    pub handshakes: [u64; Handshake::ALL.len()],
    /// Connections on which HTTP/2 was spoken.
    pub http2: u64,
    /// Clients that were sent away, by [`Flood`].
    pub floods: [u64; Flood::ALL.len()],
    /// Connections that were closed for want of a PROXY header.
    pub not_introduced: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Outcome;

    #[test]
    fn what_is_under_way_has_begun_and_is_not_over() {
        let front = FrontTally::default();
        front.begins();
        front.begins();
        front.note(&Over {
            status: 404,
            outcome: Outcome::Refused,
            received: 0,
            sent: 10,
            total: None,
        });
        front.ends();
        front.shakes(Handshake::Resumed);
        front.floods(Flood::Idle);
        let mut figures = FrontFigures::default();
        front.add_to(&mut figures);
        assert_eq!(figures.under_way, 1);
        assert_eq!(figures.alone.of_class(4), 1);
        assert_eq!(figures.handshakes, [0, 1, 0, 0, 0, 0]);
        assert_eq!(figures.floods, [0, 1, 0]);
    }
}
