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
