//! The program under who starts and watches it: a service manager, a container's engine.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::program::{Program, config, warmline};
use crate::support::scripted::Backend;
use crate::support::{PATIENCE, free_port};

#[test]
fn the_service_manager_is_told_of_start_reload_and_stop() {
    let backend = Backend::numbered();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut bytes = [0; 200];
        let length = manager.recv(&mut bytes).expect("something is said");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let text = config("127.0.0.1:0", backend.addr, "");
    let program = Program::with_variable(&text, "NOTIFY_SOCKET", &socket);
    assert_eq!(told().trim(), "READY=1");
    program.reload(&text);
    let reloading = told();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
    let time: u64 = time
        .unwrap_or_else(|| panic!("{reloading}"))
        .trim()
        .parse()
        .unwrap();
    assert!(Duration::from_micros(time) > Duration::from_secs(1));
    assert_eq!(told().trim(), "READY=1");
    // Readable again, too, if the file is bad: the old settings go on.
    program.reload("nonsense");
    assert!(told().starts_with("RELOADING=1"));
    assert_eq!(told().trim(), "READY=1");
    program.signal(Signal::TERM);
    assert_eq!(told().trim(), "STOPPING=1");
}

#[test]
fn a_health_check_asks_the_admin_listener_or_the_door() {
    let backend = Backend::numbered();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("warmline.toml");
    let admin = format!(
        "[admin]\naddress = \"unix:{}/admin\"\n",
        dir.path().display()
    );
    for (admin, without) in [
        (admin.as_str(), "no proxy answers at unix:"),
        ("", "nobody accepts at 127.0.0.1:"),
    ] {
        let listen = format!("127.0.0.1:{}", free_port());
        let text = config(&listen, backend.addr, "") + admin;
        fs::write(&file, &text).unwrap();
        for args in [
            &["healthcheck", "-c", "warmline.toml"][..],
            &["healthcheck", "--ready", "-c", "warmline.toml"],
        ] {
            let program = Program::with_file(&text);
            let output = warmline(dir.path(), args);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(output.stdout, b"ok\n");
            drop(program);
            let output = warmline(dir.path(), args);
            assert_eq!(output.status.code(), Some(1));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains(without), "{said}");
        }
    }
    let output = warmline(dir.path(), &["healthcheck", "-c", "none.toml"]);
    assert_eq!(output.status.code(), Some(1));
}
