//! A connection with two handles: one for hyper, which reads and writes, and one for those who want
//! to know how the peer is.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use super::interim::Interim;
use super::peer::{Fin, Peer, is_of_peer};
use super::wire::{Moving, Raw, Wire};
use super::{PathFacts, WireNames, sockopt};

/// What is copied together before it is written; more is left where it is.
///
/// send(2) of one buffer is cheaper than writev(2) of two as long as the copy is small.
const SMALL: usize = 2048;

/// A kept head's buffer of more than this is not kept for the next one.
const LARGE: usize = 16 * 1024;

/// How many slices go out beside a head in one call; hyper queues at most 16.
const SLICES: usize = 16;

/// The half that reads and writes.
pub struct Stream {
    socket: Rc<Socket>,
    /// What has been promised as written and the kernel would not take yet.
    left: Vec<u8>,
}

/// The half that knows.
pub struct Socket {
    wire: RefCell<Wire>,
    peer_closed: Cell<bool>,
    /// The reading task is registered to be woken by the next event: until there is one, a further
    /// attempt to read would find nothing and change nothing.
    awaits_event: Cell<bool>,
    /// The names of the message that comes in.
    incoming: RefCell<WireNames>,
    /// How many interim responses have come before the answer that is waited for.
    interim: Cell<Interim>,
    /// The names for the head that goes out next.
    outgoing: RefCell<WireNames>,
    head_follows: Cell<bool>,
    /// Something has come in since a head was last expected.
    heard: Cell<bool>,
    /// It carries HTTP/2.
    frames: Cell<bool>,
    /// The kernel has taken something since then.
    sent: Cell<bool>,
    /// What the peer has to say is read although it takes no more.
    hears_out: Cell<bool>,
    takes_no_more: Cell<bool>,
    /// The head that goes out next is to be kept.
    keeps_head: Cell<bool>,
    /// It, as it was written, and maybe the beginning of a body behind it.
    written_head: RefCell<Vec<u8>>,
    /// How our FIN went, if it went before the connection's end was decided.
    fin: Cell<Option<Box<Fin>>>,
}

impl Stream {
    /// Makes the two halves.
    pub fn new(wire: impl Into<Wire>) -> (Stream, Rc<Socket>) {
        let socket = Rc::new(Socket {
            wire: RefCell::new(wire.into()),
            peer_closed: Cell::new(false),
            awaits_event: Cell::new(false),
            incoming: RefCell::default(),
            outgoing: RefCell::default(),
            interim: Cell::default(),
            head_follows: Cell::new(false),
            heard: Cell::new(false),
            frames: Cell::new(false),
            sent: Cell::new(false),
            hears_out: Cell::new(false),
            takes_no_more: Cell::new(false),
            keeps_head: Cell::new(false),
            written_head: RefCell::default(),
            fin: Cell::default(),
        });
        let stream = Stream {
            socket: Rc::clone(&socket),
            left: Vec::new(),
        };
        (stream, socket)
    }

    /// A handle to it that may outlive this half.
    pub fn handle(&self) -> Rc<Socket> {
        Rc::clone(&self.socket)
    }

    /// The half that knows.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether nothing that was taken for writing is left.
    pub fn is_flushed(&self) -> bool {
        self.left.is_empty() && self.socket.wire.borrow().is_flushed()
    }
}

/// What comes in beneath TLS, if there is any: for those who only wait for the peer's FIN.
pub struct Beneath<'a>(&'a Socket);

impl AsyncRead for Beneath<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.0.wire.borrow_mut().raw_mut()).poll_read(cx, buf)
    }
}

impl Socket {
    /// Takes the stream off its runtime; this has to be the last handle.
    ///
    /// # Errors
    /// When there are others, or the runtime cannot let go of it.
    pub fn depart(socket: Rc<Socket>) -> io::Result<Moving> {
        Rc::into_inner(socket)
            .ok_or_else(|| io::Error::other("the socket has other handles"))?
            .wire
            .into_inner()
            .depart()
    }

    /// What comes and goes is HTTP/2: there are no names to be noted, and its end is not yet that
    /// of the connection.
    pub fn carries_frames(&self) {
        self.incoming.borrow_mut().stop();
        self.frames.set(true);
    }

    /// It does not any more: what is said of its end from here on is said of the connection's.
    pub fn carries_no_frames(&self) {
        self.frames.set(false);
    }

    /// What comes and goes from here on is no HTTP: nothing in it is looked at, and a peer that takes no
    /// more is an error.
    pub fn leaves_http(&self) {
        self.incoming.borrow_mut().stop();
        self.outgoing.borrow_mut().stop();
        self.interim.set(Interim::default());
        self.head_follows.set(false);
        self.hears_out.set(false);
    }

