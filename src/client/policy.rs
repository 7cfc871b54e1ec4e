//! How the clients of one listener are served, by the host that a request names.

use std::iter::once;

use crate::net::ServerTls;
use crate::route::Router;

use super::settings::{Overrides, Settings};

/// One name-based virtual host, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// The hosts it is for: exact (`shop.example`), or every name below one (`*.shop.example`).
    /// Without a port; compared without regard to case.
    pub names: Vec<String>,
    /// What is asked for otherwise than on the listener.
    pub client: Overrides,
}

/// How the clients of one listener are served. Until a request has named its host, and where nothing
/// is said of that, as the listener has it.
///
/// Source: Apache httpd 2.4, name-based virtual hosts (`apply_server_config` in `protocol.c`).
#[derive(Clone, Debug, Default)]
pub struct Policy {
    tls: Option<ServerTls>,
    listener: Settings,
    /// Those of the virtual hosts; after them, for each of `routes`, those on that route: first with no
    /// virtual host, then with each.
    settings: Vec<Settings>,
    /// How many virtual hosts there are.
    hosts: usize,
    /// What routes ask for otherwise.
    routes: Vec<Overrides>,
    router: Option<Router<usize>>,
}

impl Policy {
    /// The policy of a listener with these settings, and what the virtual hosts, and then routes, ask for
    /// otherwise.
    pub fn new(listener: Settings, hosts: &[HostSettings], routes: &[Overrides]) -> Policy {
        let names = hosts.iter().enumerate().flat_map(|(index, host)| {
            let names = host.names.iter();
            names.map(move |name| (Some(name.as_str()), "/", index))
        });
        let by_name = (!hosts.is_empty()).then(|| Router::new(names));
        let hosts: Vec<_> = hosts
            .iter()
            .map(|host| host.client.over(&listener))
            .collect();
        let mut asked: Vec<Overrides> = Vec::new();
        for route in routes {
            if *route != Overrides::default() && !asked.contains(route) {
                asked.push(route.clone());
            }
        }
        let mut settings = hosts.clone();
        for route in &asked {
            settings.extend(once(&listener).chain(&hosts).map(|base| route.over(base)));
        }
        Policy {
            tls: None,
            listener,
            settings,
            hosts: hosts.len(),
            routes: asked,
            router: by_name,
        }
    }

    /// The same, where TLS is spoken.
    #[must_use]
    pub fn with_tls(self, tls: Option<ServerTls>) -> Policy {
        Policy { tls, ..self }
    }

    /// How TLS is spoken, if it is.
    pub fn tls(&self) -> Option<&ServerTls> {
        self.tls.as_ref()
    }

    /// The virtual host of this name, by its number.
    pub fn host(&self, name: Option<&str>) -> Option<usize> {
        self.router.as_ref()?.find(name, "/").copied()
    }

    /// The number of the settings on a route that asks for this otherwise, at the virtual host of this number.
    /// On a connection from before a reload that has changed it, those of the virtual host.
    pub fn on_route(&self, host: Option<usize>, otherwise: &Overrides) -> Option<usize> {
        match self.routes.iter().position(|known| known == otherwise) {
            Some(route) => {
                let base = self.hosts + route * (self.hosts + 1);
                Some(base + host.map_or(0, |host| host + 1))
            }
            None => host,
        }
    }

    /// Whether it matters which host a request names, or which route it takes.
    pub fn has_hosts(&self) -> bool {
        !self.settings.is_empty()
    }

    /// How requests to the virtual host of this number, or on a route there, are served; to none of them, with
    /// `None`.
    pub fn settings(&self, number: Option<usize>) -> &Settings {
        number.map_or(&self.listener, |number| &self.settings[number])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_host_counts_and_others_are_served_as_on_the_listener() {
        let host = |names: &[&str], abort: bool| HostSettings {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            client: Overrides {
                abort_on_close: Some(abort),
                ..Overrides::default()
            },
        };
        let hosts = [
            host(&["*.shop.example"], false),
            host(&["a.shop.example", "b.example"], true),
        ];
        let policy = Policy::new(Settings::default(), &hosts, &[]);
        for (name, number) in [
            (Some("x.shop.example:8080"), Some(0)),
            (Some("A.shop.example"), Some(1)),
            (Some("b.example"), Some(1)),
            (Some("c.example"), None),
            (None, None),
        ] {
            assert_eq!(policy.host(name), number, "{name:?}");
            let abort = policy.settings(number).abort_on_close;
            assert_eq!(abort, number == Some(1), "{name:?}");
        }
    }

    #[test]
    fn a_route_asks_for_more_than_its_host() {
        let timeout = |seconds| Overrides {
            timeout: Some(std::time::Duration::from_secs(seconds)),
            ..Overrides::default()
        };
        let body = |most| Overrides {
            body: Some(Some(most)),
            ..Overrides::default()
        };
        let host = |name: &str, client| HostSettings {
            names: vec![name.to_owned()],
            client,
        };
        let hosts = [host("a", timeout(1)), host("b", body(2))];
        let routes = [Overrides::default(), body(10), timeout(20), body(10)];
        let policy = Policy::new(Settings::default(), &hosts, &routes);
        for (name, route, seconds, most) in [
            ("a", body(10), 1, Some(10)),
            ("a", timeout(20), 20, None),
            ("b", timeout(20), 20, Some(2)),
            ("b", body(10), 60, Some(10)),
            ("c", body(10), 60, Some(10)),
            ("c", timeout(20), 20, None),
            ("a", Overrides::default(), 1, None),
            ("a", body(11), 1, None),
        ] {
            let number = policy.on_route(policy.host(Some(name)), &route);
            let settings = policy.settings(number);
            assert_eq!(settings.timeout.as_secs(), seconds, "{name} {route:?}");
            assert_eq!(settings.limits.body, most, "{name} {route:?}");
        }
    }
}
