// Elements, built one by one: nothing here ever parses markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

// An element. given: its properties; `class`, `data-...`, `aria-...` and `role` as attributes.
export function h(name, given = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) found.addEventListener(key.slice(2), value);
    else if (/^(class|role|for|scope|data-|aria-)/.test(key)) found.setAttribute(key, value);
    else found[key] = value;
  }
  found.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return found;
}

export function svg(name, given = {}, ...children) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(given)) found.setAttribute(key, value);
  found.append(...children);
  return found;
}

// Replaces what an element holds, unless it is the same text.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A table without a column that says nothing. at: its number.
export function without(at, heads, rows) {
  const cut = (row) => row.filter((_, i) => i !== at);
  return [cut(heads), rows.map(cut)];
}

// A table of rows of cells, told by its caption to who cannot see it. Numbers stand right.
export function table(caption, heads, rows) {
  const cell = (value, i) =>
    h("td", { class: heads[i].startsWith("#") ? "number" : null }, value ?? "");
  return h(
    "table", {},
    h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, heads.map((head) =>
      h("th", { scope: "col", class: head.startsWith("#") ? "number" : null }, head.startsWith("!") ? h("span", { class: "unseen" }, head.slice(1)) : head.replace("#", ""))))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell)))),
  );
}
