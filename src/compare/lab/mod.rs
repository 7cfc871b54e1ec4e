//! Hosts of one's own for a comparison: network namespaces joined by lines of their own.
//!
//! ```text
//!                 ┌─ veth ─ proxy of arm 0 ─ veth, or TUN with delay ─ backend of arm 0
//!  client ────────┼─ veth ─ proxy of arm 1 ─ veth, or TUN with delay ─ backend of arm 1
//!                 └─ …
//! ```
//!
//! Each arm has a proxy host and a backend host to itself, so ports, `TIME_WAIT`s, counters and settings of the
//! kernel are its own and neither arm starves the other. A host is a [`Room`]: a network namespace held by
//! one thread, under no name. Nothing of the machine is changed, and nothing is left to be removed: the
//! namespaces end with the last thread and the last program in them, by whatever way this process ends. Its programs
//! end with it: on hosts of one's own all that they have started too, over loopback those that are started under
//! [`wrapped`].
//!
//! Without root there is [`Lab::loopback`]: the same interface, the machine's own network, and a list of what that
//! hides.

mod hand;
mod line;
mod program;
mod relay;
mod room;
mod spec;
mod tool;

use std::io;
use std::net::Ipv4Addr;

pub use program::{Program, THIS_PROGRAM, run_owned, wrapped};
pub use room::Room;
pub use spec::{ArmSpec, Line, Spec, Sysctls, WrongSpec};

use relay::Relay;

/// What measuring over loopback does not show; for the report, one sentence each.
///
/// Source: `tcp_twsk_unique` and `tcp_tw_reuse` in Linux' `Documentation/networking/ip-sysctl.rst`.
pub const LOOPBACK_HIDES: &[&str] = &[
    "tcp_tw_reuse = 2, the kernel's default, gives a port in TIME_WAIT out again after a second over \
     loopback, and between hosts not at all: short connections look harmless",
    "client, proxy and backend share one table of sockets, one range of ports and one set of settings",
    "there is no distance, no loss and no limit of the line's rate",
];

/// Hosts for every arm of a comparison, and the lines between them.
///
/// Drop the programs and threads that run there first; what is left of the programs is killed.
#[derive(Debug)]
pub struct Lab {
    /// Dropped first: they hold the ends of lines between rooms.
    relays: Vec<Relay>,
    arms: Vec<Arm>,
    client: Room,
    means: Vec<String>,
    is_loopback: bool,
}

/// One arm's hosts, and where they are reached.
#[derive(Debug)]
pub struct Arm {
    /// The proxy's host.
    pub proxy: Room,
    /// The backend's host.
    pub backend: Room,
    /// The client's address on the line to the proxy.
    pub client_address: Ipv4Addr,
    /// Where the client reaches the proxy.
    pub proxy_address: Ipv4Addr,
    /// Where the proxy's connections to the backend come from.
    pub proxy_source: Ipv4Addr,
    /// Where the proxy reaches the backend.
    pub backend_address: Ipv4Addr,
}

impl Lab {
    /// Builds the hosts and lines that `spec` asks for. Takes root, and `ip` from iproute2.
    ///
    /// When it returns, every address answers. What was built when it fails is gone.
    ///
    /// # Errors
    /// [`LabError`]: says what is missing and what to do.
    pub fn build(spec: &Spec) -> Result<Lab, LabError> {
        spec.check()?;
        tool::find("ip")?;
        let client = Room::open("client")?;
        client.apply(&spec.client)?;
        let mut lab = Lab {
            relays: Vec::new(),
            arms: Vec::new(),
            client,
            means: Vec::new(),
            is_loopback: false,
        };
        let way = line::Way::of(spec, &lab.client)?;
        lab.means = way.means();
        for (number, arm) in (0_u8..).zip(&spec.arms) {
            let arm = lab.built(number, arm, way)?;
            lab.arms.push(arm);
        }
        Ok(lab)
    }