    /// Our FIN is about to be sent while the peer may still have something to say: notes which of the
    /// two goes first, as nobody can tell once both have gone.
    pub fn notes_fin(&self) {
        let fin = Fin::about_to_go(self.wire.borrow().raw());
        self.fin.set(Some(Box::new(fin)));
    }

    /// How our FIN went, if it was noted.
    pub fn fin(&self) -> Option<Fin> {
        let fin = self.fin.take();
        let noted = fin.as_deref().copied();
        self.fin.set(fin);
        noted
    }

    /// Our address on it, if it is of TCP and still connected.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self.wire.borrow().raw() {
            Raw::Tcp(stream) => stream.local_addr().ok(),
            Raw::Unix(_) | Raw::Away => None,
        }
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        self.wire.borrow().is_tls()
    }

    /// What comes in beneath TLS.
    pub fn beneath(&self) -> Beneath<'_> {
        Beneath(self)
    }

    /// Whether the peer's FIN has come: not only the end of its TLS.
    pub fn has_peer_closed(&self) -> bool {
        let wire = self.wire.borrow();
        if wire.is_tls() {
            return matches!(wire.raw().peek(), Ok(0));
        }
        self.peer_closed.get()
    }

    /// Says the end of TLS where there is TLS, as far as that can be written at once. It goes out
    /// together with the FIN that the close of this socket sends: alone, it would make the peer
    /// close first. Not for a peer that has closed: it would answer with a reset.
    pub fn close_notify(&self) {
        let mut wire = self.wire.borrow_mut();
        if !wire.is_tls() {
            return;
        }
        // Who is gone already does not mind.
        let _ = rustix::net::sockopt::set_tcp_cork(wire.raw(), true);
        let mut cx = Context::from_waker(Waker::noop());
        let _ = wire.poll_close_notify(&mut cx);
    }

    /// A message's head is about to come in: note its names.
    pub fn expect_head(&self) {
        self.incoming.borrow_mut().clear();
        self.heard.set(false);
        self.sent.set(false);
    }

    /// The same for a response, whose interim ones are counted, and which is read even if the request is
    /// not taken to its end.
    pub fn expect_answer(&self) {
        self.expect_head();
        self.hears_out.set(true);
        self.interim.set(Interim::expect());
    }

    /// Notes the names of what came in with the message before.
    pub fn note_head(&self, bytes: &[u8]) {
        self.incoming.borrow_mut().note(bytes);
    }

    /// Whether anything has come in since then.
    pub fn has_heard(&self) -> bool {
        self.heard.get()
    }

    /// Whether the kernel has taken anything for the peer since then.
    pub fn has_sent(&self) -> bool {
        self.sent.get()
    }

    /// Keeps the bytes of the head that goes out next, which costs no copy.
    pub fn keep_head(&self) {
        let mut written = self.written_head.borrow_mut();
        written.clear();
        if written.capacity() > LARGE {
            *written = Vec::new();
        }
        self.keeps_head.set(true);
    }

    /// What was kept: the head as it was written, and maybe the beginning of a body behind it. Empty if
    /// nothing was.
    pub fn take_written_head(&self) -> Vec<u8> {
        self.written_head.take()
    }

    /// A head has been written from `copy`: keeps it if that is asked for, and leaves the buffer of
    /// the one that was kept before.
    fn keep_written(&self, copy: &mut Vec<u8>) {
        if self.keeps_head.replace(false) {
            std::mem::swap(&mut *self.written_head.borrow_mut(), copy);
        }
    }

    /// Writes `length` bytes, and notes whether the kernel took anything.
    ///
    /// A backend that has answered early and closed resets what is still sent to it, and its answer is
    /// there to be read. So once the kernel has taken something of a request, a peer that takes no more is
    /// no error: the rest counts as written, and what is read says how it was.
    fn write(
        &self,
        length: usize,
        write: impl FnOnce(Pin<&mut Wire>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.takes_no_more.get() {
            return Poll::Ready(Ok(length));
        }
        let mut wire = self.wire.borrow_mut();
        let result = write(Pin::new(&mut *wire));
        match &result {
            Poll::Ready(Err(error))
                if self.hears_out.get() && self.sent.get() && is_of_peer(error.kind()) =>
            {
                self.takes_no_more.set(true);
                return Poll::Ready(Ok(length));
            }
            Poll::Ready(Ok(1..)) => self.sent.set(true),
            // TLS may have written a part before it failed.
            Poll::Ready(Err(_)) if wire.is_tls() => self.sent.set(true),
            Poll::Ready(Ok(0) | Err(_)) | Poll::Pending => {}
        }
        result
    }

    /// A message's head goes out next: its names are those noted on the socket it came in by.
    ///
    /// Over HTTP/2 names are in lower case (RFC 9113 §8.2): from there none are taken.
    pub fn send_head_from(&self, source: &Socket) {
        if self.frames.get() {
            return;
        }
        if source.frames.get() {
            self.send_own_head();
            return;
        }
        self.outgoing.borrow_mut().stop();
        self.outgoing.swap(&source.incoming);
        self.head_follows.set(true);
    }

    /// A head of our own goes out next.
    pub fn send_own_head(&self) {
        if self.frames.get() {
            return;
        }
        self.outgoing.borrow_mut().clear();
        self.head_follows.set(true);
    }

    /// Takes back the names of a head that never went out.
    pub fn take_head_back(&self, source: &Socket) {
        if source.frames.get() {
            return;
        }
        source.incoming.swap(&self.outgoing);
    }

    /// Ready when something has come in, or may have. To be polled by the task that reads.
    pub fn poll_peer_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.knows_silence() {
            return Poll::Pending;
        }
        let wire = self.wire.borrow();
        if wire.has_read_ahead() {
            return Poll::Ready(());
        }
        let ready = wire.raw().poll_read_ready(cx).map(|_| ());
        self.awaits_event.set(ready.is_pending() && is_registered());
        ready
    }

    /// Whether nothing has come in since the reading task was registered.
    ///
    /// hyper tries to read several times in each exchange. Asking the runtime each time costs a
    /// lock and a waker; this is one look at an atomic.
    fn knows_silence(&self) -> bool {
        self.awaits_event.get()
            && self
                .wire
                .borrow()
                .raw()
                .try_io(Interest::READABLE, || Ok(()))
                .is_err()
    }

    /// What the peer has done that nobody has read yet.
    ///
    /// Without `probe` only what the runtime's last look at all sockets has brought is seen, which
    /// costs no system call while nothing has come. Beneath TLS, [`Peer::Spoke`] need not mean that
    /// anything was said.
    pub fn peer(&self, probe: bool) -> Peer {
        let wire = self.wire.borrow();
        if wire.has_read_ahead() {
            return Peer::Spoke;
        }
        let raw = wire.raw();
        let seen = if probe {
            raw.peek()
        } else {
            // This may take an event away from the reading task, which has then to register again.
            self.awaits_event.set(false);
            raw.try_io(Interest::READABLE, || raw.peek())
        };
        Peer::of(seen)
    }

    /// Makes the close of this socket a reset (`SO_LINGER` 0): unsent bytes are destroyed, and the
    /// peer sees an error where a FIN would look like a regular end.
    pub fn reset_on_close(&self) {
        // An error here means the socket is gone already.
        let _ = SockRef::from(self.wire.borrow().raw()).set_linger(Some(std::time::Duration::ZERO));
    }
}

