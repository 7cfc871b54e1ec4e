//! One upstream as one worker sees it: whose turn it is, and a connection to it.

use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderValue;
use tokio::time::Instant;
use tracing::info;

use crate::account::PoolTally;
use crate::backend::{self, Connector};
use crate::balance::Balance;
use crate::net::BackendAddr;
use crate::pool::{Acquired, Permit, Pool};

use super::Chain;
use super::body::{BackendLease, RequestBody};
use super::failure::Failure;

/// One upstream as one worker sees it.
pub struct Upstream {
    settings: backend::Settings,
    balance: RefCell<Balance>,
    backends: Vec<Backend>,
}

/// One backend, and this worker's connections to it.
pub(super) struct Backend {
    pool: Pool<Connector<RequestBody>>,
    /// Its address as a `Host` header.
    pub(super) host: HeaderValue,
    pub(super) tally: Arc<PoolTally>,
}

/// One address of an upstream, looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The backend's address.
    pub backend: BackendAddr,
    /// Its weight.
    pub weight: u32,
}

impl Upstream {
    /// An upstream of these backends, each with its tally. Runs on the current thread's runtime.
    pub fn new(settings: backend::Settings, targets: &[(Target, Arc<PoolTally>)]) -> Upstream {
        let backends = targets.iter().map(|(target, tally)| Backend {
            pool: Pool::new(
                settings.keep_alive,
                Connector::new(target.backend, settings.connect_timeout),
                Arc::clone(tally),
            ),
            host: HeaderValue::from_maybe_shared(Bytes::from(target.backend.to_string()))
                .expect("a socket address is visible ASCII"),
            tally: Arc::clone(tally),
        });
        Upstream {
            backends: backends.collect(),
            balance: RefCell::new(Balance::new(
                targets.iter().map(|(target, _)| target.weight),
            )),
            settings,
        }
    }

    /// Closes idle backend connections now, the others after their exchange.
    pub(super) fn drain(&self) {
        for backend in &self.backends {
            backend.pool.drain();
        }
    }

    /// What is asked for.
    pub(super) fn settings(&self) -> &backend::Settings {
        &self.settings
    }

    /// A connection to the backend whose turn it is: one that waits, or else a new one.
    pub(super) async fn lease(&self, now: Instant) -> Result<(&Backend, BackendLease), Failure> {
        let index = self.pick(now, &[]).ok_or_else(|| self.no_server())?;
        let backend = &self.backends[index];
        match backend.pool.acquire(now) {
            Acquired::Reuse(lease) => Ok((backend, lease)),
            // Boxed: rare, and large beside the rest of an exchange.
            Acquired::Open(permit) => Box::pin(self.open(index, permit)).await,
        }
    }

    /// Opens a connection; if the backend cannot be reached, turns to the others, each once.
    async fn open(
        &self,
        mut index: usize,
        mut permit: Permit<Connector<RequestBody>>,
    ) -> Result<(&Backend, BackendLease), Failure> {
        let mut tried = Vec::new();
        loop {
            let failure = match permit.open().await {
                Ok(lease) => {
                    self.balance.borrow_mut().reached(index);
                    return Ok((&self.backends[index], lease));
                }
                Err(error) => Failure::from(error),
            };
            if !failure.is_backends_connect_fault() {
                return Err(failure);
            }
            let now = Instant::now();
            self.balance.borrow_mut().failed(index, now);
            tried.push(index);
            let Some(next) = self.pick(now, &tried) else {
                return Err(failure);
            };
            info!(reason = %Chain(&failure), "trying the upstream's next server");
            index = next;
            permit = match self.backends[index].pool.acquire(now) {
                Acquired::Reuse(lease) => return Ok((&self.backends[index], lease)),
                Acquired::Open(permit) => permit,
            };
        }
    }

    fn pick(&self, now: Instant, tried: &[usize]) -> Option<usize> {
        self.balance.borrow_mut().pick(now, tried)
    }

    fn no_server(&self) -> Failure {
        Failure::NoServer {
            upstream: self.settings.name.clone(),
        }
    }
}

impl Backend {
    /// A connection that has never served: it cannot have been closed for its age.
    pub(super) async fn lease_fresh(&self) -> Result<BackendLease, Failure> {
        Ok(Box::pin(self.pool.open()).await?)
    }

    /// Its address.
    pub(super) fn address(&self) -> BackendAddr {
        self.pool.connector().backend()
    }
}
