//! `[client] max_connections`, and the limit of open files: who has to go when there are too many, who
//! waits, and that nobody is cut off who is served.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use warmline::census::TcpState;
use warmline::server::Settings;

use crate::kernel::sides;
use crate::moved_time::{Visitor, Worker, in_moved_time, settle};
use crate::program::{Program, config};
use crate::proxy::{GET, NEVER, Proxy, ask, kept, ms, settings_to};
use crate::support::client::{Client, Ended};
use crate::support::scripted::{Backend, Gate};
use crate::support::{PATIENCE, wait_until};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Longer than it takes until an idle client is parked.
const A_WHILE: Duration = Duration::from_millis(1500);

/// Long enough to see that nothing comes.
const A_MOMENT: Duration = Duration::from_millis(150);

fn limited(most: usize) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.client.keep_alive = kept(NEVER, 0);
        settings.max_clients = NonZeroU32::new(u32::try_from(most).unwrap());
    }
}

/// Runs `script` beside one worker that has room for so many, in moved time.
fn with_room_for(most: usize, script: impl AsyncFnOnce(Rc<Worker>)) {
    let backend = Backend::answering(OK);
    let mut settings = settings_to(backend.addr);
    limited(most)(&mut settings);
    in_moved_time(settings, backend.addr, script);
}

/// A file for so many workers and clients.
fn file(backend: &Backend, workers: usize, most: usize) -> String {
    let client = format!("[client]\nmax_connections = {most}\nkeep_alive_timeout = 60\n");
    let server = format!("shutdown_timeout = 1\n{client}max_keep_alive_requests = 0");
    config("127.0.0.1:0", backend.addr, &server)
        .replace("workers = 1", &format!("workers = {workers}"))
}

/// Answers `/slow` once the gate is open, everything else at once.
fn gated(gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::start(move |mut conn| {
        while let Some(request) = conn.request() {
            if request.line().contains("/slow") {
                conn.pause(&gate);
            }
            conn.send(OK);
        }
    })
}

/// So many connections of clients are open at the proxy's end.
fn open(addr: SocketAddr) -> u64 {
    sides(addr).theirs.get(TcpState::Established)
}

/// Clients that have asked, so long after one another.
async fn clients(worker: &Worker, count: usize, apart: Duration) -> Vec<Visitor> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = worker.client().await;
        assert_eq!(client.asks(GET).await.status, 200);
        clients.push(client);
        sleep(apart).await;
    }
    clients
}

/// A new client is served without any time passing, and of the others exactly this one has gone.
async fn one_gives_way(worker: &Worker, others: &mut Vec<Visitor>, gone: usize) -> Visitor {
    let from = Instant::now();
    let mut new = worker.client().await;
    assert_eq!(new.asks(GET).await.status, 200);
    assert_eq!(from.elapsed(), ms(0), "it did not wait");
    others.remove(gone).sees_a_fin().await;
    settle().await;
    for other in others {
        assert!(other.is_open().await);
    }
    assert!(new.is_open().await);
    new
}

#[test]
fn for_a_new_client_the_parked_one_that_has_been_idle_for_the_longest_is_closed() {
    with_room_for(4, async |worker| {
        let mut all = clients(&worker, 4, ms(10)).await;
        sleep(A_WHILE).await;
        // Not who came first: who was last served the longest ago.
        assert_eq!(all[0].asks(GET).await.status, 200);
        sleep(A_WHILE).await;
        let mut new = Vec::new();
        for gone in [1, 1, 1, 0] {
            new.push(one_gives_way(&worker, &mut all, gone).await);
        }
        assert_eq!(open(worker.addr), 4);
    });
}

#[test]
fn where_none_is_parked_yet_the_one_that_has_been_idle_for_the_longest_is_closed() {
    with_room_for(3, async |worker| {
        let mut all = clients(&worker, 3, ms(100)).await;
        for gone in [0, 0, 0] {
            let new = one_gives_way(&worker, &mut all, gone).await;
            all.push(new);
            sleep(ms(100)).await;
        }
        assert_eq!(open(worker.addr), 3);
    });
}

