// The page of the inspector. It asks for what it shows once a second, and for nothing while nobody
// looks at it.

const interval = 1000; // milliseconds
const minute = 60; // seconds that a chart shows
const $ = (selector) => document.querySelector(selector);

// element makes an element with a class, and children that are elements or texts.
function element(name, className, ...children) {
  const e = document.createElement(name);
  if (className) e.className = className;
  e.append(...children);
  return e;
}

const count = (n) => n.toLocaleString("en");
const number = (n, className = "") => element("td", `n ${n ? className : "zero"}`, count(n));

class HTTPError extends Error {}

// get returns the JSON that the inspector has for some parameters.
async function get(parameters) {
  const response = await fetch("?" + new URLSearchParams({ format: "json", ...parameters }));
  if (!response.ok) throw new HTTPError((await response.text()).trim());
  return response.json();
}

function become(state) {
  $("#state").dataset.state = state;
  $("#state").textContent = { live: "live", lost: "connection lost", paused: "paused" }[state];
}

// keep makes the rows of a table those that are given. A cell that is equal to the one in its place
// stays, and with it the focus and what is selected.
function keep(tbody, rows, columns, text) {
  if (rows.length === 0) {
    const td = element("td", "none", text);
    td.colSpan = columns;
    rows = [element("tr", "", td)];
  }
  rows.forEach((row, i) => {
    const old = tbody.rows[i];
    if (!old) tbody.append(row);
    else if (old.cells.length !== row.cells.length || !old.cloneNode().isEqualNode(row.cloneNode())) old.replaceWith(row);
    else [...row.cells].forEach((cell, j) => old.cells[j].isEqualNode(cell) || old.cells[j].replaceWith(cell));
  });
  while (tbody.rows.length > rows.length) tbody.lastElementChild.remove();
}

// The overview.

const overview = {
  limit: 100,
  history: new Map(), // by table: { at, counts, rates, total }
  names: "",

  async update() {
    const filter = $("#feed-filter").elements.feeds.value;
    const o = await get(filter ? { feeds: filter, limit: this.limit } : { limit: this.limit });
    fillTables(o.tables);
    keep($("#tables tbody"), o.tables.map((t) => this.table(t, Date.parse(o.time))), 10, "There are no tables.");
    keep($("#feeds tbody"), o.feeds.list.map((f) => this.feed(f)), 9, "There are no feeds.");
    const shown = o.feeds.list.length;
    $("#feed-count").textContent =
      `${count(o.feeds.total)}` + (shown < o.feeds.total ? `, ${count(shown)} shown, full buffers and the furthest behind first` : "");
    $("#more-feeds").hidden = shown === o.feeds.matched;
  },

  table(t, at) {
    const counts = [t.inserts, t.updates, t.deletes];
    const h = this.history.get(t.name) ?? { at, counts, rates: [0, 0, 0], totals: [] };
    const seconds = (at - h.at) / 1000;
    if (seconds > 0) {
      h.rates = counts.map((n, i) => Math.max(0, Math.round((n - h.counts[i]) / seconds)));
      h.totals = [...h.totals, h.rates[0] + h.rates[1] + h.rates[2]].slice(-minute);
      h.at = at;
      h.counts = counts;
    }
    this.history.set(t.name, h);

    const link = element("a", "", t.name);
    link.href = "#rows?" + new URLSearchParams({ table: t.name });
    const name = element("td", "", link);
    if (t.dropped) name.append(" ", element("span", "bad", "dropped"));
    const seq = number(t.seq);
    seq.title = t.position;
    const indexes = element("td", "");
    for (const index of t.indexes) {
      const a = element("a", "", index);
      a.href = "#rows?" + new URLSearchParams({ table: t.name, by: index });
      indexes.append(a, " ");
    }
    const row = element("tr", "", name, number(t.rows), seq, ...h.rates.map((n) => number(n)),
      element("td", "", chart(h.totals)), number(t.retained), number(t.feeds), indexes);
    row.dataset.table = t.name;
    return row;
  },

  feed(f) {
    const position = element("td", "n mono quiet", f.position ? f.position.split(".")[1] : "");
    position.title = f.position ?? "";
    const row = element("tr", "",
      element("td", "", f.name || element("span", "quiet", `feed ${f.id}`)),
      element("td", "", f.table ?? ""),
      element("td", "mono clip", f.selection || element("span", "quiet", "all rows")),
      element("td", "quiet", f.options + (f.initial ? (f.options ? ", " : "") + "initial rows to come" : "")),
      element("td", "", fill(f.buffered, f.capacity)),
      number(f.lag), number(f.skipped, "bad"), number(f.delivered), position);
    row.dataset.feed = f.name;
    return row;
  },
};

