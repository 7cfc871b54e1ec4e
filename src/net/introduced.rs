//! The PROXY protocol, as said to us: what the first bytes of a connection tell of the client that it was
//! opened for. Source: `HAProxy`, `doc/proxy-protocol.txt`, versions 1 and 2.
//!
//! The other direction is [`introduction`](super::introduction).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::introduction::{Ends, LOCAL, LONGEST, PROXY, SIGNATURE, TCP4, TCP6};

/// The longest header that is taken, all in all. Version 1 ends long before, and the addresses of
/// version 2 do; the rest is for what may follow them. Source: nginx, `NGX_PROXY_PROTOCOL_MAX_HEADER`.
pub(super) const MOST: usize = 4_096;

/// What version 2 begins with: signature, version and command, family, length.
const FIXED: usize = 16;

/// What was made of the first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Introduced {
    /// A header begins like this, and goes on: all of these bytes are its.
    Part,
    /// A header.
    Whole {
        /// Its bytes; what follows is not its.
        length: usize,
        /// The ends of the connection it speaks of. `None`: those of the one it came on.
        ends: Option<Ends>,
    },
}

/// What is no PROXY header, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It begins otherwise.
    #[error("it does not begin with a PROXY header")]
    NoHeader,
    /// A line that does not end where it has to.
    #[error("the line does not end within {LONGEST} bytes, or not with CR and LF")]
    Line,
    /// A line of other words than those.
    #[error("the line does not name two addresses and two ports")]
    Words,
    /// A version, a command or an address family that does not exist.
    #[error("its version, command or address family is none of those there are")]
    Kind,
    /// Too short for its addresses, or for what follows them; or longer than any need be.
    #[error("it has fewer bytes than what stands in it, or more than {MOST}")]
    Length,
    /// Its checksum is that of other bytes.
    #[error("its checksum is wrong")]
    Checksum,
}

/// Reads the header that `bytes` begin with, as far as they have come.
///
/// # Errors
/// As soon as it is seen that they cannot become one.
pub(super) fn read(bytes: &[u8]) -> Result<Introduced, Malformed> {
    const WORD: &[u8] = b"PROXY ";
    let begins_with = |start: &[u8]| {
        let both = bytes.len().min(start.len());
        bytes[..both] == start[..both]
    };
    if begins_with(SIGNATURE) {
        binary(bytes)
    } else if begins_with(WORD) {
        text(bytes)
    } else {
        Err(Malformed::NoHeader)
    }
}

fn text(bytes: &[u8]) -> Result<Introduced, Malformed> {
    let seen = &bytes[..bytes.len().min(LONGEST)];
    let Some(end) = seen.iter().position(|&byte| byte == b'\n') else {
        return if seen.len() < LONGEST {
            Ok(Introduced::Part)
        } else {
            Err(Malformed::Line)
        };
    };
    let line = seen[..end].strip_suffix(b"\r").ok_or(Malformed::Line)?;
    Ok(Introduced::Whole {
        length: end + 1,
        ends: line_ends(line)?,
    })
}

/// What stands in a line.
fn line_ends(line: &[u8]) -> Result<Option<Ends>, Malformed> {
    let mut words = line.split(|&byte| byte == b' ').skip(1);
    let family = words.next();
    if family == Some(b"UNKNOWN") {
        // Whatever follows is not to be heeded.
        return Ok(None);
    }
    // Nothing else than text is in a word that is read.
    let mut word = || words.next().and_then(|word| std::str::from_utf8(word).ok());
    let [client, proxy, from, to] = [word(), word(), word(), word()].map(Option::unwrap_or_default);
    let ips = match family {
        Some(b"TCP4") => (address::<Ipv4Addr>(client)?, address::<Ipv4Addr>(proxy)?),
        Some(b"TCP6") => (address::<Ipv6Addr>(client)?, address::<Ipv6Addr>(proxy)?),
        _ => return Err(Malformed::Words),
    };
    let ends = Ends {
        client: SocketAddr::new(ips.0, port(from)?),
        proxy: SocketAddr::new(ips.1, port(to)?),
    };
    match words.next() {
        None => Ok(Some(ends)),
        Some(_) => Err(Malformed::Words),
    }
}

fn address<T: FromStr + Into<IpAddr>>(text: &str) -> Result<IpAddr, Malformed> {
    text.parse::<T>()
        .map(Into::into)
        .map_err(|_| Malformed::Words)
}

