//! Requests sent ahead of time, and empty lines before them.

use crate::conversation::{CLOSE, Conversation, KEEP, get, post, talk};
use crate::servers::Group::{Three, Usual};

pub fn all() -> Vec<Conversation> {
    let plain = get("/", "");
    let blank = |count: usize| format!("{}{plain}", "\r\n".repeat(count));
    vec![
        talk(Usual, "two at once")
            .send(plain.repeat(2))
            .response()
            .response()
            .gives("200 200 fin@600"),
        talk(Usual, "five at once, in order")
            .send(
                [
                    get("/late/100", ""),
                    get("/status/404", ""),
                    get("/chunked", ""),
                    post("/", "Content-Length: 3\r\n", "abc"),
                    get("/status/401", KEEP),
                ]
                .concat(),
            )
            .gives("200@100 404 200 200 401 fin@600"),
        talk(Usual, "HEAD and GET at once")
            .send(format!(
                "HEAD / HTTP/1.1\r\nHost: test.example\r\n\r\n{plain}"
            ))
            .response_to_head()
            .response()
            .gives("200 200 fin@600"),
        talk(Three, "six at once, over the limit")
            .send(get("/", KEEP).repeat(6))
            .gives("200 200 200 200c fin"),
        talk(Usual, "one behind the last")
            .send(get("/", CLOSE) + &plain)
            .gives("200c fin"),
        talk(Usual, "one behind a status that ends the connection")
            .send(get("/status/500", "") + &plain)
            .gives("500c fin"),
        talk(Usual, "half a request line behind")
            .send(format!("{plain}GET / HT"))
            .gives("200 fin@2000"),
        talk(Usual, "half a head behind")
            .send(format!("{plain}GET / HTTP/1.1\r\nHost: te"))
            .gives("200 408c@2000 fin"),
        talk(Usual, "half a head behind, its rest later")
            .send(format!("{plain}GET / HTTP/1.1\r\nHost: te"))
            .pause(1000)
            .ask("st.example\r\n\r\n")
            .gives("200 200 fin@600"),
        talk(Usual, "a bad one behind a good one")
            .send(format!("{plain}GET / HTTP/1.1\r\nno colon\r\n\r\n"))
            .gives("200 400c fin"),
        talk(Usual, "one while the first is answered")
            .send(get("/late/500", ""))
            .pause(200)
            .send(&plain)
            .gives("200@300 200 fin@600"),
        talk(Usual, "an empty line before")
            .ask(blank(1))
            .gives("200 fin@600"),
        talk(Usual, "10 empty lines before")
            .ask(blank(10))
            .gives("200 fin@600"),
        talk(Usual, "11 empty lines before")
            .ask(blank(11))
            .gives("400c fin"),
        talk(Usual, "empty lines of a line feed only")
            .ask(format!("\n\n{plain}"))
            .gives("400c fin"),
        talk(
            Usual,
            "an empty line behind a body is none of the next request",
        )
        .ask(post("/", "Content-Length: 2\r\n", "ok\r\n"))
        .gives("200 fin@600"),
        talk(Usual, "an empty line behind a body, and a request")
            .ask(post("/", "Content-Length: 2\r\n", "ok\r\n"))
            .ask(&plain)
            .gives("200 200 fin@600"),
    ]
}
