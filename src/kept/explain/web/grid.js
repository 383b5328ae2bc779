// The attention grid: a triangle of cells, a row a query, a column a key.
//
//   with the cache   rows of earlier steps are grey; this step's have an outline, their cells are
//                    blue where the key came from the cache, orange and framed where it is new
//   without          every row and every key is computed anew

function cellKind(state, query, key, step) {
  if (state.computing === "without") return "new";
  if (query < step.start) return "past";
  return key < step.start ? "cached" : "new";
}

function gridSize(width, num) {
  const labelled = Math.floor((width - 92) / num);
  if (labelled >= 15) return { cell: Math.min(22, labelled), left: 90, top: 84, labels: true };
  return { cell: Math.max(2.2, (width - 26) / num), left: 24, top: 20, labels: false };
}

function gridHtml(record, state, width) {
  const num = record.views[0].rows.length, step = record.steps[state.step];
  const size = gridSize(width, num), { cell, left, top } = size;
  const rows = record.views[state.view].rows;
  const parts = [], gap = cell > 6 ? 1 : 0.3;
  const x = (key) => left + key * cell, y = (query) => top + query * cell;
  for (let query = 0; query < num; query++) {
    for (let key = 0; key <= query; key++) {
      const place = `x="${x(key)}" y="${y(query)}" width="${cell - gap}" height="${cell - gap}"`;
      if (query >= step.end || !state.sees(query, key)) parts.push(`<rect class="c empty" ${place}/>`);
      else if (!state.keeps(query, key)) parts.push(`<rect class="gone" ${place}/>`);
      else {
        const weight = state.weight(query, key, rows);
        const kind = cellKind(state, query, key, step);
        parts.push(`<rect class="c ${kind}" ${place} fill-opacity="${(0.05 + 0.95 * Math.sqrt(weight)).toFixed(3)}"/>`);
      }
    }
  }
  const begin = state.computing === "without" ? 0 : step.start;
  parts.push(`<path class="active" d="${outline(begin, step.end, x, y)}"/>`);
  parts.push(labels(record, step, size, num, x, y));
  if (state.cell) {
    const [query, key] = state.cell;
    parts.push(`<rect class="cross" x="${x(key) - 1}" y="${y(query) - 1}" width="${cell + 1}" height="${cell + 1}"/>`);
  }
  const wide = left + num * cell + 2, high = top + num * cell + 2;
  return `<svg width="${wide}" height="${high}" viewBox="0 0 ${wide} ${high}" aria-hidden="true">
    <defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
    <line class="hatch" x1="0" y1="0" x2="0" y2="5"/></pattern></defs>${parts.join("")}</svg>`;
}

// Around rows [begin, end) of the triangle.
function outline(begin, end, x, y) {
  let path = `M${x(0) - 1.5} ${y(begin) - 1.5}`;
  for (let query = begin; query < end; query++) path += `H${x(query + 1) + 0.5}V${y(query + 1) + 0.5}`;
  return path + `H${x(0) - 1.5}Z`;
}

function labels(record, step, { cell, left, top, labels: shown }, num, x, y) {
  const parts = [`<text x="${left}" y="10">keys \u2192</text>`];
  if (!shown) {
    const every = [5, 10, 20, 50].find((n) => n * cell >= 26);
    for (let i = 0; i < num; i += every) {
      parts.push(`<text x="${left - 4}" y="${y(i) + Math.min(cell, 10)}" text-anchor="end">${i}</text>`);
      if (i * cell > 45) parts.push(`<text x="${x(i)}" y="${top - 4}">${i}</text>`);
    }
    return parts.join("");
  }
  for (let i = 0; i < num; i++) {
    const on = i >= step.start && i < step.end ? ' class="on"' : "";
    const text = record.tokens[i].text;
    const name = safe(text.length > 9 ? text.slice(0, 8) + "\u2026" : text);
    parts.push(`<text${on} x="${left - 6}" y="${y(i) + cell / 2 + 4}" text-anchor="end">${name}</text>`);
    parts.push(`<text${on} transform="translate(${x(i) + cell / 2 + 4} ${top - 5}) rotate(-60)">${name}</text>`);
  }
  return parts.join("");
}

// The cell at a point of the grid's element, or null.
function cellAt(record, state, width, px, py) {
  const num = record.views[0].rows.length, { cell, left, top } = gridSize(width, num);
  const key = Math.floor((px - left) / cell), query = Math.floor((py - top) / cell);
  const inside = key >= 0 && query >= key && query < record.steps[state.step].end;
  return inside ? [query, key] : null;
}
