//! One client connection as its exchanges see it: where it stands, what is being waited for and
//! until when.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::Instant;

use super::Settings;
use crate::alarm::{Alarm, Alarms};
use crate::net::{ClientAddr, Socket};

/// How long an idle client has, once the proxy is shutting down, for a request that is under way:
/// closing on it would lose it, and some clients do not send it again. More than most round trips.
const LAST_CHANCE: Duration = Duration::from_millis(100);

/// One client connection, shared by its socket, its exchange and the bodies in flight.
pub struct Conn {
    address: ClientAddr,
    socket: Rc<Socket>,
    /// The client's IP address as a header value, made once.
    ip: HeaderValue,
    /// Both ends, once somebody asked.
    ends: Cell<Option<(SocketAddr, SocketAddr)>>,
    settings: Rc<Settings>,
    alarm: Alarm,
    phase: Cell<Phase>,
    waits: [Cell<Option<Instant>>; WAITS],
    expired: Cell<Option<Wait>>,
    /// Exchanges begun; the first is 1.
    exchanges: Cell<u32>,
    line: Cell<RequestLine>,
    /// When the response's last byte was handed over to be written.
    response_over: Cell<Option<Instant>>,
    /// Whether the client had to be waited for while the response was written.
    write_blocked: Cell<bool>,
    /// The status of an answer that was begun without an exchange, and withheld.
    withheld: Cell<Option<u16>>,
    client_closed: Cell<bool>,
    draining: Cell<bool>,
    until_close: Cell<bool>,
    /// Whether a FIN would be seen by nobody else: the request has been read to its end.
    watched: Cell<bool>,
    body_fault: Cell<Option<BodyFault>>,
}

/// What became of a request body that did not reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// It is longer than `limit_request_body`.
    #[error("the request body is longer than {0} bytes")]
    TooLong(u64),
    /// It is not framed as it says, or broke off.
    #[error("the request body could not be read")]
    Unreadable,
}

/// Where a client connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of a request has come yet.
    Idle,
    /// A request's head has begun and is not complete.
    Head,
    /// A request is being answered, until the answer's last byte is written.
    Exchange,
}

/// What is being waited for, each until its own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Wait {
    /// The first byte of the next request: `keep_alive_timeout`.
    NextRequest,
    /// More of a request's head: `timeout`.
    RequestHead,
    /// More of a request's body: `timeout`.
    RequestBody,
    /// The client to take more of the response: `timeout`.
    ClientWrite,
    /// The backend to answer, to go on, or to take more: the upstream's `timeout`.
    Backend,
}

const WAITS: usize = 5;

impl Wait {
    const ALL: [Wait; WAITS] = [
        Wait::NextRequest,
        Wait::RequestHead,
        Wait::RequestBody,
        Wait::ClientWrite,
        Wait::Backend,
    ];
}

/// How much of the next request's first line has been seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestLine {
    /// Nothing, or blank lines.
    Blank,
    Begun,
    Complete,
}

impl Conn {
    /// A connection that has just been accepted.
    pub fn new(
        address: ClientAddr,
        socket: Rc<Socket>,
        settings: Rc<Settings>,
        alarms: &Alarms,
    ) -> Conn {
        let ip = address.0.ip().to_canonical().to_string();
        let conn = Conn {
            address,
            socket,
            ip: HeaderValue::from_maybe_shared(Bytes::from(ip))
                .expect("an IP address is visible ASCII"),
            ends: Cell::new(None),
            settings,
            alarm: alarms.alarm(),
            phase: Cell::new(Phase::Idle),
            waits: Default::default(),
            expired: Cell::new(None),
            exchanges: Cell::new(0),
            line: Cell::new(RequestLine::Blank),
            response_over: Cell::new(None),
            write_blocked: Cell::new(false),
            withheld: Cell::new(None),
            client_closed: Cell::new(false),
            draining: Cell::new(false),
            until_close: Cell::new(false),
            watched: Cell::new(false),
            body_fault: Cell::new(None),
        };
        // KeepAliveTimeout is for kept connections; the first request has `Timeout`.
        conn.wait(
            Wait::NextRequest,
            Some(Instant::now() + conn.settings.timeout),
        );
        conn
    }

