//! The first words of a connection, before HTTP: the TLS handshake, where TLS is spoken.

use std::future::Future;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::serve::LINGER_SHORT;
use super::{Policy, answer};
use crate::account::{FrontTally, Handshake};
use crate::net::{self, ClientAddr, Greeted, HandshakeFault, Raw, Stream, Wire};

/// Greets a client that has connected. `None` if nothing comes of it: then it is closed, and counted.
///
/// # Cancellation
/// Closes the connection.
pub async fn greet(
    stream: TcpStream,
    address: ClientAddr,
    policy: &Policy,
    front: &FrontTally,
) -> Option<(Wire, Option<Greeted>)> {
    let raw = Raw::from(stream);
    let Some(tls) = policy.tls() else {
        return Some((Wire::Plain(raw), None));
    };
    match tls.greet(raw).await {
        Ok((wire, greeted)) => {
            front.shakes(if greeted.resumed {
                Handshake::Resumed
            } else {
                Handshake::Full
            });
            Some((wire, Some(greeted)))
        }
        Err(fault) => {
            debug!(client = %address, reason = %fault, "no TLS");
            front.shakes(match &fault {
                HandshakeFault::Timeout => Handshake::Timeout,
                HandshakeFault::Gone => Handshake::Gone,
                HandshakeFault::PlainHttp(_) => Handshake::PlainHttp,
                HandshakeFault::Other(_) => Handshake::Failed,
            });
            if let HandshakeFault::PlainHttp(raw) = fault {
                let _ = timeout(LINGER_SHORT, explain(raw)).await;
            }
            None
        }
    }
}

/// Tells a client that speaks plain HTTP what it has to do. Source: nginx, status 497.
async fn explain(raw: Raw) -> io::Result<()> {
    let (mut stream, _) = Stream::new(Wire::Plain(raw));
    let text = answer::raw(
        http::StatusCode::BAD_REQUEST,
        "TLS is spoken here: ask for it with https.",
    );
    stream.write_all(&text).await?;
    net::linger(stream, LINGER_SHORT).await;
    Ok(())
}

/// Waits for `greeting` until `end`.
pub async fn until<T>(
    greeting: impl Future<Output = Option<T>>,
    end: impl Future<Output = ()>,
) -> Option<T> {
    tokio::select! {
        greeted = greeting => greeted,
        () = end => None,
    }
}
