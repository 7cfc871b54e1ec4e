//! What is waited for, from when on, for how long, and what is said when it is over.

use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::{GET, LATE, NEVER, Proxy, ask, kept, ms, said};
use crate::support::PATIENCE;
use crate::support::client::{Client, Ended};
use crate::support::scripted::{Backend, Gate};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// More than the kernel's buffers between the proxy and a client that does not read.
const LARGE: usize = 64 << 20;

/// A timeout that is not to end what moves in steps, which takes longer than it altogether. A step
/// may be late by more than two seconds.
const LONG: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(500);
const STEPS: usize = 7;

/// A proxy with these two times towards clients.
fn proxy(backend: &Backend, keep_alive_timeout: Duration, timeout: Duration) -> Proxy {
    Proxy::start(backend.addr, |settings| {
        settings.client.keep_alive = kept(keep_alive_timeout, 0);
        settings.client.timeout = timeout;
    })
}

/// A proxy whose backend has this long to move.
fn impatient(backend: &Backend, timeout: Duration) -> Proxy {
    Proxy::start(backend.addr, |settings| {
        settings.upstreams[0].timeout = timeout;
    })
}

/// The connection ends with FIN, and nothing comes before it: not before `due` after `from`, and
/// not much later.
#[track_caller]
fn assert_silent_fin(client: &mut Client, from: Instant, due: Duration) {
    assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    assert_in_time(from, due);
}

#[track_caller]
fn assert_in_time(from: Instant, due: Duration) {
    let took = from.elapsed();
    assert!(took >= due, "{took:?} is before {due:?}");
    assert!(took < due + LATE, "{took:?} is long after {due:?}");
}

#[test]
fn an_idle_connection_is_closed_in_silence_after_keep_alive_timeout() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, ms(2000), NEVER);
    let mut client = proxy.client();
    assert_eq!(ask(&mut client, GET).status, 200);
    let from = Instant::now();
    assert_eq!(ask(&mut client, GET).status, 200);
    assert_silent_fin(&mut client, from, ms(2000));
}

#[test]
fn a_connection_used_again_and_again_outlives_keep_alive_timeout() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, LONG, NEVER);
    let mut client = proxy.client();
    for _ in 0..STEPS {
        assert_eq!(ask(&mut client, GET).status, 200);
        thread::sleep(STEP);
    }
    assert_eq!(ask(&mut client, GET).status, 200);
}

#[test]
fn keep_alive_timeout_counts_from_the_end_of_the_response() {
    let gate = Gate::new();
    let backend = Backend::start({
        let gate = gate.clone();
        move |mut conn| {
            while conn.request().is_some() {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no");
                conn.pause(&gate);
                conn.send("k");
            }
        }
    });
    let proxy = proxy(&backend, ms(600), NEVER);
    let mut client = proxy.client();
    client.send(GET);
    gate.wait_reached(1);
    thread::sleep(ms(700)); // more than keep_alive_timeout since the request
    let from = Instant::now();
    gate.open();
    let response = client.response();
    assert!(response.complete);
    assert_silent_fin(&mut client, from, ms(600));
}

#[test]
fn a_response_that_is_read_late_has_the_whole_keep_alive_timeout_after_it() {
    let backend = large();
    let proxy = proxy(&backend, ms(600), NEVER);
    let mut client = proxy.client();
    client.discard_bodies();
    client.send(GET);
    backend.wait_for_request();
    thread::sleep(ms(700)); // more than keep_alive_timeout since the request
    let from = Instant::now();
    let response = client.response();
    assert!(response.complete);
    // What was read has passed by since; only the last of it counts.
    let read = from.elapsed();
    assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    let took = from.elapsed();
    assert!(took >= ms(600), "{took:?}");
    assert!(
        took < read + ms(600) + LATE,
        "{took:?}, of which {read:?} reading"
    );
}

#[test]
fn the_first_byte_of_a_request_ends_the_idle_time_and_half_a_line_has_timeout_then_silence() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, ms(2000), ms(3000));
    let mut clients = ["G", "GET / HTTP/1.1", "\r\n"].map(|piece| {
        let mut client = proxy.client();
        assert_eq!(ask(&mut client, GET).status, 200);
        let from = Instant::now();
        client.send(piece);
        (client, from)
    });
    for (client, from) in &mut clients {
        assert_silent_fin(client, *from, ms(3000));
    }
}

