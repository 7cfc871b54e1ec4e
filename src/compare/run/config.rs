//! An arm → the configuration its proxy runs with, which the report keeps whole.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;

use toml::{Table, Value};

use super::arms::{Arm, Mode, Program, plain};

/// The name of the only upstream, where the configuration is ours.
pub(super) const UPSTREAM: &str = "app";

/// What an arm's proxy is to do.
pub(super) struct Wanted<'a> {
    pub(super) arm: &'a Arm,
    pub(super) listen: SocketAddr,
    /// Where requests go, unless the upstream is that of a file.
    pub(super) backends: &'a [String],
    /// Local ports to the backend; `None`: all.
    pub(super) ports: Option<RangeInclusive<u16>>,
    pub(super) workers: u32,
    /// Where Warmline is asked for its figures.
    pub(super) admin: &'a Path,
    /// A folder of its own, for what the others write.
    pub(super) folder: &'a Path,
}

/// A configuration file, and which of its upstreams is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Base {
    table: Table,
    upstream: String,
}

/// Why a file cannot be compared with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// No TOML.
    #[error("{0}")]
    Toml(String),
    /// No such upstream.
    #[error("it has no upstream `{0}`; there is {1}")]
    Upstream(String, String),
    /// Several, and none was named.
    #[error("it has several upstreams: --upstream names one of {0}")]
    Which(String),
    /// None at all.
    #[error("it has no [upstreams.NAME]")]
    None,
    /// TLS or the like is for the proxy; but an arm closes by its own rules.
    #[error(
        "upstream {0} speaks {1}: its connections end otherwise than by the modes that are compared"
    )]
    Protocol(String, String),
}

impl Base {
    /// Reads a file; `upstream` is needed where there are several.
    ///
    /// # Errors
    /// [`Wrong`].
    pub fn read(text: &str, upstream: Option<&str>) -> Result<Base, Wrong> {
        let table: Table = text
            .parse()
            .map_err(|error: toml::de::Error| Wrong::Toml(error.to_string()))?;
        let upstreams = table.get("upstreams").and_then(Value::as_table);
        let names: Vec<&String> = upstreams.iter().flat_map(|all| all.keys()).collect();
        let listed = || {
            let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
            names.join(", ")
        };
        let upstream = match (upstream, names.as_slice()) {
            (_, []) => return Err(Wrong::None),
            (Some(name), _) if names.iter().any(|there| *there == name) => name.to_owned(),
            (Some(name), _) => return Err(Wrong::Upstream(name.to_owned(), listed())),
            (None, [only]) => (*only).clone(),
            (None, _) => return Err(Wrong::Which(listed())),
        };
        let own = upstreams.and_then(|all| all[&upstream].as_table());
        if let Some(protocol) = own
            .and_then(|own| own.get("protocol"))
            .and_then(Value::as_str)
            && protocol != "http/1.1"
        {
            return Err(Wrong::Protocol(upstream, protocol.to_owned()));
        }
        Ok(Base { table, upstream })
    }

    /// The upstream's name.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// Its servers, as they stand in the file.
    pub fn servers(&self) -> Vec<String> {
        let own = self.table["upstreams"][&self.upstream].as_table();
        let servers = own
            .and_then(|own| own.get("servers"))
            .and_then(Value::as_array);
        let address = |server: &Value| {
            let address = server.as_str().or_else(|| server.get("address")?.as_str());
            address.map(str::to_owned)
        };
        servers.into_iter().flatten().filter_map(address).collect()
    }
}

