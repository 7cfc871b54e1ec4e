//! Socket options of Linux that no crate sets safely yet, a descriptor that a runtime watches, and a thread's
//! own namespaces. The only file of the library with `unsafe` in it.

#![expect(
    unsafe_code,
    reason = "each option passes one integer that lives on the stack, and its size; the runtime owns the \
              descriptor that it watches; a namespace of its own takes no memory or descriptor from a thread"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the current runtime watch a descriptor for reading.
///
/// # Errors
/// The kernel's.
pub(super) fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open for as long as it lives, is always the same, and moves in here.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}

/// `IP_LOCAL_PORT_RANGE`, Linux 6.3. Source: `include/uapi/linux/in.h`.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// Lets `connect` choose from the whole range of `net.ipv4.ip_local_port_range` without looking at
/// the even ports first.
///
/// Without this a `connect` to an address that half of the range is already in use for searches all
/// even ports in vain: 2.2 ms of CPU instead of 16 µs (28,232 ports, Linux 6.18). The bounds are
/// clamped to the system's, and reserved ports stay reserved. A kernel without it is left as it is.
///
/// # Errors
/// The kernel's, other than that it does not know the option.
pub(super) fn any_local_port(socket: &impl AsFd) -> io::Result<()> {
    match local_ports(socket, 1, u16::MAX) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

/// Lets `connect` choose from these ports only, both ends included, as far as the system's range has
/// them.
///
/// Each end is looked at alone: one outside of the system's range is replaced by the system's. A range
/// wholly outside is ignored. Source: Linux, `inet_sk_get_local_port_range`; seen on 6.18.
///
/// # Errors
/// The kernel's; `ENOPROTOOPT` before Linux 6.3.
pub(super) fn local_ports(socket: &impl AsFd, low: u16, high: u16) -> io::Result<()> {
    let range = u32::from(high) << 16 | u32::from(low);
    set(
        socket,
        libc::IPPROTO_IP,
        IP_LOCAL_PORT_RANGE,
        range.cast_signed(),
    )
}

/// Lets a socket be bound to an address without taking a port for it: `connect` takes one then, and
/// may take one that is in use towards another destination. Without this, bound sockets exhaust one
/// range for all destinations, and for every other program of the host.
///
/// # Errors
/// The kernel's.
pub(super) fn bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
}

/// Makes the close of a socket a FIN, and a reset as soon as that is acknowledged: nothing is left
/// in `FIN_WAIT2` or `TIME_WAIT`, on either side, and all that was sent still arrives.
///
/// # Errors
/// The kernel's.
pub(super) fn reset_after_fin(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, -1)
}

/// Makes `connect` send nothing, if a cookie of the peer is there: what is written first goes out
/// with the SYN, and what would fail a `connect` fails that.
///
/// # Errors
/// The kernel's.
pub(super) fn fast_open(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
}

/// How many bytes were sent and not acknowledged yet, or not even sent; a FIN counts as one. 0 before the
/// handshake is over.
///
/// `SIOCOUTQ` is what `TCP_INFO` says in two fields, `unacked` (in segments) and `notsent_bytes`, in one
/// number: `write_seq - snd_una` (Linux, `tcp_ioctl`). It is exact to the byte where a segment is
/// acknowledged in part, and costs 0.3 µs instead of 0.55 (Linux 6.18). A test holds the two against
/// each other.
///
/// # Errors
/// The kernel's.
pub(super) fn outstanding(socket: &impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    let pointer: *mut libc::c_int = &raw mut bytes;
    // SAFETY: the descriptor is open as long as it is borrowed, and SIOCOUTQ (TIOCOUTQ) writes one
    // int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, pointer) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u32::try_from(bytes).unwrap_or(0))
}

/// What the kernel measured of the way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathFacts {
    /// The round trip, smoothed.
    pub round_trip: Duration,
    /// Segments that were sent again, of all that were sent.
    pub retransmits: u32,
}

/// What the kernel measured of the way to the peer, as long as the connection is there.
///
/// Source: `TCP_INFO`, `include/uapi/linux/tcp.h`: numbers of 32 bits after the first eight bytes, of which
/// a kernel writes as many as it knows and there is room for.
///
/// # Errors
/// The kernel's.
pub(super) fn path_facts(socket: &impl AsFd) -> io::Result<PathFacts> {
    const RTT: usize = 17;
    const TOTAL_RETRANS: usize = 25;
    let mut words = [0_u32; TOTAL_RETRANS + 1];
    let mut size = libc::socklen_t::try_from(size_of_val(&words)).expect("some hundred bytes");
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes at most `size` bytes
    // to the pointer, which are the array's.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            words.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PathFacts {
        round_trip: Duration::from_micros(words[RTT].into()),
        retransmits: words[TOTAL_RETRANS],
    })
}

/// Whether the connection is open both ways: neither FIN has gone or come. The order in which they do is
/// what decides who has the TIME_WAIT, and it shows in no other way: a FIN behind data that nobody has read
/// yet is not to be seen by reading.
///
/// Source: `TCP_INFO`, whose first byte is the state; `include/net/tcp_states.h`, `TCP_ESTABLISHED`.
pub(super) fn is_established(socket: &impl AsFd) -> bool {
    const ESTABLISHED: u8 = 1;
    let mut state = 0_u8;
    let mut size: libc::socklen_t = 1;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes at most `size` bytes
    // to the pointer, which is one.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut size,
        )
    };
    result == 0 && state == ESTABLISHED
}

/// Gives the calling thread a new network namespace, which the threads and programs it starts from now on
/// share. Sockets that are open stay where they are.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` with too many namespaces (`user.max_net_namespaces`).
pub fn own_network() -> io::Result<()> {
    unshare(libc::CLONE_NEWNET)
}

