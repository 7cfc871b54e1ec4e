//! The kernel's sockets of each arm over time: by state on both sides, ports left, strangers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

use crate::census::diag::SocketEntry;
use crate::census::{self, PortSet, StateCounts, TcpState, Visit};
use crate::compare::lab::{Lab, Room};
use crate::compare::report::Moment;

/// No arm is driven.
pub(super) const NONE: usize = usize::MAX;

/// The sockets of one arm, as they are told from all others.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Which hosts it has.
    pub(super) arm: usize,
    /// Whether the backend's side is on one of them.
    pub(super) has_backend: bool,
    /// The backend's addresses.
    pub(super) addresses: Arc<[SocketAddr]>,
    /// The local ports that its proxy may have to them.
    pub(super) ports: Arc<PortSet>,
}

/// Counts while the kernel lists its sockets.
struct Counting {
    addresses: Arc<[SocketAddr]>,
    ports: Arc<PortSet>,
    towards: StateCounts,
    own: StateCounts,
    strangers: u64,
    /// To each address, how many of its ports are taken.
    taken: Vec<u32>,
}

impl Counting {
    fn of(line: &Line) -> Counting {
        let mut counting = Counting {
            addresses: Arc::clone(&line.addresses),
            ports: Arc::clone(&line.ports),
            towards: StateCounts::default(),
            own: StateCounts::default(),
            strangers: 0,
            taken: Vec::new(),
        };
        counting.forget();
        counting
    }

    /// Ports left to the address that has the fewest.
    fn left(&self) -> Option<u64> {
        let most = self.taken.iter().copied().max()?;
        Some(u64::from(self.ports.count().saturating_sub(most)))
    }
}

impl Visit for Counting {
    fn forget(&mut self) {
        self.towards = StateCounts::default();
        self.own = StateCounts::default();
        self.strangers = 0;
        self.taken = vec![0; self.addresses.len()];
    }

    fn concerns(&self, socket: &SocketEntry) -> bool {
        self.addresses.contains(&socket.remote) || self.addresses.contains(&socket.local)
    }

    fn note(&mut self, socket: &SocketEntry) {
        let at = |end: SocketAddr| self.addresses.iter().position(|address| *address == end);
        if let Some(at) = at(socket.remote) {
            if self.ports.contains(socket.local.port()) {
                self.towards.note(socket.state);
                self.taken[at] += 1;
            } else if socket.is(TcpState::TimeWait) {
                self.strangers += 1;
            }
        }
        // On its own side the other end's port says whose connection it is.
        if at(socket.local).is_some()
            && (self.ports.contains(socket.remote.port()) || socket.is(TcpState::Listen))
        {
            self.own.note(socket.state);
        }
    }
}

/// A thread that looks at all arms again and again. Ended when dropped.
pub(super) struct Watch {
    driven: Arc<AtomicUsize>,
    seen: Arc<Mutex<Vec<Vec<Moment>>>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins; the run began at `start`.
    pub(super) fn start(
        lab: Arc<Lab>,
        lines: Vec<Line>,
        start: Instant,
        period: Duration,
    ) -> io::Result<Watch> {
        let driven = Arc::new(AtomicUsize::new(NONE));
        let seen = Arc::new(Mutex::new(vec![Vec::new(); lines.len()]));
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("watch".to_owned()).spawn({
            let (driven, seen) = (Arc::clone(&driven), Arc::clone(&seen));
            move || {
                loop {
                    for (arm, line) in lines.iter().enumerate() {
                        let is_driven = driven.load(Ordering::Relaxed) == arm;
                        match look(&lab, line, start, is_driven) {
                            Ok(moment) => {
                                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                                seen[arm].push(moment);
                            }
                            Err(error) => {
                                tracing::warn!(%error, "the kernel did not list its sockets");
                            }
                        }
                    }
                    match stopped.recv_timeout(period) {
                        Err(mpsc::RecvTimeoutError::Timeout) => {}
                        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    }
                }
            }
        })?;
        Ok(Watch {
            driven,
            seen,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Which arm is under load from now on.
    pub(super) fn drives(&self, arm: usize) {
        self.driven.store(arm, Ordering::Relaxed);
    }

    /// Ends it; what was seen of each arm.
    pub(super) fn finish(mut self) -> Vec<Vec<Moment>> {
        self.end();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *seen)
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that watches the kernel's sockets had panicked");
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// One look at one arm.
fn look(lab: &Lab, line: &Line, start: Instant, driven: bool) -> io::Result<Moment> {
    let walk = |room: &Room| {
        let mut counting = Counting::of(line);
        room.run(move || census::walk(&mut counting).map(|_| counting))
    };
    let at = start.elapsed().as_secs_f64();
    let hosts = &lab.arms()[line.arm];
    let proxy = walk(&hosts.proxy)?;
    let left = proxy.left();
    let own = match line.has_backend {
        false => None,
        // On one machine a single walk shows both sides.
        true if super::is_shared(lab) => Some(proxy.own),
        true => Some(walk(&hosts.backend)?.own),
    };
    Ok(Moment {
        at,
        driven,
        proxy: by_state(&proxy.towards),
        backend: own.as_ref().map(by_state),
        foreign_time_wait: proxy.strangers,
        ports_left: left,
    })
}

/// Those that there are, under the kernel's names.
fn by_state(counts: &StateCounts) -> BTreeMap<String, u64> {
    let all = counts.iter().filter(|(_, count)| *count > 0);
    all.map(|(state, count)| (state.name().to_owned(), count))
        .collect()
}
