//! What became of the requests of a load.

use std::time::Duration;

use super::super::hdr::Hdr;

/// Why a request got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Nobody listens there.
    Refused,
    /// No local port was left for a connection (`EADDRNOTAVAIL`).
    NoPort,
    /// No file descriptor or memory was left for one.
    NoFile,
    /// It could not be opened otherwise.
    NoRoute,
    /// The time for the answer was over; opening the connection counts.
    TimedOut,
    /// The server closed the connection before the first byte of an answer.
    ClosedBefore,
    /// The server closed it within the answer.
    ClosedWithin,
    /// The connection was reset.
    Reset,
    /// What came was no answer.
    Malformed,
    /// The load was interrupted before the answer came.
    Interrupted,
}

impl Unanswered {
    /// All of them.
    pub const ALL: [Unanswered; 10] = [
        Unanswered::Refused,
        Unanswered::NoPort,
        Unanswered::NoFile,
        Unanswered::NoRoute,
        Unanswered::TimedOut,
        Unanswered::ClosedBefore,
        Unanswered::ClosedWithin,
        Unanswered::Reset,
        Unanswered::Malformed,
        Unanswered::Interrupted,
    ];

    /// Its key in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Unanswered::Refused => "refused",
            Unanswered::NoPort => "no_port",
            Unanswered::NoFile => "no_file",
            Unanswered::NoRoute => "no_route",
            Unanswered::TimedOut => "timed_out",
            Unanswered::ClosedBefore => "closed_before",
            Unanswered::ClosedWithin => "closed_within",
            Unanswered::Reset => "reset",
            Unanswered::Malformed => "malformed",
            Unanswered::Interrupted => "interrupted",
        }
    }

    /// What happened, in words.
    pub fn words(self) -> &'static str {
        match self {
            Unanswered::Refused => "connection refused",
            Unanswered::NoPort => "no local port left",
            Unanswered::NoFile => "no file descriptor or memory left for a connection",
            Unanswered::NoRoute => "could not connect",
            Unanswered::TimedOut => "no answer in time",
            Unanswered::ClosedBefore => "closed before the answer",
            Unanswered::ClosedWithin => "closed within the answer",
            Unanswered::Reset => "reset",
            Unanswered::Malformed => "no HTTP/1 answer",
            Unanswered::Interrupted => "interrupted before the answer",
        }
    }
}

/// What became of the requests that were sent while it was measured.
///
/// `sent` is the sum of `answered` and all of `errors` once the load is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Requests whose turn came, their connections included.
    pub sent: u64,
    /// Answers read to their end.
    pub answered: u64,
    /// Of these, by status.
    statuses: Box<[u64; 1000]>,
    errors: [u64; Unanswered::ALL.len()],
    /// Connections opened for them.
    pub connects: u64,
    /// Requests on a connection that had served before.
    pub reused: u64,
    /// Bytes of requests, heads included.
    pub bytes_sent: u64,
    /// Bytes of answers, heads included.
    pub bytes_received: u64,
    /// From when a request was due until its answer was over. Of a closed loop it is due when it is sent.
    pub latency: Hdr,
    /// The same from when it was sent, opening a connection included.
    pub service: Hdr,
    /// Opening a connection.
    pub connect: Hdr,
    /// Open loop: the most requests that were due and had no connection to go on.
    pub most_behind: u64,
    /// Open loop: those that still had none at the end, and were never sent.
    pub unsent: u64,
    /// How long was measured.
    pub measured: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            sent: 0,
            answered: 0,
            statuses: Box::new([0; 1000]),
            errors: [0; Unanswered::ALL.len()],
            connects: 0,
            reused: 0,
            bytes_sent: 0,
            bytes_received: 0,
            latency: Hdr::default(),
            service: Hdr::default(),
            connect: Hdr::default(),
            most_behind: 0,
            unsent: 0,
            measured: Duration::ZERO,
        }
    }
}

impl Tally {
    /// Counts an answer.
    pub(super) fn note_answer(&mut self, status: u16, latency: Duration, service: Duration) {
        self.answered += 1;
        // A status has three digits.
        self.statuses[usize::from(status) % 1000] += 1;
        self.latency.note(latency);
        self.service.note(service);
    }

    /// Counts a request that got none.
    pub(super) fn note_error(&mut self, why: Unanswered) {
        self.errors[why as usize] += 1;
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.answered += other.answered;
        for (sum, other) in self.statuses.iter_mut().zip(other.statuses.iter()) {
            *sum += other;
        }
        for (sum, other) in self.errors.iter_mut().zip(other.errors) {
            *sum += other;
        }
        self.connects += other.connects;
        self.reused += other.reused;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.latency.add(&other.latency);
        self.service.add(&other.service);
        self.connect.add(&other.connect);
        self.most_behind += other.most_behind;
        self.unsent += other.unsent;
        self.measured = self.measured.max(other.measured);
    }

    /// Answers by status, those that there were, in order.
    pub fn statuses(&self) -> impl Iterator<Item = (u16, u64)> {
        let all = (0..).zip(self.statuses.iter().copied());
        all.filter(|(_, count)| *count > 0)
    }

    /// Requests without an answer, by why; all kinds.
    pub fn errors(&self) -> impl Iterator<Item = (Unanswered, u64)> {
        Unanswered::ALL.into_iter().zip(self.errors)
    }

    /// All of these.
    pub fn unanswered(&self) -> u64 {
        self.errors.iter().sum()
    }

    /// Whether there was an answer that is no error: a status below 400.
    pub fn any_good(&self) -> bool {
        self.statuses().any(|(status, _)| status < 400)
    }

    /// Answers a second.
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^52 answers are more than anybody waits for"
    )]
    pub fn per_second(&self) -> f64 {
        let seconds = self.measured.as_secs_f64();
        if seconds > 0.0 {
            self.answered as f64 / seconds
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up() {
        let mut one = Tally::default();
        one.note_answer(200, Duration::from_millis(2), Duration::from_millis(1));
        one.note_answer(404, Duration::from_millis(1), Duration::from_millis(1));
        one.measured = Duration::from_secs(2);
        let mut other = Tally::default();
        other.note_answer(200, Duration::from_millis(3), Duration::from_millis(3));
        other.note_error(Unanswered::Interrupted);
        other.measured = Duration::from_secs(1);
        assert!(one.any_good());
        one.add(&other);
        assert_eq!(one.statuses().collect::<Vec<_>>(), [(200, 2), (404, 1)]);
        assert_eq!((one.answered, one.unanswered()), (3, 1));
        assert_eq!(one.errors().last(), Some((Unanswered::Interrupted, 1)));
        assert_eq!(one.latency.max(), Some(Duration::from_millis(3)));
        assert!((one.per_second() - 1.5).abs() < 1e-9);
    }

    #[test]
    fn errors_are_told_apart_by_their_place() {
        for (place, why) in Unanswered::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, place);
        }
    }

    #[test]
    fn an_error_of_the_server_is_no_good_answer() {
        let mut tally = Tally::default();
        tally.note_answer(502, Duration::ZERO, Duration::ZERO);
        assert!(!tally.any_good());
        assert!(tally.per_second().abs() < 1e-9);
    }
}
