//! The race between a backend's idle timeout and the next request: against Node.js, whose timeout is
//! the classic of it, Apache httpd and nginx, and against a backend that loses it every time.
//!
//! A pool hands out the connection that came back last, so clients that come when they like never
//! leave one idle for as long as the backend waits. These come in volleys: each connection carries one
//! request of a volley and waits for the next, about as long as the backend does.

use std::env;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use warmline::account::PoolFigures;
use warmline::keepalive::CloseReason;

use crate::support::client::{self, Client, Ended};
use crate::support::httpd::Httpd;
use crate::support::nginx::Nginx;
use crate::support::node::Node;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Gate, Request};
use crate::support::{PATIENCE, wait_until};
use crate::{OK, answer, get, post};

/// The backends' idle timeout, in milliseconds.
const IDLE: u32 = 100;

/// Clients at once, but where a test says otherwise.
const CLIENTS: u32 = 64;

/// How far the pauses spread around the backend's timeout. Most of them before it: a connection waits
/// for its turn within the volley too.
const SPREAD: std::ops::Range<i64> = -6_000..3_000;

/// So many requests at least: 100,000 with `WARMLINE_RACE=100000`, which takes minutes.
fn requests() -> u64 {
    let asked = env::var("WARMLINE_RACE").ok();
    asked.map_or(1500, |asked| asked.parse().expect("a number of requests"))
}

/// A tenth of them, for the other backends.
fn fewer() -> u64 {
    (requests() / 10).max(1500)
}

/// When the backend closes an idle connection, counted from its answer: the shortest of some.
fn idle_timeout_of(backend: SocketAddr) -> Duration {
    let close = || {
        let mut client = Client::connect(backend);
        assert_eq!(client.get("/").status, 200);
        let answered = Instant::now();
        assert_eq!(client.end_within(PATIENCE), Ended::Fin);
        answered.elapsed()
    };
    let shortest = (0..5).map(|_| close()).min();
    shortest.expect("there are five of them")
}

/// What became of a load.
#[derive(Debug)]
struct Outcome {
    requests: u64,
    /// Answered otherwise than with 200.
    failed: u64,
    figures: PoolFigures,
}

impl Outcome {
    /// Requests that met a connection the backend was closing.
    fn crossed(&self) -> u64 {
        crossed(&self.figures)
    }

    /// Says what happened, and that it adds up.
    fn report(&self, what: &str) {
        let figures = &self.figures;
        let again: u64 = figures.sent_again.iter().sum();
        assert_eq!(figures.requests, self.requests + again, "{what}");
        eprintln!(
            "{what}: {} requests, {} failed, {} connections, {} closed idle by the backend, \
             sent again {:?}, races lost {}",
            self.requests,
            self.failed,
            figures.counts.opened,
            figures.closed_for(CloseReason::PeerClosedIdle),
            figures.sent_again,
            figures.races_lost,
        );
    }
}

fn crossed(figures: &PoolFigures) -> u64 {
    figures.sent_again.iter().sum::<u64>() + figures.races_lost
}

/// Sends volleys of requests with pauses of about `pause`, spread by some milliseconds, until there
/// were as many as asked for and `crossings` of them met a closing connection; ten times as many at
/// the most.
fn volleys(
    proxy: &TestProxy,
    pause: Duration,
    asked: u64,
    crossings: u64,
    request: impl Fn(u64) -> String + Sync,
) -> Outcome {
    volleys_of(CLIENTS, proxy, pause, asked, crossings, request)
}

