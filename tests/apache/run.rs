//! All conversations with both servers, many at once.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::thread;

use crate::conversation::{Conversation, Outcome};
use crate::prober::{Observed, play};
use crate::servers::{Group, Server, Side};

/// How many conversations go on at once. They wait most of the time.
const AT_ONCE: usize = 32;

/// How many do so when they are played again: a busy machine may have been too late for them.
const AGAIN_AT_ONCE: usize = 8;

/// A conversation, and what came of it with each; an error is why it could not be played.
pub struct Played<'a> {
    pub conversation: &'a Conversation,
    pub httpd: Outcomes,
    pub warmline: Outcomes,
}

/// What came of a conversation with one of the two.
pub struct Outcomes {
    pub result: Result<Observed, String>,
    /// Whether it was played a second time, and this is what came of that.
    pub again: bool,
}

/// The servers of all groups but [`Group::Stopping`].
type Servers = BTreeMap<(Group, Side), Result<Server, String>>;

type Job<'a> = (&'a Conversation, Side);

/// Plays each with both; `table` is whether the kernel's table can be looked at. What is not as
/// expected is played once more, with fewer beside it.
pub fn all(conversations: &[Conversation], table: bool) -> Vec<Played<'_>> {
    let servers = start_all(conversations);
    let jobs: Vec<_> = conversations
        .iter()
        .flat_map(|conversation| [(conversation, Side::Httpd), (conversation, Side::Warmline)])
        .collect();
    let play = |job: &Job<'_>| one(job.0, job.1, &servers, table);
    let mut results = at_once(AT_ONCE, &jobs, play);
    let again: Vec<usize> = (0..jobs.len())
        .filter(|number| is_unexpected(&jobs[*number], &results[*number]))
        .collect();
    let jobs_again: Vec<_> = again.iter().map(|number| jobs[*number]).collect();
    for (number, result) in again.iter().zip(at_once(AGAIN_AT_ONCE, &jobs_again, play)) {
        results[*number] = result;
    }
    let mut outcomes = results.into_iter().enumerate().map(|(number, result)| {
        let again = again.contains(&number);
        Outcomes { result, again }
    });
    let mut played = Vec::new();
    for conversation in conversations {
        let mut next = || outcomes.next().expect("there are two for each");
        played.push(Played {
            conversation,
            httpd: next(),
            warmline: next(),
        });
    }
    played
}

/// Does all jobs, so many at once; the results are in the order of the jobs.
fn at_once<J: Sync, R: Send>(count: usize, jobs: &[J], work: impl Fn(&J) -> R + Sync) -> Vec<R> {
    let next = Mutex::new(0..jobs.len());
    let results: Vec<Mutex<Option<R>>> = jobs.iter().map(|_| Mutex::new(None)).collect();
    thread::scope(|scope| {
        for _ in 0..count {
            scope.spawn(|| {
                loop {
                    let Some(number) = next.lock().unwrap().next() else {
                        return;
                    };
                    *results[number].lock().unwrap() = Some(work(&jobs[number]));
                }
            });
        }
    });
    let done = results.into_iter().map(Mutex::into_inner);
    done.map(|result| result.unwrap().expect("every job was done"))
        .collect()
}

/// What a side is expected to do.
pub fn expected(conversation: &Conversation, side: Side) -> Outcome {
    Outcome::read(match (side, &conversation.differs) {
        (Side::Warmline, Some((_, outcome))) => outcome,
        _ => &conversation.httpd,
    })
}

fn is_unexpected((conversation, side): &Job<'_>, result: &Result<Observed, String>) -> bool {
    let expected = expected(conversation, *side);
    result.as_ref().is_ok_and(|observed| {
        let outcome = Outcome::of(observed);
        !outcome.is_like(&expected) || !outcome.is_in_time(&expected)
    })
}

fn start_all(conversations: &[Conversation]) -> Servers {
    let groups: BTreeSet<_> = conversations.iter().map(|talk| talk.group).collect();
    let mut servers = Servers::new();
    for group in groups {
        if group == Group::Stopping {
            continue;
        }
        for side in [Side::Httpd, Side::Warmline] {
            let server = without_panic(|| Server::start(side, group));
            servers.insert((group, side), server);
        }
    }
    servers
}

fn one(
    conversation: &Conversation,
    side: Side,
    servers: &Servers,
    table: bool,
) -> Result<Observed, String> {
    if conversation.group == Group::Stopping {
        return without_panic(|| {
            let server = Server::start(side, Group::Stopping);
            let addr = server.addr;
            let server = Mutex::new(server);
            let stop = || server.lock().unwrap().stop_gracefully();
            play(addr, conversation, table, &stop)
        });
    }
    let server = servers
        .get(&(conversation.group, side))
        .expect("its group was started")
        .as_ref()
        .map_err(Clone::clone)?;
    let never = || panic!("servers that others share are not stopped");
    without_panic(|| play(server.addr, conversation, table, &never))
}

/// What `work` gives, or what it panicked with: the others are played all the same.
fn without_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| Some((*payload.downcast_ref::<&str>()?).to_owned()));
        text.unwrap_or_else(|| "it panicked".to_owned())
    })
}
