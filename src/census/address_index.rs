//! Which of some addresses one is: looked up for both ends of every socket that the kernel shows.

use std::net::SocketAddr;

use super::PortSet;

/// Some addresses, each with its number.
///
/// A table of twice their number at least, searched from where an address's bits lead to: a comparison or two,
/// where a search in a sorted list is one for each doubling of it. The addresses that are in it come from the
/// file and from name servers; one that is not in it ends at the next free place, whoever chose it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddressIndex {
    /// As many as a power of two, half of them free.
    slots: Box<[Option<(SocketAddr, usize)>]>,
    /// Their ports: most ends of sockets have none of these, and need not be looked for.
    ports: PortSet,
}

impl AddressIndex {
    /// These `addresses`, numbered from 0; of one that is there twice the first number counts.
    pub(super) fn new(addresses: impl ExactSizeIterator<Item = SocketAddr>) -> AddressIndex {
        let size = (addresses.len() * 2).next_power_of_two().max(2);
        let mut index = AddressIndex {
            slots: vec![None; size].into(),
            ports: PortSet::default(),
        };
        for (number, address) in addresses.enumerate() {
            index.ports.insert(address.port());
            let (slot, known) = index.search(&address);
            if known.is_none() {
                index.slots[slot] = Some((address, number));
            }
        }
        index
    }

    /// The number of `address`; `None` if it is not among them.
    pub(super) fn get(&self, address: &SocketAddr) -> Option<usize> {
        if !self.ports.contains(address.port()) {
            return None;
        }
        self.search(address).1
    }

    /// Where it is or would be, and its number.
    fn search(&self, address: &SocketAddr) -> (usize, Option<usize>) {
        let last = self.slots.len() - 1;
        let mut slot = scattered(address) & last;
        while let Some((known, number)) = &self.slots[slot] {
            if known == address {
                return (slot, Some(*number));
            }
            slot = (slot + 1) & last;
        }
        (slot, None)
    }
}

/// A number that neighbouring addresses do not have neighbouring ones of.
fn scattered(address: &SocketAddr) -> usize {
    /// 2^64 divided by the golden ratio, odd.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let bits = match address {
        SocketAddr::V4(address) => u64::from(address.ip().to_bits()),
        SocketAddr::V6(address) => {
            let octets = address.ip().octets();
            let [high, low] = [0, 8].map(|at| {
                let half = octets[at..].first_chunk().expect("an address has 16 bytes");
                u64::from_be_bytes(*half)
            });
            high.rotate_left(29) ^ low
        }
    };
    let product = (bits ^ u64::from(address.port()) << 40).wrapping_mul(SPREAD);
    // The upper half depends on all bits.
    usize::try_from(product >> 32).expect("32 bits fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_number_and_no_other_has_one() {
        for many in [0_u16, 1, 2, 3, 64, 1000] {
            let addresses: Vec<SocketAddr> = (0..many)
                .map(|n| match n % 3 {
                    0 => format!("10.0.{}.{}:80", n / 256, n % 256),
                    1 => format!("10.0.0.1:{n}"),
                    _ => format!("[2001:db8::{n:x}]:80"),
                })
                .map(|text| text.parse().unwrap())
                .collect();
            let index = AddressIndex::new(addresses.iter().copied());
            for (number, address) in addresses.iter().enumerate() {
                assert_eq!(index.get(address), Some(number), "{address} of {many}");
            }
            for n in 0..many {
                let other = format!("10.1.{}.{}:80", n / 256, n % 256);
                assert_eq!(index.get(&other.parse().unwrap()), None);
            }
        }
    }

    #[test]
    fn of_an_address_that_is_there_twice_the_first_counts() {
        let address: SocketAddr = "10.0.0.1:80".parse().unwrap();
        let index = AddressIndex::new([address, address].into_iter());
        assert_eq!(index.get(&address), Some(0));
    }
}
