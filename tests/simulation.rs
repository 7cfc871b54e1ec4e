//! A day of traffic in seconds: two workers' pools of one server, on a clock that jumps from one
//! event to the next. The rate goes up and down with the hour, the backend restarts, clients give
//! up; what is promised holds throughout.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};
use warmline::account::{PoolFigures, PoolTally};
use warmline::keepalive::{CloseReason, KeepAlive};
use warmline::pool::{
    AcquireError, Common, Connect, End, Farewell, Hint, Identity, Need, Pool, Settings, Wants,
    Watch,
};

const MAX: u32 = 6;
const DAY: Duration = Duration::from_hours(24);

/// The one server, as both workers reach it.
#[derive(Default)]
struct Server {
    down: Cell<bool>,
    /// Which connections are open, and who is to be told of their end.
    open: RefCell<Vec<Option<Watch>>>,
    at_once: Cell<u32>,
    most_at_once: Cell<u32>,
    closed: Cell<u64>,
    opened: Cell<u64>,
}

impl Server {
    fn restart(&self) {
        self.down.set(true);
        let watches: Vec<_> = self
            .open
            .borrow_mut()
            .iter_mut()
            .map(Option::take)
            .collect();
        for watch in watches.into_iter().flatten() {
            watch.ended();
        }
    }
}

struct Line(Rc<Server>);

/// A connection: its number, and whether an exchange is on it.
#[derive(Debug)]
struct Conn(usize, Cell<bool>);

impl Connect for Line {
    type Conn = Conn;
    type Lent = usize;
    type Error = &'static str;

    async fn connect(&self, _: Identity, watch: Watch) -> Result<Conn, &'static str> {
        let server = &self.0;
        // Those being opened count.
        server.at_once.set(server.at_once.get() + 1);
        server
            .most_at_once
            .set(server.most_at_once.get().max(server.at_once.get()));
        sleep(Duration::from_millis(3)).await;
        if server.down.get() {
            server.at_once.set(server.at_once.get() - 1);
            return Err("refused");
        }
        server.opened.set(server.opened.get() + 1);
        let mut open = server.open.borrow_mut();
        open.push(Some(watch));
        Ok(Conn(open.len() - 1, Cell::new(false)))
    }

    fn is_usable(&self, conn: &Conn, _: Duration) -> bool {
        self.0.open.borrow()[conn.0].is_some()
    }

    fn close(&self, conn: Option<Conn>, farewell: Farewell) {
        let conn = conn.expect("none is lost on its way");
        self.0.open.borrow_mut()[conn.0] = None;
        self.0.at_once.set(self.0.at_once.get() - 1);
        self.0.closed.set(self.0.closed.get() + 1);
        assert!(farewell.age <= Duration::from_mins(61), "{farewell:?}");
    }

    fn lend(&self, conn: Conn) -> Result<usize, Conn> {
        Ok(conn.0)
    }

    fn adopt(&self, number: usize, watch: Watch) -> Option<Conn> {
        if let Some(old) = &mut self.0.open.borrow_mut()[number] {
            *old = watch;
        }
        Some(Conn(number, Cell::new(false)))
    }

    fn is_out_of_ports(_: &&'static str) -> bool {
        false
    }

    fn out_of_ports(&self) -> &'static str {
        unreachable!("there are ports enough")
    }
}

/// Numbers that look drawn at random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % most
    }
}

#[derive(Default)]
struct Outcome {
    served: Cell<u64>,
    failed: Cell<u64>,
    refused: Cell<u64>,
    gave_up: Cell<u64>,
}

impl Outcome {
    fn add(cell: &Cell<u64>) {
        cell.set(cell.get() + 1);
    }
}

