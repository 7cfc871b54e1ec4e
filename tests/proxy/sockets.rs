//! Backends at Unix sockets, and backends that want to know the client before all else.

use std::net::SocketAddr;

use warmline::keepalive::CloseReason;
use warmline::net::ProxyProtocol;

use crate::support::client::Client;
use crate::support::nginx::Nginx;
use crate::support::proxy::{Builder, TestProxy};
use crate::support::{free_port, local};

fn to_unix(nginx: &Nginx) -> Builder {
    let path = nginx.files().join("socket");
    TestProxy::to(nginx.addr).unlimited().upstream(|upstream| {
        upstream.servers[0].address = format!("unix:{}", path.display());
    })
}

/// nginx at a Unix socket in its own folder.
fn unix_nginx() -> (Nginx, tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("socket");
    let nginx = Nginx::start(&format!(
        "listen unix:{}; keepalive_requests 1000000; location / {{ return 200 '$connection $host'; }}",
        path.display()
    ));
    (nginx, dir, path)
}

#[test]
fn a_backend_at_a_unix_socket_is_spoken_to_like_any_other() {
    let (nginx, _dir, path) = unix_nginx();
    let unix = |builder: Builder| {
        let address = format!("unix:{}", path.display());
        builder.upstream(move |upstream| upstream.servers[0].address = address)
    };
    let before = nginx.connections_accepted();
    let proxy = unix(TestProxy::to(nginx.addr).unlimited())
        .workers(4)
        .start();
    for _ in 0..200 {
        assert_eq!(Client::connect(proxy.addr()).get("/").status, 200);
    }
    let accepted = nginx.connections_accepted() - before;
    // A worker that is late to lend, on a busy machine, costs one more.
    assert!(accepted <= 8, "{accepted} connections");
    assert!(proxy.figures().counts.borrowed > 20);
    let short = unix(TestProxy::to(nginx.addr).unlimited()).short().start();
    let mut client = Client::connect(short.addr());
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(short.figures().counts.opened, 20);
    // Without the client's Host it is what nginx says there.
    let own = unix(TestProxy::to(nginx.addr))
        .upstream(|upstream| upstream.preserve_host = false)
        .start();
    let response = Client::connect(own.addr()).get("/");
    assert!(
        response.text().ends_with(" localhost"),
        "{}",
        response.text()
    );
}

#[test]
fn nobody_at_a_unix_socket_is_a_backend_that_cannot_be_reached() {
    let nginx = Nginx::start("");
    let proxy = to_unix(&nginx).start();
    let response = Client::connect(proxy.addr()).get("/");
    assert_eq!(response.status, 502);
    assert!(response.text().contains("could not be reached"));
}

/// nginx that wants a PROXY header, and says what it was told.
fn told_nginx() -> (Nginx, SocketAddr) {
    let addr = local(free_port());
    let nginx = Nginx::start(&format!(
        "listen {addr} proxy_protocol; keepalive_requests 1000000; location / {{ return 200 \
         '$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_addr:\
         $proxy_protocol_server_port $connection'; }}"
    ));
    (nginx, addr)
}

#[test]
fn a_backend_is_told_the_client_and_its_connection_is_that_clients_only() {
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let (nginx, addr) = told_nginx();
        let before = nginx.connections_accepted();
        let proxy = TestProxy::to(addr)
            .unlimited()
            .upstream(|upstream| upstream.proxy_protocol = Some(version))
            .start();
        let mut clients: Vec<_> = (0..5).map(|_| Client::connect(proxy.addr())).collect();
        for _ in 0..10 {
            for client in &mut clients {
                let ours = client.stream().local_addr().unwrap();
                let told = client.get("/").text();
                let ends = format!("{ours} {} ", proxy.addr());
                assert!(told.starts_with(&ends), "{version:?}: {told}, not {ends}");
            }
        }
        assert_eq!(nginx.connections_accepted() - before, 5, "one a client");
        assert_eq!(proxy.figures().counts.reused, 45);
        // Nobody else can use them.
        drop(clients);
        proxy.wait_closed_for(CloseReason::Surplus, 5);
    }
}
