//! How a connection ends: decided by the pool, done to the socket, entered into the ledger once.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::account::{Close, EndSum, PoolTally};
use crate::keepalive::CloseReason;
use crate::net::{self, CloseMode, PortUse, Socket};
use crate::pool::Farewell;

/// How long the backend may take to close after both sides agreed on the end, before we do.
///
/// Waiting leaves the TIME_WAIT with the backend and spends no port here. Its own task waits: no
/// client does.
const PEER_CLOSE: Duration = Duration::from_secs(1);

/// How a connection is to be closed, and its entry in the ledger.
pub(super) struct Ending {
    mode: CloseMode,
    entry: Option<Entry>,
}

/// The end of one connection, entered when this is dropped: exactly once, whatever happens to the
/// task that closes it.
pub(super) struct Entry {
    tally: Arc<PoolTally>,
    farewell: Farewell,
    close: Close,
    port: Option<PortUse>,
}

impl Entry {
    /// The entry of a connection of which nothing is here any more.
    pub(super) fn of(tally: &Arc<PoolTally>, farewell: Farewell) -> Entry {
        Entry {
            tally: Arc::clone(tally),
            farewell,
            close: Close::BackendFin,
            port: None,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let (Some(port), Close::ProxyFin) = (&mut self.port, self.close) {
            port.leaves_time_wait();
        }
        let Farewell {
            reason,
            exchanges,
            age,
            idle,
        } = self.farewell;
        let life = EndSum {
            connections: 1,
            exchanges: exchanges.into(),
            age,
            idle,
        };
        self.tally.ended(reason, self.close, &life);
    }
}

impl Ending {
    /// Closes `socket` in this mode. What must hold even if the worker ends before the
    /// connection's task does is set at once. `aborts`: an exchange is broken off.
    pub(super) fn new(
        mut mode: CloseMode,
        mut entry: Entry,
        socket: &Socket,
        aborts: bool,
    ) -> Ending {
        if entry.tally.samples_end()
            && let Some(path) = socket.path_facts()
        {
            entry.tally.path(path.round_trip, path.retransmits);
        }
        // A reset destroys what has not arrived: only where that is meant.
        if mode == CloseMode::Rst && !aborts && !socket.has_delivered() {
            mode = CloseMode::Fin;
        }
        match mode {
            CloseMode::FinRst => socket.reset_after_fin(),
            CloseMode::Rst => socket.reset_on_close(),
            CloseMode::Fin | CloseMode::Peer | CloseMode::PeerRst => {}
        }
        entry.close = match mode {
            // If its FIN does not come, the connection's task knows better.
            CloseMode::Peer | CloseMode::PeerRst => Close::BackendFin,
            CloseMode::Fin if socket.fin().is_some_and(|fin| !fin.is_first) => Close::BackendFin,
            CloseMode::Fin => Close::ProxyFin,
            CloseMode::Rst => Close::ProxyRst,
            CloseMode::FinRst => Close::ProxyFinRst,
        };
        Ending {
            mode,
            entry: Some(entry),
        }
    }
}

/// What a connection's task waits for at its end.
#[derive(Default)]
pub(super) struct Exit {
    ending: RefCell<Option<Ending>>,
    decided: Notify,
    /// Its port, while nobody else answers for it.
    port: Cell<Option<PortUse>>,
}

impl Exit {
    /// The exit of a connection that takes this port.
    pub(super) fn new(port: Option<PortUse>) -> Exit {
        Exit {
            port: Cell::new(port),
            ..Exit::default()
        }
    }

    /// Its port, for the one who answers for it from now on.
    pub(super) fn take_port(&self) -> Option<PortUse> {
        self.port.take()
    }

    /// Says how it is to be closed.
    pub(super) fn decide(&self, mut ending: Ending) {
        if let Some(entry) = &mut ending.entry {
            entry.port = self.take_port();
        }
        *self.ending.borrow_mut() = Some(ending);
        self.decided.notify_one();
    }

    /// Nobody will say how: the pool is gone, or the connection went to another worker.
    pub(super) fn nobody_decides(&self) {
        let mut ending = self.ending.borrow_mut();
        if ending.is_none() {
            *ending = Some(Ending {
                mode: CloseMode::Fin,
                entry: None,
            });
            self.decided.notify_one();
        }
    }

    /// Waits until it is said how.
    pub(super) async fn decided(&self) -> Ending {
        loop {
            let ending = self.ending.take();
            match ending {
                Some(ending) => return ending,
                None => self.decided.notified().await,
            }
        }
    }
}

/// Closes a connection as decided, but for its last handle, which the caller drops. `broke`: it
/// ended with an error.
pub(super) async fn close(socket: &Socket, ending: Ending, broke: bool) {
    let Ending { mode, mut entry } = ending;
    let reason = entry.as_ref().map(|entry| entry.farewell.reason);
    let mut known = |close| {
        if let Some(entry) = &mut entry {
            entry.close = close;
        }
    };
    let fin = socket.fin();
    let mut has_closed = socket.has_peer_closed();
    if has_closed {
        let is_ours = fin.is_some_and(|fin| fin.is_first);
        known(if is_ours {
            Close::ProxyFin
        } else {
            Close::BackendFin
        });
    } else if broke && let Some(CloseReason::PeerClosedIdle | CloseReason::PeerClosedBusy) = reason
    {
        known(Close::BackendRst);
    }
    if let (CloseMode::Fin | CloseMode::FinRst, false, None) = (mode, has_closed, fin) {
        socket.close_notify();
    }
    if let CloseMode::Peer | CloseMode::PeerRst = mode {
        has_closed = has_closed || net::wait_for_peer(&mut socket.beneath(), PEER_CLOSE).await;
        match mode {
            _ if !has_closed => {
                socket.reset_after_fin();
                known(Close::ProxyFinRst);
            }
            // It may have closed one direction only, and read on.
            CloseMode::PeerRst if socket.has_delivered() => socket.reset_on_close(),
            CloseMode::PeerRst
            | CloseMode::Peer
            | CloseMode::Fin
            | CloseMode::Rst
            | CloseMode::FinRst => {}
        }
    }
    // Of all ends this one alone leaves a TIME_WAIT here.
    if let Some(entry) = &entry
        && entry.close == Close::ProxyFin
    {
        let reason = entry.farewell.reason;
        let cookie = || fin.map_or_else(|| socket.cookie(), |fin| fin.cookie);
        entry.tally.departs(reason, cookie);
    }
}
