// A feed of rows over server-sent events, as the Go package changefeed/web sends it.
//
//	import { follow } from "/changefeed.js";
//
//	const feed = follow("/players/changes", {
//	  key: (player) => player.ID,   // required: a string or a number
//	  change(before, now, feed) {}, // of a row: null before an insert, and now after a delete
//	  state(state, feed) {},        // "connecting", "loading", "live", "paused" or "ended"
//	  withCredentials: true,        // send cookies to another origin, too
//	});
//	feed.rows;     // a Map from keys to the rows as they are now; another one after each reset
//	feed.state;    // the last state
//	feed.error;    // why the server ended the feed, such as "the table was dropped", or ""
//	feed.pause();  // closes the connection, for example while the page is hidden
//	feed.resume(); // after a pause
//	feed.close();  // ends the feed for good; the rows remain
//
// After a lost connection, and after a pause, the feed goes on where it was. If the server cannot do
// that, it sends all rows again, and change is called for the rows that differ. The rows are in the
// order in which they came, so a page sorts them for display. The first call of state comes before
// follow has returned.
//
// While the server refuses the request, for example because nobody is logged in, the state is
// "connecting". A browser does not tell the status of the answer. The feed asks again after a second,
// and then after twice the time each time, up to 30 seconds.
//
// A feed always begins with all rows. JavaScript rounds integers beyond 2^53, so a server writes such
// keys as strings.

export function follow(url, options) {
  return new Feed(url, options);
}

class Feed {
  rows = new Map();
  state = "";
  error = "";

  #url;
  #options;
  #source;
  #timer;
  #id = ""; // of the last event, which browsers keep only for a connection
  #loading = null; // the rows since a reset, until all have come
  #delay = 1000; // in milliseconds, before the feed connects again by itself

  constructor(url, options) {
    if (typeof options?.key !== "function") throw new TypeError("follow: the option key must be a function");
    this.#url = new URL(url, globalThis.location?.href);
    this.#options = options;
    this.#connect();
  }

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
    on("end", ({ error }) => {
      this.error = error;
      this.close();
    });
    on("error", () => {
      this.#become("connecting");
      if (source !== this.#source || this.state !== "connecting") return; // the page has paused or closed the feed
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
    if (key === undefined) throw new Error("follow: the function key returned undefined for a row");
    before = rows.get(key) ?? null;
    if (now === null) rows.delete(key);
    else rows.set(key, now);
    if (!this.#loading) this.#report(before, now);
  }

  // ready takes the rows that were loaded, and reports how they differ from those before.
  #ready() {
    const before = this.rows;
    this.rows = this.#loading;
    this.#loading = null;
    for (const [key, row] of before) {
      if (!this.rows.has(key)) this.#report(row, null);
    }
    for (const [key, row] of this.rows) {
      const old = before.get(key) ?? null;
      if (JSON.stringify(old) !== JSON.stringify(row)) this.#report(old, row);
    }
    if (this.state === "loading") this.#become("live"); // change may have closed the feed
  }

  // report calls change. If it throws, the error is reported as others are, and the feed goes on.
  #report(before, now) {
    try {
      this.#options.change?.(before, now, this);
    } catch (error) {
      queueMicrotask(() => {
        throw error;
      });
    }
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.#options.state?.(state, this);
  }
}
