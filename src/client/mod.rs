//! One client connection: serving it, its limits and its timeouts.

mod settings;

pub use settings::{Limits, Settings};
