//! What is set on a socket towards a backend before it connects.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpSocket;

use super::sockopt;

/// The longest idle time and interval of probes. Source: Linux, `include/net/tcp.h`,
/// `MAX_TCP_KEEPIDLE`, `MAX_TCP_KEEPINTVL`.
pub const LONGEST_KEEPALIVE: Duration = Duration::from_secs(32_767);

/// The longest name of a device: `IFNAMSIZ` without the zero byte.
pub const LONGEST_DEVICE: usize = 15;

/// What is asked for of sockets towards backends. `TCP_NODELAY` is always on: requests are written
/// whole, and Nagle's algorithm would keep the last piece back until the one before is
/// acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// The local ports to connect from; `None`: those of `net.ipv4.ip_local_port_range`.
    ///
    /// `IP_LOCAL_PORT_RANGE`, Linux 6.3. Each end that lies outside of the system's range is that of
    /// the system's; a range wholly outside would be ignored, so a start with one fails.
    ///
    /// Default: none. Source: Pingora, `PeerOptions`; `HAProxy`, `server … source addr:low-high`.
    pub source_ports: Option<PortRange>,

    /// Probes that find out whether a silent backend is still there: `SO_KEEPALIVE`.
    ///
    /// Default: none. With the default settings no connection is silent for longer than 60 s:
    /// `keep_alive_timeout` ends the idle ones, `timeout` the others. Source: nginx,
    /// `proxy_socket_keepalive` (off).
    pub keepalive: Option<Probes>,

    /// How long what was sent may stay unacknowledged before the kernel gives the connection up:
    /// `TCP_USER_TIMEOUT`. It replaces the number of probes as well. `None`: the kernel's, about 15
    /// minutes (`tcp_retries2`).
    ///
    /// Default: none, as `timeout` ends an exchange that makes no progress. Source: `HAProxy`,
    /// `tcp-ut`.
    pub user_timeout: Option<Duration>,

    /// The mark of its packets, for routing and packet filters: `SO_MARK`, which needs
    /// `CAP_NET_ADMIN`. 0 is none.
    ///
    /// Default: 0. Source: `HAProxy`, `set-bc-mark`; Envoy, `SO_MARK` in `socket_options`.
    pub mark: u32,

    /// The class of service of its packets, 0 to 63: `IP_TOS`, `IPV6_TCLASS`. 0 is best effort.
    ///
    /// Default: 0. Source: RFC 2474; `HAProxy`, `set-bc-tos`.
    pub dscp: u8,

    /// The network device that its packets go out by: `SO_BINDTODEVICE`. Also the name of a VRF.
    ///
    /// Default: whichever the routing table says. Source: `HAProxy`, `interface`.
    pub device: Option<String>,

    /// Whether the first bytes go out with the SYN, to a backend that has given a cookie before:
    /// `TCP_FASTOPEN_CONNECT`, RFC 7413. It saves a round trip of each new connection.
    ///
    /// Only for backends with TLS: what goes with a SYN may arrive twice, which does no harm to a
    /// handshake, and might be a POST otherwise.
    ///
    /// Default: off. Source: `HAProxy`, `server … tfo`.
    pub fast_open: bool,
}

/// When a silent peer is asked whether it is there. The kernel counts in whole seconds: parts of one
/// are rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// How long nothing has been heard before the first.
    pub idle: Duration,
    /// From one to the next.
    pub interval: Duration,
    /// So many without an answer, and the connection is given up. At least 1.
    pub count: u32,
}

impl Probes {
    /// The default of [`interval`](Self::interval): Go's `net.KeepAliveConfig`.
    pub const INTERVAL: Duration = Duration::from_secs(15);
    /// The default of [`count`](Self::count): a dead peer is known 45 s after the first probe.
    pub const COUNT: u32 = 3;
}

/// A range of ports; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// The lowest, not 0.
    pub low: u16,
    /// The highest, not below `low`.
    pub high: u16,
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.low, self.high)
    }
}

