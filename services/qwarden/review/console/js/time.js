/** Clocks that run against the service's time, not against this machine's. */

import { drawn, h } from "./dom.js";
import { moment, since, t } from "./strings.js";

let ahead = 0;

/** Takes the service's clock from what it answered with, so that a wrong clock here shows nothing
 * wrong. `date`: an HTTP date, to the second. */
export function learn(date) {
  const at = Date.parse(date);
  if (Number.isNaN(at)) return;
  const seen = at / 1000 + 0.5 - Date.now() / 1000;
  if (Math.abs(seen - ahead) > 1) ahead = seen;
}

/** The service's time, seconds since 1970. */
export function now() {
  return Date.now() / 1000 + ahead;
}

/** A span of seconds as people say it, the two largest units of it. */
export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [whole / 86400, (whole / 3600) % 24, (whole / 60) % 60];
  if (days >= 1) return t("time.days", { d: Math.floor(days), h: Math.floor(hours) });
  if (hours >= 1) return t("time.hours", { h: Math.floor(hours), m: Math.floor(minutes) });
  return `${Math.floor(minutes)}:${String(whole % 60).padStart(2, "0")}`;
}

/** A moment, as a time element. */
export function when(at) {
  return h("time", { datetime: new Date(at * 1000).toISOString() }, moment(at));
}

const UNITS = [
  ["day", 86400],
  ["hour", 3600],
  ["minute", 60],
];

/** How long ago a moment was, as a time element that has the moment itself too. */
export function ago(at) {
  const past = Math.max(0, now() - at);
  const [unit, length] = UNITS.find(([, seconds]) => past >= seconds) ?? ["second", 1];
  return h(
    "time",
    { datetime: new Date(at * 1000).toISOString(), title: moment(at) },
    past < 10 ? t("time.now") : since(Math.floor(past / length), unit),
  );
}

const ROUND = 2 * Math.PI * 8;

/**
 * A clock that runs out at `until`, with a ring of what is left since `from`. It is calm, then
 * near when a quarter is left, then late; late ones count on.
 */
export function clock(from, until) {
  const element = h(
    "span",
    { class: "clock", role: "timer", "data-from": from, "data-until": until },
    drawn(
      "svg",
      { viewBox: "0 0 20 20", "aria-hidden": "true" },
      drawn("circle", { class: "track", cx: 10, cy: 10, r: 8 }),
      drawn("circle", { class: "left", cx: 10, cy: 10, r: 8, "stroke-dasharray": ROUND }),
    ),
    h("span", { class: "time" }),
  );
  show(element);
  return element;
}

/** Where in its time a clock is: `calm`, `near` or `late`. Pure. */
export function stateOf(from, until, at) {
  if (at >= until) return "late";
  return (until - at) / Math.max(1, until - from) <= 0.25 ? "near" : "calm";
}

function show(element) {
  const from = Number(element.dataset.from);
  const until = Number(element.dataset.until);
  const left = until - now();
  const share = Math.max(0, Math.min(1, left / Math.max(1, until - from)));
  element.dataset.state = stateOf(from, until, now());
  element.querySelector(".left").setAttribute("stroke-dashoffset", ROUND * (1 - share));
  element.querySelector(".time").textContent =
    left >= 0 ? span(left) : t("time.late", { span: span(-left) });
}

/** Runs all clocks of the page, and calls `beside` each second. */
export function run(beside) {
  setInterval(() => {
    for (const element of document.querySelectorAll(".clock")) show(element);
    beside();
  }, 1000);
}
