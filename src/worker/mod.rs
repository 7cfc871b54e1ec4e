//! A core's share of the proxy: one thread, one event loop, its own listeners, pools and clients.

mod clients;
mod look;
mod parking;
mod room;

use std::cell::RefCell;
use std::io;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::sleep;
use tracing::{debug, error, warn};

use crate::account::FrontTally;
use crate::alarm::Alarms;
use crate::client::{self, Conn, Greeting, LAST_CHANCE, Parked, Policy, Served, Told};
use crate::log::Sink;
use crate::net::{self, ClientAddr, Listening, Socket, Stream, Wire};
use crate::proxy::{Ear, Ears, Layout, Proxy};

use clients::Clients;
pub use look::Look;
use parking::Left;
pub use room::Room;

/// What a worker is to do now; another takes its place when that changes.
#[derive(Debug)]
pub struct Orders {
    /// Where to listen.
    pub listeners: Vec<Listener>,
    /// How many clients there may be at once.
    pub max_clients: Option<NonZeroU32>,
    /// How long requests in flight may take after the stop.
    pub shutdown_timeout: Duration,
    /// The routes, and where they lead.
    pub layout: Layout,
}

/// One address to listen on. What is the same in the next orders is the same allocation.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address.
    pub listening: Arc<Listening>,
    /// How its new clients are served.
    pub policy: Arc<Policy>,
}

/// What a worker is made of; it crosses to the worker's thread.
pub struct Plan {
    /// Its number; the first is 0.
    pub number: usize,
    /// What to do.
    pub orders: watch::Receiver<Arc<Orders>>,
    /// Turns to true when the worker is to stop.
    pub stop: watch::Receiver<bool>,
    /// Turns to true when it is not to wait for requests in flight any more.
    pub cut: watch::Receiver<bool>,
    /// Who wants to see its connections.
    pub looks: mpsc::Receiver<Look>,
    /// For how many clients there is room.
    pub room: Arc<Room>,
    /// Where its exchanges are logged, if they are.
    pub log: Option<Sink>,
    /// What it counts.
    pub front: Arc<FrontTally>,
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
        for listener in &orders.borrow().listeners {
            drop(listener.listening.take(number));
        }
    }
    result
}

