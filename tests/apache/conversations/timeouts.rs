//! `Timeout`: how long one read or write may make no progress.

use crate::conversation::{CLOSE, Conversation, get, post, talk};
use crate::servers::Group::Usual;

pub fn all() -> Vec<Conversation> {
    [heads(), bodies()].concat()
}

fn heads() -> Vec<Conversation> {
    let (start, end) = "GET / HTTP/1.1\r\nHost: test.example\r\n\r\n".split_at(33);
    vec![
        talk(Usual, "nothing is sent").gives("fin@2000"),
        talk(Usual, "half a request line")
            .send("GET / HT")
            .gives("fin@2000"),
        talk(Usual, "a request line without its end")
            .send("GET / HTTP/1.1")
            .gives("fin@2000"),
        talk(Usual, "an empty line and no more")
            .send("\r\n")
            .gives("fin@2000"),
        talk(Usual, "a request line")
            .send("GET / HTTP/1.1\r\n")
            .gives("408c@2000 fin"),
        talk(Usual, "half a header line")
            .send("GET / HTTP/1.1\r\nHost: test.exa")
            .gives("408c@2000 fin"),
        talk(Usual, "all header lines but not the empty one")
            .send("GET / HTTP/1.1\r\nHost: test.example\r\n")
            .gives("408c@2000 fin"),
        talk(Usual, "an HTTP/1.0 request line")
            .send("GET / HTTP/1.0\r\n")
            .gives("408c@2000 fin"),
        talk(Usual, "a head byte by byte, longer than Timeout altogether")
            .send(start)
            .trickle(end, 600)
            .response()
            .gives("200 fin@600"),
        talk(Usual, "half a head on a kept connection")
            .ask(get("/", ""))
            .send("GET / HTTP/1.1\r\nHost: test.exa")
            .gives("200 408c@2000 fin"),
        talk(Usual, "who goes on sending after 408 is not reset")
            .send("GET / HTTP/1.1\r\nHost: test.exa")
            .end()
            .pause(200)
            .insist("mple\r\n")
            .pause(200)
            .insist("\r\n")
            .gives("408c@2000 fin"),
    ]
}

fn bodies() -> Vec<Conversation> {
    let large = "x".repeat(20_000);
    vec![
        talk(Usual, "no byte of a body")
            .send(post("/", "Content-Length: 10\r\n", ""))
            .gives("408c@2000 fin"),
        talk(Usual, "a body that stalls")
            .send(post("/", "Content-Length: 10\r\n", "12"))
            .gives("408c@2000 fin"),
        talk(Usual, "a large body that stalls")
            .send(post("/", "Content-Length: 40000\r\n", &large))
            .gives("408c@2000 fin"),
        talk(Usual, "a large chunked body that stalls")
            .send(post(
                "/",
                "Transfer-Encoding: chunked\r\n",
                &format!("9c40\r\n{large}"),
            ))
            .gives("408c@2000 fin"),
        talk(Usual, "a chunked body that stalls between chunks")
            .send(post("/", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n"))
            .gives("408c@2000 fin"),
        talk(Usual, "a chunked body that stalls in a chunk")
            .send(post("/", "Transfer-Encoding: chunked\r\n", "a\r\nok"))
            .gives("408c@2000 fin"),
        talk(Usual, "a chunked body that stalls in a size")
            .send(post("/", "Transfer-Encoding: chunked\r\n", "2"))
            .gives("408c@2000 fin"),
        talk(Usual, "a body byte by byte, longer than Timeout altogether")
            .send(post("/", "Content-Length: 6\r\n", "12"))
            .trickle("3456", 700)
            .response()
            .gives("200 fin@600"),
        talk(
            Usual,
            "a client that reads slowly, longer than Timeout altogether",
        )
        .narrow()
        .send(get("/large", ""))
        .sips(1 << 20, 450, 5)
        .response()
        .gives("200 fin@600"),
        talk(Usual, "a client that does not read")
            .narrow()
            .send(get("/large", CLOSE))
            .deaf(3200)
            .gives("200c! fin")
            .differs("reset-of-who-does-not-read", "200c! rst"),
    ]
}
