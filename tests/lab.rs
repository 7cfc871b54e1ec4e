//! Hosts of one's own: what goes over their lines, which settings are theirs, and that nothing is left of them.
//!
//! Takes root; without it the tests are skipped, aloud, but for the one that runs without.

#![allow(clippy::unwrap_used)] // the setting that allows it in tests does not see helpers

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::{Pid, Signal};
use tokio::time::Instant;
use warmline::compare::lab::{ArmSpec, Lab, LabError, Line, Program, Room, Spec, Sysctls, wrapped};

/// Only reached by a test that fails; long, for a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(30);

/// Set in a second run of this program.
const INSIDE: &str = "WARMLINE_TEST_LAB_INSIDE";

/// The hosts; `None`, aloud, where they are not allowed.
fn lab(spec: &Spec) -> Option<Lab> {
    match Lab::build(spec) {
        Ok(lab) => Some(lab),
        Err(error @ LabError::Refused { .. }) => {
            // Past the test harness, which keeps what passing tests print to itself.
            let name = thread::current().name().unwrap_or("a test").to_owned();
            let _ = writeln!(io::stderr(), "SKIPPED {name}: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// One arm with this line.
fn lab_with(line: Line) -> Option<Lab> {
    let arm = ArmSpec {
        line,
        ..ArmSpec::default()
    };
    lab(&Spec::new(vec![arm]))
}

fn plain(arms: usize) -> Spec {
    Spec::new(vec![ArmSpec::default(); arms])
}

/// `program` as it would be started by the program under test.
fn owned(program: impl AsRef<OsStr>) -> Command {
    wrapped(Path::new(env!("CARGO_BIN_EXE_warmline")), program)
}

/// Looks again and again until `look` finds something.
#[track_caller]
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < limit, "{what} did not happen in {LIMIT:?}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn listener(room: &Room, address: Ipv4Addr) -> (TcpListener, SocketAddr) {
    room.run(move || {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    })
}

fn connect(room: &Room, to: SocketAddr) -> io::Result<TcpStream> {
    room.run(move || TcpStream::connect_timeout(&to, LIMIT))
}

/// What the machine's own network consists of.
fn devices_here() -> String {
    fs::read_dir("/sys/class/net")
        .unwrap()
        .map(|device| device.unwrap().file_name().into_string().unwrap())
        .collect::<Vec<_>>()
        .join(" ")
}

fn namespace(path: impl AsRef<Path>) -> Option<PathBuf> {
    fs::read_link(path).ok()
}

/// Whether any thread of any process is in it.
fn is_in_use(wanted: &Path) -> bool {
    let entries = |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten();
    entries("/proc".into())
        .flat_map(|process| entries(process.path().join("task")))
        .any(|thread| namespace(thread.path().join("ns/net")).as_deref() == Some(wanted))
}

fn is_running(pid: u32) -> bool {
    // A zombie that its new parent has not fetched yet runs no more.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// Waits until a command has become `name`.
fn becomes(pid: u32, name: &str) {
    eventually("the start of the program", || {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (comm.trim() == name).then_some(())
    });
}

#[test]
fn each_arm_has_hosts_and_settings_of_its_own_and_the_machine_keeps_its_own() {
    let here = || {
        let names = [
            "ip_local_port_range",
            "tcp_tw_reuse",
            "tcp_max_tw_buckets",
            "tcp_timestamps",
        ];
        names.map(|name| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap())
    };
    let before = (here(), devices_here());
    let sysctls = Sysctls {
        ports: Some((20_000, 20_063)),
        tw_reuse: Some(0),
        max_tw_buckets: Some(4_321),
        others: vec![("net.ipv4.tcp_timestamps".to_owned(), "0".to_owned())],
    };
    let mut spec = plain(2);
    spec.arms[1].sysctls = sysctls;
    let Some(lab) = lab(&spec) else { return };
    assert_eq!((lab.means().len(), lab.hides().len()), (0, 0));

    let [first, second] = lab.arms() else {
        panic!("two were asked for")
    };
    for room in [&second.proxy, &second.backend] {
        assert_eq!(
            room.sysctl("net.ipv4.ip_local_port_range").unwrap(),
            "20000\t20063"
        );
        assert_eq!(room.sysctl("net.ipv4.tcp_tw_reuse").unwrap(), "0");
        assert_eq!(room.sysctl("net.ipv4.tcp_max_tw_buckets").unwrap(), "4321");
        assert_eq!(room.sysctl("net.ipv4.tcp_timestamps").unwrap(), "0");
    }
    for room in [lab.client(), &first.proxy] {
        assert_eq!(
            room.sysctl("net.ipv4.tcp_timestamps").unwrap(),
            "1",
            "{room:?}"
        );
    }

    for arm in lab.arms() {
        let (front, at) = listener(&arm.proxy, arm.proxy_address);
        let mut client = connect(lab.client(), at).unwrap();
        assert_eq!(client.local_addr().unwrap().ip(), arm.client_address);
        let (back, at) = listener(&arm.backend, arm.backend_address);
        let mut proxied = connect(&arm.proxy, at).unwrap();
        assert_eq!(proxied.local_addr().unwrap().ip(), arm.proxy_source);
        for (socket, listener) in [(&mut client, front), (&mut proxied, back)] {
            socket.write_all(b"hello").unwrap();
            let mut read = [0; 5];
            listener.accept().unwrap().0.read_exact(&mut read).unwrap();
            assert_eq!(&read, b"hello");
        }
        // No way past the proxy.
        assert!(connect(lab.client(), at).is_err());
    }
    let (_back, at) = listener(&second.backend, second.backend_address);
    let port = connect(&second.proxy, at)
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    assert!((20_000..20_064).contains(&port), "{port}");

    assert_eq!((here(), devices_here()), before);
    drop(lab);
    assert_eq!((here(), devices_here()), before);
}

#[test]
fn four_arms_are_there_in_a_moment() {
    let start = Instant::now();
    let Some(lab) = lab(&plain(4)) else { return };
    let took = start.elapsed();
    eprintln!("four arms took {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!(lab.arms().len(), 4);
}

#[test]
fn a_round_trip_takes_twice_the_delay_and_hardly_more() {
    let delay = Duration::from_millis(5);
    let Some(lab) = lab_with(Line {
        delay,
        ..Line::default()
    }) else {
        return;
    };
    assert_eq!(lab.means().len(), 1);
    let arm = &lab.arms()[0];
    let (listener, at) = listener(&arm.backend, arm.backend_address);
    let handshakes: Vec<_> = (0..30)
        .map(|_| {
            let took = arm.proxy.run(move || {
                let start = Instant::now();
                drop(TcpStream::connect(at).unwrap());
                start.elapsed()
            });
            drop(listener.accept().unwrap());
            took
        })
        .collect();
    let (least, most) = (
        handshakes.iter().min().unwrap(),
        handshakes.iter().max().unwrap(),
    );
    eprintln!("round trips of 2 × {delay:?}: {least:?} to {most:?}");
    assert!(*least >= 2 * delay, "{handshakes:?}");
    // One that the machine had no time for does not count.
    assert!(*least < Duration::from_millis(14), "{handshakes:?}");
}

#[test]
fn much_data_comes_whole_over_a_line_with_delay() {
    const BYTES: usize = 8 << 20;
    let delay = Duration::from_millis(2);
    let Some(lab) = lab_with(Line {
        delay,
        ..Line::default()
    }) else {
        return;
    };
    let start = Instant::now();
    let received = transferred(&lab, BYTES);
    eprintln!(
        "{BYTES} bytes over 2 × {delay:?} took {:?}",
        start.elapsed()
    );
    assert_eq!(received.len(), BYTES);
    assert!(
        received
            .iter()
            .zip(pattern())
            .all(|(one, other)| *one == other)
    );
}

/// Bytes that say where they belong.
fn pattern() -> impl Iterator<Item = u8> {
    (0_u32..).map(|n| n.to_le_bytes().into_iter().fold(0, |all, byte| all ^ byte))
}

/// What arrives at the backend of so many bytes from the proxy.
fn transferred(lab: &Lab, bytes: usize) -> Vec<u8> {
    let arm = &lab.arms()[0];
    let (listener, at) = listener(&arm.backend, arm.backend_address);
    let mut sender = connect(&arm.proxy, at).unwrap();
    let (mut end, _) = listener.accept().unwrap();
    end.set_read_timeout(Some(LIMIT)).unwrap();
    let sent: Vec<u8> = pattern().take(bytes).collect();
    let sending = thread::spawn(move || sender.write_all(&sent).unwrap());
    let mut received = Vec::new();
    end.read_to_end(&mut received).unwrap();
    sending.join().unwrap();
    received
}

#[test]
fn packets_are_lost_at_the_rate_that_is_asked_for_with_and_without_delay() {
    const SENT: usize = 4_000;
    for delay in [Duration::ZERO, Duration::from_millis(1)] {
        let Some(lab) = lab_with(Line {
            delay,
            loss: 0.05,
            ..Line::default()
        }) else {
            return;
        };
        let arm = &lab.arms()[0];
        let socket =
            |room: &Room, address| room.run(move || UdpSocket::bind((address, 0)).unwrap());
        let one = socket(&arm.proxy, arm.proxy_source);
        let other = socket(&arm.backend, arm.backend_address);
        for (from, to) in [(&one, &other), (&other, &one)] {
            let mut received = 0;
            to.set_read_timeout(Some(Duration::from_millis(10)))
                .unwrap();
            // Fewer at a time than the receive buffer holds.
            for _ in 0..SENT / 50 {
                for _ in 0..50 {
                    from.send_to(b"x", to.local_addr().unwrap()).unwrap();
                }
                while to.recv(&mut [0; 8]).is_ok() {
                    received += 1;
                }
            }
            let lost = SENT - received;
            eprintln!("{lost} of {SENT} lost, with a delay of {delay:?}");
            // 200 expected; a standard deviation is 14.
            assert!((130..=270).contains(&lost), "{lost} of {SENT}");
        }
    }
}

#[test]
fn a_rate_is_kept_with_and_without_delay() {
    const BYTES: usize = 2_000_000;
    for delay in [Duration::ZERO, Duration::from_millis(2)] {
        let rate = Some(20_000_000);
        let Some(lab) = lab_with(Line {
            delay,
            rate,
            ..Line::default()
        }) else {
            return;
        };
        let start = Instant::now();
        assert_eq!(transferred(&lab, BYTES).len(), BYTES);
        let took = start.elapsed().as_secs_f64();
        eprintln!("{BYTES} bytes at 20 Mbit/s took {took:.3} s, with a delay of {delay:?}");
        // 0.8 s of bits, 4 % of headers more, and a bucket of 10 ms less.
        assert!((0.79..2.0).contains(&took), "{took}");
    }
}

/// A shell with a child of its own, which sleeps, and the child's process number: not the one it has in its namespace.
fn family(room: &Room, child: &str) -> (Program, u32) {
    let mut command = owned("sh");
    command.args(["-c", &format!("{child} & wait")]);
    let program = room.spawn(command).unwrap();
    let child = eventually("the child", || child_of(program.id()));
    becomes(child, "sleep");
    (program, child)
}

fn child_of(parent: u32) -> Option<u32> {
    let has_parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Behind the name: the state, and the parent.
        let behind = stat.rsplit(')').next().unwrap_or_default().to_owned();
        behind.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(has_parent)
}

#[test]
fn a_program_ends_with_what_it_has_started_and_a_host_with_its_programs() {
    let Some(lab) = lab(&plain(1)) else { return };
    let backend = &lab.arms()[0].backend;
    let (program, child) = family(backend, "sleep 1000");
    for pid in [program.id(), child] {
        let inside = namespace(format!("/proc/{pid}/ns/net"));
        assert_eq!(inside, namespace(backend.namespace()));
        assert_ne!(inside, namespace("/proc/self/ns/net"));
    }
    drop(program);
    eventually("the child's end", || (!is_running(child)).then_some(()));

    // One that ends by itself leaves nothing behind either, and its exit code is known.
    let (mut program, child) = family(backend, "sleep 1000");
    assert!(program.try_wait().unwrap().is_none());
    program.signal(Signal::TERM).unwrap();
    let status = eventually("its end", || program.try_wait().unwrap());
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(15)
    );
    eventually("the child's end", || (!is_running(child)).then_some(()));

    let mut sleep = owned("sleep");
    sleep.arg("1000");
    let mut program = backend.spawn(sleep).unwrap();
    becomes(program.id(), "sleep");
    let inside = namespace(backend.namespace()).unwrap();
    drop(lab);
    eventually("the program's end with its host", || {
        program.try_wait().unwrap()
    });
    eventually("the host's end", || (!is_in_use(&inside)).then_some(()));
}

#[test]
fn a_program_that_is_not_there_says_so() {
    let room = Room::here("a room").unwrap();
    let mut command = owned("/no/such/program");
    command.stderr(Stdio::piped());
    let mut program = room.spawn(command).unwrap();
    let mut said = String::new();
    let mut stderr = program.child().stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(
        said.contains("/no/such/program could not be started"),
        "{said}"
    );
    let status = eventually("its end", || program.try_wait().unwrap());
    assert_eq!(status.code(), Some(127));
}

/// Waits to be killed, on this host, with a program.
fn wait_here() {
    let room = Room::here("a room").unwrap();
    let mut sleep = owned("sleep");
    sleep.arg("1000");
    let program = room.spawn(sleep).unwrap();
    becomes(program.id(), "sleep");
    println!("\nprogram {}\nready", program.id());
    thread::sleep(10 * LIMIT);
}

#[test]
fn over_loopback_a_program_ends_with_a_process_that_was_killed() {
    const NAME: &str = "over_loopback_a_program_ends_with_a_process_that_was_killed";
    if env::var_os(INSIDE).is_some() {
        return wait_here();
    }
    let (mut inside, said) = second_run(NAME);
    let program: u32 = named(&said, "program ")[0].parse().unwrap();
    assert!(is_running(program));
    inside.kill().unwrap();
    inside.wait().unwrap();
    eventually("the program's end", || (!is_running(program)).then_some(()));
}

/// Starts this program again, for one test; returns when that is ready, with what it said until then.
fn second_run(test: &str) -> (Child, Vec<String>) {
    let mut inside = Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(inside.stdout.take().unwrap()).lines();
    let lines = lines.map(Result::unwrap);
    (inside, lines.take_while(|line| line != "ready").collect())
}

/// What is behind `what` in the lines that begin with it.
fn named(said: &[String], what: &str) -> Vec<String> {
    let lines = said.iter();
    let named: Vec<_> = lines
        .filter_map(|line| Some(line.strip_prefix(what)?.to_owned()))
        .collect();
    assert!(!named.is_empty(), "no {what:?} in {said:?}");
    named
}

/// Waits to be killed, with hosts, a line with a relay and a program.
fn wait_in_a_lab() {
    let delay = Duration::from_millis(1);
    let lab = lab_with(Line {
        delay,
        ..Line::default()
    })
    .unwrap();
    let backend = &lab.arms()[0].backend;
    // Out of its group and session: only the namespace's end reaches it.
    let (program, child) = family(backend, "setsid sleep 1000");
    println!("\nprogram {}\nprogram {child}", program.id());
    let arm = &lab.arms()[0];
    for room in [lab.client(), &arm.proxy, &arm.backend] {
        println!("host {}", namespace(room.namespace()).unwrap().display());
    }
    println!("ready");
    thread::sleep(10 * LIMIT);
}

#[test]
fn nothing_is_left_of_hosts_and_programs_whose_process_was_killed() {
    const NAME: &str = "nothing_is_left_of_hosts_and_programs_whose_process_was_killed";
    if env::var_os(INSIDE).is_some() {
        return wait_in_a_lab();
    }
    if lab(&plain(1)).is_none() {
        return;
    }
    let before = devices_here();
    for signal in [Signal::KILL, Signal::INT] {
        let (mut inside, said) = second_run(NAME);
        let programs: Vec<u32> = named(&said, "program ")
            .iter()
            .map(|pid| pid.parse().unwrap())
            .collect();
        let hosts = named(&said, "host ");
        assert_eq!(hosts.len(), 3, "{said:?}");
        assert!(programs.len() == 2 && programs.iter().all(|pid| is_running(*pid)));
        assert!(hosts.iter().all(|host| is_in_use(Path::new(host))));

        let pid = Pid::from_child(&inside);
        rustix::process::kill_process(pid, signal).unwrap();
        inside.wait().unwrap();
        for pid in programs {
            eventually("the program's end", || (!is_running(pid)).then_some(()));
        }
        for host in &hosts {
            eventually("the host's end", || {
                (!is_in_use(Path::new(host))).then_some(())
            });
        }
        assert_eq!(devices_here(), before);
    }
}

#[test]
fn without_root_it_is_refused_with_a_way_out_and_loopback_says_what_it_hides() {
    const NAME: &str = "without_root_it_is_refused_with_a_way_out_and_loopback_says_what_it_hides";
    if env::var_os(INSIDE).is_none() && rustix::process::geteuid().is_root() {
        let output = Command::new(env::current_exe().unwrap())
            .args([NAME, "--exact", "--nocapture"])
            .env(INSIDE, "1")
            .current_dir("/")
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let error = Lab::build(&plain(1)).unwrap_err();
    assert!(matches!(error, LabError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("run this as root"), "{error}");

    let lab = Lab::loopback(2).unwrap();
    assert!(lab.hides()[0].contains("tcp_tw_reuse = 2"));
    let addresses: Vec<_> = lab.arms().iter().map(|arm| arm.backend_address).collect();
    assert_ne!(addresses[0], addresses[1]);
    for arm in lab.arms() {
        let (_listener, at) = listener(&arm.backend, arm.backend_address);
        connect(&arm.proxy, at).unwrap();
        let (_listener, at) = listener(&arm.proxy, arm.proxy_address);
        connect(lab.client(), at).unwrap();
    }
    assert!(Lab::loopback(0).is_err());
}
