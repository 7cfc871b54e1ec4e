//! Warmline: a reverse proxy that keeps its lines to the backends warm, and proves what that is
//! worth.

pub mod backend;
pub mod cli;
pub mod client;
pub mod config;
pub mod keepalive;
pub mod route;
pub mod server;
