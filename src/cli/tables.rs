//! The kernel's sockets as text and as JSON, from the same figures: what `warmline states` prints.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::plan::limits_json;
use crate::census::ports::Limits;
use crate::census::{Births, Lane, Source, StateCounts, Survey, TcpState, Ways};
use crate::headroom::{Given, Way};
use crate::json::Json;
use crate::quantity::{counted, grouped, rate};

/// How many addresses are named that hold the most.
const MOST: usize = 5;

/// Everything there is to print, of one instant.
pub(super) struct Report {
    time: SystemTime,
    source: Source,
    tables: Tables,
    limits: Option<Limits>,
}

/// What was asked for.
enum Tables {
    /// The whole network namespace.
    Whole(Box<Whole>),
    /// Some addresses, in the order they were asked for.
    Backends(Vec<Backend>),
}

/// The sockets of a whole network namespace.
struct Whole {
    ways: Ways,
    births: Births,
    /// Where the most outgoing `TIME_WAIT`s are towards.
    most: Vec<(SocketAddr, u64)>,
}

/// The sockets of one address.
struct Backend {
    address: SocketAddr,
    towards: StateCounts,
    own: StateCounts,
    own_births: Births,
    /// How many there are from each source address; `None`: that cannot be read.
    ports: Option<u32>,
    lanes: Vec<Whence>,
}

/// The ports from one source address to a backend.
struct Whence {
    address: IpAddr,
    lane: Lane,
    way: Way,
}

impl Report {
    /// What `survey`, made at `time`, says of these backends, or of everything if there are none.
    pub(super) fn new(
        time: SystemTime,
        survey: &Survey,
        backends: &[SocketAddr],
        limits: Option<Limits>,
    ) -> Report {
        let tables = if backends.is_empty() {
            Tables::Whole(Box::new(Whole {
                ways: survey.ways(),
                births: survey.births(),
                most: survey.most_time_waits(MOST),
            }))
        } else {
            let backend = |address: &SocketAddr| Backend::new(survey, *address, limits.as_ref());
            Tables::Backends(backends.iter().map(backend).collect())
        };
        Report {
            time,
            source: survey.source(),
            tables,
            limits,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = vec![httpdate::fmt_http_date(self.time)];
        text.push(match self.source {
            Source::SockDiag => format!(", counted by the kernel ({})\n", self.source),
            Source::ProcNetTcp => format!(
                ", read from {}\n\
                 netlink is not permitted here: the counts are near rather than exact while\n\
                 connections come and go.\n",
                self.source
            ),
        });
        match &self.tables {
            Tables::Whole(whole) => text.push(whole.text(self.limits.as_ref())),
            Tables::Backends(backends) => {
                for backend in backends {
                    text.push(backend.text(self.limits.as_ref()));
                }
            }
        }
        text.concat()
    }

    pub(super) fn json(&self) -> Json {
        let since = self.time.duration_since(UNIX_EPOCH);
        let source = match self.source {
            Source::SockDiag => "sock_diag",
            Source::ProcNetTcp => "proc_net_tcp",
        };
        let mut members = vec![
            (
                "time",
                since.map_or(0.0, |since| since.as_secs_f64()).into(),
            ),
            ("source", source.into()),
        ];
        match &self.tables {
            Tables::Whole(whole) => members.extend(whole.json()),
            Tables::Backends(backends) => {
                let backends = backends.iter().map(Backend::json).collect();
                members.push(("backends", Json::List(backends)));
            }
        }
        members.push(("kernel", self.limits.as_ref().map(limits_json).into()));
        Json::Object(members)
    }
}

impl Whole {
    fn text(&self, limits: Option<&Limits>) -> String {
        let Ways { outgoing, incoming } = self.ways;
        let all = self.ways.all();
        let rows = |state| state != TcpState::Close || all.get(state) > 0;
        let most = limits.map_or_else(String::new, |limits| {
            format!(
                "  at most {} may be in TIME_WAIT (tcp_max_tw_buckets); the rest would skip it\n",
                grouped(limits.sysctls.max_tw_buckets)
            )
        });
        [
            "\nAll TCP sockets of this network namespace\n".to_owned(),
            table([("outgoing", outgoing), ("incoming", incoming)], rows),
            "\n  outgoing: connected from here, which takes a local port each; incoming: accepted here\n"
                .to_owned(),
            births_line("", self.births),
            most,
            most_towards(&self.most),
        ]
        .concat()
    }

