//! What is said in a conversation, and what is to come of it.

use std::fmt;
use std::time::Duration;

use crate::prober::{End, Observed, Step};
use crate::response::Seen;
use crate::servers::Group;

/// How much earlier than expected something may be seen: the client starts its clock when it has
/// the last byte, and the server may have started its own before.
const EARLY: Duration = Duration::from_millis(150);

/// How much later: httpd looks at idle connections every tenth of a second, and machines are busy.
const LATE: Duration = Duration::from_millis(700);

/// One scripted conversation.
#[derive(Clone, Debug)]
pub struct Conversation {
    pub name: String,
    pub group: Group,
    pub steps: Vec<Step>,
    /// What httpd does, in short: see [`Outcome`].
    pub httpd: String,
    /// The deviation by its name in docs/apache.md, and what Warmline does in short.
    pub differs: Option<(&'static str, String)>,
    /// The longest the prober waits for the end.
    pub bound: Duration,
    /// Whether the client's receive buffer is a small one.
    pub narrow: bool,
}

/// Begins a conversation with servers of `group`.
pub fn talk(group: Group, name: impl Into<String>) -> Conversation {
    Conversation {
        name: name.into(),
        group,
        steps: Vec::new(),
        httpd: String::new(),
        differs: None,
        bound: Duration::from_millis(3500),
        narrow: false,
    }
}

impl Conversation {
    fn step(mut self, step: Step) -> Conversation {
        self.steps.push(step);
        self
    }

    pub fn send(self, bytes: impl AsRef<[u8]>) -> Conversation {
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    pub fn trickle(self, bytes: impl AsRef<[u8]>, apart_ms: u64) -> Conversation {
        let apart = Duration::from_millis(apart_ms);
        self.step(Step::Trickle(bytes.as_ref().to_vec(), apart))
    }

    pub fn pause(self, ms: u64) -> Conversation {
        self.step(Step::Pause(Duration::from_millis(ms)))
    }

    pub fn deaf(self, ms: u64) -> Conversation {
        self.step(Step::Deaf(Duration::from_millis(ms)))
    }

    pub fn sips(self, bytes: usize, apart_ms: u64, times: usize) -> Conversation {
        let apart = Duration::from_millis(apart_ms);
        self.step(Step::Sips {
            bytes,
            apart,
            times,
        })
    }

    pub fn response(self) -> Conversation {
        self.step(Step::Response { to_head: false })
    }

    pub fn response_to_head(self) -> Conversation {
        self.step(Step::Response { to_head: true })
    }

    /// Sends these bytes and reads a response.
    pub fn ask(self, bytes: impl AsRef<[u8]>) -> Conversation {
        self.send(bytes).response()
    }

    pub fn end(self) -> Conversation {
        self.step(Step::End)
    }

    pub fn half_close(self) -> Conversation {
        self.step(Step::HalfClose)
    }

    pub fn reset(self) -> Conversation {
        self.step(Step::Reset)
    }

    pub fn insist(self, bytes: impl AsRef<[u8]>) -> Conversation {
        self.step(Step::Insist(bytes.as_ref().to_vec()))
    }

    pub fn stop_server(self) -> Conversation {
        self.step(Step::StopServer)
    }

    pub fn narrow(mut self) -> Conversation {
        self.narrow = true;
        self
    }

    /// Waits this long for the end, instead of longer than any timeout here.
    pub fn bound(mut self, ms: u64) -> Conversation {
        self.bound = Duration::from_millis(ms);
        self
    }

    /// What both do.
    pub fn gives(mut self, outcome: impl Into<String>) -> Conversation {
        self.httpd = outcome.into();
        self
    }

    /// What Warmline does instead, on purpose.
    pub fn differs(mut self, deviation: &'static str, outcome: impl Into<String>) -> Conversation {
        self.differs = Some((deviation, outcome.into()));
        self
    }
}

/// What came of a conversation, in short: a word for each response and one for the end.
///
/// A response is its status, `0` for bytes without a status line; then `c` if it says
/// `Connection: close`, `!` if it broke off. The end is `fin`, `rst`, `fin-rst`, `open` or `ours`.
/// Behind an `@` is how many milliseconds it came after what was last before it; without one that
/// is at once.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome(Vec<(String, Duration)>);

impl Outcome {
    /// Reads what the table says.
    pub fn read(text: &str) -> Outcome {
        let words = text.split_whitespace().map(|word| {
            let (what, ms) = word.split_once('@').unwrap_or((word, "0"));
            let ms = ms.parse().expect("a time in the table is a number");
            (what.to_owned(), Duration::from_millis(ms))
        });
        Outcome(words.collect())
    }

    /// Puts what was observed in short.
    pub fn of(observed: &Observed) -> Outcome {
        let mut words: Vec<_> = observed.responses.iter().map(word).collect();
        let end = match observed.end {
            End::Fin => "fin",
            End::Reset => "rst",
            End::FinThenReset => "fin-rst",
            End::Open => "open",
            End::Ours => "ours",
        };
        words.push((end.to_owned(), observed.end_after));
        Outcome(words)
    }

    /// Whether the same came, whenever it did.
    pub fn is_like(&self, other: &Outcome) -> bool {
        let whats = |outcome: &Outcome| -> Vec<String> {
            outcome.0.iter().map(|(what, _)| what.clone()).collect()
        };
        whats(self) == whats(other)
    }

    /// Whether each came when `expected` has it.
    pub fn is_in_time(&self, expected: &Outcome) -> bool {
        let mut pairs = self.0.iter().zip(&expected.0);
        pairs.all(|((what, took), (_, due))| {
            // How long the prober waited for nothing says nothing; nor does its own reset.
            let waits = ["open", "ours", "fin-rst"].contains(&what.as_str());
            waits || (*took + EARLY >= *due && *took <= *due + LATE)
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.0.iter().map(|(what, at)| match at.as_millis() {
            0..100 => what.clone(),
            ms => format!("{what}@{ms}"),
        });
        write!(f, "`{}`", words.collect::<Vec<_>>().join(" "))
    }
}

fn word(seen: &Seen) -> (String, Duration) {
    let close = if seen.says_close() { "c" } else { "" };
    let broken = if seen.complete { "" } else { "!" };
    (format!("{}{close}{broken}", seen.status), seen.after)
}

/// `GET` of this path as HTTP/1.1, with these header lines beside `Host`, each with its CR LF.
pub fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test.example\r\n{lines}\r\n")
}

/// `GET` of this path as HTTP/1.0.
pub fn get10(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.0\r\nHost: test.example\r\n{lines}\r\n")
}

/// `POST` to this path, with this body and these header lines.
pub fn post(path: &str, lines: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test.example\r\n{lines}\r\n{body}")
}

/// The header line by which a client asks to be kept.
pub const KEEP: &str = "Connection: keep-alive\r\n";

/// The header line by which a client asks for the end.
pub const CLOSE: &str = "Connection: close\r\n";
