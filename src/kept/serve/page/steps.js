// The timeline of steps: what each computed, and how long it took.

import { h, say, table } from "./dom.js";
import { count, seconds } from "./format.js";

const ROWS = 30;

export class Steps {
  constructor(home) {
    this.home = home;
    this.plot = h("div", { class: "plot", role: "img" });
    this.summary = h("p", { class: "note" });
    this.rows = h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Steps as a table" });
    this.twin = h("details", { ontoggle: () => this.list() }, h("summary", {}, "The last steps as a table"), this.rows);
    home.replaceChildren(this.summary, this.plot, h("ul", { class: "legend", "aria-label": "Lines of the timeline" },
      h("li", {}, h("i", { class: "line rows-read" }), "prompt rows read"),
      h("li", {}, h("i", { class: "line rows-decoded" }), "rows decoded"),
      h("li", {}, h("i", { class: "line rows-drafted" }), "rows drafted"),
      h("li", {}, h("i", { class: "line took" }), "time of a step, ms, on the right")), this.twin);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.remake());
  }

  show(steps) {
    this.steps = steps;
    if (!steps.length) return say(this.summary, "No step has been taken yet.");
    const span = steps.at(-1)[1] - steps[0][1] + steps[0][2];
    const sum = (i) => steps.reduce((total, step) => total + step[i], 0);
    const took = steps.map((step) => step[2]).sort((a, b) => a - b);
    const mid = took[took.length >> 1], late = took[Math.floor(took.length * 0.99)];
    const rows = sum(3) + sum(4);
    const text = `${count(steps.length)} steps in ${seconds(span)}: half took at most ${seconds(mid)}, 99 of 100 at most ${seconds(late)}` +
      (rows ? `; ${count(sum(3))} rows read, ${count(sum(4))} decoded, ${count(sum(5))} drafted, ${count(sum(6))} tokens drawn` : "");
    say(this.summary, text);
    this.plot.setAttribute("aria-label", `Timeline: ${text}`);
    this.draw();
    this.list();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width || !this.steps?.length) return;
    // By number, and not by the clock: what nobody asked for took no time.
    const at = (i) => this.steps.map((step) => step[i]);
    const data = [at(0), at(3), at(4), at(5), this.steps.map((step) => step[2] * 1e3)];
    if (!this.chart) this.make(width, data);
    else {
      if (this.chart.width !== width) this.chart.setSize({ width, height: 160 });
      this.chart.setData(data);
    }
  }

  make(width, data) {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const line = (scale, name, more) => ({ scale, stroke: colour(name), width: 1.5, points: { show: false }, ...more });
    this.chart = new uPlot({
      width, height: 160, legend: { show: false }, cursor: { show: false }, padding: [8, 0, 0, 0],
      scales: { x: { time: false }, rows: { range: (_, low, high) => [0, Math.max(4, high * 1.1)] }, ms: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
      axes: [{ ...axis, grid: { show: false }, size: 24, values: (_, ticks) => ticks.map((t) => (Number.isInteger(t) ? count(t) : "")) },
        { ...axis, scale: "rows", size: 34 }, { ...axis, scale: "ms", side: 1, size: 38, grid: { show: false } }],
      series: [{},
        line("rows", "--owner-1", { fill: `${colour("--owner-1")}33`, paths: uPlot.paths.stepped({ align: -1 }) }),
        line("rows", "--owner-0", {}), line("rows", "--owner-3", { dash: [2, 3] }), line("ms", "--edge", { width: 1 })],
    }, data, this.plot);
  }

  remake() {
    this.chart?.destroy();
    this.chart = null;
    this.draw();
  }

  list() {
    if (!this.twin.open || !this.steps) return;
    this.rows.replaceChildren(table("The last steps, the latest first", ["Step", "#Time", "#Read", "#Decoded", "#Drafted", "#Drawn"],
      this.steps.slice(-ROWS).reverse().map((s) => [count(s[0]), seconds(s[2]), count(s[3]), count(s[4]), count(s[5]), count(s[6])])));
  }
}
