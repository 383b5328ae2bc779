// The chat: what is shown, what is asked, and what its tokens cost.

import { call, events, json } from "./api.js";
import { $, h, say, svg } from "./dom.js";
import { count, percent, seconds } from "./format.js";
import { Conversation, History } from "./history.js";
import { marked, render } from "./markdown.js";

const SOURCES = { tree: "earlier texts", store: "files", running: "a text being computed", conversation: "the turns before" };
const history = new History();
const views = new Map(); // of turns, by id
let now = history.all[0] ?? new Conversation();
let answering = null; // {turn, abort}
let model = "";
let follows = true; // the end of the text is kept in sight

export const setModel = (name) => { model = name; };

export function start() {
  const narrow = (view) => { document.body.dataset.view = view; };
  $("new-chat").onclick = () => { open(new Conversation()); narrow("chat"); $("prompt").focus(); };
  $("composer").onsubmit = (event) => { event.preventDefault(); answering ? stop() : send(); };
  $("prompt").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!answering) send(); }
  };
  $("prompt").oninput = () => grow($("prompt"));
  $("options-button").onclick = () => {
    $("options").hidden = !$("options").hidden;
    $("options-button").setAttribute("aria-expanded", String(!$("options").hidden));
  };
  $("options").onsubmit = (event) => event.preventDefault();
  $("options").oninput = () => {
    now.options = Object.fromEntries([...new FormData($("options"))].filter(([, value]) => value !== ""));
    save();
  };
  $("marks").onclick = () => {
    const on = $("marks").getAttribute("aria-pressed") !== "true";
    $("marks").setAttribute("aria-pressed", String(on));
    document.body.classList.toggle("unmarked", !on);
  };
  $("log").onscroll = () => { const log = $("log"); follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60; };
  open(now);
}

function open(conversation) {
  if (answering) stop();
  if (!history.all.includes(conversation) && conversation.last !== null) history.all.unshift(conversation);
  now = conversation;
  for (const input of $("options").elements) input.value = now.options[input.name] ?? "";
  follows = true;
  show();
}

function save() {
  if (!history.save()) say($("said"), "This browser has no room left for conversations; delete some.");
}

function show() {
  say($("chat-title"), now.title || "New conversation");
  views.clear();
  const turns = now.path();
  $("messages").replaceChildren(...(turns.length ? turns.map(view) : [h("li", { class: "empty" },
    h("p", {}, "Ask something. What the model has read before is not read again, and you see what was.") )]));
  list();
  end();
}

function list() {
  const shown = history.all.includes(now) ? history.all : [now, ...history.all];
  $("conversations").replaceChildren(...shown.map((each) => h("li", {},
    h("button", {
      type: "button", class: "open", "aria-current": each === now ? "true" : null,
      onclick: () => { open(each); document.body.dataset.view = "chat"; },
    }, each.title || "New conversation"),
    each.last === null ? null : h("button", {
      type: "button", class: "quiet remove", "aria-label": `Delete ${each.title}`,
      onclick: () => { history.remove(each); open(each === now ? history.all[0] ?? new Conversation() : now); },
    }, "×"))));
}

function view(turn) {
  const body = h("div", { class: "text" });
  const told = h("div", { class: "told" });
  const acts = h("div", { class: "acts" });
  const item = h("li", { class: turn.role }, h("h3", { class: "who" }, turn.role === "user" ? "You" : model || "Model"), body, told, acts);
  views.set(turn.id, { item, body, told, acts });
  fill(turn);
  finish(turn);
  return item;
}

function fill(turn) {
  const { body, item } = views.get(turn.id) ?? {};
  if (!body) return;
  item.classList.toggle("busy", answering?.turn === turn);
  const thought = turn.reasoning ? [h("details", { class: "thought" }, h("summary", {}, "Reasoning"), h("p", {}, turn.reasoning))] : [];
  // What a person wrote is shown as it stands; an answer as the markdown it is.
  const text = turn.role === "user" ? [h("p", { class: "as-is" }, marked(turn.content, 0, turn.marks))] : render(turn.content, turn.marks);
  body.replaceChildren(...thought, ...text);
}

