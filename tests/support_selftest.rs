//! The helpers of the integration tests, each tried once without the proxy: a test is worth as much
//! as what it looks with.

mod support;

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::time::Duration;

use support::client::{self, Client, Ended};
use support::httpd::{self, Httpd};
use support::nginx::{self, Nginx};
use support::scripted::{Backend, Gate, PeerEnd, Refusing, Unanswering};
use support::wire::Stop;
use support::{PATIENCE, curl, wait_until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn nginx_counts_the_connections_and_requests_of_others_only() {
    let nginx = Nginx::start("location = /hello { return 200 hello; }");
    assert_eq!(
        (nginx.connections_accepted(), nginx.requests_served()),
        (0, 0)
    );

    let mut kept = Client::connect(nginx.addr);
    for _ in 0..3 {
        let response = kept.get("/hello");
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        assert_eq!(response.ended, Ended::KeptOpen);
    }
    let mut other = Client::connect(nginx.addr);
    other.send("GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(other.response().ended, Ended::Fin);
    let _unused = Client::connect(nginx.addr);

    assert_eq!(nginx.requests_served(), 4);
    assert_eq!(nginx.connections_used(), 2);
    wait_until(PATIENCE, "nginx to accept the third connection", || {
        nginx.connections_accepted() == 3
    });
    let log = nginx.log();
    assert_eq!(log[2].connection_requests, 3);
    assert_eq!(log[2].remote_port, kept.addr().port());
    assert_eq!(log[3].request, "GET /hello HTTP/1.1");
}

#[test]
fn nginx_serves_large_files_and_keeps_its_limits() {
    let nginx = Nginx::start("keepalive_requests 2; client_max_body_size 10;");
    nginx.sparse_file("big", 1 << 30);
    nginx.file("small", "12345");

    let mut client = Client::connect(nginx.addr);
    client.discard_bodies();
    let response = client.get("/big");
    assert_eq!((response.length, response.complete), (1 << 30, true));
    let response = client.get("/small");
    assert_eq!((response.length, response.ended), (5, Ended::Fin));

    let mut client = Client::connect(nginx.addr);
    client.send("POST /small HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n12345678901");
    assert_eq!(client.response().status, 413);
}

#[test]
fn nginx_takes_uploads() {
    if !Nginx::has_module("http_dav_module") {
        eprintln!("left out: this nginx is built without http_dav_module");
        return;
    }
    let nginx = Nginx::start(nginx::UPLOADS);
    let body = "x".repeat(3 << 20);
    let mut client = Client::connect(nginx.addr);
    client.send(format!(
        "PUT /uploads/a HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    assert_eq!(client.response().status, 201);
    assert_eq!(
        std::fs::read(nginx.files().join("uploads/a")).unwrap(),
        body.as_bytes()
    );
}

#[test]
fn nginx_comes_back_on_the_same_port() {
    let mut nginx = Nginx::start("location / { return 200 hello; }");
    let mut client = Client::connect(nginx.addr);
    client.get("/");
    nginx.stop();
    assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    assert!(Client::try_connect(nginx.addr).is_none());
    nginx.restart();
    assert_eq!(client::get(nginx.addr, "/").text(), "hello");
    assert_eq!(nginx.connections_accepted(), 1);
    assert_eq!(nginx.requests_served(), 2);
}

#[test]
#[should_panic(expected = "unknown directive \"no_such_setting\"")]
fn nginx_says_what_it_does_not_take() {
    Nginx::start("no_such_setting on;");
}

#[test]
#[should_panic(
    expected = "this test needs no-such-server, which is not installed: `apt-get install its-package`"
)]
fn a_missing_program_fails_the_test_and_names_its_package() {
    support::process::find(&["no-such-server"], "its-package");
}

#[test]
fn httpd_keeps_a_connection_for_one_request_more_than_its_limit() {
    let httpd =
        Httpd::start("MaxKeepAliveRequests 2\nKeepAliveTimeout 30\nHeader set X-Backend httpd");
    httpd.file("hello", "hello");

    let mut client = Client::connect(httpd.addr);
    for last in [false, false, true] {
        let response = client.get("/hello");
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        assert_eq!(response.header("x-backend"), Some("httpd"));
        assert_eq!(
            response.ended,
            if last { Ended::Fin } else { Ended::KeptOpen }
        );
    }
    client::get(httpd.addr, "/hello");

    let log = httpd.log_of(4);
    assert_eq!(
        log.iter().map(|line| line.kept).collect::<Vec<_>>(),
        [0, 1, 2, 0]
    );
    assert_eq!(
        log.iter().map(|line| line.connection).collect::<String>(),
        "+--+"
    );
    assert_eq!(httpd::connections_used(&log), 2);
    assert_eq!(log[0].remote_port, log[2].remote_port);
}

#[test]
fn httpd_comes_back_on_the_same_port() {
    let mut httpd = Httpd::start("KeepAlive Off");
    httpd.file("hello", "hello");
    assert_eq!(client::get(httpd.addr, "/hello").ended, Ended::Fin);
    httpd.stop();
    assert!(Client::try_connect(httpd.addr).is_none());
    httpd.restart();
    assert_eq!(client::get(httpd.addr, "/hello").text(), "hello");
    assert_eq!(httpd.log_of(2).len(), 2);
}

#[test]
fn curl_is_a_real_client() {
    let nginx = Nginx::start("location / { return 200 hello; }");
    let url = format!("http://{}/", nginx.addr);
    let output = curl([
        "--output",
        "-",
        "--write-out",
        " %{http_code} %{num_connects}",
        &url,
        &url,
    ]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "hello 200 1hello 200 0"
    );
}

#[test]
fn a_request_is_recorded_byte_for_byte() {
    let backend = Backend::answering(OK);
    let mut client = Client::connect(backend.addr);
    client
        .send(b"POST /a HTTP/1.1\r\nhOsT:  a \r\nX-B: \xff1\r\ntransfer-encoding: chunked\r\n\r\n");
    client.send("3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n");
    assert_eq!(client.response().text(), "ok");
    client.send("PUT /b HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n1234");
    assert_eq!(client.response().text(), "ok");
    drop(client);
    assert_eq!(backend.end_of(1), PeerEnd::Fin);

    assert_eq!(backend.connections(), 1);
    let requests = backend.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].line(), "POST /a HTTP/1.1");
    assert_eq!(requests[0].names(), ["hOsT", "X-B", "transfer-encoding"]);
    assert!(requests[0].head.contains("\r\nhOsT:  a \r\n"));
    assert_eq!(requests[0].header("Host"), Some("a"));
    assert_eq!(requests[0].body, b"abcde");
    assert_eq!(requests[0].chunks, [3, 2]);
    assert_eq!(requests[0].trailers, "T: 1\r\n");
    assert_eq!(
        (requests[1].connection, requests[1].body.as_slice()),
        (1, b"1234".as_slice())
    );
    assert!(requests.iter().all(|request| request.complete));
}

