//! The doctor: what these settings will run into on this machine, and what a running proxy runs into
//! now.
//!
//! Each rule is a function from what is known to what there is to say of it, under a name that stays.
//! What is not known makes a rule silent, never wrong: a machine whose settings cannot be read, a proxy
//! that does not run. Nothing is changed, and nothing is asked here: the [`Facts`] were gathered before.

use crate::quantity::counted;

mod facts;
mod live;
mod machine;
mod predict;
mod running;
#[cfg(test)]
mod tests;
pub mod text;
mod upstreams;

pub use facts::{Conntrack, Facts, Machine, Proxy, Refused, Towards};
pub use live::{Closes, Live, LiveBackend};
pub use predict::{Expected, expected};

/// How bad it is; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Requests fail, or will at the rate that is known.
    Problem,
    /// It costs something, or will fail under more load.
    Advice,
    /// It is as it should be.
    Fine,
}

impl Level {
    /// The word it has in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Level::Problem => "problem",
            Level::Advice => "advice",
            Level::Fine => "fine",
        }
    }
}

/// One thing to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The rule that found it: one of [`RULES`].
    pub rule: &'static str,
    /// What it is about: an upstream, a backend; empty: the machine or the whole file.
    pub about: String,
    /// What was found, with figures.
    pub found: String,
    /// Why it matters; empty where it is fine.
    pub why: String,
    /// What to do: a command, a line of the file, or a sentence.
    pub remedies: Vec<String>,
}

impl Finding {
    fn new(level: Level, found: impl Into<String>) -> Finding {
        Finding {
            level,
            rule: "",
            about: String::new(),
            found: found.into(),
            why: String::new(),
            remedies: Vec::new(),
        }
    }

    fn problem(found: impl Into<String>) -> Finding {
        Finding::new(Level::Problem, found)
    }

    fn advice(found: impl Into<String>) -> Finding {
        Finding::new(Level::Advice, found)
    }

    fn fine(found: impl Into<String>) -> Finding {
        Finding::new(Level::Fine, found)
    }

    fn about(mut self, about: impl Into<String>) -> Finding {
        self.about = about.into();
        self
    }

    fn why(mut self, why: impl Into<String>) -> Finding {
        self.why = why.into();
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedies.push(remedy.into());
        self
    }
}

/// From what is known to what there is to say.
type Rule = fn(&Facts<'_>) -> Vec<Finding>;

/// Every rule under its name, in the order of what they say at the same level.
pub const RULES: &[(&str, Rule)] = &[
    ("proxy", running::proxy),
    ("reload", running::reload),
    ("ports-left", running::ports_left),
    ("time-wait", running::time_wait),
    ("connects", running::connects),
    ("max-connections", running::max_connections),
    ("max-idle", running::max_idle),
    ("reuse", running::reuse),
    ("idle-timeout", running::idle_timeout),
    ("short-mode", upstreams::short_mode),
    ("request-limit", upstreams::request_limit),
    ("closing", upstreams::closing),
    ("sockets", upstreams::sockets),
    ("source-ports", upstreams::source_ports),
    ("snat", upstreams::snat),
    ("names", upstreams::names),
    ("loopback", upstreams::loopback),
    ("admin", upstreams::admin),
    ("port-range", machine::port_range),
    ("listen-ports", machine::listen_ports),
    ("tw-reuse", machine::tw_reuse),
    ("timestamps", machine::timestamps),
    ("tw-buckets", machine::tw_buckets),
    ("open-files", machine::open_files),
    ("conntrack", machine::conntrack),
    ("backlog", machine::backlog),
];

/// Everything that there is to say, the worst first.
pub fn examine(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings: Vec<_> = RULES
        .iter()
        .flat_map(|(name, rule)| {
            rule(facts).into_iter().map(|finding| Finding {
                rule: name,
                ..finding
            })
        })
        .collect();
    findings.sort_by_key(|finding| finding.level);
    findings
}

/// How many there are of a level.
pub fn count(findings: &[Finding], level: Level) -> usize {
    let of_it = findings.iter().filter(|finding| finding.level == level);
    of_it.count()
}

/// All in a line: `1 problem, 2 pieces of advice, 12 checks are fine`.
pub fn summary(findings: &[Finding]) -> String {
    let of = |level| count(findings, level) as u64;
    let advice = match of(Level::Advice) {
        0 => "no advice".to_owned(),
        1 => "1 piece of advice".to_owned(),
        many => format!("{many} pieces of advice"),
    };
    let problems = match of(Level::Problem) {
        0 => "No problem".to_owned(),
        some => counted(some, "problem"),
    };
    let fine = of(Level::Fine);
    let verb = if fine == 1 { "is" } else { "are" };
    format!(
        "{problems}, {advice}; {} {verb} fine.",
        counted(fine, "check")
    )
}
