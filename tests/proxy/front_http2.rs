//! HTTP/2 with clients: what arrives at an HTTP/1.1 backend and comes back, the limits, and how a connection
//! ends.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use warmline::account::Flood;
use warmline::keepalive::CloseReason;

use super::answer;
use crate::support::nginx::Nginx;
use crate::support::proxy::TestProxy;
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, free_port, local, wait_until};

/// What these arguments make curl say, over HTTP/2 from the first byte.
fn curl(url: &str, arguments: &[&str]) -> String {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "30", "--http2-prior-knowledge"])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl is installed");
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn a_request_arrives_as_http_1_1_has_it_and_its_answer_comes_back() {
    let backend = Backend::start(|mut conn| {
        conn.serve(|request| {
            let body = format!("{}{}", request.head, String::from_utf8_lossy(&request.body));
            let mut whole = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: X-Own\r\nX-Own: a\r\nKeep-Alive: timeout=9\r\nX-Kept: b\r\n\r\n",
                body.len()
            );
            whole.push_str(&body);
            whole.into_bytes()
        });
    });
    let proxy = TestProxy::to(backend.addr).start();
    let url = format!("http://{}/a?b", proxy.addr());
    let told = curl(
        &url,
        &[
            "-i",
            "-H",
            "Cookie: a=1",
            "-H",
            "Cookie: b=2",
            "-H",
            "TE: trailers",
            "-d",
            "the body",
        ],
    );
    let (head, rest) = told.split_once("\r\n\r\n").expect(&told);
    assert!(head.starts_with("HTTP/2 200"), "{told}");
    assert!(head.contains("x-kept: b"), "{told}");
    for gone in ["x-own", "keep-alive", "connection"] {
        assert!(!head.contains(gone), "{gone}: {told}");
    }
    let lines: Vec<_> = rest.lines().collect();
    assert_eq!(lines[0], "POST /a?b HTTP/1.1");
    let host = format!("Host: {}", proxy.addr());
    for line in [
        host.as_str(),
        "Cookie: a=1; b=2",
        "Te: trailers",
        "Content-Length: 8",
    ] {
        let is_there = lines.iter().any(|one| one.eq_ignore_ascii_case(line));
        assert!(is_there, "{line}: {told}");
    }
    assert!(rest.ends_with("the body"), "{told}");
    // The same backend connection for the next client: pools do not ask what it speaks.
    curl(&url, &[]);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn many_at_once_go_over_few_connections_of_the_pool_and_all_are_answered() {
    let addr = local(free_port());
    let nginx = Nginx::start(&format!(
        "listen {addr}; keepalive_requests 1000000; location / {{ return 200 'fine'; }}"
    ));
    let proxy = TestProxy::to(addr).start();
    let output = Command::new("h2load")
        .args(["-n", "5000", "-c", "10", "-m", "10"])
        .arg(format!("http://{}/", proxy.addr()))
        .output()
        .expect("h2load is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("5000 done, 5000 succeeded, 0 failed"),
        "{said}"
    );
    let opened = proxy.figures().counts.opened;
    assert!(opened <= 100, "{opened} for 5000 requests");
    let front = proxy.server().control().front();
    assert_eq!(front.http2, 10);
    assert!(nginx.requests_served() >= 5000);
}

#[test]
fn large_bodies_pass_both_ways_as_fast_as_the_slower_side_takes_them() {
    let backend = Backend::start(|mut conn| conn.serve(|request| answer(&request.body)));
    let proxy = TestProxy::to(backend.addr).start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("body");
    let body: Vec<u8> = (0..20 << 20).map(|at: u32| (at % 251) as u8).collect();
    std::fs::write(&path, &body).unwrap();
    let back = dir.path().join("back");
    let said = curl(
        &format!("http://{}/", proxy.addr()),
        &[
            "--data-binary",
            &format!("@{}", path.display()),
            "-o",
            back.to_str().unwrap(),
            "--limit-rate",
            "60M",
        ],
    );
    assert!(std::fs::read(&back).unwrap() == body, "{said}");
}

