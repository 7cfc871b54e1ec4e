//! Plays one conversation against one server and writes down what came, and when.
//!
//! Every time is counted from whatever happened last before it: the last step of the client's own,
//! or the end of the response before. So `after` of a connection's end is the idle time where the
//! client kept still, and near zero where the server closed behind a response.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::time::Instant;

use crate::conversation::Conversation;
use crate::response::{Seen, next_response};
use crate::support::PATIENCE;

/// One thing the client does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes one by one, so long apart.
    Trickle(Vec<u8>, Duration),
    /// Keeps still and reads.
    Pause(Duration),
    /// Keeps still and does not read.
    Deaf(Duration),
    /// Reads so many bytes, and keeps still for so long; all that so many times.
    Sips {
        bytes: usize,
        apart: Duration,
        times: usize,
    },
    /// Reads until one more final response is there. Whether it is the one to HEAD.
    Response { to_head: bool },
    /// Reads until the server has ended the connection.
    End,
    /// Sends FIN.
    HalfClose,
    /// Sends RST; nothing can be seen after it.
    Reset,
    /// Goes on sending after the server's FIN.
    Insist(Vec<u8>),
    /// The server is told to stop gracefully.
    StopServer,
}

/// How the server ended the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With FIN.
    Fin,
    /// With RST.
    Reset,
    /// With FIN, and with RST for what came after it.
    FinThenReset,
    /// Not at all for as long as the prober waited.
    Open,
    /// The client had reset it.
    Ours,
}

/// What came of a conversation.
#[derive(Clone, Debug)]
pub struct Observed {
    pub responses: Vec<Seen>,
    pub end: End,
    /// When the connection's end came, counted from what was last before it.
    pub end_after: Duration,
    /// Whether the client's FIN or RST went before the server's.
    pub client_first: bool,
    /// Who is left with the connection in TIME_WAIT; `None` where the table was not looked at.
    pub time_wait: Option<&'static str>,
}

/// Plays a conversation on a new connection to `server`, which `stop_server` tells to end; `table` is
/// whether the kernel's table is looked at afterwards.
pub fn play(
    server: SocketAddr,
    conversation: &Conversation,
    table: bool,
    stop_server: &dyn Fn(),
) -> Observed {
    let mut prober = Prober::connect(server, conversation);
    for step in &conversation.steps {
        prober.step(step, stop_server);
    }
    prober.step(&Step::End, stop_server);
    prober.parse();
    let client = prober.stream.local_addr().expect("it was connected").port();
    let mut observed = prober.observed();
    observed.time_wait = table.then(|| time_wait(client, server.port()));
    observed
}

/// One connection, and the times of all that happened on it.
struct Prober {
    stream: TcpStream,
    /// The longest it waits for a response or the end.
    bound: Duration,
    buffer: Vec<u8>,
    /// When the buffer had grown to which length.
    arrivals: Vec<(Instant, usize)>,
    /// When the client did something.
    acts: Vec<Instant>,
    responses: Vec<Seen>,
    /// When the last byte of the last response came.
    last_response: Option<Instant>,
    parsed: usize,
    /// Which final responses are to HEAD.
    to_head: Vec<usize>,
    end: Option<(End, Instant)>,
    client_first: bool,
}

