//! `config/apache-classic.toml` to its full times: `Timeout 30`, `MaxKeepAliveRequests 100`,
//! `KeepAliveTimeout 180`.
//!
//! A worker as it is, on a runtime whose clock is moved by hand: it stands still while a client is at
//! work (`spawn_blocking` holds it), and leaps from one timer to the next while all are silent. So three
//! minutes take no time, and are kept to the millisecond. Once, when asked to, the program itself is
//! driven in real time.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::sync::watch;
use tokio::task::{spawn_blocking, spawn_local, yield_now};
use tokio::time::{Instant, advance, sleep, sleep_until};
use warmline::account::PoolTally;
use warmline::client::Policy;
use warmline::config;
use warmline::net::{BackendAddr, Listening};
use warmline::pool::Common;
use warmline::proxy::{Layout, Target, UpstreamPlan};
use warmline::route::Router;
use warmline::server::Settings;
use warmline::worker::{self, Listener, Orders, Plan, Room};

use crate::program::Program;
use crate::proxy::{GET, GET_KEPT, ask, ms, said};
use crate::support::PATIENCE;
use crate::support::client::{Client, Ended, RawResponse};
use crate::support::scripted::Backend;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/apache-classic.toml");

const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(180);
const TIMEOUT: Duration = Duration::from_secs(30);

/// `RequestReadTimeout`'s first figure, for heads and for bodies.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// What `RequestReadTimeout` adds for the only whole line of half a head: 16 bytes at 500 a second.
const FOR_A_LINE: Duration = Duration::from_millis(32);

/// A timer is of milliseconds: it may be late by one.
const TICK: Duration = Duration::from_millis(1);

/// How long the file's end is waited for that must not come, in real time.
const A_MOMENT: Duration = Duration::from_millis(50);

const HALF_A_HEAD: &str = "GET / HTTP/1.1\r\nHost: test.exa";

/// The file's settings, as `change` makes them.
fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let loaded = config::load(Path::new(FILE)).unwrap_or_else(|report| panic!("{report}"));
    let mut settings = loaded.settings;
    change(&mut settings);
    settings
}

/// What one worker is to do by these settings, in front of `backend`.
fn orders(settings: Settings, backend: SocketAddr) -> (Orders, SocketAddr) {
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listening = Listening::on(any_port, 1).unwrap();
    let addr = listening.address();
    let listener = settings.listeners[0].client.over(&settings.client);
    let [upstream] = <[_; 1]>::try_from(settings.upstreams).expect("the file has one upstream");
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
    };
    let orders = Orders {
        listeners: vec![Listener {
            listening: Arc::new(listening),
            policy: Arc::new(Policy::new(listener, &settings.hosts)),
        }],
        max_clients: settings.max_clients,
        shutdown_timeout: settings.shutdown_timeout,
        layout: Layout {
            router: Arc::new(Router::new([(None, "/", 0)])),
            upstreams: vec![Arc::new(plan)],
        },
    };
    (orders, addr)
}

/// Runs `script` beside a worker with the file's settings, in a clock that is moved by hand.
fn in_moved_time<F: Future<Output = ()>>(
    change: impl FnOnce(&mut Settings),
    script: impl FnOnce(SocketAddr) -> F,
) {
    let backend = Backend::numbered();
    let (orders, addr) = orders(settings(change), backend.addr);
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let (_orders, ordered) = watch::channel(Arc::new(orders));
        let working = spawn_local(worker::work(Plan {
            number: 0,
            orders: ordered,
            stop: stopped,
            room: Arc::new(Room::new(1)),
        }));
        script(addr).await;
        stop.send_replace(true);
        working.await.unwrap().unwrap();
    });
}

/// Has the worker take in all that is there, at this very time.
async fn settle() {
    for _ in 0..50 {
        // Each time the kernel is asked for what has come.
        yield_now().await;
    }
}

/// A client whose work takes no time.
struct Visitor(Option<Client>);

impl Visitor {
    async fn connect(addr: SocketAddr) -> Visitor {
        let client = spawn_blocking(move || Client::connect(addr)).await;
        settle().await;
        Visitor(Some(client.unwrap()))
    }

