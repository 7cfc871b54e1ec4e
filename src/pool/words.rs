//! What a pool is told, and what it answers.

use std::net::SocketAddr;
use std::time::Duration;

use crate::keepalive::{CloseReason, Verdict};

use super::table::ConnId;

/// What a request asks of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Whether it may have to be sent again.
    pub need: Need,
    /// For whom it speaks.
    pub identity: Identity,
}

/// How long a connection may have been idle to take a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// Any time: should the backend close it at this moment, the request can be sent again.
    #[default]
    Any,
    /// Less than `safe_idle`: the request cannot be sent again.
    Young,
    /// Not at all: one that is opened now. For a request that is sent again.
    Fresh,
}

impl Need {
    /// Whether a connection that waited for `idle` will do; `is_new`: it has not served yet.
    pub(super) fn is_met(self, idle: Duration, safe_idle: Duration, is_new: bool) -> bool {
        let is_fresh = is_new && idle.is_zero();
        match self {
            Need::Any => true,
            Need::Young => is_fresh || idle < safe_idle,
            Need::Fresh => is_fresh,
        }
    }
}

/// A connection that can be leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Which one.
    pub id: ConnId,
    /// For whom it speaks.
    pub identity: Identity,
    /// How long it has waited.
    pub idle: Duration,
    /// Whether it has not served yet.
    pub is_new: bool,
    /// Whether no exchange is on it.
    pub is_idle: bool,
}

/// For whom a connection speaks, where that makes it unfit for others: the two ends of a client's
/// connection, the client's and ours, in the PROXY header that it began with. All else that makes two connections interchangeable (the
/// server's address, the protocol, TLS and its names and certificates) is the same in all of a
/// pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity(pub Option<(SocketAddr, SocketAddr)>);

/// A connection granted for one exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Whose lease this is.
    pub id: ConnId,
    /// The number of the exchange on its connection; the first is 1.
    pub exchange: u32,
    /// How long the connection had waited; `None` for one that was opened for this exchange.
    pub idle: Option<Duration>,
    /// What becomes of the connection if this exchange ends well. [`Verdict::Close`] has to be
    /// announced in the request: `Connection: close` lets the backend close first, so that no
    /// port of ours is spent.
    pub verdict: Verdict,
}

/// How the exchange on a leased connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Request written and response read to their ends; nobody asked for the end.
    Complete,
    /// The connection cannot carry another exchange.
    Spent(CloseReason),
}

/// Why a connection ends that its peer has made unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// If it is idle.
    pub idle: CloseReason,
    /// If it carries exchanges: after them.
    pub busy: CloseReason,
}

impl Gone {
    /// Its peer has closed it.
    pub const CLOSED: Gone = Gone {
        idle: CloseReason::PeerClosedIdle,
        busy: CloseReason::PeerClosedBusy,
    };
}

/// What a backend said in its `Keep-Alive` header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hint {
    /// `timeout=`: how long it keeps the connection idle.
    pub timeout: Option<Duration>,
    /// `max=`: how many further exchanges it takes on it.
    pub max: Option<u32>,
}

/// What a connection has been, told when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Farewell {
    /// Why it ends.
    pub reason: CloseReason,
    /// The exchanges begun on it.
    pub exchanges: u32,
    /// How long it was open.
    pub age: Duration,
    /// How long it had waited when it ended, or before its last exchange if that ended it.
    pub idle: Duration,
}