impl Prober {
    fn connect(server: SocketAddr, conversation: &Conversation) -> Prober {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)
            .expect("a socket can be had");
        if conversation.narrow {
            socket
                .set_recv_buffer_size(32 << 10)
                .expect("it can be small");
        }
        socket
            .connect_timeout(&server.into(), PATIENCE)
            .unwrap_or_else(|error| panic!("could not connect to {server}: {error}"));
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).expect("it is a TCP socket");
        stream
            .set_write_timeout(Some(PATIENCE))
            .expect("it takes a limit");
        Prober {
            stream,
            bound: conversation.bound,
            buffer: Vec::new(),
            arrivals: Vec::new(),
            acts: vec![Instant::now()],
            responses: Vec::new(),
            last_response: None,
            parsed: 0,
            to_head: Vec::new(),
            end: None,
            client_first: false,
        }
    }

    fn step(&mut self, step: &Step, stop_server: &dyn Fn()) {
        match step {
            Step::Insist(bytes) => {
                let refused = (&self.stream).write_all(bytes).is_err();
                if let (true, Some((End::Fin, _))) = (refused, self.end) {
                    self.end = Some((End::FinThenReset, Instant::now()));
                }
            }
            // The only step that means something on a connection that has ended.
            Step::Pause(pause) if self.end.is_some() => thread::sleep(*pause),
            _ if self.end.is_some() => {}
            Step::Send(bytes) => self.send(bytes),
            Step::Trickle(bytes, apart) => {
                for byte in bytes {
                    self.send(&[*byte]);
                    self.read_for(*apart, |_| false);
                    if self.end.is_some() {
                        return;
                    }
                }
            }
            Step::Pause(pause) => self.read_for(*pause, |_| false),
            Step::Deaf(pause) => {
                thread::sleep(*pause);
                self.acts.push(Instant::now());
            }
            Step::Sips {
                bytes,
                apart,
                times,
            } => {
                for _ in 0..*times {
                    let enough = self.buffer.len() + bytes;
                    self.read_for(self.bound, |prober| prober.buffer.len() >= enough);
                    thread::sleep(*apart);
                    self.acts.push(Instant::now());
                }
            }
            Step::Response { to_head } => {
                let number = self.finals();
                if *to_head {
                    self.to_head.push(number);
                }
                self.read_for(self.bound, |prober| {
                    prober.parse();
                    prober.finals() > number
                });
            }
            Step::End => self.read_for(self.bound, |_| false),
            Step::HalfClose => {
                self.acts.push(Instant::now());
                self.client_first = true;
                // The server may have reset it this very moment.
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Step::Reset => {
                self.client_first = true;
                self.end = Some((End::Ours, Instant::now()));
            }
            Step::StopServer => {
                self.acts.push(Instant::now());
                stop_server();
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.acts.push(Instant::now());
        if let Err(error) = (&self.stream).write_all(bytes)
            && !is_end(&error)
        {
            panic!("the server does not take what the client sends: {error}");
        }
    }

    /// Responses but for the interim ones.
    fn finals(&self) -> usize {
        let is_final = |seen: &&Seen| !seen.is_interim();
        self.responses.iter().filter(is_final).count()
    }

    /// Reads for so long, or until `enough`, or until the connection ends.
    fn read_for(&mut self, time: Duration, mut enough: impl FnMut(&mut Prober) -> bool) {
        let until = Instant::now() + time;
        let mut piece = vec![0; 1 << 16];
        while self.end.is_none() && !enough(self) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let left = left.max(Duration::from_millis(1));
            self.stream
                .set_read_timeout(Some(left))
                .expect("it takes a limit");
            let result = (&self.stream).read(&mut piece);
            let now = Instant::now();
            match result {
                Ok(0) => self.end = Some((End::Fin, now)),
                Ok(count) => {
                    self.buffer.extend_from_slice(&piece[..count]);
                    self.arrivals.push((now, self.buffer.len()));
                }
                Err(error) if is_end(&error) => self.end = Some((End::Reset, now)),
                Err(error) if is_silence(&error) => {}
                Err(error) => panic!("reading from a loopback stream failed: {error}"),
            }
        }
    }

    /// Takes all responses out of what has come.
    fn parse(&mut self) {
        let ended = self.end.is_some();
        loop {
            let to_head = self.to_head.contains(&self.finals());
            let rest = &self.buffer[self.parsed..];
            let Some((mut seen, length)) = next_response(rest, to_head, ended) else {
                return;
            };
            self.parsed += length;
            let parsed = self.parsed;
            let arrival = self.arrivals.iter().find(|(_, length)| *length >= parsed);
            let at = arrival.expect("it has come").0;
            seen.after = self.since_the_last(at);
            self.last_response = Some(at);
            self.responses.push(seen);
        }
    }

    /// From what happened last before `at` until then.
    fn since_the_last(&self, at: Instant) -> Duration {
        let before = self.acts.iter().chain(&self.last_response);
        let last = before.filter(|act| **act <= at).max();
        last.map_or(Duration::ZERO, |last| at - *last)
    }

    fn observed(self) -> Observed {
        let (end, at) = self.end.unwrap_or((End::Open, Instant::now()));
        let end_after = self.since_the_last(at);
        if end == End::Ours {
            SockRef::from(&self.stream)
                .set_linger(Some(Duration::ZERO))
                .expect("it is a TCP socket");
        }
        Observed {
            responses: self.responses,
            end,
            end_after,
            client_first: self.client_first,
            time_wait: None,
        }
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    matches!(error.kind(), ConnectionReset | BrokenPipe)
}

fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// Who has the connection between these ports in TIME_WAIT, once nobody has it open.
///
/// Shape: `/proc/net/tcp` has a line per socket: number, local and remote address as `IP:PORT` in
/// hexadecimal digits, state (6 is TIME_WAIT).
fn time_wait(client: u16, server: u16) -> &'static str {
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        let table = fs::read_to_string("/proc/net/tcp").expect("Linux has the table");
        let states = |local: u16, remote: u16| {
            let mut states = Vec::new();
            for line in table.lines().skip(1) {
                let mut words = line.split_whitespace().skip(1);
                let mut port = || {
                    let digits = words.next()?.rsplit_once(':')?.1;
                    u16::from_str_radix(digits, 16).ok()
                };
                if port() == Some(local) && port() == Some(remote) {
                    states.push(words.next().unwrap_or_default().to_owned());
                }
            }
            states
        };
        let (ours, theirs) = (states(client, server), states(server, client));
        let at_rest = ours.iter().chain(&theirs).all(|state| state == "06");
        if at_rest || Instant::now() > until {
            return match (at_rest, ours.is_empty(), theirs.is_empty()) {
                (false, ..) => "open still",
                (_, true, true) => "nobody",
                (_, false, true) => "client",
                (_, true, false) => "server",
                (_, false, false) => "both",
            };
        }
        thread::sleep(Duration::from_millis(5));
    }
}
