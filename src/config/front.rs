//! The settings of the proxy as a whole and of its client side: the first part of the list in
//! [`keys`](super::keys).

use super::doors;
use super::setting::{Default, Setting, Table, Takes};

/// `[server]`.
pub const SERVER: Table = Table {
    header: "[server]",
    key: "server",
    about: "The proxy as a whole.",
    settings: &[
        Setting {
            name: "workers",
            alias: None,
            takes: Takes::Whole {
                least: 0,
                most: 1024,
                unit: "threads",
                zero: Some("one per core"),
            },
            default: Default::Is("0"),
            meaning: "Worker threads, each with its own listeners, pools and event loop.",
            apache: "`ServerLimit`, `ThreadsPerChild`",
            nginx: "`worker_processes` (1)",
        },
        Setting {
            name: "shutdown_timeout",
            alias: None,
            takes: Takes::Time {
                zero: Some("waits for none"),
            },
            default: Default::Is("\"30s\""),
            meaning: "How long requests in flight may take to finish once the proxy was told to stop.",
            apache: "`GracefulShutdownTimeout` (0, unlimited)",
            nginx: "`worker_shutdown_timeout` (unlimited)",
        },
        Setting {
            name: "resolver",
            alias: None,
            takes: Takes::NameServers,
            default: Default::None("those of `/etc/resolv.conf`"),
            meaning: "The name servers to ask for the addresses of backends. `/etc/hosts` comes first \
                      in any case.",
            apache: "none",
            nginx: "`resolver` (none: the system's, once)",
        },
    ],
};

/// `[client]`.
pub const CLIENT: Table = Table {
    header: "[client]",
    key: "client",
    about: "Towards clients.",
    settings: &[
        KEEP_ALIVE,
        MAX_KEEP_ALIVE_REQUESTS,
        KEEP_ALIVE_TIMEOUT,
        TIMEOUT,
        REQUEST_READ_TIMEOUT,
        LIMIT_REQUEST_LINE,
        LIMIT_REQUEST_FIELDS,
        LIMIT_REQUEST_FIELD_SIZE,
        LIMIT_REQUEST_BODY,
        ABORT_ON_CLOSE,
        doors::HTTP2,
        doors::MAX_STREAMS,
        doors::MAX_HEADER_LIST,
        doors::SUBJECT_HEADER,
        PROXY_PROTOCOL,
        TRUSTED_PROXIES,
        TRUSTED_HEADER,
        MAX_CONNECTIONS,
    ],
};

/// `[admin]`.
pub const ADMIN: Table = Table {
    header: "[admin]",
    key: "admin",
    about: "Where operators and their programs ask how the proxy is: a page at `/`, `/metrics` for \
            Prometheus, the same as JSON, `/healthz`, `/readyz`. Without this table, nowhere.",
    settings: &[
        Setting {
            name: "address",
            alias: None,
            takes: Takes::ListenOrUnix,
            default: Default::Is("\"127.0.0.1:9180\""),
            meaning: "Address and port to listen on for that, or a Unix socket (`unix:/run/warmline/admin.sock`), \
                      which its owner and group may use; nothing else is answered there. It takes a \
                      restart to change it.",
            apache: "`SetHandler server-status`",
            nginx: "`stub_status`",
        },
        Setting {
            name: "public",
            alias: None,
            takes: Takes::Switch,
            default: Default::Is("false"),
            meaning: "Whether the address may be one that others than this machine can reach, and asked \
                      under any name. Otherwise only `localhost` and the address itself are answered to.",
            apache: "`Require`",
            nginx: "`allow`, `deny`",
        },
    ],
};

/// `[access_log]`.
pub const ACCESS_LOG: Table = Table {
    header: "[access_log]",
    key: "access_log",
    about: "A line for each exchange with a client. Without this table, none. It takes a restart to \
            change it; SIGUSR1 reopens the file.",
    settings: &[
        Setting {
            name: "path",
            alias: None,
            takes: Takes::FileOr(&["stdout", "off"]),
            default: Default::Required,
            meaning: "The file that lines are added to, made if it is not there (0640); `stdout`; \
                      or `off`.",
            apache: "`CustomLog`",
            nginx: "`access_log` (logs/access.log)",
        },
        Setting {
            name: "format",
            alias: None,
            takes: Takes::Word(&["combined", "extended", "json"]),
            default: Default::Is("\"combined\""),
            meaning: "Apache httpd's `combined`; the same, and after it what is known of the backend's \
                      connection, as `key=value`; or that and more as an object of JSON.",
            apache: "`LogFormat`",
            nginx: "`log_format` (combined)",
        },
        Setting {
            name: "flush",
            alias: None,
            takes: Takes::Time { zero: None },
            default: Default::Is("\"1s\""),
            meaning: "The longest a line waits in a buffer.",
            apache: "`BufferedLogs` (Off)",
            nginx: "`access_log … flush=` (none)",
        },
    ],
};

