//! The parked clients of one worker: idle, without a task, an HTTP library or a runtime that knows of
//! them. They cost their socket and a line in three lists.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::{LAST_CHANCE, Parked};
use crate::memory;
use crate::net::{Lot, Moving, Peer};

/// After so many were parked, memory is given back: once no more were parked for a while, or at the latest
/// after this.
const MANY: u32 = 100;
const A_WHILE: Duration = Duration::from_millis(200);
const AT_LATEST: Duration = Duration::from_secs(5);

/// The parked clients of one worker.
pub(super) struct Parking {
    lot: Lot<Parked>,
    /// By until when they may stay.
    ends: RefCell<BTreeSet<(Instant, usize)>>,
    /// By since when they are idle.
    ages: RefCell<BTreeSet<(Instant, usize)>>,
    /// Told when the next event is sooner than it was.
    sooner: Notify,
    crowd: Cell<Crowd>,
}

/// Those that were parked since memory was given back.
#[derive(Clone, Copy, Debug, Default)]
struct Crowd {
    count: u32,
    /// When to look whether it still grows, once there are many, and how many there were at the last look.
    look: Option<Instant>,
    seen: u32,
    /// When to give back in any case.
    latest: Option<Instant>,
}

impl Crowd {
    /// One more was parked. True if it is many now.
    fn grow(&mut self, now: impl FnOnce() -> Instant) -> bool {
        self.count += 1;
        let is_many = self.count == MANY;
        if is_many {
            let now = now();
            (self.look, self.latest) = (Some(now + A_WHILE), Some(now + AT_LATEST));
        }
        is_many
    }

    /// Whether memory is to be given back now.
    fn is_over(&mut self, now: Instant) -> bool {
        let (Some(look), Some(latest)) = (self.look, self.latest) else {
            return false;
        };
        if now < look {
            return false;
        }
        if self.count > self.seen && now < latest {
            (self.seen, self.look) = (self.count, Some(now + A_WHILE));
            return false;
        }
        *self = Crowd::default();
        true
    }
}

/// What has become of a parked client.
pub(super) enum Left {
    /// It has sent something.
    Spoke(Moving, Parked),
    /// It has closed or reset its connection.
    Gone,
    /// Its time is over.
    Expired(Moving),
}

impl Parking {
    pub(super) fn new() -> io::Result<Parking> {
        Ok(Parking {
            lot: Lot::new()?,
            ends: RefCell::default(),
            ages: RefCell::default(),
            sooner: Notify::new(),
            crowd: Cell::default(),
        })
    }

    /// Puts a client there. An error closes its connection.
    pub(super) fn park(&self, socket: Moving, client: Parked) -> io::Result<()> {
        let (since, until) = (client.since, client.until);
        let number = self.lot.park(socket, client)?;
        self.ages.borrow_mut().insert((since, number));
        let first = self.ends.borrow().first().copied();
        self.ends.borrow_mut().insert((until, number));
        let mut crowd = self.crowd.get();
        let is_many = crowd.grow(Instant::now);
        self.crowd.set(crowd);
        if is_many || first.is_none_or(|(first, _)| until < first) {
            self.sooner.notify_one();
        }
        Ok(())
    }