/// The same from as many clients.
fn volleys_of(
    clients: u32,
    proxy: &TestProxy,
    pause: Duration,
    asked: u64,
    crossings: u64,
    request: impl Fn(u64) -> String + Sync,
) -> Outcome {
    let (failed, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let (begin, end) = (
        Barrier::new(clients as usize),
        Barrier::new(clients as usize),
    );
    let clients = u64::from(clients);
    let volley = AtomicU64::new(0);
    thread::scope(|scope| {
        for number in 0..clients {
            let (request, failed, over, volley) = (&request, &failed, &over, &volley);
            let (begin, end) = (&begin, &end);
            scope.spawn(move || {
                let mut client = Client::connect(proxy.addr());
                loop {
                    let n = volley.load(Ordering::SeqCst) * clients + number;
                    // A permutation of the spread, another one for each client.
                    let width = SPREAD.end.abs_diff(SPREAD.start);
                    let offset = (n * 7919) % width;
                    begin.wait();
                    let before = Duration::from_micros(SPREAD.start.unsigned_abs());
                    thread::sleep(pause.saturating_sub(before) + Duration::from_micros(offset));
                    // No panic here: the others would wait at the barrier for ever.
                    let sent = client.try_send(request(n)).is_ok();
                    let response = sent.then(|| client.try_response().ok()).flatten();
                    if response.as_ref().is_none_or(|it| it.status != 200) {
                        failed.fetch_add(1, Ordering::SeqCst);
                    }
                    if response.is_none_or(|it| it.ended != Ended::KeptOpen) {
                        client = Client::connect(proxy.addr());
                    }
                    if end.wait().is_leader() {
                        let sent = (volley.fetch_add(1, Ordering::SeqCst) + 1) * clients;
                        let enough = sent >= asked && crossed(&proxy.figures()) >= crossings;
                        over.store(enough || sent >= 10 * asked, Ordering::SeqCst);
                    }
                    // The leader has decided once all are here again.
                    begin.wait();
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                }
            });
        }
    });
    Outcome {
        requests: volley.into_inner() * clients,
        failed: failed.into_inner(),
        figures: proxy.figures(),
    }
}

/// So many crossings are asked for: a test of the race that never happens proves nothing.
fn crossings(requests: u64) -> u64 {
    (requests / 500).max(3)
}

/// A proxy that knows nothing of the backend's timeout, and learns nothing.
fn naive_to(backend: SocketAddr) -> TestProxy {
    naive(backend, |_| ())
}

fn naive(backend: SocketAddr, change: impl FnOnce(&mut warmline::backend::Settings)) -> TestProxy {
    TestProxy::to(backend)
        .unlimited()
        .upstream(|upstream| {
            upstream.pool.heed_hints = false;
            upstream.pool.learn_idle_timeout = false;
            change(upstream);
        })
        .start()
}

/// Volleys of requests that may be done twice: none fails, and the race was there.
fn assert_none_is_lost(
    backend: SocketAddr,
    what: &str,
    requests: u64,
    request: impl Fn(u64) -> String + Sync,
) {
    let timeout = idle_timeout_of(backend);
    eprintln!("{what} closes after {timeout:?}");
    let proxy = naive_to(backend);
    let outcome = volleys(&proxy, timeout, requests, crossings(requests), request);
    outcome.report(what);
    assert_eq!(outcome.failed, 0);
    assert_eq!(outcome.figures.races_lost, 0);
    assert!(
        outcome.crossed() >= crossings(requests),
        "the race takes place"
    );
}

/// GET and PUT in turn, the latter with a body.
fn get_or_put(n: u64) -> String {
    match n % 2 {
        0 => get(&format!("/?{n}")),
        _ => post("/", &"b".repeat(3000)).replacen("POST", "PUT", 1),
    }
}

#[test]
fn no_idempotent_request_is_lost_to_node_that_closes_idle_connections_at_that_moment() {
    let node = Node::start(IDLE, false);
    let timeout = idle_timeout_of(node.addr);
    let idle = Duration::from_millis(IDLE.into());
    assert!(
        (idle.mul_f64(0.95)..idle.mul_f64(1.3)).contains(&timeout),
        "node closes after {timeout:?}"
    );
    assert_none_is_lost(node.addr, "node", requests(), get_or_put);
}

#[test]
fn no_idempotent_request_is_lost_to_httpd_that_closes_idle_connections_at_that_moment() {
    let httpd = Httpd::start(&format!(
        "MaxKeepAliveRequests 0\nKeepAliveTimeout {IDLE}ms"
    ));
    httpd.file("index.html", "ok");
    assert_none_is_lost(httpd.addr, "httpd", fewer(), |n| get(&format!("/?{n}")));
}

#[test]
fn no_idempotent_request_is_lost_to_nginx_that_closes_idle_connections_at_that_moment() {
    let nginx = Nginx::start(&format!(
        "keepalive_requests 1000000; keepalive_timeout {IDLE}ms; location / {{ return 200 ok; }}"
    ));
    assert_none_is_lost(nginx.addr, "nginx", fewer(), get_or_put);
}

/// A POST with an id of its own; the backend answers 409 to one that it has seen before.
fn pay(n: u64) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nX-Id: {n}\r\nContent-Length: 4\r\n\r\nbody")
}

