//! How the clients of one listener are served, by the host that a request names.

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
    hosts: Vec<Settings>,
    router: Option<Router<usize>>,
}

impl Policy {
    /// The policy of a listener with these settings, and what the virtual hosts ask for otherwise.
    pub fn new(listener: Settings, hosts: &[HostSettings]) -> Policy {
        let names = hosts.iter().enumerate().flat_map(|(index, host)| {
            let names = host.names.iter();
            names.map(move |name| (Some(name.as_str()), "/", index))
        });
        Policy {
            tls: None,
            router: (!hosts.is_empty()).then(|| Router::new(names)),
            hosts: hosts
                .iter()
                .map(|host| host.client.over(&listener))
                .collect(),
            listener,
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
        self.router.as_ref()?.find(name, "/")
    }

    /// Whether there are virtual hosts.
    pub fn has_hosts(&self) -> bool {
        self.router.is_some()
    }

    /// How requests to the virtual host of this number are served; to none of them, with `None`.
    pub fn settings(&self, host: Option<usize>) -> &Settings {
        host.map_or(&self.listener, |host| &self.hosts[host])
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
        let policy = Policy::new(Settings::default(), &hosts);
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
}
