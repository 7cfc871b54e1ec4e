//! Asks the kernel for its sockets now and then, on a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use tracing::warn;

use crate::account::Departures;
use crate::census::diag::SocketEntry;
use crate::census::ports::Limits;
use crate::census::{self, Census, Counters, Lanes, Source, Visit};

use super::lanes::{Backend, LaneBook, LaneSample};
use super::little::Little;
use super::owners::{Balance, Found, Owners, Place, TimeWaits};
use super::snat::{SnatBook, SnatSample};
use super::warning::Warnings;

/// How often the kernel is asked, unless that takes long.
const PERIOD: Duration = Duration::from_secs(1);

/// Of a core at most this part: a sample that takes 50 ms of CPU is taken every 5 s.
const SHARE: u32 = 100;

/// The longest there is between two.
const LONGEST: Duration = Duration::from_secs(60);

/// How long a sample stands if none has come after it.
const STANDS: Duration = Duration::from_secs(300);

/// What the kernel had at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) census: Census,
    /// Of the addresses, those that are listened on.
    pub(super) listeners: Vec<SocketAddr>,
    /// The ports from each source address to each backend; none where the kernel's settings cannot
    /// be read.
    pub(super) lanes: Vec<LaneSample>,
    /// The ports of NATs on the way to backends, where any are declared.
    pub(super) snats: Vec<SnatSample>,
    /// How many ports an outgoing connection may get.
    pub(super) ports: Option<u32>,
    /// Whose `TIME_WAIT`s there are towards the backends; `None` where that cannot be known.
    pub(super) origins: Option<Origins>,
    /// The kernel's own counters.
    pub(super) counters: Counters,
    /// How often it has been asked.
    pub(super) samples: u64,
    /// The CPU time that all of it took so far.
    pub(super) cpu: Duration,
    /// How long it took to ask.
    pub(super) took: Duration,
    /// How long until it is asked again.
    pub(super) period: Duration,
    /// How long ago it was asked: longer than the period if it did not tell since.
    pub(super) age: Duration,
}

/// Whose `TIME_WAIT`s there are towards the backends.
#[derive(Clone, Debug)]
pub(super) struct Origins {
    pub(super) time_waits: Vec<TimeWaits>,
    pub(super) balances: Vec<Balance>,
    /// Ends that were not noted, as there was no room.
    pub(super) lost: u64,
}

/// What is watched: the backends' addresses, and those that are listened on.
pub(super) struct Watched {
    pub(super) backends: Vec<Backend>,
    pub(super) listeners: Vec<SocketAddr>,
    /// Where the pools lead, by their numbers.
    pub(super) places: Vec<(u32, Place)>,
    /// Where departures are noted, if they are.
    pub(super) departures: Option<Arc<Departures>>,
}

/// What counts during one walk through the kernel's sockets.
struct Counting<'a> {
    census: Census,
    lanes: Lanes,
    /// And when it began, on the clock of the departures.
    owners: Option<(&'a Owners, Duration)>,
    found: Found,
}

/// The last sample, and when it was taken.
#[derive(Debug, Default)]
struct Latest(Option<(Instant, Sample)>);

