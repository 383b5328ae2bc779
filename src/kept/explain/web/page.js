// The state of the page, and what moves it.

const record = JSON.parse(document.getElementById("record").textContent);
const at = (id) => document.getElementById(id);
const numTokens = record.views[0].rows.length, numSteps = record.steps.length;
const state = {
  step: Math.min(1, numSteps - 1),
  view: record.shown,
  computing: "with",
  keeping: "all",
  window: record.settings.window,
  sinks: record.settings.sinks,
  budget: record.settings.budget,
  cell: null,
};
let policies = [];

function makePolicies() {
  const rows = record.views[state.view].rows, { window, sinks, budget } = state;
  const few = sinks === 1 ? "1 sink" : `${sinks} sinks`;
  policies = [
    { key: "window", name: `window ${window}`, steps: keepWindow(rows, record.steps, window, 0) },
    { key: "sinks", name: `window ${window}, ${few}`, steps: keepWindow(rows, record.steps, window, sinks) },
    { key: "heavy", name: `heavy hitters ${budget}`, steps: keepHeavyHitters(rows, record.steps, budget) },
  ];
}

const stepOf = (query) => record.steps.findIndex((s) => query < s.end);
const codecNow = () => record.codecs.find((codec) => codec.name === state.keeping);

// Whether the model itself lets a query see a key: some layers have a window of their own.
state.sees = (query, key) => {
  const { window } = record.model.kv_shapes[record.views[state.view].layer];
  return window === null || inWindow(key, query + 1, window, 0);
};

// Whether a query can still attend a key by the chosen rule; within the prompt by its own place.
state.keeps = (query, key) => {
  if (state.keeping === "window") return inWindow(key, query + 1, state.window, 0);
  if (state.keeping === "sinks") return inWindow(key, query + 1, state.window, state.sinks);
  if (state.keeping === "heavy") return policies[2].steps[stepOf(query)].kept.includes(key);
  return true;
};

// Rows over coded keys are there for the last token of each step.
state.weight = (query, key, rows) => {
  const codec = codecNow(), step = stepOf(query);
  if (codec && record.steps[step].end - 1 === query) return codec.views[state.view].rows[step][key];
  return rows[query][key];
};

function tokenClass(i, step) {
  if (i > step.end) return "later";
  if (i === step.end) return "drawn";
  if (!state.sees(step.end - 1, i)) return "later";
  if (!state.keeps(step.end - 1, i)) return "gone";
  return state.computing === "with" && i < step.start ? "cached" : "new";
}

function drawTokens(step) {
  at("tokens").innerHTML = record.tokens.map((token, i) => {
    const picked = state.cell && state.cell[1] === i ? " picked" : "";
    return `<li class="${tokenClass(i, step)}${picked}" data-token="${i}" title="token ${i}, id ${token.id}">${safe(token.text)}<small>${i}</small></li>`;
  }).join("");
}

function describeCell(step) {
  if (!state.cell) {
    const layer = record.views[state.view].layer, last = step.end - 1;
    const { rows } = step[state.computing === "with" ? "layers_with" : "layers_without"][layer];
    let read = 0;
    if (state.computing === "with")
      for (let key = 0; key < step.start; key++) if (state.sees(last, key) && state.keeps(last, key)) read++;
    return `This step computes ${rows === 1 ? "1 query, key and value" : `${whole(rows)} queries, keys and values`} in each layer,` +
      ` and reads ${read === 1 ? "1 key and value" : `${whole(read)} keys and values`} of layer ${layer} from the cache.`;
  }
  const [query, key] = state.cell, rows = record.views[state.view].rows;
  const name = (i) => `${i} \u201c${record.tokens[i].text}\u201d`;
  const kind = cellKind(state, query, key, step);
  const where = { past: "computed in an earlier step, not again", cached: "the query is new, the key comes from the cache", new: "query and key are computed in this step" }[kind];
  let text = `Query ${name(query)}, key ${name(key)}: weight ${rows[query][key].toFixed(4)}; ${where}.`;
  if (!state.sees(query, key)) text += " The layer\u2019s own window does not reach it.";
  else if (!state.keeps(query, key)) text += ` Forgotten by then: ${percent(rows[query][key])} of the row is lost here.`;
  const codec = codecNow();
  if (codec) {
    const coded = state.weight(query, key, rows), change = coded - rows[query][key];
    const known = record.steps[stepOf(query)].end - 1 === query;
    text += known ? ` Over ${codec.name} keys ${coded.toFixed(4)} (${change < 0 ? "\u2212" : "+"}${Math.abs(change).toFixed(4)}).` : "";
    const layer = record.views[state.view].layer;
    text += ` As ${codec.name} this key is off by ${percent(codec.key_errors[layer][key])}, its value by ${percent(codec.value_errors[layer][key])}.`;
  }
  return text;
}

function drawSteps(step) {
  at("slider").value = state.step;
  at("slider").setAttribute("aria-valuetext", `step ${state.step}`);
  at("first").disabled = at("back").disabled = state.step === 0;
  at("last").disabled = at("next").disabled = state.step === numSteps - 1;
  const reads = step.start === 0 ? `the prompt of ${step.end} tokens` : `\u201c${record.tokens[step.start].text}\u201d`;
  at("now").textContent = `Step ${state.step} of ${numSteps - 1}: reads ${reads}, draws \u201c${record.tokens[step.end].text}\u201d`;
}