fn ask(node: &Node, path: &str) -> u64 {
    let said = client::get(node.addr, path).text();
    said.parse().expect("a number")
}

#[test]
fn no_other_request_is_sent_twice_even_where_it_is_lost() {
    let node = Node::start(IDLE, false);
    let timeout = idle_timeout_of(node.addr);
    // So long that it keeps nothing away from the race.
    let proxy = naive(node.addr, |upstream| {
        upstream.pool.safe_idle = Duration::from_secs(60);
    });
    let outcome = volleys(&proxy, timeout, requests(), crossings(requests()), pay);
    outcome.report("node, POST");
    assert!(
        outcome.crossed() >= crossings(requests()),
        "the race takes place"
    );
    assert_eq!(ask(&node, "/twice"), 0);
    assert_eq!(outcome.failed, outcome.figures.races_lost);
    assert!(ask(&node, "/seen") >= outcome.requests - outcome.failed);
}

#[test]
fn no_other_request_is_lost_if_safe_idle_is_below_the_backends_timeout() {
    // What is between the two is how late the backend, the proxy and the machine may be: a backend that
    // is late closes first and reads afterwards.
    let node = Node::start(5 * IDLE, false);
    let timeout = idle_timeout_of(node.addr);
    let safe_idle = Duration::from_millis(50);
    let proxy = naive(node.addr, |upstream| upstream.pool.safe_idle = safe_idle);
    let outcome = volleys_of(3 * CLIENTS, &proxy, timeout, requests(), 0, pay);
    outcome.report("node, POST, safe_idle 50 ms");
    let late = Duration::from_millis(ask(&node, "/late"));
    eprintln!("node was late by {late:?} at the most");
    assert_eq!(ask(&node, "/twice"), 0);
    if outcome.failed > 0 && late + safe_idle >= timeout {
        eprintln!(
            "left out: the machine is too busy to tell why {} were lost",
            outcome.failed
        );
    } else {
        assert_eq!((outcome.failed, outcome.figures.races_lost), (0, 0));
        assert_eq!(ask(&node, "/seen"), outcome.requests);
    }
    // Those that had waited since the volley before were there, and left alone.
    let figures = &outcome.figures;
    assert!(figures.closed_for(CloseReason::PeerClosedIdle) > outcome.requests / 4);
    assert!(figures.counts.reused > 0, "{:?}", figures.counts);
}

#[test]
fn an_idle_timeout_that_the_backend_has_is_learned_and_heeded() {
    let node = Node::start(IDLE, false);
    let proxy = TestProxy::to(node.addr).unlimited().start();
    let learned = || {
        let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
        line.learned_idle_timeout
    };
    let mut client = Client::connect(proxy.addr());
    let mut closed = 0;
    while learned().is_none() && closed < 30 {
        assert_eq!(client.get("/").status, 200);
        closed += 1;
        proxy.wait_closed_for(CloseReason::PeerClosedIdle, closed);
    }
    let learned = learned().expect("thirty closes teach it");
    assert!(
        learned >= Duration::from_millis(90) && learned < Duration::from_millis(300),
        "{learned:?}"
    );
    // From now on the proxy closes first.
    for n in 1..=3 {
        assert_eq!(client.get("/").status, 200);
        proxy.wait_closed_for(CloseReason::IdleTimeout, n);
    }
    assert_eq!(
        proxy.figures().closed_for(CloseReason::PeerClosedIdle),
        closed
    );
}

