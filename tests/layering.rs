//! The four layer rules, read off the text of `src/`, and two habits that go with them.
//!
//! 1. Only `lib.rs`, `main.rs` and `cli/` import `config`: parts own their settings types, and
//!    `config` fills them in.
//! 2. What is pure decides without waiting, reading a clock, opening a socket or locking.
//! 3. Sockets are touched in few places.
//! 4. Imports between modules go one way, along the table below. Adding a pair is a decision:
//!    whoever adds it says in the commit why the arrow points that way.
//!
//! Comments, strings and what is compiled for tests only do not count.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import `config`.
const READS_CONFIG: [&str; 3] = ["lib", "main", "cli"];

/// Files, and folders with all that is in them, that only decide.
const PURE: &[&str] = &[
    "account/held.rs",
    "admin/exposition.rs",
    "admin/front.rs",
    "admin/facts.rs",
    "admin/history.rs",
    "admin/host.rs",
    "admin/metrics.rs",
    "admin/snapshot.rs",
    "backend/closing.rs",
    "backend/upgrades.rs",
    "balance.rs",
    "admin/kernel.rs",
    "admin/lanes.rs",
    "admin/little.rs",
    "admin/owners.rs",
    "admin/snat.rs",
    "admin/warning.rs",
    "client/frames.rs",
    "census/address_index.rs",
    "census/counters.rs",
    "census/diag.rs",
    "census/lanes.rs",
    "census/portset.rs",
    "census/state.rs",
    "census/survey.rs",
    "cli/load_report.rs",
    "cli/tables.rs",
    "compare/hdr.rs",
    "compare/lab/spec.rs",
    "compare/load/arrivals.rs",
    "compare/load/response.rs",
    "compare/load/tally.rs",
    "compare/load/target.rs",
    "cli/top/columns.rs",
    "cli/top/draw.rs",
    "cli/top/snapshot.rs",
    "cli/top/view.rs",
    "compare/picture.rs",
    "compare/random.rs",
    "compare/report/",
    "compare/run/arms.rs",
    "compare/run/config.rs",
    "compare/run/fingerprint.rs",
    "compare/stats.rs",
    "config/",
    "doctor/",
    "headroom/",
    "json.rs",
    "keepalive.rs",
    "log/format.rs",
    "log/stamp.rs",
    "lookup/answer.rs",
    "lookup/origin.rs",
    "lookup/schedule.rs",
    "lookup/settings.rs",
    "client/trust.rs",
    "net/interim.rs",
    "net/introduced.rs",
    "net/names.rs",
    "net/networks.rs",
    "net/sources.rs",
    "net/tls/subject.rs",
    "pool/ghost.rs",
    "pool/learn.rs",
    "pool/line.rs",
    "pool/settings.rs",
    "pool/state.rs",
    "pool/table.rs",
    "pool/words.rs",
    "proxy/connect.rs",
    "proxy/connection.rs",
    "proxy/failure.rs",
    "proxy/grpc.rs",
    "proxy/headers.rs",
    "proxy/hint.rs",
    "proxy/interim.rs",
    "proxy/retry.rs",
    "proxy/target.rs",
    "proxy/upgrade.rs",
    "quantity.rs",
    "route/",
    "scrape.rs",
    "server/admin.rs",
    "server/change.rs",
    "split/guard.rs",
];

/// What pure code does without.
const IMPURE: &[(&str, &str)] = &[
    ("async", "waits"),
    ("await", "waits"),
    ("sleep", "waits"),
    ("spawn", "starts a task or a thread"),
    ("spawn_local", "starts a task"),
    (
        "Instant::now",
        "reads a clock: let the caller say what time it is",
    ),
    (
        "SystemTime::now",
        "reads a clock: let the caller say what time it is",
    ),
    (
        ".elapsed",
        "reads a clock: let the caller say what time it is",
    ),
    ("Mutex", "locks"),
    ("RwLock", "locks"),
    ("tokio::net", "opens sockets"),
    ("fs", "reads files"),
    ("env::var", "reads the environment"),
];

/// Exceptions: `load` is the one door through which the configuration's text comes in.
const READERS: &[(&str, &str)] = &[("config/mod.rs", "fs"), ("config/mod.rs", "env::var")];

/// Signs of a socket.
const SOCKETS: &[&str] = &[
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "rustix::net",
    "socket2",
    "tokio::net",
];

/// Where sockets may be touched.
const HAS_SOCKETS: &[&str] = &[
    "admin/",
    "backend/",
    "census/",
    "cli/admin_client.rs",
    "client/",
    "compare/",
    "net/",
    "worker/",
];

