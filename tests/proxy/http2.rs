//! HTTP/2 to backends: many requests on one connection, its limits, its goodbyes, and what may be sent
//! again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use warmline::backend::Protocol;
use warmline::keepalive::CloseReason;
use warmline::net::TlsSettings;
use warmline::route::RouteSettings;

use crate::support::certs::Authority;
use crate::support::client::Client;
use crate::support::http2::{Answer, Http2, frames};
use crate::support::httpd::{self, Httpd};
use crate::support::nginx::{Nginx, UPLOADS};
use crate::support::node::Node;
use crate::support::proxy::{Builder, TestProxy};
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, free_port, local, wait_until};
use crate::tls::assert_bodies_pass;
use crate::{get, post};

/// A proxy that speaks HTTP/2 to one backend.
pub(super) fn to(addr: SocketAddr) -> Builder {
    TestProxy::to(addr).unlimited().upstream(|upstream| {
        upstream.protocol = Protocol::Http2;
        // As the file's reader has it for HTTP/2.
        upstream.pool.max_connecting = NonZeroU32::new(1);
    })
}

pub(super) fn text(text: impl Into<String>) -> Answer {
    Answer::Text(text.into(), false)
}

fn held() -> Answer {
    Answer::Text("ok".to_owned(), true)
}

/// A backend that says on which connection it was asked.
fn numbered() -> Http2 {
    Http2::start(None, |taken| text(taken.connection.to_string()))
}

/// nginx with HTTP/2, with TLS or by prior knowledge.
fn nginx(tls: Option<&Authority>, settings: &str) -> (Nginx, SocketAddr) {
    let addr = local(free_port());
    let (ssl, pair) = match tls {
        Some(authority) => ("ssl", authority.certify("127.0.0.1").for_nginx()),
        None => ("", String::new()),
    };
    let nginx = Nginx::start(&format!(
        "listen {addr} {ssl} http2; {pair} keepalive_requests 1000000; {settings}"
    ));
    (nginx, addr)
}

#[test]
fn hundreds_of_requests_at_once_share_one_connection_to_nginx() {
    let tell = "location / { return 200 $server_protocol; }";
    let authority = Authority::new();
    for tls in [None, Some(&authority)] {
        let (nginx, addr) = nginx(tls, tell);
        let before = nginx.connections_accepted();
        let proxy = to(addr)
            .upstream(|upstream| {
                upstream.tls = tls.map(|authority| TlsSettings {
                    ca: Some(authority.ca()),
                    ..TlsSettings::default()
                });
            })
            .start();
        thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| {
                    let mut client = Client::connect(proxy.addr());
                    for _ in 0..20 {
                        let response = client.get("/");
                        assert_eq!((response.status, &*response.text()), (200, "HTTP/2.0"));
                    }
                });
            }
        });
        assert_eq!(nginx.connections_accepted() - before, 1);
        let counts = proxy.figures().counts;
        assert_eq!((counts.opened, counts.reused), (1, 639));
    }
}

#[test]
fn the_backend_chooses_the_protocol_within_tls() {
    let authority = Authority::new();
    let tell = "location / { return 200 $server_protocol; }";
    for (listen, protocol, said) in [
        ("ssl http2", Protocol::Either, "HTTP/2.0"),
        ("ssl", Protocol::Either, "HTTP/1.1"),
        ("ssl http2", Protocol::Http1, "HTTP/1.1"),
        ("ssl", Protocol::Http2, "502"),
    ] {
        let addr = local(free_port());
        let pair = authority.certify("127.0.0.1").for_nginx();
        let _nginx = Nginx::start(&format!("listen {addr} {listen}; {pair} {tell}"));
        let proxy = TestProxy::to(addr)
            .upstream(|upstream| {
                upstream.protocol = protocol;
                upstream.tls = Some(TlsSettings {
                    ca: Some(authority.ca()),
                    ..TlsSettings::default()
                });
            })
            .start();
        let response = Client::connect(proxy.addr()).get("/");
        if said == "502" {
            assert_eq!(response.status, 502);
            assert!(response.text().contains("could not be spoken to"));
        } else {
            assert_eq!(response.text(), said, "{listen} {protocol:?}");
        }
    }
}