impl Wanted<'_> {
    /// The text of the file.
    pub(super) fn text(&self, base: Option<&Base>) -> String {
        match self.arm.program {
            Program::Warmline => self.warmline(base),
            Program::Nginx => self.nginx(),
            Program::Haproxy => self.haproxy(),
        }
    }

    fn warmline(&self, base: Option<&Base>) -> String {
        let (mut upstream, name, mut whole) = if let Some(base) = base {
            let own = base.table["upstreams"][&base.upstream].as_table();
            let kept = ["server", "client"].into_iter().filter_map(|part| {
                let table = base.table.get(part)?;
                Some((part.to_owned(), table.clone()))
            });
            let own = own.cloned().unwrap_or_default();
            (own, base.upstream.as_str(), kept.collect())
        } else {
            let servers = self.backends.iter().cloned().map(Value::String).collect();
            let own = Table::from_iter([("servers".to_owned(), Value::Array(servers))]);
            // Clients' connections are the load's: those that the proxy ended would count among its closes.
            let client = Table::from_iter([("max_keep_alive_requests".to_owned(), 0.into())]);
            let whole = Table::from_iter([("client".to_owned(), client.into())]);
            (own, UPSTREAM, whole)
        };
        // An arm is one way, whole.
        for ours in ["short_share", "short_share_by"] {
            upstream.remove(ours);
        }
        set(
            &mut upstream,
            "keep_alive",
            Value::Boolean(!self.arm.mode.is_short()),
        );
        if self.arm.mode.is_short() {
            set(&mut upstream, "short_mode", self.arm.mode.name().into());
        }
        if let Some(ports) = &self.ports {
            let range = format!("{}-{}", ports.start(), ports.end());
            set(&mut upstream, "source_port_range", range.into());
        }
        for (key, value) in &self.arm.settings {
            set(&mut upstream, key, value.clone());
        }
        let server = whole.entry("server").or_insert_with(|| Table::new().into());
        if let Some(server) = server.as_table_mut() {
            set(server, "workers", i64::from(self.workers).into());
        }
        let listener = Table::from_iter([("address".to_owned(), self.listen.to_string().into())]);
        whole.insert("listeners".to_owned(), Value::Array(vec![listener.into()]));
        let admin = format!("unix:{}", self.admin.display());
        whole.insert(
            "admin".to_owned(),
            Table::from_iter([("address".to_owned(), admin.into())]).into(),
        );
        whole.insert(
            "upstreams".to_owned(),
            Table::from_iter([(name.to_owned(), upstream.into())]).into(),
        );
        toml::to_string(&whole).expect("it was read from TOML, or is made of its values")
    }

    fn nginx(&self) -> String {
        let folder = self.folder.display();
        let servers: Vec<_> = self
            .backends
            .iter()
            .map(|address| format!("        server {address};\n"))
            .collect();
        let (keepalive, version) = match self.arm.mode {
            Mode::Pooled => (
                "        keepalive 256;\n        keepalive_requests 1000;\n",
                "1.1",
            ),
            Mode::ProxyCloses => ("", "1.1"),
            Mode::CloseByHeader | Mode::Rst => ("", "1.0"),
        };
        let connection = match version {
            "1.1" => "            proxy_set_header Connection \"\";\n",
            _ => "",
        };
        format!(
            "daemon off;\n{single}worker_processes {workers};\npid {folder}/pid;\nerror_log stderr warn;\nuser root;\n\
             events {{ worker_connections 10000; }}\nhttp {{\n    access_log off;\n    keepalive_requests 1000000000;\n    \
             client_body_temp_path {folder}/body;\n    proxy_temp_path {folder}/proxy;\n    fastcgi_temp_path {folder}/fcgi;\n    \
             uwsgi_temp_path {folder}/uwsgi;\n    scgi_temp_path {folder}/scgi;\n    upstream app {{\n{servers}{keepalive}    }}\n    \
             server {{\n        listen {listen} backlog=4096;\n        location / {{\n            proxy_pass http://app;\n            \
             proxy_http_version {version};\n{connection}            proxy_set_header Host $http_host;\n            \
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n            proxy_set_header X-Forwarded-Proto $scheme;\n            \
             proxy_set_header X-Forwarded-Host $http_host;\n        }}\n    }}\n}}\n",
            // Alone, it has no worker that could outlive it.
            single = if self.workers == 1 {
                "master_process off;\n"
            } else {
                ""
            },
            workers = self.workers,
            servers = servers.concat(),
            listen = self.listen,
        )
    }

    fn haproxy(&self) -> String {
        let mode = match self.arm.mode {
            Mode::Pooled => "    http-reuse always\n",
            Mode::CloseByHeader | Mode::ProxyCloses | Mode::Rst => {
                "    option httpclose\n    http-reuse never\n"
            }
        };
        let servers: Vec<_> = self
            .backends
            .iter()
            .enumerate()
            .map(|(at, address)| format!("    server app{at} {address} pool-max-conn -1\n"))
            .collect();
        format!(
            "global\n    nbthread {workers}\n    maxconn 8192\ndefaults\n    mode http\n    timeout connect 5s\n    \
             timeout client 60s\n    timeout server 60s\nfrontend in\n    bind {listen}\n    default_backend app\nbackend app\n    \
             option forwardfor\n    http-request set-header X-Forwarded-Proto http\n    http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
             {mode}{servers}",
            workers = self.workers,
            listen = self.listen,
            servers = servers.concat(),
        )
    }
}