/// One request that takes `takes`, of a client that waits for `patience`.
async fn request(
    pool: Pool<Line>,
    need: Need,
    takes: Duration,
    patience: Duration,
    out: Rc<Outcome>,
) {
    let now = Instant::now();
    let wants = Wants {
        need,
        ..Wants::default()
    };
    let exchange = async {
        let mut lease = match pool.acquire(now, wants) {
            Some(lease) => lease,
            None => match pool.wait(now, wants).await {
                Ok(lease) => lease,
                Err(AcquireError::Connect(_)) => return Outcome::add(&out.failed),
                Err(AcquireError::Refused(_)) => return Outcome::add(&out.refused),
            },
        };
        assert!(
            !lease.conn().1.replace(true),
            "two requests on one connection"
        );
        lease.hint(Hint {
            timeout: Some(Duration::from_secs(30)),
            max: None,
        });
        sleep(takes).await;
        lease.conn().1.set(false);
        Outcome::add(&out.served);
        lease.finish(End::Complete, Instant::now());
    };
    if timeout(patience, exchange).await.is_err() {
        Outcome::add(&out.gave_up);
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_day_of_traffic() {
    let local = LocalSet::new();
    local.run_until(day()).await;
}

async fn day() {
    let settings = Settings {
        max_connections: NonZeroU32::new(MAX),
        max_idle: NonZeroU32::new(4),
        min_idle: 2,
        max_connecting: NonZeroU32::new(3),
        max_connects_per_second: NonZeroU32::new(50),
        max_waiting: 20,
        ..Settings::new(KeepAlive::BACKEND)
    };
    let tallies: Vec<_> = (0..2).map(|_| Arc::new(PoolTally::default())).collect();
    let common = Arc::new(Common::new(settings, tallies));
    let server = Rc::new(Server::default());
    let pools =
        [0, 1].map(|worker| Pool::new(Line(Rc::clone(&server)), Arc::clone(&common), worker));
    let (out, mut dice) = (Rc::new(Outcome::default()), Dice(7));
    let start = Instant::now();
    let (mut sent, mut next_restart) = (0, start + Duration::from_hours(5));
    while start.elapsed() < DAY {
        let hour = start.elapsed().as_secs() / 3600;
        // One in ten seconds at night, ten in a second at noon.
        let gap = if (8..20).contains(&hour) {
            1500
        } else {
            20_000
        };
        sleep(Duration::from_millis(dice.below(gap))).await;
        let burst = if dice.below(40) == 0 { 30 } else { 1 };
        for _ in 0..burst {
            let pool = pools[usize::from(dice.below(2) == 1)].clone();
            let need = if dice.below(4) == 0 {
                Need::Young
            } else {
                Need::Any
            };
            let takes = Duration::from_millis(1 + dice.below(400));
            let patience = Duration::from_millis(50 + dice.below(8000));
            spawn_local(request(pool, need, takes, patience, Rc::clone(&out)));
            sent += 1;
        }
        if Instant::now() >= next_restart {
            next_restart += Duration::from_hours(5);
            server.restart();
            sleep(Duration::from_secs(3)).await;
            server.down.set(false);
        }
        let (_, line) = (0, common.figures());
        assert!(line.connections <= MAX.into() && line.waiting <= 20);
    }
    sleep(Duration::from_mins(2)).await;
    let figures = || {
        let mut sum = PoolFigures::default();
        for tally in common.tallies() {
            tally.add_to(&mut sum);
        }
        sum
    };
    assert_eq!(figures().counts.idle, 2, "min_idle is kept");
    for pool in &pools {
        pool.drain();
    }
    // What is being opened comes, and is closed.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(server.at_once.get(), 0);
    let sum = figures();
    let (answered, failed) = (out.served.get(), out.failed.get());
    let (refused, gave_up) = (out.refused.get(), out.gave_up.get());
    eprintln!(
        "{sent} requests: {answered} served, {failed} failed, {refused} refused, {gave_up} gave up; \
         {} connections, {} requests each, {} borrowed, at most {} at once",
        sum.counts.opened,
        answered / sum.counts.opened,
        sum.counts.borrowed,
        server.most_at_once.get(),
    );
    assert_eq!(
        answered + failed + refused + gave_up,
        sent,
        "each comes to one end"
    );
    assert!(answered > sent * 8 / 10 && refused > 0 && gave_up > 0);
    assert_eq!(
        server.most_at_once.get(),
        MAX,
        "the limit is reached, and kept"
    );
    assert_eq!(sum.counts.opened, server.opened.get());
    assert_eq!(sum.counts.opened, sum.counts.closed_total());
    assert_eq!(
        server.closed.get(),
        server.opened.get(),
        "each is closed once"
    );
    assert_eq!(sum.counts.borrowed, sum.counts.lent);
    assert!(sum.closed_for(CloseReason::IdleTimeout) > 0);
    let line = common.figures();
    assert_eq!((line.waiting, line.connections), (0, 0));
}
