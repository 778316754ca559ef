// Puts one document into the panels. It changes only what differs, and knows nothing of time: whether
// the document is still live is for page.js to say.

import { $, build, count, heat, inUnit, make, paint, put, seconds, SEVERITY_SIGNS, SIGNS, timeOfDay,
  views, watts } from "./parts.js";

export const SHOWN_S = 180;
const SPAN_S_MIN = 60; // a young chart fills from the right instead of stretching

export function draw(data, history) {
  build(data);
  put($("#site"), data.site);
  drawMode($("#mode"), data.mode);
  put($("#sentence"), data.sentence);
  put($("#clock"), timeOfDay(data.wall_s));
  const badges = data.contingencies.map((name) => `contingency ${name}`);
  if (data.shadow) badges.push("shadow: nothing is actuated");
  drawList($("#badges"), badges, (text) => make("span", "chip", null, text));
  for (const domain of data.domains) drawDomain(domain, history[domain.domain]);
  for (const node of data.nodes) { drawCell(node); drawLease(node, data); }
  drawSum(data.nodes);
  drawTraffic(data.traffic);
  drawEvents(data.events);
  drawRun(data.run);
}

function drawMode(chip, mode) {
  put(chip, `${SIGNS[mode]} ${mode}`);
  paint(chip, `chip ${mode}`);
}

function drawList(parent, items, made) {
  const key = JSON.stringify(items);
  if (parent.dataset.key === key) return;
  parent.dataset.key = key;
  parent.replaceChildren(...items.map(made));
}

function drawDomain(domain, past) {
  const view = views.domains[domain.domain];
  const lost = domain.capacity_w <= 0;
  const share = lost ? "" : ` · ${(100 * domain.power_w / domain.capacity_w).toFixed(0)} %`;
  const [number, unit] = watts(Math.max(domain.power_w, 0));
  const scaled = domain.power_w > 0 ? unit : watts(domain.nominal_capacity_w)[1];
  if (view.sign) {
    put(view.power.number, inUnit(domain.power_w, scaled));
    put(view.power.of, lost ? "lost" : `/ ${inUnit(domain.capacity_w, scaled)} ${scaled}`);
    put(view.sign, SIGNS[domain.mode]);
    paint(view.sign, `sign ${domain.mode}`);
    put(view.word, domain.mode === "normal" ? "" : domain.mode);
    paint(view.word, `word ${domain.mode}`);
    view.column.title = `${domain.domain}: ${domain.mode}. ${domain.sentence}`;
  } else {
    put(view.power.number, domain.power_w > 0 ? number : "0");
    put(view.power.of, lost ? `${scaled} · no capacity: lost`
      : `of ${inUnit(domain.capacity_w, scaled)} ${scaled}${share}`);
    drawMode(view.chip, domain.mode);
    drawFacts(view.facts, domain, scaled, view.chart.labels !== null);
    put(view.why, domain.sentence);
    view.why.title = domain.sentence;
  }
  drawBar(view.bar, domain);
  drawChart(view.chart, domain, past, scaled);
}

function drawFacts(element, domain, unit, all) {
  const facts = [["f", `forecast ${inUnit(domain.forecast_w, unit)} ${unit}`]];
  if (all) facts.push(["", `exposure ${inUnit(domain.exposure_w, unit)} ${unit}`]);
  if (domain.temperature_c !== null) facts.push(["", `${domain.temperature_c.toFixed(1)} °C`]);
  if (domain.nodes_missing_count) {
    facts.push(["m", `${domain.nodes_missing_count} missing`]);
  }
  drawList(element, facts, ([kind, text]) => make("i", kind, null, text));
}

function drawBar(bar, domain) {
  const full = 1.12 * Math.max(domain.nominal_capacity_w, domain.capacity_w, domain.power_w,
    domain.forecast_w, 1);
  const at = (power_w) => `${(100 * Math.max(power_w, 0) / full).toFixed(2)}%`;
  bar.now.style.width = at(domain.power_w);
  const inside = Math.min(domain.power_w, domain.capacity_w);
  bar.over.style.left = at(inside);
  bar.over.style.width = at(domain.power_w - inside);
  bar.next.style.left = at(domain.power_w);
  bar.next.style.width = at(domain.forecast_w - domain.power_w);
  bar.target.style.left = at(domain.target_w);
  bar.cap.style.left = at(domain.capacity_w);
}