#[test]
fn parked_clients_that_ask_in_the_turn_in_which_their_place_is_needed_are_answered() {
    with_room_for(2, async |worker| {
        for new_comes_first in [false, true] {
            let mut all = clients(&worker, 2, ms(10)).await;
            sleep(A_WHILE).await;
            // All in the same turn of the event loop.
            let mut new = None;
            if new_comes_first {
                new = Some(worker.client_at_once());
            }
            for client in &mut all {
                client.slips_in(GET);
            }
            let mut new = new.unwrap_or_else(|| worker.client_at_once());
            for client in &mut all {
                assert_eq!(client.does(Client::response).await.status, 200);
            }
            // Nobody tells the one that waits that they are idle now: it looks.
            sleep(ms(100)).await;
            assert_eq!(new.asks(GET).await.status, 200);
            let mut open = 0;
            for client in &mut all {
                // Both are idle since the same instant.
                open += usize::from(client.is_open().await);
            }
            assert_eq!(open, 1);
        }
    });
}

#[test]
fn after_a_reload_the_other_limit_counts() {
    let backend = Backend::answering(OK);
    let mut settings = settings_to(backend.addr);
    limited(4)(&mut settings);
    in_moved_time(settings.clone(), backend.addr, async |worker| {
        let mut all = clients(&worker, 4, ms(10)).await;
        sleep(A_WHILE).await;
        settings.max_clients = NonZeroU32::new(2);
        worker.reload(&settings).await;
        for client in &mut all {
            assert!(
                client.is_open().await,
                "nobody has come for whom it has to go"
            );
        }
        let mut new = worker.client().await;
        assert_eq!(new.asks(GET).await.status, 200);
        for client in &mut all[..3] {
            client.sees_a_fin().await;
        }
        assert!(all[3].is_open().await);

        settings.max_clients = NonZeroU32::new(3);
        worker.reload(&settings).await;
        let mut newer = clients(&worker, 1, ms(10)).await;
        assert!(all[3].is_open().await && new.is_open().await);
        all.truncate(3);
        all.clear();
        settings.max_clients = None;
        worker.reload(&settings).await;
        let mut newest = clients(&worker, 5, ms(10)).await;
        for client in newer.iter_mut().chain(&mut newest).chain([&mut new]) {
            assert!(client.is_open().await, "there is no limit any more");
        }
    });
}

