
// The figures as they come, and where on the page they go.

const STATES = ["ESTABLISHED", "SYN_SENT", "SYN_RECV", "TIME_WAIT", "FIN_WAIT1", "FIN_WAIT2", "CLOSE_WAIT", "LAST_ACK", "CLOSING", "unknown"];
const MEANINGS = {
  ESTABLISHED: "open",
  SYN_SENT: "being opened: no answer yet",
  SYN_RECV: "being accepted: the last packet of the handshake is missing",
  TIME_WAIT: "closed by this side first; its port is held for 60 s",
  FIN_WAIT1: "closed by this side first; not acknowledged yet",
  FIN_WAIT2: "closed by this side first; the other side has not closed yet",
  CLOSE_WAIT: "closed by the other side; the program here has not closed yet",
  LAST_ACK: "closed by the other side, then here; not acknowledged yet",
  CLOSING: "closed by both sides at once; not acknowledged yet",
  unknown: "a state this program has not heard of",
};
const PAST = 300;
const MOST_CELLS = 256;
const LOW = 0.2;
const byId = (id) => document.getElementById(id);

let latest = null;
const past = new Map();
const cards = new Map();

// --- What came.

function take(snapshot) {
  latest = snapshot;
  for (const name of past.keys()) {
    if (!snapshot.upstreams.some((one) => one.name === name)) past.delete(name);
  }
  for (const upstream of snapshot.upstreams) {
    const points = past.get(upstream.name) ?? [];
    past.set(upstream.name, points);
    if (points.length && snapshot.time - points[points.length - 1].time < 0.5) continue;
    points.push({
      time: snapshot.time,
      requests: upstream.requests_per_second,
      connects: upstream.connects_per_second,
      towards: states(upstream, "towards"),
      own: states(upstream, "own"),
    });
    if (points.length > PAST) points.splice(0, points.length - PAST);
  }
  show();
}

function takePast(history) {
  for (const upstream of history.upstreams) {
    const points = upstream.time.map((time, index) => {
      const at = (lists) => Object.fromEntries(Object.entries(lists).map(([state, list]) => [state, list[index]]));
      return {
        time,
        requests: upstream.requests_per_second[index],
        connects: upstream.connects_per_second[index],
        towards: at(upstream.towards),
        own: at(upstream.own),
      };
    });
    past.set(upstream.name, points);
  }
}

// The sockets of all backends of an upstream; an address that stands there twice counts once.
function states(upstream, side) {
  const sum = {}, seen = new Set();
  for (const backend of upstream.backends) {
    if (!backend.states || seen.has(backend.address)) continue;
    seen.add(backend.address);
    for (const state of STATES) {
      sum[state] = (sum[state] ?? 0) + (backend.states[side][state] ?? 0);
    }
  }
  return sum;
}

const add = (values) => values.some(known) ? values.filter(known).reduce((a, b) => a + b, 0) : null;

// --- The head of the page.

function show() {
  const { upstreams, clients } = latest;
  const about = [`version ${latest.version}`, `up ${span(latest.uptime_seconds)}`, counted(latest.workers, "worker")];
  write(byId("about"), about.join(" · "));
  if (document.body.dataset.state !== "gone") status(latest.stopping ? "stopping" : "live");

  const requests = add(upstreams.map((one) => one.requests_per_second));
  const connects = add(upstreams.map((one) => one.connects_per_second));
  const reused = add(upstreams.map((one) =>
    known(one.reuse_ratio) && known(one.requests_per_second) ? one.reuse_ratio * one.requests_per_second : null));
  writeUnit(byId("all-requests"), rate(requests), "/s");
  writeUnit(byId("all-connects"), rate(connects), "/s");
  writeUnit(byId("all-reuse"), percent(requests ? reused / requests : null), "%");
  write(byId("all-clients"), whole(clients.open));
  spark(byId("spark-requests"), together("requests"));
  spark(byId("spark-connects"), together("connects"));

  const waits = latest.time_wait ?? {};
  const most = Math.max(waits.pooled ?? 0, waits.short ?? 0, waits.foreign ?? 0, 1);
  for (const arm of ["pooled", "short", "foreign"]) {
    const row = document.querySelector(`#versus .${arm}`);
    write(byId(`tw-${arm}`), whole(waits[arm]));
    row.querySelector(".fill").style.width = `${(waits[arm] ?? 0) / most * 100}%`;
    if (arm === "foreign") row.hidden = !waits.foreign;
  }

  const wanted = named();
  const alone = upstreams.some((one) => one.name === wanted) ? wanted : null;
  byId("quiet").hidden = upstreams.length > 0;
  if (!upstreams.length) write(byId("quiet"), "There is no upstream.");
  for (const [name, card] of cards) {
    if (!upstreams.some((one) => one.name === name)) {
      card.node.remove();
      cards.delete(name);
    }
  }
  for (const upstream of upstreams) {
    let card = cards.get(upstream.name);
    if (!card) {
      card = new Card(upstream);
      cards.set(upstream.name, card);
      byId("listeners").before(card.node);
    }
    card.show(upstream);
    card.node.hidden = alone !== null && upstream.name !== alone;
  }
  showListeners(latest.listeners);
  const census = latest.census;
  const old = census && census.age_seconds > 2 * census.period_seconds + 1
    ? `; it has not told since, for ${span(census.age_seconds)}` : "";
  write(byId("census"), census
    ? `Sockets counted by the kernel (${census.source === "sock_diag" ? "netlink sock_diag" : "/proc/net/tcp"}), every ${span(census.period_seconds)}; a look takes ${latency(census.seconds).join(" ")}${old}`
    : "The kernel does not list its sockets here: no TCP states, no ports.");
}

