//! `LimitRequestLine 100`, `LimitRequestFields 5`, `LimitRequestFieldSize 60`, `LimitRequestBody 10`.

use crate::conversation::{Conversation, get, post, talk};
use crate::servers::Group::Limits;

/// A request whose first line has so many bytes, without its CR LF.
fn line_of(length: usize) -> String {
    let filler = "x".repeat(length - "GET / HTTP/1.1".len());
    format!("GET /{filler} HTTP/1.1\r\nHost: test.example\r\n\r\n")
}

/// A header line of so many bytes, without its CR LF.
fn field_of(length: usize) -> String {
    format!("X: {}\r\n", "x".repeat(length - 3))
}

/// So many header lines, `Host` among them.
fn fields(count: usize) -> String {
    get("/", &"X-A: b\r\n".repeat(count - 1))
}

pub fn all() -> Vec<Conversation> {
    vec![
        talk(Limits, "a line of N")
            .ask(line_of(100))
            .gives("200 fin@600"),
        talk(Limits, "a line of N+1")
            .ask(line_of(101))
            .gives("200 fin@600"),
        talk(Limits, "a line of N+2")
            .ask(line_of(102))
            .gives("414c fin"),
        talk(Limits, "a line of 20 N")
            .ask(line_of(2000))
            .gives("414c fin"),
        talk(Limits, "a long line without its end")
            .send("x".repeat(3000))
            .gives("fin@2000")
            .differs("414-at-once", "414c fin"),
        talk(Limits, "a header line of N")
            .ask(get("/", &field_of(60)))
            .gives("200 fin@600"),
        talk(Limits, "a header line of N+1")
            .ask(get("/", &field_of(61)))
            .gives("200 fin@600"),
        talk(Limits, "a header line of N+2")
            .ask(get("/", &field_of(62)))
            .gives("400c fin")
            .differs("fields-are-431", "431c fin"),
        talk(Limits, "two lines of one name, too long together")
            .ask(get("/", &field_of(40).repeat(2)))
            .gives("400c fin")
            .differs("fields-are-431", "431c fin"),
        talk(Limits, "N header lines")
            .ask(fields(5))
            .gives("200 fin@600"),
        talk(Limits, "N+1 header lines")
            .ask(fields(6))
            .gives("400c fin")
            .differs("fields-are-431", "431c fin"),
        talk(Limits, "a body of N")
            .ask(post("/", "Content-Length: 10\r\n", "0123456789"))
            .gives("200 fin@600"),
        talk(Limits, "a body of N+1")
            .ask(post("/", "Content-Length: 11\r\n", "0123456789a"))
            .gives("200 fin@600")
            .differs("body-limit", "413c fin"),
        talk(Limits, "a chunked body of N+1")
            .ask(post(
                "/",
                "Transfer-Encoding: chunked\r\n",
                "b\r\n0123456789a\r\n0\r\n\r\n",
            ))
            .gives("200 fin@600")
            .differs("body-limit", "413c fin"),
    ]
}
