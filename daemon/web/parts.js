// What the page is built of: numbers with their units, colours, elements, and the skeleton of every
// panel, made anew only when the names of domains or nodes change. All text goes in as text, never
// as markup.

export const SIGNS = { normal: "●", shaving: "▼", emergency: "▲", brake: "■" };
export const SEVERITY_SIGNS = { info: "·", warning: "▼", critical: "▲" };
const HEAT = [ // °C and colour; between two of them, a mix
  [30, 28, 40, 52], [50, 36, 66, 84], [62, 46, 96, 100], [72, 120, 116, 60],
  [80, 184, 112, 44], [86, 214, 72, 46], [92, 255, 48, 48],
];

// The elements that are drawn into, by domain and by node.
export const views = { shape: "", domains: {}, cells: {}, leases: {} };

export const $ = (selector, root = document) => root.querySelector(selector);

export function make(tag, className = "", parent = null, text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function paint(element, className) {
  if (element.className !== className) element.className = className;
}

// Numbers and units.

export function watts(power_w) {
  if (power_w >= 1e6) return [(power_w / 1e6).toFixed(2), "MW"];
  if (power_w >= 1e3) return [(power_w / 1e3).toFixed(1), "kW"];
  return [power_w.toFixed(0), "W"];
}

export function inUnit(power_w, unit) {
  const scale = { W: 1, kW: 1e3, MW: 1e6 }[unit];
  return (power_w / scale).toFixed({ W: 0, kW: 1, MW: 2 }[unit]);
}

export function seconds(value_s) {
  if (value_s === null) return ["–", ""];
  if (value_s < 0.9995) return [(value_s * 1000).toFixed(0), "ms"];
  return [value_s.toFixed(value_s < 10 ? 2 : value_s < 100 ? 1 : 0), "s"];
}

export function count(value) {
  return Math.round(value).toLocaleString("en-US").replace(/,/g, "\u202f");
}

export function timeOfDay(wall_s) {
  return new Date(wall_s * 1000).toLocaleTimeString("en-GB");
}

export function heat(temperature_c) {
  let low = HEAT[0], high = HEAT[HEAT.length - 1];
  for (const stop of HEAT) {
    if (stop[0] <= temperature_c) low = stop;
    else { high = stop; break; }
  }
  const share = high[0] > low[0]
    ? Math.min(Math.max((temperature_c - low[0]) / (high[0] - low[0]), 0), 1) : 0;
  const mix = [1, 2, 3].map((band) => Math.round(low[band] + share * (high[band] - low[band])));
  return `rgb(${mix.join(",")})`;
}

// Building: once per set of names.

export function build(data) {
  const shape = JSON.stringify([
    data.domains.map((d) => [d.domain, d.kind]), data.nodes.map((n) => [n.node, n.rack]),
  ]);
  if (shape === views.shape) return;
  views.shape = shape;
  Object.assign(views, { domains: {}, cells: {}, leases: {} });
  const racks = [...new Set(data.nodes.map((n) => n.rack))];
  const rest = data.domains.filter((d) => !racks.includes(d.domain));
  const main = rest.find((d) => d.kind === "row") || rest[0] || data.domains[0];
  $("#hero").replaceChildren(); $("#cards").replaceChildren();
  if (main) buildHero(main, $("#hero"));
  for (const domain of rest) if (domain !== main) buildCard(domain, $("#cards"));
  const heatGrid = $("#heat .grid"), leaseGrid = $("#leases .grid");
  heatGrid.replaceChildren(); leaseGrid.replaceChildren();
  for (const rack of racks) {
    const nodes = data.nodes.filter((n) => n.rack === rack);
    const domain = data.domains.find((d) => d.domain === rack && d !== main);
    buildRack(rack, domain, nodes, heatGrid);
    buildLeases(rack, nodes, leaseGrid);
  }
}

function buildBar(parent) {
  const bar = make("div", "bar", parent);
  return Object.fromEntries(
    ["now", "over", "next", "target", "cap"].map((part) => [part, make("div", part, bar)]));
}

function buildChart(parent, labelled) {
  const chart = make("div", labelled ? "chart labelled" : "chart", parent);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  const lines = {};
  for (const part of ["a", "t", "c", "f", "p"]) {
    lines[part] = document.createElementNS("http://www.w3.org/2000/svg", "path");
    lines[part].setAttribute("class", part);
    svg.append(lines[part]);
  }
  chart.append(svg);
  const labels = labelled
    ? Object.fromEntries(["c", "t", "x"].map((part) => [part, make("span", `label ${part}`, chart)]))
    : null;
  if (labelled) make("i", "", make("span", "label k", chart, "— power"), "┄ forecast");
  return { box: chart, lines, labels };
}

function buildPower(parent) {
  const power = make("div", "power", parent);
  return { number: make("b", "", power), of: make("span", "", power) };
}

function buildName(domain, parent) {
  const top = make("div", "top", parent);
  const name = make("span", "name", top, domain.domain + " ");
  if (domain.kind !== domain.domain) make("span", "kind", name, domain.kind);
  return make("span", "chip", top);
}

function buildHero(domain, parent) {
  const chip = buildName(domain, parent);
  const chart = buildChart(parent, true);
  const middle = make("div", "middle", parent);
  const power = buildPower(middle);
  const facts = make("div", "facts", middle);
  const why = make("p", "why", middle);
  views.domains[domain.domain] = { chip, chart, power, facts, why, bar: buildBar(parent) };
}

function buildCard(domain, parent) {
  const card = make("article", "panel", parent);
  const chip = buildName(domain, card);
  const power = buildPower(card);
  const bar = buildBar(card);
  const facts = make("div", "facts", card);
  const chart = buildChart(card, false);
  const why = make("p", "why", card);
  views.domains[domain.domain] = { chip, chart, power, facts, why, bar };
}

function buildRack(rack, domain, nodes, parent) {
  const column = make("div", "rack", parent);
  const top = make("div", "top", column);
  make("span", "name", top, rack).title = rack;
  if (domain) {
    const sign = make("span", "sign", top);
    const power = buildPower(column);
    const bar = buildBar(column);
    const chart = buildChart(column, false);
    const word = make("span", "word", chart.box);
    views.domains[rack] = { sign, word, power, bar, column, chart };
  }
  for (const node of nodes) {
    const cell = make("div", "cell", column);
    make("small", "", cell, shortName(node.node, rack));
    const number = make("b", "", cell);
    const strip = make("div", "gpus", cell);
    const gpus = node.temperatures_c.map(() => make("i", "", strip));
    views.cells[node.node] = { cell, number, gpus };
  }
}

function buildLeases(rack, nodes, parent) {
  const column = make("div", "rack", parent);
  make("span", "name", column, rack).title = rack;
  for (const node of nodes) {
    const cell = make("div", "cell", column);
    views.leases[node.node] = {
      cell, number: make("b", "", cell), time: make("span", "", cell),
      left: make("i", "left-s", cell), flag: make("i", "flag", cell),
    };
  }
}

function shortName(name, rack) {
  return name.startsWith(rack + "-") ? name.slice(rack.length + 1) : name;
}

