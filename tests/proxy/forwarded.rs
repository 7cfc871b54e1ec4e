//! Behind other proxies: who introduces clients, who is believed, and what backends are told.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use http::HeaderName;
use tempfile::TempDir;
use tokio::time::Instant;
use warmline::client;
use warmline::log::{self, Destination, Format};
use warmline::net::{Network, Networks, ProxyProtocol};
use warmline::split::{By, Share};

use crate::OK;
use crate::support::client::{Client, Ended};
use crate::support::nginx::Nginx;
use crate::support::process::{self, Process};
use crate::support::proxy::{Builder, Program, TestProxy};
use crate::support::scripted::{Backend, Request};
use crate::support::{PATIENCE, curl, free_port, local, wait_until};

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 51000 443\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: test.example\r\n\r\n";

/// Every address of this machine's own.
fn loopback() -> Networks {
    only("127.0.0.0", 8)
}

fn only(address: &str, bits: u8) -> Networks {
    let network = Network::new(address.parse().unwrap(), bits).unwrap();
    Networks::new(vec![network])
}

/// A proxy that is told its clients by whoever connects from this machine.
fn introduced(backend: &Backend) -> Builder {
    TestProxy::to(backend.addr).client(|client| client.introduced_by = loopback())
}

/// A proxy that believes whoever connects from this machine.
fn believing(backend: SocketAddr, header: &'static str) -> Builder {
    TestProxy::to(backend).client(|client| {
        client.trust = client::Trust {
            proxies: loopback(),
            header: HeaderName::from_static(header),
        };
    })
}

/// The values under `name`, in all requests that a backend has had.
fn told(backend: &Backend, name: &str) -> Vec<String> {
    let requests = backend.requests();
    let values = requests.iter().map(|request| request.header(name));
    values
        .map(|value| value.unwrap_or("-").to_owned())
        .collect()
}

/// An access log of a test's own.
struct Log(TempDir);

