//! One client connection as its exchanges see it: where it stands, what is being waited for and
//! until when.

mod many;
mod origin;
mod parked;
mod switch;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use tokio::time::Instant;

use super::answer;
use super::intake::{Fault, Framing, Intake};
use super::policy::Policy;
use super::settings::{Overrides, Settings};
use super::trust::{Standing, ip_value};
use super::waits::{Clock, Wait, Waits};
use super::words::{Held, Phase, Upload};
use crate::alarm::Alarms;
use crate::net::{ClientAddr, Greeted, Socket};

pub use many::Stay;
use origin::Introduced;
pub use parked::Parked;
pub use switch::Switch;
pub(super) use switch::Unswitched;

/// How long an idle client has, once the proxy is shutting down, for a request that is under way:
/// closing on it would lose it, and some clients do not send it again. More than most round trips.
pub const LAST_CHANCE: Duration = Duration::from_millis(100);

/// How long a connection is idle before it is parked. Longer than most pauses between two requests of
/// a client that is at work: taking it up again costs a task, the library's state and system calls.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// One client connection, shared by its socket, its exchange and the bodies in flight.
pub struct Conn {
    address: ClientAddr,
    socket: Rc<Socket>,
    /// The client's IP address as a header value, made once.
    ip: HeaderValue,
    /// What its word on others counts for.
    standing: Standing,
    /// Who has introduced it, if somebody has.
    introduced: Option<Rc<Introduced>>,
    /// Both ends, once somebody asked.
    ends: Cell<Option<(SocketAddr, SocketAddr)>>,
    policy: Rc<Policy>,
    /// The virtual host of the latest request, and on some routes the two together, by its number.
    host: Cell<Option<usize>>,
    waits: Waits,
    alarms: Alarms,
    phase: Cell<Phase>,
    expired: Cell<Option<Wait>>,
    /// Exchanges begun; the first is 1.
    exchanges: Cell<u32>,
    intake: RefCell<Intake>,
    /// What was wrong with what came in.
    fault: Cell<Option<Fault>>,
    /// Since when it is idle, if it is.
    idle_since: Cell<Option<Instant>>,
    /// How long the head that is coming has been waited for.
    head_clock: Clock,
    /// And the body.
    body_clock: Clock,
    /// What was not read on, since it belongs to the next request.
    held_back: Cell<Held>,
    /// When the response's last byte was handed over to be written.
    response_over: Cell<Option<Instant>>,
    /// Whether the client had to be waited for while the response was written.
    write_blocked: Cell<bool>,
    /// The status of an answer that was begun without an exchange, and withheld.
    withheld: Cell<Option<u16>>,
    client_closed: Cell<bool>,
    promised: Cell<bool>,
    evicted: Cell<bool>,
    draining: Cell<bool>,
    until_close: Cell<bool>,
    /// Whether a FIN would be seen by nobody else: the request has been read to its end.
    watched: Cell<bool>,
    /// Whether the request has been read to its end.
    body_read: Cell<bool>,
    upload: Upload,
    /// When its exchange has to be over.
    until: Cell<Option<Instant>>,
    /// What takes over once HTTP is left.
    switch: RefCell<Option<Switch>>,
    /// What its TLS handshake has said, if there was one.
    greeted: Option<Greeted>,
    /// Of one exchange over HTTP/2: the connection it is on.
    carrier: Option<Rc<Conn>>,
    /// Of a connection with HTTP/2: how many exchanges it carries now.
    carries: Cell<u32>,
}

impl Conn {
    /// A connection that has just been accepted.
    pub fn new(
        address: ClientAddr,
        socket: Rc<Socket>,
        policy: Rc<Policy>,
        alarms: &Alarms,
    ) -> Conn {
        let ip = address.0.ip().to_canonical();
        let conn = Conn {
            ip: ip_value(ip),
            standing: policy.settings(None).trust.standing(ip),
            ..Conn::bare(address, socket, policy, alarms)
        };
        // KeepAliveTimeout is for kept connections; the first request has the times of a head that is
        // coming, from now on.
        let now = Instant::now();
        conn.head_clock.start(now);
        conn.waits.note(Wait::Park, now + PARK_AFTER);
        conn.waits.set(Wait::NextRequest, conn.head_until(now));
        conn
    }