// What can be done with a turn, and what it took.
function finish(turn) {
  const { acts, told } = views.get(turn.id) ?? {};
  if (!acts) return;
  const busy = answering?.turn === turn;
  const beside = now.beside(turn), at = beside.indexOf(turn);
  const go = (by) => () => { if (!answering) { now.turnTo(beside[at + by]); save(); show(); } };
  const act = (name, does, more = {}) => h("button", { type: "button", class: "quiet", onclick: does, ...more }, name);
  acts.replaceChildren(...(busy ? [] : [
    ...(beside.length > 1 ? [h("span", { class: "branch" },
      act("‹", go(-1), { disabled: at === 0, "aria-label": "The branch before" }), `${at + 1} of ${beside.length}`,
      act("›", go(1), { disabled: at === beside.length - 1, "aria-label": "The branch after" }))] : []),
    act("Edit", () => edit(turn)),
    turn.role === "assistant" ? act("Again", () => again(turn)) : null,
    act("Copy", () => navigator.clipboard?.writeText(turn.content).then(() => say($("said"), "Copied"))),
  ].filter(Boolean)));
  told.replaceChildren(...(turn.told ? account(turn.told) : []));
}

// A bar of the prompt's tokens by where they came from, and the rest in words.
function account(told) {
  if (told.error) return [h("p", { class: "error" }, told.error)];
  const { usage } = told;
  if (!usage) return [h("p", { class: "note" }, told.progress ?? "Waiting")];
  const kept = usage.kept ?? {}, whole = usage.prompt_tokens;
  const parts = Object.entries(kept.cached_from ?? {}).filter(([, n]) => n);
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0, drafted = usage.completion_tokens_details?.accepted_prediction_tokens ?? 0;
  const bar = svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true", class: "bar-of" });
  let at = 0;
  for (const [source, n] of parts) {
    bar.append(svg("rect", { x: at, y: 0, width: (100 * n) / whole, height: 4, class: `from-${source}` }));
    at += (100 * n) / whole;
  }
  const said = [
    `${count(cached)} of ${count(whole)} prompt tokens cached (${percent(cached, whole)})`,
    parts.length ? `from ${parts.map(([source, n]) => `${SOURCES[source] ?? source} ${count(n)}`).join(", ")}` : null,
    kept.miss_reason,
    `${count(usage.completion_tokens)} written${drafted ? `, ${count(drafted)} drafted` : ""}`,
    told.rate ? `${count(told.rate)} a second` : null,
    told.first !== undefined ? `first after ${seconds(told.first)}` : null,
    told.ended && told.ended !== "stop" ? { length: "cut at its most tokens", stopped: "stopped", error: "failed" }[told.ended] ?? told.ended : null,
  ].filter(Boolean);
  return [bar, h("p", { class: "note" }, said.join(" · "))];
}

function edit(turn) {
  if (answering) return;
  const { body, acts } = views.get(turn.id);
  const text = h("textarea", { value: turn.content, rows: 3, "aria-label": "Edit this turn" });
  const keep = () => {
    const changed = now.add(turn.role, text.value, turn.parent);
    save();
    show();
    if (turn.role === "user") answer(changed);
  };
  body.replaceChildren(text);
  acts.replaceChildren(
    h("button", { type: "button", onclick: keep }, turn.role === "user" ? "Ask this" : "Keep as a branch"),
    h("button", { type: "button", class: "quiet", onclick: () => { fill(turn); finish(turn); } }, "Cancel"));
  grow(text);
  text.focus();
}

function again(turn) {
  if (!answering) answer(now.turns[turn.parent]);
}

function send() {
  const text = $("prompt").value;
  if (!text.trim()) return;
  $("prompt").value = "";
  grow($("prompt"));
  const turn = now.add("user", text);
  if (!history.all.includes(now)) history.all.unshift(now);
  follows = true;
  answer(turn);
}

function stop() {
  answering?.abort.abort();
}

function messagesTo(turn) {
  const system = now.options.system?.trim() ? [{ role: "system", content: now.options.system }] : [];
  return [...system, ...now.path(turn.id).map(({ role, content }) => ({ role, content }))];
}