impl Log {
    fn new() -> Log {
        Log(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("log")
    }

    fn settings(&self) -> log::Settings {
        log::Settings {
            to: Destination::File(self.path()),
            format: Format::Combined,
            flush: Duration::from_millis(1),
        }
    }

    /// The clients of its first `count` lines.
    fn clients(&self, count: usize) -> Vec<String> {
        let read = || fs::read_to_string(self.path()).unwrap_or_default();
        wait_until(PATIENCE, "the log's lines", || {
            read().lines().count() >= count
        });
        let client = |line: &str| line.split(' ').next().unwrap().to_owned();
        read().lines().map(client).collect()
    }
}

/// What `HAProxy` is asked to do.
fn haproxy(listens: SocketAddr, server: &str, extra: &str) -> String {
    format!(
        "global\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         {extra}\nlisten front\n  bind {listens}\n  server proxy {server}\n"
    )
}

/// A `HAProxy` that has been started, and where it listens.
struct Haproxy {
    addr: SocketAddr,
    _process: Process,
    _dir: TempDir,
}

impl Haproxy {
    fn start(server: &str, extra: &str) -> Haproxy {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("haproxy.cfg");
        for _ in 0..5 {
            let addr = local(free_port());
            fs::write(&file, haproxy(addr, server, extra)).unwrap();
            let mut command = Command::new(process::find(&["haproxy"], "haproxy"));
            command.arg("-db").arg("-f").arg(&file);
            let mut process = Process::start(&mut command, &dir.path().join("output"));
            let (mut up, mut ended) = (false, false);
            wait_until(PATIENCE, "HAProxy to listen", || {
                ended = process.ended().is_some();
                up = Client::try_connect(addr).is_some();
                up || ended
            });
            if up && !ended {
                return Haproxy {
                    addr,
                    _process: process,
                    _dir: dir,
                };
            }
            let said = process.said();
            assert!(said.contains("cannot bind"), "{said}");
        }
        panic!("no port for HAProxy");
    }
}

/// Connects from this address of the machine.
fn from(address: &str, to: SocketAddr) -> Client {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let ip: IpAddr = address.parse().unwrap();
    socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    Client::over(socket.into())
}

#[test]
fn a_client_is_who_it_is_introduced_as() {
    let backend = Backend::answering(OK);
    let log = Log::new();
    let proxy = introduced(&backend)
        .settings(|settings| settings.access_log = Some(log.settings()))
        .start();
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".to_vec();
    v2.extend(
        "2001:db8::7"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    v2.extend(
        "2001:db8::1"
            .parse::<std::net::Ipv6Addr>()
            .unwrap()
            .octets(),
    );
    v2.extend([0xC7, 0x38, 1, 0xBB]);
    for header in [LINE.as_bytes(), &v2, b"PROXY UNKNOWN\r\n"] {
        let mut client = Client::connect(proxy.addr());
        // In one piece with the request.
        client.send([header, GET.as_bytes()].concat());
        assert_eq!(client.response().status, 200);
        // It is so for all of the connection.
        assert_eq!(client.get("/").status, 200);
    }
    let clients = [
        "192.0.2.7",
        "192.0.2.7",
        "2001:db8::7",
        "2001:db8::7",
        "127.0.0.1",
        "127.0.0.1",
    ];
    assert_eq!(told(&backend, "x-forwarded-for"), clients);
    assert_eq!(log.clients(6), clients);
}

#[test]
fn a_header_in_pieces_is_waited_for_and_none_of_what_follows_is_lost() {
    let backend = Backend::answering(OK);
    let proxy = introduced(&backend).start();
    let mut client = Client::connect(proxy.addr());
    for byte in [LINE, GET].concat().as_bytes() {
        client.send([*byte]);
        // For most of them to be read by themselves; the test is sound without that.
        std::thread::sleep(Duration::from_micros(200));
    }
    assert_eq!(client.response().status, 200);
    assert_eq!(told(&backend, "x-forwarded-for"), ["192.0.2.7"]);
}

#[test]
fn real_senders_are_understood() {
    let backend = Backend::answering(OK);
    let proxy = introduced(&backend).start();
    let url = format!("http://{}/", proxy.addr());
    let output = curl(["--haproxy-protocol", "--interface", "127.0.0.9", &url]);
    assert_eq!(output.stdout, b"ok", "{output:?}");
    let addr = proxy.addr();
    for how in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy-v2-ssl-cn",
    ] {
        let front = Haproxy::start(&format!("{addr} {how}"), "  unique-id-format %[uuid()]");
        let mut client = from("127.0.0.8", front.addr);
        assert_eq!(client.get("/").status, 200, "{how}");
    }
    let clients = told(&backend, "x-forwarded-for");
    assert_eq!(
        clients,
        [
            "127.0.0.9",
            "127.0.0.8",
            "127.0.0.8",
            "127.0.0.8",
            "127.0.0.8"
        ]
    );
    assert_eq!(proxy.server().control().front().not_introduced, 0);
}

/// A program that listens with TLS, with these settings for its clients.
fn with_tls(settings: &str, backend: &Backend) -> Program {
    Program::run(&format!(
        "tls = true\n{settings}[[certificates]]\nself_signed = [\"localhost\"]\n\
         [upstreams.app]\nservers = [\"{}\"]\n",
        backend.addr
    ))
}

#[test]
fn the_header_comes_before_tls() {
    let backend = Backend::answering(OK);
    let program = with_tls("proxy_protocol = [\"127.0.0.9\"]\n", &backend);
    let url = format!("https://{}/", program.addr);
    let introduced = ["--haproxy-protocol", "--interface", "127.0.0.9"];
    for version in ["--http1.1", "--http2"] {
        let output = curl([&["-k", version, url.as_str()][..], &introduced].concat());
        assert_eq!(output.stdout, b"ok", "{version}: {output:?}");
    }
    let front = Haproxy::start(
        &format!(
            "{} ssl verify none send-proxy-v2 source 127.0.0.9",
            program.addr
        ),
        "",
    );
    assert_eq!(from("127.0.0.8", front.addr).get("/").status, 200);
    // Not from others, and not without.
    for arguments in [
        &["--haproxy-protocol", "--interface", "127.0.0.7"][..],
        &["--interface", "127.0.0.9"],
    ] {
        let output = curl([&["-k", url.as_str()][..], arguments].concat());
        assert!(!output.status.success(), "{arguments:?}: {output:?}");
    }
    let clients = ["127.0.0.9", "127.0.0.9", "127.0.0.8"];
    assert_eq!(told(&backend, "x-forwarded-for"), clients);
    assert_eq!(told(&backend, "x-forwarded-proto"), ["https"; 3]);
}

#[test]
fn each_request_over_http2_is_for_whom_a_trusted_proxy_says() {
    let backend = Backend::answering(OK);
    let log = Log::new();
    let program = with_tls(
        &format!(
            "trusted_proxies = [\"127.0.0.1\"]\n[access_log]\npath = \"{}\"\nflush = \"1ms\"\n",
            log.path().display()
        ),
        &backend,
    );
    let url = format!("https://{}/", program.addr);
    let said = ["X-Forwarded-For: 192.0.2.7", "X-Forwarded-For: 192.0.2.8"];
    let one = |header| {
        [
            "-k",
            "--http2",
            "-w",
            "%{num_connects}",
            "-H",
            header,
            url.as_str(),
        ]
    };
    let output = curl([&one(said[0])[..], &["--next"], &one(said[1])].concat());
    assert_eq!(output.stdout, b"ok1ok0", "{output:?}");
    assert_eq!(log.clients(2), ["192.0.2.7", "192.0.2.8"]);
    let lists = ["192.0.2.7, 127.0.0.1", "192.0.2.8, 127.0.0.1"];
    assert_eq!(told(&backend, "x-forwarded-for"), lists);
}

/// A check of the port alone, and one that says PROXY of its own: as `LOCAL`, or with its own addresses.
#[test]
fn checks_of_load_balancers_are_no_trouble() {
    let backend = Backend::answering(OK);
    let proxy = introduced(&backend).start();
    let addr = proxy.addr();
    drop(Client::connect(addr));
    for how in ["send-proxy", "send-proxy-v2"] {
        let before = backend.requests().len();
        let _front = Haproxy::start(
            &format!("{addr} {how} check check-send-proxy inter 20ms"),
            "  option httpchk GET /checked",
        );
        let asked = |request: &Request| request.line().contains("/checked");
        wait_until(PATIENCE, "two checks", || {
            backend.requests().iter().filter(|it| asked(it)).count() >= before + 2
        });
    }
    assert!(
        told(&backend, "x-forwarded-for")
            .iter()
            .all(|client| client == "127.0.0.1")
    );
    assert_eq!(proxy.server().control().front().not_introduced, 0);
}

#[test]
fn who_has_to_introduce_and_does_not_is_closed_and_counted() {
    let backend = Backend::answering(OK);
    let proxy = introduced(&backend)
        .client(|client| client.timeout = Duration::from_millis(300))
        .start();
    let counted = || proxy.server().control().front().not_introduced;
    for (number, bytes) in [GET, "PROXY TCP4 192.0.2.7\r\n", "\r\n\r\n\0\r\nQUIT\n\x31"]
        .into_iter()
        .enumerate()
    {
        let mut client = Client::connect(proxy.addr());
        client.send(bytes);
        if number == 2 {
            client.send([0; 3]);
        }
        let ended = client.end_within(PATIENCE);
        assert!(matches!(ended, Ended::Fin | Ended::Reset), "{ended:?}");
        assert_eq!(counted(), number as u64 + 1, "{bytes:?}");
    }
    // One that begins and does not go on.
    let mut client = Client::connect(proxy.addr());
    let began = Instant::now();
    client.send("PROXY TCP4 ");
    assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    assert!(began.elapsed() >= Duration::from_millis(300), "not sooner");
    assert_eq!(counted(), 4);
    // One that breaks off.
    let mut client = Client::connect(proxy.addr());
    client.send("PROXY TCP4 ");
    client.half_close();
    assert_eq!(client.end_within(PATIENCE), Ended::Fin);
    assert_eq!(counted(), 5);
    assert_eq!(backend.connections(), 0);
    let mut client = Client::connect(proxy.addr());
    client.send([LINE, GET].concat());
    assert_eq!(client.response().status, 200, "the others are served");
}

#[test]
fn nobody_else_can_introduce_itself() {
    let backend = Backend::answering(OK);
    let proxy = TestProxy::to(backend.addr)
        .client(|client| client.introduced_by = only("127.0.0.2", 32))
        .start();
    assert_eq!(from("127.0.0.3", proxy.addr()).get("/").status, 200);
    let mut client = from("127.0.0.3", proxy.addr());
    client.send([LINE, GET].concat());
    let response = client.response();
    assert_eq!(response.status, 400);
    let mut client = from("127.0.0.2", proxy.addr());
    client.send([LINE, GET].concat());
    assert_eq!(client.response().status, 200);
    assert_eq!(
        told(&backend, "x-forwarded-for"),
        ["127.0.0.3", "192.0.2.7"]
    );
}

#[test]
fn one_that_waits_to_be_introduced_does_not_hold_up_the_end() {
    let backend = Backend::answering(OK);
    let proxy = introduced(&backend)
        .settings(|settings| settings.shutdown_timeout = Duration::from_mins(1))
        .start();
    let mut client = Client::connect(proxy.addr());
    client.send("PROXY ");
    let mut other = Client::connect(proxy.addr());
    other.send([LINE, GET].concat());
    assert_eq!(other.response().status, 200);
    let began = Instant::now();
    drop(proxy);
    assert!(began.elapsed() < Duration::from_secs(4));
    let ended = client.end_within(PATIENCE);
    assert!(matches!(ended, Ended::Fin | Ended::Reset), "{ended:?}");
}

#[test]
fn an_introduced_client_is_introduced_to_backends() {
    let addr = local(free_port());
    let _nginx = Nginx::start(&format!(
        "listen {addr} proxy_protocol; location / {{ return 200 '$proxy_protocol_addr:$proxy_protocol_port \
         $proxy_protocol_server_addr:$proxy_protocol_server_port'; }}"
    ));
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let proxy = TestProxy::to(addr)
            .client(|client| client.introduced_by = loopback())
            .upstream(|upstream| upstream.proxy_protocol = Some(version))
            .start();
        let mut client = Client::connect(proxy.addr());
        client.send([LINE, GET].concat());
        let said = client.response().text();
        assert_eq!(said, "192.0.2.7:51000 198.51.100.1:443", "{version:?}");
    }
}

