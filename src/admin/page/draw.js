"use strict";

// Numbers in words, elements, pictures: nothing here knows where the figures come from.

const NONE = "–";
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const known = (value) => typeof value === "number" && Number.isFinite(value);

const whole = (value) => known(value) ? grouped.format(value) : NONE;

function rate(value) {
  if (!known(value)) return NONE;
  if (value === 0 || value >= 9.95) return grouped.format(value);
  return value < 0.05 ? "< 0.1" : value.toFixed(1);
}

function percent(ratio) {
  if (!known(ratio)) return NONE;
  const value = ratio * 100;
  // 99.96 is not yet all of them.
  if (value > 99 && value < 100) return Math.min(value, 99.9).toFixed(1);
  return value === 0 || value === 100 ? value.toFixed(0) : value.toFixed(1);
}

function span(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1) return `${Math.floor(seconds * 1000)} ms`;
  if (seconds < 10) return `${(Math.floor(seconds * 10) / 10).toString()} s`;
  if (seconds < 600) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${grouped.format(Math.floor(seconds / 86400))} days`;
}

// [number, unit]
function latency(seconds) {
  if (!known(seconds)) return [NONE, ""];
  const ms = seconds * 1000;
  if (ms < 0.995) return [grouped.format(seconds * 1e6), "µs"];
  if (ms < 9.95) return [ms.toFixed(1), "ms"];
  if (ms < 999.5) return [ms.toFixed(0), "ms"];
  return [seconds.toFixed(seconds < 9.95 ? 1 : 0), "s"];
}

const counted = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

// 1234 as "1.2k": what fits into a cell.
function compact(value) {
  if (value < 1000) return String(value);
  for (const [unit, size] of [["M", 1e6], ["k", 1e3]]) {
    if (value >= size) {
      const part = value / size;
      return `${part < 9.95 ? part.toFixed(1) : Math.floor(part)}${unit}`;
    }
  }
  return String(value);
}

function element(tag, props, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function shape(tag, props, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Only where it differs: the rest of the page keeps its selection and its place.
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function writeUnit(node, number, unit) {
  if (node.dataset.shown === number + unit) return;
  node.dataset.shown = number + unit;
  node.replaceChildren(number, element("small", {}, unit));
}

// The least of 1, 2, 4, 6, 8 times a power of ten that is not below `value`: its half is round too.
function ceiling(value) {
  if (value <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 4, 6, 8, 10]) {
    if (step * power >= value) return step * power;
  }
  return 10 * power;
}

// A line without axes.
function spark(svg, values) {
  const width = 100, height = 30;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const points = values.filter(known);
  if (points.length < 2) return svg.replaceChildren();
  const most = Math.max(...points, 1);
  const at = (value, index) =>
    `${(index / (points.length - 1) * width).toFixed(2)},${(height - 2 - value / most * (height - 5)).toFixed(2)}`;
  const path = svg.firstChild ?? shape("path", {});
  path.setAttribute("d", `M${points.map(at).join("L")}`);
  if (!path.parentNode) svg.append(path);
}

const LEFT = 46, RIGHT = 4, TOP = 8, BOTTOM = 20;
const LEAST_SECONDS = 60, MOST_SECONDS = 300;

// Counts by state over time, one upon the other, the first at the bottom.
// `points`: [{ time, counts: { STATE: count } }]; `cursor`: a time that is looked at, or null.
function stacked(svg, points, states, now, cursor, none) {
  const width = Math.max(svg.clientWidth, 200), height = Math.max(svg.clientHeight, 100);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const right = width - RIGHT, bottom = height - BOTTOM;
  const first = points.length ? points[0].time : now;
  const seconds = Math.min(Math.max(now - first, LEAST_SECONDS), MOST_SECONDS);
  const from = now - seconds;
  const shown = points.filter((point) => point.time >= from - 2);
  const sum = (counts) => states.reduce((sum, state) => sum + (counts[state] ?? 0), 0);
  const peak = shown.reduce((peak, point) => Math.max(peak, sum(point.counts)), 0);
  const most = ceiling(peak);
  const x = (time) => LEFT + Math.max(0, (time - from) / seconds) * (right - LEFT);
  const y = (count) => bottom - count / most * (bottom - TOP);

  const drawn = [];
  for (const part of [0.5, 1]) {
    const level = y(most * part);
    drawn.push(shape("line", { class: "grid", x1: LEFT, x2: right, y1: level, y2: level }));
  }
  const base = shown.map(() => 0);
  for (const state of states) {
    if (!shown.some((point) => point.counts[state] > 0)) continue;
    const lower = shown.map((point, i) => `${x(point.time).toFixed(1)},${y(base[i]).toFixed(1)}`);
    shown.forEach((point, i) => { base[i] += point.counts[state] ?? 0; });
    const upper = shown.map((point, i) => `${x(point.time).toFixed(1)},${y(base[i]).toFixed(1)}`);
    const path = `M${upper.join("L")}L${lower.reverse().join("L")}Z`;
    drawn.push(shape("path", { class: `area s-${state}`, d: path }));
  }
  drawn.push(shape("line", { class: "base", x1: LEFT, x2: right, y1: bottom, y2: bottom }));
  for (const part of [0, 0.5, 1]) {
    const props = { x: LEFT - 7, y: y(most * part) + 4, "text-anchor": "end" };
    drawn.push(shape("text", props, grouped.format(most * part)));
  }
  const ago = seconds < 120 ? `${Math.round(seconds)} s ago` : `${(seconds / 60).toFixed(seconds % 60 < 3 ? 0 : 1)} min ago`;
  drawn.push(shape("text", { x: LEFT, y: height - 4 }, ago));
  drawn.push(shape("text", { x: right, y: height - 4, "text-anchor": "end" }, "now"));
  if (peak === 0) {
    const props = { class: "none", x: (LEFT + right) / 2, y: (TOP + bottom) / 2 + 4, "text-anchor": "middle" };
    drawn.push(shape("text", props, none));
  }
  if (cursor !== null && cursor >= from) {
    drawn.push(shape("line", { class: "cursor", x1: x(cursor), x2: x(cursor), y1: TOP, y2: bottom }));
  }
  svg.replaceChildren(...drawn);
  return { from, seconds, left: LEFT, right };
}
