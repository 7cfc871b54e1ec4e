//! Sockets on which nothing is expected for a while, and the one thing asked of each: whether
//! something has come.
//!
//! A socket that a runtime watches costs it some hundreds of bytes, and a task that waits for it some
//! hundreds more. Here it costs its descriptor and its place in a list: all of them are watched by an epoll of
//! their own, and the runtime watches that.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::event::{Timespec, epoll};
use slab::Slab;
use socket2::SockRef;
use tokio::io::unix::AsyncFd;

use super::wire::Moving;
use super::{Peer, sockopt};

/// How many are told of at once.
const EVENTS: usize = 64;

/// Sockets that are waited on, each with what is known of it.
pub struct Lot<T> {
    epoll: AsyncFd<OwnedFd>,
    places: RefCell<Slab<(Moving, T)>>,
}

impl<T> Lot<T> {
    /// An empty one, watched by the current runtime.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn new() -> io::Result<Lot<T>> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Lot {
            epoll: sockopt::watched(epoll)?,
            places: RefCell::default(),
        })
    }

    /// Puts a socket there; returns the number of its place.
    ///
    /// # Errors
    /// When the kernel cannot watch it; the socket is closed.
    pub fn park(&self, socket: Moving, what: T) -> io::Result<usize> {
        let mut places = self.places.borrow_mut();
        let place = places.vacant_entry();
        let number = place.key();
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64(number as u64),
            epoll::EventFlags::IN | epoll::EventFlags::RDHUP,
        )?;
        place.insert((socket, what));
        Ok(number)
    }

    /// Takes a socket from its place.
    pub fn take(&self, number: usize) -> (Moving, T) {
        let (socket, what) = self.places.borrow_mut().remove(number);
        // An error here would mean that it is not watched, which is what is wanted.
        let _ = epoll::delete(&self.epoll, &socket);
        (socket, what)
    }

    /// What the peer of one has done.
    pub fn peer(&self, number: usize) -> Peer {
        let places = self.places.borrow();
        let (socket, _) = &places[number];
        Peer::of(SockRef::from(socket).peek(&mut [MaybeUninit::uninit()]))
    }

    /// Changes what is known of one.
    pub fn with(&self, number: usize, change: impl FnOnce(&mut T)) {
        change(&mut self.places.borrow_mut()[number].1);
    }

    /// Waits until something has come on some of them: their numbers. Until they are taken they are told
    /// of again.
    ///
    /// # Errors
    /// As the kernel says; none is expected.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn ready(&self) -> io::Result<Vec<usize>> {
        loop {
            let mut guard = self.epoll.readable().await?;
            let mut events = [MaybeUninit::uninit(); EVENTS];
            let at_once = Timespec::default();
            let (events, _) = epoll::wait(&self.epoll, &mut events, Some(&at_once))?;
            if events.is_empty() {
                guard.clear_ready();
                continue;
            }
            let numbers = events.iter().map(|event| event.data.u64());
            return Ok(numbers
                .filter_map(|data| usize::try_from(data).ok())
                .collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use tokio::runtime::{Builder, LocalOptions};

    use super::super::{Stream, Wire};
    use super::*;

    fn parked(lot: &Lot<&'static str>, name: &'static str) -> (usize, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(accepted).unwrap();
        let (stream, socket) = Stream::new(Wire::from(stream));
        drop(stream);
        let moving = super::super::Socket::depart(socket).unwrap();
        (lot.park(moving, name).unwrap(), peer)
    }

    #[test]
    fn those_on_which_something_has_come_are_told_of_and_no_others() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let lot = Lot::new().unwrap();
            let (one, mut first) = parked(&lot, "one");
            let (two, second) = parked(&lot, "two");
            let (three, _third) = parked(&lot, "three");
            first.write_all(b"x").unwrap();
            assert_eq!(lot.ready().await.unwrap(), [one]);
            assert_eq!(lot.peer(one), Peer::Spoke);
            assert_eq!(lot.take(one).1, "one");
            drop(second);
            assert_eq!(lot.ready().await.unwrap(), [two]);
            assert_eq!(
                (lot.peer(two), lot.peer(three)),
                (Peer::Closed, Peer::Silent)
            );
            assert_eq!(lot.take(two).1, "two");
            assert_eq!(lot.places.borrow().len(), 1);
        });
    }
}
