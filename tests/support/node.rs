//! Node.js as a backend: its idle timeout is the classic of the race.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;

use super::process::{Process, find};
use super::{PATIENCE, wait_until};

/// An HTTP server that says its port on its first line, answers `ok`, and refuses an `x-id` that it
/// has seen before with 409. `/connections` tells how many it has accepted, `/seen` how many ids came,
/// `/twice` how many came again, `/late` by how many milliseconds its event loop was late at the most.
///
/// Node.js adds a buffer of a second to `keepAliveTimeout`, which only newer versions let one take away.
/// In the others the socket's timer is set once more, behind Node's own: what happens when it is over is
/// Node's way of closing an idle connection.
const SERVER: &str = r#"
const seen = new Set();
let connections = 0, twice = 0, late = 0, looked = performance.now();
setInterval(() => {
  const now = performance.now();
  late = Math.max(late, now - looked - 5);
  looked = now;
}, 5);
const server = require("http").createServer((request, response) => {
  const id = request.headers["x-id"];
  if (id && seen.has(id)) { response.statusCode = 409; twice++; }
  if (id) seen.add(id);
  const said = { "/connections": () => connections, "/seen": () => seen.size, "/twice": () => twice, "/late": () => Math.ceil(late) }[request.url];
  request.resume().on("end", () => response.end(said ? String(said()) : "ok"));
});
const idle = Number(process.argv[1]);
server.on("connection", () => connections++);
server.keepAliveTimeout = idle;
if ("keepAliveTimeoutBuffer" in server) server.keepAliveTimeoutBuffer = 0;
else server.on("request", (request, response) =>
  response.on("finish", () => process.nextTick(() => request.socket.setTimeout(idle))));
if (process.argv[2] === "silent")
  server.on("request", (_, response) => response.shouldKeepAlive && response.setHeader("Connection", "keep-alive"));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"#;

/// The same for HTTP/2, answering `from node`.
const HTTP2: &str = r#"
const server = require("http2").createServer((request, response) => response.end("from node"));
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"#;

/// A WebSocket server that echoes: RFC 6455 by hand, as Node has none of its own.
const WEBSOCKET: &str = r#"
const server = require("http").createServer((request, response) => response.end("ok"));
const frame = (opcode, body) => {
  const head = body.length < 126 ? [0x80 | opcode, body.length]
    : body.length < 65536 ? [0x80 | opcode, 126, body.length >> 8, body.length & 255]
    : [0x80 | opcode, 127, 0, 0, 0, 0, ...[24, 16, 8, 0].map(by => (body.length >>> by) & 255)];
  return Buffer.concat([Buffer.from(head), body]);
};
server.on("upgrade", (request, socket, head) => {
  const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
  const accept = require("crypto").createHash("sha1").update(key).digest("base64");
  socket.write("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
    "Sec-WebSocket-Accept: " + accept + "\r\n\r\n");
  let left = head;
  const read = () => {
    if (left.length < 2) return false;
    let length = left[1] & 127, at = 2;
    if (length === 126) { if (left.length < 4) return false; length = left.readUInt16BE(2); at = 4; }
    else if (length === 127) { if (left.length < 10) return false; length = left.readUInt32BE(6); at = 10; }
    if (left.length < at + 4 + length) return false;
    const mask = left.subarray(at, at + 4), opcode = left[0] & 15;
    const body = Buffer.from(left.subarray(at + 4, at + 4 + length)).map((byte, i) => byte ^ mask[i & 3]);
    left = left.subarray(at + 4 + length);
    if (opcode === 8) { socket.end(frame(8, body)); return false; }
    socket.write(frame(opcode === 9 ? 10 : opcode, body));
    return true;
  };
  const pieces = more => { left = Buffer.concat([left, more]); while (read()); };
  socket.on("data", pieces).on("error", () => {});
  pieces(Buffer.alloc(0));
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"#;

/// A running server; ended when dropped.
pub struct Node {
    /// Where it listens.
    pub addr: SocketAddr,
    _process: Process,
    _folder: TempDir,
}

impl Node {
    /// Starts one that closes connections idle for `keep_alive` milliseconds; `hints`: whether it
    /// says so in its responses.
    pub fn start(keep_alive: u32, hints: bool) -> Node {
        let hints = if hints { "hints" } else { "silent" };
        Node::run(SERVER, &[&keep_alive.to_string(), hints])
    }

    /// Starts one that speaks HTTP/2 without TLS.
    pub fn http2() -> Node {
        Node::run(HTTP2, &[])
    }

    /// Starts one that speaks WebSocket and echoes every message.
    pub fn websocket() -> Node {
        Node::run(WEBSOCKET, &[])
    }

    fn run(script: &str, args: &[&str]) -> Node {
        let folder = TempDir::new().expect("a temporary folder can be made");
        let output = folder.path().join("output");
        let process = Process::start(
            Command::new(find(&["node", "nodejs"], "nodejs"))
                .args(["-e", script, "--"])
                .args(args),
            &output,
        );
        wait_until(PATIENCE, "node to listen", || {
            process.said().ends_with('\n')
        });
        let said = process.said();
        let port = said.trim().parse::<u16>();
        let port = port.unwrap_or_else(|_| panic!("node did not say its port: {said}"));
        Node {
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            _process: process,
            _folder: folder,
        }
    }
}
