//! Who follows the figures as they change: server-sent events.
//!
//! Source: the HTML standard, "Server-sent events".

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::{Notify, mpsc};

/// The type of a stream of events.
pub(super) const CONTENT_TYPE: &str = "text/event-stream";

/// How many may follow at once.
pub(super) const MOST: usize = 16;

/// How many events may wait for one who reads slowly; then it is let go.
const BEHIND: usize = 3;

/// What a connection is known by.
#[derive(Default)]
pub(super) struct Link {
    /// Whether events go over it: it may then last for as long as its peer wants.
    pub(super) follows: Cell<bool>,
    /// Told when it is to end.
    pub(super) over: Notify,
}

/// All who follow.
#[derive(Default)]
pub(super) struct Audience(RefCell<Vec<Follower>>);

struct Follower {
    events: mpsc::Sender<Bytes>,
    link: Rc<Link>,
}

/// The events for one of them, as a body without an end.
pub(super) struct Events(mpsc::Receiver<Bytes>);

impl Audience {
    /// Takes one in, with its first event; `None` if there are as many as may be.
    pub(super) fn admit(&self, link: &Rc<Link>, first: Bytes) -> Option<Events> {
        let mut followers = self.0.borrow_mut();
        followers.retain(|follower| !follower.events.is_closed());
        if followers.len() >= MOST {
            return None;
        }
        let (events, body) = mpsc::channel(BEHIND);
        events.try_send(first).ok()?;
        link.follows.set(true);
        followers.push(Follower {
            events,
            link: Rc::clone(link),
        });
        Some(Events(body))
    }

    /// Whether anybody follows.
    pub(super) fn is_there(&self) -> bool {
        let mut followers = self.0.borrow_mut();
        followers.retain(|follower| !follower.events.is_closed());
        !followers.is_empty()
    }

    /// Sends all of them this event. Who is too far behind is let go.
    pub(super) fn tell(&self, event: &Bytes) {
        self.0
            .borrow_mut()
            .retain(|follower| match follower.events.try_send(event.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    follower.link.over.notify_one();
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            });
    }
}

/// One event with this text, which has no line breaks.
pub(super) fn event(text: &str) -> Bytes {
    Bytes::from(format!("data: {text}\n\n"))
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = std::task::ready!(self.0.poll_recv(cx));
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_taken_in_than_may_be_and_who_is_behind_is_let_go() {
        let audience = Audience::default();
        let link = Rc::new(Link::default());
        let mut all: Vec<_> = (0..MOST)
            .map(|_| audience.admit(&link, event("first")).unwrap())
            .collect();
        assert!(audience.admit(&link, event("first")).is_none());

        // One reads; nobody else does.
        for _ in 0..BEHIND {
            let reader = &mut all[0];
            assert!(reader.0.try_recv().is_ok());
            audience.tell(&event("next"));
        }
        assert_eq!(audience.0.borrow().len(), 1);
        assert!(audience.is_there());
        drop(all);
        assert!(!audience.is_there());
        assert!(audience.admit(&link, event("first")).is_some());
    }
}
