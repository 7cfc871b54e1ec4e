//! Connections that the backend has closed, or spoken on, while they were idle: no request meets one.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use warmline::keepalive::CloseReason;

use crate::support::client::Client;
use crate::support::nginx::Nginx;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Conn};
use crate::support::{PATIENCE, wait_until};
use crate::{OK, answer, get, post};

const REQUESTS: usize = 500;

/// Sends GET and POST in turn to a backend that does `close` to each connection after its answer.
///
/// With `arrived` each request waits until the proxy has none left of the connection before: that a
/// backend has closed does not mean that its FIN or RST is there. Linux may leave a packet on the
/// loopback for a later softirq, and a client's next request may overtake it (seen on 6.18).
fn all_are_answered(close: impl Fn(Conn) + Send + Sync + 'static, arrived: bool) {
    let backend = Backend::start(move |mut conn| {
        if conn.request().is_some() {
            close(conn);
        }
    });
    let proxy = TestProxy::to(backend.addr).unlimited().start();
    let mut client = Client::connect(proxy.addr());
    for n in 0..REQUESTS {
        client.send(if n % 2 == 0 {
            get("/")
        } else {
            post("/", "body")
        });
        let response = client.response();
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "ok"),
            "request {n}: {}",
            response.head
        );
        let gone = || {
            let figures = proxy.figures();
            figures.counts.leased + figures.counts.idle == 0
        };
        if arrived && !gone() {
            std::thread::yield_now();
            wait_until(PATIENCE, "the end of the connection", gone);
        }
    }
    assert_eq!(backend.requests().len(), REQUESTS, "none was sent twice");
    assert_eq!(backend.connections(), REQUESTS);
}

#[test]
fn a_backend_that_closes_after_each_answer_without_saying_so_fails_no_request() {
    let close = |mut conn: Conn| {
        conn.send(OK);
        conn.fin();
    };
    all_are_answered(close, true);
}

#[test]
fn a_backend_that_closes_with_the_last_byte_of_each_answer_fails_no_request() {
    // The FIN is in the answer's own segment: there is nothing to wait for.
    all_are_answered(|conn| conn.send_and_fin(OK), false);
}

#[test]
fn a_backend_that_resets_after_each_answer_fails_no_request() {
    let close = |mut conn: Conn| {
        conn.send(OK);
        conn.reset();
    };
    all_are_answered(close, true);
}

#[test]
fn pipelined_requests_do_not_meet_a_connection_that_closed_with_the_answer() {
    let backend = Backend::start(|mut conn| {
        if conn.request().is_some() {
            conn.send_and_fin(OK);
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    for _ in 0..20 {
        let mut client = Client::connect(proxy.addr());
        client.send(post("/", "body").repeat(10));
        for n in 0..10 {
            assert_eq!(client.response().status, 200, "request {n}");
        }
    }
}

#[test]
fn a_connection_closed_long_after_its_answer_is_not_used_again() {
    let (asked, asking) = channel::<()>();
    let asking = Mutex::new(asking);
    let backend = Backend::start(move |mut conn| {
        conn.request();
        conn.send(answer(conn.number.to_string()));
        if asking.lock().unwrap().recv().is_ok() {
            conn.fin();
        }
    });
    // Twenty closes at about the same age would teach the pool to be first.
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.pool.learn_idle_timeout = false)
        .start();
    let mut client = Client::connect(proxy.addr());
    for number in 1..=20 {
        assert_eq!(client.get("/").text(), number.to_string());
        assert_eq!(proxy.figures().counts.idle, 1);
        asked.send(()).unwrap();
        proxy.wait_closed_for(CloseReason::PeerClosedIdle, number);
    }
    assert_eq!(proxy.figures().counts.idle, 0);
}

#[test]
fn nginx_with_its_own_limits_fails_no_request() {
    let nginx = Nginx::start("keepalive_requests 3; location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr).unlimited().start();
    let mut client = Client::connect(proxy.addr());
    for n in 0..300 {
        client.send(if n % 2 == 0 { get("/") } else { post("/", "x") });
        assert_eq!(client.response().status, 200, "request {n}");
    }
    assert_eq!(nginx.connections_accepted(), 100);
    assert!(nginx.log().iter().all(|line| line.connection_requests <= 3));
}

#[test]
fn nginx_that_closes_idle_connections_fails_no_request() {
    let nginx = Nginx::start("keepalive_timeout 100ms; location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr).start();
    let mut client = Client::connect(proxy.addr());
    for round in 1..=3 {
        for _ in 0..5 {
            assert_eq!(client.get("/").status, 200);
        }
        proxy.wait_closed_for(CloseReason::PeerClosedIdle, round);
        assert_eq!(proxy.figures().counts.idle, 0);
    }
}

#[test]
fn nginx_started_anew_fails_no_request() {
    let mut nginx = Nginx::start("location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
        client.send(post("/", "x"));
        assert_eq!(client.response().status, 200);
        nginx.restart();
    }
}

#[test]
fn bytes_that_come_with_an_answer_and_belong_to_no_request_reach_nobody() {
    let backend = Backend::start(|mut conn| {
        let number = conn.number;
        while conn.request().is_some() {
            let answer = String::from_utf8(answer(number.to_string())).unwrap();
            conn.send(format!(
                "{answer}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
            ));
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for number in 1..=20 {
        let response = client.get("/");
        assert_eq!(response.text(), number.to_string(), "{}", response.head);
    }
}

#[test]
fn bytes_that_come_after_a_bodiless_answer_reach_nobody() {
    for head in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let backend = Backend::start(move |mut conn| {
            while conn.request().is_some() {
                conn.send(format!(
                    "{head}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
                ));
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        for _ in 0..5 {
            let response = client.get("/");
            assert_eq!(response.length, 0, "{head}: {}", response.text());
        }
        assert_eq!(backend.connections(), 5, "{head}");
    }
}

#[test]
fn bytes_that_come_on_an_idle_connection_reach_nobody() {
    let (asked, asking) = channel::<()>();
    let asking = Mutex::new(asking);
    let backend = Backend::start(move |mut conn| {
        let number = conn.number.to_string();
        while conn.request().is_some() {
            conn.send(answer(&number));
            if asking.lock().unwrap().recv().is_err() {
                return;
            }
            conn.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 6\r\n\r\npoison");
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for number in 1..=20 {
        let response = client.get("/");
        assert_eq!(response.text(), number.to_string(), "{}", response.head);
        asked.send(()).unwrap();
        wait_until(PATIENCE, "no idle connection", || {
            proxy.figures().counts.idle == 0
        });
    }
    drop(asked);
    wait_until(PATIENCE, "no idle connection", || {
        proxy.figures().counts.idle == 0
    });
    assert_eq!(backend.requests().len(), 20);
}
