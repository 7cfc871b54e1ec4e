//! The proxy between real clients and real servers, and between a client that sends any bytes and a
//! backend that misbehaves: what passes, what does not, and what happens when something breaks.

// What goes wrong here is a failed test.
#![allow(clippy::unwrap_used, clippy::format_push_string)]

#[path = "../support/mod.rs"]
mod support;

mod balance;
mod bodies;
mod closing;
mod counts;
mod desync;
mod errors;
mod forwarded;
mod forwarding;
mod front_http2;
mod front_tls;
mod front_websocket;
mod grpc;
mod headers;
mod http2;
mod interim;
mod memory;
mod names;
mod race;
mod random;
mod routing;
mod sockets;
mod stale;
mod streams;
mod tls;
mod unsent;
mod upgrade;
mod workers;

use support::client::Client;

/// An answer that any client understands.
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// An answer with this body.
fn answer(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut whole = head.into_bytes();
    whole.extend_from_slice(body);
    whole
}

/// A request line and headers with `Host`, for a client of version 1.1.
fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test.example\r\n\r\n")
}

/// A POST of this body, its length announced.
fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: test.example\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Asserts that the connection still serves.
fn assert_serves(client: &mut Client) {
    assert_eq!(client.get("/").status, 200, "the connection serves");
}
