//! Everything that is there before the first request: hosts, backends, proxies.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use super::arms::{Arm, Program};
use super::child::{Backend, Fault, Proxy};
use super::config::Wanted;
use super::measured::Measured;
use super::running::Running;
use super::{Behind, Failed, Place, Settings, is_shared, watch};
use crate::census::ports::{Limits, PortRange};
use crate::census::{self, PortSet};
use crate::compare::backend::Answers;
use crate::compare::lab::{self, ArmSpec, Lab, Spec};

/// Where proxies listen on hosts of their own: below every range of local ports that the kernel gives by itself.
const PORT: u16 = 8080;

impl Settings {
    /// The hosts.
    pub(super) fn lab(&self) -> Result<Lab, Failed> {
        match (&self.place, &self.behind) {
            (Place::Loopback, _) => Ok(Lab::loopback(self.arms.len())?),
            (Place::Hosts { line, sysctls }, Behind::Embedded(_)) => {
                let arm = ArmSpec {
                    line: *line,
                    sysctls: sysctls.clone(),
                };
                Ok(Lab::build(&Spec::new(vec![arm; self.arms.len()]))?)
            }
            (Place::Hosts { .. }, Behind::Given(_) | Behind::File(_)) => Err(Failed::Unreachable),
        }
    }

    /// The addresses of the backend that is given; none where each arm has its own.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, Failed> {
        let names = match &self.behind {
            Behind::Embedded(_) => Vec::new(),
            Behind::Given(target) => vec![format!("{}:{}", bracketed(&target.host), target.port)],
            Behind::File(base) => {
                let servers = base.servers().into_iter();
                let has_port = |server: &str| {
                    server
                        .rsplit_once(':')
                        .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
                };
                let with_port = servers.map(|server| {
                    let server = server.trim_start_matches("http://").to_owned();
                    if has_port(&server) {
                        server
                    } else {
                        format!("{server}:80")
                    }
                });
                with_port.collect()
            }
        };
        let mut addresses = Vec::new();
        for name in names {
            let found = name.to_socket_addrs();
            let found = found.map_err(|source| Failed::Lookup { name, source })?;
            addresses.extend(found);
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }

    /// The ports of arm `at`, where all arms share the backend: a part of the range, so that none takes another's, and
    /// the kernel's table tells them apart.
    fn ports(&self, at: usize) -> io::Result<Option<RangeInclusive<u16>>> {
        if matches!(self.behind, Behind::Embedded(_)) {
            return Ok(None);
        }
        let PortRange { low, high } = Limits::read()?.sysctls.port_range;
        let arms = u32::try_from(self.arms.len()).unwrap_or(u32::MAX);
        let each = (u32::from(high - low) + 1) / arms;
        let part = u32::try_from(at).unwrap_or(u32::MAX);
        let from = u32::from(low) + part * each;
        let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
        Ok(Some(number(from)..=number(from + each.max(1) - 1)))
    }