    async fn does<T: Send + 'static>(
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

    async fn asks(&mut self, request: &'static str) -> RawResponse {
        self.does(move |client| ask(client, request)).await
    }

    async fn sends(&mut self, bytes: &'static str) {
        self.does(move |client| client.send(bytes)).await;
    }

    /// It is silent until `due` after `from`, and then sees a FIN.
    async fn sees_a_silent_fin(&mut self, from: Instant, due: Duration) {
        sleep_until(from + due - TICK).await;
        let early = self.does(|client| client.end_within(A_MOMENT)).await;
        assert_eq!(early, Ended::KeptOpen, "before {due:?}");
        sleep_until(from + due + TICK).await;
        let ended = self.does(|client| client.end_within(PATIENCE)).await;
        assert_eq!(ended, Ended::Fin);
        assert_eq!(from.elapsed(), due + TICK);
    }

    /// It is silent until `due` after `from`, and then gets this response, which is the last.
    async fn gets_a_last_response(&mut self, from: Instant, due: Duration, status: u16) {
        sleep_until(from + due - TICK).await;
        let early = self.does(|client| client.end_within(A_MOMENT)).await;
        assert_eq!(early, Ended::KeptOpen, "before {due:?}");
        sleep_until(from + due + TICK).await;
        let response = self.does(Client::response).await;
        assert_eq!(response.status, status);
        assert_eq!(said(&response).0, "close");
        assert_eq!(response.ended, Ended::Fin);
        assert_eq!(from.elapsed(), due + TICK);
    }
}

#[test]
fn an_idle_client_is_kept_for_180_seconds_and_closed_in_silence_then() {
    in_moved_time(
        |_| {},
        async |addr| {
            let mut client = Visitor::connect(addr).await;
            let announced = "timeout=180, max=100".to_owned();
            assert_eq!(said(&client.asks(GET_KEPT).await).1, announced);
            let tasks = || Handle::current().metrics().num_alive_tasks();
            let with_its_task = tasks();
            sleep(ms(1500)).await;
            assert_eq!(tasks(), with_its_task - 1, "it is parked");
            sleep(KEEP_ALIVE_TIMEOUT - ms(1600)).await;
            let announced = "timeout=180, max=99".to_owned();
            assert_eq!(said(&client.asks(GET_KEPT).await).1, announced);
            let from = Instant::now();
            client.sees_a_silent_fin(from, KEEP_ALIVE_TIMEOUT).await;
        },
    );
}

/// The end of its time comes in the same turn of the event loop.
#[test]
fn a_request_in_the_last_millisecond_is_answered() {
    in_moved_time(
        |_| {},
        async |addr| {
            let mut client = Visitor::connect(addr).await;
            for before in [2, 1] {
                assert_eq!(client.asks(GET).await.status, 200);
                sleep(KEEP_ALIVE_TIMEOUT - ms(before)).await;
                // On this thread, so that the worker hears of both in one turn.
                client.0.as_mut().unwrap().send(GET);
                advance(ms(before)).await;
                let response = client.does(Client::response).await;
                assert_eq!(response.status, 200, "{before} ms before the end");
                assert_eq!(response.ended, Ended::KeptOpen);
            }
        },
    );
}

#[test]
fn a_hundred_responses_promise_to_keep_the_connection_and_the_next_one_ends_it() {
    in_moved_time(
        |_| {},
        async |addr| {
            let mut client = Visitor::connect(addr).await;
            for left in (1..=100).rev() {
                let response = client.asks(GET_KEPT).await;
                let announced = format!("timeout=180, max={left}");
                assert_eq!(said(&response), ("Keep-Alive".into(), announced));
                assert_eq!(response.ended, Ended::KeptOpen);
                if left % 10 == 0 {
                    sleep(ms(1500)).await; // it is parked, and counts on
                }
            }
            let last = client.asks(GET_KEPT).await;
            assert_eq!(last.status, 200);
            assert_eq!(said(&last), ("close".into(), String::new()));
            assert_eq!(last.ended, Ended::Fin);
        },
    );
}

