//! The ports that a NAT between the proxy and a backend has, counted down from what the proxy knows: the
//! NAT itself cannot be asked.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::census::ports::TwReuse;
use crate::headroom::{Ending, Given};

use super::lanes::{Backend, LaneSample};

/// How long a NAT holds the port of a connection that both sides have closed. Source: Linux,
/// `nf_conntrack_tcp_timeout_time_wait`.
const HELD: Duration = Duration::from_secs(120);

/// The time that the rate is over.
const RATE_OVER: Duration = Duration::from_secs(10);

/// A NAT's ports towards one backend address, as they are now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SnatSample {
    pub(super) backend: SocketAddr,
    /// The ports there are: `snat_ports`.
    pub(super) ports: u32,
    /// Those of connections that are open.
    pub(super) in_use: u32,
    /// Those that it still holds of connections that are closed.
    pub(super) held: u32,
    /// Those that are left.
    pub(super) left: u32,
    /// When none is left at the present rate; zero: now. `None`: it does not come to that.
    pub(super) fails_after: Option<Duration>,
    /// The same in words.
    pub(super) sentence: String,
}

/// What is remembered from one sample to the next.
#[derive(Debug, Default)]
pub(super) struct SnatBook {
    clock: Duration,
    closed: HashMap<SocketAddr, Closed>,
}

/// Connections to one backend that ended in an orderly way: since the start, and in the time that a
/// NAT holds their ports.
#[derive(Debug, Default)]
struct Closed {
    sum: u64,
    /// When, and how many.
    recent: VecDeque<(Duration, u64)>,
}

impl SnatBook {
    /// The NATs' ports to those of these backends that have any declared, so long after the sample
    /// before.
    pub(super) fn samples(
        &mut self,
        backends: &[Backend],
        lanes: &[LaneSample],
        since: Duration,
    ) -> Vec<SnatSample> {
        self.clock += since;
        self.closed
            .retain(|address, _| backends.iter().any(|backend| backend.address == *address));
        let mut samples = Vec::new();
        for backend in backends.iter().filter(|backend| backend.snat_ports > 0) {
            let closed = self.closed.entry(backend.address).or_default();
            closed.note(backend.closed, self.clock);
            let towards = lanes.iter().filter(|lane| lane.backend == backend.address);
            let held = closed.ends(self.clock);
            let given = Given {
                ports: backend.snat_ports,
                port_range_option: true,
                in_use: towards.map(|lane| lane.in_use).sum(),
                time_wait: &held,
                length: HELD,
                rate: closed.rate(self.clock),
                tw_reuse: TwReuse::Never,
                timestamps: true,
                loopback: false,
            };
            let room = given.headroom();
            samples.push(SnatSample {
                backend: backend.address,
                ports: backend.snat_ports,
                in_use: given.in_use,
                held: given.waiting(),
                left: room.left,
                fails_after: room.fails_after,
                sentence: format!("behind the NAT {}", given.sentence(backend.address)),
            });
        }
        samples
    }
}

impl Closed {
    fn note(&mut self, sum: u64, now: Duration) {
        let more = sum.saturating_sub(self.sum);
        self.sum = sum;
        if more > 0 {
            self.recent.push_back((now, more));
        }
        while let Some((at, _)) = self.recent.front()
            && now.saturating_sub(*at) >= HELD
        {
            self.recent.pop_front();
        }
    }

    /// When the ports that are held come free, the soonest first. More than there are ports need not be
    /// told apart.
    fn ends(&self, now: Duration) -> Vec<Ending> {
        let ending = |(at, count): &(Duration, u64)| Ending {
            begin: HELD.saturating_sub(now.saturating_sub(*at)),
            within: Duration::ZERO,
            count: u16::try_from(*count).unwrap_or(u16::MAX).into(),
        };
        self.recent.iter().map(ending).collect()
    }

    fn rate(&self, now: Duration) -> f64 {
        let recent = self.recent.iter();
        let recent = recent.filter(|(at, _)| now.saturating_sub(*at) < RATE_OVER);
        let count: u64 = recent.map(|(_, count)| *count).sum();
        let over = now.clamp(Duration::from_secs(1), RATE_OVER).as_secs_f64();
        f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / over
    }
}

/// Which of the two is the tighter limit towards a backend, and how many it leaves: the local ports of
/// the source address that has the most, or the NAT's.
pub(super) fn tightest(
    backend: SocketAddr,
    lanes: &[LaneSample],
    snats: &[SnatSample],
) -> Option<(&'static str, u32)> {
    let towards = lanes.iter().filter(|lane| lane.backend == backend);
    let local = towards.map(|lane| lane.left).max();
    let snat = snats.iter().find(|snat| snat.backend == backend);
    match (local, snat.map(|snat| snat.left)) {
        (Some(local), Some(snat)) if snat < local => Some(("snat_ports", snat)),
        (Some(local), _) => Some(("local_ports", local)),
        (None, Some(snat)) => Some(("snat_ports", snat)),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(closed: u64) -> Backend {
        Backend {
            address: "10.0.0.9:80".parse().unwrap(),
            source_ports: None,
            snat_ports: 1024,
            opened: closed,
            left: 0,
            closed,
        }
    }

    #[test]
    fn ports_are_held_for_two_minutes_whoever_closed() {
        let mut book = SnatBook::default();
        let second = Duration::from_secs(1);
        let mut looks = Vec::new();
        for at in 1..=200_u64 {
            // 10 a second, for a minute and a half.
            let found = book.samples(&[backend(10 * at.min(90))], &[], second);
            let [snat] = &found[..] else {
                panic!("{found:?}")
            };
            looks.push((
                snat.held,
                snat.left,
                snat.fails_after.map(|after| after.as_secs()),
            ));
        }
        assert_eq!(looks[49], (500, 524, Some(52)));
        assert_eq!(looks[89], (900, 124, Some(12)));
        // Since none has begun for ten seconds nothing runs out.
        assert_eq!(looks[119], (900, 124, None));
        assert_eq!(looks[159], (500, 524, None));
        assert_eq!(looks[199], (100, 924, None));
        let said = &book.samples(&[backend(2000)], &[], second)[0];
        assert_eq!((said.left, said.fails_after), (0, Some(Duration::ZERO)));
        assert!(
            said.sentence
                .starts_with("behind the NAT at 110 connects/s")
        );
    }

    #[test]
    fn the_tighter_of_the_two_limits_is_named() {
        let snat = |left| SnatSample {
            backend: backend(0).address,
            ports: 1024,
            in_use: 0,
            held: 0,
            left,
            fails_after: None,
            sentence: String::new(),
        };
        let lane = |left| LaneSample {
            source: "10.0.0.1".parse().unwrap(),
            backend: backend(0).address,
            ports: 1000,
            in_use: 0,
            time_wait: 0,
            left,
            held: 0,
            births: crate::census::Births::default(),
            connects_per_second: None,
            rate: 0.0,
            slow_after: None,
            fails_after: None,
            recycling: crate::headroom::Recycling::Off,
            sentence: String::new(),
        };
        let address = backend(0).address;
        for (lanes, snats, expected) in [
            (
                vec![lane(5), lane(9)],
                vec![snat(8)],
                Some(("snat_ports", 8)),
            ),
            (
                vec![lane(5), lane(7)],
                vec![snat(8)],
                Some(("local_ports", 7)),
            ),
            (vec![lane(5)], vec![], Some(("local_ports", 5))),
            (vec![], vec![snat(8)], Some(("snat_ports", 8))),
            (vec![], vec![], None),
        ] {
            assert_eq!(tightest(address, &lanes, &snats), expected);
        }
    }
}
