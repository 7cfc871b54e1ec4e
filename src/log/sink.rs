//! One worker's lines: a buffer of its own, handed over when it is full or its first line has waited.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fmt, mem};

use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

use super::{Format, Message, Settings, Shared, Stamp, format, zone};
use crate::account::Exchange;

/// What a buffer has room for.
const ROOM: usize = 64 * 1024;

/// One with less room left than this is full: most lines are shorter, so that it need not grow.
const MARGIN: usize = 4 * 1024;

/// How often, with a millisecond between, the last lines are offered to a writer that is behind.
const LAST_TRIES: u32 = 1000;

/// One worker's way into the log. What is in its buffer when it is dropped is still written.
pub struct Sink {
    worker: usize,
    format: Format,
    flush: Duration,
    pending: RefCell<Pending>,
    /// Whether the buffer will be looked at.
    armed: Cell<bool>,
    begun: Notify,
    writer: SyncSender<Message>,
    spare: Receiver<Vec<u8>>,
    shared: Arc<Shared>,
}

/// What is not handed over yet.
struct Pending {
    text: Vec<u8>,
    lines: u64,
    clock: Clock,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    pub(super) fn new(
        worker: usize,
        settings: &Settings,
        writer: SyncSender<Message>,
        spare: Receiver<Vec<u8>>,
        shared: Arc<Shared>,
    ) -> Sink {
        Sink {
            worker,
            format: settings.format,
            flush: settings.flush,
            pending: RefCell::new(Pending {
                text: Vec::new(),
                lines: 0,
                clock: Clock::new(),
            }),
            armed: Cell::new(false),
            begun: Notify::new(),
            writer,
            spare,
            shared,
        }
    }

    /// Logs an exchange that has just ended. Waits for nothing.
    pub fn note(&self, exchange: &Exchange<'_>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        // Apache's %t is when the request came.
        let came = now.unwrap_or_default().saturating_sub(exchange.total);
        let mut pending = self.pending.borrow_mut();
        let Pending { text, lines, clock } = &mut *pending;
        if text.capacity() == 0 {
            text.reserve_exact(ROOM);
        }
        let second = i64::try_from(came.as_secs()).unwrap_or(i64::MAX);
        let stamp = clock.at(second);
        format::line(text, self.format, exchange, stamp, came.subsec_micros());
        *lines += 1;
        if text.len() > ROOM - MARGIN {
            self.hand_over(&mut pending);
        } else if !self.armed.replace(true) {
            self.begun.notify_one();
        }
    }

    /// Hands the buffer over when its first line has waited for long enough, again and again. It runs
    /// on the sink's worker, and does nothing while the buffer is empty.
    pub async fn keep_flushing(self: Rc<Sink>) {
        loop {
            self.begun.notified().await;
            sleep(self.flush).await;
            self.armed.set(false);
            self.hand_over(&mut self.pending.borrow_mut());
        }
    }

    /// Gives the buffer to the writer; if there is no room before it, drops what is in it.
    fn hand_over(&self, pending: &mut Pending) {
        let Some(message) = self.take(pending) else {
            return;
        };
        match self.writer.try_send(message) {
            Ok(()) => {
                if let Ok(empty) = self.spare.try_recv() {
                    pending.text = empty;
                }
            }
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                pending.text = self.dropped(message);
            }
        }
    }

    fn take(&self, pending: &mut Pending) -> Option<Message> {
        let lines = mem::take(&mut pending.lines);
        (lines > 0).then(|| Message::Lines {
            worker: self.worker,
            text: mem::take(&mut pending.text),
            lines,
        })
    }

    /// Counts what could not be handed over; returns its buffer, emptied.
    fn dropped(&self, message: Message) -> Vec<u8> {
        let Message::Lines {
            mut text, lines, ..
        } = message
        else {
            return Vec::new();
        };
        if self.shared.drop_lines(lines) {
            warn!(
                dropped = self.shared.counts().dropped,
                "the access log is written too slowly: lines are dropped"
            );
        }
        text.clear();
        text
    }
}

impl Drop for Sink {
    /// Waits for a writer that is behind, but not for long.
    fn drop(&mut self) {
        let mut pending = self.pending.borrow_mut();
        let Some(mut message) = self.take(&mut pending) else {
            return;
        };
        for _ in 0..LAST_TRIES {
            match self.writer.try_send(message) {
                Ok(()) => return,
                Err(TrySendError::Full(back)) => message = back,
                Err(TrySendError::Disconnected(back)) => {
                    message = back;
                    break;
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.dropped(message);
    }
}

/// Seconds as they stand in the log; the last one is kept, as the next line has it too.
struct Clock {
    minute: i64,
    offset: i32,
    stamp: Stamp,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            minute: i64::MIN,
            offset: 0,
            stamp: Stamp::new(i64::MIN, 0),
        }
    }

    fn at(&mut self, second: i64) -> &Stamp {
        if self.stamp.second() != second {
            // Clocks are put forward and back on whole minutes.
            let minute = second.div_euclid(60);
            if self.minute != minute {
                self.minute = minute;
                self.offset = zone::offset(second);
            }
            self.stamp = Stamp::new(second, self.offset);
        }
        &self.stamp
    }
}
