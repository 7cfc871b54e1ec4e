//! One exchange, from a client's request to its response: the spine, to be read top to bottom.
//!
//! Everything here belongs to one worker's thread. It decides little by itself: the rules are in
//! [`headers`], [`Failure`], [`crate::route`], [`crate::balance`] and the pool's state.

mod body;
mod connect;
mod connection;
mod failure;
mod grpc;
pub mod headers;
mod hint;
mod interim;
mod layout;
mod record;
mod replay;
mod report;
mod response;
pub mod retry;
mod routed;
mod target;
mod tunnel;
mod upgrade;
mod upstream;

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version, request};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::Instant;
use tracing::debug;

use crate::backend::{self, SendError};
use crate::client::{BodyFault, Conn, Framing, Standing, Wait};
use crate::keepalive::{CloseReason, Verdict};
use crate::pool::{Identity, Wants};
use crate::route::{Changed, Router};
use crate::split;

use body::BackendLease;
use headers::{Introduction, RequestFacts, Wish};
use record::Record;
use replay::Replay;
use report::{Chain, report};
use response::{refusal, relay};
use retry::{Attempt, Proof};
use routed::{Lead, Routed, To, asked};
use upgrade::Upgrade;
use upstream::{Backend, Upstream};

pub use body::{RelayBody, RequestBody};
pub use failure::Failure;
pub use layout::{Layout, ServerCommon, Share, Target, UpstreamPlan};
pub use record::{Ear, Ears};
pub use routed::{Otherwise, Way};
pub use upstream::PoolView;

/// One worker's half of the proxy: the routes, and its own connections to every backend.
pub struct Proxy {
    router: Arc<Router<Way>>,
    upstreams: Vec<Rc<Upstream>>,
    /// Of each, which one is its short arm.
    short_arms: Vec<Option<usize>>,
    worker: usize,
    ears: Rc<Ears>,
}

impl Proxy {
    /// The proxy of the `worker`-th worker, whose exchanges `ears` hear of. Runs on the current thread's
    /// runtime.
    pub fn new(layout: &Layout, worker: usize, ears: Ears) -> Proxy {
        Proxy::made(layout, None, worker, Rc::new(ears))
    }

    /// The proxy to take this one's place. What is in both layouts is taken over with its
    /// connections; what has gone is drained. Exchanges of this one go on to their end.
    #[must_use]
    pub fn succeeded_by(&self, layout: &Layout) -> Proxy {
        let next = Proxy::made(layout, Some(self), self.worker, Rc::clone(&self.ears));
        let kept: HashSet<_> = next.backends().map(Rc::as_ptr).collect();
        for backend in self.backends() {
            if !kept.contains(&Rc::as_ptr(backend)) {
                backend.drain();
            }
        }
        next
    }

    fn made(layout: &Layout, old: Option<&Proxy>, worker: usize, ears: Rc<Ears>) -> Proxy {
        let old: HashMap<_, _> = old
            .iter()
            .flat_map(|old| &old.upstreams)
            .map(|upstream| (upstream.settings().name.as_str(), upstream))
            .collect();
        let upstream = |plan: &Arc<UpstreamPlan>| match old.get(plan.settings.name.as_str()) {
            Some(old) if Arc::ptr_eq(old.plan(), plan) => Rc::clone(old),
            old => Rc::new(Upstream::new(plan, old.map(AsRef::as_ref), worker)),
        };
        let short_arm = |plan: &Arc<UpstreamPlan>| {
            plan.split.as_ref()?;
            let name = split::twin_name(&plan.settings.name);
            let mut plans = layout.upstreams.iter();
            plans.position(|plan| plan.settings.name == name)
        };
        Proxy {
            router: Arc::clone(&layout.router),
            short_arms: layout.upstreams.iter().map(short_arm).collect(),
            upstreams: layout.upstreams.iter().map(upstream).collect(),
            worker,
            ears,
        }
    }

    fn backends(&self) -> impl Iterator<Item = &Rc<Backend>> {
        self.upstreams
            .iter()
            .flat_map(|upstream| upstream.backends())
    }

    /// The connections to all backends, at most so many for each.
    pub fn connections(&self, most: usize) -> Vec<PoolView> {
        let now = Instant::now();
        let upstreams = self.upstreams.iter();
        upstreams
            .flat_map(|upstream| upstream.views(now, most))
            .collect()
    }

    /// Closes idle backend connections now, the others after their exchange.
    pub fn drain(&self) {
        for upstream in &self.upstreams {
            upstream.drain();
        }
    }

    /// A client has gone. Connections to backends that know it by name are of no more use.
    pub fn client_left(&self, client: &Conn) {
        if let Some(ends) = client.known_ends() {
            for upstream in &self.upstreams {
                upstream.client_left(Identity(Some(ends)));
            }
        }
    }

