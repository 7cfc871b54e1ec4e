//! What this process takes of the machine, under the names that Prometheus' client libraries have agreed on.
//!
//! Source: `proc(5)`, `clock_gettime(2)`.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::exposition::Kind::{Counter, Gauge};
use super::exposition::Page;

/// What it takes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// CPU of all its threads, those that have ended among them.
    pub(super) cpu: Duration,
    /// Bytes of memory that are in use.
    pub(super) resident: u64,
    /// Open files, sockets among them.
    pub(super) open_files: u64,
    /// How many there may be; `None`: no limit.
    pub(super) most_files: Option<u64>,
    /// When it was started, since 1970.
    pub(super) started: Duration,
}

impl Process {
    /// Reads it; what cannot be read is 0.
    pub(super) fn now(uptime: Duration) -> Process {
        let pages = fs::read_to_string("/proc/self/statm").ok();
        let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Process {
            cpu: Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default(),
            resident: pages.unwrap_or(0) * rustix::param::page_size() as u64,
            // One of them is the folder that is being read.
            open_files: fs::read_dir("/proc/self/fd")
                .map_or(0, |files| (files.count() as u64).saturating_sub(1)),
            most_files: getrlimit(Resource::Nofile).current,
            started: since_1970.unwrap_or_default().saturating_sub(uptime),
        }
    }

    /// Writes its part of the page.
    pub(super) fn write(&self, page: &mut Page) {
        page.family(
            "process_cpu_seconds_total",
            Counter,
            "CPU time of the whole program, user and system.",
        )
        .sample(&[], self.cpu.as_secs_f64());
        page.family(
            "process_resident_memory_bytes",
            Gauge,
            "Memory of the whole program that is in use.",
        )
        .sample(&[], self.resident);
        page.family("process_open_fds", Gauge, "Open files, sockets among them.")
            .sample(&[], self.open_files);
        if let Some(most) = self.most_files {
            page.family("process_max_fds", Gauge, "How many there may be.")
                .sample(&[], most);
        }
        page.family(
            "process_start_time_seconds",
            Gauge,
            "When the program was started, in seconds since 1970.",
        )
        .sample(&[], self.started.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_something() {
        let process = Process::now(Duration::from_secs(1));
        assert!(
            process.cpu > Duration::ZERO && process.resident > 1 << 20,
            "{process:?}"
        );
        assert!(process.open_files >= 3, "{process:?}");
        let _file = fs::File::open("/dev/null").unwrap();
        let after = Process::now(Duration::from_secs(2));
        assert!(
            after.open_files > 3 && after.started < process.started,
            "{after:?}"
        );
    }
}
