//! Every setting there is: its name, what it takes, what it is when left out, and what it is
//! called elsewhere.
//!
//! The one list that the reader of the file, its messages and `docs/settings.md` go by. The
//! values themselves live in the settings types of each part; a test holds the two together.

pub use super::doors::CERTIFICATES;
pub use super::front::{ACCESS_LOG, ADMIN, CLIENT, HOSTS, LISTENERS, SERVER};
pub use super::route_keys::ROUTES;
pub use super::setting::{Default, Setting, Table, Takes};
use super::{closing, sockets, split, transport};

/// All tables, in the order they are explained.
pub const TABLES: [&Table; 10] = [
    &SERVER,
    &ADMIN,
    &ACCESS_LOG,
    &CLIENT,
    &CERTIFICATES,
    &LISTENERS,
    &HOSTS,
    &ROUTES,
    &UPSTREAMS,
    &SERVERS,
];

/// `[upstreams.NAME]`.
pub const UPSTREAMS: Table = Table {
    header: "[upstreams.NAME]",
    key: "upstreams",
    about: "Towards backends: a named set of them, and how they are spoken to. At least one.",
    settings: &[
        Setting {
            name: "servers",
            alias: None,
            takes: Takes::Servers,
            default: Default::Required,
            meaning: "The backends, at least one: `\"host:port\"`, or a table to give a weight.",
            apache: "`BalancerMember`",
            nginx: "`server` in `upstream`",
        },
        Setting {
            name: "keep_alive",
            alias: Some("KeepAlive"),
            takes: Takes::Switch,
            default: Default::Is("true"),
            meaning: "Whether a backend's connection is kept for further requests. Off is the \
                      short mode: one connection a request.",
            apache: "`ProxyPass … enablereuse=` (On), `disablereuse=` (Off)",
            nginx: "`keepalive` in `upstream` (32 since 1.29.7, before that none)",
        },
        Setting {
            name: "max_keep_alive_requests",
            alias: Some("MaxKeepAliveRequests"),
            takes: Takes::Whole {
                least: 0,
                most: u32::MAX as u64,
                unit: "requests",
                zero: Some("unlimited"),
            },
            default: Default::Is("1000"),
            meaning: "How many exchanges may keep the connection. The one after them still takes \
                      place and ends it.",
            apache: "none; `MaxKeepAliveRequests` is for clients",
            nginx: "`keepalive_requests` in `upstream` (1000)",
        },
        Setting {
            name: "keep_alive_timeout",
            alias: Some("KeepAliveTimeout"),
            takes: Takes::Time {
                zero: Some("keeps none"),
            },
            default: Default::Is("\"60s\""),
            meaning: "The longest a kept connection may wait for its next request. Set it below \
                      the backend's own.",
            apache: "`ProxyPass … ttl=` (unlimited)",
            nginx: "`keepalive_timeout` in `upstream` (60s)",
        },
        // Limits and the queue.
        Setting {
            name: "max_connections",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: u32::MAX as u64,
                unit: "connections",
                zero: Some("unlimited"),
            },
            default: Default::Is("0"),
            meaning: "The most connections to each server at once, for all workers together. A request beyond them waits in line.",
            apache: "`ProxyPass … max=` (`ThreadsPerChild`, each process)",
            nginx: "`server … max_conns=` (0)",
        },
        Setting {
            name: "max_idle",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: u32::MAX as u64,
                unit: "connections",
                zero: Some("no limit of its own"),
            },
            default: Default::Is("0"),
            meaning: "The most that may be idle at once; the longest idle is closed for one that comes free.",
            apache: "`ProxyPass … smax=` (the value of `max=`)",
            nginx: "`keepalive` in `upstream` (32, each worker)",
        },
        Setting {
            name: "min_idle",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: 65_535,
                unit: "connections",
                zero: None,
            },
            default: Default::Is("0"),
            meaning: "How many idle ones are kept ready: opened at the start, and again after a loss.",
            apache: "`ProxyPass … min=` (0)",
            nginx: "none",
        },
        Setting {
            name: "max_age",
            alias: None,
            takes: Takes::Time {
                zero: Some("unlimited"),
            },
            default: Default::Is("\"1h\""),
            meaning: "The longest a connection is used, less up to a tenth at random. The exchange that finds it too old is its last.",
            apache: "none",
            nginx: "`keepalive_time` in `upstream` (1h)",
        },
        Setting {
            name: "safe_idle",
            alias: None,
            takes: Takes::Time {
                zero: Some("only fresh ones take it"),
            },
            default: Default::Is("\"1s\""),
            meaning: "How long a connection may have been idle to take a request that cannot be sent twice.",
            apache: "none; `proxy-initial-not-pooled` is a part of it",
            nginx: "none",
        },
        Setting {
            name: "backend_hints",
            alias: None,
            takes: Takes::Switch,
            default: Default::Is("true"),
            meaning: "Whether the backend's own `Keep-Alive: timeout=, max=` shortens the time and the number for its connection.",
            apache: "none",
            nginx: "none",
        },
        Setting {
            name: "learn_idle_timeout",
            alias: None,
            takes: Takes::Switch,
            default: Default::Is("true"),
            meaning: "Whether an idle timeout that a backend is seen to have, again and again, is heeded like a hint.",
            apache: "none",
            nginx: "none",
        },
        Setting {
            name: "hint_margin",
            alias: None,
            takes: Takes::Time { zero: Some("none") },
            default: Default::Is("\"1s\""),
            meaning: "How long before the backend's own idle timeout a connection is not used any more; at most half of that timeout.",
            apache: "none",
            nginx: "none",
        },
        // Opening a connection.
        Setting {
            name: "max_connecting",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: u32::MAX as u64,
                unit: "connections",
                zero: Some("unlimited"),
            },
            default: Default::Is("0"),
            meaning: "The most that may be opening at once.",
            apache: "none",
            nginx: "none",
        },
        Setting {
            name: "max_connects_per_second",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: 1_000_000,
                unit: "connections",
                zero: Some("unlimited"),
            },
            default: Default::Is("0"),
            meaning: "The most that may be begun in a second, a tenth of them at once.",
            apache: "none",
            nginx: "none",
        },
        Setting {
            name: "acquire_timeout",
            alias: None,
            takes: Takes::Time {
                zero: Some("none waits"),
            },
            default: Default::Is("\"5s\""),
            meaning: "The longest a request may wait in line for a connection; then it is answered 503.",
            apache: "`ProxyPass … acquire=` (unlimited)",
            nginx: "`queue … timeout=` (60s, commercial)",
        },
        Setting {
            name: "max_waiting",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: u32::MAX as u64,
                unit: "requests",
                zero: Some("none waits"),
            },
            default: Default::Is("1024"),
            meaning: "The most requests that may wait in line; one more is answered 503 at once.",
            apache: "none",
            nginx: "`queue` (commercial)",
        },
        Setting {
            name: "connect_timeout",
            alias: Some("ConnectionTimeout"),
            takes: Takes::Time { zero: None },
            default: Default::Is("\"5s\""),
            meaning: "The longest opening a connection may take.",
            apache: "`ProxyPass … connectiontimeout=` (the value of `timeout=`)",
            nginx: "`proxy_connect_timeout` (60s)",
        },
        Setting {
            name: "timeout",
            alias: Some("Timeout"),
            takes: Takes::Time { zero: None },
            default: Default::Is("\"60s\""),
            meaning: "The longest one read from or write to a backend may make no progress.",
            apache: "`ProxyPass … timeout=` (`ProxyTimeout`, else `Timeout`)",
            nginx: "`proxy_read_timeout`, `proxy_send_timeout` (60s)",
        },
        // Sending a request again.
        Setting {
            name: "retry_body",
            alias: None,
            takes: Takes::Bytes {
                least: 0,
                most: 1 << 30,
                zero: Some("keeps none"),
            },
            default: Default::Is("\"64k\""),
            meaning: "How much of a request's body is kept while it passes, so that the request can be sent again.",
            apache: "none",
            nginx: "`proxy_request_buffering` (on: all of it)",
        },
        Setting {
            name: "probe_idle",
            alias: None,
            takes: Takes::TimeOrOff {
                zero: "always asks",
            },
            default: Default::Is("\"100ms\""),
            meaning: "How long a connection has to have been idle to be asked by a system call, before it is used, whether its backend has closed it. `off` never asks.",
            apache: "always asks",
            nginx: "none",
        },
        // Closing a connection.
        closing::SHORT_MODE,
        split::SHORT_SHARE,
        split::SHORT_SHARE_BY,
        closing::CLOSE_IDLE,
        closing::CLOSE_LAST,
        closing::CLOSE_ERROR,
        // Sockets and ports.
        sockets::SOURCE_ADDRESSES,
        sockets::SOURCE_PORT_RANGE,
        sockets::SNAT_PORTS,
        sockets::TCP_KEEPALIVE,
        sockets::TCP_KEEPALIVE_INTERVAL,
        sockets::TCP_KEEPALIVE_PROBES,
        sockets::TCP_USER_TIMEOUT,
        sockets::MARK,
        sockets::DSCP,
        sockets::BIND_DEVICE,
        sockets::TCP_FASTOPEN,
        // TLS and protocols.
        transport::PROTOCOL,
        transport::MAX_STREAMS,
        transport::UPGRADE,
        transport::TUNNEL_TIMEOUT,
        transport::PROXY_PROTOCOL,
        transport::TLS,
        transport::TLS_NAME,
        transport::TLS_CA,
        transport::TLS_CERTIFICATE,
        transport::TLS_KEY,
        transport::TLS_VERIFY,
        // Looking names up.
        Setting {
            name: "resolve",
            alias: None,
            takes: Takes::Word(&["ttl", "off"]),
            default: Default::Is("\"ttl\""),
            meaning: "When the names among its servers are looked up again: once the answer's TTL is \
                      over, or not before a reload.",
            apache: "`ProxyPass … addressttl=` (once a child process)",
            nginx: "`server … resolve` (off)",
        },
        Setting {
            name: "resolve_min",
            alias: None,
            takes: Takes::Time { zero: None },
            default: Default::Is("\"1s\""),
            meaning: "The shortest time between two look-ups of a name, whatever the TTL.",
            apache: "none",
            nginx: "`resolver … valid=` (both bounds at once)",
        },
        Setting {
            name: "resolve_max",
            alias: None,
            takes: Takes::Time { zero: None },
            default: Default::Is("\"5m\""),
            meaning: "The longest, whatever the TTL; also the longest pause after look-ups that failed.",
            apache: "none",
            nginx: "`resolver … valid=` (both bounds at once)",
        },
        Setting {
            name: "preserve_host",
            alias: Some("ProxyPreserveHost"),
            takes: Takes::Switch,
            default: Default::Is("true"),
            meaning: "Whether backends see the `Host` the client named, or their own address.",
            apache: "`ProxyPreserveHost` (Off)",
            nginx: "`proxy_set_header Host $host` (`$proxy_host`)",
        },
        Setting {
            name: "forwarded",
            alias: None,
            takes: Takes::Word(&["x-forwarded", "forwarded", "both", "off"]),
            default: Default::Is("\"x-forwarded\""),
            meaning: "Which headers tell backends who the client is: the `X-Forwarded-` three, \
                      `Forwarded` of RFC 7239, both, or none.",
            apache: "`ProxyAddHeaders` (On, `X-Forwarded-`)",
            nginx: "`proxy_set_header X-Forwarded-For …` (not set)",
        },
    ],
};

