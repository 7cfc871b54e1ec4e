//! Sockets: who they belong to, listening, connecting, closing.

mod close;
mod connect;
mod dial;
mod hear;
mod interim;
mod introduced;
mod introduction;
mod listen;
mod lot;
mod names;
mod networks;
mod options;
mod peer;
mod socket;
mod sockopt;
mod sources;
mod tls;
mod tunnel;
mod wire;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

pub use close::{CloseMode, linger, wait_for_peer};
pub use connect::{ConnectError, Connected, PortUse, TcpConnect};
pub use dial::{Call, Dial, HandshakeFailed, Opened};
pub use hear::{NotIntroduced, hear};
pub use introduced::Malformed;
pub use introduction::{Ends, ProxyProtocol};
pub use listen::{BACKLOG, ListenError, Listening};
pub use lot::Lot;
pub use names::{WireNames, find, find_all};
pub use networks::{Network, Networks, NoNetwork};
pub use options::{
    LONGEST_DEVICE, LONGEST_KEEPALIVE, OptionError, PortRange, Probes, SocketOptions, is_here,
};
pub use peer::{Fin, Peer};
pub use socket::{Socket, Stream};
pub use sockopt::{PathFacts, own_network, own_processes, tunnel};
pub use tls::{
    CertificateSource, ClientAuth, Greeted, HandshakeFault, MinVersion, Offer, Prepared, Served,
    ServerTls, ServerTlsSettings, Shaken, Shown, Tls, TlsError, TlsSettings,
};
pub use tunnel::{Over, Patience, Side, Tunnel};
pub use wire::{Moving, Raw, Wire};

/// Where a client connected from. Not to be mistaken for a [`BackendAddr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// The address of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddr {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A Unix socket's path.
    Unix(Arc<Path>),
}

impl BackendAddr {
    /// The IP address and port, if it has them.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            BackendAddr::Ip(address) => Some(*address),
            BackendAddr::Unix(_) => None,
        }
    }
}

impl fmt::Display for ClientAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for BackendAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackendAddr::Ip(address) => address.fmt(f),
            BackendAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
