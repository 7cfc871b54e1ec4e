//! Name-based virtual hosts: 1500 ms and 2 requests, and what each changes of it.

use crate::conversation::{Conversation, KEEP, talk};
use crate::servers::Group::{FirstHost, Hosts};

fn to(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n{KEEP}\r\n")
}

pub fn all() -> Vec<Conversation> {
    let one =
        |name: &str, host: &str, outcome: &str| talk(Hosts, name).ask(to(host)).gives(outcome);
    let three = |name: &str, host: &str, outcome: &str| {
        talk(Hosts, name)
            .ask(to(host))
            .ask(to(host))
            .ask(to(host))
            .gives(outcome)
    };
    vec![
        one(
            "a host with a time of its own",
            "short.example",
            "200 fin@400",
        ),
        one("a host without one", "plain.example", "200 fin@1500"),
        one("a time of 0 inherits", "inherits.example", "200 fin@1500"),
        one("a host that keeps none", "off.example", "200c fin"),
        one("a host by its wildcard", "a.b.short.example", "200 fin@400"),
        one("a host in capitals", "SHORT.Example", "200 fin@400"),
        one("a host with its port", "short.example:8080", "200 fin@400"),
        one(
            "a host with a dot at its end",
            "short.example.",
            "200 fin@400",
        ),
        one("a host that nobody knows", "nobody.example", "200 fin@1500"),
        three("a limit of its own", "short.example", "200 200c fin"),
        three(
            "a limit of the listener's",
            "plain.example",
            "200 200 200c fin",
        ),
        three(
            "a limit of -1 inherits",
            "inherits.example",
            "200 200 200c fin",
        ),
        talk(
            Hosts,
            "the limit is the host's, the count is the connection's",
        )
        .ask(to("plain.example"))
        .ask(to("short.example"))
        .gives("200 200c fin"),
        talk(Hosts, "the time is that of the last request's host")
            .ask(to("short.example"))
            .ask(to("plain.example"))
            .gives("200 200 fin@1500"),
        talk(Hosts, "a host that keeps none, second")
            .ask(to("plain.example"))
            .ask(to("off.example"))
            .gives("200 200c fin"),
        talk(Hosts, "a body has the Timeout of its host")
            .send("POST / HTTP/1.1\r\nHost: slow.example\r\nContent-Length: 9\r\n\r\nabc")
            .gives("408c@1000 fin"),
        talk(
            Hosts,
            "a head has the Timeout of the listener, whatever its Host is",
        )
        .send("POST / HTTP/1.1\r\nHost: slow.example\r\nContent-Le")
        .gives("408c@2000 fin"),
        talk(Hosts, "the next head has the Timeout of the listener again")
            .ask(to("slow.example"))
            .send("GET / HTTP/1.1\r\n")
            .gives("200 408c@2000 fin"),
        talk(Hosts, "the host of a whole URL")
            .ask(format!(
                "GET http://short.example/ HTTP/1.1\r\nHost: plain.example\r\n{KEEP}\r\n"
            ))
            .gives("200 fin@400"),
        talk(
            FirstHost,
            "the time that is announced is the time that is kept",
        )
        .ask(to("second.example"))
        .gives("200 fin@700")
        .differs("announced-time-is-real", "200 fin@2500"),
    ]
}
