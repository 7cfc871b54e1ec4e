//! Pictures as SVG: lines, stacked areas, bars. Colours are classes that the page's looks define; legends stand beside
//! the picture in HTML, so that no name ever lies over a line.

use std::fmt::Write as _;

use super::words::{digits, length};

/// The width of every picture in its own units; it is scaled to the page.
const WIDTH: f64 = 720.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 28.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;

/// Text as it may stand in HTML and SVG, also within quotes. Control characters are left out.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            letter if letter.is_control() && letter != '\n' && letter != '\t' => {}
            letter => out.push(letter),
        }
    }
    out
}

/// One axis: where it begins and ends, and what is written at which place.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    /// With its unit.
    pub(super) label: String,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From zero to a round number not below `most`.
    pub(super) fn linear(label: &str, most: f64) -> Axis {
        let most = if most.is_finite() && most > 0.0 {
            most
        } else {
            1.0
        };
        let rough = most / 4.0;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(rough);
        let count = (most / step - 1e-9).ceil().max(1.0);
        let mut ticks = Vec::new();
        let mut at = 0.0;
        while at <= count + 0.5 {
            ticks.push((at * step, tick(at * step)));
            at += 1.0;
        }
        Axis {
            label: label.to_owned(),
            low: 0.0,
            high: count * step,
            ticks,
        }
    }

    /// From zero to exactly `most`, with round numbers between.
    pub(super) fn until(label: &str, most: f64) -> Axis {
        let mut axis = Axis::linear(label, most);
        axis.high = most.max(f64::MIN_POSITIVE);
        axis.ticks.retain(|(at, _)| *at <= axis.high * 1.0001);
        axis
    }

    /// In powers of ten: places on it are logarithms. `show` writes a value.
    pub(super) fn logarithmic(
        label: &str,
        least: f64,
        most: f64,
        show: impl Fn(f64) -> String,
    ) -> Axis {
        let (low, high) = (least.log10(), most.log10().max(least.log10() + 0.3));
        let many = high - low > 2.5;
        let mut ticks = Vec::new();
        let mut power = low.floor();
        while power <= high {
            for digit in [1.0, 2.0, 5.0] {
                let at = power + f64::log10(digit);
                if (low - 1e-9..=high + 1e-9).contains(&at) && (digit < 1.5 || !many) {
                    ticks.push((at, show(10_f64.powf(at))));
                }
            }
            power += 1.0;
        }
        Axis {
            label: label.to_owned(),
            low,
            high,
            ticks,
        }
    }

    fn part(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

/// A tick without a fraction that says nothing.
fn tick(value: f64) -> String {
    if value >= 10_000.0 && value % 1000.0 < 0.5 {
        return format!(
            "{}k",
            digits(value / 1000.0)
                .trim_end_matches(".0")
                .trim_end_matches(".00")
        );
    }
    let text = digits(value);
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Its classes.
    pub(super) class: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A layer of a stack: at each place from where to where.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) class: String,
    pub(super) points: Vec<(f64, f64, f64)>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) class: String,
    pub(super) at: f64,
    pub(super) label: String,
}

/// When something went on: a row of bars below the picture.
#[derive(Clone, Debug)]
pub(super) struct Strip {
    pub(super) class: String,
    pub(super) spans: Vec<(f64, f64)>,
}

/// A picture with two axes.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    /// What a reader who cannot see it is told.
    pub(super) title: String,
    pub(super) height: f64,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) lines: Vec<Line>,
    pub(super) layers: Vec<Layer>,
    pub(super) marks: Vec<Mark>,
    pub(super) strips: Vec<Strip>,
}

impl Plot {
    /// As SVG.
    pub(super) fn svg(&self) -> String {
        let strips = 9.0 * length(self.strips.len());
        let height = self.height + strips;
        let bottom = self.height - BOTTOM;
        let x = |value: f64| LEFT + self.x.part(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| bottom - self.y.part(value) * (bottom - TOP);
        let mut out = open(height, &self.title);
        for (at, label) in &self.y.ticks {
            let at = y(*at);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 7.0,
                at + 4.0,
                escaped(label)
            );
        }
        for layer in &self.layers {
            if layer.points.is_empty() {
                continue;
            }
            let mut path = String::new();
            for (n, (at, _, high)) in layer.points.iter().enumerate() {
                let _ = write!(
                    path,
                    "{}{:.1} {:.1}",
                    if n == 0 { 'M' } else { 'L' },
                    x(*at),
                    y(*high)
                );
            }
            for (at, low, _) in layer.points.iter().rev() {
                let _ = write!(path, "L{:.1} {:.1}", x(*at), y(*low));
            }
            let _ = write!(out, "<path class=\"area {}\" d=\"{path}Z\"/>", layer.class);
        }
        let _ = write!(
            out,
            "<path class=\"base\" d=\"M{LEFT} {bottom:.1}H{:.1}\"/>",
            WIDTH - RIGHT
        );
        for line in &self.lines {
            let mut path = String::new();
            for (n, (at, value)) in line.points.iter().enumerate() {
                let _ = write!(
                    path,
                    "{}{:.1} {:.1}",
                    if n == 0 { 'M' } else { 'L' },
                    x(*at),
                    y(*value)
                );
            }
            let _ = write!(out, "<path class=\"line {}\" d=\"{path}\"/>", line.class);
        }
        for (n, strip) in self.strips.iter().enumerate() {
            let top = bottom + 5.0 + 9.0 * length(n);
            for (from, to) in &strip.spans {
                let _ = write!(
                    out,
                    "<rect class=\"strip {}\" x=\"{:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"6\"/>",
                    strip.class,
                    x(*from),
                    (x(*to) - x(*from)).max(1.0)
                );
            }
        }
        for (n, mark) in self.marks.iter().enumerate() {
            let at = x(mark.at);
            let late = at > WIDTH * 0.6;
            let _ = write!(
                out,
                "<path class=\"mark {}\" d=\"M{at:.1} {TOP}V{bottom:.1}\"/><text class=\"mark-text\" x=\"{:.1}\" y=\"{:.1}\"{}>{}</text>",
                mark.class,
                if late { at - 5.0 } else { at + 5.0 },
                TOP - 5.0 + 18.0 * length(n),
                if late { " text-anchor=\"end\"" } else { "" },
                escaped(&mark.label)
            );
        }
        let below = bottom + strips;
        for (at, label) in &self.x.ticks {
            let at = x(*at);
            let _ = write!(
                out,
                "<path class=\"base\" d=\"M{at:.1} {bottom:.1}v4\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                below + 18.0,
                escaped(label)
            );
        }
        let _ = write!(
            out,
            "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"axis\" x=\"0\" y=\"14\">{}</text></svg>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            below + 38.0,
            escaped(&self.x.label),
            escaped(&self.y.label)
        );
        out
    }
}