// fill shows how full a buffer is.
function fill(buffered, capacity) {
  if (!capacity) return element("span", "quiet", `${count(buffered)} rows`);
  const bar = element("b", "");
  bar.style.setProperty("width", `${Math.min(100, (100 * buffered) / capacity)}%`);
  const box = element("div", "fill", element("i", "", bar), element("span", buffered ? "" : "zero", `${count(buffered)} / ${count(capacity)}`));
  box.classList.toggle("full", buffered === capacity);
  return box;
}

// chart draws numbers, the newest of which is on the right.
function chart(totals) {
  const svgns = "http://www.w3.org/2000/svg";
  const [width, height] = [180, 26];
  const svg = document.createElementNS(svgns, "svg");
  svg.setAttribute("class", "chart");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const most = Math.max(1, ...totals);
  const title = document.createElementNS(svgns, "title");
  title.textContent = `at most ${count(Math.max(0, ...totals))} writes a second`;
  const x = (i) => width - ((totals.length - 1 - i) * width) / (minute - 1);
  const line = totals.map((n, i) => `${x(i).toFixed(1)},${(height - 1 - (n / most) * (height - 3)).toFixed(1)}`);
  const path = document.createElementNS(svgns, "path");
  if (line.length > 1) path.setAttribute("d", `M${x(0).toFixed(1)},${height} L${line.join(" L")} L${width},${height}`);
  svg.append(title, path);
  return svg;
}

// fillTables makes the choices of the other parts those of the program's tables.
function fillTables(tables) {
  const names = JSON.stringify(tables.map((t) => [t.name, t.indexes]));
  if (names === overview.names) return;
  overview.names = names;
  options($("#row-query").elements.table, tables.map((t) => [t.name, t.name]));
  options($("#tail-query").elements.table, [["", "all tables"], ...tables.map((t) => [t.name, t.name])]);
  rows.indexes = new Map(tables.map((t) => [t.name, t.indexes]));
}

function options(select, choices) {
  const chosen = select.value;
  select.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  if (choices.some(([value]) => value === chosen)) select.value = chosen;
}

// The rows.

