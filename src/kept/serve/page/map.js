// The map of blocks. Shape says a block's state, colour whose it is; the table below says the same.

import { h, say, svg, table } from "./dom.js";
import { bytes, count, named } from "./format.js";

const STATES = ["free", "findable", "held", "being read"];
const COLOURS = 6, ROWS = 200, HEIGHT = 320;

export const colourOf = (owner) => (owner ? (owner - 1) % COLOURS : 0);

export function read(cell) {
  return { state: cell & 3, stored: Boolean(cell & 4), users: (cell >> 3) & 63, owner: cell >> 9 };
}

export class BlockMap {
  constructor(home) {
    this.canvas = h("canvas", { tabIndex: 0, role: "img", "aria-describedby": "map-at" });
    this.at = h("p", { id: "map-at", class: "note at", role: "status" });
    this.summary = h("p", { class: "note" });
    this.legend = h("ul", { class: "legend", "aria-label": "Shapes of the map" },
      [[2, false, "held by who runs"], [1, false, "findable: its text has ended"], [0, false, "free"], [3, false, "being read from files"], [2, true, "folded corner: read from files"], [2, false, "dot: of several texts", true]]
        .map(([state, stored, said, shared]) => h("li", {}, sample(state, stored, shared), said)));
    this.rows = h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Blocks as a table" });
    this.twin = h("details", { ontoggle: () => this.list() }, h("summary", {}, "The map as a table"), this.rows);
    this.empty = h("p", { class: "note" }, "No block has been taken yet.");
    home.replaceChildren(this.summary, this.canvas, this.at, this.legend, this.twin);
    this.focus = -1;
    this.canvas.onpointermove = (event) => this.look(this.under(event));
    this.canvas.onpointerleave = () => this.look(-1);
    this.canvas.onblur = () => this.look(-1);
    this.canvas.onkeydown = (event) => this.key(event);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  show(map) {
    this.map = map;
    this.counts = [0, 0, 0, 0];
    let stored = 0, shared = 0;
    for (const cell of map.cells) {
      const { state, users, stored: is } = read(cell);
      this.counts[state] += 1;
      if (state && is) stored += 1;
      if (state && users > 1) shared += 1;
    }
    const never = map.num_blocks - map.cells.length;
    const text = `${count(this.counts[2])} held, ${count(this.counts[1])} findable, ${count(this.counts[0] + never)} free of ${count(map.num_blocks)}` +
      `${this.counts[3] ? `, ${count(this.counts[3])} being read` : ""}; ${count(shared)} of several texts, ${count(stored)} from files; ${bytes(map.block_bytes)} each`;
    say(this.summary, text);
    this.canvas.setAttribute("aria-label", `Map of blocks: ${text}. Arrow keys go from block to block.`);
    this.draw();
    this.list();
  }

  draw() {
    const { map, canvas } = this;
    if (!map) return;
    const width = canvas.parentElement.clientWidth;
    if (!width) return;
    const n = Math.max(map.cells.length, 1);
    // As large as they fit; when they do not, the first of them are drawn and the table has the rest.
    const size = [13, 10, 8, 6].find((s) => Math.ceil(n / Math.floor(width / s)) * s <= HEIGHT) ?? 6;
    this.size = size;
    this.columns = Math.floor(width / size);
    this.drawn = Math.min(n, this.columns * Math.floor(HEIGHT / size));
    const height = Math.ceil(this.drawn / this.columns) * size, ratio = devicePixelRatio;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const paint = canvas.getContext("2d"), style = getComputedStyle(document.documentElement);
    paint.scale(ratio, ratio);
    const colour = (name) => style.getPropertyValue(name).trim();
    const owners = Array.from({ length: COLOURS }, (_, i) => colour(`--owner-${i}`));
    const line = colour("--edge"), paper = colour("--panel"), ink = colour("--ink");
    for (let i = 0; i < this.drawn; i += 1) {
      const x = (i % this.columns) * size, y = Math.floor(i / this.columns) * size;
      shape(paint, x, y, size - 2, read(map.cells[i] ?? 0), { owners, line, paper });
      if (i === this.focus) {
        paint.strokeStyle = ink;
        paint.lineWidth = 2;
        paint.strokeRect(x - 0.5, y - 0.5, size - 1, size - 1);
      }
    }
  }

  under(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - left) / this.size), row = Math.floor((event.clientY - top) / this.size);
    const i = row * this.columns + column;
    return column < this.columns && i < (this.map?.cells.length ?? 0) ? i : -1;
  }

  look(i) {
    if (i === this.focus) return;
    this.focus = i;
    say(this.at, i < 0 ? "" : this.described(i));
    this.draw();
  }

  described(i) {
    const { state, stored, users, owner } = read(this.map.cells[i]);
    if (!state) return `Block ${i}: free`;
    const whose = owner ? `, of ${named(this.map.owners[owner])}` : "";
    return `Block ${i}: ${STATES[state]}${whose}${stored ? ", read from files" : ", computed"}${users > 1 ? `, of ${users} texts` : ""}`;
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, Home: -Infinity, End: Infinity };
    const by = steps[event.key], last = Math.min(this.drawn, this.map?.cells.length ?? 0) - 1;
    if (by === undefined || last < 0) return;
    event.preventDefault();
    this.look(Math.max(0, Math.min(last, (this.focus < 0 && Number.isFinite(by) ? 0 : this.focus + by))));
  }

  list() {
    if (!this.twin.open || !this.map) return;
    const { cells, owners } = this.map, rows = [];
    let begin = 0;
    for (let i = 1; i <= cells.length; i += 1) {
      if (i < cells.length && cells[i] === cells[begin]) continue;
      const { state, stored, users, owner } = read(cells[begin]);
      rows.push([i - begin > 1 ? `${begin} to ${i - 1}` : begin, STATES[state], state && owner ? named(owners[owner]) : "", state ? (stored ? "files" : "computed") : "", state ? count(users) : ""]);
      begin = i;
    }
    const more = rows.length > ROWS ? h("p", { class: "note" }, `and ${count(rows.length - ROWS)} rows more`) : "";
    this.rows.replaceChildren(table("Blocks", ["Blocks", "State", "Owner", "Source", "#Texts"], rows.slice(0, ROWS)), more);
  }
}

