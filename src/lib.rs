//! Warmline: a reverse proxy that keeps its lines to the backends warm, and proves what that is
//! worth.

pub mod account;
pub mod alarm;
pub mod backend;
pub mod balance;
pub mod census;
pub mod cli;
pub mod client;
pub mod compare;
pub mod config;
pub mod keepalive;
pub mod net;
pub mod pool;
pub mod proxy;
pub mod route;
pub mod server;
pub mod worker;
