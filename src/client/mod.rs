//! One client connection: serving it, its limits and its timeouts.
//!
//! hyper reads and writes HTTP; what surrounds it is here: the phases of a connection, the waits
//! and their limits (Apache's `KeepAliveTimeout` and `Timeout`), who closes and how. It does not
//! know what an exchange does.

pub mod answer;
mod conn;
mod frames;
mod greet;
mod h2;
mod intake;
mod introduction;
mod policy;
mod serve;
mod settings;
mod stream;
mod trust;
mod waits;
mod words;

pub use conn::{Conn, LAST_CHANCE, Parked, Stay, Switch};
pub use greet::{Greeting, greet, is_to_be_greeted, until};
pub use intake::Framing;
pub use policy::{HostSettings, Policy};
pub use serve::{Served, Told, let_go, serve};
pub use settings::{Http2, Limits, Overrides, ReadTimeout, Settings, Stage};
pub use trust::{Named, Standing, Trust};
pub use waits::Wait;
pub use words::{BodyFault, Phase, Upload};
