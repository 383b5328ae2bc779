// The tables and small charts beside the grid.

const SUMS = ["rows", "keys_read", "multiply_adds", "weight_bytes", "kv_bytes_computed", "kv_bytes_read"];

function sumCounts(counts) {
  const total = Object.fromEntries(SUMS.map((name) => [name, 0]));
  for (const each of counts) for (const name of SUMS) total[name] += each[name];
  return total;
}

function countsHtml(record, steps, layer) {
  const of = (name) => sumCounts(steps.map((s) => s[name]));
  const inLayer = (name) => sumCounts(steps.map((s) => s[name][layer]));
  const model = [of("model_with"), of("model_without")];
  const one = [inLayer("layers_with"), inLayer("layers_without")];
  const line = (name, pair, key, spell) => [name, ...pair.map((c) => spell(c[key]))];
  return tableHtml(["", "with", "without"], [
    line("queries, keys, values computed", one, "rows", whole),
    line("keys, values from the cache", one, "keys_read", whole),
    line(`multiply-adds, layer ${layer}`, one, "multiply_adds", count),
    line("multiply-adds, model", model, "multiply_adds", count),
    line(`key and value bytes computed, layer ${layer}`, one, "kv_bytes_computed", bytes),
    line("the same, model", model, "kv_bytes_computed", bytes),
    line(`bytes from the cache, layer ${layer}`, one, "kv_bytes_read", bytes),
    line("the same, model", model, "kv_bytes_read", bytes),
    line("weight bytes read, model", model, "weight_bytes", bytes),
  ]);
}

function workHtml(record, state, width) {
  const high = 110, low = 16, num = record.steps.length, each = Math.min(60, (width - 4) / num);
  const top = Math.max(...record.steps.map((s) => s.model_without.multiply_adds));
  const bar = (kind, i, n, offset, w) => {
    const h = Math.max(1, (n / top) * (high - low - 4));
    const dim = i > state.step ? " dim" : "";
    return `<rect class="bar-${kind}${dim}" x="${i * each + offset}" y="${high - low - h}" width="${w}" height="${h}"/>`;
  };
  const parts = record.steps.map((s, i) => {
    const w = Math.max(1, (each - 4) / 2);
    const on = i === state.step ? ' class="on"' : "";
    return bar("with", i, s.model_with.multiply_adds, 1, w) +
      bar("without", i, s.model_without.multiply_adds, 1 + w, w) +
      `<text${on} x="${i * each + each / 2}" y="${high - 3}" text-anchor="middle">${each > 14 || i % 5 === 0 ? i : ""}</text>`;
  });
  const end = record.steps[state.step];
  return `<svg width="${num * each + 4}" height="${high}" role="img" aria-label="Multiply-adds of each step with and without the cache">${parts.join("")}</svg>
    <ul class="legend"><li><i class="swatch" style="background:var(--cached)"></i>with the cache: ${count(end.model_with.multiply_adds)}</li>
    <li><i class="swatch" style="background:var(--new)"></i>without: ${count(end.model_without.multiply_adds)}</li></ul>`;
}

function stripHtml(kept, end, num) {
  const cell = Math.max(1, Math.min(9, 150 / num)), held = new Set(kept);
  let parts = "";
  for (let i = 0; i < end; i++) {
    const kind = held.has(i) ? 'class="c cached"' : 'class="gone"';
    parts += `<rect ${kind} x="${1 + i * cell}" y="1" width="${cell - 1}" height="12"/>`;
  }
  return `<svg width="${2 + num * cell}" height="14" role="img" aria-label="kept: ${ranges(kept)}">${parts}</svg>`;
}

// policies: [{key, name, steps}] as the sliders make them.
function policiesHtml(record, state, policies) {
  const num = record.views[0].rows.length, step = record.steps[state.step];
  const prompt = record.steps[0].model_with, perToken = prompt.kv_bytes_computed / prompt.rows;
  const rows = policies.map((policy) => {
    const now = policy.steps[state.step];
    const mean = policy.steps.reduce((sum, s) => sum + s.lost, 0) / policy.steps.length;
    return [
      { html: `${safe(policy.name)}<br>${stripHtml(now.kept, step.end, num)}<small>${ranges(now.kept)}</small>` },
      whole(now.kept.length), bytes(now.kept.length * perToken), percent(now.lost), percent(mean),
    ];
  });
  const marks = policies.map((p) => `data-keep="${p.key}"` + (p.key === state.keeping ? ' class="chosen"' : ""));
  return tableHtml(["kept at this step", "tokens", "bytes", "lost", "mean"], rows, marks);
}

function codecsHtml(record, state) {
  const layer = record.views[state.view].layer, last = record.steps[state.step].end - 1;
  const drawn = record.steps.length;
  const rows = record.codecs.map((codec) => {
    const view = codec.views[state.view];
    return [
      codec.name, whole(codec.bytes_per_token),
      percent(codec.key_errors[layer][last]), percent(codec.value_errors[layer][last]),
      percent(view.moved[state.step]), percent(view.output_errors[state.step]),
      `${codec.agreeing}/${drawn}`,
    ];
  });
  const marks = record.codecs.map((c) => `data-keep="${safe(c.name)}"` + (c.name === state.keeping ? ' class="chosen"' : ""));
  return tableHtml(["stored as", "bytes", "key", "value", "moved", "output", "same"], rows, marks);
}

// The new token's row over fp32 keys and over coded ones, side by side.
function rowHtml(record, state, codec, width) {
  const { end } = record.steps[state.step], high = 100;
  const exact = record.views[state.view].rows[end - 1];
  const coded = codec.views[state.view].rows[state.step];
  const top = Math.max(...exact, ...coded), each = Math.min(28, (width - 4) / end);
  let parts = "";
  for (let key = 0; key < end; key++) {
    const w = Math.max(0.6, (each - 2) / 2);
    [[exact, "with", 0], [coded, "without", w]].forEach(([row, kind, offset]) => {
      const h = (row[key] / top) * (high - 4);
      parts += `<rect class="bar-${kind}" x="${1 + key * each + offset}" y="${high - h}" width="${w}" height="${h}"/>`;
    });
  }
  return `<svg width="${end * each + 4}" height="${high + 1}" role="img" aria-label="Attention of the new token, fp32 beside ${safe(codec.name)}">${parts}</svg>
    <ul class="legend"><li><i class="swatch" style="background:var(--cached)"></i>fp32</li>
    <li><i class="swatch" style="background:var(--new)"></i>${safe(codec.name)}</li></ul>`;
}
