//! Text → the addresses, hosts and paths of the settings.
//!
//! Nothing is looked up here: a name is checked for its spelling only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::lookup::SERVICE;

use crate::net::{LONGEST_DEVICE, Network, NoNetwork, PortRange};

/// The port of a backend that names none: HTTP's own.
const HTTP_PORT: u16 = 80;

/// The same with TLS.
const HTTPS_PORT: u16 = 443;
/// The port of a name server that names none.
const DNS_PORT: u16 = 53;

/// The longest name DNS can carry: RFC 1035 §2.3.4, less its length bytes.
const LONGEST_NAME: usize = 253;

/// Why a text is not the address it should be; what is said beside the caret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Nothing between the quotes.
    #[error("this is empty")]
    Empty,
    /// No port where one is needed.
    #[error("no port")]
    NoPort,
    /// Not a port number.
    #[error("`{0}` is not a port: 0 to 65535")]
    Port(String),
    /// Port 0 of a backend.
    #[error("port 0 cannot be connected to")]
    PortZero,
    /// No host where one is needed.
    #[error("no host before the port")]
    NoHost,
    /// A number that is probably a port.
    #[error("a port alone; did you mean `127.0.0.1:{0}`?")]
    PortAlone(String),
    /// A name where only an address will do.
    #[error("`{0}` is a name; an address such as 127.0.0.1 is needed here")]
    Name(String),
    /// Digits and dots, but not an IPv4 address.
    #[error("`{0}` is not an IPv4 address")]
    Ipv4(String),
    /// Brackets, but not an IPv6 address in them.
    #[error("`{0}` is not an IPv6 address in brackets")]
    Ipv6(String),
    /// Several colons and no brackets.
    #[error("an IPv6 address stands in brackets: `[::1]:8080`")]
    Unbracketed,
    /// A character no host name has.
    #[error("`{0}` is not a host name")]
    HostName(String),
    /// TLS was asked for.
    #[error("`https://` needs `tls = true` in its upstream")]
    Https,
    /// A Unix socket without a path that is absolute.
    #[error("a Unix socket is written with its whole path, such as `unix:/run/app.sock`")]
    UnixPath,
    /// A scheme other than `http`.
    #[error("`{0}://` is not spoken; only `http://` and, with `tls = true`, `https://` are")]
    Scheme(String),
    /// Something after the port.
    #[error("a backend is an address without a path")]
    Path,
    /// A name and password before the host.
    #[error("no user name belongs here")]
    User,
    /// A `*` that is not the first label.
    #[error("`*` stands for names only at the front: `*.example`")]
    Wildcard,
    /// A host that is only `*`.
    #[error("any host is meant when `host` is left out")]
    AnyHost,
    /// A port behind a route's host.
    #[error("a host without a port; routes do not look at it")]
    HostPort,
    /// A port behind the name of a service.
    #[error("a service without a port; its records have the ports")]
    ServicePort,
    /// An address where the name of a service is needed.
    #[error("`{0}` is an address; a service has a name")]
    ServiceAddress(String),
    /// Not two ports with a dash between them.
    #[error("not two ports with a `-` between them")]
    NotARange,
    /// A range that ends before it begins.
    #[error("{0} is less than {1}: the lower port comes first")]
    Backwards(u16, u16),
    /// Port 0 in a range.
    #[error("port 0 cannot be connected from")]
    FromPortZero,
    /// Not a number of bits behind an address.
    #[error("`{0}` is not how many bits the addresses have in common")]
    Bits(String),
    /// Not an address before the number of bits, nor one alone.
    #[error("`{0}` is not an IP address")]
    Ip(String),
    /// An address and a number of bits that do not make a network.
    #[error(transparent)]
    Network(#[from] NoNetwork),
    /// What cannot be the name of a device.
    #[error("not the name of a device: 1 to {LONGEST_DEVICE} characters, no spaces, no `/`")]
    Device,
    /// A path that does not start at the root.
    #[error("a path starts with `/`")]
    Relative,
    /// A character that cannot stand in a path as it is.
    #[error("{0:?} cannot stand in a path")]
    PathCharacter(char),
}

