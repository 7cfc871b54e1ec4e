//! The documents say what the code says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The cells of every table row in `text`.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let rows = text.lines().filter_map(|line| line.strip_prefix("| "));
    rows.map(|row| {
        let cells = row.strip_suffix(" |").unwrap_or(row).split(" | ");
        cells.map(str::trim).collect()
    })
    .collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The part of a document from a heading to the next one of its level or above.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let start = document
        .find(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("a section called {heading:?}"));
    let body = &document[start + heading.len() + 2..];
    let level = heading.split(' ').next().expect("a heading has its mark");
    let end = body.find(&format!("\n{level} ")).unwrap_or(body.len());
    &body[..end]
}

/// Every source file below `src/`, by its path there.
fn sources() -> BTreeMap<String, String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src/ can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let src = Path::new(ROOT).join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).expect("found below src/").to_str();
            let name = name.expect("names are text").to_owned();
            (name, fs::read_to_string(path).expect("a source is text"))
        })
        .filter(|(name, _)| !name.ends_with("tests.rs"))
        .collect()
}

/// A source without its comments and its tests.
fn code(source: &str) -> String {
    let end = source.find("#[cfg(test)]\nmod tests {");
    let lines = source[..end.unwrap_or(source.len())].lines();
    let bare = lines.map(|line| line.split("//").next().unwrap_or(line));
    bare.collect::<Vec<_>>().join("\n")
}

/// The top-level modules a source imports from its own crate.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names: Vec<_> = match rest.strip_prefix('{') {
            Some(list) => list
                .split('}')
                .take(1)
                .flat_map(|list| list.split(','))
                .collect(),
            None => vec![rest],
        };
        for name in names {
            let end = name
                .trim()
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            found.extend(
                end.take(1)
                    .filter(|word| !word.is_empty())
                    .map(str::to_owned),
            );
        }
    }
    found
}

#[test]
fn the_map_names_every_source_file_and_no_other() {
    let architecture = read("ARCHITECTURE.md");
    let map = rows(section(&architecture, "## The map"));
    let named: BTreeSet<_> = map
        .iter()
        .flat_map(|row| quoted(row[0]))
        .map(str::to_owned)
        .collect();
    let there: BTreeSet<_> = sources().into_keys().collect();
    assert_eq!(named, there);
}

#[test]
fn what_the_map_calls_pure_is_pure() {
    let architecture = read("ARCHITECTURE.md");
    let sources = sources();
    let map = rows(section(&architecture, "## The map"));
    let pure: Vec<_> = map.iter().filter(|row| row[1] == "[P]").collect();
    assert!(pure.len() > 10, "the marks are read");
    for row in pure {
        for name in quoted(row[0]) {
            let code = code(&sources[name]);
            for impure in [
                "async ",
                ".await",
                "spawn",
                "::now()",
                "Mutex",
                "RwLock",
                "TcpStream",
                "TcpListener",
                "socket2",
                "env::var",
                "fs::",
            ] {
                assert!(
                    !code.contains(impure),
                    "{name} is marked [P] and has {impure:?}"
                );
            }
        }
    }
}

#[test]
fn imports_follow_the_table() {
    let architecture = read("ARCHITECTURE.md");
    let layers = section(&architecture, "## Layers");
    let allowed: BTreeMap<_, _> = rows(layers)
        .into_iter()
        .filter(|row| row[0].starts_with('`'))
        .map(|row| (row[0].trim_matches('`').to_owned(), quoted(row[1])))
        .collect();
    let mut made: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, source) in sources() {
        let module = name
            .split(['/', '.'])
            .next()
            .expect("a name has a first part")
            .to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let mut imports = imports(&code(&source));
        imports.remove(&module);
        made.entry(module).or_default().extend(imports);
    }
    for (module, imports) in &made {
        let allowed = allowed
            .get(module)
            .unwrap_or_else(|| panic!("{module} is in the table"));
        let imports: BTreeSet<_> = imports.iter().map(String::as_str).collect();
        assert_eq!(&imports, allowed, "imports of {module}, made and allowed");
    }
    assert_eq!(allowed.len(), made.len(), "no module in the table is gone");
}

#[test]
fn sockets_appear_only_where_they_may() {
    for (name, source) in sources() {
        let module = name.split(['/', '.']).next().unwrap_or_default();
        let may = [
            "net", "client", "backend", "worker", "census", "compare", "admin",
        ]
        .contains(&module)
            || name == "cli/admin_client.rs";
        let code = code(&source);
        let has = ["TcpStream", "TcpListener", "UdpSocket", "socket2"];
        assert!(
            may || !has.iter().any(|socket| code.contains(socket)),
            "{name} holds a socket"
        );
    }
}

