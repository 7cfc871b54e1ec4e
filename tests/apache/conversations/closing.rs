//! Who closes: clients that do so early, and how a server does it when it is its turn.

use crate::conversation::{CLOSE, Conversation, KEEP, get, post, talk};
use crate::servers::Group::Usual;

pub fn all() -> Vec<Conversation> {
    [by_the_client(), by_the_server()].concat()
}

fn by_the_client() -> Vec<Conversation> {
    let plain = get("/", "");
    vec![
        talk(Usual, "FIN at once").half_close().gives("fin"),
        talk(Usual, "FIN in the request line")
            .send("GET / HT")
            .half_close()
            .gives("fin"),
        talk(Usual, "FIN in the head")
            .send("GET / HTTP/1.1\r\nHost: te")
            .half_close()
            .gives("400c fin"),
        talk(Usual, "FIN behind the request")
            .send(get("/", KEEP))
            .half_close()
            .gives("200 fin"),
        talk(Usual, "FIN while the backend works")
            .send(get("/late/600", KEEP))
            .pause(200)
            .half_close()
            .gives("200@400 fin"),
        talk(Usual, "FIN behind two requests")
            .send(plain.repeat(2))
            .half_close()
            .gives("200 200 fin"),
        talk(Usual, "FIN behind a body")
            .send(post("/", "Content-Length: 2\r\n", "ok"))
            .half_close()
            .gives("200 fin"),
        talk(Usual, "FIN in a body")
            .send(post("/", "Content-Length: 10\r\n", "ok"))
            .half_close()
            .gives("400c fin"),
        talk(Usual, "FIN in a chunked body")
            .send(post("/", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n"))
            .half_close()
            .gives("400c fin"),
        talk(Usual, "FIN when idle")
            .ask(&plain)
            .pause(200)
            .half_close()
            .gives("200 fin"),
        talk(Usual, "RST when idle")
            .ask(&plain)
            .pause(200)
            .reset()
            .gives("200 ours"),
        talk(Usual, "RST while the backend works")
            .send(get("/late/400", ""))
            .pause(200)
            .reset()
            .gives("ours"),
    ]
}

fn by_the_server() -> Vec<Conversation> {
    vec![
        talk(
            Usual,
            "who goes on sending after the last response is not reset",
        )
        .ask(get("/", CLOSE))
        .end()
        .pause(300)
        .insist("more")
        .pause(1000)
        .insist("more")
        .pause(1500)
        .insist("more")
        .pause(200)
        .insist("more")
        .gives("200c fin"),
        talk(
            Usual,
            "the last response arrives whole, whatever else was sent",
        )
        .send(get("/late/200", CLOSE) + &"x".repeat(50_000))
        .response()
        .end()
        .insist("more")
        .pause(100)
        .insist("more")
        .gives("200c@200 fin"),
        talk(
            Usual,
            "a large last response arrives whole, whatever else was sent",
        )
        .narrow()
        .send(get("/large", CLOSE) + &"x".repeat(50_000))
        .deaf(300)
        .gives("200c fin"),
        talk(
            Usual,
            "an idle connection that was closed takes more for a while",
        )
        .ask(get("/", ""))
        .end()
        .pause(500)
        .insist("more")
        .pause(200)
        .insist("more")
        .gives("200 fin@600"),
        talk(
            Usual,
            "an idle connection that was closed is gone after 2 s",
        )
        .ask(get("/", ""))
        .end()
        .pause(2500)
        .insist("more")
        .pause(200)
        .insist("more")
        .gives("200 fin-rst"),
        talk(Usual, "who goes on sending after 400 is not reset")
            .ask("GET / HTTP/1.1\r\nno colon\r\n\r\n")
            .end()
            .pause(200)
            .insist("more")
            .pause(200)
            .insist("more")
            .gives("400c fin"),
    ]
}