/// Reads an address to listen on: `0.0.0.0:8080`, `[::]:8080`, or for every IPv4 address `:8080`,
/// `*:8080` and `8080`.
///
/// # Errors
/// When there is no port, or the host is not an address.
pub fn listen(text: &str) -> Result<SocketAddr, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok((Ipv4Addr::UNSPECIFIED, port(text)?).into());
    }
    let (host, after) = split_port(text)?;
    if host.parse::<Ipv4Addr>().is_err() && !host.starts_with('[') && !matches!(host, "" | "*") {
        host_name(host)?;
        return Err(Wrong::Name(host.to_owned()));
    }
    let port = port(after.ok_or(Wrong::NoPort)?)?;
    match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(inside) => match inside.parse::<Ipv6Addr>() {
            Ok(address) => Ok((address, port).into()),
            Err(_) => Err(Wrong::Ipv6(host.to_owned())),
        },
        None => Ok((host.parse().unwrap_or(Ipv4Addr::UNSPECIFIED), port).into()),
    }
}

/// Reads the address of a name server: `10.0.0.2`, `10.0.0.2:5353`, `[::1]:5353`. Without a port it
/// is port 53.
///
/// # Errors
/// When it is a name, or no address.
pub fn name_server(text: &str) -> Result<SocketAddr, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, DNS_PORT).into());
    }
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    let (host, after) = split_port(text)?;
    if host.is_empty() {
        return Err(Wrong::NoHost);
    }
    named_host(host)?;
    let port = after.map_or(Ok(DNS_PORT), port)?;
    if port == 0 {
        return Err(Wrong::PortZero);
    }
    match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) => Ok((address, port).into()),
        Err(_) => Err(Wrong::Name(host.to_owned())),
    }
}

/// Reads a range of ports to connect from: `40000-49999`.
///
/// # Errors
/// When it is not two ports, has a port 0, or ends before it begins.
pub fn ports(text: &str) -> Result<PortRange, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    let (low, high) = text.split_once('-').ok_or(Wrong::NotARange)?;
    let [low, high] = [low.trim(), high.trim()];
    if low.is_empty() || high.is_empty() {
        return Err(Wrong::NotARange);
    }
    let (low, high) = (port(low)?, port(high)?);
    if low == 0 {
        return Err(Wrong::FromPortZero);
    }
    if high < low {
        return Err(Wrong::Backwards(high, low));
    }
    Ok(PortRange { low, high })
}

/// Reads a network, `10.0.0.0/8` or `2001:db8::/32`, or an address, which is a network of one.
///
/// # Errors
/// When it is a name, no address, has more bits than an address, or is an address within a network.
pub fn network(text: &str) -> Result<Network, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(match host_name(address) {
            Ok(()) => Wrong::Name(address.to_owned()),
            Err(_) => Wrong::Ip(address.to_owned()),
        });
    };
    let Some(bits) = bits else {
        return Ok(Network::of_one(ip));
    };
    let is_number = bits.bytes().all(|byte| byte.is_ascii_digit());
    let number = bits.parse().ok().filter(|_| is_number);
    let number = number.ok_or_else(|| Wrong::Bits(bits.to_owned()))?;
    Ok(Network::new(ip, number)?)
}

/// Reads the name of a network device. Whether there is one is seen at the start.
///
/// # Errors
/// When the kernel would not have it. Source: Linux, `dev_valid_name`.
pub fn device(text: &str) -> Result<String, Wrong> {
    let bad = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '\0');
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    if text.len() > LONGEST_DEVICE || matches!(text, "." | "..") || text.contains(bad) {
        return Err(Wrong::Device);
    }
    Ok(text.to_owned())
}

/// The path in `unix:/path`, if it is one.
///
/// # Errors
/// When the path does not begin at the root, or names no file.
pub fn unix(text: &str) -> Result<Option<&str>, Wrong> {
    match text.strip_prefix("unix:") {
        Some(path) if !path.starts_with('/') || path.ends_with('/') => Err(Wrong::UnixPath),
        path => Ok(path),
    }
}

