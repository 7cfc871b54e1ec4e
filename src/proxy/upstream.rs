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
use crate::net::{BackendAddr, ConnectError};
use crate::pool::{AcquireError, Common, Connect, Need, Pool, Wants};

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

/// What the workers have in common of one backend.
pub type ServerCommon = Common<<Connector<RequestBody> as Connect>::Lent>;

/// One address of an upstream, looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The backend's address.
    pub backend: BackendAddr,
    /// Its weight.
    pub weight: u32,
}

impl Upstream {
    /// An upstream of these backends, as the `worker`-th worker sees it, each with what all workers
    /// have in common of it. Runs on the current thread's runtime.
    pub fn new(
        settings: backend::Settings,
        targets: &[(Target, Arc<ServerCommon>)],
        worker: usize,
    ) -> Upstream {
        let backends = targets.iter().map(|(target, common)| Backend {
            pool: Pool::new(
                Connector::new(
                    target.backend,
                    settings.connect_timeout,
                    settings.closing,
                    &settings.source_addresses,
                    Arc::clone(&common.tallies()[worker]),
                )
                .probing(settings.probe_idle),
                Arc::clone(common),
                worker,
            ),
            host: HeaderValue::from_maybe_shared(Bytes::from(target.backend.to_string()))
                .expect("a socket address is visible ASCII"),
            tally: Arc::clone(&common.tallies()[worker]),
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

    /// A connection to the backend whose turn it is: one that waits, or else one that is waited
    /// for.
    pub(super) async fn lease(
        &self,
        now: Instant,
        need: Need,
    ) -> Result<(&Backend, BackendLease), Failure> {
        let index = self.pick(now, &[]).ok_or_else(|| self.no_server())?;
        let wants = Wants {
            need,
            ..Wants::default()
        };
        match self.backends[index].pool.acquire(now, wants) {
            Some(lease) => Ok((&self.backends[index], lease)),
            // Boxed: rare, and large beside the rest of an exchange.
            None => Box::pin(self.wait(now, index, wants)).await,
        }
    }

    /// Waits for a connection; if the backend cannot be reached, turns to the others, each once.
    async fn wait(
        &self,
        mut now: Instant,
        mut index: usize,
        wants: Wants,
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
            upstream: self.settings.name.clone(),
        }
    }
}

impl Backend {
    /// A connection that cannot have been closed for its age: a new one, or one that comes free.
    pub(super) async fn lease_fresh(&self) -> Result<BackendLease, Failure> {
        let wants = Wants {
            need: Need::Fresh,
            ..Wants::default()
        };
        Box::pin(self.pool.wait(Instant::now(), wants))
            .await
            .map_err(|error| self.failure(error))
    }

    fn failure(&self, error: AcquireError<ConnectError>) -> Failure {
        match error {
            AcquireError::Connect(error) => Failure::Connect(error),
            AcquireError::Refused(why) => Failure::NoConnection {
                backend: self.address(),
                why,
            },
        }
    }

    /// Its address.
    pub(super) fn address(&self) -> BackendAddr {
        self.pool.connector().backend()
    }
}
