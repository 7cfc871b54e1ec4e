//! Who keeps the layout up to date: a thread of its own that looks names up, when they are due and
//! at a reload, and hands the workers new orders.

use std::io;
use std::sync::{Arc, mpsc as std_mpsc};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep_until};
use tracing::{info, warn};

use super::change::{self, Changes, UpstreamChange};
use super::doors::{self, Doors};
use super::figures::Book;
use super::plan::plan;
use super::routes::router;
use super::{Settings, StartError, load_tls};
use crate::account::Tallies;
use crate::backend::{self, Protocol};
use crate::client::Policy;
use crate::lookup::{Found, LookUpError, Origin, Place, Resolver, Schedule};
use crate::net::{Listening, Tls};
use crate::proxy::{Layout, Target, UpstreamPlan, Way};
use crate::route::Router;
use crate::worker::{Listener, Orders};

/// Settings to put into effect, and where to say what came of it.
#[derive(Debug)]
pub(super) struct Reload {
    pub(super) settings: Settings,
    pub(super) done: oneshot::Sender<Result<Changes, Vec<StartError>>>,
}

/// What the keeper begins with; it crosses to the keeper's thread.
pub(super) struct Start {
    pub(super) settings: Settings,
    pub(super) tallies: Tallies,
    pub(super) book: Arc<Book>,
    pub(super) reloads: mpsc::UnboundedReceiver<Reload>,
    pub(super) stop: watch::Receiver<bool>,
    /// Told the first orders, or why there are none.
    pub(super) started: std_mpsc::SyncSender<Result<watch::Receiver<Arc<Orders>>, Vec<StartError>>>,
}

/// Runs until told to stop, or until nobody can ask for anything.
pub(super) fn run(start: Start) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(keep(start)),
        Err(error) => {
            let _ = start.started.send(Err(vec![StartError::Worker(error)]));
        }
    }
}