#[test]
fn what_the_backend_says_of_its_timeout_is_heeded() {
    let node = Node::start(2000, true);
    let httpd = Httpd::start("KeepAliveTimeout 2");
    httpd.file("index.html", "ok");
    for (backend, what) in [(node.addr, "node"), (httpd.addr, "httpd")] {
        let proxy = TestProxy::to(backend)
            .unlimited()
            .upstream(|upstream| upstream.pool.hint_margin = Duration::from_millis(900))
            .start();
        let mut client = Client::connect(proxy.addr());
        assert_eq!(client.get("/").status, 200, "{what}");
        assert_eq!(proxy.figures().counts.idle, 1, "{what}");
        let parked = Instant::now();
        proxy.wait_closed_for(CloseReason::IdleTimeout, 1);
        let waited = parked.elapsed();
        assert!(waited < Duration::from_millis(1800), "{what}: {waited:?}");
        let figures = proxy.figures();
        assert_eq!(figures.closed_for(CloseReason::PeerClosedIdle), 0, "{what}");
        assert_eq!(figures.counts.idle, 0, "{what}");
    }
}

#[test]
fn a_timeout_below_a_second_is_heeded_although_it_is_said_to_be_zero() {
    let httpd = Httpd::start("KeepAliveTimeout 900ms");
    httpd.file("index.html", "ok");
    let said = {
        let mut client = Client::connect(httpd.addr);
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response();
        response.header("Keep-Alive").unwrap_or_default().to_owned()
    };
    assert!(said.starts_with("timeout=0,"), "{said}");
    let proxy = TestProxy::to(httpd.addr).unlimited().start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(proxy.figures().counts.reused, 2);
    let parked = Instant::now();
    proxy.wait_closed_for(CloseReason::IdleTimeout, 1);
    let waited = parked.elapsed();
    assert!(waited < Duration::from_millis(800), "{waited:?}");
    let figures = proxy.figures();
    assert_eq!(figures.closed_for(CloseReason::PeerClosedIdle), 0);
}

/// Answers the first request of each connection, reads the second and closes: what a request sees
/// whose way crosses that of the backend's FIN. `reset`: with a reset.
fn closing(reset: bool) -> Backend {
    Backend::start(move |mut conn| {
        if conn.request().is_none() {
            return;
        }
        conn.send(OK);
        if conn.request().is_some() {
            if reset {
                conn.reset();
            } else {
                conn.fin();
            }
        }
    })
}

#[test]
fn a_request_that_may_be_done_twice_is_sent_once_more_on_a_connection_of_its_own() {
    let keyed = |body: &str| post("/", body).replacen("\r\n", "\r\nIdempotency-Key: \"1\"\r\n", 1);
    let put = |body: &str| post("/d?e=f", body).replacen("POST", "PUT", 1);
    let chunked = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n";
    for reset in [false, true] {
        let backend = closing(reset);
        let proxy = naive_to(backend.addr);
        let mut client = Client::connect(proxy.addr());
        // All but the first meet the end of their connections.
        for request in [
            get("/first"),
            get("/a"),
            "GET /b?c HTTP/1.1\r\nHost: a\r\nX-MiXed: 1\r\nx-mixed: 2\r\n\r\n".to_owned(),
            keyed(""),
            keyed("body"),
            put(&"x".repeat(1 << 16)),
            put(&"y".repeat(1 << 16)),
            get("/c"),
            chunked.to_owned(),
        ] {
            client.send(&request);
            let response = client.response();
            let line = request.lines().next().unwrap_or_default();
            assert_eq!(
                (response.status, response.text().as_str()),
                (200, "ok"),
                "{line}"
            );
        }
        assert_eq!(proxy.figures().sent_again, [0, 8, 0], "reset: {reset}");
        let mut seen = backend.requests();
        assert_eq!(seen.len(), 1 + 2 * 8);
        // What came again is what had come, but for what is said of its connection.
        seen.retain(|request| request.line() != "GET /first HTTP/1.1");
        for pair in seen.chunks(2) {
            let lines = |request: &Request| {
                let said = |line: &&str| !line.eq_ignore_ascii_case("connection: keep-alive");
                let mut lines: Vec<_> = request
                    .head
                    .lines()
                    .filter(said)
                    .map(str::to_owned)
                    .collect();
                lines.sort_unstable();
                lines
            };
            let [one, two] = pair else {
                panic!("each came twice")
            };
            assert_eq!(lines(one), lines(two));
            assert_eq!((&one.body, &one.trailers), (&two.body, &two.trailers));
            assert_ne!(one.connection, two.connection);
        }
    }
}

