//! What happened, counted: written by one worker each, read from anywhere.

mod departures;
mod exchange;
mod front;
mod held;
mod histogram;
mod traffic;
mod tunnels;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::keepalive::CloseReason;

pub use departures::{Departure, Departures, Tallies};
pub use exchange::{Arm, Asked, Connection, Exchange, Outcome, Upstream};
pub use front::{Flood, FrontFigures, FrontTally, Handshake};
pub use held::{Held, Stage};
pub use histogram::{Times, TimesTally};
pub use traffic::{CLASSES, ConnectFault, Over, Span, Spans, SpansTally, Traffic, TrafficTally};
pub use tunnels::{TunnelEnd, Tunnels, TunnelsTally};

/// Who ended a connection, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Close {
    /// The backend's FIN was first.
    BackendFin,
    /// The backend reset it.
    BackendRst,
    /// Our FIN was first.
    ProxyFin,
    /// We reset it.
    ProxyRst,
    /// Our FIN was first, and a reset followed once it was acknowledged.
    ProxyFinRst,
}

impl Close {
    /// All of them, in the order of their numbers.
    pub const ALL: [Close; 5] = [
        Close::BackendFin,
        Close::BackendRst,
        Close::ProxyFin,
        Close::ProxyRst,
        Close::ProxyFinRst,
    ];

    /// As it stands in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Close::BackendFin => "backend_fin",
            Close::BackendRst => "backend_rst",
            Close::ProxyFin => "proxy_fin",
            Close::ProxyRst => "proxy_rst",
            Close::ProxyFinRst => "proxy_fin_rst",
        }
    }
}

/// Of so many connections that end, the kernel is asked of one how its way was: it costs a system call.
pub const SAMPLED: u64 = 16;

/// How many connections there were, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections being opened now.
    pub opening: u64,
    /// Connections carrying an exchange now.
    pub leased: u64,
    /// Connections waiting for one now.
    pub idle: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Permissions to open that came to nothing.
    pub open_failed: u64,
    /// Exchanges on a connection that had served before.
    pub reused: u64,
    /// Idle connections that went to another worker.
    pub lent: u64,
    /// Idle connections that came from another worker.
    pub borrowed: u64,
    /// Connections that ended, by [`CloseReason`].
    pub closed: [u64; CloseReason::ALL.len()],
}

impl Counts {
    fn add(&mut self, others: &Counts) {
        let Counts {
            opening,
            leased,
            idle,
            opened,
            open_failed,
            reused,
            lent,
            borrowed,
            closed,
        } = others;
        for (sum, other) in [
            (&mut self.opening, opening),
            (&mut self.leased, leased),
            (&mut self.idle, idle),
            (&mut self.opened, opened),
            (&mut self.open_failed, open_failed),
            (&mut self.reused, reused),
            (&mut self.lent, lent),
            (&mut self.borrowed, borrowed),
        ] {
            *sum += other;
        }
        for (sum, other) in self.closed.iter_mut().zip(closed) {
            *sum += other;
        }
    }

    /// Connections that ended, whatever the reason.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }
}

/// One worker's figures of one pool, as last published.
///
/// Each cell has a single writer; readers see each figure as it was at some recent moment, not
/// all of them at the same one.
#[derive(Debug, Default)]
pub struct PoolTally {
    requests: AtomicU64,
    opening: AtomicU64,
    leased: AtomicU64,
    idle: AtomicU64,
    opened: AtomicU64,
    open_failed: AtomicU64,
    reused: AtomicU64,
    ends: [[EndTally; Close::ALL.len()]; CloseReason::ALL.len()],
    handshakes: [AtomicU64; 2],
    sent_again: [AtomicU64; 3],
    races_lost: AtomicU64,
    lent: AtomicU64,
    borrowed: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
    connect_faults: [AtomicU64; ConnectFault::ALL.len()],
    given_up: AtomicU64,
    ends_begun: AtomicU64,
    retransmits: AtomicU64,
    /// The exchanges this backend had a part in.
    pub(crate) traffic: TrafficTally,
    /// Those of them that left HTTP.
    pub(crate) tunnels: TunnelsTally,
    /// What they and its connections waited for, and how long.
    pub(crate) spans: SpansTally,
    notes: Option<Notes>,
}

/// Where a pool notes its departures, and as whose.
#[derive(Debug)]
struct Notes {
    departures: Arc<Departures>,
    worker: usize,
    pool: u32,
    arm: Arm,
}