async fn keep(start: Start) {
    let (mut reloads, mut stop) = (start.reloads, start.stop);
    let mut stopped = stop.clone();
    let mut keeper = Keeper {
        tallies: start.tallies,
        doors: Doors::of(Arc::clone(&start.book.served)),
        book: start.book,
        settings: start.settings.clone(),
        resolver: None,
        upstreams: Vec::new(),
        looking: JoinSet::new(),
        listeners: Vec::new(),
        policies: Vec::new(),
        orders: watch::Sender::new(Arc::new(Orders {
            listeners: Vec::new(),
            max_clients: start.settings.max_clients,
            shutdown_timeout: start.settings.shutdown_timeout,
            layout: Layout::default(),
        })),
    };
    let started = match keeper.load(start.settings).await {
        Ok(_) => Ok(keeper.orders.subscribe()),
        Err(faults) => Err(faults),
    };
    let failed = started.is_err();
    if start.started.send(started).is_err() || failed {
        return;
    }
    let mut refreshing = interval(doors::LOOK_EVERY);
    loop {
        let due = keeper.due();
        tokio::select! {
            reload = reloads.recv() => {
                let Some(Reload { settings, done }) = reload else { return };
                let result = tokio::select! {
                    result = keeper.load(settings) => result,
                    _ = stopped.wait_for(|stop| *stop) => return,
                };
                // Whoever asked may have gone.
                let _ = done.send(result);
            }
            _ = stop.wait_for(|stop| *stop) => return,
            Some(looked) = keeper.looking.join_next() => {
                if let Ok(looked) = looked {
                    keeper.looked(looked);
                }
            }
            () = at(due) => keeper.look_up_due(),
            _ = refreshing.tick() => keeper.doors.refresh(),
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// The layout as it is, and what it was made from.
struct Keeper {
    tallies: Tallies,
    book: Arc<Book>,
    /// In effect; `workers` is that of the start.
    settings: Settings,
    /// As in the settings.
    listeners: Vec<Arc<Listening>>,
    /// How the clients of each are served.
    policies: Vec<Arc<Policy>>,
    doors: Doors,
    /// Made when there is a name.
    resolver: Option<Resolver>,
    /// As in the settings.
    upstreams: Vec<Upstream>,
    looking: JoinSet<Looked>,
    orders: watch::Sender<Arc<Orders>>,
}

struct Upstream {
    plan: Arc<UpstreamPlan>,
    servers: Vec<Server>,
    tls: Option<Tls>,
}

/// One server as written, and what is known of it.
struct Server {
    origin: Origin,
    places: Vec<Place>,
    schedule: Schedule,
}

/// The result of a look-up.
struct Looked {
    upstream: usize,
    server: usize,
    found: Result<Found, LookUpError>,
}

impl Keeper {
    /// Puts `settings` into effect, or, if there are faults, changes nothing.
    async fn load(&mut self, mut settings: Settings) -> Result<Changes, Vec<StartError>> {
        // After the others, so that routes lead where they led.
        let short = settings
            .upstreams
            .iter()
            .filter_map(backend::Settings::short_arm);
        let short: Vec<_> = short.collect();
        settings.upstreams.extend(short);
        let mut faults = Vec::new();
        let routes = router(&settings).map_err(|fault| faults.push(fault)).ok();
        check_limits(&settings, self.tallies.workers, &mut faults);
        let tls = self.load_tls(&settings, &mut faults);
        let doors = self.doors.load(&settings, &mut faults);
        let known = self.known(&settings);
        let (resolver, results) = look_up_all(&settings, &known).await;
        let now = Instant::now();
        let mut servers = Vec::new();
        for (looked, known) in results.into_iter().zip(known) {
            let upstream = &settings.upstreams[looked.upstream];
            let text = &upstream.servers[looked.server].address;
            match looked.found {
                Ok((origin, found)) => {
                    let mut schedule = Schedule::new(upstream.resolve.clone());
                    if origin.is_name() {
                        schedule.answered(now, found.ttl);
                    }
                    servers.push(Server {
                        origin,
                        places: found.places,
                        schedule,
                    });
                }
                Err((Some(origin), error)) if !known.is_empty() => {
                    let mut schedule = Schedule::new(upstream.resolve.clone());
                    if schedule.failed(now) {
                        say_failed(&upstream.name, text, &error);
                    }
                    servers.push(Server {
                        origin,
                        places: known,
                        schedule,
                    });
                }
                Err((_, source)) => faults.push(StartError::LookUp {
                    upstream: upstream.name.clone(),
                    server: text.clone(),
                    source,
                }),
            }
        }
        if faults.is_empty() {
            check_sockets(&settings, &servers, &mut faults);
        }
        let listeners = self.listen(&settings, &mut faults);
        let (Some(routes), Some(doors), true) = (routes, doors, faults.is_empty()) else {
            return Err(faults);
        };
        if !self.listeners.is_empty() {
            self.say_new(&listeners);
        }
        self.listeners = listeners;
        self.policies = self.doors.put(doors, &settings);
        self.resolver = resolver;
        // They have all just been looked up.
        self.looking = JoinSet::new();
        Ok(self.put_into_effect(settings, Arc::new(routes), servers, tls))
    }

    /// The TLS of each upstream that speaks it: the old one where nothing of it has changed, so that
    /// its connections and sessions stay.
    fn load_tls(&self, settings: &Settings, faults: &mut Vec<StartError>) -> Vec<Option<Tls>> {
        let mut loaded = load_tls(settings, faults);
        for (tls, upstream) in loaded.iter_mut().zip(&settings.upstreams) {
            let mut old = self.upstreams.iter();
            let old = old.find(|old| old.plan.settings.name == upstream.name);
            if let Some(old) = old
                && old.tls == *tls
            {
                tls.clone_from(&old.tls);
            }
        }
        loaded
    }

    /// The listeners of `settings`: those that are there already, and new ones.
    fn listen(&self, settings: &Settings, faults: &mut Vec<StartError>) -> Vec<Arc<Listening>> {
        let mut old = self.listeners.clone();
        let mut listeners = Vec::new();
        for listener in &settings.listeners {
            let address = listener.address;
            if let Some(known) = old.iter().position(|one| one.asked_for() == address) {
                listeners.push(old.remove(known));
                continue;
            }
            match Listening::on(address, self.tallies.workers) {
                Ok(listening) => listeners.push(Arc::new(listening)),
                Err(fault) => faults.push(fault.into()),
            }
        }
        listeners
    }

    /// Says where it listens from now on; at the start others do.
    fn say_new(&self, listeners: &[Arc<Listening>]) {
        for listening in listeners {
            if self
                .listeners
                .iter()
                .all(|old| !Arc::ptr_eq(old, listening))
            {
                info!("listening on {}", listening.address());
            }
        }
    }

    /// The addresses that are known of each server of `settings`, in their order.
    fn known(&self, settings: &Settings) -> Vec<Vec<Place>> {
        let place = |upstream: &backend::Settings, text: &str| {
            let index = self
                .settings
                .upstreams
                .iter()
                .position(|old| old.name == upstream.name)?;
            let servers = &self.settings.upstreams[index].servers;
            let server = servers.iter().position(|old| old.address == text)?;
            let known = self.upstreams.get(index)?.servers.get(server)?;
            Some(known.places.clone())
        };
        let mut known = Vec::new();
        for upstream in &settings.upstreams {
            for server in &upstream.servers {
                known.push(place(upstream, &server.address).unwrap_or_default());
            }
        }
        known
    }

    fn put_into_effect(
        &mut self,
        settings: Settings,
        router: Arc<Router<Way>>,
        servers: Vec<Server>,
        tls: Vec<Option<Tls>>,
    ) -> Changes {
        let mut changes = Changes::between(&self.settings, &settings);
        let mut servers = servers.into_iter();
        let mut upstreams = Vec::new();
        for (new, tls) in settings.upstreams.iter().zip(tls) {
            let servers: Vec<_> = servers.by_ref().take(new.servers.len()).collect();
            let old = self
                .upstreams
                .iter()
                .find(|old| old.plan.settings.name == new.name);
            let targets = targets(new, &servers, tls.as_ref());
            let (plan, change) = plan(new, targets, old.map(|old| &old.plan), &self.tallies);
            if let Some(change) = change {
                changes.upstreams.push((new.name.clone(), change));
            }
            upstreams.push(Upstream { plan, servers, tls });
        }
        for old in &self.upstreams {
            let name = &old.plan.settings.name;
            if settings.upstreams.iter().all(|new| new.name != *name) {
                changes.upstreams.push((name.clone(), UpstreamChange::Went));
            }
        }
        self.upstreams = upstreams;
        let (workers, admin) = (self.settings.workers, self.settings.admin.clone());
        let access_log = self.settings.access_log.take();
        self.settings = Settings {
            workers,
            admin,
            access_log,
            ..settings
        };
        self.give_orders(router);
        changes
    }

    fn listeners_with_policies(&self) -> Vec<Listener> {
        let both = self.listeners.iter().zip(&self.policies);
        let listener = |(listening, policy): (&Arc<Listening>, &Arc<Policy>)| Listener {
            listening: Arc::clone(listening),
            policy: Arc::clone(policy),
        };
        both.map(listener).collect()
    }

    fn give_orders(&self, router: Arc<Router<Way>>) {
        let plans: Vec<_> = self
            .upstreams
            .iter()
            .map(|upstream| Arc::clone(&upstream.plan))
            .collect();
        self.book.enter(&plans);
        let listeners = self.listeners.iter();
        self.book
            .listens_on(listeners.map(|listening| listening.address()).collect());
        self.orders.send_replace(Arc::new(Orders {
            listeners: self.listeners_with_policies(),
            max_clients: self.settings.max_clients,
            shutdown_timeout: self.settings.shutdown_timeout,
            layout: Layout {
                router,
                upstreams: plans,
            },
        }));
    }

    /// When the next name is due.
    fn due(&self) -> Option<Instant> {
        let servers = self.upstreams.iter().flat_map(|one| &one.servers);
        servers.filter_map(|server| server.schedule.due()).min()
    }

    fn look_up_due(&mut self) {
        let now = Instant::now();
        let Some(resolver) = &self.resolver else {
            return;
        };
        for (upstream, one) in self.upstreams.iter_mut().enumerate() {
            for (index, server) in one.servers.iter_mut().enumerate() {
                if server.schedule.due().is_none_or(|due| due > now) {
                    continue;
                }
                server.schedule.begun();
                let (resolver, origin) = (resolver.clone(), server.origin.clone());
                let known = server.places.clone();
                self.looking.spawn_local(async move {
                    Looked {
                        upstream,
                        server: index,
                        found: resolver.look_up(&origin, &known).await,
                    }
                });
            }
        }
    }

    /// A look-up that was due has come to its end. Whatever is wrong with it, what is known stays.
    fn looked(&mut self, looked: Looked) {
        let now = Instant::now();
        let settings = &self.settings.upstreams[looked.upstream];
        let text = &settings.servers[looked.server].address;
        let upstream = &mut self.upstreams[looked.upstream];
        let server = &mut upstream.servers[looked.server];
        let found = match looked.found {
            Ok(found) => found,
            Err(error) => {
                if server.schedule.failed(now) {
                    say_failed(&settings.name, text, &error);
                }
                return;
            }
        };
        let failures = server.schedule.answered(now, found.ttl);
        if failures > 0 {
            info!(
                failures,
                "upstream {}: {text} can be looked up again", settings.name
            );
        }
        if server.places == found.places {
            return;
        }
        server.places = found.places;
        let targets = targets(settings, &upstream.servers, upstream.tls.as_ref());
        let (plan, change) = plan(settings, targets, Some(&upstream.plan), &self.tallies);
        upstream.plan = plan;
        match change {
            Some(UpstreamChange::Changed(moves)) if !moves.is_empty() => {
                info!("upstream {}: {moves}", settings.name);
            }
            Some(_) => info!("upstream {}: other weights", settings.name),
            None => return,
        }
        let router = Arc::clone(&self.orders.borrow().layout.router);
        self.give_orders(router);
    }
}

fn say_failed(upstream: &str, server: &str, error: &LookUpError) {
    warn!(
        %error,
        "upstream {upstream}: {server} cannot be looked up; its last known addresses are used"
    );
}

/// Notes which upstreams would leave a worker without a connection.
fn check_limits(settings: &Settings, workers: usize, faults: &mut Vec<StartError>) {
    for upstream in &settings.upstreams {
        let limit = upstream.pool.max_connections.map_or(u32::MAX, u32::from);
        if upstream.protocol != Protocol::Http1 && (limit as usize) < workers {
            faults.push(StartError::TooFewConnections {
                upstream: upstream.name.clone(),
                limit,
                workers,
            });
        }
    }
}

/// Notes which upstreams cannot have sockets as they are asked for.
fn check_sockets(settings: &Settings, servers: &[Server], faults: &mut Vec<StartError>) {
    let mut servers = servers.iter();
    for upstream in &settings.upstreams {
        let servers = servers.by_ref().take(upstream.servers.len());
        let mut places = servers.flat_map(|server| &server.places);
        let checked = places.try_for_each(|place| {
            let options = &upstream.sockets;
            options.check(place.address, &upstream.source_addresses)
        });
        if let Err(source) = checked {
            faults.push(StartError::Socket {
                upstream: upstream.name.clone(),
                source,
            });
        }
    }
}

/// The result of the look-up of one server of new settings.
struct First {
    upstream: usize,
    server: usize,
    found: Result<(Origin, Found), (Option<Origin>, LookUpError)>,
}

/// Looks up every server there is, all at once; the results are in their order.
async fn look_up_all(settings: &Settings, known: &[Vec<Place>]) -> (Option<Resolver>, Vec<First>) {
    let mut resolver: Option<Result<Resolver, LookUpError>> = None;
    let mut looking = JoinSet::new();
    let mut results = Vec::new();
    let mut all_known = known.iter();
    for (upstream, one) in settings.upstreams.iter().enumerate() {
        for (server, written) in one.servers.iter().enumerate() {
            let known = all_known.next().cloned().unwrap_or_default();
            let result = |found| First {
                upstream,
                server,
                found,
            };
            let Some(origin) = Origin::parse(&written.address) else {
                results.push(result(Err((None, LookUpError::NotAServer))));
                continue;
            };
            if !origin.is_name() {
                let address = match origin {
                    Origin::Address(address) => Some(address),
                    Origin::Host(..) | Origin::Service(_) | Origin::Unix => None,
                };
                results.push(result(Ok((origin, Found::fixed(address)))));
                continue;
            }
            let made = resolver.get_or_insert_with(|| Resolver::new(&settings.resolver));
            match made {
                Ok(resolver) => {
                    let resolver = resolver.clone();
                    looking.spawn_local(async move {
                        let found = match resolver.look_up(&origin, &known).await {
                            Ok(found) => Ok((origin, found)),
                            Err(error) => Err((Some(origin), error)),
                        };
                        First {
                            upstream,
                            server,
                            found,
                        }
                    });
                }
                Err(error) => results.push(result(Err((Some(origin), error.clone())))),
            }
        }
    }
    results.extend(looking.join_all().await);
    results.sort_by_key(|one| (one.upstream, one.server));
    (resolver.and_then(Result::ok), results)
}

fn targets(settings: &backend::Settings, servers: &[Server], tls: Option<&Tls>) -> Vec<Target> {
    let known = servers.iter().map(|server| &server.places[..]);
    change::targets(settings.servers.iter().zip(known), tls)
}

/// The keeper has ended before it said anything: it can only have panicked.
pub(super) fn vanished() -> StartError {
    StartError::Worker(io::Error::other("the thread that looks names up ended"))
}
