//! A set of ports: one bit for each.

use std::fmt;

const WORDS: usize = 1024;

/// A set of ports, of the same size whatever is in it: 8 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct PortSet(Box<[u64; WORDS]>);

impl PortSet {
    /// Adds `port`. False if it was there.
    pub fn insert(&mut self, port: u16) -> bool {
        let (word, bit) = place(port);
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// Adds every port from `low` to `high`.
    pub fn insert_all(&mut self, low: u16, high: u16) {
        let (first, last) = (usize::from(low) / 64, usize::from(high) / 64);
        for word in first..=last {
            let mut bits = u64::MAX;
            if word == first {
                bits &= u64::MAX << (low % 64);
            }
            if word == last {
                bits &= u64::MAX >> (63 - high % 64);
            }
            self.0[word] |= bits;
        }
    }

    /// Takes out all that are in `other`.
    pub fn remove_all(&mut self, other: &PortSet) {
        for (word, out) in self.0.iter_mut().zip(other.0.iter()) {
            *word &= !out;
        }
    }

    /// Takes out all that are not in `other`.
    pub fn keep_all(&mut self, other: &PortSet) {
        for (word, kept) in self.0.iter_mut().zip(other.0.iter()) {
            *word &= kept;
        }
    }

    /// Takes `port` out.
    pub fn remove(&mut self, port: u16) {
        let (word, bit) = place(port);
        self.0[word] &= !bit;
    }

    /// Whether `port` is in it.
    pub fn contains(&self, port: u16) -> bool {
        let (word, bit) = place(port);
        self.0[word] & bit != 0
    }

    /// How many are in it.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

fn place(port: u16) -> (usize, u64) {
    (usize::from(port) / 64, 1 << (port % 64))
}

impl Default for PortSet {
    fn default() -> PortSet {
        PortSet(Box::new([0; WORDS]))
    }
}

impl FromIterator<u16> for PortSet {
    fn from_iter<I: IntoIterator<Item = u16>>(ports: I) -> PortSet {
        let mut set = PortSet::default();
        for port in ports {
            set.insert(port);
        }
        set
    }
}

impl fmt::Debug for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortSet({} ports)", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_sets_are_those_of_their_ports_one_by_one() {
        for (low, high) in [
            (0, 0),
            (0, 63),
            (1, 64),
            (5, 9),
            (63, 64),
            (1024, 65_535),
            (65_535, 65_535),
            (9, 5),
            (70, 5),
        ] {
            let one_by_one: PortSet = (low..=high).collect();
            let mut set = PortSet::default();
            set.insert_all(low, high);
            assert_eq!(set, one_by_one, "{low} to {high}");

            let other: PortSet = (0..=u16::MAX).step_by(3).collect();
            let [mut without, mut within] = [set.clone(), set];
            without.remove_all(&other);
            assert_eq!(without, (low..=high).filter(|port| port % 3 != 0).collect());
            within.keep_all(&other);
            assert_eq!(within, (low..=high).filter(|port| port % 3 == 0).collect());
        }
    }

    #[test]
    fn a_port_is_in_it_once() {
        let mut set: PortSet = [0, 63, 64, 65_535].into_iter().collect();
        assert_eq!(set.count(), 4);
        assert!(!set.insert(63) && set.insert(62));
        set.remove(64);
        set.remove(65);
        let found: Vec<_> = (0..=u16::MAX).filter(|port| set.contains(*port)).collect();
        assert_eq!(found, [0, 62, 63, 65_535]);
        assert_eq!(set.count(), 4);
    }
}
