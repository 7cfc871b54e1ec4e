//! What a process has used so far: CPU, from the scheduler's own clock, and memory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// Threads of Warmline that answer operators and ask the kernel for its sockets: other proxies do nothing of the kind,
/// and it is no part of a request's cost.
const BESIDE: [&str; 2] = ["admin", "census"];

/// CPU of a process and its descendants.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    /// Time on a processor, in ns: `schedstat`.
    pub(super) run_ns: u64,
    /// Of it outside the kernel, in the kernel's ticks: `stat`.
    pub(super) user_ticks: u64,
    /// And within.
    pub(super) system_ticks: u64,
}

impl Usage {
    /// Reads it.
    ///
    /// # Errors
    /// When the process has gone, or the kernel has no `schedstat`.
    pub(super) fn of(pid: u32) -> io::Result<Usage> {
        let mut usage = Usage::default();
        for member in family(pid)? {
            let folder = format!("/proc/{member}/task");
            for task in fs::read_dir(&folder)? {
                // A thread may end while it is looked at.
                if let Ok(Some(of)) = thread(&task?.path()) {
                    usage.run_ns += of.run_ns;
                    usage.user_ticks += of.user_ticks;
                    usage.system_ticks += of.system_ticks;
                }
            }
        }
        Ok(usage)
    }

    /// What came since.
    pub(super) fn since(self, before: Usage) -> Usage {
        Usage {
            run_ns: self.run_ns.saturating_sub(before.run_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
        }
    }

    /// The part outside the kernel; half where there was not a single tick.
    #[expect(clippy::cast_precision_loss, reason = "ticks of a run of minutes")]
    pub(super) fn user_part(self) -> f64 {
        let all = self.user_ticks + self.system_ticks;
        if all == 0 {
            return 0.5;
        }
        self.user_ticks as f64 / all as f64
    }
}

/// A thread's; `None`: it is one of those beside.
fn thread(task: &Path) -> io::Result<Option<Usage>> {
    let stat = fs::read_to_string(task.join("stat"))?;
    let Some((name, fields)) = stat
        .split_once('(')
        .and_then(|(_, rest)| rest.rsplit_once(')'))
    else {
        return Ok(None);
    };
    if BESIDE.contains(&name) {
        return Ok(None);
    }
    let ticks = |at: usize| {
        let field = fields.split_ascii_whitespace().nth(at);
        field.and_then(|field| field.parse().ok()).unwrap_or(0)
    };
    let run = fs::read_to_string(task.join("schedstat"))?;
    Ok(Some(Usage {
        run_ns: run
            .split_ascii_whitespace()
            .next()
            .and_then(|ns| ns.parse().ok())
            .unwrap_or(0),
        // The 14th and the 15th of all. Source: proc_pid_stat(5).
        user_ticks: ticks(11),
        system_ticks: ticks(12),
    }))
}

/// A process and all its descendants.
pub(super) fn family(pid: u32) -> io::Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    let mut todo = vec![pid];
    while let Some(pid) = todo.pop() {
        if !found.insert(pid) {
            continue;
        }
        let tasks = match fs::read_dir(format!("/proc/{pid}/task")) {
            Ok(tasks) => tasks,
            Err(error) if found.len() == 1 => return Err(error),
            // A child that ended meanwhile.
            Err(_) => continue,
        };
        for task in tasks {
            let children = fs::read_to_string(task?.path().join("children"));
            let children = children.unwrap_or_default();
            todo.extend(
                children
                    .split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<u32>().ok()),
            );
        }
    }
    Ok(found)
}

/// The most memory that a process had in use at once, in bytes.
pub(super) fn most_memory(pid: u32) -> u64 {
    let Ok(members) = family(pid) else { return 0 };
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    members.into_iter().filter_map(of).sum::<u64>() * 1024
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn what_this_process_uses_grows() {
        let pid = std::process::id();
        let before = Usage::of(pid).unwrap();
        let mut sum = 0_u64;
        while Usage::of(pid).unwrap().since(before).run_ns < 5_000_000 {
            for number in 0..100_000 {
                sum = sum.wrapping_add(black_box(number));
            }
        }
        black_box(sum);
        assert!(most_memory(pid) > 1 << 20);
        assert!(family(pid).unwrap().contains(&pid));
    }

    #[test]
    fn a_process_that_is_not_there_is_an_error() {
        assert!(Usage::of(u32::MAX).is_err());
    }
}
