// A feed of rows over server-sent events, as the Go package changefeed/web sends it.
//
//	import { follow } from "/changefeed.js";
//
//	const feed = follow("/players/changes", {
//	  key: (player) => player.ID,
//	  change(before, now, feed) {}, // of a row: null before an insert, and now after a delete
//	  state(state, feed) {},        // "connecting", "loading", "live" or "ended"
//	});
//	feed.rows;    // a Map from keys to the rows as they are now
//	feed.close();
//
// After a lost connection the feed goes on where it was. If the server cannot do that, it sends all
// rows again, and change is called for the rows that differ.

export function follow(url, options) {
  return new Feed(url, options);
}

class Feed {
  rows = new Map();
  state = "";

  #url;
  #options;
  #source;
  #timer;
  #id = ""; // of the last event, which browsers keep only for a connection
  #loading = null; // the rows since a reset, until all have come
  #pause = 1000; // in milliseconds, before the feed connects again by itself

  constructor(url, options) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#options = options;
    this.#connect();
  }

  // close ends the feed. The rows remain.
  close() {
    clearTimeout(this.#timer);
    this.#source.close();
    this.#become("ended");
  }

  #connect() {
    if (this.#id) this.#url.searchParams.set("after", this.#id);
    this.#become("connecting");
    this.#source = new EventSource(this.#url, { withCredentials: this.#options.withCredentials });
    const on = (name, f) =>
      this.#source.addEventListener(name, (event) => {
        this.#id = event.lastEventId || this.#id;
        f(event.data && JSON.parse(event.data));
      });
    on("open", () => {
      this.#pause = 1000;
      this.#become(this.#loading || !this.#id ? "loading" : "live");
    });
    on("reset", () => {
      this.#loading = new Map();
      this.#become("loading");
    });
    on("message", (change) => this.#change(change));
    on("ready", () => this.#ready());
    on("end", () => this.close());
    on("error", () => {
      if (this.state === "ended") return;
      this.#become("connecting");
      if (this.#source.readyState !== EventSource.CLOSED) return; // the browser connects again
      this.#timer = setTimeout(() => this.#connect(), this.#pause);
      this.#pause = Math.min(2 * this.#pause, 30_000);
    });
  }

  #change({ old_val: before = null, new_val: now = null }) {
    const rows = this.#loading ?? this.rows;
    const key = this.#options.key(now ?? before);
    before = rows.get(key) ?? null;
    if (now === null) rows.delete(key);
    else rows.set(key, now);
    if (!this.#loading) this.#options.change?.(before, now, this);
  }

  // ready takes the rows that were loaded, and reports how they differ from those before.
  #ready() {
    const before = this.rows;
    this.rows = this.#loading;
    this.#loading = null;
    for (const [key, row] of before) {
      if (!this.rows.has(key)) this.#options.change?.(row, null, this);
    }
    for (const [key, row] of this.rows) {
      const old = before.get(key) ?? null;
      if (JSON.stringify(old) !== JSON.stringify(row)) this.#options.change?.(old, row, this);
    }
    this.#become("live");
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.#options.state?.(state, this);
  }
}
