//! Responses that do not end where they say, or that something follows: no byte of one ever reaches
//! another request, and the connection ends for the reason that it has.

use std::sync::Mutex;
use std::sync::mpsc::channel;

use warmline::keepalive::CloseReason;

use crate::support::client::Client;
use crate::support::proxy::TestProxy;
use crate::support::scripted::{Backend, Conn};
use crate::support::{PATIENCE, wait_until};
use crate::{answer, get, post};

const POISON: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";

/// A first connection that goes wrong as `wrong` says, once its request's head is there, and others that
/// answer with their number.
fn first_goes_wrong(wrong: impl Fn(&mut Conn) + Send + Sync + 'static) -> Backend {
    first_ends(move |mut conn| {
        wrong(&mut conn);
        conn.wait_for_end();
    })
}

/// A first connection that `end` ends, once its request's head is there, and others that answer with
/// their number.
fn first_ends(end: impl Fn(Conn) + Send + Sync + 'static) -> Backend {
    Backend::start(move |mut conn| {
        if conn.number == 1 {
            conn.head();
            end(conn);
        } else {
            let number = conn.number.to_string();
            conn.serve(|_| answer(&number));
        }
    })
}

/// The next requests get their own answers, each from the second connection; the first ended for `reason`
/// and nothing else did.
fn assert_isolated(proxy: &TestProxy, backend: &Backend, reason: CloseReason, context: &str) {
    proxy.wait_closed_for(reason, 1);
    let mut client = Client::connect(proxy.addr());
    for request in [get("/next"), post("/next", "body"), get("/next")] {
        client.send(request);
        let response = client.response();
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "2"),
            "{context}"
        );
    }
    assert_eq!(backend.connections(), 2, "{context}");
    assert_eq!(proxy.figures().counts.closed_total(), 1, "{context}");
    assert_eq!(proxy.figures().counts.idle, 1, "{context}");
}

#[test]
fn bytes_behind_a_response_reach_nobody() {
    for (method, response, body) in [
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nown",
            "own",
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nown\r\n0\r\n\r\n",
            "own",
        ),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", ""),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 45\r\n\r\n",
            "",
        ),
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n", ""),
    ] {
        for poison in [POISON, "x", "\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let bytes = format!("{response}{poison}");
            let backend = first_goes_wrong(move |conn| {
                conn.send(&bytes);
            });
            let proxy = TestProxy::to(backend.addr).start();
            let mut client = Client::connect(proxy.addr());
            client.send(get("/").replacen("GET", method, 1));
            let own = if method == "HEAD" {
                client.response_to_head()
            } else {
                client.response()
            };
            let context = format!("{method} {response:?} {poison:?}");
            assert_eq!(own.text(), body, "{context}");
            assert_isolated(&proxy, &backend, CloseReason::Protocol, &context);
        }
    }
}

#[test]
fn bytes_that_come_later_reach_nobody() {
    for poison in [POISON, "x"] {
        let (now, told) = channel::<()>();
        let told = Mutex::new(told);
        let backend = first_goes_wrong(move |conn| {
            conn.send(answer("own"));
            if told.lock().unwrap().recv_timeout(PATIENCE).is_ok() {
                conn.send(poison);
            }
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        assert_eq!(client.get("/").text(), "own");
        assert_eq!(proxy.figures().counts.idle, 1);
        now.send(()).unwrap();
        assert_isolated(&proxy, &backend, CloseReason::Protocol, poison);
        // It says nothing of how long the backend keeps idle connections.
        assert_eq!(proxy.figures().closed_for(CloseReason::PeerClosedIdle), 0);
    }
}

#[test]
fn a_response_with_two_framings_ends_its_connection() {
    for lines in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 300",
    ] {
        let backend = first_goes_wrong(move |conn| {
            conn.send(format!(
                "HTTP/1.1 200 OK\r\n{lines}\r\n\r\n3\r\nown\r\n0\r\n\r\n"
            ));
        });
        let proxy = TestProxy::to(backend.addr).start();
        assert_eq!(Client::connect(proxy.addr()).get("/").text(), "own");
        assert_isolated(&proxy, &backend, CloseReason::Protocol, lines);
    }
}

#[test]
fn a_flood_of_interim_responses_is_502_and_ends_its_connection() {
    for (count, status) in [(100, 200), (101, 502), (100_000, 502)] {
        for interim in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
        ] {
            let backend = first_goes_wrong(move |conn| {
                conn.send(interim.repeat(count));
                conn.send(answer("own"));
            });
            let proxy = TestProxy::to(backend.addr).start();
            let mut client = Client::connect(proxy.addr());
            let mut response = client.get("/");
            // Those that came in time are passed on.
            while response.status == 103 {
                response = client.response();
            }
            assert_eq!(response.status, status, "{count} of {interim:?}");
            if status == 200 {
                assert_eq!(response.text(), "own");
                continue;
            }
            assert_isolated(&proxy, &backend, CloseReason::Protocol, interim);
            // The answer was not silence: it is not asked for again.
            assert_eq!(proxy.figures().sent_again, [0, 0, 0]);
        }
    }
}