/// Each module, and the modules it imports: exactly these.
const IMPORTS: &[(&str, &[&str])] = &[
    ("account", &["keepalive"]),
    (
        "admin",
        &[
            "account",
            "census",
            "headroom",
            "json",
            "keepalive",
            "log",
            "net",
            "quantity",
            "server",
            "split",
        ],
    ),
    ("alarm", &[]),
    ("memory", &[]),
    (
        "backend",
        &["account", "keepalive", "lookup", "net", "pool", "split"],
    ),
    ("balance", &[]),
    ("census", &[]),
    (
        "cli",
        &[
            "admin",
            "backend",
            "census",
            "client",
            "compare",
            "config",
            "doctor",
            "headroom",
            "json",
            "keepalive",
            "net",
            "quantity",
            "route",
            "scrape",
            "server",
            "split",
        ],
    ),
    ("client", &["account", "alarm", "keepalive", "net", "route"]),
    (
        "compare",
        &["census", "headroom", "net", "quantity", "scrape"],
    ),
    (
        "config",
        &[
            "backend",
            "client",
            "json",
            "keepalive",
            "log",
            "lookup",
            "net",
            "pool",
            "proxy",
            "route",
            "server",
            "split",
        ],
    ),
    (
        "doctor",
        &[
            "backend", "census", "headroom", "lookup", "net", "quantity", "scrape", "server",
        ],
    ),
    ("headroom", &["census", "quantity"]),
    ("json", &[]),
    ("keepalive", &[]),
    ("lib", &[]),
    ("log", &["account", "json"]),
    ("lookup", &[]),
    ("main", &["cli", "log", "memory"]),
    ("net", &[]),
    ("pool", &["account", "keepalive"]),
    (
        "proxy",
        &[
            "account",
            "backend",
            "balance",
            "client",
            "keepalive",
            "net",
            "pool",
            "route",
            "split",
        ],
    ),
    ("quantity", &[]),
    ("scrape", &[]),
    ("split", &["quantity"]),
    ("route", &[]),
    (
        "server",
        &[
            "account", "backend", "client", "log", "lookup", "net", "pool", "proxy", "route",
            "split", "worker",
        ],
    ),
    (
        "worker",
        &[
            "account", "alarm", "client", "log", "memory", "net", "proxy",
        ],
    ),
];

/// Pairs that import each other, and why that stands for now.
const CYCLES: &[(&str, &str)] = &[];

/// Lines of a file without its tests.
const LONGEST: usize = 600;

/// A source file: what the compiler of the program, not of its tests, makes of it.
struct Source {
    /// Below `src/`, with slashes.
    path: String,
    /// The text with comments, literals and test items blanked out; lines stay where they are.
    code: String,
    /// How many of its lines belong to test items.
    test_lines: usize,
}

impl Source {
    /// The module at the top that it belongs to: `pool` for `pool/state.rs` as for `pool/mod.rs`.
    fn module(&self) -> &str {
        let first = self.path.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many `super` lead from it to the crate.
    fn depth(&self) -> usize {
        let folders = self.path.matches('/').count();
        match self.path.rsplit('/').next().unwrap() {
            "mod.rs" | "lib.rs" | "main.rs" => folders,
            _ => folders + 1,
        }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            if place.ends_with('/') {
                self.path.starts_with(place)
            } else {
                self.path == *place
            }
        })
    }

    /// The lines where `word` stands as a word, or as a path of words.
    fn lines_with(&self, word: &str) -> Vec<usize> {
        occurrences(&self.code, word)
            .map(|at| line_of(&self.code, at))
            .collect()
    }

    /// The modules at the top that it names, each with the line where it first does.
    fn imports(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        let up = "super::".repeat(self.depth());
        for root in ["crate::", up.as_str(), "warmline::"] {
            if root.is_empty() {
                continue;
            }
            for at in occurrences(&self.code, root) {
                // `super::super::x` holds `super::x` too.
                if root == up && self.code[..at].ends_with("super::") {
                    continue;
                }
                for name in names_at(&self.code[at + root.len()..]) {
                    found.entry(name).or_insert(line_of(&self.code, at));
                }
            }
        }
        found.remove(self.module());
        found
    }
}

/// The names at the beginning of `text`: one, or those of a `{ … }` list, without what is below them.
fn names_at(text: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(list) = text.strip_prefix('{') else {
        return vec![name(text)];
    };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&list[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Where `word` stands in `code` with no letter on either side.
fn occurrences<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + word.len()..].chars().next();
        let begins = word.starts_with('.') || !before.is_some_and(joins);
        let ends = word.ends_with(':') || !after.is_some_and(joins);
        (begins && ends).then_some(at)
    })
}

fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// Blanks out comments and literals; every line break stays.
fn without_words(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped(&chars, at);
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
            code.extend(chars[at..end].iter().map(blank));
            at = end;
        }
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `at` if none does.
fn skipped(chars: &[char], at: usize) -> usize {
    let rest = &chars[at..];
    let starts = |with: &str| {
        with.chars()
            .enumerate()
            .all(|(i, c)| rest.get(i) == Some(&c))
    };
    if starts("//") {
        return at + rest.iter().position(|c| *c == '\n').unwrap_or(rest.len());
    }
    if starts("/*") {
        let (mut depth, mut i) = (0, 0);
        while i < rest.len() {
            match (rest[i], rest.get(i + 1)) {
                ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
                ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
                _ => i += 1,
            }
            if depth == 0 {
                break;
            }
        }
        return at + i;
    }
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let raw = ["r\"", "r#\"", "r##\"", "br\"", "br#\""];
    if !in_word && raw.into_iter().any(starts) {
        let hashes = rest.iter().skip_while(|c| c.is_alphabetic());
        let hashes = hashes.take_while(|c| **c == '#').count();
        let close: Vec<char> = std::iter::once('"')
            .chain(std::iter::repeat_n('#', hashes))
            .collect();
        let open = rest.iter().position(|c| *c == '"').unwrap() + 1;
        let length = rest[open..]
            .windows(close.len())
            .position(|window| window == close);
        return at + open + length.map_or(rest.len() - open, |length| length + close.len());
    }
    if rest[0] == '"' {
        return at + quoted(rest, '"');
    }
    // 'a' and '\n' are characters, 'a without an end is a lifetime.
    if rest[0] == '\'' && (rest.get(1) == Some(&'\\') || rest.get(2) == Some(&'\'')) {
        return at + quoted(rest, '\'');
    }
    at
}

/// The length of a literal from its first quote to its last.
fn quoted(rest: &[char], quote: char) -> usize {
    let mut i = 1;
    while i < rest.len() && rest[i] != quote {
        i += if rest[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(rest.len())
}

/// Blanks out every item under `#[cfg(test)]`. Also: how many lines that were, and the modules in
/// files of their own among them.
fn without_tests(mut code: String) -> (String, usize, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut lines, mut files) = (0, Vec::new());
    while let Some(start) = code.find(MARK) {
        let item = &code[start + MARK.len()..];
        let stop = item.find([';', '{']).unwrap_or(item.len());
        let mut end = stop + 1;
        if item[stop..].starts_with('{') {
            let mut depth = 0_usize;
            end = item.len();
            for (at, c) in item.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if c == '}' && depth == 0 {
                    end = at + 1;
                    break;
                }
            }
        } else if let Some(name) = item[..stop].trim().strip_prefix("mod ") {
            files.push(name.trim().to_owned());
        }
        let whole = start..(start + MARK.len() + end).min(code.len());
        lines += code[whole.clone()].matches('\n').count() + 1;
        let blank: String = code[whole.clone()]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        code.replace_range(whole, &blank);
    }
    (code, lines, files)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All `.rs` files below `folder`, in order.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return files;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut sources = Vec::new();
    let mut test_files = BTreeSet::new();
    for file in rust_files(&src) {
        let path = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let code = without_words(&fs::read_to_string(&file).unwrap());
        let (code, test_lines, modules) = without_tests(code);
        let folder = path
            .rsplit_once('/')
            .map_or(String::new(), |(folder, _)| format!("{folder}/"));
        for module in modules {
            test_files.insert(format!("{folder}{module}.rs"));
        }
        sources.push(Source {
            path,
            code,
            test_lines,
        });
    }
    sources.retain(|source| !test_files.contains(&source.path));
    assert!(sources.len() > 20, "src/ is not where it was");
    sources
}

/// Fails with all that was found, and with what the rule is for.
#[track_caller]
fn assert_none(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}\n  {}\n", found.join("\n  "));
}

#[test]
fn only_the_command_line_imports_config() {
    let mut found = Vec::new();
    for source in sources() {
        if READS_CONFIG.contains(&source.module()) {
            continue;
        }
        if let Some(line) = source.imports().get("config") {
            found.push(format!("src/{}:{line}", source.path));
        }
    }
    assert_none(
        &found,
        "these import `config`; let the part own its settings type, and `config` import that:",
    );
}

#[test]
fn pure_files_only_decide() {
    let sources = sources();
    for place in PURE {
        let there = sources.iter().any(|source| source.is_in(&[place]));
        assert!(there, "{place} is listed as pure and is not there");
    }
    let sockets = SOCKETS.iter().map(|word| (*word, "touches sockets"));
    let forbidden: Vec<_> = IMPURE.iter().copied().chain(sockets).collect();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_in(PURE)) {
        for (word, does) in &forbidden {
            if READERS.contains(&(source.path.as_str(), *word)) {
                continue;
            }
            for line in source.lines_with(word) {
                found.push(format!("src/{}:{line}: `{word}` {does}", source.path));
            }
        }
    }
    assert_none(
        &found,
        "these files decide and do nothing else; do it in the file that asks them:",
    );
}

