//! A network namespace for the whole run, where a socket in TIME_WAIT is nobody else's.

use std::io::{self, Write as _};
use std::process::Command;
use std::{env, fs};

use crate::support::process;

/// Set within the namespace.
const INSIDE: &str = "WARMLINE_TEST_APACHE_NETWORK";

/// Runs `body` in a network namespace of its own, in a second run of the test called `name` that
/// this starts; or here, where that is not allowed. Tells `body` which of the two.
///
/// # Panics
/// When the second run fails, with all that it said.
pub fn in_one_of_its_own(name: &str, body: fn(bool)) {
    if env::var_os(INSIDE).is_some() {
        // No port in TIME_WAIT is taken again while it is looked for. Read-only in some containers,
        // where the default leaves a second.
        let _ = fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0");
        body(true);
        return;
    }
    process::find(&["ip"], "iproute2");
    let unshare = || {
        let mut command = Command::new(process::find(&["unshare"], "util-linux"));
        command.args(["--net", "sh", "-c"]);
        command
    };
    let possible = unshare().arg("ip link set lo up").output().unwrap();
    if !possible.status.success() {
        // Past the test harness, which keeps what passing tests print to itself.
        let _ = writeln!(
            io::stderr(),
            "{name}: TIME_WAIT is SKIPPED: a network namespace of its own needs root: {}",
            String::from_utf8_lossy(&possible.stderr).trim()
        );
        body(false);
        return;
    }
    let output = unshare()
        .args(["ip link set lo up && exec \"$@\"", "sh"])
        .arg(env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare can be run");
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "in its own network:\n{said}"
    );
    eprintln!("{said}");
}
