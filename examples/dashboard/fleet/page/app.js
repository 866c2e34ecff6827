// The dashboard. A Region follows the devices of one region. Two other feeds have the totals of each
// region, and the ten hottest devices. The page draws what has changed, at most four times a second.

import { follow } from "./changefeed.js";

const page = crypto.getRandomValues(new Uint32Array(2)).join("-"); // names this page to POST /cut
const shownRows = 50;
const drawEvery = 250; // milliseconds
const sampleEvery = 500;
const samples = 120; // of the mean, in the width of its line
const leaveAfter = 10_000; // milliseconds for which the page is hidden

const element = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const time = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const whole = new Intl.NumberFormat("en-US");

const statuses = ["ok", "warm", "hot", "offline"];
let regions = [];
let region; // the Region that is shown
let totals; // the feed of the totals of each region: the number of devices, and their sums
let hottest; // the feed of the ten hottest devices
let onlyStatus = ""; // of the devices in the table

class Region {
  updates = 0; // while live
  connects = 0;
  resets = 0;
  resumed = 0; // the changes that came later, because they were made while the page was not connected
  means = []; // the newest samples

  #state = "";
  #lostAt = 0;
  #resumedAt = 0; // 0 if the rows were loaded since

  constructor({ id, name }) {
    this.id = id;
    this.name = name;
    this.feed = follow(`./regions/${id}/changes?page=${page}`, {
      key: (device) => device.id,
      change: (before, now, feed) => this.#change(before, now, feed),
      state: (state, feed) => this.#become(state, feed),
    });
  }

  #change(before, now, feed) {
    if (feed.state === "live" && now) {
      if (now.updated < this.#resumedAt) this.resumed++;
      else this.updates += now.polls - (before?.polls ?? 0);
    }
    drawSoon();
  }

  #become(state, feed) {
    const from = this.#state;
    this.#state = state;
    if (from === "connecting" && (state === "live" || state === "loading")) this.connects++;
    if (state === "loading") {
      this.resets++;
      this.#resumedAt = 0;
    } else if (state === "live" && from === "loading") {
      log(`Loaded ${whole.format(feed.rows.size)} devices`);
    } else if (state === "live") {
      this.#resumedAt = Date.now();
      const { resets, resumed } = this;
      const seconds = ((this.#resumedAt - this.#lostAt) / 1000).toFixed(1);
      setTimeout(() => {
        if (region === this && this.resets === resets) log(`Resumed after ${seconds} s with ${whole.format(this.resumed - resumed)} changes`);
      }, 500); // by then they have come
    } else if (state !== "ended" && (from === "live" || from === "loading")) {
      this.#lostAt = Date.now();
      log(state === "paused" ? "Paused, because nobody looked" : "The connection was lost");
    }
    drawSoon();
  }
}

// show follows a region, and nothing of the one before.
function show(id) {
  const before = region;
  element("log").replaceChildren();
  region = null; // while its feed connects
  before?.feed.close();
  region = new Region(regions.find((r) => r.id === id) ?? regions[0]);
  element("region").value = region.id;
  document.title = `${region.name} · Fleet`;
  drawSoon();
}

function followFleet() {
  totals = follow(`./regions/changes?page=${page}`, { key: (total) => total.group, change: drawSoon });
  hottest = follow(`./hottest/changes?page=${page}`, { key: (device) => device.id, change: drawSoon });
}

// totalOf returns the sums of a region. A region without devices has no row.
function totalOf(id) {
  const { count, reduction } = totals.rows.get(id) ?? { count: 0, reduction: { ok: 0, warm: 0, hot: 0, offline: 0, tenths: 0 } };
  return { ...reduction, mean: reduction.tenths / 10 / (count - reduction.offline) };
}

function log(text) {
  const item = document.createElement("li");
  item.append(Object.assign(document.createElement("time"), { textContent: time.format() }), text);
  const list = element("log");
  list.prepend(item);
  while (list.children.length > 5) list.lastChild.remove();
}

// Drawing.

let drawing = false;
let drawnAt = 0;

function drawSoon() {
  if (drawing) return;
  drawing = true;
  setTimeout(() => requestAnimationFrame(draw), Math.max(0, drawnAt + drawEvery - performance.now()));
}

function draw() {
  drawing = false;
  drawnAt = performance.now();
  if (!region) return;
  const { feed } = region;
  setText(element("state"), feed.state);
  element("state").dataset.state = feed.state;
  for (const name of ["connects", "resets", "resumed"]) setText(element(name), whole.format(region[name]));
  drawRegions();
  drawHottest();
  if (feed.state !== "live" && feed.rows.size === 0) return; // the last region stays until the rows have come
  setText(element("devices"), whole.format(feed.rows.size));
  drawRows();
}

function drawRegions() {
  if (totals.rows.size === 0) return;
  for (const { id } of regions) {
    const link = document.querySelector(`#regions [href="#${id}"]`);
    const { mean, hot } = totalOf(id);
    setText(link.querySelector("b"), degrees(mean) + "°");
    setText(link.querySelector("i"), whole.format(hot) + " hot");
    link.ariaCurrent = id === region.id;
  }
  const total = totalOf(region.id);
  setText(element("mean"), degrees(total.mean));
  for (const status of statuses) {
    setText(document.querySelector(`#statuses [data-status=${status}] b`), whole.format(total[status]));
    const part = document.querySelector(`#bar [data-status=${status}]`);
    part.style.flexGrow = total[status];
    part.hidden = total[status] === 0;
  }
}

function newLink({ id, name }) {
  const link = Object.assign(document.createElement("a"), { href: "#" + id, className: "card" });
  link.append(Object.assign(document.createElement("span"), { textContent: name }), document.createElement("b"), document.createElement("i"));
  return link;
}

function drawRows() {
  let devices = [...region.feed.rows.values()];
  if (onlyStatus) devices = devices.filter((device) => device.status === onlyStatus);
  const all = devices.length;
  devices = devices.sort((a, b) => b.temperature - a.temperature || a.id - b.id).slice(0, shownRows);
  element("rows").dataset.region = region.id;
  setText(element("place"), region.name);
  setText(element("shown"), `${devices.length} of ${whole.format(all)}${onlyStatus && " " + onlyStatus}, hottest first`);
  arrange(element("rows"), devices, newRow, (cells, device, set) => {
    set(cells[0], device.name);
    set(cells[1], device.status);
    set(cells[2], device.status === "offline" ? "–" : degrees(device.temperature) + "°");
    cells[3].firstChild.firstChild.setAttribute("points", points(device.recent, 60, 18, 4));
    set(cells[4], Math.round(100 * device.load) + "%");
    setText(cells[5], time.format(device.updated));
  });
}

function newRow() {
  const row = newCells("device", "status", "number temperature", "trend", "number load", "number updated");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 60 18");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(svg.namespaceURI, "polyline"));
  row.cells[3].append(svg);
  return row;
}

function drawHottest() {
  if (hottest.state !== "live" && hottest.rows.size === 0) return;
  const names = new Map(regions.map(({ id, name }) => [id, name]));
  const devices = [...hottest.rows.values()].sort((a, b) => b.temperature - a.temperature || b.id - a.id); // as the view has them
  arrange(element("hottest"), devices, () => newCells("rank", "device", "place", "temperature"), (cells, device, set) => {
    setText(cells[0], devices.indexOf(device) + 1);
    set(cells[1], device.name);
    set(cells[2], names.get(device.region));
    set(cells[3], degrees(device.temperature) + "°");
  });
}

function newCells(...classes) {
  const row = document.createElement("tr");
  for (const name of classes) row.insertCell().className = name;
  return row;
}

// arrange makes the rows of a table those of devices, in their order. A device keeps its row, and a
// cell that gets another text is highlighted.
function arrange(body, devices, makeRow, fill) {
  const before = new Map(Array.from(body.rows, (row) => [row.dataset.id, row]));
  let next = body.firstChild;
  for (const device of devices) {
    const id = String(device.id);
    const old = before.get(id);
    before.delete(id);
    const row = old ?? makeRow();
    row.dataset.id = id;
    row.dataset.status = device.status;
    fill(row.cells, device, old ? setAndHighlight : setText);
    if (row === next) next = row.nextSibling;
    else body.insertBefore(row, next);
  }
  for (const row of before.values()) row.remove();
}

function setText(target, text) {
  if (target.textContent === String(text)) return false;
  target.textContent = text;
  return true;
}

function setAndHighlight(cell, text) {
  if (!setText(cell, text) || still.matches) return;
  cell.animate([{ backgroundColor: "var(--flash)" }, { backgroundColor: "transparent" }], { duration: 1000, easing: "steps(6)" });
}

function degrees(temperature) {
  return Number.isFinite(temperature) ? temperature.toFixed(1) : "–";
}

// points returns the points of a line through values in a picture. A line that spans less than
// least degrees is flatter than the picture, so that noise does not look like change.
function points(values, width, height, least, last = values.length - 1) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const middle = (low + high) / 2;
  const scale = (height - 4) / Math.max(high - low, least);
  return values.map((v, i) => `${(width - ((values.length - 1 - i) * width) / last).toFixed(1)},${(height / 2 - (v - middle) * scale).toFixed(1)}`).join(" ");
}

