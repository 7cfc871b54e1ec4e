//! How listeners speak TLS: their certificates, which are looked at again and again, and what comes of them.

use std::sync::Arc;
use std::time::Duration;

use super::{ListenerSettings, Settings, StartError};
use crate::client::Policy;
use crate::net::{Prepared, Served, ServerTls};

/// How often it is looked whether a certificate's file has changed.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The certificates, and how each listener speaks TLS.
#[derive(Debug, Default)]
pub(super) struct Doors {
    served: Arc<Served>,
    /// As in the settings.
    tls: Vec<(ListenerSettings, Option<ServerTls>)>,
}

/// What new settings come to, before it is put into effect.
#[derive(Debug)]
pub(super) struct Next {
    prepared: Prepared,
    tls: Vec<Option<ServerTls>>,
}

impl Doors {
    /// Before anything was loaded; the certificates will be in `served`.
    pub(super) fn of(served: Arc<Served>) -> Doors {
        Doors {
            served,
            tls: Vec::new(),
        }
    }

    /// Reads what `settings` name; what is wrong is noted.
    pub(super) fn load(&self, settings: &Settings, faults: &mut Vec<StartError>) -> Option<Next> {
        let prepared = self.served.prepare(&settings.certificates);
        let prepared = prepared.map_err(|source| faults.push(StartError::Certificates(source)));
        let load = |listener: &ListenerSettings| {
            let asked = listener.tls.as_ref()?;
            let old = self
                .tls
                .iter()
                .find(|(old, _)| old.address == listener.address);
            let old = old.and_then(|(_, tls)| tls.as_ref());
            let loaded = ServerTls::load(asked, &self.served, old);
            let fault = |source| StartError::Listener {
                address: listener.address,
                source,
            };
            loaded.map_err(|source| faults.push(fault(source))).ok()
        };
        let tls = settings.listeners.iter().map(load).collect();
        prepared.ok().map(|prepared| Next { prepared, tls })
    }

    /// Puts it into effect: how the clients of each listener are served from now on.
    pub(super) fn put(&mut self, next: Next, settings: &Settings) -> Vec<Arc<Policy>> {
        self.served.put(next.prepared);
        self.tls = settings.listeners.iter().cloned().zip(next.tls).collect();
        let routes = super::routes::overrides(settings);
        let policies = self.tls.iter().map(|(listener, tls)| {
            let client = listener.client.over(&settings.client);
            Arc::new(Policy::new(client, &settings.hosts, &routes).with_tls(tls.clone()))
        });
        policies.collect()
    }

    /// Looks whether a certificate's file has changed.
    pub(super) fn refresh(&self) {
        self.served.refresh();
    }
}