/// Every status by the name of its constant: `NOT_FOUND` → 404.
fn statuses() -> BTreeMap<String, u16> {
    let all = (400..600).filter_map(|code| {
        let reason = http::StatusCode::from_u16(code).ok()?.canonical_reason()?;
        Some((reason.to_ascii_uppercase().replace([' ', '-'], "_"), code))
    });
    all.collect()
}

#[test]
fn every_status_of_our_own_is_explained_and_no_other() {
    let statuses = statuses();
    let mut made = BTreeSet::new();
    for file in [
        "src/proxy/failure.rs",
        "src/client/serve.rs",
        "src/client/answer.rs",
    ] {
        let code = code(&read(file));
        for rest in code.split("StatusCode::").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
            made.extend(statuses.get(&rest[..end.unwrap_or(rest.len())]));
        }
    }
    assert!(made.len() > 5, "the statuses are found: {made:?}");
    let errors = read("docs/errors.md");
    let explained: BTreeSet<u16> = rows(&errors)
        .iter()
        .filter_map(|row| row[0].parse().ok())
        .collect();
    assert_eq!(explained, made);
}

#[test]
fn every_sentence_a_client_may_read_is_in_the_document() {
    let errors = read("docs/errors.md");
    let failure = read("src/proxy/failure.rs");
    let body = failure
        .split("pub fn sentence")
        .nth(1)
        .expect("there are sentences");
    let body = body.split("\n    }\n").next().expect("it ends");
    let answers = code(&read("src/client/answer.rs"));
    let headers = code(&read("src/proxy/headers.rs"));
    let refusals = headers.split("BadRequest(").skip(1);
    let literals: BTreeSet<&str> = [body, &answers]
        .into_iter()
        .flat_map(|text| text.split('"').skip(1).step_by(2))
        .chain(refusals.filter_map(|rest| rest.split('"').nth(1)))
        .filter(|text| text.ends_with('.') && text.starts_with(char::is_uppercase))
        .collect();
    assert!(literals.len() > 15, "the sentences are found: {literals:?}");
    for sentence in literals {
        assert!(
            errors.contains(sentence),
            "docs/errors.md lacks {sentence:?}"
        );
    }
}

/// What a heading is called in a link, as GitHub has it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading
        .chars()
        .filter(|one| one.is_alphanumeric() || " -_".contains(*one));
    kept.map(|one| if one == ' ' { '-' } else { one }).collect()
}

/// A document without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let root = Path::new(ROOT);
    let mut documents = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"]
        .map(|name| root.join(name))
        .to_vec();
    for folder in [
        "docs",
        "config/compose/ab",
        "config/compose/exhaustion",
        "config/compose/replace-nginx",
    ] {
        let entries = fs::read_dir(root.join(folder)).expect("the folder can be read");
        documents.extend(entries.map(|entry| entry.expect("it can be read").path()));
    }
    let mut links = 0;
    for document in documents
        .iter()
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
    {
        for rest in prose(&read(document)).split("](").skip(1) {
            let target = rest.split(')').next().expect("a link ends");
            if target.contains("://") {
                continue;
            }
            let (file, part) = target.split_once('#').unwrap_or((target, ""));
            let folder = document.parent().expect("a file is in a folder");
            let file = if file.is_empty() {
                document.clone()
            } else {
                folder.join(file)
            };
            assert!(
                file.exists(),
                "{}: {target} is not there",
                document.display()
            );
            if !part.is_empty() {
                let text = prose(&read(&file));
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|heading| anchor(heading) == part),
                    "{}: {target}: no such heading",
                    document.display()
                );
            }
            links += 1;
        }
    }
    assert!(links > 50, "only {links} links");
}

/// The image's first layers are built from stand-ins for what `Cargo.toml` names.
#[test]
fn the_dockerfile_knows_every_bench() {
    let manifest = read("Cargo.toml");
    let benches: BTreeSet<_> = manifest
        .split("[[bench]]")
        .skip(1)
        .filter_map(|table| table.split("name = \"").nth(1)?.split('"').next())
        .collect();
    let dockerfile = read("Dockerfile");
    let list = dockerfile
        .split("for bench in ")
        .nth(1)
        .expect("it has them in a list");
    let list = list.split(';').next().expect("the list ends");
    assert_eq!(list.split(' ').collect::<BTreeSet<_>>(), benches);
}

#[test]
fn the_readme_lists_every_document() {
    let readme = read("README.md");
    let list = section(&readme, "## Documents");
    for entry in fs::read_dir(Path::new(ROOT).join("docs")).expect("docs/ can be read") {
        let name = entry.expect("it can be read").file_name();
        let name = name.to_str().expect("names are text");
        if Path::new(name).extension().is_some_and(|end| end == "md") {
            assert!(
                list.contains(&format!("(docs/{name})")),
                "README has no docs/{name}"
            );
        }
    }
}
