//! A proxy within the test's own process, and what it is asked.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use warmline::account::PoolFigures;
use warmline::backend::{self, ServerSettings};
use warmline::client;
use warmline::keepalive::KeepAlive;
use warmline::route::RouteSettings;
use warmline::server::{Server, Settings};

use crate::support::client::{Client, RawResponse};
use crate::support::local;

/// How late something that was due may come. A busy machine is late by seconds at times; what else
/// could end a wait is a minute away, so a wrong one is still told from the right one.
pub const LATE: Duration = Duration::from_secs(10);

/// A wait that must not be the one that ends: longer than any test.
pub const NEVER: Duration = Duration::from_secs(60);

/// A request that says nothing about its connection.
pub const GET: &str = "GET / HTTP/1.1\r\nHost: test.example\r\n\r\n";

/// A request that names keep-alive.
pub const GET_KEPT: &str = "GET / HTTP/1.1\r\nHost: test.example\r\nConnection: keep-alive\r\n\r\n";

/// A proxy with one worker; stopped when dropped.
pub struct Proxy {
    server: Option<Server>,
    /// Where it listens.
    pub addr: SocketAddr,
}

impl Proxy {
    /// In front of `backend`, every setting at its default but for what `change` does.
    pub fn start(backend: SocketAddr, change: impl FnOnce(&mut Settings)) -> Proxy {
        let mut settings = settings_to(backend);
        change(&mut settings);
        let server = Server::start(&settings).expect("a proxy on a free port starts");
        Proxy {
            addr: server.addresses()[0],
            server: Some(server),
        }
    }

    /// A new connection to it.
    pub fn client(&self) -> Client {
        Client::connect(self.addr)
    }

    /// The running server.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until it is dropped")
    }

    /// The figures of its upstream.
    pub fn figures(&self) -> PoolFigures {
        let server = self.server.as_ref();
        server.expect("it runs until it is dropped").upstreams()[0].sum()
    }
}

/// Settings of a proxy in front of `backend`, everything at its default.
pub fn settings_to(backend: SocketAddr) -> Settings {
    let servers = vec![ServerSettings::new(backend.to_string())];
    Settings {
        certificates: Vec::new(),
        workers: 1,
        shutdown_timeout: Duration::from_secs(1),
        resolver: Vec::new(),
        client: client::Settings::default(),
        max_clients: None,
        admin: None,
        access_log: None,
        listeners: vec![local(0).into()],
        hosts: Vec::new(),
        routes: vec![RouteSettings::to("/", "app").into()],
        upstreams: vec![backend::Settings::new("app", servers)],
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
            server.join();
        }
    }
}

/// The settings towards clients that these tests vary: the idle time and the limit.
pub fn kept(timeout: Duration, max_requests: u32) -> KeepAlive {
    KeepAlive {
        enabled: true,
        max_requests: NonZeroU32::new(max_requests),
        timeout,
    }
}

pub fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Sends a request and reads the response.
pub fn ask(client: &mut Client, request: &str) -> RawResponse {
    client.send(request);
    client.response()
}

/// The values of `Connection` and `Keep-Alive`, as one text each.
pub fn said(response: &RawResponse) -> (String, String) {
    let all = |name| response.all(name).join(" + ");
    (all("connection"), all("keep-alive"))
}
