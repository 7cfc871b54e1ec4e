//! `warmline doctor`: gathers what the rules of [`doctor`](crate::doctor) go by, and prints what they say.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use super::DoctorArgs;
use super::admin_client;
use super::check::print_report;
use super::plan::limits_json;
use crate::census::ports::Limits;
use crate::census::{PortSet, Survey, TcpState};
use crate::config;
use crate::doctor::text::{Balance, Style, WIDTH, balance, text};
use crate::doctor::{
    Conntrack, Facts, Finding, Level, Live, Machine, Proxy, Refused, Towards, count, examine,
};
use crate::headroom::Way;
use crate::json::Json;
use crate::net::{OptionError, is_here};
use crate::scrape::Page;
use crate::server;

/// How far apart the running proxy is asked twice: what happens in between are its rates.
const APART: Duration = Duration::from_secs(1);

/// Examines and prints. The exit code is 1 if there is a problem.
pub(super) fn doctor(args: &DoctorArgs) -> ExitCode {
    let loaded = match config::load(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            print_report(&report);
            return ExitCode::FAILURE;
        }
    };
    print_report(&loaded.warnings);
    let facts = gather(&loaded.settings, args);
    let findings = examine(&facts);
    let file = args.config.display();
    let said = if args.json {
        format!("{}\n", json(&file.to_string(), &facts, &findings))
    } else {
        text(&file.to_string(), &facts, &findings, style())
    };
    // A reader that has gone is no reason to say otherwise.
    let _ = io::stdout().write_all(said.as_bytes());
    if count(&findings, Level::Problem) > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// As wide as the terminal, if there is one, and no wider than is read with ease.
fn style() -> Style {
    let out = io::stdout();
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let size = rustix::termios::tcgetwinsize(&out).ok();
    let columns = size.map_or(0, |size| usize::from(size.ws_col));
    Style {
        width: if columns < 40 {
            WIDTH
        } else {
            columns.min(WIDTH)
        },
        colour: out.is_terminal() && !plain,
    }
}

fn gather<'a>(settings: &'a server::Settings, args: &DoctorArgs) -> Facts<'a> {
    let mut facts = Facts {
        settings,
        machine: machine(settings),
        proxy: proxy(settings, args),
        rate: args.rate.map(|rate| rate.get().into()),
        kernel: BTreeMap::new(),
        time_waits: None,
    };
    match Survey::take() {
        Ok(survey) => count_sockets(&mut facts, &survey),
        Err(error) => eprintln!("warning: the kernel's sockets cannot be counted: {error}"),
    }
    facts
}

/// What the kernel has towards every backend that is known by address.
fn count_sockets(facts: &mut Facts<'_>, survey: &Survey) {
    facts.time_waits = Some(survey.ways().all().get(TcpState::TimeWait));
    let Some(limits) = facts.machine.limits.clone() else {
        return;
    };
    let given = limits.given(survey.listened_ports());
    let mut kernel = BTreeMap::new();
    for upstream in &facts.settings.upstreams {
        let given: PortSet = match upstream.sockets.source_ports {
            Some(range) => (range.low..=range.high)
                .filter(|port| given.contains(*port))
                .collect(),
            None => given.clone(),
        };
        for (address, _) in facts.backends(upstream) {
            let sides = survey.sides(address);
            let is_here = sides.theirs.total() > 0 || facts.machine.local.contains(&address.ip());
            let lanes = survey.lanes(address, &given).into_iter();
            let way = |(source, lane)| {
                let way = Way::new(source, address, &lane, given.count(), &limits);
                (source, way)
            };
            let towards = Towards {
                ways: lanes.map(way).collect(),
                time_waits: sides.ours.get(TcpState::TimeWait),
                own_time_waits: is_here.then(|| sides.theirs.get(TcpState::TimeWait)),
            };
            kernel.insert(address, towards);
        }
    }
    facts.kernel = kernel;
}

fn machine(settings: &server::Settings) -> Machine {
    let mut machine = Machine {
        limits: Limits::read().ok(),
        open_files: getrlimit(Resource::Nofile).maximum,
        somaxconn: number("net/core/somaxconn"),
        conntrack: conntrack(),
        ..Machine::default()
    };
    for upstream in &settings.upstreams {
        let addresses: Vec<SocketAddr> = upstream
            .servers
            .iter()
            .filter_map(|server| server.address.parse().ok())
            .collect();
        let here = addresses
            .iter()
            .map(SocketAddr::ip)
            .filter(|ip| is_here(*ip));
        machine.local.extend(here);
        if let Some(refused) = refused(upstream, &addresses) {
            machine.refused.push(refused);
        }
    }
    machine
}

