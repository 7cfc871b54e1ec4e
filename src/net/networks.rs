//! Sets of IP addresses, written as networks: who may introduce clients, whose word counts.

use std::fmt;
use std::net::IpAddr;

/// All addresses that begin with the same bits: `10.0.0.0/8`. Source: RFC 4632 §3.1, RFC 4291 §2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// The first of them.
    address: IpAddr,
    /// How many bits they have in common.
    bits: u8,
}

/// Several of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// What is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNetwork {
    /// The address has fewer bits than are to be the same.
    #[error("an address of this kind has {0} bits")]
    TooLong(u8),
    /// Bits behind the common ones are set: it may be the address or the length that is mistaken.
    #[error("the network is called `{0}`")]
    Within(Network),
}

impl Network {
    /// Those that have their first `bits` bits in common with `address`.
    ///
    /// # Errors
    /// When the address has no such many bits, or others of it are set.
    pub fn new(address: IpAddr, bits: u8) -> Result<Network, NoNetwork> {
        let width = width(address);
        if bits > width {
            return Err(NoNetwork::TooLong(width));
        }
        // 96 bits stand before an IPv4 address that is written as one of IPv6.
        let (address, bits) = match (address.to_canonical(), bits.checked_sub(96)) {
            (IpAddr::V4(short), Some(bits)) if width == 128 => (IpAddr::V4(short), bits),
            _ => (address, bits),
        };
        let network = Network {
            address: first(address, bits),
            bits,
        };
        if network.address == address {
            Ok(network)
        } else {
            Err(NoNetwork::Within(network))
        }
    }

    /// This address alone.
    pub fn of_one(address: IpAddr) -> Network {
        let address = address.to_canonical();
        Network {
            address,
            bits: width(address),
        }
    }

    /// Whether `address` is one of them, in whatever notation.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && first(address, self.bits) == self.address
    }
}

impl Networks {
    /// All addresses of these.
    pub fn new(networks: Vec<Network>) -> Networks {
        Networks(networks)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` is in one of them.
    pub fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// How many bits an address has.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The address with only its first `bits` bits.
fn first(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_as_it_does() {
        for (network, bits, inside, outside) in [
            ("10.0.0.0", 8, "10.255.0.1", "11.0.0.0"),
            ("192.168.4.0", 22, "192.168.7.255", "192.168.8.0"),
            ("192.0.2.7", 32, "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7", 32, "::ffff:192.0.2.7", "::ffff:192.0.2.6"),
            ("0.0.0.0", 0, "255.255.255.255", "::1"),
            ("::", 0, "ffff::1", "127.0.0.1"),
            ("2001:db8::", 32, "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:db8::1", 128, "2001:db8::1", "2001:db8::2"),
            ("::ffff:10.0.0.0", 104, "10.1.2.3", "11.0.0.1"),
        ] {
            let network = Network::new(ip(network), bits).unwrap();
            assert!(network.contains(ip(inside)), "{inside} is in {network}");
            assert!(!network.contains(ip(outside)), "{outside} not in {network}");
        }
        assert!(Network::of_one(ip("::ffff:10.0.0.1")).contains(ip("10.0.0.1")));
        let two = Networks::new(vec![
            Network::of_one(ip("::1")),
            Network::new(ip("10.0.0.0"), 8).unwrap(),
        ]);
        assert!(two.contain(ip("::1")) && two.contain(ip("10.0.0.1")));
        assert!(!two.contain(ip("127.0.0.1")) && !Networks::default().contain(ip("::1")));
    }

    #[test]
    fn what_is_no_network_is_told_the_one_that_is_probably_meant() {
        for (address, bits, said) in [
            ("10.0.0.1", 8, "the network is called `10.0.0.0/8`"),
            ("2001:db8::1", 64, "the network is called `2001:db8::/64`"),
            ("10.0.0.0", 33, "an address of this kind has 32 bits"),
            ("::", 129, "an address of this kind has 128 bits"),
        ] {
            let wrong = Network::new(ip(address), bits).unwrap_err();
            assert_eq!(wrong.to_string(), said);
        }
    }
}
