//! One exchange with a client once it is over: what the metrics count and the access log tells.

use std::net::SocketAddr;
use std::time::Duration;

use http::{HeaderValue, Method, Uri, Version};

use crate::keepalive::CloseReason;

/// How an upstream's connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Arm {
    /// They are kept for further requests.
    Pooled,
    /// One for each request.
    Short,
}

impl Arm {
    /// Both, in the order of their numbers.
    pub const ALL: [Arm; 2] = [Arm::Pooled, Arm::Short];

    /// As it stands in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Arm::Pooled => "pooled",
            Arm::Short => "short",
        }
    }
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The backend's response was handed over to its end.
    Answered,
    /// The answer was one of our own: an error.
    Refused,
    /// The answer was one of our own that a route asks for: a redirect, a fixed response.
    Own,
    /// The backend's response broke off, or took too long.
    BrokenOff,
    /// The client went away before the end.
    ClientGone,
}

impl Outcome {
    /// All of them, in the order of their numbers.
    pub const ALL: [Outcome; 5] = [
        Outcome::Answered,
        Outcome::Refused,
        Outcome::Own,
        Outcome::BrokenOff,
        Outcome::ClientGone,
    ];

    /// As it stands in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Outcome::Answered => "answered",
            Outcome::Refused => "refused",
            Outcome::Own => "own",
            Outcome::BrokenOff => "broken_off",
            Outcome::ClientGone => "client_gone",
        }
    }
}

/// A request's head, as far as it is told of.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Its target as it came.
    pub target: Uri,
    /// Its version.
    pub version: Version,
    /// Its `Host`, the one the route was found by.
    pub host: Option<HeaderValue>,
    /// Its `Referer`.
    pub referer: Option<HeaderValue>,
    /// Its `User-Agent`.
    pub user_agent: Option<HeaderValue>,
}

/// One exchange with a client, once it is over.
#[derive(Clone, Copy)]
pub struct Exchange<'a> {
    /// Where the client connected from.
    pub client: SocketAddr,
    /// The number of the exchange on the client's connection; the first is 1.
    pub client_exchange: u32,
    /// Whether the client's connection was to be kept after it.
    pub client_kept: bool,
    /// The request; `None` if what came could not be read as one.
    pub asked: Option<&'a Asked>,
    /// The response's status; 0 if the client went away before there was one.
    pub status: u16,
    /// The bytes of the request's body that were read.
    pub received: u64,
    /// The bytes of the response's body that were handed over.
    pub sent: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// From the request's head to the last byte of the response handed over.
    pub total: Duration,
    /// What was done at a backend, if the request got as far as to an upstream.
    pub upstream: Option<Upstream<'a>>,
}

/// What an exchange was towards its upstream.
#[derive(Clone, Copy)]
pub struct Upstream<'a> {
    /// The upstream's name.
    pub name: &'a str,
    /// Whether its connections are pooled.
    pub arm: Arm,
    /// The address of the last backend that was tried.
    pub backend: Option<&'a dyn std::fmt::Display>,
    /// The backend connection it ended on, if one was had.
    pub connection: Option<Connection>,
    /// From the request's head until a connection was had.
    pub checkout: Option<Duration>,
    /// From then until the response's head was there.
    pub first_byte: Option<Duration>,
    /// How often it was sent again, each time on another connection.
    pub sent_again: u32,
    /// Why it was sent again the last time: `unsent`, `repeatable`, `refused`.
    pub again_since: Option<&'static str>,
}

/// The backend connection an exchange was on.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Its number, unique in the process.
    pub id: u64,
    /// The number of the exchange on it; the first is 1.
    pub exchange: u32,
    /// How long it had waited before; `None` if it was opened for this exchange.
    pub idle: Option<Duration>,
    /// How long it took to open, if it was opened for this exchange.
    pub connect: Option<Duration>,
    /// Its local port, where it has one.
    pub local_port: Option<u16>,
    /// Why it ended with this exchange; `None` if it was kept.
    pub closed: Option<CloseReason>,
}
