//! What is said of a setting: its name, what it takes, what it is when left out. The settings
//! themselves are listed in [`super::keys`].

use std::fmt::Write as _;

use crate::route::Template;

/// One kind of table in the file.
#[derive(Debug)]
pub struct Table {
    /// How it is written: `[client]`, `[[routes]]`.
    pub header: &'static str,
    /// The key in the file's root that holds it.
    pub key: &'static str,
    /// What it is about.
    pub about: &'static str,
    /// The settings in it, in the order they are explained.
    pub settings: &'static [Setting],
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Its name in the file.
    pub name: &'static str,
    /// Apache httpd's name for it, which is accepted too, in any case.
    pub alias: Option<&'static str>,
    /// What it takes.
    pub takes: Takes,
    /// Its value when it is left out, as it would be written.
    pub default: Default,
    /// What it does, in a line.
    pub meaning: &'static str,
    /// Its counterpart in Apache httpd 2.4, which is its source where there is one.
    pub apache: &'static str,
    /// Its counterpart in nginx.
    pub nginx: &'static str,
}

/// What a setting is when it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This, in TOML.
    Is(&'static str),
    /// Nothing: leaving it out says something of its own.
    None(&'static str),
    /// It cannot be left out.
    Required,
}

/// What a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// On or off.
    Switch,
    /// A whole number.
    Whole {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
        /// What is counted.
        unit: &'static str,
        /// What 0 means, if it is special.
        zero: Option<&'static str>,
    },
    /// A number of bytes.
    Bytes {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
        /// What 0 means, if it is special.
        zero: Option<&'static str>,
    },
    /// A length of time.
    Time {
        /// What 0 means; when it means nothing it is refused.
        zero: Option<&'static str>,
    },
    /// A length of time, or the word `off`.
    TimeOrOff {
        /// What 0 means.
        zero: &'static str,
    },
    /// A number of which 0 is unlimited, and -1 what is inherited.
    Limit {
        /// The most.
        most: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// How long the parts of a request may take, as Apache httpd writes it.
    ReadTimeout,
    /// A list of host names.
    Hosts,
    /// One of these words.
    Word(&'static [&'static str]),
    /// An address to listen on.
    Listen,
    /// The same, or a Unix socket's path.
    ListenOrUnix,
    /// A backend's address.
    Server,
    /// A list of backends.
    Servers,
    /// A list of IP addresses.
    Addresses,
    /// A list of networks.
    Networks,
    /// A list of protocols to switch to.
    Upgrades,
    /// The path of a file.
    File,
    /// The path of a file to write, or one of these words.
    FileOr(&'static [&'static str]),
    /// The name of a host.
    Name,
    /// The name of a header.
    Header,
    /// A list of name servers.
    NameServers,
    /// A range of ports.
    Ports,
    /// The name of a network device.
    Device,
    /// A host name of a route.
    Host,
    /// A path, or the beginning of one.
    Path,
    /// A regular expression.
    Pattern,
    /// A list of methods.
    Methods,
    /// Headers, and what they have to say.
    Headers,
    /// What becomes of headers.
    Changes,
    /// A text with variables.
    Template,
    /// A text.
    Text,
    /// The name of an upstream.
    Upstream,
    /// A part of the requests.
    Share,
    /// What tells requests that belong together.
    Key,
}

impl Table {
    /// The setting called `name` here, or by Apache's name for it.
    pub fn find(&self, name: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.is_called(name))
    }
}

impl Setting {
    /// The same on a listener or for a host, where it is inherited if it is left out.
    ///
    /// As in Apache httpd's virtual hosts, 0 for a time that may be 0 and -1 for a limit inherit too
    /// (`ap_fixup_virtual_hosts`, `set_keep_alive_timeout`).
    pub(super) const fn inherited(self) -> Setting {
        Setting {
            takes: if let Takes::Time { zero: Some(_) } = self.takes {
                Takes::Time {
                    zero: Some("inherits"),
                }
            } else if let Takes::Whole { most, unit, .. } = self.takes
                && most == u32::MAX as u64
            {
                // A limit of requests, not of lines.
                Takes::Limit { most, unit }
            } else {
                self.takes
            },
            default: Default::None("inherited"),
            ..self
        }
    }

