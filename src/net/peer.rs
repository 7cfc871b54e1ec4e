//! What the other end of a connection has done, and which of two ends went first.

use std::io;

use super::sockopt;
use super::wire::Raw;

/// What a peer has done while nothing was read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Nothing, as far as can be known.
    Silent,
    /// Sent bytes.
    Spoke,
    /// Closed its side: it sends nothing more, and may or may not read on.
    Closed,
    /// Reset the connection.
    Gone,
}

impl Peer {
    /// What a look at the next bytes says of it.
    pub(super) fn of(peeked: io::Result<usize>) -> Peer {
        match peeked {
            Ok(0) => Peer::Closed,
            Ok(_) => Peer::Spoke,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Peer::Silent,
            Err(_) => Peer::Gone,
        }
    }

    /// Whether nothing more can come.
    pub fn is_over(self) -> bool {
        matches!(self, Peer::Closed | Peer::Gone)
    }
}

/// How our FIN went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fin {
    /// Before the peer's, as far as that had come.
    pub is_first: bool,
    /// The kernel's number for the connection, if it is first and there is one.
    pub cookie: Option<u64>,
}

impl Fin {
    /// How it stands right before our FIN is sent on this socket.
    pub(super) fn about_to_go(raw: &Raw) -> Fin {
        let is_first = match raw {
            Raw::Tcp(stream) => sockopt::is_established(stream),
            Raw::Unix(_) | Raw::Away => false,
        };
        // A TIME_WAIT keeps the number only if somebody had asked for it before.
        let cookie = if is_first { raw.cookie() } else { None };
        Fin { is_first, cookie }
    }
}

/// Whether a write failed since the peer has reset the connection.
pub(super) fn is_of_peer(kind: io::ErrorKind) -> bool {
    kind == io::ErrorKind::BrokenPipe || kind == io::ErrorKind::ConnectionReset
}
