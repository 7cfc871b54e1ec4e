//! The options of the request's `Connection` header.

use crate::conversation::{Conversation, get, get10, talk};
use crate::servers::Group;

pub fn all() -> Vec<Conversation> {
    let kept = "200 fin@600";
    let closed = "200c fin";
    let cases = [
        ("Connection: Keep-Alive", kept),
        ("connection: KEEP-ALIVE", kept),
        ("Connection: CLOSE", closed),
        ("Connection: foo, keep-alive", kept),
        ("Connection: foo,close,bar", closed),
        ("Connection: ,, ,close", closed),
        ("Connection: keep-alive, close", closed),
        ("Connection: close, keep-alive", closed),
        ("Connection: keep-alive\r\nConnection: close", closed),
        ("Connection: close\r\nConnection: keep-alive", closed),
        ("Connection: foo\r\nX: y\r\nConnection: keep-alive", kept),
        ("Connection: closed", kept),
        ("Connection: keep-alive;q=1", kept),
        ("Connection: close;q=1", closed),
        ("Connection: \"close\"", closed),
        ("Connection: \"keep-alive\"", kept),
        ("Connection:", kept),
        ("Connection:\tclose\t", closed),
        ("Connection: Upgrade\r\nUpgrade: websocket", kept),
        ("Connection: Upgrade, close\r\nUpgrade: websocket", closed),
        ("Connection: TE\r\nTE: trailers", kept),
        ("Proxy-Connection: close", kept),
        ("Keep-Alive: timeout=1", kept),
    ];
    let mut all: Vec<_> = cases
        .into_iter()
        .map(|(line, outcome)| {
            talk(Group::Usual, line.replace("\r\n", " + "))
                .ask(get("/", &format!("{line}\r\n")))
                .gives(outcome)
        })
        .collect();
    all.extend(
        [
            ("Connection: keep-alive;q=1", kept),
            ("Connection: \"keep-alive\"", kept),
            ("Connection: x\r\nConnection: Keep-alive", kept),
            ("Connection: keep-alive, close", closed),
            ("Connection: keepalive", closed),
        ]
        .into_iter()
        .map(|(line, outcome)| {
            talk(
                Group::Usual,
                format!("HTTP/1.0 with {}", line.replace("\r\n", " + ")),
            )
            .ask(get10("/", &format!("{line}\r\n")))
            .gives(outcome)
        }),
    );
    all
}
