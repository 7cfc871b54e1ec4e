//! What integration tests are made with: real servers, a backend that misbehaves on demand, and a
//! client that says exactly what came.
//!
//! - [`nginx::Nginx`] and [`httpd::Httpd`]: the real programs as backends, with their own counts;
//! - [`scripted::Backend`]: our own backend, which does whatever a test needs a backend to do;
//! - [`proxy::TestProxy`]: the proxy under test, or with [`proxy::Program`] the program itself;
//! - [`http2::Http2`]: the same for HTTP/2;
//! - [`certs::Authority`]: certificates that nobody else trusts;
//! - [`chromedriver::Browser`]: a real browser;
//! - [`client::Client`]: bytes out, bytes in; [`curl`] where a real client is wanted.
//!
//! All of it is blocking and runs on threads of its own, so that it works beside any runtime; from a
//! task on a current-thread runtime that also serves the proxy under test, call it through
//! `spawn_blocking`. Ports are found free, directories are temporary, and what was started is
//! stopped when its value is dropped. A program that is missing fails the test: a test that cannot
//! run must not pass.

// One helper serves many test programs; none of them uses all of it.
#![allow(dead_code, unreachable_pub)]
// As in the tests themselves: what goes wrong here is a failed test.
#![allow(
    clippy::unwrap_used,
    clippy::format_push_string,
    clippy::wildcard_enum_match_arm
)]

pub mod certs;
pub mod chromedriver;
pub mod client;
pub mod dns;
pub mod http2;
pub mod httpd;
pub mod network;
pub mod nginx;
pub mod node;
pub mod process;
pub mod proxy;
pub mod scripted;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// The longest anything in these helpers waits for something that should come at once. Long, as a
/// busy machine is no reason to fail; nothing waits so long where all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A port of 127.0.0.1 that was free a moment ago.
///
/// Another process may take it before it is used: try again with another one, as
/// [`nginx`] and [`httpd`] do, or let the program listen on port 0 and say where it is.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port can be had");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

/// Waits until `condition` holds, looking every few milliseconds.
///
/// # Panics
/// When it does not within `bound`; the message names `what` was waited for.
pub fn wait_until(bound: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + bound;
    while !condition() {
        assert!(Instant::now() < end, "waited {bound:?} for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// [`wait_until`] for tasks: others on the same thread go on in the meantime.
pub async fn until(bound: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + bound;
    while !condition() {
        assert!(Instant::now() < end, "waited {bound:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Runs curl without its configuration file, without proxies, quiet but for errors, for at most two
/// minutes.
pub fn curl<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    Command::new(process::find(&["curl"], "curl"))
        .args([
            "-q",
            "--noproxy",
            "*",
            "--silent",
            "--show-error",
            "--max-time",
            "120",
        ])
        .args(args)
        .output()
        .expect("curl can be run")
}

/// 127.0.0.1 with this port.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Raises this process's limit of open files as far as it may go: for tests with many clients.
pub fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)
        .expect("a limit may be raised to its maximum");
}