    /// What came from a client could not be read as a request, and was answered with `status`.
    pub fn refused(&self, client: &Conn, status: StatusCode) {
        self.ears.hear_refused(client, status.as_u16());
    }

    /// Answers one request: with its backend's response, or with an error of our own.
    ///
    /// # Errors
    /// None: whatever fails is answered.
    ///
    /// # Cancellation
    /// Dropping the future closes the backend connection in use.
    pub fn exchange(
        self: Rc<Proxy>,
        client: Rc<Conn>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<RelayBody>, Infallible>> {
        // At once, not when it is first polled: the library may read on before that.
        client.begin_exchange(framing(request.body()));
        self.answer(client, request)
    }

    async fn answer(
        self: Rc<Proxy>,
        client: Rc<Conn>,
        request: Request<Incoming>,
    ) -> Result<Response<RelayBody>, Infallible> {
        let (mut parts, body) = request.into_parts();
        let mut record = Record::begin(&self.ears, &client, Instant::now());
        record.asks(&parts);
        record.is_for(&mut parts.headers);
        if client.has_hosts() {
            client.is_for(RequestFacts::host(&parts));
        }
        // To a client of 1.0 that asked to be kept hyper says keep-alive in every response of 1.1,
        // even beside our close: so it is answered in its own version.
        let version = parts.version;
        if version == Version::HTTP_2 {
            headers::join_cookies(&mut parts.headers);
        }
        let connects = connect::is_extended(&parts);
        let mut size = Ok(());
        if connects {
            size = target::check_size(&parts, &client.settings().limits);
            connect::to_upgrade(&mut parts);
        }
        let host = RequestFacts::host(&parts);
        let way = self
            .router
            .find_for(host, parts.uri.path(), &asked(&client, &parts));
        if let Some(otherwise) = way.and_then(Way::client) {
            client.is_on_route(otherwise);
        }
        let read = size.and_then(|()| RequestFacts::read(&parts, &client.settings().limits));
        let mut facts = match read {
            Ok(facts) => facts,
            Err(failure) => {
                let named = record.named();
                report(
                    &client,
                    named.as_deref(),
                    &parts.method,
                    &parts.uri,
                    &failure,
                );
                let mut response = refusal(&client, None, &failure, record);
                *response.version_mut() = version;
                return Ok(response);
            }
        };
        let (method, uri) = (parts.method.clone(), parts.uri.clone());
        // Who waits for a 100 that does not come may yet send something: Apache's `expecting_100`.
        facts.ends |= facts.expects_continue() && body.is_end_stream();
        facts.connects = connects;
        if facts.grpc {
            let allowed = grpc::timeout(&parts.headers);
            client.has_until(allowed.map(|allowed| record.began() + allowed));
        }
        let routed = way.ok_or(Failure::NoRoute);
        let (answer, changed) =
            match routed.and_then(|way| way.take(&client, &mut record, &mut parts)) {
                Err(failure) => (Err(failure), Changed::default()),
                Ok(Routed { to, response }) => (
                    match to {
                        To::Own(answer) => Ok(answer.give(&client, &facts, record.hand_on())),
                        To::Upstream(lead) => {
                            let request = (parts, body);
                            self.forward(&client, request, &facts, lead, &mut record)
                                .await
                        }
                    },
                    response,
                ),
            };
        let mut response = match answer {
            Ok(response) => response,
            Err(failure) => {
                report(&client, record.named().as_deref(), &method, &uri, &failure);
                refusal(&client, Some(&facts), &failure, record)
            }
        };
        changed.apply(response.headers_mut());
        *response.version_mut() = version;
        Ok(response)
    }

    /// The upstream of this index, and of its two arms the one that a request goes to.
    fn arms(
        &self,
        index: usize,
        client: &HeaderValue,
        parts: &request::Parts,
    ) -> (&Rc<Upstream>, &Rc<Upstream>) {
        let whole = &self.upstreams[index];
        match self.short_arms[index] {
            Some(short) if whole.is_split_off(client, &parts.headers) => {
                (whole, &self.upstreams[short])
            }
            _ => (whole, whole),
        }
    }

    async fn forward(
        &self,
        client: &Rc<Conn>,
        (mut parts, body): (request::Parts, Incoming),
        facts: &RequestFacts,
        lead: Lead,
        record: &mut Record,
    ) -> Result<Response<RelayBody>, Failure> {
        let now = record.began();
        let named = &record.named();
        let ip = named.as_ref().map_or(client.ip(), |named| &named.text);
        let (whole, upstream) = self.arms(lead.upstream, ip, &parts);
        record.goes_to(upstream);
        let idempotent = retry::is_idempotent(&parts.method, &parts.headers);
        let kept = lead.retry_body.unwrap_or(upstream.settings().retry_body);
        let length = body.size_hint().exact();
        let need = retry::need(idempotent, length, kept);
        let is_too_long = length.is_some_and(|length| length > kept);
        let wants = upstream.wants(need, client, named.as_deref());
        let leased = upstream.lease_as_part_of(whole, now, wants, record).await?;
        let (upstream, (backend, mut lease, mut asked)) = leased;
        record.has(&mut lease, asked);
        let has_body = !body.is_end_stream();
        let upgrade = Upgrade::asked(&parts, facts, upstream.settings(), has_body)
            .filter(|_| lease.conn().can_switch());
        let wish_of = |lease: &BackendLease| wish(lease, upstream.settings());
        let chunked = has_body && length.is_none();
        let introduction = Introduction {
            wish: wish_of(&lease),
            upgrade: upgrade.as_ref().map(Upgrade::header),
            chunked,
            ..introduction(client, upstream, backend)
        };
        headers::forward_request(&mut parts, facts, &introduction);
        lead.request.apply(&mut parts.headers);
        let timeout = lead.timeout.unwrap_or(upstream.settings().timeout);
        record.waits(timeout);
        let mut request = Request::from_parts(parts, RequestBody::of(body, client, timeout));
        let mut before = 0;
        loop {
            // Should the backend close the connection at this moment.
            let may_refuse = lease.conn().may_refuse();
            let replay = (lease.is_reused() || may_refuse)
                .then(|| Replay::keep(&request, lease.conn(), kept));
            backend.tally.request();
            lease.conn().may_switch(upgrade.is_some());
            client.wait_for_backend(asked, timeout);
            lease.conn().take_names_of(client.socket());
            let sent = pin!(lease.conn().send(request));
            // What will not go out again needs not be kept.
            if let Some(replay) = &replay
                && (is_too_long || !idempotent && !may_refuse)
                && lease.conn().has_sent()
            {
                replay.let_body_go();
            }
            let early = facts.takes_interim(client).then_some(timeout);
            let lost = match answered(client, backend, &mut lease, early, sent).await {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    break tunnel::switch(client, response, upgrade, lease, backend, record);
                }
                Ok(response) => {
                    // Over HTTP/1.1 the connection itself knows whether it is still being written.
                    let upload = replay.filter(|_| may_refuse).and_then(|it| it.upload());
                    break relay(client, response, upload, lease, facts, backend, record);
                }
                Err(lost) => lost,
            };
            let Unanswered {
                failure,
                unsent,
                refused,
            } = *lost;
            let (is_reused, conn) = (lease.is_reused(), lease.conn());
            let is_silence = matches!(failure, Failure::NoAnswer { .. });
            let attempt = Attempt {
                reused: is_reused,
                before,
                unsent: unsent.is_some() || is_silence && !conn.has_sent(),
                refused,
                silent: is_silence && !conn.has_heard(),
                idempotent,
                whole: unsent.is_some() || replay.as_ref().is_some_and(Replay::is_whole),
            };
            let proof = retry::again(&attempt);
            let again = match (unsent, replay) {
                _ if proof.is_none() => None,
                (Some(unsent), _) => Some(unsent),
                (None, replay) => replay.and_then(|replay| replay.again(lease.conn())),
            };
            let (Some(proof), Some(again)) = (proof, again) else {
                if attempt.reused && attempt.silent {
                    backend.tally.race_lost();
                }
                lease.spent(failure.close_reason());
                record.closes(failure.close_reason());
                return Err(failure);
            };
            debug!(backend = %backend.address(), ?proof, reason = %Chain(&failure), "sending again");
            lease.conn().give_names_back(client.socket());
            lease = another(lease, backend, (proof, before), wants, record).await?;
            asked = Instant::now();
            record.has(&mut lease, asked);
            record.sent_again(proof);
            backend.tally.sent_again(proof as usize);
            before += 1;
            request = again;
            headers::say_another_wish(request.headers_mut(), wish_of(&lease));
        }
    }
}

