//! What the kernel is left with when TLS or HTTP/2 was spoken: the close modes mean the same.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use warmline::backend::{self, Protocol, ShortMode};
use warmline::net::{CloseMode, TlsSettings};

use crate::kernel::{assert_left, counter, resets};
use crate::proxy::{GET, NEVER, Proxy, ask, kept, ms};
use crate::support::certs::Authority;
use crate::support::network::in_network_of_its_own;
use crate::support::nginx::Nginx;
use crate::support::{PATIENCE, free_port, local, wait_until};

const REQUESTS: u64 = 20;

/// nginx on a port of its own, which `listen` says how to speak on.
fn nginx(authority: &Authority, listen: &str) -> (Nginx, SocketAddr) {
    let addr = local(free_port());
    let pair = authority.certify("127.0.0.1").for_nginx();
    let nginx = Nginx::start(&format!(
        "listen {addr} {listen}; {pair} ssl_protocols TLSv1.2 TLSv1.3; \
         keepalive_requests 1000000; location / {{ return 200 ok; }}"
    ));
    (nginx, addr)
}

/// Sends [`REQUESTS`]; so many connections end, each leaves so many `TIME_WAIT`s with us and with the
/// backend, and sends so many resets.
#[track_caller]
fn closes(
    addr: SocketAddr,
    change: impl FnOnce(&mut backend::Settings),
    connections: u64,
    (ours, theirs): (u64, u64),
    resets_each: u64,
) {
    let proxy = Proxy::start(addr, |settings| {
        settings.client.keep_alive = kept(NEVER, 0);
        settings.upstreams[0].pool.learn_idle_timeout = false;
        change(&mut settings.upstreams[0]);
    });
    let before = resets();
    let mut client = proxy.client();
    for _ in 0..REQUESTS {
        assert_eq!(ask(&mut client, GET).status, 200);
    }
    assert_left(addr, ours * connections, theirs * connections);
    let expected = resets_each * connections;
    wait_until(PATIENCE, "the resets", || resets() - before >= expected);
    assert_eq!(resets() - before, expected, "resets");
}

#[test]
fn with_tls_each_close_mode_is_as_exact() {
    in_network_of_its_own(
        "kernel_transports::with_tls_each_close_mode_is_as_exact",
        || {
            let authority = Authority::new();
            let tls = || TlsSettings {
                ca: Some(authority.ca()),
                ..TlsSettings::default()
            };
            for (mode, left, resets) in [
                (CloseMode::Fin, (1, 0), 0),
                (CloseMode::Rst, (0, 0), 1),
                (CloseMode::FinRst, (0, 0), 1),
                (CloseMode::Peer, (0, 1), 0),
                (CloseMode::PeerRst, (0, 0), 1),
            ] {
                eprintln!("{mode:?}");
                let (_nginx, addr) = nginx(&authority, "ssl");
                let change = |upstream: &mut backend::Settings| {
                    upstream.tls = Some(tls());
                    // The second exchange is the last.
                    upstream.pool.keep_alive.max_requests = NonZeroU32::new(1);
                    upstream.closing.last = mode;
                };
                closes(addr, change, REQUESTS / 2, left, resets);
            }
            for (short, left, resets) in [
                (ShortMode::CloseByHeader, (0, 1), 0),
                (ShortMode::ProxyCloses, (1, 0), 0),
                (ShortMode::Rst, (0, 0), 1),
            ] {
                eprintln!("{short:?}");
                let (_nginx, addr) = nginx(&authority, "ssl");
                let change = |upstream: &mut backend::Settings| {
                    upstream.tls = Some(tls());
                    upstream.pool.keep_alive.enabled = false;
                    upstream.closing.short = short;
                };
                closes(addr, change, REQUESTS, left, resets);
            }
        },
    );
}

#[test]
fn with_http2_each_close_mode_is_as_exact() {
    in_network_of_its_own(
        "kernel_transports::with_http2_each_close_mode_is_as_exact",
        || {
            let authority = Authority::new();
            for (idle, left, resets) in [
                (CloseMode::Fin, (1, 0), 0),
                (CloseMode::Rst, (0, 0), 1),
                (CloseMode::FinRst, (0, 0), 1),
            ] {
                eprintln!("idle {idle:?}");
                let (_nginx, addr) = nginx(&authority, "http2");
                let change = |upstream: &mut backend::Settings| {
                    upstream.protocol = Protocol::Http2;
                    upstream.pool.keep_alive.timeout = ms(300);
                    upstream.closing.idle = idle;
                };
                closes(addr, change, 1, left, resets);
            }
            // nginx 1.22 does not close after a GOAWAY, so after a second we do.
            for (last, left, resets) in [
                (CloseMode::Peer, (0, 0), 1),
                (CloseMode::PeerRst, (0, 0), 1),
            ] {
                eprintln!("last {last:?}");
                let (_nginx, addr) = nginx(&authority, "http2");
                let change = |upstream: &mut backend::Settings| {
                    upstream.protocol = Protocol::Http2;
                    upstream.pool.keep_alive.max_requests = NonZeroU32::new(1);
                    upstream.closing.last = last;
                };
                closes(addr, change, REQUESTS / 2, left, resets);
            }
        },
    );
}

#[test]
fn with_fast_open_the_handshake_begins_with_the_syn() {
    in_network_of_its_own(
        "kernel_transports::with_fast_open_the_handshake_begins_with_the_syn",
        || {
            // Both sides; the server's is off by default.
            if std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").is_err() {
                eprintln!("SKIPPED: net.ipv4.tcp_fastopen cannot be set here");
                return;
            }
            let sent = || counter("/proc/net/netstat", "TcpExt:", "TCPFastOpenActive");
            let authority = Authority::new();
            let (nginx, addr) = nginx(&authority, "ssl fastopen=16");
            let with = |fast_open| {
                let proxy = Proxy::start(addr, |settings| {
                    let upstream = &mut settings.upstreams[0];
                    upstream.tls = Some(TlsSettings {
                        ca: Some(authority.ca()),
                        ..TlsSettings::default()
                    });
                    upstream.sockets.fast_open = fast_open;
                    upstream.pool.keep_alive.enabled = false;
                    settings.client.keep_alive = kept(NEVER, 0);
                });
                let before = sent();
                let mut client = proxy.client();
                for _ in 0..REQUESTS {
                    assert_eq!(ask(&mut client, GET).status, 200);
                }
                sent() - before
            };
            assert_eq!(with(false), 0);
            // The first one fetches the cookie.
            assert_eq!(with(true), REQUESTS - 1);

            // A cookie is there and nobody listens any more: that is a connection refused.
            drop(nginx);
            let proxy = Proxy::start(addr, |settings| {
                let upstream = &mut settings.upstreams[0];
                upstream.tls = Some(TlsSettings {
                    ca: Some(authority.ca()),
                    ..TlsSettings::default()
                });
                upstream.sockets.fast_open = true;
            });
            let refused = ask(&mut proxy.client(), GET);
            assert_eq!(refused.status, 502);
            assert!(refused.text().contains("could not be reached"));
        },
    );
}
