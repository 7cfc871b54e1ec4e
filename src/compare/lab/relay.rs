//! The delay of a line where the kernel has no netem: packets between two TUN devices, held back for a while.
//!
//! Whole packets and not connections are relayed: the proxy's connections to the backend stay its own, with
//! handshakes, ports and `TIME_WAIT`s, as over a wire.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::Instant;

/// The most packets under way in one direction. With more the kernel keeps as many for us, and loses the rest.
pub(super) const MOST_WAITING: usize = 10_000;

/// The most bytes of a packet: the MTU of a TUN device is 1500 unless somebody changes it.
const LARGEST: usize = 2048;

/// How many packets are taken in before others are looked at.
const AT_A_TIME: usize = 64;

/// A thread that passes on what comes out of either of two devices to the other, later. Ends when dropped.
#[derive(Debug)]
pub(super) struct Relay {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// # Errors
    /// No more threads, or descriptors.
    pub(super) fn start(one: File, other: File, delay: Duration) -> io::Result<Relay> {
        let (stopped, stop) = io::pipe()?;
        let thread = thread::Builder::new()
            .name("lab relay".to_owned())
            .spawn(move || {
                if let Err(error) = pass(&one, &other, delay, &stopped) {
                    tracing::warn!("a line of the lab is down: {error}");
                }
            })?;
        Ok(Relay {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("a relay of the lab had panicked");
        }
    }
}

/// One direction.
struct Lane<'a> {
    from: &'a File,
    to: &'a File,
    delay: Duration,
    /// When each packet is to go out, the next one first.
    waiting: VecDeque<(Instant, Vec<u8>)>,
    /// Buffers that packets were in.
    spare: Vec<Vec<u8>>,
}

/// Relays until `stopped` is at its end.
fn pass(one: &File, other: &File, delay: Duration, stopped: &PipeReader) -> io::Result<()> {
    let mut lanes = [Lane::new(one, other, delay), Lane::new(other, one, delay)];
    loop {
        let now = Instant::now();
        for lane in &mut lanes {
            lane.send_due(now);
        }
        let next = lanes.iter().filter_map(Lane::next).min();
        let timeout = next.map(|due| {
            let wait = due.saturating_duration_since(Instant::now());
            Timespec::try_from(wait).expect("ten seconds at most")
        });
        let flags = |lane: &Lane<'_>| {
            if lane.waiting.len() < MOST_WAITING {
                PollFlags::IN
            } else {
                PollFlags::empty()
            }
        };
        let mut watched = [
            PollFd::new(stopped, PollFlags::IN),
            PollFd::new(one, flags(&lanes[0])),
            PollFd::new(other, flags(&lanes[1])),
        ];
        match poll(&mut watched, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        if !watched[0].revents().is_empty() {
            return Ok(());
        }
        let ready = [watched[1].revents(), watched[2].revents()];
        for (lane, ready) in lanes.iter_mut().zip(ready) {
            if !ready.is_empty() {
                lane.take_in()?;
            }
        }
    }
}

impl<'a> Lane<'a> {
    fn new(from: &'a File, to: &'a File, delay: Duration) -> Lane<'a> {
        Lane {
            from,
            to,
            delay,
            waiting: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    fn next(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    fn send_due(&mut self, now: Instant) {
        while let Some((_, packet)) = self.waiting.pop_front_if(|(due, _)| *due <= now) {
            // What a device does not take is lost, as on a wire that leads to a host that is down.
            let _ = (&mut &*self.to).write(&packet);
            self.spare.push(packet);
        }
    }

    /// # Errors
    /// The device is gone.
    fn take_in(&mut self) -> io::Result<()> {
        for _ in 0..AT_A_TIME.min(MOST_WAITING - self.waiting.len()) {
            let mut packet = self.spare.pop().unwrap_or_default();
            packet.resize(LARGEST, 0);
            match (&mut &*self.from).read(&mut packet) {
                Ok(length) => {
                    packet.truncate(length);
                    self.waiting
                        .push_back((Instant::now() + self.delay, packet));
                }
                Err(error) => {
                    self.spare.push(packet);
                    let passes = [ErrorKind::WouldBlock, ErrorKind::Interrupted];
                    return if passes.contains(&error.kind()) {
                        Ok(())
                    } else {
                        Err(error)
                    };
                }
            }
        }
        Ok(())
    }
}
