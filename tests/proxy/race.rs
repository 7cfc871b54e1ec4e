//! The race between a backend's idle timeout and the next request, against Node.js, whose timeout
//! is the classic of it.

use std::env;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use warmline::keepalive::CloseReason;

use crate::support::client::Client;
use crate::support::node::Node;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Request};
use crate::support::{PATIENCE, wait_until};
use crate::{OK, get, post};

/// The backend's idle timeout, in milliseconds.
const IDLE: u32 = 100;

/// Clients at once; each pauses about as long as the backend waits.
fn clients() -> u64 {
    (requests() / 50).min(200)
}

/// So many requests in all: 100,000 with `WARMLINE_RACE=100000`, which takes a minute.
fn requests() -> u64 {
    let asked = env::var("WARMLINE_RACE").ok();
    asked.map_or(2500, |asked| asked.parse().expect("a number of requests"))
}

/// Sends requests with pauses of 80 to 119 ms; returns how many were answered otherwise than `ok`.
fn load(proxy: &TestProxy, request: impl Fn(u64) -> String + Sync) -> u64 {
    let failed = AtomicU64::new(0);
    let each = requests() / clients();
    thread::scope(|scope| {
        for number in 0..clients() {
            let (request, failed) = (&request, &failed);
            scope.spawn(move || {
                let mut client = Client::connect(proxy.addr());
                for n in number * each..(number + 1) * each {
                    client.send(request(n));
                    let response = client.response();
                    if (response.status, response.text().as_str()) != (200, "ok") {
                        eprintln!("request {n}: {} {}", response.status, response.text());
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::sleep(Duration::from_millis(80 + n * 7 % 40));
                }
            });
        }
    });
    failed.into_inner()
}

/// A proxy that knows nothing of the backend's timeout, and learns nothing.
fn naive_to(backend: SocketAddr) -> TestProxy {
    TestProxy::to(backend)
        .unlimited()
        .upstream(|upstream| {
            upstream.pool.heed_hints = false;
            upstream.pool.learn_idle_timeout = false;
        })
        .start()
}

#[test]
fn no_idempotent_request_is_lost_to_a_backend_that_closes_idle_connections_at_that_moment() {
    let node = Node::start(IDLE, false);
    let proxy = naive_to(node.addr);
    let failed = load(&proxy, |_| "GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned());
    let figures = proxy.figures();
    eprintln!(
        "{} requests, {} connections, {} closed idle by the backend, sent again {:?}, failed {failed}",
        requests(),
        figures.counts.opened,
        figures.closed_for(CloseReason::PeerClosedIdle),
        figures.sent_again,
    );
    assert_eq!(failed, 0);
    assert!(
        figures.closed_for(CloseReason::PeerClosedIdle) > 10,
        "the backend closes idle connections"
    );
}

#[test]
fn no_other_request_is_sent_twice_nor_lost() {
    let node = Node::start(IDLE, false);
    let proxy = TestProxy::to(node.addr)
        .unlimited()
        .upstream(|upstream| {
            upstream.pool.heed_hints = false;
            upstream.pool.learn_idle_timeout = false;
            upstream.pool.safe_idle = Duration::from_millis(50);
        })
        .start();
    // The backend answers 409 to an id that it has seen before.
    let failed = load(&proxy, |n| {
        format!("POST / HTTP/1.1\r\nHost: a\r\nX-Id: {n}\r\nContent-Length: 4\r\n\r\nbody")
    });
    let figures = proxy.figures();
    eprintln!(
        "{} requests, {} connections, sent again {:?}, races lost {}, failed {failed}",
        requests(),
        figures.counts.opened,
        figures.sent_again,
        figures.races_lost,
    );
    assert_eq!(failed, 0);
    assert_eq!((figures.sent_again[1], figures.races_lost), (0, 0));
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
        learned >= Duration::from_millis(90) && learned < Duration::from_millis(1500),
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
    let proxy = TestProxy::to(node.addr)
        .unlimited()
        .upstream(|upstream| upstream.pool.hint_margin = Duration::from_millis(900))
        .start();
    let mut client = Client::connect(proxy.addr());
    assert_eq!(client.get("/").status, 200);
    assert_eq!(proxy.figures().counts.idle, 1);
    proxy.wait_closed_for(CloseReason::IdleTimeout, 1);
    let figures = proxy.figures();
    assert_eq!(figures.closed_for(CloseReason::PeerClosedIdle), 0);
    wait_until(PATIENCE, "nothing is idle", || {
        proxy.figures().counts.idle == 0
    });
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
    for reset in [false, true] {
        let backend = closing(reset);
        let proxy = naive_to(backend.addr);
        let mut client = Client::connect(proxy.addr());
        let key =
            "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"1\"\r\nContent-Length: 0\r\n\r\n";
        for request in [get("/a"), get("/b"), key.to_owned(), get("/c")] {
            client.send(&request);
            let response = client.response();
            assert_eq!(
                (response.status, response.text().as_str()),
                (200, "ok"),
                "{request}"
            );
        }
        // Every second one met its end, and each was sent again but once.
        assert_eq!(proxy.figures().sent_again, [0, 3, 0], "reset: {reset}");
        assert_eq!(backend.requests().len(), 7);
        assert_eq!(backend.connections(), 4);
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