/// Reads a backend's address and gives it as `host:port`: `127.0.0.1:9000`, `[::1]:9000`,
/// `app.internal:9000`. Without a port it is port 80; `http://` in front is dropped. A service,
/// `srv+_http._tcp.app.internal`, has its ports with its records.
///
/// # Errors
/// When it has a path, a scheme that is not spoken, or a host or port that cannot be.
pub fn server(text: &str, tls: bool) -> Result<String, Wrong> {
    if unix(text)?.is_some() {
        return Ok(text.to_owned());
    }
    if let Some(name) = text.strip_prefix(SERVICE) {
        return service(name).map(|()| text.to_owned());
    }
    let address = match text.split_once("://") {
        None => text,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") && !tls => rest,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") && tls => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => return Err(Wrong::Https),
        Some((scheme, _)) => return Err(Wrong::Scheme(scheme.to_owned())),
    };
    if address.is_empty() {
        return Err(Wrong::Empty);
    }
    if address.contains(['/', '?', '#']) {
        return Err(Wrong::Path);
    }
    if address.contains('@') {
        return Err(Wrong::User);
    }
    if address.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Wrong::PortAlone(address.to_owned()));
    }
    let (host, after) = split_port(address)?;
    if host.is_empty() {
        return Err(Wrong::NoHost);
    }
    named_host(host)?;
    match after.map(port).transpose()? {
        Some(0) => Err(Wrong::PortZero),
        Some(port) => Ok(format!("{host}:{port}")),
        None if tls => Ok(format!("{host}:{HTTPS_PORT}")),
        None => Ok(format!("{host}:{HTTP_PORT}")),
    }
}

/// The name of a service; it has its records' ports.
fn service(name: &str) -> Result<(), Wrong> {
    if name.is_empty() {
        return Err(Wrong::Empty);
    }
    if name.contains('/') {
        return Err(Wrong::Path);
    }
    if split_port(name)?.1.is_some() {
        return Err(Wrong::ServicePort);
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(Wrong::ServiceAddress(name.to_owned()));
    }
    host_name(name)
}

/// Reads the host of a route, in lower case: `shop.example`, or `*.example` for the names below.
///
/// # Errors
/// When it has a port, a `*` elsewhere than at the front, or is no host name.
pub fn route_host(text: &str) -> Result<String, Wrong> {
    match text {
        "" => return Err(Wrong::Empty),
        "*" => return Err(Wrong::AnyHost),
        _ => {}
    }
    let below = text.strip_prefix("*.");
    if below.unwrap_or(text).contains('*') {
        return Err(Wrong::Wildcard);
    }
    if text.contains('/') {
        return Err(Wrong::HostName(text.to_owned()));
    }
    if split_port(text)?.1.is_some() {
        return Err(Wrong::HostPort);
    }
    match below {
        Some(below) => host_name(below)?,
        None => named_host(text)?,
    }
    Ok(text.to_ascii_lowercase())
}

/// Reads the path of a route: `/`, `/api`, `/api/`. Compared as it stands, so what a request has
/// percent-encoded is to be written so here.
///
/// # Errors
/// When it does not start with `/`, or has a character that no request's path has.
pub fn route_path(text: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return Err(Wrong::Empty);
    }
    if !text.starts_with('/') {
        return Err(Wrong::Relative);
    }
    match text
        .chars()
        .find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#'))
    {
        Some(character) => Err(Wrong::PathCharacter(character)),
        None => Ok(text.to_owned()),
    }
}

/// The host and, if there is a colon after it, what follows. Brackets stay on the host.
fn split_port(text: &str) -> Result<(&str, Option<&str>), Wrong> {
    if text.starts_with('[') {
        let end = text.find(']').ok_or_else(|| Wrong::Ipv6(text.to_owned()))? + 1;
        let (host, after) = text.split_at(end);
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(Wrong::Port(after.to_owned())),
        };
    }
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, after)) if after.contains(':') => Err(Wrong::Unbracketed),
        Some((host, port)) => Ok((host, Some(port))),
    }
}