#[test]
fn a_body_that_was_not_kept_from_its_beginning_is_not_sent_again() {
    let chunked =
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n";
    for (bound, request) in [
        (4, post("/", "12345").replacen("POST", "PUT", 1)),
        (0, post("/", "1").replacen("POST", "PUT", 1)),
        (4, chunked.to_owned()),
    ] {
        let backend = closing(false);
        let proxy = naive(backend.addr, |upstream| upstream.retry_body = bound);
        let mut client = Client::connect(proxy.addr());
        assert_eq!(client.get("/").status, 200);
        client.send(&request);
        assert_eq!(client.response().status, 502, "{request}");
        assert_eq!(backend.requests().len(), 2);
        let figures = proxy.figures();
        assert_eq!((figures.sent_again, figures.races_lost), ([0, 0, 0], 1));
    }
}

#[test]
fn a_body_that_still_comes_when_its_connection_ends_is_sent_again_and_goes_on() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            if conn.number > 1 {
                return conn.serve(|request| answer(&request.body));
            }
            conn.request();
            conn.send(OK);
            // The head and the body's beginning, and then the end.
            conn.head();
            conn.pause(&gate);
            conn.fin();
        }
    });
    let proxy = naive_to(backend.addr);
    let mut client = Client::connect(proxy.addr());
    assert_eq!(client.get("/").status, 200);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234");
    gate.wait_reached(1);
    gate.open();
    wait_until(PATIENCE, "the request to be sent again", || {
        proxy.figures().sent_again == [0, 1, 0] && backend.connections() == 2
    });
    client.send("56789");
    assert_eq!(client.response().text(), "0123456789");
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_request_that_cannot_be_kept_takes_no_connection_that_has_waited_safe_idle() {
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .unlimited()
        .upstream(|upstream| {
            upstream.pool.safe_idle = Duration::ZERO;
            upstream.retry_body = 4;
        })
        .start();
    let mut client = Client::connect(proxy.addr());
    let put = |body: &str| post("/", body).replacen("POST", "PUT", 1);
    let chunked =
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    for (request, connection) in [
        (put("1234"), "1"),
        (put("1234"), "1"),
        (put("12345"), "2"),
        (chunked.to_owned(), "3"),
        (put("1234"), "3"),
    ] {
        client.send(&request);
        assert_eq!(client.response().text(), connection, "{request}");
    }
}

#[test]
fn a_request_that_may_not_be_done_twice_is_never_sent_again() {
    for reset in [false, true] {
        let backend = closing(reset);
        let proxy = naive_to(backend.addr);
        let mut client = Client::connect(proxy.addr());
        assert_eq!(client.get("/").status, 200);
        client.send(post("/pay", "100"));
        assert_eq!(client.response().status, 502);
        let paid = |request: &Request| request.line().starts_with("POST");
        assert_eq!(backend.requests().iter().filter(|it| paid(it)).count(), 1);
        let figures = proxy.figures();
        assert_eq!((figures.sent_again, figures.races_lost), ([0, 0, 0], 1));
    }
}

#[test]
fn a_request_that_met_its_end_on_a_new_connection_is_not_sent_again() {
    let backend = Backend::start(|mut conn| {
        conn.request();
        conn.fin();
    });
    let proxy = naive_to(backend.addr);
    assert_eq!(Client::connect(proxy.addr()).get("/").status, 502);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_request_that_cannot_be_sent_again_takes_no_connection_that_has_waited_safe_idle() {
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .unlimited()
        .upstream(|upstream| upstream.pool.safe_idle = Duration::ZERO)
        .start();
    let mut client = Client::connect(proxy.addr());
    for (request, connection) in [
        (get("/"), "1"),
        (get("/"), "1"),
        (post("/", "x"), "2"),
        (post("/", "x"), "3"),
        (get("/"), "3"),
    ] {
        client.send(&request);
        assert_eq!(client.response().text(), connection, "{request}");
    }
}
