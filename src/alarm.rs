//! Deadlines that move with every request, at the cost of a memory access.
//!
//! A timer of the runtime is re-registered whenever it is moved, and a connection's deadline moves
//! several times in each exchange. An [`Alarm`] only notes its deadline; the worker's one
//! [`Alarms`] task looks at it when the note it has *on file* comes due, and files it again if the
//! deadline has moved on by then. So a busy connection is looked at once in a few seconds, and the
//! deadline is still kept exactly.

use std::cell::{Cell, RefCell};
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A note is filed for at most this far ahead, so that the notes of connections that are long gone
/// do not pile up: at 10,000 new connections a second there are 50,000 of them.
const FILE_AHEAD: Duration = Duration::from_secs(5);

/// One worker's alarms, and the task that rings them.
#[derive(Clone, Default)]
pub struct Alarms(Rc<Agenda>);

#[derive(Default)]
struct Agenda {
    notes: RefCell<BinaryHeap<Reverse<Note>>>,
    /// What the task sleeps until; `None` while it has nothing on file.
    wakes_at: Cell<Option<Instant>>,
    sooner: Notify,
}

struct Note {
    at: Instant,
    alarm: Rc<Entry>,
}

struct Entry {
    due: Cell<Option<Instant>>,
    /// When the earliest note of this alarm comes up; later ones are void.
    filed: Cell<Option<Instant>>,
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// A deadline that wakes a task.
pub struct Alarm {
    entry: Rc<Entry>,
    agenda: Rc<Agenda>,
}

impl Alarms {
    /// An alarm without a deadline.
    pub fn alarm(&self) -> Alarm {
        Alarm {
            entry: Rc::new(Entry {
                due: Cell::new(None),
                filed: Cell::new(None),
                rung: Cell::new(false),
                waker: RefCell::new(None),
            }),
            agenda: Rc::clone(&self.0),
        }
    }

    /// Rings alarms as they come due, for ever.
    pub async fn run(self) {
        let agenda = self.0;
        loop {
            let next = agenda.ring(Instant::now());
            agenda.wakes_at.set(next);
            let sooner = agenda.sooner.notified();
            match next {
                Some(at) => {
                    let _moved = tokio::time::timeout_at(at, sooner).await;
                }
                None => sooner.await,
            }
        }
    }
}

impl Agenda {
    fn file(&self, entry: &Rc<Entry>, now: Instant, due: Instant) {
        let at = due.min(now + FILE_AHEAD);
        entry.filed.set(Some(at));
        self.notes.borrow_mut().push(Reverse(Note {
            at,
            alarm: Rc::clone(entry),
        }));
        if self.wakes_at.get().is_none_or(|wakes| at < wakes) {
            self.wakes_at.set(Some(at));
            self.sooner.notify_one();
        }
    }

    /// Rings what is due at `now`; says when to look again.
    fn ring(&self, now: Instant) -> Option<Instant> {
        loop {
            let entry = {
                let mut notes = self.notes.borrow_mut();
                let at = notes.peek()?.0.at;
                if at > now {
                    return Some(at);
                }
                let Reverse(note) = notes.pop().expect("one was just seen");
                if note.alarm.filed.get() != Some(at) {
                    continue;
                }
                note.alarm
            };
            entry.filed.set(None);
            match entry.due.get() {
                Some(due) if due <= now => {
                    entry.due.set(None);
                    entry.rung.set(true);
                    entry.wake();
                }
                Some(due) => {
                    self.wakes_at.set(Some(now));
                    self.file(&entry, now, due);
                }
                None => {}
            }
        }
    }
}

impl Entry {
    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

impl Alarm {
    /// Whom to wake.
    pub fn wakes(&self, waker: &Waker) {
        let mut current = self.entry.waker.borrow_mut();
        if !current
            .as_ref()
            .is_some_and(|current| current.will_wake(waker))
        {
            *current = Some(waker.clone());
        }
    }

    /// Wakes the task now, without ringing.
    pub fn wake(&self) {
        self.entry.wake();
    }

    /// Moves the deadline.
    pub fn set(&self, due: Option<Instant>) {
        self.entry.due.set(due);
        let Some(due) = due else { return };
        if self.entry.filed.get().is_none_or(|filed| due < filed) {
            // Filing is rare; only it needs to know the time.
            self.agenda.file(&self.entry, Instant::now(), due);
        }
    }

    /// Whether the deadline has passed since this was last asked.
    pub fn has_rung(&self) -> bool {
        self.entry.rung.replace(false)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.entry.due.set(None);
        self.entry.waker.borrow_mut().take();
    }
}

impl PartialEq for Note {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Note {}

impl PartialOrd for Note {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Note {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_deadline_that_moved_on_rings_at_its_new_time_only() {
        let alarms = Alarms::default();
        let alarm = alarms.alarm();
        let start = Instant::now();
        alarm.set(Some(start + ms(100)));
        alarm.set(Some(start + ms(900)));
        alarms.0.ring(start + ms(100));
        assert!(!alarm.has_rung());
        alarms.0.ring(start + ms(899));
        assert!(!alarm.has_rung());
        alarms.0.ring(start + ms(900));
        assert!(alarm.has_rung());
        assert!(!alarm.has_rung(), "it rings once");
    }

    #[test]
    fn a_deadline_moved_closer_rings_at_the_closer_time() {
        let alarms = Alarms::default();
        let alarm = alarms.alarm();
        let start = Instant::now();
        alarm.set(Some(start + ms(60_000)));
        alarm.set(Some(start + ms(50)));
        alarms.0.ring(start + ms(50));
        assert!(alarm.has_rung());
    }

    #[test]
    fn notes_of_dropped_alarms_lapse() {
        let alarms = Alarms::default();
        for _ in 0..100 {
            alarms
                .alarm()
                .set(Some(Instant::now() + Duration::from_secs(3600)));
        }
        assert_eq!(alarms.0.notes.borrow().len(), 100);
        assert_eq!(alarms.0.ring(Instant::now() + FILE_AHEAD + ms(1)), None);
    }

    proptest! {
        /// Whatever moves, each alarm has rung at the first look at or after its last deadline, and
        /// not before it.
        #[test]
        fn alarms_ring_on_time(moves in prop::collection::vec((0..4usize, prop::option::of(1..20_000u64), 0..3_000u64), 1..100)) {
            let alarms = Alarms::default();
            let list: Vec<Alarm> = (0..4).map(|_| alarms.alarm()).collect();
            let mut due = [None; 4];
            // Filing reads the clock itself, so the script lies ahead of it.
            let mut now = Instant::now();
            for (which, after, step) in moves {
                due[which] = after.map(|after| now + ms(after));
                list[which].set(due[which]);
                let next = now + ms(step);
                // As the task does: look whenever a note comes up, until `next`.
                while let Some(at) = alarms.0.ring(now) {
                    if at > next { break; }
                    now = at;
                }
                now = next;
                alarms.0.ring(now);
                for (alarm, due) in list.iter().zip(&mut due) {
                    let late = due.is_some_and(|at| at <= now);
                    prop_assert_eq!(alarm.has_rung(), late);
                    if late { *due = None; }
                }
            }
        }
    }
}
