//! What a change of the settings, or of the addresses of names, comes to: which servers stay, come
//! and go.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::Settings;
use crate::backend::ServerSettings;
use crate::lookup::Place;
use crate::net::{BackendAddr, Tls};
use crate::proxy::Target;

/// The targets of an upstream, from its servers as written and what is known of the addresses of
/// each. One that is found twice is one, with both weights.
pub(super) fn targets<'a>(
    servers: impl IntoIterator<Item = (&'a ServerSettings, &'a [Place])>,
    tls: Option<&Tls>,
) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for (server, places) in servers {
        let host: Arc<str> = server.host().into();
        let unix = server
            .unix()
            .map(|path| (BackendAddr::Unix(Path::new(path).into()), 1));
        let places = places
            .iter()
            .map(|place| (BackendAddr::Ip(place.address), place.weight));
        for (backend, weight) in unix.into_iter().chain(places) {
            let target = Target {
                backend,
                weight: server.weight.saturating_mul(weight),
                host: Arc::clone(&host),
                tls: tls.cloned(),
            };
            match targets.iter_mut().find(|known| is_same(known, &target)) {
                Some(known) => known.weight = known.weight.saturating_add(target.weight),
                None => targets.push(target),
            }
        }
    }
    targets
}

/// Whether connections to one are connections to the other: the address, and with TLS the name and
/// what it was made from.
fn is_same(one: &Target, other: &Target) -> bool {
    one.backend == other.backend
        && one.tls == other.tls
        && (one.tls.is_none() || one.host == other.host)
}

/// For each of the new servers, where among the old ones it stood: its connections go with it.
pub(super) fn carried_over(old: &[Target], new: &[Target]) -> Vec<Option<usize>> {
    let place = |target: &Target| old.iter().position(|old| is_same(old, target));
    new.iter().map(place).collect()
}

/// Servers that have come and gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// These are new.
    pub came: Vec<BackendAddr>,
    /// These are no more.
    pub went: Vec<BackendAddr>,
}

impl Moves {
    pub(super) fn between(old: &[Target], new: &[Target]) -> Moves {
        let only_in = |ones: &[Target], others: &[Target]| {
            ones.iter()
                .map(|one| &one.backend)
                .filter(|one| others.iter().all(|other| other.backend != **one))
                .cloned()
                .collect()
        };
        Moves {
            came: only_in(new, old),
            went: only_in(old, new),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.came.is_empty() && self.went.is_empty()
    }
}

impl fmt::Display for Moves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signed = [("+", &self.came), ("-", &self.went)];
        let mut between = "";
        for (sign, backends) in signed {
            for backend in backends {
                write!(f, "{between}{sign}{backend}")?;
                between = " ";
            }
        }
        Ok(())
    }
}

/// What has become of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamChange {
    /// It is new.
    Came,
    /// It is no more.
    Went,
    /// Its servers or their weights, or what is asked of requests; connections to the servers that
    /// stay are kept.
    Changed(Moves),
    /// What is asked of its connections: all of them are new.
    Renewed(Moves),
}

/// What a reload has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whether the routes are others.
    pub routes: bool,
    /// Whether other certificates are shown; that a file has changed does not count.
    pub certificates: bool,
    /// Whether other addresses are listened on, or new clients of one are served otherwise.
    pub listeners: bool,
    /// Whether new clients are served otherwise.
    pub client: bool,
    /// The same for virtual hosts.
    pub hosts: bool,
    /// Whether the shutdown may take another time.
    pub shutdown_timeout: bool,
    /// Whether other name servers are asked.
    pub resolver: bool,
    /// The upstreams that have changed, by name.
    pub upstreams: Vec<(String, UpstreamChange)>,
    /// Settings that are others in the file, and go on as they were: they need a restart.
    pub restart: Vec<&'static str>,
}

impl Changes {
    /// What is to be said of everything but the upstreams.
    pub(super) fn between(old: &Settings, new: &Settings) -> Changes {
        let mut restart = Vec::new();
        if old.workers != new.workers {
            restart.push("workers");
        }
        if old.admin != new.admin {
            restart.push("admin");
        }
        if old.access_log != new.access_log {
            restart.push("access_log");
        }
        Changes {
            routes: old.routes != new.routes,
            certificates: old.certificates != new.certificates,
            listeners: old.listeners != new.listeners,
            client: old.client != new.client || old.max_clients != new.max_clients,
            hosts: old.hosts != new.hosts,
            shutdown_timeout: old.shutdown_timeout != new.shutdown_timeout,
            resolver: old.resolver != new.resolver,
            upstreams: Vec::new(),
            restart,
        }
    }