async function answer(asked) {
  const conversation = now, messages = messagesTo(asked);
  const turn = now.add("assistant", "", asked.id);
  const abort = new AbortController(), began = performance.now();
  const { system, ...options } = Object.fromEntries(Object.entries(now.options).map(([k, v]) => [k, k === "system" ? v : Number(v)]));
  answering = { turn, abort };
  turn.told = { progress: "Waiting" };
  busy(true);
  show();
  let first = null, drawn = null;
  try {
    const stream = await call("/v1/chat/completions", {
      method: "POST", signal: abort.signal,
      body: { model, messages, stream: true, stream_options: { include_usage: true }, return_progress: true, ...options },
    });
    for await (const { data } of events(stream)) {
      if (data === "[DONE]") break;
      if (data.error) throw new Error(data.error.message);
      if (data.prompt_progress) {
        const { processed, total, cache } = data.prompt_progress;
        turn.told.progress = `Reading ${count(processed)} of ${count(total)} tokens${cache ? `, ${count(cache)} cached` : ""}`;
        finish(turn);
      }
      if (data.usage) turn.told.usage = data.usage;
      for (const choice of data.choices ?? []) {
        if (choice.delta?.reasoning_content) turn.reasoning = (turn.reasoning ?? "") + choice.delta.reasoning_content;
        const text = choice.delta?.content ?? "";
        for (const [begin, end] of choice.kept?.drafted ?? []) mark(turn, turn.content.length + begin, turn.content.length + end);
        turn.content += text;
        if (choice.finish_reason) turn.told.ended = choice.finish_reason;
        if (text || choice.delta?.reasoning_content) {
          first ??= performance.now();
          turn.told.progress = "Writing";
        }
      }
      drawn ??= requestAnimationFrame(() => { drawn = null; fill(turn); end(); });
    }
  } catch (error) {
    if (abort.signal.aborted) turn.told.ended = "stopped";
    else turn.told.error = error.message;
    if (abort.signal.aborted && !turn.told.usage) turn.told.progress = "Stopped";
  }
  if (drawn !== null) cancelAnimationFrame(drawn);
  answering = null;
  if (first !== null) {
    turn.told.first = (first - began) / 1e3;
    const written = turn.told.usage?.completion_tokens ?? 0, took = (performance.now() - first) / 1e3;
    if (written > 1 && took > 0) turn.told.rate = (written - 1) / took;
  }
  conversation.changed = Date.now();
  save();
  busy(false);
  if (turn.told.usage) await markCached(conversation, asked, messages, turn.told.usage);
  if (now === conversation) {
    fill(turn);
    finish(turn);
    list();
    end();
    say($("said"), turn.told.error ?? `${model} has answered`);
  }
}

function mark(turn, begin, end) {
  const before = turn.marks.at(-1);
  if (before && before[1] === begin) before[1] = end;
  else turn.marks.push([begin, end, "drafted"]);
}

// Marks in every turn that was asked with what of it was cached: where the template put it, as far as
// the cached tokens of the prompt reach.
async function markCached(conversation, asked, messages, usage) {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const ask = (path, body) => json(path, { method: "POST", body: { model, ...body } });
  let whole, reach;
  try {
    const { tokens } = await ask("/tokenize", { messages });
    whole = (await ask("/detokenize", { tokens })).prompt;
    // Half a character at the end is a replacement of its own.
    reach = (await ask("/detokenize", { tokens: tokens.slice(0, cached) })).prompt.replace(/\ufffd+$/, "").length;
  } catch {
    return; // counts are all there is then
  }
  let at = 0;
  const turns = conversation.path(asked.id);
  for (const message of messages) {
    const begin = message.content ? whole.indexOf(message.content, at) : -1;
    if (begin >= 0) at = begin + message.content.length;
    const turn = message.role === "system" ? null : turns.shift();
    if (!turn || begin < 0) continue;
    const end = Math.min(Math.max(reach - begin, 0), message.content.length);
    if (turn.role === "user") turn.marks = end ? [[0, end, "cached"]] : [];
    if (views.has(turn.id)) fill(turn);
  }
  save();
}

function busy(is) {
  say($("send"), is ? "Stop" : "Send");
  $("send").classList.toggle("stop", is);
  $("log").setAttribute("aria-busy", String(is));
}

function end() {
  if (follows) $("log").scrollTop = $("log").scrollHeight;
}

function grow(area) {
  area.rows = Math.min(12, Math.max(2, area.value.split("\n").length));
}
