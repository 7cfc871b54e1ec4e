//! A comparison as it is asked for, and what the report says of it.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::arms::{self, Arm};
use super::config::Base;
use crate::compare::backend::Answers;
use crate::compare::lab::{Lab, Line, Sysctls};
use crate::compare::load::{self, Pace, Request, Target};
use crate::compare::report::{Network, Plan, Report};

/// What answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Behind {
    /// A backend of our own for each arm.
    Embedded(Answers),
    /// One that is there.
    Given(Target),
    /// An upstream of a configuration file, with all its settings.
    File(Base),
}

/// Where.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// On this machine as it is.
    Loopback,
    /// On hosts of their own: what their lines and kernels are like.
    Hosts {
        /// From each proxy to its backend.
        line: Line,
        /// The kernel's settings of each host.
        sysctls: Sysctls,
    },
}

/// A comparison as it is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What is compared; the first is what the others are held against.
    pub arms: Vec<Arm>,
    /// What answers.
    pub behind: Behind,
    /// Where.
    pub place: Place,
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// Headers beside what has to be there.
    pub headers: Vec<(String, String)>,
    /// The body of each request.
    pub body: Option<usize>,
    /// When requests are sent.
    pub pace: Pace,
    /// Client connections.
    pub connections: NonZeroU32,
    /// Threads that send.
    pub threads: NonZeroU32,
    /// Whether each client's connection ends after its request.
    pub client_close: bool,
    /// Workers of each proxy.
    pub workers: u32,
    /// Rounds of each arm.
    pub rounds: u32,
    /// How long a round is.
    pub round: Duration,
    /// How many requests a round has at most.
    pub round_requests: Option<u64>,
    /// How long each arm is driven before its first round.
    pub warm_up: Duration,
    /// The longest a request may take.
    pub timeout: Duration,
    /// The command line, for the report.
    pub command: Vec<String>,
}

impl Settings {
    /// What is sent to a proxy.
    pub(super) fn request(&self, proxy: SocketAddr, close: bool) -> Request {
        let target = Target {
            host: proxy.ip().to_string(),
            port: proxy.port(),
            authority: match &self.behind {
                Behind::Given(target) => target.authority.clone(),
                Behind::Embedded(_) | Behind::File(_) => proxy.to_string(),
            },
            path: self.path.clone(),
        };
        Request::new(&target, &self.method, &self.headers, self.body, close)
    }

    pub(super) fn load(
        &self,
        proxy: SocketAddr,
        warm_up: Duration,
        duration: Duration,
        requests: Option<u64>,
    ) -> load::Settings {
        load::Settings {
            addresses: vec![proxy],
            request: self.request(proxy, self.client_close),
            pace: self.pace,
            connections: self.connections,
            threads: self.threads,
            close: self.client_close,
            warm_up,
            duration: Some(duration),
            requests,
            timeout: self.timeout,
        }
    }

    /// What is known before any arm is.
    pub(super) fn about(&self, lab: &Lab, rounds: usize) -> Report {
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let (backend, answers) = match &self.behind {
            Behind::Embedded(answers) => ("embedded".to_owned(), *answers),
            Behind::Given(target) => (target.to_string(), Answers::default()),
            Behind::File(base) => (
                format!(
                    "upstream {}: {}",
                    base.upstream(),
                    base.servers().join(", ")
                ),
                Answers::default(),
            ),
        };
        let is_ours = matches!(self.behind, Behind::Embedded(_));
        let (pace, rate, think) = match self.pace {
            Pace::Closed { think } => ("closed", None, think),
            Pace::Open { rate, spread } => {
                let pace = match spread {
                    load::Spread::Constant => "constant",
                    load::Spread::Poisson => "poisson",
                };
                (pace, Some(rate.get()), Duration::ZERO)
            }
        };
        let letters = (b'A'..).map(char::from);
        let letters: Vec<char> = letters.take(self.arms.len()).collect();
        let order = arms::order(self.arms.len(), rounds.min(2));
        let (kind, line) = match (&self.place, &self.behind) {
            (Place::Hosts { line, .. }, _) => ("namespaces", *line),
            (Place::Loopback, Behind::Embedded(_)) => ("loopback", Line::default()),
            (Place::Loopback, Behind::Given(_) | Behind::File(_)) => ("given", Line::default()),
        };
        let sysctls = [
            "ip_local_port_range",
            "ip_local_reserved_ports",
            "tcp_tw_reuse",
            "tcp_max_tw_buckets",
            "tcp_fin_timeout",
            "tcp_timestamps",
        ];
        let proxy = &lab.arms()[0].proxy;
        let sysctls = sysctls.into_iter().filter_map(|name| {
            let value = proxy.sysctl(&format!("net.ipv4.{name}")).ok()?;
            Some((
                name.to_owned(),
                value.split_ascii_whitespace().collect::<Vec<_>>().join(" "),
            ))
        });
        let mut notes: Vec<String> = Vec::new();
        if kind == "loopback" {
            notes.extend(
                lab.hides()
                    .iter()
                    .map(|hidden| format!("Over loopback: {hidden}.")),
            );
        }
        notes.extend(lab.means().iter().cloned());
        Report {
            command: self.command.clone(),
            plan: Plan {
                backend,
                backend_work_us: micros(answers.work),
                backend_delay_us: micros(answers.delay),
                response_bytes: if is_ours {
                    answers.body_bytes as u64
                } else {
                    0
                },
                method: self.method.clone(),
                path: self.path.clone(),
                request_bytes: self.body.unwrap_or(0) as u64,
                pace: pace.to_owned(),
                rate,
                think_us: micros(think),
                connections: self.connections.get(),
                threads: self.threads.get(),
                client_close: self.client_close,
                workers: self.workers,
                rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
                round_seconds: self.round.as_secs_f64(),
                warm_up_seconds: self.warm_up.as_secs_f64(),
                order: order.into_iter().map(|arm| letters[arm]).collect(),
            },
            network: Network {
                kind: kind.to_owned(),
                delay_us: micros(line.delay),
                loss: line.loss,
                rate_bits: line.rate,
                sysctls: sysctls.collect(),
            },
            notes,
            ..Report::default()
        }
    }
}