function drawChart(chart, domain, past, unit) {
  if (!past || past.at_s.length < 2) return;
  const last_s = past.at_s[past.at_s.length - 1];
  const span_s = Math.min(Math.max(last_s - past.at_s[0], SPAN_S_MIN), SHOWN_S);
  const all = [...past.power_w, ...past.forecast_w, ...past.capacity_w];
  const low = 0.94 * Math.min(...all), high = 1.04 * Math.max(...all, 1);
  const x = (at_s) => (1000 - 1000 * (last_s - at_s) / span_s).toFixed(1);
  const y = (power_w) => (1000 - 1000 * (power_w - low) / (high - low)).toFixed(1);
  const line = (values, step) => values.map((value, place) => {
    const here = x(past.at_s[place]);
    const corner = step && place ? `H${here}` : "";
    const start = step ? `M0 ${y(value)}H${here}` : `M${here} ${y(value)}`; // limits held before too
    return place ? `${corner}L${here} ${y(value)}` : start;
  }).join("");
  const power = line(past.power_w, false);
  const ratio = domain.capacity_w > 0 ? domain.target_w / domain.capacity_w : 1;
  chart.lines.p.setAttribute("d", power);
  chart.lines.a.setAttribute("d", `${power}V1000H${x(past.at_s[0])}Z`);
  chart.lines.f.setAttribute("d", line(past.forecast_w, false));
  chart.lines.c.setAttribute("d", line(past.capacity_w, true));
  chart.lines.t.setAttribute("d", line(past.capacity_w.map((value) => value * ratio), true));
  if (!chart.labels) return;
  chart.labels.c.style.top = `calc(${Number(y(domain.capacity_w)) / 10}% - 1.1em)`;
  chart.labels.t.style.top = `calc(${Number(y(domain.target_w)) / 10}% + 0.1em)`;
  put(chart.labels.t, `shaving above ${inUnit(domain.target_w, unit)} ${unit}`);
  put(chart.labels.c, `capacity ${inUnit(domain.capacity_w, unit)} ${unit}`);
  put(chart.labels.x, `last ${Math.round(span_s)} s`);
}

function drawCell(node) {
  const view = views.cells[node.node];
  const known = node.temperatures_c.filter((value) => value !== null);
  const hottest = known.length ? Math.max(...known) : null;
  put(view.number, node.missing ? "no data" : hottest === null ? "no temp." : hottest.toFixed(0));
  const blank = node.missing || hottest === null;
  paint(view.cell, blank ? "cell missing" : node.hot ? "cell hot" : "cell");
  view.cell.style.backgroundColor = blank ? "" : heat(hottest);
  node.temperatures_c.forEach((value, place) => {
    paint(view.gpus[place], value === null ? "none" : "");
    view.gpus[place].style.backgroundColor = value === null ? "" : heat(value);
  });
  const each = node.temperatures_c.map((value) => value === null ? "–" : value.toFixed(0));
  const age = node.age_s === null ? "never heard" : `heard ${node.age_s.toFixed(1)} s ago`;
  view.cell.title = `${node.node}, ${node.zone || "no zone"}, ${node.service || "no service"}, `
    + `${node.priority} priority, ${age}. GPUs °C: ${each.join(" ")}`
    + (node.margin_c_min === null ? "" : `. Least margin ${node.margin_c_min.toFixed(0)} °C`);
}

function leaseKind(node) {
  if (node.missing) return "missing";
  if (!node.controllable) return "missing readonly";
  if (node.state === "expired" || ["lease-expired", "no-lease"].includes(node.reason)) {
    return "expired";
  }
  if (node.reason.startsWith("contingency")) return "contingency";
  return node.reason === "lease" ? "" : "local";
}

