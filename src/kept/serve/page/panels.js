// What the feed tells, as figures, bars and tables.

import { json } from "./api.js";
import { $, h, say, svg, table, without } from "./dom.js";
import { bytes, clock, count, named, percent, seconds } from "./format.js";
import { BlockMap, colourOf } from "./map.js";
import { Steps } from "./steps.js";

const SOURCES = { tree: "earlier texts", store: "files", running: "being computed", conversation: "turns before" };
const REASONS = {
  whole: "whole", diverged: "diverged", ended: "known, then new", unknown: "unknown", evicted: "evicted", "other-salt": "another’s", "too-short": "too short",
};
const WAITS = { prefix: "a prefix being computed", memory: "memory", slots: "a slot" };
const ENDED = 12;

export class Panels {
  constructor() {
    this.map = new BlockMap($("map"));
    this.steps = new Steps($("steps"));
    this.group = 0;
    $("group").onchange = () => { this.group = Number($("group").value); if (this.known) this.show(this.known); };
    $("texts-button").onclick = () => this.texts();
    addEventListener("resize", () => this.resized());
  }

  resized() {
    this.map.draw();
    this.steps.draw();
  }

  show(known) {
    this.known = known;
    const { engine, ended, maps, steps } = known;
    if (!engine) {
      $("figures").replaceChildren(...figure("Nothing has been asked yet", "–"));
      return;
    }
    this.figures(engine, ended, steps);
    memory(engine.memory);
    this.groups(maps);
    if (maps.length) this.map.show(maps[Math.min(this.group, maps.length - 1)]);
    this.steps.show(steps);
    queue(engine);
    hits(engine, ended);
    shares(engine.tenants, maps[0]?.owners ?? []);
  }

  figures(engine, ended, steps) {
    const last = steps.filter((step) => engine.at - step[1] < 5);
    const drawn = last.reduce((sum, step) => sum + step[6], 0);
    const cached = engine.counters ? sum(engine.counters.cached_tokens) : ended.reduce((n, e) => n + sum(e.cached_from), 0);
    const asked = ended.reduce((n, e) => n + e.prompt_tokens, 0), found = ended.reduce((n, e) => n + sum(e.cached_from), 0);
    $("figures").replaceChildren(
      ...figure("tokens/s", last.length ? count(drawn / 5) : "0"),
      ...figure("running", count(engine.num_running)),
      ...figure("waiting", count(engine.num_waiting)),
      ...figure("prompts cached", percent(found, asked), `the last ${ended.length} requests`),
      ...figure("tokens spared", count(cached)),
    );
  }

  groups(maps) {
    $("group-pick").hidden = maps.length < 2;
    if ($("group").options.length === maps.length) return;
    $("group").replaceChildren(...maps.map((map, i) => h("option", { value: i }, map.window ? `with a window of ${map.window}` : "that keep all tokens")));
  }

  async texts() {
    const home = $("texts");
    try {
      const { data, has_more } = await json("/kept/cache?limit=100");
      const drop = (id) => h("button", { type: "button", class: "quiet", "aria-label": `Drop text ${id.slice(0, 8)}`, onclick: async () => {
        try {
          await json(`/kept/cache/${id}`, { method: "DELETE" });
        } catch (error) {
          if (error.status !== 404) throw error; // gone already
        }
        this.texts();
      } }, "Drop");
      const rows = data.map((text) => [
        h("code", {}, text.id.slice(0, 8)), count(text.tokens), count(text.own_tokens), bytes(text.bytes),
        { computed: "computed", store: "files", both: "both" }[text.source], text.in_use ? "now" : clock(text.last_used), drop(text.id)]);
      home.replaceChildren(rows.length
        ? h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table of known texts" }, table("Known texts, the last used first", ["Text", "#Tokens", "#Own", "#Bytes", "Source", "Last use", "!Drop"], rows))
        : h("p", { class: "note" }, "No text is known."), has_more ? h("p", { class: "note" }, "These are the last 100.") : "");
      say($("texts-button"), "List again");
    } catch (error) {
      home.replaceChildren(h("p", { class: "error" }, error.message));
    }
  }
}

const sum = (counts) => Object.values(counts ?? {}).reduce((a, b) => a + b, 0);

// Whose each is stands there only where there is more than one.
const ofTenants = (heads, rows, requests) => (requests.every((r) => r.tenant === "") ? without(1, heads, rows) : [heads, rows]);

function figure(name, value, more) {
  return [h("div", {}, h("dt", {}, name), h("dd", { title: more }, value))];
}

