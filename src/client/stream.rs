//! A client's socket, watched: what comes and goes moves the connection's phase and its waits.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Conn, Phase};

/// A stream from and to a client, telling its [`Conn`] what happens on it.
///
/// Three more things it does. What has come of the next request is kept back until the response to
/// this one is written: so each request is taken in by its own rules and in its own time, and nothing
/// is left in the HTTP library when it is done. An answer that hyper makes by itself (to a request it
/// cannot read) is withheld, so that ours can be sent in its place. And it is never shut down here,
/// since how a connection ends is decided by [`super::serve()`].
pub(super) struct Watched<S> {
    stream: S,
    conn: Rc<Conn>,
    /// What has come and was kept back.
    ahead: Vec<u8>,
}

/// What came in is not the head of a request; the [`Conn`] knows why.
#[derive(Debug, thiserror::Error)]
#[error("the request's head is at fault")]
struct AtFault;

impl<S> Watched<S> {
    /// A stream on which `ahead` has been read already.
    pub(super) fn new(stream: S, conn: Rc<Conn>, ahead: Vec<u8>) -> Watched<S> {
        Watched {
            stream,
            conn,
            ahead,
        }
    }

    /// The stream, and what has been read from it and not handed on.
    pub(super) fn into_inner(self) -> (S, Vec<u8>) {
        (self.stream, self.ahead)
    }

    /// Hands on what was kept back, as far as it belongs to this request and there is room.
    fn read_ahead(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = self.ahead.len().min(buf.remaining());
        let taken = self.conn.client_sent(&self.ahead[..room]);
        let taken = taken.ok_or_else(|| io::Error::other(AtFault))?;
        let bytes = &self.ahead[..taken];
        if self.conn.phase() == Phase::Head {
            self.conn.socket().note_head(bytes);
        }
        buf.put_slice(bytes);
        self.ahead.drain(..taken);
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
        Ok(())
    }

    /// Lets go of line ends that came behind the last request. Source: Apache httpd 2.4,
    /// `ap_check_pipeline`: they do not begin the next one.
    fn skip_line_ends(&mut self) {
        let rest = self.ahead.iter().position(|byte| !b"\r\n".contains(byte));
        self.ahead.drain(..rest.unwrap_or(self.ahead.len()));
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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.conn.may_read(!this.ahead.is_empty()) {
            return Poll::Pending;
        }
        if this.conn.expects_head() {
            this.conn.socket().expect_head();
            if !this.ahead.is_empty() {
                this.skip_line_ends();
            }
        }
        if !this.ahead.is_empty() {
            return Poll::Ready(this.read_ahead(buf));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        match &result {
            Poll::Ready(Ok(())) => {
                let bytes = &buf.filled()[before..];
                if bytes.is_empty() {
                    this.conn.client_closed();
                    return result;
                }
                let Some(taken) = this.conn.client_sent(bytes) else {
                    return Poll::Ready(Err(io::Error::other(AtFault)));
                };
                if taken < bytes.len() {
                    this.ahead.extend_from_slice(&bytes[taken..]);
                    buf.set_filled(before + taken);
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => this.conn.client_silent(),
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
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        match result {
            Poll::Pending => self.conn.client_stalls(),
            Poll::Ready(_) => self.conn.all_written(),
        }
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