fn port(text: &str) -> Result<u16, Wrong> {
    if text.is_empty() {
        return Err(Wrong::NoPort);
    }
    // `u16` would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| digits)
        .ok_or_else(|| Wrong::Port(text.to_owned()))
}

/// An IPv4 address, an IPv6 address in brackets, or a name.
fn named_host(host: &str) -> Result<(), Wrong> {
    let Some(inside) = host.strip_prefix('[') else {
        return host_name(host);
    };
    let address = inside.strip_suffix(']').map(str::parse::<Ipv6Addr>);
    match address {
        Some(Ok(_)) => Ok(()),
        _ => Err(Wrong::Ipv6(host.to_owned())),
    }
}

/// An IPv4 address or a name. `_` is no host name's letter, but container names have it.
fn host_name(host: &str) -> Result<(), Wrong> {
    if host
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return match host.parse::<Ipv4Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err(Wrong::Ipv4(host.to_owned())),
        };
    }
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(letter);
    if host.len() <= LONGEST_NAME && host.split('.').all(label) {
        Ok(())
    } else {
        Err(Wrong::HostName(host.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_listener_is_an_address_with_a_port() {
        for (text, address) in [
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            (":8080", "0.0.0.0:8080"),
            ("*:8080", "0.0.0.0:8080"),
            ("8080", "0.0.0.0:8080"),
            ("[::]:8080", "[::]:8080"),
            ("[::1]:443", "[::1]:443"),
        ] {
            assert_eq!(
                listen(text).map(|a| a.to_string()),
                Ok(address.into()),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_listened_on_is_refused_with_the_reason() {
        for (text, wrong) in [
            ("", Wrong::Empty),
            ("0.0.0.0", Wrong::NoPort),
            ("0.0.0.0:", Wrong::NoPort),
            ("[::]", Wrong::NoPort),
            ("localhost:8080", Wrong::Name("localhost".into())),
            ("localhost", Wrong::Name("localhost".into())),
            ("300.0.0.1:80", Wrong::Ipv4("300.0.0.1".into())),
            ("0.0.0.0:80800", Wrong::Port("80800".into())),
            ("80800", Wrong::Port("80800".into())),
            ("0.0.0.0:+80", Wrong::Port("+80".into())),
            ("0.0.0.0:http", Wrong::Port("http".into())),
            ("::1:8080", Wrong::Unbracketed),
            ("[::g]:80", Wrong::Ipv6("[::g]".into())),
            ("[::1", Wrong::Ipv6("[::1".into())),
            ("[::1]80", Wrong::Port("80".into())),
            ("a b:80", Wrong::HostName("a b".into())),
        ] {
            assert_eq!(listen(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn a_backend_is_a_host_and_a_port() {
        for (text, address) in [
            ("127.0.0.1:9000", "127.0.0.1:9000"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("app", "app:80"),
            ("app_1.internal:9000", "app_1.internal:9000"),
            ("[::1]:9000", "[::1]:9000"),
            ("[::1]", "[::1]:80"),
            ("http://app:9000", "app:9000"),
            ("HTTP://app", "app:80"),
            ("srv+_http._tcp.app", "srv+_http._tcp.app"),
        ] {
            assert_eq!(server(text, false), Ok(address.into()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_a_backend_is_refused_with_the_reason() {
        for (text, wrong) in [
            ("", Wrong::Empty),
            ("http://", Wrong::Empty),
            ("9000", Wrong::PortAlone("9000".into())),
            (":9000", Wrong::NoHost),
            ("app:", Wrong::NoPort),
            ("app:0", Wrong::PortZero),
            ("app:99999", Wrong::Port("99999".into())),
            ("::1:9000", Wrong::Unbracketed),
            ("https://app", Wrong::Https),
            ("unix:run/app.sock", Wrong::UnixPath),
            ("http://app:9000/", Wrong::Path),
            ("app/path", Wrong::Path),
            ("me:secret@app", Wrong::User),
            ("256.0.0.1:80", Wrong::Ipv4("256.0.0.1".into())),
            ("büro:80", Wrong::HostName("büro".into())),
            ("a..b", Wrong::HostName("a..b".into())),
            ("[x]:80", Wrong::Ipv6("[x]".into())),
            ("srv+", Wrong::Empty),
            ("srv+app:80", Wrong::ServicePort),
            ("srv+10.0.0.1", Wrong::ServiceAddress("10.0.0.1".into())),
            ("srv+[::1]", Wrong::HostName("[::1]".into())),
            ("srv+app/x", Wrong::Path),
        ] {
            assert_eq!(server(text, false), Err(wrong), "{text}");
        }
    }

    #[test]
    fn a_name_server_is_an_address_and_its_port_is_53() {
        for (text, address) in [
            ("10.0.0.2", Ok("10.0.0.2:53")),
            ("10.0.0.2:5353", Ok("10.0.0.2:5353")),
            ("::1", Ok("[::1]:53")),
            ("[::1]", Ok("[::1]:53")),
            ("[::1]:5353", Ok("[::1]:5353")),
            ("", Err(Wrong::Empty)),
            (":53", Err(Wrong::NoHost)),
            ("10.0.0.2:0", Err(Wrong::PortZero)),
            ("10.0.0.2:x", Err(Wrong::Port("x".into()))),
            ("dns.example", Err(Wrong::Name("dns.example".into()))),
            ("dns:53", Err(Wrong::Name("dns".into()))),
        ] {
            let address = address.map(|address| address.parse().unwrap());
            assert_eq!(name_server(text), address, "{text}");
        }
    }

    #[test]
    fn a_route_is_for_a_host_or_the_names_below_one() {
        for (text, host) in [
            ("Shop.Example", Ok("shop.example")),
            ("*.example", Ok("*.example")),
            ("127.0.0.1", Ok("127.0.0.1")),
            ("[::1]", Ok("[::1]")),
            ("", Err(Wrong::Empty)),
            ("*", Err(Wrong::AnyHost)),
            ("shop.*", Err(Wrong::Wildcard)),
            ("*.*.example", Err(Wrong::Wildcard)),
            ("*example", Err(Wrong::Wildcard)),
            ("shop.example:80", Err(Wrong::HostPort)),
            (
                "shop.example.",
                Err(Wrong::HostName("shop.example.".into())),
            ),
            ("http://shop", Err(Wrong::HostName("http://shop".into()))),
        ] {
            assert_eq!(route_host(text), host.map(str::to_owned), "{text}");
        }
    }

    #[test]
    fn a_path_is_written_as_requests_write_it() {
        for (text, path) in [
            ("/", Ok("/")),
            ("/api/%C3%BC", Ok("/api/%C3%BC")),
            ("", Err(Wrong::Empty)),
            ("api", Err(Wrong::Relative)),
            ("/a b", Err(Wrong::PathCharacter(' '))),
            ("/a?b", Err(Wrong::PathCharacter('?'))),
            ("/ü", Err(Wrong::PathCharacter('ü'))),
        ] {
            assert_eq!(route_path(text), path.map(str::to_owned), "{text}");
        }
    }

    proptest! {
        /// Any text is read or refused; none panics.
        #[test]
        fn any_text_has_an_answer(text in ".{0,40}", near in "[0-9a-z.:/\\[\\]*@]{0,12}") {
            for text in [text, near] {
                let _ = listen(&text);
                let _ = server(&text, false);
                let _ = route_host(&text);
                let _ = route_path(&text);
            }
        }

        /// What was read as a backend is read the same again.
        #[test]
        fn a_read_backend_is_a_backend(text in "(http://)?[a-z0-9.]{1,9}(:[0-9]{1,5})?") {
            if let Ok(address) = server(&text, false) {
                prop_assert_eq!(server(&address, false), Ok(address.clone()));
            }
        }
    }
}