/// The same on the current runtime, which belongs to this worker alone and takes tasks that are not
/// `Send`; its clock may be one that is moved by hand.
///
/// # Errors
/// When its listeners, or its parked clients, cannot be watched.
pub async fn work(mut plan: Plan) -> io::Result<()> {
    let alarms = Alarms::default();
    let ringing = spawn_local(alarms.clone().run());
    let log = plan.log.take().map(Rc::new);
    let flushing = log.clone().map(|log| spawn_local(log.keep_flushing()));
    let orders = Arc::clone(&plan.orders.borrow_and_update());
    let ears = Ears {
        front: Arc::clone(&plan.front),
        log: log.map(|log| -> Ear { Rc::new(move |exchange| log.note(exchange)) }),
    };
    let door = Rc::new(Door {
        worker: plan.number,
        stop: plan.stop.clone(),
        accepting: RefCell::default(),
        proxy: RefCell::new(Rc::new(Proxy::new(&orders.layout, plan.number, ears))),
        clients: Clients::new(plan.number, Arc::clone(&plan.room))?,
        room: plan.room,
        front: plan.front,
        alarms,
    });
    door.room.set_limit(orders.max_clients);
    door.listen(&orders.listeners)?;
    drop(orders);
    let following = spawn_local(follow(plan.orders.clone(), Rc::clone(&door)));
    let giving_way = spawn_local({
        let door = Rc::clone(&door);
        async move { door.clients.give_way().await }
    });
    let looking = spawn_local(look::answer(plan.looks, Rc::clone(&door)));
    let taking_up = spawn_local(take_up(Rc::clone(&door)));
    // An error means that whoever could stop us has gone.
    let _ = plan.stop.wait_for(|stop| *stop).await;
    following.abort();
    giving_way.abort();
    // Those who have connected by orders that were not looked at yet are served too.
    let last = Arc::clone(&plan.orders.borrow_and_update());
    if let Err(error) = door.listen(&last.listeners) {
        error!(%error, "a worker cannot listen");
    }
    for accepting in door.accepting.take() {
        let _ = accepting.task.await;
    }
    let bound = plan.orders.borrow().shutdown_timeout;
    door.proxy.borrow().drain();
    let cut = async {
        if plan.cut.wait_for(|cut| *cut).await.is_err() {
            // Nobody is left who could say it.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = door.clients.drain(bound) => {}
        () = cut => door.clients.cut_off(),
    }
    looking.abort();
    taking_up.abort();
    ringing.abort();
    if let Some(flushing) = flushing {
        flushing.abort();
    }
    Ok(())
}

/// What a new client needs.
struct Door {
    /// The number of its worker.
    worker: usize,
    stop: watch::Receiver<bool>,
    accepting: RefCell<Vec<Accepting>>,
    proxy: RefCell<Rc<Proxy>>,
    clients: Clients,
    room: Arc<Room>,
    front: Arc<FrontTally>,
    alarms: Alarms,
}

/// One address being listened on.
struct Accepting {
    listening: Weak<Listening>,
    /// How its new clients are served, as ordered and as this worker's own.
    ordered: Arc<Policy>,
    policy: Rc<RefCell<Rc<Policy>>>,
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
        door.room.set_limit(orders.max_clients);
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
    policy: Rc<RefCell<Rc<Policy>>>,
    over: Rc<Notify>,
) {
    let mut stop = door.stop.clone();
    let admit = |stream, address| {
        let policy = Rc::clone(&policy.borrow());
        door.admit(stream, ClientAddr(address), policy);
    };
    // One that came when there was no room.
    let mut waiting = None;
    loop {
        tokio::select! {
            biased;
            // First: without a descriptor left, accepting fails again and again.
            _ = stop.wait_for(|stop| *stop) => break,
            () = over.notified() => break,
            () = door.clients.make_room(), if waiting.is_some() => {
                if !door.room.is_full() && let Some((stream, address)) = waiting.take() {
                    admit(stream, address);
                }
            }
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok((stream, address)) if door.room.is_full() => waiting = Some((stream, address)),
                Ok((stream, address)) => admit(stream, address),
                Err(error) => door.refuse(&error).await,
            },
        }
    }
    if let Some((stream, address)) = waiting {
        admit(stream, address);
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
                Ok(stream) => admit(stream, address),
                Err(error) => warn!(%error, "cannot serve a client that was accepted"),
            }
        }
    }
}