    /// Whether nothing is other than it was.
    pub fn is_empty(&self) -> bool {
        *self == Changes::default()
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (changed, what) in [
            (self.routes, "routes"),
            (self.certificates, "certificates"),
            (self.listeners, "listeners"),
            (self.client, "client"),
            (self.hosts, "hosts"),
            (self.shutdown_timeout, "shutdown_timeout"),
            (self.resolver, "resolver"),
        ] {
            if changed {
                parts.push(what.to_owned());
            }
        }
        for (name, change) in &self.upstreams {
            parts.push(match change {
                UpstreamChange::Came => format!("upstream {name} is new"),
                UpstreamChange::Went => format!("upstream {name} has gone"),
                UpstreamChange::Changed(moves) if moves.is_empty() => format!("upstream {name}"),
                UpstreamChange::Changed(moves) => format!("upstream {name} ({moves})"),
                UpstreamChange::Renewed(moves) if moves.is_empty() => {
                    format!("upstream {name} (new connections)")
                }
                UpstreamChange::Renewed(moves) => {
                    format!("upstream {name} (new connections, {moves})")
                }
            });
        }
        if parts.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Protocol;
    use crate::client;
    use crate::log;
    use crate::net::TlsSettings;
    use crate::route::RouteSettings;
    use std::time::Duration;

    fn address(last: u8) -> BackendAddr {
        BackendAddr::Ip(([10, 0, 0, last], 80).into())
    }

    fn target(last: u8, weight: u32) -> Target {
        Target {
            backend: address(last),
            weight,
            host: "a".into(),
            tls: None,
        }
    }

    fn place(last: u8, weight: u32) -> Place {
        Place {
            address: ([10, 0, 0, last], 80).into(),
            weight,
        }
    }

    #[test]
    fn a_servers_weight_is_that_of_each_of_its_addresses() {
        for (servers, are) in [
            (vec![], vec![]),
            (vec![(2, vec![place(1, 1)])], vec![target(1, 2)]),
            (
                vec![(2, vec![place(1, 1), place(2, 3)])],
                vec![target(1, 2), target(2, 6)],
            ),
            (
                // In the order of the file, not of the addresses.
                vec![(1, vec![place(9, 1)]), (0, vec![place(1, 5)])],
                vec![target(9, 1), target(1, 0)],
            ),
            (
                vec![(1, vec![place(1, 1)]), (2, vec![place(1, 1), place(2, 1)])],
                vec![target(1, 3), target(2, 2)],
            ),
        ] {
            let written = servers.iter().map(|(weight, _)| ServerSettings {
                weight: *weight,
                ..ServerSettings::new("a:80")
            });
            let written: Vec<_> = written.collect();
            let places = servers.iter().map(|(_, places)| &places[..]);
            let found = targets(written.iter().zip(places), None);
            assert_eq!(found, are, "{servers:?}");
        }
    }

    #[test]
    fn a_unix_socket_is_a_target_of_its_own() {
        let server = ServerSettings::new("unix:/run/app.sock");
        let found = targets([(&server, &[][..])], None);
        assert_eq!(found[0].backend.to_string(), "unix:/run/app.sock");
        assert_eq!((&*found[0].host, found[0].weight), ("localhost", 1));
    }

    /// TLS made from what it says of verifying, and offers.
    fn tls(protocol: Protocol) -> Tls {
        let settings = TlsSettings {
            verify: false,
            ..TlsSettings::default()
        };
        Tls::load(&settings, protocol.offer()).unwrap()
    }

    #[test]
    fn with_tls_a_server_is_its_address_its_name_and_what_its_tls_is_made_from() {
        let written = ["a:443", "b:443"].map(ServerSettings::new);
        let places = [place(1, 1)];
        let found = |tls: Option<Tls>| {
            let known = written.iter().map(|server| (server, &places[..]));
            targets(known, tls.as_ref())
        };
        assert_eq!(found(None).len(), 1);
        let old = found(Some(tls(Protocol::Http1)));
        let hosts: Vec<_> = old.iter().map(|target| &*target.host).collect();
        assert_eq!(hosts, ["a", "b"]);
        let again = found(Some(tls(Protocol::Http1)));
        assert_eq!(carried_over(&old, &again), [Some(0), Some(1)]);
        // No connection goes over, though nobody has come or gone.
        let other = found(Some(tls(Protocol::Http2)));
        assert_eq!(carried_over(&old, &other), [None, None]);
        assert!(Moves::between(&old, &other).is_empty());
    }

    #[test]
    fn a_server_that_is_still_there_keeps_what_it_has_wherever_it_stands() {
        for (old, new, places, said) in [
            (vec![], vec![target(1, 1)], vec![None], "+10.0.0.1:80"),
            (vec![target(1, 1)], vec![target(1, 1)], vec![Some(0)], ""),
            (vec![target(1, 1)], vec![target(1, 7)], vec![Some(0)], ""),
            (
                vec![target(1, 1), target(2, 1)],
                vec![target(2, 1), target(3, 1), target(1, 1)],
                vec![Some(1), None, Some(0)],
                "+10.0.0.3:80",
            ),
            (
                vec![target(1, 1), target(2, 1), target(3, 1)],
                vec![target(4, 1), target(3, 1)],
                vec![None, Some(2)],
                "+10.0.0.4:80 -10.0.0.1:80 -10.0.0.2:80",
            ),
        ] {
            assert_eq!(carried_over(&old, &new), places, "{old:?} {new:?}");
            assert_eq!(Moves::between(&old, &new).to_string(), said);
        }
    }

    fn settings() -> Settings {
        Settings {
            workers: 0,
            shutdown_timeout: Duration::from_secs(1),
            resolver: Vec::new(),
            client: client::Settings::default(),
            max_clients: None,
            admin: None,
            access_log: None,
            certificates: Vec::new(),
            listeners: Vec::new(),
            hosts: Vec::new(),
            routes: Vec::new(),
            upstreams: Vec::new(),
        }
    }

    #[test]
    fn every_setting_that_is_another_is_named_and_so_is_what_takes_a_restart() {
        let changed = |change: fn(&mut Settings)| {
            let mut new = settings();
            change(&mut new);
            let changes = Changes::between(&settings(), &new);
            (changes.to_string(), changes.restart)
        };
        let said = |text: &str| (text.to_owned(), Vec::new());
        assert_eq!(changed(|_| ()), said("nothing"));
        assert_eq!(
            changed(|new| new.routes.push(RouteSettings::to("/", "app").into())),
            said("routes")
        );
        assert_eq!(
            changed(|new| {
                new.client.timeout *= 2;
                new.shutdown_timeout *= 2;
            }),
            said("client, shutdown_timeout")
        );
        assert_eq!(
            changed(|new| new.resolver.push(([127, 0, 0, 1], 53).into())),
            said("resolver")
        );
        assert_eq!(
            changed(|new| {
                new.workers = 3;
                new.access_log = Some(log::Settings {
                    to: log::Destination::Stdout,
                    format: log::Format::Json,
                    flush: log::Settings::FLUSH,
                });
                let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
                new.listeners.push(address.into());
            }),
            ("listeners".to_owned(), vec!["workers", "access_log"])
        );
    }

    #[test]
    fn what_has_become_of_the_upstreams_is_said_in_one_line() {
        let moves = Moves {
            came: vec![address(1)],
            went: vec![address(2)],
        };
        let changes = Changes {
            routes: true,
            upstreams: vec![
                ("a".to_owned(), UpstreamChange::Came),
                ("b".to_owned(), UpstreamChange::Went),
                ("c".to_owned(), UpstreamChange::Changed(moves.clone())),
                ("d".to_owned(), UpstreamChange::Changed(Moves::default())),
                ("e".to_owned(), UpstreamChange::Renewed(moves)),
                ("f".to_owned(), UpstreamChange::Renewed(Moves::default())),
            ],
            ..Changes::default()
        };
        assert_eq!(
            changes.to_string(),
            "routes, upstream a is new, upstream b has gone, upstream c (+10.0.0.1:80 \
             -10.0.0.2:80), upstream d, upstream e (new connections, +10.0.0.1:80 -10.0.0.2:80), \
             upstream f (new connections)"
        );
        assert!(!changes.is_empty());
        assert!(Changes::default().is_empty());
    }
}
