//! What is answered on the admin listener.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST, HeaderValue, VARY};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::census::folded;
use crate::server::{AdminSettings, Control};

use super::events::{self, Audience, Events, Link};
use super::exposition::Format;
use super::facts::{Backend, Facts, Upstream};
use super::guards::Guards;
use super::history::{History, PERIOD};
use super::process::Process;
use super::sampler::Sampler;
use super::snapshot::{Cell, Cells, Shown, Snapshot};
use super::{host, metrics, page, share};

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// What there is, for who asks for something else.
const PATHS: &str = "\
/          a page to look at: what the proxy does, as it does it
/metrics   what it counts, for Prometheus
/healthz   whether it runs
/readyz    whether it takes new clients
/snapshot  all that the page shows, as JSON; in parts: /pools, /states, /ports
/history   the last five minutes of it
/events    a snapshot every second, as server-sent events
/config    the settings in effect
/upstreams/NAME/short_share
           the share of its requests that is short; POST another, such as 5%
";

/// An answer's body: all of it, or events without an end.
pub(super) type Body = Either<Full<Bytes>, Events>;

/// The settings in effect as JSON, once they are known.
pub(super) type Effective = Arc<Mutex<Option<String>>>;

/// What is answered from.
pub(super) struct Site {
    control: Control,
    sampler: Sampler,
    settings: AdminSettings,
    effective: Effective,
    started: Instant,
    history: RefCell<History>,
    guards: RefCell<Guards>,
    audience: Audience,
}

impl Site {
    pub(super) fn new(
        control: Control,
        sampler: Sampler,
        settings: AdminSettings,
        effective: Effective,
    ) -> Site {
        Site {
            control,
            sampler,
            settings,
            effective,
            started: Instant::now(),
            history: RefCell::default(),
            guards: RefCell::default(),
            audience: Audience::default(),
        }
    }