/// Puts a setting in place of what the table has under that name, or Apache's.
fn set(table: &mut Table, name: &str, value: Value) {
    table.retain(|there, _| plain(there) != plain(name));
    table.insert(name.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(arm: &Arm, base: Option<&Base>) -> String {
        let wanted = Wanted {
            arm,
            listen: "127.0.0.1:8080".parse().unwrap(),
            backends: &["127.0.0.1:9000".to_owned()],
            ports: Some(40000..=40999),
            workers: 1,
            admin: Path::new("/tmp/a"),
            folder: Path::new("/tmp"),
        };
        wanted.text(base)
    }

    #[test]
    fn an_arm_of_a_files_upstream_differs_in_its_mode_alone() {
        let file = "[[listeners]]\naddress = \":80\"\n[server]\nworkers = 4\n[upstreams.app]\nservers = [\"${APP}:80\"]\n\
                    KeepAlive = \"On\"\nshort_share = 0.5\nmax_idle = 7\n[upstreams.other]\nservers = [\"b\"]\n";
        assert_eq!(
            Base::read(file, None).unwrap_err().to_string(),
            "it has several upstreams: --upstream names one of app, other"
        );
        assert!(Base::read(file, Some("none")).is_err());
        let base = Base::read(file, Some("app")).unwrap();
        assert_eq!(base.servers(), ["${APP}:80"]);
        let made: Table = text(&Arm::of(Mode::Rst), Some(&base)).parse().unwrap();
        let app = made["upstreams"]["app"].as_table().unwrap();
        assert_eq!(app["keep_alive"].as_bool(), Some(false));
        assert_eq!(app["short_mode"].as_str(), Some("rst"));
        assert_eq!(app["max_idle"].as_integer(), Some(7));
        assert!(!app.contains_key("KeepAlive"), "{app}");
        assert!(!app.contains_key("short_share"), "{app}");
        assert_eq!(made["server"]["workers"].as_integer(), Some(1));
        assert_eq!(made["upstreams"].as_table().unwrap().len(), 1);
        assert_eq!(
            made["listeners"][0]["address"].as_str(),
            Some("127.0.0.1:8080")
        );
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        let with = "[upstreams.app]\nservers = [\"a\"]\nprotocol = \"h2\"";
        for (text, says) in [
            ("x =", "TOML"),
            ("x = 1", "no [upstreams.NAME]"),
            (with, "upstream app speaks h2"),
        ] {
            let error = Base::read(text, None).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn every_arm_says_its_mode() {
        for mode in Mode::ALL {
            let made: Table = text(&Arm::of(mode), None).parse().unwrap();
            let app = &made["upstreams"]["app"];
            assert_eq!(app["keep_alive"].as_bool(), Some(!mode.is_short()));
            assert_eq!(app["source_port_range"].as_str(), Some("40000-40999"));
            assert_eq!(
                made["client"]["max_keep_alive_requests"].as_integer(),
                Some(0)
            );
        }
        let nginx = |mode| {
            text(
                &Arm {
                    program: Program::Nginx,
                    ..Arm::of(mode)
                },
                None,
            )
        };
        assert!(nginx(Mode::Pooled).contains("keepalive 256;"));
        assert!(nginx(Mode::CloseByHeader).contains("proxy_http_version 1.0;"));
        assert!(!nginx(Mode::ProxyCloses).contains("keepalive 256"));
    }
}
