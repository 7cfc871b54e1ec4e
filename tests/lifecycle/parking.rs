//! Clients that are idle for over a second: parked, without a task, and taken up again as they were.
//!
//! What is a matter of time is driven in a clock that is moved by hand; what is a matter of many, or of
//! chance, in real time.

use std::rc::Rc;
use std::thread;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use warmline::client::{HostSettings, LAST_CHANCE, Overrides};
use warmline::net::{Network, Networks, ProxyProtocol};
use warmline::server::Settings;

use crate::kernel::sides;
use crate::moved_time::{TICK, Visitor, Worker, in_moved_time, tasks};
use crate::proxy::{GET, GET_KEPT, NEVER, Proxy, kept, ms, said, settings_to};
use crate::support::client::{Client, Ended};
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, raise_open_files, wait_until};

/// After so long an idle client is parked.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// Longer than that.
const A_WHILE: Duration = Duration::from_millis(1500);

/// Answers with the path that was asked for.
fn echo() -> Backend {
    Backend::start(|mut conn| {
        conn.serve(|request| {
            let path = request.line().split(' ').nth(1).unwrap().to_owned();
            let length = path.len();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{path}").into()
        });
    })
}

/// Runs `script` beside a worker that keeps clients for so long, and so often, in moved time.
fn in_time(timeout: Duration, max_requests: u32, script: impl AsyncFnOnce(Rc<Worker>)) {
    in_time_with(
        |settings| settings.client.keep_alive = kept(timeout, max_requests),
        script,
    );
}

fn in_time_with(change: impl FnOnce(&mut Settings), script: impl AsyncFnOnce(Rc<Worker>)) {
    let backend = echo();
    let mut settings = settings_to(backend.addr);
    change(&mut settings);
    in_moved_time(settings, backend.addr, script);
}

/// A client that has been answered, and was idle for long enough since to be parked: it is.
async fn parked(worker: &Worker) -> Visitor {
    let mut client = worker.client().await;
    assert_eq!(client.asks(GET).await.status, 200);
    let before = tasks();
    sleep(A_WHILE).await;
    assert_eq!(tasks(), before - 1, "it is parked");
    client
}

/// How many connections of clients the kernel has at the proxy's end, in whatever state.
fn connections(worker: &Worker) -> u64 {
    sides(worker.addr).theirs.connections()
}

#[test]
fn a_client_is_parked_and_taken_up_again_and_again_and_its_requests_count_on() {
    in_time(ms(5000), 4, async |worker| {
        let mut client = worker.client().await;
        let idle = tasks();
        for left in [4, 3, 2, 1] {
            let response = client.asks(GET_KEPT).await;
            assert_eq!(said(&response).1, format!("timeout=5, max={left}"));
            assert_eq!(response.ended, Ended::KeptOpen);
            let with_its_task = tasks();
            sleep(PARK_AFTER - TICK).await;
            assert_eq!(tasks(), with_its_task, "not yet");
            sleep(TICK * 2).await;
            assert_eq!(tasks(), with_its_task - 1, "it is parked");
            sleep(ms(1000)).await;
        }
        let last = client.asks(GET_KEPT).await;
        assert_eq!(said(&last), ("close".into(), String::new()));
        assert_eq!((last.status, last.ended), (200, Ended::Fin));
        drop(client);
        sleep(A_WHILE).await;
        // Its own is gone; the backend's connection has one.
        assert_eq!(tasks(), idle);
    });
}

#[test]
fn keep_alive_timeout_counts_from_the_end_of_the_response_and_not_from_the_parking() {
    for timeout in [ms(1001), ms(2500), ms(60_000)] {
        in_time(timeout, 0, async move |worker| {
            let mut client = worker.client().await;
            for _ in 0..2 {
                assert_eq!(client.asks(GET).await.status, 200);
                sleep(timeout - TICK).await;
            }
            assert_eq!(client.asks(GET).await.status, 200);
            let from = Instant::now();
            client.sees_a_silent_fin(from, timeout).await;
        });
    }
}