#[test]
fn half_a_head_is_answered_408_after_timeout() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, ms(2000), ms(3000));
    let mut clients = [None, Some(GET)].map(|first| {
        let mut client = proxy.client();
        if let Some(request) = first {
            assert_eq!(ask(&mut client, request).status, 200);
        }
        let from = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: test.exa");
        (client, from)
    });
    for (client, from) in &mut clients {
        let response = client.response();
        assert_in_time(*from, ms(3000));
        assert_eq!(response.status, 408);
        assert_eq!(said(&response).0, "close");
        assert_eq!(response.ended, Ended::Fin);
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_not_cut_as_long_as_it_comes() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, ms(300), LONG);
    let mut client = proxy.client();
    let (start, end) = GET.split_at(GET.len() - STEPS);
    client.send(start);
    for byte in end.bytes() {
        thread::sleep(STEP);
        client.send([byte]);
    }
    assert_eq!(client.response().status, 200);
}

#[test]
fn nothing_on_a_new_connection_is_met_with_silence_after_timeout() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, ms(300), ms(900));
    let from = Instant::now();
    assert_silent_fin(&mut proxy.client(), from, ms(900));
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_request_body_that_stalls_is_answered_408() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, ms(300), ms(900));
    for framing in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let mut client = proxy.client();
        let from = Instant::now();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test.example\r\n{framing}\r\n\r\n2\r\nok\r\n"
        ));
        let response = client.response();
        assert_in_time(from, ms(900));
        assert_eq!(response.status, 408, "{framing}");
        assert_eq!(said(&response).0, "close");
        assert_eq!(response.ended, Ended::Fin);
    }
    assert_eq!(backend.requests().iter().filter(|r| r.complete).count(), 0);
}

#[test]
fn a_request_body_that_comes_slowly_is_not_cut_as_long_as_it_comes() {
    let backend = Backend::numbered();
    let proxy = proxy(&backend, ms(300), LONG);
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: {STEPS}\r\n\r\n"
    ));
    for _ in 0..STEPS {
        thread::sleep(STEP);
        client.send("x");
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(backend.requests()[0].body, [b'x'; STEPS]);
}

#[test]
fn a_body_that_stalls_behind_an_early_response_does_not_stay_for_ever() {
    let backend = Backend::start(|mut conn| {
        if conn.head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nearly");
            conn.wait_for_end();
        }
    });
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.timeout = ms(1500);
        settings.upstreams[0].timeout = ms(1500);
    });
    let mut client = proxy.client();
    let from = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: 10\r\n\r\nabc");
    let response = client.response();
    assert_eq!((response.status, response.complete), (200, false));
    // Two waits, one after the other: for the client's body, then for the backend's.
    let took = from.elapsed();
    assert!(took >= ms(1500), "{took:?}");
    assert!(took < ms(1500) * 2 + LATE, "{took:?}");
    backend.end_of(1);
}

#[test]
fn a_client_that_takes_nothing_of_its_response_is_cut_off_and_the_backend_with_it() {
    let backend = large();
    let proxy = proxy(&backend, NEVER, ms(900));
    let mut client = proxy.client();
    client.discard_bodies();
    let from = Instant::now();
    client.send(GET);
    backend.end_of(1);
    let took = from.elapsed();
    assert!(took >= ms(900), "{took:?}");
    // The buffers have to fill first.
    assert!(took < ms(900) + LATE, "{took:?}");
    let response = client.response();
    assert!(!response.complete);
    assert_eq!(response.ended, Ended::Reset);
}

#[test]
fn a_client_that_reads_slowly_is_not_cut_as_long_as_it_reads() {
    let backend = large();
    let proxy = proxy(&backend, NEVER, LONG);
    let mut client = SlowClient::connect(&proxy);
    for _ in 0..STEPS {
        client.read_exactly(4 << 20);
        thread::sleep(STEP);
    }
    client.read_exactly(4 << 20);
}

#[test]
fn a_backend_that_does_not_answer_gives_504_and_the_client_goes_on() {
    let backend = Backend::start(|mut conn| {
        if conn.number == 1 {
            conn.request();
            conn.wait_for_end();
        } else {
            conn.serve(|_| OK.into());
        }
    });
    let proxy = impatient(&backend, ms(2000));
    let mut client = proxy.client();
    let from = Instant::now();
    let response = ask(&mut client, GET);
    assert_in_time(from, ms(2000));
    assert_eq!(response.status, 504);
    assert_eq!(
        (said(&response).0.as_str(), response.ended),
        ("", Ended::KeptOpen)
    );
    assert_eq!(ask(&mut client, GET).status, 200, "the same connection");
    backend.end_of(1);
}

