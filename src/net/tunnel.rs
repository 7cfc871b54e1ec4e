//! Bytes between two streams, both ways, until both have ended.
//!
//! Nothing is held while nothing is under way: what comes in goes through a buffer of the thread's,
//! and only what the other side does not take is kept, until it does; until then no more is read. So a
//! tunnel that is silent costs its two sockets and its task.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// The most that is read at once: what a TLS record holds.
const PIECE: usize = 16 * 1024;

/// So many pieces go one way before the other way, and other tasks, have their turn.
const TURN: u32 = 16;

thread_local! {
    /// What was read, on its way to be written; nothing stays in it between two calls.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// One of the two sides of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Client,
    /// The backend's.
    Backend,
}

/// How a tunnel ended.
#[derive(Debug)]
pub enum Over {
    /// Both sides have sent their end, and all that came before it has been passed on.
    Closed,
    /// Nothing moved for too long.
    Idle,
    /// This side broke off.
    Broken(Side, io::Error),
}

/// How long nothing may move.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While both sides are open.
    pub open: Duration,
    /// Once one has ended.
    pub half_closed: Duration,
}

/// A tunnel between a client and a backend.
#[derive(Debug)]
pub struct Tunnel {
    up: Way,
    down: Way,
}

impl Tunnel {
    /// A tunnel that begins with what has been read already: `ahead` from the client, `early` from the
    /// backend.
    pub fn new(ahead: Vec<u8>, early: Vec<u8>) -> Tunnel {
        Tunnel {
            up: Way::new(ahead),
            down: Way::new(early),
        }
    }

    /// Whether the client has been sent the end of what comes from the backend.
    pub fn has_told_client(&self) -> bool {
        self.down.state == State::Over
    }

    /// Passes on what comes, the end of each side included, until both have ended, one breaks off, or
    /// nothing moves for too long. `moved` hears from which side how many bytes were passed on.
    ///
    /// An end of TLS that is not said (no `close_notify`) counts as an end: many programs do not say it.
    ///
    /// # Cancellation
    /// What is under way is lost; the streams are as they were.
    pub async fn run<C, B>(
        &mut self,
        client: &mut C,
        backend: &mut B,
        patience: Patience,
        mut moved: impl FnMut(Side, usize),
    ) -> Over
    where
        C: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let mut last = Instant::now();
        let mut alarm = pin!(sleep_until(last + patience.open));
        poll_fn(|cx| {
            let mut has_moved = false;
            for (side, way) in [
                (Side::Client, &mut self.up),
                (Side::Backend, &mut self.down),
            ] {
                let before = way.state;
                let polled = match side {
                    Side::Client => way.poll(client, backend, cx),
                    Side::Backend => way.poll(backend, client, cx),
                };
                let bytes = way.take_moved();
                if bytes > 0 {
                    moved(side, bytes);
                }
                has_moved |= bytes > 0 || before != way.state;
                if let Poll::Ready(Err(broken)) = polled {
                    let side = match (side, broken.reading) {
                        (Side::Client, true) | (Side::Backend, false) => Side::Client,
                        (Side::Backend, true) | (Side::Client, false) => Side::Backend,
                    };
                    return Poll::Ready(Over::Broken(side, broken.error));
                }
            }
            if self.up.state == State::Over && self.down.state == State::Over {
                return Poll::Ready(Over::Closed);
            }
            if has_moved {
                last = Instant::now();
            }
            let is_open = self.up.state == State::Open && self.down.state == State::Open;
            let end = last
                + if is_open {
                    patience.open
                } else {
                    patience.half_closed
                };
            // Put off only when it rings: what moves costs no timer.
            if end < alarm.deadline() {
                alarm.as_mut().reset(end);
            }
            while alarm.as_mut().poll(cx).is_ready() {
                if Instant::now() >= end {
                    return Poll::Ready(Over::Idle);
                }
                alarm.as_mut().reset(end);
            }
            Poll::Pending
        })
        .await
    }
}

/// One direction.
#[derive(Debug)]
struct Way {
    /// What was read and is not written yet, from `at` on.
    rest: Vec<u8>,
    at: usize,
    state: State,
    /// Something was written that may still be on this side of the socket.
    unflushed: bool,
    moved: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// The end has come, and is to be passed on.
    Ending,
    Over,
}

/// One of the two streams failed.
struct Broken {
    reading: bool,
    error: io::Error,
}

fn reading(error: io::Error) -> Broken {
    Broken {
        reading: true,
        error,
    }
}

fn writing(error: io::Error) -> Broken {
    Broken {
        reading: false,
        error,
    }
}

impl Way {
    fn new(rest: Vec<u8>) -> Way {
        Way {
            rest,
            at: 0,
            state: State::Open,
            // What was written before the tunnel, too.
            unflushed: true,
            moved: 0,
        }
    }

    /// How many bytes were written since this was last asked.
    fn take_moved(&mut self) -> usize {
        std::mem::take(&mut self.moved)
    }

