//! `RequestReadTimeout header=1-2,MinRate=500 body=1,MinRate=500`: how long a whole head and a whole
//! body may take.

use crate::conversation::{Conversation, get, post, talk};
use crate::servers::Group::ReadTimeout;

/// The start of a head, `length` bytes of it, with a whole request line.
fn head_of(length: usize) -> String {
    let mut head = "GET / HTTP/1.1\r\nHost: test.example\r\nX-Long: ".to_owned();
    while head.len() < length {
        head.push('x');
    }
    head
}

/// The same, of many short lines.
fn lines_of(length: usize) -> String {
    let mut head = "GET / HTTP/1.1\r\nHost: test.example\r\n".to_owned();
    while head.len() < length {
        head.push_str("X: 34567890123456789012345678901234567890\r\n");
    }
    head
}

pub fn all() -> Vec<Conversation> {
    [heads(), bodies()].concat()
}

fn heads() -> Vec<Conversation> {
    vec![
        talk(ReadTimeout, "read timeout: nothing is sent").gives("fin@1000"),
        talk(ReadTimeout, "read timeout: half a request line")
            .send("GET / HT")
            .gives("fin@1000"),
        talk(ReadTimeout, "read timeout: a request line")
            .send("GET / HTTP/1.1\r\n")
            .gives("408c@1000 fin"),
        talk(ReadTimeout, "read timeout: half a head")
            .send(head_of(60))
            .gives("408c@1100 fin"),
        talk(
            ReadTimeout,
            "read timeout: bytes of a line without its end do not count",
        )
        .send(head_of(1000))
        .gives("408c@1070 fin"),
        talk(
            ReadTimeout,
            "read timeout: 250 bytes of lines are half a second more",
        )
        .send(lines_of(250))
        .gives("408c@1500 fin"),
        talk(
            ReadTimeout,
            "read timeout: no more than 2 s for any number of lines",
        )
        .send(lines_of(3000))
        .gives("408c@2000 fin"),
        talk(ReadTimeout, "read timeout: a line that comes in two pieces")
            .send(head_of(250))
            .pause(300)
            .send("\r\n")
            .gives("408c@1200 fin"),
        talk(ReadTimeout, "read timeout: a head byte by byte is cut")
            .send(head_of(60))
            .trickle("123456", 250)
            .gives("408c fin"),
        talk(
            ReadTimeout,
            "read timeout: a request line byte by byte is cut",
        )
        .trickle("GET / HTTP", 200)
        .gives("fin"),
        talk(ReadTimeout, "read timeout: idle time is not counted")
            .ask(get("/", ""))
            .pause(1600)
            .ask(get("/", ""))
            .gives("200 200 fin@2500"),
        talk(
            ReadTimeout,
            "read timeout: the clock begins with the second request's first byte",
        )
        .ask(get("/", ""))
        .pause(900)
        .send("GET / HTTP/1.1\r\n")
        .gives("200 408c@1000 fin"),
        talk(
            ReadTimeout,
            "read timeout: half a line on a kept connection",
        )
        .ask(get("/", ""))
        .pause(300)
        .send("GET /")
        .gives("200 fin@1000"),
        talk(
            ReadTimeout,
            "read timeout: an empty line on a kept connection",
        )
        .ask(get("/", ""))
        .pause(300)
        .send("\r\n")
        .gives("200 fin@1000"),
        talk(
            ReadTimeout,
            "read timeout: the backend's time is not counted",
        )
        .ask(get("/late/900", ""))
        .ask(get("/late/900", ""))
        .gives("200@900 200@900 fin@2500"),
        talk(
            ReadTimeout,
            "read timeout: the client lingers for 2 s at most",
        )
        .send("GET / HT")
        .end()
        .pause(2500)
        .insist("x")
        .pause(200)
        .insist("x")
        .gives("fin-rst"),
    ]
}

fn bodies() -> Vec<Conversation> {
    let bytes = |count| "x".repeat(count);
    vec![
        talk(ReadTimeout, "read timeout: no byte of a body")
            .send(post("/", "Content-Length: 10\r\n", ""))
            .gives("408c@1000 fin"),
        talk(ReadTimeout, "read timeout: a body that stalls")
            .send(post("/", "Content-Length: 10\r\n", "12"))
            .gives("408c@1000 fin"),
        talk(
            ReadTimeout,
            "read timeout: 500 bytes of a body are a second more",
        )
        .send(post("/", "Content-Length: 1000\r\n", &bytes(500)))
        .gives("408c@2000 fin"),
        talk(ReadTimeout, "read timeout: a body has no most")
            .send(post("/", "Content-Length: 2000\r\n", &bytes(1000)))
            .gives("408c@3000 fin")
            .bound(5000),
        talk(ReadTimeout, "read timeout: a body byte by byte is cut")
            .send(post("/", "Content-Length: 10\r\n", ""))
            .trickle("123456", 250)
            .gives("408c fin"),
        talk(ReadTimeout, "read timeout: a chunked body that stalls")
            .send(post("/", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n"))
            .gives("408c@1000 fin"),
        talk(
            ReadTimeout,
            "read timeout: a large body that stalls has Timeout",
        )
        .send(post("/", "Content-Length: 40000\r\n", &bytes(20_000)))
        .gives("408c@4000 fin")
        .bound(6000),
        talk(
            ReadTimeout,
            "read timeout: a head and a body have a clock each",
        )
        .send("POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: 2\r\n")
        .pause(700)
        .send("\r\n")
        .pause(700)
        .ask("ok")
        .gives("200 fin@2500"),
    ]
}
