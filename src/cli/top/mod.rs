//! `warmline top`: a running proxy in the terminal, or once as plain text.
//!
//! One thread asks the proxy, this one draws and reads the keys. The terminal is given back as it was
//! however it ends: by a key, a signal or a panic.

mod columns;
mod draw;
mod snapshot;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::runtime::Builder;
use tokio::time::{MissedTickBehavior, interval};

use super::TopArgs;
use super::admin_client;
use super::stop::Stop;
use crate::server::AdminAddress;
use draw::{Palette, draw};
use snapshot::Snapshot;
use view::{Key, View};

/// How long a key or a signal may wait for its effect.
const GLANCE: Duration = Duration::from_millis(50);

/// What the other thread tells.
enum News {
    Answer(Result<Snapshot, String>),
    /// A signal asks for the end.
    Stop,
}

/// Shows it until told to stop; where nobody looks, or with `--once`, once.
pub(super) fn top(args: &TopArgs) -> ExitCode {
    let watched = io::stdout().is_terminal() && io::stdin().is_terminal();
    if args.once || !watched {
        return once(&args.admin);
    }
    match watch(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the terminal: {error}");
            ExitCode::FAILURE
        }
    }
}

fn once(at: &AdminAddress) -> ExitCode {
    let answer = admin_client::get(at, "/snapshot").map_err(|error| error.to_string());
    match answer.and_then(|text| Snapshot::read(&text)) {
        Ok(snapshot) => {
            let page = columns::page(&at.to_string(), &snapshot);
            // A reader that has gone is no reason to fail.
            let _ = io::stdout().write_all(page.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(args: &TopArgs) -> io::Result<()> {
    let (tell, news) = mpsc::channel();
    let (at, every) = (args.admin.clone(), args.interval);
    let (ready, begun) = mpsc::channel();
    thread::Builder::new()
        .name("ask".to_owned())
        .spawn(move || ask(&at, every, &tell, &ready))?;
    begun
        .recv()
        .map_err(|_| io::Error::other("the thread that asks ended at once"))??;
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let mut view = View::new(args.admin.to_string());
    // Also has a panic give the terminal back.
    let mut terminal = ratatui::try_init()?;
    let shown = show(&mut terminal, &mut view, &news, Palette::new(colour));
    ratatui::try_restore()?;
    shown
}

/// Asks again and again, until nobody listens or a signal comes.
fn ask(at: &AdminAddress, every: Duration, tell: &Sender<News>, ready: &Sender<io::Result<()>>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let mut stop = match Stop::listen() {
            Ok(stop) => stop,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let _ = ready.send(Ok(()));
        let mut clock = interval(every);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                () = async { stop.told().await; } => News::Stop,
                answer = async {
                    clock.tick().await;
                    admin_client::fetch(at, "/snapshot").await
                } => {
                    let answer = answer.map_err(|error| error.to_string());
                    News::Answer(answer.and_then(|text| Snapshot::read(&text)))
                }
            };
            let last = matches!(heard, News::Stop);
            if tell.send(heard).is_err() || last {
                return;
            }
        }
    });
}

fn show(
    terminal: &mut DefaultTerminal,
    view: &mut View,
    news: &Receiver<News>,
    palette: Palette,
) -> io::Result<()> {
    terminal.draw(|frame| draw(frame, view, palette))?;
    loop {
        let mut changed = false;
        while event::poll(if changed { Duration::ZERO } else { GLANCE })? {
            changed = true;
            if let Event::Key(pressed) = event::read()?
                && let Some(key) = meaning(pressed)
                && !view.press(key)
            {
                return Ok(());
            }
        }
        loop {
            match news.recv_timeout(Duration::ZERO) {
                Ok(News::Answer(answer)) => view.heard(answer),
                Ok(News::Stop) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(io::Error::other("the thread that asks has ended"));
                }
            }
            changed = true;
        }
        if changed {
            terminal.draw(|frame| draw(frame, view, palette))?;
        }
    }
}

/// What a key means here.
fn meaning(pressed: KeyEvent) -> Option<Key> {
    if pressed.kind == KeyEventKind::Release {
        return None;
    }
    // In raw mode Ctrl-C is a key.
    if pressed.modifiers.contains(KeyModifiers::CONTROL) {
        return (pressed.code == KeyCode::Char('c')).then_some(Key::Quit);
    }
    let code = pressed.code;
    [
        (KeyCode::Char('q'), Key::Quit),
        (KeyCode::Esc, Key::Back),
        (KeyCode::Up, Key::Up),
        (KeyCode::Char('k'), Key::Up),
        (KeyCode::Down, Key::Down),
        (KeyCode::Char('j'), Key::Down),
        (KeyCode::Home, Key::First),
        (KeyCode::End, Key::Last),
        (KeyCode::Char('p'), Key::Pause),
        (KeyCode::Char(' '), Key::Pause),
        (KeyCode::Char('?'), Key::Help),
    ]
    .into_iter()
    .find(|(known, _)| *known == code)
    .map(|(_, key)| key)
}
