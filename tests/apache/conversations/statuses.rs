//! Statuses of the backend's that end the client's connection, and those that do not.

use crate::conversation::{Conversation, KEEP, get, talk};
use crate::servers::Group::Usual;

pub fn all() -> Vec<Conversation> {
    let ends = [400, 408, 411, 413, 414, 500, 501, 503];
    let keeps = [
        200, 201, 301, 401, 403, 404, 405, 416, 417, 429, 431, 502, 504, 505,
    ];
    let ends = ends.map(|status| (status, format!("{status}c fin")));
    let keeps = keeps.map(|status| (status, format!("{status} fin@600")));
    let of = |(status, outcome): (u16, String)| {
        talk(Usual, format!("{status} of the backend's"))
            .ask(get(&format!("/status/{status}"), KEEP))
            .gives(outcome)
    };
    ends.into_iter().chain(keeps).map(of).collect()
}
