//! How far the ports reach: the arithmetic of connections from one source address to one backend
//! address.
//!
//! Each such pair has the ports of `net.ipv4.ip_local_port_range` for itself. A connection takes one
//! of them, and one that this side closes first goes on holding it in TIME_WAIT. Little's law then
//! has all there is to know: so many a second, each for so long, are `rate × length` at a time. The
//! figures it is tested with were measured (Linux 6.18).
//!
//! What it does not know: ports that a program took with `bind()`, which are lost for all
//! destinations, and those that programs confine themselves to.

mod way;

use std::fmt;
use std::time::Duration;

use crate::census::ports::TwReuse;
use crate::quantity::{counted, grouped, rate, span, whole};

pub use way::Way;

/// How long a TIME_WAIT holds its port on Linux: `TCP_TIMEWAIT_LEN`, 60 s, and the second that the
/// kernel's timers add to it (61.04 s on average on Linux 6.18). No setting changes it.
pub const TIME_WAIT: Duration = Duration::from_secs(61);

/// After how long a port in TIME_WAIT is taken again where [`Recycling`] allows it:
/// `tcp_tw_reuse_delay`, and a fixed second before Linux 6.14.
pub const RECYCLED_AFTER: Duration = Duration::from_secs(1);

/// What is known of the ports from one source address to one backend address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given<'a> {
    /// The ports that a `connect()` may get: those of the range in force, less the reserved ones
    /// and those that are listened on.
    pub ports: u32,
    /// Whether sockets have `IP_LOCAL_PORT_RANGE`, as Warmline's have. Without it `connect()` looks
    /// at every second port first, all of them, and gets slow once these are taken.
    pub port_range_option: bool,
    /// Ports of connections in any state but TIME_WAIT.
    pub in_use: u32,
    /// Ports in TIME_WAIT: when they come free, the soonest first.
    pub time_wait: &'a [Ending],
    /// How long TIME_WAIT holds a port: on Linux [`TIME_WAIT`].
    pub length: Duration,
    /// Connections a second that are opened and leave a TIME_WAIT on this side.
    pub rate: f64,
    /// `net.ipv4.tcp_tw_reuse`.
    pub tw_reuse: TwReuse,
    /// Whether `net.ipv4.tcp_timestamps` is on.
    pub timestamps: bool,
    /// Whether either address is a loopback one; the kernel looks at no more than that.
    pub loopback: bool,
}

/// Ports in TIME_WAIT that come free one after the other, evenly within a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When the first does, from now.
    pub begin: Duration,
    /// How long the stretch is; the next one may begin then. Zero: all at once.
    pub within: Duration,
    /// How many they are.
    pub count: u32,
}

/// What follows from what is [`Given`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Headroom {
    /// Ports that a `connect()` may get now, recycled ones not among them.
    pub left: u32,
    /// How many TIME_WAIT records stand at this rate once as many end as begin, if neither ports
    /// nor `tcp_max_tw_buckets` run out before: `rate × length`.
    pub steady_time_wait: u64,
    /// The rate above which `connect()` gets slow in the end, since half of the ports are taken;
    /// `None` with `IP_LOCAL_PORT_RANGE`, with which it does not.
    pub slow_above: Option<f64>,
    /// The rate above which `connect()` fails in the end with `EADDRNOTAVAIL`.
    pub fails_above: f64,
    /// When `connect()` gets slow at this rate, zero if it is; `None`: it does not.
    pub slow_after: Option<Duration>,
    /// When no port is left at this rate; `None`: it does not come to that.
    pub fails_after: Option<Duration>,
    /// What `tcp_tw_reuse` makes of it.
    pub recycling: Recycling,
}

/// Whether ports in TIME_WAIT are taken again before its end, by what, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recycling {
    /// `tcp_tw_reuse` 0.
    Off,
    /// `tcp_tw_reuse` 2, and this is not over loopback.
    LoopbackOnly,
    /// `tcp_tw_reuse` would do it, but `tcp_timestamps` is off.
    NoTimestamps,
    /// `tcp_tw_reuse` 1: after [`RECYCLED_AFTER`].
    Everywhere,
    /// `tcp_tw_reuse` 2, and this is over loopback: after [`RECYCLED_AFTER`].
    OverLoopback,
    /// A value this program has not heard of; taken for 0.
    Unknown(u8),
}

