// The live page: takes samples as they are pushed, draws charts and tables.

const KEPT = 300; // samples: five minutes
const STATES = ["STREAMING", "CREATED", "PAUSED", "COMPLETED", "FAILED", "CANCELLED"];
const USES = ["upload", "fetch", "publish", "subscribe"];
const at = (id) => document.getElementById(id);
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);

let hello = { version: "", bounds: [], cancel: "" };
let before = null; // totals of the sample before
let positions = new Map(); // of the rows of the sample before, by id
let rowsById = new Map();
let open = null; // the row whose dialog is open
let feed = null;

// Numbers for people

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const bytes = (value) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (Math.abs(value) >= 1000 && power < units.length - 1) { value /= 1000; power += 1; }
  return `${value.toFixed(power && value < 100 ? 1 : 0)} ${units[power]}`;
};
const seconds = (value) => (value == null ? "–" : value < 1 ? `${+(value * 1000).toPrecision(3)} ms` : `${value} s`);
const span = (value) => {
  const days = Math.floor(value / 86400), rest = new Date((value % 86400) * 1000).toISOString().slice(11, 19);
  return days ? `${days} d ${rest}` : rest;
};

const clock = (value) => new Date(value * 1000).toLocaleTimeString("en-GB");

// Charts

function chart(id, series, show) {
  const place = at(id);
  const data = [[], ...series.map(() => [])];
  let plot = null;
  const draw = () => {
    plot?.destroy();
    const axis = { stroke: color("faint"), grid: { stroke: color("line"), width: 1 }, ticks: { show: false } };
    plot = new uPlot({
      width: Math.max(200, place.clientWidth), height: 170,
      cursor: { y: false },
      scales: { x: { range: (_, low, high) => [Math.max(low, high - KEPT), Math.max(high, low + 30)] }, y: { range: (_, low, high) => [0, Math.max(high || 0, 1e-9) * 1.1] } },
      axes: [{ ...axis, space: 70, size: 30, values: (_, ticks) => ticks.map(clock) }, { ...axis, size: 62, values: (_, ticks) => ticks.map(show) }],
      series: [{}, ...series.map(([label, tint]) => ({
        label, stroke: color(tint), width: 1.5, points: { show: false }, value: (_, v) => (v == null ? "–" : show(v)),
      }))],
    }, data, place);
  };
  new ResizeObserver(() => plot?.setSize({ width: Math.max(200, place.clientWidth), height: 170 })).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return (values) => {
    data[0].push(Date.now() / 1000);
    values.forEach((value, index) => data[index + 1].push(value));
    if (data[0].length > KEPT) data.forEach((line) => line.shift());
    if (!plot) draw();
    plot.setData(data);
    if (plot.cursor.idx == null) plot.setLegend({ idx: data[0].length - 1 });
  };
}

const charts = {
  bytes: chart("chart-bytes", [["received", "green"], ["sent", "blue"]], bytes),
  units: chart("chart-units", USES.map((use, index) => [use, ["green", "blue", "amber", "violet"][index]]), (v) => compact.format(v)),
  ack: chart("chart-ack", [["median", "green"], ["p99", "red"]], seconds),
  streams: chart("chart-streams", [["streaming", "green"], ["created", "blue"], ["paused", "amber"]], (v) => compact.format(v)),
};

/** The upper bound below which a part of the counts is; null if there are none. */
function quantile(counts, part) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  if (!all) return null;
  let seen = 0;
  const index = counts.findIndex((count) => (seen += count) >= part * all);
  return hello.bounds[Math.min(index, hello.bounds.length - 1)];
}

function drawCharts(totals) {
  const rate = (now, then) => (now - then) / (totals.at - before.at);
  const streams = (state) => totals.streams[state] ?? 0;
  charts.streams([streams("STREAMING"), streams("CREATED"), streams("PAUSED")]);
  if (!before || totals.at <= before.at) return [0, 0, null];
  const up = rate(totals.received, before.received), down = rate(totals.sent, before.sent);
  const counts = hello.bounds.concat(0).map((_, index) => Object.keys(totals.ack_latency).reduce(
    (sum, use) => sum + totals.ack_latency[use][index] - before.ack_latency[use][index], 0));
  charts.bytes([up, down]);
  charts.units(USES.map((use) => rate(totals.units[use], before.units[use])));
  charts.ack([quantile(counts, 0.5), quantile(counts, 0.99)]);
  return [up, down, quantile(counts, 0.99)];
}