impl Socket {
    /// Makes the close of this socket a FIN and then a reset: see [`super::CloseMode::FinRst`].
    pub fn reset_after_fin(&self) {
        // An error here means the socket is gone already.
        let _ = sockopt::reset_after_fin(self.wire.borrow().raw());
    }

    /// What the kernel measured of the way to the peer; `None` if it is not of TCP.
    pub fn path_facts(&self) -> Option<PathFacts> {
        match self.wire.borrow().raw() {
            Raw::Tcp(stream) => sockopt::path_facts(stream).ok(),
            Raw::Unix(_) | Raw::Away => None,
        }
    }

    /// The kernel's number for the connection, if it is of TCP. Its TIME_WAIT has the same.
    pub fn cookie(&self) -> Option<u64> {
        self.wire.borrow().raw().cookie()
    }

    /// Whether all that was sent has been acknowledged.
    pub fn has_delivered(&self) -> bool {
        sockopt::outstanding(self.wire.borrow().raw()).is_ok_and(|bytes| bytes == 0)
    }
}

/// Whether a read that found nothing has left its task registered with the runtime. Not so if the
/// task has only used up its time: then it is polled again at once, and has to ask again.
fn is_registered() -> bool {
    tokio::task::coop::has_budget_remaining()
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = &self.socket;
        if socket.knows_silence() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut *socket.wire.borrow_mut()).poll_read(cx, buf);
        socket
            .awaits_event
            .set(result.is_pending() && is_registered());
        if matches!(result, Poll::Ready(Ok(()))) {
            let bytes = &buf.filled()[before..];
            if bytes.is_empty() {
                socket.peer_closed.set(true);
            } else {
                socket.heard.set(true);
                let mut interim = socket.interim.get();
                interim.note(bytes)?;
                socket.interim.set(interim);
                socket.incoming.borrow_mut().note(bytes);
            }
        }
        result
    }
}

