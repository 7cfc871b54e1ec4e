//! When the log is to say that ports run low: once at each mark, and again only after they had
//! recovered.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use crate::quantity::{counted, grouped, span};

use super::lanes::LaneSample;

/// Above this part of the ports a lane is warned of.
const LOW: f64 = 0.4;
/// And once more above this.
const VERY_LOW: f64 = 0.8;
/// Below this it has recovered.
const RECOVERED: f64 = 0.3;

/// What was said of each lane.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    said: HashMap<(IpAddr, SocketAddr), Mark>,
}

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Mark {
    Low,
    VeryLow,
}

impl Warnings {
    /// What the log is to say of these lanes now.
    pub(super) fn of(&mut self, lanes: &[LaneSample]) -> Vec<String> {
        let mut warnings = Vec::new();
        for lane in lanes {
            let key = (lane.source, lane.backend);
            let mark = match lane.part_held() {
                taken if taken >= VERY_LOW => Some(Mark::VeryLow),
                taken if taken >= LOW => Some(Mark::Low),
                taken if taken < RECOVERED => {
                    self.said.remove(&key);
                    None
                }
                _ => None,
            };
            if let Some(mark) = mark
                && self.said.get(&key).is_none_or(|said| *said < mark)
            {
                self.said.insert(key, mark);
                warnings.push(warning(lane));
            }
        }
        self.said.retain(|(source, backend), _| {
            let is_it = |lane: &LaneSample| (lane.source, lane.backend) == (*source, *backend);
            lanes.iter().any(is_it)
        });
        warnings
    }
}

fn warning(lane: &LaneSample) -> String {
    let LaneSample {
        source,
        backend,
        ports,
        in_use,
        time_wait,
        left,
        ..
    } = lane;
    let when = match lane.fails_after {
        None => "they do not run out at the present rate".to_owned(),
        Some(after) if after.is_zero() => "connect() fails".to_owned(),
        Some(after) => format!("they last {} at the present rate", span(after)),
    };
    format!(
        "{} left of {} from {source} to {backend}, {when}: {} in TIME_WAIT, {} in use. {}",
        counted(*left, "port"),
        grouped(*ports),
        grouped(*time_wait),
        grouped(*in_use),
        remedy(lane)
    )
}

/// What helps against that which takes the most.
fn remedy(lane: &LaneSample) -> &'static str {
    if lane.time_wait < lane.in_use {
        "source_addresses and a wider net.ipv4.ip_local_port_range add ports; max_connections keeps \
         their number down"
    } else if lane.recycling.takes_place() {
        "keep_alive = true saves ports; source_addresses and a wider net.ipv4.ip_local_port_range add \
         some"
    } else {
        "keep_alive = true saves ports; source_addresses and a wider net.ipv4.ip_local_port_range add \
         some; net.ipv4.tcp_tw_reuse = 1 takes those in TIME_WAIT again after a second"
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::headroom::Recycling;

    fn lane(time_wait: u32, in_use: u32) -> LaneSample {
        LaneSample {
            source: "10.0.0.1".parse().unwrap(),
            backend: "10.0.0.5:80".parse().unwrap(),
            ports: 1000,
            in_use,
            time_wait,
            left: 1000_u32.saturating_sub(time_wait + in_use),
            held: time_wait + in_use,
            births: crate::census::Births::default(),
            connects_per_second: None,
            rate: 10.0,
            slow_after: None,
            fails_after: (time_wait > 0).then(|| Duration::from_secs(46)),
            recycling: Recycling::Off,
            sentence: String::new(),
        }
    }

    #[test]
    fn ports_that_are_taken_again_after_a_second_are_not_missed() {
        let mut warnings = Warnings::default();
        let mut recycled = LaneSample {
            recycling: Recycling::OverLoopback,
            held: 50,
            ..lane(900, 50)
        };
        assert!(warnings.of(&[recycled.clone()]).is_empty());
        recycled.held = 400;
        assert_eq!(warnings.of(&[recycled]).len(), 1);
    }

    #[test]
    fn each_mark_is_said_once_until_the_ports_have_recovered() {
        let mut warnings = Warnings::default();
        for (taken, is_said) in [
            (399, false),
            (400, true),
            (700, false),
            (399, false),
            (500, false),
            (800, true),
            (1000, false),
            (450, false),
            (900, false),
            (299, false),
            (900, true),
            (0, false),
            (400, true),
            (800, true),
        ] {
            let said = warnings.of(&[lane(taken, 0)]);
            assert_eq!(said.len(), usize::from(is_said), "{taken}: {said:?}");
        }
        // A lane that is gone is forgotten.
        assert!(warnings.of(&[]).is_empty());
        assert_eq!(warnings.of(&[lane(800, 0)]).len(), 1);
    }

    #[test]
    fn a_warning_has_the_figures_and_what_helps() {
        let mut warnings = Warnings::default();
        let [said] = &warnings.of(&[lane(820, 10)])[..] else {
            panic!("one warning")
        };
        assert_eq!(
            said,
            "170 ports left of 1,000 from 10.0.0.1 to 10.0.0.5:80, they last 46 s at the present rate: \
             820 in TIME_WAIT, 10 in use. keep_alive = true saves ports; source_addresses and a wider \
             net.ipv4.ip_local_port_range add some; net.ipv4.tcp_tw_reuse = 1 takes those in TIME_WAIT \
             again after a second"
        );
        let in_use = Warnings::default().of(&[lane(0, 900)]);
        assert!(in_use[0].contains("do not run out"), "{in_use:?}");
        assert!(!in_use[0].contains("keep_alive"), "{in_use:?}");
        let recycled = LaneSample {
            recycling: Recycling::Everywhere,
            ..lane(900, 0)
        };
        assert!(!Warnings::default().of(&[recycled])[0].contains("tcp_tw_reuse"));
    }
}
