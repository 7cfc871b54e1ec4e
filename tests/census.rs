//! The census against a real kernel: loopback connections whose end is arranged, then counted.
//!
//! Every test has a listener of its own, so that they can run side by side, and waits for the
//! state it arranged: closing is done by the kernel in its own time.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use tokio::time::Instant;
use warmline::census::{Census, Sides, Source, TcpState};

const CONNECTIONS: u64 = 25;
/// Only reached by a test that fails; long, for a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(30);

/// A listener at an address of which the kernel remembers nothing from an earlier run.
fn fresh_listener(bind: &str) -> (TcpListener, SocketAddr) {
    for _ in 0..100 {
        let listener = TcpListener::bind(bind).unwrap();
        let mut address = listener.local_addr().unwrap();
        if address.ip().is_unspecified() {
            address.set_ip([127, 0, 0, 1].into());
        }
        if sides(address).ours.total() + sides(address).theirs.connections() == 0 {
            return (listener, address);
        }
    }
    panic!("no port without leftovers in 100 tries");
}

/// So many open connections, each as its client's and its server's stream.
fn connected(listener: &TcpListener, address: SocketAddr) -> Vec<(TcpStream, TcpStream)> {
    let pair = |_| {
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    };
    (0..CONNECTIONS).map(pair).collect()
}

fn sides(address: SocketAddr) -> Sides {
    Census::take(&[address]).unwrap().of(address).unwrap()
}

/// Closes `first`, waits for its end at `second`, closes that too.
fn close_in_order(first: TcpStream, mut second: TcpStream) {
    drop(first);
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
}

/// Waits until the sockets of `address` are as `expected`, both sides in words.
#[track_caller]
fn assert_becomes(address: SocketAddr, expected: [&str; 2]) {
    let limit = Instant::now() + LIMIT;
    loop {
        let Sides { ours, theirs } = sides(address);
        let found = [ours.to_string(), theirs.to_string()];
        if found == expected {
            return;
        }
        assert!(Instant::now() < limit, "{found:?} is not {expected:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Both sources see the same, and each says which it is.
///
/// The text tables can skip lines while other tests open and close connections: they have to
/// agree in the end, not each time.
#[track_caller]
fn assert_sources_agree(address: SocketAddr) {
    let limit = Instant::now() + LIMIT;
    loop {
        let [netlink, text] = [Source::SockDiag, Source::ProcNetTcp].map(|source| {
            let census = Census::take_from(source, &[address]).unwrap();
            assert_eq!(census.source(), source);
            census.of(address).unwrap()
        });
        if netlink == text {
            return;
        }
        assert!(Instant::now() < limit, "{netlink:?} is not {text:?}");
    }
}

#[test]
fn who_closes_first_holds_the_time_wait_here_the_client() {
    let (listener, address) = fresh_listener("127.0.0.1:0");
    for (client, server) in connected(&listener, address) {
        close_in_order(client, server);
    }
    assert_becomes(address, ["TIME_WAIT 25", "LISTEN 1"]);
    assert_sources_agree(address);
}

#[test]
fn who_closes_first_holds_the_time_wait_here_the_server() {
    let (listener, address) = fresh_listener("127.0.0.1:0");
    for (client, server) in connected(&listener, address) {
        close_in_order(server, client);
    }
    assert_becomes(address, ["none", "TIME_WAIT 25, LISTEN 1"]);
    assert_sources_agree(address);
}

#[test]
fn open_and_half_closed_connections_are_told_apart_on_both_sides() {
    let (listener, address) = fresh_listener("127.0.0.1:0");
    let connections = connected(&listener, address);
    assert_becomes(address, ["ESTABLISHED 25", "ESTABLISHED 25, LISTEN 1"]);
    assert_sources_agree(address);

    for (client, _server) in &connections[..10] {
        client.shutdown(Shutdown::Write).unwrap();
    }
    assert_becomes(
        address,
        [
            "ESTABLISHED 15, FIN_WAIT2 10",
            "ESTABLISHED 15, CLOSE_WAIT 10, LISTEN 1",
        ],
    );
    assert_sources_agree(address);
}

#[test]
fn an_orphan_in_fin_wait2_is_still_counted_as_that() {
    let (listener, address) = fresh_listener("127.0.0.1:0");
    let connections = connected(&listener, address);
    let servers: Vec<_> = connections.into_iter().map(|(_, server)| server).collect();
    assert_becomes(address, ["FIN_WAIT2 25", "CLOSE_WAIT 25, LISTEN 1"]);
    drop(servers);
    assert_becomes(address, ["TIME_WAIT 25", "LISTEN 1"]);
}

#[test]
fn the_connections_of_a_listener_on_all_addresses_belong_to_the_address_they_came_to() {
    let (listener, address) = fresh_listener("0.0.0.0:0");
    for (client, server) in connected(&listener, address) {
        close_in_order(server, client);
    }
    assert_becomes(address, ["none", "TIME_WAIT 25"]);
    assert_sources_agree(address);
}

#[test]
fn ipv4_connections_of_an_ipv6_listener_are_found_under_their_ipv4_address() {
    if TcpListener::bind("[::]:0").is_err() {
        eprintln!("skipped: no IPv6 here");
        return;
    }
    let (listener, address) = fresh_listener("[::]:0");
    assert!(address.is_ipv4());
    for (client, server) in connected(&listener, address) {
        close_in_order(server, client);
    }
    assert_becomes(address, ["none", "TIME_WAIT 25"]);
    assert_sources_agree(address);
}

#[test]
fn ipv6_is_counted_like_ipv4() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: no IPv6 loopback here");
        return;
    }
    let (listener, address) = fresh_listener("[::1]:0");
    for (client, server) in connected(&listener, address) {
        close_in_order(client, server);
    }
    assert_becomes(address, ["TIME_WAIT 25", "LISTEN 1"]);
    assert_sources_agree(address);
}

#[test]
fn one_census_keeps_several_addresses_apart() {
    let (first, a) = fresh_listener("127.0.0.1:0");
    let (second, b) = fresh_listener("127.0.0.1:0");
    for (client, server) in connected(&first, a) {
        close_in_order(client, server);
    }
    for (client, server) in connected(&second, b) {
        close_in_order(server, client);
    }
    assert_becomes(a, ["TIME_WAIT 25", "LISTEN 1"]);
    assert_becomes(b, ["none", "TIME_WAIT 25, LISTEN 1"]);

    let census = Census::take(&[a, b]).unwrap();
    let time_wait = |sides: Sides| {
        let [ours, theirs] = [sides.ours, sides.theirs].map(|side| side.get(TcpState::TimeWait));
        (ours, theirs)
    };
    assert_eq!(time_wait(census.of(a).unwrap()), (CONNECTIONS, 0));
    assert_eq!(time_wait(census.of(b).unwrap()), (0, CONNECTIONS));
    assert_eq!(time_wait(census.of_all([a, b])), (CONNECTIONS, CONNECTIONS));
}
