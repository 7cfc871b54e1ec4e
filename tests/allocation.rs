//! The ordinary way of a request through the pool allocates nothing: a connection that is idle is leased,
//! used and given back; nor does a line of the access log.
//!
//! The allocator of this program counts what its threads ask for.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe; this one passes everything on to the system's"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::Instant;
use warmline::account::{Arm, Asked, Connection, Exchange, Outcome, PoolTally, Upstream};
use warmline::keepalive::KeepAlive;
use warmline::log::{self, Destination, Format};
use warmline::pool::{
    Common, Connect, End, Farewell, Hint, Identity, Need, Pool, Settings, Wants, Watch,
};

struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends allocates too, when its counter is gone.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is the system allocator's, with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often this thread asks for memory while it does `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

/// Connections that are always there.
struct Still;

impl Connect for Still {
    type Conn = Box<u32>;
    type Lent = Box<u32>;
    type Error = &'static str;

    async fn connect(&self, _: Identity, _: Watch) -> Result<Box<u32>, &'static str> {
        Ok(Box::new(7))
    }

    fn is_usable(&self, _: &Box<u32>, _: Duration) -> bool {
        true
    }

    fn close(&self, _: Option<Box<u32>>, _: Farewell) {}

    fn lend(&self, conn: Box<u32>) -> Result<Box<u32>, Box<u32>> {
        Ok(conn)
    }

    fn adopt(&self, lent: Box<u32>, _: Watch) -> Option<Box<u32>> {
        Some(lent)
    }

    fn is_out_of_ports(_: &&'static str) -> bool {
        false
    }

    fn out_of_ports(&self) -> &'static str {
        unreachable!("there are ports enough")
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_lease_of_an_idle_connection_and_its_return_allocate_nothing() {
    LocalSet::new().run_until(leases()).await;
}

async fn leases() {
    for settings in [
        Settings::new(KeepAlive::BACKEND),
        Settings {
            max_idle: NonZeroU32::new(64),
            max_connections: NonZeroU32::new(64),
            max_connects_per_second: NonZeroU32::new(1000),
            min_idle: 1,
            ..Settings::new(KeepAlive::BACKEND)
        },
    ] {
        let tallies = (0..4).map(|_| Arc::new(PoolTally::default()));
        let common = Arc::new(Common::new(settings, tallies.collect()));
        let pools: Vec<_> = (0..4)
            .map(|worker| Pool::new(Still, Arc::clone(&common), worker))
            .collect();
        let pool = &pools[0];
        let opening = allocations(|| drop(Box::new(7)));
        assert_eq!(opening, 1, "what is allocated is counted");
        let mut idle = Vec::new();
        for _ in 0..3 {
            let lease = pool.wait(Instant::now(), Wants::default()).await;
            idle.push(lease.unwrap());
        }
        for lease in idle {
            lease.finish(End::Complete, Instant::now());
        }
        let hint = Hint {
            timeout: Some(Duration::from_secs(30)),
            max: Some(1000),
        };
        for need in [Need::Any, Need::Young] {
            let wants = Wants {
                need,
                ..Wants::default()
            };
            let count = allocations(|| {
                for _ in 0..300 {
                    let mut lease = pool.acquire(Instant::now(), wants).unwrap();
                    lease.hint(hint);
                    lease.finish(End::Complete, Instant::now());
                }
            });
            assert_eq!(count, 0, "{need:?}, {:?}", common.settings());
        }
    }
}

#[test]
fn a_line_of_the_access_log_allocates_nothing_once_its_buffer_is_there() {
    let backend = std::net::SocketAddr::from(([10, 0, 0, 5], 80));
    let asked = Asked {
        method: http::Method::GET,
        target: "/articles/2026/keep-alive?page=2".parse().unwrap(),
        version: http::Version::HTTP_11,
        host: Some(http::HeaderValue::from_static("shop.example")),
        referer: Some(http::HeaderValue::from_bytes(b"caf\xe9 \"q\"").unwrap()),
        user_agent: Some(http::HeaderValue::from_static("Mozilla/5.0 (X11; Linux)")),
    };
    let exchange = Exchange {
        client: ([192, 0, 2, 7], 40123).into(),
        client_exchange: 3,
        client_kept: true,
        asked: Some(&asked),
        status: 200,
        received: 0,
        sent: 5123,
        outcome: Outcome::Answered,
        total: Duration::from_micros(12_345),
        upstream: Some(Upstream {
            name: "app",
            arm: Arm::Pooled,
            backend: Some(&backend),
            connection: Some(Connection {
                id: 18,
                exchange: 4,
                idle: Some(Duration::from_micros(1500)),
                connect: None,
                local_port: Some(40_001),
                closed: None,
            }),
            checkout: Some(Duration::from_micros(17)),
            first_byte: Some(Duration::from_millis(12)),
            sent_again: 1,
            again_since: Some("unsent"),
        }),
    };
    for format in [Format::Combined, Format::Extended, Format::Json] {
        let settings = log::Settings {
            to: Destination::File("/dev/null".into()),
            format,
            flush: log::Settings::FLUSH,
        };
        let (log, sinks) = log::start(&settings, 1).unwrap();
        let (sink, handle) = (&sinks[0], log.handle());
        let mut line = Vec::new();
        log::line(&mut line, format, &exchange, &log::Stamp::new(0, 0), 0);
        // One buffer, and the first line of the next.
        let lines = 60 * 1024 / line.len() + 2;
        for round in 1..=6 {
            let count = allocations(|| {
                for _ in 0..lines {
                    sink.note(&exchange);
                }
            });
            // Two buffers are in use: one here, one at the writer or on its way back.
            assert!(count == 0 || round <= 2, "{format:?}, round {round}");
            // A writer that has gone on to this has given the buffer back.
            handle.reopen();
            let end = Instant::now() + Duration::from_secs(20);
            while handle.counts().reopened < round {
                assert!(Instant::now() < end, "the writer goes on");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        drop(sinks);
        log.join();
        let written = handle.counts().written;
        assert_eq!(written, 6 * lines as u64, "{format:?}");
    }
}