impl Recycling {
    /// What these settings come to on the way between two addresses.
    pub fn of(tw_reuse: TwReuse, timestamps: bool, loopback: bool) -> Recycling {
        match tw_reuse {
            TwReuse::Never => Recycling::Off,
            TwReuse::LoopbackOnly if !loopback => Recycling::LoopbackOnly,
            TwReuse::Everywhere | TwReuse::LoopbackOnly if !timestamps => Recycling::NoTimestamps,
            TwReuse::Everywhere => Recycling::Everywhere,
            TwReuse::LoopbackOnly => Recycling::OverLoopback,
            TwReuse::Other(value) => Recycling::Unknown(value),
        }
    }

    /// Whether ports are taken again after [`RECYCLED_AFTER`].
    pub fn takes_place(self) -> bool {
        match self {
            Recycling::Everywhere | Recycling::OverLoopback => true,
            Recycling::Off
            | Recycling::LoopbackOnly
            | Recycling::NoTimestamps
            | Recycling::Unknown(_) => false,
        }
    }

    /// What the setting does, without its name.
    pub fn effect(self) -> &'static str {
        match self {
            Recycling::Off => "never takes a port in TIME_WAIT again",
            Recycling::LoopbackOnly => "takes ports in TIME_WAIT again over loopback only",
            Recycling::NoTimestamps => "does nothing, since tcp_timestamps is 0",
            Recycling::Everywhere => "takes a port in TIME_WAIT again after a second",
            Recycling::OverLoopback => {
                "takes a port in TIME_WAIT again after a second, over loopback"
            }
            Recycling::Unknown(_) => "is unknown here, and taken for 0",
        }
    }

    /// The name it has in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Recycling::Off => "off",
            Recycling::LoopbackOnly => "loopback_only",
            Recycling::NoTimestamps => "no_timestamps",
            Recycling::Everywhere => "everywhere",
            Recycling::OverLoopback => "over_loopback",
            Recycling::Unknown(_) => "unknown",
        }
    }
}

/// As a half-sentence: `tcp_tw_reuse 0 never takes a port in TIME_WAIT again`.
impl fmt::Display for Recycling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = match self {
            Recycling::Off => " 0",
            Recycling::LoopbackOnly | Recycling::OverLoopback => " 2",
            Recycling::NoTimestamps => "",
            Recycling::Everywhere => " 1",
            Recycling::Unknown(value) => {
                return write!(f, "tcp_tw_reuse {value} {}", self.effect());
            }
        };
        write!(f, "tcp_tw_reuse{value} {}", self.effect())
    }
}

