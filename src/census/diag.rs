//! The messages of the kernel's socket dump: the request as bytes, the answer from bytes.
//!
//! Asked over a netlink socket of the protocol `NETLINK_SOCK_DIAG`, the kernel lists the TCP
//! sockets of the asker's network namespace, among them those that no process owns any more
//! (FIN_WAIT2 and TIME_WAIT). No privilege is needed. This file knows only the bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::ops::BitOr;
use std::time::Duration;

use super::state::TcpState;

/// `struct nlmsghdr`. Source: Linux, `include/uapi/linux/netlink.h`.
const HEADER: usize = 16;
/// `struct inet_diag_msg`. Source: Linux, `include/uapi/linux/inet_diag.h`.
const ANSWER: usize = 72;

/// `SOCK_DIAG_BY_FAMILY`. Source: Linux, `include/uapi/linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `TCPDIAG_GETSOCK`: the older request, which names no family and gets both. Source: Linux,
/// `include/uapi/linux/inet_diag.h`, `inet_diag_dump_compat` in `net/ipv4/inet_diag.c`.
const TCPDIAG_GETSOCK: u16 = 18;
/// `NLM_F_REQUEST | NLM_F_DUMP`. Source, as for all below: Linux, `include/uapi/linux/netlink.h`.
const DUMP: u16 = 0x01 | 0x300;
/// `NLM_F_DUMP_INTR`: what was dumped changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`
const ERROR: u16 = 2;
/// `NLMSG_DONE`
const DONE: u16 = 3;
/// `IPPROTO_TCP`
const TCP: u8 = 6;

/// The address family of a socket, under the kernel's number.
///
/// A listener on `[::]` that also takes IPv4 has its connections under `V6`, with addresses like
/// `::ffff:192.0.2.1`: who wants all connections of an address asks for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// `AF_INET`
    V4 = 2,
    /// `AF_INET6`
    V6 = 10,
}

/// Which states a dump is to contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// Every state of [`TcpState`].
    pub const ALL: States = States(0b1111_1111_1110);
}

impl From<TcpState> for States {
    fn from(state: TcpState) -> States {
        States(1 << state.number())
    }
}

impl BitOr for States {
    type Output = States;

    fn bitor(self, other: States) -> States {
        States(self.0 | other.0)
    }
}

/// The question: all TCP sockets of one family in the given states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DumpRequest {
    /// One family; `None` for both, which only the older form of the request asks for.
    pub family: Option<Family>,
    /// The states asked for.
    pub states: States,
    /// Only sockets with this port at their own end; `None` for all.
    pub local_port: Option<NonZeroU16>,
    /// Only sockets with this port at the other end; `None` for all.
    pub remote_port: Option<NonZeroU16>,
}

impl DumpRequest {
    /// All sockets of `family`, or of both, whatever their state and ports.
    pub fn all(family: Option<Family>) -> DumpRequest {
        DumpRequest {
            family,
            states: States::ALL,
            local_port: None,
            remote_port: None,
        }
    }

    /// The request as the kernel reads it, under a `sequence` that the answers repeat.
    ///
    /// Shape: `nlmsghdr` (16 bytes), and `inet_diag_req_v2` (56 bytes) or, for both families,
    /// `inet_diag_req` (60 bytes). Ports in network order, all else in host order; the addresses stay
    /// zero, which is "any".
    /// Source: Linux, `include/uapi/linux/inet_diag.h`.
    pub fn to_bytes(self, sequence: u32) -> Vec<u8> {
        let (kind, length) = match self.family {
            Some(_) => (SOCK_DIAG_BY_FAMILY, HEADER + 56),
            None => (TCPDIAG_GETSOCK, HEADER + 60),
        };
        let mut bytes = vec![0; length];
        let claimed = u32::try_from(length).expect("76 at most");
        bytes[0..4].copy_from_slice(&claimed.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&DUMP.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        // 12..16: the sender's port id, which the kernel fills in.
        let states = self.states.0.to_ne_bytes();
        let ports = if let Some(family) = self.family {
            bytes[16] = family as u8;
            bytes[17] = TCP;
            // 18: which attributes are wanted: none. 19: padding.
            bytes[20..24].copy_from_slice(&states);
            24
        } else {
            // 16..20: a family that nobody looks at, lengths of prefixes, attributes.
            bytes[68..72].copy_from_slice(&states);
            20
        };
        let port = |port: Option<NonZeroU16>| port.map_or(0, NonZeroU16::get).to_be_bytes();
        bytes[ports..ports + 2].copy_from_slice(&port(self.local_port));
        bytes[ports + 2..ports + 4].copy_from_slice(&port(self.remote_port));
        bytes
    }
}

/// Why bytes were not understood as an answer of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiagError {
    /// The bytes end before the structure does.
    #[error("{what} needs {need} bytes, {have} are there")]
    Short {
        /// The kernel's name of the structure.
        what: &'static str,
        /// Its size.
        need: usize,
        /// What there was.
        have: usize,
    },
    /// A message claims a length that cannot be.
    #[error("a message claims {claimed} bytes where {have} are left")]
    Length {
        /// What its header says.
        claimed: u32,
        /// What there was, header included.
        have: usize,
    },
    /// A socket that is neither IPv4 nor IPv6.
    #[error("a socket of the unknown address family {0}")]
    Family(u8),
}

