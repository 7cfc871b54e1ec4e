//! A server as it is written → where its addresses come from.

use std::net::SocketAddr;

/// What stands in front of the name of a service.
pub const SERVICE: &str = "srv+";

/// Where the addresses of a server come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is one; nothing is looked up.
    Address(SocketAddr),
    /// A name with A and AAAA records, and the port.
    Host(String, u16),
    /// A name with SRV records, which have the ports.
    Service(String),
    /// A Unix socket; nothing is looked up, and it has no address.
    Unix,
}

impl Origin {
    /// Whether there is anything to be looked up.
    pub fn is_name(&self) -> bool {
        match self {
            Origin::Host(..) | Origin::Service(_) => true,
            Origin::Address(_) | Origin::Unix => false,
        }
    }
}

impl Origin {
    /// Reads `127.0.0.1:80`, `[::1]:80`, `name:80`, `srv+_http._tcp.name` or `unix:/path`. `None`
    /// if it is neither.
    pub fn parse(text: &str) -> Option<Origin> {
        if text.starts_with("unix:") {
            return Some(Origin::Unix);
        }
        if let Some(name) = text.strip_prefix(SERVICE) {
            return (!name.is_empty()).then(|| Origin::Service(name.to_owned()));
        }
        if let Ok(address) = text.parse() {
            return Some(Origin::Address(address));
        }
        let (name, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        (!name.is_empty()).then(|| Origin::Host(name.to_owned(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_never_looked_up_and_a_service_brings_its_ports() {
        let host = |name: &str, port| Some(Origin::Host(name.to_owned(), port));
        for (text, origin) in [
            (
                "127.0.0.1:80",
                Some(Origin::Address(([127, 0, 0, 1], 80).into())),
            ),
            (
                "[::1]:80",
                Some(Origin::Address("[::1]:80".parse().unwrap())),
            ),
            ("app:80", host("app", 80)),
            ("app.example:8080", host("app.example", 8080)),
            (
                "srv+_http._tcp.app.example",
                Some(Origin::Service("_http._tcp.app.example".to_owned())),
            ),
            ("unix:/run/app.sock", Some(Origin::Unix)),
            ("srv+", None),
            ("app", None),
            (":80", None),
            ("app:99999", None),
        ] {
            assert_eq!(Origin::parse(text), origin, "{text}");
        }
    }
}