    /// One of which nothing is known or waited for yet.
    fn bare(address: ClientAddr, socket: Rc<Socket>, policy: Rc<Policy>, alarms: &Alarms) -> Conn {
        Conn {
            address,
            socket,
            ip: HeaderValue::from_static(""),
            standing: Standing::Any,
            introduced: None,
            ends: Cell::new(None),
            policy,
            host: Cell::new(None),
            waits: Waits::new(alarms),
            alarms: alarms.clone(),
            phase: Cell::new(Phase::Idle),
            expired: Cell::new(None),
            exchanges: Cell::new(0),
            intake: RefCell::default(),
            fault: Cell::new(None),
            idle_since: Cell::new(None),
            head_clock: Clock::default(),
            body_clock: Clock::default(),
            held_back: Cell::default(),
            response_over: Cell::new(None),
            write_blocked: Cell::new(false),
            withheld: Cell::new(None),
            client_closed: Cell::new(false),
            promised: Cell::new(false),
            evicted: Cell::new(false),
            draining: Cell::new(false),
            until_close: Cell::new(false),
            watched: Cell::new(false),
            body_read: Cell::new(true),
            upload: Upload::default(),
            until: Cell::new(None),
            switch: RefCell::default(),
            greeted: None,
            carrier: None,
            carries: Cell::new(0),
        }
    }

    /// Its socket, if nobody else holds the connection any more.
    pub fn into_socket(conn: Rc<Conn>) -> Option<Rc<Socket>> {
        Rc::into_inner(conn).map(|conn| conn.socket)
    }

    /// Where the client connected from: itself, or as it was introduced.
    pub fn address(&self) -> ClientAddr {
        self.address
    }

    /// The socket the client is on.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The client's IP address as a header value.
    pub fn ip(&self) -> &HeaderValue {
        &self.ip
    }

    /// How this client is served, at its latest request's host.
    pub fn settings(&self) -> &Settings {
        self.policy.settings(self.host.get())
    }

    /// Whether it matters which host a request names, or which route it takes.
    pub fn has_hosts(&self) -> bool {
        self.policy.has_hosts()
    }

    /// A request names its host: it is served as that asks for.
    pub fn is_for(&self, host: Option<&str>) {
        self.host.set(self.policy.host(host));
    }

    /// The request takes a route that asks for this otherwise.
    pub fn is_on_route(&self, otherwise: &Overrides) {
        self.host
            .set(self.policy.on_route(self.host.get(), otherwise));
    }

    /// The number of the current exchange; the first is 1.
    pub fn exchange(&self) -> u32 {
        self.exchanges.get()
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// A request's head is complete: its exchange begins. `body` is how long what is still to be read
    /// of it is.
    pub fn begin_exchange(&self, body: Framing) {
        self.intake.borrow_mut().body(body);
        self.watched.set(body == Framing::Length(0));
        self.body_read.set(body == Framing::Length(0));
        self.upload.begin();
        self.phase.set(Phase::Exchange);
        self.exchanges.set(self.exchanges.get().saturating_add(1));
        // Nothing of the exchange before counts in this one.
        self.waits.clear_all();
        self.expired.set(None);
        self.until.set(None);
        self.response_over.set(None);
        self.head_clock.reset();
        self.body_clock.reset();
        self.write_blocked.set(false);
        self.until_close.set(false);
    }

    /// The response's last byte, handed over at `now`, only has to be written.
    pub fn response_over(&self, now: Instant) {
        self.waits.clear(Wait::Backend);
        self.response_over.set(Some(now));
    }

    /// The end of this connection will be the end of the response: it must not look like one if
    /// the response breaks off.
    pub fn response_ends_with_connection(&self) {
        self.until_close.set(true);
    }

    /// Waits for more of the client's request body, of which `seen` bytes have come.
    pub fn wait_for_body(&self, seen: u64) {
        self.waits.clear(Wait::Backend);
        if self.waits.until(Wait::RequestBody).is_some() {
            return;
        }
        let now = Instant::now();
        let settings = self.settings();
        self.body_clock.start(now);
        let stage = settings.read_timeout.body.as_ref();
        let until = self.body_clock.until(now, settings.timeout, stage, seen);
        self.waits.set(Wait::RequestBody, until);
    }

    /// The backend is to move within `timeout` from `now`.
    pub fn wait_for_backend(&self, now: Instant, timeout: Duration) {
        self.waits.clear(Wait::RequestBody);
        self.body_clock.stop(now);
        let until = now + timeout;
        let end = self.until.get();
        let until = end.map_or(until, |end| until.min(end));
        self.waits.set(Wait::Backend, until);
    }

    /// Whether it has not been.
    pub fn is_past_its_time(&self) -> bool {
        self.until.get().is_some_and(|end| end <= Instant::now())
    }

    /// The exchange has to be over by `end`, as its client has it.
    pub fn has_until(&self, end: Option<Instant>) {
        self.until.set(end);
    }

    /// Whether the backend is being waited for.
    pub fn waits_for_backend(&self) -> bool {
        self.waits.until(Wait::Backend).is_some()
    }

    /// The backend is not waited for now.
    pub fn backend_moved(&self) {
        self.waits.clear(Wait::Backend);
    }

    /// The request's body has been read to its end.
    pub fn body_is_read(&self) {
        self.watched.set(true);
        self.body_read.set(true);
    }

    /// Whether it has, or there is none.
    pub fn is_body_read(&self) -> bool {
        self.body_read.get()
    }

    /// The request's body as far as it was read.
    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    /// Which wait of the current exchange has lasted too long.
    pub fn expired(&self) -> Option<Wait> {
        self.expired.get()
    }

    /// Whether the response that is made promises to keep the connection.
    pub fn promises(&self, kept: bool) {
        self.promised.set(kept);
    }

    /// Whether the latest response promised it.
    pub fn has_promised(&self) -> bool {
        self.promised.get()
    }

    /// Whether it was promised, and nothing speaks against it.
    pub(super) fn is_to_be_kept(&self) -> bool {
        self.promised.get() && self.may_park() && !self.client_closed.get() && !self.draining.get()
    }

    /// Whether the client has closed in the middle of a head, beyond its request line.
    pub(super) fn broke_off_head(&self) -> bool {
        self.phase.get() == Phase::Head && self.client_closed.get() && self.has_request_line()
    }

    /// Whether the proxy is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Whether the head has both a length and a transfer coding: RFC 9112 §6.3 has the connection ended
    /// after the response.
    pub fn is_framed_twice(&self) -> bool {
        self.intake.borrow().is_framed_twice()
    }

    /// Whether it has been kept, and nothing of a further request has come.
    pub fn is_idle(&self) -> bool {
        self.phase.get() == Phase::Idle && self.exchanges.get() > 0 && self.body_read.get()
    }

    /// Since when it is so.
    pub fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get().filter(|_| self.is_idle())
    }