/// One socket of the kernel's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketEntry {
    /// The kernel's number of its state; see [`TcpState::from_number`]. Unknown ones are kept:
    /// the kernel may learn new states.
    pub state: u8,
    /// Its own end. An IPv4 address written as IPv6 is folded to IPv4.
    pub local: SocketAddr,
    /// The other end; `0.0.0.0:0` or `[::]:0` on a listening socket. Folded likewise.
    pub remote: SocketAddr,
    /// The time left on its timer, if one runs: in TIME_WAIT the rest of the 60 s.
    pub expires: Duration,
    /// The kernel's number for this connection, the same as `SO_COOKIE` gave while it was open,
    /// also in TIME_WAIT. `None` where the source has none.
    pub cookie: Option<u64>,
    /// The user it belongs to; 0 in TIME_WAIT.
    pub uid: u32,
    /// The inode of the file it belongs to; 0 where no process holds it, as in TIME_WAIT.
    pub inode: u64,
}

impl SocketEntry {
    /// Whether it is in `state`.
    pub fn is(&self, state: TcpState) -> bool {
        self.state == state.number()
    }

    /// Reads one socket from the front of `bytes`.
    ///
    /// Shape: 72 bytes (`inet_diag_msg`). Addresses and ports are in network order, all other
    /// fields in host order; attributes follow and are skipped.
    /// Source: Linux, `include/uapi/linux/inet_diag.h`.
    ///
    /// # Errors
    /// [`DiagError::Short`] when fewer bytes are there, [`DiagError::Family`] when the addresses
    /// are of a family this program cannot read.
    pub fn decode(bytes: &[u8]) -> Result<SocketEntry, DiagError> {
        let Some(answer) = bytes.first_chunk::<ANSWER>() else {
            return Err(DiagError::Short {
                what: "inet_diag_msg",
                need: ANSWER,
                have: bytes.len(),
            });
        };
        let family = match answer[0] {
            2 => Family::V4,
            10 => Family::V6,
            other => return Err(DiagError::Family(other)),
        };
        let end = |address: usize, port: usize| {
            let address: [u8; 16] = field(answer, address);
            let ip = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::from(field::<4>(&address, 0))),
                Family::V6 => IpAddr::V6(Ipv6Addr::from(address)),
            };
            let port = u16::from_be_bytes(field(answer, port));
            SocketAddr::new(ip.to_canonical(), port)
        };
        let word = |at: usize| u32::from_ne_bytes(field(answer, at));
        Ok(SocketEntry {
            state: answer[1],
            // 2: which timer runs, 3: retransmissions.
            local: end(8, 4),
            remote: end(24, 6),
            // 40: the interface it is bound to.
            cookie: Some(u64::from(word(44)) | u64::from(word(48)) << 32),
            expires: Duration::from_millis(u64::from(word(52))),
            // 56, 60: bytes in the receive and in the send queue.
            uid: word(64),
            inode: u64::from(word(68)),
        })
    }
}