#[test]
fn half_a_head_has_what_request_read_timeout_gives_it_and_is_answered_408() {
    in_moved_time(
        |_| {},
        async |addr| {
            // On a new connection its time counts from the accept.
            for is_kept in [false, true] {
                let mut client = Visitor::connect(addr).await;
                if is_kept {
                    assert_eq!(client.asks(GET).await.status, 200);
                    sleep(ms(90_000)).await;
                }
                let from = Instant::now();
                client.sends(HALF_A_HEAD).await;
                let due = READ_TIMEOUT + FOR_A_LINE;
                client.gets_a_last_response(from, due, 408).await;
            }
        },
    );
}

#[test]
fn half_a_head_has_timeout_where_request_read_timeout_is_off_and_each_byte_renews_it() {
    in_moved_time(
        |settings| settings.client.read_timeout = warmline::client::ReadTimeout::OFF,
        async |addr| {
            let mut client = Visitor::connect(addr).await;
            client.sends(HALF_A_HEAD).await;
            for piece in ["m", "p", "l"] {
                sleep(TIMEOUT - TICK).await;
                client.sends(piece).await;
            }
            let from = Instant::now();
            client.gets_a_last_response(from, TIMEOUT, 408).await;
        },
    );
}

#[test]
fn half_a_body_has_the_sooner_of_the_two_times_and_is_answered_408() {
    for (read_timeout, due) in [(None, READ_TIMEOUT), (Some("off"), TIMEOUT)] {
        in_moved_time(
            |settings| {
                if read_timeout.is_some() {
                    settings.client.read_timeout = warmline::client::ReadTimeout::OFF;
                }
            },
            async |addr| {
                let mut client = Visitor::connect(addr).await;
                let from = Instant::now();
                client
                    .sends("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
                    .await;
                client.gets_a_last_response(from, due, 408).await;
            },
        );
    }
}

#[test]
fn nothing_or_half_a_line_is_met_with_silence_when_its_time_is_over() {
    for (off, due) in [(false, READ_TIMEOUT), (true, TIMEOUT)] {
        in_moved_time(
            |settings| {
                if off {
                    settings.client.read_timeout = warmline::client::ReadTimeout::OFF;
                }
            },
            async |addr| {
                for sent in ["", "GET / HT"] {
                    let mut client = Visitor::connect(addr).await;
                    let from = Instant::now();
                    client.sends(sent).await;
                    client.sees_a_silent_fin(from, due).await;
                }
                let mut kept = Visitor::connect(addr).await;
                assert_eq!(kept.asks(GET).await.status, 200);
                sleep(ms(60_000)).await;
                let from = Instant::now();
                kept.sends("\r\n").await;
                // A line end is two bytes of a head's lines: 4 ms by the rate.
                let due = if off { due } else { due + ms(4) };
                kept.sees_a_silent_fin(from, due).await;
            },
        );
    }
}

/// The program itself, in real time: three minutes.
///
/// `cargo test --test lifecycle classic::the_program_keeps -- --ignored`
#[test]
#[ignore = "it takes three minutes"]
fn the_program_keeps_an_idle_client_for_180_seconds() {
    let backend = Backend::numbered();
    let text = std::fs::read_to_string(FILE).unwrap();
    let text = text
        .replace("${PORT:-8080}", "127.0.0.1:0")
        .replace("127.0.0.1:9000", &backend.addr.to_string());
    let program = Program::with_file(&text);
    let mut client = program.client();
    assert_eq!(said(&ask(&mut client, GET_KEPT)).1, "timeout=180, max=100");
    let from = Instant::now();
    assert_eq!(said(&ask(&mut client, GET_KEPT)).1, "timeout=180, max=99");
    let bound = KEEP_ALIVE_TIMEOUT + PATIENCE;
    assert_eq!(client.end_within(bound), Ended::Fin);
    let took = from.elapsed();
    assert!(took >= KEEP_ALIVE_TIMEOUT, "{took:?}");
    assert!(took < KEEP_ALIVE_TIMEOUT + ms(1000), "{took:?}");
}