    /// The same without root: every host is this one, and each arm has addresses of its own out of
    /// 127.0.0.0/8. See [`LOOPBACK_HIDES`].
    ///
    /// # Errors
    /// More than [`Spec::MOST_ARMS`], none, or no more threads.
    pub fn loopback(arms: usize) -> Result<Lab, LabError> {
        Spec::new(vec![ArmSpec::default(); arms]).check()?;
        let arm = |number: u8| {
            Ok(Arm {
                proxy: Room::here(&format!("proxy {number}"))?,
                backend: Room::here(&format!("backend {number}"))?,
                client_address: Ipv4Addr::LOCALHOST,
                proxy_address: Ipv4Addr::new(127, 18, number, 2),
                proxy_source: Ipv4Addr::LOCALHOST,
                backend_address: Ipv4Addr::new(127, 19, number, 2),
            })
        };
        Ok(Lab {
            relays: Vec::new(),
            arms: (0_u8..)
                .take(arms)
                .map(arm)
                .collect::<Result<_, LabError>>()?,
            client: Room::here("client")?,
            means: Vec::new(),
            is_loopback: true,
        })
    }

    /// The host that the load comes from, one for all arms.
    pub fn client(&self) -> &Room {
        &self.client
    }

    /// The arms, in the order of [`Spec::arms`].
    pub fn arms(&self) -> &[Arm] {
        &self.arms
    }

    /// How delay, loss and rate are made here, for the report; empty where none was asked for.
    pub fn means(&self) -> &[String] {
        &self.means
    }

    /// What measuring here does not show: [`LOOPBACK_HIDES`] without hosts of its own, otherwise nothing.
    pub fn hides(&self) -> &'static [&'static str] {
        if self.is_loopback {
            LOOPBACK_HIDES
        } else {
            &[]
        }
    }

    fn built(&mut self, number: u8, spec: &ArmSpec, way: line::Way) -> Result<Arm, LabError> {
        let proxy = Room::open(&format!("proxy {number}"))?;
        let backend = Room::open(&format!("backend {number}"))?;
        proxy.apply(&spec.sysctls)?;
        backend.apply(&spec.sysctls)?;
        // 198.18.0.0/15 is for measuring between hosts: RFC 2544, appendix C.2.2.
        let arm = Arm {
            proxy,
            backend,
            client_address: Ipv4Addr::new(198, 18, number, 1),
            proxy_address: Ipv4Addr::new(198, 18, number, 2),
            proxy_source: Ipv4Addr::new(198, 19, number, 1),
            backend_address: Ipv4Addr::new(198, 19, number, 2),
        };
        line::plain(
            line::End::new(&self.client, &format!("arm{number}"), arm.client_address),
            line::End::new(&arm.proxy, "front", arm.proxy_address),
        )?;
        let ends = (
            line::End::new(&arm.proxy, "back", arm.proxy_source),
            line::End::new(&arm.backend, "front", arm.backend_address),
        );
        self.relays.extend(way.lay(ends.0, ends.1, &spec.line)?);
        Ok(arm)
    }
}

/// Why the hosts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// What was asked for makes no sense.
    #[error(transparent)]
    Wrong(#[from] WrongSpec),
    /// The kernel does not let this process have a network namespace.
    #[error(
        "the host \"{room}\" needs a network namespace, which takes root: run this as root (in a container \
         with CAP_SYS_ADMIN and CAP_NET_ADMIN), or over loopback, without hosts of its own"
    )]
    Refused {
        /// Which host.
        room: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread could not be had.
    #[error("no thread for \"{name}\"")]
    Thread {
        /// What it was for.
        name: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program is missing.
    #[error("{program} is needed and not found: install {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// The package that it is part of in most distributions.
        package: &'static str,
    },
    /// A program did not do what was asked of it.
    #[error("on the host \"{room}\": {command}: {said}")]
    Failed {
        /// Which host.
        room: String,
        /// The command line.
        command: String,
        /// What it wrote to stderr.
        said: String,
    },
    /// A program could not be started.
    #[error("{program} could not be started")]
    NotStarted {
        /// Its name.
        program: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// No delay is to be had: neither the kernel's netem nor TUN devices.
    #[error(
        "a delay takes the kernel's netem (sch_netem) or TUN devices: load the module `tun` and let this \
         process open /dev/net/tun, or ask for no delay"
    )]
    NoDelay {
        /// What became of the TUN device.
        source: io::Error,
    },
    /// A kernel setting was not taken.
    #[error("on the host \"{room}\": {name} = {value} was not taken")]
    Sysctl {
        /// Which host.
        room: String,
        /// The setting.
        name: String,
        /// Its value.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
}
