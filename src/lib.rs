//! Warmline: a reverse proxy that keeps its lines to the backends warm, and proves what that is
//! worth.
//!
//! Clients speak HTTP/1.1 or 1.0 to it, it speaks HTTP/1.1 to backends over connections that it
//! keeps and uses again, under Apache httpd's keep-alive settings in their exact meaning. With
//! `keep_alive = false` it opens one connection for each request, through the same code, so that
//! the two ways can be compared; the [`census`] counts what each of them leaves in the kernel.
//!
//! This is the front page for who reads the code. `README.md` says how to run it,
//! `ARCHITECTURE.md` has every file, the way of one request and the reasons.
//!
//! # Words
//!
//! One word for each thing, in code, settings, logs and documents alike.
//!
//! | Word | Means |
//! |---|---|
//! | client, backend | who sends requests to us; one address that answers them |
//! | upstream | a named set of backends |
//! | side | client or backend: which of our halves a connection belongs to |
//! | exchange | one request and its response |
//! | connection | one TCP connection; towards a backend it is *opening*, *leased* or *idle* |
//! | lease | the right to use one pooled connection for one exchange |
//! | permit | the permission to open one connection |
//! | reuse | an exchange on a connection that has served before |
//! | verdict, end | what becomes of a connection after an exchange; how the exchange ended |
//! | close reason | why a connection was closed: one for each |
//! | arm | pooled or short: the two ways being compared |
//! | worker | one core's thread, with its own listeners, clients and pools |
//! | drain | to finish what is in flight and close what is idle |
//! | layout | the routes, the upstreams and where their servers are, at one time |
//! | census | the kernel's sockets, counted at one instant |
//!
//! # Map
//!
//! - The way of a request: [`worker`] accepts, [`client`] serves one connection, [`proxy`] is one
//!   exchange from request to response, [`route`] and [`balance`] choose, [`pool`] leases,
//!   [`backend`] is one connection, [`net`] opens and closes.
//! - What decides: [`keepalive`] (the settings both sides share), [`pool::PoolState`] (every
//!   connection of a pool as a value), [`proxy::headers`], [`proxy::Failure`].
//! - Around it: [`server`] starts, changes and stops the workers, [`lookup`] finds the backends'
//!   addresses, [`alarm`] keeps deadlines, [`account`] counts what we did, [`census`] what the
//!   kernel has.
//! - In front: [`cli`], [`config`]; [`compare`] is what the demo is made of, [`doctor`] holds settings
//!   against a machine, [`headroom`] says how far the ports reach, [`quantity`] has numbers in words,
//!   [`json`] writes JSON.
//!
//! # Rules of the layers
//!
//! 1. Only the command line imports [`config`]. Parts own their settings types; `config` makes
//!    them out of text.
//! 2. What decides is pure: no `async`, no clock, no socket, no task, no lock. It is told the time.
//! 3. Sockets appear only in [`net`], [`client`], [`backend`], [`worker`], [`admin`], [`census`] and
//!    [`compare`], and where the command line asks a running proxy.
//! 4. Imports follow the table in `ARCHITECTURE.md`, and a new pair is a decision.
//!
//! `tests/docs.rs` holds the code to them.

pub mod account;
pub mod admin;
pub mod alarm;
pub mod backend;
pub mod balance;
pub mod census;
pub mod cli;
pub mod client;
pub mod compare;
pub mod config;
pub mod doctor;
pub mod headroom;
pub mod json;
pub mod keepalive;
pub mod log;
pub mod lookup;
pub mod memory;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod quantity;
pub mod route;
pub mod scrape;
pub mod server;
pub mod split;
pub mod worker;
