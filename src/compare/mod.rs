//! The comparison: the same load on both arms, and the difference as figures.
//!
//! What is here so far serves the demo: a backend and a gentle load, each on an OS thread of its
//! own, so that neither shares a runtime with the proxy they surround, and the picture drawn from
//! the figures. Both stop when dropped. They are for loopback and a handful of connections, not
//! for finding out how fast anything is.

pub mod backend;
pub mod load;
pub mod picture;
mod thread;

pub use backend::EmbeddedBackend;
pub use load::{Load, LoadTarget};
pub use picture::{ArmFigures, Picture, Scene};
