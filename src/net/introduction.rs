//! The PROXY protocol, as said to backends: a few bytes before all others tell for which client a
//! connection was opened. Source: `HAProxy`, `doc/proxy-protocol.txt`, versions 1 and 2.

use std::net::{IpAddr, SocketAddr};

/// Which version is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client's.
    pub client: SocketAddr,
    /// Ours.
    pub proxy: SocketAddr,
}

/// The longest header: the text with two IPv6 addresses.
pub(super) const LONGEST: usize = 107;

/// What version 2 begins with.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, and that the connection is the sender's own, or a client's.
pub(super) const LOCAL: u8 = 0x20;
pub(super) const PROXY: u8 = 0x21;

/// The family of a client's addresses.
pub(super) const TCP4: u8 = 0x11;
pub(super) const TCP6: u8 = 0x21;

/// What a connection begins with; `None` for one that was opened for nobody in particular.
pub(super) fn header(version: ProxyProtocol, ends: Option<Ends>) -> Vec<u8> {
    let ends = ends.map(same_family);
    match version {
        ProxyProtocol::V1 => text(ends),
        ProxyProtocol::V2 => binary(ends),
    }
}

/// Both ends as addresses of one family: IPv4 if both are, in whatever notation.
fn same_family(ends: Ends) -> Ends {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, proxy) = (plain(ends.client), plain(ends.proxy));
    if client.is_ipv4() == proxy.is_ipv4() {
        return Ends { client, proxy };
    }
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    Ends {
        client: wide(client),
        proxy: wide(proxy),
    }
}

fn text(ends: Option<Ends>) -> Vec<u8> {
    let Some(Ends { client, proxy }) = ends else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!(
        "PROXY {family} {} {} {} {}\r\n",
        client.ip(),
        proxy.ip(),
        client.port(),
        proxy.port()
    );
    debug_assert!(line.len() <= LONGEST);
    line.into_bytes()
}

fn binary(ends: Option<Ends>) -> Vec<u8> {
    let mut header = Vec::with_capacity(LONGEST);
    header.extend_from_slice(SIGNATURE);
    let Some(Ends { client, proxy }) = ends else {
        header.extend_from_slice(&[LOCAL, 0, 0, 0]);
        return header;
    };
    match (client.ip(), proxy.ip()) {
        (IpAddr::V4(client), IpAddr::V4(proxy)) => {
            header.extend_from_slice(&[PROXY, TCP4, 0, 12]);
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&proxy.octets());
        }
        (client, proxy) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            header.extend_from_slice(&[PROXY, TCP6, 0, 36]);
            header.extend_from_slice(&octets(client));
            header.extend_from_slice(&octets(proxy));
        }
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&proxy.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, proxy: &str) -> Ends {
        Ends {
            client: client.parse().unwrap(),
            proxy: proxy.parse().unwrap(),
        }
    }

    #[test]
    fn the_text_names_both_ends_in_one_family() {
        for (ends, line) in [
            (None, "PROXY UNKNOWN\r\n"),
            (
                Some(ends("192.0.2.7:51000", "192.0.2.1:80")),
                "PROXY TCP4 192.0.2.7 192.0.2.1 51000 80\r\n",
            ),
            (
                Some(ends("[::ffff:192.0.2.7]:51000", "[::ffff:192.0.2.1]:80")),
                "PROXY TCP4 192.0.2.7 192.0.2.1 51000 80\r\n",
            ),
            (
                Some(ends("[2001:db8::7]:51000", "192.0.2.1:80")),
                "PROXY TCP6 2001:db8::7 ::ffff:192.0.2.1 51000 80\r\n",
            ),
        ] {
            let header = header(ProxyProtocol::V1, ends);
            assert_eq!(String::from_utf8(header).unwrap(), line);
        }
    }

    #[test]
    fn the_binary_form_is_that_of_the_specification() {
        let v2 = |ends| header(ProxyProtocol::V2, ends);
        let v4 = v2(Some(ends("192.0.2.7:258", "192.0.2.1:80")));
        assert_eq!(&v4[..12], SIGNATURE);
        assert_eq!(&v4[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(&v4[16..], [192, 0, 2, 7, 192, 0, 2, 1, 1, 2, 0, 80]);
        let v6 = v2(Some(ends("[2001:db8::7]:258", "[2001:db8::1]:80")));
        assert_eq!(&v6[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(v6.len(), 16 + 36);
        assert_eq!(&v2(None)[12..], [0x20, 0, 0, 0]);
    }
}
