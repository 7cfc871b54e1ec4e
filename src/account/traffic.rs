//! Exchanges, counted by how they ended and how long they took; and the times of a pool's connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::exchange::Outcome;
use super::histogram::{Times, TimesTally};

/// The classes of a status: none, as nothing was answered; 1xx to 5xx.
pub const CLASSES: usize = 6;

/// Exchanges of one worker: with one backend, or with none.
#[derive(Debug, Default)]
pub struct TrafficTally {
    exchanges: [[AtomicU64; CLASSES]; Outcome::ALL.len()],
    received: AtomicU64,
    sent: AtomicU64,
    total: TimesTally,
}

impl TrafficTally {
    /// Counts an exchange that is over.
    pub(crate) fn note(&self, over: &Over) {
        let class = usize::from(over.status / 100).min(CLASSES - 1);
        more(&self.exchanges[over.outcome as usize][class], 1);
        if over.received > 0 {
            more(&self.received, over.received);
        }
        more(&self.sent, over.sent);
        if let Some(total) = over.total {
            self.total.note(total);
        }
    }

    /// Adds these to `sum`.
    pub fn add_to(&self, sum: &mut Traffic) {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let cells = self.exchanges.iter().flatten();
        for (sum, cell) in sum.exchanges.iter_mut().flatten().zip(cells) {
            *sum += read(cell);
        }
        sum.received += read(&self.received);
        sum.sent += read(&self.sent);
        self.total.add_to(&mut sum.total);
    }
}

/// How an exchange ended, in figures.
#[derive(Clone, Copy, Debug)]
pub struct Over {
    /// The response's status; 0 if there was none.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// The bytes of the request's body that were read.
    pub received: u64,
    /// The bytes of the response's body that were handed over.
    pub sent: u64,
    /// From the request's head to the last byte of the response handed over; `None` if there was no head.
    pub total: Option<Duration>,
}

/// Exchanges, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many, by [`Outcome`] and by the class of their status.
    pub exchanges: [[u64; CLASSES]; Outcome::ALL.len()],
    /// The bytes of request bodies that were read.
    pub received: u64,
    /// The bytes of response bodies that were handed over.
    pub sent: u64,
    /// How long they took.
    pub total: Times,
}

impl Traffic {
    /// Adds others to these.
    pub fn add(&mut self, others: &Traffic) {
        let Traffic {
            exchanges,
            received,
            sent,
            total,
        } = others;
        let others = exchanges.iter().flatten();
        for (sum, other) in self.exchanges.iter_mut().flatten().zip(others) {
            *sum += other;
        }
        self.received += received;
        self.sent += sent;
        self.total.add(total);
    }

    /// How many had a status of this class, whoever answered; 0 is for none.
    pub fn of_class(&self, class: usize) -> u64 {
        self.exchanges.iter().map(|by_class| by_class[class]).sum()
    }

    /// How many ended so.
    pub fn of_outcome(&self, outcome: Outcome) -> u64 {
        self.exchanges[outcome as usize].iter().sum()
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.exchanges.iter().flatten().sum()
    }
}

/// Which time of a pool is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Span {
    /// From a request's head until it had a connection.
    Checkout,
    /// From then until the response's head was there.
    FirstByte,
    /// Opening a connection, until a request can be sent: name, handshake, TLS.
    Connect,
    /// The `connect()` system call of it: the search for a local port, most of all.
    ConnectCall,
    /// How long a connection had waited when it was used again.
    IdleAtReuse,
    /// How long it had waited when its backend closed it.
    IdleAtClose,
    /// The round trip to the backend as the kernel had measured it when a connection ended: of one in
    /// [`SAMPLED`](super::SAMPLED).
    RoundTrip,
}

impl Span {
    /// All of them, in the order of their numbers.
    pub const ALL: [Span; 7] = [
        Span::Checkout,
        Span::FirstByte,
        Span::Connect,
        Span::ConnectCall,
        Span::IdleAtReuse,
        Span::IdleAtClose,
        Span::RoundTrip,
    ];
}

/// The times of one worker's pool.
#[derive(Debug, Default)]
pub struct SpansTally([TimesTally; Span::ALL.len()]);

impl SpansTally {
    /// Counts one.
    pub(crate) fn note(&self, span: Span, time: Duration) {
        self.0[span as usize].note(time);
    }

    /// Adds these to `sum`.
    pub fn add_to(&self, sum: &mut Spans) {
        for (sum, tally) in sum.0.iter_mut().zip(&self.0) {
            tally.add_to(sum);
        }
    }
}

/// The times of pools, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spans([Times; Span::ALL.len()]);

impl Spans {
    /// Adds others to these.
    pub fn add(&mut self, others: &Spans) {
        for (sum, other) in self.0.iter_mut().zip(&others.0) {
            sum.add(other);
        }
    }

    /// Those of one kind.
    pub fn of(&self, span: Span) -> &Times {
        &self.0[span as usize]
    }
}

/// Why a connection could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ConnectFault {
    /// The backend refused it.
    Refused,
    /// It did not answer in time.
    Timeout,
    /// No local port was left towards it.
    NoLocalPort,
    /// No file descriptor was left.
    NoDescriptor,
    /// TLS could not be begun.
    Tls,
    /// It does not speak HTTP/2, and had to.
    NotHttp2,
    /// Anything else: unreachable, reset.
    Other,
}

impl ConnectFault {
    /// All of them, in the order of their numbers.
    pub const ALL: [ConnectFault; 7] = [
        ConnectFault::Refused,
        ConnectFault::Timeout,
        ConnectFault::NoLocalPort,
        ConnectFault::NoDescriptor,
        ConnectFault::Tls,
        ConnectFault::NotHttp2,
        ConnectFault::Other,
    ];

    /// As it stands in metrics.
    pub fn label(self) -> &'static str {
        match self {
            ConnectFault::Refused => "refused",
            ConnectFault::Timeout => "timeout",
            ConnectFault::NoLocalPort => "no_local_port",
            ConnectFault::NoDescriptor => "no_descriptor",
            ConnectFault::Tls => "tls",
            ConnectFault::NotHttp2 => "not_http2",
            ConnectFault::Other => "other",
        }
    }
}

/// One writer: no need for a locked addition.
pub(super) fn more(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Ordering::Relaxed) + by, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_add_up_by_outcome_and_class() {
        let over = |status, outcome| Over {
            status,
            outcome,
            received: 10,
            sent: 100,
            total: Some(Duration::from_millis(3)),
        };
        let one = TrafficTally::default();
        let mut sum = Traffic::default();
        sum.exchanges[Outcome::Refused as usize][4] = 1;
        one.note(&over(200, Outcome::Answered));
        one.note(&over(204, Outcome::Answered));
        one.note(&over(502, Outcome::Refused));
        one.note(&over(0, Outcome::ClientGone));
        let mut of_one = Traffic::default();
        one.add_to(&mut of_one);
        sum.add(&of_one);
        let classes: Vec<_> = (0..CLASSES).map(|class| sum.of_class(class)).collect();
        assert_eq!(classes, [1, 0, 2, 0, 1, 1]);
        assert_eq!(sum.exchanges[Outcome::Refused as usize], [0, 0, 0, 0, 1, 1]);
        assert_eq!((sum.count(), sum.received, sum.sent), (5, 40, 400));
        assert_eq!(sum.total.count(), 4);
    }
}