#[test]
fn trailers_of_an_answer_pass() {
    let backend = Backend::start(|mut conn| {
        conn.request();
        conn.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
             3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n",
        );
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr).start();
    let output = Command::new("nghttp")
        .args(["-v", &format!("http://{}/", proxy.addr())])
        .output()
        .expect("nghttp is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("x-sum: 6"), "{said}");
}

#[test]
fn what_is_too_large_is_refused_and_so_is_connect() {
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .client(|client| {
            client.limits.body = Some(10);
            client.limits.fields = Some(20);
            client.limits.field_size = 100;
            client.limits.request_line = 200;
        })
        .start();
    let url = format!("http://{}/", proxy.addr());
    let long = "x".repeat(300);
    let status = |url: &str, arguments: &[&str]| {
        let arguments = [&["-o", "/dev/null", "-w", "%{http_code}"], arguments].concat();
        curl(url, &arguments)
    };
    let header = format!("A: {long}");
    let many: Vec<_> = (0..30)
        .flat_map(|at| ["-H".to_owned(), format!("X-{at}: a")])
        .collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let far = format!("{url}{long}");
    for (url, arguments, expected) in [
        (&url, &[][..], "200"),
        (&url, &["-H", &header], "431"),
        (&url, &many, "431"),
        (&far, &[], "414"),
    ] {
        assert_eq!(status(url, arguments), expected, "{arguments:?}");
    }
    let mut raw = Raw::connect(proxy.addr());
    let connect = [&[0x42, 7][..], b"CONNECT", &[0x41, 1, b'a']].concat();
    raw.frame(HEADERS, 5, 1, &connect);
    let (_, _, said) = raw.wait_for(DATA);
    assert!(said.starts_with(b"405 "), "{said:?}");
    // Of a body that is refused nothing needs to come (RFC 9113 §8.1).
    let post = [&[0x83, 0x86, 0x84, 0x41, 1, b'a', 0x5c, 2][..], b"19"].concat();
    raw.frame(HEADERS, 4, 3, &post);
    let (_, _, said) = raw.wait_for(DATA);
    assert!(said.starts_with(b"413 "), "{said:?}");
    let (_, stream, code) = raw.wait_for(RST_STREAM);
    assert_eq!((stream, &code[..]), (3, &[0; 4][..]), "NO_ERROR");
}

/// A client that speaks HTTP/2 by hand.
struct Raw(TcpStream);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Raw {
    fn connect(addr: SocketAddr) -> Raw {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(PREFACE).unwrap();
        let mut raw = Raw(stream);
        raw.frame(4, 0, 0, &[]);
        raw
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        // A connection that was ended takes no more.
        let _ = self.0.write_all(&frame(kind, flags, stream, payload));
    }

    fn get(&mut self, stream: u32) {
        // GET, http, /, and an authority of one letter: RFC 7541 appendix A.
        self.frame(1, 5, stream, &[0x82, 0x86, 0x84, 0x41, 1, b'a']);
    }

    /// The next frame: type, flags, stream, payload. `None` at the end.
    fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// The next frame of this type.
    fn wait_for(&mut self, kind: u8) -> (u8, u32, Vec<u8>) {
        loop {
            let (found, flags, stream, payload) = self.next().expect("it comes before the end");
            if found == kind {
                return (flags, stream, payload);
            }
        }
    }

    fn waits_for_end(&mut self) {
        while self.next().is_some() {}
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

#[test]
fn an_idle_connection_is_ended_with_a_goodbye_and_a_stop_waits_for_what_is_under_way() {
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.keep_alive.timeout = Duration::from_millis(300))
        .start();
    let mut raw = Raw::connect(proxy.addr());
    raw.get(1);
    raw.wait_for(HEADERS);
    let (_, _, goodbye) = raw.wait_for(GOAWAY);
    assert_eq!(goodbye[4..8], [0; 4], "no error");
    raw.waits_for_end();
    drop(raw);
    let gate = crate::support::scripted::Gate::new();
    let held = gate.clone();
    let backend = Backend::start(move |mut conn| {
        conn.request();
        conn.pause(&held);
        conn.send(super::OK);
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr)
        .settings(|settings| settings.shutdown_timeout = Duration::from_secs(60))
        .start();
    let mut raw = Raw::connect(proxy.addr());
    raw.get(1);
    gate.wait_reached(1);
    proxy.server().stop();
    raw.wait_for(GOAWAY);
    gate.open();
    let (_, stream, _) = raw.wait_for(HEADERS);
    assert_eq!(stream, 1);
    raw.waits_for_end();
}

#[test]
fn a_client_that_resets_its_request_ends_the_exchange_and_keeps_its_connection() {
    let backend = Backend::start(|mut conn| {
        conn.request();
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr).start();
    let mut raw = Raw::connect(proxy.addr());
    raw.get(1);
    wait_until(PATIENCE, "the exchange", || {
        proxy.figures().counts.leased == 1
    });
    raw.frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    proxy.wait_closed_for(CloseReason::ClientGone, 1);
    raw.frame(PING, 0, 0, &[1; 8]);
    let (flags, _, _) = raw.wait_for(PING);
    assert_eq!(flags, 1, "an answer");
}

#[test]
fn floods_end_the_connection_and_are_counted() {
    let backend = Backend::start(|mut conn| {
        conn.request();
        conn.wait_for_end();
    });
    let proxy = TestProxy::to(backend.addr).start();
    // A request, reset at once, and so on.
    let mut raw = Raw::connect(proxy.addr());
    for number in 0..2_000 {
        let stream = number * 2 + 1;
        raw.get(stream);
        raw.frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }
    raw.waits_for_end();
    let flood = |flood: Flood| proxy.server().control().front().floods[flood as usize];
    wait_until(PATIENCE, "the flood to be counted", || {
        flood(Flood::Resets) + flood(Flood::Library) == 1
    });
    let before = flood(Flood::Library);
    // Pings.
    let mut raw = Raw::connect(proxy.addr());
    for _ in 0..5_000 {
        raw.frame(PING, 0, 0, &[1; 8]);
    }
    raw.waits_for_end();
    wait_until(PATIENCE, "the flood to be counted", || {
        flood(Flood::Idle) == 1
    });
    // A head that never ends.
    let mut raw = Raw::connect(proxy.addr());
    raw.frame(HEADERS, 1, 1, &[0x82, 0x86, 0x84, 0x41, 1, b'a']);
    let part: Vec<_> = [0x40, 1, b'x', 0x64]
        .iter()
        .copied()
        .chain([b'y'; 100])
        .collect();
    for _ in 0..20_000 {
        raw.frame(CONTINUATION, 0, 1, &part);
    }
    raw.waits_for_end();
    wait_until(PATIENCE, "the flood to be counted", || {
        flood(Flood::Library) > before
    });
    // Another client is served as before.
    let mut raw = Raw::connect(proxy.addr());
    raw.frame(PING, 0, 0, &[1; 8]);
    raw.wait_for(PING);
}

#[test]
fn a_client_that_takes_nothing_of_one_answer_loses_that_one_alone() {
    let backend = Backend::start(|mut conn| {
        conn.serve(|request| {
            let size = if request.line().contains("/ ") {
                1 << 20
            } else {
                1
            };
            answer(vec![b'x'; size])
        });
    });
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.timeout = Duration::from_millis(500))
        .start();
    // The window of a stream is 65,535 bytes, and is never opened further.
    let mut raw = Raw::connect(proxy.addr());
    raw.get(1);
    let (_, stream, code) = raw.wait_for(RST_STREAM);
    assert_eq!((stream, &code[..]), (1, &8_u32.to_be_bytes()[..]), "CANCEL");
    raw.frame(PING, 0, 0, &[1; 8]);
    raw.wait_for(PING);
}

#[test]
fn a_client_without_any_room_is_let_go_even_for_a_single_byte() {
    let backend = Backend::numbered();
    let nobody = local(free_port());
    for addr in [backend.addr, nobody] {
        let proxy = TestProxy::to(addr)
            .client(|client| client.timeout = Duration::from_millis(300))
            .start();
        let mut raw = Raw::connect(proxy.addr());
        // SETTINGS_INITIAL_WINDOW_SIZE 0.
        raw.frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
        raw.get(1);
        let (_, stream, code) = raw.wait_for(RST_STREAM);
        assert_eq!((stream, &code[..]), (1, &8_u32.to_be_bytes()[..]), "CANCEL");
        raw.frame(PING, 0, 0, &[1; 8]);
        raw.wait_for(PING);
    }
}

#[test]
fn it_is_not_spoken_where_it_is_switched_off() {
    let backend = Backend::numbered();
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.http2.enabled = false)
        .start();
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.write_all(PREFACE).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
}
