//! A page at `/metrics`, read. Source: Prometheus' text exposition format, version 0.0.4.
//!
//! Lines that cannot be read are passed over: what is not there is unknown.

use std::collections::BTreeMap;

/// One page, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page(Vec<Series>);

/// One line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    name: String,
    labels: BTreeMap<String, String>,
    /// Its number.
    pub value: f64,
}

impl Page {
    /// Reads a page; lines that are none of a metric are passed over.
    pub fn read(text: &str) -> Page {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Page(lines.filter_map(series).collect())
    }

    /// Whether it is of this program at all.
    pub fn is_ours(&self) -> bool {
        self.0
            .iter()
            .any(|series| series.name == "warmline_build_info")
    }

    /// Every series of this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.0.iter().filter(move |series| series.name == name)
    }

    /// The sum over all that carries these labels, `None` if there is nothing.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |series: &&Series| {
            labels
                .iter()
                .all(|(key, value)| series.label(key) == *value)
        };
        self.all(name)
            .filter(has)
            .map(|series| series.value)
            .reduce(|sum, value| sum + value)
    }
}

impl Series {
    /// The value of a label; empty where it has none.
    pub fn label(&self, key: &str) -> &str {
        self.labels.get(key).map_or("", String::as_str)
    }
}

/// Reads `name{key="value",...} 1.5`.
fn series(line: &str) -> Option<Series> {
    let (head, value) = line.trim().rsplit_once(' ')?;
    let (name, labels) = head.split_once('{').unwrap_or((head, "}"));
    Some(Series {
        name: name.to_owned(),
        labels: read_labels(labels)?,
        value: value.parse().ok()?,
    })
}

/// Reads `key="value",...}`; a backslash makes the next character one of the value.
fn read_labels(text: &str) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if rest == "}" {
            return Some(labels);
        }
        let (key, after) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.insert(key.to_owned(), value);
        rest = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_metric_is_passed_over() {
        for text in [
            "",
            "x",
            "x{",
            "x{a} 1",
            "x{a=\"b} 1",
            "x{a=\"b\" 1",
            "x y",
            "\"} 1",
        ] {
            let page = Page::read(text);
            assert!(page.0.is_empty() || page.0[0].labels.is_empty(), "{text}");
        }
    }
}