const rows = {
  indexes: new Map(),
  cursors: [""], // of the pages up to the one that is shown
  next: "",
  shown: new Map(), // by the key's JSON: the texts of the cells
  parameters: "",

  // read takes the choices from the address of the page.
  read(parameters) {
    const form = $("#row-query").elements;
    const table = parameters.get("table") ?? form.table.value;
    if (table) form.table.value = table;
    options(form.by, [["", "the primary key"], ...(this.indexes.get(form.table.value) ?? []).map((i) => [i, i])]);
    form.by.value = parameters.get("by") ?? "";
    for (const name of ["equal", "from", "to"]) form[name].value = parameters.get(name) ?? "";
    this.cursors = [""];
    this.shown = new Map();
  },

  query() {
    const q = {};
    for (const [name, value] of new FormData($("#row-query"))) if (value) q[name] = value;
    return q;
  },

  async update() {
    const q = this.query();
    if (!q.table) return;
    const after = this.cursors.at(-1);
    let page;
    try {
      page = await get(after ? { view: "rows", ...q, after } : { view: "rows", ...q });
    } catch (error) {
      if (!(error instanceof HTTPError)) throw error;
      $("#row-error").textContent = error.message;
      $("#row-error").hidden = false;
      return;
    }
    $("#row-error").hidden = true;
    this.next = page.next ?? "";
    this.show(page);
  },

  show(page) {
    const columns = [];
    for (const { row } of page.rows) for (const name of Object.keys(fields(row))) if (!columns.includes(name)) columns.push(name);
    const names = [...(page.by ? [page.by, "key"] : ["key"]), ...columns];
    $("#row-table thead").replaceChildren(element("tr", "", ...names.map((name) => element("th", "", name))));
    const shown = new Map();
    const list = page.rows.map(({ value, key, row }) => {
      const id = JSON.stringify([value, key]);
      const cells = [...(page.by ? [value, key] : [key]).map(text), ...columns.map((name) => text(fields(row)[name]))];
      const before = this.shown.get(id);
      shown.set(id, cells);
      const tr = element("tr", "");
      cells.forEach((cell, i) => {
        const td = element("td", "mono clip", cell);
        td.title = cell;
        if (before && before[i] !== cell) td.classList.add("flash");
        tr.append(td);
      });
      return tr;
    });
    this.shown = shown;
    keep($("#row-table tbody"), list, names.length, "There are no such rows.");
    const n = this.cursors.length;
    $("#row-count").textContent = `page ${n}, ${count(list.length)} rows`;
    $("#first-rows").disabled = $("#previous-rows").disabled = n === 1;
    $("#next-rows").disabled = !this.next;
  },

  turn(cursors) {
    $("#next-rows").disabled = true; // until it is known what comes next
    this.cursors = cursors;
    this.shown = new Map();
    refresh();
  },
};

// fields returns the fields of a row. A row that is not an object has one.
const fields = (row) => (row !== null && typeof row === "object" && !Array.isArray(row) ? row : { row });
const text = (v) => (v === undefined ? "" : typeof v === "string" ? v : JSON.stringify(v));

// The changes.

const tail = {
  most: 100, // commits that are shown
  source: null,
  timer: undefined,
  paused: false,
  seen: 0,
  missed: 0,

  start() {
    if (this.source) return;
    const table = $("#tail-query").elements.table.value;
    this.source = new EventSource("?" + new URLSearchParams(table ? { view: "tail", table } : { view: "tail" }));
    this.source.addEventListener("open", () => become("live"));
    this.source.addEventListener("error", (event) => {
      become("lost");
      if (event.target.readyState !== EventSource.CLOSED) return; // the browser connects again
      this.stop();
      this.timer = setTimeout(() => this.start(), 2 * interval);
    });
    this.source.addEventListener("message", (event) => this.add(JSON.parse(event.data)));
    this.source.addEventListener("skipped", (event) => {
      const { count: n, reset } = JSON.parse(event.data);
      this.missed += n;
      this.put(element("li", "skipped", reset ? "A table was reset." : `${count(n)} changes are not shown, because there were too many.`));
    });
    this.source.addEventListener("dropped", (event) => {
      for (const name of JSON.parse(event.data).tables) this.put(element("li", "skipped", `The table ${name} was dropped.`));
    });
    this.source.addEventListener("end", () => this.stop());
  },

  stop() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  },

  clear() {
    this.seen = this.missed = 0;
    $("#tail").replaceChildren();
    $("#tail-count").textContent = "";
  },

  add(commit) {
    this.seen += commit.length;
    const few = commit.slice(0, 20);
    const li = element("li", "", ...few.map((c) => this.change(c)));
    if (few.length < commit.length) li.append(element("p", "skipped", `and ${count(commit.length - few.length)} more changes of this transaction`));
    this.put(li);
  },

  put(li) {
    const list = $("#tail");
    list.prepend(li);
    while (list.children.length > this.most) list.lastElementChild.remove();
    $("#tail-count").textContent = `${count(this.seen)} changes` + (this.missed ? `, and ${count(this.missed)} that were skipped` : "");
  },

  change(c) {
    const title = element("h3", "", element("span", "kind", c.kind), element("span", "", c.table), element("span", "seq", `seq ${count(c.seq)}`));
    const div = element("div", "change", title, element("div", "sides", this.side("old", c.old, c.new), this.side("new", c.new, c.old)));
    div.dataset.kind = c.kind;
    return div;
  },

  // side shows a row, and marks the fields that are not those of the other one.
  side(name, row, other) {
    if (row === undefined) return element("div", name, element("p", "empty", name === "old" ? "no row before" : "no row any more"));
    const list = element("dl", "");
    const others = other === undefined ? {} : fields(other);
    for (const [field, value] of Object.entries(fields(row))) {
      const differs = text(value) !== text(others[field]) ? "differs" : "";
      list.append(element("dt", differs, field), element("dd", differs, text(value)));
    }
    return element("div", name, list);
  },
};

