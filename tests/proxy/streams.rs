//! HTTP/2 connections that many clients share: what one of them does, or what the backend does to one
//! of them, is nobody else's trouble, and every connection comes to its end.

use std::io::Read;
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use warmline::account::PoolFigures;
use warmline::keepalive::CloseReason;
use warmline::net::ProxyProtocol;
use warmline::server::Server;

use crate::http2::{text, to};
use crate::support::client::{Client, Ended};
use crate::support::http2::{Answer, Http2, frames};
use crate::support::scripted::{Backend, Gate};
use crate::support::{PATIENCE, local, wait_until};
use crate::{get, post};

fn entered(figures: &PoolFigures) -> u64 {
    let ends = figures.ends.iter().flatten();
    ends.map(|end| end.connections).sum()
}

/// hyper waits for a free stream before anything else, even before the end.
#[test]
fn a_connection_with_a_request_that_no_stream_is_free_for_is_closed_all_the_same() {
    let backend = Backend::start(|conn| {
        let mut stream = conn.stream();
        if !frames::begin(&mut stream) {
            return;
        }
        while let Some(id) = frames::wait_for(&mut stream, frames::HEADERS) {
            frames::ok(&mut stream, id);
            // From now on it takes none.
            frames::settings(&mut stream, frames::MAX_CONCURRENT_STREAMS, 0);
        }
    });
    let proxy = to(backend.addr)
        .upstream(|upstream| upstream.timeout = Duration::from_millis(300))
        .start();
    let mut client = Client::connect(proxy.addr());
    assert_eq!(client.get("/").status, 200);
    // The first of these is stuck; the connection is not used after that.
    let said: Vec<_> = (0..4).map(|_| client.get("/").status).collect();
    assert!(said.contains(&200) && said.contains(&504), "{said:?}");
    drop(client);
    let proxy_counts = || proxy.figures();
    wait_until(PATIENCE, "each closed connection to be entered", || {
        let figures = proxy_counts();
        figures.counts.closed_total() > 0 && entered(&figures) == figures.counts.closed_total()
    });
}

#[test]
fn clients_that_do_not_read_stop_nobody_else_on_their_connection() {
    let backend = Http2::start(None, |taken| match taken.request.uri().path() {
        "/big" => text("x".repeat(16 << 20)),
        _ => text("ok".repeat(1000)),
    });
    let proxy = to(backend.addr).start();
    let mut slow: Vec<_> = (0..20).map(|_| Client::connect(proxy.addr())).collect();
    for client in &mut slow {
        client.send(get("/big"));
    }
    wait_until(PATIENCE, "all to be asked for", || {
        backend.taken().len() == 20
    });
    for _ in 0..10 {
        let response = Client::connect(proxy.addr()).get("/small");
        assert_eq!((response.status, response.body.len()), (200, 2000));
    }
    assert_eq!(backend.connections(), 1);
}

/// The library that writes to the client needs no more than the length of a body, or to know that there
/// is none, and does not wait for the stream's end.
#[test]
fn a_response_whose_end_comes_by_itself_leaves_its_client_ready_for_the_next() {
    let backend = Http2::start(None, |taken| match taken.request.uri().path() {
        "/empty" => Answer::EndsLate(204, ""),
        "/unchanged" => Answer::EndsLate(304, ""),
        _ => Answer::EndsLate(200, "ok"),
    });
    let proxy = to(backend.addr)
        .client(|client| client.keep_alive.timeout = Duration::from_millis(300))
        .start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "ok");
        assert_eq!(client.get("/empty").status, 204);
        assert_eq!(client.get("/unchanged").status, 304);
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response_to_head().status, 200);
    }
    assert_eq!(client.end_within(PATIENCE), Ended::Fin, "its time is over");
}

/// The backend answers without reading the body, and says no more about it.
#[test]
fn an_early_answer_leaves_no_stream_occupied() {
    let backend = Backend::start(|conn| {
        let mut stream = conn.stream();
        let mut preface = [0; 24];
        if stream.read_exact(&mut preface).is_err() {
            return;
        }
        frames::settings(&mut stream, frames::MAX_CONCURRENT_STREAMS, 1);
        while let Some(id) = frames::wait_for(&mut stream, frames::HEADERS) {
            frames::ok(&mut stream, id);
        }
    });
    let proxy = to(backend.addr).start();
    let mut first = Client::connect(proxy.addr());
    first.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n");
    // It may be answered, and closed upon, before all of it is there.
    let _ = first.try_send(vec![b'x'; 300_000]);
    assert_eq!(first.response().status, 200);
    for _ in 0..3 {
        assert_eq!(Client::connect(proxy.addr()).get("/").status, 200);
    }
    proxy.wait_closed_for(CloseReason::EarlyResponse, 1);
    assert_eq!(proxy.figures().counts.opened, 2);
}