#[test]
fn a_backend_that_does_not_speak_it_is_found_out_when_the_connection_opens() {
    let (_nginx, plain) = {
        let nginx = Nginx::start("location / { return 200 ok; }");
        let addr = nginx.addr;
        (nginx, addr)
    };
    let proxy = to(plain).start();
    let response = Client::connect(proxy.addr()).get("/");
    assert_eq!(response.status, 502);
    assert!(
        response.text().contains("could not be spoken to"),
        "{}",
        response.text()
    );
}

#[test]
fn bodies_pass_whole_both_ways() {
    let (nginx, addr) = nginx(None, UPLOADS);
    let proxy = to(addr).client(|client| client.limits.body = None).start();
    let mut client = Client::connect(proxy.addr());
    assert_bodies_pass(&mut client, &nginx);
    // In chunks, whose length nobody knows beforehand.
    client.send(
        "PUT /uploads/g HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().status, 201);
    let stored = std::fs::read(nginx.files().join("uploads/g")).unwrap();
    assert_eq!(stored, b"abcde");
}

#[test]
fn a_head_is_rewritten_for_http2() {
    let tell = "location / { return 200 '$host|$request_uri|$http_connection|$http_te|\
                $http_x_forwarded_for|$http_cookie'; }";
    let (_nginx, addr) = nginx(None, tell);
    let proxy = to(addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(
        "GET /a/b?c=d HTTP/1.1\r\nHost: shop.example\r\nConnection: keep-alive, X-Hop\r\n\
         X-Hop: 1\r\nTE: trailers\r\nCookie: a=1; b=2\r\n\r\n",
    );
    let response = client.response();
    assert_eq!(
        response.text(),
        "shop.example|/a/b?c=d||trailers|127.0.0.1|a=1; b=2"
    );
    assert_eq!(response.header("Server").map(|_| ()), Some(()));
    assert!(
        response.head.contains("\r\nContent-Length:"),
        "{}",
        response.head
    );
}

#[test]
fn no_more_requests_at_once_than_the_backend_or_the_setting_allows() {
    for (theirs, ours, connections) in [(Some(4), 100, 4), (None, 8, 2), (Some(8), 4, 4)] {
        let backend = Http2::start(theirs, |_| held());
        let proxy = to(backend.addr)
            .upstream(|upstream| upstream.max_streams = NonZeroU32::new(ours).unwrap())
            .start();
        let mut clients: Vec<_> = (0..16).map(|_| Client::connect(proxy.addr())).collect();
        for client in &mut clients {
            client.send(get("/"));
        }
        wait_until(PATIENCE, "all to be there", || backend.at_once() == 16);
        assert_eq!(backend.connections(), connections, "{theirs:?} {ours}");
        backend.open();
        for client in &mut clients {
            assert_eq!(client.response().status, 200);
        }
    }
}

#[test]
fn a_connection_is_retired_after_its_requests_and_its_age() {
    let backend = numbered();
    let proxy = to(backend.addr)
        .upstream(|upstream| {
            upstream.pool.keep_alive.max_requests = NonZeroU32::new(2);
        })
        .start();
    let mut client = Client::connect(proxy.addr());
    let seen: Vec<_> = (0..7).map(|_| client.get("/").text()).collect();
    assert_eq!(seen, ["1", "1", "1", "2", "2", "2", "3"]);
    proxy.wait_closed_for(CloseReason::RequestLimit, 2);
}

#[test]
fn an_idle_connection_is_closed_after_its_time() {
    let backend = numbered();
    let proxy = to(backend.addr)
        .upstream(|upstream| upstream.pool.keep_alive.timeout = Duration::from_millis(50))
        .start();
    let mut client = Client::connect(proxy.addr());
    for n in 1..=3 {
        assert_eq!(client.get("/").text(), n.to_string());
        proxy.wait_closed_for(CloseReason::IdleTimeout, n);
    }
    let ledger = || proxy.figures().ended_for(CloseReason::IdleTimeout);
    wait_until(PATIENCE, "the ledger", || ledger().connections == 3);
    assert_eq!(ledger().exchanges, 3);
    assert!(ledger().idle >= Duration::from_millis(150));
    assert!(ledger().age >= ledger().idle);
}

#[test]
fn in_short_mode_each_request_has_a_connection_of_its_own() {
    let backend = numbered();
    let proxy = to(backend.addr).short().start();
    let mut client = Client::connect(proxy.addr());
    for n in 1..=10 {
        assert_eq!(client.get("/").text(), n.to_string());
    }
}

#[test]
fn a_refused_stream_is_sent_again_whatever_its_method() {
    let backend = Http2::start(None, |taken| {
        if taken.connection == 1 && taken.before == 1 {
            Answer::Refuse
        } else {
            text(taken.connection.to_string())
        }
    });
    let proxy = to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    assert_eq!(client.get("/").status, 200);
    client.send(post("/order", ""));
    assert_eq!(client.response().status, 200);
    assert_eq!(proxy.figures().sent_again, [0, 0, 1]);
    let orders = backend.taken();
    assert_eq!(
        orders
            .iter()
            .filter(|(_, line)| line == "POST /order")
            .count(),
        2
    );
}

#[test]
fn a_request_beyond_the_last_that_a_goodbye_names_is_sent_again_whatever_its_method() {
    let backend = Backend::start(|conn| {
        let mut stream = conn.stream();
        let first = conn.number == 1;
        if !frames::begin(&mut stream) {
            return;
        }
        while let Some(id) = frames::wait_for(&mut stream, frames::HEADERS) {
            if first && id > 1 {
                frames::goodbye(&mut stream, 1);
                // Its FIN, or what else it has to say.
                while frames::wait_for(&mut stream, frames::GOAWAY).is_some() {}
                return;
            }
            frames::ok(&mut stream, id);
        }
    });
    let proxy = to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    assert_eq!(client.get("/").status, 200);
    client.send(post("/order", ""));
    assert_eq!(client.response().status, 200);
    assert_eq!(proxy.figures().sent_again, [0, 0, 1]);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(proxy.figures().counts.opened, 2);
    assert_eq!(proxy.figures().races_lost, 0);
}

#[test]
fn a_goodbye_on_an_idle_connection_ends_it_before_the_next_request() {
    let backend = Backend::start(|conn| {
        let mut stream = conn.stream();
        if !frames::begin(&mut stream) {
            return;
        }
        if let Some(id) = frames::wait_for(&mut stream, frames::HEADERS) {
            frames::ok(&mut stream, id);
            frames::goodbye(&mut stream, id);
            while frames::wait_for(&mut stream, frames::GOAWAY).is_some() {}
        }
    });
    let proxy = to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    for n in 1..=5 {
        client.send(post("/", ""));
        assert_eq!(client.response().status, 200);
        // It comes with the response, or after it.
        wait_until(PATIENCE, "the connection's end", || {
            let figures = proxy.figures();
            let ended = figures.closed_for(CloseReason::PeerClosedIdle);
            ended + figures.closed_for(CloseReason::PeerAsked) == n
        });
    }
    assert_eq!(proxy.figures().sent_again, [0, 0, 0]);
}

#[test]
fn a_backend_that_vanishes_takes_its_requests_along_but_those_that_may_be_done_twice() {
    for (request, status) in [(get("/"), 200), (post("/", "x"), 502)] {
        let backend = Http2::start(None, |taken| {
            if taken.connection == 1 && taken.before == 1 {
                Answer::Vanish
            } else {
                text("ok")
            }
        });
        let proxy = to(backend.addr).start();
        let mut client = Client::connect(proxy.addr());
        assert_eq!(client.get("/").status, 200);
        client.send(&request);
        assert_eq!(client.response().status, status, "{request}");
    }
}

#[test]
fn a_client_that_goes_away_ends_its_stream_and_not_the_connection() {
    let backend = Http2::start(None, |taken| match taken.request.uri().path() {
        "/slow" => held(),
        _ => text(taken.connection.to_string()),
    });
    let proxy = to(backend.addr).start();
    let mut other = Client::connect(proxy.addr());
    assert_eq!(other.get("/").text(), "1");
    let mut gone = Client::connect(proxy.addr());
    gone.send(get("/slow"));
    wait_until(PATIENCE, "the slow one", || backend.at_once() == 1);
    gone.reset();
    wait_until(PATIENCE, "the lease's end", || {
        proxy.figures().counts.leased == 0
    });
    assert_eq!(other.get("/").text(), "1");
    assert_eq!(proxy.figures().counts.opened, 1);
}

#[test]
fn each_of_several_workers_has_a_connection_and_no_more() {
    let backend = numbered();
    let proxy = to(backend.addr).workers(4).start();
    for _ in 0..200 {
        assert_eq!(Client::connect(proxy.addr()).get("/").status, 200);
    }
    assert!(backend.connections() <= 4, "{}", backend.connections());
}

/// A body that was read from the client and did not reach anybody who acted on it.
#[test]
fn a_refused_request_is_sent_again_with_its_body() {
    let backend = Http2::start(None, |taken| {
        if taken.connection == 1 && taken.before == 1 {
            Answer::Refuse
        } else {
            Answer::Echo
        }
    });
    let proxy = to(backend.addr).start();
    let mut client = Client::connect(proxy.addr());
    client.send(post("/first", "x"));
    assert_eq!(client.response().text(), "x");
    client.send(post("/order", "two of them"));
    assert_eq!(client.response().text(), "two of them");
    assert_eq!(proxy.figures().sent_again, [0, 0, 1]);
}

/// Two upstreams at one address: another name asked for, another protocol, is another connection.
#[test]
fn what_differs_in_name_or_protocol_never_shares_a_connection() {
    let authority = Authority::new();
    let addr = local(free_port());
    let pair = authority.certify("127.0.0.1").for_nginx();
    let nginx = Nginx::start(&format!(
        "listen {addr} ssl http2; {pair} keepalive_requests 1000000; \
         location / {{ return 200 '$ssl_server_name|$server_protocol|$connection'; }}"
    ));
    let before = nginx.connections_accepted();
    let proxy = TestProxy::to(addr)
        .settings(|settings| {
            let base = settings.upstreams.remove(0);
            settings.routes.clear();
            for (path, name, protocol) in [
                ("/a", "a.example", Protocol::Http1),
                ("/b", "b.example", Protocol::Http1),
                ("/c", "a.example", Protocol::Http2),
            ] {
                settings.routes.push(RouteSettings::to(path, path).into());
                let mut upstream = base.clone();
                path.clone_into(&mut upstream.name);
                upstream.protocol = protocol;
                upstream.tls = Some(TlsSettings {
                    name: Some(name.to_owned()),
                    verify: false,
                    ..TlsSettings::default()
                });
                settings.upstreams.push(upstream);
            }
        })
        .start();
    let mut client = Client::connect(proxy.addr());
    let mut connections = BTreeSet::new();
    for _ in 0..10 {
        for (path, said) in [
            ("/a", "a.example|HTTP/1.1"),
            ("/b", "b.example|HTTP/1.1"),
            ("/c", "a.example|HTTP/2.0"),
        ] {
            let text = client.get(path).text();
            let (tells, connection) = text.rsplit_once('|').unwrap();
            assert_eq!(tells, said);
            connections.insert((said, connection.to_owned()));
        }
    }
    assert_eq!(connections.len(), 3, "{connections:?}");
    assert_eq!(nginx.connections_accepted() - before, 3);
}

#[test]
fn apache_httpd_and_node_are_spoken_to_in_http2_by_prior_knowledge() {
    let httpd = Httpd::start(&(httpd::load("http2") + "Protocols h2c http/1.1\n"));
    httpd.file("page", "from httpd");
    let node = Node::http2();
    for (addr, said) in [(httpd.addr, "from httpd"), (node.addr, "from node")] {
        let proxy = to(addr).start();
        let mut clients: Vec<_> = (0..10).map(|_| Client::connect(proxy.addr())).collect();
        for _ in 0..10 {
            for client in &mut clients {
                client.send(get("/page"));
            }
            for client in &mut clients {
                let response = client.response();
                assert_eq!((response.status, &*response.text()), (200, said));
            }
        }
        assert_eq!(proxy.figures().counts.opened, 1, "{said}");
    }
}