#[test]
fn the_settings_of_the_virtual_host_stay_with_a_parked_client() {
    let host = |settings: &mut Settings| {
        settings.client.keep_alive = kept(NEVER, 50);
        settings.hosts = vec![HostSettings {
            names: vec!["shop.example".into()],
            client: Overrides {
                keep_alive_timeout: Some(ms(7000)),
                ..Overrides::default()
            },
        }];
    };
    let to_shop = "GET / HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive\r\n\r\n";
    in_time_with(host, async |worker| {
        let mut client = worker.client().await;
        for (request, announced, pause) in [
            (to_shop, "timeout=7, max=50", ms(6999)),
            (GET_KEPT, "timeout=60, max=49", ms(59_999)),
            (to_shop, "timeout=7, max=48", ms(0)),
        ] {
            assert_eq!(said(&client.asks(request).await).1, announced);
            sleep(pause).await;
        }
        client.sees_a_silent_fin(Instant::now(), ms(7000)).await;
    });
}

#[test]
fn whatever_a_request_begins_with_a_parked_client_is_served() {
    in_time(NEVER, 0, async |worker| {
        let mut client = parked(&worker).await;
        client.sends("\r\n").await;
        sleep(A_WHILE).await;
        assert!(client.is_open().await, "a bare line end is no request");
        assert_eq!(client.asks(GET).await.status, 200);

        sleep(A_WHILE).await;
        for piece in ["G", "ET /half HT", "TP/1.1\r\nHost: a\r\n"] {
            client.sends(piece).await;
            sleep(A_WHILE).await;
            assert!(client.is_open().await, "{piece:?}");
        }
        assert_eq!(client.asks("\r\n").await.text(), "/half");

        sleep(A_WHILE).await;
        let one = "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
        let pair = [one, &one.replace("/one", "/two")].concat();
        let texts = client.does(move |client| {
            client.send(pair);
            [client.response().text(), client.response().text()]
        });
        assert_eq!(texts.await, ["/one", "/two"]);
        sleep(A_WHILE).await;
        assert_eq!(client.asks(GET).await.text(), "/");
    });
}

#[test]
fn half_a_request_on_a_parked_client_has_timeout_from_its_last_byte() {
    let times = |settings: &mut Settings| {
        settings.client.keep_alive = kept(ms(2000), 0);
        settings.client.timeout = ms(9000);
    };
    in_time_with(times, async |worker| {
        let mut line = parked(&worker).await;
        let from = Instant::now();
        line.sends("GET / HT").await;
        line.sees_a_silent_fin(from, ms(9000)).await;

        let mut head = parked(&worker).await;
        head.sends("GET / HTTP/1.1\r\n").await;
        sleep(ms(8000)).await;
        let from = Instant::now();
        head.sends("Host: te").await;
        head.gets_a_last_response(from, ms(9000), 408).await;
    });
}

#[test]
fn a_parked_client_that_goes_is_let_go_of_at_once() {
    in_time(NEVER, 0, async |worker| {
        let (finished, half_closed, reset) = (
            parked(&worker).await,
            parked(&worker).await,
            parked(&worker).await,
        );
        assert_eq!(connections(&worker), 3);
        let from = Instant::now();
        drop(finished);
        crate::moved_time::settle().await;
        // The kernel's part of an end is done in its own time.
        wait_until(PATIENCE, "its end", || connections(&worker) == 2);
        reset.resets();
        crate::moved_time::settle().await;
        wait_until(PATIENCE, "its end", || connections(&worker) == 1);
        let mut half_closed = half_closed;
        half_closed.does(Client::half_close).await;
        half_closed.sees_a_fin().await;
        wait_until(PATIENCE, "its end", || connections(&worker) == 0);
        assert_eq!(from.elapsed(), ms(0));
    });
}

/// Each in turn comes in the same turn of the event loop as the end of the second.
#[test]
fn bytes_that_come_at_the_moment_of_parking_are_not_lost() {
    in_time(NEVER, 0, async |worker| {
        for before in [3, 2, 1, 0] {
            for first in ["G", "GET /split HTTP/1.1\r\n", "\r\n", GET] {
                let mut client = worker.client().await;
                assert_eq!(client.asks(GET).await.status, 200);
                sleep(PARK_AFTER - ms(before)).await;
                client.sends_before(first, ms(before)).await;
                let rest = match first {
                    "G" => "ET /split HTTP/1.1\r\nHost: a\r\n\r\n",
                    "\r\n" => "GET /split HTTP/1.1\r\nHost: a\r\n\r\n",
                    GET => "",
                    _ => "Host: a\r\n\r\n",
                };
                let text = client.asks(rest).await.text();
                let path = if first == GET { "/" } else { "/split" };
                assert_eq!(text, path, "{first:?} {before} ms before");
            }
        }
    });
}