// sample adds the present mean to the line of means, and shows how many updates came.
function sample() {
  if (region?.feed.state !== "live" || totals.rows.size === 0) return;
  const { means } = region;
  means.push(totalOf(region.id).mean);
  if (means.length > samples) means.shift();
  const line = points(means, 120, 40, 1, samples - 1);
  const [area, polyline] = element("means").children;
  polyline.setAttribute("points", line);
  const left = 120 - ((means.length - 1) * 120) / (samples - 1);
  area.setAttribute("points", `${left.toFixed(1)},40 ${line} 120,40`);
}

function countUpdates() {
  if (!region) return;
  setText(element("rate"), whole.format(region.updates));
  region.updates = 0;
}

// What the user does.

element("region").addEventListener("change", (event) => {
  location.hash = event.target.value;
});

addEventListener("hashchange", () => {
  if (location.hash.slice(1) !== region?.id) show(location.hash.slice(1));
});

element("cut").addEventListener("click", () => {
  fetch(`./cut?page=${page}`, { method: "POST" }).catch(() => log("The server does not answer"));
});

element("statuses").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  onlyStatus = onlyStatus === button.dataset.status ? "" : button.dataset.status;
  for (const b of element("statuses").children) b.ariaPressed = b.dataset.status === onlyStatus;
  drawSoon();
});

// A browser opens only a few connections to a server. A page that nobody sees gives back its own.
let leaving;
document.addEventListener("visibilitychange", () => {
  clearTimeout(leaving);
  if (document.hidden) {
    leaving = setTimeout(() => {
      for (const feed of [region?.feed, totals, hottest]) feed?.pause();
    }, leaveAfter);
  } else {
    for (const feed of [region?.feed, totals, hottest]) feed?.resume();
  }
});

const fleet = await (await fetch("./fleet")).json();
regions = fleet.regions;
element("fleet").textContent = `${whole.format(fleet.devices)} devices in ${regions.length} regions`;
element("region").append(...regions.map(({ id, name }) => new Option(name, id)));
element("regions").append(...regions.map(newLink));
followFleet();
show(location.hash.slice(1));
setInterval(sample, sampleEvery);
setInterval(countUpdates, 1000);
