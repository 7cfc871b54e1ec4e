//! One thread of a load: its connections, and one epoll for all of them.
//!
//! A connection is watched once, edge-triggered, for as long as it lasts: an exchange is a write, a wait and a
//! read. A read that fills less than the buffer has taken all there was.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::time::Instant;

use super::arrivals::Arrivals;
use super::client::{self, Client, Phase};
use super::response::Answer;
use super::timer::Timer;
use super::{Pace, Shared, Tally, Unanswered};

/// What is read at once.
const BUFFER: usize = 64 * 1024;

/// How many events are told of at once.
const EVENTS: usize = 256;

/// How often timeouts and a request to stop are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long nothing may come; in whole milliseconds, which every kernel knows.
const AT_MOST: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// How long a client rests whose request failed, so that a server that refuses is not asked a million times.
const REST: Duration = Duration::from_millis(10);

/// How long the server's FIN is waited for when it is to close.
const FIN_WITHIN: Duration = Duration::from_secs(1);

/// The timer's event; connections have their numbers.
const TIMER: u64 = u64::MAX;

/// A thread's share of a load.
pub(super) struct Worker {
    shared: Arc<Shared>,
    part: usize,
    epoll: OwnedFd,
    clients: Vec<Client>,
    /// Clients that have nothing to do, the last one used on top. Open loop only.
    free: Vec<usize>,
    /// Clients that rest or think, and until when.
    resting: BinaryHeap<Reverse<(Instant, usize)>>,
    schedule: Option<Schedule>,
    /// Tells when the next one has rested or is due, exactly: epoll counts in milliseconds.
    timer: Timer,
    buffer: Box<[u8]>,
    tally: Tally,
    /// Which of the addresses is taken, and whether it has ever answered.
    address: usize,
    connected: bool,
    /// Clients that are not idle.
    busy: usize,
    measure_from: Instant,
    measure_until: Option<Instant>,
    requests_left: Option<u64>,
    /// No request begins any more.
    over: bool,
    /// When a request was last answered, or given up.
    last_end: Instant,
}

/// What an open loop is driven by.
struct Schedule {
    next: Arrivals,
    /// Runs ahead to where the clock is.
    ahead: Arrivals,
}