    /// Whether `name` is its name, or Apache's in any case, as Apache has it.
    pub(super) fn is_called(&self, name: &str) -> bool {
        let alias = |alias: &str| alias.eq_ignore_ascii_case(name);
        self.name == name || self.alias.is_some_and(alias)
    }

    /// Whether `word` is what Apache httpd or nginx call it.
    pub fn is_elsewhere(&self, word: &str) -> bool {
        let quoted = [self.apache, self.nginx]
            .into_iter()
            .flat_map(|names| names.split('`').skip(1).step_by(2));
        quoted
            .filter(|name| !name.contains(' '))
            .any(|name| name.eq_ignore_ascii_case(word))
    }

    /// What it takes and what it is when left out, in a sentence.
    pub fn allowed(&self) -> String {
        let mut text = self.takes.allowed();
        if let Default::Is(default) = self.default {
            write!(text, " (default: {default})").expect("a string takes any text");
        }
        text
    }
}

impl Takes {
    /// What it is, with its article: `a duration`.
    pub fn noun(&self) -> &'static str {
        match self {
            Takes::Switch => "on or off",
            Takes::Bytes { .. } => "a number of bytes",
            Takes::Time { .. } => "a duration",
            Takes::TimeOrOff { .. } => "a duration or \"off\"",
            Takes::Whole { .. } | Takes::Limit { .. } => "a whole number",
            Takes::ReadTimeout => "what `header` and `body` may take",
            Takes::Hosts => "a list of host names",
            Takes::Word(_) => "one of its words",
            Takes::Listen => "an address and port",
            Takes::ListenOrUnix => "an address and port, or a Unix socket",
            Takes::Server => "a backend's address",
            Takes::Servers => "a list of backends",
            Takes::Addresses => "a list of IP addresses",
            Takes::Networks => "a list of IP addresses and networks",
            Takes::Header => "the name of a header",
            Takes::Upgrades => "a list of protocols",
            Takes::File | Takes::FileOr(_) => "the path of a file",
            Takes::Name => "the name of a host",
            Takes::NameServers => "a list of name servers",
            Takes::Ports => "a range of ports",
            Takes::Device => "the name of a network device",
            Takes::Host => "a host name",
            Takes::Path => "a path",
            Takes::Pattern => "a regular expression",
            Takes::Methods => "a list of methods",
            Takes::Headers => "a table of headers",
            Takes::Changes => "a table of `set`, `add` and `remove`",
            Takes::Template => "a text with variables",
            Takes::Text => "a text",
            Takes::Upstream => "the name of an upstream",
            Takes::Share => "a part of the requests",
            Takes::Key => "what tells requests that belong together",
        }
    }

    /// What is allowed, in a sentence.
    pub fn allowed(&self) -> String {
        match *self {
            Takes::Switch => "`true` or `false`, or \"On\" or \"Off\"".to_owned(),
            Takes::Whole {
                least, most, zero, ..
            } => special(format!("a whole number from {least} to {most}"), zero),
            Takes::Bytes {
                least,
                most: u64::MAX,
                zero,
            } => special(
                format!(
                    "a number of bytes from {least} up, such as 8190, \"8k\", \"1m\" or \"1g\""
                ),
                zero,
            ),
            Takes::Bytes { least, most, zero } => special(
                format!("a number of bytes from {least} to {most}, such as 8190 or \"8k\""),
                zero,
            ),
            Takes::Time { zero } => {
                let text = "such as \"300ms\", \"5s\", \"1m30s\", \"2h\" or \"1d\", or a number \
                            of seconds";
                match zero {
                    Some(_) => special(format!("a duration {text}"), zero),
                    None => format!("a duration of more than zero, {text}"),
                }
            }
            Takes::TimeOrOff { zero } => special(
                "a duration such as \"300ms\" or \"5s\", or \"off\"".to_owned(),
                Some(zero),
            ),
            Takes::Limit { most, .. } => {
                format!("a whole number from 0 to {most}; 0: unlimited; -1: inherits")
            }
            Takes::ReadTimeout => {
                "\"header=TIME-MOST,MinRate=BYTES body=TIME,MinRate=BYTES\", such as \
                                   \"header=10 body=30,MinRate=1000\"; what is left out is at its \
                                   default; 0: no bound on this part; \"off\": on neither"
                    .to_owned()
            }
            Takes::Hosts => "a list such as [\"shop.example\", \"*.shop.example\"]".to_owned(),
            Takes::Word(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                words.join(", ")
            }
            Takes::Listen => {
                "\"address:port\", such as \"0.0.0.0:8080\", \"[::]:8080\" or \":8080\"".to_owned()
            }
            Takes::ListenOrUnix => {
                "\"address:port\", such as \"127.0.0.1:9180\" or \"[::1]:9180\", or \"unix:/path\""
                    .to_owned()
            }
            Takes::Server => "\"host:port\", such as \"127.0.0.1:9000\" or \"[::1]:9000\", \
                              \"unix:/path\", or \"srv+_http._tcp.NAME\""
                .to_owned(),
            Takes::Servers => "a list such as [\"127.0.0.1:9000\", { address = \
                               \"127.0.0.1:9001\", weight = 2 }]"
                .to_owned(),
            Takes::Addresses => {
                "a list of this machine's addresses, such as [\"10.0.0.5\", \"10.0.0.6\"]"
                    .to_owned()
            }
            Takes::Networks => {
                "a list of addresses and networks, such as [\"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\"]"
                    .to_owned()
            }
            Takes::Upgrades => {
                "a list such as [\"websocket\"]; [\"*\"] for any, [] for none".to_owned()
            }
            Takes::File => "a path, from the working directory or absolute".to_owned(),
            Takes::FileOr(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
                format!("{}, or {}", Takes::File.allowed(), words.join(" or "))
            }
            Takes::Name => "a name such as \"app.example\"".to_owned(),
            Takes::Header => "a name such as \"X-Client-Subject\"".to_owned(),
            Takes::NameServers => {
                "a list of addresses, such as [\"10.0.0.2\", \"[::1]:5353\"]; port 53 unless given"
                    .to_owned()
            }
            Takes::Ports => {
                "\"low-high\", such as \"40000-49999\", both from 1 to 65535".to_owned()
            }
            Takes::Device => {
                "the name of one of this machine's network devices, such as \"eth1\"".to_owned()
            }
            Takes::Host => "a name such as \"shop.example\" or \"*.shop.example\"".to_owned(),
            Takes::Path => "a path such as \"/\" or \"/api\"".to_owned(),
            Takes::Pattern => PATTERN.to_owned(),
            Takes::Methods => "a list such as [\"GET\", \"POST\"]".to_owned(),
            Takes::Headers => HEADERS.to_owned(),
            Takes::Changes => CHANGES.to_owned(),
            Takes::Template => template(),
            Takes::Text => "a text".to_owned(),
            Takes::Upstream => "the NAME of one of the [upstreams.NAME]".to_owned(),
            Takes::Share => "a part from 0 to 1, such as 0.05 or \"5%\"".to_owned(),
            Takes::Key => "\"request\", \"client\", or \"header:NAME\"".to_owned(),
        }
    }

    /// In which unit it is thought of.
    pub fn unit(&self) -> &'static str {
        match self {
            Takes::Switch => "on/off",
            Takes::Whole { unit, .. } | Takes::Limit { unit, .. } => unit,
            Takes::Bytes { .. } => "bytes",
            Takes::Time { .. } | Takes::TimeOrOff { .. } | Takes::ReadTimeout => "time",
            Takes::Word(_) | Takes::Key => "word",
            Takes::Listen | Takes::ListenOrUnix | Takes::Server => "address",
            Takes::Servers
            | Takes::Methods
            | Takes::Addresses
            | Takes::Networks
            | Takes::Upgrades
            | Takes::NameServers
            | Takes::Hosts => "list",
            Takes::Host | Takes::Name => "host",
            Takes::Header => "header",
            Takes::Path | Takes::File | Takes::FileOr(_) => "path",
            Takes::Pattern => "pattern",
            Takes::Headers | Takes::Changes => "table",
            Takes::Template | Takes::Text => "text",
            Takes::Ports => "ports",
            Takes::Device | Takes::Upstream => "name",
            Takes::Share => "part",
        }
    }

    /// The least and the most a number may be.
    pub fn bounds(&self) -> (u64, u64) {
        match *self {
            Takes::Whole { least, most, .. } | Takes::Bytes { least, most, .. } => (least, most),
            Takes::Limit { most, .. } => (0, most),
            Takes::Switch
            | Takes::ReadTimeout
            | Takes::Hosts
            | Takes::Time { .. }
            | Takes::TimeOrOff { .. }
            | Takes::Word(_)
            | Takes::Listen
            | Takes::ListenOrUnix
            | Takes::Server
            | Takes::Servers
            | Takes::Addresses
            | Takes::Networks
            | Takes::Upgrades
            | Takes::File
            | Takes::FileOr(_)
            | Takes::Name
            | Takes::Header
            | Takes::NameServers
            | Takes::Ports
            | Takes::Device
            | Takes::Host
            | Takes::Path
            | Takes::Pattern
            | Takes::Methods
            | Takes::Headers
            | Takes::Changes
            | Takes::Template
            | Takes::Text
            | Takes::Upstream
            | Takes::Share
            | Takes::Key => (0, u64::MAX),
        }
    }

    /// What 0 means, if it is special.
    pub fn zero(&self) -> Option<&'static str> {
        match *self {
            Takes::Whole { zero, .. } | Takes::Bytes { zero, .. } | Takes::Time { zero } => zero,
            Takes::TimeOrOff { zero } => Some(zero),
            Takes::Limit { .. } => Some("unlimited; -1: inherits"),
            Takes::Switch
            | Takes::ReadTimeout
            | Takes::Hosts
            | Takes::Word(_)
            | Takes::Listen
            | Takes::ListenOrUnix
            | Takes::Server
            | Takes::Servers
            | Takes::Addresses
            | Takes::Networks
            | Takes::Upgrades
            | Takes::File
            | Takes::FileOr(_)
            | Takes::Name
            | Takes::Header
            | Takes::NameServers
            | Takes::Ports
            | Takes::Device
            | Takes::Host
            | Takes::Path
            | Takes::Pattern
            | Takes::Methods
            | Takes::Headers
            | Takes::Changes
            | Takes::Template
            | Takes::Text
            | Takes::Upstream
            | Takes::Share
            | Takes::Key => None,
        }
    }
}

const PATTERN: &str =
    "a regular expression such as '\\.(png|css)$'; `(?i)` before it disregards case";

const HEADERS: &str =
    "a table such as { X-Api = \"2\", Cookie = \"~beta=1\", Authorization = \"*\" }";

const CHANGES: &str =
    "a table such as { set = { X-Real-IP = \"$remote_addr\" }, remove = [\"X-Debug\"] }";

fn template() -> String {
    let names: Vec<_> = Template::names().map(|name| format!("${name}")).collect();
    let names = names.join(" ");
    format!("a text with variables: {names} $http_NAME $1 to $9; `$$` is a dollar")
}

fn special(text: String, zero: Option<&str>) -> String {
    match zero {
        Some(zero) => format!("{text}; 0: {zero}"),
        None => text,
    }
}