// The upstream that the address asks for, after its `#`.
function named() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
}

// A figure of all upstreams, second by second.
function together(figure) {
  const lists = [...past.values()];
  const length = Math.max(0, ...lists.map((points) => points.length));
  return Array.from({ length }, (_, back) => {
    const values = lists.map((points) => points[points.length - length + back]?.[figure]);
    return add(values.map((value) => value ?? NaN)) ?? NaN;
  });
}

function showListeners(listeners) {
  const node = byId("listeners");
  node.hidden = !listeners.length;
  if (node.hidden) return;
  const list = listeners.map(({ address, states }) => {
    const line = element("li", {}, element("b", {}, address), legend(states));
    return line;
  });
  node.replaceChildren(element("h2", {}, "Clients' sockets"), element("ul", {}, ...list));
}

function legend(counts) {
  const shown = STATES.filter((state) => counts[state] > 0);
  const list = shown.map((state) =>
    element("li", { class: `s-${state}`, title: MEANINGS[state] }, element("i", {}), state, element("b", {}, whole(counts[state]))));
  return element("ul", { class: "legend" }, ...(list.length ? list : [element("li", {}, "none")]));
}

// --- One upstream.

class Card {
  constructor({ name, arm }) {
    this.name = name;
    this.title = element("h2", {}, name);
    this.arm = element("span", { class: "arm" });
    this.armNote = element("span", { class: "arm-note" });
    this.figures = {};
    const figure = (key, label) => {
      this.figures[key] = element("dd", {});
      return element("div", {}, element("dt", {}, label), this.figures[key]);
    };
    this.charts = [
      new Chart("towards", "Sockets towards the backends", "none"),
      new Chart("own", "The backends' own side", "none in this network namespace"),
    ];
    this.backends = element("div", { class: "backends" });
    this.rows = new Map();
    const key = element("div", { class: "cells-key" },
      element("span", {}, "Each cell is a connection, the number the requests it carried:"),
      element("span", {}, sample("leased", 100), "busy"),
      element("span", {}, sample("idle", 60), "idle"),
      element("span", {}, sample("idle", 10), "idle for longer"),
      element("span", {}, sample("opening", 0), "being opened"));
    this.node = element("article", { class: `card upstream ${arm}`, "aria-label": `Upstream ${name}`, "data-upstream": name },
      element("header", {}, this.title, this.arm, this.armNote),
      element("dl", { class: "figures" },
        figure("requests", "Requests"), figure("reuse", "Reuse"), figure("connects", "Connects"),
        figure("p50", "Half took at most (p50)"), figure("p99", "99 % took at most (p99)"), figure("waiting", "Waiting in line")),
      element("div", { class: "charts" }, ...this.charts.map((chart) => chart.node)),
      this.backends);
    this.backends.append(key);
    this.key = key;
  }

