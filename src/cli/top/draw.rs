//! The screen, drawn from a [`View`].

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph, Sparkline, Wrap};

use crate::quantity::{grouped, span};

use super::columns::{header, short_time, table};
use super::snapshot::{Backend, Cell};
use super::view::{History, View};

/// Below this many lines only the table is drawn.
const LOW: u16 = 14;

/// Below this many columns what stands side by side is cut to its first half.
const NARROW: u16 = 70;

/// The lines of a graph, its frame included: a third of the screen, within these.
const GRAPH: (u16, u16) = (4, 12);

/// What is coloured, and how; without colour only bold and reversed are left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Palette {
    colour: bool,
}

impl Palette {
    /// With colours or without.
    pub(super) fn new(colour: bool) -> Palette {
        Palette { colour }
    }

    fn of(self, colour: Color) -> Style {
        if self.colour {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    fn heading(self) -> Style {
        self.of(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn alarm(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn warning(self) -> Style {
        self.of(Color::Yellow)
    }

    fn good(self) -> Style {
        self.of(Color::Green)
    }
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View, palette: Palette) {
    let area = frame.area();
    let [top, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head(view, palette)), top);
    match &view.snapshot {
        None => {
            let text = view.trouble.as_deref().unwrap_or("asking the proxy");
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), body);
        }
        Some(_) => draw_body(frame, body, view, palette),
    }
    let keys = if view.paused {
        "p go on   q quit   arrows select   ? help"
    } else {
        "q quit   arrows select   p pause   ? help"
    };
    frame.render_widget(Paragraph::new(keys).style(Modifier::DIM), foot);
    if view.help {
        draw_help(frame, area, palette);
    }
}

/// Who it is, and whether it is still there.
fn head(view: &View, palette: Palette) -> Vec<Line<'_>> {
    let first = match &view.snapshot {
        Some(snapshot) => header(&view.at, snapshot),
        None => format!("Warmline at {}", view.at),
    };
    let second = match (&view.trouble, view.paused) {
        (Some(trouble), _) => Line::styled(
            format!("proxy gone, trying again: {trouble}"),
            palette.alarm(),
        ),
        (None, true) => Line::styled("paused", palette.warning()),
        (None, false) => Line::default(),
    };
    vec![Line::styled(first, palette.heading()), second]
}

fn draw_body(frame: &mut Frame<'_>, area: Rect, view: &View, palette: Palette) {
    let rows = u16::try_from(view.backends().len()).unwrap_or(u16::MAX);
    if area.height < LOW {
        draw_table(frame, area, view, palette);
        return;
    }
    // The table has what it needs, up to half of the screen.
    let wanted = rows.saturating_add(2).min(area.height / 2);
    let [above, words, graphs, below] = Layout::vertical([
        Constraint::Length(wanted),
        Constraint::Length(3),
        Constraint::Length((area.height / 3).clamp(GRAPH.0, GRAPH.1)),
        Constraint::Min(0),
    ])
    .areas(area);
    draw_table(frame, above, view, palette);
    let Some(backend) = view.selected_backend() else {
        return;
    };
    draw_words(frame, words, backend, palette);
    let halves = |area: Rect| {
        let share = if area.width < NARROW { 100 } else { 50 };
        let parts = [Constraint::Percentage(share), Constraint::Min(0)];
        Layout::horizontal(parts).spacing(2).areas(area)
    };
    let [left, right] = halves(graphs);
    if let Some(history) = view.selected_history() {
        draw_graphs(frame, [left, right], history, palette);
    }
    let [left, right] = halves(below);
    draw_states(frame, left, backend);
    if right.width > 0 {
        draw_cells(frame, right, backend, palette);
    }
}

/// The backends, with the selected one in sight.
fn draw_table(frame: &mut Frame<'_>, area: Rect, view: &View, palette: Palette) {
    let lines = table(view.backends(), usize::from(area.width).saturating_sub(2));
    let visible = usize::from(area.height).saturating_sub(1).max(1);
    let skipped = (view.selected() + 1).saturating_sub(visible);
    let mut shown = Vec::new();
    for (at, line) in lines.into_iter().enumerate() {
        let Some(row) = at.checked_sub(1) else {
            shown.push(Line::styled(format!("  {line}"), palette.heading()));
            continue;
        };
        if row < skipped {
            continue;
        }
        let (mark, style) = if row == view.selected() {
            ("> ", Style::new().add_modifier(Modifier::REVERSED))
        } else {
            ("  ", Style::new())
        };
        let style = style.patch(style_of(&view.backends()[row], palette));
        shown.push(Line::styled(format!("{mark}{line}"), style));
    }
    if view.backends().is_empty() {
        shown.push(Line::raw("  no backends"));
    }
    frame.render_widget(Paragraph::new(shown), area);
}

/// Red with ports for less than a minute or a tenth of them left, yellow below half.
fn style_of(backend: &Backend, palette: Palette) -> Style {
    let Some(lane) = backend.scarcest() else {
        return Style::new();
    };
    let soon = backend
        .lanes
        .iter()
        .filter_map(|lane| lane.seconds_left)
        .any(|left| left.as_secs() < 60);
    if soon || lane.left * 10 < lane.ports {
        palette.alarm()
    } else if lane.left * 2 < lane.ports {
        palette.warning()
    } else {
        Style::new()
    }
}

/// The selected backend in words: its ports, and its times.
fn draw_words(frame: &mut Frame<'_>, area: Rect, backend: &Backend, palette: Palette) {
    let mut lines = vec![Line::styled(
        format!("{} {}", backend.upstream, backend.address),
        palette.heading(),
    )];
    let lane = backend.scarcest().filter(|lane| !lane.sentence.is_empty());
    lines.extend(lane.map(|lane| Line::styled(lane.sentence.as_str(), style_of(backend, palette))));
    if let Some(p50) = backend.p50 {
        let p99 = backend.p99.map_or_else(|| "-".to_owned(), short_time);
        lines.push(Line::raw(format!(
            "half of the exchanges take less than {}, 99 in 100 less than {p99}",
            short_time(p50)
        )));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_graphs(frame: &mut Frame<'_>, areas: [Rect; 2], history: &History, palette: Palette) {
    for (area, what, values, style) in [
        (
            areas[0],
            "TIME_WAIT here",
            &history.time_waits,
            palette.warning(),
        ),
        (areas[1], "connects/s", &history.connects, palette.good()),
    ] {
        if area.width < 4 {
            continue;
        }
        let now = values.back().copied().unwrap_or(0);
        let most = values.iter().copied().max().unwrap_or(0);
        let block = Block::new().borders(Borders::TOP).title(format!(
            " {what}: {}, at most {} ",
            grouped(now),
            grouped(most)
        ));
        let room = usize::from(area.width);
        let skipped = values.len().saturating_sub(room);
        let latest: Vec<u64> = values.iter().skip(skipped).copied().collect();
        let graph = Sparkline::default()
            .block(block)
            .style(style)
            .max(most.max(1))
            .data(&latest);
        frame.render_widget(graph, area);
    }
}

fn draw_states(frame: &mut Frame<'_>, area: Rect, backend: &Backend) {
    let block = Block::new()
        .borders(Borders::TOP)
        .title(" TCP states: towards it, its side ");
    let lines: Vec<Line<'_>> = match &backend.states {
        None => vec![Line::raw("not counted for this backend")],
        Some(states) if states.is_empty() => vec![Line::raw("no sockets")],
        Some(states) => states
            .iter()
            .map(|count| {
                Line::raw(format!(
                    "{:<11} {:>9} {:>9}  {}",
                    count.of.name(),
                    grouped(count.towards),
                    grouped(count.own),
                    count.of.meaning()
                ))
            })
            .collect(),
    };
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Each connection: what it does, the requests it has carried, its age.
fn draw_cells(frame: &mut Frame<'_>, area: Rect, backend: &Backend, palette: Palette) {
    /// The width of one.
    const CELL: usize = 18;
    let block = Block::new()
        .borders(Borders::TOP)
        .title(" connections: ■ busy □ idle ◌ opening, requests, age ");
    let across = (usize::from(area.width) / CELL).max(1);
    let rows = usize::from(area.height).saturating_sub(1);
    let mut lines = Vec::new();
    let mut cells: Vec<&Cell> = backend.cells.iter().collect();
    cells.sort_by_key(|cell| std::cmp::Reverse(cell.age));
    let room = across * rows;
    for row in cells.chunks(across).take(rows) {
        let spans = row.iter().map(|cell| {
            let (mark, style) = match cell.state.as_str() {
                "leased" => ("■", palette.warning()),
                "opening" => ("◌", palette.of(Color::Blue)),
                _ => ("□", palette.good()),
            };
            let text = format!("{mark} {} {}", grouped(cell.requests), span(cell.age));
            Span::styled(format!("{text:CELL$}"), style)
        });
        lines.push(spans.collect::<Line<'_>>());
    }
    if cells.len() > room && !lines.is_empty() {
        lines.pop();
        let shown = lines.len() * across;
        lines.push(Line::raw(format!(
            "and {} more",
            grouped((cells.len() - shown) as u64)
        )));
    }
    if cells.is_empty() {
        lines.push(Line::raw("none open"));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

const HELP: &str = "\
q, Esc       quit
Up, k        the backend above
Down, j      the backend below
Home, End    the first, the last
p, Space     pause, go on
?            this

arm      pooled, or short: a connection for each request
TW here  TIME_WAIT sockets of this side: each holds a port
TW there those of the backend's side, if it is on this machine
last     when no port is left, at this rate
";

fn draw_help(frame: &mut Frame<'_>, area: Rect, palette: Palette) {
    let height = u16::try_from(HELP.lines().count() + 2).expect("it is short");
    let width = 66.min(area.width);
    let height = height.min(area.height);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    let block = Block::bordered()
        .title(" Help ")
        .title_alignment(Alignment::Center)
        .border_style(palette.heading());
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(HELP).block(block), place);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    use super::super::snapshot::tests::fixture;
    use super::super::view::Key;
    use super::*;

    fn screen(view: &View, width: u16, height: u16, colour: bool) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal
            .draw(|frame| draw(frame, view, Palette::new(colour)))
            .unwrap();
        terminal.backend().buffer().clone()
    }

    fn text(view: &View, width: u16, height: u16) -> String {
        let buffer = screen(view, width, height, true);
        let rows = buffer.content().chunks(usize::from(width));
        let rows = rows.map(|row| {
            let row: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
            format!("{}\n", row.trim_end())
        });
        rows.collect()
    }

    fn view() -> View {
        let mut view = View::new("127.0.0.1:9180".to_owned());
        for _ in 0..3 {
            view.heard(Ok(fixture()));
        }
        view
    }

    #[test]
    fn the_screen_has_the_table_the_graphs_the_states_and_the_connections() {
        let mut view = view();
        let said = text(&view, 110, 24);
        assert_eq!(
            said,
            "\
Warmline 0.1.0 at 127.0.0.1:9180  up 12 min  1,610 requests/s  56 clients  2 workers

  upstream  backend        arm     req/s  conn/s  reuse  idle  busy  TW here  ports left                last
> app       10.0.0.5:80    pooled  1,000     1.0  99.9%     3     2        0      28,227  ███████▉  for ever
  old       10.0.0.6:8080  short     610     610   0.0%     0     4   22,860       5,367  █▌······     8.8 s

app 10.0.0.5:80
at 1.0 connects/s to 10.0.0.5:80 the 28,227 ports left of 28,232 do not run out: 61 are in TIME_WAIT at a time
half of the exchanges take less than 1.2 ms, 99 in 100 less than 18 ms
 TIME_WAIT here: 0, at most 0 ─────────────────────────   connects/s: 1, at most 1 ───────────────────────────
                                                         ███
                                                         ███
                                                         ███
                                                         ███
                                                         ███
                                                         ███
 TCP states: towards it, its side ─────────────────────   connections: ■ busy □ idle ◌ opening, requests, age
ESTABLISHED         5         0  open                    □ 990 11 min      ■ 812 301 s
FIN_WAIT2           1         0  closed by this side fi  ■ 64 44 s         □ 15 12 s
                                                         □ 1 2 s



q quit   arrows select   p pause   ? help
"
        );
        assert!(view.press(Key::Down));
        let said = text(&view, 110, 24);
        assert!(
            said.contains("the 5,367 ports left of 28,232 last 8.8 s"),
            "{said}"
        );
    }

    #[test]
    fn a_small_terminal_keeps_the_table_and_none_is_too_small() {
        let view = view();
        for (width, height) in [
            (40, 8),
            (60, 16),
            (1, 1),
            (2, 2),
            (10, 3),
            (300, 100),
            (80, 24),
        ] {
            let said = text(&view, width, height);
            if width >= 40 {
                assert!(said.contains("10.0.0.5:80"), "{width}x{height}:\n{said}");
            }
            if width >= 80 {
                assert!(said.contains("TIME_WAIT here: 0"), "{said}");
                assert!(said.contains("■ 812 301 s"), "{said}");
            }
        }
    }

    #[test]
    fn a_proxy_that_has_gone_leaves_what_was_last_heard() {
        let mut view = view();
        view.heard(Err(
            "no proxy answers at 127.0.0.1:9180: connection refused".to_owned(),
        ));
        let said = text(&view, 110, 24);
        assert!(
            said.contains("proxy gone, trying again: no proxy answers"),
            "{said}"
        );
        assert!(said.contains("10.0.0.5:80"), "{said}");
        let mut never = View::new("127.0.0.1:9180".to_owned());
        assert!(text(&never, 110, 24).contains("asking the proxy"));
        never.heard(Err("no proxy answers at x".to_owned()));
        assert!(text(&never, 110, 24).contains("no proxy answers at x"));
    }

    #[test]
    fn help_and_pause_are_seen() {
        let mut view = view();
        assert!(view.press(Key::Help) && view.press(Key::Pause));
        let said = text(&view, 110, 24);
        assert!(
            said.contains("TW here  TIME_WAIT sockets of this side"),
            "{said}"
        );
        assert!(said.contains("\npaused"), "{said}");
    }

    #[test]
    fn without_colour_nothing_is_coloured() {
        let mut view = view();
        assert!(view.press(Key::Help));
        for colour in [true, false] {
            let buffer = screen(&view, 110, 30, colour);
            let coloured = buffer.content().iter().any(|cell| cell.fg != Color::Reset);
            assert_eq!(coloured, colour);
        }
    }

    #[test]
    fn the_selected_backend_is_in_sight_among_many() {
        let mut many = fixture();
        let one = many.backends[0].clone();
        many.backends = (0..50)
            .map(|number| Backend {
                address: format!("10.0.1.{number}:80"),
                ..one.clone()
            })
            .collect();
        let mut view = View::new("x".to_owned());
        view.heard(Ok(many));
        assert!(view.press(Key::Last));
        assert!(text(&view, 110, 24).contains("> app       10.0.1.49:80"));
        assert!(text(&view, 60, 8).contains("> app       10.0.1.49:80"));
    }
}
