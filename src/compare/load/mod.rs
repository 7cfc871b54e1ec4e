//! A load: requests sent to one address, again and again, and what became of them.
//!
//! **Closed loop**: so many clients, each of which sends its next request when the last one is answered. It finds out how
//! much a server can do. **Open loop**: requests are due by the clock, whatever becomes of the ones before; latency
//! counts from when a request was due. So a server that stalls is charged for all that would have come
//! meanwhile, not for the few requests that it held (coordinated omission). What is due while all
//! connections are busy waits its turn, first come, first served.
//!
//! Each thread has an epoll, its sockets and its figures to itself; it allocates nothing for a request once every connection has
//! been used. Everything is bounded: connections, the time for an answer, the length of heads. Bodies are counted off, not kept.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

mod arrivals;
mod client;
mod response;
mod tally;
mod target;
mod timer;
mod worker;

pub use arrivals::Spread;
pub use tally::{Tally, Unanswered};
pub use target::{Request, Target, Wrong};

use worker::Worker;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// When the one before it on the same connection is answered.
    Closed {
        /// So long after that.
        think: Duration,
    },
    /// By the clock.
    Open {
        /// So many a second, over all connections together.
        rate: NonZeroU32,
        /// How they are spread.
        spread: Spread,
    },
}

/// A load as it is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to connect. The next one is taken while none has answered.
    pub addresses: Vec<SocketAddr>,
    /// What is sent.
    pub request: Request,
    /// When.
    pub pace: Pace,
    /// How many connections there are at most. So many requests at a time are under way.
    pub connections: NonZeroU32,
    /// How many threads share them; at most as many as connections.
    pub threads: NonZeroU32,
    /// A connection for each request, closed by the server: its FIN is waited for up to a second before the next one.
    pub close: bool,
    /// What is sent so long after the start is not measured.
    pub warm_up: Duration,
    /// How long is measured; `None`: until stopped or all requests are sent.
    pub duration: Option<Duration>,
    /// How many requests are measured at most.
    pub requests: Option<u64>,
    /// The longest one exchange may take, its connection included. Looked at ten times a second.
    pub timeout: Duration,
}

impl Settings {
    /// A steady load of GETs of `/` until it is dropped: so many requests a second over so many connections, which are kept.
    pub fn steady(address: SocketAddr, rate: NonZeroU32, connections: NonZeroU32) -> Settings {
        let target = Target {
            host: address.ip().to_string(),
            port: address.port(),
            authority: address.to_string(),
            path: "/".to_owned(),
        };
        Settings {
            addresses: vec![address],
            request: Request::new(&target, "GET", &[], None, false),
            pace: Pace::Open {
                rate,
                spread: Spread::Constant,
            },
            connections,
            threads: NonZeroU32::MIN,
            close: false,
            warm_up: Duration::ZERO,
            duration: None,
            requests: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// What is known while it runs, the warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoFar {
    /// Answers read to their end.
    pub answered: u64,
    /// Of these, with a status from 400 on.
    pub refused: u64,
    /// Requests that got no answer.
    pub unanswered: u64,
    /// Open loop: requests that are due and wait for a connection.
    pub behind: u64,
}

/// A thread's part of it; written by that thread only.
#[derive(Debug, Default)]
struct Live {
    answered: AtomicU64,
    refused: AtomicU64,
    unanswered: AtomicU64,
    behind: AtomicU64,
}

/// What all threads see.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    start: Instant,
    stop: AtomicBool,
    live: Box<[Live]>,
}

/// A load under way, on threads of its own. It stops when dropped.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<io::Result<Tally>>>,
    /// Nothing is ever said: each thread holds an end while it runs.
    running: watch::Sender<()>,
}

impl Load {
    /// Begins to send.
    ///
    /// # Errors
    /// When threads or descriptors are wanting. A server that does not answer is no error here: the figures show it.
    pub fn start(settings: Settings) -> io::Result<Load> {
        let threads = settings.threads.min(settings.connections);
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            live: (0..threads.get()).map(|_| Live::default()).collect(),
            settings,
        });
        let mut load = Load {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
            running: watch::Sender::new(()),
        };
        for part in 0..threads.get() {
            let mut worker = Worker::new(Arc::clone(&shared), part, threads)?;
            let running = load.running.subscribe();
            let thread = thread::Builder::new()
                .name(format!("load {part}"))
                .spawn(move || {
                    let ran = worker.run();
                    drop(running);
                    ran.map(|()| worker.into_tally())
                })?;
            load.threads.push(thread);
        }
        Ok(load)
    }

    /// What is known by now.
    pub fn so_far(&self) -> SoFar {
        let mut sum = SoFar::default();
        for live in &self.shared.live {
            sum.answered += live.answered.load(Ordering::Relaxed);
            sum.refused += live.refused.load(Ordering::Relaxed);
            sum.unanswered += live.unanswered.load(Ordering::Relaxed);
            sum.behind += live.behind.load(Ordering::Relaxed);
        }
        sum
    }

    /// Whether all is sent and answered.
    pub fn is_over(&self) -> bool {
        self.running.is_closed()
    }

    /// Waits until all is sent and answered.
    ///
    /// # Cancellation
    /// The load goes on.
    pub async fn ended(&self) {
        self.running.closed().await;
    }

    /// Ends it now, unless it has ended, and says what came of it. What is under way counts as interrupted.
    ///
    /// # Errors
    /// When a thread's epoll failed.
    pub fn finish(mut self) -> io::Result<Tally> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads.drain(..) {
            let tally = thread
                .join()
                .map_err(|_| io::Error::other("a thread of the load panicked"))?;
            sum.add(&tally?);
        }
        Ok(sum)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::warn!("a thread of the load had panicked");
            }
        }
    }
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load")
            .field("so_far", &self.so_far())
            .finish_non_exhaustive()
    }
}
