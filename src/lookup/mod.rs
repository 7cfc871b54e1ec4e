//! Names → addresses, and for how long.
//!
//! Asks name servers, after `/etc/hosts`; decides little: which addresses an answer comes to is in
//! `answer`, when to ask again in [`Schedule`]. The asking is done by `hickory-resolver`, without
//! its cache: who asks knows when.

mod answer;
mod origin;
mod schedule;
mod settings;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{Hosts, TokioResolver};

use tracing::warn;

use answer::Service;

pub use answer::{Found, Place};
pub use origin::{Origin, SERVICE};
pub use schedule::Schedule;
pub use settings::Settings;

/// The most addresses of one server that are used: each is a pool on every worker.
const MOST_PLACES: usize = 256;

/// The most hosts of a service that are looked up.
const MOST_HOSTS: usize = 64;

/// Why a look-up came to nothing.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookUpError {
    /// There is no such name, or it has no address.
    #[error("the name has no address")]
    NoAddress,
    /// A server that is neither an address nor a name with a port.
    #[error("neither `host:port` nor a service")]
    NotAServer,
    /// The name servers could not be asked, or did not answer.
    #[error("the name servers gave no answer: {0}")]
    NoAnswer(String),
    /// It is not known which name servers to ask.
    #[error("cannot read /etc/resolv.conf: {0}")]
    NoResolver(String),
}

/// Where the system says which name servers to ask.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Whom to ask where it does not say so: resolv.conf(5).
const OF_THIS_MACHINE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// Asks name servers.
#[derive(Clone)]
pub struct Resolver(TokioResolver);

impl Resolver {
    /// A resolver that asks `servers`, or those of `/etc/resolv.conf` if there are none. Its
    /// look-ups run on the current thread's runtime.
    ///
    /// # Errors
    /// [`LookUpError::NoResolver`].
    pub fn new(servers: &[SocketAddr]) -> Result<Resolver, LookUpError> {
        let mut servers = servers;
        if servers.is_empty() && !Path::new(RESOLV_CONF).exists() {
            servers = &[OF_THIS_MACHINE];
        }
        let unreadable = |error: NetError| LookUpError::NoResolver(error.to_string());
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio().map_err(unreadable)?
        } else {
            let servers = servers.iter().map(|server| {
                let over = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let ways = vec![over(ConnectionConfig::udp()), over(ConnectionConfig::tcp())];
                NameServerConfig::new(server.ip(), true, ways)
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            let provider = TokioRuntimeProvider::default();
            TokioResolver::builder_with_config(config, provider)
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        // Read at each look-up instead.
        options.use_hosts_file = ResolveHosts::Never;
        builder.build().map(Resolver).map_err(unreadable)
    }

    /// The addresses of a server; `known` are those it has had so far.
    ///
    /// # Errors
    /// [`LookUpError`]; also when there is no address.
    pub async fn look_up(&self, origin: &Origin, known: &[Place]) -> Result<Found, LookUpError> {
        let mut found = match origin {
            Origin::Address(address) => Found::fixed([*address]),
            Origin::Unix => return Ok(Found::fixed([])),
            Origin::Host(name, port) => self.host(name, *port, 1, known).await?,
            Origin::Service(name) => self.service(name, known).await?,
        };
        found.places = answer::merged(found.places);
        if found.places.len() > MOST_PLACES {
            // A pool each: whoever answers so is mistaken, or means harm.
            warn!(
                addresses = found.places.len(),
                "a name has more addresses than are used: the first {MOST_PLACES} are"
            );
            found.places.truncate(MOST_PLACES);
        }
        if found.places.is_empty() {
            return Err(LookUpError::NoAddress);
        }
        Ok(found)
    }

    /// The addresses of a host. None is no error here.
    async fn host(
        &self,
        name: &str,
        port: u16,
        weight: u32,
        known: &[Place],
    ) -> Result<Found, LookUpError> {
        let (addresses, ttl) = match in_hosts_file(name) {
            Some(addresses) => (addresses, Duration::MAX),
            None => self.ask_for_addresses(name, known).await?,
        };
        let place = |ip| Place {
            address: SocketAddr::new(ip, port),
            weight,
        };
        Ok(Found {
            places: addresses.into_iter().map(place).collect(),
            ttl,
        })
    }

    async fn ask_for_addresses(
        &self,
        name: &str,
        known: &[Place],
    ) -> Result<(Vec<IpAddr>, Duration), LookUpError> {
        let address = |data: &RData| data.ip_addr();
        let (v4, v6) = tokio::join!(
            self.records(name, RecordType::A, address),
            self.records(name, RecordType::AAAA, address),
        );
        let known = known.iter().map(|place| place.address.ip());
        match (v4, v6) {
            (Ok((mut found, ttl)), Ok((v6, v6_ttl))) => {
                found.extend(v6);
                Ok((found, ttl.min(v6_ttl)))
            }
            (Ok((found, ttl)), Err(_))
                if answer::may_do_without(true, found.len(), known.clone()) =>
            {
                Ok((found, ttl))
            }
            (Err(_), Ok((found, ttl))) if answer::may_do_without(false, found.len(), known) => {
                Ok((found, ttl))
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }

    async fn service(&self, name: &str, known: &[Place]) -> Result<Found, LookUpError> {
        let service = |data: &RData| {
            let RData::SRV(srv) = data else { return None };
            // RFC 2782: a target of "." says that there is no such service here.
            let is_one = !srv.target.is_root() && srv.port != 0;
            is_one.then(|| Service {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_string(),
            })
        };
        let (records, mut ttl) = self.records(name, RecordType::SRV, service).await?;
        for group in answer::by_priority(records) {
            let weights: Vec<_> = group.iter().map(|record| record.weight).collect();
            let mut places = Vec::new();
            for (record, weight) in group.iter().zip(answer::weights(&weights)).take(MOST_HOSTS) {
                let found = self
                    .host(&record.target, record.port, weight, known)
                    .await?;
                ttl = ttl.min(found.ttl);
                places.extend(found.places);
            }
            if !places.is_empty() {
                return Ok(Found { places, ttl });
            }
        }
        Err(LookUpError::NoAddress)
    }

    /// What `read` makes of the records of one kind, and their shortest TTL. None is no error.
    async fn records<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<(Vec<T>, Duration), LookUpError> {
        let answer = match self.0.lookup(name, kind).await {
            Ok(answer) => answer,
            Err(error) if error.is_no_records_found() => return Ok((Vec::new(), Duration::MAX)),
            Err(error) => return Err(LookUpError::NoAnswer(error.to_string())),
        };
        // The aliases on the way have a TTL too.
        let ttl = answer.answers().iter().map(|record| record.ttl).min();
        let found = answer
            .answers()
            .iter()
            .filter_map(|record| read(&record.data));
        Ok((
            found.collect(),
            Duration::from_secs(ttl.unwrap_or(0).into()),
        ))
    }
}

/// What `/etc/hosts` says of a name, as it is now; `None` if nothing.
fn in_hosts_file(name: &str) -> Option<Vec<IpAddr>> {
    let hosts = Hosts::from_system().ok()?;
    let name: Name = name.parse().ok()?;
    let answers: Vec<_> = [RecordType::A, RecordType::AAAA]
        .into_iter()
        .filter_map(|kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)))
        .collect();
    if answers.is_empty() {
        return None;
    }
    let addresses = answers.iter().flat_map(Lookup::answers);
    Some(
        addresses
            .filter_map(|record| record.data.ip_addr())
            .collect(),
    )
}
