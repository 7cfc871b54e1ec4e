//! A gentle, steady load: so many requests a second over so many connections, and what came back.
//!
//! Open loop: requests leave by the clock, not when the previous answer is in, so a slow target
//! does not quietly get less to do; what could not leave in time is counted as missed. Not a
//! benchmark: no percentiles, one thread, made for tens to hundreds of requests a second.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::thread::OwnThread;

/// The longest one exchange may take, connecting included. It then counts as an error.
const EXCHANGE_WITHIN: Duration = Duration::from_secs(5);

/// One address to send requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadTarget {
    /// What the figures go by.
    pub name: String,
    /// Where the requests go; also their `Host`.
    pub address: SocketAddr,
    /// How many requests are sent a second, over all connections together.
    pub rate_per_second: NonZeroU32,
    /// How many connections take turns. As long as an answer takes less than
    /// `connections / rate_per_second`, none is missed.
    pub connections: NonZeroU32,
}

/// A load under way, on its own OS thread. It stops when dropped.
pub struct Load {
    shared: Arc<[Shared]>,
    _thread: OwnThread,
}

/// What became of the requests to one target since the start.
///
/// `sent` is the sum of `ok`, `failed`, `errors` and those under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFigures {
    /// The target's name.
    pub name: String,
    /// Requests whose turn came and was taken.
    pub sent: u64,
    /// Answers with a 2xx status, read to their end.
    pub ok: u64,
    /// Answers with another status, read to their end.
    pub failed: u64,
    /// Requests without an answer: no connection, broken off, or longer than 5 s.
    pub errors: u64,
    /// Requests never sent, because the answer before them took too long.
    pub missed: u64,
    /// Connections opened. More than the target's `connections` means that some were closed by the
    /// other end and replaced.
    pub connects: u64,
    /// The mean time from a request's turn to the end of its answer; `None` before the first one.
    pub latency_mean: Option<Duration>,
    /// The longest such time.
    pub latency_max: Option<Duration>,
}

/// A target with its counters, shared between the load's thread and its owner.
#[derive(Debug)]
struct Shared {
    target: LoadTarget,
    sent: AtomicU64,
    ok: AtomicU64,
    failed: AtomicU64,
    errors: AtomicU64,
    missed: AtomicU64,
    connects: AtomicU64,
    latency_sum_us: AtomicU64,
    latency_max_us: AtomicU64,
}

impl Load {
    /// Starts sending to all `targets` at once.
    ///
    /// # Errors
    /// When the thread cannot be started. A target that does not answer is no error here: its
    /// figures show it.
    pub fn start(targets: Vec<LoadTarget>) -> io::Result<Load> {
        let shared: Arc<[Shared]> = targets.into_iter().map(Shared::new).collect();
        let for_thread = Arc::clone(&shared);
        let thread = OwnThread::start("load", move || send_to_all(for_thread))?;
        Ok(Load {
            shared,
            _thread: thread,
        })
    }

