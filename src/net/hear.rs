//! A client's PROXY header, taken off its connection before anything else is read from it.

use std::io;

use tokio::net::TcpStream;

use super::introduced::{self, Introduced, Malformed};
use super::introduction::Ends;

/// How much is looked at in one go: any header without much behind its addresses.
const LOOK: usize = 256;

/// Why a client that has to be introduced was not.
#[derive(Debug, thiserror::Error)]
pub enum NotIntroduced {
    /// It closed without a word, as checks do that only ask whether somebody listens.
    #[error("it closed without a word")]
    Silent,
    /// It closed within the header, or its connection failed.
    #[error("its connection ended before the PROXY header did")]
    CutShort(#[source] Option<io::Error>),
    /// What it sent is no such header.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Takes a PROXY header off a connection, and nothing of what follows: that is read by whoever comes next, TLS or HTTP.
/// Says which ends the connection has that it was opened for; `None` if they are its own.
///
/// # Errors
/// When there is none. There is no limit on the time it takes.
///
/// # Cancellation
/// What was taken off is lost, so the connection is of no more use.
pub async fn hear(stream: &TcpStream) -> Result<Option<Ends>, NotIntroduced> {
    let cut_short = |error| NotIntroduced::CutShort(Some(error));
    let mut bytes = Vec::new();
    loop {
        let before = bytes.len();
        bytes.resize(before + LOOK, 0);
        let seen = stream.peek(&mut bytes[before..]).await;
        let seen = seen.map_err(cut_short)?;
        if seen == 0 {
            return Err(match before {
                0 => NotIntroduced::Silent,
                _ => NotIntroduced::CutShort(None),
            });
        }
        bytes.truncate(before + seen);
        let introduced = introduced::read(&bytes)?;
        let end = match introduced {
            Introduced::Part => bytes.len(),
            Introduced::Whole { length, .. } => length,
        };
        // All of it is there. Only once it is read, the runtime waits for more to come.
        let read = stream.try_read(&mut bytes[before..end]);
        let read = read.map_err(cut_short)?;
        debug_assert_eq!(read, end - before, "what was seen is read at once");
        if let Introduced::Whole { ends, .. } = introduced {
            return Ok(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::introduction::{ProxyProtocol, header};
    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let client = client.unwrap();
        client.set_nodelay(true).unwrap();
        (client, accepted.unwrap().0)
    }

    fn known() -> Ends {
        Ends {
            client: "192.0.2.7:51000".parse().unwrap(),
            proxy: "192.0.2.1:443".parse().unwrap(),
        }
    }

    #[tokio::test]
    async fn the_header_is_taken_off_and_what_follows_is_left() {
        let longest = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xf0"[..],
            &[192, 0, 2, 7, 192, 0, 2, 1, 0xC7, 0x38, 1, 0xBB],
            &[4, 0x0F, 0xE1],
            &[0; 4_065],
        ]
        .concat();
        for header in [
            header(ProxyProtocol::V1, Some(known())),
            header(ProxyProtocol::V2, Some(known())),
            longest,
        ] {
            let (mut client, mut stream) = pair().await;
            let behind = vec![b'x'; 1_000];
            client.write_all(&header).await.unwrap();
            client.write_all(&behind).await.unwrap();
            let heard = timeout(Duration::from_secs(10), hear(&stream)).await;
            assert_eq!(heard.unwrap().unwrap(), Some(known()));
            let mut left = vec![0; behind.len()];
            stream.read_exact(&mut left).await.unwrap();
            assert_eq!(left, behind);
        }
    }

    /// Each piece goes out only once the one before it is gone from the socket: so it is heard as one that is waited for.
    #[tokio::test]
    async fn a_header_may_come_in_any_pieces() {
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let header = header(version, Some(known()));
            let (mut client, mut stream) = pair().await;
            let (heard, ()) = tokio::join!(hear(&stream), async {
                for byte in &header {
                    client.write_all(&[*byte]).await.unwrap();
                    // On this thread, until the other future has nothing to do any more.
                    tokio::task::yield_now().await;
                }
                client.write_all(b"next").await.unwrap();
            });
            assert_eq!(heard.unwrap(), Some(known()), "{version:?}");
            let mut next = [0; 4];
            stream.read_exact(&mut next).await.unwrap();
            assert_eq!(&next, b"next");
        }
    }

    #[tokio::test]
    async fn who_says_nothing_and_who_breaks_off_are_told_apart() {
        let (client, stream) = pair().await;
        drop(client);
        assert!(matches!(hear(&stream).await, Err(NotIntroduced::Silent)));
        let (mut client, stream) = pair().await;
        client.write_all(b"PROXY TC").await.unwrap();
        drop(client);
        let heard = hear(&stream).await;
        assert!(matches!(heard, Err(NotIntroduced::CutShort(None))));
        let (mut client, stream) = pair().await;
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let heard = hear(&stream).await;
        assert!(matches!(
            heard,
            Err(NotIntroduced::Malformed(Malformed::NoHeader))
        ));
    }
}