/// One message of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sequence of the request it belongs to.
    pub sequence: u32,
    /// The tables changed in a way that may have cost entries: ask again.
    pub interrupted: bool,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// One more socket.
    Socket(SocketEntry),
    /// That was all.
    Done,
    /// The kernel gave up with this `errno`, and nothing more follows.
    Failed(i32),
    /// Something that is not part of a dump; it may be skipped.
    Other(u16),
}

/// The messages in the bytes of one `recv`, in order.
///
/// Shape: each is a `nlmsghdr` (16 bytes, host order; its length includes the header) and a body,
/// padded to a multiple of 4. After an error the iterator has ended: where the next message would
/// begin is not known any more.
/// Source: Linux, `include/uapi/linux/netlink.h`.
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Messages<'a> {
    /// Reads `bytes` as one datagram from the kernel.
    pub fn new(bytes: &'a [u8]) -> Messages<'a> {
        Messages { rest: bytes }
    }

    fn read(&mut self) -> Result<Message, DiagError> {
        let have = self.rest.len();
        let Some(header) = self.rest.first_chunk::<HEADER>() else {
            return Err(DiagError::Short {
                what: "nlmsghdr",
                need: HEADER,
                have,
            });
        };
        let claimed = u32::from_ne_bytes(field(header, 0));
        let kind = u16::from_ne_bytes(field(header, 4));
        let flags = u16::from_ne_bytes(field(header, 6));
        let sequence = u32::from_ne_bytes(field(header, 8));

        let wrong_length = DiagError::Length { claimed, have };
        let length = usize::try_from(claimed).map_err(|_| wrong_length)?;
        let body = self.rest.get(HEADER..length).ok_or(wrong_length)?;
        let padded = length.next_multiple_of(4).min(have);
        let message = Message {
            sequence,
            interrupted: flags & INTERRUPTED != 0,
            body: Body::decode(kind, body)?,
        };
        self.rest = &self.rest[padded..];
        Ok(message)
    }
}

impl Body {
    fn decode(kind: u16, body: &[u8]) -> Result<Body, DiagError> {
        match kind {
            SOCK_DIAG_BY_FAMILY | TCPDIAG_GETSOCK => SocketEntry::decode(body).map(Body::Socket),
            DONE | ERROR => {
                // Both begin with a negated errno. That of DONE is there since the kernel can
                // fail half-way through a dump; the oldest ones sent nothing, which is success.
                let Some(&code) = body.first_chunk::<4>() else {
                    return match kind {
                        DONE => Ok(Body::Done),
                        _ => Err(DiagError::Short {
                            what: "nlmsgerr",
                            need: 4,
                            have: body.len(),
                        }),
                    };
                };
                match (kind, i32::from_ne_bytes(code)) {
                    (_, ..0) => Ok(Body::Failed(
                        i32::from_ne_bytes(code).checked_neg().unwrap_or(i32::MAX),
                    )),
                    (DONE, _) => Ok(Body::Done),
                    // An error of 0 is an acknowledgement, for which nobody asked.
                    _ => Ok(Body::Other(kind)),
                }
            }
            other => Ok(Body::Other(other)),
        }
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Message, DiagError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let message = self.read();
        if message.is_err() {
            self.rest = &[];
        }
        Some(message)
    }
}