// The page.

let timer;
let running = false;
let again = false; // it was called while it ran

// refresh shows what is new in the part of the page that is shown, and again after a second.
async function refresh() {
  clearTimeout(timer);
  if (document.hidden) return;
  again = running;
  if (running) return;
  running = true;
  const part = shownPart();
  try {
    if (part === "overview") await overview.update();
    if (part === "rows") await rows.update();
    if (part !== "changes") become("live");
  } catch {
    become("lost");
  }
  running = false;
  if (again) refresh();
  else timer = setTimeout(refresh, interval);
}

const shownPart = () => (location.hash.slice(1).split("?")[0] || "overview");

function show() {
  const part = shownPart();
  const parameters = new URLSearchParams(location.hash.split("?")[1] ?? "");
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== part;
  for (const a of document.querySelectorAll("nav a")) {
    if (a.dataset.part === part) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  if (part === "rows") rows.read(parameters);
  if (part === "changes") {
    $("#tail-query").elements.table.value = parameters.get("table") ?? "";
    if (!tail.paused) tail.start();
  } else tail.stop();
  refresh();
}

$("#feed-filter").addEventListener("submit", (event) => event.preventDefault());
$("#feed-filter").addEventListener("input", refresh);
$("#more-feeds").addEventListener("click", () => {
  overview.limit *= 10;
  refresh();
});
$("#row-query").addEventListener("submit", (event) => {
  event.preventDefault();
  const hash = "#rows?" + new URLSearchParams(rows.query());
  if (location.hash === hash) show();
  else location.hash = hash;
});
$("#row-query").addEventListener("change", (event) => {
  if (event.target.name === "table") location.hash = "#rows?" + new URLSearchParams({ table: event.target.value });
  if (event.target.name === "by") location.hash = "#rows?" + new URLSearchParams({ table: rows.query().table, by: event.target.value });
});
$("#first-rows").addEventListener("click", () => rows.turn([""]));
$("#previous-rows").addEventListener("click", () => rows.turn(rows.cursors.slice(0, -1)));
$("#next-rows").addEventListener("click", () => rows.turn([...rows.cursors, rows.next]));
$("#tail-query").addEventListener("submit", (event) => event.preventDefault());
$("#tail-query").elements.table.addEventListener("change", (event) => {
  tail.stop();
  tail.clear();
  location.hash = "#changes?" + new URLSearchParams({ table: event.target.value });
});
$("#pause").addEventListener("click", () => {
  tail.paused = !tail.paused;
  $("#pause").setAttribute("aria-pressed", tail.paused);
  if (tail.paused) {
    tail.stop();
    become("paused");
  } else tail.start();
});
$("#clear").addEventListener("click", () => tail.clear());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) tail.stop();
  else if (shownPart() === "changes" && !tail.paused) tail.start();
  refresh();
});
addEventListener("hashchange", show);

// The first overview tells the tables.
try {
  fillTables((await get({ limit: 1 })).tables);
} catch {
  become("lost");
}
show();
