//! A connection that ended before the first byte of its next request was written: whatever the method,
//! nothing was sent. As an end of file, as `ECONNRESET` and as `EPIPE`.
//!
//! The proxy's event loop sees an end within microseconds, so here it is kept from looking: the exchange
//! begins on its thread only once the kernel has the end.

use std::cell::Cell;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use warmline::account::{PoolFigures, PoolTally};
use warmline::alarm::Alarms;
use warmline::backend::{ServerSettings, Settings};
use warmline::client::{self, Conn};
use warmline::net::{BackendAddr, ClientAddr, Stream};
use warmline::pool::Common;
use warmline::proxy::{Ears, Layout, Proxy, Target, UpstreamPlan, Way};
use warmline::route::Router;

use crate::support::client::{Client, RawResponse};
use crate::support::scripted::{self, Backend};
use crate::support::{PATIENCE, local, wait_until};
use crate::{OK, answer, get, post};

/// How the backend ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Reading gives an end of file; writing is still possible.
    Fin,
    /// Reading and writing give `ECONNRESET`.
    Rst,
    /// Writing gives `EPIPE`.
    FinRst,
}

/// A backend that answers the first request of its first connection, ends that connection when it is
/// told to, and serves on all others.
struct Ending {
    backend: Backend,
    now: Sender<()>,
    done: Receiver<()>,
}

fn ending(end: End) -> Ending {
    let ((now, told), (did, done)) = (channel(), channel());
    let (told, did) = (Mutex::new(told), Mutex::new(did));
    let backend = Backend::start(move |mut conn: scripted::Conn| {
        if conn.number > 1 {
            return conn.serve(|request| answer(&request.body));
        }
        conn.request();
        conn.send(OK);
        if told.lock().unwrap().recv().is_err() {
            return;
        }
        if end != End::Rst {
            conn.half_close();
        }
        if end == End::Fin {
            did.lock().unwrap().send(()).unwrap();
            conn.wait_for_end();
        } else {
            conn.reset();
            did.lock().unwrap().send(()).unwrap();
        }
    });
    Ending { backend, now, done }
}

/// Whether the kernel has an established connection to this address.
fn is_established_to(address: SocketAddr) -> bool {
    let port = format!(":{:04X}", address.port());
    let sockets = fs::read_to_string("/proc/net/tcp").expect("Linux says what sockets there are");
    sockets.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(2);
        let remote = words.next().expect("a line has addresses");
        remote.ends_with(&port) && words.next() == Some("01")
    })
}

/// One worker's proxy on this thread: `client` on a connection to it, whose second request begins when
/// the backend's first connection has ended for the kernel, and for nobody else.
fn run(
    ending: &Ending,
    change: impl FnOnce(&mut Settings),
    client: impl FnOnce(Client) -> RawResponse + Send + 'static,
) -> (RawResponse, PoolFigures) {
    let address = ending.backend.addr;
    let mut settings = Settings::new("test", vec![ServerSettings::new(address.to_string())]);
    change(&mut settings);
    let tally = Arc::new(PoolTally::default());
    let common = Arc::new(Common::new(settings.pool.clone(), vec![Arc::clone(&tally)]));
    let target = Target {
        backend: BackendAddr::Ip(address),
        weight: 1,
        host: "test".into(),
        tls: None,
    };
    let listener = TcpListener::bind(local(0)).unwrap();
    let proxy_address = listener.local_addr().unwrap();
    let asking = thread::spawn(move || client(Client::connect(proxy_address)));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        let alarms = Alarms::default();
        let ringing = tokio::task::spawn_local(alarms.clone().run());
        let plan = UpstreamPlan {
            settings,
            servers: vec![(target, common)],
            split: None,
        };
        let layout = Layout {
            router: Arc::new(Router::new([(None, "/", Way::to(0))])),
            upstreams: vec![Arc::new(plan)],
        };
        let proxy = Rc::new(Proxy::new(&layout, 0, Ears::default()));
        let (stream, peer) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let (stream, socket) = Stream::new(tokio::net::TcpStream::from_std(stream).unwrap());
        let conn = Rc::new(Conn::new(ClientAddr(peer), socket, Rc::default(), &alarms));
        let (number, exchanged) = (Cell::new(0), Rc::clone(&conn));
        let exchange = move |_: &Rc<Conn>, request| {
            number.set(number.get() + 1);
            if number.get() == 2 {
                ending.now.send(()).unwrap();
                ending.done.recv_timeout(PATIENCE).unwrap();
                wait_until(PATIENCE, "the end to be there", || {
                    !is_established_to(address)
                });
            }
            Rc::clone(&proxy).exchange(Rc::clone(&exchanged), request)
        };
        client::serve(stream, conn, exchange, |_| {}).await;
        ringing.abort();
    });
    let response = asking.join().unwrap();
    let mut figures = PoolFigures::default();
    tally.add_to(&mut figures);
    (response, figures)
}

