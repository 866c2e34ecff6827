// A feed of rows over server-sent events, as the Go package changefeed/web sends it.
//
//	import { follow } from "/changefeed.js";
//
//	const feed = follow("/players/changes", {
//	  key: (player) => player.ID,
//	  change(before, now, feed) {}, // of a row: null before an insert, and now after a delete
//	  state(state, feed) {},        // "connecting", "loading", "live", "paused" or "ended"
//	});
//	feed.rows;     // a Map from keys to the rows as they are now; another one after each reset
//	feed.pause();  // closes the connection, for example while the page is hidden
//	feed.resume();
//	feed.close();
//
// After a lost connection, and after a pause, the feed goes on where it was. If the server cannot do
// that, it sends all rows again, and change is called for the rows that differ. The first call of
// state comes before follow has returned.

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
  #delay = 1000; // in milliseconds, before the feed connects again by itself

  constructor(url, options) {
    this.#url = new URL(url, globalThis.location?.href);
    this.#options = options;
    this.#connect();
  }

  // close ends the feed. The rows remain.
  close() {
    this.#disconnect("ended");
  }

  pause() {
    if (this.state !== "ended") this.#disconnect("paused");
  }

  resume() {
    if (this.state === "paused") this.#connect();
  }

  #disconnect(state) {
    clearTimeout(this.#timer);
    this.#source.close();
    this.#become(state);
  }

  #connect() {
    if (this.#id) this.#url.searchParams.set("after", this.#id);
    const source = new EventSource(this.#url, { withCredentials: this.#options.withCredentials });
    const on = (name, f) =>
      source.addEventListener(name, (event) => {
        if (source !== this.#source || this.state === "paused" || this.state === "ended") return;
        this.#id = event.lastEventId || this.#id;
        f(event.data && JSON.parse(event.data));
      });
    on("open", () => (this.#delay = 1000));
    on("reset", () => {
      this.#loading = new Map();
      this.#become("loading");
    });
    on("resumed", () => this.#become("live"));
    on("position", () => {});
    on("message", (change) => this.#change(change));
    on("ready", () => this.#ready());
    on("end", () => this.close());
    on("error", () => {
      this.#become("connecting");
      if (source.readyState !== EventSource.CLOSED) return; // the browser connects again
      this.#timer = setTimeout(() => this.#connect(), this.#delay);
      this.#delay = Math.min(2 * this.#delay, 30_000);
    });
    this.#source = source;
    this.#become("connecting");
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
    if (this.state === "loading") this.#become("live"); // change may have closed the feed
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.#options.state?.(state, this);
  }
}