  show(upstream) {
    this.node.className = `card upstream ${upstream.arm}`;
    this.arm.className = `arm ${upstream.arm}`;
    write(this.arm, upstream.arm);
    const what = upstream.arm === "pooled" ? "connections are kept and used again" : "a connection for each request";
    write(this.armNote, what + splitWords(upstream));
    const figures = this.figures;
    writeUnit(figures.requests, rate(upstream.requests_per_second), "/s");
    writeUnit(figures.connects, rate(upstream.connects_per_second), "/s");
    writeUnit(figures.reuse, percent(upstream.reuse_ratio), "%");
    writeUnit(figures.p50, ...latency(upstream.latency_seconds?.p50));
    writeUnit(figures.p99, ...latency(upstream.latency_seconds?.p99));
    write(figures.waiting, whole(add(upstream.backends.map((one) => one.waiting))));
    for (const chart of this.charts) chart.show(past.get(this.name) ?? []);

    const there = new Set();
    for (const backend of upstream.backends) {
      there.add(backend.address);
      let row = this.rows.get(backend.address);
      if (!row) {
        row = new Row(backend.address);
        this.rows.set(backend.address, row);
        this.key.before(row.node);
      }
      row.show(backend);
    }
    for (const [address, row] of this.rows) {
      if (!there.has(address)) {
        row.node.remove();
        this.rows.delete(address);
      }
    }
  }
}

// Which share of the requests goes to the short arm, which stands under a name of its own.
function splitWords({ short_share: split }) {
  if (!split) return "";
  const part = (share) => `${Number((share * 100).toFixed(3))} %`;
  if (split.stopped) {
    const why = { ports_low: "few local ports were left", no_local_port: "no local port was left", errors: "its requests failed" };
    return `; the short arm, asked for ${part(split.asked)}, is stopped: ${why[split.stopped] ?? split.stopped}`;
  }
  return `; ${part(split.in_force)} of the requests go to the short arm`;
}

function sample(state, fresh) {
  const node = element("i", { class: "cell", "data-state": state, "aria-hidden": "true" });
  node.style.setProperty("--fresh", fresh);
  return node;
}

// The sockets of one side, over time.
class Chart {
  constructor(side, caption, none) {
    this.side = side;
    this.caption = caption;
    this.none = none;
    this.cursor = null;
    this.points = [];
    this.at = element("span", { class: "at" });
    this.svg = shape("svg", { class: "chart", role: "img" });
    this.legend = element("div", {});
    this.node = element("figure", { "data-side": side },
      element("figcaption", {}, caption, this.at), this.svg, this.legend);
    this.svg.addEventListener("pointermove", (event) => this.look(event));
    this.svg.addEventListener("pointerleave", () => { this.cursor = null; this.draw(); });
  }

  show(points) {
    this.points = points;
    this.draw();
  }

  look(event) {
    if (!this.scale || !this.points.length) return;
    const box = this.svg.getBoundingClientRect();
    const { from, seconds, left, right } = this.scale;
    const time = from + (event.clientX - box.left - left) / (right - left) * seconds;
    const near = (best, point) => Math.abs(point.time - time) < Math.abs(best.time - time) ? point : best;
    this.cursor = this.points.reduce(near).time;
    this.draw();
  }

  draw() {
    const last = this.points[this.points.length - 1];
    if (!last) return;
    const series = this.points.map((point) => ({ time: point.time, counts: point[this.side] }));
    this.scale = stacked(this.svg, series, STATES, last.time, this.cursor, this.none);
    const looked = this.cursor === null ? last : this.points.find((point) => point.time === this.cursor) ?? last;
    const counts = looked[this.side];
    const shown = JSON.stringify(counts);
    if (shown !== this.shown) {
      this.shown = shown;
      this.legend.replaceChildren(legend(counts));
    }
    write(this.at, looked === last ? "" : new Date(looked.time * 1000).toLocaleTimeString());
    const words = STATES.filter((state) => counts[state] > 0).map((state) => `${state} ${whole(counts[state])}`);
    this.svg.setAttribute("aria-label", `${this.caption}: ${words.join(", ") || this.none}`);
  }
}

// --- One backend.

class Row {
  constructor(address) {
    this.address = address;
    this.counts = element("p", { class: "counts" });
    this.ports = element("div", {});
    this.cells = element("div", { class: "cells", role: "group", "aria-label": `Connections to ${address}` });
    this.cellsNote = element("p", { class: "cells-note" });
    this.focused = 0;
    this.node = element("section", { class: "backend", "aria-label": `Backend ${address}` },
      element("div", {}, element("h3", {}, address), this.counts),
      this.ports,
      element("div", { class: "held" }, this.cells, this.cellsNote));
    this.cells.addEventListener("keydown", (event) => this.move(event));
    this.cells.addEventListener("focusin", (event) => this.point(event.target));
    this.cells.addEventListener("focusout", hideTip);
    this.cells.addEventListener("pointerover", (event) => this.point(event.target));
    this.cells.addEventListener("pointerleave", hideTip);
  }