// Tables. Everything that comes from clients is set as text, never as HTML.

function element(name, text, kind, more = {}) {
  const made = document.createElement(name);
  if (text != null) made.textContent = text;
  if (kind) made.className = kind;
  return Object.assign(made, more);
}

function cell(name, content, kind) {
  const made = element("td", null, kind);
  if (content != null) made.append(...[content].flat());
  if (name) made.dataset.name = name;
  return made;
}

function tiles(totals, [up, down, latency]) {
  const paused = totals.streams.PAUSED ?? 0, live = STATES.slice(0, 3).reduce((sum, s) => sum + (totals.streams[s] ?? 0), 0);
  at("tiles").replaceChildren(...[
    ["received/s", bytes(up)], ["sent/s", bytes(down)], ["ACK p99", seconds(latency)],
    ["connections", totals.connections], ["sessions", totals.sessions], ["live streams", live],
    ["paused", paused], ["runs", totals.runs], ["not moving", totals.stuck], ["refusals", totals.refusals],
  ].map(([name, value]) => {
    const tile = element("div", null, name === "not moving" && value ? "tile stuck" : "tile");
    tile.append(element("b", value), element("span", name));
    return tile;
  }));
}

function progress(row) {
  if (row.total == null) return [compact.format(row.position), row.consumers == null ? "" : element("small", `${row.consumers} consumer${row.consumers === 1 ? "" : "s"}`)];
  const bar = element("progress", null, null, { max: Math.max(1, row.total), value: row.total ? Math.min(row.position, row.total) : 1 });
  return [bar, ` ${row.total ? Math.floor(100 * Math.min(1, row.position / row.total)) : 100} %`];
}

function streamLine(row, elapsed) {
  const made = element("tr");
  const then = positions.get(row.id);
  const speed = then == null || !elapsed ? null : (row.position - then) / elapsed;
  const what = [element("button", row.name, "what"), element("small", row.resource === row.name ? row.id : row.resource)];
  const state = [element("span", row.state, `state ${row.state}`), element("small", row.reasons.join(", ").replaceAll("_", " "))];
  made.append(
    cell("", row.use), cell("", what), cell("", state), cell("", progress(row)),
    cell("per second", speed == null ? null : compact.format(speed), "number"),
    cell("window", row.window == null ? null : bytes(row.window), "number"),
    cell("", row.identity ? [row.identity, element("small", row.peer)] : null), cell("", row.error, "error"),
  );
  made.dataset.id = row.id;
  return made;
}

function endedLine(row) {
  const made = element("tr");
  made.dataset.id = row.id;
  made.append(
    cell("", clock(row.at)), cell("", row.use),
    cell("", [element("button", row.name, "what"), element("small", row.resource === row.name ? row.id : row.resource)]),
    cell("", element("span", row.outcome, `state ${row.outcome}`)), cell("unit", compact.format(row.position), "number"),
    cell("", row.identity), cell("", row.error, "error"),
  );
  return made;
}

function fill(id, lines, nothing) {
  const body = at(id).tBodies[0];
  // What a finger or pointer is on is not taken away below it.
  const focus = document.activeElement?.closest?.(`#${id} tr`)?.dataset.id;
  if (!lines.length) {
    const empty = element("tr", null, "empty");
    empty.append(Object.assign(cell("", nothing), { colSpan: 9 }));
    lines = [empty];
  }
  body.replaceChildren(...lines);
  if (focus) lines.find((line) => line.dataset.id === focus)?.querySelector("button")?.focus();
}

function show(update) {
  const { totals } = update, elapsed = before ? totals.at - before.at : 0;
  tiles(totals, drawCharts(totals));
  at("uptime").textContent = `up ${span(totals.uptime)}`;
  const ready = !totals.problems.length;
  at("link").textContent = ready ? "live" : "not ready";
  at("link").className = ready ? "on" : "unready";
  at("problems").hidden = ready;
  const told = totals.problems.join("\n");
  // An alert is read out when it changes.
  if (at("problems").innerText !== told) at("problems").replaceChildren(...totals.problems.map((each) => element("li", each)));
  const searched = at("words").value || at("use").value || at("show").value;
  fill("streams", update.rows.map((row) => streamLine(row, elapsed)), searched ? "nothing that matches" : "nothing");
  fill("ended", update.ended.map(endedLine), searched ? "nothing that matches" : "nothing yet");
  at("matching").textContent = update.matching > update.rows.length
    ? `${update.rows.length} of ${update.matching}` : `${update.matching}`;
  rowsById = new Map([...update.ended.map((row) => ({ ...row, state: row.outcome, reasons: [] })), ...update.rows].map((row) => [row.id, row]));
  positions = new Map(update.rows.map((row) => [row.id, row.position]));
  before = totals;
}

