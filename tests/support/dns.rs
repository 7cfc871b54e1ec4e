//! A name server of our own: says what the test wants it to say, or nothing. What is too long for
//! UDP goes over TCP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::time::Instant;

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

/// The longest answer over UDP: what name servers have agreed on since 2020.
const LONGEST: usize = 1232;

/// One record.
#[derive(Clone, Debug)]
pub enum Record {
    /// A or AAAA.
    Address(IpAddr),
    /// SRV.
    Service {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
}

impl Record {
    /// An A record of 127.0.0.`last`.
    pub fn local(last: u8) -> Record {
        Record::Address(Ipv4Addr::new(127, 0, 0, last).into())
    }

    fn kind(&self) -> u16 {
        match self {
            Record::Address(IpAddr::V4(_)) => A,
            Record::Address(IpAddr::V6(_)) => AAAA,
            Record::Service { .. } => SRV,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Record::Address(IpAddr::V4(ip)) => ip.octets().to_vec(),
            Record::Address(IpAddr::V6(ip)) => ip.octets().to_vec(),
            Record::Service {
                priority,
                weight,
                port,
                target,
            } => {
                let mut data: Vec<_> = [priority, weight, port]
                    .into_iter()
                    .flat_map(|number| number.to_be_bytes())
                    .collect();
                for label in target.split('.').filter(|label| !label.is_empty()) {
                    data.push(u8::try_from(label.len()).unwrap());
                    data.extend(label.as_bytes());
                }
                data.push(0);
                data
            }
        }
    }
}

/// What is said of one name.
#[derive(Clone, Debug)]
enum Says {
    Records(u32, Vec<Record>),
    /// SERVFAIL to questions after AAAA, the rest as it is.
    OnlyIpv4(u32, Vec<Record>),
}

/// A question that was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The name, without the last dot.
    pub name: String,
    /// 1 is A, 28 is AAAA, 33 is SRV.
    pub kind: u16,
    /// When.
    pub at: Instant,
}

/// A name server; gone when dropped. Names that it knows nothing of do not exist.
pub struct Dns {
    /// Where it listens.
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    zone: Mutex<HashMap<String, Says>>,
    asked: Mutex<Vec<Asked>>,
    silent: AtomicBool,
    over_tcp: AtomicUsize,
    stopping: AtomicBool,
}

/// A port of both kinds.
fn sockets(addr: SocketAddr) -> Option<(UdpSocket, TcpListener)> {
    let socket = UdpSocket::bind(addr).ok()?;
    let listener = TcpListener::bind(addr).ok()?;
    Some((socket, listener))
}

impl Dns {
    /// On a port of its own, below those that the kernel gives to whoever connects: a test may want
    /// to have it once more.
    pub fn start() -> Dns {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let from = u16::try_from(std::process::id() % 10_000).expect("it is below 10,000");
        let (socket, listener) = (0..10_000)
            .find_map(|_| {
                let next = NEXT.fetch_add(1, Ordering::SeqCst);
                sockets(super::local(10_000 + (from + next) % 20_000))
            })
            .expect("a port of both kinds can be had");
        Dns::over(socket, listener)
    }

    /// On this port.
    pub fn on(addr: SocketAddr) -> Dns {
        let mut both = None;
        super::wait_until(super::PATIENCE, "the port to be had again", || {
            both = sockets(addr);
            both.is_some()
        });
        let (socket, listener) = both.expect("it was just had");
        Dns::over(socket, listener)
    }

