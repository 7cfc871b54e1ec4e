//! Warmline: a reverse proxy that keeps its lines to the backends warm, and proves what that is
//! worth.

pub mod backend;
pub mod census;
pub mod client;
pub mod compare;
pub mod keepalive;
pub mod route;
pub mod server;