function shape(paint, x, y, size, { state, stored, users, owner }, { owners, line, paper }) {
  const colour = owners[colourOf(owner)];
  paint.lineWidth = 1;
  paint.strokeStyle = state ? colour : line;
  paint.fillStyle = colour;
  if (state === 2) paint.fillRect(x, y, size, size);
  else paint.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
  if (state === 1) corner(paint, x, y + size, size, -1);
  if (state === 3) paint.fillRect(x + size / 2 - 1, y + 1, 2, size - 2);
  if (state && stored) {
    paint.fillStyle = paper;
    corner(paint, x + size, y, size * 0.5, 1);
  }
  if (state && users > 1 && size > 5) {
    paint.fillStyle = state === 2 ? paper : colour;
    paint.beginPath();
    paint.arc(x + size / 2, y + size / 2, Math.max(1, size * 0.17), 0, 7);
    paint.fill();
  }
}

// A right triangle in a corner: the lower left (-1) or the upper right (1).
function corner(paint, x, y, size, way) {
  paint.beginPath();
  paint.moveTo(x, y);
  paint.lineTo(x - way * size, y);
  paint.lineTo(x, y + way * size);
  paint.fill();
}

function sample(state, stored, shared) {
  const found = svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true", class: "sample" });
  if (state === 2) found.append(svg("rect", { x: 1, y: 1, width: 10, height: 10 }));
  else found.append(svg("rect", { x: 1.5, y: 1.5, width: 9, height: 9, class: state ? "hollow" : "hollow free" }));
  if (state === 1) found.append(svg("path", { d: "M1 11V1l10 10z" }));
  if (state === 3) found.append(svg("rect", { x: 5, y: 2, width: 2, height: 8 }));
  if (stored) found.append(svg("path", { d: "M11 1v5L6 1z", class: "paper" }));
  if (shared) found.append(svg("circle", { cx: 6, cy: 6, r: 1.8, class: "paper" }));
  return found;
}
