//! One exchange → one line of the access log.

use std::fmt::{self, Write as _};
use std::time::Duration;

use http::{HeaderValue, Uri, Version};

use super::Stamp;
use crate::account::{Asked, Connection, Exchange, Upstream};
use crate::json;

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Apache httpd's `combined`:
    /// `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`.
    Combined,
    /// The same, and after it what is known of the exchange as `key=value`.
    Extended,
    /// An object of JSON.
    Json,
}

/// Appends the line of `exchange`, whose request came `micros` after the second of `stamp`.
pub fn line(
    out: &mut Vec<u8>,
    format: Format,
    exchange: &Exchange<'_>,
    stamp: &Stamp,
    micros: u32,
) {
    match format {
        Format::Combined => combined(out, exchange, stamp),
        Format::Extended => {
            combined(out, exchange, stamp);
            extended(out, exchange);
        }
        Format::Json => object(out, exchange, stamp, micros),
    }
    out.push(b'\n');
}

fn combined(out: &mut Vec<u8>, exchange: &Exchange<'_>, stamp: &Stamp) {
    client(out, exchange);
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(stamp.apache());
    out.extend_from_slice(b"] \"");
    match exchange.asked {
        Some(asked) => {
            escaped(out, asked.method.as_str().as_bytes());
            out.push(b' ');
            target(&asked.target, |part| escaped(out, part.as_bytes()));
            out.push(b' ');
            out.extend_from_slice(version(asked.version));
        }
        None => out.push(b'-'),
    }
    out.extend_from_slice(b"\" ");
    or_dash(out, exchange.status.into());
    out.push(b' ');
    or_dash(out, exchange.sent);
    for header in [
        header(exchange, |asked| &asked.referer),
        header(exchange, |asked| &asked.user_agent),
    ] {
        out.extend_from_slice(b" \"");
        escaped(out, header.unwrap_or(b"-"));
        out.push(b'"');
    }
}

fn extended(out: &mut Vec<u8>, exchange: &Exchange<'_>) {
    out.extend_from_slice(b" host=\"");
    escaped(out, header(exchange, |asked| &asked.host).unwrap_or(b"-"));
    out.extend_from_slice(b"\" outcome=");
    out.extend_from_slice(exchange.outcome.label().as_bytes());
    out.extend_from_slice(b" total=");
    seconds(out, exchange.total);
    out.extend_from_slice(b" received=");
    decimal(out, exchange.received);
    out.extend_from_slice(b" client_exchange=");
    decimal(out, exchange.client_exchange.into());
    out.extend_from_slice(b" client_kept=");
    yes_or_no(out, Some(exchange.client_kept));
    let upstream = exchange.upstream.as_ref();
    let connection = upstream.and_then(|upstream| upstream.connection.as_ref());
    out.extend_from_slice(b" upstream=");
    word(out, upstream.map(|upstream| upstream.name));
    out.extend_from_slice(b" arm=");
    word(out, upstream.map(|upstream| upstream.arm.label()));
    out.extend_from_slice(b" backend=");
    word(out, upstream.and_then(|upstream| upstream.backend));
    out.extend_from_slice(b" connection=");
    number(out, connection.map(|connection| connection.id));
    out.extend_from_slice(b" reused=");
    yes_or_no(out, connection.map(is_reuse));
    out.extend_from_slice(b" connection_exchange=");
    number(out, connection.map(|connection| connection.exchange.into()));
    out.extend_from_slice(b" idle=");
    time(out, connection.and_then(|connection| connection.idle));
    out.extend_from_slice(b" local_port=");
    number(out, local_port(connection));
    out.extend_from_slice(b" connect=");
    time(out, connection.and_then(|connection| connection.connect));
    out.extend_from_slice(b" checkout=");
    time(out, upstream.and_then(|upstream| upstream.checkout));
    out.extend_from_slice(b" first_byte=");
    time(out, upstream.and_then(|upstream| upstream.first_byte));
    out.extend_from_slice(b" resends=");
    number(out, upstream.map(|upstream| upstream.sent_again.into()));
    out.extend_from_slice(b" resend=");
    word(out, upstream.and_then(|upstream| upstream.again_since));
    out.extend_from_slice(b" close=");
    word(out, connection.map(close));
}

