//! Which backend is next: smooth weighted round robin, passing over those that cannot be reached.
//!
//! Told the time, returns an index; knows nothing of connections. Source of the order: nginx's
//! `ngx_http_upstream_round_robin.c` describes the method; of the pause after a failure: nginx,
//! `fail_timeout` (10 s).

use std::time::Duration;

use tokio::time::Instant;

/// How long a backend that could not be reached is passed over, as long as another one can be.
pub const FAIL_TIMEOUT: Duration = Duration::from_secs(10);

/// The backends of one upstream, as one worker sees them.
#[derive(Debug)]
pub struct Balance {
    servers: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    weight: i64,
    /// Grows by `weight` each round, falls by the sum of all weights when picked.
    credit: i64,
    down_until: Option<Instant>,
}

impl Balance {
    /// Backends with these weights. Weight 0 is never picked.
    pub fn new(weights: impl IntoIterator<Item = u32>) -> Balance {
        let server = |weight| Server {
            weight: i64::from(weight),
            credit: 0,
            down_until: None,
        };
        Balance {
            servers: weights.into_iter().map(server).collect(),
        }
    }

    /// Backends with these weights, each with the place it has in this balance, if it has one: what
    /// is known of it goes with it.
    #[must_use]
    pub fn carried_over(&self, servers: impl IntoIterator<Item = (u32, Option<usize>)>) -> Balance {
        let server = |(weight, place): (u32, Option<usize>)| {
            let known = place.map(|place| &self.servers[place]);
            Server {
                weight: i64::from(weight),
                // What it has saved up under another weight would be paid out in a burst.
                credit: known
                    .filter(|known| known.weight == i64::from(weight))
                    .map_or(0, |known| known.credit),
                down_until: known.and_then(|known| known.down_until),
            }
        };
        Balance {
            servers: servers.into_iter().map(server).collect(),
        }
    }

    /// The next backend, or `None` when `tried` holds all that have a weight.
    ///
    /// A backend that is down is picked only when all others are down or tried: being wrong about
    /// it costs one attempt, refusing the request would cost the request.
    pub fn pick(&mut self, now: Instant, tried: &[usize]) -> Option<usize> {
        // The usual case: one backend, nothing tried.
        if let ([only], []) = (self.servers.as_slice(), tried) {
            return (only.weight > 0).then_some(0);
        }
        self.pick_among(
            |server| server.down_until.is_none_or(|until| until <= now),
            tried,
        )
        .or_else(|| self.pick_among(|_| true, tried))
    }

    /// The backend could not be reached at `now`.
    pub fn failed(&mut self, index: usize, now: Instant) {
        self.servers[index].down_until = Some(now + FAIL_TIMEOUT);
    }

    /// The backend was reached.
    pub fn reached(&mut self, index: usize) {
        self.servers[index].down_until = None;
    }

    fn pick_among(&mut self, allowed: impl Fn(&Server) -> bool, tried: &[usize]) -> Option<usize> {
        let mut sum = 0;
        let mut best: Option<usize> = None;
        for index in 0..self.servers.len() {
            let server = &mut self.servers[index];
            if server.weight == 0 || tried.contains(&index) || !allowed(server) {
                continue;
            }
            server.credit += server.weight;
            sum += server.weight;
            let credit = server.credit;
            if best.is_none_or(|best| credit > self.servers[best].credit) {
                best = Some(index);
            }
        }
        self.servers[best?].credit -= sum;
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(balance: &mut Balance, n: usize) -> Vec<usize> {
        let now = Instant::now();
        (0..n).map(|_| balance.pick(now, &[]).unwrap()).collect()
    }

    #[test]
    fn shares_follow_the_weights_and_are_spread_out() {
        let mut balance = Balance::new([5, 1, 1]);
        assert_eq!(picks(&mut balance, 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn weight_zero_is_never_picked() {
        let mut balance = Balance::new([0, 1]);
        assert_eq!(picks(&mut balance, 3), [1, 1, 1]);
        assert_eq!(Balance::new([0]).pick(Instant::now(), &[]), None);
        assert_eq!(Balance::new([0, 0]).pick(Instant::now(), &[]), None);
    }

    #[test]
    fn a_backend_that_failed_is_passed_over_until_it_may_be_tried_again() {
        let now = Instant::now();
        let mut balance = Balance::new([1, 1]);
        balance.failed(0, now);
        let soon = now + FAIL_TIMEOUT / 2;
        assert!((0..4).all(|_| balance.pick(soon, &[]) == Some(1)));
        assert_eq!(balance.pick(soon, &[1]), Some(0), "better than none");
        let later: Vec<_> = (0..4)
            .map(|_| balance.pick(now + FAIL_TIMEOUT, &[]))
            .collect();
        assert!(later.contains(&Some(0)));
        assert_eq!(balance.pick(now, &[0, 1]), None);
    }

    #[test]
    fn what_is_known_of_a_backend_goes_with_it() {
        let now = Instant::now();
        let mut old = Balance::new([1, 1, 1]);
        old.failed(2, now);
        // The second has gone, a new one has come, and they stand in another order.
        let mut new = old.carried_over([(1, Some(2)), (1, Some(0)), (1, None)]);
        let picked = picks(&mut new, 4);
        assert_eq!(picked, [1, 2, 1, 2], "the failed one is passed over still");
        new.reached(0);
        assert!(picks(&mut new, 3).contains(&0));
    }

    #[test]
    fn the_turns_go_on_where_they_were() {
        let turns = |changes: bool| {
            let mut balance = Balance::new([5, 1, 1]);
            let mut turns = Vec::new();
            for _ in 0..14 {
                turns.extend(picks(&mut balance, 1));
                if changes {
                    balance = balance.carried_over([(5, Some(0)), (1, Some(1)), (1, Some(2))]);
                }
            }
            turns
        };
        assert_eq!(turns(true), turns(false));
    }
}
