//! The live split: a share of an upstream's requests goes over connections that carry one request each, so that both
//! ways can be compared on the same traffic.
//!
//! The short arm of the upstream `app` is an upstream of its own, [`app@short`](twin_name): the same servers under
//! `keep_alive = false`, with pools, figures and log lines under its own name. What decides which of the two a request
//! goes to is here: a point on a line of 2³² for each request, and a share that covers the line from its beginning. The same
//! key always has the same point, so a larger share only adds keys to those that are short already.

mod guard;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{HeaderMap, HeaderName, HeaderValue};

pub use guard::{Guard, Seen};

/// How much of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

/// What is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a part of the requests is needed, from 0 to 1, such as 0.05 or 5%")]
pub struct NoShare;

impl Share {
    /// None of them.
    pub const NONE: Share = Share(0);

    /// Reads `0.05` or `5%`.
    ///
    /// # Errors
    /// When it is neither, or not from 0 to 1.
    pub fn read(text: &str) -> Result<Share, NoShare> {
        let text = text.trim();
        let (number, whole) = match text.strip_suffix('%') {
            Some(percent) => (percent.trim_end(), 100.0),
            None => (text, 1.0),
        };
        let is_plain = number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
        let part: f64 = number.parse().map_err(|_| NoShare)?;
        let part = part / whole;
        if !is_plain || !(0.0..=1.0).contains(&part) {
            return Err(NoShare);
        }
        let points = crate::quantity::whole((part * f64::from(u32::MAX)).round());
        Ok(Share(u32::try_from(points).unwrap_or(u32::MAX)))
    }

    /// As a part of 1, to nine digits: as it was asked for, and not the nearest of 2³² points.
    pub fn part(self) -> f64 {
        (f64::from(self.0) / f64::from(u32::MAX) * 1e9).round() / 1e9
    }

    /// Whether it covers this point.
    fn covers(self, point: u32) -> bool {
        point < self.0 || self.0 == u32::MAX
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // To a thousandth of a percent, and no zeros after it.
        let text = format!("{:.3}", self.part() * 100.0);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{text}%")
    }
}

/// By what a request's point is drawn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Each request by itself, evenly.
    #[default]
    Request,
    /// The client's address: its requests all go the same way.
    Client,
    /// A header's value: requests that share it go the same way. Those without it go each by itself.
    Header(HeaderName),
}

/// What is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"request\", \"client\" or \"header:NAME\" is needed")]
pub struct NoKey;

impl By {
    /// Reads `request`, `client` or `header:NAME`.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn read(text: &str) -> Result<By, NoKey> {
        match text {
            "request" => Ok(By::Request),
            "client" => Ok(By::Client),
            other => {
                let name = other.strip_prefix("header:").ok_or(NoKey)?;
                Ok(By::Header(name.trim().parse().map_err(|_| NoKey)?))
            }
        }
    }
}

/// What is asked for of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The share that is short.
    pub share: Share,
    /// Which requests those are.
    pub by: By,
}

/// Why the short arm gets nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stopped {
    /// Few local ports are left towards a backend.
    PortsLow = 1,
    /// A connection found no local port.
    NoPort = 2,
    /// It fails more often than the pooled arm.
    Errors = 3,
}

impl Stopped {
    /// All of them.
    pub const ALL: [Stopped; 3] = [Stopped::PortsLow, Stopped::NoPort, Stopped::Errors];

    /// As it stands in metrics and JSON.
    pub fn label(self) -> &'static str {
        match self {
            Stopped::PortsLow => "ports_low",
            Stopped::NoPort => "no_local_port",
            Stopped::Errors => "errors",
        }
    }
}

/// An upstream's split while it runs: shared by all workers, and changed while they run.
#[derive(Debug)]
pub struct Split {
    by: By,
    /// The share that is asked for, and above it why it is stopped, 0 if it is not: one value, so that whoever asks for a
    /// share and whoever stops it at the same moment leave no third thing behind.
    state: AtomicU64,
    stops: [AtomicU64; Stopped::ALL.len()],
}

/// Where in the state the reason stands.
const REASON: u32 = 32;

