//! What is asked for of the hosts and of the lines between them.

use std::time::Duration;

/// The hosts to build.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Kernel settings of the host that the load comes from.
    pub client: Sysctls,
    /// One proxy host and one backend host for each; 1 to [`MOST_ARMS`](Self::MOST_ARMS).
    pub arms: Vec<ArmSpec>,
}

/// What one arm is asked to be like. For a fair comparison all are alike, but for what is compared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArmSpec {
    /// The line between the proxy and the backend. The one between client and proxy is a plain veth.
    pub line: Line,
    /// Kernel settings of its proxy host and its backend host.
    pub sysctls: Sysctls,
}

/// What a line does to packets, each way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// How long a packet is under way, one way: half of what a round trip takes. Up to
    /// [`LONGEST_DELAY`](Self::LONGEST_DELAY). Default: none.
    pub delay: Duration,
    /// The share of packets that are lost, at random: 0 to 0.9. Default: 0.
    pub loss: f64,
    /// The most bits a second, from 64,000 on; headers count. What comes faster waits for up to 50 ms, and is
    /// lost beyond. Default: no limit.
    pub rate: Option<u64>,
}

/// Settings of the kernel. What is not named has the value of a new network namespace: the kernel's default, or for
/// a few settings the machine's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysctls {
    /// `net.ipv4.ip_local_port_range`, first and last port.
    pub ports: Option<(u16, u16)>,
    /// `net.ipv4.tcp_tw_reuse`: 0, 1, or 2 for loopback only.
    pub tw_reuse: Option<u8>,
    /// `net.ipv4.tcp_max_tw_buckets`.
    pub max_tw_buckets: Option<u32>,
    /// Others, name and value: `("net.ipv4.tcp_timestamps", "0")`. Those of `net.` only; others are not a
    /// namespace's own.
    pub others: Vec<(String, String)>,
}

/// What is wrong with a [`Spec`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WrongSpec {
    /// None, or too many.
    #[error("{0} arms: at least 1 and at most {most} can be had", most = Spec::MOST_ARMS)]
    Arms(usize),
    /// Too long.
    #[error("a delay of {0:?}: at most {longest:?} can be had", longest = Line::LONGEST_DELAY)]
    Delay(Duration),
    /// Not a share.
    #[error(
        "a loss of {0}: a share from 0 to 0.9 is needed, such as 0.01 for one packet in a hundred"
    )]
    Loss(f64),
    /// Too low, or beyond what can be told the kernel.
    #[error("a rate of {0} bit/s: 64,000 to 100,000,000,000 can be had")]
    Rate(u64),
    /// Not a setting of a network namespace.
    #[error("{0}: only settings that begin with net. are a host's own")]
    Sysctl(String),
}

impl Spec {
    /// The most arms: they share the machine, and more than these nobody compares.
    pub const MOST_ARMS: usize = 64;

    /// These arms, and the client's settings as they come.
    pub fn new(arms: Vec<ArmSpec>) -> Spec {
        Spec {
            client: Sysctls::default(),
            arms,
        }
    }

    /// Whether it can be had at all.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), WrongSpec> {
        if self.arms.is_empty() || self.arms.len() > Self::MOST_ARMS {
            return Err(WrongSpec::Arms(self.arms.len()));
        }
        self.client.check()?;
        for arm in &self.arms {
            arm.line.check()?;
            arm.sysctls.check()?;
        }
        Ok(())
    }

    /// The lines that are asked for.
    pub(super) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.arms.iter().map(|arm| &arm.line)
    }
}

impl Line {
    /// Longer than to the Moon and back.
    pub const LONGEST_DELAY: Duration = Duration::from_secs(10);

    fn check(&self) -> Result<(), WrongSpec> {
        if self.delay > Self::LONGEST_DELAY {
            return Err(WrongSpec::Delay(self.delay));
        }
        if !(0.0..=0.9).contains(&self.loss) {
            return Err(WrongSpec::Loss(self.loss));
        }
        match self.rate {
            Some(rate) if !(64_000..=100_000_000_000).contains(&rate) => Err(WrongSpec::Rate(rate)),
            _ => Ok(()),
        }
    }

    /// Whether packets count, so that the kernel must not put several into one.
    pub(super) fn is_plain(&self) -> bool {
        *self == Line::default()
    }
}

impl Sysctls {
    fn check(&self) -> Result<(), WrongSpec> {
        let is_own = |name: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            name.starts_with("net.") && name.chars().all(known) && !name.contains("..")
        };
        match self.others.iter().find(|(name, _)| !is_own(name)) {
            Some((name, _)) => Err(WrongSpec::Sysctl(name.clone())),
            None => Ok(()),
        }
    }

    /// Each with its name and value, as they are written.
    pub(super) fn all(&self) -> Vec<(String, String)> {
        let ipv4 = |name: &str, value: String| (format!("net.ipv4.{name}"), value);
        let named = [
            self.ports
                .map(|(low, high)| ipv4("ip_local_port_range", format!("{low} {high}"))),
            self.tw_reuse
                .map(|reuse| ipv4("tcp_tw_reuse", reuse.to_string())),
            self.max_tw_buckets
                .map(|most| ipv4("tcp_max_tw_buckets", most.to_string())),
        ];
        let named = named.into_iter().flatten();
        named.chain(self.others.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_had_is_named() {
        let line = |line| {
            Spec::new(vec![ArmSpec {
                line,
                ..ArmSpec::default()
            }])
        };
        let named = |name: &str| {
            let others = vec![(name.to_owned(), "0".to_owned())];
            let mut spec = Spec::new(vec![ArmSpec::default()]);
            spec.arms[0].sysctls = Sysctls {
                others,
                ..Sysctls::default()
            };
            spec
        };
        let delay = Duration::from_secs(11);
        for (spec, wrong) in [
            (Spec::new(vec![]), Err(WrongSpec::Arms(0))),
            (
                Spec::new(vec![ArmSpec::default(); 65]),
                Err(WrongSpec::Arms(65)),
            ),
            (Spec::new(vec![ArmSpec::default(); 64]), Ok(())),
            (
                line(Line {
                    delay,
                    ..Line::default()
                }),
                Err(WrongSpec::Delay(delay)),
            ),
            (
                line(Line {
                    loss: 1.0,
                    ..Line::default()
                }),
                Err(WrongSpec::Loss(1.0)),
            ),
            (
                line(Line {
                    loss: -0.1,
                    ..Line::default()
                }),
                Err(WrongSpec::Loss(-0.1)),
            ),
            (
                line(Line {
                    rate: Some(8),
                    ..Line::default()
                }),
                Err(WrongSpec::Rate(8)),
            ),
            (
                named("kernel.panic"),
                Err(WrongSpec::Sysctl("kernel.panic".to_owned())),
            ),
            (
                named("net../../x"),
                Err(WrongSpec::Sysctl("net../../x".to_owned())),
            ),
            (named("net.ipv4.tcp_timestamps"), Ok(())),
        ] {
            assert_eq!(spec.check(), wrong, "{spec:?}");
        }
    }
}
