//! Bodies in both directions: framing, trailers, `100 Continue`, and who waits for whom.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::PATIENCE;
use crate::support::client::{Client, Ended};
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Gate, PeerEnd, Refusing};
use crate::support::wait_until;
use crate::{OK, answer, assert_serves};

/// A backend that answers with the body it got.
fn echo() -> Backend {
    Backend::start(|mut conn| conn.serve(|request| answer(&request.body)))
}

#[test]
fn a_chunked_request_reaches_the_backend_chunked_and_whole() {
    let backend = echo();
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;ext=1\r\nhello\r\n",
    );
    client.send("1\r\n \r\n5\r\nworld\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "hello world");
    let request = &backend.requests()[0];
    assert_eq!(request.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(request.header("Content-Length"), None);
    assert!(request.complete);
    assert_serves(&mut client);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_request_whose_length_is_known_keeps_it() {
    let backend = echo();
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel");
    client.send("lo");
    assert_eq!(client.response().text(), "hello");
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().text(), "");
    let requests = backend.requests();
    for (request, length) in requests.iter().zip(["5", "0"]) {
        assert_eq!(request.header("Content-Length"), Some(length));
        assert_eq!(request.header("Transfer-Encoding"), None);
    }
}

#[test]
fn a_request_with_both_framings_is_passed_on_with_one_and_is_its_connections_last() {
    for lines in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
    ] {
        let backend = echo();
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        ));
        let response = client.response();
        if response.status == 200 {
            assert_eq!(response.text(), "abc");
            let request = &backend.requests()[0];
            assert_eq!(request.header("Content-Length"), None, "{}", request.head);
        } else {
            assert_eq!(response.status, 400);
        }
        assert_eq!(response.header("Connection"), Some("close"), "{lines}");
        assert_eq!(response.ended, Ended::Fin);
    }
}

#[test]
fn a_request_in_a_coding_the_proxy_would_have_to_undo_is_refused() {
    let backend = echo();
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\n",
    );
    let response = client.response();
    assert!(
        matches!(response.status, 400 | 501),
        "{} {:?}",
        response.status,
        backend.requests()
    );
    assert_eq!(response.ended, Ended::Fin);
    assert!(backend.requests().is_empty());
}

#[test]
fn a_chunked_response_is_relayed_piece_by_piece_as_it_comes() {
    let (first, second) = (Gate::new(), Gate::new());
    let backend = Backend::start({
        let (first, second) = (first.clone(), second.clone());
        move |mut conn| {
            while let Some(_request) = conn.request() {
                conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                conn.pause(&first);
                conn.send("5\r\nhello\r\n");
                conn.pause(&second);
                conn.send("6;e=v\r\n world\r\n0\r\n\r\n");
            }
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let mut seen = String::new();
    let mut read_until = |what: &str| {
        while !seen.contains(what) {
            let mut piece = [0; 4096];
            let count = reader.read(&mut piece).unwrap();
            assert_ne!(count, 0, "{seen}");
            seen += std::str::from_utf8(&piece[..count]).unwrap();
        }
    };
    (&stream)
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    // Each is waited for before the backend may send the next.
    read_until("\r\n\r\n");
    first.open();
    read_until("hello");
    second.open();
    read_until("0\r\n\r\n");

    let mut client = Client::over(stream);
    let again = client.get("/");
    assert_eq!(again.text(), "hello world");
    assert!(again.complete && !again.chunks.is_empty());
    assert_eq!(again.header("Content-Length"), None);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_body_that_ends_with_the_backends_connection_is_chunked_for_1_1_and_ends_by_close_for_1_0() {
    let backend = Backend::start(|mut conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/x\r\n\r\nup to ");
        conn.send("the end");
        conn.fin();
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.text(), "up to the end");
        assert_eq!(response.header("Transfer-Encoding"), Some("chunked"));
        assert_eq!(response.ended, Ended::KeptOpen);
    }
    assert_eq!(backend.connections(), 2);

    let mut old = Client::connect(proxy.addr());
    old.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = old.response();
    assert_eq!(response.text(), "up to the end");
    assert_eq!(response.header("Transfer-Encoding"), None);
    assert_eq!(response.header("Connection"), Some("close"));
    assert_eq!(response.ended, Ended::Fin);
}

#[test]
fn a_chunked_response_reaches_a_1_0_client_without_its_framing() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "abc");
    assert_eq!(response.header("Transfer-Encoding"), None);
    assert_eq!(response.ended, Ended::Fin);
    assert_eq!(
        proxy.figures().counts.idle,
        1,
        "the backend's connection is kept"
    );
}

#[test]
fn trailers_of_a_request_reach_the_backend() {
    let backend = echo();
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
    );
    assert_eq!(client.response().text(), "abc");
    let request = &backend.requests()[0];
    assert_eq!(request.trailers.to_lowercase(), "x-sum: 6\r\n");
    assert_serves(&mut client);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn trailers_of_a_response_reach_a_client_that_takes_them_and_no_other() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
    );
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    let response = client.response();
    assert_eq!(response.text(), "abc");
    assert_eq!(response.trailers.to_lowercase(), "x-sum: 6\r\n");
    assert_eq!(response.header("Trailer"), Some("X-Sum"));

    let response = client.get("/");
    assert_eq!(
        (response.text().as_str(), response.trailers.as_str()),
        ("abc", "")
    );
    assert_serves(&mut client);

    let requests = backend.requests();
    assert_eq!(requests[0].header("TE"), Some("trailers"));
    assert_eq!(requests[1].header("TE"), None);
    assert_eq!(backend.connections(), 1, "trailers are read to their end");
}

