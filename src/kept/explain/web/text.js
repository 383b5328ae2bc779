// Numbers and texts as people read them, and safe pieces of HTML.

const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const safe = (text) => String(text).replace(/[&<>"']/g, (c) => escapes[c]);
const whole = (n) => n.toLocaleString("en-US");
const percent = (share) => (100 * share).toFixed(share < 0.1 ? 2 : 1) + "%";

function count(n) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"]])
    if (n >= size) return (n / size).toFixed(1) + " " + unit;
  return whole(n);
}

function bytes(n) {
  let value = n;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024) return (unit === "B" ? n : value.toFixed(1)) + " " + unit;
    value /= 1024;
  }
  return value.toFixed(1) + " TiB";
}

// [0, 1, 5] -> "0-1, 5"
function ranges(tokens) {
  const found = [];
  for (const token of tokens) {
    const last = found[found.length - 1];
    if (last && last[1] === token - 1) last[1] = token;
    else found.push([token, token]);
  }
  return found.map(([a, b]) => (a === b ? `${a}` : `${a}-${b}`)).join(", ");
}

// rows: each a list of cells, the first a heading, each text or {html}; attributes: of each row.
function tableHtml(header, rows, attributes = []) {
  const cell = (c) => (typeof c === "object" ? c.html : safe(c));
  const head = header.map((h, i) => `<th scope="col"${i ? ' class="n"' : ""}>${safe(h)}</th>`).join("");
  const body = rows.map((row, i) =>
    `<tr ${attributes[i] || ""}><th scope="row">${cell(row[0])}</th>` +
    row.slice(1).map((c) => `<td${c.strip ? ' class="strip"' : ""}>${cell(c)}</td>`).join("") + "</tr>");
  return `<div class="scroll"><table><thead><tr>${head}</tr></thead><tbody>${body.join("")}</tbody></table></div>`;
}