function drawLease(node, data) {
  const view = views.leases[node.node];
  const kind = leaseKind(node);
  paint(view.cell, `cell ${kind}`);
  const inForce = node.ceiling_mhz === null ? node.granted_mhz : node.ceiling_mhz;
  const blank = kind.startsWith("missing");
  put(view.number, blank ? (kind === "missing" ? "?" : "no lock") : inForce === null ? "–" : `${inForce}`);
  const left_s = node.remaining_s === null ? 0 : node.remaining_s;
  const words = { expired: node.state === "none" ? "none" : "expired" };
  put(view.time, blank ? "" : words[kind] || `${left_s.toFixed(1)} s`);
  view.left.style.width = blank || kind === "expired" ? "0"
    : `${Math.min(100, 100 * left_s / data.lease_s).toFixed(0)}%`;
  put(view.flag, node.cause && !blank ? "!" : "");
  view.cell.title = `${node.node}: ${node.reason}, granted ${node.granted_mhz ?? "–"} MHz, asked of `
    + `the GPUs ${node.ceiling_mhz ?? "–"} MHz, ${left_s.toFixed(1)} s left`
    + (node.cause ? `, deviation: ${node.cause}` : "");
}

function drawSum(nodes) {
  const kinds = nodes.map(leaseKind);
  const many = (kind) => kinds.filter((each) => each === kind).length;
  const held = many("contingency"), expired = many("expired");
  const sum = [["", `${kinds.length - many("missing") - many("missing readonly") - expired} valid`]];
  if (held) sum.push(["", `${held} contingency`]);
  sum.push([expired ? "bad" : "", `${expired} expired`]);
  if (many("missing")) sum.push(["bad", `${many("missing")} unknown`]);
  if (many("missing readonly")) sum.push(["", `${many("missing readonly")} no lock`]);
  drawList($("#leases .sum"), sum, ([kind, text]) => make("span", kind, null, text));
}

function drawTraffic(traffic) {
  const panel = $("#traffic");
  $(".none", panel).hidden = traffic !== null;
  $("table", panel).hidden = $(".totals", panel).hidden = traffic === null;
  if (traffic === null) return;
  const sum = (key) => traffic.priorities.reduce((total, each) => total + each[key], 0);
  const totals = [["served", sum("served_count")], ["queued", sum("queued_count")],
    ["lost", sum("lost_count")]];
  drawList($(".totals", panel), totals, ([word, value]) => {
    const total = make("div", word === "lost" && value > 0 ? "bad" : "");
    make("b", "", total, count(value));
    make("span", "", total, word);
    return total;
  });
  drawList($("tbody", panel), traffic.priorities, (each) => {
    const row = document.createElement("tr");
    make("td", "", row, each.priority);
    const cells = [[each.rate_per_s.toFixed(1), "/s"], seconds(each.ttft_p50_s),
      seconds(each.ttft_p99_s), seconds(each.tpot_p50_s), seconds(each.tpot_p99_s)];
    for (const [value, unit] of cells) {
      const cell = make("td", "", row, `${value} `);
      make("small", "", cell, unit);
    }
    return row;
  });
}

function drawEvents(events) {
  drawList($("#events ol"), events, (event) => {
    const item = document.createElement("li");
    make("time", "", item, timeOfDay(event.at_s));
    make("span", event.severity, item, `${SEVERITY_SIGNS[event.severity]} ${event.severity}`);
    make("span", "", item, event.sentence || `${event.event} ${event.subject}`);
    return item;
  });
}

function drawRun(run) {
  const strip = $("#run");
  strip.hidden = run === null;
  if (run === null) return;
  const at = (time_s) => `${Math.min(100, 100 * time_s / Math.max(run.duration_s, 1)).toFixed(2)}%`;
  put($(".what", strip), `${run.simulated_s.toFixed(0)} s of ${run.duration_s.toFixed(0)} s simulated`
    + ` · ${run.speed.toFixed(1)} × real time · policy ${run.policy}`);
  $(".done", strip).style.width = at(run.simulated_s);
  const planned = run.failure && run.failure_at_s !== null;
  const mark = $(".mark", strip), failure = $(".failure", strip);
  mark.hidden = !planned;
  if (planned) mark.style.left = at(run.failure_at_s);
  const since_s = planned ? run.simulated_s - run.failure_at_s : -1;
  put(failure, !planned ? "no failure planned" : since_s < 0
    ? `${run.failure} in ${(-since_s).toFixed(0)} s` : `▲ ${run.failure} ${since_s.toFixed(0)} s ago`);
  paint(failure, since_s >= 0 ? "failure past" : "failure");
  put($(".verdict", strip), run.verdict || "");
  paint(strip, run.verdict === null ? "" : run.tripped ? "bad" : "good");
}

