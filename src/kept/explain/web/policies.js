// Which tokens a cache that forgets keeps, and the attention mass that falls outside of them; the
// same rules as src/kept/explain/policies.py, for sliders to move. steps: [{start, end}].

function keptStep(row, kept) {
  let total = 0, held = 0;
  for (const weight of row) total += weight;
  for (const token of kept) held += row[token];
  return { kept, lost: Math.max(0, 1 - held / total) };
}

function inWindow(token, end, window, sinks) {
  return token > end - 1 - window || token < sinks;
}

function keepWindow(rows, steps, window, sinks) {
  return steps.map(({ end }) => {
    const kept = [];
    for (let token = 0; token < end; token++) if (inWindow(token, end, window, sinks)) kept.push(token);
    return keptStep(rows[end - 1], kept);
  });
}

function keepHeavyHitters(rows, steps, budget) {
  const scores = new Array(rows.length).fill(0);
  const found = [];
  let kept = [];
  for (const { start, end } of steps) {
    const recent = end - Math.max(1, Math.floor(budget / 2));
    while (start > 0 && kept.length > budget - 1) {
      let least = -1;
      for (const token of kept)
        if (token < recent && (least < 0 || scores[token] < scores[least])) least = token;
      kept = kept.filter((token) => token !== least);
    }
    for (let token = start; token < end; token++) kept.push(token);
    found.push(keptStep(rows[end - 1], kept.slice()));
    for (let query = start; query < end; query++) {
      const seen = kept.filter((token) => token <= query);
      let mass = 0;
      for (const token of seen) mass += rows[query][token];
      for (const token of seen) scores[token] += mass ? rows[query][token] / mass : 0;
    }
  }
  return found;
}