#[test]
fn an_answer_while_the_request_still_goes_out_ends_its_connection() {
    for response in [
        "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nown",
        "HTTP/1.1 413 Content Too Large\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nown\r\n0\r\n\r\n",
    ] {
        let backend = first_goes_wrong(move |conn| {
            conn.send(response);
        });
        let proxy = TestProxy::to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
        assert_eq!(client.response().text(), "own");
        assert_isolated(&proxy, &backend, CloseReason::EarlyResponse, response);
    }
}

#[test]
fn an_early_answer_on_a_used_connection_is_not_sent_again_though_its_body_is_kept() {
    let backend = Backend::start(|mut conn| {
        let number = conn.number;
        conn.request();
        conn.send(answer(number.to_string()));
        if number == 1 && conn.head().is_some() {
            conn.send(answer("early"));
            conn.wait_for_end();
        } else {
            conn.serve(|_| answer(number.to_string()));
        }
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    assert_eq!(client.get("/").text(), "1");
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    assert_eq!(client.response().text(), "early");
    assert_isolated(&proxy, &backend, CloseReason::EarlyResponse, "early");
    assert_eq!(proxy.figures().sent_again, [0, 0, 0]);
}

#[test]
fn a_backend_that_closes_within_its_response_ends_but_that() {
    for (bytes, status, reason) in [
        ("", 502, CloseReason::PeerClosedBusy),
        (
            "HTTP/1.1 200 OK\r\nContent-Le",
            502,
            CloseReason::PeerClosedBusy,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\n",
            502,
            CloseReason::PeerClosedBusy,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nown",
            200,
            CloseReason::PeerClosedBusy,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nown\r\n",
            200,
            CloseReason::PeerClosedBusy,
        ),
        ("HTTP/1.1 2x0 OK\r\n\r\n", 502, CloseReason::Protocol),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nown\r\nzz\r\n",
            200,
            CloseReason::Protocol,
        ),
    ] {
        let backend = first_ends(move |mut conn| {
            conn.send(bytes);
            conn.fin();
        });
        let proxy = TestProxy::to(backend.addr).start();
        let response = Client::connect(proxy.addr()).get("/");
        assert_eq!(response.status, status, "{bytes:?}");
        if status == 200 {
            let text = response.text();
            assert_eq!((text.as_str(), response.complete), ("own", false));
        }
        assert_isolated(&proxy, &backend, reason, bytes);
    }
    let backend = first_ends(Conn::reset);
    let proxy = TestProxy::to(backend.addr).start();
    assert_eq!(Client::connect(proxy.addr()).get("/").status, 502);
    assert_isolated(&proxy, &backend, CloseReason::PeerClosedBusy, "a reset");
}

#[test]
fn a_second_response_to_a_pipelined_request_is_not_taken_from_the_first() {
    // The client has sent two requests at once; the backend answers the first one twice.
    let backend = first_goes_wrong(|conn| {
        conn.send([answer("own"), POISON.into()].concat());
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(get("/a") + &get("/b"));
    assert_eq!(client.response().text(), "own");
    assert_eq!(client.response().text(), "2");
    wait_until(PATIENCE, "the end of the first", || {
        proxy.figures().closed_for(CloseReason::Protocol) == 1
    });
    assert_eq!(backend.connections(), 2);
}