/// Has the next program that the calling thread starts be the first of a new PID namespace, which those after it
/// share. When the first ends the kernel kills the others. The thread can start no threads any more.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`; `ENOSPC` with too many namespaces (`user.max_pid_namespaces`).
pub fn own_processes() -> io::Result<()> {
    unshare(libc::CLONE_NEWPID)
}

fn unshare(what: libc::c_int) -> io::Result<()> {
    // SAFETY: these namespaces alone leave the thread its memory and its table of descriptors.
    let result = unsafe { libc::unshare(what) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A new network device in the calling thread's network namespace, down and without an address. What the kernel
/// sends out on it is read here, packet by packet, and what is written here comes in on it. It goes with
/// the file. Reads do not wait.
///
/// Shape: an IP packet without anything in front (`IFF_NO_PI`), whole, with its checksum.
/// Source: Linux, `Documentation/networking/tuntap.rst`.
///
/// # Errors
/// The kernel's: `ENOENT` without its module, `EPERM` without `CAP_NET_ADMIN`, `EINVAL` for a name of more than 15
/// bytes.
pub fn tunnel(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    // SAFETY: the struct is numbers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the zero that ends it.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two low bits");
    let pointer: *mut libc::ifreq = &raw mut request;
    // SAFETY: the file is open, and TUNSETIFF reads and writes one ifreq, which lives on the stack.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, pointer) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

fn set(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(&value)).expect("four bytes");
    let pointer: *const libc::c_int = &raw const value;
    // SAFETY: the descriptor is open as long as it is borrowed, and the kernel reads `size` bytes
    // from the pointer, which are the value's.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            pointer.cast(),
            size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};

    use socket2::SockRef;
    use tokio::time::Instant;

    use super::*;

    /// `tcpi_unacked` and `tcpi_notsent_bytes`.
    fn tcp_info(socket: &impl AsFd) -> (u32, u32) {
        let info = whole_info(socket);
        (info.tcpi_unacked, info.tcpi_notsent_bytes)
    }

    fn whole_info(socket: &impl AsFd) -> libc::tcp_info {
        // SAFETY: the struct is plain numbers, for which all zeros is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut size = libc::socklen_t::try_from(size_of_val(&info)).unwrap();
        let pointer: *mut libc::tcp_info = &raw mut info;
        // SAFETY: the descriptor is open as long as it is borrowed, and the kernel writes at most
        // `size` bytes to the pointer, which are the struct's.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                pointer.cast(),
                &raw mut size,
            )
        };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        info
    }

    #[test]
    fn the_round_trip_is_the_one_tcp_info_has() {
        let (mut one, mut other) = pair();
        one.write_all(b"a").unwrap();
        other.read_exact(&mut [0]).unwrap();
        assert_outstanding(&one, 0);
        let (facts, info) = (path_facts(&one).unwrap(), whole_info(&one));
        assert!(info.tcpi_rtt > 0);
        assert_eq!(
            facts.round_trip,
            Duration::from_micros(info.tcpi_rtt.into())
        );
        assert_eq!(facts.retransmits, info.tcpi_total_retrans);
    }

    /// Two ends of a connection; the second takes in a few thousand bytes at most.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    /// Waits until what is outstanding is `expected`.
    #[track_caller]
    fn assert_outstanding(socket: &TcpStream, expected: u32) {
        let end = Instant::now() + Duration::from_secs(10);
        while outstanding(socket).unwrap() != expected {
            assert!(
                Instant::now() < end,
                "{} bytes are outstanding, not {expected}",
                outstanding(socket).unwrap()
            );
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_outstanding_is_what_tcp_info_calls_unacknowledged_or_not_sent() {
        let (mut one, mut other) = pair();
        one.set_nonblocking(true).unwrap();
        assert_eq!((outstanding(&one).unwrap(), tcp_info(&one)), (0, (0, 0)));

        // As much as goes: more than the peer takes in, so that some of it is not even sent.
        let mut written = 0;
        while let Ok(count) = one.write(&[b'x'; 10_000]) {
            written += count;
        }
        let stuck = outstanding(&one).unwrap();
        assert!(stuck > 0 && stuck <= u32::try_from(written).unwrap());
        assert!(tcp_info(&one).1 > 0, "{:?}", tcp_info(&one));

        // The peer takes piece after piece: both say so until nothing is left.
        let mut read = 0;
        while read < written {
            let before = outstanding(&one).unwrap();
            let (unacked, not_sent) = tcp_info(&one);
            // Acknowledgements come at any time, so only what holds between two looks is compared.
            if outstanding(&one).unwrap() == before {
                assert_eq!(before > 0, unacked > 0 || not_sent > 0, "{before}");
                assert!(not_sent <= before);
            }
            read += other.read(&mut [0; 8192]).unwrap();
        }
        assert_outstanding(&one, 0);
        assert_eq!(tcp_info(&one), (0, 0));
    }

    #[test]
    fn a_fin_that_is_not_acknowledged_is_outstanding() {
        let (mut one, mut other) = pair();
        one.set_nonblocking(true).unwrap();
        while one.write(&[b'x'; 10_000]).is_ok() {}
        // The peer's window is closed: what is left is not sent, and nothing is under way.
        let end = Instant::now() + Duration::from_secs(10);
        while tcp_info(&one).0 > 0 {
            assert!(Instant::now() < end, "{:?}", tcp_info(&one));
            std::thread::yield_now();
        }
        let stuck = outstanding(&one).unwrap();
        assert!(stuck > 0);
        one.shutdown(Shutdown::Write).unwrap();
        assert_eq!(outstanding(&one).unwrap(), stuck + 1);
        io::copy(&mut other, &mut io::sink()).unwrap();
        assert_outstanding(&one, 0);
    }
}
