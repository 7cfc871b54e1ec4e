//! A core's share of the proxy: one thread, one event loop, its own listeners, pools and clients.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use slab::Slab;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, error, warn};

use crate::alarm::Alarms;
use crate::client::{self, Conn};
use crate::net::{self, ClientAddr, Listening, Stream};
use crate::proxy::{Layout, Proxy};

/// What a worker is to do now; another takes its place when that changes.
#[derive(Debug)]
pub struct Orders {
    /// The addresses to listen on. One that is the same in the next orders is the same allocation.
    pub listeners: Vec<Arc<Listening>>,
    /// How new clients are served.
    pub client: client::Settings,
    /// How long requests in flight may take after the stop.
    pub shutdown_timeout: Duration,
    /// The routes, and where they lead.
    pub layout: Layout,
}

/// What a worker is made of; it crosses to the worker's thread.
pub struct Plan {
    /// Its number; the first is 0.
    pub number: usize,
    /// What to do.
    pub orders: watch::Receiver<Arc<Orders>>,
    /// Turns to true when the worker is to stop.
    pub stop: watch::Receiver<bool>,
}

/// How long to wait before accepting again when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How many ready tasks are run before the kernel is asked for new events.
const EVENT_INTERVAL: u32 = 61;

/// Runs a worker until it is told to stop and its last request is answered, or its time is up.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run(plan: Plan) -> io::Result<()> {
    let (number, orders) = (plan.number, plan.orders.clone());
    let result = Builder::new_current_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .build_local(LocalOptions::default())
        .and_then(|runtime| runtime.block_on(work(plan)));
    if result.is_err() {
        // Clients are to come to the other workers, not to sockets that nobody serves.
        for listening in &orders.borrow().listeners {
            drop(listening.take(number));
        }
    }
    result
}

/// The clients of one worker.
#[derive(Default)]
struct Clients {
    conns: RefCell<Slab<Rc<Conn>>>,
    draining: Cell<bool>,
    /// Told when the last one has gone.
    gone: Notify,
}

async fn work(mut plan: Plan) -> io::Result<()> {
    let alarms = Alarms::default();
    let ringing = spawn_local(alarms.clone().run());
    let orders = Arc::clone(&plan.orders.borrow_and_update());
    let door = Rc::new(Door {
        worker: plan.number,
        stop: plan.stop.clone(),
        accepting: RefCell::default(),
        proxy: RefCell::new(Rc::new(Proxy::new(&orders.layout, plan.number))),
        settings: RefCell::new(Rc::new(orders.client.clone())),
        clients: Clients::default(),
        alarms,
    });
    door.listen(&orders.listeners)?;
    drop(orders);
    let following = spawn_local(follow(plan.orders.clone(), Rc::clone(&door)));
    // An error means that whoever could stop us has gone.
    let _ = plan.stop.wait_for(|stop| *stop).await;
    following.abort();
    // Those who have connected by orders that were not looked at yet are served too.
    let last = Arc::clone(&plan.orders.borrow_and_update());
    if let Err(error) = door.listen(&last.listeners) {
        error!(%error, "a worker cannot listen");
    }
    for accepting in door.accepting.take() {
        let _ = accepting.task.await;
    }
    let bound = plan.orders.borrow().shutdown_timeout;
    door.drain(bound).await;
    ringing.abort();
    Ok(())
}

/// What a new client needs.
struct Door {
    /// The number of its worker.
    worker: usize,
    stop: watch::Receiver<bool>,
    accepting: RefCell<Vec<Accepting>>,
    proxy: RefCell<Rc<Proxy>>,
    settings: RefCell<Rc<client::Settings>>,
    clients: Clients,
    alarms: Alarms,
}

/// One address being listened on.
struct Accepting {
    listening: Weak<Listening>,
    /// Told when it is not to be any more.
    over: Rc<Notify>,
    task: JoinHandle<()>,
}

/// Puts new orders into effect, for as long as there may be any: for a client from its next request
/// on.
async fn follow(mut orders: watch::Receiver<Arc<Orders>>, door: Rc<Door>) {
    while orders.changed().await.is_ok() {
        let orders = Arc::clone(&orders.borrow_and_update());
        let next = door.proxy.borrow().succeeded_by(&orders.layout);
        door.proxy.replace(Rc::new(next));
        if **door.settings.borrow() != orders.client {
            door.settings.replace(Rc::new(orders.client.clone()));
        }
        if let Err(error) = door.listen(&orders.listeners) {
            error!(%error, "a worker cannot listen");
        }
    }
}

