//! One upstream as one worker sees it: whose turn it is, and a connection to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderValue;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::account::{Held, PoolTally};
use crate::backend::{self, Connector};
use crate::balance::Balance;
use crate::client::{Conn, Named};
use crate::net::{BackendAddr, ConnectError};
use crate::pool::{AcquireError, Identity, Need, Pool, Wants};
use crate::split::{Stopped, next_turn};

use super::Chain;
use super::body::{BackendLease, RequestBody};
use super::failure::Failure;
use super::layout::{ServerCommon, Target, UpstreamPlan};
use super::record::Record;

/// One worker's connections to one backend, for who looks at them.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// The upstream's name.
    pub upstream: String,
    /// The backend's address.
    pub backend: BackendAddr,
    /// Its connections.
    pub connections: Vec<Held>,
}

/// One upstream as one worker sees it.
pub(super) struct Upstream {
    plan: Arc<UpstreamPlan>,
    balance: RefCell<Balance>,
    /// Where this worker is on the line of the split.
    turn: Cell<u32>,
    /// In the order of the plan.
    backends: Vec<Rc<Backend>>,
}

/// One backend, and this worker's connections to it.
pub(super) struct Backend {
    pool: Pool<Connector<RequestBody>>,
    common: Arc<ServerCommon>,
    /// Its address as a `Host` header.
    pub(super) host: HeaderValue,
    pub(super) tally: Arc<PoolTally>,
}

impl Upstream {
    /// The upstream as `plan` has it and the `worker`-th worker sees it. Backends that `old` has
    /// too are taken over with their connections. Runs on the current thread's runtime.
    pub(super) fn new(plan: &Arc<UpstreamPlan>, old: Option<&Upstream>, worker: usize) -> Upstream {
        let mut backends = Vec::new();
        let mut places = Vec::new();
        for (target, common) in &plan.servers {
            let place = old.and_then(|old| old.place(common));
            let backend = match (old, place) {
                (Some(old), Some(place)) => Rc::clone(&old.backends[place]),
                _ => Rc::new(Backend::new(target, common, &plan.settings, worker)),
            };
            backends.push(backend);
            places.push((target.weight, place));
        }
        let balance = match old {
            Some(old) => old.balance.borrow().carried_over(places),
            None => Balance::new(places.into_iter().map(|(weight, _)| weight)),
        };
        Upstream {
            plan: Arc::clone(plan),
            balance: RefCell::new(balance),
            // Workers begin apart: together they would go through the same gaps.
            turn: Cell::new(u32::try_from(worker).unwrap_or(0).wrapping_mul(0x2545_F491)),
            backends,
        }
    }

    /// What it was made from.
    pub(super) fn plan(&self) -> &Arc<UpstreamPlan> {
        &self.plan
    }

    fn place(&self, common: &Arc<ServerCommon>) -> Option<usize> {
        self.backends
            .iter()
            .position(|backend| Arc::ptr_eq(&backend.common, common))
    }

    /// Its backends.
    pub(super) fn backends(&self) -> &[Rc<Backend>] {
        &self.backends
    }

    /// The connections to its backends at `now`, at most so many for each.
    pub(super) fn views(&self, now: Instant, most: usize) -> impl Iterator<Item = PoolView> {
        self.backends.iter().map(move |backend| PoolView {
            upstream: self.settings().name.clone(),
            backend: backend.address().clone(),
            connections: backend.pool.connections(now, most),
        })
    }

    /// Closes idle backend connections now, the others after their exchange.
    pub(super) fn drain(&self) {
        for backend in &self.backends {
            backend.drain();
        }
    }

    /// Whether this request of a client, whose address is `client`, is for its short arm.
    pub(super) fn is_split_off(&self, client: &HeaderValue, headers: &HeaderMap) -> bool {
        let Some(split) = &self.plan.split else {
            return false;
        };
        split.takes(client, headers, || {
            let turn = next_turn(self.turn.get());
            self.turn.set(turn);
            turn
        })
    }

    /// A connection for a request of its short arm, which found no local port and gets no more requests.
    pub(super) async fn lease_for_short_arm(
        self: &Rc<Self>,
        wants: Wants,
        record: &mut Record,
    ) -> Result<(&Backend, BackendLease, Instant), Failure> {
        if let Some(split) = &self.plan.split
            && split.stop(Stopped::NoPort)
        {
            warn!(
                upstream = self.settings().name,
                "the short arm is stopped: no local port was left for a connection. Its requests go the pooled way; \
                 ask for a share again once ports are free"
            );
        }
        record.goes_to(self);
        self.lease(Instant::now(), wants, record).await
    }

    /// What is asked for.
    pub(super) fn settings(&self) -> &backend::Settings {
        &self.plan.settings
    }

    /// What a request of this client, or of the one it is `named` to be for, asks of a connection.
    pub(super) fn wants(&self, need: Need, client: &Conn, named: Option<&Named>) -> Wants {
        let identity = match (self.settings().proxy_protocol, named) {
            (None, _) => Identity::default(),
            (Some(_), None) => Identity(client.ends()),
            (Some(_), Some(named)) => Identity(client.ends_of(named)),
        };
        Wants { need, identity }
    }