    fn json(&self) -> [(&'static str, Json); 5] {
        let most = self.most.iter().map(|(address, count)| {
            Json::Object(vec![
                ("address", address.to_string().into()),
                ("TIME_WAIT", (*count).into()),
            ])
        });
        [
            ("outgoing", counts_json(&self.ways.outgoing)),
            ("incoming", counts_json(&self.ways.incoming)),
            ("all", counts_json(&self.ways.all())),
            ("time_wait_births", births_json(self.births)),
            ("most_time_wait_towards", Json::List(most.collect())),
        ]
    }
}

impl Backend {
    fn new(survey: &Survey, address: SocketAddr, limits: Option<&Limits>) -> Backend {
        let sides = survey.sides(address);
        let mut ports = None;
        let mut lanes = Vec::new();
        if let Some(limits) = limits {
            let given = limits.given(survey.listened_ports());
            let count = given.count();
            ports = Some(count);
            for (source, lane) in survey.lanes(address, &given) {
                let way = Way::new(source, address, &lane, count, limits);
                lanes.push(Whence {
                    address: source,
                    lane,
                    way,
                });
            }
        }
        Backend {
            address,
            towards: sides.ours,
            own: sides.theirs,
            own_births: survey.births_at(address),
            ports,
            lanes,
        }
    }

    fn text(&self, limits: Option<&Limits>) -> String {
        let mut text = vec![format!("\nBackend {}\n", self.address)];
        let both = self.towards + self.own;
        let always = [TcpState::Established, TcpState::TimeWait];
        let rows = |state| always.contains(&state) || both.get(state) > 0;
        text.push(table(
            [("towards it", self.towards), ("its side", self.own)],
            rows,
        ));
        if self.own.total() == 0 {
            text.push("\n  its side: no socket in this network namespace, but maybe a listener on all addresses\n".to_owned());
        }
        text.push(births_line("at its side ", self.own_births));

        let (Some(limits), Some(ports)) = (limits, self.ports) else {
            let unknown =
                "\n  How many ports are left is not known: the kernel's settings cannot be read.\n";
            text.push(unknown.to_owned());
            return text.concat();
        };
        if self.lanes.is_empty() {
            text.push(format!(
                "\n  No socket towards it: {} are left from each source address.\n",
                counted(ports, "port")
            ));
            return text.concat();
        }
        let width = self.lanes.iter().map(|from| from.address.to_string().len());
        let width = width.max().unwrap_or(0).max("ports from".len());
        text.push(format!(
            "\n  {:width$} {:>8} {:>10} {:>8} {:>8}   {:>12}\n",
            "ports from", "in use", "TIME_WAIT", "left", "of", "TIME_WAITs/s"
        ));
        for Whence { address, lane, way } in &self.lanes {
            text.push(format!(
                "  {:width$} {:>8} {:>10} {:>8} {:>8}   {:>12}\n",
                address.to_string(),
                grouped(lane.in_use),
                grouped(lane.time_wait),
                grouped(given(way).headroom().left),
                grouped(way.ports),
                rate(way.rate),
            ));
        }
        text.push("\n".to_owned());
        for Whence { address, lane, way } in &self.lanes {
            let from = if self.lanes.len() > 1 {
                format!("from {address}: ")
            } else {
                String::new()
            };
            text.push(format!("  {from}{}\n", given(way).sentence(self.address)));
            if lane.elsewhere > 0 {
                text.push(format!(
                    "  {from}{} beyond these: bound by their program, and of no account here\n",
                    counted(lane.elsewhere, "socket")
                ));
            }
        }
        if self.lanes.iter().any(|from| from.way.rate > 0.0) {
            let (recycled, rest): (Vec<_>, Vec<_>) = self
                .lanes
                .iter()
                .partition(|from| from.way.recycling().takes_place());
            let over = match (recycled.is_empty(), rest.is_empty()) {
                (true, _) => "in the last ten seconds",
                (false, true) => "in the last second",
                (false, false) => "in the last ten seconds; over loopback in the last one",
            };
            text.push(format!(
                "  connects/s, as far as they left a TIME_WAIT on this side: begun {over}\n"
            ));
        }
        let says_slow = |from: &Whence| {
            let room = given(&from.way).headroom();
            room.slow_after.is_some() && room.fails_after != Some(Duration::ZERO)
        };
        if self.lanes.iter().any(says_slow) {
            text.push("  slow: in programs that do not set IP_LOCAL_PORT_RANGE on their sockets; Warmline does\n".to_owned());
        }
        let listened = limits.ports() - ports;
        if listened > 0 {
            text.push(format!(
                "  {} of the range {} listened on: connect() passes over it\n",
                counted(listened, "port"),
                if listened == 1 { "is" } else { "are" }
            ));
        }
        text.concat()
    }

