//! What the rules' tests examine, and tests of all rules together.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::census::ports::{Limits, ReservedPorts, Sysctls};
use crate::config;
use crate::server;

use super::live::{Live, LiveBackend};
use super::{Facts, Finding, Level, Machine, Proxy, RULES, Towards, count, examine, summary};

/// The backend of every case.
pub(super) const BACKEND: &str = "10.0.0.5:80";

/// Linux as it comes, and a file.
pub(super) struct Case {
    pub(super) settings: server::Settings,
    pub(super) machine: Machine,
    pub(super) proxy: Proxy,
    pub(super) kernel: BTreeMap<SocketAddr, Towards>,
    pub(super) time_waits: u64,
    rate: Option<f64>,
}

impl Case {
    /// A file with these settings of its one upstream.
    pub(super) fn new(upstream: &str) -> Case {
        Case::of_file(&format!(
            "[[listeners]]\naddress = \"127.0.0.1:8080\"\n[[routes]]\nupstream = \"app\"\n\
             [admin]\naddress = \"127.0.0.1:9180\"\n\
             [upstreams.app]\nservers = [\"{BACKEND}\"]\n{upstream}\n"
        ))
    }

    pub(super) fn of_file(text: &str) -> Case {
        let loaded = config::parse(text, "test.toml", &|_| None);
        let loaded = loaded.unwrap_or_else(|report| panic!("{}", report.render(false)));
        Case {
            settings: loaded.settings,
            machine: Machine {
                limits: Some(limits("32768 60999", "2", "")),
                open_files: Some(1 << 20),
                somaxconn: Some(4096),
                ..Machine::default()
            },
            proxy: Proxy::NotAsked,
            kernel: BTreeMap::new(),
            time_waits: 0,
            rate: None,
        }
    }

    pub(super) fn rate(mut self, rate: u32) -> Case {
        self.rate = Some(rate.into());
        self
    }

    /// On a machine like this.
    pub(super) fn on(mut self, change: impl FnOnce(&mut Machine)) -> Case {
        change(&mut self.machine);
        self
    }

    /// While a proxy runs whose backend has these figures.
    pub(super) fn live(mut self, change: impl FnOnce(&mut LiveBackend)) -> Case {
        let mut backend = LiveBackend {
            upstream: "app".to_owned(),
            address: BACKEND.to_owned(),
            ..LiveBackend::default()
        };
        change(&mut backend);
        self.proxy = Proxy::Runs(Box::new(Live {
            address: "127.0.0.1:9180".to_owned(),
            version: "0.1.0".to_owned(),
            clients: 3,
            backends: vec![backend],
        }));
        self
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            settings: &self.settings,
            machine: self.machine.clone(),
            proxy: self.proxy.clone(),
            rate: self.rate,
            kernel: self.kernel.clone(),
            time_waits: Some(self.time_waits),
        }
    }

    /// What one rule says.
    pub(super) fn findings(&self, rule: &str) -> Vec<Finding> {
        let (_, rule) = RULES
            .iter()
            .find(|(name, _)| *name == rule)
            .unwrap_or_else(|| panic!("there is no rule {rule}"));
        rule(&self.facts())
    }

    /// Of what one rule says the worst has this level, and these words in it.
    #[track_caller]
    pub(super) fn says(&self, rule: &str, level: Level, words: &str) {
        let findings = self.findings(rule);
        let worst = findings.iter().min_by_key(|finding| finding.level);
        let worst = worst.unwrap_or_else(|| panic!("{rule} says nothing"));
        let text = format!("{} {} {}", worst.found, worst.why, worst.remedies.join(" "));
        assert_eq!(worst.level, level, "{rule}: {text}");
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
}

pub(super) fn limits(range: &str, tw_reuse: &str, reserved: &str) -> Limits {
    Limits {
        sysctls: Sysctls::parse(range, tw_reuse, "131072").unwrap(),
        reserved: ReservedPorts::parse(reserved).unwrap(),
        timestamps: true,
    }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn every_rule_has_a_name_of_its_own() {
    let names: HashSet<_> = RULES.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), RULES.len());
}

#[test]
fn the_worst_comes_first_under_the_name_of_its_rule() {
    let case = Case::new("keep_alive = false\nshort_mode = \"proxy-closes\"").rate(10_000);
    let findings = examine(&case.facts());
    assert_eq!(
        (findings[0].level, findings[0].rule),
        (Level::Problem, "short-mode")
    );
    assert!(findings.is_sorted_by_key(|finding| finding.level));
    assert!(findings.iter().all(|finding| !finding.rule.is_empty()));
}

#[test]
fn what_is_not_fine_says_why_and_what_to_do() {
    let cases = [
        Case::new("keep_alive = false\nshort_mode = \"proxy-closes\"").rate(10_000),
        Case::new("keep_alive = false"),
        Case::new("max_keep_alive_requests = 1\nclose_last = \"fin\"").rate(10_000),
    ];
    for case in cases {
        for finding in examine(&case.facts()) {
            if finding.level != Level::Fine {
                assert!(!finding.why.is_empty(), "{finding:?}");
                assert!(!finding.remedies.is_empty(), "{finding:?}");
            }
        }
    }
}

#[test]
fn the_settings_as_they_come_are_no_problem_on_linux_as_it_comes() {
    let findings = examine(&Case::new("").facts());
    assert_eq!(count(&findings, Level::Problem), 0, "{findings:#?}");
    let text = include_str!("../../config/warmline.toml");
    let findings = examine(&Case::of_file(text).facts());
    assert_eq!(count(&findings, Level::Problem), 0, "{findings:#?}");
}

#[test]
fn all_of_it_is_summed_up_in_a_line() {
    let of = |levels: &[Level]| {
        let findings: Vec<_> = levels
            .iter()
            .map(|level| Finding::new(*level, ""))
            .collect();
        summary(&findings)
    };
    let (problem, advice, fine) = (Level::Problem, Level::Advice, Level::Fine);
    assert_eq!(
        of(&[problem, advice, advice, fine]),
        "1 problem, 2 pieces of advice; 1 check is fine."
    );
    assert_eq!(
        of(&[fine, fine]),
        "No problem, no advice; 2 checks are fine."
    );
}
