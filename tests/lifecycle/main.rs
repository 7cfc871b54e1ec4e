//! The life of connections and of the proxy itself: how long clients are kept, what is waited for
//! and until when, how a start fails and how an end looks from outside, and what the kernel is left
//! with.
//!
//! Timings are bounded strictly from below, as a rule that fires early is broken, and generously
//! from above, as a busy machine is no reason to fail. A lower bound counts from something that is
//! certainly not later than what the proxy counts from.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers
#![allow(clippy::unchecked_time_subtraction)] // of constants, the smaller from the larger
#![allow(unreachable_pub)] // every file here is private to this program

mod admin;
mod classic;
mod crowd;
mod demo;
mod keep_alive;
mod kernel;
mod kernel_clients;
mod kernel_transports;
mod moved_time;
mod parking;
mod ports;
mod program;
mod proxy;
mod reload;
mod service;
mod shutdown;
mod split;
mod start;
#[path = "../support/mod.rs"]
mod support;
mod timeouts;