#[test]
fn sockets_are_touched_in_few_places() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_in(HAS_SOCKETS)) {
        for word in SOCKETS {
            for line in source.lines_with(word) {
                found.push(format!("src/{}:{line}: `{word}`", source.path));
            }
        }
    }
    let places = HAS_SOCKETS.join(", ");
    assert_none(&found, &format!("sockets belong in {places}, not here:"));
}

#[test]
fn imports_are_exactly_those_of_the_table() {
    let allowed: BTreeMap<_, _> = IMPORTS.iter().copied().collect();
    let (mut found, mut used) = (Vec::new(), BTreeSet::new());
    for source in sources() {
        let Some(list) = allowed.get(source.module()) else {
            found.push(format!(
                "src/{}: module `{}` has no line in the table",
                source.path,
                source.module()
            ));
            continue;
        };
        for (import, line) in source.imports() {
            if !list.contains(&import.as_str()) {
                found.push(format!(
                    "src/{}:{line}: `{}` imports `{import}`, which the table does not allow",
                    source.path,
                    source.module()
                ));
            }
            used.insert((source.module().to_owned(), import));
        }
    }
    for (module, list) in IMPORTS {
        for import in *list {
            if !used.contains(&((*module).to_owned(), (*import).to_owned())) {
                found.push(format!(
                    "the table lets `{module}` import `{import}`, and it does not: take it out"
                ));
            }
        }
    }
    assert_none(
        &found,
        "imports between modules are in IMPORTS in tests/layering.rs; a new one is a decision:",
    );
}

#[test]
fn imports_go_one_way() {
    let imports: BTreeMap<_, _> = IMPORTS.iter().copied().collect();
    let excused =
        |from: &str, to: &str| CYCLES.contains(&(from, to)) || CYCLES.contains(&(to, from));
    for (one, other) in CYCLES {
        assert!(
            imports[one].contains(other) && imports[other].contains(one),
            "`{one}` and `{other}` do not import each other any more: take them out of CYCLES"
        );
    }
    // Takes away whoever imports nobody that is left, until nobody is, or a circle remains.
    let mut left: BTreeSet<_> = imports.keys().copied().collect();
    loop {
        let free: Vec<_> = left
            .iter()
            .copied()
            .filter(|module| {
                let mut needs = imports[module].iter().copied();
                !needs.any(|need| left.contains(need) && !excused(module, need))
            })
            .collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            left.remove(module);
        }
    }
    let mut circle = String::new();
    for module in &left {
        let needs = imports[module].iter().filter(|need| left.contains(*need));
        let needs: Vec<_> = needs.copied().collect();
        writeln!(circle, "  {module} -> {}", needs.join(", ")).unwrap();
    }
    assert!(
        left.is_empty(),
        "these import each other in a circle:\n{circle}"
    );
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            if !text.starts_with("//! ") {
                found.push(file.display().to_string());
            }
        }
    }
    assert_none(
        &found,
        "these files do not begin with `//!` and what they are:",
    );
}

#[test]
fn no_file_is_longer_than_one_idea_needs() {
    let mut found = Vec::new();
    for source in sources() {
        let lines = source.code.lines().count() - source.test_lines;
        if lines > LONGEST {
            found.push(format!(
                "src/{}: {lines} lines without its tests",
                source.path
            ));
        }
    }
    assert_none(
        &found,
        &format!("longer than {LONGEST} lines; often that is two ideas in one file:"),
    );
}

#[test]
fn the_reader_of_source_text_is_not_fooled() {
    let text = r##"
//! crate::config in a comment, async
use crate::{net::{self, linger}, pool as p, backend};
use super::route::Router; /* crate::config /* nested */ async */
const A: (&str, char, u8) = ("crate::config \" async", '"', b'\'');
const B: &str = r#"crate::config " async"#;
fn f<'a>(x: &'a str) -> crate::keepalive::Verdict { crate::balance::g(x) }
#[cfg(test)]
#[allow(unused)]
mod tests {
    use crate::config::load;
    const C: char = '}';
    async fn t() {}
}
#[cfg(test)]
mod more;
fn my_async() {}
"##;
    let (code, test_lines, files) = without_tests(without_words(text));
    let source = Source {
        path: "server.rs".to_owned(),
        code,
        test_lines,
    };
    let imports: Vec<_> = source.imports().into_iter().collect();
    let expected = [
        ("backend", 3),
        ("balance", 7),
        ("keepalive", 7),
        ("net", 3),
        ("pool", 3),
        ("route", 4),
    ];
    assert_eq!(
        imports,
        expected.map(|(name, line)| (name.to_owned(), line))
    );
    assert_eq!(source.lines_with("async"), [] as [usize; 0]);
    assert_eq!(source.lines_with("my_async"), [17]);
    assert_eq!((source.test_lines, files), (9, vec!["more".to_owned()]));
}