  show(backend) {
    const { opening, leased, idle } = backend.connections;
    const parts = [["busy", leased], ["idle", idle], ["being opened", opening]];
    const nodes = parts.flatMap(([word, count], index) =>
      [index ? " · " : "", element("b", {}, whole(count)), ` ${word}`]);
    const more = [`${rate(backend.requests_per_second)} requests/s, ${rate(backend.connects_per_second)} connects/s`];
    nodes.push(element("br"), more.join(""));
    if (backend.waiting) nodes.push(element("br"), element("span", { class: "warn" }, `${counted(backend.waiting, "request")} in line`));
    if (backend.connect_failures_total) nodes.push(element("br"), `${counted(backend.connect_failures_total, "connect")} failed`);
    this.counts.replaceChildren(...nodes);
    const { snat } = backend;
    const nat = snat ? [{ ...snat, time_wait: snat.held, source: "of the NAT", after: "held by it after their end" }] : [];
    this.showPorts([...(backend.ports ?? []), ...nat]);
    this.showCells(backend.cells ?? []);
  }

  showPorts(ports) {
    if (!ports.length) {
      const words = this.address.startsWith("unix:") ? "A Unix socket takes no port." : "How many ports are left is not known.";
      this.ports.replaceChildren(element("p", { class: "counts" }, words));
      return;
    }
    while (this.ports.children.length > ports.length || this.ports.firstChild?.className === "counts") this.ports.lastChild.remove();
    while (this.ports.children.length < ports.length) this.ports.append(portNode());
    ports.forEach((lane, index) => showPort(this.ports.children[index], lane));
  }

  showCells(cells) {
    const shown = cells.slice(0, MOST_CELLS);
    const nodes = this.cells.children;
    while (nodes.length > shown.length) this.cells.lastChild.remove();
    while (nodes.length < shown.length) this.cells.append(element("button", { class: "cell", type: "button", tabindex: "-1" }));
    this.focused = Math.min(this.focused, Math.max(0, shown.length - 1));
    shown.forEach((cell, index) => {
      const node = nodes[index];
      node.dataset.state = cell.state;
      node.facts = cell;
      write(node, cell.state === "opening" ? "…" : compact(cell.requests));
      // From 60 % when it has just come free to 8 % after a minute.
      node.style.setProperty("--fresh", Math.round(8 + 52 * Math.exp(-cell.idle_seconds / 12)));
      node.tabIndex = index === this.focused ? 0 : -1;
      node.setAttribute("aria-label", cellWords(cell).join(", "));
    });
    write(this.cellsNote, cells.length > shown.length ? `and ${whole(cells.length - shown.length)} more` : cells.length ? "" : "no connection at this moment");
    if (tipOf && this.cells.contains(tipOf)) showTip(tipOf);
  }

  point(target) {
    if (!target.facts) return;
    if (target === document.activeElement) {
      this.cells.children[this.focused]?.setAttribute("tabindex", "-1");
      this.focused = [...this.cells.children].indexOf(target);
      target.tabIndex = 0;
    }
    showTip(target);
  }

  move(event) {
    const nodes = this.cells.children;
    const last = nodes.length - 1;
    const to = {
      ArrowRight: this.focused + 1, ArrowLeft: this.focused - 1, Home: 0, End: last,
      ArrowDown: below(nodes, this.focused, 1), ArrowUp: below(nodes, this.focused, -1),
    }[event.key];
    if (event.key === "Escape") hideTip();
    if (to === undefined) return;
    event.preventDefault();
    nodes[Math.min(Math.max(to, 0), last)]?.focus();
  }
}

// The cell in the next line that is nearest.
function below(nodes, from, way) {
  const box = nodes[from]?.getBoundingClientRect();
  if (!box) return from;
  let best = from, distance = Infinity;
  for (let index = from + way; index >= 0 && index < nodes.length; index += way) {
    const other = nodes[index].getBoundingClientRect();
    if (Math.abs(other.top - box.top) < 2) continue;
    const far = Math.abs(other.top - box.top) * 10 + Math.abs(other.left - box.left);
    if (far >= distance) break;
    best = index;
    distance = far;
  }
  return best;
}

function portNode() {
  return element("div", { class: "port" },
    element("div", { class: "top" }, element("span", {}), element("span", { class: "source" })),
    element("div", { class: "meter", role: "meter", "aria-valuemin": "0" },
      element("span", { class: "in-use" }), element("span", { class: "waits" })),
    element("p", { class: "words" }));
}