#[test]
fn a_larger_limit_lets_those_in_who_wait() {
    let gate = Gate::new();
    let backend = gated(&gate);
    let mut settings = settings_to(backend.addr);
    limited(1)(&mut settings);
    in_moved_time(settings.clone(), backend.addr, async |worker| {
        let mut busy = worker.client().await;
        busy.sends("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut waiting = worker.client().await;
        waiting.sends(GET).await;
        sleep(ms(300)).await;
        assert!(waiting.is_open().await, "and has no answer");
        settings.max_clients = NonZeroU32::new(2);
        worker.reload(&settings).await;
        assert_eq!(waiting.does(Client::response).await.status, 200);
        gate.open();
        assert_eq!(busy.does(Client::response).await.status, 200);
    });
}

#[test]
fn busy_clients_are_never_closed_and_who_comes_is_served_as_soon_as_one_is_idle() {
    for leaves in [false, true] {
        let gates = [Gate::new(), Gate::new()];
        let backend = Backend::start({
            let gates = gates.clone();
            move |mut conn| {
                while let Some(request) = conn.request() {
                    for (number, gate) in gates.iter().enumerate() {
                        if request.line().contains(&format!("/slow{number}")) {
                            conn.pause(gate);
                        }
                    }
                    conn.send(OK);
                }
            }
        });
        let proxy = Proxy::start(backend.addr, limited(2));
        let mut busy = [0, 1].map(|number| {
            let close = if leaves { "Connection: close\r\n" } else { "" };
            let mut client = proxy.client();
            client.send(format!(
                "GET /slow{number} HTTP/1.1\r\nHost: a\r\n{close}\r\n"
            ));
            gates[number].wait_reached(1);
            client
        });
        let mut waiting = proxy.client();
        waiting.send(GET);
        assert_eq!(waiting.end_within(A_MOMENT), Ended::KeptOpen);
        for client in &mut busy {
            assert_eq!(client.end_within(ms(1)), Ended::KeptOpen);
        }
        gates[1].open();
        let response = busy[1].response();
        assert_eq!((response.status, response.complete), (200, true));
        if leaves {
            assert_eq!(response.ended, Ended::Fin);
        } else if response.ended == Ended::KeptOpen {
            assert_eq!(busy[1].end_within(PATIENCE), Ended::Fin);
        }
        let [mut busy, done] = busy;
        drop(done); // a client that lingers still counts
        assert_eq!(waiting.response().status, 200);
        assert_eq!(busy.end_within(A_MOMENT), Ended::KeptOpen);
        gates[0].open();
        assert_eq!(busy.response().status, 200);
    }
}

const WORKERS: usize = 4;

#[test]
fn of_all_workers_parked_clients_the_one_that_has_been_idle_for_the_longest_is_closed() {
    const CLIENTS: usize = 12;
    let backend = Backend::answering(OK);
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.workers = WORKERS;
        limited(CLIENTS)(settings);
    });
    let mut all: Vec<_> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut all {
        assert_eq!(ask(client, GET).status, 200);
        thread::sleep(ms(20));
    }
    thread::sleep(A_WHILE);
    let mut new: Vec<Client> = Vec::new();
    for number in 0..CLIENTS {
        let mut client = proxy.client();
        assert_eq!(ask(&mut client, GET).status, 200);
        new.push(client);
        assert_eq!(all[number].end_within(PATIENCE), Ended::Fin, "{number}");
        for (other, client) in all.iter_mut().enumerate().skip(number + 1) {
            let ended = client.end_within(ms(1));
            assert_eq!(ended, Ended::KeptOpen, "{other} at the {number}th");
        }
        for client in &mut new {
            assert_eq!(client.end_within(ms(1)), Ended::KeptOpen);
        }
    }
    assert_eq!(open(proxy.addr), CLIENTS as u64);
}

#[test]
fn for_a_new_client_one_goes_and_no_more_where_none_is_parked_on_any_worker() {
    // Fewer than workers: some have none, and have to ask the others.
    const CLIENTS: usize = 3;
    let backend = Backend::answering(OK);
    let proxy = Proxy::start(backend.addr, |settings| {
        settings.workers = WORKERS;
        limited(CLIENTS)(settings);
    });
    let mut all: Vec<_> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for round in 1..=40 {
        for client in &mut all {
            assert_eq!(ask(client, GET).status, 200);
        }
        let mut new = proxy.client();
        assert_eq!(ask(&mut new, GET).status, 200);
        thread::sleep(ms(20));
        let before = all.len();
        all.retain_mut(|client| client.end_within(ms(1)) == Ended::KeptOpen);
        assert_eq!(before - all.len(), 1, "round {round}");
        all.push(new);
    }
}