    /// A client has gone that connections may have been opened for.
    pub(super) fn client_left(&self, gone: Identity) {
        if self.settings().proxy_protocol.is_some() {
            for backend in &self.backends {
                backend.pool.end_of(gone);
            }
        }
    }

    /// The same as [`lease`](Self::lease), and whose it is: for a short arm that has no ports left, one of
    /// the upstream that it is an arm of.
    pub(super) async fn lease_as_part_of<'u>(
        self: &'u Rc<Self>,
        whole: &'u Rc<Upstream>,
        now: Instant,
        wants: Wants,
        record: &mut Record,
    ) -> Result<(&'u Rc<Upstream>, (&'u Backend, BackendLease, Instant)), Failure> {
        match self.lease(now, wants, record).await {
            Err(failure) if failure.is_out_of_ports() && !Rc::ptr_eq(self, whole) => {
                let leased = whole.lease_for_short_arm(wants, record).await?;
                Ok((whole, leased))
            }
            leased => Ok((self, leased?)),
        }
    }

    /// A connection to the backend whose turn it is: one that waits, or else one that is waited
    /// for; and since when it is there.
    pub(super) async fn lease(
        &self,
        now: Instant,
        wants: Wants,
        record: &mut Record,
    ) -> Result<(&Backend, BackendLease, Instant), Failure> {
        let index = self.pick(now, &[]).ok_or_else(|| self.no_server())?;
        record.tries(&self.backends[index]);
        if let Some(lease) = self.backends[index].pool.acquire(now, wants) {
            return Ok((&self.backends[index], lease, now));
        }
        // Boxed: rare, and large beside the rest of an exchange.
        let (backend, lease) = Box::pin(self.wait(now, index, wants, record)).await?;
        Ok((backend, lease, Instant::now()))
    }

    /// Waits for a connection; if the backend cannot be reached, turns to the others, each once.
    async fn wait(
        &self,
        mut now: Instant,
        mut index: usize,
        wants: Wants,
        record: &mut Record,
    ) -> Result<(&Backend, BackendLease), Failure> {
        let mut tried = Vec::new();
        loop {
            let backend = &self.backends[index];
            let failure = match backend.pool.wait(now, wants).await {
                Ok(lease) => {
                    self.balance.borrow_mut().reached(index);
                    return Ok((backend, lease));
                }
                Err(error) => backend.failure(error),
            };
            if !failure.is_backends_connect_fault() {
                return Err(failure);
            }
            now = Instant::now();
            self.balance.borrow_mut().failed(index, now);
            tried.push(index);
            let Some(next) = self.pick(now, &tried) else {
                return Err(failure);
            };
            info!(reason = %Chain(&failure), "trying the upstream's next server");
            index = next;
            record.tries(&self.backends[index]);
            if let Some(lease) = self.backends[index].pool.acquire(now, wants) {
                return Ok((&self.backends[index], lease));
            }
        }
    }

    fn pick(&self, now: Instant, tried: &[usize]) -> Option<usize> {
        self.balance.borrow_mut().pick(now, tried)
    }

    fn no_server(&self) -> Failure {
        Failure::NoServer {
            upstream: self.settings().name.clone(),
        }
    }
}

impl Backend {
    fn new(
        target: &Target,
        common: &Arc<ServerCommon>,
        settings: &backend::Settings,
        worker: usize,
    ) -> Backend {
        let tally = &common.tallies()[worker];
        let connector = Connector::new(
            target.backend.clone(),
            target.dial(settings),
            settings,
            Arc::clone(tally),
        );
        Backend {
            pool: Pool::new(connector, Arc::clone(common), worker),
            common: Arc::clone(common),
            host: target.host_header(),
            tally: Arc::clone(tally),
        }
    }

    /// Closes its idle connections now, the others after their exchange.
    pub(super) fn drain(&self) {
        self.pool.drain();
    }

    /// A connection that cannot have been closed for its age: a new one, or one that comes free.
    pub(super) async fn lease_fresh(&self, identity: Identity) -> Result<BackendLease, Failure> {
        let wants = Wants {
            need: Need::Fresh,
            identity,
        };
        Box::pin(self.pool.wait(Instant::now(), wants))
            .await
            .map_err(|error| self.failure(error))
    }

    /// A connection for a request that another one did not take.
    pub(super) async fn lease_again(&self, wants: Wants) -> Result<BackendLease, Failure> {
        let now = Instant::now();
        if let Some(lease) = self.pool.acquire(now, wants) {
            return Ok(lease);
        }
        Box::pin(self.pool.wait(now, wants))
            .await
            .map_err(|error| self.failure(error))
    }

    fn failure(&self, error: AcquireError<ConnectError>) -> Failure {
        match error {
            AcquireError::Connect(error) => Failure::Connect(error),
            AcquireError::Refused(why) => Failure::NoConnection {
                backend: self.address().clone(),
                why,
            },
        }
    }

    /// Its address.
    pub(super) fn address(&self) -> &BackendAddr {
        self.pool.connector().backend()
    }
}
