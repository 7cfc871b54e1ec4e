//! What is asked for of looking names up.

use std::time::Duration;

/// Whether and how often the names among an upstream's servers are looked up again.
///
/// Source: nginx, `server … resolve` and `resolver … valid=`; Envoy, `respect_dns_ttl` and
/// `dns_min_refresh_rate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether a name is looked up again once its answer's TTL is over. Off: at the start, and at a
    /// reload.
    ///
    /// Default: on.
    pub again: bool,

    /// The shortest time between two look-ups of a name, whatever the TTL.
    ///
    /// Default: 1 s.
    pub least: Duration,

    /// The longest, whatever the TTL; also the longest pause after look-ups that failed.
    ///
    /// Default: 5 min.
    pub most: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            again: true,
            least: Duration::from_secs(1),
            most: Duration::from_mins(5),
        }
    }
}