impl PoolTally {
    /// A tally that notes departures too: as those of this worker, and of the pool of this number.
    fn noting(departures: &Arc<Departures>, worker: usize, pool: u32, arm: Arm) -> PoolTally {
        PoolTally {
            notes: Some(Notes {
                departures: Arc::clone(departures),
                worker,
                pool,
                arm,
            }),
            ..PoolTally::default()
        }
    }

    /// The number that its departures are noted under.
    pub fn pool(&self) -> Option<u32> {
        self.notes.as_ref().map(|notes| notes.pool)
    }

    /// A connection ends for `reason` by our FIN first: notes its `cookie`, which is asked for only
    /// where somebody wants to know.
    pub(crate) fn departs(&self, reason: CloseReason, cookie: impl FnOnce() -> Option<u64>) {
        if let Some(notes) = &self.notes
            && let Some(cookie) = cookie()
        {
            let Notes {
                departures,
                worker,
                pool,
                arm,
            } = notes;
            departures.note(*worker, *pool, *arm, reason, cookie);
        }
    }

    /// Takes over those of the pool's counts that change with every exchange.
    pub(crate) fn publish_use(&self, counts: &Counts) {
        set(&self.leased, counts.leased);
        set(&self.idle, counts.idle);
        set(&self.reused, counts.reused);
    }

    /// Takes over all of the pool's counts.
    pub(crate) fn publish(&self, counts: &Counts) {
        self.publish_use(counts);
        set(&self.opening, counts.opening);
        set(&self.opened, counts.opened);
        set(&self.open_failed, counts.open_failed);
        set(&self.lent, counts.lent);
        set(&self.borrowed, counts.borrowed);
        for (cell, &count) in self.closed.iter().zip(&counts.closed) {
            set(cell, count);
        }
    }

    /// Connections that are idle, and that are in use or being opened.
    pub(crate) fn idle_and_busy(&self) -> (u64, u64) {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        (read(&self.idle), read(&self.leased) + read(&self.opening))
    }

    /// Counts a request that was sent to this backend.
    pub(crate) fn request(&self) {
        // One writer: no need for a locked addition.
        set(&self.requests, self.requests.load(Ordering::Relaxed) + 1);
    }

    /// Enters the end of a connection.
    pub(crate) fn ended(&self, reason: CloseReason, close: Close, life: &EndSum) {
        self.ends[reason as usize][close as usize].add(life);
        if reason == CloseReason::PeerClosedIdle {
            self.spans.note(Span::IdleAtClose, life.idle);
        }
    }

    /// Whether the kernel is to be asked of the way that this connection, which ends, went.
    pub(crate) fn samples_end(&self) -> bool {
        let ends = self.ends_begun.load(Ordering::Relaxed);
        set(&self.ends_begun, ends + 1);
        ends.is_multiple_of(SAMPLED)
    }

    /// Counts what it said.
    pub(crate) fn path(&self, round_trip: Duration, retransmits: u32) {
        self.spans.note(Span::RoundTrip, round_trip);
        let sum = self.retransmits.load(Ordering::Relaxed);
        set(&self.retransmits, sum + u64::from(retransmits));
    }

    /// Counts an attempt to open a connection that came to nothing.
    pub(crate) fn connect_failed(&self, fault: ConnectFault) {
        let cell = &self.connect_faults[fault as usize];
        set(cell, cell.load(Ordering::Relaxed) + 1);
    }

    /// Counts an attempt to open one that nobody waited for any more.
    pub(crate) fn gave_up(&self) {
        set(&self.given_up, self.given_up.load(Ordering::Relaxed) + 1);
    }

    /// Counts a TLS handshake.
    pub(crate) fn handshake(&self, resumed: bool) {
        let cell = &self.handshakes[usize::from(resumed)];
        set(cell, cell.load(Ordering::Relaxed) + 1);
    }

    /// Counts a request that was sent again, by its proof.
    pub(crate) fn sent_again(&self, proof: usize) {
        let cell = &self.sent_again[proof];
        set(cell, cell.load(Ordering::Relaxed) + 1);
    }

    /// Counts a request that met a closing connection and could not be sent again.
    pub(crate) fn race_lost(&self) {
        set(
            &self.races_lost,
            self.races_lost.load(Ordering::Relaxed) + 1,
        );
    }

