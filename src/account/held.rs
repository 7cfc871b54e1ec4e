//! One connection to a backend, as somebody sees it who only looks.

use std::time::Duration;

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It is being opened.
    Opening,
    /// It carries an exchange.
    Leased,
    /// It waits for one.
    Idle,
}

impl Stage {
    /// As it stands in metrics and on the page.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Opening => "opening",
            Stage::Leased => "leased",
            Stage::Idle => "idle",
        }
    }
}

/// One connection of a pool at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// What it is at.
    pub stage: Stage,
    /// Exchanges begun on it.
    pub exchanges: u32,
    /// How long ago it was opened, or begun to be.
    pub age: Duration,
    /// How long it has been idle; zero if it is not.
    pub idle: Duration,
}