/// What of the sockets of an upstream cannot be, as a start would find out.
fn refused(upstream: &crate::backend::Settings, addresses: &[SocketAddr]) -> Option<Refused> {
    let error = |error: &dyn std::fmt::Display, not_here: Option<IpAddr>| Refused {
        upstream: upstream.name.clone(),
        error: error.to_string(),
        not_here,
    };
    for address in addresses {
        let found = upstream.sockets.check(*address, &upstream.source_addresses);
        match found {
            Ok(()) => {}
            Err(found @ OptionError::Source { address, .. }) => {
                return Some(error(&found, Some(address)));
            }
            Err(found @ (OptionError::PortsOutside { .. } | OptionError::Refused { .. })) => {
                return Some(error(&found, None));
            }
        }
    }
    let sources = upstream.source_addresses.iter();
    let missing = sources.copied().find(|source| !is_here(*source))?;
    let said = format!("source address {missing} is not one of this machine");
    Some(error(&said, Some(missing)))
}

fn number(name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.trim().parse().ok()
}

fn conntrack() -> Option<Conntrack> {
    let of = |name: &str| number(&format!("net/netfilter/nf_conntrack_{name}"));
    let seconds = |name: &str| of(name).map(Duration::from_secs);
    Some(Conntrack {
        most: of("max")?,
        count: of("count")?,
        time_wait: seconds("tcp_timeout_time_wait"),
        established: seconds("tcp_timeout_established"),
    })
}

/// Asks the running proxy, if there is an address to ask at.
fn proxy(settings: &server::Settings, args: &DoctorArgs) -> Proxy {
    let at = args.admin.clone().or_else(|| {
        let admin = settings.admin.as_ref()?;
        Some(admin_client::reached_at(&admin.address))
    });
    let Some(at) = at else {
        return Proxy::NotAsked;
    };
    let expected = args.admin.is_some();
    let ask = || admin_client::get(&at, "/metrics").map(|text| (Instant::now(), Page::read(&text)));
    let (first, second) = match ask() {
        Ok(first) => {
            std::thread::sleep(APART);
            (first, ask())
        }
        Err(error) => {
            let why = error.to_string();
            return Proxy::Silent { why, expected };
        }
    };
    let second = match second {
        Ok(second) => second,
        Err(error) => {
            let why = format!("it answered once, and then: {error}");
            return Proxy::Silent { why, expected };
        }
    };
    if !second.1.is_ours() {
        let why = format!("what answers at {at} is no Warmline");
        return Proxy::Silent { why, expected };
    }
    let apart = second.0.duration_since(first.0);
    let live = Live::new(at.to_string(), &first.1, &second.1, apart);
    Proxy::Runs(Box::new(live))
}

fn json(file: &str, facts: &Facts<'_>, findings: &[Finding]) -> Json {
    let found = findings.iter().map(|finding| {
        let remedies = finding.remedies.iter().map(|remedy| remedy.as_str().into());
        Json::Object(vec![
            ("level", finding.level.label().into()),
            ("rule", finding.rule.into()),
            ("about", finding.about.as_str().into()),
            ("found", finding.found.as_str().into()),
            ("why", finding.why.as_str().into()),
            ("do", Json::List(remedies.collect())),
        ])
    });
    let of = |level| Json::from(count(findings, level) as u64);
    let lines = balance(facts);
    let proxy = facts.live().map(|live| {
        Json::Object(vec![
            ("address", live.address.as_str().into()),
            ("version", live.version.as_str().into()),
        ])
    });
    Json::Object(vec![
        ("file", file.into()),
        ("proxy", proxy.into()),
        ("problems", of(Level::Problem)),
        ("advice", of(Level::Advice)),
        ("fine", of(Level::Fine)),
        ("findings", Json::List(found.collect())),
        (
            "time_wait",
            Json::List(lines.iter().map(balance_json).collect()),
        ),
        (
            "kernel",
            facts.machine.limits.as_ref().map(limits_json).into(),
        ),
    ])
}

fn balance_json(line: &Balance) -> Json {
    Json::Object(vec![
        ("upstream", line.upstream.as_str().into()),
        ("backend", line.backend.to_string().into()),
        ("requests_per_second", line.rate.into()),
        ("predicted_here", line.predicted[0].into()),
        ("predicted_at_backend", line.predicted[1].into()),
        ("counted_here", line.counted[0].into()),
        ("counted_at_backend", line.counted[1].into()),
    ])
}
