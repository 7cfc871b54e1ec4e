//! The kernel's settings that decide how far the ports reach: read from `/proc/sys`, and in one
//! line for the head of every report.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};

use super::PortSet;

/// The settings a figure about TIME_WAIT cannot be read without.
///
/// They belong to a network namespace; `/proc/sys/net` shows those of the reading thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctls {
    /// The ports an outgoing connection may get.
    pub port_range: PortRange,
    /// When a port in TIME_WAIT may be taken again.
    pub tw_reuse: TwReuse,
    /// How many sockets may be in TIME_WAIT; those beyond skip the state.
    pub max_tw_buckets: u32,
}

/// `net.ipv4.ip_local_port_range`: both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The lowest port.
    pub low: u16,
    /// The highest port, not below `low`.
    pub high: u16,
}

/// `net.ipv4.tcp_tw_reuse`: whether a new connection may take the port of one in TIME_WAIT that
/// is older than a second, to the same destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TwReuse {
    /// 0: never.
    Never,
    /// 1: to every destination.
    Everywhere,
    /// 2: over loopback only; the default since Linux 4.19.
    LoopbackOnly,
    /// A value this program has not heard of.
    Other(u8),
}

/// Everything that decides how many connections there can be to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The three without which no figure can be read.
    pub sysctls: Sysctls,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub reserved: ReservedPorts,
    /// `net.ipv4.tcp_timestamps`: whether it is on, without which `tcp_tw_reuse` does nothing.
    pub timestamps: bool,
}

/// `net.ipv4.ip_local_reserved_ports`: ports that no connection gets by itself, though they are in
/// the range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReservedPorts(Vec<PortRange>);

/// What was wrong with the text of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SysctlError {
    /// Not the number, or numbers, it should be.
    #[error("{0} is not of the expected form")]
    Form(&'static str),
    /// The range ends before it begins.
    #[error("ip_local_port_range ends at {high}, before it begins at {low}")]
    Backwards {
        /// Where it begins.
        low: u16,
        /// Where it ends.
        high: u16,
    },
}

impl Sysctls {
    /// Reads them for the calling thread's network namespace.
    ///
    /// # Errors
    /// When a file cannot be read, or says something else than expected
    /// ([`io::ErrorKind::InvalidData`] around a [`SysctlError`]).
    pub fn read() -> io::Result<Sysctls> {
        let text = |name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"));
        Sysctls::parse(
            &text("ip_local_port_range")?,
            &text("tcp_tw_reuse")?,
            &text("tcp_max_tw_buckets")?,
        )
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Understands the contents of the three files.
    ///
    /// # Errors
    /// [`SysctlError`] names the setting.
    pub fn parse(
        port_range: &str,
        tw_reuse: &str,
        max_tw_buckets: &str,
    ) -> Result<Sysctls, SysctlError> {
        Ok(Sysctls {
            port_range: PortRange::parse(port_range)?,
            tw_reuse: match number(tw_reuse, "tcp_tw_reuse")? {
                0 => TwReuse::Never,
                1 => TwReuse::Everywhere,
                2 => TwReuse::LoopbackOnly,
                other => TwReuse::Other(other),
            },
            max_tw_buckets: number(max_tw_buckets, "tcp_max_tw_buckets")?,
        })
    }
}

impl Limits {
    /// Reads them for the calling thread's network namespace.
    ///
    /// # Errors
    /// As [`Sysctls::read`].
    pub fn read() -> io::Result<Limits> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let timestamps = fs::read_to_string("/proc/sys/net/ipv4/tcp_timestamps")?;
        let timestamps: u8 = number(&timestamps, "tcp_timestamps").map_err(invalid)?;
        Ok(Limits {
            sysctls: Sysctls::read()?,
            reserved: ReservedPorts::parse(&read_at_once(
                "/proc/sys/net/ipv4/ip_local_reserved_ports",
            )?)
            .map_err(invalid)?,
            // 2: on, without an offset drawn at random for each connection.
            timestamps: timestamps != 0,
        })
    }

    /// The ports an outgoing connection may get, but for those that are listened on.
    pub fn given(&self, listened: &PortSet) -> PortSet {
        let PortRange { low, high } = self.sysctls.port_range;
        let mut given = PortSet::default();
        given.insert_all(low, high);
        let mut reserved = PortSet::default();
        for range in &self.reserved.0 {
            reserved.insert_all(range.low, range.high);
        }
        given.remove_all(&reserved);
        given.remove_all(listened);
        given
    }

    /// How many ports an outgoing connection may get.
    pub fn ports(&self) -> u32 {
        let PortRange { low, high } = self.sysctls.port_range;
        let given = (low..=high).filter(|port| !self.reserved.contains(*port));
        u32::try_from(given.count()).expect("there are 65,536 ports at most")
    }
}

/// Reads a file whole in one read: of the list of reserved ports the kernel gives only what fits
/// into the first one, and `fs::read_to_string` begins with 32 bytes.
fn read_at_once(path: &str) -> io::Result<String> {
    /// 32,768 ports that are no neighbours, with 5 digits and a comma each.
    const LONGEST: usize = 32_768 * 6;
    /// What nearly all need. The kernel has memory cleared for as much as may be read, and so has the allocator:
    /// with `LONGEST` at once that was a sixth of what a sample with 30,000 sockets cost.
    const MOSTLY: usize = 4096;
    let mut text = vec![0; MOSTLY];
    let mut length = File::open(path)?.read(&mut text)?;
    if length == MOSTLY {
        text.resize(LONGEST, 0);
        length = File::open(path)?.read(&mut text)?;
    }
    text.truncate(length);
    String::from_utf8(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

impl ReservedPorts {
    /// Reads `8080,9148-9150`; nothing is no port.
    ///
    /// # Errors
    /// [`SysctlError`] when it is anything else.
    pub fn parse(text: &str) -> Result<ReservedPorts, SysctlError> {
        let parts = text.trim_ascii().split(',').filter(|part| !part.is_empty());
        let ranges = parts.map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            Ok(PortRange {
                low: number(low, "ip_local_reserved_ports")?,
                high: number(high, "ip_local_reserved_ports")?,
            })
        });
        Ok(ReservedPorts(ranges.collect::<Result<_, _>>()?))
    }

    /// Whether `port` is reserved.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(port))
    }
}