impl Given<'_> {
    /// How far the ports reach.
    pub fn headroom(&self) -> Headroom {
        let recycling = Recycling::of(self.tw_reuse, self.timestamps, self.loopback);
        let taken = self.in_use.saturating_add(self.waiting());
        let half = self.ports / 2;
        let slow = !self.port_range_option;
        Headroom {
            left: self.ports.saturating_sub(taken),
            steady_time_wait: whole((self.rate * self.length.as_secs_f64()).round()),
            slow_above: slow.then(|| self.rate_that_fills(half, recycling)),
            fails_above: self.rate_that_fills(self.ports, recycling),
            slow_after: if slow {
                self.fills(half, recycling)
            } else {
                None
            },
            fails_after: self.fills(self.ports, recycling),
            recycling,
        }
    }

    /// How many ports are in TIME_WAIT.
    pub fn waiting(&self) -> u32 {
        let counts = self.time_wait.iter().map(|ending| ending.count);
        counts.fold(0, u32::saturating_add)
    }

    /// For how long a port is not to be had once its connection was closed.
    fn held(&self, recycling: Recycling) -> f64 {
        let held = if recycling.takes_place() {
            self.length.min(RECYCLED_AFTER)
        } else {
            self.length
        };
        held.as_secs_f64()
    }

    /// The rate at which so many ports are taken in the end.
    fn rate_that_fills(&self, ports: u32, recycling: Recycling) -> f64 {
        f64::from(ports.saturating_sub(self.in_use)) / self.held(recycling)
    }

    /// When so many ports are taken at the present rate.
    ///
    /// New ones come evenly, and none of them is free again before all of the present `TIME_WAIT`s
    /// are: so it happens between two ends of these, after the last, or not at all.
    fn fills(&self, ports: u32, recycling: Recycling) -> Option<Duration> {
        let held = self.held(recycling);
        let early = self.length.saturating_sub(seconds(held));
        // What recycling takes again already does not count.
        let left = self.time_wait.iter();
        let left = left.map(|ending| (ending, ending.after(early)));
        let mut taken = f64::from(self.in_use);
        taken += left.clone().map(|(_, left)| f64::from(left)).sum::<f64>();
        let ports = f64::from(ports);
        if taken >= ports {
            return Some(Duration::ZERO);
        }
        let when = |taken: f64| (ports - taken) / self.rate;
        let early = early.as_secs_f64();
        for (ending, left) in left {
            // The first of these may be too late for the last of them: then each is for its own end.
            if when(taken) < ending.end().as_secs_f64() - early {
                for number in ending.count - left..ending.count {
                    let after = when(taken);
                    if after < (ending.of(number) - early).min(held) {
                        return Some(seconds(after));
                    }
                    taken -= 1.0;
                }
            } else {
                taken -= f64::from(left);
            }
        }
        let after = when(taken);
        (after < held).then(|| seconds(after))
    }

    /// In words: `at 610 connects/s to 10.0.0.5:80 the 28,232 ports last 46 s`. Without a full stop:
    /// it may be one part of a sentence.
    pub fn sentence(&self, towards: impl fmt::Display) -> String {
        let headroom = self.headroom();
        let ports = if headroom.left == self.ports {
            format!("the {}", counted(self.ports, "port"))
        } else {
            let left = counted(headroom.left, "port");
            format!("the {left} left of {}", grouped(self.ports))
        };
        if self.rate <= 0.0 {
            return format!(
                "nothing uses up the ports to {towards}: {} of {} are free",
                grouped(headroom.left),
                counted(self.ports, "port")
            );
        }
        let start = format!("at {} connects/s to {towards} {ports}", rate(self.rate));
        let slow = match headroom.slow_after {
            None => String::new(),
            Some(Duration::ZERO) => "; connect() is slow already, half of them are taken".into(),
            Some(after) => format!("; connect() gets slow after {}", span(after)),
        };
        match headroom.fails_after {
            Some(Duration::ZERO) => format!(
                "at {} connects/s to {towards} none of the {} is left: connect() fails",
                rate(self.rate),
                counted(self.ports, "port")
            ),
            Some(after) => format!("{start} last {}{slow}", span(after)),
            None if headroom.recycling.takes_place() => {
                format!("{start} do not run out: {}{slow}", headroom.recycling)
            }
            None => format!(
                "{start} do not run out: {} are in TIME_WAIT at a time{slow}",
                grouped(headroom.steady_time_wait)
            ),
        }
    }
}

impl Ending {
    /// When the one with this number comes free, in seconds; the first is 0.
    fn of(&self, number: u32) -> f64 {
        let part = f64::from(number) / f64::from(self.count.max(1));
        self.begin.as_secs_f64() + self.within.as_secs_f64() * part
    }

    /// Before this, or at this time at the latest, all have come free.
    fn end(&self) -> Duration {
        self.begin + self.within
    }

    /// How many come free later than `time`.
    fn after(&self, time: Duration) -> u32 {
        if time < self.begin {
            return self.count;
        }
        if time >= self.end() {
            return 0;
        }
        let time = time.as_secs_f64();
        let gone = (0..self.count).take_while(|number| self.of(*number) <= time);
        self.count - u32::try_from(gone.count()).expect("no more than their count")
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Linux as it comes, towards another machine, from nothing.
    const DEFAULT: Given<'_> = Given {
        ports: 28_232,
        port_range_option: false,
        in_use: 0,
        time_wait: &[],
        length: TIME_WAIT,
        rate: 0.0,
        tw_reuse: TwReuse::LoopbackOnly,
        timestamps: true,
        loopback: false,
    };