fn object(out: &mut Vec<u8>, exchange: &Exchange<'_>, stamp: &Stamp, micros: u32) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(stamp.date());
    out.push(b'.');
    padded(out, micros);
    out.extend_from_slice(stamp.zone());
    out.extend_from_slice(b"\",\"client\":\"");
    client(out, exchange);
    out.extend_from_slice(b"\",\"client_exchange\":");
    decimal(out, exchange.client_exchange.into());
    out.extend_from_slice(b",\"client_kept\":");
    boolean(out, Some(exchange.client_kept));
    out.extend_from_slice(b",\"method\":");
    text(out, exchange.asked.map(|asked| asked.method.as_str()));
    out.extend_from_slice(b",\"target\":");
    if let Some(asked) = exchange.asked {
        out.push(b'"');
        target(&asked.target, |part| json_escaped(out, part));
        out.push(b'"');
    } else {
        out.extend_from_slice(b"null");
    }
    for (key, value) in [
        (&b",\"host\":"[..], header(exchange, |asked| &asked.host)),
        (b",\"referer\":", header(exchange, |asked| &asked.referer)),
        (
            b",\"user_agent\":",
            header(exchange, |asked| &asked.user_agent),
        ),
    ] {
        out.extend_from_slice(key);
        bytes(out, value);
    }
    out.extend_from_slice(b",\"version\":");
    let version = exchange.asked.map(|asked| version(asked.version));
    bytes(out, version);
    out.extend_from_slice(b",\"status\":");
    let status = (exchange.status > 0).then_some(exchange.status);
    whole(out, status.map(u64::from));
    out.extend_from_slice(b",\"received\":");
    decimal(out, exchange.received);
    out.extend_from_slice(b",\"sent\":");
    decimal(out, exchange.sent);
    out.extend_from_slice(b",\"outcome\":\"");
    out.extend_from_slice(exchange.outcome.label().as_bytes());
    out.extend_from_slice(b"\",\"total_seconds\":");
    seconds(out, exchange.total);
    upstream_members(out, exchange.upstream.as_ref());
    out.push(b'}');
}

fn upstream_members(out: &mut Vec<u8>, upstream: Option<&Upstream<'_>>) {
    let connection = upstream.and_then(|upstream| upstream.connection.as_ref());
    out.extend_from_slice(b",\"upstream\":");
    text(out, upstream.map(|upstream| upstream.name));
    out.extend_from_slice(b",\"arm\":");
    text(out, upstream.map(|upstream| upstream.arm.label()));
    out.extend_from_slice(b",\"backend\":");
    text(out, upstream.and_then(|upstream| upstream.backend));
    out.extend_from_slice(b",\"connection\":");
    whole(out, connection.map(|connection| connection.id));
    out.extend_from_slice(b",\"reused\":");
    boolean(out, connection.map(is_reuse));
    out.extend_from_slice(b",\"connection_exchange\":");
    whole(out, connection.map(|connection| connection.exchange.into()));
    out.extend_from_slice(b",\"idle_seconds\":");
    span(out, connection.and_then(|connection| connection.idle));
    out.extend_from_slice(b",\"local_port\":");
    whole(out, local_port(connection));
    out.extend_from_slice(b",\"connect_seconds\":");
    span(out, connection.and_then(|connection| connection.connect));
    out.extend_from_slice(b",\"checkout_seconds\":");
    span(out, upstream.and_then(|upstream| upstream.checkout));
    out.extend_from_slice(b",\"first_byte_seconds\":");
    span(out, upstream.and_then(|upstream| upstream.first_byte));
    out.extend_from_slice(b",\"resends\":");
    whole(out, upstream.map(|upstream| upstream.sent_again.into()));
    out.extend_from_slice(b",\"resend\":");
    text(out, upstream.and_then(|upstream| upstream.again_since));
    out.extend_from_slice(b",\"close\":");
    text(out, connection.map(close));
}

