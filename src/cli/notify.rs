//! Tells the service manager how the proxy stands: systemd's `Type=notify-reload`. Without one nobody is told.
//!
//! Source: `sd_notify(3)`.

use sd_notify::NotifyState;
use tracing::debug;

/// It serves: after the start, and after a reload that came to an end, whatever came of it.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its file again.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => debug!(%error, "no clock for the service manager"),
    }
}

/// It finishes what is in flight.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager was not told");
    }
}
