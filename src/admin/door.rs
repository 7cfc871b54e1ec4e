//! The address that is listened on: TCP, or a Unix socket with its file.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::server::AdminAddress;

/// Owner and group may connect.
const MODE: u32 = 0o660;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Bound, but not watched by a runtime yet.
pub(super) enum Bound {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// One that can be accepted from.
pub(super) enum Door {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Goes with it.
        _file: SocketFile,
    },
}

/// Who came in.
pub(super) enum Guest {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Bound {
    /// Listens on `address`.
    pub(super) fn on(address: &AdminAddress) -> io::Result<Bound> {
        let bound = match address {
            AdminAddress::Ip(address) => Bound::Tcp(std::net::TcpListener::bind(address)?),
            AdminAddress::Unix(path) => {
                let (socket, file) = bind(path)?;
                Bound::Unix(socket.into(), file)
            }
        };
        match &bound {
            Bound::Tcp(listener) => listener.set_nonblocking(true)?,
            Bound::Unix(listener, _) => listener.set_nonblocking(true)?,
        }
        Ok(bound)
    }

    /// Where that is; with port 0 asked for, the port that the kernel chose.
    pub(super) fn address(&self) -> io::Result<AdminAddress> {
        Ok(match self {
            Bound::Tcp(listener) => AdminAddress::Ip(listener.local_addr()?),
            Bound::Unix(_, file) => AdminAddress::Unix(file.path.clone()),
        })
    }

    /// Has the current runtime watch it.
    pub(super) fn watched(self) -> io::Result<Door> {
        Ok(match self {
            Bound::Tcp(listener) => Door::Tcp(TcpListener::from_std(listener)?),
            Bound::Unix(listener, file) => Door::Unix {
                listener: UnixListener::from_std(listener)?,
                _file: file,
            },
        })
    }
}

impl Door {
    /// The next connection.
    ///
    /// # Cancellation
    /// None is lost.
    pub(super) async fn accept(&self) -> io::Result<Guest> {
        Ok(match self {
            Door::Tcp(listener) => Guest::Tcp(listener.accept().await?.0),
            Door::Unix { listener, .. } => Guest::Unix(listener.accept().await?.0),
        })
    }
}

/// The file of a Unix socket. Removed when dropped, if it is still the same.
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and number.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// A socket that listens at `path`, and its file. What a process that is no more has left there is
/// replaced.
fn bind(path: &Path) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path)?,
    };
    // Before it listens, so that nobody else gets in meanwhile.
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    Ok((socket, file))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |why| Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("something is there that is not a socket");
    }
    match StdUnixStream::connect(path) {
        Ok(_) => in_use("another process listens there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_a_dead_process_left_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let address = AdminAddress::Unix(path.clone());
        // As a process leaves it that is killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());

        let first = Bound::on(&address).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        assert_eq!(first.address().unwrap(), address);

        let error = Bound::on(&address).err().unwrap();
        assert_eq!(error.to_string(), "another process listens there");
        drop(first);
        assert!(!path.exists(), "it is removed at the end");
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        fs::write(&path, "text").unwrap();
        assert!(Bound::on(&AdminAddress::Unix(path.clone())).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
    }

    #[test]
    fn another_ones_file_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let bound = Bound::on(&AdminAddress::Unix(path.clone())).unwrap();
        fs::rename(&path, dir.path().join("old.sock")).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
