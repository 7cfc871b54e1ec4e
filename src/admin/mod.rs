//! What an operator's programs ask of a running proxy: is it well, is it ready, what does it count.
//!
//! On a listener of its own, for nobody else, on a thread of its own: nothing here is on the way of a
//! request.

mod exposition;
mod kernel;
mod lanes;
mod little;
mod metrics;
mod owners;
mod sampler;
mod snat;
mod traffic;
mod warning;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue, VARY};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::debug;

use crate::account::Close;
use crate::net::BackendAddr;
use crate::server::Control;

use exposition::Format;
use lanes::Backend;
use metrics::Facts;
use owners::Place;
use sampler::{Sampler, Watched};

/// How long one connection may last: an answer is small, and nobody is to hold one for ever.
const LONGEST: Duration = Duration::from_secs(60);

/// The listener of a running proxy. Ended when dropped.
pub struct Admin {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens on `address` and answers for the proxy that `control` is of, which serves at
    /// `listeners`.
    ///
    /// # Errors
    /// When the address cannot be listened on, or a thread not be started.
    pub fn start(
        address: SocketAddr,
        control: Control,
        listeners: Vec<SocketAddr>,
    ) -> io::Result<Admin> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let (report, started) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                let sampler = Sampler::start({
                    let control = control.clone();
                    move || watched(&control, &listeners)
                });
                let (runtime, sampler) = match (runtime, sampler) {
                    (Ok(runtime), Ok(sampler)) => (runtime, sampler),
                    (Err(error), _) | (_, Err(error)) => {
                        let _ = report.send(Err(error));
                        return;
                    }
                };
                let site = Rc::new(Site { control, sampler });
                runtime.block_on(async {
                    let _ = report.send(Ok(()));
                    tokio::select! {
                        () = serve(listener, site) => {}
                        // An error means that the owner is gone.
                        _ = stopped => {}
                    }
                });
            })?;
        let admin = Admin {
            address,
            stop: Some(stop),
            thread: Some(thread),
        };
        match started.recv() {
            Ok(result) => result.map(|()| admin),
            Err(mpsc::RecvError) => Err(io::Error::other("the admin thread ended at once")),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What is answered from.
struct Site {
    control: Control,
    sampler: Sampler,
}

async fn serve(listener: std::net::TcpListener, site: Rc<Site>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin listener cannot be watched");
            return;
        }
    };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "the admin listener cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let site = Rc::clone(&site);
        spawn_local(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let response = site.answer(&request);
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            if let Ok(Err(error)) = timeout(LONGEST, served).await {
                debug!(%error, "an admin connection ended");
            }
        });
    }
}

/// The addresses whose sockets are counted.
fn watched(control: &Control, listeners: &[SocketAddr]) -> Watched {
    let mut backends: Vec<Backend> = Vec::new();
    let mut places = Vec::new();
    for upstream in control.upstreams() {
        for (pool, backend) in upstream.pools() {
            if let BackendAddr::Ip(backend) = *backend {
                let upstream = upstream.name.clone();
                places.push((pool, Place { upstream, backend }));
            }
        }
        for (backend, figures, _) in upstream.each() {
            let BackendAddr::Ip(address) = backend else {
                continue;
            };
            let more = Backend {
                address,
                source_ports: upstream.source_ports,
                snat_ports: upstream.snat_ports,
                opened: figures.counts.opened,
                left: figures.ended_by(Close::ProxyFin),
                closed: figures.ended_by(Close::ProxyFin) + figures.ended_by(Close::BackendFin),
            };
            // Two upstreams may have it.
            match backends.iter_mut().find(|known| known.address == address) {
                Some(known) => known.join(more),
                None => backends.push(more),
            }
        }
    }
    Watched {
        backends,
        listeners: listeners.to_vec(),
        places,
        departures: control.departures(),
    }
}

impl Site {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        const TEXT: &str = "text/plain; charset=utf-8";
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "Only GET and HEAD.\n");
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(ALLOW, allowed);
            return response;
        }
        match request.uri().path() {
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
            "/" => text(
                StatusCode::OK,
                TEXT,
                "Warmline\n\n/metrics  what it counts, for Prometheus\n/healthz  whether it runs\n\
                 /readyz   whether it takes new clients\n",
            ),
            _ => text(
                StatusCode::NOT_FOUND,
                TEXT,
                "There is /metrics, /healthz and /readyz.\n",
            ),
        }
    }

    fn facts(&self) -> Facts {
        let (mut upstreams, mut backends) = (Vec::new(), Vec::new());
        for upstream in self.control.upstreams() {
            upstreams.push((upstream.name.clone(), upstream.sum()));
            for (address, figures, line) in upstream.each() {
                backends.push(metrics::Backend {
                    upstream: upstream.name.clone(),
                    address: address.to_string(),
                    figures,
                    line,
                });
            }
        }
        Facts {
            workers: self.control.workers(),
            clients: self.control.clients(),
            front: self.control.front(),
            upstreams,
            backends,
            sample: self.sampler.latest(),
        }
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    response
}