    /// Asks for the end of an idle connection, so that another may have its place. One on which a
    /// request comes at this moment is kept.
    pub fn evict(&self) {
        self.evicted.set(true);
        self.waits.wake();
    }

    /// Asks for the end: after the current exchange, or else when no request comes any more.
    pub fn drain(&self) {
        self.draining.set(true);
        if let Some(until) = self.waits.until(Wait::NextRequest) {
            let end = Instant::now() + LAST_CHANCE;
            self.waits.set(Wait::NextRequest, until.min(end));
        }
        self.waits.wake();
    }

    pub(super) fn is_client_watched(&self) -> bool {
        self.watched.get() && self.phase.get() == Phase::Exchange
    }

    /// The client has sent more than the request that is being answered.
    pub(super) fn client_spoke(&self) {
        self.watched.set(false);
    }

    /// Whether the next request was waited for in vain.
    pub(super) fn is_idle_time_over(&self) -> bool {
        self.phase.get() == Phase::Idle
            && self.body_read.get()
            && self.waits.until(Wait::NextRequest).is_none()
    }

    /// The connection is about to be dropped in the middle of whatever it does: a response whose end
    /// would be the connection's must not look whole.
    pub fn cut_off(&self) {
        if self.phase.get() == Phase::Exchange && self.until_close.get() {
            self.socket.reset_on_close();
        }
    }

    pub(super) fn wakes(&self, waker: &Waker) {
        self.waits.wakes(waker);
    }

    /// Which wait has lasted too long, if one has.
    pub(super) fn take_expired(&self) -> Option<Wait> {
        self.waits.take_expired()
    }

    /// Tells the current exchange that a wait has lasted too long.
    pub(super) fn expire(&self, wait: Wait) {
        self.expired.set(Some(wait));
    }

    /// Whether more may be read now: not what belongs to the next request before the response is
    /// written. `has_ahead` if some of that has come already.
    pub(super) fn may_read(&self, has_ahead: bool) -> bool {
        let may = self.phase.get() != Phase::Exchange || !self.intake.borrow().is_over();
        self.held_back.set(match (may, has_ahead) {
            (true, _) => Held::Nothing,
            (false, true) => Held::Bytes,
            (false, false) => Held::Look,
        });
        may
    }

    /// Whether there is something to be read now that was not before. If nobody knows, the task is
    /// woken when there is: it does not need to ask the HTTP library to look.
    pub(super) fn can_read_on(&self, cx: &mut Context<'_>) -> bool {
        if self.phase.get() != Phase::Idle {
            return false;
        }
        match self.held_back.take() {
            Held::Nothing => false,
            Held::Bytes => true,
            Held::Look => self.socket.poll_peer_speaks(cx).is_ready(),
        }
    }

    /// A head is about to be read: the next request's, unless the last one's body is not over.
    pub(super) fn expects_head(&self) -> bool {
        if self.phase.get() != Phase::Idle {
            return false;
        }
        let mut intake = self.intake.borrow_mut();
        if intake.is_over() {
            intake.next();
        }
        intake.is_new()
    }

