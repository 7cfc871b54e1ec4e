//! The kernel's own counters of TCP that say what became of connections: `/proc/net/netstat` and
//! `/proc/net/snmp`.

/// A counter of the kernel. Each belongs to a network namespace, and counts what all its programs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// `TcpExt TW`: orphans that went into TIME_WAIT, or into FIN_WAIT2 for as long.
    TimeWaits,
    /// `TcpExt TWRecycled`: ports in TIME_WAIT that were taken again, by `tcp_tw_reuse`.
    Recycled,
    /// `TcpExt TWKilled`: those that went into FIN_WAIT2 for a few seconds only.
    Killed,
    /// `TcpExt TCPTimeWaitOverflow`: sockets that skipped TIME_WAIT, by `tcp_max_tw_buckets`.
    Overflows,
    /// `TcpExt PAWSTimewait`: segments refused by a TIME_WAIT, as from another host behind a NAT.
    PawsRejects,
    /// `TcpExt TCPAbortOnData`: closes that were a reset, as asked for.
    AbortsOnData,
    /// `Tcp OutRsts`: resets sent.
    ResetsSent,
    /// `Tcp EstabResets`: connections that ended by a reset.
    EstablishedResets,
    /// `TcpExt ListenOverflows`: connections refused as the program accepted too slowly.
    ListenOverflows,
    /// `TcpExt TCPSynRetrans`: SYNs sent again.
    SynRetransmits,
}

impl Counter {
    /// All of them, in the order of their numbers.
    pub const ALL: [Counter; 10] = [
        Counter::TimeWaits,
        Counter::Recycled,
        Counter::Killed,
        Counter::Overflows,
        Counter::PawsRejects,
        Counter::AbortsOnData,
        Counter::ResetsSent,
        Counter::EstablishedResets,
        Counter::ListenOverflows,
        Counter::SynRetransmits,
    ];

    /// The kernel's names of its group and of itself. Source: Linux, `net/ipv4/proc.c`.
    pub fn kernel_name(self) -> (&'static str, &'static str) {
        match self {
            Counter::TimeWaits => ("TcpExt", "TW"),
            Counter::Recycled => ("TcpExt", "TWRecycled"),
            Counter::Killed => ("TcpExt", "TWKilled"),
            Counter::Overflows => ("TcpExt", "TCPTimeWaitOverflow"),
            Counter::PawsRejects => ("TcpExt", "PAWSTimewait"),
            Counter::AbortsOnData => ("TcpExt", "TCPAbortOnData"),
            Counter::ResetsSent => ("Tcp", "OutRsts"),
            Counter::EstablishedResets => ("Tcp", "EstabResets"),
            Counter::ListenOverflows => ("TcpExt", "ListenOverflows"),
            Counter::SynRetransmits => ("TcpExt", "TCPSynRetrans"),
        }
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([Option<u64>; Counter::ALL.len()]);

impl Counters {
    /// Understands the text of both files, whatever their order: pairs of lines, `Group: names` and
    /// `Group: values`. What is not understood is as if it were not there: kernels learn new names, and
    /// forget old ones.
    pub fn parse(text: &str) -> Counters {
        let mut counters = Counters::default();
        let mut lines = text.lines();
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            let (Some((group, names)), Some((of, values))) =
                (names.split_once(':'), values.split_once(':'))
            else {
                continue;
            };
            if group != of {
                continue;
            }
            let names = names.split_ascii_whitespace();
            for (name, value) in names.zip(values.split_ascii_whitespace()) {
                for counter in Counter::ALL {
                    if counter.kernel_name() == (group, name) {
                        counters.0[counter as usize] = value.parse().ok();
                    }
                }
            }
        }
        counters
    }

    /// One of them; `None` where this kernel does not have it.
    pub fn get(&self, counter: Counter) -> Option<u64> {
        self.0[counter as usize]
    }

    /// Whether one of them is larger than it was in `before`.
    pub fn has_grown(&self, before: &Counters, counter: Counter) -> bool {
        self.get(counter) > before.get(counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_files_are_understood_by_their_names() {
        let text = "TcpExt: SyncookiesSent TW TWRecycled TCPTimeWaitOverflow New\n\
                    TcpExt: 9 12 3 x 7\n\
                    IpExt: InNoRoutes TW\n\
                    IpExt: 1 2\n\
                    Tcp: RtoAlgorithm EstabResets OutRsts\n\
                    Tcp: 1 5 18446744073709551615\n";
        let counters = Counters::parse(text);
        for (counter, value) in [
            (Counter::TimeWaits, Some(12)),
            (Counter::Recycled, Some(3)),
            (Counter::Overflows, None),
            (Counter::PawsRejects, None),
            (Counter::EstablishedResets, Some(5)),
            (Counter::ResetsSent, Some(u64::MAX)),
        ] {
            assert_eq!(counters.get(counter), value, "{counter:?}");
        }
        for broken in [
            "",
            "TcpExt: TW",
            "TcpExt TW\nTcpExt 1\n",
            "a: TW\nTcpExt: 1\n",
        ] {
            assert_eq!(Counters::parse(broken), Counters::default(), "{broken:?}");
        }
        let later = Counters::parse(&text.replace(" 12 ", " 13 "));
        assert!(later.has_grown(&counters, Counter::TimeWaits));
        assert!(!later.has_grown(&counters, Counter::Recycled));
        assert!(!later.has_grown(&counters, Counter::Overflows));
    }
}