    /// Moves what can be moved; ready once the end has been passed on.
    fn poll<F, T>(
        &mut self,
        from: &mut F,
        to: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        for _ in 0..TURN {
            ready!(self.poll_rest(to, cx)).map_err(writing)?;
            match self.state {
                State::Open => {}
                State::Ending => {
                    // Flushes, too.
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(writing)?;
                    self.state = State::Over;
                    return Poll::Ready(Ok(()));
                }
                State::Over => return Poll::Ready(Ok(())),
            }
            let piece = SCRATCH.with_borrow_mut(|scratch| self.poll_piece(from, to, scratch, cx));
            if piece?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(writing)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads a piece and writes as much of it as is taken at once.
    fn poll_piece<F, T>(
        &mut self,
        from: &mut F,
        to: &mut T,
        scratch: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Broken>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        let mut buf = ReadBuf::new(scratch);
        match Pin::new(from).poll_read(cx, &mut buf) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => buf.clear(),
            Poll::Ready(Err(error)) => return Err(reading(error)),
        }
        let mut left = buf.filled();
        if left.is_empty() {
            self.state = State::Ending;
            return Ok(Poll::Ready(()));
        }
        while !left.is_empty() {
            match Pin::new(&mut *to).poll_write(cx, left) {
                Poll::Ready(written) => {
                    let written = some(written).map_err(writing)?;
                    self.has_written(written);
                    left = &left[written..];
                }
                Poll::Pending => {
                    self.rest.extend_from_slice(left);
                    break;
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// Writes what is left.
    fn poll_rest<T>(&mut self, to: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        T: AsyncWrite + Unpin,
    {
        while self.at < self.rest.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.rest[self.at..]));
            let written = some(written)?;
            self.has_written(written);
            self.at += written;
        }
        if self.at > 0 {
            self.at = 0;
            self.rest = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    fn has_written(&mut self, bytes: usize) {
        self.moved += bytes;
        self.unflushed = true;
    }
}

/// A write that takes nothing would take nothing the next time either.
fn some(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{JoinHandle, spawn_local};

    use super::*;

    const PATIENCE: Patience = Patience {
        open: Duration::from_secs(60),
        half_closed: Duration::from_secs(5),
    };

    /// Both ends of a tunnel whose streams hold `room` bytes, and what becomes of it.
    fn tunnel(room: usize) -> (DuplexStream, DuplexStream, JoinHandle<(Over, [usize; 2])>) {
        let (client, mut inner) = duplex(room);
        let (backend, mut outer) = duplex(room);
        let running = spawn_local(async move {
            let mut moved = [0; 2];
            let mut tunnel = Tunnel::new(b"ahead,".to_vec(), b"early,".to_vec());
            let over = tunnel
                .run(&mut inner, &mut outer, PATIENCE, |side, bytes| {
                    moved[side as usize] += bytes;
                })
                .await;
            (over, moved)
        });
        (client, backend, running)
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build_local(LocalOptions::default())
            .unwrap()
            .block_on(test)
    }

    #[test]
    fn all_passes_both_ways_in_its_order_and_each_end_by_itself() {
        for room in [1, 7, 1 << 20] {
            run(async move {
                let (mut client, mut backend, running) = tunnel(room);
                let text: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
                let sent = text.clone();
                let sending = spawn_local(async move {
                    client.write_all(&sent).await.unwrap();
                    client.shutdown().await.unwrap();
                    client
                });
                let mut got = Vec::new();
                backend.read_to_end(&mut got).await.unwrap();
                assert_eq!(got, [b"ahead,", &text[..]].concat(), "room {room}");
                let mut client = sending.await.unwrap();
                // The other way is open still.
                let answering = spawn_local(async move { backend.write_all(b"late").await });
                let mut got = Vec::new();
                client.read_to_end(&mut got).await.unwrap();
                answering.await.unwrap().unwrap();
                assert_eq!(got, b"early,late");
                let (over, moved) = running.await.unwrap();
                assert!(matches!(over, Over::Closed), "{over:?}");
                assert_eq!(moved, [text.len() + 6, 10]);
            });
        }
    }

    #[test]
    fn what_is_not_taken_is_not_read() {
        run(async {
            let (mut client, _backend, running) = tunnel(64);
            let much = vec![0; 1 << 20];
            let writing = client.write_all(&much);
            assert!(
                tokio::time::timeout(Duration::from_secs(30), writing)
                    .await
                    .is_err()
            );
            running.abort();
        });
    }

    #[test]
    fn silence_ends_it_sooner_once_one_side_has_ended() {
        run(async {
            let (mut client, mut backend, running) = tunnel(64);
            let begun = Instant::now();
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.write_all(b"x").await.unwrap();
            backend.read_exact(&mut [0; 7]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(50)).await;
            assert!(!running.is_finished());
            let (over, _) = running.await.unwrap();
            assert!(matches!(over, Over::Idle), "{over:?}");
            assert_eq!(begun.elapsed().as_secs(), 110);

            let (mut client, _backend, running) = tunnel(64);
            let begun = Instant::now();
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.shutdown().await.unwrap();
            let (over, _) = running.await.unwrap();
            assert!(matches!(over, Over::Idle), "{over:?}");
            assert_eq!(begun.elapsed().as_secs(), 55);
        });
    }

    #[test]
    fn the_side_that_breaks_off_is_named() {
        struct Broken;

        impl AsyncRead for Broken {
            fn poll_read(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
                _: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }

        run(async {
            let broken = || tokio::io::join(Broken, tokio::io::sink());
            let (_other, mut well) = duplex(64);
            let mut tunnel = Tunnel::new(Vec::new(), Vec::new());
            let over = tunnel
                .run(&mut broken(), &mut well, PATIENCE, |_, _| {})
                .await;
            assert!(matches!(over, Over::Broken(Side::Client, _)), "{over:?}");
            let over = tunnel
                .run(&mut well, &mut broken(), PATIENCE, |_, _| {})
                .await;
            assert!(matches!(over, Over::Broken(Side::Backend, _)), "{over:?}");
            // Who does not take what the other sends.
            let (other, mut gone) = duplex(64);
            drop(other);
            let mut reads = tokio::io::join(tokio::io::repeat(1), tokio::io::sink());
            let over = tunnel.run(&mut reads, &mut gone, PATIENCE, |_, _| {}).await;
            assert!(matches!(over, Over::Broken(Side::Backend, _)), "{over:?}");
        });
    }
}
