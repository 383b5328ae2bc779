// The live feed, joined to what is known: one object of all there is to see.

import { call, events } from "./api.js";

const STEPS = 600, ENDED = 100;

export class Feed {
  // changed: called with what is known after each event; said: with "live", "paused" or what is wrong.
  constructor(changed, said) {
    this.changed = changed;
    this.said = said;
    this.abort = null;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop("paused") : this.run()));
  }

  stop(why) {
    this.abort?.abort();
    this.abort = null;
    this.said(why);
  }

  async run() {
    if (this.abort || document.hidden) return;
    const abort = (this.abort = new AbortController());
    for (let wait = 500; this.abort === abort; wait = Math.min(2 * wait, 15000)) {
      try {
        const stream = await call("/kept/live", { signal: abort.signal });
        this.said("live");
        for await (const { event, data } of events(stream)) {
          wait = 500;
          this.join(event, data);
        }
        this.said("the server has ended the feed");
      } catch (error) {
        if (abort.signal.aborted) return;
        if (error.status === 401) return this.stop("a key is needed");
        this.said("no answer from the server");
      }
      await new Promise((done) => setTimeout(done, wait));
    }
  }

  join(event, { model, engine }) {
    if (event === "state") this.known = { model, steps: [], ended: [], maps: [] };
    const known = this.known;
    if (engine) {
      const { steps, ended, maps, ...rest } = engine;
      known.engine = rest;
      known.steps = [...known.steps, ...steps].slice(-STEPS);
      known.ended = [...known.ended, ...ended].slice(-ENDED);
      known.maps = maps.map((map, i) => ({ ...map, cells: joined(map, known.maps[i]?.cells) }));
    }
    this.changed(known);
  }
}

function joined({ num_seen, is_whole, changes }, before) {
  const cells = new Int32Array(num_seen);
  if (before && !is_whole) cells.set(before.subarray(0, num_seen));
  for (const [first, n, value] of changes) cells.fill(value, first, first + n);
  return cells;
}
