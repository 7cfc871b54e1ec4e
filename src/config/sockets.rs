//! The settings of sockets towards backends, listed and read: whence they connect, and what is set on
//! them.

use std::net::IpAddr;
use std::time::Duration;

use super::address;
use super::read::{Reader, Section};
use super::report::Finding;
use super::setting::{Default, Setting, Takes};
use super::values::{Scalar, number, set, switch, time};
use crate::net::{LONGEST_KEEPALIVE, Probes, SocketOptions};

/// `source_addresses`.
pub(super) const SOURCE_ADDRESSES: Setting = Setting {
    name: "source_addresses",
    alias: None,
    takes: Takes::Addresses,
    default: Default::None("the kernel chooses"),
    meaning: "This machine's addresses to connect from. Each has its own ports towards a \
                      backend; of several the one with the most left is taken.",
    apache: "`ProxySourceAddress` (one)",
    nginx: "`proxy_bind` (one, or a variable)",
};

/// `source_port_range`.
pub(super) const SOURCE_PORT_RANGE: Setting = Setting {
    name: "source_port_range",
    alias: None,
    takes: Takes::Ports,
    default: Default::None("the whole of `net.ipv4.ip_local_port_range`"),
    meaning: "The local ports to connect from, both ends included, as far as the system's \
                      range has them. Upstreams with ranges of their own take no ports from each \
                      other. Linux 6.3.",
    apache: "none",
    nginx: "none",
};

/// `snat_ports`.
pub(super) const SNAT_PORTS: Setting = Setting {
    name: "snat_ports",
    alias: None,
    takes: Takes::Whole {
        least: 0,
        most: 65_535,
        unit: "ports",
        zero: Some("there is no NAT on the way, or it has enough"),
    },
    default: Default::Is("0"),
    meaning: "The ports that a NAT between the proxy and the backends has towards each of their \
                      addresses. They are counted down in the metrics like local ports; a NAT holds \
                      one for 120 s after its connection was closed.",
    apache: "none",
    nginx: "none",
};

/// `tcp_keepalive`.
pub(super) const TCP_KEEPALIVE: Setting = Setting {
    name: "tcp_keepalive",
    alias: None,
    takes: Takes::Time {
        zero: Some("no probes"),
    },
    default: Default::Is("0"),
    meaning: "How long nothing has been heard from a backend before the kernel probes \
                      whether it is there. Whole seconds, rounded up.",
    apache: "`ProxyPass … keepalive=` (Off; the kernel's times)",
    nginx: "`proxy_socket_keepalive` (off; the kernel's times)",
};

/// `tcp_keepalive_interval`.
pub(super) const TCP_KEEPALIVE_INTERVAL: Setting = Setting {
    name: "tcp_keepalive_interval",
    alias: None,
    takes: Takes::Time { zero: None },
    default: Default::Is("\"15s\""),
    meaning: "From one probe to the next. Whole seconds, rounded up.",
    apache: "none",
    nginx: "none",
};

/// `tcp_keepalive_probes`.
pub(super) const TCP_KEEPALIVE_PROBES: Setting = Setting {
    name: "tcp_keepalive_probes",
    alias: None,
    takes: Takes::Whole {
        least: 1,
        most: 127,
        unit: "probes",
        zero: None,
    },
    default: Default::Is("3"),
    meaning: "How many probes without an answer end the connection.",
    apache: "none",
    nginx: "none",
};

/// `tcp_user_timeout`.
pub(super) const TCP_USER_TIMEOUT: Setting = Setting {
    name: "tcp_user_timeout",
    alias: None,
    takes: Takes::Time {
        zero: Some("the kernel's, about 15 minutes"),
    },
    default: Default::Is("0"),
    meaning: "How long what was sent may stay unacknowledged before the kernel ends the \
                      connection; in place of `tcp_keepalive_probes` too.",
    apache: "none",
    nginx: "none",
};