#[test]
fn bytes_that_come_around_the_moment_of_parking_are_not_lost_in_real_time() {
    const CLIENTS: u64 = 50;
    const ROUNDS: u64 = 5;
    let backend = echo();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(NEVER, 0);
    });
    thread::scope(|scope| {
        for number in 0..CLIENTS {
            let proxy = &proxy;
            scope.spawn(move || {
                let mut client = proxy.client();
                for round in 0..ROUNDS {
                    let path = format!("/{number}/{round}");
                    assert_eq!(client.get(&path).text(), path);
                    // From 4 ms before the second is over to 6 ms after it, in steps of 40 µs.
                    let step = number * ROUNDS + round;
                    thread::sleep(PARK_AFTER - ms(4) + Duration::from_micros(40 * step));
                    client.send("GE");
                    if round % 2 == 0 {
                        thread::sleep(ms(1));
                    }
                    client.send(format!("T {path}/ HTTP/1.1\r\nHost: a\r\n\r\n"));
                    assert_eq!(client.response().text(), format!("{path}/"));
                }
            });
        }
    });
}

#[test]
fn a_thousand_parked_clients_are_all_served_when_they_come_at_once_each_with_its_own_answer() {
    const CLIENTS: usize = 1000;
    raise_open_files();
    let backend = echo();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(NEVER, 0);
        let pool = &mut settings.upstreams[0].pool;
        pool.max_connections = std::num::NonZeroU32::new(8);
        pool.acquire_timeout = NEVER;
    });
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for round in 0..2 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET /{round}/{number} HTTP/1.1\r\nHost: a\r\n\r\n"));
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let response = client.response();
            assert_eq!(response.text(), format!("/{round}/{number}"));
            assert_eq!(response.ended, Ended::KeptOpen);
        }
        thread::sleep(A_WHILE);
    }
    drop(clients);
    wait_until(PATIENCE, "all to be let go of", || {
        sides(proxy.addr).theirs.connections() == 0
    });
}

#[test]
fn at_a_stop_a_parked_client_has_a_last_chance_and_is_closed_then() {
    in_time(NEVER, 0, async |worker| {
        let (mut silent, mut late, mut speaks) = (
            parked(&worker).await,
            parked(&worker).await,
            parked(&worker).await,
        );
        let from = Instant::now();
        worker.stop().await;
        sleep(LAST_CHANCE / 2).await;
        let response = speaks.asks(GET_KEPT).await;
        assert_eq!(response.status, 200);
        assert_eq!(said(&response), ("close".into(), String::new()));
        assert_eq!(response.ended, Ended::Fin);
        sleep_until(from + LAST_CHANCE - TICK).await;
        assert!(silent.is_open().await);
        late.sends_before(GET, TICK).await;
        let response = late.does(Client::response).await;
        assert_eq!((response.status, response.ended), (200, Ended::Fin));
        sleep_until(from + LAST_CHANCE + TICK).await;
        silent.sees_a_fin().await;
    });
}

/// Three that do not close have the short linger of two seconds: then all is over.
#[test]
fn a_stop_with_parked_clients_takes_the_last_chance_and_the_linger() {
    in_time_with(
        |settings| {
            settings.client.keep_alive = kept(NEVER, 0);
            settings.shutdown_timeout = NEVER;
        },
        async |worker| {
            let mut clients = Vec::new();
            for _ in 0..3 {
                clients.push(parked(&worker).await);
            }
            let from = Instant::now();
            worker.stop().await;
            sleep(LAST_CHANCE + ms(1990)).await;
            assert_eq!(connections(&worker), 3, "it still reads");
            sleep_until(from + LAST_CHANCE + ms(2010)).await;
            for client in &mut clients {
                client.sees_a_fin().await;
            }
            let gone = tasks();
            drop(clients);
            sleep(NEVER).await;
            assert_eq!(tasks(), gone, "nothing was left to be done");
        },
    );
}

