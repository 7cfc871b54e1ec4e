//! How many connections to a backend there are, who ends them and when: counted by the backend.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use warmline::account::Close;
use warmline::backend::{self, ShortMode};
use warmline::keepalive::CloseReason;

use crate::support::client::Client;
use crate::support::httpd::{self, Httpd};
use crate::support::nginx::Nginx;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Conn, PeerEnd};
use crate::support::{PATIENCE, wait_until};
use crate::{OK, answer};

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 8;

/// Sends [`REQUESTS`] over [`CLIENTS`] kept connections.
fn load(addr: SocketAddr) {
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                for _ in 0..REQUESTS / CLIENTS {
                    let response = client.get("/");
                    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
                }
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

#[test]
fn ten_thousand_requests_of_eight_clients_take_eight_backend_connections_pooled() {
    let nginx = Nginx::start("keepalive_requests 1000000; location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr).unlimited().start();
    load(proxy.addr());
    let accepted = nginx.connections_accepted();
    eprintln!("pooled: nginx accepted {accepted} for {REQUESTS} requests");
    assert!(accepted <= CLIENTS as u64, "{accepted} connections");
    assert_eq!(nginx.requests_served(), REQUESTS);
    assert_eq!(nginx.connections_used() as u64, accepted);
    let figures = proxy.figures();
    assert_eq!(figures.requests, REQUESTS as u64);
    assert_eq!(figures.counts.opened, accepted);
    assert_eq!(
        figures.counts.opened + figures.counts.reused,
        REQUESTS as u64
    );
}

#[test]
fn ten_thousand_requests_take_ten_thousand_backend_connections_in_short_mode() {
    let nginx = Nginx::start("keepalive_requests 1000000; location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr).unlimited().short().start();
    load(proxy.addr());
    let accepted = nginx.connections_accepted();
    eprintln!("short: nginx accepted {accepted} for {REQUESTS} requests");
    assert_eq!(accepted, REQUESTS as u64);
    assert_eq!(nginx.requests_served(), REQUESTS);
    let figures = proxy.figures();
    assert_eq!(
        (figures.counts.opened, figures.counts.reused),
        (REQUESTS as u64, 0)
    );
    assert_eq!(
        figures.closed_for(CloseReason::KeepAliveOff),
        REQUESTS as u64
    );
}

/// A backend that answers until it is asked to close, then sends FIN without a word about it, and
/// notes whether the peer had ended the connection before.
fn closing_as_asked() -> (Backend, &'static Mutex<Vec<Closed>>) {
    let closed: &'static Mutex<Vec<Closed>> = Box::leak(Box::default());
    let backend = Backend::start(move |mut conn| {
        let number = conn.number;
        let mut served = 0;
        while let Some(request) = conn.request() {
            served += 1;
            if request.header("Connection") == Some("close") {
                conn.send(answer(format!("{number}")));
                // Time for the peer to be first, if that is what it wants.
                let stream = conn.stream();
                stream
                    .set_read_timeout(Some(Duration::from_millis(150)))
                    .unwrap();
                let first = stream.peek(&mut [0]).is_err();
                stream.set_read_timeout(None).unwrap();
                conn.half_close();
                closed.lock().unwrap().push(Closed {
                    served,
                    by_backend: first,
                });
                conn.wait_for_end();
                return;
            }
            let asked = (served == 1).then_some("keep-alive");
            assert_eq!(request.header("Connection"), asked);
            conn.send(answer(format!("{number}")));
        }
    });
    (backend, closed)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Closed {
    served: u32,
    by_backend: bool,
}

#[test]
fn a_limit_of_n_gives_n_plus_one_requests_a_connection_and_the_backend_closes_first() {
    let (backend, closed) = closing_as_asked();
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.pool.keep_alive.max_requests = NonZeroU32::new(2))
        .start();
    let mut client = Client::connect(proxy.addr());
    let numbers: Vec<_> = (0..9).map(|_| client.get("/").text()).collect();
    assert_eq!(numbers, ["1", "1", "1", "2", "2", "2", "3", "3", "3"]);
    proxy.wait_closed_for(CloseReason::RequestLimit, 3);
    for number in 1..=3 {
        backend.end_of(number);
    }
    let expected = Closed {
        served: 3,
        by_backend: true,
    };
    assert_eq!(*closed.lock().unwrap(), [expected; 3]);
}

#[test]
fn in_short_mode_every_request_says_close_and_the_backend_closes_first() {
    let (backend, closed) = closing_as_asked();
    let proxy = TestProxy::to(backend.addr).short().start();
    let mut client = Client::connect(proxy.addr());
    for number in 1..=4 {
        assert_eq!(client.get("/").text(), number.to_string());
    }
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().text(), "5");
    for number in 1..=5 {
        backend.end_of(number);
    }
    let expected = Closed {
        served: 1,
        by_backend: true,
    };
    assert_eq!(*closed.lock().unwrap(), [expected; 5]);
    for request in backend.requests() {
        assert_eq!(request.header("Connection"), Some("close"));
    }
}

#[test]
fn a_backend_that_was_asked_to_close_and_does_not_is_not_waited_for_for_ever() {
    let backend = Backend::start(|mut conn| {
        conn.request();
        conn.send(OK);
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr).short().start();
    assert_eq!(Client::connect(proxy.addr()).get("/").status, 200);
    backend.end_of(1);
}

#[test]
fn httpd_counts_the_connections_of_both_modes_too() {
    let httpd = Httpd::start("MaxKeepAliveRequests 0\nKeepAliveTimeout 60");
    httpd.file("f", "x");
    let proxy = TestProxy::to(httpd.addr).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..50 {
        assert_eq!(client.get("/f").status, 200);
    }
    assert_eq!(httpd::connections_used(&httpd.log_of(50)), 1);

    let proxy = TestProxy::to(httpd.addr).short().start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..50 {
        assert_eq!(client.get("/f").status, 200);
    }
    assert_eq!(httpd::connections_used(&httpd.log_of(100)), 51);
}

#[test]
fn an_idle_connection_is_closed_after_its_timeout_and_not_before() {
    let timeout = Duration::from_millis(300);
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.pool.keep_alive.timeout = timeout)
        .start();
    let mut client = Client::connect(proxy.addr());
    assert_eq!(client.get("/").text(), "1");
    let idle_since = tokio::time::Instant::now();
    assert_eq!(backend.end_of(1), PeerEnd::Fin);
    // The proxy's clock began a little before ours.
    let idle = idle_since.elapsed();
    assert!(idle + Duration::from_millis(50) >= timeout, "{idle:?}");
    proxy.wait_closed_for(CloseReason::IdleTimeout, 1);
    assert_eq!(client.get("/").text(), "2");
}

#[test]
fn a_backend_that_says_close_is_taken_at_its_word() {
    for head in [
        "HTTP/1.1 200 OK\r\nConnection: close",
        "HTTP/1.1 200 OK\r\nConnection: X-A, Close\r\nX-A: 1",
        "HTTP/1.0 200 OK",
    ] {
        let backend = Backend::start(move |mut conn| {
            let number = conn.number;
            conn.request();
            conn.send(format!("{head}\r\nContent-Length: 1\r\n\r\n{number}"));
            // Says it and does not do it: a second request would be answered.
            conn.serve(|_| answer("again"));
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        for number in 1..=3 {
            assert_eq!(client.get("/").text(), number.to_string(), "{head}");
        }
        proxy.wait_closed_for(CloseReason::PeerAsked, 3);
    }
}

#[test]
fn connections_are_shared_by_clients_that_come_one_after_another() {
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr).start();
    for _ in 0..20 {
        let mut client = Client::connect(proxy.addr());
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(client.response().text(), "1");
    }
    wait_until(PATIENCE, "one idle connection", || {
        proxy.figures().counts.idle == 1
    });
    assert_eq!(backend.connections(), 1);
}

/// Sends 30 requests to a backend that does `script` with each connection; every connection that
/// ends is in the ledger once, and `count` of them under `close`.
#[track_caller]
fn ledger(
    script: impl Fn(Conn) + Send + Sync + 'static,
    change: impl FnOnce(&mut backend::Settings),
    close: Close,
    count: u64,
) {
    let backend = Backend::start(script);
    let proxy = TestProxy::to(backend.addr).upstream(change).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..30 {
        client.get("/");
    }
    wait_until(PATIENCE, "the entries", || {
        proxy.figures().ended_by(close) == count
    });
    let figures = proxy.figures();
    let entries: u64 = figures
        .ends
        .iter()
        .flatten()
        .map(|end| end.connections)
        .sum();
    assert_eq!(entries, figures.counts.closed_total(), "{:?}", figures.ends);
    assert_eq!(entries, count, "{:?}", figures.ends);
}

#[test]
fn the_end_of_every_connection_is_in_the_ledger_once_with_who_closed_and_how() {
    let kind = |mut conn: Conn| conn.serve(|_| OK.into());
    let polite = |mut conn: Conn| {
        while let Some(request) = conn.request() {
            conn.send(OK);
            if request.header("connection") == Some("close") {
                return conn.fin();
            }
        }
    };
    let short = |mode| {
        move |upstream: &mut backend::Settings| {
            upstream.pool.keep_alive.enabled = false;
            upstream.closing.short = mode;
        }
    };
    ledger(
        polite,
        short(ShortMode::CloseByHeader),
        Close::BackendFin,
        30,
    );
    ledger(kind, short(ShortMode::ProxyCloses), Close::ProxyFin, 30);
    ledger(kind, short(ShortMode::Rst), Close::ProxyRst, 30);
    let last = |upstream: &mut backend::Settings| {
        upstream.pool.keep_alive.max_requests = NonZeroU32::new(2);
    };
    ledger(polite, last, Close::BackendFin, 10);
    let close = |mut conn: Conn| {
        conn.request();
        conn.send_and_fin(OK);
    };
    ledger(close, |_| (), Close::BackendFin, 30);
    let idle = |upstream: &mut backend::Settings| {
        upstream.pool.keep_alive.timeout = Duration::from_millis(200);
    };
    ledger(kind, idle, Close::ProxyFinRst, 1);
}

#[test]
fn a_backend_that_was_told_and_does_not_close_is_closed_after_a_second() {
    let deaf = |mut conn: Conn| conn.serve(|_| OK.into());
    let short = |upstream: &mut backend::Settings| upstream.pool.keep_alive.enabled = false;
    ledger(deaf, short, Close::ProxyFinRst, 30);
}
