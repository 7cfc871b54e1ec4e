//! A comparison that was run, as it is kept: what was compared, where, under which load, every round, and the
//! kernel's sockets over time.
//!
//! [`Report`] is the file that `warmline compare --json` writes and `warmline report` reads. Everything that is
//! said of a run, in the terminal and on the page, is worked out from it alone, so a kept file can be looked at
//! again, and held beside another. Names of fields are the keys; [`SCHEMA`] goes up when one changes its meaning or
//! goes away. What a reader does not know it passes over, and what is not there is unknown.
//!
//! Units: times of the run in seconds since its start, latencies and CPU in microseconds, sizes in bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::hdr::Hdr;

mod html;
pub mod judge;
mod page;
mod read;
mod svg;
mod text;
mod verdict;
mod words;

pub use html::html;
pub use read::{Unreadable, read};
pub use text::{beside, text};

/// The version of this form.
pub const SCHEMA: u32 = 1;

/// A run of `warmline compare`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Always [`SCHEMA`] where this version wrote it.
    pub schema: u32,
    /// The version that ran it.
    pub warmline: String,
    /// When it began, UTC, RFC 3339.
    pub started: String,
    /// How long all of it took.
    pub seconds: f64,
    /// The command line.
    pub command: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// What was asked of every arm alike.
    pub plan: Plan,
    /// What the packets went through.
    pub network: Network,
    /// What was compared. The first is what the others are held against.
    pub arms: Vec<Arm>,
    /// What whoever reads the figures has to know: what this run hides, what was in the way.
    pub notes: Vec<String>,
}

/// The machine, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// System and release of the kernel.
    pub kernel: String,
    /// Processors that the run could use.
    pub cpus: u32,
    /// What `/proc/cpuinfo` calls them.
    pub cpu: String,
    /// Its memory.
    pub memory_bytes: u64,
    /// The load average of the last minute when it began.
    pub load_average: f64,
}

/// What was asked of every arm alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// What answered: `embedded`, or the address that was given.
    pub backend: String,
    /// Busy work of an embedded backend for each request.
    pub backend_work_us: f64,
    /// How long it then waits.
    pub backend_delay_us: f64,
    /// The body of its answers.
    pub response_bytes: u64,
    /// `GET`, unless asked for otherwise.
    pub method: String,
    /// The path that was asked for.
    pub path: String,
    /// The body of each request.
    pub request_bytes: u64,
    /// `closed`: the next request goes out when the last is answered; `constant`, `poisson`: by the clock; `given`:
    /// whatever comes from elsewhere.
    pub pace: String,
    /// Requests a second, where they go by the clock.
    pub rate: Option<u32>,
    /// Time between an answer and the next request, where they do not.
    pub think_us: f64,
    /// Client connections.
    pub connections: u32,
    /// Threads that send.
    pub threads: u32,
    /// Whether each client's connection ends after its request.
    pub client_close: bool,
    /// Workers of each proxy.
    pub workers: u32,
    /// Rounds of each arm.
    pub rounds: u32,
    /// How long a round is measured.
    pub round_seconds: f64,
    /// How long each arm is driven before its first round.
    pub warm_up_seconds: f64,
    /// The order of the rounds, arm by arm, such as `ABBA`.
    pub order: String,
}

/// What the packets went through.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    /// `namespaces`: hosts of their own, joined by veth; `loopback`; `given`: whatever lies before a backend that was named.
    pub kind: String,
    /// One way, added by the lab.
    pub delay_us: f64,
    /// The part of packets that the lab drops, 0 to 1.
    pub loss: f64,
    /// The lab's limit of the link in bits a second.
    pub rate_bits: Option<u64>,
    /// `net.ipv4.…` as it was for the proxies, by the short name.
    pub sysctls: BTreeMap<String, String>,
}