/// One thread's part of a number.
fn share(of: u64, part: u32, parts: NonZeroU32) -> u64 {
    let parts = u64::from(parts.get());
    of / parts + u64::from(u64::from(part) < of % parts)
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>, part: u32, parts: NonZeroU32) -> io::Result<Worker> {
        let settings = &shared.settings;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = Timer::new()?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), flags)?;
        let schedule = match settings.pace {
            Pace::Closed { .. } => None,
            Pace::Open { rate, spread } => {
                let next = Arrivals::new(rate, spread, part, parts);
                Some(Schedule {
                    ahead: next.clone(),
                    next,
                })
            }
        };
        let start = shared.start;
        let count = share(settings.connections.get().into(), part, parts);
        let clients: Vec<_> = (0..count).map(|_| Client::new(start)).collect();
        let measure_from = start + settings.warm_up;
        Ok(Worker {
            part: part as usize,
            epoll,
            free: if schedule.is_some() {
                (0..clients.len()).rev().collect()
            } else {
                Vec::new()
            },
            resting: if schedule.is_some() {
                BinaryHeap::with_capacity(clients.len())
            } else {
                (0..clients.len()).map(|at| Reverse((start, at))).collect()
            },
            clients,
            schedule,
            timer,
            buffer: vec![0; BUFFER].into(),
            tally: Tally::default(),
            address: 0,
            connected: false,
            busy: 0,
            measure_from,
            measure_until: settings.duration.map(|duration| measure_from + duration),
            requests_left: settings.requests.map(|all| share(all, part, parts)),
            over: false,
            last_end: start,
            shared,
        })
    }

    /// Sends until all is sent, or it is told to stop.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        let mut look_at = self.shared.start;
        loop {
            let now = Instant::now();
            let look = now >= look_at;
            if look {
                look_at = now + LOOK_EVERY;
                if self.shared.stop.load(Ordering::Relaxed) {
                    self.interrupt(now);
                    break;
                }
                self.time_out(now);
            }
            self.begin_what_is_due(now);
            if look {
                self.note_behind(now);
            }
            if self.over && self.busy == 0 {
                break;
            }
            self.set_timer(now)?;
            let (told, _) = match epoll::wait(&self.epoll, &mut events, Some(&AT_MOST)) {
                Ok(told) => told,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in told {
                let (number, flags) = (event.data.u64(), event.flags);
                if number != TIMER {
                    let at = usize::try_from(number).expect("it is a client's number");
                    self.on_event(at, flags);
                }
            }
        }
        self.end();
        Ok(())
    }

    pub(super) fn into_tally(self) -> Tally {
        self.tally
    }

    /// Has the timer tell of the next one that has rested or is due.
    fn set_timer(&mut self, now: Instant) -> io::Result<()> {
        let rested = self.resting.peek().map(|Reverse((until, _))| *until);
        let due = self
            .schedule
            .as_ref()
            .filter(|_| !self.over && !self.free.is_empty());
        let due = due.map(|schedule| self.shared.start + schedule.next.next());
        let Some(next) = rested.into_iter().chain(due).min() else {
            return Ok(());
        };
        self.timer.set(next, now)
    }

    /// Begins the requests whose time has come.
    fn begin_what_is_due(&mut self, now: Instant) {
        while let Some(Reverse((until, at))) = self.resting.peek().copied()
            && until <= now
        {
            self.resting.pop();
            self.has_rested(at, now);
        }
        let start = self.shared.start;
        while let Some(schedule) = &self.schedule {
            let due = start + schedule.next.next();
            if due > now || self.measure_until.is_some_and(|until| due >= until) {
                break;
            }
            let Some(at) = self.free.pop() else {
                break;
            };
            if !self.begin(at, due, now) {
                self.free.push(at);
                break;
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.next.advance();
            }
        }
        if !self.over && self.measure_until.is_some_and(|until| now >= until) {
            self.over = true;
            self.tally.unsent = self.behind(now);
        }
    }

    /// A client is ready for its next request.
    fn has_rested(&mut self, at: usize, now: Instant) {
        if self.schedule.is_some() {
            self.free.push(at);
        } else {
            self.begin(at, now, now);
        }
    }

    /// Sends the next request, if there is one to send.
    fn begin(&mut self, at: usize, due: Instant, now: Instant) -> bool {
        let measured = now >= self.measure_from;
        self.over |= measured && self.requests_left == Some(0);
        if self.over || self.measure_until.is_some_and(|until| due >= until) {
            return false;
        }
        if measured {
            self.tally.sent += 1;
            self.requests_left = self.requests_left.map(|left| left - 1);
        }
        self.busy += 1;
        let client = &mut self.clients[at];
        (client.due, client.began, client.measured) = (due, now, measured);
        client.written = 0;
        client.response.begin(self.shared.settings.request.is_head);
        if client.socket.is_some() {
            client.phase = Phase::Exchanging;
            if measured {
                self.tally.reused += 1;
            }
            self.send(at);
        } else {
            self.connect(at);
        }
        true
    }

    fn connect(&mut self, at: usize) {
        self.clients[at].address = self.address;
        let Some(address) = self.shared.settings.addresses.get(self.address) else {
            return self.fail(at, Unanswered::NoRoute);
        };
        match client::open(address, &self.epoll, at as u64) {
            Ok(socket) => {
                self.clients[at].socket = Some(socket);
                self.clients[at].phase = Phase::Connecting;
            }
            Err(error) => self.not_connected(at, error),
        }
    }

    /// Tries the name's next address while none has answered.
    fn not_connected(&mut self, at: usize, error: Errno) {
        self.clients[at].socket = None;
        if !self.connected {
            let tried = self.clients[at].address;
            if tried == self.address && tried + 1 < self.shared.settings.addresses.len() {
                self.address += 1;
            }
            if tried < self.address {
                return self.connect(at);
            }
        }
        self.fail(at, client::why(error));
    }

    fn on_event(&mut self, at: usize, flags: epoll::EventFlags) {
        let ended = flags
            .intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let client = &mut self.clients[at];
        match client.phase {
            // Closed, or something that nobody asked for. An event that came late finds nothing.
            Phase::Idle => {
                if ended || (flags.contains(epoll::EventFlags::IN) && !client.is_silent()) {
                    client.socket = None;
                }
            }
            Phase::Connecting => {
                let failed = client.socket.as_ref().filter(|_| ended).and_then(|socket| {
                    // The kernel says why once; a server that connects and closes at once has no error.
                    sockopt::socket_error(socket).unwrap_or_else(Err).err()
                });
                if let Some(error) = failed {
                    self.not_connected(at, error);
                } else if flags.contains(epoll::EventFlags::OUT) {
                    self.connected = true;
                    client.phase = Phase::Exchanging;
                    if client.measured {
                        self.tally.connects += 1;
                        self.tally.connect.note(client.began.elapsed());
                    }
                    self.send(at);
                    if ended || flags.contains(epoll::EventFlags::IN) {
                        self.receive(at, ended);
                    }
                }
            }
            Phase::Exchanging => {
                if flags.contains(epoll::EventFlags::OUT)
                    && client.written < self.shared.settings.request.bytes.len()
                {
                    self.send(at);
                }
                if ended || flags.contains(epoll::EventFlags::IN) {
                    self.receive(at, ended);
                }
            }
            Phase::Ending => self.await_fin(at, Instant::now()),
        }
    }

    /// Writes what the socket takes.
    fn send(&mut self, at: usize) {
        let request = &self.shared.settings.request.bytes;
        let client = &mut self.clients[at];
        let Some(socket) = &client.socket else {
            return;
        };
        while client.written < request.len() {
            match rustix::io::write(socket, &request[client.written..]) {
                Ok(count) => {
                    client.written += count;
                    if client.measured {
                        self.tally.bytes_sent += count as u64;
                    }
                }
                Err(Errno::INTR) => {}
                // It goes on when there is room.
                Err(Errno::AGAIN) => break,
                // The server may have answered before it closed.
                Err(_) => return self.receive(at, true),
            }
        }
    }

    /// Reads what has come. `ended`: so has the connection's end.
    fn receive(&mut self, at: usize, ended: bool) {
        loop {
            let client = &mut self.clients[at];
            if client.phase != Phase::Exchanging {
                return;
            }
            let Some(socket) = &client.socket else {
                return;
            };
            let count = match rustix::io::read(socket, &mut *self.buffer) {
                Ok(0) => {
                    return match client.response.end() {
                        Some(answer) => self.answered(at, answer, true),
                        None if client.response.begun() => self.fail(at, Unanswered::ClosedWithin),
                        None => self.fail(at, Unanswered::ClosedBefore),
                    };
                }
                Ok(count) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(_) => return self.fail(at, Unanswered::Reset),
            };
            if client.measured {
                self.tally.bytes_received += count as u64;
            }
            match client.response.take(&self.buffer[..count]) {
                Ok(Some(answer)) => return self.answered(at, answer, ended),
                Ok(None) if count < BUFFER && !ended => return,
                Ok(None) => {}
                Err(_) => return self.fail(at, Unanswered::Malformed),
            }
        }
    }

    /// An answer is over. `ended`: so is the connection, or will be without a further event.
    fn answered(&mut self, at: usize, answer: Answer, ended: bool) {
        let now = Instant::now();
        self.last_end = now;
        let live = &self.shared.live[self.part];
        count(&live.answered);
        if answer.status >= 400 {
            count(&live.refused);
        }
        let whole = self.shared.settings.request.bytes.len();
        let client = &mut self.clients[at];
        if client.measured {
            let (latency, service) = (now - client.due, now - client.began);
            self.tally.note_answer(answer.status, latency, service);
        }
        let sent = client.written == whole;
        let kept = answer.kept && !self.shared.settings.close;
        if !kept && sent && !ended {
            client.phase = Phase::Ending;
            client.answered = now;
            return self.await_fin(at, now);
        }
        if !kept || ended || !sent {
            client.socket = None;
        }
        self.done(at, now);
    }

    /// Reads until the server's FIN, if it is there, and has the client go on.
    fn await_fin(&mut self, at: usize, now: Instant) {
        let client = &mut self.clients[at];
        if let Some(socket) = &client.socket
            && now < client.answered + FIN_WITHIN
        {
            loop {
                match rustix::io::read(socket, &mut *self.buffer) {
                    Ok(0) => break,
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return,
                    Err(_) => break,
                }
            }
        }
        client.socket = None;
        self.done(at, now);
    }

    /// A client has nothing under way any more, and goes on with what is next.
    fn done(&mut self, at: usize, now: Instant) {
        self.busy -= 1;
        self.clients[at].phase = Phase::Idle;
        match self.shared.settings.pace {
            Pace::Closed { think } if !think.is_zero() => {
                self.resting.push(Reverse((now + think, at)));
            }
            Pace::Closed { .. } => {
                self.begin(at, now, now);
            }
            Pace::Open { .. } => self.free.push(at),
        }
    }

    fn fail(&mut self, at: usize, why: Unanswered) {
        count(&self.shared.live[self.part].unanswered);
        let client = &mut self.clients[at];
        if client.measured {
            self.tally.note_error(why);
        }
        client.socket = None;
        client.phase = Phase::Idle;
        self.busy -= 1;
        self.last_end = Instant::now();
        self.resting.push(Reverse((self.last_end + REST, at)));
    }

    /// Lets those go whose time is over.
    fn time_out(&mut self, now: Instant) {
        for at in 0..self.clients.len() {
            let client = &self.clients[at];
            match client.phase {
                Phase::Idle => {}
                Phase::Connecting | Phase::Exchanging => {
                    if now >= client.began + self.shared.settings.timeout {
                        self.fail(at, Unanswered::TimedOut);
                    }
                }
                Phase::Ending => {
                    if now >= client.answered + FIN_WITHIN {
                        self.await_fin(at, now);
                    }
                }
            }
        }
    }

    fn note_behind(&mut self, now: Instant) {
        let behind = self.behind(now);
        self.tally.most_behind = self.tally.most_behind.max(behind);
        let live = &self.shared.live[self.part];
        live.behind.store(behind, Ordering::Relaxed);
    }

    /// Open loop: requests that were due before `now`, and before the end, and are not begun.
    fn behind(&mut self, now: Instant) -> u64 {
        let (Some(schedule), false) = (&mut self.schedule, self.requests_left == Some(0)) else {
            return 0;
        };
        let now = self.measure_until.map_or(now, |until| now.min(until));
        let just_before = (now - self.shared.start).saturating_sub(Duration::from_nanos(1));
        let due = schedule.next.due(just_before, &mut schedule.ahead);
        self.requests_left.map_or(due, |left| left.min(due))
    }

    fn interrupt(&mut self, now: Instant) {
        self.over = true;
        if self.free.is_empty() {
            self.tally.unsent = self.behind(now);
        }
        self.measure_until = Some(self.measure_until.map_or(now, |until| until.min(now)));
        for client in &mut self.clients {
            let under_way = matches!(client.phase, Phase::Connecting | Phase::Exchanging);
            if under_way && client.measured {
                self.tally.note_error(Unanswered::Interrupted);
            }
            client.socket = None;
        }
    }

    /// Notes how long was measured.
    fn end(&mut self) {
        let until = match (self.measure_until, self.requests_left) {
            (_, Some(0)) | (None, _) => self.last_end,
            (Some(until), _) => until,
        };
        self.tally.measured = until.saturating_duration_since(self.measure_from);
        self.tally.most_behind = self.tally.most_behind.max(self.tally.unsent);
    }
}

/// One writer: no need for a locked addition.
fn count(cell: &AtomicU64) {
    cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let parts = NonZeroU32::new(3).unwrap();
        for of in [0, 1, 3, 1000] {
            let shares = [0, 1, 2].map(|part| share(of, part, parts));
            assert_eq!(shares.iter().sum::<u64>(), of);
            assert!(shares[0] - shares[2] <= 1, "{shares:?}");
        }
    }
}