#[test]
fn a_backend_that_takes_no_more_of_a_request_gives_504() {
    let backend = Backend::start(|mut conn| {
        conn.head();
        conn.pause(&Gate::new());
    });
    let proxy = impatient(&backend, ms(900));
    let mut client = proxy.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: {LARGE}\r\n\r\n"
    ));
    let sender = thread::spawn(move || {
        // Not all of it is taken: the answer comes before.
        let _ = client.try_send(vec![b'x'; LARGE]);
        client.response()
    });
    let response = sender.join().unwrap();
    assert_eq!(response.status, 504);
    assert_eq!(
        (said(&response).0.as_str(), response.ended),
        ("close", Ended::Fin)
    );
}

#[test]
fn a_response_that_stalls_is_broken_off_and_does_not_look_whole() {
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\n";
    let cases = [
        (GET, "Content-Length: 10\r\n\r\n", Ended::Fin),
        (GET, chunked, Ended::Fin),
        // This one's end is the connection's end, so only a reset can say that it broke off.
        ("GET / HTTP/1.0\r\n\r\n", chunked, Ended::Reset),
    ];
    thread::scope(|scope| {
        for (request, head, ended) in cases {
            scope.spawn(move || stalls(request, head, ended));
        }
    });
}

fn stalls(request: &str, head: &'static str, ended: Ended) {
    let backend = Backend::start(move |mut conn| {
        if conn.request().is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\n{head}begun"));
            conn.wait_for_end();
        }
    });
    let proxy = impatient(&backend, ms(2000));
    let mut client = proxy.client();
    let from = Instant::now();
    let response = ask(&mut client, request);
    assert_in_time(from, ms(2000));
    assert_eq!((response.status, response.complete), (200, false), "{head}");
    assert_eq!(response.ended, ended, "{head}");
    backend.end_of(1);
}

#[test]
fn a_slow_backend_is_not_cut_as_long_as_it_moves() {
    let backend = Backend::start(|mut conn| {
        while conn.request().is_some() {
            thread::sleep(STEP);
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {STEPS}\r\n\r\n"
            ));
            for _ in 0..STEPS {
                thread::sleep(STEP);
                conn.send("x");
            }
        }
    });
    let proxy = impatient(&backend, LONG);
    let response = ask(&mut proxy.client(), GET);
    assert_eq!(
        (response.complete, response.text()),
        (true, "x".repeat(STEPS))
    );
}

#[test]
fn who_still_sends_when_refused_gets_the_answer_and_no_reset() {
    let backend = Backend::numbered();
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.client.limits.body = Some(1000);
    });
    let megabytes = 2 << 20;
    for framing in [
        format!("Content-Length: {megabytes}\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n{megabytes:x}\r\n"),
    ] {
        let mut client = proxy.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: test.example\r\n{framing}"
        ));
        for _ in 0..megabytes >> 14 {
            client.send(vec![b'x'; 1 << 14]);
        }
        let response = client.response();
        assert_eq!(response.status, 413, "{framing}");
        assert_eq!(
            (said(&response).0.as_str(), response.ended),
            ("close", Ended::Fin)
        );
        assert!(response.complete);
    }
}

/// Answers the first request with a body larger than what the kernel holds, and notes how the proxy
/// ended the connection.
fn large() -> Backend {
    Backend::start(|mut conn| {
        let piece = vec![b'x'; 1 << 20];
        while conn.request().is_some() {
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
            ));
            if !(0..LARGE >> 20).all(|_| conn.send(&piece)) {
                conn.wait_for_end();
                return;
            }
        }
    })
}

impl Backend {
    fn wait_for_request(&self) {
        crate::support::wait_until(PATIENCE, "a request", || !self.requests().is_empty());
    }
}

/// A client that has asked, and reads what it wants of the answer when it wants.
struct SlowClient(std::net::TcpStream);

impl SlowClient {
    fn connect(proxy: &Proxy) -> SlowClient {
        use std::io::Write as _;
        let mut stream = std::net::TcpStream::connect(proxy.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(GET.as_bytes()).unwrap();
        SlowClient(stream)
    }

    fn read_exactly(&mut self, count: usize) {
        use std::io::Read as _;
        self.0.read_exact(&mut vec![0; count]).unwrap();
    }
}