#[test]
fn connections_are_told_apart_by_their_answers() {
    let backend = Backend::numbered();
    let mut first = Client::connect(backend.addr);
    assert_eq!(first.get("/").text(), "1");
    assert_eq!(client::get(backend.addr, "/").text(), "2");
    assert_eq!(first.get("/").text(), "1");
}

#[test]
fn a_backend_closes_in_every_way() {
    // Each connection does another thing; the request's body is left unread each time.
    let backend = Backend::start(|mut conn| {
        conn.head();
        match conn.number {
            1 => conn.fin(),
            2 => conn.reset(),
            3 => {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
                conn.fin();
            }
            4 => {
                conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
                conn.fin();
            }
            5 => {
                conn.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
                conn.half_close();
                assert_eq!(conn.wait_for_end(), Some(PeerEnd::Reset));
            }
            _ => {
                conn.send("\0\0 garbage \r\n\r\n");
                conn.wait_for_end();
            }
        }
    });
    let ask = || {
        let mut client = Client::connect(backend.addr);
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        client
    };
    let mut one = ask();
    assert_eq!(one.try_response().unwrap_err(), Stop::Fin);
    assert_eq!(ask().try_response().unwrap_err(), Stop::Reset);
    let three = ask().response();
    assert_eq!(
        (three.text().as_str(), three.complete, three.ended),
        ("half", false, Ended::Fin)
    );
    let four = ask().response();
    assert_eq!(
        (four.text().as_str(), four.complete, four.chunks),
        ("half", false, vec![4])
    );
    let mut five = ask();
    let response = five.response();
    assert_eq!(
        (response.text().as_str(), response.complete),
        ("until the end", true)
    );
    five.reset();
    assert_eq!(backend.end_of(5), PeerEnd::Reset);
    assert!(matches!(ask().try_response(), Err(Stop::Garbage(_))));
    assert_eq!(backend.connections(), 6);
    assert!(backend.requests().iter().all(|request| !request.complete));
}

#[test]
fn a_backend_answers_before_it_reads_and_waits_at_a_gate() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            conn.send(
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nea",
            );
            conn.pause(&gate);
            conn.send("rl");
            assert!(conn.request().is_none());
        }
    });
    let mut client = Client::connect(backend.addr);
    assert_eq!(client.response().status, 100);
    gate.wait_reached(1);
    gate.open();
    let response = client.response();
    assert_eq!(
        (response.text().as_str(), response.ended),
        ("earl", Ended::KeptOpen)
    );
    assert_eq!(
        client.end_within(Duration::from_millis(20)),
        Ended::KeptOpen
    );
    client.half_close();
    assert_eq!(backend.end_of(1), PeerEnd::Fin);
}

#[test]
fn a_backend_that_never_answers_can_be_dropped() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            conn.request();
            if conn.number == 1 {
                conn.pause(&gate);
            } else {
                conn.wait_for_end();
            }
        }
    });
    let mut clients = [Client::connect(backend.addr), Client::connect(backend.addr)];
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    wait_until(PATIENCE, "both requests", || backend.requests().len() == 2);
    drop(backend);
    for client in &mut clients {
        assert_eq!(client.try_response().unwrap_err(), Stop::Fin);
    }
}

#[test]
#[should_panic(expected = "the script fails")]
fn a_script_that_panics_fails_the_test() {
    let backend = Backend::start(|_| panic!("the script fails"));
    let mut stream = TcpStream::connect(backend.addr).unwrap();
    let _ = stream.read(&mut [0]);
}

#[test]
fn connecting_can_be_refused_or_left_without_an_answer() {
    let refusing = Refusing::start();
    let error = TcpStream::connect(refusing.addr).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);

    let unanswering = Unanswering::start();
    let error =
        TcpStream::connect_timeout(&unanswering.addr, Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn a_response_to_head_has_no_body() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n");
    let mut client = Client::connect(backend.addr);
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let response = client.response_to_head();
    assert_eq!((response.length, response.complete), (0, true));
    assert_eq!(response.header("content-length"), Some("2"));
}

#[tokio::test]
async fn waiting_lets_other_tasks_go_on() {
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    let waiting = support::until(PATIENCE, "the other task", || receiver.try_recv().is_ok());
    tokio::join!(waiting, async {
        tokio::task::yield_now().await;
        sender.send(()).unwrap();
    });
}
