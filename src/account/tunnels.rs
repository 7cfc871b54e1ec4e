//! Tunnels: connections that have left HTTP for another protocol, counted apart from exchanges.

use std::sync::atomic::{AtomicU64, Ordering};

use super::traffic::more;

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TunnelEnd {
    /// Both sides have sent their end.
    Closed,
    /// The client broke off.
    ClientGone,
    /// The backend broke off.
    BackendGone,
    /// Nothing passed for `tunnel_timeout`, or for `timeout` after one side had ended.
    Timeout,
    /// It was open when the proxy's `shutdown_timeout` was over, or its client had gone before it began.
    CutOff,
}

impl TunnelEnd {
    /// All of them, in the order of their numbers.
    pub const ALL: [TunnelEnd; 5] = [
        TunnelEnd::Closed,
        TunnelEnd::ClientGone,
        TunnelEnd::BackendGone,
        TunnelEnd::Timeout,
        TunnelEnd::CutOff,
    ];

    /// As it stands in metrics.
    pub fn label(self) -> &'static str {
        match self {
            TunnelEnd::Closed => "closed",
            TunnelEnd::ClientGone => "client_gone",
            TunnelEnd::BackendGone => "backend_gone",
            TunnelEnd::Timeout => "timeout",
            TunnelEnd::CutOff => "cut_off",
        }
    }
}

/// The tunnels of one worker to one backend.
#[derive(Debug, Default)]
pub struct TunnelsTally {
    begun: AtomicU64,
    ended: [AtomicU64; TunnelEnd::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
}

impl TunnelsTally {
    /// Counts one that begins.
    pub(crate) fn begins(&self) {
        more(&self.begun, 1);
    }

    /// Counts the end of one that has begun.
    pub(crate) fn ends(&self, end: TunnelEnd) {
        more(&self.ended[end as usize], 1);
    }

    /// Counts bytes that a client has sent and the backend's socket has taken.
    pub(crate) fn received(&self, bytes: usize) {
        more(&self.received, bytes as u64);
    }

    /// Counts bytes that the backend has sent and a client's socket has taken.
    pub(crate) fn sent(&self, bytes: usize) {
        more(&self.sent, bytes as u64);
    }

    /// Adds these to `sum`.
    pub fn add_to(&self, sum: &mut Tunnels) {
        // The ends first: one more that has begun is better than one that never did.
        for (sum, cell) in sum.ended.iter_mut().zip(&self.ended) {
            *sum += cell.load(Ordering::Acquire);
        }
        sum.begun += self.begun.load(Ordering::Relaxed);
        sum.received += self.received.load(Ordering::Relaxed);
        sum.sent += self.sent.load(Ordering::Relaxed);
    }
}

/// Tunnels, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// How many have begun.
    pub begun: u64,
    /// How many have ended, by [`TunnelEnd`].
    pub ended: [u64; TunnelEnd::ALL.len()],
    /// The bytes from clients that were passed on.
    pub received: u64,
    /// The bytes to clients that were passed on.
    pub sent: u64,
}

impl Tunnels {
    /// Adds others to these.
    pub fn add(&mut self, others: &Tunnels) {
        let Tunnels {
            begun,
            ended,
            received,
            sent,
        } = others;
        for (sum, other) in self.ended.iter_mut().zip(ended) {
            *sum += other;
        }
        self.begun += begun;
        self.received += received;
        self.sent += sent;
    }

    /// How many are open.
    pub fn open(&self) -> u64 {
        self.begun.saturating_sub(self.ended.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_add_up_and_what_has_not_ended_is_open() {
        let (one, other) = (TunnelsTally::default(), TunnelsTally::default());
        for tally in [&one, &other, &one] {
            tally.begins();
            tally.received(3);
            tally.sent(5);
        }
        one.ends(TunnelEnd::Timeout);
        let mut sum = Tunnels::default();
        for tally in [&one, &other] {
            let mut figures = Tunnels::default();
            tally.add_to(&mut figures);
            sum.add(&figures);
        }
        assert_eq!((sum.open(), sum.received, sum.sent), (2, 9, 15));
        assert_eq!(sum.ended[TunnelEnd::Timeout as usize], 1);
    }
}