/// `[[listeners]]`.
pub const LISTENERS: Table = Table {
    header: "[[listeners]]",
    key: "listeners",
    about: "An address to listen on. At least one; each has a table of its own. What is said of clients \
            here is for those of this address; what is left out is as in `[client]`.",
    settings: &[
        ADDRESS,
        doors::TLS,
        doors::MIN_VERSION,
        doors::HANDSHAKE_TIMEOUT,
        doors::CLIENT_CERTIFICATE,
        doors::CLIENT_CA,
        doors::SESSION_TICKETS,
        doors::KEY_LOG,
        KEEP_ALIVE.inherited(),
        MAX_KEEP_ALIVE_REQUESTS.inherited(),
        KEEP_ALIVE_TIMEOUT.inherited(),
        TIMEOUT.inherited(),
        REQUEST_READ_TIMEOUT.inherited(),
        LIMIT_REQUEST_LINE.inherited(),
        LIMIT_REQUEST_FIELDS.inherited(),
        LIMIT_REQUEST_FIELD_SIZE.inherited(),
        LIMIT_REQUEST_BODY.inherited(),
        ABORT_ON_CLOSE.inherited(),
        doors::HTTP2.inherited(),
        doors::MAX_STREAMS.inherited(),
        doors::MAX_HEADER_LIST.inherited(),
        PROXY_PROTOCOL.inherited(),
        TRUSTED_PROXIES.inherited(),
        TRUSTED_HEADER.inherited(),
    ],
};

/// `[[hosts]]`.
pub const HOSTS: Table = Table {
    header: "[[hosts]]",
    key: "hosts",
    about: "A name-based virtual host: what is said here is for requests to these hosts, on every \
            listener; what is left out is as on the listener. Until a request has named its host the \
            listener's settings count, so the limits of its line and its header lines are not here, nor who \
            introduces clients and is trusted.",
    settings: &[
        NAMES,
        KEEP_ALIVE.inherited(),
        MAX_KEEP_ALIVE_REQUESTS.inherited(),
        KEEP_ALIVE_TIMEOUT.inherited(),
        TIMEOUT.inherited(),
        REQUEST_READ_TIMEOUT.inherited(),
        LIMIT_REQUEST_BODY.inherited(),
        ABORT_ON_CLOSE.inherited(),
    ],
};

// What is said of clients in `[client]`, and may be said again for a listener or a host.

pub(super) const KEEP_ALIVE: Setting = Setting {
    name: "keep_alive",
    alias: Some("KeepAlive"),
    takes: Takes::Switch,
    default: Default::Is("true"),
    meaning: "Whether a client's connection is kept for further requests. Off is one \
              request a connection.",
    apache: "`KeepAlive` (On)",
    nginx: "`keepalive_timeout 0` turns it off",
};

pub(super) const MAX_KEEP_ALIVE_REQUESTS: Setting = Setting {
    name: "max_keep_alive_requests",
    alias: Some("MaxKeepAliveRequests"),
    takes: Takes::Whole {
        least: 0,
        most: u32::MAX as u64,
        unit: "requests",
        zero: Some("unlimited"),
    },
    default: Default::Is("100"),
    meaning: "How many responses may promise to keep the connection. The one after them \
              still arrives and ends it, as in Apache.",
    apache: "`MaxKeepAliveRequests` (100)",
    nginx: "`keepalive_requests` (1000)",
};

pub(super) const KEEP_ALIVE_TIMEOUT: Setting = Setting {
    name: "keep_alive_timeout",
    alias: Some("KeepAliveTimeout"),
    takes: Takes::Time {
        zero: Some("keeps none"),
    },
    default: Default::Is("\"5s\""),
    meaning: "The longest a kept connection may wait for its next request.",
    apache: "`KeepAliveTimeout` (5)",
    nginx: "`keepalive_timeout` (75s)",
};

pub(super) const TIMEOUT: Setting = Setting {
    name: "timeout",
    alias: Some("Timeout"),
    takes: Takes::Time { zero: None },
    default: Default::Is("\"60s\""),
    meaning: "The longest one read from or write to a client may make no progress.",
    apache: "`Timeout` (60)",
    nginx: "`client_header_timeout`, `client_body_timeout`, `send_timeout` (60s)",
};

const LIMIT_REQUEST_LINE: Setting = Setting {
    name: "limit_request_line",
    alias: Some("LimitRequestLine"),
    takes: Takes::Bytes {
        least: 1,
        most: 1 << 20,
        zero: None,
    },
    default: Default::Is("8190"),
    meaning: "The longest request line; longer is answered 414.",
    apache: "`LimitRequestLine` (8190)",
    nginx: "`large_client_header_buffers` (4 of 8k)",
};

const LIMIT_REQUEST_FIELDS: Setting = Setting {
    name: "limit_request_fields",
    alias: Some("LimitRequestFields"),
    takes: Takes::Whole {
        least: 0,
        most: 32_767,
        unit: "lines",
        zero: Some("as many as 4096"),
    },
    default: Default::Is("100"),
    meaning: "The most header lines of a request; more are answered 431.",
    apache: "`LimitRequestFields` (100)",
    nginx: "none",
};

