//! Whose word counts on who a client is: proxies in front of this one, and what they say in a header.
//!
//! Source: Apache httpd 2.4, `mod_remoteip`; nginx, `ngx_http_realip_module` with `real_ip_recursive`; RFC 7239.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use crate::net::Networks;

const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Proxies that are trusted, and where they say for whom they speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Their addresses; none, and nobody is trusted or distrusted.
    pub proxies: Networks,
    /// The header that names the client: `Forwarded`, or one that is a list of addresses.
    pub header: HeaderName,
}

impl Trust {
    /// The header unless another is asked for.
    pub const HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");
}

impl Default for Trust {
    fn default() -> Trust {
        Trust {
            proxies: Networks::default(),
            header: Trust::HEADER,
        }
    }
}

/// What a client's word counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing is asked for: what it says of others is passed on, and not believed.
    Any,
    /// It is a proxy that is believed.
    Trusted,
    /// It is none of those that are: nothing it says of others is passed on.
    Stranger,
}

/// The client that a trusted proxy speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its address.
    pub ip: IpAddr,
    /// The same as a header value.
    pub text: HeaderValue,
}

impl Named {
    /// One at this address.
    fn new(ip: IpAddr) -> Named {
        Named {
            ip,
            text: ip_value(ip),
        }
    }

    /// Its address, and no port.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, 0)
    }
}

impl Trust {
    /// What the word of a client at `ip` counts for.
    pub fn standing(&self, ip: IpAddr) -> Standing {
        if self.proxies.is_empty() {
            Standing::Any
        } else if self.proxies.contain(ip) {
            Standing::Trusted
        } else {
            Standing::Stranger
        }
    }

    /// For whom a trusted proxy speaks in a request with these headers: the last in the list who is not trusted, since
    /// anybody can have written what stands before it. If all are trusted it is the first. A word that is no address ends the
    /// list. `None` if the list says nothing.
    pub fn named(&self, headers: &HeaderMap) -> Option<Rc<Named>> {
        let mut client = None;
        let lines = headers.get_all(&self.header).iter().rev();
        'list: for line in lines {
            let mut rest = line.as_bytes();
            while let Some(element) = if self.header == FORWARDED {
                last_element(&mut rest)
            } else {
                last_item(&mut rest)
            } {
                let node = if self.header == FORWARDED {
                    node_of(element)
                } else {
                    Some(element)
                };
                let Some(ip) = node.and_then(ip) else {
                    break 'list;
                };
                client = Some(ip);
                if !self.proxies.contain(ip) {
                    break 'list;
                }
            }
        }
        client.map(|ip| Rc::new(Named::new(ip)))
    }
}

impl Trust {
    /// Removes what a stranger says of others: whoever reads it would take it for a proxy's word.
    pub fn forget(&self, headers: &mut HeaderMap) {
        let is_of_others = |name: &&HeaderName| {
            **name == FORWARDED
                || **name == X_REAL_IP
                || **name == self.header
                || name.as_str().starts_with("x-forwarded-")
        };
        while let Some(name) = headers.keys().find(is_of_others).cloned() {
            headers.remove(name);
        }
    }
}

/// An IP address as a header value.
pub(super) fn ip_value(ip: IpAddr) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(ip.to_string()))
        .expect("an IP address is visible ASCII")
}

/// Takes the last of `rest`'s items, which commas separate; empty ones are passed over. Source: RFC 9110 §5.6.1.2.
fn last_item<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    take_last(rest, |text| text.iter().rposition(|&byte| byte == b','))
}

/// The same where a comma may stand within quotes.
fn last_element<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    take_last(rest, |text| last_unquoted(text, b','))
}

/// Where the last `mark` stands that is not within quotes.
///
/// Looked for from the end on: what is before the last elements may be anybody's, and a quote that is left open there must
/// not swallow them.
fn last_unquoted(text: &[u8], mark: u8) -> Option<usize> {
    let mut is_quoted = false;
    for (at, &byte) in text.iter().enumerate().rev() {
        if byte == b'"' && !is_escaped(&text[..at]) {
            is_quoted = !is_quoted;
        } else if byte == mark && !is_quoted {
            return Some(at);
        }
    }
    None
}

