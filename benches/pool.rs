//! What the pool's and the balance's decisions cost, and moving a deadline.
//!
//! `cargo bench --bench pool`; `benches/README.md` has the figures.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::task::LocalSet;
use tokio::time::Instant;
use warmline::account::PoolTally;
use warmline::alarm::Alarms;
use warmline::balance::Balance;
use warmline::keepalive::KeepAlive;
use warmline::pool::{
    Common, ConnId, Connect, End, Farewell, Hint, Identity, Pool, PoolState, Settings, Wants, Watch,
};

const IDLE: [usize; 3] = [1, 64, 1024];

/// The usual limits, and a request limit that a bench does not reach.
const KEEP_ALIVE: KeepAlive = KeepAlive {
    max_requests: NonZeroU32::new(u32::MAX),
    ..KeepAlive::BACKEND
};

/// A pool with `idle` connections, parked a millisecond apart from `start` on.
fn pool(idle: usize, start: Instant) -> PoolState {
    let mut pool = PoolState::new(Settings::new(KEEP_ALIVE));
    let ids: Vec<ConnId> = (0..idle)
        .map(|_| {
            let id = pool.opening(start, Identity::default());
            pool.opened(id, 1, 0, start).id
        })
        .collect();
    for (id, after) in ids.into_iter().zip(0..) {
        let _kept = pool.release(
            id,
            End::Complete,
            Hint::default(),
            start + Duration::from_millis(after),
        );
    }
    pool
}

/// The common path: the newest idle connection is leased, used and parked again.
fn reuse(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool/acquire and release");
    let start = Instant::now();
    for idle in IDLE {
        let mut pool = pool(idle, start);
        let now = start + Duration::from_secs(2);
        group.bench_function(BenchmarkId::from_parameter(idle), |b| {
            b.iter(|| {
                let leased = pool.acquire(black_box(now), Wants::default());
                let leased = leased.expect("a connection is idle");
                pool.release(leased.id, End::Complete, Hint::default(), now)
            });
        });
    }
    group.finish();
}

/// A connection that is always there.
struct Still;

impl Connect for Still {
    type Conn = u32;
    type Lent = u32;
    type Error = &'static str;

    async fn connect(&self, _: Identity, _: Watch) -> Result<u32, &'static str> {
        Ok(7)
    }

    fn is_usable(&self, _: &u32, _: Duration) -> bool {
        true
    }

    fn close(&self, _: Option<u32>, _: Farewell) {}

    fn lend(&self, conn: u32) -> Result<u32, u32> {
        Ok(conn)
    }

    fn adopt(&self, lent: u32, _: Watch) -> Option<u32> {
        Some(lent)
    }

    fn is_out_of_ports(_: &&'static str) -> bool {
        false
    }

    fn out_of_ports(&self) -> &'static str {
        "no port"
    }
}

/// What a worker's lease and its return cost by the number of workers that share the server: the
/// same thread, the others idle. The limits are not on the way; with `max_idle` a count is.
fn shared(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool/lease and return");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be had");
    let local = LocalSet::new();
    for (name, workers, max_idle) in [
        ("1 worker", 1, None),
        ("4 workers", 4, None),
        ("1 worker, max_idle", 1, NonZeroU32::new(64)),
        ("4 workers, max_idle", 4, NonZeroU32::new(64)),
    ] {
        let settings = Settings {
            max_idle,
            ..Settings::new(KEEP_ALIVE)
        };
        let tallies = (0..workers).map(|_| Arc::new(PoolTally::default()));
        let common = Arc::new(Common::new(settings, tallies.collect()));
        local.block_on(&runtime, async {
            let pools: Vec<_> = (0..workers)
                .map(|worker| Pool::new(Still, Arc::clone(&common), worker))
                .collect();
            let pool = &pools[0];
            let first = pool.wait(Instant::now(), Wants::default()).await;
            let now = Instant::now();
            first.expect("it opens").finish(End::Complete, now);
            group.bench_function(name, |b| {
                b.iter(|| {
                    let lease = pool.acquire(black_box(now), Wants::default());
                    let lease = lease.expect("a connection is idle");
                    lease.finish(End::Complete, now);
                });
            });
        });
    }
    group.finish();
}

/// The short mode's path: a permission, an open connection, its end.
fn open_and_close(c: &mut Criterion) {
    let mut pool = PoolState::new(Settings::new(KeepAlive {
        enabled: false,
        ..KEEP_ALIVE
    }));
    let now = Instant::now();
    c.bench_function("pool/open and close", |b| {
        b.iter(|| {
            let id = pool.opening(black_box(now), Identity::default());
            let leased = pool.opened(id, 1, 0, now);
            pool.release(leased.id, End::Complete, Hint::default(), now)
        });
    });
}

/// The sweeper's look: every idle connection has waited too long, and is ended.
fn expire(c: &mut Criterion) {
    let mut group = c.benchmark_group("pool/expire all");
    let start = Instant::now();
    let late = start + KEEP_ALIVE.timeout + Duration::from_secs(2);
    for idle in IDLE {
        group.bench_function(BenchmarkId::from_parameter(idle), |b| {
            b.iter_batched_ref(
                || pool(idle, start),
                |pool| while pool.expire(black_box(late)).is_some() {},
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn pick(c: &mut Criterion) {
    let mut group = c.benchmark_group("balance/pick");
    let now = Instant::now();
    for servers in [1, 8] {
        let mut balance = Balance::new(std::iter::repeat_n(1, servers));
        group.bench_function(BenchmarkId::from_parameter(servers), |b| {
            b.iter(|| balance.pick(black_box(now), &[]));
        });
    }
    group.finish();
}

/// A deadline moves on, as it does several times in each exchange.
fn alarm(c: &mut Criterion) {
    let alarms = Alarms::default();
    let alarm = alarms.alarm();
    let start = Instant::now() + Duration::from_mins(1);
    let mut moved = Duration::ZERO;
    c.bench_function("alarm/move a deadline", |b| {
        b.iter(|| {
            moved += Duration::from_nanos(1);
            alarm.set(black_box(Some(start + moved)));
        });
    });
}

criterion_group!(benches, reuse, shared, open_and_close, expire, pick, alarm);
criterion_main!(benches);