#[test]
fn a_reload_leaves_parked_clients_as_they_are_served_and_new_ones_get_the_new_settings() {
    let backend = echo();
    let mut settings = settings_to(backend.addr);
    settings.client.keep_alive = kept(ms(9000), 10);
    let mut for_all = settings.clone();
    for_all.client.keep_alive = kept(ms(3000), 3);
    let mut for_the_listener = settings.clone();
    for_the_listener.listeners[0].client.keep_alive_timeout = Some(ms(4000));
    in_moved_time(settings, backend.addr, async |worker| {
        let mut old = parked(&worker).await;
        worker.reload(&for_all).await;
        let mut newer = parked(&worker).await;
        assert_eq!(said(&newer.asks(GET_KEPT).await).1, "timeout=3, max=2");
        worker.reload(&for_the_listener).await;
        sleep(A_WHILE).await;
        assert_eq!(said(&newer.asks(GET_KEPT).await).1, "timeout=3, max=1");
        assert_eq!(said(&old.asks(GET_KEPT).await).1, "timeout=9, max=9");
        let mut newest = worker.client().await;
        let announced = said(&newest.asks(GET_KEPT).await).1;
        assert_eq!(announced, "timeout=4, max=10");
        let from = Instant::now();
        newer.sees_a_silent_fin(from, ms(3000)).await;
        newest.sees_a_silent_fin(from, ms(4000)).await;
        old.sees_a_silent_fin(from, ms(9000)).await;
    });
}

/// One that came through another proxy is still who it was introduced as.
#[test]
fn an_introduced_client_is_parked_and_taken_up_again() {
    let backend = echo();
    let mut settings = settings_to(backend.addr);
    settings.client.keep_alive = kept(ms(5000), 9);
    let here = Network::of_one([127, 0, 0, 1].into());
    settings.client.introduced_by = Networks::new(vec![here]);
    in_moved_time(settings, backend.addr, async |worker| {
        let mut client = worker.client().await;
        let introduced = "PROXY TCP4 192.0.2.7 192.0.2.1 5 6\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(client.asks(introduced).await.status, 200);
        let with_its_task = tasks();
        sleep(A_WHILE).await;
        assert_eq!(tasks(), with_its_task - 1, "it is parked");
        assert_eq!(client.asks(GET).await.status, 200);
    });
    let requests = backend.requests();
    let whom = requests.iter().map(|it| it.header("x-forwarded-for"));
    let whom: Vec<_> = whom.flatten().collect();
    assert_eq!(whom, ["192.0.2.7"; 2]);
}

/// Where the backends know a client's connection by its ends it stays with its task, and with its own
/// connection to the backend.
#[test]
fn behind_a_proxy_header_an_idle_client_is_kept_and_closed_all_the_same() {
    let backend = Backend::start(|mut conn| {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}",
            conn.number
        );
        conn.serve(|_| answer.clone().into());
    });
    let mut settings = settings_to(backend.addr);
    settings.client.keep_alive = kept(ms(7000), 2);
    settings.upstreams[0].proxy_protocol = Some(ProxyProtocol::V1);
    in_moved_time(settings, backend.addr, async |worker| {
        let mut client = worker.client().await;
        let mut other = worker.client().await;
        for left in [2, 1] {
            for (client, number) in [(&mut client, "1"), (&mut other, "2")] {
                let response = client.asks(GET_KEPT).await;
                assert_eq!(said(&response).1, format!("timeout=7, max={left}"));
                assert_eq!(response.text(), number);
            }
            sleep(ms(6000)).await;
        }
        let last = client.asks(GET_KEPT).await;
        assert_eq!((last.text().as_str(), last.ended), ("1", Ended::Fin));
        let from = Instant::now() - ms(6000);
        other.sees_a_silent_fin(from, ms(7000)).await;
    });
    let heads: Vec<_> = backend
        .requests()
        .iter()
        .map(|it| it.head.clone())
        .collect();
    let introduced = heads.iter().filter(|head| head.starts_with("PROXY TCP4 "));
    assert_eq!(introduced.count(), 2, "{heads:?}");
}