/// `mark`.
pub(super) const MARK: Setting = Setting {
    name: "mark",
    alias: None,
    takes: Takes::Whole {
        least: 0,
        most: u32::MAX as u64,
        unit: "number",
        zero: Some("none"),
    },
    default: Default::Is("0"),
    meaning: "The mark of the packets to backends, for routing and packet filters \
                      (`SO_MARK`). Needs `CAP_NET_ADMIN`.",
    apache: "none",
    nginx: "none",
};

/// `dscp`.
pub(super) const DSCP: Setting = Setting {
    name: "dscp",
    alias: None,
    takes: Takes::Whole {
        least: 0,
        most: 63,
        unit: "number",
        zero: Some("best effort"),
    },
    default: Default::Is("0"),
    meaning: "The class of service of the packets to backends, RFC 2474.",
    apache: "none",
    nginx: "none",
};

/// `bind_device`.
pub(super) const BIND_DEVICE: Setting = Setting {
    name: "bind_device",
    alias: None,
    takes: Takes::Device,
    default: Default::None("whichever the routing table says"),
    meaning: "The network device, or VRF, that connections to backends go by \
                      (`SO_BINDTODEVICE`).",
    apache: "none",
    nginx: "none",
};

/// `tcp_fastopen`.
pub(super) const TCP_FASTOPEN: Setting = Setting {
    name: "tcp_fastopen",
    alias: None,
    takes: Takes::Switch,
    default: Default::Is("false"),
    meaning: "Whether the TLS handshake begins with the SYN, which saves a round trip of a new \
              connection. Only with `tls = true`.",
    apache: "none",
    nginx: "none",
};

/// The addresses to connect from.
pub(super) fn addresses(section: &Section<'_>, reader: &mut Reader<'_>) -> Vec<IpAddr> {
    let Some((setting, value)) = section.get("source_addresses") else {
        return Vec::new();
    };
    let Some(list) = value.get_ref().as_array() else {
        reader.wrong_type(setting, value);
        return Vec::new();
    };
    let parse = |scalar: &Scalar| {
        let address = scalar.text.parse::<IpAddr>();
        address.map_err(|_| "not an IP address")
    };
    list.iter()
        .filter_map(|value| {
            if value.get_ref().is_str() {
                return reader.value(setting, value, parse);
            }
            reader.wrong_type(setting, value);
            None
        })
        .collect()
}

/// What is set on the sockets.
pub(super) fn options(section: &Section<'_>, reader: &mut Reader<'_>) -> SocketOptions {
    let mut options = SocketOptions {
        source_ports: reader.read(section, "source_port_range", |scalar| {
            address::ports(&scalar.text)
        }),
        device: reader.read(section, "bind_device", |scalar| {
            address::device(&scalar.text)
        }),
        ..SocketOptions::default()
    };
    let idle = probing(reader, section, "tcp_keepalive").unwrap_or_default();
    let mut probes = Probes {
        idle,
        interval: Probes::INTERVAL,
        count: Probes::COUNT,
    };
    set(
        &mut probes.interval,
        probing(reader, section, "tcp_keepalive_interval"),
    );
    set(
        &mut probes.count,
        number(reader, section, "tcp_keepalive_probes"),
    );
    options.keepalive = (!idle.is_zero()).then_some(probes);
    let unacknowledged = time(reader, section, "tcp_user_timeout");
    options.user_timeout = unacknowledged.filter(|time| !time.is_zero());
    set(&mut options.mark, number(reader, section, "mark"));
    set(&mut options.dscp, number(reader, section, "dscp"));
    set(
        &mut options.fast_open,
        switch(reader, section, "tcp_fastopen"),
    );
    options
}

/// A time of the kernel's probes, which has a limit of its own.
fn probing(reader: &mut Reader<'_>, section: &Section<'_>, name: &str) -> Option<Duration> {
    let time = time(reader, section, name)?;
    if time <= LONGEST_KEEPALIVE {
        return Some(time);
    }
    let most = LONGEST_KEEPALIVE.as_secs();
    let span = section.value_span(name);
    reader.note(
        Finding::fault(format!("`{name}` of {} is too long", section.header))
            .at(
                span.unwrap_or_else(|| section.span.clone()),
                format!("more than {most} s"),
            )
            .help("the kernel takes no more"),
    );
    None
}
