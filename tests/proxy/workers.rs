//! Several workers share what one of them has idle.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use warmline::backend;
use warmline::keepalive::CloseReason;

use crate::support::client::Client;
use crate::support::nginx::Nginx;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Gate};
use crate::support::{PATIENCE, wait_until};
use crate::{OK, get};

#[test]
fn a_limit_holds_for_all_workers_together_and_everybody_is_served() {
    static AT_ONCE: AtomicU64 = AtomicU64::new(0);
    let nginx = Nginx::start("keepalive_requests 1000000; location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr)
        .unlimited()
        .workers(4)
        .upstream(|upstream| upstream.pool.max_connections = NonZeroU32::new(2))
        .start();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut client = Client::connect(proxy.addr());
                for _ in 0..100 {
                    assert_eq!(client.get("/").status, 200);
                    let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
                    AT_ONCE.fetch_max(line.connections, Ordering::Relaxed);
                }
            });
        }
    });
    let counts = proxy.figures().counts;
    assert_eq!(nginx.connections_accepted(), 2);
    assert_eq!((counts.opened, counts.open_failed), (2, 0));
    assert_eq!(AT_ONCE.load(Ordering::Relaxed), 2);
    let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
    assert!(line.waited > 100, "{} had to wait", line.waited);
    assert_eq!(line.waiting, 0);
}

/// A backend that answers once the gate is open, and a proxy that may have one connection to it.
fn one_connection(change: impl FnOnce(&mut backend::Settings)) -> (Gate, Backend, TestProxy) {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            while conn.request().is_some() {
                conn.pause(&gate);
                conn.send(OK);
            }
        }
    });
    let proxy = TestProxy::to(backend.addr)
        .workers(2)
        .upstream(|upstream| {
            upstream.pool.max_connections = NonZeroU32::new(1);
            change(upstream);
        })
        .start();
    (gate, backend, proxy)
}

#[test]
fn who_waits_too_long_is_refused_with_the_reason_and_the_others_are_served() {
    let (gate, backend, proxy) =
        one_connection(|upstream| upstream.pool.acquire_timeout = Duration::from_millis(200));
    let mut first = Client::connect(proxy.addr());
    first.send(get("/"));
    gate.wait_reached(1);
    let response = Client::connect(proxy.addr()).get("/");
    assert_eq!(response.status, 503);
    assert!(
        response
            .text()
            .contains("No connection to the backend came free in time."),
        "{}",
        response.text()
    );
    gate.open();
    assert_eq!(first.response().status, 200);
    assert_eq!(Client::connect(proxy.addr()).get("/").status, 200);
    assert_eq!(backend.connections(), 1);
    let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
    assert_eq!(line.refused, [0, 1]);
}

#[test]
fn who_finds_the_line_full_is_refused_at_once_and_who_waits_is_served_in_turn() {
    let (gate, backend, proxy) = one_connection(|upstream| upstream.pool.max_waiting = 2);
    let line = || proxy.server().upstreams()[0].lines().next().unwrap().1;
    let mut clients = Vec::new();
    for waiting in 0..3 {
        let mut client = Client::connect(proxy.addr());
        client.send(get(&format!("/{waiting}")));
        clients.push(client);
        if waiting == 0 {
            gate.wait_reached(1);
        }
        wait_until(PATIENCE, "the line", || line().waiting == waiting);
    }
    let response = Client::connect(proxy.addr()).get("/");
    assert_eq!(response.status, 503);
    assert!(
        response
            .text()
            .contains("Too many requests wait for a connection to the backend."),
        "{}",
        response.text()
    );
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    let lines: Vec<_> = backend
        .requests()
        .iter()
        .map(|it| it.line().to_owned())
        .collect();
    let order = [0, 1, 2].map(|n| format!("GET /{n} HTTP/1.1"));
    assert_eq!(lines, order, "first in, first out");
    assert_eq!(backend.connections(), 1);
    assert_eq!(line().refused, [1, 0]);
}

#[test]
fn idle_connections_are_kept_ready_and_opened_again_after_a_loss() {
    let nginx = Nginx::start("location / { return 200 ok; }");
    let proxy = TestProxy::to(nginx.addr)
        .workers(2)
        .upstream(|upstream| {
            upstream.pool.min_idle = 3;
            upstream.pool.keep_alive.timeout = Duration::from_millis(700);
        })
        .start();
    let idle = || proxy.figures().counts.idle;
    wait_until(PATIENCE, "three idle connections", || idle() == 3);
    assert_eq!(proxy.figures().requests, 0);
    // They age out, and others take their place.
    proxy.wait_closed_for(CloseReason::IdleTimeout, 3);
    wait_until(PATIENCE, "three idle connections again", || idle() == 3);
    assert!(nginx.connections_accepted() >= 6);
}

/// What a request has waited in line is no time of its backend's.
#[test]
fn waiting_in_line_is_not_taken_off_the_timeout() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = Backend::start(move |mut conn| {
        while let Some(request) = conn.request() {
            if request.line().starts_with("GET") {
                conn.pause(&held);
            } else {
                std::thread::sleep(Duration::from_millis(400));
            }
            conn.send(OK);
        }
    });
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| {
            upstream.pool.max_connections = NonZeroU32::new(1);
            upstream.pool.acquire_timeout = PATIENCE;
            upstream.timeout = Duration::from_millis(900);
        })
        .start();
    let mut first = Client::connect(proxy.addr());
    first.send(get("/"));
    gate.wait_reached(1);
    let mut others: Vec<_> = (0..4).map(|_| Client::connect(proxy.addr())).collect();
    for client in &mut others {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    }
    gate.open();
    assert_eq!(first.response().status, 200);
    // The last of them has waited for longer than the timeout.
    for client in &mut others {
        assert_eq!(client.response().status, 200);
    }
}
