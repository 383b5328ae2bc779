// Conversations, in this browser. Each is a tree of turns: to edit one is to begin a branch beside it.

const STORE = "kept conversations", MOST = 100;

const fresh = () => crypto.randomUUID?.() ?? `${Date.now()}-${Math.random().toString(36).slice(2)}`;

export class Conversation {
  constructor(found = {}) {
    this.id = found.id ?? fresh();
    this.title = found.title ?? "";
    this.changed = found.changed ?? Date.now();
    this.options = found.options ?? {};
    this.turns = found.turns ?? {}; // by id: {id, parent, role, content, marks, told}
    this.last = found.last ?? null; // the turn that is shown last
  }

  // The turns that are shown, in order.
  path(from = this.last) {
    const found = [];
    for (let id = from; id !== null; id = this.turns[id].parent) found.unshift(this.turns[id]);
    return found;
  }

  // Turns in the same place, the oldest first.
  beside(turn) {
    return Object.values(this.turns).filter((t) => t.parent === turn.parent && t.role === turn.role);
  }

  add(role, content, parent = this.last) {
    const turn = { id: fresh(), parent, role, content, marks: [], told: null };
    this.turns[turn.id] = turn;
    this.last = turn.id;
    this.changed = Date.now();
    if (!this.title && role === "user") this.title = content.trim().split("\n")[0].slice(0, 60);
    return turn;
  }

  // Shows another branch, to its newest end.
  turnTo(turn) {
    let at = turn;
    for (;;) {
      const next = Object.values(this.turns).filter((t) => t.parent === at.id).pop();
      if (!next) break;
      at = next;
    }
    this.last = at.id;
  }
}

export class History {
  constructor() {
    this.all = [];
    try {
      this.all = JSON.parse(localStorage.getItem(STORE) ?? "[]").map((found) => new Conversation(found));
    } catch {
      // what is stored there is none of this page's
    }
  }

  // Whether there was room to store them. Empty ones are not.
  save() {
    this.all.sort((a, b) => b.changed - a.changed);
    try {
      localStorage.setItem(STORE, JSON.stringify(this.all.filter((c) => c.last !== null).slice(0, MOST)));
      return true;
    } catch {
      return false;
    }
  }

  remove(conversation) {
    this.all = this.all.filter((each) => each !== conversation);
    this.save();
  }
}