/// The thread that asks. Ended when dropped.
pub(super) struct Sampler {
    latest: Arc<Mutex<Latest>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts it; `watched` says each time what to look at.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(watched: impl Fn() -> Watched + Send + 'static) -> io::Result<Sampler> {
        let latest = Arc::new(Mutex::new(Latest::default()));
        let (stop, stopped) = mpsc::channel();
        let thread = thread::Builder::new().name("census".to_owned()).spawn({
            let latest = Arc::clone(&latest);
            move || sample(&watched, &latest, &stopped)
        })?;
        Ok(Sampler {
            latest,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// What the kernel had when it last told; `None` if it has not, or not for five minutes.
    pub(super) fn latest(&self) -> Option<Sample> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.at(Instant::now())
    }
}

impl Latest {
    fn at(&self, now: Instant) -> Option<Sample> {
        let (taken, sample) = self.0.as_ref()?;
        let age = now.saturating_duration_since(*taken);
        (age < STANDS).then(|| Sample {
            age,
            ..sample.clone()
        })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn sample(watched: &impl Fn() -> Watched, latest: &Mutex<Latest>, stopped: &mpsc::Receiver<()>) {
    let mut has_warned = false;
    let mut looker = Looker::default();
    let mut next = PERIOD;
    loop {
        let began = Instant::now();
        match looker.look(&watched()) {
            Ok(sample) => {
                has_warned = false;
                next = sample.period;
                let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
                *latest = Latest(Some((began, sample)));
            }
            Err(error) => {
                if !std::mem::replace(&mut has_warned, true) {
                    warn!(
                        %error,
                        "the kernel does not list its sockets: the metrics keep what it told last, for five minutes"
                    );
                }
                next = after_failure(next);
            }
        }
        // Told to stop, or its owner is gone.
        if stopped.recv_timeout(next) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// The one who looks, and what it remembers.
#[derive(Default)]
struct Looker {
    lanes: LaneBook,
    snats: SnatBook,
    warnings: Warnings,
    owners: Owners,
    little: Little,
    samples: u64,
    last: Option<Instant>,
}

impl Looker {
    fn look(&mut self, watched: &Watched) -> io::Result<Sample> {
        let Watched {
            backends,
            listeners,
            places,
            departures,
        } = watched;
        let began = Instant::now();
        let cpu_before = cpu_time();
        let since = self.last.map_or(Duration::ZERO, |last| began - last);
        let addresses = backends.iter().map(|backend| backend.address);
        let all: Vec<_> = addresses.chain(listeners.iter().copied()).collect();
        let limits = Limits::read().ok();
        let listened = census::listened_ports()?;
        let lanes = match &limits {
            Some(limits) => self.lanes.count(backends, limits, &listened),
            None => Lanes::new([]),
        };
        let walk_began = departures.as_deref().map(|departures| {
            departures.take(|departure| self.owners.note(&departure));
            self.owners.lead_to(places.iter().cloned());
            let now = departures.age();
            self.owners.age(now);
            now
        });
        let mut counting = Counting {
            census: Census::of_nothing_yet(&all),
            lanes,
            owners: walk_began.map(|now| (&self.owners, now)),
            found: Found::default(),
        };
        let source = census::walk(&mut counting)?;
        let Counting {
            mut census,
            lanes,
            mut found,
            ..
        } = counting;
        census.is_from(source);
        let lanes = limits.as_ref().map_or_else(Vec::new, |limits| {
            self.lanes.samples(&lanes, backends, limits, since)
        });
        let snats = self.snats.samples(backends, &lanes, since);
        for warning in self.warnings.of(&lanes) {
            warn!("{warning}");
        }
        let counters = Counters::read().unwrap_or_default();
        let origins = match (departures, walk_began, source) {
            (Some(departures), Some(walk_began), Source::SockDiag) => {
                departures.take(|departure| self.owners.note(&departure));
                self.owners.count_late(walk_began, &mut found);
                Some(Origins {
                    time_waits: self.owners.time_waits(&found),
                    balances: self.owners.balances(&found, walk_began),
                    lost: departures.lost(),
                })
            }
            _ => None,
        };
        if let (Some(origins), Some(now)) = (&origins, walk_began)
            && let Some(difference) = self.little.check(&origins.balances, counters, now)
        {
            warn!("{difference}");
        }
        self.last = Some(began);
        self.samples += 1;
        let cpu = cpu_time();
        Ok(Sample {
            census,
            listeners: listeners.clone(),
            lanes,
            snats,
            origins,
            counters,
            ports: limits.map(|limits| limits.given(&listened).count()),
            samples: self.samples,
            cpu,
            took: began.elapsed(),
            // Not by the time that passes: on a busy machine that says how busy it is.
            period: period(cpu.saturating_sub(cpu_before)),
            age: Duration::ZERO,
        })
    }
}

impl Visit for Counting<'_> {
    fn forget(&mut self) {
        self.census.forget();
        self.lanes.forget();
        self.found.forget();
    }

    fn concerns(&self, socket: &SocketEntry) -> bool {
        self.census.concerns(socket)
    }

    fn note(&mut self, socket: &SocketEntry) {
        self.census.note(socket);
        let is_towards = self.lanes.add(socket);
        if let Some((owners, now)) = self.owners
            && is_towards
        {
            owners.count(socket, now, &mut self.found);
        }
    }
}

/// The CPU time of the calling thread.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// How long until the next, if one takes so much CPU time.
fn period(cpu: Duration) -> Duration {
    (cpu * SHARE).clamp(PERIOD, LONGEST)
}

/// How long until it is tried again after a failure, if the wait before was so long.
fn after_failure(before: Duration) -> Duration {
    (before * 2).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Watched {
        Watched {
            backends: Vec::new(),
            listeners: Vec::new(),
            places: Vec::new(),
            departures: None,
        }
    }

    #[test]
    fn the_last_sample_stands_for_a_while_and_says_how_old_it_is() {
        let taken = Instant::now();
        let sample = Looker::default().look(&nothing()).unwrap();
        let latest = Latest(Some((taken, sample)));
        for (age, stands) in [
            (0, true),
            (59, true),
            (299, true),
            (300, false),
            (900, false),
        ] {
            let age = Duration::from_secs(age);
            let found = latest.at(taken + age).map(|sample| sample.age);
            assert_eq!(found, stands.then_some(age));
        }
        assert!(Latest::default().at(taken).is_none());
    }

    #[test]
    fn after_failures_the_kernel_is_asked_less_and_less_often() {
        let waits = std::iter::successors(Some(PERIOD), |wait| Some(after_failure(*wait)));
        let waits: Vec<_> = waits.map(|wait| wait.as_secs()).take(9).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_dump_that_takes_long_is_taken_less_often() {
        let ms = Duration::from_millis;
        for (took, next) in [
            (0, 1000),
            (10, 1000),
            (50, 5000),
            (600, 60_000),
            (5000, 60_000),
        ] {
            assert_eq!(period(ms(took)), ms(next), "{took} ms");
        }
    }
}