/// Why a socket cannot be as it is asked for.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// The kernel would ignore the range.
    #[error(
        "source_port_range {asked} has no port of net.ipv4.ip_local_port_range, {system}, so the \
         kernel would ignore it: choose ports of that range, or widen it"
    )]
    PortsOutside {
        /// What is asked for.
        asked: PortRange,
        /// What the system has.
        system: PortRange,
    },
    /// The address cannot be connected from.
    #[error("source address {address}: {source}; is it an address of this machine?")]
    Source {
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refuses an option.
    #[error("{setting}: {source}{}", hint(setting, source))]
    Refused {
        /// The setting.
        setting: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether an address is one of this machine: one that a socket can be bound to.
pub fn is_here(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// What an errno means for a setting, where that is not obvious.
fn hint(setting: &str, error: &io::Error) -> &'static str {
    match (setting, error.raw_os_error()) {
        ("mark", Some(libc::EPERM)) => " (SO_MARK needs CAP_NET_ADMIN)",
        ("source_port_range", Some(libc::ENOPROTOOPT)) => " (it needs Linux 6.3)",
        ("bind_device", Some(libc::EPERM)) => " (before Linux 5.7 it needs CAP_NET_RAW)",
        ("bind_device", Some(libc::ENODEV)) => " (`ip link` lists those there are)",
        _ => "",
    }
}

impl From<OptionError> for io::Error {
    fn from(error: OptionError) -> io::Error {
        match error {
            OptionError::Refused { source, .. } | OptionError::Source { source, .. } => source,
            OptionError::PortsOutside { .. } => io::Error::other(error),
        }
    }
}

impl SocketOptions {
    /// Finds out whether sockets to `backend`, from each of `sources` of its family, can be so: at the
    /// start, where it is seen, rather than at the first connection.
    ///
    /// # Errors
    /// [`OptionError`] says which setting it is.
    pub fn check(&self, backend: SocketAddr, sources: &[IpAddr]) -> Result<(), OptionError> {
        if let Some(asked) = self.source_ports
            && let Some(system) = system_ports()
            && (asked.high < system.low || system.high < asked.low)
        {
            return Err(OptionError::PortsOutside { asked, system });
        }
        let fits = |source: &&IpAddr| source.is_ipv4() == backend.is_ipv4();
        let sources = sources.iter().filter(fits).copied().map(Some);
        for source in sources.chain([None]) {
            // Where there are no sockets of this family, connecting will say so.
            if let Ok(socket) = new_socket(backend) {
                self.prepare(&socket, backend, source)?;
            }
        }
        Ok(())
    }

    /// Makes a socket that is about to connect to `backend` so, and binds it to `source`.
    pub(super) fn prepare(
        &self,
        socket: &TcpSocket,
        backend: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<(), OptionError> {
        let refused = |setting| move |source: io::Error| OptionError::Refused { setting, source };
        match self.source_ports {
            Some(ports) => sockopt::local_ports(socket, ports.low, ports.high),
            None => sockopt::any_local_port(socket),
        }
        .map_err(refused("source_port_range"))?;
        let set = SockRef::from(socket);
        if let Some(probes) = self.keepalive {
            probes.set(&set).map_err(refused("tcp_keepalive"))?;
        }
        if self.user_timeout.is_some() {
            set.set_tcp_user_timeout(self.user_timeout)
                .map_err(refused("tcp_user_timeout"))?;
        }
        if self.mark != 0 {
            set.set_mark(self.mark).map_err(refused("mark"))?;
        }
        if self.dscp != 0 {
            let class = u32::from(self.dscp) << 2;
            match backend {
                SocketAddr::V4(_) => set.set_tos_v4(class),
                SocketAddr::V6(_) => set.set_tclass_v6(class),
            }
            .map_err(refused("dscp"))?;
        }
        if let Some(device) = &self.device {
            set.bind_device(Some(device.as_bytes()))
                .map_err(refused("bind_device"))?;
        }
        if self.fast_open {
            sockopt::fast_open(socket).map_err(refused("tcp_fastopen"))?;
        }
        if let Some(address) = source {
            sockopt::bind_address_no_port(socket)
                .and_then(|()| socket.bind(SocketAddr::new(address, 0)))
                .map_err(|source| OptionError::Source { address, source })?;
        }
        Ok(())
    }
}

impl Probes {
    fn set(&self, socket: &SockRef<'_>) -> io::Result<()> {
        let whole = |time: Duration| {
            Duration::from_secs(time.as_secs() + u64::from(time.subsec_nanos() > 0))
        };
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(whole(self.idle))
                .with_interval(whole(self.interval))
                .with_retries(self.count),
        )
    }
}

/// A socket to connect to `backend` with.
pub(super) fn new_socket(backend: SocketAddr) -> io::Result<TcpSocket> {
    match backend {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }
}

/// `net.ipv4.ip_local_port_range`, which is for IPv6 too, of the calling thread's network namespace.
fn system_ports() -> Option<PortRange> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let (low, high) = text.trim_ascii().split_once('\t')?;
    Some(PortRange {
        low: low.parse().ok()?,
        high: high.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn options() -> SocketOptions {
        SocketOptions::default()
    }

    /// What the kernel says of a socket that was made so, connected to a listener on `host`.
    fn connected<T>(options: &SocketOptions, host: &str, ask: impl Fn(SockRef<'_>) -> T) -> T {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let backend = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        runtime.block_on(async {
            let socket = new_socket(backend).unwrap();
            options.prepare(&socket, backend, None).unwrap();
            let stream = socket.connect(backend).await.unwrap();
            ask(SockRef::from(&stream))
        })
    }

    #[test]
    fn probes_are_set_in_whole_seconds() {
        let ask = |socket: SockRef<'_>| {
            (
                socket.keepalive().unwrap(),
                socket.tcp_keepalive_time().unwrap().as_secs(),
                socket.tcp_keepalive_interval().unwrap().as_secs(),
                socket.tcp_keepalive_retries().unwrap(),
            )
        };
        assert!(!connected(&options(), "127.0.0.1", ask).0);
        let probes = Probes {
            idle: Duration::from_millis(1),
            interval: Duration::from_millis(6001),
            count: 5,
        };
        let with_probes = SocketOptions {
            keepalive: Some(probes),
            ..options()
        };
        assert_eq!(connected(&with_probes, "127.0.0.1", ask), (true, 1, 7, 5));
        let longest = Probes {
            idle: LONGEST_KEEPALIVE,
            interval: LONGEST_KEEPALIVE,
            count: 127,
        };
        let with_probes = SocketOptions {
            keepalive: Some(longest),
            ..options()
        };
        let (_, idle, interval, count) = connected(&with_probes, "127.0.0.1", ask);
        assert_eq!((idle, interval, count), (32_767, 32_767, 127));
    }

    #[test]
    fn the_time_without_an_acknowledgement_is_set() {
        let ask = |socket: SockRef<'_>| socket.tcp_user_timeout().unwrap();
        assert_eq!(connected(&options(), "127.0.0.1", ask), None);
        let user_timeout = Some(Duration::from_millis(1234));
        let impatient = SocketOptions {
            user_timeout,
            ..options()
        };
        assert_eq!(connected(&impatient, "127.0.0.1", ask), user_timeout);
    }

    #[test]
    fn the_class_of_service_is_set_for_both_families() {
        let expedited = SocketOptions {
            dscp: 46,
            ..options()
        };
        for options in [options(), expedited] {
            let class = u32::from(options.dscp) << 2;
            let v4 = connected(&options, "127.0.0.1", |socket| socket.tos_v4().unwrap());
            assert_eq!(v4, class);
            if TcpListener::bind("[::1]:0").is_ok() {
                let v6 = connected(&options, "::1", |socket| socket.tclass_v6().unwrap());
                assert_eq!(v6, class);
            }
        }
    }

    #[test]
    fn ports_are_of_the_range() {
        let system = system_ports().expect("Linux has the setting");
        let low = system.low + (system.high - system.low) / 2;
        let ports = PortRange { low, high: low + 9 };
        let few = SocketOptions {
            source_ports: Some(ports),
            ..options()
        };
        let has_v6 = TcpListener::bind("[::1]:0").is_ok();
        let hosts = ["127.0.0.1", if has_v6 { "::1" } else { "127.0.0.1" }];
        for host in hosts.iter().cycle().take(20) {
            let port = connected(&few, host, |socket| {
                socket.local_addr().unwrap().as_socket().unwrap().port()
            });
            assert!((ports.low..=ports.high).contains(&port), "{host}: {port}");
        }
        let backend = "127.0.0.1:1".parse().unwrap();
        few.check(backend, &[]).unwrap();
        // A range that the kernel would ignore.
        let outside = match system.low {
            0..=1 => return,
            low => PortRange {
                low: low - 1,
                high: low - 1,
            },
        };
        let outside = SocketOptions {
            source_ports: Some(outside),
            ..options()
        };
        let error = outside.check(backend, &[]).unwrap_err();
        assert!(matches!(error, OptionError::PortsOutside { .. }), "{error}");
    }

    #[test]
    fn what_cannot_be_is_known_before_anything_connects() {
        let backend = "127.0.0.1:1".parse().unwrap();
        let nowhere = SocketOptions {
            device: Some("no-such-device".to_owned()),
            ..options()
        };
        let said = nowhere.check(backend, &[]).unwrap_err().to_string();
        assert!(said.starts_with("bind_device: "), "{said}");

        // TEST-NET-1, RFC 5737: nobody's.
        let foreign = "192.0.2.1".parse().unwrap();
        let said = options()
            .check(backend, &[foreign])
            .unwrap_err()
            .to_string();
        assert!(said.starts_with("source address 192.0.2.1: "), "{said}");
        // It is not a source for a backend of the other family.
        let v6 = "[::1]:1".parse().unwrap();
        options().check(v6, &[foreign]).unwrap();
        options()
            .check(backend, &["127.0.4.1".parse().unwrap()])
            .unwrap();
    }

    #[test]
    fn a_mark_is_set_or_its_lack_of_permission_is_said() {
        let marked = SocketOptions {
            mark: 0x77,
            ..options()
        };
        let backend = "127.0.0.1:1".parse().unwrap();
        match marked.check(backend, &[]) {
            Ok(()) => {
                let mark = connected(&marked, "127.0.0.1", |socket| socket.mark().unwrap());
                assert_eq!(mark, 0x77);
                let none = connected(&options(), "127.0.0.1", |socket| socket.mark().unwrap());
                assert_eq!(none, 0);
            }
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("CAP_NET_ADMIN"), "{said}");
                eprintln!("SKIPPED reading a mark back: {said}");
            }
        }
    }

    #[test]
    fn a_device_is_bound_to() {
        let local = SocketOptions {
            device: Some("lo".to_owned()),
            ..options()
        };
        let device = connected(&local, "127.0.0.1", |socket| socket.device().unwrap());
        assert_eq!(device.as_deref(), Some(&b"lo"[..]));
        let none = connected(&options(), "127.0.0.1", |socket| socket.device().unwrap());
        assert_eq!(none, None);
    }
}