/// How long a request's body is.
fn framing(body: &Incoming) -> Framing {
    if body.is_end_stream() {
        return Framing::Length(0);
    }
    let length = body.size_hint().exact();
    length.map_or(Framing::Chunked, Framing::Length)
}

/// A connection for a request that goes out again, in place of this one.
async fn another(
    mut lease: BackendLease,
    backend: &Backend,
    (proof, before): (Proof, u32),
    wants: Wants,
    record: &mut Record,
) -> Result<BackendLease, Failure> {
    // The connection is well, and takes fewer at once than was thought.
    let is_well = proof == Proof::Refused && before == 0;
    let reason = if is_well {
        lease.refused();
        CloseReason::PeerAsked
    } else {
        CloseReason::PeerClosedIdle
    };
    lease.spent(reason);
    record.closes(reason);
    drop(lease);
    if is_well {
        backend.lease_again(wants).await
    } else {
        backend.lease_fresh(wants.identity).await
    }
}

/// What a backend is told of a client.
fn introduction<'a>(
    client: &'a Conn,
    upstream: &Upstream,
    backend: &'a Backend,
) -> Introduction<'a> {
    let settings = upstream.settings();
    Introduction {
        client: client.ip(),
        is_believed: client.standing() == Standing::Trusted,
        subject: subject(client),
        scheme: if client.socket().is_tls() {
            "https"
        } else {
            "http"
        },
        forwarded: settings.forwarded,
        host: (!settings.preserve_host).then_some(&backend.host),
        address: &backend.host,
        wish: Wish::None,
        upgrade: None,
        chunked: false,
    }
}