/// Many come and go at a limit of a few, all the time: each is answered or sees a clean end before
/// anything of an answer, and the kernel never has more of them than there may be.
#[test]
fn in_a_throng_nobody_gets_half_an_answer_and_there_are_never_more_than_may_be() {
    const MOST: usize = 6;
    const THREADS: usize = 16;
    let backend = Backend::answering(OK);
    let program = Program::with_file(&file(&backend, WORKERS, MOST));
    let end = Instant::now() + ms(3000);
    let mut most = 0;
    let served: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|number| {
                let program = &program;
                scope.spawn(move || {
                    let (mut served, mut round) = (0, number as u64);
                    while Instant::now() < end {
                        let mut client = program.client();
                        for request in 0.. {
                            if request > 0 && Instant::now() > end {
                                break;
                            }
                            // Its first request is always answered.
                            if client.try_send(GET).is_err() && request > 0 {
                                break;
                            }
                            match client.try_response() {
                                Ok(response) => {
                                    assert_eq!((response.status, response.complete), (200, true));
                                    served += 1;
                                    if response.ended != Ended::KeptOpen {
                                        break;
                                    }
                                }
                                Err(stop) => {
                                    assert!(request > 0, "the first was not answered: {stop:?}");
                                    break;
                                }
                            }
                            round += 7;
                            thread::sleep(ms(round % 23));
                        }
                    }
                    served
                })
            })
            .collect();
        while Instant::now() < end {
            // Those that are accepted: the kernel has others, which wait, and whose sockets are no
            // process's.
            program.freeze();
            let sockets = accepted(program.addr);
            program.signal(Signal::CONT);
            assert!(sockets <= MOST + WORKERS, "{sockets} sockets");
            most = most.max(sockets);
            thread::sleep(ms(20));
        }
        threads.into_iter().map(|it| it.join().unwrap()).sum()
    });
    // How many depends on what else the machine does.
    assert!(served > 4 * THREADS, "{served}");
    assert!(most >= MOST, "they were never many: {most}");
}

/// Those sockets at the proxy's port that a process has: with an inode.
fn accepted(addr: SocketAddr) -> usize {
    let port = format!(":{:04X}", addr.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|line| line[1].ends_with(&port) && line[3] != "0A" && line[9] != "0")
        .count()
}

/// All are there at once when the program looks: those that were idle and now ask, and those that
/// need their places.
#[test]
fn a_request_that_crosses_the_eviction_is_answered() {
    const MOST: usize = 20;
    let backend = Backend::answering(OK);
    let text = file(&backend, 1, MOST);
    for pause in [ms(0), A_WHILE] {
        let program = Program::with_file(&text);
        let mut old: Vec<_> = (0..MOST).map(|_| program.client()).collect();
        for client in &mut old {
            assert_eq!(ask(client, GET).status, 200);
        }
        thread::sleep(pause);
        program.freeze();
        let mut new: Vec<_> = (0..MOST).map(|_| program.client()).collect();
        for client in old.iter_mut().chain(&mut new) {
            client.send(GET);
        }
        program.signal(Signal::CONT);
        for (number, client) in old.iter_mut().chain(&mut new).enumerate() {
            let response = client.response();
            assert_eq!(response.status, 200, "{number} after {pause:?}");
        }
        // Whose answer came first has been idle for the longest, be it an old one or a new one.
        wait_until(PATIENCE, "half of them to be closed", || {
            let all = old.iter_mut().chain(&mut new);
            let closed = all.map(|client| client.end_within(ms(1)));
            closed.filter(|ended| *ended == Ended::Fin).count() == MOST
        });
    }
}

/// No limit is set, and the process has no descriptor left for one more.
#[test]
fn without_a_descriptor_left_a_new_client_is_served_in_the_place_of_an_idle_one() {
    let backend = Backend::answering(OK);
    for workers in [1, 3] {
        let program = Program::with_few_descriptors(&file(&backend, workers, 0), 64);
        let mut kept: Vec<Client> = Vec::new();
        for number in 0..150 {
            let mut client = program.client();
            let response = ask(&mut client, GET);
            assert_eq!(response.status, 200, "the {number}th: {}", program.log());
            kept.push(client);
        }
        let log = program.log();
        assert!(log.contains("cannot accept"), "they never ran out: {log}");
        let open = kept.iter_mut().rev().map(|client| client.end_within(ms(1)));
        let open: Vec<_> = open.map(|ended| ended == Ended::KeptOpen).collect();
        assert!(open[0], "the newest is there");
        assert!(open.iter().filter(|open| **open).count() > 20, "{open:?}");
    }
}
