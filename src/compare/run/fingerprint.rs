//! The proof that an arm closed its connections as its mode says: what the counters must say, and what they say.
//!
//! Connections that end otherwise than asked for make a comparison worthless: who closes first decides who holds the
//! TIME_WAIT, and the modes' costs are an order of magnitude apart. So a run whose counters do not fit is refused.

use std::collections::BTreeMap;

use super::arms::Mode;
use crate::compare::report::Check;

/// What was counted of one arm, from before its warm-up until after its last round.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Requests that reached the backend.
    pub(super) requests: u64,
    /// Connections that were opened to it; `None`: nobody knows.
    pub(super) connects: Option<u64>,
    /// The proxy's own ledger: how many ended how. `None`: it has none.
    pub(super) closes: Option<BTreeMap<String, u64>>,
    /// The kernel's counters, where they are of this arm alone.
    pub(super) kernel: Option<Kernel>,
    /// Whether settings of its own, or those of a file, decide how often a pool opens connections.
    pub(super) own_settings: bool,
    /// Client connections: so many may be under way at either end of the count.
    pub(super) connections: u64,
}

/// Of the hosts of one arm.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kernel {
    /// `TcpExt TW` and `TCPTimeWaitOverflow` on the proxy's: connections that it closed first.
    pub(super) proxy_first: u64,
    /// The same on the backend's.
    pub(super) backend_first: u64,
    /// `Tcp OutRsts` on the proxy's.
    pub(super) resets: u64,
}

/// Holds the facts against the mode.
pub(super) fn checks(mode: Mode, facts: &Facts) -> Vec<Check> {
    let of = facts.requests;
    // What is under way when it is counted, and a few ends that are nobody's fault.
    let slack = (of / 50).max(facts.connections);
    let all = |what: &str, found: u64| Check {
        what: what.to_owned(),
        expected: "one for each request".to_owned(),
        found,
        of,
        fits: found.abs_diff(of) <= slack,
    };
    let none = |what: &str, found: u64| Check {
        what: what.to_owned(),
        expected: "none".to_owned(),
        found,
        of,
        fits: found <= slack,
    };
    let mut checks = Vec::new();
    if let Some(connects) = facts.connects {
        if mode.is_short() {
            checks.push(all("connections to the backend", connects));
        } else if !facts.own_settings {
            checks.push(Check {
                what: "connections to the backend".to_owned(),
                expected: "at most one for twenty requests".to_owned(),
                found: connects,
                of,
                fits: connects <= of / 20 + 4 * facts.connections,
            });
        }
    }
    if !mode.is_short() {
        return checks;
    }
    if let Some(closes) = &facts.closes {
        let count = |how: &str| closes.get(how).copied().unwrap_or(0);
        let (how, what) = match mode {
            Mode::Pooled => return checks,
            Mode::CloseByHeader => (
                "backend_fin",
                "ended by the backend's FIN (the proxy's ledger)",
            ),
            Mode::ProxyCloses => ("proxy_fin", "ended by the proxy's FIN (its ledger)"),
            Mode::Rst => ("proxy_rst", "ended by the proxy's reset (its ledger)"),
        };
        checks.push(all(what, count(how)));
    }
    if let Some(kernel) = facts.kernel {
        let proxy_first = "closed first by the proxy (kernel, TW and TCPTimeWaitOverflow)";
        let backend_first = "closed first by the backend (kernel, TW and TCPTimeWaitOverflow)";
        let resets = "resets of the proxy (kernel, OutRsts)";
        checks.extend(match mode {
            Mode::Pooled => Vec::new(),
            Mode::CloseByHeader => vec![
                all(backend_first, kernel.backend_first),
                none(proxy_first, kernel.proxy_first),
            ],
            Mode::ProxyCloses => vec![
                all(proxy_first, kernel.proxy_first),
                none(backend_first, kernel.backend_first),
            ],
            Mode::Rst => vec![
                all(resets, kernel.resets),
                none(proxy_first, kernel.proxy_first),
                none(backend_first, kernel.backend_first),
            ],
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(closes: &str, count: u64, kernel: Kernel) -> Facts {
        Facts {
            requests: 10_000,
            connects: Some(count),
            closes: Some(BTreeMap::from([(closes.to_owned(), count)])),
            kernel: Some(kernel),
            own_settings: false,
            connections: 16,
        }
    }

    fn fits(mode: Mode, facts: &Facts) -> bool {
        checks(mode, facts).iter().all(|check| check.fits)
    }

    #[test]
    fn each_mode_fits_its_own_fingerprint_and_no_other() {
        let kernels = [
            (
                "backend_fin",
                Kernel {
                    backend_first: 9_990,
                    ..Kernel::default()
                },
            ),
            (
                "proxy_fin",
                Kernel {
                    proxy_first: 10_003,
                    ..Kernel::default()
                },
            ),
            (
                "proxy_rst",
                Kernel {
                    resets: 10_000,
                    ..Kernel::default()
                },
            ),
        ];
        let modes = [Mode::CloseByHeader, Mode::ProxyCloses, Mode::Rst];
        for (at, mode) in modes.into_iter().enumerate() {
            for (other, (closes, kernel)) in kernels.into_iter().enumerate() {
                let facts = facts(closes, 10_000, kernel);
                assert_eq!(fits(mode, &facts), at == other, "{mode:?} {closes}");
                // The kernel's word alone, as of other proxies.
                let facts = Facts {
                    closes: None,
                    ..facts
                };
                assert_eq!(fits(mode, &facts), at == other, "{mode:?} {closes}");
            }
            assert!(!fits(mode, &facts(kernels[at].0, 9_000, kernels[at].1)));
        }
    }

    #[test]
    fn a_pool_is_one_that_opens_few() {
        for (connects, own_settings, expected) in [
            (16, false, true),
            (500, false, true),
            (600, false, false),
            (10_000, true, true),
        ] {
            let facts = Facts {
                own_settings,
                connects: Some(connects),
                ..facts("backend_fin", 0, Kernel::default())
            };
            assert_eq!(fits(Mode::Pooled, &facts), expected, "{connects}");
        }
    }

    #[test]
    fn with_nothing_known_nothing_is_proved() {
        let facts = Facts {
            requests: 10,
            ..Facts::default()
        };
        assert!(checks(Mode::Rst, &facts).is_empty());
    }
}
