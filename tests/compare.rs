//! The demo's backend and load against each other and against hand-made peers, over loopback.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use warmline::census::{Census, Sides};
use warmline::compare::EmbeddedBackend;
use warmline::compare::load::{Load, Settings};

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
/// Only reached by a test that fails; long, for a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(30);
/// The longest a drop may take.
const STOP_WITHIN: Duration = Duration::from_secs(2);

/// Looks again and again until `look` finds something.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < limit, "{what} did not happen in {LIMIT:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn sides(address: SocketAddr) -> Sides {
    Census::take(&[address]).unwrap().of(address).unwrap()
}

/// A backend at an address of which the kernel remembers nothing from an earlier run.
fn fresh_backend() -> (EmbeddedBackend, SocketAddr) {
    for _ in 0..100 {
        let backend = EmbeddedBackend::start("app1", &[LOOPBACK]).unwrap();
        let address = backend.addresses()[0];
        if sides(address).ours.total() + sides(address).theirs.connections() == 0 {
            return (backend, address);
        }
    }
    panic!("no port without leftovers in 100 tries");
}

/// A connection for requests written by hand.
struct Client(BufReader<TcpStream>);

impl Client {
    fn to(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Client(BufReader::new(stream))
    }

    /// Sends one request; gives the answer's head and the first line of its body.
    fn ask(&mut self, request: &str) -> (String, String) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(self.0.read_line(&mut head).unwrap() > 0, "{head}");
        }
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        (head, body.lines().next().unwrap_or_default().to_owned())
    }

    fn is_at_its_end(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: app1\r\n\r\n")
}

#[test]
fn the_backend_says_which_request_on_which_connection() {
    let backend = EmbeddedBackend::start("app1", &[LOOPBACK, LOOPBACK]).unwrap();
    let addresses = backend.addresses();
    assert_ne!(addresses[0], addresses[1]);

    let (mut first, mut second) = (Client::to(addresses[0]), Client::to(addresses[0]));
    let text = |client: &mut Client, path| client.ask(&get(path)).1;
    assert_eq!(
        text(&mut first, "/cart"),
        "app1 answers /cart: request 1 on connection 1"
    );
    assert_eq!(
        text(&mut first, "/?q=1"),
        "app1 answers /: request 2 on connection 1"
    );
    assert_eq!(
        text(&mut second, "/"),
        "app1 answers /: request 1 on connection 2"
    );
    let mut elsewhere = Client::to(addresses[1]);
    let post = "POST / HTTP/1.1\r\nHost: app1\r\nContent-Length: 3\r\n\r\nabc";
    assert!(elsewhere.ask(post).0.starts_with("HTTP/1.1 200 OK\r\n"));
    elsewhere.ask(&get("/"));

    let served = backend.served();
    let figures: Vec<_> = served
        .iter()
        .map(|at| (at.connections, at.requests))
        .collect();
    assert_eq!(figures, [(2, 3), (1, 2)]);
    let at: Vec<_> = served.iter().map(|at| at.address).collect();
    assert_eq!(at, addresses);
}

#[test]
fn a_body_has_the_size_asked_for() {
    for (size, expected) in [
        (0, "content-length: 0\r\n"),
        (5000, "content-length: 5000\r\n"),
    ] {
        let backend = EmbeddedBackend::start_with_body("app1", &[LOOPBACK], size).unwrap();
        let (head, _) = Client::to(backend.addresses()[0]).ask(&get("/"));
        assert!(head.contains(expected), "{head}");
    }
}

/// The client closes as soon as it has the last byte, as a proxy does; still it is never first.
#[test]
fn when_asked_to_close_the_backend_is_always_first() {
    const CONNECTIONS: usize = 100;
    let (_backend, address) = fresh_backend();
    for _ in 0..CONNECTIONS {
        let request = "GET / HTTP/1.1\r\nHost: app1\r\nConnection: close\r\n\r\n";
        let (head, _) = Client::to(address).ask(request);
        assert!(head.contains("connection: close\r\n"), "{head}");
    }
    let expected = ["none", "TIME_WAIT 100, LISTEN 1"];
    eventually("a TIME_WAIT of the backend for each connection", || {
        let Sides { ours, theirs } = sides(address);
        ([ours.to_string(), theirs.to_string()] == expected).then_some(())
    });
}

#[test]
fn a_kept_connection_is_closed_by_whoever_asks() {
    let (_backend, address) = fresh_backend();
    let mut client = Client::to(address);
    client.ask(&get("/"));
    drop(client);
    eventually("a TIME_WAIT of the client", || {
        (sides(address).ours.to_string() == "TIME_WAIT 1").then_some(())
    });
    assert_eq!(sides(address).theirs.to_string(), "LISTEN 1");
}

#[test]
fn a_dropped_backend_is_gone() {
    let backend = EmbeddedBackend::start("app1", &[LOOPBACK]).unwrap();
    let address = backend.addresses()[0];
    let mut client = Client::to(address);
    client.ask(&get("/"));

    let began = Instant::now();
    drop(backend);
    assert!(began.elapsed() < STOP_WITHIN);
    assert!(client.is_at_its_end());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn an_address_that_is_taken_is_an_error() {
    let taken = TcpListener::bind(LOOPBACK).unwrap();
    let addresses = [LOOPBACK, taken.local_addr().unwrap()];
    let error = EmbeddedBackend::start("app1", &addresses).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn a_steady_load_keeps_its_connections_and_its_rate() {
    let (backend, address) = fresh_backend();
    let began = Instant::now();
    let [rate, connections] = [200, 4].map(|number| NonZeroU32::new(number).unwrap());
    let load = Load::start(Settings::steady(address, rate, connections)).unwrap();
    let so_far = eventually("100 answers", || {
        Some(load.so_far()).filter(|so_far| so_far.answered >= 100)
    });
    // The hundredth turn of 200 a second is due after 495 ms, and cannot have come before.
    assert!(began.elapsed() >= Duration::from_millis(495));
    assert_eq!((so_far.refused, so_far.unanswered), (0, 0));
    assert!(backend.served()[0].connections <= 4);

    let began = Instant::now();
    drop(load);
    assert!(began.elapsed() < STOP_WITHIN);
    eventually("the end of the load's connections", || {
        (sides(address).theirs.to_string() == "LISTEN 1").then_some(())
    });
}