/// The `N` bytes of `structure` from `at` on.
fn field<const N: usize>(structure: &[u8], at: usize) -> [u8; N] {
    *structure[at..]
        .first_chunk()
        .expect("offsets are within the structure, whose size was checked")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A `nlmsghdr` and its body, padded, as the kernel would send it.
    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let length = u32::try_from(HEADER + body.len()).unwrap();
        bytes.extend(length.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// An `inet_diag_msg`, written field by field as in the kernel's header file.
    fn answer(family: u8, state: u8, ports: [u16; 2], ips: [[u8; 16]; 2]) -> Vec<u8> {
        let mut bytes = vec![family, state, 3, 0];
        bytes.extend(ports[0].to_be_bytes());
        bytes.extend(ports[1].to_be_bytes());
        bytes.extend(ips[0]);
        bytes.extend(ips[1]);
        bytes.extend(0u32.to_ne_bytes()); // interface
        bytes.extend(0x5566_7788_u32.to_ne_bytes()); // cookie, low
        bytes.extend(0x1122_3344_u32.to_ne_bytes()); // cookie, high
        bytes.extend(59_990u32.to_ne_bytes()); // expires
        bytes.extend([0; 8]); // queues
        bytes.extend(1000u32.to_ne_bytes()); // uid
        bytes.extend(4711u32.to_ne_bytes()); // inode
        assert_eq!(bytes.len(), ANSWER);
        bytes
    }

    fn v4(octets: [u8; 4]) -> [u8; 16] {
        let mut field = [0; 16];
        field[..4].copy_from_slice(&octets);
        field
    }

    fn v6(address: &str) -> [u8; 16] {
        address.parse::<Ipv6Addr>().unwrap().octets()
    }

    #[test]
    fn the_request_has_the_kernels_shape() {
        let request = DumpRequest {
            family: Some(Family::V6),
            states: States::from(TcpState::TimeWait) | TcpState::Established.into(),
            local_port: None,
            remote_port: NonZeroU16::new(0x1F90),
        };
        let bytes = request.to_bytes(7);

        assert_eq!(bytes.len(), 72);
        assert_eq!(bytes[0..4], 72u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 20u16.to_ne_bytes());
        assert_eq!(bytes[6..8], 0x301u16.to_ne_bytes());
        assert_eq!(bytes[8..12], 7u32.to_ne_bytes());
        assert_eq!(bytes[16..20], [10, 6, 0, 0]);
        assert_eq!(bytes[20..24], 0b100_0010_u32.to_ne_bytes());
        assert_eq!(bytes[24..28], [0, 0, 0x1F, 0x90]);
        assert!(bytes[28..].iter().all(|byte| *byte == 0));

        let both = DumpRequest {
            family: None,
            ..request
        };
        let bytes = both.to_bytes(7);
        assert_eq!(bytes.len(), 76);
        assert_eq!(bytes[0..4], 76u32.to_ne_bytes());
        assert_eq!(bytes[4..6], 18u16.to_ne_bytes());
        assert_eq!(bytes[20..24], [0, 0, 0x1F, 0x90]);
        assert_eq!(bytes[68..72], 0b100_0010_u32.to_ne_bytes());
        let rest = [&bytes[16..20], &bytes[24..68], &bytes[72..]].concat();
        assert!(rest.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn all_states_are_all_states() {
        let each = TcpState::ALL.into_iter().map(States::from);
        assert_eq!(each.reduce(BitOr::bitor), Some(States::ALL));
    }

    #[test]
    fn a_socket_is_read_field_by_field() {
        let bytes = answer(2, 6, [51234, 8080], [v4([127, 0, 0, 1]), v4([10, 0, 0, 9])]);
        assert_eq!(
            SocketEntry::decode(&bytes),
            Ok(SocketEntry {
                state: 6,
                local: "127.0.0.1:51234".parse().unwrap(),
                remote: "10.0.0.9:8080".parse().unwrap(),
                expires: Duration::from_millis(59_990),
                cookie: Some(0x1122_3344_5566_7788),
                uid: 1000,
                inode: 4711,
            })
        );
    }

    #[test]
    fn ipv4_written_as_ipv6_is_folded_and_real_ipv6_is_not() {
        let bytes = answer(
            10,
            1,
            [80, 4000],
            [v6("::ffff:10.0.0.9"), v6("2001:db8::1")],
        );
        let entry = SocketEntry::decode(&bytes).unwrap();
        assert_eq!(entry.local, "10.0.0.9:80".parse().unwrap());
        assert_eq!(entry.remote, "[2001:db8::1]:4000".parse().unwrap());
    }

    #[test]
    fn states_of_the_future_are_kept_as_numbers() {
        let bytes = answer(2, 42, [1, 2], [v4([1, 1, 1, 1]), v4([2, 2, 2, 2])]);
        assert_eq!(SocketEntry::decode(&bytes).unwrap().state, 42);
    }

    #[test]
    fn what_cannot_be_a_socket_is_an_error() {
        let good = answer(2, 1, [1, 2], [v4([1, 1, 1, 1]), v4([2, 2, 2, 2])]);
        assert_eq!(
            SocketEntry::decode(&good[..71]),
            Err(DiagError::Short {
                what: "inet_diag_msg",
                need: 72,
                have: 71
            })
        );
        let unix = answer(1, 1, [1, 2], [v4([0; 4]), v4([0; 4])]);
        assert_eq!(SocketEntry::decode(&unix), Err(DiagError::Family(1)));
    }

    #[test]
    fn the_messages_of_a_datagram_come_in_order() {
        let socket = answer(2, 6, [1, 2], [v4([1, 1, 1, 1]), v4([2, 2, 2, 2])]);
        let mut with_attributes = socket.clone();
        with_attributes.extend([5, 0, 8, 0, 1]); // an attribute of 5 bytes, then 3 of padding
        let datagram = [
            message(20, 2, 7, &socket),
            message(20, 2 | 0x10, 7, &with_attributes),
            message(1, 0, 7, &[]),
            message(3, 2, 7, &0i32.to_ne_bytes()),
        ]
        .concat();

        let entry = SocketEntry::decode(&socket).unwrap();
        let read: Vec<_> = Messages::new(&datagram).map(Result::unwrap).collect();
        let expected = [
            (false, Body::Socket(entry)),
            (true, Body::Socket(entry)),
            (false, Body::Other(1)),
            (false, Body::Done),
        ]
        .map(|(interrupted, body)| Message {
            sequence: 7,
            interrupted,
            body,
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn the_end_of_a_dump_tells_success_from_failure() {
        let only = |bytes: &[u8]| {
            let mut messages = Messages::new(bytes);
            let first = messages.next().unwrap().map(|message| message.body);
            assert!(messages.next().is_none());
            first
        };
        for (kind, code, body) in [
            (3, 0, Body::Done),
            (3, -2, Body::Failed(2)),
            (2, -1, Body::Failed(1)),
            (2, i32::MIN, Body::Failed(i32::MAX)),
            (2, 0, Body::Other(2)),
        ] {
            assert_eq!(only(&message(kind, 0, 1, &code.to_ne_bytes())), Ok(body));
        }
        assert_eq!(only(&message(3, 0, 1, &[])), Ok(Body::Done));
        assert!(only(&message(2, 0, 1, &[])).is_err());
    }

    #[test]
    fn a_length_that_cannot_be_ends_the_reading() {
        let good = message(3, 0, 1, &0i32.to_ne_bytes());
        for claimed in [0, 15, 21, u32::MAX] {
            let mut bytes = good.clone();
            bytes[0..4].copy_from_slice(&claimed.to_ne_bytes());
            let read: Vec<_> = Messages::new(&bytes).collect();
            assert_eq!(read, [Err(DiagError::Length { claimed, have: 20 })]);
        }
        assert_eq!(
            Messages::new(&good[..9]).collect::<Vec<_>>(),
            [Err(DiagError::Short {
                what: "nlmsghdr",
                need: 16,
                have: 9
            })]
        );
    }

    proptest! {
        /// Whatever arrives, reading it ends, without a panic and without inventing messages.
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let read: Vec<_> = Messages::new(&bytes).collect();
            prop_assert!(read.len() <= bytes.len().div_ceil(HEADER));
            let _ = SocketEntry::decode(&bytes);
        }

        /// The same with headers that look right, so that the bodies are reached.
        #[test]
        fn any_body_under_a_plausible_header_is_read_to_an_end(
            parts in prop::collection::vec(
                (
                    prop_oneof![Just(2u16), Just(3), Just(20), any::<u16>()],
                    any::<u16>(),
                    prop::collection::vec(any::<u8>(), 0..100),
                ),
                0..8,
            ),
            cut in 0usize..40,
        ) {
            let mut bytes = Vec::new();
            for (kind, flags, body) in &parts {
                bytes.extend(message(*kind, *flags, 1, body));
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            prop_assert!(Messages::new(&bytes).count() <= parts.len());
        }

        /// What the kernel writes into a socket's fields is what is read out of them.
        #[test]
        fn addresses_ports_and_states_survive(
            state: u8,
            ports: [u16; 2],
            local: [u8; 4],
            remote: [u8; 4],
        ) {
            let entry = SocketEntry::decode(&answer(2, state, ports, [v4(local), v4(remote)]));
            let entry = entry.unwrap();
            prop_assert_eq!(entry.state, state);
            prop_assert_eq!(entry.local, SocketAddr::new(local.into(), ports[0]));
            prop_assert_eq!(entry.remote, SocketAddr::new(remote.into(), ports[1]));
        }
    }
}
