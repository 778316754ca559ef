// The live page. It asks the controller for one document twice a second and has it drawn. It never
// shows an old document as a live one: the document says how old it is, this script keeps counting,
// and past the limit the whole page says so.

import { draw, SHOWN_S } from "./draw.js";
import { $, heat, make, paint, put, timeOfDay } from "./parts.js";

const POLL_MS = 500;
const FETCH_MS = 2000; // a server that hangs is as bad as none

const state = {
  data: null,      // the last document
  bornMs: 0,       // when its cycle ended, by this browser's clock
  history: {},     // domain -> {at_s, power_w, forecast_w, capacity_w}
  trouble: "",     // why the last request failed
  startedMs: performance.now(),
};

function remember(data) {
  for (const [name, more] of Object.entries(data.history)) {
    const past = state.history[name] ||= { at_s: [], power_w: [], forecast_w: [], capacity_w: [] };
    const known = past.at_s.length ? past.at_s[past.at_s.length - 1] : -Infinity;
    const first = more.at_s.findIndex((at_s) => at_s > known);
    if (first >= 0) for (const key in past) past[key].push(...more[key].slice(first));
    const old = past.at_s.findIndex((at_s) => at_s >= data.at_s - SHOWN_S);
    if (old > 0) for (const key in past) past[key].splice(0, old);
  }
}

async function poll() {
  const askedMs = performance.now();
  try {
    const data = await ask();
    remember(data);
    draw(data, state.history);
    state.data = data;
    state.bornMs = askedMs - 1000 * data.age_s; // at the earliest: a slow answer is an old one
    state.trouble = "";
  } catch (error) {
    state.trouble = error.message;
  }
  watch();
  setTimeout(poll, POLL_MS);
}

async function ask() {
  const since = state.data ? `?since_s=${state.data.at_s}` : "";
  const answer = await fetch(`api/v1/live${since}`, {
    cache: "no-store", signal: AbortSignal.timeout(FETCH_MS),
  }).catch(() => { throw new Error("the controller does not answer"); });
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error || `the controller answered ${answer.status}`);
  if (state.data && data.at_s < state.data.at_s) { // another controller, or another run
    state.data = null;
    state.history = {};
    return ask();
  }
  return data;
}

function watch() {
  const { data } = state;
  const age_s = (performance.now() - (data ? state.bornMs : state.startedMs)) / 1000;
  const ended = data !== null && data.run !== null && data.run.verdict !== null;
  const stale = !ended && (data === null || age_s > data.stale_after_s);
  document.body.classList.toggle("stale", stale);
  const alarm = $("#alarm"), live = $("#live");
  alarm.hidden = !stale || (data === null && age_s < 1);
  alarm.className = data === null && state.trouble.startsWith("no control cycle") ? "waiting" : "";
  if (data === null) {
    put($("strong", alarm), "WAITING FOR THE CONTROLLER");
    put($("span", alarm), state.trouble);
  } else {
    put($("strong", alarm), `NO DATA FROM THE CONTROLLER FOR ${age_s.toFixed(0)} s`);
    put($("span", alarm), `This picture is from ${timeOfDay(data.wall_s)} and is not live: `
      + (state.trouble || "its control cycle has stopped") + ". Without a controller, leases run out "
      + "and nodes go to their safe ceiling by themselves.");
  }
  put(live, ended ? "run ended" : stale ? "NOT LIVE" : `live · ${age_s.toFixed(1)} s`);
  paint(live, ended ? "chip ended" : stale ? "chip stale" : "chip");
  const title = data ? `${data.site}: ${data.mode} · Ampacity` : "Ampacity";
  document.title = stale ? `NOT LIVE · ${title}` : title;
}

const scale = $(".legend .scale");
for (const temperature_c of [40, 50, 60, 70, 80, 90]) {
  make("b", "", scale, `${temperature_c}`).style.backgroundColor = heat(temperature_c);
}
setInterval(watch, 250);
poll();
