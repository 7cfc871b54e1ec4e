//! What the client is told when a request cannot be answered, and what becomes of the connections.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use tokio::time::Instant;

use socket2::{Domain, Socket, Type};
use warmline::keepalive::CloseReason;
use warmline::route::RouteSettings;

use crate::support::client::{self, Client, Ended, RawResponse};
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Conn, Gate, Refusing, Unanswering};
use crate::support::{PATIENCE, local, wait_until};
use crate::{OK, answer, assert_serves, get, post};

/// Asserts that this is an error answer of the proxy's own: status, a short text, its type.
fn assert_error(response: &RawResponse, status: u16, context: &str) {
    let context = format!("{context}: {}{}", response.head, response.text());
    assert_eq!(response.status, status, "{context}");
    assert_eq!(
        response.header("Content-Type"),
        Some("text/plain; charset=utf-8"),
        "{context}"
    );
    let text = response.text();
    assert!(text.starts_with(&format!("{status} ")), "{context}");
    assert!(text.len() < 200 && text.ends_with(".\n"), "{context}");
    assert!(!text.contains("127.0.0.1"), "no address of ours: {context}");
    assert!(response.header("Date").is_some(), "{context}");
}

/// Asserts that the connection ended with this answer, as it said.
fn assert_ended(response: &RawResponse, context: &str) {
    assert_eq!(response.header("Connection"), Some("close"), "{context}");
    assert_eq!(response.ended, Ended::Fin, "{context}");
}

fn assert_kept(response: &RawResponse, context: &str) {
    assert_eq!(response.header("Connection"), None, "{context}");
    assert_eq!(response.ended, Ended::KeptOpen, "{context}");
}

#[test]
fn a_request_that_breaks_the_rules_is_refused_with_400_and_its_connection_ends() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    for request in [
        "GARBAGE\r\n\r\n",
        "GET /\r\n\r\n",
        "GET / HTTP/1.1 x\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/3.7\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET nothing HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b/c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : space\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = Client::connect(proxy.addr());
        client.send(request);
        let response = client
            .try_response()
            .unwrap_or_else(|stop| panic!("{request:?}: {stop:?}"));
        assert_error(&response, 400, request);
        assert_ended(&response, request);
    }
    assert!(backend.requests().is_empty());
}

#[test]
fn a_request_refused_after_others_on_its_connection_is_told_so_too() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    assert_serves(&mut client);
    client.send("GARBAGE\r\n\r\n");
    let response = client.response();
    assert_error(&response, 400, "second");
    assert_ended(&response, "second");

    // Pipelined behind a good one: that one is answered first.
    let mut client = Client::connect(proxy.addr());
    client.send(get("/") + "GARBAGE\r\n\r\n");
    assert_eq!(client.response().text(), "ok");
    let response = client.response();
    assert_error(&response, 400, "pipelined");
    assert_ended(&response, "pipelined");
}

#[test]
fn a_body_that_is_not_framed_as_it_says_is_refused_with_400_and_reaches_no_backend_whole() {
    for chunks in [
        "zz\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcX\r\n0\r\n\r\n",
        "-1\r\n",
        "fffffffffffffffff\r\n",
        "5\r\nhello\r\nxyz\r\n",
    ] {
        let backend = Backend::start(move |mut conn| {
            if let Some(request) = conn.head() {
                let (_, whole) = conn.discard_body(&request);
                assert!(!whole, "{chunks:?}");
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
        ));
        let response = client.response();
        assert_error(&response, 400, chunks);
        assert_ended(&response, chunks);
    }
}

#[test]
fn a_request_nobody_is_there_for_is_answered_404_and_its_connection_kept() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr)
        .settings(|settings| settings.routes[0] = RouteSettings::to("/api", "test").into())
        .start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        let response = client.get("/other");
        assert_error(&response, 404, "no route");
        assert_kept(&response, "no route");
    }
    assert_eq!(client.get("/api/x").status, 200);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn connect_is_answered_405() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n");
    assert_error(&client.response(), 405, "CONNECT");
}

