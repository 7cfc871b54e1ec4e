//! The thread that writes the lines of all workers.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use tracing::{error, info, warn};

use super::{Destination, Message, Shared};

/// Buffers that have grown beyond this are not given back.
const LARGEST: usize = 128 * 1024;

/// How often, with [`PAUSE`] between, one that cannot take anything right now is tried: a second.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Writes whole lines, or none of a line.
pub(super) struct Writer<O: Open> {
    to: O,
    out: O::Out,
    /// The rest of a line whose beginning could be written.
    rest: Vec<u8>,
    failing: bool,
    homes: Vec<SyncSender<Vec<u8>>>,
    shared: Arc<Shared>,
}

/// What can be opened for writing, again and again.
pub(super) trait Open {
    type Out: Write;

    fn open(&self) -> io::Result<Self::Out>;

    /// As it is called in messages.
    fn name(&self) -> String;
}

impl Open for Destination {
    type Out = File;

    fn open(&self) -> io::Result<File> {
        match self {
            // Without the buffer that the library's own has.
            Destination::Stdout => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Destination::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o640)
                .open(path),
        }
    }

    fn name(&self) -> String {
        self.to_string()
    }
}

impl Writer<Destination> {
    pub(super) fn open(
        to: &Destination,
        homes: Vec<SyncSender<Vec<u8>>>,
        shared: Arc<Shared>,
    ) -> io::Result<Writer<Destination>> {
        Writer::to(to.clone(), homes, shared)
    }
}

impl<O: Open> Writer<O> {
    fn to(to: O, homes: Vec<SyncSender<Vec<u8>>>, shared: Arc<Shared>) -> io::Result<Writer<O>> {
        Ok(Writer {
            out: to.open()?,
            to,
            rest: Vec::new(),
            failing: false,
            homes,
            shared,
        })
    }

    /// Writes until nobody can send anything any more.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        while let Ok(message) = messages.recv() {
            if self.shared.reopen.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            match message {
                Message::Lines {
                    worker,
                    mut text,
                    lines,
                } => {
                    self.write(&text, lines);
                    text.clear();
                    if text.capacity() <= LARGEST
                        && let Some(home) = self.homes.get(worker)
                    {
                        // It may have enough of them, or have ended.
                        let _ = home.try_send(text);
                    }
                }
                Message::Look => {}
            }
        }
        self.finish_line();
    }

    /// Closes the file and opens what has its name now. If that fails, the old one is gone on with.
    fn reopen(&mut self) {
        match self.to.open() {
            Ok(out) => {
                self.finish_line();
                self.out = out;
                self.shared.reopened.fetch_add(1, Ordering::Release);
                info!("the access log was reopened: {}", self.to.name());
            }
            Err(error) => error!(
                "the access log cannot be reopened, the old one is gone on with: {}: {error}",
                self.to.name()
            ),
        }
    }

    /// Writes the rest of a line, or gives it up.
    fn finish_line(&mut self) {
        self.write(&[], 0);
        if !self.rest.is_empty() {
            self.rest.clear();
            self.shared.drop_lines(1);
        }
    }

    /// Writes `text`, which is so many lines. What cannot be written is dropped.
    fn write(&mut self, text: &[u8], lines: u64) {
        if let Err((done, error)) = write_all(&mut self.out, &self.rest) {
            self.rest.drain(..done);
            self.failed(lines, &error);
            return;
        }
        if !self.rest.is_empty() {
            self.rest.clear();
            self.wrote(1);
        }
        match write_all(&mut self.out, text) {
            Ok(()) => self.wrote(lines),
            Err((done, error)) => {
                let (written, not) = text.split_at(done);
                let whole = written.split(|byte| *byte == b'\n').count() - 1;
                let whole = u64::try_from(whole).unwrap_or(lines);
                let mut lost = lines.saturating_sub(whole);
                if written.last().is_some_and(|last| *last != b'\n') {
                    let rest = not.split_inclusive(|byte| *byte == b'\n').next();
                    self.rest.extend_from_slice(rest.unwrap_or_default());
                    lost = lost.saturating_sub(1);
                }
                self.shared.written.fetch_add(whole, Ordering::Relaxed);
                self.failed(lost, &error);
            }
        }
    }

    fn wrote(&mut self, lines: u64) {
        self.shared.written.fetch_add(lines, Ordering::Relaxed);
        if lines > 0 && self.failing {
            self.failing = false;
            info!("the access log can be written again");
        }
    }

    fn failed(&mut self, lost: u64, error: &io::Error) {
        self.failing = true;
        if self.shared.drop_lines(lost) {
            warn!(
                dropped = self.shared.counts().dropped,
                "the access log cannot be written, lines are dropped: {}: {error}",
                self.to.name()
            );
        }
    }
}