#[test]
fn each_request_is_for_whom_a_trusted_proxy_says() {
    for (header, of) in [
        ("x-forwarded-for", ["192.0.2.7", "192.0.2.8, 127.0.0.9"]),
        (
            "forwarded",
            ["for=192.0.2.7", "for=\"192.0.2.8:80\", for=127.0.0.9"],
        ),
        ("x-client", ["192.0.2.7", "192.0.2.8"]),
    ] {
        let backend = Backend::answering(OK);
        let log = Log::new();
        let proxy = believing(backend.addr, header)
            .settings(|settings| settings.access_log = Some(log.settings()))
            .start();
        let mut client = Client::connect(proxy.addr());
        for said in of {
            client.send(format!(
                "GET / HTTP/1.1\r\nHost: a\r\n{header}: {said}\r\n\r\n"
            ));
            assert_eq!(client.response().status, 200);
        }
        // One that says nothing is its own.
        assert_eq!(client.get("/").status, 200);
        assert_eq!(
            log.clients(3),
            ["192.0.2.7", "192.0.2.8", "127.0.0.1"],
            "{header}"
        );
        if header == "x-forwarded-for" {
            let lists = [
                "192.0.2.7, 127.0.0.1",
                "192.0.2.8, 127.0.0.9, 127.0.0.1",
                "127.0.0.1",
            ];
            assert_eq!(told(&backend, header), lists);
        }
    }
}

