//! A real httpd and Warmline from equal settings, each in front of a scripted backend of its own.

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::httpd::{self, Httpd};
use crate::support::proxy::Program;
use crate::support::scripted::{Backend, Conn, Refusing, Request};

/// Settings that conversations share: both servers are started once for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// 100 requests, 600 ms between them, `Timeout` 2 s.
    Usual,
    /// `MaxKeepAliveRequests 3`, `KeepAliveTimeout 1500ms`.
    Three,
    /// `MaxKeepAliveRequests 1`.
    One,
    /// `MaxKeepAliveRequests 0`, `KeepAliveTimeout 1200ms`.
    Unlimited,
    /// `KeepAlive Off`.
    Off,
    /// `KeepAliveTimeout 0`.
    NoTime,
    /// `RequestReadTimeout header=1-2,MinRate=500 body=1,MinRate=500`, all other times longer.
    ReadTimeout,
    /// Small limits on what a request may measure.
    Limits,
    /// Names with settings of their own.
    Hosts,
    /// The first of two names is kept for 700 ms, all else for 2500 ms.
    FirstHost,
    /// As usual, and `Proxy100Continue Off`.
    Own100,
    /// Kept for 5 s, and told to stop: servers for each conversation alone.
    Stopping,
}

/// What both are started with.
struct Settings {
    keep_alive: bool,
    max_requests: u32,
    keep_alive_timeout: &'static str,
    timeout_s: u32,
    request_read_timeout: Option<&'static str>,
    /// More for httpd.
    httpd: &'static str,
    /// More for `[client]`.
    client: &'static str,
    /// More tables for Warmline.
    tables: &'static str,
}

const USUAL: Settings = Settings {
    keep_alive: true,
    max_requests: 100,
    keep_alive_timeout: "600ms",
    timeout_s: 2,
    request_read_timeout: None,
    httpd: "",
    client: "",
    tables: "",
};

/// The same names for both. The first is what names that nobody has get.
const HOSTS: (&str, &str) = (
    "<VirtualHost *:*>\nServerName plain.example\n</VirtualHost>\n\
     <VirtualHost *:*>\nServerName short.example\nServerAlias *.short.example\n\
     KeepAliveTimeout 400ms\nMaxKeepAliveRequests 1\n</VirtualHost>\n\
     <VirtualHost *:*>\nServerName inherits.example\n\
     KeepAliveTimeout 0\nMaxKeepAliveRequests -1\n</VirtualHost>\n\
     <VirtualHost *:*>\nServerName off.example\nKeepAlive Off\n</VirtualHost>\n\
     <VirtualHost *:*>\nServerName slow.example\nTimeout 1\n</VirtualHost>\n",
    "[[hosts]]\nnames = [\"plain.example\"]\n\
     [[hosts]]\nnames = [\"short.example\", \"*.short.example\"]\n\
     keep_alive_timeout = \"400ms\"\nmax_keep_alive_requests = 1\n\
     [[hosts]]\nnames = [\"inherits.example\"]\n\
     keep_alive_timeout = 0\nmax_keep_alive_requests = -1\n\
     [[hosts]]\nnames = [\"off.example\"]\nkeep_alive = false\n\
     [[hosts]]\nnames = [\"slow.example\"]\ntimeout = \"1s\"\n",
);