/// `{ address = …, weight = … }` among the servers of an upstream.
pub const SERVERS: Table = Table {
    header: "servers = [{ … }]",
    key: "servers",
    about: "One backend of an upstream. `\"host:port\"` alone stands for `{ address = \
            \"host:port\" }`.",
    settings: &[
        Setting {
            name: "address",
            alias: None,
            takes: Takes::Server,
            default: Default::Required,
            meaning: "`host:port`, an IPv6 address in brackets; or `unix:/path`. Port 80, with TLS \
                      443, unless given; `http://` in front is dropped. `srv+NAME` is a service: \
                      its SRV records have hosts, ports and weights.",
            apache: "`BalancerMember`, first argument",
            nginx: "`server`, first argument",
        },
        Setting {
            name: "weight",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: 65_535,
                unit: "shares",
                zero: Some("takes it out of the rotation"),
            },
            default: Default::Is("1"),
            meaning: "Its share of the requests, beside the others'.",
            apache: "`BalancerMember … loadfactor=` (1)",
            nginx: "`server … weight=` (1)",
        },
    ],
};

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    /// The settings of one table as the manual shows them.
    fn manual(table: &Table) -> String {
        let mut text = format!("## `{}`\n\n{}\n\n", table.header, table.about);
        text.push_str("| Setting | Meaning | Unit | Default | Apache httpd | nginx |\n");
        text.push_str("|---|---|---|---|---|---|\n");
        for setting in table.settings {
            let zero = match setting.takes.zero() {
                Some(zero) => format!(" 0: {zero}."),
                None => String::new(),
            };
            let default = match setting.default {
                Default::Is(default) => format!("`{default}`"),
                Default::None(means) => means.to_owned(),
                Default::Required => "required".to_owned(),
            };
            writeln!(
                text,
                "| `{}` | {}{zero} | {} | {default} | {} | {} |",
                setting.name,
                setting.meaning,
                setting.takes.unit(),
                setting.apache,
                setting.nginx,
            )
            .unwrap();
        }
        text
    }

    #[test]
    fn the_manual_lists_every_setting_as_it_is() {
        let manual_text = include_str!("../../docs/settings.md");
        let tables = TABLES.map(manual).into_iter();
        let missing: Vec<_> = tables
            .filter(|table| !manual_text.contains(table))
            .collect();
        assert!(
            missing.is_empty(),
            "docs/settings.md should contain:\n\n{}",
            missing.join("\n")
        );
        let rows = manual_text
            .lines()
            .filter(|line| line.starts_with("| `") && !line.starts_with("| `--"))
            .count();
        let settings: usize = TABLES.iter().map(|table| table.settings.len()).sum();
        assert_eq!(
            rows, settings,
            "docs/settings.md lists a setting that does not exist"
        );
        for alias in TABLES
            .iter()
            .flat_map(|table| table.settings)
            .filter_map(|setting| setting.alias)
        {
            assert!(manual_text.contains(&format!("`{alias}`")), "{alias}");
        }
    }

    #[test]
    fn a_setting_goes_by_its_name_and_by_apaches() {
        for (name, found) in [
            ("keep_alive_timeout", Some("keep_alive_timeout")),
            ("KeepAliveTimeout", Some("keep_alive_timeout")),
            ("keepalivetimeout", Some("keep_alive_timeout")),
            ("Keep_Alive_Timeout", None),
            ("keepalive_timeout", None),
        ] {
            assert_eq!(
                CLIENT.find(name).map(|setting| setting.name),
                found,
                "{name}"
            );
        }
    }

    #[test]
    fn no_name_stands_for_two_settings() {
        for table in TABLES {
            for setting in table.settings {
                for name in [Some(setting.name), setting.alias].into_iter().flatten() {
                    let holders = table.settings.iter().filter(|other| other.is_called(name));
                    assert_eq!(holders.count(), 1, "{name} in {}", table.header);
                }
            }
        }
    }
}