    /// Starts the backend and the proxy of arm `at`, and waits until a request is answered.
    pub(super) fn start(
        &self,
        lab: &Lab,
        at: usize,
        folder: &TempDir,
        given: &[SocketAddr],
    ) -> Result<(Running, watch::Line), Failed> {
        let arm = &self.arms[at];
        let hosts = &lab.arms()[at];
        let fault = |fault| Failed::Arm {
            arm: arm.name.clone(),
            fault,
        };
        let file = |what: &str| folder.path().join(format!("{at}-{what}"));
        let backend = match &self.behind {
            Behind::Embedded(answers) => {
                let answers = Answers {
                    work: answers.work + arm.handicap,
                    ..*answers
                };
                let address = (hosts.backend_address, 0).into();
                let name = format!("the backend of {}", arm.name);
                let log = file("backend.log");
                let backend = Backend::start(&hosts.backend, &name, address, answers, &log);
                Some(backend.map_err(fault)?)
            }
            Behind::Given(_) | Behind::File(_) => None,
        };
        let addresses: Vec<SocketAddr> = match &backend {
            Some(backend) => vec![backend.address],
            None => given.to_vec(),
        };
        let ports = self.ports(at)?;
        let listen = if is_shared(lab) {
            free_port(hosts)?
        } else {
            (hosts.proxy_address, PORT).into()
        };
        let own = file("files");
        fs::create_dir(&own)?;
        let wanted = Wanted {
            arm,
            listen,
            backends: &addresses
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
            ports: ports.clone(),
            workers: self.workers,
            admin: &file("admin"),
            folder: &own,
        };
        let base = match &self.behind {
            Behind::File(base) => Some(base),
            Behind::Embedded(_) | Behind::Given(_) => None,
        };
        if base.is_some() && arm.program != Program::Warmline {
            let program = arm.program.name();
            return Err(Failed::Other { program });
        }
        let config = wanted.text(base);
        let path = file("config");
        fs::write(&path, &config)?;
        let log = file("proxy.log");
        let mut proxy = start_proxy(hosts, arm, &path, wanted.admin, &own, &log).map_err(fault)?;
        let probe = String::from_utf8_lossy(self.request(listen, true).text()).into_owned();
        proxy
            .program
            .answers(lab.client(), listen, &probe)
            .map_err(fault)?;
        let limits = hosts.proxy.run(Limits::read)?;
        // None is given that is listened on.
        let listened = hosts.proxy.run(census::listened_ports)?;
        let all = limits.given(&listened);
        let ports: PortSet = (0..=u16::MAX)
            .filter(|port| all.contains(*port))
            .filter(|port| ports.as_ref().is_none_or(|ports| ports.contains(port)))
            .collect();
        let is_here = |address: &SocketAddr| UdpSocket::bind((address.ip(), 0)).is_ok();
        let line = watch::Line {
            arm: at,
            has_backend: backend.is_some() || addresses.iter().all(is_here),
            addresses: addresses.into(),
            ports: Arc::new(ports),
        };
        let running = Running {
            arm: arm.clone(),
            proxy,
            backend,
            address: listen,
            config,
            version: version(arm.program),
            measured: Measured::default(),
            left_clients: false,
            was_good: false,
        };
        Ok((running, line))
    }
}

fn start_proxy(
    hosts: &lab::Arm,
    arm: &Arm,
    config: &Path,
    admin: &Path,
    own: &Path,
    log: &Path,
) -> Result<Proxy, Fault> {
    let room = &hosts.proxy;
    let name = arm.program.name();
    match arm.program {
        Program::Warmline => Proxy::warmline(room, name, config, admin, log),
        Program::Nginx => {
            let args = [
                "-p".as_ref(),
                own.as_os_str(),
                "-c".as_ref(),
                config.as_os_str(),
            ];
            Proxy::other(room, name, &found(name), &args, log)
        }
        Program::Haproxy => {
            let args: [&OsStr; 3] = ["-db".as_ref(), "-f".as_ref(), config.as_os_str()];
            Proxy::other(room, name, &found(name), &args, log)
        }
    }
}

/// A program of the system's administration need not be on everybody's path.
fn found(name: &str) -> String {
    let there = ["/usr/sbin", "/usr/local/sbin"]
        .map(|folder| PathBuf::from(folder).join(name))
        .into_iter()
        .find(|path| path.exists());
    there.map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

/// What a program says of its version.
fn version(program: Program) -> String {
    let say = |args: &[&str]| {
        let output = Command::new(found(program.name())).args(args).output();
        let Ok(output) = output else {
            return String::new();
        };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        said.lines().next().unwrap_or_default().to_owned()
    };
    match program {
        Program::Warmline => env!("CARGO_PKG_VERSION").to_owned(),
        Program::Nginx | Program::Haproxy => say(&["-v"]),
    }
}

/// A port on the proxy's address that is free now.
fn free_port(hosts: &lab::Arm) -> io::Result<SocketAddr> {
    let address = hosts.proxy_address;
    let listener = hosts.proxy.run(move || TcpListener::bind((address, 0)))?;
    listener.local_addr()
}

/// A host as it stands before a port.
fn bracketed(host: &str) -> String {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{host}]"),
        Ok(IpAddr::V4(_)) | Err(_) => host.to_owned(),
    }
}