#[test]
fn a_body_over_the_limit_is_refused_with_413_by_its_announced_length() {
    let backend = Backend::start(|mut conn| conn.serve(|request| answer(&request.body)));
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.limits.body = Some(10))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send(post("/", "0123456789"));
    assert_eq!(client.response().text(), "0123456789");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n");
    let response = client.response();
    assert_error(&response, 413, "by length");
    assert_ended(&response, "by length");
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_chunked_body_over_the_limit_is_refused_with_413_where_it_passes_it() {
    let backend = Backend::start(|mut conn| {
        while let Some(request) = conn.request() {
            if !request.complete {
                return;
            }
            conn.send(answer(&request.body));
        }
    });
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.limits.body = Some(10))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().text(), "0123456789");
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         5\r\n01234\r\n6\r\n56789a\r\n",
    );
    let response = client.response();
    assert_error(&response, 413, "by chunks");
    assert_ended(&response, "by chunks");
    wait_until(PATIENCE, "the broken request", || {
        backend.requests().len() == 2
    });
    assert!(!backend.requests()[1].complete);
}

#[test]
fn a_target_over_the_limit_is_refused_with_414() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    // The whole line counts, and one byte more than the limit passes: as in Apache httpd.
    let around = "GET / HTTP/1.1".len();
    for length in [8192, 70_000] {
        let mut client = Client::connect(proxy.addr());
        client.send(get(&format!("/{}", "x".repeat(length - around))));
        let response = client.response();
        assert_error(&response, 414, "long");
        assert_ended(&response, "long");
    }
    let mut client = Client::connect(proxy.addr());
    let most = "x".repeat(8191 - around);
    assert_eq!(client.get(&format!("/{most}")).status, 200);
}

#[test]
fn a_head_over_the_limits_is_refused_with_431() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr).start();
    let lines = |count: usize| {
        let lines: Vec<_> = (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect();
        lines.concat()
    };
    let long = |length: usize| format!("X-Long: {}\r\n", "x".repeat(length));
    for (headers, status) in [
        (lines(99), 200),
        (lines(100), 431),
        (lines(1000), 431),
        (long(8191 - 8), 200),
        (long(8191 - 7), 431),
        (long(500_000), 431),
        (format!("{}: x\r\n", "N".repeat(9000)), 431),
    ] {
        let mut client = Client::connect(proxy.addr());
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
        let response = client.response();
        let context = &headers[..headers.len().min(30)];
        if status == 200 {
            assert_eq!(response.status, 200, "{context}");
        } else {
            assert_error(&response, status, context);
            assert_ended(&response, context);
        }
    }
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.limits.fields = Some(5))
        .start();
    for (count, status) in [(4, 200), (5, 431)] {
        let mut client = Client::connect(proxy.addr());
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines(count)));
        assert_eq!(client.response().status, status);
    }
}

#[test]
fn a_backend_that_refuses_is_502_and_the_client_may_go_on() {
    let refusing = Refusing::start();
    let proxy = TestProxy::to(refusing.addr).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        let response = client.get("/");
        assert_error(&response, 502, "refused");
        assert_kept(&response, "refused");
    }
    // A body nobody has read: the next request could not be told from it.
    client.send(post("/", "body"));
    let response = client.response();
    assert_error(&response, 502, "refused with a body");
    assert_ended(&response, "refused with a body");
}

/// A first connection that goes wrong in some way; those after it answer.
fn once(wrong: impl Fn(Conn) + Send + Sync + 'static) -> Backend {
    Backend::start(move |mut conn| {
        if conn.number == 1 {
            conn.request();
            wrong(conn);
        } else {
            conn.serve(|_| OK.into());
        }
    })
}

#[test]
fn a_backend_that_gives_no_answer_that_could_be_read_is_502_and_the_client_may_go_on() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: 1\r\n".repeat(1000));
    for bytes in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Cut",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "garbage\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        &long,
        &many,
    ] {
        let context = bytes[..bytes.len().min(60)].to_owned();
        for reset in [false, true] {
            let bytes = bytes.to_owned();
            let backend = once(move |mut conn| {
                conn.send(&bytes);
                if reset {
                    conn.reset();
                } else {
                    conn.fin();
                }
            });
            let proxy = TestProxy::to(backend.addr).start();
            let mut client = Client::connect(proxy.addr());
            let response = client.get("/");
            assert_error(&response, 502, &context);
            assert_kept(&response, &context);
            assert_serves(&mut client);
            assert_eq!(backend.connections(), 2, "{context}");
        }
    }
}

