//! Where a client connection comes from: by itself, or through others.

use std::net::SocketAddr;
use std::rc::Rc;

use super::Conn;
use crate::client::trust::{Named, Standing, Trust, ip_value};
use crate::net::{ClientAddr, Ends};

/// How a client was introduced by whom it came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Introduced {
    /// Where the connection comes from as the kernel has it.
    by: ClientAddr,
    /// The end of the client's connection over there, where it came in.
    proxy: SocketAddr,
}

impl Conn {
    /// The same connection, and whose it is if somebody else has told.
    #[must_use]
    pub fn introduced(self, ends: Option<Ends>) -> Conn {
        let Some(Ends { client, proxy }) = ends else {
            return self;
        };
        let ip = client.ip().to_canonical();
        let by = self.address;
        Conn {
            address: ClientAddr(client),
            ip: ip_value(ip),
            standing: self.trust().standing(ip),
            introduced: Some(Rc::new(Introduced { by, proxy })),
            ..self
        }
    }

    /// Who has introduced it, as the kernel has the connection's other end.
    pub fn introduced_by(&self) -> Option<ClientAddr> {
        self.introduced.as_ref().map(|introduced| introduced.by)
    }

    /// Whose word counts on its listener.
    pub fn trust(&self) -> &Trust {
        &self.policy.settings(None).trust
    }

    /// What its own word counts for.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Where the client's connection came in: here, or at the proxy that has introduced it.
    fn near_end(&self) -> Option<SocketAddr> {
        match &self.introduced {
            None => self.socket.local_addr(),
            Some(introduced) => Some(introduced.proxy),
        }
    }

    /// The two ends that the connection of `named` would have.
    pub fn ends_of(&self, named: &Named) -> Option<(SocketAddr, SocketAddr)> {
        Some((named.address(), self.near_end()?))
    }

    /// The two ends of the connection, the client's and ours.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        if let Some(carrier) = &self.carrier {
            return carrier.ends();
        }
        if self.ends.get().is_none() {
            let ours = self.near_end();
            self.ends.set(ours.map(|ours| (self.address.0, ours)));
        }
        self.ends.get()
    }

    /// The same, if anybody has asked for them.
    pub fn known_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends.get()
    }
}
