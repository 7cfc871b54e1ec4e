//! HTTP/1.0 and 1.1, and how a response's end is found.

use crate::conversation::{Conversation, KEEP, get, get10, talk};
use crate::servers::Group::{Off, Three, Usual};

const HEAD10: &str = "HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";

fn head(path: &str) -> String {
    format!("HEAD {path} HTTP/1.1\r\nHost: test.example\r\n{KEEP}\r\n")
}

pub fn all() -> Vec<Conversation> {
    [old(), new()].concat()
}

fn old() -> Vec<Conversation> {
    let both = |talk: Conversation, outcome: &'static str| talk.gives(outcome);
    vec![
        both(talk(Usual, "1.0").ask(get10("/", "")), "200c fin"),
        both(
            talk(Usual, "1.0 without Host").ask("GET / HTTP/1.0\r\n\r\n"),
            "200c fin",
        ),
        both(
            talk(Usual, "1.0 that asks to be kept").ask(get10("/", KEEP)),
            "200 fin@600",
        ),
        both(
            talk(Three, "1.0 kept up to the limit")
                .ask(get10("/", KEEP))
                .ask(get10("/", KEEP))
                .ask(get10("/", KEEP))
                .ask(get10("/", KEEP)),
            "200 200 200 200c fin",
        ),
        both(
            talk(Off, "1.0 with keep-alive off").ask(get10("/", KEEP)),
            "200c fin",
        ),
        both(
            talk(Usual, "1.0, length not known, chunked by the backend")
                .ask(get10("/chunked", KEEP)),
            "200c fin",
        ),
        both(
            talk(Usual, "1.0, length not known, until close").ask(get10("/until-close", KEEP)),
            "200c fin",
        ),
        both(
            talk(Usual, "1.0 and 204").ask(get10("/204", KEEP)),
            "204 fin@600",
        ),
        both(
            talk(Usual, "1.0 and 304").ask(get10("/304", KEEP)),
            "304 fin@600",
        ),
        both(
            talk(Usual, "1.0 and HEAD").send(HEAD10).response_to_head(),
            "200 fin@600",
        ),
        talk(Usual, "1.0 and then 1.1")
            .ask(get10("/", KEEP))
            .ask(get("/", ""))
            .gives("200 200 fin@600"),
        talk(Usual, "1.1 and then 1.0")
            .ask(get("/", ""))
            .ask(get10("/", ""))
            .gives("200 200c fin"),
    ]
}

fn new() -> Vec<Conversation> {
    vec![
        talk(Usual, "chunked by the backend")
            .ask(get("/chunked", KEEP))
            .gives("200 fin@600"),
        talk(Usual, "until close is chunked, and kept")
            .ask(get("/until-close", KEEP))
            .gives("200 fin@600"),
        talk(Usual, "a backend of HTTP/1.0")
            .ask(get("/http10", KEEP))
            .gives("200 fin@600"),
        talk(Usual, "204")
            .ask(get("/204", KEEP))
            .gives("204 fin@600"),
        talk(Usual, "304")
            .ask(get("/304", KEEP))
            .gives("304 fin@600"),
        talk(Usual, "304 with a length")
            .ask(get("/304-length", KEEP))
            .gives("304 fin@600"),
        talk(Usual, "HEAD")
            .send(head("/"))
            .response_to_head()
            .gives("200 fin@600"),
        talk(Usual, "HEAD of what is chunked")
            .send(head("/chunked"))
            .response_to_head()
            .gives("200 fin@600")
            .differs("head-without-chunked", "200 fin@600"),
        talk(Usual, "HEAD of what has no length")
            .send(head("/until-close"))
            .response_to_head()
            .gives("200 fin@600"),
        talk(Usual, "HEAD and then GET")
            .send(head("/"))
            .response_to_head()
            .ask(get("/", ""))
            .gives("200 200 fin@600"),
    ]
}