#[test]
fn garbage_from_a_backend_that_stays_connected_is_502_at_once() {
    let backend = once(|mut conn| {
        conn.send("garbage\r\n\r\n");
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    assert_error(&client.get("/"), 502, "garbage");
    let answered = Instant::now();
    backend.end_of(1);
    // Only an end that both sides agreed on is waited for, for a second.
    let waited = answered.elapsed();
    assert!(
        waited < Duration::from_millis(900),
        "let go after {waited:?}"
    );
    assert_serves(&mut client);
}

#[test]
fn a_backend_that_closes_every_connection_at_once_is_502_and_not_asked_again() {
    const CLIENTS: usize = 64;
    for reset in [false, true] {
        let backend = Backend::start(move |conn| {
            if reset {
                conn.reset();
            } else {
                conn.fin();
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let addr = proxy.addr();
        // Many at a time: then some connections are closed before anything was written on them.
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                std::thread::spawn(move || {
                    let mut client = Client::connect(addr);
                    client.send(if n % 2 == 0 {
                        get("/")
                    } else {
                        post("/", "body")
                    });
                    assert_error(&client.response(), 502, "closed at once");
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        let connections = backend.connections();
        assert!(
            connections <= CLIENTS,
            "{connections} connections for {CLIENTS} requests"
        );
    }
}

#[test]
fn an_upstream_without_a_server_of_any_weight_is_503() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to_all(&[(backend.addr, 0), (backend.addr, 0)]).start();
    let response = client::get(proxy.addr(), "/");
    assert_error(&response, 503, "no weight");
    assert_ended(&response, "no weight");
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_connect_that_is_not_answered_is_504() {
    let silent = Unanswering::start();
    let proxy = TestProxy::to(silent.addr)
        .upstream(|upstream| upstream.connect_timeout = Duration::from_millis(200))
        .start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        let response = client.get("/");
        assert_error(&response, 504, "connect");
        assert_kept(&response, "connect");
    }
}

#[test]
fn an_answer_that_does_not_come_is_504_and_the_client_may_go_on() {
    for part in ["", "HTTP/1.1 200 OK\r\nX-Half: "] {
        let backend = once(move |mut conn| {
            conn.send(part);
            conn.wait_for_end();
        });
        let proxy = TestProxy::to(backend.addr)
            .upstream(|upstream| upstream.timeout = Duration::from_millis(300))
            .start();
        let mut client = Client::connect(proxy.addr());
        let response = client.get("/");
        assert_error(&response, 504, part);
        assert_kept(&response, part);
        backend.end_of(1);
        for _ in 0..3 {
            assert_serves(&mut client);
        }
        proxy.wait_closed_for(CloseReason::Timeout, 1);
    }
}

#[test]
fn a_backend_that_takes_no_more_of_the_request_is_504() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            conn.head();
            conn.pause(&gate);
        }
    });
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.timeout = Duration::from_millis(300))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    let mut stream = client.stream();
    let sending = std::thread::spawn(move || {
        let piece = vec![b'u'; 1 << 16];
        while std::io::Write::write_all(&mut stream, &piece).is_ok() {}
    });
    let response = client.response();
    assert_error(&response, 504, "write");
    assert_eq!(response.header("Connection"), Some("close"));
    drop(client);
    gate.open();
    // The proxy throws away what still comes, for a while: the end of this thread is the end of that.
    drop(proxy);
    sending.join().unwrap();
}

#[test]
fn a_response_that_breaks_off_shows_as_broken() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n";
    let cut_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\nonly this";
    let bad_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nzz\r\n";
    for bytes in [length, chunked, cut_chunk, bad_chunk] {
        for reset in [false, true] {
            let gate = Gate::new();
            let backend = once({
                let gate = gate.clone();
                move |mut conn| {
                    conn.send(bytes);
                    conn.pause(&gate);
                    if reset {
                        conn.reset();
                    } else {
                        conn.fin();
                    }
                }
            });
            let proxy = TestProxy::to(backend.addr).start();
            let mut client = Client::connect(proxy.addr());
            client.send(get("/"));
            gate.wait_reached(1);
            gate.open();
            let context = format!("{bytes:?} reset={reset}");
            match client.try_response() {
                Ok(response) => {
                    assert_eq!(response.status, 200, "{context}");
                    assert!(!response.complete, "{context}: {}", response.text());
                    assert_ne!(response.ended, Ended::KeptOpen, "{context}");
                    assert!("only this".starts_with(&response.text()), "{context}");
                }
                // A reset may overtake the head.
                Err(stop) => assert_eq!(stop, crate::support::wire::Stop::Reset, "{context}"),
            }
            assert_eq!(client::get(proxy.addr(), "/").status, 200);
            assert_eq!(backend.connections(), 2, "{context}");
        }
    }
}

