//! A backend's socket, which can be asked whether its peer has spoken while nobody listened.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::net;

/// A TCP stream to a backend, in hyper's hands, with a second handle for the pool.
pub(super) struct Stream {
    socket: Rc<Socket>,
}

/// The pool's handle on the same socket.
pub(super) struct Socket {
    stream: RefCell<TcpStream>,
    peer_closed: Cell<bool>,
}

impl Stream {
    pub(super) fn new(stream: TcpStream) -> (Stream, Rc<Socket>) {
        let socket = Rc::new(Socket {
            stream: RefCell::new(stream),
            peer_closed: Cell::new(false),
        });
        let handle = Stream {
            socket: Rc::clone(&socket),
        };
        (handle, socket)
    }

    /// Whether the peer's FIN was read.
    pub(super) fn has_peer_closed(&self) -> bool {
        self.socket.peer_closed.get()
    }
}

impl Socket {
    /// Ready when something has come in, or may have.
    pub(super) fn poll_peer_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.borrow().poll_read_ready(cx).map(|_| ())
    }

    /// Whether anything has come in that was not asked for: bytes, a FIN or a reset.
    ///
    /// Without `probe` only what the runtime's last look at all sockets has brought is seen, which
    /// costs no system call while nothing has come.
    pub(super) fn has_peer_spoken(&self, probe: bool) -> bool {
        let stream = self.stream.borrow();
        let peek = || SockRef::from(&*stream).peek(&mut [MaybeUninit::uninit()]);
        let seen = if probe {
            peek()
        } else {
            stream.try_io(Interest::READABLE, peek)
        };
        !matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut *self.socket.stream.borrow_mut()).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) && buf.filled().len() == before {
            self.socket.peer_closed.set(true);
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket.stream.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        net::write_slices(&mut *self.socket.stream.borrow_mut(), cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP stream keeps nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket.stream.borrow_mut()).poll_shutdown(cx)
    }
}
