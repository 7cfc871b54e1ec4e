//! When a name is looked up next.

use std::time::Duration;

use tokio::time::Instant;

use super::Settings;

/// The pause after a first look-up that failed; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// When one name is looked up next. Told the time.
#[derive(Clone, Debug)]
pub struct Schedule {
    settings: Settings,
    due: Option<Instant>,
    failures: u32,
}

impl Schedule {
    /// Of a name that has not been looked up yet.
    pub fn new(settings: Settings) -> Schedule {
        Schedule {
            settings,
            due: None,
            failures: 0,
        }
    }

    /// When to look it up; `None` if it is being looked up, or never is again.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// It is being looked up.
    pub fn begun(&mut self) {
        self.due = None;
    }

    /// There was an answer at `now`, good for `ttl`. Returns after how many failures.
    pub fn answered(&mut self, now: Instant, ttl: Duration) -> u32 {
        self.next(now, ttl);
        std::mem::take(&mut self.failures)
    }

    /// There was none at `now`. Whether that is news.
    pub fn failed(&mut self, now: Instant) -> bool {
        // 2^20 s is more than any `most`.
        let pause = FIRST_PAUSE * 2_u32.pow(self.failures.min(20));
        self.next(now, pause);
        self.failures += 1;
        self.failures == 1
    }

    fn next(&mut self, now: Instant, pause: Duration) {
        let (least, most) = (self.settings.least, self.settings.most);
        // Should the two contradict each other, the name server is spared.
        let pause = pause.min(most).max(least);
        self.due = self.settings.again.then(|| now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn bounds(least: u64, most: u64) -> Settings {
        Settings {
            again: true,
            least: secs(least),
            most: secs(most),
        }
    }

    #[test]
    fn the_ttl_counts_within_its_bounds() {
        let now = Instant::now();
        for (least, most, ttl, pause) in [
            (1, 300, 30, 30),
            (1, 300, 0, 1),
            (1, 300, 86_400, 300),
            (60, 300, 30, 60),
            (60, 10, 30, 60),
        ] {
            let mut schedule = Schedule::new(bounds(least, most));
            assert_eq!(schedule.due(), None);
            schedule.answered(now, secs(ttl));
            assert_eq!(
                schedule.due(),
                Some(now + secs(pause)),
                "{least} {most} {ttl}"
            );
            schedule.begun();
            assert_eq!(schedule.due(), None);
        }
    }

    #[test]
    fn failures_are_news_once_and_are_tried_again_more_and_more_slowly() {
        let now = Instant::now();
        let mut schedule = Schedule::new(bounds(1, 20));
        schedule.answered(now, secs(5));
        for (news, pause) in [
            (true, 1),
            (false, 2),
            (false, 4),
            (false, 8),
            (false, 16),
            (false, 20),
            (false, 20),
        ] {
            assert_eq!(schedule.failed(now), news);
            assert_eq!(schedule.due(), Some(now + secs(pause)));
        }
        assert_eq!(schedule.answered(now, secs(5)), 7);
        assert_eq!(schedule.due(), Some(now + secs(5)));
        assert!(schedule.failed(now), "it is news again");
        for _ in 0..100 {
            schedule.failed(now);
        }
        assert_eq!(schedule.due(), Some(now + secs(20)));
    }

    #[test]
    fn a_name_that_is_looked_up_once_is_never_due() {
        let now = Instant::now();
        let mut schedule = Schedule::new(Settings {
            again: false,
            ..Settings::default()
        });
        schedule.answered(now, secs(5));
        assert_eq!(schedule.due(), None);
        schedule.failed(now);
        assert_eq!(schedule.due(), None);
    }
}
