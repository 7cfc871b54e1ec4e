//! The first words of a connection, before HTTP: the PROXY header, where it came through another proxy, and the TLS
//! handshake, where TLS is spoken.

use std::future::Future;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;

use super::introduction::introduction;
use super::serve::LINGER_SHORT;
use super::{Policy, answer};
use crate::account::{FrontTally, Handshake};
use crate::net::{self, ClientAddr, Ends, Greeted, HandshakeFault, Raw, Stream, Wire};

/// What has come of greeting a client.
pub struct Greeting {
    /// Its connection.
    pub wire: Wire,
    /// The ends of the connection it is of, if another proxy has said so.
    pub introduced: Option<Ends>,
    /// What its TLS handshake has said, if there was one.
    pub greeted: Option<Greeted>,
}

impl Greeting {
    /// Of one that speaks HTTP at once.
    pub fn of(stream: TcpStream) -> Greeting {
        Greeting {
            wire: Wire::from(stream),
            introduced: None,
            greeted: None,
        }
    }
}

/// Whether a client that connects from `address` has something to say before HTTP.
pub fn is_to_be_greeted(address: ClientAddr, policy: &Policy) -> bool {
    policy.tls().is_some() || has_to_be_introduced(address, policy)
}

fn has_to_be_introduced(address: ClientAddr, policy: &Policy) -> bool {
    let introduced_by = &policy.settings(None).introduced_by;
    introduced_by.contain(address.0.ip())
}

/// Greets a client that has connected from `address`. `None` if nothing comes of it: then it is closed, and counted.
///
/// # Cancellation
/// Closes the connection.
pub async fn greet(
    stream: TcpStream,
    address: ClientAddr,
    policy: &Policy,
    front: &FrontTally,
) -> Option<Greeting> {
    let mut introduced = None;
    if has_to_be_introduced(address, policy) {
        introduced = introduction(&stream, address, policy.settings(None), front).await?;
    }
    let Some(tls) = policy.tls() else {
        return Some(Greeting {
            introduced,
            ..Greeting::of(stream)
        });
    };
    match tls.greet(Raw::from(stream)).await {
        Ok((wire, greeted)) => {
            front.shakes(if greeted.resumed {
                Handshake::Resumed
            } else {
                Handshake::Full
            });
            Some(Greeting {
                wire,
                introduced,
                greeted: Some(greeted),
            })
        }
        Err(fault) => {
            let client = introduced.map_or(address.0, |ends| ends.client);
            debug!(%client, reason = %fault, "no TLS");
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
