//! Wakes a thread at an instant, exactly: an epoll by itself counts in milliseconds.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};
use tokio::time::Instant;

/// A descriptor that can be read from an instant on.
pub(super) struct Timer {
    timer: OwnedFd,
    set_for: Option<Instant>,
}

impl Timer {
    pub(super) fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Timer {
            timer: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            set_for: None,
        })
    }

    /// Sets it for `instant`, in place of what it was set for. An edge-triggered epoll need not read it.
    pub(super) fn set(&mut self, instant: Instant, now: Instant) -> io::Result<()> {
        if self.set_for == Some(instant) {
            return Ok(());
        }
        // Zero would stop it.
        let left = instant
            .saturating_duration_since(now)
            .max(Duration::from_nanos(1));
        let timer = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec::try_from(left).map_err(io::Error::other)?,
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        self.set_for = Some(instant);
        Ok(())
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
