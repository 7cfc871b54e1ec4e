//! One arm while it runs: what it has counted, its rounds, and what the report has of it in the end.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::arms::Arm;
use super::child::{Backend, Fault, Figures, Proxy, Served};
use super::measured::Measured;
use super::usage::{self, Usage};
use super::{Behind, Failed, Onlooker, Settings, drive, fingerprint};
use crate::compare::lab::Lab;
use crate::compare::report;

/// How long each round is driven before it is measured, at most: its connections open meanwhile.
const ROUND_WARM_UP: Duration = Duration::from_millis(200);

/// How long what is under way may take to end before everything is counted.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);

/// An arm that runs.
pub(super) struct Running {
    pub(super) arm: Arm,
    pub(super) proxy: Proxy,
    pub(super) backend: Option<Backend>,
    /// Where the load goes.
    pub(super) address: SocketAddr,
    pub(super) config: String,
    pub(super) version: String,
    pub(super) measured: Measured,
    /// Whether the proxy ended connections of clients, as it does after an error.
    pub(super) left_clients: bool,
    /// Whether the warm-up had a good answer.
    pub(super) was_good: bool,
}

/// What was counted of an arm at one moment.
#[derive(Clone, Default)]
pub(super) struct Counted {
    pub(super) usage: Usage,
    pub(super) backend_usage: Option<Usage>,
    pub(super) figures: Option<Figures>,
    pub(super) served: Option<Served>,
}

impl Running {
    fn failed(&self) -> impl Fn(Fault) -> Failed + use<> {
        let arm = self.arm.name.clone();
        move |fault| Failed::Arm {
            arm: arm.clone(),
            fault,
        }
    }

    /// What it has counted by now.
    pub(super) fn counted(&mut self) -> Result<Counted, Failed> {
        let failed = self.failed();
        let (backend_usage, served) = match &mut self.backend {
            Some(backend) => {
                let served = backend.served().map_err(&failed)?;
                (
                    Some(backend.program.usage().map_err(&failed)?),
                    Some(served),
                )
            }
            None => (None, None),
        };
        Ok(Counted {
            usage: self.proxy.program.usage().map_err(&failed)?,
            backend_usage,
            figures: self.proxy.figures().map_err(&failed)?,
            served,
        })
    }

    /// The same once nothing is under way any more: every connection that was opened for a request has ended.
    pub(super) fn settled(&mut self) -> Result<Counted, Failed> {
        let until = Instant::now() + SETTLES_WITHIN;
        loop {
            let counted = self.counted()?;
            let open = counted.figures.as_ref().map_or(0, |figures| {
                let ended: u64 = figures.closes.values().sum();
                figures.connects.saturating_sub(ended)
            });
            let is_over = open == 0 || !self.arm.mode.is_short();
            if is_over || Instant::now() > until {
                return Ok(counted);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether there is anything to measure: a good answer, if only in the warm-up.
    pub(super) fn has_answers(&self) -> Result<(), Failed> {
        let Some(round) = self.measured.rounds.first() else {
            return Ok(());
        };
        if self.was_good || round.statuses.keys().any(|status| *status < 400) {
            return Ok(());
        }
        let statuses = round.statuses.iter();
        let mut what: Vec<_> = statuses
            .map(|(status, count)| format!("{count} answers {status}"))
            .collect();
        what.extend(
            round
                .errors
                .iter()
                .map(|(kind, count)| format!("{count} {kind}")),
        );
        Err(Failed::Nothing {
            arm: self.arm.name.clone(),
            what: if what.is_empty() {
                "nothing came at all".to_owned()
            } else {
                what.join(", ")
            },
        })
    }

    /// What the report has of it.
    pub(super) fn report(
        self,
        settings: &Settings,
        before: &Counted,
        after: &Counted,
        kernel: Option<fingerprint::Kernel>,
        rounds: usize,
        timeline: Vec<report::Moment>,
    ) -> report::Arm {
        let figures = after.figures.as_ref().zip(before.figures.as_ref());
        let figures = figures.map(|(after, before)| after.since(before));
        let served = after
            .served
            .zip(before.served)
            .map(|(after, before)| Served {
                connections: after.connections - before.connections,
                requests: after.requests - before.requests,
            });
        let facts = fingerprint::Facts {
            requests: match (&figures, served) {
                (Some(figures), _) => figures.requests,
                (None, Some(served)) => served.requests,
                (None, None) => 0,
            },
            connects: match (&figures, served) {
                (Some(figures), _) => Some(figures.connects),
                (None, served) => served.map(|served| served.connections),
            },
            closes: figures.as_ref().map(|figures| figures.closes.clone()),
            // The kernel counts those among the proxy's closes.
            kernel: kernel.filter(|_| !self.left_clients),
            own_settings: !self.arm.settings.is_empty()
                || matches!(settings.behind, Behind::File(_)),
            connections: settings.connections.get().into(),
        };
        let memory = usage::most_memory(self.proxy.program.pid());
        let mut made = self
            .measured
            .arm(rounds, before, after, figures.as_ref(), timeline, memory);
        made.fingerprint = fingerprint::checks(self.arm.mode, &facts);
        made.name = self.arm.name;
        made.mode = self.arm.mode.name().into();
        made.program = self.arm.program.name().into();
        made.version = self.version;
        made.config = self.config;
        made.close_order = self.arm.mode.close_order().into();
        made
    }
}

impl Settings {
    /// One round; whether it came to its end.
    pub(super) fn round(
        &self,
        lab: &Lab,
        arm: &mut Running,
        start: Instant,
        onlooker: &dyn Onlooker,
    ) -> Result<bool, Failed> {
        let warm_up = (self.round / 10).min(ROUND_WARM_UP);
        let load = self.load(arm.address, warm_up, self.round, self.round_requests);
        let at = start.elapsed();
        let before = arm.counted()?;
        let Some((tally, all)) = drive(lab, load, onlooker)? else {
            return Ok(false);
        };
        let after = arm.counted()?;
        arm.left_clients |= tally.connects > u64::from(self.connections.get());
        arm.measured.note(at, &tally, all, &before, &after);
        Ok(true)
    }
}
