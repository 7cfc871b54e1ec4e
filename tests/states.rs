//! `warmline states` and `warmline plan` against a real kernel: what they say is what `ss` lists and
//! what `connect()` can still get.
//!
//! Each test that counts runs in a network namespace of its own, which needs root.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::network::in_network_of_its_own;
use support::process::{self, Process};
use support::{PATIENCE, wait_until};
use warmline::census::{Source, Survey, TcpState};

/// Below every range of ports used here.
const BELOW_THE_RANGE: [&str; 3] = ["127.0.0.1:2001", "127.0.0.1:2002", "127.0.0.1:2003"];

fn warmline(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warmline"))
        .args(args)
        .output()
        .expect("the program starts")
}

/// What it prints when all is well.
fn printed(args: &[&str]) -> String {
    let output = warmline(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &[&str]) -> Value {
    let text = printed(&[args, &["--json"]].concat());
    assert_eq!(text.lines().count(), 1);
    serde_json::from_str(&text).unwrap()
}

fn set(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
}

/// A listener, and connections to it as pairs of the client's and the server's end.
struct Server(TcpListener);

impl Server {
    fn at(address: &str) -> Server {
        Server(TcpListener::bind(address).unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn connect(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.address()).unwrap();
        (client, self.0.accept().unwrap().0)
    }

    /// The one that closes first holds the TIME_WAIT.
    fn client_closes_first(&self) {
        let (client, mut server) = self.connect();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
    }

    fn server_closes_first(&self) {
        let (mut client, server) = self.connect();
        drop(server);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }

    /// How many more connections the kernel allows.
    fn until_no_port_is_left(&self) -> u64 {
        let mut open = Vec::new();
        loop {
            match TcpStream::connect(self.address()) {
                Ok(client) => open.push((client, self.0.accept().unwrap())),
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => break,
                Err(error) => panic!("{error}"),
            }
        }
        open.len() as u64
    }
}

/// How many sockets in TIME_WAIT `ss` lists, under this filter.
fn ss(filter: &str) -> u64 {
    let output = Command::new(process::find(&["ss"], "iproute2"))
        .args(["-Htan", "state", "time-wait"])
        .args(filter.split_ascii_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().count() as u64
}

/// Closing is done by the kernel in its own time.
fn wait_for_time_waits(count: u64) {
    wait_until(PATIENCE, "every TIME_WAIT", || ss("") == count);
}

/// A line of a table: the three numbers behind `name`.
fn row(table: &str, name: &str) -> [u64; 3] {
    let line = table
        .lines()
        .find(|line| line.split_whitespace().next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{table}"));
    let cells = line.split_whitespace().skip(1).take(3);
    let cells: Vec<u64> = cells
        .map(|cell| cell.replace(',', "").parse().unwrap())
        .collect();
    cells.try_into().unwrap()
}

#[test]
fn the_time_waits_are_those_that_ss_lists() {
    in_network_of_its_own("the_time_waits_are_those_that_ss_lists", || {
        let [a, b, c] = BELOW_THE_RANGE.map(Server::at);
        for _ in 0..25 {
            a.client_closes_first();
        }
        for _ in 0..40 {
            b.server_closes_first();
        }
        for _ in 0..7 {
            c.client_closes_first();
            c.server_closes_first();
        }
        let _open = [a.connect(), a.connect(), a.connect()];
        wait_for_time_waits(25 + 40 + 14);

        let servers = [&a, &b, &c];
        let addresses = servers.map(|server| server.address().to_string());
        let mut args = vec!["states"];
        for address in &addresses {
            args.extend(["--backend", address]);
        }
        let (text, json_of_each) = (printed(&args), json(&args));
        for (at, server) in servers.iter().enumerate() {
            let port = server.address().port();
            let towards = ss(&format!("dport = :{port}"));
            let own = ss(&format!("sport = :{port}"));
            let found = &json_of_each["backends"][at];
            assert_eq!(found["address"], addresses[at].as_str());
            assert_eq!(found["towards"]["TIME_WAIT"], towards);
            assert_eq!(found["own"]["TIME_WAIT"], own);
            let from = &found["sources"][0];
            if towards > 0 {
                assert_eq!(from["time_wait"], towards);
                assert_eq!(from["in_use"], found["towards"]["ESTABLISHED"]);
                assert_eq!(from["time_wait_births"]["last_10s"], towards);
            } else {
                assert_eq!(found["sources"], Value::Array(Vec::new()));
            }
            assert_eq!(found["own_time_wait_births"]["last_10s"], own);

            let table = text.split("\nBackend ").nth(at + 1).unwrap();
            assert!(table.starts_with(&addresses[at]));
            assert_text_is_json(table, &found["towards"], &found["own"]);
            if let Some(sentence) = from["sentence"].as_str() {
                assert!(table.contains(sentence), "{table}");
            }
        }

        let (text, whole) = (printed(&["states"]), json(&["states"]));
        assert_eq!(whole["source"], "sock_diag");
        assert!(text.contains("netlink sock_diag"), "{text}");
        assert_eq!(whole["outgoing"]["TIME_WAIT"], 25 + 7);
        assert_eq!(whole["incoming"]["TIME_WAIT"], 40 + 7);
        assert_eq!(whole["all"]["TIME_WAIT"], ss(""));
        assert_eq!(whole["all"]["LISTEN"], 3);
        assert_text_is_json(&text, &whole["outgoing"], &whole["incoming"]);

        let [netlink, tables] =
            [Source::SockDiag, Source::ProcNetTcp].map(|source| Survey::take_from(source).unwrap());
        assert_eq!(netlink.ways(), tables.ways());
        assert_eq!(netlink.births().last_ten, tables.births().last_ten);
        assert_eq!(netlink.births().last_ten, ss(""));
    });
}

/// Every line of the table has the numbers of the JSON.
#[track_caller]
fn assert_text_is_json(table: &str, left: &Value, right: &Value) {
    let number = |value: &Value| value.as_u64().unwrap();
    for (name, left) in left.as_object().unwrap() {
        let (left, right) = (number(left), number(&right[name]));
        if left + right > 0 {
            assert_eq!(row(table, name), [left, right, left + right], "{name}");
        }
    }
}

/// What is said of the ports to it, from the one source address that there is.
fn left_to(server: &Server) -> Value {
    let address = server.address().to_string();
    let found = json(&["states", "--backend", &address]);
    let ways = found["backends"][0]["sources"].as_array().unwrap();
    assert_eq!(ways.len(), 1, "{found}");
    ways[0].clone()
}

#[test]
fn the_ports_left_are_those_that_connect_still_gets() {
    in_network_of_its_own("the_ports_left_are_those_that_connect_still_gets", || {
        set("ip_local_port_range", "40000 40049");
        let [a, b, c] = BELOW_THE_RANGE.map(Server::at);
        for _ in 0..12 {
            a.client_closes_first();
        }
        let _open = [a.connect(), a.connect(), a.connect()];
        // To another, and of the other side: neither takes a port of this one.
        b.client_closes_first();
        a.server_closes_first();
        wait_for_time_waits(14);

        let to_a = left_to(&a);
        assert_eq!(to_a["address"], "127.0.0.1");
        // The port of the connection that the server closed first is free here: it is one of the
        // other side's, which connect() takes no notice of.
        assert_eq!(
            [
                &to_a["ports"],
                &to_a["in_use"],
                &to_a["time_wait"],
                &to_a["left"]
            ],
            [50, 3, 12, 35]
        );
        assert_eq!(a.until_no_port_is_left(), 35);
        assert_eq!(left_to(&b)["left"], 49);
        let to_c = json(&["states", "--backend", &c.address().to_string()]);
        assert_eq!(to_c["backends"][0]["ports_per_source"], 50);
        assert_eq!(to_c["backends"][0]["sources"], Value::Array(Vec::new()));
    });
}

#[test]
fn ports_that_are_listened_on_or_reserved_are_not_counted_as_left() {
    let name = "ports_that_are_listened_on_or_reserved_are_not_counted_as_left";
    in_network_of_its_own(name, || {
        set("ip_local_port_range", "40000 40049");
        // Longer than the 32 bytes of a first careless read, of which the kernel would make the end.
        set(
            "ip_local_reserved_ports",
            "40001,40003,40005,40009,40011,40013,40020-40024,40031,50000",
        );
        // Given to nobody, whatever the destination.
        let _listener = TcpListener::bind("127.0.0.1:40007").unwrap();
        let server = Server::at(BELOW_THE_RANGE[0]);
        for _ in 0..5 {
            server.client_closes_first();
        }
        wait_for_time_waits(5);
        let way = left_to(&server);
        assert_eq!([&way["ports"], &way["left"]], [37, 32]);
        assert_eq!(server.until_no_port_is_left(), 32);
        let text = printed(&["states", "--backend", &server.address().to_string()]);
        assert!(
            text.contains("1 port of the range is listened on"),
            "{text}"
        );
    });
}

#[test]
fn every_source_address_has_its_own_ports() {
    in_network_of_its_own("every_source_address_has_its_own_ports", || {
        set("ip_local_port_range", "40000 40049");
        let server = Server::at(BELOW_THE_RANGE[0]);
        let from = |source: [u8; 4]| {
            let socket =
                socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            let bound = SocketAddr::new(IpAddr::from(source), 0);
            rustix::net::sockopt::set_socket_reuseaddr(&socket, true).unwrap();
            socket.bind(&bound.into()).unwrap();
            socket.connect(&server.address().into()).unwrap();
            (socket, server.0.accept().unwrap())
        };
        let _open = [
            from([127, 0, 4, 1]),
            from([127, 0, 4, 2]),
            from([127, 0, 4, 2]),
        ];
        let address = server.address().to_string();
        let found = json(&["states", "--backend", &address]);
        let ways = found["backends"][0]["sources"].as_array().unwrap();
        let ways: Vec<_> = ways
            .iter()
            .map(|way| {
                (
                    way["address"].as_str().unwrap(),
                    way["left"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(ways, [("127.0.4.1", 49), ("127.0.4.2", 48)]);
        let text = printed(&["states", "--backend", &address]);
        assert!(text.contains("from 127.0.4.2: nothing uses up"), "{text}");
    });
}

#[test]
fn watching_prints_plainly_where_nobody_looks_and_ends_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
    command.args(["states", "--watch", "0.1"]);
    let mut watching = Process::start(&mut command, &dir.path().join("output"));
    wait_until(PATIENCE, "three tables", || {
        watching.said().matches("\n  sum ").count() >= 3
    });
    watching.signal(Signal::INT).unwrap();
    assert!(watching.wait(Duration::from_secs(10)).success());
    let said = watching.said();
    assert!(!said.contains('\x1b'), "{said}");
    assert!(said.contains(TcpState::TimeWait.meaning()), "{said}");
}

#[test]
fn a_backend_that_nobody_speaks_to_has_all_its_ports() {
    let text = printed(&["states", "--backend", "192.0.2.1:80"]);
    assert!(text.contains("No socket towards it"), "{text}");
    let found = json(&["states", "--backend", "192.0.2.1:80"]);
    let found = &found["backends"][0];
    assert_eq!(found["sources"], Value::Array(Vec::new()));
    assert!(found["ports_per_source"].as_u64() > Some(0));
}

#[test]
fn a_plan_is_the_arithmetic_on_paper() {
    let args = [
        "plan",
        "--rate",
        "1000",
        "--backends",
        "2",
        "--twait",
        "240s",
        "--ports",
        "64512",
        "--response-time",
        "50ms",
    ];
    let text = printed(&args);
    for words in [
        "1,000 requests/s from 1 source address to 2 backend addresses; a response takes 50 ms.",
        "runs out of ports after 129 s",
        "a pool needs 50 connections",
        "at 500 connects/s to a backend the 64,512 ports last 129 s",
        "240,000",
        "268/s",
        "134/s",
    ] {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    let plan = json(&args);
    let asked = &plan["short_as_asked"];
    assert_eq!(asked["time_wait_total"], 240_000);
    assert_eq!(asked["ports_per_pair"], 64_512);
    assert!((asked["fails_above_per_second"].as_f64().unwrap() - 268.8).abs() < 1e-9);
    assert_eq!(plan["pooled"]["connections"], 50);
    assert_eq!(plan["pooled"]["max_keep_alive_requests"], 1000);
    assert_eq!(plan["pooled"]["max_age_seconds"].as_f64(), Some(3600.0));

    let unlimited = [
        "plan",
        "--rate",
        "10",
        "--max-keep-alive-requests",
        "0",
        "--max-age",
        "0",
    ];
    assert!(printed(&unlimited).contains("no limit"));
    let unlimited = json(&unlimited);
    assert_eq!(unlimited["pooled"]["max_age_seconds"], Value::Null);
    assert_eq!(
        unlimited["pooled"]["time_wait_per_minute_at_backends"].as_f64(),
        Some(0.0)
    );
    assert_eq!(unlimited["short_as_asked"], Value::Null);
}

#[test]
fn what_cannot_be_meant_is_refused_with_the_reason() {
    for (args, reason) in [
        (&["plan"][..], "--rate <N>"),
        (&["plan", "--rate", "0"], "--rate <N>"),
        (&["plan", "--rate", "1", "--twait", "0"], "this is zero"),
        (&["plan", "--rate", "1", "--ports", "65536"], "65535"),
        (
            &["states", "--backend", "app:80"],
            "an IP address and a port are needed",
        ),
        (&["states", "--backend", "10.0.0.5:0"], "port 0"),
        (&["states", "--watch", "0"], "less than 100ms"),
    ] {
        let output = warmline(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(said.contains(reason), "{args:?}: {said}");
    }
}
