//! What a client sends over HTTP/2, frame by frame: counted by what it costs here and gives nobody. No
//! socket, no clock.
//!
//! The HTTP library keeps the protocol, and bounds what one connection holds. What it does not see as an
//! attack is a client that goes on and on with frames that each are in order: requests that are reset as
//! soon as they are made ("rapid reset", CVE-2023-44487: each takes a connection to a backend), pings,
//! settings, empty data. Who does more of that than any honest client has its connection ended.
//!
//! Source: RFC 9113 §4.1 (frames), §10.5 (denial of service).

use std::time::Duration;

use tokio::time::Instant;

use crate::account::Flood;

/// How many resets there may be at once, and how many a second.
///
/// A browser that leaves a page resets all it waits for: as many as there may be streams.
const RESETS: Bucket = Bucket::of(200, 20);

/// The same of frames that carry nothing. Some clients ping with every window they fill.
const IDLE: Bucket = Bucket::of(1_000, 100);

/// Looks at a client's frames as they come in.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of the preface that are still to come.
    preface: usize,
    head: [u8; HEAD],
    /// How much of a frame's head has come.
    had: usize,
    /// What is left of a frame's payload.
    left: usize,
    resets: Bucket,
    idle: Bucket,
}

/// A frame's head: its length, type, flags and stream.
const HEAD: usize = 9;

/// `PRI * HTTP/2.0`, and so on.
const PREFACE: usize = 24;

impl Frames {
    /// Before anything has come.
    pub(super) fn new() -> Frames {
        Frames {
            preface: PREFACE,
            head: [0; HEAD],
            had: 0,
            left: 0,
            resets: RESETS,
            idle: IDLE,
        }
    }

    /// Bytes came; `now` is asked for if it matters. `Some` if it is too much.
    pub(super) fn came(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Option<Flood> {
        let mut rest = skip(&mut self.preface, bytes);
        loop {
            rest = skip(&mut self.left, rest);
            if rest.is_empty() {
                return None;
            }
            let part = rest.len().min(HEAD - self.had);
            self.head[self.had..self.had + part].copy_from_slice(&rest[..part]);
            self.had += part;
            rest = &rest[part..];
            if self.had < HEAD {
                return None;
            }
            self.had = 0;
            let [a, b, c, kind, flags, ..] = self.head;
            self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let (bucket, flood) = match kind {
                RST_STREAM => (&mut self.resets, Flood::Resets),
                PING | SETTINGS if flags & ACK == 0 => (&mut self.idle, Flood::Idle),
                PRIORITY | PRIORITY_UPDATE => (&mut self.idle, Flood::Idle),
                // One that ends its stream says something.
                DATA if self.left == 0 && flags & END_STREAM == 0 => (&mut self.idle, Flood::Idle),
                _ => continue,
            };
            if !bucket.take(&now) {
                return Some(flood);
            }
        }
    }
}

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const PRIORITY_UPDATE: u8 = 16;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;

/// Passes over as many of `bytes` as are left.
fn skip<'a>(left: &mut usize, bytes: &'a [u8]) -> &'a [u8] {
    let here = bytes.len().min(*left);
    *left -= here;
    &bytes[here..]
}

/// So many at once, and so many a second.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    most: u32,
    a_second: u32,
    left: u32,
    since: Option<Instant>,
}

impl Bucket {
    const fn of(most: u32, a_second: u32) -> Bucket {
        Bucket {
            most,
            a_second,
            left: most,
            since: None,
        }
    }

    /// True if there was one left.
    fn take(&mut self, now: impl Fn() -> Instant) -> bool {
        if self.left == 0 || self.since.is_none() {
            let now = now();
            let since = *self.since.get_or_insert(now);
            let passed = now.saturating_duration_since(since);
            let more = passed.as_millis() * u128::from(self.a_second) / 1_000;
            let more = u32::try_from(more).unwrap_or(u32::MAX);
            if more > 0 {
                self.left = self.left.saturating_add(more).min(self.most);
                let paid = u64::from(more) * 1_000 / u64::from(self.a_second);
                self.since = Some(since + Duration::from_millis(paid).min(passed));
            }
        }
        let has = self.left > 0;
        self.left = self.left.saturating_sub(1);
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: u8, kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.extend(vec![0xff; length.into()]);
        frame
    }

    fn begun() -> Frames {
        let mut frames = Frames::new();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert_eq!(frames.came(preface, Instant::now), None);
        frames
    }

    #[test]
    fn frames_are_found_wherever_they_are_cut() {
        let mut text = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        for _ in 0..3 {
            text.extend(frame(200, DATA, 0));
            text.extend(frame(4, RST_STREAM, 0));
            text.extend(frame(8, PING, 0));
            text.extend(frame(8, PING, ACK));
        }
        for step in 1..40 {
            let mut frames = Frames::new();
            for part in text.chunks(step) {
                assert_eq!(frames.came(part, Instant::now), None);
            }
            let used = (
                RESETS.most - frames.resets.left,
                IDLE.most - frames.idle.left,
            );
            assert_eq!(used, (3, 3), "{step}");
        }
    }

    #[test]
    fn too_many_of_a_kind_are_a_flood_and_time_forgives() {
        let now = Instant::now();
        for (kind, flags, length, flood, most) in [
            (RST_STREAM, 0, 4, Flood::Resets, RESETS),
            (PING, 0, 8, Flood::Idle, IDLE),
            (SETTINGS, 0, 0, Flood::Idle, IDLE),
            (DATA, 0, 0, Flood::Idle, IDLE),
            (PRIORITY, 0, 5, Flood::Idle, IDLE),
        ] {
            let mut frames = begun();
            let one = frame(length, kind, flags);
            for _ in 0..most.most {
                assert_eq!(frames.came(&one, || now), None, "{kind}");
            }
            let later = now + Duration::from_secs(1);
            for _ in 0..most.a_second {
                assert_eq!(frames.came(&one, || later), None, "{kind}");
            }
            assert_eq!(frames.came(&one, || later), Some(flood), "{kind}");
        }
    }

    #[test]
    fn what_carries_something_is_no_flood() {
        let mut frames = begun();
        for _ in 0..10_000 {
            for one in [
                frame(1, DATA, 0),
                frame(0, DATA, END_STREAM),
                frame(20, 1, 4),
                frame(4, 8, 0),
                frame(0, SETTINGS, ACK),
            ] {
                assert_eq!(frames.came(&one, Instant::now), None);
            }
        }
    }
}
