//! What is compared: `pooled,short`, `close=rst`, `pool=1,4,16` → arms.
//!
//! An arm is a program in a mode, with settings of its upstream that differ from what all arms have.

use std::time::Duration;

use toml::Value;

/// What it does with its connections to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Keeps them.
    Pooled,
    /// One for each request; the request tells the backend to close it.
    CloseByHeader,
    /// One for each request; the proxy closes it.
    ProxyCloses,
    /// One for each request; the proxy resets it.
    Rst,
}

impl Mode {
    /// All of them, in the order they are compared unless asked for otherwise.
    pub const ALL: [Mode; 4] = [
        Mode::Pooled,
        Mode::CloseByHeader,
        Mode::ProxyCloses,
        Mode::Rst,
    ];

    /// Its name in reports; of the short ones, that of the setting `short_mode`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Pooled => "pooled",
            Mode::CloseByHeader => "close-by-header",
            Mode::ProxyCloses => "proxy-closes",
            Mode::Rst => "rst",
        }
    }

    /// Who closes first, in words.
    pub fn close_order(self) -> &'static str {
        match self {
            Mode::Pooled => "connections are kept and used again",
            Mode::CloseByHeader => {
                "a connection for each request; the backend closes first, as the request asks it to, and holds the TIME_WAIT"
            }
            Mode::ProxyCloses => {
                "a connection for each request; the proxy closes first, and holds the TIME_WAIT and a port"
            }
            Mode::Rst => {
                "a connection for each request; the proxy resets it, and nobody holds a TIME_WAIT"
            }
        }
    }

    /// Whether each request has a connection of its own.
    pub fn is_short(self) -> bool {
        self != Mode::Pooled
    }
}

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// This one.
    Warmline,
    /// nginx, as Debian and others have it.
    Nginx,
    /// `HAProxy`.
    Haproxy,
}

impl Program {
    /// Its name, and that of its command.
    pub fn name(self) -> &'static str {
        match self {
            Program::Warmline => "warmline",
            Program::Nginx => "nginx",
            Program::Haproxy => "haproxy",
        }
    }
}

/// One of what is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Unlike the others'.
    pub name: String,
    /// What runs.
    pub program: Program,
    /// How.
    pub mode: Mode,
    /// Settings of `[upstreams.NAME]` beside those of the mode; Warmline only.
    pub settings: toml::Table,
    /// Busy work of its embedded backend for each request, beside what all have: a handicap, to see whether it is
    /// found.
    pub handicap: Duration,
}

impl Arm {
    /// A mode of Warmline, and nothing else.
    pub fn of(mode: Mode) -> Arm {
        Arm {
            name: mode.name().to_owned(),
            program: Program::Warmline,
            mode,
            settings: toml::Table::new(),
            handicap: Duration::ZERO,
        }
    }
}

/// Why there are no arms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// No such mode.
    #[error(
        "unknown mode `{0}`: pooled, short, pool=N, close=peer, close=proxy and close=rst are what there is"
    )]
    Mode(String),
    /// A pool without connections.
    #[error("`{0}` is no number of connections: pool=1,4,16")]
    Pool(String),
    /// Too few or too many.
    #[error("{0} arms: two to nine can be compared")]
    Count(usize),
    /// The file is no TOML.
    #[error("{0}")]
    Toml(String),
    /// The file has no arms.
    #[error(
        "no arms: `[[arms]]` is a table for each, with `name`, `mode` and settings of an upstream"
    )]
    NoArms,
    /// What an arm says is not of the right kind.
    #[error("arm {0}: `{1}` is no text")]
    Text(usize, &'static str),
    /// The run sets these itself.
    #[error("arm {0}: `{1}` is set by the comparison itself")]
    Ours(usize, String),
    /// Two of the same name.
    #[error("two arms are called `{0}`")]
    Twice(String),
}

/// What the comparison sets itself, without its underscores.
const OURS: [&str; 4] = ["keepalive", "shortmode", "servers", "sourceportrange"];

/// A setting's name as it can be compared: Apache's and ours.
pub(super) fn plain(name: &str) -> String {
    name.replace('_', "").to_ascii_lowercase()
}