function showPort(node, lane) {
  const [top, meter, words] = node.children;
  const held = `${whole(lane.in_use)} in use, ${whole(lane.time_wait)} ${lane.after ?? "in TIME_WAIT"}`;
  const part = lane.ports ? lane.left / lane.ports : 0;
  const runsOut = known(lane.seconds_left);
  node.classList.toggle("low", part < LOW || (runsOut && lane.seconds_left < 60));
  top.firstChild.replaceChildren(element("b", {}, whole(lane.left)), ` of ${whole(lane.ports)} ports left`);
  const source = lane.source ?? "";
  write(top.lastChild, lane.after ? source : source && `from ${source}`);
  meter.setAttribute("aria-valuemax", lane.ports);
  meter.setAttribute("aria-valuenow", lane.left);
  meter.setAttribute("aria-label", "Local ports left");
  meter.setAttribute("title", `${held}, ${whole(lane.left)} left`);
  meter.firstChild.style.width = `${lane.in_use / lane.ports * 100}%`;
  meter.lastChild.style.width = `${lane.time_wait / lane.ports * 100}%`;
  write(words, lane.sentence ?? (runsOut ? `${held}; at this rate the rest lasts ${span(lane.seconds_left)}` : held));
}

// --- What a cell says of itself.

function cellWords(cell) {
  const at = {
    leased: "carries a request",
    idle: `idle for ${span(cell.idle_seconds)}`,
    opening: "being opened",
  }[cell.state] ?? cell.state;
  const words = [at];
  if (cell.state !== "opening") words.push(`${counted(cell.requests, "request")} so far`);
  words.push(`${span(cell.age_seconds)} old`, `worker ${cell.worker}`);
  return words;
}

let tipOf = null;

function showTip(node) {
  const tip = byId("tip");
  tipOf = node;
  const [first, ...rest] = cellWords(node.facts);
  tip.replaceChildren(element("b", {}, first), ...rest.map((word) => element("span", {}, word)));
  tip.hidden = false;
  const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 8);
  const above = box.top - own.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
}

function hideTip() {
  tipOf = null;
  byId("tip").hidden = true;
}

// --- The connection to the proxy.

let source = null, silence = 0, retry = 0, goneSince = null;
const SILENCE = 5000, RETRY = 1500;

function status(state) {
  document.body.dataset.state = state;
  const node = byId("status");
  node.dataset.state = state;
  write(node, { live: "live", gone: "gone", stopping: "stopping" }[state] ?? "connecting");
}

function gone() {
  goneSince ??= new Date();
  status("gone");
  const note = byId("gone");
  write(note, `The proxy does not answer since ${goneSince.toLocaleTimeString()}. These are its last figures; trying again.`);
  note.hidden = false;
  close();
  clearTimeout(retry);
  retry = setTimeout(open, RETRY);
}

function back() {
  goneSince = null;
  byId("gone").hidden = true;
  status("live");
}

function close() {
  clearTimeout(silence);
  source?.close();
  source = null;
}

async function open() {
  close();
  clearTimeout(retry);
  try {
    // The past first: a proxy that was started anew has another.
    const answer = await fetch("/history", { signal: AbortSignal.timeout(SILENCE) });
    takePast(await answer.json());
  } catch {
    return gone();
  }
  if (document.hidden) return;
  const opened = new EventSource("/events");
  source = opened;
  const listen = () => {
    clearTimeout(silence);
    silence = setTimeout(gone, SILENCE);
  };
  listen();
  opened.onmessage = (event) => {
    if (source !== opened) return;
    listen();
    if (document.body.dataset.state !== "live") back();
    take(JSON.parse(event.data));
  };
  opened.onerror = () => { if (source === opened) gone(); };
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(retry);
    close();
  } else if (!source) open();
});
addEventListener("resize", () => { hideTip(); if (latest) show(); });
addEventListener("hashchange", () => { if (latest) show(); });
addEventListener("scroll", hideTip, { passive: true });

// --- Dark and light.

const dark = matchMedia("(prefers-color-scheme: dark)");
const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };

function theme(chosen) {
  const root = document.documentElement;
  if (chosen) root.dataset.theme = chosen;
  const is = root.dataset.theme ?? (dark.matches ? "dark" : "light");
  const button = byId("theme");
  write(button, is === "dark" ? "Light" : "Dark");
  button.setAttribute("aria-label", `Show the page in ${is === "dark" ? "light" : "dark"} colours`);
  button.onclick = () => {
    const next = is === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", next); } catch { /* it lasts as long as the page */ }
    theme(next);
  };
}

dark.addEventListener("change", () => theme());
theme(stored());
open();