impl PortRange {
    /// Whether `port` is in it.
    pub fn contains(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }

    /// Reads `32768\t60999`.
    ///
    /// # Errors
    /// [`SysctlError::Form`] unless it is two ports, [`SysctlError::Backwards`] when the first is
    /// the higher one.
    pub fn parse(text: &str) -> Result<PortRange, SysctlError> {
        let wrong = SysctlError::Form("ip_local_port_range");
        let mut ports = text.split_ascii_whitespace();
        let (Some(low), Some(high), None) = (ports.next(), ports.next(), ports.next()) else {
            return Err(wrong);
        };
        let low = low.parse().map_err(|_| wrong)?;
        let high = high.parse().map_err(|_| wrong)?;
        if low > high {
            return Err(SysctlError::Backwards { low, high });
        }
        Ok(PortRange { low, high })
    }

    /// How many ports there are, before reserved ones are taken away.
    pub fn ports(&self) -> u32 {
        u32::from(self.high) - u32::from(self.low) + 1
    }
}

impl fmt::Display for Sysctls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortRange { low, high } = self.port_range;
        let ports = self.port_range.ports();
        write!(f, "ip_local_port_range {low}-{high} ({ports} ports), ")?;
        match self.tw_reuse {
            TwReuse::Never => f.write_str("tcp_tw_reuse 0 (never)")?,
            TwReuse::Everywhere => f.write_str("tcp_tw_reuse 1 (everywhere)")?,
            TwReuse::LoopbackOnly => f.write_str("tcp_tw_reuse 2 (loopback only)")?,
            TwReuse::Other(value) => write!(f, "tcp_tw_reuse {value}")?,
        }
        write!(f, ", tcp_max_tw_buckets {}", self.max_tw_buckets)
    }
}

fn number<N: std::str::FromStr>(text: &str, name: &'static str) -> Result<N, SysctlError> {
    text.trim_ascii()
        .parse()
        .map_err(|_| SysctlError::Form(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_one_line() {
        let sysctls = Sysctls::parse("32768\t60999\n", "2\n", "131072\n").unwrap();
        assert_eq!(sysctls.port_range.ports(), 28_232);
        assert_eq!(
            sysctls.to_string(),
            "ip_local_port_range 32768-60999 (28232 ports), tcp_tw_reuse 2 (loopback only), \
             tcp_max_tw_buckets 131072"
        );
    }

    #[test]
    fn every_value_of_tw_reuse_is_understood() {
        for (text, expected) in [
            ("0", TwReuse::Never),
            ("1", TwReuse::Everywhere),
            ("2", TwReuse::LoopbackOnly),
            ("7", TwReuse::Other(7)),
        ] {
            let sysctls = Sysctls::parse("1 65535", text, "0").unwrap();
            assert_eq!(sysctls.tw_reuse, expected);
        }
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let form = |name| Err(SysctlError::Form(name));
        for (range, reuse, buckets, error) in [
            ("", "2", "1", form("ip_local_port_range")),
            ("1", "2", "1", form("ip_local_port_range")),
            ("1 2 3", "2", "1", form("ip_local_port_range")),
            ("1 65536", "2", "1", form("ip_local_port_range")),
            (
                "9 8",
                "2",
                "1",
                Err(SysctlError::Backwards { low: 9, high: 8 }),
            ),
            ("1 2", "yes", "1", form("tcp_tw_reuse")),
            ("1 2", "2", "-1", form("tcp_max_tw_buckets")),
        ] {
            assert_eq!(Sysctls::parse(range, reuse, buckets), error);
        }
    }

    #[test]
    fn reserved_ports_are_not_given() {
        let limits = |range, reserved| Limits {
            sysctls: Sysctls::parse(range, "2", "1").unwrap(),
            reserved: ReservedPorts::parse(reserved).unwrap(),
            timestamps: true,
        };
        for (range, reserved, ports) in [
            ("32768 60999", "\n", 28_232),
            ("32768 60999", "8080,9148-9150\n", 28_232), // not in the range
            ("32768 60999", "8080,32760-32770,40000\n", 28_228),
            ("40000 40009", "1-65535", 0),
            ("1 65535", "", 65_535),
        ] {
            assert_eq!(limits(range, reserved).ports(), ports, "{reserved}");
        }
        let limits = limits("100 200", "150-160");
        let given = limits.given(&[100, 300].into_iter().collect());
        let given = [99, 100, 101, 149, 150, 160, 161, 200, 201].map(|port| given.contains(port));
        assert_eq!(
            given,
            [false, false, true, true, false, false, true, true, false]
        );
        let form = SysctlError::Form("ip_local_reserved_ports");
        assert_eq!(ReservedPorts::parse("1-x"), Err(form));
    }

    #[test]
    fn this_machine_has_them() {
        assert!(Sysctls::read().unwrap().port_range.ports() > 0);
        assert!(Limits::read().unwrap().ports() > 0);
    }
}
