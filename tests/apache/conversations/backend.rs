//! What clients see of a backend's trouble, and of what a backend says of its own connection.

use crate::conversation::{Conversation, KEEP, get, post, talk};
use crate::servers::Group::Usual;

pub fn all() -> Vec<Conversation> {
    let plain = get("/", "");
    vec![
        talk(Usual, "the backend refuses the connection")
            .ask(get("/refused", ""))
            .gives("503c fin")
            .differs("refused-502", "502 fin@600"),
        talk(Usual, "the backend does not answer")
            .ask(get("/hang", ""))
            .gives("502@1000 fin@600")
            .differs("read-timeout-504", "504@1000 fin@600"),
        talk(Usual, "the backend does not answer the second request")
            .ask(&plain)
            .ask(get("/hang", ""))
            .gives("200 502@1000 fin@600")
            .differs("read-timeout-504", "200 504@1000 fin@600"),
        talk(Usual, "the backend closes before it answers")
            .ask(get("/gone", ""))
            .gives("502 fin@600"),
        talk(
            Usual,
            "the backend closes before it answers, and is asked again",
        )
        .ask(get("/gone", ""))
        .ask(&plain)
        .gives("502 200 fin@600"),
        talk(Usual, "the backend closes before it answers a body")
            .ask(post("/gone", "Content-Length: 2\r\n", "ok"))
            .gives("502 fin@600"),
        talk(
            Usual,
            "the backend closes before it answers the second request",
        )
        .ask(&plain)
        .ask(get("/gone", ""))
        .gives("200 fin")
        .differs("no-silent-close", "200 502 fin@600"),
        talk(Usual, "the backend closes in its head")
            .ask(get("/cut-head", ""))
            .gives("502 fin@600"),
        talk(Usual, "the backend's length is none")
            .ask(get("/bad-length", ""))
            .gives("502 fin@600")
            .differs("own-answers-have-a-length", "502 fin@600"),
        talk(Usual, "the backend closes in its body")
            .ask(get("/cut", ""))
            .gives("200! fin"),
        talk(Usual, "the backend closes in its chunked body")
            .ask(get("/cut-chunked", ""))
            .gives("200! fin"),
        talk(Usual, "the backend closes after its response")
            .ask(get("/close", KEEP))
            .ask(get("/close", KEEP))
            .gives("200 200 fin@600"),
        talk(Usual, "the backend's Keep-Alive is its own")
            .ask(get("/keep-alive", ""))
            .gives("200 fin@600"),
        talk(
            Usual,
            "the backend's Keep-Alive is its own, also where there is one of ours",
        )
        .ask(get("/keep-alive", KEEP))
        .gives("200 fin@600"),
        talk(Usual, "interim responses are handed on")
            .ask(get("/hints", KEEP))
            .gives("103 200 fin@600"),
    ]
}
