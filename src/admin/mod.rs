//! What an operator and an operator's programs ask of a running proxy: is it well, is it ready, what
//! does it count, what does it look like.
//!
//! On a listener of its own, for nobody else, on a thread of its own: nothing here is on the way of a
//! request.

mod door;
mod events;
mod exposition;
mod facts;
mod front;
mod guards;
mod history;
mod host;
mod kernel;
mod lanes;
mod little;
mod metrics;
mod owners;
mod page;
mod process;
mod sampler;
mod share;
mod site;
mod snapshot;
mod snat;
mod traffic;
mod warning;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::{PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::debug;

use crate::account::Close;
use crate::census::folded;
use crate::json::Json;
use crate::net::BackendAddr;
use crate::server::{AdminAddress, AdminSettings, Control};

use door::{Bound, Door, Guest};
use events::Link;
use lanes::Backend;
use owners::Place;
use sampler::{Sampler, Watched};
use site::{Answered, Effective, Site};

/// How long one connection may last that does not follow events: an answer is small, and nobody is to
/// hold one for ever.
const LONGEST: Duration = Duration::from_secs(60);

/// How many connections there may be: each takes a file descriptor that clients need. At the limit the
/// oldest that does not follow events is closed for each new one.
const MOST: usize = 128;

/// The listener of a running proxy. Ended when dropped.
pub struct Admin {
    address: AdminAddress,
    effective: Effective,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens as `settings` say and answers for the proxy that `control` is of.
    ///
    /// # Errors
    /// When the address cannot be listened on, or a thread not be started.
    pub fn start(settings: impl Into<AdminSettings>, control: Control) -> io::Result<Admin> {
        let settings = settings.into();
        let bound = Bound::on(&settings.address)?;
        let address = bound.address()?;
        let settings = AdminSettings {
            address: address.clone(),
            ..settings
        };
        let effective = Effective::default();
        let (stop, stopped) = oneshot::channel();
        let (report, started) = mpsc::channel();
        let thread = thread::Builder::new().name("admin".to_owned()).spawn({
            let effective = effective.clone();
            move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                let sampler = Sampler::start({
                    let control = control.clone();
                    move || watched(&control)
                });
                let (runtime, sampler) = match (runtime, sampler) {
                    (Ok(runtime), Ok(sampler)) => (runtime, sampler),
                    (Err(error), _) | (_, Err(error)) => {
                        let _ = report.send(Err(error));
                        return;
                    }
                };
                runtime.block_on(async {
                    let door = match bound.watched() {
                        Ok(door) => door,
                        Err(error) => {
                            let _ = report.send(Err(error));
                            return;
                        }
                    };
                    let _ = report.send(Ok(()));
                    let site = Rc::new(Site::new(control, sampler, settings, effective));
                    tokio::select! {
                        () = serve(&door, &site) => {}
                        () = site.run() => {}
                        // An error means that the owner is gone.
                        _ = stopped => {}
                    }
                });
            }
        })?;
        let admin = Admin {
            address,
            effective,
            stop: Some(stop),
            thread: Some(thread),
        };
        match started.recv() {
            Ok(result) => result.map(|()| admin),
            Err(mpsc::RecvError) => Err(io::Error::other("the admin thread ended at once")),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &AdminAddress {
        &self.address
    }

    /// These settings are in effect from now on, as who asks for them is to see them.
    pub fn shows(&self, effective: &Json) {
        let mut shown = self
            .effective
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *shown = Some(effective.to_string());
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

async fn serve(door: &Door, site: &Rc<Site>) {
    let guests = Guests::default();
    loop {
        let site = Rc::clone(site);
        match door.accept().await {
            Ok(Guest::Tcp(stream)) => spawn_local(speak(stream, site, guests.admit())),
            Ok(Guest::Unix(stream)) => spawn_local(speak(stream, site, guests.admit())),
            Err(error) => {
                debug!(%error, "the admin listener cannot accept");
                sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
    }
}

/// The connections that are open, the oldest first.
#[derive(Default)]
struct Guests(RefCell<VecDeque<Weak<Link>>>);

impl Guests {
    /// One more. If there are as many as may be, another gives way.
    fn admit(&self) -> Rc<Link> {
        let mut guests = self.0.borrow_mut();
        guests.retain(|guest| guest.strong_count() > 0);
        if guests.len() >= MOST {
            let gives_way = |guest: &Weak<Link>| {
                let link = guest.upgrade();
                link.is_some_and(|link| !link.follows.get())
            };
            let oldest = guests.iter().position(gives_way);
            let oldest = oldest.and_then(|at| guests.remove(at)?.upgrade());
            if let Some(link) = oldest {
                link.over.notify_one();
            }
        }
        let link = Rc::new(Link::default());
        guests.push_back(Rc::downgrade(&link));
        link
    }
}

/// Answers the requests of one connection, until it ends, has lasted too long, has to give way, or does
/// not take the events it asked for.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    site: Rc<Site>,
    link: Rc<Link>,
) {
    let answer = service_fn(|mut request: Request<Incoming>| {
        let (site, link) = (Rc::clone(&site), Rc::clone(&link));
        async move { Answered::Ok(site.answer(&mut request, &link).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), answer));
    let limit = async {
        sleep(LONGEST).await;
        if link.follows.get() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = &mut served => {
            if let Err(error) = ended {
                debug!(%error, "an admin connection ended");
            }
        }
        () = limit => debug!("an admin connection has lasted too long"),
        () = link.over.notified() => debug!("an admin connection is closed: its place was needed, or its events were not taken"),
    }
}

/// The addresses whose sockets are counted, as the kernel's tables have them.
fn watched(control: &Control) -> Watched {
    let mut backends: Vec<Backend> = Vec::new();
    let mut places = Vec::new();
    for upstream in control.upstreams() {
        for (pool, backend) in upstream.pools() {
            if let BackendAddr::Ip(backend) = *backend {
                let (upstream, backend) = (upstream.name.clone(), folded(backend));
                places.push((pool, Place { upstream, backend }));
            }
        }
        for (backend, figures, _) in upstream.each() {
            let BackendAddr::Ip(address) = backend else {
                continue;
            };
            let address = folded(address);
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
        listeners: control.addresses().into_iter().map(folded).collect(),
        places,
        departures: control.departures(),
    }
}