    /// Since when the oldest is idle.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.ages.borrow().first().map(|(since, _)| *since)
    }

    /// Closes the oldest, for the sake of another: one on which nothing has come, so that it is a FIN. True
    /// if there was one.
    pub(super) fn evict(&self) -> bool {
        let is_silent = |number: &usize| self.lot.peer(*number) != Peer::Spoke;
        let oldest = {
            let ages = self.ages.borrow();
            ages.iter().map(|(_, number)| *number).find(is_silent)
        };
        oldest.is_some_and(|number| {
            drop(self.take(number));
            true
        })
    }

    fn take(&self, number: usize) -> (Moving, Parked) {
        let (socket, client) = self.lot.take(number);
        self.ends.borrow_mut().remove(&(client.until, number));
        self.ages.borrow_mut().remove(&(client.since, number));
        (socket, client)
    }

    /// None may stay for longer than a moment any more: see [`LAST_CHANCE`].
    pub(super) fn drain(&self) {
        let end = Instant::now() + LAST_CHANCE;
        let mut ends = self.ends.borrow_mut();
        let later = ends.split_off(&(end, 0));
        for (_, number) in later {
            self.lot.with(number, |client| client.until = end);
            ends.insert((end, number));
        }
        self.sooner.notify_one();
    }

    /// Waits until somebody leaves; those who have sent something come before those whose time is over.
    pub(super) async fn next(&self) -> io::Result<Vec<Left>> {
        loop {
            let first = self.ends.borrow().first().map(|(end, _)| *end);
            let wake = match (first, self.crowd.get().look) {
                (Some(end), Some(other)) => Some(end.min(other)),
                (end, other) => end.or(other),
            };
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ready = self.lot.ready() => {
                    let left: Vec<_> = ready?.into_iter().filter_map(|number| self.leaves(number)).collect();
                    if !left.is_empty() {
                        return Ok(left);
                    }
                }
                () = self.sooner.notified() => {}
                () = sleep => {
                    let now = Instant::now();
                    let mut crowd = self.crowd.get();
                    if crowd.is_over(now) {
                        memory::give_back();
                    }
                    self.crowd.set(crowd);
                    let expired = self.expired(now);
                    if !expired.is_empty() {
                        return Ok(expired);
                    }
                }
            }
        }
    }

    /// What has become of one, if anything has.
    fn leaves(&self, number: usize) -> Option<Left> {
        let peer = self.lot.peer(number);
        if peer == Peer::Silent {
            return None;
        }
        let (socket, client) = self.take(number);
        Some(match peer {
            Peer::Spoke => Left::Spoke(socket, client),
            Peer::Silent | Peer::Closed | Peer::Gone => Left::Gone,
        })
    }

    fn expired(&self, now: Instant) -> Vec<Left> {
        let mut expired = Vec::new();
        loop {
            let first = self.ends.borrow().first().copied();
            match first {
                Some((end, number)) if end <= now => {
                    // One that has sent something by now is served all the same.
                    let left = self.leaves(number);
                    expired.push(left.unwrap_or_else(|| Left::Expired(self.take(number).0)));
                }
                _ => return expired,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use tokio::runtime::{Builder, LocalOptions};
    use tokio::time::{advance, sleep_until};

    use super::*;
    use crate::net::{Socket, Stream, Wire};

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Runs this in a clock that is moved by hand.
    fn in_moved_time<F: Future<Output = ()>>(body: impl FnOnce(Parking) -> F) {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async { body(Parking::new().unwrap()).await });
    }

    /// Parks one; the client's end of it.
    fn parked(parking: &Parking, since: Instant, until: Instant) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let stream = tokio::net::TcpStream::from_std(accepted).unwrap();
        let (stream, socket) = Stream::new(Wire::from(stream));
        drop(stream);
        let socket = Socket::depart(socket).unwrap();
        parking.park(socket, Parked::idle(since, until)).unwrap();
        client.set_read_timeout(Some(ms(20))).unwrap();
        client
    }

    /// What those have come to that leave next.
    async fn next(parking: &Parking) -> Vec<&'static str> {
        let left = parking.next().await.unwrap();
        let name = |left| match left {
            Left::Spoke(..) => "spoke",
            Left::Gone => "gone",
            Left::Expired(_) => "expired",
        };
        left.into_iter().map(name).collect()
    }

    fn is_closed(mut client: &TcpStream) -> bool {
        client.read(&mut [0]).is_ok_and(|count| count == 0)
    }

    #[test]
    fn each_leaves_exactly_when_its_time_is_over_whatever_the_order_they_came_in() {
        in_moved_time(|parking| async move {
            let start = Instant::now();
            let clients = [180_000, 5_000, 180_000, 2_500]
                .map(|until| parked(&parking, start, start + ms(until)));
            for (at, count, open) in [(2_500, 1, 3), (5_000, 1, 2), (180_000, 2, 0)] {
                assert_eq!(next(&parking).await, vec!["expired"; count]);
                // A timer is of milliseconds: it may be late by one.
                let late = start.elapsed().checked_sub(ms(at)).expect("not before");
                assert!(late <= ms(1), "{late:?} after {at} ms");
                assert_eq!(
                    clients.iter().filter(|client| !is_closed(client)).count(),
                    open
                );
            }
            assert_eq!(parking.oldest(), None);
        });
    }

    #[test]
    fn one_that_comes_later_and_may_stay_for_less_leaves_first() {
        in_moved_time(|parking| async move {
            let start = Instant::now();
            let _long = parked(&parking, start, start + ms(60_000));
            let later = async {
                sleep_until(start + ms(100)).await;
                parked(&parking, start, start + ms(200))
            };
            let (left, _short) = tokio::join!(next(&parking), later);
            assert_eq!(left, ["expired"]);
            assert!(start.elapsed() <= ms(201), "{:?}", start.elapsed());
        });
    }

    #[test]
    fn a_byte_that_comes_when_its_time_is_over_is_heard() {
        in_moved_time(|parking| async move {
            let start = Instant::now();
            let mut client = parked(&parking, start, start + ms(1000));
            client.write_all(b"G").unwrap();
            advance(ms(1000)).await;
            // Though the kernel was not asked yet.
            let left = parking.expired(Instant::now());
            assert!(matches!(left[..], [Left::Spoke(..)]));

            let mut client = parked(&parking, start, start + ms(2000));
            client.write_all(b"G").unwrap();
            advance(ms(1000)).await;
            assert_eq!(next(&parking).await, ["spoke"]);
        });
    }

    #[test]
    fn who_goes_is_let_go_of() {
        in_moved_time(|parking| async move {
            let start = Instant::now();
            let (one, other) = (
                parked(&parking, start, start + ms(60_000)),
                parked(&parking, start, start + ms(60_000)),
            );
            drop(one);
            assert_eq!(next(&parking).await, ["gone"]);
            socket2::SockRef::from(&other)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            drop(other);
            assert_eq!(next(&parking).await, ["gone"]);
            assert_eq!((parking.oldest(), start.elapsed()), (None, ms(0)));
        });
    }

    #[test]
    fn who_has_been_idle_for_the_longest_gives_way_first_but_not_one_that_has_spoken() {
        in_moved_time(|parking| async move {
            let start = Instant::now();
            let until = start + ms(60_000);
            let mut clients =
                [30, 10, 20, 0].map(|since| parked(&parking, start + ms(since), until));
            clients[3].write_all(b"G").unwrap();
            assert_eq!(parking.oldest(), Some(start));
            for (evicted, left) in [(1, vec![0, 2]), (2, vec![0]), (0, vec![])] {
                assert!(parking.evict());
                assert!(is_closed(&clients[evicted]), "{evicted}, with a FIN");
                for one in left {
                    assert!(!is_closed(&clients[one]), "{one}");
                }
            }
            assert!(!parking.evict(), "there is none that is silent");
            assert_eq!(next(&parking).await, ["spoke"]);
        });
    }

    #[test]
    fn at_the_end_all_have_a_moment_at_most() {
        in_moved_time(|parking| async move {
            let start = Instant::now();
            let _soon = parked(&parking, start, start + ms(50));
            let _later = parked(&parking, start, start + ms(60_000));
            let mut speaks = parked(&parking, start, start + ms(60_000));
            let draining = async {
                sleep_until(start + ms(20)).await;
                parking.drain();
            };
            let (left, ()) = tokio::join!(next(&parking), draining);
            assert_eq!(left, ["expired"]);
            assert!(start.elapsed() <= ms(51), "{:?}", start.elapsed());
            speaks.write_all(b"G").unwrap();
            assert_eq!(next(&parking).await, ["spoke"]);
            assert_eq!(next(&parking).await, ["expired"]);
            let took = start.elapsed();
            assert!(
                ms(20) + LAST_CHANCE <= took && took <= ms(21) + LAST_CHANCE,
                "{took:?}"
            );
        });
    }

    #[test]
    fn memory_is_given_back_when_a_crowd_has_come_to_rest_or_goes_on_for_long() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut crowd = Crowd::default();
        for _ in 0..MANY - 1 {
            assert!(!crowd.grow(|| start));
        }
        assert!(!crowd.is_over(at(10_000)), "these are few");
        assert!(crowd.grow(|| start));
        for look in 1..25 {
            assert!(!crowd.is_over(at(200 * look - 1)));
            assert!(!crowd.is_over(at(200 * look)), "it has grown");
            crowd.grow(|| unreachable!("it was many before"));
        }
        assert!(crowd.is_over(at(5000)), "it goes on for long");
        for _ in 0..MANY {
            crowd.grow(|| at(6000));
        }
        assert!(!crowd.is_over(at(6200)));
        assert!(crowd.is_over(at(6400)), "no more have come");
        assert!(!crowd.is_over(at(9000)), "only once");
    }
}