/// Takes what stands behind the last mark, and the mark; nothing between two marks is passed over.
fn take_last<'a>(
    rest: &mut &'a [u8],
    last_mark: impl Fn(&[u8]) -> Option<usize>,
) -> Option<&'a [u8]> {
    loop {
        if rest.trim_ascii().is_empty() {
            return None;
        }
        let item = match last_mark(rest) {
            Some(mark) => {
                let item = &rest[mark + 1..];
                *rest = &rest[..mark];
                item
            }
            None => std::mem::take(rest),
        };
        let item = item.trim_ascii();
        if !item.is_empty() {
            return Some(item);
        }
    }
}

/// Whether what follows `text` within quotes has a backslash of its own before it.
fn is_escaped(text: &[u8]) -> bool {
    let plain = text.iter().rposition(|&byte| byte != b'\\');
    (text.len() - plain.map_or(0, |at| at + 1)) % 2 == 1
}

/// Who is named by `for=` in one element of `Forwarded`, without quotes. Source: RFC 7239 §4.
fn node_of(mut element: &[u8]) -> Option<&[u8]> {
    while let Some(pair) = take_last(&mut element, |text| last_unquoted(text, b';')) {
        let Some((name, value)) = pair.split_at_checked(4) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"for=") {
            let inside = value
                .strip_prefix(b"\"")
                .and_then(|value| value.strip_suffix(b"\""));
            return Some(inside.unwrap_or(value));
        }
    }
    None
}