    /// Adds these figures to `sum`.
    pub fn add_to(&self, sum: &mut PoolFigures) {
        sum.requests += self.requests.load(Ordering::Relaxed);
        sum.races_lost += self.races_lost.load(Ordering::Relaxed);
        for (sum, cell) in sum
            .ends
            .iter_mut()
            .flatten()
            .zip(self.ends.iter().flatten())
        {
            cell.add_to(sum);
        }
        for (sum, cell) in sum.handshakes.iter_mut().zip(&self.handshakes) {
            *sum += cell.load(Ordering::Relaxed);
        }
        for (sum, cell) in sum.sent_again.iter_mut().zip(&self.sent_again) {
            *sum += cell.load(Ordering::Relaxed);
        }
        let counts = &mut sum.counts;
        for (sum, cell) in [
            (&mut counts.opening, &self.opening),
            (&mut counts.leased, &self.leased),
            (&mut counts.idle, &self.idle),
            (&mut counts.opened, &self.opened),
            (&mut counts.open_failed, &self.open_failed),
            (&mut counts.reused, &self.reused),
            (&mut counts.lent, &self.lent),
            (&mut counts.borrowed, &self.borrowed),
        ] {
            *sum += cell.load(Ordering::Relaxed);
        }
        for (sum, cell) in counts.closed.iter_mut().zip(&self.closed) {
            *sum += cell.load(Ordering::Relaxed);
        }
        for (sum, cell) in sum.connect_faults.iter_mut().zip(&self.connect_faults) {
            *sum += cell.load(Ordering::Relaxed);
        }
        sum.given_up += self.given_up.load(Ordering::Relaxed);
        sum.retransmits += self.retransmits.load(Ordering::Relaxed);
        self.traffic.add_to(&mut sum.traffic);
        self.tunnels.add_to(&mut sum.tunnels);
        self.spans.add_to(&mut sum.spans);
    }
}

/// What the connections that ended in one way have been, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndSum {
    /// How many.
    pub connections: u64,
    /// The exchanges begun on them.
    pub exchanges: u64,
    /// How long they were open.
    pub age: Duration,
    /// How long they had waited when they ended, or before the last exchange if that ended them.
    /// Where backends closed idle ones, this over `connections` is their idle timeout.
    pub idle: Duration,
}

impl EndSum {
    fn add(&mut self, other: &EndSum) {
        self.connections += other.connections;
        self.exchanges += other.exchanges;
        self.age += other.age;
        self.idle += other.idle;
    }
}

/// An [`EndSum`] with one writer.
#[derive(Debug, Default)]
struct EndTally {
    connections: AtomicU64,
    exchanges: AtomicU64,
    age_us: AtomicU64,
    idle_us: AtomicU64,
}

impl EndTally {
    fn add(&self, life: &EndSum) {
        let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        for (cell, more) in [
            (&self.connections, life.connections),
            (&self.exchanges, life.exchanges),
            (&self.age_us, us(life.age)),
            (&self.idle_us, us(life.idle)),
        ] {
            set(cell, cell.load(Ordering::Relaxed).saturating_add(more));
        }
    }

    fn add_to(&self, sum: &mut EndSum) {
        let read = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        sum.add(&EndSum {
            connections: read(&self.connections),
            exchanges: read(&self.exchanges),
            age: Duration::from_micros(read(&self.age_us)),
            idle: Duration::from_micros(read(&self.idle_us)),
        });
    }
}

fn set(cell: &AtomicU64, value: u64) {
    cell.store(value, Ordering::Relaxed);
}

/// Figures of one or more pools, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolFigures {
    /// Requests sent to backends.
    pub requests: u64,
    /// Of these, those sent again: since nothing of them had been written, since they may be done
    /// twice, and since the backend said that it had not processed them.
    pub sent_again: [u64; 3],
    /// Requests that met a connection its backend was closing, and could not be sent again.
    pub races_lost: u64,
    /// The ends of connections, by [`CloseReason`] and [`Close`]: each comes here once, as soon as
    /// it is known who closed.
    pub ends: [[EndSum; Close::ALL.len()]; CloseReason::ALL.len()],
    /// TLS handshakes: in full, and those that resumed an earlier session.
    pub handshakes: [u64; 2],
    /// What became of the connections.
    pub counts: Counts,
    /// Attempts to open one that came to nothing, by [`ConnectFault`]; those that were given up are not
    /// among them.
    pub connect_faults: [u64; ConnectFault::ALL.len()],
    /// Attempts that were given up.
    pub given_up: u64,
    /// Segments that had to be sent again on the connections in [`Span::RoundTrip`].
    pub retransmits: u64,
    /// The exchanges these backends had a part in.
    pub traffic: Traffic,
    /// Those of them that left HTTP for another protocol.
    pub tunnels: Tunnels,
    /// What they and their connections waited for, and how long.
    pub spans: Spans,
}

