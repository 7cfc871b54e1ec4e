//! The file as a whole: what arrives, and what is said about what cannot.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use http::{HeaderName, Method};
use proptest::prelude::*;

use super::*;
use crate::backend::{self, Forwarded, ServerSettings, Upgrades};
use crate::client;
use crate::keepalive::KeepAlive;
use crate::log::{self, Destination, Format};
use crate::lookup;
use crate::net::{
    CertificateSource, ClientAuth, MinVersion, Network, Networks, PortRange, Probes,
    ServerTlsSettings, SocketOptions,
};
use crate::pool;
use crate::route::{
    Action, ChangeSet, Changes, Conditions, HeaderChange, PathMatch, Pattern, Rewrite,
    RouteSettings, Scheme, Template, Use, ValueMatch,
};

const SAMPLE: &str = include_str!("../../config/warmline.toml");
const LISTENER: &str = "[[listeners]]\naddress = \":8080\"\n";
const UPSTREAM: &str = "[upstreams.app]\nservers = [\"127.0.0.1:9000\"]\n";

fn env(name: &str) -> Option<String> {
    match name {
        "PORT" => Some("9090".to_owned()),
        "KEEP" => Some("Off".to_owned()),
        "BAD" => Some("5x".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Loaded, Report> {
    parse(text, "test.toml", &env)
}

/// The settings of a file that has to be without faults and warnings.
fn sound(text: &str) -> server::Settings {
    match read(text) {
        Ok(loaded) if loaded.warnings.is_empty() => loaded.settings,
        Ok(loaded) => panic!("{text}\n{}", loaded.warnings),
        Err(report) => panic!("{text}\n{report}"),
    }
}

/// The findings of a file, each as its line and its title.
fn found(text: &str) -> Vec<(usize, String)> {
    let report = read(text).map_or_else(|report| report, |loaded| loaded.warnings);
    let findings = report.findings().iter();
    findings
        .map(|finding| {
            (
                report.line(finding).unwrap_or(0),
                finding.title().to_owned(),
            )
        })
        .collect()
}

/// The findings of `text` are these, in this order; what is about the whole file has line 0.
#[track_caller]
fn assert_found(text: &str, findings: &[(usize, &str)]) {
    let found = found(text);
    let found: Vec<_> = found
        .iter()
        .map(|(line, title)| (*line, title.as_str()))
        .collect();
    assert_eq!(found, findings, "{text}");
}

/// One setting in its table, with everything else a file needs.
fn with(header: &str, line: &str) -> String {
    match header {
        "[upstreams.app]" => format!("{UPSTREAM}{line}\n{LISTENER}"),
        _ => format!("{header}\n{line}\n{LISTENER}{UPSTREAM}"),
    }
}

#[test]
fn the_least_file_is_all_defaults() {
    let settings = sound(&format!("{LISTENER}{UPSTREAM}"));
    let address: SocketAddr = "0.0.0.0:8080".parse().unwrap();
    let expected = server::Settings {
        workers: 0,
        shutdown_timeout: Duration::from_secs(30),
        resolver: Vec::new(),
        client: client::Settings::default(),
        max_clients: None,
        admin: None,
        access_log: None,
        certificates: Vec::new(),
        listeners: vec![address.into()],
        hosts: Vec::new(),
        routes: vec![RouteSettings::to("/", "app").into()],
        upstreams: vec![backend::Settings::new(
            "app",
            vec![ServerSettings::new("127.0.0.1:9000")],
        )],
    };
    assert_eq!(settings, expected);
}

#[test]
fn the_sample_has_every_setting_at_its_default() {
    assert_eq!(sound(SAMPLE), sound(&format!("{LISTENER}{UPSTREAM}")));
    for table in keys::TABLES {
        for setting in table.settings {
            let listed = SAMPLE.contains(&format!("{} = ", setting.name));
            assert!(listed, "config/warmline.toml lacks {}", setting.name);
        }
    }
}

#[test]
fn the_listed_defaults_are_the_defaults() {
    for (table, header) in [
        (&keys::SERVER, "[server]"),
        (&keys::CLIENT, "[client]"),
        (&keys::UPSTREAMS, "[upstreams.app]"),
    ] {
        for setting in table.settings {
            if let keys::Default::Is(default) = setting.default {
                let text = with(header, &format!("{} = {default}", setting.name));
                let expected = sound(&format!("{LISTENER}{UPSTREAM}"));
                assert_eq!(sound(&text), expected, "{header} {}", setting.name);
            }
        }
    }
}

#[test]
fn every_setting_arrives() {
    let settings = sound(
        r#"
        [server]
        workers = 0x10
        shutdown_timeout = 0
        [[listeners]]
        address = "[::1]:${PORT}"
        [[listeners]]
        address = 8081
        [[routes]]
        host = "*.Shop.example"
        path = "/api"
        upstream = "b"
        [[routes]]
        upstream = "a.1"
        [upstreams.b]
        servers = ["http://app", { address = "[::1]:9001", weight = 0 }]
        keep_alive = "${KEEP}"
        max_keep_alive_requests = 7
        keep_alive_timeout = "1m30s"
        connect_timeout = "300ms"
        timeout = "2mi"
        preserve_host = "off"
        forwarded = "forwarded"
        [upstreams."a.1"]
        servers = ["10.0.0.1:${PORT:-80}"]
        "#,
    );
    assert_eq!(settings.workers, 16);
    assert_eq!(settings.shutdown_timeout, Duration::ZERO);
    let listeners = settings
        .listeners
        .iter()
        .map(|listener| listener.address.to_string());
    assert_eq!(
        listeners.collect::<Vec<_>>(),
        ["[::1]:9090", "0.0.0.0:8081"]
    );
    let route = |host: Option<&str>, path: &str, upstream: &str| RouteSettings {
        host: host.map(str::to_owned),
        ..RouteSettings::to(path, upstream)
    };
    assert_eq!(
        settings.routes,
        [
            route(Some("*.shop.example"), "/api", "b").into(),
            route(None, "/", "a.1").into()
        ]
    );
    let b = backend::Settings {
        servers: vec![
            ServerSettings::new("app:80"),
            ServerSettings {
                address: "[::1]:9001".to_owned(),
                weight: 0,
            },
        ],
        pool: pool::Settings::new(KeepAlive {
            enabled: false,
            max_requests: NonZeroU32::new(7),
            timeout: Duration::from_secs(90),
        }),
        connect_timeout: Duration::from_millis(300),
        timeout: Duration::from_mins(2),
        preserve_host: false,
        forwarded: Forwarded::Rfc7239,
        ..backend::Settings::new("b", Vec::new())
    };
    let a = backend::Settings::new("a.1", vec![ServerSettings::new("10.0.0.1:9090")]);
    assert_eq!(settings.upstreams, [b, a], "in the order of the file");
}

#[test]
fn the_access_log_is_where_and_as_it_is_asked_for() {
    let log =
        |lines: &str| sound(&format!("[access_log]\n{lines}\n{LISTENER}{UPSTREAM}")).access_log;
    let to = |to, format, flush| {
        Some(log::Settings {
            to,
            format,
            flush: Duration::from_millis(flush),
        })
    };
    let file = |path: &str| Destination::File(path.into());
    for (lines, expected) in [
        ("path = \"off\"", None),
        ("path = \"off\"\nformat = \"json\"", None),
        (
            "path = \"stdout\"",
            to(Destination::Stdout, Format::Combined, 1000),
        ),
        (
            "path = \"./stdout\"",
            to(file("./stdout"), Format::Combined, 1000),
        ),
        (
            "path = \"/var/log/a.log\"\nformat = \"extended\"\nflush = \"300ms\"",
            to(file("/var/log/a.log"), Format::Extended, 300),
        ),
        (
            "path = \"${LOG:-a.log}\"\nformat = \"json\"\nflush = \"1s\"",
            to(file("a.log"), Format::Json, 1000),
        ),
    ] {
        assert_eq!(log(lines), expected, "{lines}");
    }
}

#[test]
fn what_is_wrong_with_the_access_log_is_said() {
    for (lines, title) in [
        ("format = \"json\"", "[access_log] needs `path`"),
        (
            "path = \"\"",
            "`path` takes the path of a file, not an empty string",
        ),
        (
            "path = \"/var/log/\"",
            "`path` takes the path of a file, not `/var/log/`",
        ),
        (
            "path = false",
            "`path` takes the path of a file, not a boolean",
        ),
        (
            "path = \"a\"\nformat = \"jsno\"",
            "`format` takes one of its words, not `jsno`",
        ),
        (
            "path = \"a\"\nflush = 0",
            "`flush` takes a duration, not `0`",
        ),
        (
            "path = \"a\"\nlevel = 1",
            "[access_log] has no setting `level`",
        ),
    ] {
        let text = format!("[access_log]\n{lines}\n{LISTENER}{UPSTREAM}");
        let titles: Vec<_> = found(&text).into_iter().map(|(_, title)| title).collect();
        assert_eq!(titles, [title], "{text}");
    }
}

#[test]
fn the_options_of_sockets_arrive() {
    let settings = sound(&format!(
        "{UPSTREAM}{}{LISTENER}",
        r#"
        source_addresses = ["10.0.0.5", "fd00::5"]
        source_port_range = "40000 - 49999"
        tcp_keepalive = "1m"
        tcp_keepalive_interval = 5
        tcp_keepalive_probes = 127
        tcp_user_timeout = "20s"
        mark = 0x77
        dscp = 46
        bind_device = "eth1"
        "#
    ));
    let upstream = &settings.upstreams[0];
    assert_eq!(upstream.source_addresses.len(), 2);
    let expected = SocketOptions {
        source_ports: Some(PortRange {
            low: 40_000,
            high: 49_999,
        }),
        keepalive: Some(Probes {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(5),
            count: 127,
        }),
        user_timeout: Some(Duration::from_secs(20)),
        mark: 0x77,
        dscp: 46,
        device: Some("eth1".to_owned()),
        fast_open: false,
    };
    assert_eq!(upstream.sockets, expected);
    let settings = sound(&with("[upstreams.app]", "tcp_keepalive = \"32767s\""));
    let probes = settings.upstreams[0].sockets.keepalive.unwrap();
    assert_eq!(
        (probes.interval, probes.count),
        (Probes::INTERVAL, Probes::COUNT)
    );
}

#[test]
fn apaches_names_are_names() {
    for (header, apache, ours) in [
        ("[client]", "KeepAlive = \"Off\"", "keep_alive = false"),
        (
            "[client]",
            "maxkeepaliverequests = 3",
            "max_keep_alive_requests = 3",
        ),
        (
            "[client]",
            "KeepAliveTimeout = 7",
            "keep_alive_timeout = \"7s\"",
        ),
        ("[client]", "Timeout = \"1mi\"", "timeout = 60"),
        (
            "[client]",
            "LimitRequestLine = 100",
            "limit_request_line = 100",
        ),
        (
            "[client]",
            "LimitRequestFields = 9",
            "limit_request_fields = 9",
        ),
        (
            "[client]",
            "LimitRequestFieldSize = 9",
            "limit_request_field_size = 9",
        ),
        ("[client]", "LimitRequestBody = 9", "limit_request_body = 9"),
        (
            "[upstreams.app]",
            "KEEPALIVE = \"off\"",
            "keep_alive = false",
        ),
        (
            "[upstreams.app]",
            "MaxKeepAliveRequests = 0",
            "max_keep_alive_requests = 0",
        ),
        (
            "[upstreams.app]",
            "KeepAliveTimeout = 9",
            "keep_alive_timeout = 9",
        ),
        ("[upstreams.app]", "Timeout = 9", "timeout = 9"),
        (
            "[upstreams.app]",
            "ConnectionTimeout = 9",
            "connect_timeout = 9",
        ),
        (
            "[upstreams.app]",
            "ProxyPreserveHost = \"Off\"",
            "preserve_host = false",
        ),
    ] {
        assert_eq!(
            sound(&with(header, apache)),
            sound(&with(header, ours)),
            "{apache}"
        );
    }
}

#[test]
fn a_bad_value_is_refused_where_it_stands() {
    let table = r#"
        [server]        | workers = -1                 | `workers` takes a whole number, not `-1`
        [server]        | workers = 1025               | `workers` takes a whole number, not `1025`
        [server]        | workers = 1.5                | `workers` takes a whole number, not a fraction
        [server]        | workers = true               | `workers` takes a whole number, not a boolean
        [client]        | timeout = 0                  | `timeout` takes a duration, not `0`
        [client]        | timeout = "0s"               | `timeout` takes a duration, not `0s`
        [client]        | timeout = ""                 | `timeout` takes a duration, not an empty string
        [client]        | timeout = -0.5               | `timeout` takes a duration, not `-0.5`
        [client]        | timeout = nan                | `timeout` takes a duration, not `nan`
        [client]        | timeout = inf                | `timeout` takes a duration, not `inf`
        [client]        | timeout = 1e300              | `timeout` takes a duration, not `1e300`
        [client]        | timeout = 1979-05-27         | `timeout` takes a duration, not a date or time
        [client]        | timeout = [1]                | `timeout` takes a duration, not a list
        [client]        | timeout = "${BAD}"           | `timeout` takes a duration, not `5x`
        [client]        | timeout = "${NONE}"          | the environment variable `NONE` is not set
        [client]        | timeout = "${"               | `${` without `}`
        [client]        | timeout = "${-}"             | `-` is not the name of a variable
        [client]        | keep_alive = 1               | `keep_alive` takes on or off, not a whole number
        [client]        | keep_alive = "maybe"         | `keep_alive` takes on or off, not `maybe`
        [client]        | limit_request_line = 0       | `limit_request_line` takes a number of bytes, not `0`
        [client]        | limit_request_body = "1t"    | `limit_request_body` takes a number of bytes, not `1t`
        [client]        | MaxKeepAliveRequests = "10x" | `max_keep_alive_requests` takes a whole number, not `10x`
        [client]        | timeot = 5                   | [client] has no setting `timeot`
        [client]        | "" = 5                       | [client] has no setting ``
        [upstreams.app] | connect_timeout = 0          | `connect_timeout` takes a duration, not `0`
        [upstreams.app] | forwarded = "on"             | `forwarded` takes one of its words, not `on`
        [upstreams.app] | source_port_range = 40000    | `source_port_range` takes a range of ports, not a whole number
        [upstreams.app] | source_port_range = "40000"  | `source_port_range` takes a range of ports, not `40000`
        [upstreams.app] | source_port_range = "9-1"    | `source_port_range` takes a range of ports, not `9-1`
        [upstreams.app] | source_port_range = "0-9"    | `source_port_range` takes a range of ports, not `0-9`
        [upstreams.app] | source_port_range = "1-65536" | `source_port_range` takes a range of ports, not `1-65536`
        [upstreams.app] | source_port_range = "1-2-3"  | `source_port_range` takes a range of ports, not `1-2-3`
        [upstreams.app] | tcp_keepalive = "9h7m"       | `tcp_keepalive` of [upstreams.app] is too long
        [upstreams.app] | tcp_keepalive_interval = 0   | `tcp_keepalive_interval` takes a duration, not `0`
        [upstreams.app] | tcp_keepalive_probes = 0     | `tcp_keepalive_probes` takes a whole number, not `0`
        [upstreams.app] | tcp_keepalive_probes = 128   | `tcp_keepalive_probes` takes a whole number, not `128`
        [upstreams.app] | mark = 4294967296            | `mark` takes a whole number, not `4294967296`
        [upstreams.app] | dscp = 64                    | `dscp` takes a whole number, not `64`
        [upstreams.app] | bind_device = "a/b"          | `bind_device` takes the name of a network device, not `a/b`
        [upstreams.app] | bind_device = "sixteen-letters!" | `bind_device` takes the name of a network device, not `sixteen-letters!`
        [upstreams.app] | limit_request_body = 1       | [upstreams.app] has no setting `limit_request_body`
    "#;
    for row in table.lines().filter(|row| row.contains('|')) {
        let mut cells = row.split('|').map(str::trim);
        let (header, line) = (cells.next().unwrap(), cells.next().unwrap());
        let text = with(header, line);
        let place = 1 + text.lines().position(|other| other == line).unwrap();
        assert_found(&text, &[(place, cells.next().unwrap())]);
    }
}

#[test]
fn what_was_probably_meant_is_offered() {
    for (header, line, help) in [
        (
            "[client]",
            "keep_alive_timeot = 5",
            "did you mean `keep_alive_timeout`?",
        ),
        (
            "[client]",
            "keepalive_requests = 5",
            "it is called `max_keep_alive_requests` here",
        ),
        (
            "[client]",
            "preserve_host = true",
            "it is a setting of [upstreams.NAME]",
        ),
        (
            "[upstreams.app]",
            "proxy_connect_timeout = 5",
            "it is called `connect_timeout` here",
        ),
        (
            "[upstreams.app]",
            "forwarded = \"xforwarded\"",
            "did you mean `x-forwarded`?",
        ),
        ("[sever]", "workers = 5", "did you mean `[server]`?"),
        ("[upstream]", "x = 5", "did you mean `[upstreams.NAME]`?"),
    ] {
        let report = read(&with(header, line)).unwrap_err();
        assert_eq!(report.findings()[0].advice()[0], help, "{line}");
    }
    let report = read(&format!("keep_alive = true\n{LISTENER}{UPSTREAM}")).unwrap_err();
    let help = "it is a setting of [client] and of [[listeners]] and of [[hosts]] and of [[routes]] and of [upstreams.NAME]";
    assert_eq!(report.findings()[0].advice()[0], help);
}

#[test]
fn what_is_missing_is_said() {
    let other = "[upstreams.other]\nservers = [\"b:1\"]\n";
    let no_listener = (0, "no address to listen on");
    let no_upstream = (0, "no upstream: there is nobody to pass requests to");
    assert_found("", &[no_listener, no_upstream]);
    assert_found(UPSTREAM, &[no_listener]);
    assert_found(LISTENER, &[no_upstream]);
    assert_found(
        &format!("{LISTENER}{UPSTREAM}{other}"),
        &[(0, "no route: which of the 2 upstreams answers?")],
    );
    assert_found(
        &format!("{LISTENER}[[listeners]]\n{UPSTREAM}"),
        &[(3, "[[listeners]] needs `address`")],
    );
    assert_found(
        &format!("{LISTENER}[[listeners]]\nadress = 1\n{UPSTREAM}"),
        &[(4, "[[listeners]] has no setting `adress`")],
    );
    assert_found(
        &format!("{LISTENER}[upstreams.app]\n"),
        &[(3, "[upstreams.app] needs `servers`")],
    );
}

#[test]
fn routes_lead_somewhere_and_only_once() {
    let other = "[upstreams.other]\nservers = [\"b:1\"]\n";
    let app = "[[routes]]\nupstream = \"app\"\n";
    let ap = "[[routes]]\nupstream = \"ap\"\n";
    assert_found(
        &format!("{LISTENER}{app}"),
        &[(4, "there is no upstream `app`")],
    );
    assert_found(
        &format!("{LISTENER}{ap}{UPSTREAM}"),
        &[
            (4, "there is no upstream `ap`"),
            (5, "no route leads to [upstreams.app]"),
        ],
    );
    assert_found(
        &format!("{LISTENER}{app}{UPSTREAM}{other}"),
        &[(7, "no route leads to [upstreams.other]")],
    );
    assert_found(
        &format!("{LISTENER}{app}{app}{UPSTREAM}"),
        &[(5, "two routes for any host and /")],
    );
    assert_found(
        &format!("{LISTENER}{app}host = \"A\"\n{app}host = \"a\"\npath = \"/\"\n{UPSTREAM}"),
        &[(6, "two routes for a and /")],
    );
    // A host that could not be read is not "any host", which the second is for.
    assert_found(
        &format!("{LISTENER}{app}host = \"a:1\"\n{app}{UPSTREAM}"),
        &[(5, "`host` takes a host name, not `a:1`")],
    );
}

#[test]
fn tables_have_the_shape_they_need() {
    assert_found(
        &format!("[listeners]\naddress = 1\n{UPSTREAM}"),
        &[(1, "`listeners` is a list of tables, not a table")],
    );
    assert_found(
        &format!("listeners = []\n{UPSTREAM}"),
        &[(0, "no address to listen on")],
    );
    assert_found(
        &format!("[[client]]\n{LISTENER}{UPSTREAM}"),
        &[(1, "there is one [client], not a list of them")],
    );
    assert_found(
        &format!("client = 3\n{LISTENER}{UPSTREAM}"),
        &[(1, "[client] is a table, not a whole number")],
    );
    assert_found(
        &format!("{LISTENER}[upstreams]\nservers = [\"a\"]\n"),
        &[(4, "`servers` is a setting of one upstream")],
    );
    assert_found(
        &format!("upstreams = 3\n{LISTENER}"),
        &[(1, "`upstreams` holds tables with names, not a whole number")],
    );
    assert_found(
        &format!("{LISTENER}[upstreams.\"a b\"]\nservers = [\"a\"]\n"),
        &[(3, "an upstream cannot be called `a b`")],
    );
}

#[test]
fn servers_are_there_once_and_can_be_asked() {
    let upstream = |servers: &str| format!("{LISTENER}[upstreams.app]\nservers = {servers}\n");
    assert_found(&upstream("[]"), &[(4, "[upstreams.app] has no server")]);
    assert_found(
        &upstream("\"a\""),
        &[(4, "`servers` takes a list of backends, not a string")],
    );
    assert_found(
        &upstream("[\"a\", \"http://A:80\"]"),
        &[(4, "A:80 is twice among the servers of [upstreams.app]")],
    );
    assert_found(
        &upstream("[{ address = \"a\", weight = 0 }]"),
        &[(4, "every server of [upstreams.app] has weight 0")],
    );
    assert_found(
        &upstream("[{ address = \"a\", weight = -1 }, \"https://b\", 9000, {}]"),
        &[
            (4, "`weight` takes a whole number, not `-1`"),
            (4, "`address` takes a backend's address, not `https://b`"),
            (4, "`address` takes a backend's address, not a whole number"),
            (4, "a server needs `address`"),
        ],
    );
}

#[test]
fn what_contradicts_itself_is_found() {
    assert_found(
        &format!("{LISTENER}{LISTENER}{UPSTREAM}"),
        &[(4, "0.0.0.0:8080 is listened on twice")],
    );
    let any_port = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
    assert_found(&format!("{any_port}{any_port}{UPSTREAM}"), &[]);
    assert_found(
        &format!("{LISTENER}{UPSTREAM}KeepAlive = \"On\"\nkeep_alive = true\n"),
        &[(6, "`keep_alive` is set twice")],
    );
    let zero = format!("{LISTENER}{UPSTREAM}keep_alive_timeout = 0\n");
    assert_found(&zero, &[(5, "[upstreams.app] keeps no connections")]);
    assert_found(&format!("{zero}keep_alive = false\n"), &[]);
}

#[test]
fn a_warning_does_not_stop_the_proxy() {
    let route = "[[routes]]\nupstream = \"app\"\n";
    let other = "[upstreams.other]\nservers = [\"b:1\"]\n";
    let loaded = read(&format!("{LISTENER}{route}{UPSTREAM}{other}")).unwrap();
    assert_eq!(
        (loaded.warnings.faults(), loaded.warnings.warnings()),
        (0, 1)
    );
    assert_eq!(loaded.settings.upstreams.len(), 2);
}

#[test]
fn a_line_that_is_not_toml_hides_only_its_own_faults() {
    let text = format!("[client]\ntimeout = 5x\nkeep_alive = 3\n{LISTENER}");
    let titles = [
        (2, "`5x` is not a value".to_owned()),
        (
            3,
            "`keep_alive` takes on or off, not a whole number".to_owned(),
        ),
    ];
    assert_eq!(
        found(&text),
        titles,
        "and nothing is missing: it may be what cannot be read"
    );
}

#[test]
fn a_message_cannot_be_broken_by_what_it_quotes() {
    let report = read("[client]\ntimeout = \"\"\"\n5\\u001b[31m\n\"\"\"\n[a\n").unwrap_err();
    assert!(!report.to_string().contains('\u{1b}'));
    let finding = &report.findings()[0];
    assert_eq!(
        finding.title(),
        "`timeout` takes a duration, not `5\\u{1b}[31m\\n`"
    );
}

#[test]
fn the_caret_of_a_variable_points_at_the_variable() {
    let text = "[[listeners]]\naddress = \"[::]:${NONE}\"\n";
    let report = read(&format!("{text}{UPSTREAM}")).unwrap_err();
    let span = report.findings()[0].span().unwrap();
    assert_eq!(&text[span], "${NONE}");
}

proptest! {
    /// Whatever stands in the file, there is an answer, and it can be shown.
    #[test]
    fn any_text_has_an_answer(text in "(?s).{0,200}") {
        if let Err(report) = read(&text) {
            prop_assert!(report.faults() > 0);
            prop_assert!(!report.render(true).is_empty());
        }
    }

    /// Tables, lists and keys in any order have an answer.
    #[test]
    fn lines_in_any_order_have_an_answer(lines in prop::collection::vec(line(), 0..12)) {
        match read(&lines.join("\n")) {
            Ok(loaded) => prop_assert_eq!(loaded.warnings.faults(), 0),
            Err(report) => prop_assert!(report.to_string().contains("in test.toml\n")),
        }
    }

    /// The sample with a piece cut out, doubled or replaced has an answer too.
    #[test]
    fn a_damaged_file_has_an_answer(
        from in 0..SAMPLE.len(),
        length in 0..60_usize,
        put in prop_oneof![
            Just(String::new()),
            "[\\[\\]{}\"'=,.#$\n a-z0-9-]{0,8}",
            (0..SAMPLE.len(), 0..60_usize).prop_map(|(from, length)| piece(from, length)),
        ],
    ) {
        let start = SAMPLE.floor_char_boundary(from);
        let end = SAMPLE.ceil_char_boundary(from + length);
        let text = format!("{}{put}{}", &SAMPLE[..start], &SAMPLE[end..]);
        match read(&text) {
            Ok(loaded) => prop_assert_eq!(loaded.warnings.faults(), 0),
            Err(report) => prop_assert!(report.to_string().contains("in test.toml\n")),
        }
    }
}

fn piece(from: usize, length: usize) -> String {
    let start = SAMPLE.floor_char_boundary(from);
    SAMPLE[start..SAMPLE.ceil_char_boundary(from + length)].to_owned()
}

/// A line that has to do with a configuration, though not in the right place.
fn line() -> impl Strategy<Value = String> {
    let words = |words: &'static str| prop::sample::select(words.split('|').collect::<Vec<_>>());
    let tables = "server|client|listeners|routes|upstreams|upstreams.app|upstreams.b|\
                  upstreams.app.servers|servers|a.b";
    let keys = "timeout|KeepAlive|keep_alive|address|upstream|servers|upstreams.app|\
                upstreams.app.timeout|listeners.address|a|a.b|host|path|\"\"";
    let values = "1|0.5|true|\"On\"|\"app\"|\"${KEEP}\"|\"${\"|[|]|[\"a:1\"]|[{ address = \"a\" }]|\
                  {|{}|{ a.b = 1, a = 2 }|5s|\"|";
    prop_oneof![
        words(tables).prop_map(|name| format!("[{name}]")),
        words(tables).prop_map(|name| format!("[[{name}]]")),
        (words(keys), words(values)).prop_map(|(key, value)| format!("{key} = {value}")),
        words(values).prop_map(str::to_owned),
    ]
}

#[test]
fn names_are_looked_up_as_asked_for() {
    let resolve = |lines: &str| {
        let settings = sound(&with("[upstreams.app]", lines));
        settings.upstreams[0].resolve.clone()
    };
    let default = lookup::Settings::default();
    assert_eq!(resolve("resolve = \"ttl\""), default);
    assert_eq!(
        resolve("resolve = \"off\""),
        lookup::Settings {
            again: false,
            ..default.clone()
        }
    );
    assert_eq!(
        resolve("resolve_min = \"10s\"\nresolve_max = \"1h\""),
        lookup::Settings {
            least: Duration::from_secs(10),
            most: Duration::from_hours(1),
            ..default
        }
    );
    let contradiction = "`resolve_min` of [upstreams.app] is more than its `resolve_max`";
    for line in ["resolve_min = \"6m\"", "resolve_max = 0.5"] {
        assert_found(&with("[upstreams.app]", line), &[(3, contradiction)]);
    }
    assert_found(
        &with("[upstreams.app]", "resolve_min = 0"),
        &[(3, "`resolve_min` takes a duration, not `0`")],
    );
    assert_found(
        &with("[upstreams.app]", "resolve = true"),
        &[(3, "`resolve` takes one of its words, not a boolean")],
    );
}

#[test]
fn source_addresses_are_a_list() {
    let line = "source_addresses = [\"10.0.0.5\", \"fd00::5\"]";
    let settings = sound(&with("[upstreams.app]", line));
    let addresses = settings.upstreams[0].source_addresses.iter();
    let addresses: Vec<_> = addresses.map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.5", "fd00::5"]);
    for (line, title) in [
        (
            "source_addresses = [\"app\"]",
            "`source_addresses` takes a list of IP addresses, not `app`",
        ),
        (
            "source_addresses = \"10.0.0.5\"",
            "`source_addresses` takes a list of IP addresses, not a string",
        ),
    ] {
        assert_found(&with("[upstreams.app]", line), &[(3, title)]);
    }
}

#[test]
fn upgrades_are_a_list_of_protocols() {
    for (line, upgrades) in [
        ("tunnel_timeout = \"5m\"", Upgrades::default()),
        ("upgrade = []", Upgrades::These(Vec::new())),
        ("upgrade = [\"*\"]", Upgrades::Any),
        (
            "upgrade = [\"WebSocket\", \"irc/6.9\"]",
            Upgrades::These(vec!["websocket".to_owned(), "irc/6.9".to_owned()]),
        ),
    ] {
        let settings = sound(&with("[upstreams.app]", line));
        assert_eq!(settings.upstreams[0].upgrade, upgrades, "{line}");
    }
    for (line, title) in [
        (
            "upgrade = [\"h2c\"]",
            "`upgrade` takes a list of protocols, not `h2c`",
        ),
        (
            "upgrade = \"websocket\"",
            "`upgrade` takes a list of protocols, not a string",
        ),
        (
            "tunnel_timeout = 0",
            "`tunnel_timeout` takes a duration, not `0`",
        ),
    ] {
        assert_found(&with("[upstreams.app]", line), &[(3, title)]);
    }
}

#[test]
fn name_servers_are_addresses() {
    let settings = sound(&with(
        "[server]",
        "resolver = [\"10.0.0.2\", \"[::1]:5353\", \"127.0.0.1:${PORT}\"]",
    ));
    let servers = settings.resolver.iter().map(SocketAddr::to_string);
    assert_eq!(
        servers.collect::<Vec<_>>(),
        ["10.0.0.2:53", "[::1]:5353", "127.0.0.1:9090"]
    );
    for (line, title) in [
        (
            "resolver = [\"dns.example\"]",
            "`resolver` takes a list of name servers, not `dns.example`",
        ),
        (
            "resolver = \"10.0.0.2\"",
            "`resolver` takes a list of name servers, not a string",
        ),
        (
            "resolver = [53]",
            "`resolver` takes a list of name servers, not a whole number",
        ),
    ] {
        assert_found(&with("[server]", line), &[(2, title)]);
    }
}

#[test]
fn a_server_may_be_a_service() {
    let upstream = |server: &str| format!("{LISTENER}[upstreams.app]\nservers = [\"{server}\"]\n");
    let settings = sound(&upstream("srv+_http._tcp.app.example"));
    assert_eq!(
        settings.upstreams[0].servers,
        [ServerSettings::new("srv+_http._tcp.app.example")]
    );
    for server in [
        "srv+",
        "srv+_http._tcp.app.example:80",
        "srv+10.0.0.1",
        "srv+a..b",
        "srv+app/x",
    ] {
        let title = format!("`address` takes a backend's address, not `{server}`");
        assert_found(&upstream(server), &[(4, &title)]);
    }
}

fn networks(texts: &[&str]) -> Networks {
    let network = |text: &&str| {
        let (address, bits) = text.split_once('/').unwrap();
        Network::new(address.parse().unwrap(), bits.parse().unwrap()).unwrap()
    };
    Networks::new(texts.iter().map(network).collect())
}

#[test]
fn networks_are_addresses_with_the_bits_they_have_in_common() {
    for (value, title, label) in [
        (
            "[\"10.0.0.1/8\"]",
            "not `10.0.0.1/8`",
            "the network is called `10.0.0.0/8`",
        ),
        (
            "[\"10.0.0.0/33\"]",
            "not `10.0.0.0/33`",
            "an address of this kind has 32 bits",
        ),
        (
            "[\"10.0.0.0/255.0.0.0\"]",
            "not `10.0.0.0/255.0.0.0`",
            "`255.0.0.0` is not how many bits the addresses have in common",
        ),
        (
            "[\"10.0.0.0/\"]",
            "not `10.0.0.0/`",
            "`` is not how many bits the addresses have in common",
        ),
        (
            "[\"lb.example\"]",
            "not `lb.example`",
            "`lb.example` is a name; an address such as 127.0.0.1 is needed here",
        ),
        (
            "[\"10.0.0.1:80\"]",
            "not `10.0.0.1:80`",
            "`10.0.0.1:80` is not an IP address",
        ),
        ("[\"[::1]\"]", "not `[::1]`", "`[::1]` is not an IP address"),
        (
            "[\"10.0.0/8\"]",
            "not `10.0.0/8`",
            "`10.0.0` is not an IP address",
        ),
        ("[\"\"]", "not an empty string", "this is empty"),
        ("[10]", "not a whole number", "this is a whole number"),
        ("\"10.0.0.1\"", "not a string", "this is a string"),
    ] {
        for name in ["proxy_protocol", "trusted_proxies"] {
            for header in ["[client]\ntimeout = 7", "[[listeners]]\naddress = 81"] {
                let text = with(header, &format!("{name} = {value}"));
                let title = format!("`{name}` takes a list of IP addresses and networks, {title}");
                assert_found(&text, &[(3, &title)]);
                let report = read(&text).err().unwrap().to_string();
                assert!(report.contains(label), "{report}");
            }
        }
    }
    let wrong = "`trusted_header` takes the name of a header, not `x y`";
    assert_found(&with("[client]", "trusted_header = \"x y\""), &[(2, wrong)]);
    let of_hosts = with("[[hosts]]", "names = [\"a\"]\ntrusted_proxies = []");
    let wrong = "[[hosts]] has no setting `trusted_proxies`";
    assert_found(&of_hosts, &[(3, wrong)]);
}

#[test]
fn every_setting_of_clients_arrives() {
    let settings = sound(&format!(
        r#"
        [client]
        keep_alive = false
        max_keep_alive_requests = 0
        keep_alive_timeout = 2.5
        timeout = "${{NONE:-90}}"
        limit_request_line = "4k"
        limit_request_fields = 50
        limit_request_field_size = 4096
        limit_request_body = "1m"
        request_read_timeout = "header=0"
        abort_on_close = "On"
        proxy_protocol = ["10.0.0.0/8", "127.0.0.1"]
        trusted_proxies = ["2001:db8::/32"]
        trusted_header = "Forwarded"
        http2 = "off"
        http2_max_streams = 10
        http2_max_header_list = "16K"
        tls_subject_header = "X-Subject"
        max_connections = 5000
        {LISTENER}{UPSTREAM}"#
    ));
    assert_eq!(
        settings.client,
        client::Settings {
            keep_alive: KeepAlive {
                enabled: false,
                max_requests: None,
                timeout: Duration::from_millis(2500),
            },
            timeout: Duration::from_secs(90),
            limits: client::Limits {
                request_line: 4096,
                fields: Some(50),
                field_size: 4096,
                body: Some(1 << 20),
            },
            read_timeout: client::ReadTimeout {
                header: None,
                ..client::ReadTimeout::default()
            },
            abort_on_close: true,
            introduced_by: networks(&["10.0.0.0/8", "127.0.0.1/32"]),
            trust: client::Trust {
                proxies: networks(&["2001:db8::/32"]),
                header: HeaderName::from_static("forwarded"),
            },
            http2: client::Http2 {
                enabled: false,
                max_streams: 10,
                max_header_list: 16 * 1024,
            },
            subject_header: Some(HeaderName::from_static("x-subject")),
        }
    );
    assert_eq!(settings.max_clients, NonZeroU32::new(5000));
}

#[test]
fn listeners_and_virtual_hosts_ask_for_something_else_or_inherit() {
    let settings = sound(&format!(
        r#"
        [[listeners]]
        address = 8080
        [[listeners]]
        address = 8081
        KeepAliveTimeout = "7s"
        max_keep_alive_requests = -1
        limit_request_fields = 0
        proxy_protocol = []
        trusted_proxies = ["${{NONE:-10.0.0.1}}"]
        trusted_header = "X-Real-IP"
        [[hosts]]
        names = ["Shop.example", "*.shop.example"]
        MaxKeepAliveRequests = 0
        keep_alive_timeout = 0
        timeout = "9s"
        {UPSTREAM}"#
    ));
    assert_eq!(settings.listeners[0].client, client::Overrides::default());
    assert_eq!(
        settings.listeners[1].client,
        client::Overrides {
            keep_alive_timeout: Some(Duration::from_secs(7)),
            fields: Some(None),
            introduced_by: Some(networks(&[])),
            trusted_proxies: Some(networks(&["10.0.0.1/32"])),
            trusted_header: Some(HeaderName::from_static("x-real-ip")),
            ..client::Overrides::default()
        }
    );
    assert_eq!(
        settings.hosts,
        [client::HostSettings {
            names: vec!["shop.example".to_owned(), "*.shop.example".to_owned()],
            client: client::Overrides {
                max_keep_alive_requests: Some(None),
                timeout: Some(Duration::from_secs(9)),
                ..client::Overrides::default()
            },
        }]
    );
}

#[test]
fn what_is_wrong_with_a_virtual_host_is_said() {
    assert_found(
        &format!(
            "[[hosts]]\nnames = [\"a\", \"b\"]\nkeep_alive_timeout = \"x\"\n\
             [[hosts]]\nnames = [\"b\"]\nmax_keep_alive_requests = -2\n\
             [[hosts]]\nkeep_alive = true\n\
             [[hosts]]\nnames = [\"c\"]\nlimit_request_line = 5\n\
             [[hosts]]\nnames = []\n{LISTENER}{UPSTREAM}"
        ),
        &[
            (3, "`keep_alive_timeout` takes a duration, not `x`"),
            (5, "`b` stands in two virtual hosts"),
            (
                6,
                "`max_keep_alive_requests` takes a whole number, not `-2`",
            ),
            (7, "[[hosts]] needs `names`"),
            (11, "[[hosts]] has no setting `limit_request_line`"),
            (13, "a virtual host has no names"),
        ],
    );
}

#[test]
fn listeners_speak_tls_with_the_certificates_there_are() {
    let settings = sound(&format!(
        r#"[[certificates]]
        certificate = "shop.pem"
        key = "shop.key"
        ocsp = "shop.ocsp"
        [[certificates]]
        self_signed = ["localhost", "*.shop.example"]
        [[listeners]]
        address = "127.0.0.1:8443"
        tls = true
        tls_min_version = "1.3"
        tls_handshake_timeout = "3s"
        tls_client_certificate = "optional"
        tls_client_ca = "ca.pem"
        tls_session_tickets = false
        {LISTENER}{UPSTREAM}"#
    ));
    assert_eq!(
        settings.certificates,
        [
            CertificateSource::Files {
                certificate: "shop.pem".into(),
                key: "shop.key".into(),
                staple: Some("shop.ocsp".into()),
            },
            CertificateSource::SelfSigned(vec!["localhost".into(), "*.shop.example".into()]),
        ]
    );
    let tls: Vec<_> = settings.listeners.iter().map(|one| &one.tls).collect();
    let expected = ServerTlsSettings {
        min_version: MinVersion::Tls13,
        client_auth: Some((ClientAuth::Optional, "ca.pem".into())),
        tickets: false,
        handshake_timeout: Duration::from_secs(3),
        ..ServerTlsSettings::default()
    };
    assert_eq!(tls, [&Some(expected), &None]);
}

#[test]
fn what_is_wrong_with_tls_towards_clients_is_said_with_what_to_do() {
    for (text, said) in [
        (
            "tls = true",
            "a listener speaks TLS, and there is no certificate",
        ),
        (
            "tls_min_version = \"1.3\"",
            "a listener has `tls_min_version` and speaks no TLS",
        ),
        (
            "tls = true\ntls_client_certificate = \"require\"\n[[certificates]]\nself_signed = [\"a\"]",
            "clients are asked for a certificate, and none would be trusted",
        ),
        (
            "tls = true\ntls_client_ca = \"ca.pem\"\n[[certificates]]\nself_signed = [\"a\"]",
            "`tls_client_ca` is there, and no client is asked for a certificate",
        ),
        (
            "[[certificates]]\ncertificate = \"a.pem\"",
            "a certificate is there without its `key`",
        ),
        (
            "[[certificates]]\nself_signed = [\"a\"]\nkey = \"a.key\"",
            "a certificate is both read from files and made here",
        ),
    ] {
        let text = format!("{LISTENER}{text}\n{UPSTREAM}");
        let report = read(&text).expect_err(&text).to_string();
        assert!(report.contains(said), "{text}\n{report}");
        assert!(report.contains("help"), "{report}");
    }
}

/// The routes of a file with these lines in its one route, and an upstream `app`.
fn routed(lines: &str) -> server::RouteSettings {
    let file = sound(&format!("{LISTENER}[[routes]]\n{lines}\n{UPSTREAM}"));
    file.routes.into_iter().next().unwrap()
}

#[test]
fn every_setting_of_routes_arrives() {
    let read = routed(
        r#"
        upstream = "app"
        host = "shop.example"
        path_regex = '^/v([0-9])/(.*)$'
        scheme = "https"
        methods = ["GET", "PUT"]
        headers = { X-Api = "2", cookie = "~beta=1", Authorization = "*" }
        rewrite = "/$2?v=$1"
        request_headers = { add = { Via = "1.1 us" }, set = { X-Real-IP = "$remote_addr" }, remove = ["X-A", "X-B"] }
        response_headers = { remove = ["Server"] }
        keep_alive = false
        limit_request_body = "1m"
        backend_timeout = "5m"
        retry_body = 0
        "#,
    );
    let template = |text, used| Template::new(text, used, 2).unwrap();
    let name = |name: &'static str| HeaderName::from_static(name);
    let pattern = |text| Pattern::new(text).unwrap();
    let expected = RouteSettings {
        host: Some("shop.example".to_owned()),
        path: PathMatch::Regex(pattern("^/v([0-9])/(.*)$")),
        conditions: Conditions {
            scheme: Some(Scheme::Https),
            methods: vec![Method::GET, Method::PUT],
            headers: vec![
                (name("x-api"), ValueMatch::Exact("2".to_owned())),
                (name("cookie"), ValueMatch::Regex(pattern("beta=1"))),
                (name("authorization"), ValueMatch::Any),
            ],
        },
        action: Action::Upstream("app".to_owned()),
        rewrite: Some(Rewrite::To(template("/$2?v=$1", Use::Path))),
        changes: Changes {
            request: ChangeSet(vec![
                (name("x-a"), HeaderChange::Remove),
                (name("x-b"), HeaderChange::Remove),
                (
                    name("x-real-ip"),
                    HeaderChange::Set(template("$remote_addr", Use::Header)),
                ),
                (
                    name("via"),
                    HeaderChange::Add(template("1.1 us", Use::Header)),
                ),
            ]),
            response: ChangeSet(vec![(name("server"), HeaderChange::Remove)]),
        },
    };
    assert_eq!(read.route, expected);
    assert_eq!(read.otherwise.client.keep_alive, Some(false));
    assert_eq!(read.otherwise.client.body, Some(Some(1 << 20)));
    assert_eq!(read.otherwise.backend_timeout, Some(Duration::from_mins(5)));
    assert_eq!(read.otherwise.retry_body, Some(0));
    let stripped = routed("upstream = \"app\"\npath = \"/api\"\nstrip_prefix = true");
    assert_eq!(
        stripped.route.rewrite,
        Some(Rewrite::Strip("/api".to_owned()))
    );
}

#[test]
fn a_route_answers_by_itself() {
    let both = "[[routes]]\npath = \"/x\"\nupstream = \"app\"\n[[routes]]\n";
    let action = |lines: &str| {
        let file = sound(&format!("{LISTENER}{both}{lines}\n{UPSTREAM}"));
        file.routes.into_iter().nth(1).unwrap().route.action
    };
    let Action::Redirect(redirect) = action("redirect = \"https://$$$host$request_uri\"") else {
        panic!("a redirect");
    };
    assert_eq!(redirect.status.as_u16(), 302);
    assert_eq!(redirect.to.as_str(), "https://$$$host$request_uri");
    let Action::Redirect(redirect) = action("redirect = \"/\"\nredirect_status = 308") else {
        panic!("a redirect");
    };
    assert_eq!(redirect.status.as_u16(), 308);
    let Action::Respond(respond) =
        action("respond = 410\nrespond_body = \"gone\"\nrespond_type = \"text/html\"")
    else {
        panic!("a response");
    };
    assert_eq!(respond.status.as_u16(), 410);
    assert_eq!(respond.body.constant(), Some("gone"));
    assert_eq!(respond.content_type, "text/html");
}

#[test]
fn what_is_wrong_with_a_route_is_said_where_it_stands() {
    let app = "upstream = \"app\"\n";
    for (lines, line, title) in [
        ("path = \"/\"", 3, "a route leads nowhere"),
        (
            "upstream = \"app\"\nrespond = 200",
            5,
            "a route has `upstream` or `respond`, not both",
        ),
        (
            "respond = 200\nstrip_prefix = true",
            5,
            "`strip_prefix` means nothing without `upstream`",
        ),
        (
            "redirect = \"/\"\nrespond_body = \"x\"",
            5,
            "`respond_body` means nothing without `respond`",
        ),
        (
            "redirect = \"/\"\nredirect_status = 304",
            5,
            "304 is no redirect",
        ),
        (
            "redirect = \"https://a.example$request_id/\"",
            4,
            "`redirect` cannot be `https://a.example$request_id/`",
        ),
        (
            "respond = 100",
            4,
            "`respond` takes a whole number, not `100`",
        ),
        (
            "respond = 204\nrespond_body = \"x\"",
            5,
            "a response with status 204 has no body",
        ),
    ] {
        let text =
            format!("{LISTENER}[[routes]]\n{lines}\n[[routes]]\npath = \"/y\"\n{app}{UPSTREAM}");
        let found = found(&text);
        assert_eq!(
            found.first(),
            Some(&(line, title.to_owned())),
            "{lines}: {found:?}"
        );
    }
}

#[test]
fn what_is_wrong_with_what_a_route_is_for_or_changes_is_said_where_it_stands() {
    let app = "upstream = \"app\"\n";
    for (lines, line, title) in [
        (
            "path = \"/a\"\npath_exact = \"/b\"",
            6,
            "a route has `path` or `path_exact`, not both",
        ),
        (
            "path_regex = \"(\"",
            5,
            "`path_regex` takes a regular expression, not `(`",
        ),
        (
            "methods = [\"get\"]",
            5,
            "`methods` takes a list of methods, not `get`",
        ),
        (
            "methods = []",
            5,
            "`methods` has none: no request would take this route",
        ),
        (
            "methods = \"GET\"",
            5,
            "`methods` takes a list of methods, not a string",
        ),
        (
            "headers = { \"a b\" = \"1\" }",
            5,
            "`a b` is no name that a header can have",
        ),
        (
            "headers = { a = \"~(\" }",
            5,
            "`headers` takes a table of headers, not `~(`",
        ),
        (
            "scheme = \"ftp\"",
            5,
            "`scheme` takes one of its words, not `ftp`",
        ),
        ("rewrite = \"x\"", 5, "`rewrite` cannot be `x`"),
        ("rewrite = \"/$1\"", 5, "`rewrite` cannot be `/$1`"),
        (
            "rewrite = \"/x\"\nstrip_prefix = true",
            6,
            "a route has `strip_prefix` or `rewrite`, not both",
        ),
        (
            "path_exact = \"/x\"\nstrip_prefix = true",
            6,
            "`strip_prefix` strips `path`, which is not here",
        ),
        (
            "request_headers = { set = { Content-Length = \"1\" } }",
            5,
            "`Content-Length` is the proxy's to say",
        ),
        (
            "request_headers = { remove = [\"Host\"] }",
            5,
            "a request has a `Host`: it cannot be removed",
        ),
        (
            "request_headers = { set = { Host = \"$http_x\" } }",
            5,
            "the `Host` is set to one name, or to what the client named",
        ),
        (
            "request_headers = { sat = {} }",
            5,
            "`request_headers` has no part `sat`",
        ),
        (
            "request_headers = { remove = \"X\" }",
            5,
            "`remove` takes a list of names, not a string",
        ),
        (
            "response_headers = { add = [\"X\"] }",
            5,
            "`set` and `add` takes tables of names and values, not a list",
        ),
    ] {
        let text = format!("{LISTENER}[[routes]]\n{app}{lines}\n{UPSTREAM}");
        assert_found(&text, &[(line, title)]);
    }
    let text = format!(
        "{LISTENER}[[routes]]\n{app}response_headers = {{ set = {{ a = \"$hots\" }} }}\n{UPSTREAM}"
    );
    let report = read(&text).unwrap_err();
    assert_eq!(report.findings()[0].advice()[0], "did you mean `$host`?");
}

#[test]
fn two_routes_may_be_for_one_path_if_they_ask_for_something_else() {
    let app = "[[routes]]\nupstream = \"app\"\npath = \"/x\"\n";
    sound(&format!(
        "{LISTENER}{app}{app}methods = [\"GET\"]\n{UPSTREAM}"
    ));
    assert_found(
        &format!("{LISTENER}{app}methods = [\"GET\"]\n{app}methods = [\"GET\"]\n{UPSTREAM}"),
        &[(
            7,
            "two routes for any host and /x, with the same conditions",
        )],
    );
}
