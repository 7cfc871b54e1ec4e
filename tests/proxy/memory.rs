//! A gigabyte each way through the shipped program, in constant memory.

use std::io::Write;

use crate::answer;
use crate::support::client::Client;
use crate::support::nginx::Nginx;
use crate::support::proxy::Program;
use crate::support::scripted::Backend;

const GIB: u64 = 1 << 30;

/// The most the program may need in RAM, its own code included.
const LIMIT: u64 = 64 << 20;

fn upstream(addr: std::net::SocketAddr) -> String {
    format!("[[routes]]\nupstream = \"a\"\n[upstreams.a]\nservers = [\"{addr}\"]\n")
}

fn assert_small(program: &Program, what: &str) {
    let peak = program.memory_peak();
    eprintln!("{what}: VmHWM {} KiB", peak / 1024);
    assert!(peak < LIMIT, "{what}: {peak} bytes of memory");
}

#[test]
fn a_gigabyte_is_downloaded_from_nginx_in_constant_memory() {
    let nginx = Nginx::start("");
    nginx.sparse_file("big", GIB);
    let program = Program::run(&upstream(nginx.addr));
    let mut client = Client::connect(program.addr);
    client.discard_bodies();
    let response = client.get("/big");
    assert_eq!((response.length, response.complete), (GIB, true));
    assert_small(&program, "1 GiB down");
}

#[test]
fn a_gigabyte_is_uploaded_in_constant_memory_by_length_and_in_chunks() {
    let backend = Backend::start(|mut conn| {
        while let Some(request) = conn.head() {
            let (length, complete) = conn.discard_body(&request);
            conn.send(answer(format!("{length} {complete}")));
        }
    });
    let program = Program::run(&upstream(backend.addr));
    let mut client = Client::connect(program.addr);

    client.send(format!(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n",
        GIB / 2
    ));
    let piece = vec![b'u'; 1 << 16];
    for _ in 0..GIB / 2 / piece.len() as u64 {
        client.send(&piece);
    }
    assert_eq!(client.response().text(), format!("{} true", GIB / 2));

    client.send("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
    chunk.write_all(&piece).unwrap();
    chunk.write_all(b"\r\n").unwrap();
    for _ in 0..GIB / 2 / piece.len() as u64 {
        client.send(&chunk);
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.response().text(), format!("{} true", GIB / 2));
    assert_small(&program, "1 GiB up");
}

#[test]
fn a_client_that_reads_nothing_costs_no_more_than_the_buffers() {
    let nginx = Nginx::start("");
    nginx.sparse_file("big", GIB);
    let program = Program::run(&upstream(nginx.addr));
    // Each asks for a gigabyte and reads nothing but the head.
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stream = std::net::TcpStream::connect(program.addr).unwrap();
            (&stream).write_all(crate::get("/big").as_bytes()).unwrap();
            let mut first = [0];
            assert_eq!(stream.peek(&mut first).unwrap(), 1);
            stream
        })
        .collect();
    // nginx would have sent all of it by the time somebody else has had a whole one.
    let mut other = Client::connect(program.addr);
    other.discard_bodies();
    assert_eq!(other.get("/big").length, GIB);
    assert_small(&program, "8 that do not read");
    assert_eq!(nginx.requests_served(), 1);
    drop(clients);
}