// What is said of an exchange.

/// The client's address without its port; that of an IPv4 client on an IPv6 listener as IPv4, as
/// Apache has it.
fn client(out: &mut Vec<u8>, exchange: &Exchange<'_>) {
    shown(out, &exchange.client.ip().to_canonical());
}

fn header<'a>(
    exchange: &Exchange<'a>,
    which: impl FnOnce(&'a Asked) -> &'a Option<HeaderValue>,
) -> Option<&'a [u8]> {
    which(exchange.asked?).as_ref().map(HeaderValue::as_bytes)
}

/// Says the parts of a target, one after the other.
fn target(target: &Uri, mut say: impl FnMut(&str)) {
    if let Some(scheme) = target.scheme_str() {
        say(scheme);
        say("://");
    }
    if let Some(authority) = target.authority() {
        say(authority.as_str());
    }
    say(target.path());
    if let Some(query) = target.query() {
        say("?");
        say(query);
    }
}

fn version(version: Version) -> &'static [u8] {
    match version {
        Version::HTTP_09 => b"HTTP/0.9",
        Version::HTTP_10 => b"HTTP/1.0",
        Version::HTTP_2 => b"HTTP/2.0",
        Version::HTTP_3 => b"HTTP/3.0",
        _ => b"HTTP/1.1",
    }
}

fn is_reuse(connection: &Connection) -> bool {
    connection.exchange > 1
}

fn local_port(connection: Option<&Connection>) -> Option<u64> {
    connection?.local_port.map(u64::from)
}

/// What became of the connection.
fn close(connection: &Connection) -> &'static str {
    connection.closed.map_or("kept", |reason| reason.label())
}

// In Apache's way.

/// Escapes as Apache httpd does (`server/util.c`, `ap_escape_logitem`): quotes and backslashes by a
/// backslash, what C has a letter for by that, and what is not printable ASCII by `\xhh`.
fn escaped(out: &mut Vec<u8>, text: &[u8]) {
    escaped_but(out, text, |byte| {
        matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
    });
}

/// Escapes every byte that is not `plain`.
fn escaped_but(out: &mut Vec<u8>, text: &[u8], plain: impl Fn(u8) -> bool) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| !plain(*byte)) {
        let (sound, odd) = rest.split_at(at);
        out.extend_from_slice(sound);
        let byte = odd[0];
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0b => out.extend_from_slice(b"\\v"),
            _ => out.extend_from_slice(&[
                b'\\',
                b'x',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
        rest = &odd[1..];
    }
    out.extend_from_slice(rest);
}

/// A value without quotes: a blank is escaped too.
struct Word<'o>(&'o mut Vec<u8>);

impl fmt::Write for Word<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escaped_but(self.0, text.as_bytes(), |byte| {
            matches!(byte, b'!'..=b'~') && byte != b'"' && byte != b'\\'
        });
        Ok(())
    }
}

fn word(out: &mut Vec<u8>, value: Option<impl fmt::Display>) {
    match value {
        Some(value) => write!(Word(out), "{value}").expect("a buffer takes any text"),
        None => out.push(b'-'),
    }
}

fn number(out: &mut Vec<u8>, value: Option<u64>) {
    match value {
        Some(value) => decimal(out, value),
        None => out.push(b'-'),
    }
}

/// A number of which Apache writes `-` for 0.
fn or_dash(out: &mut Vec<u8>, value: u64) {
    number(out, (value > 0).then_some(value));
}

fn time(out: &mut Vec<u8>, value: Option<Duration>) {
    match value {
        Some(value) => seconds(out, value),
        None => out.push(b'-'),
    }
}

fn yes_or_no(out: &mut Vec<u8>, value: Option<bool>) {
    out.extend_from_slice(match value {
        Some(true) => b"yes",
        Some(false) => b"no",
        None => b"-",
    });
}

