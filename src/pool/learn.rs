//! How long a backend keeps idle connections, learned from when it closes them.
//!
//! A backend that says nothing still has a timeout: the idle age of a connection at the moment the
//! backend closes it. Seen on several occasions and about the same each time, it is believed for a
//! while, and connections are not used any more shortly before it.

use std::time::Duration;

use tokio::time::Instant;

/// So many occasions have to agree.
const OCCASIONS: usize = 3;

/// Closes within this time are one occasion: a backend that restarts closes all at once.
const APART: Duration = Duration::from_millis(50);

/// No backend means to keep connections for less: what is closed sooner is closed for something
/// else, such as a number of requests.
const LEAST: Duration = Duration::from_millis(50);

/// What was learned is forgotten after this time: connections that are not used that long cannot
/// show that the backend has become more patient.
pub(super) const FORGET: Duration = Duration::from_mins(10);

/// What was seen of one backend.
#[derive(Debug, Default)]
pub(super) struct Learner {
    /// The latest occasions: when, and after how long.
    seen: Vec<(Instant, Duration)>,
    learned: Option<(Instant, Duration)>,
}

impl Learner {
    /// The backend closed a connection that had been idle for `idle`. True if that teaches
    /// something new.
    pub(super) fn closed(&mut self, idle: Duration, now: Instant) -> bool {
        if idle < LEAST {
            return false;
        }
        if let Some((last, _)) = self.seen.last()
            && now.saturating_duration_since(*last) < APART
        {
            return false;
        }
        if self.seen.len() == OCCASIONS {
            self.seen.remove(0);
        }
        self.seen.push((now, idle));
        let ages = self.seen.iter().map(|(_, idle)| *idle);
        let (Some(least), Some(most)) = (ages.clone().min(), ages.max()) else {
            return false;
        };
        // A tenth apart; a backend that looks once in a while is less exact than that.
        if self.seen.len() < OCCASIONS || most.saturating_sub(least) > (least / 10).max(APART / 2) {
            return false;
        }
        let is_new = self.learned.is_none_or(|(_, known)| known != least);
        self.learned = Some((now, least));
        is_new
    }

    /// What is believed at `now`.
    pub(super) fn learned(&self, now: Instant) -> Option<Duration> {
        self.learned
            .filter(|(at, _)| now.saturating_duration_since(*at) < FORGET)
            .map(|(_, idle)| idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn learned(script: &[(u64, u64)]) -> Option<Duration> {
        let start = Instant::now();
        let mut learner = Learner::default();
        let mut now = start;
        for (after, idle) in script {
            now += ms(*after);
            learner.closed(ms(*idle), now);
        }
        learner.learned(now)
    }

    #[test]
    fn three_occasions_that_agree_teach_the_shortest() {
        assert_eq!(
            learned(&[(0, 5000), (900, 5010), (900, 4990)]),
            Some(ms(4990))
        );
        assert_eq!(learned(&[(0, 5000), (900, 5010)]), None);
        assert_eq!(learned(&[(0, 5000), (900, 5010), (900, 3000)]), None);
    }

    #[test]
    fn closes_at_one_moment_are_one_occasion() {
        assert_eq!(learned(&[(0, 200), (1, 200), (1, 200), (1, 200)]), None);
    }

    #[test]
    fn a_timeout_of_tenths_of_a_second_is_learned_from_closes_a_little_apart() {
        assert_eq!(learned(&[(0, 101), (120, 100), (120, 118)]), Some(ms(100)));
    }

    #[test]
    fn what_was_learned_is_forgotten() {
        let start = Instant::now();
        let mut learner = Learner::default();
        for n in 0..3 {
            learner.closed(ms(5000), start + ms(n * 100));
        }
        let last = start + ms(200);
        assert_eq!(learner.learned(last + FORGET - ms(1)), Some(ms(5000)));
        assert_eq!(learner.learned(last + FORGET), None);
    }
}
