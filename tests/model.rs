//! The part of the pool that workers share, under a model checker: `loom` goes through every order
//! in which two threads' steps can interleave. The files are the pool's own, compiled against
//! loom's locks and atomics in place of `std`'s.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers
#![allow(dead_code, unreachable_pub, unused_imports)] // not everything of the files is needed here

#[path = "../src/keepalive.rs"]
#[allow(clippy::duplicate_mod)]
mod keepalive;

#[path = "../src/pool"]
mod pool {
    pub mod line;
    pub mod settings;
    pub mod share;

    /// In place of `src/pool/sync.rs`.
    mod sync {
        pub(super) use loom::sync::atomic::{AtomicU32, Ordering};
        pub(super) use loom::sync::{Arc, Mutex, MutexGuard};

        pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
            mutex.lock().unwrap()
        }
    }

    pub mod models {
        use std::future::poll_fn;
        use std::num::NonZeroU32;
        use std::task::Poll;

        use loom::future::block_on;
        use loom::sync::Arc;
        use loom::thread;
        use tokio::time::Instant;

        use super::line::{Arrival, Offer, Ticket};
        use super::settings::Settings;
        use super::share::{Brought, Place, Shared, Slot};
        use crate::keepalive::KeepAlive;

        type Hall = Shared<(), &'static str>;

        fn hall(max_connections: u32) -> Hall {
            let settings = Settings {
                max_connections: NonZeroU32::new(max_connections),
                ..Settings::new(KeepAlive::BACKEND)
            };
            Shared::new(&settings, 2)
        }

        fn place(worker: usize) -> (Place<(), &'static str>, Arc<Slot<&'static str>>) {
            let slot = Arc::new(Slot::default());
            let place = Place {
                worker,
                wants: (),
                slot: Arc::clone(&slot),
            };
            (place, slot)
        }

        fn opened(hall: &Hall, now: Instant) {
            let (place, _) = place(0);
            assert!(matches!(hall.arrive(now, place), Arrival::Open(_)));
            assert!(matches!(hall.arrived(now, |_| true), Offer::To(_)));
        }

        fn waits(arrival: Arrival) -> Ticket {
            match arrival {
                Arrival::Wait(ticket) => ticket,
                Arrival::Open(_) | Arrival::Full => panic!("the limit is reached"),
            }
        }

        fn brought(slot: &Slot<&'static str>) -> Brought<&'static str> {
            block_on(poll_fn(|cx| slot.poll(cx)))
        }

        /// Looks at its mail once, as a worker's tending task does: has it been asked to look?
        fn asked_to_look(hall: &Hall, worker: usize) -> bool {
            block_on(poll_fn(|cx| {
                Poll::Ready(match hall.poll_mail(worker, cx) {
                    Poll::Ready(mail) => mail.look,
                    Poll::Pending => false,
                })
            }))
        }

        /// One worker parks the only connection while another has to wait for it: it is brought to
        /// him, whatever the order.
        pub fn a_connection_that_is_parked_reaches_one_who_begins_to_wait() {
            let now = Instant::now();
            let hall = Arc::new(hall(1));
            opened(&hall, now);
            let there = Arc::clone(&hall);
            let parking = thread::spawn(move || {
                // Parked, as the worker's own memory has it. Then, as `came_free` does:
                let mut idle = Some("the connection");
                let serve = |idle: &mut Option<&'static str>| {
                    while idle.is_some() && there.anyone_in_line() {
                        match there.offer(now, |_| true) {
                            Offer::To(place) => {
                                let conn = idle.take().unwrap();
                                assert!(place.slot.bring(conn).is_ok(), "he waits");
                            }
                            Offer::MakeRoom | Offer::Nobody => break,
                        }
                    }
                };
                serve(&mut idle);
                // And, as the tending task does whenever it is woken by its mailbox:
                while idle.is_some() {
                    let mail = block_on(poll_fn(|cx| there.poll_mail(0, cx)));
                    assert!(mail.look);
                    serve(&mut idle);
                }
            });
            let (place, slot) = place(1);
            waits(hall.arrive(now, place));
            assert_eq!(brought(&slot), Brought::Conn("the connection"));
            parking.join().unwrap();
        }

        /// A connection ends while somebody begins to wait for its place: he may open one.
        pub fn the_place_of_one_that_ends_goes_to_one_who_begins_to_wait() {
            let now = Instant::now();
            let hall = Arc::new(hall(1));
            opened(&hall, now);
            let there = Arc::clone(&hall);
            let ending = thread::spawn(move || there.ended(now));
            let (place, slot) = place(1);
            match hall.arrive(now, place) {
                Arrival::Open(_) => {}
                Arrival::Wait(_) => assert_eq!(brought(&slot), Brought::MayOpen),
                Arrival::Full => panic!("there is room in line"),
            }
            ending.join().unwrap();
            assert_eq!(hall.figures(), (0, 1));
        }

        /// Somebody gives up while a connection is brought to him: it is taken back by one of the
        /// two, and not lost.
        pub fn what_is_brought_to_one_who_leaves_is_taken_back_once() {
            let now = Instant::now();
            let hall = Arc::new(hall(1));
            opened(&hall, now);
            let (place, slot) = place(1);
            let ticket = waits(hall.arrive(now, place));
            let there = Arc::clone(&hall);
            let bringing = thread::spawn(move || match there.offer(now, |_| true) {
                Offer::To(place) => place.slot.bring("the connection").is_err(),
                Offer::MakeRoom | Offer::Nobody => true,
            });
            hall.leave(ticket, now);
            let left_over = slot.leave().0.is_some();
            let kept = bringing.join().unwrap();
            assert!(
                kept != left_over,
                "kept there: {kept}, brought: {left_over}"
            );
            assert_eq!(hall.figures(), (0, 1));
        }

        /// Somebody gives up while he is allowed to open a connection: the permission is not lost.
        pub fn a_permission_for_one_who_leaves_is_given_back() {
            let now = Instant::now();
            let hall = Arc::new(hall(1));
            opened(&hall, now);
            let (place, slot) = place(1);
            let ticket = waits(hall.arrive(now, place));
            let there = Arc::clone(&hall);
            let ending = thread::spawn(move || there.ended(now));
            hall.leave(ticket, now);
            let (_, may_open) = slot.leave();
            if may_open {
                hall.failed(None, now);
            }
            ending.join().unwrap();
            assert_eq!(hall.figures(), (0, 0), "there is room again");
        }

        /// Two who wait and two places that come free: both may open.
        pub fn two_places_go_to_two_who_wait() {
            let now = Instant::now();
            let hall = Arc::new(hall(2));
            opened(&hall, now);
            opened(&hall, now);
            let (first, first_slot) = place(0);
            let (second, second_slot) = place(1);
            waits(hall.arrive(now, first));
            let there = Arc::clone(&hall);
            let ending = thread::spawn(move || {
                there.ended(now);
                there.ended(now);
            });
            let arrival = hall.arrive(now, second);
            assert_eq!(brought(&first_slot), Brought::MayOpen);
            match arrival {
                Arrival::Open(_) => {}
                Arrival::Wait(_) => assert_eq!(brought(&second_slot), Brought::MayOpen),
                Arrival::Full => panic!("there is room in line"),
            }
            ending.join().unwrap();
        }

        /// A worker is asked to look, and is.
        pub fn one_who_waits_wakes_the_other_workers() {
            let now = Instant::now();
            let hall = Arc::new(hall(1));
            opened(&hall, now);
            let there = Arc::clone(&hall);
            let other = thread::spawn(move || block_on(poll_fn(|cx| there.poll_mail(0, cx))).look);
            let (place, _slot) = place(1);
            waits(hall.arrive(now, place));
            assert!(other.join().unwrap());
            assert!(!asked_to_look(&hall, 0), "once");
        }
    }
}

use pool::models;

#[test]
fn a_connection_that_is_parked_reaches_one_who_begins_to_wait() {
    loom::model(models::a_connection_that_is_parked_reaches_one_who_begins_to_wait);
}

#[test]
fn the_place_of_one_that_ends_goes_to_one_who_begins_to_wait() {
    loom::model(models::the_place_of_one_that_ends_goes_to_one_who_begins_to_wait);
}

#[test]
fn what_is_brought_to_one_who_leaves_is_taken_back_once() {
    loom::model(models::what_is_brought_to_one_who_leaves_is_taken_back_once);
}

#[test]
fn a_permission_for_one_who_leaves_is_given_back() {
    loom::model(models::a_permission_for_one_who_leaves_is_given_back);
}

#[test]
fn two_places_go_to_two_who_wait() {
    loom::model(models::two_places_go_to_two_who_wait);
}

#[test]
fn one_who_waits_wakes_the_other_workers() {
    loom::model(models::one_who_waits_wakes_the_other_workers);
}