// In JSON's.

/// The inside of a string.
struct Inside<'o>(&'o mut Vec<u8>);

impl fmt::Write for Inside<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        json::escape(&mut Plain(self.0), text)
    }
}

fn json_escaped(out: &mut Vec<u8>, text: &str) {
    Inside(out)
        .write_str(text)
        .expect("a buffer takes any text");
}

fn text(out: &mut Vec<u8>, value: Option<impl fmt::Display>) {
    match value {
        Some(value) => {
            out.push(b'"');
            write!(Inside(out), "{value}").expect("a buffer takes any text");
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// A string; each byte of it that is not UTF-8 becomes U+FFFD.
fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let Some(value) = value else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'"');
    for chunk in value.utf8_chunks() {
        json_escaped(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

fn whole(out: &mut Vec<u8>, value: Option<u64>) {
    match value {
        Some(value) => decimal(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn span(out: &mut Vec<u8>, value: Option<Duration>) {
    match value {
        Some(value) => seconds(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn boolean(out: &mut Vec<u8>, value: Option<bool>) {
    out.extend_from_slice(match value {
        Some(true) => b"true",
        Some(false) => b"false",
        None => b"null",
    });
}

// In both.

struct Plain<'o>(&'o mut Vec<u8>);

impl fmt::Write for Plain<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn shown(out: &mut Vec<u8>, value: &impl fmt::Display) {
    write!(Plain(out), "{value}").expect("a buffer takes any text");
}

/// Seconds, to the microsecond.
fn seconds(out: &mut Vec<u8>, time: Duration) {
    decimal(out, time.as_secs());
    out.push(b'.');
    padded(out, time.subsec_micros());
}

fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut room = [0; 20];
    let mut first = room.len();
    let mut rest = number;
    loop {
        first -= 1;
        room[first] = digit(rest % 10);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&room[first..]);
}

/// Six digits, with zeros in front.
fn padded(out: &mut Vec<u8>, micros: u32) {
    let mut room = [0; 6];
    let mut rest = micros;
    for place in room.iter_mut().rev() {
        *place = digit(u64::from(rest % 10));
        rest /= 10;
    }
    out.extend_from_slice(&room);
}

fn digit(value: u64) -> u8 {
    b'0' + u8::try_from(value).expect("a digit is below 10")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::Method;

    use super::*;
    use crate::account::{Arm, Outcome};
    use crate::keepalive::CloseReason;

    fn value(bytes: &[u8]) -> HeaderValue {
        HeaderValue::from_bytes(bytes).unwrap()
    }

    fn asked(target: &str) -> Asked {
        Asked {
            method: Method::GET,
            target: target.parse().unwrap(),
            version: Version::HTTP_11,
            host: Some(value(b"shop.example")),
            referer: None,
            user_agent: Some(value(b"curl/8.5")),
        }
    }

    fn exchange(asked: Option<&Asked>) -> Exchange<'_> {
        Exchange {
            client: "192.0.2.7:40123".parse().unwrap(),
            client_exchange: 3,
            client_kept: true,
            asked,
            status: 200,
            received: 11,
            sent: 5123,
            outcome: Outcome::Answered,
            total: Duration::from_micros(12_345),
            upstream: None,
        }
    }

    fn upstream(backend: &SocketAddr, connection: Connection) -> Upstream<'_> {
        Upstream {
            name: "app one",
            arm: Arm::Pooled,
            backend: Some(backend),
            connection: Some(connection),
            checkout: Some(Duration::from_micros(17)),
            first_byte: Some(Duration::from_secs(61)),
            sent_again: 1,
            again_since: Some("unsent"),
        }
    }

    const REUSED: Connection = Connection {
        id: 18,
        exchange: 4,
        idle: Some(Duration::from_nanos(1_500_999)),
        connect: None,
        local_port: Some(40_001),
        closed: None,
    };

    const OPENED: Connection = Connection {
        id: u64::MAX,
        exchange: 1,
        idle: None,
        connect: Some(Duration::from_micros(250)),
        local_port: None,
        closed: Some(CloseReason::RequestLimit),
    };

    fn written(format: Format, exchange: &Exchange<'_>) -> String {
        let mut out = Vec::new();
        let stamp = Stamp::new(971_211_336, -7 * 3600);
        line(&mut out, format, exchange, &stamp, 42);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn combined_is_as_in_apaches_manual() {
        let asked = Asked {
            target: "/apache_pb.gif".parse().unwrap(),
            version: Version::HTTP_10,
            referer: Some(value(b"http://www.example.com/start.html")),
            user_agent: Some(value(b"Mozilla/4.08 [en] (Win98; I ;Nav)")),
            ..asked("/")
        };
        let exchange = Exchange {
            client: "127.0.0.1:1".parse().unwrap(),
            sent: 2326,
            ..exchange(Some(&asked))
        };
        assert_eq!(
            written(Format::Combined, &exchange),
            "127.0.0.1 - - [10/Oct/2000:13:55:36 -0700] \"GET /apache_pb.gif HTTP/1.0\" 200 2326 \
             \"http://www.example.com/start.html\" \"Mozilla/4.08 [en] (Win98; I ;Nav)\"\n"
        );
    }

    #[test]
    fn what_is_not_there_is_a_dash() {
        let exchange = Exchange {
            client: "[2001:db8::1]:9".parse().unwrap(),
            status: 0,
            sent: 0,
            outcome: Outcome::ClientGone,
            ..exchange(None)
        };
        assert_eq!(
            written(Format::Combined, &exchange),
            "2001:db8::1 - - [10/Oct/2000:13:55:36 -0700] \"-\" - - \"-\" \"-\"\n"
        );
        let mapped = Exchange {
            client: "[::ffff:192.0.2.7]:9".parse().unwrap(),
            ..exchange
        };
        assert!(written(Format::Combined, &mapped).starts_with("192.0.2.7 - - ["));
    }

    #[test]
    fn targets_are_as_they_came() {
        for (target, expected) in [
            ("/a%20b/./c?d=e&f", "/a%20b/./c?d=e&f"),
            ("/?", "/?"),
            ("*", "*"),
            ("http://shop.example:81/a?b", "http://shop.example:81/a?b"),
            ("shop.example:443", "shop.example:443"),
            ("/caf\u{e9}", r"/caf\xc3\xa9"),
            ("/a\"b", r#"/a\"b"#),
        ] {
            let asked = asked(target);
            let written = written(Format::Combined, &exchange(Some(&asked)));
            let expected = format!("] \"GET {expected} HTTP/1.1\" 200 ");
            assert!(written.contains(&expected), "{written}");
        }
    }

    #[test]
    fn bytes_are_escaped_as_in_apache() {
        for (byte, expected) in [
            (b'\t', r"\t"),
            (b'\n', r"\n"),
            (b'\r', r"\r"),
            (0x08, r"\b"),
            (0x0b, r"\v"),
            (0x07, r"\x07"),
            (0x00, r"\x00"),
            (0x1f, r"\x1f"),
            (b' ', " "),
            (b'"', "\\\""),
            (b'\\', r"\\"),
            (b'~', "~"),
            (0x7f, r"\x7f"),
            (0x80, r"\x80"),
            (0xff, r"\xff"),
        ] {
            let mut out = Vec::new();
            escaped(&mut out, &[b'a', byte, b'b']);
            assert_eq!(String::from_utf8(out).unwrap(), format!("a{expected}b"));
        }
    }

    #[test]
    fn extended_goes_on_with_what_is_known() {
        let asked = asked("/");
        let backend = "10.0.0.5:80".parse().unwrap();
        let combined = "192.0.2.7 - - [10/Oct/2000:13:55:36 -0700] \"GET / HTTP/1.1\" 200 5123 \
                        \"-\" \"curl/8.5\"";
        let client = "host=\"shop.example\" outcome=answered total=0.012345 received=11 \
                      client_exchange=3 client_kept=yes";
        for (upstream, expected) in [
            (
                Some(upstream(&backend, REUSED)),
                "upstream=app\\x20one arm=pooled backend=10.0.0.5:80 connection=18 reused=yes \
                  connection_exchange=4 idle=0.001500 local_port=40001 connect=- checkout=0.000017 \
                  first_byte=61.000000 resends=1 resend=unsent close=kept",
            ),
            (
                Some(upstream(&backend, OPENED)),
                "upstream=app\\x20one arm=pooled backend=10.0.0.5:80 \
                  connection=18446744073709551615 reused=no connection_exchange=1 idle=- \
                  local_port=- connect=0.000250 checkout=0.000017 first_byte=61.000000 resends=1 \
                  resend=unsent close=request_limit",
            ),
            (
                None,
                "upstream=- arm=- backend=- connection=- reused=- connection_exchange=- idle=- \
                 local_port=- connect=- checkout=- first_byte=- resends=- resend=- close=-",
            ),
        ] {
            let exchange = Exchange {
                upstream,
                ..exchange(Some(&asked))
            };
            assert_eq!(
                written(Format::Extended, &exchange),
                format!("{combined} {client} {expected}\n")
            );
        }
    }

    /// The keys, in their order.
    const KEYS: &str = "time client client_exchange client_kept method target host referer user_agent \
                        version status received sent outcome total_seconds upstream arm backend \
                        connection reused connection_exchange idle_seconds local_port \
                        connect_seconds checkout_seconds first_byte_seconds resends resend close";

    #[test]
    fn json_has_the_same_keys_in_every_line() {
        let asked = Asked {
            referer: Some(value(b"caf\xe9 \xc3\xa9 \"q\" \\ \t")),
            ..asked("/a\"b?c")
        };
        let backend = "10.0.0.5:80".parse().unwrap();
        let full = Exchange {
            upstream: Some(upstream(&backend, REUSED)),
            ..exchange(Some(&asked))
        };
        let least = Exchange {
            status: 0,
            ..exchange(None)
        };
        for (exchange, expected) in [
            (
                &full,
                r#"["2000-10-10T13:55:36.000042-07:00","192.0.2.7",3,true,"GET","/a\"b?c",
                "shop.example","caf\ufffd \u00e9 \"q\" \\ \t","curl/8.5","HTTP/1.1",200,11,5123,
                "answered",0.012345,"app one","pooled","10.0.0.5:80",18,true,4,0.0015,40001,null,
                0.000017,61.0,1,"unsent","kept"]"#,
            ),
            (
                &least,
                r#"["2000-10-10T13:55:36.000042-07:00","192.0.2.7",3,true,null,null,null,null,null,
                null,null,11,5123,"answered",0.012345,null,null,null,null,null,null,null,null,null,
                null,null,null,null,null]"#,
            ),
        ] {
            let text = written(Format::Json, exchange);
            assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
            let read: serde_json::Value = serde_json::from_str(&text).unwrap();
            let expected: Vec<serde_json::Value> = serde_json::from_str(expected).unwrap();
            let keys: Vec<_> = KEYS.split(' ').collect();
            assert_eq!(read.as_object().unwrap().len(), keys.len(), "{text}");
            let mut at = 0;
            for (key, expected) in keys.iter().zip(&expected) {
                assert_eq!(read[key], *expected, "{key}");
                let quoted = format!("\"{key}\":");
                at += text[at..].find(&quoted).expect("in this order") + quoted.len();
            }
            assert_eq!(keys.len(), expected.len());
        }
    }

    #[test]
    fn every_field_is_in_the_document() {
        let document = include_str!("../../docs/access-log.md");
        let names = KEYS.split(' ').flat_map(|key| {
            let short = key.strip_suffix("_seconds").unwrap_or(key);
            [key, short]
        });
        for name in names {
            assert!(
                document.contains(&format!("`{name}`")),
                "{name} is not explained"
            );
        }
    }
}
