//! Asks a running proxy's admin listener: one request over TCP or a Unix socket, with a time limit.

use std::io;
use std::net::{self, IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::server::AdminAddress;

/// How long an answer may take, from connecting to its last byte.
const LONGEST: Duration = Duration::from_secs(2);

/// The largest answer that is read.
const LARGEST: usize = 32 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody is there.
    #[error("no proxy answers at {at}: {}", reason(.source))]
    Connect {
        /// Where.
        at: AdminAddress,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody is there and says nothing.
    #[error("no answer from {at} within {} s", LONGEST.as_secs())]
    TooLong {
        /// Where.
        at: AdminAddress,
    },
    /// What is said is no HTTP.
    #[error("what listens at {at} does not speak HTTP: {source}")]
    Http {
        /// Where.
        at: AdminAddress,
        /// What was wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else is there, or another version.
    #[error(
        "{at} answers {} to {path}: is it the [admin] address of a Warmline that has it?",
        .status.as_u16()
    )]
    Status {
        /// Where.
        at: AdminAddress,
        /// What was asked for.
        path: String,
        /// Its answer.
        status: StatusCode,
    },
}

/// Without the "(os error 111)" that the library adds.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let bare = text.split(" (os error").next().unwrap_or(&text);
    bare.to_lowercase()
}

/// Reads `ADDRESS:PORT` or `unix:PATH`.
pub(super) fn address(text: &str) -> Result<AdminAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() {
            return Err("a path is missing after `unix:`".to_owned());
        }
        return Ok(AdminAddress::Unix(path.into()));
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() > 0 => Ok(AdminAddress::Ip(address)),
        Ok(_) | Err(_) => Err(
            "an IP address and a port are needed, such as 127.0.0.1:9180, or unix:/run/warmline.sock"
                .to_owned(),
        ),
    }
}

/// Where a listener that is asked to be at `address` is to be reached from this machine.
pub(super) fn reached_at(address: &AdminAddress) -> AdminAddress {
    match address {
        AdminAddress::Ip(address) => AdminAddress::Ip(near(*address)),
        unix @ AdminAddress::Unix(_) => unix.clone(),
    }
}

/// The same for an address of IP: what listens on every address is here, too.
pub(super) fn near(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether connections are accepted there.
pub(super) fn accepts(address: SocketAddr) -> io::Result<()> {
    net::TcpStream::connect_timeout(&address, LONGEST).map(drop)
}

/// Asks for `path` and waits for the whole answer, as text.
pub(super) fn get(at: &AdminAddress, path: &'static str) -> Result<String, AskError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| AskError::Connect {
        at: at.clone(),
        source,
    })?;
    runtime.block_on(fetch(at, path))
}

/// Posts this text to `path`; returns the status of the answer, and the answer.
pub(super) fn post(
    at: &AdminAddress,
    path: &str,
    body: String,
) -> Result<(StatusCode, String), AskError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| AskError::Connect {
        at: at.clone(),
        source,
    })?;
    runtime.block_on(answer(at, Request::post(path), body))
}

/// The same within a runtime.
///
/// # Cancellation
/// Dropping the future closes the connection.
pub(super) async fn fetch(at: &AdminAddress, path: &'static str) -> Result<String, AskError> {
    match answer(at, Request::get(path), String::new()).await? {
        (StatusCode::OK, text) => Ok(text),
        (status, _) => Err(AskError::Status {
            at: at.clone(),
            path: path.to_owned(),
            status,
        }),
    }
}

async fn answer(
    at: &AdminAddress,
    request: request::Builder,
    body: String,
) -> Result<(StatusCode, String), AskError> {
    let connect = |source| AskError::Connect {
        at: at.clone(),
        source,
    };
    let answer = timeout(LONGEST, async {
        match at {
            AdminAddress::Ip(address) => {
                let stream = TcpStream::connect(address).await.map_err(connect)?;
                ask(stream, at, request.header(HOST, address.to_string()), body).await
            }
            AdminAddress::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(connect)?;
                ask(stream, at, request.header(HOST, "localhost"), body).await
            }
        }
    });
    answer
        .await
        .unwrap_or_else(|_| Err(AskError::TooLong { at: at.clone() }))
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    at: &AdminAddress,
    request: request::Builder,
    body: String,
) -> Result<(StatusCode, String), AskError> {
    let http = |source: Box<dyn std::error::Error + Send + Sync>| AskError::Http {
        at: at.clone(),
        source,
    };
    let request = request
        .body(Full::new(Bytes::from(body)))
        .expect("path and host are those of an address");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http(error.into()))?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| http(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect();
        let bytes = body.await.map_err(http)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    };
    // The connection has to be driven; should it end first, the answer tells why there is none.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driven => unreachable!("it is pending for ever"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn an_address_is_one_of_a_socket() {
        for (text, shown) in [
            ("127.0.0.1:9180", Some("127.0.0.1:9180")),
            ("[::1]:9180", Some("[::1]:9180")),
            ("unix:/run/w.sock", Some("unix:/run/w.sock")),
            ("unix:", None),
            ("localhost:9180", None),
            ("127.0.0.1:0", None),
            ("127.0.0.1", None),
        ] {
            let read = address(text).ok().map(|address| address.to_string());
            assert_eq!(read.as_deref(), shown, "{text}");
        }
        let any = address("0.0.0.0:9180").unwrap();
        assert_eq!(reached_at(&any).to_string(), "127.0.0.1:9180");
    }

    /// Answers one connection with these bytes.
    fn answering(bytes: &'static str) -> (AdminAddress, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = AdminAddress::Ip(listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 1000];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(bytes.as_bytes()).unwrap();
            request.truncate(length);
            String::from_utf8(request).unwrap()
        });
        (at, thread)
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let (at, thread) =
            answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(get(&at, "/metrics").unwrap(), "abc");
        let request = thread.join().unwrap();
        assert!(
            request.starts_with("GET /metrics HTTP/1.1\r\n"),
            "{request}"
        );
        assert!(request.contains(&format!("host: {at}\r\n")), "{request}");
    }

    #[test]
    fn a_unix_socket_is_asked_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1000]).unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .unwrap();
        });
        let at = AdminAddress::Unix(path);
        assert_eq!(get(&at, "/").unwrap(), "ok");
        thread.join().unwrap();
    }

    #[test]
    fn what_is_wrong_is_said_with_the_address() {
        let closed = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let error = get(&AdminAddress::Ip(closed), "/").unwrap_err().to_string();
        assert_eq!(
            error,
            format!("no proxy answers at {closed}: connection refused")
        );
        for (bytes, words) in [
            (
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
                "answers 404 to /snapshot",
            ),
            ("SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
                "does not speak HTTP",
            ),
        ] {
            let (at, thread) = answering(bytes);
            let error = get(&at, "/snapshot").unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
            assert!(error.contains(&at.to_string()), "{error}");
            thread.join().unwrap();
        }
    }

    #[test]
    fn who_says_nothing_is_not_waited_for_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = AdminAddress::Ip(listener.local_addr().unwrap());
        let error = get(&at, "/").unwrap_err().to_string();
        assert_eq!(error, format!("no answer from {at} within 2 s"));
    }
}