/// Digits, without a zero before others.
fn port(text: &str) -> Result<u16, Malformed> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    text.parse()
        .ok()
        .filter(|_| is_plain)
        .ok_or(Malformed::Words)
}

fn binary(bytes: &[u8]) -> Result<Introduced, Malformed> {
    let Some((fixed, _)) = bytes.split_first_chunk::<FIXED>() else {
        return Ok(Introduced::Part);
    };
    let [.., command, family, high, low] = *fixed;
    if !matches!(command, LOCAL | PROXY) {
        return Err(Malformed::Kind);
    }
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > MOST {
        return Err(Malformed::Length);
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Introduced::Part);
    };
    let ends = match command {
        // Whatever stands in it is not to be heeded.
        LOCAL => None,
        _ => block(header, family)?,
    };
    Ok(Introduced::Whole { length, ends })
}

/// What stands in the block of addresses, and behind it.
fn block(header: &[u8], family: u8) -> Result<Option<Ends>, Malformed> {
    const LOWEST: u8 = 0x0f;
    // The family; and within it whether it is a stream, of packets or neither.
    let addresses = match (family >> 4, family & LOWEST) {
        (1, 1 | 2) => 12,
        (2, 1 | 2) => 36,
        (3, 1 | 2) => 216,
        // What follows has no form that is known.
        (0, 0..=2) | (1..=3, 0) => return Ok(None),
        _ => return Err(Malformed::Kind),
    };
    let (block, more) = header[FIXED..]
        .split_at_checked(addresses)
        .ok_or(Malformed::Length)?;
    check_more(header, more)?;
    Ok(match family {
        TCP4 => ends_v4(block),
        TCP6 => ends_v6(block),
        // A Unix socket's end has no address that a client could be told by, and no HTTP comes in packets. The
        // specification has those treated as unspecified that are not understood.
        _ => None,
    })
}

fn ends_v4(block: &[u8]) -> Option<Ends> {
    let (client, rest) = block.split_first_chunk::<4>()?;
    let (proxy, ports) = rest.split_first_chunk::<4>()?;
    with_ports(
        Ipv4Addr::from(*client).into(),
        Ipv4Addr::from(*proxy).into(),
        ports,
    )
}

fn ends_v6(block: &[u8]) -> Option<Ends> {
    let (client, rest) = block.split_first_chunk::<16>()?;
    let (proxy, ports) = rest.split_first_chunk::<16>()?;
    with_ports(
        Ipv6Addr::from(*client).into(),
        Ipv6Addr::from(*proxy).into(),
        ports,
    )
}

fn with_ports(client: IpAddr, proxy: IpAddr, ports: &[u8]) -> Option<Ends> {
    let &[a, b, c, d] = ports else {
        return None;
    };
    Some(Ends {
        client: SocketAddr::new(client, u16::from_be_bytes([a, b])),
        proxy: SocketAddr::new(proxy, u16::from_be_bytes([c, d])),
    })
}

/// Goes through what follows the addresses, each a type, a length and so many bytes. Only a checksum is heeded.
fn check_more(header: &[u8], mut more: &[u8]) -> Result<(), Malformed> {
    const CHECKSUM: u8 = 0x03;
    while let [kind, rest @ ..] = more {
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(Malformed::Length)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (value, rest) = rest.split_at_checked(length).ok_or(Malformed::Length)?;
        if *kind == CHECKSUM {
            let sum = <[u8; 4]>::try_from(value).map_err(|_| Malformed::Length)?;
            // It was made over the whole header, with zeros in its own place.
            let at = header.len() - rest.len() - sum.len();
            let made = [&header[..at], &[0; 4], &header[at + sum.len()..]];
            if crc32c(made.into_iter().flatten().copied()) != u32::from_be_bytes(sum) {
                return Err(Malformed::Checksum);
            }
        }
        more = rest;
    }
    Ok(())
}