function drawPanels(step) {
  const width = at("main").clientWidth, layer = record.views[state.view].layer;
  at("counts-step").innerHTML = countsHtml(record, [step], layer);
  at("counts-total").innerHTML = countsHtml(record, record.steps.slice(0, state.step + 1), layer);
  at("work").innerHTML = workHtml(record, state, width);
  for (const name of ["window", "sinks", "budget"]) {
    at(name).value = state[name];
    at(`${name}-is`).textContent = state[name];
  }
  at("policies").innerHTML = policiesHtml(record, state, policies);
  at("codecs").innerHTML = codecsHtml(record, state);
  const codec = codecNow() || record.codecs[record.codecs.length - 1];
  at("h-row").textContent = `The new token\u2019s attention over ${codec.name} keys`;
  at("row").innerHTML = rowHtml(record, state, codec, width);
}

function drawGrid(step) {
  at("grid").innerHTML = gridHtml(record, state, at("grid").clientWidth);
  at("detail").textContent = describeCell(step);
  drawTokens(step);
}

function draw() {
  const step = record.steps[state.step];
  if (state.cell && state.cell[0] >= step.end) state.cell = null;
  makePolicies();
  at("view").value = state.view;
  at("keeping").value = state.keeping;
  drawSteps(step);
  drawGrid(step);
  drawPanels(step);
}

function go(step) {
  state.step = Math.max(0, Math.min(numSteps - 1, step));
  draw();
}

function pick(cell) {
  if (!cell && !state.cell) return;
  if (cell && state.cell && cell[0] === state.cell[0] && cell[1] === state.cell[1]) return;
  state.cell = cell;
  drawGrid(record.steps[state.step]);
}

function moveCell(key) {
  const end = record.steps[state.step].end;
  const [query, column] = state.cell || [end - 1, end - 1];
  const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  const row = Math.max(0, Math.min(end - 1, query + by[0]));
  pick(state.cell ? [row, Math.max(0, Math.min(row, column + by[1]))] : [query, column]);
}

function fillChoices() {
  at("view").innerHTML = record.views.map((v, i) => `<option value="${i}">${safe(v.name)}</option>`).join("");
  const kinds = [["all", "everything, in fp32"], ["window", "a window"], ["sinks", "a window and sinks"], ["heavy", "heavy hitters (H2O)"]];
  const codecs = record.codecs.map((codec) => [codec.name, `everything, as ${codec.name}`]);
  at("keeping").innerHTML = [...kinds, ...codecs].map(([value, name]) => `<option value="${safe(value)}">${safe(name)}</option>`).join("");
  at("slider").max = numSteps - 1;
  at("window").max = at("budget").max = numTokens;
  at("sinks").max = Math.max(record.settings.sinks, Math.min(16, numTokens));
  for (const name of ["window", "budget"]) state[name] = Math.min(state[name], numTokens);
  const { model, settings } = record;
  const shape = model.kv_shapes[0];
  at("about").textContent = `${model.name}: ${model.num_layers} layers, ${model.num_heads} query and ${shape.num_kv_heads} key/value heads of ${shape.head_dim}, ${model.dtype}. ` +
    `${record.num_prompt} tokens were given and ${numSteps} drawn, ${settings.seed === null ? "the likeliest each time" : `with seed ${settings.seed}`}.`;
  at("made").textContent = `Made by kept ${record.versions.kept}, ${record.date.slice(0, 10)}, on ${model.kernels} kernels. Sizes of keys and values are those of ${model.dtype}. This page asks for nothing from the network.`;
}

function listen() {
  at("first").onclick = () => go(0);
  at("back").onclick = () => go(state.step - 1);
  at("next").onclick = () => go(state.step + 1);
  at("last").onclick = () => go(numSteps - 1);
  at("slider").oninput = () => go(Number(at("slider").value));
  at("view").onchange = () => { state.view = Number(at("view").value); draw(); };
  for (const name of ["computing", "keeping"]) at(name).onchange = () => { state[name] = at(name).value; draw(); };
  for (const name of ["window", "sinks", "budget"]) at(name).oninput = () => { state[name] = Number(at(name).value); draw(); };
  const toCell = (event) => {
    const box = at("grid").getBoundingClientRect();
    pick(cellAt(record, state, at("grid").clientWidth, event.clientX - box.left, event.clientY - box.top));
  };
  at("grid").addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") toCell(event); });
  at("grid").addEventListener("click", toCell);
  at("tokens").addEventListener("click", (event) => {
    const item = event.target.closest("[data-token]");
    const end = record.steps[state.step].end;
    if (item && Number(item.dataset.token) < end) pick([end - 1, Number(item.dataset.token)]);
  });
  for (const id of ["policies", "codecs"]) at(id).addEventListener("click", (event) => {
    const row = event.target.closest("[data-keep]");
    if (row) { state.keeping = state.keeping === row.dataset.keep ? "all" : row.dataset.keep; draw(); }
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const target = event.target;
    if (target === at("grid") && event.key.startsWith("Arrow")) { moveCell(event.key); event.preventDefault(); return; }
    if (target.tagName === "INPUT" || target.tagName === "SELECT") return;
    const to = { ArrowLeft: state.step - 1, ArrowRight: state.step + 1 }[event.key];
    if (to !== undefined) { go(to); event.preventDefault(); }
  });
  let waiting = 0;
  window.addEventListener("resize", () => { cancelAnimationFrame(waiting); waiting = requestAnimationFrame(draw); });
}

fillChoices();
listen();
draw();