impl Split {
    /// As `settings` ask for it.
    pub fn new(settings: &Settings) -> Split {
        Split {
            by: settings.by.clone(),
            state: AtomicU64::new(settings.share.0.into()),
            stops: Default::default(),
        }
    }

    /// The same in another's place, whose stops it goes on counting.
    pub fn succeeding(old: &Split, settings: &Settings) -> Split {
        let split = Split::new(settings);
        for (now, (_, before)) in split.stops.iter().zip(old.stops()) {
            now.store(before, Ordering::Relaxed);
        }
        split
    }

    /// Whether a request is one of the short arm's. `client` is its address as text, `turn` where the worker is on the line.
    pub fn takes(
        &self,
        client: &HeaderValue,
        headers: &HeaderMap,
        turn: impl FnOnce() -> u32,
    ) -> bool {
        let share = self.in_force();
        if share == Share::NONE {
            return false;
        }
        let point = match &self.by {
            By::Request => turn(),
            By::Client => point(client.as_bytes()),
            By::Header(name) => match headers.get(name) {
                Some(value) => point(value.as_bytes()),
                None => turn(),
            },
        };
        share.covers(point)
    }

    /// What is asked for, and why that is stopped, if it is.
    fn read(&self) -> (Share, Option<Stopped>) {
        let state = self.state.load(Ordering::Relaxed);
        let reason = state >> REASON;
        let stopped = Stopped::ALL.into_iter().find(|why| *why as u64 == reason);
        (share_in(state), stopped)
    }

    /// The share that is asked for.
    pub fn asked(&self) -> Share {
        self.read().0
    }

    /// The share that workers go by: none while it is stopped.
    pub fn in_force(&self) -> Share {
        let state = self.state.load(Ordering::Relaxed);
        if state >> REASON == 0 {
            share_in(state)
        } else {
            Share::NONE
        }
    }

    /// Why it is stopped, if it is.
    pub fn stopped(&self) -> Option<Stopped> {
        self.read().1
    }

    /// How often it was stopped, by why.
    pub fn stops(&self) -> impl Iterator<Item = (Stopped, u64)> {
        let counts = self.stops.iter().map(|count| count.load(Ordering::Relaxed));
        Stopped::ALL.into_iter().zip(counts)
    }

    /// Asks for another share, which also ends a stop. Returns what was asked for before.
    pub fn set(&self, share: Share) -> Share {
        share_in(self.state.swap(share.0.into(), Ordering::Relaxed))
    }

    /// Gives the short arm nothing any more, until another share is asked for. Whether that is news.
    pub fn stop(&self, why: Stopped) -> bool {
        let stop = |state: u64| (state >> REASON == 0).then_some(state | (why as u64) << REASON);
        let is_news = self
            .state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, stop)
            .is_ok();
        if is_news {
            self.stops[why as usize - 1].fetch_add(1, Ordering::Relaxed);
        }
        is_news
    }
}

/// The share in a state.
fn share_in(state: u64) -> Share {
    Share(u32::try_from(state & u64::from(u32::MAX)).expect("32 bits are left"))
}

/// The name of an upstream's short arm. No name of a file's has an `@`.
pub fn twin_name(upstream: &str) -> String {
    format!("{upstream}@short")
}

/// Where a worker is on the line: each step lands in the largest gap that is left, so that any share is kept evenly, also of a
/// few requests. Source: H. Weyl, "Über die Gleichverteilung von Zahlen mod. Eins", 1916; the step is 2³² over the golden ratio.
pub fn next_turn(turn: u32) -> u32 {
    turn.wrapping_add(0x9E37_79B9)
}

