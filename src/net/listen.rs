//! Listening: one socket a worker on the same address, shared by the kernel.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};

/// How many connections the kernel may hold until a worker accepts them; the kernel lowers it to
/// `net.core.somaxconn`. nginx has 511, Apache httpd `ListenBackLog 511`.
pub const BACKLOG: i32 = 4096;

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {}", advice(source))]
pub struct ListenError {
    /// The address asked for.
    pub address: SocketAddr,
    /// What the kernel said.
    pub source: io::Error,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most errors speak for themselves"
)]
fn advice(source: &io::Error) -> String {
    let hint = match source.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there (`ss -ltnp` names it); stop it or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => "no interface of this machine has that address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need root or CAP_NET_BIND_SERVICE",
        _ => return source.to_string(),
    };
    format!("{source}: {hint}")
}

/// One address that is listened on: a socket for each worker, until that takes it.
#[derive(Debug)]
pub struct Listening {
    asked_for: SocketAddr,
    address: SocketAddr,
    sockets: Mutex<Vec<Option<TcpListener>>>,
}

impl Listening {
    /// Listens on `address` with a socket for each of `workers`; see `bind`.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn on(address: SocketAddr, workers: usize) -> Result<Listening, ListenError> {
        let sockets = bind(address, workers)?;
        let bound = sockets.first().map(TcpListener::local_addr).transpose();
        Ok(Listening {
            asked_for: address,
            address: bound
                .map_err(|source| ListenError { address, source })?
                .unwrap_or(address),
            sockets: Mutex::new(sockets.into_iter().map(Some).collect()),
        })
    }

    /// The address that was asked for; its port may be 0.
    pub fn asked_for(&self) -> SocketAddr {
        self.asked_for
    }

    /// The address it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket of the `worker`-th worker, which only that takes, and once.
    pub fn take(&self, worker: usize) -> Option<TcpListener> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.get_mut(worker)?.take()
    }
}

/// Opens `sockets` listening sockets on one address, non-blocking, with `SO_REUSEPORT`.
///
/// The kernel spreads new connections over them (socket(7)). An address that any other program
/// listens on is refused, even one that would share it: two proxies must not split the clients
/// between them by mistake. With port 0 the kernel chooses one port for all.
///
/// # Errors
/// [`ListenError`], naming the address and what to do.
fn bind(address: SocketAddr, sockets: usize) -> Result<Vec<TcpListener>, ListenError> {
    let fail = |source| ListenError { address, source };
    if address.port() != 0 {
        // Without SO_REUSEPORT this fails beside any other listener.
        let alone = socket(address, false).map_err(fail)?;
        alone.bind(&address.into()).map_err(fail)?;
    }
    let mut bound = address;
    (0..sockets)
        .map(|_| {
            let socket = socket(address, true).map_err(fail)?;
            socket.bind(&bound.into()).map_err(fail)?;
            socket.listen(BACKLOG).map_err(fail)?;
            let listener = TcpListener::from(socket);
            bound = listener.local_addr().map_err(fail)?;
            Ok(listener)
        })
        .collect()
}

fn socket(address: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A restart must not wait for the TIME_WAIT sockets of its predecessor.
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // [::] is for IPv4 too, as in nginx's and Apache's defaults.
        let any = address.ip().is_unspecified();
        socket.set_only_v6(!any)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_another_listener_has_is_refused_with_advice() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let taken = first[0].local_addr().unwrap();
        assert_eq!(taken, first[1].local_addr().unwrap());
        let message = bind(taken, 1).unwrap_err().to_string();
        assert!(message.contains(&taken.to_string()), "{message}");
        assert!(
            message.contains("another program listens there"),
            "{message}"
        );
    }
}
