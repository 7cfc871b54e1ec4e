//! `Expect`.

use crate::conversation::{Conversation, get, post, talk};
use crate::servers::Group::{Own100, Usual};

const EXPECTING: &str = "Content-Length: 2\r\nExpect: 100-continue\r\n";

pub fn all() -> Vec<Conversation> {
    [relayed(), of_its_own()].concat()
}

/// With `Proxy100Continue Off`, which is what Warmline always does.
fn of_its_own() -> Vec<Conversation> {
    vec![
        talk(Own100, "own 100: then the body")
            .send(post("/", EXPECTING, ""))
            .pause(300)
            .ask("ok")
            .gives("100 200 fin@600"),
        talk(Own100, "own 100: the body without waiting for it")
            .ask(post("/", EXPECTING, "ok"))
            .gives("100 200 fin@600"),
        talk(Own100, "own 100: then a chunked body")
            .send(post(
                "/",
                "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
                "",
            ))
            .pause(300)
            .ask("2\r\nok\r\n0\r\n\r\n")
            .gives("100 200 fin@600"),
        talk(Own100, "own 100: no body after it")
            .send(post("/", EXPECTING, ""))
            .gives("100 408c@2000 fin"),
        talk(Own100, "own 100: the backend refuses the body")
            .ask(post("/refuses-body", EXPECTING, ""))
            .gives("100 408c@2000 fin")
            .differs("no-prefetch", "100 413c fin"),
        talk(Own100, "own 100: the backend refuses a large body")
            .ask(post(
                "/refuses-body",
                "Content-Length: 40000\r\nExpect: 100-continue\r\n",
                &"x".repeat(40_000),
            ))
            .gives("100 413c fin"),
        talk(Own100, "own 100: Expect without a body")
            .ask(get("/", "Expect: 100-continue\r\n"))
            .gives("200c fin"),
        talk(Own100, "own 100: not for HTTP/1.0")
            .ask("POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nok")
            .gives("200c fin"),
    ]
}

/// With `Proxy100Continue On`, httpd's default.
fn relayed() -> Vec<Conversation> {
    vec![
        talk(Usual, "100 of the backend's, then the body")
            .send(post("/continue", EXPECTING, ""))
            .pause(300)
            .ask("ok")
            .gives("100 200 fin@600"),
        talk(Usual, "100-Continue in another case")
            .send(post(
                "/continue",
                "Content-Length: 2\r\nExpect: 100-Continue\r\n",
                "",
            ))
            .pause(300)
            .ask("ok")
            .gives("100 200 fin@600"),
        talk(Usual, "the body without waiting for 100")
            .ask(post("/continue", EXPECTING, "ok"))
            .gives("100 200 fin@600"),
        talk(Usual, "100, and a chunked body")
            .send(post(
                "/continue",
                "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n",
                "",
            ))
            .pause(300)
            .ask("2\r\nok\r\n0\r\n\r\n")
            .gives("100 200 fin@600"),
        talk(Usual, "the backend refuses the body")
            .ask(post("/refuses-body", EXPECTING, ""))
            .gives("413c fin")
            .differs("own-100-continue", "100 413c fin"),
        talk(Usual, "the backend never says 100")
            .send(post("/", EXPECTING, ""))
            .pause(300)
            .ask("ok")
            .gives("503c@700 fin")
            .differs("own-100-continue", "100 200 fin@600"),
        talk(Usual, "no body after 100")
            .send(post("/continue", EXPECTING, ""))
            .gives("100 408c@2000 fin"),
        talk(Usual, "Expect without a body")
            .ask(get("/", "Expect: 100-continue\r\n"))
            .gives("200c fin"),
        talk(Usual, "an expectation that nobody knows")
            .ask(get("/", "Expect: something\r\n"))
            .gives("417 fin")
            .differs("417-says-close", "417c fin"),
        talk(Usual, "Expect of HTTP/1.0 is not heeded")
            .ask("POST / HTTP/1.0\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nok")
            .gives("503c@1000 fin")
            .differs("own-100-continue", "200c fin"),
    ]
}