/// An address, with or without a port: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]`, `[2001:db8::7]:80`.
fn ip(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let ip = if let Ok(ip) = text.parse::<IpAddr>() {
        ip
    } else if let Ok(address) = text.parse::<SocketAddr>() {
        address.ip()
    } else {
        let inside = text.strip_prefix('[')?.strip_suffix(']')?;
        inside.parse::<Ipv6Addr>().ok()?.into()
    };
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::net::Network;

    fn trust(header: &'static str) -> Trust {
        let network = |ip: &str, bits| Network::new(ip.parse().unwrap(), bits).unwrap();
        Trust {
            proxies: Networks::new(vec![network("10.0.0.0", 8), network("2001:db8::", 32)]),
            header: HeaderName::from_static(header),
        }
    }

    fn named(header: &'static str, lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header, HeaderValue::from_str(line).unwrap());
        }
        let named = trust(header).named(&headers)?;
        assert_eq!(named.text, named.ip.to_string());
        Some(named.ip.to_string())
    }

    #[test]
    fn only_those_of_the_list_are_trusted_and_without_one_nobody_is_judged() {
        let trust = trust("x-forwarded-for");
        for (ip, standing) in [
            ("10.1.2.3", Standing::Trusted),
            ("::ffff:10.1.2.3", Standing::Trusted),
            ("2001:db8::1", Standing::Trusted),
            ("192.0.2.7", Standing::Stranger),
        ] {
            let ip = ip.parse().unwrap();
            assert_eq!(trust.standing(ip), standing, "{ip}");
            assert_eq!(Trust::default().standing(ip), Standing::Any, "{ip}");
        }
    }

    #[test]
    fn the_client_is_the_last_in_the_list_who_is_not_trusted() {
        for (lines, client) in [
            (&[][..], None),
            (&[""], None),
            (&[" , ,"], None),
            (&["192.0.2.7"], Some("192.0.2.7")),
            (&["192.0.2.7,"], Some("192.0.2.7")),
            (&["192.0.2.6, 192.0.2.7"], Some("192.0.2.7")),
            (&["192.0.2.6, 192.0.2.7, 10.0.0.1"], Some("192.0.2.7")),
            (&["192.0.2.7", "10.0.0.2,10.0.0.1"], Some("192.0.2.7")),
            (&["192.0.2.6", "192.0.2.7"], Some("192.0.2.7")),
            (&["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            (&["192.0.2.7:4711"], Some("192.0.2.7")),
            (&["[2001:db9::7]:4711"], Some("2001:db9::7")),
            (&["[2001:db9::7]"], Some("2001:db9::7")),
            (&["2001:DB9::7, 2001:db8::1"], Some("2001:db9::7")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7")),
            (&["192.0.2.7, unknown"], None),
            (&["192.0.2.7, unknown, 10.0.0.1"], Some("10.0.0.1")),
            (&["192.0.2.7, 192.0.2"], None),
            (&["192.0.2.7 10.0.0.1"], None),
        ] {
            let found = named("x-forwarded-for", lines);
            assert_eq!(found.as_deref(), client, "{lines:?}");
        }
        assert_eq!(
            named("x-real-ip", &["192.0.2.7"]).as_deref(),
            Some("192.0.2.7")
        );
    }

    #[test]
    fn what_a_stranger_says_of_others_is_forgotten() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-for", "192.0.2.8"),
            ("x-forwarded-port", "80"),
            ("x-real-ip", "192.0.2.7"),
            ("forwarded", "for=192.0.2.7"),
            ("x-client", "192.0.2.7"),
            ("x-forwarder", "kept"),
            ("accept", "*/*"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        trust("x-client").forget(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "host", "x-forwarder"]);
    }

    #[test]
    fn forwarded_is_read_from_its_end_on() {
        for (lines, client) in [
            (&["for=192.0.2.7"][..], Some("192.0.2.7")),
            (
                &["For=192.0.2.7;proto=https;by=10.0.0.1"],
                Some("192.0.2.7"),
            ),
            (&["proto=http; for=\"192.0.2.7:80\""], Some("192.0.2.7")),
            (&["for=\"[2001:db9::7]:4711\""], Some("2001:db9::7")),
            (&["for=\"[2001:DB9::7]\""], Some("2001:db9::7")),
            (
                &["for=192.0.2.6, for=192.0.2.7, for=10.0.0.1"],
                Some("192.0.2.7"),
            ),
            (
                &["for=192.0.2.7", "for=10.0.0.2,for=10.0.0.1"],
                Some("192.0.2.7"),
            ),
            (&["for=192.0.2.7;host=\"a,b\""], Some("192.0.2.7")),
            (&["for=192.0.2.7;host=\"a\\\",b\""], Some("192.0.2.7")),
            // A `Host` may have such marks, and a proxy that writes it first quotes it.
            (
                &["host=\"a;for=192.0.2.6,b\";for=192.0.2.7"],
                Some("192.0.2.7"),
            ),
            (&["for=\"open, for=192.0.2.7"], Some("192.0.2.7")),
            (
                &["for=\"open\\, for=192.0.2.7;host=\"a\""],
                Some("192.0.2.7"),
            ),
            (&["for=192.0.2.7, for=unknown"], None),
            (&["for=192.0.2.7, for=_secret"], None),
            (&["for=192.0.2.7, proto=http"], None),
            (&["192.0.2.7"], None),
        ] {
            let found = named("forwarded", lines);
            assert_eq!(found.as_deref(), client, "{lines:?}");
        }
    }

    proptest! {
        /// Whatever a stranger has written before it: the address that a trusted proxy has added is the one.
        #[test]
        fn nobody_can_speak_for_another(
            written in vec("[ -~]{0,40}", 0..3),
            name in prop_oneof![Just("x-forwarded-for"), Just("forwarded")],
            on_a_line_of_its_own in any::<bool>(),
        ) {
            let added = match name {
                "forwarded" => "for=192.0.2.7;host=\"a\";proto=http, for=\"10.0.0.1\"",
                _ => "192.0.2.7, 10.0.0.1",
            };
            let mut lines = written;
            match lines.last_mut() {
                Some(last) if !on_a_line_of_its_own => *last = format!("{last}, {added}"),
                _ => lines.push(added.to_owned()),
            }
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let found = named(name, &lines);
            prop_assert_eq!(found.as_deref(), Some("192.0.2.7"));
        }
    }
}
