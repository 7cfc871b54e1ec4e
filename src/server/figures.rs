//! The figures of all upstreams, through every change of them; and what is listened on.

use std::net::SocketAddr;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::account::{Arm, LineFigures, PoolFigures};
use crate::net::{BackendAddr, PortRange, Served};
use crate::proxy::{ServerCommon, Share, UpstreamPlan};
use crate::split::Split;

/// One upstream's backends, and what its workers count.
#[derive(Clone, Debug)]
pub struct UpstreamFigures {
    /// Its name.
    pub name: String,
    /// How its connections are used.
    pub arm: Arm,
    /// The ports that its connections are confined to, if they are.
    pub source_ports: Option<PortRange>,
    /// The ports that a NAT on the way has towards each of its backends; 0: there is none.
    pub snat_ports: u32,
    /// Which of its requests go to its short arm; `None`: it has none.
    pub split: Option<Arc<Split>>,
    /// Its backends.
    pub backends: Share,
    /// Backends it has no more, whose last connections may still be open.
    leaving: Vec<Arc<ServerCommon>>,
    /// The figures of those that are gone altogether.
    gone: PoolFigures,
}

impl UpstreamFigures {
    /// All workers' figures of all its backends, added up; of those too that it has no more.
    pub fn sum(&self) -> PoolFigures {
        let mut sum = PoolFigures::default();
        self.add_to(&mut sum);
        sum
    }

    /// Adds all of these figures to `sum`.
    pub fn add_to(&self, sum: &mut PoolFigures) {
        sum.add(&self.gone);
        let now = self.backends.iter().map(|(_, common)| common);
        for common in now.chain(&self.leaving) {
            add(common, sum);
        }
    }

    /// Its backends, each with the figures of its pools and of its line.
    pub fn each(&self) -> impl Iterator<Item = (BackendAddr, PoolFigures, LineFigures)> {
        self.backends.iter().map(|(target, common)| {
            let mut sum = PoolFigures::default();
            add(common, &mut sum);
            (target.backend.clone(), sum, common.figures())
        })
    }

    /// The numbers that the departures of its backends' pools are noted under.
    pub fn pools(&self) -> impl Iterator<Item = (u32, &BackendAddr)> {
        self.backends.iter().filter_map(|(target, common)| {
            let pool = common.tallies().first()?.pool()?;
            Some((pool, &target.backend))
        })
    }

    /// Its backends, each with the figures of its line.
    pub fn lines(&self) -> impl Iterator<Item = (BackendAddr, LineFigures)> {
        self.backends
            .iter()
            .map(|(target, common)| (target.backend.clone(), common.figures()))
    }

    fn changes_to(&mut self, backends: Share) {
        let old = std::mem::replace(&mut self.backends, backends);
        for (_, common) in old {
            let stays = self
                .backends
                .iter()
                .any(|(_, now)| Arc::ptr_eq(now, &common));
            if !stays {
                self.leaving.push(common);
            }
        }
        // Who has nothing to count with any more does not count.
        let gone = &mut self.gone;
        self.leaving.retain(|common| {
            let in_use = is_in_use(common);
            if !in_use {
                add(common, gone);
            }
            in_use
        });
    }
}

/// Whether anybody but the one who asks has a handle on these figures.
fn is_in_use(common: &Arc<ServerCommon>) -> bool {
    let tallies = common.tallies();
    let in_use =
        Arc::strong_count(common) > 1 || tallies.iter().any(|tally| Arc::strong_count(tally) > 1);
    // What the last of them counted is to be seen.
    fence(Ordering::Acquire);
    in_use
}

fn add(common: &ServerCommon, sum: &mut PoolFigures) {
    for tally in common.tallies() {
        tally.add_to(sum);
    }
}

/// The figures of all upstreams, and the addresses that are listened on. Locked to be read and when
/// one of them changes; never on the way of a request.
#[derive(Debug, Default)]
pub(super) struct Book {
    upstreams: Mutex<Vec<UpstreamFigures>>,
    listeners: Mutex<Vec<SocketAddr>>,
    /// The certificates that are shown to clients.
    pub(super) served: Arc<Served>,
}

impl Book {
    /// What is in it now: the upstreams in their order, after them those that are no more.
    pub(super) fn read(&self) -> Vec<UpstreamFigures> {
        self.lock().clone()
    }