#[test]
fn a_client_that_waits_for_100_gets_it_once_a_backend_connection_is_there() {
    let backend = echo();
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n",
        );
        assert_eq!(client.response().status, 100);
        assert_eq!(proxy.figures().counts.leased, 1);
        client.send("hello");
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
    assert_eq!(backend.requests()[0].header("Expect"), None);
}

#[test]
fn a_client_that_waits_for_100_is_refused_without_it_when_no_backend_is_there() {
    let refusing = Refusing::start();
    let proxy = TestProxy::to(refusing.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    let response = client.response();
    assert_eq!(response.status, 502);
    assert_eq!(response.header("Connection"), Some("close"));
    assert_eq!(response.ended, Ended::Fin);
}

#[test]
fn a_100_that_nobody_asked_for_and_early_hints_do_not_disturb_the_answer() {
    let backend = Backend::answering(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n{OK}"
    ));
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "ok"));
    }
    assert_eq!(backend.connections(), 1);
}

/// Writes until nothing moves any more, and says how much went.
fn write_until_blocked(stream: &mut TcpStream, most: usize) -> usize {
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let piece = vec![b'u'; 1 << 16];
    let mut written = 0;
    while written < most {
        let size = piece.len().min(most - written);
        match stream.write(&piece[..size]) {
            Ok(count) => written += count,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                return written;
            }
        }
    }
    written
}

#[test]
fn a_backend_that_stops_reading_stops_the_client() {
    const WHOLE: usize = 256 << 20;
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            let request = conn.head().unwrap();
            conn.pause(&gate);
            let (length, complete) = conn.discard_body(&request);
            conn.send(answer(format!("{length} {complete}")));
            conn.wait_for_end();
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream
        .write_all(
            format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {WHOLE}\r\n\r\n").as_bytes(),
        )
        .unwrap();
    gate.wait_reached(1);
    let written = write_until_blocked(&mut stream, WHOLE);
    // Four socket buffers of at most 6 MB each, and what the proxy holds.
    assert!(written < 64 << 20, "{written} bytes went to nobody");

    gate.open();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let piece = vec![b'u'; 1 << 16];
    let mut left = WHOLE - written;
    while left > 0 {
        let size = piece.len().min(left);
        stream.write_all(&piece[..size]).unwrap();
        left -= size;
    }
    let mut client = Client::over(stream);
    assert_eq!(client.response().text(), format!("{WHOLE} true"));
}

#[test]
fn a_client_that_stops_reading_stops_the_backend_and_gets_the_rest_when_it_goes_on() {
    const WHOLE: usize = 256 << 20;
    let blocked = Gate::new();
    let backend = Backend::start({
        let blocked = blocked.clone();
        move |mut conn| {
            conn.request();
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {WHOLE}\r\n\r\n"
            ));
            let mut stream = conn.stream();
            let written = write_until_blocked(&mut stream, WHOLE);
            assert!(written < 64 << 20, "{written} bytes went to nobody");
            // The test reads on from here; a closed gate is not in our way.
            blocked.open();
            conn.pause(&blocked);
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let piece = vec![b'u'; 1 << 16];
            let mut left = WHOLE - written;
            while left > 0 {
                let size = piece.len().min(left);
                stream.write_all(&piece[..size]).unwrap();
                left -= size;
            }
            conn.wait_for_end();
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.discard_bodies();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    blocked.wait_reached(1);
    let response = client.response();
    assert_eq!((response.length, response.complete), (WHOLE as u64, true));
}

#[test]
fn a_client_that_leaves_during_the_response_ends_the_backends_connection() {
    for reset in [false, true] {
        let backend = Backend::start(|mut conn| {
            conn.request();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this so far");
            conn.wait_for_end();
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_until(PATIENCE, "the exchange", || {
            proxy.figures().counts.leased == 1
        });
        // Who leaves before the first byte may have closed its side only.
        client.stream().peek(&mut [0]).unwrap();
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        backend.end_of(1);
        wait_until(PATIENCE, "the end of the lease", || {
            proxy.figures().counts.leased == 0
        });
        assert_eq!(
            proxy
                .figures()
                .closed_for(warmline::keepalive::CloseReason::ClientGone),
            1
        );
    }
}

#[test]
fn a_client_that_leaves_before_the_answer_ends_the_backends_connection() {
    let backend = Backend::start(|mut conn| {
        conn.request();
        conn.wait_for_end();
    });
    for (number, abort_on_close) in [(1, true), (2, false)] {
        let proxy = TestProxy::to(backend.addr)
            .client(|client| client.abort_on_close = abort_on_close)
            .start();
        let mut client = Client::connect(proxy.addr());
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        wait_until(PATIENCE, "the request", || {
            backend.requests().len() == number
        });
        // A FIN only with the setting, a reset in any case.
        if abort_on_close {
            drop(client);
        } else {
            client.reset();
        }
        backend.end_of(number);
    }
}

#[test]
fn a_client_that_leaves_during_its_request_never_makes_it_look_whole() {
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let backend = Backend::start(|mut conn| {
            conn.request();
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n5\r\nhello\r\n"
        ));
        wait_until(PATIENCE, "the exchange", || {
            proxy.figures().counts.leased == 1
        });
        drop(client);
        let _: PeerEnd = backend.end_of(1);
        assert!(!backend.requests()[0].complete, "{framing}");
    }
}
