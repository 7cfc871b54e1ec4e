//! One upstream's backends: what is asked for, and one connection to one of them.
//!
//! A connection is hyper's, carried by a task of its own; a pool holds its sending half. It knows
//! nothing of routes, clients or limits.

mod closing;
mod conn;
mod settings;

pub use closing::{Closing, ShortMode};
pub use conn::{AfterResponse, Conn, Connector, Lent};
pub use settings::{Forwarded, ServerSettings, Settings};