    /// Takes a reading every second, and tells those who follow.
    pub(super) async fn run(&self) {
        let mut clock = interval(PERIOD);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = clock.tick().await;
            let facts = self.facts();
            self.guards.borrow_mut().look(&facts, now);
            self.history.borrow_mut().note(&facts, now);
            if self.audience.is_there() {
                let event = self.event().await;
                self.audience.tell(&event);
            }
        }
    }

    /// Answers one request, which came over `link`.
    pub(super) async fn answer(
        &self,
        request: &mut Request<Incoming>,
        link: &Rc<Link>,
    ) -> Response<Body> {
        let share_of = request
            .uri()
            .path()
            .strip_prefix("/upstreams/")
            .and_then(|rest| rest.strip_suffix("/short_share"))
            .map(str::to_owned);
        let allowed = match share_of {
            Some(_) => matches!(*request.method(), Method::GET | Method::HEAD | Method::POST),
            None => matches!(*request.method(), Method::GET | Method::HEAD),
        };
        if !allowed {
            let (words, methods) = match share_of {
                Some(_) => ("Only GET, HEAD and POST.\n", "GET, HEAD, POST"),
                None => ("Only GET and HEAD.\n", "GET, HEAD"),
            };
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, words);
            let methods = HeaderValue::from_static(methods);
            response.headers_mut().insert(ALLOW, methods);
            return response;
        }
        if !self.is_ours(request) {
            return text(
                StatusCode::MISDIRECTED_REQUEST,
                TEXT,
                "Only localhost and the address that is listened on are answered to, so that no \
                 other site can be led here. `public = true` in [admin] answers to any name.\n",
            );
        }
        if let Some(upstream) = share_of {
            return share::answer(&self.control, &upstream, request).await;
        }
        match request.uri().path() {
            "/" => page::response(),
            "/metrics" => {
                let accept = request.headers().get(ACCEPT);
                let format = Format::preferred(accept.and_then(|value| value.to_str().ok()));
                let page = metrics::page(&self.facts(), format);
                let mut response = text(StatusCode::OK, format.content_type(), page);
                let varies = HeaderValue::from_static("accept");
                response.headers_mut().insert(VARY, varies);
                response
            }
            "/healthz" => text(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" if self.control.is_stopping() => {
                text(StatusCode::SERVICE_UNAVAILABLE, TEXT, "stopping\n")
            }
            "/readyz" => text(StatusCode::OK, TEXT, "ready\n"),
            "/snapshot" => json(self.snapshot(Shown::All).await),
            "/pools" => json(self.snapshot(Shown::Pools).await),
            "/states" => json(self.snapshot(Shown::States).await),
            "/ports" => json(self.snapshot(Shown::Ports).await),
            "/history" => json(self.history.borrow().json().to_string()),
            "/events" => self.follow(request, link).await,
            "/config" => self.effective(),
            _ => text(StatusCode::NOT_FOUND, TEXT, format!("There is:\n{PATHS}")),
        }
    }

    /// Whether the host that the request names is one of ours.
    fn is_ours(&self, request: &Request<Incoming>) -> bool {
        let Some(address) = self.settings.address.ip() else {
            // No browser gets to a Unix socket.
            return true;
        };
        if self.settings.public {
            return true;
        }
        let host = request.headers().get(HOST).map(HeaderValue::to_str);
        let named = request.uri().authority().map(http::uri::Authority::as_str);
        match host {
            Some(Ok(host)) => host::is_ours(Some(host), address) && host::is_ours(named, address),
            Some(Err(_)) => false,
            None => host::is_ours(named, address),
        }
    }

    fn effective(&self) -> Response<Body> {
        let known = self.effective.lock();
        match known.unwrap_or_else(PoisonError::into_inner).clone() {
            Some(settings) => json(settings),
            None => text(
                StatusCode::NOT_FOUND,
                TEXT,
                "It was started without a file.\n",
            ),
        }
    }

    async fn follow(&self, request: &Request<Incoming>, link: &Rc<Link>) -> Response<Body> {
        // Another site's page could not read them, but could take the place of those who may.
        let site = request.headers().get("sec-fetch-site");
        if site.is_some_and(|site| site == "cross-site" || site == "same-site") {
            return text(
                StatusCode::FORBIDDEN,
                TEXT,
                "Not for pages of another site.\n",
            );
        }
        if *request.method() == Method::HEAD {
            return text(StatusCode::OK, events::CONTENT_TYPE, "");
        }
        let first = self.event().await;
        match self.audience.admit(link, first) {
            Some(events) => {
                let mut response = text(StatusCode::OK, events::CONTENT_TYPE, "");
                *response.body_mut() = Either::Right(events);
                response
            }
            None => text(
                StatusCode::SERVICE_UNAVAILABLE,
                TEXT,
                format!("{} follow already: no more than that.\n", events::MOST),
            ),
        }
    }

    async fn event(&self) -> Bytes {
        events::event(&self.snapshot(Shown::All).await)
    }

    /// This moment, as JSON.
    async fn snapshot(&self, shown: Shown) -> String {
        let cells = if shown.has_cells() {
            self.cells().await
        } else {
            Cells::new()
        };
        let snapshot = Snapshot {
            facts: &self.facts(),
            history: &self.history.borrow(),
            cells: &cells,
        };
        snapshot.json(shown).to_string()
    }

    /// Every connection to a backend, as the workers have them now.
    async fn cells(&self) -> Cells {
        let mut cells = Cells::new();
        for (worker, pools) in self.control.connections().await {
            for pool in pools {
                let key = (pool.upstream, pool.backend.to_string());
                let connections = pool.connections.into_iter();
                let of_worker = connections.map(|held| Cell { worker, held });
                cells.entry(key).or_default().extend(of_worker);
            }
        }
        cells
    }

    fn facts(&self) -> Facts {
        let mut upstreams = Vec::new();
        let mut backends = Vec::new();
        for upstream in self.control.upstreams() {
            for (address, figures, line) in upstream.each() {
                backends.push(Backend {
                    upstream: upstream.name.clone(),
                    arm: upstream.arm,
                    address: address.to_string(),
                    ip: address.ip().map(folded),
                    figures,
                    line,
                });
            }
            upstreams.push(Upstream {
                figures: upstream.sum(),
                arm: upstream.arm,
                split: upstream.split,
                name: upstream.name,
            });
        }
        let uptime = self.started.elapsed();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Facts {
            time: now.unwrap_or(Duration::ZERO).as_secs_f64(),
            uptime,
            stopping: self.control.is_stopping(),
            workers: self.control.workers(),
            clients: self.control.clients(),
            front: self.control.front(),
            certificates: self.control.certificates(),
            upstreams,
            backends,
            log: self.control.access_log().unwrap_or_default(),
            process: Process::now(uptime),
            sample: self.sampler.latest(),
        }
    }
}

pub(super) fn json(body: String) -> Response<Body> {
    text(StatusCode::OK, JSON, body + "\n")
}

/// An answer of this type.
pub(super) fn text(
    status: StatusCode,
    kind: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Nothing fails on the way to an answer.
pub(super) type Answered = Result<Response<Body>, Infallible>;
