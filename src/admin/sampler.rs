//! Asks the kernel for its sockets now and then, on a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::census::Census;
use crate::census::ports::Sysctls;

/// How often the kernel is asked, unless that takes long.
const PERIOD: Duration = Duration::from_secs(1);

/// Of the time at most this part: a dump of 50 ms is taken every 5 s.
const SHARE: u32 = 100;

/// The longest there is between two, and how often one that fails is tried.
const LONGEST: Duration = Duration::from_secs(60);

/// What the kernel had at one moment.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) census: Census,
    /// Of the addresses, those that are listened on.
    pub(super) listeners: Vec<SocketAddr>,
    /// How many ports an outgoing connection may get.
    pub(super) ports: Option<u32>,
    /// How long it took to ask.
    pub(super) took: Duration,
    /// How long until it is asked again.
    pub(super) period: Duration,
}

/// What is watched: the backends' addresses, and those that are listened on.
pub(super) struct Watched {
    pub(super) backends: Vec<SocketAddr>,
    pub(super) listeners: Vec<SocketAddr>,
}

/// The thread that asks. Ended when dropped.
pub(super) struct Sampler {
    latest: Arc<Mutex<Option<Sample>>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Starts it; `watched` says each time what to look at.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn start(watched: impl Fn() -> Watched + Send + 'static) -> io::Result<Sampler> {
        let latest = Arc::new(Mutex::new(None));
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

    /// What the kernel had when it was last asked; `None` if it has not been, or did not tell.
    pub(super) fn latest(&self) -> Option<Sample> {
        self.latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

fn sample(
    watched: &impl Fn() -> Watched,
    latest: &Mutex<Option<Sample>>,
    stopped: &mpsc::Receiver<()>,
) {
    let mut has_warned = false;
    loop {
        let began = Instant::now();
        let Watched {
            backends,
            listeners,
        } = watched();
        let all: Vec<_> = backends.iter().chain(&listeners).copied().collect();
        let taken = Census::take(&all);
        let took = began.elapsed();
        let period = period(took);
        let next = match taken {
            Ok(census) => {
                let ports = Sysctls::read()
                    .ok()
                    .map(|sysctls| sysctls.port_range.ports());
                let sample = Sample {
                    census,
                    listeners,
                    ports,
                    took,
                    period,
                };
                *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(sample);
                period
            }
            Err(error) => {
                if !std::mem::replace(&mut has_warned, true) {
                    warn!(%error, "the kernel does not list its sockets: no TCP states in the metrics");
                }
                *latest.lock().unwrap_or_else(PoisonError::into_inner) = None;
                LONGEST
            }
        };
        // Told to stop, or its owner is gone.
        if stopped.recv_timeout(next) != Err(mpsc::RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// How long until the next, if one takes so long.
fn period(took: Duration) -> Duration {
    (took * SHARE).clamp(PERIOD, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

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