    fn secs(time: Option<Duration>) -> Option<u64> {
        time.map(|time| time.as_secs())
    }

    #[test]
    fn the_limits_are_those_that_were_measured() {
        for (ports, length, slow, fails) in [
            (28_232, 61, 231, 462),
            (64_512, 240, 134, 268),
            (50, 61, 0, 0),
            (64_512, 61, 528, 1057),
        ] {
            let headroom = Given {
                ports,
                length: Duration::from_secs(length),
                ..DEFAULT
            }
            .headroom();
            assert_eq!(headroom.slow_above.map(whole), Some(slow), "{ports}");
            assert_eq!(whole(headroom.fails_above), fails, "{ports}");
        }
    }

    #[test]
    fn so_many_a_second_for_so_long_are_so_many_at_a_time() {
        for (rate, length, steady) in [
            (1000.0, 240, 240_000),
            (231.0, 61, 14_091),
            (0.0, 61, 0),
            (0.5, 61, 31),
        ] {
            let given = Given {
                rate,
                length: Duration::from_secs(length),
                ..DEFAULT
            };
            assert_eq!(given.headroom().steady_time_wait, steady, "{rate}");
        }
    }

    /// So many `TIME_WAIT`s that come free evenly within so many seconds.
    fn ending(count: u32, within: u32) -> Vec<Ending> {
        let every = Duration::from_secs(within.into()) / count.max(1);
        (1..=count).map(|n| one(every * n)).collect()
    }

    fn one(begin: Duration) -> Ending {
        Ending {
            begin,
            within: Duration::ZERO,
            count: 1,
        }
    }

    #[test]
    fn the_ports_last_until_they_do_not() {
        let none = || ending(0, 1);
        // As many begin as end.
        let steady = |a_second: u32| ending(a_second * 61, 61);
        // All within the last seconds: none comes free for long.
        let fresh = |count| vec![one(Duration::from_secs(60)); count];
        for (rate, in_use, time_wait, slow, fails) in [
            (0.0, 0, none(), None, None),
            (231.0, 0, none(), None, None),
            (232.0, 0, none(), Some(60), None),
            (462.0, 0, none(), Some(30), None),
            (463.0, 0, none(), Some(30), Some(60)),
            (610.0, 0, none(), Some(23), Some(46)),
            (100.0, 0, steady(100), None, None),
            (231.0, 0, steady(231), None, None),
            (462.0, 0, steady(462), Some(0), None),
            // 100 a second come free while 1,000 begin: 900 a second more.
            (1000.0, 0, steady(100), Some(8), Some(24)),
            // A rate that can be kept up, after a burst of which nothing is free yet.
            (200.0, 0, fresh(20_000), Some(0), Some(41)),
            (100.0, 0, fresh(20_000), Some(0), None),
            // Half a minute of 610/s is behind us: the other 16 s.
            (610.0, 0, fresh(18_300), Some(0), Some(16)),
            // Open connections hold theirs for as long as they are open.
            (400.0, 10_000, none(), Some(10), Some(45)),
            (200.0, 14_116, none(), Some(0), None),
            (200.0, 28_232, none(), Some(0), Some(0)),
            (0.0, 28_231, fresh(1), Some(0), Some(0)),
        ] {
            let given = Given {
                rate,
                in_use,
                time_wait: &time_wait,
                ..DEFAULT
            };
            let headroom = given.headroom();
            let found = (secs(headroom.slow_after), secs(headroom.fails_after));
            assert_eq!(found, (slow, fails), "{rate} {in_use} {}", time_wait.len());
        }
    }