/// Accepts clients until told to stop, or that it is over; those the kernel has already accepted by
/// then are served.
///
/// It keeps the address: once no worker's task does, sockets that were never taken are closed.
async fn accept(
    listener: TcpListener,
    _listening: Arc<Listening>,
    door: Rc<Door>,
    over: Rc<Notify>,
) {
    let mut stop = door.stop.clone();
    loop {
        tokio::select! {
            biased;
            // First: without a descriptor left, accepting fails again and again.
            _ = stop.wait_for(|stop| *stop) => break,
            () = over.notified() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => door.admit(stream, ClientAddr(address)),
                Err(error) => refuse(&error).await,
            },
        }
    }
    // Closing the listener would reset those that the kernel has accepted.
    if let Ok(listener) = listener.into_std() {
        for _ in 0..net::BACKLOG {
            let Ok((stream, address)) = listener.accept() else {
                break;
            };
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            match stream {
                Ok(stream) => door.admit(stream, ClientAddr(address)),
                Err(error) => warn!(%error, "cannot serve a client that was accepted"),
            }
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "all but a vanished client are our trouble"
)]
async fn refuse(error: &io::Error) {
    match error.kind() {
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {
            debug!(%error, "a client had gone before it was accepted");
        }
        _ => {
            warn!(%error, "cannot accept: raise the limit of open files (`ulimit -n`) if it is that");
            sleep(ACCEPT_PAUSE).await;
        }
    }
}

impl Door {
    /// Listens on these addresses, and on no others any more.
    fn listen(self: &Rc<Door>, listeners: &[Arc<Listening>]) -> io::Result<()> {
        let mut accepting = self.accepting.borrow_mut();
        accepting.retain(|one| !one.task.is_finished());
        for one in &*accepting {
            let mut kept = listeners.iter();
            let stays = kept.any(|it| std::ptr::eq(Arc::as_ptr(it), one.listening.as_ptr()));
            if !stays {
                one.over.notify_one();
            }
        }
        for listening in listeners {
            let Some(listener) = listening.take(self.worker) else {
                continue;
            };
            let listener = TcpListener::from_std(listener)?;
            let over = Rc::new(Notify::new());
            accepting.push(Accepting {
                listening: Arc::downgrade(listening),
                task: spawn_local(accept(
                    listener,
                    Arc::clone(listening),
                    Rc::clone(self),
                    Rc::clone(&over),
                )),
                over,
            });
        }
        Ok(())
    }

    fn admit(self: &Rc<Door>, stream: TcpStream, address: ClientAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(client = %address, %error, "the client had gone when it was accepted");
            return;
        }
        let (stream, socket) = Stream::new(stream);
        let conn = Rc::new(Conn::new(
            address,
            socket,
            Rc::clone(&self.settings.borrow()),
            &self.alarms,
        ));
        let key = self.clients.conns.borrow_mut().insert(Rc::clone(&conn));
        let door = Rc::clone(self);
        spawn_local(async move {
            let exchanged = Rc::clone(&conn);
            client::serve(stream, conn, |request| {
                let proxy = Rc::clone(&door.proxy.borrow());
                proxy.exchange(Rc::clone(&exchanged), request)
            })
            .await;
            door.proxy.borrow().client_left(&exchanged);
            door.left(key);
        });
    }

    fn left(&self, key: usize) {
        let mut conns = self.clients.conns.borrow_mut();
        conns.remove(key);
        if conns.is_empty() && self.clients.draining.get() {
            self.clients.gone.notify_one();
        }
    }

    /// Lets requests in flight finish, for at most `bound`; what is idle is closed.
    async fn drain(&self, bound: Duration) {
        self.clients.draining.set(true);
        self.proxy.borrow().drain();
        let end = Instant::now() + bound;
        let clients: Vec<_> = self
            .clients
            .conns
            .borrow()
            .iter()
            .map(|(_, conn)| Rc::clone(conn))
            .collect();
        for conn in clients {
            conn.drain();
        }
        while !self.clients.conns.borrow().is_empty() {
            tokio::select! {
                () = self.clients.gone.notified() => {}
                () = sleep_until(end) => {
                    let left = self.clients.conns.borrow().len();
                    warn!(connections = left, "shutdown_timeout is over: closing what is left");
                    for (_, conn) in &*self.clients.conns.borrow() {
                        conn.cut_off();
                    }
                    return;
                }
            }
        }
    }
}
