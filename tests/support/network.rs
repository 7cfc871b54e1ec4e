//! A network namespace of its own for a test, where nobody else's sockets are.

use std::io::{self, Write as _};
use std::process::Command;
use std::{env, fs};

use super::process;

/// Set within the namespace.
const INSIDE: &str = "WARMLINE_TEST_OWN_NETWORK";

/// Runs `body` in a network namespace of its own: there, or in the second run of the test called
/// `name`, its module in front, that this starts. Where that is not allowed the test is skipped, aloud.
pub fn in_network_of_its_own(name: &str, body: fn()) {
    or_here(name, &format!("SKIPPED {name}"), |is_own| {
        if is_own {
            body();
        }
    });
}

/// The same, but where it is not allowed `body` is run here, and told so by `false`; what it then does
/// without is `skipped`.
///
/// # Panics
/// When the second run fails, with all that it said.
pub fn or_here(name: &str, skipped: &str, body: impl FnOnce(bool)) {
    if env::var_os(INSIDE).is_some() {
        let setting = "/proc/sys/net/ipv4/tcp_tw_reuse";
        if fs::write(setting, "0").is_err() {
            // Read-only in some containers. The default takes a port again after a second only, and
            // these tests need far fewer ports than there are.
            eprintln!("{setting} stays as it is");
        }
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
            "{skipped}: a network namespace of its own needs root: {}",
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