    /// The figures of every target, in the order they were given.
    pub fn figures(&self) -> Vec<LoadFigures> {
        self.shared.iter().map(Shared::read).collect()
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(target: LoadTarget) -> Shared {
        let zero = || AtomicU64::new(0);
        Shared {
            target,
            sent: zero(),
            ok: zero(),
            failed: zero(),
            errors: zero(),
            missed: zero(),
            connects: zero(),
            latency_sum_us: zero(),
            latency_max_us: zero(),
        }
    }

    fn read(&self) -> LoadFigures {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (ok, failed) = (get(&self.ok), get(&self.failed));
        let micros = Duration::from_micros;
        LoadFigures {
            name: self.target.name.clone(),
            sent: get(&self.sent),
            ok,
            failed,
            errors: get(&self.errors),
            missed: get(&self.missed),
            connects: get(&self.connects),
            latency_mean: get(&self.latency_sum_us)
                .checked_div(ok + failed)
                .map(micros),
            latency_max: (ok + failed > 0).then(|| micros(get(&self.latency_max_us))),
        }
    }

    fn note_answer(&self, status: StatusCode, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // The times first: a reader that sees the answer also finds its time.
        add(&self.latency_sum_us, micros);
        self.latency_max_us.fetch_max(micros, Ordering::Relaxed);
        add(
            if status.is_success() {
                &self.ok
            } else {
                &self.failed
            },
            1,
        );
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

/// When one of several connections is to send: the turns go round.
///
/// The `n`-th turn of all is due `n / rate` after the start, and connection `n % connections`
/// takes it.
#[derive(Clone, Copy, Debug)]
struct Turns {
    rate: NonZeroU32,
    connections: NonZeroU32,
    next: u64,
}

impl Turns {
    /// Those of the `index`-th connection.
    fn of(target: &LoadTarget, index: u32) -> Turns {
        Turns {
            rate: target.rate_per_second,
            connections: target.connections,
            next: u64::from(index),
        }
    }

    /// When the next turn is due, counted from the start.
    fn due(&self) -> Duration {
        let rate = u64::from(self.rate.get());
        let rest = self.next % rate * 1_000_000_000 / rate;
        Duration::from_secs(self.next / rate) + Duration::from_nanos(rest)
    }

    /// Goes on to the next turn after one that was over at `elapsed`; answers how many were
    /// missed.
    ///
    /// A turn that is late is taken at once. It is missed when the one after it is due as well:
    /// nothing is made up for in a burst.
    fn advance(&mut self, elapsed: Duration) -> u64 {
        let step = u64::from(self.connections.get());
        self.next += step;
        let all_due = elapsed.as_nanos() * u128::from(self.rate.get()) / 1_000_000_000;
        let all_due = u64::try_from(all_due).unwrap_or(u64::MAX);
        let missed = all_due.saturating_sub(self.next) / step;
        self.next += missed * step;
        missed
    }
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    #[error("could not connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("{0} broke the exchange off")]
    BrokenOff(SocketAddr, #[source] hyper::Error),
    #[error("{0} did not answer within {EXCHANGE_WITHIN:?}")]
    TimedOut(SocketAddr),
}

/// A client connection, driven by a task that ends with it.
struct Line {
    sender: SendRequest<Empty<Bytes>>,
    _driver: JoinSet<()>,
}

/// Sends to every target until dropped; owns all that is going on.
async fn send_to_all(shared: Arc<[Shared]>) {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for (at, target) in shared.iter().enumerate() {
        for index in 0..target.target.connections.get() {
            clients.spawn_local(send_in_turn(Arc::clone(&shared), at, index, start));
        }
    }
    while clients.join_next().await.is_some() {}
}

/// One connection's requests, each at its turn, until dropped.
async fn send_in_turn(shared: Arc<[Shared]>, at: usize, index: u32, start: Instant) {
    let shared = &shared[at];
    let mut turns = Turns::of(&shared.target, index);
    let mut line = None;
    loop {
        sleep_until(start + turns.due()).await;
        add(&shared.sent, 1);
        let began = Instant::now();
        match timeout(EXCHANGE_WITHIN, exchange(&mut line, shared))
            .await
            .unwrap_or(Err(Unanswered::TimedOut(shared.target.address)))
        {
            Ok(status) => shared.note_answer(status, began.elapsed()),
            Err(error) => {
                add(&shared.errors, 1);
                tracing::debug!(%error, source = std::error::Error::source(&error), "no answer");
            }
        }
        add(&shared.missed, turns.advance(start.elapsed()));
    }
}

/// One request and its answer, over `line` if it still stands, else over a new one.
///
/// # Cancellation
/// The connection is closed: it is in `line` only between exchanges.
async fn exchange(line: &mut Option<Line>, shared: &Shared) -> Result<StatusCode, Unanswered> {
    let address = shared.target.address;
    let mut kept = line.take();
    loop {
        let fresh = kept.is_none();
        let mut line_now = match kept.take() {
            Some(kept) => kept,
            None => connect(shared).await?,
        };
        let broken = |error| Unanswered::BrokenOff(address, error);
        if let Err(error) = line_now.sender.ready().await {
            if fresh {
                return Err(broken(error));
            }
            continue;
        }
        let response = match line_now.sender.try_send_request(request(address)).await {
            Ok(response) => response,
            Err(mut refused) => {
                // With the request still at hand nothing of it was written: the other end had
                // closed the kept connection before.
                if !fresh && refused.take_message().is_some() {
                    continue;
                }
                return Err(broken(refused.into_error()));
            }
        };
        let status = response.status();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(broken)?;
        }
        *line = Some(line_now);
        return Ok(status);
    }
}

async fn connect(shared: &Shared) -> Result<Line, Unanswered> {
    let address = shared.target.address;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| Unanswered::Connect(address, error))?;
    add(&shared.connects, 1);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "could not set TCP_NODELAY");
    }
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Unanswered::BrokenOff(address, error))?;
    let mut driver = JoinSet::new();
    driver.spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of the load ended early");
        }
    });
    Ok(Line {
        sender,
        _driver: driver,
    })
}

