//! A client of a load: its connection, and where its request stands.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::time::Instant;

use super::Unanswered;
use super::response::Response;

/// Where a connection's client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is asked; the connection may be open or not.
    Idle,
    Connecting,
    /// A request is being sent, or its answer awaited.
    Exchanging,
    /// Answered; the server is to close.
    Ending,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: Option<OwnedFd>,
    pub(super) phase: Phase,
    /// Which of the addresses it is connected to.
    pub(super) address: usize,
    /// When the request was due, and when its turn came.
    pub(super) due: Instant,
    pub(super) began: Instant,
    /// In `Ending`: when the answer was over.
    pub(super) answered: Instant,
    /// Whether the request counts.
    pub(super) measured: bool,
    /// Of the request.
    pub(super) written: usize,
    pub(super) response: Response,
}

impl Client {
    pub(super) fn new(start: Instant) -> Client {
        Client {
            socket: None,
            phase: Phase::Idle,
            address: 0,
            due: start,
            began: start,
            answered: start,
            measured: false,
            written: 0,
            response: Response::default(),
        }
    }

    /// Whether nothing is there to be read.
    pub(super) fn is_silent(&self) -> bool {
        self.socket
            .as_ref()
            .is_some_and(|socket| rustix::io::read(socket, &mut [0_u8]) == Err(Errno::AGAIN))
    }
}

/// Begins to connect; what comes of it the epoll tells under `number`.
pub(super) fn open(address: &SocketAddr, epoll: &OwnedFd, number: u64) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let flags = epoll::EventFlags::IN
        | epoll::EventFlags::OUT
        | epoll::EventFlags::RDHUP
        | epoll::EventFlags::ET;
    epoll::add(epoll, &socket, epoll::EventData::new_u64(number), flags)?;
    Ok(socket)
}

/// Why there is no connection.
pub(super) fn why(error: Errno) -> Unanswered {
    match error {
        Errno::CONNREFUSED => Unanswered::Refused,
        Errno::ADDRNOTAVAIL => Unanswered::NoPort,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => Unanswered::NoFile,
        Errno::TIMEDOUT => Unanswered::TimedOut,
        Errno::CONNRESET => Unanswered::Reset,
        _ => Unanswered::NoRoute,
    }
}