impl Group {
    fn settings(self) -> Settings {
        match self {
            Group::Usual => USUAL,
            Group::Own100 => Settings {
                httpd: "Proxy100Continue Off\n",
                ..USUAL
            },
            Group::Stopping => Settings {
                keep_alive_timeout: "5s",
                ..USUAL
            },
            Group::Three => Settings {
                max_requests: 3,
                keep_alive_timeout: "1500ms",
                ..USUAL
            },
            Group::One => Settings {
                max_requests: 1,
                ..USUAL
            },
            Group::Unlimited => Settings {
                max_requests: 0,
                keep_alive_timeout: "1200ms",
                ..USUAL
            },
            Group::Off => Settings {
                keep_alive: false,
                ..USUAL
            },
            Group::NoTime => Settings {
                keep_alive_timeout: "0",
                ..USUAL
            },
            Group::ReadTimeout => Settings {
                keep_alive_timeout: "2500ms",
                timeout_s: 4,
                request_read_timeout: Some("header=1-2,MinRate=500 body=1,MinRate=500"),
                ..USUAL
            },
            Group::Limits => Settings {
                httpd: "LimitRequestLine 100\nLimitRequestFields 5\nLimitRequestFieldSize 60\n\
                        LimitRequestBody 10\n",
                client: "limit_request_line = 100\nlimit_request_fields = 5\n\
                         limit_request_field_size = 60\nlimit_request_body = 10\n",
                ..USUAL
            },
            Group::Hosts => Settings {
                keep_alive_timeout: "1500ms",
                max_requests: 2,
                httpd: HOSTS.0,
                tables: HOSTS.1,
                ..USUAL
            },
            Group::FirstHost => Settings {
                keep_alive_timeout: "2500ms",
                httpd: "<VirtualHost *:*>\nServerName first.example\n\
                        KeepAliveTimeout 700ms\n</VirtualHost>\n\
                        <VirtualHost *:*>\nServerName second.example\n</VirtualHost>\n",
                tables: "[[hosts]]\nnames = [\"first.example\"]\nkeep_alive_timeout = \"700ms\"\n\
                         [[hosts]]\nnames = [\"second.example\"]\n",
                ..USUAL
            },
        }
    }
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Httpd,
    Warmline,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Httpd => "httpd",
            Side::Warmline => "Warmline",
        })
    }
}

/// A running server with its backend.
pub struct Server {
    pub addr: SocketAddr,
    program: Running,
    _backend: Backend,
    _refusing: Refusing,
}

enum Running {
    Httpd(Httpd),
    Warmline(Program),
}

impl Server {
    /// Starts one of them with the settings of `group`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(side: Side, group: Group) -> Server {
        let backend = Backend::start(answer_all);
        let refusing = Refusing::start();
        let settings = group.settings();
        let program = match side {
            Side::Httpd => Running::Httpd(start_httpd(group, &settings, &backend, &refusing)),
            Side::Warmline => {
                Running::Warmline(Program::run(&toml(&settings, backend.addr, refusing.addr)))
            }
        };
        let addr = match &program {
            Running::Httpd(httpd) => httpd.addr,
            Running::Warmline(program) => program.addr,
        };
        Server {
            addr,
            program,
            _backend: backend,
            _refusing: refusing,
        }
    }

    /// Tells it to finish what it has begun and to end.
    pub fn stop_gracefully(&mut self) {
        match &mut self.program {
            Running::Httpd(httpd) => httpd.signal(Signal::WINCH),
            Running::Warmline(program) => program.process().signal(Signal::TERM),
        }
        .expect("a running program can be signalled");
    }
}

fn start_httpd(group: Group, settings: &Settings, backend: &Backend, refusing: &Refusing) -> Httpd {
    let load: String = ["proxy", "proxy_http", "reqtimeout"]
        .map(httpd::load)
        .concat();
    let passes = format!(
        "ProxyPassMatch ^/ready- !\nProxyPass /refused http://{}/\nProxyPass / http://{}/\n",
        refusing.addr, backend.addr
    );
    let on_off = if settings.keep_alive { "On" } else { "Off" };
    let read = settings.request_read_timeout.unwrap_or("header=0 body=0");
    let extra = format!(
        "{load}ServerLimit 1\nStartServers 1\nThreadLimit 96\nThreadsPerChild 96\n\
         MinSpareThreads 1\nMaxSpareThreads 96\nMaxRequestWorkers 96\nAcceptFilter http none\n\
         KeepAlive {on_off}\nMaxKeepAliveRequests {}\nKeepAliveTimeout {}\nTimeout {}\n\
         RequestReadTimeout {read}\nProxyTimeout 1\n{passes}{}",
        settings.max_requests, settings.keep_alive_timeout, settings.timeout_s, settings.httpd,
    );
    if group == Group::Stopping {
        // One process alone cannot be told to stop gracefully.
        Httpd::start_with_children(&extra)
    } else {
        Httpd::start(&extra)
    }
}

