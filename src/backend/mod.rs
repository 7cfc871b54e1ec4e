//! One upstream's backends: what is asked for, and one connection to one of them.
//!
//! A connection is hyper's, carried by a task of its own; a pool holds its sending half. It knows
//! nothing of routes, clients or limits.

mod closing;
mod conn;
mod exit;
mod h1;
mod h2;
mod origin;
mod settings;
mod switched;
mod upgrades;

pub use closing::{Closing, ShortMode};
pub use conn::{AfterResponse, Conn, Connector, SendError};
pub use origin::Origin;
pub use settings::{Forwarded, Protocol, ServerSettings, Settings};
pub use switched::Switched;
pub use upgrades::Upgrades;
