//! The access log: a line for each exchange, to a file or standard output.
//!
//! Promises that no request ever waits for it: a worker writes its lines into a buffer of its own
//! ([`Sink`]), and a thread takes full buffers from there to the file. If that thread is behind,
//! lines are dropped and counted. Does not know where an [`Exchange`](crate::account::Exchange)
//! comes from.

mod format;
mod sink;
mod stamp;
mod writer;
mod zone;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

pub use format::{Format, line};
pub use sink::Sink;
pub use stamp::Stamp;
pub use zone::told_by as zone_told_by;

use writer::Writer;

/// How many full buffers of each worker may wait for the writer: 1 MiB.
const QUEUE: usize = 16;

/// How many empty buffers a worker is given back; what a rush took beyond them is freed.
const SPARE: usize = 2;

/// How long the writer may take for its last lines once the proxy has ended.
const LAST: Duration = Duration::from_secs(5);

/// How often, at most, the log says that lines are dropped.
const COMPLAINT: Duration = Duration::from_secs(60);

/// What is asked for of the access log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the lines go.
    pub to: Destination,
    /// How they are written.
    pub format: Format,
    /// The longest a line may wait in a worker's buffer. A full buffer is written at once.
    ///
    /// Default: 1 s. Source: nginx, `access_log … flush=` (there unlimited).
    pub flush: Duration,
}

impl Settings {
    /// [`flush`](Self::flush) unless told.
    pub const FLUSH: Duration = Duration::from_secs(1);
}

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To standard output.
    Stdout,
    /// To the end of a file, which is made if it is not there (0640).
    File(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Stdout => f.write_str("stdout"),
            Destination::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What became of lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Lines written.
    pub written: u64,
    /// Lines dropped: the writer was behind, or writing failed.
    pub dropped: u64,
    /// How often the file was reopened.
    pub reopened: u64,
}

/// From the workers to the writer.
enum Message {
    /// Whole lines.
    Lines {
        worker: usize,
        text: Vec<u8>,
        lines: u64,
    },
    /// There is something to look at in [`Shared`].
    Look,
}

/// What workers, writer and operator have in common.
#[derive(Debug)]
struct Shared {
    written: AtomicU64,
    dropped: AtomicU64,
    reopened: AtomicU64,
    /// Whether the file is to be reopened.
    reopen: AtomicBool,
    /// Until the proxy has ended.
    wake: Mutex<Option<SyncSender<Message>>>,
    began: Instant,
    /// Milliseconds from `began` until the next complaint may be made.
    quiet_until: AtomicU64,
}

impl Shared {
    /// Lines were dropped: counts them, and tells whether to say so.
    fn drop_lines(&self, lines: u64) -> bool {
        self.dropped.fetch_add(lines, Ordering::Relaxed);
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let until = self.quiet_until.load(Ordering::Relaxed);
        let pause = u64::try_from(COMPLAINT.as_millis()).unwrap_or(u64::MAX);
        let next = now.saturating_add(pause);
        now >= until
            && self
                .quiet_until
                .compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn counts(&self) -> Counts {
        Counts {
            written: self.written.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            reopened: self.reopened.load(Ordering::Acquire),
        }
    }

    fn wake(&self) -> std::sync::MutexGuard<'_, Option<SyncSender<Message>>> {
        self.wake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's thread. When this and all sinks are dropped it writes what is left and ends.
#[derive(Debug)]
pub struct Log {
    handle: Handle,
    /// Comes to its end with the thread.
    done: Mutex<Receiver<()>>,
}

/// A handle on a log: counts its lines, reopens its file.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// Opens the destination and starts the writer; one sink for each of `workers`.
///
/// # Errors
/// When the file cannot be opened, or the thread not be started.
pub fn start(settings: &Settings, workers: usize) -> io::Result<(Log, Vec<Sink>)> {
    let (sender, messages) = mpsc::sync_channel(QUEUE * workers.max(1));
    let shared = Arc::new(Shared {
        written: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        reopened: AtomicU64::new(0),
        reopen: AtomicBool::new(false),
        wake: Mutex::new(Some(sender.clone())),
        began: Instant::now(),
        quiet_until: AtomicU64::new(0),
    });
    let (mut sinks, mut homes) = (Vec::new(), Vec::new());
    for worker in 0..workers {
        let (home, spare) = mpsc::sync_channel(SPARE);
        let shared = Arc::clone(&shared);
        sinks.push(Sink::new(worker, settings, sender.clone(), spare, shared));
        homes.push(home);
    }
    let writer = Writer::open(&settings.to, homes, Arc::clone(&shared))?;
    let (ending, done) = mpsc::sync_channel(0);
    thread::Builder::new()
        .name("access-log".to_owned())
        .spawn(move || {
            writer.run(&messages);
            drop::<SyncSender<()>>(ending);
        })?;
    let handle = Handle { shared };
    let done = Mutex::new(done);
    Ok((Log { handle, done }, sinks))
}

impl Log {
    /// A handle that can be used elsewhere, also when the log has ended.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits until all is written, once there is no sink any more; not for ever. Blocks the thread.
    pub fn join(mut self) {
        drop(self.handle.shared.wake().take());
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        if done.recv_timeout(LAST) == Err(mpsc::RecvTimeoutError::Timeout) {
            warn!("the access log's last lines could not be written in time");
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        drop(self.handle.shared.wake().take());
    }
}

impl Handle {
    /// What became of lines so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// Has the file closed and opened again, after which nothing is written to the old one. Returns
    /// before that is done: [`Counts::reopened`] tells.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        if let Some(writer) = &*self.shared.wake() {
            // One that has no room for this has lines to write, and looks before each.
            let _ = writer.try_send(Message::Look);
        }
    }
}
