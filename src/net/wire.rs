//! What bytes come and go by: a TCP or a Unix socket, with TLS over it or not.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, recv};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::TlsStream;

/// A socket of either kind.
pub enum Raw {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// It is on its way to another runtime, and what is over it waits for it there.
    Away,
}

/// A socket, or TLS over one.
pub enum Wire {
    /// Bytes as they are.
    Plain(Raw),
    /// Encrypted.
    Tls(Box<TlsStream<Raw>>),
}

/// A wire between two runtimes.
#[derive(Debug)]
pub struct Moving {
    socket: StdSocket,
    tls: Option<Box<TlsStream<Raw>>>,
}

#[derive(Debug)]
enum StdSocket {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Raw::Tcp(_) => "Tcp",
            Raw::Unix(_) => "Unix",
            Raw::Away => "Away",
        })
    }
}

impl Raw {
    /// Tries to do something with the socket, if the runtime has seen it ready.
    pub(super) fn try_io<T>(
        &self,
        interest: Interest,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match self {
            Raw::Tcp(stream) => stream.try_io(interest, work),
            Raw::Unix(stream) => stream.try_io(interest, work),
            Raw::Away => Err(away()),
        }
    }

    pub(super) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Raw::Tcp(stream) => stream.poll_read_ready(cx),
            Raw::Unix(stream) => stream.poll_read_ready(cx),
            Raw::Away => Poll::Ready(Err(away())),
        }
    }

    /// The first byte that has come, which stays to be read; `None` is the peer's FIN.
    pub(super) fn poll_first_byte(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u8>>> {
        loop {
            ready!(self.poll_read_ready(cx))?;
            let mut byte = [0];
            let peeked = self.try_io(Interest::READABLE, || {
                let (length, _) = recv(self, &mut byte, RecvFlags::PEEK)?;
                Ok(length)
            });
            match peeked {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(_) => return Poll::Ready(Ok(Some(byte[0]))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// How many bytes there are to be read, as far as one tells; 0 is the peer's FIN.
    pub(super) fn peek(&self) -> io::Result<usize> {
        SockRef::from(self).peek(&mut [MaybeUninit::uninit()])
    }

    /// The kernel's number for the connection, if it is of TCP.
    pub(super) fn cookie(&self) -> Option<u64> {
        match self {
            Raw::Tcp(stream) => rustix::net::sockopt::socket_cookie(stream).ok(),
            Raw::Unix(_) | Raw::Away => None,
        }
    }

    /// Sends a FIN.
    fn poll_fin(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Raw::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Raw::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Raw::Away => Poll::Ready(Err(away())),
        }
    }

    fn into_std(self) -> io::Result<StdSocket> {
        match self {
            Raw::Tcp(stream) => stream.into_std().map(StdSocket::Tcp),
            Raw::Unix(stream) => stream.into_std().map(StdSocket::Unix),
            Raw::Away => Err(away()),
        }
    }

    fn from_std(socket: StdSocket) -> io::Result<Raw> {
        match socket {
            StdSocket::Tcp(stream) => TcpStream::from_std(stream).map(Raw::Tcp),
            StdSocket::Unix(stream) => UnixStream::from_std(stream).map(Raw::Unix),
        }
    }
}

fn away() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket has left")
}

impl AsFd for Moving {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            StdSocket::Tcp(stream) => stream.as_fd(),
            StdSocket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsFd for Raw {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Raw::Tcp(stream) => stream.as_fd(),
            Raw::Unix(stream) => stream.as_fd(),
            Raw::Away => unreachable!("nobody asks a socket that has left"),
        }
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Raw::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Raw::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Raw::Away => Poll::Ready(Err(away())),
        }
    }
}

impl AsyncWrite for Raw {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Raw::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Raw::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Raw::Away => Poll::Ready(Err(away())),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Raw::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Raw::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Raw::Away => Poll::Ready(Err(away())),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The socket itself keeps nothing back.
        Poll::Ready(Ok(()))
    }

    /// Sends nothing: the end of TLS is not yet the end of the connection, whose FIN is
    /// [`Wire`]'s.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Wire {
    /// The socket beneath.
    pub(super) fn raw(&self) -> &Raw {
        match self {
            Wire::Plain(raw) => raw,
            Wire::Tls(tls) => tls.get_ref().0,
        }
    }

    pub(super) fn raw_mut(&mut self) -> &mut Raw {
        match self {
            Wire::Plain(raw) => raw,
            Wire::Tls(tls) => tls.get_mut().0,
        }
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Wire::Tls(_))
    }

    /// Whether something of a client's was read from the socket that nobody has asked for yet.
    pub(super) fn has_read_ahead(&self) -> bool {
        match self {
            Wire::Plain(_) => false,
            // It wants nothing more to read while there is something to be handed on, or at the end.
            Wire::Tls(tls) => {
                matches!(&**tls, TlsStream::Server(tls) if !tls.get_ref().1.wants_read())
            }
        }
    }

    /// Whether nothing that was taken for writing is kept back.
    pub(super) fn is_flushed(&self) -> bool {
        match self {
            Wire::Plain(_) => true,
            Wire::Tls(tls) => !tls.get_ref().1.wants_write(),
        }
    }

    /// Says the end of TLS (`close_notify`), where there is TLS; the connection stays.
    pub(super) fn poll_close_notify(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Wire::Plain(_) => Poll::Ready(Ok(())),
            Wire::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }

    /// Takes it off its runtime.
    ///
    /// # Errors
    /// When the runtime cannot let go of it.
    pub(super) fn depart(mut self) -> io::Result<Moving> {
        let socket = std::mem::replace(self.raw_mut(), Raw::Away).into_std()?;
        let tls = match self {
            Wire::Plain(_) => None,
            Wire::Tls(tls) => Some(tls),
        };
        Ok(Moving { socket, tls })
    }

    /// Takes it in on the current thread's runtime.
    ///
    /// # Errors
    /// When the runtime cannot take it.
    pub fn arrive(moving: Moving) -> io::Result<Wire> {
        let raw = Raw::from_std(moving.socket)?;
        Ok(match moving.tls {
            None => Wire::Plain(raw),
            Some(mut tls) => {
                *tls.get_mut().0 = raw;
                Wire::Tls(tls)
            }
        })
    }
}

impl From<TcpStream> for Raw {
    fn from(stream: TcpStream) -> Raw {
        Raw::Tcp(stream)
    }
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Wire {
        Wire::Plain(Raw::Tcp(stream))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(raw) => Pin::new(raw).poll_read(cx, buf),
            Wire::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(raw) => Pin::new(raw).poll_write(cx, bytes),
            Wire::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Plain(raw) => Pin::new(raw).poll_write_vectored(cx, slices),
            Wire::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Plain(_) => Poll::Ready(Ok(())),
            Wire::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        ready!(wire.poll_close_notify(cx))?;
        wire.raw_mut().poll_fin(cx)
    }
}