/// A key's point on the line. Source: Fowler, Noll, Vo (FNV-1a), and the finaliser of `MurmurHash3`, which spreads keys that
/// differ in their last bytes alone.
fn point(key: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash ^= u64::from(*byte);
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    u32::try_from(hash >> 32).expect("32 bits are left")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(share: &str, by: By) -> Split {
        Split::new(&Settings {
            share: Share::read(share).unwrap(),
            by,
        })
    }

    #[test]
    fn shares_are_read_and_written() {
        for (text, shown) in [
            ("0", Some("0%")),
            ("0.05", Some("5%")),
            ("5%", Some("5%")),
            ("12.5 %", Some("12.5%")),
            ("1", Some("100%")),
            ("100%", Some("100%")),
            ("1.1", None),
            ("-0.1", None),
            ("101%", None),
            ("1e-2", None),
            ("", None),
            ("half", None),
            ("nan", None),
        ] {
            let read = Share::read(text).ok().map(|share| share.to_string());
            assert_eq!(read.as_deref(), shown, "{text}");
        }
        assert_eq!(Share::read("10%").unwrap().part().to_string(), "0.1");
        for text in ["", "clients", "header:", "header:a b", "header"] {
            assert_eq!(By::read(text), Err(NoKey), "{text}");
        }
        let header = By::Header(HeaderName::from_static("x-request-id"));
        assert_eq!(By::read("header:X-Request-Id"), Ok(header));
    }

    #[test]
    fn each_share_of_the_requests_is_kept_evenly() {
        let client = HeaderValue::from_static("10.0.0.1");
        for (share, of_1000) in [("0", 0), ("0.25", 250), ("0.05", 50), ("1", 1000)] {
            let split = split(share, By::Request);
            let mut turn = 7;
            let mut takes = || {
                turn = next_turn(turn);
                split.takes(&client, &HeaderMap::new(), || turn)
            };
            let short = (0..1000).filter(|_| takes()).count();
            assert!(short.abs_diff(of_1000) <= 2, "{share}: {short}");
        }
    }

    #[test]
    fn a_key_goes_the_same_way_and_a_larger_share_only_adds_keys() {
        let none = HeaderMap::new();
        let short = |share: &str| -> Vec<u16> {
            let split = split(share, By::Client);
            let client = |n: u16| {
                let text = format!("10.0.{}.{}", n / 256, n % 256);
                HeaderValue::try_from(text).unwrap()
            };
            (0..2000)
                .filter(|n| split.takes(&client(*n), &none, || panic!("it has a key")))
                .collect()
        };
        let (few, many) = (short("0.1"), short("0.4"));
        assert!(few.len().abs_diff(200) < 60, "{}", few.len());
        assert!(many.len().abs_diff(800) < 90, "{}", many.len());
        assert!(few.iter().all(|client| many.contains(client)));

        let client = HeaderValue::from_static("1.2.3.4");
        let by = By::Header(HeaderName::from_static("x-user"));
        let split = split("0.5", by);
        let way = |user: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-user", user.parse().unwrap());
            split.takes(&client, &headers, || panic!("it has a key"))
        };
        let users: Vec<_> = (0..100).map(|n| format!("user-{n}")).collect();
        let short = users.iter().filter(|user| way(user)).count();
        assert!((30..70).contains(&short), "{short}");
        assert!(users.iter().all(|user| way(user) == way(user)));
        assert!(split.takes(&client, &none, || 0), "it has none");
    }

    #[test]
    fn a_stop_lasts_until_a_share_is_asked_for() {
        let split = split("0.2", By::Request);
        assert!(split.stop(Stopped::PortsLow));
        assert!(!split.stop(Stopped::Errors), "it is stopped already");
        assert_eq!(split.stopped(), Some(Stopped::PortsLow));
        assert_eq!(
            (split.in_force(), split.asked().to_string()),
            (Share::NONE, "20%".to_owned())
        );
        assert_eq!(split.set(Share::read("0.3").unwrap()).to_string(), "20%");
        assert_eq!(
            (split.stopped(), split.in_force().to_string()),
            (None, "30%".to_owned())
        );
        assert!(split.stop(Stopped::NoPort));
        let settings = Settings {
            share: Share::NONE,
            by: By::Client,
        };
        let next = Split::succeeding(&split, &settings);
        assert_eq!((next.stopped(), next.asked()), (None, Share::NONE));
        for split in [split, next] {
            let stops: Vec<_> = split.stops().map(|(_, count)| count).collect();
            assert_eq!(stops, [1, 1, 0]);
        }
    }
}