// The feed. A browser connects again by itself; another search is another feed.

function connect() {
  feed?.close();
  const wanted = new URLSearchParams({ words: at("words").value, use: at("use").value, show: at("show").value });
  feed = new EventSource(`feed?${wanted}`);
  feed.addEventListener("hello", (event) => {
    hello = JSON.parse(event.data);
    at("version").textContent = hello.version;
    before = null;
    positions.clear();
  });
  feed.addEventListener("sample", (event) => show(JSON.parse(event.data)));
  feed.onerror = () => {
    at("link").textContent = "no connection";
    at("link").className = "off";
    // Where the server said no, the browser does not try again.
    if (feed.readyState === EventSource.CLOSED) setTimeout(connect, 3000);
  };
}

let typing = 0;
at("filter").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(connect, 250); });
at("filter").addEventListener("submit", (event) => { event.preventDefault(); connect(); });

// One stream

const fact = (name, value) => {
  if (typeof value === "number" && value > 1e9 && /created|touched|decided|next_try/.test(name)) return new Date(value * 1000).toLocaleString();
  if (typeof value === "number" && /bytes|size/.test(name) && name !== "chunk_size") return bytes(value);
  return value == null ? "–" : String(value);
};

async function look() {
  const row = open;
  const answer = await fetch(`status?${new URLSearchParams({ target: row.resource })}`);
  const text = await answer.text();
  if (open !== row) return;
  const report = answer.ok ? JSON.parse(text) : { state: row.state, reasons: row.reasons, facts: { status: text } };
  const facts = { stream: row.id === row.resource ? "" : row.id, resource: row.resource, identity: row.identity, address: row.peer ?? "", ...report.facts };
  at("detail-state").textContent = [row.state, ...row.reasons].join(" · ").replaceAll("_", " ");
  at("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value !== "").flatMap(
    ([name, value]) => [element("dt", name.replaceAll("_", " ")), element("dd", fact(name, value))]));
  at("history").replaceChildren(...(report.history ?? []).map((entry) => {
    const [time, ...words] = entry.split(" "), made = element("li");
    made.append(element("time", new Date(time).toLocaleString(), null, { dateTime: time, title: time }), ` ${words.join(" ")}`);
    return made;
  }));
}

function choose(event) {
  const row = rowsById.get(event.target.closest("tr")?.dataset.id);
  if (!row) return;
  open = row;
  at("detail-name").textContent = row.name;
  at("detail-state").textContent = "";
  at("facts").replaceChildren();
  at("history").replaceChildren();
  at("cancelled").textContent = "";
  const ended = STATES.indexOf(row.state) > 2;
  at("cancel").hidden = ended || hello.cancel !== "";
  at("readonly").hidden = ended || hello.cancel === "";
  at("readonly").textContent = hello.cancel;
  at("work").parentElement.hidden = row.use !== "subscribe" || !row.resource.startsWith("runs/");
  at("work").checked = false;
  at("detail").showModal();
  look().catch((error) => { at("detail-state").textContent = String(error); });
}
at("streams").addEventListener("click", choose);
at("ended").addEventListener("click", choose);
at("detail").addEventListener("close", () => { open = null; });

// The token is in a header that no other site can make a browser send, and kept nowhere.
at("cancel").addEventListener("submit", async (event) => {
  event.preventDefault();
  const row = open;
  at("cancelled").textContent = "cancelling…";
  try {
    const answer = await fetch("cancel", {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${at("token").value}` },
      body: JSON.stringify({ id: row.id, work: at("work").checked }),
    });
    const told = await answer.text();
    at("cancelled").textContent = told;
    if (!answer.ok || open !== row) return;
    open = { ...row, state: told.split(" ")[0].toUpperCase(), reasons: [] };
    look();
  } catch (error) {
    at("cancelled").textContent = `the server could not be reached: ${error.message}`;
  }
});

connect();