    /// The addresses that are listened on, in the order of the settings.
    pub(super) fn listeners(&self) -> Vec<SocketAddr> {
        let listeners = self.listeners.lock();
        listeners.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These addresses are listened on from now on.
    pub(super) fn listens_on(&self, addresses: Vec<SocketAddr>) {
        let listeners = self.listeners.lock();
        *listeners.unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The upstreams are these from now on.
    pub(super) fn enter(&self, plans: &[Arc<UpstreamPlan>]) {
        let mut book = self.lock();
        let mut old = std::mem::take(&mut *book);
        for plan in plans {
            let name = &plan.settings.name;
            let known = old.iter().position(|known| known.name == *name);
            let mut figures = match known {
                Some(known) => old.remove(known),
                None => UpstreamFigures {
                    name: name.clone(),
                    arm: Arm::Pooled,
                    source_ports: None,
                    snat_ports: 0,
                    split: None,
                    backends: Vec::new(),
                    leaving: Vec::new(),
                    gone: PoolFigures::default(),
                },
            };
            figures.arm = if plan.settings.pool.keeps() {
                Arm::Pooled
            } else {
                Arm::Short
            };
            figures.source_ports = plan.settings.sockets.source_ports;
            figures.snat_ports = plan.settings.snat_ports;
            figures.split.clone_from(&plan.split);
            figures.changes_to(plan.servers.clone());
            book.push(figures);
        }
        for mut figures in old {
            figures.split = None;
            figures.changes_to(Vec::new());
            book.push(figures);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<UpstreamFigures>> {
        self.upstreams
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::PoolTally;
    use crate::backend;
    use crate::keepalive::KeepAlive;
    use crate::pool::{self, Common};
    use crate::proxy::Target;

    fn server(last: u8) -> (Target, Arc<ServerCommon>) {
        let target = Target {
            backend: BackendAddr::Ip(([10, 0, 0, last], 80).into()),
            host: "a".into(),
            tls: None,
            weight: 1,
        };
        let tallies = vec![Arc::new(PoolTally::default())];
        let settings = pool::Settings::new(KeepAlive::BACKEND);
        (target, Arc::new(Common::new(settings, tallies)))
    }

    fn plan(name: &str, servers: &[(Target, Arc<ServerCommon>)]) -> Arc<UpstreamPlan> {
        Arc::new(UpstreamPlan {
            settings: backend::Settings::new(name, Vec::new()),
            servers: servers.to_vec(),
            split: None,
        })
    }

    fn requests(book: &Book) -> Vec<(String, u64)> {
        let sums = book.read();
        sums.iter()
            .map(|one| (one.name.clone(), one.sum().requests))
            .collect()
    }

    #[test]
    fn no_figure_is_lost_when_servers_and_upstreams_go() {
        let book = Book::default();
        let (a, b) = (server(1), server(2));
        book.enter(&[plan("app", &[a.clone(), b.clone()]), plan("old", &[])]);
        let tally = Arc::clone(&a.1.tallies()[0]);
        tally.request();
        b.1.tallies()[0].request();
        let sum = |app| vec![("app".to_owned(), app), ("old".to_owned(), 0)];
        assert_eq!(requests(&book), sum(2));

        // One goes; a worker still has it, and counts.
        book.enter(&[plan("app", std::slice::from_ref(&b))]);
        drop(a);
        tally.request();
        assert_eq!(requests(&book), sum(3));
        book.enter(&[plan("app", std::slice::from_ref(&b))]);
        assert_eq!(book.read()[0].leaving.len(), 1);
        tally.request();
        drop(tally);

        // Now nobody has it.
        book.enter(&[plan("app", std::slice::from_ref(&b))]);
        assert_eq!(book.read()[0].leaving.len(), 0);
        assert_eq!(requests(&book), sum(4));

        // The upstream goes, and comes back.
        drop(b);
        book.enter(&[]);
        book.enter(&[]);
        assert_eq!(requests(&book), sum(4));
        book.enter(&[plan("app", &[server(3)])]);
        assert_eq!(requests(&book), sum(4));
        assert_eq!(book.read()[0].backends.len(), 1);
    }
}