/// Where the subject of the client's certificate is told, and which it is.
fn subject(client: &Conn) -> Option<(&HeaderName, Option<&HeaderValue>)> {
    let name = client.settings().subject_header.as_ref()?;
    let greeted = client.greeting();
    Some((name, greeted.and_then(|greeted| greeted.subject.as_ref())))
}

/// What the request tells the backend of its connection.
fn wish(lease: &BackendLease, settings: &backend::Settings) -> Wish {
    match lease.verdict() {
        Verdict::Close(reason) if settings.closing.announces(reason) => Wish::Close,
        Verdict::Keep if lease.exchange() == 1 && settings.pool.heed_hints => Wish::Keep,
        Verdict::Keep | Verdict::Close(_) => Wish::None,
    }
}

/// A request without a response.
struct Unanswered {
    failure: Failure,
    /// The request, if nothing of it was sent.
    unsent: Option<Request<RequestBody>>,
    /// The backend says that it has not processed it.
    refused: bool,
}

/// Waits for a response's head, as long as the exchange's waits allow. Interim responses that come before it
/// are passed on to a client that takes them; each gives the backend `early` once more, its `timeout`.
async fn answered(
    client: &Conn,
    backend: &Backend,
    lease: &mut BackendLease,
    early: Option<Duration>,
    mut sent: Pin<&mut impl Future<Output = Result<Response<Incoming>, SendError<RequestBody>>>>,
) -> Result<Response<Incoming>, Box<Unanswered>> {
    poll_fn(|cx| {
        if let Some(wait) = client.expired() {
            return Poll::Ready(Err(Box::new(Unanswered {
                failure: expired(wait, client, backend),
                unsent: None,
                refused: false,
            })));
        }
        let polled = sent.as_mut().poll(cx);
        if let Some(timeout) = early {
            let waker = polled.is_pending().then(|| cx.waker());
            lease.conn().take_interim(waker, |head| {
                if let Some(head) = interim::passed_on(head) {
                    client.socket().send_first(&head);
                    // Not while it is the client's body that is waited for.
                    if client.waits_for_backend() {
                        client.wait_for_backend(Instant::now(), timeout);
                    }
                    backend.tally.passed_interim();
                }
            });
        }
        polled.map_err(|lost| {
            Box::new(Unanswered {
                failure: failed(
                    lost.error,
                    client.upload().fault(),
                    backend,
                    lease.is_reused(),
                ),
                unsent: lost.unsent,
                refused: lost.not_processed,
            })
        })
    })
    .await
}

fn expired(wait: Wait, client: &Conn, backend: &Backend) -> Failure {
    match wait {
        Wait::RequestBody => Failure::BodyTimeout,
        _ if client.is_past_its_time() => Failure::Deadline,
        Wait::Backend | Wait::NextRequest | Wait::RequestHead | Wait::ClientWrite | Wait::Park => {
            Failure::AnswerTimeout {
                backend: backend.address().clone(),
            }
        }
    }
}

fn failed(
    error: hyper::Error,
    fault: Option<BodyFault>,
    backend: &Backend,
    reused: bool,
) -> Failure {
    let backend = backend.address().clone();
    match fault {
        Some(BodyFault::TooLong(limit)) => Failure::BodyTooLong(limit),
        Some(BodyFault::Unreadable) => Failure::BadRequest("The request body could not be read."),
        None if body::is_nonsense(&error) => Failure::BadAnswer {
            backend,
            source: Some(error),
        },
        None => Failure::NoAnswer {
            backend,
            reused,
            source: error,
        },
    }
}