    fn json(&self) -> Json {
        let ways = self.lanes.iter().map(|Whence { address, lane, way }| {
            let room = given(way).headroom();
            let seconds = |time: Option<Duration>| Json::from(time.map(|time| time.as_secs_f64()));
            Json::Object(vec![
                ("address", address.to_string().into()),
                ("ports", way.ports.into()),
                ("in_use", lane.in_use.into()),
                ("time_wait", lane.time_wait.into()),
                ("left", room.left.into()),
                ("elsewhere", lane.elsewhere.into()),
                ("time_wait_births", births_json(lane.births)),
                ("connects_per_second", way.rate.into()),
                ("slow_above_per_second", room.slow_above.into()),
                ("fails_above_per_second", room.fails_above.into()),
                ("slow_after_seconds", seconds(room.slow_after)),
                ("fails_after_seconds", seconds(room.fails_after)),
                ("recycling", room.recycling.label().into()),
                ("sentence", given(way).sentence(self.address).into()),
            ])
        });
        Json::Object(vec![
            ("address", self.address.to_string().into()),
            ("towards", counts_json(&self.towards)),
            ("own", counts_json(&self.own)),
            ("own_time_wait_births", births_json(self.own_births)),
            ("ports_per_source", self.ports.into()),
            ("sources", Json::List(ways.collect())),
        ])
    }
}

/// For any program: few set `IP_LOCAL_PORT_RANGE`.
fn given(way: &Way) -> Given<'_> {
    way.given(false)
}

/// State by state: both sides, their sum, and what it means.
fn table(columns: [(&str, StateCounts); 2], rows: impl Fn(TcpState) -> bool) -> String {
    let [(left, lefts), (right, rights)] = columns;
    let line = |name: &str, left: &str, right: &str, sum: &str, meaning: &str| {
        let line = format!("  {name:<11} {left:>10} {right:>10} {sum:>10}   {meaning}");
        format!("{}\n", line.trim_end())
    };
    let counts = |name: &str, left: u64, right: u64, meaning: &str| {
        let [left, right, sum] = [left, right, left + right].map(grouped);
        line(name, &left, &right, &sum, meaning)
    };
    let mut text = vec![line("state", left, right, "both", "what it means")];
    for state in TcpState::ALL.into_iter().filter(|state| rows(*state)) {
        text.push(counts(
            state.name(),
            lefts.get(state),
            rights.get(state),
            state.meaning(),
        ));
    }
    if lefts.unknown() + rights.unknown() > 0 {
        let what = "a state this program has not heard of";
        text.push(counts("unknown", lefts.unknown(), rights.unknown(), what));
    }
    text.push(counts("sum", lefts.total(), rights.total(), ""));
    text.concat()
}

/// Where to look next.
fn most_towards(most: &[(SocketAddr, u64)]) -> String {
    let Some((first, _)) = most.first() else {
        return "\n`warmline states --backend ADDRESS:PORT` shows how many ports are left towards one.\n"
            .to_owned();
    };
    let width = most.iter().map(|(address, _)| address.to_string().len());
    let width = width.max().unwrap_or(0);
    let mut text = vec!["\nMost outgoing TIME_WAITs are towards\n".to_owned()];
    for (address, count) in most {
        let address = address.to_string();
        text.push(format!("  {address:width$} {:>10}\n", grouped(*count)));
    }
    text.push(format!(
        "\n`warmline states --backend {first}` shows how many ports are left towards it.\n"
    ));
    text.concat()
}

fn births_line(whose: &str, births: Births) -> String {
    if births.last_ten == 0 {
        return String::new();
    }
    format!(
        "  TIME_WAITs that began {whose}: {} in the last second, {} in the last ten\n",
        grouped(births.last_second),
        grouped(births.last_ten)
    )
    .replace(" :", ":")
}

fn births_json(births: Births) -> Json {
    Json::Object(vec![
        ("last_1s", births.last_second.into()),
        ("last_10s", births.last_ten.into()),
    ])
}

fn counts_json(counts: &StateCounts) -> Json {
    let mut members: Vec<_> = counts
        .iter()
        .map(|(state, count)| (state.name(), Json::from(count)))
        .collect();
    members.push(("unknown", counts.unknown().into()));
    members.push(("sum", counts.total().into()));
    Json::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::census::diag::SocketEntry;
    use crate::census::ports::{ReservedPorts, Sysctls};

    fn socket(state: u8, local: &str, remote: &str) -> SocketEntry {
        SocketEntry {
            state,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            expires: Duration::from_millis(59_500),
            cookie: None,
            uid: 0,
            inode: 0,
        }
    }

    fn report(source: Source, backends: &[&str], limits: bool) -> Report {
        let time_wait = TcpState::TimeWait.number();
        let survey = Survey::new(
            source,
            vec![
                socket(time_wait, "10.0.0.1:40000", "10.0.0.9:80"),
                socket(time_wait, "10.0.0.1:40001", "10.0.0.9:80"),
                socket(1, "10.0.0.2:40001", "10.0.0.9:80"),
                socket(77, "10.0.0.1:40002", "10.0.0.8:80"),
                socket(10, "0.0.0.0:443", "0.0.0.0:0"),
                socket(time_wait, "10.0.0.1:443", "10.0.0.7:5"),
            ],
        );
        let backends: Vec<_> = backends.iter().map(|text| text.parse().unwrap()).collect();
        let limits = limits.then(|| Limits {
            sysctls: Sysctls::parse("40000 40099", "2", "1000").unwrap(),
            reserved: ReservedPorts::default(),
            timestamps: true,
        });
        let time = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Report::new(time, &survey, &backends, limits)
    }

    #[test]
    fn the_whole_is_a_table_and_says_where_to_look_next() {
        let text = report(Source::SockDiag, &[], true).text();
        for line in [
            "Fri, 15 Jan 2027 08:00:00 GMT, counted by the kernel (netlink sock_diag)\n",
            "  state         outgoing   incoming       both   what it means\n",
            "  ESTABLISHED          1          0          1   open\n",
            "  TIME_WAIT            2          1          3   closed by this side first; its port",
            "  unknown              1          0          1   a state this program has not heard",
            "  sum                  4          2          6\n",
            "  TIME_WAITs that began: 3 in the last second, 3 in the last ten\n",
            "  10.0.0.9:80          2\n",
            "`warmline states --backend 10.0.0.9:80`",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn a_backend_has_a_line_for_each_source() {
        let text = report(Source::SockDiag, &["10.0.0.9:80"], true).text();
        for line in [
            "Backend 10.0.0.9:80\n",
            "  ports from   in use  TIME_WAIT     left       of   TIME_WAITs/s\n",
            "  10.0.0.1          0          2       98      100            2.0\n",
            "  10.0.0.2          1          0       99      100              0\n",
            "  from 10.0.0.1: at 2.0 connects/s to 10.0.0.9:80 the 98 ports left of 100 last 49 s;",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_fallback_and_what_is_not_known_are_named() {
        let report = report(Source::ProcNetTcp, &["10.0.0.9:80"], false);
        let text = report.text();
        assert!(text.contains("netlink is not permitted here"), "{text}");
        assert!(
            text.contains("the kernel's settings cannot be read"),
            "{text}"
        );
        let json = report.json().to_string();
        assert!(
            json.starts_with(r#"{"time":1800000000,"source":"proc_net_tcp","#),
            "{json}"
        );
        assert!(json.ends_with(r#""kernel":null}"#), "{json}");
    }
}
