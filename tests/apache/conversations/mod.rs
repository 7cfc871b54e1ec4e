//! The table, by what the conversations are about.

mod backend;
mod closing;
mod expect;
mod hosts;
mod keep_alive;
mod limits;
mod options;
mod parsing;
mod pipelining;
mod read_timeout;
mod statuses;
mod stopping;
mod timeouts;
mod versions;

use crate::conversation::Conversation;

/// All of them.
pub fn all() -> Vec<Conversation> {
    [
        keep_alive::all(),
        options::all(),
        versions::all(),
        statuses::all(),
        timeouts::all(),
        read_timeout::all(),
        pipelining::all(),
        closing::all(),
        expect::all(),
        limits::all(),
        parsing::all(),
        backend::all(),
        hosts::all(),
        stopping::all(),
    ]
    .concat()
}
