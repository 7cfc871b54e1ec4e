//! How a connection is closed, hence who holds its TIME_WAIT: the side whose FIN goes first.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// Our FIN first: `TIME_WAIT`, and a port for 60 s, here.
    Fin,
    /// A reset, `SO_LINGER` 0: `TIME_WAIT` nowhere. What is unsent is destroyed, and the peer sees
    /// an error.
    Rst,
    /// Our FIN, and a reset once it is acknowledged, `TCP_LINGER2` -1: `TIME_WAIT` nowhere. All
    /// that was sent arrives, and the peer sees an ordinary end.
    FinRst,
    /// The peer closes first: `TIME_WAIT` there. It has to know that this is the end, and its FIN
    /// is waited for; if it does not come in time, as `FinRst`.
    Peer,
    /// The same, then a reset once its FIN is here: `TIME_WAIT` nowhere.
    PeerRst,
}

/// Bytes read and thrown away while waiting for a peer's FIN.
const SCRAP: usize = 4096;

/// Closes with our FIN first, but only after the peer had `bound` time to close too.
///
/// Closing a socket with unread bytes makes the kernel send a reset, which may destroy an answer
/// the peer has not read yet. So: FIN, then read and discard until the peer's FIN. The TIME_WAIT
/// is ours. Source: Apache httpd 2.4, `ap_lingering_close`; RFC 9112 §9.6.
///
/// # Cancellation
/// Dropping the future closes at once.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bound: Duration) {
    let end = Instant::now() + bound;
    // What is left to be written goes before the FIN: a peer that takes nothing may hold it up.
    if let Ok(Ok(())) = timeout_at(end, stream.shutdown()).await {
        wait_until(&mut stream, end).await;
    }
}

/// Waits for the peer's FIN, at most for `bound`, discarding what still comes. True if it came.
///
/// Closing after it leaves the TIME_WAIT with the peer.
///
/// # Cancellation
/// Safe; nothing is lost that was not to be thrown away.
pub async fn wait_for_peer<S: AsyncRead + Unpin>(stream: &mut S, bound: Duration) -> bool {
    wait_until(stream, Instant::now() + bound).await
}

async fn wait_until<S: AsyncRead + Unpin>(stream: &mut S, end: Instant) -> bool {
    let mut scrap = [0; SCRAP];
    loop {
        match timeout_at(end, stream.read(&mut scrap)).await {
            Ok(Ok(0)) => return true,
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_peer_that_takes_nothing_holds_an_end_up_no_longer_than_one_that_does_not_close() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            // Of what is flushed at the end only a part fits.
            let (ours, _theirs) = tokio::io::duplex(8);
            let mut ours = tokio::io::BufWriter::new(ours);
            ours.write_all(b"more than eight bytes").await.unwrap();
            let begun = Instant::now();
            linger(
                tokio::io::join(tokio::io::empty(), ours),
                Duration::from_secs(2),
            )
            .await;
            assert_eq!(begun.elapsed().as_secs(), 2);
        });
    }
}