    /// Bytes came from the client: says how many of them belong to this request. `None` if something
    /// is wrong with them.
    pub(super) fn client_sent(&self, bytes: &[u8]) -> Option<usize> {
        let mut intake = self.intake.borrow_mut();
        let is_head = !intake.is_head_complete();
        let limits = &self.policy.settings(None).limits;
        let taken = match intake.take(bytes, limits) {
            Ok(taken) => taken,
            Err(fault) => {
                // Of a body's the exchange knows what to say.
                self.fault.set(Some(fault).filter(|_| is_head));
                return None;
            }
        };
        if is_head {
            self.phase.set(Phase::Head);
            for wait in [Wait::NextRequest, Wait::RequestHead, Wait::Park] {
                self.waits.clear(wait);
            }
        }
        Some(taken)
    }

    /// The client has sent its FIN.
    pub(super) fn client_closed(&self) {
        self.client_closed.set(true);
    }

    /// The client has sent nothing more for now.
    pub(super) fn client_silent(&self) {
        if self.phase.get() == Phase::Head && self.waits.until(Wait::RequestHead).is_none() {
            let now = Instant::now();
            self.head_clock.start(now);
            self.waits.set(Wait::RequestHead, self.head_until(now));
        }
    }

    /// Until when to wait for more of a head.
    fn head_until(&self, now: Instant) -> Instant {
        // Its host is not known yet.
        let settings = self.policy.settings(None);
        let stage = settings.read_timeout.header.as_ref();
        // As in Apache, whose filter hands on whole lines.
        let bytes = self.intake.borrow().line_bytes() as u64;
        self.head_clock.until(now, settings.timeout, stage, bytes)
    }

    /// The client takes no more bytes for now.
    pub(super) fn client_stalls(&self) {
        self.write_blocked.set(true);
        if self.waits.until(Wait::ClientWrite).is_none() {
            self.waits
                .set(Wait::ClientWrite, Instant::now() + self.settings().timeout);
        }
    }

    /// The client took bytes.
    pub(super) fn client_took(&self) {
        if self.write_blocked.get() {
            self.waits.clear(Wait::ClientWrite);
        }
    }

    /// Everything handed over so far is written.
    pub(super) fn all_written(&self) {
        let Some(over) = self.response_over.take() else {
            return;
        };
        let now = if self.write_blocked.get() {
            Instant::now()
        } else {
            over
        };
        self.phase.set(Phase::Idle);
        if !self.body_read.get() {
            // An early answer: the rest of the request may still be on its way to the backend, and has its own
            // time again once it gets on. That it does is not waited for any longer than for a next request.
            let settings = self.settings();
            let patience = settings.timeout.min(settings.keep_alive.timeout);
            self.waits.set(Wait::RequestBody, now + patience);
            return;
        }
        self.waits.clear(Wait::RequestBody);
        self.waits.note(Wait::Park, now + PARK_AFTER);
        self.rests(now);
    }

    /// It is idle from now on.
    fn rests(&self, now: Instant) {
        let mut idle = self.settings().keep_alive.timeout;
        if self.draining.get() {
            idle = idle.min(LAST_CHANCE);
        }
        self.idle_since.set(Some(now));
        self.waits.set(Wait::NextRequest, now + idle);
    }

    /// Whether what is written now answers no exchange: the HTTP library's own answer to what it
    /// could not read.
    pub(super) fn answers_no_exchange(&self) -> bool {
        self.phase.get() != Phase::Exchange
    }

    pub(super) fn withhold(&self, status: Option<u16>) {
        if self.withheld.get().is_none() {
            self.withheld.set(status);
        }
    }

    pub(super) fn withheld(&self) -> Option<u16> {
        self.withheld.get()
    }

    /// The answer to what was wrong with what came in, if something was.
    pub(super) fn fault(&self) -> Option<(StatusCode, &'static str)> {
        self.fault.get().map(answer::to_fault)
    }

    pub(super) fn has_request_line(&self) -> bool {
        self.intake.borrow().has_request_line()
    }

    /// Whether it may be parked: idle, and nothing of a request's body is to come any more.
    pub(super) fn may_park(&self) -> bool {
        let intake = self.intake.borrow();
        self.phase.get() == Phase::Idle
            && self.body_read.get()
            && (intake.is_over() || intake.is_new())
    }

    /// Whether its place is needed, and it is idle.
    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.get() && self.is_idle()
    }

    /// A request has come all the same.
    pub(super) fn is_wanted_again(&self) {
        self.evicted.set(false);
    }

    /// The client has closed its side while its response is being made.
    pub(super) fn client_half_closed(&self) {
        self.watched.set(false);
    }

    pub(super) fn has_client_closed(&self) -> bool {
        self.client_closed.get()
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.until_close.get()
    }
}