    /// Where the client connected from.
    pub fn address(&self) -> ClientAddr {
        self.address
    }

    /// The two ends of the connection, the client's and ours.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        if self.ends.get().is_none() {
            let ours = self.socket.local_addr();
            self.ends.set(ours.map(|ours| (self.address.0, ours)));
        }
        self.ends.get()
    }

    /// The same, if anybody has asked for them.
    pub fn known_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.ends.get()
    }

    /// The socket the client is on.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The client's IP address as a header value.
    pub fn ip(&self) -> &HeaderValue {
        &self.ip
    }

    /// How this client is served.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The number of the current exchange; the first is 1.
    pub fn exchange(&self) -> u32 {
        self.exchanges.get()
    }

    /// Where the connection stands.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// A request's head is complete: its exchange begins. `with_body` if a body is still to be
    /// read.
    pub fn begin_exchange(&self, with_body: bool) {
        self.watched.set(!with_body);
        self.body_fault.set(None);
        self.phase.set(Phase::Exchange);
        self.exchanges.set(self.exchanges.get().saturating_add(1));
        // Nothing of the exchange before counts in this one.
        for wait in &self.waits {
            wait.set(None);
        }
        self.expired.set(None);
        self.line.set(RequestLine::Blank);
        self.write_blocked.set(false);
        self.until_close.set(false);
    }

    /// The response's last byte, handed over at `now`, only has to be written.
    pub fn response_over(&self, now: Instant) {
        self.waits[Wait::Backend as usize].set(None);
        self.response_over.set(Some(now));
    }

    /// The end of this connection will be the end of the response: it must not look like one if
    /// the response breaks off.
    pub fn response_ends_with_connection(&self) {
        self.until_close.set(true);
    }

    /// Sets until when to wait, or that this is not waited for any more.
    pub fn wait(&self, wait: Wait, until: Option<Instant>) {
        self.waits[wait as usize].set(until);
        if until.is_some() {
            self.alarm.set(self.earliest());
        }
    }

    /// Waits for the client's request body.
    pub fn wait_for_body(&self) {
        self.waits[Wait::Backend as usize].set(None);
        self.wait(
            Wait::RequestBody,
            Some(Instant::now() + self.settings.timeout),
        );
    }

    /// The backend is to move within `timeout` from `now`.
    pub fn wait_for_backend(&self, now: Instant, timeout: Duration) {
        self.waits[Wait::RequestBody as usize].set(None);
        self.wait(Wait::Backend, Some(now + timeout));
    }

    /// Whether the backend is being waited for.
    pub fn waits_for_backend(&self) -> bool {
        self.waits[Wait::Backend as usize].get().is_some()
    }

    /// The backend is not waited for now.
    pub fn backend_moved(&self) {
        self.waits[Wait::Backend as usize].set(None);
    }

    /// The request's body has been read to its end.
    pub fn body_is_read(&self) {
        self.watched.set(true);
    }

    /// The request's body will not be read to its end.
    pub fn body_failed(&self, fault: BodyFault) {
        self.body_fault.set(Some(fault));
    }

    /// What became of the request's body, if it did not reach its end.
    pub fn body_fault(&self) -> Option<BodyFault> {
        self.body_fault.get()
    }

    /// Which wait of the current exchange has lasted too long.
    pub fn expired(&self) -> Option<Wait> {
        self.expired.get()
    }

    /// Whether the proxy is shutting down.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Asks for the end: after the current exchange, or else when no request comes any more.
    pub fn drain(&self) {
        self.draining.set(true);
        if let Some(until) = self.waits[Wait::NextRequest as usize].get() {
            let end = Instant::now() + LAST_CHANCE;
            self.wait(Wait::NextRequest, Some(until.min(end)));
        }
        self.alarm.wake();
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
        self.phase.get() == Phase::Idle && self.waits[Wait::NextRequest as usize].get().is_none()
    }

    /// The connection is about to be dropped in the middle of whatever it does: a response whose end
    /// would be the connection's must not look whole.
    pub fn cut_off(&self) {
        if self.phase.get() == Phase::Exchange && self.until_close.get() {
            self.socket.reset_on_close();
        }
    }

    pub(super) fn wakes(&self, waker: &Waker) {
        self.alarm.wakes(waker);
    }

    /// If the alarm has rung: which wait has lasted too long.
    pub(super) fn take_expired(&self) -> Option<Wait> {
        if !self.alarm.has_rung() {
            return None;
        }
        let now = Instant::now();
        let late = |wait: &Wait| {
            self.waits[*wait as usize]
                .get()
                .is_some_and(|until| until <= now)
        };
        let expired = Wait::ALL.into_iter().find(late);
        match expired {
            Some(wait) => self.waits[wait as usize].set(None),
            None => self.alarm.set(self.earliest()),
        }
        expired
    }

    /// Tells the current exchange that a wait has lasted too long.
    pub(super) fn expire(&self, wait: Wait) {
        self.expired.set(Some(wait));
    }

    /// Bytes came from the client; none is its FIN.
    pub(super) fn client_sent(&self, bytes: &[u8]) {
        if bytes.is_empty() {
            self.client_closed.set(true);
            return;
        }
        match self.phase.get() {
            Phase::Exchange => {}
            Phase::Idle | Phase::Head => {
                self.phase.set(Phase::Head);
                self.waits[Wait::NextRequest as usize].set(None);
                self.waits[Wait::RequestHead as usize].set(None);
                self.line.set(match self.line.get() {
                    RequestLine::Complete => RequestLine::Complete,
                    RequestLine::Begun => RequestLine::Begun.after(bytes),
                    RequestLine::Blank => RequestLine::Blank.after(bytes),
                });
            }
        }
    }

    /// The client has sent nothing more for now.
    pub(super) fn client_silent(&self) {
        if self.phase.get() == Phase::Head && self.waits[Wait::RequestHead as usize].get().is_none()
        {
            self.wait(
                Wait::RequestHead,
                Some(Instant::now() + self.settings.timeout),
            );
        }
    }

    /// The client takes no more bytes for now.
    pub(super) fn client_stalls(&self) {
        self.write_blocked.set(true);
        if self.waits[Wait::ClientWrite as usize].get().is_none() {
            self.wait(
                Wait::ClientWrite,
                Some(Instant::now() + self.settings.timeout),
            );
        }
    }

    /// The client took bytes.
    pub(super) fn client_took(&self) {
        if self.write_blocked.get() {
            self.waits[Wait::ClientWrite as usize].set(None);
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
        self.waits[Wait::RequestBody as usize].set(None);
        let mut idle = self.settings.keep_alive.timeout;
        if self.draining.get() {
            idle = idle.min(LAST_CHANCE);
        }
        self.wait(Wait::NextRequest, Some(now + idle));
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

    pub(super) fn has_request_line(&self) -> bool {
        self.line.get() == RequestLine::Complete
    }

    pub(super) fn has_client_closed(&self) -> bool {
        self.client_closed.get()
    }

    pub(super) fn needs_reset(&self) -> bool {
        self.until_close.get()
    }

    fn earliest(&self) -> Option<Instant> {
        self.waits.iter().filter_map(Cell::get).min()
    }
}

impl RequestLine {
    fn after(self, bytes: &[u8]) -> RequestLine {
        let rest = match self {
            RequestLine::Complete => return self,
            RequestLine::Begun => bytes,
            RequestLine::Blank => {
                match bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')) {
                    Some(start) => &bytes[start..],
                    None => return RequestLine::Blank,
                }
            }
        };
        if rest.contains(&b'\n') {
            RequestLine::Complete
        } else {
            RequestLine::Begun
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_complete_at_its_newline_and_blank_lines_are_none() {
        for (chunks, line) in [
            (&["\r\n"][..], RequestLine::Blank),
            (&["\r\n", "GET / HT"], RequestLine::Begun),
            (&["\r\nGET /", " HTTP/1.1\r\n"], RequestLine::Complete),
            (&["GET / HTTP/1.1\r\nHost: a"], RequestLine::Complete),
        ] {
            let seen = chunks.iter().fold(RequestLine::Blank, |line, chunk| {
                line.after(chunk.as_bytes())
            });
            assert_eq!(seen, line, "{chunks:?}");
        }
    }
}
