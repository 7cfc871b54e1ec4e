//! Once every connection has been used, a load allocates nothing for a request.
//!
//! The allocator of this program counts what all its threads ask for. The server is another program.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers
#![expect(
    unsafe_code,
    reason = "an allocator is unsafe; this one passes everything on to the system's"
)]

#[path = "support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::nginx::Nginx;
use support::{PATIENCE, wait_until};
use warmline::compare::load::{Load, Pace, Request, Settings, Spread, Target};

struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is the system allocator's, with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_request_of_a_load_allocates_nothing() {
    let nginx = Nginx::start("keepalive_requests 7; location = /small { return 200 x; }");
    let target = Target::read(&format!("http://{}/small", nginx.addr)).unwrap();
    let rate = NonZeroU32::new(1000).unwrap();
    let think = Duration::ZERO;
    for pace in [
        Pace::Closed { think },
        Pace::Open {
            rate,
            spread: Spread::Poisson,
        },
    ] {
        let load = Load::start(Settings {
            pace,
            request: Request::new(&target, "GET", &[], None, false),
            ..Settings::steady(nginx.addr, rate, NonZeroU32::new(4).unwrap())
        })
        .unwrap();
        let answered = |count| move |load: &Load| load.so_far().answered >= count;
        let wait = |count| wait_until(PATIENCE, "answers", || answered(count)(&load));
        wait(500);
        let before = COUNT.load(Ordering::Relaxed);
        wait(2000);
        let allocated = COUNT.load(Ordering::Relaxed) - before;
        assert_eq!(allocated, 0, "{pace:?}");
        assert_eq!(load.so_far().unanswered, 0);
    }
}