#[test]
fn what_a_trusted_proxy_saw_is_kept_and_what_a_stranger_says_is_not() {
    let said = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n\
                X-Forwarded-Port: 443\r\nX-Real-IP: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\n";
    let names = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-real-ip",
        "forwarded",
    ];
    for (trusted, expected) in [
        (
            only("127.0.0.1", 32),
            [
                "192.0.2.7, 127.0.0.1",
                "https",
                "shop.example",
                "443",
                "192.0.2.7",
                "for=192.0.2.7",
            ],
        ),
        (
            only("127.0.0.2", 32),
            ["127.0.0.1", "http", "inner.example", "-", "-", "-"],
        ),
        (
            Networks::default(),
            [
                "192.0.2.7, 127.0.0.1",
                "http",
                "inner.example",
                "443",
                "192.0.2.7",
                "for=192.0.2.7",
            ],
        ),
    ] {
        let backend = Backend::answering(OK);
        let proxy = TestProxy::to(backend.addr)
            .client(|client| client.trust.proxies = trusted.clone())
            .start();
        let mut client = Client::connect(proxy.addr());
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: inner.example\r\n{said}\r\n"
        ));
        assert_eq!(client.response().status, 200);
        let told = names.map(|name| told(&backend, name).remove(0));
        assert_eq!(told, expected, "{trusted:?}");
    }
}

