//! One upstream's backends: what is asked for, and one connection to one of them.

mod settings;

pub use settings::{Forwarded, ServerSettings, Settings};
