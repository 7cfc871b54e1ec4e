//! Runs a comparison: the same load on every arm in turn, again and again, there and back, and all that is counted
//! meanwhile.
//!
//! An arm is a proxy with a backend and hosts of its own ([`Lab`]), so no arm takes another's ports, and the kernel
//! counts each by itself. All proxies and backends are programs of their own, started once at the beginning: what a
//! proxy uses is what the scheduler says of its process. They end with this one, however it ends. The load is sent from here.
//!
//! A run whose arms did not close their connections as their modes say ends in an error, not in a report.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

pub mod admin;
pub mod arms;
mod child;
pub mod config;
mod failed;
mod fingerprint;
mod machine;
mod measured;
pub mod observe;
mod running;
mod settings;
mod setup;
mod usage;
mod watch;

pub use child::Fault;
pub use failed::Failed;
pub use settings::{Behind, Place, Settings};

use super::lab::Lab;
use super::load::{self, Load};
use super::report::{self, Report};
use crate::census::{Counter, Counters};
use watch::Watch;

/// How often the kernel is asked for its sockets.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Who is told how it goes.
pub trait Onlooker {
    /// `done` of `of` steps are over, and what is done next.
    fn at(&self, done: usize, of: usize, what: &str);

    /// Whether it is to end: after what is under way, with what there is.
    fn has_enough(&self) -> bool;
}

/// Runs it.
///
/// Blocks for as long as it takes: all rounds, and some seconds for starting and ending.
///
/// # Errors
/// [`Failed`] says what to do.
pub fn run(settings: &Settings, onlooker: &dyn Onlooker) -> Result<Report, Failed> {
    let start = Instant::now();
    let started = machine::now();
    let about = machine::machine();
    let steps = settings.arms.len() * (1 + settings.rounds as usize) + 1;
    onlooker.at(0, steps, "starting");

    let lab = Arc::new(settings.lab()?);
    let folder = tempfile::Builder::new()
        .prefix("warmline-compare-")
        .tempdir()?;
    let backends = settings.addresses()?;
    let mut running = Vec::new();
    let mut lines = Vec::new();
    for at in 0..settings.arms.len() {
        let (arm, line) = settings.start(&lab, at, &folder, &backends)?;
        running.push(arm);
        lines.push(line);
    }
    let watch = Watch::start(Arc::clone(&lab), lines, start, LOOK_EVERY)?;

    let counters_before = counters(&lab);
    let mut before = Vec::new();
    for arm in &mut running {
        before.push(arm.counted()?);
    }
    let mut done = 0;
    for (at, arm) in running.iter_mut().enumerate() {
        onlooker.at(done, steps, &format!("{}: warm-up", arm.arm.name));
        if !settings.warm_up.is_zero() && !onlooker.has_enough() {
            watch.drives(at);
            let load = settings.load(arm.address, Duration::ZERO, settings.warm_up, None);
            if let Some((tally, _)) = drive(&lab, load, onlooker)? {
                arm.was_good = tally.any_good();
                arm.left_clients = tally.connects > u64::from(settings.connections.get());
            }
        }
        done += 1;
    }
    let order = arms::order(running.len(), settings.rounds as usize);
    for (number, at) in order.into_iter().enumerate() {
        let round = number / settings.arms.len() + 1;
        let arm = &mut running[at];
        let what = format!("{}: round {round} of {}", arm.arm.name, settings.rounds);
        onlooker.at(done, steps, &what);
        if onlooker.has_enough() {
            break;
        }
        watch.drives(at);
        if !settings.round(&lab, arm, start, onlooker)? {
            break;
        }
        if round == 1 {
            arm.has_answers()?;
        }
        done += 1;
    }
    watch.drives(watch::NONE);
    onlooker.at(steps - 1, steps, "counting");
    // An interrupted run counts as far as all arms have as many rounds.
    let whole = running.iter().map(|arm| arm.measured.rounds.len()).min();
    let whole = whole
        .filter(|rounds| *rounds > 0)
        .ok_or(Failed::Interrupted)?;
    let is_cut = whole < settings.rounds as usize;

    let mut after = Vec::new();
    for arm in &mut running {
        after.push(arm.settled()?);
    }
    let counters_after = counters(&lab);
    let timelines = watch.finish();

    let mut report = settings.about(&lab, whole);
    report.warmline = env!("CARGO_PKG_VERSION").into();
    report.started = started;
    report.machine = about;
    report.schema = report::SCHEMA;
    if is_cut {
        report.notes.push(format!(
            "Interrupted: {whole} of {} rounds.",
            settings.rounds
        ));
    }
    for (at, (arm, timeline)) in running.into_iter().zip(timelines).enumerate() {
        let kernel = counters_before[at]
            .as_ref()
            .zip(counters_after[at].as_ref())
            .filter(|_| !settings.client_close)
            .map(|(before, after)| kernel(before, after));
        let made = arm.report(settings, &before[at], &after[at], kernel, whole, timeline);
        if made.fingerprint.iter().any(|check| !check.fits) {
            let arm = &settings.arms[at];
            return Err(Failed::Fingerprint {
                arm: arm.name.clone(),
                mode: arm.mode.name(),
                close_order: arm.mode.close_order(),
                lines: told(&made.fingerprint),
            });
        }
        report.arms.push(made);
    }
    report.seconds = start.elapsed().as_secs_f64();
    onlooker.at(steps, steps, "done");
    Ok(report)
}

/// Whether every host of the lab is this machine.
fn is_shared(lab: &Lab) -> bool {
    !lab.hides().is_empty()
}

/// A fingerprint in lines.
fn told(checks: &[report::Check]) -> String {
    let line = |check: &report::Check| {
        format!(
            "  {} {}: expected {}, found {} of {}\n",
            if check.fits { "ok   " } else { "WRONG" },
            check.what,
            check.expected,
            crate::quantity::grouped(check.found),
            crate::quantity::grouped(check.of)
        )
    };
    checks.iter().map(line).collect()
}

/// The kernel's counters of the two hosts of each arm; `None` where they are shared with everybody else.
fn counters(lab: &Lab) -> Vec<Option<(Counters, Counters)>> {
    let of = |arm: &super::lab::Arm| {
        if is_shared(lab) {
            return None;
        }
        let proxy = arm.proxy.run(Counters::read).ok()?;
        Some((proxy, arm.backend.run(Counters::read).ok()?))
    };
    lab.arms().iter().map(of).collect()
}

fn kernel(before: &(Counters, Counters), after: &(Counters, Counters)) -> fingerprint::Kernel {
    let since = |before: &Counters, after: &Counters, counter: Counter| {
        let of = |counters: &Counters| counters.get(counter).unwrap_or(0);
        of(after).saturating_sub(of(before))
    };
    let first = |before: &Counters, after: &Counters| {
        since(before, after, Counter::TimeWaits) + since(before, after, Counter::Overflows)
    };
    fingerprint::Kernel {
        proxy_first: first(&before.0, &after.0),
        backend_first: first(&before.1, &after.1),
        resets: since(&before.0, &after.0, Counter::ResetsSent),
    }
}

/// Sends a load from the client's host until it is over or somebody has enough. Also how many answers there were
/// in all, before it was measured among them; `None`: it was cut short.
fn drive(
    lab: &Lab,
    settings: load::Settings,
    onlooker: &dyn Onlooker,
) -> Result<Option<(load::Tally, u64)>, Failed> {
    let load = lab.client().run(move || Load::start(settings))?;
    while !load.is_over() {
        if onlooker.has_enough() {
            load.finish()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
    let all = load.so_far().answered;
    Ok(Some((load.finish()?, all)))
}