const LIMIT_REQUEST_FIELD_SIZE: Setting = Setting {
    name: "limit_request_field_size",
    alias: Some("LimitRequestFieldSize"),
    takes: Takes::Bytes {
        least: 1,
        most: 1 << 20,
        zero: None,
    },
    default: Default::Is("8190"),
    meaning: "The longest header line of a request; longer is answered 431.",
    apache: "`LimitRequestFieldSize` (8190)",
    nginx: "`large_client_header_buffers` (4 of 8k)",
};

pub(super) const LIMIT_REQUEST_BODY: Setting = Setting {
    name: "limit_request_body",
    alias: Some("LimitRequestBody"),
    takes: Takes::Bytes {
        least: 0,
        most: u64::MAX,
        zero: Some("unlimited"),
    },
    default: Default::Is("0"),
    meaning: "The longest request body; longer is answered 413.",
    apache: "`LimitRequestBody` (1 GiB; none for proxied requests)",
    nginx: "`client_max_body_size` (1m)",
};

pub(super) const REQUEST_READ_TIMEOUT: Setting = Setting {
    name: "request_read_timeout",
    alias: Some("RequestReadTimeout"),
    takes: Takes::ReadTimeout,
    default: Default::Is("\"header=20-40,MinRate=500 body=20,MinRate=500\""),
    meaning: "How long a request's whole head, and its whole body, may take to come: a time, and for \
              each `MinRate` bytes that have come a second more, up to the second time. Beside \
              `timeout`.",
    apache: "`RequestReadTimeout` (the same)",
    nginx: "`client_header_timeout` (60s), for the head",
};

pub(super) const ABORT_ON_CLOSE: Setting = Setting {
    name: "abort_on_close",
    alias: None,
    takes: Takes::Switch,
    default: Default::Is("false"),
    meaning: "Whether a client that closes its side while it waits has given its request up. Else it \
              is answered; a reset always ends the exchange.",
    apache: "none (never)",
    nginx: "`proxy_ignore_client_abort off` (always)",
};

const PROXY_PROTOCOL: Setting = Setting {
    name: "proxy_protocol",
    alias: None,
    takes: Takes::Networks,
    default: Default::Is("[]"),
    meaning: "Whose connections begin with a PROXY header (version 1 or 2), which names the client. Without \
              one they are closed; from others it is not taken.",
    apache: "`RemoteIPProxyProtocol`",
    nginx: "`listen … proxy_protocol` (everybody's)",
};

const TRUSTED_PROXIES: Setting = Setting {
    name: "trusted_proxies",
    alias: None,
    takes: Takes::Networks,
    default: Default::Is("[]"),
    meaning: "Proxies that are believed when they say in a header for which client a request is. With such a list, \
              what others say in `Forwarded`, `X-Forwarded-…` and `X-Real-IP` is removed.",
    apache: "`RemoteIPInternalProxy`, `RemoteIPTrustedProxy`",
    nginx: "`set_real_ip_from`, `real_ip_recursive on`",
};

const TRUSTED_HEADER: Setting = Setting {
    name: "trusted_header",
    alias: None,
    takes: Takes::Header,
    default: Default::Is("\"x-forwarded-for\""),
    meaning: "The header they say it in: `forwarded` (RFC 7239), or any that is an address or a list of them, of which \
              the last one counts that is not a trusted proxy's.",
    apache: "`RemoteIPHeader`",
    nginx: "`real_ip_header` (X-Real-IP)",
};

const MAX_CONNECTIONS: Setting = Setting {
    name: "max_connections",
    alias: None,
    takes: Takes::Whole {
        least: 0,
        most: u32::MAX as u64,
        unit: "connections",
        zero: Some("unlimited"),
    },
    default: Default::Is("0"),
    meaning: "The most client connections at once, for all workers together. At the limit the one \
              that has been idle for the longest is closed for each new one; if none is idle, new \
              ones wait in the kernel's backlog.",
    apache: "`MaxRequestWorkers`, `AsyncRequestWorkerFactor`",
    nginx: "`worker_connections` (512, each process)",
};

const ADDRESS: Setting = Setting {
    name: "address",
    alias: Some("Listen"),
    takes: Takes::Listen,
    default: Default::Required,
    meaning: "Address and port. `:8080`, `*:8080` and `8080` listen on every IPv4 address; port 0 lets \
              the kernel choose.",
    apache: "`Listen`",
    nginx: "`listen`",
};

const NAMES: Setting = Setting {
    name: "names",
    alias: Some("ServerName"),
    takes: Takes::Hosts,
    default: Default::Required,
    meaning: "The hosts that requests name, without a port; `*.example` is every name below `example`.",
    apache: "`ServerName`, `ServerAlias`",
    nginx: "`server_name`",
};