/// Reads `pooled,short,close=rst,pool=1,4,16`.
///
/// `short` is `close=peer`. A mode that is there twice is compared with itself, and its second arm is called `pooled-2`.
///
/// # Errors
/// When a mode is none.
pub fn read(text: &str) -> Result<Vec<Arm>, Wrong> {
    let mut arms = Vec::new();
    let mut in_pools = false;
    for word in text.split(',').map(str::trim) {
        let pool = match (word.strip_prefix("pool="), in_pools) {
            (Some(size), _) => Some(size),
            (None, true) if word.bytes().all(|byte| byte.is_ascii_digit()) => Some(word),
            (None, _) => None,
        };
        in_pools = pool.is_some();
        let arm = if let Some(size) = pool {
            let connections: i64 = size
                .parse()
                .ok()
                .filter(|size| (1..=100_000).contains(size))
                .ok_or_else(|| Wrong::Pool(size.to_owned()))?;
            let mut arm = Arm::of(Mode::Pooled);
            arm.name = format!("pool={connections}");
            arm.settings
                .insert("max_connections".to_owned(), Value::Integer(connections));
            arm
        } else {
            Arm::of(mode(word)?)
        };
        arms.push(arm);
    }
    finish(arms)
}

fn mode(word: &str) -> Result<Mode, Wrong> {
    Ok(match word {
        "pooled" => Mode::Pooled,
        "short" | "close=peer" | "close-by-header" => Mode::CloseByHeader,
        "close=proxy" | "close=fin" | "proxy-closes" => Mode::ProxyCloses,
        "close=rst" | "rst" => Mode::Rst,
        other => return Err(Wrong::Mode(other.to_owned())),
    })
}

/// Reads a file of arms:
///
/// ```toml
/// [[arms]]
/// name = "100 requests"
/// mode = "pooled"                  # unless said otherwise
/// max_keep_alive_requests = 100    # any setting of [upstreams.NAME]
/// ```
///
/// # Errors
/// When it is no TOML or has no arms; what is wrong with an upstream's settings the proxy says itself.
pub fn from_file(text: &str) -> Result<Vec<Arm>, Wrong> {
    let file: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| Wrong::Toml(error.to_string()))?;
    let tables = match file.get("arms") {
        Some(Value::Array(tables)) if file.len() == 1 => tables,
        _ => return Err(Wrong::NoArms),
    };
    let mut arms = Vec::new();
    for (at, table) in tables.iter().enumerate() {
        let mut settings = table.as_table().ok_or(Wrong::NoArms)?.clone();
        let mut text = |key: &'static str| match settings.remove(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Wrong::Text(at + 1, key)),
        };
        let name = text("name")?;
        let mode = text("mode")?.map_or(Ok(Mode::Pooled), |word| mode(&word))?;
        if let Some(ours) = settings
            .keys()
            .find(|key| OURS.contains(&plain(key).as_str()))
        {
            return Err(Wrong::Ours(at + 1, ours.clone()));
        }
        let name = name.unwrap_or_else(|| {
            let said = settings.iter().map(|(key, value)| format!("{key}={value}"));
            let said: Vec<_> = std::iter::once(mode.name().to_owned())
                .chain(said)
                .collect();
            said.join(" ")
        });
        arms.push(Arm {
            name,
            settings,
            ..Arm::of(mode)
        });
    }
    finish(arms)
}

/// What is compared beside Warmline: each of its modes that the other program has too.
///
/// # Errors
/// When that is too many, or too few.
pub fn against(arms: &[Arm], programs: &[Program]) -> Result<Vec<Arm>, Wrong> {
    let mut all = arms.to_vec();
    for program in programs {
        let modes = [Mode::Pooled, Mode::CloseByHeader, Mode::ProxyCloses];
        for mode in modes {
            // nginx and HAProxy have no setting for a reset, and HAProxy none for closing first with a FIN.
            let has = *program == Program::Nginx || mode != Mode::ProxyCloses;
            if has && arms.iter().any(|arm| arm.mode == mode) {
                all.push(Arm {
                    name: format!("{} {}", program.name(), mode.name()),
                    program: *program,
                    ..Arm::of(mode)
                });
            }
        }
    }
    finish(all)
}

