//! The files in `config/`, and `warmline check` as an operator meets it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use warmline::config;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const SOUND: &str = "[[listeners]]\naddress = \":8080\"\n[upstreams.app]\nservers = [\"a:1\"]\n";

/// Runs the program in `dir`.
fn warmline(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_warmline"))
        .args(args)
        .current_dir(dir)
        .env_remove("WARMLINE_TEST_UNSET")
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("standard output is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("standard error is text")
}

/// A directory with `text` in `warmline.toml`.
fn file(text: impl AsRef<[u8]>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory can be made");
    fs::write(dir.path().join("warmline.toml"), text).expect("a file can be written");
    dir
}

/// Every TOML file below a folder.
fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            files.extend(toml_files(&path));
        } else if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files
}

#[test]
fn every_file_in_config_is_sound() {
    // What the image and the demos set.
    let env = |name: &str| match name {
        "WARMLINE_UPSTREAM" => Some("app:80".to_owned()),
        "KEEP_ALIVE" => Some("Off".to_owned()),
        _ => None,
    };
    let files = toml_files(&Path::new(ROOT).join("config"));
    assert!(files.len() >= 6, "the samples are gone: {files:?}");
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        match config::parse(&text, &path.display().to_string(), &env) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings),
            Err(report) => panic!("{report}"),
        }
    }
}

/// An example that begins no table goes on where the one before it ended.
#[test]
fn every_example_in_the_documents_is_sound() {
    for (document, count) in [
        ("docs/quick-start.md", 1),
        ("docs/settings.md", 1),
        ("docs/apache-workers.md", 2),
        ("docs/forwarded.md", 2),
    ] {
        let text = fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
        let examples = text.split("\n```toml\n").skip(1).map(|rest| {
            let end = rest.find("\n```").expect("an example ends");
            &rest[..=end]
        });
        let mut so_far = String::new();
        let mut seen = 0;
        for example in examples {
            if example.contains("[[listeners]]") {
                so_far.clear();
            }
            so_far += example;
            let dir = file(&so_far);
            match config::load(&dir.path().join("warmline.toml")) {
                Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings),
                Err(report) => panic!("{document}: {report}"),
            }
            seen += 1;
        }
        assert_eq!(seen, count, "examples in {document}");
    }
}

