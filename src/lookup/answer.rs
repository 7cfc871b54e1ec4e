//! What name servers said → the addresses of a server.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One address of a server, with its share of what goes to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Address and port.
    pub address: SocketAddr,
    /// Its share beside the server's other addresses.
    pub weight: u32,
}

/// What a look-up found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// In ascending order, each once: name servers shuffle them.
    pub places: Vec<Place>,
    /// How long that holds.
    pub ttl: Duration,
}

impl Found {
    /// What is known without a look-up, for ever.
    pub fn fixed(addresses: impl IntoIterator<Item = SocketAddr>) -> Found {
        let place = |address| Place { address, weight: 1 };
        Found {
            places: addresses.into_iter().map(place).collect(),
            ttl: Duration::MAX,
        }
    }
}

/// One SRV record. `T` is what stands for its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service<T> {
    /// Lower ones come first.
    pub(super) priority: u16,
    /// Its share among those of its priority.
    pub(super) weight: u16,
    /// The port.
    pub(super) port: u16,
    /// The name of the host.
    pub(super) target: T,
}

/// The records by priority, the first to be used first.
pub(super) fn by_priority<T>(mut records: Vec<Service<T>>) -> Vec<Vec<Service<T>>> {
    records.sort_by_key(|record| record.priority);
    let mut groups: Vec<Vec<Service<T>>> = Vec::new();
    for record in records {
        match groups.last_mut() {
            Some(group) if group[0].priority == record.priority => group.push(record),
            _ => groups.push(vec![record]),
        }
    }
    groups
}

/// The weights of one priority as weights of servers.
///
/// Only their ratio counts, so they are made as small as they can be. Where all are 0 each gets the
/// same; beside others a 0 gets a hundredth of their least share: "a very small chance of being
/// selected" (RFC 2782).
pub(super) fn weights(records: &[u16]) -> Vec<u32> {
    let common = records.iter().copied().fold(0, gcd);
    if common == 0 {
        return vec![1; records.len()];
    }
    let scale = if records.contains(&0) { 100 } else { 1 };
    let weight = |&weight: &u16| match weight {
        0 => 1,
        weight => u32::from(weight / common) * scale,
    };
    records.iter().map(weight).collect()
}

fn gcd(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The places in ascending order, each address once with all of its weight.
pub(super) fn merged(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_unstable();
    places.dedup_by(|again, first| {
        let same = again.address == first.address;
        if same {
            first.weight = first.weight.saturating_add(again.weight);
        }
        same
    });
    places
}

/// Whether an answer with `found` addresses may be used although the look-up of one address family
/// failed, `of_ipv6` or not: not if that would take away an address that is known.
pub(super) fn may_do_without(
    of_ipv6: bool,
    found: usize,
    known: impl IntoIterator<Item = IpAddr>,
) -> bool {
    found > 0 && !known.into_iter().any(|known| known.is_ipv6() == of_ipv6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_priority_comes_first() {
        let record = |priority, target| Service {
            priority,
            weight: 0,
            port: 80,
            target,
        };
        let groups = by_priority(vec![
            record(20, 'c'),
            record(10, 'a'),
            record(20, 'd'),
            record(10, 'b'),
        ]);
        let targets: Vec<Vec<_>> = groups
            .iter()
            .map(|group| group.iter().map(|record| record.target).collect())
            .collect();
        assert_eq!(targets, [['a', 'b'], ['c', 'd']]);
        assert_eq!(by_priority::<()>(Vec::new()), Vec::<Vec<_>>::new());
    }

    #[test]
    fn weights_keep_their_ratio_and_zero_is_the_least_of_all() {
        for (records, weights_are) in [
            (&[][..], &[][..]),
            (&[0], &[1]),
            (&[0, 0, 0], &[1, 1, 1]),
            (&[10, 10], &[1, 1]),
            (&[10, 30, 5], &[2, 6, 1]),
            (&[7], &[1]),
            (&[0, 10], &[1, 100]),
            (&[0, 10, 20], &[1, 100, 200]),
            (&[u16::MAX, 1], &[65_535, 1]),
        ] {
            assert_eq!(weights(records), weights_are, "{records:?}");
        }
    }

    #[test]
    fn an_address_that_is_found_twice_is_one_with_both_weights() {
        let place = |last, port, weight| Place {
            address: ([10, 0, 0, last], port).into(),
            weight,
        };
        let places = vec![
            place(2, 80, 1),
            place(1, 80, 2),
            place(2, 81, 4),
            place(2, 80, u32::MAX),
        ];
        assert_eq!(
            merged(places),
            [place(1, 80, 2), place(2, 80, u32::MAX), place(2, 81, 4)]
        );
    }

    #[test]
    fn half_an_answer_takes_no_address_away() {
        let v4: IpAddr = "10.0.0.1".parse().unwrap();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        for (failed_is_ipv6, found, known, enough) in [
            (true, 1, &[][..], true),
            (true, 1, &[v4], true),
            (true, 1, &[v4, v6], false),
            (false, 1, &[v6], true),
            (false, 1, &[v4], false),
            (true, 0, &[], false),
        ] {
            let may = may_do_without(failed_is_ipv6, found, known.iter().copied());
            assert_eq!(may, enough, "{failed_is_ipv6} {found} {known:?}");
        }
    }
}
