//! Sockets: who they belong to, listening, connecting, closing.

mod close;
mod connect;
mod listen;
mod names;
mod socket;
mod sockopt;

use std::fmt;
use std::net::SocketAddr;

pub use close::{CloseMode, linger, wait_for_peer};
pub use connect::{ConnectError, TcpConnect};
pub use listen::{ListenError, Listening};
pub use names::WireNames;
pub use socket::{Peer, Socket, Stream};

/// Where a client connected from. Not to be mistaken for a [`BackendAddr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// The address of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendAddr(pub SocketAddr);

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
