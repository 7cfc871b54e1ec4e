//! What is noted of an exchange while it goes on: counted, and told to the access log, once it is over.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, REFERER, USER_AGENT};
use http::{HeaderMap, StatusCode, request};
use tokio::time::Instant;

use crate::account::{self, Asked, Connection, Exchange, FrontTally, Outcome, Over, Span};
use crate::client::{Conn, Named, Standing};
use crate::keepalive::CloseReason;

use super::body::BackendLease;
use super::retry::Proof;
use super::upstream::{Backend, Upstream};

/// One who hears of exchanges that are over.
pub type Ear = Rc<dyn Fn(&Exchange<'_>)>;

/// All who do.
#[derive(Clone)]
pub struct Ears {
    /// What counts those that no backend had a part in.
    pub front: Arc<FrontTally>,
    /// Who hears of each, and of all that is known of it; `None` is nobody.
    pub log: Option<Ear>,
}

impl Default for Ears {
    /// They are counted, and nobody looks.
    fn default() -> Ears {
        Ears {
            front: Arc::default(),
            log: None,
        }
    }
}

impl Ears {
    /// What came from a client could not be read as a request, and was answered with `status`.
    pub(super) fn hear_refused(&self, client: &Conn, status: u16) {
        let over = Over {
            status,
            outcome: Outcome::Refused,
            received: 0,
            sent: 0,
            total: None,
        };
        self.front.note(&over);
        if let Some(log) = &self.log {
            log(&Exchange {
                client_exchange: client.exchange().saturating_add(1),
                client_kept: false,
                ..exchange(&over, client.address().0, client, None)
            });
        }
    }
}

/// One exchange, from its request's head on. Told when it is dropped: exactly once, whatever becomes of
/// it.
pub(super) struct Record(Option<Box<Noted>>);

/// Boxed: it goes through many hands with its response.
struct Noted {
    ears: Rc<Ears>,
    client: Rc<Conn>,
    /// For whom its client asks, if that is a trusted proxy and says so.
    named: Option<Rc<Named>>,
    /// Only if somebody hears of it.
    asked: Option<Box<Asked>>,
    began: Instant,
    ended: Option<Instant>,
    status: u16,
    outcome: Outcome,
    sent: u64,
    upstream: Option<Rc<Upstream>>,
    timeout: Duration,
    backend: Option<Rc<Backend>>,
    checkout: Option<Instant>,
    answered: Option<Instant>,
    connection: Option<Connection>,
    sent_again: u32,
    proof: Option<Proof>,
    /// It has left HTTP: its bytes and its time are counted apart.
    is_tunnel: bool,
}

impl Record {
    /// A request's head is there.
    pub(super) fn begin(ears: &Rc<Ears>, client: &Rc<Conn>, now: Instant) -> Record {
        ears.front.begins();
        Record(Some(Box::new(Noted {
            ears: Rc::clone(ears),
            client: Rc::clone(client),
            named: None,
            asked: None,
            began: now,
            ended: None,
            status: 0,
            outcome: Outcome::ClientGone,
            sent: 0,
            upstream: None,
            timeout: Duration::ZERO,
            backend: None,
            checkout: None,
            answered: None,
            connection: None,
            sent_again: 0,
            proof: None,
            is_tunnel: false,
        })))
    }

    /// The record, for the one who has it from now on.
    pub(super) fn hand_on(&mut self) -> Record {
        Record(self.0.take())
    }

    /// What nobody notes anything in any more.
    pub(super) fn none() -> Record {
        Record(None)
    }

    fn noted(&mut self) -> &mut Noted {
        self.0.as_mut().expect("who has handed it on notes nothing")
    }

    /// When its head was there.
    pub(super) fn began(&mut self) -> Instant {
        self.noted().began
    }

    /// How long its backend has to move; 0 before it has one.
    pub(super) fn timeout(&mut self) -> Duration {
        self.noted().timeout
    }

    /// The request, before it is made another for the backend.
    pub(super) fn asks(&mut self, parts: &request::Parts) {
        let noted = self.noted();
        if noted.ears.log.is_none() {
            return;
        }
        noted.asked = Some(Box::new(Asked {
            method: parts.method.clone(),
            target: parts.uri.clone(),
            version: parts.version,
            host: parts.headers.get(HOST).cloned(),
            referer: parts.headers.get(REFERER).cloned(),
            user_agent: parts.headers.get(USER_AGENT).cloned(),
        }));
    }

    /// Finds out for whom it is. What a stranger says of that is removed.
    pub(super) fn is_for(&mut self, headers: &mut HeaderMap) {
        let noted = self.noted();
        let client = &noted.client;
        match client.standing() {
            Standing::Any => {}
            Standing::Trusted => noted.named = client.trust().named(headers),
            Standing::Stranger => client.trust().forget(headers),
        }
    }

    /// For whom it is, if not for the client that the connection is of.
    pub(super) fn named(&mut self) -> Option<Rc<Named>> {
        self.noted().named.clone()
    }

    /// It goes to this upstream.
    pub(super) fn goes_to(&mut self, upstream: &Rc<Upstream>) {
        self.noted().upstream = Some(Rc::clone(upstream));
    }

    /// Its backend has so long to move.
    pub(super) fn waits(&mut self, timeout: Duration) {
        self.noted().timeout = timeout;
    }

    /// This backend is to answer it.
    pub(super) fn tries(&mut self, backend: &Rc<Backend>) {
        self.noted().backend = Some(Rc::clone(backend));
    }

    /// It has a connection since `at`.
    pub(super) fn has(&mut self, lease: &mut BackendLease, at: Instant) {
        let noted = self.noted();
        noted.checkout.get_or_insert(at);
        let exchange = lease.exchange();
        let idle = lease.idle().filter(|_| lease.is_reused());
        let conn = lease.conn();
        let origin = conn.origin();
        noted.connection = Some(Connection {
            id: origin.id,
            exchange,
            idle,
            connect: (exchange == 1).then_some(origin.connect),
            local_port: noted.ears.log.as_ref().and_then(|_| conn.local_port()),
            closed: None,
        });
    }

    /// It is sent again.
    pub(super) fn sent_again(&mut self, proof: Proof) {
        let noted = self.noted();
        noted.sent_again += 1;
        noted.proof = Some(proof);
    }

    /// A response's head is there since `at`, of the backend or of our own.
    pub(super) fn answers(&mut self, status: u16, outcome: Outcome, at: Instant) {
        let noted = self.noted();
        noted.status = status;
        noted.outcome = outcome;
        if matches!(outcome, Outcome::Refused | Outcome::Own) {
            noted.ended = Some(at);
        } else {
            noted.answered = Some(at);
        }
    }

    /// Its response left HTTP at `at`. Until its tunnel has ended well it counts as broken off.
    pub(super) fn switches(&mut self, at: Instant) {
        let status = StatusCode::SWITCHING_PROTOCOLS.as_u16();
        self.answers(status, Outcome::BrokenOff, at);
        let noted = self.noted();
        noted.is_tunnel = true;
        // It is not in flight any more: it may last for days.
        noted.ears.front.ends();
    }

    /// So many bytes of a tunnel came from the client and were passed on.
    pub(super) fn takes(&mut self, bytes: usize) {
        let upload = self.noted().client.upload();
        upload.came(upload.received() + bytes as u64);
    }

    /// So many bytes of the response's body were handed over.
    pub(super) fn hands_over(&mut self, bytes: usize) {
        self.noted().sent += bytes as u64;
    }

    /// The connection it is on ends with it.
    pub(super) fn closes(&mut self, reason: CloseReason) {
        self.noted().closes(reason);
    }

    /// The response is over.
    pub(super) fn ends(&mut self, at: Instant) {
        self.noted().ended = Some(at);
    }

    /// It ends otherwise than its head promised.
    pub(super) fn ends_as(&mut self, outcome: Outcome) {
        self.noted().outcome = outcome;
    }
}

impl Noted {
    fn closes(&mut self, reason: CloseReason) {
        if let Some(connection) = &mut self.connection {
            connection.closed = Some(reason);
        }
    }

    fn tell(&mut self, now: Instant) {
        if self.status == 0 {
            self.closes(CloseReason::ClientGone);
        }
        let over = Over {
            status: self.status,
            outcome: self.outcome,
            received: self.client.upload().received(),
            sent: self.sent,
            total: Some(now - self.began),
        };
        let counted = if self.is_tunnel {
            Over {
                received: 0,
                sent: 0,
                total: None,
                ..over
            }
        } else {
            over
        };
        let checkout = self.checkout.map(|at| at - self.began);
        let first_byte = match (self.checkout, self.answered) {
            (Some(had), Some(answered)) => Some(answered.saturating_duration_since(had)),
            _ => None,
        };
        match &self.backend {
            None => self.ears.front.note(&counted),
            Some(backend) => {
                let tally = &backend.tally;
                tally.traffic.note(&counted);
                let idle = self.connection.and_then(|connection| connection.idle);
                for (span, time) in [
                    (Span::Checkout, checkout),
                    (Span::FirstByte, first_byte),
                    (Span::IdleAtReuse, idle),
                ] {
                    if let Some(time) = time {
                        tally.spans.note(span, time);
                    }
                }
            }
        }
        let Some(log) = &self.ears.log else {
            return;
        };
        let address = self.backend.as_ref().map(|backend| backend.address());
        let upstream = self.upstream.as_ref().map(|upstream| account::Upstream {
            name: &upstream.settings().name,
            arm: upstream.settings().arm(),
            backend: address.map(|address| address as &dyn std::fmt::Display),
            connection: self.connection,
            checkout,
            first_byte,
            sent_again: self.sent_again,
            again_since: self.proof.map(Proof::label),
        });
        let named = self.named.as_ref().map(|named| named.address());
        let client = named.unwrap_or_else(|| self.client.address().0);
        log(&Exchange {
            asked: self.asked.as_deref(),
            ..exchange(&over, client, &self.client, upstream)
        });
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.tell(self.ended.unwrap_or_else(Instant::now));
        if !self.is_tunnel {
            self.ears.front.ends();
        }
    }
}

fn exchange<'a>(
    over: &Over,
    address: SocketAddr,
    client: &Conn,
    upstream: Option<account::Upstream<'a>>,
) -> Exchange<'a> {
    Exchange {
        client: address,
        client_exchange: client.exchange(),
        // Without a response there is the promise of the one before.
        client_kept: over.status != 0 && client.has_promised(),
        asked: None,
        status: over.status,
        received: over.received,
        sent: over.sent,
        outcome: over.outcome,
        total: over.total.unwrap_or_default(),
        upstream,
    }
}
