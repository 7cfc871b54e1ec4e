//! A worker as it is, on a runtime whose clock is moved by hand.
//!
//! It stands still while a client is at work (`spawn_blocking` holds it), and leaps from one timer to
//! the next while all are silent. So minutes take no time, and are kept to the millisecond.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::{spawn_blocking, spawn_local, yield_now};
use tokio::time::{Instant, advance, sleep_until};
use warmline::account::PoolTally;
use warmline::client::Policy;
use warmline::net::{BackendAddr, Listening};
use warmline::pool::Common;
use warmline::proxy::{Layout, Target, UpstreamPlan, Way};
use warmline::route::Router;
use warmline::server::Settings;
use warmline::worker::{self, Listener, Orders, Plan, Room};

use crate::proxy::{ask, said};
use crate::support::PATIENCE;
use crate::support::client::{Client, Ended, RawResponse};

/// A timer is of milliseconds: it may be late by one.
pub const TICK: Duration = Duration::from_millis(1);

/// How long the end of a connection is waited for that must not come, in real time.
const A_MOMENT: Duration = Duration::from_millis(30);

fn listener(settings: &Settings, listening: Arc<Listening>) -> Listener {
    let client = settings.listeners[0].client.over(&settings.client);
    Listener {
        listening,
        policy: Arc::new(Policy::new(client, &settings.hosts, &[])),
    }
}

/// What one worker is to do by these settings, in front of `backend`.
fn orders(settings: Settings, backend: SocketAddr) -> (Orders, SocketAddr) {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listening = Listening::on(any_port, 1).unwrap();
    let addr = listening.address();
    let listener = listener(&settings, Arc::new(listening));
    let [upstream] = <[_; 1]>::try_from(settings.upstreams).expect("there is one upstream");
    let target = Target {
        backend: BackendAddr::Ip(backend),
        weight: 1,
        host: "test".into(),
        tls: None,
    };
    let tally = Arc::new(PoolTally::default());
    let common = Arc::new(Common::new(upstream.pool.clone(), vec![tally]));
    let plan = UpstreamPlan {
        settings: upstream,
        servers: vec![(target, common)],
        split: None,
    };
    let orders = Orders {
        listeners: vec![listener],
        max_clients: settings.max_clients,
        shutdown_timeout: settings.shutdown_timeout,
        layout: Layout {
            router: Arc::new(Router::new([(None, "/", Way::to(0))])),
            upstreams: vec![Arc::new(plan)],
        },
    };
    (orders, addr)
}

/// A worker that is at work, and what it is told.
pub struct Worker {
    /// Where it listens.
    pub addr: SocketAddr,
    orders: watch::Sender<Arc<Orders>>,
    stop: watch::Sender<bool>,
}

impl Worker {
    /// A new client.
    pub async fn client(&self) -> Visitor {
        let addr = self.addr;
        let client = spawn_blocking(move || Client::connect(addr)).await;
        settle().await;
        Visitor(Some(client.unwrap()))
    }

    /// A new client of which the worker hears at its next turn.
    pub fn client_at_once(&self) -> Visitor {
        Visitor(Some(Client::connect(self.addr)))
    }

    /// Has it serve new clients by these settings, and as many at once as they say: a reload.
    pub async fn reload(&self, settings: &Settings) {
        self.orders.send_modify(|orders| {
            let listening = Arc::clone(&orders.listeners[0].listening);
            *orders = Arc::new(Orders {
                listeners: vec![listener(settings, listening)],
                max_clients: settings.max_clients,
                shutdown_timeout: settings.shutdown_timeout,
                layout: orders.layout.clone(),
            });
        });
        settle().await;
    }

    /// Tells it to stop.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        settle().await;
    }
}

/// Runs `script` beside a worker with these settings, in a clock that is moved by hand.
pub fn in_moved_time(
    settings: Settings,
    backend: SocketAddr,
    script: impl AsyncFnOnce(Rc<Worker>),
) {
    let (orders, addr) = orders(settings, backend);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let (orders, ordered) = watch::channel(Arc::new(orders));
        let working = spawn_local(worker::work(Plan {
            number: 0,
            orders: ordered,
            stop: stopped,
            cut: watch::channel(false).1,
            looks: mpsc::channel(1).1,
            room: Arc::new(Room::new(1)),
            log: None,
            front: Arc::default(),
        }));
        let worker = Rc::new(Worker { addr, orders, stop });
        script(Rc::clone(&worker)).await;
        worker.stop().await;
        working.await.unwrap().unwrap();
    });
}

/// How many tasks the worker and the test have.
pub fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Has the worker take in all that is there, at this very time.
pub async fn settle() {
    for _ in 0..50 {
        // Each time the kernel is asked for what has come.
        yield_now().await;
    }
}

/// A client whose work takes no time.
pub struct Visitor(Option<Client>);

impl Visitor {
    /// Has the client do this.
    pub async fn does<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Client) -> T + Send + 'static,
    ) -> T {
        settle().await;
        let mut client = self.0.take().expect("it comes back");
        let (client, result) = spawn_blocking(move || {
            let result = work(&mut client);
            (client, result)
        })
        .await
        .unwrap();
        self.0 = Some(client);
        settle().await;
        result
    }

    /// Sends a request and reads the response.
    pub async fn asks(&mut self, request: &'static str) -> RawResponse {
        self.does(move |client| ask(client, request)).await
    }

    /// Sends these bytes, and the worker takes them in.
    pub async fn sends(&mut self, bytes: &'static str) {
        self.does(move |client| client.send(bytes)).await;
    }

    /// Sends these bytes, on this thread: the worker has no turn before what else comes now.
    pub fn slips_in(&mut self, bytes: &'static str) {
        self.0.as_mut().expect("it comes back").send(bytes);
    }

    /// Sends these bytes so long before something is due that the worker hears of both in one turn.
    pub async fn sends_before(&mut self, bytes: &'static str, before: Duration) {
        self.slips_in(bytes);
        advance(before).await;
    }

    /// Ends the connection with RST.
    pub fn resets(mut self) {
        self.0.take().expect("it comes back").reset();
    }

    pub async fn is_open(&mut self) -> bool {
        self.does(|client| client.end_within(A_MOMENT)).await == Ended::KeptOpen
    }

    /// It sees a FIN, at this very time.
    pub async fn sees_a_fin(&mut self) {
        let ended = self.does(|client| client.end_within(PATIENCE)).await;
        assert_eq!(ended, Ended::Fin);
    }

    /// It is silent until `due` after `from`, and then sees a FIN.
    pub async fn sees_a_silent_fin(&mut self, from: Instant, due: Duration) {
        sleep_until(from + due - TICK).await;
        assert!(self.is_open().await, "before {due:?}");
        sleep_until(from + due + TICK).await;
        self.sees_a_fin().await;
        assert_eq!(from.elapsed(), due + TICK);
    }

    /// It is silent until `due` after `from`, and then gets this response, which is the last.
    pub async fn gets_a_last_response(&mut self, from: Instant, due: Duration, status: u16) {
        sleep_until(from + due - TICK).await;
        assert!(self.is_open().await, "before {due:?}");
        sleep_until(from + due + TICK).await;
        let response = self.does(Client::response).await;
        assert_eq!(response.status, status);
        assert_eq!(said(&response).0, "close");
        assert_eq!(response.ended, Ended::Fin);
        assert_eq!(from.elapsed(), due + TICK);
    }
}
