//! Asks a proxy's admin listener for its figures.

use std::fmt;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use crate::scrape::Page;

/// The longest an answer may take.
const LONGEST: Duration = Duration::from_secs(5);

/// Where one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// A name or an address, and a port.
    Name(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Where::Name(name) => f.write_str(name),
            Where::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Its page at `/metrics`.
///
/// # Errors
/// When nobody is there, or somebody else.
pub(super) fn page(at: &Where) -> io::Result<Page> {
    let text = match at {
        Where::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(LONGEST))?;
            ask(stream, "localhost")?
        }
        Where::Name(name) => {
            let address = name.to_socket_addrs()?.next();
            let address = address.ok_or(io::ErrorKind::NotFound)?;
            let stream = TcpStream::connect_timeout(&address, LONGEST)?;
            stream.set_read_timeout(Some(LONGEST))?;
            ask(stream, name)?
        }
    };
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    let status = text.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(invalid(format!("it answers {status:?}")));
    }
    let page = Page::read(&text);
    if page.is_ours() {
        Ok(page)
    } else {
        Err(invalid("that is no page of Warmline's figures".to_owned()))
    }
}

fn ask(mut stream: impl io::Read + Write, host: &str) -> io::Result<String> {
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
