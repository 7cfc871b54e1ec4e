//! What is no request, and what only looks like none.

use crate::conversation::{Conversation, get, post, talk};
use crate::servers::Group::Usual;

const REFUSED: &str = "400c fin";
const SERVED: &str = "200 fin@600";

pub fn all() -> Vec<Conversation> {
    [lines(), headers(), lengths(), codings()].concat()
}

fn line(name: &str, line: &str, outcome: &str) -> Conversation {
    talk(Usual, name)
        .ask(format!("{line}\r\nHost: test.example\r\n\r\n"))
        .gives(outcome)
}

fn lines() -> Vec<Conversation> {
    vec![
        line("a line of two words, and headers", "GET /", "0 fin").differs("no-http-0.9", REFUSED),
        talk(Usual, "HTTP/0.9")
            .ask("GET /\r\n")
            .gives("0 fin")
            .differs("no-http-0.9", REFUSED),
        line("two spaces", "GET  / HTTP/1.1", REFUSED),
        line("two spaces before the version", "GET /  HTTP/1.1", REFUSED),
        line("a tab between words", "GET\t/ HTTP/1.1", REFUSED),
        line("a space at the start", " GET / HTTP/1.1", REFUSED),
        line("a space at the end", "GET / HTTP/1.1 ", REFUSED),
        line("http/1.1 in small letters", "GET / http/1.1", REFUSED),
        line("HTTP/1.10", "GET / HTTP/1.10", REFUSED),
        line("HTTP/1.2", "GET / HTTP/1.2", SERVED).differs("other-versions", REFUSED),
        line("HTTP/2.0", "GET / HTTP/2.0", SERVED).differs("other-versions", REFUSED),
        line("HTTP/3.7", "GET / HTTP/3.7", SERVED).differs("other-versions", REFUSED),
        line("HTTP/1", "GET / HTTP/1", REFUSED),
        line("HTTP/1.x", "GET / HTTP/1.x", REFUSED),
        line("a method that nobody knows", "FROB / HTTP/1.1", SERVED),
        line("a method in small letters", "get / HTTP/1.1", SERVED),
        line("a method with a brace", "G{T / HTTP/1.1", REFUSED),
        line("a whole URL", "GET http://test.example/ HTTP/1.1", SERVED),
        line("a target without a slash", "GET x HTTP/1.1", REFUSED),
        line(
            "a byte beyond ASCII in the target",
            "GET /\u{e9} HTTP/1.1",
            SERVED,
        ),
        line("a NUL in the target", "GET /\0 HTTP/1.1", REFUSED),
        line("garbage", "\u{1}\u{2}\u{3}", REFUSED),
        talk(Usual, "a TLS greeting")
            .ask(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n")
            .gives(REFUSED),
        talk(Usual, "line feeds only")
            .ask("GET / HTTP/1.1\nHost: test.example\n\n")
            .gives(REFUSED),
    ]
}

fn headers() -> Vec<Conversation> {
    let with = |name: &str, lines: &str, outcome: &str| {
        talk(Usual, name).ask(get("/", lines)).gives(outcome)
    };
    let bare = |name: &str, head: &str, outcome: &str| talk(Usual, name).ask(head).gives(outcome);
    vec![
        bare("no Host", "GET / HTTP/1.1\r\n\r\n", REFUSED),
        bare("an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", REFUSED),
        with("two of Host", "Host: test.example\r\n", REFUSED),
        bare(
            "a Host with a space",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            REFUSED,
        ),
        bare(
            "a Host with a slash",
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
            REFUSED,
        ),
        with("a space before the colon", "X : v\r\n", REFUSED),
        with("a space in the name", "X Y: v\r\n", REFUSED),
        with("no name", ": v\r\n", REFUSED),
        with("no colon", "X\r\n", REFUSED),
        with("a NUL in a value", "X: a\0b\r\n", REFUSED),
        with("a control character in a value", "X: a\u{1}b\r\n", REFUSED),
        with("a carriage return in a value", "X: a\rb\r\n", REFUSED),
        with("a line feed in the head", "X: a\nY: b\r\n", REFUSED),
        with("a bracket in a name", "X[]: v\r\n", REFUSED),
        with("an empty value", "X:\r\n", SERVED),
        with("a tab in a value", "X: a\tb\r\n", SERVED),
        with("a folded line", "X: a\r\n b\r\n", SERVED).differs("no-folding", REFUSED),
        bare(
            "a folded line first",
            "GET / HTTP/1.1\r\n X: a\r\nHost: test.example\r\n\r\n",
            REFUSED,
        ),
    ]
}

fn with(name: &str, lines: &str, body: &str, outcome: &str) -> Conversation {
    talk(Usual, name).ask(post("/", lines, body)).gives(outcome)
}

fn codings() -> Vec<Conversation> {
    let chunked = |name: &str, body: &str, outcome: &str| {
        with(name, "Transfer-Encoding: chunked\r\n", body, outcome)
    };
    let bad_chunk = |name: &str, body: &str| {
        chunked(name, body, REFUSED).differs("own-answers-have-a-length", REFUSED)
    };
    vec![
        with(
            "a length and chunked",
            "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            "2\r\nok\r\n0\r\n\r\n",
            "200c fin",
        ),
        with(
            "a coding that nobody knows",
            "Transfer-Encoding: gzip\r\n",
            "",
            REFUSED,
        ),
        with(
            "chunked not last",
            "Transfer-Encoding: chunked, gzip\r\n",
            "",
            REFUSED,
        ),
        with(
            "a coding before chunked",
            "Transfer-Encoding: gzip, chunked\r\n",
            "2\r\nok\r\n0\r\n\r\n",
            "500c fin",
        )
        .differs("no-500-for-a-coding", REFUSED),
        talk(Usual, "chunked in HTTP/1.0")
            .ask("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .gives("200c fin")
            .differs("no-chunked-in-1.0", REFUSED),
        chunked("chunked", "2\r\nok\r\n0\r\n\r\n", SERVED),
        chunked(
            "chunked with an extension",
            "2;a=b\r\nok\r\n0\r\n\r\n",
            SERVED,
        ),
        chunked(
            "chunked with a trailer",
            "2\r\nok\r\n0\r\nX: y\r\n\r\n",
            SERVED,
        ),
        bad_chunk("a chunk size that is none", "zz\r\nok\r\n0\r\n\r\n"),
        bad_chunk("an empty chunk size", "\r\nok\r\n0\r\n\r\n"),
        bad_chunk("a chunk without its end", "2\r\nokay\r\n0\r\n\r\n"),
        bad_chunk("line feeds only in a chunked body", "2\nok\n0\n\n"),
        chunked(
            "a chunk size beyond all numbers",
            "fffffffffffffffff\r\nok\r\n0\r\n\r\n",
            "413c fin",
        )
        .differs("chunk-size-400", REFUSED),
    ]
}

fn lengths() -> Vec<Conversation> {
    vec![
        with(
            "a length twice",
            "Content-Length: 2\r\nContent-Length: 2\r\n",
            "ok",
            REFUSED,
        ),
        with(
            "two lengths",
            "Content-Length: 2\r\nContent-Length: 3\r\n",
            "ok",
            REFUSED,
        ),
        with(
            "a list of lengths",
            "Content-Length: 2, 2\r\n",
            "ok",
            REFUSED,
        ),
        with(
            "a length with a sign",
            "Content-Length: +2\r\n",
            "ok",
            REFUSED,
        ),
        with(
            "a length below zero",
            "Content-Length: -2\r\n",
            "ok",
            REFUSED,
        ),
        with("an empty length", "Content-Length:\r\n", "", REFUSED),
        with(
            "a length beyond all numbers",
            "Content-Length: 99999999999999999999\r\n",
            "",
            REFUSED,
        ),
        with(
            "a length in hexadecimal",
            "Content-Length: 0x2\r\n",
            "ok",
            REFUSED,
        ),
        with("no length", "", "", SERVED),
        with("a length of zero", "Content-Length: 0\r\n", "", SERVED),
    ]
}