    fn over(socket: UdpSocket, listener: TcpListener) -> Dns {
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let addr = socket.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let mut question = [0; 2048];
                while !shared.stopping.load(Ordering::SeqCst) {
                    if let Ok((length, from)) = socket.recv_from(&mut question)
                        && let Some(mut answer) = shared.answer(&question[..length])
                    {
                        if answer.len() > LONGEST {
                            // Truncated, and nothing but the question.
                            let name = answer[12..].iter().position(|byte| *byte == 0);
                            answer.truncate(12 + name.unwrap() + 5);
                            answer[2] |= 2;
                            answer[6..8].fill(0);
                        }
                        let _ = socket.send_to(&answer, from);
                    }
                    if let Ok((stream, _)) = listener.accept() {
                        let _ = shared.serve(stream);
                    }
                }
            }
        });
        Dns {
            addr,
            shared,
            thread: Some(thread),
        }
    }

    /// From now on `name` has these records, good for `ttl` seconds.
    pub fn set(&self, name: &str, ttl: u32, records: impl IntoIterator<Item = Record>) {
        self.says(name, Says::Records(ttl, records.into_iter().collect()));
    }

    /// The same, and no answer to who asks for IPv6.
    pub fn set_only_ipv4(&self, name: &str, ttl: u32, records: impl IntoIterator<Item = Record>) {
        self.says(name, Says::OnlyIpv4(ttl, records.into_iter().collect()));
    }

    /// `name` does not exist any more.
    pub fn remove(&self, name: &str) {
        self.shared.zone.lock().unwrap().remove(name);
    }

    /// Whether it says nothing to whatever it is asked.
    pub fn be_silent(&self, silent: bool) {
        self.shared.silent.store(silent, Ordering::SeqCst);
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// How many answers went over TCP.
    pub fn over_tcp(&self) -> usize {
        self.shared.over_tcp.load(Ordering::SeqCst)
    }

    /// When it was asked for A records of `name`.
    pub fn asked_for(&self, name: &str) -> Vec<Instant> {
        let asked = self.asked().into_iter();
        let asked = asked.filter(|asked| asked.kind == A && asked.name == name);
        asked.map(|asked| asked.at).collect()
    }

    /// Waits until it is asked for A records of `name` once more, `times` times from now.
    pub fn wait_asked(&self, name: &str, times: usize) {
        let before = self.asked_for(name).len();
        super::wait_until(super::PATIENCE, "a name to be looked up", || {
            self.asked_for(name).len() >= before + times
        });
    }

    fn says(&self, name: &str, says: Says) {
        self.shared
            .zone
            .lock()
            .unwrap()
            .insert(name.to_owned(), says);
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Answers the questions of one connection: each with its length before it.
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question)?;
            if let Some(answer) = self.answer(&question) {
                self.over_tcp.fetch_add(1, Ordering::SeqCst);
                let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                stream.write_all(&[&length[..], &answer].concat())?;
            }
        }
    }

    /// The answer to a question with one name: RFC 1035 §4.
    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let mut labels = Vec::new();
        let mut at = 12;
        loop {
            let length = usize::from(*question.get(at)?);
            let label = question.get(at + 1..at + 1 + length)?;
            at += 1 + length;
            if length == 0 {
                break;
            }
            labels.push(String::from_utf8_lossy(label).to_lowercase());
        }
        let name = labels.join(".");
        let kind = u16::from_be_bytes(question.get(at..at + 2)?.try_into().ok()?);
        let asked = question.get(12..at + 4)?;
        self.asked.lock().unwrap().push(Asked {
            name: name.clone(),
            kind,
            at: Instant::now(),
        });
        if self.silent.load(Ordering::SeqCst) {
            return None;
        }
        let (code, ttl, records) = match self.zone.lock().unwrap().get(&name) {
            None => (3, 0, Vec::new()),
            Some(Says::OnlyIpv4(..)) if kind == AAAA => (2, 0, Vec::new()),
            Some(Says::Records(ttl, records) | Says::OnlyIpv4(ttl, records)) => {
                (0, *ttl, records.clone())
            }
        };
        let records: Vec<_> = records
            .into_iter()
            .filter(|record| record.kind() == kind)
            .collect();
        let mut answer = question[..2].to_vec();
        // A response, recursion desired and available.
        answer.extend([0x81, 0x80 | code]);
        answer.extend([0, 1]);
        answer.extend(u16::try_from(records.len()).unwrap().to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(asked);
        for record in records {
            let data = record.data();
            // The name of the question, class IN.
            answer.extend([0xc0, 12]);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1]);
            answer.extend(ttl.to_be_bytes());
            answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}
