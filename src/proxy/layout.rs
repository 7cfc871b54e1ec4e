//! What a proxy is made from: the routes, and where each upstream's servers are. It never changes;
//! where it would, another takes its place.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::backend::{self, Connector};
use crate::net::{BackendAddr, Dial, TcpConnect, Tls};
use crate::pool::{Common, Connect};
use crate::route::Router;
use crate::split::Split;

use super::body::RequestBody;
use super::routed::Way;

/// What the workers have in common of one backend.
pub type ServerCommon = Common<<Connector<RequestBody> as Connect>::Lent>;

/// The backends of an upstream, and what all workers have in common of each.
pub type Share = Vec<(Target, Arc<ServerCommon>)>;

/// One address of an upstream, looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The backend's address.
    pub backend: BackendAddr,
    /// Its weight.
    pub weight: u32,
    /// Its host as written.
    pub host: Arc<str>,
    /// How TLS is spoken to it, if it is.
    pub tls: Option<Tls>,
}

impl Target {
    /// What is dialled for a connection to it.
    pub(super) fn dial(&self, settings: &backend::Settings) -> Dial {
        Dial {
            tcp: TcpConnect::new(&settings.source_addresses, settings.sockets.clone()),
            proxy_protocol: settings.proxy_protocol,
            tls: self.tls.clone().map(|tls| (tls, Arc::clone(&self.host))),
        }
    }

    /// Its address as a `Host` header.
    pub(super) fn host_header(&self) -> HeaderValue {
        match &self.backend {
            BackendAddr::Ip(address) => {
                HeaderValue::from_maybe_shared(Bytes::from(address.to_string()))
                    .expect("a socket address is visible ASCII")
            }
            // As nginx has it.
            BackendAddr::Unix(_) => HeaderValue::from_static("localhost"),
        }
    }
}

/// The routes, and where they lead. A part that is the same in the next layout is the same
/// allocation there: that is how workers know what stays.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// The routes, to upstreams by index.
    pub router: Arc<Router<Way>>,
    /// The upstreams.
    pub upstreams: Vec<Arc<UpstreamPlan>>,
}

/// One upstream: what is asked for, and its backends.
#[derive(Debug)]
pub struct UpstreamPlan {
    /// What is asked for.
    pub settings: backend::Settings,
    /// Its backends.
    pub servers: Share,
    /// Which requests go to its short arm, which is an upstream of its own; `None`: none ever.
    pub split: Option<Arc<Split>>,
}