#[test]
fn check_says_that_a_sound_file_is_sound_and_what_it_holds() {
    let file = "config/two-upstreams.toml";
    for args in [
        ["check", "-c", file].as_slice(),
        &["-t", "-c", file],
        &["-tc", file],
    ] {
        let output = warmline(Path::new(ROOT), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(
            stderr(&output),
            "the configuration file config/two-upstreams.toml syntax is ok\n\
             configuration file config/two-upstreams.toml test is successful\n",
            "{args:?}"
        );
        assert_eq!(
            stdout(&output),
            "1 listener, 3 routes, 2 upstreams: shop (2 servers), api (2 servers)\n",
            "{args:?}"
        );
    }
}

#[test]
fn check_reads_the_default_file_unless_told() {
    for args in [["check"].as_slice(), &["-t"]] {
        let output = warmline(Path::new(ROOT), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stderr(&output).contains("config/warmline.toml test is successful"));
    }
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    for args in [["check", "-q"].as_slice(), &["-t", "-q"]] {
        let output = warmline(Path::new(ROOT), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert_eq!(
            (stdout(&output), stderr(&output)),
            (String::new(), String::new())
        );
    }
}

#[test]
fn check_shows_every_fault_and_fails() {
    let dir = file("[client]\nkeep_alive_timeot = 5\ntimeout = \"${WARMLINE_TEST_UNSET}\"\n");
    for args in [
        ["check", "-q", "-c", "warmline.toml"].as_slice(),
        &["-t", "-c", "warmline.toml"],
    ] {
        let output = warmline(dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(stdout(&output), "");
        assert_eq!(
            stderr(&output),
            "\
error: [client] has no setting `keep_alive_timeot`
 --> warmline.toml:2:1
  |
2 | keep_alive_timeot = 5
  | ^^^^^^^^^^^^^^^^^ unknown setting
  |
  = help: did you mean `keep_alive_timeout`?

error: the environment variable `WARMLINE_TEST_UNSET` is not set
 --> warmline.toml:3:12
  |
3 | timeout = \"${WARMLINE_TEST_UNSET}\"
  |            ^^^^^^^^^^^^^^^^^^^^^^ nothing to fill in here
  |
  = help: set it, or give a default: `${WARMLINE_TEST_UNSET:-default}`

error: no address to listen on
--> warmline.toml
 = help: add a listener:
         [[listeners]]
         address = \"0.0.0.0:8080\"

error: no upstream: there is nobody to pass requests to
--> warmline.toml
 = help: add one:
         [upstreams.app]
         servers = [\"127.0.0.1:9000\"]

4 faults in warmline.toml
",
            "{args:?}"
        );
    }
}

#[test]
fn check_shows_warnings_and_succeeds() {
    let dir = file(format!("{SOUND}keep_alive_timeout = 0\n"));
    let output = warmline(dir.path(), &["check", "-q", "-c", "warmline.toml"]);
    assert_eq!(output.status.code(), Some(0));
    let shown = stderr(&output);
    assert!(
        shown.starts_with("warning: [upstreams.app] keeps no connections\n"),
        "{shown}"
    );
    assert!(shown.ends_with("\n1 warning in warmline.toml\n"), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_is_one_message_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for args in [["run"].as_slice(), &["check"], &["-t"]] {
        let output = warmline(dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let shown = stderr(&output);
        let start = "error: cannot read config/warmline.toml: No such file or directory\n";
        assert!(shown.starts_with(start), "{shown}");
        for help in [
            "`-c FILE`",
            "`warmline run --upstream HOST:PORT`",
            "`warmline demo`",
        ] {
            assert!(shown.contains(help), "{shown}");
        }
    }
    let output = warmline(dir.path(), &["check", "-c", "."]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: cannot read .: Is a directory\n"));
}

#[test]
fn what_is_not_text_is_refused() {
    let dir = file([b"[client]\n".as_slice(), &[0xff, 0xfe]].concat());
    let output = warmline(dir.path(), &["check", "-c", "warmline.toml"]);
    assert_eq!(output.status.code(), Some(1));
    let start = "error: warmline.toml is not text: line 2 is not UTF-8\n";
    assert!(stderr(&output).starts_with(start), "{}", stderr(&output));

    let dir = file(vec![b'#'; (1 << 20) + 1]);
    let output = warmline(dir.path(), &["check", "-c", "warmline.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: warmline.toml is larger than 1 MiB\n"));
}

#[test]
fn a_command_line_that_makes_no_sense_exits_with_2() {
    for args in [
        [].as_slice(),
        &["serve"],
        &["-q"],
        &["-c", "config/warmline.toml"],
        &["run", "--listen", "localhost:80"],
        &["run", "--upstream", "a:1", "-c", "config/warmline.toml"],
        &["run", "--keep-alive-timeout", "5x"],
    ] {
        let output = warmline(Path::new(ROOT), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("--help"), "{}", stderr(&output));
    }
}

#[test]
fn help_and_version_are_there() {
    for args in [["-v"], ["-V"], ["--version"]] {
        let output = warmline(Path::new(ROOT), &args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        let expected = concat!("warmline ", env!("CARGO_PKG_VERSION"), "\n");
        assert_eq!(stdout(&output), expected, "{args:?}");
    }
    let output = warmline(Path::new(ROOT), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for command in ["run", "check", "demo"] {
        assert!(stdout(&output).contains(command), "{command}");
    }
}

/// What `check --explain` says of a request by this file.
fn explained(file: &str, arguments: &[&str]) -> String {
    let all = [&["check", "-c", file, "--explain"], arguments].concat();
    let output = warmline(Path::new(ROOT), &all);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stdout(&output)
}

/// The line that begins so, in single spaces.
fn line<'a>(said: &'a str, start: &str) -> Vec<&'a str> {
    let mut lines = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .find(|words| words.join(" ").starts_with(start))
        .unwrap_or_else(|| panic!("a line {start:?} in:\n{said}"))
}

#[test]
fn a_request_is_explained_with_the_line_of_every_setting() {
    let file = "config/replace-nginx.toml";
    let text = fs::read_to_string(Path::new(ROOT).join(file)).unwrap();
    let place = |key: &str| {
        let at = text.lines().position(|line| line.starts_with(key)).unwrap();
        format!("{file}:{}", at + 1)
    };
    let said = explained(file, &["PUT https://shop.example:8443/api/x?y=1"]);
    assert!(
        said.contains("upstream api is asked: PUT /x?y=1\n"),
        "{said}"
    );
    assert!(
        said.contains("towards the client, at 0.0.0.0:8443\n"),
        "{said}"
    );
    for (start, value, from) in [
        ("limit_request_body", "\"10m\"", place("limit_request_body")),
        ("keep_alive_timeout", "\"5s\"", "default".to_owned()),
        ("timeout \"5s\"", "\"5s\"", place("backend_timeout")),
        (
            "servers",
            "[\"127.0.0.1:9001\"]",
            place("servers = [\"127.0.0.1:9001"),
        ),
        ("max_keep_alive_requests 1000", "1000", "default".to_owned()),
        ("strip_prefix", "true", place("strip_prefix")),
    ] {
        let words = line(&said, start);
        assert_eq!(words[1..3], [value, &from], "{said}");
    }
    // Each route is named with the line it begins on, the one that is taken last.
    let tried: Vec<_> = said
        .lines()
        .filter(|line| line.contains(" any host ") || line.contains(" shop.example "))
        .collect();
    let says = |at: usize, word: &str| assert!(tried[at].contains(word), "{tried:#?}");
    says(
        0,
        "no: the scheme is not https"
            .replace("https", "http")
            .as_str(),
    );
    says(1, "no: it is for other paths");
    assert!(tried.last().unwrap().contains(" taken "), "{tried:#?}");

    let said = explained(file, &["GET http://www.shop.example/a?b"]);
    assert!(
        said.contains("301 to https://www.shop.example/a?b\n"),
        "{said}"
    );
    let said = explained(file, &["GET http://10.0.0.1/"]);
    assert!(said.contains("404: no route is for it\n"), "{said}");
    let said = explained(
        "config/two-upstreams.toml",
        &["GET /api", "-H", "Host: Shop.example"],
    );
    assert!(said.contains("upstream api is asked: GET /api\n"), "{said}");
    let words = line(&said, "keep_alive \"On\"");
    assert_eq!(words[2..], ["config/two-upstreams.toml:4", "[client]"]);
}

#[test]
fn what_is_no_request_is_not_explained() {
    for arguments in [
        ["--explain", "http://h/"].as_slice(),
        &["--explain", "GET ftp://h/"],
        &["--explain", "GET http://h/", "-H", "no header"],
        &["-H", "A: b"],
    ] {
        let all = [&["check", "-c", "config/warmline.toml"], arguments].concat();
        let output = warmline(Path::new(ROOT), &all);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}
