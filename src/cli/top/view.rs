//! What is looked at: the last snapshot, what came before it, and which backend is selected. Keys change
//! it; nothing here draws.

use std::collections::{HashMap, VecDeque};

use crate::quantity::whole;

use super::snapshot::{Backend, Snapshot};

/// How many snapshots back the graphs reach.
pub(super) const HISTORY: usize = 240;

/// All that is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Where the proxy is asked.
    pub(super) at: String,
    /// The last that was heard of it.
    pub(super) snapshot: Option<Snapshot>,
    /// Why nothing newer was heard, if that is so.
    pub(super) trouble: Option<String>,
    pub(super) paused: bool,
    pub(super) help: bool,
    selected: usize,
    history: HashMap<Name, History>,
}

/// A backend by upstream and address.
type Name = (String, String);

/// What is drawn over time, the latest last.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub(super) time_waits: VecDeque<u64>,
    pub(super) connects: VecDeque<u64>,
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    /// Esc: out of the help, or out altogether.
    Back,
    Up,
    Down,
    First,
    Last,
    Pause,
    Help,
}

impl View {
    /// Of a proxy that is asked at `at`, before it is.
    pub(super) fn new(at: String) -> View {
        View {
            at,
            ..View::default()
        }
    }

    /// Takes what was heard. While paused nothing changes but whether the proxy is there.
    pub(super) fn heard(&mut self, answer: Result<Snapshot, String>) {
        match answer {
            Ok(snapshot) => {
                self.trouble = None;
                if !self.paused {
                    self.remember(&snapshot);
                    // The same backend stays selected where others come and go.
                    let name = self.selected_backend().map(name_of);
                    let place = snapshot
                        .backends
                        .iter()
                        .position(|backend| Some(name_of(backend)) == name);
                    let last = snapshot.backends.len().saturating_sub(1);
                    self.selected = place.unwrap_or(self.selected).min(last);
                    self.snapshot = Some(snapshot);
                }
            }
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    fn remember(&mut self, snapshot: &Snapshot) {
        let names: Vec<_> = snapshot.backends.iter().map(name_of).collect();
        self.history.retain(|name, _| names.contains(name));
        for (backend, name) in snapshot.backends.iter().zip(names) {
            let history = self.history.entry(name).or_default();
            let connects = backend.connects_per_second.unwrap_or(0.0).round();
            for (values, value) in [
                (&mut history.time_waits, backend.time_waits().unwrap_or(0)),
                (&mut history.connects, whole(connects)),
            ] {
                values.push_back(value);
                if values.len() > HISTORY {
                    values.pop_front();
                }
            }
        }
    }

    /// What a key does. False: the end.
    pub(super) fn press(&mut self, key: Key) -> bool {
        let last = self.backends().len().saturating_sub(1);
        match key {
            Key::Quit => return false,
            Key::Back if !self.help => return false,
            Key::Back => self.help = false,
            Key::Up => self.selected = self.selected.saturating_sub(1),
            Key::Down => self.selected = (self.selected + 1).min(last),
            Key::First => self.selected = 0,
            Key::Last => self.selected = last,
            Key::Pause => self.paused = !self.paused,
            Key::Help => self.help = !self.help,
        }
        true
    }

    /// All backends.
    pub(super) fn backends(&self) -> &[Backend] {
        self.snapshot
            .as_ref()
            .map_or(&[][..], |snapshot| &snapshot.backends)
    }

    /// The place of the selected one among them.
    pub(super) fn selected(&self) -> usize {
        self.selected
    }

    /// The selected one.
    pub(super) fn selected_backend(&self) -> Option<&Backend> {
        self.backends().get(self.selected)
    }

    /// What was heard of it before.
    pub(super) fn selected_history(&self) -> Option<&History> {
        self.history.get(&name_of(self.selected_backend()?))
    }
}

fn name_of(backend: &Backend) -> Name {
    (backend.upstream.clone(), backend.address.clone())
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::fixture;
    use super::*;

    #[test]
    fn the_same_backend_stays_selected_where_others_come_and_go() {
        let mut view = View::new("x".to_owned());
        assert!(view.press(Key::Down), "nothing is there to be selected");
        view.heard(Ok(fixture()));
        assert_eq!(view.selected(), 0);
        assert!(view.press(Key::Down) && view.press(Key::Down));
        assert_eq!(view.selected_backend().unwrap().upstream, "old");
        let mut less = fixture();
        less.backends.remove(0);
        view.heard(Ok(less.clone()));
        assert_eq!(view.selected(), 0);
        assert_eq!(view.selected_backend().unwrap().upstream, "old");
        assert_eq!(view.selected_history().unwrap().time_waits, [22_860; 2]);
        less.backends.clear();
        view.heard(Ok(less));
        assert_eq!(view.selected_backend(), None);
        view.heard(Ok(fixture()));
        assert!(view.press(Key::Last) && view.press(Key::First) && view.press(Key::Up));
        assert_eq!(view.selected(), 0);
    }

    #[test]
    fn a_pause_keeps_what_is_there_and_trouble_is_told_all_the_same() {
        let mut view = View::new("x".to_owned());
        view.heard(Ok(fixture()));
        assert!(view.press(Key::Pause));
        view.heard(Ok(Snapshot::default()));
        assert_eq!(view.backends().len(), 2);
        view.heard(Err("no proxy answers".to_owned()));
        assert_eq!(view.trouble.as_deref(), Some("no proxy answers"));
        assert_eq!(view.backends().len(), 2);
        assert!(view.press(Key::Pause));
        view.heard(Ok(Snapshot::default()));
        assert_eq!((view.backends().len(), &view.trouble), (0, &None));
    }

    #[test]
    fn esc_leaves_the_help_first() {
        let mut view = View::new("x".to_owned());
        assert!(view.press(Key::Help) && view.press(Key::Back));
        assert!(!view.help);
        assert!(!view.press(Key::Back));
        assert!(!view.press(Key::Quit));
    }

    #[test]
    fn the_history_has_an_end() {
        let mut view = View::new("x".to_owned());
        for _ in 0..HISTORY + 5 {
            view.heard(Ok(fixture()));
        }
        let history = view.selected_history().unwrap();
        assert_eq!(
            (history.time_waits.len(), history.connects.len()),
            (HISTORY, HISTORY)
        );
    }
}