impl Stream {
    /// Writes slices too large to copy: only the first, which is the head, is copied, and taken
    /// whole.
    fn poll_write_large_head(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        COPY.with_borrow_mut(|head| {
            head.clear();
            head.extend_from_slice(&slices[0]);
            self.socket.head_follows.set(false);
            self.socket.outgoing.borrow().restore(head);
            let mut restored = [IoSlice::new(&[]); SLICES];
            let count = slices.len().min(SLICES);
            restored[..count].copy_from_slice(&slices[..count]);
            restored[0] = IoSlice::new(head);
            let total = restored[..count].iter().map(|slice| slice.len()).sum();
            let result = self.socket.write(total, |wire| {
                wire.poll_write_vectored(cx, &restored[..count])
            });
            let written = at_once(result);
            let length = head.len();
            if let Ok(written) = written
                && written < length
            {
                self.left.extend_from_slice(&head[written..]);
            }
            self.socket.keep_written(head);
            Poll::Ready(written.map(|written| written.max(length)))
        })
    }

    /// Writes what is left from before.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.left.is_empty() {
            let result = self
                .socket
                .write(self.left.len(), |wire| wire.poll_write(cx, &self.left));
            let written = ready!(result)?;
            self.left.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a copy of `slices`, with the names of a head restored: all of it is taken, and what
    /// the kernel does not take is kept.
    fn poll_write_copy(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        COPY.with_borrow_mut(|copy| {
            copy.clear();
            copy.reserve(SMALL);
            for slice in slices {
                copy.extend_from_slice(slice);
            }
            let is_head = self.socket.head_follows.replace(false);
            if is_head {
                self.socket.outgoing.borrow().restore(copy);
            }
            let written = at_once(
                self.socket
                    .write(copy.len(), |wire| wire.poll_write(cx, copy)),
            );
            let length = copy.len();
            if let Ok(written) = written
                && written < length
            {
                self.left.extend_from_slice(&copy[written..]);
            }
            if is_head {
                self.socket.keep_written(copy);
            }
            Poll::Ready(written.map(|_| length))
        })
    }
}

/// What the kernel took of what was written to it; nothing while it is full.
fn at_once(result: Poll<io::Result<usize>>) -> io::Result<usize> {
    match result {
        Poll::Ready(written) => written,
        Poll::Pending => Ok(0),
    }
}

thread_local! {
    /// Where slices are copied together; nothing stays in it between two calls.
    static COPY: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(SMALL));
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_left(cx))?;
        if self.socket.head_follows.get() {
            return self.poll_write_copy(cx, &[IoSlice::new(bytes)]);
        }
        self.socket
            .write(bytes.len(), |wire| wire.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_left(cx))?;
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if total <= SMALL {
            return self.poll_write_copy(cx, slices);
        }
        if self.socket.head_follows.get() {
            return self.poll_write_large_head(cx, slices);
        }
        self.socket
            .write(total, |wire| wire.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_left(cx))?;
        Pin::new(&mut *self.socket.wire.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.socket.frames.get() {
            return self.poll_flush(cx);
        }
        ready!(self.poll_left(cx))?;
        Pin::new(&mut *self.socket.wire.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{coop, spawn_local};
    use tokio::time::timeout;

    use super::*;

    /// A read that is refused because the task has had its time leaves nobody registered: taken
    /// for silence, it made large bodies stand still.
    #[test]
    fn a_task_that_has_used_up_its_time_still_hears_what_comes_later() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let mut peer = TcpStream::connect(address).await.unwrap();
            let (accepted, _) = listener.accept().await.unwrap();
            let (mut stream, _socket) = Stream::new(accepted);
            let mut read = move |cx: &mut Context<'_>| {
                let mut bytes = [0; 8];
                Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut bytes))
            };
            peer.write_all(b"soon").await.unwrap();
            let reading = spawn_local(async move {
                poll_fn(&mut read).await.unwrap();
                let mut is_late = false;
                poll_fn(|cx| {
                    if !std::mem::replace(&mut is_late, true) {
                        while pin!(coop::consume_budget()).poll(cx).is_ready() {}
                        assert!(!coop::has_budget_remaining());
                    }
                    read(cx)
                })
                .await
            });
            // Polled again by now, for having been without its time.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            peer.write_all(b"late").await.unwrap();
            let read = timeout(Duration::from_secs(5), reading).await;
            read.expect("it is woken").unwrap().unwrap();
        });
    }
}