/// Writes all of `text`, or tells how much of it was written.
fn write_all(out: &mut impl Write, text: &[u8]) -> Result<(), (usize, io::Error)> {
    let (mut done, mut tries) = (0, 0);
    while done < text.len() {
        match out.write(&text[done..]) {
            Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
            Ok(more) => (done, tries) = (done + more, 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Standard output may be a pipe that another program has made non-blocking.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TRIES => {
                tries += 1;
                thread::sleep(PAUSE);
            }
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    use tokio::time::Instant;

    use super::*;
    use crate::log::Counts;

    /// A disk with room for so many bytes.
    #[derive(Clone, Default)]
    struct Disk {
        room: Arc<Mutex<usize>>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Open for Disk {
        type Out = Disk;

        fn open(&self) -> io::Result<Disk> {
            Ok(self.clone())
        }

        fn name(&self) -> String {
            "disk".to_owned()
        }
    }

    impl Write for Disk {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let mut room = self.room.lock().unwrap();
            if *room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let more = text.len().min(*room).min(5);
            *room -= more;
            self.written
                .lock()
                .unwrap()
                .extend_from_slice(&text[..more]);
            Ok(more)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shared() -> Arc<Shared> {
        Arc::new(Shared {
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            reopened: AtomicU64::new(0),
            reopen: AtomicBool::new(false),
            wake: Mutex::new(None),
            began: Instant::now(),
            quiet_until: AtomicU64::new(0),
        })
    }

    /// Whatever room there is, and whenever more comes: lines are whole, and each is counted once.
    #[test]
    fn a_full_disk_tears_no_line() {
        const TEXT: &str = "first line\nsecond\nthe third line\n";
        for room in 0..=TEXT.len() * 2 {
            let disk = Disk::default();
            let shared = shared();
            let mut writer = Writer::to(disk.clone(), Vec::new(), Arc::clone(&shared)).unwrap();
            *disk.room.lock().unwrap() = room;
            writer.write(TEXT.as_bytes(), 3);
            writer.write(TEXT.as_bytes(), 3);
            *disk.room.lock().unwrap() = 1000;
            writer.write(TEXT.as_bytes(), 3);
            writer.finish_line();
            let text = String::from_utf8(disk.written.lock().unwrap().clone()).unwrap();
            for line in text.split_inclusive('\n') {
                let known = TEXT.split_inclusive('\n').any(|known| known == line);
                assert!(known, "room for {room}: {text:?}");
            }
            let Counts {
                written, dropped, ..
            } = shared.counts();
            assert_eq!(written, text.lines().count() as u64, "room for {room}");
            assert_eq!(written + dropped, 9, "room for {room}: {text:?}");
            assert!(text.ends_with(TEXT), "room for {room}: {text:?}");
        }
    }

    #[test]
    fn a_line_whose_end_never_fits_is_dropped() {
        let disk = Disk::default();
        let shared = shared();
        let mut writer = Writer::to(disk.clone(), Vec::new(), Arc::clone(&shared)).unwrap();
        *disk.room.lock().unwrap() = 4;
        writer.write(b"first\nsecond\n", 2);
        writer.finish_line();
        let counts = shared.counts();
        assert_eq!((counts.written, counts.dropped), (0, 2));
    }

    #[test]
    fn complaints_come_once_a_minute() {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(async {
                let shared = shared();
                assert!(shared.drop_lines(1));
                assert!(!shared.drop_lines(1));
                tokio::time::advance(Duration::from_secs(59)).await;
                assert!(!shared.drop_lines(1));
                tokio::time::advance(Duration::from_secs(1)).await;
                assert!(shared.drop_lines(1));
                assert_eq!(shared.counts().dropped, 4);
            });
    }
}