    #[test]
    fn a_limit_of_268_connections_a_second_holds_at_268_and_not_at_269() {
        let at = |rate| {
            let given = Given {
                ports: 64_512,
                length: Duration::from_secs(240),
                rate,
                ..DEFAULT
            };
            secs(given.headroom().fails_after)
        };
        assert_eq!((at(268.0), at(269.0)), (None, Some(239)));
    }

    #[test]
    fn with_the_option_connect_does_not_get_slow() {
        let given = Given {
            port_range_option: true,
            rate: 610.0,
            ..DEFAULT
        };
        let headroom = given.headroom();
        assert_eq!((headroom.slow_above, headroom.slow_after), (None, None));
        assert_eq!(secs(headroom.fails_after), Some(46));
    }

    #[test]
    fn recycling_is_by_setting_timestamps_and_way() {
        use Recycling::{Everywhere, LoopbackOnly, NoTimestamps, Off, OverLoopback, Unknown};
        for (tw_reuse, timestamps, loopback, recycling) in [
            (TwReuse::Never, true, true, Off),
            (TwReuse::Never, false, false, Off),
            (TwReuse::Everywhere, true, false, Everywhere),
            (TwReuse::Everywhere, true, true, Everywhere),
            (TwReuse::Everywhere, false, true, NoTimestamps),
            (TwReuse::LoopbackOnly, true, true, OverLoopback),
            (TwReuse::LoopbackOnly, false, true, NoTimestamps),
            (TwReuse::LoopbackOnly, true, false, LoopbackOnly),
            (TwReuse::Other(7), true, true, Unknown(7)),
        ] {
            let found = Recycling::of(tw_reuse, timestamps, loopback);
            assert_eq!(found, recycling);
            // 200 ports: measured were 200 a second with recycling, and 200 in all without.
            let time_wait = ending(200, 60);
            let given = Given {
                ports: 200,
                rate: 190.0,
                time_wait: &time_wait,
                port_range_option: true,
                tw_reuse,
                timestamps,
                loopback,
                ..DEFAULT
            };
            let out = given.headroom().fails_after;
            assert_eq!(out.is_none(), recycling.takes_place(), "{recycling}");
        }
        let given = Given {
            ports: 200,
            rate: 400.0,
            tw_reuse: TwReuse::Everywhere,
            ..DEFAULT
        };
        let headroom = given.headroom();
        assert_eq!(whole(headroom.fails_above), 200);
        assert_eq!(headroom.fails_after, Some(Duration::from_millis(500)));
    }

    #[test]
    fn it_is_said_in_words() {
        let many = ending(20_000, 61);
        let given = Given {
            port_range_option: true,
            rate: 610.0,
            ..DEFAULT
        };
        for (given, sentence) in [
            (
                given,
                "at 610 connects/s to 10.0.0.5:80 the 28,232 ports last 46 s",
            ),
            (
                Given {
                    port_range_option: false,
                    ..given
                },
                "at 610 connects/s to 10.0.0.5:80 the 28,232 ports last 46 s; connect() gets slow \
                 after 23 s",
            ),
            (
                Given {
                    in_use: 8232,
                    ..given
                },
                "at 610 connects/s to 10.0.0.5:80 the 20,000 ports left of 28,232 last 32 s",
            ),
            (
                Given {
                    rate: 100.0,
                    ..given
                },
                "at 100 connects/s to 10.0.0.5:80 the 28,232 ports do not run out: 6,100 are in \
                 TIME_WAIT at a time",
            ),
            (
                Given {
                    tw_reuse: TwReuse::Everywhere,
                    ..given
                },
                "at 610 connects/s to 10.0.0.5:80 the 28,232 ports do not run out: tcp_tw_reuse 1 \
                 takes a port in TIME_WAIT again after a second",
            ),
            (
                Given {
                    in_use: 28_232,
                    ..given
                },
                "at 610 connects/s to 10.0.0.5:80 none of the 28,232 ports is left: connect() fails",
            ),
            (
                Given {
                    time_wait: &many,
                    rate: 330.0,
                    port_range_option: false,
                    ..given
                },
                "at 330 connects/s to 10.0.0.5:80 the 8,232 ports left of 28,232 do not run out: \
                 20,130 are in TIME_WAIT at a time; connect() is slow already, half of them are \
                 taken",
            ),
            (
                Given { rate: 0.0, ..given },
                "nothing uses up the ports to 10.0.0.5:80: 28,232 of 28,232 ports are free",
            ),
        ] {
            assert_eq!(given.sentence("10.0.0.5:80"), sentence);
        }
    }