// A bar of parts, each with its pattern, and the same in words beside it.
function bar(parts, whole) {
  const found = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true", class: "bar-of tall" });
  let at = 0;
  for (const [kind, n] of parts) {
    const width = whole ? (100 * n) / whole : 0;
    found.append(svg("rect", { x: at, y: 0, width, height: 10, class: kind }));
    at += width;
  }
  return found;
}

function memory({ limit, taken, held, findable }) {
  const whole = limit ?? taken;
  $("memory").replaceChildren(
    bar([["part-held", held], ["part-findable", findable], ["part-other", Math.max(0, taken - held - findable)]], whole),
    h("ul", { class: "legend" },
      h("li", {}, h("i", { class: "swatch part-held" }), `held ${bytes(held)}`),
      h("li", {}, h("i", { class: "swatch part-findable" }), `findable ${bytes(findable)}`),
      h("li", {}, h("i", { class: "swatch part-other" }), `reserved besides ${bytes(Math.max(0, taken - held - findable))}`),
      h("li", {}, limit === null ? "no budget" : `${percent(taken, limit)} of ${bytes(limit)} taken`)));
}

function queue({ running, waiting, num_running, num_waiting }) {
  const rows = [...running, ...waiting].slice(0, 20).map((r) => [
    count(r.number), named(r.tenant), r.state === "running" ? "runs" : `waits for ${WAITS[r.waits_for] ?? "its turn"}`,
    count(r.prompt_tokens), percent(sum(r.cached_from), r.prompt_tokens), count(r.generated_tokens), seconds(r.age)]);
  const hidden = num_running + num_waiting - rows.length;
  $("queue").replaceChildren(rows.length
    ? h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table of requests" }, table("Requests that run and wait", ...ofTenants(["#No.", "Tenant", "State", "#Prompt", "#Cached", "#Written", "#Age"], rows, [...running, ...waiting])))
    : h("p", { class: "note" }, "Nobody runs or waits."),
  hidden > 0 ? h("p", { class: "note" }, `and ${count(hidden)} more`) : "");
}

function hits({ counters }, ended) {
  const reasons = {};
  for (const e of ended) if (e.miss_reason) reasons[e.miss_reason] = (reasons[e.miss_reason] ?? 0) + 1;
  const misses = counters?.misses ?? reasons;
  const cached = {};
  for (const e of ended) for (const [source, n] of Object.entries(e.cached_from)) cached[source] = (cached[source] ?? 0) + n;
  const sources = counters?.cached_tokens ?? cached;
  const tallies = (title, counts, names) => h("div", {}, h("h4", {}, title), sum(counts)
    ? h("dl", { class: "tally" }, Object.entries(counts).sort((a, b) => b[1] - a[1]).flatMap(([name, n]) => [h("dt", {}, names[name] ?? name), h("dd", {}, bar([["part-held", n]], sum(counts)), h("span", {}, count(n)))]))
    : h("p", { class: "note" }, "None yet."));
  const rows = ended.slice(-ENDED).reverse().map((e) => [
    clock(e.ended), named(e.tenant), count(e.prompt_tokens), percent(sum(e.cached_from), e.prompt_tokens),
    e.miss_reason ? h("span", { title: e.miss }, REASONS[e.miss_reason] ?? e.miss_reason) : "all known",
    count(e.generated_tokens), e.accepted_tokens ? count(e.accepted_tokens) : "", seconds(e.time_to_first_token)]);
  $("hits").replaceChildren(
    h("div", { class: "pair" }, tallies("Tokens cached, by source", sources, SOURCES), tallies("Why no more was found", misses, REASONS)),
    rows.length ? h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Last requests" }, table("The last requests", ...ofTenants(["Ended", "Tenant", "#Prompt", "#Cached", "Then", "#Written", "#Drafted", "#First"], rows, ended))) : "");
}

function shares(tenants, owners) {
  const whole = tenants.reduce((total, t) => total + t.cost, 0);
  $("shares").replaceChildren(tenants.length
    ? h("dl", { class: "tally" }, tenants.flatMap((t) => [
      h("dt", {}, named(t.tenant)),
      h("dd", {}, bar([[`owner-${colourOf(Math.max(1, owners.indexOf(t.tenant, 1)))}`, t.cost]], whole),
        h("span", {}, `${percent(t.cost, whole)}${t.running ? `, ${count(t.running)} running` : ""}${t.waiting ? `, ${count(t.waiting)} waiting` : ""}`))]))
    : h("p", { class: "note" }, "Nobody has been served yet."));
}
