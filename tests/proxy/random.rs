//! Any requests, in any order, on any connections: each comes back byte for byte.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::support::client::{Client, Ended};
use crate::support::proxy::TestProxy;
use crate::support::scripted::Backend;

#[derive(Clone, Debug)]
struct Case {
    method: &'static str,
    body: Body,
    seed: u8,
    answer: Answer,
    /// The client asks for the end of its connection.
    close: bool,
    /// Sent together with the request before.
    pipelined: bool,
}

#[derive(Clone, Debug)]
enum Body {
    None,
    Length(usize),
    Chunked(Vec<usize>),
}

/// How the backend frames what it sends back.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Length,
    Chunked,
    UntilClose,
    LengthAndClose,
}

fn case() -> impl Strategy<Value = Case> {
    let size = || prop_oneof![4 => 0..2000usize, 1 => 60_000..200_000usize];
    let body = prop_oneof![
        2 => Just(Body::None),
        3 => size().prop_map(Body::Length),
        2 => vec(1..9000usize, 0..8).prop_map(Body::Chunked),
    ];
    let answer = prop_oneof![
        4 => Just(Answer::Length),
        4 => Just(Answer::Chunked),
        1 => Just(Answer::UntilClose),
        1 => Just(Answer::LengthAndClose),
    ];
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"]);
    (
        method,
        body,
        any::<u8>(),
        answer,
        prop::bool::weighted(0.15),
        prop::bool::weighted(0.4),
    )
        .prop_map(|(method, body, seed, answer, close, pipelined)| Case {
            method,
            body,
            seed,
            answer,
            close,
            pipelined,
        })
}

/// Bytes that are different in each place and for each seed.
fn bytes(seed: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| (n as u64 * 31 + (n as u64 >> 8) * 17 + u64::from(seed)).to_le_bytes()[0])
        .collect()
}

impl Case {
    fn content(&self) -> Vec<u8> {
        let length = match &self.body {
            Body::None => 0,
            Body::Length(length) => *length,
            Body::Chunked(chunks) => chunks.iter().sum(),
        };
        bytes(self.seed, length)
    }

    fn wire(&self, number: usize) -> Vec<u8> {
        let mut head = format!(
            "{} /{number} HTTP/1.1\r\nHost: a\r\nX-Answer: {:?}\r\n",
            self.method, self.answer
        );
        if self.close {
            head += "Connection: close\r\n";
        }
        let content = self.content();
        match &self.body {
            Body::None => (head + "\r\n").into_bytes(),
            Body::Length(length) => {
                let mut wire = format!("{head}Content-Length: {length}\r\n\r\n").into_bytes();
                wire.extend(content);
                wire
            }
            Body::Chunked(chunks) => {
                let mut wire = format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
                let mut rest = content.as_slice();
                for &size in chunks {
                    let (chunk, after) = rest.split_at(size);
                    wire.extend(format!("{size:x}\r\n").bytes());
                    wire.extend(chunk);
                    wire.extend(b"\r\n");
                    rest = after;
                }
                wire.extend(b"0\r\n\r\n");
                wire
            }
        }
    }
}

/// A backend that sends back what it got, framed as it is asked to.
fn echo() -> Backend {
    Backend::start(|mut conn| {
        while let Some(request) = conn.request() {
            if !request.complete {
                return;
            }
            let target = request.line().split(' ').nth(1).unwrap().to_owned();
            let head = format!("HTTP/1.1 200 OK\r\nX-Target: {target}\r\n");
            let body = if request.line().starts_with("HEAD") {
                &[]
            } else {
                request.body.as_slice()
            };
            let length = request.body.len();
            let kind = request.header("X-Answer").unwrap();
            match kind {
                "Chunked" => {
                    conn.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                    if !request.line().starts_with("HEAD") {
                        for chunk in body.chunks(7001) {
                            conn.send(format!("{:x}\r\n", chunk.len()));
                            conn.send(chunk);
                            conn.send("\r\n");
                        }
                        conn.send("0\r\n\r\n");
                    }
                }
                "UntilClose" => {
                    // Where nothing shows the end of the body, it is the end of the connection;
                    // where there is no body that has to be said.
                    if request.line().starts_with("HEAD") {
                        conn.send(format!("{head}Connection: close\r\n\r\n"));
                    } else {
                        conn.send(format!("{head}\r\n"));
                    }
                    conn.send(body);
                    return conn.fin();
                }
                "LengthAndClose" => {
                    conn.send(format!(
                        "{head}Connection: close\r\nContent-Length: {length}\r\n\r\n"
                    ));
                    conn.send(body);
                    return conn.fin();
                }
                _ => {
                    conn.send(format!("{head}Content-Length: {length}\r\n\r\n"));
                    conn.send(body);
                }
            }
        }
    })
}

fn run(cases: &[Case], short: bool) {
    let backend = echo();
    let proxy = TestProxy::to(backend.addr);
    let proxy = if short { proxy.short() } else { proxy }.start();
    let mut client = Client::connect(proxy.addr());
    let mut next = 0;
    while next < cases.len() {
        // A request that asks for the end is the last of what is sent together.
        let mut end = next + 1;
        while end < cases.len() && cases[end].pipelined && !cases[end - 1].close {
            end += 1;
        }
        let together: Vec<u8> = (next..end).flat_map(|n| cases[n].wire(n)).collect();
        // Answers are read meanwhile: neither side need hold all of them.
        let mut sender = client.stream();
        let sending = std::thread::spawn(move || {
            std::io::Write::write_all(&mut sender, &together).unwrap();
        });
        for (number, case) in cases.iter().enumerate().take(end).skip(next) {
            let head = case.method == "HEAD";
            let response = if head {
                client.response_to_head()
            } else {
                client.response()
            };
            let target = format!("/{number}");
            assert_eq!(
                response.header("X-Target"),
                Some(target.as_str()),
                "{}{}: {case:?}",
                response.head,
                response.text()
            );
            assert!(response.complete, "{case:?}");
            if !head {
                assert!(
                    response.body == case.content(),
                    "body of {number}: {case:?}"
                );
            }
            if case.close {
                assert_eq!(response.header("Connection"), Some("close"));
                assert_eq!(response.ended, Ended::Fin);
            } else {
                assert_eq!(response.ended, Ended::KeptOpen, "{}", response.head);
            }
        }
        sending.join().unwrap();
        if cases[end - 1].close {
            client = Client::connect(proxy.addr());
        }
        next = end;
    }
    assert_eq!(backend.requests().len(), cases.len());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_sent_comes_back_byte_for_byte_and_in_order(
        cases in vec(case(), 1..40),
        short in prop::bool::weighted(0.25),
    ) {
        run(&cases, short);
    }
}
