//! A client's socket, watched: what comes and goes moves the connection's phase and its waits.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Conn;
use crate::net;

/// A stream from and to a client, telling its [`Conn`] what happens on it.
///
/// Two more things it does: an answer that hyper makes by itself (to a request it cannot read) is
/// withheld, so that ours can be sent in its place; and it is never shut down here, since how a
/// connection ends is decided by [`super::serve()`].
pub(super) struct Watched<S> {
    stream: S,
    conn: Rc<Conn>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, conn: Rc<Conn>) -> Watched<S> {
        Watched { stream, conn }
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    fn withhold(&self, bytes: &[u8]) -> usize {
        // "HTTP/1.1 431 …"
        let status = bytes
            .get(9..12)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse().ok());
        self.conn.withhold(status);
        bytes.len()
    }

    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Pending => self.conn.client_stalls(),
            Poll::Ready(_) => self.conn.client_took(),
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &result {
            Poll::Ready(Ok(())) => self.conn.client_sent(&buf.filled()[before..]),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.conn.client_silent(),
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.conn.answers_no_exchange() {
            return Poll::Ready(Ok(self.withhold(bytes)));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.conn.answers_no_exchange() {
            return Poll::Ready(Ok(slices.iter().map(|slice| self.withhold(slice)).sum()));
        }
        let result = net::write_slices(&mut self.stream, cx, slices);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.conn.all_written();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