/// The checksum of RFC 4960, appendix B. Bit by bit: it is made at most once for a connection, and of few bytes.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    /// Castagnoli's polynomial, its bits in reverse.
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    let sum = bytes.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (POLYNOMIAL * (sum & 1))
        })
    });
    !sum
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::introduction::{self, ProxyProtocol};
    use super::*;

    fn ends(client: &str, proxy: &str) -> Ends {
        Ends {
            client: client.parse().unwrap(),
            proxy: proxy.parse().unwrap(),
        }
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, block].concat()
    }

    /// Addresses and ports of IPv4.
    const BLOCK: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xC7, 0x38, 0, 80];

    fn whole(bytes: &[u8], length: usize, ends: Option<Ends>) {
        let expected = Introduced::Whole { length, ends };
        assert_eq!(read(bytes), Ok(expected), "{bytes:?}");
        for end in 0..length {
            assert_eq!(read(&bytes[..end]), Ok(Introduced::Part), "{end} bytes");
        }
    }

    #[test]
    fn a_line_is_read_to_its_end_and_no_further() {
        let v4 = ends("192.0.2.7:51000", "192.0.2.1:80");
        let v6 = ends("[2001:db8::7]:1", "[2001:db8::1]:0");
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LONGEST - 16));
        for (line, ends) in [
            ("PROXY TCP4 192.0.2.7 192.0.2.1 51000 80\r\n", Some(v4)),
            ("PROXY TCP6 2001:db8::7 2001:DB8::1 1 0\r\n", Some(v6)),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN what ever\r\n", None),
            (longest.as_str(), None),
        ] {
            whole(line.as_bytes(), line.len(), ends);
            let before_a_request = format!("{line}GET / HTTP/1.1\r\n");
            whole(before_a_request.as_bytes(), line.len(), ends);
        }
    }

    #[test]
    fn a_broken_line_is_refused_as_soon_as_it_is_seen_to_be_one() {
        let too_long = format!("PROXY UNKNOWN {}", "f".repeat(LONGEST));
        let without_end = &too_long[..LONGEST];
        for (line, wrong) in [
            ("G", Malformed::NoHeader),
            ("PROXIES", Malformed::NoHeader),
            ("\r\n\r\nGET", Malformed::NoHeader),
            ("proxy tcp4", Malformed::NoHeader),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 1 2\n", Malformed::Line),
            ("PROXY UNKNOWN\n\r\n", Malformed::Line),
            (too_long.as_str(), Malformed::Line),
            (without_end, Malformed::Line),
            ("PROXY \r\n", Malformed::Words),
            ("PROXY TCP4\r\n", Malformed::Words),
            ("PROXY TCP5 192.0.2.7 192.0.2.1 1 2\r\n", Malformed::Words),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 1\r\n", Malformed::Words),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 1 2 3\r\n", Malformed::Words),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 1 2 \r\n", Malformed::Words),
            ("PROXY TCP4  192.0.2.7 192.0.2.1 1 2\r\n", Malformed::Words),
            ("PROXY TCP4 192.0.2.07 192.0.2.1 1 2\r\n", Malformed::Words),
            ("PROXY TCP4 192.0.2 192.0.2.1 1 2\r\n", Malformed::Words),
            ("PROXY TCP4 2001:db8::7 ::1 1 2\r\n", Malformed::Words),
            ("PROXY TCP6 192.0.2.7 192.0.2.1 1 2\r\n", Malformed::Words),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 01 2\r\n", Malformed::Words),
            ("PROXY TCP4 192.0.2.7 192.0.2.1 +1 2\r\n", Malformed::Words),
            (
                "PROXY TCP4 192.0.2.7 192.0.2.1 65536 2\r\n",
                Malformed::Words,
            ),
        ] {
            assert_eq!(read(line.as_bytes()), Err(wrong), "{line:?}");
        }
    }

    #[test]
    fn the_binary_form_is_read_to_its_end_and_no_further() {
        let named = Some(ends("192.0.2.7:51000", "192.0.2.1:80"));
        let more = [&BLOCK[..], &[0x04, 0, 2, 0, 0], &[0xE0, 0, 0]].concat();
        for (header, ends) in [
            (v2(0x21, 0x11, &BLOCK), named),
            (v2(0x21, 0x11, &more), named),
            (v2(0x21, 0x12, &BLOCK), None),
            (v2(0x21, 0x31, &[0; 216]), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x01, &[1, 2, 3]), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &BLOCK), None),
            (v2(0x20, 0xFF, &[7; 5]), None),
            (
                v2(
                    0x21,
                    0x11,
                    &[&BLOCK[..], &[4, 0x0F, 0xE1], &[0; 4_065]].concat(),
                ),
                named,
            ),
        ] {
            whole(&header, header.len(), ends);
            whole(&[&header[..], b"GET"].concat(), header.len(), ends);
        }
    }

    #[test]
    fn a_broken_binary_form_is_refused() {
        let checksum = |sum: &[u8]| {
            let length = u8::try_from(sum.len()).unwrap();
            v2(0x21, 0x11, &[&BLOCK[..], &[0x03, 0, length], sum].concat())
        };
        for (header, wrong) in [
            (v2(0x22, 0x11, &BLOCK), Malformed::Kind),
            (v2(0x11, 0x11, &BLOCK), Malformed::Kind),
            (v2(0x31, 0x11, &BLOCK), Malformed::Kind),
            (v2(0x21, 0x13, &BLOCK), Malformed::Kind),
            (v2(0x21, 0x41, &BLOCK), Malformed::Kind),
            (v2(0x21, 0x11, &BLOCK[..11]), Malformed::Length),
            (v2(0x21, 0x21, &BLOCK), Malformed::Length),
            (v2(0x21, 0x31, &BLOCK), Malformed::Length),
            (v2(0x21, 0x11, &[0; 4_081]), Malformed::Length),
            (
                v2(0x21, 0x11, &[&BLOCK[..], &[4]].concat()),
                Malformed::Length,
            ),
            (
                v2(0x21, 0x11, &[&BLOCK[..], &[4, 0, 1]].concat()),
                Malformed::Length,
            ),
            (checksum(&[1, 2, 3, 4]), Malformed::Checksum),
            (checksum(&[1, 2, 3]), Malformed::Length),
        ] {
            assert_eq!(read(&header), Err(wrong), "{header:?}");
        }
    }

    #[test]
    fn a_checksum_is_that_of_the_whole_header() {
        // RFC 3720, B.4: what the checksum of these bytes is.
        assert_eq!(crc32c([0; 32].into_iter()), 0x8A91_36AA);
        assert_eq!(crc32c(0..32), 0x46DD_794E);
        let mut header = v2(
            0x21,
            0x11,
            &[&BLOCK[..], &[3, 0, 4, 0, 0, 0, 0], &[4, 0, 1, 9]].concat(),
        );
        let sum = crc32c(header.iter().copied());
        header[31..35].copy_from_slice(&sum.to_be_bytes());
        let named = Some(ends("192.0.2.7:51000", "192.0.2.1:80"));
        whole(&header, header.len(), named);
        *header.last_mut().unwrap() ^= 1;
        assert_eq!(read(&header), Err(Malformed::Checksum));
    }

    fn socket_address() -> impl Strategy<Value = SocketAddr> {
        any::<(IpAddr, u16)>().prop_map(SocketAddr::from)
    }

    proptest! {
        /// What our own side writes is read as it was meant, both ends in one family.
        #[test]
        fn what_is_said_to_backends_is_understood(
            client in socket_address(),
            proxy in socket_address(),
            is_known in any::<bool>(),
            version in prop_oneof![Just(ProxyProtocol::V1), Just(ProxyProtocol::V2)],
            behind in vec(any::<u8>(), 0..20),
        ) {
            let meant = is_known.then_some(Ends { client, proxy });
            let mut bytes = introduction::header(version, meant);
            let length = bytes.len();
            bytes.extend(behind);
            let Ok(Introduced::Whole { length: read, ends }) = read(&bytes) else {
                return Err(TestCaseError::fail(format!("{bytes:?}")));
            };
            let plain = |ends: Ends| [ends.client, ends.proxy].map(|end| (end.ip().to_canonical(), end.port()));
            prop_assert_eq!(read, length);
            prop_assert_eq!(ends.map(plain), meant.map(plain));
        }

        /// Whatever comes, it is decided within the most that is taken, and never changes with more bytes.
        #[test]
        fn any_bytes_are_decided_upon(
            start in prop_oneof![
                Just(Vec::new()),
                Just(b"PROXY ".to_vec()),
                Just(b"PROXY TCP4 ".to_vec()),
                any::<(bool, u8, u8)>().prop_map(|(local, family, length)| {
                    [SIGNATURE, &[0x21 - u8::from(local), family, 0, length][..]].concat()
                }),
            ],
            rest in vec(prop_oneof![any::<u8>(), Just(b' '), Just(b'\r'), Just(b'\n'), Just(b'1')], 0..300),
        ) {
            let bytes = [start, rest].concat();
            let mut decided = None;
            for end in 0..=bytes.len() {
                let now = read(&bytes[..end]);
                match decided {
                    Some(before) => prop_assert_eq!(before, now),
                    None if now == Ok(Introduced::Part) => {}
                    None => decided = Some(now),
                }
            }
            if let Some(Ok(Introduced::Whole { length, .. })) = decided {
                prop_assert!(length <= bytes.len() && length <= MOST);
            }
        }
    }
}