#[test]
fn a_client_that_does_not_send_its_body_ends_no_connection_of_others() {
    let backend = Http2::start(None, |taken| text(taken.connection.to_string()));
    let proxy = to(backend.addr)
        .client(|client| client.timeout = Duration::from_millis(200))
        .start();
    for _ in 0..3 {
        let mut slow = Client::connect(proxy.addr());
        slow.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nx");
        assert_eq!(slow.response().status, 408);
        assert_eq!(Client::connect(proxy.addr()).get("/").text(), "1");
    }
}

#[test]
fn goodbyes_under_load_teach_no_idle_timeout() {
    let backend = Backend::start(|conn| {
        let mut stream = conn.stream();
        if !frames::begin(&mut stream) {
            return;
        }
        // Two requests each, as nginx's keepalive_requests has it.
        while let Some(id) = frames::wait_for(&mut stream, frames::HEADERS) {
            if id > 3 {
                frames::goodbye(&mut stream, 3);
                while frames::wait_for(&mut stream, frames::GOAWAY).is_some() {}
                return;
            }
            frames::ok(&mut stream, id);
        }
    });
    let proxy = to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    let requests = 30;
    for _ in 0..requests {
        client.send(post("/", ""));
        assert_eq!(client.response().status, 200);
        // Each end is an occasion of its own for who learns.
        thread::sleep(Duration::from_millis(20));
    }
    let (_, line) = proxy.server().upstreams()[0].lines().next().unwrap();
    assert_eq!(line.learned_idle_timeout, None);
    assert_eq!(proxy.figures().counts.opened, requests / 2);
}

#[test]
fn refused_requests_find_another_way_and_everybody_is_served() {
    let backend = Http2::start(None, |taken| {
        if taken.before > 0 {
            Answer::Refuse
        } else {
            text("ok")
        }
    });
    let proxy = to(backend.addr).start();
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(proxy.addr())).collect();
    for client in &mut clients {
        client.send(post("/", ""));
    }
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert!(proxy.figures().sent_again[2] > 0);
}

#[test]
fn a_connection_opened_for_a_client_that_has_gone_is_closed() {
    let gate = Gate::new();
    let held = gate.clone();
    let backend = Backend::start(move |conn| {
        let mut stream = conn.stream();
        let mut byte = [0; 1];
        while stream.read_exact(&mut byte).is_ok() && byte[0] != b'\n' {}
        conn.pause(&held);
        if frames::begin(&mut stream) {
            while let Some(id) = frames::wait_for(&mut stream, frames::HEADERS) {
                frames::ok(&mut stream, id);
            }
        }
    });
    let proxy = to(backend.addr)
        .upstream(|upstream| upstream.proxy_protocol = Some(ProxyProtocol::V1))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send(get("/"));
    gate.wait_reached(1);
    client.reset();
    gate.open();
    proxy.wait_closed_for(CloseReason::Surplus, 1);
    assert_eq!(proxy.figures().counts.idle, 0);
}

#[test]
fn fewer_connections_than_workers_are_refused_at_the_start() {
    let settings = to(local(1))
        .workers(4)
        .upstream(|upstream| upstream.pool.max_connections = NonZeroU32::new(3))
        .into_settings();
    let error = Server::start(&settings).err().expect("it does not start");
    assert!(
        error.to_string().contains("max_connections is 3"),
        "{error}"
    );
}

/// A client's `Host` that is none is never taken for another host.
#[test]
fn a_host_that_is_none_reaches_no_backend() {
    let backend = Http2::start(None, |taken| text(taken.request.uri().to_string()));
    let proxy = to(backend.addr).start();
    for (host, status) in [
        ("a:b:c", 400),
        ("a%zz", 400),
        ("[a", 400),
        ("[::1", 400),
        ("[::1]x", 400),
        (":80", 400),
        ("a:80", 200),
        ("[::1]:80", 200),
        ("under_score.example", 200),
    ] {
        let mut client = Client::connect(proxy.addr());
        client.send(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status, status, "{host}");
        if status == 200 {
            assert_eq!(response.text(), format!("http://{host}/x"));
        }
    }
}