fn toml(settings: &Settings, backend: SocketAddr, refusing: SocketAddr) -> String {
    let read = settings
        .request_read_timeout
        .map_or_else(String::new, |s| format!("request_read_timeout = \"{s}\"\n"));
    format!(
        "[client]\nkeep_alive = {}\nmax_keep_alive_requests = {}\nkeep_alive_timeout = \"{}\"\n\
         timeout = \"{}s\"\n{read}{}{}\
         [[routes]]\npath = \"/\"\nupstream = \"app\"\n\
         [[routes]]\npath = \"/refused\"\nupstream = \"refused\"\n\
         [upstreams.app]\nservers = [\"{backend}\"]\ntimeout = \"1s\"\n\
         [upstreams.refused]\nservers = [\"{refusing}\"]\ntimeout = \"1s\"\n",
        settings.keep_alive,
        settings.max_requests,
        settings.keep_alive_timeout,
        settings.timeout_s,
        settings.client,
        settings.tables,
    )
}

/// A response that is longer than what the kernel holds between a server and a client that does not
/// read, whose receive buffer is small.
pub const LARGE: usize = 12 << 20;

/// Answers each request as its path says.
fn answer_all(mut conn: Conn) {
    while let Some(request) = conn.head() {
        let path = request.line().split(' ').nth(1).unwrap_or("/").to_owned();
        if path == "/continue" {
            conn.send("HTTP/1.1 100 Continue\r\n\r\n");
        }
        if path == "/refuses-body" {
            conn.send(
                "HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
            conn.fin();
            return;
        }
        let (length, whole) = conn.discard_body(&request);
        if !whole || !answer(&mut conn, &request, &path, length) {
            return;
        }
    }
}

/// Answers one; whether the connection goes on.
fn answer(conn: &mut Conn, request: &Request, path: &str, length: u64) -> bool {
    let body = if length == 0 {
        "ok".to_owned()
    } else {
        format!("got {length}")
    };
    let ordinary = |status: &str, lines: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{lines}\r\n{body}")
    };
    if let Some(ms) = path.strip_prefix("/late/") {
        // The script of a backend that takes its time.
        thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
    }
    let mut bytes = match path {
        "/chunked" => {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_owned()
        }
        "/until-close" => "HTTP/1.1 200 OK\r\n\r\nok".to_owned(),
        "/http10" => "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "/close" => ordinary("200 OK", "Connection: close\r\n"),
        "/keep-alive" => ordinary(
            "200 OK",
            "Connection: Keep-Alive\r\nKeep-Alive: timeout=77, max=7\r\n",
        ),
        "/hints" => format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{}",
            ordinary("200 OK", "")
        ),
        "/large" => {
            conn.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"
            ));
            conn.send(vec![b'x'; LARGE]);
            return true;
        }
        "/hang" => {
            conn.wait_for_end();
            return false;
        }
        "/gone" => String::new(),
        "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok".to_owned(),
        "/cut-chunked" => {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n".to_owned()
        }
        "/cut-head" => "HTTP/1.1 200 OK\r\nContent-Le".to_owned(),
        "/bad-length" => "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok".to_owned(),
        "/204" | "/304" => format!("HTTP/1.1 {} Nothing\r\n\r\n", &path[1..]),
        "/304-length" => "HTTP/1.1 304 Nothing\r\nContent-Length: 2\r\n\r\n".to_owned(),
        _ => match path.strip_prefix("/status/") {
            Some(status) => ordinary(&format!("{status} Status"), ""),
            None => ordinary("200 OK", ""),
        },
    };
    if request.line().starts_with("HEAD ") {
        let head = bytes.find("\r\n\r\n").map_or(bytes.len(), |end| end + 4);
        bytes.truncate(head);
    }
    let ends = [
        "/until-close",
        "/http10",
        "/close",
        "/gone",
        "/cut",
        "/cut-chunked",
        "/cut-head",
        "/bad-length",
    ];
    if ends.contains(&path) {
        conn.send(bytes);
        conn.half_close();
        conn.wait_for_end();
        return false;
    }
    conn.send(bytes)
}
