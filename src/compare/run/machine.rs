//! Where it ran, and when: for the report.

use std::fs;
use std::thread;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::compare::report::Machine;

/// What can be known of this machine; what cannot stays empty.
pub(super) fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease");
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kib = after(&read("/proc/meminfo"), "MemTotal");
    let kib = kib.and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok());
    let load = read("/proc/loadavg");
    Machine {
        kernel: format!("Linux {}", release.trim()),
        cpus: thread::available_parallelism()
            .map_or(0, |count| u32::try_from(count.get()).unwrap_or(u32::MAX)),
        cpu: after(&read("/proc/cpuinfo"), "model name").unwrap_or_default(),
        memory_bytes: kib.unwrap_or(0) * 1024,
        load_average: load
            .split(' ')
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0),
    }
}

/// What time it is, UTC, RFC 3339.
pub(super) fn now() -> String {
    let mut text = String::new();
    match SystemTime.format_time(&mut Writer::new(&mut text)) {
        Ok(()) => text,
        Err(_) => String::new(),
    }
}

/// The sizes of the kernel's objects for a connection and for a TIME_WAIT, in bytes.
///
/// Read where that is permitted; else those of Linux 6.18 on x86-64. A connection's is that of `struct tcp_sock`
/// alone, without its buffers, its file and its inode.
pub(super) fn object_sizes() -> (u64, u64) {
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let size = |name: &str| {
        let line = text
            .lines()
            .find(|line| line.split_ascii_whitespace().next() == Some(name))?;
        line.split_ascii_whitespace().nth(3)?.parse::<u64>().ok()
    };
    (
        size("TCP").unwrap_or(2368),
        size("tw_sock_TCP").unwrap_or(256),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described() {
        let machine = machine();
        assert!(
            machine.cpus > 0 && machine.memory_bytes > 1 << 20,
            "{machine:?}"
        );
        assert!(machine.kernel.starts_with("Linux "), "{machine:?}");
        let now = now();
        assert!(now.ends_with('Z') && now.as_bytes()[10] == b'T', "{now}");
        let (full, waiting) = object_sizes();
        assert!(full > waiting && waiting > 0);
    }
}