/// Gives equal ones different names.
fn finish(mut arms: Vec<Arm>) -> Result<Vec<Arm>, Wrong> {
    if !(2..=9).contains(&arms.len()) {
        return Err(Wrong::Count(arms.len()));
    }
    for at in 1..arms.len() {
        let (before, rest) = arms.split_at_mut(at);
        let arm = &mut rest[0];
        let equal = before.iter().filter(|other| {
            (other.program, other.mode, &other.settings) == (arm.program, arm.mode, &arm.settings)
        });
        let count = equal.count();
        if count > 0 {
            arm.name = format!("{}-{}", arm.name, count + 1);
        }
        if before.iter().any(|other| other.name == arm.name) {
            return Err(Wrong::Twice(arm.name.clone()));
        }
    }
    Ok(arms)
}

/// In which order `arms` arms run in `rounds` rounds: A B B A, and again. What drifts hits all alike.
pub fn order(arms: usize, rounds: usize) -> Vec<usize> {
    (0..rounds)
        .flat_map(|round| {
            let there: Vec<usize> = if round % 2 == 0 {
                (0..arms).collect()
            } else {
                (0..arms).rev().collect()
            };
            there
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arms: &[Arm]) -> Vec<&str> {
        arms.iter().map(|arm| arm.name.as_str()).collect()
    }

    #[test]
    fn modes_are_read() {
        let arms = read("pooled,short,close=proxy,close=rst,pool=1,4,16").unwrap();
        let expected = [
            "pooled",
            "close-by-header",
            "proxy-closes",
            "rst",
            "pool=1",
            "pool=4",
            "pool=16",
        ];
        assert_eq!(names(&arms), expected);
        assert_eq!(arms[5].settings["max_connections"].as_integer(), Some(4));
        assert_eq!(arms[5].mode, Mode::Pooled);
        assert_eq!(
            names(&read("pooled,pooled").unwrap()),
            ["pooled", "pooled-2"]
        );
    }

    #[test]
    fn what_is_no_mode_is_said() {
        for (text, wrong) in [
            ("pooled", Wrong::Count(1)),
            ("pooled,long", Wrong::Mode("long".to_owned())),
            ("pooled,4", Wrong::Mode("4".to_owned())),
            ("pooled,pool=0", Wrong::Pool("0".to_owned())),
            ("pool=1,x", Wrong::Mode("x".to_owned())),
            ("", Wrong::Mode(String::new())),
        ] {
            assert_eq!(read(text), Err(wrong), "{text}");
        }
    }

    #[test]
    fn a_file_has_arms_with_settings() {
        let arms = from_file(
            "[[arms]]\nmax_keep_alive_requests = 100\n[[arms]]\nname = \"s\"\nmode = \"close=rst\"\n",
        )
        .unwrap();
        assert_eq!(names(&arms), ["pooled max_keep_alive_requests=100", "s"]);
        assert_eq!(arms[1].mode, Mode::Rst);
        for (text, says) in [
            ("x = 1", "no arms"),
            (
                "[[arms]]\n[[arms]]\nKeepAlive = true",
                "`KeepAlive` is set by",
            ),
            ("[[arms]]\n[[arms]]\nname = 1", "arm 2: `name` is no text"),
            (
                "[[arms]]\nname = \"a\"\n[[arms]]\nname=\"a\"\nmode=\"rst\"",
                "two arms are called `a`",
            ),
            ("[[arms", "TOML"),
        ] {
            let error = from_file(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn others_run_what_they_can() {
        let arms = against(
            &read("pooled,close=proxy,close=rst").unwrap(),
            &[Program::Nginx, Program::Haproxy],
        )
        .unwrap();
        let others = ["nginx pooled", "nginx proxy-closes", "haproxy pooled"];
        assert_eq!(names(&arms)[3..], others);
    }

    #[test]
    fn rounds_go_there_and_back() {
        assert_eq!(order(2, 4), [0, 1, 1, 0, 0, 1, 1, 0]);
        assert_eq!(order(3, 2), [0, 1, 2, 2, 1, 0]);
    }
}
