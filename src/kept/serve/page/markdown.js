// Markdown to elements, a small part of it, with the marks of its characters.
//
// Nothing is parsed as markup, links go to http(s) and mailto alone, images are links. Every piece of
// text knows where it stands in the source, so that a mark covers the characters it is of.

import { h } from "./dom.js";

const INLINE = /(`+)([^`]|[^`].*?[^`])\1(?!`)|(\*\*|(?<![\w.])__)(?=\S)(.+?\S|\S)\3(?![\w.(])|(?<![\w*])([*_])(?=[^\s*_])(.+?[^\s*_]|[^\s*_])\5(?![\w*])|~~(?=\S)(.+?)~~|!?\[([^\]]*)\]\(([^\s()]*(?:\([^\s()]*\))?[^\s()]*)\)|(https?:\/\/[^\s<>"')\]]+)/;
const SAFE = /^(https?:|mailto:)/i;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+/;
const MOST_DEPTH = 8;

// Text from `at` on of the source, in pieces by the marks that cover it. marks: [begin, end, kind].
export function marked(text, at, marks) {
  const found = [];
  let done = 0;
  for (const [begin, end, kind] of marks) {
    const first = Math.max(begin - at, done), last = Math.min(end - at, text.length);
    if (first >= last) continue;
    if (first > done) found.push(text.slice(done, first));
    found.push(h("mark", { class: kind }, text.slice(first, last)));
    done = last;
  }
  if (done < text.length) found.push(text.slice(done));
  return found;
}

function inline(text, at, marks, depth = 0) {
  const found = [];
  while (text) {
    const match = depth < MOST_DEPTH ? INLINE.exec(text) : null;
    if (!match) return [...found, ...marked(text, at, marks)];
    found.push(...marked(text.slice(0, match.index), at, marks));
    const [all, ticks, code, , strong, , em, struck, label, url, bare] = match;
    const start = at + match.index;
    const within = (inner) => inline(inner, start + all.indexOf(inner), marks, depth + 1);
    if (ticks) found.push(h("code", {}, marked(code, start + ticks.length, marks)));
    else if (strong) found.push(h("strong", {}, within(strong)));
    else if (em) found.push(h("em", {}, within(em)));
    else if (struck) found.push(h("s", {}, within(struck)));
    else if (bare) found.push(link(bare, marked(bare, start, marks)));
    else found.push(SAFE.test(url) ? link(url, label ? within(label) : [url]) : h("span", {}, marked(all, start, marks)));
    text = text.slice(match.index + all.length);
    at = start + all.length;
  }
  return found;
}

const link = (href, children) => h("a", { href, rel: "noopener noreferrer nofollow", target: "_blank" }, children);

// The elements of a text.
export function render(source, marks = []) {
  let at = 0;
  const lines = source.split("\n").map((text) => {
    const line = { text, at };
    at += text.length + 1;
    return line;
  });
  return blocks(lines, marks, 0);
}

const cut = (line, n) => ({ text: line.text.slice(n), at: line.at + n });

function blocks(lines, marks, depth) {
  const found = [];
  let i = 0;
  while (i < lines.length) {
    const { text } = lines[i];
    const fence = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/.exec(text);
    const head = /^ {0,3}(#{1,6})\s+/.exec(text);
    if (!text.trim()) i += 1;
    else if (fence) {
      const begin = ++i;
      while (i < lines.length && !lines[i].text.trim().startsWith(fence[1])) i += 1;
      found.push(codeBlock(lines.slice(begin, i), fence[2], marks));
      i += 1;
    } else if (head) {
      // The page has headings of its own above these.
      const line = cut(lines[i++], head[0].length);
      found.push(h(`h${Math.min(6, head[1].length + 3)}`, {}, inline(line.text.replace(/\s+#+$/, ""), line.at, marks)));
    } else if (/^ {0,3}([-*_])(\s*\1){2,}\s*$/.test(text)) {
      found.push(h("hr"));
      i += 1;
    } else if (/^ {0,3}>/.test(text) && depth < MOST_DEPTH) {
      const begin = i;
      while (i < lines.length && /^ {0,3}>/.test(lines[i].text)) i += 1;
      const inner = lines.slice(begin, i).map((line) => cut(line, /^ {0,3}> ?/.exec(line.text)[0].length));
      found.push(h("blockquote", {}, blocks(inner, marks, depth + 1)));
    } else if (ITEM.test(text) && depth < MOST_DEPTH) {
      const [list, next] = listOf(lines, i, marks, depth);
      found.push(list);
      i = next;
    } else if (text.includes("|") && /^[\s|:-]*-[\s|:-]*$/.test(lines[i + 1]?.text ?? "") && lines[i + 1].text.includes("|")) {
      const begin = i;
      while (i < lines.length && lines[i].text.includes("|")) i += 1;
      found.push(tableOf(lines.slice(begin, i), marks));
    } else {
      const begin = i++;
      while (i < lines.length && lines[i].text.trim() && !/^ {0,3}(#{1,6}\s|>|`{3}|~{3})/.test(lines[i].text) && !ITEM.test(lines[i].text)) i += 1;
      found.push(h("p", {}, lines.slice(begin, i).flatMap((line, n) => [n ? h("br") : null, ...inline(line.text, line.at, marks)])));
    }
  }
  return found;
}

function codeBlock(lines, language, marks) {
  return h("pre", { tabIndex: 0, role: "region", "aria-label": language ? `Code, ${language}` : "Code" },
    h("code", {}, lines.flatMap((line, n) => [n ? "\n" : "", ...marked(line.text, line.at, marks)])));
}

function listOf(lines, i, marks, depth) {
  const first = ITEM.exec(lines[i].text), indent = first[1].length, items = [];
  const ordered = /\d/.test(first[2]);
  while (i < lines.length) {
    const item = ITEM.exec(lines[i].text);
    if (!item || item[1].length !== indent || /\d/.test(item[2]) !== ordered) break;
    const inner = [cut(lines[i++], item[0].length)];
    while (i < lines.length) {
      const { text } = lines[i];
      const space = /^\s*/.exec(text)[0].length;
      const goesOn = text.trim() ? space > indent : /^\s/.test(lines[i + 1]?.text ?? "") && ITEM.exec(lines[i + 1].text)?.[1].length !== indent;
      if (!goesOn) break;
      inner.push(cut(lines[i++], Math.min(space, item[0].length)));
    }
    items.push(h("li", {}, blocks(inner, marks, depth + 1)));
  }
  return [h(ordered ? "ol" : "ul", ordered ? { start: parseInt(first[2], 10) } : {}, items), i];
}

function tableOf(lines, marks) {
  const cells = (line) => {
    const found = [];
    let at = line.at;
    for (const part of line.text.split("|")) {
      found.push({ text: part.trim(), at: at + part.indexOf(part.trim()) });
      at += part.length + 1;
    }
    return found.filter((cell, n) => cell.text || (n && n < found.length - 1));
  };
  const [head, , ...rows] = lines;
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Table" }, h("table", {},
    h("thead", {}, h("tr", {}, cells(head).map((c) => h("th", { scope: "col" }, inline(c.text, c.at, marks))))),
    h("tbody", {}, rows.map((row) => h("tr", {}, cells(row).map((c) => h("td", {}, inline(c.text, c.at, marks))))))));
}