/// One of what was compared: a proxy in one mode, with a backend of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Arm {
    /// Its name, unlike the others'.
    pub name: String,
    /// `pooled`, or the short mode: `close-by-header`, `proxy-closes`, `rst`.
    pub mode: String,
    /// `warmline`, `nginx`, `haproxy`.
    pub program: String,
    /// What that program says of its version.
    pub version: String,
    /// The configuration it ran with, whole.
    pub config: String,
    /// Who closes a connection to the backend first and how, in words, as it has to be.
    pub close_order: String,
    /// The proof that it was so: what was expected of the kernel's and the proxy's counters, and what they said.
    pub fingerprint: Vec<Check>,
    /// In the order they ran.
    pub rounds: Vec<Round>,
    /// The kernel's sockets, from the run's start to its end.
    pub timeline: Vec<Moment>,
    /// All rounds: from when a request was due until its answer was over.
    pub latency: Hdr,
    /// The proxy's `connect()` to the backend, where it tells: upper bounds of classes in seconds and how many took
    /// no longer, as in Prometheus; the last has no bound.
    pub connect_time: Vec<Class>,
    /// The most there was at any moment.
    pub peak: Peak,
    /// Seconds since the run's start when a request first found no port to the backend.
    pub exhausted_at: Option<f64>,
}

/// One line of a fingerprint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// What is counted.
    pub what: String,
    /// What it must be, in words.
    pub expected: String,
    /// What it was.
    pub found: u64,
    /// Of so many.
    pub of: u64,
    /// Whether that is as it must be.
    pub fits: bool,
}

/// One class of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Class {
    /// Seconds; `None`: no bound.
    pub up_to: Option<f64>,
    /// How many took no longer.
    pub count: u64,
}

/// One round of one arm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Round {
    /// When it began.
    pub at: f64,
    /// How long it was measured.
    pub seconds: f64,
    /// Requests that were sent.
    pub sent: u64,
    /// Answers read to their end.
    pub answered: u64,
    /// These by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests without an answer, by the key of the load's `Unanswered`.
    pub errors: BTreeMap<String, u64>,
    /// Bytes that the client sent.
    pub bytes_sent: u64,
    /// And received.
    pub bytes_received: u64,
    /// Latency.
    pub p50_us: f64,
    /// Latency.
    pub p90_us: f64,
    /// Latency.
    pub p99_us: f64,
    /// Latency.
    pub p999_us: f64,
    /// Latency.
    pub max_us: f64,
    /// CPU that the proxy took, all its threads.
    pub proxy_cpu_us: f64,
    /// The part of it that was not the kernel's, 0 to 1; known over the whole run only, and the same in each round.
    pub proxy_user_part: f64,
    /// CPU of the backend, where it is ours.
    pub backend_cpu_us: Option<f64>,
    /// The part of it that was not the kernel's.
    pub backend_user_part: Option<f64>,
    /// Connections that the proxy opened to the backend; `None`: it does not say, and nobody else knows.
    pub connects: Option<u64>,
    /// Requests that it sent on one that had served before.
    pub reused: Option<u64>,
}

/// The kernel's sockets of one arm at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Moment {
    /// When.
    pub at: f64,
    /// Whether this arm was the one under load.
    pub driven: bool,
    /// The proxy's sockets towards the backend, by state as the kernel names it (`TIME_WAIT`); those that there are.
    pub proxy: BTreeMap<String, u64>,
    /// The backend's own, where they can be seen.
    pub backend: Option<BTreeMap<String, u64>>,
    /// Of those towards the backend in TIME_WAIT, what is not of this run.
    pub foreign_time_wait: u64,
    /// Local ports left towards the backend.
    pub ports_left: Option<u64>,
}

/// The most at any moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peak {
    /// Sockets of both sides.
    pub sockets: u64,
    /// Of these in TIME_WAIT.
    pub time_wait: u64,
    /// What the kernel holds for them, by the sizes of its objects.
    pub kernel_bytes: u64,
    /// The proxy's resident memory.
    pub proxy_bytes: u64,
}

impl Round {
    /// Answers of 500 to 599.
    pub fn refused(&self) -> u64 {
        self.statuses.range(500..600).map(|(_, count)| count).sum()
    }

    /// Requests without an answer, and answers of 500 to 599.
    pub fn failed(&self) -> u64 {
        let unanswered: u64 = self.errors.values().sum();
        unanswered.saturating_add(self.refused())
    }
}