    proptest! {
        /// Whether they are told in groups or one by one, it comes to the same.
        #[test]
        fn groups_are_their_members(
            ports in 1_u32..300,
            in_use in 0_u32..100,
            groups in proptest::collection::vec((0_u64..31_000, 0_u32..40), 0..30),
            rate in 0.0_f64..40.0,
            tw_reuse in prop_oneof![Just(TwReuse::Never), Just(TwReuse::Everywhere)],
        ) {
            let mut groups: Vec<_> = groups
                .into_iter()
                .map(|(begin, count)| Ending {
                    begin: Duration::from_millis(begin / 250 * 250),
                    within: Duration::from_millis(250),
                    count,
                })
                .collect();
            groups.sort_unstable_by_key(|group| group.begin);
            groups.dedup_by_key(|group| group.begin);
            let members: Vec<_> = groups
                .iter()
                .flat_map(|group| (0..group.count).map(|number| one(seconds(group.of(number)))))
                .collect();
            let length = Duration::from_secs(30);
            let [in_groups, one_by_one] = [&groups, &members].map(|time_wait| {
                Given { ports, in_use, time_wait, length, rate, tw_reuse, ..DEFAULT }.headroom()
            });
            prop_assert_eq!(in_groups.left, one_by_one.left);
            for (grouped, single) in [
                (in_groups.slow_after, one_by_one.slow_after),
                (in_groups.fails_after, one_by_one.fails_after),
            ] {
                prop_assert_eq!(grouped.is_some(), single.is_some());
                let [grouped, single] = [grouped, single].map(Option::unwrap_or_default);
                prop_assert!(grouped.abs_diff(single) < Duration::from_millis(1));
            }
        }

        /// The limit and the time agree, and the time is that of a clock that ticks.
        #[test]
        fn the_limit_and_the_time_agree(
            ports in 1_u32..300,
            in_use in 0_u32..300,
            mut ends in proptest::collection::vec(0_u64..30_000, 0..300),
            rate in 0.0_f64..40.0,
            tw_reuse in prop_oneof![Just(TwReuse::Never), Just(TwReuse::Everywhere)],
            port_range_option: bool,
        ) {
            ends.sort_unstable();
            let length = Duration::from_secs(30);
            let time_wait: Vec<_> = ends.into_iter().map(|end| one(Duration::from_millis(end))).collect();
            let given = Given {
                ports, in_use, time_wait: &time_wait, rate, length, tw_reuse, port_range_option,
                ..DEFAULT
            };
            let headroom = given.headroom();
            if rate > headroom.fails_above + 0.001 {
                prop_assert!(headroom.fails_after.is_some());
            }
            if let Some(after) = headroom.fails_after {
                prop_assert!(after <= length);
            }
            if let (Some(slow), Some(fails)) = (headroom.slow_after, headroom.fails_after) {
                prop_assert!(slow <= fails);
            }
            if !headroom.recycling.takes_place() {
                let taken = |tick: u32| {
                    let now = Duration::from_millis(10) * tick;
                    let left = time_wait.iter().map(|end| end.after(now)).sum::<u32>();
                    f64::from(in_use + left) + rate * now.as_secs_f64()
                };
                let full = (0..3000).find(|tick| taken(*tick) >= f64::from(ports));
                let full = full.map(|tick| Duration::from_millis(10) * tick);
                match (headroom.fails_after, full) {
                    (Some(after), Some(full)) => prop_assert!(
                        // Between two ticks it may be full, and not be so any more at the second.
                        after <= full,
                        "{after:?} {full:?}"
                    ),
                    (None, full) => prop_assert_eq!(full, None),
                    (Some(_), None) => {}
                }
            }
            prop_assert!(!given.sentence("a").is_empty());
        }
    }
}