#[test]
fn nginx_in_front_is_believed_about_the_last_it_saw() {
    let backend = Backend::answering(OK);
    let log = Log::new();
    let proxy = believing(backend.addr, "x-forwarded-for")
        .settings(|settings| settings.access_log = Some(log.settings()))
        .client(|client| client.trust.proxies = only("127.0.0.1", 32))
        .start();
    let nginx = Nginx::start(&format!(
        "location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_set_header Connection ''; \
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}",
        proxy.addr()
    ));
    for (address, spoofed) in [("127.0.0.5", ""), ("127.0.0.6", "192.0.2.66")] {
        let mut client = from(address, nginx.addr);
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {spoofed}\r\n\r\n"
        ));
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(log.clients(2), ["127.0.0.5", "127.0.0.6"]);
}

#[test]
fn the_log_says_for_whom_a_request_was_that_failed_and_by_which_way_it_came() {
    let mut program = Program::run(&format!(
        "[client]\nproxy_protocol = [\"127.0.0.2\"]\ntrusted_proxies = [\"127.0.0.1\", \"198.51.100.7\"]\n\
         [upstreams.app]\nservers = [\"{}\"]\n",
        local(free_port())
    ));
    let request = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n");
    let mut direct = Client::connect(program.addr);
    let port = direct.addr().port();
    direct.send(&request);
    assert_eq!(direct.response().status, 502);
    // A proxy that is known by the header of another one.
    let mut both = from("127.0.0.2", program.addr);
    both.send("PROXY TCP4 198.51.100.7 198.51.100.1 4711 443\r\n");
    both.send(&request);
    assert_eq!(both.response().status, 502);
    for via in [format!("127.0.0.1:{port}"), "198.51.100.7:4711".to_owned()] {
        let said = format!("request failed client=192.0.2.9 via={via} method=GET ");
        let process = program.process();
        wait_until(PATIENCE, &said, || process.said().contains(&said));
    }
}

#[test]
fn requests_for_one_address_share_introduced_connections() {
    let addr = local(free_port());
    let nginx = Nginx::start(&format!(
        "listen {addr} proxy_protocol; location / {{ return 200 '$proxy_protocol_addr:$proxy_protocol_port \
         $connection'; }}"
    ));
    let proxy = believing(addr, "x-forwarded-for")
        .upstream(|upstream| upstream.proxy_protocol = Some(ProxyProtocol::V2))
        .start();
    let before = nginx.connections_accepted();
    let ask = |client: &mut Client, whom: &str| {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {whom}\r\n\r\n"
        ));
        client.response().text()
    };
    let (mut one, mut other) = (Client::connect(proxy.addr()), Client::connect(proxy.addr()));
    // nginx writes no port for 0.
    let first = ask(&mut one, "192.0.2.7");
    assert!(first.starts_with("192.0.2.7: "), "{first}");
    let second = ask(&mut one, "192.0.2.8");
    assert!(second.starts_with("192.0.2.8: "), "{second}");
    assert_eq!(ask(&mut other, "192.0.2.7"), first);
    drop(one);
    assert_eq!(ask(&mut other, "192.0.2.8"), second);
    assert_eq!(nginx.connections_accepted() - before, 2);
}

#[test]
fn the_split_by_client_goes_by_whom_a_request_is_for() {
    let backend = Backend::answering(OK);
    let proxy = believing(backend.addr, "x-forwarded-for")
        .settings(|settings| {
            settings.upstreams[0].split = Some(warmline::split::Settings {
                share: Share::read("50%").unwrap(),
                by: By::Client,
            });
        })
        .start();
    let mut client = Client::connect(proxy.addr());
    for number in 0..40 {
        client.send(format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.{number}\r\n\r\n"
        ));
        assert_eq!(client.response().status, 200);
    }
    let short = backend.connections();
    assert!((5..36).contains(&short), "{short} of 40 by themselves");
}
