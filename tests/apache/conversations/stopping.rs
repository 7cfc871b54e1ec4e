//! A graceful stop: who is still served, and who is let go.

use crate::conversation::{Conversation, KEEP, get, talk};
use crate::servers::Group::Stopping;

pub fn all() -> Vec<Conversation> {
    vec![
        talk(Stopping, "stop: an idle connection is closed at once")
            .ask(get("/", KEEP))
            .pause(200)
            .stop_server()
            .gives("200 fin"),
        talk(Stopping, "stop: a connection that was never used")
            .pause(300)
            .stop_server()
            .gives("fin@1700")
            .differs("grace-at-a-stop", "fin@100"),
        talk(
            Stopping,
            "stop: an idle connection with half a request line",
        )
        .ask(get("/", KEEP))
        .send("GET /")
        .pause(300)
        .stop_server()
        .pause(300)
        .ask(" HTTP/1.1\r\nHost: test.example\r\n\r\n")
        .gives("200 200c fin"),
        talk(
            Stopping,
            "stop: a request in flight is answered, and that is all",
        )
        .send(get("/late/900", KEEP))
        .pause(300)
        .stop_server()
        .gives("200c@600 fin"),
        talk(Stopping, "stop: a half received request is served")
            .send("GET / HTTP/1.1\r\nHost: test")
            .pause(300)
            .stop_server()
            .pause(400)
            .ask(".example\r\nConnection: keep-alive\r\n\r\n")
            .gives("200c fin"),
        talk(
            Stopping,
            "stop: requests sent ahead are not served behind the one in flight",
        )
        .send(get("/late/900", KEEP) + &get("/", KEEP))
        .pause(300)
        .stop_server()
        .gives("200c@600 fin"),
    ]
}
