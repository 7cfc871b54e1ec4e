//! Where a proxy can be asked how it is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The listener for operators and their programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where it is.
    pub address: AdminAddress,
    /// Whether others than this machine may ask, under any name.
    pub public: bool,
}

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// At an address and port.
    Ip(SocketAddr),
    /// At a Unix socket with this path.
    Unix(PathBuf),
}

impl AdminAddress {
    /// The address and port, if it has them.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            AdminAddress::Ip(address) => Some(*address),
            AdminAddress::Unix(_) => None,
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Ip(address) => address.fmt(f),
            AdminAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for AdminSettings {
    /// For this machine alone.
    fn from(address: SocketAddr) -> AdminSettings {
        AdminSettings {
            address: AdminAddress::Ip(address),
            public: false,
        }
    }
}