/// One bar of parts, with a whisker from its least to its most.
#[derive(Clone, Debug)]
pub(super) struct Bar {
    /// Above it.
    pub(super) name: String,
    /// Classes and lengths, from the left.
    pub(super) parts: Vec<(String, f64)>,
    pub(super) whisker: Option<(f64, f64)>,
    /// Behind it.
    pub(super) value: String,
}

/// Bars below each other, in groups with a heading.
pub(super) fn bars(title: &str, label: &str, groups: &[(String, Vec<Bar>)]) -> String {
    const TOP: f64 = 6.0;
    const ROW: f64 = 24.0;
    const HEADING: f64 = 24.0;
    const NAMES: f64 = 92.0;
    const VALUES: f64 = 96.0;
    let all = || groups.iter().flat_map(|(_, bars)| bars);
    let sum = |bar: &Bar| bar.parts.iter().map(|(_, part)| part).sum::<f64>();
    let end = |bar: &Bar| sum(bar).max(bar.whisker.map_or(0.0, |(_, high)| high));
    let most = all().map(end).fold(0.0, f64::max);
    let axis = Axis::linear(label, most);
    let rows = ROW * length(all().count()) + HEADING * length(groups.len());
    let height = TOP + rows + BOTTOM;
    let x = |value: f64| NAMES + axis.part(value) * (WIDTH - NAMES - VALUES);
    let mut out = open(height, title);
    let bottom = TOP + rows;
    for (at, tick) in &axis.ticks {
        let at = x(*at);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom:.1}\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 16.0,
            escaped(tick)
        );
    }
    let mut top = TOP;
    for (heading, bars) in groups {
        let _ = write!(
            out,
            "<text class=\"group\" x=\"0\" y=\"{:.1}\">{}</text>",
            top + 16.0,
            escaped(heading)
        );
        top += HEADING;
        for bar in bars {
            let middle = top + ROW / 2.0 - 2.0;
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                NAMES - 8.0,
                middle + 4.0,
                escaped(&bar.name)
            );
            let mut from = 0.0;
            for (class, part) in &bar.parts {
                let _ = write!(
                    out,
                    "<rect class=\"bar {class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"16\"/>",
                    x(from),
                    middle - 8.0,
                    (x(from + part) - x(from)).max(0.0)
                );
                from += part;
            }
            if let Some((low, high)) = bar.whisker {
                let (low, high) = (x(low), x(high));
                let _ = write!(
                    out,
                    "<path class=\"whisker\" d=\"M{low:.1} {middle:.1}H{high:.1}M{low:.1} {:.1}v8M{high:.1} {:.1}v8\"/>",
                    middle - 4.0,
                    middle - 4.0
                );
            }
            let _ = write!(
                out,
                "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                x(end(bar)) + 8.0,
                middle + 4.0,
                escaped(&bar.value)
            );
            top += ROW;
        }
    }
    let _ = write!(
        out,
        "<text class=\"axis\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text></svg>",
        f64::midpoint(NAMES, WIDTH - VALUES),
        bottom + 36.0,
        escaped(label)
    );
    out
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {WIDTH} {height:.0}\"><title>{}</title>",
        escaped(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        assert_eq!(
            escaped("<b a='1' c=\"2\">&\u{1b}[1m"),
            "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;[1m"
        );
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, high, count) in [
            (0.0, 1.0, 5),
            (610.0, 800.0, 5),
            (28_232.0, 30_000.0, 4),
            (1.0, 1.0, 5),
            (f64::NAN, 1.0, 5),
        ] {
            let axis = Axis::linear("", most);
            assert!((axis.high - high).abs() < 1e-9, "{most}: {}", axis.high);
            assert_eq!(axis.ticks.len(), count, "{most}: {:?}", axis.ticks);
        }
        assert_eq!(Axis::linear("", 28_232.0).ticks[1].1, "10k");
    }

    #[test]
    fn powers_of_ten_have_their_places() {
        let axis = Axis::logarithmic("", 80.0, 1200.0, digits);
        let labels: Vec<_> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["100", "200", "500", "1,000"]);
    }
}