impl PoolFigures {
    /// Adds others to these.
    pub fn add(&mut self, others: &PoolFigures) {
        let PoolFigures {
            requests,
            sent_again,
            races_lost,
            ends,
            handshakes,
            counts,
            connect_faults,
            given_up,
            retransmits,
            traffic,
            tunnels,
            spans,
        } = others;
        self.requests += requests;
        self.races_lost += races_lost;
        for (sum, other) in self.sent_again.iter_mut().zip(sent_again) {
            *sum += other;
        }
        for (sum, other) in self.ends.iter_mut().flatten().zip(ends.iter().flatten()) {
            sum.add(other);
        }
        for (sum, other) in self.handshakes.iter_mut().zip(handshakes) {
            *sum += other;
        }
        for (sum, other) in self.connect_faults.iter_mut().zip(connect_faults) {
            *sum += other;
        }
        self.given_up += given_up;
        self.retransmits += retransmits;
        self.counts.add(counts);
        self.traffic.add(traffic);
        self.tunnels.add(tunnels);
        self.spans.add(spans);
    }

    /// Connections that ended in this way, whatever the reason.
    pub fn ended_by(&self, close: Close) -> u64 {
        self.ends
            .iter()
            .map(|by_close| by_close[close as usize].connections)
            .sum()
    }

    /// What the connections have been that ended for `reason`, whoever closed them.
    pub fn ended_for(&self, reason: CloseReason) -> EndSum {
        let mut sum = EndSum::default();
        for ended in &self.ends[reason as usize] {
            sum.add(ended);
        }
        sum
    }

    /// How long ports were not held in `TIME_WAIT` because connections were used again: each reuse
    /// saves a connection, which in short mode holds a port for `time_wait` after its end, on
    /// whichever side closes first.
    pub fn port_time_saved(&self, time_wait: Duration) -> Duration {
        time_wait.saturating_mul(u32::try_from(self.counts.reused).unwrap_or(u32::MAX))
    }

    /// Connections that ended for `reason`.
    pub fn closed_for(&self, reason: CloseReason) -> u64 {
        self.counts.closed[reason as usize]
    }
}

/// Why a request got no connection although its backend may be well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// As many wait already as `max_waiting` allows.
    LineFull,
    /// None came free, and none could be opened, within `acquire_timeout`.
    AcquireTimeout,
}

impl Refusal {
    /// All of them, in the order of their numbers.
    pub const ALL: [Refusal; 2] = [Refusal::LineFull, Refusal::AcquireTimeout];

    /// The reason as it stands in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Refusal::LineFull => "line_full",
            Refusal::AcquireTimeout => "acquire_timeout",
        }
    }
}

/// What there is of one server beyond each worker's own figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineFigures {
    /// Requests that wait now, and may not open a connection.
    pub waiting: u64,
    /// Connections now, those being opened included.
    pub connections: u64,
    /// Requests that had to wait.
    pub waited: u64,
    /// Requests that did not wait for another worker to lend a connection, as it took too long: its
    /// event loop was busy, or the machine was.
    pub lent_late: u64,
    /// Requests refused, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Connects that a `max_idle` of twice, four and eight times what it is would have saved.
    pub would_hit: [u64; 3],
    /// How long the backend was seen to keep idle connections.
    pub learned_idle_timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_add_up_over_workers_and_reuse_saves_port_time() {
        let life = |connections, exchanges, seconds| EndSum {
            connections,
            exchanges,
            age: Duration::from_secs(2 * seconds),
            idle: Duration::from_secs(seconds),
        };
        let (one, other) = (PoolTally::default(), PoolTally::default());
        one.ended(
            CloseReason::PeerClosedIdle,
            Close::BackendFin,
            &life(1, 3, 5),
        );
        one.ended(
            CloseReason::PeerClosedIdle,
            Close::BackendRst,
            &life(1, 4, 6),
        );
        other.ended(
            CloseReason::PeerClosedIdle,
            Close::BackendFin,
            &life(1, 5, 7),
        );
        let mut sum = PoolFigures::default();
        for tally in [&one, &other] {
            tally.publish(&Counts {
                reused: 5,
                ..Counts::default()
            });
            tally.add_to(&mut sum);
        }
        assert_eq!(sum.ended_for(CloseReason::PeerClosedIdle), life(3, 12, 18));
        assert_eq!(sum.ended_by(Close::BackendFin), 2);
        assert_eq!(sum.ended_by(Close::BackendRst), 1);
        let minute = Duration::from_secs(60);
        assert_eq!(sum.port_time_saved(minute), 10 * minute);
    }
}
