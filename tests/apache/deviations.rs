//! Where Warmline differs on purpose, as docs/apache.md has it.

use std::collections::BTreeMap;
use std::fs;

const HEADING: &str = "## Where Warmline differs on purpose";

/// The document's list: each deviation by its name, and whether a conversation shows it.
///
/// Shape: an entry begins with its number, and its name in bold and backticks; `(shown)` follows
/// where a conversation shows it.
///
/// # Panics
/// When the list is not there, or is not numbered from 1 on.
pub fn listed() -> BTreeMap<String, bool> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/apache.md");
    let document = fs::read_to_string(path).expect("docs/apache.md can be read");
    let (_, list) = document
        .split_once(HEADING)
        .unwrap_or_else(|| panic!("docs/apache.md has a section {HEADING:?}"));
    let list = list.split("\n## ").next().unwrap_or_default();
    let mut found = BTreeMap::new();
    for line in list.lines() {
        let Some((number, rest)) = line.split_once(". **`") else {
            continue;
        };
        let (name, rest) = rest.split_once("`**").expect("a name ends as it begins");
        assert_eq!(
            number,
            (found.len() + 1).to_string(),
            "the number of {name}"
        );
        found.insert(name.to_owned(), rest.trim_start().starts_with("(shown)"));
    }
    assert!(!found.is_empty(), "the list has entries");
    found
}