#[test]
fn a_response_that_stalls_for_too_long_shows_as_broken() {
    let backend = once(|mut conn| {
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this");
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr)
        .upstream(|upstream| upstream.timeout = Duration::from_millis(300))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send(get("/"));
    let response = client.response();
    assert_eq!(
        (response.text().as_str(), response.complete),
        ("only this", false)
    );
    backend.end_of(1);
    proxy.wait_closed_for(CloseReason::Timeout, 1);
}

/// Asserts that the client's response ends with a reset, which may destroy what came of it.
fn assert_reset(client: &mut Client, context: &str) {
    match client.try_response() {
        Ok(response) => {
            assert_eq!(response.ended, Ended::Reset, "{context:?}");
            assert!(!response.complete, "{context:?}");
        }
        Err(stop) => assert_eq!(stop, crate::support::wire::Stop::Reset, "{context:?}"),
    }
}

#[test]
fn a_1_0_client_sees_a_reset_where_a_close_would_look_like_the_end() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        "HTTP/1.1 200 OK\r\n\r\nonly this",
    ] {
        let gate = Gate::new();
        let backend = once({
            let gate = gate.clone();
            move |mut conn| {
                conn.send(bytes);
                conn.pause(&gate);
                conn.reset();
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send("GET / HTTP/1.0\r\n\r\n");
        gate.wait_reached(1);
        gate.open();
        assert_reset(&mut client, bytes);
    }
}

#[test]
fn a_1_0_client_sees_a_reset_when_the_end_of_a_shutdown_cuts_its_response_off() {
    let gate = Gate::new();
    let backend = once({
        let gate = gate.clone();
        move |mut conn| {
            conn.send("HTTP/1.1 200 OK\r\n\r\nonly this");
            conn.pause(&gate);
            conn.wait_for_end();
        }
    });
    let proxy = TestProxy::to(backend.addr)
        .settings(|settings| settings.shutdown_timeout = Duration::from_millis(300))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send("GET / HTTP/1.0\r\n\r\n");
    gate.wait_reached(1);
    gate.open();
    proxy.server().stop();
    assert_reset(&mut client, "cut off");
}

#[test]
fn an_answer_with_two_framings_is_read_right_and_its_connection_not_used_again() {
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        let backend = Backend::answering(format!(
            "HTTP/1.1 200 OK\r\n{lines}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        ));
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        for number in 1..=3 {
            let response = client.get("/");
            assert_eq!(response.text(), "abc", "{lines}");
            assert_eq!(response.header("Content-Length"), None, "{lines}");
            assert_eq!(backend.connections(), number, "{lines}");
        }
        proxy.wait_closed_for(CloseReason::Protocol, 3);
    }
}

/// Answers after the head of a request whose body still comes.
fn early(conn: &mut Conn) {
    conn.head();
    conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nearly");
}

#[test]
fn an_early_answer_is_relayed_and_its_connection_is_not_used_again() {
    let backend = Backend::start(|mut conn| {
        if conn.number == 1 {
            early(&mut conn);
            conn.wait_for_end();
        } else {
            conn.serve(|_| OK.into());
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf of it");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (403, "early"));
    // The client has not sent the rest and never will: the backend is let go all the same.
    backend.end_of(1);
    proxy.wait_closed_for(CloseReason::EarlyResponse, 1);
    assert_eq!(client::get(proxy.addr(), "/").status, 200);
}

#[test]
fn what_follows_an_early_answer_is_never_taken_for_a_request() {
    for (framing, rest) in [
        (
            "Content-Length: 38",
            "GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked",
            "26\r\nGET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\n\r\n0\r\n\r\n",
        ),
    ] {
        let backend = Backend::start(|mut conn| {
            if conn.number == 1 {
                early(&mut conn);
                conn.wait_for_end();
            } else {
                conn.serve(|request| answer(request.line()));
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"));
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (403, "early"));
        // Either the connection goes on after the body, or it ends; the body is never a request.
        let _ = client.try_send(rest);
        let _ = client.try_send("\r\n");
        let _ = client.try_send(get("/next"));
        if let Ok(next) = client.try_response() {
            assert_eq!(next.text(), "GET /next HTTP/1.1");
        }
        let smuggled = |line: &str| line.contains("smuggled");
        assert!(
            !backend
                .requests()
                .iter()
                .any(|request| smuggled(request.line())),
            "{framing}"
        );
    }
}

#[test]
fn a_client_that_sends_its_body_slowly_is_not_cut_off_by_an_early_answer_to_it() {
    // The whole of a long early answer arrives although the client never finishes its request.
    const LENGTH: usize = 4 << 20;
    let backend = Backend::start(|mut conn| {
        conn.head();
        conn.send(answer(vec![b'x'; LENGTH]));
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegin");
    let response = client.response();
    assert_eq!((response.length, response.complete), (LENGTH as u64, true));
    backend.end_of(1);
}

#[test]
fn a_request_body_that_does_not_come_is_408_and_the_backend_is_let_go() {
    let (seen, sightings) = channel();
    let seen = Mutex::new(seen);
    let backend = Backend::start(move |mut conn| {
        conn.head();
        let _ = seen.lock().unwrap().send(());
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.timeout = Duration::from_millis(300))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    sightings.recv_timeout(PATIENCE).unwrap();
    let response = client.response();
    assert_error(&response, 408, "body");
    assert_ended(&response, "body");
    backend.end_of(1);
}

/// Where [`no_local_port_left_is_503`] runs again, in a network of its own.
const INSIDE: &str = "WARMLINE_TEST_IN_OWN_NETWORK";

#[test]
fn no_local_port_left_is_503() {
    if std::env::var_os(INSIDE).is_some() {
        return exhaust_ports();
    }
    let this = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["-n", "sh", "-c"])
        .arg(
            "ip link set lo up \
             && echo 20000 20007 > /proc/sys/net/ipv4/ip_local_port_range \
             && echo 0 > /proc/sys/net/ipv4/tcp_tw_reuse && exec \"$@\"",
        )
        .args(["sh".as_ref(), this.as_os_str()])
        .args([
            "errors::no_local_port_left_is_503",
            "--exact",
            "--nocapture",
        ])
        .env(INSIDE, "1")
        .output();
    let Ok(output) = output else {
        eprintln!("left out: unshare is not installed");
        return;
    };
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    if !said.contains("running 1 test") {
        eprintln!("left out: no network namespace can be made here: {said}");
        return;
    }
    assert!(output.status.success(), "{said}");
}

/// Takes every port there is towards the backend, and asks for one more.
fn exhaust_ports() {
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
    let proxy = TestProxy::to(backend.addr).start();
    let addr: SocketAddr = proxy.addr();
    let mut clients = Vec::new();
    let refused = loop {
        assert!(
            clients.len() < 20,
            "there are more ports than the network has"
        );
        // From a port that is not among the eight.
        let port = 30_000 + u16::try_from(clients.len()).unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&local(port).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        let mut client = Client::over(socket.into());
        client.send(get("/"));
        let leased = clients.len() as u64 + 1;
        let mut refused = false;
        wait_until(PATIENCE, "a lease or a failure", || {
            let figures = proxy.figures();
            refused = figures.counts.open_failed > 0;
            refused || figures.counts.leased == leased
        });
        if refused {
            break client.response();
        }
        clients.push(client);
    };
    assert_error(&refused, 503, "no port");
    assert_ended(&refused, "no port");
    assert!(
        refused.text().contains("no local port"),
        "{}",
        refused.text()
    );
    assert!(clients.len() >= 4, "{} ports", clients.len());
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    // To end it somebody would have to connect to it.
    std::mem::forget(backend);
}
