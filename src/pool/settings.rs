//! What is asked for of a pool: the settings of one upstream that hold for each of its servers.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::keepalive::KeepAlive;

/// How the connections to one server are kept, limited and waited for.
///
/// Every limit holds for the process, whatever the number of workers, and for each server of the
/// upstream by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether, how often and how long connections are kept.
    pub keep_alive: KeepAlive,

    /// The most connections there may be at once, those being opened included; `None`: unlimited.
    ///
    /// Default: unlimited. Source: nginx, `server … max_conns=`; Apache httpd 2.4, `mod_proxy`'s
    /// `max=`; Envoy, `max_connections`.
    pub max_connections: Option<NonZeroU32>,

    /// The most connections that may be idle at once; `None`: no limit of its own. The longest
    /// idle is closed for one that comes free.
    ///
    /// Default: none: reuse is last in, first out, so that what is not needed ages out by
    /// `keep_alive.timeout`, and a cap below the concurrency closes a connection a request.
    /// Source: nginx, `keepalive` in `upstream` (32 a worker); Go, `MaxIdleConnsPerHost` (2).
    pub max_idle: Option<NonZeroU32>,

    /// How many idle connections are kept ready: opened at the start, and again after a loss.
    ///
    /// Default: 0. Source: Apache httpd 2.4, `mod_proxy`'s `min=`; Envoy, preconnecting.
    pub min_idle: u32,

    /// The longest a connection is used; `None`: unlimited. Up to a tenth is taken off at random,
    /// so that connections opened together do not end together. The exchange that finds it too old
    /// is its last.
    ///
    /// Default: 1 h. Source: nginx, `keepalive_time` (1h).
    pub max_age: Option<Duration>,

    /// The longest a request may wait in line for a connection, once none may be opened.
    ///
    /// Default: 5 s. Source: `timeout queue` (connect timeout) of `HAProxy`; Apache httpd
    /// 2.4, `mod_proxy`'s `acquire=`.
    pub acquire_timeout: Duration,

    /// The most requests that may wait in line; one more is refused at once.
    ///
    /// Default: 1024. Source: Envoy, `max_pending_requests` (1024).
    pub max_waiting: u32,

    /// The most connections that may be opening at once; `None`: unlimited.
    ///
    /// Default: unlimited. Keeps an outage or a deploy from becoming a storm of connects.
    pub max_connecting: Option<NonZeroU32>,

    /// The most connections that may be begun in a second; `None`: unlimited. A tenth of a
    /// second's worth may be begun at once.
    ///
    /// Default: unlimited.
    pub max_connects_per_second: Option<NonZeroU32>,

    /// How long a connection may have been idle to take a request that cannot be sent twice.
    ///
    /// Default: 1 s. A backend's idle timeout is hardly ever shorter. Zero: such a request always
    /// gets a fresh one.
    pub safe_idle: Duration,

    /// Whether the backend's own `Keep-Alive: timeout=, max=` shortens `keep_alive` for the
    /// connection it came on.
    ///
    /// Default: on. Source: RFC 2068 §19.7.1.1, as Apache httpd and Node.js send it.
    pub heed_hints: bool,

    /// Whether an idle timeout that a backend is seen to have, again and again, is heeded like a
    /// hint.
    ///
    /// Default: on.
    pub learn_idle_timeout: bool,

    /// How long before a backend's own idle timeout its connections are not used any more: the
    /// time a request may be under way. Never more than half of that timeout.
    ///
    /// Default: 1 s.
    pub hint_margin: Duration,
}

impl Settings {
    /// The defaults, under these settings for keeping.
    pub fn new(keep_alive: KeepAlive) -> Settings {
        Settings {
            keep_alive,
            max_connections: None,
            max_idle: None,
            min_idle: 0,
            max_age: Some(Duration::from_hours(1)),
            acquire_timeout: Duration::from_secs(5),
            max_waiting: 1024,
            max_connecting: None,
            max_connects_per_second: None,
            safe_idle: Duration::from_secs(1),
            heed_hints: true,
            learn_idle_timeout: true,
            hint_margin: Duration::from_secs(1),
        }
    }

    /// How long a connection may wait whose backend closes after `theirs`.
    pub fn idle_limit(&self, theirs: Duration) -> Duration {
        let margin = self.hint_margin.min(theirs / 2);
        self.keep_alive.timeout.min(theirs.saturating_sub(margin))
    }

    /// `max_age` less up to a tenth, by a number drawn at random.
    pub(super) fn jittered_age(&self, draw: u32) -> Option<Duration> {
        let part = f64::from(draw) / f64::from(u32::MAX);
        let age = self.max_age?;
        Some(age.saturating_sub((age / 10).mul_f64(part)))
    }

    /// Whether anything but the number of descriptors limits the connections.
    pub fn is_bounded(&self) -> bool {
        self.max_connections.is_some()
            || self.max_connecting.is_some()
            || self.max_connects_per_second.is_some()
    }

    /// Whether connections are kept at all.
    pub fn keeps(&self) -> bool {
        self.keep_alive.enabled && !self.keep_alive.timeout.is_zero()
    }
}