/// Sends a GET and then this.
fn second(request: String) -> impl FnOnce(Client) -> RawResponse + Send + 'static {
    move |mut client| {
        client.send(get("/"));
        assert_eq!(client.response().status, 200);
        client.send(request);
        client.response()
    }
}

#[test]
fn a_post_is_sent_again_whose_connection_had_been_reset() {
    for end in [End::Rst, End::FinRst] {
        let ending = ending(end);
        let (response, figures) = run(
            &ending,
            |it| it.probe_idle = None,
            second(post("/", "body")),
        );
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "body"),
            "{end:?}"
        );
        assert_eq!(
            (figures.sent_again, figures.races_lost),
            ([1, 0, 0], 0),
            "{end:?}"
        );
        // The reset connection had read but the first.
        let seen = ending.backend.requests();
        let seen: Vec<_> = seen.iter().map(|it| (it.connection, it.line())).collect();
        assert_eq!(
            seen,
            [(1, "GET / HTTP/1.1"), (2, "POST / HTTP/1.1")],
            "{end:?}"
        );
    }
}

#[test]
fn a_post_is_sent_again_whose_body_had_not_come_yet() {
    for end in [End::Rst, End::FinRst] {
        let ending = ending(end);
        let send = |mut client: Client| {
            client.send(get("/"));
            assert_eq!(client.response().status, 200);
            client.send(
                "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
            );
            // It is asked for where it can be taken.
            assert_eq!(client.response().status, 100);
            client.send("body");
            client.response()
        };
        let (response, figures) = run(&ending, |it| it.probe_idle = None, send);
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "body"),
            "{end:?}"
        );
        assert_eq!(figures.sent_again, [1, 0, 0], "{end:?}");
    }
}

#[test]
fn a_connection_that_has_ended_is_not_used_if_it_is_asked() {
    for end in [End::Fin, End::Rst, End::FinRst] {
        let ending = ending(end);
        let ask = |it: &mut Settings| it.probe_idle = Some(Duration::ZERO);
        let (response, figures) = run(&ending, ask, second(post("/", "body")));
        assert_eq!(
            (response.status, response.text().as_str()),
            (200, "body"),
            "{end:?}"
        );
        assert_eq!(
            (figures.sent_again, figures.races_lost),
            ([0, 0, 0], 0),
            "{end:?}"
        );
        assert_eq!(figures.requests, 2, "{end:?}");
    }
}

#[test]
fn what_was_written_behind_a_fin_that_nobody_saw_is_sent_again_only_if_it_may_be_done_twice() {
    for (request, status, again, lost) in [
        (get("/x"), 200, [0, 1, 0], 0),
        (post("/", "x"), 502, [0, 0, 0], 1),
    ] {
        let ending = ending(End::Fin);
        let (response, figures) = run(&ending, |it| it.probe_idle = None, second(request));
        assert_eq!(response.status, status);
        assert_eq!((figures.sent_again, figures.races_lost), (again, lost));
    }
}
