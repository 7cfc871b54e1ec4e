//! The comparison: the same load on both arms, and the difference as figures.
//!
//! What is here so far: the load, as `warmline load` and the demo have it; what rounds of measurements say
//! about their difference; and for the demo a backend and the picture drawn from the figures. Backends and loads are on OS
//! threads of their own, so that neither shares a runtime with the proxy they surround, and stop when
//! dropped. The backend is for loopback and a handful of connections, not for finding out how fast
//! anything is.

pub mod backend;
pub mod hdr;
pub mod lab;
pub mod load;
pub mod picture;
pub mod random;
pub mod report;
pub mod run;
pub mod stats;
mod thread;

pub use backend::EmbeddedBackend;
pub use load::Load;
pub use picture::{ArmFigures, Picture, Scene};