impl Door {
    /// Accepting has failed.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all but a vanished client are our trouble"
    )]
    async fn refuse(&self, error: &io::Error) {
        match error.kind() {
            io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {
                debug!(%error, "a client had gone before it was accepted");
            }
            _ => {
                warn!(%error, "cannot accept: raise the limit of open files (`ulimit -n`) if it is that");
                // If it is that: somebody who is idle can do without one.
                self.clients.evict(1);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Listens on these addresses, and on no others any more.
    fn listen(self: &Rc<Door>, listeners: &[Listener]) -> io::Result<()> {
        let mut accepting = self.accepting.borrow_mut();
        accepting.retain(|one| !one.task.is_finished());
        for one in &mut *accepting {
            let mut kept = listeners.iter();
            let is_it =
                |it: &&Listener| std::ptr::eq(Arc::as_ptr(&it.listening), one.listening.as_ptr());
            match kept.find(is_it) {
                Some(it) if Arc::ptr_eq(&it.policy, &one.ordered) => {}
                Some(it) => {
                    one.ordered = Arc::clone(&it.policy);
                    one.policy.replace(Rc::new(Policy::clone(&it.policy)));
                }
                None => one.over.notify_one(),
            }
        }
        for Listener { listening, policy } in listeners {
            let Some(listener) = listening.take(self.worker) else {
                continue;
            };
            let listener = TcpListener::from_std(listener)?;
            let over = Rc::new(Notify::new());
            // Of its own: what all workers count on would be handed from core to core.
            let own = Rc::new(RefCell::new(Rc::new(Policy::clone(policy))));
            accepting.push(Accepting {
                listening: Arc::downgrade(listening),
                task: spawn_local(accept(
                    listener,
                    Arc::clone(listening),
                    Rc::clone(self),
                    Rc::clone(&own),
                    Rc::clone(&over),
                )),
                ordered: Arc::clone(policy),
                policy: own,
                over,
            });
        }
        Ok(())
    }

    fn admit(self: &Rc<Door>, stream: TcpStream, address: ClientAddr, policy: Rc<Policy>) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(client = %address, %error, "the client had gone when it was accepted");
            return;
        }
        self.clients.enter();
        if !client::is_to_be_greeted(address, &policy) {
            self.begin(Greeting::of(stream), address, policy);
            return;
        }
        let door = Rc::clone(self);
        spawn_local(async move {
            let greeting = client::greet(stream, address, &policy, &door.front);
            match client::until(greeting, door.is_cutting_short()).await {
                Some(greeting) => door.begin(greeting, address, policy),
                None => door.clients.leave(),
            }
        });
    }

    /// Begins to serve a client that was greeted.
    fn begin(self: &Rc<Door>, greeting: Greeting, address: ClientAddr, policy: Rc<Policy>) {
        let (stream, socket) = Stream::new(greeting.wire);
        let conn = Conn::new(address, socket, policy, &self.alarms)
            .introduced(greeting.introduced)
            .greeted(greeting.greeted);
        self.serve(stream, conn);
    }

    /// Waits until clients that have not asked for anything yet are to go.
    async fn is_cutting_short(&self) {
        // An error means that whoever could stop us has gone.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
        sleep(LAST_CHANCE).await;
    }

    /// Serves a client in a task of its own, until it leaves or is parked.
    fn serve(self: &Rc<Door>, stream: Stream, conn: Conn) {
        let conn = Rc::new(conn);
        let number = self.clients.begin(&conn);
        let door = Rc::clone(self);
        spawn_local(async move {
            let exchange = |one: &Rc<Conn>, request| {
                let proxy = Rc::clone(&door.proxy.borrow());
                proxy.exchange(Rc::clone(one), request)
            };
            let tell = |told| match told {
                Told::Refused(status) => door.proxy.borrow().refused(&conn, status),
                Told::Http2 => door.front.carries(),
                Told::Flooded(flood) => door.front.floods(flood),
            };
            let served = client::serve(stream, Rc::clone(&conn), exchange, tell).await;
            door.clients.end(number);
            match served {
                Served::Parked(stream, parked) => door.park(stream, conn, parked),
                Served::Closed => {
                    door.proxy.borrow().client_left(&conn);
                    door.clients.leave();
                }
            }
        });
    }

    /// Parks a client that is idle.
    fn park(&self, stream: Stream, conn: Rc<Conn>, parked: Parked) {
        drop(stream);
        let socket = Conn::into_socket(conn).ok_or_else(|| io::Error::other("it is in use"));
        let result = socket
            .and_then(Socket::depart)
            .and_then(|socket| self.clients.park(socket, parked));
        if let Err(error) = result {
            debug!(%error, "an idle client could not be parked: closed");
            self.clients.leave();
        }
    }

    /// A parked client has left the parking.
    fn left(self: &Rc<Door>, left: Left) -> io::Result<()> {
        match left {
            Left::Spoke(socket, parked) => {
                let (stream, socket) = Stream::new(Wire::arrive(socket)?);
                self.serve(stream, Conn::taken_up(parked, socket, &self.alarms));
            }
            Left::Gone => self.clients.leave(),
            Left::Expired(socket) => {
                let (stream, _) = Stream::new(Wire::arrive(socket)?);
                let door = Rc::clone(self);
                spawn_local(async move {
                    client::let_go(stream).await;
                    door.clients.leave();
                });
            }
        }
        Ok(())
    }
}

/// Takes parked clients up again that send something, and lets those go whose time is over.
async fn take_up(door: Rc<Door>) {
    loop {
        match door.clients.next().await {
            Ok(all) => {
                for left in all {
                    if let Err(error) = door.left(left) {
                        debug!(%error, "a parked client could not be taken up: closed");
                        door.clients.leave();
                    }
                }
            }
            Err(error) => {
                error!(%error, "parked clients cannot be watched");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
