//! The states of a TCP connection as the kernel numbers them, and a count for each.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// A state of a TCP socket, under the kernel's number.
///
/// Source: Linux, `include/net/tcp_states.h`; the same numbers stand in sock_diag answers and, in
/// hexadecimal, in `/proc/net/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TcpState {
    /// Both ends may send.
    Established = 1,
    /// Our SYN is out, no answer yet.
    SynSent = 2,
    /// A SYN was answered, the last acknowledgement of the handshake is missing.
    SynRecv = 3,
    /// We closed first; our FIN is not acknowledged yet.
    FinWait1 = 4,
    /// We closed first; the peer has not closed yet.
    FinWait2 = 5,
    /// We closed first and all is said; the four addresses are reserved for another 60 s.
    TimeWait = 6,
    /// Not connected.
    Close = 7,
    /// The peer closed first; the program at this end has not.
    CloseWait = 8,
    /// The peer closed first, then we; our FIN is not acknowledged yet.
    LastAck = 9,
    /// Waiting for connections.
    Listen = 10,
    /// Both ends closed at the same time; the peer's acknowledgement is missing.
    Closing = 11,
}

impl TcpState {
    /// All states, in the order of their numbers, starting with 1.
    pub const ALL: [TcpState; 11] = [
        TcpState::Established,
        TcpState::SynSent,
        TcpState::SynRecv,
        TcpState::FinWait1,
        TcpState::FinWait2,
        TcpState::TimeWait,
        TcpState::Close,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Listen,
        TcpState::Closing,
    ];

    /// The state with the kernel's `number`; `None` for one this program has not heard of.
    pub fn from_number(number: u8) -> Option<TcpState> {
        let index = usize::from(number).checked_sub(1)?;
        TcpState::ALL.get(index).copied()
    }

    /// The kernel's number.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The name as in RFC 9293 and in the kernel, with underscores.
    pub fn name(self) -> &'static str {
        match self {
            TcpState::Established => "ESTABLISHED",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::FinWait1 => "FIN_WAIT1",
            TcpState::FinWait2 => "FIN_WAIT2",
            TcpState::TimeWait => "TIME_WAIT",
            TcpState::Close => "CLOSE",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::Listen => "LISTEN",
            TcpState::Closing => "CLOSING",
        }
    }
}

impl TcpState {
    /// What it means, for who does not have RFC 9293 at hand; one line.
    pub fn meaning(self) -> &'static str {
        match self {
            TcpState::Established => "open",
            TcpState::SynSent => "being opened: no answer yet",
            TcpState::SynRecv => "being accepted: the last packet of the handshake is missing",
            TcpState::FinWait1 => "closed by this side first; not acknowledged yet",
            TcpState::FinWait2 => "closed by this side first; the other side has not closed yet",
            TcpState::TimeWait => "closed by this side first; its port is held for 60 s",
            TcpState::Close => "not connected",
            TcpState::CloseWait => "closed by the other side; the program here has not closed yet",
            TcpState::LastAck => "closed by the other side, then here; not acknowledged yet",
            TcpState::Listen => "waits for connections",
            TcpState::Closing => "closed by both sides at once; not acknowledged yet",
        }
    }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How many sockets are in each state.
///
/// Sockets in states this program has not heard of are counted too, apart, so that the total is
/// always the number of sockets seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    /// By the kernel's number; the unknown ones at 0, which no state has.
    by_number: [u64; TcpState::ALL.len() + 1],
}

impl StateCounts {
    /// Counts one socket in the state with the kernel's `number`.
    pub fn note(&mut self, number: u8) {
        let slot = TcpState::from_number(number).map_or(0, TcpState::number);
        self.by_number[usize::from(slot)] += 1;
    }

    /// How many are in `state`.
    pub fn get(&self, state: TcpState) -> u64 {
        self.by_number[usize::from(state.number())]
    }

    /// How many are in a state this program has not heard of.
    pub fn unknown(&self) -> u64 {
        self.by_number[0]
    }

    /// How many there are, whatever their state.
    pub fn total(&self) -> u64 {
        self.by_number.iter().sum()
    }

    /// How many connections there are: all but the listening sockets.
    pub fn connections(&self) -> u64 {
        self.total() - self.get(TcpState::Listen)
    }

    /// Every state with its count, zeros included, in the order of the kernel's numbers.
    pub fn iter(&self) -> impl Iterator<Item = (TcpState, u64)> + '_ {
        TcpState::ALL
            .into_iter()
            .map(|state| (state, self.get(state)))
    }
}

impl AddAssign for StateCounts {
    fn add_assign(&mut self, other: StateCounts) {
        for (mine, theirs) in self.by_number.iter_mut().zip(other.by_number) {
            *mine += theirs;
        }
    }
}

impl Add for StateCounts {
    type Output = StateCounts;

    fn add(mut self, other: StateCounts) -> StateCounts {
        self += other;
        self
    }
}

impl Sum for StateCounts {
    fn sum<I: Iterator<Item = StateCounts>>(counts: I) -> StateCounts {
        counts.fold(StateCounts::default(), Add::add)
    }
}

/// The states that occur, as in `ESTABLISHED 4, TIME_WAIT 20`; `none` where there is nothing.
impl fmt::Display for StateCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total() == 0 {
            return f.write_str("none");
        }
        let known = self.iter().map(|(state, count)| (state.name(), count));
        let mut separator = "";
        for (name, count) in known.chain([("unknown", self.unknown())]) {
            if count > 0 {
                write!(f, "{separator}{name} {count}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_kernels() {
        for (number, name) in [
            (1, "ESTABLISHED"),
            (2, "SYN_SENT"),
            (3, "SYN_RECV"),
            (4, "FIN_WAIT1"),
            (5, "FIN_WAIT2"),
            (6, "TIME_WAIT"),
            (7, "CLOSE"),
            (8, "CLOSE_WAIT"),
            (9, "LAST_ACK"),
            (10, "LISTEN"),
            (11, "CLOSING"),
        ] {
            let state = TcpState::from_number(number).unwrap();
            assert_eq!((state.number(), state.name()), (number, name));
        }
        for unknown in [0, 12, 13, 255] {
            assert_eq!(TcpState::from_number(unknown), None);
        }
    }

    #[test]
    fn a_socket_in_an_unknown_state_still_counts_as_one() {
        let mut counts = StateCounts::default();
        for number in [6, 6, 1, 10, 13, 0] {
            counts.note(number);
        }
        assert_eq!(counts.get(TcpState::TimeWait), 2);
        assert_eq!(counts.get(TcpState::Established), 1);
        assert_eq!(counts.unknown(), 2);
        assert_eq!(counts.total(), 6);
        assert_eq!(counts.connections(), 5);
    }

    #[test]
    fn counts_add_up_state_by_state() {
        let mut left = StateCounts::default();
        left.note(6);
        let mut right = StateCounts::default();
        right.note(6);
        right.note(1);
        right.note(99);

        let sum: StateCounts = [left, right].into_iter().sum();
        assert_eq!(sum, left + right);
        assert_eq!(sum.get(TcpState::TimeWait), 2);
        assert_eq!(sum.get(TcpState::Established), 1);
        assert_eq!(sum.total(), 4);
    }

    #[test]
    fn only_what_occurs_is_printed() {
        let mut counts = StateCounts::default();
        assert_eq!(counts.to_string(), "none");
        for number in [6, 6, 1, 13] {
            counts.note(number);
        }
        assert_eq!(counts.to_string(), "ESTABLISHED 1, TIME_WAIT 2, unknown 1");
    }
}
