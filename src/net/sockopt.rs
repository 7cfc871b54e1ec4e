//! Socket options of Linux that no crate sets safely yet. The only file with `unsafe` in it.

#![expect(
    unsafe_code,
    reason = "each call passes one integer that lives on the stack, and its size"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

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

/// How many bytes were sent and not acknowledged yet, or not even sent.
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