fn request(address: SocketAddr) -> Request<Empty<Bytes>> {
    let host = HeaderValue::try_from(address.to_string()).expect("an address is visible ASCII");
    let mut request = Request::new(Empty::new());
    request.headers_mut().insert(HOST, host);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(rate: u32, connections: u32, index: u32) -> Turns {
        let target = LoadTarget {
            name: String::new(),
            address: ([127, 0, 0, 1], 80).into(),
            rate_per_second: NonZeroU32::new(rate).unwrap(),
            connections: NonZeroU32::new(connections).unwrap(),
        };
        Turns::of(&target, index)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn connections_take_turns_at_the_rate() {
        let mut all: Vec<_> = (0..4).map(|index| turns(40, 4, index)).collect();
        let mut due = Vec::new();
        for _ in 0..2 {
            for one in &mut all {
                due.push(one.due());
                assert_eq!(one.advance(one.due()), 0);
            }
        }
        assert_eq!(due, [0, 25, 50, 75, 100, 125, 150, 175].map(ms));
    }

    #[test]
    fn a_late_turn_is_taken_and_only_the_ones_behind_it_are_missed() {
        for (over_at, missed, next) in [
            (ms(30), 0, ms(100)),    // in time
            (ms(100), 0, ms(100)),   // just due
            (ms(199), 0, ms(100)),   // late: at once
            (ms(200), 1, ms(200)),   // two due: the older one is missed
            (ms(1050), 9, ms(1000)), // a long stop is not made up for
        ] {
            let mut turns = turns(40, 4, 0);
            assert_eq!(turns.advance(over_at), missed, "{over_at:?}");
            assert_eq!(turns.due(), next, "{over_at:?}");
        }
    }

    #[test]
    fn an_odd_rate_does_not_drift() {
        let mut turns = turns(7, 1, 0);
        for _ in 0..7_000 {
            assert_eq!(turns.advance(turns.due()), 0);
        }
        assert_eq!(turns.due(), Duration::from_secs(1000));
    }

    #[test]
    fn the_figures_begin_without_times() {
        let shared = Shared::new(LoadTarget {
            name: "short".into(),
            address: ([127, 0, 0, 1], 80).into(),
            rate_per_second: NonZeroU32::MIN,
            connections: NonZeroU32::MIN,
        });
        assert_eq!(shared.read().latency_mean, None);
        assert_eq!(shared.read().latency_max, None);

        shared.note_answer(StatusCode::NO_CONTENT, ms(1));
        shared.note_answer(StatusCode::BAD_GATEWAY, ms(3));
        let figures = shared.read();
        assert_eq!((figures.ok, figures.failed), (1, 1));
        assert_eq!(figures.latency_mean, Some(ms(2)));
        assert_eq!(figures.latency_max, Some(ms(3)));
    }

    #[test]
    fn the_host_is_the_address() {
        for address in ["127.0.0.1:8080", "[::1]:80"] {
            let parsed: SocketAddr = address.parse().unwrap();
            assert_eq!(request(parsed).headers()[HOST], address);
        }
    }
}
