//! `KeepAlive`, `MaxKeepAliveRequests`, `KeepAliveTimeout`: how often, and how long.

use crate::conversation::{CLOSE, Conversation, KEEP, get, talk};
use crate::servers::Group;

/// `count` requests one after the other, the same each time.
fn asked(group: Group, name: &str, request: &str, count: usize) -> Conversation {
    (0..count).fold(talk(group, name), |talk, _| talk.ask(request))
}

pub fn all() -> Vec<Conversation> {
    [how_often(), how_long()].concat()
}

fn how_often() -> Vec<Conversation> {
    use Group::{NoTime, Off, One, Three, Unlimited, Usual};
    let (plain, keep) = (&get("/", ""), &get("/", KEEP));
    let hundred = "200 ".repeat(100);
    vec![
        asked(Three, "a limit of 3 is 4 responses", plain, 4).gives("200 200 200 200c fin"),
        asked(Three, "a limit of 3, counted down", keep, 4).gives("200 200 200 200c fin"),
        asked(One, "a limit of 1 is 2 responses", plain, 2).gives("200 200c fin"),
        asked(One, "a limit of 1, counted down", keep, 2).gives("200 200c fin"),
        asked(Usual, "a limit of 100 is 101 responses", plain, 101)
            .gives(format!("{hundred}200c fin")),
        asked(Usual, "a limit of 100, counted down", keep, 101).gives(format!("{hundred}200c fin")),
        asked(Unlimited, "no limit has no max", keep, 3).gives("200 200 200 fin@1200"),
        asked(Unlimited, "no limit at 150", plain, 150)
            .gives(format!("{}fin@1200", "200 ".repeat(150))),
        talk(Three, "the token once of four times")
            .ask(plain)
            .ask(keep)
            .ask(plain)
            .ask(keep)
            .gives("200 200 200 200c fin"),
        talk(Three, "responses of all kinds count")
            .ask(get("/status/404", ""))
            .ask(get("/204", ""))
            .send("HEAD / HTTP/1.1\r\nHost: test.example\r\n\r\n")
            .response_to_head()
            .ask(plain)
            .gives("404 204 200 200c fin"),
        asked(
            Three,
            "interim responses do not count",
            &get("/hints", KEEP),
            4,
        )
        .gives("103 200 103 200 103 200 103 200c fin"),
        asked(Off, "off", plain, 1).gives("200c fin"),
        asked(Off, "off, whatever the client asks for", keep, 1).gives("200c fin"),
        asked(NoTime, "a timeout of 0 keeps none", keep, 1).gives("200c fin"),
        asked(Three, "close at the second", plain, 1)
            .ask(get("/", CLOSE))
            .gives("200 200c fin"),
    ]
}

fn how_long() -> Vec<Conversation> {
    use Group::{Three, Usual};
    let (plain, keep) = (&get("/", ""), &get("/", KEEP));
    vec![
        asked(
            Usual,
            "an idle time below a second is announced as 0",
            keep,
            1,
        )
        .gives("200 fin@600"),
        asked(Three, "an idle time is announced in whole seconds", keep, 1).gives("200 fin@1500"),
        asked(Usual, "idle after the second", plain, 2).gives("200 200 fin@600"),
        talk(Usual, "each response begins the idle time anew")
            .ask(plain)
            .pause(400)
            .ask(plain)
            .pause(400)
            .ask(plain)
            .gives("200 200 200 fin@600"),
        asked(
            Usual,
            "the backend's time is no idle time",
            &get("/late/900", ""),
            1,
        )
        .gives("200@900 fin@600"),
        talk(Usual, "idle time begins when a large response is read")
            .narrow()
            .send(get("/large", ""))
            .deaf(1000)
            .response()
            .gives("200 fin@600"),
        talk(Usual, "one byte ends the idle time")
            .ask(plain)
            .pause(300)
            .send("G")
            .gives("200 fin@2000"),
        talk(Usual, "an empty line ends the idle time")
            .ask(plain)
            .pause(300)
            .send("\r\n")
            .gives("200 fin@2000"),
        talk(Usual, "a request line ends the idle time")
            .ask(plain)
            .pause(300)
            .send("GET / HTTP/1.1\r\n")
            .gives("200 408c@2000 fin"),
        talk(Usual, "half a request line, its rest after the idle time")
            .ask(plain)
            .send("GET / HT")
            .pause(1200)
            .ask("TP/1.1\r\nHost: test.example\r\n\r\n")
            .gives("200 200 fin@600"),
    ]
}
